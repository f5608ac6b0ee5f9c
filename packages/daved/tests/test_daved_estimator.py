"""The estimator: conventions of scikit-learn, one unit for all results, and honest purchases."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from modicum.daved.errors import DAVEDWarning, InfeasibleBudgetError
from modicum.daved.estimator import DAVED
from modicum.daved.features import Standardize
from modicum.daved.select import select

SOLVERS = ["fw", "one_step", "greedy", "multiplicative", "exact"]


class OneArgument(DAVED):
    """DAVED as scikit-learn's checks call it: the queries are the first two records."""

    def fit(self, X: Any, y: Any = None) -> "OneArgument":  # type: ignore[override]
        return super().fit(X, X if scipy.sparse.issparse(X) else np.asarray(X)[:2])


# With the adapter, all checks that scikit-learn has for this kind of estimator apply. Those for
# classifiers, regressors, transformers and clusterers are not among them: there is nothing to
# predict or to transform. As a bare DAVED takes queries where others take labels, and refuses
# labels, checks that call fit(X, y) with labels cannot apply to it.


@pytest.mark.filterwarnings("ignore::modicum.daved.errors.DAVEDWarning")
@parametrize_with_checks(
    [OneArgument(progress=False), OneArgument("greedy", progress=False)],
)
def test_conventions_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def market(n: int = 120, d: int = 4, m: int = 2, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Give rows, queries and prices; rows of norm 1, so that none looks inflated."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rng.normal(size=(m, d)), rng.integers(1, 6, size=n).astype(float)


def loss(rows: np.ndarray, queries: np.ndarray, weights: np.ndarray) -> float:
    inverse = np.linalg.pinv(rows.T @ (weights[:, None] * rows))
    return float(np.mean([q @ inverse @ q for q in queries]))


@pytest.mark.parametrize(
    ("solver", "cost_mode"),
    [(name, "exact") for name in SOLVERS if name != "greedy"] + [("fw", "paper")],
)
@pytest.mark.parametrize("noisy", [False, True])
def test_results_belong_to_weights_that_spend_one_unit(
    solver: str, cost_mode: str, noisy: bool
) -> None:
    rows, queries, costs = market(m=1 if solver == "exact" else 2)
    noise = np.linspace(0.5, 2.0, len(rows)) if noisy else None
    found = DAVED(solver, cost_mode=cost_mode, max_iter=60)
    if noisy:
        with pytest.warns(DAVEDWarning, match="noise_var"):
            found.fit(rows, queries, costs, noise_var=noise)
    else:
        found.fit(rows, queries, costs)
    true_rows = rows if noise is None else rows / np.sqrt(noise)[:, None]
    assert costs @ found.weights_ == pytest.approx(1)
    assert found.objective_ == pytest.approx(loss(true_rows, queries, found.weights_), rel=1e-8)
    if solver == "exact":
        assert found.dual_gap_ == pytest.approx(0, abs=1e-8 * found.objective_)
        return
    # Scores are derivatives: compared with differences.
    for row in (0, 7):
        step = 1e-4 * found.weights_.max()
        more, less = found.weights_.copy(), found.weights_.copy()
        more[row] += step
        less[row] -= step
        slope = (loss(true_rows, queries, less) - loss(true_rows, queries, more)) / (2 * step)
        assert found.scores_[row] == pytest.approx(slope, rel=1e-3)
    assert found.scores_ @ found.weights_ == pytest.approx(found.objective_)
    # The certificate bounds the distance to the optimum, found by long multiplicative updates.
    best = DAVED("multiplicative", max_iter=3000, tol=1e-7)
    if noisy:
        with pytest.warns(DAVEDWarning, match="noise_var"):
            best.fit(rows, queries, costs, noise_var=noise)
    else:
        best.fit(rows, queries, costs)
    assert found.objective_ - found.dual_gap_ <= best.objective_ * (1 + 1e-9)
    assert found.objective_ >= best.objective_ - best.dual_gap_ - 1e-9


def test_fair_prices_are_the_prices_of_what_the_optimum_buys() -> None:
    rows, queries, costs = market()
    found = DAVED("multiplicative", max_iter=5000, tol=1e-9).fit(rows, queries, costs)
    bought = costs * found.weights_ > 1e-3
    assert 2 <= bought.sum() < 20
    np.testing.assert_allclose(found.fair_price_[bought], costs[bought], rtol=1e-6)
    assert (found.fair_price_ <= costs * (1 + 1e-6)).all()


def test_the_rule_of_the_paper_stops_early_with_a_line_search() -> None:
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(200, 5)), rng.normal(size=(1, 5))
    costs = rng.integers(1, 6, size=200).astype(float)
    best = DAVED("multiplicative", max_iter=3000, tol=1e-6).fit(rows, queries, costs).objective_

    def found(step: str, cost_mode: str) -> float:
        estimator = DAVED(max_iter=2000, step=step, cost_mode=cost_mode)
        return estimator.fit(rows, queries, costs).objective_

    assert found("open_loop", "exact") <= 1.005 * best
    assert found("line_search", "exact") <= 1.02 * best
    assert found("line_search", "paper") > 1.1 * best
    # Its stationary points are those of the priced problem, which other steps do reach.
    assert found("open_loop", "paper") <= 1.005 * best


@pytest.mark.parametrize(
    ("solver", "rounding"),
    [
        (solver, rounding)
        for solver in SOLVERS
        for rounding in ("topk", "sample", "greedy")
        if (solver, rounding) != ("greedy", "sample")
    ],
)
def test_purchases_keep_the_budget_and_leave_nothing_affordable(solver: str, rounding: str) -> None:
    rows, queries, costs = market(m=1)
    found = DAVED(solver, rounding=rounding, random_state=0).fit(rows, queries, costs, budget=17)
    for budget in (17, 40, 13.5):
        bought = found.select(budget)
        assert bought.dtype == np.int64
        assert len(set(bought.tolist())) == len(bought)
        assert found.spent_ == costs[bought].sum() <= budget
        assert np.delete(costs, bought).min() > budget - found.spent_
        assert found.sample_indices_ is bought
    np.testing.assert_array_equal(found.select(17), found.select(17))


def test_an_integer_budget_counts_records_at_unit_prices() -> None:
    rows, queries, _ = market()
    for solver in ("fw", "greedy"):
        assert len(DAVED(solver).fit(rows, queries, budget=7).select(7)) == 7


def test_greedy_order_is_that_of_the_posterior_variance() -> None:
    rows, queries, _ = market(40, 3)
    owned = rows[:2] * 3
    prior = 0.05 * np.square(rows).sum(axis=1).mean() * np.eye(3)
    known, expected = prior + owned.T @ owned, []
    for _step in range(5):
        after = [
            np.mean([q @ np.linalg.inv(known + np.outer(x, x)) @ q for q in queries])
            if j not in expected
            else np.inf
            for j, x in enumerate(rows)
        ]
        expected.append(int(np.argmin(after)))
        known = known + np.outer(rows[expected[-1]], rows[expected[-1]])
    found = DAVED("greedy").fit(rows, queries, X_owned=owned)
    assert found.select(5).tolist() == expected
    assert DAVED("greedy").fit(rows, queries).select(5).tolist() != expected
    assert np.isnan(found.dual_gap_)


def test_herding_buys_in_the_order_of_picks() -> None:
    rows, queries, _ = market()
    found = DAVED(step="herding", max_iter=20).fit(rows, queries)
    first = list(dict.fromkeys(found.picks_.tolist()))
    assert found.select(4).tolist() == first[:4]


def test_max_iter_follows_the_budget() -> None:
    rows, queries, _ = market(400, 6, 4)
    settings: dict[str, Any] = {"step": "open_loop", "tol": 1e-12}
    for budget, steps in ((None, 100), (5, 20), (30 * 2.0, 40), (1e5, 500)):
        prices = np.full(400, 3.0) if budget == 60 else None
        found = DAVED(**settings).fit(rows, queries, prices, budget=budget)
        assert found.n_iter_ == steps


def test_compat_runs_as_the_published_code() -> None:
    rows, queries, costs = market(300, 8, 1)
    found = DAVED(compat="reference", max_iter=50).fit(rows, queries, costs)
    assert found.n_iter_ == 50
    steps = [step.step_size for step in found.history_]
    assert max(steps) <= 0.9
    assert steps[-1] == pytest.approx(6e-6)
    # A purchase for exactly the budget is refused, and the first that does not fit ends it.
    ranked = np.argsort(-found.weights_, kind="stable")
    budget = costs[ranked[:3]].sum()
    assert found.select(budget).tolist() == ranked[:2].tolist()
    ridge = DAVED(compat="reference", reg_lambda=0.4, ridge="decay", max_iter=1)
    spread = np.diag(rows.std(axis=0))
    start = 0.6 * rows.T @ rows / 300 + 0.4 * spread
    expected = (rows @ np.linalg.inv(start) @ queries[0]) ** 2 / costs
    assert ridge.fit(rows, queries, costs).picks_.tolist() == [int(np.argmax(expected))]


def test_error_curve() -> None:
    rows, queries, costs = market()
    found = DAVED("multiplicative").fit(rows, queries, costs)
    curve = found.error_curve([1, 10, 25.0], sigma2=0.5)
    np.testing.assert_allclose(curve, 0.5 * found.objective_ / np.array([1, 10, 25]))
    weights = 25 * found.weights_
    assert curve[2] == pytest.approx(0.5 * loss(rows, queries, weights), rel=1e-8)
    np.testing.assert_array_equal(found.error_curve(4), [found.objective_ / 4])
    with pytest.raises(ValueError, match="positive"):
        found.error_curve([1.0, 0.0])


def as_kind(kind: str, rows: np.ndarray, tmp_path: Any) -> Any:
    names = [f"f{i}" for i in range(rows.shape[1])]
    if kind == "memmap":
        np.save(tmp_path / f"{len(rows)}.npy", rows)
        return np.load(tmp_path / f"{len(rows)}.npy", mmap_mode="r")
    return {
        "list": lambda: rows.tolist(),
        "pandas": lambda: pd.DataFrame(rows, columns=names, index=np.arange(len(rows)) + 100),
        "polars": lambda: pl.DataFrame(rows, schema=names),
        "torch": lambda: torch.tensor(rows),
        "shards": lambda: [rows[:50], rows[50:]] if len(rows) > 50 else [rows],
        "fortran": lambda: np.asfortranarray(rows),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["list", "pandas", "polars", "torch", "shards", "fortran", "memmap"]
)
def test_every_kind_of_input_gives_the_same_purchase(kind: str, tmp_path: Any) -> None:
    rows, queries, costs = market()
    expected = DAVED().fit(rows, queries, costs)
    given = as_kind(kind, rows, tmp_path)
    found = DAVED().fit(given, as_kind(kind, queries, tmp_path), costs.tolist())
    np.testing.assert_allclose(found.weights_, expected.weights_, rtol=1e-12)
    np.testing.assert_array_equal(found.select(20), expected.select(20))
    assert found.n_features_in_ == 4
    bought, labels = found.fit_resample(
        given, costs * 10, X_buyer=as_kind(kind, queries, tmp_path), budget=20, costs=costs
    )
    np.testing.assert_array_equal(np.asarray(bought), rows[found.sample_indices_])
    np.testing.assert_array_equal(labels, 10 * costs[found.sample_indices_])
    if kind not in ("shards", "memmap"):
        assert type(bought) is type(given)


def test_labels_and_names_of_frames() -> None:
    rows, queries, _ = market()
    sellers = pd.DataFrame(rows, columns=list("abcd"), index=[f"r{i}" for i in range(120)])
    buyer = pd.DataFrame(queries, columns=list("abcd"))[list("dbca")]
    plain = DAVED().fit(rows, queries, budget=12)
    found = DAVED().fit(sellers, buyer, budget=12)
    np.testing.assert_array_equal(found.weights_, plain.weights_)
    assert found.feature_names_in_.tolist() == list("abcd")
    assert found.labels_[found.select(12)].tolist() == [f"r{i}" for i in plain.select(12)]
    assert plain.labels_ is None
    bought, y = DAVED().fit_resample(sellers, sellers["a"], X_buyer=buyer, budget=12)
    assert bought.index.tolist() == y.index.tolist() == [f"r{i}" for i in plain.select(12)]
    assert not hasattr(found.fit(rows, queries), "feature_names_in_")
    with pytest.raises(ValueError, match=r"missing \['a'\], unknown \['z'\]"):
        DAVED().fit(sellers, buyer.rename(columns={"a": "z"}))


def test_features_go_to_both_sides() -> None:
    rows, queries, _ = market()
    rows, queries = rows * [1, 10, 100, 1] + 3, queries * [1, 10, 100, 1] + 3
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    expected = DAVED().fit((rows - mean) / spread, (queries - mean) / spread).weights_
    pipeline = make_pipeline(StandardScaler(), PCA())
    for features in ("standardize", Standardize(), StandardScaler(), pipeline):
        found = DAVED(features=features).fit(rows, queries)
        # PCA turns the features, which changes no score.
        np.testing.assert_allclose(found.weights_, expected, rtol=1e-6, atol=1e-12)
        assert found.n_features_in_ == 4
    with pytest.raises(NotFittedError):
        pipeline.transform(rows)
    doubled = DAVED(features=lambda records: 2 * np.asarray(records)).fit(rows, queries)
    assert doubled.objective_ == pytest.approx(DAVED().fit(rows, queries).objective_)
    texts = [["a", "ab"][i % 2] for i in range(30)]
    lengths = DAVED(features=lambda many: [[len(text), 1.0] for text in many])
    assert len(lengths.fit(texts, ["abc"]).select(3)) == 3
    assert lengths.fit_resample(texts, texts, X_buyer=["abc"], budget=2)[0][0] in ("a", "ab")


def test_shape_of_rows() -> None:
    rows, queries, _ = market()
    scale = np.linspace(1, 1.5, len(rows))[:, None]
    expected = DAVED().fit(rows, queries / np.linalg.norm(queries, axis=1, keepdims=True))
    found = DAVED(normalize="l2").fit(rows * scale, queries)
    np.testing.assert_allclose(found.weights_, expected.weights_, rtol=1e-9)
    one = np.ones((len(rows), 1))
    expected = DAVED().fit(np.hstack([rows, one]), np.hstack([queries, one[:2]]))
    found = DAVED(fit_intercept=True).fit(rows, queries)
    np.testing.assert_allclose(found.weights_, expected.weights_, rtol=1e-9)


def test_as_the_last_step_of_a_pipeline_queries_stay_as_they_are() -> None:
    rows, queries, costs = market()
    pipeline = Pipeline([("same", "passthrough"), ("buy", DAVED())])
    pipeline.fit(rows, queries, buy__costs=costs)
    expected = DAVED().fit(rows, queries, costs).select(40)
    np.testing.assert_array_equal(pipeline["buy"].select(40), expected)


def test_clone_parameters_and_pickle() -> None:
    estimator = DAVED("greedy", max_norm=2.0, features=StandardScaler())
    assert clone(estimator).get_params().keys() == estimator.get_params().keys()
    assert clone(estimator).max_norm == 2.0
    assert estimator.set_params(solver="fw", features__with_mean=False).solver == "fw"
    rows, queries, costs = market()
    fitted = DAVED().fit(rows, queries, costs)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.select(12), fitted.select(12))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"solver": "frank"}, "'fw', 'one_step', 'greedy', 'multiplicative', 'exact'"),
        ({"cost_mode": "free"}, "cost_mode"),
        ({"rounding": "up"}, "rounding"),
        ({"ridge": "fix"}, "ridge"),
        ({"compat": "old"}, "compat"),
        ({"device": "moon"}, "device"),
        ({"dtype": "float31"}, "dtype"),
        ({"ridge": "fixed", "reg_lambda": 0.1, "solver": "one_step"}, "ridge='fixed' needs"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -0.1}, "tol"),
        ({"reg_lambda": 1.0}, "reg_lambda"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"step": "big"}, "step"),
        ({"normalize": "l3"}, "normalize"),
        ({"max_norm": -1.0}, "max_norm"),
        ({"features": "magic"}, "features"),
    ],
)
def test_wrong_settings_are_named_when_fitted(settings: dict[str, Any], words: str) -> None:
    rows, queries, _ = market()
    with pytest.raises(ValueError, match=words):
        DAVED(**settings).fit(rows, queries)


def test_wrong_data_are_named() -> None:
    rows, queries, costs = market()
    with pytest.raises(ValueError, match="X_buyer"):
        DAVED().fit(rows, costs)
    with pytest.raises(ValueError, match="X_buyer has 3 features"):
        DAVED().fit(rows, queries[:, :3])
    with pytest.raises(ValueError, match="costs"):
        DAVED().fit(rows, queries, costs[:5])
    with pytest.raises(ValueError, match="noise_var"):
        DAVED("greedy").fit(rows, queries, noise_var=-costs)
    with pytest.raises(ValueError, match="X_owned with solver='fw' needs a budget in fit"):
        DAVED().fit(rows, queries, X_owned=rows[:2])
    with pytest.raises(ValueError, match="X_owned needs solver"):
        DAVED("one_step").fit(rows, queries, X_owned=rows[:2], budget=5)
    with pytest.raises(ValueError, match="row_weight"):
        DAVED().fit(rows, queries, row_weight=-costs)
    with pytest.raises(ValueError, match=r"X_seller.*first at \(3, 1\)"):
        broken = rows.copy()
        broken[3, 1] = np.nan
        DAVED().fit(broken, queries)
    with pytest.raises(ValueError, match="119 labels for 120"):
        DAVED().fit_resample(rows, costs[1:], X_buyer=queries, budget=3)
    fitted = DAVED().fit(rows, queries, costs + 1)
    with pytest.raises(InfeasibleBudgetError):
        fitted.select(1.5)
    with pytest.raises(InfeasibleBudgetError):
        DAVED().fit(rows, queries, costs, budget=0.5)
    with pytest.raises(NotFittedError):
        DAVED().select(3)


def test_warnings() -> None:
    rows, queries, _ = market()
    outside = np.hstack([rows, np.zeros((120, 1))])
    with pytest.warns(DAVEDWarning) as seen:
        DAVED().fit(outside, np.array([[1.0, 0, 0, 0, 1.0]]))
    text = " ".join(str(one.message) for one in seen)
    assert "coverage" in text
    assert "rank 4 in 5" in text
    with pytest.warns(DAVEDWarning, match="norms above"):
        DAVED().fit(np.vstack([rows, 50 * rows[:1]]), queries)
    with pytest.warns(DAVEDWarning, match="40 queries"):
        DAVED().fit(rows, np.tile(queries, (20, 1)))
    with pytest.warns(DAVEDWarning, match="fewer than the 4 features"):
        DAVED(max_iter=200, tol=1e-9).fit(rows, queries).select(2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_estimator_and_the_function_buy_the_same(solver: str) -> None:
    rows, queries, costs = market(m=1)
    expected = select(rows, queries, 30, costs=costs, solver=solver)
    found = DAVED(solver).fit(rows, queries, costs, budget=30).selection(30)
    assert found.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)
    assert found.objective == pytest.approx(expected.objective)
    assert found.settings == expected.settings
    assert [row.price for row in found.plan()] == costs[found.indices].tolist()


@pytest.mark.parametrize(
    ("solver", "ridge"),
    [
        ("fw", None),
        ("multiplicative", None),
        ("greedy", None),
        ("fw", "fixed"),
        ("multiplicative", "fixed"),
    ],
)
def test_on_top_of_owned_records_the_estimator_and_the_function_buy_the_same(
    solver: str, ridge: str | None
) -> None:
    rows, queries, costs = market(m=2)
    owned = 3 * rows[:2]
    settings: dict[str, Any] = {"reg_lambda": 0.2, "ridge": ridge} if ridge else {}
    fitted = DAVED(solver, max_iter=60, **settings)
    fitted.fit(rows, queries, costs, X_owned=owned, budget=30)
    # For another budget than that of fit another design is best, and it is found.
    for budget in (30, 12):
        expected = select(
            rows,
            queries,
            budget,
            costs=costs,
            solver=solver,
            X_owned=owned,
            max_iter=60,
            **settings,
        )
        found = fitted.selection(budget)
        assert found.indices.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)
        assert found.objective == pytest.approx(expected.objective)
        np.testing.assert_allclose(found.fair_price, expected.fair_price)


def test_attributes_beside_owned_records_are_in_the_unit_of_the_module() -> None:
    rows, queries, costs = market(m=2)
    owned = 3 * rows[:2]
    for prices in (costs, np.full(len(rows), 2.0)):
        found = DAVED(max_iter=60).fit(rows, queries, prices, X_owned=owned, budget=30)
        expected = found.selection(30)
        assert found.weights_ @ prices == pytest.approx(1)
        np.testing.assert_allclose(30 * found.weights_, expected.weights)
        assert found.objective_ / 30 == pytest.approx(expected.objective)
        assert found.dual_gap_ / 30 == pytest.approx(expected.gap)
        np.testing.assert_allclose(found.fair_price_, expected.fair_price)
        known = owned.T @ owned
        for budget, error in zip((30, 7.0), found.error_curve([30, 7.0], 0.5), strict=True):
            inverse = np.linalg.inv(known + budget * (rows.T * found.weights_) @ rows)
            assert error == pytest.approx(0.5 * np.mean([q @ inverse @ q for q in queries]))


def test_row_weights_are_those_of_the_function() -> None:
    rows, queries, costs = market(m=1)
    weight = np.random.default_rng(0).uniform(0, 0.25, len(rows))
    found = DAVED().fit(rows, queries, costs, row_weight=weight, budget=30)
    expected = select(rows, queries, 30, costs=costs, row_weight=weight)
    np.testing.assert_array_equal(found.select(30), expected.indices)
    plain = DAVED().fit(rows, queries, costs, budget=30)
    assert found.select(30).tolist() != plain.select(30).tolist()


@pytest.mark.parametrize("solver", ["fw", "greedy", "multiplicative"])
def test_lots_are_bought_whole(solver: str) -> None:
    rows, queries, _ = market()
    lots = np.repeat(np.arange(24), 5)
    costs = np.repeat(np.linspace(3, 8, 24), 5)
    found = DAVED(solver).fit(rows, queries, costs, groups=lots, budget=30)
    bought = found.select(30)
    chosen = np.unique(lots[bought])
    assert np.isin(lots, chosen).sum() == len(bought) > 10
    assert found.spent_ == pytest.approx(costs[::5][chosen].sum())
    assert found.spent_ <= 30
    with pytest.raises(ValueError, match="fit needs a budget"):
        DAVED(solver).fit(rows, queries, costs, groups=lots)


def test_a_bar_is_shown_where_someone_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, queries, _ = market()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    DAVED(progress=False).fit(rows, queries)
    assert capsys.readouterr().err == ""
    DAVED().fit(rows, queries)
    assert "fw" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    DAVED().fit(rows, queries)
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", ["fw", "one_step", "multiplicative", "exact"])
@pytest.mark.parametrize("price", [None, 2.5, "each"])
def test_quotes_of_what_is_on_offer_are_its_fair_prices(solver: str, price: Any) -> None:
    rows, queries, costs = market()
    given = costs if price == "each" else None if price is None else np.full(len(rows), price)
    found = DAVED(solver, features="standardize", progress=False).fit(rows, queries[:1], given)
    np.testing.assert_allclose(found.quote(rows[::-1]), found.fair_price_[::-1], rtol=1e-6)
    # Twice the record from the mean: four times the information.
    farther = 2 * rows - rows.mean(axis=0)
    np.testing.assert_allclose(found.quote(farther), 4 * found.fair_price_, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_quotes_of_an_exact_design_of_one_record_see_what_it_leaves_out() -> None:
    # One row makes the design. By the pseudo-inverse of its information the other, which leads
    # farther along the query but also aside, would be worth (7 / 6)² of its price.
    rows = np.array([[6.0, 0.0], [7.0, 5.0]])
    found = DAVED("exact", progress=False).fit(rows, np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(found.weights_, [1.0, 0.0], atol=1e-9)
    quotes = found.quote(rows)
    np.testing.assert_allclose(quotes, found.fair_price_, rtol=1e-9)
    assert quotes.max() <= 1 + 1e-9
    assert found.quote(np.array([[12.0, 0.0]]))[0] == pytest.approx(4.0)


@pytest.mark.filterwarnings("ignore")
def test_quotes_beside_what_is_owned_and_a_fixed_ridge() -> None:
    rows, queries, costs = market()
    settings: dict[str, Any] = {"ridge": "fixed", "reg_lambda": 0.3, "progress": False}
    found = DAVED("multiplicative", **settings)
    found.fit(rows, queries, costs, X_owned=rows[:3], budget=9.0)
    np.testing.assert_allclose(found.quote(rows), found.fair_price_, rtol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_quotes_need_a_design_and_records_like_those_on_offer() -> None:
    rows, queries, _ = market()
    with pytest.raises(NotFittedError):
        DAVED().quote(rows)
    with pytest.raises(ValueError, match="quotes follow from a design of records"):
        DAVED("greedy", progress=False).fit(rows, queries).quote(rows)
    found = DAVED(progress=False).fit(rows, queries)
    with pytest.raises(ValueError, match="records has 2 features, but X_seller has"):
        found.quote(rows[:, :2])
    with pytest.raises(ValueError, match="records has 1 values that are NaN"):
        found.quote(np.where(np.arange(rows.size).reshape(rows.shape) == 4, np.nan, rows))
