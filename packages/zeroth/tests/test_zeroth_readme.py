"""The README's examples, run as they stand."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if not language and "modicum-zeroth" in text]


def test_examples_run_in_order_and_say_what_they_should(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    printed = []
    namespace: dict = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), namespace)
        printed.append(capsys.readouterr().out.splitlines())
    first, planned, told, studied, trained = printed
    # Noise of 1 and 20,000 evaluations: the regret of 1.3e-3 that is predicted is 0.04 away.
    point = [float(value) for value in re.findall(r"-?\d+\.?\d*", first[0])]
    assert point == pytest.approx([0.3, -0.2, 0.5], abs=0.15) and first[0].endswith("True")
    assert any(line.startswith("budget T ") and "1,484,950" in line for line in planned)
    assert told[0].endswith("True (3, 3)")
    assert re.search(r"'decay': 0\.[345]", studied[0]) and "'rate': 0.00" in studied[0]
    before, after = map(float, trained[0].split(" -> "))
    assert after < before and trained[1] == "True"


def test_the_spec_is_one(tmp_path):
    from modicum.zeroth.integrations.command import load_spec

    (text,) = [text for language, text in BLOCKS if language == "toml"]
    path = tmp_path / "spec.toml"
    path.write_text(text)
    assert load_spec(path).names == tuple(tomllib.loads(text)["start"])


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    (block,) = [block for block in SHELL if "modicum-zeroth plan" in block]
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
