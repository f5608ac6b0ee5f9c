"""Compile a circuit to a ReLU network that equals it on bits, exactly.

The network is a plain multilayer perceptron: linear maps with ReLU between them, one hidden layer
per level of the circuit. Nothing is trained.

=========  ================================================  =====
gate       value, with s the sum of the inputs               units
=========  ================================================  =====
AND of n   relu(s − n + 1)                                   1
OR         1 − relu(1 − s)                                   1
THR k      relu(s − k + 1) − relu(s − k)                     2
XOR of n   relu(s) − 2 relu(s − 1) + 2 relu(s − 2) − …       n
NOT        1 − s                                             0
=========  ================================================  =====

A value that later layers read is carried through each layer by one unit, relu(v) = v.

Shapes: m inputs, o outputs, u units of a hidden layer; ``…`` any leading shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from modicum.repcomplexity.bits import check_limit
from modicum.repcomplexity.circuits.circuit import Circuit, Gate, GateRecord

try:
    import torch
    from torch import nn
except ModuleNotFoundError as missing:
    raise ImportError(
        'the network of a circuit needs torch: pip install "modicum-repcomplexity[torch]"'
    ) from missing

__all__ = ["CircuitNet", "to_torch"]

MAX_WEIGHTS = 1 << 28
"""Most entries of all weight matrices, 1 GiB in float32."""


class CircuitNet(nn.Sequential):
    """The multilayer perceptron of a circuit: Linear, ReLU, …, Linear.

    Maps ``(…, m)`` of zeros and ones to ``(…, o)`` of zeros and ones, or to ``(…, 1)`` where
    outputs were added up, in the precision of the parameters. They can be trained on.
    """

    @property
    def widths(self) -> list[int]:
        """Units of each hidden layer."""
        linear = [layer for layer in self if isinstance(layer, nn.Linear)]
        return [layer.out_features for layer in linear[:-1]]

    @property
    def n_units(self) -> int:
        """Units of all hidden layers."""
        return sum(self.widths)


@dataclass
class _Affine:
    """A value as a constant and a combination of the units of one layer.

    `greatest` is the most that a unit with this pre-activation gives on bits.
    """

    weights: dict[int, float]
    bias: float = 0.0
    greatest: float = 1.0


def to_torch(
    circuit: Circuit,
    readout: Sequence[float] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> CircuitNet:
    """Return a ReLU network that equals the circuit on inputs 0 and 1.

    Parameters
    ----------
    circuit
        m inputs and at least one output.
    readout
        One number per output: the network gives the outputs' sum with these weights, ``(…, 1)``.
        All ones turn a unary value, such as that of `q_circuit`, into the value. None for the
        outputs themselves.
    dtype
        Floating-point type; float32 if None.
    device
        Where the parameters are.

    Returns
    -------
    CircuitNet
        ``circuit.depth`` hidden layers. Without a readout the result is exact, not only close.

    Raises
    ------
    ValueError
        If there are no outputs, the readout has another length, a gate has more inputs than the
        type can count exactly, or sums could be too large for it (a parity of more than 4096
        inputs in float32).
    ComplexityLimitError
        If the weight matrices had more than 2^28 entries.

    Notes
    -----
    All weights and partial sums are integers, below 2^24 in float32 in whatever order they are
    added. float16 and bfloat16 hold counts up to 2^11 and 2^8; with them the network is exact where
    products are added up in float32, as on CPUs. On a GPU that takes
    ``torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False``, and likewise with
    ``bf16``. A GPU that rounds factors to TF32 keeps integers up to 2^11, and so fan-ins up to
    2048, exact.
    """
    dtype = torch.float32 if dtype is None else dtype
    simple = circuit.simplify()
    _check(simple, readout, dtype)
    layers, outputs = _layers(simple)
    _check_sums(simple.n_inputs, [*layers, outputs], dtype)
    if readout is not None:
        outputs = [_combined(outputs, [float(factor) for factor in readout])]
    widths = [simple.n_inputs, *(len(layer) for layer in layers), len(outputs)]
    n_weights = sum(a * b for a, b in pairwise(widths))
    check_limit(
        "the number of weights",
        n_weights,
        MAX_WEIGHTS,
        cost=f"{n_weights / 2**28:,.1f} GiB in float32",
        alternative="take fewer outputs, or evaluate the circuit itself",
    )
    modules: list[nn.Module] = []
    for width, units in zip(widths, layers, strict=False):
        modules += [_linear(width, units, dtype, device), nn.ReLU()]
    modules.append(_linear(widths[-2], outputs, dtype, device))
    return CircuitNet(*modules)


def _check(circuit: Circuit, readout: Sequence[float] | None, dtype: torch.dtype) -> None:
    if circuit.n_outputs == 0:
        raise ValueError("circuit must have an output to be compiled")
    if readout is not None and len(readout) != circuit.n_outputs:
        raise ValueError(f"readout must have {circuit.n_outputs} numbers, not {len(readout)}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, not {dtype}")
    widest = max((len(circuit.gates[index].fan_in) for index in circuit.live()), default=0)
    largest = round(2 / torch.finfo(dtype).eps)
    if widest > largest:
        raise ValueError(
            f"dtype {dtype} counts exactly to {largest} only, and a gate has {widest} inputs"
        )


def _check_sums(n_inputs: int, layers: Sequence[list[_Affine]], dtype: torch.dtype) -> None:
    """Refuse what rounding could change in some order of the sums."""
    limit = round(2 / min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps))
    greatest = [1.0] * n_inputs
    for layer in layers:
        # Units of one gate have the same weights.
        sums: dict[int, float] = {}
        for unit in layer:
            key = id(unit.weights)
            if key not in sums:
                sums[key] = sum(abs(w) * greatest[below] for below, w in unit.weights.items())
            if sums[key] + abs(unit.bias) > limit:
                raise ValueError(
                    f"dtype {dtype} adds up exactly to {limit} only, and sums of the network "
                    f"reach {sums[key] + abs(unit.bias):.0f}"
                )
        greatest = [unit.greatest for unit in layer]


def _layers(circuit: Circuit) -> tuple[list[list[_Affine]], list[_Affine]]:
    """Give the pre-activations of each hidden layer in the units below, and the outputs."""
    levels, literals = circuit.levels(), _literals(circuit)
    depth = max(levels[index] for index in circuit.outputs)
    reads = {
        index: [literals[source] for source in circuit.gates[index].fan_in]
        for index, literal in literals.items()
        if literal.source == index
    }
    last_read = {literals[index].source: depth + 1 for index in circuit.outputs}
    for index, fan_in in reads.items():
        for literal in fan_in:
            last_read[literal.source] = max(last_read.get(literal.source, 0), levels[index])
    values = {i: _Affine({i: 1.0}) for i in range(circuit.n_inputs)}
    layers = []
    for level in range(1, depth + 1):
        units: list[_Affine] = []
        above: dict[int, _Affine] = {}
        for index, value in values.items():
            if last_read.get(index, 0) > level:
                above[index] = _Affine({len(units): 1.0})
                units.append(value)
        for index, fan_in in reads.items():
            if levels[index] == level:
                total = _total(fan_in, values)
                above[index] = _gate(circuit.gates[index], total, units)
        layers.append(units)
        values = above
    return layers, [_total([literals[index]], values) for index in circuit.outputs]


@dataclass(frozen=True)
class _Literal:
    """An input or a gate, its negation, or (with the source −1) a constant."""

    source: int
    factor: float = 1.0
    bias: float = 0.0


def _literals(circuit: Circuit) -> dict[int, _Literal]:
    literals: dict[int, _Literal] = {}
    for index in circuit.live():
        gate = circuit.gates[index]
        if gate.kind is Gate.CONST:
            literals[index] = _Literal(-1, 0.0, float(gate.parameter))
        elif gate.kind is Gate.NOT:
            negated = literals[gate.fan_in[0]]
            literals[index] = _Literal(negated.source, -negated.factor, 1.0 - negated.bias)
        else:
            literals[index] = _Literal(index)
    return literals


def _total(literals: list[_Literal], values: dict[int, _Affine]) -> _Affine:
    """Give the sum of literals in the units that their values are made of."""
    constant = _Affine({})
    parts = [values.get(literal.source, constant) for literal in literals]
    total = _combined(parts, [literal.factor for literal in literals])
    total.bias += sum(literal.bias for literal in literals)
    return total


def _combined(values: list[_Affine], factors: Sequence[float]) -> _Affine:
    total = _Affine({})
    for value, factor in zip(values, factors, strict=True):
        total.bias += factor * value.bias
        for unit, weight in value.weights.items():
            total.weights[unit] = total.weights.get(unit, 0.0) + factor * weight
    return total


def _gate(gate: GateRecord, total: _Affine, units: list[_Affine]) -> _Affine:
    """Add the units of a gate and give its value in them."""
    n = len(gate.fan_in)
    if gate.kind is Gate.OR:
        units.append(_Affine({unit: -w for unit, w in total.weights.items()}, 1.0 - total.bias))
        return _Affine({len(units) - 1: -1.0}, 1.0)
    if gate.kind is Gate.XOR:
        # The zigzag through 0, 1, 0, 1, … at s = 0, 1, 2, 3, …
        steps = [1.0] + [2.0 if j % 2 == 0 else -2.0 for j in range(1, n)]
        shifts = range(n)
    elif gate.kind is Gate.AND:
        steps, shifts = [1.0], range(n - 1, n)
    else:
        steps, shifts = [1.0, -1.0], range(gate.parameter - 1, gate.parameter + 1)
    first = len(units)
    units += [_Affine(total.weights, total.bias - shift, n - shift) for shift in shifts]
    return _Affine({first + j: step for j, step in enumerate(steps)})


def _linear(
    width: int, rows: list[_Affine], dtype: torch.dtype, device: str | torch.device
) -> nn.Linear:
    weights = torch.zeros((len(rows), width), dtype=dtype)
    for row, affine in enumerate(rows):
        if affine.weights:
            weights[row, list(affine.weights)] = torch.tensor(
                list(affine.weights.values()), dtype=dtype
            )
    bias = torch.tensor([affine.bias for affine in rows], dtype=dtype)
    # Made without storage and then filled: an initialisation would draw random numbers.
    layer = nn.Linear(1, 1, device="meta")
    layer.in_features, layer.out_features = width, len(rows)
    layer.weight = nn.Parameter(weights.to(device))
    layer.bias = nn.Parameter(bias.to(device))
    return layer
