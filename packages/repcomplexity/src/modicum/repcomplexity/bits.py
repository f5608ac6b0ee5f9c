"""Packed integers and their bits: unpack, pack, count, and enumerate subcubes.

Bit i of a code ``x`` is ``(x >> i) & 1``: the least significant bit comes first, everywhere in this
package. Codes are non-negative int64 of at most `MAX_BITS` bits. Every function takes NumPy arrays
and torch tensors on any device and answers in kind. Knows nothing of decision processes.

Shapes: m bits of a code; ``…`` any leading shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "BIT_FORMS",
    "MAX_BITS",
    "Array",
    "ComplexityLimitError",
    "all_codes",
    "bits_for",
    "check_limit",
    "deposit",
    "extract",
    "gray_decode",
    "gray_encode",
    "pack",
    "parity",
    "popcount",
    "subcube",
    "unpack",
]

Array = Any
"""A NumPy array or a torch tensor."""

MAX_BITS = 62
"""Most bits of a code: both the code and the number of codes fit an int64."""

BIT_FORMS = ("uint8", "bool", "sign")
"""Forms of unpacked bits; ``"sign"`` is float32 with 0 as +1 and 1 as −1."""


class ComplexityLimitError(ValueError):
    """An exact routine was asked for more than it can do; nothing was allocated."""


def check_limit(what: str, value: int, limit: int, *, cost: str, alternative: str) -> None:
    """Refuse a size that an exact routine cannot handle, before it allocates anything.

    Parameters
    ----------
    what
        The size in words: ``"the number of inputs"``.
    value, limit
        The size asked for, and the largest allowed.
    cost
        What the size would take: ``"4.0 GiB"`` or ``"about 3 hours"``.
    alternative
        What to do in its place, as an imperative.

    Raises
    ------
    ComplexityLimitError
        If `value` exceeds `limit`.
    """
    if value > limit:
        raise ComplexityLimitError(
            f"{what} is {value}, above the limit of {limit}: it would take {cost}; {alternative}"
        )


def bits_for(count: int) -> int:
    """Return how many bits tell `count` things apart: ``ceil(log2(count))``, 0 for one thing."""
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    return (int(count) - 1).bit_length()


def all_codes(m: int) -> np.ndarray:
    """Return the codes of `m` bits in order, int64 ``(2**m,)``.

    Raises
    ------
    ComplexityLimitError
        If there are more than 2**30, 8 GiB of them.
    """
    _check_width(m)
    check_limit(
        "the number of bits",
        m,
        30,
        cost=f"{2.0 ** (m - 27):,.0f} GiB",
        alternative="go through the codes in chunks",
    )
    return np.arange(1 << m, dtype=np.int64)


def unpack(codes: Array, m: int, form: str = "uint8", *, positions: Array | None = None) -> Array:
    """Return the bits of codes.

    Parameters
    ----------
    codes
        Integers ``(…)`` in ``[0, 2**m)``. Higher bits are ignored.
    m
        How many bits to take.
    form
        One of `BIT_FORMS`.
    positions
        Which bits to take and in which order, int64 ``(m,)``, beside the codes; ``0 … m − 1`` if
        None.

    Returns
    -------
    array or tensor
        ``(…, m)``, bit 0 first.

    Raises
    ------
    ValueError
        If `m` is out of range or the form unknown.
    """
    _check_width(m)
    if form not in BIT_FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, BIT_FORMS))}, not {form!r}")
    if _is_tensor(codes):
        import torch

        if positions is None:
            positions = torch.arange(m, dtype=torch.int64, device=codes.device)
        bits = (codes[..., None].long() >> positions) & 1
        if form == "sign":
            return (1 - 2 * bits).to(torch.float32)
        return bits.to(torch.bool if form == "bool" else torch.uint8)
    if positions is None:
        positions = np.arange(m, dtype=np.int64)
    bits = (np.asarray(codes, dtype=np.int64)[..., None] >> positions) & 1
    if form == "sign":
        return (1 - 2 * bits).astype(np.float32)
    return bits.astype(np.bool_ if form == "bool" else np.uint8)


def pack(bits: Array, form: str = "auto") -> Array:
    """Return the codes of bits; the inverse of `unpack`.

    Parameters
    ----------
    bits
        ``(…, m)``, bit 0 first. Booleans or numbers 0 and 1; with ``form="sign"`` numbers whose
        sign is the bit, negative for 1.
    form
        ``"auto"`` (0 and 1) or one of `BIT_FORMS`.

    Returns
    -------
    array or tensor
        int64 ``(…)``; 0 when m = 0.

    Raises
    ------
    ValueError
        If there are too many bits, or an entry is no bit of that form.
    """
    if form != "auto" and form not in BIT_FORMS:
        raise ValueError(f"form must be 'auto' or one of {BIT_FORMS}, not {form!r}")
    tensor = _is_tensor(bits)
    bits = bits if tensor else np.asarray(bits)
    if bits.ndim == 0:
        raise ValueError("bits must have an axis of bits, not be a single number")
    m = bits.shape[-1]
    _check_width(m)
    lowest, highest = (-1, 1) if form == "sign" else (0, 1)
    if not bool(((bits == lowest) | (bits == highest)).all()):
        raise ValueError(f"bits must hold {lowest} and {highest} only")
    ones = bits < 0 if form == "sign" else bits
    if tensor:
        import torch

        return (ones.long() << torch.arange(m, device=bits.device)).sum(-1)
    return (ones.astype(np.int64) << np.arange(m, dtype=np.int64)).sum(-1)


def popcount(codes: Array) -> Array:
    """Return how many bits of each code are 1, int64 of the same shape; an int for an int."""
    if isinstance(codes, int):
        return codes.bit_count()
    if not _is_tensor(codes):
        codes = np.asarray(codes, dtype=np.int64)
        if hasattr(np, "bitwise_count"):
            return np.bitwise_count(codes).astype(np.int64)
    else:
        codes = codes.long()
    # Sums of neighbouring bits, pairs, nibbles; no multiplication, which could overflow.
    codes = codes - ((codes >> 1) & 0x5555555555555555)
    codes = (codes & 0x3333333333333333) + ((codes >> 2) & 0x3333333333333333)
    codes = (codes + (codes >> 4)) & 0x0F0F0F0F0F0F0F0F
    for shift in (8, 16, 32):
        codes = codes + (codes >> shift)
    return codes & 0x7F


def parity(codes: Array) -> Array:
    """Return 1 for each code with an odd number of ones and 0 for the others, int64."""
    return popcount(codes) & 1


def extract(codes: Array, positions: Sequence[int]) -> Array:
    """Return codes made of some bits of others: bit k of the result is bit ``positions[k]``."""
    result = codes & 0
    for k, position in enumerate(positions):
        result = result | (((codes >> int(position)) & 1) << k)
    return result


def deposit(codes: Array, positions: Sequence[int]) -> Array:
    """Put bit k of each code at bit ``positions[k]``, zeros elsewhere; undone by `extract`."""
    result = codes & 0
    for k, position in enumerate(positions):
        result = result | (((codes >> k) & 1) << int(position))
    return result


def subcube(fixed: Mapping[int, int], m: int) -> np.ndarray:
    """Return all codes of `m` bits in which some bits are fixed.

    Parameters
    ----------
    fixed
        Bit (0 or 1) of each fixed position.
    m
        Bits of a code.

    Returns
    -------
    ndarray
        int64 ``(2**(m − len(fixed)),)``, increasing.

    Raises
    ------
    ValueError
        If a position is not in ``[0, m)`` or a bit is neither 0 nor 1.
    """
    _check_width(m)
    base = 0
    for position, bit in fixed.items():
        if not 0 <= position < m or bit not in (0, 1):
            raise ValueError(
                f"fixed must map positions in [0, {m}) to 0 or 1, not {position} to {bit}"
            )
        base |= int(bit) << int(position)
    free = [position for position in range(m) if position not in fixed]
    return deposit(all_codes(len(free)), free) | base


def gray_encode(codes: Array) -> Array:
    """Return the reflected binary Gray code of integers; neighbours differ in one bit."""
    return codes ^ (codes >> 1)


def gray_decode(codes: Array) -> Array:
    """Return the integers of Gray codes; the inverse of `gray_encode`."""
    for shift in (1, 2, 4, 8, 16, 32):
        codes = codes ^ (codes >> shift)
    return codes


def _check_width(m: int) -> None:
    if not 0 <= m <= MAX_BITS:
        raise ValueError(f"the number of bits must be in [0, {MAX_BITS}], not {m}")


def _is_tensor(values: Any) -> bool:
    return hasattr(values, "detach")
