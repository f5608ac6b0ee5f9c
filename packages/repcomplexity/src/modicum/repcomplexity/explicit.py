"""What is proved about sizes in families of processes, without a table of any function.

Upper bounds are those of explicit normal forms and circuits; lower bounds come from fixing inputs
until a function is left whose smallest normal form is known. Both hold for every n.

Symbols: n representation bits, b = ceil(log2 n), N = 2**b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from modicum.repcomplexity.bits import bits_for
from modicum.repcomplexity.boolean.bounds import majority_mdp_dnf_terms
from modicum.repcomplexity.circuits.builders import (
    pointer_bit_size,
    q_circuit,
    transition_bit_size,
)
from modicum.repcomplexity.families import MajorityMDP, ParityMDP
from modicum.repcomplexity.mdp import BitMDP

__all__ = ["CIRCUIT_GATES", "DEPTH_TWO_TERMS", "KnownSize", "known_sizes", "majority_q_dnf_terms"]

DEPTH_TWO_TERMS = "depth-2 terms"
"""Measure: terms of the smaller normal form of the function of a target that needs most."""

CIRCUIT_GATES = "circuit gates"
"""Measure: gates of one circuit of the whole target."""

# Circuits of more bits take seconds to build.
_MAX_CIRCUIT_BITS = 64


@dataclass(frozen=True)
class KnownSize:
    """Bounds on one size.

    Attributes
    ----------
    target
        One of `modicum.repcomplexity.functions.TARGETS`, or ``"model"``: next states and rewards.
    measure
        `DEPTH_TWO_TERMS` or `CIRCUIT_GATES`.
    lower, upper
        Bounds; None where none is known.
    source
        Where they come from, in words.
    """

    target: str
    measure: str
    lower: int | None
    upper: int | None
    source: str


def known_sizes(mdp: BitMDP) -> list[KnownSize]:
    """Return what is proved about a process; nothing for families without such results."""
    if isinstance(mdp, MajorityMDP):
        return _majority(mdp)
    if isinstance(mdp, ParityMDP):
        return _parity(mdp)
    return []


def majority_q_dnf_terms(n: int) -> int:
    """Bound from below the terms of a DNF, and the clauses of a CNF, of ``1[Q*_1 > 0]``.

    For the unconditioned Majority MDP with ``n = 2**b``: ``C(n-1, n/2)``. A DNF of Q* gives one of
    ``1[V*_1 > 0]``, which is true where some action is good, by leaving the action out of every
    term, and that has as many at least (`majority_mdp_dnf_terms`). For a CNF, fix action 0, the
    pointer, and the bit that the pointer comes to last after its move to its wrong value: what is
    left says that at most n/2 − 2 of the other n − 1 bits are wrong, and takes a clause for every
    set of n/2 − 1 of them. Fixing inputs never adds terms.

    Raises
    ------
    ValueError
        If n is no power of two, or below 4.
    """
    if n < 4 or n & (n - 1):
        raise ValueError(f"n must be a power of two and at least 4, not {n}")
    return math.comb(n - 1, n // 2)


def _majority(mdp: MajorityMDP) -> list[KnownSize]:
    plain = (
        mdp.condition is None
        and mdp.deterministic
        and mdp.reward_mode == "state"
        and not mdp.flip_advances
    )
    if not plain:
        return []
    n, b = mdp.n, mdp.n_control_bits
    control = mdp.control.tolist()
    pointer = max(pointer_bit_size(n, k, control=control) for k in range(b)) - 1
    terms = max(b + 2, pointer)
    sum_of_products = "explicit sums of products"
    sizes = [KnownSize("transition", DEPTH_TWO_TERMS, None, terms, sum_of_products)]
    sizes.append(KnownSize("reward", DEPTH_TWO_TERMS, 1, 1, "one conjunction"))
    gates = n * transition_bit_size(n) + 1
    gates += sum(pointer_bit_size(n, k, control=control) for k in range(b))
    sizes.append(KnownSize("model", CIRCUIT_GATES, None, gates, "explicit, AND and OR, depth 2"))
    if n <= _MAX_CIRCUIT_BITS:
        values = {"control": control, "reward_state": mdp.reward_state, "horizon": mdp.horizon}
        circuit = q_circuit(n, **values)
        source = f"explicit, with threshold gates, depth {circuit.depth}"
        sizes.append(KnownSize("q", CIRCUIT_GATES, None, circuit.size, source))
    if n >= 4 and n == 1 << b and mdp.horizon == n + n // 2:
        source = "a majority is left when inputs are fixed"
        value_terms, q_terms = majority_mdp_dnf_terms(n), majority_q_dnf_terms(n)
        sizes.append(KnownSize("value", DEPTH_TWO_TERMS, value_terms, None, source))
        sizes.append(KnownSize("q", DEPTH_TWO_TERMS, q_terms, None, source))
    return sizes


def _parity(mdp: ParityMDP) -> list[KnownSize]:
    n, b = mdp.n, bits_for(mdp.n)
    sizes = [KnownSize("reward", DEPTH_TWO_TERMS, 1, 1, "one conjunction")]
    if mdp.allow_noop and n == 1 << b:
        # Bit i flips where (low = i, high > i) or (high = i, low < i): at most b terms each, and
        # 2b for each factor of the negation.
        terms, source = 2 * b + 4 * b * b, "explicit sums of products"
        sizes.append(KnownSize("transition", DEPTH_TWO_TERMS, None, terms, source))
    if mdp.horizon == n // 2 + 1:
        source = "a parity is left when inputs are fixed"
        terms = 1 << (n - 1)
        sizes.append(KnownSize("value", DEPTH_TWO_TERMS, terms, terms, "the value is a parity"))
        # One even state, at distance n - 2, is taken too far away by a fixed action.
        sizes.append(KnownSize("q", DEPTH_TWO_TERMS, terms - 1, None, source))
    return sizes
