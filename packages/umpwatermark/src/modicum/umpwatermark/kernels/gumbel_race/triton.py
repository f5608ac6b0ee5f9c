"""The fused version of the race: each row is read once and its tokens are hashed on the fly.

A Philox block gives the words of four neighbouring tokens, so a tile's lanes are computed as four
vectors of counters and interleaved. A tile that cannot hold the winner even with the luckiest
uniform is not hashed; clocks are first compared in float32 with a margin for its rounding, and
computed in float64 only in tiles that come within the margin, which are few because the leader of
the race soon stops changing. So the winner is that of float64 at the price of float32. Takes what
the front door checked. Hashing is integer arithmetic and equals `modicum.core.prf` bit for bit.
"""

# Parameters of kernels have no types to write: Triton infers them from each call.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from modicum.core.device import multiprocessors
from modicum.core.kernels.philox.triton import philox_words, round_key
from modicum.core.prf import PhiloxPRF

# Shape suffixes: B rows, A chosen rows, W columns, V vocabulary, S parts of a row. In
# kernels: L lanes of a tile, C counters (four lanes each).

# ln(-ln U) of the largest uniform, 1 - 2**-33, is -22.87; that of the engine's 24 bits is higher.
_LEAST_LOG_CLOCK = tl.constexpr(-22.9)
# Bounds on what float32 gets wrong: the clock's own error, and one that grows with the logit.
_MARGIN = tl.constexpr(1e-4)
_RELATIVE_MARGIN = tl.constexpr(1e-6)

_BLOCK = 1024
_WARPS = 4
_PROGRAMS_PER_MULTIPROCESSOR = 8


@triton.jit
def _single_log_clock(word_L, BITS: tl.constexpr):
    """Return ``ln(-ln U)`` in float32, within 1e-5."""
    # The distance of U from 1 comes from the word: near 1 the uniform itself has lost its digits.
    if BITS == 24:
        u_L = ((word_L >> 8) + 1).to(tl.float32) * 5.960464477539063e-08
        short_L = (16777216 - (word_L >> 8)).to(tl.float32) * 5.960464477539063e-08
    else:
        u_L = (word_L.to(tl.float32) + 0.5) * 2.3283064365386963e-10
        short_L = ((0xFFFFFFFF - word_L).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    series_L = short_L * (1.0 + short_L * (0.5 + short_L * (0.3333333333 + short_L * 0.25)))
    # The series leaves out short**4 / 5, which is 3e-6 of the whole at 1/16.
    return tl.log(tl.where(short_L < 0.0625, series_L, -tl.log(u_L)))


@triton.jit
def _double_log_clock(word_L, BITS: tl.constexpr):
    """Return ``ln(-ln U)`` in float64."""
    if BITS == 24:
        exact_L = ((word_L >> 8).to(tl.float64) + 1.0) / 16777217.0
        u_L = exact_L.to(tl.float32).to(tl.float64)
    else:
        u_L = (word_L.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    return tl.log(-tl.log(u_L))


@triton.jit(do_not_specialize=["key0", "key1"])
def _race_kernel(
    logits_ptr, stride_b, rows_ptr, state_ptr, key0, key1, vocabulary, part_length,
    clock_ptr, winner_ptr, peak_ptr, total_ptr,
    WITH_TOTAL: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Run one part of one row's race; program ids are (chosen row, part)."""
    index = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row_ptr = logits_ptr + tl.load(rows_ptr + index) * stride_b
    begin = part * part_length
    end = tl.minimum(begin + part_length, vocabulary)
    lanes_L = tl.arange(0, BLOCK)
    infinity = float("inf")
    best = tl.full([], infinity, tl.float64)
    winner = tl.full([], 0, tl.int32)
    peak = tl.full([], -infinity, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(begin, end, BLOCK):
        columns_L = start + lanes_L
        inside_L = columns_L < end
        logit_L = tl.load(row_ptr + columns_L, mask=inside_L, other=-infinity).to(tl.float32)
        # A NaN becomes +inf, which wins the race and is refused afterwards.
        logit_L = tl.where(logit_L == logit_L, logit_L, infinity)
        highest = tl.max(logit_L, 0)
        if WITH_TOTAL:
            above = tl.maximum(peak, highest)
            # Rows and tiles of -inf would subtract it from itself.
            shift = tl.where(above == -infinity, 0.0, above)
            total = total * tl.exp(peak - shift) + tl.sum(tl.exp(logit_L - shift), 0)
            peak = above
        leader = best.to(tl.float32)
        slack = _MARGIN + _RELATIVE_MARGIN * tl.where(leader == infinity, 0.0, tl.abs(leader))
        if (highest > -infinity) & (_LEAST_LOG_CLOCK - highest <= leader + slack):
            word_L = philox_words(state_ptr, index, key0, key1, start // 4, BLOCK // 4)
            rough = tl.min(_single_log_clock(word_L, BITS) - logit_L, 0)
            if rough <= leader + slack:
                clock_L = _double_log_clock(word_L, BITS) - logit_L.to(tl.float64)
                first = tl.min(clock_L, 0)
                # Tiles come by rising id: a tie stays with the earlier one.
                if first < best:
                    best = first
                    winner = start + tl.argmin(clock_L, 0)
    slot = index * tl.num_programs(1) + part
    tl.store(clock_ptr + slot, best)
    tl.store(winner_ptr + slot, winner)
    if WITH_TOTAL:
        tl.store(peak_ptr + slot, peak)
        tl.store(total_ptr + slot, total)


@triton.jit
def _clocks_kernel(words_ptr, single_ptr, double_ptr, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Store both forms of the clock; for the test that they are within the margin."""
    lanes_L = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    word_L = tl.load(words_ptr + lanes_L).to(tl.uint32)
    tl.store(single_ptr + lanes_L, _single_log_clock(word_L, BITS))
    tl.store(double_ptr + lanes_L, _double_log_clock(word_L, BITS))


INTERPRETED = isinstance(_race_kernel, InterpretedFunction)


def race(
    logits_BW: torch.Tensor,
    rows_A: torch.Tensor,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    vocab_size: int,
    bits: int,
    *,
    with_total: bool = False,
    parts: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the log of the first clock, its token, and the log-sum-exp of the logits.

    ``parts`` is the number of programs per row; ``None`` lets the number of rows and of
    multiprocessors decide. The last result holds zeros unless asked for. Otherwise as
    `reference.race`.
    """
    logits_BW = logits_BW if logits_BW.stride(-1) == 1 else logits_BW.contiguous()
    count, device = len(rows_A), logits_BW.device
    tiles = triton.cdiv(vocab_size, _BLOCK)
    if parts is None:
        parts = triton.cdiv(_PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(device), max(1, count))
    part_length = triton.cdiv(tiles, min(parts, tiles)) * _BLOCK
    parts = triton.cdiv(vocab_size, part_length)
    clock_AS = torch.empty((count, parts), dtype=torch.float64, device=device)
    winner_AS = torch.empty((count, parts), dtype=torch.int32, device=device)
    peak_AS = torch.zeros((count, parts), dtype=torch.float32, device=device)
    total_AS = torch.ones_like(peak_AS)
    if count:
        with torch.cuda.device_of(logits_BW):
            _race_kernel[(count, parts)](
                logits_BW, logits_BW.stride(0), rows_A, state_A4.contiguous(), *round_key(prf),
                vocab_size, part_length, clock_AS, winner_AS, peak_AS, total_AS,
                WITH_TOTAL=with_total, BITS=bits, BLOCK=_BLOCK, num_warps=_WARPS,
            )  # fmt: skip
    best_A1 = clock_AS.argmin(-1, keepdim=True)
    log_total_A = (peak_AS.double() + total_AS.double().log()).logsumexp(-1)
    return clock_AS.gather(1, best_A1)[:, 0], winner_AS.gather(1, best_A1)[:, 0].long(), log_total_A


def log_clocks(words_N: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``ln(-ln U)`` of words as the kernel computes it, in float32 and in float64."""
    padded_N = torch.nn.functional.pad(words_N, (0, -len(words_N) % _BLOCK))
    single_N = torch.empty(len(padded_N), dtype=torch.float32, device=words_N.device)
    double_N = torch.empty(len(padded_N), dtype=torch.float64, device=words_N.device)
    with torch.cuda.device_of(words_N):
        _clocks_kernel[(len(padded_N) // _BLOCK,)](
            padded_N, single_N, double_N, BITS=bits, BLOCK=_BLOCK
        )
    return single_N[: len(words_N)], double_N[: len(words_N)]
