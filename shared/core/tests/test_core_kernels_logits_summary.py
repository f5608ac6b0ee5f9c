"""The logits summary against float64 NumPy, and the fused kernel in a process of its own.

Whether Triton interprets or compiles is decided when it is imported, so the kernel's cases stand
in ``logits_summary_kernel_cases.py`` and are run from here in a subprocess: interpreted on any
machine, compiled where there is a CUDA device.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modicum.core.kernels.logits_summary import LogitsSummary, logits_summary

CASES = Path(__file__).with_name("logits_summary_kernel_cases.py")
FIELDS = (
    "max",
    "argmax",
    "second_max",
    "margin",
    "log_sum_exp",
    "entropy",
    "top1_log_prob",
    "token_log_prob",
)


def numpy_summary(row_V, token):
    """Compute one row's summary from the definitions, in float64, probabilities written out."""
    row_V = np.asarray(row_V, dtype=np.float64)
    descending = sorted(row_V, reverse=True)
    first, second = descending[0], descending[1] if len(row_V) > 1 else -np.inf
    summary = {"max": first, "argmax": int(np.argmax(row_V)), "second_max": second}
    summary["margin"] = 0.0 if first == second else first - second
    if first == -np.inf:
        summary |= {"log_sum_exp": -np.inf, "entropy": 0.0, "top1_log_prob": -np.inf}
        return summary | {"token_log_prob": -np.inf}
    weights_V = np.exp(row_V - first)
    probabilities_V = weights_V / weights_V.sum()
    present_V = probabilities_V[probabilities_V > 0]
    log_total = np.log(weights_V.sum())
    return summary | {
        "log_sum_exp": first + log_total,
        "entropy": -(present_V * np.log(present_V)).sum(),
        "top1_log_prob": -log_total,
        "token_log_prob": row_V[token] - first - log_total,
    }


def assert_is(summary: LogitsSummary, row: int, expected: dict, tolerance: float) -> None:
    for name, value in expected.items():
        got = getattr(summary, name).reshape(-1)[row].item()
        if name == "argmax" or np.isinf(value):
            assert got == value, name
        else:
            assert got == pytest.approx(value, rel=tolerance, abs=tolerance), name


# Values on a coarse grid make ties; -inf makes masked entries and, now and then, masked rows.
ENTRIES = st.one_of(
    st.integers(-8, 8).map(lambda n: n / 2),
    st.floats(-60, 60, width=32),
    st.just(-np.inf),
)
LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 70)), elements=ENTRIES)


@settings(deadline=None, max_examples=80)
@given(logits=LOGITS, data=st.data())
def test_summary_follows_the_definitions(logits, data):
    rows, vocabulary = logits.shape
    tokens = data.draw(hnp.arrays(np.int64, rows, elements=st.integers(0, vocabulary - 1)))
    summary = logits_summary(torch.from_numpy(logits), token_ids=torch.from_numpy(tokens))
    for row in range(rows):
        assert_is(summary, row, numpy_summary(logits[row], tokens[row]), 3e-6)


@settings(deadline=None, max_examples=40)
@given(logits=LOGITS, data=st.data())
def test_double_precision_in_is_double_precision_out(logits, data):
    rows, vocabulary = logits.shape
    tokens = data.draw(hnp.arrays(np.int64, rows, elements=st.integers(0, vocabulary - 1)))
    summary = logits_summary(
        torch.from_numpy(logits.astype(np.float64)), token_ids=torch.from_numpy(tokens)
    )
    assert summary.entropy.dtype == torch.float64
    for row in range(rows):
        assert_is(summary, row, numpy_summary(logits[row], tokens[row]), 1e-12)


@settings(deadline=None, max_examples=50)
@given(
    logits=hnp.arrays(np.float32, (2, 40), elements=st.floats(-20, 20, width=32)),
    suppress=st.lists(st.integers(0, 39), max_size=40),
)
def test_suppressed_ids_are_minus_infinity(logits, suppress):
    masked = logits.copy()
    masked[:, suppress] = -np.inf
    tokens = torch.tensor([0, 39])
    ours = logits_summary(torch.from_numpy(logits), token_ids=tokens, suppress=suppress)
    theirs = logits_summary(torch.from_numpy(masked), token_ids=tokens)
    for name in FIELDS:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocabulary", [1, 2, 1000, 50_257, 262_144])
def test_every_dtype_is_summed_in_single_precision(dtype, vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (torch.randn(3, vocabulary, generator=generator) * 3).to(dtype)
    tokens = torch.tensor([0, vocabulary - 1, vocabulary // 2])
    summary = logits_summary(logits, token_ids=tokens)
    assert summary.max.dtype == summary.entropy.dtype == torch.float32
    assert summary.argmax.dtype == torch.int64
    for row in range(3):
        assert_is(summary, row, numpy_summary(logits[row].double(), tokens[row]), 3e-6)


def test_uniform_and_two_point_laws_have_their_closed_forms():
    uniform = logits_summary(torch.full((1, 126_464), 7.5))
    assert uniform.entropy.item() == pytest.approx(np.log(126_464), rel=1e-6)
    assert uniform.margin.item() == uniform.probability_margin.item() == 0.0
    assert uniform.argmax.item() == 0
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, 17], logits[0, 900] = np.log(0.25), np.log(0.75)
    two = logits_summary(logits, token_ids=torch.tensor([17]))
    assert two.argmax.item() == 900
    assert two.top1_prob.item() == pytest.approx(0.75, rel=1e-6)
    assert two.probability_margin.item() == pytest.approx(0.5, rel=1e-6)
    assert two.token_log_prob.exp().item() == pytest.approx(0.25, rel=1e-6)
    assert two.entropy.item() == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75), rel=1e-6)


def test_more_rows_than_a_chunk_come_back_in_order():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(7, 300, 1000, generator=generator)
    summary = logits_summary(logits)
    assert summary.max.shape == (7, 300)
    torch.testing.assert_close(summary.max, logits.amax(-1), rtol=0, atol=0)
    torch.testing.assert_close(summary.log_sum_exp, logits.logsumexp(-1))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (5,), (2, 3, 4, 5)])
def test_leading_shapes_are_kept(shape):
    summary = logits_summary(
        torch.zeros(shape), token_ids=torch.zeros(shape[:-1], dtype=torch.int32)
    )
    for name in FIELDS:
        assert getattr(summary, name).shape == shape[:-1], name


def test_result_carries_no_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    summary = logits_summary(logits)
    assert not any(getattr(summary, name).requires_grad for name in FIELDS[:-1])
    assert summary.token_log_prob is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(2, 0)}, ValueError, "V >= 1, got shape \\(2, 0\\)"),
        ({"logits": torch.tensor(1.0)}, ValueError, "V >= 1, got shape \\(\\)"),
        ({"logits": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "got torch.int64"),
        ({"logits": [[0.0]]}, TypeError, "torch.Tensor, got list"),
        ({"token_ids": torch.zeros(3, dtype=torch.int64)}, ValueError, "\\(2,\\), got \\(3,\\)"),
        ({"token_ids": torch.zeros(2)}, TypeError, "token_ids must be an int32 or int64"),
        ({"token_ids": [0, 1]}, TypeError, "got list"),
        ({"suppress": [4]}, ValueError, "ids in \\[0, 4\\), got 4"),
        ({"suppress": [-1]}, ValueError, "got -1"),
        ({"suppress": torch.zeros(1, 1, dtype=torch.int64)}, ValueError, "one-dimensional"),
        ({"backend": "cuda"}, ValueError, "got 'cuda'"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    arguments = {"logits": torch.zeros(2, 4)} | change
    with pytest.raises(error, match=message):
        logits_summary(arguments.pop("logits"), **arguments)


def test_triton_is_refused_where_it_cannot_run():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="takes float16"):
        logits_summary(torch.zeros(2, 4, dtype=torch.float64), backend="triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(ValueError, match="logits on cpu"):
            logits_summary(torch.zeros(2, 4), backend="triton")


def test_core_does_not_bring_torch_into_memory():
    code = "import sys, modicum.core, modicum.core.kernels; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernel_agrees_with_the_reference_when_interpreted(run_kernel_cases):
    pytest.importorskip("triton")
    run_kernel_cases(CASES, interpret=True)


@pytest.mark.gpu
def test_kernel_agrees_with_the_reference_on_the_device(run_kernel_cases):
    run_kernel_cases(CASES, interpret=False)


@pytest.mark.gpu
def test_a_cuda_graph_captures_the_call():
    logits = torch.zeros(4, 128_256, dtype=torch.bfloat16, device="cuda")
    suppress = torch.tensor([3], device="cuda")
    logits_summary(logits, suppress=suppress)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = logits_summary(logits, suppress=suppress)
    logits.normal_(generator=torch.Generator("cuda").manual_seed(0))
    logits[:, 3] = 100.0
    graph.replay()
    expected = logits_summary(logits, suppress=suppress, backend="torch")
    assert torch.equal(captured.argmax, expected.argmax)
    torch.testing.assert_close(captured.entropy, expected.entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", ["whole rows", "parts of rows", "combine"])
def test_kernels_compile_with_wide_pipelined_loads(kernel, capability, tmp_path, monkeypatch):
    """Compile to machine code for A100 and H100, which takes no device.

    Vocabulary, strides and the address of the logits are multiples of 16, as real ones are; what is
    pinned is that half-precision logits then move in 16-byte copies ahead of the arithmetic.
    """
    compiler = pytest.importorskip("triton.compiler")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    from triton.backends.compiler import GPUTarget

    from modicum.core.kernels.logits_summary import triton as fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"stride_v": 1, "HAS_TOKENS": True, "HAS_SUPPRESS": True}
    if kernel == "combine":
        function, warps = fused._combine_kernel, 1
        constants |= {"BLOCK_PARTS": 16}
    else:
        function, warps = fused._summary_kernel, fused._WARPS
        constants |= {"SPLIT": kernel == "parts of rows", "UNROLL": 2}
        constants |= {"BLOCK": fused._BLOCK, "STAGES": fused._STAGES}
    names = function.arg_names
    types = dict.fromkeys(names, "i32")
    types |= {"logits_ptr": "*bf16", "stride_o": "i64", "stride_i": "i64"}
    types |= {"token_ptr": "*i64", "suppress_ptr": "*i64", "argmax_ptr": "*i64"}
    types |= {"floats_ptr": "*fp32", "partial_ptr": "*fp32", "partial_index_ptr": "*i32"}
    types |= dict.fromkeys(constants, "constexpr")
    aligned = {"logits_ptr", "stride_o", "stride_i", "vocabulary", "part_length"} & set(names)
    source = compiler.ASTSource(
        function,
        types,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = compiler.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
    )
    assert len(compiled.asm["cubin"]) > 0
    if kernel != "combine":
        assert "cp.async.cg.shared.global" in compiled.asm["ptx"]
