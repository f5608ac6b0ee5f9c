"""Minari: the episodes of a data set as the arrays of a measurement."""

from __future__ import annotations

from typing import Any

import numpy as np

from modicum.repcomplexity.integrations.gymnasium import flatten_rows

try:
    import minari
except ImportError as error:  # pragma: no cover
    raise ImportError('Minari is missing: pip install "modicum-repcomplexity[minari]"') from error

__all__ = ["read_dataset"]


def read_dataset(dataset: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rows of all episodes, and where they come from.

    Parameters
    ----------
    dataset
        A `minari.MinariDataset`, or the id of one that is on this machine.

    Returns
    -------
    arrays
        Arguments of `RolloutData.from_arrays`.
    info
        ``env_id`` and ``dataset``.

    Raises
    ------
    ValueError
        If the data set has no steps.
    """
    if isinstance(dataset, str):
        dataset = minari.load_dataset(dataset)
    parts: dict[str, list[np.ndarray]] = {}
    for episode in dataset.iterate_episodes():
        if not len(episode.rewards):
            continue
        states = _episode_rows(dataset.observation_space, episode.observations, len(episode) + 1)
        rows = {
            "observations": states[:-1],
            "next_observations": states[1:],
            "actions": _episode_rows(dataset.action_space, episode.actions, len(episode)),
            "rewards": np.asarray(episode.rewards),
            "terminated": np.asarray(episode.terminations),
            "truncated": np.asarray(episode.truncations),
        }
        # A recording that was stopped ends without either flag.
        rows["truncated"] = rows["truncated"].copy()
        rows["truncated"][-1] |= not rows["terminated"][-1]
        for name, values in rows.items():
            parts.setdefault(name, []).append(values)
    if not parts:
        raise ValueError("the data set has no steps")
    spec = dataset.env_spec
    info = {"env_id": spec.id if spec is not None else None, "dataset": dataset.id}
    return {name: np.concatenate(values) for name, values in parts.items()}, info


def _episode_rows(space: Any, values: Any, count: int) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return flatten_rows(space, values)
    return flatten_rows(space, [_at(values, step) for step in range(count)])


def _at(values: Any, step: int) -> Any:
    """Return one step of a dictionary or tuple of arrays."""
    if isinstance(values, dict):
        return {name: _at(part, step) for name, part in values.items()}
    if isinstance(values, tuple):
        return tuple(_at(part, step) for part in values)
    return values[step]
