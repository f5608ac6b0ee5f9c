"""The words that kernels hash are those of the PRF, interpreted on any machine or on a GPU."""

from pathlib import Path

import pytest

CASES = Path(__file__).with_name("philox_kernel_cases.py")


def test_words_are_those_of_the_prf_when_interpreted(run_kernel_cases):
    pytest.importorskip("triton")
    run_kernel_cases(CASES, interpret=True)


@pytest.mark.gpu
def test_words_are_those_of_the_prf_when_compiled(run_kernel_cases):
    run_kernel_cases(CASES, interpret=False)
