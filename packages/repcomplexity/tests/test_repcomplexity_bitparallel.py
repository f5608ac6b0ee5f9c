import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.repcomplexity.circuits import bitparallel
from modicum.repcomplexity.circuits.bitparallel import (
    count_ones,
    evaluate_words,
    pack_rows,
    peak_words,
    truth_table_words,
    unpack_rows,
)
from modicum.repcomplexity.circuits.circuit import Circuit

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_circuit_cases import all_rows, circuits, random_circuit


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_pack_and_unpack_are_inverse_in_both_libraries(n_rows, m, seed):
    bits = np.random.default_rng(seed).integers(0, 2, (n_rows, m)).astype(bool)
    words = pack_rows(bits)
    assert words.shape == (m, -(-n_rows // 64))
    np.testing.assert_array_equal(unpack_rows(words, n_rows), bits)
    tensor_words = pack_rows(torch.from_numpy(bits))
    np.testing.assert_array_equal(tensor_words.numpy(), words.view(np.int64))
    np.testing.assert_array_equal(unpack_rows(tensor_words, n_rows).numpy(), bits)
    for i in range(m):
        for row in range(n_rows):
            assert int(words[i, row // 64]) >> (row % 64) & 1 == bits[row, i]


@settings(max_examples=80, deadline=None)
@given(circuits, st.integers(1, 150), st.integers(0, 2**32 - 1))
def test_words_hold_what_rows_give(circuit, n_rows, seed):
    bits = np.random.default_rng(seed).integers(0, 2, (n_rows, circuit.n_inputs)).astype(bool)
    expected = circuit(bits)
    words = pack_rows(bits)
    for given_words in (words, words.view(np.int64), torch.from_numpy(words.view(np.int64))):
        got = evaluate_words(circuit, given_words)
        assert got.dtype == given_words.dtype
        np.testing.assert_array_equal(np.asarray(unpack_rows(got, n_rows)), expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
def test_bit_slices_count_ones(values):
    slices = count_ones([np.array([value], dtype=np.uint64) for value in values])
    assert len(slices) == len(values).bit_length()
    for row in range(64):
        got = sum((int(word[0]) >> row & 1) << position for position, word in enumerate(slices))
        assert got == sum(value >> row & 1 for value in values)


@pytest.mark.parametrize("m", [0, 1, 3, 5, 6, 7, 9])
def test_the_table_lists_rows_in_order_with_zeros_beyond(m):
    circuit = random_circuit(m, n_inputs=m, n_gates=30)
    words = truth_table_words(circuit)
    assert words.shape == (circuit.n_outputs, max(1, 2**m // 64))
    np.testing.assert_array_equal(unpack_rows(words, 2**m), circuit(all_rows(m)))
    if m < 6:
        assert all(int(word) < 1 << (1 << m) for word in words.ravel())


def test_chunks_change_nothing(monkeypatch):
    circuit = random_circuit(5, n_inputs=10, n_gates=40)
    table = truth_table_words(circuit)
    monkeypatch.setattr(bitparallel, "CHUNK_WORDS", 3)
    np.testing.assert_array_equal(truth_table_words(circuit), table)
    words = pack_rows(all_rows(10))
    np.testing.assert_array_equal(evaluate_words(circuit, words), table)


def test_another_device_gets_chunks_that_fit_its_memory():
    circuit = random_circuit(5, n_inputs=10, n_gates=40)
    words = torch.zeros((10, 100), dtype=torch.int64)
    assert bitparallel._chunk_words(circuit, words) == bitparallel.CHUNK_WORDS
    chunk = bitparallel._chunk_words(circuit, words.to("meta"))
    assert chunk > bitparallel.CHUNK_WORDS
    assert chunk * peak_words(circuit) * 8 <= bitparallel.DEVICE_BYTES


def test_a_chain_keeps_two_values_alive_besides_the_inputs():
    circuit = Circuit(2)
    node = circuit.in_(0)
    for _ in range(50):
        node = ~(node & circuit.in_(1))
    circuit.output(node)
    # Input 1, the last value and the next one; input 0 only at the start.
    assert peak_words(circuit) == 3


def test_bad_words_are_refused():
    circuit = Circuit(2)
    with pytest.raises(ValueError, match=r"shape \(2, W\), not \(3, 1\)"):
        evaluate_words(circuit, np.zeros((3, 1), dtype=np.uint64))
    with pytest.raises(ValueError, match="int64 or uint64, not float64"):
        evaluate_words(circuit, np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"n_rows must be in \[0, 64\], not 65"):
        unpack_rows(np.zeros((2, 1), dtype=np.uint64), 65)
    with pytest.raises(ValueError, match=r"shape \(B, m\)"):
        pack_rows(np.zeros(3))
