"""Circuits of normal forms, parity and majority, and counting with adders: gates known exactly.

Parity as a DNF and as an AC0 circuit of any depth, majority as a DNF, as one gate and with full
adders. Knows nothing of decision processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from math import comb
from typing import TYPE_CHECKING

from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.circuits.circuit import Circuit, Gate, Node

if TYPE_CHECKING:
    from modicum.repcomplexity.boolean.dnf import NormalForm

__all__ = [
    "add_up",
    "at_least",
    "expand_thresholds",
    "majority_adders",
    "majority_adders_size",
    "majority_dnf",
    "majority_dnf_size",
    "majority_gate",
    "normal_form_circuit",
    "parity_circuit",
    "parity_size",
]

MAX_GATES = 1 << 22
"""Most gates of a circuit that is built: some hundred bytes each."""


def normal_form_circuit(form: NormalForm) -> Circuit:
    """Return the circuit of depth 2 of a disjunctive or conjunctive normal form.

    Parameters
    ----------
    form
        A form of m inputs, from `modicum.repcomplexity.boolean.dnf`.

    Returns
    -------
    Circuit
        m inputs, one output, ``form.gates`` gates.
    """
    circuit = Circuit(form.terms.n_inputs)
    inputs = circuit.inputs()
    # A clause of a CNF is the negation of a term: its literals are the other ones.
    is_dnf = form.form == "dnf"
    gate, join = (circuit.and_, circuit.or_) if is_dnf else (circuit.or_, circuit.and_)
    terms = []
    for care, polarity in zip(form.terms.care.tolist(), form.terms.polarity.tolist(), strict=True):
        literals = [
            x if (polarity >> i & 1) == is_dnf else ~x
            for i, x in enumerate(inputs)
            if care >> i & 1
        ]
        terms.append(gate(*literals))
    circuit.output(join(*terms))
    return circuit


def parity_circuit(n: int, depth: int = 2) -> Circuit:
    """Return an AC0 circuit of the parity of n bits.

    Depth 2 is the disjunction of all 2^(n−1) odd minterms. Depth d takes ℓ = d − 1 levels of
    blocks of at most m = ceil(n^(1/ℓ)) bits, alternately as DNF and as CNF and in both polarities,
    so that neighbouring layers of the same kind are one layer.

    Parameters
    ----------
    n
        Inputs, at least 1.
    depth
        At least 2.

    Returns
    -------
    Circuit
        n inputs, one output, at most the depth asked for, `parity_size` gates.

    Raises
    ------
    ValueError
        If `n` or `depth` is out of range.
    ComplexityLimitError
        If there were more than 2^22 gates.
    """
    _check_gates(parity_size(n, depth))
    circuit = Circuit(n)
    # Nodes whose disjunction (after odd levels) or conjunction (after even ones) is the block's
    # even parity, and such nodes for its odd parity.
    signals = [([~x], [x]) for x in circuit.inputs()]
    join: Callable[..., Node] = circuit.or_
    for level, blocks in enumerate(_parity_blocks(n, depth), start=1):
        as_dnf = level % 2 == 1
        gate, join = (circuit.and_, circuit.or_) if as_dnf else (circuit.or_, circuit.and_)
        polarities = (1,) if len(blocks) == 1 else (0, 1)
        children, signals = signals, []
        for start, stop in blocks:
            lists: tuple[list[Node], list[Node]] = ([], [])
            for code in range(1 << (stop - start)):
                wires = [
                    node
                    for j in range(start, stop)
                    for node in children[j][code >> (j - start) & 1]
                ]
                # A clause excludes the assignment in which all of its literals are false.
                odd = (code.bit_count() + (0 if as_dnf else stop - start + 1)) % 2
                if odd in polarities:
                    lists[odd].append(gate(*wires))
            signals.append(lists)
    circuit.output(join(*signals[0][1]))
    return circuit


def parity_size(n: int, depth: int = 2) -> int:
    """Return the gates of `parity_circuit`: about Σ_i (n / m^i) 2^m over the levels of blocks."""
    size = 0
    # How many nodes a block hands on for one parity.
    widths = [1] * n
    for blocks in _parity_blocks(n, depth):
        parities = 1 if len(blocks) == 1 else 2
        children, widths = widths, []
        for start, stop in blocks:
            width = 1 << (stop - start - 1)
            size += parities * width if sum(children[start:stop]) > 1 else 0
            widths.append(width)
    return size + (widths[0] > 1)


def majority_dnf(n: int) -> Circuit:
    """Return the minimal DNF of the majority of n bits: all conjunctions of ⌊n/2⌋ + 1 inputs.

    Raises
    ------
    ComplexityLimitError
        If there were more than 2^22 gates.
    """
    _check_gates(majority_dnf_size(n))
    circuit = Circuit(n)
    terms = combinations(circuit.inputs(), n // 2 + 1)
    circuit.output(circuit.or_(*(circuit.and_(*term) for term in terms)))
    return circuit


def majority_dnf_size(n: int) -> int:
    """Return the gates of `majority_dnf`: C(n, ⌊n/2⌋ + 1) terms and an OR where n > 2."""
    _check_inputs(n)
    return comb(n, n // 2 + 1) + 1 if n > 2 else n - 1


def majority_gate(n: int) -> Circuit:
    """Return the majority of n bits as one MAJ gate."""
    _check_inputs(n)
    circuit = Circuit(n)
    circuit.output(circuit.majority(*circuit.inputs()))
    return circuit


def majority_adders(n: int) -> Circuit:
    """Return the majority of n bits with gates AND, OR and XOR of two inputs: at most 5 n.

    Full adders of 5 gates and half adders of 2 count the ones; the count is compared with
    ⌊n/2⌋ + 1.
    """
    return expand_thresholds(majority_gate(n))


def majority_adders_size(n: int) -> int:
    """Return the gates of `majority_adders`.

    At each bit position w summands take ⌊(w−1)/2⌋ full adders, a half adder if w is even, and carry
    ⌊w/2⌋ on. Below the lowest 1 of the constant the sums are not needed, which saves one gate each,
    and above it the comparison takes one gate each.
    """
    _check_inputs(n)
    k = n // 2 + 1
    lowest = (k & -k).bit_length() - 1
    size, width, position = 0, n, 0
    while width:
        size += 5 * ((width - 1) // 2) + 2 * (width % 2 == 0)
        size -= position < lowest and width > 1
        size += position > lowest
        width //= 2
        position += 1
    return size


def add_up(nodes: Sequence[Node]) -> list[Node]:
    """Add wires up with full adders of 5 gates and half adders of 2.

    Parameters
    ----------
    nodes
        The summands, wires of one circuit; the gates go there.

    Returns
    -------
    list of Node
        The number of ones in binary, least significant bit first.
    """
    slices = []
    column = list(nodes)
    while column:
        carries = []
        while len(column) > 1:
            half = column[0] ^ column[1]
            carry = column[0] & column[1]
            if len(column) == 2:
                column = [half]
            else:
                carry = carry | (half & column[2])
                column = [*column[3:], half ^ column[2]]
            carries.append(carry)
        slices.append(column[0])
        column = carries
    return slices


def at_least(circuit: Circuit, slices: Sequence[Node], k: int) -> Node:
    """Compare a binary number, least significant bit first, with a constant: gates of 2 inputs."""
    if k <= 0 or k >> len(slices):
        return circuit.const(k <= 0)
    lowest = (k & -k).bit_length() - 1
    result = slices[lowest]
    for position in range(lowest + 1, len(slices)):
        bit = slices[position]
        result = (bit & result) if k >> position & 1 else (bit | result)
    return result


def expand_thresholds(circuit: Circuit) -> Circuit:
    """Return an equivalent circuit in which adders stand for the gates THR and MAJ.

    Thresholds of the same wires in the same order share the adders.
    """
    result = Circuit(circuit.n_inputs)
    nodes: dict[int, Node] = dict(enumerate(result.inputs()))
    counts: dict[tuple[int, ...], list[Node]] = {}
    make: dict[Gate, Callable[..., Node]] = {
        Gate.AND: result.and_,
        Gate.OR: result.or_,
        Gate.XOR: result.xor,
        Gate.NOT: result.not_,
    }
    for index in circuit.live():
        kind, fan_in, parameter = circuit.gates[index]
        wires = [nodes[source] for source in fan_in]
        if kind in make:
            nodes[index] = make[kind](*wires)
        elif kind is Gate.CONST:
            nodes[index] = result.const(parameter)
        elif kind is not Gate.INPUT:
            if fan_in not in counts:
                counts[fan_in] = add_up(wires)
            nodes[index] = at_least(result, counts[fan_in], parameter)
    result.output(*(nodes[index] for index in circuit.outputs))
    return result


def _parity_blocks(n: int, depth: int) -> list[list[tuple[int, int]]]:
    """Give, level by level, the ranges of signals that make a block; the last level has one."""
    _check_inputs(n)
    if depth < 2:
        raise ValueError(f"depth must be at least 2, not {depth}")
    largest = 1
    while largest ** (depth - 1) < n:
        largest += 1
    levels: list[list[tuple[int, int]]] = []
    n_signals = n
    while n_signals > 1 or not levels:
        n_blocks = -(-n_signals // largest)
        bounds = [n_signals * block // n_blocks for block in range(n_blocks + 1)]
        levels.append(list(pairwise(bounds)))
        n_signals = n_blocks
    return levels


def _check_inputs(n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")


def _check_gates(size: int) -> None:
    check_limit(
        "the number of gates",
        size,
        MAX_GATES,
        cost=f"about {size * 200 / 2**30:,.1f} GiB",
        alternative="allow more depth, or take the number alone",
    )
