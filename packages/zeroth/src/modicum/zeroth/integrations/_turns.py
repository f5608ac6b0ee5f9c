"""Points of a method one at a time, for hosts that ask and tell single points and never wait.

A method works in rounds: the next round is known when every point of this one has its value.
`Turns` hands out the points of the open round one by one; where a host wants a point while all of
them are out, it gets the one that has been out longest once more. That costs an evaluation of the
budget, keeps every worker busy, and brings the value of a point whose worker died. Knows nothing of
any host.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

from modicum.zeroth.candidates import Candidate, Candidates
from modicum.zeroth.optimizer import MOST_LOST, Optimizer

__all__ = ["Turns"]


class Turns:
    """Hands out the points of a method one at a time.

    Parameters
    ----------
    optimizer
        A method that nothing was asked of yet.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._begin(optimizer.ask())

    def _begin(self, asked: Candidates) -> None:
        self._round = asked
        self._places = {number: place for place, number in enumerate(asked.ids.tolist())}
        self._next = 0
        self._handed: set[int] = set()
        # Points that are out and have no value, the one that is out longest first.
        self._out: dict[int, None] = {}
        self._open = set(self._places)

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self.optimizer.done

    def __contains__(self, number: int) -> bool:
        """Say whether a point belongs to the open round."""
        return number in self._places

    def point(self, number: int) -> Any:
        """Return where a point of the open round lies, ``(d,)``."""
        return self._round.points[self._places[number]]

    def next(self) -> Candidate | None:
        """Hand out a point.

        Returns
        -------
        Candidate or None
            None if the run is over, or the budget has room only for points that are out already.
        """
        while self._next < len(self._round):
            candidate = self._round[self._next]
            self._next += 1
            if candidate.id not in self._handed:
                self.note(candidate.id)
                return candidate
        return self.again(next(iter(self._out))) if self._out else None

    def again(self, number: int) -> Candidate | None:
        """Hand out a point of the open round once more; None if the budget has no room for it."""
        issued = self.optimizer.retry([number])
        if not len(issued):
            return None
        self._out.pop(number, None)
        self._out[number] = None
        return issued[0]

    @property
    def room(self) -> bool:
        """Whether the budget has room to hand out a point of the open round once more."""
        return self.optimizer.nfev < self.optimizer.budget

    def note(self, number: int) -> None:
        """Take down that a point of the open round is out."""
        self._handed.add(number)
        self._out.setdefault(number)

    def tell(self, number: int, value: float, sigma: float | None = None) -> None:
        """Take the value of a point; nan if its evaluation failed."""
        self._out.pop(number, None)
        self._open.discard(number)
        self.optimizer.tell(number, value, sigma)
        asked = self.optimizer.ask()
        if len(asked) or self.optimizer.done:
            self._begin(asked)

    def current(self) -> Optimizer:
        """Give the method as it stands, the open round closed if few of its points are missing.

        Returns
        -------
        Optimizer
            The method itself, or a copy of it; not to be asked or told.
        """
        if not 0 < len(self._open) <= MOST_LOST * len(self._round):
            return self.optimizer
        closed = copy.deepcopy(self.optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run itself will say it when it gets there
            closed.close()
        return closed
