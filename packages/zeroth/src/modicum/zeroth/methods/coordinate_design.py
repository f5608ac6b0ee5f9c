"""Coordinate differences as repeated units of points: which points, and what their values mean.

A design stands around one center. Its units are the center itself, the two points of a step to
both sides along a coordinate, and the four points of two such steps at once; all are repeated, and
a mean over repetitions gives a gradient and a Hessian (algorithms 2 and 3 of arXiv 2406.19617).
Units are numbered through, so that a design can be evaluated in pieces of any size with one running
sum for each unit. Knows nothing of methods and budgets.

Legend of shape suffixes: ``d`` dimension, ``U`` units of a design, ``M`` units of a piece, ``S``
points of a unit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["Block", "CoordinateDesign", "CoordinateMeans", "Piece"]

LARGEST_UNIT = 4
"""Points of the largest unit."""


class Block(NamedTuple):
    """Units of one form, repeated equally often: all units once, then all units again, and so on.

    Attributes
    ----------
    signs
        Steps along the two coordinates of a unit, ``(S, 2)``.
    factors
        Of the values of a unit, ``(S,)``; the sum of the products is what is averaged.
    axes
        Coordinates of each unit, ``(U, 2)``.
    radii
        Lengths of steps along the coordinates, ``(d,)``.
    repeats
        How often each unit is evaluated.
    """

    signs: np.ndarray
    factors: np.ndarray
    axes: np.ndarray
    radii: np.ndarray
    repeats: int

    @property
    def total(self) -> int:
        """Number of units, repetitions counted."""
        return len(self.axes) * self.repeats

    @property
    def size(self) -> int:
        """Number of points of a unit."""
        return len(self.factors)


@dataclass(frozen=True)
class Piece:
    """Units ``first … last - 1`` of a block, repetitions counted."""

    block: int
    first: int
    last: int

    @property
    def count(self) -> int:
        """Number of units."""
        return self.last - self.first


class CoordinateMeans(NamedTuple):
    """What the means of a design say.

    Attributes
    ----------
    value
        At the center.
    gradient
        ``(d,)``, None where the design has no pairs for it.
    hessian
        Symmetric ``(d, d)``, not floored.
    """

    value: float
    gradient: np.ndarray | None
    hessian: np.ndarray


_CENTER = np.array([[0.0, 0.0]])
# Where both coordinates of a unit are the same, only the first moves.
_PAIR = np.array([[1.0, 0.0], [-1.0, 0.0]])
_SQUARE = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])


class CoordinateDesign:
    """A Hessian by second differences, and before it, if wanted, a gradient by first ones.

    Parameters
    ----------
    center
        ``(d,)``.
    hessian_radii
        Steps along the coordinates for the Hessian, ``(d,)``.
    hessian_samples
        Repetitions of each of its ``2 d² + 1`` points.
    gradient_radii, gradient_samples
        The same for the ``2 d`` points of the gradient; no samples, no gradient.
    """

    def __init__(
        self,
        center: np.ndarray,
        hessian_radii: np.ndarray,
        hessian_samples: int,
        gradient_radii: np.ndarray,
        gradient_samples: int = 0,
    ) -> None:
        self.center = center
        self.gradient_radii, self.hessian_radii = gradient_radii, hessian_radii
        self.has_gradient = gradient_samples > 0
        along = np.repeat(np.arange(len(center))[:, None], 2, axis=1)
        across = np.stack(np.triu_indices(len(center), 1), axis=1)
        self.blocks = [
            Block(_CENTER, np.array([1.0]), along[:1], hessian_radii, hessian_samples),
            Block(_PAIR, np.array([1.0, 1.0]), along, hessian_radii, hessian_samples),
            Block(
                _SQUARE, np.array([1.0, 1.0, -1.0, -1.0]), across, hessian_radii, hessian_samples
            ),
        ]
        if self.has_gradient:
            difference = Block(
                _PAIR, np.array([1.0, -1.0]), along, gradient_radii, gradient_samples
            )
            self.blocks.insert(0, difference)
        self.ends = np.cumsum([len(block.axes) for block in self.blocks])

    @property
    def units(self) -> int:
        """Number of different units."""
        return int(self.ends[-1])

    @property
    def total(self) -> int:
        """Number of units, repetitions counted."""
        return sum(block.total for block in self.blocks)

    def pieces(self, position: int, room: int) -> Iterator[Piece]:
        """Give the units from number `position` on whose points fit into `room`, at least 4."""
        for number, block in enumerate(self.blocks):
            if position >= block.total:
                position -= block.total
                continue
            count = min(block.total - position, room // block.size)
            if count:
                yield Piece(number, position, position + count)
            if position + count < block.total:
                return
            room -= count * block.size
            position = 0

    def points(self, piece: Piece) -> np.ndarray:
        """Give the points ``(M S, d)`` of some units, one unit after another."""
        block = self.blocks[piece.block]
        axes_M2 = block.axes[np.arange(piece.first, piece.last) % len(block.axes)]
        steps_MS2 = block.signs * block.radii[axes_M2][:, None, :]
        rows = np.arange(piece.count * block.size)
        points = np.tile(self.center, (len(rows), 1))
        for side in range(2):
            columns = np.repeat(axes_M2[:, side], block.size)
            points[rows, columns] += steps_MS2[:, :, side].ravel()
        return points

    def add(
        self,
        piece: Piece,
        values: np.ndarray,
        weights_M: np.ndarray,
        sums_U: np.ndarray,
        totals_U: np.ndarray,
    ) -> None:
        """Add the values ``(M S,)`` of some units to the running sums, in place.

        Units with a value that is nan add nothing.
        """
        block = self.blocks[piece.block]
        # Differences within a unit come first, so that what is large and common cancels.
        value_M = values.reshape(piece.count, block.size) @ block.factors
        known_M = np.isfinite(value_M)
        weight_M = np.where(known_M, weights_M, 0.0)
        value_M = np.where(known_M, value_M, 0.0)
        count = len(block.axes)
        unit_M = np.arange(piece.first, piece.last) % count
        rows = slice(self.ends[piece.block] - count, self.ends[piece.block])
        sums_U[rows] += np.bincount(unit_M, weight_M * value_M, count)
        totals_U[rows] += np.bincount(unit_M, weight_M, count)

    def means(self, sums_U: np.ndarray, totals_U: np.ndarray) -> CoordinateMeans:
        """Turn running sums into a gradient and a Hessian.

        A unit all of whose repetitions were lost counts as no slope and no curvature.
        """
        means_U = sums_U / np.where(totals_U > 0, totals_U, 1.0)
        *slopes, center, along, across = np.split(means_U, self.ends[:-1])
        radii = self.hessian_radii
        lost = totals_U[-len(across) - len(along) : len(totals_U) - len(across)] == 0
        curvature = np.where(lost, 0.0, (along - 2 * center[0]) / radii**2)
        hessian = np.diag(curvature)
        upper = np.triu_indices(len(radii), 1)
        hessian[upper] = across / (4 * radii[upper[0]] * radii[upper[1]])
        hessian += np.triu(hessian, 1).T
        gradient = slopes[0] / (2 * self.gradient_radii) if slopes else None
        return CoordinateMeans(float(center[0]), gradient, hessian)
