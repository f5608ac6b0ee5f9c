"""What a decoder asks of its logits, in one pass over the vocabulary.

Takes a tensor of logits and returns, per row, the largest entry and its index, the runner-up, the
log-normaliser, the entropy and (for given ids) a log-probability. On a CUDA device one Triton
kernel reads every logit once; elsewhere plain torch computes the same numbers. Sampling,
temperature, warping and gradients are left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from modicum.core.kernels.logits_summary.reference import logits_summary_reference

# Shape suffixes: ... any leading dimensions, V vocabulary, K suppressed ids.

_HALF_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)

__all__ = ["LogitsSummary", "logits_summary"]


@dataclass(frozen=True)
class LogitsSummary:
    """Per-row summary of logits; every field has the logits' shape without the vocabulary.

    Attributes
    ----------
    max
        Largest logit.
    argmax
        Its index, int64; the lowest one on a tie.
    second_max
        Largest logit among the other indices (equal to `max` on a tie, ``-inf`` if there is none).
    margin
        ``max - second_max`` in logits; 0 on a tie.
    log_sum_exp
        Logarithm of the sum of the exponentials, natural units.
    entropy
        Shannon entropy of the softmax in nats.
    top1_log_prob
        Log-probability of `argmax`.
    token_log_prob
        Log-probability of the ids that were asked for, or None if none were.
    """

    max: torch.Tensor
    argmax: torch.Tensor
    second_max: torch.Tensor
    margin: torch.Tensor
    log_sum_exp: torch.Tensor
    entropy: torch.Tensor
    top1_log_prob: torch.Tensor
    token_log_prob: torch.Tensor | None = None

    @property
    def top1_prob(self) -> torch.Tensor:
        """Probability of the most likely token."""
        return self.top1_log_prob.exp()

    @property
    def probability_margin(self) -> torch.Tensor:
        """Probability of the most likely token minus that of the second."""
        return -torch.expm1(-self.margin) * self.top1_prob


def logits_summary(
    logits: torch.Tensor,
    *,
    token_ids: torch.Tensor | None = None,
    suppress: Sequence[int] | torch.Tensor | None = None,
    backend: Literal["auto", "torch", "triton"] = "auto",
) -> LogitsSummary:
    """Summarise every row of logits: top two, log-normaliser, entropy, a token's log-probability.

    The result carries no gradient. Rows are independent, any strides are taken, and on CUDA the
    host is not synchronised (given `suppress` as a tensor, the call can be captured in a CUDA
    graph).

    Special rows, alike in both backends:

    * entries of ``-inf`` are tokens of probability zero;
    * a row of nothing but ``-inf`` has ``max = log_sum_exp = -inf``, ``argmax = 0``, ``margin =
      entropy = 0`` and log-probabilities ``-inf``: never NaN;
    * a row with ``+inf`` has no softmax: `max`, `argmax`, `second_max`, `margin` stay what they
      say, `log_sum_exp` is ``+inf``, entropy and log-probabilities are NaN;
    * a row with a NaN is NaN in every floating field and `argmax` is the first NaN. Nothing raises.

    Parameters
    ----------
    logits
        float16, bfloat16 or float32 of shape ``[..., V]`` with V >= 1; float64 is taken by the
        torch backend alone. There may be no rows.
    token_ids
        Integer tensor of shape ``[...]``: one id per row whose log-probability is wanted. An id
        outside ``[0, V)`` gives NaN.
    suppress
        Ids treated as ``-inf`` in every row, such as a mask id: a sequence of ints in ``[0, V)``,
        or a one-dimensional integer tensor on the logits' device, of which ids outside ``[0, V)``
        are ignored. Meant for a handful of ids; write ``-inf`` into the logits for thousands.
    backend
        ``"auto"`` takes Triton on CUDA where it is installed and torch otherwise.

    Returns
    -------
    LogitsSummary
        Fields in float32 (float64 for float64 logits). Half-precision logits are widened first, so
        sums are always at least float32.

    Raises
    ------
    ValueError
        For an empty vocabulary, mismatched shapes or devices, ids outside ``[0, V)`` in a sequence,
        an unknown backend, or ``backend="triton"`` with tensors it cannot run on.
    TypeError
        For dtypes other than those named.
    ImportError
        For ``backend="triton"`` without Triton.

    Notes
    -----
    With ``m = max l`` and ``Z = sum exp(l - m)`` the entropy is
    ``ln Z - (1/Z) sum exp(l - m) (l - m)``: two non-negative terms, nothing cancels. Running maxima
    with rescaled sums are the online softmax of M. Milakov and N. Gimelshein, "Online normalizer
    calculation for softmax" (arXiv 1805.02867).
    """
    _check_logits(logits)
    _check_token_ids(logits, token_ids)
    suppress_K = _suppressed_ids(logits, suppress)
    if _choose_backend(logits, backend) == "torch":
        fields = logits_summary_reference(logits.detach(), token_ids, suppress_K)
    else:
        from modicum.core.kernels.logits_summary.triton import logits_summary_triton

        fields = logits_summary_triton(logits.detach(), token_ids, suppress_K)
    return LogitsSummary(**fields)


def _check_logits(logits: torch.Tensor) -> None:
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"logits must be a torch.Tensor, got {type(logits).__name__}")
    if logits.dtype not in (*_HALF_AND_SINGLE, torch.float64):
        raise TypeError(f"logits must be float16, bfloat16, float32 or float64, got {logits.dtype}")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"logits must have shape [..., V] with V >= 1, got shape {tuple(logits.shape)}"
        )


def _check_token_ids(logits: torch.Tensor, token_ids: torch.Tensor | None) -> None:
    if token_ids is None:
        return
    _check_integers(token_ids, "token_ids", logits.device)
    if token_ids.shape != logits.shape[:-1]:
        raise ValueError(
            f"token_ids must have the shape of logits without the vocabulary, "
            f"{tuple(logits.shape[:-1])}, got {tuple(token_ids.shape)}"
        )


def _suppressed_ids(
    logits: torch.Tensor, suppress: Sequence[int] | torch.Tensor | None
) -> torch.Tensor | None:
    if suppress is None:
        return None
    if isinstance(suppress, torch.Tensor):
        _check_integers(suppress, "suppress", logits.device)
        if suppress.ndim != 1:
            raise ValueError(
                f"suppress must be one-dimensional, got a tensor of shape {tuple(suppress.shape)}"
            )
        return suppress.to(torch.int64)
    vocabulary = logits.shape[-1]
    for token in suppress:
        if not 0 <= token < vocabulary:
            raise ValueError(f"suppress must hold ids in [0, {vocabulary}), got {token}")
    return torch.tensor(list(suppress), dtype=torch.int64, device=logits.device)


def _check_integers(tensor: torch.Tensor, name: str, device: torch.device) -> None:
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in (torch.int32, torch.int64):
        got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be an int32 or int64 tensor, got {got}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on the logits' device {device}, got {tensor.device}")


@cache
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _choose_backend(logits: torch.Tensor, backend: str) -> str:
    if backend == "torch":
        return "torch"
    if backend == "auto":
        fused = logits.is_cuda and logits.dtype in _HALF_AND_SINGLE and _triton_installed()
        return "triton" if fused else "torch"
    if backend != "triton":
        raise ValueError(f'backend must be "auto", "torch" or "triton", got {backend!r}')
    if not _triton_installed():
        raise ImportError('backend="triton" needs Triton, which comes with torch for CUDA on Linux')
    if logits.dtype not in _HALF_AND_SINGLE:
        raise ValueError(f'backend="triton" takes float16, bfloat16 or float32, got {logits.dtype}')
    from modicum.core.kernels.logits_summary.triton import INTERPRETED

    if not (logits.is_cuda or INTERPRETED):
        raise ValueError(
            f'backend="triton" needs logits on a CUDA device (or TRITON_INTERPRET=1 before Triton '
            f'is imported), got logits on {logits.device}; backend="torch" runs there'
        )
    return "triton"
