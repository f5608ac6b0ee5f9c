"""Metrics: hand-computed cases, brute force, and the code of other projects."""

import itertools
import json
import math
import random
import subprocess
import sys
import unicodedata
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from modicum.huper import metrics
from modicum.huper.features import feature_edit_distance
from modicum.huper.integrations.panphon import feature_table
from modicum.huper.metrics import Normaliser
from modicum.huper.metrics.distance import edit_distances, edit_paths
from modicum.huper.phones import PhoneSet, arpabet_to_ipa

WORLD = Path(__file__).parent / "data" / "huper_world" / "test.jsonl"
PANPHON = Path(__file__).parent / "data" / "panphon_distances.json"
"""Two strings, panphon's distance (0.22.2), and its number of segments of the second."""

needs_panphon = pytest.mark.skipif(not find_spec("panphon"), reason="needs panphon's table")


def corpus(seed: int, size: int = 40, symbols: str = "abcd", longest: int = 9):
    pick = random.Random(seed)
    return tuple(
        [pick.choices(symbols, k=pick.randint(0, longest)) for _ in range(size)] for _ in range(2)
    )


# Distances --------------------------------------------------------------------------------------


def cheapest(ref, hyp, substitute, delete, insert):
    """All edits, tried one after the other."""
    if not ref and not hyp:
        return 0
    ways = []
    if ref:
        ways.append(delete[ref[0]] + cheapest(ref[1:], hyp, substitute, delete, insert))
    if hyp:
        ways.append(insert[hyp[0]] + cheapest(ref, hyp[1:], substitute, delete, insert))
    if ref and hyp:
        rest = cheapest(ref[1:], hyp[1:], substitute, delete, insert)
        ways.append(substitute[ref[0]][hyp[0]] + rest)
    return min(ways)


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_brute_force_for_any_costs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    substitute = rng.integers(0, 9, (3, 3))
    np.fill_diagonal(substitute, 0)
    delete, insert = rng.integers(1, 9, 3), rng.integers(1, 9, 3)
    hyps = [rng.integers(0, 3, rng.integers(0, 5)) for _ in range(60)]
    refs = [rng.integers(0, 3, rng.integers(0, 5)) for _ in range(60)]
    found = edit_distances(hyps, refs, substitute, delete, insert)
    expected = [
        cheapest(list(ref), list(hyp), substitute, delete, insert)
        for hyp, ref in zip(hyps, refs, strict=True)
    ]
    assert found.tolist() == expected


def preferred(ref, hyp):
    """Of all shortest paths the one that prefers match, sub, del, ins from the end."""

    def paths(i, j):
        if not i and not j:
            return [(0, ())]
        found = []
        if i and j:
            differ = ref[i - 1] != hyp[j - 1]
            found += [(cost + differ, (int(differ), *path)) for cost, path in paths(i - 1, j - 1)]
        if i:
            found += [(cost + 1, (2, *path)) for cost, path in paths(i - 1, j)]
        if j:
            found += [(cost + 1, (3, *path)) for cost, path in paths(i, j - 1)]
        return found

    # Kinds are numbered by preference and the last edit stands first.
    return min(paths(len(ref), len(hyp)))[1][::-1]


def test_paths_are_the_preferred_ones_of_all_shortest_paths() -> None:
    words = [list(word) for size in range(4) for word in itertools.product("ab", repeat=size)]
    pairs = list(itertools.product(words, repeat=2))
    number = {"a": 0, "b": 1}
    hyps, refs = (
        [np.array([number[one] for one in pair[side]], dtype=np.int64) for pair in pairs]
        for side in (0, 1)
    )
    for (hyp, ref), path in zip(pairs, edit_paths(hyps, refs), strict=True):
        assert path.tolist() == list(preferred(ref, hyp))


@pytest.mark.parametrize("seed", range(4))
def test_totals_are_rapidfuzz_and_jiwer(seed: int) -> None:
    hyps, refs = corpus(seed, 300, "abcdefgh", 25)
    errors = metrics.phone_errors(hyps, refs)
    expected = [Levenshtein.distance(hyp, ref) for hyp, ref in zip(hyps, refs, strict=True)]
    assert errors.errors.tolist() == expected
    assert errors.lengths.tolist() == [len(ref) for ref in refs]
    assert metrics.per(hyps, refs) == sum(expected) / sum(map(len, refs))
    jiwer = pytest.importorskip("modicum.huper.integrations.jiwer")
    pytest.importorskip("jiwer")
    found = jiwer.process_phones(hyps, refs)
    assert found.wer == pytest.approx(errors.per, abs=1e-12)
    assert found.substitutions + found.deletions + found.insertions == errors.errors.sum()
    # Deletions and insertions differ by the lengths of both sides, in whatever alignment.
    assert found.deletions - found.insertions == errors.deletions - errors.insertions


def test_many_sizes_go_through_blocks(monkeypatch) -> None:
    hyps, refs = corpus(9, 120, "abc", 30)
    whole = metrics.phone_errors(hyps, refs)
    monkeypatch.setattr("modicum.huper.metrics.distance._BLOCK_CELLS", 50)
    small = metrics.phone_errors(hyps, refs)
    assert np.array_equal(whole.counts, small.counts)
    assert np.array_equal(whole.confusion, small.confusion)
    assert metrics.wper(hyps, refs, {}) == metrics.per(hyps, refs)


# PER --------------------------------------------------------------------------------------------


def test_a_case_by_hand() -> None:
    hyps = [["HH", "AE", "M"], ["D", "OW"], ["AH", "S"]]
    refs = [["HH", "AE", "N", "D"], ["D", "OW"], ["S"]]
    errors = metrics.phone_errors(hyps, refs)
    assert (errors.matches, errors.substitutions, errors.deletions, errors.insertions) == (
        5,
        1,
        1,
        1,
    )
    assert errors.per == metrics.per(hyps, refs) == 3 / 7
    # From the end, D is taken for M before anything is deleted.
    assert metrics.align(hyps[0], refs[0]) == [
        ("match", "HH", "HH"),
        ("match", "AE", "AE"),
        ("del", "N", None),
        ("sub", "D", "M"),
    ]
    assert errors.confusions() == [(None, "AH", 1), ("D", "M", 1), ("N", None, 1)]
    assert errors.recall == {"AE": 1, "D": 0.5, "HH": 1, "N": 0, "OW": 1, "S": 1}
    assert errors.precision == {"AE": 1, "AH": 0, "D": 1, "HH": 1, "M": 0, "OW": 1, "S": 1}
    assert errors.per_utterance.tolist() == [0.5, 0.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.sampled_from("abc"), max_size=6)] * 2), max_size=6))
def test_identities_of_counts(pairs) -> None:
    hyps, refs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    errors = metrics.phone_errors(hyps, refs)
    assert errors.matches + errors.substitutions + errors.deletions == sum(map(len, refs))
    assert errors.matches + errors.substitutions + errors.insertions == sum(map(len, hyps))
    assert errors.confusion.sum() == errors.counts.sum()
    assert errors.confusion.diagonal().sum() == errors.matches
    assert errors.confusion[-1].sum() == errors.insertions
    assert errors.confusion[:, -1].sum() == errors.deletions
    assert sum(count for _, _, count in errors.confusions()) == errors.errors.sum()
    # The other way round, what was deleted is inserted.
    back = metrics.phone_errors(refs, hyps)
    assert back.errors.tolist() == errors.errors.tolist()
    for hyp, ref in pairs:
        path = metrics.align(hyp, ref)
        assert [one for _, one, _ in path if one] == ref
        assert [one for _, _, one in path if one] == hyp


def test_without_a_reference_phone_the_rate_is_undefined() -> None:
    assert math.isnan(metrics.per([["a"]], [[]]))
    assert math.isnan(metrics.per([], []))
    errors = metrics.phone_errors([["a"], ["b", "c"]], [[], ["b"]])
    # Its insertions count in the corpus, as with jiwer and sclite, and are told apart.
    assert errors.per == 2.0
    assert (errors.empty_references, errors.insertions_without_reference) == (1, 1)
    assert math.isnan(errors.per_utterance[0])


def test_composed_and_decomposed_letters_are_one() -> None:
    composed, decomposed = (unicodedata.normalize(form, "ç") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert metrics.per([[composed]], [[decomposed]]) == 0.0


def test_mappings_are_joined_by_id() -> None:
    hyps, refs = {"b": ["x"], "a": ["y"]}, {"a": ["y"], "b": ["z"]}
    errors = metrics.phone_errors(hyps, refs)
    assert errors.errors.tolist() == [0, 1]
    with pytest.raises(ValueError, match="1 utterances have no hypothesis: 'c'"):
        metrics.per(hyps, {**refs, "c": []})
    with pytest.raises(ValueError, match="no reference: 'a'"):
        metrics.per(hyps, {"b": ["z"]})
    with pytest.raises(TypeError, match="mappings"):
        metrics.per(hyps, [["y"], ["z"]])


@pytest.mark.parametrize(
    ("hyps", "refs", "error", "message"),
    [
        (["HH AH"], [["HH", "AH"]], TypeError, "'HH AH'"),
        ([["HH"]], ["HH"], TypeError, "reference 0"),
        ("HH", [["HH"]], TypeError, "one string"),
        ([["HH"]], [], ValueError, "1 hypotheses do not fit 0 references"),
        ([[1]], [["a"]], TypeError, "not 1"),
        ([[""]], [["a"]], TypeError, "not ''"),
        ([["DH", "AH0"]], [["ð", "ə"]], ValueError, "different conventions"),
        ([["ð", "b"]], [["DH", "B"]], ValueError, "different conventions"),
    ],
)
def test_token_conventions_that_do_not_fit(hyps, refs, error, message: str) -> None:
    with pytest.raises(error, match=message):
        metrics.per(hyps, refs)


# Weighted PER -----------------------------------------------------------------------------------


def test_weighted_rate_by_hand() -> None:
    matrix = np.array([[1.0, 0.75, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    symbols = ["p", "b", "a"]
    # Rows are phones of the reference: p said as b costs 0.25, b said as p 0.5.
    assert metrics.wper([["b"]], [["p"]], matrix, symbols) == 0.25
    assert metrics.wper([["p"]], [["b"]], matrix, symbols) == 0.5
    assert metrics.wper([["a", "b"]], [["p"]], matrix, symbols) == 1.25
    assert metrics.wper([[]], [["p", "a"]], matrix, symbols, indel=0.5) == 0.5
    # Deleting and adding for less than a substitution.
    assert metrics.wper([["a"]], [["p"]], matrix, symbols, indel=0.25) == 0.5
    assert metrics.wper([["b"]], [["p"]], {("p", "b"): 0.75}) == 0.25
    assert math.isnan(metrics.wper([[]], [[]], matrix, symbols))


@pytest.mark.parametrize("seed", range(3))
def test_weighted_rate_is_brute_force_and_per_without_likeness(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((3, 3))
    hyps, refs = corpus(seed, 25, "abc", 4)
    cost = 1 - matrix
    np.fill_diagonal(cost, 0)
    named = {p: {q: cost[i, j] for j, q in enumerate("abc")} for i, p in enumerate("abc")}
    sides = dict.fromkeys("abc", 0.8)
    expected = sum(
        cheapest(ref, hyp, named, sides, sides) for hyp, ref in zip(hyps, refs, strict=True)
    )
    total = sum(map(len, refs))
    found = metrics.wper(hyps, refs, matrix, "abc", indel=0.8)
    assert found == pytest.approx(expected / total, abs=1e-12)
    assert metrics.wper(hyps, refs, np.eye(3), "abc") == pytest.approx(metrics.per(hyps, refs))
    assert metrics.wper(hyps, refs, np.ones((3, 3)), "abc", indel=10.0) * total == pytest.approx(
        10 * sum(abs(len(hyp) - len(ref)) for hyp, ref in zip(hyps, refs, strict=True))
    )


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.eye(2),), {}, TypeError, "needs the symbols"),
        ((np.eye(2), "abc"), {}, ValueError, r"must be \(3, 3\)"),
        ((np.eye(1), "a"), {}, ValueError, "no phone 'b'"),
        ((2 * np.eye(2), "ab"), {}, ValueError, "not 2.0"),
        ((np.full((2, 2), np.nan), "ab"), {}, ValueError, "nan"),
        (({("x", "y"): -1.0},), {}, ValueError, "-1"),
        (({},), {"indel": 0.0}, ValueError, "indel"),
    ],
)
def test_similarities_that_are_none(arguments, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        metrics.wper([["a"]], [["b"]], *arguments, **options)


# Features ---------------------------------------------------------------------------------------


@needs_panphon
@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ("s", "z", 1 / 24),
        ("t", "d", 1 / 24),
        ("v", "b", 2 / 24),
        ("θ", "s", 2 / 24),
        ("θ", "t", 2 / 24),
        ("i", "ɪ", 1 / 24),
        ("t", "ɾ", 0.1875),
        ("ði", "ðə", 0.125),
        ("p", "a", 0.375),
        ("t", "", 0.9375),
        ("ɾ", "", 0.875),
        ("", "æ", 22 / 24),
    ],
)
def test_known_distances(one: str, two: str, expected: float) -> None:
    assert metrics.fed([one], [two])[0] == metrics.fed([two], [one])[0] == expected
    # The scalar distance of the package is the same.
    assert feature_edit_distance(list(one), list(two)) == pytest.approx(expected, abs=1e-12)


@needs_panphon
def test_rates_by_hand() -> None:
    hyps, refs = ["s", "ta", ""], ["z", "t", "p"]
    distances = metrics.fed(hyps, refs)
    lost_a, lost_p = metrics.fed(["a", "p"], ["", ""])
    assert distances.tolist() == [1 / 24, lost_a, lost_p]
    assert metrics.pfer(hyps, refs) == (1 / 24 + lost_a + lost_p) / 3
    hyps, refs = ["s", "t"], ["z", "tat"]
    lost = 1 / 24, lost_a + 0.9375
    assert metrics.pfer(hyps, refs) == pytest.approx(sum(lost) / 4)
    assert metrics.pfer(hyps, refs, normalize="utt-mean") == pytest.approx(
        (lost[0] + lost[1] / 3) / 2
    )
    # Swapped, the longer side is now the hypothesis.
    for pair in ((hyps, refs), (refs, hyps)):
        assert metrics.pfer(*pair, normalize="maxlen") == pytest.approx((lost[0] + lost[1] / 3) / 2)
    assert metrics.pfer(refs, hyps, normalize="utt-mean") == pytest.approx((lost[0] + lost[1]) / 2)
    with pytest.raises(ValueError, match="'mean'"):
        metrics.pfer(hyps, refs, normalize="mean")


@needs_panphon
def test_empty_references_of_features() -> None:
    assert math.isnan(metrics.pfer(["a"], [""]))
    lost_a = metrics.fed(["a"], [""])[0]
    assert metrics.pfer(["a", "t"], ["", "t"]) == lost_a
    assert metrics.pfer(["a", "t"], ["", "t"], normalize="utt-mean") == 0
    assert metrics.pfer(["", "t"], ["", "d"], normalize="maxlen") == 1 / 48
    # A reference of nothing but unknown symbols is one too, and is counted.
    with pytest.warns(UserWarning, match="'Ω'"):
        found = metrics.feature_errors(["a"], ["Ω"])
    assert (found.emptied, found.lengths.tolist(), found.unknown) == (1, [0], {"Ω": 1})
    assert math.isnan(found.pfer())


def strings(pairs: int) -> list[tuple[str, str]]:
    """Draw strings of all segments with all marks and tones, and of what panphon does not know.

    What the normaliser spells differently from panphon is not among them.
    """
    pick = random.Random(0)
    alphabet = [*feature_table(), *"ʜ?Ω15Qʲʰ˞\u031a\u0325\u0303"]
    words = ["".join(pick.choices(alphabet, k=pick.randint(0, 10))) for _ in range(2 * pairs)]
    return list(zip(words[::2], words[1::2], strict=True))


@needs_panphon
def test_distances_are_those_that_panphon_gave() -> None:
    kept = json.loads(PANPHON.read_text(encoding="utf-8"))
    hyps, refs, distances, segments = zip(*kept, strict=True)
    normaliser = Normaliser(on_unknown="drop")
    assert metrics.fed(hyps, refs, normaliser=normaliser) == pytest.approx(distances, abs=1e-9)
    assert [len(normaliser(ref)) for ref in refs] == list(segments)
    assert metrics.pfer(hyps, refs, normaliser=normaliser) == pytest.approx(
        sum(distances) / sum(segments), abs=1e-9
    )


@pytest.mark.slow
@needs_panphon
def test_a_thousand_random_strings_have_panphons_distance() -> None:
    panphon = pytest.importorskip("panphon.distance").Distance()
    hyps, refs = zip(*strings(1000), strict=True)
    normaliser = Normaliser(on_unknown="drop")
    theirs = list(map(panphon.feature_edit_distance, hyps, refs))
    assert metrics.fed(hyps, refs, normaliser=normaliser) == pytest.approx(theirs, abs=1e-9)
    segments = list(map(panphon.fm.ipa_segs, refs))
    assert [list(normaliser(ref)) for ref in refs] == segments
    divided = list(map(panphon.feature_edit_distance_div_maxlen, hyps, refs))
    assert metrics.pfer(hyps, refs, normaliser=normaliser, normalize="maxlen") == pytest.approx(
        sum(divided) / 1000, abs=1e-9
    )
    # The file of the quick test has the first of these.
    kept = json.loads(PANPHON.read_text(encoding="utf-8"))
    assert [tuple(one[:2]) for one in kept] == strings(1000)[: len(kept)]
    assert [one[2] for one in kept] == pytest.approx(theirs[: len(kept)], abs=1e-12)
    for symbol in ("ɚ", "ɝ", "ᵻ", "g", "ʧ"):
        assert panphon.feature_edit_distance(f"t{symbol}", "t") == 0


@needs_panphon
@pytest.mark.parametrize("symbol", ["ɚ", "ɝ", "ᵻ", "g", "ʧ"])
def test_what_panphon_drops_is_respelled_so_that_errors_count(symbol: str) -> None:
    # To panphon a missing phone costs nothing there.
    assert metrics.fed([f"t{symbol}"], ["t"])[0] > 0.8


@needs_panphon
def test_strings_lists_and_arpabet_agree() -> None:
    phones = ["T", "AY", "ER0", "CH", "G", "SIL"], ["D", "AY1", "AH", "SH", "K"]
    ipa = tuple(arpabet_to_ipa(row) for row in phones)
    expected = metrics.fed(["".join(ipa[0])], ["".join(ipa[1])])
    for hyps, refs in (
        ([phones[0]], [phones[1]]),
        ([ipa[0]], [ipa[1]]),
        ([" ".join(ipa[0])], [" ".join(ipa[1])]),
        ([phones[0]], [ipa[1]]),
        ([["t", "aɪ", "ɝ", "t͡ʃ", "g"]], [["d", "aɪ", "ʌ", "ʃ", "k"]]),
    ):
        assert metrics.fed(hyps, refs).tolist() == expected.tolist()
    timit = ["dcl", "d", "ay", "ix"]
    assert metrics.fed([timit], [["d", "a", "ɪ", "ɨ"]]).tolist() == [0]
    # Small single letters are IPA, and can be declared to be ARPAbet.
    assert metrics.fed([["r"]], [["ɹ"]])[0] > 0
    assert metrics.fed([["r"]], [["R"]], alphabet="arpabet")[0] == 0


@needs_panphon
@pytest.mark.parametrize(
    ("hyps", "refs", "options", "error", "message"),
    [
        (["a"], [["a"]], {}, TypeError, "some are one and some the other"),
        (["a", ["a"]], ["a", ["a"]], {}, TypeError, "some are one"),
        ([[1]], [["a"]], {}, TypeError, "not 1"),
        (["a"], [], {}, ValueError, "1 hypotheses"),
        ("a", "a", {}, TypeError, "not one string"),
        (["a"], ["a"], {"alphabet": "sampa"}, ValueError, "'sampa'"),
        (["T"], ["T"], {"alphabet": "arpabet"}, TypeError, "lists of phones"),
    ],
)
def test_feature_input_that_does_not_fit(hyps, refs, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        metrics.fed(hyps, refs, **options)


def test_without_panphon_the_extra_is_named(monkeypatch) -> None:
    feature_table.cache_clear()
    monkeypatch.setattr("modicum.huper.integrations.panphon.find_spec", lambda name: None)
    monkeypatch.setattr("modicum.huper.metrics.reports.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "modicum-huper\[panphon\]"'):
        metrics.pfer(["χ"], ["ɥ"], normaliser=Normaliser(length="drop", ties="join", tones="drop"))
    found = metrics.report([["A"], ["A"]], [["A"], ["B"]])
    assert found.pfer is None and "PFER" not in str(found)
    monkeypatch.undo()
    feature_table.cache_clear()


# The normaliser ---------------------------------------------------------------------------------


@needs_panphon
@pytest.mark.parametrize(
    ("text", "options", "segments"),
    [
        ("ˈtɛst.ɪŋ ˌɡoʊ", {}, "t ɛ s t ɪ ŋ ɡ o ʊ"),
        ("gɝɚᵻ", {}, "ɡ ɜ˞ ə˞ ɨ"),
        ("aːbˑ", {}, "aː b"),
        ("a:b", {}, "aː b"),
        ("aːbˑ", {"length": "drop"}, "a b"),
        ("t͡ʃtʃʧt͜ʃ", {}, "t͡ʃ t ʃ t͡ʃ t͡ʃ"),
        ("t͡ʃtʃʧ", {"ties": "drop"}, "t ʃ t ʃ t ʃ"),
        ("t͡ʃtʃʧdʒʈʂ", {"ties": "join"}, "t͡ʃ t͡ʃ t͡ʃ d͡ʒ ʈ͡ʂ"),
        ("ma˥˩ma³", {}, "m a ˥ ˩ m a ˧"),
        ("ma˥˩ma³", {"tones": "drop"}, "m a m a"),
        ("(en)ðɪs(de) ˈiːs", {}, "ð ɪ s iː s"),
        ("çã", {}, "ç ã"),
        ("t\u200dʃ", {}, "t ʃ"),
        ("", {}, ""),
    ],
)
def test_spellings(text: str, options, segments: str) -> None:
    expected = unicodedata.normalize("NFD", segments).split()
    for form in ("NFC", "NFD"):
        found = Normaliser(on_unknown="raise", **options)(unicodedata.normalize(form, text))
        assert list(found) == expected


@needs_panphon
def test_unknown_symbols_warn_raise_or_drop() -> None:
    phones = ["b̚", "Ω", "a1", "Ω"]
    found = Normaliser().split(phones)
    assert found.segments == ("b", "a")
    assert found.unknown == {"◌̚": 1, "Ω": 2, "1": 1}
    with pytest.raises(ValueError, match=r"'Ω' \(2\), '1' \(1\), '◌̚' \(1\)"):
        Normaliser(on_unknown="raise")(phones)
    with pytest.warns(UserWarning, match="'Ω'") as caught:
        assert Normaliser()(phones) == ("b", "a")
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="'Ω'") as caught:
        metrics.pfer([["Ω"]], [["a"]])
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="'Ω'"):
        metrics.fed([["Ω"]], [["a"]], normaliser=Normaliser(on_unknown="raise"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Normaliser(on_unknown="drop")(phones) == ("b", "a")
        assert Normaliser(on_unknown="raise")("tɛst") == ("t", "ɛ", "s", "t")


@pytest.mark.parametrize("name", ["length", "ties", "tones", "on_unknown"])
def test_choices_of_the_normaliser(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of .*'maybe'"):
        Normaliser(**{name: "maybe"})


@needs_panphon
def test_every_phone_of_arpabet_has_features() -> None:
    for phone in (*PhoneSet.arpabet40().phones, "AX", "AXR", "IX", "Q", "NX", "UX", "HV", "EL"):
        assert not Normaliser().split(arpabet_to_ipa([phone])).unknown, phone


# Intervals --------------------------------------------------------------------------------------


def test_intervals_hold_the_rate_and_depend_on_the_seed_alone() -> None:
    hyps, refs = corpus(3, 80)
    errors = metrics.phone_errors(hyps, refs)
    low, high = errors.interval()
    assert low < errors.per < high
    assert errors.interval() == (low, high) != errors.interval(seed=1)
    wide = errors.interval(0.99)
    assert wide[0] <= low and high <= wide[1]
    # Twice the corpus, the interval shrinks by about √2: within ±20 % at 2,000 resamples.
    twice = metrics.phone_errors(hyps * 2, refs * 2).interval()
    assert 0.8 / math.sqrt(2) < (twice[1] - twice[0]) / (high - low) < 1.2 / math.sqrt(2)


def test_interval_is_the_exact_bootstrap_of_two_utterances() -> None:
    # Resamples of (1 of 1) and (0 of 3): rates 1, 1/4 (twice as often) and 0. Each of the three
    # comes among 2,000 draws with a chance of missing below 0.75^2000.
    assert metrics.ratio_interval([1, 0], [1, 3]) == (0.0, 1.0)
    assert metrics.ratio_interval([1, 1], [2, 2]) == (0.5, 0.5)


def test_groups_are_drawn_whole() -> None:
    errors, totals = np.array([0, 0, 4, 4]), np.array([4, 4, 4, 4])
    by_speaker = metrics.ratio_interval(errors, totals, groups=["a", "a", "b", "b"])
    assert by_speaker == (0.0, 1.0)
    assert metrics.ratio_interval(errors, totals, groups=range(4)) == metrics.ratio_interval(
        errors, totals
    )
    with pytest.raises(ValueError, match="4 utterances need as many groups, not 1"):
        metrics.ratio_interval(errors, totals, groups=["a"])


def test_no_interval_without_something_to_draw() -> None:
    assert metrics.ratio_interval([1], [2]) is None
    assert metrics.ratio_interval([1, 2], [0, 0]) is None
    assert metrics.ratio_interval([1, 2], [3, 4], groups=["a", "a"]) is None
    # A resample may hold empty references only; its rate is no number and counts as large.
    low, high = metrics.ratio_interval([1, 0], [0, 2])
    assert (low, high) == (0.0, math.inf)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # 60 utterances of 20 phones, each wrong with 0.2. At 1,500 corpora the share that is covered
    # has a standard error of 0.6 %; 95 % nominal, at least 91 % is 6 standard errors and room for
    # the bias of 60 utterances.
    rng = np.random.default_rng(0)
    totals = np.full(60, 20)
    covered = 0
    for seed in range(1500):
        low, high = metrics.ratio_interval(
            rng.binomial(20, 0.2, 60), totals, seed=seed, resamples=500
        )
        covered += low <= 0.2 <= high
    assert 0.91 < covered / 1500 < 0.99


# Reports ----------------------------------------------------------------------------------------


def world():
    rows = [json.loads(line) for line in WORLD.read_text(encoding="utf-8").splitlines()]
    return ({row["id"]: row[name] for row in rows} for name in ("phonemes", "real_phonemes"))


@needs_panphon
def test_report_of_the_world() -> None:
    hyps, refs = world()
    found = metrics.report(hyps, refs)
    errors = metrics.phone_errors(hyps, refs)
    assert (found.per, found.per_interval) == (errors.per, errors.interval())
    assert found.pfer == metrics.pfer(hyps, refs) < found.per
    assert found.pfer_interval[0] < found.pfer < found.pfer_interval[1]
    assert found.reference_phones == sum(map(len, refs.values()))
    assert found.recall == errors.recall and found.confusions == tuple(errors.confusions())
    assert metrics.Report.from_json(found.to_json()) == found
    assert metrics.Report.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    text = str(found)
    assert f"PER               {100 * found.per:.2f} %" in text
    assert f"[{100 * found.per_interval[0]:.2f}, {100 * found.per_interval[1]:.2f}] 95 %" in text
    one, two, count = found.confusions[0]
    assert f"most frequent errors: {one or '∅'}→{two or '∅'} {count}" in text
    lowest = text.split("lowest recall: ")[1].split("\n")[0]
    assert lowest.startswith("B 0.00 %, EH 0.00 %, S 60.00 %") and "100.00 %" not in lowest
    # Both as lists, in the same order, it is the same.
    assert metrics.report(list(hyps[name] for name in refs), list(refs.values())) == found


@needs_panphon
def test_report_counts_what_has_no_features() -> None:
    with pytest.warns(UserWarning, match="'Ω'"):
        found = metrics.report([["a", "Ω"], ["t"], []], [["a", "Ω"], ["Ω"], []])
    assert (found.unknown, found.hyp_unknown, found.emptied) == ({"Ω": 2}, {"Ω": 1}, 1)
    assert (found.empty_references, found.insertions_without_reference) == (1, 0)
    assert "without features in references, so not in PFER: 'Ω' (2)" in str(found)
    assert "1 references have no segment with features" in str(found)


def test_report_of_nothing_is_written_without_rates() -> None:
    found = metrics.report([["a"]], [[]], measures=["per"])
    assert (found.per, found.per_interval, found.pfer) == (None, None, None)
    assert "PER               –" in str(found)
    assert "1 of the insertions are theirs" in str(found)
    assert metrics.Report.from_json(found.to_json()) == found


def test_report_with_an_interval_without_end_can_be_written() -> None:
    found = metrics.report([["a"], ["b"]], [[], ["b"]], measures=["per"])
    assert (found.per, found.per_interval) == (1.0, None)
    assert metrics.Report.from_json(found.to_json()) == found


def test_report_folds_both_sides() -> None:
    hyps, refs = [["AO", "T", "ax"]], [["AA", "DX", "AH0"]]
    assert metrics.report(hyps, refs, ci=None, measures=["per"]).per == 1
    folded = metrics.report(hyps, refs, measures=["per"], inventory=PhoneSet.arpabet39())
    assert (folded.per, folded.confusions) == (1 / 3, (("DX", "T", 1),))
    with pytest.raises(ValueError, match="'XX'"):
        metrics.report([["XX", "T"]], refs, inventory=["AA", "T"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ci": "normal"}, "'normal'"), ({"measures": ["wer"]}, "'wer'"), ({"level": 2}, "level")],
)
def test_options_of_reports(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.report([["a"], ["a"]], [["a"], ["b"]], **options)


@needs_panphon
def test_folding_may_turn_a_comparison() -> None:
    # "small" knows no AO and no ZH; "large" knows them and errs elsewhere.
    refs = [["AO", "ZH", "K", "AO"]]
    systems = {"small": [["AA", "SH", "K", "AA"]], "large": [["AO", "ZH", "T", "AO"]]}
    inventory = [phone for phone in PhoneSet.arpabet39().phones if phone != "ZH"]
    found = metrics.inventory_effect(systems, refs, inventory)
    small, large = found.rows
    assert (small.per, small.folded_per) == (0.75, 0.0)
    assert (large.per, large.folded_per) == (0.25, 0.25)
    assert small.folded_pfer == 0.0 < small.pfer
    assert found.changed_orders == (("large", "small"),)
    assert "folding puts small before large" in str(found)
    head = str(found).splitlines()[0]
    assert "PER native  PER folded" in head
    assert json.loads(found.to_json())["rows"][0]["system"] == "small"
    # One symbol more or less is no difference where nothing is folded.
    same = metrics.inventory_effect(systems, refs, PhoneSet.arpabet40(), how=list)
    assert all(row.per == row.folded_per for row in same.rows)


@needs_panphon
def test_nearest_phones() -> None:
    near = metrics.nearest(["t", "d", "s", "i", "a"])
    assert near(["t", "z", "ɪ", "g", "ɑ", "θ"]) == ["t", "s", "i", "d", "a", "t"]
    assert metrics.nearest(["DX", "B", "IY"])(["ɾ", "v", "ɪ", "V"]) == ["DX", "B", "IY", "B"]
    found = metrics.inventory_effect({"x": [["z"]]}, [["s"]], ["s"], how="nearest")
    assert (found.rows[0].per, found.rows[0].folded_per) == (1.0, 0.0)
    with pytest.raises(ValueError, match="Ω"):
        near(["Ω"])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (({}, [["B"]], ["B"]), {}, ValueError, "no system"),
        (({"x": [["B"]]}, [["B"]], ["B"]), {"how": "guess"}, ValueError, "'guess'"),
        (({"x": [["B"]]}, [["B"]], "BD"), {}, TypeError, "'BD'"),
        (({"x": [["B"]]}, [["B"]], ["D"]), {}, ValueError, "'B'"),
    ],
)
def test_comparisons_that_cannot_be(arguments, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        metrics.inventory_effect(*arguments, **options)


# Batches ----------------------------------------------------------------------------------------


@needs_panphon
def test_batches_are_the_whole() -> None:
    hyps, refs = (list(side.values()) for side in world())
    metric = metrics.PhoneMetric()
    for start in range(0, len(refs), 3):
        metric.add_batch(predictions=hyps[start : start + 3], references=refs[start : start + 3])
    metric.add(prediction=["K"], reference=["T"])
    assert len(metric) == len(refs) + 1
    found = metric.compute()
    assert len(metric) == 0
    assert found == metrics.compute(predictions=[*hyps, ["K"]], references=[*refs, ["T"]])
    assert found["per"] == metrics.per([*hyps, ["K"]], [*refs, ["T"]])
    assert found["pfer"] == metrics.pfer([*hyps, ["K"]], [*refs, ["T"]])
    with pytest.raises(ValueError, match="no utterance"):
        metric.compute()


def test_strings_need_a_separator() -> None:
    given = {"predictions": ["HH AH  L OW"], "references": ["HH AH L L OW"]}
    with pytest.raises(TypeError, match="'HH AH  L OW'"):
        metrics.compute(**given, measures=["per"])
    found = metrics.compute(**given, measures=["per"], separator=" ")
    assert found == {
        "per": 0.2,
        "substitutions": 0,
        "deletions": 1,
        "insertions": 0,
        "matches": 4,
        "reference_phones": 5,
    }
    with pytest.raises(ValueError, match="separator"):
        metrics.PhoneMetric(separator="")
    with pytest.raises(ValueError, match="both"):
        metrics.PhoneMetric().compute(predictions=[["a"]])


@pytest.mark.slow
def test_metrics_as_evaluate_has_them() -> None:
    evaluate = pytest.importorskip("evaluate")
    required = {"compute", "add", "add_batch"}
    assert required <= set(dir(evaluate.Metric)) & set(dir(metrics.PhoneMetric))


def test_pictures_of_jiwer() -> None:
    pytest.importorskip("jiwer")
    from modicum.huper.integrations.jiwer import process_phones, visualise

    text = visualise([["HH", "AE", "M"]], [["HH", "AE", "N"]])
    assert "HH AE" in text and "S" in text
    assert process_phones([[], ["AA"]], [["B"], ["AA"]]).deletions == 1
    with pytest.raises(ValueError, match="'a b'"):
        process_phones([["a b"]], [["a"]])


def test_without_jiwer_the_extra_is_named(monkeypatch) -> None:
    from modicum.huper.integrations import jiwer

    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ImportError, match=r'pip install "modicum-huper\[jiwer\]"'):
        jiwer.process_phones([["a"]], [["a"]])


def test_import_loads_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys; from modicum.huper import metrics; metrics.per([['a']], [['b']]); "
        "print(sorted({'panphon', 'pandas', 'jiwer', 'evaluate', 'transformers', 'torch'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_inventories_without_a_reference_phone_are_json():
    found = metrics.inventory_effect({"x": [["AA"]]}, [[]], ["AA", "B"])
    row = json.loads(found.to_json())["rows"][0]
    assert row["per"] is None and row["folded_per"] is None
