"""Each benchmark runs in its smallest form, prints its tables and leaves the results alone."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="networks and simulators on tensors need torch")
pytest.importorskip("gymnasium", reason="the simulators are compared with Gymnasium's")
pytest.importorskip("cirbo", reason="exact synthesis is compared with cirbo's")
pytest.importorskip("dd", reason="decision diagrams are compared with dd's")
pytest.importorskip("sympy", reason="transforms and normal forms are compared with SymPy's")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "RESULTS.md"

pytestmark = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="benchmarks are not part of a source archive"
)

SECTIONS = {
    "ensemble": ["ensemble-cpu", "ensemble-cuda"],
    "synthesis": ["synthesis"],
    "throughput": ["throughput-cpu", "throughput-cuda"],
    "transforms": ["transforms-cpu", "transforms-cuda"],
}


def printed(name, monkeypatch, capsys):
    """Run a benchmark in this process, where libraries are loaded once, and give its lines."""
    monkeypatch.setattr(sys, "argv", [f"bench_{name}.py", "--quick"])
    before = RESULTS.read_bytes()
    runpy.run_path(str(BENCHMARKS / f"bench_{name}.py"), run_name="__main__")
    assert RESULTS.read_bytes() == before
    return capsys.readouterr().out.splitlines()


def rows(lines, start):
    """Cells of the table row that begins with a text."""
    found = [line for line in lines if line.startswith(f"| {start} |")]
    assert found, start
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def check_preamble(lines, name):
    assert lines[0].startswith("Hardware: ")
    assert "numpy" in lines[1]
    assert f"bench_{name}.py --quick`" in lines[2]
    assert any("Losses" in line for line in lines)


def test_every_benchmark_is_tested_and_has_its_sections():
    names = {path.stem.removeprefix("bench_") for path in BENCHMARKS.glob("bench_*.py")}
    assert names == set(SECTIONS)
    page = RESULTS.read_text(encoding="utf-8")
    for section in (section for sections in SECTIONS.values() for section in sections):
        assert page.count(f"<!-- {section}:begin -->") == 1
        assert page.count(f"<!-- {section}:end -->") == 1


def test_networks_trained_together_have_the_errors_of_the_loop(monkeypatch, capsys):
    lines = printed("ensemble", monkeypatch, capsys)
    check_preamble(lines, "ensemble")
    ways = (
        "loop of nn.Sequential, torch.optim.Adam",
        "torch.func.vmap over seeds, torch.optim.Adam",
        "MLPEnsemble, one for each width",
        "MLPEnsemble, one for all",
        "measure, errors included",
    )
    errors = [float(rows(lines, way)[0][3]) for way in ways]
    assert max(errors) - min(errors) <= 1e-3 * min(errors)
    assert all(float(rows(lines, way)[0][1]) >= 0 for way in ways)


def test_cirbo_finds_the_same_sizes(monkeypatch, capsys):
    lines = printed("synthesis", monkeypatch, capsys)
    check_preamble(lines, "synthesis")
    # Of the functions 0, 64, 128 and 192 of 3 inputs, the last depends on two; one is constant.
    for program in ("modicum, min_circuit", "cirbo", "cirbo, normal gates only"):
        three, four = rows(lines, program)
        assert three[1:4] == ["3", "3", "3"]
        assert four[1:4] == ["1", "1", "1"]
    assert sum("1 of 1, 2 of 2" in line for line in lines) == 1
    assert sum("fewest gates: 1 of 3." in line for line in lines) == 1


def test_simulators_are_compared_with_the_one_written_by_hand(monkeypatch, capsys):
    lines = printed("throughput", monkeypatch, capsys)
    check_preamble(lines, "throughput")
    assert rows(lines, "SyncVectorEnv, written by hand")[0][3] == "1.0"
    assert [row[1] for row in rows(lines, "BitMDPVectorEnv")] == ["64", "4,096"]
    assert all(float(row[2]) > 0 for row in rows(lines, "TorchVecMDP"))


def test_other_libraries_agree_on_transforms_forms_and_diagrams(monkeypatch, capsys):
    lines = printed("transforms", monkeypatch, capsys)
    check_preamble(lines, "transforms")
    assert "pyeda==0.29.0 (not asked for)" in "".join(lines)
    assert rows(lines, "walsh_hadamard, NumPy")[0][2] == "1.0"
    assert len(rows(lines, "sympy.fwht")) == 1
    # The minima of Q* >= 1 and its bits, n = 4: 22, 19, 14 and 8 terms.
    assert rows(lines, "Q*, n = 4")[0][1:4] == ["minimum_dnf", "15.75", "4 of 4"]
    diagrams = rows(lines, "hidden weighted bit, m = 6")
    assert {row[2] for row in diagrams if row[1].endswith("natural order")} == {"19"}
    assert {row[2] for row in diagrams if row[1] == "obdd, best"} == {"18"}


def test_transforms_made_on_a_device_are_transforms():
    module = runpy.run_path(str(BENCHMARKS / "bench_transforms.py"))
    (call,) = module["device_transforms"](6, {}, "cpu").values()
    sums = call()
    # Parseval: N signs have the squares N², of which none is lost.
    assert int((sums.long() ** 2).sum()) == 64 * 64
    np.testing.assert_array_equal(module["by_hand"](module["by_hand"](sums.numpy())), 64 * sums)


def test_an_installation_that_fails_is_a_reason(monkeypatch, tmp_path):
    module = runpy.run_path(str(BENCHMARKS / "bench_transforms.py"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module["installed"]("pyeda==0.29.0", str(tmp_path)) == "uv is not installed"
