"""How well was it said: phone by phone, against what native speakers do.

Takes emissions and canonical phones. `align` places the phones by forced alignment, `gop` turns
that into the classical goodness of pronunciation, and `score` asks for more: the probability of
every way to say each phone, with what native speakers do as the prior. A flapped or dropped t then
counts as native, where a threshold on the goodness of pronunciation cannot tell it from an error,
and sounds that were put in between are found, which it cannot express. It trains nothing and
decides nothing about the speaker: it compares a recording with a text.

Shape suffixes: T frames, C symbols, L canonical phones, S = L + 1 slots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchaudio  # type: ignore[import-untyped]

from modicum.huper.emissions import Emissions, check_rows
from modicum.huper.g2p import Word
from modicum.huper.graph.posteriors import Posteriors, forward_backward
from modicum.huper.graph.viterbi import Alignment, fused_decode
from modicum.huper.transcript import Edit, Span, TimedWord, Transcript, to_ipa

if TYPE_CHECKING:
    from modicum.huper.channel import EditChannel, Weights
    from modicum.huper.phones import PhoneSet

__all__ = [
    "InsertionScore",
    "PhoneScore",
    "Pronunciation",
    "WordScore",
    "align",
    "gop",
    "score",
]

_LEAST = 1e-300
"""Probabilities below this count as this, so that log-odds are finite: within ± 691."""

_SHOWN_SUBSTITUTE, _SHOWN_INSERTION = 1e-4, 0.05
"""Probabilities and expected numbers below these are not listed."""


# Forced alignment -------------------------------------------------------------------------------


def align(
    emissions: Emissions | np.ndarray | torch.Tensor,
    canonical: Sequence[Any],
    *,
    phones: PhoneSet | None = None,
    frame_shift: float = 0.02,
) -> Any:
    """Place canonical phones in time, taking for granted that they were said.

    Parameters
    ----------
    emissions
        An `Emissions`, or (T, C) log-probabilities of one utterance.
    canonical
        Phones of one utterance as strings or as `g2p.Word`; a list of such for a batch. Phones are
        written in the inventory of the emissions first.
    phones, frame_shift
        Phone set, and seconds per frame, of emissions that are an array.

    Returns
    -------
    Transcript or list of Transcript
        The canonical phones with ``spans`` in seconds, ``confidences`` (mean probability of the
        phone over its frames), the log-probability of the best path as ``score``, and ``words``
        where words were given. A phone has the frames in which the path holds it, without the
        blanks around them.

    Raises
    ------
    ValueError
        If there are fewer frames than phones and equal neighbours, between which a blank must
        stand; if no path has a probability above 0; if the emissions are no log-probabilities; or
        if a phone is not in the inventory.

    Notes
    -----
    By ``torchaudio.functional.forced_align``.
    """
    posed = _Posed(emissions, canonical, phones, frame_shift)
    found = []
    for logprobs_TC, reference in posed:
        spans, total = _forced(logprobs_TC, reference.ids, posed.phones.blank, posed.frame_shift)
        times = [Span(a * posed.frame_shift, b * posed.frame_shift) for a, b in spans]
        found.append(
            Transcript(
                phones=reference.phones,
                spans=tuple(times),
                confidences=tuple(
                    float(np.exp(logprobs_TC[start:end, phone]).mean())
                    for (start, end), phone in zip(spans, reference.ids, strict=True)
                ),
                ipa=to_ipa(reference.phones, posed.phones),
                edits=tuple(
                    Edit("keep", i, phone, phone, time)
                    for i, (phone, time) in enumerate(zip(reference.phones, times, strict=True))
                ),
                canonical=reference.phones,
                words=tuple(
                    TimedWord(
                        text,
                        reference.phones[start:stop],
                        reference.phones[start:stop],
                        Span(times[start].start, times[stop - 1].end) if stop > start else None,
                    )
                    for text, start, stop in reference.words
                ),
                score=total,
                trace={"path": "forced alignment"},
            )
        )
    return found[0] if posed.single else found


def gop(
    emissions: Emissions | np.ndarray | torch.Tensor,
    canonical: Sequence[Any],
    *,
    phones: PhoneSet | None = None,
    over: str = "all",
) -> Any:
    """Return the goodness of pronunciation of each canonical phone.

    The mean over the phone's frames of its log-probability less that of the best symbol::

        gop_i = mean over t in span i of ( logprobs[t, c_i] − max_q logprobs[t, q] )

    Parameters
    ----------
    emissions, canonical, phones
        As for `align`.
    over
        Symbols q: ``"all"``, or ``"phones"`` to leave out blank and specials.

    Returns
    -------
    np.ndarray or list of np.ndarray
        (L,) float64, in nats per frame; 0 is best and nothing is above it.

    Raises
    ------
    ValueError
        As `align`, or if `over` is neither.

    Notes
    -----
    Witt and Young, "Phone-level pronunciation scoring and assessment for interactive language
    learning" (Speech Communication 30, 2000), with posteriors of a CTC network. Native reductions
    have values like those of errors: a flapped t is as far from a t as a wrong phone is.
    """
    if over not in ("all", "phones"):
        raise ValueError(f'over must be "all" or "phones", not {over!r}')
    posed = _Posed(emissions, canonical, phones, 1.0)
    found = []
    for logprobs_TC, reference in posed:
        spans, _ = _forced(logprobs_TC, reference.ids, posed.phones.blank, None)
        columns_TC = logprobs_TC if over == "all" else logprobs_TC[:, posed.phones.ids]
        best_T = columns_TC.max(1) if len(columns_TC) else np.zeros(0)
        found.append(
            np.array(
                [
                    float((logprobs_TC[start:end, phone] - best_T[start:end]).mean())
                    for (start, end), phone in zip(spans, reference.ids, strict=True)
                ],
                np.float64,
            )
        )
    return found[0] if posed.single else found


def _forced(
    logprobs_TC: np.ndarray, ids: Sequence[int], blank: int, frame_shift: float | None
) -> tuple[list[tuple[int, int]], float]:
    """Give the frames of each phone, and the log-probability of the path."""
    frames = len(logprobs_TC)
    equal = sum(one == two for one, two in pairwise(ids))
    if frames < len(ids) + equal:
        seconds = "" if frame_shift is None else f" ({frames * frame_shift:.2f} s)"
        raise ValueError(
            f"{len(ids)} phones, {equal} of them behind their like, need at least "
            f"{len(ids) + equal} frames and the recording has {frames}{seconds}: is the text that "
            "of the recording?"
        )
    if not len(ids):
        return [], float(logprobs_TC[:, blank].sum())
    paths_1T, _ = torchaudio.functional.forced_align(
        torch.from_numpy(np.ascontiguousarray(logprobs_TC))[None],
        torch.as_tensor([list(ids)], dtype=torch.int64),
        blank=blank,
    )
    path_T = paths_1T[0]
    score_T = torch.from_numpy(logprobs_TC)[torch.arange(frames), path_T.long()]
    total = float(score_T.sum())
    if not math.isfinite(total):
        raise ValueError(
            "no path through the canonical phones has a probability above 0; smooth the emissions"
        )
    # Between equal neighbours the path holds a blank, so that runs are phones.
    runs = torchaudio.functional.merge_tokens(path_T, score_T, blank=blank)
    return [(run.start, run.end) for run in runs], total


# Results ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhoneScore:
    """One canonical phone and how it was said.

    Attributes
    ----------
    index
        Its position among the canonical phones.
    phone
        What the dictionary has.
    keep
        Probability that it was said so.
    deletion
        Probability that it was not said.
    substitutes
        Other phones with the probability that it was said as they are, the likeliest first; those
        below 1e-4 are left out. With `keep` and `deletion` all of them sum to 1.
    native
        Probability that it was said in one of the ways of native speakers.
    native_ways
        These ways: phones, and ``""`` for leaving it out.
    log_odds
        Log of the probability of the best way that is not native over that of the best native
        one; in nats, within ± 691.
    flagged
        Whether the log-odds are above the threshold.
    span
        When, by the best path; None where that leaves the phone out.
    """

    index: int
    phone: str
    keep: float
    deletion: float
    substitutes: tuple[tuple[str, float], ...]
    native: float
    native_ways: tuple[str, ...]
    log_odds: float
    flagged: bool
    span: Span | None = None

    @property
    def said(self) -> str:
        """The likeliest way to have said it; ``""`` for leaving it out."""
        ways = [(self.phone, self.keep), *self.substitutes, ("", self.deletion)]
        return max(ways, key=lambda way: way[1])[0]


@dataclass(frozen=True)
class InsertionScore:
    """A phone that was put in.

    Attributes
    ----------
    slot
        Before which canonical phone; L is the end.
    phone
        What was put in.
    expected
        How often, as an expectation: nearly the probability.
    is_native
        Whether native speakers put it in as often as `native_share` says.
    log_odds
        Log of ``expected / (1 − expected)``, in nats, within ± 691.
    flagged
        Whether it is not native and the log-odds are above the threshold.
    span
        When: that of the best path if it has the phone there, else the gap between the phones on
        either side.
    """

    slot: int
    phone: str
    expected: float
    is_native: bool
    log_odds: float
    flagged: bool
    span: Span | None = None


@dataclass(frozen=True)
class WordScore:
    """A word.

    Attributes
    ----------
    text
        Its spelling.
    start, stop
        Its first canonical phone, and the one after its last.
    score
        Expected share of native phones: the sum of their `native` over the number of phones and of
        expected insertions that are not native. None for a word without phones. Insertions at the
        end of a word count for it, those before the first word for the first.
    flagged
        Whether a phone or an insertion of it is flagged.
    """

    text: str
    start: int
    stop: int
    score: float | None
    flagged: bool


@dataclass(frozen=True)
class Pronunciation:
    """The answer of `score` for one utterance.

    Attributes
    ----------
    phones
        One entry for each canonical phone.
    insertions
        What was put in, as far as its expected number is at least 0.05.
    words
        Words, where words are known.
    score
        Of the utterance, as that of a word; None without canonical phones.
    log_likelihood
        Of the frames under all ways to say the canonical phones.
    theta, native_share, lam
        As they were asked for.
    """

    phones: tuple[PhoneScore, ...]
    insertions: tuple[InsertionScore, ...]
    words: tuple[WordScore, ...]
    score: float | None
    log_likelihood: float
    theta: float
    native_share: float
    lam: float

    @property
    def flags(self) -> tuple[PhoneScore | InsertionScore, ...]:
        """All that is flagged, from left to right."""
        marked: list[tuple[int, int, PhoneScore | InsertionScore]] = [
            (one.index, 1, one) for one in self.phones if one.flagged
        ]
        marked += [(one.slot, 0, one) for one in self.insertions if one.flagged]
        return tuple(one for _, _, one in sorted(marked, key=lambda item: item[:2]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for one in (*content["phones"], *content["insertions"]):
            if one["span"] is not None:
                one["span"] = [one["span"]["start"], one["span"]["end"]]
        return content

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pronunciation:
        """Read what `to_dict` gave.

        Raises
        ------
        ValueError
            If a part is missing.
        """

        def spanned(row: Mapping[str, Any]) -> dict[str, Any]:
            return {**row, "span": None if row["span"] is None else Span(*row["span"])}

        try:
            phones = tuple(
                PhoneScore(
                    **{
                        **spanned(row),
                        "substitutes": tuple((name, share) for name, share in row["substitutes"]),
                        "native_ways": tuple(row["native_ways"]),
                    }
                )
                for row in data["phones"]
            )
            return cls(
                phones,
                tuple(InsertionScore(**spanned(row)) for row in data["insertions"]),
                tuple(WordScore(**row) for row in data["words"]),
                data["score"],
                data["log_likelihood"],
                data["theta"],
                data["native_share"],
                data["lam"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no pronunciation: {error}") from None

    def to_json(self, indent: int | None = None) -> str:
        """Return JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Pronunciation:
        """Read what `to_json` gave."""
        return cls.from_dict(json.loads(text))

    def table(self) -> str:
        """Return lines to read: what was to be said, what was said, and how native that is."""
        rows = [("word", "phone", "said", "native", "log-odds", "seconds", "")]
        word_of = {at: word.text for word in self.words for at in range(word.start, word.stop)}
        inserted: dict[int, list[InsertionScore]] = {}
        for put in self.insertions:
            inserted.setdefault(put.slot, []).append(put)
        for at in range(len(self.phones) + 1):
            for put in inserted.get(at, []):
                rows.append(("", "+", put.phone, "", *_cells(put)))
            if at < len(self.phones):
                one = self.phones[at]
                said = one.said or "∅"
                rows.append(
                    (word_of.get(at, ""), one.phone, said, f"{one.native:.3f}", *_cells(one))
                )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        total = "" if self.score is None else f"{self.score:.3f}"
        words = ", ".join(
            f"{one.text} {'–' if one.score is None else f'{one.score:.3f}'}" for one in self.words
        )
        return "\n".join([*lines, f"score {total}{' · ' if words else ''}{words}"])

    def __str__(self) -> str:
        return self.table()


def _cells(one: PhoneScore | InsertionScore) -> tuple[str, str, str]:
    when = "" if one.span is None else f"{one.span.start:.2f}–{one.span.end:.2f}"
    return f"{one.log_odds:+.1f}", when, "← flagged" if one.flagged else ""


# Posteriors -------------------------------------------------------------------------------------


def score(
    source: Any,
    audio: Any = None,
    text: str | Sequence[str] | None = None,
    *,
    sampling_rate: int | None = None,
    canonical: Sequence[Any] | None = None,
    channel: EditChannel | None = None,
    g2p: Any = None,
    lam: float = 1.0,
    theta: float = 0.0,
    native_share: float = 0.05,
) -> Any:
    """Say how each phone of a text was said, and what of it native speakers do not do.

    Forward and backward over every CTC path and every way to edit the canonical phones give the
    probability of each way, with the channel as the prior. What native speakers do is what the
    channel gives a probability of at least `native_share`, and what the dictionary says. A phone is
    flagged when the best other way is likelier than the best native one by more than `theta` nats.

    Parameters
    ----------
    source
        What listens: a system with a ``recognizer`` (its ``channel`` and ``g2p`` are taken where
        none are given), a `Recognizer` or anything with ``emissions(audio, sampling_rate)``; or
        `Emissions`, and then there is no audio.
    audio, sampling_rate
        One recording or a list of them, as for `Recognizer.emissions`.
    text
        What should be said, one for each recording; needs a g2p. Its first pronunciations count.
    canonical
        Instead of the text: phones as strings, or `g2p.Word`; a list of such for a batch.
    channel
        Counted on native speakers: `EditChannel.fit` on pairs of dictionary and realized phones.
        With ``context="lr"`` it knows where they flap, but holds ways that were never seen for the
        less likely the more often the context was, so that one `theta` suits contexts unequally.
    g2p
        What turns text into words.
    lam
        λ, the weight of the prior against the frames.
    theta
        Threshold of the log-odds, in nats. The prior is that of native speakers, so that 0 flags
        only what the frames say clearly; learners are caught earlier below 0.
    native_share
        Least probability under the channel of what counts as native.

    Returns
    -------
    Pronunciation or list of Pronunciation
        One for one text, a list for a list.

    Raises
    ------
    ValueError
        If there is no channel, no g2p for a text, both or neither of text and canonical phones,
        numbers do not fit, a phone is not in the inventory, a number is out of range, or as
        `Recognizer.emissions`.
    TypeError
        If the source cannot listen.

    Notes
    -----
    It measures the distance to the channel's speakers as the recognizer hears it: no more than that
    is meant by native. Values depend on the recognizer; set `theta` on labelled recordings.
    """
    if not math.isfinite(theta):
        raise ValueError(f"theta must be finite, not {theta!r}")
    if not 0 < native_share < 1:
        raise ValueError(f"native_share must be between 0 and 1, not {native_share!r}")
    if not 0 <= lam < math.inf:
        raise ValueError(f"lam must be finite and at least 0, not {lam!r}")
    channel = getattr(source, "channel", None) if channel is None else channel
    if channel is None:
        raise ValueError(
            "there is no channel to say what is native: give channel=EditChannel.fit(pairs of "
            "canonical and realized phones of native speakers)"
        )
    wanted = _wanted(text, canonical, getattr(source, "g2p", None) if g2p is None else g2p)
    posed = _Posed(_emissions(source, audio, sampling_rate), wanted, None, 1.0)
    if channel.phones.symbols != posed.phones.symbols:
        raise ValueError(
            f"the channel was made for {len(channel.phones)} ids and the emissions have "
            f"{len(posed.phones)}, or in another order; fit it with the recognizer's phones"
        )
    found = []
    for logprobs_TC, reference in posed:
        weights = channel.weights(np.array(reference.ids, np.int64))
        post = forward_backward(logprobs_TC, weights, posed.phones.blank, lam)
        best = fused_decode(
            logprobs_TC, reference.ids, weights, lam, phones=posed.phones, blank=posed.phones.blank
        )
        found.append(_judged(post, weights, best, reference, posed, theta, native_share, lam))
    return found[0] if posed.single else found


def _wanted(text: Any, canonical: Any, g2p: Any) -> Sequence[Any]:
    if (text is None) == (canonical is None):
        raise ValueError("give the text, or the canonical phones, and not both")
    if text is None:
        return canonical  # type: ignore[no-any-return]
    if g2p is None:
        raise ValueError("a text needs a g2p, such as g2p=Espeak(); or give canonical phones")
    return g2p(text) if isinstance(text, str) else [g2p(one) for one in text]


def _emissions(source: Any, audio: Any, sampling_rate: int | None) -> Emissions:
    if isinstance(source, Emissions):
        if audio is not None:
            raise ValueError("emissions are given, so that there is no audio to listen to")
        return source
    listener = getattr(source, "recognizer", source)
    if not hasattr(listener, "emissions"):
        raise TypeError(
            f"what listens is a Recognizer, a system with one, or Emissions, not "
            f"{type(source).__name__}"
        )
    if audio is None:
        raise ValueError("there is no audio to listen to")
    found: Emissions = listener.emissions(audio, sampling_rate)
    return found


def _judged(
    post: Posteriors,
    weights: Weights,
    best: Alignment,
    reference: _Reference,
    posed: _Posed,
    theta: float,
    native_share: float,
    lam: float,
) -> Pronunciation:
    shift, symbols = posed.frame_shift, posed.phones.symbols
    times, put_in = _times(best, shift)
    prior_LX = np.exp(np.concatenate([weights.sub, weights.dele[:, None]], axis=1))
    post_LX = np.concatenate([post.sub, post.dele[:, None]], axis=1)
    native_LX = prior_LX >= native_share
    native_LX[np.arange(len(reference.ids)), list(reference.ids)] = True
    ways = (*symbols, "")
    phones = []
    for i, phone in enumerate(reference.ids):
        log_odds = _log(post_LX[i][~native_LX[i]].max(initial=0.0)) - _log(
            post_LX[i][native_LX[i]].max()
        )
        order = np.argsort(-post.sub[i], kind="stable")
        phones.append(
            PhoneScore(
                index=i,
                phone=symbols[phone],
                keep=float(post.sub[i, phone]),
                deletion=float(post.dele[i]),
                substitutes=tuple(
                    (symbols[q], float(post.sub[i, q]))
                    for q in order.tolist()
                    if q != phone and post.sub[i, q] >= _SHOWN_SUBSTITUTE
                ),
                native=float(post_LX[i][native_LX[i]].sum()),
                native_ways=tuple(ways[q] for q in np.flatnonzero(native_LX[i])),
                log_odds=log_odds,
                flagged=log_odds > theta,
                span=times.get(i),
            )
        )
    is_native_SC = np.exp(weights.ins) >= native_share
    foreign_S = np.where(is_native_SC, 0.0, post.ins).sum(1)
    insertions = []
    for slot, q in np.argwhere(post.ins >= _SHOWN_INSERTION).tolist():
        expected = float(post.ins[slot, q])
        log_odds = _log(min(expected, 1.0)) - _log(max(1.0 - expected, 0.0))
        is_native = bool(is_native_SC[slot, q])
        insertions.append(
            InsertionScore(
                slot,
                symbols[q],
                expected,
                is_native,
                log_odds,
                not is_native and log_odds > theta,
                put_in.get((slot, symbols[q]))
                or _gap(times, slot, len(phones), len(post.occupancy) * shift),
            )
        )
    words = tuple(
        _word(text, start, stop, phones, insertions, foreign_S)
        for text, start, stop in reference.words
    )
    return Pronunciation(
        tuple(phones),
        tuple(insertions),
        words,
        _share(phones, float(foreign_S.sum())),
        post.log_likelihood,
        float(theta),
        float(native_share),
        float(lam),
    )


def _word(
    text: str,
    start: int,
    stop: int,
    phones: Sequence[PhoneScore],
    insertions: Sequence[InsertionScore],
    foreign_S: np.ndarray,
) -> WordScore:
    own = phones[start:stop]
    # Slot i stands before phone i: the slot behind a word's last phone is the word's.
    slots = range(0 if start == 0 else start + 1, stop + 1) if own else range(0)
    flagged = any(one.flagged for one in own) or any(
        one.flagged and one.slot in slots for one in insertions
    )
    return WordScore(text, start, stop, _share(own, float(foreign_S[slots].sum())), flagged)


def _share(phones: Sequence[PhoneScore], foreign: float) -> float | None:
    return sum(one.native for one in phones) / (len(phones) + foreign) if phones else None


def _log(probability: float) -> float:
    return math.log(max(float(probability), _LEAST))


def _times(best: Alignment, shift: float) -> tuple[dict[int, Span], dict[tuple[int, str], Span]]:
    """Give when each phone was said, and each insertion, by the best path."""
    times: dict[int, Span] = {}
    put_in: dict[tuple[int, str], Span] = {}
    if best.reason is not None:
        return times, put_in
    for edit in best.edits:
        if edit.span is None:
            continue
        span = Span(edit.span[0] * shift, edit.span[1] * shift)
        if edit.op == "ins" and edit.phone is not None:
            put_in.setdefault((edit.index, edit.phone), span)
        elif edit.op in ("keep", "sub"):
            times[edit.index] = span
    return times, put_in


def _gap(times: Mapping[int, Span], slot: int, length: int, seconds: float) -> Span:
    """Give the time between the phones around a slot."""
    before = [times[i].end for i in range(slot) if i in times]
    behind = [times[i].start for i in range(slot, length) if i in times]
    start = before[-1] if before else 0.0
    return Span(start, max(start, behind[0] if behind else seconds))


# Arguments --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reference:
    """Canonical phones as names and ids, and which of them are which word's."""

    phones: tuple[str, ...]
    ids: tuple[int, ...]
    words: tuple[tuple[str, int, int], ...]


class _Posed:
    """Emissions and the canonical phones of each, checked."""

    def __init__(
        self,
        emissions: Emissions | np.ndarray | torch.Tensor,
        canonical: Sequence[Any],
        phones: PhoneSet | None,
        frame_shift: float,
    ) -> None:
        if isinstance(emissions, Emissions):
            self.phones, self.frame_shift = emissions.phones, emissions.frame_shift
            self.logprobs = [emissions.utterance(b) for b in range(len(emissions))]
        else:
            array = torch.as_tensor(emissions).detach().cpu()
            if phones is None:
                raise ValueError("log-probabilities as an array need phones=, or be an Emissions")
            if array.ndim != 2 or array.shape[1] != len(phones):
                raise ValueError(
                    f"log-probabilities of one utterance have the shape (T, {len(phones)}), "
                    f"got {tuple(array.shape)}"
                )
            check_rows(array)
            self.phones, self.frame_shift = phones, frame_shift
            self.logprobs = [array.double().numpy()]
        if isinstance(canonical, str):
            raise TypeError(f"phones are a sequence of strings, not the string {canonical!r}")
        flat = all(isinstance(one, str | Word) for one in canonical)
        self.single = flat and len(self.logprobs) == 1
        sequences = [canonical] if self.single else list(canonical)
        if len(sequences) != len(self.logprobs) or (flat and not self.single and sequences):
            raise ValueError(
                f"{len(self.logprobs)} utterances need as many sequences of canonical phones, got "
                f"{'one' if flat else len(sequences)}"
            )
        self.references = [self._reference(one) for one in sequences]

    def __iter__(self) -> Iterator[tuple[np.ndarray, _Reference]]:
        for logprobs_TC, reference in zip(self.logprobs, self.references, strict=True):
            yield np.asarray(logprobs_TC, np.float64), reference

    def _reference(self, sequence: Sequence[Any]) -> _Reference:
        if isinstance(sequence, str):
            raise TypeError(f"phones are a sequence of strings, not the string {sequence!r}")
        names: list[str] = []
        words: list[tuple[str, int, int]] = []
        for item in sequence:
            if isinstance(item, Word):
                found = self.phones.canonicalise(item.phones, word=item.text)
                words.append((item.text, len(names), len(names) + len(found)))
            else:
                found = self.phones.canonicalise([item])
            names += found
        ids = tuple(int(phone) for phone in self.phones.encode(names))
        return _Reference(tuple(names), ids, tuple(words))
