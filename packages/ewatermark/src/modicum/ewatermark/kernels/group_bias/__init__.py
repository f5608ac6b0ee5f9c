"""The watermark's step on a decoder's log-probabilities: hashed groups, masses, bias.

Takes log-probabilities, the anchor's laws and PRF states; gives biased log-probabilities. On a CUDA
device two Triton kernels each read the vocabulary once and hash it on the fly, so that no group ids
are ever stored; elsewhere plain torch does the same. Between the two passes stands the small step
on ``[A, m]`` numbers (seed and coupling), which both share. Which rows are watermarked, contexts
and anchors are left to the caller.

Legend: ``B`` rows, ``A`` watermarked rows, ``W`` columns, ``V <= W`` vocabulary, ``m`` groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from modicum.core.prf import PhiloxPRF
from modicum.ewatermark import coupling
from modicum.ewatermark.kernels.group_bias import reference

__all__ = ["MOST_GROUPS", "group_bias"]

MOST_GROUPS = 64
"""Groups the fused kernel holds in registers; more are left to torch."""

_HALF_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)


@torch.no_grad()
def group_bias(
    logprobs_BW: torch.Tensor,
    rows: Sequence[int],
    anchor_log_probs_AV: torch.Tensor | None,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    draw_seed: Callable[[torch.Tensor], torch.Tensor],
    *,
    vocab_size: int,
    num_groups: int,
    strength: float = 0.0,
    backend: Literal["auto", "torch", "triton"] = "auto",
) -> torch.Tensor:
    """Bias log-probabilities by the maximal coupling of hashed token groups with a seed symbol.

    The group of token v is ``word(context, v) mod m``, the word being that of `modicum.core.prf`,
    bit for bit. Masses are those of the groups under target and anchor; the bias is that of
    `modicum.ewatermark.coupling.group_bias`.

    Parameters
    ----------
    logprobs_BW
        Log-probabilities, contiguous in the vocabulary: float16, bfloat16 or float32 (float64 by
        the torch backend alone). ``-inf`` is a token of probability 0.
    rows
        Distinct indices of the A watermarked rows.
    anchor_log_probs_AV
        The anchor's log-probabilities in these rows, any floating dtype; ``None`` if uniform, whose
        masses are taken as ``1/m``.
    prf, state_A4
        PRF of the partition and int64 states of the rows' contexts.
    draw_seed
        Seed symbols int64 ``[A]`` of anchor masses float64 ``[A, m]``.
    vocab_size
        V; columns beyond it get ``-inf`` in watermarked rows.
    num_groups
        Number of groups m.
    strength
        Additional logit of the seed's group.
    backend
        ``"auto"`` takes Triton on CUDA where it is installed, for at most `MOST_GROUPS` groups, and
        torch otherwise.

    Returns
    -------
    Tensor[B, W]
        A new tensor of the dtype of ``logprobs_BW``; rows that are not watermarked are copied.

    Raises
    ------
    ValueError
        If a watermarked row holds NaN, +inf or no possible token, or the backend is unknown or
        cannot take what was given.
    ImportError
        For ``backend="triton"`` without Triton.
    """
    if _choose_backend(logprobs_BW, num_groups, backend) == "torch":
        masses, add_bias = reference.hashed_masses, reference.add_hashed_bias
    else:
        from modicum.ewatermark.kernels.group_bias import triton

        masses, add_bias = triton.hashed_masses, triton.add_hashed_bias
    rows_A = torch.tensor(rows, dtype=torch.int64, device=logprobs_BW.device)
    hashed = (rows_A, prf, state_A4, vocab_size, num_groups)
    q_Am, p_Am = masses(logprobs_BW, anchor_log_probs_AV, *hashed)
    total_A = q_Am.sum(-1)
    bad = [r for r, t in zip(rows, total_A.tolist(), strict=True) if not 0 < t < float("inf")]
    if bad:
        raise ValueError(
            f"rows {bad} have no finite log-probability below vocab_size={vocab_size} "
            "(NaN, +inf or all -inf)"
        )
    p_Am = torch.full_like(q_Am, 1 / num_groups) if p_Am is None else p_Am / p_Am.sum(-1)[:, None]
    bias_Am = coupling.group_bias(q_Am / total_A[:, None], p_Am, draw_seed(p_Am), strength)
    return add_bias(logprobs_BW, bias_Am, *hashed)


@cache
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _choose_backend(logprobs_BW: torch.Tensor, num_groups: int, backend: str) -> str:
    fits = logprobs_BW.dtype in _HALF_AND_SINGLE and num_groups <= MOST_GROUPS
    if backend == "torch":
        return "torch"
    if backend == "auto":
        return "triton" if fits and logprobs_BW.is_cuda and _triton_installed() else "torch"
    if backend != "triton":
        raise ValueError(f'backend must be "auto", "torch" or "triton", got {backend!r}')
    if not _triton_installed():
        raise ImportError('backend="triton" needs Triton, which comes with torch for CUDA on Linux')
    if not fits:
        raise ValueError(
            f'backend="triton" takes float16, bfloat16 or float32 and at most {MOST_GROUPS} '
            f"groups, got {logprobs_BW.dtype} and {num_groups}"
        )
    from modicum.ewatermark.kernels.group_bias.triton import INTERPRETED

    if not (logprobs_BW.is_cuda or INTERPRETED):
        raise ValueError(
            f'backend="triton" needs a CUDA device (or TRITON_INTERPRET=1 before Triton is '
            f'imported), got {logprobs_BW.device}; backend="torch" runs there'
        )
    return "triton"
