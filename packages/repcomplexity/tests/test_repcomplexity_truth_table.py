"""Truth tables against plain Python, and their conversions."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.repcomplexity.bits import ComplexityLimitError, popcount
from modicum.repcomplexity.boolean.truth_table import MAX_INPUTS, TruthTable

SETTINGS = settings(max_examples=50, deadline=None)


@st.composite
def tables(draw, max_inputs=7):
    m = draw(st.integers(0, max_inputs))
    return TruthTable.from_int(draw(st.integers(0, (1 << (1 << m)) - 1)), m)


def bits(code, m):
    return [(code >> i) & 1 for i in range(m)]


def test_hexadecimal_digits_are_majority():
    majority = TruthTable.from_hex("e8", m=3)
    assert [bool(majority(x)) for x in range(8)] == [sum(bits(x, 3)) >= 2 for x in range(8)]
    assert majority.to_hex() == "e8"
    assert repr(majority) == "TruthTable.from_hex('e8', m=3)"


@SETTINGS
@given(tables())
def test_every_form_leads_back(table):
    m = table.n_inputs
    assert TruthTable(table.values) == table
    assert TruthTable.from_bits(table.values.astype(int).tolist()) == table
    assert TruthTable.from_words(table.words, m) == table
    assert TruthTable.from_hex(table.to_hex(), m) == table
    assert TruthTable.from_int(table.to_int(), m) == table
    assert TruthTable.from_callable(table, m) == table
    assert pickle.loads(pickle.dumps(table)) == table
    assert hash(TruthTable(table.values)) == hash(table)


@SETTINGS
@given(tables())
def test_tensors_lead_back(table):
    tensor = table.to_torch()
    assert tensor.dtype == torch.bool
    assert TruthTable(tensor) == table
    codes = torch.arange(1 << table.n_inputs)
    assert torch.equal(table(codes), tensor)


@SETTINGS
@given(tables())
def test_values_words_and_calls_agree(table):
    number, size = table.to_int(), 1 << table.n_inputs
    expected = [bool((number >> x) & 1) for x in range(size)]
    assert table.values.dtype == np.bool_
    assert table.values.tolist() == expected
    assert table(np.arange(size)).tolist() == expected
    words = [int(word) for word in table.words]
    assert [bool((words[x // 64] >> (x % 64)) & 1) for x in range(size)] == expected
    assert table.count_ones() == sum(expected)
    assert table.is_constant() == (len(set(expected)) == 1)


@SETTINGS
@given(st.data())
def test_algebra_is_bitwise(data):
    table = data.draw(tables())
    m = table.n_inputs
    other = TruthTable.from_int(data.draw(st.integers(0, (1 << (1 << m)) - 1)), m)
    everything = (1 << (1 << m)) - 1
    assert (~table).to_int() == table.to_int() ^ everything
    assert (table & other).to_int() == table.to_int() & other.to_int()
    assert (table | other).to_int() == table.to_int() | other.to_int()
    assert (table ^ other).to_int() == table.to_int() ^ other.to_int()


@SETTINGS
@given(st.data())
def test_restriction_substitutes(data):
    table = data.draw(tables())
    m = table.n_inputs
    fixed = data.draw(
        st.dictionaries(st.integers(0, max(0, m - 1)), st.integers(0, 1)) if m else st.just({})
    )
    free = [i for i in range(m) if i not in fixed]
    restricted = table.restrict(fixed)
    assert restricted.n_inputs == len(free)
    for y in range(1 << len(free)):
        x = sum(bit << free[k] for k, bit in enumerate(bits(y, len(free))))
        x |= sum(bit << i for i, bit in fixed.items())
        assert restricted(y) == table(x)


@SETTINGS
@given(st.data())
def test_permutation_and_negation_rename_inputs(data):
    table = data.draw(tables(max_inputs=5))
    m = table.n_inputs
    order = data.draw(st.permutations(range(m)))
    mask = data.draw(st.integers(0, (1 << m) - 1))
    permuted, negated = table.permute(order), table.negate_inputs(mask)
    for x in range(1 << m):
        y = sum(((x >> k) & 1) << order[k] for k in range(m))
        assert permuted(x) == table(y)
        assert negated(x) == table(x ^ mask)


@SETTINGS
@given(tables(max_inputs=5))
def test_support_and_symmetry_by_definition(table):
    m, size = table.n_inputs, 1 << table.n_inputs
    support = tuple(
        i for i in range(m) if any(table(x) != table(x ^ (1 << i)) for x in range(size))
    )
    assert table.support() == support
    by_count = {}
    for x in range(size):
        by_count.setdefault(sum(bits(x, m)), set()).add(bool(table(x)))
    weights = table.by_weight()
    if any(len(seen) > 1 for seen in by_count.values()):
        assert weights is None
    else:
        assert weights.tolist() == [by_count[k].pop() for k in range(m + 1)]


def test_callables_take_codes_or_bits():
    parity_of_codes = TruthTable.from_callable(lambda x: (x ^ (x >> 1) ^ (x >> 2)) & 1, 3)
    parity_of_bits = TruthTable.from_callable(lambda b: b.sum(-1) % 2, 3, form="bits")
    assert parity_of_codes == parity_of_bits
    assert parity_of_bits == (
        TruthTable.variable(0, 3) ^ TruthTable.variable(1, 3) ^ TruthTable.variable(2, 3)
    )


def test_callables_see_large_tables_in_blocks():
    sizes = []

    def last_input(codes):
        sizes.append(codes.size)
        return codes >> 21

    table = TruthTable.from_callable(last_input, 22)
    assert table.count_ones() == 1 << 21
    assert max(sizes) < 1 << 22


def test_a_table_hands_itself_to_every_measure():
    majority = TruthTable.from_hex("e8", m=3)
    assert majority.fourier().weights.tolist() == [0, 0.75, 0, 0.25]
    assert majority.tail(1) == 0.25
    assert majority.influences().tolist() == [0.5, 0.5, 0.5]
    assert majority.certificate_complexity().both == 2
    assert majority.min_dnf().upper == majority.min_cnf(time_limit=5).lower == 3
    assert majority.obdd_size() == majority.obdd_size("best") == 4


def test_a_table_hands_itself_to_the_search_for_circuits():
    pytest.importorskip("pysat", reason="needs python-sat")
    circuit = TruthTable.from_hex("e8", m=3).min_circuit()
    assert (circuit.lower, circuit.upper) == (4, 4)


def test_symmetry_is_seen_across_blocks():
    m = 21
    symmetric = TruthTable.from_callable(lambda codes: popcount(codes) % 3 == 0, m)
    assert symmetric.by_weight().tolist() == [weight % 3 == 0 for weight in range(m + 1)]
    values = symmetric.values
    values[-2] ^= True
    assert TruthTable(values).by_weight() is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_codes_may_be_integers_of_any_kind(dtype):
    table = TruthTable.from_hex("e8", m=3)
    codes = np.arange(8, dtype=dtype)
    assert np.array_equal(table(codes), table.values)
    if dtype != np.uint64:
        assert np.array_equal(table(torch.from_numpy(codes)).numpy(), table.values)
    assert table([]).shape == (0,)


def test_no_inputs():
    true = TruthTable([True])
    assert (true.n_inputs, true.count_ones(), true.support()) == (0, 1, ())
    assert ~true == TruthTable.constant(False, 0)
    assert true.by_weight().tolist() == [True]


def test_words_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        TruthTable.from_hex("e8", m=3).words[0] = 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruthTable([0, 1, 1]), "power of two of values, not 3"),
        (lambda: TruthTable([]), "power of two"),
        (lambda: TruthTable([[0, 1]]), "one-dimensional"),
        (lambda: TruthTable([0, 2]), "0 and 1 only"),
        (lambda: TruthTable.from_int(16, 2), "at most 4 bits"),
        (lambda: TruthTable.from_words([1, 2], 3), "has 1 words"),
        (lambda: TruthTable.from_words([256], 3), "beyond the 8 positions"),
        (lambda: TruthTable.from_callable(lambda x: x, 2), "0 and 1 only"),
        (lambda: TruthTable.from_callable(lambda x: x[:1], 2), "one value per input"),
        (lambda: TruthTable.from_callable(lambda x: x, 2, form="ints"), "not 'ints'"),
        (lambda: TruthTable.variable(3, 3), r"must be in \[0, 3\), not 3"),
        (lambda: TruthTable.constant(True, -1), "at least 0, not -1"),
        (lambda: TruthTable.from_hex("e8", m=3).restrict({0: 2}), "fixed to 0 or 1, not 2"),
        (lambda: TruthTable.from_hex("e8", m=3).permute([0, 0, 1]), "permutation"),
        (lambda: TruthTable.from_hex("e8", m=3).negate_inputs(8), "not 8"),
        (lambda: TruthTable.from_hex("e8", m=3)(8), r"codes must be integers in \[0, 8\)"),
        (lambda: TruthTable.from_hex("e8", m=3)(np.array([0.5])), "codes must be integers"),
        (lambda: TruthTable.from_hex("e8", m=3)(torch.tensor([-1])), r"integers in \[0, 8\)"),
        (lambda: TruthTable.from_hex("e8", m=3)(torch.tensor([8])), r"integers in \[0, 8\)"),
        (lambda: TruthTable.from_hex("e8", m=3)(torch.tensor([1.0])), "codes must be integers"),
        (lambda: TruthTable([0, 1]) & TruthTable([1]), "1 and 0 inputs do not combine"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_nothing_is_allocated_above_the_limit():
    with pytest.raises(ComplexityLimitError, match="1,024 GiB of values"):
        TruthTable.from_callable(lambda codes: codes, MAX_INPUTS + 10)
