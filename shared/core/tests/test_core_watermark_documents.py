"""Folders, JSON lines, Parquet and streams as a command line reads them."""

import io
import json
import sys

import numpy as np
import pytest

from modicum.core.watermark.adapters.documents import BLOCK, chunks, documents, numbers
from modicum.core.watermark.adapters.parquet import read_texts


def test_streamed_tokens_are_those_of_the_whole_text():
    pytest.importorskip("transformers")
    from modicum.core.watermark.adapters.loading import load_tokenizer

    tokenizer = load_tokenizer("tiny")
    rng = np.random.default_rng(0)
    alphabet = list("ab cd  e\nf,. \t'é→")
    for _ in range(40):
        text = "".join(rng.choice(alphabet, size=int(rng.integers(1, 300))))
        streamed = [i for c in chunks(io.StringIO(text), tokenizer, whole=False) for i in c]
        assert streamed == tokenizer.encode(text, add_special_tokens=False), repr(text)


def test_a_whole_text_comes_in_blocks_and_ids_line_by_line():
    text = "x" * (2 * BLOCK + 3)
    parts = list(chunks(io.StringIO(text), lambda t: list(t.encode()), whole=True))
    assert [len(part) for part in parts] == [BLOCK, BLOCK, 3]
    lines = io.StringIO("1 2\n3\n[4, 5]")
    assert list(chunks(lines, None, whole=False)) == [[1, 2], [3], [4, 5]]
    assert list(chunks(io.StringIO("1 2\n3"), None, whole=True)) == [[1, 2, 3]]


def test_numbers_are_read_with_any_separator():
    assert numbers("[1, -2 3]\n4") == [1, -2, 3, 4]
    with pytest.raises(ValueError, match="must be integers, got 'three'"):
        numbers("1 2 three")


def test_folders_and_json_lines(tmp_path):
    folder = tmp_path / "docs"
    (folder / "b").mkdir(parents=True)
    (folder / "z.txt").write_text("last")
    (folder / "b" / "a.txt").write_text("first")
    assert list(documents(folder, "text", "modicum-x")) == [("b/a.txt", "first"), ("z.txt", "last")]
    lines = tmp_path / "docs.jsonl"
    lines.write_text(json.dumps({"text": "one"}) + "\n" + json.dumps({"id": "x", "text": "two"}))
    assert list(documents(lines, "text", "modicum-x")) == [("1", "one"), ("x", "two")]
    for content, words in (
        ("{", "docs.jsonl:1 is not JSON"),
        ("[]", "has no field 'text'"),
        ('{"text": 3}', "field 'text' is not text"),
    ):
        lines.write_text(content)
        with pytest.raises(ValueError, match=words):
            list(documents(lines, "text", "modicum-x"))
    with pytest.raises(ValueError, match="does not exist"):
        list(documents(tmp_path / "absent", "text", "modicum-x"))
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match="neither a folder"):
        list(documents(tmp_path / "a.csv", "text", "modicum-x"))


def test_without_pyarrow_the_error_names_the_package_that_was_called(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "docs.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=r'pip install "modicum-x\[parquet\]"'):
        list(documents(tmp_path / "docs.parquet", "text", "modicum-x"))


def test_parquet_files_are_read_in_batches(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "docs.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "n": [1, 2]}), path)
    assert list(read_texts(path, "text", "modicum-x")) == [("0", "a"), ("1", "b")]
    assert list(documents(path, "text", "modicum-x")) == [("0", "a"), ("1", "b")]
    with pytest.raises(ValueError, match="no column 'body'"):
        list(read_texts(path, "body", "modicum-x"))


def test_a_parquet_row_that_is_no_text_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "docs.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(ValueError, match=r"docs\.parquet, row 1: column 'text' is not text"):
        list(read_texts(path, "text", "modicum-x"))
