"""Functions with known complexity, and strategies, shared by the tests of Boolean functions."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from modicum.repcomplexity.bits import popcount
from modicum.repcomplexity.boolean.truth_table import TruthTable

SETTINGS = settings(max_examples=40, deadline=None)


@st.composite
def tables(draw, min_inputs=0, max_inputs=5):
    m = draw(st.integers(min_inputs, max_inputs))
    return TruthTable.from_int(draw(st.integers(0, (1 << (1 << m)) - 1)), m)


def majority(m):
    return TruthTable.from_callable(lambda x: popcount(x) > m / 2, m)


def parity(m):
    return TruthTable.from_callable(lambda x: popcount(x) % 2, m)


def random_table(m, seed, probability=0.5):
    return TruthTable(np.random.default_rng(seed).random(1 << m) < probability)


class MajorityValues:
    """The default Majority MDP with n = 2**b bits from its closed form.

    The pointer counts up modulo n, action 1 flips the bit under it, the reward is 1 on all ones and
    the horizon n + n/2. An input is ``a + 2 c + 2**(1 + b) x``.
    """

    def __init__(self, n):
        self.n, self.b, self.horizon = n, n.bit_length() - 1, n + n // 2
        self.m = 1 + self.b + n

    def split(self, codes):
        return codes & 1, (codes >> 1) & (self.n - 1), codes >> (1 + self.b)

    def steps(self, c, x):
        """Fewest steps to all ones: bits to flip, plus moves to the last of them."""
        missing = x ^ ((1 << self.n) - 1)
        last = np.zeros_like(x)
        for k in range(self.n):
            last = np.where((missing >> ((c + k) % self.n)) & 1, k, last)
        return popcount(missing) + last

    def successor(self, codes):
        a, c, x = self.split(codes)
        return np.where(a, c, (c + 1) % self.n), np.where(a, x ^ (1 << c), x)

    def values(self, c, x, h):
        return np.maximum(0, self.horizon - h + 1 - self.steps(c, x))

    def q(self):
        """Q*_1 at every input, int64 (2**m,)."""
        codes = np.arange(1 << self.m)
        reward = self.split(codes)[2] == (1 << self.n) - 1
        return reward + self.values(*self.successor(codes), 2)

    def positive_q(self):
        return TruthTable(self.q() > 0)

    def positive_v(self):
        """1[V*_1 > 0] of c + 2**b x."""
        codes = np.arange(1 << (self.m - 1))
        return TruthTable(self.values(codes & (self.n - 1), codes >> self.b, 1) > 0)

    def next_bit(self, i):
        """Bit i of the next x, of (a, c, x_i): the other bits of x play no part."""
        codes = np.arange(1 << (2 + self.b))
        a, c, x = self.split(codes)
        return TruthTable(x ^ (a & (c == i)))

    def next_pointer_bit(self, k):
        """Bit k of the next c, of (a, c)."""
        codes = np.arange(1 << (1 + self.b))
        a, c, _ = self.split(codes)
        return TruthTable((np.where(a, c, c + 1) >> k) & 1)
