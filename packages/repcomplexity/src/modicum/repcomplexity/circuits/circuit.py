"""Boolean circuits with unbounded fan-in: build, count, evaluate.

A circuit is a directed acyclic graph of gates INPUT, CONST, NOT, AND, OR, THR (at least k inputs
true), MAJ (more than half of them) and XOR, kept in topological order. Knows nothing of decision
processes or of files; `modicum.repcomplexity.circuits.builders` makes the explicit circuits.

Shapes: B rows, m inputs, o outputs; ``…`` any leading shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from modicum.repcomplexity.bits import Array, check_limit

if TYPE_CHECKING:
    import torch

    from modicum.repcomplexity.circuits.cnf import Cnf
    from modicum.repcomplexity.circuits.torch_net import CircuitNet

__all__ = ["Circuit", "Gate", "GateRecord", "Node", "run_gates"]


class Gate(StrEnum):
    """The kinds of gates."""

    INPUT = "input"
    CONST = "const"
    NOT = "not"
    AND = "and"
    OR = "or"
    THR = "thr"
    MAJ = "maj"
    XOR = "xor"


MAX_LOG_VALUES = 30
"""Entries of an unpacked truth table, as a logarithm: 1 GiB of booleans."""

_FREE = frozenset({Gate.INPUT, Gate.CONST, Gate.NOT})


class GateRecord(NamedTuple):
    """One gate: its kind, the numbers of the gates it reads, and a parameter.

    ``parameter`` is the index of an INPUT, the value of a CONST, the threshold of a THR or a MAJ,
    and 0 elsewhere.
    """

    kind: Gate
    fan_in: tuple[int, ...]
    parameter: int = 0


@dataclass(frozen=True, eq=False)
class Node:
    """A wire of a circuit: what a gate gives. ``~``, ``&``, ``|`` and ``^`` make new gates."""

    circuit: Circuit
    index: int

    def __invert__(self) -> Node:
        return self.circuit.not_(self)

    def __and__(self, other: Node) -> Node:
        return self.circuit.and_(self, other)

    def __or__(self, other: Node) -> Node:
        return self.circuit.or_(self, other)

    def __xor__(self, other: Node) -> Node:
        return self.circuit.xor(self, other)

    def __bool__(self) -> bool:
        raise TypeError("a wire has no truth value before evaluation; use &, | and ~")

    def __repr__(self) -> str:
        return f"Node({self.circuit.gates[self.index].kind}, {self.index})"


class Circuit:
    """A Boolean circuit over `n_inputs` inputs.

    Parameters
    ----------
    n_inputs
        Number m of inputs, 0 or more.

    Raises
    ------
    ValueError
        If `n_inputs` is negative.

    Notes
    -----
    **Size** is the number of gates other than inputs, constants and negations, **depth** the
    greatest number of such gates on a path to an output; only gates that an output depends on
    count. `size_with` and `depth_with` count by the other conventions.

    Examples
    --------
    >>> c = Circuit(n_inputs=3)
    >>> c.output(c.and_(c.in_(0), ~c.in_(1)))
    >>> c.size, c.depth
    (1, 1)
    """

    def __init__(self, n_inputs: int):
        if n_inputs < 0:
            raise ValueError(f"n_inputs must be 0 or more, not {n_inputs}")
        self.n_inputs = int(n_inputs)
        self.gates: list[GateRecord] = [GateRecord(Gate.INPUT, (), i) for i in range(n_inputs)]
        self.outputs: list[int] = []
        self._negations: dict[int, Node] = {}

    @property
    def n_outputs(self) -> int:
        """How many outputs were declared."""
        return len(self.outputs)

    def in_(self, i: int) -> Node:
        """Return input `i`; ValueError if there is none."""
        if not 0 <= i < self.n_inputs:
            raise ValueError(f"i must be in [0, {self.n_inputs}), not {i}")
        return Node(self, i)

    def inputs(self) -> list[Node]:
        """Return all inputs in order."""
        return [Node(self, i) for i in range(self.n_inputs)]

    def const(self, value: bool | int) -> Node:
        """Return the constant 0 or 1."""
        if value not in (0, 1):
            raise ValueError(f"value must be 0 or 1, not {value!r}")
        return self._add(Gate.CONST, (), int(value))

    def not_(self, node: Node) -> Node:
        """Return the negation, one gate per node; that of a negation is what was negated."""
        index = self._own(node)
        if index not in self._negations:
            negation = self._add(Gate.NOT, (index,))
            self._negations |= {index: negation, negation.index: node}
        return self._negations[index]

    def and_(self, *nodes: Node) -> Node:
        """Return the conjunction: no gate for one node, the constant 1 for none."""
        return self._many(Gate.AND, nodes, empty=1)

    def or_(self, *nodes: Node) -> Node:
        """Return the disjunction: no gate for one node, the constant 0 for none."""
        return self._many(Gate.OR, nodes, empty=0)

    def xor(self, *nodes: Node) -> Node:
        """Return the parity: no gate for one node, the constant 0 for none."""
        return self._many(Gate.XOR, nodes, empty=0)

    def threshold(self, k: int, *nodes: Node) -> Node:
        """Return whether at least `k` nodes are true.

        A node given twice counts twice. ``k <= 0`` gives the constant 1, ``k > len(nodes)`` the
        constant 0, and neither is a gate, nor is a threshold of a single node.
        """
        fan_in = tuple(self._own(node) for node in nodes)
        if not 1 <= k <= len(fan_in):
            return self.const(k < 1)
        return nodes[0] if len(nodes) == 1 else self._add(Gate.THR, fan_in, int(k))

    def majority(self, *nodes: Node) -> Node:
        """Return whether more than half of the nodes are true; no gate for one, 0 for none."""
        k = len(nodes) // 2 + 1
        return self._many(Gate.MAJ, nodes, empty=0, parameter=k)

    def output(self, *nodes: Node) -> None:
        """Declare further outputs, in this order."""
        self.outputs.extend([self._own(node) for node in nodes])

    def embed(self, other: Circuit, inputs: Sequence[Node]) -> list[Node]:
        """Copy another circuit into this one, reading given nodes.

        Parameters
        ----------
        other
            The circuit to copy. It is left as it is.
        inputs
            One node of this circuit per input of `other`.

        Returns
        -------
        list of Node
            What stands for the outputs of `other`. None is declared as an output here.

        Raises
        ------
        ValueError
            If the number of nodes is not that of inputs, or a node is another circuit's.
        """
        if len(inputs) != other.n_inputs:
            raise ValueError(f"inputs must be {other.n_inputs} nodes, not {len(inputs)}")
        copies = {i: self._own(node) for i, node in enumerate(inputs)}
        for index in other.live():
            gate = other.gates[index]
            if gate.kind is not Gate.INPUT:
                fan_in = tuple(copies[source] for source in gate.fan_in)
                if gate.kind is Gate.NOT:
                    copies[index] = self.not_(Node(self, fan_in[0])).index
                else:
                    copies[index] = self._add(gate.kind, fan_in, gate.parameter).index
        return [Node(self, copies[index]) for index in other.outputs]

    def live(self) -> list[int]:
        """Return the numbers of all inputs and of the gates that an output needs, increasing."""
        needed = [False] * len(self.gates)
        for index in self.outputs:
            needed[index] = True
        for index in range(len(self.gates) - 1, -1, -1):
            if needed[index]:
                for source in self.gates[index].fan_in:
                    needed[source] = True
        return [i for i, wanted in enumerate(needed) if wanted or i < self.n_inputs]

    def gate_counts(self) -> dict[Gate, int]:
        """Return how many gates of each kind the outputs need; inputs and constants left out."""
        kinds = Counter(self.gates[index].kind for index in self.live())
        return {kind: kinds[kind] for kind in Gate if kinds[kind] and _counts(kind, True)}

    @property
    def circuit_class(self) -> str:
        """``"AC0"`` for gates AND, OR and NOT, ``"TC0"`` when THR or MAJ occur, else ``"XOR"``.

        Names the gates that are used. That a family is in the class is a statement about growth.
        """
        kinds = set(self.gate_counts())
        if kinds & {Gate.THR, Gate.MAJ}:
            return "TC0"
        return "XOR" if Gate.XOR in kinds else "AC0"

    @property
    def size(self) -> int:
        """Number of gates; inputs, constants and negations are free."""
        return self.size_with()

    @property
    def depth(self) -> int:
        """Most gates on a path to an output; inputs, constants and negations are free."""
        return self.depth_with()

    def size_with(self, *, count_not: bool = False, count_wires: bool = False) -> int:
        """Return the size by another convention.

        Parameters
        ----------
        count_not
            Whether negations are gates.
        count_wires
            Whether to count the wires that run into the counted gates rather than these gates.
        """
        live = [self.gates[index] for index in self.live()]
        counted = [gate for gate in live if _counts(gate.kind, count_not)]
        return sum(len(gate.fan_in) for gate in counted) if count_wires else len(counted)

    def depth_with(self, *, count_not: bool = False) -> int:
        """Return the depth, with negations as gates if `count_not`; 0 without an output."""
        levels = self.levels(count_not=count_not)
        return max((levels[index] for index in self.outputs), default=0)

    def levels(self, *, count_not: bool = False) -> dict[int, int]:
        """Return the depth of every gate in `live`, by its number."""
        levels: dict[int, int] = {}
        for index in self.live():
            gate = self.gates[index]
            below = max((levels[source] for source in gate.fan_in), default=0)
            levels[index] = below + _counts(gate.kind, count_not)
        return levels

    def __call__(self, bits: Array) -> Array:
        """Evaluate the circuit on rows of bits.

        Parameters
        ----------
        bits
            ``(…, m)`` array or tensor of booleans or numbers 0 and 1.

        Returns
        -------
        array or tensor
            bool ``(…, o)``, of the same library and on the same device.

        Raises
        ------
        ValueError
            If the last axis is not m, or an entry is neither 0 nor 1.

        See Also
        --------
        modicum.repcomplexity.circuits.bitparallel.evaluate_words : 64 rows at a time.
        """
        tensor = hasattr(bits, "detach")
        bits = bits if tensor else np.asarray(bits)
        if bits.ndim == 0 or bits.shape[-1] != self.n_inputs:
            raise ValueError(
                f"bits must have shape (…, {self.n_inputs}), not {tuple(np.shape(bits))}"
            )
        if not bool(((bits == 0) | (bits == 1)).all()):
            raise ValueError("bits must hold 0 and 1 only")
        columns = [bits[..., i] != 0 for i in range(self.n_inputs)]
        any_ = (bits != 0).any(-1)
        values = run_gates(self, columns, any_ ^ any_, _bool_gate)
        if tensor:
            import torch

            empty = torch.zeros((*bits.shape[:-1], 0), dtype=torch.bool, device=bits.device)
            return torch.stack(values, dim=-1) if values else empty
        return np.stack(values, -1) if values else np.zeros((*bits.shape[:-1], 0), dtype=np.bool_)

    def truth_values(self) -> np.ndarray:
        """Return the outputs on all inputs, bool ``(2**m, o)``; input i is bit i of the row.

        Raises
        ------
        ComplexityLimitError
            If the table would have more than 2**30 entries, a byte each.
        """
        log_entries = self.n_inputs + max(self.n_outputs - 1, 0).bit_length()
        check_limit(
            "the number of entries of the truth table, as a power of 2,",
            log_entries,
            MAX_LOG_VALUES,
            cost=f"{2.0 ** (log_entries - 30):,.0f} GiB",
            alternative="take `truth_table_words`, or evaluate rows drawn at random",
        )
        from modicum.repcomplexity.circuits.bitparallel import truth_table_words, unpack_rows

        return unpack_rows(truth_table_words(self), 1 << self.n_inputs)

    def simplify(self) -> Circuit:
        """Return an equivalent circuit with constants propagated and equal gates shared.

        See `modicum.repcomplexity.circuits.simplify.simplify`.
        """
        from modicum.repcomplexity.circuits.simplify import simplify

        return simplify(self)

    def to_cnf(self) -> Cnf:
        """Return the Tseitin transformation, see `modicum.repcomplexity.circuits.cnf.tseitin`."""
        from modicum.repcomplexity.circuits.cnf import tseitin

        return tseitin(self)

    def to_torch(
        self,
        readout: Sequence[float] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> CircuitNet:
        """Return a ReLU network equal to the circuit on bits.

        See `modicum.repcomplexity.circuits.torch_net.to_torch`.
        """
        from modicum.repcomplexity.circuits.torch_net import to_torch

        return to_torch(self, readout, dtype=dtype, device=device)

    def to_aiger(self, *, binary: bool = False) -> bytes:
        """Return the circuit as an AIGER file, see `modicum.repcomplexity.circuits.formats`."""
        from modicum.repcomplexity.circuits.formats import to_aiger

        return to_aiger(self, binary=binary)

    def to_bench(self) -> str:
        """Return the circuit as a BENCH file, see `modicum.repcomplexity.circuits.formats`."""
        from modicum.repcomplexity.circuits.formats import to_bench

        return to_bench(self)

    def __repr__(self) -> str:
        return (
            f"Circuit({self.n_inputs} inputs, {self.n_outputs} outputs, "
            f"size {self.size}, depth {self.depth})"
        )

    def _own(self, node: Node) -> int:
        if not isinstance(node, Node):
            raise TypeError(f"expected a node of this circuit, not {node!r}")
        if node.circuit is not self:
            raise ValueError("a node belongs to another circuit; copy that with embed()")
        return node.index

    def _many(self, kind: Gate, nodes: Iterable[Node], empty: int, parameter: int = 0) -> Node:
        fan_in = tuple(self._own(node) for node in nodes)
        if not fan_in:
            return self.const(empty)
        return Node(self, fan_in[0]) if len(fan_in) == 1 else self._add(kind, fan_in, parameter)

    def _add(self, kind: Gate, fan_in: tuple[int, ...], parameter: int = 0) -> Node:
        self.gates.append(GateRecord(kind, fan_in, parameter))
        return Node(self, len(self.gates) - 1)


def run_gates(
    circuit: Circuit,
    inputs: Sequence[Array],
    zero: Array,
    apply: Callable[[GateRecord, list[Array], Array], Array],
) -> list[Array]:
    """Compute the outputs in topological order, forgetting each value after its last use.

    Parameters
    ----------
    circuit
        What to compute.
    inputs
        One value per input.
    zero
        The value of the constant 0; its complement is that of 1.
    apply
        Maps a gate, the values that it reads and `zero` to its value. Called for gates other than
        INPUT, CONST and NOT.

    Returns
    -------
    list
        One value per output.
    """
    live = circuit.live()
    last_use = {source: index for index in live for source in circuit.gates[index].fan_in}
    kept = set(circuit.outputs)
    values: dict[int, Any] = {}
    for index in live:
        gate = circuit.gates[index]
        if gate.kind is Gate.INPUT:
            values[index] = inputs[gate.parameter]
        elif gate.kind is Gate.CONST:
            values[index] = ~zero if gate.parameter else zero
        elif gate.kind is Gate.NOT:
            values[index] = ~values[gate.fan_in[0]]
        else:
            values[index] = apply(gate, [values[source] for source in gate.fan_in], zero)
        for source in set(gate.fan_in):
            if last_use[source] == index and source not in kept:
                del values[source]
    return [values[index] for index in circuit.outputs]


def _bool_gate(gate: GateRecord, values: list[Array], zero: Array) -> Array:
    if gate.kind in (Gate.THR, Gate.MAJ):
        return sum(values[1:], start=values[0] + (zero + 0)) >= gate.parameter
    result = values[0]
    for value in values[1:]:
        if gate.kind is Gate.AND:
            result = result & value
        elif gate.kind is Gate.OR:
            result = result | value
        else:
            result = result ^ value
    return result


def _counts(kind: Gate, count_not: bool) -> bool:
    return kind not in _FREE or (count_not and kind is Gate.NOT)
