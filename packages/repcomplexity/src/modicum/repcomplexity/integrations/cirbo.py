"""Exchange circuits with cirbo, and let it simplify and synthesise.

cirbo counts gates of two inputs as this package does, and lists the rows of a truth table with the
first input as the most significant bit. It is imported when a function is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.circuits.arithmetic import expand_thresholds
from modicum.repcomplexity.circuits.circuit import Circuit, Gate, Node
from modicum.repcomplexity.circuits.synthesis import BASES, MAX_SUPPORT

__all__ = ["find_circuit", "from_cirbo", "simplify", "to_cirbo"]

# Their gates of two inputs that are neither AND, OR nor XOR: which inputs of an AND to negate, and
# whether to negate the AND.
_ONE_SIDED = {
    "GT": (False, True, False),
    "LT": (True, False, False),
    "GEQ": (True, False, True),
    "LEQ": (False, True, True),
}
_CIRBO_BASES = {"B2": "FULL", "U2": "AIG"}


def to_cirbo(circuit: Circuit) -> Any:
    """Return a circuit as a ``cirbo.core.Circuit`` with inputs x0, x1, … and gates g0, g1, ….

    Thresholds are expanded into adders.

    Raises
    ------
    ImportError
        If cirbo is not installed.
    """
    core = _cirbo()
    expanded = expand_thresholds(circuit)
    result = core.Circuit()
    names: dict[int, str] = {}
    for index in expanded.live():
        kind, fan_in, parameter = expanded.gates[index]
        names[index] = f"x{parameter}" if kind is Gate.INPUT else f"g{index}"
        if kind is Gate.CONST:
            theirs = core.ALWAYS_TRUE if parameter else core.ALWAYS_FALSE
        else:
            theirs = getattr(core, kind.upper())
        result.emplace_gate(names[index], theirs, tuple(names[source] for source in fan_in))
    result.set_outputs([names[index] for index in expanded.outputs])
    return result


def from_cirbo(circuit: Any) -> Circuit:
    """Return a ``cirbo.core.Circuit`` as a circuit; inputs and outputs keep their order.

    Raises
    ------
    ValueError
        If it has a gate of an unknown kind.
    """
    result = Circuit(circuit.input_size)
    nodes: dict[str, Node] = dict(zip(circuit.inputs, result.inputs(), strict=True))
    for gate in circuit.top_sort(inverse=True):
        if gate.label not in nodes:
            wires = [nodes[label] for label in gate.operands]
            nodes[gate.label] = _gate(result, gate.gate_type.name, wires)
    result.output(*(nodes[label] for label in circuit.outputs))
    return result


def simplify(circuit: Circuit, *, heavy: bool = False) -> Circuit:
    """Return an equivalent circuit after cirbo's clean-up.

    Parameters
    ----------
    circuit
        Any circuit.
    heavy
        Whether to merge gates with equal truth tables, too, which takes 2**m steps.

    Raises
    ------
    ImportError
        If cirbo is not installed.
    """
    theirs = to_cirbo(circuit)
    from cirbo.minimization import cleanup

    return from_cirbo(cleanup(theirs, use_heavy=heavy))


def find_circuit(
    table: TruthTable | Sequence[int] | np.ndarray,
    n_gates: int,
    basis: str = "B2",
    *,
    time_limit: float | None = None,
) -> Circuit | None:
    """Look for a circuit with a number of gates of two inputs by cirbo's SAT encoding.

    Parameters
    ----------
    table
        The function: a `TruthTable`, or its ``(2**m,)`` values in the order of the codes, of at
        most 5 inputs.
    n_gates
        Number of gates; some may be unused.
    basis
        ``"B2"`` or ``"U2"``, as in `modicum.repcomplexity.circuits.synthesis.min_circuit`.
    time_limit
        Seconds, rounded up, after which a process of its own is ended; None for no limit.

    Returns
    -------
    Circuit or None
        None if there is no such circuit.

    Raises
    ------
    ValueError
        If the basis is unknown or the table is none.
    ComplexityLimitError
        If there are more than 5 inputs.
    TimeoutError
        If the time was not enough.
    ImportError
        If cirbo is not installed.
    """
    if basis not in BASES:
        raise ValueError(f"basis must be one of {', '.join(map(repr, BASES))}, not {basis!r}")
    values = (table if isinstance(table, TruthTable) else TruthTable(table)).values
    m = len(values).bit_length() - 1
    check_limit("the number of inputs", m, MAX_SUPPORT, cost="days", alternative="take bounds")
    _cirbo()
    from cirbo.core.truth_table import TruthTableModel
    from cirbo.synthesis.circuit_search import CircuitFinderSat
    from cirbo.synthesis.exception import NoSolutionError, SolverTimeOutError

    rows = np.asarray(values, dtype=np.bool_).reshape((2,) * m).T.reshape(-1)
    finder = CircuitFinderSat(TruthTableModel([rows.tolist()]), n_gates, basis=_CIRBO_BASES[basis])
    limit = None if time_limit is None else max(1, math.ceil(time_limit))
    try:
        return from_cirbo(finder.find_circuit(time_limit=limit))
    except NoSolutionError:
        return None
    except SolverTimeOutError as error:
        raise TimeoutError(f"cirbo did not decide {n_gates} gates in {limit} s") from error


def _gate(circuit: Circuit, name: str, wires: list[Node]) -> Node:
    """Add the gate of cirbo that has a name."""
    if name in ("ALWAYS_TRUE", "ALWAYS_FALSE"):
        return circuit.const(name == "ALWAYS_TRUE")
    if name in ("IFF", "LIFF", "NOT", "LNOT"):
        return wires[0] if name.endswith("IFF") else ~wires[0]
    if name in ("RIFF", "RNOT"):
        return wires[1] if name == "RIFF" else ~wires[1]
    if name in _ONE_SIDED:
        *negated, outside = _ONE_SIDED[name]
        result = circuit.and_(*(~w if n else w for w, n in zip(wires, negated, strict=True)))
        return ~result if outside else result
    join = {
        "AND": circuit.and_,
        "OR": circuit.or_,
        "XOR": circuit.xor,
        "NAND": circuit.and_,
        "NOR": circuit.or_,
        "NXOR": circuit.xor,
    }
    if name not in join:
        raise ValueError(f"a gate of cirbo is unknown: {name}")
    result = join[name](*wires)
    return result if name in ("AND", "OR", "XOR") else ~result


def _cirbo() -> Any:
    try:
        import cirbo.core.circuit
    except ImportError as error:
        raise ImportError('this needs cirbo: pip install "modicum-repcomplexity[cirbo]"') from error
    return cirbo.core.circuit
