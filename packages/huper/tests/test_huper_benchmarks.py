"""Each benchmark runs in its smallest form, prints its tables and leaves the results alone."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "RESULTS.md"

pytestmark = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="benchmarks are not part of this archive"
)

SECTIONS = {
    "decoder": ["decoder-cpu", "decoder-cuda"],
    "metrics": ["metrics"],
    "recognizer": ["recognizer-cpu", "recognizer-cuda"],
    "search": ["search"],
}


def printed(name, monkeypatch, capsys):
    """Run a benchmark in this process, where libraries are loaded once, and give its lines."""
    monkeypatch.setattr(sys, "argv", [f"bench_{name}.py", "--quick"])
    before = RESULTS.read_bytes()
    runpy.run_path(str(BENCHMARKS / f"bench_{name}.py"), run_name="__main__")
    assert RESULTS.read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Hardware: ") and "numpy" in lines[1]
    assert f"bench_{name}.py --quick`" in lines[2]
    assert any("Losses" in line for line in lines)
    return lines


def rows(lines, start):
    """Cells of the table rows that begin with a text."""
    found = [line for line in lines if line.startswith(f"| {start} |")]
    assert found, start
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_every_benchmark_is_tested_and_has_its_sections():
    names = {path.stem.removeprefix("bench_") for path in BENCHMARKS.glob("bench_*.py")}
    assert names == set(SECTIONS)
    page = RESULTS.read_text(encoding="utf-8")
    for section in (section for sections in SECTIONS.values() for section in sections):
        assert page.count(f"<!-- {section}:begin -->") == 1
        assert page.count(f"<!-- {section}:end -->") == 1


@pytest.mark.slow
def test_composition_finds_the_scores_of_the_decoder(monkeypatch, capsys):
    pytest.importorskip("kaldifst")
    lines = printed("decoder", monkeypatch, capsys)
    assert float(rows(lines, "12")[0][-1]) < 1e-4
    assert float(rows(lines, "forced_align, torchaudio")[0][-1]) == 1


@pytest.mark.slow
def test_error_rates_are_those_of_the_peers(monkeypatch, capsys):
    pytest.importorskip("jiwer")
    pytest.importorskip("panphon")
    lines = printed("metrics", monkeypatch, capsys)
    assert [float(row[-1]) for row in rows(lines, "20")] == [0, 0]


@pytest.mark.slow
def test_real_time_factors_are_positive(monkeypatch, capsys):
    pytest.importorskip("transformers")
    lines = printed("recognizer", monkeypatch, capsys)
    assert float(rows(lines, "tiny")[0][3]) > 0
    assert float(rows(lines, "fused_decode")[0][1]) > 0


@pytest.mark.slow
def test_searches_find_scores_as_good_as_the_peers(monkeypatch, capsys):
    pytest.importorskip("flashlight.lib.text")
    lines = printed("search", monkeypatch, capsys)
    assert rows(lines, "Perceiver") and rows(lines, "prefix_beam_search")
