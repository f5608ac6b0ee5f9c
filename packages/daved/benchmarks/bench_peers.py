"""Purchases by this package beside those by other libraries' own code, and agreement of values.

Every method gets the same markets in the same run: the published synthetic one with three seeds and
the diabetes table with three splits. Libraries run in environments of their own (``peers_env/``,
one worker per library, made by ``uv run --script`` from what its first lines ask for), on files
with rows, labels, validation points and queries; they give values or rankings and seconds, and this
driver buys by them for the same buyers. Seconds leave out imports and the making of environments.

    python packages/daved/benchmarks/bench_peers.py

rewrites its part of ``RESULTS.md`` in about eight minutes of an idle core; ``--quick`` takes two,
needs the environments all the same, and only prints. With ``--folder`` what libraries said stays,
and they are not asked again.

Shapes: n sellers' rows, d features, m buyers, b budgets.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from modicum.core.benchmark import preamble, table, write_section
from modicum.core.device import numpy_generator
from modicum.daved.errors import DAVEDWarning
from modicum.daved.evaluation import buyer_errors, error_ratio, random_orders
from modicum.daved.markets import Market, bundled_market, gaussian_market
from modicum.daved.peers.banzhaf import Banzhaf, maximum_sample_reuse
from modicum.daved.peers.base import LABELS, QUERIES, VALIDATION, Peer, View, order_of
from modicum.daved.peers.cosine import AbsoluteCosine
from modicum.daved.peers.data_oob import DataOOB
from modicum.daved.peers.data_shapley import DataShapley
from modicum.daved.peers.influence import Influence
from modicum.daved.peers.k_center import KCenter
from modicum.daved.peers.knn_shapley import KNNShapley, KNNShapleyRegression
from modicum.daved.peers.lava import LAVA
from modicum.daved.peers.leverage import Leverage
from modicum.daved.peers.loo import LeaveOneOut
from modicum.daved.peers.nearest import Nearest
from modicum.daved.peers.utility import DEFAULT_RIDGE, RidgeUtility
from modicum.daved.select import select

RESULTS = Path(__file__).with_name("RESULTS.md")
WORKERS = Path(__file__).with_name("peers_env")
OURS = "modicum"
RANDOM_DRAWS = 10
"""Random purchases of a buyer whose mean error is the baseline."""
NEIGHBOURS, MODELS, ORDERS, SETS = 5, 200, 5, 200
"""Of KNN-Shapley, Data-OOB, Data Shapley and Banzhaf values, in the libraries and here."""
DEFAULT_DESIGN = "DAVED, Frank-Wolfe"
REFERENCE_STEPS = 500
"""Default of the published code."""
BLUR = 0.1
"""Entropy in OpenDataVal's LAVA, in units of half a squared distance."""
LABEL_WEIGHT = 0.5
"""Of labels in OpenDataVal's LAVA: it halves distances of classes that are halved already."""
CLASSES = 3
GAME, GAME_ORDERS, GAME_SETS = 12, 300, 3000
"""Rows of the small game, on which Monte Carlo values come near to exact ones, and its samples."""
LIMIT = 1800
"""Most seconds of a library."""

LIBRARIES = {
    "opendataval": "OpenDataVal",
    "pydvl": "pyDVL",
    "submodlib": "submodlib",
    "apricot": "apricot",
    "skactiveml": "scikit-activeml",
}
SHAPLEY, BANZHAF = "Data Shapley", "Banzhaf"
KNN, OOB, LOO = "KNN-Shapley", "Data-OOB", "leave one out"
ON_MARKETS: tuple[str, ...] = (
    KNN,
    "LAVA",
    OOB,
    SHAPLEY,
    BANZHAF,
    "DVRL",
    "FLQMI",
    "facility location",
)
ON_MARKETS += ("greedy sampling", "core-set", LOO)
"""What the libraries run on every market, each what it has."""
NOT_ON_MARKETS = {("opendataval", LOO)}
"""Left out for its time: 15 seconds a market, and its values are those of pyDVL."""
SEES = {
    "FLQMI": "features, query",
    OOB: "features, labels",
    **dict.fromkeys(("facility location", "greedy sampling", "core-set"), "features"),
}
WITH_VALIDATION = "features, labels, validation"

Orders = Sequence[np.ndarray]


@dataclass(frozen=True)
class Setting:
    """Markets that go into one table, and what buyers spend and fit."""

    title: str
    markets: dict[str, Market]
    budgets: tuple[int, ...]
    ridge: float


@dataclass
class Row:
    """A method's outcomes on the markets of a setting."""

    name: str
    code: str
    sees: str
    errors: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What a library said about one task."""

    values: dict[str, np.ndarray]
    seconds: dict[str, float]
    failures: dict[str, str]
    versions: dict[str, str]


# Markets and tasks -------------------------------------------------------------------------------


def settings(quick: bool) -> list[Setting]:
    seeds = range(1 if quick else 3)
    n, buyers = (300, 30) if quick else (1000, 100)
    gaussian = {
        f"gaussian-{seed}": gaussian_market(
            n, 30, buyers, rng=numpy_generator(seed, "benchmark beside peers")
        )
        for seed in seeds
    }
    diabetes = {
        f"diabetes-{seed}": bundled_market(
            "diabetes", 40, rng=numpy_generator(seed, "benchmark beside peers, diabetes")
        )
        for seed in seeds
    }
    return [
        Setting(f"Gaussian market, n = {n:,}, d = 30", gaussian, tuple(range(1, 11)), 0.0),
        Setting("Diabetes, n = 372, d = 11", diabetes, (10, 20, 40), 1e-2),
    ]


def with_classes(market: Market) -> Market:
    """Put the labels into classes at quantiles of the sellers' labels."""
    cuts = np.quantile(market.labels_n, np.arange(1, CLASSES) / CLASSES)
    return replace(
        market,
        labels_n=np.digitize(market.labels_n, cuts),
        validation_labels_v=np.digitize(market.validation_labels_v, cuts),
    )


def small_game() -> Market:
    rng = numpy_generator(0, "benchmark beside peers, game")
    return gaussian_market(GAME, 5, 1, validation=50, noise=0.5, normalize=False, rng=rng)


def write_task(
    folder: Path, name: str, market: Market, methods: Sequence[str], **changes: int
) -> None:
    """Write what the workers read; `_worker.Task` says what it is."""
    labels_v = market.validation_labels_v
    mean_square = float(np.square(market.rows_nd).sum(axis=1).mean())
    found: dict[str, Any] = {
        "methods": np.array(methods),
        "X": market.rows_nd,
        "y": market.labels_n,
        "X_val": market.validation_vd,
        "y_val": labels_v,
        "Q": market.queries_md,
        "alpha": DEFAULT_RIDGE * mean_square,
        "empty": -float(np.square(labels_v).mean()),
        "neighbours": NEIGHBOURS,
        "models": MODELS,
        "orders": ORDERS,
        "sets": SETS,
        "budget": 10,
        "seed": 1,
    }
    np.savez(folder / f"{name}.npz", **(found | changes))


# Libraries ---------------------------------------------------------------------------------------


def run_library(library: str, folder: Path) -> str | None:
    """Let a worker answer all tasks of a folder; give the reason if it did not."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "OMP_NUM_THREADS": "1"}
    command = [uv, "run", "--quiet", "--script", str(WORKERS / f"{library}_worker.py"), str(folder)]
    log = folder / f"{library}.log"
    try:
        with log.open("w") as stream:
            done = subprocess.run(
                command, env=environment, stdout=stream, stderr=stream, timeout=LIMIT, check=False
            )
    except FileNotFoundError:
        return "uv is not installed"
    except subprocess.TimeoutExpired:
        return f"it took more than {LIMIT} seconds"
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {done.returncode}"
    return None


def ask(library: str, all_settings: Sequence[Setting], folder: Path) -> str | None:
    """Put all tasks to a library and its answers into a folder; give the reason if it failed."""
    with tempfile.TemporaryDirectory() as temporary:
        own, start = Path(temporary), time.perf_counter()
        write_tasks(all_settings, own, library)
        reason = run_library(library, own)
        print(f"{library}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        for path in own.glob(f"*.{library}.*"):
            shutil.copy(path, folder)
    return reason


def answers(folder: Path, library: str, task: str) -> Answer | None:
    """Read what a library said about a task; None where it said nothing."""
    noted = folder / f"{task}.{library}.json"
    if not noted.exists():
        return None
    with np.load(folder / f"{task}.{library}.npz") as values:
        return Answer(dict(values), **json.loads(noted.read_text()))


def orders_of(found: np.ndarray, buyers: int) -> Orders:
    """Give the order of purchase for every buyer, of values of rows or of rankings."""
    if found.ndim == 2:
        return list(found)
    return [order_of(found)] * buyers


# This package ------------------------------------------------------------------------------------


def designs(largest: int) -> dict[str, dict[str, Any]]:
    """Give the calls of `select` by name."""
    return {
        DEFAULT_DESIGN: {"solver": "fw", "budget": largest},
        "DAVED, single step": {"solver": "one_step", "budget": largest},
        "DAVED, greedy": {"solver": "greedy", "budget": largest},
        # The published code spends less than the budget, never all of it.
        "DAVED, as published code": {
            "solver": "fw",
            "compat": "reference",
            "max_iter": REFERENCE_STEPS,
            "budget": largest + 1,
        },
    }


def peers() -> dict[str, Peer]:
    return {
        "nearest": Nearest(),
        "absolute cosine": AbsoluteCosine(),
        "leverage": Leverage(),
        "k-center": KCenter(),
        f"{KNN}, matching labels": KNNShapley(NEIGHBOURS),
        f"{KNN}, regression": KNNShapleyRegression(NEIGHBOURS),
        OOB: DataOOB("least_squares", models=MODELS),
        "LAVA": LAVA(),
        f"{SHAPLEY}, {ORDERS} orders": DataShapley(ORDERS),
        f"{SHAPLEY}, default": DataShapley(),
        f"{BANZHAF}, {SETS} sets": Banzhaf(SETS),
        f"{BANZHAF}, default": Banzhaf(),
        LOO: LeaveOneOut(),
        "influence": Influence(),
    }


def view_of(market: Market, queries_md: np.ndarray) -> View:
    return View(
        market.rows_nd,
        market.labels_n,
        queries_md,
        market.prices_n,
        market.validation_vd,
        market.validation_labels_v,
    )


def peer_orders(peer: Peer, market: Market) -> Orders:
    rng = numpy_generator(0, "benchmark beside peers", peer.name)
    if QUERIES in peer.sees:
        views = [view_of(market, query_d[None]) for query_d in market.queries_md]
        return [order_of(peer.values(view, rng)) for view in views]
    values_n = peer.values(view_of(market, market.queries_md), rng)
    return orders_of(values_n, len(market.queries_md))


def seen_by(peer: Peer) -> str:
    kinds = {QUERIES: "query", LABELS: "labels", VALIDATION: "validation"}
    return ", ".join(["features", *(name for kind, name in kinds.items() if kind in peer.sees)])


def design_orders(market: Market, call: dict[str, Any]) -> Orders:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DAVEDWarning)
        return [
            select(market.rows_nd, query_d[None], **call).indices for query_d in market.queries_md
        ]


# The tables of purchases -------------------------------------------------------------------------


def baseline(setting: Setting) -> list[np.ndarray]:
    """Give every buyer's mean error of random purchases, (m, b) for each market."""
    found = []
    for name, market in setting.markets.items():
        rng = numpy_generator(0, "benchmark beside peers, random", name)
        draws = [
            buyer_errors(market, random_orders(market, rng), setting.budgets, ridge=setting.ridge)
            for _ in range(RANDOM_DRAWS)
        ]
        found.append(np.mean(draws, axis=0))
    return found


def our_rows(setting: Setting) -> list[Row]:
    largest = max(setting.budgets)
    rows = [
        (Row(name, OURS, "features, query"), lambda market, call=call: design_orders(market, call))
        for name, call in designs(largest).items()
    ]
    rows += [
        (Row(name, OURS, seen_by(peer)), lambda market, peer=peer: peer_orders(peer, market))
        for name, peer in peers().items()
    ]
    for row, make in rows:
        for market in setting.markets.values():
            start = time.perf_counter()
            orders = make(market)
            row.seconds.append(time.perf_counter() - start)
            row.errors.append(buyer_errors(market, orders, setting.budgets, ridge=setting.ridge))
    return [row for row, _ in rows]


def library_rows(setting: Setting, folder: Path, libraries: Sequence[str]) -> list[Row]:
    found = []
    for library in libraries:
        for method in ON_MARKETS:
            row = Row(method, LIBRARIES[library], SEES.get(method, WITH_VALIDATION))
            for name, market in setting.markets.items():
                said = answers(folder, library, name)
                if said is None or method not in said.values:
                    continue
                orders = orders_of(said.values[method], len(market.queries_md))
                row.errors.append(
                    buyer_errors(market, orders, setting.budgets, ridge=setting.ridge)
                )
                row.seconds.append(said.seconds[method])
            if len(row.errors) == len(setting.markets):
                found.append(row)
    return found


def purchases(setting: Setting, folder: Path, libraries: Sequence[str]) -> list[str]:
    """Give the table of one setting, the lowest error first."""
    chance = Row("random", OURS, "nothing", baseline(setting), [0.0])
    theirs_mb = np.concatenate(chance.errors)
    nothing = Row("no purchase, prediction 0", OURS, "nothing", seconds=[0.0])
    for market in setting.markets.values():
        error_m1 = np.square(market.answers_m)[:, None]
        nothing.errors.append(np.tile(error_m1, len(setting.budgets)))
    rows = [chance, nothing, *our_rows(setting), *library_rows(setting, folder, libraries)]
    rows.sort(key=lambda row: float(np.mean(np.concatenate(row.errors))))
    names = [f"{row.name} ({row.code})" for row in rows]
    ahead = names[: names.index(f"{DEFAULT_DESIGN} ({OURS})")]
    lines = []
    for row in rows:
        mine_mb = np.concatenate(row.errors)
        ratio = error_ratio(mine_mb, theirs_mb, rng=np.random.default_rng(0))
        interval = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        texts = [row.name, row.code, row.sees, f"{mine_mb.mean():.3g}"]
        texts += ["1" if row is chance else interval, f"{mine_mb[:, -1].mean():.2g}"]
        seconds = float(np.mean(row.seconds))
        lines.append([*texts, f"{seconds:.2g}" if seconds else ""])
    spent = setting.budgets
    listed = ", ".join(str(budget) for budget in spent)
    listed = f"{spent[0]} to {spent[-1]}" if len(spent) > 3 else listed
    header = ["method", "code", "sees", "error", "error / random"]
    header += [f"error at {spent[-1]}", "seconds"]
    model = "least squares of smallest norm"
    model = f"a ridge of {setting.ridge:g}" if setting.ridge else model
    return [
        f"**{setting.title}**, {len(setting.markets)} market(s), {len(theirs_mb)} buyers with one "
        f"query each, purchases of {listed} rows, model: {model}.",
        "",
        *table(header, lines),
        "",
        f"Ahead of {DEFAULT_DESIGN}, the default: {'; '.join(ahead) or 'none'}.",
        "",
    ]


# Agreement of values -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A method of a library, and our peer for it.

    Parameters
    ----------
    task, method
        What the libraries were asked.
    libraries
        Who has the method for this task.
    data
        What the task is, for the table.
    peer
        Ours.
    market
        What it is asked.
    exact
        Values that take the place of ours, (n,), where these are Monte Carlo and exact ones known.
    scale
        What our values are multiplied with.
    """

    task: str
    method: str
    libraries: tuple[str, ...]
    data: str
    peer: Peer
    market: Market
    exact: np.ndarray | None = None
    scale: float = 1.0


def lava_as(market: Market, **settings: Any) -> LAVA:
    """Give our peer with the entropy of OpenDataVal, whose costs are half of ours."""
    features = LAVA(label_weight=0.0).costs(view_of(market, market.queries_md))
    return LAVA(regularization=2 * BLUR / float(features.mean()), **settings)


def exact_values(market: Market) -> tuple[np.ndarray, np.ndarray]:
    """Give the Shapley and the Banzhaf values of rows from the utilities of all sets, (n,) both."""
    view, n = view_of(market, market.queries_md), len(market.rows_nd)
    utility = RidgeUtility(
        view.rows_nd, view.labels_n, view.validation_rows_vd, view.validation_labels_v
    )
    sets = np.arange(2**n)
    members_sn = (sets[:, None] >> np.arange(n)) & 1 == 1
    utilities_s = np.array([utility.of(np.flatnonzero(members)) for members in members_sn])
    # |S|! (n - |S| - 1)! / n! for a set S that the row joins.
    sizes_s = members_sn.sum(axis=1)
    weights = np.array([1 / (n * math.comb(n - 1, size)) for size in range(n)])
    shapley_n = np.empty(n)
    for row in range(n):
        without = sets[~members_sn[:, row]]
        gains = utilities_s[without | (1 << row)] - utilities_s[without]
        shapley_n[row] = weights[sizes_s[without]] @ gains
    return shapley_n, maximum_sample_reuse(members_sn, utilities_s)


def pairs(setting: Setting) -> list[Pair]:
    first, market = next(iter(setting.markets.items()))
    classes, game = with_classes(market), small_game()
    both, only = ("opendataval", "pydvl"), ("opendataval",)
    grouped = f"first Gaussian market, labels in {CLASSES} classes"
    numbers, few = "first Gaussian market", f"Gaussian rows, n = {GAME}, d = 5"
    exactly = f"{few}, exact values"
    shapley_n, banzhaf_n = exact_values(game)
    trees = DataOOB("tree", "classification", MODELS)
    features = lava_as(market, label_weight=0.0)
    by_class = lava_as(classes, task="classification", label_weight=LABEL_WEIGHT)
    return [
        Pair("classes", KNN, both, grouped, KNNShapley(NEIGHBOURS), classes),
        Pair(first, KNN, only, numbers, KNNShapley(NEIGHBOURS), market),
        Pair(first, OOB, both, numbers, DataOOB("least_squares", models=MODELS), market),
        Pair("classes", OOB, both, grouped, trees, classes),
        Pair(first, "LAVA", only, f"{numbers}, labels unseen", features, market, scale=0.5),
        Pair("classes", "LAVA", only, grouped, by_class, classes, scale=0.5),
        Pair("game", LOO, both, few, LeaveOneOut(), game),
        Pair(first, LOO, ("pydvl",), numbers, LeaveOneOut(), market),
        Pair("game", SHAPLEY, both, exactly, DataShapley(GAME_ORDERS, 0.0), game, shapley_n),
        Pair("game", BANZHAF, both, exactly, Banzhaf(GAME_SETS), game, banzhaf_n),
    ]


def write_tasks(all_settings: Sequence[Setting], folder: Path, library: str) -> None:
    """Write the tasks of one library."""
    for setting in all_settings:
        methods = [name for name in ON_MARKETS if (library, name) not in NOT_ON_MARKETS]
        for name, market in setting.markets.items():
            write_task(folder, name, market, methods, budget=max(setting.budgets))
    first = next(iter(all_settings[0].markets.values()))
    write_task(folder, "classes", with_classes(first), [KNN, OOB, "LAVA"])
    few = {"orders": GAME_ORDERS, "sets": GAME_SETS}
    write_task(folder, "game", small_game(), [LOO, SHAPLEY, BANZHAF], **few)


def rank_correlation(one_n: np.ndarray, other_n: np.ndarray) -> str:
    from scipy.stats import spearmanr

    if np.ptp(one_n) == 0 or np.ptp(other_n) == 0:
        return "all equal" if np.ptp(one_n) == np.ptp(other_n) else "one constant"
    return f"{spearmanr(one_n, other_n).statistic:.3f}"


def largest_difference(one_n: np.ndarray, other_n: np.ndarray) -> str:
    return f"{float(np.abs(one_n - other_n).max()) / (float(np.ptp(other_n)) or 1.0):.1g}"


def agreement(setting: Setting, folder: Path, libraries: Sequence[str]) -> list[str]:
    """Give the table of our values beside the libraries'."""
    rows = []
    for pair in pairs(setting):
        view = view_of(pair.market, pair.market.queries_md)
        start = time.perf_counter()
        mine_n = pair.scale * pair.peer.values(view, np.random.default_rng(0))
        seconds = time.perf_counter() - start
        again_n = pair.scale * pair.peer.values(view, np.random.default_rng(1))
        mine_n = mine_n if pair.exact is None else pair.exact
        for library in pair.libraries:
            said = answers(folder, library, pair.task) if library in libraries else None
            if said is None or pair.method not in said.values:
                continue
            theirs_n = said.values[pair.method]
            rows.append(
                [
                    pair.method,
                    LIBRARIES[library],
                    pair.data,
                    rank_correlation(theirs_n, mine_n),
                    rank_correlation(again_n, mine_n),
                    largest_difference(theirs_n, mine_n),
                    largest_difference(again_n, mine_n),
                    f"{said.seconds[pair.method]:.2g}",
                    f"{seconds:.2g}",
                ]
            )
    header = ["method", "library", "data", "rank correlation with ours"]
    header += ["of ours, another seed", "largest difference from ours", "of ours, another seed"]
    return [
        "**Agreement of values**: the library's with ours, and ours with ours from another seed; "
        "in the small game both Monte Carlo values with exact ones. Differences are in units of "
        "the range of values.",
        "",
        *table([*header, "its seconds", "our seconds"], rows),
        "",
    ]


# The page ----------------------------------------------------------------------------------------

NOTES = (
    "Errors are squared errors of the buyers' models, means over buyers and budgets; ratios are "
    f"to random purchases by the same buyers (mean of {RANDOM_DRAWS} each), with 95 % of a "
    "bootstrap over buyers, the same ones in both. Methods that do not see the query give all "
    "buyers of a market one order, whose luck the interval leaves out. Seconds: a market, all "
    "buyers.",
    f"Settings, in libraries and here: {NEIGHBOURS} neighbours, {MODELS} bags of least squares, "
    f"{ORDERS} orders, {SETS} sets, ridge {DEFAULT_RIDGE:g} times the mean squared norm without "
    "intercept, utility minus the mean squared error on the validation points; DVRL: 1,000 epochs, "
    "the library's default, on the same ridge. `default` is ours with its own numbers, 100 orders "
    "and 2,000 sets. DAVED is `select` at its defaults with the largest budget; as published code: "
    f'`compat="reference"`, {REFERENCE_STEPS} steps.',
    "Where labels are numbers, OpenDataVal's KNN-Shapley asks whether they are equal, so all "
    "values are 0 and the order is that of the indices; its LAVA puts all rows into one class and "
    "does not see labels; pyDVL's KNN-Shapley refuses them. Neither has the regression form.",
    "Agreement is with our peers at the libraries' settings: LAVA with OpenDataVal's entropy and "
    f"with {LABEL_WEIGHT:g} of the distance of classes, which it halves twice; geomloss anneals "
    "the entropy in a few steps where ours iterates until the margins hold. OpenDataVal calculates "
    "in float32. Its Data Shapley begins with no rows here (by default with five, whose gains it "
    f"leaves out). The small game has {GAME_ORDERS} orders and {GAME_SETS:,} sets, none cut short "
    "by ours.",
)


def problems(
    folder: Path, reasons: dict[str, str | None], all_settings: Sequence[Setting]
) -> list[str]:
    """Say what did not run, and why."""
    lines = [
        f"- {LIBRARIES[library]} did not run: {reason}."
        for library, reason in reasons.items()
        if reason
    ]
    tasks = [name for setting in all_settings for name in setting.markets] + ["classes", "game"]
    failures: dict[tuple[str, str, str], list[str]] = {}
    for library in reasons:
        for task in tasks:
            said = answers(folder, library, task)
            for method, error in (said.failures if said else {}).items():
                failures.setdefault((library, method, error), []).append(task)
    lines += [
        f"- {LIBRARIES[library]}, {method}, on {', '.join(where)}: `{error[:200]}`"
        for (library, method, error), where in failures.items()
    ]
    return ["Did not run or failed:", "", *lines, ""] if lines else []


def versions(folder: Path, reasons: dict[str, str | None]) -> list[str]:
    lines = []
    for library in reasons:
        said = answers(folder, library, "game")
        if said is not None:
            listed = ", ".join(f"{name} {number}" for name, number in said.versions.items())
            lines.append(f"- {listed}")
    return ["Environments:", "", *lines]


def page(folder: Path, libraries: Sequence[str], quick: bool) -> list[str]:
    """Run everything and give the section of the page."""
    all_settings = settings(quick)
    reasons: dict[str, str | None] = dict.fromkeys(libraries)
    kept = [library for library in libraries if answers(folder, library, "game") is not None]
    for library in libraries:
        if library not in kept:
            reasons[library] = ask(library, all_settings, folder)
    again = ", ".join(LIBRARIES[library] for library in kept)
    return [
        *([f"Answers and seconds of an earlier run on this machine: {again}.", ""] if kept else []),
        *(line for setting in all_settings for line in purchases(setting, folder, libraries)),
        *agreement(all_settings[0], folder, libraries),
        *(line for note in NOTES for line in (note, "")),
        *problems(folder, reasons, all_settings),
        *versions(folder, reasons),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="by comma")
    parser.add_argument(
        "--folder", type=Path, help="where libraries' answers stay and are found again"
    )
    parser.add_argument("--quick", action="store_true", help="one small market; the page stays")
    parser.add_argument("--dry-run", action="store_true", help="the page stays")
    options = parser.parse_args(arguments)
    libraries = [name for name in options.libraries.split(",") if name]
    for name in libraries:
        if name not in LIBRARIES:
            parser.error(f"{name!r} is none of {', '.join(LIBRARIES)}")
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(["python", "packages/daved/benchmarks/bench_peers.py", *given])
    head = preamble(command, "one thread; libraries one after the other, then this package")
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(1):
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [*head, *page(folder, libraries, options.quick)]
    print("\n".join(lines))
    if not (options.quick or options.dry_run):
        write_section(RESULTS, "peers", lines)


if __name__ == "__main__":
    main()
