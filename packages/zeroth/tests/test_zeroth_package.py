"""The package is importable and registers its experiments and commands."""

from importlib.metadata import distribution


def test_registers_experiments_and_commands():
    entries = {entry.group: entry for entry in distribution("modicum-zeroth").entry_points}
    assert entries["modicum.commands"].load().info.help
    names = [experiment.name for experiment in entries["modicum.experiments"].load()]
    assert len(set(names)) == 10
