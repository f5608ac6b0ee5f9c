"""IPA as the feature table spells it, with a list of what it does not know.

Takes IPA as strings or as lists of phones and gives segments that have features. panphon passes
over symbols that it does not know, in silence, so that a wrong symbol costs less than a wrong
phone: here spellings of one segment are made one, and what is left over is named.

Like panphon, it takes the longest segment of the table at each place of a phone.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from modicum.huper.features import feature_table

__all__ = ["Normalised", "Normaliser", "settle"]

_TIE = "\u0361"

_SPELLINGS: Mapping[str, str] = {
    "ɚ": "ə˞",
    "ɝ": "ɜ˞",
    "ᵻ": "ɨ",
    "ᵿ": "ʊ",
    "ɩ": "ɪ",
    "ɷ": "ʊ",
    "g": "ɡ",
    "ε": "ɛ",
    ":": "ː",
    "\u035c": _TIE,  # the same tie, below
    "ʦ": f"t{_TIE}s",
    "ʣ": f"d{_TIE}z",
    "ʧ": f"t{_TIE}ʃ",
    "ʤ": f"d{_TIE}ʒ",
    "ʨ": f"t{_TIE}ɕ",
    "ʥ": f"d{_TIE}ʑ",
    "¹": "˩",
    "²": "˨",
    "³": "˧",
    "⁴": "˦",
    "⁵": "˥",
}
"""Other spellings of what the table has; its tones are letters, its ɡ has no tail."""

_NO_SEGMENTS = "ˈˌ.|‖‿\u200b\u200c\u200d\ufeff"
"""Stress, boundaries, linking, and characters without width: no segments and no marks of them."""

_TONES = "˥˦˧˨˩"
_AFFRICATES = re.compile(r"(t)(?=[sʃɕ])|(d)(?=[zʒʑ])|(ʈ)(?=ʂ)|(ɖ)(?=ʐ)")
_LANGUAGE_MARK = re.compile(r"\([a-z]{2,3}(?:-[a-z0-9]+)*\)")


@dataclass(frozen=True)
class Normalised:
    """Segments and what is not among them.

    Attributes
    ----------
    segments
        In Unicode's NFD, each with features.
    unknown
        Characters that the table does not know, and how often; a mark stands on a ◌.
    """

    segments: tuple[str, ...]
    unknown: Mapping[str, int]


@dataclass(frozen=True)
class Normaliser:
    """Turn IPA into segments that have features.

    Always: NFD; ɚ, ɝ, ᵻ, ASCII g, ligatures of affricates, ASCII colons and ties below are
    respelled; stress, boundaries and marks of a change of language such as ``(en)`` are left out.

    Attributes
    ----------
    length
        ``"keep"`` or ``"drop"`` the mark ː, which is a feature; half-long is short.
    ties
        ``"keep"``: an affricate with a tie is one segment, without one it is two. ``"join"``: ts,
        tʃ … are one in any case. ``"drop"``: they are two in any case.
    tones
        ``"keep"`` (a segment each, as panphon has them) or ``"drop"``.
    on_unknown
        ``"warn"``, ``"raise"`` or ``"drop"`` (say nothing) when there is something unknown.

    Raises
    ------
    ValueError
        If a choice is none of those.
    """

    length: str = "keep"
    ties: str = "keep"
    tones: str = "keep"
    on_unknown: str = "warn"

    def __post_init__(self) -> None:
        for name, choices in (
            ("length", ("keep", "drop")),
            ("ties", ("keep", "join", "drop")),
            ("tones", ("keep", "drop")),
            ("on_unknown", ("warn", "raise", "drop")),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")

    def __call__(self, phones: str | Sequence[str]) -> tuple[str, ...]:
        """Return the segments.

        Parameters
        ----------
        phones
            A string, white space separating phones or not, or a sequence of phones. A phone may
            have several segments, such as aɪ.

        Raises
        ------
        ValueError
            If something is unknown and `on_unknown` is ``"raise"``.
        ImportError
            If panphon is not installed.

        Warns
        -----
        UserWarning
            If something is unknown and `on_unknown` is ``"warn"``.
        """
        found = self.split(phones)
        settle(found.unknown, self.on_unknown)
        return found.segments

    def split(self, phones: str | Sequence[str]) -> Normalised:
        """Return segments and what is unknown, whatever `on_unknown` says."""
        segments: list[str] = []
        unknown: Counter[str] = Counter()
        if isinstance(phones, str):
            phones = _LANGUAGE_MARK.sub(" ", phones).split()
        for phone in phones:
            known, others = _split(self, str(phone))
            segments += known
            unknown.update(others)
        return Normalised(tuple(segments), dict(unknown))


def settle(unknown: Mapping[str, int], on_unknown: str, stacklevel: int = 3) -> None:
    """Raise, warn or say nothing about unknown symbols.

    Raises
    ------
    ValueError
        If there are some and `on_unknown` is ``"raise"``.
    """
    if not unknown or on_unknown == "drop":
        return
    message = (
        f"the feature table does not know {listed(unknown)}; respell them, or they count as "
        "nothing and lower the error"
    )
    if on_unknown == "raise":
        raise ValueError(message)
    warnings.warn(message, stacklevel=stacklevel)


def listed(counts: Mapping[str, int], most: int = 12) -> str:
    """Write the most frequent symbols with their counts."""
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    shown = ", ".join(f"{symbol!r} ({count})" for symbol, count in ranked[:most])
    return f"{shown}, … ({len(ranked)} symbols)" if len(ranked) > most else shown


@lru_cache(maxsize=1 << 16)
def _split(normaliser: Normaliser, phone: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the known segments of a phone, and each unknown character."""
    return _longest(_respelled(normaliser, phone))


def _respelled(normaliser: Normaliser, phone: str) -> str:
    # Precomposed ç is c and a cedilla, in the table as well.
    text = unicodedata.normalize("NFD", phone)
    text = "".join(_SPELLINGS.get(one, one) for one in text if one not in _NO_SEGMENTS)
    text = "".join(text.split())
    text = text.replace("ˑ", "")
    if normaliser.length == "drop":
        text = text.replace("ː", "")
    if normaliser.tones == "drop":
        text = "".join(one for one in text if one not in _TONES)
    if normaliser.ties == "drop":
        text = text.replace(_TIE, "")
    elif normaliser.ties == "join":
        text = _AFFRICATES.sub(lambda stop: stop.group(0) + _TIE, text)
    # A respelled letter may have brought marks out of their order.
    return unicodedata.normalize("NFD", text)


def _longest(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    table, longest = feature_table(), _longest_name()
    known, unknown = [], []
    at = 0
    while at < len(text):
        for size in range(min(longest, len(text) - at), 0, -1):
            if text[at : at + size] in table:
                known.append(text[at : at + size])
                break
        else:
            size = 1
            is_mark = unicodedata.category(text[at]).startswith("M")
            unknown.append(f"◌{text[at]}" if is_mark else text[at])
        at += size
    return tuple(known), tuple(unknown)


@lru_cache(maxsize=1)
def _longest_name() -> int:
    return max(map(len, feature_table()))


def merged(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counts up."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
