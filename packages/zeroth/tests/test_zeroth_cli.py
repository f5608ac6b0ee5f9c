import csv
import json
import re
import sys

import pytest
from typer.testing import CliRunner

from modicum.zeroth.cli import app
from modicum.zeroth.plan import plan


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments):
    result = invoke(*arguments)
    assert result.exit_code != 0
    return str(result.exception)


CONSTANTS = ("--d", 20, "--rho", 1, "--M", 1, "--sigma", 0.5)


def test_plan_for_a_regret():
    text = printed("plan", *CONSTANTS, "--eps", 1e-3)
    expected = plan(20, eps=1e-3, noise=0.5, strong_convexity=1, hessian_lipschitz=1)
    assert f"{expected.budget:,}" in text and "predicted regret" in text
    assert "warning: the final Hessian" in text


def test_plan_for_a_budget_as_json():
    found = json.loads(printed("plan", *CONSTANTS, "--T", "1e5", "--R", 2, "--json"))
    expected = plan(20, 100_000, noise=0.5, strong_convexity=1, hessian_lipschitz=1, distance=2.0)
    assert found["n_g"] == 10_000 and found["radii"]["gradient"] == expected.radii.gradient
    assert found["warnings"] == list(expected.warnings) and len(expected.warnings) == 2
    # The last round of the default method has 2.5 times the pairs.
    ratio = found["predicted_regret"]["total"] / found["adaptive_predicted_regret"]
    assert ratio == pytest.approx(2.5 ** (2 / 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CONSTANTS,), "either budget or eps"),
        ((*CONSTANTS, "--T", 100.5), "whole number.*100.5"),
        ((*CONSTANTS, "--T", "1e400"), "whole number.*inf"),
        ((*CONSTANTS, "--T", "nan"), "whole number.*nan"),
        ((*CONSTANTS, "--T", 100), "at least 10053"),
        (("--d", 2, "--rho", -1, "--M", 1, "--sigma", 1, "--T", 1e4), "hessian_lipschitz.*-1"),
    ],
)
def test_plans_that_cannot_be(arguments, message):
    assert re.search(message, refused("plan", *arguments))


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


BENCH = ("bench", "--problems", "skew,hard", "--methods", "zosgd,spsa", "--d", 2, "--T", "200,400")


def test_bench_writes_rows_goes_on_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "b.csv", tmp_path / "b.svg"
    text = printed(*BENCH, "--seeds", 2, "--out", out, "--plot", picture)
    assert "median regret" in text and picture.read_text().count("<svg") == 1
    first = rows_of(out)
    assert len(first) == 2 * 2 * 2 * 2
    assert {row["method"] for row in first} == {"zosgd", "spsa"}
    assert all(float(row["regret"]) > 0 for row in first)
    # A line that was cut off is measured again, what stands there is kept.
    whole = out.read_text()
    out.write_text(whole[: whole.rstrip("\n").rfind("\n") + 10])
    printed(*BENCH, "--seeds", 3, "--out", out)
    second = rows_of(out)
    assert len(second) == 24
    kept = [row for row in second if row in first]
    assert len(kept) == 15  # of the run that is measured again only the time differs
    by_key = {(r["problem"], r["method"], r["budget"], r["seed"]): r["regret"] for r in second}
    assert all(
        by_key[(r["problem"], r["method"], r["budget"], r["seed"])] == r["regret"] for r in first
    )


def test_bench_says_what_a_method_refuses_and_goes_on(tmp_path):
    out = tmp_path / "b.csv"
    result = invoke(
        "bench", "--problems", "skew", "--methods", "two-stage,zosgd", "--d", 10, "--T", 500,
        "--seeds", 1, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "skew two-stage d=10 T=500: " in result.stderr and "at least" in result.stderr
    assert [row["method"] for row in rows_of(out)] == ["zosgd"]


def test_bench_runs_cma_within_its_budget(tmp_path):
    pytest.importorskip("cma")
    out = tmp_path / "b.csv"
    printed(
        "bench", "--problems", "quadratic", "--methods", "cma", "--d", 3, "--sigma", 0.01, "--T",
        "300", "--seeds", 2, "--out", out,
    )  # fmt: skip
    for row in rows_of(out):
        assert 280 < int(row["evaluations"]) <= 300 and float(row["regret"]) < 0.02


def test_bench_refuses_names_and_files_of_others(tmp_path):
    assert "spsa" in refused("bench", "--methods", "spas", "--out", tmp_path / "b.csv")
    assert "skew" in refused("bench", "--problems", "skw", "--out", tmp_path / "b.csv")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert "columns are ['a', 'b']" in refused(*BENCH, "--out", other)
    assert other.read_text() == "a,b\n1,2\n"
    assert "numbers with commas, not '1e3.5'" in refused("bench", "--T", "1e3.5", "--out", other)


SPEC = """
cmd = ["{python}", "-S", "-c", "{code}", "{{x}}", "{{seed}}"]
start = [1.0, -1.0]
budget = {budget}
seed = 3
"""
CODE = (
    "import random, sys; a, b, seed = map(float, sys.argv[1:]);"
    "print((a - .5) ** 2 + (b + .2) ** 2 + random.Random(seed).gauss(0, 1e-3))"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    spec = folder / "spec.toml"
    spec.write_text(SPEC.format(python=sys.executable, code=CODE, budget=130))
    return folder, printed("run", spec)


def test_run_prints_the_point_and_keeps_a_log(finished):
    folder, text = finished
    assert re.search(r"x0 = \S+\nx1 = \S+\nvalue ", text)
    x0, x1 = (float(value) for value in re.findall(r"x\d = (\S+)", text))
    assert (x0, x1) == pytest.approx((0.5, -0.2), abs=0.05)
    assert len((folder / "spec.jsonl").read_text().splitlines()) > 130
    assert json.loads((folder / "spec.result.json").read_text())["x"] == pytest.approx([x0, x1])
    assert printed("run", folder / "spec.toml") == text  # nothing is left to do


@pytest.mark.parametrize("what", ["values", "rounds"])
def test_plot_draws_the_log(finished, what):
    pytest.importorskip("matplotlib")
    folder, _ = finished
    picture = folder / f"{what}.svg"
    assert str(picture) in printed("plot", folder / "spec.jsonl", "--what", what, "--out", picture)
    assert "<svg" in picture.read_text()


def test_plot_refuses_what_it_does_not_know(finished):
    folder, _ = finished
    assert "--what is one of values, rounds, not 'x'" in refused(
        "plot", folder / "spec.jsonl", "--what", "x"
    )


def test_bench_refuses_an_unwritable_picture_before_it_measures(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "b.csv"
    message = refused(*BENCH, "--seeds", 1, "--out", out, "--plot", tmp_path / "b.xyz")
    assert "b.xyz" in message and ".svg" in message
    assert not out.exists()


def test_bench_without_any_run_fails(tmp_path):
    arguments = ("bench", "--problems", "skew", "--methods", "two-stage", "--T", 500)
    result = invoke(*arguments, "--seeds", 1, "--out", tmp_path / "b.csv")
    assert result.exit_code != 0 and "no method takes" in str(result.exception)
    assert "at least 2155" in result.output


def test_an_interrupted_run_says_how_it_goes_on(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("modicum.zeroth.integrations.command.run_spec", interrupted)
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC.format(python=sys.executable, code=CODE, budget=130))
    result = invoke("run", spec)
    assert result.exit_code == 130
    assert "spec.jsonl" in result.stderr
