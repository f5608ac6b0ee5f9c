"""A Gymnasium vector environment whose episodes move together in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from modicum.repcomplexity.envs.environment import (
    BitMDPEnv,
    check_render_mode,
    draw,
    observation_space,
)
from modicum.repcomplexity.envs.observations import Observer
from modicum.repcomplexity.envs.simulator import BatchSimulator, BatchState
from modicum.repcomplexity.mdp import BitMDP

__all__ = ["BitMDPVectorEnv"]


class BitMDPVectorEnv(VectorEnv):
    """B episodes of a process, with ``AutoresetMode.NEXT_STEP``.

    Parameters
    ----------
    mdp
        The process.
    num_envs
        B.
    obs, pixel_size
        Mode and size of `modicum.repcomplexity.envs.observations.Observer`.
    max_episode_steps
        Steps after which an episode is truncated.
    render_mode
        None, ``"ansi"`` or ``"rgb_array"``, as for `BitMDPEnv`; `render` gives one for each
        episode.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    metadata = {  # noqa: RUF012
        **BitMDPEnv.metadata,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        mdp: BitMDP,
        num_envs: int = 1,
        *,
        obs: str = "bits",
        pixel_size: int = 8,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ):
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.mdp, self.observer = mdp, Observer(mdp, obs, pixel_size)
        self._simulator = BatchSimulator(mdp, num_envs, self.np_random, max_episode_steps)
        self.num_envs = self._simulator.num_envs
        self.single_observation_space = observation_space(self.observer)
        self.single_action_space = spaces.Discrete(mdp.n_actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes anew; ``options={"state": codes}`` chooses the first states.

        Raises
        ------
        ValueError
            If a code is no state.
        """
        super().reset(seed=seed, options=options)
        self._simulator.reset(self.np_random)
        if options and "state" in options:
            self.set_state(options["state"])
        return self._observe()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in all episodes; those that had ended begin anew.

        Raises
        ------
        ValueError
            If the actions are not B numbers of the action space.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},), not {actions.shape}")
        rewards, terminated, truncated = self._simulator.step(actions)
        observations, info = self._observe()
        return observations, rewards, terminated, truncated, info

    def render(self) -> tuple[Any, ...] | None:
        """Return the states as texts or as pictures ``(height, width, 3)``, by `render_mode`."""
        if self.render_mode is None:
            return None
        codes = self._simulator.state.codes
        return tuple(draw(self.observer, code, self.render_mode) for code in codes)

    def get_state(self) -> BatchState:
        """Return where the episodes stand; later steps do not change it."""
        return self._simulator.state

    def set_state(self, state: BatchState | Any, steps: Any = 0) -> None:
        """Go back to a state from `get_state`, or put the episodes into states of given codes.

        `steps` are those taken so far, with codes only. Codes and steps are ``(B,)`` or one for
        all.

        Raises
        ------
        ValueError
            If a code is no state or a number of steps negative.
        """
        if isinstance(state, BatchState):
            self._simulator.state = state
        else:
            self._simulator.set_state(state, steps)

    def _observe(self) -> tuple[Any, dict[str, Any]]:
        state, everywhere = self._simulator.state, np.ones(self.num_envs, dtype=bool)
        # Copies, so that whoever changes them in place does not move the episodes.
        info = {
            "code": state.codes.copy(),
            "_code": everywhere,
            "steps": state.steps.copy(),
            "_steps": everywhere.copy(),
        }
        return self.observer(state.codes.copy()), info
