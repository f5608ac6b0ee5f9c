"""The batch that is being answered: which points are out, and what has come in of them.

Points are known by their place in the batch. Knows nothing of methods, budgets and identities
beyond what it is given; `Optimizer` decides what happens when a round is answered.

Legend of the shapes: ``b`` points of the batch, ``n`` points handled at a time, ``u`` units (pairs
and single points).
"""

import math
from typing import Any

import numpy as np

from modicum.zeroth import checkpoint
from modicum.zeroth.batch import Batch
from modicum.zeroth.values import to_host

__all__ = ["OpenRound"]

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_VALUE, _DUPLICATE, _MEASUREMENT = range(3)


class OpenRound:
    """An open round.

    Parameters
    ----------
    batch
        Its points.
    room
        Evaluations that may be issued. Where that is less than the batch, only some units are
        issuable, spread evenly over it.

    Attributes
    ----------
    issuable, issued, settled
        ``(b,)``: which points may be handed out, are, and have been told, be it as failed.
    units, settled_units
        Units that may be handed out, and those of them of which every point is settled.
    unissued
        Number of points that may be handed out and are not.
    """

    def __init__(self, batch: Batch, room: int) -> None:
        size = len(batch)
        fits = np.ones(size, dtype=bool) if size <= room else _that_fit(batch.unit, room)
        self._start(batch, fits)

    def _start(self, batch: Batch, issuable: np.ndarray) -> None:
        size = len(batch)
        self.batch = batch
        self.issuable = issuable
        self.issued = np.zeros(size, dtype=bool)
        self.settled = np.zeros(size, dtype=bool)
        self._queue = np.flatnonzero(issuable)
        self._values = np.full(size, np.nan)
        self._sigma: np.ndarray | None = None
        # Further measurements of a point, beside the one in `values`: place → [(value, sigma)].
        self._repeats: dict[int, list[tuple[float, float]]] = {}
        self._missing_in_unit = np.bincount(batch.unit[issuable], minlength=batch.units)
        self.units = int(np.count_nonzero(self._missing_in_unit))
        self.settled_units = 0
        self.unissued = len(self._queue)
        self._settled_points = 0

    @property
    def pending(self) -> int:
        """Number of points that are out and not settled."""
        return (
            len(self.batch)
            - int(np.count_nonzero(~self.issuable))
            - self.unissued
            - (self._settled_points)
        )

    @property
    def untouched(self) -> bool:
        """Whether all points of the batch are out and nothing has come in."""
        return not self.unissued and not self._settled_points and bool(self.issuable.all())

    def hand_out(self, n: int | None) -> np.ndarray:
        """Give the places of the next `n` points, None for all; fewer if there are no more."""
        wanted = len(self._queue) if n is None else n
        parts = [np.empty(0, dtype=np.int64)]
        while wanted > 0 and len(self._queue):
            head, self._queue = self._queue[:wanted], self._queue[wanted:]
            # After a resume some are out already, and may have been told meanwhile.
            head = head[~self.settled[head]] if self._settled_points else head
            parts.append(head)
            wanted -= len(head)
        places = np.concatenate(parts) if len(parts) > 2 else parts[-1]
        self.unissued -= len(places) - int(np.count_nonzero(self.issued[places]))
        self.issued[places] = True
        return places

    def unknown(self, places: np.ndarray) -> np.ndarray:
        """Give those of some places, none negative, whose points were never handed out."""
        known = places < len(self.batch)
        known[known] = self.issued[places[known]]
        return places[~known]

    def take(
        self, places: np.ndarray, values: np.ndarray, sigma: np.ndarray | None
    ) -> tuple[int, int]:
        """Take values of points that were handed out.

        Parameters
        ----------
        places
            ``(n,)``, perhaps some twice.
        values
            ``(n,)``; what is not finite is a failure.
        sigma
            Standard deviations ``(n,)``, or None.

        Returns
        -------
        duplicates, repeated
            How many values were told before, and how many are further measurements of a point.

        Raises
        ------
        ValueError
            If some values of the round come with a standard deviation and others without.
        """
        if self._settled_points and (sigma is None) != (self._sigma is None):
            raise ValueError("sigma must be given for all values of a round or for none")
        if sigma is not None and self._sigma is None:
            self._sigma = np.full(len(self.batch), np.inf)
        first = ~self.settled[places]
        if len(places) > 1:
            earliest = np.zeros(len(places), dtype=bool)
            earliest[np.unique(places, return_index=True)[1]] = True
            first &= earliest
        fresh = places[first]
        self._values[fresh] = values[first]
        if self._sigma is not None and sigma is not None:
            self._sigma[fresh] = sigma[first]
        self._settle(fresh)
        counts = {_VALUE: 0, _DUPLICATE: 0, _MEASUREMENT: 0}
        for index in np.flatnonzero(~first).tolist():
            spread = 1.0 if sigma is None else float(sigma[index])
            counts[self._take_again(int(places[index]), float(values[index]), spread)] += 1
        return counts[_DUPLICATE], counts[_MEASUREMENT]

    def _settle(self, places: np.ndarray) -> None:
        self.settled[places] = True
        self._settled_points += len(places)
        unit = self.batch.unit[places]
        np.subtract.at(self._missing_in_unit, unit, 1)
        unit = np.unique(unit) if len(unit) > 1 else unit
        self.settled_units += int(np.count_nonzero(self._missing_in_unit[unit] == 0))

    def _take_again(self, place: int, value: float, sigma: float) -> int:
        """Take a further value of a point; tell whether it is new, the same or another one."""
        others = self._repeats.get(place, [])
        known = self._values[place]
        if not math.isfinite(value) or value == known or any(value == v for v, _ in others):
            return _DUPLICATE
        if not math.isfinite(known):
            self._values[place] = value
            if self._sigma is not None:
                self._sigma[place] = sigma
            return _VALUE
        self._repeats[place] = [*others, (value, sigma)]
        return _MEASUREMENT

    def measured(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Give values ``(b,)`` and standard deviations, measurements of one point averaged."""
        values = self._values.copy()
        sigma = None if self._sigma is None else self._sigma.copy()
        for place, others in self._repeats.items():
            first = (values[place], 1.0 if sigma is None else sigma[place])
            # The sums are exact, hence the same in whatever order the measurements came.
            terms = [(value, 1.0 / spread**2) for value, spread in [first, *others]]
            weight = math.fsum(w for _, w in terms)
            values[place] = math.fsum(value * w for value, w in terms) / weight
            if sigma is not None:
                sigma[place] = weight**-0.5
        return values, sigma

    def places_of(self, points: np.ndarray) -> np.ndarray:
        """Find points ``(n, d)`` by their coordinates; of equal ones first those without a value.

        Raises
        ------
        ValueError
            If one was not handed out.
        """
        known: dict[bytes, list[int]] = {}
        order = np.argsort(self.settled, kind="stable")
        rows = np.ascontiguousarray(to_host(self.batch.points))
        for place in order[self.issued[order]].tolist():
            known.setdefault(rows[place].tobytes(), []).append(place)
        found = []
        for row in np.ascontiguousarray(points):
            equal = known.get(row.tobytes())
            if not equal:
                raise ValueError(
                    f"the point {row!r} was not handed out in this round; tell values of earlier"
                    " rounds by their identities"
                )
            found.append(equal.pop(0) if len(equal) > 1 else equal[0])
        return np.array(found, dtype=np.int64)

    # On disk -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any] | None:
        """Give what has happened, as plain values; None if nothing has."""
        if not self.issued.any():
            return None
        return {
            "issuable": self.issuable.copy(),
            "issued": self.issued.copy(),
            "settled": self.settled.copy(),
            "values": self._values.copy(),
            "sigma": None if self._sigma is None else self._sigma.copy(),
            "repeats": checkpoint.encode(self._repeats),
        }

    @classmethod
    def restored(cls, batch: Batch, saved: dict[str, Any]) -> "OpenRound":
        """Make the round again; what was out and not settled will be handed out again."""
        now = cls.__new__(cls)
        now._start(batch, saved["issuable"].copy())
        now.issued = saved["issued"].copy()
        now.unissued -= int(np.count_nonzero(now.issued))
        now._settle(np.flatnonzero(saved["settled"]))
        now._queue = np.flatnonzero(now.issuable & ~now.settled)
        now._values = saved["values"].copy()
        now._sigma = None if saved["sigma"] is None else saved["sigma"].copy()
        now._repeats = checkpoint.decode(saved["repeats"])
        return now


def _that_fit(unit: np.ndarray, room: int) -> np.ndarray:
    """Choose whole units with at most `room` points, spread evenly over the batch."""
    sizes = np.bincount(unit)
    order = np.argsort((np.arange(len(sizes)) * _GOLDEN_RATIO) % 1.0, kind="stable")
    kept = np.zeros(len(sizes), dtype=bool)
    kept[order[np.cumsum(sizes[order]) <= room]] = True
    return kept[unit]
