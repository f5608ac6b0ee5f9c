"""Clipped Newton steps against a bisection solver and the inequalities their analysis rests on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from modicum.zeroth.linalg import (
    clipped_newton,
    clipped_newton_eigen,
    floor_eigenvalues,
    inv_sqrt,
)

QUICK = settings(derandomize=True, max_examples=150, deadline=None)
finite = st.floats(-1e3, 1e3, allow_nan=False, allow_subnormal=False)


def random_orthogonal(rng, d):
    q, r = np.linalg.qr(rng.normal(size=(d, d)))
    return q * np.sign(np.diag(r))


def floored_step(hessian, gradient, floor):
    lam, V = np.linalg.eigh(hessian)
    return -np.linalg.solve((V * np.maximum(lam, floor)) @ V.T, gradient)


def bisected_floor(hessian, gradient, radius):
    """The least floor by bisection on the length of the step; nothing of the closed form."""
    lam = np.linalg.eigvalsh(hessian)
    low, high = lam[0], max(lam[-1], np.linalg.norm(gradient) / radius) * 2
    if np.linalg.norm(floored_step(hessian, gradient, low)) <= radius:
        return 0.0
    for _ in range(70):
        middle = (low + high) / 2
        if np.linalg.norm(floored_step(hessian, gradient, middle)) <= radius:
            high = middle
        else:
            low = middle
    return high


@pytest.mark.parametrize(
    ("radius", "floor", "step"),
    [(2, math.sqrt(3), (math.sqrt(3), 1)), (1, 5, (0.6, 0.8)), (4, 0, (3, 1))],
)
def test_worked_values(radius, floor, step):
    clipped = clipped_newton(np.diag([1.0, 4.0]), np.array([3.0, 4.0]), radius)
    assert clipped.floor == pytest.approx(floor, rel=1e-14, abs=0)
    np.testing.assert_allclose(-clipped.step, step, rtol=1e-14)
    np.testing.assert_allclose(clipped.hessian, np.diag(np.maximum([1, 4], floor)), rtol=1e-14)


SPECTRA = {
    "spread": lambda rng, d: 10 ** rng.uniform(-3, 3, d),
    "close": lambda rng, d: 1 + 1e-9 * rng.uniform(size=d),
    "equal": lambda rng, d: np.full(d, 2.0),
    "repeated": lambda rng, d: rng.choice([0.5, 2.0, 30.0], d),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_floor_is_that_of_bisection(spectrum, d):
    rng = np.random.default_rng(d)
    clipped_count = 0
    for _ in range(20):
        V = random_orthogonal(rng, d)
        hessian = (V * SPECTRA[spectrum](rng, d)) @ V.T
        gradient = rng.normal(size=d) * 10 ** rng.uniform(-2, 3)
        radius = 10 ** rng.uniform(-2, 2)
        clipped = clipped_newton(hessian, gradient, radius)
        floor = bisected_floor(hessian, gradient, radius)
        assert clipped.floor == pytest.approx(floor, rel=1e-7)
        np.testing.assert_allclose(
            clipped.step, floored_step(hessian, gradient, floor), rtol=1e-7, atol=1e-7 * radius
        )
        clipped_count += floor > 0
    assert 3 <= clipped_count <= 20


@QUICK
@given(
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
    st.floats(-6, 6),
    st.floats(-6, 6),
    st.booleans(),
)
def test_length_minimality_and_equation(d, seed, log_radius, log_gradient, repeat):
    rng = np.random.default_rng(seed)
    V = random_orthogonal(rng, d)
    lam = 10 ** rng.uniform(-4, 4, d)
    if repeat:
        lam[: (d + 1) // 2] = lam[0]
    gradient = rng.normal(size=d) * 10**log_gradient
    radius = 10**log_radius
    clipped = clipped_newton_eigen(lam, V, gradient, radius)
    length = np.linalg.norm(clipped.step)
    assert length <= radius * (1 + 1e-12)
    along = V.T @ gradient
    # A component along V carries the rounding of the whole step, times its eigenvalue.
    rounding = 1e-14 * length * clipped.eigenvalues
    excess = np.abs(V.T @ clipped.step * clipped.eigenvalues + along)
    assert (excess <= 1e-9 * np.abs(along) + rounding).all()
    np.testing.assert_array_equal(clipped.eigenvalues, np.maximum(lam, clipped.floor))
    if clipped.floor == 0:
        assert np.linalg.norm(along / lam) <= radius
    else:
        # Any lower floor gives too long a step, and what is allowed is used up.
        below = np.maximum(lam, clipped.floor * (1 - 1e-4))
        assert np.linalg.norm(along / below) > radius
        assert length == pytest.approx(radius, rel=1e-9)
        assert clipped.floor > lam.min()


def test_steep_directions_keep_their_newton_step():
    # A shift of the eigenvalues would shorten the third coordinate as well.
    clipped = clipped_newton(np.diag([1.0, 1.0, 100.0]), np.array([30.0, 40.0, 10.0]), 1.0)
    assert clipped.step[2] == -0.1
    assert clipped.floor == pytest.approx(50 / math.sqrt(0.99))


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_any_unit_of_value_and_of_length(scale):
    hessian, gradient = np.diag([1.0, 4.0]), np.array([3.0, 4.0])
    clipped = clipped_newton(hessian * scale, gradient * scale, 2.0)
    assert clipped.floor == pytest.approx(math.sqrt(3) * scale)
    clipped = clipped_newton(hessian, gradient * scale, 2.0 * scale)
    assert clipped.floor == pytest.approx(math.sqrt(3))
    np.testing.assert_allclose(clipped.step, [-math.sqrt(3) * scale, -scale])


def test_step_beyond_the_largest_float():
    clipped = clipped_newton(np.diag([1e-200, 1e-150]), np.array([1e100, 1e100]), 1e-100)
    np.testing.assert_allclose(clipped.step, [-1e-100 / math.sqrt(2)] * 2)
    assert clipped.floor == pytest.approx(math.sqrt(2) * 1e200)


def test_step_exactly_as_long_as_the_radius_is_not_floored():
    clipped = clipped_newton(np.diag([1.0, 2.0]), np.array([3.0, 8.0]), 5.0)
    assert clipped.floor == 0
    np.testing.assert_array_equal(clipped.step, [-3, -4])


def test_floor_that_rounding_hides():
    # The second coordinate alone has length 1 and the first adds less than a float resolves; the
    # floor is then the next eigenvalue at most.
    clipped = clipped_newton(np.diag([1.0, 4.0, 9.0]), np.array([2e-8, 4.0, 0.0]), 1.0)
    assert 1 <= clipped.floor <= 4
    assert np.linalg.norm(clipped.step) <= 1 + 1e-15


def test_eigenvalues_in_any_order_give_the_same_step():
    rng = np.random.default_rng(2)
    V, lam, gradient = (
        random_orthogonal(rng, 5),
        np.array([4.0, 0.1, 2, 0.1, 9]),
        rng.normal(size=5),
    )
    order = np.argsort(lam)
    one = clipped_newton_eigen(lam, V, gradient, 0.3)
    other = clipped_newton_eigen(lam[order], V[:, order], gradient, 0.3)
    assert one.floor == pytest.approx(other.floor, rel=1e-14)
    np.testing.assert_allclose(one.step, other.step, rtol=1e-12)
    np.testing.assert_allclose(one.hessian, other.hessian, atol=1e-14)


def test_zero_gradient_and_zero_components():
    assert not clipped_newton(np.eye(3), np.zeros(3), 1e-9).step.any()
    # Nothing to floor where the gradient vanishes: only the second eigenvalue matters.
    clipped = clipped_newton(np.diag([1.0, 2.0]), np.array([0.0, 10.0]), 1.0)
    np.testing.assert_allclose(clipped.step, [0, -1])
    assert clipped.floor == pytest.approx(10)


def test_one_dimension():
    assert clipped_newton(np.array([[2.0]]), np.array([6.0]), 5.0).step == pytest.approx(-3)
    clipped = clipped_newton(np.array([[2.0]]), np.array([-6.0]), 0.5)
    assert (clipped.step, clipped.floor) == (0.5, 12.0)


def test_no_limit_is_the_newton_step():
    rng = np.random.default_rng(0)
    hessian, gradient = np.diag([1e-3, 1, 5.0]), rng.normal(size=3)
    step = clipped_newton(hessian, gradient, math.inf).step
    np.testing.assert_allclose(step, -np.linalg.solve(hessian, gradient))


@QUICK
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.floats(1, 100))
def test_a_larger_radius_never_floors_more(seed, radius, factor):
    rng = np.random.default_rng(seed)
    hessian = np.diag(10 ** rng.uniform(-2, 2, 4))
    gradient = rng.normal(size=4)
    small, large = (clipped_newton(hessian, gradient, r) for r in (radius, radius * factor))
    assert large.floor <= small.floor * (1 + 1e-9)
    assert np.linalg.norm(large.step) >= np.linalg.norm(small.step) * (1 - 1e-9)


class Ridges:
    """``½ xᵀAx + Σ a_k g(w_k·x + b_k)`` with convex g, |g'''| <= 1 and unbounded g''."""

    def __init__(self, rng, d):
        count = int(rng.integers(1, 2 * d + 1))
        self.w = rng.normal(size=(count, d))
        self.w /= np.linalg.norm(self.w, axis=1, keepdims=True)
        self.a = 10 ** rng.uniform(-1, 1, count)
        self.b = rng.normal(size=count) * 10 ** rng.uniform(-1, 1)
        self.tilt = rng.choice([-1.0, 0.0, 1.0], count)
        V = random_orthogonal(rng, d)
        self.convexity = 10 ** rng.uniform(-1, 0.5)
        self.base = (V * (self.convexity + rng.exponential(1, d))) @ V.T
        # |g''(s) - g''(t)| <= |w·(x - x')|, and Frobenius norms of w wᵀ are 1.
        self.lipschitz = self.a.sum()

    def gradient(self, x):
        t = self.w @ x + self.b
        slope = (t * np.sqrt(1 + t**2) + np.arcsinh(t)) / 2
        slope = (slope + self.tilt * t**2 / 2) / (1 + abs(self.tilt))
        return self.base @ x + self.w.T @ (self.a * slope)

    def hessian(self, x):
        t = self.w @ x + self.b
        curvature = (np.sqrt(1 + t**2) + self.tilt * t) / (1 + abs(self.tilt))
        return self.base + (self.w.T * (self.a * curvature)) @ self.w

    def minimiser(self):
        # Newton's method damped by the clipped step's own guarantee, far past convergence.
        x = np.zeros(len(self.base))
        for _ in range(5000):
            step = floored_step(self.hessian(x), self.gradient(x), 0)
            x = x + step * min(1, self.convexity / self.lipschitz / np.linalg.norm(step))
            if np.linalg.norm(self.gradient(x)) < 1e-11:
                return x
        raise AssertionError("no minimiser")


def test_every_step_points_at_the_minimiser():
    rng = np.random.default_rng(5)
    clipped_count = 0
    for _ in range(60):
        f = Ridges(rng, int(rng.integers(1, 6)))
        best = f.minimiser()
        for distance in (0.1, 1.0, 10.0):
            x = best + rng.normal(size=len(best)) * distance * f.convexity / f.lipschitz
            clipped = clipped_newton(f.hessian(x), f.gradient(x), f.convexity / f.lipschitz)
            assert (best - x) @ clipped.step >= 0.6 * clipped.step @ clipped.step
            clipped_count += clipped.floor > 0
    assert clipped_count > 30


def test_the_worst_step_in_one_dimension():
    # Curvature 1 here, rising by 1 per unit of length up to a minimiser √3 - 1 away.
    distance = math.sqrt(3) - 1
    gradient = -(distance + distance**2 / 2)
    clipped = clipped_newton(np.eye(1), np.array([gradient]), 1.0)
    assert clipped.step == pytest.approx(1)
    assert 0.6 < distance * clipped.step[0] / clipped.step[0] ** 2 < 0.74


@QUICK
@given(st.integers(1, 5), st.integers(0, 2**32 - 1), finite)
def test_flooring_is_the_projection(d, seed, floor):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, d)) * 10
    symmetric = (A + A.T) / 2
    floored, lam, V = floor_eigenvalues(A, floor)
    np.testing.assert_allclose((V * lam) @ V.T, floored, atol=1e-9 * (1 + abs(floor)))
    np.testing.assert_array_equal(floored, floored.T)
    assert (np.diff(lam) >= 0).all() and lam[0] >= floor
    # The nearest matrix of a convex set has an obtuse angle to every other one of the set.
    B = rng.normal(size=(d, d))
    other = floor * np.eye(d) + B @ B.T
    assert np.sum((symmetric - floored) * (other - floored)) <= 1e-7 * (1 + floor**2)


def test_flooring_leaves_a_matrix_above_the_floor_alone():
    hessian = np.array([[3.0, 1.0], [1.0, 3.0]])
    np.testing.assert_allclose(floor_eigenvalues(hessian, 2.0).hessian, hessian, rtol=1e-14)
    np.testing.assert_allclose(
        floor_eigenvalues(hessian, 3.0).hessian, [[3.5, 0.5], [0.5, 3.5]], rtol=1e-14
    )


@pytest.mark.parametrize("d", [1, 2, 6])
def test_inverse_root(d):
    rng = np.random.default_rng(d)
    A = rng.normal(size=(d, d))
    hessian = A @ A.T + 0.1 * np.eye(d)
    root = inv_sqrt(hessian)
    np.testing.assert_array_equal(root, root.T)
    np.testing.assert_allclose(root @ hessian @ root, np.eye(d), atol=1e-10)
    np.testing.assert_allclose(root, np.linalg.inv(sqrtm(hessian).real), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_torch_in_torch_out(dtype):
    hessian = torch.tensor([[1.0, 0.2], [0.2, 4.0]], dtype=dtype)
    gradient = torch.tensor([3.0, 4.0], dtype=dtype, requires_grad=True)
    clipped = clipped_newton(hessian, gradient, 2.0)
    expected = clipped_newton(hessian.double().numpy(), gradient.detach().double().numpy(), 2.0)
    tolerance = 8 * torch.finfo(dtype).eps
    for name in ("step", "hessian", "eigenvalues"):
        result = getattr(clipped, name)
        assert isinstance(result, torch.Tensor) and result.dtype == dtype
        np.testing.assert_allclose(result.double().numpy(), getattr(expected, name), rtol=tolerance)
    assert clipped.floor == expected.floor
    assert inv_sqrt(hessian).dtype == floor_eigenvalues(hessian, 1.0).hessian.dtype == dtype


@pytest.mark.gpu
def test_on_a_gpu_the_result_stays_there():
    hessian = torch.tensor([[1.0, 0.2], [0.2, 4.0]], dtype=torch.float64, device="cuda")
    step = clipped_newton(hessian, torch.ones(2, device="cuda"), 0.1).step
    assert step.is_cuda
    np.testing.assert_allclose(
        step.cpu(), clipped_newton(hessian.cpu().numpy(), np.ones(2), 0.1).step, rtol=1e-14
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clipped_newton(np.eye(2), np.ones(2), 0.0), "radius must be positive, got 0.0"),
        (lambda: clipped_newton(np.eye(2), np.ones(2), math.nan), "radius must be positive"),
        (lambda: clipped_newton(np.diag([1.0, -1]), np.ones(2), 1.0), "got least.*-1.0.*floor"),
        (lambda: clipped_newton(np.diag([1.0, 0]), np.ones(2), 1.0), r"positive.*got least.*0\.0"),
        (lambda: clipped_newton(np.eye(2), np.ones(3), 1.0), r"gradient \(d,\), got.*\(3,\)"),
        (lambda: clipped_newton(np.eye(2), np.array([1, np.inf]), 1.0), "gradient must be finite"),
        (lambda: clipped_newton(np.ones(2), np.ones(2), 1.0), r"square.*\(2,\)"),
        (lambda: clipped_newton(np.full((2, 2), np.nan), np.ones(2), 1.0), "must be finite"),
        (lambda: floor_eigenvalues(np.eye(2), math.inf), "floor must be finite, got inf"),
        (lambda: floor_eigenvalues(np.ones((2, 3)), 1.0), r"square.*\(2, 3\)"),
        (lambda: inv_sqrt(np.diag([1.0, 0.0])), "positive definite, got least.*0.0"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
