"""The README's examples, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
(COMMANDS,) = [
    text for language, text in BLOCKS if not language and "modicum-repcomplexity report" in text
]


def test_examples_run_in_order_and_say_what_they_should(tmp_path, monkeypatch, capsys):
    for needed in ("gymnasium", "mujoco", "torch", "pysat", "matplotlib"):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    printed = []
    namespace: dict = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), namespace)
        printed.append(capsys.readouterr().out)
    first, made, boolean, measured = printed
    assert first.startswith("Q* is above zero for 60.2% of states and actions\n")
    assert re.search(r"^depth-2 terms +model +5 +Q\* +174 +model easier$", first, re.MULTILINE)
    assert (tmp_path / "majority.json").exists()
    assert made.split()[-1] == str(1 << 20)
    assert boolean.startswith("3 terms; [0.5 0.5 0.5] influences\n")
    assert "upper=4" in boolean and "228 gates, depth 8" in boolean
    assert (tmp_path / "model.aag").read_text().startswith("aag ")
    assert "easier" in measured or "metric" in measured
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    # Training an expert takes minutes; the rest is run as it stands.
    lines = [line for line in COMMANDS.splitlines() if " mujoco " not in line]
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("majority.md", "sizes.png", "rows.npz", "measured/measurement.json", "q.aag"):
        assert (tmp_path / name).stat().st_size > 0
