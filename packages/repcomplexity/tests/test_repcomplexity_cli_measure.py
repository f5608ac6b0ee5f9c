"""The commands collect, measure, plot and mujoco, from rows to pictures."""

import csv
import json

import numpy as np
import pytest

from modicum.core.cli import method_main
from modicum.core.experiment import Result
from modicum.repcomplexity import MajorityMDP, RolloutData, complexity_report, measure, solve
from modicum.repcomplexity.cli import app

FAST = ["--widths", "4,8", "--seeds", "2", "--steps", "20", "--device", "cpu"]


@pytest.fixture
def run(capsys):
    """Give a function that runs a command and gives status, output and errors."""

    def called(*arguments):
        with pytest.raises(SystemExit) as ended:
            method_main(app, "modicum-repcomplexity", [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return called


@pytest.fixture
def rows(run, tmp_path):
    """Give a file of drawn rows of a process."""
    path = tmp_path / "rows.npz"
    given = ["--mdp", "majority", "--n", 4, "--steps", 300, "--out", path]
    assert run("collect", *given)[0] == 0
    return path


# Rows ---------------------------------------------------------------------------------------------


def test_rows_of_a_process_have_exact_values(run, tmp_path):
    out = tmp_path / "rows.npz"
    given = ["--mdp", "majority", "--n", 4, "--steps", 500, "--seed", 2, "--out", out]
    status, shown, errors = run("collect", *given, "--json")
    found, data = json.loads(shown), RolloutData.from_npz(out)
    assert (status, errors) == (0, "")
    assert found["rows"] == len(data) == 500 and found["values"] == "exact, returns"
    # Observations are control and representation; codes are what observations of codes say.
    mdp = MajorityMDP(4)
    codes = {tuple(mdp.observe(np.array(code))): code for code in range(64)}
    states = np.array([codes[tuple(row.astype(int))] for row in data.observations])
    actions = data.actions.argmax(1)
    assert (np.asarray(solve(mdp).Q)[states, actions] == data.exact_q).all()
    assert run("collect", *given)[1].startswith(f"{out}: 500 rows")


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (["--env", "CartPole-v1"], "returns"),
        (["--env", "modicum/MajorityMDP-v0", "--set", "n=4", "--expert", "optimal",
          "--noise", "0.3"], "critic, returns"),
        (["--env", "InvertedPendulum-v5", "--expert", "lqr", "--noise", "1"], "returns"),
    ],
)  # fmt: skip
def test_rows_of_experts(run, tmp_path, given, values):
    pytest.importorskip("gymnasium")
    if "InvertedPendulum-v5" in given:
        pytest.importorskip("mujoco")
    made = []
    for number in range(2):
        out = tmp_path / f"{number}.npz"
        status, shown, errors = run("collect", *given, "--steps", 60, "--out", out, "--json")
        assert (status, errors) == (0, "")
        made.append(json.loads(shown))
    assert made[0]["rows"] == 60 and made[0]["values"] == values
    # The same seed, the same rows.
    assert made[0]["fingerprint"] == made[1]["fingerprint"]
    assert made[0]["info"]["env_id"] == given[1]


def test_rows_of_whole_episodes(run, tmp_path):
    pytest.importorskip("gymnasium")
    given = ["--env", "modicum/MajorityMDP-v0", "--set", "n=4", "--out", tmp_path / "r.npz"]
    given += ["--whole-episodes", "--json"]
    status, shown, _ = run("collect", *given, "--steps", 20)
    assert status == 0 and json.loads(shown)["rows"] == 18
    status, _, errors = run("collect", *given, "--steps", 4)
    assert status == 2 and "the only episode is cut off" in errors


def test_rows_of_a_trained_model(run, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    model = tmp_path / "dqn.zip"
    sb3.DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu").save(model)
    given = ["--env", "CartPole-v1", "--expert", model, "--algo", "DQN", "--steps", 50]
    status, shown, _ = run("collect", *given, "--out", tmp_path / "r.npz", "--json")
    assert status == 0 and json.loads(shown)["values"] == "critic, returns"
    assert json.loads(shown)["info"]["expert"].startswith("DQN:")


# Measuring ----------------------------------------------------------------------------------------


def test_measure_is_that_of_the_library(run, rows, tmp_path):
    out = tmp_path / "m"
    status, shown, errors = run("measure", rows, *FAST, "--out", out, "--json")
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    expected = measure(RolloutData.from_npz(rows), widths=(4, 8), seeds=2, steps=20, device="cpu")
    values = [row["value"] for row in found["estimates"]]
    assert values == [one.value for one in expected.estimates()]
    assert found["verdict"]["headline"] == expected.verdict().headline
    assert json.loads((out / "measurement.json").read_text())["estimates"] == found["estimates"]
    with (out / "estimates.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(values)


def test_measure_goes_on_where_it_was_cut_off(run, rows, tmp_path, monkeypatch):
    from modicum.repcomplexity import ensemble

    out, fitted = tmp_path / "m", []
    original = ensemble.MLPEnsemble.fit

    def fit(self, *arguments, **named):
        fitted.append(len(self))
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    monkeypatch.setattr(ensemble.MLPEnsemble, "fit", fit)
    given = ["measure", rows, *FAST, "--targets", "delta,q", "--out", out, "--json"]
    assert run(*given)[0] != 0
    status, first, _ = run(*given)
    assert status == 0 and len(fitted) == 3
    status, second, _ = run(*given)
    assert first == second and len(fitted) == 3


def test_protocols_stand_beside(run, rows, tmp_path):
    out = tmp_path / "m"
    given = ["--protocol", "zhu2024", "--protocol", "feng2023", "--effort", "0.0001"]
    status, shown, _ = run("measure", rows, *FAST, *given, "--out", out, "--json")
    found = json.loads(shown)["protocols"]
    assert status == 0 and set(found) == {"zhu2024", "feng2023"}
    assert {(row["target"], row["width"]) for row in found["zhu2024"]} == {
        ("next_obs", 32), ("reward", 32), ("q", 32),
    }  # fmt: skip
    assert all(len(row["errors"]) == 2 for row in found["zhu2024"])
    assert json.loads((out / "protocol-zhu2024.json").read_text())["errors"] == found["zhu2024"]
    plain = run("measure", rows, *FAST, "--protocol", "zhu2024", "--effort", "0.0001")[1]
    assert "| target | width | zhu2024 |" in plain and "On the states these data visit" in plain


# Pictures -----------------------------------------------------------------------------------------


def test_plots_of_every_kind_of_file(run, rows, tmp_path):
    pytest.importorskip("matplotlib")
    folder, report, scaling = tmp_path / "m", tmp_path / "r.json", tmp_path / "s.json"
    complexity_report(MajorityMDP(2)).save(report)
    assert run("scale", "--ns", "2,4", "--out", scaling)[0] == 0
    drawn = tmp_path / "beside.svg"
    given = ["--targets", "delta,q", "--out", folder, "--plot", drawn]
    assert run("measure", rows, *FAST, *given)[0] == 0 and "<svg" in drawn.read_text()
    for name, given in {
        "rulers.svg": [report],
        "spectrum.png": [report, "--kind", "spectrum"],
        "sizes.svg": [scaling],
        "curves.svg": [folder, "--metric", "zhu2024"],
        "metrics.svg": [folder / "measurement.json", "--kind", "metrics"],
    }.items():
        out = tmp_path / name
        status, shown, errors = run("plot", *given, "--out", out)
        assert (status, shown, errors) == (0, f"{out}\n", ""), name
        start = out.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") or b"<?xml" in start


# MuJoCo -------------------------------------------------------------------------------------------

TINY = [
    "--budget", "0", "--experts", "1", "--rows", "400", "--widths", "32", "--seeds", "2",
    "--steps", "20", "--effort", "0.001", "--device", "cpu",
]  # fmt: skip


def test_mujoco_measures_and_goes_on(run, tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    out = tmp_path / "new" / "run"
    given = ["mujoco", "InvertedPendulum-v5", *TINY, "--out", out]
    status, shown, errors = run(*given, "--json")
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    assert found["experiment"] == "mujoco" and found["page"] == str(out / "index.html")
    assert Result.load(out / "result.json").claims
    with (out / "errors.csv").open() as file:
        metrics = {row["metric"] for row in csv.DictReader(file)}
    assert {"zhu2024", "feng2023", "fvu", "fvu_perdim", "nrmse_uncentred"} <= metrics
    assert (out / "index.html").read_text().startswith("<!")
    # Rows, networks and protocols are there: nothing is trained again.
    from modicum.repcomplexity import ensemble

    monkeypatch.setattr(ensemble.MLPEnsemble, "fit", None)
    status, shown, _ = run(*given)
    assert status == 0 and "zhu2024" in shown and "errors" in shown
    status, _, errors = run(*given, "--rows", "500")
    assert status == 2 and f"{out} holds a run with --rows 400, not 500" in errors


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "--out", "r.npz"], "give one of --env, --mdp and --minari, not 0"),
        (["collect", "--out", "r.npz", "--env", "A-v0", "--mdp", "sat"], "not 2 of them"),
        (["collect", "--out", "r.csv", "--mdp", "sat", "--n", "2"], "ends in .npz, not r.csv"),
        (["collect", "--out", "r.npz", "--mdp", "sat", "--n", "2", "--gamma", "2"], "--gamma must"),
        (["collect", "--out", "r.npz", "--env", "NoSuch-v0"], "NoSuch"),
        (["collect", "--out", "r.npz", "--env", "CartPole-v1", "--expert", "good"], "'good'"),
        (["collect", "--out", "r.npz", "--env", "CartPole-v1", "--expert", "optimal"],
         "--expert optimal is for processes of this package"),
        (["collect", "--out", "r.npz", "--env", "CartPole-v1", "--expert", "lqr"],
         "--expert lqr is for MuJoCo"),
        (["collect", "--out", "r.npz", "--env", "CartPole-v1", "--steps", "0"], "--steps must be"),
        (["measure", "nowhere.npz"], "nowhere.npz"),
        (["measure", "rows.npz", "--targets", "speed"], "speed"),
        (["measure", "rows.npz", "--metrics", "mse"], "no metric 'mse'"),
        (["measure", "rows.npz", "--widths", "wide"], "--widths takes integers"),
        (["measure", "rows.npz", "--q", "tabular"], "tabular"),
        (["measure", "rows.npz", "--protocol", "zhu"], "--protocol must be one of zhu2024"),
        (["measure", "rows.npz", "--effort", "0"], "--effort must be above 0"),
        (["plot", "nowhere.json", "--out", "p.png"], "nowhere.json"),
        (["plot", "rows.npz", "--out", "p.png"], "rows.npz is no JSON"),
        (["mujoco", "--budget", "7"], "--budget must be a multiple of 5000, not 7"),
        (["mujoco", "NoSuch-v0"], "NoSuch"),
        (["mujoco", "InvertedPendulum-v5", "--rows", "0"], "--rows must be at least 1, not 0"),
        (["mujoco", "InvertedPendulum-v5", "--widths", "16"], "widths must have 32 among them"),
    ],
)  # fmt: skip
def test_bad_inputs_are_one_line_and_status_2(run, rows, monkeypatch, arguments, message):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(rows.parent)
    status, shown, errors = run(*arguments)
    assert status == 2 and shown == "", (status, shown, errors)
    assert message in errors and errors.startswith("modicum-repcomplexity: ")
    assert errors.count("\n") == 1
    assert list(rows.parent.iterdir()) == [rows]


def test_plot_names_what_it_can_draw(run, tmp_path):
    pytest.importorskip("matplotlib")
    report, other = tmp_path / "r.json", tmp_path / "o.json"
    complexity_report(MajorityMDP(2)).save(report)
    other.write_text("{}")
    out = tmp_path / "p.svg"
    assert "must be one of rulers, spectrum" in run("plot", report, "--kind", "x", "--out", out)[2]
    assert "is nothing that report, scale or measure" in run("plot", other, "--out", out)[2]
    status, _, errors = run("plot", report, "--out", tmp_path / "p.xyz")
    assert status == 2 and "xyz" in errors


@pytest.mark.parametrize("command", ["report", "measure", "collect"])
def test_bars_are_for_terminals_and_standard_error(run, rows, monkeypatch, command):
    pytest.importorskip("gymnasium")
    given = {
        "report": ["report", "--mdp", "majority", "--n", "2", "--json"],
        "measure": ["measure", rows, *FAST, "--targets", "delta,q", "--json"],
        "collect": ["collect", "--env", "CartPole-v1", "--steps", 20, "--json",
                    "--out", rows.parent / "c.npz"],
    }[command]  # fmt: skip
    silent = run(*given)
    assert silent[0] == 0 and silent[2] == ""
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    status, shown, errors = run(*given)
    assert status == 0 and "\x1b[" in errors and json.loads(shown).keys()
    assert run(*given, "--quiet")[2] == ""
