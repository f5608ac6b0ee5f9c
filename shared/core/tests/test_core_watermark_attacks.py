"""Attacks: exact amounts, provenance that can be trusted, and refusals."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.watermark import attacks
from modicum.core.watermark.attacks import FOREIGN, EditedText, EditedTokens

V = 50
TEXT = "The Quick brown fox jumps over the lazy dog, and naps in the SUN all day long."

TOKEN_ATTACKS = {
    "substitute": lambda x, r, g: attacks.substitute(x, r, g, vocab_size=V),
    "delete": attacks.delete,
    "insert": lambda x, r, g: attacks.insert(x, r, g, vocab_size=V),
    "swap": attacks.swap,
    "truncate": lambda x, r, g: attacks.truncate(x, 1 - r, part="random", rng=g),
    "splice": lambda x, r, g: attacks.splice(x, before=[1] * int(9 * r), after=[2] * int(5 * r)),
}
TEXT_ATTACKS = {
    "case": attacks.change_case,
    "upper": lambda x, r, g: attacks.change_case(x, r, g, to="upper"),
    "double": attacks.change_whitespace,
    "remove": lambda x, r, g: attacks.change_whitespace(x, r, g, to="remove"),
    "typos": attacks.typos,
    "synonyms": lambda x, r, g: attacks.synonyms(
        x, {"quick": ["fast", "rapid"], "the": ["a"]}, r, g
    ),
}


def ids(n, seed=0):
    return np.random.default_rng(seed).integers(0, V, n)


def check_provenance(original, edited):
    assert edited.ids_T.dtype == edited.source_T.dtype == np.int64
    assert edited.ids_T.shape == edited.source_T.shape
    kept = edited.source_T[edited.kept_T]
    assert len(set(kept.tolist())) == len(kept)
    np.testing.assert_array_equal(edited.ids_T[edited.kept_T], original[kept])
    assert edited.original_length == len(original)
    assert edited.survival == (len(kept) / len(original) if len(original) else 1.0)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(sorted(TOKEN_ATTACKS)), min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 60),
    st.integers(0, 99),
)
def test_provenance_survives_any_chain(names, rate, length, seed):
    original = ids(length, seed)
    before = original.copy()
    edited = original
    rng = np.random.default_rng(seed)
    for name in names:
        edited = TOKEN_ATTACKS[name](edited, rate, rng)
        check_provenance(original, edited)
    np.testing.assert_array_equal(original, before)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.33, 1.0])
def test_amounts_are_exact(rate):
    x = ids(200)
    n = round(rate * 200)
    rng = np.random.default_rng(1)
    sub = attacks.substitute(x, rate, rng, vocab_size=V)
    assert (sub.ids_T != x).sum() == n == (~sub.kept_T).sum()
    gone = attacks.delete(x, rate, rng)
    assert len(gone.ids_T) == 200 - n
    assert (np.diff(gone.source_T) > 0).all()
    more = attacks.insert(x, rate, rng, vocab_size=V)
    assert len(more.ids_T) == 200 + n
    np.testing.assert_array_equal(more.ids_T[more.kept_T], x)
    moved = attacks.swap(x, rate, rng)
    assert (moved.source_T != np.arange(200)).sum() == n
    assert np.abs(moved.source_T - np.arange(200)).max() == (rate > 0)
    assert moved.survival == 1
    short = attacks.truncate(x, rate)
    np.testing.assert_array_equal(short.ids_T, x[:n])
    np.testing.assert_array_equal(attacks.truncate(x, rate, part="end").ids_T, x[200 - n :])
    piece = attacks.truncate(x, rate, part="random", rng=rng)
    assert len(piece.ids_T) == n
    assert (np.diff(piece.source_T) == 1).all()


def test_the_seed_decides():
    x = ids(100)
    for attack in TOKEN_ATTACKS.values():
        a, b = (attack(x, 0.3, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(a.ids_T, b.ids_T)
    for attack in TEXT_ATTACKS.values():
        assert len({attack(TEXT, 0.5, np.random.default_rng(5)).text for _ in range(3)}) == 1


def test_places_and_replacements_are_uniform():
    # 20 000 draws over 4 places x 5 tokens; a cell deviates by 6 standard deviations with
    # probability below 2e-9, 20 cells below 4e-8.
    rng = np.random.default_rng(0)
    cells = Counter()
    for _ in range(20_000):
        edited = attacks.substitute([0, 1, 2, 3], 0.25, rng, vocab_size=6)
        place = int(np.flatnonzero(~edited.kept_T)[0])
        cells[place, int(edited.ids_T[place])] += 1
    assert len(cells) == 20
    assert all(abs(n - 1000) < 6 * np.sqrt(950) for n in cells.values())
    pairs = Counter(tuple(attacks.swap(np.arange(5), 0.8, rng).ids_T.tolist()) for _ in range(6000))
    # Two disjoint neighbouring pairs among five places: three choices, equally likely.
    assert len(pairs) == 3
    assert all(abs(n - 2000) < 6 * np.sqrt(6000 * 2 / 9) for n in pairs.values())


def test_proposals():
    x = ids(20)
    rng = np.random.default_rng(0)

    def lazy(places, tokens, generator):
        assert generator is rng
        new = tokens[places].copy()
        new[::2] = V
        return new

    edited = attacks.substitute(x, 0.5, rng, proposal=lazy)
    assert (edited.ids_T == V).sum() == 5
    # A proposal that leaves a token as it was has not destroyed it.
    assert (~edited.kept_T).sum() == 5
    inserted = attacks.insert(x, 0.25, rng, proposal=lambda p, t, g: 100 + p)
    new = np.flatnonzero(~inserted.kept_T)
    after = np.append(inserted.source_T, 20)
    for i in new:
        following = next(s for s in after[i + 1 :] if s != FOREIGN)
        assert inserted.ids_T[i] == 100 + following
    with pytest.raises(ValueError, match="1 tokens for 10"):
        attacks.substitute(x, 0.5, rng, proposal=lambda p, t, g: [1])
    for both_or_none in ({}, {"vocab_size": V, "proposal": lazy}):
        with pytest.raises(ValueError, match="either"):
            attacks.insert(x, 0.5, rng, **both_or_none)
    with pytest.raises(ValueError, match="every token id"):
        attacks.substitute(x, 0.5, rng, vocab_size=3)


def test_splice_and_copy_paste():
    x = ids(12)
    edited = attacks.splice(x, before=[90, 91], after=[92])
    assert edited.ids_T.tolist() == [90, 91, *x, 92]
    assert edited.source_T.tolist() == [-1, -1, *range(12), -1]
    host = np.arange(100, 130)
    rng = np.random.default_rng(2)
    for spans in (1, 2, 5, 12):
        mixed = attacks.copy_paste(x, host, spans, rng)
        check_provenance(x, mixed)
        np.testing.assert_array_equal(mixed.ids_T[mixed.kept_T], x)
        np.testing.assert_array_equal(mixed.ids_T[~mixed.kept_T], host)
        starts = mixed.kept_T & ~np.concatenate([[False], mixed.kept_T[:-1]])
        assert starts.sum() == spans
    whole = attacks.copy_paste(x, [], 1, rng)
    np.testing.assert_array_equal(whole.ids_T, x)
    for spans in (0, 13):
        with pytest.raises(ValueError, match=r"\[1, 12\]"):
            attacks.copy_paste(x, host, spans, rng)
    with pytest.raises(ValueError, match="gaps"):
        attacks.copy_paste(x, [1], 3, rng)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(sorted(TEXT_ATTACKS)), min_size=1, max_size=3),
    st.floats(0, 1),
    st.text(max_size=40) | st.just(TEXT),
    st.integers(0, 99),
)
def test_text_provenance_survives_any_chain(names, rate, text, seed):
    rng = np.random.default_rng(seed)
    edited = text
    for name in names:
        edited = TEXT_ATTACKS[name](edited, rate, rng)
        assert isinstance(edited, EditedText)
        assert len(edited.text) == len(edited.source)
        kept = [(c, s) for c, s in zip(edited.text, edited.source, strict=True) if s != FOREIGN]
        assert all(text[s] == c for c, s in kept)
        assert len({s for _, s in kept}) == len(kept)
        assert edited.original_length == len(text)


def test_text_attacks_do_what_they_say():
    rng = np.random.default_rng(0)
    assert attacks.change_case(TEXT, 1.0, rng).text == TEXT.swapcase()
    assert attacks.change_case(TEXT, 1.0, rng, to="upper").text == TEXT.upper()
    assert attacks.change_case("straße", 1.0, rng, to="upper").text == "STRASSE"
    lower = attacks.change_case(TEXT, 1.0, rng, to="lower")
    assert lower.text == TEXT.lower()
    assert lower.survival == pytest.approx(1 - 5 / len(TEXT))
    half = attacks.change_case("abcdefgh", 0.5, rng)
    assert sum(c.isupper() for c in half.text) == 4
    assert attacks.change_whitespace(TEXT, 1.0, rng).text == TEXT.replace(" ", "  ")
    assert attacks.change_whitespace(TEXT, 1.0, rng, to="remove").text == TEXT.replace(" ", "")
    assert attacks.change_whitespace("a b c d e", 0.5, rng).text.count(" ") == 6
    for attack in TEXT_ATTACKS.values():
        assert attack(TEXT, 0.0, rng).text == TEXT
        assert attack("", 1.0, rng).text == ""


def test_typos_are_of_four_kinds():
    rng = np.random.default_rng(1)
    seen = Counter(attacks.typos("as", 0.5, rng).text for _ in range(4000))
    # One letter of two is hit: a or s, then dropped, exchanged, replaced or doubled.
    expected = {
        "s": 1 / 8,
        "sa": 1 / 8,
        "ss": 1 / 8,
        "aas": 1 / 8,
        "a": 1 / 8,
        "ass": 1 / 4,
        "aa": 1 / 16,
        "ad": 1 / 16,
    }
    assert set(seen) == set(expected)
    # Six standard deviations on each of eight cells: below 2e-8 together.
    assert all(
        abs(seen[k] - 4000 * p) < 6 * np.sqrt(4000 * p * (1 - p)) for k, p in expected.items()
    )
    assert attacks.typos("ß7", 1.0, np.random.default_rng(0)).original_length == 2


def test_synonyms():
    rng = np.random.default_rng(0)
    table = {"fox": ["wolf"], "the": ["a"], "sun": ["shade"], "dog": ["dog"]}
    edited = attacks.synonyms(TEXT, table, 1.0, rng)
    assert edited.text == (
        "A Quick brown wolf jumps over a lazy dog, and naps in a SHADE all day long."
    )
    dog = edited.text.index("dog")
    assert edited.source[dog] == TEXT.index("dog")
    assert edited.source[0] == FOREIGN
    assert attacks.synonyms(TEXT, {"moon": ["x"]}, 1.0, rng).text == TEXT
    one = attacks.synonyms("the the the the", {"the": ["a", "one"]}, 0.25, rng).text
    assert one.split().count("the") == 3
    for bad in ({"Fox": ["wolf"]}, {"fox": []}, {"fox": "wolf"}):
        with pytest.raises(ValueError, match="lower-case"):
            attacks.synonyms(TEXT, bad, 0.5, rng)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "all", True, None])
def test_bad_rates(rate):
    rng = np.random.default_rng(0)
    error = TypeError if not isinstance(rate, float) else ValueError
    for name, attack in (TOKEN_ATTACKS | TEXT_ATTACKS).items():
        if name in ("splice", "truncate"):
            continue
        with pytest.raises(error, match="rate"):
            attack(TEXT if name in TEXT_ATTACKS else ids(5), rate, rng)
    with pytest.raises(error, match="rate"):
        attacks.truncate(ids(5), rate)


def test_bad_arguments():
    x = ids(5)
    for rng in (0, None, np.random.RandomState(0)):
        with pytest.raises(TypeError, match="Generator"):
            attacks.delete(x, 0.5, rng)
        with pytest.raises(TypeError, match="Generator"):
            attacks.insert(x, 0.5, rng, vocab_size=V)
    rng = np.random.default_rng(0)
    with pytest.raises(TypeError, match="integers"):
        attacks.delete([0.5], 0.5, rng)
    with pytest.raises(ValueError, match="part"):
        attacks.truncate(x, 0.5, part="middle")
    with pytest.raises(ValueError, match="rng"):
        attacks.truncate(x, 0.5, part="random")
    with pytest.raises(TypeError, match="str"):
        attacks.typos(b"bytes", 0.5, rng)
    with pytest.raises(ValueError, match="to must be"):
        attacks.change_case(TEXT, 0.5, rng, to="title")
    with pytest.raises(ValueError, match="to must be"):
        attacks.change_whitespace(TEXT, 0.5, rng, to="tabs")
    with pytest.raises(TypeError, match="num_spans"):
        attacks.copy_paste(x, x, 1.5, rng)
    assert EditedTokens(np.zeros(0, np.int64), np.zeros(0, np.int64), 0).survival == 1.0
