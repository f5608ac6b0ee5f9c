"""The selection as an estimator with the conventions of scikit-learn.

`DAVED.fit` takes sellers' records, a buyer's unlabelled queries and prices, in any form that
`modicum.daved.frames` reads, finds a design and keeps it; `DAVED.select` turns it into a purchase
for a budget, as often as wanted. Labels are never looked at. The algorithms are elsewhere: this
module brings data, features, prices and a solver together and puts results into one unit.

The unit: `weights_` spend one unit of currency, Σ c_j w_j = 1, and `objective_`, `scores_` and
`dual_gap_` belong to these weights; at a budget B the weights are B times as large and the
objective is `objective_` / B. With prices of 1 this is a design of sum 1 and B counts records.

Shapes: n records of sellers, d features, m queries, k records bought.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from modicum.daved.acquisition import (
    STEPS_WITHOUT_A_BUDGET,
    Settings,
    buy_greedily,
    buy_lots,
    greedy_selection,
    in_budget,
    prepare,
    promised_losses,
    rank,
    rules_of,
    solve,
    warn_of_run,
    weighted_selection,
)
from modicum.daved.design import directions
from modicum.daved.features import FeatureMap, make_features
from modicum.daved.frames import count, take, to_frame, to_vector
from modicum.daved.reading import Place, Reader
from modicum.daved.rounding import purchase
from modicum.daved.selection import Selection
from modicum.daved.solvers.base import Design, Step
from modicum.daved.theory import budget_curve, fair_price
from modicum.daved.validation import check_budget, check_positive, check_sellers

__all__ = ["DAVED"]


class DAVED(BaseEstimator):
    """Buy the records that help with these queries, for a budget.

    Parameters
    ----------
    solver
        ``"fw"`` (Frank-Wolfe), ``"one_step"``, ``"greedy"`` (best for fewer records than features
        on linear data), ``"multiplicative"`` (best for more records than features and for prices),
        ``"exact"``.
    step
        Step rule of ``"fw"``: ``"line_search"``, ``"open_loop"``, ``"herding"`` or a fixed size.
    max_iter
        Most iterations of ``"fw"`` and ``"multiplicative"``. ``"auto"`` is 100, for ``"fw"`` with a
        ``budget`` in `fit` twice the number of records that it buys at the median price, between 20
        and 500.
    tol
        Stop when the certificate is below this share of the objective.
    cost_mode
        ``"exact"`` optimises over weights that spend the budget; ``"paper"`` divides the scores of
        ``"fw"`` by prices, which with a line search stops far from the optimum where prices differ.
    rounding
        ``"topk"``, ``"sample"`` or ``"greedy"``: how weights become a purchase.
    reg_lambda
        Share λ in [0, 1) of a diagonal matrix R of the features' standard deviations in the
        information, (1 - λ) M + λ R.
    ridge
        ``"decay"``, and so None, for ``"fw"``: R is in the initial information only and its share
        shrinks with every step, as in the published code. ``"fixed"``, for ``"fw"`` with up to 1024
        features and ``"multiplicative"``: it stays, and `objective_`, `scores_` and `dual_gap_` are
        those of (1 - λ) M + λ R.
    fit_intercept, normalize, max_norm
        Append a column of ones; ``"l2"`` for rows of norm 1; largest norm of a row.
    device, dtype, chunk_size
        Where the sellers' rows are scored, in which type they are kept there, and how many are
        scored at once: as for `modicum.daved.select.select`. ``"auto"`` is a GPU for many rows
        where there is one, else NumPy in float64; ``"cpu"`` is NumPy.
    compat
        ``"reference"`` follows the published code with all it does: see `FrankWolfe`.
    random_state
        Seed of ``rounding="sample"`` and of random features.
    progress
        Show a bar on the standard error stream if it is a terminal.
    features
        What makes features of records, of sellers' and buyer's alike: a name, a map or a function
        as in `modicum.daved.features.make_features`, or a transformer of scikit-learn, which is
        cloned and fitted to the sellers' records.

    Attributes
    ----------
    weights_
        Design weights, (n,), Σ c_j w_j = 1.
    scores_
        -∂L/∂w_j at these weights, (n,), in units of label variance.
    objective_
        L at these weights: σ² L / B is the predicted excess error of a purchase for a budget B.
    dual_gap_
        `objective_` minus the optimum is at most this; nan for ``solver="greedy"``.
    n_iter_, history_, picks_
        Iterations, each as a `Step` (in the solver's own unit), and the row picked in each.
    coverage_
        Share of each query's squared length in the span of sellers' rows, (m,).
    fair_price_
        Price up to which each record is worth buying, (n,), in currency.
    sample_indices_, spent_
        Positions (k,) and price of the last purchase.
    labels_
        Labels of the sellers' records from the index of a data frame, (n,); None without.
    n_features_in_, feature_names_in_
        Number and names of the sellers' features as given.

    Notes
    -----
    Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al.,
    NeurIPS 2024, arXiv 2403.13893.

    As the last step of a `sklearn.pipeline.Pipeline` it gets the second argument of ``fit`` as the
    queries, which the steps before do not transform: put these into ``features`` instead.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> market = DAVED(solver="greedy").fit(rng.normal(size=(50, 3)), np.array([[1.0, 0.0, 0.0]]))
    >>> len(market.select(budget=4))
    4
    """

    def __init__(
        self,
        solver: str = "fw",
        *,
        step: str | float = "line_search",
        max_iter: str | int = "auto",
        tol: float = 1e-3,
        cost_mode: str = "exact",
        rounding: str = "topk",
        reg_lambda: float = 0.0,
        ridge: str | None = None,
        fit_intercept: bool = False,
        normalize: str = "none",
        max_norm: float | None = None,
        device: Any = "auto",
        dtype: Any = "float32",
        chunk_size: int | None = None,
        compat: str | None = None,
        random_state: int | None = None,
        progress: bool = True,
        features: Any = "identity",
    ) -> None:
        self.solver = solver
        self.step = step
        self.max_iter = max_iter
        self.tol = tol
        self.cost_mode = cost_mode
        self.rounding = rounding
        self.reg_lambda = reg_lambda
        self.ridge = ridge
        self.fit_intercept = fit_intercept
        self.normalize = normalize
        self.max_norm = max_norm
        self.device = device
        self.dtype = dtype
        self.chunk_size = chunk_size
        self.compat = compat
        self.random_state = random_state
        self.progress = progress
        self.features = features

    def fit(
        self,
        X_seller: Any,
        X_buyer: Any,
        costs: Any = None,
        groups: Any = None,
        X_owned: Any = None,
        noise_var: Any = None,
        budget: float | None = None,
        row_weight: Any = None,
    ) -> Self:
        """Find a design for a buyer's queries.

        Parameters
        ----------
        X_seller
            Sellers' records, (n, d): array, memory map, list of shards, data frame, tensor.
        X_buyer
            The buyer's unlabelled queries, (m, d). Where both have names of features, these are
            matched; labels have no place here.
        costs
            Price of each record, (n,), positive; 1 each by default.
        groups
            Lot of each record, (n,): all of a lot is bought or none of it, at the price that each
            of its records carries in `costs`.
        X_owned
            Records that the buyer has already, (k, d), of unit noise; for ``solver="greedy"``,
            ``"fw"`` and ``"multiplicative"``. The latter two weigh it against what the budget buys.
        noise_var
            Variance of each record's label noise, (n,), positive; 1 each by default.
        budget
            A hint: what `select` will be asked for. Lots need it, and so do designs of ``"fw"`` and
            ``"multiplicative"`` on top of `X_owned`: `select` solves anew for another budget.
        row_weight
            Weight of each record, (n,), at least 0, as in a generalised linear model: its
            information is row_weight x x'. Of a logistic model it is p (1 - p) with the probability
            p of a pilot model: `modicum.daved.features.logistic_row_weight`.

        Returns
        -------
        DAVED
            Itself.
        """
        settings = _settings(self)
        reader = Reader(_fresh_map(self), Place(self.device, self.dtype))
        offer = prepare(
            X_seller,
            X_buyer,
            costs,
            reader,
            noise_var=noise_var,
            row_weight=row_weight,
            X_owned=X_owned,
            chunk_size=self.chunk_size,
            names=("X_seller", "X_buyer"),
        )
        settings.check(offer)
        self._offer, self._settings, self._groups = offer, settings, groups
        self._reader = reader
        self._set_names(reader)
        self._find(budget)
        return self

    def select(self, budget: float) -> np.ndarray:
        """Buy for a budget, as often as wanted.

        Parameters
        ----------
        budget
            In currency; the number of records where all prices are 1.

        Returns
        -------
        numpy.ndarray
            Positions of the bought records, (k,) int64, in the order of purchase. Their labels are
            ``labels_[positions]``.
        """
        found = self.selection(budget)
        self.sample_indices_, self.spent_ = found.indices, found.spent
        return found.indices

    def selection(self, budget: float) -> Selection:
        """Give the purchase for a budget with its plan, prices and certificate, all in one.

        Parameters
        ----------
        budget
            As in `select`.

        Returns
        -------
        Selection
            In the unit of weights that spend the budget.
        """
        check_is_fitted(self)
        offer, settings = self._offer, self._settings
        rng = np.random.default_rng(self.random_state)
        if self._groups is not None:
            with _bar(self.progress, self.solver) as on_step:
                return buy_lots(offer, settings, budget, self._groups, True, False, rng, on_step)
        rules = rules_of(offer, None, None, None, True, False, self.compat)
        budget = check_budget(budget, offer.prices_n)
        if settings.solver == "greedy":
            # What is affordable last depends on the budget, so that a prefix will not do.
            with _bar(self.progress, self.solver) as on_step:
                bought, design = buy_greedily(offer, settings, budget, rules, on_step)
            return greedy_selection(offer, settings, budget, bought, design)
        design, is_priced = self._design_for(budget)
        warn_of_run(offer, settings, budget, design)
        found = in_budget(design, offer.prices_n, budget, is_priced)
        ranking = rank(offer, settings, budget, rules, found, rng)
        bought = purchase(ranking, offer.prices_n, budget, rules)
        return weighted_selection(offer, settings, budget, bought, found)

    def quote(self, records: Any) -> np.ndarray:
        """Give the price up to which each of any records is worth buying.

        Parameters
        ----------
        records
            Records like those of the sellers, on offer or not, (k, d); their features are made by
            the map that was fitted, and they count as of unit noise and weight.

        Returns
        -------
        numpy.ndarray
            (k,) in currency. Of records on offer it is `fair_price_`.

        Raises
        ------
        ValueError
            If there is no design to quote by, as of ``solver="greedy"`` and of lots, or records
            are not valid.
        """
        check_is_fitted(self)
        if self._groups is not None or self._settings.solver == "greedy":
            raise ValueError(
                "quotes follow from a design of records: take solver='fw', 'multiplicative', "
                "'exact' or 'one_step', without groups"
            )
        rows_kd = self._reader.rows(records, "records")
        check_sellers(rows_kd, "records")
        design, is_priced = self._design
        # In the unit of the module, as `in_budget` brings scores into it.
        factor = 1.0 if is_priced else float(self._offer.prices_n @ design.weights)
        columns_dm = directions(design.inverse, self._offer.queries_md)
        scores_k = np.square(rows_kd @ columns_dm).mean(axis=1) * factor**2
        return fair_price((1 - self._settings.fixed_share) * scores_k, 1.0, self._worth)

    def error_curve(self, budgets: Any, sigma2: float | None = None) -> np.ndarray:
        """Predict the excess test error σ² L / B of purchases for budgets.

        Parameters
        ----------
        budgets
            (b,) in currency, positive.
        sigma2
            Variance of the label noise; 1 if None.

        Returns
        -------
        numpy.ndarray
            (b,). For fewer records than features it is what the weights promise, and a set of
            records cannot keep. On top of `X_owned` it is what the same weights, times the budget,
            promise. With ``solver="greedy"`` it goes on from the purchase for the
            budget that `fit` was given, as if that were repeated.
        """
        check_is_fitted(self)
        asked_b = to_vector(np.atleast_1d(np.asarray(budgets)), "budgets")
        if not (asked_b > 0).all():
            raise ValueError(f"budgets have to be positive, the least is {asked_b.min():g}")
        noise = 1.0 if sigma2 is None else check_positive("sigma2", sigma2)
        if not self._depends_on_budget:
            return budget_curve(self.objective_, asked_b, noise)
        shares_n = self.weights_ * self._offer.prices_n
        return noise * promised_losses(self._offer, self._settings, shares_n, asked_b)

    def fit_resample(
        self, X_seller: Any, y_seller: Any, *, X_buyer: Any, budget: float, **fit_params: Any
    ) -> tuple[Any, Any]:
        """Fit, select, and give the purchase with its labels, which nothing else looks at.

        Parameters
        ----------
        X_seller, X_buyer, budget
            As in `fit` and `select`.
        y_seller
            Labels, (n,) or (n, q), in any form.
        **fit_params
            Further arguments of `fit`.

        Returns
        -------
        tuple
            Records (k, d) and labels (k,) or (k, q), each of the kind that was given, in the order
            of purchase.
        """
        if count(X_seller) != count(y_seller):
            raise ValueError(
                f"y_seller has {count(y_seller)} labels for {count(X_seller)} records of X_seller"
            )
        self.fit(X_seller, X_buyer, budget=budget, **fit_params)
        bought_k = self.select(budget)
        return take(X_seller, bought_k), take(y_seller, bought_k)

    @property
    def _depends_on_budget(self) -> bool:
        """Whether shares of the spending are best for one budget only: beside owned records."""
        return self._offer.owned_dd is not None and self._settings.has_constant(self._offer)

    def _design_for(self, budget: float) -> tuple[Design, bool]:
        """Give the design that was kept, or another where it is for another budget."""
        if not self._depends_on_budget or budget == self._spend:
            return self._design
        with _bar(self.progress, self.solver, int(self._settings.max_iter)) as on_step:
            return solve(self._offer, self._settings, budget, on_step)

    def _set_names(self, reader: Reader) -> None:
        self.features_ = reader.map
        for name in ("feature_names_in_", "n_features_in_"):
            self.__dict__.pop(name, None)
        if reader.width is not None:
            self.n_features_in_ = reader.width
        if reader.names is not None:
            self.feature_names_in_ = np.array(reader.names, dtype=object)

    def _find(self, budget: float | None) -> None:
        """Run the solver and keep what it found, in the unit of the module."""
        offer = self._offer
        self.coverage_, self.labels_ = offer.coverage_m, offer.labels_n
        if self._groups is not None or self.solver == "greedy":
            self._keep_purchase(budget)
            return
        if budget is None and self._depends_on_budget:
            raise ValueError(
                f"X_owned with solver={self.solver!r} needs a budget in fit: what is owned counts "
                "against what is bought"
            )
        # The design belongs to one unit of currency; a budget only says how many steps to make.
        spend = 1.0 if budget is None else check_budget(budget, offer.prices_n)
        is_open = budget is None and self.max_iter == "auto"
        most = (
            STEPS_WITHOUT_A_BUDGET if is_open else self._settings.iterations(spend, offer.prices_n)
        )
        # Whatever is bought later is bought by this run.
        self._settings = replace(self._settings, max_iter=most)
        self._spend = spend
        with _bar(self.progress, self.solver, most) as on_step:
            self._design = solve(offer, self._settings, spend, on_step)
        design, is_priced = self._design
        found = in_budget(design, offer.prices_n, 1.0, is_priced)
        self._keep(found.weights, found.scores, found.objective, found.gap, design)

    def _keep_purchase(self, budget: float | None) -> None:
        """Keep what a purchase says where there are no weights without one."""
        if budget is None:
            if self._groups is not None:
                raise ValueError("groups are sold as whole lots: fit needs a budget for them")
            budget = STEPS_WITHOUT_A_BUDGET * float(np.median(self._offer.prices_n))
        found = self.selection(budget)
        spent = float(found.weights @ found.prices)
        self._keep(
            found.weights / spent,
            found.scores * spent**2,
            found.objective * spent,
            found.gap * spent,
            found,
        )

    def _keep(
        self,
        weights_n: np.ndarray,
        scores_n: np.ndarray,
        objective: float,
        gap: float,
        run: Design | Selection,
    ) -> None:
        self.weights_, self.scores_ = weights_n, scores_n
        self.objective_, self.dual_gap_ = objective, gap
        has_constant = self._settings.has_constant(self._offer)
        self._worth = float(weights_n @ scores_n) if has_constant else objective
        self.fair_price_ = fair_price(scores_n, 1.0, self._worth)
        self.history_, self.picks_ = run.history, run.picks
        self.n_iter_ = len(run.history)


def _settings(estimator: DAVED) -> Settings:
    """Take an estimator's settings."""
    is_reference = estimator.compat == "reference"
    return Settings(
        solver=estimator.solver,
        step=estimator.step,
        max_iter=estimator.max_iter,
        tol=estimator.tol,
        cost_mode="paper" if is_reference else estimator.cost_mode,
        rounding=estimator.rounding,
        drop_floor=estimator.rounding == "sample",
        reg_lambda=estimator.reg_lambda,
        ridge=estimator.ridge,
        compat=estimator.compat,
    )


def _is_transformer(features: Any) -> bool:
    return not isinstance(features, str | FeatureMap) and hasattr(features, "transform")


def _fresh_map(estimator: DAVED) -> FeatureMap:
    """Make an unfitted map that shares nothing with the estimator's setting."""
    features = estimator.features
    if _is_transformer(features):
        base: Any = _Transformer(clone(features))
    else:
        base = copy.deepcopy(features) if isinstance(features, FeatureMap) else features
    return make_features(
        base,
        normalize=estimator.normalize,
        max_norm=estimator.max_norm,
        fit_intercept=estimator.fit_intercept,
        seed=estimator.random_state or 0,
    )


class _Transformer(FeatureMap):
    """A transformer of scikit-learn as a feature map."""

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer

    def fit(self, records: Any) -> Self:
        self.transformer.fit(records)
        return self

    def transform(self, records: Any) -> Any:
        return to_frame(self.transformer.transform(records), "features").values

    def describe(self) -> dict[str, Any]:
        raise ValueError("a transformer of scikit-learn has no fingerprint; use a FeatureMap")


@contextmanager
def _bar(
    wanted: bool, name: str, total: int | None = None
) -> Iterator[Callable[[Step], None] | None]:
    """Show a bar of iterations where someone watches the standard error stream."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda step: progress.update(task, completed=step.iteration + 1)
