"""Inventories: public layouts, names of phones, folding, IPA, files."""

import json
import pickle
import unicodedata

import numpy as np
import pytest

from modicum.huper.phones import (
    ARPABET39,
    ARPABET40,
    ARPABET_TO_IPA,
    CORRECTOR_INSERTIONS,
    CORRECTOR_OPS,
    TIMIT61,
    PhoneSet,
    arpabet_to_ipa,
    fold,
)


def test_layout_of_the_public_recogniser():
    phones = PhoneSet.arpabet39()
    assert len(phones) == 44 and len(phones.phones) == 39 and phones.blank == 0
    assert [phones.id(p) for p in ("<PAD>", "|", "AA", "DX", "ZH")] == [0, 4, 5, 14, 43]
    assert "AO" not in phones and "DX" in phones
    np.testing.assert_array_equal(phones.ids, np.arange(5, 44))
    assert phones.ids.dtype == np.int64 and phones.decode(phones.ids) == ARPABET39


def test_layout_of_the_public_corrector():
    ops, insertions = list(CORRECTOR_OPS), list(CORRECTOR_INSERTIONS)
    assert [ops.index(o) for o in ("KEEP", "DEL", "SUB:<PAD>", "SUB:AA", "SUB:ZH")] == [
        0, 1, 2, 3, 42,
    ]  # fmt: skip
    assert [insertions.index(o) for o in ("<NONE>", "<PAD>", "AA", "ZH")] == [0, 1, 2, 41]
    assert len(ARPABET40) == 40 and set(ARPABET40) - set(ARPABET39) == {"AO"}


def test_timit_has_sixty_one():
    assert len(TIMIT61) == len(set(TIMIT61)) == 61
    assert len(PhoneSet.timit61()) == 62 and "h#" in PhoneSet.timit61()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["AH0", "b", "AO1"], ("AH", "B", "AA")),
        (["K", "'", "AE2", "SIL", "T"], ("K", "AE", "T")),
        (["ax-h", "tcl", "t", "axr", "h#"], ("AH", "T", "ER")),
        (["eng", "nx", "el", "ux", "hv"], ("NG", "N", "L", "UW", "HH")),
        (np.array(["AO", "DX"]), ("AA", "DX")),
        ([], ()),
    ],
)
def test_names_in_the_inventory(given, expected):
    assert PhoneSet.arpabet39().canonicalise(given) == expected


def test_folding_goes_on_until_there_is_a_name():
    small = PhoneSet(("_", "AA", "T", "SH"), 0, frozenset({"_"}))
    assert small.canonicalise(["AO", "DX", "ZH"]) == ("AA", "T", "SH")
    assert PhoneSet.arpabet40().canonicalise(["AO"]) == ("AO",)
    # All of TIMIT has a name, or none by design.
    folded = fold(TIMIT61)
    assert set(folded) == set(ARPABET39) and len(folded) == 61 - 6 - 4


def test_unknown_phones_are_named_and_never_guessed():
    phones = PhoneSet.arpabet39()
    with pytest.raises(ValueError, match=r"phone 'SPN' of 'hello' is none of the 39"):
        phones.canonicalise(["HH", "SPN"], word="hello")
    with pytest.raises(ValueError, match="'ʁ'"):
        phones.canonicalise(["ʁ"])
    # Specials are no phones.
    with pytest.raises(ValueError, match="<UNK>"):
        phones.canonicalise(["<UNK>"])
    with pytest.raises(TypeError, match="not the string 'AA'"):
        phones.canonicalise("AA")
    with pytest.raises(ValueError, match="'QQ' is none of the 39 phones"):
        phones.id("QQ")
    for wrong in (-1, 44):
        with pytest.raises(ValueError, match=f"below 44, not {wrong}"):
            phones.decode([wrong])


def test_ids_do_not_depend_on_composition():
    composed = unicodedata.normalize("NFC", "ã")
    phones = PhoneSet.ipa([composed, "t͡ʃ"])
    assert phones.id(unicodedata.normalize("NFD", composed)) == 1
    assert phones.canonicalise([unicodedata.normalize("NFD", composed)]) == (composed,)
    with pytest.raises(ValueError, match="has two ids, 1 and 2"):
        PhoneSet.ipa([composed, unicodedata.normalize("NFD", composed)])


def test_case_of_ipa_matters_and_is_not_folded_away():
    phones = PhoneSet.ipa(["a", "ɑ", "r"])
    assert phones.canonicalise(["a", "ɑ"]) == ("a", "ɑ")
    with pytest.raises(ValueError, match="'ɐ'"):
        phones.canonicalise(["ɐ"])


def test_ipa_of_arpabet():
    assert arpabet_to_ipa(["L", "AE1", "S", "T"]) == ("l", "æ", "s", "t")
    assert arpabet_to_ipa(["AY", "CH", "G"]) == ("a", "ɪ", "t͡ʃ", "ɡ")
    assert arpabet_to_ipa(["tcl", "t", "q", "h#"]) == ("t", "ʔ")
    assert arpabet_to_ipa(["bcl"], closures="keep") == ("b̚",)
    assert set(ARPABET40) <= set(ARPABET_TO_IPA)
    # A tie bar, and the letter of the IPA instead of the one on the keyboard.
    assert "\u0361" in ARPABET_TO_IPA["JH"][0] and ARPABET_TO_IPA["G"] == ("\u0261",)
    for segments in ARPABET_TO_IPA.values():
        assert all(unicodedata.normalize("NFD", one) == one for one in segments)
    with pytest.raises(ValueError, match="'XX' is no phone"):
        arpabet_to_ipa(["XX"])
    with pytest.raises(ValueError, match="closures"):
        arpabet_to_ipa(["AA"], closures="maybe")


def test_bad_inventories():
    with pytest.raises(ValueError, match="blank must be an id below 2, not 2"):
        PhoneSet(("a", "b"), 2)
    with pytest.raises(ValueError, match="x are none"):
        PhoneSet(("a", "b"), 0, frozenset({"x"}))
    with pytest.raises(ValueError, match="at least one symbol"):
        PhoneSet(("a",), 0)


def test_round_trips():
    phones = PhoneSet.ipa(["a", "t͡ʃ"])
    for again in (
        PhoneSet.from_dict(json.loads(json.dumps(phones.to_dict()))),
        pickle.loads(pickle.dumps(phones)),
    ):
        assert again == phones and again.id("t͡ʃ") == 2 and hash(again) == hash(phones)


def test_vocabularies_on_disk(tmp_path):
    path = tmp_path / "vocab.json"
    public = PhoneSet.arpabet39()
    path.write_text(json.dumps({s: i for i, s in reversed(list(enumerate(public.symbols)))}))
    assert PhoneSet.from_vocab_json(path) == public
    path.write_text(json.dumps({s: i for i, s in enumerate(CORRECTOR_INSERTIONS)}))
    corrector = PhoneSet.from_vocab_json(path)
    assert corrector.phones == ARPABET40 and corrector.blank == 1
    path.write_text(json.dumps({"a": 0, "b": 2}))
    with pytest.raises(ValueError, match="each once"):
        PhoneSet.from_vocab_json(path, "a")
    path.write_text(json.dumps({"a": 0, "b": 1}))
    with pytest.raises(ValueError, match="names no blank"):
        PhoneSet.from_vocab_json(path)
    with pytest.raises(ValueError, match="has no symbol 'c'"):
        PhoneSet.from_vocab_json(path, "c")
    assert PhoneSet.from_vocab_json(path, "b").phones == ("a",)
    for text in ("[1]", '{"a": true}', "{"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"vocab\.json"):
            PhoneSet.from_vocab_json(path)


def test_vocabulary_of_a_processor(tmp_path):
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "vocab.json"
    symbols = ("<pad>", "<s>", "</s>", "<unk>", "|", "AA", "T")
    path.write_text(json.dumps({symbol: number for number, symbol in enumerate(symbols)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(path))
    phones = PhoneSet.from_hf(tokenizer)
    assert phones.phones == ("AA", "T") and phones.symbols == symbols and phones.blank == 0
    extractor = transformers.Wav2Vec2FeatureExtractor()
    processor = transformers.Wav2Vec2Processor(extractor, tokenizer)
    assert PhoneSet.from_hf(processor) == phones


def test_a_uvular_stop_is_no_glottal_stop_that_may_be_left_out() -> None:
    segments = PhoneSet.ipa(["p", "a", "ʔ", "k"])
    with pytest.raises(ValueError, match="phone 'q' of 'qapik' is none of the 4 phones"):
        segments.canonicalise(["q", "a"], word="qapik")
    assert PhoneSet.ipa(["q", "a"]).canonicalise(["q", "a"]) == ("q", "a")
    for spelled in (PhoneSet.arpabet39(), PhoneSet.arpabet40()):
        assert spelled.canonicalise(["q", "aa1", "Q"]) == ("AA",)
    assert PhoneSet.timit61().canonicalise(["q", "aa"]) == ("q", "aa")
