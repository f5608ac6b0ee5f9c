"""stable-baselines3: trained models as experts.

SAC, TD3 and DDPG have critics of state and action, whose actions are scaled to [−1, 1] inside; DQN
has a value of every action; PPO and A2C know V(s) only. A soft critic (SAC) counts the entropy of
the policy as reward, so that its values are no returns of rewards.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modicum.core.device import numpy_generator, torch_generator

try:
    import stable_baselines3
except ImportError as error:  # pragma: no cover
    raise ImportError(
        'stable-baselines3 is missing: pip install "modicum-repcomplexity[sb3]"'
    ) from error

__all__ = ["ALGORITHMS", "ActorCriticExpert", "DQNExpert", "SB3Expert", "ValueExpert", "load"]


class SB3Expert:
    """What the models of all algorithms have in common.

    Parameters
    ----------
    model
        A model of stable-baselines3.
    vec_normalize
        The `VecNormalize` the model was trained within, whose statistics its observations need.
    fingerprint
        What tells this model from others.
    """

    def __init__(self, model: Any, vec_normalize: Any = None, fingerprint: str | None = None):
        if vec_normalize is None:
            vec_normalize = model.get_vec_normalize_env()
        self.model, self.vec_normalize = model, vec_normalize
        self.fingerprint = fingerprint or type(model).__name__
        self.n_parameters = _count(self._critic())
        self.seed(0)

    def seed(self, number: int) -> None:
        """Start the exploration anew; the global generators are left as they are."""
        self._state = torch_generator(number, "cpu", "expert").get_state()
        self._rng = numpy_generator(number, "expert")

    def act(self, observations: Any, deterministic: bool) -> np.ndarray:
        """Return actions ``(B, …)``."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self._state)
        try:
            actions, _ = self.model.predict(
                self._normalised(observations), deterministic=deterministic
            )
            self._state = torch.get_rng_state()
        finally:
            torch.set_rng_state(outside)
        return actions

    def _critic(self) -> Any:
        raise NotImplementedError

    def _normalised(self, observations: Any) -> Any:
        if self.vec_normalize is None:
            return observations
        return self.vec_normalize.normalize_obs(observations)

    def _tensor(self, observations: Any) -> Any:
        return self.model.policy.obs_to_tensor(self._normalised(observations))[0]


class ActorCriticExpert(SB3Expert):
    """SAC, TD3 or DDPG."""

    def _critic(self) -> Any:
        return self.model.critic

    def q(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """Return Q(s, a) of each head, ``(B, k)``, of actions as the environment takes them."""
        scaled = self.model.policy.scale_action(np.asarray(actions, dtype=np.float32))
        with torch.no_grad():
            heads = self.model.critic(
                self._tensor(observations), torch.as_tensor(scaled, device=self.model.device)
            )
        return torch.cat(heads, dim=1).cpu().numpy().astype(np.float64)


class DQNExpert(SB3Expert):
    """DQN: explores with the rate of the end of its training."""

    def _critic(self) -> Any:
        return self.model.q_net

    def act(self, observations: Any, deterministic: bool) -> np.ndarray:
        """Return actions, int64 ``(B,)``."""
        actions = self.q_all(observations).argmax(1)
        if deterministic:
            return actions
        drawn = self._rng.integers(0, int(self.model.action_space.n), len(actions))
        explores = self._rng.random(len(actions)) < self.model.exploration_rate
        return np.where(explores, drawn, actions)

    def q_all(self, observations: Any) -> np.ndarray:
        """Return Q(s, ·), ``(B, m)``."""
        with torch.no_grad():
            values = self.model.q_net(self._tensor(observations))
        return values.cpu().numpy().astype(np.float64)

    def q(self, observations: Any, actions: np.ndarray) -> np.ndarray:
        """Return Q(s, a), ``(B, 1)``."""
        index = np.asarray(actions, dtype=np.int64).reshape(-1, 1)
        return np.take_along_axis(self.q_all(observations), index, 1)

    def value(self, observations: Any) -> np.ndarray:
        """Return the greatest value, ``(B,)``."""
        return self.q_all(observations).max(1)


class ValueExpert(SB3Expert):
    """PPO or A2C: no values of actions, but V(s) of the policy."""

    def _critic(self) -> Any:
        return self.model.policy.value_net

    def value(self, observations: Any) -> np.ndarray:
        """Return V(s), ``(B,)``."""
        with torch.no_grad():
            values = self.model.policy.predict_values(self._tensor(observations))
        return values.cpu().numpy().astype(np.float64)[:, 0]


ALGORITHMS: dict[str, type[SB3Expert]] = {
    "SAC": ActorCriticExpert,
    "TD3": ActorCriticExpert,
    "DDPG": ActorCriticExpert,
    "DQN": DQNExpert,
    "PPO": ValueExpert,
    "A2C": ValueExpert,
}
"""Which kind of expert a model of each algorithm is."""


def load(
    model: str | os.PathLike[str] | Any,
    algo: str | None = None,
    *,
    vec_normalize: Any = None,
    device: str = "cpu",
) -> SB3Expert:
    """Return an expert of a saved model, or of a model that is in memory.

    stable-baselines3 reads saved models with pickle: load only files you trust.

    Parameters
    ----------
    model
        Path of a file that ``model.save`` wrote, or a model.
    algo
        One of `ALGORITHMS`; found by itself for a model in memory.
    vec_normalize
        The `VecNormalize` the model was trained within. A file of a model does not hold it, and
        without it the actions of such a model mean nothing.
    device
        Where a saved model is put.

    Raises
    ------
    ValueError
        If the algorithm is unknown.
    """
    is_path = isinstance(model, str | os.PathLike)
    name = algo if is_path else type(model).__name__
    if name is None or name.upper() not in ALGORITHMS:
        raise ValueError(f"algo must be one of {', '.join(ALGORITHMS)}, not {name!r}")
    kind = ALGORITHMS[name.upper()]
    if not is_path:
        return kind(model, vec_normalize)
    path = Path(model)
    if not path.exists() and path.suffix != ".zip":
        path = path.with_name(path.name + ".zip")
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    loaded = getattr(stable_baselines3, name.upper()).load(path, device=device)
    return kind(loaded, vec_normalize, f"{name.upper()}:{digest}")


def _count(module: torch.nn.Module) -> int:
    return sum(values.numel() for values in module.parameters())
