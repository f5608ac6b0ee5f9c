"""What a method asks for: points whose values it needs before it can go on.

A method hands out one `Batch` at a time and is told all its values at once; how they come about
(one after another, in one call, on many machines) is nothing to it.

Legend of the shapes: ``b`` points of the batch, ``d`` dimension, ``u`` units.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Array", "Batch"]

Array = Any
"""A NumPy array or a torch tensor."""


@dataclass(frozen=True)
class Batch:
    """Points to evaluate.

    Parameters
    ----------
    points
        Points in the user's coordinates, float64 ``(b, d)``.
    unit
        ``(b,)`` integers: points of the same unit count only together. The two sides of a pair
        share one; a point that stands alone has one of its own. Units of one batch are ``0 … u-1``,
        each with at least one point.
    data
        What the method wants back with the values, such as the directions of the pairs.
    """

    points: Array
    unit: np.ndarray
    data: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        """Count the points."""
        return len(self.unit)

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.unit.max()) + 1 if len(self.unit) else 0
