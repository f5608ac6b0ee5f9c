"""What the published error measures depend on besides errors: units, offsets, rows, dimensions.

Predictions are fixed and only what they are measured in changes: rewards in another unit, and with
them Q and its predictions; a constant added to Q and its predictions; more dimensions. A measure of
how hard a function is to represent should not move. Then the figures of the paper's logs are taken
apart: what is the error of a network, and what is the unit of its target.

Predictions are those of a linear model, fitted by least squares; any others would do.

Sources: Zhu, Huang, Russell, arXiv 2310.01706, its code and run logs; Feng, Zhong, arXiv
2312.17248, whose figures are read off its plots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.repcomplexity.collection import sample_bit_mdp
from modicum.repcomplexity.data import TARGETS, RolloutData
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.metrics import (
    ZHU_BATCH_SIZE,
    ErrorSums,
    feng2023,
    fvu,
    nrmse,
    nrmse_uncentred,
    zhu2024,
)

FACTORS = (0.1, 1.0, 10.0)
"""Units of the rewards."""
OFFSETS = (1.0, 10.0, 100.0)
"""Constants added to Q, in the unit of the rewards."""
ROUNDING = 1e-12
"""Relative error that counts as exact in float64."""
UNCHANGED = 1e-6
"""Most by which a measure may move, relative to itself, and count as unchanged."""
METRICS: dict[str, Callable[[ErrorSums], np.ndarray]] = {
    "zhu2024": zhu2024,
    "nrmse_uncentred": nrmse_uncentred,
    "nrmse": nrmse,
    "fvu": fvu,
}

PAPER_ROWS = 99_999
PAPER_BATCHES = math.ceil(PAPER_ROWS / ZHU_BATCH_SIZE)


@dataclass(frozen=True)
class Plan:
    """How many processes of which size are looked at, and how many rows of each are taken."""

    ns: tuple[int, ...]
    rows: int


FULL = Plan((8, 16, 32), 64_000)
QUICK = Plan((8, 16), 3200)


@dataclass(frozen=True)
class Logged:
    """A function in the paper's logs, numbers as they are given, so that their rounding is known.

    Attributes
    ----------
    dimensions
        d.
    rms
        Root mean square of the target.
    nrmse
        Root of the mean squared error over `rms`.
    relative
        The paper's error.
    """

    dimensions: int
    rms: str
    nrmse: str
    relative: str


LOGGED: dict[str, tuple[Logged, Logged]] = {
    "Ant": (Logged(27, ".76", ".185", ".0495"), Logged(1, "53.9", ".0123", ".0809")),
    "Hopper": (Logged(11, "1.80", ".0318", ".0054"), Logged(1, "141", ".0085", ".1003")),
    "HalfCheetah": (Logged(17, "6.7", ".0896", ".129"), Logged(1, "44.3", ".0350", ".536")),
    "Walker2d": (Logged(17, "2.75", ".250", ".410"), Logged(1, "129", ".0235", ".704")),
    "InvertedPendulum": (Logged(4, ".23", ".0026", "7.8e-6"), Logged(1, "88.3", ".0026", ".0058")),
}
"""Next observation and Q, networks 2 × 32, by environment: means over 5 or 6 runs. 100 passes over
99,999 rows; for HalfCheetah the number of rows is an assumption."""

READ: dict[str, tuple[int, float, float]] = {
    "HalfCheetah": (17, 0.035, 0.155),
    "Humanoid": (376, 0.03, 0.30),
    "InvertedPendulum": (4, 0.003, 0.35),
    "Ant": (27, 0.035, 0.57),
}
"""Dimensions, error of the next observation and of Q in the plots of arXiv 2312.17248, width 32."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """Targets and fixed predictions, ``(n, d)`` each."""

    targets: np.ndarray
    predictions: np.ndarray

    def sums(self, factor: float = 1.0, offset: float = 0.0) -> ErrorSums:
        """Return the sums of errors in another unit and with a constant added to both."""
        return ErrorSums.of(self.targets * factor + offset, self.predictions * factor + offset)


def run(ctx: RunContext) -> Result:
    """Measure fixed predictions in every unit and take the published figures apart."""
    plan = QUICK if ctx.quick else FULL
    task = ctx.progress(len(plan.ns), "processes")
    q, states = {}, {}
    for n in plan.ns:
        data = sample_bit_mdp(MajorityMDP(n), plan.rows, seed=ctx.seed)
        q[n] = predicted(data, "q")
        states[n] = predicted(data, "next_obs")
        task.advance(1)
    claims = [*scale_claims(q), *offset_claims(q), *dimension_claims(states)]
    claims += [formula_claim([*q.values(), *states.values()]), *published_claims()]
    tables = [unit_table(q), dimension_table(states), published_table(), read_table()]
    return ctx.result(claims=claims, tables=tables, text=ABOUT)


ABOUT = (
    "With n rows in B batches, d dimensions and a target whose root mean square is rms, the error "
    "of the first paper is B / √(n d) · rms · NRMSE². It has the unit of the target, so that it "
    "compares a sum of rewards with an observation in different units, and it grows as √n. The "
    "measure of the second paper divides a mean over dimensions by a sum over them. A fraction of "
    "variance unexplained depends on none of this."
)


def predicted(data: RolloutData, target: str) -> Fixed:
    """Predict a target by least squares from observations and actions."""
    inputs = np.column_stack([data.inputs(True), np.ones(len(data))]).astype(np.float64)
    targets = np.asarray(TARGETS[target].values(data, "exact"), np.float64)
    return Fixed(targets, inputs @ np.linalg.lstsq(inputs, targets, rcond=None)[0])


# What moves -------------------------------------------------------------------------------------


def deviation(found: float, expected: float) -> float:
    """Return by how much a number differs from another, relative to that."""
    return abs(found / expected - 1)


def scale_claims(q: Mapping[int, Fixed]) -> list[Claim]:
    """Judge whether the paper's error has the unit of the rewards, and `fvu` none."""
    paper, free = [], []
    for one in q.values():
        base = one.sums()
        for factor in FACTORS:
            scaled = one.sums(factor)
            paper.append(deviation(float(zhu2024(scaled)), factor * float(zhu2024(base))))
            free.append(deviation(float(fvu(scaled)), float(fvu(base))))
    units = f"Rewards, and with them Q and its fixed predictions, times {listed(FACTORS)}; "
    where = f"{units}Majority MDP, n = {listed(q)}; the worst of {len(paper)}. Criterion: at most "
    return [
        Claim(
            "zhu2024_scale",
            "The paper's error of Q is proportional to the unit of the rewards",
            None,
            max(paper),
            None,
            max(paper) <= ROUNDING,
            "relative deviation from proportional",
            f"{where}{ROUNDING:g}, the rounding of float64.",
        ),
        Claim(
            "fvu_scale",
            "The unexplained fraction of variance does not depend on the unit of the rewards",
            None,
            max(free),
            None,
            max(free) <= UNCHANGED,
            "relative change",
            f"{where}{UNCHANGED:g}.",
        ),
    ]


def offset_claims(q: Mapping[int, Fixed]) -> list[Claim]:
    """Judge whether a constant added to Q makes uncentred errors smaller, and `fvu` not."""
    ratios, free = [], []
    for one in q.values():
        for metric in (zhu2024, nrmse_uncentred):
            values = [float(metric(one.sums(offset=offset))) for offset in (0.0, *OFFSETS)]
            ratios += [after / before for before, after in pairwise(values)]
        base = float(fvu(one.sums()))
        free += [deviation(float(fvu(one.sums(offset=offset))), base) for offset in OFFSETS]
    where = f"Constants {listed(OFFSETS)}; Majority MDP, n = {listed(q)}; the worst of "
    return [
        Claim(
            "uncentred_offset",
            "Adding a constant to Q makes its uncentred errors smaller",
            None,
            max(ratios),
            None,
            max(ratios) < 1,
            "error / error with the constant before",
            f"zhu2024 and nrmse_uncentred. {where}{len(ratios)}. Criterion: below 1.",
        ),
        Claim(
            "fvu_offset",
            "Adding a constant to Q leaves the unexplained fraction of variance as it is",
            None,
            max(free),
            None,
            max(free) <= UNCHANGED,
            "relative change",
            f"{where}{len(free)}. Criterion: at most {UNCHANGED:g}.",
        ),
    ]


def dimension_claims(states: Mapping[int, Fixed]) -> list[Claim]:
    """Judge whether the second paper's measure is √d too small for vectors."""
    small, fixed = [], []
    for one in states.values():
        sums = one.sums()
        root = math.sqrt(float(fvu(sums)))
        small.append(deviation(float(feng2023(sums)), root / math.sqrt(sums.n_dimensions)))
        fixed.append(deviation(float(feng2023(sums, fix_dims=True)), root))
    sizes = [one.targets.shape[1] for one in states.values()]
    where = f"Next states of {listed(sizes)} bits, the same rows; the worst. Criterion: at most "
    return [
        Claim(
            "feng2023_dimensions",
            "The second paper's error of d dimensions is √FVU / √d",
            None,
            max(small),
            None,
            max(small) <= ROUNDING,
            "relative deviation",
            f"{where}{ROUNDING:g}, the rounding of float64.",
        ),
        Claim(
            "feng2023_fixed",
            "With its squared errors summed over dimensions too, it is √FVU",
            None,
            max(fixed),
            None,
            max(fixed) <= ROUNDING,
            "relative deviation",
            f"{where}{ROUNDING:g}.",
        ),
    ]


def summed_over_batches(one: Fixed) -> float:
    """Return the paper's error as its code computes it: batch after batch."""
    total = 0.0
    for first in range(0, len(one.targets), ZHU_BATCH_SIZE):
        rows = slice(first, first + ZHU_BATCH_SIZE)
        total += float(np.mean((one.predictions[rows] - one.targets[rows]) ** 2))
    return total / float(np.linalg.norm(one.targets))


def from_parts(rows: int, batches: int, dimensions: int, rms: float, nrmse: float) -> float:
    """Return the paper's error from B, n, d, the target's size and its uncentred NRMSE."""
    return batches / math.sqrt(rows * dimensions) * rms * nrmse**2


def formula_claim(fixed: Sequence[Fixed]) -> Claim:
    """Judge whether the closed form is what batches add up to."""
    off = []
    for one in fixed:
        rows, dimensions = one.targets.shape
        rms = float(np.sqrt(np.mean(one.targets**2)))
        batches = math.ceil(rows / ZHU_BATCH_SIZE)
        error = float(nrmse_uncentred(one.sums()))
        formula = from_parts(rows, batches, dimensions, rms, error)
        off.append(deviation(formula, summed_over_batches(one)))
    return Claim(
        "zhu2024_formula",
        "The paper's error is B / √(n d) · rms · NRMSE²",
        None,
        max(off),
        None,
        max(off) <= ROUNDING,
        "relative deviation",
        f"Against the sum over batches of {ZHU_BATCH_SIZE}, {len(off)} targets; the worst. "
        f"Criterion: at most {ROUNDING:g}.",
    )


# The published figures --------------------------------------------------------------------------


def ends(text: str) -> tuple[float, float]:
    """Return between which numbers a rounded one lies."""
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    half = Decimal((0, (5,), exponent - 1))
    return float(number - half), float(number + half)


def recomputed(one: Logged) -> tuple[float, tuple[float, float]]:
    """Return the paper's error from its parts, and its ends if their last digits were rounded."""

    def error(rms: float, nrmse: float) -> float:
        return from_parts(PAPER_ROWS, PAPER_BATCHES, one.dimensions, rms, nrmse)

    pairs = list(zip(ends(one.rms), ends(one.nrmse), strict=True))
    low, high = (error(*pair) for pair in pairs)
    return error(float(one.rms), float(one.nrmse)), (low, high)


def agrees(one: Logged) -> bool:
    """Say whether the logged error is the recomputed one but for rounding."""
    low, high = recomputed(one)[1]
    lowest, highest = ends(one.relative)
    return low <= highest and lowest <= high


def published_claims() -> list[Claim]:
    """Judge the closed form on the paper's logs, and what is left of their order."""
    logged = [one for pair in LOGGED.values() for one in pair]
    off = max(deviation(recomputed(one)[0], float(one.relative)) for one in logged)
    harder = [float(q.relative) > float(state.relative) for state, q in LOGGED.values()]
    free = [float(q.nrmse) > float(state.nrmse) for state, q in LOGGED.values()]
    ties = sum(float(q.nrmse) == float(state.nrmse) for state, q in LOGGED.values())
    return [
        Claim(
            "logged_errors",
            "The errors in the paper's logs are B / √(n d) · rms · NRMSE²",
            None,
            off,
            None,
            all(agrees(one) for one in logged),
            "relative deviation",
            f"{len(logged)} errors, n = {PAPER_ROWS:,}, B = {PAPER_BATCHES:,}; the worst. Holds if "
            "each agrees within the rounding of the digits that are known. The parts were "
            "recovered from the same logs, so that this checks n, B and d and the arithmetic, not "
            "the runs.",
        ),
        Claim(
            "logged_order",
            "In the paper's logs Q has the larger error than the next observation in every "
            "environment, and as a pure number in none",
            f"{sum(harder)} of {len(harder)} under the paper's error",
            float(sum(free)),
            None,
            all(harder) and not any(free),
            f"environments of {len(free)}",
            f"Measured: environments in which Q has the larger uncentred NRMSE; {ties} tie. Means "
            "over runs; nothing was trained for this. Logged NRMSE are uncentred: the mean of Q is "
            "not in the logs.",
        ),
    ]


# Tables -----------------------------------------------------------------------------------------


def unit_table(q: Mapping[int, Fixed]) -> Table:
    """Return a row for each n, unit and offset of Q with every measure."""
    rows: list[list[Any]] = []
    changes = [(factor, 0.0) for factor in FACTORS] + [(1.0, offset) for offset in OFFSETS]
    for n, one in q.items():
        for factor, offset in changes:
            sums = one.sums(factor, offset)
            values = [float(metric(sums)) for metric in METRICS.values()]
            rows.append([n, factor, offset, *values])
    return Table(
        "Fixed predictions of Q* in other units",
        ["n", "times", "plus", *METRICS],
        rows,
        "Least squares from the bits of state and action, all rows.",
    )


def dimension_table(states: Mapping[int, Fixed]) -> Table:
    """Return a row for each n: the second paper's measure of the next state."""
    rows: list[list[Any]] = []
    for n, one in states.items():
        sums = one.sums()
        both = [float(feng2023(sums, fix_dims)) for fix_dims in (False, True)]
        rows.append([n, sums.n_dimensions, *both, math.sqrt(float(fvu(sums)))])
    columns = ["n", "d", "feng2023", "feng2023, summed over d", "√FVU"]
    return Table("Fixed predictions of the next state, d bits", columns, rows)


def published_table() -> Table:
    """Return a row for each environment: the gap in the logs as unit and as error."""
    rows: list[list[Any]] = []
    for name, (state, q) in LOGGED.items():
        unit = math.sqrt(state.dimensions / q.dimensions) * float(q.rms) / float(state.rms)
        error = (float(q.nrmse) / float(state.nrmse)) ** 2
        logged = float(q.relative) / float(state.relative)
        errors = [float(state.relative), recomputed(state)[0]]
        errors += [float(q.relative), recomputed(q)[0]]
        rows.append([name, *errors, logged, unit, error])
    columns = ["environment", "transition", "recomputed", "Q", "recomputed", "Q / transition"]
    return Table(
        "The paper's logs taken apart",
        [*columns, "of which unit", "of which error"],
        rows,
        "The ratio is the product of the last two columns but for rounding: √d · rms(Q) / rms(s') "
        "and the squared ratio of NRMSE. Networks 2 × 32. The number of rows of HalfCheetah is an "
        "assumption.",
    )


def read_table() -> Table:
    """Return a row for each environment of the second paper, with the missing √d put in."""
    rows: list[list[Any]] = []
    for name, (dimensions, state, q) in READ.items():
        mended = state * math.sqrt(dimensions)
        rows.append([name, dimensions, state, mended, q, q > state, q > mended])
    columns = ["environment", "d", "transition", "transition · √d", "Q"]
    return Table(
        "Figures of arXiv 2312.17248 with the missing √d",
        [*columns, "Q larger as published", "Q larger with √d"],
        rows,
        "Read off its plots by eye, width 32, 100,000 rows: two digits at best, so that .144 "
        "against .155 is a tie.",
    )


def listed(values: Any) -> str:
    """Write numbers in a row."""
    return ", ".join(f"{value:g}" for value in values)
