"""Phonemes of English engines in ARPAbet.

Takes IPA phonemes as espeak-ng, phonemizer or gruut write them for English and gives ARPAbet. A
phoneme that is not in the table is an error: nothing is guessed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

__all__ = ["IPA_TO_ARPABET", "to_arpabet"]

_TABLE = {
    # Consonants.
    **{
        letter: letter.upper()
        for letter in ["b", "d", "f", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"]
    },
    **{"ɡ": "G", "g": "G", "h": "HH", "j": "Y", "ŋ": "NG", "ɹ": "R", "ɫ": "L", "x": "K"},
    **{"ð": "DH", "θ": "TH", "ʃ": "SH", "ʒ": "ZH", "tʃ": "CH", "dʒ": "JH", "ɾ": "DX", "ʔ": "T"},
    **{"n̩": "AH N", "l̩": "AH L", "əl": "AH L", "m̩": "AH M", "ʍ": "W", "hw": "W", "ɬ": "L"},
    # Vowels.
    **{"ɑ": "AA", "a": "AE", "æ": "AE", "ɐ": "AH", "ə": "AH", "ʌ": "AH", "ɒ": "AA", "ɔ": "AO"},
    **{"e": "EH", "ɛ": "EH", "ɚ": "ER", "ɝ": "ER", "ɜ": "ER", "ɜɹ": "ER", "əɹ": "ER"},
    **{"ɜ˞": "ER", "ə˞": "ER", "ɪ": "IH", "ᵻ": "IH", "ɨ": "IH", "i": "IY", "ʊ": "UH", "u": "UW"},
    **{"o": "AO", "aɪ": "AY", "aʊ": "AW", "eɪ": "EY", "oʊ": "OW", "əʊ": "OW", "ɔɪ": "OY"},
    # Vowels that espeak-ng and gruut write together with what follows.
    **{"ɑɹ": "AA R", "ɔɹ": "AO R", "oɹ": "AO R", "ɛɹ": "EH R", "eɹ": "EH R", "ɪɹ": "IH R"},
    **{"iɹ": "IH R", "ʊɹ": "UH R", "aɪɚ": "AY ER", "aɪə": "AY AH", "aʊɚ": "AW ER", "iə": "IY AH"},
    **{"aɪəɹ": "AY ER", "ju": "Y UW", "ɪə": "IH AH", "ʊə": "UH AH", "eə": "EH AH"},
}

IPA_TO_ARPABET: Mapping[str, tuple[str, ...]] = {
    unicodedata.normalize("NFD", key): tuple(value.split()) for key, value in _TABLE.items()
}
"""ARPAbet phones of each phoneme, without stress, length and ties."""

_REMOVED = str.maketrans("", "", "ˈˌːˑ\u0361\u035c\u200d.|‖")


def to_arpabet(phonemes: Iterable[str], *, word: str | None = None) -> tuple[str, ...]:
    """Write IPA phonemes of English in ARPAbet.

    Parameters
    ----------
    phonemes
        Whole phonemes: ``"tʃ"`` is one, ``"oːɹ"`` may be.
    word
        What they are a pronunciation of, for the message.

    Raises
    ------
    ValueError
        If one is not in `IPA_TO_ARPABET`.
    """
    found: list[str] = []
    for phoneme in phonemes:
        plain = unicodedata.normalize("NFD", phoneme).translate(_REMOVED).strip()
        if not plain:
            continue
        if plain not in IPA_TO_ARPABET:
            of = "" if word is None else f" of {word!r}"
            raise ValueError(
                f"phoneme {phoneme!r}{of} has no ARPAbet; write IPA (alphabet='ipa') for other "
                "languages than English"
            )
        found += IPA_TO_ARPABET[plain]
    return tuple(found)
