"""Simplify a circuit: propagate constants, drop what repeats, share equal gates.

Takes a circuit and makes another of the same function, inputs and outputs, with at most as many
gates. No search: for the fewest gates see `modicum.repcomplexity.circuits.synthesis`.
"""

from __future__ import annotations

from modicum.repcomplexity.circuits.circuit import Circuit, Gate, GateRecord, Node

__all__ = ["simplify"]


def simplify(circuit: Circuit) -> Circuit:
    """Return an equivalent circuit that is no larger.

    Constants are propagated; a conjunction or disjunction that reads a wire twice or beside its
    negation is reduced; pairs in a parity cancel and negations move behind it; a wire and its
    negation leave a threshold together; a threshold of 1 becomes OR and one of all inputs AND; a
    gate of one input is left out; gates of the same kind and the same inputs in any order become
    one; gates no output needs are dropped.

    Parameters
    ----------
    circuit
        Any circuit.

    Returns
    -------
    Circuit
        The same inputs and outputs. Neither size nor depth is greater.
    """
    return _Simplifier(circuit).run()


class _Simplifier:
    """Rebuilds gates in order; literals are (node of the new circuit, negated), or a bool."""

    def __init__(self, circuit: Circuit):
        self.old = circuit
        self.new = Circuit(circuit.n_inputs)
        self.shared: dict[GateRecord, int] = {}

    def run(self) -> Circuit:
        literals: dict[int, int] = {}
        for index in self.old.live():
            gate = self.old.gates[index]
            literals[index] = self._literal(gate, [literals[source] for source in gate.fan_in])
        self.new.output(*(self._node(literals[index]) for index in self.old.outputs))
        return self.new

    # A literal is 2·number + negated of a node of the new circuit, -1 for true and -2 for false:
    # `literal ^ 1` negates all of them.
    TRUE, FALSE = -1, -2

    def _literal(self, gate: GateRecord, fan_in: list[int]) -> int:
        if gate.kind is Gate.INPUT:
            return 2 * gate.parameter
        if gate.kind is Gate.CONST:
            return self.TRUE if gate.parameter else self.FALSE
        if gate.kind is Gate.NOT:
            return fan_in[0] ^ 1
        if gate.kind is Gate.AND:
            return self._conjunction(fan_in, Gate.AND)
        if gate.kind is Gate.OR:
            return self._conjunction(fan_in, Gate.OR)
        if gate.kind is Gate.XOR:
            return self._parity(fan_in)
        return self._threshold(fan_in, gate.parameter)

    def _conjunction(self, fan_in: list[int], kind: Gate) -> int:
        neutral = self.TRUE if kind is Gate.AND else self.FALSE
        literals = {literal for literal in fan_in if literal != neutral}
        if neutral ^ 1 in literals or any(literal ^ 1 in literals for literal in literals):
            return neutral ^ 1
        return self._gate(kind, sorted(literals), neutral)

    def _parity(self, fan_in: list[int]) -> int:
        negated = sum(literal & 1 for literal in fan_in if literal >= 0)
        negated += sum(literal == self.TRUE for literal in fan_in)
        odd: set[int] = set()
        for literal in fan_in:
            if literal >= 0:
                odd ^= {literal & ~1}
        return self._gate(Gate.XOR, sorted(odd), self.FALSE) ^ (negated & 1)

    def _threshold(self, fan_in: list[int], k: int) -> int:
        k -= fan_in.count(self.TRUE)
        literals = sorted(literal for literal in fan_in if literal >= 0)
        for literal in sorted(set(literals)):
            # A wire and its negation hold exactly one true.
            while literal in literals and literal ^ 1 in literals:
                literals.remove(literal)
                literals.remove(literal ^ 1)
                k -= 1
        if not 1 <= k <= len(literals):
            return self.TRUE if k < 1 else self.FALSE
        if k == 1:
            return self._conjunction(literals, Gate.OR)
        if k == len(literals):
            return self._conjunction(literals, Gate.AND)
        if len(set(literals)) == 1:
            return literals[0]
        kind = Gate.MAJ if k == len(literals) // 2 + 1 else Gate.THR
        return self._gate(kind, literals, self.FALSE, k)

    def _gate(self, kind: Gate, literals: list[int], empty: int, parameter: int = 0) -> int:
        if not literals:
            return empty
        if len(literals) == 1:
            return literals[0]
        fan_in = tuple(self._node(literal).index for literal in literals)
        return 2 * self._shared(GateRecord(kind, fan_in, parameter))

    def _node(self, literal: int) -> Node:
        """Give the node of a literal, made when it is not there yet."""
        if literal < 0:
            return Node(self.new, self._shared(GateRecord(Gate.CONST, (), literal & 1)))
        if literal & 1:
            return self.new.not_(Node(self.new, literal >> 1))
        return Node(self.new, literal >> 1)

    def _shared(self, record: GateRecord) -> int:
        if record not in self.shared:
            self.shared[record] = len(self.new.gates)
            self.new.gates.append(record)
        return self.shared[record]
