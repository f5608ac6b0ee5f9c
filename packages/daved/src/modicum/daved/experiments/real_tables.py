"""Small purchases from tables that come with scikit-learn: designs, neighbours, data valuation.

Every table is dealt into folds; each fold's rows are the buyers, one query each, and the others the
sellers. Everyone buys 10, 20 or 40 of the sellers' rows and fits a linear model with a small ridge.
Designs and neighbours see features alone; some peers see the sellers' labels, some a labelled
validation set as well. Real labels are not linear in the features, so that a design's promise,
which is about a linear model, is put to the test here.

Intervals are of the bootstrap over folds and over buyers within folds. Two of the tables are
generated and made anew in every repetition of the folds.

Shapes: n sellers' rows, m buyers, b budgets.
"""

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.daved.acquisition import automatic_iterations
from modicum.daved.evaluation import buyer_errors
from modicum.daved.experiments._purchases import (
    RANDOM,
    Outcome,
    Played,
    frank_wolfe_orders,
    random_errors,
    sees,
    subject,
    together,
)
from modicum.daved.experiments._shared import (
    bought_orders,
    peer_orders,
    per_buyer,
    purchase_order,
    verdict,
)
from modicum.daved.markets import BUNDLED, Market, bundled_folds
from modicum.daved.peers.banzhaf import Banzhaf
from modicum.daved.peers.base import Peer
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
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.greedy import Greedy
from modicum.daved.solvers.one_step import OneStep

BUDGETS = (10, 20, 40)
STEPS = 300
RIDGE = 1e-2
"""Of the buyers' model; rows have a mean norm of 1."""
VALIDATION = 35
"""Labelled rows for peers that need them: a fold of the smallest table."""
DRAWS = 5
"""Random purchases of every buyer, of whose errors the mean counts."""
CLASSES = ("breast_cancer", "wine", "digits")
"""Tables whose labels are classes, on which counting equal labels makes sense."""

HALF, HALF_ON = 0.5, 4
"""Frank-Wolfe's ratio to random at the smallest budget, and on how many tables it has to be so."""

SINGLE, GREEDY = "single step", "greedy design"
CONVERGED, EARLY = f"Frank-Wolfe, {STEPS} steps", "Frank-Wolfe, twice the budget"
NEAREST, OOB, OOB_LINEAR = "nearest", "Data-OOB, trees", "Data-OOB, least squares"
MATCHES = "KNN-Shapley, matching labels"
DRAWN = (CONVERGED, EARLY, GREEDY, SINGLE, NEAREST, OOB_LINEAR, "KNN-Shapley, regression")
"""Methods in the figures."""


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes
    ----------
    repeats, folds, buyers
        Times that a table is dealt; folds of which buyers are taken, out of `FOLDS`; buyers of
        each.
    models, orders, sets
        Of Data-OOB, Data Shapley and Data Banzhaf.
    """

    repeats: int
    folds: int
    buyers: int
    models: int
    orders: int
    sets: int


FOLDS = 5
FULL = Size(repeats=2, folds=FOLDS, buyers=30, models=100, orders=50, sets=1000)
QUICK = Size(repeats=1, folds=1, buyers=12, models=10, orders=3, sets=100)


def peers(table: str, size: Size) -> dict[str, Peer]:
    """Give the peers by name. Cheapest is not among them: all rows have one price."""
    found: dict[str, Peer] = {
        NEAREST: Nearest(),
        "absolute cosine": AbsoluteCosine(),
        "leverage": Leverage(),
        "k-center": KCenter(limit=max(BUDGETS)),
        OOB: DataOOB(models=size.models),
        OOB_LINEAR: DataOOB(learner="least_squares", models=size.models),
        "KNN-Shapley, regression": KNNShapleyRegression(),
        "LAVA": LAVA(),
        "Data Shapley": DataShapley(orders=size.orders),
        "Data Banzhaf": Banzhaf(sets=size.sets),
        "influence": Influence(),
        "leave one out": LeaveOneOut(),
    }
    if table in CLASSES:
        found[MATCHES] = KNNShapley()
    return found


def _shown(name: str) -> str:
    return "nothing" if name == RANDOM else sees(peers(CLASSES[0], QUICK).get(name))


# Purchases --------------------------------------------------------------------------------------


def _errors(market: Market, orders: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    return buyer_errors(market, orders, BUDGETS, ridge=RIDGE)


def _converged(market: Market) -> np.ndarray:
    return _errors(market, frank_wolfe_orders(ArrayPool(market.rows_nd), market, STEPS))


def _early(market: Market) -> np.ndarray:
    pool, columns = ArrayPool(market.rows_nd), []
    for budget in BUDGETS:
        steps = automatic_iterations(budget, market.prices_n)
        orders = frank_wolfe_orders(pool, market, steps)
        columns.append(buyer_errors(market, orders, [budget], ridge=RIDGE))
    return np.concatenate(columns, axis=1)


def _single(market: Market) -> np.ndarray:
    designs = per_buyer(market, lambda pool, queries_qd: OneStep().solve(Problem(pool, queries_qd)))
    return _errors(market, [purchase_order(design) for design in designs])


def _greedy(market: Market) -> np.ndarray:
    return _errors(market, bought_orders(market, Greedy(), float(max(BUDGETS))))


def _by_peer(market: Market, peer: Peer, rng: np.random.Generator) -> np.ndarray:
    return _errors(market, peer_orders(market, peer, rng))


def play(market: Market, size: Size, rng: np.random.Generator) -> Played:
    """Let every method buy for every buyer of one fold."""
    methods: dict[str, Callable[[], np.ndarray]] = {
        RANDOM: lambda: random_errors(market, BUDGETS, RIDGE, DRAWS, rng),
        SINGLE: lambda: _single(market),
        CONVERGED: lambda: _converged(market),
        EARLY: lambda: _early(market),
        GREEDY: lambda: _greedy(market),
    }
    for name, peer in peers(market.name, size).items():
        methods[name] = partial(_by_peer, market, peer, rng)
    errors, seconds = {}, {}
    for name, buy in methods.items():
        start = time.perf_counter()
        errors[name] = buy()
        seconds[name] = time.perf_counter() - start
    return Played(errors, seconds)


def measure(ctx: RunContext, size: Size) -> dict[str, Outcome]:
    """Play all folds of all tables; those of an interrupted run are not repeated."""
    task = ctx.progress(len(BUNDLED) * size.repeats * size.folds, "folds")
    found = {}
    for table in BUNDLED:
        played = []
        for repeat in range(size.repeats):
            rng = numpy_generator(ctx.seed, "real tables", table, repeat)
            markets = bundled_folds(
                table, FOLDS, buyers=size.buyers, validation=VALIDATION, rng=rng
            )
            for fold, market in zip(range(size.folds), markets, strict=False):
                part = f"{table}-{repeat}-{fold}"
                kept = ctx.load_partial(part)
                if kept is None:
                    mine = numpy_generator(ctx.seed, "real tables", table, repeat, fold)
                    kept = play(market, size, mine).to_json()
                    ctx.save_partial(part, kept)
                played.append(Played.from_json(kept))
                task.advance(1)
        found[table] = together(BUDGETS, played)
    return found


# What is said -----------------------------------------------------------------------------------

Found = dict[str, Outcome]


def _subject(found: Found) -> str:
    return "For each table " + subject(next(iter(found.values())), "fold")


def losses(found: Found, mine: str, theirs: str) -> list[str]:
    """Say where a method has a higher error than another, by a per cent: table, budget, ratio.

    A star marks intervals that lie above 1.
    """
    listed = []
    for table, outcome in found.items():
        for budget in BUDGETS:
            ratio = outcome.ratio(mine, theirs, budget)
            if round(ratio.value, 2) > 1:
                star = "*" if ratio.low > 1 else ""
                listed.append(f"{table} at {budget} ({ratio.value:.2f}{star})")
    return listed


def claims(found: Found, *, quick: bool) -> list[Claim]:
    """Hold Frank-Wolfe to random purchases, and say where others are better."""
    return [
        _everywhere_below_random(found, quick),
        _half_of_random(found, quick),
        *(_against(found, rival, name, quick) for rival, name in RIVALS.items()),
    ]


RIVALS = {
    NEAREST: "nearest",
    OOB: "data_oob",
    OOB_LINEAR: "data_oob_linear",
    GREEDY: "greedy",
    SINGLE: "single_step",
    EARLY: "few_steps",
}
"""Whom Frank-Wolfe is held against, and how the claim is called."""


def _everywhere_below_random(found: Found, quick: bool) -> Claim:
    ratios = {
        (table, budget): outcome.to_random[CONVERGED, budget]
        for table, outcome in found.items()
        for budget in BUDGETS
    }
    (table, budget), worst = max(ratios.items(), key=lambda item: item[1].value)
    unsure = sum(ratio.high >= 1 for ratio in ratios.values())
    return Claim(
        "frank_wolfe_beats_random",
        f"Frank-Wolfe's purchases beat random ones on all {len(found)} tables at every budget.",
        None,
        worst.value,
        (worst.low, worst.high),
        verdict(worst, 1.0, quick=quick),
        "ratio of errors",
        f"{CONVERGED}; the largest of {len(ratios)} ratios: {table} at {budget}; holds if at most"
        f" 1. The intervals of {unsure} of them reach 1. {_subject(found)}",
    )


def _half_of_random(found: Found, quick: bool) -> Claim:
    ratios = {t: outcome.to_random[CONVERGED, BUDGETS[0]] for t, outcome in found.items()}
    count = sum(ratio.value <= HALF for ratio in ratios.values())
    surely = sum(ratio.high <= HALF for ratio in ratios.values())
    perhaps = sum(ratio.low <= HALF for ratio in ratios.values())
    listed = ", ".join(
        f"{t} {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        for t, ratio in ratios.items()
    )
    return Claim(
        "half_of_random",
        f"With {BUDGETS[0]} rows Frank-Wolfe has half the error of random purchases or less on most"
        " tables.",
        None,
        count,
        (surely, perhaps),
        None if quick and surely < HALF_ON <= perhaps else count >= HALF_ON,
        f"tables of {len(ratios)}",
        f"{CONVERGED}; ratios to random: {listed}; holds if {HALF_ON} are at most {HALF:g}. The"
        " interval counts tables whose whole interval is below, and those whose low end is."
        f" {_subject(found)}",
    )


def _against(found: Found, rival: str, name: str, quick: bool) -> Claim:
    ratios = {table: outcome.ratio(CONVERGED, rival) for table, outcome in found.items()}
    table, worst = max(ratios.items(), key=lambda item: item[1].value)
    lost = losses(found, CONVERGED, rival)
    where = ", ".join(lost) if lost else "nowhere"
    return Claim(
        f"not_beaten_by_{name}",
        f"On no table has Frank-Wolfe a higher error than this rival: {rival}.",
        None,
        worst.value,
        (worst.low, worst.high),
        verdict(worst, 1.0, quick=quick),
        "ratio of errors",
        f"{CONVERGED}, over {rival} (sees {_shown(rival)}), mean of the budgets, on the worst"
        f" table, {table}; holds if at most 1. The rival wins on {where}; a star where the"
        f" interval lies above 1. {_subject(found)}",
    )


def winners(found: Found) -> list[list[Any]]:
    """Give a row per table and budget: who has the lowest error, and Frank-Wolfe beside it."""
    rows: list[list[Any]] = []
    for table, outcome in found.items():
        for column, budget in enumerate(BUDGETS):
            means = {name: float(e[:, column].mean()) for name, e in outcome.errors.items()}
            best = min(means, key=lambda name: means[name])
            rows.append([table, budget, best, means[best], means[CONVERGED], means[RANDOM]])
    return rows


def means(found: Found) -> list[list[Any]]:
    """Give a row per method with its mean error on every table at every budget."""
    names = dict.fromkeys(name for outcome in found.values() for name in outcome.errors)
    return [
        [
            name,
            *(
                float(outcome.errors[name][:, column].mean()) if name in outcome.errors else None
                for outcome in found.values()
                for column in range(len(BUDGETS))
            ),
        ]
        for name in names
    ]


def ratios(outcome: Outcome) -> list[list[Any]]:
    """Give a row per method: what it sees, ratios to random with their intervals, seconds."""
    rows: list[list[Any]] = []
    for name in outcome.errors:
        row: list[Any] = [name, _shown(name)]
        for budget in BUDGETS:
            ratio = outcome.to_random[name, budget]
            row += [ratio.value, ratio.low, ratio.high]
        rows.append([*row, outcome.seconds[name]])
    return rows


RATIO_COLUMNS = [
    "method",
    "sees",
    *(f"{what} {budget}" for budget in BUDGETS for what in ("ratio at", "low", "high")),
    "seconds, all buyers",
]


def tables(found: Found) -> list[Table]:
    """Give the means of all tables, the winners, and a table's ratios each."""
    heads = [f"{table}, {budget}" for table in found for budget in BUDGETS]
    return [
        Table("Mean squared error, labels of variance 1", ["method", *heads], means(found)),
        Table(
            "Lowest error",
            ["table", "budget", "method", "its error", CONVERGED, RANDOM],
            winners(found),
        ),
        *(
            Table(f"Ratio to random, {table}", RATIO_COLUMNS, ratios(outcome), _subject(found))
            for table, outcome in found.items()
        ),
    ]


def to_csv(found: Found) -> str:
    """Write a line per table, method and budget."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["table", "method", "budget", "mean_error", "ratio_to_random", "low", "high"])
    for table, outcome in found.items():
        for name, errors_mb in outcome.errors.items():
            for column, budget in enumerate(BUDGETS):
                ratio = outcome.to_random[name, budget]
                mean = float(errors_mb[:, column].mean())
                lines.writerow([table, name, budget, mean, ratio.value, ratio.low, ratio.high])
    return text.getvalue()


def figures(found: Found) -> list[Figure]:
    """Draw the ratios to random with their intervals, a picture for each budget."""
    try:
        return [_figure(found, budget) for budget in BUDGETS]
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []


def _figure(found: Found, budget: int) -> Figure:
    from modicum.core.plots import COLOURS, GREY, new_axes

    figure, axes = new_axes("modicum-daved", 7.2, 4.2)
    places = np.arange(len(found))
    for index, name in enumerate(DRAWN):
        listed = [outcome.to_random[name, budget] for outcome in found.values()]
        middle, low, high = np.array([[r.value, r.low, r.high] for r in listed]).T
        axes.errorbar(
            places + (index - (len(DRAWN) - 1) / 2) * 0.1,
            middle,
            yerr=[middle - np.minimum(low, middle), np.maximum(high, middle) - middle],
            fmt="os^Dv<>"[index],
            markersize=4,
            linewidth=1,
            color=COLOURS[index],
            label=name,
        )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1, label=RANDOM)
    axes.set_yscale("log")
    axes.set_xticks(places, list(found))
    axes.set_ylabel("error over that of random purchases")
    axes.legend(frameon=False, fontsize="small", ncols=2)
    return Figure.from_matplotlib(
        figure,
        f"Ratio to random after {budget} rows",
        f"Below 1 is better than random. {_subject(found)}",
        "Ratios of mean errors to those of random purchases, by table and method",
    )


def _text(found: Found) -> str:
    lines = []
    for rival in (NEAREST, OOB, OOB_LINEAR, GREEDY):
        where = ", ".join(losses(found, CONVERGED, rival)) or "nowhere"
        lines.append(f"{rival} has a lower error than {CONVERGED}: {where}.")
    lines.append(
        "In brackets the ratio of errors; a star where its interval lies above 1. A design knows no"
        " labels and takes them to be linear in the features; neighbours do not, and Data-OOB looks"
        " at the sellers' labels before anything is paid."
    )
    return "\n\n".join(lines)


def run(ctx: RunContext) -> Result:
    """Let every method buy for the buyers of all folds of all tables."""
    found = measure(ctx, QUICK if ctx.quick else FULL)
    write_atomic(ctx.out / "errors.csv", to_csv(found))
    return ctx.result(
        claims=claims(found, quick=ctx.quick),
        tables=tables(found),
        figures=figures(found),
        files=["errors.csv"],
        text=_text(found),
    )
