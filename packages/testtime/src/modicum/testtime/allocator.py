"""Shares out one budget of samples over the prompts of a data set.

An `Allocator` is given to a run (``strategy.run(prompts, scheduler=Allocator(2000))``). Round by
round it says how many samples each unfinished prompt may draw, by what is known of its two leading
answers; a prompt that its own stopping rule has finished leaves. It draws nothing itself.

Legend: ``B`` prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from modicum.testtime.stopping.base import check_count
from modicum.testtime.stopping.evidence import beta_confidence, log_e_pair
from modicum.testtime.tasks import PromptTask

__all__ = ["Allocator", "need"]

Policy = Literal["uniform", "adaptive"]


def need(
    leader_B: npt.ArrayLike, runner_up_B: npt.ArrayLike, spent_share: float
) -> NDArray[np.float64]:
    """Return how much prompts need further samples, float64 ``[B]`` in (0, 1].

    Parameters
    ----------
    leader_B, runner_up_B
        Samples of the two most frequent answers of each prompt.
    spent_share
        b, the share of the budget that is spent.

    Notes
    -----
    ``(1 - b) (1 - confidence) + b exp(-max(0, log E))``: early on the Beta posterior that the
    runner-up is the likelier answer, later the evidence against a tie, which falls more slowly. The
    blend is after Blend-ASC, arXiv 2511.12309.
    """
    doubt_B = 1 - beta_confidence(leader_B, runner_up_B)
    tie_B = np.exp(-np.maximum(0.0, log_e_pair(leader_B, runner_up_B)))
    return np.asarray((1 - spent_share) * doubt_B + spent_share * tie_B, dtype=np.float64)


class Allocator:
    """A budget of samples for a whole data set, spent where answers are in doubt.

    Parameters
    ----------
    total_budget
        Samples of the whole run, exactly as many unless all prompts finish before. Those taken
        from a log count.
    policy
        "adaptive" gives to the prompts of the highest `need`, "uniform" to those with the fewest
        samples.
    wave
        Samples that a prompt is given at a time.
    share
        Share of the unfinished prompts that a round gives to. Smaller is closer to one decision
        per sample; larger makes larger batches.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Notes
    -----
    Prompts without samples are in the greatest doubt and come first, so with a budget of at least
    ``wave`` samples per prompt each gets some. Ties go to the prompt with the fewest samples, then
    to the earlier one: the allocation depends on the samples alone. One allocator serves one run
    at a time.
    """

    def __init__(
        self,
        total_budget: int,
        *,
        policy: Policy = "adaptive",
        wave: int = 4,
        share: float = 0.25,
    ) -> None:
        if policy not in ("uniform", "adaptive"):
            raise ValueError(f"policy must be 'uniform' or 'adaptive', not {policy!r}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], not {share!r}")
        self.total_budget = check_count("total_budget", total_budget)
        self.policy = policy
        self.wave = check_count("wave", wave)
        self.share = share
        self.spent = 0

    def begin(self) -> None:
        """Take note that a run begins."""
        self.spent = 0

    def grants(self, tasks: Sequence[PromptTask], remaining: int | None = None) -> list[int]:
        """Return how many samples each unfinished prompt may draw in this round.

        Parameters
        ----------
        tasks
            Unfinished tasks; they tell ``drawn``, ``cap`` and ``leading()``.
        remaining
            What the run's own budget leaves, None without one.

        Returns
        -------
        list of int
            All 0 once the budget is spent.
        """
        left = self.total_budget - self.spent
        if remaining is not None:
            left = min(left, remaining)
        granted = [0] * len(tasks)
        served = math.ceil(self.share * len(tasks))
        for position in self._order(tasks)[:served]:
            task: Any = tasks[position]
            granted[position] = min(self.wave, task.cap - task.drawn, left)
            left -= granted[position]
        self.spent += sum(granted)
        return granted

    def _order(self, tasks: Sequence[Any]) -> NDArray[np.int64]:
        """Return the positions of the tasks, those in the greatest need first."""
        drawn_B = np.array([task.drawn for task in tasks], dtype=np.int64)
        if self.policy == "uniform":
            return np.argsort(drawn_B, kind="stable")
        leading_B2 = np.array([task.leading() for task in tasks], dtype=np.float64).reshape(-1, 2)
        spent_share = self.spent / self.total_budget
        need_B = need(leading_B2[:, 0], leading_B2[:, 1], spent_share)
        return np.lexsort((drawn_B, -need_B))
