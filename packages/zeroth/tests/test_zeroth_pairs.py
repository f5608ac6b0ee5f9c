import itertools
import math

import numpy as np
import pytest
import torch

from modicum.zeroth import arrays
from modicum.zeroth.directions import draw_directions, draw_pair_directions
from modicum.zeroth.pairs import (
    GradientMean,
    bias_from_radii,
    combine,
    difference_noise,
    fit_even,
    make_pairs,
    noise_trace,
    odd_gradient,
    richardson,
    shrink,
)

# Statistical tests compare at 6.5 standard errors: error probability 8e-11 each.
SIGMAS = 6.5


def close_to(samples, expected):
    samples = np.asarray(samples, dtype=float)
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert error > 0
    assert abs(samples.mean() - expected) < SIGMAS * error, (samples.mean(), expected, error)


def rng_of(*seed):
    return np.random.default_rng(seed)


def random_symmetric(rng, d):
    a = rng.standard_normal((d, d))
    return (a + a.T) / 2


def cubature(d):
    """Directions and weights that integrate polynomials of degree 5 on the sphere exactly.

    Vertices of the cross-polytope and of the cube (Stroud, U_n 5-2), one of each antipodal pair.
    """
    axes = np.eye(d)
    cube = np.array(list(itertools.product([1.0, -1.0], repeat=d)))
    cube = cube[: len(cube) // 2] / math.sqrt(d)
    weights = np.concatenate(
        [np.full(d, 2 / (d * (d + 2))), np.full(len(cube), 2 * d / (2**d * (d + 2)))]
    )
    return np.concatenate([axes, cube]), weights


def both_libraries(*values):
    yield values
    yield tuple(torch.from_numpy(np.array(value)) for value in values)


# Pairs -------------------------------------------------------------------------------------------


def test_pairs_are_differences_and_means():
    u = draw_directions("sphere", 3, 2, 0)
    pairs = make_pairs(u, np.array([1.0, 2, 3]), np.array([0.5, 4, 3]), 0.7, block=2)
    np.testing.assert_array_equal(pairs.odd, [0.5, -2, 0])
    np.testing.assert_array_equal(pairs.even, [0.75, 3, 3])
    np.testing.assert_array_equal(pairs.radius, [0.7, 0.7, 0.7])
    assert pairs.noise is None
    assert (pairs.count, pairs.dropped, pairs.block) == (3, 0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pair_with_one_bad_value_is_dropped_whole(bad):
    u = draw_directions("orthogonal", 4, 4, 0)
    plus, minus = np.arange(4.0), np.arange(4.0) ** 2
    radius, sigma = np.array([1.0, 2, 3, 4]), np.array([0.1, 0.2, 0.3, 0.4])
    minus[1] = bad
    plus[3] = bad
    for arguments in both_libraries(u, plus, minus, radius, sigma):
        u_, plus_, minus_, radius_, sigma_ = arguments
        pairs = make_pairs(
            u_, plus_, minus_, radius_, sigma_plus_N=sigma_, sigma_minus_N=3 * sigma_, block=4
        )
        assert (pairs.count, pairs.dropped, pairs.block) == (2, 2, 1)
        np.testing.assert_array_equal(np.asarray(pairs.directions), u[[0, 2]])
        np.testing.assert_array_equal(np.asarray(pairs.odd), [0, -2])
        np.testing.assert_array_equal(np.asarray(pairs.even), [0, 3])
        np.testing.assert_array_equal(np.asarray(pairs.radius), [1, 3])
        np.testing.assert_allclose(np.asarray(pairs.noise), [0.1 * 5**0.5, 0.3 * 5**0.5])


def test_values_of_low_precision_are_subtracted_in_float64():
    u = torch.ones(2, 1, dtype=torch.float64)
    plus = torch.tensor([3.0, 1.0], dtype=torch.bfloat16)
    pairs = make_pairs(u, plus, torch.tensor([2.0, 0.0078125], dtype=torch.bfloat16), 1.0)
    assert pairs.odd.dtype == torch.float64
    # 1 - 2⁻⁷ has no more digits than bfloat16, half of 1 + 2⁻⁷ has.
    assert pairs.odd.tolist() == [1.0, 0.9921875]
    assert pairs.even.tolist() == [2.5, 0.50390625]


def test_noise_of_one_side_only_is_refused():
    with pytest.raises(ValueError, match="both sides"):
        make_pairs(np.ones((1, 1)), np.ones(1), np.ones(1), 1.0, sigma_plus_N=np.ones(1))


# Gradients ---------------------------------------------------------------------------------------


def odd_data(seed, n, d, kind="sphere"):
    rng = rng_of(seed)
    u = draw_pair_directions(kind, n, d, seed)
    return u, rng.standard_normal(n), rng.uniform(0.3, 2, n), rng.uniform(0.1, 3, n)


@pytest.mark.parametrize(("n", "d", "block"), [(7, 3, 1), (12, 4, 4), (10, 4, 4), (6, 1, 1)])
def test_mean_and_scatter_are_those_of_single_pairs(n, d, block):
    u, odd, radius, weights = odd_data(1, n, d)
    single = np.array([d * odd[i] * u[i] / (2 * radius[i]) for i in range(n)])
    for given in (None, weights):
        w = radius**2 if given is None else given
        mean = sum(w[i] * single[i] for i in range(n)) / w.sum()
        groups = [range(b, min(b + block, n)) for b in range(0, n, block)]
        errors = [sum(w[i] * (single[i] - mean) for i in group) for group in groups]
        scatter = sum(e @ e for e in errors) / w.sum() ** 2 * len(groups) / (len(groups) - 1)
        for u_, odd_, radius_, weights_ in both_libraries(u, odd, radius, w):
            passed = None if given is None else weights_
            got = odd_gradient(u_, odd_, radius_, passed, block=block)
            assert isinstance(got.mean, np.ndarray)
            np.testing.assert_allclose(got.mean, mean, atol=1e-14)
            assert got.cov_trace == pytest.approx(scatter, rel=1e-12)
            assert got.count == n


def test_one_block_has_no_scatter():
    u, odd, radius, _ = odd_data(2, 4, 4, "orthogonal")
    assert math.isnan(odd_gradient(u, odd, radius, block=4).cov_trace)
    assert math.isnan(odd_gradient(u[:1], odd[:1], radius[:1]).cov_trace)


@pytest.mark.parametrize("estimator", ["mean", "least-squares", "median-of-means"])
@pytest.mark.parametrize("block", [1, 3])
def test_gradients_do_not_depend_on_the_size_of_pieces(estimator, block, monkeypatch):
    u, odd, radius, weights = odd_data(3, 100, 3)
    arguments = {"estimator": estimator, "block": block, "groups": 7}
    whole = odd_gradient(u, odd, radius, weights, **arguments)
    monkeypatch.setattr(arrays, "_CHUNK_ENTRIES", 30)
    monkeypatch.setattr(arrays, "_CHUNK_ROWS_MIN", 1)
    pieces = odd_gradient(u, odd, radius, weights, **arguments)
    np.testing.assert_allclose(pieces.mean, whole.mean, rtol=1e-10)
    assert pieces.cov_trace == pytest.approx(whole.cov_trace, rel=1e-10)


@pytest.mark.parametrize("kind", ["sphere", "gaussian", "rademacher", "coordinate"])
def test_scatter_is_unbiased_for_independent_directions(kind):
    # The covariance of the mean of n pairs of a noisy linear function, known exactly.
    d, n, sigma, radius = 4, 6, 0.7, 0.5
    g = np.array([1.0, -2, 0.5, 0.3])
    rng = rng_of(4)
    errors, traces = [], []
    # Coordinate directions come in blocks; rows d apart are independent.
    step = d if kind == "coordinate" else 1
    for u in draw_pair_directions(kind, 2000 * n * step, d, 5)[::step].reshape(2000, n, d):
        odd = 2 * radius * u @ g + sigma * math.sqrt(2) * rng.standard_normal(n)
        got = odd_gradient(u, odd, radius)
        errors.append(np.sum((got.mean - g) ** 2))
        traces.append(got.cov_trace)
    extra = 2 if kind == "gaussian" else 0
    exact = ((d - 1 + extra) * g @ g + d**2 * sigma**2 / (2 * radius**2)) / n
    close_to(errors, exact)
    close_to(traces, exact)


@pytest.mark.parametrize("kind", ["orthogonal", "coordinate"])
def test_complete_blocks_leave_only_the_noise(kind):
    d, n, sigma, radius = 3, 9, 0.7, 0.5
    g = np.array([10.0, -20, 5])
    rng = rng_of(5)
    errors, traces = [], []
    for u in draw_pair_directions(kind, 2000 * n, d, 6).reshape(2000, n, d):
        odd = 2 * radius * u @ g + sigma * math.sqrt(2) * rng.standard_normal(n)
        got = odd_gradient(u, odd, radius, block=d)
        errors.append(np.sum((got.mean - g) ** 2))
        traces.append(got.cov_trace)
    exact = d**2 * sigma**2 / (2 * n * radius**2)
    close_to(errors, exact)
    close_to(traces, exact)


def test_least_squares_is_the_regression_of_differences():
    u, odd, radius, weights = odd_data(7, 40, 5)
    root = np.sqrt(weights)
    expected = np.linalg.lstsq(u * root[:, None], odd / (2 * radius) * root, rcond=None)[0]
    for u_, odd_, radius_, weights_ in both_libraries(u, odd, radius, weights):
        got = odd_gradient(u_, odd_, radius_, weights_, estimator="least-squares")
        np.testing.assert_allclose(got.mean, expected, atol=1e-13)


def test_least_squares_has_no_error_from_the_gradient_and_knows_its_own():
    d, n, sigma = 3, 30, 0.4
    g = np.array([100.0, -20, 5])
    rng = rng_of(8)
    squares, traces = [], []
    radius = np.where(np.arange(n) < n // 2, 0.5, 2.0)
    for u in draw_directions("sphere", 1500 * n, d, 9).reshape(1500, n, d):
        odd = 2 * radius * (u @ g) + sigma * math.sqrt(2) * rng.standard_normal(n)
        got = odd_gradient(u, odd, radius, estimator="least-squares")
        squares.append(np.sum((got.mean - g) ** 2))
        traces.append(got.cov_trace)
        exact = sigma**2 / 2 * np.trace(np.linalg.inv((u * radius[:, None] ** 2).T @ u))
        squares[-1] /= exact
        traces[-1] /= exact
    close_to(squares, 1)
    close_to(traces, 1)


def test_least_squares_needs_as_many_pairs_as_dimensions():
    u, odd, radius, _ = odd_data(9, 2, 3)
    with pytest.raises(ValueError, match="at least 3 pairs in dimension 3, got 2"):
        odd_gradient(u, odd, radius, estimator="least-squares")


def test_least_squares_says_where_it_does_not_know_its_variance():
    rng = rng_of(9)
    # As many pairs as dimensions; an axis with a single pair; an axis without one.
    square = draw_directions("sphere", 3, 3, 9)
    single = np.eye(3)[[0, 0, 1, 1, 2]]
    missing = np.eye(3)[[0, 0, 1, 1, 0]]
    for u in (square, single, missing):
        got = odd_gradient(u, rng.standard_normal(len(u)), 1.0, estimator="least-squares")
        assert math.isnan(got.cov_trace)
        assert np.isfinite(got.mean).all()
    assert got.mean[2] == 0
    twice = odd_gradient(np.tile(np.eye(3), (2, 1)), np.arange(6.0), 0.5, estimator="least-squares")
    # Means of pairs (0, 3), (1, 4), (2, 5), each with sample variance 4.5.
    np.testing.assert_allclose(twice.mean, [1.5, 2.5, 3.5])
    assert twice.cov_trace == pytest.approx(3 * 4.5 / 2)


def test_median_of_one_group_is_the_mean():
    u, odd, radius, _ = odd_data(10, 20, 3)
    median = odd_gradient(u, odd, radius, estimator="median-of-means", groups=1)
    np.testing.assert_allclose(median.mean, odd_gradient(u, odd, radius).mean, rtol=1e-12)


def test_median_of_means_minimises_the_sum_of_distances():
    u, odd, radius, weights = odd_data(11, 60, 3)
    got = odd_gradient(u, odd, radius, weights, estimator="median-of-means", groups=7).mean
    single = 3 * odd[:, None] * u / (2 * radius[:, None])
    means = np.array([np.average(single[k::7], axis=0, weights=weights[k::7]) for k in range(7)])
    away = means - got
    pull = np.sum(away / np.linalg.norm(away, axis=1, keepdims=True), axis=0)
    np.testing.assert_allclose(pull, 0, atol=1e-6)


def test_median_of_means_in_one_dimension_is_a_median():
    odd = np.array([1.0, 2, 3, 4, 1e9])
    got = odd_gradient(np.ones((5, 1)), odd, 0.5, estimator="median-of-means", groups=5)
    assert got.mean[0] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e30])
def test_median_of_means_scales_with_the_values(factor):
    u, odd, radius, _ = odd_data(11, 60, 3)
    one = odd_gradient(u, odd, radius, estimator="median-of-means", groups=7)
    other = odd_gradient(u, factor * odd, radius, estimator="median-of-means", groups=7)
    np.testing.assert_allclose(other.mean, factor * one.mean, rtol=1e-9)
    assert other.cov_trace == pytest.approx(factor**2 * one.cov_trace, rel=1e-9, abs=0)


def test_median_of_means_forgets_wild_groups():
    d, n, g = 4, 4000, np.array([1.0, 2, 0, -1])
    u = draw_directions("sphere", n, d, 12)
    odd = 2 * u @ g + 0.1 * rng_of(12).standard_normal(n)
    odd[:3] = 1e7
    assert np.linalg.norm(odd_gradient(u, odd, 1.0).mean - g) > 100
    got = odd_gradient(u, odd, 1.0, estimator="median-of-means", groups=20)
    assert np.linalg.norm(got.mean - g) < 0.5
    assert got.cov_trace < 0.05


@pytest.mark.parametrize("dimension", [1, 2, 12])
def test_median_of_means_states_its_variance(dimension):
    rng = rng_of(13)
    errors, traces = [], []
    for u in draw_directions("sphere", 300 * 120, dimension, 14).reshape(300, 120, dimension):
        got = odd_gradient(u, rng.standard_normal(120), 1.0, estimator="median-of-means", groups=12)
        errors.append(got.mean @ got.mean)
        traces.append(got.cov_trace)
    # Conservative where a geometric median is better than a median.
    assert 0.8 < np.mean(traces) / np.mean(errors) < 1.8


def test_wrong_calls_of_the_gradient_are_named():
    u, odd, radius, _ = odd_data(15, 4, 3)
    with pytest.raises(ValueError, match="no pairs"):
        odd_gradient(u[:0], odd[:0], radius[:0])
    with pytest.raises(ValueError, match=r"median-of-means.*'mode'"):
        odd_gradient(u, odd, radius, estimator="mode")


def test_noise_trace_is_the_variance_of_pure_noise():
    d, sigma = 3, np.array([0.5, 1, 2, 1, 0.3, 2])
    radius = np.array([1.0, 2, 1, 0.5, 3, 1])
    weights = np.array([1.0, 2, 3, 1, 0.2, 1])
    assert noise_trace(d, radius, 0.7) == pytest.approx(d**2 * 0.49 / (2 * np.sum(radius**2)))
    u = draw_directions("sphere", 6, d, 16)
    rng = rng_of(16)
    squares = []
    for _ in range(4000):
        odd = math.sqrt(2) * sigma * rng.standard_normal(6)
        mean = odd_gradient(u, odd, radius, weights).mean
        squares.append(mean @ mean)
    close_to(squares, noise_trace(d, radius, sigma, weights))
    tensor = noise_trace(d, torch.from_numpy(radius), sigma, torch.from_numpy(weights))
    assert tensor == pytest.approx(noise_trace(d, radius, sigma, weights))
    assert noise_trace(4, 0.5, 1.0) == pytest.approx(32)


def test_squared_radius_is_the_best_weight_for_equal_noise():
    radius = np.array([0.5, 1, 2])
    best = noise_trace(2, radius, 1.0)
    for exponent in (0, 1, 3, 4):
        assert noise_trace(2, radius, 1.0, radius**exponent) > best


def test_shrinking_worked_values():
    np.testing.assert_allclose(shrink(np.array([3.0, 4, 0, 0]), 25.0), np.array([1.5, 2, 0, 0]))
    np.testing.assert_array_equal(shrink(np.array([3.0, 4, 0, 0]), 51.0), np.zeros(4))
    for d in (1, 2):
        np.testing.assert_array_equal(shrink(np.ones(d), 100.0), np.ones(d))
    np.testing.assert_array_equal(shrink(np.zeros(3), 1.0), np.zeros(3))


def test_shrinking_helps_most_where_there_is_no_signal():
    d, trials = 10, 20_000
    z = rng_of(17).standard_normal((trials, d))
    shrunk = np.array([shrink(row, float(d)) for row in z])
    # The risk of James and Stein's estimator at 0 is 2 for any d > 2; its positive part is better.
    risk = np.mean(np.sum(shrunk**2, axis=1))
    assert 0.3 < risk < 2
    moved = np.array([shrink(row + 3, float(d)) for row in z]) - 3
    assert np.mean(np.sum(moved**2, axis=1)) < d


# Bias --------------------------------------------------------------------------------------------


def steepest_cubic(rho, d):
    """The cubic that attains the bound on the bias, along the first axis."""
    return lambda x: rho / math.sqrt(d) * (x[:, 0] * np.sum(x**2, 1) / 2 - x[:, 0] ** 3 / 3)


def separable_cubic(rho, d):
    return lambda x: rho / 6 * np.sum(x**3, axis=1)


@pytest.mark.parametrize("cubic", [steepest_cubic, separable_cubic])
@pytest.mark.parametrize(("d", "published"), [(1, None), (2, 1.19324), (3, None), (10, 0.88939)])
def test_two_cubics_attain_the_bound_on_the_bias(cubic, d, published):
    rho, radius = 2.0, 1.5
    u, weights = cubature(d)
    f = cubic(rho, d)
    got = odd_gradient(u, f(radius * u) - f(-radius * u), radius, weights)
    bias = radius * np.linalg.norm(got.mean)  # of Z∇f, which is 0
    assert bias == pytest.approx(radius**3 * rho * math.sqrt(d) / (2 * (d + 2)), rel=1e-12)
    if published:
        assert bias == pytest.approx(published, abs=5e-6)


def test_no_cubic_of_the_class_has_a_larger_bias():
    d = 4
    u, weights = cubature(d)
    rng = rng_of(18)
    for _ in range(50):
        tensor = rng.standard_normal((d, d, d))
        permutations = list(itertools.permutations(range(3)))
        third = sum(np.transpose(tensor, p) for p in permutations) / 6
        # Largest Frobenius norm of the Hessian's change in a direction of norm 1.
        lipschitz = np.linalg.norm(third.reshape(d, -1), 2)
        odd = 2 * np.einsum("ni,nj,nk,ijk->n", u, u, u, third) / 6
        bias = np.linalg.norm(odd_gradient(u, odd, 1.0, weights).mean)
        assert bias <= lipschitz * math.sqrt(d) / (2 * (d + 2)) * (1 + 1e-12)


def test_quadratics_have_no_bias():
    d = 3
    u, weights = cubature(d)
    g, a = np.array([1.0, 2, -1]), random_symmetric(rng_of(19), d)
    value = lambda x: 5 + x @ g + np.sum((x @ a) * x, axis=1) / 2  # noqa: E731
    got = odd_gradient(u, value(0.7 * u) - value(-0.7 * u), 0.7, weights)
    np.testing.assert_allclose(got.mean, g, atol=1e-13)


def test_two_radii_show_the_bias_and_remove_it():
    d, rho, near, far = 3, 2.0, 0.5, 1.5
    u, weights = cubature(d)
    g = np.array([1.0, -1, 2])
    f = separable_cubic(rho, d)
    value = lambda x: x @ g + f(x)  # noqa: E731
    a, b = (odd_gradient(u, value(r * u) - value(-r * u), r, weights) for r in (near, far))
    slope = bias_from_radii(a, b, near, far).slope
    np.testing.assert_allclose(slope, np.full(3, rho / (2 * (d + 2))), atol=1e-13)
    assert 2 * (d + 2) / math.sqrt(d) * np.linalg.norm(slope) == pytest.approx(rho)
    np.testing.assert_allclose(richardson(a, b, near, far).mean, g, atol=1e-13)
    np.testing.assert_allclose(richardson(b, a, far, near).mean, g, atol=1e-13)


def test_the_higher_order_gradient_leaves_a_bias_of_fourth_order():
    # E over directions in the plane, exact for polynomials up to degree 15.
    angle = np.arange(8) * math.pi / 8
    u = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    value = lambda x: np.exp(x[:, 0])  # noqa: E731
    errors = []
    for scale in (0.2, 0.1):
        near, far = scale, 2 * scale
        a, b = (odd_gradient(u, value(r * u) - value(-r * u), r, np.ones(8)) for r in (near, far))
        errors.append(np.linalg.norm(richardson(a, b, near, far).mean - [1, 0]))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.05)


def test_variances_of_combinations():
    a = GradientMean(np.array([1.0, 0]), 0.3, 10)
    b = GradientMean(np.array([0.0, 2]), 0.5, 30)
    both = combine(a, b, 1.0, 3.0)
    np.testing.assert_allclose(both.mean, [0.25, 1.5])
    assert both.cov_trace == pytest.approx(0.3 / 16 + 0.5 * 9 / 16)
    assert both.count == 40
    high = richardson(a, b, 1.0, 2.0)
    assert high.cov_trace == pytest.approx((16 * 0.3 + 0.5) / 9)
    bias = bias_from_radii(a, b, 1.0, 2.0)
    assert bias.cov_trace == pytest.approx(0.8 / 9)
    assert bias_from_radii(a, b, 1.0, 2.0, 0.1, 0.2).cov_trace == pytest.approx(0.3 / 9)
    np.testing.assert_allclose(bias.slope, [-1 / 3, 2 / 3])
    for function in (bias_from_radii, richardson):
        with pytest.raises(ValueError, match=r"two radii must differ, both are 1\.0"):
            function(a, b, 1.0, 1.0)


def test_noise_from_differences_is_unbiased():
    d, n, sigma = 4, 12, 0.6
    rng = rng_of(20)
    squares = []
    for u in draw_directions("sphere", 1500 * n, d, 21).reshape(1500, n, d):
        radius = rng.uniform(0.5, 2, n)
        odd = 2 * radius * (u @ np.array([5.0, 1, -3, 2]))
        odd += sigma * math.sqrt(2) * rng.standard_normal(n)
        noise, dof = difference_noise(u, odd, radius)
        squares.append(noise**2)
    assert dof == n - d
    close_to(squares, sigma**2)
    tensor = difference_noise(*(torch.from_numpy(value) for value in (u, odd, radius)))
    assert tensor == pytest.approx((noise, dof))


def test_noise_from_too_few_differences_is_unknown():
    noise, dof = difference_noise(draw_directions("sphere", 3, 3, 0), np.ones(3), 1.0)
    assert math.isnan(noise)
    assert dof == 0


# Even parts --------------------------------------------------------------------------------------


def even_data(seed, n, d, sigma=0.3, kind="sphere"):
    rng = rng_of(seed)
    u = draw_pair_directions(kind, n, d, seed)
    radius = np.where(np.arange(n) % 2, 0.7, 1.4)
    a = random_symmetric(rng, d)
    even = 5 + radius**2 / 2 * np.einsum("ni,ij,nj->n", u, a, u)
    return u, even + sigma / math.sqrt(2) * rng.standard_normal(n), radius, a


def family(kind, d):
    """Basis matrices of a family, built entry by entry."""
    if kind == "none":
        return [np.eye(d)]
    if kind == "diag":
        return [np.diag(row) for row in np.eye(d)]
    matrices = []
    for i in range(d):
        for j in range(i, d):
            matrix = np.zeros((d, d))
            matrix[i, j] = matrix[j, i] = 1
            matrices.append(matrix)
    return matrices


def dense_ridge(u, even, radius, noise, kind, center, center_precision, prior, prior_precision):
    """The same regression with the whole design, and the prior as more observations."""
    n, d = u.shape
    basis = family(kind, d)
    noise = np.broadcast_to(noise, (n,))
    rows = [
        [1.0] + [radius[i] ** 2 / 2 * u[i] @ matrix @ u[i] for matrix in basis] for i in range(n)
    ]
    precision = [2 / s**2 for s in noise]
    target = list(even)
    rows.append([1.0] + [0.0] * len(basis))
    precision.append(center_precision)
    target.append(center)
    for i in range(d):
        for j in range(d):
            rows.append([0.0] + [matrix[i, j] for matrix in basis])
            precision.append(prior_precision)
            target.append(prior[i, j])
    x, w, y = np.array(rows), np.array(precision), np.array(target)
    covariance = np.linalg.inv(x.T @ (w[:, None] * x))
    solution = covariance @ x.T @ (w * y)
    matrix = sum(value * m for value, m in zip(solution[1:], basis, strict=True))
    jacobian = np.array([m.ravel() for m in basis])
    variance = np.einsum("pe,pq,qe->e", jacobian, covariance[1:, 1:], jacobian)
    hat = np.einsum("np,pq,nq,n->n", x[:n], covariance, x[:n], w[:n])
    residual = y[:n] - x[:n] @ solution
    return {
        "constant": solution[0],
        "constant_std": math.sqrt(covariance[0, 0]),
        "matrix": matrix,
        "entry_std": np.sqrt(variance).reshape(d, d),
        "dof": n - hat.sum(),
        "chi": np.sum(w[:n] * residual**2),
        "kurtosis": np.mean((w[:n] * residual**2) ** 2) / np.mean(w[:n] * residual**2) ** 2,
    }


@pytest.mark.parametrize("kind", ["full", "diag", "none"])
@pytest.mark.parametrize(("n", "d"), [(40, 3), (30, 1), (9, 4), (60, 5)])
@pytest.mark.parametrize("told", [False, True])
def test_fits_are_those_of_the_dense_regression(kind, n, d, told):
    u, even, radius, _ = even_data(22, n, d)
    rng = rng_of(23)
    noise = rng.uniform(0.2, 0.6, n) if told else 0.3
    prior = random_symmetric(rng, d)
    expected = dense_ridge(u, even, radius, noise, kind, 4.8, 20.0, prior, 2.5)
    for u_, even_, radius_ in both_libraries(u, even, radius):
        got = fit_even(
            u_,
            even_,
            radius_,
            noise=noise,
            center=4.8,
            center_precision=20.0,
            prior=prior,
            prior_precision=2.5,
            hessian=kind,
        )
        np.testing.assert_allclose(got.matrix, expected["matrix"], atol=1e-11)
        np.testing.assert_array_equal(got.matrix, got.matrix.T)
        np.testing.assert_allclose(got.entry_std, expected["entry_std"], atol=1e-12)
        for name in ("constant", "constant_std", "dof", "kurtosis"):
            assert getattr(got, name) == pytest.approx(expected[name], rel=1e-9)
        mean_weight = np.mean(2 / np.broadcast_to(noise, (n,)) ** 2)
        square = expected["chi"] / expected["dof"] * 2 / mean_weight
        assert got.noise == pytest.approx(math.sqrt(square), rel=1e-9)
        assert got.count == n
        off = ~np.eye(d, dtype=bool)
        typical = expected["entry_std"][off if kind == "full" and d > 1 else ~off]
        assert got.std == pytest.approx(math.sqrt(np.mean(typical**2)), rel=1e-9)


def test_without_a_prior_it_is_least_squares():
    u, even, radius, _ = even_data(24, 60, 4)
    design = np.array(
        [
            [1.0, *(r**2 / 2 * x @ m @ x for m in family("full", 4))]
            for r, x in zip(radius, u, strict=True)
        ]
    )
    expected = np.linalg.lstsq(design, even, rcond=None)[0]
    got = fit_even(u, even, radius, noise=7.0)
    assert got.constant == pytest.approx(expected[0], rel=1e-11)
    np.testing.assert_allclose(got.matrix[np.triu_indices(4)], expected[1:], atol=1e-11)
    assert got.dof == pytest.approx(60 - 11)


@pytest.mark.parametrize("kind", ["full", "diag", "lowrank:2"])
@pytest.mark.parametrize("robust", [False, True])
def test_fits_do_not_depend_on_the_size_of_pieces(kind, robust, monkeypatch):
    u, even, radius, _ = even_data(25, 200, 4)
    whole = fit_even(u, even, radius, noise=0.3, hessian=kind, robust=robust)
    monkeypatch.setattr(arrays, "_CHUNK_ENTRIES", 70)
    monkeypatch.setattr(arrays, "_CHUNK_ROWS_MIN", 1)
    pieces = fit_even(u, even, radius, noise=0.3, hessian=kind, robust=robust)
    np.testing.assert_allclose(pieces.matrix, whole.matrix, rtol=1e-8, atol=1e-10)
    assert pieces.noise == pytest.approx(whole.noise, rel=1e-9)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_quadratics_without_noise_come_out_exactly(robust, offset):
    u, even, radius, a = even_data(26, 60, 5, sigma=0.0)
    got = fit_even(u, even + offset, radius, noise=0.1, robust=robust)
    tolerance = 1e-9 if offset == 0 else 1e-5
    np.testing.assert_allclose(got.matrix, a, atol=tolerance)
    assert got.constant == pytest.approx(5 + offset, abs=tolerance)
    assert got.noise < tolerance


def test_the_fit_turns_with_the_directions():
    # Also with a prior: its energy is a Frobenius norm.
    u, even, radius, _ = even_data(27, 12, 4)
    turn = np.linalg.qr(rng_of(27).standard_normal((4, 4)))[0]
    prior = random_symmetric(rng_of(28), 4)
    options = {"noise": 0.3, "prior_precision": 3.0, "center": 5.0, "center_precision": 2.0}
    fixed = fit_even(u, even, radius, prior=prior, **options)
    turned = fit_even(u @ turn, even, radius, prior=turn.T @ prior @ turn, **options)
    np.testing.assert_allclose(turned.matrix, turn.T @ fixed.matrix @ turn, atol=1e-11)
    assert turned.noise == pytest.approx(fixed.noise)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e5])
def test_the_fit_scales_with_the_values(factor):
    u, even, radius, _ = even_data(29, 50, 3)
    options = {"center": 5.0, "center_precision": 2.0, "prior_precision": 3.0}
    one = fit_even(u, even, radius, noise=0.3, **options)
    for key in ("center_precision", "prior_precision"):
        options[key] /= factor**2
    options["center"] *= factor
    other = fit_even(u, factor * even, radius, noise=0.3 * factor, **options)
    np.testing.assert_allclose(other.matrix, factor * one.matrix, rtol=1e-10, atol=0)
    np.testing.assert_allclose(other.entry_std, factor * one.entry_std, rtol=1e-10)
    assert other.noise == pytest.approx(factor * one.noise)
    assert other.kurtosis == pytest.approx(one.kurtosis)


def test_what_nothing_determines_stays_at_the_prior():
    u, even, radius, _ = even_data(30, 6, 4)
    prior = random_symmetric(rng_of(30), 4)
    got = fit_even(u, even, radius, noise=0.3, prior=prior)
    assert np.isinf(got.entry_std).all()
    assert math.isinf(got.std)
    assert math.isnan(got.noise)
    # It explains the values, and moves the prior no more than it must (in units of the design).
    fitted = got.constant + radius**2 / 2 * np.einsum("ni,ij,nj->n", u, got.matrix, u)
    np.testing.assert_allclose(fitted, even, atol=1e-9)
    assert np.linalg.norm(got.matrix - prior) < 10


def test_coordinate_directions_know_only_the_diagonal():
    u, even, radius, a = even_data(31, 24, 4, sigma=0.0, kind="coordinate")
    prior = np.full((4, 4), 9.0)
    got = fit_even(u, even, radius, noise=0.3, prior=prior)
    diagonal = np.eye(4, dtype=bool)
    np.testing.assert_allclose(got.matrix[diagonal], np.diag(a), atol=1e-9)
    np.testing.assert_allclose(got.matrix[~diagonal], 9, rtol=1e-12)
    assert np.isinf(got.entry_std[~diagonal]).all()
    assert np.isfinite(got.entry_std[diagonal]).all()
    assert math.isinf(got.std)
    assert math.isfinite(got.constant_std)


def test_rademacher_directions_do_not_know_the_diagonal():
    u, even, radius, a = even_data(32, 40, 4, sigma=0.0, kind="rademacher")
    got = fit_even(u, even, radius, noise=0.3)
    diagonal = np.eye(4, dtype=bool)
    np.testing.assert_allclose(got.matrix[~diagonal], a[~diagonal], atol=1e-9)
    assert np.trace(got.matrix) == pytest.approx(np.trace(a))
    assert np.isinf(got.entry_std[diagonal]).all()
    assert np.isfinite(got.entry_std[~diagonal]).all()


def test_one_radius_needs_to_know_the_center():
    u, even, _, a = even_data(33, 60, 3, sigma=0.0)
    even = 5 + 0.5 * np.einsum("ni,ij,nj->n", u, a, u)
    open_fit = fit_even(u, even, 1.0, noise=0.1)
    assert math.isinf(open_fit.constant_std)
    assert np.isinf(np.diag(open_fit.entry_std)).all()
    assert np.isfinite(open_fit.std)
    known = fit_even(u, even, 1.0, noise=0.1, center=5.0, center_precision=100.0)
    np.testing.assert_allclose(known.matrix, a, atol=1e-9)
    assert known.constant_std == pytest.approx(0.1, rel=0.05)


def test_a_certain_prior_wins():
    u, even, radius, _ = even_data(34, 50, 3)
    prior = random_symmetric(rng_of(34), 3)
    got = fit_even(u, even, radius, noise=0.3, prior=prior, prior_precision=1e12)
    np.testing.assert_allclose(got.matrix, prior, atol=1e-6)
    assert got.std == pytest.approx(1e-6 / math.sqrt(2), rel=1e-3)
    assert got.dof == pytest.approx(49, abs=1e-3)


@pytest.mark.parametrize("kind", ["full", "diag", "none", "lowrank:2"])
def test_standard_deviations_are_those_of_repetitions(kind):
    d, n, sigma, repeats = 3, 40, 0.5, 600
    truth = {
        "full": np.array([[2.0, 0.5, 0], [0.5, 1, -0.3], [0, -0.3, 3]]),
        "diag": np.diag([2.0, 1, 3]),
        "none": 2.0 * np.eye(d),
        "lowrank:2": 2.0 * np.eye(d),
    }[kind]
    rng = rng_of(35)
    entries, constants, noises = [], [], []
    for u in draw_directions("sphere", repeats * n, d, 36).reshape(repeats, n, d):
        radius = np.where(np.arange(n) % 4 < 2, 0.7, 1.4)
        even = 1 + radius**2 / 2 * np.einsum("ni,ij,nj->n", u, truth, u)
        even += sigma / math.sqrt(2) * rng.standard_normal(n)
        center = 1 + 0.2 * rng.standard_normal()
        got = fit_even(
            u, even, radius, noise=sigma, center=center, center_precision=25.0, hessian=kind
        )
        known = got.entry_std > 0
        entries.append(((got.matrix - truth)[known] / got.entry_std[known]) ** 2)
        constants.append(((got.constant - 1) / got.constant_std) ** 2)
        # The center adds information, but no residual of its own, to the estimate of the noise.
        noises.append(got.noise**2)
    for place in range(len(entries[0])):
        close_to([entry[place] for entry in entries], 1)
    close_to(constants, 1)
    assert np.mean(noises) == pytest.approx(sigma**2, rel=0.08)


def test_noise_from_residuals_is_unbiased():
    d, n = 3, 20
    rng = rng_of(37)
    squares = []
    for u in draw_directions("sphere", 1000 * n, d, 38).reshape(1000, n, d):
        radius = np.where(np.arange(n) % 2, 0.7, 1.4)
        even = 1 + radius**2 * (u @ np.array([1.0, 2, 0])) ** 2
        even += 0.5 / math.sqrt(2) * rng.standard_normal(n)
        # What it assumes about the noise plays no part.
        squares.append(fit_even(u, even, radius, noise=3.0).noise ** 2)
    close_to(squares, 0.25)


def test_kurtosis_tells_heavy_tails():
    u, even, radius, _ = even_data(39, 20_000, 2)
    # Of n normal residuals the kurtosis has standard error √(24/n).
    normal = fit_even(u, even, radius, noise=0.3).kurtosis
    assert normal == pytest.approx(3, abs=SIGMAS * math.sqrt(24 / 20_000))
    even = even + 0.2 * rng_of(39).standard_t(2, len(even))
    assert fit_even(u, even, radius, noise=0.3).kurtosis > 10
    silent = fit_even(u[:8], np.zeros(8), radius[:8], noise=0.3)
    assert math.isnan(silent.kurtosis)


@pytest.mark.parametrize("size", [1e-100, 1e-150, 1e100])
def test_kurtosis_does_not_depend_on_the_size_of_residuals(size):
    # Squares of squares of rounding errors of an exact function underflow to 0.
    u, even, radius, _ = even_data(39, 200, 2)
    one = fit_even(u, even, radius, noise=0.3).kurtosis
    assert fit_even(u, size * even, radius, noise=0.3).kurtosis == pytest.approx(one)


@pytest.mark.parametrize(("kind", "d"), [("full", 15), ("diag", 30), ("lowrank:8", 8)])
def test_the_spectral_factor_is_that_of_pure_noise(kind, d):
    rng = rng_of(40)
    ratios = []
    for repeat in range(20):
        n = 3000
        u = draw_directions("sphere", n, d, 41, repeat)
        radius = np.where(np.arange(n) % 4 < 2, 0.7, 1.4)
        even = 0.3 / math.sqrt(2) * rng.standard_normal(n)
        got = fit_even(u, even, radius, noise=0.3, hessian=kind)
        ratios.append(np.linalg.norm(got.matrix, 2) / (got.spectral_factor * got.std))
    assert 0.75 < np.mean(ratios) < 1.25


def test_wild_values_have_no_say_in_a_robust_fit():
    u, even, radius, a = even_data(42, 2000, 4)
    wild = even.copy()
    wild[::17] += 1e6
    clean = fit_even(u, even, radius, noise=0.3)
    plain = fit_even(u, wild, radius, noise=0.3)
    robust = fit_even(u, wild, radius, noise=0.3, robust=True)
    assert np.abs(plain.matrix - a).max() > 1e3
    assert np.abs(robust.matrix - a).max() < 3 * np.abs(clean.matrix - a).max() + 0.05
    assert robust.noise == pytest.approx(0.3, rel=0.25)
    assert fit_even(u, even, radius, noise=0.3, robust=True).noise == pytest.approx(0.3, rel=0.15)


def test_a_robust_fit_minimises_hubers_loss():
    from scipy.optimize import minimize

    rng = rng_of(43)
    u, even, radius, _ = even_data(43, 80, 2)
    even = even + 0.5 * rng.standard_t(1.5, 80)
    prior = np.array([[1.0, 0.2], [0.2, -1]])
    got = fit_even(
        u,
        even,
        radius,
        noise=0.3,
        center=4.9,
        center_precision=4.0,
        prior=prior,
        prior_precision=0.7,
        robust=True,
    )

    def residuals(unknown):
        c, a, b, e = unknown
        quadratic = a * u[:, 0] ** 2 + 2 * b * u[:, 0] * u[:, 1] + e * u[:, 1] ** 2
        return (even - c - radius**2 / 2 * quadratic) * math.sqrt(2) / 0.3

    found = np.array([got.constant, got.matrix[0, 0], got.matrix[0, 1], got.matrix[1, 1]])
    bound = 1.345 * 1.4826 * np.median(np.abs(residuals(found)))

    def loss(unknown):
        size = np.abs(residuals(unknown))
        huber = np.where(size <= bound, size**2 / 2, bound * (size - bound / 2))
        c, a, b, e = unknown
        ridge = 4.0 * (c - 4.9) ** 2 / 2
        ridge += 0.7 * ((a - 1) ** 2 + 2 * (b - 0.2) ** 2 + (e + 1) ** 2) / 2
        return huber.sum() + ridge

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(found, best.x, atol=1e-4)


def test_low_rank_finds_strong_directions():
    d, n = 12, 20_000
    axes = np.linalg.qr(rng_of(44).standard_normal((d, 2)))[0]
    truth = np.eye(d) + axes @ np.diag([9.0, -6]) @ axes.T
    u = draw_directions("sphere", n, d, 45)
    radius = np.where(np.arange(n) % 4 < 2, 0.7, 1.4)
    even = 2 + radius**2 / 2 * np.einsum("ni,ij,nj->n", u, truth, u)
    even += 0.1 * rng_of(45).standard_normal(n)
    got = fit_even(u, even, radius, noise=0.1 * math.sqrt(2), hessian="lowrank:2")
    values = np.linalg.eigvalsh(got.matrix)
    assert values[0] == pytest.approx(-5, abs=0.5)
    assert values[-1] == pytest.approx(10, abs=0.5)
    np.testing.assert_allclose(values[1:-1], values[1], atol=1e-9)
    assert values[1] == pytest.approx(1, abs=0.2)
    assert np.linalg.norm(got.matrix - truth, 2) < 1.5
    tensor = fit_even(
        *(torch.from_numpy(x) for x in (u, even, radius)), noise=0.1, hessian="lowrank:2"
    )
    np.testing.assert_allclose(tensor.matrix, got.matrix, atol=1e-8)


@pytest.mark.parametrize("robust", [False, True])
def test_low_rank_of_full_rank_is_a_full_fit_of_the_other_half(robust):
    u, even, radius, _ = even_data(46, 80, 3)
    options = {"noise": 0.3, "prior": np.eye(3), "prior_precision": 2.0, "robust": robust}
    # With a given center, since the mean of half of the values is another one.
    options |= {"center": 5.0, "center_precision": 9.0}
    low = fit_even(u, even, radius, hessian="lowrank:3", **options)
    full = fit_even(u[1::2], even[1::2], radius[1::2], **options)
    np.testing.assert_allclose(low.matrix, full.matrix, atol=1e-6 if robust else 1e-11)
    np.testing.assert_allclose(low.entry_std, full.entry_std, atol=1e-11)
    assert low.count == 40


def test_low_rank_keeps_a_prior_direction_that_the_pairs_do_not_see():
    u, even, radius, _ = even_data(47, 10, 6, sigma=1.0)
    prior = np.diag([50.0, 1, 1, 1, 1, 1])
    got = fit_even(
        u, even, radius, noise=1.0, prior=prior, prior_precision=1e6, hessian="lowrank:1"
    )
    np.testing.assert_allclose(got.matrix, prior, atol=0.1)


def test_wrong_calls_of_the_fit_are_named():
    u, even, radius, _ = even_data(48, 10, 3)
    with pytest.raises(ValueError, match="no pairs"):
        fit_even(u[:0], even[:0], radius[:0], noise=1.0)
    with pytest.raises(ValueError, match=r"noise must be positive, got 0\.0"):
        fit_even(u, even, radius, noise=0.0)
    with pytest.raises(ValueError, match=r"\"lowrank:k\", got 'half'"):
        fit_even(u, even, radius, noise=1.0, hessian="half")
    for rank in ("0", "4", "-1", "two", ""):
        with pytest.raises(ValueError, match="an integer from 1 to 3"):
            fit_even(u, even, radius, noise=1.0, hessian=f"lowrank:{rank}")
    with pytest.raises(ValueError, match=r"prior must be \(3, 3\), got \(2, 2\)"):
        fit_even(u, even, radius, noise=1.0, prior=np.eye(2))
    with pytest.raises(ValueError, match=r"precisions must not be negative.*-1"):
        fit_even(u, even, radius, noise=1.0, prior_precision=-1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["full", "diag", "none", "lowrank:2"])
def test_a_gpu_gives_the_same_statistics(kind):
    u, even, radius, _ = even_data(49, 5000, 6)
    device = [torch.from_numpy(value).cuda() for value in (u, even, radius)]
    host = fit_even(u, even, radius, noise=0.3, hessian=kind)
    there = fit_even(*device, noise=0.3, hessian=kind)
    np.testing.assert_allclose(there.matrix, host.matrix, atol=1e-9)
    for estimator in ("mean", "least-squares", "median-of-means"):
        mean = odd_gradient(u, even, radius, estimator=estimator).mean
        np.testing.assert_allclose(odd_gradient(*device, estimator=estimator).mean, mean, atol=1e-9)
