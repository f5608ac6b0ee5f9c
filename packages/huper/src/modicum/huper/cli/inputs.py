"""What commands listen to: files, lists on standard input and corpora; and work that goes on.

A recording that cannot be read is reported and the others go on; the status is then 1.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modicum.huper.cli.corpora import read
from modicum.huper.cli.show import Open

if TYPE_CHECKING:
    from modicum.huper.corpus import Item

__all__ = ["items_of", "sound_of", "work_through"]


def items_of(given: Sequence[str]) -> "list[Item]":
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
    files: set[int] = set()
    for one in given:
        if one.endswith(".jsonl") or Path(one).is_dir():
            found += read(Path(one))
            continue
        lines = [line for line in sys.stdin if line.strip()] if one == "-" else [one]
        files |= set(range(len(found), len(found) + len(lines)))
        found += [_listed(line) for line in lines]
    if not found:
        raise ValueError("there is no recording")
    return _distinct(found, files)


def _listed(line: str) -> "Item":
    from modicum.huper.corpus import Item

    path, _, text = line.rstrip("\r\n").partition("\t")
    return Item(Path(path).stem or path, path, text or None)


def _distinct(items: "list[Item]", files: set[int]) -> "list[Item]":
    """Name files of one name in several folders by their paths."""
    counts: dict[str, int] = {}
    for one in items:
        counts[one.id] = counts.get(one.id, 0) + 1
    named = [
        replace(one, id=str(one.audio_path)) if counts[one.id] > 1 and at in files else one
        for at, one in enumerate(items)
    ]
    seen: set[str] = set()
    for one in named:
        if one.id in seen:
            raise ValueError(f"{one.id!r} is there twice")
        seen.add(one.id)
    return named


def sound_of(item: "Item") -> Any:
    """Return the audio of an item as a `Recognizer` takes it: a file, or samples of a part.

    Raises
    ------
    FileNotFoundError, ValueError
        As `Item.audio`.
    """
    if item.audio_path is not None and item.start is None and item.end is None:
        return item.audio_path
    samples, rate = item.audio()
    return {"array": samples, "sampling_rate": rate}


def work_through(
    items: "Sequence[Item]",
    work: "Callable[[Sequence[Item]], Sequence[Item]]",
    *,
    out: Path | None,
    settings: Mapping[str, Any],
    open_bar: Open,
    what: str,
    batch_size: int = 16,
    jobs: int = 1,
) -> "tuple[list[Item], int]":
    """Work through recordings in batches, and keep what is done.

    Parameters
    ----------
    items
        What to work on.
    work
        Gives an item with the same id for each item of a batch. Where it raises, each item of the
        batch is tried alone, and one that raises then is reported on standard error and left out.
    out, settings
        As for `modicum.huper.corpus.JsonlWriter`; None keeps nothing.
    open_bar, what
        Shows progress.
    batch_size, jobs
        Items of a batch, and batches at a time.

    Returns
    -------
    done, failures
        Items in their order; how many were left out.
    """
    from modicum.huper.corpus import JsonlWriter

    failures = 0
    writer = None if out is None else JsonlWriter(out, settings=settings)
    done: dict[str, Item] = {}
    bar = open_bar(len(items), what)
    # A writer without a line yet is false.
    with nullcontext() if writer is None else writer:
        left = [one for one in items if writer is None or one.id not in writer]
        bar.advance(len(items) - len(left))
        batches = [left[at : at + batch_size] for at in range(0, len(left), batch_size)]
        for batch, found in _in_turn(batches, work, jobs):
            for item, one in zip(batch, found, strict=True):
                if isinstance(one, Exception):
                    failures += 1
                    message = " ".join(str(one).split()) or type(one).__name__
                    typer.echo(f"{item.audio_path or item.id}: {message}", err=True)
                    continue
                if writer is None:
                    done[item.id] = one
                else:
                    writer.write(one)
            bar.advance(len(batch))
    if out is not None:
        done = {one.id: one for one in read(out)}
    return [done[one.id] for one in items if one.id in done], failures


def _in_turn(
    batches: "Sequence[Sequence[Item]]",
    work: "Callable[[Sequence[Item]], Sequence[Item]]",
    jobs: int,
) -> "Iterator[tuple[Sequence[Item], Sequence[Any]]]":
    def attempt(batch: "Sequence[Item]") -> "tuple[Sequence[Item], Sequence[Any]]":
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
