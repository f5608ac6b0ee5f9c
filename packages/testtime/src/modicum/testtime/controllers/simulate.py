"""Play controllers against given rewards, many games side by side.

Takes a controller and where rewards come from, and gives regret, plays and times of the first
success. It knows no prompts; a game plays all its rounds whether or not it has succeeded.

Legend: ``K`` experts, ``T`` rounds, ``R`` games, ``Q`` prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.core.device import numpy_generator
from modicum.testtime.controllers.base import Controller, VectorController

__all__ = ["ControllerStudy", "SessionStudy", "simulate_controller", "simulate_session"]

RewardTable = Callable[[np.random.Generator, int, int], npt.ArrayLike]
"""``(rng, round, num_runs) -> rewards_RK``: what every expert would earn in a round (from 1)."""


@dataclass(frozen=True)
class ControllerStudy:
    """What `simulate_controller` found.

    Attributes
    ----------
    controller
        The controller's settings in words.
    num_runs
        R, the number of games.
    regret_T, regret_se_T
        Mean cumulative regret after each round and its standard error, float64 ``[T]``.
    simple_regret, simple_regret_se
        Mean regret of an expert drawn uniformly from the rounds played, ``regret_T[-1] / T``.
    best_regret
        Mean regret of the expert with the best mean reward at the end (lowest index on ties).
    pulls_K
        Mean number of rounds in which each expert's answer counted, float64 ``[K]``.
    solved_T
        Share of the games with an accepted reward in or before each round, float64 ``[T]``.
    first_R
        Round of the first accepted reward in each game, int64 ``[R]``; T + 1 where there is none.
    choices_TR
        The expert whose answer counted in each round of each game, int64 ``[T, R]``.
    """

    controller: str
    num_runs: int
    regret_T: np.ndarray
    regret_se_T: np.ndarray
    simple_regret: float
    simple_regret_se: float
    best_regret: float
    pulls_K: np.ndarray
    solved_T: np.ndarray
    first_R: np.ndarray
    choices_TR: np.ndarray


@dataclass(frozen=True)
class SessionStudy:
    """What `simulate_session` found.

    Attributes
    ----------
    controller
        The controller's settings in words.
    num_runs
        R, the number of sessions.
    rounds_RQ
        Rounds played for each prompt, int64 ``[R, Q]``.
    solved_RQ
        Whether a round was accepted, bool ``[R, Q]``.
    """

    controller: str
    num_runs: int
    rounds_RQ: np.ndarray
    solved_RQ: np.ndarray


def simulate_controller(
    controller: Controller,
    rewards: npt.ArrayLike | RewardTable,
    rounds: int,
    runs: int,
    seed: int = 0,
    *,
    means: npt.ArrayLike | None = None,
    accept: float = 1.0,
) -> ControllerStudy:
    """Play independent games of one prompt each; the rewards take ``8 T R K`` bytes of memory.

    Parameters
    ----------
    controller
        Its settings; a started controller's state is not looked at. A `VectorController` plays all
        games at once, any other one after another.
    rewards
        Where rewards in [0, 1] come from: success probabilities ``[K]`` of independent binary
        rewards, a fixed table ``[T, K]`` (an oblivious adversary), or a function
        ``(rng, round, num_runs) -> rewards_RK``, called with the rounds 1 … T in order.
    rounds, runs
        T and R.
    seed
        Of the rewards and of the controller's choices, which use streams of their own.
    means
        Expected reward of each expert, ``[K]``, where `rewards` is a function. Regret is then
        counted in these, as it is for probabilities; without them, and for a table, in the rewards
        themselves, against the expert with the largest total over all games.
    accept
        Reward from which a round counts as a success.

    Raises
    ------
    ValueError
        If rewards are out of range or of a wrong shape, or a number is not positive.
    """
    if rounds < 1 or runs < 1:
        raise ValueError(f"rounds and runs must be at least 1, not {rounds!r} and {runs!r}")
    table, means_K = _reward_table(rewards, rounds, means)
    reward_rng = numpy_generator(seed, "rewards")
    tables_TRK = []
    for t in range(1, rounds + 1):
        rewards_RK = np.asarray(table(reward_rng, t, runs), dtype=np.float64)
        if rewards_RK.ndim != 2 or len(rewards_RK) != runs:
            raise ValueError(f"rewards must give shape ({runs}, K), not {rewards_RK.shape}")
        if not ((rewards_RK >= 0) & (rewards_RK <= 1)).all():
            raise ValueError(f"rewards must be in [0, 1]; round {t} has others")
        tables_TRK.append(rewards_RK)
    rewards_TRK = np.stack(tables_TRK)
    started = controller.start(rewards_TRK.shape[2], rounds, seed, accept=accept)
    if isinstance(started, VectorController):
        choices_TR = _play_side_by_side(started, rewards_TRK)
    else:
        choices_TR = _play_one_by_one(started, rewards_TRK, seed)
    return _study(controller, rewards_TRK, choices_TR, means_K, accept)


def _reward_table(
    rewards: npt.ArrayLike | RewardTable, rounds: int, means: npt.ArrayLike | None
) -> tuple[RewardTable, np.ndarray | None]:
    """Return the rewards as a function, and the experts' expected rewards where there are any."""
    if callable(rewards):
        return rewards, None if means is None else np.asarray(means, dtype=np.float64)
    if means is not None:
        raise ValueError("means= goes with a function of rewards; an array says them itself")
    given = np.asarray(rewards, dtype=np.float64)
    if given.ndim == 1:
        if not given.size or not ((given >= 0) & (given <= 1)).all():
            raise ValueError(f"success probabilities must be in [0, 1], not {rewards!r}")
        return (
            lambda rng, t, runs: (rng.random((runs, len(given))) < given).astype(np.float64),
            given,
        )
    if given.ndim != 2 or len(given) != rounds or not given.shape[1]:
        raise ValueError(f"a table of rewards must be of shape ({rounds}, K), not {given.shape}")
    return lambda rng, t, runs: np.broadcast_to(given[t - 1], (runs, given.shape[1])), None


def _play_side_by_side(started: VectorController, rewards_TRK: np.ndarray) -> np.ndarray:
    """Return the choices of all games, int64 ``[T, R]``."""
    games = started.side_by_side(rewards_TRK.shape[1])
    choices = []
    for rewards_RK in rewards_TRK:
        experts_R = games.select()
        choices.append(experts_R)
        if games.full_information:
            games.learn_all(rewards_RK)
        else:
            games.learn(experts_R, np.take_along_axis(rewards_RK, experts_R[:, None], 1)[:, 0])
    return np.stack(choices)


def _play_one_by_one(started: Controller, rewards_TRK: np.ndarray, seed: int) -> np.ndarray:
    """Return the choices of all games, int64 ``[T, R]``."""
    choices_TR = np.empty(rewards_TRK.shape[:2], dtype=np.int64)
    for run in range(rewards_TRK.shape[1]):
        game = started.restart(_seed_of(seed, run))
        for t, rewards_K in enumerate(rewards_TRK[:, run]):
            expert = choices_TR[t, run] = game.choose()
            if game.full_information:
                game.observe_all(rewards_K.tolist())
            else:
                game.observe(expert, float(rewards_K[expert]))
    return choices_TR


def _seed_of(seed: int, run: int) -> int:
    return int(numpy_generator(seed, "game", run).integers(2**62))


def _study(
    controller: Controller,
    rewards_TRK: np.ndarray,
    choices_TR: np.ndarray,
    means_K: np.ndarray | None,
    accept: float,
) -> ControllerStudy:
    rounds, runs, num_experts = rewards_TRK.shape
    earned_TR = np.take_along_axis(rewards_TRK, choices_TR[..., None], 2)[..., 0]
    worth_TRK = rewards_TRK if means_K is None else np.broadcast_to(means_K, rewards_TRK.shape)
    best = int(worth_TRK.sum(axis=(0, 1)).argmax())
    lost_TR = worth_TRK[..., best] - np.take_along_axis(worth_TRK, choices_TR[..., None], 2)[..., 0]
    regret_TR = lost_TR.cumsum(axis=0)
    # With one game there is no spread to estimate the error from.
    se_T = regret_TR.std(axis=1, ddof=1) / np.sqrt(runs) if runs > 1 else np.full(rounds, np.nan)
    picked_TRK = choices_TR[..., None] == np.arange(num_experts)
    pulls_RK = picked_TRK.sum(axis=0)
    if controller.full_information:
        averages_RK = rewards_TRK.mean(axis=0)
    else:
        averages_RK = (picked_TRK * rewards_TRK).sum(axis=0) / np.maximum(pulls_RK, 1)
    mean_worth_RK = worth_TRK.mean(axis=0)
    advised_R1 = averages_RK.argmax(axis=1)[:, None]
    best_regret = mean_worth_RK[:, best] - np.take_along_axis(mean_worth_RK, advised_R1, 1)[:, 0]
    right_TR = earned_TR >= accept
    first_R = np.where(right_TR.any(axis=0), right_TR.argmax(axis=0) + 1, rounds + 1)
    return ControllerStudy(
        controller=repr(controller),
        num_runs=runs,
        regret_T=regret_TR.mean(axis=1),
        regret_se_T=se_T,
        simple_regret=float(regret_TR[-1].mean() / rounds),
        simple_regret_se=float(se_T[-1] / rounds),
        best_regret=float(best_regret.mean()),
        pulls_K=pulls_RK.mean(axis=0),
        solved_T=(first_R <= np.arange(1, rounds + 1)[:, None]).mean(axis=1),
        first_R=first_R,
        choices_TR=choices_TR,
    )


def simulate_session(
    controller: Controller,
    reward: Callable[[np.random.Generator, Any, int], float],
    num_experts: int,
    *,
    queries: int,
    rounds: int,
    runs: int,
    seed: int = 0,
    accept: float = 1.0,
    task: Callable[[np.random.Generator], Any] | None = None,
) -> SessionStudy:
    """Play sessions: prompts one after another, each until a reward is accepted or rounds are out.

    Parameters
    ----------
    controller
        With ``reset="query"`` or ``"session"``; full-information ones are refused.
    reward
        ``(rng, task, expert) -> reward`` in [0, 1] of one answer of an expert.
    num_experts, queries, rounds, runs
        K, Q, T and R.
    seed
        Of tasks, rewards and choices.
    accept
        Reward from which an answer ends the prompt.
    task
        Draws the unknown task of a session (which expert is right, say); its result is what
        `reward` is given. None: the task is None.

    Raises
    ------
    ValueError
        If a number is not positive or the controller wants full information.
    """
    for name, number in (("queries", queries), ("rounds", rounds), ("runs", runs)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number!r}")
    if controller.full_information:
        raise ValueError(
            f"{type(controller).__name__} lets all experts answer each round; sessions are"
            " simulated for controllers that play one"
        )
    started = controller.start(num_experts, rounds, seed, accept=accept)
    rounds_RQ = np.zeros((runs, queries), dtype=np.int64)
    solved_RQ = np.zeros((runs, queries), dtype=bool)
    for run in range(runs):
        rng = numpy_generator(seed, "session", run)
        state = None if task is None else task(rng)
        session = started.restart(_seed_of(seed, run))
        for query in range(queries):
            if query:
                session.new_query()
            while rounds_RQ[run, query] < rounds and not session.exhausted:
                expert = session.choose()
                earned = reward(rng, state, expert)
                session.observe(expert, earned)
                rounds_RQ[run, query] += 1
                if earned >= accept:
                    solved_RQ[run, query] = True
                    break
    return SessionStudy(repr(controller), runs, rounds_RQ, solved_RQ)
