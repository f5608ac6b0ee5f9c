"""The two-stage algorithm whose regret is proven to be optimal up to a constant.

It needs the constants ``M``, ``ρ`` and ``σ`` and does what was published and nothing more: a few
clipped Newton steps on coordinate differences, then one step on a gradient from pairs on an
ellipsoid that the last Hessian shapes. How often and how far away it evaluates is fixed beforehand
(`modicum.zeroth.plan`); a fifth to a third of the budget stays unspent. The adaptive method needs
no constants, spends everything and is the better choice where the guarantee is not the point.

Source: "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz Hessian: Minimax
Sample Complexity" (arXiv 2406.19617), algorithms 1 to 4. Bounds, other first stages and what is
reported beside the point are ours.

Legend of shape suffixes: ``d`` dimension, ``N`` pairs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth import theory
from modicum.zeroth.arrays import host, like
from modicum.zeroth.batch import Array, Batch
from modicum.zeroth.directions import draw_pair_directions
from modicum.zeroth.linalg import FlooredHessian, clipped_newton_eigen, floor_eigenvalues
from modicum.zeroth.methods.coordinate_design import (
    LARGEST_UNIT,
    CoordinateDesign,
    CoordinateMeans,
)
from modicum.zeroth.optimizer import Optimizer, Recommendation, Round
from modicum.zeroth.pairs import make_pairs, odd_gradient
from modicum.zeroth.plan import Plan, minimum_budget, plan
from modicum.zeroth.space import Frame

__all__ = ["TwoStage", "TwoStageState"]

CHUNK_NUMBERS = 1 << 20
"""Coordinates of the points of one batch: 8 MiB, whatever the budget."""

BOOTSTRAP, HESSIAN, GRADIENT, DONE = "bootstrap", "hessian", "gradient", "done"

_BANDS = 3
"""Noise bands between what is seen and what is said about it."""


@dataclass
class TwoStageState:
    """Where the algorithm is.

    Attributes
    ----------
    x
        Point from which the open stage goes on, internal coordinates ``(d,)``.
    stage, round
        ``"bootstrap"``, ``"hessian"``, ``"gradient"`` or ``"done"``; round of the first stage.
    sums, weights
        Weighted sums over the repetitions of each unit of the stage's design, and of the weights;
        for the pairs of the last stage sums of gradients ``(d,)`` and one weight.
    position
        Units of the stage that are answered or lost.
    scatter
        Weighted sum of the traces of covariances of those gradients.
    hessian
        Hessian estimate of the final stage before flooring, ``(d, d)``, and around which point.
    center
        That point.
    first
        State of the other method that is the first stage.
    known
        Fields of the recommendation.
    """

    x: np.ndarray
    stage: str
    sums: np.ndarray
    weights: np.ndarray
    round: int = 0
    position: int = 0
    scatter: float = 0.0
    hessian: np.ndarray | None = None
    center: np.ndarray | None = None
    first: Any = None
    known: dict[str, Any] = field(default_factory=dict)


class TwoStage(Optimizer):
    """The published algorithm: bootstrapping by clipped Newton steps, then one optimal last step.

    Parameters
    ----------
    x0, budget, scale, bounds, paired, directions, rng, device, close_fraction
        As for `Optimizer`. The budget is at least ``(10 d²)^(10/9)``, rounded up; how much of it
        is used, often 0.7 or 0.8, is `plan.evaluations`.
    noise, strong_convexity, hessian_lipschitz
        ``σ``, ``M`` and ``ρ``, all required. ``M`` and ``ρ`` hold in internal coordinates, which
        are the user's when `scale` is a number.
    bootstrap
        First stage. ``"newton"`` is the published one. None: `x0` is good already, and the budget
        goes to the largest final stage that it can pay, with the published proportions. A callable
        ``(x0, budget, **settings) -> Optimizer``, such as another method's class, is given what the
        final stage leaves, and the settings ``scale``, ``noise``, ``strong_convexity``,
        ``hessian_lipschitz``, ``bounds``, ``paired``, ``rng`` and ``device``; the rate holds if its
        expected regret is ``o(T^(-4/9))``.
    geometry
        ``"ellipsoid"``: final pairs on an ellipsoid with the shape of ``Ĥ^(-1/2)``.
        ``"isotropic"``: on a sphere, which has the same rate after ``"newton"``.
    distance
        ``R``, how far the minimiser may be from `x0`. With it, a first stage that is too short for
        the worst case is warned of.

    Attributes
    ----------
    plan
        Counts and radii, a `modicum.zeroth.plan.Plan`; for another first stage than ``"newton"``
        only what concerns the final stage applies.

    Raises
    ------
    ValueError
        If a constant is missing, the budget is too small, an option is none of those above, or
        gaussian directions meet bounds.
    TypeError
        If `bootstrap` makes no method for the same coordinates.

    Warns
    -----
    ZerothWarning
        If a condition of the guarantee does not hold, or ``M`` contradicts the Hessian.

    Notes
    -----
    Source: arXiv 2406.19617, algorithm 4. The last step is computed as
    ``-Ĥ^(-1/2) ĝ λ/r`` with ``λ`` the largest singular value of ``Ĥ^(-1/2)``, which equals the
    published ``-Ĥ⁻¹ Z⁻¹ ĝ`` without an inverse of ``Z``. The result's ``jac`` and ``hess`` belong
    to the point from which the last step went out.
    """

    name = "two-stage"
    noise: float
    strong_convexity: float
    hessian_lipschitz: float
    state: TwoStageState

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        bootstrap: str | Callable[..., Optimizer] | None = "newton",
        geometry: str = "ellipsoid",
        distance: float | None = None,
        **settings: Any,
    ) -> None:
        self.bootstrap = bootstrap
        self.geometry = geometry
        self.distance = distance
        _check_options(bootstrap, geometry, settings)
        super().__init__(x0, budget, **settings)
        if self.space.bounded and self.directions == "gaussian":
            raise ValueError(
                "gaussian directions have no greatest length; with bounds use 'sphere' or another"
            )
        for message in self.plan.warnings if bootstrap == "newton" else self._final_warnings():
            self._warn(message)

    # What a method is ---------------------------------------------------------------------------

    def minimum_budget(self) -> int:
        """Give the smallest usable budget."""
        least = minimum_budget(self.dimension)
        return least if self.bootstrap is not None else _final_evaluations(self._plan(least))

    def _initial_state(self) -> TwoStageState:
        self.plan = self._plan(self.budget if self.bootstrap is not None else self._stretched())
        start = self.space.project(self.space.to_internal(self.space.start))
        if self.bootstrap == "newton":
            return self._enter(start, BOOTSTRAP)
        if self.bootstrap is None:
            return self._enter(start, HESSIAN)
        self._first = self._first_stage()
        return self._enter(start, BOOTSTRAP, first=self._first.state)

    def _propose(self) -> Batch | None:
        state = self.state
        if state.stage == DONE:
            return None
        if state.first is not None:
            self._first.state = state.first
            return self._first._propose()
        return self._pairs() if state.stage == GRADIENT else self._differences()

    def _update(self, batch: Batch, y: Array, sigma: np.ndarray | None) -> None:
        if self.state.first is not None:
            self._add_first(batch, y, sigma)
        elif self.state.stage == GRADIENT:
            self._add_pairs(batch, y, sigma)
            if self.state.position >= self.plan.n_g:
                self._last_step()
        else:
            design = self._design()
            self._add_differences(design, batch, y, sigma)
            if self.state.position >= design.total:
                means = design.means(self.state.sums, self.state.weights)
                step = self._newton_step if self.state.stage == BOOTSTRAP else self._keep_hessian
                step(design, means)

    def _recommend(self) -> Recommendation:
        return Recommendation(
            x=self.state.x,
            noise_std=self.noise,
            hessian_lipschitz=self.hessian_lipschitz,
            strong_convexity=self.strong_convexity,
            **self.state.known,
        )

    # Stages -------------------------------------------------------------------------------------

    def _plan(self, budget: int) -> Plan:
        return plan(
            self.dimension,
            budget,
            noise=self.noise,
            strong_convexity=self.strong_convexity,
            hessian_lipschitz=self.hessian_lipschitz,
            distance=self.distance,
        )

    def _stretched(self) -> int:
        """Give the largest budget whose published final stage this one can pay."""
        low, high = minimum_budget(self.dimension), _MOST_STRETCH * self.budget
        while low < high:
            middle = (low + high + 1) // 2
            if _final_evaluations(self._plan(middle)) <= self.budget:
                low = middle
            else:
                high = middle - 1
        return low

    def _first_stage(self) -> Optimizer:
        assert callable(self.bootstrap)
        first = self.bootstrap(
            self.x0,
            self.budget - _final_evaluations(self.plan),
            scale=self.scale,
            noise=self.noise,
            strong_convexity=self.strong_convexity,
            hessian_lipschitz=self.hessian_lipschitz,
            bounds=self.bounds,
            paired=self.paired,
            rng=self.seed,
            device=self.device,
        )
        if not isinstance(first, Optimizer) or first.dimension != self.dimension:
            raise TypeError(
                f"bootstrap must make a method for {self.dimension} coordinates, got {first!r}"
            )
        return first

    def _enter(self, x: np.ndarray, stage: str, **fields: Any) -> TwoStageState:
        state = TwoStageState(x, stage, np.zeros(self.dimension), np.zeros(1), **fields)
        if stage in (BOOTSTRAP, HESSIAN):
            state.sums = np.zeros(self._design(x, stage).units)
            state.weights = np.zeros_like(state.sums)
        return state

    def _add_first(self, batch: Batch, y: Array, sigma: np.ndarray | None) -> None:
        first = self._first
        first.state, first.nfev, first.trace = self.state.first, self.nfev, self.trace
        first._update(batch, y, sigma)
        self.warnings += [text for text in first.warnings if text not in self.warnings]
        found = first._recommend()
        known = {"fun": found.fun, "fun_std": found.fun_std, "radius": found.radius}
        self.state.first, self.state.x, self.state.known = first.state, found.x, known
        if first._propose() is None:
            self.state = self._enter(found.x, HESSIAN, known=known)

    # Coordinate differences -----------------------------------------------------------------------

    def _design(self, x: np.ndarray | None = None, stage: str | None = None) -> CoordinateDesign:
        x = self.state.x if x is None else x
        radii, counts = self.plan.radii, self.plan
        first = (self.state.stage if stage is None else stage) == BOOTSTRAP
        # A Hessian's radius is the larger one, so where it has room, the gradient has.
        center, hessian_radii = self.space.coordinate_steps(
            x, radii.hessian if first else radii.hessian_final
        )
        return CoordinateDesign(
            center,
            hessian_radii,
            counts.n_H if first else counts.n_H_final,
            np.minimum(radii.bootstrap, hessian_radii),
            counts.n_m if first else 0,
        )

    def _differences(self) -> Batch:
        design = self._design()
        room = max(LARGEST_UNIT, CHUNK_NUMBERS // self.dimension)
        pieces = list(design.pieces(self.state.position, room))
        sizes = [np.full(piece.count, design.blocks[piece.block].size) for piece in pieces]
        sizes_M = np.concatenate(sizes)
        points = np.concatenate([design.points(piece) for piece in pieces])
        unit = np.repeat(np.arange(len(sizes_M)), sizes_M)
        return Batch(self.space.to_user(self._on_device(points)), unit, pieces)

    def _on_device(self, points: np.ndarray) -> Array:
        if self.device is None:
            return points
        import torch

        return torch.from_numpy(points).to(self.device)

    def _add_differences(
        self, design: CoordinateDesign, batch: Batch, y: Array, sigma: np.ndarray | None
    ) -> None:
        values = host(y)
        begin = 0
        for piece in batch.data:
            span = slice(begin, begin + piece.count * design.blocks[piece.block].size)
            weights = self._weights(piece.count, None if sigma is None else sigma[span])
            design.add(piece, values[span], weights, self.state.sums, self.state.weights)
            self.state.position += piece.count
            begin = span.stop

    def _weights(self, count: int, sigma: np.ndarray | None) -> np.ndarray:
        """Give the weights of units: 1 where their values have the noise that is known."""
        if sigma is None:
            return np.ones(count)
        weights: np.ndarray = self.noise**2 / np.mean(sigma.reshape(count, -1) ** 2, axis=1)
        return weights

    def _newton_step(self, design: CoordinateDesign, means: CoordinateMeans) -> None:
        assert means.gradient is not None
        gradient, counts = means.gradient, self.plan
        floored = floor_eigenvalues(means.hessian, self.strong_convexity)
        clipped = clipped_newton_eigen(
            floored.eigenvalues, floored.eigenvectors, gradient, counts.trust_radius
        )
        step = self.space.constrain(design.center, clipped.step, gradient, clipped.hessian)
        std = self.noise / math.sqrt(2 * counts.n_m) / design.gradient_radii
        x = design.center + step
        decrease = _decrease(step, gradient, floored.hessian)
        decrease_std = float(np.linalg.norm(std * step))
        self._record(
            x,
            means.hessian,
            self._noise_band(design.hessian_radii, counts.n_H),
            fun=means.value,
            radius=counts.radii.bootstrap,
            step_norm=float(np.linalg.norm(step)),
            snr=float(np.linalg.norm(gradient) / np.linalg.norm(std)),
            predicted_decrease=decrease,
            predicted_decrease_std=decrease_std,
        )
        known = {
            "fun": means.value - decrease,
            "fun_std": math.hypot(self.noise / math.sqrt(counts.n_H), decrease_std),
            "jac": gradient,
            "jac_cov_trace": float(np.sum(std**2)),
            "hess": floored.hessian,
            "radius": counts.radii.bootstrap,
        }
        done = self.state.round + 1
        stage = HESSIAN if done == counts.bootstrap_rounds else BOOTSTRAP
        self.state = self._enter(x, stage, round=done, known=known)

    def _keep_hessian(self, design: CoordinateDesign, means: CoordinateMeans) -> None:
        self._check_convexity(means.hessian, design.hessian_radii)
        known = {
            "fun": means.value,
            "fun_std": self.noise / math.sqrt(self.plan.n_H_final),
            "hess": floor_eigenvalues(means.hessian, self.strong_convexity).hessian,
            "radius": self.plan.radii.hessian_final,
        }
        self.state = self._enter(
            design.center,
            GRADIENT,
            round=self.state.round,
            hessian=means.hessian,
            center=design.center,
            known=known,
        )

    # The last step --------------------------------------------------------------------------------

    def _ellipsoid(self) -> tuple[FlooredHessian, Frame, bool]:
        """Give the floored Hessian, the frame of the pairs, and whether it is shaped as wanted."""
        assert self.state.hessian is not None
        floored = floor_eigenvalues(self.state.hessian, self.strong_convexity)
        shape = None
        if self.geometry == "ellipsoid":
            axes_d = np.sqrt(floored.eigenvalues[0] / floored.eigenvalues)
            shape = (floored.eigenvectors * axes_d) @ floored.eigenvectors.T
        frame = self.space.frame(self.state.x, shape, self.plan.radii.gradient)
        return floored, frame, shape is not None and frame.shape is shape

    def _pairs(self) -> Batch:
        d, position = self.dimension, self.state.position
        # Whole blocks of directions that belong together.
        most = max(1, CHUNK_NUMBERS // (2 * d * d)) * d
        count = min(most, self.plan.n_g - position)
        u_Nd = draw_pair_directions(
            self.directions, count, d, self.seed, GRADIENT, start=position, device=self.device
        )
        _, frame, _ = self._ellipsoid()
        step_Nd = u_Nd if frame.shape is None else u_Nd @ like(frame.shape, u_Nd)
        step_Nd = frame.radius * step_Nd
        center = like(frame.center, u_Nd)
        points = array_namespace(u_Nd).stack([center + step_Nd, center - step_Nd], axis=1)
        unit = np.repeat(np.arange(count), 2)
        return Batch(self.space.to_user(points.reshape(2 * count, d)), unit, u_Nd)

    def _add_pairs(self, batch: Batch, y: Array, sigma: np.ndarray | None) -> None:
        state = self.state
        u_Nd = batch.data
        state.position += len(u_Nd)
        block = self.dimension if self.directions in ("orthogonal", "coordinate") else 1
        pairs = make_pairs(u_Nd, y[0::2], y[1::2], 1.0, block=block)
        weights_N = self._weights(len(u_Nd), sigma)
        # A pair that was lost has infinite deviations, and values that are nan.
        if pairs.dropped:
            weights_N = weights_N[np.isfinite(host(y[0::2] - y[1::2]))]
        if not len(weights_N):
            return
        # With a radius of 1 this is the mean of d/2 (y₊ - y₋) u.
        part = odd_gradient(
            pairs.directions, pairs.odd, 1.0, like(weights_N, u_Nd), block=pairs.block
        )
        weight = float(weights_N.sum())
        state.sums += weight * part.mean
        state.weights += weight
        if math.isfinite(part.cov_trace):
            state.scatter += weight**2 * part.cov_trace

    def _last_step(self) -> None:
        floored, frame, is_root = self._ellipsoid()
        weight = float(self.state.weights[0])
        estimate = self.state.sums / weight if weight > 0 else self.state.sums
        roots_d = np.sqrt(floored.eigenvalues)
        if is_root:
            along_d = floored.eigenvectors.T @ estimate / (roots_d[0] * frame.radius)
            step = -(floored.eigenvectors @ (along_d / roots_d))
            gradient = floored.eigenvectors @ (along_d * roots_d)
        else:
            gradient = estimate / frame.radius
            if frame.shape is not None:
                gradient = np.linalg.solve(frame.shape, gradient)
            along_d = floored.eigenvectors.T @ gradient
            step = -(floored.eigenvectors @ (along_d / floored.eigenvalues))
        norm = float(np.linalg.norm(step))
        if norm > self.plan.trust_radius:
            step = step * (self.plan.trust_radius / norm)
        step = self.space.constrain(frame.center, step, gradient, floored.hessian)
        self._finish(floored, frame, gradient, step)

    def _finish(
        self, floored: FlooredHessian, frame: Frame, gradient: np.ndarray, step: np.ndarray
    ) -> None:
        state, d = self.state, self.dimension
        assert state.hessian is not None and state.center is not None
        inverse = np.eye(d) if frame.shape is None else np.linalg.inv(frame.shape)
        std = math.sqrt(state.scatter / d) / max(float(state.weights[0]), 1e-300) / frame.radius
        decrease = _decrease(step, gradient, floored.hessian)
        decrease_std = std * float(np.linalg.norm(step @ inverse))
        jac_cov_trace = std**2 * float(np.sum(inverse**2))
        # The value was measured at the center of the Hessian, which bounds may have moved.
        offset = state.center - frame.center
        value = state.known["fun"] + _decrease(offset, gradient, floored.hessian)
        norm, lowest = float(np.linalg.norm(step)), float(floored.eigenvalues[0])
        terms = self._regret_terms(lowest, frame.radius, norm)
        x = frame.center + step
        self._record(
            x,
            state.hessian,
            self._noise_band(np.array([self.plan.radii.hessian_final]), self.plan.n_H_final),
            fun=value,
            radius=frame.radius,
            step_norm=norm,
            snr=float(np.linalg.norm(gradient)) / math.sqrt(jac_cov_trace)
            if jac_cov_trace
            else math.inf,
            predicted_decrease=decrease,
            predicted_decrease_std=decrease_std,
        )
        known = {
            "fun": value - decrease,
            "fun_std": math.hypot(state.known["fun_std"], decrease_std),
            "jac": gradient,
            "jac_cov_trace": jac_cov_trace,
            "hess": floored.hessian,
            "radius": frame.radius,
            "predicted_regret": sum(terms.values()),
            "predicted_regret_terms": terms,
        }
        self.state = self._enter(x, DONE, round=state.round, hessian=state.hessian, known=known)

    def _regret_terms(self, lowest: float, radius: float, step_norm: float) -> dict[str, float]:
        parts = theory.predicted_regret(
            dimension=self.dimension,
            strong_convexity=lowest,
            hessian_lipschitz=self.hessian_lipschitz,
            noise=self.noise,
            pairs=self.plan.n_g,
            radius=radius,
        )
        # What the change of the Hessian along the step leaves of the gradient.
        rest = float(
            theory.newton_gradient_bound(step_norm, hessian_lipschitz=self.hessian_lipschitz)
        )
        return {
            "bias": float(parts.bias),
            "variance": float(parts.variance),
            "newton": rest**2 / (2 * lowest),
        }

    # What is said of a round ----------------------------------------------------------------------

    def _record(self, x: np.ndarray, hessian: np.ndarray, noise_band: float, **fields: Any) -> None:
        eigenvalues = np.linalg.eigvalsh(hessian)
        record = Round(
            nfev=self.nfev,
            x=self.space.to_user(x),
            trust=self.plan.trust_radius,
            lambda_min=float(eigenvalues[0]),
            lambda_max=float(eigenvalues[-1]),
            noise_band=noise_band,
            nonconvex=bool(eigenvalues[0] < -noise_band),
            **fields,
        )
        self.trace.append(record)

    def _noise_band(self, radii: np.ndarray, samples: int) -> float:
        """Give the spectral norm that noise alone gives a coordinate Hessian, about."""
        parts = theory.hessian_covariance(
            noise=self.noise, samples=samples, radius=float(radii.min())
        )
        own = math.sqrt(parts.diagonal - parts.between_diagonal)
        return float(
            2 * math.sqrt(self.dimension * parts.off_diagonal)
            + math.sqrt(parts.between_diagonal)
            + own * math.sqrt(2 * math.log(2 * self.dimension))
        )

    def _check_convexity(self, hessian: np.ndarray, radii: np.ndarray) -> None:
        lowest = float(np.linalg.eigvalsh(hessian)[0])
        bias = theory.hessian_bias_bound(
            dimension=self.dimension,
            hessian_lipschitz=self.hessian_lipschitz,
            radius=float(radii.max()),
        )
        doubt = _BANDS * self._noise_band(radii, self.plan.n_H_final) + float(bias)
        if self.strong_convexity > lowest + doubt:
            self._warn(
                f"strong_convexity={self.strong_convexity:g} looks too large: the Hessian has an"
                f" eigenvalue of {lowest:.3g} ± {doubt:.2g}"
            )

    def _final_warnings(self) -> list[str]:
        """Name the conditions of the final stage that do not hold."""
        pairs = float(theory.required_pairs(dimension=self.dimension))
        samples = float(
            theory.required_samples(
                dimension=self.dimension,
                strong_convexity=self.strong_convexity,
                hessian_lipschitz=self.hessian_lipschitz,
                noise=self.noise,
            )
        )
        messages = []
        if self.plan.n_g < pairs:
            messages.append(
                f"the final gradient has {self.plan.n_g} pairs, its guarantee needs d³={pairs:.0f}"
            )
        if self.plan.n_H_final < samples:
            messages.append(
                f"the final Hessian has {self.plan.n_H_final} samples per point, its guarantee"
                f" needs 64 ρ⁴σ²d⁶/M⁶={samples:.4g}"
            )
        return messages


_MOST_STRETCH = 5
"""The final stage takes more than a fifth of a budget."""


def _final_evaluations(counts: Plan) -> int:
    return (2 * counts.dimension**2 + 1) * counts.n_H_final + 2 * counts.n_g


def _decrease(step: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> float:
    return -float(gradient @ step + 0.5 * step @ hessian @ step)


def _check_options(bootstrap: Any, geometry: Any, settings: dict[str, Any]) -> None:
    constants = ("noise", "strong_convexity", "hessian_lipschitz")
    missing = [name for name in constants if settings.get(name) is None]
    if missing:
        raise ValueError(
            f"two-stage needs {' and '.join(missing)}; method 'adaptive' estimates what it is not"
            " told"
        )
    if bootstrap not in ("newton", None) and not callable(bootstrap):
        raise ValueError(f"bootstrap must be 'newton', a callable or None, got {bootstrap!r}")
    if geometry not in ("ellipsoid", "isotropic"):
        raise ValueError(f"geometry must be 'ellipsoid' or 'isotropic', got {geometry!r}")
