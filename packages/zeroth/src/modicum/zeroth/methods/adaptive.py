"""The default method: rounds of pairs that double in size, each with a gradient and a Hessian.

A round evaluates its centre a few times and antithetic pairs around it. Differences of pairs give
the gradient, their means the Hessian; gradients of earlier rounds are carried to the new centre by
the Hessian and averaged in, each with its variance. The radius follows what the run has learned of
the noise and of how the Hessian changes, so no constant needs to be known. Takes the values of one
round at a time; evaluates nothing.

Sources: the noise-matched radius, the floored Newton step and pairs on an ellipsoid are those of
"Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz Hessian: Minimax Sample
Complexity" (arXiv 2406.19617), algorithms 1, 3 and 4; the rest is this package's.

Gradients are in three forms: of the function, ``∇f``; of a round, ``shape ∇f`` for its shape of the
ellipsoid; all ``(d,)``. Legend: ``N`` pairs, ``d`` dimension, ``K`` gradient estimates.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth import theory
from modicum.zeroth.arguments import integer, positive
from modicum.zeroth.arrays import host, like
from modicum.zeroth.batch import Array, Batch
from modicum.zeroth.directions import draw_pair_directions
from modicum.zeroth.linalg import clipped_newton_eigen
from modicum.zeroth.methods._history import (
    Gradient,
    GradientHistory,
    PastRound,
    combine_gradients,
)
from modicum.zeroth.optimizer import TOO_MANY_LOST, Optimizer, Recommendation, Round
from modicum.zeroth.pairs import Pairs, difference_noise, make_pairs, odd_gradient
from modicum.zeroth.regression import HessianFit, fit_even
from modicum.zeroth.space import Frame

__all__ = ["Adaptive", "AdaptiveState"]

CENTER_SHARE = 0.05
"""Share of a round that is evaluated at its centre."""

FIRST_REPEATS = (10, 50)
"""Least and most evaluations at the start that estimate the noise; a hundredth of the budget."""

ROUND_LEAST = 20
"""Least size of a round; it has at least two pairs per four variables besides."""

INNER, OUTER = math.sqrt(0.5), math.sqrt(2.0)
"""The two radii of a round, in units of its radius."""

MEAN_SQUARE_RADIUS = (INNER**4 + OUTER**4) / (INNER**2 + OUTER**2)
"""Squared radius of a round in units of its radius, pairs weighed by what they know."""

AIM = 1.5
"""Radius in units of the one that is best for a single gradient: better with two radii
and the average over rounds, where biases cancel in part."""

DETECTED = 3.0
"""Standard errors from which a bias counts as seen."""

OUTER_SHARE_SEEN = 0.35
"""Share of the pairs at the outer radius once a bias is seen, else half."""

GROWTH = 1.5
"""Largest growth of the radius per round, and beyond the scale before a bias is seen."""

STALE = 0.25
"""What information is worth after a step longer than the radius."""

FORGET = 0.5
"""What the Hessian of the rounds before is worth beside a new one, and their noise."""

PRIOR_DOF = 10.0
"""Weight of the known noise beside residuals, in degrees of freedom."""

NEGATIVE = 2.0
"""Sizes of the Hessian's noise by which an eigenvalue must be below 0 to be called negative: of
rounds on a flat function, noise alone gives less than one in 200 such an eigenvalue."""

NOISE_FACTOR = 2.0
"""Times the noise of the Hessian below which eigenvalues are not told from 0."""

SHAPE_EXPONENT = 0.25
"""The ellipsoid of pairs has axes ``(λ_min/λ)`` to this power: 1/2 is the published shape, which is
best at the minimiser, 0 the sphere, which is safer where the Hessian is not known well."""

WORSE = 3.0
"""Standard errors by which the centre must have become worse for a step to be taken back."""

EIGEN_FLOOR = 1e-3
"""Least eigenvalue of the Hessian in units of the largest."""

ADDED_ROUNDS = 60
"""Rounds that may be added because the point is still far away or a step was taken back."""

LEAST_ROOM = 0.5
"""Share of the radius below which pairs near bounds rather move their centre inward."""

TRUST_LEAST = 8.0
"""The trust radius does not fall below the sampling radius divided by this."""

KURTOSIS_MAX, KURTOSIS_DOF = 10.0, 50
"""Kurtosis of residuals that is called heavy, and degrees of freedom that it takes to say so."""

LARGEST_FULL, UNKNOWNS_PER_PAIR = 200, 4
"""Most variables of a full Hessian, and its unknowns per pair of the last round."""

PAIRS_PER_UNKNOWN, FIT_PRODUCTS = 2, 20_000_000_000
"""Pairs per unknown and products (seconds on one core) that suffice for a full Hessian: its error
counts only times the step, which is short at the end, so more pairs would be wasted on it."""

NOISE_FLOOR = 1e-9
"""Least noise in units of the function's size, or of 1 where that is smaller."""

RADIUS_FLOOR = float(np.finfo(float).eps) ** 0.25
"""Least radius in units of the point's size: below, differences are rounding errors."""

SAFETY_ERRORS = 3.0
"""Standard errors by which the last point must be worse than the one before to be given up."""

PRIOR_LEAST = 1e-2
"""Least variance of the first gradients, in units of their noise."""

START = -1
"""Number of the round before the first."""

EVIDENCE_STEPS = 5
"""Repetitions of the fit of a Hessian to few pairs. What is known beforehand counts as much as a
quarter of the pairs, unless they contradict it: without noise they know better."""

UNEVEN = 4.0
"""Largest factor in variance that uneven directions may cost least squares."""

HUGE = float(np.finfo(float).max) ** 0.5
PIVOT = 1e-9
TINY = float(np.finfo(float).tiny) ** 0.5


@dataclass
class Accepted:
    """The last round whose step was not taken back, in internal coordinates.

    Attributes
    ----------
    x, value, value_std
        Centre, mean of its values and their standard error.
    gradient, hessian
        Gradient estimate, and the Hessian with floored eigenvalues.
    raw, smooth
        The Hessian as measured, and drawn towards a multiple of I by as much as noise explains.
    inverse_shape
        Of the ellipsoid of pairs, ``(d, d)``.
    gradient_var, gradient_bias
        Variance and squared bias per coordinate of ``shape ∇f``.
    entry_std, smooth_std
        Standard deviations of an entry of ``shape raw shapeᵀ`` and of ``shape smooth shapeᵀ``.
    radius
        Of its pairs.
    model_value, model_value_std
        Value at the centre from all pairs.
    band
        Spectral size of the noise of the Hessian.
    """

    x: np.ndarray
    value: float
    value_std: float
    gradient: np.ndarray
    hessian: np.ndarray
    raw: np.ndarray
    smooth: np.ndarray
    inverse_shape: np.ndarray
    gradient_var: float
    gradient_bias: float
    entry_std: float
    smooth_std: float
    radius: float
    model_value: float
    model_value_std: float
    band: float


@dataclass
class AdaptiveState:
    """Where a run is, in internal coordinates.

    Attributes
    ----------
    x
        The point.
    stage
        What is asked next: ``"noise"``, ``"round"``, ``"check"`` or ``"done"``.
    left, rounds_left, added
        Evaluations and rounds to come, and rounds that were added to the plan.
    taken_back
        Steps in a row after which the function was worse.
    noise, noise_square, noise_dof
        Standard deviation of one value; sum of squares and degrees of freedom behind it.
    pair_noise, pairs_seen
        What the pairs of the last round left over, as the standard deviation of one value, and
        whether there have been enough pairs to tell.
    odd_square, odd_dof
        Sum of squares and degrees of freedom of differences, for paired evaluations.
    trust, radius, sampled
        Longest step, radius aimed at and radius of the last round's pairs within the bounds.
    bias_weight, bias_sum
        Weighted sums behind the squared rate at which gradients change with the squared radius.
    information
        Inverse variance of an entry of the Hessian.
    step_norm, hit, travelling, decrease
        Of the last step: length, whether it was as long as allowed, whether it is still going
        somewhere, what was promised.
    """

    x: np.ndarray
    stage: str
    left: int
    rounds_left: int
    noise: float
    trust: float
    radius: float
    sampled: float
    added: int = 0
    taken_back: int = 0
    noise_square: float = 0.0
    noise_dof: float = 0.0
    pair_noise: float = 0.0
    pairs_seen: bool = False
    odd_square: float = 0.0
    odd_dof: float = 0.0
    bias_weight: float = 0.0
    bias_sum: float = 0.0
    information: float = 0.0
    step_norm: float = 0.0
    decrease: float = 0.0
    hit: bool = False
    travelling: bool = False
    number: int = 0
    nonconvex: bool = False
    accepted: Accepted | None = None
    previous: np.ndarray | None = None
    shape: np.ndarray | None = None
    start_values: list[float] = field(default_factory=list)
    history: GradientHistory = field(default_factory=GradientHistory)
    known: dict[str, Any] = field(default_factory=dict)


class _Drawn(NamedTuple):
    """The pairs of a round: ``center ± radius_N (u_Nd @ shape)``."""

    u_Nd: Array
    radius_N: np.ndarray
    frame: Frame
    shape: np.ndarray
    inner: int
    centers: int
    radius: float
    aimed: float


class Adaptive(Optimizer):
    """Minimise with nothing known but a length; what is known helps.

    Rounds double in size, the last one has about half of the budget. Each gives a gradient and a
    Hessian at its centre, and the next centre is a Newton step away whose length is limited by a
    trust radius until the model has proved itself; a step after which the function is significantly
    worse is taken back. While the point is still far from its goal, further rounds are added.

    Use it for smooth functions of 2 to a few hundred variables with noisy values and one optimum
    near enough. Do not use it for exact values or for functions with many minima of equal rank.

    Parameters
    ----------
    x0, budget, scale, noise, strong_convexity, hessian_lipschitz, bounds, paired, rng, device
        As for `Optimizer`. `scale` is how far the optimum may be; a few times too much or too
        little costs rounds, not the result.
    directions
        As for `Optimizer`; the default ``"orthogonal"`` has blocks of ``d`` orthogonal directions,
        each uniform on the sphere.
    close_fraction
        As for `Optimizer`.
    hessian
        ``"full"``; ``"diag"``, ``"lowrank:k"`` or ``"none"`` (a multiple of I) need fewer pairs. A
        full one becomes a diagonal one, with a message, above 200 variables or where the last round
        has less than a quarter as many pairs as it has entries.
    order
        3, or 5 for functions with Lipschitz fourth derivative, whose gradients from two radii are
        extrapolated so that their bias falls as ``radius⁴``.
    robust
        None, or ``"median-of-means"`` for noise with heavy tails.
    min_radius
        Least sampling radius, in internal coordinates.
    safety
        Share of the budget that compares the last point with the one before by fresh values.
    history
        Rounds whose gradients are averaged in; 0 for none.

    Raises
    ------
    ValueError
        For settings that make no sense and budgets below ``8 d + 10`` or 100.

    Notes
    -----
    Regret of the recommended point is predicted from the noise and the bias of the last gradient
    and the noise of the Hessian (`Recommendation.predicted_regret_terms`).
    """

    name = "adaptive"

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        hessian: str = "full",
        order: int = 3,
        robust: str | None = None,
        min_radius: float = 0.0,
        safety: float = 0.03,
        history: int = 12,
        directions: str = "orthogonal",
        **settings: Any,
    ) -> None:
        if order not in (3, 5):
            raise ValueError(f"order must be 3 or 5, not {order!r}")
        if robust not in (None, "median-of-means"):
            raise ValueError(f'robust must be None or "median-of-means", not {robust!r}')
        if not 0 <= safety < 0.5:
            raise ValueError(f"safety must be in [0, 0.5), not {safety!r}")
        self.order = order
        self.robust = robust
        self.min_radius = 0.0 if min_radius == 0 else positive("min_radius", min_radius)
        self.safety = float(safety)
        self.history = integer("history", history, least=0)
        self.hessian = _checked_hessian(hessian)
        super().__init__(x0, budget, directions=directions, **settings)
        if self.directions == "gaussian" and self.space.bounded:
            raise ValueError(
                "gaussian directions have no greatest length; with bounds use 'sphere' or another"
            )
        self._model = self._affordable_hessian()

    def minimum_budget(self) -> int:
        """Give the smallest usable budget: noise, and two rounds of four evaluations a variable."""
        return max(8 * self.dimension + 10, 90)

    # Sizes ---------------------------------------------------------------------------------------

    @property
    def _checks(self) -> int:
        """Evaluations of each of the two points that are compared at the end."""
        each = int(self.safety * self.budget) // 2
        return each if each >= 2 else 0

    @property
    def _repeats(self) -> int:
        least, most = FIRST_REPEATS
        return 0 if self.noise is not None else int(np.clip(self.budget // 100, least, most))

    def _most_rounds(self, left: int) -> int:
        """Give how many rounds that double fit, the first of the least size."""
        least = max(2 * self.dimension + 2, ROUND_LEAST)
        return max(1, int(math.log2(left / least + 1) + PIVOT))

    def _affordable_hessian(self) -> str:
        d = self.dimension
        entries = (d + 1) * (d + 2) // 2
        if self.hessian == "full" and (
            d > LARGEST_FULL or entries > UNKNOWNS_PER_PAIR * (self.budget // 4)
        ):
            self._warn(
                f"a full Hessian of {d} variables has {entries} unknowns, too many for a budget of"
                f" {self.budget}; its diagonal is estimated instead"
            )
            return "diag"
        return self.hessian

    def _initial_state(self) -> AdaptiveState:
        left = self.budget - 2 * self._checks - self._repeats
        return AdaptiveState(
            x=self.space.project(self.space.to_internal(self.space.start)),
            stage="round" if self._repeats == 0 else "noise",
            left=left,
            rounds_left=self._most_rounds(left),
            noise=math.nan if self.noise is None else self.noise,
            trust=self.space.length,
            radius=self.space.length,
            sampled=self.space.length,
        )

    # Questions -----------------------------------------------------------------------------------

    def _propose(self) -> Batch | None:
        state = self.state
        if state.stage == "noise":
            return self._repeated([state.x], self._repeats)
        if state.stage == "check":
            assert state.previous is not None
            return self._repeated([state.x, state.previous], self._checks)
        return self._pairs() if state.stage == "round" else None

    def _repeated(self, centers: list[np.ndarray], count: int) -> Batch:
        points = self._on_device(np.repeat(np.array(centers), count, axis=0))
        return Batch(self.space.to_user(points), np.arange(len(points)))

    def _on_device(self, values: np.ndarray) -> Array:
        if self.device is None:
            return values
        import torch

        return torch.from_numpy(values).to(self.device)

    def _round_size(self) -> tuple[int, int, int]:
        """Give a round's evaluations, those at its centre, and its pairs."""
        left, rounds = self.state.left, self.state.rounds_left
        size = left if rounds == 1 else int(left / (2**rounds - 1))
        centers = max(2, int(size * CENTER_SHARE))
        return size, centers, (size - centers) // 2

    def _pairs(self) -> Batch:
        drawn = self._draw()
        step_Nd = drawn.u_Nd @ like(drawn.shape, drawn.u_Nd)
        step_Nd = step_Nd * like(drawn.radius_N[:, None], drawn.u_Nd)
        center = like(drawn.frame.center, drawn.u_Nd)
        xp = array_namespace(step_Nd)
        sides = xp.stack([center + step_Nd, center - step_Nd], axis=1)
        count = len(drawn.radius_N)
        middle = xp.broadcast_to(center[None, :], (drawn.centers, self.dimension))
        points = xp.concat([middle, xp.reshape(sides, (2 * count, self.dimension))], axis=0)
        unit = np.concatenate(
            [np.arange(drawn.centers), drawn.centers + np.repeat(np.arange(count), 2)]
        )
        return Batch(self.space.to_user(points), unit, drawn)

    def _draw(self) -> _Drawn:
        """Choose the pairs of a round: a function of the state alone."""
        state, d = self.state, self.dimension
        _, centers, count = self._round_size()
        shape = self._shape()
        aimed, seen = self._next_radius(count)
        frame = self.space.close_frame(state.x, shape, OUTER * aimed, LEAST_ROOM)
        radius = frame.radius / OUTER
        outer = max(1, round(count * (OUTER_SHARE_SEEN if seen else 0.5)))
        if count >= 2 * d:
            outer = max(1, round(outer / d)) * d
            inner = count - outer
            radius_N = np.repeat([INNER * radius, OUTER * radius], [inner, outer])
            parts = [(inner, 0), (outer, 1)]
        else:
            # Too few for two gradients: both radii take turns in one.
            inner = count
            radius_N = np.where(np.arange(count) % 2 == 0, INNER * radius, OUTER * radius)
            parts = [(count, 0)]
        drawn = [
            draw_pair_directions(
                self.directions, size, d, self.seed, state.number, part, device=self.device
            )
            for size, part in parts
        ]
        u_Nd = drawn[0] if len(drawn) == 1 else array_namespace(drawn[0]).concat(drawn, axis=0)
        whole = np.eye(d) if frame.shape is None else frame.shape
        return _Drawn(u_Nd, radius_N, frame, whole, inner, centers, radius, aimed)

    def _shape(self) -> np.ndarray | None:
        """Give the ellipsoid of pairs, of spectral norm 1."""
        if self.state.accepted is None:
            return None
        eigenvalues_d, vectors_dd = np.linalg.eigh(self.state.accepted.hessian)
        axes_d = (eigenvalues_d[0] / eigenvalues_d) ** SHAPE_EXPONENT
        shape: np.ndarray = (vectors_dd * axes_d) @ vectors_dd.T
        return shape

    def _next_radius(self, count: int) -> tuple[float, bool]:
        """Give the radius of a round with `count` pairs, and whether a bias has been seen."""
        state, d = self.state, self.dimension
        floor = max(self.min_radius, RADIUS_FLOOR * max(1.0, float(np.abs(state.x).max())))
        noise = self._odd_noise()
        if self.hessian_lipschitz is not None:
            best = theory.radius(
                "gradient",
                dimension=d,
                hessian_lipschitz=self.hessian_lipschitz,
                noise=noise,
                pairs=count,
            )
            return max(AIM * float(best), floor), True
        radius = state.radius
        if state.travelling:
            radius = max(radius, min(state.step_norm, 2 * state.radius))
        seen = False
        # Before the noise is known, a difference of gradients is no bias.
        if state.bias_weight > 0 and not (self._blind and not state.pairs_seen):
            mean, error = _bias(state.bias_sum, state.bias_weight, d)
            seen = mean > DETECTED * error

            def best_for(rate_square: float) -> float:
                if rate_square <= 0:
                    return math.inf
                ratio: float = (d * noise) ** 2 / (4 * count * rate_square)
                return AIM * ratio ** (1 / 6)

            most = best_for(mean + DETECTED * _spread(mean, state.bias_weight, d))
            least = best_for(mean) if seen else math.inf
            if radius > least:
                radius = least
            elif radius < most and not state.travelling:
                limit = math.inf if seen else GROWTH * self.space.length
                radius = max(radius, min(most, GROWTH * radius, limit))
        if state.hit:
            radius = max(radius, state.trust / 2)
        return max(radius, floor), seen

    def _odd_noise(self) -> float:
        """Give the noise of one value as differences see it."""
        if self.paired and self.noise is None and self.state.odd_dof > 0:
            return math.sqrt(self.state.odd_square / self.state.odd_dof)
        if self.noise is not None:
            return self.noise
        # The start may be a point without noise in a function with noise.
        return max(self.state.noise, self.state.pair_noise) if self._blind else self.state.noise

    @property
    def _blind(self) -> bool:
        """Whether all repeated values so far were equal."""
        return self.noise is None and not self.paired and self.state.noise_square == 0

    # Answers -------------------------------------------------------------------------------------

    def _update(self, batch: Batch, y: Array, sigma: np.ndarray | None) -> None:
        if self.state.stage == "noise":
            self._take_repeats(host(y))
        elif self.state.stage == "check":
            self._take_checks(host(y))
        else:
            self._take_round(batch.data, y, sigma)

    def _take_repeats(self, values: np.ndarray) -> None:
        state = self.state
        asked, values = len(values), values[np.isfinite(values)]
        if len(values) < 2:
            self.stop(TOO_MANY_LOST, f"{asked - len(values)} of {asked} values at x0 were lost")
            return
        self._learn_noise(values)
        state.start_values = values.tolist()
        state.known = {"fun": float(values.mean()), "fun_std": state.noise / len(values) ** 0.5}
        state.stage = "round"

    def _learn_noise(self, values: np.ndarray) -> None:
        """Update the noise from values at one point."""
        state = self.state
        if len(values) > 1:
            # Equal values may differ from their mean by a rounding error.
            square = float(np.sum((values - values.mean()) ** 2)) if np.ptp(values) > 0 else 0.0
            # A point without noise says nothing about others.
            kept = FORGET if state.noise_square > 0 or square == 0 else 0.0
            state.noise_square = kept * state.noise_square + square
            state.noise_dof = kept * state.noise_dof + len(values) - 1
        if state.noise_dof > 0:
            floor = NOISE_FLOOR * max(1.0, abs(float(values.mean())))
            state.noise = max(math.sqrt(state.noise_square / state.noise_dof), floor)

    def _take_checks(self, values: np.ndarray) -> None:
        """Go back to the point before if the last one is clearly worse."""
        state = self.state
        state.stage = "done"
        halves = [half[np.isfinite(half)] for half in np.split(values, 2)]
        if min(map(len, halves)) < 2:
            return
        means = [float(half.mean()) for half in halves]
        variances = [float(half.var(ddof=1)) / len(half) for half in halves]
        error = math.sqrt(sum(variances))
        if not any(np.ptp(half) > 0 for half in halves):
            # Values that repeat exactly differ from place to place by what the model calls noise.
            error = math.sqrt(2.0) * self._odd_noise()
        if means[0] - means[1] > SAFETY_ERRORS * error:
            assert state.previous is not None and state.accepted is not None
            state.x = state.previous
            state.known.update(
                fun=means[1], fun_std=math.sqrt(variances[1]), jac=state.accepted.gradient
            )
            self._warn(
                "the last step made the function worse and was taken back: the model does not fit"
            )
            return
        fresh = max(variances[0], self._odd_noise() ** 2 / len(halves[0]) / 2)
        # What separates the model from fresh values beyond their noise is an error of the model.
        apart = (means[0] - state.known["fun"]) ** 2
        model = max(state.known["fun_std"] ** 2, apart - fresh)
        share = model / (model + fresh) if model + fresh > 0 else 0.0
        state.known["fun"] += share * (means[0] - state.known["fun"])
        state.known["fun_std"] = math.sqrt(model * (1 - share))

    def _take_round(self, drawn: _Drawn, y: Array, sigma: np.ndarray | None) -> None:
        state = self.state
        size, _, _ = self._round_size()
        state.left -= size
        state.rounds_left -= 1
        state.number += 1
        centers = host(y[: drawn.centers])
        kept = np.isfinite(centers)
        pairs = self._make_pairs(drawn, y, sigma)
        if kept.any() and pairs.count:
            told = None if sigma is None else sigma[: drawn.centers][kept]
            value, value_std = self._center_value(centers[kept], told)
            if sigma is not None:
                # Lost values have an infinite sigma.
                state.noise = float(np.sqrt(np.mean(sigma[np.isfinite(sigma)] ** 2)))
            self._age(drawn)
            self._step(drawn, pairs, value, value_std, int(np.count_nonzero(~kept)))
        if state.left < 4 or state.rounds_left < 1:
            if state.hit or state.travelling:
                self._warn(
                    "the last step was as long as allowed: the optimum is farther away; a larger"
                    " budget or scale gets there"
                )
            largest = max(map(abs, state.start_values), default=0.0)
            if self._blind and state.pair_noise <= math.sqrt(NOISE_FLOOR) * largest:
                self._warn(
                    "repeated values are equal: for a function without noise"
                    " scipy.optimize.minimize(method='COBYQA') needs fewer evaluations"
                )
            ready = self._checks and state.previous is not None
            state.stage = "check" if ready else "done"

    def _make_pairs(self, drawn: _Drawn, y: Array, sigma: np.ndarray | None) -> Pairs:
        sides = y[drawn.centers :]
        spread: dict[str, Any] = {}
        if sigma is not None:
            told = sigma[drawn.centers :]
            spread = {"sigma_plus_N": told[0::2], "sigma_minus_N": told[1::2]}
        return make_pairs(drawn.u_Nd, sides[0::2], sides[1::2], drawn.radius_N, **spread)

    def _center_value(self, values: np.ndarray, sigma: np.ndarray | None) -> tuple[float, float]:
        """Give the function at the centre and its standard error; learn the noise."""
        state = self.state
        if sigma is not None:
            weights = 1 / sigma**2
            return float(weights @ values / weights.sum()), float(weights.sum() ** -0.5)
        if self.noise is None or self.paired:
            self._learn_noise(values)
        if state.start_values and state.accepted is None:
            values = np.concatenate([values, state.start_values])
        return float(values.mean()), state.noise / math.sqrt(len(values))

    def _age(self, drawn: _Drawn) -> None:
        """Devalue what was learned at another radius, elsewhere or in another shape."""
        state = self.state
        shrunk = min(1.0, drawn.radius / state.sampled)
        bias, hessian = shrunk**12, shrunk**4
        if state.step_norm > state.radius * (1 + PIVOT):
            bias *= STALE
            hessian *= STALE
        if state.shape is not None:
            there = np.sum((state.shape @ np.linalg.inv(drawn.shape)) ** 2) / self.dimension
            back = np.sum((drawn.shape @ np.linalg.inv(state.shape)) ** 2) / self.dimension
            if there * back > 2:
                bias *= STALE
        state.bias_weight *= bias
        state.bias_sum *= bias
        state.information *= hessian
        # Where bounds leave less room, the radius aimed at is kept for when they leave more.
        state.radius, state.sampled, state.shape = drawn.aimed, drawn.radius, drawn.shape

    # One round -----------------------------------------------------------------------------------

    def _step(self, drawn: _Drawn, pairs: Pairs, value: float, value_std: float, lost: int) -> None:
        """Learn gradient and Hessian of a round and move."""
        state = self.state
        inverse = np.linalg.inv(drawn.shape)
        gradient, terms = self._gradient(drawn, pairs, inverse)
        fit, entry_var = self._fit(drawn, pairs, value, value_std, inverse @ gradient)
        self._learn_pair_noise(pairs, fit)
        base = state.accepted
        # Bounds may have moved the centre away from the point to which the step went; then its
        # value says nothing about the step.
        if base is not None and np.array_equal(drawn.frame.center, state.x):
            gain = base.value - value
            gain_std = math.hypot(value_std, base.value_std)
            if gain < -WORSE * gain_std:
                self._take_back(base, lost)
                return
            if state.hit and gain > 0.25 * state.decrease - gain_std:
                state.trust = max(2 * state.trust, state.radius / 2)
            elif gain + 2 * gain_std < 0.1 * state.decrease:
                shorter = min(state.trust, state.step_norm / 2)
                state.trust = max(shorter, state.radius / TRUST_LEAST)
        state.accepted = self._accept(
            drawn, inverse, fit, entry_var, inverse @ gradient, terms, value, value_std
        )
        state.taken_back = 0
        self._move(pairs.dropped + lost)

    def _learn_pair_noise(self, pairs: Pairs, fit: HessianFit) -> None:
        """Keep what is left over by a linear fit of differences and a quadratic one of means.

        Third derivatives are in the one and fourth derivatives in the other, so the less counts.
        """
        if self.paired:
            return
        seen = (difference_noise(pairs.directions, pairs.odd, pairs.radius), (fit.noise, fit.dof))
        found = [noise for noise, dof in seen if dof >= PRIOR_DOF and not math.isnan(noise)]
        if found:
            self.state.pair_noise, self.state.pairs_seen = min(found), True

    def _take_back(self, base: Accepted, lost: int) -> None:
        """Return to the last accepted centre: for a shorter step, the second time for new pairs."""
        state = self.state
        state.trust = max(state.step_norm / 2, base.radius / TRUST_LEAST)
        state.radius = base.radius
        state.history.drop_last()
        state.taken_back += 1
        self._add_round()
        self._move(lost, taken_back=True)

    def _add_round(self) -> None:
        """Divide what is left among one more round than planned, if rounds are large enough."""
        state = self.state
        more = min(state.rounds_left + 1, self._most_rounds(state.left))
        if state.added < ADDED_ROUNDS and state.left >= 4 and more > state.rounds_left:
            state.rounds_left, state.added = more, state.added + 1

    def _gradient(
        self, drawn: _Drawn, pairs: Pairs, inverse: np.ndarray
    ) -> tuple[np.ndarray, tuple[float, float]]:
        """Give ``shape ∇f``, and per coordinate its variance and squared bias."""
        state, d = self.state, self.dimension
        noise = self._odd_level(pairs)
        inner_N = host(pairs.radius) < math.sqrt(INNER * OUTER) * drawn.radius
        fresh: list[tuple[np.ndarray, float, float]] = []
        if drawn.inner < len(drawn.radius_N) and 0 < inner_N.sum() < pairs.count:
            near = self._estimate(_rows(pairs, inner_N), noise)
            far = self._estimate(_rows(pairs, ~inner_N), noise)
            radii = (INNER * drawn.radius) ** 2, (OUTER * drawn.radius) ** 2
            self._learn_bias(near, far, radii)
            if self.order == 5:
                gap = radii[1] - radii[0]
                shares = radii[1] / gap, -radii[0] / gap
                value = shares[0] * near[0] + shares[1] * far[0]
                fresh = [(value, shares[0] ** 2 * near[1] + shares[1] ** 2 * far[1], 0.0)]
            else:
                fresh = [(*near, radii[0]), (*far, radii[1])]
        else:
            square_N = host(pairs.radius) ** 2
            effective = float(np.sum(square_N**2) / np.sum(square_N))
            fresh = [(*self._estimate(pairs, noise), effective)]
        rate_square, cautious = self._bias_rates()
        if not state.history.rounds and self.history:
            state.history.add(self._prior(fresh, drawn), self.history)
        new = [
            Gradient(value, trace / d, 0.0, state.number, radius_square)
            for value, trace, radius_square in fresh
        ]
        old = self._carried(drawn, cautious)
        combined = combine_gradients(new, old, rate_square)
        past = PastRound(
            state.number,
            drawn.frame.center,
            [inverse @ value for value, _, _ in fresh],
            [trace / d for _, trace, _ in fresh],
            [radius_square for _, _, radius_square in fresh],
            inverse,
        )
        state.history.add(past, self.history)
        return combined.value, (combined.variance, combined.bias_square)

    def _odd_level(self, pairs: Pairs) -> float:
        """Give the noise of differences; learn it from them where evaluations are paired."""
        state = self.state
        if not self.paired or self.noise is not None:
            return self._odd_noise()
        noise, dof = difference_noise(pairs.directions, pairs.odd, pairs.radius)
        if dof:
            state.odd_square = FORGET * state.odd_square + noise**2 * dof
            state.odd_dof = FORGET * state.odd_dof + dof
        return max(self._odd_noise(), NOISE_FLOOR * float(np.abs(host(pairs.even)).max()))

    def _estimate(self, pairs: Pairs, noise: float) -> tuple[np.ndarray, float]:
        """Give a gradient from pairs and the trace of its covariance: the surer of two estimates.

        Least squares leaves no part of the gradient itself in the error; the plain mean is better
        with few pairs or little signal.
        """
        d, u_Nd = self.dimension, pairs.directions
        relative_N = np.ones(pairs.count)
        if pairs.noise is not None:
            relative_N = noise**2 / host(pairs.noise) ** 2
        radius_N = host(pairs.radius)
        weight_N = relative_N * radius_N**2
        if self.robust is not None:
            found = odd_gradient(
                u_Nd, pairs.odd, pairs.radius, like(weight_N, u_Nd), estimator=self.robust
            )
            if math.isfinite(found.cov_trace):
                return found.mean, found.cov_trace
        slope_N = host(pairs.odd) / (2 * radius_N)
        total = float(weight_N.sum())
        mean_d = d * host(like(weight_N * slope_N, u_Nd) @ u_Nd) / total
        mean_trace = d * d * noise**2 / (2 * total)
        square = float(mean_d @ mean_d)
        if pairs.count >= d:
            gram_dd = host((u_Nd * like(weight_N[:, None], u_Nd)).T @ u_Nd)
            spectrum_d = np.linalg.eigvalsh(gram_dd)
            # Σ 1/λ against its least value for the trace: by how much uneven directions magnify.
            even = d * d / float(spectrum_d.sum())
            if spectrum_d[0] > 0 and float(np.sum(1 / spectrum_d)) < UNEVEN * even:
                least_d = np.linalg.solve(gram_dd, mean_d * total / d)
                residual_N = slope_N - host(u_Nd @ like(least_d, u_Nd))
                # The variance of half a difference, by what is known and by what is left over.
                left = float(weight_N @ residual_N**2)
                known = noise**2 / 2
                dof = pairs.count - d + PRIOR_DOF
                trace = (left + PRIOR_DOF * known) / dof * float(np.sum(1 / spectrum_d))
                if trace < mean_trace + d * float(least_d @ least_d) / pairs.count:
                    return least_d, trace
        return mean_d, mean_trace + d * max(square - mean_trace, 0.0) / pairs.count

    def _learn_bias(
        self,
        near: tuple[np.ndarray, float],
        far: tuple[np.ndarray, float],
        radii_square: tuple[float, float],
    ) -> None:
        gap = radii_square[1] - radii_square[0]
        slope_d = (far[0] - near[0]) / gap
        noise = (near[1] + far[1]) / gap**2
        square = noise**2 if math.isfinite(noise) and noise < HUGE else math.inf
        if TINY < square < math.inf:
            self.state.bias_weight += 1 / square
            self.state.bias_sum += (float(slope_d @ slope_d) - noise) / square

    def _bias_rates(self) -> tuple[float, float]:
        """Give the squared change of a gradient per squared radius: likely, and cautious."""
        state, d = self.state, self.dimension
        if self.hessian_lipschitz is not None:
            bound = float(
                theory.gradient_bias_bound(
                    dimension=d, hessian_lipschitz=self.hessian_lipschitz, radius=1.0
                )
            )
            return bound**2, bound**2
        if state.bias_weight <= 0:
            return 0.0, 0.0
        mean, error = _bias(state.bias_sum, state.bias_weight, d)
        ratio = max(mean, 0.0) / error
        # Believed the more, the clearer it stands out of its error.
        return max(mean, 0.0) * ratio**2 / (ratio**2 + 1), _mean_above_zero(mean, error)

    def _prior(self, fresh: list[tuple[np.ndarray, float, float]], drawn: _Drawn) -> PastRound:
        """Give a gradient of 0 as uncertain as the first estimates suggest: it shrinks them."""
        d = self.dimension
        weights = np.array([1 / max(trace, TINY) for _, trace, _ in fresh])
        values = np.array([value for value, _, _ in fresh])
        mean_d = weights @ values / weights.sum()
        noise = 1 / float(weights.sum())
        variance = max((float(mean_d @ mean_d) - noise) / d, PRIOR_LEAST * noise / d)
        return PastRound(
            START, drawn.frame.center, [np.zeros(d)], [variance], [fresh[0][2]], np.eye(d)
        )

    def _carried(self, drawn: _Drawn, rate_square: float) -> list[Gradient]:
        """Bring the gradients of earlier rounds to this round's centre and coordinates."""
        base, d, shape = self.state.accepted, self.dimension, drawn.shape
        # ρ² that belongs to a bias rate, for the change of the Hessian along the way.
        change = rate_square * 4 * (d + 2) ** 2 / d
        carried = []
        for past in self.state.history.rounds:
            way = drawn.frame.center - past.x
            stretch = float(np.sum((shape @ past.inverse_shape) ** 2)) / d
            shared = 0.0
            if base is not None:
                seen = float(np.sum((base.inverse_shape @ way) ** 2))
                spread = float(np.sum((shape @ base.inverse_shape) ** 2)) / d
                shared = base.smooth_std**2 * seen * spread
                shared += change * float(way @ way) ** 2 / (4 * d) * float(np.sum(shape**2)) / d
            for value, variance, radius_square in zip(
                past.values, past.variances, past.radii_square, strict=True
            ):
                there = value if base is None else value + base.smooth @ way
                carried.append(
                    Gradient(shape @ there, variance * stretch, shared, past.number, radius_square)
                )
        return carried

    def _fit(
        self,
        drawn: _Drawn,
        pairs: Pairs,
        value: float,
        value_std: float,
        gradient: np.ndarray,
    ) -> tuple[HessianFit, float]:
        """Give the Hessian in the coordinates of the pairs, and the variance of its entries."""
        state, d = self.state, self.dimension
        # Both values of a pair share their noise where they are paired.
        level = state.noise * (math.sqrt(2.0) if self.paired else 1.0)
        if state.accepted is not None:
            prior = state.accepted.hessian
        else:
            prior = np.eye(d) * max(float(np.linalg.norm(gradient)) / state.trust, TINY)
        share = pairs.count * drawn.radius**4 / (2 * d * d)
        used = self._enough(pairs.count)
        told = 1.0 if pairs.noise is None else pairs.noise[used] / level
        known = drawn.shape @ prior @ drawn.shape.T

        def fitted(level: float, precision: float) -> HessianFit:
            return fit_even(
                pairs.directions[used],
                pairs.even[used],
                pairs.radius[used],
                noise=level * told,
                center=value,
                center_precision=value_std**-2,
                prior=known,
                prior_precision=precision,
                hessian=self._model,
                robust=self.robust is not None,
            )

        few = self._model == "full" and pairs.count <= (d + 1) * (d + 2)
        fit = fitted(level, share / level**2 * (1.0 if few else PIVOT))
        if few:
            least = level
            for _ in range(self._refits(pairs.count)):
                moved = float(np.sum((fit.matrix - known) ** 2))
                if not moved > 0 or math.isnan(fit.noise):
                    break
                # Noise and width of the prior under which this fit is the likeliest.
                dof = max(fit.dof, 0.0)
                square = (fit.noise**2 * dof + PRIOR_DOF * least**2) / (dof + PRIOR_DOF)
                strength = (pairs.count - fit.dof) * square / (moved * share)
                level = math.sqrt(square)
                fit = fitted(level, share / square * min(max(strength, PIVOT), 1.0))
        if self.robust is None and fit.kurtosis > KURTOSIS_MAX and fit.dof > KURTOSIS_DOF:
            self._warn(
                "the noise has heavy tails (kurtosis of residuals above"
                f" {KURTOSIS_MAX:g}); robust='median-of-means' may be better"
            )
        dof = max(fit.dof, 0.0)
        excess = 0.0 if math.isnan(fit.noise) else (fit.noise / level) ** 2 * dof
        inflation = (excess + PRIOR_DOF) / (dof + PRIOR_DOF)
        fit = replace(fit, constant_std=fit.constant_std * math.sqrt(inflation))
        return fit, fit.std**2 * inflation

    def _refits(self, count: int) -> int:
        """Give how often a fit of few pairs may be repeated to find the strength of its prior."""
        unknowns = (self.dimension + 1) * (self.dimension + 2) // 2
        return min(EVIDENCE_STEPS, FIT_PRODUCTS // (2 * count * unknowns**2))

    def _enough(self, count: int) -> slice:
        """Choose the pairs that a Hessian is fitted to: all, unless that would take long."""
        unknowns = (self.dimension + 1) * (self.dimension + 2) // 2
        if self._model != "full":
            return slice(None)
        most = max(PAIRS_PER_UNKNOWN * unknowns, FIT_PRODUCTS // unknowns**2)
        return slice(None, None, -(-count // most))

    def _accept(
        self,
        drawn: _Drawn,
        inverse: np.ndarray,
        fit: HessianFit,
        entry_var: float,
        gradient: np.ndarray,
        terms: tuple[float, float],
        value: float,
        value_std: float,
    ) -> Accepted:
        """Merge the Hessian with what was known and floor its eigenvalues."""
        state, d, shape = self.state, self.dimension, drawn.shape
        measured = inverse @ fit.matrix @ inverse.T
        before = FORGET * state.information
        if before > 0:
            _, rate_square = self._bias_rates()
            change = rate_square * 4 * (d + 2) ** 2 / d * state.step_norm**2 / d**2
            before = 1 / (1 / before + change)
        now = 1 / max(entry_var, TINY)
        raw = measured
        if state.accepted is not None:
            raw = (now * measured + before * state.accepted.raw) / (now + before)
        state.information = now + before
        # The square root is exact under powers of 4, a general power is not.
        entry_std = 1 / math.sqrt(state.information)
        band = NOISE_FACTOR / 2 * fit.spectral_factor * entry_std
        smooth, kept, sure = self._smooth(shape @ raw @ shape.T, entry_std)
        smooth = inverse @ smooth @ inverse.T
        eigenvalues_d, vectors_dd = np.linalg.eigh(smooth)
        # Where bounds have shrunk the shape, the noise of the Hessian is that much larger.
        shrunk = float(np.linalg.norm(shape, 2)) if self.space.bounded else 1.0
        self._judge(np.linalg.eigvalsh(raw), band / shrunk**2)
        band *= math.sqrt(sure)
        floor = self.strong_convexity
        if floor is None:
            floor = max(min(band, eigenvalues_d[-1]), EIGEN_FLOOR * eigenvalues_d[-1])
            if not floor > 0:
                floor = max(float(np.linalg.norm(gradient)) / state.trust, TINY)
        hessian = (vectors_dd * np.maximum(eigenvalues_d, floor)) @ vectors_dd.T
        return Accepted(
            x=drawn.frame.center,
            value=value,
            value_std=value_std,
            gradient=gradient,
            hessian=hessian,
            raw=raw,
            smooth=smooth,
            inverse_shape=inverse,
            gradient_var=terms[0],
            gradient_bias=terms[1],
            entry_std=entry_std,
            smooth_std=math.sqrt(max(kept, 0.1)) * entry_std,
            radius=drawn.radius,
            model_value=fit.constant,
            model_value_std=fit.constant_std,
            band=band,
        )

    def _smooth(self, matrix: np.ndarray, entry_std: float) -> tuple[np.ndarray, float, float]:
        """Draw a matrix towards a multiple of I by as much as noise explains its deviation.

        Returns the matrix, the share of the deviation that is kept, and the share of an entry's
        variance that is not noise.
        """
        d = self.dimension
        if d == 1:
            return matrix, 1.0, 1.0
        # Squares of independent entries of the deviation, an off-diagonal one counted twice.
        squares = d - 1 if self._model == "diag" else d * (d + 1) - 2
        middle = np.trace(matrix) / d
        deviation = matrix - middle * np.eye(d)
        size = float(np.sum(deviation**2))
        noise = squares * entry_std**2
        kept = max(0.0, 1 - noise / size) if size > 0 else 0.0
        signal = max((size - noise) / squares, 0.0) + 2 * math.sqrt(4 / squares) * entry_std**2
        sure = signal / (signal + entry_std**2)
        return middle * np.eye(d) + kept * deviation, kept, sure

    def _judge(self, eigenvalues_d: np.ndarray, band: float) -> None:
        """Say what the spectrum contradicts."""
        least = float(eigenvalues_d[0])
        known = self.strong_convexity
        if known is not None and known > least + 3 * band:
            doubt = f"strong_convexity={known:g} looks too large"
            # The numbers differ from round to round; once is enough.
            if not any(said.startswith(doubt) for said in self.warnings):
                self._warn(
                    f"{doubt}: the least curvature found is {least:.3g}, with noise of about"
                    f" {band:.2g}"
                )
        self.state.nonconvex = least < -NEGATIVE * band
        if self.state.nonconvex:
            self._warn(
                "the function is not convex where it was sampled: the result is a local minimum"
                " at best"
            )

    def _move(self, dropped: int, *, taken_back: bool = False) -> None:
        """Take the clipped Newton step from the accepted centre and note the round."""
        state, base = self.state, self.state.accepted
        assert base is not None
        eigenvalues_d, vectors_dd = np.linalg.eigh(base.hessian)
        longest = state.trust
        if self.strong_convexity is not None and self.hessian_lipschitz is not None:
            longest = self.strong_convexity / self.hessian_lipschitz
            # After a step that failed the constants are not to be relied on.
            longest = min(longest, state.trust) if taken_back else longest
        # Where bounds have moved the centre, the way back to the point is no step.
        moved = 0.0 if taken_back else float(np.linalg.norm(state.x - base.x))
        longest += moved
        clipped = clipped_newton_eigen(eigenvalues_d, vectors_dd, base.gradient, longest)
        step = self.space.constrain(base.x, clipped.step, base.gradient, base.hessian)
        if state.taken_back > 1:
            # Shorter steps do not help either: the gradient is wrong, and is measured again.
            step = np.zeros_like(step)
        step, curvature = self._shorten(step, base)
        length = float(np.linalg.norm(step))
        decrease = -(float(base.gradient @ step) + curvature / 2)
        error = math.sqrt(base.gradient_var + base.gradient_bias)
        decrease_std = float(np.linalg.norm(base.inverse_shape @ step)) * error
        there = self.space.project(base.x + step)
        length = float(np.linalg.norm(there - state.x)) if moved else length
        state.previous = base.x
        state.x = there
        state.step_norm, state.decrease = length, decrease
        state.hit = length >= 0.99 * state.trust and decrease > 2 * decrease_std
        # Longest step and radius are often equal: rounding must not decide.
        going = decrease > 3 * decrease_std and length > state.radius * (1 + PIVOT)
        state.travelling = not taken_back and going
        self._know(base, step, decrease, decrease_std)
        signal = float(np.linalg.norm(np.linalg.solve(base.inverse_shape, base.gradient)))
        self.trace.append(
            Round(
                nfev=self.nfev,
                x=self.space.to_user(state.x),
                fun=base.model_value,
                radius=base.radius,
                step_norm=length,
                trust=state.trust,
                snr=signal / max(math.sqrt(self.dimension * base.gradient_var), TINY),
                lambda_min=float(eigenvalues_d[0]),
                lambda_max=float(eigenvalues_d[-1]),
                noise_band=base.band,
                predicted_decrease=decrease,
                predicted_decrease_std=decrease_std,
                dropped=dropped,
                nonconvex=self.state.nonconvex,
            )
        )
        if not state.hit and length < state.trust / 2 and self.hessian_lipschitz is None:
            state.trust = max(state.trust / 2, 2 * length, state.radius / 2)
        if state.travelling:
            self._add_round()

    def _shorten(self, step: np.ndarray, base: Accepted) -> tuple[np.ndarray, float]:
        """Shorten a step along which the measured curvature is clearly above the model's."""
        curvature = float(step @ base.hessian @ step)
        if not step.any():
            return step, curvature
        noise = math.sqrt(2.0) * base.entry_std * float(np.sum((base.inverse_shape @ step) ** 2))
        measured = float(step @ base.raw @ step) - noise / 2
        if measured <= curvature:
            return step, curvature
        share = min(1.0, -float(base.gradient @ step) / measured)
        return share * step, share**2 * measured

    def _know(self, base: Accepted, step: np.ndarray, decrease: float, decrease_std: float) -> None:
        """Note what is known of the new point."""
        d = self.dimension
        eigenvalues_d, vectors_dd = np.linalg.eigh(base.hessian)
        # Error of the gradient, of covariance inverse_shape inverse_shapeᵀ, through H^-1.
        weight = float(np.sum((vectors_dd.T @ base.inverse_shape) ** 2 / eigenvalues_d[:, None]))
        likely, cautious = self._bias_rates()
        lipschitz = (
            self.hessian_lipschitz
            if self.hessian_lipschitz is not None
            else float(theory.effective_lipschitz(math.sqrt(cautious), dimension=d))
        )
        # A bias that is not seen yet may be there all the same.
        if likely > 0:
            bias_square = base.gradient_bias * cautious / likely
        else:
            bias_square = cautious * (MEAN_SQUARE_RADIUS * base.radius**2) ** 2 / d
        seen = float(np.sum((base.inverse_shape @ step) ** 2))
        newton = weight * base.smooth_std**2 * seen / 2
        newton += (lipschitz * float(step @ step) / 2) ** 2 / (2 * d * eigenvalues_d[0])
        # What is left of the way where the step was cut off.
        rest = base.gradient + base.hessian @ step
        if not self.space.bounded:
            newton += float(np.sum((vectors_dd.T @ rest) ** 2 / eigenvalues_d)) / 2
        terms = {
            "bias": weight * bias_square / 2,
            "variance": weight * base.gradient_var / 2,
            "newton": float(newton),
        }
        spread = float(np.sum(base.inverse_shape**2))
        self.state.known = {
            "fun": base.model_value - decrease,
            "fun_std": math.hypot(base.model_value_std, decrease_std),
            "jac": rest,
            "jac_cov_trace": base.gradient_var * spread,
            "hess": base.hessian,
            "strong_convexity": float(
                eigenvalues_d[0] if self.strong_convexity is None else self.strong_convexity
            ),
            "hessian_lipschitz": float(lipschitz),
            "predicted_regret": float(sum(terms.values())),
            "predicted_regret_terms": terms,
            "radius": base.radius,
        }

    def _recommend(self) -> Recommendation:
        known = {"noise_std": self._odd_noise(), **self.state.known}
        return Recommendation(x=self.state.x, **known)


def _checked_hessian(hessian: str) -> str:
    if not isinstance(hessian, str):
        raise TypeError(f'hessian must be "full", "diag", "none" or "lowrank:k", not {hessian!r}')
    kind, _, rank = hessian.partition(":")
    if hessian in ("full", "diag", "none") or (kind == "lowrank" and rank.isdecimal()):
        return hessian
    raise ValueError(f'hessian must be "full", "diag", "none" or "lowrank:k", not {hessian!r}')


def _rows(pairs: Pairs, which_N: np.ndarray) -> Pairs:
    """Give some of the pairs."""
    rows = np.flatnonzero(which_N)
    # One radius after the other, so that no copy is needed.
    part: Any = slice(int(rows[0]), int(rows[-1]) + 1)
    return replace(
        pairs,
        directions=pairs.directions[part],
        odd=pairs.odd[part],
        even=pairs.even[part],
        radius=pairs.radius[part],
        noise=None if pairs.noise is None else pairs.noise[part],
    )


def _bias(total: float, weight: float, dimension: int) -> tuple[float, float]:
    """Give the squared rate of the bias and its standard error where there is none."""
    return total / weight, math.sqrt(2 / (dimension * weight))


def _spread(mean: float, weight: float, dimension: int) -> float:
    """Give the standard error of the squared rate where it is `mean`."""
    noise = 1 / math.sqrt(weight)
    return math.sqrt((2 * noise**2 + 4 * max(mean, 0.0) * noise) / dimension)


def _mean_above_zero(mean: float, error: float) -> float:
    """Give the mean of a normal variable that is known to be positive."""
    ratio = mean / error
    if ratio < -8:
        return error / -ratio
    density = math.exp(-ratio * ratio / 2) / math.sqrt(2 * math.pi)
    return mean + error * density / (0.5 * math.erfc(-ratio / math.sqrt(2)))
