"""Forced alignment, goodness of pronunciation, and posteriors of how each phone was said."""

import itertools
import json
import math
import pickle
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.huper import pronounce
from modicum.huper.channel import EditChannel
from modicum.huper.emissions import Emissions
from modicum.huper.experiments.decoder import all_edits, ctc_paths
from modicum.huper.g2p import Dict, Word
from modicum.huper.phones import PhoneSet
from modicum.huper.pronounce import Pronunciation, align, gop, score
from modicum.huper.recognizer import Recognizer
from modicum.huper.transcript import Transcript

WORLD = Path(__file__).parent / "data" / "huper_world"
ARPABET = PhoneSet.arpabet39()


def heard(said, phones=ARPABET, share=0.9, frames=3, gap=1):
    """Emissions of clear speech: some frames per phone, a blank between."""
    path = [phones.blank] * gap
    for phone in said:
        path += [phones.id(phone)] * frames + [phones.blank] * gap
    likely = np.full((len(path), len(phones)), (1 - share) / (len(phones) - 1))
    likely[np.arange(len(path)), path] = share
    return Emissions(torch.from_numpy(np.log(likely)), [len(path)], 0.02, phones, phones.blank)


def random_logprobs(rng, frames, classes):
    logits = rng.normal(size=(frames, classes)) * 2
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def native_channel(context="lr"):
    """Speakers who flap between vowels and drop a final t behind a consonant."""
    pairs = [
        (("B", "EH", "T", "ER"), ("B", "EH", "DX", "ER")),
        (("T", "EH", "N"), ("T", "EH", "N")),
        (("L", "AE", "S", "T"), ("L", "AE", "S")),
        (("V", "EH", "R", "IY"), ("V", "EH", "R", "IY")),
    ]
    return EditChannel.fit(pairs * 25, context=context)


# Forced alignment -------------------------------------------------------------------------------


def forced_by_hand(logprobs, ids, blank):
    """Viterbi over blanks and phones, in the plainest form; gives the frames of each phone."""
    states = [blank]
    for phone in ids:
        states += [phone, blank]
    frames, size = len(logprobs), len(states)
    best = np.full((frames, size), -np.inf)
    back = np.zeros((frames, size), int)
    best[0, 0] = logprobs[0, states[0]]
    if size > 1:
        best[0, 1] = logprobs[0, states[1]]
    for t in range(1, frames):
        for s in range(size):
            sources = [s] + ([s - 1] if s else [])
            if s > 1 and states[s] != blank and states[s] != states[s - 2]:
                sources.append(s - 2)
            back[t, s] = max(sources, key=lambda source: best[t - 1, source])
            best[t, s] = best[t - 1, back[t, s]] + logprobs[t, states[s]]
    s = max(range(max(0, size - 2), size), key=lambda s: best[-1, s])
    total = best[-1, s]
    spans = {}
    for t in range(frames - 1, -1, -1):
        if s % 2:
            _, last = spans.get(s // 2, (t, t + 1))
            spans[s // 2] = (t, last)
        s = back[t, s]
    return [spans[i] for i in range(len(ids))], total


@pytest.mark.parametrize("seed", range(40))
def test_gop_and_times_are_those_of_a_dynamic_programme_by_hand(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(3, 6))
    phones = PhoneSet(("_", "a", "b", "c", "d")[:classes], 0, frozenset("_"))
    ids = rng.integers(1, classes, int(rng.integers(0, 5)))
    needed = len(ids) + int((ids[1:] == ids[:-1]).sum())
    logprobs = random_logprobs(rng, max(1, needed + int(rng.integers(0, 6))), classes)
    spans, total = forced_by_hand(logprobs, ids, 0)
    found = align(logprobs, phones.decode(ids), phones=phones, frame_shift=1.0)
    assert [(one.start, one.end) for one in found.spans] == spans
    assert found.score == pytest.approx(total, abs=1e-5)
    for over, columns in (("all", logprobs), ("phones", logprobs[:, 1:])):
        expected = [
            np.mean([logprobs[t, phone] - columns[t].max() for t in range(*span)])
            for span, phone in zip(spans, ids, strict=True)
        ]
        measured = gop(logprobs, phones.decode(ids), phones=phones, over=over)
        assert measured == pytest.approx(expected, abs=1e-6)
        assert (measured <= 1e-12).all()
    for one, span, phone in zip(found.confidences, spans, ids, strict=True):
        assert one == pytest.approx(np.exp(logprobs[slice(*span), phone]).mean())


def test_an_alignment_is_a_transcript_with_words():
    said = ("L", "AE", "S", "T", "D", "EY")
    words = [Word("last", ("L", "AE1", "S", "T")), Word("day", ("D", "EY1"))]
    found = align(heard(said), words)
    assert isinstance(found, Transcript) and found.phones == found.canonical == said
    assert [edit.op for edit in found.edits] == ["keep"] * 6
    assert found.ipa == ("l", "æ", "s", "t", "d", "e", "ɪ")
    assert [(word.text, word.phones) for word in found.words] == [
        ("last", said[:4]),
        ("day", said[4:]),
    ]
    assert found.words[0].span.start == pytest.approx(0.02)
    assert found.words[1].span.end == pytest.approx(0.02 * 24)
    starts = [one.start for one in found.spans]
    assert starts == pytest.approx([0.02 + 0.08 * i for i in range(6)])
    assert 'name = "words"' in found.to_textgrid() and found.to_ctm("a")
    assert Transcript.from_json(found.to_json()) == found


def test_too_few_frames_are_said_before_they_crash():
    phones = PhoneSet(("_", "a", "b"), 0, frozenset("_"))
    rng = np.random.default_rng(0)
    # Four phones, two of them behind their like: six frames are just enough.
    assert len(align(random_logprobs(rng, 6, 3), list("aabb"), phones=phones).spans) == 4
    for call in (align, gop):
        with pytest.raises(ValueError, match=r"4 phones, 2 of them .* at least 6 .* has 5"):
            call(random_logprobs(rng, 5, 3), list("aabb"), phones=phones)
    assert align(random_logprobs(rng, 5, 3), [], phones=phones).phones == ()
    assert len(gop(random_logprobs(rng, 5, 3), [], phones=phones)) == 0
    never = np.log(np.array([[0.5, 0.5, 1e-300]] * 4))
    never[:, 2] = -np.inf
    with pytest.raises(ValueError, match=r"no path .* above 0"):
        align(never, ["b"], phones=phones)


def test_many_are_as_one_by_one():
    said = [("B", "EH", "T", "ER"), ("K", "AE", "T")]
    rows = [heard(one).logprobs[0] for one in said]
    many = Emissions(
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        [len(row) for row in rows],
        0.02,
        ARPABET,
    )
    channel = native_channel()
    for function, extra in ((align, {}), (gop, {}), (score, {"channel": channel})):
        if function is score:
            batch = score(many, canonical=said, **extra)
            alone = [score(heard(one), canonical=one, **extra) for one in said]
        else:
            batch = function(many, said)
            alone = [function(heard(one), one) for one in said]
        for one, two in zip(batch, alone, strict=True):
            assert np.array_equal(one, two) if function is gop else one == two


# Posteriors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_posteriors_are_sums_over_everything(seed):
    rng = np.random.default_rng(seed)
    frames, length = int(rng.integers(1, 5)), int(rng.integers(0, 4))
    phones = PhoneSet(("_", "a", "b", "c"), 0, frozenset("_"))
    logprobs = random_logprobs(rng, frames, 4)
    draw = lambda most: tuple(rng.choice(list("abc"), int(rng.integers(0, most))))  # noqa: E731
    channel = EditChannel.fit([(draw(6), draw(6)) for _ in range(8)], phones=phones, context="lr")
    canonical = tuple(rng.choice(list("abc"), length))
    lam, share = (1.0, 0.6)[seed % 2], 0.15
    weights = channel.weights(canonical)
    paths, number, sequences = ctc_paths(frames, 4)
    mass = np.bincount(number, np.exp(logprobs[np.arange(frames), paths].sum(1)), len(sequences))
    total, sub, ins = 0.0, np.zeros((length, 4)), np.zeros((length + 1, 4))
    dele = np.zeros(length)
    for said, heard_as in zip(sequences, mass, strict=True):
        for weight, steps in all_edits(said, weights, lam):
            joint = heard_as * math.exp(weight)
            total += joint
            for kind, i, q in steps:
                if kind == "dele":
                    dele[i] += joint
                else:
                    (sub if kind == "sub" else ins)[i, q] += joint
    sub, dele, ins = sub / total, dele / total, ins / total
    emissions = Emissions(torch.from_numpy(logprobs), [frames], 0.1, phones)
    found = score(emissions, canonical=canonical, channel=channel, lam=lam, native_share=share)
    assert found.log_likelihood == pytest.approx(math.log(total), abs=1e-5)
    for i, one in enumerate(found.phones):
        home = phones.id(canonical[i])
        assert one.keep == pytest.approx(sub[i, home], abs=1e-6)
        assert one.deletion == pytest.approx(dele[i], abs=1e-6)
        assert dict(one.substitutes) == pytest.approx(
            {phones.symbols[q]: sub[i, q] for q in (1, 2, 3) if q != home and sub[i, q] >= 1e-4},
            abs=1e-6,
        )
        prior = {**dict(zip("abc", np.exp(weights.sub[i, 1:]), strict=True))}
        prior[""] = math.exp(weights.dele[i])
        post = {**dict(zip("abc", sub[i, 1:], strict=True)), "": dele[i]}
        ways = {way for way in prior if prior[way] >= share or way == canonical[i]}
        assert set(one.native_ways) == ways
        assert one.native == pytest.approx(sum(post[way] for way in ways), abs=1e-6)
        others = max((post[way] for way in prior if way not in ways), default=1e-300)
        expected = math.log(others) - math.log(max(post[way] for way in ways))
        assert one.log_odds == pytest.approx(expected, abs=1e-4)
        assert one.said == max(post, key=post.get)
    listed = {(one.slot, one.phone): one.expected for one in found.insertions}
    assert listed == pytest.approx(
        {
            (slot, phones.symbols[q]): ins[slot, q]
            for slot, q in itertools.product(range(length + 1), range(1, 4))
            if ins[slot, q] >= 0.05
        },
        abs=1e-6,
    )
    foreign = ins[np.exp(weights.ins) < share].sum()
    if length:
        native = sum(one.native for one in found.phones)
        assert found.score == pytest.approx(native / (length + foreign), abs=1e-5)
    else:
        assert found.score is None


def test_what_natives_do_is_no_error_and_what_they_never_do_is():
    channel = native_channel()
    canonical = ("B", "EH", "T", "ER", "L", "AE", "S", "T", "V", "EH", "R", "IY")
    said = ("B", "EH", "DX", "ER", "L", "AE", "S", "B", "EH", "R", "IY")
    found = score(heard(said), canonical=canonical, channel=channel)
    flagged = [one.index for one in found.phones if one.flagged]
    assert flagged == [8] and found.flags == (found.phones[8],)
    assert [found.phones[i].said for i in (2, 7, 8)] == ["DX", "", "B"]
    assert "DX" in found.phones[2].native_ways and "" in found.phones[7].native_ways
    assert found.phones[8].native_ways == ("V",)
    assert found.phones[7].span is None
    assert found.phones[8].span.start == pytest.approx(0.02 * (1 + 4 * 7))
    # The goodness of pronunciation puts the flap and the error on one level.
    plain = gop(heard(said), canonical)
    assert plain[2] < -2 and plain[8] < -2 and abs(plain[2] - plain[8]) < 0.5
    # A flap where nobody flaps is an error.
    flap = score(heard(("DX", "EH", "N")), canonical=("T", "EH", "N"), channel=channel)
    assert [one.flagged for one in flap.phones] == [True, False, False]
    # Said as the dictionary has it, nothing is wrong.
    clean = score(heard(canonical), canonical=canonical, channel=channel)
    assert not clean.flags and clean.score > 0.99 > 0.95 > found.score


def test_what_is_put_in_is_found_and_belongs_to_its_word():
    words = [Word("ten", ("T", "EH", "N")), Word("very", ("V", "EH", "R", "IY"))]
    said = ("T", "EH", "N", "AH", "V", "EH", "R", "UW", "IY")
    found = score(heard(said), canonical=words, channel=native_channel())
    marked = [(one.slot, one.phone) for one in found.insertions if one.flagged]
    assert marked == [(3, "AH"), (6, "UW")]
    assert found.insertions[0].span.start == pytest.approx(0.02 * (1 + 4 * 3))
    assert found.insertions[0].expected > 0.9
    first, second = found.words
    assert (first.text, first.start, first.stop, first.flagged) == ("ten", 0, 3, True)
    assert second.flagged and second.score < 1
    only = score(heard(said[4:]), canonical=words[1:], channel=native_channel())
    before = score(heard(("AH", *said[4:7], "IY")), canonical=words[1:], channel=native_channel())
    assert only.words[0].score == only.score
    assert before.insertions[0].slot == 0 and before.words[0].flagged
    assert [type(one).__name__ for one in found.flags] == ["InsertionScore"] * 2
    # Nothing that should be said: all is put in.
    empty = score(heard(("T",)), canonical=[], channel=native_channel())
    assert empty.score is None and [one.phone for one in empty.insertions] == ["T"]


def test_a_higher_threshold_flags_less_and_a_higher_share_makes_less_native():
    rng = np.random.default_rng(3)
    emissions = Emissions(
        torch.from_numpy(random_logprobs(rng, 40, len(ARPABET))), [40], 0.02, ARPABET
    )
    channel, canonical = native_channel(None), ("B", "EH", "T", "ER", "V", "IY", "T")
    sets = []
    for theta in (-6.0, -2.0, 0.0, 2.0, 6.0):
        found = score(emissions, canonical=canonical, channel=channel, theta=theta)
        sets.append({(one.index, one.phone) for one in found.phones if one.flagged})
        assert all(one.flagged == (one.log_odds > theta) for one in found.phones)
    assert all(one >= two for one, two in itertools.pairwise(sets))
    assert len(sets[0]) > len(sets[-1])
    before = None
    for share in (0.01, 0.1, 0.3, 0.6):
        found = score(emissions, canonical=canonical, channel=channel, native_share=share)
        now = [set(one.native_ways) for one in found.phones]
        assert all(one.phone in one.native_ways for one in found.phones)
        assert before is None or all(a >= b for a, b in zip(before, now, strict=True))
        before = now


def test_one_of_a_kind_and_frames_without_end_do_not_crash():
    channel = native_channel()
    nothing = Emissions(torch.zeros(1, 0, len(ARPABET)), [0], 0.02, ARPABET)
    found = score(nothing, canonical=("T", "EH", "N"), channel=channel)
    assert [one.deletion for one in found.phones] == [1.0] * 3
    assert [one.span for one in found.phones] == [None] * 3
    # Certain frames: probabilities of exactly 0 and 1.
    certain = heard(("T", "EH", "N"), share=1.0 - 1e-12)
    logprobs = torch.where(certain.logprobs < -5, -torch.inf, 0.0)
    exact = Emissions(logprobs, certain.lengths, 0.02, ARPABET)
    found = score(exact, canonical=("T", "EH", "M"), channel=channel)
    assert found.phones[2].said == "N" and found.phones[2].flagged
    assert all(math.isfinite(one.log_odds) for one in found.phones)
    json.loads(found.to_json())


# Results ----------------------------------------------------------------------------------------


def test_results_go_to_json_and_back_and_can_be_read():
    words = [Word("last", ("L", "AE", "S", "T")), Word("very", ("V", "EH", "R", "IY"))]
    said = ("L", "AE", "S", "AH", "B", "EH", "R", "IY")
    found = score(heard(said), canonical=words, channel=native_channel(), theta=-0.5)
    assert Pronunciation.from_json(found.to_json()) == found
    assert Pronunciation.from_dict(found.to_dict()) == found
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(ValueError, match="no pronunciation"):
        Pronunciation.from_dict({"phones": []})
    lines = str(found).splitlines()
    assert lines[0].split() == ["word", "phone", "said", "native", "log-odds", "seconds"]
    row = next(line for line in lines if line.startswith("very") and "flagged" in line)
    assert row.split()[:3] == ["very", "V", "B"]
    assert next(line for line in lines if line.lstrip().startswith("+")).split()[1] == "AH"
    assert lines[-1].startswith("score 0.") and "last 0." in lines[-1]


# The public door --------------------------------------------------------------------------------


def test_sources_are_recognizers_systems_and_emissions():
    line = json.loads((WORLD / "test.jsonl").read_text().splitlines()[0])
    rows = [json.loads(one) for one in (WORLD / "labelled.jsonl").read_text().splitlines()]
    channel = EditChannel.fit([(one["phonemes"], one["real_phonemes"]) for one in rows])
    entries, at = {}, 0
    for word in line["text"].split():
        # Any division into words will do: three phones each, the rest for the last.
        entries[word] = [tuple(line["phonemes"][at : at + 3])]
        at += 3
    entries[word] = [tuple(line["phonemes"][at - 3 :])]
    recognizer, g2p = Recognizer.from_pretrained("tiny", device="cpu"), Dict(entries)
    system = namedtuple("System", "recognizer channel g2p")(recognizer, channel, g2p)
    path = WORLD / line["audio_path"]
    one = score(system, path, line["text"])
    assert one == score(recognizer, path, line["text"], channel=channel, g2p=g2p)
    emissions = recognizer.emissions(path)
    assert one == score(emissions, text=line["text"], channel=channel, g2p=g2p)
    bare = score(emissions, canonical=line["phonemes"], channel=channel)
    assert bare.phones == one.phones and not bare.words
    assert [word.text for word in one.words] == line["text"].split()
    assert score(system, [path], [line["text"]]) == [one]


def test_the_text_that_was_said_scores_higher_than_another():
    rows = [json.loads(one) for one in (WORLD / "labelled.jsonl").read_text().splitlines()]
    channel = EditChannel.fit([(one["phonemes"], one["real_phonemes"]) for one in rows])
    emissions = Recognizer.from_pretrained("tiny", device="cpu").emissions(
        [WORLD / one["audio_path"] for one in rows[:6]]
    )
    own = [one["phonemes"] for one in rows[:6]]
    right = score(emissions, canonical=own, channel=channel)
    wrong = score(emissions, canonical=own[1:] + own[:1], channel=channel)
    assert min(one.score for one in right) > 0.8 > 0.6 > max(one.score for one in wrong)
    assert all(
        one.log_likelihood > two.log_likelihood for one, two in zip(right, wrong, strict=True)
    )


def test_bad_calls_say_what_is_wrong():
    emissions, channel = heard(("T", "EH", "N")), native_channel()
    given = {"canonical": ("T", "EH", "N"), "channel": channel}
    with pytest.raises(ValueError, match="no channel"):
        score(emissions, canonical=("T", "EH", "N"))
    with pytest.raises(ValueError, match="not both"):
        score(emissions, channel=channel)
    with pytest.raises(ValueError, match="not both"):
        score(emissions, text="ten", **given)
    with pytest.raises(ValueError, match="needs a g2p"):
        score(emissions, text="ten", channel=channel)
    with pytest.raises(ValueError, match="no audio to listen to"):
        score(emissions, np.zeros(800, np.float32), **given)
    with pytest.raises(ValueError, match="no audio to listen to"):
        score(Recognizer.from_pretrained("tiny", device="cpu"), **given)
    with pytest.raises(TypeError, match="not dict"):
        score({}, np.zeros(800, np.float32), **given)
    for name, value in (
        ("theta", math.nan),
        ("native_share", 0.0),
        ("native_share", 1),
        ("lam", -1),
    ):
        with pytest.raises(ValueError, match=f"{name} .*{value}"):
            score(emissions, **given, **{name: value})
    with pytest.raises(ValueError, match="'XX' of 'ten'"):
        score(emissions, canonical=[Word("ten", ("T", "XX", "N"))], channel=channel)
    with pytest.raises(TypeError, match="not the string 'T EH N'"):
        score(emissions, canonical="T EH N", channel=channel)
    with pytest.raises(ValueError, match=r"1 utterances need as many .* got 2"):
        score(emissions, canonical=[("T",), ("N",)], channel=channel)
    other = EditChannel.fit([], phones=PhoneSet.arpabet40())
    with pytest.raises(ValueError, match=r"made for 45 ids .* have 44"):
        score(emissions, canonical=("T",), channel=other)
    with pytest.raises(ValueError, match='"all" or "phones", not \'any\''):
        gop(emissions, ("T",), over="any")
    with pytest.raises(ValueError, match="need phones="):
        gop(emissions.logprobs[0], ("T",))
    with pytest.raises(ValueError, match="must be log-probabilities"):
        align(np.zeros((9, 44)), ("T",), phones=ARPABET)
    with pytest.raises(ValueError, match=r"shape \(T, 44\), got \(9, 3\)"):
        align(np.zeros((9, 3)), ("T",), phones=ARPABET)
    # Stress, ignored marks and folds are no errors.
    assert align(emissions, ("T", "EH1", "SIL", "N")).phones == ("T", "EH", "N")
    assert pronounce.align(heard(("AA",)), ("AO2",)).phones == ("AA",)
