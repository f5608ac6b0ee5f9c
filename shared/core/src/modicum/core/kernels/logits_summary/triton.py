"""The fused version of the logits summary: one read of the logits, float32 sums, no other traffic.

A row is walked in tiles by one program, or by several when there are too few rows to fill the
device; in the second case each program leaves a partial summary of its part and a second kernel
combines them. Assumes that its arguments were checked by the front door. Forward only: there is no
backward pass.

Half-precision logits at full memory bandwidth leave about a dozen instructions per logit, so the
loop over tiles is kept to conversion, maximum, one exponential and two sums. All else is behind a
branch taken only by a tile whose maximum enters the top two of the row so far, which few tiles do.
"""

# Parameters of kernels have no types to write: Triton infers them from each call.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from modicum.core.device import multiprocessors

# Shape suffixes: ... leading dimensions, O outer and I inner rows (any leading shape folded to
# two), N = O * I rows, V vocabulary, K suppressed ids, S parts of a row. In kernels: L lanes of a
# tile.

_BLOCK = 2048  # logits per tile: 16 for each of the 128 threads of four warps
_WARPS = 4
_STAGES = 3  # tiles in flight
_PROGRAMS_PER_MULTIPROCESSOR = 4
_MOST_PARTS = 256  # what the combining kernel holds at once
# Triton pipelines the loads of innermost loops alone, so a handful of suppressed ids is unrolled.
_MOST_UNROLLED = 8

_NOWHERE = tl.constexpr(2**31 - 1)  # an index after every other
_LOG2_E = tl.constexpr(1.4426950408889634)
_LEAST_SHIFT = tl.constexpr(-1000.0)  # exp of it is 0, and it times 0 is 0, unlike -inf

_PARTIAL_FIELDS = tl.constexpr(4)
_FLOAT_FIELDS = ("max", "second_max", "margin", "log_sum_exp", "entropy", "top1_log_prob")


@triton.jit
def _shift(value, origin):
    """Return ``value - origin`` kept above the point where exp is 0; NaN passes through."""
    return tl.maximum(value - origin, _LEAST_SHIFT, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _exp(value):
    """Return exp with results below 2**-126 flushed to 0, in three instructions fewer."""
    return tl.exp2(value * _LOG2_E)


@triton.jit
def _finite_origin(maximum):
    """Return the point to measure logits from: the maximum, or 0 where everything is -inf."""
    return tl.where(maximum == -float("inf"), 0.0, maximum)


@triton.jit
def _store_summary(
    row, first, second, index, total, weighted, nan_index,
    logits_row_ptr, stride_v, vocabulary, token_ptr, suppress_ptr, suppress_count,
    floats_ptr, argmax_ptr, rows,
    HAS_TOKENS: tl.constexpr, HAS_SUPPRESS: tl.constexpr,
):  # fmt: skip
    """Turn a row's maxima and sums into the fields of the summary and store them."""
    nan = float("nan")
    inf = float("inf")
    has_nan = nan_index < _NOWHERE
    empty = first == -inf
    log_total = tl.log(total)
    margin = tl.where(first == second, 0.0, first - second)
    log_sum_exp = tl.where(first == inf, inf, first + log_total)
    entropy = tl.where(empty, 0.0, log_total - weighted / total)
    top1_log_prob = tl.where(empty, -inf, -log_total)
    argmax = tl.where(has_nan, nan_index, tl.where(empty, 0, index))

    tl.store(argmax_ptr + row, argmax.to(tl.int64))
    tl.store(floats_ptr + 0 * rows + row, tl.where(has_nan, nan, first))
    tl.store(floats_ptr + 1 * rows + row, tl.where(has_nan, nan, second))
    tl.store(floats_ptr + 2 * rows + row, tl.where(has_nan, nan, margin))
    tl.store(floats_ptr + 3 * rows + row, tl.where(has_nan, nan, log_sum_exp))
    tl.store(floats_ptr + 4 * rows + row, tl.where(has_nan, nan, entropy))
    tl.store(floats_ptr + 5 * rows + row, tl.where(has_nan, nan, top1_log_prob))

    if HAS_TOKENS:
        token = tl.load(token_ptr + row).to(tl.int64)
        known = (token >= 0) & (token < vocabulary)
        value = tl.load(logits_row_ptr + token * stride_v, mask=known, other=0.0).to(tl.float32)
        if HAS_SUPPRESS:
            for k in range(suppress_count):
                value = tl.where(tl.load(suppress_ptr + k) == token, -inf, value)
        log_prob = tl.where(empty, -inf, value - _finite_origin(first) - log_total)
        tl.store(floats_ptr + 6 * rows + row, tl.where(has_nan | (known == 0), nan, log_prob))


@triton.jit
def _drop(logits_L, columns_L, start, token, BLOCK: tl.constexpr):
    """Put -inf on one id, if it is in the tile that starts at ``start``."""
    if (token >= start) & (token < start + BLOCK):
        logits_L = tl.where(columns_L == token, -float("inf"), logits_L)
    return logits_L


@triton.jit
def _suppressed(
    logits_L, columns_L, start, suppress_ptr, suppress_count,
    UNROLL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put -inf on the suppressed ids of the tile that starts at ``start``."""
    if UNROLL:
        for k in tl.static_range(UNROLL):
            token = tl.load(suppress_ptr + k, mask=k < suppress_count, other=-1)
            logits_L = _drop(logits_L, columns_L, start, token, BLOCK)
    else:
        for k in range(suppress_count):
            token = tl.load(suppress_ptr + k)
            logits_L = _drop(logits_L, columns_L, start, token, BLOCK)
    return logits_L


@triton.jit
def _summary_kernel(
    logits_ptr, stride_o, stride_i, stride_v, inner, rows, vocabulary, part_length,
    token_ptr, suppress_ptr, suppress_count,
    floats_ptr, argmax_ptr, partial_ptr, partial_index_ptr,
    HAS_TOKENS: tl.constexpr, HAS_SUPPRESS: tl.constexpr, SPLIT: tl.constexpr,
    UNROLL: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Summarise one part of one row; program ids are (row, part)."""
    row = tl.program_id(0)
    part = tl.program_id(1)
    outer_index = (row // inner).to(tl.int64)
    inner_index = (row % inner).to(tl.int64)
    row_ptr = logits_ptr + outer_index * stride_o + inner_index * stride_i
    begin = part * part_length
    end = tl.minimum(begin + part_length, vocabulary)
    lanes_L = tl.arange(0, BLOCK)
    minus_inf = -float("inf")

    first = tl.full([], minus_inf, tl.float32)
    second = tl.full([], minus_inf, tl.float32)
    index = tl.full([], _NOWHERE, tl.int32)
    total_L = tl.zeros([BLOCK], tl.float32)
    weighted_L = tl.zeros([BLOCK], tl.float32)

    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        columns_L = start + lanes_L
        offsets_L = columns_L.to(tl.int64) * stride_v
        logits_L = tl.load(row_ptr + offsets_L, mask=columns_L < end, other=minus_inf)
        logits_L = logits_L.to(tl.float32)
        if HAS_SUPPRESS:
            logits_L = _suppressed(
                logits_L, columns_L, start, suppress_ptr, suppress_count, UNROLL, BLOCK
            )

        largest = tl.max(logits_L, 0)
        if largest > second:
            largest_index = tl.min(tl.where(logits_L == largest, columns_L, _NOWHERE), 0)
            if largest > first:
                # Sums are relative to the maximum: when it grows, what is summed so far shrinks.
                moved = _shift(first, largest)
                scale = _exp(moved)
                weighted_L = scale * (weighted_L + total_L * moved)
                total_L = scale * total_L
                others_L = tl.where(columns_L == largest_index, minus_inf, logits_L)
                second = tl.maximum(first, tl.max(others_L, 0))
                first = largest
                index = largest_index
            else:
                second = largest

        shifted_L = _shift(logits_L, _finite_origin(first))
        weights_L = _exp(shifted_L)
        weighted_L += weights_L * shifted_L
        total_L += weights_L

    total = tl.sum(total_L, 0)
    weighted = tl.sum(weighted_L, 0)

    # A sum of weights is NaN only if a logit was NaN or +inf: such a row is read again to tell
    # which.
    nan_index = tl.full([], _NOWHERE, tl.int32)
    if total != total:
        for start in tl.range(begin, end, BLOCK):
            columns_L = start + lanes_L
            offsets_L = columns_L.to(tl.int64) * stride_v
            logits_L = tl.load(row_ptr + offsets_L, mask=columns_L < end, other=0.0).to(tl.float32)
            if HAS_SUPPRESS:
                logits_L = _suppressed(
                    logits_L, columns_L, start, suppress_ptr, suppress_count, UNROLL, BLOCK
                )
            nan_L = tl.where(logits_L != logits_L, columns_L, _NOWHERE)
            nan_index = tl.minimum(nan_index, tl.min(nan_L, 0))

    if SPLIT:
        slot = row.to(tl.int64) * tl.num_programs(1) + part
        tl.store(partial_ptr + slot * _PARTIAL_FIELDS + 0, first)
        tl.store(partial_ptr + slot * _PARTIAL_FIELDS + 1, second)
        tl.store(partial_ptr + slot * _PARTIAL_FIELDS + 2, total)
        tl.store(partial_ptr + slot * _PARTIAL_FIELDS + 3, weighted)
        tl.store(partial_index_ptr + slot * 2 + 0, index)
        tl.store(partial_index_ptr + slot * 2 + 1, nan_index)
    else:
        _store_summary(
            row, first, second, index, total, weighted, nan_index,
            row_ptr, stride_v, vocabulary, token_ptr, suppress_ptr, suppress_count,
            floats_ptr, argmax_ptr, rows, HAS_TOKENS, HAS_SUPPRESS,
        )  # fmt: skip


@triton.jit
def _combine_kernel(
    logits_ptr, stride_o, stride_i, stride_v, inner, rows, vocabulary, parts,
    token_ptr, suppress_ptr, suppress_count,
    floats_ptr, argmax_ptr, partial_ptr, partial_index_ptr,
    HAS_TOKENS: tl.constexpr, HAS_SUPPRESS: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """Combine the parts of one row; the program id is the row."""
    row = tl.program_id(0)
    outer_index = (row // inner).to(tl.int64)
    inner_index = (row % inner).to(tl.int64)
    row_ptr = logits_ptr + outer_index * stride_o + inner_index * stride_i
    parts_L = tl.arange(0, BLOCK_PARTS)
    there_L = parts_L < parts
    slots_L = row.to(tl.int64) * parts + parts_L
    floats_L = partial_ptr + slots_L * _PARTIAL_FIELDS
    first_L = tl.load(floats_L + 0, mask=there_L, other=-float("inf"))
    second_L = tl.load(floats_L + 1, mask=there_L, other=-float("inf"))
    total_L = tl.load(floats_L + 2, mask=there_L, other=0.0)
    weighted_L = tl.load(floats_L + 3, mask=there_L, other=0.0)
    index_L = tl.load(partial_index_ptr + slots_L * 2 + 0, mask=there_L, other=_NOWHERE)
    nan_index_L = tl.load(partial_index_ptr + slots_L * 2 + 1, mask=there_L, other=_NOWHERE)

    first = tl.max(first_L, 0)
    index = tl.min(tl.where(first_L == first, index_L, _NOWHERE), 0)
    second = tl.max(tl.where(index_L == index, second_L, first_L), 0)
    moved_L = _shift(first_L, _finite_origin(first))
    scale_L = _exp(moved_L)
    weighted = tl.sum(scale_L * (weighted_L + total_L * moved_L), 0)
    total = tl.sum(scale_L * total_L, 0)
    _store_summary(
        row, first, second, index, total, weighted, tl.min(nan_index_L, 0),
        row_ptr, stride_v, vocabulary, token_ptr, suppress_ptr, suppress_count,
        floats_ptr, argmax_ptr, rows, HAS_TOKENS, HAS_SUPPRESS,
    )  # fmt: skip


INTERPRETED = isinstance(_summary_kernel, InterpretedFunction)


@torch.no_grad()
def logits_summary_triton(
    logits: torch.Tensor,
    token_ids: torch.Tensor | None,
    suppress_K: torch.Tensor | None,
    *,
    parts: int | None = None,
    block: int = _BLOCK,
) -> dict[str, torch.Tensor]:
    """Compute the fields of a ``LogitsSummary`` with the fused kernel.

    Parameters
    ----------
    logits
        float16, bfloat16 or float32 of shape ``[..., V]``, any strides. Leading shapes that do not
        fold to two strides are copied.
    token_ids
        Integer tensor of shape ``[...]`` or None.
    suppress_K
        int64 ids of shape ``[K]`` or None; ids outside the vocabulary are ignored.
    parts
        Programs per row; None lets the number of rows and of multiprocessors decide.
    block
        Logits per tile, a power of two.

    Returns
    -------
    dict
        Field name to tensor of shape ``[...]``: float32, `argmax` int64; ``token_log_prob`` only
        when asked for.
    """
    leading, vocabulary = logits.shape[:-1], logits.shape[-1]
    logits_OIV = _fold_leading(logits)
    outer, inner, _ = logits_OIV.shape
    rows = outer * inner
    names = _FLOAT_FIELDS if token_ids is None else (*_FLOAT_FIELDS, "token_log_prob")
    floats = torch.empty((len(names), rows), dtype=torch.float32, device=logits.device)
    argmax_N = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        part_length = _part_length(rows, vocabulary, block, parts, logits.device)
        parts = triton.cdiv(vocabulary, part_length)
        partial = floats.new_empty((rows, parts, _PARTIAL_FIELDS.value) if parts > 1 else 0)
        partial_index = torch.empty(
            (rows, parts, 2) if parts > 1 else 0, dtype=torch.int32, device=logits.device
        )
        where = (logits_OIV, *logits_OIV.stride(), inner, rows, vocabulary)
        # A kernel argument that is switched off still has to be a pointer.
        extras = (
            argmax_N if token_ids is None else token_ids.contiguous(),
            argmax_N if suppress_K is None else suppress_K.contiguous(),
            0 if suppress_K is None else len(suppress_K),
        )
        results = (floats, argmax_N, partial, partial_index)
        flags = {"HAS_TOKENS": token_ids is not None, "HAS_SUPPRESS": suppress_K is not None}
        unroll = triton.next_power_of_2(max(1, extras[2]))
        unroll = unroll if unroll <= _MOST_UNROLLED else 0
        with torch.cuda.device_of(logits):
            _summary_kernel[(rows, parts)](
                *where, part_length, *extras, *results,
                **flags, SPLIT=parts > 1, UNROLL=unroll, BLOCK=block, STAGES=_STAGES,
                num_warps=_WARPS,
            )  # fmt: skip
            if parts > 1:
                _combine_kernel[(rows,)](
                    *where, parts, *extras, *results,
                    **flags, BLOCK_PARTS=triton.next_power_of_2(parts), num_warps=1,
                )  # fmt: skip
    fields = {name: floats[i].reshape(leading) for i, name in enumerate(names)}
    return {**fields, "argmax": argmax_N.reshape(leading)}


def _fold_leading(logits: torch.Tensor) -> torch.Tensor:
    """Give the logits exactly two leading dimensions, without a copy where strides allow."""
    if logits.ndim <= 3:
        return logits[(None,) * (3 - logits.ndim)]
    return logits.reshape(-1, *logits.shape[-2:])


def _part_length(
    rows: int, vocabulary: int, block: int, parts: int | None, device: torch.device
) -> int:
    """Return how many logits one program reads: a whole number of tiles."""
    tiles = triton.cdiv(vocabulary, block)
    if parts is None:
        wanted = _PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(device)
        parts = 1 if rows >= wanted else triton.cdiv(wanted, rows)
    parts = min(parts, tiles, _MOST_PARTS)
    return triton.cdiv(tiles, parts) * block
