"""Documents and streams of text as a command line reads them: from folders, files and pipes.

Takes paths and open streams, gives text or token ids piece by piece. Knows no watermark and no
tokenizer but the one it is handed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from modicum.core.watermark.adapters.parquet import read_texts
from modicum.core.watermark.responses import encode_text

__all__ = ["chunks", "documents", "numbers"]

BLOCK = 64
"""Tokens handed on at once when a whole text is read."""

CUT = re.compile(r"(?<=\w) (?=\w)")
"""Where a stream of text may be cut."""


def documents(path: Path, column: str, package: str) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of a folder of .txt files, a JSON-lines file or a Parquet file.

    Parameters
    ----------
    path
        Folder or file. The name of a document is its path inside the folder, the field ``id`` of
        its line or its number.
    column
        Field that holds the text, in files of rows.
    package
        Distribution whose extra ``parquet`` brings pyarrow, for the message when it is missing.

    Raises
    ------
    ImportError
        For a Parquet file without pyarrow.
    ValueError
        If there is no such path, no such field, or a row is not text; names file and line.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            yield str(file.relative_to(path)), file.read_text(encoding="utf-8")
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}:{number} is not JSON: {error}") from error
                if not isinstance(row, dict) or column not in row:
                    raise ValueError(f"{path}:{number} has no field {column!r}")
                if not isinstance(row[column], str):
                    raise ValueError(f"{path}:{number}: field {column!r} is not text")
                yield str(row.get("id", number)), row[column]
    elif path.suffix == ".parquet":
        yield from read_texts(path, column, package)
    else:
        raise ValueError(f"{path} is neither a folder, a .jsonl nor a .parquet file")


def chunks(source: TextIO, encoder: Any, whole: bool) -> Iterator[list[int]]:
    """Yield token ids as text arrives.

    A stream of text is cut in front of the last single blank between two words, where byte-level
    tokenizers do not join tokens, so that the ids are those of the whole text; what follows the
    cut waits for more.

    Parameters
    ----------
    source
        Open text file or pipe.
    encoder
        A tokenizer as in `modicum.core.watermark.responses.encode_text`; ``None`` if the source
        holds token ids, as in `numbers`.
    whole
        Read everything before the first token is given out.
    """
    if whole:
        ids = encode_text(source.read(), encoder) if encoder else numbers(source.read())
        for at in range(0, len(ids), BLOCK):
            yield ids[at : at + BLOCK]
        return
    held = ""
    while True:
        line = source.readline()
        held += line
        if not line:
            if held:
                yield encode_text(held, encoder) if encoder else numbers(held)
            return
        if encoder is None:
            yield numbers(held)
            held = ""
            continue
        cuts = [match.start() for match in CUT.finditer(held)]
        if cuts:
            ready, held = held[: cuts[-1]], held[cuts[-1] :]
            yield encode_text(ready, encoder)


def numbers(text: str) -> list[int]:
    """Read integers separated by blanks, commas or brackets.

    Raises
    ------
    ValueError
        Naming the first word that is no integer.
    """
    words = text.replace(",", " ").replace("[", " ").replace("]", " ").split()
    try:
        return [int(word) for word in words]
    except ValueError:
        bad = next(word for word in words if not word.lstrip("-").isdigit())
        raise ValueError(f"token ids must be integers, got {bad!r}") from None
