"""How near every solver comes to the optimum, and whether its certificate is honest.

For one query the optimum is that of a linear program. For several it is that of a second-order cone
program where a solver for these is installed and the run is a full one, and otherwise the lower end
that the certificate of a long multiplicative run proves. A certificate is honest if, at every step,
it is at least the distance to the optimum.

With prices two rules are compared at equal spend: rows divided by the root of their prices, which
is exact, and scores divided by prices, the published rule. With a line search the latter stays
away from the optimum, little where all rows have the same norm and much where norms vary; with open
steps it comes there.

Shapes: n sellers' rows, d features, m queries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.daved.markets import PRICES, gaussian_market
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Design, Problem, Solver
from modicum.daved.solvers.exact import Exact
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.multiplicative import Multiplicative


@dataclass(frozen=True)
class Setting:
    """Size of a market and of a buyer's question."""

    n: int
    d: int
    queries: int

    @property
    def label(self) -> str:
        """What the setting is called in names of claims."""
        return f"n{self.n}_d{self.d}_m{self.queries}"

    def __str__(self) -> str:
        asked = "1 query" if self.queries == 1 else f"{self.queries} queries"
        return f"n = {self.n}, d = {self.d}, {asked}"


SETTINGS = (Setting(2000, 30, 1), Setting(200, 5, 4))
PRICED = Setting(200, 5, 4)
LENGTHS = {"Gaussian rows": False, "rows of norm 1": True}
"""Rows of priced markets, and whether they are normalised; the first decides claims."""
MARKETS, QUICK_MARKETS = 10, 2

STEPS = 1000
MULTIPLICATIVE_STEPS = 100
PRICED_STEPS = 2000
PROVING_STEPS = 20_000
PROVING_TOLERANCE = 1e-4
"""Relative gap at which the long multiplicative run stops."""
MARKS = (10, 50, 100, 1000)
"""Steps that the table shows."""
SLACK = PROVING_TOLERANCE
"""By how much, relative to the optimum, a certificate may lie below the measured gap: so far a
proved lower bound may itself lie below the optimum."""

MULTIPLICATIVE_MOST = 0.01
LINE_SEARCH_MOST = 0.05
EXACT_RULE_MOST = 0.005
PAPER_RULE_LEAST = 0.2

LINE_SEARCH, MULTIPLICATIVE = "Frank-Wolfe, line search", "multiplicative"
SOLVERS: dict[str, Callable[[], Solver]] = {
    LINE_SEARCH: lambda: FrankWolfe(step="line_search", max_iter=STEPS, tol=0.0),
    "Frank-Wolfe, open loop": lambda: FrankWolfe(step="open_loop", max_iter=STEPS, tol=0.0),
    "Frank-Wolfe, herding": lambda: FrankWolfe(step="herding", max_iter=STEPS, tol=0.0),
    MULTIPLICATIVE: lambda: Multiplicative(max_iter=MULTIPLICATIVE_STEPS, tol=0.0),
}
EXACT_RULE, BLIND = "exact rule", "blind to prices"
PAPER_RULE, PAPER_RULE_OPEN = "published rule", "published rule, open loop"

RULES = (EXACT_RULE, PAPER_RULE, PAPER_RULE_OPEN, BLIND)


@dataclass(frozen=True)
class Trace:
    """Objective and certificate before every step, and after the last, relative to the optimum.

    Attributes
    ----------
    excess
        Objective over optimum, less 1, (steps + 1,).
    slack
        Certificate less the distance to the optimum, over the optimum, (steps,).
    """

    excess: np.ndarray
    slack: np.ndarray

    def after(self, steps: int) -> float:
        """Give the relative excess after so many steps; after the last where there were fewer."""
        return float(self.excess[min(steps, len(self.excess) - 1)])


def optimum(problem: Problem, *, cones: bool) -> float:
    """Give the optimum, or the highest lower bound that could be proved.

    Parameters
    ----------
    problem
        Without costs.
    cones
        Whether a second-order cone program may be solved; it needs an optional package.
    """
    if len(problem.queries_md) == 1:
        return float(Exact().solve(problem).objective)
    if cones:
        try:
            return float(Exact().solve(problem).objective)
        except ImportError:
            pass
    design = Multiplicative(max_iter=PROVING_STEPS, tol=PROVING_TOLERANCE).solve(problem)
    return design.objective - design.gap


def trace(design: Design, best: float) -> Trace:
    """Compare the history of a design with the optimum."""
    objectives = np.array([*(step.objective for step in design.history), design.objective])
    gaps = np.array([step.gap for step in design.history])
    slack = (gaps - (objectives[:-1] - best)) / best
    return Trace(objectives / best - 1, slack)


def _problem(setting: Setting, rng: np.random.Generator, *, normalize: bool = True) -> Problem:
    market = gaussian_market(
        setting.n, setting.d, setting.queries, validation=0, normalize=normalize, rng=rng
    )
    return Problem(ArrayPool(market.rows_nd), market.queries_md)


def play(setting: Setting, index: int, seed: int, *, cones: bool) -> dict[str, Trace]:
    """Run every solver on one market."""
    problem = _problem(setting, numpy_generator(seed, "solver accuracy", setting.label, index))
    best = optimum(problem, cones=cones)
    return {name: trace(make().solve(problem), best) for name, make in SOLVERS.items()}


def play_priced(index: int, seed: int, lengths: str, *, cones: bool) -> dict[str, float]:
    """Give every price rule's relative excess over the optimum on one market, at equal spend."""
    rng = numpy_generator(seed, "solver accuracy", "priced", lengths, index)
    plain = _problem(PRICED, rng, normalize=LENGTHS[lengths])
    prices_n = rng.choice(np.array(PRICES), size=PRICED.n)
    rows_nd = plain.pool.rows(np.arange(PRICED.n))
    priced = Problem(ArrayPool(rows_nd, scale=1 / np.sqrt(prices_n)), plain.queries_md)
    divided = Problem(plain.pool, plain.queries_md, costs=prices_n, prices=prices_n)
    best = optimum(priced, cones=cones)
    solver = FrankWolfe(max_iter=PRICED_STEPS, tol=0.0)
    open_loop = FrankWolfe("open_loop", PRICED_STEPS, tol=0.0)
    # An objective is per unit weight in an unpriced design; this makes it one per unit of currency.
    at_spend = {
        name: design.objective * float(design.weights @ prices_n)
        for name, design in (
            (PAPER_RULE, solver.solve(divided)),
            (PAPER_RULE_OPEN, open_loop.solve(divided)),
            (BLIND, solver.solve(plain)),
        )
    }
    at_spend[EXACT_RULE] = solver.solve(priced).objective
    return {name: at_spend[name] / best - 1 for name in RULES}


Traces = dict[Setting, list[dict[str, Trace]]]
Excesses = dict[str, list[dict[str, float]]]


def claims(found: Traces, priced: Excesses) -> list[Claim]:
    """Judge accuracy and certificates on the worst market, and prices."""
    listed = []
    for setting, played in found.items():
        where = f"{setting}; the worst of {len(played)} markets."
        for short, name, steps, most in (
            ("multiplicative", MULTIPLICATIVE, MULTIPLICATIVE_STEPS, MULTIPLICATIVE_MOST),
            ("line_search", LINE_SEARCH, STEPS, LINE_SEARCH_MOST),
        ):
            worst = max(one[name].after(steps) for one in played)
            listed.append(
                Claim(
                    f"{short}_{setting.label}",
                    f"After {steps} steps, {name} is near the optimum.",
                    None,
                    worst,
                    None,
                    worst <= most,
                    "objective / optimum - 1",
                    f"{where} Criterion: at most {most:g}.",
                )
            )
        least = min(float(one[name].slack.min()) for one in played for name in SOLVERS)
        listed.append(
            Claim(
                f"certificates_{setting.label}",
                "At every step of every solver the certificate is at least the true gap.",
                None,
                least,
                None,
                least >= -SLACK,
                "(certificate - gap) / optimum",
                f"{where} The least over all steps; criterion: at least 0, with {SLACK:g} left"
                " for its lower bound.",
            )
        )
    return [*listed, *_price_claims(priced)]


def _price_claims(priced: Excesses) -> list[Claim]:
    lengths = next(iter(LENGTHS))
    exact = max(one[EXACT_RULE] for one in priced[lengths])
    paper = float(np.mean([one[PAPER_RULE] for one in priced[lengths]]))
    where = f"{PRICED}, {lengths}, prices 1 to 5, {PRICED_STEPS} steps"
    where += f", {len(priced[lengths])} markets"
    unit = "objective / optimum - 1"
    return [
        Claim(
            "exact_rule",
            "With prices, the exact rule comes to the optimum.",
            None,
            exact,
            None,
            exact <= EXACT_RULE_MOST,
            unit,
            f"{where}; the worst. Criterion: at most {EXACT_RULE_MOST:g}.",
        ),
        Claim(
            "published_rule",
            "With prices and a line search, the published rule stays away from the optimum.",
            None,
            paper,
            None,
            paper > PAPER_RULE_LEAST,
            unit,
            f"{where}; mean. Criterion: above {PAPER_RULE_LEAST:g}.",
        ),
    ]


def tables(found: Traces, priced: Excesses) -> list[Table]:
    """Give the relative excess by solver and step, and by price rule."""
    listed = []
    for setting, traces in found.items():
        rows: list[list[Any]] = []
        for name in SOLVERS:
            done = max(len(one[name].excess) - 1 for one in traces)
            means = [
                float(np.mean([one[name].after(mark) for one in traces])) if mark <= done else None
                for mark in MARKS
            ]
            rows.append([name, *means, min(float(one[name].slack.min()) for one in traces)])
        columns = ["solver", *(f"{mark} steps" for mark in MARKS), "least slack of certificate"]
        listed.append(
            Table(
                f"Excess over the optimum, {setting}",
                columns,
                rows,
                f"Objective / optimum - 1, mean of {len(traces)} markets.",
            )
        )
    by_rule: list[list[Any]] = [
        [lengths, name, float(np.mean(excesses)), max(excesses)]
        for lengths, played in priced.items()
        for name in played[0]
        for excesses in [[one[name] for one in played]]
    ]
    columns = ["rows", "rule", "mean excess", "largest excess"]
    return [*listed, Table(f"Excess at equal spend, {PRICED}, prices 1 to 5", columns, by_rule)]


def _figures(found: Traces) -> list[Figure]:
    from modicum.daved import plots

    setting, played = next(iter(found.items()))
    curves = {}
    for name in SOLVERS:
        excess = played[0][name].excess[1:]
        curves[name] = (np.arange(1, len(excess) + 1), excess)
    try:
        figure = plots.error_against_budget(curves, ylabel="objective / optimum - 1")
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    figure.axes[0].set_xlabel("steps")
    caption = f"{setting}; one market."
    return [Figure.from_matplotlib(figure, "Excess over the optimum", caption, "Falling lines")]


def run(ctx: RunContext) -> Result:
    """Run every solver on markets of every size, and every price rule on priced ones."""
    markets = QUICK_MARKETS if ctx.quick else MARKETS
    cones = not ctx.quick
    task = ctx.progress(markets * (len(SETTINGS) + len(LENGTHS)), "markets")
    found: Traces = {}
    for setting in SETTINGS:
        found[setting] = []
        for index in range(markets):
            found[setting].append(play(setting, index, ctx.seed, cones=cones))
            task.advance(1)
    priced: Excesses = {}
    for lengths in LENGTHS:
        priced[lengths] = []
        for index in range(markets):
            priced[lengths].append(play_priced(index, ctx.seed, lengths, cones=cones))
            task.advance(1)
    return ctx.result(
        claims=claims(found, priced), tables=tables(found, priced), figures=_figures(found)
    )
