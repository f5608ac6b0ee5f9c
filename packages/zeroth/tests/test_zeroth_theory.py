"""Formulas against exact integration over spheres, exact noise algebra, solvers and simulation."""

import inspect
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.stats import ncx2, norm

from modicum.zeroth import theory
from modicum.zeroth.linalg import clipped_newton, floor_eigenvalues, inv_sqrt

QUICK = settings(derandomize=True, max_examples=60, deadline=None)
positive = st.floats(1e-3, 1e3)


def random_orthogonal(rng, d):
    q, r = np.linalg.qr(rng.normal(size=(d, d)))
    return q * np.sign(np.diag(r))


def random_spd(rng, d, low=0.3, high=3.0):
    V = random_orthogonal(rng, d)
    return (V * np.exp(rng.uniform(np.log(low), np.log(high), d))) @ V.T


def sphere_rule(d, order=40):
    """Points (n, d), weights (n,): exact for polynomials up to `order`; d = 1, 2, 3."""
    if d == 1:
        return np.array([[1.0], [-1.0]]), np.array([0.5, 0.5])
    angle = 2 * np.pi * np.arange(2 * order) / (2 * order)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if d == 2:
        return circle, np.full(2 * order, 1 / (2 * order))
    height, weight = np.polynomial.legendre.leggauss(order)
    flat = np.sqrt(1 - height**2)[:, None, None] * circle
    points = np.concatenate([flat, np.broadcast_to(height[:, None, None], (*flat.shape[:2], 1))], 2)
    return points.reshape(-1, 3), np.repeat(weight / 2, 2 * order) / (2 * order)


def exact_moments(fun, x, Z, noise):
    """Mean of one pair's estimate, and the trace of its covariance, by the rule for d <= 3."""
    d = len(x)
    U, w = sphere_rule(d)
    odd = (fun(x + U @ Z) - fun(x - U @ Z)) / 2
    mean = d * (w * odd) @ U
    trace = d**2 * (w @ odd**2) + d**2 * noise**2 / 2 - mean @ mean
    return mean, trace


def cubic_bias(tensor, Z):
    """``E ĝ - Z∇f`` of a cubic: ``d E[T(Zu, Zu, Zu) u] / 6``, from the fourth moments of u."""
    d = len(Z)
    pulled = np.einsum("ijk,ia,jb,kc->abc", tensor, Z, Z, Z)
    # E[u_a u_b u_c u_e] = (δδ + δδ + δδ) / (d (d + 2)).
    return 3 * np.einsum("abb->a", pulled) / (6 * (d + 2))


def lipschitz(tensor):
    """The Frobenius-Lipschitz constant of a cubic's Hessian: greatest ‖T·v‖_F of a unit v."""
    return np.linalg.norm(tensor.reshape(len(tensor), -1), 2)


def attaining_tensor(d, rho, e):
    """Third derivative of ``(ρ/√d)((e·x)‖x‖²/2 - (e·x)³/3)``."""
    eye = np.eye(d)
    symmetric = sum(
        np.einsum(f"i,jk->{out}", e, eye) for out in ("ijk", "jik", "jki")
    )  # of (e·x)‖x‖²/2
    return rho / math.sqrt(d) * (symmetric - 2 * np.einsum("i,j,k->ijk", e, e, e))


def attaining_cubic(d, rho, e):
    def fun(x):
        along = x @ e
        return rho / math.sqrt(d) * (along * (x**2).sum(-1) / 2 - along**3 / 3)

    return fun


# The two-point estimator -------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("which", ["f3", "separable"])
def test_bias_bound_is_attained(d, which):
    rho, r = 2.0, 1.5
    e = np.ones(d) / math.sqrt(d)
    tensor = np.zeros((d, d, d))
    if which == "f3":
        e = np.random.default_rng(d).normal(size=d)
        e /= np.linalg.norm(e)
        tensor = attaining_tensor(d, rho, e)
    else:
        tensor[np.arange(d), np.arange(d), np.arange(d)] = rho
    assert lipschitz(tensor) == pytest.approx(rho)
    bias = cubic_bias(tensor, r * np.eye(d))
    bound = theory.bias_bound(dimension=d, hessian_lipschitz=rho, radius=r)
    assert np.linalg.norm(bias) == pytest.approx(bound, rel=1e-12)
    np.testing.assert_allclose(bias, bound * e, rtol=1e-10)
    if d <= 3:
        fun = attaining_cubic(d, rho, e) if which == "f3" else lambda x: rho / 6 * (x**3).sum(-1)
        mean, _ = exact_moments(fun, np.zeros(d), r * np.eye(d), 0.0)
        np.testing.assert_allclose(mean, bias, rtol=1e-12)


def test_bias_bound_figures():
    assert theory.bias_bound(dimension=2, hessian_lipschitz=2, radius=1.5) == pytest.approx(
        1.19324, abs=5e-6
    )
    assert theory.bias_bound(dimension=10, hessian_lipschitz=2, radius=1.5) == pytest.approx(
        0.88939, abs=5e-6
    )


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_bias_bound_holds_for_ellipsoids_and_any_cubic(d):
    rng = np.random.default_rng(d)
    for _ in range(50):
        tensor = rng.normal(size=(d, d, d))
        tensor = sum(np.transpose(tensor, p) for p in itertools.permutations(range(3)))
        Z = random_spd(rng, d)
        bound = theory.bias_bound(
            dimension=d, hessian_lipschitz=lipschitz(tensor), radius=np.linalg.norm(Z, 2)
        )
        assert np.linalg.norm(cubic_bias(tensor, Z)) <= bound * (1 + 1e-12)


def ridge_function(rng, d):
    """A smooth function that is no polynomial, and its gradient and Lipschitz constant."""
    w = np.linalg.qr(rng.normal(size=(d, d)))[0]
    a, b = rng.uniform(0.5, 2, d), rng.normal(size=d)

    def fun(x):
        return (a * np.log(2 * np.cosh(x @ w.T + b))).sum(-1)

    def gradient(x):
        return w.T @ (a * np.tanh(w @ x + b))

    # |(log cosh)'''| = |2 tanh sech²| <= 4/(3√3), and the ridges are orthonormal.
    return fun, gradient, a.max() * 4 / (3 * math.sqrt(3))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_bias_and_variance_bounds_hold_beyond_cubics(d):
    rng = np.random.default_rng(40 + d)
    closest = 0.0
    for _ in range(40):
        fun, gradient, rho = ridge_function(rng, d)
        x, noise = rng.normal(size=d), rng.choice([0.0, 0.3])
        Z = random_spd(rng, d, 0.1, 1.0)
        mean, trace = exact_moments(fun, x, Z, noise)
        r, target = np.linalg.norm(Z, 2), Z @ gradient(x)
        bias = theory.bias_bound(dimension=d, hessian_lipschitz=rho, radius=r)
        assert np.linalg.norm(mean - target) <= bias
        closest = max(closest, np.linalg.norm(mean - target) / bias)
        bound = theory.variance_bound(
            dimension=d,
            hessian_lipschitz=rho,
            noise=noise,
            pairs=1,
            radius=r,
            gradient_norm=np.linalg.norm(target),
        )
        assert trace <= bound
    assert closest > 0.1


def test_gradient_bias_is_the_estimators_over_the_radius_and_inverts():
    d, rho, r = np.array([1, 4, 30]), 0.7, np.array([0.1, 1.0, 3.0])
    constants = {"dimension": d, "hessian_lipschitz": rho, "radius": r}
    bias = theory.gradient_bias_bound(**constants)
    np.testing.assert_allclose(bias * r, theory.bias_bound(**constants), rtol=1e-14)
    np.testing.assert_allclose(theory.effective_lipschitz(bias / r**2, dimension=d), [rho] * 3)


def test_variance_bound_terms():
    constants = {"dimension": 3, "pairs": 7}
    assert theory.variance_bound(
        **constants, hessian_lipschitz=0, noise=0, radius=9, gradient_norm=2
    ) == pytest.approx(2 * 3 / 7 * 4)
    assert theory.variance_bound(
        **constants, hessian_lipschitz=5, noise=0, radius=2
    ) == pytest.approx(9 / (18 * 7) * 25 * 64)
    assert theory.variance_bound(
        **constants, hessian_lipschitz=0, noise=3, radius=2
    ) == pytest.approx(9 * 9 / 14)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_quadratic_variance_is_exact(d):
    rng = np.random.default_rng(d)
    A, b, x, Z = random_spd(rng, d), rng.normal(size=d), rng.normal(size=d), random_spd(rng, d)
    mean, trace = exact_moments(
        lambda p: np.einsum("ni,ij,nj->n", p, A, p) / 2 + p @ b, x, Z, noise=0.7
    )
    target = Z @ (A @ x + b)
    np.testing.assert_allclose(mean, target, rtol=1e-12)
    constants = {"dimension": d, "noise": 0.7, "gradient_norm": np.linalg.norm(target)}
    assert theory.quadratic_variance(**constants, pairs=1) == pytest.approx(trace, rel=1e-10)
    assert theory.quadratic_variance(**constants, pairs=8) == pytest.approx(trace / 8, rel=1e-10)


def test_quadratic_variance_is_that_of_simulated_estimates():
    d, pairs, repeats, noise = 6, 4, 40_000, 0.8
    rng = np.random.default_rng(11)
    target = rng.normal(size=d)
    u = rng.normal(size=(repeats, pairs, d))
    u /= np.linalg.norm(u, axis=2, keepdims=True)
    difference = 2 * u @ target + noise * rng.normal(size=(repeats, pairs, 2)) @ [1, -1]
    estimate = d / 2 * np.einsum("rp,rpd->rd", difference, u) / pairs
    squared = ((estimate - target) ** 2).sum(1)
    expected = theory.quadratic_variance(
        dimension=d, noise=noise, pairs=pairs, gradient_norm=np.linalg.norm(target)
    )
    # Six standard errors: error probability below 1e-8.
    assert abs(squared.mean() - expected) < 6 * squared.std() / math.sqrt(repeats)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_complete_blocks_leave_only_the_noise(d):
    rng = np.random.default_rng(d)
    blocks, noise = 3, 0.9
    U = np.concatenate([random_orthogonal(rng, d) for _ in range(blocks)])
    gradient = rng.normal(size=d)
    np.testing.assert_allclose(d / 2 * (2 * U @ gradient) @ U / len(U), gradient, rtol=1e-12)
    # The estimate is linear in the noise of the differences, whose variance is 2 σ².
    weights = d / 2 * U / len(U)
    trace = 2 * noise**2 * np.trace(weights.T @ weights)
    assert theory.orthogonal_variance(dimension=d, noise=noise, pairs=d * blocks) == pytest.approx(
        trace, rel=1e-12
    )


# The coordinate estimators -----------------------------------------------------------------------


def test_coordinate_gradient():
    rho, r, x = 1.3, 0.4, 0.2
    cubic = np.polynomial.Polynomial([1, 2, -1, rho / 6])
    difference = (cubic(x + r) - cubic(x - r)) / (2 * r)
    assert difference - cubic.deriv()(x) == pytest.approx(
        theory.coordinate_bias_bound(hessian_lipschitz=rho, radius=r)
    )
    # Two means of 5 values, subtracted and divided by 2 r.
    assert theory.coordinate_variance(noise=0.7, samples=5, radius=r) == pytest.approx(
        (0.7**2 / 5 + 0.7**2 / 5) / (2 * r) ** 2
    )


def hessian_weights(d, r):
    """Rows: entries (k, l) of the estimate as a linear map of the means at all its points."""
    points = [np.zeros(d)]
    for k in range(d):
        points += [r * np.eye(d)[k], -r * np.eye(d)[k]]
    for k, m in itertools.combinations(range(d), 2):
        for a, b in itertools.product([1, -1], repeat=2):
            points.append(r * (a * np.eye(d)[k] + b * np.eye(d)[m]))
    points = np.array(points)
    rows = {}
    for k in range(d):
        row = np.zeros(len(points))
        row[[0, 2 * k + 1, 2 * k + 2]] = np.array([-2, 1, 1]) / r**2
        rows[k, k] = row
    for number, (k, m) in enumerate(itertools.combinations(range(d), 2)):
        row = np.zeros(len(points))
        start = 1 + 2 * d + 4 * number
        row[start : start + 4] = np.array([1, -1, -1, 1]) / (4 * r**2)
        rows[k, m] = rows[m, k] = row
    return points, rows


@pytest.mark.parametrize("d", [1, 2, 4])
def test_hessian_noise_is_exact(d):
    r, noise, samples = 0.6, 0.3, 7
    points, rows = hessian_weights(d, r)
    assert len(points) == 2 * d**2 + 1
    unit = noise**2 / samples
    parts = theory.hessian_covariance(noise=noise, samples=samples, radius=r)
    assert unit * rows[0, 0] @ rows[0, 0] == pytest.approx(parts.diagonal)
    if d > 1:
        assert unit * rows[0, 0] @ rows[1, 1] == pytest.approx(parts.between_diagonal)
        assert unit * rows[0, 1] @ rows[0, 1] == pytest.approx(parts.off_diagonal)
        assert rows[0, 1] @ rows[0, 0] == 0
    total = unit * sum(rows[k, m] @ rows[k, m] for k in range(d) for m in range(d))
    assert total == pytest.approx(
        theory.hessian_variance(dimension=d, noise=noise, samples=samples, radius=r)
    )


@pytest.mark.parametrize("d", [1, 2, 3])
def test_hessian_bias_bound_holds(d):
    rng = np.random.default_rng(d)
    closest = 0.0
    for _ in range(40):
        r = 10 ** rng.uniform(-1, 1)
        points, rows = hessian_weights(d, r)
        w, b, a = random_orthogonal(rng, d), rng.normal(size=d), rng.uniform(0.1, 1, d)
        # g'' = √(1 + t²) is as good as a kink far out: |g'''| <= 1, and orthonormal ridges.
        t = points @ w.T + b
        g = (1 + t**2) ** 1.5 / 6 + t * np.arcsinh(t) / 2 - np.sqrt(1 + t**2) / 2
        values = (a * g).sum(-1)
        true = (w.T * (a * np.sqrt(1 + b**2))) @ w
        estimate = np.array([[rows[k, m] @ values for m in range(d)] for k in range(d)])
        bound = theory.hessian_bias_bound(dimension=d, hessian_lipschitz=a.max(), radius=r)
        assert np.linalg.norm(estimate - true) <= bound
        closest = max(closest, np.linalg.norm(estimate - true) / bound)
    assert closest > 0.1


def test_hessian_bias_bound_by_hand_and_where_curvature_has_a_kink():
    assert theory.hessian_bias_bound(dimension=3, hessian_lipschitz=2, radius=0.5) == pytest.approx(
        math.sqrt(2)
    )
    # f = ρ|x|³/6 in one dimension: second difference ρ r/3, a √2 below the bound for any d.
    rho, r = 1.4, 0.3
    points, rows = hessian_weights(1, r)
    estimate = rows[0, 0] @ (rho * np.abs(points[:, 0]) ** 3 / 6)
    bound = theory.hessian_bias_bound(dimension=1, hessian_lipschitz=rho, radius=r)
    assert estimate * math.sqrt(2) == pytest.approx(bound)


# Tails -------------------------------------------------------------------------------------------


def test_sub_gaussian_convention():
    s = theory.GAUSSIAN_TAIL_SCALE
    t = np.linspace(0, 30, 3001)
    assert (2 * norm.sf(t) <= 2 * np.exp(-(t**2) / s**2)).all()
    assert (2 * norm.sf(t) > 2 * np.exp(-(t**2) / (0.99 * s) ** 2)).any()


@pytest.mark.parametrize("d", [1, 3, 20])
@pytest.mark.parametrize("r", [0.1, 0.6, 3.0])
def test_gradient_tail_holds_exactly(d, r):
    constants = {"hessian_lipschitz": 1.5, "radius": r}
    noise = {"noise": 0.8, "samples": 4, "radius": r}
    entry = theory.coordinate_bias_bound(**constants)
    variance = theory.coordinate_variance(**noise)
    deviation = np.linspace(0, 12, 100) * math.sqrt(d * (variance + entry**2))
    # Worst bias in every entry: squared errors follow a noncentral χ².
    true = ncx2.sf(deviation**2 / variance, d, d * entry**2 / variance)
    bound = theory.gradient_tail(deviation, dimension=d, **constants | noise)
    assert (true <= bound).all()
    assert bound[-1] < 1


def weighted_chi2_tail_bound(weights, threshold):
    """Chernoff's bound of P(Σ w_i χ²_1 >= threshold), least over a grid of exponents."""
    exponents = np.linspace(1e-3, 0.999, 400) / (2 * weights.max())
    logs = -0.5 * np.log1p(-2 * np.outer(exponents, weights)).sum(1)
    return np.exp(np.min(logs - exponents * threshold))


@pytest.mark.parametrize("d", [1, 2, 6])
def test_hessian_tail_holds(d):
    r, rho, samples = 0.7, 0.4, 9
    noise = {"noise": 0.5, "samples": samples, "radius": r}
    parts = theory.hessian_covariance(**noise)
    diagonal = np.full((d, d), parts.between_diagonal)
    np.fill_diagonal(diagonal, parts.diagonal)
    weights = np.r_[np.linalg.eigvalsh(diagonal), np.full(d * (d - 1) // 2, 2 * parts.off_diagonal)]
    assert weights.sum() == pytest.approx(theory.hessian_variance(dimension=d, **noise))
    bias = theory.hessian_bias_bound(dimension=d, hessian_lipschitz=rho, radius=r)
    for multiple in (1.0, 3.0, 6.0, 10.0, 15.0):
        K = bias + multiple * math.sqrt(weights.sum())
        true = weighted_chi2_tail_bound(weights, (K - bias) ** 2)
        assert true <= theory.hessian_tail(K, dimension=d, hessian_lipschitz=rho, **noise)


def test_tail_values_by_hand():
    constants = {"dimension": 2, "hessian_lipschitz": 3, "noise": 0.5, "samples": 10, "radius": 0.5}
    denominator = 3 * 2 * 9 * 0.5**4 / 4 + 12 * 2 * 0.25 / (10 * 0.25)
    assert theory.gradient_tail(1.1, **constants, tail_scale=1) == pytest.approx(
        2 * math.exp(-1.21 / denominator)
    )
    denominator = 2 * 4 * 9 * 0.25 + 144 * 4 * 0.25 / (10 * 0.5**4)
    assert theory.hessian_tail(1.1, **constants, tail_scale=1) == pytest.approx(
        2 * math.exp(-1.21 / denominator)
    )
    # A Gaussian of standard deviation σ is sub-Gaussian with √2 σ.
    wider = constants | {"noise": 0.5 * math.sqrt(2)}
    assert theory.gradient_tail(1.1, **constants) == theory.gradient_tail(
        1.1, **wider, tail_scale=1
    )

    assert theory.hessian_tail(1.1, **constants) == theory.hessian_tail(1.1, **wider, tail_scale=1)


@QUICK
@given(st.integers(1, 50), positive, positive, st.integers(1, 10**6))
def test_hessian_tail_denominator_at_its_radius(d, rho, sigma, samples):
    constants = {"hessian_lipschitz": rho, "noise": sigma, "samples": samples}
    r = theory.radius("hessian", **constants)
    bound = theory.hessian_tail_denominator(dimension=d, **constants)
    deviation = math.sqrt(bound)
    tail = theory.hessian_tail(deviation, dimension=d, **constants, radius=r, tail_scale=1)
    exact = -(deviation**2) / math.log(tail / 2)
    assert 0.98 * bound < exact <= bound
    assert exact == pytest.approx(bound * 3 * 144 ** (1 / 3) / 16, rel=1e-9)


# Radii -------------------------------------------------------------------------------------------


def objectives(d, rho, sigma, n):
    return {
        "gradient": lambda r: rho**2 * r**4 / (4 * d) + d**2 * sigma**2 / (2 * n * r**2),
        "gradient-exact": lambda r: (
            rho**2 * r**4 * d / (4 * (d + 2) ** 2) + d**2 * sigma**2 / (2 * n * r**2)
        ),
        "bootstrap": lambda r: 3 * rho**2 * r**4 / 4 + 12 * sigma**2 / (n * r**2),
        "hessian": lambda r: 2 * rho**2 * r**2 + 144 * sigma**2 / (n * r**4),
        "coordinate": lambda r: rho**2 * r**4 / 36 + sigma**2 / (2 * n * r**2),
    }


@pytest.mark.parametrize(
    "kind", ["gradient", "gradient-exact", "bootstrap", "hessian", "coordinate"]
)
@pytest.mark.parametrize(
    ("d", "rho", "sigma", "n"), [(1, 1, 1, 1), (7, 0.2, 3.0, 40), (50, 30, 1e-3, 10**6)]
)
def test_radii_minimise_their_bounds(kind, d, rho, sigma, n):
    gradient = kind.startswith("gradient")
    count = {"dimension": d, "pairs": n} if gradient else {"samples": n}
    found = theory.radius(kind, hessian_lipschitz=rho, noise=sigma, **count)
    objective = objectives(d, rho, sigma, n)[kind]
    solved = minimize_scalar(
        lambda log: objective(math.exp(log)) / objective(found),
        bracket=(math.log(found) - 1, math.log(found) + 0.7),
        options={"xtol": 1e-9},
    )
    assert math.log(found) == pytest.approx(solved.x, abs=1e-6)


def test_bounds_behind_the_radii():
    # What `radius` minimises is what the estimators' functions say.
    d, rho, sigma, n, r = 5, 0.7, 1.3, 60, 0.8
    goals = {kind: goal(r) for kind, goal in objectives(d, rho, sigma, n).items()}
    sampling = {"noise": sigma, "radius": r}
    constants = {"hessian_lipschitz": rho, "radius": r}
    exact = theory.gradient_bias_bound(dimension=d, **constants) ** 2
    noise = theory.orthogonal_variance(dimension=d, noise=sigma, pairs=n) / r**2
    assert goals["gradient-exact"] == pytest.approx(exact + noise)
    assert goals["gradient"] >= goals["gradient-exact"]
    coordinate = theory.coordinate_bias_bound(**constants) ** 2
    assert goals["coordinate"] == pytest.approx(
        coordinate + theory.coordinate_variance(**sampling, samples=n)
    )
    for kind, tail, power in (
        ("bootstrap", theory.gradient_tail, d),
        ("hessian", theory.hessian_tail, d**2),
    ):
        at_one = tail(1.0, dimension=d, **constants, noise=sigma, samples=n, tail_scale=1)
        assert -1 / math.log(at_one / 2) == pytest.approx(goals[kind] * power)


def test_radius_of_unknown_kind_or_without_a_count():
    constants = {"hessian_lipschitz": 1, "noise": 1}
    with pytest.raises(ValueError, match=r"kind must be one of.*'gradient'.*got 'newton'"):
        theory.radius("newton", **constants, samples=1)
    with pytest.raises(ValueError, match=r"radius\('hessian'\) needs samples"):
        theory.radius("hessian", **constants, pairs=3)
    with pytest.raises(ValueError, match=r"radius\('gradient'\) needs dimension"):
        theory.radius(**constants, pairs=3)


# Regret ------------------------------------------------------------------------------------------


@QUICK
@given(st.integers(1, 60), positive, positive, positive, st.integers(1, 10**7))
def test_predicted_regret_closed_form(d, M, rho, sigma, n):
    constants = {"hessian_lipschitz": rho, "noise": sigma, "pairs": n}
    r = theory.radius(dimension=d, **constants)
    terms = theory.predicted_regret(dimension=d, strong_convexity=M, **constants)
    assert terms.bias == pytest.approx(r**4 * rho**2 * d / (4 * (d + 2) ** 2) / (2 * M))
    assert terms.variance == pytest.approx(d**2 * sigma**2 / (2 * n * r**2) / (2 * M))
    assert terms.total == terms.bias + terms.variance
    limit = 3 / 8 * d * rho ** (2 / 3) * sigma ** (4 / 3) / (M * n ** (2 / 3))
    assert terms.total <= limit
    # (2/3 of the limit is noise; the rest is d²/(d + 2)² of a third.)
    assert terms.total == pytest.approx(limit * (2 + d**2 / (d + 2) ** 2) / 3)
    assert terms == theory.predicted_regret(dimension=d, strong_convexity=M, **constants, radius=r)


@pytest.mark.parametrize("shape", ["isotropic", "ellipsoid"])
def test_predicted_regret_is_that_of_simulated_final_steps(shape):
    # The separable cubic: at the minimiser, with the Hessian known, on its own worst point.
    d, n, rho, sigma, runs = 5, 400, 1.0, 1.0, 1500
    rng = np.random.default_rng(3)
    hessian = 2 * np.eye(d)
    constants = {"hessian_lipschitz": rho, "noise": sigma, "pairs": n}
    r = theory.radius(dimension=d, **constants)
    root = inv_sqrt(hessian)
    Z = r * (np.eye(d) if shape == "isotropic" else root / np.linalg.norm(root, 2))
    regret = np.empty(runs)
    for run in range(runs):
        u = rng.normal(size=(n, d))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        odd = rho / 6 * ((u @ Z) ** 3).sum(1)
        difference = 2 * odd + sigma * math.sqrt(2) * rng.normal(size=n)
        estimate = d / 2 * difference @ u / n
        step = -np.linalg.solve(hessian, np.linalg.solve(Z, estimate))
        regret[run] = step @ hessian @ step / 2
    # The variance of the cubic part is 1 % of the noise here and is not in the formula.
    predicted = theory.predicted_regret(dimension=d, strong_convexity=2, **constants).total
    standard_error = regret.std() / math.sqrt(runs)
    assert abs(regret.mean() - predicted) < 6 * standard_error + 0.02 * predicted


@pytest.mark.parametrize(
    ("d", "budgets", "figures"),
    [
        (5, [1e3, 1e4, 1e5, 1e6], [0.0236, 0.00509, 0.00110, 0.000236]),
        (10, [1e3, 1e4, 1e5, 1e6], [0.0472, 0.0102, 0.00219, 0.000472]),
    ],
)
def test_figures_of_the_adaptive_method(d, budgets, figures):
    # Upper form (3/8) d ρ^{2/3} σ^{4/3} / (λ n^{2/3}): the sharp total over its known share of it.
    pairs = theory.ADAPTIVE_SHARE * np.array(budgets)
    total = theory.predicted_regret(
        dimension=d, strong_convexity=2, hessian_lipschitz=1, noise=1, pairs=pairs
    ).total
    np.testing.assert_allclose(total * 3 / (2 + d**2 / (d + 2) ** 2), figures, rtol=6e-3)


def test_figures_of_radius_and_dimension_curves():
    known = {"strong_convexity": 2, "hessian_lipschitz": 1, "noise": 1}
    r = theory.radius(dimension=10, hessian_lipschitz=1, noise=1, pairs=20_000)
    curve = theory.predicted_regret(
        dimension=10, **known, pairs=20_000, radius=r * np.array([0.25, 0.5, 1, 2, 4])
    ).total
    np.testing.assert_allclose(curve, [0.0272, 0.0068, 0.0023, 0.0098, 0.151], rtol=0.03)
    over_d = theory.predicted_regret(
        dimension=np.array([4, 8, 16, 32, 64]), **known, pairs=100_000
    ).total
    np.testing.assert_allclose(over_d, [2.84e-4, 6.13e-4, 1.30e-3, 2.68e-3, 5.46e-3], rtol=5e-3)


def test_radius_penalty():
    assert theory.radius_penalty(1) == 1
    assert theory.radius_penalty(2) == pytest.approx(5.5)
    assert theory.radius_penalty(0.5) == pytest.approx(2.7, abs=0.02)
    # It is the ratio of the bound behind the radius of kind "gradient".
    goal = objectives(3, 0.4, 1.5, 70)["gradient"]
    r = theory.radius(dimension=3, hessian_lipschitz=0.4, noise=1.5, pairs=70)
    for c in (0.1, 0.7, 3.0):
        assert theory.radius_penalty(c) == pytest.approx(goal(c * r) / goal(r))
    # An eightfold error in ρ is a twofold one in the radius.
    wrong = theory.radius(dimension=3, hessian_lipschitz=3.2, noise=1.5, pairs=70)
    assert r / wrong == pytest.approx(2)


def worst_tensor(axes, eigenvalues):
    """A cubic of constant 1 whose bias along the least eigenvalue is greatest for these axes."""
    d = len(axes)
    least = int(np.argmin(eigenvalues))
    tensor = np.zeros((d, d, d))
    share = axes**2 / np.linalg.norm(axes**2)
    for j in range(d):
        for place in {(least, j, j), (j, least, j), (j, j, least)}:
            tensor[place] = share[j]
    return tensor


@pytest.mark.parametrize("d", [1, 2, 6])
def test_axes_regret_is_exact(d):
    rng = np.random.default_rng(d)
    lam = np.sort(np.exp(rng.uniform(-2, 2, d)))
    axes = lam**-0.3
    sigma, n, rho = 0.9, 50, 1.7
    terms = theory.axes_regret(axes, eigenvalues=lam, hessian_lipschitz=rho, noise=sigma, pairs=n)
    tensor = worst_tensor(axes, lam)
    assert lipschitz(tensor) == pytest.approx(1)
    bias = rho * cubic_bias(tensor, np.diag(axes)) / axes
    assert (bias**2 / lam).sum() / 2 == pytest.approx(terms.bias)
    # Noise: Cov ĝ = d σ²/(2 n) I, and the step is -H⁻¹ Z⁻¹ ĝ.
    covariance = d * sigma**2 / (2 * n) * np.diag(axes**-2)
    assert np.trace(np.diag(1 / lam) @ covariance) / 2 == pytest.approx(terms.variance)
    assert terms.total == terms.bias + terms.variance


@pytest.mark.parametrize("d", [2, 5])
def test_no_cubic_is_worse_for_the_axes(d):
    rng = np.random.default_rng(d)
    lam = np.exp(rng.uniform(-1, 1, d))
    for _ in range(100):
        axes = np.exp(rng.uniform(-1, 1, d))
        tensor = rng.normal(size=(d, d, d))
        tensor = sum(np.transpose(tensor, p) for p in itertools.permutations(range(3)))
        bias = cubic_bias(tensor, np.diag(axes)) / axes
        bound = theory.axes_regret(
            axes, eigenvalues=lam, hessian_lipschitz=lipschitz(tensor), noise=0, pairs=1
        ).total
        assert (bias**2 / lam).sum() / 2 <= bound


def test_axes_on_a_sphere_refine_the_prediction():
    lam = np.array([0.5, 2.0, 8.0])
    constants = {"hessian_lipschitz": 1.2, "noise": 0.6, "pairs": 90}
    sharp = theory.axes_regret(np.full(3, 0.4), eigenvalues=lam, **constants)
    plain = theory.predicted_regret(dimension=3, strong_convexity=0.5, **constants, radius=0.4)
    assert sharp.bias == pytest.approx(plain.bias)
    assert sharp.variance == pytest.approx(plain.variance * 0.5 * (1 / lam).mean())


@pytest.mark.parametrize("lam", [np.ones(4), np.logspace(0, 2, 6), np.array([3.0])])
def test_optimal_axes_minimise_the_regret(lam):
    constants = {"hessian_lipschitz": 0.8, "noise": 1.1, "pairs": 300}
    axes = theory.optimal_axes(lam, **constants)
    least = theory.axes_regret(axes, eigenvalues=lam, **constants).total

    def regret(logs):
        value = theory.axes_regret(axes * np.exp(logs), eigenvalues=lam, **constants).total
        return value / least

    solved = minimize(regret, np.full(len(lam), 0.3), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(solved.x, 0, atol=1e-4)
    if len(set(lam)) == 1:
        sphere = theory.radius("gradient-exact", dimension=len(lam), **constants)
        np.testing.assert_allclose(axes, sphere)


def test_optimal_axes_gain_on_ill_conditioned_problems():
    lam = np.logspace(0, 2, 10)
    constants = {"hessian_lipschitz": 1.0, "noise": 1.0, "pairs": 1000}
    r = theory.radius(dimension=10, **constants)

    def total(axes):
        return theory.axes_regret(axes, eigenvalues=lam, **constants).total

    best = total(theory.optimal_axes(lam, **constants))
    assert total(r * np.sqrt(1 / lam)) / best > 2.3
    assert 1 < total(np.full(10, r)) / best < 1.4


# Rates and budgets -------------------------------------------------------------------------------

CONSTANTS = {"dimension": 7, "strong_convexity": 0.3, "hessian_lipschitz": 2.0, "noise": 0.4}


def test_rate_and_the_constants_of_its_bounds():
    rate = theory.rate(**CONSTANTS, budget=1000)
    assert rate == pytest.approx(7 * 2 ** (2 / 3) * 0.4 ** (4 / 3) / (0.3 * 100))
    assert theory.upper_bound(**CONSTANTS, budget=1000) / rate == pytest.approx(27.85, abs=0.005)
    assert theory.lower_bound(**CONSTANTS, budget=1000) / rate == pytest.approx(1.6981e-3, rel=1e-4)
    # Twice the last term of the final stage's bound with a tenth of the budget in pairs.
    last = theory.model_bound(**CONSTANTS, samples=1, pairs=100, bootstrap_regret=0)
    assert 2 * last == pytest.approx(theory.upper_bound(**CONSTANTS, budget=1000))


def hard_function(u):
    """``G`` of the hard instance."""
    left = -np.sin(u) - u - np.pi
    right = -np.cos(u / 2) + u / 2 + np.pi / 2
    inside = np.where(u <= -np.pi, left, right)
    return np.where(np.abs(u) >= 3 * np.pi, 2 * np.pi, inside)


def test_lower_bound_holds_at_every_budget_from_its_start():
    u = np.linspace(-4 * np.pi, 4 * np.pi, 200_001)
    gap = np.abs(hard_function(u) - hard_function(-u)).max()
    # Noise σ, y0 = σ/(π√T): T evaluations tell the signs apart by at most this total variation.
    divergence = gap**2 / (2 * np.pi**2)
    error = (1 - math.sqrt(divergence / 2)) / 2
    # In units of x0 the instance is y0 (u²/q + G(u)) with q = y0/(M x0²) = (ρ²σ/(π√T M³))^{1/3}.
    for q in (1e-3, 0.1, 0.5, 1.0):
        best = brentq(lambda v, q=q: 2 * v / q + (1 + math.sin(v / 2)) / 2, -np.pi, 0)
        # Whoever gets the sign wrong stays at or beyond 0.
        loss = hard_function(0.0) - hard_function(best) - best**2 / q
        rate_in_units = math.pi ** (4 / 3) * q
        assert error * loss > theory.LOWER_CONSTANT * rate_in_units
        curvature = 2 / q + np.gradient(np.gradient(hard_function(u), u), u)
        assert curvature[2:-2].min() >= (1 / q) * (1 - 1e-3)
    # q = 1 is where the instance stops being M-convex.
    start = theory.lower_bound_start(strong_convexity=0.3, hessian_lipschitz=2.0, noise=0.4)
    y0 = 0.4 / (math.pi * math.sqrt(start))
    x0 = (y0 / 2.0) ** (1 / 3)
    assert y0 / (0.3 * x0**2) == pytest.approx(1)
    # And the rate in those units is what was compared with.
    y0 = 0.4 / (math.pi * math.sqrt(1e6))
    x0 = (y0 / 2.0) ** (1 / 3)
    rate = theory.rate(**CONSTANTS | {"dimension": 1}, budget=1e6)
    assert rate / y0 == pytest.approx(math.pi ** (4 / 3) * y0 / (0.3 * x0**2))


@pytest.mark.parametrize("eps", [1e-6, 1e-2, 3.0])
def test_required_budget_inverts(eps):
    budget = theory.required_budget(eps, **CONSTANTS, kind="upper")
    assert theory.upper_bound(**CONSTANTS, budget=budget) == pytest.approx(eps)
    budget = theory.required_budget(eps, **CONSTANTS, kind="lower")
    assert theory.lower_bound(**CONSTANTS, budget=budget) == pytest.approx(eps)
    for share in (theory.FINAL_SHARE, theory.ADAPTIVE_SHARE, 0.5):
        budget = theory.required_budget(eps, **CONSTANTS, share=share)
        predicted = theory.predicted_regret(**CONSTANTS, pairs=share * budget)
        assert predicted.total == pytest.approx(eps)


def test_required_budget_is_a_power_of_the_regret():
    eps = np.array([1e-2, 1e-4])
    budgets = theory.required_budget(eps, **CONSTANTS)
    assert budgets[1] / budgets[0] == pytest.approx(100**1.5)
    order = [
        theory.required_budget(1e-3, **CONSTANTS, kind=k) for k in ("lower", "predicted", "upper")
    ]
    assert order == sorted(order)


def test_required_budget_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"share must lie in \(0, 0.5\].*got 0.51"):
        theory.required_budget(1e-3, **CONSTANTS, share=0.51)
    with pytest.raises(ValueError, match=r"share must lie in .*got 0\.0"):
        theory.required_budget(1e-3, **CONSTANTS, share=0.0)
    with pytest.raises(ValueError, match=r"kind must be one of.*'upper'.*got 'best'"):
        theory.required_budget(1e-3, **CONSTANTS, kind="best")


# The two stages ----------------------------------------------------------------------------------


class Bowl:
    """``½ λ|x|² + Σ a_k g(w_k·x + b_k)`` with ``g'' = √(1 + t²)``: no bound on its Hessian."""

    def __init__(self, rng, d, strength):
        self.w = rng.normal(size=(d + 1, d))
        self.w /= np.linalg.norm(self.w, axis=1, keepdims=True)
        self.a, self.b = strength * rng.uniform(0.2, 1, d + 1), 3 * rng.normal(size=d + 1)
        self.convexity, self.lipschitz = 1.0, self.a.sum()

    def value(self, x):
        t = self.w @ x + self.b
        g = (1 + t**2) ** 1.5 / 6 + t * np.arcsinh(t) / 2 - np.sqrt(1 + t**2) / 2
        return x @ x / 2 + self.a @ g

    def gradient(self, x):
        t = self.w @ x + self.b
        return x + self.w.T @ (self.a * (t * np.sqrt(1 + t**2) + np.arcsinh(t)) / 2)

    def hessian(self, x):
        t = self.w @ x + self.b
        return np.eye(len(x)) + (self.w.T * (self.a * np.sqrt(1 + t**2))) @ self.w

    def step(self, x):
        return clipped_newton(self.hessian(x), self.gradient(x), self.convexity / self.lipschitz)

    def minimiser(self):
        x = np.zeros(self.w.shape[1])
        for _ in range(10_000):
            x = x + self.step(x).step
            if np.linalg.norm(self.gradient(x)) < 1e-12:
                return x
        raise AssertionError("no minimiser")


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_noiseless_bootstrap(d, strength):
    rng = np.random.default_rng(d)
    for distance in (0.5, 4.0, 20.0):
        f = Bowl(rng, d, strength)
        best = f.minimiser()
        direction = rng.normal(size=d)
        x = best + distance * direction / np.linalg.norm(direction)
        constants = {"strong_convexity": f.convexity, "hessian_lipschitz": f.lipschitz}
        allowed = theory.bootstrap_steps(**constants, distance=distance)
        small = f.convexity**2 / (2 * f.lipschitz)
        steps = 0
        while np.linalg.norm(f.gradient(x)) > small:
            clipped = f.step(x)
            farther = np.linalg.norm(x + clipped.step - best) ** 2
            if clipped.floor > 0:
                # What the bound on the number of steps rests on.
                trust = theory.trust_radius(**constants)
                assert farther <= np.linalg.norm(x - best) ** 2 - 0.2 * trust**2 * (1 - 1e-9)
            x = x + clipped.step
            steps += 1
        assert steps <= allowed
        for _ in range(3):
            clipped = f.step(x)
            assert clipped.floor == 0
            x = x + clipped.step
            bound = theory.newton_gradient_bound(
                np.linalg.norm(clipped.step), hessian_lipschitz=f.lipschitz
            )
            assert np.linalg.norm(f.gradient(x)) <= bound + 1e-12
        assert np.linalg.norm(f.gradient(x)) < 1e-3 * small


def test_gradient_after_a_newton_step_on_a_cubic():
    # f = x²/2 + ρ x³/6: the gradient after a full step is ρ s²/2 exactly.
    rho, x = 0.6, 0.7
    step = -(x + rho * x**2 / 2) / (1 + rho * x)
    after = (x + step) + rho * (x + step) ** 2 / 2
    assert theory.newton_gradient_bound(-step, hessian_lipschitz=rho) == pytest.approx(after)


def test_bootstrap_steps_and_distance_are_inverse():
    constants = {"strong_convexity": 0.5, "hessian_lipschitz": 2.0}
    assert theory.bootstrap_steps(**constants, distance=3) == pytest.approx(5 * 9 * 16 + 1)
    distance = theory.bootstrap_distance(**constants, steps=[1, 2, 721])
    np.testing.assert_allclose(distance, [0, 0.25 / math.sqrt(5), 3])


@pytest.mark.parametrize("d", [1, 3])
def test_regret_from_model_holds(d):
    rng = np.random.default_rng(d)
    tightest = np.inf
    for _ in range(150):
        f = Bowl(rng, d, 10 ** rng.uniform(-1, 1))
        best = f.minimiser()
        trust = f.convexity / f.lipschitz
        start = best + rng.normal(size=d) * trust * 10 ** rng.uniform(-1.5, 0.7)
        hessian = f.hessian(start)
        target = start - np.linalg.solve(hessian, f.gradient(start))
        move = rng.normal(size=d)
        for x in (start, start + rng.uniform() * trust * move / np.linalg.norm(move)):
            model = (x - target) @ hessian @ (x - target) / 2
            bound = theory.regret_from_model(
                model,
                strong_convexity=f.convexity,
                hessian_lipschitz=f.lipschitz,
                bootstrap_regret=max(0.0, f.value(start) - f.value(best)),
            )
            regret = f.value(x) - f.value(best)
            assert regret <= bound + 1e-12
            tightest = min(tightest, bound / max(regret, 1e-12))
    assert tightest < 3


def test_model_bound_holds_for_simulated_final_stages():
    d, pairs, sigma, runs = 2, 40, 0.05, 400
    rng = np.random.default_rng(8)
    f = Bowl(rng, d, 0.5)
    constants = {"hessian_lipschitz": f.lipschitz, "noise": sigma}
    known = {"dimension": d, "strong_convexity": f.convexity}
    samples = math.ceil(theory.required_samples(**known, **constants))
    assert pairs >= theory.required_pairs(dimension=d) and samples > 1
    start = f.minimiser() + 0.01
    points, rows = hessian_weights(d, theory.radius("hessian", **constants, samples=samples))
    hessian, values = f.hessian(start), np.array([f.value(start + p) for p in points])
    target = start - np.linalg.solve(hessian, f.gradient(start))
    r = theory.radius(dimension=d, **constants, pairs=pairs)
    model = np.empty(runs)
    for run in range(runs):
        noisy = values + sigma / math.sqrt(samples) * rng.normal(size=len(points))
        raw = np.array([[rows[k, m] @ noisy for m in range(d)] for k in range(d)])
        floored = floor_eigenvalues(raw, f.convexity).hessian
        root = inv_sqrt(floored)
        Z = r * root / np.linalg.norm(root, 2)
        u = rng.normal(size=(pairs, d))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        sides = [np.array([f.value(start + side * p) for p in u @ Z]) for side in (1, -1)]
        difference = sides[0] - sides[1] + sigma * math.sqrt(2) * rng.normal(size=pairs)
        step = -np.linalg.solve(floored, np.linalg.solve(Z, d / 2 * difference @ u / pairs))
        step *= min(1, f.convexity / f.lipschitz / np.linalg.norm(step))
        x = start + step
        model[run] = (x - target) @ hessian @ (x - target) / 2
    excess = f.value(start) - f.value(f.minimiser())
    bound = theory.model_bound(
        **known, **constants, samples=samples, pairs=pairs, bootstrap_regret=excess
    )
    assert model.mean() + 6 * model.std() / math.sqrt(runs) < bound
    assert model.mean() > bound / 100


def test_final_stage_values_by_hand():
    constants = {"strong_convexity": 4.0, "hessian_lipschitz": 8.0}
    assert theory.regret_from_model(0.5, **constants, bootstrap_regret=0.25) == pytest.approx(
        1 + 12 * 8 * 0.125 / 8
    )
    # 14·4·16/(16·4) = 14, 52·2/1000 = 0.104, 82·8·⅛/8 = 10.25, 3·2·4/(4·100) = 0.06
    assert theory.model_bound(
        dimension=2, **constants, noise=1.0, samples=64, pairs=1000, bootstrap_regret=0.25
    ) == pytest.approx((14 + 0.104) * 0.25 + 10.25 + 0.06)
    assert theory.required_pairs(dimension=5) == 125
    # 64 · 8⁴ · 2⁶ / 4⁶ at σ = 1.
    assert theory.required_samples(dimension=2, **constants, noise=1.0) == 64**2
    assert theory.required_samples(dimension=2, **constants, noise=3.0) == pytest.approx(9 * 64**2)


def test_required_samples_make_the_hessian_good_enough():
    # There the tail's denominator is 4 M².
    samples = theory.required_samples(**CONSTANTS)
    constants = {k: v for k, v in CONSTANTS.items() if k != "strong_convexity"}
    denominator = theory.hessian_tail_denominator(**constants, samples=samples)
    assert denominator == pytest.approx(4 * CONSTANTS["strong_convexity"] ** 2)


# Every function ----------------------------------------------------------------------------------

SCALED = {"strong_convexity", "hessian_lipschitz", "noise"}
VALUES = {
    "dimension": 3.0,
    "strong_convexity": 0.7,
    "hessian_lipschitz": 1.3,
    "noise": 0.6,
    "pairs": 40.0,
    "samples": 30.0,
    "radius": 0.5,
    "budget": 1e4,
    "distance": 2.0,
    "steps": 4.0,
    "gradient_norm": 1.1,
    "bootstrap_regret": 0.2,
    "deviation": 1.4,
    "step_norm": 0.3,
    "model_value": 0.1,
    "eps": 0.01,
    "bias_coefficient": 0.4,
    "ratio": 1.5,
    "axes": np.array([0.3, 0.5]),
    "eigenvalues": np.array([0.7, 2.0]),
}
# Power of c in the result when f becomes c f.
FUNCTIONS = {
    "bias_bound": 1,
    "gradient_bias_bound": 1,
    "effective_lipschitz": 1,
    "variance_bound": 2,
    "quadratic_variance": 2,
    "orthogonal_variance": 2,
    "coordinate_bias_bound": 1,
    "coordinate_variance": 2,
    "hessian_bias_bound": 1,
    "hessian_covariance": 2,
    "hessian_variance": 2,
    "gradient_tail": 0,
    "hessian_tail": 0,
    "hessian_tail_denominator": 2,
    "radius": 0,
    "optimal_axes": 0,
    "predicted_regret": 1,
    "axes_regret": 1,
    "radius_penalty": 0,
    "rate": 1,
    "upper_bound": 1,
    "lower_bound": 1,
    "lower_bound_start": 0,
    "required_budget": 0,
    "trust_radius": 0,
    "bootstrap_steps": 0,
    "bootstrap_distance": 0,
    "newton_gradient_bound": 1,
    "regret_from_model": 1,
    "model_bound": 1,
    "required_pairs": 0,
    "required_samples": 0,
}
OF_VALUE = {
    "gradient_norm",
    "bootstrap_regret",
    "deviation",
    "model_value",
    "eps",
    "bias_coefficient",
    "eigenvalues",
}


def called(name, change=lambda argument, value: value):
    function = getattr(theory, name)
    arguments = inspect.signature(function).parameters
    values = {a: change(a, VALUES[a]) for a in arguments if a in VALUES}
    return np.array(function(**values))


def test_the_table_of_functions_is_complete():
    public = {
        name
        for name, value in vars(theory).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and value.__module__ == theory.__name__
    }
    assert public == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_times_a_constant(name):
    c = 7.3
    scaled = called(name, lambda a, v: v * c if a in SCALED | OF_VALUE else v)
    np.testing.assert_allclose(scaled, called(name) * c ** FUNCTIONS[name], rtol=1e-12)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"optimal_axes", "axes_regret"}))
def test_arrays_broadcast(name):
    single = called(name)
    arrays = called(name, lambda a, v: np.full((3, 1), v))
    np.testing.assert_allclose(arrays, np.broadcast_to(single[..., None, None], arrays.shape))
    function = getattr(theory, name)
    result = function(
        **{a: VALUES[a] for a in inspect.signature(function).parameters if a in VALUES}
    )
    assert all(
        isinstance(part, float) for part in (result if isinstance(result, tuple) else [result])
    )


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_impossible_arguments_are_named(name, wrong):
    function = getattr(theory, name)
    arguments = [a for a in inspect.signature(function).parameters if a in VALUES]
    if name == "radius":
        arguments.remove("samples")  # of other kinds
    for argument in arguments:
        values = {a: VALUES[a] for a in arguments} | {argument: wrong}
        with pytest.raises(ValueError, match=f"{argument}.* must be .*, got .*{wrong}"):
            function(**values)


def test_zero_noise_and_zero_curvature_change_have_bounds_but_no_radius():
    assert theory.predicted_regret(
        dimension=2, strong_convexity=1, hessian_lipschitz=0, noise=0, pairs=1, radius=1
    ) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"noise must be positive and finite, got 0\.0"):
        theory.radius(hessian_lipschitz=1, noise=0.0, dimension=1, pairs=1)
    with pytest.raises(ValueError, match="hessian_lipschitz must be positive and finite, got 0"):
        theory.radius("hessian", hessian_lipschitz=0, noise=1, samples=1)
