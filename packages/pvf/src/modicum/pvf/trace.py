"""A decoding as a file: what was committed in which call, why, and what was rejected.

`record` decodes and writes a trace while it goes; `Trace.read` reads one back and checks it;
`replay` shows it in a terminal. Decides nothing about decoding.

A trace has one JSON object in a line. The first is the header: settings, versions, special ids, and
the canvases as they were before. Then comes a line for each `modicum.pvf.Commit`, with the texts of
tokens that were not seen before, and at the end a line with the statistics. What is being written
stands in ``PATH.part``, which is itself readable and takes the place of ``PATH`` when it is whole:
a run that is killed loses at most the line that it was writing.
"""

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from modicum.pvf.canvases import of_canvases, of_prompts
from modicum.pvf.events import Commit, Rejected
from modicum.pvf.generation import GenerateOutput, generate, infill
from modicum.pvf.predictor import MaskPredictor, as_predictor
from modicum.pvf.stats import REASONS, ROUTES, DecodeStats
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.registry import as_strategy
from modicum.pvf.validation import check_count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["LETTERS", "Cost", "Trace", "TraceWriter", "TracedCanvas", "record", "replay"]

FORMAT = 1
"""Number of the layout; raised when an older reader could misread it."""

LETTERS = {
    "H": "confident",
    "P": "planned",
    "F": "filled",
    "X": "forced",
    "E": "behind the end",
}
"""Why tokens are committed, by the letter that stands for it."""

_STYLES = {"H": "blue", "P": "bold yellow", "F": "green", "X": "bold magenta", "E": "dim"}
_PART = ".part"


@dataclass(frozen=True)
class TracedCanvas:
    """One sequence before it was decoded.

    Attributes
    ----------
    ids
        Token ids, with the mask token where tokens were wanted; without padding.
    start, length
        First column and number of columns of the span that was to be filled.
    """

    ids: tuple[int, ...]
    start: int
    length: int


@dataclass(frozen=True)
class Cost:
    """What the decoding of one sequence took.

    Attributes
    ----------
    calls, rows
        Forward calls, and rows in them.
    token_evals
        Rows times columns processed; None where the trace was cut off before its statistics.
    tokens
        Tokens committed, those behind the end left out.
    committed
        Of these how many by reason.
    rejected
        Drafts that were tested and not committed.
    seconds
        Wall-clock time; None where the trace was cut off.
    """

    calls: int
    rows: int
    token_evals: int | None
    tokens: int
    committed: dict[str, int]
    rejected: int
    seconds: float | None

    @property
    def tokens_per_call(self) -> float:
        """Tokens for each call; nan without calls."""
        return self.tokens / self.calls if self.calls else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Give all figures as plain values."""
        return {**asdict(self), "tokens_per_call": self.tokens_per_call}


@dataclass(frozen=True)
class Trace:
    """A decoding that was recorded.

    Attributes
    ----------
    config
        Settings: strategy, lengths, and the options that were given.
    versions
        Of Python and of the packages.
    mask_id, eos_id
        Special tokens; ``eos_id`` is None where there is none.
    canvases
        The sequences before.
    strings
        Texts of token ids; empty without a tokenizer.
    commits
        What was committed in each sequence, in order.
    stats
        Cost of each sequence; None if the recording was cut off.
    """

    config: dict[str, Any]
    versions: dict[str, str]
    mask_id: int
    eos_id: int | None
    canvases: list[TracedCanvas]
    strings: dict[int, str] = field(default_factory=dict)
    commits: list[list[Commit]] = field(default_factory=list)
    stats: list[DecodeStats] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the recording came to its end."""
        return self.stats is not None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Trace":
        """Read a trace and check every line; a last line that was cut off is left out.

        Raises
        ------
        ValueError
            If a line is no line of a trace or contradicts the ones before; the message names the
            line and the value.
        OSError
            If the file cannot be read.
        """
        path = Path(path)
        with path.open("rb") as file:
            return _Reader(path).read(file)

    def text(self, token: int) -> str:
        """Give a token as text; its number where the text is not known."""
        return self.strings.get(token, str(token))

    def canvas(self, sequence: int, commits: int | None = None) -> list[int]:
        """Give the ids of a sequence after its first commits; after all of them by default.

        Raises
        ------
        ValueError
            If there is no such sequence.
        """
        self.check_sequence(sequence)
        ids = list(self.canvases[sequence].ids)
        for commit in self.commits[sequence][:commits]:
            for position, token in zip(commit.positions, commit.tokens, strict=True):
                ids[position] = token
        return ids

    def check_sequence(self, sequence: int) -> int:
        """Refuse the number of a sequence that there is not."""
        if not 0 <= sequence < len(self.canvases):
            raise ValueError(f"sequence must be in [0, {len(self.canvases)}), not {sequence!r}")
        return sequence

    def cost(self, sequence: int) -> Cost:
        """Say what a sequence took.

        Where the recording was cut off, rows of calls without a test count as one each.
        """
        commits = self.commits[self.check_sequence(sequence)]
        reasons = [reason for commit in commits for reason in commit.reasons]
        committed = {letter: reasons.count(letter) for letter in REASONS}
        rejected = sum(len(commit.rejected) for commit in commits)
        tokens = sum(committed.values())
        if self.stats is not None:
            stats = self.stats[sequence]
            return Cost(
                stats.nfe, stats.rows, stats.token_evals, tokens, committed, rejected, stats.seconds
            )
        calls = max((commit.call for commit in commits), default=0)
        tests = [commit.rows for commit in commits if commit.route != ROUTES[0]]
        rows = sum(tests) + calls - len(tests)
        return Cost(calls, rows, None, tokens, committed, rejected, None)


class TraceWriter:
    """Writes a trace line by line; a context manager.

    No file is touched before there is something to write.

    Parameters
    ----------
    path
        Where the trace goes; a file there is replaced when the new one is whole. Missing folders
        are made.
    model
        What decodes: special ids, and a tokenizer if it has one.
    canvases
        Sequences before they are decoded.
    config
        Settings, as JSON has them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: MaskPredictor,
        canvases: Iterable[TracedCanvas],
        config: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + _PART)
        self._tokenizer = getattr(model, "tokenizer", None)
        self._seen: set[int] = set()
        given = list(canvases)
        self._header = {
            "format": FORMAT,
            "config": dict(config),
            "versions": _versions(),
            "mask_id": model.mask_id,
            "eos_id": model.eos_id,
            "canvases": [asdict(canvas) for canvas in given],
            "strings": self._strings(token for canvas in given for token in canvas.ids),
        }
        self._file: BinaryIO | None = None

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, commits: Iterable[Commit]) -> None:
        """Write what was committed."""
        for commit in commits:
            tokens = (*commit.tokens, *(draft.token for draft in commit.rejected))
            strings = self._strings(tokens)
            self._write({"commit": commit.to_dict(), **({"strings": strings} if strings else {})})

    def finish(self, stats: Iterable[DecodeStats]) -> None:
        """Write the statistics of all sequences, and put the trace in its place."""
        file = self._write({"stats": [item.to_dict() for item in stats]})
        os.fsync(file.fileno())
        file.close()
        os.replace(self.part, self.path)

    def _strings(self, tokens: Iterable[int]) -> dict[str, str]:
        if self._tokenizer is None:
            return {}
        new = sorted(set(tokens) - self._seen)
        self._seen.update(new)
        return {str(token): self._tokenizer.decode([token]) for token in new}

    def _write(self, line: Mapping[str, Any]) -> BinaryIO:
        """Write a line, the first time behind the header; gives the file."""
        lines = [line]
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that was written is with the operating system.
            self._file = open(self.part, "wb", buffering=0)  # noqa: SIM115 closed by `__exit__`
            lines = [{"header": self._header}, line]
        for each in lines:
            # Escapes keep whatever a tokenizer gives inside its line.
            self._file.write(json.dumps(each, allow_nan=False).encode("ascii") + b"\n")
        return self._file


def record(
    path: str | os.PathLike[str],
    model: MaskPredictor,
    prompts: Any,
    *,
    strategy: Strategy | str = "pvf",
    infilling: bool = False,
    **options: Any,
) -> GenerateOutput:
    """Decode and write a trace while it goes.

    Parameters
    ----------
    path
        Where the trace goes; see `TraceWriter`.
    model, prompts, strategy
        As in `modicum.pvf.generate`; with `infilling` canvases as in `modicum.pvf.infill`.
    infilling
        Whether masks of given canvases are filled.
    options
        Of `modicum.pvf.generate` or `modicum.pvf.infill`, such as ``gen_length``.

    Returns
    -------
    GenerateOutput
        As without a trace.

    Raises
    ------
    ValueError
        If an argument is not valid.
    """
    model, strategy = as_predictor(model), as_strategy(strategy)
    mask = options.get("attention_mask")
    if infilling:
        canvases = of_canvases(model, prompts, mask)
    else:
        check_count("gen_length", options.setdefault("gen_length", 128))
        canvases = of_prompts(model, prompts, options["gen_length"], mask)
    given = [
        TracedCanvas(tuple(ids[:keep].tolist()), start, length)
        for ids, keep, start, length in zip(
            canvases.ids_NL.cpu(),
            _widths(canvases),
            canvases.start_N.tolist(),
            canvases.length_N.tolist(),
            strict=True,
        )
    ]
    plain = {
        name: value
        for name, value in options.items()
        if name != "progress" and (value is None or isinstance(value, bool | int | float | str))
    }
    bind = getattr(strategy, "bind", None)
    bound = strategy if bind is None else bind(model)
    on_step = options.pop("on_step", None)
    # Commits have numbers of the whole list that the prompts are a share of, a trace its own.
    first = options.get("first_prompt", 0)
    with TraceWriter(path, model, given, {"strategy": dict(bound.to_dict()), **plain}) as writer:

        def write(commits: list[Commit]) -> None:
            writer.write(replace(each, sequence=each.sequence - first) for each in commits)
            if on_step is not None:
                on_step(commits)

        decode = infill if infilling else generate
        out = decode(model, prompts, strategy=bound, on_step=write, **options)
        writer.finish(out.stats)
    return out


def _widths(canvases: Any) -> list[int]:
    """Give the columns of each canvas that are not padding."""
    if canvases.mask_NL is None:
        return [canvases.ids_NL.shape[1]] * len(canvases.ids_NL)
    widths: list[int] = canvases.mask_NL.sum(-1).tolist()
    return widths


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("modicum-pvf", "torch")}
    return {"python": platform.python_version(), **found}


# Reading -----------------------------------------------------------------------------------------


class _Reader:
    """Reads the lines of a trace and says which one is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0

    def read(self, file: BinaryIO) -> Trace:
        """Read all lines."""
        trace: Trace | None = None
        open_: list[set[int]] = []
        for record in self._records(file):
            if trace is None:
                trace = self._header(record)
                open_ = [_masks(canvas, trace.mask_id) for canvas in trace.canvases]
                continue
            if trace.stats is not None:
                raise self._wrong("comes after the statistics, which are the last line")
            if "commit" in record:
                self._commit(trace, record, open_)
            elif "stats" in record:
                stats = self._stats(record["stats"], len(trace.canvases))
                trace = Trace(**{**vars(trace), "stats": stats})
            else:
                raise self._wrong(f"holds neither commit nor stats, but {sorted(record)}")
        if trace is None:
            raise ValueError(f"{self.path} is empty or cut off in its first line: not a trace")
        return trace

    def _records(self, file: BinaryIO) -> Iterator[dict[str, Any]]:
        for line in file:
            self.number += 1
            if not line.endswith(b"\n"):
                # Cut off while it was written.
                return
            try:
                found = json.loads(line)
            except ValueError as error:
                raise self._wrong(f"is not JSON ({error})") from error
            if not isinstance(found, dict):
                raise self._wrong(f"must be an object, not {_short(found)}")
            yield found

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.path}, line {self.number} {what}")

    def _header(self, record: Mapping[str, Any]) -> Trace:
        header = record.get("header")
        if not isinstance(header, dict) or "format" not in header:
            raise self._wrong("must be the header of a trace; this file is something else")
        if header["format"] != FORMAT:
            raise self._wrong(
                f"has format {header['format']!r}; this version reads format {FORMAT}"
            )
        canvases = []
        for given in self._list(header, "canvases"):
            ids = tuple(self._numbers(given, "ids"))
            start, length = self._number(given, "start"), self._number(given, "length", 1)
            if start + length > len(ids):
                raise self._wrong(
                    f"has a span of {length} columns from column {start} in a canvas of {len(ids)}"
                )
            canvases.append(TracedCanvas(ids, start, length))
        eos_id = header.get("eos_id")
        return Trace(
            config=self._object(header, "config"),
            versions=self._object(header, "versions"),
            mask_id=self._number(header, "mask_id"),
            eos_id=None if eos_id is None else self._number(header, "eos_id"),
            canvases=canvases,
            strings=self._strings(header),
            commits=[[] for _ in canvases],
        )

    def _commit(self, trace: Trace, record: Mapping[str, Any], open_: list[set[int]]) -> None:
        given = record["commit"]
        sequence = self._number(given, "sequence")
        if sequence >= len(trace.canvases):
            raise self._wrong(f"has sequence {sequence}; the header has {len(trace.canvases)}")
        reasons = self._list(given, "reasons")
        for reason in reasons:
            if reason not in LETTERS:
                raise self._wrong(f"has the reason {reason!r}, none of {', '.join(LETTERS)}")
        if given.get("route") not in ROUTES:
            raise self._wrong(f"has route {given.get('route')!r}, none of {', '.join(ROUTES)}")
        commit = Commit(
            sequence=sequence,
            call=self._number(given, "call"),
            route=given["route"],
            rows=self._number(given, "rows", 1),
            positions=tuple(self._numbers(given, "positions")),
            tokens=tuple(self._numbers(given, "tokens")),
            confidences=tuple(map(self._confidence, self._list(given, "confidences"))),
            reasons=tuple(reasons),
            rejected=tuple(map(self._rejected, self._list(given, "rejected"))),
        )
        self._check(commit, trace.commits[sequence], open_[sequence])
        trace.commits[sequence].append(commit)
        trace.strings.update(self._strings(record))

    def _check(self, commit: Commit, before: list[Commit], open_: set[int]) -> None:
        count = len(commit.positions)
        for name in ("tokens", "confidences", "reasons"):
            if len(getattr(commit, name)) != count:
                raise self._wrong(f"has {count} positions and {len(getattr(commit, name))} {name}")
        if before and commit.call < before[-1].call:
            raise self._wrong(f"has call {commit.call} after call {before[-1].call}")
        for draft in commit.rejected:
            if draft.position not in open_:
                raise self._wrong(f"rejects a draft in position {draft.position}, not open")
        for position in commit.positions:
            if position not in open_:
                raise self._wrong(f"commits position {position}, which is not open")
            open_.discard(position)

    def _rejected(self, given: Any) -> Rejected:
        if not isinstance(given, dict):
            raise self._wrong(f"has the rejected draft {_short(given)}, which is no object")
        return Rejected(
            self._number(given, "position"),
            self._number(given, "token"),
            self._confidence(given.get("confidence")),
        )

    def _stats(self, given: Any, count: int) -> list[DecodeStats]:
        known = vars(DecodeStats())
        if not isinstance(given, list) or len(given) != count:
            raise self._wrong(f"must have the statistics of {count} sequences, not {_short(given)}")
        for item in given:
            if not isinstance(item, dict) or set(item) != set(known):
                raise self._wrong(f"has statistics that are not known: {_short(item)}")
            if set(self._object(item, "committed")) != set(REASONS):
                raise self._wrong(f"has statistics of the reasons {sorted(item['committed'])}")
            for name, value in (*item.items(), *item["committed"].items()):
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                is_none = name == "nfe_to_eos" and value is None
                if name != "committed" and not is_none and not (is_number and value >= 0):
                    raise self._wrong(f"has statistics with {name} {_short(value)}")
        return [DecodeStats(**item) for item in given]

    def _object(self, record: Mapping[str, Any], name: str) -> dict[str, Any]:
        found = record.get(name, {})
        if not isinstance(found, dict):
            raise self._wrong(f"has {name} {_short(found)}, which is no object")
        return found

    def _strings(self, record: Mapping[str, Any]) -> dict[int, str]:
        given = self._object(record, "strings")
        for token, text in given.items():
            if not token.isdecimal() or not isinstance(text, str):
                raise self._wrong(f"has the string {token!r}: {_short(text)}")
        return {int(token): text for token, text in given.items()}

    def _list(self, record: Any, name: str) -> list[Any]:
        found = record.get(name) if isinstance(record, dict) else None
        if not isinstance(found, list):
            raise self._wrong(f"must have a list {name!r}, not {_short(found)}")
        return found

    def _numbers(self, record: Any, name: str) -> list[int]:
        return [self._integer(value, name) for value in self._list(record, name)]

    def _number(self, record: Any, name: str, least: int = 0) -> int:
        found = record.get(name) if isinstance(record, dict) else None
        return self._integer(found, name, least)

    def _integer(self, value: Any, name: str, least: int = 0) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._wrong(
                f"has {name} {_short(value)}, which is no integer of at least {least}"
            )
        return value

    def _confidence(self, value: Any) -> float:
        # -1 stands for tokens that are committed last whatever their probability; rounding may
        # take a probability a little above 1.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -1 <= value <= 1.001:
            raise self._wrong(f"has the confidence {_short(value)}, which is no probability")
        return float(value)


def _masks(canvas: TracedCanvas, mask_id: int) -> set[int]:
    span = range(canvas.start, canvas.start + canvas.length)
    return {position for position in span if canvas.ids[position] == mask_id}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# In a terminal -----------------------------------------------------------------------------------


def replay(
    trace: Trace,
    sequence: int = 0,
    *,
    seconds: float = 0.4,
    console: "Console | None" = None,
) -> None:
    """Show a decoding in a terminal, call by call.

    Every committed token carries the letter of its reason (see `LETTERS`), so that nothing depends
    on colour. Where the output is no terminal, the calls are printed below each other.

    Parameters
    ----------
    trace
        What was recorded.
    sequence
        Its number.
    seconds
        Between two commits.
    console
        Of rich; standard output by default.

    Raises
    ------
    ValueError
        If there is no such sequence, or `seconds` is negative.
    """
    from rich.console import Console, Group
    from rich.text import Text

    commits = trace.commits[trace.check_sequence(sequence)]
    if not seconds >= 0:
        raise ValueError(f"seconds must not be negative, not {seconds!r}")
    console = Console() if console is None else console
    names = [Text(f"{letter} {name}", _STYLES[letter]) for letter, name in LETTERS.items()]
    legend = Text("  ").join(names)
    if not console.is_terminal:
        for commit in commits:
            console.print(_said(trace, commit))
        console.print(_canvas(trace, sequence, len(commits)))
        console.print(legend)
        return
    with _live(console) as update:
        for count in range(len(commits) + 1):
            last = _said(trace, commits[count - 1]) if count else Text("before the first call")
            update(Group(_canvas(trace, sequence, count), Text(), last, legend))
            time.sleep(seconds)


@contextmanager
def _live(console: "Console") -> Iterator[Any]:
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        yield lambda shown: live.update(shown, refresh=True)


def _canvas(trace: Trace, sequence: int, commits: int) -> "Text":
    """Give the canvas after some commits, each token with the letter of its reason."""
    from rich.text import Text

    reasons = {
        position: reason
        for commit in trace.commits[sequence][:commits]
        for position, reason in zip(commit.positions, commit.reasons, strict=True)
    }
    last = trace.commits[sequence][commits - 1].positions if commits else ()
    shown = Text()
    for position, token in enumerate(trace.canvas(sequence, commits)):
        reason = reasons.get(position)
        if reason is not None:
            style = _STYLES[reason] + (" reverse" if position in last else "")
            shown.append(f"{visible(trace.text(token))}:{reason}", style)
        elif token == trace.mask_id:
            shown.append("▢", "dim")
        else:
            shown.append(visible(trace.text(token)))
        shown.append(" ")
    return shown


def _said(trace: Trace, commit: Commit) -> "Text":
    """Say in a line what a commit was."""
    from rich.text import Text

    rows = "1 row" if commit.rows == 1 else f"{commit.rows} rows"
    said = Text(f"call {commit.call}, {commit.route}, {rows}:")
    for position, token, confidence, reason in zip(
        commit.positions, commit.tokens, commit.confidences, commit.reasons, strict=True
    ):
        text = f" {position}={visible(trace.text(token))}:{reason} {confidence:.2f}"
        said.append(text, _STYLES[reason])
    for draft in commit.rejected:
        text = f" {draft.position}≠{visible(trace.text(draft.token))}:not kept"
        said.append(f"{text} {draft.confidence:.2f}", "red")
    return said if commit.positions or commit.rejected else said.append(" nothing")


def visible(text: str) -> str:
    """Give a token's text with marks for what cannot be seen."""
    marks = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    shown = "".join(marks.get(letter, letter if letter.isprintable() else "�") for letter in text)
    return shown or "∅"
