"""The README's examples, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modicum.huper import espeak

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
(COMMANDS,) = [text for language, text in BLOCKS if not language and "modicum-huper train" in text]


def test_examples_run_in_order_and_say_what_they_should(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    printed = []
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), namespace)
        printed.append(capsys.readouterr().out)
    first, second = printed
    assert re.search(r"^ear alone: .* L EH D ER L AE S S ", first, re.MULTILINE)
    assert re.search(r"^with text: .* L EH DX ER L AE S S ", first, re.MULTILINE)
    assert "[('sub', 'T', 'DX'), ('del', 'T', None)]" in first
    assert "(bottom-up)" in first
    assert "1 substitution, 1 deletion" in second
    assert re.search(r"^letter +T +DX ", second, re.MULTILINE)
    assert re.search(r"^PER +0\.00 %", second, re.MULTILINE)


def test_the_evidence_that_the_readme_names(capsys):
    namespace: dict = {}
    exec(compile(PYTHON[0], "README.md", "exec"), namespace)
    capsys.readouterr()
    trace = namespace["other"].trace
    assert round(trace["evidence_ratio"]) == 6 and trace["tau"] == 3.0


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    if not espeak.available():
        pytest.skip("needs espeak-ng, the program")
    pytest.importorskip("panphon")
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    # As they stand but for the length of training.
    lines = COMMANDS.replace(" --dev ", " --epochs 2 --dev ")
    done = subprocess.run(
        ["bash", "-e", "-c", lines],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "PER" in done.stdout
