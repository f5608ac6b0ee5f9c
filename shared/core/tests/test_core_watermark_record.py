"""Records and key files: round trips, refusals, and that no key ever gets into a record."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modicum.core.prf import PRF_VERSION, key_id
from modicum.core.watermark.record import (
    FORMAT_VERSION,
    WatermarkRecord,
    generate_key,
    load_key,
    save_key,
    tokenizer_hash,
)

KEY = bytes(range(32))


def record(**changes):
    fields = {
        "parameters": {"m": 16, "partition": "hash", "grid": (0.1, 0.2)},
        "anchor_fingerprint": "uniform:9",
        "tokenizer_hash": "abc",
    }
    return WatermarkRecord.for_key("ewatermark", KEY, **(fields | changes))


def test_round_trip(tmp_path):
    path = tmp_path / "wm.json"
    record().save(path)
    assert WatermarkRecord.load(path) == record()
    assert os.listdir(tmp_path) == ["wm.json"]
    assert record().key_id == key_id(KEY)
    text = path.read_text()
    assert KEY.hex() not in text
    other = record(parameters={})
    other.save(path)
    assert WatermarkRecord.load(path) == other


def test_another_scheme_is_refused_before_its_prf(tmp_path):
    path = tmp_path / "wm.json"
    record(prf="vendor", prf_version=3).save(path)
    with pytest.raises(ValueError, match=r"wm\.json.*'ewatermark'.*'other'.*modicum-ewatermark"):
        WatermarkRecord.load(path, scheme="other")
    with pytest.raises(ValueError, match="needs PRF 'vendor'"):
        WatermarkRecord.load(path, scheme="ewatermark")
    record().save(path)
    assert WatermarkRecord.load(path, scheme="ewatermark") == record()


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "wm.json"
    record().save(path)

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        record(parameters={}).save(path)
    assert WatermarkRecord.load(path) == record()
    assert os.listdir(tmp_path) == ["wm.json"]


@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda s: s.lower() not in {"key", "keys", "secret"}),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(),
        ),
        max_size=4,
    )
)
def test_any_json_parameters_survive(parameters):
    one = record(parameters=parameters)
    assert WatermarkRecord.from_json(one.to_json()) == one
    assert one.parameters == parameters


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "format version 2"),
        ({"format_version": None}, "format version None"),
        ({"prf_version": PRF_VERSION + 1}, "version 2 of PRF 'philox'"),
        ({"prf": "md5"}, "md5"),
        ({"format": "other"}, "not a watermark record"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_foreign_records_are_refused(tmp_path, change, words):
    data = json.loads(record().to_json()) | change
    path = tmp_path / "wm.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=words) as caught:
        WatermarkRecord.load(path)
    assert str(path) in str(caught.value)


def test_broken_text_and_missing_fields():
    for text in ("", "{", "[]", "3"):
        with pytest.raises(ValueError, match="not a watermark record"):
            WatermarkRecord.from_json(text)
    data = json.loads(record().to_json())
    del data["scheme"]
    with pytest.raises(ValueError, match="scheme"):
        WatermarkRecord.from_json(json.dumps(data))


def test_a_caller_may_know_other_prfs():
    one = record(prf="vendor", prf_version=7)
    with pytest.raises(ValueError, match="vendor"):
        WatermarkRecord.from_json(one.to_json())
    assert WatermarkRecord.from_json(one.to_json(), known_prfs={"vendor": 7}) == one
    with pytest.raises(ValueError, match="version 8"):
        WatermarkRecord.from_json(one.to_json(), known_prfs={"vendor": 8})


@pytest.mark.parametrize(
    "parameters",
    [
        {"key": 5},
        {"KEY": "x"},
        {"inner": {"hashing_key": 1}},
        {"many": [0, {"keys": [1]}]},
        {"blob": b"x"},
        {"x": float("nan")},
    ],
)
def test_secrets_and_nan_do_not_get_in(parameters):
    with pytest.raises(ValueError):
        record(parameters=parameters)


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": [1]},
        {"parameters": {"f": print}},
        {"anchor_fingerprint": 3},
        {"prf": ""},
        {"prf_version": "1"},
        {"format_version": True},
    ],
)
def test_wrong_types(change):
    with pytest.raises(TypeError):
        record(**change)


def test_mismatches_are_named_with_both_values():
    here = WatermarkRecord.for_key(
        "ewatermark",
        b"another key of more than 16 bytes",
        parameters={"m": 2, "partition": "hash", "delta": 0.3, "grid": [0.1, 0.2]},
        anchor_fingerprint="uniform:10",
        tokenizer_hash="abc",
    )
    assert set(record().differences(here)) == {
        "key_id",
        "parameters.m",
        "parameters.delta",
        "anchor_fingerprint",
    }
    with pytest.raises(ValueError) as caught:
        record().check_compatible(here)
    for words in ("key_id", "parameters.m is 16 in the record and 2 here", "delta", "'uniform:10'"):
        assert words in str(caught.value)
    assert "tokenizer_hash" not in str(caught.value)
    with pytest.raises(ValueError, match=r"parameters\.m"):
        record().check_compatible(here, ("key_id", "anchor_fingerprint", "parameters.delta"))
    record().check_compatible(here, ("key_id", "anchor_fingerprint", "parameters"))
    record().check_compatible(record())
    with pytest.raises(ValueError, match="unknown fields"):
        record().check_compatible(here, ("anchor",))
    with pytest.raises(TypeError, match="collection"):
        record().check_compatible(here, "key_id")


def test_tokenizer_hash():
    class Tokenizer:
        def get_vocab(self):
            return {"a": 0, "b": 1}

    assert tokenizer_hash(Tokenizer()) == tokenizer_hash({"b": 1, "a": 0})
    assert tokenizer_hash({"b": 0, "a": 1}) != tokenizer_hash({"b": 1, "a": 0})
    with pytest.raises(TypeError):
        tokenizer_hash("words")


@pytest.mark.parametrize("encoding", ["hex", "raw"])
def test_key_files(tmp_path, encoding):
    path = tmp_path / "key"
    key = generate_key()
    assert len(key) == 32
    assert key != generate_key()
    save_key(path, key, encoding)
    assert load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with pytest.raises(FileExistsError, match="never overwritten"):
        save_key(path, generate_key(), encoding)
    assert load_key(path) == key


def test_key_file_refusals(tmp_path):
    path = tmp_path / "key"
    for content in (b"", b"short", b"00112233445566", b"\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="at least 16"):
            load_key(path)
    path.write_bytes(b"  " + KEY.hex().upper().encode() + b"\r\n")
    assert load_key(path) == KEY
    path.write_bytes(b"a passphrase, long enough\n")
    assert load_key(path) == b"a passphrase, long enough\n"
    new = tmp_path / "new"
    with pytest.raises(ValueError, match="15 bytes"):
        save_key(new, bytes(15))
    with pytest.raises(TypeError):
        save_key(new, "x" * 32)
    with pytest.raises(ValueError, match="hexadecimal"):
        save_key(new, b"0123456789abcdef" * 2, "raw")
    with pytest.raises(ValueError, match="encoding"):
        save_key(new, KEY, "base64")
    assert not new.exists()
    with pytest.raises(ValueError):
        generate_key(8)
    with pytest.raises(FileNotFoundError):
        load_key(new)
