"""Gymnasium: making environments, and their observations and actions as rows of numbers.

Flattens dictionaries and tuples and one-hot encodes discrete values as `gymnasium.spaces.flatten`
does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modicum.repcomplexity.experts import FunctionExpert

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:  # pragma: no cover
    raise ImportError('Gymnasium is missing: pip install "modicum-repcomplexity[envs]"') from error

__all__ = [
    "environment_id",
    "flatten",
    "flatten_rows",
    "make_environment",
    "n_actions",
    "named_environment",
    "random_expert",
    "registered",
]


def make_environment(name: str, **settings: Any) -> gymnasium.Env:
    """Return a new environment of a registered id.

    Those of this package are known under ``modicum/…``.

    Raises
    ------
    gymnasium.error.Error
        If there is none of that id, or what it needs is missing.
    """
    if name.startswith("modicum/"):
        from modicum.repcomplexity.envs.registration import register_all

        register_all()
    return gymnasium.make(name, **settings)


def named_environment(name: str, **settings: Any) -> gymnasium.Env:
    """Make an environment that a user named; what is wrong is said in built-in exceptions.

    Raises
    ------
    ValueError
        If there is none of that id, or it does not take the settings.
    ImportError
        If what it needs is missing.
    """
    try:
        return make_environment(name, **settings)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ImportError(
            f'{name} needs more: pip install "modicum-repcomplexity[mujoco]" for those of MuJoCo'
            f" ({error})"
        ) from error
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"environment {name}: {error}") from error


def registered(prefix: str) -> list[str]:
    """Return the ids of registered environments that begin with a prefix, in order."""
    from modicum.repcomplexity.envs.registration import register_all

    register_all()
    return sorted(name for name in gymnasium.registry if name.startswith(prefix))


def random_expert(environment: gymnasium.Env, seed: int) -> FunctionExpert:
    """Return an expert that draws actions uniformly; it has no critic."""
    space = environment.action_space
    space.seed(seed)

    def act(observations: Any, deterministic: bool) -> np.ndarray:
        rows = next(iter(observations.values())) if isinstance(observations, dict) else observations
        return np.stack([np.asarray(space.sample()) for _ in range(len(rows))])

    return FunctionExpert(act)


def environment_id(environment: Any) -> str:
    """Return the id under which an environment was made, else the name of its class."""
    spec = getattr(environment, "spec", None)
    return spec.id if spec is not None else type(environment.unwrapped).__name__


def flatten(space: spaces.Space, value: Any) -> np.ndarray:
    """Return one value of a space as a row of numbers, ``(d,)``.

    Raises
    ------
    ValueError
        If values of the space have no fixed number of dimensions.
    """
    if not space.is_np_flattenable:
        raise ValueError(f"values of the space {space} have no fixed number of dimensions")
    return np.asarray(spaces.flatten(space, value))


def flatten_rows(space: spaces.Space, values: Any) -> np.ndarray:
    """Return a sequence of values of a space as rows of numbers, ``(n, d)``."""
    if isinstance(space, spaces.Box):
        return np.asarray(values).reshape(len(values), -1)
    return np.stack([flatten(space, value) for value in values])


def n_actions(space: spaces.Space) -> int | None:
    """Return how many actions a discrete space has; None for any other."""
    return int(space.n) if isinstance(space, spaces.Discrete) else None
