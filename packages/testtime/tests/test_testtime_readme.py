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
SHELL = [text for language, text in BLOCKS if not language]
ENGINE = [block for block in PYTHON if "vllm import" in block]
PLAIN = [block for block in PYTHON if "vllm import" not in block]


def test_examples_run_in_order_and_say_what_they_should(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert len(PLAIN) == 4 and len(ENGINE) == 1
    namespace: dict = {}
    printed = []
    for block in PLAIN:
        exec(compile(block, "README.md", "exec"), namespace)
        printed.append(capsys.readouterr().out.splitlines())
    first, numbers, verified, network = printed
    assert [line.split()[:2] for line in first[:2]] == [["42", "True"]] * 2
    assert all(float(line.split()[2]) >= 0.95 for line in first[:2])
    used = sum(int(line.split()[3]) for line in first[:2])
    assert int(first[2].split()[0]) == 400 - namespace["results"].usage.submitted
    assert used <= namespace["results"].usage.submitted
    assert numbers[:2] == ["54", "14"] and numbers[2].startswith("False 0.918")
    # Enumerated elsewhere: success of 15 votes, and of votes among 5 of 8 + 5 + 2 recorded ones.
    assert [round(float(x), 6) for x in numbers[3].split()] == [0.778198, 0.689977]
    assert int(verified[0].split()[0]) >= 1 and verified[1].startswith("True [(")
    assert network[0].endswith("00001111") and network[0].startswith("[0, 1, 2, 3, 3")


def run(code_or_commands, tmp_path, *program):
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [*program, code_or_commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    (block,) = [b for b in SHELL if "modicum-testtime plan" in b]
    run(block, tmp_path, "bash", "-e", "-c")


@pytest.mark.slow
@pytest.mark.vllm
def test_engine_example_runs(tmp_path):
    code = f"import modicum.testtime as tt\n{ENGINE[0]}"
    answer, used, logged = run(code, tmp_path, sys.executable, "-c").split()[-3:]
    assert answer and 1 <= int(used) <= 32 and logged == "True"
