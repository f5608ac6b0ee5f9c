"""The whole listener: which path is taken, what the transcript says about it, and bad inputs."""

import json
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from modicum.huper import corpus
from modicum.huper.channel import EditChannel, phone_bigram
from modicum.huper.emissions import Emissions
from modicum.huper.g2p import Dict, Word
from modicum.huper.graph import fused_decode
from modicum.huper.perceiver import Lexicon, Perceiver, WordLM
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import Recognizer
from modicum.huper.scheduler import Scheduler, distortion_score, evidence_ratio
from modicum.huper.system import SETTINGS_NAME, HuPER
from modicum.huper.tiny import TinyConfig, TinyConvCTC
from modicum.huper.transcript import Transcript

WORLD = Path(__file__).parent / "data" / "huper_world"
PHONES = PhoneSet.arpabet39()
LEXICON = {
    "very": [("V", "EH", "R", "IY")],
    "berry": [("B", "EH", "R", "IY")],
    "bury": [("B", "EH", "R", "IY")],
    "tea": [("T", "IY")],
    "tomato": [
        ("T", "AH", "M", "EY", "T", "OW"),
        ("T", "AH", "M", "AA", "T", "OW"),
    ],
}
G2P = Dict(LEXICON)


class Scripted:
    """A model that hears what it is told: rows by the length of the recording."""

    phones = PHONES
    frame_shift = 0.02

    def __init__(self):
        self.rows = {}

    def recording(self, rows):
        """Return audio for which the model gives these rows."""
        samples = 400 + 320 * (len(rows) - 1) + len(self.rows)
        self.rows[samples] = rows
        audio = np.zeros(samples, np.float32)
        audio[0] = 0.5
        return audio

    def emissions(self, audio, sampling_rate=None, *, batch_size=16):
        parts = [torch.from_numpy(self.rows[len(one)]).float() for one in audio]
        lengths = [len(one) for one in parts]
        padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return Emissions(padded, lengths, self.frame_shift, PHONES)


def spoken(phones, certain=0.95, each=3, rng=None):
    """Rows in which each phone lasts some frames, with a blank behind."""
    path = [0]
    for phone in phones:
        path += [PHONES.id(phone)] * each + [0]
    rest = np.ones((len(path), len(PHONES))) if rng is None else rng.random((len(path), 44))
    rest[np.arange(len(path)), path] = 0
    likely = (1 - certain) * rest / rest.sum(1, keepdims=True)
    likely[np.arange(len(path)), path] = certain
    return np.log(likely)


def channel():
    pairs = [(form, form) for forms in LEXICON.values() for form in forms]
    return EditChannel.fit([*pairs, (("V", "EH"), ("B", "EH"))], phones=PHONES)


def listener(scheduler=None, perceiver=None, **more):
    model = Scripted()
    return model, HuPER(model, channel(), perceiver, scheduler, G2P, **more)


def trust(**options):
    return Scheduler("threshold", **options)


# Paths ------------------------------------------------------------------------------------------


def test_without_text_it_is_the_ear():
    model, system = listener()
    audio = model.recording(spoken(["T", "IY"]))
    found = system(audio, 16_000)
    ear = Recognizer(model).transcribe(audio, 16_000)[0]
    assert (found.phones, found.spans, found.confidences, found.score) == (
        ear.phones,
        ear.spans,
        ear.confidences,
        ear.score,
    )
    assert found.trace["path"] == "bottom-up" and found.trace["lam"] == 0
    assert found.trace["s"] == pytest.approx(distortion_score(spoken(["T", "IY"])), abs=1e-6)
    assert found.canonical is None and found.hypotheses == ()


def test_reference_is_decoded_and_explained():
    model, system = listener()
    rows = spoken(["B", "EH", "R", "IY", "T", "IY"])
    found = system(model.recording(rows), 16_000, "very tea")
    best = fused_decode(rows, ["V", "EH", "R", "IY", "T", "IY"], channel())
    assert found.phones == best.phones == ("B", "EH", "R", "IY", "T", "IY")
    assert found.ipa == ("b", "ɛ", "ɹ", "i", "t", "i")
    assert [edit.op for edit in found.edits] == ["sub", *["keep"] * 5]
    assert found.canonical == ("V", "EH", "R", "IY", "T", "IY")
    trace = found.trace
    assert trace["path"] == "reference" and trace["lam"] == 1
    assert trace["evidence_ratio"] == pytest.approx(evidence_ratio(rows, best), abs=1e-4)
    assert trace["tau"] == 3.0 and trace["rejected"]["bottom-up"] > found.score
    first, second = found.words
    assert (first.text, first.canonical, first.phones) == (
        "very",
        ("V", "EH", "R", "IY"),
        ("B", "EH", "R", "IY"),
    )
    assert first.span.start == pytest.approx(0.02) and second.text == "tea"
    assert second.span.end == found.spans[-1].end
    np.testing.assert_allclose(found.confidences, 0.95, atol=1e-6)
    assert Transcript.from_json(found.to_json()) == found
    assert pickle.loads(pickle.dumps(found)) == found


def test_confidence_is_the_mean_probability_of_the_phone():
    rng = np.random.default_rng(0)
    model, system = listener(trust())
    logits = rng.normal(size=(30, 44)) * 2
    rows = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    found = system(model.recording(rows), 16_000, "tomato")
    assert found.trace["path"] == "reference" and found.phones
    for phone, span, confidence in zip(found.phones, found.spans, found.confidences, strict=True):
        inside = slice(round(span.start / 0.02), round(span.end / 0.02))
        assert confidence == pytest.approx(np.exp(rows[inside, PHONES.id(phone)]).mean(), rel=1e-5)


def test_a_wrong_text_is_not_believed_by_a_clear_ear():
    model, system = listener()
    audio = model.recording(spoken(["T", "IY"], certain=0.999))
    found = system(audio, 16_000, "tomato berry", paths=True)
    assert found.trace["path"] == "bottom-up" and found.phones == ("T", "IY")
    assert found.trace["evidence_ratio"] > 3
    assert [one.path for one in found.hypotheses] == ["reference"]
    assert found.trace["rejected"]["reference"] == found.hypotheses[0].score
    other = HuPER(model, channel(), None, trust(), G2P)(audio, 16_000, "tomato berry")
    assert other.trace["path"] == "reference"


def test_other_pronunciations_are_heard():
    model, system = listener()
    for vowel in ("EY", "AA"):
        said = ("T", "AH", "M", vowel, "T", "OW")
        found = system(model.recording(spoken(said)), 16_000, "tomato tea")
        assert found.canonical == (*said, "T", "IY")
        assert found.words[0].canonical == said
    # Each of many words may be said in its own way: their number does not matter.
    ways = ["EY", "AA", "AA", "EY", "AA", "EY"]
    said = [phone for vowel in ways for phone in ("T", "AH", "M", vowel, "T", "OW")]
    found = system(model.recording(spoken(said)), 16_000, "tomato " * 6)
    assert [word.canonical[3] for word in found.words] == ways
    assert found.phones == tuple(said)


def test_insertions_between_words_belong_to_the_one_before():
    model, system = listener(trust())
    said = ["T", "IY", "K", "T", "IY"]
    found = system(model.recording(spoken(said, 0.9999)), 16_000, "tea tea")
    assert found.phones == tuple(said)
    assert [word.phones for word in found.words] == [("T", "IY", "K"), ("T", "IY")]
    # What was said is said by one word, and only there.
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = spoken(list(rng.choice(PHONES.phones, 8)), 0.5, rng=rng)
        found = system(model.recording(rows), 16_000, "tomato tea very")
        assert [p for word in found.words for p in word.phones] == list(found.phones)


def test_hypothesis_is_used_when_the_signal_is_bad():
    words = Perceiver(Lexicon(LEXICON, PHONES))
    scheduler = trust(tau=0.5)
    model, system = listener(scheduler, words)
    clear, hazy = (spoken(["T", "IY"], certain) for certain in (0.99, 0.25))
    found = system([model.recording(clear), model.recording(hazy)], 16_000)
    assert [one.trace["path"] for one in found] == ["bottom-up", "hypothesis"]
    assert [one.trace["tau"] for one in found] == [0.5, 0.5]
    second = found[1]
    assert second.canonical == ("T", "IY") and [w.text for w in second.words] == ["tea"]
    with_text = system(model.recording(clear), 16_000, "tea", paths=True)
    assert [one.path for one in with_text.hypotheses] == ["bottom-up", "hypothesis"]
    assert with_text.hypotheses[1].phones == ("T", "IY")


def test_union_of_the_readings_is_decoded():
    """The weights are the readings' posteriors; homophones share theirs."""
    rng = np.random.default_rng(2)
    words = Perceiver(Lexicon(LEXICON, PHONES), nbest=4)
    model, system = listener(trust(tau=-math.inf), words)
    for _ in range(5):
        logits = spoken(["V", "EH", "R", "IY"], 0.4) + rng.normal(size=(17, 44))
        rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        rows = rows.astype(np.float32)
        found = system(model.recording(rows), 16_000)
        posterior = {}
        for reading in words.read(rows):
            known = posterior.get(reading.canonical, -math.inf)
            posterior[reading.canonical] = np.logaddexp(known, reading.log_posterior)
        scores = {
            canonical: fused_decode(rows, list(canonical), channel()).score + weight
            for canonical, weight in posterior.items()
        }
        assert found.canonical == max(scores, key=scores.get)
        first = words.read(rows)[0].canonical
        assert found.score == pytest.approx(max(scores.values()) - posterior[first], abs=1e-4)


def test_phones_of_a_bigram_are_a_hypothesis_without_words():
    lm = phone_bigram([("T", "IY")] * 20, PHONES)
    model, system = listener(trust(tau=-math.inf), Perceiver(phone_lm=lm, phones=PHONES))
    found = system(model.recording(spoken(["T", "IY"], 0.4)), 16_000)
    assert found.trace["path"] == "hypothesis"
    assert found.canonical == ("T", "IY") and found.words == ()


def test_soft_weight_is_between_the_paths():
    scheduler = Scheduler("soft", tau_ref=0.3, width=0.1, lam_max=2.0)
    model, system = listener(scheduler)
    rows = spoken(["B", "EH", "R", "IY"], 0.6).astype(np.float32)
    found = system(model.recording(rows), 16_000, "very")
    lam = scheduler.weight(distortion_score(rows))
    assert found.trace["lam"] == pytest.approx(lam) and 0 < lam < 2
    expected = fused_decode(rows, ["V", "EH", "R", "IY"], channel(), lam=lam)
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    assert found.phones == expected.phones


def test_a_burst_of_noise_gets_the_reference_and_the_rest_the_ear():
    # Clear speech against the text in the first half, haze in the second.
    clear = spoken(["B", "EH", "R", "IY"], 0.9999, each=4)
    hazy = spoken(["T", "IY"], 0.1, each=10)
    rows = np.concatenate([clear, hazy]).astype(np.float32)
    scheduler = trust(scope="segment", tau_ref=0.4)
    model, system = listener(scheduler)
    found = system(model.recording(rows), 16_000, "very tea")
    windows = found.trace["segments"]
    assert [one["lam"] for one in windows] == [1.0 if one["s"] > 0.4 else 0.0 for one in windows]
    assert windows[0]["lam"] == 0 and windows[-1]["lam"] == 1
    assert windows[0]["start"] == 0 and windows[-1]["end"] == pytest.approx(len(rows) * 0.02)
    assert 0 < found.trace["lam"] < 1
    lam_T = np.concatenate(
        [
            np.full(round(one["end"] / 0.02) - round(one["start"] / 0.02), one["lam"])
            for one in windows
        ]
    )
    expected = fused_decode(rows, ["V", "EH", "R", "IY", "T", "IY"], channel(), lam=lam_T)
    assert found.phones == expected.phones and found.phones[0] == "B"
    assert found.score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.parametrize("policy", ["threshold", "llr", "soft"])
def test_segments_that_all_say_the_same_are_a_whole_path(policy):
    rng = np.random.default_rng(3)
    model = Scripted()
    for _ in range(5):
        rows = spoken(list(rng.choice(PHONES.phones, 12)), 0.7, rng=rng)
        audio = model.recording(rows)
        never, always = (
            Scheduler(policy, "segment", tau_ref=end, a=-end) for end in (math.inf, -math.inf)
        )
        ear = HuPER(model, channel(), None, never, G2P)(audio, 16_000, "tomato berry")
        assert ear.phones == HuPER(model)(audio, 16_000).phones and ear.trace["lam"] == 0
        text = HuPER(model, channel(), None, always, G2P)(audio, 16_000, "tomato berry")
        whole = HuPER(model, channel(), None, trust(), G2P)(audio, 16_000, "tomato berry")
        assert (text.phones, text.score) == (whole.phones, whole.score)


def test_only_voiced_frames_count_where_asked():
    scheduler = Scheduler("threshold", frames="vad")
    model, system = listener(scheduler)
    rows = np.concatenate([spoken(["T"], 0.3), np.log(np.full((20, 44), 1 / 44))])
    audio = model.recording(rows)
    audio[: 320 * 5] = 0.1 * np.sin(np.arange(1600))
    found = system(audio, 16_000)
    assert found.trace["s"] < distortion_score(rows) - 0.05


# One and many ---------------------------------------------------------------------------------


def test_a_list_is_what_each_alone_is():
    model, system = listener()
    rng = np.random.default_rng(4)
    audio = [
        model.recording(spoken(list(rng.choice(PHONES.phones, n)), 0.6, rng=rng)) for n in (2, 9, 5)
    ]
    texts = ["tea", None, "tomato very"]
    together = system(audio, 16_000, texts)
    assert together == [system(one, 16_000, text) for one, text in zip(audio, texts, strict=True)]


def test_words_may_be_given_for_a_text():
    model = Scripted()
    system = HuPER(model, channel())
    audio = model.recording(spoken(["T", "IY"]))
    found = system(audio, 16_000, [Word("tea", ("T", "IY1"))])
    assert found.canonical == ("T", "IY") and found.words[0].text == "tea"
    nothing = HuPER(model, channel(), scheduler=trust())(audio, 16_000, [])
    assert nothing.trace["path"] == "reference" and nothing.canonical == ()
    assert {edit.op for edit in nothing.edits} <= {"ins"} and nothing.words == ()


# Calibration ------------------------------------------------------------------------------------


def dev_set(model, count, *, wrong=0.3, seed=5, text=True):
    rng = np.random.default_rng(seed)
    words = list(LEXICON)
    items = []
    for number in range(count):
        said = list(rng.choice(words, 3))
        phones = [phone for word in said for phone in LEXICON[word][0]]
        rows = spoken(phones, float(rng.uniform(0.05, 0.9)), rng=rng)
        logits = rows + rng.normal(size=rows.shape)
        rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        told = list(rng.choice(words, 3)) if rng.random() < wrong else said
        items.append(
            corpus.Item(
                f"{seed}-{number}",
                text=" ".join(told) if text else None,
                real_phonemes=tuple(phones),
                samples=model.recording(rows),
                sampling_rate=16_000,
            )
        )
    return items


@pytest.mark.parametrize(
    ("policy", "scope"),
    [("threshold", "utterance"), ("llr", "utterance"), ("soft", "utterance"), ("llr", "segment")],
)
def test_calibration_is_no_worse_than_either_path(policy, scope):
    model, system = listener(Scheduler(policy, scope))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded = policy == "soft" or scope == "segment"
        found = system.calibrate(dev_set(model, 2 if decoded else 10))["reference"]
    verdict = found.verdict
    assert verdict.risk <= min(verdict.bottom_up, verdict.top_down)
    test = dev_set(model, 2, seed=6)
    judged = system.evaluate(test)
    # What is judged is what the system answers.
    errors = 0
    for item in test:
        made = system(item.samples, 16_000, item.text)
        errors += Levenshtein.distance(made.phones, item.real_phonemes)
        if policy == "llr" and scope == "utterance":
            measured = system.measure([item])[0]
            assert made.trace["s"] == measured.s
            assert made.trace["evidence_ratio"] == measured.ratio
    assert judged.risk == pytest.approx(errors / sum(len(i.real_phonemes) for i in test))
    with pytest.raises(ValueError, match="chose the threshold"):
        system.evaluate(dev_set(model, 1))


def test_hypotheses_are_calibrated_on_what_has_no_text():
    model, system = listener(Scheduler(), Perceiver(Lexicon(LEXICON, PHONES)))
    items = [*dev_set(model, 3), *dev_set(model, 4, seed=7, text=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = system.calibrate(items)
    assert set(found) == {"reference", "hypothesis"}
    assert found["hypothesis"].verdict.items == 4


def test_objective_may_be_another():
    model, system = listener()
    items = dev_set(model, 3)
    found = system.measure(items, lambda made, said: abs(len(made) - len(said)))
    for one, item in zip(found, items, strict=True):
        ear = HuPER(model)(item.samples, 16_000)
        assert one.bottom_up == abs(len(ear.phones) - len(item.real_phonemes))
    with pytest.raises(ValueError, match="'wer'"):
        system.measure(items, "wer")


# Files ------------------------------------------------------------------------------------------


def test_files_keep_everything(tmp_path):
    model = TinyConvCTC(config=TinyConfig(bands=8, width=8, dilations=(1,)), seed=1)
    lexicon = Lexicon(LEXICON, PHONES, channel=channel(), most=3)
    lm = WordLM.fit([["tea", "very"]], LEXICON)
    scheduler = Scheduler("threshold", tau=-math.inf, beta=0.5)
    system = HuPER(model, channel(), Perceiver(lexicon, lm), scheduler, G2P)
    system.save_pretrained(tmp_path)
    content = json.loads((tmp_path / SETTINGS_NAME).read_text())
    assert content["inventory"]["symbols"] == list(PHONES.symbols) and content["version"]
    again = HuPER.from_pretrained(tmp_path, g2p=G2P, device="cpu")
    audio = np.random.default_rng(8).normal(size=16_000).astype(np.float32) * 0.1
    for text in (None, "very tea"):
        assert again(audio, 16_000, text, paths=True) == system(audio, 16_000, text, paths=True)
    assert again(audio, 16_000).trace["path"] == "hypothesis"
    assert again.scheduler == scheduler

    (tmp_path / SETTINGS_NAME).write_text(json.dumps({**content, "format": 9}))
    with pytest.raises(ValueError, match="format 9"):
        HuPER.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=SETTINGS_NAME):
        HuPER.from_pretrained(tmp_path / "recognizer")


def test_another_inventory_is_refused(tmp_path):
    other = PhoneSet.ipa(["a", "b"])
    with pytest.raises(ValueError, match="channel was made for 3 ids"):
        HuPER(Scripted(), EditChannel.fit([], phones=other))
    words = Perceiver(Lexicon({"x": [("a",)]}, other))
    with pytest.raises(ValueError, match="perceiver was made for 3 ids"):
        HuPER(Scripted(), perceiver=words)


# Bad inputs -------------------------------------------------------------------------------------


def test_unknown_phones_are_named_with_their_word():
    model = Scripted()
    system = HuPER(model, g2p=Dict({"ach": [("AA", "XX")], "law": [("L", "AO1")]}))
    audio = model.recording(spoken(["T"]))
    with pytest.raises(ValueError, match="'XX' of 'ach'"):
        system(audio, 16_000, "law ach")
    with pytest.raises(ValueError, match="not in the dictionary: bach"):
        system(audio, 16_000, "bach")
    # What has a name here is folded.
    assert system(audio, 16_000, "law", paths=True).trace["path"]
    folded = HuPER(model, scheduler=trust(), g2p=system.g2p)(audio, 16_000, "law")
    assert folded.canonical == ("L", "AA")


def test_no_path_is_answered_by_the_ear():
    model, system = listener(trust())
    audio = model.recording(spoken(["T"], each=1))
    found = system(audio, 16_000, "tomato tomato tomato", paths=True)
    assert found.trace["reason"] == "no_path" and found.trace["path"] == "bottom-up"
    assert found.phones == ("T",) and found.hypotheses == ()
    tested = HuPER(model, channel(), None, Scheduler("llr"), G2P)
    assert tested(audio, 16_000, "tomato tomato tomato").trace["reason"] == "no_path"


def test_silence_is_an_empty_transcript():
    system = HuPER(TinyConvCTC(), channel(), Perceiver(Lexicon(LEXICON, PHONES)), g2p=G2P)
    found = system(np.zeros(16_000, np.float32), 16_000)
    assert found.phones == () and found.confidence is None
    assert 0 <= found.trace["s"] < 0.01 and found.trace["reason"]
    assert json.loads(found.to_json())["confidences"] == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda h: h(np.zeros(399, np.float32), 16_000), ValueError, "399"),
        (lambda h: h(np.zeros(0, np.float32), 16_000), ValueError, "empty|0 samples"),
        (lambda h: h(np.full(800, np.nan, np.float32), 16_000), ValueError, "NaN|finite"),
        (lambda h: h(np.zeros(800, np.float32)), TypeError, "sampling_rate"),
        (lambda h: h(np.zeros(800, np.float32), 16_000, ["tea"]), ValueError, r"g2p\.Word"),
        (lambda h: h([np.zeros(800, np.float32)], 16_000, "tea"), ValueError, "list of texts"),
        (lambda h: h([np.zeros(800, np.float32)], 16_000, []), ValueError, "1 recordings"),
        (lambda h: h(np.zeros(800, np.float32), 16_000, "…"), ValueError, "no word"),
    ],
)
def test_bad_calls_are_refused(call, error, message):
    system = HuPER(TinyConvCTC(), g2p=G2P)
    with pytest.raises(error, match=message):
        call(system)


def test_a_text_needs_a_g2p():
    with pytest.raises(ValueError, match="'tea' needs a g2p"):
        HuPER(TinyConvCTC())(np.zeros(800, np.float32), 16_000, "tea")


def test_channels_are_averaged_and_other_rates_resampled():
    system = HuPER(Recognizer.from_pretrained("tiny", device="cpu"))
    item = corpus.read_jsonl(WORLD / "test.jsonl")[0]
    samples, rate = item.audio()
    stereo = np.stack([samples, samples])
    with pytest.warns(UserWarning, match="average"):
        found = system(stereo, rate)
    assert found.phones == system(samples, rate).phones
    assert system(samples.repeat(2), 2 * rate).trace["s"] >= 0


def test_real_speech_is_read_near_its_text():
    """The shipped recognizer on the synthetic fixture: text lowers the error."""
    items = corpus.read_jsonl(WORLD / "test.jsonl")
    pairs = [
        (item.phones("canonical"), item.phones("realized"))
        for item in corpus.read_jsonl(WORLD / "labelled.jsonl")
    ]
    system = HuPER(
        Recognizer.from_pretrained("tiny", device="cpu"),
        EditChannel.fit(pairs),
        scheduler=trust(),
    )
    rng = np.random.default_rng(9)
    noisy = [
        item.audio()[0] + 0.02 * rng.normal(size=len(item.audio()[0])).astype(np.float32)
        for item in items
    ]
    found = {}
    for name, texts in (
        ("ear", None),
        ("text", [[Word(i.text, i.phones("canonical"))] for i in items]),
    ):
        made = system(noisy, 16_000, texts)
        found[name] = sum(
            Levenshtein.distance(one.phones, item.phones("realized"))
            for one, item in zip(made, items, strict=True)
        )
    assert found["text"] < found["ear"]


def test_a_text_of_another_type_is_named():
    listener = HuPER(TinyConvCTC(), g2p=Dict({"to": [("T", "UW")]}))
    with pytest.raises(ValueError, match=r"a string or a list of g2p.Word, got 123"):
        listener(np.zeros(16_000, np.float32), 16_000, text=123)
