"""The fused race: the reference against the samplers, the kernel in its own process.

Whether Triton interprets or compiles is decided when it is imported, so the kernel's cases stand in
``gumbel_race_kernel_cases.py`` and are run from here in a subprocess: interpreted on any machine,
compiled where there is a CUDA device.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.kernels.gumbel_race import gumbel_race, gumbel_race_match
from modicum.umpwatermark.samplers.gumbel import GumbelSampler, gumbel_argmax, gumbel_match
from modicum.umpwatermark.uniforms import make_uniforms

CASES = Path(__file__).with_name("gumbel_race_kernel_cases.py")
V = 300
ENGINES = [("philox", b"0123456789abcdef"), ("blake2b", b"0123456789abcdef"), ("vllm-philox", 42)]


def batch(prf, key, rows=6):
    uniforms = make_uniforms(UMPWatermarkConfig(key=key, vocab_size=V, prf=prf))
    rng = np.random.default_rng(3)
    state = uniforms.context_state(torch.from_numpy(rng.integers(-1, V, (rows, 4))))
    logits = torch.from_numpy(rng.normal(0, 3, (rows, V)))
    logits[:, 5:9] = -torch.inf
    return uniforms, state, logits.log_softmax(-1)


@pytest.mark.parametrize(("prf", "key"), ENGINES)
def test_reference_is_gumbel_max_of_the_keyed_uniforms(prf, key):
    uniforms, state, logits = batch(prf, key)
    expected = gumbel_argmax(logits, uniforms.uniforms(state, V))
    got = gumbel_race(logits, uniforms.philox, state, bits=uniforms.bits)
    assert torch.equal(got, expected)
    match, log_prob = gumbel_race_match(
        logits + 5, expected, uniforms.philox, state, bits=uniforms.bits
    )
    assert match.all()
    torch.testing.assert_close(log_prob, logits.gather(1, expected[:, None])[:, 0])


def test_chosen_rows_are_those_of_the_whole():
    uniforms, state, logits = batch(*ENGINES[0])
    expected = gumbel_race(logits, uniforms.philox, state)
    got = gumbel_race(logits, uniforms.philox, state[[4, 1]], rows=[4, 1])
    assert torch.equal(got, expected[[4, 1]])
    logits[1] = -torch.inf
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        gumbel_race(logits, uniforms.philox, state[[4, 1]], rows=[4, 1])


def test_columns_beyond_the_vocabulary_never_win():
    uniforms, state, logits = batch(*ENGINES[0])
    wide = torch.nn.functional.pad(logits, (0, 4), value=100.0)
    expected = gumbel_race(logits, uniforms.philox, state)
    assert torch.equal(gumbel_race(wide, uniforms.philox, state, vocab_size=V), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_impossible_rows_are_named(value):
    uniforms, state, logits = batch(*ENGINES[0])
    logits[2, 3] = value
    logits[4] = -torch.inf
    with pytest.raises(ValueError, match=r"rows \[2, 4\]"):
        gumbel_race(logits, uniforms.philox, state)


@pytest.mark.parametrize(
    ("changes", "dtype", "message"),
    [
        ({"backend": "cuda"}, torch.float32, "backend must be"),
        ({"backend": "triton"}, torch.float64, "float64"),
        ({"backend": "triton"}, torch.float32, "needs a CUDA device"),
        ({"vocab_size": V + 1}, torch.float32, r"\[1, 300\], got 301"),
        ({"vocab_size": 0}, torch.float32, r"\[1, 300\], got 0"),
    ],
)
def test_what_it_cannot_take_is_refused(changes, dtype, message):
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    uniforms, state, logits = batch(*ENGINES[0])
    with pytest.raises(ValueError, match=message):
        gumbel_race(logits.to(dtype), uniforms.philox, state, **changes)


def test_kernel_agrees_with_the_reference_when_interpreted(run_kernel_cases):
    pytest.importorskip("triton")
    run_kernel_cases(CASES, interpret=True)


@pytest.mark.gpu
def test_kernel_agrees_with_the_reference_on_the_device(run_kernel_cases):
    run_kernel_cases(CASES, interpret=False)


@pytest.mark.gpu
@pytest.mark.parametrize(("prf", "key"), ENGINES)
def test_sampler_and_match_on_the_device_are_those_on_the_host(prf, key):
    uniforms, state, logits = batch(prf, key)
    logits = logits.float()
    expected = GumbelSampler().choose(logits, state, uniforms)
    got = GumbelSampler().choose(logits.cuda(), state.cuda(), uniforms)
    assert torch.equal(got.cpu(), expected)
    tokens = expected.clone()
    tokens[::2] = 0
    match = gumbel_match(logits.cuda(), tokens.cuda(), state.cuda(), uniforms)
    assert torch.equal(match.cpu(), gumbel_match(logits, tokens, state, uniforms))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("logits", ["*fp32", "*bf16"])
@pytest.mark.parametrize(("with_total", "bits"), [(False, 32), (True, 24)])
def test_kernel_compiles_for_devices(capability, logits, with_total, bits, tmp_path, monkeypatch):
    """Compile to machine code for A100 and H100, which takes no device."""
    compiler = pytest.importorskip("triton.compiler")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    from triton.backends.compiler import GPUTarget

    from modicum.umpwatermark.kernels.gumbel_race import triton as fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {
        "logits_ptr": logits, "rows_ptr": "*i64", "state_ptr": "*i64",
        "clock_ptr": "*fp64", "winner_ptr": "*i32",
        "peak_ptr": "*fp32", "total_ptr": "*fp32",
    }  # fmt: skip
    constants = {"WITH_TOTAL": with_total, "BITS": bits, "BLOCK": 1024}
    names = fused._race_kernel.arg_names
    types = {name: pointers.get(name, "i32") for name in names}
    types |= dict.fromkeys(constants, "constexpr")
    source = compiler.ASTSource(
        fused._race_kernel,
        types,
        {(names.index(name),): value for name, value in constants.items()},
    )
    compiled = compiler.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}
    )
    assert len(compiled.asm["cubin"]) > 0
    # Philox stays integer arithmetic, and the float64 logarithm is there for close calls.
    assert "mul.hi.u32" in compiled.asm["ptx"]
