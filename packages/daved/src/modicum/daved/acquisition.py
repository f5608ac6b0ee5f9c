"""The steps of a selection, which the function and the estimator share.

`prepare` checks what is given and makes features, `solve` brings prices into the problem and runs
a solver, `in_budget` puts its design into one unit, weights that spend the budget, and `rank` with
`modicum.daved.rounding.purchase` turns weights into a purchase. Purchases one by one
(`buy_greedily`) and of whole lots (`buy_lots`) have ways of their own. Takes no labels and keeps
nothing.

Shapes: n rows of sellers, d features, m queries, k bought, g lots.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modicum.daved import rounding as purchases
from modicum.daved import validation
from modicum.daved.bundles import lots_frank_wolfe, lots_greedy, lots_multiplicative
from modicum.daved.design import coverage, directions, objective, pseudo_inverse
from modicum.daved.frames import to_vector
from modicum.daved.pool import ArrayPool, Pool, ScaledPool
from modicum.daved.reading import Reader, norms, pool_of
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
    "owned_information",
    "prepare",
    "promised_losses",
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

CONSTANT_SOLVERS = ("fw", "multiplicative")
"""Solvers of weights that take information which is there whatever the weights."""

MOST_FEATURES_TO_INVERT = 1024
"""Features up to which `FrankWolfe` inverts a (d, d) matrix in every step in reasonable time."""

_COLUMNS_AT_ONCE = 16


def automatic_iterations(budget: float | None, prices_n: np.ndarray) -> int:
    """Give twice the number of records that a budget buys at the median price, from 20 to 500.

    Few steps rank best where few records are bought. Without a budget it is 100.
    """
    if budget is None:
        return STEPS_WITHOUT_A_BUDGET
    wanted = STEPS_PER_RECORD * (budget / float(np.median(prices_n)))
    return round(min(max(wanted, FEWEST_STEPS), MOST_STEPS))


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
    fill: bool = True,
) -> Solver:
    """Make a solver of its name; settings that it does not have are left aside.

    Parameters
    ----------
    name
        ``"fw"``, ``"one_step"``, ``"greedy"``, ``"multiplicative"`` or ``"exact"``.
    step, max_iter, tol, regulariser, reg_lambda, repeat, compat
        As for `modicum.daved.solvers.frank_wolfe.FrankWolfe`.
    prior, fill
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
        "greedy": lambda: Greedy(prior, fill),
        "multiplicative": lambda: Multiplicative(max_iter, tol),
        "exact": Exact,
    }
    return makers[validation.check_one_of("solver", name, makers)]()


@dataclass(frozen=True)
class Offer:
    """What was given, checked: rows with their noise and weights in them, queries, prices.

    The rows without noise and weights are in `bare_pool`. Where the rows are scored, and in which
    type, is said in `scored`.
    """

    pool: Pool
    bare_pool: Pool
    queries_md: np.ndarray
    prices_n: np.ndarray
    coverage_m: np.ndarray
    gram_dd: np.ndarray
    owned_dd: np.ndarray | None = None
    labels_n: np.ndarray | None = None
    has_noise: bool = False
    scored: dict[str, str] = field(default_factory=dict)

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
    ridge: str | None = None
    compat: str | None = None

    @property
    def fixed_share(self) -> float:
        """λ of a ridge that stays in every step; 0 where there is none."""
        return self.reg_lambda if self.ridge == "fixed" else 0.0

    def has_constant(self, offer: Offer) -> bool:
        """Say whether weights are found beside information that they do not carry."""
        owned = offer.owned_dd is not None and self.solver in CONSTANT_SOLVERS
        return owned or self.fixed_share > 0

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
        if self.ridge is not None:
            validation.check_one_of("ridge", self.ridge, ("decay", "fixed"))
        if self.prior is not None:
            validation.check_positive("prior", self.prior)
        if self.compat is not None:
            validation.check_one_of("compat", self.compat, ("reference",))
        self._check_combination(offer)

    def _check_combination(self, offer: Offer) -> None:
        for name, asked in (
            ("compat='reference'", self.compat is not None),
            ("cost_mode='paper'", self.cost_mode == "paper"),
            ("reg_lambda", self.reg_lambda > 0 and self.ridge != "fixed"),
        ):
            if asked and self.solver != "fw":
                raise ValueError(f"{name} needs solver='fw', not {self.solver!r}")
        if self.solver == "greedy" and self.rounding == "sample":
            raise ValueError("rounding='sample' needs weights, which solver='greedy' has not")
        self._check_constant(offer)
        if offer.has_noise and self.solver != "greedy":
            validation.warn_noise_in_a_relaxation()

    def _check_constant(self, offer: Offer) -> None:
        owned = offer.owned_dd is not None
        asked = {
            "X_owned": owned and self.solver != "greedy",
            "ridge='fixed'": self.fixed_share > 0,
        }
        for name in [name for name, is_asked in asked.items() if is_asked]:
            if self.solver not in CONSTANT_SOLVERS:
                others = ", 'greedy'" if owned else ""
                raise ValueError(
                    f"{name} needs solver='fw', 'multiplicative'{others}, not {self.solver!r}"
                )
            if self.cost_mode == "paper":
                mode = "cost_mode='paper'" if self.compat is None else "compat='reference'"
                raise ValueError(f"{name} is not for {mode}, which has no budget for its weights")
            if self.solver == "fw" and offer.pool.d > MOST_FEATURES_TO_INVERT:
                raise ValueError(
                    f"{name} inverts a (d, d) matrix in every step of solver='fw': d is "
                    f"{offer.pool.d}, at most {MOST_FEATURES_TO_INVERT}; take "
                    "solver='multiplicative' or fewer features"
                )
        if owned and self.reg_lambda > self.fixed_share:
            raise ValueError(
                "X_owned with reg_lambda needs ridge='fixed': what decays is not owned"
            )

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
            "ridge": self.ridge,
            "compat": self.compat,
        }


def prepare(
    X: Any,
    Q: Any,
    costs: Any,
    reader: Reader,
    *,
    noise_var: Any = None,
    row_weight: Any = None,
    X_owned: Any = None,
    chunk_size: int | None = None,
    names: tuple[str, str] = ("X", "Q"),
) -> Offer:
    """Check and prepare what was given, and warn of what the data alone can tell.

    Parameters
    ----------
    X, Q, costs, noise_var, row_weight, X_owned, chunk_size
        As for `modicum.daved.select.select`.
    reader
        What makes rows of records; it is fitted to `X`, and says where rows are scored.
    names
        What error messages call the sellers' and the buyer's records.
    """
    if chunk_size is not None:
        validation.check_count("chunk_size", chunk_size)
    frame = reader.fit(X, names[0])
    pool = pool_of(frame.values, reader.place, chunk_size, names[0])
    if not isinstance(X, Pool):
        norms_n = norms(pool)
        validation.check_squares(names[0], norms_n)
        validation.warn_norms(norms_n)
    queries_md = validation.check_queries(reader.rows(Q, names[1]), pool.d, names[1], names[0])
    prices_n = validation.check_prices(_vector(costs, "costs"), pool.n)
    scored = {
        "device": str(getattr(pool, "device", "cpu")),
        "dtype": str(getattr(pool, "dtype", "float64")).removeprefix("torch."),
    }
    bare_pool, pool = pool, _weighted(pool, noise_var, row_weight)
    gram_dd = pool.gram()
    basis = pseudo_inverse(gram_dd).basis
    coverage_m = coverage(basis, queries_md)
    validation.check_covered(coverage_m)
    validation.warn_scales(np.diag(gram_dd))
    validation.warn_rank(basis.shape[1], pool.d)
    validation.warn_coverage(coverage_m)
    validation.warn_many_queries(len(queries_md))
    return Offer(
        pool,
        bare_pool,
        queries_md,
        prices_n,
        coverage_m,
        gram_dd,
        None if X_owned is None else owned_information(reader, X_owned),
        frame.labels,
        noise_var is not None,
        scored,
    )


def owned_information(reader: Reader, X_owned: Any, name: str = "X_owned") -> np.ndarray:
    """Give the Gram matrix of records that a buyer has, (d, d); error messages call them `name`."""
    rows_od = reader.rows(X_owned, name)
    validation.check_sellers(rows_od, name)
    found_dd: np.ndarray = rows_od.T @ rows_od
    return found_dd


def _weighted(pool: Pool, noise_var: Any, row_weight: Any) -> Pool:
    """Multiply rows with the roots of their weights over their variances."""
    if noise_var is None and row_weight is None:
        return pool
    squares_n = np.ones(pool.n)
    if row_weight is not None:
        squares_n *= validation.check_row_weight(_vector(row_weight, "row_weight"), pool.n)
    if noise_var is not None:
        squares_n /= validation.check_noise(_vector(noise_var, "noise_var"), pool.n)
    return ScaledPool(pool, np.sqrt(squares_n))


def _vector(values: Any, name: str) -> Any:
    return None if values is None else to_vector(values, name)


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
    # Equal rows stay equal where their noise or weight differs.
    return purchases.duplicate_codes(offer.bare_pool.rows(np.arange(offer.pool.n)))


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
    ranking = rank(offer, settings, budget, rules, found, rng)
    bought = purchases.purchase(ranking, offer.prices_n, budget, rules)
    return weighted_selection(offer, settings, budget, bought, found)


def solve(
    offer: Offer,
    settings: Settings,
    budget: float,
    on_step: Callable[[Step], None] | None,
) -> tuple[Design, bool]:
    """Run a solver of weights; say whether its rows carried the prices.

    Notes
    -----
    What is owned, M₀, and a fixed ridge are one constant C of the problem. Weights that spend the
    budget are w_j = B u_j / c_j with shares u_j of the spending, so that M₀ + Σ w_j x_j x_j' is
    B (M₀ / B + Σ u_j z_j z_j') with z_j = x_j / √c_j: in the unit of shares C is M₀ / B, and
    everything else is as without it. With a ridge the information is
    (1 - λ) Σ u_j z_j z_j' + λ R: rows are multiplied with √(1 - λ), and C has λ R besides.
    """
    divides = settings.cost_mode == "paper" or settings.solver == "one_step"
    is_priced = not divides and not offer.one_price
    decays = settings.reg_lambda > settings.fixed_share
    solver = solver_by_name(
        settings.solver,
        step=settings.step,
        max_iter=settings.iterations(budget, offer.prices_n),
        tol=settings.tol,
        regulariser=_deviations(offer, is_priced) if decays else None,
        reg_lambda=settings.reg_lambda if decays else 0.0,
        repeat=settings.repeat,
        compat=settings.compat,
    )
    costs_n = offer.prices_n if divides and not offer.one_price else None
    problem = Problem(
        _pool_of_shares(offer, settings, is_priced),
        offer.queries_md,
        costs_n,
        budget,
        offer.prices_n,
        constant=_constant(offer, settings, budget, is_priced),
    )
    design = solver.solve(problem, on_step)
    return _at_its_weights(design, problem) if settings.solver == "one_step" else design, is_priced


def _pool_of_shares(offer: Offer, settings: Settings, is_priced: bool) -> Pool:
    """Give the rows whose weights are shares of the spending, with 1 - λ of a fixed ridge."""
    squares_n = np.full(offer.pool.n, 1 - settings.fixed_share)
    if is_priced:
        squares_n /= offer.prices_n
    return ScaledPool(offer.pool, np.sqrt(squares_n)) if (squares_n != 1).any() else offer.pool


def _constant(
    offer: Offer, settings: Settings, budget: float, is_priced: bool
) -> np.ndarray | None:
    """Give the information that no weight carries, in the unit of shares, (d, d)."""
    if not settings.has_constant(offer):
        return None
    found_dd = np.zeros((offer.pool.d, offer.pool.d))
    if offer.owned_dd is not None:
        # Where all prices are one, shares are of records, of which the budget buys B / c.
        found_dd += offer.owned_dd * (1 if is_priced else offer.prices_n[0]) / budget
    if settings.fixed_share:
        found_dd += settings.fixed_share * _deviations(offer, is_priced)
    return found_dd


def promised_losses(
    offer: Offer, settings: Settings, shares_n: np.ndarray, budgets_b: np.ndarray
) -> np.ndarray:
    """Give L of the same shares of the spending at every budget, (b,), on top of what is owned."""
    is_priced = not offer.one_price
    gram_dd = _pool_of_shares(offer, settings, is_priced).gram(shares_n)
    losses = []
    for budget in budgets_b:
        constant_dd = _constant(offer, settings, budget, is_priced)
        information_dd = gram_dd if constant_dd is None else gram_dd + constant_dd
        unit = budget if is_priced else budget / offer.prices_n[0]
        losses.append(objective(pseudo_inverse(information_dd).matrix, offer.queries_md) / unit)
    return np.array(losses)


def _at_its_weights(design: Design, problem: Problem) -> Design:
    """Give a design with the loss and scores of its weights: one step has those of uniform ones."""
    inverse_dd = pseudo_inverse(problem.pool.gram(design.weights)).matrix
    scores_n = problem.pool.scores(directions(inverse_dd, problem.queries_md))
    loss = objective(inverse_dd, problem.queries_md)
    gap = float(scores_n.max()) - loss
    return replace(design, objective=loss, gap=gap, scores=scores_n, inverse=inverse_dd)


def _deviations(offer: Offer, is_priced: bool) -> np.ndarray:
    """Give the diagonal matrix of the features' standard deviations, (d, d).

    Where rows carry prices it is multiplied with the mean of 1 / c, as the information is on
    average, so that a currency changes nothing.
    """
    pool = offer.pool
    # Of few features at once: rows may be far more than the memory has room for.
    blocks = np.array_split(np.eye(pool.d), -(-pool.d // _COLUMNS_AT_ONCE), axis=1)
    deviations_d = np.concatenate([pool.products(block).std(axis=0) for block in blocks])
    return np.diag(deviations_d) * (float((1 / offer.prices_n).mean()) if is_priced else 1.0)


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
    found: Spending,
    rng: np.random.Generator,
) -> np.ndarray:
    """Rank the records for `purchase`, (n,): by weight, drawn, by picks, or greedily.

    Records that were never picked have a weight that says nothing of them, equal shares of the
    spending; they come after all others, by the score per price.
    """
    design = found.design
    values_n = found.scores / offer.prices_n
    floor_n = purchases.at_floor(design.weights, design.floor)
    weights_n = np.where(floor_n, 0.0, found.weights)
    if settings.rounding == "greedy":
        support_n = floor_n if floor_n.all() else ~floor_n
        order = _greedy_on_support(offer, settings, budget, rules, support_n)
        return purchases.extend(order, weights_n, values_n)
    if settings.rounding == "sample":
        last_n = floor_n if settings.drop_floor else None
        return purchases.sample_ranking(found.weights, rng, last_n)
    if settings.step == "herding" and settings.solver == "fw":
        return purchases.pick_ranking(design.picks, weights_n, values_n)
    if settings.compat == "reference":
        # As a reversed sort does it: ties from the largest index down.
        return np.argsort(found.weights, kind="stable")[::-1]
    return purchases.topk_ranking(weights_n, values_n)


def _greedy_on_support(
    offer: Offer,
    settings: Settings,
    budget: float,
    rules: Rules,
    support_n: np.ndarray,
) -> np.ndarray:
    """Order the records of the support as greedy purchases do."""
    rows = np.flatnonzero(support_n)
    problem = Problem(
        offer.pool if support_n.all() else ArrayPool(offer.pool.rows(rows)),
        offer.queries_md,
        offer.prices_n[rows],
        budget if rules.fill and not rules.restrict else None,
        offer.prices_n[rows],
        offer.owned_dd,
    )
    prior = default_prior(offer.gram_dd, offer.pool.n) if settings.prior is None else settings.prior
    order: np.ndarray = rows[solver_by_name("greedy", prior=prior).solve(problem).order]
    return order


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
    solver = solver_by_name("greedy", prior=settings.prior, fill=rules.fill or rules.restrict)
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
        ranking = order
        if rules.fill or rules.restrict:
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
    # At the optimum what is bought has a score per price of Σ w g / B: L / B without a constant.
    worth = float(weights @ scores) if settings.has_constant(offer) else objective
    return Selection(
        indices=bought,
        weights=weights,
        spent=float(offer.prices_n[bought].sum()),
        budget=budget,
        objective=objective,
        gap=gap,
        scores=scores,
        fair_price=fair_price(scores, budget, worth),
        prices=offer.prices_n,
        coverage=offer.coverage_m,
        prior_error=posterior[0],
        marginal_benefit=posterior[1],
        converged=design.converged,
        history=design.history,
        picks=design.picks,
        labels=offer.labels_n,
        lots=lots,
        settings=settings.describe(budget, offer.prices_n) | offer.scored,
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
        "compat='reference'": settings.compat is not None,
        "cost_mode='paper'": settings.cost_mode == "paper",
        "repeat=False": not settings.repeat,
        "reg_lambda": settings.reg_lambda > 0,
        f"X_owned with solver={settings.solver!r}": settings.has_constant(offer),
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
            rules.fill,
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
        last_g = floor_g if settings.drop_floor else None
        ranking = purchases.sample_ranking(found.weights, rng, last_g)
    else:
        weights_g = np.where(floor_g, 0.0, found.weights)
        ranking = purchases.topk_ranking(weights_g, found.scores / prices_g)
    return found, purchases.purchase(ranking, prices_g, budget, rules)
