"""The decoder and its posteriors for a whole batch, in torch, on any device.

The recursions of `graph.viterbi` and `graph.posteriors` over a padded batch: sequential in frames,
parallel in utterances, positions and phones. Impossible is −1e9, not −inf, so that no difference
of infinities arises.

Shape suffixes: B utterances, T frames, C classes, L canonical phones, S = L + 1 positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modicum.huper.channel import Weights
from modicum.huper.graph.viterbi import Path, scaled

__all__ = ["Batch", "BatchPosteriors", "best_paths", "forward_backward", "log_likelihood", "pad"]

IMPOSSIBLE = -1e9
# A score below this went through something impossible; real scores are far above.
NO_PATH = -1e8


@dataclass(frozen=True)
class Batch:
    """A padded batch; padding holds −1e9.

    Parameters
    ----------
    logprobs
        (B, T, C) log-probabilities.
    frames
        (B,) int64 number of valid frames.
    sub, dele, ins
        (B, L, C), (B, L) and (B, L + 1, C) log-weights, already multiplied by λ.
    lengths
        (B,) int64 number of canonical phones.
    blank
        Column of the blank.
    """

    logprobs: torch.Tensor
    frames: torch.Tensor
    sub: torch.Tensor
    dele: torch.Tensor
    ins: torch.Tensor
    lengths: torch.Tensor
    blank: int


@dataclass(frozen=True)
class BatchPosteriors:
    """Posteriors of a batch, 0 in the padding; see `graph.posteriors.Posteriors`.

    Parameters
    ----------
    sub, dele, ins
        (B, L, C), (B, L) and (B, L + 1, C).
    occupancy
        (B, T, C).
    log_likelihood
        (B,); below −1e8 where there is no path, and all else is 0 there.
    """

    sub: torch.Tensor
    dele: torch.Tensor
    ins: torch.Tensor
    occupancy: torch.Tensor
    log_likelihood: torch.Tensor


def pad(
    logprobs: Sequence[np.ndarray],
    weights: Sequence[Weights],
    lam: float = 1.0,
    blank: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Pad utterances and the edits of their canonical sequences into one batch.

    Parameters
    ----------
    logprobs
        B arrays (T_b, C).
    weights
        The edits of B canonical sequences.
    lam
        λ ≥ 0, multiplied into the weights.
    blank
        Column of the blank, which is never said.
    device, dtype
        Where and in which precision to compute.

    Raises
    ------
    ValueError
        If there is nothing to pad, numbers or columns differ, or λ is negative.
    """
    if not logprobs or len(logprobs) != len(weights):
        raise ValueError(
            f"a batch needs as many weights as utterances and at least one, "
            f"got {len(weights)} and {len(logprobs)}"
        )
    if not 0 <= lam < np.inf:
        raise ValueError(f"lam must be finite and at least 0, got {lam}")
    classes = logprobs[0].shape[1]
    for item, edits in zip(logprobs, weights, strict=True):
        if item.shape[1] != classes or edits.classes != classes:
            raise ValueError(
                f"all emissions and weights must have {classes} columns, "
                f"got {item.shape[1]} and {edits.classes}"
            )
    batch = len(logprobs)
    frames = [len(item) for item in logprobs]
    lengths = [len(edits) for edits in weights]
    time, length = max(frames), max(lengths)
    logprobs_BTC = np.full((batch, time, classes), IMPOSSIBLE)
    sub_BLC = np.full((batch, length, classes), IMPOSSIBLE)
    dele_BL = np.full((batch, length), IMPOSSIBLE)
    ins_BSC = np.full((batch, length + 1, classes), IMPOSSIBLE)
    for b, (item, edits) in enumerate(zip(logprobs, weights, strict=True)):
        logprobs_BTC[b, : frames[b]] = item
        sub_BLC[b, : lengths[b]] = scaled(lam, edits.sub)
        dele_BL[b, : lengths[b]] = scaled(lam, edits.dele)
        ins_BSC[b, : lengths[b] + 1] = scaled(lam, edits.ins)
    sub_BLC[..., blank] = ins_BSC[..., blank] = IMPOSSIBLE

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.maximum(array, IMPOSSIBLE), dtype=dtype, device=device)

    return Batch(
        tensor(logprobs_BTC),
        torch.tensor(frames, device=device),
        tensor(sub_BLC),
        tensor(dele_BL),
        tensor(ins_BSC),
        torch.tensor(lengths, device=device),
        blank,
    )


# The best path ----------------------------------------------------------------------------------


def best_paths(
    logprobs: Sequence[np.ndarray],
    weights: Sequence[Weights],
    lam: float = 1.0,
    maxdel: int = 2,
    blank: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Path | None]:
    """Find the best path of every utterance; what `graph.viterbi.best_path` finds one by one.

    Parameters
    ----------
    logprobs, weights, lam, blank, device, dtype
        As for `pad`.
    maxdel
        Most canonical phones passed over between two phones that are said; one more at the end.

    Returns
    -------
    list of Path or None
        None where no path exists. In float32 scores differ from float64 by rounding, and of two
        paths within rounding of each other either may be returned.

    Raises
    ------
    ValueError
        As `pad`, or if maxdel is negative.
    """
    if maxdel < 0:
        raise ValueError(f"maxdel must be at least 0, got {maxdel}")
    if not logprobs:
        return []
    batch = pad(logprobs, weights, lam, blank, device, dtype)
    with torch.no_grad():
        tables = _viterbi(batch, maxdel)
    return _paths(batch, *tables)


def _shift(values: torch.Tensor, by: int, dim: int = 1) -> torch.Tensor:
    """Move along the positions; what enters is impossible."""
    size = values.shape[dim]
    moved = torch.full_like(values, IMPOSSIBLE)
    count = size - abs(by)
    if count > 0:
        source = values.narrow(dim, max(-by, 0), count)
        moved.narrow(dim, max(by, 0), count).copy_(source)
    return moved


def _top_two(phone_BSC: torch.Tensor) -> tuple[torch.Tensor, ...]:
    value_BS, top_BS = phone_BSC.max(-1)
    others_BSC = phone_BSC.scatter(-1, top_BS[..., None], 2 * IMPOSSIBLE)
    second_value_BS, second_BS = others_BSC.max(-1)
    return value_BS, top_BS, second_value_BS, second_BS


def _viterbi(batch: Batch, maxdel: int) -> tuple[Any, ...]:
    logprobs_BTC, frames_B, blank = batch.logprobs, batch.frames, batch.blank
    size, time, classes = logprobs_BTC.shape
    positions = batch.ins.shape[1]
    maxdel_now = min(maxdel, positions - 1)
    span = maxdel_now + 1
    phone_BSC = torch.full_like(batch.ins, IMPOSSIBLE)
    rest_BS = torch.full_like(phone_BSC[..., 0], IMPOSSIBLE)
    rest_BS[:, 0] = 0.0
    # Entering position i by a substitution, and deleting the phone before it.
    take_BSC = torch.cat([torch.full_like(batch.ins[:, :1], IMPOSSIBLE), batch.sub], dim=1)
    drop_BS = torch.cat([torch.full_like(rest_BS[:, :1], IMPOSSIBLE), batch.dele], dim=1)
    device = logprobs_BTC.device
    small = torch.int8 if 3 * span <= 127 else torch.int16
    code_TBSC = torch.empty((time, *phone_BSC.shape), dtype=small, device=device)
    rows_TBS5 = torch.empty((time, size, positions, 5), dtype=torch.int16, device=device)
    for t in range(time):
        value_BS, top_BS, second_value_BS, second_BS = _top_two(phone_BSC)
        enter_BSC = torch.maximum(rest_BS, value_BS)[..., None].expand_as(phone_BSC).clone()
        enter_BSC.scatter_(
            -1, top_BS[..., None], torch.maximum(rest_BS, second_value_BS)[..., None]
        )
        begin_BSC, passed_BSC = enter_BSC, torch.zeros_like(top_BS)[..., None].expand_as(enter_BSC)
        exactly_BSC = enter_BSC
        for k in range(1, maxdel_now + 1):
            exactly_BSC = _shift(exactly_BSC, 1) + drop_BS[..., None]
            better_BSC = exactly_BSC > begin_BSC
            begin_BSC = torch.where(better_BSC, exactly_BSC, begin_BSC)
            passed_BSC = torch.where(better_BSC, k, passed_BSC)
        new_BSC = phone_BSC
        code_BSC = torch.zeros_like(passed_BSC)
        for kind, from_BSC, passed in (
            (1, _shift(begin_BSC, 1) + take_BSC, torch.roll(passed_BSC, 1, 1)),
            (2, begin_BSC + batch.ins, passed_BSC),
        ):
            better_BSC = from_BSC > new_BSC
            new_BSC = torch.where(better_BSC, from_BSC, new_BSC)
            code_BSC = torch.where(better_BSC, kind * span + passed, code_BSC)
        code_TBSC[t] = code_BSC
        from_phone_BS = value_BS > rest_BS
        rows_TBS5[t] = torch.stack(
            [
                top_BS,
                second_BS,
                (rest_BS >= value_BS).long(),
                (rest_BS >= second_value_BS).long(),
                from_phone_BS.long(),
            ],
            dim=-1,
        )
        frame_BC = logprobs_BTC[:, t]
        on_B = t < frames_B
        phone_BSC = torch.where(on_B[:, None, None], new_BSC + frame_BC[:, None], phone_BSC)
        new_rest_BS = torch.maximum(rest_BS, value_BS) + frame_BC[:, blank, None]
        rest_BS = torch.where(on_B[:, None], new_rest_BS, rest_BS)

    tail_BS = _tails(batch)
    left_BS = batch.lengths[:, None] - torch.arange(positions, device=device)
    tail_BS = torch.where((left_BS >= 0) & (left_BS <= maxdel + 1), tail_BS, IMPOSSIBLE)
    ends_BSK = torch.cat([phone_BSC, rest_BS[..., None]], dim=-1) + tail_BS[..., None]
    score_B, where_B = ends_BSK.flatten(1).max(1)
    i_B, q_B = where_B // (classes + 1), where_B % (classes + 1)
    trailing_B = batch.lengths - i_B

    # Back through the frames: which phone, and where it starts with which edit.
    every_B = torch.arange(size, device=device)
    resting_B = q_B == classes
    q_B = torch.where(resting_B, 0, q_B)
    trace_TB5 = torch.full((time, size, 5), -1, dtype=torch.int32, device=device)
    for t in range(time - 1, -1, -1):
        on_B = t < frames_B
        code_B = code_TBSC[t, every_B, i_B, q_B].long()
        kind_B, passed_B = code_B // span, code_B % span
        spoken_B = on_B & ~resting_B
        starts_B = spoken_B & (kind_B > 0)
        record_B5 = torch.stack([q_B, starts_B.long(), kind_B, i_B, passed_B], dim=1)
        trace_TB5[t] = torch.where(spoken_B[:, None], record_B5, -1).int()
        row_B = torch.where(starts_B, i_B - passed_B - (kind_B == 1).long(), i_B)
        top_B, second_B, over_top_B, over_second_B, from_phone_B = (
            rows_TBS5[t, every_B, row_B].long().unbind(-1)
        )
        is_top_B = q_B == top_B
        to_rest_B = torch.where(is_top_B, over_second_B, over_top_B).bool()
        other_B = torch.where(is_top_B, second_B, top_B)
        leaves_rest_B = on_B & resting_B & from_phone_B.bool()
        q_B = torch.where(starts_B, other_B, torch.where(leaves_rest_B, top_B, q_B))
        i_B = row_B
        resting_B = torch.where(starts_B, to_rest_B, resting_B & ~leaves_rest_B)
    return score_B, trailing_B, trace_TB5


def _paths(
    batch: Batch, score_B: torch.Tensor, trailing_B: torch.Tensor, trace_TB5: torch.Tensor
) -> list[Path | None]:
    scores, trailing = score_B.tolist(), trailing_B.tolist()
    trace = trace_TB5.cpu().numpy()
    paths: list[Path | None] = []
    for b, frames in enumerate(batch.frames.tolist()):
        if scores[b] < NO_PATH:
            paths.append(None)
            continue
        phone, starts, kind, position, passed = trace[:frames, b].T
        begins = np.flatnonzero(starts == 1)
        # A phone ends where the next one starts or a blank comes.
        stops = np.append(np.flatnonzero((starts == 1) | (phone < 0)), frames)
        ends = stops[np.searchsorted(stops, begins, side="right")]
        taken = kind[begins] == 1
        paths.append(
            Path(
                tuple(phone[begins].tolist()),
                tuple((1 - taken.astype(int)).tolist()),
                tuple((position[begins] - taken).tolist()),
                tuple(passed[begins].tolist()),
                tuple(begins.tolist()),
                tuple(ends.tolist()),
                int(trailing[b]),
                float(scores[b]),
            )
        )
    return paths


def _tails(batch: Batch) -> torch.Tensor:
    """Log-weight of deleting all phones from a position on; (B, S), impossible in the padding."""
    size, length = batch.dele.shape
    index_L = torch.arange(length, device=batch.dele.device)
    inside_BL = index_L < batch.lengths[:, None]
    dele_BL = torch.where(inside_BL, batch.dele, 0.0)
    sums_BL = dele_BL.flip(1).cumsum(1).flip(1)
    tail_BS = torch.cat([sums_BL, sums_BL.new_zeros(size, 1)], dim=1)
    beyond_BS = torch.arange(length + 1, device=tail_BS.device) > batch.lengths[:, None]
    return torch.where(beyond_BS, IMPOSSIBLE, tail_BS.clamp_min(IMPOSSIBLE))


# All paths --------------------------------------------------------------------------------------


def forward_backward(batch: Batch) -> BatchPosteriors:
    """Return the posteriors of a batch; what `graph.posteriors.forward_backward` finds one by one.

    Parameters
    ----------
    batch
        From `pad`.
    """
    with torch.no_grad():
        return _forward_backward(batch)


def log_likelihood(batch: Batch) -> torch.Tensor:
    """Return the log-likelihood of every utterance, differentiable.

    The gradient with respect to the log-probabilities is the occupancy, and with respect to the
    log-weights it is their posteriors. Second derivatives are not available.

    Parameters
    ----------
    batch
        A `Batch`, whose tensors may require gradients.

    Returns
    -------
    torch.Tensor
        (B,) in the dtype of the batch.
    """
    return _LogLikelihood.apply(
        batch.logprobs, batch.sub, batch.dele, batch.ins, batch.frames, batch.lengths, batch.blank
    )


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logprobs: torch.Tensor,
        sub: torch.Tensor,
        dele: torch.Tensor,
        ins: torch.Tensor,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        blank: int,
    ) -> torch.Tensor:
        found = _forward_backward(Batch(logprobs, frames, sub, dele, ins, lengths, blank))
        ctx.save_for_backward(found.occupancy, found.sub, found.dele, found.ins)
        return found.log_likelihood

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_B: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        occupancy, sub, dele, ins = ctx.saved_tensors
        wide = grad_B[:, None, None]
        return occupancy * wide, sub * wide, dele * grad_B[:, None], ins * wide, None, None, None


def _all_but_each(values_BSC: torch.Tensor) -> torch.Tensor:
    """Log-sum-exp over the last axis without each entry; see `graph.posteriors`."""
    value_BS, top_BS = values_BSC.max(-1, keepdim=True)
    terms_BSC = (values_BSC - value_BS).exp()
    rest_BSC = terms_BSC.sum(-1, keepdim=True) - terms_BSC
    # In the column of the largest term the difference may be 0; it is replaced below.
    out_BSC = value_BS + rest_BSC.clamp_min(torch.finfo(values_BSC.dtype).tiny).log()
    others_BSC = values_BSC.scatter(-1, top_BS, 2 * IMPOSSIBLE)
    return out_BSC.scatter(-1, top_BS, others_BSC.logsumexp(-1, keepdim=True))


def _scan(values_BSC: torch.Tensor, spans: list[torch.Tensor], direction: int) -> torch.Tensor:
    """Let paths pass over any number of canonical phones, each way once (doubling scan)."""
    for k, span_BS in enumerate(spans):
        moved_BSC = _shift(values_BSC, direction * 2**k)
        values_BSC = torch.logaddexp(values_BSC, moved_BSC + span_BS[..., None])
    return values_BSC


def _forward_backward(batch: Batch) -> BatchPosteriors:
    logprobs_BTC, frames_B, blank = batch.logprobs, batch.frames, batch.blank
    time = logprobs_BTC.shape[1]
    positions = batch.ins.shape[1]
    take_BSC = torch.cat([torch.full_like(batch.ins[:, :1], IMPOSSIBLE), batch.sub], dim=1)
    # spans[k][i]: deleting the 2^k phones before position i; mirrored for the way back.
    ahead: list[torch.Tensor] = []
    span_BS = torch.cat([torch.full_like(batch.ins[:, :1, 0], IMPOSSIBLE), batch.dele], dim=1)
    while 2 ** len(ahead) < positions:
        ahead.append(span_BS)
        width = 2 ** (len(ahead) - 1)
        span_BS = (span_BS + _shift(span_BS, width)).clamp_min(IMPOSSIBLE)
    back = [_shift(span, -(2**k)) for k, span in enumerate(ahead)]

    phone_BSC = torch.full_like(batch.ins, IMPOSSIBLE)
    rest_BS = torch.full_like(phone_BSC[..., 0], IMPOSSIBLE)
    rest_BS[:, 0] = 0.0
    phones, rests, begins = [phone_BSC], [rest_BS], []
    for t in range(time):
        enter_BSC = torch.logaddexp(rest_BS[..., None], _all_but_each(phone_BSC))
        begin_BSC = _scan(enter_BSC, ahead, 1)
        new_BSC = torch.logaddexp(phone_BSC, begin_BSC + batch.ins)
        new_BSC = torch.logaddexp(new_BSC, _shift(begin_BSC, 1) + take_BSC)
        new_rest_BS = torch.logaddexp(rest_BS, phone_BSC.logsumexp(-1))
        frame_BC = logprobs_BTC[:, t]
        on_B = t < frames_B
        phone_BSC = torch.where(on_B[:, None, None], new_BSC + frame_BC[:, None], phone_BSC)
        rest_BS = torch.where(on_B[:, None], new_rest_BS + frame_BC[:, blank, None], rest_BS)
        begins.append(begin_BSC)
        phones.append(phone_BSC)
        rests.append(rest_BS)

    tail_BS = _tails(batch)
    end_BS = torch.logaddexp(rest_BS, phone_BSC.logsumexp(-1)) + tail_BS
    total_B = end_BS.logsumexp(-1)
    alive_B = total_B > NO_PATH

    def probability(values: torch.Tensor, on_B: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (values.ndim - 1))
        on = (on_B & alive_B).view(shape)
        return torch.where(on, (values - total_B.view(shape)).exp(), 0.0)

    sub_BSC, ins_BSC = torch.zeros_like(batch.ins), torch.zeros_like(batch.ins)
    everywhere_B = torch.ones_like(alive_B)
    inside_BL = torch.arange(positions - 1, device=total_B.device) < batch.lengths[:, None]
    dele_BL = probability(end_BS, everywhere_B).cumsum(1)[:, :-1] * inside_BL
    occupancy_BTC = torch.zeros_like(logprobs_BTC)
    later_BSC = tail_BS[..., None].expand_as(batch.ins)
    later_rest_BS = tail_BS
    for t in range(time - 1, -1, -1):
        on_B = t < frames_B
        occupied_BC = probability(phones[t + 1] + later_BSC, on_B).sum(1)
        occupied_BC[:, blank] = probability(rests[t + 1] + later_rest_BS, on_B).sum(1)
        occupancy_BTC[:, t] = occupied_BC
        frame_BC, begin_BSC = logprobs_BTC[:, t], begins[t]
        stay_BSC = frame_BC[:, None] + later_BSC
        took_BSC, added_BSC = take_BSC + stay_BSC, batch.ins + stay_BSC
        sub_BSC += probability(_shift(begin_BSC, 1) + took_BSC, on_B)
        ins_BSC += probability(begin_BSC + added_BSC, on_B)
        ahead_BSC = _scan(torch.logaddexp(added_BSC, _shift(took_BSC, -1)), back, -1)
        dropped_BLC = begin_BSC[:, :-1] + batch.dele[..., None] + ahead_BSC[:, 1:]
        dele_BL += probability(dropped_BLC, on_B).sum(-1)
        blank_BS = frame_BC[:, blank, None] + later_rest_BS
        before_BSC = torch.logaddexp(stay_BSC, blank_BS[..., None])
        before_BSC = torch.logaddexp(before_BSC, _all_but_each(ahead_BSC))
        before_rest_BS = torch.logaddexp(blank_BS, ahead_BSC.logsumexp(-1))
        later_BSC = torch.where(on_B[:, None, None], before_BSC, later_BSC)
        later_rest_BS = torch.where(on_B[:, None], before_rest_BS, later_rest_BS)
    return BatchPosteriors(sub_BSC[:, 1:], dele_BL, ins_BSC, occupancy_BTC, total_B)
