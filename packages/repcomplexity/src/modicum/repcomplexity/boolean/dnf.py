"""The fewest terms of a disjunctive, and clauses of a conjunctive, normal form.

That is the size of depth-2 circuits. The minimum is a set cover of the inputs where f is true by
its prime implicants: essential primes and dominance reduce it, an integer program solves what is
left. A time limit gives an interval around the minimum, never a guess.

Sources: Quine, "The problem of simplifying truth functions" (1952) and McCluskey, "Minimization of
Boolean functions" (1956) for primes and covers; Minato, "Fast generation of prime-irredundant
covers from binary decision diagrams" (1993) for irredundant sums of products.

Shapes: m inputs, P primes, R inputs to cover.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse.csgraph import connected_components

from modicum.repcomplexity.bits import all_codes, check_limit, deposit
from modicum.repcomplexity.boolean.influence import influences, total_influence
from modicum.repcomplexity.boolean.ternary import (
    MAX_TERNARY_INPUTS,
    Terms,
    implicants,
    primes,
    ternary_codes,
)
from modicum.repcomplexity.boolean.truth_table import TruthTable

__all__ = [
    "MAX_ISOP_INPUTS",
    "NormalForm",
    "dnf_bounds",
    "independent_ones",
    "is_unate",
    "isop",
    "minimum_cnf",
    "minimum_dnf",
    "restricted_dnf_bound",
]

MAX_ISOP_INPUTS = 22
"""Most inputs for an irredundant sum of products, which can have two million terms there."""

# Entries of the cover matrix (12 bytes each) beyond which only bounds are given.
_MAX_ENTRIES = 50_000_000
# Products that the search for dominated rows or columns may take.
_MAX_PRODUCTS = 200_000_000
# HiGHS calls a solution dual feasible when no reduced cost is wrong by more than this. Columns are
# at most 1, so its bound can be too high by as much for each row and column.
_DUAL_TOLERANCE = 1e-7


@dataclass(frozen=True, eq=False)
class NormalForm:
    """A normal form and what is known about the smallest one.

    Attributes
    ----------
    form
        ``"dnf"``: `terms` are those of f. ``"cnf"``: they are those of ``¬f``, and each clause of f
        is the negation of one.
    lower
        No form has fewer terms.
    terms
        The form found.
    method
        What settled or ended the search: ``"constant"``, ``"unate"``, ``"reduction"`` (essential
        primes and dominance alone), ``"milp"`` or ``"bounds"``.
    """

    form: str
    lower: int
    terms: Terms
    method: str

    @property
    def upper(self) -> int:
        """Number of terms of the form found."""
        return len(self.terms)

    @property
    def proved(self) -> bool:
        """Whether the form found is a smallest one."""
        return self.lower == self.upper

    @property
    def width(self) -> int:
        """Most literals of a term of the form found; 0 without terms."""
        return int(self.terms.widths.max(initial=0))

    @property
    def gates(self) -> int:
        """Gates of the circuit of depth 2: terms of two literals or more, and one to join them."""
        return int((self.terms.widths >= 2).sum()) + (self.upper > 1)

    def table(self) -> TruthTable:
        """Return the function that the form computes."""
        joined = self.terms.table()
        return joined if self.form == "dnf" else ~joined


def minimum_dnf(table: TruthTable, *, time_limit: float = 60.0) -> NormalForm:
    """Find the fewest terms of a disjunctive normal form.

    Parameters
    ----------
    table
        A function of at most `MAX_TERNARY_INPUTS` inputs.
    time_limit
        Seconds for the integer programs, positive; ``math.inf`` for no limit. When they run out
        the result is an interval. Reductions before them are not interrupted.

    Returns
    -------
    NormalForm
        ``lower == upper`` where the minimum is proved. The false function has no term, the true
        one a term without literals. A function that is monotone or antitone in every input needs
        all of its primes, and no search.

    Raises
    ------
    ComplexityLimitError
        If there are too many inputs.
    ValueError
        If the time limit is not positive.
    """
    if not time_limit > 0:
        raise ValueError(f"time_limit must be positive, not {time_limit!r}")
    deadline = time.monotonic() + time_limit
    terms = primes(table)
    if table.is_constant():
        return NormalForm("dnf", len(terms), terms, "constant")
    if is_unate(table):
        return NormalForm("dnf", len(terms), terms, "unate")
    if _entries(terms) > _MAX_ENTRIES:
        return dnf_bounds(table)
    matrix = _cover_matrix(table, terms)
    chosen, rows, columns = _reduce(matrix)
    if not rows.size:
        return NormalForm("dnf", len(chosen), terms[chosen], "reduction")
    lower = len(chosen)
    for part_rows, part_columns in _components(matrix, rows, columns):
        part = matrix[part_rows][:, part_columns]
        part_lower, cover = _cover(part, deadline)
        lower += part_lower
        chosen = np.concatenate((chosen, part_columns[cover]))
    found = NormalForm("dnf", lower, terms[np.sort(chosen)], "milp")
    return found if found.proved else _tighten(found, dnf_bounds(table))


def minimum_cnf(table: TruthTable, *, time_limit: float = 60.0) -> NormalForm:
    """Find the fewest clauses of a conjunctive normal form: the terms that ``¬f`` needs.

    Parameters, result and errors as for `minimum_dnf`.
    """
    return replace(minimum_dnf(~table, time_limit=time_limit), form="cnf")


def dnf_bounds(table: TruthTable) -> NormalForm:
    """Bound the fewest terms without a search: `isop` above, `independent_ones` below.

    Of a function of more than `MAX_TERNARY_INPUTS` inputs the lower bound is that of a part of it:
    fixing inputs never adds terms. The inputs of least influence are fixed, each to the value that
    leaves more influence.

    Raises
    ------
    ComplexityLimitError
        If there are more than `MAX_ISOP_INPUTS` inputs.
    """
    terms = isop(table)
    return NormalForm("dnf", len(independent_ones(_influential_part(table))), terms, "bounds")


def restricted_dnf_bound(
    table: TruthTable, fixed: Mapping[int, int], *, time_limit: float = 60.0
) -> int:
    """Bound the fewest terms of a DNF from below by those of a part of the function.

    Fixing an input never adds terms: in a form of the whole function the literals of that input
    become constants.

    Parameters
    ----------
    table
        A function.
    fixed
        The value, 0 or 1, of each fixed input; at most `MAX_TERNARY_INPUTS` are left free.
    time_limit
        As for `minimum_dnf`.

    Raises
    ------
    ComplexityLimitError
        If too many inputs are left free.
    ValueError
        If an input does not exist, a value is neither 0 nor 1, or the time limit not positive.
    """
    return minimum_dnf(table.restrict(fixed), time_limit=time_limit).lower


def is_unate(table: TruthTable) -> bool:
    """Tell whether f is monotone or antitone in each input: its primes are then all essential."""
    values = table.values
    for index in range(table.n_inputs):
        pairs = values.reshape(-1, 2, 1 << index)
        low, high = pairs[:, 0], pairs[:, 1]
        if (low & ~high).any() and (high & ~low).any():
            return False
    return True


def isop(table: TruthTable) -> Terms:
    """Return an irredundant disjunction of prime implicants, by the recursion of Minato–Morreale.

    Dropping any term changes the function, but another form may have fewer terms.

    Raises
    ------
    ComplexityLimitError
        If there are more than `MAX_ISOP_INPUTS` inputs.
    """
    check_limit(
        "the number of inputs",
        table.n_inputs,
        MAX_ISOP_INPUTS,
        cost=f"up to {2.0 ** (table.n_inputs - 1):,.0f} terms",
        alternative="fix some inputs",
    )
    number = table.to_int()
    pairs, _ = _isop(number, number, table.n_inputs)
    care = np.array([pair[0] for pair in pairs], dtype=np.int64)
    polarity = np.array([pair[1] for pair in pairs], dtype=np.int64)
    return Terms(table.n_inputs, care, polarity)


def independent_ones(table: TruthTable) -> np.ndarray:
    """Return inputs where f is true no two of which an implicant covers, int64, increasing.

    Their number is a lower bound on the terms of any DNF. The set is greedy: those with the fewest
    implicants are taken first.

    Raises
    ------
    ComplexityLimitError
        If there are more than `MAX_TERNARY_INPUTS` inputs.
    """
    holds = implicants(table)
    ternary = ternary_codes(all_codes(table.n_inputs), table.n_inputs)
    ones = np.flatnonzero(table.values)
    left = ones[np.argsort(_implicants_at(holds, table.n_inputs)[ones], kind="stable")]
    chosen = []
    while left.size:
        one, left = left[0], left[1:]
        chosen.append(one)
        # The subcube that two inputs span has their common bits, and a dash where they differ.
        spanned = ternary[one & left] + 2 * ternary[one ^ left]
        left = left[~holds[spanned]]
    return np.sort(np.array(chosen, dtype=np.int64))


def _influential_part(table: TruthTable) -> TruthTable:
    while table.n_inputs > MAX_TERNARY_INPUTS:
        index = int(influences(table).argmin())
        table = max((table.cofactor(index, value) for value in (0, 1)), key=total_influence)
    return table


def _isop(lower: int, upper: int, n_inputs: int) -> tuple[list[tuple[int, int]], int]:
    """Cover everything in `lower` and nothing outside `upper`, truth tables as integers.

    Returns pairs of care and polarity, and the function they cover.
    """
    everything = (1 << (1 << n_inputs)) - 1
    if not lower:
        return [], 0
    if upper == everything:
        return [(0, 0)], everything
    half, bit = 1 << (n_inputs - 1), 1 << (n_inputs - 1)
    mask = (1 << half) - 1
    lower_0, lower_1 = lower & mask, lower >> half
    upper_0, upper_1 = upper & mask, upper >> half
    # What only terms with the literal can cover, either way; then the rest without it.
    terms_0, cover_0 = _isop(lower_0 & ~upper_1, upper_0, n_inputs - 1)
    terms_1, cover_1 = _isop(lower_1 & ~upper_0, upper_1, n_inputs - 1)
    rest = (lower_0 & ~cover_0) | (lower_1 & ~cover_1)
    terms, cover = _isop(rest, upper_0 & upper_1, n_inputs - 1)
    terms = terms + [(care | bit, polarity) for care, polarity in terms_0]
    terms += [(care | bit, polarity | bit) for care, polarity in terms_1]
    return terms, (cover | cover_0) | ((cover | cover_1) << half)


def _implicants_at(holds: np.ndarray, n_inputs: int) -> np.ndarray:
    """Count the implicants that contain each input."""
    counts = holds.astype(np.int64)
    for index in range(n_inputs):
        slices = counts.reshape(-1, 3, 1 << index)
        counts = (slices[:, :2] + slices[:, 2:]).reshape(-1)
    return counts


def _tighten(found: NormalForm, other: NormalForm) -> NormalForm:
    terms = min(found.terms, other.terms, key=len)
    return NormalForm(found.form, max(found.lower, other.lower), terms, found.method)


def _entries(terms: Terms) -> int:
    return int((1 << (terms.n_inputs - terms.widths)).sum())


def _cover_matrix(table: TruthTable, terms: Terms) -> sparse.csr_matrix:
    """Which prime is true on which one: int32 ``(R, P)``."""
    row_of = np.cumsum(table.values) - 1
    rows, columns = [], []
    for care in np.unique(terms.care):
        column = np.flatnonzero(terms.care == care)
        free = [index for index in range(terms.n_inputs) if not (int(care) >> index) & 1]
        covered = terms.polarity[column][:, None] | deposit(all_codes(len(free)), free)
        rows.append(row_of[covered].ravel())
        columns.append(np.repeat(column, covered.shape[1]))
    row, column = np.concatenate(rows), np.concatenate(columns)
    shape = (table.count_ones(), len(terms))
    return sparse.csr_matrix((np.ones(len(row), dtype=np.int32), (row, column)), shape=shape)


def _reduce(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take essential columns and drop dominated rows and columns until nothing changes.

    Returns the columns taken, and the rows and columns that are left.
    """
    rows, columns = np.arange(matrix.shape[0]), np.arange(matrix.shape[1])
    taken: list[int] = []
    while rows.size:
        core = matrix[rows][:, columns]
        lonely = np.flatnonzero(core.getnnz(axis=1) == 1)
        if lonely.size:
            essential = np.unique(core[lonely].indices)
            taken += columns[essential].tolist()
            rows = rows[core[:, essential].getnnz(axis=1) == 0]
            columns = np.delete(columns, essential)
            continue
        # A column within another is of no use; a row that contains another is covered with it.
        useful = ~_dominated(core.T.tocsr(), smaller=True)
        columns, core = columns[useful], core[:, useful]
        needed = ~_dominated(core, smaller=False)
        if useful.all() and needed.all():
            break
        rows = rows[needed]
    return np.array(taken, dtype=np.int64), rows, columns


def _dominated(sets: sparse.csr_matrix, *, smaller: bool) -> np.ndarray:
    """Tell which rows, as sets, lie within another row, or contain another; of equals one stays."""
    drop = np.zeros(sets.shape[0], dtype=np.bool_)
    sizes = sets.getnnz(axis=1)
    per_column = sets.getnnz(axis=0).astype(np.int64)
    if int((per_column**2).sum()) > _MAX_PRODUCTS:
        return drop | (sizes == 0) if smaller else drop
    common = (sets @ sets.T).tocoo()
    within = (common.data == sizes[common.row]) & (common.row != common.col)
    inner, outer = common.row[within], common.col[within]
    strict = sizes[inner] < sizes[outer]
    if smaller:
        drop[inner[strict | (outer < inner)]] = True
        return drop | (sizes == 0)
    drop[outer[strict | (inner < outer)]] = True
    return drop


def _components(
    matrix: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split what is left into parts that share no row, smallest first."""
    core = matrix[rows][:, columns]
    graph = sparse.bmat([[None, core], [core.T, None]])
    count, labels = connected_components(graph, directed=False)
    row_labels, column_labels = labels[: rows.size], labels[rows.size :]
    parts = [(rows[row_labels == k], columns[column_labels == k]) for k in range(count)]
    return sorted(parts, key=lambda part: part[0].size)


def _cover(part: sparse.csr_matrix, deadline: float) -> tuple[int, np.ndarray]:
    """Return a lower bound on the columns that cover all rows, and columns that do."""
    cover = _greedy_cover(part)
    # No column covers more rows than the greatest.
    lower = math.ceil(part.shape[0] / part.getnnz(axis=0).max())
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        return lower, cover
    options = {"mip_rel_gap": 0.0}
    if math.isfinite(seconds):
        options["time_limit"] = seconds
    size = part.shape[1]
    result = milp(
        np.ones(size),
        constraints=LinearConstraint(part.astype(np.float64), lb=1.0),
        bounds=Bounds(0, 1),
        integrality=np.ones(size),
        options=options,
    )
    if result.x is not None:
        found = np.flatnonzero(result.x > 0.5)
        if len(found) < len(cover) and (part[:, found].getnnz(axis=1) > 0).all():
            cover = found
    bound = result.mip_dual_bound
    if bound is not None and math.isfinite(bound):
        # Rounded up, a bound of 11.0001 would certify 12; one of 12 at the optimum stays 12.
        lower = max(lower, math.ceil(bound - _DUAL_TOLERANCE * max(10, sum(part.shape))))
    return lower, cover


def _greedy_cover(part: sparse.csr_matrix) -> np.ndarray:
    """Take the column that covers most of what is left, until nothing is."""
    open_rows = np.ones(part.shape[0], dtype=np.int64)
    by_column = part.T.tocsr()
    chosen = []
    while open_rows.any():
        best = int((by_column @ open_rows).argmax())
        chosen.append(best)
        open_rows[by_column[best].indices] = 0
    return np.array(chosen, dtype=np.int64)
