"""The base of every method: ask for points, tell their values, stop, resume.

A method is a subclass with five small hooks (`Optimizer._initial_state`, `_propose`, `_update`,
`_recommend`, and the options of its constructor); everything else, from partial answers to resume,
stands here once. The state of a method is a dataclass of arrays and plain values, and what it
proposes is a function of that state alone, so a run that was saved goes on bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from modicum.zeroth.batch import Array, Batch
from modicum.zeroth.directions import draw_directions
from modicum.zeroth.space import Space


@dataclass(frozen=True)
class Round:
    """What one round of a method did; fields that a method does not have are nan."""

    nfev: int
    x: np.ndarray
    fun: float = np.nan
    radius: float = np.nan
    step_norm: float = np.nan
    trust: float = np.nan
    snr: float = np.nan
    lambda_min: float = np.nan
    lambda_max: float = np.nan
    noise_band: float = np.nan
    predicted_decrease: float = np.nan
    predicted_decrease_std: float = np.nan
    dropped: int = 0
    nonconvex: bool = False


@dataclass(frozen=True)
class Recommendation:
    """The point to use and what is known about it; unknown values are nan or None."""

    x: np.ndarray
    fun: float = np.nan
    fun_std: float = np.nan
    jac: np.ndarray | None = None
    jac_cov_trace: float = np.nan
    hess: np.ndarray | None = None
    noise_std: float = np.nan
    hessian_lipschitz: float = np.nan
    strong_convexity: float = np.nan
    predicted_regret: float = np.nan
    predicted_regret_terms: dict[str, float] = field(default_factory=dict)
    radius: float = np.nan


class Optimizer(ABC):
    """A method that asks for points and is told noisy values."""

    name: ClassVar[str]

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        scale: Any = 1.0,
        noise: float | None = None,
        strong_convexity: float | None = None,
        hessian_lipschitz: float | None = None,
        bounds: Any = None,
        paired: bool = False,
        directions: str = "sphere",
        rng: Any = None,
        device: Any = None,
    ) -> None:
        self.space = Space(x0, scale, bounds)
        self.dimension = self.space.dimension
        self.budget = int(budget)
        self.noise = noise
        self.strong_convexity = strong_convexity
        self.hessian_lipschitz = hessian_lipschitz
        self.paired = paired
        self.directions = directions
        self.seed = (
            int(np.random.default_rng(rng).integers(2**63)) if not isinstance(rng, int) else rng
        )
        self.device = device
        self.trace: list[Round] = []
        self.warnings: list[str] = []
        self.nfev = 0
        self.state = self._initial_state()

    # What a method is ---------------------------------------------------------------------------

    @abstractmethod
    def _initial_state(self) -> Any:
        """Give the state before the first evaluation: a dataclass of arrays and plain values."""

    @abstractmethod
    def _propose(self) -> Batch | None:
        """Give the next points, a pure function of the state; None when the budget is spent."""

    @abstractmethod
    def _update(self, batch: Batch, y: Array, sigma: np.ndarray | None) -> None:
        """Take the values of a batch into the state.

        Parameters
        ----------
        batch
            What `_propose` gave.
        y
            Values ``(b,)`` in the array library of the points, float64; nan for all points of a
            unit that was lost.
        sigma
            Standard deviations ``(b,)`` that the user told, or None.
        """

    @abstractmethod
    def _recommend(self) -> Recommendation:
        """Give the point to use, in internal coordinates."""

    # What a method uses --------------------------------------------------------------------------

    def _directions(self, count: int, *stream: int) -> Array:
        """Draw ``(count, d)`` directions that depend on the seed and `stream` only."""
        return draw_directions(
            self.directions, count, self.dimension, self.seed, *stream, device=self.device
        )

    def _warn(self, message: str) -> None:
        """Say something the user must know, once per run."""

    # What a user calls ---------------------------------------------------------------------------

    def run(self, fun: Callable[[Array], Array]) -> Recommendation:
        """Spend the budget on a vectorised function."""
        while (batch := self._propose()) is not None:
            self.nfev += len(batch)
            self._update(batch, fun(batch.points), None)
        return self.recommendation()

    def recommendation(self) -> Recommendation:
        """Give the point to use now, in the user's coordinates."""
        return self._recommend()
