"""The fused search of blocks: its front door here, its cases in a process of their own.

Whether Triton interprets or compiles is decided when it is imported, so the kernel's cases stand in
``daved_block_best_kernel_cases.py`` and are run from here in a subprocess: interpreted on any
machine, compiled where there is a CUDA device.
"""

import os
from pathlib import Path

import pytest
import torch

from modicum.daved.kernels.block_best import block_best, reference

CASES = Path(__file__).with_name("daved_block_best_kernel_cases.py")


def case(n=300, d=6, g=3, m=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, d, generator=generator).to(dtype)
    return rows, torch.randn(g, m, d, generator=generator)


def test_kernel_agrees_with_float64_when_interpreted(run_kernel_cases):
    pytest.importorskip("triton")
    run_kernel_cases(CASES, interpret=True)


@pytest.mark.gpu
def test_kernel_agrees_with_float64_on_the_device(run_kernel_cases):
    run_kernel_cases(CASES, interpret=False)


def test_chunks_change_nothing(monkeypatch):
    rows, directions = case(n=1000)
    expected = block_best(rows, directions)
    monkeypatch.setitem(reference._VALUES_OF_A_CHUNK, "cpu", 3 * 128 * 6)
    found = block_best(rows, directions)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0])


def test_double_rows_are_scored_in_double():
    rows, directions = case(dtype=torch.float64)
    value, _ = block_best(rows, directions.double())
    best = torch.einsum("nd,gmd->gnm", rows, directions.double()).square().sum(2)[:, :128].amax(1)
    torch.testing.assert_close(value[:, 0], best, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "cuda"}, "backend must be"),
        ({"backend": "triton"}, "needs a CUDA device"),
        ({"rows_nd": torch.ones(3, 5)}, "directions have 6 features, but rows 5"),
        ({"rows_nd": torch.ones(0, 6)}, r"none of them 0; got \(0, 6\)"),
        ({"rows_nd": torch.ones(3, 6).double()}, "directions must be torch.float64"),
        ({"rows_nd": torch.ones(3, 6).double(), "backend": "triton"}, "must be torch.float64"),
        ({"rows_nd": torch.ones(6, 3).T, "backend": "triton"}, "neighbouring features"),
        ({"directions_gmd": torch.ones(1, 129, 6), "backend": "triton"}, "at most 128 directions"),
        ({"factor_n": torch.ones(4)}, r"factor has shape \(4,\) for 300 rows"),
        ({"factor_n": torch.ones(300).double()}, "factor must be torch.float32"),
    ],
)
def test_what_it_cannot_take_is_refused(changes, message):
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    rows, directions = case()
    with pytest.raises(ValueError, match=message):
        block_best(**{"rows_nd": rows, "directions_gmd": directions, **changes})


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("rows", ["*fp32", "*bf16"])
@pytest.mark.parametrize(("g", "m"), [(1, 1), (100, 1), (2, 128)])
def test_kernel_compiles_for_devices(capability, rows, g, m, tmp_path, monkeypatch):
    """Compile to machine code for A100 and H100, which takes no device."""
    compiler = pytest.importorskip("triton.compiler")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    from triton.backends.compiler import GPUTarget

    from modicum.daved.kernels.block_best import triton as fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {
        "rows_ptr": rows, "columns_ptr": "*fp32", "factor_ptr": "*fp32",
        "value_ptr": "*fp32", "index_ptr": "*i64",
    }  # fmt: skip
    filled, buyers = fused.tile_of(g, m)
    options = fused.options_of(filled * buyers)
    constants = {"WITH_FACTOR": True, "M": filled, "BUYERS": buyers, "ROWS": 128}
    constants["FEATURES"] = options.pop("FEATURES")
    names = fused._block_best_kernel.arg_names
    types = {name: pointers.get(name, "i32") for name in names}
    types |= dict.fromkeys(constants, "constexpr")
    source = compiler.ASTSource(
        fused._block_best_kernel,
        types,
        {(names.index(name),): value for name, value in constants.items()},
        # As Triton finds for tensors of torch, and sizes that are multiples of 16.
        {(index,): [["tt.divisibility", 16]] for index in range(8)},
    )
    compiled = compiler.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert len(compiled.asm["cubin"]) > 0
    # Products are made on tensor cores, and what a block of either device may share holds them.
    assert "mma" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= (163 if capability == 80 else 227) * 1024
