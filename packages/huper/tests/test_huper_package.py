"""The package as it is imported: no engine, every name there, what it has registered."""

import json
import subprocess
import sys
from importlib.metadata import distribution

import pytest

import modicum.huper as package
from modicum.huper import audio

LOADED = """
import json, sys
{statement}
heavy = ("torch", "torchaudio", "transformers", "scipy", "pandas", "panphon", "matplotlib", "rich",
         "accelerate", "onnxruntime", "ray", "flashlight", "soundfile")
print(json.dumps([m for m in heavy if m in sys.modules]))
"""


def loaded(statement: str) -> list[str]:
    code = LOADED.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_no_engine():
    assert loaded("import modicum.huper") == []
    # The command line brings its own output.
    assert loaded("import modicum.huper.cli") == ["rich"]


def test_a_recognizer_needs_torch_and_no_engine():
    heavy = loaded("from modicum.huper import HuPER, Recognizer, Scheduler, metrics, pronounce")
    assert set(heavy) <= {"torch", "torchaudio", "scipy", "soundfile"}


def test_every_public_name_is_there():
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'huge'"):
        package.huge  # noqa: B018


def test_the_example_is_a_recording_of_two_seconds():
    samples, rate = audio.read(package.EXAMPLE)
    assert rate == 16_000 and 2.0 < samples.shape[0] / rate < 2.5


def test_registers_its_experiments_and_commands():
    entries = {entry.group: entry.value for entry in distribution("modicum-huper").entry_points}
    assert entries["modicum.experiments"] == "modicum.huper.cli:EXPERIMENTS"
    assert entries["modicum.commands"] == "modicum.huper.cli:app"
    assert entries["console_scripts"] == "modicum.huper.cli:main"
