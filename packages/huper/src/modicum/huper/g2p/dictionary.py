"""A pronouncing dictionary as a g2p.

Reads the format of CMUdict (``WORD  P1 P2``, ``WORD(2)`` for a further pronunciation, comments
behind ``;;;`` or ``#``) and that of aligners (tabs, and probabilities between word and phones).
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from modicum.huper.g2p import G2P, Word, spelled

__all__ = ["Dict", "without_stress"]

_STRESSED = re.compile(r"^([A-Z]+)[012]$")
_NUMBERED = re.compile(r"^(.+)\((\d+)\)$")
_PROBABILITY = re.compile(r"^\d+(?:\.\d+)?$")


class Dict:
    """Look words up.

    Parameters
    ----------
    source
        A file, or a mapping from a spelling to its pronunciations: one sequence of phones, or a
        sequence of such.
    stress
        Keep the digits of stress.
    fallback
        What is asked for a word that is not there; None to raise.

    Attributes
    ----------
    entries : dict
        From a spelling in lower case to its pronunciations.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line or an entry has no phones.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Iterable[str] | Iterable[Iterable[str]]],
        *,
        stress: bool = False,
        fallback: G2P | None = None,
    ) -> None:
        self.fallback = fallback
        pairs = source.items() if isinstance(source, Mapping) else _lines(Path(source))
        self.entries: dict[str, tuple[tuple[str, ...], ...]] = {}
        for spelling, given in pairs:
            key = _key(spelling)
            known = list(self.entries.get(key, ()))
            for phones in _several(given):
                plain = phones if stress else without_stress(phones)
                if not plain:
                    raise ValueError(f"{spelling!r} has a pronunciation without phones")
                if plain not in known:
                    known.append(plain)
            if not known:
                raise ValueError(f"{spelling!r} has no pronunciation")
            self.entries[key] = tuple(known)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, spelling: object) -> bool:
        return isinstance(spelling, str) and _key(spelling) in self.entries

    def __call__(self, text: str) -> list[Word]:
        """Return the words of a text.

        Raises
        ------
        ValueError
            If a word is not in the dictionary and there is no fallback; all such are named.
        """
        found: list[Word] = []
        unknown: list[str] = []
        for spelling in spelled(text):
            known = self.entries.get(_key(spelling))
            if known is not None:
                found.append(Word(spelling, known[0], known[1:]))
            elif self.fallback is not None:
                found += self.fallback(spelling)
            else:
                unknown.append(spelling)
        if unknown:
            digits = any(letter.isdigit() for one in unknown for letter in one)
            raise ValueError(
                f"not in the dictionary: {', '.join(dict.fromkeys(unknown))}; add them or give a "
                f"fallback, e.g. g2p.Espeak()" + ("; spell digits out" if digits else "")
            )
        return found


def without_stress(phones: Iterable[str]) -> tuple[str, ...]:
    """Return ARPAbet phones without their digits: ``AH0`` is ``AH``."""
    return tuple(map(_unstressed, phones))


@functools.lru_cache(maxsize=10_000)
def _unstressed(phone: str) -> str:
    return _STRESSED.sub(r"\1", phone)


def _key(spelling: str) -> str:
    return unicodedata.normalize("NFC", spelling).lower().replace("’", "'")


def _several(given: Iterable[str] | Iterable[Iterable[str]]) -> list[tuple[str, ...]]:
    if isinstance(given, str):
        return [tuple(given.split())]
    items = list(given)
    if items and all(isinstance(item, str) for item in items):
        return [tuple(map(str, items))]
    return [tuple(item.split()) if isinstance(item, str) else tuple(item) for item in items]


def _lines(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    if not path.exists():
        raise FileNotFoundError(f"there is no dictionary {path}")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith((";;;", "#")) or not line.strip():
            continue
        spelling, *phones = re.split(r"\s#", line)[0].split()
        while phones and _PROBABILITY.match(phones[0]):
            phones.pop(0)
        if not phones:
            raise ValueError(f"{path}, line {number}: {spelling!r} has no phones")
        numbered = _NUMBERED.match(spelling)
        found.append((numbered.group(1) if numbered else spelling, tuple(phones)))
    return found
