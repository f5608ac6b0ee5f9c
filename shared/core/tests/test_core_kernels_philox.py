"""The words that kernels hash are those of the PRF, interpreted on any machine or on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("philox_kernel_cases.py")


def run_kernel_cases(interpret: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["TRITON_INTERPRET"] = "1" if interpret else "0"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(CASES)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_words_are_those_of_the_prf_when_interpreted():
    pytest.importorskip("triton")
    run_kernel_cases(interpret=True)


@pytest.mark.gpu
def test_words_are_those_of_the_prf_when_compiled():
    run_kernel_cases(interpret=False)
