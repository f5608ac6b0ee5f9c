"""What was heard: phones with times, confidences, edits and the reason for the path taken.

Plain frozen data without tensors, which can be pickled and written as JSON. How it came about is
not its concern; `modicum.huper.formats` writes it for other programs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.huper.edits import DEL, KEEP, EditProgram, encode
from modicum.huper.phones import TIMIT61, arpabet_to_ipa

if TYPE_CHECKING:
    from modicum.huper.graph.viterbi import Alignment
    from modicum.huper.phones import PhoneSet

__all__ = ["Edit", "Hypothesis", "Span", "TimedWord", "Transcript", "to_ipa"]

_OPS = ("keep", "sub", "del", "ins", "rep")


@dataclass(frozen=True)
class Span:
    """A stretch of time.

    Attributes
    ----------
    start, end
        Seconds from the beginning of the recording.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end < math.inf:
            raise ValueError(f"a span needs 0 <= start <= end, got {self.start} and {self.end}")
        # Numbers of arrays would be written by their types' names.
        object.__setattr__(self, "start", float(self.start))
        object.__setattr__(self, "end", float(self.end))


@dataclass(frozen=True)
class Edit:
    """One step from the canonical phones to the said ones.

    Attributes
    ----------
    op
        ``"keep"``, ``"sub"``, ``"del"``, ``"ins"`` or ``"rep"`` (a canonical phone said again).
    index
        Which canonical phone; for an insertion the slot, which stands before that phone.
    canonical
        The canonical phone, None for an insertion.
    phone
        The phone that was said, None for a deletion.
    span
        When, None for a deletion.
    """

    op: str
    index: int
    canonical: str | None
    phone: str | None
    span: Span | None

    def __post_init__(self) -> None:
        if self.op not in _OPS:
            raise ValueError(f"an edit is one of {', '.join(_OPS)}, got {self.op!r}")


@dataclass(frozen=True)
class TimedWord:
    """A word with the phones that it should have and has.

    Attributes
    ----------
    text
        Its spelling.
    canonical
        Its phones in the dictionary.
    phones
        Those that were said.
    span
        When; None if nothing of it was said.
    """

    text: str
    canonical: tuple[str, ...]
    phones: tuple[str, ...]
    span: Span | None


@dataclass(frozen=True)
class Hypothesis:
    """What another path would have answered.

    Attributes
    ----------
    path
        ``"bottom-up"``, ``"hypothesis"`` or ``"reference"``.
    phones
        Its phones.
    score
        Log-probability of its best CTC path, plus λ times the log-weight of the edits where there
        are any; scores of different paths are not on one scale.
    confidence
        Mean of the phones' confidences; None without phones.
    """

    path: str
    phones: tuple[str, ...]
    score: float
    confidence: float | None


@dataclass(frozen=True)
class Transcript:
    """The answer for one recording.

    Attributes
    ----------
    phones
        The M phones that were said.
    spans
        When, for each.
    confidences
        Mean probability of the phone over its frames, for each.
    ipa
        The IPA segments of the phones: a diphthong is two.
    edits
        How the phones differ from the canonical ones, from left to right; empty without canonical
        phones.
    canonical
        The L canonical phones; None if no text and no hypothesis was used.
    words
        Words with their times, where words are known.
    score
        Log-probability of the best CTC path, plus λ times the log-weight of the edits if any.
    hypotheses
        What the other paths would have answered, if they were asked for.
    trace
        The path taken and why: ``path``, ``s``, ``evidence_ratio``, ``tau``, ``lam``, ``reason``
        and scores of the rejected paths, as far as they are known. Values are JSON's.

    Raises
    ------
    ValueError
        If there are not as many spans and confidences as phones, or a confidence is not finite.
    TypeError
        If phones are one string: its characters are no phones.
    """

    phones: tuple[str, ...]
    spans: tuple[Span, ...]
    confidences: tuple[float, ...]
    ipa: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    canonical: tuple[str, ...] | None = None
    words: tuple[TimedWord, ...] = ()
    score: float | None = None
    hypotheses: tuple[Hypothesis, ...] = ()
    trace: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("phones", "spans", "confidences", "ipa", "edits", "words", "hypotheses"):
            object.__setattr__(self, name, _tuple(getattr(self, name), name))
        if self.canonical is not None:
            object.__setattr__(self, "canonical", _tuple(self.canonical, "canonical"))
        object.__setattr__(self, "confidences", tuple(map(float, self.confidences)))
        if not all(map(math.isfinite, self.confidences)):
            raise ValueError(f"confidences must be finite, got {self.confidences}")
        if not len(self.phones) == len(self.spans) == len(self.confidences):
            raise ValueError(
                f"{len(self.phones)} phones need as many spans and confidences, "
                f"got {len(self.spans)} and {len(self.confidences)}"
            )

    @property
    def confidence(self) -> float | None:
        """Mean of the phones' confidences; None without phones."""
        return sum(self.confidences) / len(self.confidences) if self.confidences else None

    @property
    def program(self) -> EditProgram | None:
        """The edits as a program that rebuilds the phones; None without canonical phones.

        What was said again counts as inserted. Where there are no edits, the program is that of a
        shortest edit path.
        """
        if self.canonical is None:
            return None
        if not self.edits:
            return encode(self.canonical, self.phones, max_ins=None)
        ops = [KEEP] * len(self.canonical)
        slots: list[list[str]] = [[] for _ in range(len(self.canonical) + 1)]
        behind = 0
        for edit in self.edits:
            if edit.op in ("keep", "sub", "del") and edit.index == behind:
                if edit.phone is None:
                    ops[behind] = DEL
                elif edit.phone != edit.canonical:
                    ops[behind] = f"SUB:{edit.phone}"
                behind += 1
            elif edit.phone is not None:
                slots[behind].append(edit.phone)
        return EditProgram(self.canonical, tuple(ops), tuple(map(tuple, slots)))

    @classmethod
    def from_alignment(
        cls,
        alignment: Alignment,
        confidences: Sequence[float],
        *,
        phones: PhoneSet | None = None,
        words: Sequence[TimedWord] = (),
        hypotheses: Sequence[Hypothesis] = (),
        trace: Mapping[str, Any] | None = None,
    ) -> Transcript:
        """Make a transcript of what the decoder gives.

        Parameters
        ----------
        alignment
            Of `graph.fused_decode` on `Emissions`, so that its frame shift is known.
        confidences
            One per phone.
        phones
            The phone set; None takes the symbols as they are.
        words, hypotheses, trace
            As for the class.

        Raises
        ------
        ValueError
            If the frame shift is not known, or numbers do not fit.
        """
        if alignment.frame_shift is None:
            raise ValueError("the alignment has no frame shift: decode an Emissions")
        shift = alignment.frame_shift

        def span(frames: tuple[int, int] | None) -> Span | None:
            return None if frames is None else Span(frames[0] * shift, frames[1] * shift)

        return cls(
            phones=alignment.phones,
            spans=tuple(Span(start, end) for start, end in alignment.seconds()),
            confidences=tuple(map(float, confidences)),
            ipa=to_ipa(alignment.phones, phones),
            edits=tuple(
                Edit(one.op, one.index, one.canonical, one.phone, span(one.span))
                for one in alignment.edits
            ),
            canonical=alignment.canonical,
            words=tuple(words),
            score=float(alignment.score),
            hypotheses=tuple(hypotheses),
            trace={} if trace is None else trace,
        )

    # Files --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        return {
            "phones": list(self.phones),
            "spans": [[one.start, one.end] for one in self.spans],
            "confidences": list(self.confidences),
            "ipa": list(self.ipa),
            "edits": [
                {
                    "op": one.op,
                    "index": one.index,
                    "canonical": one.canonical,
                    "phone": one.phone,
                    "span": _pair(one.span),
                }
                for one in self.edits
            ],
            "canonical": None if self.canonical is None else list(self.canonical),
            "words": [
                {
                    "text": one.text,
                    "canonical": list(one.canonical),
                    "phones": list(one.phones),
                    "span": _pair(one.span),
                }
                for one in self.words
            ],
            "score": _finite(self.score),
            "hypotheses": [
                {
                    "path": one.path,
                    "phones": list(one.phones),
                    "score": _finite(one.score),
                    "confidence": one.confidence,
                }
                for one in self.hypotheses
            ],
            "trace": _finite(dict(self.trace)),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Transcript:
        """Read what `to_dict` gave.

        Raises
        ------
        ValueError
            If a part is missing.
        """
        try:
            canonical = data["canonical"]
            return cls(
                phones=data["phones"],
                spans=tuple(Span(*one) for one in data["spans"]),
                confidences=data["confidences"],
                ipa=data["ipa"],
                edits=tuple(
                    Edit(
                        one["op"],
                        one["index"],
                        one["canonical"],
                        one["phone"],
                        _span(one["span"]),
                    )
                    for one in data["edits"]
                ),
                canonical=canonical,
                words=tuple(
                    TimedWord(
                        one["text"],
                        _tuple(one["canonical"], "canonical"),
                        _tuple(one["phones"], "phones"),
                        _span(one["span"]),
                    )
                    for one in data["words"]
                ),
                score=_number(data["score"]),
                hypotheses=tuple(
                    Hypothesis(
                        one["path"],
                        _tuple(one["phones"], "phones"),
                        _number(one["score"]),
                        one["confidence"],
                    )
                    for one in data["hypotheses"]
                ),
                trace=_number(data["trace"]),
            )
        except KeyError as error:
            raise ValueError(f"a transcript needs the field {error}") from None

    def to_json(self, indent: int | None = None) -> str:
        """Return JSON; infinite scores are the strings ``"-inf"`` and ``"inf"``."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Transcript:
        """Read what `to_json` gave."""
        return cls.from_dict(json.loads(text))

    def to_textgrid(self, duration: float | None = None) -> str:
        """Return a TextGrid, the format of Praat; see `formats.textgrid`."""
        from modicum.huper.formats import textgrid

        return textgrid(self, duration)

    def to_ctm(self, recording: str, channel: str = "1", *, level: str = "phones") -> str:
        """Return lines of NIST's CTM; see `formats.ctm`."""
        from modicum.huper.formats import ctm

        return ctm(self, recording, channel, level=level)


def to_ipa(symbols: Sequence[str], phones: PhoneSet | None = None) -> tuple[str, ...]:
    """Write phones in IPA.

    Parameters
    ----------
    symbols
        Phones: ARPAbet is translated, with a phone set TIMIT's symbols too, all else is taken to be
        IPA.
    phones
        The phone set that they are of; None decides by the symbols themselves.

    Returns
    -------
    tuple of str
        Segments; a diphthong is two.
    """
    if phones is None:
        is_arpabet = all(symbol.isascii() and symbol.isupper() for symbol in symbols)
    else:
        # TIMIT spells in small letters; single ones alone might be IPA as well.
        names = set(phones.phones)
        is_timit = names <= set(TIMIT61) and any(len(name) > 1 for name in names)
        is_arpabet = is_timit or all(name.isascii() and name.isupper() for name in names)
    return arpabet_to_ipa(symbols) if is_arpabet else tuple(symbols)


def _tuple(values: Sequence[Any], what: str) -> tuple[Any, ...]:
    if isinstance(values, str):
        raise TypeError(f"{what} are a sequence of strings, not the string {values!r}")
    return tuple(values)


def _pair(span: Span | None) -> list[float] | None:
    return None if span is None else [span.start, span.end]


def _span(pair: Sequence[float] | None) -> Span | None:
    return None if pair is None else Span(*pair)


_INFINITE = {"inf": math.inf, "-inf": -math.inf}


def _finite(value: Any) -> Any:
    """Write what JSON has no number for as a string, and NaN as nothing."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _number(value: Any) -> Any:
    """Undo `_finite`."""
    if isinstance(value, Mapping):
        return {name: _number(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_number(one) for one in value]
    return _INFINITE.get(value, value) if isinstance(value, str) else value
