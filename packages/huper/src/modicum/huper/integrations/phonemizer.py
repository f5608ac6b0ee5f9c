"""Phonemizer (GPL-3) as a g2p, for its backends espeak, segments and festival.

The package is imported when a `Phonemizer` is made; its espeak backend needs the library of
espeak-ng.
"""

from __future__ import annotations

import re
from importlib import import_module

from modicum.huper.g2p import Word, spelled
from modicum.huper.g2p.english import to_arpabet

__all__ = ["Phonemizer"]

_LANGUAGE_MARK = re.compile(r"\([a-z]{2,3}(?:-[a-z0-9]+)*\)", re.IGNORECASE)


class Phonemizer:
    """Ask phonemizer.

    Parameters
    ----------
    language
        As the backend names it, such as ``"en-us"``.
    backend
        ``"espeak"``, ``"segments"``, ``"festival"`` or ``"espeak-mbrola"``.
    alphabet
        ``"arpabet"``, ``"ipa"``, or None: ARPAbet for English and IPA for others.

    Raises
    ------
    ImportError
        Without the package ``phonemizer``.
    ValueError
        If the alphabet is neither.
    RuntimeError
        From phonemizer, if its backend is not installed.
    """

    def __init__(
        self, language: str = "en-us", backend: str = "espeak", *, alphabet: str | None = None
    ) -> None:
        try:
            backends = import_module("phonemizer.backend")
            separators = import_module("phonemizer.separator")
        except ImportError as error:
            raise ImportError(
                'phonemizer is not here: pip install "modicum-huper[phonemizer]"; it is GPL-3'
            ) from error
        if alphabet is None:
            alphabet = "arpabet" if language.startswith("en") else "ipa"
        if alphabet not in ("arpabet", "ipa"):
            raise ValueError(f'alphabet must be "arpabet" or "ipa", not {alphabet!r}')
        if backend not in backends.BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(backends.BACKENDS)}")
        self._backend = backends.BACKENDS[backend](language)
        self._separator = separators.Separator(phone="_", word=" ")
        self.language, self.alphabet = language, alphabet

    def __call__(self, text: str) -> list[Word]:
        """Return the words of a text, each pronounced alone.

        Raises
        ------
        ValueError
            If the text has no word, or a phoneme no ARPAbet.
        """
        texts = spelled(text)
        spoken = self._backend.phonemize(texts, separator=self._separator, strip=True)
        return [Word(one, self._phones(said, one)) for one, said in zip(texts, spoken, strict=True)]

    def _phones(self, said: str, word: str) -> tuple[str, ...]:
        plain = _LANGUAGE_MARK.sub("", said).translate(str.maketrans("", "", "ˈˌ"))
        phonemes = tuple(filter(None, re.split(r"[_\s]+", plain)))
        return to_arpabet(phonemes, word=word) if self.alphabet == "arpabet" else phonemes
