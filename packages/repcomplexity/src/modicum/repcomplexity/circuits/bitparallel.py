"""Evaluate a circuit on 64 rows at a time: one bit of a word per row.

Words are uint64 or int64 in NumPy and int64 in torch, on any device; row r is bit ``r % 64`` of
word ``r // 64``. Thresholds count their inputs in bit slices with carry-save adders, and
thresholds of the same inputs share the count.

Shapes: B rows, W = ceil(B / 64) words, m inputs, o outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from modicum.repcomplexity.bits import Array, check_limit
from modicum.repcomplexity.circuits.circuit import Circuit, Gate, GateRecord, run_gates

__all__ = [
    "count_ones",
    "evaluate_words",
    "pack_rows",
    "peak_words",
    "truth_table_words",
    "unpack_rows",
]

WORD_BITS = 64
CHUNK_WORDS = 1 << 14
"""Words of one value that are computed together, 128 KiB: the live values fit a CPU's cache."""

DEVICE_BYTES = 1 << 31
"""Memory that the live values take on a GPU: a launch there costs more than a chunk of a CPU."""

MAX_LOG_ENTRIES = 32
"""Entries of a truth table that is computed in one go, as a logarithm: 512 MiB of words."""

_INPUT_PATTERNS = tuple(
    np.uint64(sum(1 << row for row in range(WORD_BITS) if row >> i & 1)) for i in range(6)
)


def pack_rows(bits: Array) -> Array:
    """Put rows of bits into words.

    Parameters
    ----------
    bits
        ``(B, m)`` of booleans or numbers 0 and 1.

    Returns
    -------
    array or tensor
        ``(m, W)``, uint64 for arrays and int64 for tensors. The bits beyond row B are 0.

    Raises
    ------
    ValueError
        If `bits` does not have two axes.
    """
    if bits.ndim != 2:
        raise ValueError(f"bits must have shape (B, m), not {tuple(bits.shape)}")
    n_rows, m = bits.shape
    n_words = -(-n_rows // WORD_BITS)
    if hasattr(bits, "detach"):
        import torch

        padded = torch.zeros((m, n_words * WORD_BITS), dtype=torch.int64, device=bits.device)
        padded[:, :n_rows] = (bits != 0).T
        shifts = torch.arange(WORD_BITS, device=bits.device)
        # The sum wraps into the sign bit, which is row 63.
        return (padded.view(m, n_words, WORD_BITS) << shifts).sum(-1)
    filled = np.zeros((m, n_words * WORD_BITS), dtype=np.bool_)
    filled[:, :n_rows] = (bits != 0).T
    return np.packbits(filled, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def unpack_rows(words: Array, n_rows: int) -> Array:
    """Take rows of bits out of words; the inverse of `pack_rows`.

    Parameters
    ----------
    words
        ``(m, W)`` uint64 or int64.
    n_rows
        Number B of rows, at most 64 W.

    Returns
    -------
    array or tensor
        bool ``(B, m)``.

    Raises
    ------
    ValueError
        If there are fewer rows in the words.
    """
    m, n_words = words.shape
    if not 0 <= n_rows <= n_words * WORD_BITS:
        raise ValueError(f"n_rows must be in [0, {n_words * WORD_BITS}], not {n_rows}")
    if hasattr(words, "detach"):
        import torch

        shifts = torch.arange(WORD_BITS, device=words.device)
        bits = (words[..., None] >> shifts) & 1
        return bits.view(m, n_words * WORD_BITS)[:, :n_rows].T != 0
    as_bytes = np.ascontiguousarray(words).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, bitorder="little")[:, :n_rows].T != 0


def evaluate_words(circuit: Circuit, words: Array) -> Array:
    """Evaluate a circuit on words of rows.

    Parameters
    ----------
    circuit
        m inputs, o outputs.
    words
        ``(m, W)``: uint64 or int64 array, or int64 tensor. Word j of all inputs gives word j of
        the outputs; chunks of words are computed one after the other.

    Returns
    -------
    array or tensor
        ``(o, W)`` of the same type, on the same device. Bits beyond the last row mean nothing.

    Raises
    ------
    ValueError
        If the shape or the type of the words does not fit.
    """
    if words.ndim != 2 or words.shape[0] != circuit.n_inputs:
        raise ValueError(f"words must have shape ({circuit.n_inputs}, W), not {tuple(words.shape)}")
    name = str(words.dtype).removeprefix("torch.")
    if name not in ("int64", "uint64"):
        raise ValueError(f"words must be int64 or uint64, not {name}")
    if hasattr(words, "detach"):
        result = words.new_zeros((circuit.n_outputs, words.shape[1]))
    else:
        result = np.zeros((circuit.n_outputs, words.shape[1]), dtype=words.dtype)
    if circuit.n_outputs == 0:
        return result
    chunk = _chunk_words(circuit, words)
    for start in range(0, words.shape[1], chunk):
        part = slice(start, start + chunk)
        zero = result[0, part] ^ result[0, part]
        for row, value in enumerate(_run_words(circuit, list(words[:, part]), zero)):
            result[row, part] = value
    return result


def truth_table_words(circuit: Circuit) -> np.ndarray:
    """Return the outputs on all 2**m inputs.

    Parameters
    ----------
    circuit
        m inputs, o outputs. Input i is bit i of the row's number.

    Returns
    -------
    ndarray
        uint64 ``(o, max(1, 2**(m−6)))``; with m < 6 the bits from 2**m on are 0.

    Raises
    ------
    ComplexityLimitError
        If there are more than 2**32 entries.
    """
    m = circuit.n_inputs
    log_entries = m + max(circuit.n_outputs - 1, 0).bit_length()
    check_limit(
        "the number of entries of the truth table, as a power of 2,",
        log_entries,
        MAX_LOG_ENTRIES,
        cost=f"{2.0 ** (log_entries - 33):,.1f} GiB",
        alternative="evaluate rows drawn at random",
    )
    n_words = max(1, 1 << max(m - 6, 0))
    result = np.zeros((circuit.n_outputs, n_words), dtype=np.uint64)
    for start in range(0, n_words, CHUNK_WORDS):
        numbers = np.arange(start, min(start + CHUNK_WORDS, n_words), dtype=np.uint64)
        values = _run_words(circuit, _all_rows(m, numbers), np.zeros_like(numbers))
        for row, value in enumerate(values):
            result[row, start : start + len(numbers)] = value
    if m < 6:
        result &= np.uint64((1 << (1 << m)) - 1)
    return result


def peak_words(circuit: Circuit) -> int:
    """Return how many values of gates are alive at most during an evaluation."""
    live = circuit.live()
    last_use = {source: index for index in live for source in circuit.gates[index].fan_in}
    last_use |= {index: len(circuit.gates) for index in circuit.outputs}
    ends = Counter(last_use.get(index, index) for index in live)
    alive = peak = 0
    for index in live:
        alive += 1
        peak = max(peak, alive)
        alive -= ends[index]
    return peak


def count_ones(values: Sequence[Array]) -> list[Array]:
    """Add up words bit by bit.

    Parameters
    ----------
    values
        One word (or array of words) per summand, at least one.

    Returns
    -------
    list
        Bit slices of the number of ones at each bit position, least significant first.
    """
    slices = []
    column = list(values)
    while column:
        carries = []
        while len(column) > 1:
            if len(column) == 2:
                a, b = column.pop(), column.pop()
                column.append(a ^ b)
                carries.append(a & b)
            else:
                a, b, c = column.pop(), column.pop(), column.pop()
                half = a ^ b
                # At the front: sums are added up as a tree, not as a chain.
                column.insert(0, half ^ c)
                carries.append((a & b) | (half & c))
        slices.append(column[0])
        column = carries
    return slices


def _at_least(slices: Sequence[Array], k: int, zero: Array) -> Array:
    """Compare a number given by bit slices with a constant k >= 0."""
    if k >> len(slices):
        return zero
    result = ~zero
    for position, value in enumerate(slices):
        result = (value & result) if k >> position & 1 else (value | result)
    return result


def _chunk_words(circuit: Circuit, words: Array) -> int:
    """Give how many words to compute at a time: on a GPU as many as fit a part of its memory."""
    if not hasattr(words, "detach") or words.device.type == "cpu":
        return CHUNK_WORDS
    return max(CHUNK_WORDS, DEVICE_BYTES // (8 * peak_words(circuit)))


def _run_words(circuit: Circuit, inputs: list[Array], zero: Array) -> list[Array]:
    counting = [
        circuit.gates[index].fan_in
        for index in circuit.live()
        if circuit.gates[index].kind in (Gate.THR, Gate.MAJ)
    ]
    waiting = Counter(counting)
    counts: dict[tuple[int, ...], list[Array]] = {}

    def apply(gate: GateRecord, values: list[Array], zero: Array) -> Array:
        if gate.kind in (Gate.THR, Gate.MAJ):
            slices = counts.pop(gate.fan_in, None) or count_ones(values)
            waiting[gate.fan_in] -= 1
            if waiting[gate.fan_in]:
                counts[gate.fan_in] = slices
            return _at_least(slices, gate.parameter, zero)
        result = values[0]
        for value in values[1:]:
            if gate.kind is Gate.AND:
                result = result & value
            elif gate.kind is Gate.OR:
                result = result | value
            else:
                result = result ^ value
        return result

    return run_gates(circuit, inputs, zero, apply)


def _all_rows(m: int, numbers: np.ndarray) -> list[np.ndarray]:
    """Give the inputs' words at given word numbers, when rows are in order."""
    columns = [np.full_like(numbers, pattern) for pattern in _INPUT_PATTERNS[:m]]
    for i in range(6, m):
        bit = (numbers >> np.uint64(i - 6)) & np.uint64(1)
        columns.append(np.uint64(0) - bit)
    return columns
