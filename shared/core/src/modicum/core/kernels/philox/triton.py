"""Philox4x32-10 in counter mode for Triton kernels, bit for bit that of `modicum.core.prf`.

Knows no kernel that uses it.
"""

# Parameters of kernels have no types to write: Triton infers them from each call.
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl

from modicum.core.prf import PhiloxPRF

# Shape suffixes: B states, n words. In kernels: L lanes of a tile, C counters (four lanes each).

_ROUNDS = tl.constexpr(10)
_M0 = tl.constexpr(0xD2511F53)
_M1 = tl.constexpr(0xCD9E8D57)
_W0 = tl.constexpr(0x9E3779B9)
_W1 = tl.constexpr(0xBB67AE85)

_BLOCK = 1024


@triton.jit
def philox_words(state_ptr, row, key0, key1, first_counter, COUNTERS: tl.constexpr):
    """Return words ``4 * first_counter …`` of a state, uint32 of shape ``[4 * COUNTERS]``."""
    # Keys come as signed 32-bit numbers; cutting the widened sum to 32 bits gives their bits back.
    s0 = tl.load(state_ptr + row * 4 + 0).to(tl.uint32)
    s1 = tl.load(state_ptr + row * 4 + 1).to(tl.uint32)
    s2 = tl.load(state_ptr + row * 4 + 2).to(tl.uint32)
    k0 = (tl.load(state_ptr + row * 4 + 3) ^ key0.to(tl.int64)).to(tl.uint32)
    k1 = key1.to(tl.int64).to(tl.uint32)
    c0 = (first_counter + tl.arange(0, COUNTERS)).to(tl.uint32)
    zero_C = c0 ^ c0
    c1 = zero_C ^ s0
    c2 = zero_C ^ s1
    c3 = zero_C ^ s2
    for _ in tl.static_range(_ROUNDS):
        high0 = tl.umulhi(c0, zero_C + _M0)
        high1 = tl.umulhi(c2, zero_C + _M1)
        low0 = tl.mul(c0, _M0, sanitize_overflow=False)
        low1 = tl.mul(c2, _M1, sanitize_overflow=False)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = tl.add(k0, _W0, sanitize_overflow=False)
        k1 = tl.add(k1, _W1, sanitize_overflow=False)
    return tl.interleave(tl.interleave(c0, c2), tl.interleave(c1, c3))


@triton.jit(do_not_specialize=["key0", "key1"])
def _words_kernel(state_ptr, key0, key1, words_ptr, stride, BLOCK: tl.constexpr):
    """Store the words of one tile; for the test that they are those of the PRF."""
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    words_L = philox_words(state_ptr, row, key0, key1, start // 4, BLOCK // 4)
    tl.store(words_ptr + row * stride + start + tl.arange(0, BLOCK), words_L.to(tl.int64))


def hashed_words(prf: PhiloxPRF, state_B4: torch.Tensor, n: int) -> torch.Tensor:
    """Return the first ``n`` words of each state as the kernel computes them, int64 ``[B, n]``."""
    tiles = triton.cdiv(n, _BLOCK)
    words_BN = torch.empty(
        (len(state_B4), tiles * _BLOCK), dtype=torch.int64, device=state_B4.device
    )
    with torch.cuda.device_of(words_BN):
        _words_kernel[(len(state_B4), tiles)](
            state_B4.contiguous(), *round_key(prf), words_BN, words_BN.stride(0), BLOCK=_BLOCK
        )
    return words_BN[:, :n]


def round_key(prf: PhiloxPRF) -> tuple[int, int]:
    """Return the expansion's key as signed 32-bit numbers, a type that no value changes."""
    k0, k1 = prf.round_key
    first, second = (w - (w >> 31 << 32) for w in (k0, k1 ^ prf.expand))
    return first, second
