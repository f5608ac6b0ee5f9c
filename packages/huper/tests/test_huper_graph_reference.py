"""Words with several pronunciations are decoded as if every sequence of them had been tried."""

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest

from modicum.huper.channel import EditChannel, Weights
from modicum.huper.edits import apply
from modicum.huper.emissions import Emissions
from modicum.huper.g2p import Word
from modicum.huper.graph import Pause, ReferenceGraph, fused_decode, reference
from modicum.huper.graph.export import ctc_text, emissions_text, reference_text
from modicum.huper.graph.viterbi import best_path
from modicum.huper.phones import PhoneSet

NEG = -math.inf
SYMBOLS = ("<PAD>", "AA", "IY", "T", "DX", "V", "B", "<UNK>")
PHONES = PhoneSet(SYMBOLS, 0, frozenset({"<PAD>", "<UNK>"}))


class NeighbourChannel:
    """Random weights that depend on each phone and the phones beside it."""

    phones = None

    def __init__(self, seed, classes):
        self.seed, self.classes = seed, classes

    def weights(self, canonical):
        ids = [int(q) for q in canonical]
        padded = [0, *ids, 0]
        sub, dele = np.zeros((len(ids), self.classes)), np.zeros(len(ids))
        ins = np.zeros((len(ids) + 1, self.classes))
        for i, phone in enumerate(ids):
            rng = np.random.default_rng([self.seed, 1, *padded[i : i + 3]])
            sub[i] = rng.normal(-2.5, 1.5, self.classes)
            sub[i, phone] = rng.normal(-0.3, 0.2)
            dele[i] = rng.normal(-1.5, 1)
        for i in range(len(ids) + 1):
            rng = np.random.default_rng([self.seed, 2, *padded[i : i + 2]])
            ins[i] = rng.normal(-3, 1, self.classes)
        return Weights(np.array(ids, int), sub, dele, ins)


def random_emissions(rng, frames, classes, sharpness=2.0):
    logits = rng.normal(size=(frames, classes)) * sharpness
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def random_graph(rng, classes, count, optional=None):
    """Words with one to three pronunciations of one to three phones, and their log-weights."""
    words, weights = [], []
    for k in range(count):
        options = {
            tuple(rng.integers(1, classes, size=rng.integers(1, 4)).tolist())
            for _ in range(rng.integers(1, 4))
        }
        first, *others = sorted(options)
        words.append(Word(f"word{k}", first, tuple(others)))
        weights.append(tuple(rng.normal(-1, 1, len(options))))
    return ReferenceGraph(tuple(words), tuple(weights), optional or {})


@pytest.mark.parametrize("kind", ["neighbours", "plain", "lr"])
@pytest.mark.parametrize("maxdel", [0, 1, 3])
def test_equals_every_sequence_of_pronunciations(kind, maxdel):
    rng = np.random.default_rng([3, maxdel, *kind.encode()])
    classes, chosen, across = 8, set(), 0
    for trial in range(10 if kind == "neighbours" else 6):
        graph = random_graph(rng, 7, trial % 5)
        logprobs = random_emissions(rng, int(rng.integers(1, 11)), classes)
        channel = NeighbourChannel(trial, classes)
        if kind != "neighbours":
            pairs = [(rng.choice(PHONES.phones, 5), rng.choice(PHONES.phones, 4))] * 4
            context = "lr" if kind == "lr" else None
            channel = EditChannel.fit(pairs, context=context, phones=PHONES)
        lam = (1.0, 0.4, 0.0)[trial % 3]
        if trial % 5 == 3:
            lam = rng.uniform(0, 2, len(logprobs))
        scores, paths = [], []
        for sequence, prior in graph.sequences():
            path = best_path(logprobs, channel.weights(sequence), 0, lam, maxdel)
            scores.append(NEG if path is None else path.score + prior)
            paths.append(path)
        found = fused_decode(logprobs, graph, channel, lam, maxdel)
        best = int(np.argmax(scores))
        if scores[best] == NEG:
            assert found.reason == "no_path"
            continue
        assert found.score == pytest.approx(scores[best], abs=1e-9)
        picked = [w.pronunciations[s.choice] for w, s in zip(graph.words, found.words, strict=True)]
        sequence = [phone for phones in picked for phone in phones]
        number = [item for item, _ in graph.sequences()].index(tuple(sequence))
        assert scores[number] == pytest.approx(scores[best], abs=1e-9)
        assert len(found.canonical) == len(sequence)
        if kind == "neighbours" and np.ndim(lam) + np.any(lam):  # elsewhere edits tie
            path = paths[best]
            assert found.ids == path.ids
            assert found.spans == tuple(zip(path.starts, path.ends, strict=True))
            spoken = [edit for edit in found.edits if edit.span]
            assert [edit.index for edit in spoken] == list(path.positions)
        assert apply(found.program) == found.phones
        chosen |= {word.choice for word in found.words}
        boundaries = {word.indices[0] for word in found.words}
        gone = set(found.deleted)
        across += any(i in gone and i - 1 in gone for i in boundaries)
    assert chosen >= {0, 1}
    assert (
        across or maxdel < 3 or kind != "neighbours"
    )  # deletions in a row went over a word boundary


def test_words_have_times_and_ranges():
    channel = EditChannel.fit([(["T"], ["DX"])] * 20, phones=PHONES)
    words = [Word("a", ("AA",), (("IY",),)), Word("bit", ("B", "T"), (("B", "IY", "T"),))]
    labels = [0, 2, 2, 0, 6, 6, 2, 2, 4, 4, 0]
    logprobs = np.full((11, 8), np.log(0.01 / 7))
    logprobs[np.arange(11), labels] = np.log(0.99)
    found = fused_decode(logprobs, words, channel)
    assert found.phones == ("IY", "B", "IY", "DX") and found.ops[-1] == "sub"
    assert [(w.text, w.choice, w.canonical, w.indices, w.span) for w in found.words] == [
        ("a", 1, ("IY",), (0, 1), (1, 3)),
        ("bit", 1, ("B", "IY", "T"), (1, 4), (4, 10)),
    ]
    # A word of which nothing was said has no time.
    silent = fused_decode(logprobs[:4], words, channel)
    assert silent.words[1].span is None and silent.words[1].indices[0] == 1
    # A weight of a pronunciation is worth what it says, whatever λ is.
    weighted = ReferenceGraph(tuple(words), ((0.0, -0.5), (0.0, -0.25)))
    for lam in (0.5, 1.0):
        with_weights = fused_decode(logprobs, weighted, channel, lam)
        without = fused_decode(logprobs, words, channel, lam)
        assert with_weights.score == pytest.approx(without.score - 0.75, abs=1e-9)
    other = ReferenceGraph(tuple(words), ((0.0, -1e3), (0.0, 0.0)))
    assert fused_decode(logprobs, other, channel).words[0].choice == 0


def test_optional_phones_stand_between_words_only():
    rng = np.random.default_rng(19)
    used = inside = 0
    for trial in range(15):
        graph = random_graph(rng, 6, 1 + trial % 3, {7: -0.2})
        logprobs = random_emissions(rng, 7, 8, 3.0)
        logprobs[rng.integers(7, size=3), 7] = 1.0
        logprobs -= np.log(np.exp(logprobs).sum(1, keepdims=True))
        channel = NeighbourChannel(trial, 8)
        scores = []
        for choices in itertools.product(*(range(len(w.pronunciations)) for w in graph.words)):
            parts = [w.pronunciations[j] for w, j in zip(graph.words, choices, strict=True)]
            weights = channel.weights([q for part in parts for q in part])
            at = np.cumsum([0, *map(len, parts)])
            weights.ins[at, 7] = np.maximum(weights.ins[at, 7], -0.2)
            prior = sum(w[j] for w, j in zip(graph.log_weights, choices, strict=True))
            scores.append(best_path(logprobs, weights, 0, 1.0, 1).score + prior)
        found = fused_decode(logprobs, graph, channel, maxdel=1)
        assert found.score == pytest.approx(max(scores), abs=1e-9)
        used += "7" in found.phones
        plain = ReferenceGraph(graph.words, graph.log_weights)
        inside += fused_decode(logprobs, plain, channel, maxdel=1).score < found.score - 1e-6
    assert used >= 5 and inside >= 5


def pauses_by_enumeration(logprobs, weights, boundaries, maxdel, pause):
    """Every labelling of the frames; a long enough run of blanks may be a pause."""
    frames, classes = logprobs.shape
    length = len(weights)
    best = NEG
    for path in itertools.product(range(classes), repeat=frames):
        heard = logprobs[np.arange(frames), path].sum()
        runs = [(q, len(list(group))) for q, group in itertools.groupby(path)]
        events = [run for run in runs if run[0] or run[1] >= pause.min_frames]

        @lru_cache(None)
        def rest(m, i, events=tuple(events)):
            if m == len(events):
                return weights.dele[i:].sum() if length - i <= maxdel + 1 else NEG
            phone, _ = events[m]
            found = NEG if phone else rest(m + 1, i)
            for at in range(i, min(i + maxdel, length) + 1):
                passed = weights.dele[i:at].sum()
                if not phone:
                    if at in boundaries:
                        found = max(found, passed + pause.weight + rest(m + 1, at))
                    continue
                if at < length:
                    found = max(found, passed + weights.sub[at, phone] + rest(m + 1, at + 1))
                found = max(found, passed + weights.ins[at, phone] + rest(m + 1, at))
            return found

        best = max(best, heard + rest(0, 0))
    return best


@pytest.mark.parametrize("maxdel", [0, 1, 2])
def test_pauses_stand_between_words_only(maxdel):
    rng = np.random.default_rng([23, maxdel])
    paused = moved = 0
    for trial in range(10):
        words = (Word("a", (1, 2), ((2,),)), Word("b", (2, 1)))[: 1 + trial % 2]
        graph = ReferenceGraph(words)
        logprobs = random_emissions(rng, 5, 3, 2.5)
        logprobs[1:4, 0] += 3.0
        logprobs -= np.log(np.exp(logprobs).sum(1, keepdims=True))
        channel, pause = NeighbourChannel(trial, 3), Pause(int(rng.integers(1, 4)), 1.5)
        expected = NEG
        for choices in itertools.product(*(word.pronunciations for word in words)):
            at = set(np.cumsum([0, *map(len, choices)]).tolist())
            weights = channel.weights([q for part in choices for q in part])
            expected = max(expected, pauses_by_enumeration(logprobs, weights, at, maxdel, pause))
        found = fused_decode(logprobs, graph, channel, maxdel=maxdel, silence=pause)
        if expected == NEG:
            assert found.reason == "no_path"
            continue
        assert found.score == pytest.approx(expected, abs=1e-9)
        assert all(b - a >= pause.min_frames for a, b in found.pauses)
        assert apply(found.program) == found.phones
        paused += bool(found.pauses)
        sequence = [int(q) for q in found.canonical]
        anywhere = best_path(logprobs, channel.weights(sequence), 0, 1.0, maxdel, silence=pause)
        moved += anywhere is not None and anywhere.score > found.score + 1e-6
    assert paused >= 3
    assert moved or maxdel  # somewhere a pause inside a word would have been worth more


def test_a_batch_and_the_union_of_hypotheses():
    channel = EditChannel.fit([(["V"], ["B"])] * 9, phones=PHONES)
    rng = np.random.default_rng(12)
    emissions = Emissions.log_softmax(rng.normal(size=(2, 9, 8)) * 3, [9, 6], 0.02, PHONES)
    one = [Word("via", ("V", "IY", "AA"), (("V", "AA"),))]
    two = [Word("tea", ("T", "IY")), Word("bee", ("B", "IY"), (("V", "IY"),))]
    found = fused_decode(emissions, [one, two], channel)
    for b, words in enumerate((one, two)):
        alone = fused_decode(emissions.utterance(b), words, channel)
        assert (found[b].edits, found[b].words, found[b].score) == (
            alone.edits,
            alone.words,
            alone.score,
        )
        assert len(found[b].seconds()) == len(found[b].phones)
    frames = emissions.utterance(1)
    first, second = (fused_decode(frames, words, channel) for words in (one, two))
    both = fused_decode(frames, one, channel, alternatives=[(two, -0.1)])
    assert both.score == pytest.approx(max(first.score, second.score - 0.1), abs=1e-12)


def test_the_work_grows_with_the_sum_of_the_pronunciations():
    # 3^20 sequences; a product would not end.
    rng = np.random.default_rng(1)
    channel = EditChannel.fit([], phones=PHONES, context="lr")
    words = [
        Word(str(k), *(lambda first, *more: (first, tuple(more)))(*options))
        for k in range(20)
        for options in [[tuple(rng.choice(PHONES.phones, 3)) for _ in range(3)]]
    ]
    said = [PHONES.id(q) for word in words for q in word.pronunciations[int(word.text) % 3]]
    labels = [label for q in said for label in (q, q, 0)]
    logprobs = np.full((len(labels), 8), np.log(0.02 / 7))
    logprobs[np.arange(len(labels)), labels] = np.log(0.98)
    found = fused_decode(logprobs, words, channel)
    assert list(found.ids) == said
    picked = [word.pronunciations[w.choice] for word, w in zip(words, found.words, strict=True)]
    assert picked == [word.pronunciations[int(word.text) % 3] for word in words]


def test_memory_of_long_audio_is_warned_about_before_it_is_taken():
    class Channel:
        context = None

        def weights(self, canonical):
            size = len(canonical)
            table = np.broadcast_to(-1.0, (size + 1, 500))
            return Weights(np.array(canonical, int), table[1:], np.full(size, -1.0), table)

    arcs = reference.arcs_of(ReferenceGraph((Word("long", (1,) * 1200),)), Channel(), None)
    huge = np.broadcast_to(-np.log(500), (3000, 500))
    with pytest.warns(UserWarning, match="GiB"):
        reference._Search(huge, arcs, 0, 1.0, 2, None)


def test_bad_references_are_named():
    channel = EditChannel.fit([], phones=PHONES)
    logprobs = np.full((4, 8), -np.log(8))
    with pytest.raises(ValueError, match="'hm' has an empty"):
        ReferenceGraph((Word("hm", ()),))
    with pytest.raises(ValueError, match=r"\[2\], log-weights \[1\]"):
        ReferenceGraph((Word("a", ("AA",), (("IY",),)),), ((0.0,),))
    with pytest.raises(ValueError, match="nan"):
        ReferenceGraph((Word("a", ("AA",)),), ((math.nan,),))
    with pytest.raises(ValueError, match=r"ZH.*word 'a'"):
        fused_decode(logprobs, [Word("a", ("AA",), (("ZH",),))], channel)
    with pytest.raises(ValueError, match="need an EditChannel"):
        fused_decode(logprobs, [Word("a", ("AA",))], channel.weights(["AA"]), phones=PHONES)
    for options in ({"repeat": -1.0}, {"backend": "torch"}, {"graph": "dysfluent"}):
        with pytest.raises(ValueError, match="give phones for the others"):
            fused_decode(logprobs, [Word("a", ("AA",))], channel, **options)
    with pytest.raises(ValueError, match="not both"):
        fused_decode(
            Emissions.log_softmax(np.zeros((2, 4, 8)), None, 0.02, PHONES),
            [[Word("a", ("AA",))], ["AA"]],
            channel,
        )
    with pytest.raises(ValueError, match="optional id 9"):
        graph = ReferenceGraph((Word("a", ("AA",)),), optional={9: 0.0})
        fused_decode(logprobs, graph, channel)
    too_long = fused_decode(logprobs[:1], [Word("a", ("AA",) * 9)], channel)
    assert too_long.reason == "no_path" and too_long.words[0].indices == (0, 9)


@pytest.mark.parametrize("context", [None, "lr"])
def test_openfst_composition_finds_the_same_words(context):
    kaldifst = pytest.importorskip("kaldifst")
    rng = np.random.default_rng(29)
    for trial in range(6):
        pairs = [(rng.choice(PHONES.phones, 5), rng.choice(PHONES.phones, 5)) for _ in range(6)]
        channel = EditChannel.fit(pairs, context=context, phones=PHONES)
        graph = random_graph(rng, 7, trial % 4, {"DX": -0.3})
        logprobs = random_emissions(rng, 6, 8)
        texts = (emissions_text(logprobs), ctc_text(8), reference_text(graph, channel, 0.7))
        graphs = [kaldifst.compile(text) for text in texts]
        for fst in graphs:
            kaldifst.arcsort(fst, "ilabel")
        heard = kaldifst.compose(graphs[0], graphs[1])
        # Without this order the composition silently misses paths.
        kaldifst.arcsort(heard, "olabel")
        best = kaldifst.shortest_path(kaldifst.compose(heard, graphs[2]))
        ok, _, said, total = kaldifst.get_linear_symbol_sequence(best)
        assert ok
        found = fused_decode(logprobs, graph, channel, 0.7, maxdel=20)
        assert found.score == pytest.approx(-total.value, abs=1e-4)
        sequences = [sequence for sequence, _ in graph.sequences()]
        assert tuple(label - 1 for label in said) in sequences
