"""Posteriors of edits: every CTC path and every edit path at once, in the (log, +) semiring.

The recursion of `graph.viterbi` with sums for maxima. Each pair of a CTC path and an edit path is
counted once; deletions in a row are not limited. NumPy, float64, one utterance at a time;
`graph.batched` holds the same for a batch on any device.

Shape suffixes: T frames, C classes, L canonical phones, S = L + 1 positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.huper.channel import Weights
from modicum.huper.emissions import Emissions
from modicum.huper.graph.viterbi import pose, scaled

if TYPE_CHECKING:
    import torch

    from modicum.huper.channel import EditChannel
    from modicum.huper.phones import PhoneSet

__all__ = ["Posteriors", "edit_posteriors", "forward_backward"]


@dataclass(frozen=True)
class Posteriors:
    """Probability of every edit, given the frames and the canonical phones.

    Parameters
    ----------
    canonical
        (L,) int64 ids of the canonical phones.
    sub
        (L, C) probability that phone i was said as q.
    dele
        (L,) probability that phone i was not said; ``sub.sum(1) + dele == 1``.
    ins
        (L + 1, C) expected number of q inserted in slot i.
    occupancy
        (T, C) probability that frame t belongs to class q; the rows sum to one.
    log_likelihood
        Logarithm of the sum over all paths of the exponential of their score; −inf when there is
        none, and then all probabilities are 0.
    """

    canonical: np.ndarray
    sub: np.ndarray
    dele: np.ndarray
    ins: np.ndarray
    occupancy: np.ndarray
    log_likelihood: float


def edit_posteriors(
    emissions: Emissions | np.ndarray | torch.Tensor,
    canonical: Sequence[Any],
    channel: EditChannel | Weights | Sequence[Weights],
    lam: float = 1.0,
    *,
    phones: PhoneSet | None = None,
    blank: int | None = None,
) -> Any:
    """Return the posteriors of all edits of a canonical sequence.

    Parameters
    ----------
    emissions, canonical, channel, lam, phones, blank
        As for `fused_decode`; λ is a number.

    Returns
    -------
    Posteriors or list of Posteriors
        One for one sequence, a list for a list of them.

    Raises
    ------
    ValueError
        As `fused_decode`.
    """
    problem = pose(emissions, canonical, channel, phones, blank)
    found = [
        forward_backward(logprobs_TC, weights, problem.blank, lam)
        for logprobs_TC, weights in zip(problem.logprobs, problem.weights, strict=True)
    ]
    return found[0] if problem.single else found


def forward_backward(
    logprobs_TC: np.ndarray, weights: Weights, blank: int = 0, lam: float = 1.0
) -> Posteriors:
    """Run forward and backward over one utterance.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities.
    weights
        The edits of the canonical sequence.
    blank
        Column of the blank.
    lam
        λ ≥ 0.

    Raises
    ------
    ValueError
        If shapes do not fit or λ is negative.
    """
    logprobs_TC = np.asarray(logprobs_TC, np.float64)
    frames, classes = logprobs_TC.shape
    length = len(weights)
    if classes != weights.classes:
        raise ValueError(f"the emissions have {classes} columns, the weights {weights.classes}")
    if not 0 <= lam < np.inf:
        raise ValueError(f"lam must be finite and at least 0, got {lam}")
    sub_LC, ins_SC = scaled(lam, weights.sub), scaled(lam, weights.ins)
    sub_LC[:, blank] = ins_SC[:, blank] = -np.inf
    dele_L = scaled(lam, weights.dele)
    spans = _spans(dele_L)
    tail_S = np.append(np.cumsum(dele_L[::-1])[::-1], 0.0)

    phone_TSC = np.full((frames + 1, length + 1, classes), -np.inf)
    rest_TS = np.full((frames + 1, length + 1), -np.inf)
    begin_TSC = np.full((frames, length + 1, classes), -np.inf)
    rest_TS[0, 0] = 0.0
    for t in range(frames):
        phone_SC, rest_S, frame_C = phone_TSC[t], rest_TS[t], logprobs_TC[t]
        enter_SC = np.logaddexp(rest_S[:, None], _all_but_each(phone_SC))
        begin_SC = begin_TSC[t] = _pass_forward(enter_SC, spans)
        new_SC = np.logaddexp(phone_SC, begin_SC + ins_SC)
        new_SC[1:] = np.logaddexp(new_SC[1:], begin_SC[:-1] + sub_LC)
        phone_TSC[t + 1] = new_SC + frame_C
        rest_TS[t + 1] = np.logaddexp(rest_S, _log_sum(phone_SC)) + frame_C[blank]
    end_S = np.logaddexp(rest_TS[-1], _log_sum(phone_TSC[-1])) + tail_S
    total = float(_log_sum(end_S[None])[0])

    post_LC, post_SC = np.zeros((length, classes)), np.zeros((length + 1, classes))
    post_L, occupancy_TC = np.zeros(length), np.zeros((frames, classes))
    if total == -np.inf:
        return Posteriors(weights.canonical, post_LC, post_L, post_SC, occupancy_TC, total)
    post_L += np.cumsum(np.exp(end_S - total))[:-1]
    phone_SC = np.repeat(tail_S[:, None], classes, axis=1)
    rest_S = tail_S
    for t in range(frames - 1, -1, -1):
        occupancy_TC[t] = np.exp(phone_TSC[t + 1] + phone_SC - total).sum(0)
        occupancy_TC[t, blank] = np.exp(rest_TS[t + 1] + rest_S - total).sum()
        begin_SC, frame_C = begin_TSC[t], logprobs_TC[t]
        stay_SC = frame_C + phone_SC
        take_LC, add_SC = sub_LC + stay_SC[1:], ins_SC + stay_SC
        post_LC += np.exp(begin_SC[:-1] + take_LC - total)
        post_SC += np.exp(begin_SC + add_SC - total)
        add_SC[:-1] = np.logaddexp(add_SC[:-1], take_LC)
        ahead_SC = _pass_backward(add_SC, spans)
        post_L += np.exp(begin_SC[:-1] + dele_L[:, None] + ahead_SC[1:] - total).sum(1)
        blank_S = frame_C[blank] + rest_S
        phone_SC = np.logaddexp(np.logaddexp(stay_SC, blank_S[:, None]), _all_but_each(ahead_SC))
        rest_S = np.logaddexp(blank_S, _log_sum(ahead_SC))
    return Posteriors(weights.canonical, post_LC, post_L, post_SC, occupancy_TC, total)


def _log_sum(values_SC: np.ndarray) -> np.ndarray:
    top_S = values_SC.max(1)
    safe_S = np.where(top_S == -np.inf, 0.0, top_S)
    with np.errstate(divide="ignore"):
        return safe_S + np.log(np.exp(values_SC - safe_S[:, None]).sum(1))


def _all_but_each(values_SC: np.ndarray) -> np.ndarray:
    """Log-sum-exp of each row without its column q, for every q.

    The largest term is left out by summing the others. Any other term is at most half of the sum,
    so that subtracting it from the sum loses one bit.
    """
    index_S = np.arange(len(values_SC))
    top_S = values_SC.argmax(1)
    top_value_S = values_SC[index_S, top_S]
    safe_S = np.where(top_value_S == -np.inf, 0.0, top_value_S)
    terms_SC = np.exp(values_SC - safe_S[:, None])
    others_SC = values_SC.copy()
    others_SC[index_S, top_S] = -np.inf
    with np.errstate(divide="ignore"):
        out_SC = safe_S[:, None] + np.log(terms_SC.sum(1)[:, None] - terms_SC)
    out_SC[index_S, top_S] = _log_sum(others_SC)
    return out_SC


def _spans(dele_L: np.ndarray) -> list[np.ndarray]:
    """Log-weights of 1, 2, 4, … deletions in a row, by the position where they start."""
    spans = []
    span, width = dele_L, 1
    while len(span):
        spans.append(span)
        span = span[:-width] + span[width:] if len(span) > width else span[:0]
        width *= 2
    return spans


def _pass_forward(enter_SC: np.ndarray, spans: list[np.ndarray]) -> np.ndarray:
    """Let paths pass over any number of canonical phones, each way once (doubling scan)."""
    out_SC = enter_SC
    for k, span in enumerate(spans):
        width = 2**k
        next_SC = out_SC.copy()
        next_SC[width:] = np.logaddexp(out_SC[width:], out_SC[:-width] + span[:, None])
        out_SC = next_SC
    return out_SC


def _pass_backward(ahead_SC: np.ndarray, spans: list[np.ndarray]) -> np.ndarray:
    out_SC = ahead_SC
    for k, span in enumerate(spans):
        width = 2**k
        next_SC = out_SC.copy()
        next_SC[:-width] = np.logaddexp(out_SC[:-width], out_SC[width:] + span[:, None])
        out_SC = next_SC
    return out_SC
