"""The Perceiver finds what enumerating all word sequences finds."""

import itertools
import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from modicum.huper.channel import EditChannel, phone_bigram
from modicum.huper.emissions import Emissions
from modicum.huper.perceiver import Lexicon, Perceiver, WordLM, variants
from modicum.huper.phones import PhoneSet

PHONES = PhoneSet.ipa(["a", "b", "k"])
A, B, K = (PHONES.id(one) for one in "abk")

# Homophones (ab, abb), one word that begins another (a, ab), and phones that meet their like over a
# boundary (a a, ba ab, k k).
ENTRIES = {
    "a": [("a",)],
    "ab": [("a", "b")],
    "abb": [("a", "b")],
    "ba": [("b", "a"), ("b",)],
    "k": [("k",)],
    "aa": [("a", "a")],
}

needs_flashlight = pytest.mark.skipif(
    find_spec("flashlight") is None, reason="flashlight-text is not installed"
)


def random_rows(rng, frames, classes=4, sharpness=1.5):
    logits = rng.normal(size=(frames, classes)) * sharpness
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def best_ctc(said, rows):
    """Best path of a phone sequence: (log-probability, spans)."""
    states = [0]
    for phone in said:
        states += [phone, 0]
    best = {0: (rows[0, 0], ((0,),))} if len(rows) else {0: (0.0, ((),))}
    if len(rows) and said:
        best[1] = (rows[0, said[0]], ((1,),))
    for row in rows[1:]:
        following = {}
        for state, (score, (path,)) in best.items():
            for step in (0, 1, 2):
                at = state + step
                if at >= len(states):
                    continue
                # Over a blank: only from phone to another phone.
                if step == 2 and (states[at] == 0 or states[at] == states[state]):
                    continue
                new = score + row[states[at]]
                if at not in following or new > following[at][0]:
                    following[at] = (new, ((*path, at),))
        best = following
    ends = [state for state in best if state >= len(states) - 2]
    if not ends or (said and len(states) - 2 not in ends and len(states) - 1 not in ends):
        return -math.inf, ()
    score, (path,) = max((best[end] for end in ends), key=lambda item: item[0])
    spans = []
    for number in range(len(said)):
        inside = [t for t, state in enumerate(path) if state == 2 * number + 1]
        spans.append((inside[0], inside[-1] + 1))
    return score, tuple(spans)


def enumerate_readings(rows, entries, word_weight, end_weight):
    """Score of every word sequence that fits, with the spans of its words."""
    found = {}
    for count in range(len(rows) + 1):
        for words in itertools.product(entries, repeat=count):
            weight = sum(
                word_weight(word, before)
                for before, word in zip((None, *words), words, strict=False)
            ) + end_weight(words[-1] if words else None)
            best = (-math.inf, ())
            for forms in itertools.product(*(entries[word] for word in words)):
                said = [PHONES.id(phone) for form in forms for phone in form]
                if len(said) > len(rows):
                    continue
                score, spans = best_ctc(said, rows)
                if score > best[0]:
                    ends = np.cumsum([0, *map(len, forms)])
                    parts = [
                        (spans[ends[n]][0], spans[ends[n + 1] - 1][1]) for n in range(len(forms))
                    ]
                    best = (score, tuple(zip(forms, parts, strict=True)))
            if best[0] > -math.inf:
                found[words] = (best[0] + weight, best[1])
    return found


def language_models():
    sentences = [["a", "ab"], ["k", "a", "k"], ["ba"], ["aa", "k"], ["abb", "abb", "ab"]]
    return {
        "none": None,
        "unigram": WordLM.fit(sentences, ENTRIES, order=1),
        "bigram": WordLM.fit(sentences, ENTRIES),
    }


@pytest.mark.parametrize("name", ["none", "unigram", "bigram"])
def test_readings_are_those_of_enumeration(name):
    lm = language_models()[name]
    rng = np.random.default_rng(0)
    lexicon = Lexicon(ENTRIES, PHONES)

    def word_weight(word, before):
        plain = -math.log(6) if lm is None else lm.logprob(word, before)
        return 0.7 * plain + 0.4

    def end_weight(before):
        return 0.0 if lm is None else 0.7 * lm.logprob(None, before)

    for trial in range(9):
        rows = random_rows(rng, trial % 5)
        expected = enumerate_readings(rows, ENTRIES, word_weight, end_weight)
        perceiver = Perceiver(
            lexicon,
            lm,
            lm_weight=0.7,
            word_penalty=0.4,
            beam=100_000,
            threshold=1e6,
            nbest=100_000,
        )
        found = perceiver.read(rows)
        assert {tuple(w.text for w in one.words) for one in found} == set(expected)
        total = np.logaddexp.reduce([score for score, _ in expected.values()])
        for one in found:
            score, parts = expected[tuple(word.text for word in one.words)]
            assert one.score == pytest.approx(score, abs=1e-9)
            assert one.log_posterior == pytest.approx(score - total, abs=1e-9)
            assert [word.span for word in one.words] == [span for _, span in parts]
            assert [word.canonical for word in one.words] == [form for form, _ in parts]
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_readings_near_an_edit_channel_are_those_of_enumeration():
    channel = EditChannel.fit(
        [(("a", "b"), ("k", "b")), (("b", "a"), ("a",)), (("k",), ("k",))], phones=PHONES
    )
    rng = np.random.default_rng(1)
    most = 5
    lexicon = Lexicon(ENTRIES, PHONES, channel=channel, most=most, lam=0.8)
    # The same forms, weighed by hand.
    forms = {}
    for word, pronunciations in ENTRIES.items():
        for canonical in pronunciations:
            weights = channel.weights(canonical)
            choices = []
            for outcome in itertools.product(range(1, 5), repeat=len(canonical)):
                said = tuple(one for one in outcome if one < 4)
                weight = sum(
                    weights.dele[i] if one == 4 else weights.sub[i, one]
                    for i, one in enumerate(outcome)
                )
                if said:
                    choices.append((weight, said))
            choices.sort(reverse=True)
            kept = {}
            for weight, said in choices:
                if len(kept) < most:
                    kept.setdefault(said, 0.8 * weight)
            for said, weight in kept.items():
                forms.setdefault(word, []).append((PHONES.decode(said), weight))
    for trial in range(3):
        rows = random_rows(rng, 2 + trial)
        perceiver = Perceiver(lexicon, beam=100_000, threshold=1e6, nbest=100_000)
        found = {tuple(word.text for word in one.words): one.score for one in perceiver.read(rows)}
        for count in range(3):
            for words in itertools.product(forms, repeat=count):
                scores = [
                    best_ctc([PHONES.id(p) for form, _ in chosen for p in form], rows)[0]
                    + sum(weight for _, weight in chosen)
                    for chosen in itertools.product(*(forms[word] for word in words))
                ]
                expected = max(scores) - count * math.log(6)
                assert found.get(words, -math.inf) == pytest.approx(expected, abs=1e-9)


def test_variants_are_the_best_and_have_the_canonical_one():
    channel = EditChannel.fit([(("a", "b"), ("k",))] * 3, phones=PHONES, keep_prior=0.1)
    found = variants(channel.weights(["a", "b"]), 3)
    assert len(found) == 3 and (A, B) in dict(found)
    assert found[0][0] == (K,)
    everything = dict(variants(channel.weights(["a", "b"]), 1000))
    assert len(everything) == 3 * 3 + 3
    assert variants(channel.weights(["a", "b"]), 1)[0][0] == (A, B)


def test_doubled_phones_need_a_blank_between_words():
    lexicon = Lexicon({"ba": [("b", "a")], "ab": [("a", "b")], "bab": [("b", "a", "b")]}, PHONES)
    perceiver = Perceiver(lexicon)

    def rows_of(path):
        likely = np.full((len(path), 4), 0.01)
        likely[np.arange(len(path)), path] = 0.97
        return np.log(likely)

    assert perceiver.read(rows_of([B, A, 0, A, B]))[0].text == "ba ab"
    assert perceiver.read(rows_of([B, A, A, A, B]))[0].text == "bab"


def test_a_beam_is_enough_for_clear_speech():
    phones = PhoneSet.arpabet39()
    rng = np.random.default_rng(2)
    entries = {}
    while len(entries) < 3000:
        form = tuple(rng.choice(phones.phones, int(rng.integers(2, 7))))
        entries[" ".join(form)] = [form]
    lexicon = Lexicon(entries, phones)
    perceiver = Perceiver(lexicon)
    words = list(entries)
    for _ in range(5):
        said = [words[at] for at in rng.choice(3000, 3)]
        path, spans = [0], []
        for word in said:
            begun = len(path)
            for phone in entries[word][0]:
                path += [phones.id(phone)] * 2 + [0]
            spans.append((begun, len(path) - 1))
            path.append(0)
        likely = rng.random((len(path), len(phones))) * 0.002
        likely[np.arange(len(path)), path] = 1
        rows = np.log(likely / likely.sum(1, keepdims=True))
        best = perceiver.read(rows)[0]
        assert [word.text for word in best.words] == said
        assert [word.span for word in best.words] == spans
        assert best.canonical == tuple(phone for word in said for phone in entries[word][0])


def test_nothing_said_is_no_word():
    rows = np.log(np.array([[0.97, 0.01, 0.01, 0.01]] * 4))
    found = Perceiver(Lexicon(ENTRIES, PHONES)).read(rows)[0]
    assert (found.words, found.canonical, found.text) == ((), (), "")
    assert Perceiver(Lexicon(ENTRIES, PHONES)).read(np.zeros((0, 4)))[0].words == ()


def test_a_beam_without_survivors_becomes_wider():
    # A word that is cut off: its end costs more than the beam allows.
    rows = np.log(np.array([[0.0001, 0.9997, 0.0001, 0.0001]] * 3))
    lexicon = Lexicon({"aba": [("a", "b", "a")]}, PHONES)
    found = Perceiver(lexicon, threshold=1.0, beam=2).read(rows)
    assert found and found[0].text in ("aba", "")


def test_phones_alone_follow_the_bigram():
    rng = np.random.default_rng(3)
    lm = phone_bigram([("a", "b"), ("a", "b", "k")], PHONES)
    perceiver = Perceiver(phone_lm=lm, phones=PHONES, lm_weight=0.5)
    for _ in range(20):
        rows = random_rows(rng, 4)
        best, best_said = -math.inf, ()
        for count in range(5):
            for said in itertools.product((A, B, K), repeat=count):
                path = [4, *said, 4]
                weight = 0.5 * sum(lm[one, two] for one, two in itertools.pairwise(path))
                score = best_ctc(said, rows)[0] + weight
                if score > best:
                    best, best_said = score, said
        found = perceiver.read(rows)[0]
        assert found.score == pytest.approx(best, abs=1e-9)
        assert found.canonical == PHONES.decode(best_said) and found.words == ()


def test_language_model_sums_to_one():
    lm = language_models()["bigram"]
    for before in [None, "a", "abb", "aa"]:
        total = sum(math.exp(lm.logprob(word, before)) for word in [None, *ENTRIES])
        assert total == pytest.approx(1, abs=1e-12)
    again = WordLM.from_dict(json.loads(json.dumps(lm.to_dict())))
    assert again.logprob("ab", "a") == lm.logprob("ab", "a")
    assert again.logprob(None, None) == lm.logprob(None, None)
    assert lm.logprob("ab", "a") > lm.logprob("ba", "a")


def test_files_keep_everything():
    perceiver = Perceiver(
        Lexicon(ENTRIES, PHONES), language_models()["bigram"], beam=50, word_penalty=0.1, nbest=3
    )
    again = Perceiver.from_dict(json.loads(json.dumps(perceiver.to_dict(), allow_nan=False)))
    rows = random_rows(np.random.default_rng(4), 8)
    assert again.read(rows) == perceiver.read(rows) and len(again.read(rows)) == 3
    alone = Perceiver(phone_lm=phone_bigram([("a",)], PHONES), phones=PHONES)
    again = Perceiver.from_dict(json.loads(json.dumps(alone.to_dict(), allow_nan=False)))
    assert again.read(rows) == alone.read(rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Lexicon({}, PHONES), "at least one word"),
        (lambda: Lexicon({"x": []}, PHONES), "'x' has no pronunciation"),
        (lambda: Lexicon({"x": [()]}, PHONES), "'x' has no phone"),
        (lambda: Lexicon({"x": ["ab"]}, PHONES), "string 'ab'"),
        (lambda: Lexicon({"x": [("a", "z")]}, PHONES), "'z' of 'x'"),
        (lambda: Perceiver(), "needs a lexicon"),
        (lambda: Perceiver(Lexicon(ENTRIES, PHONES), backend="k2"), "'k2'"),
        (lambda: Perceiver(Lexicon(ENTRIES, PHONES), beam=0), "0"),
        (lambda: Perceiver(Lexicon(ENTRIES, PHONES), threshold=-1), "-1"),
        (lambda: Perceiver(Lexicon(ENTRIES, PHONES), WordLM({"a": 0.0})), "lacks 5 words"),
        (lambda: Perceiver(phone_lm=np.zeros((3, 3)), phones=PHONES), r"\(5, 5\)"),
        (lambda: Perceiver(Lexicon(ENTRIES, PHONES)).read(np.zeros((2, 3))), r"\(T, 4\)"),
        (lambda: Perceiver(Lexicon(ENTRIES, PHONES)).read(np.zeros((2, 4))), "sum to 4"),
        (lambda: WordLM({"a": math.nan}), "NaN"),
        (lambda: WordLM({}), "at least one word"),
        (lambda: WordLM.fit(["a b"]), "string 'a b'"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_phones_are_refused():
    other = PhoneSet.ipa(["a", "b", "t"])
    emissions = Emissions(torch.zeros(1, 2, 4).log_softmax(-1), [2], 0.02, other)
    with pytest.raises(ValueError, match="was made for 4 ids"):
        Perceiver(Lexicon(ENTRIES, PHONES))(emissions)


# The decoder of flashlight ------------------------------------------------------------------------


@needs_flashlight
@pytest.mark.parametrize("name", ["none", "unigram", "bigram"])
def test_readings_of_flashlight_are_scored_exactly(name):
    lm = language_models()[name]
    rng = np.random.default_rng(5)
    lexicon = Lexicon(ENTRIES, PHONES)
    wide = {"beam": 2000, "threshold": 1000.0, "lm_weight": 0.7, "word_penalty": -0.2}
    native = Perceiver(lexicon, lm, nbest=100_000, **wide)
    other = Perceiver(lexicon, lm, backend="flashlight", **wide)
    same = 0
    for _ in range(10):
        rows = random_rows(rng, 4, sharpness=3.0).astype(np.float32)
        emissions = Emissions(torch.from_numpy(rows), [4], 0.02, PHONES)
        every = {one.text: one for one in native(emissions)[0]}
        found = other(emissions)[0]
        assert len(found) == 5
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            assert one.score == pytest.approx(every[one.text].score, abs=1e-6)
            assert one.words == every[one.text].words
        best = max(one.score for one in every.values())
        same += found[0].score == pytest.approx(best, abs=1e-6)
    assert same >= 8


@needs_flashlight
def test_flashlight_reads_clear_speech():
    phones = PhoneSet.arpabet39()
    rng = np.random.default_rng(6)
    entries = {f"w{n}": [tuple(rng.choice(phones.phones, 4))] for n in range(300)}
    lexicon = Lexicon(entries, phones)
    said = ["w3", "w200", "w7"]
    path = [0]
    for word in said:
        for phone in entries[word][0]:
            path += [phones.id(phone)] * 3 + [0]
    likely = rng.random((len(path), len(phones))) * 0.002
    likely[np.arange(len(path)), path] = 1
    rows = np.log(likely / likely.sum(1, keepdims=True))
    emissions = Emissions(torch.from_numpy(rows), [len(path)], 0.02, phones)
    one = Perceiver(lexicon)(emissions)[0][0]
    two = Perceiver(lexicon, backend="flashlight", threshold=50.0)(emissions)[0][0]
    assert one.text == two.text == "w3 w200 w7" and one.words == two.words


def test_flashlight_says_what_to_install(monkeypatch):
    from torchaudio.models import decoder

    def missing(name):
        raise ImportError("no flashlight")

    monkeypatch.delattr(decoder, "ctc_decoder", raising=False)
    monkeypatch.setattr(decoder, "__getattr__", missing, raising=False)
    perceiver = Perceiver(Lexicon(ENTRIES, PHONES), backend="flashlight")
    emissions = Emissions(torch.zeros(1, 2, 4).log_softmax(-1), [2], 0.02, PHONES)
    with pytest.raises(ImportError, match=r"modicum-huper\[flashlight\]"):
        perceiver(emissions)


def test_a_word_that_cannot_follow_is_kept_in_json():
    lm = WordLM({"a": -1.0, "b": -math.inf}, {("a", "b"): -math.inf}, {"a": -0.5}, end=-math.inf)
    text = json.dumps(lm.to_dict(), allow_nan=False)
    again = WordLM.from_dict(json.loads(text))
    assert (again.unigram, again.bigram, again.backoff, again.end) == (
        lm.unigram,
        lm.bigram,
        lm.backoff,
        lm.end,
    )
