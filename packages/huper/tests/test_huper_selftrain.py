"""Self-training: what is learnt in each round, what is dropped, when it stops, and how it goes on.

Most tests have an ear that knows what it hears and mistakes a given share of it, so that what a
round learns from can be compared with what it should.
"""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.huper import corpus, drrc, metrics, selftrain
from modicum.huper.channel import EditChannel
from modicum.huper.corpus import Item
from modicum.huper.corrector import Corrector, CorrectorConfig
from modicum.huper.emissions import Emissions
from modicum.huper.g2p import Dict
from modicum.huper.graph import fused_decode
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import Recognizer
from modicum.huper.selftrain import (
    Neural,
    _named,
    evidence_of,
    label_report,
    make_labels,
    self_train,
)
from modicum.huper.tiny import TinyConfig, TinyConvCTC
from modicum.huper.training import TrainingConfig

FOLDER = Path(__file__).parent / "data" / "huper_world"
PHONES = PhoneSet.arpabet39()
SOUNDS = ("AA", "B", "D", "EH", "K", "S", "T", "V")
LENGTH = 8
FLAPS = {"T": ("DX",), "V": ("B",), "D": ()}
"""What the speakers of these tests make of phones, and often."""


def sound(number):
    """Samples that name an utterance, by the first of them."""
    samples = np.full(800, -0.5, np.float32)
    samples[0] = number / 1000
    return samples


def speech(count, seed, start=0):
    """Utterances whose phones are often changed."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(start, start + count):
        canonical = tuple(rng.choice(SOUNDS, LENGTH).tolist())
        realized = tuple(
            said
            for phone in canonical
            for said in (FLAPS[phone] if phone in FLAPS and rng.random() < 0.8 else (phone,))
        )
        items.append(
            Item(
                f"u{number:03d}",
                phonemes=canonical,
                real_phonemes=realized,
                samples=sound(number),
                sampling_rate=16_000,
            )
        )
    return items


class Ear:
    """Hears utterances that it knows, and prefers another phone in a share of the places."""

    phones, frame_shift = PHONES, 0.02

    def __init__(self, items, wrong=0.3):
        self.said = {round(1000 * float(item.samples[0])): item.real_phonemes for item in items}
        self.wrong = wrong

    def emissions(self, audio, sampling_rate=None, *, batch_size=16):
        rows = [self.rows(round(1000 * float(one[0]))) for one in audio]
        padded_BTC = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Emissions(padded_BTC, torch.tensor([len(one) for one in rows]), 0.02, PHONES)

    def rows(self, number):
        rng = np.random.default_rng(number)
        path = []
        for phone in self.said[number]:
            heard = np.full(len(PHONES), 0.1 / (len(PHONES) - 2))
            right = PHONES.id(phone)
            other = rng.choice([one for one in PHONES.ids if one != right])
            mistaken = rng.random() < self.wrong
            heard[right], heard[other] = (0.1, 0.8) if mistaken else (0.8, 0.1)
            blank = np.full(len(PHONES), 1e-3)
            blank[PHONES.blank] = 1
            path += [blank, heard, heard]
        rows_TC = np.array(path)
        return torch.tensor(np.log(rows_TC / rows_TC.sum(1, keepdims=True)), dtype=torch.float32)


class Learning:
    """In place of training: notes what is learnt, and gives the ear the next of given errors."""

    def __init__(self, *errors):
        self.errors, self.seen, self.configs = list(errors), [], []

    def __call__(self, model, utterances, config, *, dev, folder, device, progress):
        self.seen.append(list(utterances))
        self.configs.append(config)
        if self.errors:
            model.wrong = self.errors.pop(0)


@pytest.fixture
def world():
    labelled, others, dev = speech(20, 0), speech(20, 1, 100), speech(20, 2, 200)
    return labelled, others, dev, Ear([*labelled, *others, *dev])


def learnt(utterances):
    return {one.id: one.phones for one in utterances}


# What is learnt -----------------------------------------------------------------------------------


def test_a_round_learns_the_best_path_of_sound_and_dictionary(world):
    labelled, others, _, ear = world
    learning = Learning()
    found = self_train(ear, labelled, others, keep=1.0, learn=learning, lam=0.7)
    first, second = learning.seen
    assert learnt(first) == {item.id: item.real_phonemes for item in labelled}
    channel = EditChannel.fit([(item.phonemes, item.real_phonemes) for item in labelled])
    expected = {
        one.id: fused_decode(one.logprobs, one.canonical, channel, 0.7).phones
        for one in evidence_of(ear, others)
    }
    assert learnt(second) == learnt(first) | expected
    assert found.best == 1 and found.stopped is None and len(found.rounds) == 2
    # The first round is the recipe for few utterances, the second that for many.
    assert [config.epochs for config in learning.configs] == [60, 13]
    labels = found.rounds[1].labels
    pairs = [(expected[item.id], item.real_phonemes) for item in others]
    assert labels.error() == pytest.approx(metrics.per(*zip(*pairs, strict=True)))
    # They are far better than the ear and than the dictionary.
    greedy = metrics.per(
        [item.extra["heard"] for item in labels.items], [item.real_phonemes for item in others]
    )
    canonical = metrics.per(
        [item.phonemes for item in others], [item.real_phonemes for item in others]
    )
    assert labels.error() < 0.4 * min(greedy, canonical)


def test_raw_pseudo_labels_are_what_is_heard_and_all_are_kept(world):
    labelled, others, _, ear = world
    learning = Learning()
    self_train(ear, labelled, others, corrector="none", learn=learning)
    heard = Recognizer(ear).transcribe([item.samples for item in others], 16_000)
    found = learnt(learning.seen[1])
    assert [found[item.id] for item in others] == [one.phones for one in heard]


def test_realized_phones_of_transcribed_utterances_are_never_used(world):
    labelled, others, _, ear = world
    blind = [replace(item, real_phonemes=("AA",)) for item in others]
    one, two = Learning(), Learning()
    self_train(ear, labelled, others, learn=one)
    self_train(ear, labelled, blind, learn=two)
    assert learnt(one.seen[1]) == learnt(two.seen[1])
    seen = []

    def fit(known, unknown, phones):
        seen.extend([(one.id, one.realized) for one in unknown])
        return lambda evidence: evidence.heard

    self_train(ear, labelled, others, corrector=fit, learn=Learning())
    assert len(seen) == len(others) and {realized for _, realized in seen} == {None}


def test_wrong_transcripts_are_dropped(world):
    labelled, others, _, ear = world
    # One of twenty has the text of somebody else: the share that is dropped.
    wrong = {others[3].id: others[4].phonemes}
    given = [replace(item, phonemes=wrong.get(item.id, item.phonemes)) for item in others]
    found = self_train(ear, labelled, given, learn=Learning()).rounds[1].labels
    assert {item.id for item in found.items if not item.extra["kept"]} == set(wrong)
    assert len(found.kept) == math.ceil(0.95 * 20)
    costs = [item.extra["evidence_cost"] for item in found.kept]
    assert max(costs) == found.threshold
    # The cost is that of the best path near the transcript, against the best of all.
    channel = EditChannel.fit([(item.phonemes, item.real_phonemes) for item in labelled])
    (one,) = evidence_of(ear, [given[3]])
    score = fused_decode(one.logprobs, one.canonical, channel, 1.0).score
    by_hand = (one.logprobs.max(1).sum(dtype=float) - score) / LENGTH
    assert found.items[3].extra["evidence_cost"] == pytest.approx(by_hand, rel=1e-9)


def test_a_function_makes_labels(world):
    labelled, others, _, ear = world

    def fit(known, unknown, phones):
        assert all(one.realized is not None for one in known) and phones == PHONES
        return lambda evidence: ("AA", *evidence.canonical)

    learning = Learning()
    self_train(ear, labelled, others, corrector=fit, keep=1.0, learn=learning)
    found = learnt(learning.seen[1])
    assert all(found[item.id] == ("AA", *item.phonemes) for item in others)


@pytest.mark.parametrize("use_labelled", [True, False])
def test_a_network_learns_what_is_heard_and_what_is_said(world, monkeypatch, use_labelled):
    labelled, others, _, ear = world
    seen = []

    def fit(self, items, training, *, device):
        seen.extend(items)
        self.eval()

    monkeypatch.setattr(Corrector, "fit", fit)
    small = CorrectorConfig(layers=1, width=16, heads=2, feed_forward=32)
    neural = Neural(small, use_labelled=use_labelled, min_confidence=1.0)
    learning = Learning()
    self_train(ear, labelled, others, corrector=neural, keep=1.0, learn=learning)
    heard = Recognizer(ear).transcribe([item.samples for item in others], 16_000)
    expected = {item.id: one.phones for item, one in zip(others, heard, strict=True)}
    if use_labelled:
        expected |= {item.id: item.real_phonemes for item in labelled}
    assert {one.id: one.realized for one in seen} == expected
    # It is never sure of anything, so that all phones are kept.
    found = learnt(learning.seen[1])
    assert all(found[item.id] == item.phonemes for item in others)
    # Another process gives the file of labels the same name.
    assert _named(neural) == _named(Neural(small, use_labelled=use_labelled, min_confidence=1.0))


# When it stops ------------------------------------------------------------------------------------


def test_a_round_that_is_worse_is_turned_down(world):
    labelled, others, dev, ear = world
    learning = Learning(0.3, 0.1, 0.2, 0.0)
    found = self_train(ear, labelled, others, rounds=3, dev=dev, learn=learning)
    assert len(learning.seen) == 3 and len(found.rounds) == 3
    assert found.best == 1 and found.model.wrong == 0.1 and found.first.wrong == 0.3
    assert found.last.wrong == 0.2
    assert "rose" in found.stopped and "round 2" in found.stopped
    pers = [one.dev_per for one in found.rounds]
    assert pers[1] < pers[2] and pers[1] < pers[0]
    heard = Recognizer(found.model).transcribe([item.samples for item in dev], 16_000)
    said = [item.real_phonemes for item in dev]
    assert pers[1] == pytest.approx(metrics.per([one.phones for one in heard], said))
    assert found.recognizer.model is found.model


def test_the_first_recognizer_stays_if_no_round_helps(world):
    labelled, others, dev, ear = world
    found = self_train(ear, labelled, others, dev=dev, learn=Learning(0.1, 0.4))
    assert found.best == 0 and found.model is found.first and found.stopped


def test_later_rounds_listen_with_the_last_recognizer(world):
    labelled, others, dev, ear = world
    found = self_train(ear, labelled, others, rounds=2, dev=dev, learn=Learning(0.5, 0.1, 0.0))
    one, two = (found.rounds[number].labels for number in (1, 2))
    assert found.best == 2 and two.error() < one.error()


def test_rounds_without_a_dev_set_warn(world):
    labelled, others, _, ear = world
    with pytest.warns(UserWarning, match="dev set"):
        self_train(ear, labelled, others, rounds=2, learn=Learning())


def test_no_round_is_the_first_recognizer_alone(world):
    labelled, others, _, ear = world
    found = self_train(ear, labelled, others, rounds=0, learn=Learning())
    assert found.best == 0 and found.model is found.first


def test_a_trained_first_recognizer_is_taken_as_it_is(world):
    labelled, others, _, ear = world
    learning = Learning()
    found = self_train(ear, labelled, others, first=Recognizer(ear), learn=learning)
    assert found.first is ear and len(learning.seen) == 1


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [False, True])
def test_weighted_losses_are_the_doubly_robust_risk(world, chosen):
    labelled, others, _, ear = world
    learning = Learning()

    def size(item):
        return [sum(phone == "T" for phone in item.phonemes)]

    found = self_train(
        ear,
        labelled,
        others,
        drrc="aipw",
        covariates=size if chosen else None,
        keep=1.0,
        folds=4,
        learn=learning,
    )
    *_, seen = learning.seen
    assert len(learning.seen) == 1 + 4 + 1
    # Any loss will do; this one depends on the phones in their order.
    rng = np.random.default_rng(0)
    table = dict(zip(PHONES.phones, rng.normal(size=len(PHONES.phones)), strict=True))

    def loss(phones):
        return sum(table[phone] * (at + 1) for at, phone in enumerate(phones))

    total = sum(one.weight * loss(one.phones) for one in seen)
    everyone = [*labelled, *others]
    known_N = np.arange(len(everyone)) < len(labelled)
    fold_N = drrc.folds_of(len(labelled), 4, 0)
    proxies = {item.id: item.label_phonemes for item in found.rounds[1].labels.items}
    for fold in range(4):
        rest = [item for item, one in zip(labelled, fold_N, strict=True) if one != fold]
        out = [item for item, one in zip(labelled, fold_N, strict=True) if one == fold]
        made = make_labels(ear, rest, out, keep=1)
        proxies |= {item.id: item.label_phonemes for item in made.items}
    rows = np.array([size(item) for item in everyone]) if chosen else None
    risk = drrc.doubly_robust_risk(
        np.array([loss(item.real_phonemes) for item in everyone]),
        np.array([loss(proxies[item.id]) for item in everyone]),
        known_N,
        drrc.propensities(known_N, rows, folds=4),
    )
    assert total / len(everyone) == pytest.approx(risk.value, rel=1e-9)
    assert found.rounds[1].effective_sample_size == pytest.approx(risk.effective_sample_size)
    assert min(one.weight for one in seen) < 0


# Label report -------------------------------------------------------------------------------------


def test_the_report_says_what_labels_of_unseen_utterances_are_worth(world):
    labelled, _, _, ear = world
    found = label_report(labelled, 5, ear, trained=True)
    said = [item.real_phonemes for item in labelled]
    heard = Recognizer(ear).transcribe([item.samples for item in labelled], 16_000)
    assert found.canonical == pytest.approx(metrics.per([one.phonemes for one in labelled], said))
    assert found.greedy == pytest.approx(metrics.per([one.phones for one in heard], said))
    assert found.corrected < 0.5 * min(found.canonical, found.greedy) and found.helps
    for name in ("canonical", "greedy", "corrected"):
        low, high = found.intervals[name]
        assert low < getattr(found, name) < high
    assert found.to_dict()["helps"] is True and "20 utterances in 5 folds" in str(found)
    # Labels of a fold are made without its realized phones: nobody knows the flap beforehand.
    rare = [replace(item, real_phonemes=item.phonemes) for item in labelled]
    rare[7] = labelled[7]
    deaf = Ear([replace(item, real_phonemes=item.phonemes) for item in labelled], 0.0)
    assert label_report(rare, 20, deaf, trained=True).corrected == pytest.approx(
        metrics.per([one.phonemes for one in rare], [one.real_phonemes for one in rare])
    )


def test_the_report_trains_a_recognizer_for_each_fold(world):
    labelled, _, _, ear = world
    learning = Learning(0.1, 0.1, 0.1, 0.1)
    found = label_report(labelled, 4, ear, learn=learning)
    ids = {item.id for item in labelled}
    left_out = [ids - {one.id for one in seen} for seen in learning.seen]
    assert len(left_out) == 4 and set().union(*left_out) == ids
    assert sum(map(len, left_out)) == len(ids)
    assert found.greedy < label_report(labelled, 4, ear, trained=True).greedy


# Input --------------------------------------------------------------------------------------------


def test_utterances_may_be_tuples_and_texts(world):
    labelled, others, _, ear = world
    words = {item.id: [item.phonemes] for item in others}
    one, two = Learning(), Learning()
    self_train(ear, labelled, others, learn=one)
    self_train(
        ear,
        [(item.samples, item.phonemes, item.real_phonemes) for item in labelled],
        [(item.samples, item.id) for item in others],
        Dict(words),
        learn=two,
    )
    assert [utterance.phones for utterance in one.seen[1]] == [
        utterance.phones for utterance in two.seen[1]
    ]


def test_phones_are_written_as_the_inventory_has_them(world):
    labelled, others, _, ear = world
    spelled = [
        replace(item, phonemes=tuple(one + "1" if one in ("AA", "EH") else one
                                     for one in item.phonemes))
        for item in labelled
    ]  # fmt: skip
    assert label_report(spelled, 5, ear, trained=True) == label_report(
        labelled, 5, ear, trained=True
    )
    learning = Learning()
    self_train(ear, spelled, others, learn=learning)
    assert learnt(learning.seen[0]) == {item.id: item.real_phonemes for item in labelled}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": -1}, "rounds must not be negative, not -1"),
        ({"keep": 0.0}, r"keep must be in \(0, 1\], not 0.0"),
        ({"lam": math.inf}, "lam must be finite and not negative, not inf"),
        ({"corrector": "best"}, "corrector must be one of .* not 'best'"),
        ({"drrc": "ipw"}, 'drrc must be None or "aipw", not .ipw'),
        ({"labelled": []}, "labelled: there is no utterance"),
        ({"unlabelled": []}, "unlabelled: there is no utterance"),
        ({"drrc": "aipw", "folds": 21}, "folds must be in 2 … 20, .* not 21"),
        ({"recognizer": 3}, "recognizer must be a model"),
    ],
)
def test_bad_settings_are_refused(world, change, message):
    labelled, others, _, ear = world
    given = {"recognizer": ear, "labelled": labelled, "unlabelled": others, "learn": Learning()}
    with pytest.raises((ValueError, TypeError), match=message):
        self_train(**{**given, **change})


def test_items_that_lack_something_are_named(world):
    labelled, others, _, ear = world

    def call(known, unknown=others):
        self_train(ear, known, unknown, learn=Learning())

    with pytest.raises(ValueError, match="labelled: utterance 'u000' has no real_phonemes"):
        call([replace(labelled[0], real_phonemes=None)])
    with pytest.raises(ValueError, match="unlabelled: utterance 'u100' has no phonemes"):
        call(labelled, [replace(others[0], phonemes=None, text="word")])
    with pytest.raises(ValueError, match="utterance 'u000' has no audio"):
        call([replace(labelled[0], samples=None)])
    with pytest.raises(ValueError, match="labelled: id 'u000' comes twice"):
        call([labelled[0], labelled[0]])
    with pytest.raises(ValueError, match=r"utterance 'u001'.*'QX'"):
        call([labelled[0], replace(labelled[1], phonemes=("QX",))])
    with pytest.raises(ValueError, match="unlabelled-0 has 1 parts"):
        call(labelled, [(others[0].samples,)])
    with pytest.raises(ValueError, match="needs a recognizer that was trained"):
        label_report(labelled, trained=True)


# With a network -----------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on(tmp_path):
    labelled = corpus.read_jsonl(FOLDER / "labelled.jsonl")
    given = {
        "recognizer": TinyConvCTC(config=TinyConfig(width=8, dilations=(1,))),
        "labelled": labelled[:3],
        "unlabelled": labelled[3:7],
        "first_config": TrainingConfig(epochs=2),
        "config": TrainingConfig(epochs=1),
        "device": "cpu",
        "seed": 4,
    }

    class Cut:
        """Interrupts after some steps."""

        def __init__(self, steps):
            self.left = steps

        def advance(self, n=1):
            self.left -= n
            if self.left < 0:
                raise KeyboardInterrupt

    whole = self_train(**given, folder=tmp_path / "whole")
    # In the first training, when labels are there, in the second training.
    for steps in (1, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            self_train(**given, folder=tmp_path / "cut", progress=Cut(steps))
    again = self_train(**given, folder=tmp_path / "cut")
    for one, two in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)
    read = TinyConvCTC.from_pretrained(tmp_path / "cut" / "round-1" / "net")
    assert torch.equal(read.head.weight, again.model.head.weight)
    labels = corpus.read_jsonl(tmp_path / "cut" / "round-1" / "labels.jsonl")
    assert [item.label_phonemes for item in labels] == [
        item.label_phonemes for item in whole.rounds[1].labels.items
    ]
    summary = json.loads((tmp_path / "cut" / "selftraining.json").read_text())
    assert summary["best"] == 1 and summary["rounds"][1]["kept"] == 4
    # The network that was handed in has learnt nothing.
    fresh = TinyConvCTC(config=TinyConfig(width=8, dilations=(1,)))
    assert torch.equal(given["recognizer"].head.weight, fresh.head.weight)
    with (
        pytest.raises(ValueError, match=r"lam = 1\.0, not 0\.5"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        self_train(**{**given, "lam": 0.5}, folder=tmp_path / "cut")


def test_channels_that_weigh_differently_have_names_of_their_own():
    pairs = [(["T", "AH", "T", "UW"], ["D", "AH", "T", "UW"])] * 6
    channels = [
        EditChannel.fit(pairs),
        EditChannel.fit(pairs, context="lr"),
        EditChannel.fit(pairs, alpha=5.0),
        EditChannel.fit(pairs, keep_prior=0.01),
        EditChannel.fit(pairs[:3] * 2),
    ]
    names = [selftrain._channel_digest(channel) for channel in channels]
    assert len(set(names[:4])) == 4 and names[4] == names[0]
