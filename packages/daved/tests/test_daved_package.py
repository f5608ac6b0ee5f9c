"""The package is importable and claims nothing yet."""

import re
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_imports_and_registers_no_experiment_or_command():
    assert import_module("modicum.daved").__all__ == []
    groups = {entry.group for entry in distribution("modicum-daved").entry_points}
    assert not {group for group in groups if group.startswith("modicum.")}


def test_example_of_the_readme_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    exec(compile(block, str(README), "exec"), {})
    assert len(capsys.readouterr().out.split()) > 3
