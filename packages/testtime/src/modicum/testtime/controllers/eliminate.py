"""No expert that failed is asked again."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from modicum.testtime.controllers.base import VectorController

__all__ = ["Eliminate"]


class Eliminate(VectorController):
    """Play an expert that has not failed yet, the one with most right answers first.

    For deterministic (greedy, cached) experts, whose second answer to a prompt is their first: if
    one of K is right the prompt is solved within K rounds, after (K + 1)/2 in the mean if the right
    one is anywhere with equal probability. An expert fails with a reward below the acceptance level
    that `start` was given. In a session, where the right expert is the same for all prompts, it is
    played first from the second prompt on.

    When all experts have failed the assumption behind the rule is refuted or no expert is right,
    and `exhausted` becomes True: self-correction then ends the prompt. Whoever goes on nevertheless
    gets the expert with the fewest failures, that is, a second pass. In a session the failures, not
    the right answers, are forgotten at the next prompt.

    Parameters
    ----------
    order
        Among experts of the same record: "index" (list the cheap or likely ones first) or "random"
        (seeded, drawn anew for every prompt), which no arrangement of the experts can harm.
    reset
        "query" or "session".
    """

    name: ClassVar[str] = "eliminate"
    tries_all: ClassVar[bool] = True

    def __init__(
        self,
        order: Literal["index", "random"] = "index",
        reset: Literal["query", "session"] = "query",
    ) -> None:
        super().__init__(reset)
        if order not in ("index", "random"):
            raise ValueError(f'order must be "index" or "random", not {order!r}')
        self.order = order

    failures: np.ndarray
    """Answers below the acceptance level since all were last forgiven, int64 ``[X, K]``."""
    successes: np.ndarray
    """Accepted answers, int64 ``[X, K]``."""

    def forget(self) -> None:
        """Drop everything learned."""
        super().forget()
        self.failures = np.zeros(self.state_shape, dtype=np.int64)
        self.successes = np.zeros(self.state_shape, dtype=np.int64)
        self._shuffle()

    def new_query(self) -> None:
        """Say that another prompt begins."""
        super().new_query()
        if self.reset == "session":
            # Only games in which every expert failed: elsewhere the failed stay out.
            self.failures *= (self.failures == 0).any(axis=-1, keepdims=True)
            self._shuffle()

    def _shuffle(self) -> None:
        ranks_XK = np.broadcast_to(np.arange(self.num_experts), self.state_shape)
        if self.order == "random":
            ranks_XK = self.rng.permuted(ranks_XK, axis=-1)
        self._ranks_XK = ranks_XK

    @property
    def exhausted(self) -> bool:
        """Whether every expert has failed (in every game)."""
        return bool((self.failures > 0).all())

    def select(self) -> np.ndarray:
        """Return the next expert that has not failed in each game, int64 ``[X]``."""
        return np.lexsort((self._ranks_XK, -self.successes, self.failures), axis=-1)[..., 0]

    def learn(self, experts_X: npt.ArrayLike, rewards_X: npt.ArrayLike) -> None:
        """Learn the reward of one expert in each game, shapes ``[X]``."""
        super().learn(experts_X, rewards_X)
        picked_XK = self._picked(experts_X)
        right_X1 = (np.asarray(rewards_X) >= self.accept)[..., None]
        self.successes += picked_XK & right_X1
        self.failures += picked_XK & ~right_X1
