import math

import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.testtime.plurality import plurality_success
from modicum.testtime.verifier_models import (
    DiscreteVerifier,
    GaussianVerifier,
    VerifierModel,
    best_of_n_success,
    crossover,
    first_accept,
    plateau,
    verified_majority_success,
)

RUNS = 200_000
# A frequency over 200 000 runs is off by more than 5.1 standard errors with probability < 4e-7.
SIGMAS = 5.1


def error(p):
    return SIGMAS * math.sqrt(max(p * (1 - p), 1e-3) / RUNS)


def simulate(p, n, score_right, score_wrong, rng):
    """Pick the best-scored of n samples; equal scores: a random one."""
    right = rng.random((RUNS, n)) < p
    scores = np.where(right, score_right(rng, (RUNS, n)), score_wrong(rng, (RUNS, n)))
    jitter = rng.random((RUNS, n))
    best = scores == scores.max(axis=1, keepdims=True)
    chosen = np.where(best, jitter, -1).argmax(axis=1)
    return right[np.arange(RUNS), chosen].mean()


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("n", [1, 2, 9, 300])
def test_perfect_verifier(p, n):
    assert best_of_n_success(p, n) == pytest.approx(1 - (1 - p) ** n, abs=1e-14)
    assert VerifierModel(1, 0).best_of_n(p, n) == pytest.approx(1 - (1 - p) ** n, abs=1e-14)


@pytest.mark.parametrize(("p", "s", "f"), [(0.2, 0.9, 0.1), (0.5, 0.6, 0.3), (0.3, 0.2, 0.7)])
@pytest.mark.parametrize("n", [1, 4, 16, 1000])
def test_binary_verifier_is_the_closed_form(p, s, f, n):
    a = p * s + (1 - p) * f
    closed = (1 - (1 - a) ** n) * p * s / a + (1 - a) ** n * p * (1 - s) / (1 - a)
    assert best_of_n_success(p, n, VerifierModel(s, f)) == pytest.approx(closed, abs=1e-13)


def test_published_figures():
    verifier = VerifierModel(0.9, 0.1)
    assert best_of_n_success(0.2, 4, verifier) == pytest.approx(0.4928, abs=5e-5)
    assert best_of_n_success(0.2, 16, verifier) == pytest.approx(0.6869, abs=5e-5)
    assert plateau(0.2, verifier) == pytest.approx(0.6923, abs=5e-5)
    assert plateau(0.2, VerifierModel(0.9, 0.02)) == pytest.approx(0.918, abs=5e-4)
    assert best_of_n_success(0.2, 4, GaussianVerifier(1)) == pytest.approx(0.3752, abs=5e-5)
    assert best_of_n_success(0.2, 64, GaussianVerifier(1)) == pytest.approx(0.7000, abs=5e-5)
    assert best_of_n_success(0.2, 16, GaussianVerifier(2)) == pytest.approx(0.8425, abs=5e-5)


@pytest.mark.parametrize(("n", "d_prime"), [(3, 0.7), (20, 1.5), (7, -0.4)])
def test_gaussian_verifier_against_simulation(n, d_prime):
    rng = numpy_generator(1, n)
    measured = simulate(
        0.3,
        n,
        lambda g, shape: g.normal(d_prime, 1, shape),
        lambda g, shape: g.normal(0, 1, shape),
        rng,
    )
    exact = best_of_n_success(0.3, n, GaussianVerifier(d_prime))
    assert measured == pytest.approx(exact, abs=error(exact))


def test_gaussian_verifier_is_the_limit_of_fine_levels():
    from scipy.stats import norm

    edges = np.concatenate([[-np.inf], np.linspace(-8, 10, 4001), [np.inf]])
    right, wrong = np.diff(norm.cdf(edges, 1.3)), np.diff(norm.cdf(edges))
    fine = DiscreteVerifier(tuple(right / right.sum()), tuple(wrong / wrong.sum()))
    for n in (1, 5, 40, 2000):
        assert best_of_n_success(0.15, n, fine) == pytest.approx(
            best_of_n_success(0.15, n, GaussianVerifier(1.3)), abs=2e-4
        )


@pytest.mark.parametrize("n", [10**6, 10**9])
def test_gaussian_verifier_with_very_many_samples(n):
    from scipy.special import expit, logit
    from scipy.stats import norm

    # Over u = G(x)^n the integrand is the posterior at the best score: bounded and smooth.
    nodes, weights = np.polynomial.legendre.leggauss(2000)
    tail = -np.expm1(np.log((nodes + 1) / 2) / n)
    x = np.linspace(-2, 12, 400_001)
    above = 0.001 * norm.sf(x, 1) + 0.999 * norm.sf(x)
    score = np.interp(-np.log(tail), -np.log(above), x)
    value = weights @ expit(logit(0.001) + score - 0.5) / 2
    assert best_of_n_success(0.001, n, GaussianVerifier(1)) == pytest.approx(value, abs=1e-5)


def test_one_sample_and_no_information_leave_the_accuracy():
    for verifier in (VerifierModel(0.4, 0.4), GaussianVerifier(0), DiscreteVerifier((1,), (1,))):
        for n in (1, 7):
            assert best_of_n_success(0.37, n, verifier) == pytest.approx(0.37, abs=1e-12)
        assert plateau(0.37, verifier) == pytest.approx(0.37)
    for verifier in (VerifierModel(0.1, 0.9), GaussianVerifier(-3)):
        assert best_of_n_success(0.37, 1, verifier) == pytest.approx(0.37, abs=1e-12)


def test_three_levels_against_simulation():
    right, wrong = (0.1, 0.3, 0.6), (0.5, 0.4, 0.1)
    exact = best_of_n_success(0.25, 5, DiscreteVerifier(right, wrong))
    measured = simulate(
        0.25,
        5,
        lambda g, shape: g.choice(3, shape, p=right),
        lambda g, shape: g.choice(3, shape, p=wrong),
        numpy_generator(2),
    )
    assert measured == pytest.approx(exact, abs=error(exact))


def test_levels_from_scores():
    verifier = DiscreteVerifier.from_scores([0.1, 0.9, 0.9, 0.1, 0.5], [0, 1, 1, 0, 0])
    assert verifier.correct == (0, 0, 1)
    assert verifier.wrong == (2 / 3, 1 / 3, 0)
    assert plateau(0.2, verifier) == 1


def test_plateau_skips_levels_that_never_occur():
    assert plateau(0.3, VerifierModel(0, 0)) == pytest.approx(0.3)
    assert plateau(0.0, VerifierModel(1, 0)) == 0
    assert plateau(0.3, GaussianVerifier(0.1)) == 1
    assert plateau(0.3, GaussianVerifier(-0.1)) == 0


def test_gaussian_from_auc():
    from scipy.stats import norm

    for d_prime in (0.3, 1.0, 2.5):
        auc = norm.cdf(d_prime / math.sqrt(2))
        assert GaussianVerifier.from_auc(auc).d_prime == pytest.approx(d_prime)


@pytest.mark.parametrize(("p", "s", "f", "cap"), [(0.2, 0.8, 0.1, 6), (0.05, 1, 0, 30)])
def test_first_accept_against_simulation(p, s, f, cap):
    rng = numpy_generator(3, cap)
    right = rng.random((RUNS, cap)) < p
    accepted = rng.random((RUNS, cap)) < np.where(right, s, f)
    drawn = np.where(accepted.any(1), accepted.argmax(1) + 1, cap)
    success = right[np.arange(RUNS), drawn - 1].mean()
    exact = first_accept(p, cap, VerifierModel(s, f))
    assert success == pytest.approx(exact.success, abs=error(exact.success))
    assert accepted.any(1).mean() == pytest.approx(exact.accepted, abs=error(exact.accepted))
    spread = SIGMAS * drawn.std() / math.sqrt(RUNS)
    assert drawn.mean() == pytest.approx(exact.expected_n, abs=spread)
    assert first_accept(0.4, 9, VerifierModel(0, 0)) == (pytest.approx(0.4), 0, 9)


@pytest.mark.parametrize("fallback", ["abstain", "majority"])
def test_verified_majority_against_simulation(fallback):
    p, null, tail, n = np.array([0.25, 0.35, 0.1]), 0.1, 0.2, 5
    verifier = VerifierModel(0.8, 0.25)
    rng = numpy_generator(4)
    # Category 3 has no answer; every draw of category 4 is an answer of its own.
    drawn = rng.choice(5, (RUNS, n), p=[*p, null, tail])
    key = np.where(drawn == 4, 10 + np.arange(n), drawn)
    accept = rng.random((RUNS, n)) < np.where(drawn == 0, 0.8, np.where(drawn == 3, 0, 0.25))
    counted = accept if fallback == "abstain" else accept | ~accept.any(1, keepdims=True)
    counted &= drawn != 3
    names = [0, 1, 2, *range(10, 10 + n)]
    votes = np.stack([((key == name) & counted).sum(1) for name in names], axis=1)
    tied = (votes == votes.max(1, keepdims=True)).sum(1)
    won = (votes[:, 0] > 0) & (votes[:, 0] == votes.max(1))
    measured = (won / tied).mean()
    exact = verified_majority_success(p, n, verifier, null=null, tail=tail, fallback=fallback)
    assert measured == pytest.approx(exact, abs=error(exact))


def test_verified_majority_survives_a_wrong_mode():
    verifier = VerifierModel(0.9, 0.3)
    p = [0.3, 0.5, 0.2]
    assert plurality_success(p, 400) < 0.01
    assert verified_majority_success(p, 400, verifier) > 0.99
    assert verified_majority_success(p, 400, VerifierModel(0.4, 0.3)) < 0.2
    assert verified_majority_success(p, 9, VerifierModel(0, 1)) == 0
    assert verified_majority_success(p, 9, VerifierModel(1, 1), target=1) == pytest.approx(
        plurality_success(p, 9, 1)
    )


def test_crossover_is_where_the_order_changes():
    p, s, f = [0.5, 0.3, 0.2], 0.7, 0.3
    n = crossover(p, s, f)
    verifier = VerifierModel(s, f)
    assert n is not None
    assert plurality_success(p, n) > best_of_n_success(0.5, n, verifier)
    for smaller in range(1, n):
        assert plurality_success(p, smaller) <= best_of_n_success(0.5, smaller, verifier) + 1e-12
    # Precision 0.968 is passed by the vote only at several hundred samples.
    late = crossover([0.4, 0.33, 0.27], 0.9, 0.02)
    assert late is not None and late > 64
    assert crossover([0.3, 0.4, 0.3], 0.9, 0.1) is None
    assert crossover([0.5, 0.3, 0.2], 1, 0) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VerifierModel(1.2, 0), "sensitivity s must be in .0, 1., not 1.2"),
        (lambda: VerifierModel(1, -0.1), "false-accept rate f must be"),
        (lambda: VerifierModel(math.nan, 0), "sensitivity s"),
        (lambda: GaussianVerifier(math.inf), "d_prime must be finite"),
        (lambda: GaussianVerifier.from_auc(1.0), "auc must be in"),
        (lambda: DiscreteVerifier((0.5, 0.6), (0.5, 0.5)), "correct must sum to 1"),
        (lambda: DiscreteVerifier((1.0,), (0.5, 0.5)), "1 score levels and wrong has 2"),
        (lambda: DiscreteVerifier((), ()), "correct must be probabilities"),
        (lambda: DiscreteVerifier.from_scores([1, 2], [1, 1]), "right and wrong answers"),
        (lambda: DiscreteVerifier.from_scores([1, math.nan], [1, 0]), "scores must be finite"),
        (lambda: DiscreteVerifier.from_scores([1], [1, 0]), "two lists of one length"),
        (lambda: best_of_n_success(1.5, 3), "p_correct must be in"),
        (lambda: best_of_n_success(0.5, 0), "n must be an integer of at least 1, not 0"),
        (lambda: best_of_n_success(0.5, 2.5), "n must be an integer"),
        (
            lambda: verified_majority_success([0.5, 0.5], 3, VerifierModel(1, 0), target=2),
            "target must be in 0 … 1, not 2",
        ),
        (
            lambda: verified_majority_success([1.0], 3, VerifierModel(1, 0), fallback="max"),
            "fallback must be",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("p", "masses"),
    [([0.9, 0.9], {}), ([0.5, 0.3], {}), ([0.5, -0.3, 0.8], {}), ([0.5, 0.5], {"null": 0.5})],
)
def test_verified_majority_took_what_is_no_answer_law(p, masses):
    # The accepted masses of all of these sum to less than 1, the rest passed for rejected samples.
    with pytest.raises(ValueError, match="p"):
        verified_majority_success(p, 5, VerifierModel(0.9, 0.02), **masses)


def test_verifiers_of_other_kinds_are_named():
    with pytest.raises(TypeError, match=r"first_accept needs a VerifierModel.*GaussianVerifier"):
        first_accept(0.2, 5, GaussianVerifier(1.0))
    with pytest.raises(TypeError, match="verified_majority_success needs a VerifierModel"):
        verified_majority_success([0.5, 0.5], 5, GaussianVerifier(1.0))


def test_rare_correct_answers_are_not_rounded_away():
    # 1 - 1e-17 is 1 in floats; a perfect verifier written as a model is still perfect.
    for p_correct, n in ((1e-17, 10**9), (1e-9, 10**9), (0.2, 3)):
        perfect = best_of_n_success(p_correct, n)
        assert best_of_n_success(p_correct, n, VerifierModel(1, 0)) == pytest.approx(
            perfect, rel=1e-12
        )
    # Against the sum over levels that every discrete verifier has.
    for p_correct, s, f, n in ((0.3, 0.8, 0.1, 7), (0.01, 1, 0.3, 40), (1, 0.2, 0.5, 3)):
        general = DiscreteVerifier((1 - s, s), (1 - f, f)).best_of_n(p_correct, n)
        assert best_of_n_success(p_correct, n, VerifierModel(s, f)) == pytest.approx(
            general, rel=1e-12
        )
    assert best_of_n_success(0.4, 9, VerifierModel(0, 0)) == 0.4
    assert best_of_n_success(0.4, 9, VerifierModel(1, 1)) == 0.4
