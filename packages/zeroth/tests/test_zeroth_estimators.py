import math

import numpy as np
import pytest
import torch
from scipy import stats

from modicum.zeroth import arrays, estimators, theory
from modicum.zeroth.directions import KINDS, draw_pair_directions
from modicum.zeroth.estimators import (
    coordinate_gradient,
    gradient,
    hessian,
    hessian_lipschitz,
    noise_std,
    pair_quadratic,
)

# Statistical tests compare at 6.5 standard errors: error probability 8e-11 each.
SIGMAS = 6.5


def close_to(samples, expected):
    samples = np.asarray(samples, dtype=float)
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert error > 0
    assert abs(samples.mean() - expected) < SIGMAS * error, (samples.mean(), expected, error)


class Counted:
    """A function that counts the points at which it was evaluated."""

    def __init__(self, fun):
        self.fun = fun
        self.points = 0

    def __call__(self, x):
        self.points += len(x) if x.ndim == 2 else 1
        return self.fun(x)


def quadratic(seed, d):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((d, d))
    a = a @ a.T / d + np.eye(d)
    b, x = rng.standard_normal(d), rng.standard_normal(d)

    def fun(points):
        if isinstance(points, torch.Tensor):
            matrix, linear = (points.new_tensor(value) for value in (a, b))
            return ((points @ matrix) * points).sum(-1) / 2 + points @ linear + 3
        return np.sum((points @ a) * points, axis=-1) / 2 + points @ b + 3

    return fun, x, a @ x + b, a


def noisy(fun, sigma, seed):
    rng = np.random.default_rng(seed)
    return lambda x: fun(x) + sigma * rng.standard_normal(x.shape[:-1])


# gradient ----------------------------------------------------------------------------------------


def test_the_estimate_is_the_mean_over_the_pairs_it_returns():
    fun, x, _, _ = quadratic(0, 4)
    shape = np.random.default_rng(1).standard_normal((4, 4))
    got = gradient(fun, x, shape, 25, rng=3, vectorized=True)
    z_u = got.directions @ shape.T
    singles = 4 / 2 * (fun(x + z_u) - fun(x - z_u))[:, None] * got.directions
    np.testing.assert_allclose(got.value, singles.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(shape.T @ got.gradient, got.value, atol=1e-12)
    np.testing.assert_allclose(got.even_part, (fun(x + z_u) + fun(x - z_u)) / 2)
    assert got.cov_trace == pytest.approx(np.trace(np.cov(singles.T)) / 25)
    np.testing.assert_allclose(np.linalg.norm(got.directions, axis=1), 1)


@pytest.mark.parametrize("kind", ["orthogonal", "coordinate"])
@pytest.mark.parametrize("form", ["scalar", "symmetric", "general"])
def test_complete_blocks_find_the_gradient_of_a_quadratic_exactly(kind, form):
    fun, x, exact, a = quadratic(2, 5)
    shape = {"scalar": 0.3, "symmetric": a, "general": np.triu(a) + 0.1}[form]
    got = gradient(fun, x, shape, 15, directions=kind, rng=0, vectorized=True)
    matrix = shape * np.eye(5) if form == "scalar" else shape
    np.testing.assert_allclose(got.value, matrix.T @ exact, atol=1e-12)
    np.testing.assert_allclose(got.gradient, exact, atol=1e-11)
    assert got.cov_trace < 1e-24


@pytest.mark.parametrize("estimator", ["mean", "least-squares", "median-of-means"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_estimator_is_right_on_a_quadratic(kind, estimator):
    fun, x, exact, _ = quadratic(4, 3)
    got = gradient(fun, x, 0.5, 3000, directions=kind, estimator=estimator, rng=5, vectorized=True)
    bound = 1e-11 if estimator == "least-squares" else 0.15 * np.linalg.norm(exact)
    assert np.linalg.norm(got.gradient - exact) < bound
    assert got.directions.shape == (3000, 3)


@pytest.mark.parametrize(("kind", "extra"), [("sphere", 0), ("rademacher", 0), ("gaussian", 2)])
def test_the_covariance_on_quadratics_is_the_exact_formula(kind, extra):
    d, n, sigma, repeats = 4, 5, 0.8, 800
    fun, x, exact, _ = quadratic(6, d)
    shape = 0.3 * np.array([[1, 0.2, 0, 0], [0.5, 2, 0, 1], [0, 0, 1, 0], [0, 0.3, 0, 1]])
    target = shape.T @ exact
    fun = noisy(fun, sigma, 7)
    got = [
        gradient(fun, x, shape, n, directions=kind, rng=k, vectorized=True) for k in range(repeats)
    ]
    expected = ((d - 1 + extra) * target @ target + d**2 * sigma**2 / 2) / n
    if not extra:
        norm = float(np.linalg.norm(target))
        assert expected == pytest.approx(
            theory.quadratic_variance(dimension=d, gradient_norm=norm, noise=sigma, pairs=n)
        )
    close_to([np.sum((g.value - target) ** 2) for g in got], expected)
    close_to([g.cov_trace for g in got], expected)
    for component in range(d):
        close_to([g.value[component] for g in got], target[component])


@pytest.mark.parametrize("kind", ["orthogonal", "coordinate"])
def test_complete_blocks_have_the_variance_of_the_noise(kind):
    d, n, sigma = 3, 6, 0.8
    fun, x, exact, _ = quadratic(8, d)
    fun = noisy(fun, sigma, 9)
    got = [gradient(fun, x, 2.0, n, directions=kind, rng=k, vectorized=True) for k in range(800)]
    expected = d**2 * sigma**2 / (2 * n)
    assert expected == pytest.approx(theory.orthogonal_variance(dimension=d, noise=sigma, pairs=n))
    close_to([np.sum((g.value - 2 * exact) ** 2) for g in got], expected)
    close_to([g.cov_trace for g in got], expected)


def steepest_cubic(rho, d):
    return lambda x: rho / math.sqrt(d) * (x[:, 0] * np.sum(x**2, 1) / 2 - x[:, 0] ** 3 / 3)


def separable_cubic(rho, d):
    return lambda x: rho / 6 * np.sum(x**3, axis=1)


def check_bias(cubic, d, n, kind="sphere"):
    rho, radius = 2.0, 1.5
    got = gradient(cubic(rho, d), np.zeros(d), radius, n, directions=kind, rng=10, vectorized=True)
    bound = theory.bias_bound(dimension=d, hessian_lipschitz=rho, radius=radius)
    # The error of the norm is at most the norm of the error, of mean square cov_trace; its
    # component along the bias, which is what counts, is within SIGMAS deviations.
    assert abs(np.linalg.norm(got.value) - bound) < SIGMAS * math.sqrt(got.cov_trace) + 1e-12
    return np.linalg.norm(got.value), bound


@pytest.mark.parametrize("cubic", [steepest_cubic, separable_cubic])
@pytest.mark.parametrize("d", [1, 2, 10])
@pytest.mark.parametrize("kind", ["sphere", "orthogonal"])
def test_two_cubics_attain_the_bound_on_the_bias(cubic, d, kind):
    check_bias(cubic, d, 20_000, kind)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "published"), [(2, 1.19324), (10, 0.88939)])
def test_the_bound_is_attained_at_two_million_pairs(d, published):
    measured, bound = check_bias(steepest_cubic, d, 2_000_000)
    assert bound == pytest.approx(published, abs=5e-6)
    assert measured == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("d", [2, 5])
def test_other_directions_can_have_more_bias(d):
    rho, radius = 2.0, 1.5
    bound = theory.bias_bound(dimension=d, hessian_lipschitz=rho, radius=radius)

    def bias(kind, cubic, n):
        got = gradient(
            cubic(rho, d), np.zeros(d), radius, n, directions=kind, rng=10, vectorized=True
        )
        return np.linalg.norm(got.value), SIGMAS * math.sqrt(got.cov_trace) + 1e-12

    value, error = bias("gaussian", steepest_cubic, 100_000)
    assert abs(value - (1 + 2 / d) * bound) < error < 2 / d * bound
    value, error = bias("rademacher", steepest_cubic, 100_000)
    factor = (d - 2 / 3) * (d + 2) / d**2
    assert abs(value - factor * bound) < error < (factor - 1) * bound
    # One block knows all of it.
    value, _ = bias("coordinate", separable_cubic, d)
    assert value == pytest.approx((d + 2) / 3 * bound)


def test_the_variance_bound_holds_where_third_derivatives_are_large():
    d, n, sigma, rho, radius = 3, 4, 0.5, 6.0, 1.2
    fun = noisy(separable_cubic(rho, d), sigma, 11)
    got = [gradient(fun, np.zeros(d), radius, n, rng=k, vectorized=True).value for k in range(1000)]
    bound = theory.variance_bound(
        dimension=d,
        hessian_lipschitz=rho,
        radius=radius,
        noise=sigma,
        gradient_norm=0.0,
        pairs=n,
    )
    assert np.trace(np.cov(np.array(got).T)) < bound


@pytest.mark.parametrize("kind", KINDS)
def test_calls_evaluations_and_libraries_do_not_matter(kind):
    fun, x, _, _ = quadratic(12, 3)
    options = {"directions": kind, "rng": 13}
    counted = [Counted(fun) for _ in range(4)]
    got = [
        gradient(counted[0], x, 0.4, 7, **options),
        gradient(counted[1], x, 0.4, 7, vectorized=True, **options),
        gradient(counted[2], torch.from_numpy(x), 0.4, 7, **options),
        gradient(counted[3], torch.from_numpy(x), 0.4, 7, vectorized=True, **options),
    ]
    for one, count in zip(got, counted, strict=True):
        assert one.nfev == count.points == 14
        assert isinstance(one.value, np.ndarray)
        np.testing.assert_allclose(one.value, got[0].value, atol=1e-12)
        assert one.cov_trace == pytest.approx(got[0].cov_trace, abs=1e-12)
    assert isinstance(got[3].directions, torch.Tensor)
    assert isinstance(got[3].even_part, torch.Tensor)
    np.testing.assert_allclose(got[3].directions.numpy(), got[0].directions, atol=1e-12)


def test_pieces_do_not_matter(monkeypatch):
    fun, x, _, _ = quadratic(14, 3)
    whole = gradient(fun, x, 0.4, 100, rng=1, vectorized=True)
    count = hessian(fun, x, 0.4, 3, vectorized=True)
    monkeypatch.setattr(arrays, "_CHUNK_ENTRIES", 50)
    monkeypatch.setattr(arrays, "_CHUNK_ROWS_MIN", 1)
    pieces = gradient(fun, x, 0.4, 100, rng=1, vectorized=True)
    np.testing.assert_array_equal(pieces.directions, whole.directions)
    np.testing.assert_allclose(pieces.value, whole.value, rtol=1e-12)
    again = hessian(fun, x, 0.4, 3, vectorized=True)
    np.testing.assert_array_equal(again.raw, count.raw)
    assert again.nfev == count.nfev


def test_seeds_and_generators():
    fun, x, _, _ = quadratic(15, 3)
    draw = lambda rng: gradient(fun, x, 0.4, 5, rng=rng).directions  # noqa: E731
    np.testing.assert_array_equal(draw(4), draw(4))
    np.testing.assert_array_equal(draw(np.random.default_rng(4)), draw(np.random.default_rng(4)))
    generator = np.random.default_rng(4)
    assert not np.array_equal(draw(generator), draw(generator))
    assert not np.array_equal(draw(None), draw(None))
    assert not np.array_equal(draw(4), draw(5))
    np.testing.assert_array_equal(draw(np.int64(4)), draw(np.int64(4)))


def test_points_have_the_type_of_x():
    seen = []

    def fun(points):
        seen.append(points.dtype)
        return points.sum(-1)

    gradient(fun, np.zeros(2, dtype=np.float32), 1.0, 3, rng=0, vectorized=True)
    gradient(fun, np.zeros(2, dtype=int), 1.0, 3, rng=0, vectorized=True)
    gradient(fun, torch.zeros(2), 1.0, 3, rng=0)
    gradient(fun, [0, 0], 1.0, 3, rng=0)
    assert set(map(str, seen)) == {"float32", "float64", "torch.float32"}
    assert [str(seen[0]), str(seen[1]), str(seen[2])] == ["float32", "float64", "torch.float32"]


def test_a_singular_shape_has_a_value_and_no_gradient():
    fun, x, exact, _ = quadratic(16, 2)
    shape = np.diag([1.0, 0.0])
    got = gradient(fun, x, shape, 4, directions="orthogonal", rng=0)
    np.testing.assert_allclose(got.value, [exact[0], 0], atol=1e-12)
    assert np.isnan(got.gradient).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("vectorized", [False, True])
def test_pairs_with_a_bad_value_are_dropped_and_counted(bad, vectorized):
    fun, x, _, _ = quadratic(17, 3)

    def broken(points):
        return np.where(points[..., 0] > x[0] + 0.3, bad, fun(points))

    got = gradient(broken, x, 0.5, 40, rng=1, vectorized=vectorized)
    u = draw_directions_of(40, 3, 1)
    keep = np.abs(0.5 * u[:, 0]) <= 0.3
    assert 0 < got.dropped == 40 - keep.sum()
    np.testing.assert_array_equal(got.directions, u[keep])
    odd = fun(x + 0.5 * u[keep]) - fun(x - 0.5 * u[keep])
    np.testing.assert_allclose(got.value, (1.5 * odd[:, None] * u[keep]).mean(axis=0), atol=1e-12)
    assert got.nfev == 80


def draw_directions_of(n, d, seed):
    return draw_pair_directions("sphere", n, d, seed, "estimators", 0)


def test_nothing_finite_is_an_error():
    def fails(points):
        return np.full(points.shape[:-1], np.nan)

    x = np.zeros(2)
    with pytest.raises(ValueError, match="none of 5 pairs"):
        gradient(fails, x, 1.0, 5, rng=0)
    with pytest.raises(ValueError, match="none of 5 samples"):
        coordinate_gradient(fails, x, 1.0, 5)
    with pytest.raises(ValueError, match="none of 5 samples"):
        hessian(fails, x, 1.0, 5)
    with pytest.raises(ValueError, match="0 of 5 values are finite"):
        noise_std(fails, x, 5)


@pytest.mark.parametrize("vectorized", [False, True])
def test_values_of_a_wrong_kind_are_named(vectorized):
    x = np.zeros(2)

    def call(fun):
        return gradient(fun, x, 1.0, 3, rng=0, vectorized=vectorized)

    with pytest.raises(TypeError, match=r"fun must return (a )?real number"):
        call(lambda p: p.sum(-1) * 1j)
    with pytest.raises(TypeError, match=r"fun must return (a )?real number"):
        call(lambda p: np.array(["one"] * 6) if vectorized else "one")
    with pytest.raises(TypeError, match=r"fun must return (a )?real number"):
        call(lambda p: None)
    with pytest.raises(ValueError, match=r"\(6,\).*got \(5,\)" if vectorized else r"shape \(2,\)"):
        call(lambda p: p.sum(-1)[:5] if vectorized else p)
    with pytest.raises(ValueError, match=r"got \(6, 2\)" if vectorized else r"shape \(3,\)"):
        call(lambda p: p if vectorized else np.zeros(3))


def test_a_vectorised_function_may_return_a_list_and_a_scalar_one_an_array_of_one():
    x = np.array([1.0, 2])
    plain = gradient(lambda p: float(p.sum()), x, 1.0, 3, rng=0)
    listed = gradient(lambda p: list(p.sum(-1)), x, 1.0, 3, rng=0, vectorized=True)
    boxed = gradient(lambda p: p.sum(keepdims=True), x, 1.0, 3, rng=0)
    whole = gradient(lambda p: int(p.sum() > 3), x, 1.0, 3, rng=0)
    np.testing.assert_allclose(listed.value, plain.value)
    np.testing.assert_allclose(boxed.value, plain.value)
    assert np.isfinite(whole.value).all()


def test_wrong_arguments_are_named():
    fun, x, _, _ = quadratic(18, 2)
    cases = [
        (dict(x=np.zeros((2, 2))), ValueError, r"shape \(d,\).*\(2, 2\)"),
        (dict(x=np.zeros(0)), ValueError, r"shape \(d,\)"),
        (dict(x=np.array([0, np.nan])), ValueError, "finite real"),
        (dict(x=np.array([0, 1j])), ValueError, "finite real"),
        (dict(shape=0.0), ValueError, "shape must be positive"),
        (dict(shape=-1.0), ValueError, "shape must be positive"),
        (dict(shape=np.nan), ValueError, "shape must be positive"),
        (dict(shape=np.eye(3)), ValueError, r"matrix \(2, 2\)"),
        (dict(shape=np.full((2, 2), np.inf)), ValueError, "finite matrix"),
        (dict(n=0), ValueError, "n must be at least 1"),
        (dict(n=2.5), ValueError, "n must be an integer"),
        (dict(n="3"), TypeError, "n must be an integer"),
        (dict(directions="spheres"), ValueError, "did you mean 'sphere'"),
        (dict(estimator="mode"), ValueError, "estimator must be"),
        (dict(rng=-1), ValueError, "seed"),
    ]
    for change, error, message in cases:
        arguments = {"fun": fun, "x": x, "shape": 1.0, "n": 3, "rng": 0, **change}
        with pytest.raises(error, match=message):
            gradient(**arguments)


# coordinate_gradient -----------------------------------------------------------------------------


def test_coordinate_differences_are_exact_on_quadratics():
    fun, x, exact, _ = quadratic(19, 4)
    basis = np.linalg.qr(np.random.default_rng(20).standard_normal((4, 4)))[0]
    for given in (None, basis):
        for point in (x, torch.from_numpy(x)):
            counted = Counted(fun)
            got = coordinate_gradient(counted, point, 0.7, 3, basis=given, vectorized=True)
            np.testing.assert_allclose(got.gradient, exact, atol=1e-12)
            along = exact if given is None else basis.T @ exact
            np.testing.assert_allclose(got.components, along, atol=1e-12)
            assert got.nfev == counted.points == 2 * 4 * 3
            np.testing.assert_allclose(got.std, 0, atol=1e-12)
    assert np.isnan(coordinate_gradient(fun, x, 0.7, 1).std).all()


def test_coordinate_differences_have_the_exact_variance_and_bias():
    d, n, sigma, radius, rho = 2, 3, 0.6, 0.5, 4.0
    fun = noisy(separable_cubic(rho, d), sigma, 21)
    x = np.array([0.3, -1])
    bias = theory.coordinate_bias_bound(hessian_lipschitz=rho, radius=radius)
    variance = theory.coordinate_variance(noise=sigma, samples=n, radius=radius)
    assert variance == pytest.approx(sigma**2 / (2 * n * radius**2))
    got = [coordinate_gradient(fun, x, radius, n, vectorized=True) for _ in range(1500)]
    components = np.array([g.components for g in got])
    for k in range(d):
        exact = rho * x[k] ** 2 / 2 + bias
        close_to(components[:, k], exact)
        close_to((components[:, k] - exact) ** 2, variance)
        close_to([g.std[k] ** 2 for g in got], variance)
    close_to((components[:, 0] - components[:, 0].mean()) * components[:, 1], 0)


def test_coordinate_differences_drop_whole_pairs():
    values = iter([1.0, 2, np.nan, 10, 20, 30, 0, 0, 0, 4, np.inf, 6])
    got = coordinate_gradient(lambda _: next(values), np.zeros(2), 0.5, 3)
    # Points x + r e_1 thrice, x + r e_2 thrice, then the other sides.
    np.testing.assert_allclose(got.components, [1.5, (6 + 24) / 2])
    assert got.dropped == 2
    assert got.nfev == 12


def test_a_basis_must_be_orthonormal():
    fun, x, _, _ = quadratic(22, 2)
    for function in (coordinate_gradient, hessian):
        with pytest.raises(ValueError, match=r"orthonormal.*differs from I by 3"):
            function(fun, x, 1.0, 1, basis=np.diag([1.0, 2]))
        with pytest.raises(ValueError, match=r"shape \(2, 2\), got \(3, 3\)"):
            function(fun, x, 1.0, 1, basis=np.eye(3))
        with pytest.raises(ValueError, match="radius must be positive"):
            function(fun, x, 0.0, 1)
        with pytest.raises(ValueError, match="n must be at least 1"):
            function(fun, x, 1.0, 0)


# hessian -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 5])
def test_second_differences_are_exact_on_quadratics(d):
    fun, x, _, a = quadratic(23, d)
    basis = np.linalg.qr(np.random.default_rng(24).standard_normal((d, d)))[0]
    for given in (None, basis):
        for point in (x, torch.from_numpy(x)):
            counted = Counted(fun)
            got = hessian(counted, point, 0.7, 2, basis=given, vectorized=True)
            np.testing.assert_allclose(got.raw, a, atol=1e-11)
            np.testing.assert_array_equal(got.hessian, got.raw)
            assert got.nfev == counted.points == 2 * (2 * d**2 + 1)
            assert got.fun == pytest.approx(fun(x))
            assert got.noise < 1e-12
    once = hessian(fun, x, 0.7, 1)
    assert math.isnan(once.noise)
    assert np.isnan(once.entry_std).all()
    np.testing.assert_allclose(once.raw, a, atol=1e-11)


def test_the_floor_raises_small_eigenvalues_only():
    a = np.diag([3.0, 0.5, -2])
    got = hessian(lambda x: (x @ a * x).sum(-1) / 2, np.zeros(3), 0.5, 1, floor=1.0)
    np.testing.assert_allclose(got.hessian, np.diag([3.0, 1, 1]), atol=1e-12)
    np.testing.assert_allclose(got.raw, a, atol=1e-12)


@pytest.mark.parametrize("rotated", [False, True])
def test_second_differences_have_the_exact_covariance(rotated):
    d, n, sigma, radius, repeats = 3, 2, 0.3, 0.8, 1000
    fun, x, _, a = quadratic(25, d)
    fun = noisy(fun, sigma, 26)
    basis = np.linalg.qr(np.random.default_rng(27).standard_normal((d, d)))[0]
    basis = basis if rotated else np.eye(d)
    got = [hessian(fun, x, radius, n, basis=basis, vectorized=True) for _ in range(repeats)]
    unit = sigma**2 / (n * radius**4)
    covariance = theory.hessian_covariance(noise=sigma, samples=n, radius=radius)
    assert covariance == pytest.approx((6 * unit, 4 * unit, unit / 4))
    errors = np.array([basis.T @ (g.raw - a) @ basis for g in got])
    for k in range(d):
        close_to(errors[:, k, k], 0)
        close_to(errors[:, k, k] ** 2, 6 * unit)
        for other in range(k):
            close_to(errors[:, k, k] * errors[:, other, other], 4 * unit)
            close_to(errors[:, k, other] ** 2, unit / 4)
            close_to(errors[:, k, k] * errors[:, k, other], 0)
    close_to(errors[:, 0, 1] * errors[:, 0, 2], 0)
    total = (6 * d + d * (d - 1) / 4) * unit
    assert total == pytest.approx(
        theory.hessian_variance(dimension=d, noise=sigma, samples=n, radius=radius)
    )
    close_to([np.sum((g.raw - a) ** 2) for g in got], total)
    # What it says about itself.
    close_to([g.noise**2 for g in got], sigma**2)
    close_to([g.entry_std[0, 0] ** 2 for g in got], 6 * unit)
    close_to([g.entry_std[0, 1] ** 2 for g in got], unit / 4)


def test_second_differences_keep_the_bound_on_their_bias():
    rng = np.random.default_rng(28)
    d, radius = 4, 0.6
    bound = theory.hessian_bias_bound(dimension=d, hessian_lipschitz=1.0, radius=radius)
    assert bound == pytest.approx(math.sqrt(2) * d * radius / 3)
    for _ in range(20):
        # |t|³/6 along random axes has third derivatives that jump where the differences look.
        axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
        fun = lambda x, axes=axes: np.sum(np.abs(x @ axes) ** 3, axis=-1) / 6  # noqa: E731
        raw = hessian(fun, np.zeros(d), radius, 1, vectorized=True).raw
        assert 0 < np.linalg.norm(raw) < bound


def test_second_differences_drop_pairs_and_values():
    d, n = 2, 3
    values = np.ones((2 * d**2 + 1) * n)
    values[0] = np.nan  # the center
    values[n] = np.inf  # x + r e_1
    values[-1] = np.nan  # the last of the off-diagonal points
    stream = iter(values)
    got = hessian(lambda _: next(stream), np.zeros(d), 0.5, n)
    np.testing.assert_allclose(got.raw, 0, atol=1e-12)
    assert got.dropped == 3
    assert got.nfev == 27
    assert got.fun == 1


def test_standard_deviations_know_what_was_dropped():
    d, n, sigma, radius = 2, 6, 0.5, 1.0
    rng = np.random.default_rng(29)
    errors, stated = [], []
    for _ in range(700):
        values = sigma * rng.standard_normal((9, n))
        values[0, :3] = np.nan
        values[1, :4] = np.nan
        values[5, :2] = np.nan
        stream = iter(values.ravel())
        got = hessian(lambda _, stream=stream: next(stream), np.zeros(d), radius, n)
        errors.append(got.raw**2)
        stated.append(got.entry_std**2)
    for i, j in [(0, 0), (1, 1), (0, 1)]:
        close_to([e[i, j] for e in errors], np.mean([s[i, j] for s in stated]))


# pair_quadratic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["scalar", "general"])
@pytest.mark.parametrize("kind", ["sphere", "orthogonal", "gaussian"])
def test_pairs_find_a_quadratic(form, kind):
    fun, x, exact, a = quadratic(30, 4)
    shape = 0.5 if form == "scalar" else np.tril(a)
    counted = Counted(fun)
    got = pair_quadratic(
        counted,
        x,
        shape,
        64,
        directions=kind,
        estimator="least-squares",
        rng=1,
        vectorized=True,
    )
    np.testing.assert_allclose(got.hessian, a, atol=1e-7)
    np.testing.assert_allclose(got.gradient, exact, atol=1e-10)
    assert got.fun == pytest.approx(fun(x), abs=1e-7)
    assert got.nfev == counted.points == 2 * 64 + 6
    np.testing.assert_allclose(got.bias.slope, 0, atol=1e-10)
    tensor = pair_quadratic(
        fun,
        torch.from_numpy(x),
        shape,
        64,
        directions=kind,
        estimator="least-squares",
        rng=1,
        vectorized=True,
    )
    np.testing.assert_allclose(tensor.hessian, got.hessian, atol=1e-7)
    np.testing.assert_allclose(tensor.gradient, got.gradient, atol=1e-10)


@pytest.mark.parametrize("order", [3, 5])
def test_the_quadratic_model_knows_its_uncertainty(order):
    d, sigma = 3, 0.4
    fun, x, exact, a = quadratic(31, d)
    fun_exact = fun(x)
    fun = noisy(fun, sigma, 32)
    z_fun, z_hessian, errors, traces, noises, slopes, slope_traces = ([] for _ in range(7))
    for seed in range(250):
        got = pair_quadratic(fun, x, 0.8, 60, order=order, rng=seed, vectorized=True)
        z_fun.append(((got.fun - fun_exact) / got.fun_std) ** 2 * (got.noise / sigma) ** 2)
        error = got.even.matrix - 0.64 * a
        z_hessian.append(np.mean((error / got.even.entry_std) ** 2) * (got.noise / sigma) ** 2)
        errors.append(np.sum((got.odd.mean - 0.8 * exact) ** 2))
        traces.append(got.odd.cov_trace)
        noises.append(got.noise**2)
        slopes.append(got.bias.slope @ got.bias.slope)
        slope_traces.append(got.bias.cov_trace)
    close_to(z_fun, 1)
    close_to(z_hessian, 1)
    close_to(noises, sigma**2)
    close_to(np.array(errors) - traces, 0)
    close_to(np.array(slopes) - slope_traces, 0)


def test_higher_order_removes_the_bias_of_a_cubic():
    d, rho = 3, 2.0
    options = {"rng": 33, "vectorized": True, "directions": "orthogonal", "noise": 1.0}
    third = pair_quadratic(separable_cubic(rho, d), np.zeros(d), 1.0, 30_000, **options)
    fifth = pair_quadratic(separable_cubic(rho, d), np.zeros(d), 1.0, 30_000, order=5, **options)
    # Weights are the squared radii 1/2 and 2: the mean squared radius is 1.7.
    expected = 1.7 * rho / (2 * (d + 2))
    np.testing.assert_allclose(third.odd.mean, expected, atol=SIGMAS * third.odd.cov_trace**0.5)
    np.testing.assert_allclose(fifth.odd.mean, 0, atol=SIGMAS * fifth.odd.cov_trace**0.5)
    assert SIGMAS * fifth.odd.cov_trace**0.5 < expected / 3
    unit = rho / (2 * (d + 2))
    bound = SIGMAS * third.bias.cov_trace**0.5
    np.testing.assert_allclose(third.bias.slope, unit, atol=bound)


@pytest.mark.parametrize("kind", ["diag", "none", "lowrank:1"])
def test_smaller_families_of_hessians(kind):
    fun = lambda x: 2 * np.sum(x**2, axis=-1)  # noqa: E731
    got = pair_quadratic(fun, np.ones(3), 0.5, 80, hessian=kind, rng=2, vectorized=True)
    np.testing.assert_allclose(got.hessian, 4 * np.eye(3), atol=1e-6)


def test_what_few_pairs_leave_open_is_said():
    fun, x, exact, _ = quadratic(34, 5)
    got = pair_quadratic(fun, x, 0.5, 10, directions="orthogonal", rng=0, noise=0.1)
    np.testing.assert_allclose(got.gradient, exact, atol=1e-10)
    assert math.isinf(got.even.std)


def test_noise_comes_from_repeats_where_pairs_are_few():
    fun, x, _, _ = quadratic(35, 5)
    few = pair_quadratic(noisy(fun, 0.3, 36), x, 0.5, 4, center=400, rng=0, vectorized=True)
    assert few.noise == pytest.approx(0.3, rel=0.25)
    assert few.nfev == 408
    with pytest.raises(ValueError, match="give noise, more pairs or at least 2 evaluations"):
        pair_quadratic(fun, x, 0.5, 4, center=1, rng=0)
    alone = pair_quadratic(fun, x, 0.5, 60, center=0, rng=0, vectorized=True)
    assert alone.nfev == 120
    assert alone.fun == pytest.approx(fun(x), abs=1e-6)


def test_a_bad_center_value_is_dropped():
    fun, x, _, _ = quadratic(37, 2)
    calls = []

    def broken(points):
        at_center = np.all(points == x, axis=-1)
        calls.append(at_center.sum())
        value = fun(points)
        value[np.flatnonzero(at_center)[:3]] = np.nan
        return value

    got = pair_quadratic(broken, x, 0.5, 50, center=8, rng=0, vectorized=True)
    assert sum(calls) == 8
    assert got.dropped == 3
    assert got.fun == pytest.approx(fun(x), abs=1e-6)


def test_wrong_arguments_of_the_quadratic_are_named():
    fun, x, _, _ = quadratic(38, 2)
    for change, message in [
        (dict(n=1), "n must be at least 2"),
        (dict(center=-1), "center must be at least 0"),
        (dict(order=4), "order must be 3 or 5, got 4"),
        (dict(noise=0.0), "noise must be positive"),
        (dict(hessian="half"), "hessian must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            pair_quadratic(**{"fun": fun, "x": x, "shape": 1.0, "n": 20, "rng": 0, **change})


# noise_std ---------------------------------------------------------------------------------------


def test_noise_is_the_sample_standard_deviation():
    values = iter([1.0, 2, np.nan, 4, 7, np.inf])
    got = noise_std(lambda _: next(values), np.zeros(2), 6)
    assert got.std == pytest.approx(np.std([1, 2, 4, 7], ddof=1))
    assert got.mean == pytest.approx(3.5)
    assert (got.nfev, got.dropped) == (6, 2)


def test_noise_has_a_floor():
    assert noise_std(lambda x: -5e6, np.zeros(1), 3).std == pytest.approx(5e-3)
    assert noise_std(lambda x: 0.0, np.zeros(1), 3).std == pytest.approx(1e-9)


def test_noise_variance_is_unbiased_and_torch_agrees():
    fun = noisy(lambda x: x.sum(-1), 0.7, 39)
    got = [noise_std(fun, np.zeros(2), 5, vectorized=True).std ** 2 for _ in range(1000)]
    close_to(got, 0.49)
    counted = Counted(lambda x: x[:, 0] * 0 + torch.arange(len(x)))
    tensor = noise_std(counted, torch.zeros(2), 5, vectorized=True)
    assert tensor.std == pytest.approx(np.std(range(5), ddof=1))
    assert tensor.nfev == counted.points == 5
    with pytest.raises(ValueError, match="n must be at least 2"):
        noise_std(fun, np.zeros(2), 1)


# hessian_lipschitz -------------------------------------------------------------------------------


def test_the_constant_of_a_cubic_is_found():
    rho, d = 3.0, 4
    fun, x, _, _ = quadratic(40, d)
    cubic = separable_cubic(rho, d)
    counted = Counted(lambda p: fun(p) + cubic(p))
    got = hessian_lipschitz(counted, x, 1.0, [0.5, 1.0, 2.0], 4000, rng=1, vectorized=True)
    assert got.low < rho < got.high
    assert got.value == pytest.approx(rho, rel=0.1)
    assert got.nfev == counted.points == 3 * 8000
    # The shape's size is a change of units of the radii.
    scaled = hessian_lipschitz(counted, x, 2.0, [0.25, 0.5, 1.0], 4000, rng=1, vectorized=True)
    assert scaled.value == pytest.approx(got.value, rel=1e-9)
    assert scaled.low == pytest.approx(got.low, rel=1e-9)
    assert scaled.high == pytest.approx(got.high, rel=1e-9)


def test_slopes_are_those_of_a_regression_on_squared_radii():
    d = 2
    fun, x, _, _ = quadratic(41, d)
    cubic = separable_cubic(2.0, d)
    both = lambda p: fun(p) + cubic(p)  # noqa: E731
    radii, n = np.array([0.5, 1.0, 1.5]), 10
    got = hessian_lipschitz(both, x, 1.0, radii, n, rng=7, vectorized=True)
    means = []
    for stream, radius in enumerate(radii):
        u = draw_pair_directions("orthogonal", n, d, 7, "estimators", stream)
        odd = both(x + radius * u) - both(x - radius * u)
        means.append((d * odd[:, None] * u / (2 * radius)).mean(axis=0))
    for k in range(d):
        slope = np.polyfit(radii**2, [m[k] for m in means], 1, w=radii)[0]
        assert got.slope[k] == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("rho", [0.0, 1.0, 6.0])
def test_intervals_contain_the_constant_as_often_as_they_say(rho):
    d, sigma, confidence, trials = 3, 0.3, 0.7, 300
    fun = noisy(separable_cubic(rho, d), sigma, 42)
    x = np.array([0.5, -1, 2])
    got = [
        hessian_lipschitz(
            fun, x, 1.0, [0.4, 0.9], 12, confidence=confidence, rng=k, vectorized=True
        )
        for k in range(trials)
    ]
    below = sum(g.high < rho for g in got)
    above = sum(g.low > rho for g in got)
    # Both tails are equal; an interval never lies above a constant that is not there.
    tail = (1 - confidence) / 2
    low, high = stats.binom.interval(1 - 1e-9, trials, tail)
    assert low <= above <= high
    if rho > 0:
        assert low <= below <= high
    else:
        assert below == 0
    assert all(g.low <= g.high for g in got)


def test_intervals_are_those_of_normal_theory_where_variances_are_known():
    # 4 standard deviations from 0 in one dimension.
    low, high = estimators._norm_interval(16.0, 1.0, 1, np.inf, 0.95)
    half = stats.norm.ppf(0.975)
    # A square forgets the sign; the other sign's share is below 1e-9 here.
    assert (low, high) == pytest.approx((4 - half, 4 + half), abs=1e-6)
    # In three dimensions, with the non-central chi-square distribution.
    low, high = estimators._norm_interval(30.0, 3.0, 3, np.inf, 0.9)
    assert stats.ncx2.sf(30.0, 3, low**2) == pytest.approx(0.05, abs=1e-6)
    assert stats.ncx2.cdf(30.0, 3, high**2) == pytest.approx(0.05, abs=1e-6)


def test_intervals_far_from_zero_join_those_near_it():
    unit = 1 / math.sqrt(estimators._NONCENTRAL_MAX)
    below = estimators._norm_interval(1.0, 3 * (unit * 1.001) ** 2, 3, 50.0, 0.95)
    above = estimators._norm_interval(1.0, 3 * (unit * 0.999) ** 2, 3, 50.0, 0.95)
    for near, far in zip(below, above, strict=True):
        assert (near - 1) / unit == pytest.approx((far - 1) / unit, rel=0.01)
    assert estimators._norm_interval(4.0, 0.0, 3, 50.0, 0.95) == (2.0, 2.0)
    assert estimators._norm_interval(0.0, 1.0, 3, 50.0, 0.95) == (0.0, 0.0)


def test_a_function_without_noise_has_a_narrow_interval():
    fun, x, _, _ = quadratic(43, 2)
    got = hessian_lipschitz(fun, x, 1.0, [0.5, 1.0], 8, rng=0, vectorized=True)
    assert 0 <= got.low <= got.high < 1e-10
    assert got.value < 1e-10


def test_one_dimension_has_a_constant_too():
    fun = lambda p: p[:, 0] ** 3 / 3  # noqa: E731
    got = hessian_lipschitz(fun, np.array([0.4]), 1.0, [0.5, 1.0], 5, rng=0, vectorized=True)
    assert got.value == pytest.approx(2, rel=1e-9)
    assert got.low == pytest.approx(2, rel=1e-9)


def test_wrong_arguments_of_the_constant_are_named():
    fun, x, _, _ = quadratic(44, 2)
    for change, message in [
        (dict(radii=[1.0]), "at least two different"),
        (dict(radii=[1.0, 1.0]), "at least two different"),
        (dict(radii=[1.0, 0.0]), "radius must be positive"),
        (dict(n=3), "n must be at least 4"),
        (dict(directions="gaussian"), "one of 'orthogonal', 'sphere'"),
        (dict(confidence=1.0), "confidence must be between 0 and 1"),
    ]:
        arguments = {"fun": fun, "x": x, "shape": 1.0, "radii": [1.0, 2.0], "n": 4, **change}
        with pytest.raises(ValueError, match=message):
            hessian_lipschitz(**arguments)


@pytest.mark.gpu
def test_everything_stays_on_the_gpu():
    fun, x, exact, a = quadratic(45, 4)
    there = torch.from_numpy(x).cuda()
    seen = set()

    def watched(points):
        seen.add(points.device.type)
        return fun(points)

    got = gradient(watched, there, 0.4, 20, directions="orthogonal", rng=0, vectorized=True)
    np.testing.assert_allclose(got.gradient, exact, atol=1e-10)
    assert got.directions.device.type == "cuda"
    np.testing.assert_allclose(hessian(watched, there, 0.4, 2, vectorized=True).raw, a, atol=1e-9)
    pair_quadratic(watched, there, 0.4, 40, rng=0, vectorized=True)
    hessian_lipschitz(watched, there, 1.0, [0.5, 1.0], 8, rng=0, vectorized=True)
    assert seen == {"cuda"}
