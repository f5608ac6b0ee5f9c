import itertools
import math

import numpy as np
import pytest
from scipy.special import gammaincinv

from modicum.zeroth.directions import draw_directions
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.methods import two_stage
from modicum.zeroth.methods.coordinate_design import CoordinateDesign
from modicum.zeroth.methods.two_stage import TwoStage
from modicum.zeroth.methods.zosgd import ZOSGD
from modicum.zeroth.optimizer import Optimizer
from modicum.zeroth.problems import skew
from modicum.zeroth.space import Ball

pytestmark = pytest.mark.filterwarnings("ignore::modicum.zeroth.errors.ZerothWarning")
UNIT = {"noise": 1.0, "strong_convexity": 1.0, "hessian_lipschitz": 1.0}


def pseudo_noise(x):
    # A deterministic function of the point that looks like noise; the same for every caller.
    phase = np.asarray(x) @ np.linspace(1e5, 2e5, np.shape(x)[-1])
    return np.sin(phase) * math.sqrt(2)


def chi_square_bounds(freedom):
    return 2 * gammaincinv(freedom / 2, 5e-8), 2 * gammaincinv(freedom / 2, 1 - 5e-8)


class Recorder:
    """Noisy values that depend on the point and on how often it was seen before."""

    def __init__(self, problem, sigma=1.0):
        self.problem, self.sigma = problem, sigma
        self.seen = {}
        self.calls = 0

    def __call__(self, points):
        exact = self.problem.fun(points)
        values = np.empty(len(points))
        for row, point in enumerate(points):
            key = np.round(point, 9).tobytes()
            turn = self.seen[key] = self.seen.get(key, -1) + 1
            values[row] = exact[row] + self.sigma * math.sin(1 + 7.3 * turn + 1e3 * point.sum())
        self.calls += len(points)
        return values


# The published algorithm, straight from its text ------------------------------------------------


def floored(hessian, floor):
    eigenvalues, vectors = np.linalg.eigh(hessian)
    return vectors @ np.diag(np.maximum(eigenvalues, floor)) @ vectors.T


def bootstrapping_est(fun, x, r, n):
    m = np.zeros(len(x))
    for k in range(len(x)):
        e = np.eye(len(x))[k]
        plus = np.mean([fun(x + r * e) for _ in range(n)])
        minus = np.mean([fun(x - r * e) for _ in range(n)])
        m[k] = (plus - minus) / (2 * r)
    return m


def hessian_est(fun, x, r, n):
    d = len(x)
    e = np.eye(d)

    def mean(point):
        return np.mean([fun(point) for _ in range(n)])

    center = mean(x)
    hessian = np.zeros((d, d))
    for k in range(d):
        hessian[k, k] = (mean(x + r * e[k]) + mean(x - r * e[k]) - 2 * center) / r**2
    for i, j in itertools.combinations(range(d), 2):
        same = mean(x + r * e[i] + r * e[j]) + mean(x - r * e[i] - r * e[j])
        mixed = mean(x + r * e[i] - r * e[j]) + mean(x - r * e[i] + r * e[j])
        hessian[i, j] = hessian[j, i] = (same - mixed) / (4 * r**2)
    return hessian


def clipped_step(hessian, gradient, radius):
    # Bisection on the floor instead of the closed form.
    def step(floor):
        return -np.linalg.solve(floored(hessian, floor), gradient)

    if np.linalg.norm(step(0)) <= radius:
        return step(0)
    low, high = 0.0, np.linalg.norm(gradient) / radius + np.linalg.eigvalsh(hessian)[-1]
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(step(middle)) > radius else (low, middle)
    return step(high)


def published(fun, x, T, rho, M, sigma, directions, geometry="ellipsoid"):
    d = len(x)
    N = math.floor(T**0.1 + 1e-9)
    n_m, n_H = (math.floor(T**0.9 / (10 * d**p) + 1e-9) for p in (1, 2))
    r_m, r_H = (
        (8 * sigma**2 / (n_m * rho**2)) ** (1 / 6),
        (144 * sigma**2 / (n_H * rho**2)) ** (1 / 6),
    )
    points = [x]
    for _ in range(N):
        gradient = bootstrapping_est(fun, x, r_m, n_m)
        hessian = floored(hessian_est(fun, x, r_H, n_H), M)
        x = x + clipped_step(hessian, gradient, M / rho)
        points.append(x)
    n_g, n_H = T // 10, T // (10 * d**2)
    r_g = (d**3 * sigma**2 / (n_g * rho**2)) ** (1 / 6)
    r_H = (144 * sigma**2 / (n_H * rho**2)) ** (1 / 6)
    hessian = floored(hessian_est(fun, x, r_H, n_H), M)
    eigenvalues, vectors = np.linalg.eigh(hessian)
    Z_H = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
    Z = r_g * Z_H / np.linalg.eigvalsh(Z_H)[-1] if geometry == "ellipsoid" else r_g * np.eye(d)
    estimate = np.zeros(d)
    for u in directions(n_g):
        estimate += d / 2 * (fun(x + Z @ u) - fun(x - Z @ u)) * u / n_g
    s = -np.linalg.inv(hessian) @ np.linalg.inv(Z) @ estimate
    points.append(x + s * min(1, M / rho / np.linalg.norm(s)))
    return points


@pytest.mark.parametrize(
    ("d", "T", "sigma", "rho", "M", "geometry"),
    [
        (1, 50, 1.0, 1.0, 1.0, "ellipsoid"),
        (2, 1200, 0.3, 1.0, 1.0, "ellipsoid"),
        (2, 1024, 0.3, 1.0, 1.0, "isotropic"),
        (3, 1777, 0.7, 2.0, 0.5, "ellipsoid"),
        (4, 4001, 0.05, 0.5, 1.0, "ellipsoid"),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 20, 64])
def test_it_is_the_published_algorithm(monkeypatch, d, T, sigma, rho, M, geometry, chunk):
    monkeypatch.setattr(two_stage, "CHUNK_NUMBERS", chunk)
    problem = skew(d, strong_convexity=M, hessian_lipschitz=rho, shift=1.5, rotation=True, rng=d)
    own = Recorder(problem, sigma)
    method = TwoStage(
        problem.start,
        T,
        noise=sigma,
        strong_convexity=M,
        hessian_lipschitz=rho,
        geometry=geometry,
        rng=5,
    )
    found = method.run(own)
    other = Recorder(problem, sigma)
    expected = published(
        lambda x: other(x[None])[0],
        problem.start,
        T,
        rho,
        M,
        sigma,
        lambda n: draw_directions("sphere", n, d, 5, "gradient"),
        geometry,
    )
    assert own.calls == other.calls == method.nfev == method.plan.evaluations <= T
    np.testing.assert_allclose([r.x for r in method.trace], expected[1:], rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(found.x, method.trace[-1].x)
    assert len(method.trace) == method.plan.bootstrap_rounds + 1


def test_the_first_steps_are_clipped_far_away():
    problem = skew(3, shift=8.0, rng=0)
    method = TwoStage(problem.start, 60_000, **UNIT, rng=0)
    method.run(problem.noisy(1.0, rng=1))
    first = method.trace[0]
    assert first.step_norm == pytest.approx(1.0, rel=1e-9)
    assert first.trust == 1.0


@pytest.mark.parametrize(("d", "T"), [(1, 13), (1, 10_000), (2, 61), (3, 5000), (7, 30_000)])
def test_evaluations_are_counted_exactly(d, T):
    if T == 13:
        T = TwoStage(np.zeros(1), 10**6, **UNIT).minimum_budget()
    calls = []

    def fun(points):
        calls.append(len(points))
        return np.sum(points**2, axis=1)

    method = TwoStage(
        np.ones(d), max(T, TwoStage(np.ones(d), 10**6, **UNIT).minimum_budget()), **UNIT
    )
    method.run(fun)
    N, n_m, n_H = method.plan.bootstrap_rounds, method.plan.n_m, method.plan.n_H
    n_g, n_H_final = method.plan.n_g, method.plan.n_H_final
    expected = N * (2 * d * n_m + (2 * d**2 + 1) * n_H) + (2 * d**2 + 1) * n_H_final + 2 * n_g
    assert sum(calls) == method.nfev == expected <= method.budget


def test_without_chunks_a_bootstrap_round_is_one_batch():
    method = TwoStage(np.ones(3), 5000, **UNIT)
    sizes = []
    while not method.done:
        asked = method.ask()
        sizes.append(len(asked))
        method.tell(asked, np.sum(asked.points**2, axis=1))
    p = method.plan
    bootstrap = [6 * p.n_m + 19 * p.n_H] * p.bootstrap_rounds
    assert sizes == [*bootstrap, 19 * p.n_H_final, 2 * p.n_g]


def test_batches_of_a_huge_budget_stay_small():
    # Only the first batches; a whole stage would be 10^10 points.
    method = TwoStage(np.zeros(10), 10**12, **UNIT)
    assert method.plan.bootstrap_rounds == 15
    for _ in range(3):
        asked = method.ask()
        assert len(asked) * 10 <= two_stage.CHUNK_NUMBERS
        assert len(asked) * 10 > two_stage.CHUNK_NUMBERS - 100
        method.tell(asked, np.sum(asked.points**2, axis=1))


# Symmetries -------------------------------------------------------------------------------------


def run_scaled(factor, x_unit=1.0, **options):
    problem = skew(3, shift=1.0, rotation=True, rng=2)

    def fun(points):
        points = points / x_unit
        return factor * (problem.fun(points) + pseudo_noise(np.round(points, 6)))

    method = TwoStage(
        x_unit * problem.start,
        4000,
        noise=factor,
        strong_convexity=factor / x_unit**2,
        hessian_lipschitz=factor / x_unit**3,
        rng=3,
        **options,
    )
    return method.run(fun)


@pytest.mark.parametrize("factor", [1e-12, 0.25, 1e9])
def test_scaling_the_function_changes_no_point(factor):
    base, scaled = run_scaled(1.0), run_scaled(factor)
    np.testing.assert_allclose(scaled.x, base.x, rtol=1e-9)
    np.testing.assert_allclose(scaled.jac, factor * base.jac, rtol=1e-9)
    np.testing.assert_allclose(scaled.hess, factor * base.hess, rtol=1e-9)
    assert scaled.fun == pytest.approx(factor * base.fun, rel=1e-9)
    assert scaled.fun_std == pytest.approx(factor * base.fun_std, rel=1e-9)
    assert scaled.predicted_regret == pytest.approx(factor * base.predicted_regret, rel=1e-9)


def test_a_power_of_two_changes_no_bit():
    np.testing.assert_array_equal(run_scaled(2.0**20).x, run_scaled(1.0).x)


def test_scaling_the_coordinates_scales_the_points():
    base, scaled = run_scaled(1.0), run_scaled(1.0, x_unit=1e3)
    np.testing.assert_allclose(scaled.x, 1e3 * base.x, rtol=1e-6)


def test_a_vector_scale_is_the_problem_in_other_coordinates():
    problem = skew(3, shift=1.0, rng=2)
    metric = np.array([0.1, 1.0, 10.0])
    options = {**UNIT, "rng": 4}

    def noisy(points):
        return problem.fun(points) + pseudo_noise(np.round(points, 6))

    plain = TwoStage(problem.start, 3000, **options).run(noisy)
    stretched = TwoStage(problem.start, 3000, scale=metric, **options).run(
        lambda points: noisy(points / metric)
    )
    np.testing.assert_allclose(stretched.x, metric * plain.x, rtol=1e-9)
    np.testing.assert_allclose(stretched.hess * np.outer(metric, metric), plain.hess, rtol=1e-8)


def streaming_first(x0, budget, **settings):
    return ZOSGD(x0, budget, pairs=10, **settings)


# What it finds ----------------------------------------------------------------------------------


def test_regret_is_as_predicted_and_the_last_step_pays():
    # The mean over 40 runs of a regret that is a weighted sum of 5 squares varies by about 10 %
    # (1 σ): outside [0.4, 2] of the prediction, and below 2 for the gain, lie beyond 5 σ.
    regrets, first, predicted = [], [], []
    for seed in range(40):
        problem = skew(5, rng=seed)
        method = TwoStage(problem.start, 30_000, **UNIT, rng=seed)
        found = method.run(problem.noisy(1.0, rng=seed + 1000))
        regrets.append(problem.regret(found.x))
        first.append(problem.regret(method.trace[-2].x))
        predicted.append(found.predicted_regret)
    ratio = np.mean(regrets) / np.mean(predicted)
    assert 0.4 < ratio < 2
    assert np.mean(first) > 2 * np.mean(regrets)


def test_values_and_gradients_come_with_honest_deviations():
    # Two-sided 1e-7 bounds on the mean square of 60 standardised errors: chi-square quantiles.
    errors, slopes = [], []
    for seed in range(60):
        problem = skew(3, rng=seed, hessian_lipschitz=0.01)
        method = TwoStage(
            problem.start, 5000, noise=1.0, strong_convexity=1.0, hessian_lipschitz=0.05, rng=seed
        )
        found = method.run(problem.noisy(1.0, rng=seed + 1000))
        errors.append((found.fun - problem.fun(found.x)) / found.fun_std)
        exact = problem.gradient(method.trace[-2].x)
        slopes.append(np.sum((found.jac - exact) ** 2) / found.jac_cov_trace)
    low, high = chi_square_bounds(60)
    assert low < np.sum(np.square(errors)) < high
    assert 0.5 < np.mean(slopes) < 2


def test_noise_free_quadratics_are_solved_by_the_first_step():
    hessian = np.array([[3.0, 1.0], [1.0, 2.0]])
    optimum = np.array([0.3, -0.4])

    def fun(points):
        away = points - optimum
        return 7 + 0.5 * np.einsum("ni,ij,nj->n", away, hessian, away)

    method = TwoStage(np.zeros(2), 2000, noise=1e-6, strong_convexity=1.0, hessian_lipschitz=0.1)
    found = method.run(fun)
    np.testing.assert_allclose(method.trace[0].x, optimum, atol=1e-9)
    np.testing.assert_allclose(found.hess, hessian, rtol=1e-9)
    assert found.fun == pytest.approx(7, abs=1e-8)


def test_a_quadratic_has_exactly_the_variance_of_the_formula():
    # x_B = x*, Hessian known to be the floor: the last step has E‖s‖² = d²σ²/(2 n r²)/λ², with
    # orthogonal blocks. Chi-square of 60·d degrees of freedom, two-sided 1e-7.
    d, T = 4, 4000
    total, runs = 0.0, 60
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        method = TwoStage(
            np.zeros(d),
            T,
            noise=1.0,
            strong_convexity=50.0,
            hessian_lipschitz=1.0,
            bootstrap=None,
            directions="orthogonal",
            geometry="isotropic",
            rng=seed,
        )
        found = method.run(lambda x, rng=rng: 25 * np.sum(x**2, 1) + rng.normal(size=len(x)))
        n, r = method.plan.n_g, method.plan.radii.gradient
        kept = n // d * d
        assert kept > 0.99 * n
        # In Hessian units, whatever flooring and noise made of it.
        total += np.sum((found.hess @ found.x) ** 2) / (d**2 / (2 * n * r**2)) * d
    low, high = chi_square_bounds(runs * d)
    assert low < total < high


# Options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["noise", "strong_convexity", "hessian_lipschitz"])
def test_constants_are_required(missing):
    with pytest.raises(ValueError, match=f"needs {missing}; method 'adaptive'"):
        TwoStage(np.zeros(2), 1000, **{**UNIT, missing: None})


def test_too_small_a_budget_names_the_least():
    # (10 · 9)^(10/9) = 148.3…
    with pytest.raises(ValueError, match="at least 149"):
        TwoStage(np.zeros(3), 148, **UNIT)
    assert TwoStage(np.zeros(3), 149, **UNIT).plan.n_H == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"bootstrap": "adam"}, "bootstrap must be 'newton'"),
        ({"geometry": "cube"}, "geometry must be 'ellipsoid'"),
        ({"directions": "gaussian", "bounds": [(-1, 1)] * 3}, "gaussian directions"),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        TwoStage(np.zeros(3), 5000, **UNIT, **option)


@pytest.mark.filterwarnings("default::modicum.zeroth.errors.ZerothWarning")
def test_conditions_of_the_guarantee_are_warned_of():
    with pytest.warns(ZerothWarning) as caught:
        method = TwoStage(np.zeros(4), 500, **UNIT, distance=3.0)
    texts = [str(warning.message) for warning in caught]
    assert texts == method.warnings == list(method.plan.warnings)
    assert len(texts) == 3
    assert "d³=64" in texts[0] and "64 ρ⁴σ²d⁶/M⁶" in texts[1] and "5R²ρ²/M²+1=46" in texts[2]
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_no_warning_where_the_guarantee_holds():
    method = TwoStage(np.zeros(2), 10**7, **UNIT, distance=0.4)
    assert method.warnings == []


@pytest.mark.filterwarnings("default::modicum.zeroth.errors.ZerothWarning")
def test_too_large_a_convexity_is_warned_of():
    def fun(points):
        return np.sum(points**2, axis=1)

    right = TwoStage(np.zeros(2), 10**5, noise=0.1, strong_convexity=2.0, hessian_lipschitz=0.01)
    right.run(fun)
    assert not any("too large" in text for text in right.warnings)
    wrong = TwoStage(np.zeros(2), 10**5, noise=0.1, strong_convexity=9.0, hessian_lipschitz=0.01)
    with pytest.warns(ZerothWarning, match=r"strong_convexity=9 looks too large.* 2 ±"):
        wrong.run(fun)


def test_without_a_first_stage_the_final_one_takes_the_budget():
    problem = skew(4, shift=0.0, rng=0)
    method = TwoStage(problem.optimum, 20_000, **UNIT, bootstrap=None, rng=0)
    found = method.run(problem.noisy(1.0, rng=1))
    plan = method.plan
    assert method.nfev == 33 * plan.n_H_final + 2 * plan.n_g
    assert 20_000 - 33 - 2 < method.nfev <= 20_000
    # The published proportion: pairs to samples per point is d² to 1.
    assert plan.n_g // 16 == plan.n_H_final
    assert len(method.trace) == 1
    assert problem.regret(found.x) < 5 * found.predicted_regret
    with pytest.raises(ValueError, match=f"at least {method.minimum_budget()}"):
        TwoStage(problem.optimum, method.minimum_budget() - 1, **UNIT, bootstrap=None)
    TwoStage(problem.optimum, method.minimum_budget(), **UNIT, bootstrap=None)


def test_another_method_can_be_the_first_stage():
    problem = skew(4, rng=0)

    def make(x0, budget, **settings):
        return ZOSGD(x0, budget, smoothness=4.0, pairs=10, **settings)

    method = TwoStage(problem.start, 20_000, **UNIT, bootstrap=make, rng=0)
    found = method.run(problem.noisy(1.0, rng=1))
    final = 33 * method.plan.n_H_final + 2 * method.plan.n_g
    assert method.plan.n_g == 2000
    assert 20_000 - 1 <= method.nfev <= 20_000
    alone = make(problem.start, 20_000 - final, **UNIT, rng=method.seed)
    alone.run(problem.noisy(1.0, rng=1))
    np.testing.assert_array_equal(method.trace[-2].x, alone.trace[-1].x)
    assert problem.regret(found.x) < 5 * found.predicted_regret


def test_a_first_stage_must_be_a_method():
    with pytest.raises(TypeError, match="bootstrap must make a method for 2 coordinates"):
        TwoStage(np.zeros(2), 5000, **UNIT, bootstrap=lambda x0, budget, **_: "nothing")
    with pytest.raises(TypeError, match="for 2 coordinates"):
        TwoStage(
            np.zeros(2), 5000, **UNIT, bootstrap=lambda x0, budget, **_: ZOSGD(np.zeros(3), budget)
        )


@pytest.mark.parametrize("directions", ["orthogonal", "gaussian", "rademacher", "coordinate"])
def test_every_kind_of_direction_solves_a_quadratic(directions):
    method = TwoStage(
        np.zeros(3),
        20_000,
        noise=0.1,
        strong_convexity=1.0,
        hessian_lipschitz=1.0,
        directions=directions,
        rng=1,
    )
    rng = np.random.default_rng(0)
    optimum = np.array([0.5, -0.5, 0.2])
    found = method.run(lambda x: np.sum((x - optimum) ** 2, axis=1) + 0.1 * rng.normal(size=len(x)))
    assert np.sum((found.x - optimum) ** 2) < 20 * found.predicted_regret


# Bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["ellipsoid", "isotropic"])
@pytest.mark.parametrize(
    "bounds", [[(-1, 0.3), (-0.1, 0.1), (None, 0.2)], Ball([-0.2, 0.0, 0.0], 0.6)]
)
def test_nothing_outside_the_bounds_is_evaluated_and_the_constrained_optimum_is_found(
    bounds, geometry
):
    hessian = np.diag([2.0, 4.0, 8.0])
    optimum = np.array([1.0, 1.0, 1.0])
    rng = np.random.default_rng(0)
    sigma = 0.01
    method = TwoStage(
        np.zeros(3),
        30_000,
        noise=sigma,
        strong_convexity=2.0,
        hessian_lipschitz=1.0,
        bounds=bounds,
        geometry=geometry,
        rng=0,
    )

    def value(points):
        away = points - optimum
        return 0.5 * np.einsum("ni,ij,nj->n", away, hessian, away)

    def fun(points):
        if isinstance(bounds, Ball):
            assert np.linalg.norm(points - bounds.center, axis=1).max() <= bounds.radius
        else:
            assert points[:, 0].max() <= 0.3 and points[:, 0].min() >= -1
            assert np.abs(points[:, 1]).max() <= 0.1 and points[:, 2].max() <= 0.2
        return value(points) + sigma * rng.normal(size=len(points))

    found = method.run(fun)
    # Projected gradient with the exact function.
    x = np.zeros(3)
    for _ in range(3000):
        x = method.space.project(x - 0.1 * hessian @ (x - optimum))
    np.testing.assert_allclose(found.x, x, atol=0.02)
    assert found.fun == pytest.approx(float(value(found.x[None])[0]), abs=6 * found.fun_std + 1e-3)


@pytest.mark.parametrize("geometry", ["ellipsoid", "isotropic"])
def test_an_ellipsoid_that_does_not_fit_still_gives_the_exact_step(geometry):
    # Without noise, but with radii for much of it, on a quadratic: complete orthogonal blocks give
    # its gradient exactly, whatever shape is left of the ellipsoid; so the minimiser is exact.
    hessian = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, -1.0], [0.0, -1.0, 4.0]])
    optimum = np.array([0.9, -0.3, 0.1])
    bounds = [(-1.0, 0.5), (-0.4, 0.6), (-0.2, 3.0)]

    def fun(points):
        away = points - optimum
        return 5 + 0.5 * np.einsum("ni,ij,nj->n", away, hessian, away)

    options = {
        "noise": 1.0,
        "strong_convexity": 0.5,
        "hessian_lipschitz": 0.01,
        "bounds": bounds,
        "geometry": geometry,
        "directions": "orthogonal",
        "rng": 0,
    }
    method = TwoStage(np.zeros(3), 9000, **options)
    assert method.plan.n_g % 3 == 0 and method.plan.radii.gradient > 2
    found = method.run(fun)
    x = np.zeros(3)
    for _ in range(2000):
        x = np.clip(x - 0.1 * hessian @ (x - optimum), *np.transpose(bounds))
    assert x[0] == 0.5
    # The same value comes out wherever it was measured (bounds may move the pairs elsewhere).
    again = TwoStage(np.zeros(3), 9000, **options)
    while again.state.stage != two_stage.GRADIENT:
        asked = again.ask()
        again.tell(asked, fun(asked.points))
    again.state.center = np.array([0.1, -0.2, 0.3])
    again.state.known["fun"] = float(fun(again.state.center[None])[0])
    assert again.run(fun).fun == pytest.approx(found.fun, abs=1e-9)
    np.testing.assert_allclose(found.x, x, atol=1e-9)
    np.testing.assert_allclose(found.hess, hessian, atol=1e-9)
    assert found.fun == pytest.approx(float(fun(x[None])[0]), abs=1e-9)


def test_fixed_coordinates_stay():
    seen = []

    def fun(points):
        seen.append(points)
        return np.sum((points - 0.3) ** 2, axis=1)

    method = TwoStage(
        [0.0, 5.0, 0.0],
        3000,
        noise=0.01,
        strong_convexity=2.0,
        hessian_lipschitz=0.1,
        bounds=[(None, None), (5, 5), (-1, 1)],
    )
    found = method.run(fun)
    assert method.dimension == 2
    assert all(np.all(points[:, 1] == 5) for points in seen)
    np.testing.assert_allclose(found.x, [0.3, 5.0, 0.3], atol=1e-6)
    np.testing.assert_allclose(np.diag(found.hess)[[0, 2]], 2, rtol=1e-6)
    assert np.isnan(found.jac[1])


# Lost values, deviations, resume ----------------------------------------------------------------


def test_lost_units_do_not_bias():
    problem = skew(3, rng=1)
    noisy = problem.noisy(0.1, rng=0)
    lost = np.random.default_rng(3)

    def fun(points):
        values = noisy(points)
        values[lost.random(len(values)) < 0.03] = np.nan
        return values

    method = TwoStage(
        problem.start, 20_000, noise=0.1, strong_convexity=1.0, hessian_lipschitz=1.0, rng=0
    )
    found = method.run(fun)
    assert method.lost > 100
    assert problem.regret(found.x) < 10 * found.predicted_regret


def test_lost_values_count_as_none():
    lost = np.random.default_rng(0)
    method = TwoStage(np.zeros(2), 3000, **UNIT, rng=0)
    found = method.run(lambda x: np.where(lost.random(len(x)) < 0.02, np.nan, 7.0))
    assert method.lost > 20
    assert found.fun == pytest.approx(7, abs=1e-12)
    np.testing.assert_array_equal(found.jac, 0)


def test_a_unit_that_was_lost_altogether_has_no_slope_and_no_curvature():
    design = CoordinateDesign(np.ones(2), np.full(2, 0.5), 3, np.full(2, 0.25), 4)
    assert design.units == 2 + 1 + 2 + 1 and design.total == 8 + 3 + 6 + 3
    sums, totals = np.zeros(6), np.zeros(6)
    for piece in design.pieces(0, 1000):
        points = design.points(piece)
        values = 10 + 3 * points[:, 0] + points[:, 1] ** 2 + points[:, 0] * points[:, 1]
        # All pairs along the first coordinate.
        lost = (np.abs(points[:, 0] - 1) > 0.1) & (points[:, 1] == 1)
        values[lost] = np.nan
        design.add(piece, values, np.ones(piece.count), sums, totals)
    means = design.means(sums, totals)
    assert means.value == pytest.approx(15)
    np.testing.assert_allclose(means.gradient, [0, 3])
    np.testing.assert_allclose(means.hessian, [[0, 1], [1, 2]], atol=1e-12)


def test_told_deviations_weight_the_values():
    problem = skew(3, rng=1)
    rng = np.random.default_rng(0)
    regrets = {}
    for told in (True, False):
        regrets[told] = []
        for seed in range(8):
            method = TwoStage(
                problem.start,
                8000,
                noise=1.0,
                strong_convexity=1.0,
                hessian_lipschitz=0.2,
                rng=seed,
            )
            while not method.done:
                asked = method.ask()
                # One unit in two is nearly useless.
                spread = np.where(rng.random(len(asked)) < 0.3, 10.0, 0.1)
                values = problem.fun(asked.points) + spread * rng.normal(size=len(asked))
                method.tell(asked, values, spread if told else None)
            regrets[told].append(float(problem.regret(method.recommendation().x)))
    # Weights make up for a factor of hundreds in the variance.
    assert np.mean(regrets[True]) < 0.2 * np.mean(regrets[False])


def test_equal_deviations_change_nothing():
    problem = skew(2, rng=1)
    runs = []
    for told in (None, 1.0):
        method = TwoStage(problem.start, 2000, **UNIT, rng=0)
        fun = Recorder(problem)
        while not method.done:
            asked = method.ask()
            method.tell(asked, fun(asked.points), told)
        runs.append(method.recommendation().x)
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-12)


@pytest.mark.parametrize("bootstrap", ["newton", None, streaming_first])
def test_a_run_goes_on_bit_for_bit_wherever_it_was_saved(monkeypatch, tmp_path, bootstrap):
    monkeypatch.setattr(two_stage, "CHUNK_NUMBERS", 500)
    problem = skew(3, rng=1)

    def make():
        return TwoStage(problem.start, 1500, **UNIT, bootstrap=bootstrap, rng=7)

    def fun(points):
        return problem.fun(points) + pseudo_noise(points)

    whole = make()
    expected = whole.run(fun)
    rounds = whole.nit
    for stop in {1, rounds // 3, rounds // 2, rounds - 2}:
        first = make()
        for _ in range(stop):
            asked = first.ask()
            first.tell(asked, fun(asked.points))
        half = first.ask(3)
        first.tell(half, fun(half.points))
        first.save(tmp_path / "state")
        second = make()
        second.load(tmp_path / "state")
        found = second.run(fun)
        np.testing.assert_array_equal(found.x, expected.x)
        np.testing.assert_array_equal(found.hess, expected.hess)
        assert found.fun == expected.fun and found.fun_std == expected.fun_std
        assert second.nfev == whole.nfev
        assert len(second.trace) == len(whole.trace)


def test_a_recommendation_is_there_at_any_time():
    problem = skew(2, rng=0)
    method = TwoStage(problem.start, 5000, **UNIT)
    noisy = problem.noisy(1.0, rng=0)
    np.testing.assert_array_equal(method.recommendation().x, problem.start)
    while not method.done:
        asked = method.ask()
        method.tell(asked, noisy(asked.points))
        now = method.recommendation()
        assert np.isfinite(now.x).all() and math.isfinite(now.fun)
    assert set(now.predicted_regret_terms) == {"bias", "variance", "newton"}
    assert now.predicted_regret == pytest.approx(sum(now.predicted_regret_terms.values()))


def test_tensors_give_the_same_points():
    torch = pytest.importorskip("torch")
    problem = skew(3, rng=1)
    options = {**UNIT, "rng": 2, "bounds": [(-1, 1), (None, 2), (None, None)]}
    arrays = TwoStage(problem.start, 3000, **options)
    tensors = TwoStage(torch.from_numpy(problem.start), 3000, **options)

    def fun(points):
        return problem.fun(points) + pseudo_noise(np.round(points, 6))

    found = arrays.run(fun)
    same = tensors.run(lambda points: torch.from_numpy(fun(points.numpy())))
    np.testing.assert_allclose(same.x, found.x, rtol=1e-9)
    assert isinstance(tensors, Optimizer) and isinstance(same.x, np.ndarray)


@pytest.mark.gpu
def test_points_on_the_device_are_the_same():
    import torch

    problem = skew(3, rng=1)
    options = {**UNIT, "rng": 2, "bounds": [(-1, 1), (None, 2), (None, None)]}
    arrays = TwoStage(problem.start, 3000, **options)
    tensors = TwoStage(problem.start, 3000, **options, device="cuda")

    def fun(points):
        return problem.fun(points) + pseudo_noise(np.round(points, 6))

    def on_device(points):
        assert points.is_cuda and points.dtype == torch.float64
        return torch.from_numpy(fun(points.cpu().numpy())).cuda()

    np.testing.assert_allclose(tensors.run(on_device).x, arrays.run(fun).x, rtol=1e-9)
