"""Best of N: exact laws with and without duplicates, exact p-values, evidence, the drivers."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma
from scipy.stats import chisquare, gamma, kstest

from modicum.umpwatermark.best_of_n import (
    BestOfN,
    BlockDetector,
    expected_evidence,
    normalize,
    split_sentences,
)

KEY = b"0123456789abcdef"


@given(st.text(alphabet="ab .!?\n\t\"')3\u3002\u201d", max_size=60))
def test_sentences_join_to_the_text_and_are_no_mere_blanks(text):
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    if text.strip():
        assert all(piece.strip() for piece in pieces)


def test_sentences():
    text = 'It cost 3.50 today. "Really?" Yes!\n\nA title\nMore...'
    assert split_sentences(text) == [
        "It cost 3.50 today. ",
        '"Really?" ',
        "Yes!\n\n",
        "A title\n",
        "More...",
    ]
    assert split_sentences("\u597d\u3002\u201c\u662f\uff01\uff1f\u201d\u6765") == [
        "\u597d\u3002",
        "\u201c\u662f\uff01\uff1f\u201d",
        "\u6765",
    ]
    assert split_sentences("") == []
    assert split_sentences("\n Hi. You") == ["\n Hi. ", "You"]


def test_splitting_cost_grows_with_the_text_only():
    for unit in ("word ", ".", "'", ".'", "\n", " ", "\u3002"):
        assert "".join(split_sentences(unit * 40_000)) == unit * 40_000


def test_what_is_keyed_is_the_normalised_text():
    marker = BestOfN(KEY)
    assert normalize("  a\n b\u00a0c\ufb01 ") == "a b cfi"
    assert marker.uniform(["x. "], "a  b") == marker.uniform(["x."], " a b\n")
    assert marker.uniform(["x."], "a b") != marker.uniform(["x."], "ab")
    assert marker.uniform(["x."], "a b") != marker.uniform(["y."], "a b")
    assert marker.uniform(["w.", "x."], "a") == marker.uniform(["v.", "x."], "a")
    two = BestOfN(KEY, context_blocks=2)
    assert two.uniform(["w.", "x."], "a") != two.uniform(["v.", "x."], "a")
    assert marker.uniform([[1, 2]], [3]) != marker.uniform([[1]], [2, 3])
    assert marker.uniform([], "1") != BestOfN(b"another key 0123").uniform([], "1")


def test_block_uniforms_are_uniform():
    """Kolmogorov-Smirnov at 1e-7."""
    marker = BestOfN(KEY)
    u = [marker.uniform([str(i)], "block") for i in range(20_000)]
    assert kstest(u, "uniform").pvalue > 1e-7


def test_distinct_candidates_are_equally_likely():
    """Chi-square over 20 000 contexts at 1e-7."""
    marker = BestOfN(KEY)
    candidates = ["a", "b", "c", "d", "e"]
    kept = [marker.choose([str(i)], candidates) for i in range(20_000)]
    assert chisquare(np.bincount(kept, minlength=5)).pvalue > 1e-7


def test_a_candidate_drawn_twice_is_twice_as_likely():
    """Chi-square at 1e-7; equal candidates are named by the first, and " b" equals "b"."""
    marker = BestOfN(KEY)
    candidates = ["a", "b", " b", "c", "b "]
    kept = np.bincount([marker.choose([str(i)], candidates) for i in range(20_000)], minlength=5)
    assert kept[[2, 4]].tolist() == [0, 0]
    assert chisquare(kept[[0, 1, 3]], [4000, 12_000, 4000]).pvalue > 1e-7


@pytest.mark.parametrize("num_candidates", [2, 3, 6])
def test_kept_block_has_the_models_law_in_spite_of_duplicates(num_candidates):
    """Chi-square at 1e-7. The largest uniform among the distinct draws favours rare ones."""
    law = np.array([0.85, 0.1, 0.05])
    marker = BestOfN(KEY, num_candidates)
    rng = np.random.default_rng(num_candidates)
    counts, naive = np.zeros(3), np.zeros(3)
    rows = 12_000
    for i, draws in enumerate(rng.choice(3, (rows, num_candidates), p=law)):
        context = [str(i)]
        counts[draws[marker.choose(context, [str(d) for d in draws])]] += 1
        naive[max(draws, key=lambda d: marker.uniform(context, str(d)))] += 1
    assert chisquare(counts, law * rows).pvalue > 1e-7
    if num_candidates > 2:
        assert chisquare(naive, law * rows).pvalue < 1e-9


@pytest.mark.parametrize("num_candidates", [2, 4, 16])
def test_evidence_per_block_is_the_harmonic_number(num_candidates):
    """Mean score of 4000 kept blocks within six standard errors of H_N, which is 2e-9."""
    marker = BestOfN(KEY, num_candidates)
    candidates = [f"candidate {i}" for i in range(num_candidates)]
    rows = 4000
    y = []
    for i in range(rows):
        context = [str(i)]
        y.append(marker.uniform(context, candidates[marker.choose(context, candidates)]))
    score = -np.log1p(-np.array(y))
    harmonic = sum(1 / k for k in range(1, num_candidates + 1))
    variance = sum(1 / k**2 for k in range(1, num_candidates + 1))
    assert abs(score.mean() - harmonic) < 6 * np.sqrt(variance / rows)
    assert expected_evidence(num_candidates) == pytest.approx(harmonic - 1)
    assert kstest(np.array(y) ** num_candidates, "uniform").pvalue > 1e-7


def test_evidence_of_a_repeated_candidate_is_less():
    """Y ^ (N/c) is uniform: Kolmogorov-Smirnov at 1e-7, mean score H_{N/c} within six errors."""
    marker = BestOfN(KEY)
    candidates = ["a", "a", "a", "b", "c"]
    contexts = [[str(i)] for i in range(12_000)]
    y = np.array([marker.uniform(c, "a") for c in contexts if marker.choose(c, candidates) == 0])
    assert kstest(y ** (5 / 3), "uniform").pvalue > 1e-7
    score = -np.log1p(-y)
    harmonic = digamma(1 + 5 / 3) + np.euler_gamma
    assert abs(score.mean() - harmonic) < 6 * score.std() / np.sqrt(len(y))


class Writer:
    """A model with a vocabulary of sentences; counts what it is asked."""

    def __init__(self, seed, sentences=200, stop=0.0):
        self.rng = np.random.default_rng(seed)
        self.sentences, self.stop, self.calls = sentences, stop, []

    def __call__(self, prefix, n):
        self.calls.append((prefix, n))
        return [
            ""
            if self.rng.random() < self.stop
            else f"Sentence {self.rng.integers(self.sentences)}. And {self.rng.integers(9)} more"
            for _ in range(n)
        ]


def test_marked_text_is_found_and_other_text_is_not():
    marker = BestOfN(KEY, 8)
    detect = marker.detector()
    text = marker.generate(Writer(1), 30, prefix="Tell me. ")
    found = detect(text)
    assert isinstance(detect, BlockDetector)
    assert found.num_blocks_scored == marker.marked(marker.blocks(text)).sum() >= 20
    assert found.p_value < 1e-6
    assert found.score == pytest.approx(-np.log1p(-found.y_S).sum())
    assert found.p_value == pytest.approx(gamma.sf(found.score, found.num_blocks_scored))
    other = BestOfN(b"another key 0123", 8).detector()(text)
    assert other.p_value > 1e-4
    plain = BestOfN(KEY, 8, warmup=10_000).generate(Writer(2), 30)
    assert detect(plain).p_value > 1e-4


def test_p_values_are_exact_for_other_text():
    """Uniform over 1500 keys, Kolmogorov-Smirnov at 1e-7; texts repeat their sentences a lot."""
    writer = Writer(3)
    p = [
        BestOfN(row, warmup=0)
        .detector()
        .detect_blocks([f"S{writer.rng.integers(4)}." for _ in range(12)])
        .p_value
        for row in range(1500)
    ]
    assert kstest(p, "uniform").pvalue > 1e-7


def test_repeated_contexts_and_the_warm_up_are_not_marked():
    marker = BestOfN(KEY)
    blocks = ["A. ", "B. ", "A.", "C. ", "B. ", "D."]
    # Contexts: none, A, B, A, C, B.
    assert marker.marked(blocks).tolist() == [False, True, True, False, True, False]
    assert BestOfN(KEY, warmup=0).marked(blocks).tolist() == [True, True, True, False, True, False]
    two = BestOfN(KEY, context_blocks=2)
    assert two.marked(blocks).tolist() == [False, False, True, True, True, True]


def test_unmarked_blocks_cost_one_draw_and_take_it():
    marker = BestOfN(KEY, 5)

    def sample(prefix, n):
        calls.append(n)
        return ["Same. "] * n

    calls: list[int] = []
    assert marker.generate(sample, 4) == "Same. " * 4
    # Warm-up, first time behind "Same.", then repeated.
    assert calls == [1, 5, 1, 1]


def test_driver_gives_prefixes_and_stops_at_an_empty_continuation():
    writer = Writer(4, stop=0.3)
    marker = BestOfN(KEY, 3)
    text = marker.generate(writer, 50, prefix="Prompt: ")
    blocks = marker.blocks(text)
    assert len(blocks) < 50
    for step, (prefix, n) in enumerate(writer.calls):
        assert prefix == "Prompt: " + "".join(blocks[:step])
        assert n in (1, 3)
    assert len(writer.calls) == len(blocks) + 1


def test_async_driver_writes_the_same():
    async def sample(prefix, n):
        await asyncio.sleep(0)
        return writer(prefix, n)

    marker = BestOfN(KEY, 4)
    expected = marker.generate(Writer(5), 6, prefix="P ")
    writer = Writer(5)
    assert asyncio.run(marker.agenerate(sample, 6, prefix="P ")) == expected


def test_token_ids_in_blocks_of_fixed_length():
    rng = np.random.default_rng(6)
    marker = BestOfN(KEY, 6, block_tokens=5)
    ids = marker.generate(lambda prefix, n: rng.integers(0, 99, (n, 7)), 40, prefix=[1, 2])
    assert len(ids) == 200
    found = marker.detector()(np.array(ids))
    assert found.num_blocks_scored == 39
    assert found.p_value < 1e-6
    assert marker.detector()(rng.integers(0, 99, 200)).p_value > 1e-4
    assert marker.blocks(range(7)) == [[0, 1, 2, 3, 4], [5, 6]]


def test_own_splitter():
    marker = BestOfN(KEY, splitter=lambda text: text.splitlines(keepends=True))
    assert marker.blocks("a. b\nc") == ["a. b\n", "c"]
    with pytest.raises(ValueError, match="must join"):
        BestOfN(KEY, splitter=str.split).blocks("a b")


def test_empty_text_is_no_evidence():
    for text in ("", "One sentence."):
        found = BestOfN(KEY).detector()(text)
        assert (found.p_value, found.score, found.num_blocks_scored) == (1.0, 0.0, 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": b"short"}, ValueError, "at least 16"),
        ({"num_candidates": 1}, ValueError, "num_candidates must be at least 2, got 1"),
        ({"num_candidates": 2.0}, TypeError, "num_candidates must be an int"),
        ({"block_tokens": 0}, ValueError, "block_tokens must be at least 1"),
        ({"context_blocks": 0}, ValueError, "context_blocks must be at least 1"),
        ({"warmup": -1}, ValueError, "warmup must be at least 0"),
        ({"block_tokens": 3, "splitter": str.split}, ValueError, "give one of them"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        BestOfN(**({"key": KEY} | changes))


def test_bad_calls_are_named():
    marker, ids = BestOfN(KEY), BestOfN(KEY, block_tokens=2)
    with pytest.raises(ValueError, match="at least one candidate"):
        marker.choose([], [])
    with pytest.raises(TypeError, match="reads a string, got list"):
        marker.detector()([1, 2])
    with pytest.raises(TypeError, match="reads a sequence of token ids, got str"):
        ids.detector()("text")
    with pytest.raises(TypeError, match="prefix must be a sequence of token ids, got str"):
        ids.generate(lambda prefix, n: [[1]] * n, 1, prefix="text")
    with pytest.raises(ValueError, match="asked for 1 continuations and returned 2"):
        marker.generate(lambda prefix, n: ["a", "b"], 1)
    with pytest.raises(ValueError, match="num_blocks must be at least 1"):
        marker.generate(Writer(0), 0)


def test_the_p_value_is_never_zero(monkeypatch):
    marker = BestOfN(KEY, block_tokens=1, num_candidates=2)
    monkeypatch.setattr(BestOfN, "uniform", lambda *_: 1 - 2.0**-53)
    found = marker.detector()(list(range(200)))
    assert found.num_blocks_scored == 199
    assert 0 < found.p_value < 1e-300
