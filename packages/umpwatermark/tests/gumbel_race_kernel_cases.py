"""What the fused race is held to, run by ``test_umpwatermark_kernels.py`` in a subprocess.

On the CPU when Triton interprets (TRITON_INTERPRET=1), on CUDA when it compiles. Words and winners
are equal to the reference's; totals agree to 1e-6.
"""

import numpy as np
import pytest
import torch

from modicum.core.prf import PhiloxPRF
from modicum.umpwatermark.kernels.gumbel_race import (
    gumbel_race,
    gumbel_race_match,
    reference,
)
from modicum.umpwatermark.kernels.gumbel_race import triton as fused
from modicum.umpwatermark.uniforms import uniforms_of

DEVICE = "cpu" if fused.INTERPRETED else "cuda"
KEY = b"0123456789abcdef"

# The interpreter computes with NumPy, which warns of wrapping integers, of logarithms of lanes that
# are thrown away, and of the way in which the interpreter itself reads scalars.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
]


def states(prf, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return prf.context_state(torch.randint(-1, 2**31, (rows, 4), generator=generator).to(DEVICE))


def every_row(logits_BW):
    return torch.arange(len(logits_BW), device=DEVICE)


def logits(rows, width, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(width)
    return (scale * torch.randn(rows, width, generator=generator)).to(dtype).to(DEVICE)


@pytest.mark.parametrize("bits", [24, 32])
def test_the_single_clock_stays_within_the_margin(bits):
    """Over both ends, around the switch of formulas and 200 000 random words."""
    rng = np.random.default_rng(5)
    ends = np.concatenate([np.arange(3000), 2**32 - 1 - np.arange(3000)])
    switch = 2**32 - 2**28 + np.arange(-500, 500)
    words = np.concatenate([ends, switch, rng.integers(0, 2**32, 200_000)])
    words_N = torch.from_numpy(words).to(DEVICE)
    single_N, double_N = fused.log_clocks(words_N, bits)
    expected_N = (-uniforms_of(words_N, bits).log()).log()
    torch.testing.assert_close(double_N, expected_N, rtol=1e-13, atol=1e-13)
    assert (single_N.double() - expected_N).abs().max() < 1e-5


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize(
    ("vocabulary", "width", "dtype"),
    [
        (1, 1, torch.float32),
        (257, 300, torch.float16),
        (257, 300, torch.bfloat16),
        (3001, 3008, torch.float32),
    ],
)
def test_winners_are_those_of_the_reference(bits, vocabulary, width, dtype):
    prf = PhiloxPRF.from_key(KEY, "ump")
    state_B4 = states(prf, 3, seed=vocabulary)
    logits_BW = logits(3, width, dtype)
    logits_BW[:, 1 : vocabulary // 3] = -torch.inf
    logits_BW[:, vocabulary:] = 100.0
    clock_B, winner_B = reference.race(
        logits_BW, every_row(logits_BW), prf, state_B4, vocabulary, bits
    )
    for parts in (1, 2):
        found = fused.race(
            logits_BW, every_row(logits_BW), prf, state_B4, vocabulary, bits, parts=parts
        )
        assert torch.equal(found[1], winner_B)
        torch.testing.assert_close(found[0], clock_B, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.01, 30.0, 3000.0])
def test_flat_peaked_and_large_logits(scale):
    """Flat laws make the leader change late; large logits strain the margin of float32."""
    prf = PhiloxPRF.from_key(KEY, "ump")
    state_B4 = states(prf, 4, seed=3)
    logits_BW = logits(4, 2500, scale=scale) + 7 * scale
    expected_B = gumbel_race(logits_BW, prf, state_B4, backend="torch")
    assert torch.equal(gumbel_race(logits_BW, prf, state_B4, backend="triton"), expected_B)


def test_ties_go_to_the_lowest_id():
    """Among 9000 uniforms of 24 bits some are equal; two such tokens lead with equal logits."""
    prf = PhiloxPRF.from_key(KEY, "ump")
    state_B4 = states(prf, 1)
    words = (prf.words_range(state_B4, 9000)[0] >> 8).cpu().numpy()
    values, first, counts = np.unique(words, return_index=True, return_counts=True)
    assert (counts > 1).any()
    for value, low in zip(values[counts > 1], first[counts > 1], strict=True):
        logits_BW = torch.zeros(1, 9000)
        logits_BW[0, torch.from_numpy(words == value)] = 50.0
        for parts in (1, 3):
            winner_B = fused.race(
                logits_BW.to(DEVICE), every_row(logits_BW), prf, state_B4, 9000, 24, parts=parts
            )[1]
            assert winner_B.item() == low


def test_chosen_rows():
    prf = PhiloxPRF.from_key(KEY, "ump")
    logits_BW, state_A4 = logits(5, 1500), states(prf, 2)
    for rows in ([4, 1], [2, 2]):
        expected_A = gumbel_race(logits_BW, prf, state_A4, rows=rows, backend="torch")
        got_A = gumbel_race(logits_BW, prf, state_A4, rows=rows, backend="triton")
        assert torch.equal(got_A, expected_A)


def test_a_transposed_tensor_and_a_single_possible_token():
    prf = PhiloxPRF.from_key(KEY, "ump")
    state_B4 = states(prf, 3)
    logits_BW = logits(3, 2100).T.contiguous().T
    assert logits_BW.stride(-1) != 1
    expected_B = gumbel_race(logits_BW, prf, state_B4, backend="torch")
    assert torch.equal(gumbel_race(logits_BW, prf, state_B4, backend="triton"), expected_B)
    lonely_BW = torch.full((3, 2100), -torch.inf, device=DEVICE)
    lonely_BW[torch.arange(3), torch.tensor([2099, 0, 1024])] = -500.0
    winner_B = gumbel_race(lonely_BW, prf, state_B4, backend="triton")
    assert winner_B.tolist() == [2099, 0, 1024]


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matches_and_probabilities_are_those_of_the_reference(bits, dtype):
    prf = PhiloxPRF.from_key(KEY, "ump")
    state_T4 = states(prf, 4, seed=1)
    logits_TW = logits(4, 2200, dtype)
    logits_TW[:, 100:1500] = -torch.inf
    tokens_T = gumbel_race(logits_TW, prf, state_T4, vocab_size=2190, bits=bits, backend="torch")
    tokens_T[::2] = (tokens_T[::2] + 1) % 2190
    arguments = (logits_TW, tokens_T, prf, state_T4)
    match_T, log_prob_T = gumbel_race_match(
        *arguments, vocab_size=2190, bits=bits, backend="triton"
    )
    expected = gumbel_race_match(*arguments, vocab_size=2190, bits=bits, backend="torch")
    assert torch.equal(match_T, expected[0])
    assert match_T[1::2].all()
    assert not match_T[::2].any()
    torch.testing.assert_close(log_prob_T, expected[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_impossible_rows_are_named(value):
    prf = PhiloxPRF.from_key(KEY, "ump")
    logits_BW = logits(3, 40)
    logits_BW[2, 17] = value
    logits_BW[1] = -torch.inf
    with pytest.raises(ValueError, match=r"rows \[1, 2\]"):
        gumbel_race(logits_BW, prf, states(prf, 3), backend="triton")


def test_no_rows():
    prf = PhiloxPRF.from_key(KEY, "ump")
    assert gumbel_race(logits(0, 10), prf, states(prf, 0), backend="triton").shape == (0,)
