"""What the fused kernel is held to, run by ``test_core_kernels_logits_summary.py`` in a subprocess.

On the CPU when Triton interprets (TRITON_INTERPRET=1), on CUDA when it compiles. Maxima, indices
and margins are equal to the reference's bit for bit; sums are in another order and, on a device,
use its approximate exponential and logarithm, so they agree to 1e-5 (absolute or relative).
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modicum.core.kernels.logits_summary import logits_summary
from modicum.core.kernels.logits_summary.reference import logits_summary_reference
from modicum.core.kernels.logits_summary.triton import (
    INTERPRETED,
    _fold_leading,
    _part_length,
    logits_summary_triton,
)

DEVICE = "cpu" if INTERPRETED else "cuda"
EXACT = ("max", "argmax", "second_max", "margin")
TOLERANCE = 1e-5

# The interpreter computes with NumPy, which warns of the infinities and NaN that are tested here,
# and of the way in which the interpreter itself reads scalars.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning"),
]


def assert_agree(logits, token_ids=None, suppress=None, **options):
    fused = logits_summary_triton(logits, token_ids, suppress, **options)
    plain = logits_summary_reference(logits, token_ids, suppress)
    assert fused.keys() == plain.keys()
    for name, expected in plain.items():
        tolerance = 0.0 if name in EXACT else TOLERANCE
        assert fused[name].dtype == expected.dtype
        torch.testing.assert_close(
            fused[name],
            expected,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def random_logits(*shape, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocabulary", [1, 2, 255, 256, 257, 1500])
@pytest.mark.parametrize("parts", [1, 3])
def test_dtypes_and_lengths(dtype, vocabulary, parts):
    logits = random_logits(2, vocabulary, dtype=dtype)
    tokens = torch.tensor([0, vocabulary - 1], device=DEVICE)
    assert_agree(logits, tokens, parts=parts, block=256)


@pytest.mark.parametrize(("vocabulary", "parts"), [(50_257, None), (126_464, 7), (262_144, 1)])
def test_real_vocabularies_with_the_default_tiles(vocabulary, parts):
    logits = random_logits(1, vocabulary, dtype=torch.bfloat16)
    assert_agree(logits, torch.tensor([vocabulary - 1], device=DEVICE), parts=parts)


@pytest.mark.parametrize("parts", [1, 4])
def test_rising_falling_and_constant_rows(parts):
    rising = torch.linspace(-40, 40, 1000, device=DEVICE)
    logits = torch.stack([rising, rising.flip(0), torch.zeros_like(rising)])
    assert_agree(logits, parts=parts, block=64)


@pytest.mark.parametrize("parts", [1, 3])
def test_ties_take_the_lowest_index_across_lanes_tiles_and_parts(parts):
    logits = torch.zeros(4, 300, device=DEVICE)
    logits[0, [7, 9]] = 5.0
    logits[1, [40, 290]] = 5.0
    logits[2, [130, 131, 250]] = 5.0
    assert_agree(logits, parts=parts, block=32)
    fused = logits_summary_triton(logits, None, None, parts=parts, block=32)
    assert fused["argmax"].tolist() == [7, 40, 130, 0]
    assert fused["margin"].tolist() == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("parts", [1, 4])
def test_masked_entries_tiles_and_rows(parts):
    logits = random_logits(5, 200)
    logits[0] = -torch.inf
    logits[1, :150] = -torch.inf
    logits[2, 50:] = -torch.inf
    logits[3] = -torch.inf
    logits[3, 177] = -3.0
    tokens = torch.tensor([3, 3, 3, 3, 3], device=DEVICE)
    assert_agree(logits, tokens, parts=parts, block=32)
    fused = logits_summary_triton(logits, tokens, None, parts=parts, block=32)
    empty = {name: field[0].item() for name, field in fused.items()}
    assert empty == {
        "max": -np.inf,
        "argmax": 0,
        "second_max": -np.inf,
        "margin": 0.0,
        "log_sum_exp": -np.inf,
        "entropy": 0.0,
        "top1_log_prob": -np.inf,
        "token_log_prob": -np.inf,
    }
    assert fused["argmax"][3].item() == 177
    assert fused["entropy"][3].item() == 0.0


@pytest.mark.parametrize("parts", [1, 4])
def test_infinite_and_undefined_entries(parts):
    logits = random_logits(6, 200)
    logits[0, 100] = torch.nan
    logits[1, [60, 190]] = torch.nan
    logits[2, 70] = torch.inf
    logits[3, [20, 150]] = torch.inf
    logits[4, 10], logits[4, 180] = torch.inf, torch.nan
    logits[5] = torch.nan
    assert_agree(logits, torch.full((6,), 70, device=DEVICE), parts=parts, block=32)
    fused = logits_summary_triton(logits, None, None, parts=parts, block=32)
    assert fused["argmax"].tolist() == [100, 60, 70, 20, 180, 0]
    assert fused["log_sum_exp"][2:4].tolist() == [np.inf, np.inf]
    assert fused["entropy"].isnan().all()


@pytest.mark.parametrize("magnitude", [1e4, 1e30, 3e38])
@pytest.mark.parametrize("parts", [1, 4])
def test_large_magnitudes(magnitude, parts):
    logits = random_logits(3, 150).sign() * magnitude
    logits[1] = -magnitude
    logits[2] = magnitude
    assert_agree(logits, torch.zeros(3, dtype=torch.int64, device=DEVICE), parts=parts, block=32)


@pytest.mark.parametrize("parts", [1, 3])
def test_suppressed_ids_and_unknown_tokens(parts):
    logits = random_logits(4, 300)
    logits[:, 11] = 50.0
    logits[0, 299] = torch.nan
    suppress = torch.tensor([299, 11, -4, 300, 11], device=DEVICE)
    tokens = torch.tensor([0, 11, -1, 300], dtype=torch.int32, device=DEVICE)
    assert_agree(logits, tokens, suppress, parts=parts, block=32)
    fused = logits_summary_triton(logits, tokens, suppress, parts=parts, block=32)
    assert fused["token_log_prob"][1].item() == -np.inf
    assert fused["token_log_prob"].isnan().tolist() == [False, False, True, True]


def test_more_suppressed_ids_than_are_unrolled():
    suppress = torch.arange(3, 90, 7, device=DEVICE)
    assert_agree(random_logits(2, 100), suppress=suppress, parts=2, block=32)


def test_everything_suppressed_is_a_masked_row():
    logits = random_logits(2, 20)
    everything = torch.arange(20, device=DEVICE)
    assert_agree(logits, suppress=everything, parts=2, block=16)
    fused = logits_summary_triton(logits, None, everything, parts=2, block=16)
    assert fused["max"].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1:3],
        lambda x: x[:, ::2],
        lambda x: x.transpose(0, 1),
        lambda x: x[:, :, :6].transpose(1, 2),
        lambda x: x[..., 3:-5:2],
        lambda x: x[:, 1],
        lambda x: x[0, 1],
        lambda x: x[None, :, :, None],
        lambda x: x[:1].expand(5, -1, -1),
        lambda x: x[:0],
    ],
    ids=lambda view: None,
)
def test_strided_views(view):
    logits = view(random_logits(2, 3, 40))
    tokens = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=DEVICE)
    assert_agree(logits, tokens, parts=1, block=64)


def test_slices_of_positions_are_not_copied():
    logits = random_logits(3, 8, 100)
    for view in (logits, logits[:, 2:5], logits[0], logits[0, 0], logits[None, :, 1:3]):
        assert _fold_leading(view).data_ptr() == view.data_ptr()


@pytest.mark.parametrize("rows", [1, 7, 5000])
@pytest.mark.parametrize("vocabulary", [1, 2048, 126_464, 262_144])
def test_parts_cover_the_row_and_few_rows_are_split(rows, vocabulary):
    device = torch.device(DEVICE)
    length = _part_length(rows, vocabulary, 2048, None, device)
    parts = -(-vocabulary // length)
    assert length % 2048 == 0
    assert (parts - 1) * length < vocabulary <= parts * length
    if rows == 5000:
        assert parts == 1
    if rows == 1 and vocabulary > 100_000:
        assert parts > 1


def test_front_door_reaches_the_kernel():
    logits = random_logits(2, 70)
    fused = logits_summary(logits, suppress=[3], backend="triton")
    plain = logits_summary(logits, suppress=[3], backend="torch")
    assert torch.equal(fused.argmax, plain.argmax)
    torch.testing.assert_close(fused.entropy, plain.entropy, rtol=TOLERANCE, atol=TOLERANCE)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    logits=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(1, 60)),
        elements=st.one_of(
            st.integers(-8, 8).map(lambda n: n / 2),
            st.floats(-60, 60, width=32),
            st.sampled_from([-np.inf, np.float32(3e38), np.float32(-3e38)]),
        ),
    ),
    parts=st.integers(1, 3),
    suppress=st.lists(st.integers(0, 59), max_size=3),
)
def test_any_row_agrees(logits, parts, suppress):
    assert_agree(
        torch.from_numpy(logits).to(DEVICE),
        suppress=torch.tensor(suppress, dtype=torch.int64, device=DEVICE),
        parts=parts,
        block=16,
    )
