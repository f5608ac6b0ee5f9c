"""The coordinates a method works in.

A method sees a problem without units: coordinates ``z`` in which one length, `length`, is right for
every direction. `Space` maps them to the user's ``x = metric * z`` (a vector `scale` is such a
diagonal metric), keeps points inside bounds, and gives every pair of points room on both sides.
Knows nothing of functions and their values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any


@dataclass(frozen=True)
class Frame:
    """Where pairs ``center ± radius * (u @ shape)`` are feasible on both sides for unit ``u``.

    `shape` is a ``(d, d)`` array or None for the identity; its spectral norm is at most 1.
    """

    center: np.ndarray
    shape: np.ndarray | None
    radius: float


class Space:
    """Coordinates with a length, a diagonal metric and bounds.

    Parameters
    ----------
    x0
        Start in the user's coordinates, ``(d,)``.
    scale
        Length over which the user expects to move; a ``(d,)`` vector gives one per coordinate.
    bounds
        Not yet.
    """

    def __init__(self, x0: Any, scale: Any = 1.0, bounds: Any = None) -> None:
        self.start = np.array(x0, dtype=np.float64)
        self.dimension = len(self.start)
        scale = np.asarray(scale, dtype=np.float64)
        self.length = float(np.exp(np.log(scale).mean()))
        self.metric = np.broadcast_to(scale / self.length, self.start.shape)
        self.bounds = bounds

    def to_user(self, z: Array) -> Array:
        """Map internal points ``(…, d)`` to the user's; array library and device stay."""
        return z * self._like(self.metric, z)

    def to_internal(self, x: Array) -> Array:
        """Map the user's points ``(…, d)`` to internal ones."""
        return x / self._like(self.metric, x)

    def project(self, z: np.ndarray) -> np.ndarray:
        """Give the feasible point nearest to ``z``."""
        return z

    def frame(self, z: np.ndarray, shape: np.ndarray | None, radius: float) -> Frame:
        """Move and shrink an ellipsoid of pairs until both sides of every pair are feasible."""
        return Frame(z, shape, radius)

    def constrain(
        self, z: np.ndarray, step: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
    ) -> np.ndarray:
        """Give the step that minimises the model within the bounds, where ``z + step`` leaves them.

        The result is no longer than `step`.
        """
        return step

    def _like(self, values: np.ndarray, array: Array) -> Array:
        if isinstance(array, np.ndarray):
            return values
        return array.new_tensor(values)
