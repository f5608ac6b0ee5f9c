from math import comb

import numpy as np
import pytest

from modicum.repcomplexity.bits import ComplexityLimitError, popcount
from modicum.repcomplexity.boolean.dnf import minimum_cnf, minimum_dnf
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.circuits.arithmetic import (
    add_up,
    at_least,
    expand_thresholds,
    majority_adders,
    majority_adders_size,
    majority_dnf,
    majority_dnf_size,
    majority_gate,
    normal_form_circuit,
    parity_circuit,
    parity_size,
)
from modicum.repcomplexity.circuits.bitparallel import evaluate_words, pack_rows, unpack_rows
from modicum.repcomplexity.circuits.builders import (
    model_circuit,
    model_size,
    model_terms,
    pointer_bit,
    pointer_bit_size,
    q_circuit,
    reward_circuit,
    transition_bit,
    transition_bit_size,
    value_circuit,
    value_threshold_circuit,
    value_threshold_size,
)
from modicum.repcomplexity.circuits.circuit import Circuit, Gate
from modicum.repcomplexity.families import MajorityMDP


def pointer_bits(n):
    return (n - 1).bit_length()


def random_cycle(n, rng):
    order = rng.permutation(1 << pointer_bits(n))
    control = np.empty_like(order)
    control[order] = np.roll(order, -1)
    return control.tolist()


def step(n, codes, action, control=None, target=None, allowed=None, stay=False, flip_moves=False):
    """The Majority MDP by its definition: next codes and rewards."""
    n_positions = 1 << pointer_bits(n)
    control = np.arange(1, n_positions + 1) % n_positions if control is None else np.array(control)
    target = (1 << n) - 1 if target is None else target
    x, c = codes % (1 << n), codes >> n
    allowed = np.ones_like(x) if allowed is None else allowed[x]
    flips = (action == 1) & (allowed == 1)
    moves = ~flips & ~((action == 1) & stay) | (flips & flip_moves)
    after = np.where(flips & (c < n), x ^ (1 << c), x)
    return np.where(moves, control[c], c) << n | after, (x == target).astype(int)


def dynamic_programming(n, horizon, **process):
    """V[h] for h = 1 … H + 1 and Q[h][a] for h = 1 … H over all codes."""
    codes = np.arange(1 << (n + pointer_bits(n)))
    after = [step(n, codes, np.full_like(codes, a), **process) for a in (0, 1)]
    values, actions = {horizon + 1: np.zeros_like(codes)}, {}
    for h in range(horizon, 0, -1):
        actions[h] = [reward + values[h + 1][following] for following, reward in after]
        values[h] = np.maximum(*actions[h])
    return values, actions


def random_condition(n, rng):
    condition = Circuit(n)
    nodes = [node if rng.random() < 0.5 else ~node for node in condition.inputs()]
    condition.output(condition.or_(condition.and_(*nodes[: n // 2 + 1]), nodes[-1] & nodes[0]))
    return condition


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_the_default_model_is_the_process_and_has_the_stated_gates(n):
    circuit = model_circuit(n)
    codes = np.arange(1 << circuit.n_inputs)
    following, reward = step(n, codes % (len(codes) // 2), codes >> (circuit.n_inputs - 1))
    table = circuit.truth_values()
    np.testing.assert_array_equal(table[:, :-1] @ (1 << np.arange(circuit.n_inputs - 1)), following)
    np.testing.assert_array_equal(table[:, -1], reward)
    assert circuit.size == model_size(n)
    assert circuit.depth == 2
    assert circuit.circuit_class == "AC0"
    assert circuit.gate_counts()[Gate.AND] == model_terms(n)
    for i in range(n):
        bit = transition_bit(n, i)
        np.testing.assert_array_equal(bit.truth_values()[:, 0], following >> i & 1)
        assert bit.size == transition_bit_size(n)
        assert bit.gate_counts()[Gate.AND] == pointer_bits(n) + 2
    for k in range(pointer_bits(n)):
        bit = pointer_bit(n, k)
        np.testing.assert_array_equal(bit.truth_values()[:, 0], following >> (n + k) & 1)
        assert bit.size == pointer_bit_size(n, k)
        assert bit.gate_counts()[Gate.AND] == k + 2
    assert reward_circuit(n).size == 1
    np.testing.assert_array_equal(reward_circuit(n).truth_values()[:, 0], reward)


def test_the_model_has_the_published_numbers_of_terms():
    assert [model_terms(n) for n in (8, 16, 32, 64)] == [50, 111, 245, 540]


@pytest.mark.parametrize("n", [2, 3, 4, 6])
@pytest.mark.parametrize("stay", [False, True])
@pytest.mark.parametrize("flip_moves", [False, True])
@pytest.mark.parametrize("conditioned", [False, True])
def test_the_model_follows_every_option(n, stay, flip_moves, conditioned):
    rng = np.random.default_rng([n, stay, flip_moves, conditioned])
    control, target = random_cycle(n, rng), int(rng.integers(1 << n))
    condition = random_condition(n, rng) if conditioned else None
    allowed = condition.truth_values()[:, 0].astype(int) if conditioned else None
    options = {
        "control": control,
        "condition": condition,
        "on_blocked": "stay" if stay else "advance",
        "flip_advances": flip_moves,
    }
    circuit = model_circuit(n, reward_state=target, **options)
    codes = np.arange(1 << circuit.n_inputs)
    following, reward = step(
        n,
        codes % (len(codes) // 2),
        codes >> (circuit.n_inputs - 1),
        control=control,
        target=target,
        allowed=allowed,
        stay=stay,
        flip_moves=flip_moves,
    )
    table = circuit.truth_values()
    np.testing.assert_array_equal(table[:, :-1] @ (1 << np.arange(circuit.n_inputs - 1)), following)
    np.testing.assert_array_equal(table[:, -1], reward)
    for k in range(pointer_bits(n)):
        bit = pointer_bit(n, k, **options)
        np.testing.assert_array_equal(bit.truth_values()[:, 0], following >> (n + k) & 1)
        if not conditioned and not flip_moves:
            assert bit.size == pointer_bit_size(n, k, control=control)
    bit = transition_bit(n, n - 1, condition=condition)
    np.testing.assert_array_equal(bit.truth_values()[:, 0], following >> (n - 1) & 1)
    assert bit.size == transition_bit_size(n, condition)


@pytest.mark.parametrize("n", [3, 4, 8])
def test_the_circuits_are_those_of_the_family(n):
    rng = np.random.default_rng(n)
    options = {"control": random_cycle(n, rng), "reward_state": int(rng.integers(1 << n))}
    process = MajorityMDP(n, flip_advances=True, **options)
    table = model_circuit(n, flip_advances=True, **options).truth_values()
    codes = np.arange(1 << (n + pointer_bits(n)))
    bits = 1 << np.arange(n + pointer_bits(n))
    for action, rows in enumerate(np.split(table, 2)):
        np.testing.assert_array_equal(rows[:, :-1] @ bits, process.next_codes(codes, action))
        np.testing.assert_array_equal(rows[:, -1], process.rewards(codes, action))
    process = MajorityMDP(n, **options)
    for h in (1, 2, process.horizon):
        value = value_circuit(n, h, **options).truth_values().sum(1)
        np.testing.assert_array_equal(value, process.optimal_values(codes, h))


@pytest.mark.parametrize(("n", "seed"), [(4, None), (8, None), (3, 1), (4, 2), (5, 3), (6, 4)])
def test_thresholds_of_the_value_are_those_of_dynamic_programming(n, seed):
    process = {}
    if seed is not None:
        rng = np.random.default_rng(seed)
        process = {"control": random_cycle(n, rng), "target": int(rng.integers(1 << n))}
    renamed = {"reward_state": process.get("target")}
    renamed |= {"control": process["control"]} if process else {}
    horizon = (1 << pointer_bits(n)) + n // 2
    values, _ = dynamic_programming(n, horizon, **process)
    for h in range(1, horizon + 2):
        for t in range(horizon - h + 3):
            circuit = value_threshold_circuit(n, h, t, **renamed)
            np.testing.assert_array_equal(circuit.truth_values()[:, 0], values[h] >= t)
            assert circuit.size == value_threshold_size(n, h, t)
            assert circuit.depth <= 4
        unary = value_circuit(n, h, **renamed).truth_values()
        np.testing.assert_array_equal(unary.sum(1), values[h])


@pytest.mark.parametrize("horizon", [1, 3, 20])
def test_the_value_takes_any_horizon(horizon):
    values, actions = dynamic_programming(4, horizon)
    for h in range(1, horizon + 1):
        np.testing.assert_array_equal(
            value_circuit(4, h, horizon=horizon).truth_values().sum(1), values[h]
        )
        for t in range(horizon - h + 3):
            size = value_threshold_circuit(4, h, t, horizon=horizon).size
            assert size == value_threshold_size(4, h, t, horizon=horizon)
        q = q_circuit(4, h, horizon=horizon).truth_values().sum(1)
        np.testing.assert_array_equal(q, np.concatenate(actions[h]))


@pytest.mark.parametrize("n", [4, 6, 8])
def test_the_circuit_of_q_is_exact_and_of_constant_depth(n):
    rng = np.random.default_rng(n)
    control, target = random_cycle(n, rng), int(rng.integers(1 << n))
    horizon = (1 << pointer_bits(n)) + n // 2
    _, actions = dynamic_programming(n, horizon, control=control, target=target)
    for h in (1, 2, horizon - 1, horizon):
        circuit = q_circuit(n, h, control=control, reward_state=target)
        q = np.concatenate(actions[h])
        np.testing.assert_array_equal(circuit.truth_values().sum(1), q)
        assert circuit.depth <= 8


def test_reference_values_of_eight_and_sixteen_bits():
    value = value_circuit(8).truth_values().sum(1)
    assert value.sum() == 4392
    assert round(float((value > 0).mean()), 4) == 0.7227
    value = value_circuit(16).truth_values().sum(1)
    assert round(float((value > 0).mean()), 4) == 0.6910
    assert round(float(value.mean()), 4) == 2.3009


def test_a_value_of_64_bits_is_evaluated_word_by_word():
    n, b = 64, 6
    circuit = value_circuit(n)
    # The unary value has about N² gates, where a table would have 2^70 rows.
    assert circuit.size < 5 * n**2 + 4 * n
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (500, n + b)).astype(bool)
    bits[:, :n] |= rng.random((500, 1)) < rng.random((500, n))
    value = unpack_rows(evaluate_words(circuit, pack_rows(bits)), 500).sum(1)
    d, c = ~bits[:, :n], bits[:, n:] @ (1 << np.arange(b))
    moves = (np.arange(n) - c[:, None]) % n
    needed = d.sum(1) + np.where(d, moves, 0).max(1)
    np.testing.assert_array_equal(value, np.maximum(0, n + n // 2 - needed))
    assert (value > 0).any()


@pytest.mark.parametrize("seed", range(10))
def test_normal_forms_become_circuits_of_their_gates(seed):
    rng = np.random.default_rng(seed)
    values = rng.random(1 << (seed % 6)) < rng.random()
    for form in (minimum_dnf(TruthTable(values)), minimum_cnf(TruthTable(values))):
        circuit = normal_form_circuit(form)
        np.testing.assert_array_equal(circuit.truth_values()[:, 0], values)
        assert circuit.size == form.gates
        assert circuit.depth <= 2


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_parity_is_parity_with_the_stated_gates(n, depth):
    circuit = parity_circuit(n, depth)
    codes = np.arange(1 << n)
    np.testing.assert_array_equal(circuit.truth_values()[:, 0], popcount(codes) % 2 == 1)
    assert circuit.size == parity_size(n, depth)
    assert circuit.depth <= depth
    assert circuit.circuit_class == "AC0"


def test_parity_needs_fewer_gates_with_more_layers():
    assert parity_size(16, 2) == 2**15 + 1
    # Four blocks of all 16 minterms, then 8 clauses and the conjunction.
    assert parity_size(16, 3) == 4 * 16 + 8 + 1
    # Blocks of three: 6, 2, 1 of them.
    assert parity_size(16, 4) == parity_circuit(16, 4).size < 80
    sizes = [8 * 256 + 129, 16 * 16 + 4 * 16 + 8 + 1, (32 + 16 + 8 + 4 + 2) * 4 + 2 + 1]
    assert [parity_size(64, depth) for depth in (3, 4, 7)] == sizes
    with pytest.raises(ComplexityLimitError, match="number of gates"):
        parity_circuit(64, 2)


@pytest.mark.parametrize("n", range(1, 14))
def test_majority_in_three_ways(n):
    expected = popcount(np.arange(1 << n)) > n / 2
    for circuit in (majority_dnf(n), majority_gate(n), majority_adders(n)):
        np.testing.assert_array_equal(circuit.truth_values()[:, 0], expected)
    assert majority_gate(n).size == (n > 1)
    assert majority_dnf(n).size == majority_dnf_size(n)
    assert majority_dnf(n).gate_counts().get(Gate.AND, 1) == comb(n, n // 2 + 1)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 31, 64, 100, 257])
def test_majority_takes_at_most_five_gates_of_two_inputs_per_bit(n):
    circuit = majority_adders(n)
    assert circuit.size == majority_adders_size(n) <= 5 * n
    assert all(len(gate.fan_in) <= 2 for gate in circuit.gates)
    assert set(circuit.gate_counts()) <= {Gate.AND, Gate.OR, Gate.XOR}
    rows = np.random.default_rng(n).random((300, n)) < 0.5
    np.testing.assert_array_equal(circuit(rows)[:, 0], rows.sum(1) > n / 2)


def test_adders_count_and_compare_with_every_constant():
    circuit = Circuit(6)
    slices = add_up(circuit.inputs())
    circuit.output(*slices, *(at_least(circuit, slices, k) for k in range(-1, 9)))
    table = circuit.truth_values()
    weight = popcount(np.arange(64))
    np.testing.assert_array_equal(table[:, :3] @ [1, 2, 4], weight)
    np.testing.assert_array_equal(table[:, 3:], weight[:, None] >= np.arange(-1, 9))


def test_thresholds_of_the_same_wires_share_their_adders():
    circuit = Circuit(7)
    circuit.output(*(circuit.threshold(k, *circuit.inputs()) for k in range(1, 8)))
    expanded = expand_thresholds(circuit)
    np.testing.assert_array_equal(expanded.truth_values(), circuit.truth_values())
    # Four full adders, and at most two comparisons for each of the constants.
    assert expanded.size <= 4 * 5 + 7 * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: model_circuit(1), "n must be at least 2, not 1"),
        (lambda: transition_bit(4, 4), r"i must be in \[0, 4\), not 4"),
        (lambda: pointer_bit(4, 2), r"k must be in \[0, 2\), not 2"),
        (lambda: pointer_bit(4, 0, control=[1, 2, 0, 0]), "permutation of 0 … 3"),
        (lambda: pointer_bit(4, 0, control=[1, 0, 3, 2]), r"cycles of lengths \[2, 2\]"),
        (lambda: pointer_bit(4, 0, control="random"), "'increment' or a permutation, not 'random'"),
        (lambda: pointer_bit(4, 0, on_blocked="wait"), "not 'wait'"),
        (lambda: reward_circuit(4, 16), r"reward_state must be in \[0, 2\*\*4\), not 16"),
        (lambda: transition_bit(4, 0, condition=Circuit(4)), "4 inputs and 1 output"),
        (lambda: value_threshold_circuit(4, 0, 1), r"h must be in \[1, 7\], not 0"),
        (lambda: value_threshold_circuit(4, 1, 1, horizon=0), "horizon must be at least 1"),
        (lambda: q_circuit(4, 7), "h must be at most the horizon, not 7"),
        (lambda: parity_circuit(0), "n must be at least 1, not 0"),
        (lambda: parity_circuit(4, 1), "depth must be at least 2, not 1"),
        (lambda: majority_dnf(40), "number of gates"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
