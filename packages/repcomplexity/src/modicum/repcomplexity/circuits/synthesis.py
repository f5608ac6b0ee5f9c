"""The fewest gates of a Boolean function, by SAT solving.

Two kinds of circuits: gates of two inputs (all of them, B2, or all but XOR and its complement,
U2), and AND and OR of any fan-in in alternating levels over literals. Exact where time allows and
an interval otherwise. Needs PySAT.

Shapes: m inputs of the function, of which it depends on s; r gates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.circuits.circuit import Circuit, Gate, Node

if TYPE_CHECKING:
    from modicum.repcomplexity.integrations.sat import SatSolver

__all__ = ["BASES", "SizeInterval", "min_circuit", "min_depth_circuit"]

BASES = ("B2", "U2")
"""Bases of two-input gates: all 16, and those that are no parity. Negations are free in both."""

MAX_SUPPORT = 5
"""Most inputs of exact synthesis: beyond, proofs take days."""

FIRST_ROWS = 15
"""Rows of the truth table that a search starts with; it adds those that a candidate gets wrong.

These are all of 4 inputs: with fewer, candidates come sooner, but refutations take much longer."""


@dataclass(frozen=True)
class SizeInterval:
    """What is known of the least number of gates.

    Attributes
    ----------
    lower, upper : int
        The least number of gates is in [lower, upper].
    circuit : Circuit
        A circuit of `upper` gates.
    """

    lower: int
    upper: int
    circuit: Circuit

    @property
    def proved(self) -> bool:
        """Whether the interval is one number."""
        return self.lower == self.upper


def min_circuit(
    table: TruthTable | Sequence[int] | np.ndarray,
    basis: str = "B2",
    *,
    time_limit: float = 60.0,
) -> SizeInterval:
    """Find the fewest gates of two inputs that compute a function.

    Parameters
    ----------
    table
        The function: a `TruthTable`, or its ``(2**m,)`` values in the order of the codes.
    basis
        ``"B2"``: all gates of two inputs. ``"U2"``: without XOR and its complement; the least
        number of gates is then that of an and-inverter graph.
    time_limit
        Seconds, 0 or more, after which the search ends with an interval.

    Returns
    -------
    SizeInterval
        With a circuit of AND, OR, XOR of two inputs and negations, whose size is `upper`.

    Raises
    ------
    ValueError
        If the basis is unknown, the table is none or the time limit is negative.
    ComplexityLimitError
        If the function depends on more than 5 inputs.
    ImportError
        If PySAT is not installed.

    Notes
    -----
    The numbers r of gates from s − 1 on are refuted one by one until one has a circuit. If that
    takes more than half of the time, the rest goes into improving on a circuit that splits the
    function along its inputs. Every gate is normal (0 on inputs 0, 0), which costs a negation of
    the function at most.

    Refutations are for circuits in a canonical form only: every gate is read, consecutive gates
    that do not depend on each other are in co-lexicographic order, no gate reads both another gate
    and an input of that, and of two inputs that the function treats alike the first is read first.
    Improvements may have any form, in which circuits are found sooner.

    References
    ----------
    A. Kojevnikov, A. Kulikov, G. Yaroslavtsev, "Finding efficient circuits using SAT-solvers",
    SAT 2009; D. Knuth, "The Art of Computer Programming" 4A, section 7.1.2, and 4B, exercise
    7.2.2.2-477; W. Haaswijk et al., "SAT-based exact synthesis", IEEE TCAD 2020.
    """
    _check_time_limit(time_limit)
    if basis not in BASES:
        raise ValueError(f"basis must be one of {', '.join(map(repr, BASES))}, not {basis!r}")
    function, support, m = _reduced(table)
    bound = _decomposed(function, basis)
    lower = max(len(support) - 1, 0)
    started = time.monotonic()
    half, deadline = started + time_limit / 2, started + time_limit
    found: Circuit | Literal[False] | None = False
    while found is False and lower < bound.size:
        found = _search_gates(function, lower, basis, half)
        lower += found is False
    if isinstance(found, Circuit):
        bound = found
    while found is None and lower < bound.size and time.monotonic() < deadline:
        until = time.monotonic() + (deadline - time.monotonic()) / 2
        better = _search_gates(function, bound.size - 1, basis, until, canonical=False)
        if better is False:
            lower = bound.size
        elif better is None:
            break
        else:
            bound = better.simplify()
    return SizeInterval(lower, bound.size, _on_inputs(bound, support, m))


def min_depth_circuit(
    table: TruthTable | Sequence[int] | np.ndarray, depth: int, *, time_limit: float = 60.0
) -> SizeInterval:
    """Find the fewest gates AND and OR, in alternating levels over literals, within a depth.

    Parameters
    ----------
    table
        The function: a `TruthTable`, or its ``(2**m,)`` values in the order of the codes.
    depth
        Most levels, at least 2. Depth 2 are disjunctive and conjunctive normal forms: one gate for
        each term of two literals or more, and one that joins them.
    time_limit
        Seconds, 0 or more, after which the search ends with an interval.

    Returns
    -------
    SizeInterval
        With a circuit of AND, OR and negated inputs. Negations elsewhere are not considered: a
        gate that is needed in both polarities counts twice.

    Raises
    ------
    ValueError
        If the depth is below 2, the table is none or the time limit is negative.
    ComplexityLimitError
        If the function depends on more than 5 inputs.
    ImportError
        If PySAT is not installed.
    """
    _check_time_limit(time_limit)
    if depth < 2:
        raise ValueError(f"depth must be at least 2, not {depth}")
    function, support, m = _reduced(table)
    deadline = time.monotonic() + time_limit
    best, lower = _normal_form(function), 1
    if best.size > 1:
        lower = 2
        for levels in range(2, depth + 1):
            # A smaller depth gives the first bound; the last one gets the remaining time.
            left = deadline - time.monotonic()
            until = deadline if levels == depth else time.monotonic() + left / 4
            lower, best = _least_levels(function, levels, best, until)
    size = best.size
    return SizeInterval(min(lower, size), size, _on_inputs(best, support, m))


def _check_time_limit(seconds: float) -> None:
    if not seconds >= 0:
        raise ValueError(f"time_limit must be at least 0, not {seconds!r}")


def _reduced(
    table: TruthTable | Sequence[int] | np.ndarray,
) -> tuple[np.ndarray, list[int], int]:
    """Give the function on the inputs that it depends on, their numbers, and the number of all."""
    values = (table if isinstance(table, TruthTable) else TruthTable(table)).values
    m = len(values).bit_length() - 1
    # Axis m − 1 − i of the cube is input i.
    cube = np.asarray(values, dtype=np.bool_).reshape((2,) * m)
    support: list[int] = []
    for i in range(m):
        axis = cube.ndim - 1 - len(support)
        first, second = np.take(cube, 0, axis), np.take(cube, 1, axis)
        if (first == second).all():
            cube = first
        else:
            support.append(i)
    check_limit(
        "the number of inputs that the function depends on",
        len(support),
        MAX_SUPPORT,
        cost="days",
        alternative="take the bounds of formulas, trees or diagrams",
    )
    return cube.reshape(-1), support, m


def _on_inputs(circuit: Circuit, support: list[int], m: int) -> Circuit:
    result = Circuit(m)
    result.output(*result.embed(circuit, [result.in_(i) for i in support]))
    return result


def _decomposed(function: np.ndarray, basis: str) -> Circuit:
    """Give a small circuit of two-input gates by splitting along the best input repeatedly."""
    s = len(function).bit_length() - 1
    circuit = Circuit(s)
    splits = _Splits(s, xor_gates=1 if basis == "B2" else 3)
    circuit.output(_built(circuit, splits, _as_int(function), {}))
    return circuit.simplify()


class _Splits:
    """The cheapest way to split each function of s inputs along one of them, as a tree."""

    def __init__(self, s: int, xor_gates: int):
        self.xor_gates = xor_gates
        self.full = (1 << (1 << s)) - 1
        self.inputs = [sum(1 << x for x in range(1 << s) if x >> i & 1) for i in range(s)]
        self.best = cache(self._best)

    def _best(self, f: int) -> tuple[int, str, int, int, int]:
        """Give the cost of a function, how to combine, the input, and the two parts."""
        for i, x in enumerate(self.inputs):
            if f in (x, x ^ self.full):
                return (0, "input" if f == x else "negated", i, 0, 0)
        if f in (0, self.full):
            return (0, "constant", 0, f & 1, 0)
        return min(choice for i in range(len(self.inputs)) for choice in self._along(f, i))

    def _along(self, f: int, i: int) -> list[tuple[int, str, int, int, int]]:
        x, shift = self.inputs[i], 1 << i
        low, high = f & ~x, f & x
        low, high = low | low << shift, high | high >> shift
        if low == high:
            return []

        def cost(*parts: int) -> int:
            return sum(self.best(part)[0] for part in parts)

        if low == high ^ self.full:
            return [(self.xor_gates + cost(low), "xor", i, low, high)]
        if low & high in (low, high):
            constants = (low in (0, self.full)) + (high in (0, self.full))
            return [(2 - constants + cost(low, high), "unate", i, low, high)]
        choices = [(3 + cost(low, high), "choose", i, low, high)]
        if self.xor_gates == 1:
            choices.append((2 + cost(low, low ^ high), "flip", i, low, low ^ high))
        return choices


def _built(circuit: Circuit, splits: _Splits, f: int, built: dict[int, Node]) -> Node:
    if f in built:
        return built[f]
    _, how, i, first, second = splits.best(f)
    if how == "constant":
        return circuit.const(first)
    x = circuit.in_(i)
    if how in ("input", "negated"):
        return x if how == "input" else ~x
    low = _built(circuit, splits, first, built)
    if how == "xor":
        node = low ^ x if splits.xor_gates == 1 else (low | x) & ~(low & x)
    else:
        high = _built(circuit, splits, second, built)
        if how == "flip":
            node = low ^ (x & high)
        elif how == "choose":
            node = (x & high) | (~x & low)
        else:
            # One part implies the other: the larger counts on its side, the smaller everywhere.
            node = low | (x & high) if first & second == first else high | (~x & low)
    built[f] = node
    return node


def _as_int(function: np.ndarray) -> int:
    return sum(1 << x for x in np.flatnonzero(function).tolist())


def _search_gates(
    function: np.ndarray, r: int, basis: str, deadline: float, *, canonical: bool = True
) -> Circuit | Literal[False] | None:
    """Look for a circuit of r gates; False if there is none, None if time ran out.

    In canonical form no circuit of r gates says nothing about fewer; otherwise it does.
    """
    from modicum.repcomplexity.integrations.sat import SatSolver

    if r == 0:
        return False
    target = function ^ function[0]
    with SatSolver() as solver:
        search = _GateSearch(solver, target, r, basis, canonical)
        rows = np.random.default_rng(0).permutation(np.arange(1, len(target)))
        new = rows[: FIRST_ROWS if canonical else None].tolist()
        while new:
            for row in new:
                search.add_row(row)
            answer = solver.solve(deadline=deadline)
            if not answer:
                return None if answer is None else False
            circuit = search.circuit()
            wrong = np.flatnonzero(circuit.truth_values()[:, 0] != target)
            new = wrong[:2].tolist()
    if function[0]:
        circuit.outputs = [circuit.not_(Node(circuit, circuit.outputs[0])).index]
    return circuit


class _GateSearch:
    """Clauses that say: r normal two-input gates, in canonical form or any, compute the target."""

    def __init__(self, solver: SatSolver, target: np.ndarray, r: int, basis: str, canonical: bool):
        self.solver = solver
        self.target = target
        self.s = len(target).bit_length() - 1
        self.last = self.s + r - 1
        self.gates = range(self.s, self.s + r)
        pairs = {i: list(combinations(range(i), 2)) for i in self.gates}
        # Which two wires a gate reads, and its values where not both are 0.
        self.reads = {
            i: dict(zip(pairs[i], solver.new_variables(len(pairs[i])), strict=True))
            for i in self.gates
        }
        self.values = {
            i: dict(zip([(0, 1), (1, 0), (1, 1)], solver.new_variables(3), strict=True))
            for i in self.gates
        }
        for i in self.gates:
            solver.add(*self.reads[i].values())
            self._add_kinds(i, basis)
            if canonical:
                self._add_use(i)
        if canonical:
            self._add_order()
            self._add_symmetries()

    def _add_kinds(self, i: int, basis: str) -> None:
        second, first, both = self.values[i].values()
        self.solver.add(second, first, both)
        # Neither of the inputs themselves.
        self.solver.add(second, -first, -both)
        self.solver.add(-second, first, -both)
        if basis == "U2":
            self.solver.add(-second, -first, both)

    def _add_use(self, i: int) -> None:
        """Say that a gate is read, and never together with what it reads itself."""
        later = [j for j in self.gates if j > i]
        if later:
            self.solver.add(*(v for j in later for pair, v in self.reads[j].items() if i in pair))
        for (a, b), reads in self.reads[i].items():
            for j in later:
                self.solver.add(-reads, -self.reads[j][a, i])
                self.solver.add(-reads, -self.reads[j][b, i])

    def _add_order(self) -> None:
        """Say that consecutive gates are in co-lexicographic order unless one reads the other."""
        for i in self.gates[:-1]:
            for pair, reads in self.reads[i].items():
                for after, variable in self.reads[i + 1].items():
                    if i not in after and after[::-1] < pair[::-1]:
                        self.solver.add(-reads, -variable)

    def _add_symmetries(self) -> None:
        """Say that inputs are read, and alike ones for the first time in their order."""
        for p in range(self.s):
            readers = [(i, pair) for i in self.gates for pair in self.reads[i] if p in pair]
            self.solver.add(*(self.reads[i][pair] for i, pair in readers))
            q = next((q for q in range(p + 1, self.s) if self._alike(p, q)), None)
            if q is None:
                continue
            for i in self.gates:
                before = [self.reads[j][pair] for j, pair in readers if j < i]
                for pair, variable in self.reads[i].items():
                    if q in pair and p not in pair:
                        self.solver.add(-variable, *before)

    def _alike(self, p: int, q: int) -> bool:
        cube = self.target.reshape((2,) * self.s)
        swapped = np.swapaxes(cube, self.s - 1 - p, self.s - 1 - q)
        return bool((cube == swapped).all())

    def add_row(self, row: int) -> None:
        """Say that all gates compute, and the last one gives the target, on one input."""
        add, true = self.solver.add, self.solver.true
        wires = [true if row >> i & 1 else -true for i in range(self.s)]
        wires += self.solver.new_variables(len(self.gates) - 1)
        wires.append(true if self.target[row] else -true)
        for i in self.gates:
            for (j, k), reads in self.reads[i].items():
                add(-reads, wires[j], wires[k], -wires[i])
                for (a, b), value in self.values[i].items():
                    unless = (-reads, -wires[j] if a else wires[j], -wires[k] if b else wires[k])
                    add(*unless, -wires[i], value)
                    add(*unless, wires[i], -value)

    def circuit(self) -> Circuit:
        """Give the circuit of the model that the solver found, with the target as its output."""
        true = self.solver.true_variables()
        circuit = Circuit(self.s)
        wires = circuit.inputs()
        for i in self.gates:
            j, k = next(pair for pair, variable in self.reads[i].items() if variable in true)
            kind = tuple(variable in true for variable in self.values[i].values())
            wires.append(_normal_gate(wires[j], wires[k], kind))
        circuit.output(wires[-1])
        return circuit


def _normal_gate(first: Node, second: Node, kind: tuple[bool, ...]) -> Node:
    """Give the gate that is 0 on 0, 0 with given values on 01, 10 and 11 of first and second."""
    match kind:
        case (True, True, True):
            return first | second
        case (True, True, False):
            return first ^ second
        case (True, False, False):
            return ~first & second
        case (False, True, False):
            return first & ~second
    return first & second


def _normal_form(function: np.ndarray) -> Circuit:
    """Give all minterms or all maxterms, whichever are fewer."""
    s = len(function).bit_length() - 1
    ones = np.flatnonzero(function)
    negated = 2 * len(ones) > len(function)
    rows = np.flatnonzero(~function) if negated else ones
    circuit = Circuit(s)
    terms = [
        circuit.and_(*(x if row >> i & 1 else ~x for i, x in enumerate(circuit.inputs())))
        for row in rows.tolist()
    ]
    circuit.output(circuit.or_(*terms))
    return _dual(circuit) if negated else circuit


def _dual(circuit: Circuit) -> Circuit:
    """Give the negation of a circuit of AND, OR and negated inputs as such a circuit."""
    result = Circuit(circuit.n_inputs)
    nodes = {i: ~x for i, x in enumerate(result.inputs())}
    for index in circuit.live():
        gate = circuit.gates[index]
        wires = [nodes[source] for source in gate.fan_in]
        if gate.kind is Gate.AND:
            nodes[index] = result.or_(*wires)
        elif gate.kind is Gate.OR:
            nodes[index] = result.and_(*wires)
        elif gate.kind is Gate.NOT:
            nodes[index] = ~wires[0]
        elif gate.kind is Gate.CONST:
            nodes[index] = result.const(1 - gate.parameter)
    result.output(*(nodes[index] for index in circuit.outputs))
    return result


def _least_levels(
    function: np.ndarray, levels: int, best: Circuit, deadline: float
) -> tuple[int, Circuit]:
    """Give a lower bound on the gates within some levels, and `best` or a smaller circuit."""
    lowest = best.size
    for negated in (False, True):
        # An AND on top of a function is an OR on top of its negation.
        left = deadline - time.monotonic()
        until = deadline if negated else time.monotonic() + left / 2
        lower, circuit = _search_levels(function ^ negated, levels, best.size, until)
        lowest = min(lowest, lower)
        if circuit:
            best = _dual(circuit) if negated else circuit
    return min(lowest, best.size), best


def _search_levels(
    function: np.ndarray, levels: int, size: int, deadline: float
) -> tuple[int, Circuit | None]:
    """Look for circuits with an OR on top and fewer gates than a size.

    Gives a lower bound on such circuits' gates (the size if there are none that are smaller) and
    the smallest circuit that was found.
    """
    from modicum.repcomplexity.integrations.sat import SatSolver

    # Beside the top gate at least one is needed, and few enough to improve.
    lower, upper, found = 2, size, None
    with SatSolver() as solver:
        search = _LevelSearch(solver, function, levels, max(size - 2, 0))
        half = time.monotonic() + (deadline - time.monotonic()) / 2
        while lower < upper:
            answer = solver.solve(search.at_most(upper - 2), half)
            if answer:
                found = search.circuit()
                upper = found.size
            elif answer is False:
                lower = upper
            else:
                break
        while lower < upper and solver.solve(search.at_most(lower - 1), deadline) is False:
            lower += 1
    return lower, found


class _LevelSearch:
    """Clauses that say: alternating levels of gates over literals, OR on top, compute a function.

    Children of a gate are literals and gates an odd number of levels below, which are of the other
    kind. Gates are monotone in each other, so on each row it is enough to certify the value that
    the function has there: a gate that certifies needs one child that does (OR where the value is
    1, AND where it is 0) or all of its children.
    """

    def __init__(self, solver: SatSolver, function: np.ndarray, levels: int, width: int):
        self.solver = solver
        self.function = function
        self.levels = levels
        # Per level, per gate: the variable of each child, (level, number) of a gate, or (−1, 2 i)
        # for input i and (−1, 2 i + 1) for its negation.
        self.children: list[list[dict[tuple[int, int], int]]] = []
        self.used: list[list[int]] = []
        n_literals = 2 * (len(function).bit_length() - 1)
        for level in range(levels):
            names = [(-1, number) for number in range(n_literals)]
            for lower in range(level - 1, -1, -2):
                names += [(lower, number) for number in range(width)]
            count = 1 if level == levels - 1 else width
            self.used.append(solver.new_variables(count))
            self.children.append(
                [
                    dict(zip(names, solver.new_variables(len(names)), strict=True))
                    for _ in range(count)
                ]
            )
            self._add_gates(level)
        solver.add(self.used[-1][0])
        self.counts = solver.totalizer([v for level in self.used[:-1] for v in level])
        for row in range(len(function)):
            self._add_row(row)

    def at_most(self, k: int) -> list[int]:
        """Give assumptions under which at most k gates beside the top one are used."""
        return [-self.counts[k]] if k < len(self.counts) else []

    def _add_gates(self, level: int) -> None:
        add = self.solver.add
        for used, children in zip(self.used[level], self.children[level], strict=True):
            variables = list(children.values())
            add(-used, *variables)
            for (lower, number), child in children.items():
                add(-child, used)
                # A gate of one child is none, and one of a literal and its negation a constant.
                add(-child, *(other for other in variables if other != child))
                if lower >= 0:
                    add(-child, self.used[lower][number])
                elif number % 2 == 0:
                    add(-child, -children[-1, number + 1])
        for first, second in pairwise(self.used[level]):
            add(first, -second)
        for before, after in pairwise(self.children[level]):
            self._add_descending(list(before.values()), list(after.values()))

    def _add_descending(self, before: list[int], after: list[int]) -> None:
        """Say that gates of a level, which could change places, are in lexicographic order."""
        add = self.solver.add
        equal = self.solver.true
        for a, b in zip(before, after, strict=True):
            add(-equal, a, -b)
            following = self.solver.new_variable()
            add(-equal, -a, -b, following)
            add(-equal, a, b, following)
            equal = following

    def _add_row(self, row: int) -> None:
        """Say that the top gate certifies the function's value on one input."""
        add, value = self.solver.add, bool(self.function[row])
        certifies = [self.solver.new_variables(len(gates)) for gates in self.children]
        add(certifies[-1][0])
        for level, gates in enumerate(self.children):
            one_is_enough = value == self._is_or(level)
            for certificate, children in zip(certifies[level], gates, strict=True):
                reasons = [-certificate]
                for (lower, number), child in children.items():
                    if lower >= 0:
                        below = certifies[lower][number]
                    else:
                        holds = (row >> (number // 2) & 1 == 1) != (number % 2 == 1)
                        below = self.solver.true if holds == value else -self.solver.true
                    if one_is_enough:
                        reason = self.solver.new_variable()
                        add(-reason, child)
                        add(-reason, below)
                        reasons.append(reason)
                    else:
                        add(-certificate, -child, below)
                if one_is_enough:
                    add(*reasons)

    def _is_or(self, level: int) -> bool:
        return (self.levels - 1 - level) % 2 == 0

    def circuit(self) -> Circuit:
        """Give the circuit of the model that the solver found."""
        true = self.solver.true_variables()
        circuit = Circuit(len(self.function).bit_length() - 1)
        nodes = {(-1, 2 * i): x for i, x in enumerate(circuit.inputs())}
        nodes |= {(-1, 2 * i + 1): ~x for i, x in enumerate(circuit.inputs())}
        for level, gates in enumerate(self.children):
            join = circuit.or_ if self._is_or(level) else circuit.and_
            for number, children in enumerate(gates):
                wires = [nodes[name] for name, child in children.items() if child in true]
                nodes[level, number] = join(*wires)
        circuit.output(nodes[self.levels - 1, 0])
        return circuit
