"""Codes and bits: inverses, brute force with Python integers, NumPy against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from modicum.repcomplexity import bits

codes_of_any_shape = arrays(
    np.int64,
    array_shapes(min_dims=0, max_dims=3, max_side=5),
    elements=st.integers(0, 2**bits.MAX_BITS - 1),
)


def both(codes):
    return [codes, torch.from_numpy(codes.copy())]


@given(codes_of_any_shape, st.sampled_from(bits.BIT_FORMS))
def test_pack_undoes_unpack_in_every_form_and_library(codes, form):
    for values in both(codes):
        unpacked = bits.unpack(values, bits.MAX_BITS, form)
        assert unpacked.shape == (*codes.shape, bits.MAX_BITS)
        packed = bits.pack(unpacked, form)
        np.testing.assert_array_equal(np.asarray(packed), codes)
        assert type(packed) is type(bits.popcount(values)) or packed.ndim == 0


def test_the_first_bit_is_the_least_significant():
    np.testing.assert_array_equal(bits.unpack(np.array([6, 1]), 4), [[0, 1, 1, 0], [1, 0, 0, 0]])
    signs = bits.unpack(torch.tensor(6), 3, "sign")
    assert signs.dtype == torch.float32 and signs.tolist() == [1, -1, -1]
    assert bits.unpack(np.array(6), 3, "bool").dtype == bool
    assert bits.pack(np.zeros((2, 0))).tolist() == [0, 0]


def test_bits_can_be_taken_in_any_order():
    order = np.array([2, 0])
    assert bits.unpack(np.array([4, 1]), 2, positions=order).tolist() == [[1, 0], [0, 1]]
    tensor = bits.unpack(torch.tensor([4, 1]), 2, "bool", positions=torch.from_numpy(order))
    assert tensor.tolist() == [[True, False], [False, True]]


@given(codes_of_any_shape)
def test_counts_and_parities_are_those_of_python(codes):
    expected = np.vectorize(lambda code: int(code).bit_count(), otypes=[np.int64])(codes)
    for values in both(codes):
        np.testing.assert_array_equal(np.asarray(bits.popcount(values)), expected)
        np.testing.assert_array_equal(np.asarray(bits.parity(values)), expected % 2)
    assert bits.popcount(2**40 + 5) == 3


def test_counts_without_the_newest_numpy(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 2**62, 100)
    expected = bits.popcount(codes)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    np.testing.assert_array_equal(bits.popcount(codes), expected)


@given(st.data())
def test_extract_undoes_deposit(data):
    positions = data.draw(st.lists(st.integers(0, 61), unique=True, min_size=1, max_size=20))
    codes = np.array(data.draw(st.lists(st.integers(0, 2 ** len(positions) - 1), min_size=1)))
    for values in both(codes):
        placed = bits.deposit(values, positions)
        np.testing.assert_array_equal(np.asarray(bits.extract(placed, positions)), codes)
        mask = sum(1 << position for position in positions)
        assert not np.any(np.asarray(placed) & ~mask)


@given(st.dictionaries(st.integers(0, 7), st.integers(0, 1)))
def test_a_subcube_is_what_filtering_gives(fixed):
    expected = [
        code for code in range(256) if all((code >> i) & 1 == bit for i, bit in fixed.items())
    ]
    assert bits.subcube(fixed, 8).tolist() == expected


@given(codes_of_any_shape)
def test_gray_codes_are_one_to_one(codes):
    for values in both(codes):
        np.testing.assert_array_equal(np.asarray(bits.gray_decode(bits.gray_encode(values))), codes)


def test_gray_neighbours_differ_in_one_bit():
    gray = bits.gray_encode(np.arange(1024))
    assert set(bits.popcount(gray[1:] ^ gray[:-1]).tolist()) == {1}
    assert sorted(gray.tolist()) == list(range(1024))


@pytest.mark.parametrize("count, expected", [(1, 0), (2, 1), (3, 2), (8, 3), (9, 4)])
def test_bits_for_counts_what_must_be_told_apart(count, expected):
    assert bits.bits_for(count) == expected


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="not 63"):
        bits.unpack(np.array(0), 63)
    with pytest.raises(ValueError, match="'packed'"):
        bits.unpack(np.array(0), 3, "packed")
    with pytest.raises(ValueError, match="hold 0 and 1"):
        bits.pack([0, 1, 2])
    with pytest.raises(ValueError, match="hold -1 and 1"):
        bits.pack([0.0, 1.0], "sign")
    with pytest.raises(ValueError, match=r"\[0, 3\).*not 3 to 1"):
        bits.subcube({3: 1}, 3)
    with pytest.raises(ValueError, match="not 0"):
        bits.bits_for(0)
    with pytest.raises(ValueError, match="axis of bits"):
        bits.pack(1)


def test_a_limit_is_refused_with_cost_and_alternative():
    with pytest.raises(bits.ComplexityLimitError, match=r"is 40, above .* 30: .* 8,192 GiB; go"):
        bits.all_codes(40)
    assert issubclass(bits.ComplexityLimitError, ValueError)


def test_tensors_of_shorter_integers_are_counted():
    codes = torch.tensor([-(2**31) & 0x7FFFFFFF, 2**31 - 1, 0x55555555, 1], dtype=torch.int32)
    counts = bits.popcount(codes)
    assert counts.tolist() == [0, 31, 16, 1] and counts.dtype == torch.int64
