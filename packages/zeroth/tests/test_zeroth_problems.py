import pickle
import subprocess
import sys
from math import inf, pi, sqrt

import numpy as np
import pytest

from modicum.zeroth import problems
from modicum.zeroth.problems import (
    breast_cancer,
    hypot,
    logistic,
    lower_bound_instance,
    quadratic,
    quartic,
    rastrigin,
    separable_cubic,
    skew,
    synthetic_logistic,
    worst_cubic,
)

MAKERS = {
    "skew": lambda d: skew(d, strong_convexity=0.7, rise=1.6, hessian_lipschitz=1.3, shift=0.8),
    "skew rotated": lambda d: skew(d, rotation=True, scales=np.geomspace(1, 100, d), rng=3),
    "hypot": lambda d: hypot(d, hessian_lipschitz=1.2, growth=0.7, rotation=True),
    "quartic": lambda d: quartic(d, strong_convexity=0.4, growth=2.0, rotation=True),
    "quadratic": lambda d: quadratic(d, strong_convexity=0.5, condition=50, rotation=True),
    "separable cubic": lambda d: separable_cubic(d, shift=0.4, rotation=True),
    "worst cubic": lambda d: worst_cubic(
        d, curvature=0.3, hessian_lipschitz=1.7, direction=np.arange(1, d + 1), shift=0.4
    ),
    "lower bound": lambda d: lower_bound_instance(d, budget=500, hessian_lipschitz=1.4),
    "rastrigin": lambda d: rastrigin(d, amplitude=0.8, period=1.5, rotation=True),
    "logistic": lambda d: synthetic_logistic(d, samples=60, regularization=0.05),
    "logistic, labels err": lambda d: synthetic_logistic(d, samples=60, flip=0.2),
}
GLOBAL = [name for name in MAKERS if "cubic" not in name]


@pytest.fixture(params=MAKERS)
def problem(request):
    return MAKERS[request.param](4)


def points(problem, count=20, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return problem.optimum + spread * rng.standard_normal((count, problem.dimension))


def differences(function, x, step=1e-5):
    moves = step * np.eye(x.shape[-1])
    return np.stack([(function(x + e) - function(x - e)) / (2 * step) for e in moves], -1)


# All of them -------------------------------------------------------------------------------------


def test_gradients_and_hessians_are_those_of_the_values(problem):
    x = points(problem, 6).reshape(3, 2, 4)
    assert problem.gradient(x) == pytest.approx(differences(problem.fun, x), rel=1e-6, abs=1e-7)
    assert problem.hessian(x) == pytest.approx(differences(problem.gradient, x), rel=1e-6, abs=1e-7)


def test_optimum_is_stationary_and_has_the_minimum(problem):
    assert problem.fun(problem.optimum) == pytest.approx(problem.minimum, abs=1e-15)
    assert abs(problem.gradient(problem.optimum)).max() < 1e-14
    assert problem.regret(problem.optimum) == pytest.approx(0, abs=1e-15)
    assert np.linalg.eigvalsh(problem.hessian(problem.optimum)).min() > 0


@pytest.mark.parametrize("name", GLOBAL)
@pytest.mark.parametrize("spread", [1e-3, 0.1, 1, 30])
def test_nothing_lies_below_the_minimum(name, spread):
    problem = MAKERS[name](5)
    assert (problem.regret(points(problem, 300, spread)) > 0).all()


@pytest.mark.parametrize("dimension", [1, 2, 7])
@pytest.mark.parametrize("name", MAKERS)
def test_numpy_and_torch_give_the_same_numbers(name, dimension):
    torch = pytest.importorskip("torch")
    problem = MAKERS[name](dimension)
    x = points(problem, 8).reshape(2, 4, dimension)
    tensor = torch.from_numpy(x)
    for part in ("fun", "gradient", "hessian", "regret"):
        expected = getattr(problem, part)(x)
        found = getattr(problem, part)(tensor)
        assert found.dtype == torch.float64
        assert found.shape == expected.shape
        assert found.numpy() == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert problem.noisy(0.5, 7)(tensor).numpy() == pytest.approx(problem.noisy(0.5, 7)(x))
    assert problem.fun(tensor.float()).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("name", MAKERS)
def test_values_stay_on_the_device(name):
    import torch

    problem = MAKERS[name](5)
    x = points(problem, 8)
    tensor = torch.from_numpy(x).cuda()
    found = problem.noisy(0.5, 7)(tensor)
    assert found.device == tensor.device
    assert found.cpu().numpy() == pytest.approx(problem.noisy(0.5, 7)(x), rel=1e-10)
    assert problem.hessian(tensor).cpu().numpy() == pytest.approx(problem.hessian(x), rel=1e-10)


def test_shapes_of_points(problem):
    x = points(problem, 6)
    assert problem.fun(x[0]).shape == ()
    assert problem.fun(x[0]) == pytest.approx(problem.fun(x)[0])
    assert problem.fun(x.reshape(3, 2, 4)).shape == (3, 2)
    assert problem.fun(x[:0]).shape == (0,)
    assert problem.fun([0, 1, 0, 1]) == pytest.approx(problem.fun(np.array([0.0, 1, 0, 1])))
    for wrong in (np.zeros(3), np.zeros((4, 5)), 1.0):
        with pytest.raises(ValueError, match=r"points of shape \(…, 4\), not"):
            problem.fun(wrong)


def test_noise_is_gaussian_independent_and_reproducible(problem):
    x = np.tile(problem.optimum, (10_000, 1))
    y = problem.noisy(0.3, 5)(x) - problem.minimum
    # Six standard errors: one case in 5e8.
    assert abs(y.mean()) < 6 * 0.3 / sqrt(len(y))
    assert abs(y.std() / 0.3 - 1) < 6 / sqrt(2 * len(y))
    assert abs(np.corrcoef(y[1:], y[:-1])[0, 1]) < 6 / sqrt(len(y))
    again = problem.noisy(0.3, np.random.default_rng(5))
    assert again(x) - problem.minimum == pytest.approx(y, abs=0)
    assert np.abs(again(x) - problem.minimum - y).min() > 0
    assert problem.noisy(0.0)(x) == pytest.approx(problem.fun(x), abs=0)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="sigma must be at least 0"):
            problem.noisy(wrong)


def test_problems_travel_to_other_processes(problem):
    x = points(problem)
    noisy = problem.noisy(0.5, 3)
    copy = pickle.loads(pickle.dumps(noisy))
    assert copy(x).tolist() == noisy(x).tolist()
    assert copy.problem.name == problem.name


# Constants ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.01, 0.3, 2, 20])
@pytest.mark.parametrize("name", MAKERS)
def test_hessians_keep_their_lipschitz_constant(name, spread):
    problem = MAKERS[name](3)
    if problem.hessian_lipschitz == inf:
        return
    x = points(problem, 300, spread)
    moved = x + 0.3 * spread * np.random.default_rng(1).standard_normal(x.shape)
    change = np.linalg.norm(problem.hessian(moved) - problem.hessian(x), axis=(1, 2))
    distance = np.linalg.norm(moved - x, axis=1)
    assert (change <= problem.hessian_lipschitz * distance * (1 + 1e-9) + 1e-11).all()


@pytest.mark.parametrize("spread", [0.1, 1, 20])
@pytest.mark.parametrize("name", GLOBAL)
def test_no_curvature_lies_below_the_strong_convexity(name, spread):
    problem = MAKERS[name](3)
    least = np.linalg.eigvalsh(problem.hessian(points(problem, 300, spread))).min()
    assert least >= problem.strong_convexity - 1e-10


def rate(problem, x, direction, step=1e-4):
    """How fast the Hessian changes at x, in Frobenius norm per length."""
    direction = np.asarray(direction) / np.linalg.norm(direction)
    change = problem.hessian(x + step * direction) - problem.hessian(x - step * direction)
    return np.linalg.norm(change) / (2 * step)


@pytest.mark.parametrize(
    ("strong_convexity", "rise", "rho"), [(1.0, 2.0, 1.0), (0.7, 1.6, 2.5), (3.0, 0.2, 0.1)]
)
def test_skew_has_the_constants_it_was_asked_for(strong_convexity, rise, rho):
    problem = skew(
        4, strong_convexity=strong_convexity, rise=rise, hessian_lipschitz=rho, rotation=True
    )
    direction = problem.rotation[2]
    assert rate(problem, problem.optimum, direction) == pytest.approx(rho, rel=1e-6)
    middle = strong_convexity + rise / 2
    assert problem.hessian(problem.optimum) == pytest.approx(middle * np.eye(4))
    far = 1e4 * rise / rho * problem.rotation.sum(0)
    low = np.linalg.eigvalsh(problem.hessian(problem.optimum - far))
    high = np.linalg.eigvalsh(problem.hessian(problem.optimum + far))
    assert low == pytest.approx(strong_convexity, rel=1e-6)
    assert high == pytest.approx(strong_convexity + rise, rel=1e-6)


def test_skew_is_the_published_formula():
    # phi(z) = (M + L/2) z²/2 + L/(4k) (z sqrt(1 + k²z²) + asinh(kz)/k) - L/(2k) z,  k = 2 rho/L.
    problem = skew(3, strong_convexity=0.5, rise=3.0, hessian_lipschitz=0.8, scales=[1, 2, 4])
    k, z = 2 * 0.8 / 3.0, np.linspace(-3, 3, 21)
    bent = z * np.sqrt(1 + k * k * z * z) + np.arcsinh(k * z) / k
    for j, scale in enumerate([1, 2, 4]):
        expected = (0.5 * scale + 1.5) * z * z / 2 + 3 / (4 * k) * bent - 3 / (2 * k) * z
        x = problem.optimum + z[:, None] * np.eye(3)[j]
        assert problem.fun(x) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_condition_of_scaled_skew():
    problem = skew(6, scales=np.geomspace(1, 100, 6), rotation=True)
    eigenvalues = np.linalg.eigvalsh(problem.hessian(problem.optimum))
    assert eigenvalues == pytest.approx(np.geomspace(1, 100, 6) + 1)
    assert problem.strong_convexity == 1.0


def test_start_is_as_far_from_the_optimum_as_asked():
    for maker in (skew, hypot, quartic, quadratic, rastrigin):
        problem = maker(5, shift=2.5, rng=1)
        assert np.linalg.norm(problem.optimum - problem.start) == pytest.approx(2.5)
        assert maker(5, shift=2.5, rng=2).optimum != pytest.approx(problem.optimum)
        assert maker(2, shift=[3.0, 4.0]).optimum.tolist() == [3, 4]


def test_small_values_near_the_optimum_are_exact():
    # To third order: values a naive formula would round away.
    problem = hypot(2, hessian_lipschitz=0.8, growth=0.6, shift=[0.0, 0.0])
    for z in (1e-3, 1e-5, 1e-7):
        expected = (2 + 0.6) * z**2 / 2 + 0.8 * z**3 / 6
        assert problem.fun(np.array([z, 0.0])) == pytest.approx(expected, rel=max(1e-7, z * z))


def test_hypot_is_the_published_formula_and_its_lipschitz_constant_is_attained():
    problem = hypot(2, hessian_lipschitz=1.0, shift=[0.0, 0.0])
    inner = skew(2, hessian_lipschitz=1.0, shift=[0.0, 0.0])
    z = np.linspace(-30, 30, 41)
    root = np.sqrt(1 + z * z)
    added = root**3 / 6 + z * np.arcsinh(z) / 2 - root / 2 + 1 / 3
    x = z[:, None] * np.eye(2)[1]
    assert problem.fun(x) - inner.fun(x) == pytest.approx(added, rel=1e-9, abs=1e-12)
    # cos(t)³ + sin(t) is largest where sin(2t) = 2/3.
    worst = np.arcsin(2 / 3) / 2
    assert problem.hessian_lipschitz == pytest.approx(np.cos(worst) ** 3 + np.sin(worst), rel=1e-9)
    at = np.array([np.tan(worst), 0.0])
    assert rate(problem, at, [1, 0]) == pytest.approx(problem.hessian_lipschitz, rel=1e-6)
    # Curvature without bound, always above what it is said to be.
    assert problem.hessian(np.array([1e6, 0.0]))[0, 0] > 1e6
    assert problem.strong_convexity == 2.0


@pytest.mark.parametrize("growth", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("rho", [0.2, 3.0])
def test_lipschitz_constant_of_hypot_by_brute_force(rho, growth):
    problem = hypot(1, hessian_lipschitz=rho, growth=growth, shift=[0.0])
    z = np.tan(np.linspace(0, pi / 2 - 1e-9, 200_001))
    brute = rho / (1 + (2 * rho / 2.0 * z) ** 2) ** 1.5 + growth * z / np.sqrt(1 + z * z)
    assert problem.hessian_lipschitz == pytest.approx(brute.max(), rel=1e-8)


def test_quartic_is_lipschitz_only_within_a_ball():
    problem = quartic(3, growth=0.5, shift=[0.0] * 3)
    assert problem.hessian_lipschitz == inf
    x = np.random.default_rng(0).standard_normal((200, 3))
    x *= 4 / np.linalg.norm(x, axis=1, keepdims=True)
    change = np.linalg.norm(problem.hessian(x[1:]) - problem.hessian(x[:-1]), axis=(1, 2))
    bound = problem.lipschitz_within(4.0) * np.linalg.norm(np.diff(x, axis=0), axis=1)
    assert (change <= bound * (1 + 1e-12)).all()
    edge = np.array([4.0, 0, 0])
    assert rate(problem, edge, edge) == pytest.approx(problem.lipschitz_within(4.0), rel=1e-6)
    assert problem.fun(np.array([2.0, 0, 0])) == pytest.approx(2 + 0.5 * 16 / 12)


def test_quadratic_has_its_eigenvalues():
    problem = quadratic(5, strong_convexity=0.2, condition=1e3, rotation=True)
    eigenvalues = np.linalg.eigvalsh(problem.hessian(np.ones(5)))
    assert eigenvalues == pytest.approx(0.2 * np.geomspace(1, 1e3, 5))
    assert problem.hessian_lipschitz == 0
    given = quadratic(2, eigenvalues=[4.0, 1.0], shift=[1.0, 1.0])
    assert given.fun(np.zeros(2)) == pytest.approx(2.5)
    assert given.strong_convexity == 1.0


@pytest.mark.parametrize("dimension", [1, 2, 5, 20])
def test_cubics_have_the_largest_bias_that_is_allowed(dimension):
    # For a cubic with third derivatives T the sphere estimator is off by
    # r²/(2(d+2)) times the vector of traces of T, at most r² rho sqrt(d)/(2(d+2)).
    direction = np.random.default_rng(0).standard_normal(dimension)
    for problem in (
        separable_cubic(dimension, hessian_lipschitz=1.7, rotation=True),
        worst_cubic(dimension, hessian_lipschitz=1.7, direction=direction),
    ):
        base = problem.hessian(problem.optimum)
        third = np.stack([problem.hessian(problem.optimum + e) - base for e in np.eye(dimension)])
        traces = np.trace(third, axis1=1, axis2=2)
        assert np.linalg.norm(traces) == pytest.approx(1.7 * sqrt(dimension))
        # Frobenius-Lipschitz constant: the largest singular value of T as a (d, d²) matrix.
        largest = np.linalg.norm(third.reshape(dimension, -1), 2)
        assert largest == pytest.approx(1.7)
    assert traces / np.linalg.norm(traces) == pytest.approx(direction / np.linalg.norm(direction))


def test_worst_cubic_is_the_published_formula():
    e = np.array([1.0, 2.0, 2.0]) / 3
    problem = worst_cubic(3, hessian_lipschitz=0.6, direction=5 * e)
    x = points(problem)
    along = x @ e
    expected = 0.6 / sqrt(3) * (along * (x * x).sum(1) / 2 - along**3 / 3)
    assert problem.fun(x) == pytest.approx(expected)


def test_rastrigin_has_its_constants_and_local_minima():
    problem = rastrigin(2, shift=[0.0, 0.0])
    x = np.array([0.5, 1.0])
    expected = 10 * 2 + (x**2 - 10 * np.cos(2 * pi * x)).sum()
    assert problem.fun(x) == pytest.approx(expected)
    assert np.linalg.eigvalsh(problem.hessian(np.array([0.5, 0.5]))) == pytest.approx(
        problem.strong_convexity
    )
    quarter = np.array([0.25, 0.25])
    assert rate(problem, quarter, [1, 0], 1e-5) == pytest.approx(problem.hessian_lipschitz)
    # A local minimum near (1, 0): the slope changes sign from left to right.
    line = np.column_stack([np.array([0.9, 1.1]), np.zeros(2)])
    left, right = problem.gradient(line)[:, 0]
    assert left < 0 < right


# The instance of the lower bound -----------------------------------------------------------------


def direct(x, sign, strong_convexity, rho, sigma, budget):
    """The published definition, for one coordinate, without anything of the module."""
    y0 = sigma / (pi * sqrt(budget))
    u = sign * x / (y0 / rho) ** (1 / 3)
    if abs(u) >= 3 * pi:
        well = 2 * pi
    elif u <= -pi:
        well = -np.sin(u) - u - pi
    else:
        well = -np.cos(u / 2) + u / 2 + pi / 2
    return strong_convexity * x * x + y0 * well


@pytest.mark.parametrize("constants", [(1.0, 1.0, 1.0, 1000), (2.0, 0.5, 3.0, 77), (1, 1, 0.1, 1)])
def test_hard_instance_is_the_published_definition(constants):
    strong_convexity, rho, sigma, budget = constants
    problem = lower_bound_instance(
        3,
        budget=budget,
        strong_convexity=strong_convexity,
        hessian_lipschitz=rho,
        noise=sigma,
        signs=[1, -1, 1],
    )
    reach = 4 * pi * problem.width
    for x in np.random.default_rng(0).uniform(-reach, reach, (200, 3)):
        terms = zip(x, (1, -1, 1), strict=True)
        expected = sum(direct(v, s, strong_convexity, rho, sigma, budget) for v, s in terms)
        assert problem.fun(x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("budget", [100, 10_000, 1_000_000])
def test_hard_instance_is_smooth_enough_and_no_smoother(budget):
    problem = lower_bound_instance(1, budget=budget, hessian_lipschitz=1.2, signs=[1])
    width = problem.width
    for seam in (-3 * pi, -pi, 3 * pi):
        # Value, slope and curvature go through the seams.
        ends = (np.array([[seam - 1e-9], [seam + 1e-9]])) * width
        curvature = problem.hessian(ends)[:, 0, 0]
        assert curvature[0] == pytest.approx(curvature[1], abs=1e-8)
        slope, value = problem.gradient(ends)[:, 0], problem.fun(ends)
        length = 2e-9 * width
        assert slope[1] - slope[0] == pytest.approx(length * curvature.mean(), abs=1e-14)
        assert value[1] - value[0] == pytest.approx(length * slope.mean(), abs=1e-14)
    # The third derivative is largest at -2 pi, where it is what was asked for.
    step = 1e-4 * width
    assert rate(problem, np.array([-2 * pi * width]), [1], step) == pytest.approx(1.2, rel=1e-6)
    least = problem.hessian(np.array([-2.5 * pi * width]))[0, 0]
    bend = 1.2 ** (2 / 3) * problem.depth ** (1 / 3)
    assert least == pytest.approx(2 - bend)
    assert least >= problem.strong_convexity


def test_signs_mirror_the_hard_instance():
    one = lower_bound_instance(3, budget=1000, signs=[1, 1, -1])
    other = lower_bound_instance(3, budget=1000, signs=[-1, -1, 1])
    x = points(one, spread=one.width)
    assert one.fun(x) == pytest.approx(other.fun(-x), rel=1e-14)
    assert one.optimum == pytest.approx(-other.optimum)
    assert one.minimum == other.minimum
    assert (one.optimum * np.array([1, 1, -1]) < 0).all()
    assert one.regret(other.optimum) > 3 * one.regret(one.start) > 0
    drawn = {tuple(lower_bound_instance(2, budget=9, rng=seed).signs) for seed in range(40)}
    assert len(drawn) == 4


@pytest.mark.parametrize("budget", [100, 10_000, 10**8])
def test_no_budget_tells_the_hard_instances_apart(budget):
    sigma = 0.7
    pair = [
        lower_bound_instance(1, budget=budget, noise=sigma, signs=[sign], strong_convexity=2.0)
        for sign in (1, -1)
    ]
    x = np.linspace(-5, 5, 20_001)[:, None] * pair[0].width * pi
    gap = np.abs(pair[0].fun(x) - pair[1].fun(x)).max()
    # All values together tell less than one nat, whatever the budget and wherever they are taken.
    assert budget * gap**2 / (2 * sigma**2) == pytest.approx(0.840, abs=0.001)


def test_regret_between_the_hard_instances_follows_the_rate():
    # At the origin, half-way between both, it tends to eps(T) / (16 pi^(4/3)) per coordinate.
    for strong_convexity, rho, sigma in ((1.0, 1.0, 1.0), (2.0, 0.3, 0.5)):
        budget = 10**16
        problem = lower_bound_instance(
            4,
            budget=budget,
            strong_convexity=strong_convexity,
            hessian_lipschitz=rho,
            noise=sigma,
        )
        rate_T = rho ** (2 / 3) * sigma ** (4 / 3) / (strong_convexity * budget ** (2 / 3))
        expected = 4 * rate_T / (16 * pi ** (4 / 3))
        assert problem.regret(problem.start) == pytest.approx(expected, rel=2e-3)


# Logistic regression -----------------------------------------------------------------------------


def test_logistic_is_the_mean_loss():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((30, 3)), rng.choice([-1, 1], 30)
    problem = logistic(features, labels, regularization=0.2, flip=0.1)
    for x in rng.standard_normal((5, 3)):
        margins = labels * (features @ x)
        right, wrong = np.log1p(np.exp(-margins)), np.log1p(np.exp(margins))
        expected = (0.9 * right + 0.1 * wrong).mean() + 0.1 * (x @ x)
        assert problem.fun(x) == pytest.approx(expected)
    assert np.isfinite(problem.fun(1e6 * np.ones(3)))


def test_bounds_of_logistic_are_attained():
    # All samples alike, at the margin where the third derivative is largest.
    feature = np.array([3.0, 4.0])
    problem = logistic(np.tile(feature, (5, 1)), np.ones(5), regularization=0.3)
    margin = np.log((1 + 1 / sqrt(3)) / (1 - 1 / sqrt(3)))
    at = margin * feature / 25
    assert rate(problem, at, feature) == pytest.approx(problem.hessian_lipschitz, rel=1e-5)
    assert problem.lipschitz_at(at) == pytest.approx(problem.hessian_lipschitz)
    far = np.linalg.eigvalsh(problem.hessian(1e3 * feature))
    assert far == pytest.approx(0.3)


def test_lipschitz_constant_at_a_point_is_the_largest_rate_there():
    problem = synthetic_logistic(4, samples=80, rng=2)
    x = 0.5 * np.ones(4)
    directions = np.random.default_rng(0).standard_normal((4000, 4))
    rates = np.array([rate(problem, x, direction) for direction in directions])
    found = problem.lipschitz_at(x)
    assert 0.97 * found < rates.max() < found * (1 + 1e-6)


NOISES = {
    "mini-batch": lambda rng: synthetic_logistic(3, samples=40).minibatch(8, rng),
    "mini-batch, labels err": lambda rng: synthetic_logistic(3, samples=40, flip=0.2).minibatch(
        4, rng
    ),
    "labels": lambda rng: synthetic_logistic(3, samples=40, flip=0.2).asked_labels(rng),
}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("seeds", [False, True])
def test_evaluations_on_data_are_unbiased_with_the_noise_they_say(name, seeds):
    fun = NOISES[name](0)
    x = np.array([0.5, -0.3, 1.0])
    count = 20_000
    y = fun(np.tile(x, (count, 1)), seed=np.arange(count) if seeds else None)
    # Six standard errors of mean and variance; the values are near Gaussian.
    assert abs(y.mean() - fun.problem.fun(x)) < 6 * fun.noise(x) / sqrt(count)
    fourth = ((y - y.mean()) ** 4).mean()
    error = sqrt((fourth - y.var() ** 2) / count)
    assert abs(y.var() - fun.noise(x) ** 2) < 6 * error


@pytest.mark.parametrize("name", NOISES)
def test_equal_seeds_see_equal_data(name):
    torch = pytest.importorskip("torch")
    fun = NOISES[name](0)
    x = points(fun.problem, 6)
    seeds = np.array([5, 5, 7, 2**40, 2**40, 0])
    y = fun(x, seed=seeds)
    alone = [fun(row, seed=int(seed)) for row, seed in zip(x, seeds, strict=True)]
    assert y == pytest.approx(alone, rel=1e-14)
    assert fun(torch.from_numpy(x), seed=seeds).numpy() == pytest.approx(y, rel=1e-13)
    same = fun(np.tile(x[0], (6, 1)), seed=seeds)
    assert same[0] == same[1] and same[3] == same[4]
    assert len({*same.tolist()}) == 4
    assert NOISES[name](3)(torch.from_numpy(x)).numpy() == pytest.approx(NOISES[name](3)(x))
    for wrong in (-1, 0.5):
        with pytest.raises(ValueError, match="seed must hold integers"):
            fun(x, seed=wrong)


def test_large_batches_are_worked_on_in_pieces(monkeypatch):
    module = sys.modules["modicum.zeroth.problems.logistic"]
    problem = synthetic_logistic(3, samples=40, flip=0.1)
    x = points(problem, 50)
    parts = (problem.fun, problem.gradient, problem.hessian)
    whole = [part(x) for part in parts] + [problem.minibatch(5, 0)(x), problem.asked_labels(0)(x)]
    monkeypatch.setattr(module, "ELEMENTS", 200)
    pieces = [part(x) for part in parts] + [problem.minibatch(5, 0)(x), problem.asked_labels(0)(x)]
    for one, other in zip(whole, pieces, strict=True):
        assert one == pytest.approx(other, rel=1e-13)


def test_breast_cancer_data():
    pytest.importorskip("sklearn")
    problem = breast_cancer()
    assert problem.dimension == 31
    assert problem.signed_ND.shape == (569, 31)
    assert (np.sign(problem.signed_ND @ problem.optimum) > 0).mean() > 0.97
    # The sum of the stated facts: what the docstring of `logistic` says of this data.
    ratio = problem.hessian_lipschitz / problem.lipschitz_at(problem.optimum)
    assert round(ratio) == 51


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "modicum-zeroth\[sklearn\]"'):
        breast_cancer()


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: skew(0), "dimension must be a positive integer, not 0"),
        (lambda: skew(2.5), "dimension must be a positive integer"),
        (lambda: skew(2, strong_convexity=0), "strong_convexity must be positive"),
        (lambda: skew(2, hessian_lipschitz=inf), "hessian_lipschitz must be positive and finite"),
        (lambda: skew(2, rise=-1.0), "rise must be positive"),
        (lambda: skew(2, scales=[1, 2, 3]), r"scales must be \(2,\) and positive"),
        (lambda: skew(2, scales=[1, 0]), "scales must be"),
        (lambda: skew(2, shift=[1, 2, 3]), r"shift must be a finite number or \(2,\)"),
        (lambda: skew(2, shift=float("nan")), "shift must be a finite number"),
        (lambda: skew(2, rotation=np.ones((2, 2))), "rotation must be an orthogonal"),
        (lambda: hypot(2, growth=0), "growth must be positive"),
        (lambda: quartic(2, growth=-1), "growth must be positive"),
        (lambda: quadratic(2, condition=0.5), "condition must be at least 1"),
        (lambda: quadratic(2, eigenvalues=[1.0, -1.0]), "eigenvalues must be"),
        (lambda: rastrigin(2, period=0), "period must be positive"),
        (lambda: worst_cubic(2, curvature=-1), "curvature must be at least 0"),
        (lambda: worst_cubic(2, direction=[0, 0]), "direction must be"),
        (lambda: separable_cubic(2, curvature=0), "curvature must be positive"),
        (lambda: lower_bound_instance(2, budget=0), "budget must be positive"),
        (
            lambda: lower_bound_instance(2, budget=10, hessian_lipschitz=4.0),
            "budget must be at least 25.9",
        ),
        (lambda: lower_bound_instance(2, budget=10, signs=[1, 0]), "signs must be"),
        (lambda: logistic([1.0, 2.0], [1, 1]), r"features must be finite and \(N, d\)"),
        (lambda: logistic([[1.0], [2.0]], [0, 1]), "labels must be"),
        (lambda: logistic([[1.0]], [1], flip=0.5), "flip must be in"),
        (lambda: synthetic_logistic(2).minibatch(0), "size must be a positive integer"),
    ],
)
def test_wrong_settings_are_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_smallest_budget_of_the_hard_instance_is_the_one_in_the_message():
    least = (4.0**2 / pi) ** 2
    problem = lower_bound_instance(1, budget=int(least) + 1, hessian_lipschitz=4.0, signs=[1])
    worst = problem.hessian(np.array([-2.5 * pi * problem.width]))[0, 0]
    assert 1 <= worst < 1.02


def test_all_names_are_there_and_nothing_heavy_is_loaded():
    assert all(hasattr(problems, name) for name in problems.__all__)
    heavy = ("torch", "scipy.optimize", "scipy.stats", "sklearn")
    code = f"import sys, modicum.zeroth.problems; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
