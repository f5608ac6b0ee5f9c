"""Acting in an environment to gather rollouts, and drawing rows of a bit-level process.

`collect` takes any environment with Gymnasium's ``reset`` and ``step``, or the id of one, and an
expert. `sample_bit_mdp` draws independent rows with exact values of all actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import ProgressTask
from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.data import RolloutData
from modicum.repcomplexity.experts import Critic, Expert, expected_values
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import Solution, solve

__all__ = ["collect", "sample_bit_mdp"]

_BATCH = 4096
"""Rows for which an expert's values are asked at once."""
_MOST_PAIRS = 1 << 26

Progress = Callable[[float | None, str], ProgressTask]
"""Opens a bar of so many steps with a description."""


def collect(
    environment: Any,
    expert: Expert,
    n_steps: int,
    *,
    deterministic: bool = False,
    seed: int = 0,
    gamma: float = 0.99,
    whole_episodes: bool = False,
    progress: Progress | None = None,
) -> RolloutData:
    """Let an expert act for a number of steps.

    Parameters
    ----------
    environment
        A Gymnasium environment, or the id of one, which is then made and closed. An environment
        must not normalise observations by itself: the networks would see other numbers than the
        process has.
    expert
        What acts. Its critic's values of each step are kept, if it has any, and what it would do
        without exploration.
    n_steps
        Rows to gather; the last episode may be cut off.
    deterministic
        Whether the expert acts without exploration. Values Q(s, a) of such an expert are seen as a
        function of s alone.
    seed
        Of the environment, and of an expert that has ``seed``.
    gamma
        Discount factor of the expert's critic.
    whole_episodes
        Leaves out the last episode where it was cut off, as `RolloutData.whole_episodes` does:
        returns of an expert without values need that.
    progress
        Opens a progress bar, as `modicum.core.experiment.RunContext.progress` does.

    Raises
    ------
    ValueError
        If `n_steps` is less than 1, an observation is not finite, or no episode is whole.
    ImportError
        If Gymnasium is not installed.
    """
    from modicum.repcomplexity.integrations import gymnasium as spaces

    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, not {n_steps}")
    if isinstance(environment, str):
        made = spaces.make_environment(environment)
        try:
            return collect(
                made,
                expert,
                n_steps,
                deterministic=deterministic,
                seed=seed,
                gamma=gamma,
                whole_episodes=whole_episodes,
                progress=progress,
            )
        finally:
            made.close()
    if hasattr(expert, "seed"):
        expert.seed(seed)
    rows = _act(environment, expert, n_steps, deterministic, seed, progress)
    n_actions = spaces.n_actions(environment.action_space)
    actions: Any = np.asarray(rows["actions"])
    policy = _in_batches(lambda states: expert.act(states, True), rows["observations"])
    if n_actions is None:
        actions = spaces.flatten_rows(environment.action_space, rows["actions"])
        policy = spaces.flatten_rows(environment.action_space, policy)
    else:
        # Gymnasium counts from the space's start, one-hot rows from 0.
        actions, policy = actions - environment.action_space.start, policy
        policy = policy - environment.action_space.start
    info = {
        "env_id": spaces.environment_id(environment),
        "expert": getattr(expert, "fingerprint", type(expert).__name__),
        "deterministic": deterministic,
        "seed": seed,
        "critic_parameters": getattr(expert, "n_parameters", None),
    }
    data = RolloutData.from_arrays(
        spaces.flatten_rows(environment.observation_space, rows["observations"]),
        actions,
        rows["rewards"],
        spaces.flatten_rows(environment.observation_space, rows["next_observations"]),
        rows["terminated"],
        rows["truncated"],
        n_actions=n_actions,
        gamma=gamma,
        info=info,
        policy=policy,
        **_values(expert, rows, deterministic),
    )
    return data.whole_episodes() if whole_episodes else data


def sample_bit_mdp(
    mdp: BitMDP,
    n: int,
    *,
    seed: int = 0,
    distinct: bool = False,
    solution: Solution | None = None,
) -> RolloutData:
    """Draw independent rows of a process: uniform states and actions, one step each.

    Observations are bits, 0 and 1. Every row is an episode of its own.

    Parameters
    ----------
    mdp
        The process.
    n
        Rows.
    seed
        Where they come from.
    distinct
        Draws no state and action twice, so that held-out rows are new ones.
    solution
        Values at the step that is meant; those of step 1 by default, by the closed form where there
        is one.

    Raises
    ------
    ValueError
        If there are not `n` distinct rows, or `n` is less than 1.
    ComplexityLimitError
        If distinct rows are asked for of a process that is too large for that.
    """
    rng = numpy_generator(seed, "rows")
    states, actions = _pairs(mdp, n, distinct, rng)
    codes = np.asarray(mdp.codes_of(states))
    following = np.asarray(mdp.sample_next(codes, actions, rng))
    if solution is None and mdp.has_closed_form:
        per_action = [mdp.optimal_q(codes, action) for action in range(mdp.n_actions)]
        exact = np.stack([np.asarray(values, dtype=np.float64) for values in per_action], axis=1)
    else:
        solution = solve(mdp) if solution is None else solution
        exact = np.asarray(solution.Q, dtype=np.float64)[states]
    ended = np.zeros(n, dtype=bool)
    if mdp.has_terminals:
        ended = np.asarray(mdp.is_terminal(following), dtype=bool)
    return RolloutData.from_arrays(
        mdp.observe(codes),
        actions,
        np.asarray(mdp.rewards(codes, actions), dtype=np.float64),
        mdp.observe(following),
        ended,
        ~ended,
        n_actions=mdp.n_actions,
        gamma=mdp.gamma,
        info={"env_id": mdp.name, "seed": seed},
        exact_q=exact[np.arange(n), actions],
        exact_q_actions=exact,
        policy=exact.argmax(1),
    )


def _pairs(
    mdp: BitMDP, n: int, distinct: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    pairs = mdp.n_states * mdp.n_actions
    if not distinct:
        drawn = rng.integers(0, pairs, n)
    else:
        check_limit(
            "the number of states and actions",
            pairs,
            _MOST_PAIRS,
            cost=f"{pairs / 2**27:,.1f} GiB",
            alternative="draw with distinct=False: repetitions are rare among so many",
        )
        if n > pairs:
            raise ValueError(f"there are {pairs} distinct rows, not {n}")
        drawn = rng.choice(pairs, n, replace=False)
    return drawn // mdp.n_actions, drawn % mdp.n_actions


def _act(
    environment: Any,
    expert: Expert,
    n_steps: int,
    deterministic: bool,
    seed: int,
    progress: Progress | None,
) -> dict[str, list[Any]]:
    names = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    bar = progress(n_steps, "collecting") if progress is not None else None
    state, _ = environment.reset(seed=seed)
    for _ in range(n_steps):
        action = expert.act(_stack([state]), deterministic)[0]
        following, reward, terminated, truncated, _ = environment.step(action)
        row = (state, action, float(reward), following, bool(terminated), bool(truncated))
        for name, value in zip(names, row, strict=True):
            rows[name].append(value)
        state = environment.reset()[0] if terminated or truncated else following
        if bar is not None:
            bar.advance()
    return rows


def _values(expert: Any, rows: dict[str, list[Any]], deterministic: bool) -> dict[str, Any]:
    """Return what the expert expects at each row, as arguments of `RolloutData.from_arrays`."""
    found: dict[str, Any] = {}
    states, following, actions = rows["observations"], rows["next_observations"], rows["actions"]
    for name, batch in (("values", states), ("next_values", following)):
        if hasattr(expert, "value") or isinstance(expert, Critic):
            found[name] = _in_batches(
                lambda part: expected_values(expert, part, deterministic), batch
            )
    if isinstance(expert, Critic):
        found["q"] = _in_batches(expert.q, states, actions)
        found["next_q_same_action"] = _in_batches(expert.q, following, actions)[:, 0]
    return found


def _in_batches(function: Callable[..., Any], *columns: Sequence[Any]) -> np.ndarray:
    parts = [
        np.asarray(function(*(_stack(column[first : first + _BATCH]) for column in columns)))
        for first in range(0, len(columns[0]), _BATCH)
    ]
    return np.concatenate(parts)


def _stack(values: Sequence[Any]) -> Any:
    """Return a batch of arrays, or of dictionaries or tuples of arrays."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _stack([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(_stack(parts) for parts in zip(*values, strict=True))
    return np.stack([np.asarray(value) for value in values])
