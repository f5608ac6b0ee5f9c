"""Explicit circuits of the Majority MDP: the upper bounds on the complexity of model and value.

Each builder has a function with the exact number of its gates. The circuits of the Majority MDP
read the packed code ``a·2^(n+b) + c·2^n + x``, least significant bit first: inputs 0 … n−1 are the
bits of x, n … n+b−1 those of the pointer c, and input n+b, where there is one, is the action. So
row r of a truth table is code r. b = ceil(log2 n) and N = 2^b throughout.

References
----------
Zhu, Huang, Russell, "On Representation Complexity of Model-based and Model-free Reinforcement
Learning", ICLR 2024, arXiv 2310.01706, for the process and the separation.
"""

from __future__ import annotations

from collections.abc import Sequence

from modicum.repcomplexity.bits import bits_for
from modicum.repcomplexity.circuits.circuit import Circuit, Node
from modicum.repcomplexity.families import one_cycle

__all__ = [
    "model_circuit",
    "model_size",
    "model_terms",
    "pointer_bit",
    "pointer_bit_size",
    "q_circuit",
    "reward_circuit",
    "transition_bit",
    "transition_bit_size",
    "value_circuit",
    "value_threshold_circuit",
    "value_threshold_size",
]


def transition_bit(n: int, i: int, *, condition: Circuit | None = None) -> Circuit:
    """Return the circuit of the next bit x_i of the Majority MDP.

    x_i' = ¬x_i·a·[c = i]·C + x_i·¬a + Σ_j x_i·(c_j ≠ i_j) + x_i·¬C: b + 2 terms without a
    condition C, b + 3 with one.

    Parameters
    ----------
    n
        Bits of x, at least 2.
    i
        Which bit, in [0, n).
    condition
        C as a circuit of n inputs and one output; None where every flip is allowed.

    Returns
    -------
    Circuit
        n + b + 1 inputs, one output; depth 2 beyond that of the condition.

    Raises
    ------
    ValueError
        If `n` or `i` is out of range, or the condition has other inputs and outputs.
    """
    x, pointer, action, circuit = _code_wires(n, with_action=True)
    if not 0 <= i < n:
        raise ValueError(f"i must be in [0, {n}), not {i}")
    allowed = _condition(circuit, x, condition)
    circuit.output(_transition_bit(circuit, x, pointer, action, i, allowed))
    return circuit


def transition_bit_size(n: int, condition: Circuit | None = None) -> int:
    """Return the gates of `transition_bit`: b + 3, or b + 4 and those of the condition."""
    return bits_for(n) + 3 + (condition is not None and condition.size + 1)


def pointer_bit(
    n: int,
    k: int,
    *,
    control: str | Sequence[int] = "increment",
    condition: Circuit | None = None,
    on_blocked: str = "advance",
    flip_advances: bool = False,
) -> Circuit:
    """Return the circuit of the next bit c_k of the pointer of the Majority MDP.

    With an increment, c_k' = hold·c_k + ¬hold·(c + 1)_k has k + 2 terms; with any other control
    function, ¬hold·f(c)_k has one term per value of c at which bit k of f(c) is 1, which are N/2.
    Without further options hold is the action a.

    Parameters
    ----------
    n
        Bits of x, at least 2.
    k
        Which bit, in [0, b).
    control
        ``"increment"``, c + 1 mod N, or the control function as N numbers that are one cycle.
    condition
        C as a circuit of n inputs and one output; None where every flip is allowed.
    on_blocked
        Whether the pointer moves when the condition forbids a flip: ``"advance"`` or ``"stay"``.
    flip_advances
        Whether the pointer moves after a flip, too.

    Returns
    -------
    Circuit
        n + b + 1 inputs, one output.

    Raises
    ------
    ValueError
        If an argument is out of range or the control function is not one cycle.
    """
    x, pointer, action, circuit = _code_wires(n, with_action=True)
    if not 0 <= k < len(pointer):
        raise ValueError(f"k must be in [0, {len(pointer)}), not {k}")
    following = _control(n, control)
    allowed = _condition(circuit, x, condition)
    hold = _hold(circuit, action, allowed, on_blocked, flip_advances)
    circuit.output(_pointer_bit(circuit, pointer, hold, k, following))
    return circuit


def pointer_bit_size(n: int, k: int, *, control: str | Sequence[int] = "increment") -> int:
    """Return the gates of `pointer_bit` without other options: k + 3, or N/2 + 2 in general."""
    following = _control(n, control)
    return k + 3 if following == _increment(n) else len(following) // 2 + 2


def reward_circuit(n: int, reward_state: int | None = None) -> Circuit:
    """Return the circuit of the reward 1[x = s*] of the Majority MDP: one AND of n literals.

    Parameters
    ----------
    n
        Bits of x, at least 2.
    reward_state
        s* as a code of n bits; all ones if None.

    Returns
    -------
    Circuit
        n + b + 1 inputs, one output, one gate.
    """
    x, _, _, circuit = _code_wires(n, with_action=True)
    circuit.output(circuit.and_(*(~d for d in _differences(x, reward_state))))
    return circuit


def model_circuit(
    n: int,
    *,
    control: str | Sequence[int] = "increment",
    reward_state: int | None = None,
    condition: Circuit | None = None,
    on_blocked: str = "advance",
    flip_advances: bool = False,
) -> Circuit:
    """Return the whole model of the Majority MDP: next bits of x, of the pointer, and the reward.

    Parameters
    ----------
    n, control, condition, on_blocked, flip_advances
        As in `pointer_bit`.
    reward_state
        s* as a code of n bits; all ones if None.

    Returns
    -------
    Circuit
        n + b + 1 inputs; n + b + 1 outputs, the code of the next state and then the reward.
    """
    x, pointer, action, circuit = _code_wires(n, with_action=True)
    following = _control(n, control)
    allowed = _condition(circuit, x, condition)
    hold = _hold(circuit, action, allowed, on_blocked, flip_advances)
    for i in range(n):
        circuit.output(_transition_bit(circuit, x, pointer, action, i, allowed))
    for k in range(len(pointer)):
        circuit.output(_pointer_bit(circuit, pointer, hold, k, following))
    circuit.output(circuit.and_(*(~d for d in _differences(x, reward_state))))
    return circuit


def model_terms(n: int) -> int:
    """Return the terms of the model with increment: n (b + 2) + Σ_k (k + 2) + 1."""
    b = bits_for(n)
    return n * (b + 2) + sum(k + 2 for k in range(b)) + 1


def model_size(n: int) -> int:
    """Return the gates of `model_circuit` with its defaults: the terms and one OR per next bit."""
    return model_terms(n) + n + bits_for(n)


def value_threshold_circuit(
    n: int,
    h: int,
    t: int,
    *,
    control: str | Sequence[int] = "increment",
    reward_state: int | None = None,
    horizon: int | None = None,
) -> Circuit:
    """Return a constant-depth threshold circuit of 1[V*_h ≥ t] of the Majority MDP.

    With d = x ⊕ s*, V*_h ≥ t says that from every position f^k(c) with d = 1 there are few enough
    ones: ∧_k (¬d_{f^k(c)} ∨ ¬THR_{H−h+1−t−k+1}(d)), where d_{f^k(c)} is selected as
    ∨_{c'} [c = c']·d_{f^k(c')}.

    Parameters
    ----------
    n
        Bits of x, at least 2.
    h
        Step, in [1, H + 1].
    t
        Value to reach. For t ≤ 0 the circuit is the constant 1.
    control, reward_state
        As in `model_circuit`.
    horizon
        H; None for N + n // 2.

    Returns
    -------
    Circuit
        n + b inputs, one output; depth at most 4 and at most N (n + 4) + 1 gates.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    x, pointer, _, circuit = _code_wires(n, with_action=False)
    remaining = _remaining(n, h, horizon)
    value = _Value(circuit, _differences(x, reward_state), pointer, _control(n, control))
    circuit.output(value.at_least(remaining, t))
    return circuit


def value_threshold_size(n: int, h: int, t: int, *, horizon: int | None = None) -> int:
    """Return the gates of `value_threshold_circuit`.

    Of the N clauses those with a threshold above n are left out; each that stays selects a bit
    with n + 1 gates, has a threshold and an OR if that threshold is at least 1, and one AND joins
    them.
    """
    n_positions = 1 << bits_for(n)
    slack = _remaining(n, h, horizon) - t
    if t <= 0 or slack < 0:
        return 0
    first = max(0, slack - n + 1)
    clauses = max(0, n_positions - first)
    with_threshold = max(0, min(slack, n_positions - 1) - first + 1)
    return clauses * (n + 1) + 2 * with_threshold + (clauses > 1)


def value_circuit(
    n: int,
    h: int = 1,
    *,
    control: str | Sequence[int] = "increment",
    reward_state: int | None = None,
    horizon: int | None = None,
) -> Circuit:
    """Return a circuit of V*_h of the Majority MDP in unary: 1[V*_h ≥ t] for t = 1 … H − h + 1.

    Parameters
    ----------
    n, h, control, reward_state, horizon
        As in `value_threshold_circuit`.

    Returns
    -------
    Circuit
        n + b inputs, H − h + 1 outputs whose sum is V*_h. O(N²) gates: selections and thresholds
        are shared.
    """
    x, pointer, _, circuit = _code_wires(n, with_action=False)
    remaining = _remaining(n, h, horizon)
    value = _Value(circuit, _differences(x, reward_state), pointer, _control(n, control))
    circuit.output(*(value.at_least(remaining, t) for t in range(1, remaining + 1)))
    return circuit.simplify()


def q_circuit(
    n: int,
    h: int = 1,
    *,
    control: str | Sequence[int] = "increment",
    reward_state: int | None = None,
    horizon: int | None = None,
) -> Circuit:
    """Return a circuit of Q*_h of the Majority MDP in unary: 1[Q*_h ≥ t] for t = 1 … H − h + 1.

    Puts the value at step h + 1 behind the model: Q*_h ≥ t where V*_{h+1}(s') ≥ t, or where the
    reward is 1 and V*_{h+1}(s') ≥ t − 1.

    Parameters
    ----------
    n, h, control, reward_state, horizon
        As in `value_threshold_circuit`, with h in [1, H].

    Returns
    -------
    Circuit
        n + b + 1 inputs, H − h + 1 outputs whose sum is Q*_h. Constant depth, O(N²) gates.
    """
    remaining = _remaining(n, h, horizon)
    if remaining < 1:
        raise ValueError(f"h must be at most the horizon, not {h}")
    model = model_circuit(n, control=control, reward_state=reward_state)
    circuit = Circuit(model.n_inputs)
    *bits, reward = circuit.embed(model, circuit.inputs())
    differences = _differences(bits[:n], reward_state)
    value = _Value(circuit, differences, bits[n:], _control(n, control))
    for t in range(1, remaining + 1):
        anyway = value.at_least(remaining - 1, t)
        circuit.output(anyway | (reward & value.at_least(remaining - 1, t - 1)))
    return circuit.simplify()


class _Value:
    """Thresholds of the value at one state of the Majority MDP, with shared parts."""

    def __init__(
        self, circuit: Circuit, differences: list[Node], pointer: list[Node], following: list[int]
    ):
        self.circuit = circuit
        self.differences = differences
        self.pointer = pointer
        self.following = following
        self.positions = [list(range(len(following)))]
        for _ in following[1:]:
            self.positions.append([following[p] for p in self.positions[-1]])
        self.selections: dict[int, Node] = {}
        self.thresholds: dict[int, Node] = {}

    def at_least(self, remaining: int, t: int) -> Node:
        """Give 1[V ≥ t] with `remaining` steps to go."""
        slack = remaining - t
        if t <= 0 or slack < 0:
            return self.circuit.const(t <= 0)
        clauses = []
        for k in range(max(0, slack - len(self.differences) + 1), len(self.following)):
            wrong = ~self._selection(k)
            clauses.append(wrong | ~self._threshold(slack - k + 1) if k <= slack else wrong)
        return self.circuit.and_(*clauses)

    def _selection(self, k: int) -> Node:
        """Give whether d is 1 at the position that the pointer reaches after k moves."""
        if k not in self.selections:
            terms = [
                self.circuit.and_(*_equals(self.pointer, start), self.differences[position])
                for start, position in enumerate(self.positions[k])
                if position < len(self.differences)
            ]
            self.selections[k] = self.circuit.or_(*terms)
        return self.selections[k]

    def _threshold(self, k: int) -> Node:
        if k not in self.thresholds:
            self.thresholds[k] = self.circuit.threshold(k, *self.differences)
        return self.thresholds[k]


def _code_wires(n: int, with_action: bool) -> tuple[list[Node], list[Node], Node, Circuit]:
    """Give the wires of x, of the pointer, and of the action (or the last one), and the circuit."""
    if n < 2:
        raise ValueError(f"n must be at least 2, not {n}")
    b = bits_for(n)
    circuit = Circuit(n + b + with_action)
    wires = circuit.inputs()
    return wires[:n], wires[n : n + b], wires[-1], circuit


def _condition(circuit: Circuit, x: list[Node], condition: Circuit | None) -> Node | None:
    if condition is None:
        return None
    if (condition.n_inputs, condition.n_outputs) != (len(x), 1):
        raise ValueError(
            f"condition must have {len(x)} inputs and 1 output, "
            f"not {condition.n_inputs} and {condition.n_outputs}"
        )
    return circuit.embed(condition, x)[0]


def _hold(
    circuit: Circuit, action: Node, allowed: Node | None, on_blocked: str, flip_advances: bool
) -> Node | None:
    """Give when the pointer stays where it is; None for never."""
    if on_blocked not in ("advance", "stay"):
        raise ValueError(f'on_blocked must be "advance" or "stay", not {on_blocked!r}')
    if allowed is None:
        return None if flip_advances else action
    if on_blocked == "stay":
        return circuit.and_(action, ~allowed) if flip_advances else action
    return None if flip_advances else circuit.and_(action, allowed)


def _transition_bit(
    circuit: Circuit,
    x: list[Node],
    pointer: list[Node],
    action: Node,
    i: int,
    allowed: Node | None,
) -> Node:
    here = _equals(pointer, i)
    conditions = [] if allowed is None else [allowed]
    terms = [circuit.and_(~x[i], action, *here, *conditions)]
    terms += [x[i] & ~reason for reason in (action, *here, *conditions)]
    return circuit.or_(*terms)


def _pointer_bit(
    circuit: Circuit, pointer: list[Node], hold: Node | None, k: int, following: list[int]
) -> Node:
    moving = [] if hold is None else [~hold]
    if following == _increment_of(len(following)):
        lower = pointer[:k]
        terms = [circuit.and_(*moving, ~pointer[k], *lower)]
        terms += [circuit.and_(*moving, pointer[k], ~bit) for bit in lower]
    else:
        values = [c for c, after in enumerate(following) if after >> k & 1]
        terms = [circuit.and_(*moving, *_equals(pointer, c)) for c in values]
    if hold is not None:
        terms.append(hold & pointer[k])
    return circuit.or_(*terms)


def _equals(pointer: list[Node], value: int) -> list[Node]:
    """Give the literals that are all true where the pointer has a value."""
    return [bit if value >> j & 1 else ~bit for j, bit in enumerate(pointer)]


def _differences(x: list[Node], reward_state: int | None) -> list[Node]:
    n = len(x)
    target = (1 << n) - 1 if reward_state is None else reward_state
    if not 0 <= target < 1 << n:
        raise ValueError(f"reward_state must be in [0, 2**{n}), not {reward_state}")
    return [~bit if target >> i & 1 else bit for i, bit in enumerate(x)]


def _remaining(n: int, h: int, horizon: int | None) -> int:
    """Give the number H − h + 1 of steps from step h on."""
    horizon = (1 << bits_for(n)) + n // 2 if horizon is None else horizon
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, not {horizon}")
    if not 1 <= h <= horizon + 1:
        raise ValueError(f"h must be in [1, {horizon + 1}], not {h}")
    return horizon - h + 1


def _increment(n: int) -> list[int]:
    return _increment_of(1 << bits_for(n))


def _increment_of(n_positions: int) -> list[int]:
    return [*range(1, n_positions), 0]


def _control(n: int, control: str | Sequence[int]) -> list[int]:
    return one_cycle(control, 1 << bits_for(n)).tolist()
