"""What number of steps, rounding, queries and step rule do to purchases of a given size.

On the published synthetic market every choice is varied alone. For budgets below the number of
features the design is better stopped early, above it is better converged; a purchase is better
taken from the top than drawn; what is gained comes from few queries; step rules differ less if
their rows are bought in the order in which they were picked. Around as many rows as features least
squares of smallest norm has errors without bound, whatever was bought: comparisons there need a
ridge.

Shapes: n sellers' rows, d features, m buyers, b budgets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.plots import GREY
from modicum.daved.evaluation import Ratio, buyer_errors, error_ratio, random_orders
from modicum.daved.experiments._shared import (
    bought_orders,
    drawn_over,
    folds_of,
    per_buyer,
    pick_order,
    purchase_order,
    stopped_after,
    verdict,
)
from modicum.daved.markets import Market, gaussian_market
from modicum.daved.pool import ArrayPool
from modicum.daved.rounding import at_floor, sample_ranking
from modicum.daved.solvers.base import Design, Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy

FEATURES = 30
BUDGETS = tuple(range(1, 11))
ROWS_BOUGHT = (5, 10, 15, 20, 25, 28, 30, 32, 35, 40, 60, 100)
"""Sizes of purchases around the number of features."""
STEPS_TRIED = (5, 10, 20, 50, 200)
RULE_STEPS = (10, 20, 50, 200)
QUERIES_TRIED = (1, 4, 8, 32)
FEW_STEPS, STEPS, LONG_STEPS = 10, 20, 200
CONVERGED_FROM = 60
"""Rows bought, twice the features, at which the design should be converged."""
PRIOR = 0.01
"""Prior precision of the greedy design."""
RIDGE = 1e-3
RIDGES = {"no ridge": 0.0, f"ridge {RIDGE:g}": RIDGE}
BARE, RIDGED = RIDGES

RANDOM, GREEDY = "random", "greedy design"
TOP, SAMPLE, PICKED = "heaviest rows", "drawn by weight", "drawn by weight among picked rows"
ROUNDINGS = (TOP, SAMPLE, PICKED)
RULES = {"line_search": "line search", "herding": "herding", "open_loop": "open loop"}
LINE_SEARCH, HERDING = "line search", "herding"
HEAVIEST, IN_ORDER = "heaviest first", "in the order of picks"
BUYING: dict[str, Callable[[Design], np.ndarray]] = {
    HEAVIEST: purchase_order,
    IN_ORDER: pick_order,
}
"""Orders of purchase. Rows that herding picked once all weigh the same."""

DESCENT_LEAST = 10.0
"""By how much a missing ridge raises the error of random purchases of as many rows as features."""


@dataclass(frozen=True)
class Setting:
    """Markets of one size; queries and step rules are varied on some only."""

    n: int
    buyers: int
    markets: int
    everything: bool


STEPS_PART, CURVE, QUERIES, RULES_PART, OBJECTIVES = (
    "steps",
    "curve",
    "queries",
    "rules",
    "objectives",
)
SETTINGS = (
    Setting(1000, 100, 5, True),
    Setting(5000, 40, 5, False),
    Setting(20_000, 40, 3, False),
)
QUICK_SETTINGS = (Setting(1000, 40, 1, True),)

Orders = Sequence[np.ndarray]
Errors = dict[str, np.ndarray]
Outcome = dict[str, Errors]
"""By part and variant the errors of all buyers, (m, b); of `OBJECTIVES` those after `RULE_STEPS`.
"""


def variant(name: str, steps: int) -> str:
    """Give what a number of steps is called among the variants of a part."""
    return f"{name}, {steps} steps"


def _designs(market: Market, step: str) -> list[Design]:
    solver = FrankWolfe(step, max_iter=LONG_STEPS, tol=0.0)
    return per_buyer(market, lambda pool, queries_qd: solver.solve(Problem(pool, queries_qd)))


def _stopped(market: Market, designs: Sequence[Design], steps: int) -> list[Design]:
    pool = ArrayPool(market.rows_nd)
    return [
        stopped_after(pool, query_d[None], design, steps)
        for query_d, design in zip(market.queries_md, designs, strict=True)
    ]


def _drawn(design: Design, rng: np.random.Generator, *, picked: bool) -> np.ndarray:
    """Draw rows by their weight; those never picked last if others go first."""
    last_n = at_floor(design.weights, design.floor) if picked else None
    return sample_ranking(design.weights, rng, last_n)


def rounded(designs: Sequence[Design], rng: np.random.Generator) -> dict[str, Orders]:
    """Give the orders of all buyers by rounding."""
    return {
        TOP: [purchase_order(design) for design in designs],
        SAMPLE: [_drawn(design, rng, picked=False) for design in designs],
        PICKED: [_drawn(design, rng, picked=True) for design in designs],
    }


def _errors(
    market: Market, orders: Orders, budgets: Sequence[int], ridge: float = 0.0
) -> np.ndarray:
    # A row costs 1: what comes after the largest budget is never looked at.
    first = [order[: max(budgets)] for order in orders]
    return buyer_errors(market, first, budgets, ridge=ridge)


def _steps_part(market: Market, designs: list[Design], rng: np.random.Generator) -> Errors:
    found = {RANDOM: _errors(market, list(random_orders(market, rng)), BUDGETS)}
    for steps in STEPS_TRIED:
        for rounding, orders in rounded(_stopped(market, designs, steps), rng).items():
            found[variant(rounding, steps)] = _errors(market, orders, BUDGETS)
    return found


def _curve_part(market: Market, designs: list[Design], rng: np.random.Generator) -> Errors:
    orders: dict[str, Orders] = {RANDOM: list(random_orders(market, rng))}
    for steps in (FEW_STEPS, LONG_STEPS):
        orders[variant(TOP, steps)] = [
            purchase_order(one) for one in _stopped(market, designs, steps)
        ]
    return {
        f"{name}, {ridge}": _errors(market, mine, ROWS_BOUGHT, ridge=value)
        for ridge, value in RIDGES.items()
        for name, mine in orders.items()
    }


def _queries_part(market: Market, rng: np.random.Generator) -> Errors:
    orders: dict[str, Orders] = {RANDOM: list(random_orders(market, rng))}
    for size in QUERIES_TRIED:
        solver = FrankWolfe(max_iter=STEPS, tol=0.0)
        orders[f"{TOP}, {size}"] = bought_orders(market, solver, max(BUDGETS), size)
        orders[f"{GREEDY}, {size}"] = bought_orders(market, Greedy(prior=PRIOR), max(BUDGETS), size)
    return {name: _errors(market, mine, BUDGETS, ridge=RIDGE) for name, mine in orders.items()}


def _rules_part(market: Market, by_line: list[Design]) -> tuple[Errors, Errors]:
    errors, objectives = {}, {}
    for step, rule in RULES.items():
        designs = by_line if rule == LINE_SEARCH else _designs(market, step)
        columns = []
        for steps in RULE_STEPS:
            stopped = _stopped(market, designs, steps)
            for buying, ranking in BUYING.items():
                name = variant(f"{rule}, {buying}", steps)
                errors[name] = _errors(market, [ranking(one) for one in stopped], BUDGETS)
            columns.append([one.objective for one in stopped])
        objectives[rule] = np.array(columns).T
    return errors, objectives


def play(setting: Setting, index: int, seed: int) -> Outcome:
    """Vary every choice on one market."""
    rng = numpy_generator(seed, "budget ablation", setting.n, index)
    market = gaussian_market(setting.n, FEATURES, setting.buyers, rng=rng)
    designs = _designs(market, "line_search")
    found: Outcome = {
        STEPS_PART: _steps_part(market, designs, rng),
        CURVE: _curve_part(market, designs, rng),
    }
    if setting.everything:
        found[QUERIES] = _queries_part(market, rng)
        found[RULES_PART], found[OBJECTIVES] = _rules_part(market, designs)
    return found


def together(played: Sequence[Outcome]) -> Outcome:
    """Put the buyers of several markets together."""
    return {
        part: {name: np.concatenate([one[part][name] for one in played]) for name in variants}
        for part, variants in played[0].items()
    }


# Results -----------------------------------------------------------------------------------------


def _folds(setting: Setting) -> np.ndarray:
    return folds_of(setting.markets, setting.buyers)


def _ratio(setting: Setting, mine_mb: np.ndarray, theirs_mb: np.ndarray) -> Ratio:
    return error_ratio(mine_mb, theirs_mb, folds_m=_folds(setting), rng=np.random.default_rng(0))


def _at(errors: Errors, name: str, rows: int) -> np.ndarray:
    column = ROWS_BOUGHT.index(rows)
    return errors[name][:, column : column + 1]


@dataclass(frozen=True)
class Verdict:
    """What becomes a claim: a ratio, its limit, and words."""

    name: str
    statement: str
    ratio: Ratio
    what: str
    most: float = 1.0
    at_least: bool = False
    paper: str | None = None


def _size_verdicts(setting: Setting, outcome: Outcome) -> list[Verdict]:
    steps, curve = outcome[STEPS_PART], outcome[CURVE]
    few, many = variant(TOP, STEPS), variant(TOP, LONG_STEPS)
    drawn, picked = variant(SAMPLE, STEPS), variant(PICKED, STEPS)
    short, long = (f"{variant(TOP, count)}, {BARE}" for count in (FEW_STEPS, LONG_STEPS))
    peak, tamed = (f"{RANDOM}, {ridge}" for ridge in RIDGES)
    small = f"budgets {BUDGETS[0]} to {BUDGETS[-1]}"
    return [
        Verdict(
            "stop_early",
            "Below the number of features, few steps buy better than many.",
            _ratio(setting, steps[few], steps[many]),
            f"{STEPS} steps over {LONG_STEPS}, {small}",
        ),
        Verdict(
            "converge_late",
            "With twice as many rows as features, many steps buy better than few.",
            _ratio(setting, _at(curve, long, CONVERGED_FROM), _at(curve, short, CONVERGED_FROM)),
            f"{LONG_STEPS} steps over {FEW_STEPS}, {CONVERGED_FROM} rows",
        ),
        Verdict(
            "heaviest_beat_drawn",
            "The heaviest rows are better than rows drawn by weight.",
            _ratio(setting, steps[few], steps[drawn]),
            f"{STEPS} steps, {small}",
        ),
        Verdict(
            "floor_harms_draws",
            "Draws are better from rows that were picked than from all.",
            _ratio(setting, steps[picked], steps[drawn]),
            f"{STEPS} steps, {small}",
        ),
        Verdict(
            "double_descent",
            "With as many rows as features and no ridge, random purchases have a far larger error.",
            _ratio(setting, _at(curve, peak, FEATURES), _at(curve, tamed, FEATURES)),
            f"no ridge over a ridge of {RIDGE:g}, {FEATURES} rows; the mean has no bound",
            DESCENT_LEAST,
            at_least=True,
        ),
    ]


def _query_verdicts(setting: Setting, outcome: Outcome) -> list[Verdict]:
    errors = outcome[QUERIES]
    few, many = QUERIES_TRIED[0], QUERIES_TRIED[-1]
    listed = [
        Verdict(
            f"few_queries_{short}",
            f"A purchase for {few} query is better for it than one for {many}.",
            _ratio(setting, errors[f"{name}, {few}"], errors[f"{name}, {many}"]),
            f"{name}, ridge {RIDGE:g}",
        )
        for short, name in (("frank_wolfe", TOP), ("greedy", GREEDY))
    ]
    return [
        *listed,
        Verdict(
            "eight_queries",
            "A purchase for 8 queries is still better than a random one.",
            _ratio(setting, errors[f"{TOP}, 8"], errors[RANDOM]),
            f"{TOP} over random, ridge {RIDGE:g}",
            paper="1 to 8 queries are good",
        ),
    ]


def _rule_verdicts(setting: Setting, outcome: Outcome) -> list[Verdict]:
    errors = outcome[RULES_PART]
    others = {
        f"{rule}, {buying}": errors[variant(f"{rule}, {buying}", STEPS)]
        for rule in RULES.values()
        for buying in BUYING
        if rule != LINE_SEARCH
    }
    best = min(others, key=lambda name: float(others[name].mean()))
    line, herded = (variant(f"{rule}, {HEAVIEST}", STEPS) for rule in (LINE_SEARCH, HERDING))
    short_line, short_herded = (
        errors[variant(f"{rule}, {HEAVIEST}", BUDGETS[-1])][:, -1:]
        for rule in (LINE_SEARCH, HERDING)
    )
    return [
        Verdict(
            "line_search_by_weight",
            f"After {STEPS} steps the heaviest rows of line search are better than of herding.",
            _ratio(setting, errors[line], errors[herded]),
            "heaviest first, both",
        ),
        Verdict(
            "line_search_is_best",
            f"After {STEPS} steps, line search buys better than other rules in either order.",
            _ratio(setting, errors[line], others[best]),
            f"heaviest first, over the best other: {best}",
        ),
        Verdict(
            "picks_before_weights",
            f"After {STEPS} steps, line search's rows are better bought in the order of picks.",
            _ratio(setting, errors[variant(f"{LINE_SEARCH}, {IN_ORDER}", STEPS)], errors[line]),
            f"{IN_ORDER} over {HEAVIEST}",
        ),
        Verdict(
            "herding_fills_a_purchase",
            "With as many steps as rows to buy, herding is better than line search.",
            _ratio(setting, short_herded, short_line),
            f"{BUDGETS[-1]} steps, {BUDGETS[-1]} rows",
        ),
    ]


def claims(setting: Setting, outcome: Outcome, *, quick: bool) -> list[Claim]:
    """Judge what the choices do on markets of one size."""
    found = _size_verdicts(setting, outcome)
    if setting.everything:
        found += [*_query_verdicts(setting, outcome), *_rule_verdicts(setting, outcome)]
    return [
        Claim(
            f"{one.name}_n{setting.n}",
            one.statement,
            one.paper,
            one.ratio.value,
            (one.ratio.low, one.ratio.high),
            verdict(one.ratio, one.most, at_least=one.at_least, quick=quick),
            "ratio of errors",
            f"{one.what}; n = {setting.n:,}; holds if"
            f" {'at least' if one.at_least else 'at most'} {one.most:g}."
            f" {drawn_over(_folds(setting), 'market')}",
        )
        for one in found
    ]


def _steps_table(setting: Setting, errors: Errors) -> Table:
    rows: list[list[Any]] = []
    for steps in STEPS_TRIED:
        ratios = [
            _ratio(setting, errors[variant(name, steps)], errors[RANDOM]) for name in ROUNDINGS
        ]
        rows.append([steps, *(ratio.value for ratio in ratios), ratios[0].low, ratios[0].high])
    columns = ["steps", *ROUNDINGS, f"{TOP}, 95 % low", "95 % high"]
    title = f"Steps and rounding, n = {setting.n:,}"
    note = f"Ratio to random purchases over budgets {BUDGETS[0]} to {BUDGETS[-1]}, no ridge."
    return Table(title, columns, rows, note)


def _curve_table(setting: Setting, errors: Errors) -> Table:
    bare = f"{RANDOM}, {BARE}"
    rows: list[list[Any]] = [
        [k, *(float(_at(errors, name, k).mean()) for name in errors), float(median)]
        for k in ROWS_BOUGHT
        for median in [np.median(_at(errors, bare, k))]
    ]
    columns = ["rows bought", *errors, f"{bare}, median"]
    title = f"Error around {FEATURES} rows, n = {setting.n:,}"
    note = f"Mean over buyers. Without a ridge, means near {FEATURES} rows settle at no number of"
    note += " buyers."
    return Table(title, columns, rows, note)


def _queries_table(setting: Setting, errors: Errors) -> Table:
    rows: list[list[Any]] = [
        [
            size,
            *(
                _ratio(setting, errors[f"{name}, {size}"], errors[RANDOM]).value
                for name in (TOP, GREEDY)
            ),
        ]
        for size in QUERIES_TRIED
    ]
    columns = ["queries", f"Frank-Wolfe, {STEPS} steps", GREEDY]
    title = f"Queries of one purchase, n = {setting.n:,}"
    note = f"Ratio to random purchases, budgets as above, ridge {RIDGE:g}."
    return Table(title, columns, rows, note)


def _rules_table(setting: Setting, outcome: Outcome) -> Table:
    errors, random = outcome[RULES_PART], outcome[STEPS_PART][RANDOM]
    rows: list[list[Any]] = []
    for rule in RULES.values():
        for column, steps in enumerate(RULE_STEPS):
            both = [errors[variant(f"{rule}, {buying}", steps)] for buying in BUYING]
            row = [rule, steps, *(_ratio(setting, mine, random).value for mine in both)]
            row += [float(mine[:, -1].mean()) for mine in both]
            rows.append([*row, float(outcome[OBJECTIVES][rule][:, column].mean())])
    columns = ["step rule", "steps", *BUYING]
    columns += [f"error at {BUDGETS[-1]}, {buying}" for buying in BUYING]
    note = f"Ratio to random purchases over budgets {BUDGETS[0]} to {BUDGETS[-1]}, no ridge."
    return Table(f"Step rules, n = {setting.n:,}", [*columns, "objective"], rows, note)


def tables(setting: Setting, outcome: Outcome) -> list[Table]:
    """Give the tables of one size."""
    listed = [
        _steps_table(setting, outcome[STEPS_PART]),
        _curve_table(setting, outcome[CURVE]),
    ]
    if setting.everything:
        listed += [_queries_table(setting, outcome[QUERIES]), _rules_table(setting, outcome)]
    return listed


def _figures(setting: Setting, outcome: Outcome) -> list[Figure]:
    from modicum.daved import plots

    curves = {name: (ROWS_BOUGHT, mine.mean(axis=0)) for name, mine in outcome[CURVE].items()}
    try:
        figure = plots.error_against_budget(curves, ylabel="mean squared error of buyers")
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    axes = figure.axes[0]
    axes.set_xlabel("rows bought")
    label = f"{FEATURES} features: do not compare here without a ridge"
    axes.axvline(FEATURES, color=GREY, linestyle="--", linewidth=1, label=label)
    axes.legend(frameon=False, fontsize="small")
    caption = f"{setting.buyers * setting.markets} buyers, {FEATURES} features."
    title = f"Error around as many rows as features, n = {setting.n:,}"
    return [Figure.from_matplotlib(figure, title, caption, "Lines with a peak unless with a ridge")]


def _kept(ctx: RunContext, setting: Setting, index: int) -> Outcome:
    part = f"n{setting.n}_{index}"
    found = ctx.load_partial(part)
    if found is None:
        played = play(setting, index, ctx.seed)
        ctx.save_partial(part, played)
        return played
    return {
        name: {variant: np.array(errors) for variant, errors in variants.items()}
        for name, variants in found.items()
    }


def run(ctx: RunContext) -> Result:
    """Vary every choice on markets of every size."""
    settings = QUICK_SETTINGS if ctx.quick else SETTINGS
    task = ctx.progress(sum(setting.markets for setting in settings), "markets")
    found = {}
    for setting in settings:
        played = []
        for index in range(setting.markets):
            played.append(_kept(ctx, setting, index))
            task.advance(1)
        found[setting] = together(played)
    return ctx.result(
        claims=[claim for s, o in found.items() for claim in claims(s, o, quick=ctx.quick)],
        tables=[table for s, o in found.items() for table in tables(s, o)],
        figures=[figure for s, o in found.items() for figure in _figures(s, o)],
    )
