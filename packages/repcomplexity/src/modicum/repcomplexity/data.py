"""Transitions of a process with what an expert would do and expects: the data of a measurement.

`RolloutData` holds the rows, checks them at the door, gives the targets that networks are to
represent, and holds out whole episodes. It is made from arrays, a file or a Minari data set here,
and by acting in `modicum.repcomplexity.collection`. Knows nothing of networks, metrics or engines.

Legend: ``n`` rows, ``s`` dimensions of an observation, ``a`` dimensions of an encoded action,
``k`` heads of a critic, ``m`` discrete actions.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.core.device import numpy_generator
from modicum.core.experiment import write_atomic

__all__ = ["HOLDOUTS", "Q_SOURCES", "TARGETS", "RolloutData", "Split", "Target"]

SCHEMA = 1
"""Version of the layout of a file of rollouts."""
Q_SOURCES = ("exact", "critic", "mc")
"""Where the values of actions come from: exact ones, a critic's, discounted returns."""
HOLDOUTS = ("episodes", "block", "none")
"""What is held out: whole episodes, the last rows, or nothing (training rows are test rows)."""
BLOCKS = 10
"""Clusters that a contiguous block of rows is cut into."""
LEAST_ACTION_NOISE = 1e-4
"""Share of the actions' variance, given the observation, below which an action adds nothing."""
_OPTIONAL = {
    "critic_q": 2,
    "exact_q": 1,
    "exact_q_actions": 2,
    "values": 1,
    "next_values": 1,
    "next_q_same_action": 1,
    "policy": 2,
}


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on and rows held out.

    Attributes
    ----------
    train, test
        Rows, int64, increasing.
    train_clusters, test_clusters
        Cluster of each of these rows, from 0: what is resampled as a whole.
    """

    train: np.ndarray
    test: np.ndarray
    train_clusters: np.ndarray
    test_clusters: np.ndarray


@dataclass(frozen=True)
class Target:
    """A function of the data to be represented.

    Attributes
    ----------
    uses_action
        Whether it is a function of observation and action, not of the observation alone.
    values
        From the data and the values of actions (one of `Q_SOURCES`, ``"auto"`` or an array) to
        rows ``(n, d)``.
    reference
        From the data to a prediction ``(n, d)`` that takes no learning; None where there is none.
    """

    uses_action: bool
    values: Callable[[RolloutData, Any], np.ndarray]
    reference: Callable[[RolloutData], np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class RolloutData:
    """Transitions in the order in which they happened, episode after episode.

    Made by `from_arrays`, which checks what it is given.

    Attributes
    ----------
    observations, next_observations
        float ``(n, s)``.
    actions
        As the networks take them, float ``(n, a)``: discrete ones are one-hot.
    rewards
        float64 ``(n,)``.
    terminated, truncated
        bool ``(n,)``: whether the process ended after this step, or only the recording of it.
    critic_q
        A critic's Q(s, a), float64 ``(n, k)`` with one column for each head, or None.
    exact_q
        Q*(s, a), ``(n,)``, or None.
    exact_q_actions
        Q*(s, ·) of all discrete actions, ``(n, m)``, or None.
    values, next_values
        V(s) and V(s') of the expert, ``(n,)``, or None.
    next_q_same_action
        The first head's Q(s', a) at the action taken in s, ``(n,)``, or None.
    policy
        The expert's deterministic action in s, encoded as `actions`, ``(n, a)``, or None.
    gamma
        Discount factor of the critic and of the returns.
    info
        Where the rows come from, for people: ``env_id``, ``expert``, ``seed`` and the like.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    critic_q: np.ndarray | None = None
    exact_q: np.ndarray | None = None
    exact_q_actions: np.ndarray | None = None
    values: np.ndarray | None = None
    next_values: np.ndarray | None = None
    next_q_same_action: np.ndarray | None = None
    policy: np.ndarray | None = None
    gamma: float = 0.99
    info: Mapping[str, Any] = field(default_factory=dict)

    # Ways in ------------------------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        observations: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        next_observations: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        q: npt.ArrayLike | None = None,
        *,
        n_actions: int | None = None,
        gamma: float = 0.99,
        info: Mapping[str, Any] | None = None,
        **optional: npt.ArrayLike | None,
    ) -> RolloutData:
        """Check rows and hold them.

        Parameters
        ----------
        observations, next_observations
            Numbers ``(n, …)``; flattened to ``(n, s)``.
        actions
            Numbers ``(n, a)``, or ``(n,)`` for one number; with `n_actions` integers ``(n,)``.
        rewards
            ``(n,)``.
        terminated, truncated
            Booleans ``(n,)``, both needed: returns go on after a truncation and not after a
            termination. The last row counts as truncated if it is neither.
        q
            A critic's values ``(n,)`` or ``(n, k)``.
        n_actions
            Number of discrete actions, which are one-hot encoded; None for numbers.
        gamma
            Discount factor in ``[0, 1]``.
        info
            Where the rows come from; anything JSON holds.
        optional
            `exact_q`, `exact_q_actions`, `values`, `next_values`, `next_q_same_action`, `policy`.

        Raises
        ------
        ValueError
            If shapes do not fit, a number is not finite, a flag is not Boolean, an action is out of
            range or a name is unknown.
        """
        rewards_n = _vector(rewards, "rewards")
        n = len(rewards_n)
        if not n:
            raise ValueError("there are no rows")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], not {gamma}")
        if unknown := optional.keys() - (_OPTIONAL.keys() - {"critic_q"}):
            hint = "; q takes a critic's values" if "critic_q" in unknown else ""
            raise ValueError(f"no array of the name {', '.join(sorted(unknown))}{hint}")
        optional["critic_q"] = q
        observations_ns = _matrix(observations, "observations", n)
        next_ns = _matrix(next_observations, "next_observations", n)
        if next_ns.shape != observations_ns.shape:
            raise ValueError(
                f"next_observations must have the shape {observations_ns.shape}, not"
                f" {next_ns.shape}"
            )
        truncated_n = _flags(truncated, "truncated", n)
        terminated_n = _flags(terminated, "terminated", n)
        truncated_n[-1] |= not terminated_n[-1]
        actions_na = _actions(actions, "actions", n, n_actions)
        extra = {
            name: _optional(name, values, n, n_actions, actions_na.shape[1])
            for name, values in optional.items()
            if values is not None
        }
        return cls(
            observations_ns,
            actions_na,
            rewards_n,
            next_ns,
            terminated_n,
            truncated_n,
            gamma=float(gamma),
            info=dict(info or {}),
            **extra,
        )

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> RolloutData:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises
        ------
        ValueError
            If the file holds no rollouts, or those of a later version.
        """
        with np.load(path, allow_pickle=False) as file:
            if "schema" not in file or "settings" not in file:
                raise ValueError(f"{os.fspath(path)} holds no rollouts of this package")
            if int(file["schema"]) > SCHEMA:
                raise ValueError(
                    f"{os.fspath(path)} has layout {int(file['schema'])}; this version reads up to"
                    f" {SCHEMA}"
                )
            settings: dict[str, Any] = json.loads(str(file["settings"]))
            names = [name for name in file.files if name not in ("schema", "settings")]
            arrays: dict[str, Any] = {name: file[name] for name in names}
        return cls.from_arrays(q=arrays.pop("critic_q", None), **settings, **arrays)

    @classmethod
    def from_minari(cls, dataset: Any, *, gamma: float = 0.99) -> RolloutData:
        """Take the episodes of a Minari data set: an object, or the id of one that is here.

        Dictionaries and tuples are flattened and discrete values one-hot encoded, as its spaces
        say. There is no critic in such a set.

        Raises
        ------
        ImportError
            If an engine that the data set needs is missing.
        """
        from modicum.repcomplexity.integrations.minari import read_dataset

        arrays, info = read_dataset(dataset)
        return cls.from_arrays(**arrays, gamma=gamma, info=info)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the rows to an ``.npz`` file, whole or not at all, without pickles."""
        settings = json.dumps({"gamma": self.gamma, "info": dict(self.info)})
        arrays = self._arrays() | {"schema": np.array(SCHEMA), "settings": np.array(settings)}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return write_atomic(path, buffer.getvalue())

    # What is there ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def episodes(self) -> np.ndarray:
        """Episode of each row, int64 ``(n,)`` from 0."""
        over_n = self.terminated | self.truncated
        return np.concatenate([[0], np.cumsum(over_n)[:-1]])

    @property
    def n_episodes(self) -> int:
        """Number of episodes, the last one perhaps cut off."""
        return int(self.episodes[-1]) + 1

    def fingerprint(self) -> str:
        """Return a hash of the rows and the discount factor: equal data have equal hashes."""
        digest = hashlib.blake2b(repr(self.gamma).encode(), digest_size=16)
        for name, values in self._arrays().items():
            digest.update(f"{name}{values.dtype}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def _arrays(self) -> dict[str, np.ndarray]:
        required = ("observations", "actions", "rewards", "next_observations")
        names = (*required, "terminated", "truncated", *_OPTIONAL)
        arrays = {name: getattr(self, name) for name in names}
        return {name: values for name, values in arrays.items() if values is not None}

    # Targets ------------------------------------------------------------------------------------

    def q(self, source: str = "auto", *, head: int | str = "min", tail: str = "auto") -> np.ndarray:
        """Return the values of the actions taken, float64 ``(n,)``.

        Parameters
        ----------
        source
            One of `Q_SOURCES`; ``"auto"`` takes the first of them that is there.
        head
            Which head of a critic: a number, or ``"min"`` for the least at each row.
        tail
            Of ``"mc"``, as in `returns`.

        Raises
        ------
        ValueError
            If the source is unknown or not there.
        """
        source = self.q_source(source)
        if source == "mc":
            return self.returns(tail=tail)
        if source == "exact":
            assert self.exact_q is not None
            return self.exact_q
        assert self.critic_q is not None
        if head == "min":
            return self.critic_q.min(1)
        if not isinstance(head, int) or not 0 <= head < self.critic_q.shape[1]:
            raise ValueError(
                f"head must be 'min' or a number in [0, {self.critic_q.shape[1]}), not {head!r}"
            )
        return self.critic_q[:, head]

    def q_source(self, source: str = "auto") -> str:
        """Return which of `Q_SOURCES` a name means for these data.

        Raises
        ------
        ValueError
            If the source is unknown or not there.
        """
        there = {
            "exact": self.exact_q is not None,
            "critic": self.critic_q is not None,
            "mc": True,
        }
        if source == "auto":
            return next(name for name in Q_SOURCES if there[name])
        if source not in there:
            raise ValueError(f"q must be 'auto' or one of {', '.join(Q_SOURCES)}, not {source!r}")
        if not there[source]:
            raise ValueError(f"these data have no {source} values; q='mc' needs none")
        return source

    def returns(self, *, tail: str = "auto") -> np.ndarray:
        """Return the discounted sum of rewards from each row to the end of its episode, ``(n,)``.

        Parameters
        ----------
        tail
            What a truncated episode would still have earned: ``"bootstrap"`` takes
            ``gamma * next_values`` of its last row, ``"zero"`` nothing, as if time had run out;
            ``"auto"`` takes the first where there are `next_values` or nothing is truncated.

        Raises
        ------
        ValueError
            If there is something to bootstrap from nothing, or `tail` is unknown.
        """
        if tail not in ("auto", "bootstrap", "zero"):
            raise ValueError(f"tail must be 'auto', 'bootstrap' or 'zero', not {tail!r}")
        over_n = self.terminated | self.truncated
        cut_n = self.truncated & ~self.terminated
        if tail != "zero" and cut_n.any() and self.next_values is None:
            raise ValueError(
                f"{int(cut_n.sum())} of {self.n_episodes} episodes are truncated and there are no"
                " next_values to go on with: give the expert's values, leave out what was cut"
                " off at the end (whole_episodes), or count rewards up to the truncation only"
                " (tail='zero')"
            )
        ends_n = np.zeros(len(self))
        if tail != "zero" and self.next_values is not None:
            ends_n[cut_n] = self.next_values[cut_n]
        returns_n = np.empty(len(self))
        following = 0.0
        for row in range(len(self) - 1, -1, -1):
            following = ends_n[row] if over_n[row] else following
            following = self.rewards[row] + self.gamma * following
            returns_n[row] = following
        return returns_n

    def whole_episodes(self) -> RolloutData:
        """Leave out the last episode where it is truncated: the number of rows cuts it off there.

        Returns of such an episode are not known without an expert's values.

        Raises
        ------
        ValueError
            If no episode is left.
        """
        if not self.truncated[-1] or self.terminated[-1]:
            return self
        kept = self.episodes < self.n_episodes - 1
        if not kept.any():
            raise ValueError("the only episode is cut off, so that no whole one is left")
        arrays: dict[str, Any] = {name: rows[kept] for name, rows in self._arrays().items()}
        return replace(self, **arrays)

    def inputs(self, uses_action: bool) -> np.ndarray:
        """Return what a network sees: observations, and actions beside them, ``(n, s [+ a])``."""
        if not uses_action:
            return self.observations
        return np.concatenate([self.observations, self.actions], axis=1)

    # Held-out rows ------------------------------------------------------------------------------

    def split(self, holdout: str = "episodes", fraction: float = 0.2, seed: int = 0) -> Split:
        """Hold out rows.

        Parameters
        ----------
        holdout
            One of `HOLDOUTS`.
        fraction
            Share of the episodes (at least one), or of the rows of ``"block"``.
        seed
            Which episodes.

        Raises
        ------
        ValueError
            If an option is out of range, or there is one episode only and whole ones are asked for.
        """
        if holdout not in HOLDOUTS:
            raise ValueError(f"holdout must be one of {', '.join(HOLDOUTS)}, not {holdout!r}")
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
        rows_n, episodes_n = np.arange(len(self)), self.episodes
        if holdout == "none":
            return Split(rows_n, rows_n, episodes_n, episodes_n)
        if holdout == "block":
            cut = round((1 - fraction) * len(self))
            if not 0 < cut < len(self):
                raise ValueError(f"{len(self)} rows are too few to hold out {fraction:.0%} of them")
            train, test = rows_n[:cut], rows_n[cut:]
            return Split(train, test, _pieces(len(train)), _pieces(len(test)))
        if self.n_episodes < 2:
            raise ValueError(
                "there is one episode, so none can be held out: collect more, or take"
                " holdout='block' for its last rows"
            )
        order = numpy_generator(seed, "holdout").permutation(self.n_episodes)
        held = order[: max(1, round(fraction * self.n_episodes))]
        if len(held) == self.n_episodes:
            held = held[:-1]
        out_n = np.isin(episodes_n, held)
        train, test = rows_n[~out_n], rows_n[out_n]
        return Split(train, test, _renumber(episodes_n[train]), _renumber(episodes_n[test]))

    # Cautions -----------------------------------------------------------------------------------

    def cautions(self) -> list[str]:
        """Return what to keep in mind about these data, as sentences; empty if nothing."""
        found = [self._constant_columns(), self._constant_rewards(), self._disconnected()]
        found += [self._short_episodes(), self._predictable_actions()]
        return [sentence for sentence in found if sentence]

    def _constant_columns(self) -> str:
        constant = int((np.ptp(self.observations, axis=0) == 0).sum())
        if not constant:
            return ""
        return f"{constant} of {self.observations.shape[1]} observation dimensions never change."

    def _constant_rewards(self) -> str:
        mean = self.rewards.mean()
        if self.rewards.var() > 1e-12 * max(1.0, mean**2):
            return ""
        return f"All rewards are {mean:g}: there is no variance of them to explain."

    def _disconnected(self) -> str:
        going_on = ~(self.terminated | self.truncated)[:-1]
        same = (self.next_observations[:-1] == self.observations[1:]).all(1)
        broken = int((going_on & ~same).sum())
        if not broken:
            return ""
        return (
            f"After {broken} of {int(going_on.sum())} steps within episodes the next row does not"
            " begin where the step ended: returns and rollouts mean little unless terminated and"
            " truncated mark every end."
        )

    def _short_episodes(self) -> str:
        if self.gamma == 1 or not (self.truncated & ~self.terminated).any():
            return ""
        length = len(self) / self.n_episodes
        if length * (1 - self.gamma) >= 1:
            return ""
        return (
            f"Episodes have {length:.0f} steps on average and the discount factor looks"
            f" {1 / (1 - self.gamma):.0f} ahead: values depend on the time left, which is no part"
            " of an observation."
        )

    def _predictable_actions(self) -> str:
        varying = self.actions[:, self.actions.std(0) > 0]
        if not varying.size:
            return "The action never changes: Q is a function of the observation alone."
        design = np.column_stack([self.observations, np.ones(len(self))]).astype(np.float64)
        solution = np.linalg.lstsq(design, varying.astype(np.float64), rcond=None)[0]
        left = (varying - design @ solution).var(0).sum() / varying.var(0).sum()
        if left >= LEAST_ACTION_NOISE:
            return ""
        return (
            f"A linear function of the observation leaves {left:.1e} of the actions' variance: Q is"
            " seen as a function of the observation alone; act with exploration noise."
        )


TARGETS: dict[str, Target] = {
    "delta": Target(
        True,
        lambda data, _: data.next_observations - data.observations,
        lambda data: np.zeros_like(data.observations),
    ),
    "next_obs": Target(
        True, lambda data, _: data.next_observations, lambda data: data.observations
    ),
    "reward": Target(True, lambda data, _: data.rewards[:, None]),
    "policy": Target(False, lambda data, _: data.actions if data.policy is None else data.policy),
    "q": Target(True, lambda data, q: _q_of(data, q)[:, None]),
    "value": Target(False, lambda data, _: _values_of(data)),
}
"""What can be measured, by name."""


def _q_of(data: RolloutData, q: Any) -> np.ndarray:
    if isinstance(q, str):
        return data.q(q)
    values_n = _vector(q, "q")
    if len(values_n) != len(data):
        raise ValueError(f"q must have {len(data)} values, not {len(values_n)}")
    return values_n


def _values_of(data: RolloutData) -> np.ndarray:
    if data.values is None:
        raise ValueError("these data have no values of the expert, so 'value' is no target")
    return data.values[:, None]


def _vector(values: npt.ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    return _finite(array, name)


def _matrix(values: npt.ArrayLike, name: str, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64 if array.dtype.itemsize > 2 else np.float32)
    if array.ndim == 0 or len(array) != n:
        raise ValueError(f"{name} must have {n} rows, not the shape {array.shape}")
    return _finite(array.reshape(n, -1), name)


def _finite(array: np.ndarray, name: str) -> np.ndarray:
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(index) for index in np.argwhere(bad)[0])
        raise ValueError(f"{name} has {int(bad.sum())} numbers that are not finite, first {first}")
    return array


def _flags(values: npt.ArrayLike, name: str, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n,) or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be {n} booleans")
    return array.astype(np.bool_)


def _actions(values: npt.ArrayLike, name: str, n: int, n_actions: int | None) -> np.ndarray:
    if n_actions is None:
        return _matrix(values, name, n)
    index_n = np.asarray(values)
    if index_n.shape != (n,) or index_n.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {n} integers where n_actions is given")
    if index_n.min() < 0 or index_n.max() >= n_actions:
        raise ValueError(f"{name} must be in [0, {n_actions}), not {int(index_n.max())}")
    return np.eye(n_actions, dtype=np.float32)[index_n]


def _optional(
    name: str, values: npt.ArrayLike | None, n: int, n_actions: int | None, width: int
) -> np.ndarray:
    assert values is not None
    if name == "policy":
        policy_na = _actions(values, name, n, n_actions)
        if policy_na.shape[1] != width:
            raise ValueError(f"policy must have {width} numbers a row, not {policy_na.shape[1]}")
        return policy_na
    array = _vector(values, name) if _OPTIONAL[name] == 1 else np.asarray(values, np.float64)
    if len(array) != n:
        raise ValueError(f"{name} must have {n} rows, not {len(array)}")
    array = array.reshape(n, -1) if _OPTIONAL[name] == 2 else array
    if name == "exact_q_actions" and array.shape[1] != width:
        raise ValueError(
            f"exact_q_actions must have a column for each of the {width} numbers of a one-hot"
            f" action, not {array.shape[1]}"
        )
    return _finite(array, name)


def _pieces(n: int) -> np.ndarray:
    return np.arange(n) * min(BLOCKS, n) // n


def _renumber(labels_n: np.ndarray) -> np.ndarray:
    return np.unique(labels_n, return_inverse=True)[1]
