"""Corpora that commands take: JSONL files and Kaldi folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modicum.huper.corpus import Item
    from modicum.huper.training import Labelled

__all__ = ["FIELDS", "HEARD", "check_label", "labelled", "phones_of", "read"]

FIELDS: Mapping[str, str] = {
    "realized": "real_phonemes",
    "canonical": "phonemes",
    "label": "label_phonemes",
}
"""Names of labels on the command line, and fields of a corpus."""

HEARD = "phones"
"""Field of a transcript with its phones."""


def read(path: Path) -> "list[Item]":
    """Read a JSONL file or a Kaldi folder.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is not there, or is none.
    """
    from modicum.huper.corpus import load

    if not path.exists():
        raise FileNotFoundError(f"there is no corpus {path}")
    return load(path)


def check_label(label: str, option: str, *more: str) -> str:
    """Return a kind of label.

    Raises
    ------
    ValueError
        If it is none.
    """
    if label not in (*more, *FIELDS):
        raise ValueError(f"{option} must be one of {', '.join((*more, *FIELDS))}, not {label!r}")
    return label


def phones_of(item: "Item", label: str) -> tuple[str, ...]:
    """Return the phones of a kind of label, or those of a transcript.

    Raises
    ------
    ValueError
        If it has none.
    """
    if label != HEARD:
        return item.phones(label)
    value = item.extra.get(HEARD)
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{item.id!r} has no phones in the field {HEARD!r}, but {value!r}")
    return tuple(value)


def labelled(path: Path, label: str) -> "list[Labelled]":
    """Read utterances with their labels, and with weights where they have some.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read`, and if there is no such kind of label, or an utterance has none or no audio.
    """
    check_label(label, "--label")
    found = []
    for item in read(path):
        if item.audio_path is None:
            raise ValueError(f"{path}: {item.id!r} has no audio_path")
        weight = item.extra.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"{path}: the weight of {item.id!r} must be a number, not {weight!r}")
        found.append(item.labelled(label, float(weight)))
    return found
