"""The Boolean functions that a decision process consists of: model, reward, values and policy.

Takes a process and its solution, gives truth tables and real-valued columns. Row ``a·2**m + s`` of
a table belongs to the code s of a state and the code a of an action; functions of states alone have
row s. Knows nothing of how complex a function is.

A code of no action stands for action 0; a code of no state leads to itself, is worth 0 and asks for
action 0.

Shapes: R rows, m state bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from modicum.repcomplexity.bits import bits_for, check_limit, unpack
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import Solution

__all__ = [
    "MAX_TABLE_INPUTS",
    "MODEL_TARGETS",
    "TARGETS",
    "NamedFunction",
    "Target",
    "check_inputs",
    "check_targets",
    "target_of",
]

TARGETS = ("transition", "reward", "q", "value", "policy")
"""What can be tabulated: next states, rewards, Q*_1, V*_1, and an optimal policy of step 1."""

MODEL_TARGETS = ("transition", "reward")
"""The targets that make up the model."""

MAX_TABLE_INPUTS = 24
"""Most inputs, bits of a state and of an action together."""

MAX_LEVELS = 16
"""Most indicators that a real-valued target is cut into."""

# Value iteration stops at about 1e-10; values closer than this share of their range are one.
_RESOLUTION = 1e-8


@dataclass(frozen=True, eq=False)
class NamedFunction:
    """A Boolean function and what it says, such as ``"Q* >= 1"``."""

    name: str
    table: TruthTable


@dataclass(frozen=True, eq=False)
class Target:
    """A target as Boolean functions and as numbers.

    Attributes
    ----------
    name
        One of `TARGETS`.
    functions
        Bits of a code, bits of an integer and whether it is above the least, or indicators of
        levels of a real number.
    columns
        The target as numbers, each ``(R,)``: bits of codes, or the number itself.
    """

    name: str
    functions: tuple[NamedFunction, ...]
    columns: tuple[np.ndarray, ...]


def check_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """Return targets without repetitions, in the order of `TARGETS`.

    Raises
    ------
    ValueError
        If there is none, or one is unknown.
    """
    given = (targets,) if isinstance(targets, str) else tuple(targets)
    unknown = [target for target in given if target not in TARGETS]
    if unknown or not given:
        raise ValueError(f"targets must be some of {', '.join(TARGETS)}, not {given}")
    return tuple(target for target in TARGETS if target in given)


def target_of(mdp: BitMDP, solution: Solution, name: str) -> Target:
    """Tabulate a target.

    Parameters
    ----------
    mdp
        The process.
    solution
        Its values, as NumPy arrays; asked for ``"q"``, ``"value"`` and ``"policy"`` only.
    name
        One of `TARGETS`.

    Raises
    ------
    ValueError
        If the target is unknown.
    ComplexityLimitError
        If there are more than `MAX_TABLE_INPUTS` inputs.
    """
    (name,) = check_targets([name])
    check_inputs(mdp)
    return _TABULATE[name](mdp, solution)


def check_inputs(mdp: BitMDP) -> None:
    """Refuse a process with more bits than can be tabulated, before anything is allocated.

    Raises
    ------
    ComplexityLimitError
        If its states and actions have more than `MAX_TABLE_INPUTS` bits together.
    """
    inputs = mdp.n_state_bits + mdp.n_action_bits
    check_limit(
        "the number of state and action bits",
        inputs,
        MAX_TABLE_INPUTS,
        cost=f"{2.0 ** (inputs - 27):,.1f} GiB for each column",
        alternative="use a smaller process, or measure on samples",
    )


def _transition(mdp: BitMDP, solution: Solution) -> Target:
    del solution
    bits = range(mdp.n_state_bits)
    if mdp.deterministic:
        following = _by_action(mdp, mdp.next_codes)
        columns = tuple((following >> bit & 1).astype(np.bool_) for bit in bits)
        functions = [
            NamedFunction(f"next bit {bit}", TruthTable(column))
            for bit, column in enumerate(columns)
        ]
        return Target("transition", tuple(functions), columns)
    chances, functions = [], []
    for bit in bits:
        chances.append(_by_action(mdp, partial(_chance, mdp, bit)))
        functions += _levels(chances[-1], f"P[next bit {bit}]", lowest=0.0)
    return Target("transition", tuple(functions), tuple(chances))


def _chance(mdp: BitMDP, bit: int, codes: np.ndarray, action: int) -> np.ndarray:
    """Return how likely a bit of the next state is 1."""
    total = np.zeros(codes.shape)
    for following, probability in mdp.transitions(codes, action):
        total += probability * (following >> bit & 1)
    return total


def _reward(mdp: BitMDP, solution: Solution) -> Target:
    del solution
    rewards = _by_action(
        mdp, lambda codes, action: np.asarray(mdp.rewards(codes, action)), outside=0.0
    )
    return Target("reward", tuple(_levels(rewards, "reward")), (rewards.astype(np.float64),))


def _q(mdp: BitMDP, solution: Solution) -> Target:
    columns_AS = [_on_all_codes(mdp, solution.Q[:, a], 0) for a in range(mdp.n_actions)]
    return _numbers("q", "Q*", np.concatenate([columns_AS[a] for a in _actions(mdp)]))


def _value(mdp: BitMDP, solution: Solution) -> Target:
    return _numbers("value", "V*", _on_all_codes(mdp, solution.V, 0))


def _policy(mdp: BitMDP, solution: Solution) -> Target:
    chosen = solution.policy
    if chosen.ndim == 2:
        chosen = chosen.argmax(1)
    codes = mdp.action_codes[_on_all_codes(mdp, chosen, 0)]
    # One action alone has no bits; it is a constant.
    bits = unpack(codes, max(1, mdp.n_action_bits), "bool")
    columns = tuple(np.ascontiguousarray(column) for column in bits.T)
    functions = [
        NamedFunction(f"action bit {bit}", TruthTable(column)) for bit, column in enumerate(columns)
    ]
    return Target("policy", tuple(functions), columns)


_TABULATE: dict[str, Callable[[BitMDP, Solution], Target]] = {
    "transition": _transition,
    "reward": _reward,
    "q": _q,
    "value": _value,
    "policy": _policy,
}


def _actions(mdp: BitMDP) -> np.ndarray:
    """Return the action of each action code, 0 where a code stands for none."""
    action_of = np.zeros(1 << mdp.n_action_bits, dtype=np.int64)
    action_of[mdp.action_codes] = np.arange(mdp.n_actions)
    return action_of


def _by_action(
    mdp: BitMDP,
    function: Callable[[np.ndarray, int], np.ndarray],
    outside: float | None = None,
) -> np.ndarray:
    """Tabulate a function of states and actions; codes of no state take `outside`.

    With `outside` None they lead to themselves.
    """
    codes = np.arange(1 << mdp.n_state_bits, dtype=np.int64)
    known = mdp.is_state(codes)
    tables = []
    for action in range(mdp.n_actions):
        values = function(codes[known], action)
        table = np.zeros(codes.shape, dtype=np.asarray(values).dtype)
        table[known] = values
        if outside is not None:
            table[~known] = outside
        elif table.dtype == np.int64:
            table[~known] = codes[~known]
        tables.append(table)
    return np.concatenate([tables[action] for action in _actions(mdp)])


def _on_all_codes(mdp: BitMDP, values: np.ndarray, outside: int) -> np.ndarray:
    """Spread numbers of states ``(S,)`` over all codes."""
    table = np.full(1 << mdp.n_state_bits, outside, dtype=values.dtype)
    table[mdp.codes_of(np.arange(mdp.n_states))] = values
    return table


def _numbers(target: str, symbol: str, values: np.ndarray) -> Target:
    """Cut numbers into Boolean functions: integers into bits, others into levels."""
    column = values.astype(np.float64)
    if not np.issubdtype(values.dtype, np.integer):
        return Target(target, tuple(_levels(column, symbol)), (column,))
    lowest = int(values.min())
    above = values.astype(np.int64) - lowest
    functions = [NamedFunction(f"{symbol} >= {lowest + 1}", TruthTable(above > 0))]
    name = symbol if lowest == 0 else f"({symbol} - {lowest})"
    width = bits_for(int(above.max()) + 1)
    if width > 1:
        functions += [
            NamedFunction(f"{name} bit {bit}", TruthTable((above >> bit & 1).astype(np.bool_)))
            for bit in range(width)
        ]
    return Target(target, tuple(functions), (column,))


def _levels(values: np.ndarray, symbol: str, lowest: float | None = None) -> list[NamedFunction]:
    """Return indicators that a number reaches each of its levels above the lowest."""
    numbers = np.asarray(values, dtype=np.float64)
    levels = np.unique(numbers)
    span = float(levels[-1] - levels[0])
    if span:
        # Levels that differ by rounding only become one, the lowest of them.
        levels = levels[np.concatenate(([True], np.diff(levels) > _RESOLUTION * span))]
    first = levels[0] if lowest is None else lowest
    above = levels[levels > first]
    if not above.size:
        return [NamedFunction(f"{symbol} > {first:g}", TruthTable(numbers > first))]
    if above.size > MAX_LEVELS:
        chosen = np.linspace(0, above.size - 1, MAX_LEVELS).round().astype(int)
        above = above[chosen]
    return [
        NamedFunction(f"{symbol} >= {level:.6g}", TruthTable(numbers >= level)) for level in above
    ]
