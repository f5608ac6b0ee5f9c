"""The model that is shipped: small, of the public inventory, and right about words it never saw."""

import json
from importlib import resources
from pathlib import Path

import pytest

from modicum.huper.phones import PhoneSet
from modicum.huper.tiny import TinyConvCTC
from modicum.huper.training import Labelled, error_rate

FOLDER = Path(str(resources.files("modicum.huper") / "data" / "tiny-en"))
WORLD = Path(__file__).parent / "data" / "huper_world"


@pytest.fixture(scope="module")
def model():
    return TinyConvCTC.from_pretrained(FOLDER)


def corpus(name, field):
    for line in (WORLD / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Labelled(WORLD / row["audio_path"], tuple(row[field]), id=row["id"])


def test_is_small_and_of_the_public_inventory(model):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5e6
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert model.phones == PhoneSet.arpabet39()
    assert f"{sum(one.numel() for one in model.parameters()):,}" in (
        FOLDER / "README.md"
    ).read_text(encoding="utf-8")


def test_hears_what_is_said_and_not_what_the_dictionary_says(model):
    # Thirty utterances of words and speakers that are in no training set of it; deterministic.
    said = [*corpus("labelled", "real_phonemes"), *corpus("test", "real_phonemes")]
    canonical = [*corpus("labelled", "phonemes"), *corpus("test", "phonemes")]
    assert error_rate(model, said) < 0.08
    assert error_rate(model, canonical) > 2 * error_rate(model, said)
