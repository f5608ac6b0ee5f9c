"""The best watermark against edits, by linear programming with certificates.

An adversary may turn the output x into any y of ``out(x)``, its neighbours in a perturbation
graph; a watermark survives if all of ``out(X)`` lies in the rejection region. The region may then
be taken to be ``out(x)`` or empty, and the best robust Type II error at level alpha is one minus
the value of a packing program over the graph. Here: the program on any graph (`RobustLP`), its
reduction to counts of symbols where the law only depends on them (`RobustOrbitLP`), and the closed
form for uniform laws. Every value comes with an interval that a feasible primal and dual pair
proves. Plain NumPy and SciPy's HiGHS; knows nothing of keys, tokens or models.

Source: "Towards Optimal Statistical Watermarking" (arXiv 2312.07930) for the characterisation by a
linear program; its exact form, the dual, the distorted program and the reduction to counts are our
derivation and held to the program over all joint laws of output and region in the tests.

Legend: ``N`` elements of the output space, ``T`` types (counts of symbols), ``m`` symbols, ``J``
rows and ``K`` columns of the program (both N on a graph, T on types).
"""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.umpwatermark._packing import UNIT_ROUNDOFF, Method, Packing, check_method, solve
from modicum.umpwatermark.graphs import (
    MAX_ELEMENTS,
    PerturbationGraph,
    edit_graph,
    hamming_graph,
)
from modicum.umpwatermark.theory import check_alpha, check_epsilon, check_law

MAX_SYMBOLS = 4
"""Largest alphabet of the reduction to counts."""

MAX_FLOWS = 50_000
"""Most ways of distributing edits over pairs of symbols in the reduction to counts."""

COUNT_ROUNDINGS = 32
"""Roundings of log-gamma's size behind one count, besides one for each term of its sum."""

LOG_SMALLEST_UNIT = -600.0
"""Types with less mass than its exponential are measured in it, far from underflow."""

TOLERANCE = 1e-7
"""Gap at which the first-order method is content."""


@dataclass(frozen=True, eq=False)
class CertifiedValue:
    """A robust Type II error with the pair that proves it.

    Attributes
    ----------
    type2
        ``1 - primal``, the error that ``z_K`` attains.
    interval
        ``(low, high)`` around the optimum: ``1 - dual`` and ``1 - primal``, rounded outwards.
    primal, dual
        Sum of the feasible ``z_K`` rounded down, and the dual value of ``u_J`` rounded up.
    gap
        ``dual - primal``.
    z_K
        Mass covered at each element (type), float64: ``z <= law``, and no row exceeds alpha.
    u_J
        Multipliers of the rows, float64, nonnegative.
    law_K
        Law of the output, within epsilon of the model's; the model's law for ``epsilon = 0``.
    alpha, epsilon
        Level and distortion budget.
    method, status, iterations, seconds
        How the pair was found; status is ``"optimal"``, or why the solver stopped before.
    """

    type2: float
    interval: tuple[float, float]
    primal: float
    dual: float
    z_K: NDArray[np.float64]
    u_J: NDArray[np.float64]
    law_K: NDArray[np.float64]
    alpha: float
    epsilon: float
    method: str
    status: str
    iterations: int
    seconds: float

    @property
    def gap(self) -> float:
        """Difference between dual and primal value."""
        return self.dual - self.primal


def _certified(
    packing: Packing, method: str, tolerance: float, time_limit: float | None
) -> dict[str, Any]:
    # The fields of CertifiedValue.
    start = time.perf_counter()
    pair = solve(packing, method, tolerance, time_limit)
    low = math.nextafter(1 - pair.dual, -1.0) if pair.dual < 1 else 0.0
    high = math.nextafter(1 - pair.primal, 2.0) if pair.primal > 0 else 1.0
    return {
        "type2": 1 - pair.primal,
        "interval": (max(low, 0.0), min(high, 1.0)),
        "primal": pair.primal,
        "dual": pair.dual,
        "z_K": pair.z_K,
        "u_J": pair.u_J,
        "law_K": packing.law(pair.z_K),
        "alpha": packing.alpha,
        "epsilon": packing.epsilon,
        "method": pair.method,
        "status": pair.status,
        "iterations": pair.iterations,
        "seconds": time.perf_counter() - start,
    }


@dataclass(frozen=True, eq=False)
class RobustCoupling:
    """The joint law of output and region that attains a robust Type II error.

    The region is ``out(x)`` with probability ``region_probs[x]`` and empty with the rest, index N;
    given ``out(x)`` the output is x, given the empty region it follows ``residual``.

    Attributes
    ----------
    graph
        The perturbation graph.
    law
        Law of the output, float64[N].
    region_probs
        float64[N + 1].
    residual
        float64[N], sums to 1; all zeros if the region is never empty.
    """

    graph: PerturbationGraph
    law: NDArray[np.float64]
    region_probs: NDArray[np.float64]
    residual: NDArray[np.float64]

    @property
    def empty(self) -> int:
        """Index N of the empty region."""
        return self.law.size

    def draw_region(self, uniforms: ArrayLike) -> NDArray[np.int64]:
        """Return the region that keyed uniforms choose, by an exponential race.

        Parameters
        ----------
        uniforms
            In (0, 1), shape ``[..., N + 1]``.

        Returns
        -------
        int64, shape [...]
            Index of the region, N where it is empty.
        """
        uniforms = np.asarray(uniforms, dtype=np.float64)
        if uniforms.shape[-1:] != (self.empty + 1,):
            raise ValueError(
                f"uniforms need {self.empty + 1} values on the last axis, got {uniforms.shape}"
            )
        possible = self.region_probs > 0
        safe = np.where(possible, self.region_probs, 1.0)
        return np.where(possible, -np.log(uniforms) / safe, np.inf).argmin(axis=-1)

    def draw_output(self, region: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return outputs given regions, int64 of the same shape."""
        region = np.asarray(region, dtype=np.int64)
        x = region.copy()
        empty = region == self.empty
        count = int(empty.sum())
        if count:
            x[empty] = rng.choice(self.empty, size=count, p=self.residual)
        return x

    def sample(
        self, rng: np.random.Generator, n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw ``n`` pairs, the region first.

        Returns
        -------
        x, region
            int64[n] each; region N is empty.
        """
        region = rng.choice(self.empty + 1, size=n, p=self.region_probs / self.region_probs.sum())
        return self.draw_output(region, rng), region

    def is_marked(self, region: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each text ``y`` lies in the region beside it."""
        region, y = np.broadcast_arrays(np.asarray(region), np.asarray(y))
        known = region < self.empty
        return known & self.graph.has_edges(np.where(known, region, 0), y)

    def type1(self) -> NDArray[np.float64]:
        """Return ``P(y in R)`` for every y, float64[N]; the Type I error is its maximum."""
        return self.graph.adjacency_NN.T.astype(np.float64) @ self.region_probs[:-1]

    def type2(self) -> float:
        """Return the robust Type II error ``P(out(X) not inside R)``."""
        return max(0.0, 1 - math.fsum(self.region_probs[:-1]))


@dataclass(frozen=True, eq=False)
class RobustSolution(CertifiedValue):
    """Solution of `RobustLP`: a certified value, the graph and the coupling.

    Attributes
    ----------
    graph
        The perturbation graph; ``z_K``, ``u_J`` and ``law_K`` are float64[N] over its elements.
    """

    graph: PerturbationGraph

    def coupling(self) -> RobustCoupling:
        """Return the watermark that attains ``type2`` at level alpha."""
        rest_N = np.maximum(self.law_K - self.z_K, 0.0)
        empty = max(0.0, 1 - math.fsum(self.z_K))
        total = rest_N.sum()
        residual_N = rest_N / total if total > 0 and empty > 0 else np.zeros_like(rest_N)
        return RobustCoupling(
            self.graph,
            self.law_K,
            np.append(self.z_K, empty if residual_N.any() else 0.0),
            residual_N,
        )

    def type1(self) -> NDArray[np.float64]:
        """Return ``P(y in R)`` for every y, float64[N]."""
        return self.coupling().type1()


@dataclass(frozen=True, eq=False)
class RobustLP:
    """The linear program of the best robust watermark on a perturbation graph.

    ``max sum_x z_x`` subject to ``sum_{x in in(y)} z_x <= alpha`` for every y and
    ``0 <= z <= rho``; with a distortion budget the bound is any law within epsilon of rho. The best
    robust Type II error is one minus the maximum. A graph without edges gives `ump_type2`.

    Parameters
    ----------
    graph
        Which text may become which.
    rho
        The model's law, ``[N]`` or any shape of N entries; or only over the graph's `support`.
    alpha
        Type I level in (0, 1).
    epsilon
        Distortion budget in [0, 1), total variation; mass is only moved within the support.

    Raises
    ------
    ValueError
        If ``rho`` is no law, has another size or mass outside of the support; for alpha or epsilon
        out of range.
    """

    graph: PerturbationGraph
    rho: ArrayLike
    alpha: float
    epsilon: float = 0.0
    law_N: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.graph
        if not isinstance(graph, PerturbationGraph):
            raise TypeError(f"graph must be a PerturbationGraph, got {type(graph).__name__}")
        check_alpha(self.alpha)
        check_epsilon(self.epsilon)
        law_N = check_law(np.asarray(self.rho, dtype=np.float64).ravel())
        N, support = graph.num_elements, graph.support
        if support is not None and law_N.size == support.size:
            whole_N = np.zeros(N)
            whole_N[support] = law_N
            law_N = whole_N
        if law_N.size != N:
            sizes = f"{N}" if support is None else f"{N} or, on its support, {support.size}"
            raise ValueError(f"rho has {law_N.size} entries, but the graph has {sizes} elements")
        outside = 1 - law_N[support].sum() if support is not None else 0.0
        if outside > 0 and law_N.astype(bool).sum() > law_N[support].astype(bool).sum():
            raise ValueError(
                f"rho has mass {outside:.3g} outside of the graph's support, on elements some of "
                "whose edits are not in the graph"
            )
        object.__setattr__(self, "law_N", law_N)

    def packing(self) -> Packing:
        """Return the program in the form that the solvers take."""
        from scipy import sparse

        N, support = self.graph.num_elements, self.graph.support
        movable_N = np.ones(N, dtype=bool)
        if support is not None:
            movable_N[:] = False
            movable_N[support] = True
        matrix = sparse.csr_array(self.graph.adjacency_NN.T).astype(np.float64)
        unit_N = np.full(N, float(self.alpha))
        return Packing(
            matrix, unit_N, self.law_N, float(self.alpha), float(self.epsilon), movable_N
        )

    def solve(
        self,
        method: Method = "auto",
        tolerance: float = TOLERANCE,
        time_limit: float | None = None,
    ) -> RobustSolution:
        """Solve the program.

        Parameters
        ----------
        method
            ``"simplex"`` or ``"ipm"`` (HiGHS, to a vertex), ``"first-order"`` (a primal-dual method
            that certifies its bounds as it goes, for large graphs), or ``"auto"`` by size.
        tolerance
            Gap at which ``first-order`` stops.
        time_limit
            Seconds. The first-order method then returns its best certified pair, with status
            ``"time limit"``; HiGHS has none to return, so that ``auto`` goes on with the
            first-order method. HiGHS may overrun the limit in its crossover.

        Raises
        ------
        ValueError
            For an unknown method, or a tolerance or time limit that is not positive.
        TimeoutError
            If ``"simplex"`` or ``"ipm"`` finds no solution within the limit.
        """
        check_method(method, tolerance, time_limit)
        found = _certified(self.packing(), method, tolerance, time_limit)
        return RobustSolution(**found, graph=self.graph)


def _length(size: int, m: int) -> int:
    # n with m**n = size.
    n = round(math.log(size, m)) if size > 0 else 0
    if n < 1 or m**n != size:
        raise ValueError(
            f"rho has {size} entries, which is no positive power of the alphabet's {m} symbols"
        )
    return n


def robust_type2(
    rho: ArrayLike,
    alpha: float,
    graph: PerturbationGraph | str = "hamming",
    *,
    epsilon: float = 0.0,
    num_edits: int = 1,
    num_symbols: int = 2,
    method: Method = "auto",
    time_limit: float | None = None,
) -> float:
    """Return the best robust Type II error at level alpha.

    Parameters
    ----------
    rho
        The model's law over the graph's elements; for ``"hamming"`` and ``"edit"`` over all
        strings of one length, in lexicographic order or of shape ``[num_symbols] * n``.
    alpha
        Type I level in (0, 1).
    graph
        A perturbation graph, ``"hamming"`` (substitutions) or ``"edit"`` (substitutions, insertions
        and deletions).
    epsilon
        Distortion budget in [0, 1), total variation.
    num_edits, num_symbols
        Edits and alphabet of the named graphs; not read for a graph.
    method, time_limit
        As in `RobustLP.solve`, which also gives the certified interval and the coupling.

    Returns
    -------
    float
        The error of a feasible watermark; at most the gap of `RobustLP.solve` above the optimum.

    Raises
    ------
    ValueError
        For a law, level, budget, graph or method that is not right, with the value.

    Examples
    --------
    >>> round(robust_type2([1 / 256] * 256, 0.02), 5)
    0.43111
    """
    if isinstance(graph, str):
        builders = {"hamming": hamming_graph, "edit": edit_graph}
        if graph not in builders:
            raise ValueError(f"graph must be a graph or one of {tuple(builders)}, got {graph!r}")
        if num_symbols < 2:
            raise ValueError(f"num_symbols must be at least 2, got {num_symbols}")
        n = _length(np.asarray(rho).size, num_symbols)
        graph = builders[graph](n, num_symbols, num_edits)
    return RobustLP(graph, rho, alpha, epsilon).solve(method, time_limit=time_limit).type2


def hamming_ball_type2(n: int, d: int, alpha: float, num_symbols: int = 2) -> float:
    """Return the best robust Type II error for uniform strings under d substitutions.

    ``(1 - alpha m**n / B)+`` with B the size of the Hamming ball: the covered mass summed over all
    balls is at most ``alpha m**n`` and counted B times. A distortion budget does not help.

    Parameters
    ----------
    n, d
        Length and number of substitutions.
    alpha
        Type I level in (0, 1).
    num_symbols
        Size m of the alphabet.

    Returns
    -------
    float
        Exact up to rounding for any n; in whole numbers and one logarithm.
    """
    check_alpha(alpha)
    if n < 1 or d < 0 or num_symbols < 2:
        raise ValueError(
            f"n >= 1, d >= 0 and num_symbols >= 2 are needed, got {n}, {d} and {num_symbols}"
        )
    ball = sum(math.comb(n, k) * (num_symbols - 1) ** k for k in range(min(d, n) + 1))
    log_covered = math.log(alpha) + n * math.log(num_symbols) - math.log(ball)
    return -math.expm1(log_covered) if log_covered < 0 else 0.0


def _types(n: int, m: int) -> NDArray[np.int64]:
    # int64[T, m]: all counts of m symbols in strings of length n, in lexicographic order of the
    # counts of the symbols 1, 2, …; binary types are in order of the count of symbol 1.
    bars = itertools.product(range(n + 1), repeat=m - 1)
    rest = np.array([row for row in bars if sum(row) <= n], dtype=np.int64)
    return np.column_stack([n - rest.sum(axis=1), rest])


def _flows(m: int, d: int) -> dict[tuple[int, ...], dict[tuple[int, ...], float]]:
    # For every change of counts, and every vector of how many symbols leave each kind, the sum over
    # the ways to do it (numbers of replacements a -> b, at most d) of 1 / (product of factorials).
    pairs = [(a, b) for a in range(m) for b in range(m) if a != b]
    flows: dict[tuple[int, ...], dict[tuple[int, ...], float]] = defaultdict(
        lambda: defaultdict(float)
    )
    for edits in range(d + 1):
        for chosen in itertools.combinations_with_replacement(range(len(pairs)), edits):
            leave, change, ways = [0] * m, [0] * m, 1.0
            for pair, group in itertools.groupby(chosen):
                count = sum(1 for _ in group)
                a, b = pairs[pair]
                leave[a] += count
                change[a] -= count
                change[b] += count
                ways /= math.factorial(count)
            flows[tuple(change)][tuple(leave)] += ways
    return flows


@dataclass(frozen=True, eq=False)
class RobustOrbitSolution(CertifiedValue):
    """Solution of `RobustOrbitLP`.

    Attributes
    ----------
    types_Tm
        Counts of the symbols in each type, int64; ``z_K`` and ``law_K`` are total masses of the
        types, float64[T], and ``u_J`` sums of multipliers over them.
    """

    types_Tm: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RobustOrbitLP:
    """The robust program under substitutions, for laws that depend on symbol counts only.

    Exchangeable laws on strings, such as independent equal tokens, have a best watermark that
    treats strings of a type (equal counts of every symbol) alike. With ``w_k`` the mass covered of
    type k: ``max sum_k w_k`` subject to ``sum_k w_k N_d(j, k) / C_k <= alpha`` for every type j,
    where ``C_k`` strings have type k, ``N_d(j, k)`` of them within d substitutions of one string of
    type j. Counts are kept as logarithms, so that n may be in the thousands.

    Parameters
    ----------
    n
        Length of the strings.
    probs
        Law of a token, ``[m]`` with m at most 4; a float is the probability of symbol 1 of two.
        ``None`` if ``type_masses`` is given with two symbols.
    alpha
        Type I level in (0, 1).
    d
        Number of substitutions.
    epsilon
        Distortion budget in [0, 1), total variation.
    type_masses
        Total mass of each type, float64[T] in the order of `types_Tm`, in place of independent
        tokens.

    Raises
    ------
    ValueError
        For a law, length, level, budget or number of edits that is not right, or if there are more
        than 32,768 types.
    """

    n: int
    probs: float | Sequence[float] | None
    alpha: float
    d: int
    epsilon: float = 0.0
    type_masses: ArrayLike | None = None
    types_Tm: NDArray[np.int64] = field(init=False)
    mass_T: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        from scipy.special import gammaln, xlogy

        n, d = self.n, self.d
        check_alpha(self.alpha)
        check_epsilon(self.epsilon)
        if n < 1 or d < 0:
            raise ValueError(f"length n >= 1 and edits d >= 0 are needed, got {n} and {d}")
        probs_m = self._token_law()
        m = probs_m.size
        num_types = math.comb(n + m - 1, m - 1)
        if num_types > MAX_ELEMENTS:
            raise ValueError(
                f"strings of length {n} over {m} symbols have {num_types} types, more than "
                f"{MAX_ELEMENTS}; take shorter strings or merge symbols"
            )
        num_flows = math.comb(min(d, n) + m * (m - 1), m * (m - 1))
        if num_flows > MAX_FLOWS:
            raise ValueError(
                f"{d} edits over {m} symbols can be made in {num_flows} ways, more than "
                f"{MAX_FLOWS}; take fewer edits or merge symbols"
            )
        types_Tm = _types(n, m)
        if self.type_masses is None:
            log_size_T = gammaln(n + 1) - gammaln(types_Tm + 1).sum(axis=1)
            mass_T = np.exp(log_size_T + xlogy(types_Tm, probs_m).sum(axis=1))
        else:
            mass_T = np.asarray(self.type_masses, dtype=np.float64)
            if mass_T.shape != (num_types,):
                raise ValueError(f"type_masses must have shape ({num_types},), got {mass_T.shape}")
        object.__setattr__(self, "types_Tm", types_Tm)
        object.__setattr__(self, "mass_T", check_law(mass_T, "type_masses"))

    def _token_law(self) -> NDArray[np.float64]:
        if self.probs is None:
            if self.type_masses is None:
                raise ValueError("give probs, or type_masses for strings over two symbols")
            return np.array([0.5, 0.5])
        probs = np.asarray(self.probs, dtype=np.float64)
        if probs.ndim == 0:
            if not 0 <= probs <= 1:
                raise ValueError(f"the probability of symbol 1 must lie in [0, 1], got {probs}")
            return np.array([1 - probs, probs])
        if probs.ndim != 1 or not 2 <= probs.size <= MAX_SYMBOLS:
            raise ValueError(
                f"probs must have shape [m] with m from 2 to {MAX_SYMBOLS}, got {probs.shape}"
            )
        return check_law(probs, "probs")

    def packing(self) -> Packing:
        """Return the program in the form that the solvers take."""
        from scipy import sparse
        from scipy.special import gammaln

        n, types_Tm = self.n, self.types_Tm
        T, m = types_Tm.shape
        log_factorial = gammaln(np.arange(n + 1) + 1.0)
        log_size_T = log_factorial[n] - log_factorial[types_Tm].sum(axis=1)
        code = (n + 1) ** np.arange(m - 2, -1, -1)
        codes_T = types_Tm[:, 1:] @ code
        rows, columns, log_counts, terms = [], [], [], 0
        for change, groups in _flows(m, min(self.d, n)).items():
            log_count_T = np.full(T, -np.inf)
            terms = max(terms, len(groups))
            for leave, ways in groups.items():
                can = np.flatnonzero((types_Tm >= leave).all(axis=1))
                left = types_Tm[can]
                term = (log_factorial[left] - log_factorial[left - leave]).sum(axis=1)
                log_count_T[can] = np.logaddexp(log_count_T[can], term + math.log(ways))
            j = np.flatnonzero(log_count_T > -np.inf)
            rows.append(j)
            columns.append(np.searchsorted(codes_T, codes_T[j] + np.dot(change[1:], code)))
            log_counts.append(log_count_T[j])
        row, column = np.concatenate(rows), np.concatenate(columns)
        # One string of type j sees the share exp(log_share) of the strings of type k.
        log_share = np.concatenate(log_counts) - log_size_T[column]
        log_top_T = np.full(T, -np.inf)
        np.maximum.at(log_top_T, column, log_share)
        # z in units of what a type can hold at most, which keeps every entry in [0, 1] although
        # shares span hundreds of orders of magnitude.
        room_T = np.maximum(self.mass_T, self.epsilon)
        log_room_T = np.log(np.where(room_T > 0, room_T, 1.0))
        log_unit_T = np.minimum(log_room_T, math.log(self.alpha) - log_top_T)
        log_unit_T = np.maximum(log_unit_T, LOG_SMALLEST_UNIT)
        entries = np.exp(log_share + log_unit_T[column] - math.log(self.alpha))
        matrix = sparse.csr_array((entries, (row, column)), shape=(T, T))
        return Packing(
            matrix,
            np.exp(log_unit_T),
            self.mass_T,
            float(self.alpha),
            float(self.epsilon),
            np.ones(T, dtype=bool),
            (COUNT_ROUNDINGS + terms) * UNIT_ROUNDOFF * (1 + float(log_factorial[n])),
        )

    def solve(
        self,
        method: Method = "auto",
        tolerance: float = TOLERANCE,
        time_limit: float | None = None,
    ) -> RobustOrbitSolution:
        """Solve the program; parameters and errors as in `RobustLP.solve`."""
        check_method(method, tolerance, time_limit)
        found = _certified(self.packing(), method, tolerance, time_limit)
        return RobustOrbitSolution(**found, types_Tm=self.types_Tm)


def robust_type2_orbit(
    n: int,
    probs: float | Sequence[float] | None,
    alpha: float,
    d: int,
    *,
    epsilon: float = 0.0,
    type_masses: ArrayLike | None = None,
) -> float:
    """Return the best robust Type II error under d substitutions for exchangeable strings.

    Equal to `robust_type2` on the Hamming graph, but over counts of symbols, so that strings may
    have thousands of tokens. `RobustOrbitLP` has the same parameters and also gives the certified
    interval.

    Examples
    --------
    >>> round(robust_type2_orbit(8, 0.1, 0.05, 1), 8)
    0.76310473
    """
    return RobustOrbitLP(n, probs, alpha, d, epsilon, type_masses).solve().type2


def robust_curve(
    n: int,
    probs: float | Sequence[float],
    alpha: float,
    ds: Iterable[int],
    *,
    epsilon: float = 0.0,
) -> NDArray[np.float64]:
    """Return `robust_type2_orbit` for several numbers of substitutions, float64 in their order."""
    return np.array([robust_type2_orbit(n, probs, alpha, d, epsilon=epsilon) for d in ds])
