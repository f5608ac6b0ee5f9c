"""The plain-torch version: short, readable, and what the kernel is held to.

Takes what the front door checked. Holds the products of one chunk of rows at a time.

Legend: ``n`` rows, ``k`` rows of a chunk, ``d`` features, ``g`` buyers, ``m`` directions of a
buyer, ``b`` blocks.
"""

from __future__ import annotations

import torch

ROWS = 128
"""Rows of a block."""

_VALUES_OF_A_CHUNK = {"cpu": 1 << 20, "other": 1 << 26}
"""Values of one chunk of rows: a device wants few large products, a processor fits its cache."""


def block_best(
    rows_nd: torch.Tensor, directions_gmd: torch.Tensor, factor_n: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the largest score of every block and its row, (g, b) both."""
    (n, d), (g, m, _) = rows_nd.shape, directions_gmd.shape
    columns_dk = directions_gmd.reshape(g * m, d).T
    most = _VALUES_OF_A_CHUNK["cpu" if rows_nd.device.type == "cpu" else "other"]
    blocks_of_a_chunk = max(1, most // (ROWS * max(d, g * m)))
    values, indices = [], []
    for start in range(0, n, blocks_of_a_chunk * ROWS):
        where = slice(start, min(start + blocks_of_a_chunk * ROWS, n))
        products = rows_nd[where].to(columns_dk.dtype) @ columns_dk
        score_kg = products.square_().view(-1, g, m).sum(dim=2)
        if factor_n is not None:
            score_kg *= factor_n[where, None]
        missing = -len(score_kg) % ROWS
        # Below every score, so that no row beyond the last is ever the best.
        padded = torch.nn.functional.pad(score_kg.T, (0, missing), value=-1.0)
        value_gb, place_gb = padded.reshape(g, -1, ROWS).max(dim=2)
        first_b = start + ROWS * torch.arange(value_gb.shape[1], device=rows_nd.device)
        values.append(value_gb)
        indices.append(place_gb + first_b)
    return torch.cat(values, dim=1), torch.cat(indices, dim=1)
