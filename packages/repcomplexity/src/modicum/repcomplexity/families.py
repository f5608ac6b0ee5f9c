"""Families of bit-level decision processes whose optimal values are known.

Majority, parity and satisfiability processes, in which the model is easy to represent and the
optimal values are not, and two controls in which that is not so. Each answers for whole arrays of
codes, in NumPy or torch. Knows nothing of how hard its functions are to represent.

Shapes: ``…`` any shape of codes; n representation bits, N = 2**b values of b control bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.repcomplexity.bits import MAX_BITS, Array, bits_for, check_limit, pack, popcount
from modicum.repcomplexity.mdp import (
    BitMDP,
    Branches,
    Lookup,
    RewardBounds,
    as_codes,
    draw_integers,
    where,
)

__all__ = [
    "UNREACHABLE",
    "IrrelevantParityMDP",
    "MajorityMDP",
    "ParityMDP",
    "RandomMDP",
    "SatMDP",
    "one_cycle",
]

UNREACHABLE = 2**31 - 1
"""Steps to a reward that cannot be reached; more than any horizon."""

_BIT_REWARD = RewardBounds(0, 1, True)
_SEARCH_BITS = 28
_CONDITION_SAMPLE = 1 << 12
_RANDOM_BITS = 24
_SAT_VARIABLES = 12

Condition = Callable[[Array], Array]


class _GoalMDP(BitMDP):
    """A process that pays 1 in goal states only, so that the fewest steps there give its values."""

    def steps_to_reward(self, codes: Array) -> Array:
        """Return the fewest steps from states ``(…)`` to a reward, int64; `UNREACHABLE` if none."""
        raise NotImplementedError

    def _value_of(self, steps_left: int, distance: Array) -> Array:
        raise NotImplementedError

    @property
    def knows_distances(self) -> bool:
        """Whether `steps_to_reward` is within its limits."""
        return True

    @property
    def has_closed_form(self) -> bool:
        """Whether nothing is left to chance and the distances to a reward are known."""
        return self.deterministic and self.knows_distances

    def optimal_values(self, codes: Array, step: int = 1) -> Array:
        """Return V*_h ``(…)``, int64, of states at step h of ``1 … H``; 0 after the last.

        Raises
        ------
        ValueError
            If there is chance, where no closed form is known, or the step is below 1.
        """
        if not self.has_closed_form:
            return super().optimal_values(codes, step)
        _check_step(step)
        assert self.horizon is not None
        return self._value_of(self.horizon - step + 1, self.steps_to_reward(as_codes(codes)))


class MajorityMDP(_GoalMDP):
    """Flip the bit under a pointer or advance the pointer; a reward in one representation.

    A state is ``c·2**n + x`` with a control value c and a representation x. Action 1 flips bit c of
    x (nothing where c ≥ n) if the condition holds at x; action 0 moves c to ``control[c]``. The
    reward is 1 where x is the reward state. The model has depth-2 circuits of polynomial size,
    and V*_1 > 0 computes majority after some inputs are fixed.

    Parameters
    ----------
    n
        Representation bits, at least 2. There are b = ceil(log2 n) control bits.
    control
        ``"increment"`` (modulo N), or the images of ``0 … N − 1`` under a permutation that is one
        cycle.
    reward_state
        s*, as a code in ``[0, 2**n)`` or as n bits. All ones if None.
    condition
        When action 1 may flip: a function of int64 arrays and tensors ``(…)`` in ``[0, 2**n)`` that
        returns Booleans, or Booleans ``(2**n,)``, or an object that has them as ``values``. Always
        if None.
    on_blocked
        What action 1 does where the condition fails: ``"advance"`` like action 0, or ``"stay"``.
    flip_advances
        Whether the pointer also moves after a flip.
    slip
        Probability in [0, 1) that nothing changes in a step.
    reward_mode
        ``"state"``: in every step at s*. ``"once"``: in the first only; a top bit of the state then
        says that it was paid.
    horizon
        H; N + n // 2 if None.

    References
    ----------
    Zhu, Huang, Russell: On Representation Complexity of Model-based and Model-free Reinforcement
    Learning (ICLR 2024, arXiv 2310.01706).
    """

    def __init__(
        self,
        n: int,
        control: str | Sequence[int] = "increment",
        reward_state: int | Sequence[int] | None = None,
        condition: Condition | Any = None,
        *,
        on_blocked: str = "advance",
        flip_advances: bool = False,
        slip: float = 0.0,
        reward_mode: str = "state",
        horizon: int | None = None,
    ):
        n = _whole(n, "n")
        if n < 2:
            raise ValueError(f"n must be at least 2, not {n}")
        if on_blocked not in ("advance", "stay"):
            raise ValueError(f"on_blocked must be 'advance' or 'stay', not {on_blocked!r}")
        if reward_mode not in ("state", "once"):
            raise ValueError(f"reward_mode must be 'state' or 'once', not {reward_mode!r}")
        if not 0 <= slip < 1:
            raise ValueError(f"slip must be in [0, 1), not {slip}")
        self.n, self.n_control_bits = int(n), bits_for(n)
        self.on_blocked, self.flip_advances = on_blocked, bool(flip_advances)
        self.slip, self.reward_mode = float(slip), reward_mode
        width = self.n + self.n_control_bits
        # Before the masks, of which those of too many bits would not fit an int64.
        _check_bits(width + (reward_mode == "once"))
        values = 1 << self.n_control_bits
        self.control = one_cycle(control, values)
        self._following, self._previous = Lookup(self.control), Lookup(np.argsort(self.control))
        flips = [1 << c if c < n else 0 for c in range(values)]
        self._flip = Lookup(np.array(flips, dtype=np.int64))
        self.reward_state = _target(reward_state, self.n, "reward_state", default=(1 << n) - 1)
        self.condition = None if condition is None else _as_condition(condition, self.n)
        self._distances: Lookup | None = None
        order = [*range(self.n, width), *range(self.n)]
        super().__init__(
            width + (reward_mode == "once"),
            2,
            self._move,
            self._pay,
            horizon=values + self.n // 2 if horizon is None else horizon,
            observation_order=[*order, width] if reward_mode == "once" else order,
            reward_bounds=_BIT_REWARD,
            name=f"MajorityMDP(n={n})",
        )

    def encode(self, control: Array, representation: Array) -> Array:
        """Return the codes of states with nothing paid yet, of arrays ``(…)`` of c and x."""
        return (control << self.n) | representation

    def control_of(self, codes: Array) -> Array:
        """Return the control values c of states ``(…)``."""
        return (codes >> self.n) & ((1 << self.n_control_bits) - 1)

    def representation_of(self, codes: Array) -> Array:
        """Return the representations x of states ``(…)``."""
        return codes & ((1 << self.n) - 1)

    def sample_states(self, count: int, rng: Any) -> Array:
        """Draw control values and representations uniformly, nothing paid yet; int64 (count,).

        `rng` is as for `BitMDP.sample_states`.
        """
        return draw_integers(1 << (self.n + self.n_control_bits), count, rng)

    def _move(self, codes: Array, action: Any) -> Array | Branches:
        c, x = self.control_of(codes), self.representation_of(codes)
        if self.reward_mode == "once":
            paid = (self._paid(codes) | (x == self.reward_state)) << (self.n + self.n_control_bits)
        else:
            paid = codes & 0
        following = paid | self._act(c, x, action)
        if self.slip == 0:
            return following
        return [(following, 1 - self.slip), (paid | self.encode(c, x), self.slip)]

    def _act(self, c: Array, x: Array, action: Any) -> Array:
        further = self._following(c)
        advanced = self.encode(further, x)
        if isinstance(action, int) and action == 0:
            return advanced
        flipped = self.encode(further if self.flip_advances else c, x ^ self._flip(c))
        if self.condition is not None:
            blocked = advanced if self.on_blocked == "advance" else self.encode(c, x)
            flipped = where(self.condition(x), flipped, blocked)
        return flipped if isinstance(action, int) else where(action == 1, flipped, advanced)

    def _paid(self, codes: Array) -> Array:
        return (codes >> (self.n + self.n_control_bits)) & 1

    def _pay(self, codes: Array, action: Any) -> Array:
        at_goal = self.representation_of(codes) == self.reward_state
        if self.reward_mode == "once":
            at_goal = at_goal & (self._paid(codes) == 0)
        return at_goal + (codes & 0)

    @property
    def knows_distances(self) -> bool:
        """Whether there is no condition, or few enough bits for a search."""
        return self.condition is None or self.n + self.n_control_bits <= _SEARCH_BITS

    def steps_to_reward(self, codes: Array) -> Array:
        """Return the fewest steps T from states ``(…)`` to a reward, int64.

        Without a condition, with d = x ⊕ s* and L the last offset k of the pointer's way at which
        ``control**k (c)`` is a position with d = 1: T = |d| + L, and L + 1 if flips advance. Else
        from a search through all control values and representations, which is kept.

        Returns
        -------
        array or tensor
            `UNREACHABLE` where s* cannot be reached or has been paid.

        Raises
        ------
        ComplexityLimitError
            If a condition asks for a search of more than 2**28 states.
        """
        codes = as_codes(codes)
        if self.condition is None:
            steps = self._steps_unconditioned(codes)
        else:
            if self._distances is None:
                self._distances = Lookup(self._search())
            states = codes & ((1 << (self.n + self.n_control_bits)) - 1)
            steps = as_codes(self._distances(states))
        if self.reward_mode == "once":
            steps = where(self._paid(codes) == 1, UNREACHABLE, steps)
        return steps

    def _steps_unconditioned(self, codes: Array) -> Array:
        wrong = self.representation_of(codes) ^ self.reward_state
        pointer, last = self.control_of(codes), codes & 0
        for offset in range(len(self.control)):
            last = where((wrong & self._flip(pointer)) != 0, offset, last)
            pointer = self._following(pointer)
        return last + ((wrong != 0) if self.flip_advances else popcount(wrong))

    def _search(self) -> np.ndarray:
        """Return the steps from every control value and representation, int32, by going back."""
        width = self.n + self.n_control_bits
        check_limit(
            "the number of state bits",
            width,
            _SEARCH_BITS,
            cost=f"{2.0 ** (width - 28):,.0f} GiB of distances alone",
            alternative="leave out the condition, without which there is a closed form",
        )
        assert self.condition is not None
        distance = np.full(1 << width, UNREACHABLE, dtype=np.int32)
        frontier = self.encode(np.arange(len(self.control)), np.int64(self.reward_state))
        distance[frontier] = steps = 0
        while frontier.size:
            steps += 1
            c, x = self.control_of(frontier), self.representation_of(frontier)
            before = self._previous(c)
            origin = before if self.flip_advances else c
            flipped = x ^ self._flip(origin)
            flips = np.broadcast_to(self.condition(flipped), flipped.shape)
            reached = [self.encode(before, x), self.encode(origin, flipped)[flips]]
            frontier = np.unique(np.concatenate(reached))
            frontier = frontier[distance[frontier] == UNREACHABLE]
            distance[frontier] = steps
        return distance

    def _value_of(self, steps_left: int, distance: Array) -> Array:
        if self.reward_mode == "once":
            return as_codes(distance < steps_left)
        return (steps_left - distance).clip(0)


class ParityMDP(_GoalMDP):
    """Flip two bits at a time; a reward in one state, which half of the states can reach.

    V*_1 > 0 exactly in the states at even distance from the target, so that representing the values
    takes parity, while the model is simple.

    Parameters
    ----------
    n
        Bits of a state, even and at least 2.
    target_state
        s*, as a code or as n bits; all zeros if None.
    allow_noop
        Whether there is also an action that flips nothing; it is action 0.
    horizon
        H; n // 2 + 1 if None, the least from which every even state has a positive value.

    Attributes
    ----------
    pairs : tuple of (int, int)
        Positions that each action flips, i < j; ``(0, 0)`` flips nothing. The code of an action
        holds i in its low bits and j in its high bits.

    References
    ----------
    Zhu, Huang, Russell: On Representation Complexity of Model-based and Model-free Reinforcement
    Learning (ICLR 2024, arXiv 2310.01706).
    """

    def __init__(
        self,
        n: int,
        *,
        target_state: int | Sequence[int] | None = None,
        allow_noop: bool = True,
        horizon: int | None = None,
    ):
        n = _whole(n, "n")
        if n < 2 or n % 2:
            raise ValueError(f"n must be even and at least 2, not {n}")
        _check_bits(n)
        self.n, self.allow_noop = int(n), bool(allow_noop)
        self.target_state = _target(target_state, self.n, "target_state", default=0)
        noop = [(0, 0)] if allow_noop else []
        self.pairs = (*noop, *combinations(range(self.n), 2))
        masks = [(1 << i) ^ (1 << j) for i, j in self.pairs]
        self._masks = Lookup(np.array(masks, dtype=np.int64))
        width = bits_for(self.n)
        super().__init__(
            self.n,
            len(self.pairs),
            self._move,
            self._pay,
            horizon=self.n // 2 + 1 if horizon is None else horizon,
            action_codes=np.array([i | j << width for i, j in self.pairs]),
            reward_bounds=_BIT_REWARD,
            name=f"ParityMDP(n={n})",
        )

    def _move(self, codes: Array, action: Any) -> Array:
        if isinstance(action, int):
            return codes ^ int(self._masks.values[action])
        return codes ^ self._masks(action)

    def _pay(self, codes: Array, action: Any) -> Array:
        return (codes == self.target_state) + (codes & 0)

    def steps_to_reward(self, codes: Array) -> Array:
        """Return the fewest steps to s*, int64 ``(…)``: half the distance, if that is even."""
        distance = popcount(as_codes(codes) ^ self.target_state)
        return where(distance % 2 == 0, distance >> 1, UNREACHABLE)

    def _value_of(self, steps_left: int, distance: Array) -> Array:
        visits = (steps_left - distance).clip(0)
        # Without the action that stays, the target is left and entered again in turns.
        return visits if self.allow_noop else (visits + 1) >> 1


class SatMDP(_GoalMDP):
    """Choose the values of variables one by one; a reward at the end if a formula is satisfied.

    The formula is part of the state: one bit for each of a list of possible clauses says whether it
    must hold. V* of a state in which nothing is chosen decides satisfiability, so that a short
    exact representation for all formulas would be surprising, while the model only writes a
    bit. A state holds, from its low bits: the values of the variables, the number of variables
    chosen so far, and the clauses.

    Parameters
    ----------
    n_variables
        Number of variables, 1 to 12.
    clauses
        Possible clauses in the manner of DIMACS: non-zero integers, ``−3`` for "variable 3 is
        false". All clauses of three different variables if None (of all variables where there are
        fewer).
    horizon
        H; one more than there are variables if None, enough to be paid for any formula.

    References
    ----------
    After the 3-SAT process of Feng, Zhong: Rethinking Model-based, Policy-based, and Value-based
    Reinforcement Learning via the Lens of Representation Complexity (arXiv 2312.17248).
    """

    def __init__(
        self,
        n_variables: int,
        clauses: Iterable[Iterable[int]] | None = None,
        *,
        horizon: int | None = None,
    ):
        n_variables = _whole(n_variables, "n_variables")
        if n_variables < 1:
            raise ValueError(f"n_variables must be at least 1, not {n_variables}")
        check_limit(
            "n_variables",
            n_variables,
            _SAT_VARIABLES,
            cost=f"a table of {1 << n_variables:,} assignments per state",
            alternative="use fewer variables",
        )
        self.n_variables = int(n_variables)
        listed = _all_clauses(self.n_variables) if clauses is None else clauses
        self.clauses = tuple(_clause(clause, self.n_variables) for clause in listed)
        if len(set(self.clauses)) != len(self.clauses):
            raise ValueError("clauses must differ from each other")
        # Numbers of chosen variables, and one that says that the episode is over.
        self.n_counter_bits = bits_for(self.n_variables + 2)
        self._formula_at = self.n_variables + self.n_counter_bits
        _check_bits(self._formula_at + len(self.clauses))
        self._satisfied_by = Lookup(self._clauses_satisfied())
        super().__init__(
            self._formula_at + len(self.clauses),
            2,
            self._move,
            self._pay,
            horizon=self.n_variables + 1 if horizon is None else horizon,
            terminal=self._is_over,
            reward_bounds=_BIT_REWARD,
            name=f"SatMDP(n_variables={n_variables}, {len(self.clauses)} clauses)",
        )

    def assignment_of(self, codes: Array) -> Array:
        """Return the values of the variables as codes ``(…)``; 0 where nothing is chosen yet."""
        return codes & ((1 << self.n_variables) - 1)

    def chosen_of(self, codes: Array) -> Array:
        """Return how many variables are chosen in states ``(…)``; more than all when it is over."""
        return (codes >> self.n_variables) & ((1 << self.n_counter_bits) - 1)

    def formula_of(self, codes: Array) -> Array:
        """Return which clauses must hold in states ``(…)``: bit k for ``clauses[k]``."""
        return codes >> self._formula_at

    def start(self, clauses: Iterable[Iterable[int]]) -> int:
        """Return the state in which nothing is chosen yet, for a formula of some of the clauses.

        Raises
        ------
        ValueError
            If a clause is none of this process.
        """
        formula = 0
        for clause in clauses:
            known = _clause(clause, self.n_variables)
            if known not in self.clauses:
                raise ValueError(f"clause {list(known)} is not among the clauses of {self.name}")
            formula |= 1 << self.clauses.index(known)
        return formula << self._formula_at

    def sample_states(self, count: int, rng: Any) -> Array:
        """Draw states in which nothing is chosen yet, every set of clauses alike; int64 (count,).

        `rng` is as for `BitMDP.sample_states`.
        """
        return draw_integers(1 << len(self.clauses), count, rng) << self._formula_at

    def _clauses_satisfied(self) -> np.ndarray:
        """Return for every assignment the clauses that it satisfies, as a code."""
        assignments = np.arange(1 << self.n_variables, dtype=np.int64)
        satisfied = np.zeros_like(assignments)
        for k, clause in enumerate(self.clauses):
            holds = [((assignments >> abs(lit) - 1) & 1) == (lit > 0) for lit in clause]
            satisfied |= np.any(holds, axis=0).astype(np.int64) << k
        return satisfied

    def _holds(self, formula: Array, assignment: Array) -> Array:
        return (formula & ~self._satisfied_by(assignment)) == 0

    def _is_over(self, codes: Array) -> Array:
        return self.chosen_of(codes) > self.n_variables

    def _move(self, codes: Array, action: Any) -> Array:
        chosen = self.chosen_of(codes)
        # The bit of the next variable, which is none once all are chosen.
        variable = (1 - (codes & 0)) << chosen.clip(0, self.n_variables)
        variable = variable & ((1 << self.n_variables) - 1)
        written = where((action + (codes & 0)) == 1, codes | variable, codes & ~variable)
        return where(self._is_over(codes), codes, written + (1 << self.n_variables))

    def _pay(self, codes: Array, action: Any) -> Array:
        holds = self._holds(self.formula_of(codes), self.assignment_of(codes))
        return (holds & (self.chosen_of(codes) == self.n_variables)) + (codes & 0)

    def steps_to_reward(self, codes: Array) -> Array:
        """Return the variables left to choose, int64 ``(…)``, by trying all assignments.

        Returns
        -------
        array or tensor
            `UNREACHABLE` where no choice satisfies the formula or the episode is over.
        """
        codes = as_codes(codes)
        chosen, formula = self.chosen_of(codes), self.formula_of(codes)
        fixed = ((1 - (codes & 0)) << chosen.clip(0, self.n_variables)) - 1
        possible = codes < 0
        for assignment in range(1 << self.n_variables):
            agrees = ((codes ^ assignment) & fixed) == 0
            possible = possible | (agrees & self._holds(formula, assignment | (codes & 0)))
        possible = possible & ~self._is_over(codes)
        return where(possible, self.n_variables - chosen, UNREACHABLE)

    def _value_of(self, steps_left: int, distance: Array) -> Array:
        return as_codes(distance < steps_left)


class IrrelevantParityMDP(BitMDP):
    """A control in which the values are easy and the model is hard.

    The action becomes bit 0, which is also the reward; the last bit becomes the parity of all bits
    and matters to nobody. One bit of the model is a parity of n inputs, while
    ``Q*_1 = x_0 + a + H − 2`` (``x_0`` for H = 1).

    Parameters
    ----------
    n
        Bits of a state, at least 2.
    horizon
        H, at least 1; with 2 the values take all of 0, 1, 2.
    """

    def __init__(self, n: int, *, horizon: int = 2):
        n = _whole(n, "n")
        if n < 2:
            raise ValueError(f"n must be at least 2, not {n}")
        self.n = n
        super().__init__(
            self.n,
            2,
            self._move,
            self._pay,
            horizon=horizon,
            reward_bounds=_BIT_REWARD,
            name=f"IrrelevantParityMDP(n={n})",
        )

    def _move(self, codes: Array, action: Any) -> Array:
        kept = codes & ((1 << (self.n - 1)) - 1) & ~1
        return kept | action | ((popcount(codes) & 1) << (self.n - 1))

    def _pay(self, codes: Array, action: Any) -> Array:
        return codes & 1

    @property
    def has_closed_form(self) -> bool:
        """Always: every later step pays 1."""
        return True

    def optimal_values(self, codes: Array, step: int = 1) -> Array:
        """Return V*_h ``(…)``: bit 0 now and 1 in every later step."""
        assert self.horizon is not None
        _check_step(step)
        steps_left = self.horizon - step + 1
        return (as_codes(codes) & 1) * (steps_left > 0) + max(0, steps_left - 1)


class RandomMDP(BitMDP):
    """A control in which nothing is easy: next states and rewards are random tables.

    With one step the values are the rewards, so that all targets are random functions alike; with
    more, values grow and fewer of them are 0.

    Parameters
    ----------
    n
        Bits of a state, 1 to 24.
    n_actions
        Number of actions.
    horizon
        H, at least 1.
    seed
        Of the tables.
    """

    def __init__(self, n: int, *, n_actions: int = 2, horizon: int = 1, seed: int = 0):
        n, n_actions = _whole(n, "n"), _whole(n_actions, "n_actions")
        if n < 1 or n_actions < 1:
            raise ValueError(f"n and n_actions must be at least 1, not {n} and {n_actions}")
        check_limit(
            "the number of state bits",
            n,
            _RANDOM_BITS,
            cost=f"{n_actions * 2.0 ** (n - 26):,.0f} GiB of tables",
            alternative="use fewer bits",
        )
        self.n, self.seed = int(n), int(seed)
        rng = numpy_generator(seed, "RandomMDP")
        self._table = Lookup(rng.integers(1 << n, size=(1 << n, n_actions)))
        self._paid = Lookup(rng.integers(2, size=(1 << n, n_actions)))
        super().__init__(
            self.n,
            n_actions,
            self._move,
            self._pay,
            horizon=horizon,
            reward_bounds=_BIT_REWARD,
            name=f"RandomMDP(n={n}, seed={seed})",
        )

    def _move(self, codes: Array, action: Any) -> Array:
        return self._table((codes, action))

    def _pay(self, codes: Array, action: Any) -> Array:
        return self._paid((codes, action))


def _whole(number: int, argument: str) -> int:
    """Return a whole number as an int, so that names and shifts have one; refuse others."""
    try:
        whole = int(number)
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or isinstance(number, str) or whole != number:
        raise ValueError(f"{argument} must be an integer, not {number!r}")
    return whole


def _check_step(step: int) -> None:
    if step < 1:
        raise ValueError(f"step must be at least 1, not {step}")


def _check_bits(bits: int) -> None:
    check_limit(
        "the number of state bits",
        bits,
        MAX_BITS,
        cost="codes that do not fit an int64",
        alternative="use a smaller process",
    )


def _target(state: int | Sequence[int] | None, n: int, argument: str, default: int) -> int:
    if state is None:
        return default
    if isinstance(state, int | np.integer):
        code = int(state)
    else:
        bits = np.asarray(state)
        if bits.shape != (n,):
            raise ValueError(f"{argument} must be a code or {n} bits, not of shape {bits.shape}")
        code = int(pack(bits))
    if not 0 <= code < 1 << n:
        raise ValueError(f"{argument} must be in [0, {1 << n}), not {code}")
    return code


def one_cycle(control: str | Sequence[int], values: int) -> np.ndarray:
    """Return the images of ``0 … values − 1`` under a control map, int64 ``(values,)``.

    Parameters
    ----------
    control
        ``"increment"`` (modulo `values`), or the images.
    values
        Number of control values.

    Raises
    ------
    ValueError
        If the map is not a permutation that is one cycle.
    """
    if isinstance(control, str):
        if control != "increment":
            raise ValueError(f"control must be 'increment' or a permutation, not {control!r}")
        return (np.arange(values, dtype=np.int64) + 1) % values
    images = np.asarray(control)
    if images.shape != (values,) or sorted(images.tolist()) != list(range(values)):
        raise ValueError(f"control must be a permutation of 0 … {values - 1}, not {control}")
    lengths, left = [], set(range(values))
    while left:
        position, length = min(left), 0
        while position in left:
            left.remove(position)
            position, length = int(images[position]), length + 1
        lengths.append(length)
    if len(lengths) > 1:
        raise ValueError(f"control must be one cycle, not cycles of lengths {lengths}")
    return images.astype(np.int64)


def _as_condition(condition: Any, n: int) -> Condition:
    tensor = hasattr(condition, "detach")
    values = condition.cpu().numpy() if tensor else getattr(condition, "values", condition)
    if callable(values):
        sample = np.arange(min(1 << n, _CONDITION_SAMPLE), dtype=np.int64)
        answer = np.asarray(values(sample))
        if answer.dtype != bool or answer.shape != sample.shape:
            raise ValueError(
                f"condition must return Booleans of shape {sample.shape} for codes of that shape, "
                f"not {answer.dtype} of shape {answer.shape}"
            )
        return values
    table = np.asarray(values)
    if table.dtype != bool or table.shape != (1 << n,):
        raise ValueError(
            f"condition must be a function or Booleans of shape ({1 << n},), "
            f"not {table.dtype} of shape {table.shape}"
        )
    return Lookup(table)


def _all_clauses(n_variables: int) -> list[tuple[int, ...]]:
    width = min(3, n_variables)
    return [
        tuple(sign * variable for sign, variable in zip(signs, chosen, strict=True))
        for chosen in combinations(range(1, n_variables + 1), width)
        for signs in product((1, -1), repeat=width)
    ]


def _by_variable(literal: int) -> tuple[int, bool]:
    return abs(literal), literal < 0


def _clause(literals: Iterable[int], n_variables: int) -> tuple[int, ...]:
    clause = tuple(sorted({int(literal) for literal in literals}, key=_by_variable))
    if not clause or any(not 1 <= abs(literal) <= n_variables for literal in clause):
        raise ValueError(
            f"a clause must hold variables ±1 … ±{n_variables}, at least one, not {list(clause)}"
        )
    return clause
