import doctest
from pathlib import Path

import pytest

import modicum.core.report.numbers

README = Path(__file__).parents[1] / "README.md"


def test_every_example_of_the_readme_gives_what_it_shows(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = doctest.testfile(str(README), module_relative=False, encoding="utf-8")
    assert outcome.failed == 0
    # What is fenced as an example is one: a block without prompts would be shown but not run.
    blocks = README.read_text(encoding="utf-8").split("```python\n")[1:]
    assert len(blocks) == 6
    assert all(block.startswith(">>> ") for block in blocks)
    assert outcome.attempted >= 25


def test_examples_in_docstrings():
    outcome = doctest.testmod(modicum.core.report.numbers)
    assert (outcome.failed, outcome.attempted) == (0, 2)
