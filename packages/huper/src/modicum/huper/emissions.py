"""Emissions: what a recognizer believes about every frame, as log-probabilities.

Holds a padded batch with its lengths, frame rate and phone set, checks it once at the door and
reads off the bottom-up answer. It runs no model and knows no reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from modicum.huper.phones import PhoneSet

__all__ = ["Emissions", "check_rows", "collapse"]

_ROW_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Emissions:
    """A batch of log-probabilities over phones and the CTC blank.

    Shape suffixes: B utterances, T frames, C classes.

    Parameters
    ----------
    logprobs
        (B, T, C) log-probabilities, or (T, C) for one utterance; half precision is upcast to
        float32. Rows beyond an utterance's length are padding and not looked at.
    lengths
        (B,) int64 number of valid frames.
    frame_shift
        Seconds from one frame to the next.
    phones
        The phone set whose ids are the columns.
    blank
        Column of the CTC blank; it must be the phone set's.

    Raises
    ------
    ValueError
        If shapes do not fit, a valid row is not a log-probability (its probabilities must sum to 1
        within 1e-3), or the blank differs from the phone set's.
    """

    logprobs: torch.Tensor
    lengths: torch.Tensor
    frame_shift: float
    phones: PhoneSet
    blank: int = 0

    def __post_init__(self) -> None:
        logprobs_BTC = torch.as_tensor(self.logprobs)
        if logprobs_BTC.ndim == 2:
            logprobs_BTC = logprobs_BTC[None]
        if logprobs_BTC.ndim != 3:
            raise ValueError(
                "emissions have the shape (B, T, C), or (T, C) for one utterance, "
                f"got {tuple(logprobs_BTC.shape)}"
            )
        logprobs_BTC = logprobs_BTC.float()
        batch, frames, classes = logprobs_BTC.shape
        if classes != len(self.phones):
            raise ValueError(
                f"the emissions have {classes} columns and the phone set has {len(self.phones)} ids"
            )
        if self.blank != self.phones.blank:
            raise ValueError(
                f"blank is {self.blank} here and {self.phones.blank} in the phone set; "
                "the two must agree (for transformers it is the tokenizer's pad_token_id)"
            )
        lengths_B = torch.as_tensor(self.lengths, dtype=torch.int64).reshape(-1).cpu()
        if len(lengths_B) != batch:
            raise ValueError(f"{batch} utterances need {batch} lengths, got {len(lengths_B)}")
        if batch and not (0 <= int(lengths_B.min()) and int(lengths_B.max()) <= frames):
            raise ValueError(f"lengths must be in [0, {frames}], got {lengths_B.tolist()}")
        if not self.frame_shift > 0:
            raise ValueError(f"frame_shift must be positive seconds, got {self.frame_shift}")
        valid_BT = torch.arange(frames)[None] < lengths_B[:, None]
        check_rows(logprobs_BTC.detach()[valid_BT.to(logprobs_BTC.device)])
        object.__setattr__(self, "logprobs", logprobs_BTC)
        object.__setattr__(self, "lengths", lengths_B)
        object.__setattr__(self, "frame_shift", float(self.frame_shift))

    @classmethod
    def log_softmax(
        cls,
        logits: torch.Tensor | np.ndarray,
        lengths: torch.Tensor | np.ndarray | list[int] | None,
        frame_shift: float,
        phones: PhoneSet,
    ) -> Emissions:
        """Make emissions of raw scores.

        Parameters
        ----------
        logits
            (B, T, C) or (T, C) scores of any floating dtype; normalised in float32.
        lengths
            (B,) valid frames; None when nothing is padded.
        frame_shift, phones
            As for the class; the blank is the phone set's.
        """
        logits_BTC = torch.as_tensor(logits).float()
        if logits_BTC.ndim == 2:
            logits_BTC = logits_BTC[None]
        if lengths is None:
            lengths = torch.full((len(logits_BTC),), logits_BTC.shape[1], dtype=torch.int64)
        return cls(
            logits_BTC.log_softmax(-1),
            torch.as_tensor(lengths),
            frame_shift,
            phones,
            phones.blank,
        )

    def __len__(self) -> int:
        return len(self.logprobs)

    def utterance(self, b: int) -> np.ndarray:
        """Return one utterance without its padding: (T_b, C) float32, on the CPU."""
        return self.logprobs[b, : int(self.lengths[b])].detach().cpu().numpy()

    def greedy(
        self,
    ) -> list[tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[float, ...]]]:
        """Read off the most probable class of every frame and collapse it.

        Returns
        -------
        list of (ids, spans, confidences)
            Per utterance: the phone ids, without blank and specials; for each its first frame and
            the one after its last (times ``frame_shift`` gives seconds); and the mean probability
            of the phone over these frames.
        """
        specials = {int(self.phones.id(symbol)) for symbol in self.phones.specials}
        return [
            collapse(self.utterance(b), self.blank, specials) for b in range(len(self.logprobs))
        ]

    def to(self, device: str | torch.device) -> Emissions:
        """Return the same emissions with the log-probabilities on a device."""
        return Emissions(
            self.logprobs.to(device), self.lengths, self.frame_shift, self.phones, self.blank
        )


def collapse(
    logprobs_TC: np.ndarray, blank: int, specials: Any = ()
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[float, ...]]:
    """Collapse the best class of every frame: repeats become one phone, the blank vanishes.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities.
    blank
        Column of the blank.
    specials
        Further columns that are no phones; they separate phones as the blank does.

    Returns
    -------
    (ids, spans, confidences)
        As one item of `Emissions.greedy`.
    """
    best_T = np.argmax(logprobs_TC, axis=1) if len(logprobs_TC) else np.zeros(0, np.int64)
    starts = np.flatnonzero(np.diff(best_T, prepend=-1))
    ends = np.append(starts[1:], len(best_T))[: len(starts)]
    silent = {int(blank), *map(int, specials)}
    ids, spans, confidences = [], [], []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        phone = int(best_T[start])
        if phone not in silent:
            ids.append(phone)
            spans.append((start, end))
            confidences.append(float(np.exp(logprobs_TC[start:end, phone]).mean()))
    return tuple(ids), tuple(spans), tuple(confidences)


def check_rows(logprobs_NC: torch.Tensor | np.ndarray) -> None:
    """Refuse rows that are not log-probabilities.

    Raises
    ------
    ValueError
        If a row's probabilities do not sum to 1 within 1e-3, or it holds NaN.
    """
    rows_NC = torch.as_tensor(logprobs_NC)
    if not rows_NC.numel():
        return
    if rows_NC.isnan().any():
        raise ValueError("emissions hold NaN; look at the audio and the model that made them")
    totals_N = rows_NC.float().exp().sum(-1)
    worst = int((totals_N - 1).abs().argmax())
    if not abs(float(totals_N[worst]) - 1) <= _ROW_TOLERANCE:
        raise ValueError(
            f"emissions must be log-probabilities: the probabilities of row {worst} sum to "
            f"{float(totals_N[worst]):.6g}, not to 1; use Emissions.log_softmax on raw scores"
        )
