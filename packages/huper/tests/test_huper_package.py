"""The package is importable, and registers what it has."""

from importlib import import_module
from importlib.metadata import distribution


def test_imports():
    assert import_module("modicum.huper").__all__ == []


def test_registers_its_experiments_and_commands():
    entries = {entry.group: entry.value for entry in distribution("modicum-huper").entry_points}
    assert entries["modicum.experiments"] == "modicum.huper.cli:EXPERIMENTS"
    assert entries["modicum.commands"] == "modicum.huper.cli:app"
    assert entries["console_scripts"] == "modicum.huper.cli:main"
