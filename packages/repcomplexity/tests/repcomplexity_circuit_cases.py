"""Random circuits for property tests."""

import numpy as np
from hypothesis import strategies as st

from modicum.repcomplexity.circuits.circuit import Circuit


def random_circuit(seed, n_inputs=None, n_gates=None, n_outputs=None):
    """A circuit with gates of all kinds, repeated wires, constants and unused gates."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(0, 8)) if n_inputs is None else n_inputs
    circuit = Circuit(m)
    nodes = [*circuit.inputs(), circuit.const(0), circuit.const(1)]
    for _ in range(int(rng.integers(0, 25)) if n_gates is None else n_gates):
        fan_in = [nodes[i] for i in rng.integers(0, len(nodes), rng.integers(1, 7))]
        kind = rng.integers(0, 6)
        if kind == 0:
            node = circuit.not_(fan_in[0])
        elif kind == 1:
            node = circuit.threshold(int(rng.integers(0, len(fan_in) + 2)), *fan_in)
        else:
            make = [circuit.and_, circuit.or_, circuit.xor, circuit.majority][kind - 2]
            node = make(*fan_in)
        nodes.append(node)
    count = int(rng.integers(1, 5)) if n_outputs is None else n_outputs
    circuit.output(*(nodes[-1 - i % len(nodes)] for i in rng.integers(0, 6, count)))
    return circuit


def all_rows(m):
    return (np.arange(1 << m)[:, None] >> np.arange(m)) & 1 != 0


circuits = st.builds(random_circuit, st.integers(0, 2**32 - 1))
