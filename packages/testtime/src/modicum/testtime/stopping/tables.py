"""Boundaries in the two largest counts as integer tables.

A rule that depends only on the votes of the leader and of the runner-up is a table ``n1_min[n2]``:
it stops as soon as the leader has ``n1_min[n2]`` votes. Tables are computed once, by bisection of
the exact formula, and shared by all prompts; a look-up costs nothing. Knows no prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from modicum.testtime.stopping.base import StoppingRule, check_count
from modicum.testtime.stopping.evidence import beta_confidence, log_e_pair

__all__ = ["Boundary", "StopTable", "beta_boundary", "least_pairs", "pair_boundary"]

FIRST_SIZE = 64
LARGEST_SIZE = 1 << 16
"""Entries that a `Boundary` keeps; beyond them it bisects for each look-up."""


def least_leader(
    reached: Callable[[np.ndarray, np.ndarray], np.ndarray], runner_up: npt.ArrayLike
) -> np.ndarray:
    """Return the least votes of the leader at which a rule stops.

    Parameters
    ----------
    reached
        Function of (leader, runner-up), both float64 ``[M]``, to bool ``[M]``: whether the rule
        stops. Once true it stays true as the leader's votes grow, and it is false where the leader
        has no more votes than the runner-up.
    runner_up
        Votes of the runner-up, ``[M]``.

    Returns
    -------
    ndarray, int64
        ``[M]``.
    """
    second_M = np.asarray(runner_up, dtype=np.float64)
    not_yet_M = second_M.copy()
    step_M = np.ones_like(second_M)
    while True:
        below_M = ~reached(not_yet_M + step_M, second_M)
        if not below_M.any():
            break
        not_yet_M = np.where(below_M, not_yet_M + step_M, not_yet_M)
        step_M = np.where(below_M, 2 * step_M, step_M)
    # The least lies in (not_yet, not_yet + step].
    enough_M = not_yet_M + step_M
    while np.any(enough_M - not_yet_M > 1):
        middle_M = np.floor((not_yet_M + enough_M) / 2)
        there_M = reached(middle_M, second_M) & (middle_M > not_yet_M)
        enough_M = np.where(there_M, middle_M, enough_M)
        not_yet_M = np.where(there_M, not_yet_M, middle_M)
    return enough_M.astype(np.int64)


class Boundary:
    """A table ``n1_min[n2]`` that grows as it is asked for more.

    Parameters
    ----------
    reached
        As in `least_leader`.
    """

    def __init__(self, reached: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._reached = reached
        self._least: list[int] = []

    def __getitem__(self, runner_up: int) -> int:
        """Return the least votes of the leader against so many of the runner-up."""
        if runner_up < len(self._least):
            return self._least[runner_up]
        if runner_up >= LARGEST_SIZE:
            return int(least_leader(self._reached, np.array([runner_up]))[0])
        self._grow(max(FIRST_SIZE, 1 << runner_up.bit_length()))
        return self._least[runner_up]

    def table(self, size: int) -> np.ndarray:
        """Return the first entries, int64, shape ``[size]``."""
        check_count("size", size)
        if size <= LARGEST_SIZE:
            self._grow(size)
            return np.array(self._least[:size], dtype=np.int64)
        return least_leader(self._reached, np.arange(size))

    def _grow(self, size: int) -> None:
        have = self._least
        if size > len(have):
            # A new list, so that threads which grow it at once leave it whole.
            self._least = have + least_leader(self._reached, np.arange(len(have), size)).tolist()


def _pair_reached(
    log_threshold: npt.ArrayLike, two_sided: bool, leader: np.ndarray, runner_up: np.ndarray
) -> np.ndarray:
    # The two-sided form is as large when the runner-up leads.
    return (log_e_pair(leader, runner_up, two_sided) >= log_threshold) & (leader > runner_up)


def _beta_reached(conf: float, leader: np.ndarray, runner_up: np.ndarray) -> np.ndarray:
    return beta_confidence(leader, runner_up) >= conf


def least_pairs(log_threshold: npt.ArrayLike, runner_up: npt.ArrayLike) -> np.ndarray:
    """Return where `log_e_pair` reaches a threshold of its own for each of many pairs.

    Parameters
    ----------
    log_threshold
        Positive thresholds, ``[M]``.
    runner_up
        Votes of the runners-up, ``[M]``.

    Returns
    -------
    ndarray, int64
        Least votes of the leaders, ``[M]``; the entries of `pair_boundary` without the tables.
    """
    return least_leader(partial(_pair_reached, log_threshold, False), runner_up)


@lru_cache(maxsize=4096)
def pair_boundary(log_threshold: float, two_sided: bool = False) -> Boundary:
    """Return where ``log_e_pair(leader, runner_up)`` reaches a positive threshold; shared."""
    return Boundary(partial(_pair_reached, log_threshold, two_sided))


@lru_cache(maxsize=256)
def beta_boundary(conf: float) -> Boundary:
    """Return where ``beta_confidence(leader, runner_up)`` reaches a level above 1/2; shared."""
    return Boundary(partial(_beta_reached, conf))


class StopTable:
    """One rule's boundary for many prompts at once.

    Parameters
    ----------
    rule
        A rule with a `StoppingRule.table`.
    size
        Votes of a runner-up for which the table is made at first; it grows by itself.

    Raises
    ------
    TypeError
        If the rule has no table.

    Examples
    --------
    >>> from modicum.testtime.stopping.ppr import PPR
    >>> StopTable(PPR(delta=0.05, num_answers=2), 8).stop([7, 9, 10], [0, 1, 1])
    array([ True, False,  True])
    """

    def __init__(self, rule: StoppingRule, size: int = 256) -> None:
        self.rule = rule
        self.least_N = rule.table(check_count("size", size))

    def stop(self, leader: npt.ArrayLike, runner_up: npt.ArrayLike) -> np.ndarray:
        """Say for every prompt whether the rule stops.

        Parameters
        ----------
        leader, runner_up : array_like, int
            Votes of the leader and of the runner-up, ``[B]``.

        Returns
        -------
        ndarray, bool
            ``[B]``.

        Raises
        ------
        TypeError
            If the counts are not integers.
        ValueError
            If a count is negative or a runner-up has more votes than its leader.
        """
        first_B, second_B = np.asarray(leader), np.asarray(runner_up)
        for name, counts_B in (("leader", first_B), ("runner_up", second_B)):
            if not np.issubdtype(counts_B.dtype, np.integer):
                raise TypeError(f"{name} must hold integer counts, not {counts_B.dtype}")
        if np.any(second_B < 0) or np.any(second_B > first_B):
            raise ValueError("counts must satisfy 0 <= runner_up <= leader for every prompt")
        most = int(second_B.max(initial=0))
        if most >= len(self.least_N):
            self.least_N = self.rule.table(2 * most)
        return first_B >= self.least_N[second_B]
