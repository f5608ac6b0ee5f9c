"""Keyed Gumbel-max over a vocabulary: the winner, and whether an observed token is it.

Takes logits and states of a Philox PRF; gives token ids. On a CUDA device one Triton kernel reads
each row of logits once and hashes on the fly, so that no uniform is ever stored; elsewhere plain
torch does the same. The detector's question (is the observed token the winner, and how likely did
the surrogate hold it?) is answered in the same pass. Which rows, contexts and laws is left to the
caller.

Legend: ``B`` rows, ``A`` chosen rows, ``T`` positions of a text, ``W`` columns, ``V <= W``
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from modicum.core.prf import PhiloxPRF
from modicum.umpwatermark.kernels.gumbel_race import reference

__all__ = ["gumbel_race", "gumbel_race_match"]

Backend = Literal["auto", "torch", "triton"]
_HALF_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)


@torch.no_grad()
def gumbel_race(
    logits_BW: torch.Tensor,
    prf: PhiloxPRF,
    state_A4: torch.Tensor,
    *,
    rows: Sequence[int] | None = None,
    vocab_size: int | None = None,
    bits: int = 32,
    backend: Backend = "auto",
) -> torch.Tensor:
    """Choose tokens by keyed Gumbel-max.

    Parameters
    ----------
    logits_BW
        Logits or log-probabilities (a constant per row changes nothing): float16, bfloat16 or
        float32, and float64 by the torch backend. ``-inf`` excludes a token.
    prf, state_A4
        Philox PRF and int64 states of the contexts of the chosen rows; word v belongs to token v.
    rows
        Indices of the A rows to choose in; ``None`` takes all.
    vocab_size
        V; columns beyond it are never chosen. ``None`` takes all.
    bits
        32, or 24 for the uniforms of vLLM; see `modicum.umpwatermark.uniforms`.
    backend
        ``"auto"`` takes Triton on CUDA where it is installed, and torch otherwise.

    Returns
    -------
    int64[A]
        ``argmax_v ln(U_v) / q_v``, compared in float64; the lowest id of a tie.

    Raises
    ------
    ValueError
        If a row holds NaN, +inf or no possible token, or the backend is unknown or cannot take
        what was given.
    ImportError
        For ``backend="triton"`` without Triton.
    """
    size = _size(logits_BW, vocab_size)
    every = range(len(logits_BW)) if rows is None else rows
    rows_A = torch.tensor(every, dtype=torch.int64, device=logits_BW.device)
    if _choose_backend(logits_BW, backend) == "torch":
        clock_A, winner_A = reference.race(logits_BW, rows_A, prf, state_A4, size, bits)
    else:
        from modicum.umpwatermark.kernels.gumbel_race import triton

        clock_A, winner_A, _ = triton.race(logits_BW, rows_A, prf, state_A4, size, bits)
    _check(clock_A, every)
    return winner_A


@torch.no_grad()
def gumbel_race_match(
    logits_TW: torch.Tensor,
    tokens_T: torch.Tensor,
    prf: PhiloxPRF,
    state_T4: torch.Tensor,
    *,
    vocab_size: int | None = None,
    bits: int = 32,
    backend: Backend = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Say where observed tokens win the race under a surrogate, and how likely they were.

    Parameters
    ----------
    logits_TW
        Logits of the surrogate, as in `gumbel_race`; they need not be normalised.
    tokens_T
        Observed tokens, int64 below ``vocab_size``.
    prf, state_T4, vocab_size, bits, backend
        As in `gumbel_race`.

    Returns
    -------
    match_T : bool[T]
        Whether the observed token is the winner.
    log_prob_T : float64[T]
        Its log-probability: the logit less the log-sum-exp of the row's first V columns, which
        Triton adds in float32 (good to about 1e-6).

    Raises
    ------
    ValueError, ImportError
        As in `gumbel_race`.
    """
    size = _size(logits_TW, vocab_size)
    every = range(len(logits_TW))
    rows_T = torch.arange(len(logits_TW), device=logits_TW.device)
    if _choose_backend(logits_TW, backend) == "torch":
        clock_T, winner_T = reference.race(logits_TW, rows_T, prf, state_T4, size, bits)
        total_T = logits_TW[:, :size].double().logsumexp(-1)
    else:
        from modicum.umpwatermark.kernels.gumbel_race import triton

        clock_T, winner_T, total_T = triton.race(
            logits_TW, rows_T, prf, state_T4, size, bits, with_total=True
        )
    _check(clock_T, every)
    own_T = logits_TW.gather(1, tokens_T[:, None])[:, 0].double()
    return winner_T == tokens_T, own_T - total_T


def _size(logits_BW: torch.Tensor, vocab_size: int | None) -> int:
    width = logits_BW.shape[1]
    if vocab_size is not None and not 0 < vocab_size <= width:
        raise ValueError(f"vocab_size must lie in [1, {width}], got {vocab_size}")
    return width if vocab_size is None else vocab_size


def _check(clock_A: torch.Tensor, rows: Sequence[int]) -> None:
    bad = [row for row, good in zip(rows, clock_A.isfinite().tolist(), strict=True) if not good]
    if bad:
        raise ValueError(f"rows {bad} have no finite logit (NaN, +inf or all -inf)")


@cache
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _choose_backend(logits_BW: torch.Tensor, backend: str) -> str:
    fits = logits_BW.dtype in _HALF_AND_SINGLE
    if backend == "torch":
        return "torch"
    if backend == "auto":
        return "triton" if fits and logits_BW.is_cuda and _triton_installed() else "torch"
    if backend != "triton":
        raise ValueError(f'backend must be "auto", "torch" or "triton", got {backend!r}')
    if not _triton_installed():
        raise ImportError('backend="triton" needs Triton, which comes with torch for CUDA on Linux')
    if not fits:
        raise ValueError(
            f'backend="triton" takes float16, bfloat16 or float32, got {logits_BW.dtype}'
        )
    from modicum.umpwatermark.kernels.gumbel_race.triton import INTERPRETED

    if not (logits_BW.is_cuda or INTERPRETED):
        raise ValueError(
            f'backend="triton" needs a CUDA device (or TRITON_INTERPRET=1 before Triton is '
            f'imported), got {logits_BW.device}; backend="torch" runs there'
        )
    return "triton"
