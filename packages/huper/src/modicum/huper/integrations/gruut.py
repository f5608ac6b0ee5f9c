"""Gruut as a g2p: dictionaries and models of several languages that work offline.

The package is imported when a `Gruut` is made.
"""

from __future__ import annotations

from importlib import import_module

from modicum.huper.g2p import Word
from modicum.huper.g2p.english import to_arpabet

__all__ = ["Gruut"]


class Gruut:
    """Ask gruut.

    Parameters
    ----------
    language
        Such as ``"en-us"``; gruut needs the data of the language, ``gruut-lang-de`` for German.
    alphabet
        ``"arpabet"``, ``"ipa"``, or None: ARPAbet for English and IPA for others.

    Raises
    ------
    ImportError
        Without the package ``gruut``.
    ValueError
        If the alphabet is neither, or gruut has no such language.
    """

    def __init__(self, language: str = "en-us", *, alphabet: str | None = None) -> None:
        try:
            self._gruut = import_module("gruut")
        except ImportError as error:
            raise ImportError('gruut is not here: pip install "modicum-huper[gruut]"') from error
        if alphabet is None:
            alphabet = "arpabet" if language.startswith("en") else "ipa"
        if alphabet not in ("arpabet", "ipa"):
            raise ValueError(f'alphabet must be "arpabet" or "ipa", not {alphabet!r}')
        if not self._gruut.is_language_supported(language):
            raise ValueError(
                f"gruut has no language {language!r} here; install gruut-lang-"
                f"{language.split('-')[0].lower()}"
            )
        self.language, self.alphabet = language, alphabet

    def __call__(self, text: str) -> list[Word]:
        """Return the words of a text.

        Raises
        ------
        ValueError
            If the text has no word, a word no phonemes, or a phoneme no ARPAbet.
        """
        found = []
        for sentence in self._gruut.sentences(text, lang=self.language):
            for word in sentence:
                if not word.is_spoken:
                    continue
                if not word.phonemes:
                    raise ValueError(f"gruut has no phonemes for {word.text!r}")
                found.append(Word(word.text, self._phones(word.phonemes, word.text)))
        if not found:
            raise ValueError(f"there is no word in {text!r}")
        return found

    def _phones(self, phonemes: list[str], word: str) -> tuple[str, ...]:
        if self.alphabet == "arpabet":
            return to_arpabet(phonemes, word=word)
        plain = (phoneme.lstrip("ˈˌ") for phoneme in phonemes)
        return tuple(phoneme for phoneme in plain if phoneme not in ("", "|", "‖"))
