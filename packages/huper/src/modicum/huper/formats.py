"""Transcripts for other programs: Praat's TextGrid, NIST's CTM, tables that ELAN imports.

Takes a `Transcript` and gives text; reads TextGrids of any program back. Text and times only: it
knows no audio and no model.

Praat wants tiers without gaps, and a phone that was not said has no time. It is shown where it is
missing: in the gap between its neighbours, right behind the one before it, 50 ms long or what
there is; where there is no gap it shares the interval of the neighbour.

Sources: "TextGrid file formats" of Praat's manual; NIST's scoring toolkit for CTM; ELAN's manual,
"Importing CSV and tab-delimited text files".
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from modicum.core.experiment import write_atomic
from modicum.huper.transcript import Edit, Span, Transcript

__all__ = [
    "TIERS",
    "Interval",
    "Point",
    "TextGrid",
    "Tier",
    "ctm",
    "elan_csv",
    "parse_textgrid",
    "read_textgrid",
    "textgrid",
]

TIERS = ("words", "canonical", "realized", "edits")
"""Names of the tiers of a transcript."""

_UNSAID_SECONDS = 0.05
"""Most that something without a time gets: enough to be seen, and no claim about a pause."""

_LEAST_SECONDS = 0.002
"""Least that it gets: ELAN counts milliseconds."""

_SAME_SECONDS = 1e-6
"""Times that are nearer are one: sums of frame shifts differ in their last bits."""


@dataclass(frozen=True)
class Interval:
    """A labelled stretch of time, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Point:
    """A labelled moment, in seconds."""

    time: float
    text: str


@dataclass(frozen=True)
class Tier:
    """A row of annotations.

    Attributes
    ----------
    name
        Its name.
    start, end
        Seconds.
    intervals
        Of an interval tier.
    points
        Of a point tier, which has no intervals; None for an interval tier.
    """

    name: str
    start: float
    end: float
    intervals: tuple[Interval, ...] = ()
    points: tuple[Point, ...] | None = None

    @property
    def labelled(self) -> tuple[Interval, ...]:
        """The intervals that have a text."""
        return tuple(one for one in self.intervals if one.text.strip())


@dataclass(frozen=True)
class TextGrid:
    """Annotations of a recording.

    Attributes
    ----------
    start, end
        Seconds.
    tiers
        From top to bottom.
    """

    start: float
    end: float
    tiers: tuple[Tier, ...]

    def __getitem__(self, name: str) -> Tier:
        """Return the first tier of a name.

        Raises
        ------
        KeyError
            If there is none.
        """
        for tier in self.tiers:
            if tier.name == name:
                return tier
        names = ", ".join(repr(tier.name) for tier in self.tiers)
        raise KeyError(f"no tier is called {name!r}; there are: {names or 'none'}")

    def to_text(self, form: str = "long") -> str:
        """Return the text of a file that Praat opens.

        Parameters
        ----------
        form
            ``"long"``, with names for all values, or ``"short"``.

        Raises
        ------
        ValueError
            If the form is neither, or a tier does not cover its time without gaps and overlaps.
        """
        if form not in ("long", "short"):
            raise ValueError(f'form must be "long" or "short", not {form!r}')
        for tier in self.tiers:
            _check_cover(tier)
        return "\n".join(_long(self) if form == "long" else _short(self)) + "\n"

    def save(self, path: str | os.PathLike[str], form: str = "long") -> Path:
        """Write a file in UTF-8, whole or not at all; see `to_text`."""
        return write_atomic(path, self.to_text(form))


def textgrid(transcript: Transcript, duration: float | None = None, *, form: str = "long") -> str:
    """Write a transcript as a TextGrid with the tiers `TIERS`.

    The tier ``edits`` has ``keep``, ``sub V>B``, ``del T``, ``ins AH`` and ``rep K``. Without
    canonical phones the tiers ``canonical`` and ``edits`` are empty.

    Parameters
    ----------
    transcript
        What was heard.
    duration
        Seconds of the recording; None ends with the last phone.
    form
        ``"long"`` or ``"short"``.

    Returns
    -------
    str
        The text of the file, to be stored as UTF-8.

    Raises
    ------
    ValueError
        If the duration is not positive or ends before the last phone, or phones overlap.
    """
    return _grid(transcript, duration).to_text(form)


def ctm(
    transcript: Transcript,
    recording: str,
    channel: str = "1",
    *,
    level: str = "phones",
    offset: float = 0.0,
) -> str:
    """Write a transcript as lines of CTM: recording, channel, start, duration, symbol, confidence.

    Parameters
    ----------
    transcript
        What was heard. Words of which nothing was said have no time and are left out.
    recording, channel
        Names without white space.
    level
        ``"phones"`` or ``"words"``. The confidence of a word is the mean of its phones'; it is left
        out where the words do not have all phones.
    offset
        Seconds to add, for a piece of a longer recording.

    Returns
    -------
    str
        A line for each symbol, times in milliseconds' precision; empty if there is none.

    Raises
    ------
    ValueError
        If the level is neither, or a name or symbol is empty, has white space or would be a
        comment.
    """
    if level not in ("phones", "words"):
        raise ValueError(f'level must be "phones" or "words", not {level!r}')
    head = f"{_field(recording, 'recording')} {_field(channel, 'channel')}"
    if recording.startswith(";;"):
        raise ValueError(f"a recording cannot begin with ;;, which is a comment: {recording!r}")
    rows: list[tuple[str, Span | None, float | None]]
    if level == "phones":
        rows = list(zip(transcript.phones, transcript.spans, transcript.confidences, strict=True))
    else:
        confidences = _word_confidences(transcript)
        rows = [
            (word.text, word.span, one)
            for word, one in zip(transcript.words, confidences, strict=True)
        ]
    lines = []
    for symbol, span, confidence in rows:
        if span is None:
            continue
        # The end is rounded, not the length, so that neighbours stay neighbours.
        start, end = round(span.start + offset, 3), round(span.end + offset, 3)
        tail = "" if confidence is None else f" {confidence:.4f}"
        lines.append(f"{head} {start:.3f} {end - start:.3f} {_field(symbol, 'symbol')}{tail}\n")
    return "".join(lines)


def elan_csv(transcript: Transcript, duration: float | None = None, *, delimiter: str = ",") -> str:
    """Write a transcript as a table for ELAN: File, Import, CSV / Tab-delimited Text file.

    Columns are ``tier``, ``begin``, ``end`` and ``annotation``, times as ``hh:mm:ss.mmm``; the
    first line names them, so the first row of data is 2. Tiers are those of `textgrid`, without
    their empty intervals.

    Parameters
    ----------
    transcript, duration
        As for `textgrid`; a transcript without anything gives the first line only.
    delimiter
        One character. With a tab nothing is ever quoted.

    Raises
    ------
    ValueError
        As `textgrid`, and if the delimiter is not one character.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"the delimiter must be one character and no quote, not {delimiter!r}")
    held = io.StringIO()
    if delimiter == "\t":
        rows = csv.writer(
            held, delimiter=delimiter, quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n"
        )
    else:
        rows = csv.writer(held, delimiter=delimiter, lineterminator="\n")
    rows.writerow(["tier", "begin", "end", "annotation"])
    nothing = duration is None and not transcript.phones and not transcript.edits
    for tier in () if nothing and not transcript.words else _grid(transcript, duration).tiers:
        for one in tier.labelled:
            text = " ".join(one.text.split())
            rows.writerow([tier.name, _clock(one.start), _clock(one.end), text])
    return held.getvalue()


def read_textgrid(path: str | os.PathLike[str], encoding: str | None = None) -> TextGrid:
    """Read a TextGrid file, long or short.

    Parameters
    ----------
    path
        The file.
    encoding
        Python's name of it. None takes the byte order mark's, UTF-8 without one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no TextGrid, is a binary one, or is not text in that encoding; the message names
        the file.
    """
    data = Path(path).read_bytes()
    if data.startswith(b"ooBinaryFile"):
        raise ValueError(f"{path} is a binary TextGrid; save it as a text file in Praat")
    try:
        return parse_textgrid(data.decode(encoding or _encoding(data)))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in {error.encoding}; name its encoding") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_textgrid(text: str) -> TextGrid:
    """Read the text of a TextGrid, long or short.

    As Praat does, it reads strings, flags and numbers that stand alone, in their order, and passes
    over all other words and comments.

    Raises
    ------
    ValueError
        If it is no TextGrid or ends too early.
    """
    tokens = _Tokens(text)
    kind, what = tokens.string(), tokens.string()
    if not kind.startswith("ooTextFile") or what != "TextGrid":
        raise ValueError(f"no TextGrid: the file says that it is {kind!r} with {what!r}")
    start, end = tokens.number(), tokens.number()
    if tokens.flag() != "exists":
        return TextGrid(start, end, ())
    return TextGrid(start, end, tuple(_read_tier(tokens) for _ in range(tokens.count())))


# The layout of a transcript -----------------------------------------------------------------------


def _grid(transcript: Transcript, duration: float | None) -> TextGrid:
    spans = [*transcript.spans, *(one.span for one in transcript.words if one.span)]
    last = max((one.end for one in spans), default=0.0)
    if duration is None:
        if not last:
            raise ValueError("nothing has a time: give the duration of the recording")
        duration = last
    if not 0 < duration < math.inf:
        raise ValueError(f"duration must be positive seconds, not {duration!r}")
    if last > duration + _SAME_SECONDS:
        raise ValueError(f"the duration is {duration} s and the last phone ends at {last} s")
    rows: dict[str, list[tuple[str, Span | None]]] = {
        "words": [(word.text, word.span) for word in transcript.words],
        "canonical": [(edit.canonical or "", edit.span) for edit in transcript.edits],
        "realized": list(zip(transcript.phones, transcript.spans, strict=True)),
        "edits": [(_edit_label(edit), edit.span) for edit in transcript.edits],
    }
    tiers = []
    for name in TIERS:
        joint = "; " if name == "edits" else " "
        intervals = tuple(_laid_out(rows[name], float(duration), joint, name))
        tiers.append(Tier(name, 0.0, float(duration), intervals))
    return TextGrid(0.0, float(duration), tuple(tiers))


def _edit_label(edit: Edit) -> str:
    if edit.op == "keep":
        return "keep"
    if edit.op == "sub":
        return f"sub {edit.canonical}>{edit.phone}"
    return f"{edit.op} {edit.canonical if edit.op == 'del' else edit.phone}"


def _laid_out(
    row: Sequence[tuple[str, Span | None]], duration: float, joint: str, name: str
) -> Iterator[Interval]:
    """Give intervals that cover everything; see the head of this file for what has no time."""
    timed, unsaid = _timed(row, duration, name)
    ends = [0.0, *(end for _, end, _ in timed)]
    starts = [*(start for start, _, _ in timed), duration]
    for place, (at, until) in enumerate(zip(ends, starts, strict=True)):
        labels = unsaid[place]
        if labels and until - at < _LEAST_SECONDS * len(labels) and timed:
            # No gap: they share the interval of the one before them, the first ones of the next.
            neighbour = timed[max(place - 1, 0)][2]
            neighbour[:] = [*labels, *neighbour] if place == 0 else [*neighbour, *labels]
            unsaid[place] = []
    for place, (at, until) in enumerate(zip(ends, starts, strict=True)):
        if place:
            start, end, texts = timed[place - 1]
            yield Interval(start, end, joint.join(filter(None, texts)))
        yield from _filled(unsaid[place], at, until, last=place == 0 and bool(timed))


def _filled(labels: Sequence[str], at: float, until: float, *, last: bool) -> Iterator[Interval]:
    """Fill a gap: with labels at its beginning, or at its end if `last`, and silence."""
    width = min(_UNSAID_SECONDS, (until - at) / max(len(labels), 1))
    fills = width * len(labels) > until - at - _SAME_SECONDS
    start = at if fills or not last else until - width * len(labels)
    edges = [start + width * number for number in range(len(labels) + 1)]
    if labels and (fills or last):
        edges[-1] = until
    if edges[0] > at:
        yield Interval(at, edges[0], "")
    for label, (left, right) in zip(labels, pairwise(edges), strict=True):
        yield Interval(left, right, label)
    if edges[-1] < until:
        yield Interval(edges[-1], until, "")


def _timed(
    row: Sequence[tuple[str, Span | None]], duration: float, name: str
) -> tuple[list[tuple[float, float, list[str]]], list[list[str]]]:
    """Split a row: what has a time, and what has none before each of those and at the end."""
    timed: list[tuple[float, float, list[str]]] = []
    unsaid: list[list[str]] = [[]]
    at = 0.0
    for label, span in row:
        if span is None or span.end - span.start < _SAME_SECONDS:
            unsaid[-1].append(label)
            continue
        start, end = (
            edge if abs(time - edge) < _SAME_SECONDS else time
            for time, edge in ((span.start, at), (span.end, duration))
        )
        if start < at:
            raise ValueError(
                f"{name}: {label!r} starts at {start} s, before {at} s, where one ends"
            )
        timed.append((start, end, [label]))
        unsaid.append([])
        at = end
    return timed, unsaid


def _word_confidences(transcript: Transcript) -> list[float | None]:
    said = tuple(phone for word in transcript.words for phone in word.phones)
    if said != transcript.phones:
        return [None] * len(transcript.words)
    left = iter(transcript.confidences)
    parts = [list(islice(left, len(word.phones))) for word in transcript.words]
    return [sum(part) / len(part) if part else None for part in parts]


def _field(value: str, what: str) -> str:
    if not value or value != "".join(value.split()):
        raise ValueError(f"a {what} in CTM is one word without white space, not {value!r}")
    return value


def _clock(seconds: float) -> str:
    whole = round(seconds * 1000)
    minutes, milliseconds = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


# TextGrids as text --------------------------------------------------------------------------------


def _check_cover(tier: Tier) -> None:
    if tier.points is not None:
        return
    at = tier.start
    for one in tier.intervals:
        if one.start != at or not one.end > at:
            raise ValueError(
                f"tier {tier.name!r}: an interval from {one.start} to {one.end} s cannot follow "
                f"{at} s; intervals have a length and no gaps"
            )
        at = one.end
    if at != tier.end:
        raise ValueError(f"tier {tier.name!r} ends at {tier.end} s, its intervals at {at} s")


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _long(grid: TextGrid) -> Iterator[str]:
    yield 'File type = "ooTextFile"'
    yield 'Object class = "TextGrid"'
    yield ""
    yield f"xmin = {grid.start!r} "
    yield f"xmax = {grid.end!r} "
    yield f"tiers? {'<exists>' if grid.tiers else '<absent>'} "
    if not grid.tiers:
        return
    yield f"size = {len(grid.tiers)} "
    yield "item []: "
    for number, tier in enumerate(grid.tiers, 1):
        is_points = tier.points is not None
        what = "points" if is_points else "intervals"
        yield f"    item [{number}]:"
        yield f'        class = "{"TextTier" if is_points else "IntervalTier"}" '
        yield f"        name = {_quoted(tier.name)} "
        yield f"        xmin = {tier.start!r} "
        yield f"        xmax = {tier.end!r} "
        yield f"        {what}: size = {len(tier.points or tier.intervals)} "
        for place, point in enumerate(tier.points or (), 1):
            yield f"        {what} [{place}]:"
            yield f"            number = {point.time!r} "
            yield f"            mark = {_quoted(point.text)} "
        for place, one in enumerate(tier.intervals, 1):
            yield f"        {what} [{place}]:"
            yield f"            xmin = {one.start!r} "
            yield f"            xmax = {one.end!r} "
            yield f"            text = {_quoted(one.text)} "


def _short(grid: TextGrid) -> Iterator[str]:
    yield from ('File type = "ooTextFile"', 'Object class = "TextGrid"', "")
    yield from (repr(grid.start), repr(grid.end), "<exists>" if grid.tiers else "<absent>")
    if grid.tiers:
        yield str(len(grid.tiers))
    for tier in grid.tiers:
        yield '"IntervalTier"' if tier.points is None else '"TextTier"'
        yield from (_quoted(tier.name), repr(tier.start), repr(tier.end))
        yield str(len(tier.intervals if tier.points is None else tier.points))
        for point in tier.points or ():
            yield from (repr(point.time), _quoted(point.text))
        for one in tier.intervals:
            yield from (repr(one.start), repr(one.end), _quoted(one.text))


_TOKEN = re.compile(
    r"""
    "(?P<string>(?:[^"]|"")*)"                                   # quotes inside are doubled
    | <(?P<flag>[A-Za-z]+)>
    | ![^\n]*                                                    # a comment
    | (?P<word>[^\s"]+)
    """,
    re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?")


class _Tokens:
    """The values of a file, in their order."""

    def __init__(self, text: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.values = self._scan()

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        for found in _TOKEN.finditer(self.text):
            kind = found.lastgroup
            if kind == "word" and not _NUMBER.fullmatch(found["word"]):
                continue
            if kind is not None:
                yield kind, found[kind], found.start()

    def _next(self, wanted: str, name: str) -> str:
        kind, value, at = next(self.values, ("", "", len(self.text)))
        if kind != wanted:
            line = self.text.count("\n", 0, at) + 1
            found = f"there is {value!r}" if kind else "the file ends"
            raise ValueError(f"line {line}: {name} is missing, {found}")
        return value

    def string(self) -> str:
        return self._next("string", "a text in quotes").replace('""', '"')

    def flag(self) -> str:
        return self._next("flag", "<exists> or <absent>")

    def number(self) -> float:
        value = self._next("word", "a number")
        return float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)

    def count(self) -> int:
        value = self.number()
        if value < 0 or value != int(value):
            raise ValueError(f"a number of tiers or annotations must be 0, 1, …, not {value}")
        return int(value)


def _read_tier(tokens: _Tokens) -> Tier:
    kind, name = tokens.string(), tokens.string()
    if kind not in ("IntervalTier", "TextTier"):
        raise ValueError(f"a tier is an IntervalTier or a TextTier, not {kind!r}")
    start, end, size = tokens.number(), tokens.number(), tokens.count()
    if kind == "TextTier":
        points = tuple(Point(tokens.number(), tokens.string()) for _ in range(size))
        return Tier(name, start, end, points=points)
    intervals = (Interval(tokens.number(), tokens.number(), tokens.string()) for _ in range(size))
    return Tier(name, start, end, tuple(intervals))


def _encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Praat writes the mark; others leave it out. The first letter is ASCII in every TextGrid.
    if data[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if data[:1] == b"\0" else "utf-8-sig"
