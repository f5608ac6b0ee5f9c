import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats

from modicum.zeroth import directions
from modicum.zeroth.directions import KINDS, draw_directions, draw_pair_directions

# Statistical tests compare a mean with its exact value at 6.5 standard errors: two-sided error
# probability 8e-11 each, below 1e-8 for all of this file.
SIGMAS = 6.5
MASK = 0xFFFFFFFF


def close_to(samples, expected):
    samples = np.asarray(samples, dtype=float)
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert error > 0
    assert abs(samples.mean() - expected) < SIGMAS * error, (samples.mean(), expected, error)


def same_distribution(samples, cdf, error_probability=1e-9):
    # Dvoretzky–Kiefer–Wolfowitz with Massart's constant: exact for every sample size.
    bound = math.sqrt(math.log(2 / error_probability) / (2 * len(samples)))
    assert stats.kstest(samples, cdf).statistic < bound


# An independent Philox in Python's integers ------------------------------------------------------


def philox_words(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (p1 >> 32) ^ c1 ^ k0,
            p1 & MASK,
            (p0 >> 32) ^ c3 ^ k1,
            p0 & MASK,
        )
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def test_reference_philox_has_the_published_answers():
    # Known answers of Random123 for philox4x32-10.
    assert philox_words((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox_words((MASK,) * 4, (MASK, MASK)) == (
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    )


def stream_key(seed, *stream):
    words = np.frombuffer(hashlib.blake2b(b"directions", digest_size=16).digest(), "<u4").tolist()
    sequence = np.random.SeedSequence(seed, spawn_key=[*words, *stream])
    return [int(word) for word in sequence.generate_state(4)]


def reference_words(row, dimension, key):
    counters = range(-(-dimension // 4))
    high = ((row >> 32) + key[2]) & MASK
    return [philox_words((j, row & MASK, high, key[3]), (key[0], key[1])) for j in counters]


def reference_normal(row, dimension, key):
    blocks = reference_words(row, dimension, key)
    columns = []
    for radius, angle in ((0, 1), (2, 3)):
        lengths = [math.sqrt(-2 * math.log((b[radius] + 0.5) / 2**32)) for b in blocks]
        turns = [2 * math.pi * (b[angle] + 0.5) / 2**32 for b in blocks]
        columns += [r * math.cos(t) for r, t in zip(lengths, turns, strict=True)]
        columns += [r * math.sin(t) for r, t in zip(lengths, turns, strict=True)]
    return np.array(columns[:dimension])


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 8, 21])
@pytest.mark.parametrize("start", [0, 7, 2**32 - 2, 2**40 + 11])
def test_rows_are_those_of_an_independent_computation(dimension, start):
    key = stream_key(12, 3, 4)
    normal = np.stack([reference_normal(start + row, dimension, key) for row in range(4)])
    got = draw_directions("gaussian", 4, dimension, 12, 3, 4, start=start)
    np.testing.assert_allclose(got, normal, rtol=0, atol=1e-13)
    sphere = draw_directions("sphere", 4, dimension, 12, 3, 4, start=start)
    expected = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    np.testing.assert_allclose(sphere, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dimension", [1, 5, 32, 33, 130])
def test_rademacher_rows_are_bits_of_the_words(dimension):
    key = stream_key(3)
    got = draw_directions("rademacher", 3, dimension, 3)
    needed = -(-dimension // 32)
    for row in range(3):
        blocks = reference_words(row, needed, key)
        words = [blocks[j][place] for place in range(4) for j in range(len(blocks))]
        bits = [words[i // 32] >> (i % 32) & 1 for i in range(dimension)]
        np.testing.assert_array_equal(got[row], (2.0 * np.array(bits) - 1) / math.sqrt(dimension))


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_coordinate_blocks_are_permutations_by_the_order_of_words(dimension):
    key = stream_key(9, 1)
    got = draw_directions("coordinate", 3 * dimension, dimension, 9, 1)
    for block in range(3):
        blocks = reference_words(block, dimension, key)
        words = [blocks[j][place] for place in range(4) for j in range(len(blocks))][:dimension]
        expected = np.eye(dimension)[np.argsort(words, kind="stable")]
        np.testing.assert_array_equal(got[block * dimension : (block + 1) * dimension], expected)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_orthogonal_blocks_are_gram_schmidt_of_the_normal_columns(dimension):
    # Gram–Schmidt makes R's diagonal positive by construction.
    normal = draw_directions("gaussian", 4 * dimension, dimension, 2, 8)
    got = draw_directions("orthogonal", 4 * dimension, dimension, 2, 8)
    for block in range(4):
        rows = slice(block * dimension, (block + 1) * dimension)
        basis = []
        for column in normal[rows].T:
            for other in basis:
                column = column - (column @ other) * other
            basis.append(column / np.linalg.norm(column))
        np.testing.assert_allclose(got[rows], np.array(basis).T, atol=1e-10)


def test_streams_never_change():
    # Whoever resumes a run with a later release must get the same points.
    sphere = draw_directions("sphere", 2, 3, 0)
    orthogonal = draw_directions("orthogonal", 2, 2, 0, 1, start=4)
    np.testing.assert_allclose(sphere, PINNED_SPHERE, atol=1e-12)
    np.testing.assert_allclose(orthogonal, PINNED_ORTHOGONAL, atol=1e-12)
    assert (draw_directions("rademacher", 2, 6, 0, "x") > 0).astype(int).tolist() == PINNED_BITS
    order = draw_directions("coordinate", 5, 5, 2**63 - 1).argmax(axis=1).tolist()
    assert order == PINNED_ORDER


PINNED_SPHERE = [
    [-0.11624696990976141, -0.0017132620945971733, -0.9932188614398108],
    [0.08981690829233377, -0.0034998282197217082, -0.995952144526653],
]
PINNED_ORTHOGONAL = [
    [0.6690703741073496, -0.7431990544207192],
    [-0.7431990544207192, -0.6690703741073496],
]
PINNED_BITS = [[1, 0, 0, 0, 1, 1], [1, 0, 0, 1, 0, 1]]
PINNED_ORDER = [0, 4, 3, 1, 2]


# Libraries, pieces, streams ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 7, 40])
def test_torch_draws_the_same_stream(kind, dimension):
    host = draw_directions(kind, 500, dimension, 5, 1, start=13)
    tensor = draw_directions(kind, 500, dimension, 5, 1, start=13, device="cpu")
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64
    assert host.dtype == np.float64
    assert host.shape == (500, dimension)
    np.testing.assert_allclose(tensor.numpy(), host, rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 7, 40])
def test_a_gpu_draws_the_same_stream(kind, dimension):
    host = draw_directions(kind, 5000, dimension, 5, 1, start=13)
    tensor = draw_directions(kind, 5000, dimension, 5, 1, start=13, device="cuda")
    assert tensor.device.type == "cuda"
    np.testing.assert_allclose(tensor.cpu().numpy(), host, rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 20, 33])
def test_rows_do_not_depend_on_the_piece_they_are_drawn_in(kind, dimension, device):
    whole = np.asarray(draw_directions(kind, 700, dimension, 5, 3, device=device))
    for start, count in [(0, 1), (1, 1), (7, 13), (100, 500), (699, 1), (5, 0), (0, 699)]:
        piece = np.asarray(
            draw_directions(kind, count, dimension, 5, 3, start=start, device=device)
        )
        np.testing.assert_array_equal(piece, whole[start : start + count])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_pieces_made_inside(kind, monkeypatch):
    whole = draw_directions(kind, 1001, 7, 5, start=3)
    monkeypatch.setattr(directions, "_CHUNK_HOST", 100)
    np.testing.assert_array_equal(draw_directions(kind, 1001, 7, 5, start=3), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_streams_give_other_rows(kind):
    streams = [(0,), (1,), (0, 0), (0, 1), (0, "a"), (0, 1, 2), (0, 2, 1)]
    drawn = [draw_directions(kind, 64, 8, *stream).tobytes() for stream in streams]
    assert len(set(drawn)) == len(streams)
    assert drawn[3] == draw_directions(kind, 64, 8, 0, 1).tobytes()


def test_rows_far_apart_differ():
    rows = [draw_directions("gaussian", 1, 4, 0, start=2**k).tobytes() for k in range(50)]
    assert len(set(rows)) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_belongs_to_the_caller(kind):
    drawn = draw_directions(kind, 10, 3, 0)
    assert drawn.flags.c_contiguous
    drawn[:] = 0
    assert np.any(draw_directions(kind, 10, 3, 0))


# Distributions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gaussian"])
@pytest.mark.parametrize("dimension", [1, 2, 9, 50])
def test_rows_have_norm_one(kind, dimension):
    norms = np.linalg.norm(draw_directions(kind, 300, dimension, 1), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-14)


@pytest.mark.parametrize("dimension", [2, 3, 7])
def test_sphere_coordinates_have_the_beta_distribution(dimension):
    u = draw_directions("sphere", 100_000, dimension, 21)
    half = (dimension - 1) / 2
    for coordinate in range(dimension):
        same_distribution((1 + u[:, coordinate]) / 2, stats.beta(half, half).cdf)


def test_sphere_is_isotropic_in_the_plane():
    u = draw_directions("sphere", 100_000, 2, 22)
    same_distribution(np.arctan2(u[:, 1], u[:, 0]), stats.uniform(-np.pi, 2 * np.pi).cdf)
    v = draw_directions("sphere", 100_000, 5, 23)
    axis = np.array([1.0, -2, 3, 0.5, 1])
    same_distribution((1 + v @ axis / np.linalg.norm(axis)) / 2, stats.beta(2, 2).cdf)


def test_one_dimension_has_both_signs_alike():
    for kind in ("sphere", "orthogonal", "rademacher"):
        u = draw_directions(kind, 20_000, 1, 24)[:, 0]
        assert set(np.unique(u)) == {-1.0, 1.0}
        close_to(u, 0)
    assert np.all(draw_directions("coordinate", 5, 1, 24) == 1)


def test_gaussian_numbers_are_normal_and_independent():
    z = draw_directions("gaussian", 50_000, 6, 25)
    for column in z.T:
        same_distribution(column, stats.norm.cdf)
    same_distribution((z**2).sum(axis=1), stats.chi2(6).cdf)
    for i in range(6):
        for j in range(i):
            close_to(z[:, i] * z[:, j], 0)
            close_to(z[:, i] ** 2 * z[:, j] ** 2, 1)
    close_to(z[1:, 0] * z[:-1, 0], 0)
    close_to(z[1:, 0] ** 2 * z[:-1, 0] ** 2, 1)


def check_sphere_moments(u):
    d = u.shape[1]
    for i in range(d):
        close_to(u[:, i], 0)
        close_to(u[:, i] ** 2, 1 / d)
        close_to(u[:, i] ** 4, 3 / (d * (d + 2)))
        for j in range(i):
            close_to(u[:, i] * u[:, j], 0)
            close_to(u[:, i] ** 2 * u[:, j] ** 2, 1 / (d * (d + 2)))
            close_to(u[:, i] ** 3 * u[:, j], 0)


@pytest.mark.parametrize("dimension", [2, 5])
def test_sphere_has_the_exact_moments(dimension):
    check_sphere_moments(draw_directions("sphere", 100_000, dimension, 26))


@pytest.mark.parametrize("dimension", [2, 4])
def test_every_row_of_an_orthogonal_block_is_uniform_on_the_sphere(dimension):
    u = draw_directions("orthogonal", 40_000 * dimension, dimension, 27)
    for row in range(dimension):
        check_sphere_moments(u[row::dimension])


@pytest.mark.parametrize("dimension", [1, 2, 5, 30])
def test_orthogonal_blocks_are_orthogonal(dimension):
    q = draw_directions("orthogonal", 20 * dimension, dimension, 28)
    q = q.reshape(20, dimension, dimension)
    eye = np.broadcast_to(np.eye(dimension), q.shape)
    np.testing.assert_allclose(q @ q.transpose(0, 2, 1), eye, atol=1e-13)


@pytest.mark.parametrize("dimension", [2, 3, 5])
def test_orthogonal_blocks_have_haar_moments(dimension):
    d = dimension
    q = draw_directions("orthogonal", 30_000 * d, d, 29).reshape(-1, d, d)
    # Weingarten calculus for O(d).
    close_to(q[:, 0, 0] ** 2 * q[:, 1, 1] ** 2, (d + 1) / (d * (d - 1) * (d + 2)))
    close_to(q[:, 0, 0] * q[:, 1, 1] * q[:, 0, 1] * q[:, 1, 0], -1 / (d * (d - 1) * (d + 2)))
    close_to(q[:, 0, 0] ** 2 * q[:, 1, 0] ** 2, 1 / (d * (d + 2)))
    trace = np.trace(q, axis1=1, axis2=2)
    close_to(trace, 0)
    close_to(trace**2, 1)
    if d == 5:  # like that of a normal number, once the dimension is large enough
        close_to(trace**4, 3)
    close_to(np.linalg.det(q), 0)


def test_haar_blocks_stay_haar_when_they_are_turned():
    # A factorisation without fixed signs fails here: its first row or column leans to one side.
    d = 4
    q = draw_directions("orthogonal", 30_000 * d, d, 30).reshape(-1, d, d)
    fixed = np.linalg.qr(np.arange(16.0).reshape(4, 4) ** 0.5 + np.eye(4))[0]
    for turned in (q, fixed @ q, q @ fixed):
        for i in range(d):
            for j in range(d):
                close_to(turned[:, i, j], 0)
                close_to(turned[:, i, j] ** 2, 1 / d)


@pytest.mark.parametrize("dimension", [5, 40])
def test_rademacher_signs_are_fair_and_independent(dimension):
    s = draw_directions("rademacher", 40_000, dimension, 31) * math.sqrt(dimension)
    assert set(np.unique(np.round(s, 12))) == {-1.0, 1.0}
    for i in range(5):
        close_to(s[:, i], 0)
        close_to(s[1:, i] * s[:-1, i], 0)
        for j in range(i):
            close_to(s[:, i] * s[:, j], 0)
    close_to(s[:, 0] * s[:, 1] * s[:, 2], 0)
    close_to(s[:, 0] * s[:, 1] * s[:, 2] * s[:, -1], 0)


def test_coordinate_rows_are_uniform_wherever_a_block_is_cut():
    d = 4
    index = draw_directions("coordinate", 20_000 * d, d, 32).argmax(axis=1).reshape(-1, d)
    for row in range(d):
        counts = np.bincount(index[:, row], minlength=d)
        assert stats.chisquare(counts).pvalue > 1e-9
    orders = np.unique(index, axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 3, 8])
def test_pair_directions_have_second_moment_one_over_dimension(kind, dimension):
    u = draw_pair_directions(kind, 30_000 * dimension, dimension, 33, "pairs")
    second = u.T @ u / len(u)
    # Entries have variance at most 2/(d² N); seven deviations.
    bound = 7 * math.sqrt(2 / len(u)) / dimension
    np.testing.assert_allclose(second, np.eye(dimension) / dimension, rtol=0, atol=bound)


# Errors ------------------------------------------------------------------------------------------


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"sphere, orthogonal.*'cube'"):
        draw_directions("cube", 1, 2, 0)
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        draw_directions("sphere", -1, 2, 0)
    with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
        draw_directions("sphere", 1, 0, 0)
    with pytest.raises(ValueError, match="start must be at least 0, got -4"):
        draw_directions("sphere", 1, 2, 0, start=-4)
    with pytest.raises(ValueError, match="seed"):
        draw_directions("sphere", 1, 2, -1)
    with pytest.raises(TypeError, match="seed"):
        draw_directions("sphere", 1, 2, 0.5)
    with pytest.raises(ValueError, match="stream"):
        draw_directions("sphere", 1, 2, 0, 2**32)
    with pytest.raises(ValueError, match="device"):
        draw_directions("sphere", 1, 2, 0, device="abacus")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_no_rows_have_a_shape(kind, device):
    assert tuple(draw_directions(kind, 0, 3, 0, device=device).shape) == (0, 3)
