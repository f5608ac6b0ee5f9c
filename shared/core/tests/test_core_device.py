"""Devices, dtypes, seeds and the description of the hardware, with torch and without it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.device import (
    describe_hardware,
    deterministic,
    multiprocessors,
    numpy_generator,
    one_thread,
    resolve_device,
    resolve_dtype,
    torch_generator,
)

HAS_CUDA = torch.cuda.is_available()
PINNED_NUMPY = [484882477, 1308748868]
PINNED_TORCH = [2362848603, 1923221207]


def test_auto_takes_cuda_if_it_is_there():
    assert resolve_device() == resolve_device("auto") == ("cuda" if HAS_CUDA else "cpu")


def test_devices_are_taken_by_name_and_by_object():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device(torch.device("cpu")) == "cpu"
    assert resolve_device("cpu:0") == "cpu"
    assert resolve_device("meta") == "meta"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "AUTO", "None"])
def test_unknown_devices_are_named(name):
    with pytest.raises(ValueError, match="device must be"):
        resolve_device(name)


def test_absent_devices_are_named():
    with pytest.raises(ValueError, match="cuda:99"):
        resolve_device("cuda:99")
    if not HAS_CUDA:
        with pytest.raises(ValueError, match="'cuda' is not available here"):
            resolve_device("cuda")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("float64", torch.float64),
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("float16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes_are_taken_by_name_and_by_object(written, meant):
    assert resolve_dtype("cpu", written) is meant


def test_automatic_dtype_is_single_precision_on_the_cpu():
    assert resolve_dtype("cpu") is resolve_dtype("cpu", "auto") is torch.float32


@pytest.mark.gpu
def test_automatic_dtype_is_half_precision_on_a_gpu():
    assert resolve_dtype("cuda") in (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("wrong", ["half", "int8", torch.int64])
def test_wrong_dtypes_are_named(wrong):
    with pytest.raises(ValueError, match="dtype must be"):
        resolve_dtype("cpu", wrong)


def test_a_seed_without_a_stream_is_the_library_s_own():
    assert numpy_generator(7).random() == np.random.default_rng(7).random()
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.rand(3, generator=torch_generator(7)), expected)


STREAMS = st.lists(st.one_of(st.integers(0, 2**32 - 1), st.text(max_size=5)), max_size=3)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**63 - 1), first=STREAMS, second=STREAMS)
def test_streams_are_repeatable_and_distinct(seed, first, second):
    def draw(stream):
        numbers = numpy_generator(seed, *stream).integers(2**63, size=2).tolist()
        tensor = torch.randint(2**62, (2,), generator=torch_generator(seed, "cpu", *stream))
        return numbers, tensor.tolist()

    assert draw(first) == draw(first)
    if first != second:
        numbers, tensor = draw(first)
        other_numbers, other_tensor = draw(second)
        # 126 bits: equal by chance less often than once in 1e37 draws.
        assert numbers != other_numbers
        assert tensor != other_tensor


def test_streams_are_pinned():
    """Results on disk depend on these numbers, on every machine and in every release."""
    assert numpy_generator(0, "bootstrap", 3).integers(2**32, size=2).tolist() == PINNED_NUMPY
    drawn = torch.randint(2**32, (2,), generator=torch_generator(0, "cpu", "bootstrap", 3))
    assert drawn.tolist() == PINNED_TORCH


@pytest.mark.parametrize("make", [numpy_generator, torch_generator])
def test_wrong_seeds_are_named(make):
    with pytest.raises(ValueError, match="got -1"):
        make(-1)
    with pytest.raises(ValueError, match="got 9223372036854775808"):
        make(2**63)
    with pytest.raises(TypeError, match="got float"):
        make(1.0)
    with pytest.raises(TypeError, match="got bool"):
        make(True)


def test_wrong_streams_are_named():
    with pytest.raises(ValueError, match="got 4294967296"):
        numpy_generator(0, 2**32)
    with pytest.raises(TypeError, match=r"got 0\.5"):
        numpy_generator(0, 0.5)


def test_global_generators_are_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    torch_generator(5, "cpu", "x")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("already", [None, ":16:8"])
def test_determinism_is_set_and_restored(already, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if already:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", already)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with pytest.raises(KeyError), deterministic(warn_only=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (already or ":4096:8")
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == already


def test_an_operation_without_a_deterministic_version_raises_inside():
    def put():
        return torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))

    with deterministic(), pytest.raises(RuntimeError, match="deterministic"):
        put()
    put()


def test_hardware_is_described_in_json():
    hardware = describe_hardware()
    assert json.loads(json.dumps(hardware)) == hardware
    assert hardware["cores"] >= 1
    assert hardware["memory_gib"] is None or hardware["memory_gib"] > 0.1
    assert hardware["cpu"]
    assert hardware["versions"]["numpy"] == np.__version__
    assert hardware["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert len(hardware["gpus"]) == (torch.cuda.device_count() if HAS_CUDA else 0)


WITHOUT_TORCH = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
sys.modules["torch"] = None
from modicum.core.device import *
assert resolve_device() == resolve_device("cpu") == "cpu"
numpy_generator(0, "a").random()
with deterministic():
    pass
assert describe_hardware()["gpus"] == []
for function, argument in ((resolve_device, "cuda"), (resolve_dtype, "cpu"), (torch_generator, 0)):
    try:
        function(argument)
    except ImportError as error:
        assert 'pip install "modicum-core[torch]"' in str(error), error
    else:
        raise AssertionError("no ImportError")
"""


def test_everything_that_can_works_without_torch():
    subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_TORCH], check=True)


def test_import_and_cpu_leave_torch_out_of_memory():
    code = (
        "import sys; from modicum.core.device import *; resolve_device('cpu'); "
        "numpy_generator(1); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_thread_is_undone_also_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_cpu_counts_as_one_multiprocessor():
    assert multiprocessors(torch.device("cpu")) == 1
