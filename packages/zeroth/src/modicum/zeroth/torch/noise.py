"""Normal numbers that are a function of their place: (seed, direction, tensor, element).

Takes integers, gives float32 numbers; the same ones, bit for bit, on every device, in any order and
in any part of a tensor. Words come from the counter-based generator of `modicum.core.prf`
(Philox4x32-10); the seed is its key, and its counter is made of the number of the block of four
elements (64 bits), of the tensor and of the direction (32 bits each). The map from words to normals
is Box and Muller's, written in additions, multiplications and one square root, all of which IEEE
754 defines to the last bit; logarithm and sine are polynomials for that reason. Knows nothing of
parameters and what is added to them.

Legend: ``C`` blocks of four elements, ``N`` elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from modicum.core.prf import (
    PHILOX_M0,
    PHILOX_M1,
    PHILOX_W0,
    PHILOX_W1,
    ROUNDS,
    philox4x32,
)

RNG_ALGORITHM = "philox4x32-10 box-muller-float32 1"
"""Named in every trajectory; changes whenever any number below would change."""

Array = Any
"""A NumPy array or a torch tensor."""

WORD = 1 << 32
BLOCK = 4
"""Normals of one block of the generator."""

CPU_CHUNK, DEVICE_CHUNK = 1 << 15, 1 << 22
"""Elements whose noise exists at once: what a core's cache holds, and what keeps a device busy."""

# -2 ln(u) for u in (0, 1]: u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and
# ln(1 + f) = f + f² q(f). The minimax polynomial q has a relative error of 2e-7 as a logarithm.
SQRT_HALF_BITS = 0x3F3504F3
LN_2 = 0.6931471824645996
LOG_COEFFICIENTS = (
    -0.10349463671445847,
    0.16278290748596191,
    -0.17200814187526703,
    0.19894079864025116,
    -0.24973459541797638,
    0.33335089683532715,
    -0.5000028610229492,
)
# sin(πt/2) = t s(t²) for t in [0, 1]; minimax, error 7e-9.
SINE_COEFFICIENTS = (
    0.00015167894889600575,
    -0.004674158524721861,
    0.07968992739915848,
    -0.6459637880325317,
    1.5707963705062866,
)
ANGLE_BITS = 30
"""Bits of a word that choose the angle within a quadrant; the two above are the signs."""


_MULTIPLIERS_21 = np.array([[PHILOX_M0], [PHILOX_M1]], dtype=np.uint64)
_HALF, _LOW = np.uint64(32), np.uint64(WORD - 1)


@dataclass(frozen=True)
class Slot:
    """A run of elements in the noise: elements ``start … start + count - 1`` of one tensor.

    Parameters
    ----------
    tensor
        Number of the tensor, in ``[0, 2**32)``.
    start, count
        First element and number of elements, in the order of rows. A part of a tensor, such as the
        rows that one machine holds, gets the numbers that it has in the whole.
    """

    tensor: int
    start: int
    count: int


def key_words(seed: int) -> tuple[int, int]:
    """Split a seed in ``[0, 2**64)`` into the two words of the key, low word first."""
    return seed % WORD, seed // WORD


def box_muller(radius_words: Array, angle_words: Array) -> tuple[Array, Array]:
    """Turn pairs of 32-bit words into pairs of independent normal numbers.

    Parameters
    ----------
    radius_words, angle_words
        int64 of the same shape with values in ``[0, 2**32)``; NumPy arrays or torch tensors.

    Returns
    -------
    two float32 arrays
        Of the same shape and library, at most 6.8 in size.
    """
    uniform = _float32(radius_words)
    uniform *= 2.0**-32
    uniform += 2.0**-33
    bits = _bits(uniform)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    fraction = _unbits(bits - (exponent << 23)) - 1.0
    logarithm = fraction * LOG_COEFFICIENTS[0]
    for coefficient in LOG_COEFFICIENTS[1:-1]:
        logarithm += coefficient
        logarithm *= fraction
    logarithm += LOG_COEFFICIENTS[-1]
    logarithm *= fraction * fraction
    logarithm += fraction
    logarithm += _float32(exponent) * LN_2
    logarithm *= -2.0
    radius = _rounded_sqrt(logarithm)

    angle = _float32(angle_words & ((1 << ANGLE_BITS) - 1))
    angle *= 2.0**-ANGLE_BITS
    angle += 2.0 ** -(ANGLE_BITS + 1)
    quadrant = angle_words >> ANGLE_BITS
    cosine = _quarter_sine(1.0 - angle)
    cosine *= radius
    cosine *= _float32(1 - (quadrant & 2))
    sine = _quarter_sine(angle)
    sine *= radius
    sine *= _float32(1 - ((quadrant & 1) << 1))
    return cosine, sine


def _quarter_sine(t: Array) -> Array:
    square = t * t
    value = square * SINE_COEFFICIENTS[0]
    for coefficient in SINE_COEFFICIENTS[1:-1]:
        value += coefficient
        value *= square
    value += SINE_COEFFICIENTS[-1]
    value *= t
    return value


def _rounded_sqrt(x: Array) -> Array:
    if isinstance(x, np.ndarray):
        return np.sqrt(x)
    # torch's float32 root may be off in the last bit on a CPU; rounding a float64 root is exact.
    return x.double().sqrt().to(torch.float32)


def _float32(integers: Array) -> Array:
    if isinstance(integers, np.ndarray):
        return integers.astype(np.float32)
    return integers.to(torch.float32)


def _bits(x: Array) -> Array:
    return x.view(np.int32 if isinstance(x, np.ndarray) else torch.int32)


def _unbits(x: Array) -> Array:
    return x.view(np.float32 if isinstance(x, np.ndarray) else torch.float32)


def chunks(slots: Sequence[Slot], device: torch.device) -> Iterator[list[tuple[int, Slot]]]:
    """Cut slots into chunks whose noise is to exist at once.

    Yields
    ------
    list of (int, Slot)
        Indices into `slots` with the part of each that belongs to the chunk; parts of one slot
        begin at multiples of four elements of its tensor, so that no block is computed twice.
    """
    size = CPU_CHUNK if device.type == "cpu" else DEVICE_CHUNK
    chunk: list[tuple[int, Slot]] = []
    room = size
    for index, slot in enumerate(slots):
        at, end = slot.start, slot.start + slot.count
        while at < end:
            stop = min(end, (at + room) // BLOCK * BLOCK)
            if stop <= at:
                yield chunk
                chunk, room = [], size
                continue
            chunk.append((index, Slot(slot.tensor, at, stop - at)))
            room -= _blocks(chunk[-1][1]) * BLOCK
            at = stop
    if chunk:
        yield chunk


def _blocks(slot: Slot) -> int:
    """Count the blocks of four that hold a slot's elements."""
    return -(-(slot.start + slot.count) // BLOCK) - slot.start // BLOCK


@lru_cache(maxsize=4)
def chunk_noise(slots: tuple[Slot, ...], seed: int, device: torch.device) -> Chunk:
    """Return the `Chunk` of some slots; the last few are kept, which is all a small model has."""
    return Chunk(slots, seed, device)


class Chunk:
    """Normals of one chunk of slots, one direction after the other.

    Parameters
    ----------
    slots
        What is wanted, together no more than one chunk of `chunks`.
    seed
        In ``[0, 2**64)``.
    device
        Where the numbers are wanted.
    """

    def __init__(self, slots: Sequence[Slot], seed: int, device: torch.device) -> None:
        self.slots = slots
        self.device = device
        self.key = key_words(seed)
        blocks = [_blocks(slot) for slot in slots]
        self.size = sum(blocks)
        first = np.array([slot.start // BLOCK for slot in slots], dtype=np.int64)
        block_C = np.arange(self.size) + np.repeat(first - np.cumsum([0, *blocks[:-1]]), blocks)
        tensor_C = np.repeat(np.array([slot.tensor for slot in slots], dtype=np.int64), blocks)
        # The words of the counter that all directions share.
        self.counters: list[Array] = [block_C & (WORD - 1), block_C >> 32 & (WORD - 1), tensor_C]
        if device.type != "cpu":
            self.counters = [torch.from_numpy(word_C).to(device) for word_C in self.counters]

    def normals(self, direction: int) -> torch.Tensor:
        """Return one direction's normals of all blocks, float32 ``(4 C,)``; see `split`."""
        host = self.device.type == "cpu"
        words = _host_words if host else _device_words
        even_2C, odd_2C = words([*self.counters, direction], self.key)
        cosine_2C, sine_2C = box_muller(even_2C, odd_2C)
        normals_C22 = torch.empty((self.size, 2, 2), dtype=torch.float32, device=self.device)
        target = normals_C22.numpy() if host else normals_C22
        target[..., 0] = cosine_2C.T
        target[..., 1] = sine_2C.T
        return normals_C22.view(-1)

    def split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Cut what `normals` gave into the slots' parts ``(count,)``, as views."""
        parts = []
        at = 0
        for slot in self.slots:
            lead = slot.start % BLOCK
            parts.append(flat[at + lead : at + lead + slot.count])
            at += _blocks(slot) * BLOCK
        return parts


def _device_words(counter: list[Any], key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return words 0 and 2, and words 1 and 3 of every block, int64 ``(2, C)`` each."""
    zero_C = counter[0] * 0
    full = tuple(zero_C + word for word in counter)
    word0, word1, word2, word3 = philox4x32(full, (zero_C + key[0], zero_C + key[1]))  # type: ignore[arg-type]
    return torch.stack([word0, word2]), torch.stack([word1, word3])


def _host_words(counter: list[Any], key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Do as `_device_words` in unsigned arithmetic in place, at a fifth of the operations."""
    even_2C = np.empty((2, len(counter[0])), dtype=np.uint64)
    odd_2C = np.empty_like(even_2C)
    even_2C[0], odd_2C[0], even_2C[1], odd_2C[1] = counter
    product_2C, spare_2C = np.empty_like(even_2C), np.empty_like(even_2C)
    for key_21 in _round_keys(key):
        np.multiply(even_2C, _MULTIPLIERS_21, out=product_2C)
        np.right_shift(product_2C, _HALF, out=spare_2C)
        np.bitwise_xor(spare_2C[::-1], odd_2C, out=even_2C)
        np.bitwise_xor(even_2C, key_21, out=even_2C)
        np.bitwise_and(product_2C[::-1], _LOW, out=odd_2C)
    return even_2C.view(np.int64), odd_2C.view(np.int64)


@lru_cache(maxsize=16)
def _round_keys(key: tuple[int, int]) -> np.ndarray:
    """Return the key of every round, uint64 ``(ROUNDS, 2, 1)``."""
    rounds = range(ROUNDS)
    pairs = [((key[0] + n * PHILOX_W0) % WORD, (key[1] + n * PHILOX_W1) % WORD) for n in rounds]
    return np.array(pairs, dtype=np.uint64)[..., None]


def normals(
    seed: int,
    direction: int,
    tensor: int,
    count: int,
    *,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return the normal numbers of some elements of one tensor.

    Parameters
    ----------
    seed
        Of the run, in ``[0, 2**64)``.
    direction, tensor
        Numbers in ``[0, 2**32)``.
    count, start
        Elements ``start … start + count - 1``, in the order of rows; below ``2**66``.
    device
        Where the numbers are wanted; they are the same everywhere.

    Returns
    -------
    float32 Tensor[count]

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    for name, value, limit in (
        ("seed", seed, WORD**2),
        ("direction", direction, WORD),
        ("tensor", tensor, WORD),
        ("count", count, WORD**2),
        ("start", start, WORD**2),
    ):
        if not 0 <= value < limit:
            raise ValueError(f"{name} must be in [0, 2**{limit.bit_length() - 1}), got {value}")
    where = torch.device(device)
    out = torch.empty(count, dtype=torch.float32, device=where)
    for chunk in chunks([Slot(tensor, start, count)], where):
        noise = chunk_noise(tuple(slot for _, slot in chunk), seed, where)
        for slot, part in zip(noise.slots, noise.split(noise.normals(direction)), strict=True):
            out[slot.start - start :][: slot.count] = part
    return out


def squared_norm(
    seed: int, direction: int, slots: Sequence[Slot], device: torch.device | str = "cpu"
) -> float:
    """Return the sum of squares of one direction's normals over slots, without storing them."""
    where = torch.device(device)
    total = 0.0
    for chunk in chunks(slots, where):
        noise = chunk_noise(tuple(slot for _, slot in chunk), seed, where)
        for part in noise.split(noise.normals(direction)):
            total += float(part.double().square_().sum())
    return total
