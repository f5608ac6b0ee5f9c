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
SHELL = [text for language, text in BLOCKS if not language and "modicum-pvf" in text]


def test_examples_run_in_order_and_say_what_they_should(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed = []
    namespace: dict = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), namespace)
        printed.append(capsys.readouterr().out.splitlines())
    first, streamed, costs = printed
    calls = {line.split()[0]: int(line.split()[1]) for line in first[:3]}
    assert calls["topk"] == 32 and calls["pvf"] <= 0.65 * calls["threshold"]
    assert "= 7 + 3" in first[3] or "is 7 from 3" in first[3]
    assert streamed[0].startswith("a 3 , k 7 , m 1 , t 5 , for a in 3 while")
    assert "<mask>" not in streamed[0]
    assert sum(len(line.split()[1]) for line in streamed[1:]) == 32
    assert any("| 4 |" in line for line in costs) and int(costs[-1].split()[0]) >= 6 * 16


def test_a_checkpoint_is_loaded_as_the_example_says():
    (text,) = [text for language, text in BLOCKS if not language and "load_mask_predictor" in text]
    compile(text, "README.md", "exec")
    from modicum.pvf import PVF

    assert "PVF.preset" in text and PVF.preset("general").num_drafts == 3


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    (block,) = [block for block in SHELL if "modicum-pvf compare" in block]
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
    assert "<html" in (tmp_path / "t.html").read_text()[:300]
