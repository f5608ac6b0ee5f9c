"""Corpora that commands take: JSONL files and Kaldi folders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modicum.huper.training import Labelled

__all__ = ["FIELDS", "labelled", "phones_in", "rows_of"]

FIELDS: Mapping[str, str] = {
    "realized": "real_phonemes",
    "canonical": "phonemes",
    "label": "label_phonemes",
}
"""Names of labels on the command line, and fields of a corpus."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a JSONL corpus; ``audio_path`` becomes relative to nothing.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is no JSON object with an ``id``, or an id is there twice.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ValueError(f'{path}, line {number} is no JSON object with an "id"')
        if row["id"] in rows:
            raise ValueError(f"{path} has {row['id']!r} twice")
        if isinstance(row.get("audio_path"), str):
            row["audio_path"] = str(path.parent / row["audio_path"])
        rows[row["id"]] = row
    return list(rows.values())


def phones_in(row: Mapping[str, Any], field: str, path: Path) -> tuple[str, ...]:
    """Return the phones of a field: a list, or symbols with spaces between them.

    Raises
    ------
    ValueError
        If the field is missing or is neither.
    """
    value = row.get(field)
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise ValueError(f"{path}: {row['id']} has no phones in the field {field!r}, but {value!r}")


def labelled(path: Path, label: str) -> "list[Labelled]":
    """Read utterances with their labels.

    Raises
    ------
    FileNotFoundError, ValueError
        As `rows_of`, and if there is no such kind of label, or an utterance has none or no audio.
    """
    from modicum.huper.training import Labelled

    if label not in FIELDS:
        raise ValueError(f"--label must be one of {', '.join(FIELDS)}, not {label!r}")
    found = []
    for row in rows_of(path):
        phones = phones_in(row, FIELDS[label], path)
        if "audio_path" not in row:
            raise ValueError(f"{path}: {row['id']} has no audio_path")
        found.append(Labelled(row["audio_path"], phones, float(row.get("weight", 1)), row["id"]))
    return found
