"""What methods have in common that take one small step after every few pairs.

`Streaming` asks for pairs around its point, turns their differences into a gradient and steps
against it; a method says how far away it samples and how long its steps are at each time
(`Streaming._radius`, `Streaming._step_size`). Steps that are not given by constants of the function
are set by a first step of known length: a few pairs at the start, which count as evaluations, tell
how large gradient estimates are (Spall, "Implementation of the simultaneous perturbation algorithm
for stochastic optimization", 1998). What these methods lack is a model that knows a value at their
point, so the last evaluations are spent there.

Legend of shape suffixes: ``N`` pairs, ``d`` dimension.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from modicum.zeroth.arguments import integer, one_of, positive
from modicum.zeroth.arrays import host, like
from modicum.zeroth.batch import Array, Batch
from modicum.zeroth.directions import draw_pair_directions
from modicum.zeroth.optimizer import STOPPED, Optimizer, Recommendation, Round

__all__ = ["AVERAGES", "StreamState", "Streaming"]

AVERAGES = ("tail", "all", "none")
"""Of which iterates the recommendation is the mean: those of the last half, all, the last one."""

PROBES = 10
"""Pairs at the start that set the length of steps."""

FIRST_STEP = 0.1
"""Mean change of a coordinate in the first step, in units of the scale."""

LONGEST_STEP = 1.0
"""Mean change of a coordinate in the longest step, in units of the scale."""

DELAY_SHARE = 0.01
"""Share of the steps during which decaying steps hardly decay, as Spall recommends."""

FINAL_SHARE = 0.01
"""Share of the budget that is spent on the value at the recommended point."""

FINAL_MOST = 10_000
"""Most evaluations there: more say nothing that anybody wants to know."""

_RESOLUTION = 1e-13
"""Radius of pairs, as a share of a coordinate, at which their two points are no longer apart."""

LEAST_ROOM = 1 / 4
"""Share of the radius below which pairs near bounds rather move their centre inward."""

_DRAWN_ROWS = 1024
_RECORDS = 200


@dataclass
class StreamState:
    """Where a streaming method is.

    Attributes
    ----------
    x
        The iterate, internal coordinates ``(d,)``.
    step
        Steps taken, those without a value included.
    slope
        Mean size of an entry of a gradient estimate at the start, nan before it is known.
    total, counted
        Sum of the iterates of which the recommendation is the mean, ``(d,)``, and their number.
    evens, even_count
        Sum and number of the even parts ``(y₊ + y₋)/2`` since the last record of the trace.
    value, value_std, noise
        Mean and standard deviation of the mean of the values at the recommended point, and standard
        deviation of one of them; nan before they are evaluated.
    diverged, done
        Whether the iterate has left the numbers; whether the run is over.
    """

    x: np.ndarray
    total: np.ndarray
    step: int = 0
    slope: float = math.nan
    counted: int = 0
    evens: float = 0.0
    even_count: int = 0
    value: float = math.nan
    value_std: float = math.nan
    noise: float = math.nan
    diverged: bool = False
    done: bool = False


class _Drawn(NamedTuple):
    """The pairs of a batch: ``center ± radius * distance * (u @ shape)``."""

    u_Nd: Array
    radius: float
    shape: np.ndarray | None
    distance_N: np.ndarray | None


class Streaming(Optimizer):
    """A method that steps after every `pairs` pairs.

    Parameters
    ----------
    x0, budget, **settings
        As for `Optimizer`. One evaluation of an odd budget is not used.
    pairs
        Pairs for each step.
    average
        What is recommended: ``"tail"``, the mean of the iterates of the last half of the steps;
        ``"all"``, of all; ``"none"``, the last iterate.
    first_step
        Mean change of a coordinate in the first step, in units of `scale`, where constants of the
        function do not say it.
    probes
        Pairs that are spent on that at the start. Where they are, no step is longer than a change
        of each coordinate by `scale`, so that a first step that was too long is made good.
    final_share
        Share of the budget, in ``[0, 0.5]``, that is spent at the end on the value at the
        recommended point, at most 10000 evaluations. With 0 the result has no value.

    Notes
    -----
    ``fun`` in the trace is the mean of ``(y₊ + y₋)/2`` since the record before: the function around
    the iterates at the distance of the pairs, which is above its value at the iterates.
    """

    state: StreamState

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        pairs: int = 1,
        average: str = "tail",
        first_step: float = FIRST_STEP,
        probes: int = PROBES,
        final_share: float = FINAL_SHARE,
        **settings: Any,
    ) -> None:
        if not 0 <= final_share <= 0.5:
            raise ValueError(f"final_share must lie in [0, 0.5], not {final_share!r}")
        self.final_share = float(final_share)
        self.pairs = integer("pairs", pairs)
        self.average = one_of("average", average, AVERAGES)
        self.first_step = positive("first_step", first_step)
        self.probes = integer("probes", probes)
        self._rows: tuple[int, Array] | None = None
        super().__init__(x0, budget, **settings)
        self._xp: Any = array_namespace(self._draw("steps", 0, 1))

    # What a streaming method is -------------------------------------------------------------------

    @abstractmethod
    def _radius(self, step: int) -> float:
        """Give the distance of the pairs of a step, 0 for the first; internal coordinates."""

    @abstractmethod
    def _step_size(self, step: int) -> float:
        """Give the factor of the gradient in a step."""

    @abstractmethod
    def _probing(self) -> bool:
        """Say whether the length of steps has to be found out."""

    def _distances(self, stream: str, first: int, count: int) -> np.ndarray | None:
        """Give the distances of some pairs in units of the radius, None where all are 1."""
        return None

    def _pair_weights(self, distance_N: np.ndarray) -> np.ndarray:
        """Give the factors of pairs at given distances."""
        raise NotImplementedError

    @property
    def _probed_step_size(self) -> float:
        """The factor of the gradient for which the first step is as long as wanted."""
        slope = self.state.slope
        return self.first_step * self.space.length / (slope if slope > 0 else 1.0)

    # What a method is -----------------------------------------------------------------------------

    def minimum_budget(self) -> int:
        """Give the smallest usable budget: probing pairs, one step, two values at its end."""
        return 2 * ((self.probes if self._probing() else 0) + self.pairs + (self.final_share > 0))

    def _initial_state(self) -> StreamState:
        self._probe_pairs = self.probes if self._probing() else 0
        self._final_count = 0
        if self.final_share:
            self._final_count = max(2, min(int(self.final_share * self.budget), FINAL_MOST))
        self._step_pairs = (self.budget - self._final_count) // 2 - self._probe_pairs
        self.steps = -(-self._step_pairs // self.pairs)
        self._longest = math.inf
        if self._probe_pairs:
            self._longest = LONGEST_STEP * math.sqrt(self.dimension) * self.space.length
        start = self.space.project(self.space.to_internal(self.space.start))
        return StreamState(start, np.zeros_like(start))

    def _propose(self) -> Batch | None:
        state = self.state
        if self._probe_pairs and math.isnan(state.slope):
            u_Nd = self._draw("probes", 0, self._probe_pairs)
            distance_N = self._distances("probes", 0, self._probe_pairs)
            return self._batch(u_Nd, self._radius(0), distance_N)
        first = state.step * self.pairs
        count = min(self.pairs, self._step_pairs - first)
        if state.done or state.diverged:
            return None
        if count <= 0:
            return self._final_batch()
        return self._batch(
            self._step_rows(first, count),
            self._radius(state.step),
            self._distances("steps", first, count),
        )

    def _update(self, batch: Batch, y: Array, sigma: np.ndarray | None) -> None:
        drawn: _Drawn | None = batch.data
        if drawn is None:
            self._take_values(host(y), sigma)
            return
        odd_N, even_N = host(y[0::2] - y[1::2]), host((y[0::2] + y[1::2]) / 2)
        weights_N = np.ones(len(odd_N))
        if sigma is not None:
            weights_N = 1 / (sigma[0::2] ** 2 + sigma[1::2] ** 2)
        known_N = np.isfinite(odd_N)
        if not known_N.all():
            odd_N, weights_N = np.where(known_N, odd_N, 0.0), np.where(known_N, weights_N, 0.0)
            even_N = even_N[known_N]
        if self._probe_pairs and math.isnan(self.state.slope):
            self._probe(drawn, odd_N)
        else:
            self._step(drawn, odd_N, even_N, weights_N)

    def _recommend(self) -> Recommendation:
        state = self.state
        return Recommendation(
            x=self._mean(),
            fun=state.value,
            fun_std=state.value_std,
            noise_std=state.noise if self.noise is None else self.noise,
            hessian_lipschitz=self.hessian_lipschitz or math.nan,
            strong_convexity=self.strong_convexity or math.nan,
            radius=self._radius(max(state.step - 1, 0)),
        )

    def _mean(self) -> np.ndarray:
        state = self.state
        return state.total / state.counted if state.counted else state.x

    # Pairs ----------------------------------------------------------------------------------------

    def _draw(self, stream: str, start: int, count: int) -> Array:
        return draw_pair_directions(
            self.directions,
            count,
            self.dimension,
            self.seed,
            stream,
            start=start,
            device=self.device,
        )

    def _step_rows(self, first: int, count: int) -> Array:
        """Give directions of a step; many are drawn at once, because each drawing has its price."""
        if (
            self._rows is None
            or not self._rows[0] <= first <= self._rows[0] + len(self._rows[1]) - count
        ):
            self._rows = (first, self._draw("steps", first, max(count, _DRAWN_ROWS)))
        begin, rows = self._rows
        return rows[first - begin : first - begin + count]

    def _batch(self, u_Nd: Array, radius: float, distance_N: np.ndarray | None) -> Batch:
        # Gaussian directions may be longer than 1.
        reach = 1.0
        if self.space.bounded and self.directions == "gaussian":
            reach = float(np.linalg.norm(host(u_Nd), axis=1).max())
        # A gradient at another point than the iterate's would pull it away.
        frame = self.space.close_frame(self.state.x, None, radius * reach, LEAST_ROOM)
        drawn = _Drawn(u_Nd, frame.radius / reach, frame.shape, distance_N)
        step_Nd = u_Nd if frame.shape is None else u_Nd @ like(frame.shape, u_Nd)
        if distance_N is not None:
            step_Nd = step_Nd * like(distance_N[:, None], u_Nd)
        step_Nd = drawn.radius * step_Nd
        center, count = like(frame.center, u_Nd), len(u_Nd)
        points = self._xp.stack([center + step_Nd, center - step_Nd], axis=1)
        points = points.reshape(2 * count, self.dimension)
        return Batch(self.space.to_user(points), np.arange(2 * count) // 2, drawn)

    def _estimates(self, drawn: _Drawn, factor_N: np.ndarray) -> Array:
        """Give ``Σ factor · d/(2 radius) · u`` as a gradient."""
        scale = self.dimension / (2 * drawn.radius)
        gradient = host(like(scale * factor_N, drawn.u_Nd) @ drawn.u_Nd)
        return gradient if drawn.shape is None else np.linalg.solve(drawn.shape, gradient)

    # Values ---------------------------------------------------------------------------------------

    def _probe(self, drawn: _Drawn, odd_N: np.ndarray) -> None:
        """Take the mean size of the entries of gradient estimates from single pairs."""
        if drawn.distance_N is not None:
            odd_N = odd_N * self._pair_weights(drawn.distance_N)
        each = [self._estimates(drawn, row) for row in np.diag(odd_N)]
        self.state.slope = float(np.mean(np.abs(each)))

    def _step(
        self, drawn: _Drawn, odd_N: np.ndarray, even_N: np.ndarray, weights_N: np.ndarray
    ) -> None:
        state = self.state
        length = 0.0
        total = weights_N.sum()
        if total > 0:
            factor_N = weights_N * odd_N / total
            if drawn.distance_N is not None:
                factor_N = factor_N * self._pair_weights(drawn.distance_N)
            move = self._step_size(state.step) * self._estimates(drawn, factor_N)
            length = math.sqrt(move @ move)
            if length > self._longest:
                move, length = move * (self._longest / length), self._longest
            new = state.x - move
            if not float(np.abs(new).max()) * _RESOLUTION < drawn.radius:
                self._give_up()
                return
            state.x = self.space.project(new)
        state.evens += float(even_N.sum())
        state.even_count += len(even_N)
        state.step += 1
        late = 2 * state.step > self.steps
        if self.average == "all" or (self.average == "tail" and late):
            state.total = state.total + state.x
            state.counted += 1
        if state.step % max(1, self.steps // _RECORDS) == 0 or state.step == self.steps:
            self._record(drawn, length)

    def _give_up(self) -> None:
        self.state.diverged = True
        message = (
            f"{self.name} diverged after {self.state.step} steps; take a smaller step size or tell"
            " the largest curvature"
        )
        self._warn(message)
        self.stop(STOPPED, message)

    # The value at the end -------------------------------------------------------------------------

    def _final_batch(self) -> Batch | None:
        count = self._final_count
        if not count:
            return None
        points = np.tile(self._mean(), (count, 1))
        rows = points if self.device is None else self._on_device(points)
        return Batch(self.space.to_user(rows), np.arange(count))

    def _on_device(self, points: np.ndarray) -> Array:
        import torch

        return torch.from_numpy(points).to(self.device)

    def _take_values(self, y: np.ndarray, sigma: np.ndarray | None) -> None:
        state = self.state
        state.done = True
        known = np.isfinite(y)
        values = y[known]
        if len(values) > 1:
            weights = np.ones(len(values)) if sigma is None else sigma[known] ** -2.0
            state.value = float(np.average(values, weights=weights))
            state.noise = float(values.std(ddof=1))
            state.value_std = state.noise / math.sqrt(len(values))

    def _record(self, drawn: _Drawn, length: float) -> None:
        state = self.state
        mean = state.evens / state.even_count if state.even_count else math.nan
        state.evens, state.even_count = 0.0, 0
        self.trace.append(
            Round(
                nfev=self.nfev,
                x=self.space.to_user(state.x),
                fun=mean,
                radius=drawn.radius,
                step_norm=length,
            )
        )
