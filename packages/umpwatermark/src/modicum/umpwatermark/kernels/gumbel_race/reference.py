"""The plain-torch version of the race: short, readable, and what the kernel is held to.

Takes what the front door checked. Stores words as int64 and clocks in float64, so it needs some
thirty bytes per row and token.

Legend: ``B`` rows, ``A`` chosen rows, ``W`` columns, ``V <= W`` vocabulary.
"""

from __future__ import annotations

import torch

from modicum.core.prf import PhiloxPRF
from modicum.umpwatermark.uniforms import uniforms_of


def race(
    logits_BW: torch.Tensor,
    rows_A: torch.Tensor,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    vocab_size: int,
    bits: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log of the first clock to ring and whose it is.

    Returns
    -------
    clock_A : float64[A]
        ``min_v ln(-ln U_v) - logit_v``; not finite for a row without a law.
    winner_A : int64[A]
        Its token; the lowest id of a tie.
    """
    u_AV = uniforms_of(prf.words_range(state_A4, vocab_size), bits)
    clock_AV = (-u_AV.log()).log() - logits_BW[rows_A, :vocab_size].double()
    # argmin takes a NaN for the least value, and so does amin.
    winner_A = clock_AV.argmin(-1)
    return clock_AV.gather(1, winner_A[:, None])[:, 0], winner_A
