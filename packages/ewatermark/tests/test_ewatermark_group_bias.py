"""The fused generation step: the reference against the scheme, the kernel in its own process.

Whether Triton interprets or compiles is decided when it is imported, so the kernel's cases stand in
``group_bias_kernel_cases.py`` and are run from here in a subprocess: interpreted on any machine,
compiled where there is a CUDA device.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.ewatermark import EWatermarkConfig
from modicum.ewatermark.kernels.group_bias import MOST_GROUPS, group_bias
from modicum.ewatermark.scheme import EWatermarkScheme

CASES = Path(__file__).with_name("group_bias_kernel_cases.py")
VOCABULARY, WIDTH = 300, 304


def make_scheme(**changes):
    config = EWatermarkConfig(key=b"0123456789abcdef", vocab_size=VOCABULARY, **changes)
    return EWatermarkScheme(config)


def make_batch(scheme, rows=4, idle=(1,), dtype=torch.float32):
    rng = np.random.default_rng(3)
    trackers = [scheme.new_tracker() for _ in range(rows)]
    for row in set(range(rows)) - set(idle):
        for token in rng.integers(0, VOCABULARY, scheme.warmup):
            trackers[row].push(int(token))
    logits_BW = torch.from_numpy(rng.normal(0, 3, (rows, WIDTH))).to(dtype)
    logits_BW[:, 5:9] = -torch.inf
    return logits_BW.log_softmax(-1), trackers


def call(scheme, logprobs_BW, trackers, backend="auto"):
    rows = [row for row, tracker in enumerate(trackers) if tracker.context() is not None]
    ids_Ac = torch.tensor([trackers[row].context() for row in rows])
    return group_bias(
        logprobs_BW,
        rows,
        None,
        scheme._part,
        scheme._part.context_state(ids_Ac),
        lambda masses_Am: scheme._seeds(ids_Ac, masses_Am),
        vocab_size=VOCABULARY,
        num_groups=scheme.config.num_groups,
        strength=scheme.config.bias,
        backend=backend,
    )


@pytest.mark.parametrize("prf", ["philox", "blake2b"])
@pytest.mark.parametrize("num_groups", [3, 16, 100])
@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_reference_is_the_schemes_torch_path(prf, num_groups, bias):
    scheme = make_scheme(prf=prf, num_groups=num_groups, bias=bias)
    logprobs_BW, trackers = make_batch(scheme, dtype=torch.float64)
    expected_BW = scheme.transform(logprobs_BW, trackers)
    got_BW = call(scheme, logprobs_BW, trackers)
    torch.testing.assert_close(got_BW, expected_BW, rtol=1e-12, atol=1e-12)
    assert torch.equal(got_BW[1], logprobs_BW[1])
    assert torch.isneginf(got_BW[0, VOCABULARY:]).all()


@pytest.mark.parametrize("num_groups", [3, 100])
def test_the_way_transform_takes_on_a_device(num_groups):
    """The same call that CUDA tensors take, here with tensors of the host."""
    scheme = make_scheme(num_groups=num_groups)
    logprobs_BW, trackers = make_batch(scheme, idle=(1, 3))
    expected_BW = scheme.transform(logprobs_BW, trackers)
    got_BW = scheme._transform_on_device(logprobs_BW, [0, 2], trackers)
    torch.testing.assert_close(got_BW, expected_BW, rtol=1e-5, atol=1e-5)


def test_input_is_left_alone():
    scheme = make_scheme()
    logprobs_BW, trackers = make_batch(scheme)
    before_BW = logprobs_BW.clone()
    call(scheme, logprobs_BW, trackers)
    assert torch.equal(logprobs_BW, before_BW)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_impossible_rows_are_named(value):
    scheme = make_scheme()
    logprobs_BW, trackers = make_batch(scheme)
    logprobs_BW[2, 3] = value
    logprobs_BW[3] = -torch.inf
    with pytest.raises(ValueError, match=r"rows \[2, 3\]"):
        call(scheme, logprobs_BW, trackers)


@pytest.mark.parametrize(
    ("changes", "dtype", "backend", "message"),
    [
        ({}, torch.float32, "cuda", "backend must be"),
        ({}, torch.float64, "triton", "float64 and 16"),
        ({"num_groups": MOST_GROUPS + 1}, torch.float32, "triton", "at most 64"),
        ({}, torch.float32, "triton", "needs a CUDA device"),
    ],
)
def test_what_a_backend_cannot_take_is_refused(changes, dtype, backend, message):
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    scheme = make_scheme(**changes)
    logprobs_BW, trackers = make_batch(scheme, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        call(scheme, logprobs_BW, trackers, backend)


def test_kernel_agrees_with_the_reference_when_interpreted(run_kernel_cases):
    pytest.importorskip("triton")
    run_kernel_cases(CASES, interpret=True)


@pytest.mark.gpu
def test_kernel_agrees_with_the_reference_on_the_device(run_kernel_cases):
    run_kernel_cases(CASES, interpret=False)


@pytest.mark.gpu
@pytest.mark.parametrize("num_groups", [2, 16, 100])
def test_transform_on_the_device_is_that_on_the_host(num_groups):
    scheme = make_scheme(
        num_groups=num_groups, **({"score": "anchored"} if num_groups == 2 else {})
    )
    logprobs_BW, trackers = make_batch(scheme)
    expected_BW = scheme.transform(logprobs_BW, trackers)
    got_BW = scheme.transform(logprobs_BW.cuda(), trackers).cpu()
    torch.testing.assert_close(got_BW, expected_BW, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("num_groups", [2, 16, 64])
def test_kernels_compile_for_devices(capability, num_groups, tmp_path, monkeypatch):
    """Compile to machine code for A100 and H100, which takes no device."""
    compiler = pytest.importorskip("triton.compiler")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    from triton.backends.compiler import GPUTarget

    from modicum.ewatermark.kernels.group_bias import triton as fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {
        "logprobs_ptr": "*fp32", "out_ptr": "*fp32", "anchor_ptr": "*fp32", "bias_ptr": "*fp32",
        "rows_ptr": "*i64", "state_ptr": "*i64",
        "masses_ptr": "*fp64", "anchor_masses_ptr": "*fp64",
    }  # fmt: skip
    block = min(2048 // num_groups, 1024)
    for kernel, constants, warps in (
        (
            fused._masses_kernel,
            {"HAS_ANCHOR": True, "GROUPS": num_groups, "BLOCK": block, "NUM_GROUPS": num_groups},
            1,
        ),
        (fused._bias_kernel, {"BLOCK": 1024, "NUM_GROUPS": num_groups}, 4),
    ):
        names = kernel.arg_names
        types = {name: pointers.get(name, "i32") for name in names}
        types |= dict.fromkeys(constants, "constexpr")
        source = compiler.ASTSource(
            kernel, types, {(names.index(name),): value for name, value in constants.items()}
        )
        compiled = compiler.compile(
            source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
        )
        assert len(compiled.asm["cubin"]) > 0
