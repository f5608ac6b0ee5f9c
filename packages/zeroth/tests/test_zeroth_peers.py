import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from modicum.zeroth.problems import skew

FOLDER = Path(__file__).parents[1] / "benchmarks"


def _load(name):
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


peers = _load("peers")
bench = _load("bench_peers")

CONSTANTS = {
    "strong_convexity": 1.0,
    "smoothness": 3.0,
    "hessian_lipschitz": 1.0,
    "noise": 0.05,
}
SLOW_TO_LOAD = ("nevergrad", "Optuna", "BoTorch")
"""Their libraries take seconds to load; one test of each kind of use stands for them."""
EVERY_DAY = [name for name in peers.METHODS if not name.startswith(SLOW_TO_LOAD)]


def play(name, budget, dimension=2, noise=0.05, seed=0):
    problem = skew(dimension, shift=0.7)
    objective = peers.Objective(problem.noisy(noise, seed), budget)
    task = peers.Task(
        problem.start, 1.0, budget, seed, constants={**CONSTANTS, "noise": max(noise, 1e-3)}
    )
    x = peers.METHODS[name].run(objective, task)
    return problem, objective, x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EVERY_DAY)
def test_methods_come_near_the_minimum_within_the_budget(name):
    problem, objective, x = play(name, 800)
    assert objective.spent <= 800
    assert objective.spent > 400 or name.startswith("COBYQA")
    assert x.shape == (2,)
    # The start has a regret of half; with little noise in two dimensions everybody does this.
    assert problem.regret(x) < 0.05
    assert play(name, 800)[2].tolist() == x.tolist()
    # A pattern search ends on a lattice.
    assert name == "noisyopt Compass" or play(name, 800, seed=1)[2].tolist() != x.tolist()


@pytest.mark.filterwarnings("ignore")
def test_nevergrad_gets_its_budget_and_gives_its_recommendation():
    problem, objective, x = play("nevergrad TBPSA", 400)
    assert objective.spent == 400
    assert problem.regret(x) < 0.1
    assert play("nevergrad TBPSA", 400)[2].tolist() == x.tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in peers.METHODS if name not in EVERY_DAY])
def test_libraries_that_load_slowly_stay_within_the_budget(name):
    problem, objective, x = play(name, 60)
    assert 58 <= objective.spent <= 60
    assert x.shape == (2,)
    if name not in ("nevergrad SPSA", "nevergrad NGOpt", "nevergrad OptimisticNoisy(1+1)"):
        assert problem.regret(x) < 0.3


def test_nobody_gets_more_than_the_budget():
    objective = peers.Objective(lambda x: x.sum(-1), 5)
    assert objective([1, 2]) == 3
    assert objective.many(np.ones((3, 2))).tolist() == [2, 2, 2]
    assert (objective.spent, objective.left) == (4, 1)
    with pytest.raises(peers.Spent):
        objective.many(np.ones((2, 2)))
    assert objective.spent == 4
    assert objective([0, 0]) == 0
    with pytest.raises(peers.Spent):
        objective([0, 0])
    with pytest.raises(peers.TooSlow):
        peers.Objective(lambda x: x.sum(-1), 5, seconds=-1)([0, 0])


def test_values_that_a_library_overwrites_stay_ours():
    seen = []
    objective = peers.Objective(lambda x: seen.append(x) or 0.0, 5)
    x = np.ones(2)
    objective(x)
    x[:] = 7
    assert seen[0].tolist() == [1, 1]


def test_tasks_know_their_region():
    task = peers.Task(np.array([1.0, 2, 3, 4]), 2.0, 10, 0)
    assert task.deviation == 1
    assert task.box.tolist() == [[-2, 4], [-1, 5], [0, 6], [1, 7]]
    bounds = np.array([[-5.0, 5]] * 4)
    assert peers.Task(task.start, 2.0, 10, 0, bounds).box is bounds
    assert len({peers.Task(task.start, 2.0, 10, seed).small_seed for seed in range(50)}) == 50


def test_incumbent_is_read_where_the_budget_ends():
    def search(x):
        x += 1
        raise peers.Spent

    with pytest.raises(peers.Spent) as caught:
        search(2)
    assert peers._local(caught.value, "search", "x") == 3
    with pytest.raises(LookupError):
        peers._local(caught.value, "elsewhere", "x")


@pytest.mark.parametrize("name", bench.PROBLEMS)
def test_problems_of_the_benchmark_are_what_they_say(name):
    kind = bench.PROBLEMS[name]
    dimension = (kind.dimensions or (3,))[-1 if name == "cancer" else 0]
    pytest.importorskip("cocoex") if name.startswith("f1") else None
    case = kind.make(dimension, 0.1, np.random.default_rng(0))
    assert case.problem.dimension == dimension
    assert (case.constants is not None) == kind.constants
    values = case.evaluate(np.tile(case.problem.start + 0.1, (20, 1)))
    assert values.shape == (20,)
    assert len(set(values)) > 1
    other = kind.make(dimension, 0.1, np.random.default_rng(1)).problem
    assert name == "cancer" or other.optimum.tolist() != case.problem.optimum.tolist()
    if case.constants is not None:
        optimum = case.problem.optimum
        line = np.linspace(0, 1, 21)[:, None] * optimum
        curvature = np.linalg.eigvalsh(case.problem.hessian(line))
        assert curvature.max() <= case.constants["smoothness"] + 1e-9
        assert curvature.min() >= case.constants["strong_convexity"]


SMALL = ["--problems", "skew", "--dims", "2", "--budgets", "200,400", "--seeds", "2"]
SMALL += ["--methods", "ZOSGD;cma;noisyopt SPSA", "--dry-run"]


@pytest.fixture
def options(tmp_path, monkeypatch):
    # Ours is compared with, and any method can stand in.
    monkeypatch.setattr(bench, "OURS", "ZOSGD")
    return bench.parse([*SMALL, "--log", str(tmp_path / "log.jsonl")])


class Here(bench.Executor):
    """A pool that works in the same process."""

    def submit(self, call, *arguments):
        future = bench.Future()
        future.set_result(call(*arguments))
        return future


def play_all(options):
    log = bench.Log(options.log)
    runs = [run for cell in bench.cells(options) for run in bench.runs_of(cell, options)]
    todo = [run for run in runs if run.key not in log.records]
    left = bench._play_until(math.inf, Here(), todo, options, log)
    return log, todo, left


@pytest.mark.filterwarnings("ignore")
def test_benchmark_writes_every_run_down_and_goes_on_from_there(options):
    log, todo, left = play_all(options)
    assert len(todo) == len(log.records) == 2 * 2 * 3
    assert left == []
    records = [json.loads(line) for line in options.log.read_text().splitlines()]
    assert records == list(log.records.values())
    for record in records:
        assert record["status"] == "ok"
        assert record["evaluations"] <= record["budget"]
        assert 0 < record["regret"] < 10
    # The last line of a run that was cut off is half there.
    text = options.log.read_text()
    options.log.write_text(text[:-30])
    log, todo, _ = play_all(options)
    assert len(todo) == 1
    assert log.records[todo[0].key]["regret"] == records[-1]["regret"]
    assert play_all(options)[1] == []


@pytest.mark.filterwarnings("ignore")
def test_page_says_what_the_log_says(options):
    log, _, _ = play_all(options)
    text = "\n".join(bench.page(log, options, {("cma", "skew", 400): "time was up"}))

    def of(method, budget):
        return np.array(
            [
                log.records["skew", 2, 1.0, budget, method, seed]["regret"]
                for seed in range(options.seeds)
            ]
        )

    ratios = np.concatenate([of("cma", budget) / of("ZOSGD", budget) for budget in (200, 400)])
    found = bench.compare(log, options, "cma")
    assert sorted(found.ratios) == pytest.approx(sorted(ratios))
    wins = sum(np.median(of("cma", b)) > np.median(of("ZOSGD", b)) for b in (200, 400))
    assert (found.wins, found.losses) == (wins, 2 - wins)
    assert f"| cma | {bench.median_text(ratios)} | {wins} | {2 - wins} |" in text
    assert "**skew, d = 2, noise 1**" in text
    assert f"{bench.number(np.median(of('cma', 200)))} ({bench.number(of('cma', 200).mean())})" in (
        text
    )
    assert "- Not run at 400 on some or all problems, as time was up: cma." in text
    assert "Recommends ``result.xfavorite``" in text


def test_slow_and_unsuitable_methods_are_left_out(options):
    log = bench.Log(options.log)
    cell = bench.Cell("skew", 2, 1.0, 10_000)
    assert bench.left_out("cma", cell, log, 20) == ""
    record = {"problem": "skew", "dimension": 2, "sigma": 1.0, "budget": 1_000, "method": "cma"}
    record |= {"seed": 0, "regret": 1.0, "evaluations": 1_000, "seconds": 3.0, "status": "ok"}
    log.add(record)
    assert "would take more than 20 s" in bench.left_out("cma", cell, log, 20)
    # The first run of a process loads the library.
    log.add({**record, "seed": 1, "seconds": 0.5})
    assert bench.left_out("cma", cell, log, 20) == ""
    assert "is run only up to 1,000" in bench.left_out("Optuna TPE", cell, log, 20)
    small = bench.Cell("f101", 2, None, 300)
    assert bench.cap_of("BoTorch noisy EI", 20) > bench.cap_of("cma", 20) == 20
    assert "takes minutes" in bench.left_out("BoTorch noisy EI", small, log, 20)
    assert "needs constants" in bench.left_out("two-stage", small, log, 20)
    ten = bench.Cell("skew", 10, 1.0, 300)
    assert "needs 2,155 evaluations" in bench.left_out("two-stage", ten, log, 20)
    hundred = bench.Cell("skew", 100, 1.0, 300)
    assert "needs 810 evaluations" in bench.left_out("adaptive", hundred, log, 20)


def test_time_that_is_up_leaves_runs_out(options):
    log = bench.Log(options.log)
    runs = bench.runs_of(bench.cells(options)[0], options)
    assert bench._play_until(-math.inf, Here(), runs, options, log) == runs
    assert log.records == {}


def test_failures_are_results(options, monkeypatch):
    run = bench.runs_of(bench.cells(options)[0], options)[0]
    log = bench.Log(options.log)

    def fail(objective, task):
        objective.many(np.zeros((3, 2)))
        raise ValueError("no")

    monkeypatch.setitem(peers.METHODS, run.method, peers.Method(fail))
    record = bench.play(run, 10)
    assert (record["status"], record["regret"], record["evaluations"]) == (
        "ValueError: no",
        None,
        3,
    )
    slow = bench.Run(run.cell, "cma", 0)
    log.add(bench.play(slow, -1))
    assert log.records[slow.key]["status"] == bench.TOO_SLOW
    assert bench.regrets(log, run.cell, "cma", options) == {}
    monkeypatch.setitem(sys.modules, "noisyopt", None)
    missing = bench.play(bench.Run(run.cell, "noisyopt SPSA", 0), 10)
    assert missing["status"] == bench.MISSING
    monkeypatch.setitem(peers.METHODS, run.method, peers.Method(lambda o, t: np.full(2, np.inf)))
    assert bench.play(run, 10)["regret"] is None
    log.add(record)
    assert bench.regrets(log, run.cell, run.method, options) == {0: math.inf}
    assert "1 runs ended with `ValueError: no`" in "\n".join(bench.gaps(log, options, {}))


def test_diverged_runs_are_counted_not_dropped(options):
    log = bench.Log(options.log)
    record = {"problem": "skew", "dimension": 2, "sigma": 1.0, "budget": 200, "evaluations": 200}
    record |= {"seconds": 0.1, "status": "ok"}
    for seed, (ours, theirs) in enumerate([(0.1, None), (None, 0.2)]):
        log.add({**record, "seed": seed, "method": "ZOSGD", "regret": ours})
        log.add({**record, "seed": seed, "method": "cma", "regret": theirs})
    found = bench.compare(log, options, "cma")
    assert found.ratios == [math.inf, 0.0]
    assert bench.number(math.inf) == "diverges"
    assert "diverges" in bench.cell_text([0.1, math.inf, math.inf])


def test_cells_are_those_that_there_are(options):
    options = bench.parse(
        ["--problems", "skew,f101,cancer", "--dims", "2,7", "--sigmas", ".1,1", "--budgets", "1e3"]
    )
    found = [(cell.problem, cell.dimension, cell.sigma) for cell in bench.cells(options)]
    assert found == [
        ("skew", 2, 0.1),
        ("skew", 2, 1.0),
        ("skew", 7, 0.1),
        ("skew", 7, 1.0),
        ("f101", 2, None),
        ("cancer", 31, None),
    ]


def test_command_line_is_checked(capsys):
    with pytest.raises(SystemExit):
        bench.parse(["--problems", "sphere"])
    assert "'sphere' is none of skew," in capsys.readouterr().err
    quick = bench.parse(["--quick"])
    assert quick.dry_run and quick.minutes < 1
    assert quick.log != bench.LOG
    assert bench.parse(["--methods", "cma"]).methods == ["adaptive", "cma"]
    default = bench.parse([])
    assert default.minutes <= 15 and not default.dry_run
    assert set(default.methods) == set(peers.METHODS)
