"""The coordinates a method works in.

A method sees a problem without units: coordinates ``z`` in which one length, `Space.length`, is
right for every direction. `Space` maps them to the user's ``x = metric * z`` (a vector `scale` is
such a diagonal metric), leaves out coordinates whose bounds leave them no choice, keeps points
inside bounds, and gives every pair of points room on both sides: one side of a pair that is clipped
alone makes its difference a biased measurement of the gradient. Knows nothing of functions and
their values, and draws nothing.

Legend: ``d`` coordinates of the user, of which a method sees those that are not fixed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modicum.zeroth.arguments import start_point

__all__ = ["Ball", "Frame", "Space"]

Array = Any
"""A NumPy array or a torch tensor."""

_SLACK = 1e-12
"""Share of a ball's radius that pairs leave free, so that rounding puts no point outside."""

_ROUNDING = 16 * float(np.finfo(np.float64).eps)
_NEWTON_LIMIT = 200
_ARMIJO = 1e-4
_STATIONARY = 1e-13


@dataclass(frozen=True)
class Ball:
    """Bounds: every point no further than `radius` from `center`.

    Parameters
    ----------
    center
        ``(d,)``, the user's coordinates.
    radius
        Positive, in the user's units.

    Raises
    ------
    ValueError
        If the centre is not a finite vector or the radius not a positive number.
    """

    center: Any
    radius: float

    def __post_init__(self) -> None:
        """Turn the centre into a float64 array and check both fields."""
        center = np.array(self.center, dtype=np.float64)
        if center.ndim != 1 or not np.isfinite(center).all():
            raise ValueError(f"Ball: center must be a finite vector, got {self.center!r}")
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"Ball: radius must be positive and finite, got {self.radius!r}")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "radius", float(self.radius))


@dataclass(frozen=True)
class Frame:
    """Where pairs ``center ± radius * (u @ shape)`` are feasible on both sides for unit ``u``.

    `shape` is a ``(d, d)`` array or None for the identity; its spectral norm is at most 1. Near
    bounds it need not be symmetric, so that the mean of ``d/2 (y₊ - y₋) u`` over such pairs
    estimates ``radius * shape @ gradient``.
    """

    center: np.ndarray
    shape: np.ndarray | None
    radius: float


_RADIUS_STEP = 2**-0.25
"""Ratio of the radii that `Space.close_frame` tries."""


class _Region(Protocol):
    """A closed convex set in internal coordinates."""

    def contains(self, z: np.ndarray) -> bool:
        """Say whether a point is inside."""

    def project(self, z: np.ndarray) -> np.ndarray:
        """Give the nearest point inside."""

    def frame(self, z: np.ndarray, shape: np.ndarray | None, radius: float) -> Frame:
        """Fit an ellipsoid of pairs."""

    def steps(self, z: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Fit coordinate steps, one or two at a time."""

    def minimise(self, z: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
        """Give the step inside that minimises a strictly convex quadratic model."""


class _Everywhere:
    """No bounds."""

    def contains(self, z: np.ndarray) -> bool:
        return True

    def project(self, z: np.ndarray) -> np.ndarray:
        return z

    def frame(self, z: np.ndarray, shape: np.ndarray | None, radius: float) -> Frame:
        return Frame(z, shape, radius)

    def steps(self, z: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        return z, np.full(len(z), radius)

    def minimise(self, z: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
        return _newton(hessian, gradient)


class _Box:
    """``lower ≤ z ≤ upper``, where any bound may be infinite."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray) -> None:
        self.lower, self.upper = lower, upper
        self.room = (upper - lower) / 2

    def contains(self, z: np.ndarray) -> bool:
        return bool(np.all(z >= self.lower) and np.all(z <= self.upper))

    def project(self, z: np.ndarray) -> np.ndarray:
        return np.clip(z, self.lower, self.upper)

    def frame(self, z: np.ndarray, shape: np.ndarray | None, radius: float) -> Frame:
        # The ellipsoid reaches as far along coordinate j as the norm of column j.
        reach = np.full(len(z), radius)
        if shape is not None:
            reach *= np.linalg.norm(shape, axis=0)
        fitted = np.minimum(reach, self.room)
        center = np.clip(z, self.lower + fitted, self.upper - fitted)
        if np.array_equal(fitted, reach):
            return Frame(center, shape, radius)
        share = np.divide(fitted, reach, out=np.ones_like(reach), where=reach > 0)
        return Frame(center, np.diag(share) if shape is None else shape * share, radius)

    def steps(self, z: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        fitted = np.minimum(radius, self.room)
        return np.clip(z, self.lower + fitted, self.upper - fitted), fitted

    def minimise(self, z: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
        return _box_quadratic(hessian, gradient, self.lower - z, self.upper - z)


class _Ball:
    """``‖metric * (z - center)‖ ≤ radius``."""

    def __init__(self, center: np.ndarray, radius: float, metric: np.ndarray) -> None:
        self.center, self.metric = center, metric
        self.outer = radius
        magnitude = float(np.abs(center * metric).max(initial=0.0)) + radius
        self.radius = radius * (1 - _SLACK) - _ROUNDING * magnitude
        self.round = bool(np.all(metric == metric[0]))

    def contains(self, z: np.ndarray) -> bool:
        return self._norm(z - self.center) <= self.outer

    def project(self, z: np.ndarray) -> np.ndarray:
        away = z - self.center
        norm = self._norm(away)
        if norm <= self.outer:
            return z
        if self.round:
            return self.center + away * (self.radius / norm)
        squares = self.metric**2

        def at(multiplier: float) -> np.ndarray:
            return away / (1 + multiplier * squares)

        limit = float(np.linalg.norm(away / self.metric)) / self.radius
        multiplier = _root(lambda value: self._norm(at(value)) - self.radius, limit)
        return self.center + at(multiplier)

    def frame(self, z: np.ndarray, shape: np.ndarray | None, radius: float) -> Frame:
        if shape is None and self.round:
            stretch = float(self.metric[0])
            fitted = min(radius, self.radius / stretch)
            return Frame(self._toward_center(z, fitted * stretch), None, fitted)
        spread = (np.eye(len(z)) if shape is None else shape) * self.metric * radius
        away = self.metric * (z - self.center)
        if np.linalg.norm(away) + np.linalg.norm(spread) <= self.radius:
            return Frame(z, shape, radius)
        left, axes, right = np.linalg.svd(spread)
        fitted_axes = np.minimum(axes, self.radius)
        share = _share_of_way(right @ away, fitted_axes, self.radius)
        center = z if share >= 1 else self.center + share * (z - self.center)
        if fitted_axes[0] == axes[0]:
            return Frame(center, shape, radius)
        fitted_shape = (left * fitted_axes) @ right / (self.metric * radius)
        norm = float(np.linalg.norm(fitted_shape, 2))
        return Frame(center, fitted_shape / max(1.0, norm), radius)

    def steps(self, z: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        # Two steps at once are as long as one along their diagonal.
        longest = radius * math.sqrt(min(2, len(z)))
        frame = self.frame(z, None, longest)
        share = 1.0 if frame.shape is None else np.diag(frame.shape)
        return frame.center, radius * share * np.full(len(z), frame.radius / longest)

    def minimise(self, z: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
        step = _newton(hessian, gradient)
        away = z - self.center
        if self._norm(away + step) <= self.radius:
            return step
        squares = np.diag(self.metric**2)
        pull = self.metric**2 * away

        def at(multiplier: float) -> np.ndarray:
            return _newton(hessian + multiplier * squares, gradient + multiplier * pull)

        def excess(multiplier: float) -> float:
            return self._norm(away + at(multiplier)) - self.radius

        limit = float(np.trace(hessian)) / float(np.trace(squares))
        while excess(limit) > 0:
            limit *= 4
        return at(_root(excess, limit))

    def _norm(self, away: np.ndarray) -> float:
        return float(np.linalg.norm(self.metric * away))

    def _toward_center(self, z: np.ndarray, reach: float) -> np.ndarray:
        away = z - self.center
        norm, limit = self._norm(away), self.radius - reach
        return z if norm <= limit else self.center + away * (limit / norm)


class Space:
    """Coordinates with a length, a diagonal metric and bounds.

    Parameters
    ----------
    x0
        Start in the user's coordinates, ``(d,)``.
    scale
        Length over which the user expects to move; a ``(d,)`` vector gives one per coordinate.
    bounds
        None; a `scipy.optimize.Bounds`; a sequence of ``d`` pairs ``(low, high)``, in which None
        and infinities leave a side open; or a `Ball`. A coordinate with ``low == high`` is fixed:
        methods do not see it, and it is put back in the user's points.

    Attributes
    ----------
    start
        `x0` as float64, in the user's coordinates.
    dimension
        Number of internal coordinates: those of the user that are not fixed.
    length
        The length that is right in every internal coordinate: the geometric mean of `scale`.
    metric
        ``(dimension,)``; the user's coordinate is ``metric`` times the internal one.
    bounded
        Whether there are bounds.

    Raises
    ------
    ValueError
        If `x0` is not a finite vector inside the bounds, a scale is not positive, a pair of bounds
        is the wrong way round, or every coordinate is fixed.
    """

    def __init__(self, x0: Any, scale: Any = 1.0, bounds: Any = None) -> None:
        self.start = start_point(x0)
        scales = _scales(scale, len(self.start))
        self.bounds = bounds
        self._free: np.ndarray | None = None
        self._lower: np.ndarray | None = None
        self._upper: np.ndarray | None = None
        if bounds is None or isinstance(bounds, Ball):
            self._set_metric(scales)
        else:
            self._set_box(scales, *_limits(bounds, len(self.start)))
        self._region = self._make_region()
        self.bounded = not isinstance(self._region, _Everywhere)

    # Between the user's coordinates and a method's ---------------------------------------------

    def to_user(self, z: Array) -> Array:
        """Map internal points ``(…, dimension)`` to the user's ``(…, d)``.

        The array library and the device stay. Feasible points come out inside a box to the last
        bit, whatever the rounding.
        """
        x = z * self._like(self.metric, z)
        if self._lower is not None and self._upper is not None:
            x = _clip(x, self._like(self._lower, x), self._like(self._upper, x))
        return x if self._free is None else self._insert(x, self.start)

    def to_internal(self, x: Array) -> Array:
        """Map the user's points ``(…, d)`` to internal ones ``(…, dimension)``."""
        if self._free is not None:
            x = x[..., self._free]
        return x / self._like(self.metric, x)

    def gradient_to_user(self, gradient: np.ndarray) -> np.ndarray:
        """Map an internal gradient to the user's ``(d,)``; nan where a coordinate is fixed."""
        user: np.ndarray = gradient / self.metric
        return user if self._free is None else self._insert(user, np.full(self.start.shape, np.nan))

    def hessian_to_user(self, hessian: np.ndarray) -> np.ndarray:
        """Map an internal Hessian to the user's ``(d, d)``; nan where a coordinate is fixed."""
        user = hessian / np.outer(self.metric, self.metric)
        if self._free is None:
            return user
        full = np.full((len(self.start), len(self.start)), np.nan)
        full[np.ix_(self._free, self._free)] = user
        return full

    # Bounds, in internal coordinates -----------------------------------------------------------

    def contains(self, z: np.ndarray) -> bool:
        """Say whether a point is inside the bounds."""
        return self._region.contains(z)

    def project(self, z: np.ndarray) -> np.ndarray:
        """Give the feasible point nearest to ``z``."""
        return self._region.project(z)

    def frame(self, z: np.ndarray, shape: np.ndarray | None, radius: float) -> Frame:
        """Move and shrink an ellipsoid of pairs until both sides of every pair are feasible.

        The centre moves inward first. Only what finds no room after that is shrunk: a coordinate of
        a box that is narrower than the ellipsoid, an axis that is longer than the ball's. Far from
        the bounds all three values come back as they are.

        Parameters
        ----------
        z
            Feasible point ``(dimension,)``.
        shape
            ``(dimension, dimension)`` of spectral norm at most 1; None for the identity.
        radius
            Positive.
        """
        return self._region.frame(z, shape, radius)

    def close_frame(
        self, z: np.ndarray, shape: np.ndarray | None, radius: float, least: float
    ) -> Frame:
        """Fit an ellipsoid of pairs that stays at its centre, smaller if it must.

        Of the radii from `radius` down to ``least * radius`` the first is taken at which both sides
        of every pair are feasible around ``z`` itself; if there is none, the centre of the smallest
        moves inward as of `frame`.

        Parameters
        ----------
        z, shape, radius
            As for `frame`.
        least
            In (0, 1].
        """
        share = 1.0
        while True:
            frame = self._region.frame(z, shape, share * radius)
            if share <= least or np.array_equal(frame.center, z):
                return frame
            share = max(share * _RADIUS_STEP, least)

    def coordinate_steps(self, z: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Find room for steps of `radius` along coordinates, one or two at a time.

        Returns
        -------
        center, radii
            ``(dimension,)`` each: ``center ± radii[i] e_i ± radii[j] e_j`` is feasible for every
            ``i ≠ j`` and all signs.
        """
        return self._region.steps(z, radius)

    def constrain(
        self, z: np.ndarray, step: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
    ) -> np.ndarray:
        """Give the step that minimises the model within the bounds, where ``z + step`` leaves them.

        The model is ``gradient·s + s·hessian·s/2``; the result is its exact minimiser among steps
        that stay inside the bounds and are no longer than `step`.

        Parameters
        ----------
        z
            Feasible point ``(dimension,)``.
        step
            What the method would do without bounds; comes back as it is where it stays inside.
        gradient
            ``(dimension,)``.
        hessian
            ``(dimension, dimension)``, positive definite.
        """
        if self._region.contains(z + step):
            return step
        length = float(np.linalg.norm(step))
        identity = np.eye(len(z))

        def at(multiplier: float) -> np.ndarray:
            return self._region.minimise(z, gradient, hessian + multiplier * identity)

        best = at(0.0)
        if np.linalg.norm(best) > length:
            # A step of length s in a model whose curvature is at least m has m s ≤ ‖gradient‖.
            limit = float(np.linalg.norm(gradient)) / length
            best = at(_root(lambda value: float(np.linalg.norm(at(value))) - length, limit))
        norm = float(np.linalg.norm(best))
        # Towards z, which is feasible, everything on the way is.
        best = best if norm <= length else best * (length / norm)
        return self._region.project(z + best) - z

    # What the constructor needs ----------------------------------------------------------------

    def _set_metric(self, scales: np.ndarray) -> None:
        self.dimension = len(scales)
        # A scale that is the same everywhere changes no bit of a point.
        even = bool(np.all(scales == scales[0]))
        self.length = float(scales[0]) if even else float(np.exp(np.log(scales).mean()))
        self.metric = np.ones(len(scales)) if even else scales / self.length

    def _set_box(self, scales: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
        outside = np.flatnonzero((self.start < lower) | (self.start > upper))
        if len(outside):
            at = int(outside[0])
            raise ValueError(
                f"x0[{at}] = {self.start[at]:g} is outside its bounds"
                f" [{lower[at]:g}, {upper[at]:g}]; start inside"
            )
        free = np.flatnonzero(lower < upper)
        if not len(free):
            raise ValueError("the bounds fix every coordinate; leave at least one some room")
        if len(free) < len(lower):
            self._free = free
        self._set_metric(scales[free])
        if np.isfinite(lower[free]).any() or np.isfinite(upper[free]).any():
            self._lower, self._upper = lower[free], upper[free]

    def _make_region(self) -> _Region:
        if isinstance(self.bounds, Ball):
            if len(self.bounds.center) != self.dimension:
                raise ValueError(
                    f"the ball's center has {len(self.bounds.center)} coordinates,"
                    f" x0 has {self.dimension}"
                )
            ball = _Ball(self.bounds.center / self.metric, self.bounds.radius, self.metric)
            if not ball.contains(self.start / self.metric):
                distance = float(np.linalg.norm(self.start - self.bounds.center))
                raise ValueError(
                    f"x0 is {distance:g} from the ball's center, outside its radius"
                    f" {self.bounds.radius:g}; start inside"
                )
            return ball
        if self._lower is None or self._upper is None:
            return _Everywhere()
        lower, upper = self._lower / self.metric, self._upper / self.metric
        # Rounded outward, so that what lies on a face is clipped onto the user's.
        lower = np.where(lower * self.metric > self._lower, np.nextafter(lower, -math.inf), lower)
        upper = np.where(upper * self.metric < self._upper, np.nextafter(upper, math.inf), upper)
        return _Box(lower, upper)

    def _insert(self, values: Array, rest: np.ndarray) -> Array:
        shape = (*values.shape[:-1], len(rest))
        if isinstance(values, np.ndarray):
            full = np.broadcast_to(rest, shape).copy()
        else:
            full = values.new_tensor(rest).expand(shape).clone()
        full[..., self._free] = values
        return full

    def _like(self, values: np.ndarray, array: Array) -> Array:
        if isinstance(array, np.ndarray):
            return values
        return array.new_tensor(values)


def _clip(x: Array, lower: Array, upper: Array) -> Array:
    return np.clip(x, lower, upper) if isinstance(x, np.ndarray) else x.clamp(lower, upper)


def _scales(scale: Any, dimension: int) -> np.ndarray:
    scales = np.asarray(scale, dtype=np.float64)
    if scales.ndim > 1 or (scales.ndim == 1 and len(scales) != dimension):
        raise ValueError(
            f"scale must be a number or a vector of {dimension} of them, got shape {scales.shape}"
        )
    if not (np.isfinite(scales).all() and np.all(scales > 0)):
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    return np.broadcast_to(scales, dimension)


def _limits(bounds: Any, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Read bounds of a box as two float64 vectors."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        lows, highs = bounds.lb, bounds.ub
    else:
        try:
            pairs = [(low, high) for low, high in bounds]
        except (TypeError, ValueError):
            raise ValueError(
                "bounds must be a scipy.optimize.Bounds, a Ball or a sequence of pairs"
                f" (low, high), got {bounds!r}"
            ) from None
        if len(pairs) != dimension:
            raise ValueError(f"bounds has {len(pairs)} pairs for the {dimension} coordinates of x0")
        lows = [-math.inf if low is None else low for low, _ in pairs]
        highs = [math.inf if high is None else high for _, high in pairs]
    try:
        lower = np.broadcast_to(np.asarray(lows, dtype=np.float64), dimension)
        upper = np.broadcast_to(np.asarray(highs, dtype=np.float64), dimension)
    except ValueError:
        raise ValueError(f"bounds must have one pair for each of {dimension} coordinates") from None
    wrong = np.flatnonzero(~(lower <= upper) | (lower == math.inf) | (upper == -math.inf))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"bounds of coordinate {at} are ({lower[at]:g}, {upper[at]:g});"
            " the first must be a number no larger than the second"
        )
    return lower, upper


def _root(function: Callable[[float], float], limit: float) -> float:
    """Find where a decreasing function, positive at 0, is zero; `limit` where it is nowhere so."""
    from scipy.optimize import brentq

    if function(limit) >= 0:
        return limit
    return float(brentq(function, 0.0, limit, xtol=limit * _ROUNDING, rtol=_ROUNDING))


def _share_of_way(away: np.ndarray, axes: np.ndarray, radius: float) -> float:
    """Find how far from a ball's centre an ellipsoid may stand and stay inside the ball.

    The ellipsoid is ``{share * away + axes * u: ‖u‖ ≤ 1}`` and the result the largest share. By the
    S-lemma it is inside for a share if and only if for some ``λ`` in ``[max axes², radius²]``
    ``share² λ Σ away²/(λ - axes²) ≤ radius² - λ``. So every ``λ`` gives a share that is safe, and
    the best one is found by a search over a quasi-concave function.
    """
    from scipy.optimize import minimize_scalar

    low, high = float(axes[0] ** 2), radius**2
    if not away.any():
        return 1.0
    if low >= high:
        return 0.0

    def negative_square(multiplier: float) -> float:
        load = multiplier * float(np.sum(away**2 / (multiplier - axes**2)))
        return -(high - multiplier) / load

    options = {"xatol": (high - low) * 1e-12}
    found = minimize_scalar(negative_square, bounds=(low, high), method="bounded", options=options)
    return math.sqrt(max(0.0, -float(found.fun)))


def _box_quadratic(
    hessian: np.ndarray, gradient: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    """Minimise ``gradient·s + s·hessian·s/2`` over a box by projected Newton steps.

    Each step solves for the coordinates that are not held at a bound and follows the path's
    projection (Bertsekas, "Projected Newton methods for optimization problems with simple
    constraints", 1982); once the right ones are held, the next step is exact.
    """
    s = np.clip(_newton(hessian, gradient), lower, upper)
    for _ in range(_NEWTON_LIMIT):
        slope = gradient + hessian @ s
        free = ~(((s <= lower) & (slope > 0)) | ((s >= upper) & (slope < 0)))
        if not free.any():
            return s
        newton = np.zeros_like(s)
        newton[free] = _newton(hessian[np.ix_(free, free)], slope[free])
        size = 1.0
        while True:
            change = np.clip(s + size * newton, lower, upper) - s
            # The fall of the model, without the cancellation in a difference of two values.
            fall = slope @ change + 0.5 * change @ hessian @ change
            if fall <= _ARMIJO * slope @ change or size < _STATIONARY:
                break
            size /= 2
        s = np.clip(s + size * newton, lower, upper)
        if np.linalg.norm(change) <= _STATIONARY * np.linalg.norm(s):
            return s
    return s


def _newton(hessian: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return np.asarray(-np.linalg.solve(hessian, gradient))
