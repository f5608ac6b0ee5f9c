"""Subcubes, implicants, primes and certificates from the table of all 3**m subcubes.

A subcube fixes some inputs and leaves the others free. Its number in base 3 has one digit per
input, input 0 lowest: 0 or 1 where the input is fixed, 2 where it is free (a dash). The table tells
for every subcube whether the function is true on all of it, that is whether the term that fixes
these literals implies the function.

Shapes: m inputs, N = 2**m positions, C = 3**m subcubes, P terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.repcomplexity.bits import Array, check_limit, popcount
from modicum.repcomplexity.boolean.truth_table import TruthTable

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_TERNARY_INPUTS",
    "CertificateComplexity",
    "Terms",
    "certificate_complexity",
    "certificate_sizes",
    "implicants",
    "primes",
    "ternary_codes",
]

MAX_TERNARY_INPUTS = 16
"""Most inputs for a table of all subcubes: 43 million of them."""


@dataclass(frozen=True, eq=False)
class Terms:
    """Conjunctions of literals.

    Attributes
    ----------
    n_inputs
        Number m of inputs.
    care
        Bit i is 1 where the term has a literal of input i, int64 ``(P,)``.
    polarity
        Bit i is 1 where that literal is positive, int64 ``(P,)``; a subset of `care`.
    """

    n_inputs: int
    care: np.ndarray
    polarity: np.ndarray

    def __len__(self) -> int:
        return len(self.care)

    def __getitem__(self, chosen: Any) -> Terms:
        """Return some of the terms: a slice, an index array or a mask."""
        return Terms(self.n_inputs, self.care[chosen], self.polarity[chosen])

    @property
    def widths(self) -> np.ndarray:
        """Number of literals of each term, int64 ``(P,)``."""
        return popcount(self.care)

    def table(self) -> TruthTable:
        """Return the disjunction of the terms; false if there are none."""
        values = np.zeros(1 << self.n_inputs, dtype=np.bool_)
        for term in range(len(self)):
            values[self.inputs(term)] = True
        return TruthTable(values)

    def inputs(self, term: int) -> np.ndarray:
        """Return the inputs on which a term is true, int64, increasing."""
        codes = np.zeros(1, dtype=np.int64)
        for index in range(self.n_inputs):
            if not (int(self.care[term]) >> index) & 1:
                codes = np.concatenate((codes, codes | (1 << index)))
        return codes | self.polarity[term]


@dataclass(frozen=True)
class CertificateComplexity:
    """How many inputs must be seen to be sure of a value.

    Attributes
    ----------
    zeros
        Greatest certificate of an input where f is 0: the least width of a CNF. 0 if there is none.
    ones
        Greatest certificate of an input where f is 1: the least width of a DNF. 0 if there is none.
    """

    zeros: int
    ones: int

    @property
    def both(self) -> int:
        """The greater of the two, the certificate complexity of the function."""
        return max(self.zeros, self.ones)


def ternary_codes(codes: np.ndarray, n_inputs: int) -> np.ndarray:
    """Return ``Σ_i x_i 3**i`` of codes ``(…)``: the numbers of the subcubes of single points."""
    powers = 3 ** np.arange(n_inputs, dtype=np.int64)
    result = np.zeros_like(codes, dtype=np.int64)
    for index in range(n_inputs):
        result += ((codes >> index) & 1) * powers[index]
    return result


def implicants(function: TruthTable | torch.Tensor) -> Array:
    """Tell for every subcube whether the function is true on all of it.

    Parameters
    ----------
    function
        A table of at most `MAX_TERNARY_INPUTS` inputs, or its values as a boolean tensor
        ``(2**m,)``, with which torch computes on the tensor's device.

    Returns
    -------
    array or tensor
        bool ``(3**m,)``.

    Raises
    ------
    ComplexityLimitError
        If there are too many inputs.
    ValueError
        If the length of a tensor is no power of two.
    """
    n_inputs = _inputs(function)
    cubes: Any = function.values if isinstance(function, TruthTable) else function.bool()
    for index in reversed(range(n_inputs)):
        # Axis by axis from the last input; those done already have their three slices on the left.
        halves = cubes.reshape(-1, 2, 1 << index)
        cubes = _empty_like(cubes, (halves.shape[0], 3, halves.shape[2]))
        cubes[:, :2] = halves
        cubes[:, 2] = halves[:, 0] & halves[:, 1]
    return cubes.reshape(-1)


def primes(function: TruthTable | torch.Tensor) -> Terms:
    """Return the prime implicants: those that no longer imply f when any literal is dropped.

    Parameters
    ----------
    function
        As for `implicants`.

    Returns
    -------
    Terms
        In the order of their numbers in base 3; none for the constant false, one without literals
        for the constant true.
    """
    n_inputs = _inputs(function)
    holds = implicants(function)
    is_prime = holds.copy() if isinstance(holds, np.ndarray) else holds.clone()
    for index in range(n_inputs):
        slices = holds.reshape(-1, 3, 3**index)
        is_prime.reshape(slices.shape)[:, :2] &= ~slices[:, 2:]
    if isinstance(is_prime, np.ndarray):
        return _terms_of(np.flatnonzero(is_prime), n_inputs)
    return _terms_of(is_prime.nonzero().reshape(-1).cpu().numpy(), n_inputs)


def certificate_sizes(table: TruthTable) -> np.ndarray:
    """Return at each input the fewest inputs whose values settle the value of f, int8 ``(N,)``.

    Raises
    ------
    ComplexityLimitError
        If there are more than `MAX_TERNARY_INPUTS` inputs.
    """
    ones = _fewest_literals(table)
    return np.where(table.values, ones, _fewest_literals(~table))


def certificate_complexity(table: TruthTable) -> CertificateComplexity:
    """Return the greatest certificates of zeros and of ones.

    Raises
    ------
    ComplexityLimitError
        If there are more than `MAX_TERNARY_INPUTS` inputs.
    """
    sizes, values = certificate_sizes(table), table.values
    return CertificateComplexity(
        zeros=int(sizes[~values].max(initial=0)), ones=int(sizes[values].max(initial=0))
    )


def _fewest_literals(table: TruthTable) -> np.ndarray:
    """Return the literals of the shortest implicant at each one, more than m at each zero."""
    m = table.n_inputs
    fewest = np.where(implicants(table), np.int8(0), np.int8(m + 1))
    for index in range(m):
        slices = fewest.reshape(-1, 3, 1 << index)
        # Fixing the input costs one literal; not fixing it gives the certificate of the dash.
        fixed = np.minimum(slices[:, :2] + np.int8(1), m + 1).astype(np.int8)
        fewest = np.minimum(fixed, slices[:, 2:]).reshape(-1)
    return fewest


def _terms_of(cubes: np.ndarray, n_inputs: int) -> Terms:
    care = np.zeros(len(cubes), dtype=np.int64)
    polarity = np.zeros(len(cubes), dtype=np.int64)
    rest = cubes.astype(np.int64)
    for index in range(n_inputs):
        rest, digit = np.divmod(rest, 3)
        care |= (digit != 2).astype(np.int64) << index
        polarity |= (digit == 1).astype(np.int64) << index
    return Terms(n_inputs, care, polarity)


def _empty_like(values: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(values, np.ndarray):
        return np.empty(shape, dtype=values.dtype)
    return values.new_empty(shape)


def _inputs(function: TruthTable | torch.Tensor) -> int:
    if isinstance(function, TruthTable):
        n_inputs = function.n_inputs
    else:
        if function.ndim != 1 or function.shape[0].bit_count() != 1:
            raise ValueError(
                "values must be one-dimensional, a power of two of them, "
                f"not {tuple(function.shape)}"
            )
        n_inputs = function.shape[0].bit_length() - 1
    _check_ternary(n_inputs)
    return n_inputs


def _check_ternary(n_inputs: int) -> None:
    check_limit(
        "the number of inputs",
        n_inputs,
        MAX_TERNARY_INPUTS,
        cost=f"{3.0**n_inputs / 2**30:,.1f} GiB for all subcubes",
        alternative="fix some inputs, or use `dnf_bounds` and the estimators from samples",
    )
