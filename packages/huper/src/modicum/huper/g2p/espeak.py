"""The espeak-ng program as a g2p: any of its languages, and digits and abbreviations too.

Words are pronounced in their sentence. The program joins some words into one ("of the"), and says
others as several ("42"); such a text is asked for word by word.
"""

from __future__ import annotations

import functools

from modicum.huper import espeak
from modicum.huper.g2p import Word, spelled
from modicum.huper.g2p.english import to_arpabet

__all__ = ["Espeak"]


class Espeak:
    """Ask espeak-ng.

    Parameters
    ----------
    voice
        A language of the program, such as ``"en-us"`` or ``"de"``.
    alphabet
        ``"arpabet"``, ``"ipa"``, or None: ARPAbet for English voices and IPA for others. IPA comes
        as espeak-ng's phonemes, without marks of stress.
    length
        Keep the marks of long sounds in IPA.

    Raises
    ------
    FileNotFoundError
        If the program is not installed; the message says how to.
    ValueError
        If the alphabet is neither.
    """

    def __init__(
        self, voice: str = "en-us", *, alphabet: str | None = None, length: bool = True
    ) -> None:
        espeak.program()
        if alphabet is None:
            alphabet = "arpabet" if voice.startswith("en") else "ipa"
        if alphabet not in ("arpabet", "ipa"):
            raise ValueError(f'alphabet must be "arpabet" or "ipa", not {alphabet!r}')
        self.voice, self.alphabet, self.length = voice, alphabet, length

    def __call__(self, text: str) -> list[Word]:
        """Return the words of a text.

        The first pronunciation is that in the sentence, a different one of the word alone is the
        alternative: "the end" has DH IH, "the" DH AH.

        Raises
        ------
        ValueError
            If the text has no word, or a phoneme has no ARPAbet.
        """
        texts = spelled(text)
        parts = [_alone(one, self.voice, self.length) for one in texts]
        alone = [
            tuple(phone for word in spoken for phone in self._phones(word, one))
            for one, spoken in zip(texts, parts, strict=True)
        ]
        together = [self._phones(word, text) for word in espeak.ipa_words(text, self.voice)]
        # Joined words are missing; a number is several. Only one for one is certain.
        if len(together) != len(texts) or any(len(spoken) != 1 for spoken in parts):
            return [Word(one, phones) for one, phones in zip(texts, alone, strict=True)]
        return [
            Word(one, phones, () if other == phones else (other,))
            for one, phones, other in zip(texts, together, alone, strict=True)
        ]

    def _phones(self, phonemes: tuple[str, ...], word: str) -> tuple[str, ...]:
        if self.alphabet == "arpabet":
            return to_arpabet(phonemes, word=word)
        if self.length:
            return phonemes
        return tuple(phoneme.rstrip("ːˑ") for phoneme in phonemes)


@functools.lru_cache(maxsize=50_000)
def _alone(word: str, voice: str, length: bool) -> tuple[tuple[str, ...], ...]:
    return espeak.ipa_words(word, voice, length=length)
