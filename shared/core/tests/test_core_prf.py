"""The PRF: known answers, the same words everywhere, and published vectors."""

import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core import prf
from modicum.core.prf import (
    Blake2PRF,
    PhiloxPRF,
    derive_key,
    key_id,
    make_prf,
    master_key,
    philox4x32,
    uniform32,
    uniform53,
)

KEY = b"a key for the tests of the prf"
VECTORS = json.loads((files("modicum.core") / "vectors" / "prf_v1.json").read_text())


def words(*values):
    return tuple(np.array([v], dtype=np.int64) for v in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers published with the Random123 library for philox4x32-10.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(w[0]) for w in philox4x32(words(*counter), words(*key))) == expected
    on_torch = philox4x32(
        tuple(map(torch.from_numpy, words(*counter))), tuple(map(torch.from_numpy, words(*key)))
    )
    assert tuple(int(w[0]) for w in on_torch) == expected


def python_philox(counter, key):
    """The same block function in unbounded Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return tuple(c)


word = st.integers(0, 2**32 - 1)


@settings(max_examples=200, deadline=None)
@given(counter=st.tuples(word, word, word, word), key=st.tuples(word, word))
def test_signed_64_bit_arithmetic_equals_unbounded_integers(counter, key):
    result = philox4x32(words(*counter), words(*key))
    assert tuple(int(w[0]) for w in result) == python_philox(counter, key)


def test_other_constants_reproduce_a_published_gumbel_watermark_sequence():
    """Key 42, four padding ids, token 85 of the philox4x32-10-v1 sequence of a serving engine."""
    other = PhiloxPRF((42, 0), (0x574D4358, 4, 0, 0), expand=0x574D544B)
    state = other.context_state(np.full((1, 4), -1, dtype=np.int64))
    assert other.words(state, np.array([85]))[0] == 4287029948


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["philox", "blake2b"]),
    shape=st.sampled_from([(1,), (5,), (2, 3), (0,)]),
    width=st.integers(1, 9),
    n=st.integers(1, 130),
    seed=st.integers(0, 2**32 - 1),
)
def test_numpy_and_torch_words_are_identical(name, shape, width, n, seed):
    function = make_prf(name, KEY, "seed")
    ids = np.random.default_rng(seed).integers(-1, 2**31, (*shape, width))
    state = function.context_state(ids)
    state_t = function.context_state(torch.from_numpy(ids))
    assert state.shape == (*shape, 4) and state.dtype == np.int64
    np.testing.assert_array_equal(state, state_t.numpy())
    table = function.words_range(state, n)
    assert table.shape == (*shape, n)
    np.testing.assert_array_equal(table, function.words_range(state_t, n).numpy())
    np.testing.assert_array_equal(
        table, function.words(state[..., None, :], np.arange(n, dtype=np.int64))
    )
    assert table.size == 0 or (table.min() >= 0 and table.max() < 2**32)


@pytest.mark.gpu
def test_cuda_words_are_identical():
    ids = np.random.default_rng(0).integers(-1, 50_000, (64, 4))
    for name in ("philox", "blake2b"):
        function = make_prf(name, KEY, "race")
        host = function.words_range(function.context_state(ids), 32_001)
        device = torch.from_numpy(ids).cuda()
        state = function.context_state(device)
        np.testing.assert_array_equal(host, function.words_range(state, 32_001).cpu().numpy())


def test_published_vectors():
    assert VECTORS["version"] == prf.PRF_VERSION
    for vector in VECTORS["vectors"]:
        key = vector["key"]
        key = bytes.fromhex(key["hex"]) if isinstance(key, dict) else key
        function = make_prf(vector["prf"], key, vector["domain"])
        state = function.context_state(np.array(vector["context"], dtype=np.int64))
        assert state.tolist() == vector["state"]
        assert function.words_range(state, 8).tolist() == vector["words"]


def test_any_change_changes_everything():
    base = make_prf("philox", KEY, "seed")
    ids = np.array([3, 1, 4, 1], dtype=np.int64)
    reference = base.words_range(base.context_state(ids), 64)
    others = [
        make_prf("philox", KEY, "race"),
        make_prf("philox", KEY + b"!", "seed"),
        make_prf("blake2b", KEY, "seed"),
    ]
    tables = [f.words_range(f.context_state(ids), 64) for f in others]
    for changed in ([3, 1, 4, 2], [1, 3, 4, 1], [3, 1, 4], [3, 1, 4, 1, -1], [-1, 3, 1, 4]):
        state = base.context_state(np.array(changed, dtype=np.int64))
        tables.append(base.words_range(state, 64))
    for table in tables:
        # Two independent tables agree in a given word with probability 2^-32.
        assert not np.any(table == reference)


def test_uniforms_lie_in_the_open_interval_and_are_uniform():
    ends = np.array([0, 2**32 - 1])
    for u in (uniform32(ends), uniform53(ends, ends)):
        assert u.dtype == np.float64 and 0 < u[0] < u[1] < 1
    function = make_prf("philox", KEY, "seed")
    ids = np.arange(400_000, dtype=np.int64).reshape(-1, 4)
    table = function.words_range(function.context_state(ids), 2)
    from scipy.stats import kstest

    # Kolmogorov-Smirnov: each fails by chance with probability 1e-7.
    assert kstest(uniform32(table[:, 0]), "uniform").pvalue > 1e-7
    assert kstest(uniform53(table[:, 0], table[:, 1]), "uniform").pvalue > 1e-7
    assert abs(np.corrcoef(table.T)[0, 1]) < 5.4 / np.sqrt(len(table))


def test_uniforms_of_tensors_are_those_of_arrays_and_never_round_to_one():
    torch = pytest.importorskip("torch")
    words = np.array([0, 1, 2**31, 2**32 - 1], dtype=np.int64)
    tensor = torch.from_numpy(words)
    for ours, theirs in (
        (uniform32(words), uniform32(tensor)),
        (uniform53(words, words[::-1]), uniform53(tensor, tensor.flip(0))),
    ):
        assert theirs.dtype == torch.float64
        assert theirs.tolist() == ours.tolist() and max(ours) < 1


def test_words_of_neighbouring_contexts_are_uncorrelated():
    function = make_prf("philox", KEY, "part")
    contexts = np.stack([np.zeros(20_000, np.int64), np.arange(20_000)], axis=1)
    u = uniform32(function.words_range(function.context_state(contexts), 4))
    correlation = np.corrcoef(u[:-1].T, u[1:].T)[:4, 4:]
    # 16 correlations of standard deviation 1/sqrt(n): six of them is p < 1e-7 in all.
    assert np.abs(correlation).max() < 6 / np.sqrt(len(u))


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (b"short", ValueError, "key has 5 bytes"),
        ("short", ValueError, "at least 16"),
        (-1, ValueError, "integer key"),
        (1 << 256, ValueError, "integer key"),
        (True, TypeError, "bool"),
        (None, TypeError, "NoneType"),
        (1.5, TypeError, "float"),
    ],
)
def test_bad_keys_are_named(key, error, text):
    with pytest.raises(error, match=text):
        master_key(key)


def test_keys_of_different_types_differ_and_key_id_is_stable():
    assert len({master_key(k) for k in (b"0123456789abcdef", "0123456789abcdef", 5)}) == 3
    assert key_id(KEY) == key_id(bytes(KEY)) and len(key_id(KEY)) == 16
    assert derive_key(KEY, "seed") != derive_key(KEY, "race")
    with pytest.raises(ValueError, match="longer than 16"):
        derive_key(KEY, "a" * 17)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="unknown prf 'md5'"):
        make_prf("md5", KEY, "seed")
    with pytest.raises(ValueError, match="not a 32-bit word"):
        PhiloxPRF((1 << 32, 0), (0, 0, 0, 0))
    assert Blake2PRF.from_key(KEY, "seed").name == "blake2b"
