"""Which tests run where, and what engines and kernels of all packages are tested with.

Markers of hardware and engine; vLLM in the process of its tests; kernel tests, interpreted or
compiled, in a process of their own.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def _has_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any(item.get_closest_marker("gpu") for item in items) and not _has_cuda():
        _skip(items, "gpu", "no CUDA device")
    if find_spec("vllm") is None:
        _skip(items, "vllm", "vllm is not installed")
    if not config.getoption("--slow"):
        _skip(items, "slow", "slow: give --slow, or make test SLOW=1")
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.xdist_group("vllm"))


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def vllm_here() -> Iterator[SimpleNamespace]:
    """vLLM, quiet, on the CPU, in this process with one thread, and the shipped target outside it.

    An engine that a test starts must be shut down before this ends.
    """
    patch = pytest.MonkeyPatch()
    for name, value in {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }.items():
        patch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine's own
        import torch
        from vllm import LLM, SamplingParams
        from vllm.distributed import cleanup_dist_env_and_memory

        from modicum.core.watermark.adapters.tiny_lm import load_tiny, tiny_path

        model, tokenizer = load_tiny("target", device="cpu")
        # One thread: the models are tiny, and vLLM makes torch deaf to later requests.
        patch.setattr(torch, "set_num_threads", torch.set_num_threads)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
    yield SimpleNamespace(
        LLM=LLM,
        SamplingParams=SamplingParams,
        torch=torch,
        model=model,
        tokenizer=tokenizer,
        path=str(tiny_path("target")),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleanup_dist_env_and_memory()
    patch.undo()
    torch.set_num_threads(threads)


@pytest.fixture
def run_kernel_cases() -> Callable[[Path, bool], None]:
    """Run a file of kernel tests in a process of its own: Triton reads TRITON_INTERPRET once."""

    def run(cases: Path, interpret: bool) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment["TRITON_INTERPRET"] = "1" if interpret else "0"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, str(cases)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert " passed" in done.stdout
        assert "skipped" not in done.stdout

    return run
