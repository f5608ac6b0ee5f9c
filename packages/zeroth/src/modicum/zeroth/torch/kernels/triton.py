"""The fused version: one launch reads every source once and writes every target once.

A program owns a stretch of one tensor, whose address it looks up in a table, and makes the noise
of a tile in registers. A block of Philox gives the words of four neighbouring elements, so a
tile's lanes are computed as four vectors of counters and interleaved. Additions and multiplications
are not fused into one rounding, so that every result is, bit for bit, that of `reference`. Takes
what the front door checked.
"""

# Parameters of kernels have no types to write: Triton infers them from each call.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from modicum.core.prf import PHILOX_M0, PHILOX_M1, PHILOX_W0, PHILOX_W1, ROUNDS
from modicum.zeroth.torch import noise
from modicum.zeroth.torch.noise import Slot, key_words

# In kernels: L lanes of a tile, C counters (four lanes each).

_ROUNDS = tl.constexpr(ROUNDS)
_M0, _M1 = tl.constexpr(PHILOX_M0), tl.constexpr(PHILOX_M1)
_W0, _W1 = tl.constexpr(PHILOX_W0), tl.constexpr(PHILOX_W1)
_SQRT_HALF_BITS = tl.constexpr(noise.SQRT_HALF_BITS)
_LN_2 = tl.constexpr(noise.LN_2)
_LOG0, _LOG1, _LOG2, _LOG3, _LOG4, _LOG5, _LOG6 = map(tl.constexpr, noise.LOG_COEFFICIENTS)
_SINE0, _SINE1, _SINE2, _SINE3, _SINE4 = map(tl.constexpr, noise.SINE_COEFFICIENTS)
_ANGLE_BITS = tl.constexpr(noise.ANGLE_BITS)
_ANGLE_MASK = tl.constexpr((1 << noise.ANGLE_BITS) - 1)
_ANGLE_UNIT = tl.constexpr(2.0**-noise.ANGLE_BITS)
_HALF_ANGLE_UNIT = tl.constexpr(2.0 ** -(noise.ANGLE_BITS + 1))

# One block of four elements for each thread: what a thread computes is what it reads and writes.
_WARPS = 4
_TILE = 4 * 32 * _WARPS
_STRETCH = 32 * _TILE  # of one program: enough programs for a device even with a million elements
_ALIGNMENT = 16  # bytes that one thread can read at once
_COLUMNS = tl.constexpr(5)
_TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit
def _quarter_sine(t):
    """Return sin(πt/2) for t in [0, 1]."""
    square = t * t
    value = square * _SINE0
    value = (value + _SINE1) * square
    value = (value + _SINE2) * square
    value = (value + _SINE3) * square
    return (value + _SINE4) * t


@triton.jit
def _box_muller(radius_words, angle_words):
    """Turn pairs of uint32 words into pairs of normal numbers."""
    uniform = radius_words.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    bits = uniform.to(tl.int32, bitcast=True)
    exponent = (bits - _SQRT_HALF_BITS) >> 23
    fraction = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    logarithm = fraction * _LOG0
    logarithm = (logarithm + _LOG1) * fraction
    logarithm = (logarithm + _LOG2) * fraction
    logarithm = (logarithm + _LOG3) * fraction
    logarithm = (logarithm + _LOG4) * fraction
    logarithm = (logarithm + _LOG5) * fraction
    logarithm = (logarithm + _LOG6) * (fraction * fraction) + fraction
    logarithm = logarithm + exponent.to(tl.float32) * _LN_2
    radius = tl.sqrt_rn(logarithm * -2.0)

    angle = (angle_words & _ANGLE_MASK).to(tl.float32) * _ANGLE_UNIT + _HALF_ANGLE_UNIT
    quadrant = (angle_words >> _ANGLE_BITS).to(tl.int32)
    cosine = _quarter_sine(1.0 - angle) * radius
    sine = _quarter_sine(angle) * radius
    return (
        cosine * (1 - (quadrant & 2)).to(tl.float32),
        sine * (1 - ((quadrant & 1) << 1)).to(tl.float32),
    )


@triton.jit
def _normals(block, tensor, direction, key0, key1, COUNTERS: tl.constexpr):
    """Return the four normals of blocks ``block …``, a multiple of COUNTERS: float32 [COUNTERS]."""
    low_C = (block & 0xFFFFFFFF).to(tl.uint32) + tl.arange(0, COUNTERS).to(tl.uint32)
    zero_C = low_C ^ low_C
    c0 = low_C
    c1 = zero_C ^ (block >> 32).to(tl.uint32)
    c2 = zero_C ^ tensor
    c3 = zero_C ^ direction
    for _ in tl.static_range(_ROUNDS):
        high0 = tl.umulhi(c0, zero_C + _M0)
        high1 = tl.umulhi(c2, zero_C + _M1)
        low0 = tl.mul(c0, _M0, sanitize_overflow=False)
        low1 = tl.mul(c2, _M1, sanitize_overflow=False)
        c0 = high1 ^ c1 ^ key0
        c1 = low1
        c2 = high0 ^ c3 ^ key1
        c3 = low0
        key0 = tl.add(key0, _W0, sanitize_overflow=False)
        key1 = tl.add(key1, _W1, sanitize_overflow=False)
    first_C, second_C = _box_muller(c0, c1)
    third_C, fourth_C = _box_muller(c2, c3)
    return first_C, second_C, third_C, fourth_C


@triton.jit
def _address(table_ptr, index, DTYPE: tl.constexpr, ALIGNMENT: tl.constexpr):
    """Read an address; one that is known to be aligned lets a thread read several elements."""
    address = tl.load(table_ptr + index)
    return tl.multiple_of(address.to(tl.pointer_type(DTYPE)), ALIGNMENT)


@triton.jit
def _add_noise_kernel(
    slots_ptr, stretches_ptr, words_ptr, scales_ptr, num_directions, decay,
    DTYPE: tl.constexpr, ALIGNMENT: tl.constexpr, SHAPED: tl.constexpr, SQUARES: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Write one stretch of one tensor.

    A row of slots is (address of target, of source, of shape, tensor, start), one of stretches
    (slot, first element, end); words are the two of the key and then the directions.
    """
    stretch_ptr = stretches_ptr + tl.program_id(0).to(tl.int64) * 3
    slot_ptr = slots_ptr + tl.load(stretch_ptr) * _COLUMNS
    first = tl.load(stretch_ptr + 1)
    end = tl.load(stretch_ptr + 2)
    target_ptr = _address(slot_ptr, 0, DTYPE, ALIGNMENT)
    source_ptr = _address(slot_ptr, 1, DTYPE, ALIGNMENT)
    shape_ptr = _address(slot_ptr, 2, tl.float32, ALIGNMENT)
    tensor = tl.load(slot_ptr + 3).to(tl.uint32)
    start = tl.load(slot_ptr + 4)
    key0 = tl.load(words_ptr).to(tl.uint32)
    key1 = tl.load(words_ptr + 1).to(tl.uint32)
    # Tiles begin at multiples of their size, so that a tile's counters share their upper words.
    origin = first // TILE * TILE
    tiles = ((end - origin + TILE - 1) // TILE).to(tl.int32)
    for tile in range(tiles):
        at = origin + tile * TILE
        # Sums stay with their counters until they are complete; only then do lanes change places.
        sum0_C = tl.zeros([TILE // 4], tl.float32)
        sum1_C, sum2_C, sum3_C = sum0_C, sum0_C, sum0_C
        for k in range(num_directions):
            direction = tl.load(words_ptr + 2 + k).to(tl.uint32)
            scale = tl.load(scales_ptr + k)
            z0_C, z1_C, z2_C, z3_C = _normals(at // 4, tensor, direction, key0, key1, TILE // 4)
            if SQUARES:
                z0_C = z0_C * z0_C - 1.0
                z1_C = z1_C * z1_C - 1.0
                z2_C = z2_C * z2_C - 1.0
                z3_C = z3_C * z3_C - 1.0
            sum0_C += z0_C * scale
            sum1_C += z1_C * scale
            sum2_C += z2_C * scale
            sum3_C += z3_C * scale
        total_L = tl.join(tl.join(sum0_C, sum2_C), tl.join(sum1_C, sum3_C)).reshape([TILE])
        place_L = tl.multiple_of(at - start, ALIGNMENT) + tl.arange(0, TILE)
        # Without a mask a thread reads its four elements at once.
        if (at >= first) & (at + TILE <= end):
            if SHAPED:
                total_L = total_L * tl.load(shape_ptr + place_L)
            source_L = tl.load(source_ptr + place_L).to(tl.float32)
            tl.store(target_ptr + place_L, (source_L * decay + total_L).to(DTYPE))
        else:
            element_L = at + tl.arange(0, TILE)
            inside_L = (element_L >= first) & (element_L < end)
            if SHAPED:
                total_L = total_L * tl.load(shape_ptr + place_L, mask=inside_L, other=0.0)
            source_L = tl.load(source_ptr + place_L, mask=inside_L, other=0.0).to(tl.float32)
            tl.store(target_ptr + place_L, (source_L * decay + total_L).to(DTYPE), mask=inside_L)


INTERPRETED = isinstance(_add_noise_kernel, InterpretedFunction)


def add_noise(
    targets: Sequence[torch.Tensor],
    sources: Sequence[torch.Tensor],
    slots: Sequence[Slot],
    seed: int,
    directions: Sequence[int],
    scales: Sequence[float],
    decay: float,
    shapes: Sequence[torch.Tensor] | None,
    squares: bool,
) -> None:
    """Write ``decay * source + shape * sum_k scale_k z_k`` to every target; as `reference`."""
    if not sum(slot.count for slot in slots):
        return
    device, dtype = targets[0].device, targets[0].dtype
    shaped = targets if shapes is None else shapes
    rows = [
        (target.data_ptr(), source.data_ptr(), shape.data_ptr(), slot.tensor, slot.start)
        for target, source, shape, slot in zip(targets, sources, shaped, slots, strict=True)
    ]
    # A thread may read four neighbours at once where addresses and starts allow it.
    aligned = all(
        (row[0] | row[1] | row[2]) % _ALIGNMENT == 0 and row[4] % _ALIGNMENT == 0 for row in rows
    )
    stretches = _stretches(tuple(slots), device)
    with torch.cuda.device_of(targets[0]):
        _add_noise_kernel[(len(stretches),)](
            torch.tensor(rows, dtype=torch.int64).to(device),
            stretches,
            torch.tensor([*key_words(seed), *directions], dtype=torch.int64).to(device),
            torch.tensor(scales, dtype=torch.float32).to(device),
            len(directions),
            decay,
            DTYPE=_TYPES[dtype],
            ALIGNMENT=_ALIGNMENT if aligned else 1,
            SHAPED=shapes is not None,
            SQUARES=squares,
            TILE=_TILE,
            num_warps=_WARPS,
            enable_fp_fusion=False,
        )


@lru_cache(maxsize=64)
def _stretches(slots: tuple[Slot, ...], device: torch.device) -> torch.Tensor:
    """Return (slot, first element, end) of every program, int64 ``[programs, 3]``."""
    parts = []
    for index, slot in enumerate(slots):
        end = slot.start + slot.count
        firsts = np.arange(slot.start // _STRETCH * _STRETCH, end, _STRETCH, dtype=np.int64)
        ends = np.minimum(firsts + _STRETCH, end)
        part = np.stack([np.full_like(firsts, index), np.maximum(firsts, slot.start), ends], 1)
        parts.append(part if slot.count else part[:0])
    return torch.from_numpy(np.concatenate(parts)).to(device)
