"""Inventories: which symbols a model has, in which order, and what others are called in it.

Takes and gives sequences of phones: strings, one token for each phone, never characters. Knows the
tables of ARPAbet and TIMIT and their IPA; knows no audio, no model and no dictionary.

Sources: the vocabularies of "HuPER: A Human-Inspired Framework for Phonetic Perception" (arXiv
2602.01634); the folding of TIMIT's 61 symbols after Lee and Hon, "Speaker-independent phone
recognition using hidden Markov models" (IEEE TASSP 37, 1989).
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "ARPABET39",
    "ARPABET40",
    "ARPABET_TO_IPA",
    "CORRECTOR_INSERTIONS",
    "CORRECTOR_OPS",
    "FOLDS",
    "IGNORED",
    "TIMIT61",
    "PhoneSet",
    "arpabet_to_ipa",
    "fold",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SPECIALS = ("<PAD>", "<UNK>", "<BOS>", "<EOS>", "|")
"""The first five symbols of the public recogniser: blank, unknown, both ends, word boundary."""

ARPABET39 = _words(
    "AA AE AH AW AY B CH D DH DX EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W"
    " Y Z ZH"
)
"""The phones of the public recogniser, in the order of their ids: a flap (DX), no AO."""

ARPABET40 = tuple(sorted((*ARPABET39, "AO")))
"""The phones of the public corrector: the same and AO."""

TIMIT61 = _words(
    "aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv"
    " ih ix iy jh k kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh"
)
"""TIMIT's symbols, alphabetically, as its transcripts spell them."""

CORRECTOR_OPS = ("KEEP", "DEL", *(f"SUB:{phone}" for phone in ("<PAD>", *ARPABET40)))
"""Operations of the public corrector by id; its head is one wider."""

CORRECTOR_INSERTIONS = ("<NONE>", "<PAD>", *ARPABET40)
"""Insertions of the public corrector by id."""

IGNORED = frozenset({"", "'", "ˈ", "ˌ", "|", "SIL", "SP", "H#", "PAU", "EPI", "Q", "<EPS>"})
"""What dictionaries and transcripts write that is no phone: marks, silences, the glottal stop."""

_CLOSURES = {"BCL": "b̚", "DCL": "d̚", "GCL": "ɡ̚", "KCL": "k̚", "PCL": "p̚", "TCL": "t̚"}

FOLDS: Mapping[str, str] = {
    "AO": "AA",
    "AX": "AH",
    "AX-H": "AH",
    "AXH": "AH",
    "AXR": "ER",
    "IX": "IH",
    "UX": "UW",
    "HV": "HH",
    "EL": "L",
    "EM": "M",
    "EN": "N",
    "NX": "N",
    "ENG": "NG",
    "DX": "T",
    "ZH": "SH",
}
"""What a phone is called in an inventory that has it not; applied until one is found."""

ARPABET_TO_IPA: Mapping[str, tuple[str, ...]] = {
    **{letter.upper(): (letter,) for letter in _words("b d f k l m n p s t v w z")},
    "AA": ("ɑ",),
    "AE": ("æ",),
    "AH": ("ʌ",),
    "AO": ("ɔ",),
    "AW": ("a", "ʊ"),
    "AX": ("ə",),
    "AX-H": ("ə̥",),
    "AXR": ("ə˞",),
    "AY": ("a", "ɪ"),
    "CH": ("t͡ʃ",),
    "DH": ("ð",),
    "DX": ("ɾ",),
    "EH": ("ɛ",),
    "EL": ("l̩",),
    "EM": ("m̩",),
    "EN": ("n̩",),
    "ENG": ("ŋ̍",),
    "ER": ("ɜ˞",),
    "EY": ("e", "ɪ"),
    "G": ("ɡ",),
    "HH": ("h",),
    "HV": ("ɦ",),
    "IH": ("ɪ",),
    "IX": ("ɨ",),
    "IY": ("i",),
    "JH": ("d͡ʒ",),
    "NG": ("ŋ",),
    "NX": ("ɾ̃",),
    "OW": ("o", "ʊ"),
    "OY": ("ɔ", "ɪ"),
    "Q": ("ʔ",),
    "R": ("ɹ",),
    "SH": ("ʃ",),
    "TH": ("θ",),
    "UH": ("ʊ",),
    "UW": ("u",),
    "UX": ("ʉ",),
    "Y": ("j",),
    "ZH": ("ʒ",),
}
"""IPA segments of each phone, NFD: diphthongs are two, affricates one with a tie bar."""


def arpabet_to_ipa(phones: Iterable[str], *, closures: str = "drop") -> tuple[str, ...]:
    """Write ARPAbet or TIMIT phones in IPA.

    Parameters
    ----------
    phones
        Phones in any case, with or without stress digits. What is in `IGNORED` is left out, but for
        the glottal stop.
    closures
        ``"drop"`` or ``"keep"``: TIMIT's closures as nothing, or as stops without release.

    Returns
    -------
    tuple of str
        IPA segments; there may be more than there are phones.

    Raises
    ------
    ValueError
        If a phone is unknown or `closures` is neither.
    """
    if closures not in ("drop", "keep"):
        raise ValueError(f'closures must be "drop" or "keep", not {closures!r}')
    found: list[str] = []
    for phone in _tokens(phones):
        name = _plain(phone)
        if name in ARPABET_TO_IPA:
            found += ARPABET_TO_IPA[name]
        elif name in _CLOSURES:
            found += [_CLOSURES[name]] if closures == "keep" else []
        elif name not in IGNORED:
            raise ValueError(f"{phone!r} is no phone of ARPAbet or TIMIT")
    return tuple(found)


def fold(phones: Iterable[str], inventory: Iterable[str] = ARPABET39) -> tuple[str, ...]:
    """Write phones of ARPAbet or TIMIT in an inventory that has fewer; see `PhoneSet.canonicalise`.

    Raises
    ------
    ValueError
        If a phone has no name there.
    """
    known = tuple(inventory)
    return PhoneSet(("<PAD>", *known), 0, frozenset({"<PAD>"})).canonicalise(phones)


@dataclass(frozen=True)
class PhoneSet:
    """The symbols of a model.

    Attributes
    ----------
    symbols
        All C symbols in the order of their ids, specials included.
    blank
        Id of the blank of CTC, often that of the padding.
    specials
        Symbols that are no phones; the blank is one even if it is not named.

    Raises
    ------
    ValueError
        If symbols repeat, a special is none of them, there is no phone, or the blank is no id.
    """

    symbols: tuple[str, ...]
    blank: int = 0
    specials: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(map(str, self.symbols)))
        if not 0 <= self.blank < len(self.symbols):
            raise ValueError(f"blank must be an id below {len(self.symbols)}, not {self.blank}")
        specials = frozenset(map(str, self.specials)) | {self.symbols[self.blank]}
        object.__setattr__(self, "specials", specials)
        ids: dict[str, int] = {}
        for number, symbol in enumerate(self.symbols):
            same = unicodedata.normalize("NFD", symbol)
            if same in ids:
                raise ValueError(f"{symbol!r} has two ids, {ids[same]} and {number}")
            ids[same] = number
        if missing := specials - set(self.symbols):
            raise ValueError(f"specials must be symbols; {', '.join(sorted(missing))} are none")
        object.__setattr__(self, "_ids", ids)
        phones = tuple(symbol for symbol in self.symbols if symbol not in specials)
        if not phones:
            raise ValueError("a phone set needs at least one symbol that is no special")
        object.__setattr__(self, "_phones", phones)
        spelled = {_plain(symbol) for symbol in phones}
        object.__setattr__(
            self, "_is_spelled_out", spelled <= {*ARPABET_TO_IPA, *map(str.upper, TIMIT61)}
        )

    @property
    def phones(self) -> tuple[str, ...]:
        """The symbols that are phones, in the order of their ids."""
        phones: tuple[str, ...] = self.__dict__["_phones"]
        return phones

    @property
    def ids(self) -> np.ndarray:
        """The ids of `phones`, int64 ``(P,)``."""
        return self.encode(self.phones)

    def __len__(self) -> int:
        """Return C, the number of symbols."""
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        """Say whether there is such a symbol, special or not."""
        return isinstance(symbol, str) and unicodedata.normalize("NFD", symbol) in self._by_name

    @property
    def _by_name(self) -> dict[str, int]:
        ids: dict[str, int] = self.__dict__["_ids"]
        return ids

    def id(self, phone: str) -> int:
        """Return the id of a symbol.

        Raises
        ------
        ValueError
            If there is none of that name.
        """
        found = self._by_name.get(unicodedata.normalize("NFD", str(phone)))
        if found is None:
            raise ValueError(
                f"{phone!r} is none of the {len(self.phones)} phones "
                f"({', '.join(self.phones[:6])}, …)"
            )
        return found

    def encode(self, phones: Iterable[str]) -> np.ndarray:
        """Return the ids of symbols, int64 ``(L,)``; raises ValueError as `id` does."""
        return np.array([self.id(phone) for phone in _tokens(phones)], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> tuple[str, ...]:
        """Return the symbols of ids.

        Raises
        ------
        ValueError
            If a number is no id.
        """
        numbers = [int(number) for number in ids]
        for number in numbers:
            if not 0 <= number < len(self.symbols):
                raise ValueError(f"ids must be below {len(self.symbols)}, not {number}")
        return tuple(self.symbols[number] for number in numbers)

    def canonicalise(self, phones: Iterable[str], *, word: str | None = None) -> tuple[str, ...]:
        """Return phones by the names that they have here.

        A phone that is not here loses its stress digit, then takes its ARPAbet name in capitals,
        then its name by `FOLDS` (AO becomes AA where there is no AO). What is in `IGNORED`, and
        closures of TIMIT, are left out; but q is a phone where the inventory is IPA. Nothing is
        guessed beyond that.

        Parameters
        ----------
        phones
            One string for each phone.
        word
            What they are a pronunciation of, for the message.

        Raises
        ------
        ValueError
            If a phone has no name here.
        TypeError
            If `phones` is one string: its characters are no phones.
        """
        found = []
        for phone in _tokens(phones):
            name = self._name_of(phone)
            if name is None:
                of = "" if word is None else f" of {word!r}"
                raise ValueError(
                    f"phone {phone!r}{of} is none of the {len(self.phones)} phones of this "
                    f"inventory ({', '.join(self.phones[:6])}, …) and has no name there"
                )
            if name:
                found.append(name)
        return tuple(found)

    def _name_of(self, phone: str) -> str | None:
        """Return the name of a phone here, "" for what is left out, None for what is unknown."""
        name = unicodedata.normalize("NFD", phone.strip())
        for spelled in (name, _plain(name), _plain(name).lower()):
            number = self._by_name.get(spelled)
            if number is not None and self.symbols[number] not in self.specials:
                return self.symbols[number]
        name = _plain(name)
        if name == "Q" and not self.__dict__["_is_spelled_out"]:
            # A uvular stop in IPA, a glottal stop in TIMIT.
            return None
        if name in IGNORED or name in _CLOSURES:
            return ""
        return self._name_of(FOLDS[name]) if name in FOLDS else None

    # Inventories --------------------------------------------------------------------------------

    @classmethod
    def arpabet39(cls) -> PhoneSet:
        """Return the 44 symbols of the public recogniser, in its order; the blank is 0."""
        return cls((*SPECIALS, *ARPABET39), 0, frozenset(SPECIALS))

    @classmethod
    def arpabet40(cls) -> PhoneSet:
        """Return the phones of the public corrector behind the same five specials."""
        return cls((*SPECIALS, *ARPABET40), 0, frozenset(SPECIALS))

    @classmethod
    def timit61(cls) -> PhoneSet:
        """Return TIMIT's symbols behind a blank; silences are phones there, as in its scores."""
        return cls(("<PAD>", *TIMIT61), 0, frozenset({"<PAD>"}))

    @classmethod
    def ipa(cls, segments: Iterable[str]) -> PhoneSet:
        """Return an inventory of IPA segments, in their order, behind a blank."""
        return cls(("<PAD>", *_tokens(segments)), 0, frozenset({"<PAD>"}))

    @classmethod
    def from_vocab_json(cls, path: str | os.PathLike[str], blank: str | None = None) -> PhoneSet:
        """Read ``vocab.json``: a JSON object from symbol to id.

        Reads both public layouts: that of the recogniser, and the corrector's insertions, where
        ``<NONE>`` stands for nothing.

        Parameters
        ----------
        path
            The file.
        blank
            Name of the blank; the padding if None.

        Raises
        ------
        ValueError
            If it holds something else, or ids are not 0 … C − 1.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON: {error}") from None
        if not isinstance(content, dict) or not all(
            isinstance(number, int) and not isinstance(number, bool) for number in content.values()
        ):
            raise ValueError(f"{path} must hold an object from symbols to ids")
        return cls._from_ids(content, blank, (), str(path))

    @classmethod
    def from_hf(cls, processor: Any) -> PhoneSet:
        """Read the vocabulary of a processor or tokenizer of transformers.

        The blank is its padding, as its CTC models have it; all special tokens and the word
        delimiter are specials.

        Raises
        ------
        ValueError
            If it has no padding token.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        blank = tokenizer.pad_token
        if blank is None:
            raise ValueError("the tokenizer has no padding token, which is the blank of CTC")
        delimiter = getattr(tokenizer, "word_delimiter_token", None)
        specials = [*tokenizer.all_special_tokens, *([delimiter] if delimiter else [])]
        return cls._from_ids(tokenizer.get_vocab(), blank, specials, "the tokenizer")

    @classmethod
    def _from_ids(
        cls, ids: Mapping[str, int], blank: str | None, specials: Iterable[str], what: str
    ) -> PhoneSet:
        symbols = sorted(ids, key=lambda symbol: ids[symbol])
        numbers = [ids[symbol] for symbol in symbols]
        if numbers != list(range(len(numbers))):
            raise ValueError(f"{what}: ids must be 0 … {len(numbers) - 1}, each once")
        if blank is None:
            blank = next((one for one in _BLANKS if one in ids), None)
            if blank is None:
                raise ValueError(f"{what} names no blank; give one of {', '.join(symbols[:6])}, …")
        if blank not in ids:
            raise ValueError(f"{what} has no symbol {blank!r}")
        known = {*specials, *(one for one in symbols if one in _NO_PHONES)} & set(symbols)
        return cls(tuple(symbols), ids[blank], frozenset(known))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and strings, ready for JSON."""
        return {
            "symbols": list(self.symbols),
            "blank": self.blank,
            "specials": sorted(self.specials),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PhoneSet:
        """Read what `to_dict` wrote."""
        return cls(tuple(content["symbols"]), int(content["blank"]), frozenset(content["specials"]))


_BLANKS = ("<PAD>", "[PAD]", "<pad>", "<blank>", "<blk>")
_NO_PHONES = frozenset(
    (*SPECIALS, *_BLANKS, "<NONE>", "<unk>", "[UNK]", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]")
)


def _tokens(phones: Iterable[str]) -> Sequence[str]:
    if isinstance(phones, str):
        raise TypeError(f"phones must be a sequence of strings, not the string {phones!r}")
    return [str(phone) for phone in phones]


def _plain(phone: str) -> str:
    """Return a name in capitals without a stress digit."""
    name = phone.strip().upper()
    return name[:-1] if len(name) > 1 and name[-1] in "012" and name[:-1].isalpha() else name
