"""Corpora: utterances with audio, text and phones, from files of several kinds and back.

`Item` is an utterance. JSONL with the field names of the public HuPER scripts, data folders of
Kaldi and rows as ``datasets`` has them become items; items become what `modicum.huper.training`
learns from, and JSONL or Kaldi folders. Phones are kept as they are written: nothing is folded.

Source of the field names: the scripts of "HuPER: A Human-Inspired Framework for Phonetic
Perception" (arXiv 2602.01634).
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import soundfile  # type: ignore[import-untyped]

from modicum.core.experiment import ProgressTask, write_atomic

if TYPE_CHECKING:
    from modicum.huper.training import Labelled

__all__ = [
    "Item",
    "JsonlWriter",
    "from_rows",
    "iter_jsonl",
    "load",
    "phones_by_id",
    "process",
    "read_jsonl",
    "read_kaldi",
    "write_jsonl",
    "write_kaldi",
]

_PHONES = ("phonemes", "real_phonemes", "label_phonemes")
_FIELDS = ("id", "audio_path", "text", *_PHONES, "speaker", "start", "end")
_WHICH = {"canonical": "phonemes", "realized": "real_phonemes", "label": "label_phonemes"}

_PATHS = str | os.PathLike[str]


@dataclass(frozen=True)
class Item:
    """An utterance.

    Attributes
    ----------
    id
        Unique in its corpus.
    audio_path
        A sound file.
    text
        What should be said.
    phonemes
        Canonical phones: what a dictionary says.
    real_phonemes
        Realized phones: what is said.
    label_phonemes
        Phones to learn from, where they are made by a program.
    speaker
        Who speaks.
    start, end
        Seconds of the utterance in the file; None for its beginning and its end.
    samples, sampling_rate
        Audio in memory, (N,) or as `modicum.huper.audio.standardise` takes it; comes before a file.
    extra
        Other fields of its line, kept for writing.

    Raises
    ------
    ValueError
        If the id is empty, times are out of order, or samples have no rate.
    TypeError
        If phones are one string: its characters are no phones.
    """

    id: str
    audio_path: str | None = None
    text: str | None = None
    phonemes: tuple[str, ...] | None = None
    real_phonemes: tuple[str, ...] | None = None
    label_phonemes: tuple[str, ...] | None = None
    speaker: str | None = None
    start: float | None = None
    end: float | None = None
    samples: Any = field(default=None, compare=False, repr=False)
    sampling_rate: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"the id of an utterance is a string that is not empty: {self.id!r}")
        for name in _PHONES:
            phones = getattr(self, name)
            if isinstance(phones, str):
                raise TypeError(
                    f"{name} of {self.id!r} are a list of phones, not the string {phones!r}"
                )
            object.__setattr__(self, name, None if phones is None else tuple(phones))
        start, end = 0.0 if self.start is None else self.start, self.end
        if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
            raise ValueError(
                f"{self.id!r}: start and end are seconds in this order, not {self.start} and "
                f"{self.end}"
            )
        if self.samples is not None and self.sampling_rate is None:
            raise ValueError(f"samples of {self.id!r} need a sampling_rate")

    def phones(self, which: str = "realized") -> tuple[str, ...]:
        """Return its phones.

        Parameters
        ----------
        which
            ``"canonical"``, ``"realized"`` or ``"label"``, or the name of the field.

        Raises
        ------
        ValueError
            If it has none of that kind, or there is no such kind.
        """
        name = _WHICH.get(which, which)
        if name not in _PHONES:
            raise ValueError(f"phones are {', '.join(_WHICH)}, not {which!r}")
        found: tuple[str, ...] | None = getattr(self, name)
        if found is None:
            raise ValueError(f"utterance {self.id!r} has no {name}")
        return found

    def audio(self) -> tuple[np.ndarray, int]:
        """Read its audio.

        Returns
        -------
        samples, sampling_rate
            (N,), or (N, channels) of a file; and samples per second.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it has no audio, or the file is none, or ends before the utterance.
        """
        if self.samples is not None:
            return self._cut(np.asarray(self.samples), int(self.sampling_rate or 0))
        if self.audio_path is None:
            raise ValueError(f"utterance {self.id!r} has no audio")
        if not Path(self.audio_path).exists():
            raise FileNotFoundError(f"utterance {self.id!r}: there is no file {self.audio_path}")
        try:
            with soundfile.SoundFile(self.audio_path) as file:
                first, last = self._bounds(file.frames, file.samplerate)
                file.seek(first)
                return file.read(last - first, dtype="float32"), file.samplerate
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{self.audio_path} is no sound file that can be read: {error}"
            ) from None

    def labelled(self, which: str = "realized", weight: float = 1.0) -> Labelled:
        """Return it as `modicum.huper.training.train` takes it.

        Parameters
        ----------
        which
            Which phones are learnt, see `phones`.
        weight
            Factor of its loss.

        Raises
        ------
        ValueError, FileNotFoundError
            As `phones` and `audio`; a whole file is not read here.
        """
        from modicum.huper.training import Labelled

        phones = self.phones(which)
        whole = self.start is None and self.end is None
        if self.samples is None and whole and self.audio_path is not None:
            return Labelled(self.audio_path, phones, weight, self.id)
        samples, rate = self.audio()
        return Labelled(samples, phones, weight, self.id, rate)

    def to_row(self) -> dict[str, Any]:
        """Return its fields that are not None, as in a line of JSONL or a row of ``datasets``.

        Samples are the field ``audio``: ``{"array": …, "sampling_rate": …}``.
        """
        row: dict[str, Any] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            if value is not None:
                row[name] = list(value) if name in _PHONES else value
        if self.samples is not None:
            row["audio"] = {"array": self.samples, "sampling_rate": self.sampling_rate}
        return {**row, **{name: one for name, one in self.extra.items() if name not in row}}

    def _bounds(self, length: int, rate: int) -> tuple[int, int]:
        first = 0 if self.start is None else round(self.start * rate)
        last = length if self.end is None else round(self.end * rate)
        # Times in files are rounded: up to 50 ms beyond the end are forgiven, as in Kaldi.
        if last > length + 0.05 * rate or first >= length:
            raise ValueError(
                f"utterance {self.id!r} goes from {self.start} to {self.end} s, its audio is "
                f"{length / rate:.3f} s long"
            )
        return first, min(last, length)

    def _cut(self, samples: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
        if self.start is None and self.end is None:
            return samples, rate
        axis = int(np.argmax(samples.shape))
        first, last = self._bounds(samples.shape[axis], rate)
        return samples.take(range(first, last), axis=axis), rate


def load(source: Any, *, root: _PATHS | None = None) -> list[Item]:
    """Read a corpus of any kind.

    Parameters
    ----------
    source
        A JSONL file, a Kaldi folder, or rows or items.
    root
        See `read_jsonl` and `read_kaldi`.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As `read_jsonl`, `read_kaldi` and `from_rows`.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return read_kaldi(path, root=root) if path.is_dir() else read_jsonl(path, root=root)
    held = list(source)
    return held if all(isinstance(one, Item) for one in held) else list(from_rows(held))


def phones_by_id(items: Iterable[Item], which: str = "realized") -> dict[str, tuple[str, ...]]:
    """Return phones by id, as `modicum.huper.metrics` takes them; see `Item.phones`."""
    return {item.id: item.phones(which) for item in items}


# JSONL --------------------------------------------------------------------------------------------


def read_jsonl(path: _PATHS, *, root: _PATHS | None = None) -> list[Item]:
    """Read all items of a JSONL file; see `iter_jsonl`."""
    return list(iter_jsonl(path, root=root))


def iter_jsonl(path: _PATHS, *, root: _PATHS | None = None) -> Iterator[Item]:
    """Read the items of a JSONL file one by one.

    A line is an object with ``id``, ``audio_path``, ``text``, ``phonemes``, ``real_phonemes`` and
    ``label_phonemes``, all but one of the first two optional, and ``speaker``, ``start``, ``end``;
    other fields are kept in `Item.extra`. Phones are lists, or strings with white space between
    phones. A line without id has the name of its sound file as one. Empty lines are passed over.

    Parameters
    ----------
    path
        The file, in UTF-8.
    root
        What relative audio paths start from; None for the folder of the file. Files are looked at
        when audio is read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is bad or an id comes twice; the message names file and line.
    """
    path = Path(path)
    base = path.parent if root is None else Path(root)
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                item = _from_line(line, base)
                if item.id in seen:
                    raise ValueError(f"id {item.id!r} is that of line {seen[item.id]}")
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            seen[item.id] = number
            yield item


def write_jsonl(
    items: Iterable[Item], path: _PATHS, *, audio_folder: str = "audio", root: _PATHS | None = None
) -> Path:
    """Write items as JSONL, whole or not at all.

    Parameters
    ----------
    items
        With ids that differ. Audio in memory is written to ``audio_folder/ID.flac`` beside the
        file, as models take it: one channel, 16,000 samples per second, 16 bits.
    path
        The file; its folder is made.
    audio_folder
        For audio in memory.
    root
        Audio below it is named by a path from there, other audio by an absolute one; None for the
        folder of the file.

    Raises
    ------
    ValueError
        If an id comes twice, or cannot be the name of a sound file that must be written.
    """
    path = Path(path)
    lines: list[str] = []
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"id {item.id!r} comes twice")
        seen.add(item.id)
        lines.append(_to_line(_stored(item, path.parent / audio_folder), path, root))
    return write_atomic(path, "".join(lines))


class JsonlWriter:
    """Write items as they come, and go on after a break.

    Lines go to ``NAME.partial`` beside the file and are there at once; when the block of ``with``
    ends without an exception, that file takes the place of the old one in one step. A writer that
    is opened again has the items of the partial file, or else of the finished one: skip what is
    ``in`` it.

    Parameters
    ----------
    path
        The file.
    settings
        What the items depend on, as JSON has it; kept in ``NAME.settings.json``, and a writer with
        other settings is refused.
    overwrite
        Forget what is there.
    audio_folder, root
        As for `write_jsonl`.

    Raises
    ------
    ValueError
        If what is there has other settings or a bad line.

    Examples
    --------
    >>> with JsonlWriter(path) as out:
    ...     for item in items:
    ...         if item.id not in out:
    ...             out.write(item)
    """

    def __init__(
        self,
        path: _PATHS,
        *,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        audio_folder: str = "audio",
        root: _PATHS | None = None,
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.audio_folder, self.root = audio_folder, root
        self._file: IO[bytes] | None = None
        self._claim(settings, overwrite)
        if overwrite:
            self.partial.unlink(missing_ok=True)
        self._ids: dict[str, None] = {}
        self._begin = b""
        if self.partial.exists():
            whole = self.partial.read_bytes()
            # What follows the last line end was cut off in the middle of a line.
            self._begin = whole[: whole.rfind(b"\n") + 1]
        elif self.path.exists() and not overwrite:
            self._begin = self.path.read_bytes()
            if self._begin and not self._begin.endswith(b"\n"):
                self._begin += b"\n"
        for number, line in enumerate(self._begin.decode("utf-8-sig").split("\n"), 1):
            if line.strip():
                try:
                    self._ids[_from_line(line, Path()).id] = None
                except (ValueError, TypeError) as error:
                    where = self.partial if self.partial.exists() else self.path
                    raise ValueError(f"{where}, line {number}: {error}") from None

    def __contains__(self, identity: object) -> bool:
        """Say whether an item with this id is written."""
        return identity in self._ids

    def __len__(self) -> int:
        """Return how many items are written."""
        return len(self._ids)

    def __enter__(self) -> JsonlWriter:
        """Open the partial file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.partial, self._begin)
        self._file = self.partial.open("ab")
        return self

    def write(self, item: Item) -> None:
        """Write an item.

        Raises
        ------
        ValueError
            If its id is written already.
        RuntimeError
            Outside of a ``with`` block.
        """
        if self._file is None:
            raise RuntimeError("write inside of the with block of the writer")
        if item.id in self._ids:
            raise ValueError(f"id {item.id!r} comes twice")
        stored = _stored(item, self.path.parent / self.audio_folder)
        self._file.write(_to_line(stored, self.path, self.root).encode())
        self._file.flush()
        self._ids[item.id] = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; without an exception, put the file in its place."""
        if self._file is None:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        if kind is None:
            os.replace(self.partial, self.path)

    def _claim(self, settings: Mapping[str, Any] | None, overwrite: bool) -> None:
        if settings is None:
            return
        path = self.path.with_name(f"{self.path.name}.settings.json")
        # As JSON gives them back.
        wanted = json.loads(json.dumps(dict(settings)))
        begun = not overwrite and (self.partial.exists() or self.path.exists())
        if begun and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            for name in sorted({*known, *wanted}):
                if known.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{self.path} was begun with {name} = {known.get(name)!r}, not "
                        f"{wanted.get(name)!r}; choose another file or overwrite=True"
                    )
        write_atomic(path, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")


def process(
    items: Iterable[Item],
    change: Callable[[list[Item]], Sequence[Item]],
    path: _PATHS,
    *,
    batch_size: int = 16,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: ProgressTask | None = None,
    root: _PATHS | None = None,
) -> list[Item]:
    """Change the items of a corpus and write them as JSONL; a call that was cut off goes on.

    Parameters
    ----------
    items
        The corpus.
    change
        Takes a list of items and gives as many, with the same ids: for instance with
        `Item.label_phonemes`.
    path
        Of the JSONL; see `JsonlWriter` for this and for `settings` and `overwrite`.
    batch_size
        Items for one call of `change`.
    progress
        Is advanced by each item, also by those that were there.
    root
        As for `write_jsonl`.

    Returns
    -------
    list of Item
        What the file has.

    Raises
    ------
    ValueError
        If `change` gives other items, or as `JsonlWriter`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    with JsonlWriter(path, settings=settings, overwrite=overwrite, root=root) as out:

        def left() -> Iterator[Item]:
            for item in items:
                if item.id not in out:
                    yield item
                elif progress is not None:
                    progress.advance(1)

        waiting = left()
        while batch := list(islice(waiting, batch_size)):
            changed = list(change(batch))
            if [one.id for one in changed] != [one.id for one in batch]:
                raise ValueError(
                    f"change must give the items that it got, {[one.id for one in batch]}, not "
                    f"{[one.id for one in changed]}"
                )
            for one in changed:
                out.write(one)
            if progress is not None:
                progress.advance(len(batch))
    return read_jsonl(path, root=root)


def _from_line(line: str, base: Path) -> Item:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"an utterance is an object, not {type(row).__name__}")
    known = {name: row.pop(name, None) for name in _FIELDS}
    path = known["audio_path"]
    for name in ("audio_path", "text"):
        if known[name] is not None and not isinstance(known[name], str):
            raise ValueError(f"{name} must be a string, not {known[name]!r}")
    for name in ("start", "end"):
        value = known[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{name} must be seconds, not {value!r}")
    identity = known["id"]
    if identity is None:
        if not path:
            raise ValueError("there is neither id nor audio_path")
        identity = Path(path).stem
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise ValueError(f"id must be a string, not {identity!r}")
    for name in _PHONES:
        known[name] = _phones(known[name], name)
    known["id"] = str(identity)
    known["speaker"] = None if known["speaker"] is None else str(known["speaker"])
    known["audio_path"] = str(base / path) if path else None
    return Item(**known, extra=row)


def _phones(value: Any, name: str) -> tuple[str, ...] | None:
    """Read phones as public files have them: a list, or a string with spaces."""
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list of phones or a string, not {value!r}")
    for phone in value:
        if not isinstance(phone, str) or not phone.strip():
            raise ValueError(f"{name}: phones are strings that are not empty, not {phone!r}")
    return tuple(phone.strip() for phone in value)


def _to_line(item: Item, path: Path, root: _PATHS | None) -> str:
    row = item.to_row()
    if item.audio_path is not None:
        row["audio_path"] = _named(item.audio_path, path.parent if root is None else Path(root))
    try:
        return json.dumps(row, ensure_ascii=False, default=_plain) + "\n"
    except TypeError as error:
        raise ValueError(f"utterance {item.id!r}: {error}") from None


def _plain(value: Any) -> Any:
    """Write arrays and their numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON has nothing for {type(value).__name__} ({value!r:.60})")


def _named(audio_path: str, base: Path) -> str:
    """Name a file from a folder above it, or else from the root of all."""
    absolute = Path(os.path.abspath(audio_path))
    try:
        return absolute.relative_to(os.path.abspath(base)).as_posix()
    except ValueError:
        return absolute.as_posix()


def _stored(item: Item, folder: Path) -> Item:
    """Put audio in memory into a file."""
    if item.samples is None:
        return item
    if item.id != Path(item.id).name or item.id in (".", ".."):
        raise ValueError(f"{item.id!r} cannot be the name of a sound file")
    from modicum.huper import audio

    path = folder / f"{item.id}.flac"
    audio.write(path, audio.standardise(*item.audio()))
    return dataclasses.replace(
        item, audio_path=str(path), samples=None, sampling_rate=None, start=None, end=None
    )


# Rows of datasets ---------------------------------------------------------------------------------


def from_rows(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | None = None
) -> Iterator[Item]:
    """Read rows as ``datasets`` gives them, map-style or streamed, one by one.

    Parameters
    ----------
    rows
        Mappings with some of the fields of `iter_jsonl`, and ``audio``: what its feature ``Audio``
        decodes to (``array`` and ``sampling_rate``), its undecoded form (``bytes`` and ``path``),
        or a path.
    columns
        Names of columns for fields whose name differs, such as ``{"text": "sentence"}``.

    Yields
    ------
    Item
        A row without id has its number as one.

    Raises
    ------
    ValueError
        If a row is bad or an id comes twice; the message has its number.
    TypeError
        If a row is no mapping.
    """
    names = {name: name for name in (*_FIELDS, "audio")}
    for name, column in (columns or {}).items():
        if name not in names:
            raise ValueError(f"there is no field {name!r}; there are {', '.join(names)}")
        names[name] = column
    seen: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {number} is no mapping but {type(row).__name__}")
        try:
            item = _from_row(row, names, number)
            if seen[item.id]:
                raise ValueError(f"id {item.id!r} comes twice")
        except (ValueError, TypeError) as error:
            raise ValueError(f"row {number}: {error}") from None
        seen[item.id] += 1
        yield item


def _from_row(row: Mapping[str, Any], names: Mapping[str, str], number: int) -> Item:
    known: dict[str, Any] = {name: row.get(names[name]) for name in _FIELDS}
    used = set(names.values())
    extra = {name: value for name, value in row.items() if name not in used}
    known["id"] = str(number if known["id"] is None else known["id"])
    known["speaker"] = None if known["speaker"] is None else str(known["speaker"])
    for name in _PHONES:
        known[name] = _phones(known[name], name)
    if known["audio_path"] is not None:
        known["audio_path"] = os.fspath(known["audio_path"])
    audio = row.get(names["audio"])
    if audio is not None:
        known.update(_audio(audio))
    return Item(**known, extra=extra)


def _audio(audio: Any) -> dict[str, Any]:
    """Read what a column of audio holds."""
    if isinstance(audio, str | os.PathLike):
        return {"audio_path": os.fspath(audio)}
    if isinstance(audio, Mapping) and "array" not in audio:
        if audio.get("bytes") is not None:
            samples, rate = soundfile.read(io.BytesIO(audio["bytes"]), dtype="float32")
            return {"samples": samples, "sampling_rate": rate}
        if audio.get("path"):
            return {"audio_path": os.fspath(audio["path"])}
        raise ValueError(
            f"audio has neither array, bytes nor path but {', '.join(audio) or 'nothing'}"
        )
    try:
        # The decoder of newer versions is no mapping and yet answers to these two.
        return {"samples": np.asarray(audio["array"]), "sampling_rate": int(audio["sampling_rate"])}
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f"audio is a path or has array and sampling_rate, not {type(audio).__name__}"
        ) from None


# Kaldi --------------------------------------------------------------------------------------------

_ARCHIVE = re.compile(r"\.ark:\d+$")


def read_kaldi(folder: _PATHS, *, root: _PATHS | None = None, text: str = "text") -> list[Item]:
    """Read a data folder of Kaldi.

    Reads ``wav.scp``, and where they are there ``segments``, ``text``, ``utt2spk``, and
    ``phonemes``, ``real_phonemes`` and ``label_phonemes`` in the format of ``text``.

    Parameters
    ----------
    folder
        The folder.
    root
        What relative names of sound files start from; None for the current folder, as in Kaldi.
    text
        Which field the file ``text`` is: ``"text"``, ``"phonemes"``, ``"real_phonemes"`` or
        ``"label_phonemes"``.

    Returns
    -------
    list of Item
        In the order of ``segments``, or of ``wav.scp`` without it.

    Raises
    ------
    FileNotFoundError
        If there is no ``wav.scp``.
    ValueError
        If a line is bad, names an utterance or a recording that is not there, or ``wav.scp`` has a
        command or an archive in place of a file; the message names file and line.
    """
    if text not in ("text", *_PHONES):
        raise ValueError(f"text is one of text, {', '.join(_PHONES)}, not {text!r}")
    folder = Path(folder)
    recordings: dict[str, str] = {}
    for where, name, rest in _table(folder / "wav.scp"):
        if rest.endswith("|") or rest.startswith("|"):
            raise ValueError(
                f"{where}: the audio of {name!r} is the output of a command ({rest}), which is not "
                "run here; write it to a file and name that"
            )
        if not rest:
            raise ValueError(f"{where}: {name!r} has no file")
        if rest == "-" or _ARCHIVE.search(rest):
            raise ValueError(
                f"{where}: {rest!r} is no sound file; write the audio of {name!r} to one"
            )
        recordings[name] = str(Path(root) / rest) if root is not None else rest
    fields: dict[str, dict[str, Any]] = {}
    if (folder / "segments").exists():
        for where, name, rest in _table(folder / "segments"):
            fields[name] = _segment(where, rest, recordings)
    else:
        fields = {name: {"audio_path": path} for name, path in recordings.items()}
    sources = {text: "text", "speaker": "utt2spk"}
    sources.update({name: name for name in _PHONES if name not in sources})
    for name, source in sources.items():
        if not (folder / source).exists():
            continue
        for where, utterance, rest in _table(folder / source):
            if utterance not in fields:
                raise ValueError(f"{where}: there is no audio of {utterance!r}")
            fields[utterance][name] = tuple(rest.split()) if name in _PHONES else rest
    return [Item(name, **values) for name, values in fields.items()]


def write_kaldi(items: Iterable[Item], folder: _PATHS, *, audio_folder: str = "audio") -> Path:
    """Write a data folder of Kaldi: what `read_kaldi` reads, and ``spk2utt``; sorted by bytes.

    Sound files are named absolutely. Each file is replaced whole; ``segments`` is there only if an
    item is a part of a file. White space in texts becomes single spaces.

    Parameters
    ----------
    items
        With ids that differ; ids and speakers have no white space. Audio in memory is written to
        ``audio_folder/ID.flac`` in the folder, as for `write_jsonl`. An item without a speaker is
        its own.
    folder
        Made if it is not there.
    audio_folder
        For audio in memory.

    Raises
    ------
    ValueError
        If an id comes twice or a name has white space, or an item has no audio.
    FileNotFoundError
        If the length of a file is needed, for ``segments``, and it is not there.
    """
    folder = Path(folder)
    kept = [_stored(item, folder / audio_folder) for item in items]
    # Kaldi sorts by bytes, LC_ALL=C.
    kept.sort(key=lambda item: item.id.encode())
    for item in kept:
        if item.audio_path is None:
            raise ValueError(f"utterance {item.id!r} has no audio")
        for what, name in (("id", item.id), ("speaker", item.speaker or item.id)):
            if name.split() != [name]:
                raise ValueError(f"{what} {name!r}: names in Kaldi have no white space")
    if repeated := [name for name, count in Counter(one.id for one in kept).items() if count > 1]:
        raise ValueError(f"id {repeated[0]!r} comes twice")
    paths = {item.id: os.path.abspath(item.audio_path or "") for item in kept}
    with_segments = any(item.start is not None or item.end is not None for item in kept)
    files: dict[str, list[tuple[str, str]]] = {"utt2spk": [], "spk2utt": []}
    if with_segments:
        names = _recording_names(list(paths.values()))
        files["wav.scp"] = [(name, path) for path, name in names.items()]
        files["segments"] = [
            (item.id, f"{names[paths[item.id]]} {_times(item, paths[item.id])}") for item in kept
        ]
    else:
        files["wav.scp"] = list(paths.items())
    files["utt2spk"] = [(item.id, item.speaker or item.id) for item in kept]
    speakers: dict[str, list[str]] = {}
    for item in kept:
        speakers.setdefault(item.speaker or item.id, []).append(item.id)
    files["spk2utt"] = [(name, " ".join(theirs)) for name, theirs in speakers.items()]
    for name in ("text", *_PHONES):
        values = [(item.id, getattr(item, name)) for item in kept]
        rows = [
            (identity, " ".join(value.split() if isinstance(value, str) else value))
            for identity, value in values
            if value is not None
        ]
        if rows:
            files[name] = rows
    for name, rows in files.items():
        rows.sort(key=lambda row: row[0].encode())
        write_atomic(folder / name, "".join(f"{one} {rest}".rstrip() + "\n" for one, rest in rows))
    for name in {"segments", "text", *_PHONES} - set(files):
        (folder / name).unlink(missing_ok=True)
    return folder


def _table(path: Path) -> Iterator[tuple[str, str, str]]:
    """Read lines: where it is, the first word, the rest."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    seen: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            raise ValueError(f"{where} is empty")
        name, _, rest = line.strip().replace("\t", " ").partition(" ")
        if name in seen:
            raise ValueError(f"{where}: {name!r} is that of line {seen[name]}")
        seen[name] = number
        yield where, name, rest.strip()


def _lines(path: Path) -> list[str]:
    # Not splitlines: it would split at characters that a text may have.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _segment(where: str, rest: str, recordings: Mapping[str, str]) -> dict[str, Any]:
    parts = rest.split()
    if len(parts) != 3:
        raise ValueError(f"{where}: a segment is utterance, recording, start and end, not {rest!r}")
    recording, *times = parts
    if recording not in recordings:
        raise ValueError(f"{where}: wav.scp has no recording {recording!r}")
    try:
        start, end = map(float, times)
    except ValueError:
        raise ValueError(f"{where}: start and end are seconds, not {' '.join(times)!r}") from None
    # −1 stands for the end of the recording.
    last = None if end == -1 else end
    if not 0 <= start < math.inf or (last is not None and not start < last < math.inf):
        raise ValueError(f"{where}: start and end are seconds in this order, not {start} and {end}")
    return {"audio_path": recordings[recording], "start": start, "end": last}


def _recording_names(paths: Sequence[str]) -> dict[str, str]:
    """Give each file a name of its own."""
    found: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for path in sorted(set(paths)):
        name = "_".join(Path(path).stem.split()) or "recording"
        taken[name] += 1
        found[path] = name if taken[name] == 1 else f"{name}-{taken[name]}"
    if len(set(found.values())) < len(found):
        found = {path: f"recording-{number:06d}" for number, path in enumerate(found, 1)}
    return found


def _times(item: Item, path: str) -> str:
    end = item.end
    if end is None:
        if not Path(path).exists():
            raise FileNotFoundError(f"utterance {item.id!r}: there is no file {path}")
        end = soundfile.info(path).duration
    return f"{item.start or 0.0!r} {end!r}"
