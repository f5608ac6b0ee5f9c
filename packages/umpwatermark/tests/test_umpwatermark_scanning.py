"""Scans into a file: cut off anywhere and resumed, nothing is read twice and nothing is lost."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.umpwatermark.corpus import benjamini_hochberg
from modicum.umpwatermark.integrations.scanning import ScanFile, listed, unique_names

SETTINGS = {"key_id": "k", "weights": (0.3, 0.3)}
DOCUMENTS = [("a", "one text"), ("b", "another"), ("c", "a third")]


class Reader:
    def __init__(self):
        self.read = []

    def __call__(self, document):
        self.read.append(document)
        p = 1 / (1 + len(document))
        return {"p_value": p, "log_e_value": -float(np.log(p))}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_scan_writes_as_it_goes(tmp_path):
    path = tmp_path / "scan.jsonl"
    reader = Reader()

    def check(document):
        if reader.read:
            assert lines(path)[-1]["id"] == DOCUMENTS[len(reader.read) - 1][0]
        return reader(document)

    file = ScanFile(path, SETTINGS)
    rows = file.run(DOCUMENTS, check)
    marked = file.close("bonferroni", 0.5, rows)
    header, *kept, summary = lines(path)
    assert header["settings"]["key_id"] == "k" and kept == rows
    assert summary == {"method": "bonferroni", "alpha": 0.5, "num_documents": 3, "marked": marked}


@given(cut=st.integers(0, 400), torn=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_scan_cut_off_anywhere_is_resumed(tmp_path_factory, cut, torn):
    path = tmp_path_factory.mktemp("scan") / "scan.jsonl"
    whole = ScanFile(path, SETTINGS).run(DOCUMENTS, Reader())
    raw = path.read_bytes()
    kept = raw[: min(cut, len(raw))]
    path.write_bytes(kept if torn else kept[: kept.rfind(b"\n") + 1])
    reader = Reader()
    file = ScanFile(path, SETTINGS)
    assert file.run(DOCUMENTS, reader) == whole
    done = max(kept.count(b"\n") - 1, 0)
    assert reader.read == [text for _, text in DOCUMENTS[done:]]
    assert path.read_bytes() == raw


def test_a_changed_document_is_read_again(tmp_path):
    path = tmp_path / "scan.jsonl"
    ScanFile(path, SETTINGS).run(DOCUMENTS, Reader())
    reader, kept = Reader(), []
    file = ScanFile(path, SETTINGS)
    changed = [DOCUMENTS[0], ("b", "other words"), DOCUMENTS[2], ("d", "new")]
    file.run(changed, reader, on_kept=kept.append)
    assert reader.read == ["other words", "new"] and kept == ["one text", "a third"]
    assert ScanFile(path, SETTINGS).run(changed, pytest.fail)[1]["digest"]


def test_other_settings_and_other_files_are_refused(tmp_path):
    path = tmp_path / "scan.jsonl"
    ScanFile(path, SETTINGS).run(DOCUMENTS, Reader())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(key_id\)"):
        ScanFile(path, SETTINGS | {"key_id": "other"})
    for content in ("a text\n", '{"id": "a"}\n', "no line"):
        other = tmp_path / "other.txt"
        other.write_text(content)
        with pytest.raises(ValueError, match="not the result of a scan"):
            ScanFile(other, SETTINGS)
        assert other.read_text() == content
    assert path.read_bytes() == before


def test_without_a_file_nothing_is_kept():
    reader = Reader()
    rows = ScanFile(None, SETTINGS).run(DOCUMENTS, reader)
    assert len(rows) == len(reader.read) == 3


def test_names_become_unique():
    named = [("a", 1), ("b", 2), ("a", 3), ("a", 4)]
    assert [name for name, _ in unique_names(named)] == ["a", "b", "a#2", "a#3"]


def test_methods_agree_with_their_definitions():
    p = np.array([0.001, 0.02, 0.3, 0.011])
    rows = [{"p_value": x, "log_e_value": float(-np.log(x))} for x in p]
    assert listed(rows, "bh", 0.05).tolist() == benjamini_hochberg(p, 0.05).tolist()
    assert listed(rows, "bonferroni", 0.05).tolist() == [True, False, False, True]
    assert listed(rows, "e-bh", 0.05).tolist() == [True, True, False, True]
    weaker = [row | {"log_e_value": row["log_e_value"] - 2} for row in rows]
    assert listed(weaker, "e-bh", 0.05).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="unknown method"):
        listed(rows, "fdr", 0.05)
