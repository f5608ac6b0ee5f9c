"""The package is importable and claims nothing yet."""

from importlib import import_module
from importlib.metadata import distribution


def test_imports_and_registers_no_experiment_or_command():
    module = import_module("modicum.huper")
    assert module.__all__ == []
    assert not [e for e in distribution("modicum-huper").entry_points if e.group.startswith("modicum.")]
