"""The steps of a selection, which the function and the estimator share.

`prepare` checks what is given and makes features, `solve` brings prices into the problem and runs
a solver, `in_budget` puts its design into one unit, weights that spend the budget, and `rank` with
`modicum.daved.rounding.purchase` turns weights into a purchase. Purchases one by one
(`buy_greedily`) and of whole lots (`buy_lots`) have ways of their own. Takes no labels and keeps
nothing.

Shapes: n rows of sellers, d features, m queries, k bought, g lots.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modicum.daved import rounding as purchases
from modicum.daved import validation
from modicum.daved.bundles import lots_frank_wolfe, lots_greedy, lots_multiplicative
from modicum.daved.design import coverage, directions, objective, pseudo_inverse
from modicum.daved.pool import ArrayPool, Pool, ScaledPool
from modicum.daved.rounding import Rules
from modicum.daved.selection import Selection
from modicum.daved.solvers.base import Design, Problem, Solver, Step
from modicum.daved.solvers.greedy import default_prior
from modicum.daved.theory import fair_price

__all__ = [
    "Offer",
    "Settings",
    "Spending",
    "automatic_iterations",
    "buy_greedily",
    "buy_lots",
    "buy_records",
    "greedy_selection",
    "in_budget",
    "prepare",
    "rank",
    "rules_of",
    "solve",
    "solver_by_name",
    "warn_of_run",
    "weighted_selection",
]

SOLVERS = ("fw", "one_step", "greedy", "multiplicative", "exact")
LOT_SOLVERS = ("fw", "greedy", "multiplicative")
ROUNDINGS = ("topk", "sample", "greedy")
COST_MODES = ("exact", "paper")

STEPS_PER_RECORD = 2
FEWEST_STEPS, MOST_STEPS = 20, 500
STEPS_WITHOUT_A_BUDGET = 100

_PLAIN = {"normalize": "none", "max_norm": None, "fit_intercept": False}


def automatic_iterations(budget: float | None, prices_n: np.ndarray) -> int:
    """Give twice the number of records that a budget buys at the median price, from 20 to 500.

    Few steps rank best where few records are bought. Without a budget it is 100.
    """
    if budget is None:
        return STEPS_WITHOUT_A_BUDGET
    wanted = round(STEPS_PER_RECORD * budget / float(np.median(prices_n)))
    return int(np.clip(wanted, FEWEST_STEPS, MOST_STEPS))


def solver_by_name(
    name: str,
    *,
    step: str | float = "line_search",
    max_iter: int = 100,
    tol: float = 1e-3,
    prior: float | None = None,
    regulariser: np.ndarray | None = None,
    reg_lambda: float = 0.0,
    repeat: bool = True,
    compat: str | None = None,
) -> Solver:
    """Make a solver of its name; settings that it does not have are left aside.

    Parameters
    ----------
    name
        ``"fw"``, ``"one_step"``, ``"greedy"``, ``"multiplicative"`` or ``"exact"``.
    step, max_iter, tol, regulariser, reg_lambda, repeat, compat
        As for `modicum.daved.solvers.frank_wolfe.FrankWolfe`.
    prior
        As for `modicum.daved.solvers.greedy.Greedy`.

    Raises
    ------
    ValueError
        If there is no such solver.
    """
    from modicum.daved.solvers.exact import Exact
    from modicum.daved.solvers.frank_wolfe import FrankWolfe
    from modicum.daved.solvers.greedy import Greedy
    from modicum.daved.solvers.multiplicative import Multiplicative
    from modicum.daved.solvers.one_step import OneStep

    makers: dict[str, Callable[[], Solver]] = {
        "fw": lambda: FrankWolfe(
            step,
            max_iter,
            tol,
            repeat=repeat,
            regulariser=regulariser,
            reg_lambda=reg_lambda,
            compat=compat,
        ),
        "one_step": OneStep,
        "greedy": lambda: Greedy(prior),
        "multiplicative": lambda: Multiplicative(max_iter, tol),
        "exact": Exact,
    }
    return makers[validation.check_one_of("solver", name, makers)]()


@dataclass(frozen=True)
class Offer:
    """What was given, checked: rows divided by their noise's deviation, queries, prices."""

    pool: Pool
    queries_md: np.ndarray
    prices_n: np.ndarray
    coverage_m: np.ndarray
    gram_dd: np.ndarray
    owned_dd: np.ndarray | None = None
    labels_n: np.ndarray | None = None
    has_noise: bool = False

    @property
    def one_price(self) -> bool:
        """Whether all records cost the same."""
        return bool(self.prices_n.min() == self.prices_n.max())


@dataclass(frozen=True)
class Settings:
    """How to select."""

    solver: str = "fw"
    step: str | float = "line_search"
    max_iter: int | str = "auto"
    tol: float = 1e-3
    cost_mode: str = "exact"
    rounding: str = "topk"
    drop_floor: bool = False
    repeat: bool = True
    prior: float | None = None
    reg_lambda: float = 0.0
    compat: str | None = None

    def check(self, offer: Offer) -> None:
        """Refuse what is not valid or does not go together."""
        validation.check_one_of("solver", self.solver, SOLVERS)
        validation.check_one_of("rounding", self.rounding, ROUNDINGS)
        validation.check_one_of("cost_mode", self.cost_mode, COST_MODES)
        if isinstance(self.step, str):
            validation.check_one_of("step", self.step, ("line_search", "open_loop", "herding"))
        elif validation.check_positive("step", self.step) >= 1:
            raise ValueError(f"step must be a name or a number in (0, 1), not {self.step!r}")
        if self.max_iter != "auto":
            if isinstance(self.max_iter, str):
                raise ValueError(f"max_iter must be 'auto' or an integer, not {self.max_iter!r}")
            validation.check_count("max_iter", self.max_iter)
        validation.check_fraction("tol", self.tol)
        validation.check_fraction("reg_lambda", self.reg_lambda)
        if self.prior is not None:
            validation.check_positive("prior", self.prior)
        if self.compat is not None:
            validation.check_one_of("compat", self.compat, ("reference",))
        self._check_combination(offer)

    def _check_combination(self, offer: Offer) -> None:
        for name, asked in (
            ("compat='reference'", self.compat is not None),
            ("cost_mode='paper'", self.cost_mode == "paper"),
            ("reg_lambda", self.reg_lambda > 0),
        ):
            if asked and self.solver != "fw":
                raise ValueError(f"{name} needs solver='fw', not {self.solver!r}")
        if self.solver == "greedy" and self.rounding == "sample":
            raise ValueError("rounding='sample' needs weights, which solver='greedy' has not")
        if offer.owned_dd is not None and "greedy" not in (self.solver, self.rounding):
            raise ValueError("X_owned needs solver='greedy' or rounding='greedy'")
        if offer.has_noise and self.solver != "greedy":
            validation.warn_noise_in_a_relaxation()

    def iterations(self, budget: float, prices_n: np.ndarray) -> int:
        """Give the number that ``"auto"`` stands for."""
        if self.max_iter != "auto":
            return int(self.max_iter)
        return automatic_iterations(budget if self.solver == "fw" else None, prices_n)

    def describe(self, budget: float, prices_n: np.ndarray) -> dict[str, Any]:
        """Give what a manifest needs to know."""
        return {
            "solver": self.solver,
            "step": self.step,
            "max_iter": self.iterations(budget, prices_n),
            "tol": self.tol,
            "cost_mode": self.cost_mode,
            "rounding": self.rounding,
            "drop_floor": self.drop_floor,
            "repeat": self.repeat,
            "prior": self.prior,
            "reg_lambda": self.reg_lambda,
            "compat": self.compat,
        }


def prepare(
    X: Any,
    Q: Any,
    costs: Any,
    *,
    noise_var: Any = None,
    X_owned: Any = None,
    features: Any = "identity",
    normalize: str = "none",
    max_norm: float | None = None,
    fit_intercept: bool = False,
    chunk_size: int | None = None,
) -> Offer:
    """Check and prepare what was given, and warn of what the data alone can tell."""
    is_pool = isinstance(X, Pool)
    shape = {"normalize": normalize, "max_norm": max_norm, "fit_intercept": fit_intercept}
    if is_pool and (features != "identity" or {**shape} != _PLAIN):
        raise ValueError("X is a pool, whose rows are taken as they are: make features before it")
    to_rows, columns, labels_n = _rows_of(features, shape, X)
    values = None if is_pool else to_rows(X, "X")
    pool: Pool = X if is_pool else ArrayPool(values, None, chunk_size)
    if values is not None:
        validation.check_sellers(values, "X")
        validation.warn_norms(_norms(values))
    queries_md = validation.check_queries(to_rows(Q, "Q", columns), pool.d, "Q", "X")
    prices_n = validation.check_prices(_vector(costs, "costs"), pool.n)
    if noise_var is not None:
        noise_n = validation.check_noise(_vector(noise_var, "noise_var"), pool.n)
        pool = ScaledPool(pool, 1 / np.sqrt(noise_n))
    owned_dd = None
    if X_owned is not None:
        owned = to_rows(X_owned, "X_owned", columns)
        if validation.check_sellers(owned, "X_owned")[1] != pool.d:
            raise ValueError(f"X_owned has other features than X, which has {pool.d}")
        owned_dd = ArrayPool(owned).gram()
    gram_dd = pool.gram()
    basis = pseudo_inverse(gram_dd).basis
    coverage_m = coverage(basis, queries_md)
    validation.check_covered(coverage_m)
    validation.warn_scales(np.diag(gram_dd))
    validation.warn_rank(basis.shape[1], pool.d)
    validation.warn_coverage(coverage_m)
    validation.warn_many_queries(len(queries_md))
    has_noise = noise_var is not None
    return Offer(pool, queries_md, prices_n, coverage_m, gram_dd, owned_dd, labels_n, has_noise)


def _rows_of(
    features: Any, shape: dict[str, Any], X: Any
) -> tuple[Callable[..., Any], Any, np.ndarray | None]:
    """Give what makes rows of records, and the sellers' columns and labels."""
    from modicum.daved.features import make_features
    from modicum.daved.frames import align, to_frame

    is_pool = isinstance(X, Pool)
    feature_map = make_features(features, **shape)
    takes_tables = not isinstance(features, str) or ":" not in features or features[:3] == "rff"
    frame = to_frame(X, "X") if takes_tables and not is_pool else None
    columns = frame.columns if frame is not None else None
    if frame is not None:
        validation.check_sellers(frame.values, "X")
    if not is_pool:
        feature_map.fit(X if frame is None else frame.values)

    def to_rows(records: Any, name: str, names: Any = None) -> Any:
        if not takes_tables:
            return feature_map.transform(records)
        values = align(to_frame(records, name), names, name).values
        width = _width(values)
        if frame is not None and width != _width(frame.values):
            raise ValueError(
                f"{name} has {width} features, but X has {_width(frame.values)}; both need the "
                "same features in the same order"
            )
        return feature_map.transform(values)

    return to_rows, columns, None if frame is None else frame.labels


def _width(values: Any) -> int:
    return int((values[0] if isinstance(values, list) else values).shape[1])


def _vector(values: Any, name: str) -> Any:
    from modicum.daved.frames import to_vector

    return None if values is None else to_vector(values, name)


def _norms(values: Any) -> np.ndarray:
    """Give the rows' norms, (n,)."""

    def squares() -> Iterator[np.ndarray]:
        for _, rows_kd in ArrayPool(values).chunks():
            yield np.einsum("kd,kd->k", rows_kd, rows_kd)

    return np.sqrt(np.concatenate(list(squares())))


def rules_of(
    offer: Offer,
    groups: Any,
    most: int | None,
    fewest: int | None,
    fill: bool,
    unique: bool,
    compat: str | None,
) -> Rules:
    """Give what a purchase must keep to: quotas, equal rows, and the published way of spending."""
    codes_n = None
    if most is not None or fewest is not None:
        if groups is None:
            raise ValueError("max_per_group and min_per_group need groups")
        _, codes_n = validation.check_groups(groups, offer.pool.n)
        most = None if most is None else validation.check_count("max_per_group", most)
        fewest = None if fewest is None else validation.check_count("min_per_group", fewest, 0)
        if most is not None and fewest is not None and fewest > most:
            raise ValueError(f"min_per_group={fewest} is above max_per_group={most}")
    is_reference = compat == "reference"
    return Rules(
        fill=fill and not is_reference,
        strict=is_reference,
        groups=codes_n,
        max_per_group=most,
        min_per_group=fewest,
        copies=_copies(offer) if unique else None,
    )


def _copies(offer: Offer) -> np.ndarray:
    return purchases.duplicate_codes(offer.pool.rows(np.arange(offer.pool.n)))


def buy_records(
    offer: Offer,
    settings: Settings,
    budget: float,
    rules: Rules,
    rng: np.random.Generator,
    on_step: Callable[[Step], None] | None,
) -> Selection:
    """Buy records one by one, by weights or greedily."""
    if settings.solver == "greedy":
        bought, design = buy_greedily(offer, settings, budget, rules, on_step)
        return greedy_selection(offer, settings, budget, bought, design)
    design, is_priced = solve(offer, settings, budget, on_step)
    warn_of_run(offer, settings, budget, design)
    found = in_budget(design, offer.prices_n, budget, is_priced)
    ranking = rank(offer, settings, budget, rules, design, found.weights, rng)
    bought = purchases.purchase(ranking, offer.prices_n, budget, rules)
    return weighted_selection(offer, settings, budget, bought, found)


def solve(
    offer: Offer,
    settings: Settings,
    budget: float,
    on_step: Callable[[Step], None] | None,
) -> tuple[Design, bool]:
    """Run a solver of weights; say whether its rows carried the prices."""
    divides = settings.cost_mode == "paper" or settings.solver == "one_step"
    is_priced = not divides and not offer.one_price
    pool = ScaledPool(offer.pool, 1 / np.sqrt(offer.prices_n)) if is_priced else offer.pool
    solver = solver_by_name(
        settings.solver,
        step=settings.step,
        max_iter=settings.iterations(budget, offer.prices_n),
        tol=settings.tol,
        regulariser=_deviations(pool) if settings.reg_lambda > 0 else None,
        reg_lambda=settings.reg_lambda,
        repeat=settings.repeat,
        compat=settings.compat,
    )
    costs_n = offer.prices_n if divides and not offer.one_price else None
    problem = Problem(pool, offer.queries_md, costs_n, budget, offer.prices_n)
    design = solver.solve(problem, on_step)
    return _at_its_weights(design, problem) if settings.solver == "one_step" else design, is_priced


def _at_its_weights(design: Design, problem: Problem) -> Design:
    """Give a design with the loss and scores of its weights: one step has those of uniform ones."""
    inverse_dd = pseudo_inverse(problem.pool.gram(design.weights)).matrix
    scores_n = problem.pool.scores(directions(inverse_dd, problem.queries_md))
    loss = objective(inverse_dd, problem.queries_md)
    gap = float(scores_n.max()) - loss
    return replace(design, objective=loss, gap=gap, scores=scores_n, inverse=inverse_dd)


def _deviations(pool: Pool) -> np.ndarray:
    """Give the diagonal matrix of the features' standard deviations, (d, d)."""
    return np.diag(pool.products(np.eye(pool.d)).std(axis=0))


@dataclass(frozen=True)
class Spending:
    """A design in the unit of weights that spend the budget."""

    weights: np.ndarray
    objective: float
    gap: float
    scores: np.ndarray
    design: Design


def in_budget(design: Design, prices_n: np.ndarray, budget: float, is_priced: bool) -> Spending:
    """Bring a design of weights of sum 1 into the unit of weights that spend the budget.

    Rows that carry prices have shares of the spending u_j as weights: w_j = B u_j / c_j. Other
    weights are only multiplied, by t: then L goes with 1 / t and scores with 1 / t².
    """
    if is_priced:
        weights_n = budget * design.weights / prices_n
        factor = budget
        scores_n = design.scores * prices_n / budget**2
    else:
        factor = budget / float(prices_n @ design.weights)
        weights_n = design.weights * factor
        scores_n = design.scores / factor**2
    loss = design.objective / factor
    gap = design.gap / factor
    if not is_priced and prices_n.min() < prices_n.max():
        gap = budget * float((scores_n / prices_n).max()) - loss
    return Spending(weights_n, loss, gap, scores_n, design)


def rank(
    offer: Offer,
    settings: Settings,
    budget: float,
    rules: Rules,
    design: Design,
    weights_n: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Rank the records for `purchase`, (n,): by weight, drawn, by picks, or greedily."""
    floor_n = purchases.at_floor(design.weights, design.floor)
    if floor_n.all():
        floor_n = np.zeros_like(floor_n)
    if settings.rounding == "greedy":
        return _greedy_on_support(offer, settings, budget, rules, ~floor_n, weights_n)
    if settings.rounding == "sample":
        return purchases.sample_ranking(weights_n, rng, floor_n if settings.drop_floor else None)
    if settings.step == "herding" and settings.solver == "fw":
        return purchases.pick_ranking(design.picks, weights_n)
    if settings.compat == "reference":
        # As a reversed sort does it: ties from the largest index down.
        return np.argsort(weights_n, kind="stable")[::-1]
    if settings.drop_floor:
        return np.lexsort((-weights_n, floor_n))
    return purchases.topk_ranking(weights_n)


def _greedy_on_support(
    offer: Offer,
    settings: Settings,
    budget: float,
    rules: Rules,
    support_n: np.ndarray,
    weights_n: np.ndarray,
) -> np.ndarray:
    rows = np.flatnonzero(support_n)
    problem = Problem(
        ArrayPool(offer.pool.rows(rows)),
        offer.queries_md,
        offer.prices_n[rows],
        None if rules.restrict else budget,
        offer.prices_n[rows],
        offer.owned_dd,
    )
    prior = default_prior(offer.gram_dd, offer.pool.n) if settings.prior is None else settings.prior
    order = solver_by_name("greedy", prior=prior).solve(problem).order
    return purchases.extend(rows[order], weights_n)


def buy_greedily(
    offer: Offer,
    settings: Settings,
    budget: float,
    rules: Rules,
    on_step: Callable[[Step], None] | None,
) -> tuple[np.ndarray, Design]:
    """Buy one by one; where rules forbid some, look at more than the budget buys until it is spent.

    Quotas and copies are not seen while records are ordered, only while they are bought.
    """
    solver = solver_by_name("greedy", prior=settings.prior)
    total = float(offer.prices_n.sum())
    reach = budget if not rules.restrict else min(2 * budget, total)
    while True:
        problem = Problem(
            offer.pool,
            offer.queries_md,
            offer.prices_n,
            reach,
            offer.prices_n,
            offer.owned_dd,
        )
        design = solver.solve(problem, on_step)
        order = np.asarray(design.order)
        ranking = purchases.extend(order, design.scores / offer.prices_n)
        bought = purchases.purchase(ranking, offer.prices_n, budget, rules)
        if not rules.restrict or reach >= total or np.isin(bought, order).all():
            return bought, design
        reach = min(2 * reach, total)


def _posterior(
    offer: Offer, bought: np.ndarray, prior: float | None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Follow the posterior variance over a purchase.

    Returns
    -------
    float, numpy.ndarray, numpy.ndarray
        Variance before, decrease with each record (k,), posterior covariance at the end (d, d).
    """
    if prior is None:
        prior = default_prior(offer.gram_dd, offer.pool.n)
    precision_dd = prior * np.eye(offer.pool.d)
    if offer.owned_dd is not None:
        precision_dd = precision_dd + offer.owned_dd
    inverse_dd = np.linalg.inv(precision_dd)
    before = objective(inverse_dd, offer.queries_md)
    decreases = np.empty(len(bought))
    for place, row_d in enumerate(offer.pool.rows(bought)):
        column_d = inverse_dd @ row_d
        scale = 1 + float(row_d @ column_d)
        decreases[place] = np.square(offer.queries_md @ column_d).mean() / scale
        inverse_dd = inverse_dd - np.outer(column_d, column_d) / scale
    return before, decreases, inverse_dd


def greedy_selection(
    offer: Offer, settings: Settings, budget: float, bought: np.ndarray, design: Design
) -> Selection:
    """Put a greedy purchase into a `Selection`: its unit is the posterior variance."""
    before, decreases, inverse_dd = _posterior(offer, bought, settings.prior)
    weights_n = np.zeros(offer.pool.n)
    weights_n[bought] = 1.0
    return _assemble(
        offer,
        settings,
        budget,
        bought,
        weights=weights_n,
        objective=objective(inverse_dd, offer.queries_md),
        gap=float("nan"),
        scores=offer.pool.scores(directions(inverse_dd, offer.queries_md)),
        posterior=(before, decreases),
        design=design,
    )


def weighted_selection(
    offer: Offer, settings: Settings, budget: float, bought: np.ndarray, found: Spending
) -> Selection:
    """Put a purchase by weights into a `Selection`."""
    before, decreases, _ = _posterior(offer, bought, settings.prior)
    return _assemble(
        offer,
        settings,
        budget,
        bought,
        weights=found.weights,
        objective=found.objective,
        gap=found.gap,
        scores=found.scores,
        posterior=(before, decreases),
        design=found.design,
    )


def _assemble(
    offer: Offer,
    settings: Settings,
    budget: float,
    bought: np.ndarray,
    *,
    weights: np.ndarray,
    objective: float,
    gap: float,
    scores: np.ndarray,
    posterior: tuple[float, np.ndarray],
    design: Design,
    lots: tuple[Any, ...] | None = None,
) -> Selection:
    validation.warn_few_gains(scores, len(bought))
    return Selection(
        indices=bought,
        weights=weights,
        spent=float(offer.prices_n[bought].sum()),
        budget=budget,
        objective=objective,
        gap=gap,
        scores=scores,
        fair_price=fair_price(scores, budget, objective),
        prices=offer.prices_n,
        coverage=offer.coverage_m,
        prior_error=posterior[0],
        marginal_benefit=posterior[1],
        converged=design.converged,
        history=design.history,
        picks=design.picks,
        labels=offer.labels_n,
        lots=lots,
        settings=settings.describe(budget, offer.prices_n),
    )


def warn_of_run(offer: Offer, settings: Settings, budget: float, design: Design) -> None:
    """Warn of what a run did that makes its purchase worse than it looks."""
    count = budget / float(np.median(offer.prices_n))
    late = len(design.history) > max(2 * STEPS_PER_RECORD * count, FEWEST_STEPS)
    optimal = settings.solver in ("multiplicative", "exact") or (settings.solver == "fw" and late)
    in_order = settings.rounding == "greedy" or settings.step == "herding"
    if optimal and not in_order and settings.compat is None:
        validation.warn_small_budget(count, offer.pool.d)
    searched = settings.solver == "fw" and settings.step == "line_search" and settings.repeat
    if searched and settings.cost_mode == "exact":
        most = settings.iterations(budget, offer.prices_n)
        validation.warn_stalled(design.converged, len(design.history), most)


def buy_lots(
    offer: Offer,
    settings: Settings,
    budget: float,
    groups: Any,
    fill: bool,
    unique: bool,
    rng: np.random.Generator,
    on_step: Callable[[Step], None] | None,
) -> Selection:
    """Buy whole groups."""
    validation.check_one_of("solver of lots", settings.solver, LOT_SOLVERS)
    asked = {
        "unique": unique,
        "rounding='greedy'": settings.rounding == "greedy",
        "cost_mode='paper'": settings.cost_mode == "paper",
        "reg_lambda": settings.reg_lambda > 0,
        f"step={settings.step!r}": settings.step != "line_search",
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise ValueError(f"{name} is not for lots; with max_per_group records are sold singly")
    labels, codes_n = validation.check_groups(groups, offer.pool.n)
    prices_g = validation.check_lot_prices(offer.prices_n, codes_n, labels)
    budget = validation.check_budget(budget, prices_g)
    # Of a lot's price every record carries an equal share.
    shares_n = (prices_g / np.bincount(codes_n))[codes_n]
    found, lots_bought = _design_of_lots(
        offer, settings, budget, codes_n, prices_g, Rules(fill=fill), rng, on_step
    )
    members = np.argsort(codes_n, kind="stable")
    starts = np.searchsorted(codes_n[members], np.arange(len(labels) + 1))
    bought = np.concatenate([members[starts[lot] : starts[lot + 1]] for lot in lots_bought])
    before, decreases, inverse_dd = _posterior(offer, bought, settings.prior)
    if settings.solver == "greedy":
        weights_n = np.isin(codes_n, lots_bought).astype(np.float64)
        loss = objective(inverse_dd, offer.queries_md)
        gap = float("nan")
    else:
        weights_n = found.weights[codes_n]
        loss, gap = found.objective, found.gap
        inverse_dd = pseudo_inverse(offer.pool.gram(weights_n)).matrix
    return _assemble(
        replace(offer, prices_n=shares_n),
        settings,
        budget,
        bought,
        weights=weights_n,
        objective=loss,
        gap=gap,
        scores=offer.pool.scores(directions(inverse_dd, offer.queries_md)),
        posterior=(before, decreases),
        design=found.design,
        lots=tuple(labels[lots_bought].tolist()),
    )


def _design_of_lots(
    offer: Offer,
    settings: Settings,
    budget: float,
    codes_n: np.ndarray,
    prices_g: np.ndarray,
    rules: Rules,
    rng: np.random.Generator,
    on_step: Callable[[Step], None] | None,
) -> tuple[Spending, np.ndarray]:
    """Find weights of lots, (g,), and the lots to buy in order."""
    if settings.solver == "greedy":
        history: list[Step] = []

        def note(step: Step) -> None:
            history.append(step)
            if on_step is not None:
                on_step(step)

        order = lots_greedy(
            offer.pool,
            codes_n,
            offer.queries_md,
            prices_g,
            budget,
            settings.prior,
            offer.owned_dd,
            note,
        )
        nothing = np.empty(0)
        design = Design(nothing, np.nan, np.nan, nothing, nothing, order, order, tuple(history))
        return Spending(nothing, np.nan, np.nan, nothing, design), order
    solve = lots_frank_wolfe if settings.solver == "fw" else lots_multiplicative
    pool = ScaledPool(offer.pool, 1 / np.sqrt(prices_g[codes_n]))
    most = settings.iterations(budget, prices_g)
    design = solve(pool, codes_n, offer.queries_md, most, settings.tol, on_step)
    found = in_budget(design, prices_g, budget, True)
    floor_g = purchases.at_floor(design.weights, design.floor)
    if settings.rounding == "sample":
        last_g = floor_g if settings.drop_floor and not floor_g.all() else None
        ranking = purchases.sample_ranking(found.weights, rng, last_g)
    else:
        ranking = purchases.topk_ranking(found.weights)
    return found, purchases.purchase(ranking, prices_g, budget, rules)
