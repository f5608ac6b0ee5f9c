"""The doubly robust risk: the algebra, the two ways to be right, the bias when both are wrong.

Tests that draw numbers compare with exact expectations and allow six standard errors: one fails by
chance with probability 2e-9.
"""

import numpy as np
import pytest

from modicum.huper import drrc
from modicum.huper.drrc import doubly_robust_risk, effective_sample_size, folds_of, propensities

CHANCE = 6.0
"""Standard errors: a normal variable is beyond with probability 2e-9."""


def draw(count, seed):
    """Return covariate, true loss, indicator and propensity of a choice that depends on both."""
    rng = np.random.default_rng(seed)
    x_N = rng.uniform(0, 1, count)
    loss_N = (rng.random(count) < x_N**2).astype(float)
    pi_N = 0.1 + 0.6 * x_N
    return x_N, loss_N, (rng.random(count) < pi_N).astype(float), pi_N


# The mean of x² for x uniform on (0, 1).
TRUTH = 1 / 3


def test_the_risk_is_its_formula():
    rng = np.random.default_rng(3)
    true_N, proxy_N = rng.normal(size=9), rng.normal(size=9)
    known_N = np.array([1, 0, 1, 1, 0, 0, 0, 1, 0.0])
    g_N = rng.uniform(0.2, 1, 9)
    by_hand = np.mean(
        [m + a / g * (t - m) for t, m, a, g in zip(true_N, proxy_N, known_N, g_N, strict=True)]
    )
    risk = doubly_robust_risk(np.where(known_N > 0, true_N, np.nan), proxy_N, known_N, g_N)
    assert risk.value == pytest.approx(by_hand, abs=1e-12)
    one_N, two_N = drrc.weights(known_N, g_N)
    assert (one_N * true_N + two_N * proxy_N).mean() == pytest.approx(by_hand, abs=1e-12)
    np.testing.assert_allclose(one_N + two_N, 1.0)
    assert risk.effective_sample_size == pytest.approx(effective_sample_size(known_N / g_N))


def test_with_all_labels_known_the_proxy_does_not_matter():
    rng = np.random.default_rng(4)
    true_N, proxy_N = rng.normal(size=50), rng.normal(size=50) * 100
    risk = doubly_robust_risk(true_N, proxy_N, np.ones(50), 1.0)
    assert risk.value == pytest.approx(true_N.mean(), abs=1e-12)
    assert risk.effective_sample_size == pytest.approx(50)


@pytest.mark.parametrize(("good_proxy", "good_propensity"), [(True, False), (False, True)])
def test_one_right_model_is_enough(good_proxy, good_propensity):
    x_N, loss_N, known_N, pi_N = draw(200_000, 5)
    proxy_N = x_N**2 if good_proxy else 1 - x_N
    g_N = pi_N if good_propensity else np.full(len(pi_N), 0.4)
    risk = doubly_robust_risk(loss_N, proxy_N, known_N, g_N)
    assert abs(risk.value - TRUTH) < CHANCE * risk.standard_error
    # And the test can tell: labelled ones alone, or the bad proxy alone, are far off.
    assert abs(loss_N[known_N > 0].mean() - TRUTH) > 2 * CHANCE * risk.standard_error
    assert abs((1 - x_N).mean() - TRUTH) > 2 * CHANCE * risk.standard_error


def test_with_both_wrong_the_bias_is_its_formula():
    x_N, loss_N, known_N, pi_N = draw(200_000, 6)
    proxy_N, g_N = 1 - x_N, np.full(len(pi_N), 0.25)
    risk = doubly_robust_risk(loss_N, proxy_N, known_N, g_N)
    # Exact: the mean over x of (1 − (0.1 + 0.6 x) / 0.25) · (1 − x − x²).
    grid = (np.arange(100_000) + 0.5) / 100_000
    expected = drrc.bias(0.1 + 0.6 * grid, np.full(len(grid), 0.25), 1 - grid, grid**2)
    assert abs(expected) > 20 * risk.standard_error
    assert abs(risk.value - TRUTH - expected) < CHANCE * risk.standard_error


def test_the_bias_is_at_most_the_product_of_the_errors():
    rng = np.random.default_rng(7)
    for _ in range(50):
        pi_N, g_N = rng.uniform(0.05, 1, (2, 30))
        proxy_N, mean_N = rng.normal(size=(2, 30))
        bound = np.sqrt(((1 - pi_N / g_N) ** 2).mean() * ((proxy_N - mean_N) ** 2).mean())
        assert abs(drrc.bias(pi_N, g_N, proxy_N, mean_N)) <= bound + 1e-12


def test_the_standard_error_is_that_of_repetitions():
    # The standard deviation of 400 estimates is within 20 % of the truth but for 1e-8.
    values, errors = [], []
    for seed in range(400):
        x_N, loss_N, known_N, pi_N = draw(500, 1000 + seed)
        risk = doubly_robust_risk(loss_N, 1 - x_N, known_N, pi_N)
        values.append(risk.value)
        errors.append(risk.standard_error)
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.2)


# Propensities -------------------------------------------------------------------------------------


def test_labels_at_random_need_no_model():
    known_N = np.array([1, 0, 0, 0, 1.0])
    np.testing.assert_allclose(propensities(known_N), 0.4)


def test_the_logistic_regression_solves_its_equations():
    rng = np.random.default_rng(8)
    rows_ND = rng.normal(size=(400, 3)) * [1, 10, 0.1] + [0, 5, 0]
    score_N = 0.5 + rows_ND @ [1.0, -0.1, 5.0]
    known_N = (rng.random(400) < 1 / (1 + np.exp(-score_N))).astype(float)
    model = drrc.Logistic(ridge=0.5).fit(rows_ND, known_N)
    found_N = model.predict(rows_ND)
    standard_ND = (rows_ND - rows_ND.mean(0)) / rows_ND.std(0)
    slope_D = standard_ND.T @ (found_N - known_N) + 0.5 * model.coefficients_[1:]
    assert np.abs(slope_D).max() < 1e-6 and abs((found_N - known_N).sum()) < 1e-6


def test_the_logistic_regression_survives_separation_and_one_class():
    x_N = np.linspace(-1, 1, 40)
    found_N = drrc.Logistic().fit(x_N, (x_N > 0).astype(float)).predict(x_N)
    assert np.isfinite(found_N).all() and found_N[0] < 0.1 < 0.9 < found_N[-1]
    alone_N = drrc.Logistic().fit(x_N, np.ones(40)).predict(x_N)
    assert ((alone_N > 0.9) & (alone_N < 1)).all()
    # A covariate that is the same for all says nothing.
    assert np.isfinite(drrc.Logistic().fit(np.ones(40), (x_N > 0).astype(float)).predict(x_N)).all()


def test_propensities_are_predicted_without_their_own_fold():
    known_N = np.array([1.0, 0.0] * 10)
    seen = []

    def fit(rows_ND, labelled_N):
        seen.append(set(rows_ND[:, 0].tolist()))
        return lambda rows_ND: np.full(len(rows_ND), 0.5)

    propensities(known_N, np.arange(20.0), fit=fit, folds=4, seed=2)
    fold_N = folds_of(20, 4, 2)
    assert [20 - len(one) for one in seen] == [5] * 4
    for fold, one in enumerate(seen):
        assert one == set(np.flatnonzero(fold_N != fold).astype(float).tolist())


def test_propensities_are_clipped_and_clipping_is_counted():
    known_N = np.array([1.0, 1.0, 0.0, 0.0])
    fit = lambda rows, labels: lambda rows: np.full(len(rows), 1e-6)  # noqa: E731
    np.testing.assert_allclose(propensities(known_N, np.arange(4.0), fit=fit, folds=2), 0.01)
    risk = doubly_robust_risk(known_N, known_N, known_N, np.array([1e-6, 0.5, 1e-6, 0.5]))
    assert risk.clipped == 1


def test_estimated_propensities_repair_a_bad_proxy():
    x_N, loss_N, known_N, _ = draw(20_000, 9)
    g_N = propensities(known_N, np.column_stack([x_N, x_N**2]))
    risk = doubly_robust_risk(loss_N, 1 - x_N, known_N, g_N)
    # A logistic curve is not quite the line of this choice: what remains is far below the 0.17
    # between the bad proxy and the truth.
    assert abs(risk.value - TRUTH) < CHANCE * risk.standard_error + 0.01


def test_equal_weights_are_as_many_as_there_are():
    assert effective_sample_size(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.zeros(3)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: propensities(np.zeros(3)), "no utterance has a true label"),
        (lambda: propensities(np.array([0.5, 1])), "0 or 1"),
        (lambda: propensities(np.ones(2), np.ones(3)), "N = 2"),
        (lambda: propensities(np.ones(2), np.array([1, np.nan])), "finite"),
        (lambda: propensities(np.ones(2), clip=0), "clip"),
        (lambda: doubly_robust_risk([1.0], [np.nan], [1], 0.5), "proxy_losses must be finite"),
        (lambda: doubly_robust_risk([np.nan], [1.0], [1], 0.5), "true_losses must be finite"),
        (lambda: doubly_robust_risk([1.0], [1.0], [1], 0.0), r"in \(0, 1\]"),
        (lambda: doubly_robust_risk([1.0], [1.0, 2.0], [1, 0], 0.5), r"shape \(2,\)"),
        (lambda: folds_of(3, 4), "not 4"),
        (lambda: drrc.Logistic(ridge=0), "ridge"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
