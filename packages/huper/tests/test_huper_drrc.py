"""The doubly robust risk: the algebra, the two ways to be right, the bias when both are wrong.

Tests that draw numbers compare with exact expectations and allow six standard errors: one fails by
chance with probability 2e-9.
"""

import copy
import functools

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.huper import drrc, espeak, selftrain
from modicum.huper.corpus import Item
from modicum.huper.drrc import doubly_robust_risk, effective_sample_size, folds_of, propensities
from modicum.huper.experiments import PACKAGE, _world, doubly_robust
from modicum.huper.experiments._world import Sizes, World
from modicum.huper.simulate import EspeakWorld
from modicum.huper.tiny import TinyConfig, TinyConvCTC
from modicum.huper.training import train

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


# The experiment -----------------------------------------------------------------------------------

SHORT = doubly_robust.Plan(2, 20_000, 0)


def context(path):
    made = Experiment("doubly_robust", PACKAGE, "title", "summary", doubly_robust.run)
    return RunContext(made, path)


def test_the_short_form_holds(monkeypatch, tmp_path):
    monkeypatch.setattr(doubly_robust, "QUICK", SHORT)
    result = doubly_robust.run(context(tmp_path))
    # The draws of this seed are within three standard errors; others would not be, once in 70.
    assert [claim.holds for claim in result.claims] == [True] * 3
    assert len(result.tables[0].rows) == 7


def test_exact_means_are_those_of_many_draws():
    # A mean of two million draws is within six standard errors but for 2e-9.
    rng = np.random.default_rng(11)
    x_N, loss_N, known_N = doubly_robust.draw(2_000_000, rng)
    exact = doubly_robust.expected()
    mine_N = loss_N[known_N > 0]
    error = mine_N.std() / np.sqrt(len(mine_N))
    assert abs(mine_N.mean() - exact["labelled only"]) < CHANCE * error
    terms_N = (1 - x_N) + known_N / doubly_robust.WRONG * (loss_N - (1 - x_N))
    error = terms_N.std() / np.sqrt(len(terms_N))
    assert abs(terms_N.mean() - exact["both wrong"]) < CHANCE * error
    assert abs(exact["both wrong"] - TRUTH) > 20 * error


def test_a_wrong_estimator_is_noticed(monkeypatch):
    def without_correction(true, proxy, labelled, propensity, **_):
        return drrc.Risk(float(np.mean(proxy)), float(np.std(proxy) / len(proxy) ** 0.5), 1, 0)

    monkeypatch.setattr(doubly_robust.drrc, "doubly_robust_risk", without_correction)
    draws = doubly_robust.repeated(SHORT, 0)
    claims = {claim.name: claim for claim in doubly_robust.draws_claims(draws, SHORT)}
    assert claims["twice"].holds is False and claims["bias"].holds is False


def test_mostly_speakers_with_few_rules_are_labelled():
    rng = np.random.default_rng(12)
    names = [f"rule {number}" for number in range(16)]
    items = [
        Item(str(number), extra={"rules": names[: int(rng.binomial(16, 0.85))]})
        for number in range(4000)
    ]
    known_N = doubly_robust.chosen(items, 1)
    few_N = np.array([doubly_robust.few_rules(item)[0] for item in items]) > 0
    # Binomial with 800 and 3,200 trials: six standard deviations.
    assert abs(known_N[few_N].mean() - doubly_robust.LIKELY) < 6 * 0.5 / np.sqrt(few_N.sum())
    assert abs(known_N[~few_N].mean() - doubly_robust.UNLIKELY) < 6 * 0.2 / np.sqrt((~few_N).sum())
    assert (known_N == doubly_robust.chosen(items, 1)).all()


def arms_of(rates):
    rng = np.random.default_rng(13)
    return {
        arm: [
            {
                "test": {"wrong": rng.binomial(20, rate, 200).tolist(), "total": [20] * 200},
                "labelled": 80, "few": 60, "size": 30.0,
            }
            for _ in range(3)
        ]
        for arm, rate in zip(doubly_robust.ARMS, rates, strict=True)
    }  # fmt: skip


def test_the_weights_may_win_and_lose():
    assert doubly_robust.training_claim(arms_of((0.2, 0.2, 0.1, 0.1)), 0).holds is True
    lost = doubly_robust.training_claim(arms_of((0.2, 0.1, 0.1, 0.15)), 0)
    assert lost.holds is False and lost.measured == pytest.approx(1.5, rel=0.15)
    table = doubly_robust.training_table(arms_of((0.2, 0.1, 0.1, 0.15)), 0)
    assert [row[0] for row in table.rows] == list(doubly_robust.ARMS)


@pytest.mark.skipif(not espeak.available(), reason="espeak-ng is not installed")
def test_every_arm_learns_what_it_says(monkeypatch, tmp_path):
    fresh = TinyConvCTC(config=TinyConfig(width=8, dilations=(1,)))
    monkeypatch.setattr(World, "fresh", lambda self: copy.deepcopy(fresh))
    few = functools.partial(EspeakWorld, words=60, heldout=20)
    monkeypatch.setattr(_world, "EspeakWorld", lambda _, **more: few("rules", **more))
    # Of every second utterance the label is known.
    monkeypatch.setattr(doubly_robust, "chosen", lambda items, seed: np.arange(len(items)) % 2 == 0)
    seen = []

    def learn(model, utterances, *rest, **more):
        seen.append(list(utterances))
        return train(model, utterances, *rest, **more)

    for place in (doubly_robust, selftrain):
        monkeypatch.setattr(place, "train", learn)
    monkeypatch.setitem(selftrain.self_train.__kwdefaults__, "learn", learn)
    made = World(tmp_path, 1, Sizes(4, 4, 0, 2, first=1, later=1, length=(1, 1)))
    items = [*made.items["labelled"], *made.items["unlabelled"]]
    real = {item.id: item.real_phonemes for item in items[::2]}
    others = {item.id for item in items[1::2]}
    found = {}
    for arm in doubly_robust.ARMS:
        seen.clear()
        found[arm] = doubly_robust.measure(made, arm, context(tmp_path / arm))
        assert {one.id: one.phones for one in seen[0]} == real
        last = seen[-1]
        if arm == "proxy only":
            assert not {one.id for one in last} & set(real)
            assert {one.id.removeprefix("proxy-") for one in last} <= {*real, *others}
        elif arm == "both":
            assert {one.id: one.phones for one in last if one.id in real} == real
            assert {one.weight for one in last} == {1.0}
        elif arm == "doubly robust":
            # The weights of an utterance sum to one, whichever labels it has.
            totals = {}
            for one in last:
                totals[one.id] = totals.get(one.id, 0) + one.weight
            assert all(total == pytest.approx(1) for total in totals.values())
    assert found["doubly robust"]["size"] > 0 and found["both"]["size"] is None
    assert all(one["labelled"] == 4 for one in found.values())
