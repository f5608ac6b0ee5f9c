import math

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds

from modicum.zeroth.space import Ball, Space

DRAWS = settings(derandomize=True, deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def random_shape(rng, d):
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    axes = 10.0 ** rng.uniform(-2, 0, d)
    return basis @ np.diag(axes / axes.max()) @ basis.T


def units(rng, d, count):
    u = rng.normal(size=(count, d))
    u = np.concatenate([u, np.eye(d), np.sign(u)])
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def furthest(center, shape, radius, metric, ball_center):
    # Ascends the norm of a convex function of the direction from many starts.
    d = len(center)
    spread = radius * (np.eye(d) if shape is None else shape) * metric
    away = metric * (center - ball_center)
    u = units(np.random.default_rng(0), d, 60)
    u = np.concatenate([u, np.linalg.svd(spread)[0].T])
    u = np.concatenate([u, -u])
    for _ in range(200):
        u = (away + u @ spread) @ spread.T
        u /= np.linalg.norm(u, axis=1, keepdims=True)
    return np.linalg.norm(away + u @ spread, axis=1).max()


def random_box(rng, d):
    lower, upper = np.sort(rng.normal(size=(2, d)) * 10.0 ** rng.uniform(-2, 1, d), axis=0)
    start = rng.uniform(lower, upper)
    edge = rng.random(d)
    start = np.where(edge < 0.2, lower, np.where(edge > 0.8, upper, start))
    lower[rng.random(d) < 0.2] = -np.inf
    upper[rng.random(d) < 0.2] = np.inf
    return lower, upper, start


# Coordinates ------------------------------------------------------------------------------------


def test_a_scalar_scale_leaves_every_bit_of_a_point():
    x0 = np.array([0.1, -7.3e11, 3e-9])
    space = Space(x0, scale=0.3)
    assert space.length == 0.3
    assert np.array_equal(space.to_user(space.to_internal(x0)), x0)
    assert np.array_equal(space.to_internal(x0), x0)
    assert np.array_equal(Space(x0, scale=[0.3] * 3).metric, np.ones(3))


def test_a_vector_scale_is_a_metric_around_its_geometric_mean():
    space = Space([0.0, 0.0], scale=[0.1, 10.0])
    assert space.length == pytest.approx(1.0, rel=1e-15)
    np.testing.assert_allclose(space.metric, [0.1, 10.0], rtol=1e-14)
    np.testing.assert_allclose(space.to_user(np.array([[1.0, 1.0]])), [[0.1, 10.0]], rtol=1e-14)
    hessian = np.array([[2.0, 1.0], [1.0, 3.0]])
    gradient = np.array([4.0, 5.0])
    z = np.array([0.3, -0.2])
    x = space.to_user(z)
    user_gradient, user_hessian = space.gradient_to_user(gradient), space.hessian_to_user(hessian)
    assert user_gradient @ x == pytest.approx(gradient @ z, rel=1e-14)
    assert x @ user_hessian @ x == pytest.approx(z @ hessian @ z, rel=1e-14)


def test_fixed_coordinates_are_put_back_and_not_varied():
    bounds = [(0, 1), (2, 2), (None, None), (-1, -1)]
    space = Space([0.5, 2.0, 7.0, -1.0], scale=[1.0, 99.0, 4.0, 99.0], bounds=bounds)
    assert space.dimension == 2
    assert space.length == pytest.approx(2.0)
    z = space.to_internal(space.start)
    assert z.shape == (2,)
    np.testing.assert_allclose(space.to_user(z), [0.5, 2.0, 7.0, -1.0], rtol=1e-15)
    points = space.to_user(np.random.default_rng(0).uniform(0, 1, (3, 5, 2)))
    assert points.shape == (3, 5, 4)
    assert np.all(points[..., 1] == 2) and np.all(points[..., 3] == -1)
    np.testing.assert_array_equal(
        np.isnan(space.gradient_to_user(np.ones(2))), [False, True, False, True]
    )
    hessian = space.hessian_to_user(np.eye(2))
    assert hessian.shape == (4, 4)
    assert np.isnan(hessian[1]).all() and np.isnan(hessian[:, 3]).all()
    np.testing.assert_allclose(hessian[np.ix_([0, 2], [0, 2])], np.diag(space.metric**-2.0))


def test_a_box_that_is_open_on_all_free_sides_is_no_bound():
    space = Space([1.0, 2.0], bounds=[(None, math.inf), (2, 2)])
    assert not space.bounded
    step = np.array([1e9])
    assert space.constrain(np.array([1.0]), step, -step, np.eye(1)) is step


def test_tensors_stay_tensors_and_agree_with_arrays():
    torch = pytest.importorskip("torch")
    bounds = [(0, 1), (2, 2), (None, 3)]
    space = Space([0.5, 2.0, 1.0], scale=[3.0, 1.0, 7.0], bounds=bounds)
    z = np.random.default_rng(0).normal(size=(50, 2))
    tensor = space.to_user(torch.from_numpy(z))
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor.numpy(), space.to_user(z))
    back = space.to_internal(tensor)
    np.testing.assert_array_equal(back.numpy(), space.to_internal(space.to_user(z)))


def test_points_on_a_face_of_a_box_are_exactly_on_it():
    rng = np.random.default_rng(0)
    for _ in range(200):
        lower = rng.normal(size=3)
        upper = lower + rng.random(3) + 0.1
        space = Space((lower + upper) / 2, scale=10.0 ** rng.uniform(-3, 3, 3), bounds=[
            (low, high) for low, high in zip(lower, upper, strict=True)
        ])  # fmt: skip
        for far, face in ((-1e9, lower), (1e9, upper)):
            z = space.project(np.full(3, far))
            np.testing.assert_array_equal(space.to_user(z), face)


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x0", "scale", "bounds", "message"),
    [
        ([], 1.0, None, "x0 must have shape"),
        ([[1.0]], 1.0, None, "x0 must have shape"),
        ([1.0, math.nan], 1.0, None, r"x0\[1\] is nan"),
        ([1.0], 0.0, None, "scale must be positive"),
        ([1.0], math.inf, None, "scale must be positive"),
        ([1.0, 2.0], [1.0, -1.0], None, "scale must be positive"),
        ([1.0, 2.0], [1.0, 1.0, 1.0], None, "vector of 2"),
        ([1.0, 2.0], 1.0, [(0, 3)], "1 pairs for the 2"),
        ([1.0, 2.0], 1.0, [(0, 3), (4, 3)], r"coordinate 1 are \(4, 3\)"),
        ([1.0, 2.0], 1.0, [(0, math.nan), (0, 3)], "coordinate 0"),
        ([1.0, 2.0], 1.0, [(0, 3), (math.inf, math.inf)], "coordinate 1"),
        ([1.0, 2.0], 1.0, [(0, 3), (2.5, 3)], r"x0\[1\] = 2 is outside its bounds \[2.5, 3\]"),
        ([1.0], 1.0, [(1, 1)], "fix every coordinate"),
        ([1.0], 1.0, 7, "scipy.optimize.Bounds, a Ball"),
        ([1.0, 2.0], 1.0, [1, 2], "scipy.optimize.Bounds, a Ball"),
        ([1.0, 2.0], 1.0, Bounds([0, 0, 0], [5, 5, 5]), "each of 2"),
        ([1.0, 2.0], 1.0, Ball([0.0], 9.0), "1 coordinates"),
        ([3.0, 4.0], 1.0, Ball([0.0, 0.0], 4.9), "5 from the ball's center"),
    ],
)
def test_first_mistakes_are_named(x0, scale, bounds, message):
    with pytest.raises(ValueError, match=message):
        Space(x0, scale, bounds)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_a_ball_needs_a_positive_radius(radius):
    with pytest.raises(ValueError, match="positive and finite"):
        Ball([0.0], radius)


@pytest.mark.parametrize("center", [[math.nan], [[0.0]], 3.0])
def test_a_ball_needs_a_finite_center(center):
    with pytest.raises(ValueError, match="finite vector"):
        Ball(center, 1.0)


def test_all_spellings_of_a_box_are_one():
    spellings = [
        [(0, 1), (-2, None)],
        ((0, 1), (-2, math.inf)),
        np.array([[0, 1], [-2, np.inf]]),
        Bounds([0, -2], [1, np.inf]),
    ]
    for bounds in spellings:
        space = Space([0.5, 0.0], bounds=bounds)
        np.testing.assert_array_equal(space.project(np.array([9.0, -9.0])), [1, -2])
        np.testing.assert_array_equal(space.project(np.array([-9.0, 9.0])), [0, 9])
    space = Space([0.5, 0.5], bounds=Bounds(0, 1))
    np.testing.assert_array_equal(space.project(np.array([-9.0, 9.0])), [0, 1])


# Frames -----------------------------------------------------------------------------------------


@DRAWS
@given(seed=seeds, d=st.integers(1, 6), shaped=st.booleans(), wide=st.booleans())
def test_both_sides_of_every_pair_are_inside_a_box(seed, d, shaped, wide):
    rng = np.random.default_rng(seed)
    lower, upper, start = random_box(rng, d)
    scale = 10.0 ** rng.uniform(-1, 1, d) if wide else 1.0
    space = Space(start, scale, Bounds(lower, upper))
    shape = random_shape(rng, d) if shaped else None
    radius = 10.0 ** rng.uniform(-3, 2)
    z = space.to_internal(start)
    frame = space.frame(z, shape, radius)
    matrix = np.eye(d) if frame.shape is None else frame.shape
    assert np.linalg.norm(matrix, 2) <= 1 + 1e-12
    assert frame.radius == radius
    low, high = lower / space.metric, upper / space.metric
    slack = 1e-12 * (1 + np.abs(frame.center) + np.where(np.isfinite(high - low), high - low, 0))
    for sign in (-1, 1):
        points = frame.center + sign * radius * (units(rng, d, 200) @ matrix)
        assert np.all(points >= low - slack) and np.all(points <= high + slack)
        user = space.to_user(points)
        assert np.all(user >= lower) and np.all(user <= upper)
    # Nothing is given away: the original extent where there is room for it, else all the room.
    wanted = radius * (np.ones(d) if shape is None else np.linalg.norm(shape, axis=0))
    kept = radius * np.linalg.norm(matrix, axis=0)
    np.testing.assert_allclose(kept, np.minimum(wanted, (high - low) / 2), rtol=1e-12)
    # The centre moves no further than it must.
    moved = np.abs(frame.center - z)
    lacking = np.maximum(0, kept - np.minimum(z - low, high - z))
    np.testing.assert_allclose(moved, lacking, atol=float(slack.max()), rtol=1e-9)


@DRAWS
@given(seed=seeds, d=st.integers(1, 5), shaped=st.booleans(), wide=st.booleans())
def test_both_sides_of_every_pair_are_inside_a_ball(seed, d, shaped, wide):
    rng = np.random.default_rng(seed)
    center, outer = rng.normal(size=d), 10.0 ** rng.uniform(-2, 2)
    direction = units(rng, d, 1)[0]
    start = center + direction * outer * min(1, rng.random() * 1.2) * (1 - 1e-12)
    scale = 10.0 ** rng.uniform(-1, 1, d) if wide else 1.0
    space = Space(start, scale, Ball(center, outer))
    shape = random_shape(rng, d) if shaped else None
    radius = outer * 10.0 ** rng.uniform(-3, 1)
    z = space.to_internal(start)
    frame = space.frame(z, shape, radius)
    matrix = np.eye(d) if frame.shape is None else frame.shape
    assert np.linalg.norm(matrix, 2) <= 1 + 1e-9
    assert frame.radius <= radius
    for sign in (-1, 1):
        points = frame.center + sign * frame.radius * (units(rng, d, 200) @ matrix)
        assert np.linalg.norm(space.to_user(points) - center, axis=1).max() <= outer
    # As far out as it can be: unmoved, or touching the sphere.
    ball_center = space.to_internal(center)
    reach = furthest(frame.center, frame.shape, frame.radius, space.metric, ball_center)
    assert reach <= outer
    if not np.array_equal(frame.center, z):
        assert reach >= outer * (1 - 1e-5)
        away, moved = z - ball_center, frame.center - ball_center
        assert np.linalg.norm(moved) <= np.linalg.norm(away)
    # Axes are shortened only where the ball is too small for them.
    wanted = radius * (np.eye(d) if shape is None else shape) * space.metric
    if np.linalg.norm(wanted, 2) <= outer * (1 - 1e-9):
        assert frame.radius == radius
        assert frame.shape is shape


def test_a_long_axis_along_the_sphere_needs_less_room_than_its_length():
    # In the plane, the ellipse with axes 0.9 (tangential) and 0.1 (radial) fits around (c, 0) up to
    # the largest c for which no point of it is outside the unit circle: scanned densely.
    space = Space([0.8, 0.0], bounds=Ball([0.0, 0.0], 1.0))
    frame = space.frame(np.array([0.8, 0.0]), np.diag([1 / 9, 1.0]), 0.9)
    angle = np.linspace(0, 2 * math.pi, 200_001)
    outline = np.stack([0.1 * np.cos(angle), 0.9 * np.sin(angle)], axis=1)
    fits = [
        c
        for c in np.linspace(0, 0.8, 1601)
        if np.hypot(*(outline[::50] + np.array([c, 0])).T).max() < 1
    ]
    assert frame.center[0] == pytest.approx(max(fits), abs=6e-4)
    assert frame.center[0] > 1 - 0.9 + 0.2
    assert np.hypot(*(outline + frame.center).T).max() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("bounds", [None, [(-100, 100)] * 3, Ball([0.0] * 3, 100.0)])
@pytest.mark.parametrize("scale", [1.0, [1.0, 2.0, 0.5]])
def test_far_from_bounds_nothing_changes(bounds, scale):
    rng = np.random.default_rng(1)
    space = Space([1.0, 2.0, 3.0], scale, bounds)
    z = space.to_internal(space.start)
    for shape in (None, random_shape(rng, 3)):
        frame = space.frame(z, shape, 0.7)
        np.testing.assert_array_equal(frame.center, z)
        assert frame.shape is shape and frame.radius == 0.7
    center, radii = space.coordinate_steps(z, 0.7)
    np.testing.assert_array_equal(center, z)
    np.testing.assert_allclose(radii, 0.7, rtol=1e-15)
    np.testing.assert_array_equal(space.project(z), z)
    step = np.array([1.0, -1.0, 2.0])
    assert space.constrain(z, step, -step, np.eye(3)) is step


def test_the_mean_over_pairs_of_a_fitted_shape_estimates_shape_times_gradient():
    # A linear function; over a complete orthogonal basis the mean is exact.
    space = Space([0.05, 0.0], bounds=[(0, 0.1), (-1, 1)])
    gradient = np.array([3.0, -2.0])
    rotation = np.array([[0.6, 0.8], [-0.8, 0.6]])
    frame = space.frame(np.array([0.05, 0.0]), rotation @ np.diag([1.0, 0.5]) @ rotation.T, 0.4)
    u = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    step = frame.radius * (u @ frame.shape)
    difference = (frame.center + step) @ gradient - (frame.center - step) @ gradient
    estimate = (2 / 2 * difference[:, None] * u).mean(axis=0)
    np.testing.assert_allclose(estimate, frame.radius * frame.shape @ gradient, rtol=1e-12)
    np.testing.assert_allclose(
        np.linalg.solve(frame.radius * frame.shape, estimate), gradient, rtol=1e-12
    )


@DRAWS
@given(seed=seeds, d=st.integers(1, 5), ball=st.booleans(), wide=st.booleans())
def test_two_coordinate_steps_at_once_are_inside(seed, d, ball, wide):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-1, 1, d) if wide else 1.0
    if ball:
        outer = 10.0 ** rng.uniform(-1, 1)
        bounds = Ball(np.zeros(d), outer)
        start = units(rng, d, 1)[0] * outer * rng.random()
    else:
        lower, upper, start = random_box(rng, d)
        bounds = Bounds(lower, upper)
    space = Space(start, scale, bounds)
    radius = 10.0 ** rng.uniform(-2, 1)
    center, radii = space.coordinate_steps(space.to_internal(start), radius)
    assert np.all(radii > 0) and np.all(radii <= radius * (1 + 1e-15))
    signs = np.concatenate([np.diag(radii), -np.diag(radii)])
    points = np.concatenate(
        [center + signs]
        + [
            center + s * radii[i] * np.eye(d)[i] + t * radii[j] * np.eye(d)[j]
            for i in range(d)
            for j in range(i)
            for s in (-1, 1)
            for t in (-1, 1)
        ],
        axis=None,
    ).reshape(-1, d)
    if ball:
        assert np.linalg.norm(points * space.metric, axis=1).max() <= outer
    else:
        slack = 1e-12 * (1 + np.abs(center))
        assert np.all(points * space.metric >= lower - slack * space.metric)
        assert np.all(points * space.metric <= upper + slack * space.metric)


# Projection -------------------------------------------------------------------------------------


def test_projection_on_a_round_ball_keeps_the_direction():
    space = Space([1.0, 1.0], bounds=Ball([1.0, 1.0], 2.0))
    np.testing.assert_allclose(space.project(np.array([1.0, 9.0])), [1, 3], rtol=1e-11)
    inside = np.array([1.5, 1.5])
    np.testing.assert_array_equal(space.project(inside), inside)


@DRAWS
@given(seed=seeds, d=st.integers(1, 6))
def test_projection_is_the_nearest_point_of_an_ellipsoid(seed, d):
    # A nearest point y of a convex set has (z - y)·(w - y) ≤ 0 for every w of the set, which for
    # the ellipsoid is largest at the support point of z - y.
    rng = np.random.default_rng(seed)
    center, outer = rng.normal(size=d), 10.0 ** rng.uniform(-1, 1)
    space = Space(center, 10.0 ** rng.uniform(-1.5, 1.5, d), Ball(center, outer))
    z = space.to_internal(center + units(rng, d, 1)[0] * outer * 10.0 ** rng.uniform(0.01, 2))
    y = space.project(z)
    assert np.linalg.norm(space.to_user(y) - center) <= outer
    normal = z - y
    support = outer * np.linalg.norm(normal / space.metric)
    gap = support - normal @ (y - space.to_internal(center))
    assert 0 <= gap <= 1e-7 * support + 1e-12


# Steps ------------------------------------------------------------------------------------------


def random_model(rng, d):
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    hessian = basis @ np.diag(10.0 ** rng.uniform(-1.5, 1.5, d)) @ basis.T
    return (hessian + hessian.T) / 2, rng.normal(size=d) * 10.0 ** rng.uniform(-1, 1)


def model(s, gradient, hessian):
    return gradient @ s + 0.5 * s @ hessian @ s


def best_by_cone_program(gradient, hessian, length, constraint):
    # In units of the length and of the gradient, in which the solver's tolerances mean something.
    t = cp.Variable(len(gradient))
    unit = length * np.linalg.norm(gradient)
    root = np.linalg.cholesky(hessian).T * length / math.sqrt(unit)
    objective = (gradient * length / unit) @ t + 0.5 * cp.sum_squares(root @ t)
    problem = cp.Problem(cp.Minimize(objective), [cp.norm(t) <= 1, *constraint(t, length)])
    problem.solve(solver="CLARABEL")
    return length * t.value


def check_step(space, z, gradient, hessian, length, constraint):
    newton = -np.linalg.solve(hessian, gradient)
    step = newton * min(1, length / np.linalg.norm(newton))
    best = space.constrain(z, step, gradient, hessian)
    assert np.linalg.norm(best) <= np.linalg.norm(step) * (1 + 1e-12)
    if space.contains(z + step):
        assert best is step
        return False
    expected = best_by_cone_program(gradient, hessian, np.linalg.norm(step), constraint)
    size = np.linalg.norm(gradient) * np.linalg.norm(step)
    assert model(best, gradient, hessian) <= model(expected, gradient, hessian) + 1e-8 * size
    np.testing.assert_allclose(best, expected, atol=1e-3 * np.linalg.norm(step))
    return True


def test_the_constrained_step_agrees_with_a_cone_program_in_a_box():
    rng = np.random.default_rng(5)
    bound = 0
    for _ in range(40):
        d = int(rng.integers(1, 7))
        lower, upper, start = random_box(rng, d)
        space = Space(start, 10.0 ** rng.uniform(-1, 1, d), Bounds(lower, upper))
        z = space.to_internal(start)
        hessian, gradient = random_model(rng, d)
        low, high = lower / space.metric - z, upper / space.metric - z

        def constraint(t, length, low=low, high=high):
            kept_low, kept_high = np.isfinite(low), np.isfinite(high)
            rules = []
            if kept_low.any():
                rules.append(t[kept_low] >= low[kept_low] / length)
            if kept_high.any():
                rules.append(t[kept_high] <= high[kept_high] / length)
            return rules

        bound += check_step(space, z, gradient, hessian, 10.0 ** rng.uniform(-1, 1), constraint)
        best = space.constrain(z, -np.linalg.solve(hessian, gradient), gradient, hessian)
        assert np.all(best >= low - 1e-12) and np.all(best <= high + 1e-12)
    assert bound > 20


def test_the_constrained_step_agrees_with_a_cone_program_in_a_ball():
    rng = np.random.default_rng(6)
    bound = 0
    for index in range(30):
        d = int(rng.integers(1, 7))
        outer = 10.0 ** rng.uniform(-1, 0.5)
        start = units(rng, d, 1)[0] * outer * rng.random()
        scale = 10.0 ** rng.uniform(-1, 1, d) if index % 2 else 1.0
        space = Space(start, scale, Ball(np.zeros(d), outer))
        z = space.to_internal(start)
        hessian, gradient = random_model(rng, d)

        def constraint(t, length, z=z, metric=space.metric, outer=outer):
            return [cp.norm(cp.multiply(metric / outer, z + length * t)) <= 1]

        bound += check_step(space, z, gradient, hessian, 10.0 ** rng.uniform(-1, 1), constraint)
        best = space.constrain(z, -np.linalg.solve(hessian, gradient), gradient, hessian)
        assert np.linalg.norm(space.to_user(z + best)) <= outer
    assert bound > 15


def test_the_constrained_step_is_the_best_of_a_grid_in_the_plane():
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), axis=-1).reshape(-1, 2)
    for bounds in ([(-1, 0.3), (-0.2, 1)], Ball([0.1, -0.1], 0.6)):
        space = Space([0.0, 0.0], bounds=bounds)
        for _ in range(10):
            hessian, gradient = random_model(rng, 2)
            step = -np.linalg.solve(hessian, gradient)
            step *= min(1, 0.8 / np.linalg.norm(step))
            best = space.constrain(np.zeros(2), step, gradient, hessian)
            if best is step:
                continue
            allowed = np.linalg.norm(grid, axis=1) <= np.linalg.norm(step)
            if isinstance(bounds, Ball):
                allowed &= np.linalg.norm(grid - bounds.center, axis=1) <= bounds.radius
            else:
                allowed &= (grid[:, 0] <= 0.3) & (grid[:, 1] >= -0.2)
            values = grid @ gradient + 0.5 * np.einsum("ni,ij,nj->n", grid, hessian, grid)
            assert space.contains(best)
            assert model(best, gradient, hessian) <= values[allowed].min() + 1e-12


@DRAWS
@given(seed=seeds, d=st.integers(1, 25))
def test_in_a_box_the_step_meets_the_optimality_conditions_to_rounding(seed, d):
    rng = np.random.default_rng(seed)
    space = Space(np.zeros(d), bounds=[(-low, high) for low, high in rng.random((d, 2)) + 1e-3])
    hessian, gradient = random_model(rng, d)
    gradient *= 10
    newton = -np.linalg.solve(hessian, gradient)
    best = space.constrain(np.zeros(d), newton, gradient, hessian)
    if best is newton or np.linalg.norm(best) > 0.999 * np.linalg.norm(newton):
        return
    slope = gradient + hessian @ best
    size = np.abs(gradient).max()
    held = np.array(
        [not -low < s < high for s, (low, high) in zip(best, space.bounds, strict=True)]
    )
    assert np.abs(slope[~held]).max(initial=0) <= 1e-11 * size
    assert np.all(slope[held] * np.sign(best[held]) <= 1e-11 * size)


def test_a_step_out_of_a_corner_is_none():
    space = Space([0.0, 0.0], bounds=[(0, 1), (0, 1)])
    gradient = np.array([1.0, 1.0])
    np.testing.assert_array_equal(
        space.constrain(np.zeros(2), -gradient, gradient, np.eye(2)), [0, 0]
    )


def test_close_frames_stay_at_their_centre_while_there_is_room():
    box = Space([0.0, 0.0], bounds=[(-5.0, 5.0), (-5.0, 5.0)])
    z = np.array([3.0, 0.0])
    wide = box.close_frame(z, None, 4.0, 0.5)
    assert np.array_equal(wide.center, z) and 2 <= wide.radius <= 2 * 2**0.25
    assert np.array_equal(box.close_frame(z, None, 1.5, 0.5).center, z)
    assert box.close_frame(z, None, 1.5, 0.5).radius == 1.5
    # At the bound itself there is no room at any radius.
    edge = box.close_frame(np.array([5.0, 0.0]), None, 4.0, 0.5)
    assert edge.radius == 2.0 and edge.center == pytest.approx([3.0, 0.0])
    free = Space([0.0, 0.0]).close_frame(z, None, 4.0, 0.5)
    assert free.radius == 4.0 and np.array_equal(free.center, z)
