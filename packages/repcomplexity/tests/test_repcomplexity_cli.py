"""The command line: what commands print and write, exit statuses, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from modicum.core.cli import method_main
from modicum.repcomplexity import (
    Circuit,
    ComplexityReport,
    MajorityMDP,
    RolloutData,
    ScalingReport,
    TruthTable,
    complexity_report,
    read_circuit,
    solve,
    write_circuit,
)
from modicum.repcomplexity.cli import app
from modicum.repcomplexity.cli.show import cell


@pytest.fixture
def run(capsys):
    """Give a function that runs a command and gives status, output and errors."""

    def called(*arguments):
        with pytest.raises(SystemExit) as ended:
            method_main(app, "modicum-repcomplexity", [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return called


@pytest.fixture(scope="module")
def full_adder(tmp_path_factory):
    """Give the file of a circuit of three inputs: their sum modulo 2, and their majority."""
    circuit = Circuit(3)
    circuit.output(circuit.xor(*circuit.inputs()), circuit.majority(*circuit.inputs()))
    return write_circuit(circuit, tmp_path_factory.mktemp("circuit") / "adder.bench")


# Reports ------------------------------------------------------------------------------------------


def test_every_command_has_a_help():
    runner = CliRunner()
    names = ["report", "scale", "envs", "collect", "measure", "plot", "mujoco", "circuits"]
    inner = ["show", "evaluate", "convert", "build", "minimise", "bounds"]
    for arguments in [[name] for name in names] + [["circuits", name] for name in inner]:
        done = runner.invoke(app, [*arguments, "--help"])
        assert done.exit_code == 0 and "Usage" in done.output, done.output
    listed = runner.invoke(app, ["--help"]).output
    assert all(name in listed for name in names)


def test_report_is_that_of_the_library(run, tmp_path):
    out = tmp_path / "r.json"
    status, shown, errors = run("report", "--mdp", "majority", "--n", 4, "--json", "--out", out)
    assert (status, errors) == (0, "")
    found, expected = json.loads(shown), complexity_report(MajorityMDP(4))
    assert found["verdict"]["answer"] == expected.verdict().answer == "model easier"
    assert [one["dnf"] for one in found["functions"]] == [
        list(one.dnf) for one in expected.functions
    ]
    assert ComplexityReport.load(out).rows() == expected.rows()
    status, shown, _ = run("report", "--mdp", "majority", "--n", 4, "--out", tmp_path / "r.md")
    assert status == 0 and shown.startswith("# MajorityMDP(n=4)")
    assert (tmp_path / "r.md").read_text() in shown


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["--mdp", "parity", "--n", "4"], "ParityMDP(n=4)"),
        (["--mdp", "sat", "--n", "2"], "SatMDP(n_variables=2, 4 clauses)"),
        (["--mdp", "random", "--n", "2", "--set", "seed=3"], "RandomMDP(n=2, seed=3)"),
        (["--mdp", "irrelevant-parity", "--n", "3"], "IrrelevantParityMDP(n=3)"),
    ],
)
def test_families_have_names_and_settings(run, given, name):
    status, shown, _ = run("report", *given, "--targets", "reward", "--json")
    found = json.loads(shown)
    assert status == 0 and found["name"] == name and list(found["errors"]) == ["reward"]


def test_settings_reach_the_process(run):
    given = ["--set", "slip=0.25", "--set", "control=[2,0,3,1]", "--horizon", "3"]
    status, shown, _ = run(
        "report", "--mdp", "majority", "--n", "4", *given, "--targets", "reward", "--json"
    )
    found = json.loads(shown)
    assert status == 0 and found["deterministic"] is False and found["horizon"] == 3


@pytest.mark.parametrize("off", ["false", "False"])
def test_report_of_a_toy_text_environment(run, off):
    pytest.importorskip("gymnasium")
    given = ["--env", "FrozenLake-v1", "--set", f"is_slippery={off}", "--horizon", "8"]
    status, shown, _ = run("report", *given, "--encoding", "gray", "--json")
    found = json.loads(shown)
    assert status == 0 and found["n_states"] in (16, 17) and found["encoding"] == "gray"
    assert found["horizon"] == 8 and found["deterministic"] is True
    own = ["report", "--env", "modicum/ParityMDP-v0", "--set", "n=4", "--targets", "reward"]
    assert run(*own)[1].startswith("# ParityMDP(n=4)")


def test_scale_follows_a_family(run, tmp_path):
    out = tmp_path / "s.json"
    given = ["scale", "--ns", "2,4,8,16", "--max-inputs", "7", "--time-limit", "20"]
    status, shown, errors = run(*given, "--json", "--out", out)
    assert (status, errors) == (0, "")
    found, read = json.loads(shown), ScalingReport.load(out)
    assert found["ns"] == [2, 4, 8, 16] and read.ns == (2, 4, 8, 16)
    assert found["notes"] == ["Not tabulated, for more than 7 inputs: n = 8, 16."]
    least = {point["n"]: point["lower"] for point in found["points"]
             if (point["target"], point["measure"]) == ("value", "depth-2 terms")
             and point["lower"] is not None}  # fmt: skip
    assert least[16] >= 6435
    assert run(*given)[1].startswith("# MajorityMDP")


# Environments -------------------------------------------------------------------------------------


def test_envs_lists_what_is_registered(run):
    pytest.importorskip("gymnasium")
    status, shown, _ = run("envs", "--json")
    found = {row["env"]: row for row in json.loads(shown)}
    assert status == 0 and {"modicum/MajorityMDP-v0", "modicum/BitMDP-v0"} <= set(found)
    assert found["modicum/MajorityMDP-v0"]["horizon"] == 24
    assert "modicum/SatMDP-v0" in run("envs")[1]


def test_envs_shows_exact_values_and_an_optimal_episode(run):
    pytest.importorskip("gymnasium")
    given = ["envs", "modicum/MajorityMDP-v0", "--set", "n=8", "--seed", "3"]
    status, shown, _ = run(*given, "--json")
    found = json.loads(shown)
    values = np.asarray(solve(MajorityMDP(8)).V)
    assert status == 0 and found["states"] == 2048
    assert found["values"]["mean V*"] == values.mean() == pytest.approx(4392 / 2048)
    assert found["values"]["share with V* > 0"] == (values > 0).mean()
    episode = found["episode"]
    assert sum(row["reward"] for row in episode) == episode[0]["value"]
    assert len(episode) == 12 and all(len(row["state"]) == 11 for row in episode)
    assert "An optimal episode" in run(*given)[1]


def test_envs_shows_what_is_too_large_for_a_table_by_drawn_states(run):
    pytest.importorskip("gymnasium")
    status, shown, _ = run("envs", "modicum/SatMDP-v0", "--json")
    found = json.loads(shown)
    assert status == 0 and found["states"] > 2**30
    assert "drawn states" in found["values"]["V* taken over"]
    assert sum(row["reward"] for row in found["episode"]) == found["episode"][0]["value"]


def test_envs_shows_an_environment_with_chance(run):
    pytest.importorskip("gymnasium")
    status, shown, _ = run("envs", "FrozenLake-v1", "--gamma", "0.9", "--json")
    found = json.loads(shown)
    assert status == 0 and found["horizon"] is None and found["discount"] == 0.9
    # The value of the start is known from textbooks: 0.0689 with this discount.
    assert found["episode"][0]["value"] == pytest.approx(0.0689, abs=1e-4)


# Circuits -----------------------------------------------------------------------------------------


def test_circuits_show_and_evaluate(run, full_adder, tmp_path):
    status, shown, _ = run("circuits", "show", full_adder, "--json")
    found = json.loads(shown)
    assert status == 0 and found["hex"] == ["96", "e8"]
    assert (found["inputs"], found["outputs"]) == (3, 2)
    assert "output 1: e8" in run("circuits", "show", full_adder)[1]
    rows = tmp_path / "rows.txt"
    rows.write_text("000\n111\n")
    status, shown, _ = run("circuits", "evaluate", full_adder, "110", "--rows", rows)
    assert (status, shown) == (0, "01\n00\n11\n")


@pytest.mark.parametrize("suffix", [".aag", ".aig", ".bench"])
def test_circuits_convert_between_formats(run, full_adder, tmp_path, suffix):
    out = tmp_path / f"adder{suffix}"
    status, shown, _ = run("circuits", "convert", full_adder, out, "--simplify", "--json")
    assert status == 0 and json.loads(shown)["hex"] == ["96", "e8"]
    assert (read_circuit(out).truth_values() == read_circuit(full_adder).truth_values()).all()


def test_circuits_build_explicit_ones(run, tmp_path):
    out = tmp_path / "q.aag"
    status, shown, _ = run("circuits", "build", "q", "--n", 4, "--out", out, "--json")
    about, circuit = json.loads(shown), read_circuit(out)
    assert status == 0 and about["class"] == "TC0" and about["inputs"] == 7
    values = circuit.truth_values().sum(1)
    mdp = MajorityMDP(4)
    expected = np.stack([mdp.optimal_q(np.arange(64), action) for action in range(2)])
    assert (values == expected.reshape(-1)).all()
    parity = json.loads(run("circuits", "build", "parity", "--n", 8, "--depth", 3, "--json")[1])
    assert parity["depth"] <= 3
    assert run("circuits", "build", "majority-gate", "--n", 9)[0] == 0


def test_circuits_minimise_a_table(run, full_adder, tmp_path):
    pytest.importorskip("pysat")
    out = tmp_path / "maj.aag"
    given = ["circuits", "minimise", "--hex", "e8"]
    status, shown, _ = run(*given, "--depth", "3", "--json", "--out", out)
    found = json.loads(shown)
    assert status == 0 and found["inputs"] == 3
    sizes = {name: (one["lower"], one["upper"]) for name, one in found["sizes"].items()}
    # Known minima: three terms of two literals, and four gates of two inputs.
    assert sizes["DNF terms"] == sizes["CNF clauses"] == (3, 3) and sizes["B2 gates"] == (4, 4)
    assert TruthTable(read_circuit(out).truth_values()[:, 0]).to_hex() == "e8"
    assert found["forms"]["DNF terms"].count("|") == 2
    plain = run(*given)[1]
    assert "yes" in plain and "B2 gates" in plain
    again = json.loads(run("circuits", "minimise", "--in", full_adder, "--output", 1, "--json")[1])
    assert again["hex"] == "e8" and again["sizes"] == {
        name: size for name, size in found["sizes"].items() if "levels" not in name
    }


def test_normal_forms_that_are_printed_compute_the_function(run):
    for digits in ("16", "e8", "00", "ff", "7f", "6ac1"):
        found = json.loads(run("circuits", "minimise", "--hex", digits, "--json")[1])
        m = found["inputs"]
        for text in found["forms"].values():
            # Subtraction binds before "&" and "|" do.
            code = compile(text.replace("~", "1-"), "form", "eval")
            values = [
                eval(code, {f"x{i}": row >> i & 1 for i in range(m)}) for row in range(1 << m)
            ]
            assert TruthTable(np.array(values)).to_hex() == digits


def test_minimise_says_what_it_cannot_search(run):
    status, shown, _ = run("circuits", "minimise", "--hex", "6996966996696996", "--json")
    found = json.loads(shown)
    assert status == 0 and found["sizes"]["DNF terms"]["upper"] == 32
    assert "inputs" in found["not_searched"]["B2 gates"]


def test_bounds_of_a_function_and_of_families(run):
    status, shown, _ = run("circuits", "bounds", "--hex", "e8", "--json")
    found = json.loads(shown)
    assert status == 0 and found["total influence"] == 1.5
    assert found["certificate of ones"] == found["certificate of zeros"] == 2
    assert found["DNF width at least"] <= 2 and found["degree"] == 3
    assert sum(found["spectral weight by degree"]) == 1.0
    status, shown, _ = run("circuits", "bounds", "--n", "16", "--json")
    found = json.loads(shown)
    assert found["DNF terms of V* > 0 in the Majority MDP at least"] == 6435
    assert found["DNF terms of parity"] == 2**15
    assert "Smolensky" in run("circuits", "bounds", "--n", "16")[1]


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "give either --mdp (majority, parity"),
        (["report", "--mdp", "major", "--n", "4"], "--mdp must be one of majority"),
        (["report", "--mdp", "majority"], "--mdp needs its size"),
        (["report", "--mdp", "majority", "--n", "1"], "n must be at least 2, not 1"),
        (["report", "--mdp", "majority", "--n", "4", "--set", "slip=2"], "slip must be in [0, 1)"),
        (["report", "--mdp", "majority", "--n", "4", "--set", "slop=2"], "no setting 'slop'"),
        (["report", "--mdp", "majority", "--n", "4", "--set", "slip"], "NAME=VALUE, not 'slip'"),
        (["report", "--mdp", "majority", "--n", "4", "--gamma", "0.9"], "--gamma and --encoding"),
        (["report", "--mdp", "majority", "--n", "4", "--targets", "q,z"], "'z'"),
        (["report", "--mdp", "majority", "--n", "4", "--targets", ","], "--targets names none"),
        (["report", "--mdp", "majority", "--n", "4", "--time-limit", "0"], "time_limit must be"),
        (["report", "--mdp", "majority", "--n", "4", "--out", "r.txt"], "--out takes a file"),
        (["report", "--mdp", "majority", "--n", "32"], "bits"),
        (["report", "--env", "NoSuchEnv-v0"], "NoSuchEnv"),
        (["report", "--env", "CartPole-v1"], "CartPole-v1"),
        (["report", "--env", "FrozenLake-v1", "--set", "hot=1"], "hot"),
        (["scale", "--ns", "4,x"], "--ns takes integers with commas, not '4,x'"),
        (["scale", "--ns", "3", "--mdp", "parity"], "n must be even"),
        (["envs", "modicum/NoSuchMDP-v0"], "NoSuchMDP"),
        (["circuits", "show", "no.aag"], "no.aag"),
        (["circuits", "show", "no.txt"], "no.txt"),
        (["circuits", "minimise"], "give either --hex or --in"),
        (["circuits", "minimise", "--hex", "xyz"], "hexadecimal digits, not 'xyz'"),
        (["circuits", "minimise", "--hex", "e8f"], "has 3 digits"),
        (["circuits", "minimise", "--hex", "e8", "--inputs", "2"], "no table of 2 inputs"),
        (["circuits", "minimise", "--hex", "e8", "--basis", "B3"], "basis must be one of"),
        (["circuits", "minimise", "--hex", "e8", "--time-limit", "0"], "--time-limit must be"),
        (["circuits", "minimise", "--hex", "e8", "--out", "c.txt"], "--out takes a file"),
        (["circuits", "bounds", "--hex", "e8", "--n", "3"], "--n stands in place of"),
        (["circuits", "build", "adder", "--n", "4"], "KIND must be one of model"),
        (["circuits", "build", "model", "--n", "4", "--depth", "3"], "--depth is for parity"),
    ],
)
def test_bad_inputs_are_one_line_and_status_2(run, tmp_path, monkeypatch, arguments, message):
    pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    status, shown, errors = run(*arguments)
    assert status == 2 and shown == "", (status, shown, errors)
    assert message in errors and errors.startswith("modicum-repcomplexity: ")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_evaluate_refuses_rows_that_do_not_fit(run, full_adder):
    assert "there is no row" in run("circuits", "evaluate", full_adder)[2]
    status, _, errors = run("circuits", "evaluate", full_adder, "11")
    assert status == 2 and "a row is 3 digits 0 and 1, not '11'" in errors


def test_an_engine_that_is_missing_is_named_with_its_install_line():
    code = (
        "import sys\nsys.modules['gymnasium'] = None\n"
        "from modicum.core.cli import method_main\nfrom modicum.repcomplexity.cli import app\n"
        "method_main(app, 'modicum-repcomplexity', ['envs'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "modicum-repcomplexity[envs]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_loads_no_engine():
    code = (
        "import sys\n"
        "from modicum.core.cli import method_main\n"
        "from modicum.repcomplexity.cli import app\n"
        "try:\n    method_main(app, 'modicum-repcomplexity', sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'scipy', 'gymnasium', 'matplotlib', 'pysat'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code, "report", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "modicum-repcomplexity" in done.stdout and "--targets" in done.stdout


def test_the_command_runs_as_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "modicum.repcomplexity.cli", "scale", "--ns", "2,4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["family"] == "MajorityMDP"


def test_cells_show_unknown_as_a_dash():
    assert [cell(value) for value in (None, float("nan"), 0.123456, 3, "a")] == [
        "-", "-", "0.1235", "3", "a",
    ]  # fmt: skip


def test_rows_can_be_read_again(run, tmp_path):
    out = tmp_path / "rows.npz"
    given = ["collect", "--mdp", "majority", "--n", 4, "--steps", 100, "--out", out, "--json"]
    found = json.loads(run(*given)[1])
    assert found["fingerprint"] == RolloutData.from_npz(out).fingerprint()
