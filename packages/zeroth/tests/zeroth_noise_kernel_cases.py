"""What the fused noise is held to, run by ``test_zeroth_torch_kernels.py`` in a subprocess.

On the CPU when Triton interprets (TRITON_INTERPRET=1), on CUDA when it compiles.
"""

import os

import pytest
import torch

from modicum.zeroth.torch.kernels import add_noise
from modicum.zeroth.torch.noise import Slot, normals

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# The interpreter computes with NumPy, which warns of wrapping integers and of the way in which the
# interpreter itself reads scalars.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
]


def both(sources, slots, **options):
    """Return what the torch version writes on the host, and the kernel on the device."""
    results = []
    for backend, device in (("torch", "cpu"), ("triton", DEVICE)):
        there = [source.to(device) for source in sources]
        targets = [torch.full_like(source, 7.0) for source in there]
        shapes = options.get("shapes")
        if shapes is not None:
            options["shapes"] = [shape.to(device) for shape in shapes]
        add_noise(targets, there, slots, backend=backend, **options)
        results.append([target.cpu() for target in targets])
    return results


def assert_same_bits(expected, got):
    for one, other in zip(expected, got, strict=True):
        if one.dtype == torch.bfloat16 and INTERPRETED:
            # The interpreter cuts bits off where devices round to nearest.
            a, b = one.view(torch.int16).int(), other.view(torch.int16).int()
            assert int((a - b).abs().max()) <= 1
        else:
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("squares", "shaped"), [(False, False), (True, True)])
def test_every_element_is_that_of_the_reference(dtype, squares, shaped):
    generator = torch.Generator().manual_seed(1)
    sizes = [(1,), (3, 5), (512,), (2, 300)]
    sources = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
    slots = [Slot(3 * index, 0, source.numel()) for index, source in enumerate(sources)]
    shapes = [torch.rand(size, generator=generator) for size in sizes] if shaped else None
    assert_same_bits(
        *both(
            sources,
            slots,
            seed=2**63 + 12345,
            directions=[5, 2**32 - 1],
            scales=[0.37, -1.2],
            decay=0.9,
            shapes=shapes,
            squares=squares,
        )
    )


@pytest.mark.parametrize(("seed", "tensor"), [(2**32, 2**31), (2**64 - 1, 2**32 - 1)])
def test_extreme_words(seed, tensor):
    source = torch.zeros(9)
    noise = {"seed": seed, "directions": [2**31 + 1], "scales": [1.0]}
    expected, got = both([source], [Slot(tensor, 0, 9)], **noise)
    assert_same_bits(expected, got)
    assert torch.equal(expected[0], normals(seed, 2**31 + 1, tensor, 9))


@pytest.mark.parametrize("start", [3, 16_128, 2**34 - 300])
def test_parts_of_tensors(start):
    """Starts inside blocks and tiles, across programs, and across the counter's first word."""
    sources = [torch.randn(600, generator=torch.Generator().manual_seed(2)), torch.zeros(7)]
    slots = [Slot(4, start, 600), Slot(5, start, 7)]
    assert_same_bits(*both(sources, slots, seed=9, directions=[3], scales=[0.5]))


def test_addresses_that_are_not_aligned_and_nothing():
    buffer = torch.randn(601, generator=torch.Generator().manual_seed(3))
    sources = [buffer[1:], buffer[:0]]
    assert_same_bits(
        *both(
            sources,
            [Slot(0, 0, 600), Slot(1, 0, 0)],
            seed=0,
            directions=[1],
            scales=[0.1],
            decay=0.0,
        )
    )


def test_in_place():
    there = torch.randn(70, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    expected = there.clone()
    noise = {"seed": 6, "directions": [8], "scales": [-0.25]}
    add_noise([expected], [there], [Slot(2, 0, 70)], backend="torch", **noise)
    add_noise([there], [there], [Slot(2, 0, 70)], backend="triton", **noise)
    assert_same_bits([expected.cpu()], [there.cpu()])


def test_mixed_dtypes_in_one_call():
    sources = [torch.ones(30), torch.ones(30, dtype=torch.float16)]
    slots = [Slot(0, 0, 30), Slot(1, 0, 30)]
    assert_same_bits(*both(sources, slots, seed=0, directions=[1], scales=[1.0]))
