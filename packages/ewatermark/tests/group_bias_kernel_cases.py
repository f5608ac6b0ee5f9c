"""What the fused step is held to, run by ``test_ewatermark_group_bias.py`` in a subprocess.

On the CPU when Triton interprets (TRITON_INTERPRET=1), on CUDA when it compiles. Words and groups
are equal to those of the PRF bit for bit; masses agree to 1e-6 and biased log-probabilities to the
rounding of their dtype.
"""

import numpy as np
import pytest
import torch

from modicum.core.prf import PhiloxPRF
from modicum.ewatermark import EWatermarkConfig
from modicum.ewatermark.kernels.group_bias import group_bias, reference
from modicum.ewatermark.kernels.group_bias import triton as fused
from modicum.ewatermark.scheme import EWatermarkScheme

DEVICE = "cpu" if fused.INTERPRETED else "cuda"
KEY = b"0123456789abcdef"

# The interpreter computes with NumPy, which warns of wrapping integers and of the way in which the
# interpreter itself reads scalars.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
]


def states(prf, rows):
    generator = torch.Generator().manual_seed(rows)
    return prf.context_state(torch.randint(-1, 2**31, (rows, 4), generator=generator).to(DEVICE))


def log_probs(rows, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)
    return (3 * torch.randn(rows, width, generator=generator)).log_softmax(-1).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("vocabulary", "width"), [(5, 5), (257, 300), (256, 256), (1101, 1104)])
@pytest.mark.parametrize("num_groups", [2, 3, 16])
def test_masses_and_biased_rows_follow_the_reference(dtype, vocabulary, width, num_groups):
    prf = PhiloxPRF.from_key(KEY, "part")
    state_A4 = states(prf, 2)
    logprobs_BW = log_probs(3, width, dtype)
    logprobs_BW[:, 1 : vocabulary // 3] = -torch.inf
    anchor_AV = log_probs(2, vocabulary, torch.float64)
    anchor_AV[1, vocabulary // 2 :] = -torch.inf
    rows_A = torch.tensor([2, 0], device=DEVICE)
    hashed = (rows_A, prf, state_A4, vocabulary, num_groups)
    expected = reference.hashed_masses(logprobs_BW, anchor_AV, *hashed)
    for parts in (1, 3):
        got = fused.hashed_masses(logprobs_BW, anchor_AV, *hashed, parts=parts)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    target_Am, none = fused.hashed_masses(logprobs_BW, None, *hashed)
    assert none is None
    torch.testing.assert_close(target_Am, expected[0], rtol=0, atol=1e-6)

    bias_Am = torch.linspace(-3, 3, 2 * num_groups, dtype=torch.float64, device=DEVICE)
    bias_Am = bias_Am.reshape(2, num_groups)
    bias_Am[0, 1] = -torch.inf
    got_BW = fused.add_hashed_bias(logprobs_BW, bias_Am, *hashed)
    expected_BW = reference.add_hashed_bias(logprobs_BW, bias_Am, *hashed)
    assert got_BW.dtype == dtype
    # Half precision: one rounding of a float32 sum against one of a float64 sum.
    ulp = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(got_BW, expected_BW, rtol=ulp, atol=ulp)
    assert torch.equal(torch.isinf(got_BW), torch.isinf(expected_BW))
    assert torch.equal(got_BW[1], logprobs_BW[1])


def test_sixty_four_groups_and_a_transposed_tensor():
    prf = PhiloxPRF.from_key(KEY, "part")
    state_A4 = states(prf, 2)
    logprobs_BW = log_probs(2, 300).T.contiguous().T
    assert logprobs_BW.stride(-1) != 1
    hashed = (torch.tensor([0, 1], device=DEVICE), prf, state_A4, 300, 64)
    expected = reference.hashed_masses(logprobs_BW, None, *hashed)
    got = fused.hashed_masses(logprobs_BW, None, *hashed)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    bias_Am = torch.arange(128.0, device=DEVICE).reshape(2, 64)
    torch.testing.assert_close(
        fused.add_hashed_bias(logprobs_BW, bias_Am, *hashed),
        reference.add_hashed_bias(logprobs_BW, bias_Am, *hashed),
    )


@pytest.mark.parametrize("num_groups", [2, 16])
@pytest.mark.parametrize("with_anchor", [False, True])
def test_whole_step_is_the_schemes(num_groups, with_anchor):
    """Held to the scheme's NumPy path: same seeds, biased rows to float32 rounding."""
    vocabulary, width, context = 600, 604, 4
    changes = {"score": "anchored"} if num_groups == 2 else {}
    config = EWatermarkConfig(
        key=KEY, vocab_size=vocabulary, num_groups=num_groups, context_width=context, **changes
    )
    scheme = EWatermarkScheme(config)
    logprobs_BW = log_probs(3, width)
    logprobs_BW[:, vocabulary:] = -torch.inf
    logprobs_BW = logprobs_BW.log_softmax(-1)
    anchor_AV = log_probs(2, vocabulary).flip(-1) if with_anchor else None
    rng = np.random.default_rng(7)
    trackers = [scheme.new_tracker() for _ in range(3)]
    for row in (0, 2):
        for token in rng.integers(0, vocabulary, config.warmup):
            trackers[row].push(int(token))
    scheme.anchor_log_probs = lambda windows, like: (
        None if anchor_AV is None else anchor_AV.cpu().numpy()
    )
    expected_BW = scheme.transform(logprobs_BW.cpu().numpy(), trackers)

    ids_Ac = torch.tensor([trackers[row].context() for row in (0, 2)], device=DEVICE)
    got_BW = group_bias(
        logprobs_BW,
        [0, 2],
        anchor_AV,
        scheme._part,
        scheme._part.context_state(ids_Ac),
        lambda masses_Am: scheme._seeds(ids_Ac, masses_Am),
        vocab_size=vocabulary,
        num_groups=num_groups,
        backend="triton",
    )
    np.testing.assert_allclose(got_BW.cpu().numpy(), expected_BW, rtol=1e-5, atol=1e-5)
    sums_A = got_BW[[0, 2]].double().exp().sum(-1).cpu()
    torch.testing.assert_close(sums_A, torch.ones_like(sums_A), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_impossible_rows_are_named(value):
    prf = PhiloxPRF.from_key(KEY, "part")
    logprobs_BW = log_probs(3, 40)
    logprobs_BW[2, 17] = value
    logprobs_BW[1] = -torch.inf
    with pytest.raises(ValueError, match=r"rows \[2, 1\]"):
        group_bias(
            logprobs_BW,
            [2, 0, 1],
            None,
            prf,
            states(prf, 3),
            lambda masses_Am: torch.zeros(len(masses_Am), dtype=torch.int64, device=DEVICE),
            vocab_size=40,
            num_groups=4,
            backend="triton",
        )
