"""Circuits as files: AIGER, ASCII and binary, and BENCH, in and out.

AIGER knows conjunctions of two literals only, BENCH knows AND, OR, XOR and negations of any
fan-in; thresholds and majorities are written as adders. Only combinational files are read: a latch
is an error. Names and comments of a file are not kept; inputs and outputs keep their order.

References
----------
A. Biere, "The AIGER And-Inverter Graph (AIG) Format Version 20071012"; F. Brglez, H. Fujiwara, "A
neutral netlist of 10 combinational benchmark circuits", ISCAS 1985, for BENCH.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from modicum.core.experiment import write_atomic
from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.circuits.arithmetic import expand_thresholds
from modicum.repcomplexity.circuits.circuit import Circuit, Gate, Node

__all__ = ["from_aiger", "from_bench", "read_circuit", "to_aiger", "to_bench", "write_circuit"]

MAX_INPUTS = 1 << 24
"""Most inputs that are read: a binary header alone could ask for any number of them."""

SUFFIXES = (".aag", ".aig", ".bench")

_Key = TypeVar("_Key", bound=Hashable)


def write_circuit(circuit: Circuit, path: str | os.PathLike[str]) -> Path:
    """Write a circuit to a file whose suffix, .aag, .aig or .bench, gives the format.

    Raises
    ------
    ValueError
        If the suffix is another one.
    """
    suffix = _suffix(path)
    if suffix == ".bench":
        return write_atomic(path, to_bench(circuit))
    return write_atomic(path, to_aiger(circuit, binary=suffix == ".aig"))


def read_circuit(path: str | os.PathLike[str]) -> Circuit:
    """Read a circuit from a .aag, .aig or .bench file.

    Raises
    ------
    ValueError
        If the suffix is another one, or the file is not of that format.
    """
    suffix = _suffix(path)
    content = Path(path).read_bytes()
    return from_bench(content.decode()) if suffix == ".bench" else from_aiger(content)


def to_aiger(circuit: Circuit, *, binary: bool = False) -> bytes:
    """Return a circuit as an AIGER file.

    Parameters
    ----------
    circuit
        Any circuit. Gates become trees of conjunctions of two literals; equal ones are shared.
    binary
        Whether to write the binary format, ``aig``, rather than ASCII, ``aag``.
    """
    inverter = _AndInverter(expand_thresholds(circuit))
    m, outputs, ands = circuit.n_inputs, inverter.outputs, inverter.ands
    maximum = m + len(ands)
    format_ = "aig" if binary else "aag"
    lines = [f"{format_} {maximum} {m} 0 {len(outputs)} {len(ands)}"]
    if not binary:
        lines += [str(2 * (i + 1)) for i in range(m)]
    lines += [str(literal) for literal in outputs]
    numbered = [(2 * (m + 1 + i), *rhs) for i, rhs in enumerate(ands)]
    if not binary:
        lines += [f"{lhs} {first} {second}" for lhs, first, second in numbered]
    text = ("\n".join(lines) + "\n").encode()
    if not binary:
        return text
    return text + b"".join(
        _varint(lhs - first) + _varint(first - second) for lhs, first, second in numbered
    )


def from_aiger(content: bytes | str) -> Circuit:
    """Return the circuit of an AIGER file, ASCII or binary.

    Parameters
    ----------
    content
        The file. Version 1.9 is read as long as it has neither latches nor properties.

    Raises
    ------
    ValueError
        If this is no combinational AIGER file: the message says where.
    """
    data = content.encode() if isinstance(content, str) else content
    header, position = _line(data, 0)
    fields = header.split()
    if not fields or fields[0] not in ("aag", "aig"):
        raise ValueError(f"an AIGER file starts with aag or aig, not with {header[:20]!r}")
    if len(fields) < 6:
        raise ValueError(f"the AIGER header needs five numbers, not {header!r}")
    maximum, m, latches, n_outputs, n_ands, *properties = _numbers(header, fields[1:])
    if latches or any(properties):
        raise ValueError(f"only combinational AIGER files without properties are read: {header!r}")
    binary = fields[0] == "aig"
    if binary and maximum != m + n_ands:
        raise ValueError(
            f"the first number of a binary AIGER header is the sum M = I + A: {header!r}"
        )
    check_limit(
        "the number of inputs of the AIGER file",
        m,
        MAX_INPUTS,
        cost=f"about {m * 100 / 2**30:,.1f} GiB",
        alternative="split the file",
    )
    inputs = [2 * (i + 1) for i in range(m)]
    if not binary:
        rows, position = _rows(data, position, m, 1)
        inputs = [literal for (literal,) in rows]
    rows, position = _rows(data, position, n_outputs, 1)
    outputs = [literal for (literal,) in rows]
    if binary:
        ands, position = _binary_ands(data, position, m, n_ands)
    else:
        rows, position = _rows(data, position, n_ands, 3)
        ands = [(lhs, first, second) for lhs, first, second in rows]
    _check_rest(data, position)
    return _and_inverter_circuit(maximum, inputs, outputs, ands)


def to_bench(circuit: Circuit) -> str:
    """Return a circuit as a BENCH file with inputs x0, x1, … and outputs y0, y1, ….

    Constants are written as ``vdd`` and ``gnd``. Gates keep their fan-in.
    """
    expanded = expand_thresholds(circuit)
    lines = [f"INPUT(x{i})" for i in range(expanded.n_inputs)]
    lines += [f"OUTPUT(y{i})" for i in range(expanded.n_outputs)]
    names: dict[int, str] = {}
    for index in expanded.live():
        gate = expanded.gates[index]
        if gate.kind is Gate.INPUT:
            names[index] = f"x{gate.parameter}"
            continue
        names[index] = f"g{index}"
        if gate.kind is Gate.CONST:
            lines.append(f"g{index} = {'vdd' if gate.parameter else 'gnd'}")
        else:
            arguments = ", ".join(names[source] for source in gate.fan_in)
            lines.append(f"g{index} = {gate.kind.upper()}({arguments})")
    lines += [f"y{i} = BUFF({names[index]})" for i, index in enumerate(expanded.outputs)]
    return "\n".join(lines) + "\n"


def from_bench(text: str) -> Circuit:
    """Return the circuit of a BENCH file.

    Reads AND, OR, XOR, NAND, NOR, XNOR (and NXOR), NOT (INV), BUFF (BUF), the constants vdd and
    gnd, definitions in any order, and comments after ``#``.

    Raises
    ------
    ValueError
        If a line is not understood, a name is defined twice or not at all, or there is a cycle.
    """
    inputs, outputs, gates = _bench_statements(text)
    circuit = Circuit(len(inputs))
    nodes = dict(zip(inputs, circuit.inputs(), strict=True))
    for name in _ordered({name: gate[1] for name, gate in gates.items()}, outputs, set(nodes)):
        operator, arguments = gates[name]
        nodes[name] = _bench_gate(circuit, operator, [nodes[argument] for argument in arguments])
    circuit.output(*(nodes[name] for name in outputs))
    return circuit


class _AndInverter:
    """A circuit without thresholds as conjunctions of two AIGER literals, equal ones shared."""

    def __init__(self, circuit: Circuit):
        self.n_inputs = circuit.n_inputs
        self.ands: list[tuple[int, int]] = []
        self.shared: dict[tuple[int, int], int] = {}
        literals: dict[int, int] = {}
        for index in circuit.live():
            kind, fan_in, parameter = circuit.gates[index]
            wires = [literals[source] for source in fan_in]
            if kind is Gate.INPUT:
                literals[index] = 2 * (parameter + 1)
            elif kind is Gate.CONST:
                literals[index] = parameter
            elif kind is Gate.NOT:
                literals[index] = wires[0] ^ 1
            elif kind is Gate.XOR:
                literals[index] = self._parity(wires)
            elif kind is Gate.AND:
                literals[index] = self._conjunction(wires)
            else:
                literals[index] = self._conjunction([wire ^ 1 for wire in wires]) ^ 1
        self.outputs = [literals[index] for index in circuit.outputs]
        self._drop_unused()

    def _conjunction(self, wires: list[int]) -> int:
        # From both ends towards the middle: a tree, not a chain.
        while len(wires) > 1:
            pairs = [self._and(a, b) for a, b in zip(wires[::2], wires[1::2], strict=False)]
            wires = pairs + wires[len(wires) & ~1 :]
        return wires[0]

    def _parity(self, wires: list[int]) -> int:
        result = wires[0]
        for wire in wires[1:]:
            one, other = self._and(result, wire ^ 1), self._and(result ^ 1, wire)
            result = self._and(one ^ 1, other ^ 1) ^ 1
        return result

    def _and(self, a: int, b: int) -> int:
        first, second = max(a, b), min(a, b)
        if second == 0 or first == second ^ 1:
            return 0
        if second == 1 or first == second:
            return first
        if (first, second) not in self.shared:
            self.ands.append((first, second))
            self.shared[first, second] = 2 * (self.n_inputs + len(self.ands))
        return self.shared[first, second]

    def _drop_unused(self) -> None:
        """Leave out conjunctions that folding constants made useless, and number the rest anew."""
        base = self.n_inputs + 1
        used = {literal >> 1 for literal in self.outputs}
        for i in range(len(self.ands) - 1, -1, -1):
            if base + i in used:
                used |= {literal >> 1 for literal in self.ands[i]}
        kept = [i for i in range(len(self.ands)) if base + i in used]
        number = {v: v for v in range(base)} | {base + i: base + j for j, i in enumerate(kept)}

        def renamed(literal: int) -> int:
            return 2 * number[literal >> 1] + (literal & 1)

        self.ands = [(renamed(self.ands[i][0]), renamed(self.ands[i][1])) for i in kept]
        self.outputs = [renamed(literal) for literal in self.outputs]


def _and_inverter_circuit(
    maximum: int, inputs: Sequence[int], outputs: Sequence[int], ands: Iterable[Sequence[int]]
) -> Circuit:
    circuit = Circuit(len(inputs))
    defined: set[int] = set()
    nodes: dict[int, Node] = {}
    for literal, node in zip(inputs, circuit.inputs(), strict=True):
        _define(literal, maximum, defined)
        nodes[literal >> 1] = node
    gates: dict[int, tuple[int, int]] = {}
    for lhs, first, second in ands:
        _define(lhs, maximum, defined)
        gates[lhs >> 1] = (first, second)
    sources = {v: [literal >> 1 for literal in pair] for v, pair in gates.items()}
    wanted = [literal >> 1 for literal in outputs]

    def node_of(literal: int) -> Node:
        node = nodes[literal >> 1]
        return ~node if literal & 1 else node

    if any(0 in given for given in (wanted, *sources.values())):
        nodes[0] = circuit.const(0)
    for variable in _ordered(sources, wanted, set(nodes)):
        first, second = gates[variable]
        nodes[variable] = circuit.and_(node_of(first), node_of(second))
    circuit.output(*(node_of(literal) for literal in outputs))
    return circuit


def _define(literal: int, maximum: int, defined: set[int]) -> None:
    if literal < 2 or literal & 1 or literal >> 1 > maximum or literal >> 1 in defined:
        raise ValueError(
            f"an AIGER definition needs a new even literal in [2, {2 * maximum}], not {literal}"
        )
    defined.add(literal >> 1)


def _ordered(
    sources: Mapping[_Key, Sequence[_Key]], wanted: Sequence[_Key], given: set[_Key]
) -> list[_Key]:
    """Give the defined names so that sources come first; in the file's order where that does."""
    done, order = set(given), []
    for root in (*sources, *wanted):
        stack, path = [root], set[_Key]()
        while stack:
            name = stack[-1]
            if name in done:
                stack.pop()
                continue
            if name not in sources:
                raise ValueError(f"{name!r} is used but never defined")
            missing = [source for source in sources[name] if source not in done]
            if not missing:
                done.add(name)
                order.append(name)
            elif name in path:
                raise ValueError(f"{name!r} depends on itself")
            else:
                path.add(name)
                stack.extend(reversed(missing))
    return order


def _line(data: bytes, position: int) -> tuple[str, int]:
    end = data.find(b"\n", position)
    if end < 0:
        end = len(data)
        if position >= end:
            raise ValueError("the AIGER file ends too early")
    return data[position:end].decode("ascii", errors="replace").strip(), end + 1


def _rows(data: bytes, position: int, count: int, width: int) -> tuple[list[list[int]], int]:
    """Read lines of a number of integers each."""
    rows = []
    for _ in range(count):
        line, position = _line(data, position)
        numbers = _numbers(line, line.split())
        if len(numbers) != width:
            raise ValueError(f"an AIGER line needs {width} numbers here, not {line!r}")
        rows.append(numbers)
    return rows, position


def _numbers(line: str, fields: Sequence[str]) -> list[int]:
    if not all(re.fullmatch(r"[0-9]+", entry) for entry in fields):
        raise ValueError(f"an AIGER line needs numbers, not {line!r}")
    return [int(entry) for entry in fields]


def _varint(value: int) -> bytes:
    """Write a number in groups of 7 bits, lowest first; the top bit says that more follow."""
    result = bytearray()
    while value >= 128:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def _check_rest(data: bytes, position: int) -> None:
    """Refuse what is neither a name nor a comment: the header would have left definitions out."""
    while position < len(data):
        line, position = _line(data, position)
        if line == "c":
            return
        if line and not re.match(r"[ilobcjf][0-9]+ ", line):
            raise ValueError(f"only names and comments can follow the AIGER gates, not {line!r}")


def _binary_ands(
    data: bytes, position: int, m: int, count: int
) -> tuple[list[tuple[int, int, int]], int]:
    rows = []
    for i in range(count):
        lhs = 2 * (m + 1 + i)
        deltas = []
        for _ in range(2):
            value = shift = 0
            while True:
                if position >= len(data):
                    raise ValueError("the AIGER file ends too early")
                byte = data[position]
                position += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            deltas.append(value)
        first, second = lhs - deltas[0], lhs - deltas[0] - deltas[1]
        if deltas[0] == 0 or second < 0:
            raise ValueError(f"conjunction {i} of the AIGER file reads what comes later")
        rows.append((lhs, first, second))
    return rows, position


_PORT = re.compile(r"(INPUT|OUTPUT)\s*\(\s*([^\s(),=]+)\s*\)", re.IGNORECASE)
_GATE = re.compile(r"([^\s(),=]+)\s*=\s*([A-Za-z]+)\s*(?:\(([^()]*)\))?")


def _bench_statements(
    text: str,
) -> tuple[list[str], list[str], dict[str, tuple[str, list[str]]]]:
    inputs: list[str] = []
    outputs: list[str] = []
    gates: dict[str, tuple[str, list[str]]] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#")[0].strip()
        if not line:
            continue
        if port := _PORT.fullmatch(line):
            kind, name = port[1].upper(), port[2]
            (inputs if kind == "INPUT" else outputs).append(name)
        elif gate := _GATE.fullmatch(line):
            name = gate[1]
            listed = (gate[3] or "").strip()
            arguments = [part.strip() for part in listed.split(",")] if listed else []
            if "" in arguments:
                raise ValueError(f"line {number} of the BENCH file leaves out a wire: {line!r}")
            if name in gates:
                raise ValueError(f"line {number} of the BENCH file defines {name!r} again")
            gates[name] = (_bench_operator(gate[2].upper(), len(arguments), number), arguments)
        else:
            raise ValueError(f"line {number} of the BENCH file is not understood: {line!r}")
    times = Counter(inputs)
    twice = {name for name in inputs if name in gates or times[name] > 1}
    if twice:
        raise ValueError(f"the BENCH file defines {min(twice)!r} again")
    return inputs, outputs, gates


_BENCH_NAMES = {"INV": "NOT", "BUF": "BUFF", "NXOR": "XNOR"}


def _bench_operator(operator: str, n_arguments: int, line: int) -> str:
    operator = _BENCH_NAMES.get(operator, operator)
    if operator in ("VDD", "GND"):
        fits = n_arguments == 0
    elif operator in ("NOT", "BUFF"):
        fits = n_arguments == 1
    elif operator in ("AND", "OR", "XOR", "NAND", "NOR", "XNOR"):
        fits = n_arguments >= 1
    else:
        raise ValueError(f"line {line} of the BENCH file has an unknown gate {operator}")
    if not fits:
        raise ValueError(f"line {line} of the BENCH file: {operator} of {n_arguments} wires")
    return operator


def _bench_gate(circuit: Circuit, operator: str, wires: list[Node]) -> Node:
    if operator in ("VDD", "GND"):
        return circuit.const(operator == "VDD")
    if operator in ("AND", "NAND"):
        result = circuit.and_(*wires)
    elif operator in ("OR", "NOR"):
        result = circuit.or_(*wires)
    else:
        result = circuit.xor(*wires)
    return ~result if operator in ("NAND", "NOR", "XNOR", "NOT") else result


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"path must end in {', '.join(SUFFIXES)}, not {os.fspath(path)!r}")
    return suffix
