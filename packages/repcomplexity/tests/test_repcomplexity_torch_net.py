import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.circuits import torch_net
from modicum.repcomplexity.circuits.arithmetic import majority_gate, parity_circuit
from modicum.repcomplexity.circuits.builders import q_circuit, value_circuit
from modicum.repcomplexity.circuits.circuit import Circuit

sys.path.insert(0, str(Path(__file__).parent))
from repcomplexity_circuit_cases import all_rows, circuits


@settings(max_examples=30, deadline=None)
@given(circuits)
def test_the_network_equals_the_circuit_on_bits(circuit):
    rows = all_rows(circuit.n_inputs)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        network = circuit.to_torch(dtype=dtype)
        with torch.no_grad():
            got = network(torch.from_numpy(rows).to(dtype))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.float().numpy(), circuit(rows))
    assert len(network.widths) == circuit.simplify().depth


def test_each_gate_takes_the_stated_units():
    c = Circuit(5)
    wires = c.inputs()
    for node, units in [
        (c.and_(*wires), 1),
        (c.or_(*wires), 1),
        (c.threshold(3, *wires), 2),
        (c.threshold(2, *wires), 2),
        (c.xor(*wires), 5),
        (~c.and_(*wires), 1),
        (wires[0], 0),
    ]:
        c.outputs = []
        c.output(node)
        assert c.to_torch().n_units == units
    # The conjunction is carried past the second gate's input layer: 1 + 1 carried inputs, 1.
    c.outputs = []
    c.output(c.or_(c.and_(wires[0], wires[1]), wires[2]))
    assert c.to_torch().widths == [2, 1]


@pytest.mark.parametrize("n", [4, 8])
def test_a_small_network_is_the_optimal_value_function_itself(n):
    circuit = q_circuit(n)
    table = circuit.truth_values()
    network = circuit.to_torch(readout=[1.0] * circuit.n_outputs)
    with torch.no_grad():
        got = network(torch.from_numpy(all_rows(circuit.n_inputs)).float())
    assert got.shape == (len(table), 1)
    np.testing.assert_array_equal(got[:, 0].numpy(), table.sum(1))
    assert network.n_units <= 8 * n**2
    assert len(network.widths) <= 8


def test_units_grow_like_the_square_and_layers_not_at_all():
    networks = [value_circuit(n).to_torch() for n in (8, 16, 32)]
    assert len({len(network.widths) for network in networks}) == 1
    units = [network.n_units for network in networks]
    assert units[1] / units[0] < 4
    assert units[2] / units[1] < 4


def test_gradients_flow_and_the_state_dict_loads():
    network = q_circuit(4).to_torch(dtype=torch.float64)
    bits = torch.rand(3, network[0].in_features, dtype=torch.float64)
    network(bits).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    other = q_circuit(4, h=1).to_torch(dtype=torch.float64)
    other.load_state_dict(network.state_dict())


def test_a_type_that_cannot_count_the_inputs_is_refused():
    with pytest.raises(ValueError, match=r"bfloat16 counts exactly to 256 only.* 300 inputs"):
        majority_gate(300).to_torch(dtype=torch.bfloat16)
    network = majority_gate(255).to_torch(dtype=torch.bfloat16)
    rows = torch.zeros(3, 255, dtype=torch.bfloat16)
    rows[1, :127] = 1
    rows[2, :128] = 1
    assert network(rows)[:, 0].tolist() == [0, 0, 1]


def test_sums_that_could_be_rounded_are_refused():
    def parity_gate(n):
        c = Circuit(n)
        c.output(c.xor(*c.inputs()))
        return c

    # Of the n units of a parity, number j gives up to n − j and counts twice: n² in all.
    with pytest.raises(ValueError, match=r"adds up exactly to 16777216 only.* reach 16785409"):
        parity_gate(4097).to_torch()
    for dtype in (torch.float16, torch.bfloat16):
        network = parity_gate(256).to_torch(dtype=dtype)
        rows = torch.ones(257, 256, dtype=dtype).tril(-1)
        with torch.no_grad():
            assert network(rows)[:, 0].tolist() == [i % 2 for i in range(257)]


def test_bad_arguments_are_named(monkeypatch):
    c = parity_circuit(4)
    with pytest.raises(ValueError, match="must have an output"):
        Circuit(2).to_torch()
    with pytest.raises(ValueError, match="readout must have 1 numbers, not 2"):
        c.to_torch(readout=[1, 2])
    with pytest.raises(ValueError, match=r"floating-point type, not torch\.int64"):
        c.to_torch(dtype=torch.int64)
    monkeypatch.setattr(torch_net, "MAX_WEIGHTS", 30)
    with pytest.raises(ComplexityLimitError, match="number of weights is 41"):
        c.to_torch()
