"""The espeak-ng program: exact phones, clean IPA, parallel calls, clear errors."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modicum.huper import espeak
from modicum.huper.g2p.english import to_arpabet
from modicum.huper.phones import ARPABET40

needs_espeak = pytest.mark.skipif(
    not espeak.available(), reason="the program espeak-ng is not installed"
)

WORDS = [
    ("L", "AE", "DX", "ER"),
    ("B", "AH", "T", "IH", "NG"),
    ("DH", "AO", "CH", "AW", "JH"),
    ("V", "OY", "ZH", "UH", "S"),
    ("TH", "IY", "Y", "UW", "SH"),
    ("F", "AY", "G", "OW", "W"),
    ("HH", "EY", "K", "AA", "R", "EH", "D"),
    ("M", "AE", "IH", "N", "P", "Z"),
]


def test_mnemonics_stress_the_first_vowel_and_keep_phones_apart():
    said = espeak.mnemonics([("HH", "AH", "L", "OW"), ("S", "T")])
    assert said == "[[h|'V|l|oU s|t2]]"
    assert set(espeak.ARPABET_TO_ESPEAK) == set(ARPABET40)
    with pytest.raises(ValueError, match=r"phone 'AH0' has no mnemonic"):
        espeak.mnemonics([("AH0",)])


@needs_espeak
def test_phones_are_spoken_as_they_stand():
    """No flap where there is a T, no diphthong where there are two vowels."""
    said = espeak._run(["-q", "--ipa", "--sep=_", "-v", "en-us"], espeak.mnemonics(WORDS))
    heard = [to_arpabet(word.replace("__", "_").split("_")) for word in said.split()]
    assert heard == WORDS
    assert set(ARPABET40) - {phone for word in WORDS for phone in word} == set()


@needs_espeak
def test_speech_has_a_rate_and_obeys_rate_and_pitch():
    samples, rate = espeak.speak("hello world")
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert rate == 22_050
    assert 0.05 < np.abs(samples).max() <= 1
    fast, _ = espeak.speak("hello world", rate=300)
    assert len(fast) < 0.8 * len(samples)
    again, _ = espeak.speak("hello world")
    np.testing.assert_array_equal(again, samples)
    high, _ = espeak.speak("hello world", pitch=90)
    assert not np.array_equal(high, samples)
    other, _ = espeak.speak("hello world", voice="en-us+f3")
    assert not np.array_equal(other, samples)


@needs_espeak
def test_calls_run_beside_each_other():
    words = [[("B", "IY")], [("S", "UW", "N")], [("K", "AA", "R")], [("M", "AY", "L")]] * 3
    alone = [espeak.speak(phones=one)[0] for one in words[:4]]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda one: espeak.speak(phones=one)[0], words))
    for number, samples in enumerate(together):
        np.testing.assert_array_equal(samples, alone[number % 4])


@needs_espeak
def test_ipa_is_free_of_marks():
    said = espeak.ipa("Das ist ein Computer Software Team", "de")
    assert not set(said) & set("()ˈˌ")
    assert said.startswith("das ɪst aɪn ")
    assert "ː" in said
    assert "ː" not in espeak.ipa("Das ist ein Computer Software Team", "de", length=False)
    assert espeak.ipa_words("church", "en-us") == (("tʃ", "ɜː", "tʃ"),)


@needs_espeak
def test_text_is_never_phoneme_input_nor_an_option():
    assert len(espeak.ipa_words("[[tEst]] -x")) != 1
    assert espeak.ipa("--version") != ""


@needs_espeak
def test_there_are_many_languages():
    assert {"de", "es", "it", "sw", "fi", "tr", "pl", "id"} <= set(espeak.voices())
    assert int(espeak.version().split(".")[0]) >= 1


@needs_espeak
def test_what_cannot_be_said_is_refused():
    with pytest.raises(ValueError, match="no voice 'xx-none'"):
        espeak.speak("hello", voice="xx-none")
    with pytest.raises(ValueError, match="no voice 'xx-none'"):
        espeak.ipa("hello", "xx-none")
    with pytest.raises(ValueError, match="no text"):
        espeak.speak("  \n")
    with pytest.raises(ValueError, match="give text or phones"):
        espeak.speak()
    with pytest.raises(ValueError, match="give text or phones"):
        espeak.speak("a", phones=[("AA",)])
    with pytest.raises(ValueError, match=r"rate must be in 80 … 450, not 20"):
        espeak.speak("a", rate=20)
    with pytest.raises(ValueError, match=r"pitch must be in 0 … 99, not 100"):
        espeak.speak("a", pitch=100)


def test_without_the_program_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not espeak.available()
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        espeak.speak("hello")
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        espeak.ipa("hello")
