"""Points handed out for evaluation, each with an identity and a seed.

Takes rows of an open batch; knows nothing of values. An identity is an integer that counts the
points of a run, so it says by itself whether an answer is early, in time or late. A seed depends
only on the run's seed and the point (with ``paired=True``: the pair), so whoever evaluates a point
again, anywhere, uses the same random numbers.

Legend of the shapes: ``n`` points, ``d`` dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from modicum.zeroth.batch import Array

__all__ = ["SEED_LIMIT", "Candidate", "Candidates", "evaluation_seeds"]

SEED_LIMIT = 2**31
"""Seeds lie below this, so that NumPy's legacy generators, torch, JAX and C programs take them."""

# The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
# OOPSLA 2014), applied in counter mode.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_SEED_SHIFT = np.uint64(33)  # keeps the upper 31 bits


def _mix(word: np.ndarray) -> np.ndarray:
    word = (word ^ (word >> _SHIFTS[0])) * _MIX_1
    word = (word ^ (word >> _SHIFTS[1])) * _MIX_2
    return word ^ (word >> _SHIFTS[2])


def evaluation_seeds(seed: int, numbers: np.ndarray) -> np.ndarray:
    """Give the seeds of evaluations.

    Parameters
    ----------
    seed
        Seed of the run, in ``[0, 2**63)``.
    numbers
        Integers ``(n,)`` that count evaluations, or pairs where both sides share a seed.

    Returns
    -------
    numpy.ndarray
        int64 ``(n,)`` in ``[0, SEED_LIMIT)``.
    """
    start = _mix(np.array([seed], dtype=np.uint64) + _GOLDEN)
    words = _mix(start + (np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (words >> _SEED_SHIFT).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One point to evaluate.

    Parameters
    ----------
    id
        Its identity in this run.
    x
        The point in the user's coordinates, ``(d,)``.
    seed
        Seed for whatever is random in the evaluation; with ``paired=True`` both sides of a pair
        have the same.
    """

    id: int
    x: Array
    seed: int


class Candidates(Sequence[Candidate]):
    """Points to evaluate, as arrays and as a sequence of `Candidate`.

    Parameters
    ----------
    points
        Points in the user's coordinates, float64 ``(n, d)``.
    ids
        Their identities, int64 ``(n,)``.
    units
        int64 ``(n,)``: points with equal numbers count only together, as the two sides of a pair.
    seed
        Seed of the run.
    paired
        Whether points of a unit share a seed.
    """

    def __init__(
        self, points: Array, ids: np.ndarray, units: np.ndarray, seed: int, paired: bool = False
    ) -> None:
        self.points = points
        self.ids = ids
        self.units = units
        self._seed = seed
        self._paired = paired

    @property
    def seeds(self) -> np.ndarray:
        """Seeds of the evaluations, int64 ``(n,)`` in ``[0, SEED_LIMIT)``."""
        return evaluation_seeds(self._seed, self.units if self._paired else self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | list[int]) -> "Candidates": ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            number = (self.units if self._paired else self.ids)[index]
            seed = evaluation_seeds(self._seed, np.array([number]))[0]
            return Candidate(int(self.ids[index]), self.points[index], int(seed))
        return Candidates(
            self.points[index], self.ids[index], self.units[index], self._seed, self._paired
        )

    def __iter__(self) -> Iterator[Candidate]:
        return map(Candidate, self.ids.tolist(), self.points, self.seeds.tolist())

    def __repr__(self) -> str:
        span = f", ids {self.ids[0]} … {self.ids[-1]}" if len(self) else ""
        return f"Candidates({len(self)} points{span})"
