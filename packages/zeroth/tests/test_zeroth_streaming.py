import math

import numpy as np
import pytest

from modicum.core.device import numpy_generator
from modicum.zeroth.directions import draw_directions
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.methods.kernel_zo import KernelZO
from modicum.zeroth.methods.mezo import MeZO
from modicum.zeroth.methods.spsa import SPSA
from modicum.zeroth.methods.streaming import Streaming
from modicum.zeroth.methods.zosgd import ZOSGD
from modicum.zeroth.minimize import method_class, minimize
from modicum.zeroth.problems import skew
from modicum.zeroth.space import Ball

ALL = [ZOSGD, SPSA, KernelZO, MeZO]
TUNED = {
    "noise": 0.5,
    "strong_convexity": 1.0,
    "hessian_lipschitz": 2.0,
    "smoothness": 3.0,
}


def value(x):
    # Deterministic, and row by row the same bits however many rows there are.
    x = np.asarray(x)
    rough = np.sin((x * np.linspace(5, 9, x.shape[-1])).sum(axis=-1))
    return (x**2 * np.arange(1, x.shape[-1] + 1)).sum(axis=-1) / 2 + 0.5 * rough


class Values:
    """`value` with noise that depends on the number of the call only."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        x = np.asarray(x)
        count = 1 if x.ndim == 1 else len(x)
        noise = np.sin(7.3 * np.arange(self.calls, self.calls + count))
        self.calls += count
        return value(x) + (noise[0] if x.ndim == 1 else noise)


def rows(kind, d, seed, stream, count):
    return draw_directions(kind, count, d, seed, stream)


# Step by step, from the formulas ----------------------------------------------------------------


def steps_of(method, fun):
    """Run a method and give the iterate after every step."""
    iterates = []
    while not method.done:
        asked = method.ask()
        before = method.state.step
        method.tell(asked, fun(asked.points))
        if method.state.step > before:
            iterates.append(method.state.x.copy())
    return np.array(iterates)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("pairs", [1, 4])
def test_zosgd_with_constants_is_its_formulas(d, pairs):
    budget, seed = 403, 11
    method = ZOSGD(np.ones(d), budget, pairs=pairs, **TUNED, rng=seed)
    got = steps_of(method, Values())
    value = Values()
    u = rows("sphere", d, seed, "steps", 400)
    sigma, M, rho, L = 0.5, 1.0, 2.0, 3.0
    x, expected, done, total = np.ones(d), [], 0, (budget - 4) // 2
    while done < total:
        t = len(expected) + 1
        h = min(math.sqrt(d), (d**3 * sigma**2 / (t * pairs * rho**2)) ** (1 / 6))
        eta = min(2 / (M * t), 1 / (L * (1 + (d - 1) / pairs)))
        now = u[done : min(done + pairs, total)]
        g = np.mean([d / (2 * h) * (value(x + h * v) - value(x - h * v)) * v for v in now], axis=0)
        x = x - eta * g
        done += len(now)
        expected.append(x)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    tail = np.array(expected)[len(expected) // 2 :]
    if len(expected) % 2:
        # Steps t with 2 t > n.
        tail = np.array(expected)[(len(expected) - 1) // 2 :]
    np.testing.assert_allclose(method.recommendation().x, tail.mean(axis=0), rtol=1e-10)


def test_zosgd_with_nothing_known_takes_its_first_step_from_probes():
    d, budget, seed, probes = 3, 300, 2, 5
    method = ZOSGD(
        np.ones(d), budget, scale=0.5, first_step=0.2, probes=probes, average="all", rng=seed
    )
    got = steps_of(method, Values())
    value = Values()
    n = (budget - 3) // 2 - probes
    assert len(got) == n
    start, h1 = np.ones(d), 0.5 * math.sqrt(d)
    each = []
    for v in rows("sphere", d, seed, "probes", probes):
        each.append(d / (2 * h1) * (value(start + h1 * v) - value(start - h1 * v)) * v)
    first = 0.2 * 0.5 / np.abs(each).mean()
    x, expected = start, []
    for t, v in enumerate(rows("sphere", d, seed, "steps", n), start=1):
        h = h1 * t ** (-1 / 6)
        eta = first * ((1 + 0.01 * n) / (t + 0.01 * n)) ** (2 / 3)
        x = x - eta * d / (2 * h) * (value(x + h * v) - value(x - h * v)) * v
        expected.append(x)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(method.recommendation().x, np.mean(expected, axis=0), rtol=1e-10)


def test_zosgd_uses_what_it_is_told():
    d = 4
    known = ZOSGD(np.ones(d), 500, strong_convexity=2.0, rng=0)
    steps_of(known, Values())
    # Without L a probed first step, with M its decay.
    assert known._step_size(0) == pytest.approx(0.1 / known.state.slope)
    assert known._step_size(10**6) == pytest.approx(1e-6, rel=1e-5)
    smooth = ZOSGD(np.ones(d), 500, smoothness=5.0, rng=0)
    assert smooth._step_size(0) == pytest.approx(1 / 20)
    assert smooth._step_size(10**9) < 1e-6
    given = ZOSGD(np.ones(d), 500, step_size=0.3, radius=0.7, rng=0)
    assert given._step_size(0) == pytest.approx(0.3) and given._radius(0) == 0.7
    assert given._radius(63) == pytest.approx(0.35)
    capped = ZOSGD(np.ones(d), 500, radius=0.7, max_radius=0.6, rng=0)
    assert capped._radius(0) == 0.6


def spall(x, fun, a, c, A, alpha, gamma, deltas):
    """SPSA as in Spall's MATLAB code, with signs from outside."""
    path = []
    for k, delta in enumerate(deltas):
        ak, ck = a / (k + 1 + A) ** alpha, c / (k + 1) ** gamma
        ghat = (fun(x + ck * delta) - fun(x - ck * delta)) / (2 * ck * delta)
        x = x - ak * ghat
        path.append(x)
    return path


@pytest.mark.parametrize(("gains", "alpha", "gamma"), [
    ("practical", 0.602, 0.101),
    ("asymptotic", 1.0, 1 / 6),
])  # fmt: skip
def test_spsa_is_spalls_with_his_automatic_gains(gains, alpha, gamma):
    d, budget, seed, scale = 3, 400, 4, 0.5
    method = SPSA(np.ones(d), budget, gains=gains, scale=scale, rng=seed)
    got = steps_of(method, Values())
    value = Values()
    n = (budget - 4) // 2 - 10
    A, c = 0.01 * n, scale
    # "Average magnitude of the elements of ĝ" over probes, then a step of 0.1 scale.
    magnitudes = []
    for signs in rows("rademacher", d, seed, "probes", 10):
        delta = np.sign(signs)
        ghat = (value(np.ones(d) + c * delta) - value(np.ones(d) - c * delta)) / (2 * c * delta)
        magnitudes.append(np.abs(ghat))
    a = 0.1 * scale * (A + 1) ** alpha / np.mean(magnitudes)
    signs = np.sign(rows("rademacher", d, seed, "steps", n))
    np.testing.assert_array_equal(np.abs(signs), 1)
    expected = spall(np.ones(d), value, a, c, A, alpha, gamma, signs)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    # Spall recommends the last iterate.
    np.testing.assert_array_equal(method.recommendation().x, got[-1])


def test_spsa_with_given_gains_needs_no_probes():
    d, seed = 2, 9
    method = SPSA(
        np.ones(d), 200, step_size=0.16, perturbation=0.3, stability=7.0, rng=seed, final_share=0
    )
    got = steps_of(method, Values())
    value = Values()
    assert len(got) == 100
    signs = np.sign(rows("rademacher", d, seed, "steps", 100))
    expected = spall(np.ones(d), value, 0.16, 0.3, 7.0, 0.602, 0.101, signs)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_spsa_tuned_by_constants():
    d, seed = 3, 9
    method = SPSA(np.ones(d), 200, gains="tuned", **TUNED, rng=seed, final_share=0)
    got = steps_of(method, Values())
    value = Values()
    signs = np.sign(rows("rademacher", d, seed, "steps", 100))
    expected = spall(np.ones(d), value, 2.0, 0.25 ** (1 / 3), 17.0, 1.0, 1 / 6, signs)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    # The first step is 1/(d L), the largest that is stable.
    assert method._step_size(0) == pytest.approx(1 / 9)
    with pytest.raises(ValueError, match="gains='tuned' needs smoothness, noise"):
        SPSA(np.ones(d), 200, gains="tuned", strong_convexity=1.0, hessian_lipschitz=1.0)


@pytest.mark.parametrize(("order", "exponent"), [(2, 1 / 4), (3, 1 / 6), (4, 1 / 8)])
def test_kernel_is_its_formulas(order, exponent):
    d, seed, n = 3, 6, 1400
    method = KernelZO(
        np.ones(d), 2 * n, order=order, radius=0.8, step_size=0.01, rng=seed, final_share=0
    )
    got = steps_of(method, Values())
    value = Values()
    zeta = np.concatenate(
        [numpy_generator(seed, "distances", "steps", b).uniform(-1, 1, 1024) for b in (0, 1)]
    )
    assert len(got) == n
    x, expected = np.ones(d), []
    for t, v in enumerate(rows("sphere", d, seed, "steps", n), start=1):
        z, h = zeta[t - 1], 0.8 * t**-exponent
        weight = 3 * z if order == 2 else 15 * z / 4 * (5 - 7 * z**2)
        eta = 0.01 * ((1 + 0.01 * n) / (t + 0.01 * n)) ** (2 / 3)
        g = d / (2 * h) * (value(x + h * z * v) - value(x - h * z * v)) * weight * v
        x = x - eta * g
        expected.append(x)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_kernel_constants():
    # E[K²] = 75/4 and E[ζ²K²] = (225/16) E[25 ζ⁴ - 70 ζ⁶ + 49 ζ⁸] = (225/16) (5 - 10 + 49/9).
    method = KernelZO(np.zeros(5), 1000, **TUNED)
    inflation = 225 / 16 * (5 - 10 + 49 / 9)
    assert method._step_size(0) == pytest.approx(1 / (3 * 5 * inflation))
    unit = (0.5 * math.sqrt(75 / 4) / 2) ** (1 / 3)
    assert method._radius(0) == pytest.approx(math.sqrt(5) * min(1, unit))
    assert method._radius(10**6) == pytest.approx(math.sqrt(5) * unit * 0.1, rel=1e-6)
    assert KernelZO(np.zeros(5), 1000, **TUNED, order=2)._radius(0) == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize(("order", "share"), [(1, 3 / 5), (2, 3 / 5), (3, 0.0), (4, 0.0)])
def test_the_bias_of_a_cubic_is_that_of_the_kernels_order(order, share):
    # One step from 0 on ρ x³/6 with many pairs: -x/η is ρ h²/6 mean(ζ³K), whose mean is 3/5 for 3ζ
    # and 0 for the next kernel. Six standard errors.
    n, rho, h = 100_000, 1.5, 0.8
    method = KernelZO(
        np.zeros(1),
        2 * n,
        order=order,
        pairs=n,
        radius=h,
        max_radius=h,
        step_size=1.0,
        final_share=0,
        rng=0,
    )
    method.run(lambda x: rho * x[:, 0] ** 3 / 6)
    h = method._radius(0)
    zeta = np.random.default_rng(0).uniform(-1, 1, 10**6)
    weight = 3 * zeta if order < 3 else 15 * zeta / 4 * (5 - 7 * zeta**2)
    deviation = np.std(zeta**3 * weight) / math.sqrt(n)
    estimate = -method.state.x[0] / (rho * h**2 / 6)
    assert abs(estimate - share) < 6 * deviation
    assert deviation < 0.01


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_mezo_is_its_formulas(schedule):
    d, seed, n = 4, 3, 150
    method = MeZO(
        np.ones(d),
        2 * n,
        perturbation=0.1,
        learning_rate=0.02,
        schedule=schedule,
        rng=seed,
        final_share=0,
    )
    got = steps_of(method, Values())
    value = Values()
    x, expected = np.ones(d), []
    for t, z in enumerate(rows("gaussian", d, seed, "steps", n)):
        rate = 0.02 * (1 - t / n if schedule == "linear" else 1)
        projected = (value(x + 0.1 * z) - value(x - 0.1 * z)) / (2 * 0.1)
        x = x - rate * projected * z
        expected.append(x)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(method.recommendation().x, got[-1])


def test_mezo_perturbs_by_what_its_noise_allows():
    d = 4
    assert MeZO(np.ones(d), 1000, scale=3.0, paired=True)._perturbation() == pytest.approx(3e-3)
    known = MeZO(np.ones(d), 2000, noise=0.5, hessian_lipschitz=2.0)
    assert known._perturbation() == pytest.approx((0.25 / (1000 * 4)) ** (1 / 6))
    assert MeZO(np.ones(d), 2000, scale=3.0)._perturbation() == pytest.approx(3 * 1000 ** (-1 / 6))
    wide = MeZO(np.ones(d), 200, noise=100.0, hessian_lipschitz=1.0)
    assert wide._perturbation() == pytest.approx(0.5)
    np.testing.assert_allclose(wide._radius(0), 1.0)


# Rates ------------------------------------------------------------------------------------------


def mean_regret(make, budget, runs):
    total = 0.0
    for seed in range(runs):
        rng = np.random.default_rng(seed + 10**6)
        found = make(budget, seed).run(
            lambda x, rng=rng: np.sum(x**2, 1) / 2 + rng.normal(size=len(x))
        )
        total += np.sum(found.x**2) / 2
    return total / runs


@pytest.mark.parametrize(
    ("name", "exponent"),
    [("zosgd", 2 / 3), ("kernel", 2 / 3), ("asymptotic", 2 / 3), ("practical", 0.4)],
)
def test_regret_of_a_quadratic_falls_at_the_known_rate(name, exponent):
    # The noise of a pair is σ² d²/(2 h²) with h ~ t^(-1/6) (γ for SPSA); steps average it, which
    # leaves T^(-2/3), or T^(-(α - 2γ)) = T^(-0.4) for the practical gains. A mean of 5 regrets of
    # 64 squares varies by 8 %, the exponent over a factor of 16 in the budget by 0.04; 5.3 of that
    # is 0.21.
    d, runs = 64, 5

    def make(budget, seed):
        common = {"pairs": 16, "rng": seed, "final_share": 0}
        if name in ("zosgd", "kernel"):
            cls = ZOSGD if name == "zosgd" else KernelZO
            known = {"noise": 1.0, "strong_convexity": 1.0, "hessian_lipschitz": 1.0}
            return cls(np.zeros(d), budget, **known, smoothness=1.0, **common)
        step = {"step_size": 0.5 if name == "practical" else 1.0, "stability": 10.0}
        return SPSA(np.zeros(d), budget, gains=name, perturbation=1.0, **step, **common)

    small, large = mean_regret(make, 1500, runs), mean_regret(make, 24_000, runs)
    assert abs(math.log(small / large) / math.log(16) - exponent) < 0.21


def test_mezo_at_a_constant_rate_settles_where_it_must():
    # f = λ‖x‖²/2 and p pairs: E‖x⁺‖² = (1 - 2ηλ + η²λ²(1 + (d + 1)/p)) E‖x‖² + η² d σ²/(2 p ε²).
    d, p, lam, eta, eps = 20, 4, 2.0, 0.02, 0.3
    noise = eta * d / (2 * p * eps**2)
    expected = noise / (2 * lam - eta * lam**2 * (1 + (d + 1) / p))
    squares = []
    rng = np.random.default_rng(0)
    method = MeZO(
        np.zeros(d), 24_000, pairs=p, perturbation=eps, learning_rate=eta, rng=1, final_share=0
    )
    while not method.done:
        asked = method.ask()
        values = lam / 2 * np.sum(asked.points**2, axis=1) + rng.normal(size=len(asked))
        method.tell(asked, values)
        squares.append(np.sum(method.state.x**2))
    # 2800 steps with a memory of 1/(ηλ) = 25 of them and 20 coordinates: some 2000 free squares,
    # 3 % standard deviation of their mean; 18 % is 6 of that.
    assert np.mean(squares[200:]) == pytest.approx(expected, rel=0.18)


@pytest.mark.parametrize("cls", ALL)
def test_every_method_gets_closer_with_nothing_known(cls):
    problem = skew(5, rng=0)
    method = cls(problem.start, 6000, pairs=4, rng=0)
    found = method.run(problem.noisy(0.3, rng=1))
    assert problem.regret(found.x) < 0.2 * problem.regret(problem.start)


# Evaluations, values ----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("budget", [100, 101, 107])
def test_evaluations_are_counted_exactly(cls, pairs, budget):
    sizes = []

    def fun(points):
        sizes.append(len(points))
        return value(points)

    method = cls(np.ones(2), budget, pairs=pairs, final_share=0.1)
    method.run(fun)
    last = int(0.1 * budget)
    stepping = (budget - last) // 2 - 10
    whole, rest = divmod(stepping, pairs)
    assert sizes == [20, *[2 * pairs] * whole, *([2 * rest] if rest else []), last]
    assert method.nfev == sum(sizes) and budget - 1 <= method.nfev <= budget
    assert method.state.step == method.steps == whole + (rest > 0)


@pytest.mark.parametrize("cls", ALL)
def test_the_least_budget_works_and_less_is_refused(cls):
    method = cls(np.ones(2), 24)
    method.run(value)
    assert method.minimum_budget() == 24 and method.state.step == 1
    with pytest.raises(ValueError, match="at least 24"):
        cls(np.ones(2), 23)
    assert cls(np.ones(2), 34, pairs=7, final_share=0).minimum_budget() == 34


@pytest.mark.parametrize("cls", ALL)
def test_the_value_is_one_of_the_recommended_point(cls):
    # 30 runs: a two-sided error above 5.3 σ of their mean has probability 1e-7.
    errors = []
    for seed in range(30):
        problem = skew(3, rng=seed)
        method = cls(problem.start, 400, pairs=10, rng=seed, final_share=0.25)
        found = method.run(problem.noisy(1.0, rng=seed + 1000))
        assert found.noise_std == pytest.approx(1.0, abs=0.5)
        assert found.fun_std == pytest.approx(found.noise_std / 10)
        errors.append((found.fun - problem.fun(found.x)) / 0.1)
    assert abs(np.mean(errors)) * math.sqrt(30) < 5.3


def test_a_share_of_zero_leaves_the_value_open():
    found = ZOSGD(np.ones(2), 200, final_share=0).run(value)
    assert math.isnan(found.fun) and math.isnan(found.fun_std)


def test_values_are_no_more_than_anybody_needs():
    method = ZOSGD(np.ones(2), 40_000, pairs=5000, final_share=0.5)
    asked = 0
    while not method.done:
        now = method.ask()
        asked = len(now)
        method.tell(now, np.zeros(len(now)))
    assert asked == 10_000


def test_told_deviations_weight_pairs_and_values():
    d = 3
    method = ZOSGD(
        np.ones(d), 100, pairs=2, step_size=0.1, radius=0.5, max_radius=0.5, rng=0, final_share=0.2
    )
    asked = method.ask()
    sigma = np.array([1.0, 1.0, 2.0, 4.0])
    y = np.array([3.0, 1.0, -5.0, 2.0])
    method.tell(asked, y, sigma)
    u = rows("sphere", d, 0, "steps", 2)
    w = np.array([1 / 2, 1 / 20]) / (1 / 2 + 1 / 20)
    h = method._radius(0)
    g = d / (2 * h) * (w[0] * 2.0 * u[0] + w[1] * -7.0 * u[1])
    np.testing.assert_allclose(method.state.x, np.ones(d) - method._step_size(0) * g, rtol=1e-12)
    while len(asked := method.ask()) != 20:
        method.tell(asked, value(asked.points), 1.0)
    spread = np.where(np.arange(20) < 10, 1.0, 3.0)
    values = np.where(np.arange(20) < 10, 2.0, 12.0)
    method.tell(asked, values, spread)
    assert method.recommendation().fun == pytest.approx((2 * 1 + 12 / 9) / (1 + 1 / 9))


@pytest.mark.parametrize("cls", ALL)
def test_lost_pairs_take_no_part(cls):
    problem = skew(3, rng=0)
    noisy, lost = problem.noisy(0.1, rng=1), np.random.default_rng(2)

    def fun(points):
        values = noisy(points)
        values[lost.random(len(values)) < 0.02] = np.nan
        return values

    method = cls(problem.start, 4000, pairs=5, rng=0)
    found = method.run(fun)
    assert method.lost > 20 and method.status == 0
    assert np.isfinite(found.x).all() and np.isfinite(found.fun)
    assert problem.regret(found.x) < 0.3 * problem.regret(problem.start)


def test_a_lost_pair_alone_is_a_step_that_stays():
    method = ZOSGD(np.ones(2), 100, step_size=0.1, rng=0)
    asked = method.ask()
    method.tell(asked, [1.0, np.nan])
    assert method.state.step == 1
    np.testing.assert_array_equal(method.state.x, 1)


# Symmetries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
def test_scaling_the_function_changes_no_point(cls):
    def run(factor):
        method = cls(np.ones(3), 600, rng=0, final_share=0.1)
        return method.run(lambda x: factor * value(np.round(x, 6)))

    base = run(1.0)
    for factor in (2.0**30, 2.0**-30):
        scaled = run(factor)
        np.testing.assert_array_equal(scaled.x, base.x)
        assert scaled.fun == pytest.approx(factor * base.fun, rel=1e-12)


@pytest.mark.parametrize("cls", ALL)
def test_scaling_the_coordinates_scales_the_points(cls):
    def run(unit):
        method = cls(unit * np.ones(3), 600, scale=unit * np.array([1.0, 2.0, 4.0]), rng=0)
        return method.run(lambda x: value(np.round(x / unit, 6)))

    np.testing.assert_allclose(run(1e4).x, 1e4 * run(1.0).x, rtol=1e-7)


# Bounds, divergence -----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("bounds", [[(-1, 0.3), (None, 0.1), (-0.4, 0.4)], Ball([0.0] * 3, 0.5)])
@pytest.mark.parametrize("scale", [1.0, [1.0, 2.0, 0.5]])
def test_nothing_outside_the_bounds_is_evaluated(cls, bounds, scale):
    rng = np.random.default_rng(0)

    def fun(points):
        if isinstance(bounds, Ball):
            assert np.linalg.norm(points, axis=1).max() <= 0.5
        else:
            for column, (low, high) in enumerate(bounds):
                assert low is None or points[:, column].min() >= low
                assert high is None or points[:, column].max() <= high
        return np.sum((points - 1) ** 2, axis=1) + 0.02 * rng.normal(size=len(points))

    method = cls(np.zeros(3), 6000, bounds=bounds, scale=scale, pairs=10, rng=0)
    found = method.run(fun)
    best = np.full(3, 0.5 / math.sqrt(3)) if isinstance(bounds, Ball) else [0.3, 0.1, 0.4]
    if scale == 1.0:
        np.testing.assert_allclose(found.x, best, atol=0.08)
    # The other scale is a wrong one for this function, and steps along one axis are too short.
    assert np.linalg.norm(found.x - best) < 0.7 * np.linalg.norm(best)


@pytest.mark.parametrize("bounds", [[(-1, 0.1), (0, 3), (-5, 5)], Ball([0.0] * 3, 1.0)])
def test_pairs_that_had_to_shrink_give_the_same_gradient(bounds):
    # A linear function and complete orthogonal blocks, for which an estimate is exact.
    gradient = np.array([1.0, -2.0, 0.5])
    method = ZOSGD(
        np.zeros(3),
        100,
        pairs=6,
        radius=2.0,
        max_radius=2.0,
        step_size=0.01,
        scale=[1.0, 2.0, 0.5],
        bounds=bounds,
        directions="orthogonal",
        rng=0,
    )
    asked = method.ask()
    method.tell(asked, asked.points @ gradient)
    metric = np.array([1.0, 2.0, 0.5])
    step = -method._step_size(0) * gradient * metric
    expected = method.space.project(step)
    np.testing.assert_allclose(method.state.x, expected, atol=1e-12)


@pytest.mark.parametrize("cls", [ZOSGD, SPSA])
def test_a_run_that_diverges_says_so_and_ends(cls):
    method = cls(np.ones(2), 20_000, step_size=30.0, rng=0)
    with pytest.warns(ZerothWarning, match=f"{method.name} diverged after"):
        found = method.run(lambda x: 50 * np.sum(x**2, axis=1))
    assert method.nfev < 100
    assert method.status == 1 and "diverged" in method.message
    assert np.isfinite(found.x).all()


def test_a_probed_first_step_that_was_too_long_is_made_good():
    # Curvatures 1 and 100 with a start on the flat axis: the probes see a small slope, and the
    # first steps are ten times as long as the steep axis takes.
    curvature = np.array([1.0, 100.0])

    def fun(points):
        return points**2 @ curvature / 2

    method = ZOSGD(np.array([3.0, 0.0]), 4000, radius=1e-3, rng=0)
    found = method.run(fun)
    assert method.status == 0 and fun(found.x) < 0.1 * fun(np.array([3.0, 0.0]))
    assert max(record.step_norm for record in method.trace) <= math.sqrt(2) * (1 + 1e-12)


def test_a_flat_function_moves_nothing():
    for cls in ALL:
        found = cls(np.ones(2), 200, rng=0).run(lambda x: np.zeros(len(x)))
        np.testing.assert_array_equal(found.x, 1)
        assert found.fun == 0 and found.noise_std == 0


# Resume, tensors, one call ----------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("pairs", [1, 7])
def test_a_run_goes_on_bit_for_bit_wherever_it_was_saved(tmp_path, cls, pairs):
    def make():
        return cls(np.ones(3), 700, pairs=pairs, rng=3, final_share=0.1)

    whole = make()
    expected = whole.run(value)
    for stop in (0, 1, whole.nit // 2, whole.nit - 1):
        first = make()
        for _ in range(stop):
            asked = first.ask()
            first.tell(asked, value(asked.points))
        half = first.ask(1)
        first.tell(half, value(half.points))
        first.save(tmp_path / "state")
        second = make()
        second.load(tmp_path / "state")
        found = second.run(value)
        np.testing.assert_array_equal(found.x, expected.x)
        assert (found.fun, found.fun_std) == (expected.fun, expected.fun_std)
        assert second.nfev == whole.nfev
        assert [r.fun for r in second.trace] == [r.fun for r in whole.trace]


@pytest.mark.parametrize("cls", ALL)
def test_other_options_are_other_runs(cls, tmp_path):
    method = cls(np.ones(3), 700, rng=3)
    method.save(tmp_path / "state")
    with pytest.raises(ValueError, match="pairs"):
        cls(np.ones(3), 700, rng=3, pairs=2).load(tmp_path / "state")
    with pytest.raises(ValueError, match="average"):
        cls(np.ones(3), 700, rng=3, average="all").load(tmp_path / "state")


@pytest.mark.parametrize("cls", ALL)
def test_tensors_give_the_same_points(cls):
    torch = pytest.importorskip("torch")
    bounds = [(-1, 1.5), (None, 2), (None, None)]
    arrays = cls(np.ones(3), 500, pairs=3, bounds=bounds, rng=0)
    tensors = cls(torch.ones(3, dtype=torch.float64), 500, pairs=3, bounds=bounds, rng=0)
    found = arrays.run(lambda x: value(np.round(x, 6)))
    same = tensors.run(lambda x: torch.from_numpy(value(np.round(x.numpy(), 6))))
    np.testing.assert_allclose(same.x, found.x, rtol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("cls", ALL)
def test_points_on_the_device_are_the_same(cls):
    import torch

    bounds = [(-1, 1.5), (None, 2), (None, None)]
    arrays = cls(np.ones(3), 500, pairs=3, bounds=bounds, rng=0)
    tensors = cls(np.ones(3), 500, pairs=3, bounds=bounds, rng=0, device="cuda")

    def on_device(points):
        assert points.is_cuda and points.dtype == torch.float64
        return torch.from_numpy(value(np.round(points.cpu().numpy(), 6))).cuda()

    found = arrays.run(lambda x: value(np.round(x, 6)))
    np.testing.assert_allclose(tensors.run(on_device).x, found.x, rtol=1e-9)


@pytest.mark.parametrize("name", ["zosgd", "spsa", "kernel", "mezo"])
def test_one_call(name):
    problem = skew(3, rng=0)
    noisy = problem.noisy(0.2, rng=1)
    result = minimize(noisy, problem.start, 3000, method=name, vectorized=True, rng=0)
    assert result.success and result.nfev <= 3000
    assert problem.regret(result.x) < 0.5 * problem.regret(problem.start)
    assert abs(result.fun - problem.fun(result.x)) < 6 * result.fun_std
    assert 100 <= len(result.trace) <= 400
    assert issubclass(method_class(name), Streaming)


@pytest.mark.parametrize("name", ["spsa", "mezo"])
def test_methods_that_are_their_directions_have_no_others(name):
    with pytest.raises(ValueError, match=f"method '{name}' has no option 'directions'"):
        minimize(value, np.ones(2), 500, method=name, directions="orthogonal")


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (ZOSGD, {"pairs": 0}, "pairs must be at least 1"),
        (ZOSGD, {"average": "median"}, "average must be one of"),
        (ZOSGD, {"first_step": 0}, "first_step must be positive"),
        (ZOSGD, {"final_share": 0.6}, r"final_share must lie in \[0, 0.5\]"),
        (ZOSGD, {"smoothness": -1.0}, "smoothness must be positive"),
        (SPSA, {"gains": "magic"}, "gains must be one of"),
        (SPSA, {"stability": -1.0}, "stability must be zero or positive"),
        (KernelZO, {"order": 0}, "order must be at least 1"),
        (MeZO, {"schedule": "cosine"}, "schedule must be one of"),
        (MeZO, {"learning_rate": math.nan}, "learning_rate must be positive"),
    ],
)
def test_wrong_options_are_refused(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(np.ones(2), 500, **options)
