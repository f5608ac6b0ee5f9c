"""Early-stopping self-consistency: one window of samples that all agree."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

from modicum.testtime.stopping.base import (
    GO_ON,
    Decision,
    StoppingRule,
    VoteCounter,
    check_count,
)

__all__ = ["ESC"]


class ESC(StoppingRule):
    """Stop at the end of a window of samples that all have the same answer.

    Windows are disjoint: samples 1 … w, w+1 … 2w and so on. A heuristic without a bound on the
    error: enough windows of a close race hold one that agrees on the wrong answer.

    Parameters
    ----------
    window
        w, samples per window. A sample without an answer breaks a window's agreement.
    answer
        "window": the window's answer, as in the authors' code; "votes": the one with the most votes
        so far, which errs less often.

    Raises
    ------
    ValueError
        If the window is less than 2 or the answer none of the two words.

    Notes
    -----
    "Escape Sky-high Cost: Early-stopping Self-Consistency for Multi-step Reasoning",
    arXiv 2401.10480.
    """

    def __init__(self, window: int = 5, answer: Literal["window", "votes"] = "window") -> None:
        self.window = check_count("window", window, 2)
        if answer not in ("window", "votes"):
            raise ValueError(f'answer must be "window" or "votes", not {answer!r}')
        self.answer = answer
        self.reset()

    def __repr__(self) -> str:
        answer = "" if self.answer == "window" else f", answer={self.answer!r}"
        return f"ESC(window={self.window}{answer})"

    def reset(self) -> None:
        """Forget every sample."""
        self.votes = VoteCounter()
        self._first: Hashable | None = None
        self._agree = True

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop."""
        place = self.votes.total % self.window
        voted = self.votes.add(key, weight)
        if place == 0:
            self._first, self._agree = key, voted
        elif self._agree:
            self._agree = voted and key == self._first
        if place < self.window - 1 or not self._agree:
            return GO_ON
        answer = self._first if self.answer == "window" else self.votes.top_two()[0]
        return Decision(True, answer, "unanimous")

    def min_to_stop(self) -> int:
        """Return how many samples end this window or, if that has two answers, the next one."""
        place = self.votes.total % self.window
        left = self.window - place
        return left if place == 0 or self._agree else left + self.window
