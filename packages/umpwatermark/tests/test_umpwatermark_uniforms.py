"""Keyed uniforms: published words, an independent HMAC, NumPy = torch, uniform and independent."""

import hashlib
import hmac
import struct

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.uniforms import HMACPRF, make_uniforms, uniform24, uniforms_of

KEYS = {
    "philox": b"0123456789abcdef",
    "blake2b": b"0123456789abcdef",
    "vllm-philox": 42,
    "vllm-hmac": 42,
}
V = 257


def make(prf, **changes):
    return make_uniforms(
        UMPWatermarkConfig(**{"key": KEYS[prf], "vocab_size": V, "prf": prf} | changes)
    )


def contexts(rows, width=4, seed=0):
    return np.random.default_rng(seed).integers(-1, V, (rows, width))


def test_published_word_of_vllm():
    uniforms = make("vllm-philox")
    state = uniforms.context_state(np.full((1, 4), -1))
    assert uniforms.prf.words(state, np.array([85])).item() == 4287029948
    u = uniforms.uniforms_at(state, np.array([85])).item()
    assert u == np.float32(0.9981519) == np.float32(16746211 / 16777217)


@pytest.mark.parametrize("width", [1, 3, 4, 6, 9])
def test_vllm_philox_is_the_published_construction(width):
    """Absorption and expansion written out on Python integers."""

    def philox(counter, k0, k1):
        c0, c1, c2, c3 = counter
        for _ in range(10):
            p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
            c0, c1 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF
            c2, c3 = (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        return c0, c1, c2, c3

    key = 0x123456789ABCDEF0
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    window = contexts(1, width, seed=width)[0].tolist()
    state = (0x574D4358, width, 0, 0)
    for offset in range(0, width, 4):
        block = [i & 0xFFFFFFFF for i in window[offset : offset + 4]]
        block += [0xFFFFFFFF - i for i in range(len(block), 4)]
        state = philox([s ^ b for s, b in zip(state, block, strict=True)], k0 ^ offset, k1)
    token = 230
    counter = (token >> 2, *state[:3])
    word = philox(counter, k0 ^ state[3], k1 ^ 0x574D544B)[token & 3]
    uniforms = make("vllm-philox", key=key, context_width=width)
    state_14 = uniforms.context_state(np.array([window]))
    assert uniforms.prf.words(state_14, np.array([token])).item() == word


@pytest.mark.parametrize("width", [1, 4, 7])
def test_vllm_hmac_is_hmac_of_hashlib(width):
    key = bytes(range(100, 132))
    uniforms = make("vllm-hmac", key=key, context_width=width)
    windows = contexts(3, width, seed=width)
    u_BV = uniforms.uniforms(uniforms.context_state(windows), 20)
    for row, window in enumerate(windows.tolist()):
        for token in (0, 7, 19):
            message = b"vllm-watermark-hmac-sha256-v1\0" + struct.pack("<I", width)
            message += b"".join(struct.pack("<q", i) for i in (*window, token))
            word = int.from_bytes(hmac.digest(key, message, hashlib.sha256)[:4], "little")
            assert u_BV[row, token] == np.float32(((word >> 8) + 1) / (2**24 + 1))


def test_an_hmac_key_as_bytes_is_the_little_endian_integer():
    raw = bytes(range(32))
    state = contexts(2)
    one = make("vllm-hmac", key=raw)
    other = make("vllm-hmac", key=int.from_bytes(raw, "little"))
    np.testing.assert_array_equal(one.uniforms(state, 9), other.uniforms(state, 9))
    with pytest.raises(ValueError, match="32 bytes, got 16"):
        HMACPRF(raw[:16])


@pytest.mark.parametrize("prf", KEYS)
@pytest.mark.parametrize("width", [1, 4, 5])
def test_torch_and_numpy_give_the_same_bits(prf, width):
    uniforms = make(prf, context_width=width)
    windows = contexts(3, width)
    state = uniforms.context_state(windows)
    device = uniforms.context_state(torch.from_numpy(windows))
    np.testing.assert_array_equal(state, device.numpy())
    tokens = np.array([0, 5, V - 1])
    for got, expected in (
        (uniforms.uniforms(device, V), uniforms.uniforms(state, V)),
        (
            uniforms.uniforms_at(device, torch.from_numpy(tokens)),
            uniforms.uniforms_at(state, tokens),
        ),
        (uniforms.extra(device, 6), uniforms.extra(state, 6)),
    ):
        assert got.dtype == torch.float64
        assert expected.dtype == np.float64
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("prf", KEYS)
def test_device_gives_the_same_bits(prf):
    uniforms = make(prf)
    windows = contexts(3)
    state = uniforms.context_state(windows)
    device = uniforms.context_state(torch.from_numpy(windows).cuda())
    np.testing.assert_array_equal(
        uniforms.uniforms(device, V).cpu().numpy(), uniforms.uniforms(state, V)
    )
    np.testing.assert_array_equal(uniforms.extra(device, 5).cpu().numpy(), uniforms.extra(state, 5))


@pytest.mark.parametrize("prf", KEYS)
def test_chosen_tokens_are_entries_of_the_table(prf):
    uniforms = make(prf)
    state = uniforms.context_state(contexts(4))
    u_BV = uniforms.uniforms(state, V)
    tokens_BK = np.random.default_rng(1).integers(0, V, (4, 10))
    np.testing.assert_array_equal(
        uniforms.uniforms_at(state, tokens_BK), np.take_along_axis(u_BV, tokens_BK, 1)
    )
    np.testing.assert_array_equal(
        uniforms.uniforms_at(state, tokens_BK[:, 0]), u_BV[np.arange(4), tokens_BK[:, 0]]
    )


@pytest.mark.parametrize("prf", KEYS)
def test_uniform_and_the_extra_ones_are_others(prf):
    """Kolmogorov-Smirnov at 1e-7 each, and the correlation of 5000 pairs within six deviations."""
    uniforms = make(prf)
    state = uniforms.context_state(contexts(20))
    u, extra = uniforms.uniforms(state, V).ravel()[:5000], uniforms.extra(state, V).ravel()[:5000]
    assert kstest(u, "uniform").pvalue > 1e-7
    assert kstest(extra, "uniform").pvalue > 1e-7
    assert abs(np.corrcoef(u, extra)[0, 1]) < 6 / np.sqrt(5000)
    assert not np.isin(u, extra).all()


def test_ends_of_the_interval_stay_inside():
    words = np.array([0, 2**32 - 1])
    for u in (uniform24(words), uniform24(torch.from_numpy(words)).numpy()):
        assert 0 < u[0] < u[1] < 1
    for ends in (words, torch.from_numpy(words)):
        u = uniforms_of(ends, 32)
        assert 0 < float(u[0]) < float(u[1]) < 1


def test_keys_prfs_and_widths_give_other_uniforms():
    window = contexts(1)
    seen = [
        make(prf, **changes).uniforms(make(prf, **changes).context_state(window), 8).tobytes()
        for prf in KEYS
        for changes in ({}, {"key": 2**61 + 1})
    ]
    assert len(set(seen)) == len(seen)


def test_only_text_of_engines_has_coarse_uniforms():
    key = {"key": 7, "vocab_size": 50, "prf": "vllm-philox"}
    coarse = make_uniforms(UMPWatermarkConfig(**key))
    fine = make_uniforms(UMPWatermarkConfig(**key, sampler="hazard"))
    assert (coarse.bits, coarse.full_width.bits, fine.bits) == (24, 32, 32)
    assert fine.full_width is fine
    state = coarse.context_state(np.array([[1, 2, 3, 4]]))
    words = coarse.prf.words_range(state, 50)
    np.testing.assert_array_equal(coarse.uniforms(state, 50), uniform24(words))
    for uniforms in (coarse.full_width, fine):
        np.testing.assert_array_equal(uniforms.uniforms(state, 50), uniforms_of(words, 32))
        np.testing.assert_array_equal(uniforms.extra(state, 3), coarse.extra(state, 3))
