"""What commands listen to: files, lists on standard input and corpora; and lists that grow on disk.

A recording that cannot be read is reported and the others go on; the status is then 1.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from modicum.huper.cli.corpora import FIELDS, rows_of
from modicum.huper.cli.show import Open

__all__ = ["Item", "Lines", "items_of", "work_through"]


@dataclass(frozen=True)
class Item:
    """A recording.

    Attributes
    ----------
    id
        Unique among those of a command.
    audio
        File.
    text
        What should be said, if that is known.
    row
        All that a corpus has of it.
    """

    id: str
    audio: str
    text: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    def phones(self, label: str) -> tuple[str, ...] | None:
        """Return the phones of a kind of label, or None."""
        value = self.row.get(FIELDS[label])
        return None if value is None else tuple(value.split() if isinstance(value, str) else value)


def items_of(given: Sequence[str]) -> list[Item]:
    """List the recordings that arguments stand for.

    Parameters
    ----------
    given
        Audio files; ``.jsonl`` corpora; folders of Kaldi; ``-`` for a list on standard input, with
        a file, or a file, a tab and its text in each line.

    Raises
    ------
    FileNotFoundError
        If a corpus is missing.
    ValueError
        If there is no recording, or two have one id.
    """
    found: list[Item] = []
    for one in given:
        if one == "-":
            found += [_listed(line) for line in sys.stdin if line.strip()]
        elif one.endswith(".jsonl") or Path(one).is_dir():
            found += [_item(row, one) for row in rows_of(Path(one))]
        else:
            found.append(Item(Path(one).stem, one))
    if not found:
        raise ValueError("there is no recording")
    return _distinct(found)


def _listed(line: str) -> Item:
    path, _, text = line.rstrip("\r\n").partition("\t")
    return Item(Path(path).stem, path, text or None)


def _item(row: Mapping[str, Any], corpus: str) -> Item:
    if not isinstance(row.get("audio_path"), str):
        raise ValueError(f"{corpus}: {row['id']} has no audio_path")
    return Item(row["id"], row["audio_path"], row.get("text"), row)


def _distinct(items: list[Item]) -> list[Item]:
    """Name files of one name in several folders by their paths."""
    counts: dict[str, int] = {}
    for one in items:
        counts[one.id] = counts.get(one.id, 0) + 1
    if all(count == 1 for count in counts.values()):
        return items
    longer = [
        Item(one.audio, one.audio, one.text) if counts[one.id] > 1 and not one.row else one
        for one in items
    ]
    seen: set[str] = set()
    for one in longer:
        if one.id in seen:
            raise ValueError(f"{one.id!r} is there twice")
        seen.add(one.id)
    return longer


class Lines:
    """JSON lines that grow on disk, so that a command that is cut off goes on.

    What is done is in ``OUT.partial``, behind a line with the settings; the end makes it ``OUT``.

    Parameters
    ----------
    path
        ``OUT``; None keeps nothing.
    settings
        What must agree for what is there to be taken up.

    Raises
    ------
    ValueError
        If what is there was made with other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = json.dumps(dict(settings), sort_keys=True, default=str)
        self.rows: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        self.partial = path.with_name(path.name + ".partial")
        if self.partial.exists():
            self._take_up()

    def _take_up(self) -> None:
        # The last line is a half one if the command was killed while it was written.
        whole = self.partial.read_text(encoding="utf-8").split("\n")[:-1]
        if whole and whole[0] != self.settings:
            raise ValueError(
                f"{self.partial} was begun with other settings: {whole[0]}; remove it or choose "
                "another --out"
            )
        for line in whole[1:]:
            row = json.loads(line)
            self.rows[row["id"]] = row

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __enter__(self) -> "Lines":
        if self.path is not None:
            from modicum.core.experiment import write_atomic

            lines = [self.settings, *(_line(row) for row in self.rows.values())]
            write_atomic(self.partial, "\n".join(lines) + "\n")
            self.file = self.partial.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            self.file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        self.rows[row["id"]] = dict(row)
        if self.path is not None:
            self.file.write(_line(row) + "\n")
            self.file.flush()

    def finish(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Write all rows in their order, and return them."""
        rows = [self.rows[name] for name in order if name in self.rows]
        if self.path is not None:
            from modicum.core.experiment import write_atomic

            write_atomic(self.path, "".join(_line(row) + "\n" for row in rows))
            self.file.close()
            self.partial.unlink()
        return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def work_through(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Mapping[str, Any]]],
    *,
    out: Path | None,
    settings: Mapping[str, Any],
    open_bar: Open,
    what: str,
    batch_size: int = 16,
    jobs: int = 1,
) -> tuple[list[dict[str, Any]], int]:
    """Work through recordings in batches, and keep what is done.

    Parameters
    ----------
    items
        What to work on.
    work
        Gives a row of JSON for each item of a batch. Where it raises, each item of the batch is
        tried alone, and one that raises then is reported on standard error and left out.
    out, settings
        As for `Lines`.
    open_bar, what
        Shows progress.
    batch_size, jobs
        Items of a batch, and batches at a time.

    Returns
    -------
    rows, failures
        Rows in the order of the items; how many items were left out.
    """
    failures = 0
    with Lines(out, settings) as lines:
        left = [one for one in items if one.id not in lines]
        batches = [left[at : at + batch_size] for at in range(0, len(left), batch_size)]
        bar = open_bar(len(items), what)
        bar.advance(len(items) - len(left))
        for batch, rows in _in_turn(batches, work, jobs):
            for item, row in zip(batch, rows, strict=True):
                if isinstance(row, Exception):
                    failures += 1
                    message = " ".join(str(row).split()) or type(row).__name__
                    typer.echo(f"{item.audio}: {message}", err=True)
                else:
                    lines.add({"id": item.id, **row})
            bar.advance(len(batch))
        return lines.finish([one.id for one in items]), failures


def _in_turn(
    batches: Sequence[Sequence[Item]],
    work: Callable[[Sequence[Item]], Sequence[Mapping[str, Any]]],
    jobs: int,
) -> Iterator[tuple[Sequence[Item], Sequence[Any]]]:
    def attempt(batch: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Any]]:
        try:
            return batch, work(batch)
        except (ValueError, TypeError, OSError) as error:
            if len(batch) == 1:
                return batch, [error]
        return batch, [attempt([one])[1][0] for one in batch]

    if jobs == 1:
        yield from map(attempt, batches)
        return
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(attempt, batches)
