"""The fused version: products, squares, their sums and the best row of a block in one launch.

A program owns one block of rows and a tile of buyers. It holds the products of both in registers,
squares and adds them there, and stores two numbers per buyer. Programs of one block of rows are
neighbours, so that rows come from memory once however many buyers there are. Takes what the front
door checked.
"""

# Parameters of kernels have no types to write: Triton infers them from each call.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from modicum.daved.kernels.block_best.reference import ROWS

# In kernels: N rows of the block, D features of a step, K columns of the tile, G buyers of it.

_FEWEST_COLUMNS, _MOST_COLUMNS = 16, 128
"""Columns of a tile: what a tensor core takes at least, and what fits into registers."""

_NARROW = 32
"""Columns up to which rows are what is waited for: more of them are read ahead."""


@triton.jit
def _block_best_kernel(
    rows_ptr, stride, columns_ptr, factor_ptr, value_ptr, index_ptr, n, d, buyers, blocks,
    WITH_FACTOR: tl.constexpr, M: tl.constexpr, BUYERS: tl.constexpr, ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):  # fmt: skip
    """Find the best row of one block for one tile of buyers; columns are (d, tiles x tile)."""
    tiles = tl.cdiv(buyers, BUYERS)
    block = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    row_N = block * ROWS + tl.arange(0, ROWS)
    inside_N = row_N < n
    column_K = tile * (BUYERS * M) + tl.arange(0, BUYERS * M)
    width = tiles * (BUYERS * M)
    at_N = rows_ptr + row_N.to(tl.int64) * stride
    products_NK = tl.zeros((ROWS, BUYERS * M), dtype=tl.float32)
    for start in range(0, d, FEATURES):
        feature_D = start + tl.arange(0, FEATURES)
        known_D = feature_D < d
        rows_ND = tl.load(
            at_N[:, None] + feature_D[None, :], mask=inside_N[:, None] & known_D[None, :], other=0.0
        ).to(tl.float32)
        columns_DK = tl.load(
            columns_ptr + feature_D[:, None] * width + column_K[None, :],
            mask=known_D[:, None],
            other=0.0,
        )
        products_NK = tl.dot(rows_ND, columns_DK, products_NK, input_precision="tf32x3")
    squares_NK = products_NK * products_NK
    score_NG = tl.sum(tl.reshape(squares_NK, (ROWS, BUYERS, M)), 2)
    if WITH_FACTOR:
        score_NG *= tl.load(factor_ptr + row_N, mask=inside_N, other=0.0)[:, None]
    # Below every score, so that no row beyond the last is ever the best.
    score_NG = tl.where(inside_N[:, None], score_NG, -1.0)
    value_G, place_G = tl.max(score_NG, 0, return_indices=True)
    buyer_G = tile * BUYERS + tl.arange(0, BUYERS)
    slot_G = buyer_G.to(tl.int64) * blocks + block
    tl.store(value_ptr + slot_G, value_G, mask=buyer_G < buyers)
    tl.store(index_ptr + slot_G, block * ROWS + place_G, mask=buyer_G < buyers)


INTERPRETED = isinstance(_block_best_kernel, InterpretedFunction)


def tile_of(buyers: int, directions: int) -> tuple[int, int]:
    """Give the directions of a buyer, filled up to a power of 2, and the buyers of a tile."""
    filled = triton.next_power_of_2(directions)
    wanted = min(triton.next_power_of_2(buyers), max(1, _MOST_COLUMNS // filled))
    return filled, max(wanted, _FEWEST_COLUMNS // filled, 1)


def options_of(columns: int) -> dict[str, int]:
    """Give how a tile of so many columns is computed."""
    if columns <= _NARROW:
        return {"FEATURES": 32, "num_warps": 4, "num_stages": 4}
    return {"FEATURES": 32, "num_warps": 8, "num_stages": 3}


def block_best(
    rows_nd: torch.Tensor, directions_gmd: torch.Tensor, factor_n: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the largest score of every block and its row, (g, b) both."""
    (n, d), (g, m, _) = rows_nd.shape, directions_gmd.shape
    blocks = triton.cdiv(n, ROWS)
    filled, buyers = tile_of(g, m)
    tiles = triton.cdiv(g, buyers)
    padding = (0, 0, 0, filled - m, 0, tiles * buyers - g)
    columns = torch.nn.functional.pad(directions_gmd, padding).reshape(-1, d).T.contiguous()
    value_gb = torch.empty((g, blocks), dtype=torch.float32, device=rows_nd.device)
    index_gb = torch.empty((g, blocks), dtype=torch.int64, device=rows_nd.device)
    with torch.cuda.device_of(rows_nd):
        _block_best_kernel[(blocks * tiles,)](
            rows_nd, rows_nd.stride(0), columns, columns if factor_n is None else factor_n,
            value_gb, index_gb, n, d, g, blocks,
            WITH_FACTOR=factor_n is not None, M=filled, BUYERS=buyers, ROWS=ROWS,
            **options_of(buyers * filled),
        )  # fmt: skip
    return value_gb, index_gb
