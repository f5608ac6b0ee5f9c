"""Edits somebody may make to a marked text, on token ids and on characters.

Takes a response and a `numpy.random.Generator`, gives the edited response and, for each of its
elements, which element of the original it is (``-1`` where it is none). Edits chain: the result of
one may be handed to the next, and the provenance still refers to the first original. Knows nothing
of keys or tokenizers.

A rate is a share of the elements: exactly ``round(rate * n)`` of them are hit, at random places.

Legend: ``T`` tokens of a text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.watermark.contexts import token_ids

Ids = NDArray[np.int64]
Proposal = Callable[[Ids, Ids, np.random.Generator], ArrayLike]
"""``proposal(positions_N, ids_T, rng) -> ids_N``: new tokens for (or before) some positions."""

FOREIGN = -1
"""Provenance of an element that is not in the original."""

# Left and right neighbours on a QWERTY keyboard.
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    letter: row[max(i - 1, 0) : i] + row[i + 1 : i + 2]
    for row in ROWS
    for i, letter in enumerate(row)
}


@dataclass(frozen=True, eq=False)
class EditedTokens:
    """An edited response.

    Attributes
    ----------
    ids_T
        int64 token ids after the edit.
    source_T
        int64; position of each token in the original, ``-1`` for a foreign one.
    original_length
        Number of tokens of the original.
    """

    ids_T: Ids
    source_T: Ids
    original_length: int

    @property
    def kept_T(self) -> NDArray[np.bool_]:
        """True where a token is one of the original."""
        return self.source_T != FOREIGN

    @property
    def survival(self) -> float:
        """Share of the original that is still there; 1 for an empty original."""
        return int(self.kept_T.sum()) / self.original_length if self.original_length else 1.0


@dataclass(frozen=True, eq=False)
class EditedText:
    """An edited string; ``source[i]`` tells where its character i stood, ``-1`` if nowhere."""

    text: str
    source: Ids
    original_length: int

    @property
    def survival(self) -> float:
        """Share of the original characters that are still there; 1 for an empty original."""
        kept = int((self.source != FOREIGN).sum())
        return kept / self.original_length if self.original_length else 1.0


def _tokens(tokens: ArrayLike | EditedTokens) -> EditedTokens:
    if isinstance(tokens, EditedTokens):
        return tokens
    ids_T = token_ids(tokens)
    return EditedTokens(ids_T.copy(), np.arange(len(ids_T)), len(ids_T))


def _count(rate: float, n: int) -> int:
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.number):
        raise TypeError(f"a rate must be a number, got {rate!r}")
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate must lie in [0, 1], got {rate!r}")
    return int(np.floor(float(rate) * n + 0.5))


def _generator(rng: np.random.Generator) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, got {type(rng).__name__}; "
            "for instance numpy.random.default_rng(0)"
        )
    return rng


def _choose(rng: np.random.Generator, n: int, count: int) -> Ids:
    return np.sort(_generator(rng).choice(n, size=count, replace=False)).astype(np.int64)


def _propose(
    places_N: Ids,
    ids_T: Ids,
    rng: np.random.Generator,
    vocab_size: int | None,
    proposal: Proposal | None,
    different: bool,
) -> Ids:
    if proposal is not None and vocab_size is None:
        new_N = token_ids(np.asarray(proposal(places_N, ids_T, rng)))
        if new_N.shape != places_N.shape:
            raise ValueError(
                f"the proposal returned {len(new_N)} tokens for {len(places_N)} places"
            )
        return new_N
    if vocab_size is None or proposal is not None:
        raise ValueError("give either vocab_size (uniform tokens) or proposal, not both or none")
    if not different:
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be positive, got {vocab_size}")
        return rng.integers(0, vocab_size, size=len(places_N))
    if vocab_size < 2 or (len(ids_T) and ids_T.max() >= vocab_size):
        raise ValueError(f"vocab_size {vocab_size} must exceed 1 and every token id")
    draw_N = rng.integers(0, vocab_size - 1, size=len(places_N))
    return draw_N + (draw_N >= ids_T[places_N])


def substitute(
    tokens: ArrayLike | EditedTokens,
    rate: float,
    rng: np.random.Generator,
    *,
    vocab_size: int | None = None,
    proposal: Proposal | None = None,
) -> EditedTokens:
    """Replace a share of the tokens.

    Parameters
    ----------
    tokens
        Token ids ``[T]``, or the result of an earlier edit.
    rate
        Share of tokens to replace.
    rng
        Source of randomness.
    vocab_size
        Replace by a uniform token other than the old one.
    proposal
        Or: a sampler of replacements. A token that it leaves as it is stays an original.

    Returns
    -------
    EditedTokens

    Raises
    ------
    TypeError, ValueError
        If a rate is outside [0, 1], or not exactly one of ``vocab_size`` and ``proposal`` is given.
    """
    old = _tokens(tokens)
    place_N = _choose(rng, len(old.ids_T), _count(rate, len(old.ids_T)))
    new_N = _propose(place_N, old.ids_T, rng, vocab_size, proposal, different=True)
    ids_T, source_T = old.ids_T.copy(), old.source_T.copy()
    source_T[place_N] = np.where(new_N == ids_T[place_N], source_T[place_N], FOREIGN)
    ids_T[place_N] = new_N
    return EditedTokens(ids_T, source_T, old.original_length)


def delete(tokens: ArrayLike | EditedTokens, rate: float, rng: np.random.Generator) -> EditedTokens:
    """Remove a share of the tokens; parameters as in `substitute`."""
    old = _tokens(tokens)
    place_N = _choose(rng, len(old.ids_T), _count(rate, len(old.ids_T)))
    return EditedTokens(
        np.delete(old.ids_T, place_N), np.delete(old.source_T, place_N), old.original_length
    )


def insert(
    tokens: ArrayLike | EditedTokens,
    rate: float,
    rng: np.random.Generator,
    *,
    vocab_size: int | None = None,
    proposal: Proposal | None = None,
) -> EditedTokens:
    """Insert ``round(rate * T)`` tokens, each at a random one of the ``T + 1`` gaps.

    Parameters as in `substitute`; a proposal gets, for each new token, the position it will stand
    before (``T`` for the end). Several tokens may enter one gap.
    """
    old = _tokens(tokens)
    T = len(old.ids_T)
    gap_N = np.sort(_generator(rng).integers(0, T + 1, size=_count(rate, T)))
    new_N = _propose(gap_N, old.ids_T, rng, vocab_size, proposal, different=False)
    return EditedTokens(
        np.insert(old.ids_T, gap_N, new_N),
        np.insert(old.source_T, gap_N, FOREIGN),
        old.original_length,
    )


def swap(tokens: ArrayLike | EditedTokens, rate: float, rng: np.random.Generator) -> EditedTokens:
    """Exchange disjoint pairs of neighbours, so that a share of the tokens moves.

    ``round(rate * T)`` tokens move, one more if that is odd and there is room, one less if not. All
    choices of pairs are equally likely; every token stays an original one. Parameters as in
    `substitute`.
    """
    old = _tokens(tokens)
    T = len(old.ids_T)
    pairs = min((_count(rate, T) + 1) // 2, T // 2)
    # Choosing pairs among T is choosing single places among T - pairs and widening each by one.
    left_N = _choose(rng, T - pairs, pairs) + np.arange(pairs)
    order_T = np.arange(T)
    order_T[left_N], order_T[left_N + 1] = left_N + 1, left_N
    return EditedTokens(old.ids_T[order_T], old.source_T[order_T], old.original_length)


def truncate(
    tokens: ArrayLike | EditedTokens,
    keep: float,
    *,
    part: Literal["start", "end", "random"] = "start",
    rng: np.random.Generator | None = None,
) -> EditedTokens:
    """Keep one contiguous piece.

    Parameters
    ----------
    tokens
        Token ids ``[T]``, or the result of an earlier edit.
    keep
        Share of the tokens that stays.
    part
        Which piece stays: the start, the end, or one at a random place.
    rng
        Needed for ``part="random"``.

    Raises
    ------
    TypeError, ValueError
        If the share is outside [0, 1] or the part is unknown.
    """
    old = _tokens(tokens)
    T = len(old.ids_T)
    length = _count(keep, T)
    if part == "random":
        if rng is None:
            raise ValueError('part="random" needs an rng')
        first = int(_generator(rng).integers(0, T - length + 1))
    elif part in ("start", "end"):
        first = 0 if part == "start" else T - length
    else:
        raise ValueError(f'part must be "start", "end" or "random", got {part!r}')
    piece = slice(first, first + length)
    return EditedTokens(old.ids_T[piece], old.source_T[piece], old.original_length)


def splice(
    tokens: ArrayLike | EditedTokens, *, before: ArrayLike = (), after: ArrayLike = ()
) -> EditedTokens:
    """Put other text before and after.

    Parameters
    ----------
    tokens
        Token ids ``[T]``, or the result of an earlier edit.
    before, after
        Token ids of the other text; all of them count as foreign.
    """
    old = _tokens(tokens)
    head, tail = token_ids(before), token_ids(after)
    return EditedTokens(
        np.concatenate([head, old.ids_T, tail]),
        np.concatenate([head * 0 + FOREIGN, old.source_T, tail * 0 + FOREIGN]),
        old.original_length,
    )


def copy_paste(
    tokens: ArrayLike | EditedTokens,
    host: ArrayLike,
    num_spans: int,
    rng: np.random.Generator,
) -> EditedTokens:
    """Cut the text into spans and scatter them, in order, over another text.

    Parameters
    ----------
    tokens
        Token ids ``[T]``, or the result of an earlier edit.
    host
        Token ids of the other text; all of it stays, as foreign tokens.
    num_spans
        Number of spans, all non-empty; each goes to another gap of the host.
    rng
        Source of randomness; cuts and gaps are uniform.

    Raises
    ------
    ValueError
        If there are fewer tokens, or fewer gaps in the host, than spans.
    """
    old = _tokens(tokens)
    host_H = token_ids(host)
    T, gaps = len(old.ids_T), len(host_H) + 1
    if isinstance(num_spans, bool) or not isinstance(num_spans, int | np.integer):
        raise TypeError(f"num_spans must be an int, got {num_spans!r}")
    if not 1 <= num_spans <= min(T, gaps):
        raise ValueError(
            f"num_spans must lie in [1, {min(T, gaps)}] for {T} tokens and {gaps} gaps in the "
            f"host, got {num_spans}"
        )
    cut_S = _choose(rng, T - 1, num_spans - 1) + 1
    gap_S = _choose(rng, gaps, num_spans)
    span_T = np.searchsorted(cut_S, np.arange(T), side="right")
    # Each token of the text goes into its span's gap; np.insert keeps their order.
    place_T = gap_S[span_T]
    return EditedTokens(
        np.insert(host_H, place_T, old.ids_T),
        np.insert(np.full(len(host_H), FOREIGN, dtype=np.int64), place_T, old.source_T),
        old.original_length,
    )


Pieces = list[tuple[str, int]]


def _characters(text: str | EditedText) -> tuple[Pieces, int]:
    if isinstance(text, EditedText):
        return list(zip(text.text, text.source.tolist(), strict=True)), text.original_length
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    return list(zip(text, range(len(text)), strict=True)), len(text)


def _joined(pieces: Pieces, original_length: int) -> EditedText:
    source = np.array([s for _, s in pieces], dtype=np.int64)
    return EditedText("".join(c for c, _ in pieces), source, original_length)


def _foreign(string: str) -> Pieces:
    return [(c, FOREIGN) for c in string]


def change_case(
    text: str | EditedText,
    rate: float,
    rng: np.random.Generator,
    *,
    to: Literal["swap", "upper", "lower"] = "swap",
) -> EditedText:
    """Change the case of a share of the letters that have another one.

    Parameters
    ----------
    text
        A string, or the result of an earlier edit.
    rate
        Share of the letters that the conversion would change.
    rng
        Source of randomness.
    to
        Which conversion.

    Returns
    -------
    EditedText
        A changed letter counts as foreign.

    Raises
    ------
    TypeError, ValueError
        If the rate is outside [0, 1] or the conversion is unknown.
    """
    if to not in ("swap", "upper", "lower"):
        raise ValueError(f'to must be "swap", "upper" or "lower", got {to!r}')
    convert = {"swap": str.swapcase, "upper": str.upper, "lower": str.lower}[to]
    pieces, length = _characters(text)
    able = [i for i, (c, _) in enumerate(pieces) if convert(c) != c]
    hit = {able[j] for j in _choose(rng, len(able), _count(rate, len(able)))}
    out: Pieces = []
    for i, piece in enumerate(pieces):
        out += _foreign(convert(piece[0])) if i in hit else [piece]
    return _joined(out, length)


def change_whitespace(
    text: str | EditedText,
    rate: float,
    rng: np.random.Generator,
    *,
    to: Literal["double", "remove"] = "double",
) -> EditedText:
    """Double or remove a share of the white-space characters; parameters as in `change_case`."""
    if to not in ("double", "remove"):
        raise ValueError(f'to must be "double" or "remove", got {to!r}')
    pieces, length = _characters(text)
    able = [i for i, (c, _) in enumerate(pieces) if c.isspace()]
    hit = {able[j] for j in _choose(rng, len(able), _count(rate, len(able)))}
    out: Pieces = []
    for i, piece in enumerate(pieces):
        if i not in hit:
            out.append(piece)
        elif to == "double":
            out += [piece, (piece[0], FOREIGN)]
    return _joined(out, length)


def typos(text: str | EditedText, rate: float, rng: np.random.Generator) -> EditedText:
    """Mistype a share of the letters.

    Each hit letter is, with equal chances, dropped, doubled, exchanged with the next character or
    replaced by a neighbour on a QWERTY keyboard. A letter without a next character, or without
    neighbours, is doubled instead. Parameters as in `change_case`.
    """
    pieces, length = _characters(text)
    able = [i for i, (c, _) in enumerate(pieces) if c.isalpha()]
    hit = [able[j] for j in _choose(rng, len(able), _count(rate, len(able)))]
    slots: list[Pieces] = [[piece] for piece in pieces]
    order = list(range(len(pieces)))
    for i, kind in zip(hit, rng.integers(0, 4, size=len(hit)), strict=True):
        letter = pieces[i][0]
        near = NEIGHBOURS.get(letter.lower(), "")
        if kind == 0:
            slots[i] = []
        elif kind == 1 and i + 1 < len(pieces):
            order[i], order[i + 1] = order[i + 1], order[i]
        elif kind == 2 and near:
            other = near[int(rng.integers(len(near)))]
            slots[i] = _foreign(other.upper() if letter.isupper() else other)
        else:
            slots[i] = [pieces[i], (letter, FOREIGN)]
    return _joined([piece for i in order for piece in slots[i]], length)


def synonyms(
    text: str | EditedText,
    table: Mapping[str, Sequence[str]],
    rate: float,
    rng: np.random.Generator,
) -> EditedText:
    """Replace a share of the words that a table knows by one of their synonyms.

    Parameters
    ----------
    text
        A string, or the result of an earlier edit.
    table
        Lower-case words and their synonyms, chosen with equal chances. A capital first letter, or
        a word all in capitals, is carried over.
    rate
        Share of the known words to replace.
    rng
        Source of randomness.

    Returns
    -------
    EditedText
        All characters of a new word count as foreign.

    Raises
    ------
    TypeError, ValueError
        If the rate is outside [0, 1], or a word of the table has no synonym or is not lower case.
    """
    for word, others in table.items():
        if word != word.lower() or isinstance(others, str) or not len(others):
            raise ValueError(
                f"the table maps lower-case words to lists of synonyms, got {word!r}: {others!r}"
            )
    pieces, length = _characters(text)
    string = "".join(c for c, _ in pieces)
    known = [m for m in re.finditer(r"\w+", string) if m.group().lower() in table]
    out: Pieces = []
    end = 0
    for j in _choose(rng, len(known), _count(rate, len(known))):
        match = known[j]
        word = match.group()
        others = table[word.lower()]
        new = others[int(rng.integers(len(others)))]
        if word.isupper() and len(word) > 1:
            new = new.upper()
        elif word[0].isupper():
            new = new[:1].upper() + new[1:]
        out += pieces[end : match.start()]
        out += pieces[match.start() : match.end()] if new == word else _foreign(new)
        end = match.end()
    return _joined(out + pieces[end:], length)
