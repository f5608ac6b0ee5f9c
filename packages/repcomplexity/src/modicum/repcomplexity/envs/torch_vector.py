"""A batch of episodes on a device: tensors in, tensors out.

For as many episodes as fit the memory: a step is a few elementwise operations and never waits for
the device. Needs torch and no Gymnasium.

Shapes: B episodes.
"""

from __future__ import annotations

import secrets
from typing import Any

from modicum.core.device import resolve_device, torch_generator
from modicum.repcomplexity.envs.observations import Observer
from modicum.repcomplexity.envs.simulator import BatchSimulator, BatchState
from modicum.repcomplexity.mdp import BitMDP, as_codes

try:
    import torch
except ModuleNotFoundError as missing:
    raise ImportError(
        'TorchVecMDP needs torch: pip install "modicum-repcomplexity[torch]"'
    ) from missing

__all__ = ["TorchVecMDP"]


class TorchVecMDP:
    """B episodes of a process on one device.

    Episodes that ended begin anew in the next step, whose action is ignored and whose reward is 0,
    as in Gymnasium's ``AutoresetMode.NEXT_STEP``. The horizon of the process terminates an
    episode, since nothing can be earned after it.

    Parameters
    ----------
    mdp
        The process.
    num_envs
        B.
    device
        As for `modicum.core.device.resolve_device`.
    obs, pixel_size
        Mode and size of `modicum.repcomplexity.envs.observations.Observer`.
    max_episode_steps
        Steps after which an episode is truncated.
    seed
        Of first states and chance; from the system if None.

    Raises
    ------
    ValueError
        If an option is out of range or the device not here.
    """

    def __init__(
        self,
        mdp: BitMDP,
        num_envs: int,
        *,
        device: str | torch.device = "auto",
        obs: str = "bits",
        pixel_size: int = 8,
        max_episode_steps: int | None = None,
        seed: int | None = None,
    ):
        self.mdp, self.device = mdp, torch.device(resolve_device(device))
        self.observer = Observer(mdp, obs, pixel_size)
        self._simulator = BatchSimulator(mdp, num_envs, self._generator(seed), max_episode_steps)

    def _generator(self, seed: int | None) -> torch.Generator:
        return torch_generator(secrets.randbits(62) if seed is None else seed, self.device)

    @property
    def num_envs(self) -> int:
        """Number B of episodes."""
        return self._simulator.num_envs

    @property
    def codes(self) -> torch.Tensor:
        """States of the episodes, int64 ``(B,)``."""
        return self._simulator.state.codes

    @property
    def steps(self) -> torch.Tensor:
        """Steps taken since each episode began, int64 ``(B,)``."""
        return self._simulator.state.steps

    def reset(self, *, seed: int | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Begin all episodes anew.

        Returns
        -------
        observations : tensor
            ``(B, …)``.
        info : dict
            ``code``, int64 ``(B,)``.
        """
        self._simulator.reset(None if seed is None else self._generator(seed))
        return self._observe()

    def step(
        self, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Take a step in all episodes.

        Parameters
        ----------
        actions
            Integers ``(B,)`` in ``[0, A)`` on the device. On the CPU the range is checked;
            elsewhere it is not, since that would wait for the device.

        Returns
        -------
        observations : tensor
            ``(B, …)``: of a first state where the episode had ended.
        rewards : tensor
            float32 ``(B,)``.
        terminated, truncated : tensor
            bool ``(B,)``.
        info : dict
            ``code``, int64 ``(B,)``; the state itself, not to be changed in place.

        Raises
        ------
        ValueError
            If the shape is not ``(B,)``, or actions are no integers or seen to be out of range.
        """
        if actions.shape != (self.num_envs,):
            raise ValueError(
                f"actions must have shape ({self.num_envs},), not {tuple(actions.shape)}"
            )
        rewards, terminated, truncated = self._simulator.step(as_codes(actions))
        observations, info = self._observe()
        return observations, rewards, terminated, truncated, info

    def sample_actions(self) -> torch.Tensor:
        """Draw an action for every episode uniformly, int64 ``(B,)``."""
        return torch.randint(
            self.mdp.n_actions,
            (self.num_envs,),
            generator=self._simulator.rng,
            device=self.device,
        )

    def get_state(self) -> BatchState:
        """Return where the episodes stand; later steps do not change it."""
        return self._simulator.state

    def set_state(self, state: BatchState | Any, steps: Any = 0) -> None:
        """Go back to a state from `get_state`, or put the episodes into states of given codes.

        Parameters
        ----------
        state
            A `BatchState`; or codes ``(B,)`` or one for all.
        steps
            With codes: steps taken so far, ``(B,)`` or one for all.

        Raises
        ------
        ValueError
            If a code is no state or a number of steps negative.
        """
        if isinstance(state, BatchState):
            self._simulator.state = state
        else:
            self._simulator.set_state(state, steps)

    def clone(self) -> TorchVecMDP:
        """Return a copy that goes on by itself from the same states with the same chance."""
        copy = object.__new__(TorchVecMDP)
        copy.mdp, copy.device, copy.observer = self.mdp, self.device, self.observer
        source = self._simulator
        generator = torch.Generator(self.device)
        generator.set_state(source.rng.get_state())
        copy._simulator = BatchSimulator(
            self.mdp, source.num_envs, torch_generator(0, self.device), source.max_episode_steps
        )
        copy._simulator.rng, copy._simulator.state = generator, source.state
        return copy

    def _observe(self) -> tuple[torch.Tensor, dict[str, Any]]:
        seen = self.codes.clone() if self.observer.mode == "int" else self.codes
        return self.observer(seen), {"code": self.codes}
