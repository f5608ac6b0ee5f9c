"""Finite decision processes whose states are packed bits.

`BitMDP` takes a transition and a reward as functions of codes and actions, or tables of a process
with any states, which an encoding turns into bits. It answers for whole arrays of codes at once, in
NumPy or torch, and stores nothing per state of its own. Knows nothing of solving or of simulators.

Shapes: S states, A actions, K successors of a state and an action, m bits of a state; ``…`` any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from modicum.repcomplexity.bits import (
    MAX_BITS,
    Array,
    bits_for,
    check_limit,
    gray_encode,
    unpack,
)

__all__ = [
    "ENCODINGS",
    "BitMDP",
    "Branches",
    "Lookup",
    "RewardBounds",
    "as_codes",
    "draw_integers",
    "where",
]

ENCODINGS = ("binary", "gray", "onehot")
"""Names of the encodings of states ``0 … S − 1``; a function of the indices is one, too."""

Branches = list[tuple[Array, Any]]
"""Successor codes and their probabilities, numbers or arrays; the probabilities sum to one."""

_SCAN_STATES = 1 << 18
# Successors of a dense table below this probability are rounding errors of whoever made it.
_SMALLEST_PROBABILITY = 1e-12
_PROBABILITY_TOLERANCE = 1e-8
# Beyond it float64, in which rewards come, tells no integer from its neighbours.
_LARGEST_INTEGER = 2**53


@dataclass(frozen=True)
class RewardBounds:
    """Between which values all rewards lie, and whether all are integers."""

    lowest: float
    highest: float
    integer: bool


class Lookup:
    """A fixed table that NumPy arrays and tensors of any device may index."""

    def __init__(self, values: np.ndarray):
        self.values = values
        self._tensors: dict[Any, Any] = {}

    def __call__(self, index: Array) -> Array:
        """Return the entries at an index, which is an array, a tensor or a tuple of them."""
        return self.beside(index[0] if isinstance(index, tuple) else index)[index]

    def beside(self, example: Array) -> Array:
        """Return the table as an array, or as a tensor on the device of a tensor."""
        if not hasattr(example, "detach"):
            return self.values
        return self.on(example.device)

    def on(self, device: Any) -> Array:
        """Return the table as a tensor on a device, where it is kept."""
        if device not in self._tensors:
            import torch

            self._tensors[device] = torch.as_tensor(self.values, device=device)
        return self._tensors[device]

    def __getstate__(self) -> dict[str, Any]:
        return {"values": self.values, "_tensors": {}}


def as_codes(values: Any, like: Array | None = None) -> Array:
    """Return integers as an int64 array, or as a tensor beside `like` where that is one.

    Raises
    ------
    ValueError
        If they are no integers or Booleans.
    """
    if hasattr(values, "detach"):
        if values.is_floating_point() or values.is_complex():
            raise ValueError(f"codes and actions must be integers, not {values.dtype}")
        return values.long()
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "iub" and numbers.size:
        raise ValueError(f"codes and actions must be integers, not {numbers.dtype}")
    if like is not None and hasattr(like, "detach"):
        import torch

        return torch.as_tensor(numbers, dtype=torch.int64, device=like.device)
    return numbers.astype(np.int64, copy=False)


def where(condition: Array, chosen: Array, other: Array) -> Array:
    """Choose between two arrays of one library entry by entry."""
    if hasattr(condition, "detach"):
        import torch

        return torch.where(condition, chosen, other)
    return np.where(condition, chosen, other)


def draw_integers(high: int, count: int, rng: Any) -> Array:
    """Draw int64 ``(count,)`` uniformly from ``[0, high)``; as for `BitMDP.sample_states`."""
    if isinstance(rng, np.random.Generator):
        return rng.integers(high, size=count)
    import torch

    return torch.randint(high, (count,), generator=rng, device=rng.device)


class _StateSet:
    """States ``0 … S − 1`` and their codes, which are the same where every code is used."""

    def __init__(self, bits: int, codes: np.ndarray | None):
        self.size = 1 << bits
        self.codes: Lookup | None = None
        if codes is None:
            return
        codes = np.asarray(codes, dtype=np.int64)
        if codes.ndim != 1 or len(np.unique(codes)) != len(codes) or not len(codes):
            raise ValueError("state_codes must be different codes, one per state")
        if codes.min() < 0 or codes.max() >= self.size:
            raise ValueError(
                f"state_codes must fit {bits} bits, not be in [{codes.min()}, {codes.max()}]"
            )
        self.size = len(codes)
        order = np.argsort(codes)
        self.codes, self.sorted, self.order = Lookup(codes), Lookup(codes[order]), Lookup(order)

    def codes_of(self, indices: Array) -> Array:
        return indices if self.codes is None else self.codes(indices)

    def indices_of(self, codes: Array) -> Array:
        if self.codes is None:
            return codes
        found: Array
        if hasattr(codes, "detach"):
            import torch

            found = torch.searchsorted(self.sorted.beside(codes), codes)
        else:
            found = np.searchsorted(self.sorted.values, codes)
        found = found.clip(0, self.size - 1)
        return where(self.sorted(found) == codes, self.order(found), -1)

    def contains(self, codes: Array) -> Array:
        if self.codes is not None:
            return self.indices_of(codes) >= 0
        return (codes >= 0) & (codes < self.size)


class BitMDP:
    """A finite Markov decision process over packed states.

    Parameters
    ----------
    n_state_bits
        Bits m of a state, at most 62.
    n_actions
        Number A of actions, ``0 … A − 1``.
    step
        ``step(codes, action)`` with int64 codes ``(…)`` and an action that is an ``int`` or an
        int64 array of that shape. Returns the next codes ``(…)``, or, for a process with chance, a
        list of ``(next codes, probability)`` with probabilities that are numbers or ``(…)``; one
        or the other for all actions.
        It is called with NumPy arrays and, by simulators and solvers on a device, with tensors.
    reward
        ``reward(codes, action)``, ``(…)``: the expected reward.
    horizon
        Number H of steps of an episode, or None for an endless process.
    gamma
        Discount in (0, 1]; below 1 where there is no horizon.
    state_codes
        The codes of all states, int64 ``(S,)``, where not every code of m bits is one.
    terminal
        ``terminal(codes)``, bool ``(…)``: states where an episode has ended. They must lead to
        themselves with reward 0.
    initial
        Probabilities ``(S,)`` of the first state, in the order of the states. Uniform if None.
    observation_order
        Positions of the m bits in an observation; ``range(m)`` if None.
    action_codes
        Codes of the actions as bits, ``(A,)``; ``0 … A − 1`` if None.
    reward_bounds
        What is known of the rewards; found by going through all states if None.
    encoding
        Name of the encoding of the states, for reports.
    name
        What to call the process in reports.

    Attributes
    ----------
    n_states : int
        Number S of states.
    n_action_bits : int
        Bits of an action's code.
    deterministic : bool
        Whether every successor is certain.

    Raises
    ------
    ValueError
        If a number is out of range, or `step` does not answer in the shape it was asked, or
        answers with a list for some actions only.
    """

    def __init__(
        self,
        n_state_bits: int,
        n_actions: int,
        step: Callable[[Array, Any], Array | Branches],
        reward: Callable[[Array, Any], Array],
        *,
        horizon: int | None = None,
        gamma: float = 1.0,
        state_codes: np.ndarray | None = None,
        terminal: Callable[[Array], Array] | None = None,
        initial: np.ndarray | None = None,
        observation_order: Sequence[int] | None = None,
        action_codes: np.ndarray | None = None,
        reward_bounds: RewardBounds | None = None,
        encoding: str = "binary",
        name: str = "bit MDP",
    ):
        check_limit(
            "the number of state bits",
            n_state_bits,
            MAX_BITS,
            cost="codes that do not fit an int64",
            alternative="encode the states in fewer bits",
        )
        _check_sizes(n_state_bits, n_actions, horizon, gamma)
        self.n_state_bits = int(n_state_bits)
        self.n_actions = int(n_actions)
        self.horizon = None if horizon is None else int(horizon)
        self.gamma = float(gamma)
        self.encoding = encoding
        self.name = name
        self._step = step
        self._reward = reward
        self._terminal = terminal
        self._reward_bounds = reward_bounds
        self._states = _StateSet(self.n_state_bits, state_codes)
        self.n_states = self._states.size
        self._initial = None if initial is None else _distribution(initial, self.n_states)
        order = range(self.n_state_bits) if observation_order is None else observation_order
        self.observation_order = tuple(int(position) for position in order)
        if sorted(self.observation_order) != list(range(self.n_state_bits)):
            raise ValueError(
                f"observation_order must hold each of 0 … {self.n_state_bits - 1} once, "
                f"not {self.observation_order}"
            )
        self._observed = Lookup(np.array(self.observation_order, dtype=np.int64))
        codes = np.arange(self.n_actions) if action_codes is None else np.asarray(action_codes)
        if codes.shape != (self.n_actions,) or len(set(codes.tolist())) != self.n_actions:
            raise ValueError(f"action_codes must be {self.n_actions} different codes, not {codes}")
        self.action_codes = codes.astype(np.int64)
        self.n_action_bits = bits_for(int(codes.max()) + 1)
        self.deterministic = self._is_deterministic()

    def _is_deterministic(self) -> bool:
        codes = self.codes_of(np.arange(min(2, self.n_states)))
        lists = set()
        for action in range(self.n_actions):
            answer = self._step(codes, action)
            lists.add(isinstance(answer, list))
            branches = answer if isinstance(answer, list) else [(answer, 1.0)]
            for following, _ in branches:
                if np.shape(following) != codes.shape:
                    raise ValueError(
                        f"step must return codes of the shape it is given, {codes.shape}, "
                        f"not {np.shape(following)}"
                    )
        if len(lists) > 1:
            raise ValueError("step must return codes for all actions, or lists for all")
        return not lists.pop()

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {self.n_state_bits} state bits, {self.n_states:,} states, "
            f"{self.n_actions} actions, horizon {self.horizon}, gamma {self.gamma:g}>"
        )

    def codes_of(self, indices: Array) -> Array:
        """Return the codes ``(…)`` of states ``0 … S − 1``, which are the codes if all are used."""
        return self._states.codes_of(indices)

    def indices_of(self, codes: Array) -> Array:
        """Return which states codes ``(…)`` stand for; the inverse of `codes_of`.

        A code of no state gives −1; where all codes are used, any code gives itself.
        """
        return self._states.indices_of(codes)

    def is_state(self, codes: Array) -> Array:
        """Return which codes ``(…)`` are codes of states."""
        return self._states.contains(codes)

    def observe(self, codes: Array, form: str = "uint8") -> Array:
        """Return the bits ``(…, m)`` of states in the order of observations.

        `form` is as for `modicum.repcomplexity.bits.unpack`.
        """
        codes = as_codes(codes)
        order = self._observed.beside(codes)
        return unpack(codes, self.n_state_bits, form, positions=order)

    def transitions(self, codes: Array, action: Any) -> Branches:
        """Return successors and their probabilities, for codes ``(…)`` and an action of each.

        Returns
        -------
        list of (array, probability)
            Next codes ``(…)`` with a number or an array ``(…)``. Successors may repeat.

        Raises
        ------
        ValueError
            If an action is out of range; tensors on a device other than the CPU are not checked,
            since that would wait for the device.
        """
        codes = as_codes(codes)
        answer = self._step(codes, self._checked_action(action, codes))
        return answer if isinstance(answer, list) else [(answer, 1.0)]

    def next_codes(self, codes: Array, action: Any) -> Array:
        """Return the next codes ``(…)`` of a process without chance.

        Parameters
        ----------
        codes
            int64 ``(…)``.
        action
            One action, or int64 ``(…)``, each in ``[0, A)``.

        Raises
        ------
        ValueError
            If there is chance: ask `transitions` or `sample_next`. If an action is out of range,
            as for `transitions`.
        """
        if not self.deterministic:
            raise ValueError(f"{self.name} has chance: use transitions or sample_next")
        codes = as_codes(codes)
        following = self._step(codes, self._checked_action(action, codes))
        assert not isinstance(following, list)
        return following

    def rewards(self, codes: Array, action: Any) -> Array:
        """Return the expected rewards ``(…)`` of an action, or of one action for each code.

        Raises
        ------
        ValueError
            If an action is out of range, as for `transitions`.
        """
        codes = as_codes(codes)
        return self._reward(codes, self._checked_action(action, codes))

    def _checked_action(self, action: Any, codes: Array) -> Any:
        if isinstance(action, int | np.integer):
            if not 0 <= action < self.n_actions:
                raise ValueError(f"actions must be in [0, {self.n_actions}), not {action}")
            return int(action)
        actions = as_codes(action, like=codes)
        if not hasattr(actions, "detach") or actions.device.type == "cpu":
            wrong = (actions < 0) | (actions >= self.n_actions)
            if bool(wrong.any()):
                raise ValueError(
                    f"actions must be in [0, {self.n_actions}), not {int(actions[wrong][0])}"
                )
        return actions

    @property
    def has_closed_form(self) -> bool:
        """Whether `optimal_values` has an answer that needs no dynamic programming."""
        return False

    def optimal_values(self, codes: Array, step: int = 1) -> Array:
        """Return V*_h ``(…)`` of states at step h of ``1 … H``, from a closed form.

        Raises
        ------
        ValueError
            If there is no closed form: use `modicum.repcomplexity.solver.solve`.
        """
        raise ValueError(f"{self.name} has no closed form of its values: use solve")

    def optimal_q(self, codes: Array, action: Any, step: int = 1) -> Array:
        """Return Q*_h ``(…)`` of states and actions at step h; as `optimal_values`."""
        following = self.next_codes(codes, action)
        return self.rewards(codes, action) + self.gamma * self.optimal_values(following, step + 1)

    @property
    def has_terminals(self) -> bool:
        """Whether some state ends an episode before the horizon does."""
        return self._terminal is not None

    def is_terminal(self, codes: Array) -> Array:
        """Return in which states ``(…)`` an episode has ended."""
        codes = as_codes(codes)
        return codes < 0 if self._terminal is None else self._terminal(codes)

    def reward_bounds(self) -> RewardBounds:
        """Return bounds of the rewards; goes through all states once where none were given.

        Raises
        ------
        ValueError
            If a reward is not finite.
        """
        if self._reward_bounds is None:
            self._reward_bounds = self._scan_rewards()
        return self._reward_bounds

    def _scan_rewards(self) -> RewardBounds:
        lowest, highest, integer = math.inf, -math.inf, True
        for start in range(0, self.n_states, _SCAN_STATES):
            codes = self.codes_of(np.arange(start, min(start + _SCAN_STATES, self.n_states)))
            for action in range(self.n_actions):
                rewards = np.asarray(self.rewards(codes, action), dtype=np.float64)
                if not np.isfinite(rewards).all():
                    raise ValueError(f"rewards must be finite; one of action {action} is not")
                lowest = min(lowest, float(rewards.min()))
                highest = max(highest, float(rewards.max()))
                integer &= bool((rewards == np.floor(rewards)).all())
        return RewardBounds(lowest, highest, integer)

    def sample_states(self, count: int, rng: Any) -> Array:
        """Draw first states.

        Parameters
        ----------
        count
            How many.
        rng
            A ``numpy.random.Generator``, or a ``torch.Generator``, on whose device they are drawn.

        Returns
        -------
        array or tensor
            int64 codes ``(count,)``.
        """
        if self._initial is None:
            return self.codes_of(draw_integers(self.n_states, count, rng))
        if isinstance(rng, np.random.Generator):
            return self.codes_of(rng.choice(self.n_states, size=count, p=self._initial.values))
        import torch

        # Not torch.multinomial, which allows no more than 2**24 states.
        uniform = torch.rand(count, generator=rng, device=rng.device, dtype=torch.float64)
        cumulative = self._initial.on(rng.device).cumsum(0)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
        return self.codes_of(drawn.clamp(max=self.n_states - 1))

    def sample_next(self, codes: Array, action: Any, rng: Any) -> Array:
        """Draw the next codes ``(…)``; `rng` is as for `sample_states` and beside the codes."""
        branches = self.transitions(codes, action)
        if len(branches) == 1:
            return branches[0][0]
        codes = as_codes(codes)
        if hasattr(codes, "detach"):
            import torch

            left = torch.rand(codes.shape, generator=rng, device=codes.device, dtype=torch.float64)
        else:
            left = rng.random(codes.shape)
        drawn = branches[-1][0]
        # From the last to the first, so that the first whose share covers the number stays.
        for k in range(len(branches) - 2, -1, -1):
            share = sum(branch[1] for branch in branches[: k + 1])
            drawn = where(left < share, branches[k][0], drawn)
        return drawn

    @classmethod
    def from_tables(
        cls,
        transitions: Any,
        rewards: Any,
        *,
        horizon: int | None = None,
        gamma: float = 1.0,
        encoding: str | Callable[[np.ndarray], np.ndarray] = "binary",
        initial: Any = None,
        terminal: Any = None,
        name: str = "tables",
    ) -> BitMDP:
        """Make a process of tables over states ``0 … S − 1``.

        Parameters
        ----------
        transitions
            Next states, integers ``(S, A)``; or probabilities ``(S, A, S)``; or a sparse matrix of
            probabilities ``(S·A, S)`` whose row ``s·A + a`` belongs to state s and action a.
        rewards
            ``(S, A)``; or ``(S,)``; or ``(S, A, S)``, of which the expectation is taken.
        horizon, gamma, name
            As for `BitMDP`.
        encoding
            One of `ENCODINGS`, or a function from indices ``(S,)`` to different codes ``(S,)``.
            What is easy to represent depends on it.
        initial
            Probabilities ``(S,)`` of the first state; uniform over those that end no episode if
            None.
        terminal
            bool ``(S,)``: states that end an episode. Their rows are replaced by staying, with
            reward 0.

        Notes
        -----
        A code that stands for no state leads to itself with reward 0.

        Raises
        ------
        ValueError
            If shapes do not fit, a next state is out of range, probabilities do not sum to one, or
            the encoding gives two states one code.
        """
        next_SAK, probability_SAK = _successors(transitions)
        reward_SA = _expected_rewards(rewards, next_SAK, probability_SAK)
        n_states, n_actions = reward_SA.shape
        end_S = np.zeros(n_states, bool) if terminal is None else np.asarray(terminal)
        if end_S.shape != (n_states,) or end_S.dtype != bool:
            raise ValueError(f"terminal must be bool of shape ({n_states},), not {end_S.shape}")
        next_SAK[end_S] = np.flatnonzero(end_S)[:, None, None]
        reward_SA[end_S] = 0
        if initial is None and end_S.any() and not end_S.all():
            initial = ~end_S / (~end_S).sum()
        codes, bits, spelled = _encode(encoding, n_states)
        tables = _Tables(_StateSet(bits, codes), next_SAK, probability_SAK, reward_SA, end_S)
        return cls(
            bits,
            n_actions,
            tables.step,
            tables.reward,
            horizon=horizon,
            gamma=gamma,
            state_codes=codes,
            terminal=tables.terminal if end_S.any() else None,
            initial=initial,
            encoding=spelled,
            name=name,
            reward_bounds=tables.bounds(),
        )

    @classmethod
    def from_gymnasium(
        cls,
        env: Any,
        *,
        horizon: int | None = None,
        gamma: float = 1.0,
        encoding: str | Callable[[np.ndarray], np.ndarray] = "binary",
    ) -> BitMDP:
        """Read the table of a toy-text environment such as ``FrozenLake-v1``.

        Parameters
        ----------
        env
            An environment with ``env.unwrapped.P``, a mapping
            ``{state: {action: [(probability, next state, reward, terminated)]}}``.
        horizon
            Steps of an episode. If None and `gamma` is 1, the time limit the environment was made
            with.
        gamma, encoding
            As for `from_tables`.

        Returns
        -------
        BitMDP
            With one state more than the environment where a transition ends the episode in a state
            that others enter and go on from; it stands for the end.

        Raises
        ------
        ValueError
            If there is no such table, it leaves something out (Taxi's passengers who change their
            mind), or there is neither a horizon, a time limit nor a discount.
        """
        table = getattr(env.unwrapped, "P", None)
        if table is None:
            raise ValueError(f"{env} has no transition table: env.unwrapped.P is missing")
        if getattr(env.unwrapped, "fickle_passenger", False):
            raise ValueError(
                f"the table of {env} leaves out that passengers change their destination: make it "
                "with fickle_passenger=False"
            )
        spec = getattr(env, "spec", None)
        if horizon is None and gamma == 1.0:
            horizon = getattr(spec, "max_episode_steps", None)
            if horizon is None:
                raise ValueError(f"{env} has no time limit: give horizon, or gamma below 1")
        transitions, rewards, end_S = _read_toy_text(table)
        initial = getattr(env.unwrapped, "initial_state_distrib", None)
        if initial is not None:
            initial = np.concatenate([initial, np.zeros(len(end_S) - len(initial))])
        return cls.from_tables(
            transitions,
            rewards,
            horizon=horizon,
            gamma=gamma,
            encoding=encoding,
            initial=initial,
            terminal=end_S,
            name=getattr(spec, "id", None) or type(env.unwrapped).__name__,
        )


class _Tables:
    """Transition and reward of `BitMDP.from_tables`, as functions of codes."""

    def __init__(
        self,
        states: _StateSet,
        next_SAK: np.ndarray,
        probability_SAK: np.ndarray | None,
        reward_SA: np.ndarray,
        end_S: np.ndarray,
    ):
        whole = (reward_SA == np.floor(reward_SA)).all()
        if whole and np.abs(reward_SA).max() <= _LARGEST_INTEGER:
            reward_SA = reward_SA.astype(np.int64)
        self.states = states
        self.n_successors = next_SAK.shape[2]
        self.following, self.rewards, self.ends = map(Lookup, (next_SAK, reward_SA, end_S))
        self.probabilities = None if probability_SAK is None else Lookup(probability_SAK)

    def bounds(self) -> RewardBounds:
        reward_SA = self.rewards.values
        return RewardBounds(
            float(reward_SA.min()), float(reward_SA.max()), reward_SA.dtype == np.int64
        )

    def step(self, codes: Array, action: Any) -> Array | Branches:
        indices = self.states.indices_of(codes)
        known, indices = indices >= 0, indices.clip(0)
        branches: Branches = []
        for k in range(self.n_successors):
            following = self.states.codes_of(self.following((indices, action, k)))
            following = where(known, following, codes)
            if self.probabilities is None:
                return following
            branches.append((following, self.probabilities((indices, action, k))))
        return branches

    def reward(self, codes: Array, action: Any) -> Array:
        indices = self.states.indices_of(codes)
        return self.rewards((indices.clip(0), action)) * (indices >= 0)

    def terminal(self, codes: Array) -> Array:
        indices = self.states.indices_of(codes)
        return self.ends(indices.clip(0)) & (indices >= 0)


def _check_sizes(n_state_bits: int, n_actions: int, horizon: int | None, gamma: float) -> None:
    if n_state_bits < 0:
        raise ValueError(f"n_state_bits must be at least 0, not {n_state_bits}")
    if n_actions < 1:
        raise ValueError(f"n_actions must be at least 1, not {n_actions}")
    if horizon is not None and (horizon != int(horizon) or horizon < 1):
        raise ValueError(f"horizon must be an integer of at least 1, not {horizon}")
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1], not {gamma}")
    if horizon is None and gamma == 1:
        raise ValueError("without a horizon, gamma must be below 1, not 1")


def _distribution(values: Any, n_states: int) -> Lookup:
    probabilities = np.asarray(values, dtype=np.float64)
    if probabilities.shape != (n_states,):
        raise ValueError(f"initial must have shape ({n_states},), not {probabilities.shape}")
    if probabilities.min() < 0 or not math.isclose(probabilities.sum(), 1, abs_tol=1e-8):
        raise ValueError(
            f"initial must be probabilities that sum to 1, not to {probabilities.sum()}"
        )
    return Lookup(probabilities / probabilities.sum())


def _encode(
    encoding: str | Callable[[np.ndarray], np.ndarray], n_states: int
) -> tuple[np.ndarray | None, int, str]:
    """Return codes (None: the indices, all in use), bits of a code, and the encoding's name."""
    indices = np.arange(n_states, dtype=np.int64)
    if callable(encoding):
        codes = np.asarray(encoding(indices))
        if codes.shape != (n_states,) or codes.dtype.kind not in "iu" or codes.min() < 0:
            raise ValueError(f"encoding must give {n_states} non-negative integers, not {codes}")
        if len(np.unique(codes)) != n_states:
            raise ValueError("encoding must give every state a code of its own")
        name = getattr(encoding, "__name__", type(encoding).__name__)
        return codes.astype(np.int64), bits_for(int(codes.max()) + 1), name
    if encoding == "onehot":
        check_limit(
            "the number of states in one-hot codes",
            n_states,
            MAX_BITS,
            cost="codes that do not fit an int64",
            alternative="use encoding='binary' or 'gray'",
        )
        return np.int64(1) << indices, n_states, "onehot"
    if encoding not in ENCODINGS:
        raise ValueError(
            f"encoding must be one of {', '.join(map(repr, ENCODINGS))} or a function, "
            f"not {encoding!r}"
        )
    bits = bits_for(n_states)
    if encoding == "gray":
        return gray_encode(indices), bits, "gray"
    return (None if n_states == 1 << bits else indices), bits, "binary"


def _successors(transitions: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return next states ``(S, A, K)`` and their probabilities, None if all are certain."""
    if sparse.issparse(transitions):
        rows, n_states = transitions.shape
        if rows % n_states or not rows:
            raise ValueError(
                f"a sparse transition matrix must have shape (S·A, S), not {transitions.shape}"
            )
        return _compress(sparse.csr_array(transitions, copy=True), n_states)
    table = np.asarray(transitions)
    if table.ndim == 2 and table.dtype.kind in "iu":
        n_states = len(table)
        if table.min() < 0 or table.max() >= n_states:
            raise ValueError(
                f"next states must be in [0, {n_states}), not in [{table.min()}, {table.max()}]"
            )
        return table.astype(np.int64)[:, :, None], None
    if table.ndim == 3 and table.shape[0] == table.shape[2] and table.size:
        n_states = table.shape[0]
        return _compress(sparse.csr_array(table.reshape(-1, n_states).astype(float)), n_states)
    raise ValueError(
        "transitions must be next states (S, A) as integers, probabilities (S, A, S) or a sparse "
        f"matrix (S·A, S), not {table.dtype} of shape {table.shape}"
    )


def _compress(matrix: sparse.csr_array, n_states: int) -> tuple[np.ndarray, np.ndarray | None]:
    matrix.sum_duplicates()
    if len(matrix.data) and not (matrix.data >= 0).all():
        raise ValueError(f"probabilities must not be negative, not {matrix.data.min()}")
    matrix.data[matrix.data < _SMALLEST_PROBABILITY] = 0
    matrix.eliminate_zeros()
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    n_actions = len(totals) // n_states
    worst = int(np.argmax(np.abs(totals - 1)))
    if abs(totals[worst] - 1) > _PROBABILITY_TOLERANCE:
        raise ValueError(
            f"probabilities must sum to 1; those of state {worst // n_actions} and action "
            f"{worst % n_actions} sum to {totals[worst]}"
        )
    counts = np.diff(matrix.indptr)
    width = int(counts.max())
    slot = np.arange(len(matrix.data)) - np.repeat(matrix.indptr[:-1], counts)
    row = np.repeat(np.arange(len(totals)), counts)
    # Slots that a row does not need repeat its last successor, with probability 0.
    last = matrix.indices[matrix.indptr[1:] - 1].astype(np.int64)
    following = np.repeat(last[:, None], width, axis=1)
    probability = np.zeros((len(totals), width))
    following[row, slot] = matrix.indices
    probability[row, slot] = matrix.data / totals[row]
    shape = (n_states, n_actions, width)
    return following.reshape(shape), None if width == 1 else probability.reshape(shape)


def _expected_rewards(
    rewards: Any, next_SAK: np.ndarray, probability_SAK: np.ndarray | None
) -> np.ndarray:
    n_states, n_actions, _ = next_SAK.shape
    table = np.array(rewards, dtype=np.float64)
    if not np.isfinite(table).all():
        raise ValueError("rewards must be finite")
    if table.shape == (n_states,):
        return np.repeat(table[:, None], n_actions, axis=1)
    if table.shape == (n_states, n_actions):
        return table
    if table.shape == (n_states, n_actions, n_states):
        reward_SAK = np.take_along_axis(table, next_SAK, axis=2)
        return (
            reward_SAK[..., 0]
            if probability_SAK is None
            else (reward_SAK * probability_SAK).sum(-1)
        )
    raise ValueError(
        f"rewards must have shape ({n_states}, {n_actions}), ({n_states},) or "
        f"({n_states}, {n_actions}, {n_states}), not {table.shape}"
    )


def _read_toy_text(
    table: dict[int, dict[int, list[tuple[float, int, float, bool]]]],
) -> tuple[sparse.csr_array, np.ndarray, np.ndarray]:
    """Return the matrix ``(S·A, S)``, rewards ``(S, A)`` and which states end an episode.

    A state that is entered only by ending is the end itself; else the end gets a state of its own.
    """
    n_states, n_actions = len(table), len(table[0])
    entered_S, ended_S = np.zeros(n_states, bool), np.zeros(n_states, bool)
    for state, actions in table.items():
        for branches in actions.values():
            for probability, following, _, terminated in branches:
                if probability > 0 and following != state:
                    (ended_S if terminated else entered_S)[following] = True
    end_S = ended_S & ~entered_S
    rows, columns, values = [], [], []
    rewards = np.zeros((n_states + 1, n_actions))
    for state, actions in table.items():
        for action, branches in actions.items():
            for probability, following, reward, terminated in branches:
                rows.append(state * n_actions + action)
                columns.append(n_states if terminated and not end_S[following] else following)
                values.append(probability)
                rewards[state, action] += probability * reward
    for action in range(n_actions):
        rows.append(n_states * n_actions + action)
        columns.append(n_states)
        values.append(1.0)
    used = n_states in columns[:-n_actions]
    count = n_states + used
    keep = len(values) if used else len(values) - n_actions
    matrix = sparse.coo_array(
        (values[:keep], (rows[:keep], columns[:keep])), shape=(count * n_actions, count)
    )
    return matrix.tocsr(), rewards[:count], np.append(end_S, True)[:count]
