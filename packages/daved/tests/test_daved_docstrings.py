"""Examples in docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import modicum.daved.errors

ROOT = Path(modicum.daved.errors.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("modicum.daved", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_examples_are_found():
    assert {"modicum.daved.estimator", "modicum.daved.select"} <= set(WITH_EXAMPLES)


@pytest.mark.filterwarnings("ignore::modicum.daved.errors.DAVEDWarning")
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
