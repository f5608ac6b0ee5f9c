"""The best row of every block of rows, for many buyers, without storing any other score.

Takes rows and the directions of each buyer, and gives of every 128 neighbouring rows the largest
sum of squared inner products and where it is. On a CUDA device one Triton kernel reads the rows and
keeps the scores to itself; elsewhere plain torch does the same, chunk by chunk. Which row is then
picked, and how exactly its score must be known, is left to the caller.

Legend: ``n`` rows, ``d`` features, ``g`` buyers, ``m`` directions of a buyer, ``b`` blocks.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from modicum.daved.kernels.block_best import reference

__all__ = ["ROWS", "Backend", "block_best", "choose_backend"]

Backend = Literal["auto", "torch", "triton"]

ROWS = reference.ROWS
"""Rows of a block."""

MOST_DIRECTIONS = 128
"""Directions of a buyer up to which the fused kernel holds their products in registers."""

_HALF_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)


@torch.no_grad()
def block_best(
    rows_nd: torch.Tensor,
    directions_gmd: torch.Tensor,
    factor_n: torch.Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the best row of every block for every buyer.

    Parameters
    ----------
    rows_nd
        Rows with neighbouring features: float16, bfloat16 or float32, and float64 by the torch
        backend. There is at least one.
    directions_gmd
        Directions, float32 (float64 for float64 rows); rows of zeros fill up where buyers have
        different numbers of them.
    factor_n
        What every row's sum is multiplied with, of the directions' dtype, positive; ones without.
    backend
        ``"auto"`` takes Triton on CUDA where it is installed and can take what is given, and torch
        otherwise.

    Returns
    -------
    value_gb
        ``max_j factor_j Σ_m (x_j' v_m)²`` over the rows of the block, of the directions' dtype.
    index_gb
        Position of that row, int64; the smallest of a tie.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not go together, or the backend is unknown or cannot take
        what was given.
    ImportError
        For ``backend="triton"`` without Triton.

    Notes
    -----
    Products are summed in float32, those of the fused kernel as three of TF32 on tensor cores,
    which agree with float32 to its rounding.
    """
    _check(rows_nd, directions_gmd, factor_n)
    if choose_backend(rows_nd, directions_gmd.shape[1], backend) == "torch":
        return reference.block_best(rows_nd, directions_gmd, factor_n)
    from modicum.daved.kernels.block_best import triton

    return triton.block_best(rows_nd, directions_gmd, factor_n)


def _check(
    rows_nd: torch.Tensor, directions_gmd: torch.Tensor, factor_n: torch.Tensor | None
) -> None:
    if (
        rows_nd.ndim != 2
        or directions_gmd.ndim != 3
        or 0 in (*rows_nd.shape, *directions_gmd.shape)
    ):
        raise ValueError(
            "rows must have shape (n, d) and directions (g, m, d), none of them 0; got "
            f"{tuple(rows_nd.shape)} and {tuple(directions_gmd.shape)}"
        )
    if rows_nd.shape[1] != directions_gmd.shape[2]:
        raise ValueError(
            f"directions have {directions_gmd.shape[2]} features, but rows {rows_nd.shape[1]}"
        )
    wanted = torch.float64 if rows_nd.dtype == torch.float64 else torch.float32
    for name, tensor in (("directions", directions_gmd), ("factor", factor_n)):
        if tensor is None:
            continue
        if tensor.dtype != wanted:
            raise ValueError(
                f"{name} must be {wanted} for {rows_nd.dtype} rows, not {tensor.dtype}"
            )
        if tensor.device != rows_nd.device:
            raise ValueError(f"{name} must be on {rows_nd.device}, not {tensor.device}")
    if factor_n is not None and factor_n.shape != rows_nd.shape[:1]:
        raise ValueError(f"factor has shape {tuple(factor_n.shape)} for {len(rows_nd)} rows")


@cache
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def choose_backend(rows_nd: torch.Tensor, directions: int, backend: str) -> str:
    """Give ``"torch"`` or ``"triton"``, by which `block_best` would run.

    Parameters
    ----------
    rows_nd
        Rows.
    directions
        Number of directions of a buyer.
    backend
        As in `block_best`, with its errors.
    """
    fits = (
        rows_nd.dtype in _HALF_AND_SINGLE
        and directions <= MOST_DIRECTIONS
        and rows_nd.stride(1) == 1
    )
    if backend == "torch":
        return "torch"
    if backend == "auto":
        return "triton" if fits and rows_nd.is_cuda and _triton_installed() else "torch"
    if backend != "triton":
        raise ValueError(f'backend must be "auto", "torch" or "triton", got {backend!r}')
    if not _triton_installed():
        raise ImportError('backend="triton" needs Triton, which comes with torch for CUDA on Linux')
    if not fits:
        raise ValueError(
            f'backend="triton" takes float16, bfloat16 or float32 rows with neighbouring features '
            f"and at most {MOST_DIRECTIONS} directions of a buyer, got {rows_nd.dtype}, strides "
            f"{rows_nd.stride()} and {directions}"
        )
    from modicum.daved.kernels.block_best.triton import INTERPRETED

    if not (rows_nd.is_cuda or INTERPRETED):
        raise ValueError(
            f'backend="triton" needs a CUDA device (or TRITON_INTERPRET=1 before Triton is '
            f'imported), got {rows_nd.device}; backend="torch" runs there'
        )
    return "triton"
