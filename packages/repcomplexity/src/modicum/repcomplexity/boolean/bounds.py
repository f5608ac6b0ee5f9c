"""Lower bounds on sizes, widths and degrees, as formulas, and exact values for known functions.

A bound of constant-depth circuits is returned as a size of at least 1, or as its logarithm to base
2 with ``log2=True``; sizes beyond the floats raise `OverflowError`. Such bounds are asymptotic in
spirit: at the sizes that can be tabulated they say nothing, and each says so itself.

Depth counts AND and OR gates of unbounded fan-in (and what else is named); NOT gates are free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.special import gammaln
from scipy.stats import binom

from modicum.repcomplexity.bits import all_codes, check_limit, popcount
from modicum.repcomplexity.boolean.fourier import Spectrum
from modicum.repcomplexity.boolean.influence import total_influence
from modicum.repcomplexity.boolean.truth_table import TruthTable

__all__ = [
    "MAX_APPROXIMATE_DEGREE_INPUTS",
    "MAX_SYMMETRIC_INPUTS",
    "ApproximateDegree",
    "approximate_degree",
    "cnf_width",
    "dnf_width",
    "hastad_parity",
    "lmn_size",
    "majority_dnf_terms",
    "majority_influence",
    "majority_mdp_dnf_terms",
    "parity_dnf_terms",
    "smolensky_size",
    "strongest_lmn_size",
    "symmetric_approximate_degree",
]

MAX_APPROXIMATE_DEGREE_INPUTS = 10
"""Most inputs for the linear program over all monomials; a random function of so many takes about a
minute of one core."""

MAX_SYMMETRIC_INPUTS = 200
"""Most inputs for the linear program over Hamming weights."""

# Errors within this much of the tolerance count as reached; solvers stop at about 1e-7.
_SLACK = 1e-6


def dnf_width(table: TruthTable) -> float:
    """Bound the width of a DNF from below by influence: ``max(I, I / (2 Pr[f = 1]))``.

    A DNF of width w has total influence at most ``2 w Pr[f = 1]``, because each of its true inputs
    has at most w sensitive bits, and at most w. The bound is never above the least width, the
    certificate complexity of the ones.

    Notes
    -----
    The second is Amano, "Tight bounds on the average sensitivity of k-CNF", Theory of Computing 7
    (2011).
    """
    if table.is_constant():
        return 0.0
    influence = total_influence(table)
    return max(influence, influence / (2 * table.probability()))


def cnf_width(table: TruthTable) -> float:
    """Bound the width of a CNF from below by influence; `dnf_width` of the negation."""
    return dnf_width(~table)


def parity_dnf_terms(n_inputs: int) -> int:
    """Return the fewest terms of a DNF of parity, ``2**(n-1)``: no implicant can drop a literal."""
    _check_at_least(n_inputs, 1, "n_inputs")
    return 1 << (n_inputs - 1)


def majority_dnf_terms(n_inputs: int) -> int:
    """Return the fewest terms of a DNF of "more than half of n", ``C(n, ⌊n/2⌋ + 1)``.

    Its primes, the sets of that many inputs, are all essential. About ``2**n / sqrt(π n / 2)``.
    """
    _check_at_least(n_inputs, 1, "n_inputs")
    return math.comb(n_inputs, n_inputs // 2 + 1)


def majority_influence(n_inputs: int) -> float:
    """Return the total influence of majority, ``n C(n-1, (n-1)/2) / 2**(n-1) ≈ sqrt(2n/π)``.

    Raises
    ------
    ValueError
        If the number of inputs is even or below 1.
    """
    _check_at_least(n_inputs, 1, "n_inputs")
    if n_inputs % 2 == 0:
        raise ValueError(f"n_inputs must be odd, not {n_inputs}")
    edges = n_inputs * math.comb(n_inputs - 1, (n_inputs - 1) // 2)
    return edges / (1 << (n_inputs - 1))


def majority_mdp_dnf_terms(n: int) -> int:
    """Bound from below the terms of a DNF of ``1[V*_1 > 0]`` in the unconditioned Majority MDP.

    With ``n = 2**b`` representation bits, the pointer fixed, and the bit that the pointer comes to
    last fixed to its wrong value, the function of the other n − 1 bits is a majority, which needs
    ``C(n-1, n/2)`` terms; fixing inputs never adds terms.

    Raises
    ------
    ValueError
        If n is no power of two, or below 2.
    """
    if n < 2 or n & (n - 1):
        raise ValueError(f"n must be a power of two and at least 2, not {n}")
    return majority_dnf_terms(n - 1)


def hastad_parity(n_inputs: int, depth: int, *, log2: bool = False) -> float:
    """Return Håstad's lower bound on depth-d circuits for parity, ``2**(0.1 n**(1/(d-1)))``.

    The theorem holds for n above a threshold that grows with the depth and that this function does
    not check: use it for the shape of the growth, not as a certificate at a given n. It is below 2
    up to n = ``10**(d-1)``.

    Parameters
    ----------
    n_inputs
        Number n of inputs.
    depth
        Depth d of the circuit, at least 2.
    log2
        Return the logarithm to base 2.

    Notes
    -----
    Håstad, "Almost optimal lower bounds for small depth circuits" (STOC 1986). Statements of the
    theorem differ in the constant; 0.1 is the one often quoted.
    """
    _check_at_least(n_inputs, 1, "n_inputs")
    _check_at_least(depth, 2, "depth")
    return _size(0.1 * n_inputs ** (1 / (depth - 1)), log2)


def smolensky_size(n_inputs: int, depth: int, q: int = 3, *, log2: bool = False) -> float:
    """Return Smolensky's lower bound on depth-d circuits with MOD_q gates for parity.

    Each gate is approximated by a polynomial over GF(q) of degree ``(q-1) l`` that errs with
    probability ``q**-l``; composed, one of degree ``D = ((q-1) l)**d`` that agrees with parity on
    at most ``Σ_{i ≤ (n+D)/2} C(n, i)`` inputs. Hence, for every l,
    ``size ≥ q**l (1 − Σ_{i ≤ (n+D)/2} C(n, i) / 2**n)``, here with the best l. Every constant is
    counted, so the bound is valid for all n, and next to nothing for n below ten thousand: at
    depth 2 it is 1 for n = 100 and 3.3 for 1000, at depth 3 it is 2.3 for ``10**4``.

    Parameters
    ----------
    n_inputs
        Number n of inputs.
    depth
        Depth d of the circuit, at least 1.
    q
        An odd prime.
    log2
        Return the logarithm to base 2.

    Notes
    -----
    Razborov (1987); Smolensky, "Algebraic methods in the theory of lower bounds for Boolean circuit
    complexity" (STOC 1987).
    """
    _check_at_least(n_inputs, 1, "n_inputs")
    _check_at_least(depth, 1, "depth")
    if q < 3 or any(q % factor == 0 for factor in range(2, math.isqrt(q) + 1)):
        raise ValueError(f"q must be an odd prime, not {q}")
    best, trials = -math.inf, 1
    while True:
        degree = ((q - 1) * trials) ** depth
        bound = trials * math.log2(q) + _log2_upper_tail(n_inputs, degree)
        # A concave function of the trials: past its maximum it only falls.
        if bound <= best:
            return _size(best, log2)
        best, trials = bound, trials + 1


def lmn_size(tail: float, k: int, depth: int, *, log2: bool = False) -> float:
    """Return the bound of Linial, Mansour and Nisan on depth-d circuits from a spectral tail.

    A circuit of size M and depth d has ``W^{>k} ≤ 2 M 2**(−k**(1/d) / 20)``, hence
    ``M ≥ ½ W^{>k} 2**(k**(1/d) / 20)``. It exceeds 1 only for k above ``20**d``, hence from
    depth 2 on never for functions of up to 400 inputs: a formula for the growth, not a certificate.

    Parameters
    ----------
    tail
        The spectral weight ``W^{>k}`` of ``1 − 2f``, in [0, 1].
    k
        The degree, at least 0.
    depth
        Depth d of the circuit, at least 1.
    log2
        Return the logarithm to base 2.

    Notes
    -----
    Linial, Mansour and Nisan, "Constant depth circuits, Fourier transform, and learnability", JACM
    40 (1993).
    """
    if not 0 <= tail <= 1:
        raise ValueError(f"tail must be in [0, 1], not {tail!r}")
    _check_at_least(k, 0, "k")
    _check_at_least(depth, 1, "depth")
    if tail == 0:
        return _size(0.0, log2)
    return _size(math.log2(tail / 2) + k ** (1 / depth) / 20, log2)


def strongest_lmn_size(spectrum: Spectrum, depth: int, *, log2: bool = False) -> float:
    """Return the greatest `lmn_size` over the degrees of a spectrum."""
    degrees = range(spectrum.n_inputs + 1)
    best = max(lmn_size(spectrum.tail(k), k, depth, log2=True) for k in degrees)
    return _size(best, log2)


@dataclass(frozen=True)
class ApproximateDegree:
    """The least degree of a real polynomial within an error of a Boolean function.

    Attributes
    ----------
    degree
        The least degree. Errors up to 1e-6 above the tolerance count as reached, because linear
        programs are solved in floats.
    error
        The least sup-norm error at that degree.
    error_below
        The least error one degree below; 0.5 for degree 0, where there is none below.
    """

    degree: int
    error: float
    error_below: float


def approximate_degree(table: TruthTable, epsilon: float = 1 / 3) -> ApproximateDegree:
    """Return the approximate degree: the least degree of p with ``|p(x) − f(x)| ≤ ε`` everywhere.

    Here f has the values 0 and 1. Symmetric functions take the small linear program over Hamming
    weights, which is exact for them by averaging over permutations.

    Parameters
    ----------
    table
        A function of at most `MAX_APPROXIMATE_DEGREE_INPUTS` inputs, or a symmetric one.
    epsilon
        The tolerance, in ``[0, 1/2)``.

    Raises
    ------
    ValueError
        If epsilon is out of range.
    ComplexityLimitError
        If there are too many inputs.
    ArithmeticError
        If a linear program is not solved.

    Notes
    -----
    Nisan and Szegedy, "On the degree of Boolean functions as real polynomials" (1994).
    """
    per_weight = table.by_weight()
    if per_weight is not None:
        return symmetric_approximate_degree(per_weight, epsilon)
    m = table.n_inputs
    check_limit(
        "the number of inputs",
        m,
        MAX_APPROXIMATE_DEGREE_INPUTS,
        cost=f"a dense linear program with {2.0**m:,.0f} columns",
        alternative="fix some inputs, or use the degree and the spectral tail",
    )
    codes = all_codes(m)
    # Low degrees first: a degree takes the leading columns.
    subsets = codes[np.argsort(popcount(codes), kind="stable")]
    signs = 1.0 - 2.0 * (popcount(codes[:, None] & subsets) & 1)
    counts = np.cumsum([math.comb(m, k) for k in range(m + 1)])
    return _least_degree(signs, counts, table.values, epsilon)


def symmetric_approximate_degree(
    per_weight: npt.ArrayLike, epsilon: float = 1 / 3
) -> ApproximateDegree:
    """Return the approximate degree of a function of the number of true inputs.

    Parameters
    ----------
    per_weight
        Values, 0 and 1, for 0 … m true inputs, ``(m + 1,)``, m at most `MAX_SYMMETRIC_INPUTS`.
    epsilon
        As for `approximate_degree`, as are the errors.
    """
    values = np.asarray(per_weight)
    if values.ndim != 1 or not values.size or not ((values == 0) | (values == 1)).all():
        raise ValueError("per_weight must be one-dimensional and hold 0 and 1 only")
    m = values.size - 1
    check_limit(
        "the number of inputs",
        m,
        MAX_SYMMETRIC_INPUTS,
        cost="a linear program whose digits are not enough",
        alternative="use Paturi's estimate for symmetric functions",
    )
    return _least_degree(_discrete_polynomials(m), np.arange(1, m + 2), values, epsilon)


def _least_degree(
    basis: np.ndarray, counts: Sequence[int] | np.ndarray, values: np.ndarray, epsilon: float
) -> ApproximateDegree:
    """Find the least degree by bisection; degree k has the first ``counts[k]`` basis columns."""
    if not 0 <= epsilon < 0.5:
        raise ValueError(f"epsilon must be in [0, 1/2), not {epsilon!r}")
    target = values.astype(np.float64)
    errors = {-1: 0.5, len(counts) - 1: 0.0}
    low, high = -1, len(counts) - 1
    while high - low > 1:
        middle = (low + high) // 2
        errors[middle] = _least_error(basis[:, : counts[middle]], target)
        low, high = (low, middle) if errors[middle] <= epsilon + _SLACK else (middle, high)
    return ApproximateDegree(high, errors[high], errors[low])


def _least_error(columns: np.ndarray, target: np.ndarray) -> float:
    """Minimise the greatest absolute error of a combination of columns."""
    rows, size = columns.shape
    one = np.ones((rows, 1))
    result = linprog(
        np.append(np.zeros(size), 1.0),
        A_ub=np.block([[columns, -one], [-columns, -one]]),
        b_ub=np.concatenate((target, -target)),
        bounds=[(None, None)] * size + [(0, None)],
        method="highs",
    )
    if not result.success:
        raise ArithmeticError(f"the linear program was not solved: {result.message}")
    return float(result.fun)


def _discrete_polynomials(m: int) -> np.ndarray:
    """Return polynomials of degree 0 … m, orthogonal on the points 0 … m, as columns.

    Built by the Lanczos recurrence with full orthogonalisation, which keeps every degree accurate
    where powers and Chebyshev polynomials of equispaced points do not.
    """
    points = np.arange(m + 1) - m / 2
    columns = np.empty((m + 1, m + 1))
    column = np.ones(m + 1)
    for degree in range(m + 1):
        for _ in range(2):
            column = column - columns[:, :degree] @ (columns[:, :degree].T @ column)
        columns[:, degree] = column / np.linalg.norm(column)
        column = points * columns[:, degree]
    # Entries of size 1, so that absolute tolerances of the solver mean the same for every m.
    return columns * math.sqrt(m + 1)


def _log2_upper_tail(n_inputs: int, degree: int) -> float:
    """Return a lower bound on ``log2 Pr[Bin(n, 1/2) > (n + D) / 2]`` that does not underflow."""
    first = (n_inputs + degree) // 2 + 1
    if first > n_inputs:
        return -math.inf
    tail = float(binom.logsf(first - 1, n_inputs, 0.5)) / math.log(2)
    # Where the tail is below the floats, its greatest term is close to it.
    term = gammaln(n_inputs + 1) - gammaln(first + 1) - gammaln(n_inputs - first + 1)
    return max(tail, float(term) / math.log(2) - n_inputs)


def _size(log2_size: float, log2: bool) -> float:
    """Return a lower bound of at least 1, or its logarithm."""
    least = max(0.0, log2_size)
    if log2:
        return least
    if least >= 1024:
        raise OverflowError(f"the bound 2**{least:.6g} is beyond the floats; pass log2=True")
    return 2.0**least


def _check_at_least(value: int, least: int, name: str) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
