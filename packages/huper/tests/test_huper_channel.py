"""Channels count what was said, back off where little was, and come back from disk unchanged."""

import itertools
import json
import math

import numpy as np
import pytest

from modicum.huper.channel import EditChannel, phone_bigram
from modicum.huper.emissions import Emissions
from modicum.huper.graph import edit_posteriors, fused_decode
from modicum.huper.graph.export import (
    channel_text,
    ctc_text,
    edit_graph_text,
    emissions_text,
    symbols_text,
)
from modicum.huper.graph.viterbi import best_path
from modicum.huper.phones import PhoneSet

SYMBOLS = ("<PAD>", "AA", "IY", "T", "DX", "V", "B", "<UNK>")
PHONES = PhoneSet(SYMBOLS, 0, frozenset({"<PAD>", "<UNK>"}))
P = 6


def row(channel, *canonical):
    """Probabilities of everything the first phone may become."""
    weights = channel.weights(list(canonical))
    return np.exp(np.append(weights.sub[0], weights.dele[0]))


def test_closed_form_of_the_counts():
    pairs = [
        (["V", "AA"], ["B", "AA"]),
        (["V", "AA"], ["V", "AA"]),
        (["V", "IY"], ["IY"]),
        (["T"], ["T", "AA", "AA"]),
    ]
    channel = EditChannel.fit(pairs, alpha=0.3, keep_prior=2.0, phones=PHONES)
    total = 0.3 / P * P + 2.0 + 3 + 0.3
    weights = channel.weights(["V"])
    assert math.exp(weights.sub[0, 5]) == pytest.approx((0.3 / P + 2.0 + 1) / total)
    assert math.exp(weights.sub[0, 6]) == pytest.approx((0.3 / P + 1) / total)
    assert math.exp(weights.sub[0, 1]) == pytest.approx(0.3 / P / total)
    assert math.exp(weights.dele[0]) == pytest.approx((0.3 + 1) / total)
    assert math.exp(weights.ins[0, 1]) == pytest.approx((0.3 / P + 2) / (7 + 1))
    assert math.exp(weights.ins[1, 2]) == pytest.approx(0.3 / P / (7 + 1))


def test_outcomes_sum_to_one_and_specials_are_never_said():
    rng = np.random.default_rng(2)
    pairs = [
        (rng.choice(PHONES.phones, 6).tolist(), rng.choice(PHONES.phones, 5).tolist())
        for _ in range(40)
    ]
    for context in (None, "lr"):
        channel = EditChannel.fit(pairs, context=context, phones=PHONES)
        weights = channel.weights(rng.choice(PHONES.phones, 9).tolist())
        np.testing.assert_allclose(
            np.exp(weights.sub).sum(1) + np.exp(weights.dele), 1.0, atol=1e-12
        )
        for special in (0, 7):
            assert (weights.sub[:, special] == -np.inf).all()
            assert (weights.ins[:, special] == -np.inf).all()


def test_context_learns_flapping_between_vowels_only():
    pairs = [(["AA", "T", "IY"], ["AA", "DX", "IY"])] * 20 + [(["T", "AA"], ["T", "AA"])] * 20
    flat = EditChannel.fit(pairs, phones=PHONES)
    channel = EditChannel.fit(pairs, context="lr", phones=PHONES)
    between = channel.weights(["IY", "T", "AA"])  # vowels that were never seen on these sides
    assert math.exp(between.sub[1, 4]) > 0.9
    assert row(channel, "T", "IY")[3] > 0.9
    assert 0.4 < row(flat, "T", "IY")[3] < 0.6
    # A context that was never seen gives what all contexts give.
    unseen = channel.weights(["V", "T", "B"])
    np.testing.assert_array_equal(unseen.sub[1], flat.weights(["V", "T", "B"]).sub[1])


def test_witten_bell_by_hand():
    pairs = [(["AA", "T", "IY"], ["AA", "DX", "IY"])] * 3 + [(["AA", "T", "IY"], ["AA", "IY"])]
    pairs += [(["T"], ["T"])] * 5
    channel = EditChannel.fit(pairs, context="lr", phones=PHONES)
    base = EditChannel.fit(pairs, phones=PHONES).weights(["T"])
    # Between vowels: DX three times, dropped once; four outcomes of two types.
    weights = channel.weights(["AA", "T", "IY"])
    assert math.exp(weights.sub[1, 4]) == pytest.approx((3 + 2 * math.exp(base.sub[0, 4])) / 6)
    assert math.exp(weights.dele[1]) == pytest.approx((1 + 2 * math.exp(base.dele[0])) / 6)
    assert math.exp(weights.sub[1, 3]) == pytest.approx(2 * math.exp(base.sub[0, 3]) / 6)


def test_ipa_vowels_are_vowels_too():
    phones = PhoneSet(("_", "ɑ", "t", "ɾ", "ɜ˞", "t͡ʃ"), 0, frozenset({"_"}))
    pairs = [(["ɑ", "t", "ɜ˞"], ["ɑ", "ɾ", "ɜ˞"])] * 20 + [
        (["t͡ʃ", "t", "ɑ"], ["t͡ʃ", "t", "ɑ"])
    ] * 20
    channel = EditChannel.fit(pairs, context="lr", phones=phones)
    assert math.exp(channel.weights(["ɜ˞", "t", "ɑ"]).sub[1, 3]) > 0.9
    assert math.exp(channel.weights(["t͡ʃ", "t", "ɜ˞"]).sub[1, 2]) > 0.9


def test_ids_and_symbols_mean_the_same():
    channel = EditChannel.fit([(["V"], ["B"])], phones=PHONES)
    by_symbol, by_id = channel.weights(["V", "AA"]), channel.weights([5, 1])
    np.testing.assert_array_equal(by_symbol.sub, by_id.sub)
    np.testing.assert_array_equal(by_symbol.canonical, [5, 1])
    assert len(channel.weights([])) == 0


def simulate(rng, channel, count, length=6, certainty=0.85):
    """Utterances whose speaker follows the channel, with noisy emissions."""
    weights = [channel.weights(rng.choice(PHONES.ids, length)) for _ in range(count)]
    emissions, realized = [], []
    for item in weights:
        said = []
        for sub_C, dele in zip(item.sub, item.dele, strict=True):
            outcome = rng.choice(len(SYMBOLS) + 1, p=np.exp(np.append(sub_C, dele)))
            if outcome < len(SYMBOLS):
                said.append(int(outcome))
        labels = [label for phone in said for label in (phone, phone, 0)] + [0]
        logits = rng.normal(size=(len(labels), len(SYMBOLS)))
        logits[np.arange(len(labels)), labels] += 5 * certainty
        emissions.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
        realized.append(said)
    return emissions, [item.canonical for item in weights], realized


def test_em_finds_a_substitution_nobody_labelled():
    rng = np.random.default_rng(17)
    truth = EditChannel.fit(
        [(["V"], ["B"])] * 60 + [(["T"], ["T"])] * 40 + [(["T"], [])] * 20, phones=PHONES
    )
    emissions, canonicals, _ = simulate(rng, truth, 60)
    found = EditChannel.fit_em(emissions, canonicals, phones=PHONES, iterations=4)
    assert row(found, "V")[6] > 0.8
    assert row(found, "T")[3] > 0.5
    assert row(found, "AA")[1] > 0.8
    assert len(found.history) == 4
    assert found.history[-1] > found.history[0]


@pytest.mark.parametrize("context", [None, "lr"])
def test_em_in_batches_is_em_one_by_one(context):
    from modicum.huper.channel import _Counts
    from modicum.huper.graph.posteriors import forward_backward

    rng = np.random.default_rng(8)
    truth = EditChannel.fit([(["V"], ["B"])] * 30, phones=PHONES)
    emissions, canonicals = [], []
    for length in (6, 1, 0, 3, 6, 2):
        some, references, _ = simulate(rng, truth, 1, length)
        emissions, canonicals = emissions + some, canonicals + references
    expected, history = EditChannel.fit([], context=context, phones=PHONES), []
    for _ in range(2):
        counts, total = _Counts(PHONES, context), 0.0
        for logprobs, canonical in zip(emissions, canonicals, strict=True):
            found = forward_backward(logprobs, expected.weights(canonical), 0, 0.8)
            total += found.log_likelihood
            counts.add_expected(found.canonical, found.sub, found.dele, found.ins)
        history.append(total)
        expected = counts.channel(0.05, 1.0)

    class Bar:
        done = 0

        def advance(self, n=1):
            self.done += n

    for batch_size in (1, 4):
        bar = Bar()
        found = EditChannel.fit_em(
            emissions,
            canonicals,
            phones=PHONES,
            iterations=2,
            lam=0.8,
            context=context,
            batch_size=batch_size,
            progress=bar,
        )
        assert bar.done == 2 * len(emissions)
        assert found.history == pytest.approx(history, abs=1e-7)
        for name in ("sub_counts", "del_counts", "ins_counts"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-8)


def test_em_batches_are_bounded_in_memory_and_hold_every_utterance_once():
    from modicum.huper.channel import _BATCH_BYTES, _groups

    emissions = [np.broadcast_to(0.0, (frames, 8)) for frames in (90_000, 10, 500, 500, 10, 7)]
    canonicals = [[1] * length for length in (300, 3, 9000, 4, 2, 0)]
    groups = _groups(emissions, canonicals, 8, 3)
    assert sorted(b for group in groups for b in group) == list(range(6))
    assert max(map(len, groups)) == 3
    for group in groups:
        frames = max(len(emissions[b]) for b in group)
        positions = max(len(canonicals[b]) for b in group) + 1
        assert len(group) == 1 or len(group) * frames * positions * 8 * 16 <= _BATCH_BYTES
    assert [0] in groups and [2] in groups


def test_em_raises_the_penalised_likelihood_where_it_must():
    # Without insertions the rows are all there is, and the prior is a Dirichlet: exact MAP-EM.
    rng = np.random.default_rng(5)
    truth = EditChannel.fit([(["V"], ["B"])] * 30, phones=PHONES)
    emissions, canonicals, _ = simulate(rng, truth, 20)
    channel = EditChannel.fit([], phones=PHONES)

    def objective(channel, likelihood):
        # Pseudo-counts are a Dirichlet prior of the rows.
        base = channel.alpha / P + channel.keep_prior * np.eye(P)
        rows = np.log(channel.outcomes())
        return likelihood + (base * rows[:, :-1]).sum() + channel.alpha * rows[:, -1].sum()

    from modicum.huper.channel import Weights, _Counts
    from modicum.huper.graph.posteriors import forward_backward

    values = []
    for _ in range(5):
        counts, total = _Counts(PHONES, None), 0.0
        for logprobs, canonical in zip(emissions, canonicals, strict=True):
            full = channel.weights(canonical)
            weights = Weights(canonical, full.sub, full.dele, np.full(full.ins.shape, -np.inf))
            found = forward_backward(logprobs, weights)
            total += found.log_likelihood
            counts.add_expected(canonical, found.sub, found.dele, found.ins)
        values.append(objective(channel, total))
        channel = counts.channel(channel.alpha, channel.keep_prior)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))


def test_save_and_load(tmp_path):
    pairs = [(["AA", "T", "IY"], ["AA", "DX", "IY"]), (["V"], ["B", "AA"])]
    for context in (None, "lr"):
        channel = EditChannel.fit(pairs, 0.2, 1.5, context, phones=PHONES)
        back = EditChannel.load(channel.save(tmp_path / str(context)))
        assert back.phones == PHONES and back.context == context
        one, two = channel.weights(["AA", "T", "IY"]), back.weights(["AA", "T", "IY"])
        for name in ("canonical", "sub", "dele", "ins"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    mixed = tmp_path / "lr"
    (mixed / "channel.safetensors").write_bytes(
        (tmp_path / "None" / "channel.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="is not the file"):
        EditChannel.load(mixed)
    settings = json.loads((mixed / "channel.json").read_text())
    (mixed / "channel.json").write_text(json.dumps(settings | {"format": 9}))
    with pytest.raises(ValueError, match="format 9"):
        EditChannel.load(mixed)


def test_bigram_rows_sum_to_one():
    table = phone_bigram([["AA", "T"], ["AA", "T", "IY"]], PHONES, alpha=0.1)
    probability = np.exp(table)
    np.testing.assert_allclose(probability[[*PHONES.ids, -1]].sum(1), 1.0, atol=1e-12)
    assert probability[1, 3] == pytest.approx((2 + 0.1) / (2 + 7 * 0.1))
    assert probability[-1, 1] == pytest.approx(2.1 / 2.7)
    assert probability[3, -1] == pytest.approx(1.1 / 2.7)
    assert (probability[:, 0] == 0).all() and (probability[:, 7] == 0).all()


def test_openfst_composition_finds_the_same_score():
    kaldifst = pytest.importorskip("kaldifst")
    rng = np.random.default_rng(23)
    for _ in range(8):
        channel = EditChannel.fit(
            [(rng.choice(PHONES.phones, 5), rng.choice(PHONES.phones, 5)) for _ in range(6)],
            phones=PHONES,
        )
        canonical = rng.choice(PHONES.ids, 4)
        logits = rng.normal(size=(7, len(SYMBOLS))) * 2
        logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        weights = channel.weights(canonical)
        graphs = [
            kaldifst.compile(text)
            for text in (
                emissions_text(logprobs),
                ctc_text(len(SYMBOLS)),
                edit_graph_text(weights, lam=0.7),
            )
        ]
        for graph in graphs:
            kaldifst.arcsort(graph, "ilabel")
        heard = kaldifst.compose(graphs[0], graphs[1])
        kaldifst.arcsort(heard, "olabel")
        best = kaldifst.shortest_path(kaldifst.compose(heard, graphs[2]))
        found, frames, said, total = kaldifst.get_linear_symbol_sequence(best)
        assert found
        assert -total.value == pytest.approx(
            best_path(logprobs, weights, 0, 0.7, 4).score, abs=1e-4
        )
        assert [label - 1 for label in said] == canonical.tolist()
        assert len(frames) == 7


def test_exported_channel_has_every_edit_once():
    kaldifst = pytest.importorskip("kaldifst")
    channel = EditChannel.fit([(["V"], ["B"])], phones=PHONES)
    graph = kaldifst.compile(channel_text(channel))
    assert graph.num_states == 1
    arcs = {(arc.ilabel, arc.olabel): arc.weight.value for arc in kaldifst.ArcIterator(graph, 0)}
    assert len(arcs) == P * P + 2 * P
    assert arcs[6, 7] == pytest.approx(-channel.weights(["V"]).sub[0, 6], abs=1e-5)
    assert arcs[6, 0] == pytest.approx(-channel.weights(["V"]).dele[0], abs=1e-5)
    assert "V 6" in symbols_text(PHONES).splitlines()
    with pytest.raises(ValueError, match="edit_graph_text"):
        channel_text(EditChannel.fit([], context="lr", phones=PHONES))


def test_decoding_with_symbols():
    channel = EditChannel.fit([(["V"], ["B"])] * 9, phones=PHONES)
    labels = [0, 6, 6, 0, 1, 1, 0]
    logprobs = np.full((7, 8), np.log(0.1 / 7))
    logprobs[np.arange(7), labels] = np.log(0.9)
    found = fused_decode(logprobs, ["V", "AA1"], channel)
    assert found.phones == ("B", "AA") and found.ops == ("sub", "keep")
    assert found.canonical == ("V", "AA")


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match="alpha"):
        EditChannel.fit([], alpha=0, phones=PHONES)
    with pytest.raises(ValueError, match="keep_prior"):
        EditChannel.fit([], keep_prior=-1, phones=PHONES)
    with pytest.raises(ValueError, match="'l'"):
        EditChannel.fit([], context="l", phones=PHONES)
    with pytest.raises(ValueError, match="ZH"):
        EditChannel.fit([(["ZH"], ["V"])], phones=PHONES)
    channel = EditChannel.fit([], phones=PHONES)
    with pytest.raises(ValueError, match="id 7"):
        channel.weights([7])
    with pytest.raises(ValueError, match="2 utterances"):
        EditChannel.fit_em([np.zeros((1, 8))] * 2, [[1]], init=channel)
    with pytest.raises(ValueError, match="iterations"):
        EditChannel.fit_em([], [], init=channel, iterations=0)
    with pytest.raises(ValueError, match="batch_size"):
        EditChannel.fit_em([], [], init=channel, batch_size=0)
    other = EditChannel.fit([])
    with pytest.raises(ValueError, match="the channel was made for"):
        fused_decode(np.full((2, 8), -np.log(8)), ["V"], other, phones=PHONES)


def test_decoding_a_batch_of_emissions():
    channel = EditChannel.fit([(["V"], ["B"])] * 9, phones=PHONES)
    rng = np.random.default_rng(12)
    emissions = Emissions.log_softmax(rng.normal(size=(2, 9, 8)) * 3, [9, 6], 0.02, PHONES)
    canonicals = [["V", "AA", "T"], ["IY", "B"]]
    found = fused_decode(emissions, canonicals, channel)
    assert isinstance(found, list) and len(found) == 2
    for b, alignment in enumerate(found):
        alone = fused_decode(emissions.utterance(b), canonicals[b], channel)
        assert (alignment.phones, alignment.edits) == (alone.phones, alone.edits)
        assert alignment.score == alone.score
        assert alignment.seconds() == tuple((a * 0.02, b * 0.02) for a, b in alignment.spans)
        with pytest.raises(ValueError, match="frame shift"):
            alone.seconds()
    for one, two in zip(
        found, fused_decode(emissions, canonicals, channel, backend="torch"), strict=True
    ):
        assert one.edits == two.edits
    with pytest.raises(ValueError, match="dysfluent"):
        fused_decode(emissions, canonicals, channel, graph="dysfluent", band=3)
    posteriors = edit_posteriors(emissions, canonicals, channel)
    assert all(p.log_likelihood >= a.score for p, a in zip(posteriors, found, strict=True))
    with pytest.raises(ValueError, match="list of 2"):
        fused_decode(emissions, canonicals[0], channel)
    one = Emissions.log_softmax(rng.normal(size=(1, 9, 8)), None, 0.02, PHONES)
    assert fused_decode(one, canonicals[0], channel).canonical == ("V", "AA", "T")
    bigram = phone_bigram([["V", "AA", "T"]] * 5, PHONES)
    assert fused_decode(one, canonicals[0], channel, lm=bigram).reason is None
    fitted = EditChannel.fit_em(emissions, canonicals, iterations=1, context="lr")
    assert fitted.phones == PHONES and fitted.context_counts.sum() == pytest.approx(5)
