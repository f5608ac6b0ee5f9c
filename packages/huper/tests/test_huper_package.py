"""The package is importable and claims nothing yet."""

from importlib import import_module
from importlib.metadata import distribution


def test_imports_and_registers_no_experiment_or_command():
    assert import_module("modicum.huper").__all__ == []
    groups = {entry.group for entry in distribution("modicum-huper").entry_points}
    assert not {group for group in groups if group.startswith("modicum.")}
