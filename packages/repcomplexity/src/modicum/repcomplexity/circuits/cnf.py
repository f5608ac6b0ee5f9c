"""Conjunctive normal forms of circuits, in the form that SAT solvers read.

The transformation of Tseitin gives every gate a variable of its own and says, in clauses, that it
equals what the gate computes: inputs determine all other variables. Solves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modicum.repcomplexity.circuits.circuit import Circuit, Gate, GateRecord

__all__ = ["Cnf", "tseitin"]


@dataclass
class Cnf:
    """Clauses over variables 1..n_variables; a negative literal is a negation, as in DIMACS."""

    n_variables: int = 0
    clauses: list[list[int]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    """The variable of each input of the circuit."""
    outputs: list[int] = field(default_factory=list)
    """The literal of each output of the circuit."""

    def new_variable(self) -> int:
        """Return a variable that was not used before."""
        self.n_variables += 1
        return self.n_variables

    def to_dimacs(self) -> str:
        """Return the clauses as a DIMACS file; comments give the inputs' and outputs' literals.

        The outputs are not asserted: add unit clauses for what is to be decided.
        """
        lines = [
            f"c inputs {' '.join(map(str, self.inputs))}".rstrip(),
            f"c outputs {' '.join(map(str, self.outputs))}".rstrip(),
            f"p cnf {self.n_variables} {len(self.clauses)}",
        ]
        lines += [" ".join(map(str, [*clause, 0])) for clause in self.clauses]
        return "\n".join(lines) + "\n"


def tseitin(circuit: Circuit) -> Cnf:
    """Return clauses that hold exactly when every gate's variable has the gate's value.

    Parameters
    ----------
    circuit
        Any circuit. AND and OR of n inputs take n + 1 clauses, XOR 4 (n − 1) over a chain, and a
        threshold k of n inputs O(n k) over counters. Negations take none.

    Returns
    -------
    Cnf
        Input i has variable i + 1. For each assignment of the inputs exactly one assignment of
        all variables satisfies the clauses, and unit propagation finds it.

    References
    ----------
    G. S. Tseitin, "On the complexity of derivation in propositional calculus", 1968.
    """
    cnf = Cnf()
    cnf.inputs = [cnf.new_variable() for _ in range(circuit.n_inputs)]
    literals: dict[int, int] = {}
    for index in circuit.live():
        gate = circuit.gates[index]
        if gate.kind is Gate.INPUT:
            literals[index] = cnf.inputs[gate.parameter]
        elif gate.kind is Gate.NOT:
            literals[index] = -literals[gate.fan_in[0]]
        else:
            literals[index] = _gate(cnf, gate, [literals[source] for source in gate.fan_in])
    cnf.outputs = [literals[index] for index in circuit.outputs]
    return cnf


def _gate(cnf: Cnf, gate: GateRecord, fan_in: list[int]) -> int:
    if gate.kind is Gate.CONST:
        variable = cnf.new_variable()
        cnf.clauses.append([variable if gate.parameter else -variable])
        return variable
    if gate.kind is Gate.AND:
        return _conjunction(cnf, fan_in)
    if gate.kind is Gate.OR:
        return -_conjunction(cnf, [-literal for literal in fan_in])
    if gate.kind is Gate.XOR:
        result = fan_in[0]
        for literal in fan_in[1:]:
            result = _exclusive(cnf, result, literal)
        return result
    return _threshold(cnf, fan_in, gate.parameter)


def _conjunction(cnf: Cnf, literals: list[int]) -> int:
    variable = cnf.new_variable()
    cnf.clauses.extend([-variable, literal] for literal in literals)
    cnf.clauses.append([variable, *(-literal for literal in literals)])
    return variable


def _exclusive(cnf: Cnf, a: int, b: int) -> int:
    variable = cnf.new_variable()
    cnf.clauses += [[-variable, a, b], [-variable, -a, -b], [variable, -a, b], [variable, a, -b]]
    return variable


def _threshold(cnf: Cnf, literals: list[int], k: int) -> int:
    """Count with variables "at least j of the first i literals", j <= k."""
    at_least: list[int] = []
    for i, literal in enumerate(literals):
        # Before this literal, at least j hold: true for j = 0, impossible for j > i.
        before = at_least
        at_least = []
        for j in range(1, min(i + 1, k) + 1):
            # At least j after it: at least j before it, or at least j − 1 and it.
            step = literal if j == 1 else _conjunction(cnf, [before[j - 2], literal])
            if j <= len(before):
                at_least.append(-_conjunction(cnf, [-before[j - 1], -step]))
            else:
                at_least.append(step)
    return at_least[k - 1]
