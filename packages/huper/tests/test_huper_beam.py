"""Prefix beam search against enumeration, n-grams against their formula, lattices, alignments."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from rapidfuzz.distance import Levenshtein

from modicum.huper.beam import (
    Candidate,
    ConfusionNetwork,
    PhoneNgram,
    align,
    as_language_model,
    prefix_beam_search,
)
from modicum.huper.channel import phone_bigram
from modicum.huper.emissions import Emissions
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import Recognizer, decode

FOLDER = Path(__file__).parent / "data" / "huper_world"
PHONES = PhoneSet(("-", "a", "|", "b"), 0, frozenset({"|"}))
WIDE = 5000


def _logprobs(frames, classes=4, seed=0, sharpness=2.0):
    scores = sharpness * np.random.default_rng(seed).standard_normal((frames, classes))
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def _enumerated(logprobs, phones):
    """Log-probability of every phone sequence: the sum over all paths that collapse to it."""
    frames, classes = logprobs.shape
    silent = {phones.id(one) for one in phones.specials}
    found = {}
    for path in itertools.product(range(classes), repeat=frames):
        # The specials are one class with the blank: a|a is two phones, and so is a-a.
        merged = [None if one in silent else one for one in path]
        ids = tuple(one for one, _ in itertools.groupby(merged) if one is not None)
        value = sum(logprobs[t, one] for t, one in enumerate(path))
        found[ids] = np.logaddexp(found.get(ids, -np.inf), value)
    return found


def _held(lm, ids):
    state, total = lm.start, 0.0
    for one in ids:
        total += lm.scores(state)[one]
        state = lm.advance(state, one)
    return total + lm.scores(state)[-1]


@pytest.mark.parametrize("frames", [0, 1, 2, 4, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("with_lm", [False, True])
def test_a_wide_beam_is_the_enumeration(frames, seed, with_lm):
    logprobs = _logprobs(frames, seed=seed)
    wanted = _enumerated(logprobs, PHONES)
    lm, weight, bonus = None, 0.7, 0.3
    if with_lm:
        lm = PhoneNgram.fit([("a", "b", "a"), ("b", "b"), ("a",)], PHONES, 3)
    held = {ids: _held(lm, ids) if lm else 0.0 for ids in wanted}
    total = {ids: wanted[ids] + weight * held[ids] + bonus * len(ids) for ids in wanted}
    found = prefix_beam_search(
        logprobs, PHONES, beam=WIDE, nbest=WIDE, lm=lm, lm_weight=weight, bonus=bonus
    )
    assert {one.ids for one in found} == set(wanted)
    for one in found:
        assert one.acoustic == pytest.approx(wanted[one.ids], abs=1e-10)
        assert one.lm == pytest.approx(held[one.ids], abs=1e-10)
        assert one.score == pytest.approx(total[one.ids], abs=1e-10)
    scores = [one.score for one in found]
    np.testing.assert_allclose(scores, sorted(total.values(), reverse=True), atol=1e-10)
    assert math.fsum(one.posterior for one in found) == pytest.approx(1)
    if not with_lm:
        everything = np.logaddexp.reduce([one.acoustic for one in found])
        assert everything == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_beam_finds_no_more_than_there_is(seed):
    """What a beam drops is lost: scores are lower bounds, and the sequences are distinct."""
    logprobs = _logprobs(6, seed=seed)
    wanted = _enumerated(logprobs, PHONES)
    for beam in (1, 2, 5):
        found = prefix_beam_search(logprobs, PHONES, beam=beam, nbest=10)
        assert len({one.ids for one in found}) == len(found) <= beam
        assert all(one.acoustic <= wanted[one.ids] + 1e-10 for one in found)


@pytest.mark.parametrize("seed", [6, 66, 121, 135, 143])
def test_a_prefix_that_was_dropped_comes_back_as_itself(seed):
    """In these cases a beam of 8 drops prefixes whose descendants stay alive, and takes them back.

    As new prefixes they would have the descendants twice in the list.
    """
    logprobs = _logprobs(14, seed=seed)
    found = prefix_beam_search(logprobs, PHONES, beam=8, nbest=8)
    assert len({one.ids for one in found}) == len(found) == 8


def test_sharp_emissions_give_the_greedy_path():
    phones = PhoneSet.arpabet39()
    rng = np.random.default_rng(1)
    for _ in range(5):
        best = rng.integers(0, 44, 30)
        logits = np.zeros((30, 44))
        logits[np.arange(30), best] = 50.0
        emissions = Emissions.log_softmax(logits[None], None, 0.02, phones)
        greedy, beam, lattice = (
            decode(emissions, method)[0] for method in ("greedy", "beam", "lattice")
        )
        assert greedy.phones == beam.phones == lattice.phones
        np.testing.assert_allclose(beam.confidences, greedy.confidences, atol=1e-6)


def test_settings_are_checked():
    logprobs = _logprobs(3)
    with pytest.raises(ValueError, match="0 and 5"):
        prefix_beam_search(logprobs, PHONES, beam=0)
    with pytest.raises(ValueError, match=r"\(T, 4\)"):
        prefix_beam_search(logprobs[:, :3], PHONES)
    with pytest.raises(ValueError, match="finite, not nan"):
        prefix_beam_search(logprobs, PHONES, lm_weight=math.nan)
    with pytest.raises(ValueError, match="no phone sequence"):
        prefix_beam_search(np.full((2, 4), -np.inf), PHONES)
    with pytest.raises(TypeError, match="int is no language model"):
        prefix_beam_search(logprobs, PHONES, lm=3)
    with pytest.raises(ValueError, match="other phones"):
        prefix_beam_search(logprobs, PHONES, lm=PhoneNgram.fit([("AA",)], PhoneSet.arpabet39(), 2))


# Language models --------------------------------------------------------------------------------

SEQUENCES = [("a", "b", "a"), ("b", "b"), ("a",), (), ("a", "b")]


def _by_formula(sequences, order, symbols):
    """The recursion of Witten and Bell, as written: dictionaries and no back-off weights."""
    counts = Counter()
    for sequence in sequences:
        padded = ("<s>", *sequence, "</s>")
        for at in range(1, len(padded)):
            for length in range(order):
                if at - length >= 0:
                    counts[padded[at - length : at + 1]] += 1

    def probability(symbol, history):
        if history is None:
            return 1 / len(symbols)
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
        lower = probability(symbol, history[1:] if history else None)
        total, kinds = sum(after.values()), len(after)
        return (after.get(symbol, 0) + kinds * lower) / (total + kinds) if total else lower

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_an_ngram_is_the_formula_and_sums_to_one(order):
    lm = PhoneNgram.fit(SEQUENCES, PHONES, order)
    wanted = _by_formula(SEQUENCES, order, ("a", "b", "</s>"))
    for length in range(4):
        for sequence in itertools.product("ab", repeat=length):
            state = lm.start
            for phone in sequence:
                state = lm.advance(state, PHONES.id(phone))
            row = np.exp(lm.scores(state))
            history = ("<s>", *sequence)[-(order - 1) :] if order > 1 else ()
            for symbol, at in (("a", 1), ("b", 3), ("</s>", 4)):
                assert row[at] == pytest.approx(wanted(symbol, history), abs=1e-12)
            assert row.sum() == pytest.approx(1, abs=1e-12)
            assert row[0] == row[2] == 0


def test_an_ngram_is_kept_in_the_format_of_arpa(tmp_path):
    lm = PhoneNgram.fit(SEQUENCES, PHONES, 3)
    lm.save(tmp_path / "a.arpa")
    again = PhoneNgram.load(tmp_path / "a.arpa", PHONES)
    assert again.order == 3
    for sequence in (("a", "b", "a", "a"), (), ("b",) * 5):
        assert again.logprob(sequence) == pytest.approx(lm.logprob(sequence), abs=1e-6)
    text = (tmp_path / "a.arpa").read_text()
    assert "ngram 1=4" in text and text.endswith("\\end\\\n")


def test_files_of_other_programs_are_read(tmp_path):
    path = tmp_path / "b.arpa"
    path.write_text(
        "\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-0.5\t<unk>\n-99\t<s>\t-0.3\n"
        "-0.2\ta\t-0.1\n-0.6\t</s>\n\n\\2-grams:\n-0.05\t<s> a\n\n\\end\\\n"
    )
    lm = PhoneNgram.load(path, PHONES)
    # <s> a is there; a b backs off to the unknown; so does the end after b.
    wanted = -0.05 + (-0.1 - 0.5) + -0.6
    assert lm.logprob(("a", "b")) == pytest.approx(wanted * math.log(10))
    path.write_text("\\data\\\n\n\\1-grams:\n-0.5\tzz\n\\end\\\n")
    with pytest.raises(ValueError, match="'zz'"):
        PhoneNgram.load(path, PHONES)
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="no n-grams"):
        PhoneNgram.load(path, PHONES)
    path.write_text("\\1-grams:\n-0.5\n")
    with pytest.raises(ValueError, match="line 2: 1 symbols"):
        PhoneNgram.load(path, PHONES)


def test_longer_histories_know_their_text_better():
    sequences = [
        tuple(json.loads(line)["real_phonemes"])
        for line in (FOLDER / "labelled.jsonl").read_text().splitlines()
    ]
    phones = PhoneSet.arpabet39()
    models = [PhoneNgram.fit(sequences, phones, order) for order in (1, 2, 3)]
    known = [one.perplexity(sequences) for one in models]
    assert 40 > known[0] > known[1] > known[2] > 1
    with pytest.raises(ValueError, match="no sequence"):
        PhoneNgram.fit([], phones)
    with pytest.raises(ValueError, match="order"):
        PhoneNgram.fit(sequences, phones, 0)


def test_a_bigram_matrix_is_a_language_model():
    matrix = phone_bigram(SEQUENCES, PHONES)
    logprobs = _logprobs(5, seed=4)
    found = prefix_beam_search(logprobs, PHONES, beam=WIDE, nbest=3, lm=matrix, lm_weight=1.0)
    acoustic = _enumerated(logprobs, PHONES)
    for one in found:
        path = [4, *one.ids, 4]
        wanted = sum(matrix[a, b] for a, b in itertools.pairwise(path))
        assert one.score == pytest.approx(acoustic[one.ids] + wanted, abs=1e-10)
    with pytest.raises(ValueError, match=r"\(5, 5\)"):
        as_language_model(matrix[:3, :3], PHONES)


# Alignments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_alignments_are_those_of_torchaudio(seed):
    phones = PhoneSet(("-", "a", "b", "c"), 0)
    rng = np.random.default_rng(seed)
    logprobs = _logprobs(25, seed=seed)
    ids = rng.integers(1, 4, int(rng.integers(1, 10))).tolist()
    frames = align(logprobs, ids, phones)
    labels, scores = torchaudio.functional.forced_align(
        torch.from_numpy(logprobs)[None], torch.tensor([ids]), blank=0
    )
    wanted = torchaudio.functional.merge_tokens(labels[0], scores[0])
    assert frames == [(one.start, one.end) for one in wanted]
    assert align(logprobs, [], phones) == []
    with pytest.raises(ValueError, match="2 phones need 3 frames, there are 2"):
        align(logprobs[:2], [1, 1], phones)


# Lattices ---------------------------------------------------------------------------------------


def _candidate(ids, posterior):
    return Candidate(tuple(ids), math.log(posterior), math.log(posterior), 0.0, posterior)


def test_a_substitution_and_a_deletion_are_slots():
    phones = PhoneSet(("-", "a", "b", "c"), 0)
    logprobs = _logprobs(12)
    network = ConfusionNetwork.of(
        [_candidate([1, 2, 3], 0.5), _candidate([1, 3, 3], 0.3), _candidate([1, 3], 0.2)],
        logprobs,
        phones,
    )
    assert [dict(slot.posteriors) for slot in network.slots] == [
        {1: pytest.approx(1.0)},
        {2: pytest.approx(0.5), 3: pytest.approx(0.3)},
        {3: pytest.approx(1.0)},
    ]
    assert [slot.none for slot in network.slots] == pytest.approx([0, 0.2, 0], abs=1e-12)
    assert network.ids == (1, 2, 3)
    rows = network.rows(phones)
    assert rows.shape == (7, 4)
    np.testing.assert_allclose(np.exp(rows).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(np.exp(rows[3]), [0.2, 0, 0.5, 0.3], atol=1e-6)
    best = prefix_beam_search(rows, phones, beam=WIDE, nbest=9)
    assert best[0].ids == network.ids
    with pytest.raises(ValueError, match="at least one candidate"):
        ConfusionNetwork.of([], logprobs, phones)


@pytest.mark.parametrize("seed", range(20))
def test_a_lattice_bounds_the_expected_errors(seed):
    """Slots sum to 1, and the consensus is at most as wrong as its slots say.

    Each candidate is a path through the slots; its edits are at most the slots in which it differs
    from the consensus, whose expectation is one minus the best probability of each slot.
    """
    logprobs = _logprobs(8, seed=seed, sharpness=1.0)
    candidates = prefix_beam_search(logprobs, PHONES, beam=WIDE, nbest=40)
    network = ConfusionNetwork.of(candidates, logprobs, PHONES)
    for slot in network.slots:
        assert sum(slot.posteriors.values()) + slot.none == pytest.approx(1)
        assert min(slot.posteriors.values()) > 0 and slot.none >= 0
        assert 0 <= slot.first < slot.last <= 8
    expected = sum(one.posterior * Levenshtein.distance(one.ids, network.ids) for one in candidates)
    assert expected <= sum(1 - slot.best[1] for slot in network.slots) + 1e-9
    mean_length = sum(one.posterior * len(one.ids) for one in candidates)
    assert sum(1 - slot.none for slot in network.slots) == pytest.approx(mean_length)


# Transcripts ------------------------------------------------------------------------------------


def _emissions(count=2, frames=20):
    rows = np.stack([_logprobs(frames, 44, seed, 3.0) for seed in range(count)])
    return Emissions(torch.from_numpy(rows), [frames, frames - 5], 0.02, PhoneSet.arpabet39())


def test_transcripts_have_their_nbest_list():
    emissions = _emissions()
    for number, found in enumerate(decode(emissions, "beam", nbest=4, beam=30)):
        rows = emissions.utterance(number)
        wanted = prefix_beam_search(rows, emissions.phones, nbest=4, beam=30)
        assert found.phones == emissions.phones.decode(wanted[0].ids)
        assert found.score == wanted[0].score
        assert [one.phones for one in found.hypotheses] == [
            emissions.phones.decode(one.ids) for one in wanted[1:]
        ]
        assert found.trace["posteriors"] == [one.posterior for one in wanted]
        frames = align(rows, wanted[0].ids, emissions.phones)
        assert [(one.start, one.end) for one in found.spans] == [
            pytest.approx((0.02 * a, 0.02 * b)) for a, b in frames
        ]
        start, end = frames[0]
        assert found.confidences[0] == pytest.approx(
            np.exp(rows[start:end, wanted[0].ids[0]]).mean()
        )
        assert type(found).from_json(found.to_json()) == found


def test_transcripts_have_their_lattice():
    (found, _) = decode(_emissions(), "lattice", nbest=20, beam=30)
    slots = found.trace["lattice"]
    for slot in slots:
        assert sum(slot["phones"].values()) == pytest.approx(1)
    best = [max(slot["phones"].items(), key=lambda one: one[1]) for slot in slots]
    assert tuple(phone for phone, _ in best if phone) == found.phones
    assert found.confidences == tuple(value for phone, value in best if phone)
    assert found.score == pytest.approx(sum(math.log(value) for _, value in best))
    assert type(found).from_json(found.to_json()) == found


def test_a_language_model_and_an_inventory_change_the_answer():
    emissions = _emissions()
    phones = emissions.phones
    lm = PhoneNgram.fit([("S", "T") * 4], phones, 2)
    pulled = decode(emissions, "beam", lm=lm, lm_weight=3.0)[0]
    plain = decode(emissions, "beam")[0]
    assert lm.logprob(pulled.phones) > lm.logprob(plain.phones)
    few = decode(emissions, "beam", inventory=("AA", "B"))[0]
    assert set(few.phones) <= {"AA", "B"}
    with pytest.raises(ValueError, match="needs decode="):
        decode(emissions, lm=lm)


def test_silence_is_empty_in_every_way():
    shipped = Recognizer.from_pretrained(device="cpu")
    for method in ("greedy", "beam", "lattice"):
        (found,) = shipped.transcribe(np.zeros(8000), 16_000, decode=method)
        assert found.phones == () and found.confidence is None
        assert found.trace["reason"] == "no phone was heard"
    with pytest.raises(TypeError, match="no option width"):
        shipped.transcribe(np.zeros(8000), 16_000, decode="beam", width=3)
    with pytest.raises(ValueError, match="beam and nbest"):
        shipped.transcribe(np.zeros(8000), 16_000, decode="beam", beam=0)


def test_a_beam_hears_synthetic_english_at_least_as_well():
    shipped = Recognizer.from_pretrained(device="cpu")
    lines = [json.loads(line) for line in (FOLDER / "test.jsonl").read_text().splitlines()]
    files = [FOLDER / line["audio_path"] for line in lines]
    emissions = shipped.emissions(files)
    wrong = {
        method: sum(
            Levenshtein.distance(one.phones, tuple(line["real_phonemes"]))
            for one, line in zip(decode(emissions, method), lines, strict=True)
        )
        for method in ("greedy", "beam", "lattice")
    }
    assert wrong["beam"] <= wrong["greedy"] and wrong["lattice"] <= wrong["greedy"]
