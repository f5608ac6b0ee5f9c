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
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    # The example samples its first tokens from the global generator; here always the same ones.
    torch.manual_seed(0)
    assert len(PLAIN) == 4 and len(ENGINE) == 1
    namespace: dict = {}
    printed = []
    for block in PLAIN:
        exec(compile(block, "README.md", "exec"), namespace)
        printed.append(capsys.readouterr().out.splitlines())
    plan, detected, optimum, streams = printed
    assert any(line.startswith("| UMP optimum") for line in plan)
    assert [line.split()[0] for line in detected] == ["True"] * 3
    assert all(float(line.split()[1]) <= 1e-3 for line in detected)
    assert [round(float(x), 4) for x in optimum[0].split()] == [0.4, 0.3]
    # Misses of 1000 draws from a law with error 0.4; outside of this with probability below 1e-6.
    assert abs(float(optimum[1].split()[0]) - 0.4) < 0.08
    assert [round(float(x), 5) for x in re.findall(r"[\d.]+", optimum[2])] == [0.43111] * 2
    assert "[ True False]" in streams[1]
    assert float(streams[2]) < 1e-3


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    (block,) = [b for b in SHELL if "keygen" in b]
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
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.vllm
def test_engine_example_runs(tmp_path):
    code = PLAIN[1] + ENGINE[0]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(float(p) < 1e-3 for p in done.stdout.split()[-2:])
