"""From text to canonical phones: one protocol, several engines.

A g2p is a callable that takes text and gives a list of `Word`: the spelling, its canonical phones,
and other pronunciations. `Espeak` runs the espeak-ng program, `Dict` reads a pronouncing
dictionary; `CMU`, `Gruut` and `Phonemizer` need their packages and are imported when asked for.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from modicum.huper.g2p.dictionary import Dict
    from modicum.huper.g2p.espeak import Espeak
    from modicum.huper.integrations.cmudict import CMU
    from modicum.huper.integrations.gruut import Gruut
    from modicum.huper.integrations.phonemizer import Phonemizer

__all__ = ["CMU", "G2P", "Dict", "Espeak", "Gruut", "Phonemizer", "Word", "phones_of", "spelled"]

_FROM = {
    "CMU": "modicum.huper.integrations.cmudict",
    "Dict": "modicum.huper.g2p.dictionary",
    "Espeak": "modicum.huper.g2p.espeak",
    "Gruut": "modicum.huper.integrations.gruut",
    "Phonemizer": "modicum.huper.integrations.phonemizer",
}

_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'", "‘": "'"})
_BETWEEN = re.compile(r"[\s—–/…]+")


@dataclass(frozen=True)
class Word:
    """A word and how a dictionary says it.

    Attributes
    ----------
    text
        Its spelling.
    phones
        Its first pronunciation.
    alternatives
        Other pronunciations, without the first.
    """

    text: str
    phones: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...] = ()

    @property
    def pronunciations(self) -> tuple[tuple[str, ...], ...]:
        """All pronunciations, the first one first."""
        return (self.phones, *self.alternatives)


@runtime_checkable
class G2P(Protocol):
    """What turns text into canonical phones."""

    def __call__(self, text: str) -> list[Word]:
        """Return the words of a text, in order."""


def phones_of(words: list[Word]) -> tuple[str, ...]:
    """Return the first pronunciations of words, one after the other."""
    return tuple(phone for word in words for phone in word.phones)


def spelled(text: str) -> list[str]:
    """Return the spellings in a text, without the punctuation at their ends.

    Raises
    ------
    ValueError
        If there is none.
    """
    plain = unicodedata.normalize("NFC", text).translate(_APOSTROPHES)
    found = [word for part in _BETWEEN.split(plain) if (word := _bare(part))]
    if not found:
        raise ValueError(f"there is no word in {text!r}")
    return found


def _bare(part: str) -> str:
    """Give a part of a text without what stands before its first and after its last letter."""
    # Letters, marks (vowel signs are some) and numbers.
    places = [at for at, one in enumerate(part) if unicodedata.category(one)[0] in "LMN"]
    return part[places[0] : places[-1] + 1] if places else ""


def __getattr__(name: str) -> Any:
    if name in _FROM:
        found = globals()[name] = getattr(import_module(_FROM[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
