"""The generated corpus is the same everywhere, well formed and varied; stdlib prose is readable."""

import hashlib
import itertools
import re
import subprocess
import sys

import pytest

from modicum.core.watermark import corpus_text
from modicum.core.watermark.corpus_text import document, documents, stdlib_text

# SHA-256 of documents 0 … 49 of corpus 0. The shipped models were trained on exactly this text:
# who changes the generator trains the models again and then changes this line.
FIRST_FIFTY = "218ca6a09da8f6bb9c9c6a011a3f3079c9b165d0d5a91b1f9ac87d7e898d5302"


def test_text_is_what_the_models_were_trained_on():
    text = "\0".join(itertools.islice(documents(0), 50))
    assert hashlib.sha256(text.encode()).hexdigest() == FIRST_FIFTY


def test_text_does_not_depend_on_the_process():
    program = (
        "from modicum.core.watermark.corpus_text import document; print(document(3, 7), end='')"
    )
    other = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)},
    )
    assert other.stdout == document(3, 7)


def test_every_rule_that_is_named_exists_and_every_slot_is_filled():
    slots = set(corpus_text._Writer(0, 0).slots)
    for name, templates in corpus_text._RULES.items():
        assert len(set(templates)) == len(templates), name
        for template in templates:
            assert set(re.findall(r"\[(\w+)\]", template)) <= set(corpus_text._RULES), template
            assert set(re.findall(r"\{(\w+)\}", template)) <= slots, template


@pytest.mark.parametrize("seed", [0, 1, 20_000])
def test_documents_are_well_formed(seed):
    for text in itertools.islice(documents(seed), 200):
        assert text.isascii()
        assert text == text.strip()
        assert 300 < len(text) < 6000
        assert not re.search(r"[\[\]{}<>]|  | [.,;?!]|\ba [aeiou]", text)
        assert text.count('"') % 2 == 0
        for paragraph in text.split("\n\n")[1:]:
            assert paragraph[0].isupper() or paragraph[0].isdigit() or paragraph[0] == '"'


def test_documents_are_varied():
    texts = list(itertools.islice(documents(5), 300))
    assert len(set(texts)) == 300
    assert len(set(re.findall(r"[a-z]+", " ".join(texts)))) > 1000
    sentences = re.findall(r"[A-Z][^.?!]{40,}[.?!]", " ".join(texts))
    assert len(set(sentences)) > 0.95 * len(sentences)


def test_documents_can_be_read_from_the_middle():
    assert next(documents(4, start=9)) == document(4, 9)
    assert document(4, 9) != document(5, 9)
    with pytest.raises(ValueError, match="index must be at least 0, got -1"):
        document(0, -1)


@pytest.mark.parametrize("max_chars", [1, 100, 5000, 50_001])
def test_corpus_text_has_the_length_asked_for(max_chars):
    text = corpus_text.corpus_text(max_chars, seed=8)
    assert len(text) == max_chars
    assert document(8, 0).startswith(text[:400])


@pytest.mark.parametrize("make", [lambda n: corpus_text.corpus_text(n, 0), stdlib_text])
def test_nothing_is_not_a_length(make):
    with pytest.raises(ValueError, match="max_chars must be at least 1, got 0"):
        make(0)


def test_stdlib_text_is_prose_of_the_running_interpreter():
    text = stdlib_text(60_000)
    assert 50_000 < len(text) <= 60_000
    assert text == stdlib_text(70_000)[: len(text)]
    assert len(set(re.findall(r"[a-z]{3,}", text))) > 1000


def test_stdlib_text_says_when_there_are_no_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(corpus_text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="no standard library sources"):
        stdlib_text(100)
