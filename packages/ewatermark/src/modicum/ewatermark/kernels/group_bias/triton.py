"""The fused version of the two passes: each reads a row once and hashes its tokens on the fly.

A Philox block gives the words of four neighbouring tokens, so a tile's lanes are computed as four
vectors of counters and interleaved. The first pass keeps one sum per group and lane in registers
and reduces them once, at the end; the second looks the bias up in a table of m numbers. Takes what
the front door checked. Hashing is integer arithmetic and equals `modicum.core.prf` bit for bit;
masses are float32 sums (float64 across lanes), good to about 1e-7.
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

# Shape suffixes: B rows, A watermarked rows, W columns, V vocabulary, m groups, S parts of a row.
# In kernels: L lanes of a tile, C counters (four lanes each), M groups padded to a power of two.

_SUMS = 2048  # sums of one program: 64 for each thread of a warp
_LEAST_BLOCK, _MOST_BLOCK = 32, 1024
_BIAS_BLOCK = 1024
_BIAS_WARPS = 4
_PROGRAMS_PER_MULTIPROCESSOR = 16


@triton.jit(do_not_specialize=["key0", "key1"])
def _masses_kernel(
    logprobs_ptr, stride_b, rows_ptr, anchor_ptr, stride_a, state_ptr, key0, key1,
    vocabulary, part_length, masses_ptr, anchor_masses_ptr,
    HAS_ANCHOR: tl.constexpr, NUM_GROUPS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum one part of one row into groups; program ids are (watermarked row, part)."""
    index = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    row_ptr = logprobs_ptr + tl.load(rows_ptr + index) * stride_b
    begin = part * part_length
    end = tl.minimum(begin + part_length, vocabulary)
    lanes_L = tl.arange(0, BLOCK)
    groups_M = tl.arange(0, GROUPS)
    target_ML = tl.zeros([GROUPS, BLOCK], tl.float32)
    anchor_ML = tl.zeros([GROUPS, BLOCK], tl.float32)
    for start in range(begin, end, BLOCK):
        columns_L = start + lanes_L
        there_L = columns_L < end
        words_L = philox_words(state_ptr, index, key0, key1, start // 4, BLOCK // 4)
        group_L = (words_L % NUM_GROUPS).to(tl.int32)
        own_ML = group_L[None, :] == groups_M[:, None]
        target_L = tl.load(row_ptr + columns_L, mask=there_L, other=-float("inf"))
        target_ML += tl.where(own_ML, tl.exp(target_L.to(tl.float32))[None, :], 0.0)
        if HAS_ANCHOR:
            anchor_L = tl.load(
                anchor_ptr + index * stride_a + columns_L, mask=there_L, other=-float("inf")
            )
            anchor_ML += tl.where(own_ML, tl.exp(anchor_L.to(tl.float32))[None, :], 0.0)
    slots_M = (index * tl.num_programs(1) + part) * NUM_GROUPS + groups_M
    real_M = groups_M < NUM_GROUPS
    tl.store(masses_ptr + slots_M, tl.sum(target_ML.to(tl.float64), 1), mask=real_M)
    if HAS_ANCHOR:
        tl.store(anchor_masses_ptr + slots_M, tl.sum(anchor_ML.to(tl.float64), 1), mask=real_M)


@triton.jit(do_not_specialize=["key0", "key1"])
def _bias_kernel(
    logprobs_ptr, stride_b, rows_ptr, bias_ptr, state_ptr, key0, key1,
    vocabulary, width, out_ptr, stride_out,
    NUM_GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write one tile of one watermarked row; program ids are (watermarked row, tile)."""
    index = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + index)
    start = tl.program_id(1) * BLOCK
    columns_L = start + tl.arange(0, BLOCK)
    inside_L = columns_L < vocabulary
    words_L = philox_words(state_ptr, index, key0, key1, start // 4, BLOCK // 4)
    group_L = (words_L % NUM_GROUPS).to(tl.int32)
    bias_L = tl.load(bias_ptr + index * NUM_GROUPS + group_L)
    value_L = tl.load(logprobs_ptr + row * stride_b + columns_L, mask=inside_L, other=0.0)
    marked_L = tl.where(inside_L, value_L.to(tl.float32) + bias_L, -float("inf"))
    tl.store(out_ptr + row * stride_out + columns_L, marked_L, mask=columns_L < width)


INTERPRETED = isinstance(_masses_kernel, InterpretedFunction)


def hashed_masses(
    logprobs_BW: torch.Tensor,
    anchor_log_probs_AV: torch.Tensor | None,
    rows_A: torch.Tensor,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    vocab_size: int,
    num_groups: int,
    *,
    parts: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sum probabilities over hashed groups, without normalising.

    ``parts`` is the number of programs per row; ``None`` lets the number of rows and of
    multiprocessors decide. Otherwise as `reference.hashed_masses`.
    """
    logprobs_BW = _dense_rows(logprobs_BW)
    count, padded = len(rows_A), max(2, triton.next_power_of_2(num_groups))
    block = min(max(_SUMS // padded, _LEAST_BLOCK), _MOST_BLOCK)
    tiles = triton.cdiv(vocab_size, block)
    if parts is None:
        parts = triton.cdiv(
            _PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(logprobs_BW.device), count
        )
    part_length = triton.cdiv(tiles, min(parts, tiles)) * block
    parts = triton.cdiv(vocab_size, part_length)
    masses_ASm = torch.empty(
        (count, parts, num_groups), dtype=torch.float64, device=logprobs_BW.device
    )
    has_anchor = anchor_log_probs_AV is not None
    # A kernel argument that is switched off still has to be a pointer.
    anchor_AV = logprobs_BW if anchor_log_probs_AV is None else _dense_rows(anchor_log_probs_AV)
    anchor_ASm = torch.empty_like(masses_ASm) if has_anchor else masses_ASm
    with torch.cuda.device_of(logprobs_BW):
        _masses_kernel[(count, parts)](
            logprobs_BW, logprobs_BW.stride(0), rows_A, anchor_AV, anchor_AV.stride(0),
            state_A4.contiguous(), *round_key(prf), vocab_size, part_length,
            masses_ASm, anchor_ASm,
            HAS_ANCHOR=has_anchor, NUM_GROUPS=num_groups, GROUPS=padded, BLOCK=block, num_warps=1,
        )  # fmt: skip
    return masses_ASm.sum(1), anchor_ASm.sum(1) if has_anchor else None


def add_hashed_bias(
    logprobs_BW: torch.Tensor,
    bias_Am: torch.Tensor,
    rows_A: torch.Tensor,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    vocab_size: int,
    num_groups: int,
) -> torch.Tensor:
    """Add each group's bias to its tokens; as `reference.add_hashed_bias`."""
    logprobs_BW = _dense_rows(logprobs_BW)
    every_row = len(rows_A) == len(logprobs_BW)
    out_BW = torch.empty_like(logprobs_BW) if every_row else logprobs_BW.clone()
    width = logprobs_BW.shape[1]
    with torch.cuda.device_of(logprobs_BW):
        _bias_kernel[(len(rows_A), triton.cdiv(width, _BIAS_BLOCK))](
            logprobs_BW, logprobs_BW.stride(0), rows_A, bias_Am.float().contiguous(),
            state_A4.contiguous(), *round_key(prf), vocab_size, width,
            out_BW, out_BW.stride(0),
            NUM_GROUPS=num_groups, BLOCK=_BIAS_BLOCK, num_warps=_BIAS_WARPS,
        )  # fmt: skip
    return out_BW


def _dense_rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
