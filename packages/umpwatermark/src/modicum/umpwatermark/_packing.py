"""Packing programs with certificates: solvers, and repairs that make their answers proofs.

The program is ``max sum z`` subject to ``sum_k C[j, k] z_k <= alpha`` for every row j and
``0 <= z <= mass``, with ``C >= 0``; under a distortion budget the mass itself may be moved, epsilon
in total variation. A distorted law that dominates z exists exactly if the part of z above ``mass``
sums to at most epsilon and z to at most 1, so that the budget adds one group of variables and two
rows. The dual value of any ``u >= 0`` is
``alpha sum u + max sum_k law_k (1 - sum_j C[j, k] u_j)+`` over the laws within epsilon of ``mass``.

Whatever a solver returns, z is scaled down and u clipped until both hold in real arithmetic, with
the rounding of every sum bounded outwards: primal and dual value then enclose the optimum. Knows
nothing of texts or graphs.

Legend: ``J`` rows, ``K`` columns of C; ``s`` the variables in units: ``z = unit * s``.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["auto", "simplex", "ipm", "first-order"]
METHODS: tuple[Method, ...] = ("auto", "simplex", "ipm", "first-order")
HIGHS = {"simplex": "highs-ds", "ipm": "highs-ipm"}

HIGHS_TOLERANCE = 1e-9
"""Feasibility asked of HiGHS; its default 1e-7 would show in the certificate."""

AUTO_ENTRIES = 20_000
"""Entries of C up to which HiGHS answers in a few seconds whatever the law."""

MAX_ITERATIONS = 200_000
"""Where the first-order method gives up without a time limit."""

CHECK_EVERY = 40
"""First-order steps between two certificates."""

UNIT_ROUNDOFF = 2.0**-53

SUM_SLACK = 16 * UNIT_ROUNDOFF
"""Relative margin of a correctly rounded sum and the few operations around it."""

SMALLEST = 1e-100
"""Divisors below this are taken as this."""

BINDING = 1 - 1e-9
"""Rows that cannot reach this share of their limit are left out."""

FIRST_ORDER_RESTART = (0.2, 0.8, 0.36)
"""Restarts of PDLP (arXiv 2106.04756): sufficient and necessary decay, artificial length."""


@dataclass(frozen=True, eq=False)
class Packing:
    """The program in scaled form: ``matrix @ s <= 1``, where ``matrix = C * unit / alpha``.

    Parameters
    ----------
    matrix_JK
        ``scipy.sparse.csr_array`` of float64, nonnegative, no empty column.
    unit_K
        Positive; z in units of it.
    mass_K
        A law.
    alpha, epsilon
        Level and distortion budget.
    movable_K
        Where the budget may put mass; all of ``mass_K`` lies there.
    coefficient_error
        Relative error of the entries of the matrix.
    """

    matrix_JK: Any
    unit_K: NDArray[np.float64]
    mass_K: NDArray[np.float64]
    alpha: float
    epsilon: float
    movable_K: NDArray[np.bool_]
    coefficient_error: float = 0.0
    transpose_KJ: Any = field(init=False)
    slack: float = field(init=False)

    def __post_init__(self) -> None:
        from scipy import sparse

        transpose = sparse.csr_array(self.matrix_JK.T)
        object.__setattr__(self, "transpose_KJ", transpose)
        longest = max(np.diff(self.matrix_JK.indptr).max(), np.diff(transpose.indptr).max())
        slack = (int(longest) + 16) * UNIT_ROUNDOFF + self.coefficient_error
        object.__setattr__(self, "slack", slack)

    def primal(self, z_K: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Return a feasible z at or below the given one, and a lower bound of its sum."""
        z_K = np.maximum(np.nan_to_num(z_K), 0.0)
        base_K = np.minimum(z_K, self.mass_K)
        if self.epsilon:
            excess_K = np.where(self.movable_K, z_K - base_K, 0.0)
            moved = math.fsum(excess_K)
            if moved > self.epsilon * (1 - SUM_SLACK):
                excess_K *= self.epsilon / moved * (1 - 2 * SUM_SLACK)
            base_K = base_K + excess_K
        total = math.fsum(base_K)
        if total > 1:
            base_K = base_K / (total * (1 + SUM_SLACK))
        load_J = (self.matrix_JK @ (base_K / self.unit_K)) * (1 + 2 * self.slack)
        # Every column has an entry, so that each segment of reduceat is its own column.
        worst_K = np.maximum.reduceat(
            load_J[self.transpose_KJ.indices], self.transpose_KJ.indptr[:-1]
        )
        z_K = base_K / np.maximum(worst_K, 1.0)
        return z_K, min(max(math.nextafter(math.fsum(z_K), -1.0), 0.0), 1.0)

    def law(self, z_K: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the law within epsilon of ``mass`` that dominates a feasible z."""
        short_K = np.maximum(self.mass_K - z_K, 0.0)
        moved = math.fsum(np.maximum(z_K - self.mass_K, 0.0))
        if not moved:
            return self.mass_K
        short = math.fsum(short_K)
        kept = 1 - moved / short if moved < short else 0.0
        return z_K + kept * short_K

    def dual(self, u_J: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Return nonnegative multipliers and an upper bound of what they bound the optimum by."""
        # A little more than was asked, so that what is paid for in full stays so after rounding.
        u_J = np.maximum(np.nan_to_num(u_J), 0.0) * (1 + 4 * self.slack)
        price_K = (self.transpose_KJ @ u_J) * (self.alpha / self.unit_K)
        # What an element is still worth once its rows are paid for.
        worth_K = np.maximum(1 - price_K * (1 - self.slack) + 2 * UNIT_ROUNDOFF, 0.0)
        paid = self.alpha * math.fsum(u_J)
        if self.epsilon:
            # The budget moves mass from the least to the most worth; any level gives a bound, the
            # epsilon-quantile of the worth the best one.
            top = float(worth_K[self.movable_K].max())
            order = np.argsort(worth_K)
            below = int(np.searchsorted(np.cumsum(self.mass_K[order]), self.epsilon))
            level = min(float(worth_K[order[min(below, order.size - 1)]]), top)
            paid += self.epsilon * (top - level)
            worth_K = np.maximum(worth_K, level)
        value = (paid + math.fsum(self.mass_K * worth_K)) * (1 + SUM_SLACK)
        return (u_J, value) if value < 1 else (np.zeros_like(u_J), 1.0)


@dataclass(frozen=True, eq=False)
class Pair:
    """A feasible primal and dual pair, and how it was found."""

    z_K: NDArray[np.float64]
    u_J: NDArray[np.float64]
    primal: float
    dual: float
    method: str
    status: str
    iterations: int


@dataclass(frozen=True, eq=False)
class _Program:
    """``max gain @ v`` subject to ``rows @ v <= limit`` and ``0 <= v <= bound``, for solvers."""

    rows: Any
    limit: NDArray[np.float64]
    gain: NDArray[np.float64]
    bound: NDArray[np.float64]
    start: NDArray[np.float64]
    kept_J: NDArray[np.int64]
    kept_K: NDArray[np.int64]
    scale: float
    packing: Packing

    def z(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return z of the packing."""
        z_K = np.zeros(self.packing.mass_K.size)
        np.add.at(z_K, self.kept_K, v * self.packing.unit_K[self.kept_K])
        return z_K

    def u(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the multipliers of the packing's rows."""
        u_J = np.zeros(self.packing.matrix_JK.shape[0])
        u_J[self.kept_J] = y[: self.kept_J.size] * self.scale / self.packing.alpha
        return u_J


def _program(packing: Packing) -> _Program:
    from scipy import sparse

    p = packing
    top_K = np.maximum.reduceat(p.transpose_KJ.data, p.transpose_KJ.indptr[:-1])
    room_K = 1 / np.maximum(top_K, SMALLEST)
    kept_K = np.flatnonzero(p.mass_K > 0)
    most = p.mass_K[kept_K] / p.unit_K[kept_K]
    if p.epsilon:
        moved_K = np.flatnonzero(p.movable_K)
        first_extra = kept_K.size
        kept_K = np.concatenate([kept_K, moved_K])
        most = np.concatenate([most, p.epsilon / p.unit_K[moved_K]])
    matrix = p.matrix_JK[:, kept_K]
    kept_J = np.flatnonzero(matrix @ most > BINDING)
    matrix = matrix[kept_J]
    # A bound that a row implies is left to the row: its multiplier belongs into u.
    room = room_K[kept_K]
    bound = np.where(most < room, most, np.inf)
    limit = np.ones(kept_J.size)
    scale = float(p.unit_K[kept_K].max())
    gain = p.unit_K[kept_K] / scale
    if p.epsilon:
        extra_row = np.where(np.arange(kept_K.size) >= first_extra, gain, 0.0)
        matrix = sparse.vstack([matrix, sparse.csr_array(np.stack([extra_row, gain]))])
        limit = np.concatenate([limit, [p.epsilon / scale, 1 / scale]])
    return _Program(
        sparse.csr_array(matrix),
        limit,
        gain,
        bound,
        np.minimum(most, room),
        kept_J,
        kept_K,
        scale,
        packing,
    )


def _highs(program: _Program, method: str, time_limit: float | None) -> Pair | None:
    # None: HiGHS stopped at its time limit, where SciPy hands out no solution.
    from scipy.optimize import linprog

    options: dict[str, Any] = {
        "primal_feasibility_tolerance": HIGHS_TOLERANCE,
        "dual_feasibility_tolerance": HIGHS_TOLERANCE,
    }
    if time_limit is not None:
        options["time_limit"] = time_limit
    result = linprog(
        -program.gain,
        A_ub=program.rows,
        b_ub=program.limit,
        bounds=np.stack([np.zeros_like(program.bound), program.bound], axis=1),
        method=HIGHS[method],
        options=options,
    )
    if result.x is None or result.ineqlin.marginals is None:
        if result.status == 1:
            return None
        raise RuntimeError(f"HiGHS found no solution: {result.message}")
    z_K, primal = program.packing.primal(program.z(result.x))
    u_J, dual = program.packing.dual(program.u(-result.ineqlin.marginals))
    return Pair(z_K, u_J, primal, dual, method, "optimal", int(result.nit))


def _first_order(program: _Program, tolerance: float, time_limit: float | None) -> Pair:
    """Solve by reflected, restarted primal-dual steps (PDHG with Halpern anchors).

    Costs two products with the matrix per step, holds a certified pair from the start and returns
    the best one seen.
    """
    from scipy import sparse

    start = time.perf_counter()
    rows, columns = program.rows, sparse.csr_array(program.rows.T)
    gain, limit, bound = program.gain, program.limit, program.bound
    packing = program.packing
    v = np.zeros_like(bound)
    # Diagonal steps of Pock and Chambolle (2011): tau and sigma are one over the row sums.
    tau = 1 / np.maximum(np.asarray(columns.sum(axis=1)).ravel(), SMALLEST)
    sigma = 1 / np.maximum(np.asarray(rows.sum(axis=1)).ravel(), SMALLEST)
    y = np.zeros_like(limit)
    v_anchor, y_anchor, since = v, y, 0
    weight, gap_restart, gap_before = 1.0, math.inf, math.inf
    z_K, primal = packing.primal(program.z(program.start))
    u_J, dual = packing.dual(program.u(y))
    iterations, status = 0, "optimal"
    sufficient, necessary, artificial = FIRST_ORDER_RESTART
    while dual - primal > tolerance:
        if time_limit is not None and time.perf_counter() - start >= time_limit:
            status = "time limit"
            break
        if iterations >= MAX_ITERATIONS:
            status = "iteration limit"
            break
        for _ in range(CHECK_EVERY):
            v_next = np.clip(v + weight * tau * (gain - columns @ y), 0.0, bound)
            y_next = np.maximum(y + sigma / weight * (rows @ (2 * v_next - v) - limit), 0.0)
            since += 1
            iterations += 1
            trust = since / (since + 1)
            v = trust * (2 * v_next - v) + (1 - trust) * v_anchor
            y = trust * (2 * y_next - y) + (1 - trust) * y_anchor
            if time_limit is not None and time.perf_counter() - start >= time_limit:
                break
        z_now_K, primal_now = packing.primal(program.z(v_next))
        u_now_J, dual_now = packing.dual(program.u(y_next))
        if primal_now > primal:
            z_K, primal = z_now_K, primal_now
        if dual_now < dual:
            u_J, dual = u_now_J, dual_now
        gap = dual_now - primal_now
        if (
            gap < sufficient * gap_restart
            or (gap < necessary * gap_restart and gap > gap_before)
            or since > artificial * iterations
        ):
            v_way = math.sqrt(float(((v_next - v_anchor) ** 2 / tau).sum()))
            y_way = math.sqrt(float(((y_next - y_anchor) ** 2 * (1 / sigma)).sum()))
            if v_way > 0 and y_way > 0:
                weight = math.sqrt(weight * v_way / y_way)
            v, y = v_next, y_next
            v_anchor, y_anchor, since, gap_restart = v, y, 0, gap
        gap_before = gap
    return Pair(z_K, u_J, primal, dual, "first-order", status, iterations)


def check_method(method: str, tolerance: float, time_limit: float | None) -> None:
    """Validate how a program is to be solved.

    Raises
    ------
    ValueError
        For an unknown method, or a tolerance or time limit that is not positive.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance!r}")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be a positive number of seconds, got {time_limit!r}")


def solve(
    packing: Packing, method: str, tolerance: float = 1e-7, time_limit: float | None = None
) -> Pair:
    """Solve a program and return a feasible pair.

    Parameters
    ----------
    packing
        The program.
    method
        ``"simplex"`` or ``"ipm"`` (interior point with crossover), both HiGHS; ``"first-order"``;
        ``"auto"`` takes ``ipm`` up to ``AUTO_ENTRIES`` entries, ``first-order`` above and where the
        time limit stops HiGHS.
    tolerance
        Gap at which ``first-order`` is content; HiGHS does not read it.
    time_limit
        Seconds, building of the program not counted. HiGHS may overrun it, since it does not look
        at the clock in its crossover.

    Raises
    ------
    ValueError
        For an unknown method, or a tolerance or time limit that is not positive.
    TimeoutError
        If HiGHS, asked for by name, finds nothing within the limit.
    """
    check_method(method, tolerance, time_limit)
    program = _program(packing)
    if not program.kept_J.size and not packing.epsilon:
        # No row can bind: all of the mass is covered.
        z_K, primal = packing.primal(program.z(program.start))
        u_J, dual = packing.dual(np.zeros(packing.matrix_JK.shape[0]))
        return Pair(z_K, u_J, primal, dual, "closed form", "optimal", 0)
    small = program.rows.nnz <= AUTO_ENTRIES
    if method == "first-order" or (method == "auto" and not small):
        return _first_order(program, tolerance, time_limit)
    start = time.perf_counter()
    pair = _highs(program, "ipm" if method == "auto" else method, time_limit)
    if pair is not None:
        return pair
    if method != "auto":
        raise TimeoutError(
            f"HiGHS ({method}) found no solution within {time_limit} s, and leaves no bounds "
            "behind; give it longer, or take method='first-order', which has certified bounds from "
            "its first step"
        )
    left = max(float(time_limit or 0) - (time.perf_counter() - start), 0.0)
    return _first_order(program, tolerance, left)
