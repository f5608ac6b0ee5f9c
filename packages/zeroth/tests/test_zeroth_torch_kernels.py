"""The noise and adding it: known words, the law of the numbers, and the kernel in its own process.

Whether Triton interprets or compiles is decided when it is imported, so the kernel's cases stand in
``zeroth_noise_kernel_cases.py`` and are run from here in a subprocess: interpreted on any machine,
compiled where there is a CUDA device.
"""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from modicum.core.prf import philox4x32
from modicum.zeroth.torch import noise
from modicum.zeroth.torch.kernels import add_noise
from modicum.zeroth.torch.noise import CPU_CHUNK, Slot, box_muller, normals, squared_norm

CASES = Path(__file__).with_name("zeroth_noise_kernel_cases.py")

# Counter, key and result of Philox4x32-10 in the vectors that Random123 ships.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def host_words(counter, key):
    even_2C, odd_2C = noise._host_words(
        [np.array([word]) for word in counter[:3]] + [counter[3]], key
    )
    return even_2C, odd_2C


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_words_are_the_known_ones(counter, key, expected):
    tensors = [torch.tensor([word]) for word in counter[:3]] + [counter[3]]
    for even_2C, odd_2C in (host_words(counter, key), noise._device_words(tensors, key)):
        assert even_2C.reshape(-1).tolist() == [expected[0], expected[2]]
        assert odd_2C.reshape(-1).tolist() == [expected[1], expected[3]]


def test_host_and_device_arithmetic_agree():
    rng = np.random.default_rng(0)
    words = [rng.integers(0, 2**32, 5000) for _ in range(3)]
    key = (0xDEADBEEF, 0x12345678)
    host = noise._host_words([*words, 77], key)
    device = noise._device_words([torch.from_numpy(word) for word in words] + [77], key)
    for one, other in zip(host, device, strict=True):
        assert (one == other.numpy()).all()
    for one, other in zip(box_muller(*host), box_muller(*device), strict=True):
        assert one.dtype == np.float32
        assert (one == other.numpy()).all()


def test_counter_and_key_are_seed_direction_tensor_and_block():
    """Straight from the definition, one element at a time, in float64."""
    seed, direction, tensor, start = 2**40 + 17, 3_000_000_000, 12, 2**34 - 3
    got = normals(seed, direction, tensor, 12, start=start)
    for place, value in enumerate(got.tolist()):
        element = start + place
        block, lane = divmod(element, 4)
        counter = tuple(np.array([w]) for w in (block % 2**32, block >> 32, tensor, direction))
        key = tuple(np.array([w]) for w in (seed % 2**32, seed >> 32))
        words = [int(word[0]) for word in philox4x32(counter, key)]
        radius_word, angle_word = words[lane // 2 * 2 : lane // 2 * 2 + 2]
        radius = math.sqrt(-2 * math.log((radius_word + 0.5) / 2**32))
        angle = math.pi / 2 * ((angle_word & (2**30 - 1)) + 0.5) / 2**30
        sign = 1 - 2 * (angle_word >> 31 if lane % 2 == 0 else angle_word >> 30 & 1)
        expected = sign * radius * (math.cos(angle) if lane % 2 == 0 else math.sin(angle))
        assert value == pytest.approx(expected, abs=2e-6)


def test_box_muller_is_right_to_single_precision():
    rng = np.random.default_rng(1)
    radius_words = np.concatenate([rng.integers(0, 2**32, 200_000), np.arange(1000)])
    angle_words = rng.integers(0, 2**32, len(radius_words))
    cosine, sine = box_muller(radius_words, angle_words)
    radius = np.sqrt(-2 * np.log((radius_words + 0.5) / 2**32))
    angle = np.pi / 2 * ((angle_words & (2**30 - 1)) + 0.5) / 2**30
    sign = 1 - 2 * (angle_words >> 31), 1 - 2 * (angle_words >> 30 & 1)
    # Uniforms near 1 are known to 2^-24 only, which their radius of 1e-3 shows.
    far = radius > 0.05
    assert np.abs(cosine - sign[0] * radius * np.cos(angle))[far].max() < 2e-6
    assert np.abs(sine - sign[1] * radius * np.sin(angle))[far].max() < 2e-6
    assert np.abs(np.hypot(cosine, sine) - radius)[~far].max() < 1e-3


def test_extreme_words_give_finite_numbers():
    words = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
    radius_words, angle_words = (grid.reshape(-1) for grid in np.meshgrid(words, words))
    for part in box_muller(radius_words, angle_words):
        assert np.isfinite(part).all()
        assert np.abs(part).max() < 6.8


def test_numbers_are_independent_normals():
    """Each bound is six standard errors or more of a million numbers: fails below 1e-8."""
    count = 1_000_000
    z = normals(3, 1, 2, count).double().numpy()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs((z**power).mean() - mean) < 6 * math.sqrt(variance / count)
    assert stats.kstest(z, "norm").statistic < 3.5 / math.sqrt(count)  # 2 exp(-2 · 3.5²) = 5e-11
    others = {
        "next": np.roll(z, -1),
        "same block": np.roll(z, -2),
        "next block": np.roll(z, -4),
        "next direction": normals(3, 2, 2, count).double().numpy(),
        "next tensor": normals(3, 1, 3, count).double().numpy(),
        "next seed": normals(4, 1, 2, count).double().numpy(),
        "upper word of the seed": normals(3 + 2**32, 1, 2, count).double().numpy(),
    }
    for name, other in others.items():
        assert abs((z * other).mean()) < 6 / math.sqrt(count), name
        # Squares of independent normals have a product of variance 8.
        assert abs((z**2 * other**2).mean() - 1) < 6 * math.sqrt(8 / count), name
    assert abs(z).max() > 4.5


def test_parts_are_those_of_the_whole():
    count = CPU_CHUNK + 1003
    whole = normals(5, 1, 2, count)
    for start in (0, 1, 2, 3, 4, 1001, CPU_CHUNK - 1, CPU_CHUNK, CPU_CHUNK + 2):
        assert torch.equal(normals(5, 1, 2, count - start, start=start), whole[start:])
    assert torch.equal(normals(5, 1, 2, 0), whole[:0])


def test_chunks_cover_everything_once():
    slots = [
        Slot(0, 0, 3 * CPU_CHUNK + 5), Slot(1, 7, 2), Slot(2, 0, 0), Slot(3, 2, CPU_CHUNK),
        *(Slot(4 + i, 0, 1) for i in range(CPU_CHUNK // 4)),
    ]  # fmt: skip
    covered = [0] * len(slots)
    for chunk in noise.chunks(slots, torch.device("cpu")):
        assert sum(noise._blocks(part) for _, part in chunk) * 4 <= CPU_CHUNK
        for index, part in chunk:
            slot = slots[index]
            assert part.tensor == slot.tensor
            assert part.start == slot.start + covered[index]
            covered[index] += part.count
    assert covered == [slot.count for slot in slots]


def test_squared_norm_is_that_of_the_numbers():
    slots = [Slot(0, 0, CPU_CHUNK + 3), Slot(4, 2, 10)]
    parts = [normals(1, 6, s.tensor, s.count, start=s.start).double() for s in slots]
    expected = sum(float((part**2).sum()) for part in parts)
    assert squared_norm(1, 6, slots) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, r"seed must be in \[0, 2\*\*64\), got -1"),
        ({"seed": 2**64}, "seed must be"),
        ({"direction": 2**32}, r"direction must be in \[0, 2\*\*32\)"),
        ({"tensor": -3}, "tensor must be"),
        ({"count": -1}, "count must be"),
        ({"start": -1}, "start must be"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        normals(**({"seed": 0, "direction": 0, "tensor": 0, "count": 1} | changes))


# Adding it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("squares", [False, True])
def test_sum_is_taken_in_the_order_of_directions_and_rounded_once(dtype, squares):
    generator = torch.Generator().manual_seed(0)
    sizes = [(5,), (3, 100), (CPU_CHUNK + 9,)]
    sources = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
    shapes = [torch.rand(size, generator=generator) for size in sizes]
    slots = [Slot(2 * index, 3, source.numel()) for index, source in enumerate(sources)]
    targets = [torch.empty_like(source) for source in sources]
    before = [source.clone() for source in sources]
    directions, scales, decay = [4, 2, 9], [0.3, -0.7, 0.01], 0.875
    add_noise(
        targets, sources, slots, seed=5, directions=directions, scales=scales, decay=decay,
        shapes=shapes, squares=squares,
    )  # fmt: skip
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    for target, source, shape, slot in zip(targets, sources, shapes, slots, strict=True):
        total = torch.zeros(slot.count, dtype=precise)
        for direction, scale in zip(directions, scales, strict=True):
            z = normals(5, direction, slot.tensor, slot.count, start=3).to(precise)
            total = total + (z * z - 1 if squares else z) * scale
        expected = source.to(precise) * decay + (total.view(source.shape) * shape)
        assert torch.equal(target, expected.to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(sources, before, strict=True))


def test_in_place_is_the_same():
    source = torch.randn(100, generator=torch.Generator().manual_seed(0))
    target = torch.empty(100)
    options = {"seed": 1, "directions": [2], "scales": [0.5], "decay": 0.5}
    add_noise([target], [source], [Slot(0, 0, 100)], **options)
    add_noise([source], [source], [Slot(0, 0, 100)], **options)
    assert torch.equal(source, target)


def test_no_directions_only_decay():
    target = torch.ones(4)
    add_noise([target], [target], [Slot(0, 0, 4)], seed=0, directions=[], scales=[], decay=0.25)
    assert target.tolist() == [0.25] * 4
    add_noise([], [], [], seed=0, directions=[1], scales=[1.0])


def call(**changes):
    defaults = {
        "targets": [torch.zeros(4)], "sources": [torch.zeros(4)], "slots": [Slot(0, 0, 4)],
        "seed": 0, "directions": [1], "scales": [1.0],
    }  # fmt: skip
    arguments = defaults | changes
    first = [arguments.pop(name) for name in ("targets", "sources", "slots")]
    add_noise(*first, **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": []}, "1 targets, 1 sources and 0 slots"),
        ({"slots": [Slot(0, 0, 5)]}, "slot 0 has 5 elements, its target 4"),
        ({"scales": []}, "1 directions and 0 scales"),
        ({"shapes": [torch.ones(4)] * 2}, "2 shapes for 1 targets"),
        ({"shapes": [torch.ones(5)]}, "shape 0 must be float32 with 4 elements"),
        ({"shapes": [torch.ones(4).double()]}, "shape 0 must be float32"),
        ({"shapes": [torch.ones(8)[::2]]}, "shape 0 must be contiguous"),
        ({"seed": 2**64}, "seed must be"),
        ({"directions": [-1]}, "a direction must be"),
        ({"sources": [torch.zeros(4).double()]}, "source 0 is"),
        ({"sources": [torch.zeros(5)]}, "source 0 is"),
        ({"targets": [torch.zeros(8)[::2]]}, "target 0 must be contiguous"),
        ({"sources": [torch.zeros(8)[::2]]}, "source 0 must be contiguous"),
        ({"backend": "cuda"}, "backend must be"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_integers_are_refused():
    integers = [torch.zeros(4, dtype=torch.int64)]
    with pytest.raises(ValueError, match=r"target 0 is torch\.int64"):
        call(targets=integers, sources=integers)


@pytest.mark.parametrize(
    ("dtype", "message"), [(torch.float64, "takes float16"), (torch.float32, "needs a CUDA device")]
)
def test_what_the_kernel_cannot_take_is_refused(dtype, message):
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    tensors = [torch.zeros(4, dtype=dtype)]
    with pytest.raises(ValueError, match=message):
        call(targets=tensors, sources=tensors, backend="triton")


# The kernel ---------------------------------------------------------------------------------------


def test_kernel_agrees_with_the_reference_when_interpreted(run_kernel_cases):
    pytest.importorskip("triton")
    run_kernel_cases(CASES, interpret=True)


@pytest.mark.gpu
def test_kernel_agrees_with_the_reference_on_the_device(run_kernel_cases):
    run_kernel_cases(CASES, interpret=False)


@pytest.mark.gpu
def test_numbers_on_the_device_are_those_of_the_host():
    host = normals(3, 1, 2, 100_003, start=5)
    assert torch.equal(normals(3, 1, 2, 100_003, start=5, device="cuda").cpu(), host)
    slots = [Slot(0, 0, 5000)]
    assert squared_norm(3, 1, slots, "cuda") == pytest.approx(squared_norm(3, 1, slots), rel=1e-12)


@pytest.mark.parametrize(
    ("capability", "dtype", "aligned"),
    [(80, "fp32", True), (90, "bf16", True), (80, "bf16", False), (90, "fp32", False)],
)
def test_kernel_compiles_for_devices(capability, dtype, aligned, tmp_path, monkeypatch):
    """Compile to machine code for A100 and H100, which takes no device.

    Every product and sum rounds by itself, and a thread reads and writes four elements at once.
    """
    compiler = pytest.importorskip("triton.compiler")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton was imported to interpret")
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    from modicum.zeroth.torch.kernels import triton as fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = fused._add_noise_kernel
    names = kernel.arg_names
    types = dict.fromkeys(("slots_ptr", "stretches_ptr", "words_ptr"), "*i64")
    types |= {"scales_ptr": "*fp32", "num_directions": "i32", "decay": "fp32"}
    constants = {
        "DTYPE": {"fp32": tl.float32, "bf16": tl.bfloat16}[dtype],
        "ALIGNMENT": fused._ALIGNMENT if aligned else 1,
        "SHAPED": aligned,
        "SQUARES": not aligned,
        "TILE": fused._TILE,
    }
    types |= dict.fromkeys(constants, "constexpr")
    source = compiler.ASTSource(
        kernel, types, {(names.index(name),): value for name, value in constants.items()}
    )
    compiled = compiler.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": fused._WARPS, "enable_fp_fusion": False},
    )
    assert len(compiled.asm["cubin"]) > 0
    assert "fma" not in compiled.asm["ptx"]
    wide = "st.global.v4.b32" if dtype == "fp32" else "st.global.v2.b32"
    assert (wide in compiled.asm["ptx"]) == aligned
    if aligned:
        assert compiled.metadata.shared == 0  # no thread waits for another
