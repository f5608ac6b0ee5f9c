"""A Gymnasium environment of one episode of a bit-level decision process."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from modicum.repcomplexity.envs.observations import Observer
from modicum.repcomplexity.envs.simulator import check_max_episode_steps
from modicum.repcomplexity.mdp import BitMDP

__all__ = ["BitMDPEnv", "EnvState", "observation_space"]


class EnvState(NamedTuple):
    """Where an episode stands."""

    code: int
    """The state."""
    steps: int
    """Steps taken since the episode began."""


def observation_space(observer: Observer) -> spaces.Space:
    """Return the Gymnasium space of an observer's observations."""
    if observer.mode == "bits":
        return spaces.MultiBinary(observer.shape[0])
    if observer.mode == "pixels":
        return spaces.Box(0, 255, observer.shape, np.uint8)
    return spaces.Discrete(1 << observer.mdp.n_state_bits)


def check_render_mode(render_mode: str | None) -> None:
    """Refuse an unknown render mode."""
    if render_mode not in (None, "ansi", "rgb_array"):
        raise ValueError(f"render_mode must be None, 'ansi' or 'rgb_array', not {render_mode}")


def draw(observer: Observer, code: int, render_mode: str) -> str | np.ndarray:
    """Return a state as text, or as a picture ``(height, width, 3)``."""
    codes = np.asarray(code)
    if render_mode == "ansi":
        return "".join(map(str, observer.mdp.observe(codes)))
    return observer.picture(codes).repeat(3, -1)


class BitMDPEnv(gymnasium.Env):
    """One episode of a process.

    The horizon of the process terminates the episode, since nothing can be earned after it;
    `max_episode_steps` truncates it. The step within the episode is no part of the observation;
    `info` has it.

    Parameters
    ----------
    mdp
        The process.
    obs, pixel_size
        Mode and size of `modicum.repcomplexity.envs.observations.Observer`.
    max_episode_steps
        Steps after which an episode is truncated.
    render_mode
        None, ``"ansi"`` (the bits as text) or ``"rgb_array"`` (the picture of them).

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        mdp: BitMDP,
        *,
        obs: str = "bits",
        pixel_size: int = 8,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ):
        check_render_mode(render_mode)
        check_max_episode_steps(max_episode_steps)
        self.mdp, self.max_episode_steps, self.render_mode = mdp, max_episode_steps, render_mode
        self.observer = Observer(mdp, obs, pixel_size)
        self.observation_space = observation_space(self.observer)
        self.action_space = spaces.Discrete(mdp.n_actions)
        self._state: EnvState | None = None
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Parameters
        ----------
        seed
            As in Gymnasium.
        options
            ``{"state": code}`` chooses the first state, which is drawn otherwise.

        Raises
        ------
        ValueError
            If the code is no state.
        """
        super().reset(seed=seed)
        if options and "state" in options:
            self.set_state(options["state"])
        else:
            self._state = EnvState(int(self.mdp.sample_states(1, self.np_random)[0]), 0)
            self._over = False
        return self._observe()

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises
        ------
        ValueError
            If it is none of the action space.
        gymnasium.error.ResetNeeded
            If no episode has begun or it is over.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action must be in [0, {self.mdp.n_actions}), not {action!r}")
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset")
        state = self.get_state()
        codes = np.array([state.code])
        reward = float(self.mdp.rewards(codes, int(action))[0])
        following = int(self.mdp.sample_next(codes, int(action), self.np_random)[0])
        self._state = EnvState(following, state.steps + 1)
        terminated, truncated = self._ends()
        self._over = terminated or truncated
        observation, info = self._observe()
        return observation, reward, terminated, truncated, info

    def get_state(self) -> EnvState:
        """Return where the episode stands, for `set_state`.

        Raises
        ------
        gymnasium.error.ResetNeeded
            If no episode has begun.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded("no episode has begun: call reset")
        return self._state

    def set_state(self, state: EnvState | int) -> None:
        """Go to a state from `get_state`, or to the state of a code at the start of an episode.

        Raises
        ------
        ValueError
            If the code is no state or the number of steps negative.
        """
        given = state if isinstance(state, EnvState) else EnvState(int(state), 0)
        if not bool(self.mdp.is_state(np.array([given.code]))[0]):
            raise ValueError(f"code {given.code} is no state of {self.mdp.name}")
        if given.steps < 0:
            raise ValueError(f"steps must not be negative, not {given.steps}")
        self._state = given
        self._over = any(self._ends())

    def clone(self) -> BitMDPEnv:
        """Return a copy that goes on by itself from the same state with the same chance."""
        other = copy.copy(self)
        if self._np_random is not None:
            other._np_random = copy.deepcopy(self._np_random)
        other.action_space = copy.deepcopy(self.action_space)
        other.observation_space = copy.deepcopy(self.observation_space)
        return other

    def render(self) -> Any:
        """Return the state as text or as a picture ``(height, width, 3)``, by `render_mode`."""
        code = self.get_state().code
        return None if self.render_mode is None else draw(self.observer, code, self.render_mode)

    def _ends(self) -> tuple[bool, bool]:
        code, steps = self.get_state()
        horizon = self.mdp.horizon
        terminated = horizon is not None and steps >= horizon
        if self.mdp.has_terminals and not terminated:
            terminated = bool(self.mdp.is_terminal(np.array([code]))[0])
        limit = self.max_episode_steps is not None and steps >= self.max_episode_steps
        return terminated, limit and not terminated

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        state = self.get_state()
        observation = self.observer(np.int64(state.code))
        return observation, {"code": state.code, "steps": state.steps}
