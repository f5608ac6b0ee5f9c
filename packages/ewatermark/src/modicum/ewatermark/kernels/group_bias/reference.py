"""The plain-torch version of the two passes: short, readable, and what the kernel is held to.

Takes what the front door checked. Stores group ids as int64 and probabilities in float64, so it
needs some twenty bytes per row and token.

Legend: ``B`` rows, ``A`` watermarked rows, ``W`` columns, ``V <= W`` vocabulary, ``m`` groups.
"""

from __future__ import annotations

import torch

from modicum.core.prf import PhiloxPRF
from modicum.ewatermark.partition import hash_groups


def hashed_masses(
    logprobs_BW: torch.Tensor,
    anchor_log_probs_AV: torch.Tensor | None,
    rows_A: torch.Tensor,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    vocab_size: int,
    num_groups: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sum probabilities over hashed groups, without normalising.

    Returns
    -------
    target, anchor : float64[A, m]
        The second is ``None`` for the uniform anchor.
    """
    groups_AV = hash_groups(prf, state_A4, vocab_size, num_groups)

    def sums(log_probs_AV: torch.Tensor) -> torch.Tensor:
        zeros_Am = groups_AV.new_zeros(len(groups_AV), num_groups, dtype=torch.float64)
        return zeros_Am.scatter_add_(1, groups_AV, log_probs_AV.double().exp())

    target_Am = sums(logprobs_BW[rows_A, :vocab_size])
    return target_Am, None if anchor_log_probs_AV is None else sums(anchor_log_probs_AV)


def add_hashed_bias(
    logprobs_BW: torch.Tensor,
    bias_Am: torch.Tensor,
    rows_A: torch.Tensor,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    vocab_size: int,
    num_groups: int,
) -> torch.Tensor:
    """Add each group's bias to its tokens; columns beyond the vocabulary get ``-inf``.

    Returns
    -------
    Tensor[B, W]
        Of the dtype of ``logprobs_BW``.
    """
    groups_AV = hash_groups(prf, state_A4, vocab_size, num_groups)
    marked_AV = logprobs_BW[rows_A, :vocab_size] + bias_Am.gather(1, groups_AV)
    out_BW = logprobs_BW.clone()
    out_BW[rows_A] = -torch.inf
    out_BW[rows_A, :vocab_size] = marked_AV.to(out_BW.dtype)
    return out_BW
