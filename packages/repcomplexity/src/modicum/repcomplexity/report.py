"""How complex the functions of a decision process are, by several rulers, and what that says.

`complexity_report` measures every Boolean function of a process; `scaling_report` follows a family
over n. Verdicts compare the model (next states and rewards) with Q* by every ruler that was taken,
say which of them agree, and never rest on one. Draws nothing itself.

Sources: Zhu, Huang, Russell, "On Representation Complexity of Model-based and Model-free
Reinforcement Learning" (ICLR 2024, arXiv 2310.01706) for the question.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.experiment import dumps, loads, write_atomic
from modicum.repcomplexity.bits import ComplexityLimitError
from modicum.repcomplexity.boolean.dnf import (
    MAX_ISOP_INPUTS,
    NormalForm,
    dnf_bounds,
    minimum_cnf,
    minimum_dnf,
)
from modicum.repcomplexity.boolean.fourier import fvu_by_degree, spectrum
from modicum.repcomplexity.boolean.obdd import obdd
from modicum.repcomplexity.boolean.ternary import certificate_complexity
from modicum.repcomplexity.boolean.trees import tree_complexity
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.explicit import (
    CIRCUIT_GATES,
    DEPTH_TWO_TERMS,
    KnownSize,
    known_sizes,
)
from modicum.repcomplexity.functions import (
    MODEL_TARGETS,
    TARGETS,
    Target,
    check_inputs,
    check_targets,
    target_of,
)
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import solve

__all__ = [
    "RULERS",
    "Comparison",
    "ComplexityReport",
    "FunctionComplexity",
    "Growth",
    "ScalingPoint",
    "ScalingReport",
    "Verdict",
    "complexity_report",
    "measure_function",
    "scaling_report",
]

Interval = tuple[float, float]
"""A number that lies between two others."""

RULERS = (
    DEPTH_TWO_TERMS,
    "width",
    "tree leaves",
    "OBDD nodes",
    "two-input gates",
    "influence",
    "degree-2 error",
)
"""Each but the last is taken of the function of a target that needs most.

Terms and width are those of the smaller and of the narrower normal form, DNF or CNF. The
degree-2 error is the fraction of variance that no polynomial of degree 2 in the input bits
explains."""

SAME_WITHIN = 1.2
"""Ratio up to which two sizes count as equal; random functions differ by less."""

MODEL_EASIER, Q_EASIER = "model easier", "Q easier"
SAME, UNDECIDED = "no difference", "undecided"
DEPENDS, INCONCLUSIVE = "depends on the ruler", "inconclusive"

_SIZES = (DEPTH_TWO_TERMS, CIRCUIT_GATES, "tree leaves", "OBDD nodes")
_SPOKEN = {"q": "Q*", "value": "V*", "model": "the model"}
_FORMAT = 1
# Exponent below which a fit counts as flat.
_FLAT = 1e-9
# With three points a fit of two parameters leaves one number to judge by.
_DECIDING = 4
# A difference of a fraction that counts at all.
_ERROR_STEP = 0.02
_EXACT_TERMS = 13
_EXACT_TREES = 12
_BEST_ORDER = 9
_SIFTING = 13
_MOST_TAIL = 4
_SYNTHESIS = 4
_LEAST_SECONDS = 0.01


@dataclass(frozen=True)
class FunctionComplexity:
    """One Boolean function, measured.

    Attributes
    ----------
    target, name
        What it is a part of, and what it says.
    n_inputs, probability
        Number of inputs, and how often it is true.
    dnf, cnf
        Between what the fewest terms of a disjunctive and clauses of a conjunctive form lie; equal
        where proved, None beyond 22 inputs.
    certificate_ones, certificate_zeros
        Least widths of a disjunctive and of a conjunctive form; None beyond 13 inputs.
    influence, degree
        Total influence; degree as a real polynomial.
    weights
        Spectral weight of each degree 0 … m of ``1 − 2f``.
    obdd, obdd_order
        Decision nodes of a diagram and what its order is: ``"best"`` is the least of all,
        ``"sifting"`` and ``"natural or reversed"`` are upper bounds of it.
    tree_leaves
        Fewest leaves of a decision tree; None beyond 12 inputs.
    gates
        Between what the fewest gates of two inputs lie; None where the function depends on more
        than 4 inputs or PySAT is missing.
    """

    target: str
    name: str
    n_inputs: int
    probability: float
    dnf: Interval | None
    cnf: Interval | None
    certificate_ones: int | None
    certificate_zeros: int | None
    influence: float
    degree: int
    weights: tuple[float, ...]
    obdd: int
    obdd_order: str
    tree_leaves: int | None
    gates: Interval | None

    def tail(self, k: int) -> float:
        """Return the spectral weight beyond degree k."""
        return math.fsum(self.weights[k + 1 :])

    @property
    def depth_two(self) -> Interval | None:
        """Terms of the smaller normal form."""
        forms = [form for form in (self.dnf, self.cnf) if form is not None]
        if len(forms) < 2:
            return None
        return min(form[0] for form in forms), min(form[1] for form in forms)

    @property
    def width(self) -> int | None:
        """Literals of the widest term of the narrower normal form."""
        if self.certificate_ones is None or self.certificate_zeros is None:
            return None
        return min(self.certificate_ones, self.certificate_zeros)

    def by_ruler(self) -> dict[str, Interval | None]:
        """Return the number, as an interval, that each ruler but the last gives."""
        return {
            DEPTH_TWO_TERMS: self.depth_two,
            "width": _exactly(self.width),
            "tree leaves": _exactly(self.tree_leaves),
            "OBDD nodes": _exactly(self.obdd),
            "two-input gates": self.gates,
            "influence": _exactly(self.influence),
        }


@dataclass(frozen=True)
class Comparison:
    """Model and Q* by one ruler: intervals of both, and which is easier, if that is known.

    `hardest` is the target of the model that needs most.
    """

    ruler: str
    model: Interval
    q: Interval
    answer: str
    hardest: str


@dataclass(frozen=True)
class Verdict:
    """What a report says about model and Q*.

    Attributes
    ----------
    answer
        ``"model easier"`` or ``"Q easier"`` where at least two rulers say so and none the other,
        ``"depends on the ruler"``, ``"no difference"`` or ``"inconclusive"``.
    comparisons
        Every ruler that was taken of both.
    text
        In plain words.
    """

    answer: str
    comparisons: tuple[Comparison, ...]
    text: str


@dataclass(frozen=True)
class ComplexityReport:
    """Every function of a process, measured.

    Attributes
    ----------
    name, n_state_bits, n_action_bits, n_states, n_actions, horizon, gamma, encoding, deterministic
        As for `modicum.repcomplexity.mdp.BitMDP`.
    functions
        One for each Boolean function of each target.
    errors
        For each target the fraction of its variance that no polynomial of degree 0 … 4 in the input
        bits explains.
    known
        What is proved about sizes without a table.
    time_limit, seconds
        Seconds for searches that was set, and all that were taken.
    notes
        What a reader must know.
    """

    name: str
    n_state_bits: int
    n_action_bits: int
    n_states: int
    n_actions: int
    horizon: int | None
    gamma: float
    encoding: str
    deterministic: bool
    functions: tuple[FunctionComplexity, ...]
    errors: Mapping[str, tuple[float, ...]]
    known: tuple[KnownSize, ...] = ()
    time_limit: float = 60.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """What was measured, in the order of `TARGETS`."""
        return tuple(target for target in TARGETS if target in self.errors)

    def by_ruler(self, *targets: str) -> dict[str, Interval]:
        """Return what each ruler gives for targets together; rulers not taken are left out.

        Raises
        ------
        ValueError
            If a target was not measured.
        """
        missing = [target for target in targets if target not in self.errors]
        if missing or not targets:
            raise ValueError(f"targets must be some of {self.targets}, not {targets}")
        chosen = [item.by_ruler() for item in self.functions if item.target in targets]
        found: dict[str, Interval] = {}
        for ruler in RULERS[:-1]:
            values = [item[ruler] for item in chosen]
            known = [value for value in values if value is not None]
            # A process of one state has no next bits to measure.
            if known and len(known) == len(values):
                found[ruler] = max(low for low, _ in known), max(high for _, high in known)
        errors = [self.errors[target] for target in targets]
        worst = max(error[min(2, len(error) - 1)] for error in errors)
        found[RULERS[-1]] = (worst, worst)
        return found

    def verdict(self) -> Verdict:
        """Compare the model with Q* by every ruler that was taken of both."""
        model = [target for target in MODEL_TARGETS if target in self.errors]
        if not model or "q" not in self.errors:
            return Verdict(
                INCONCLUSIVE, (), 'A verdict needs "q" and "transition" or "reward" as targets.'
            )
        parts = {target: self.by_ruler(target) for target in model}
        return _verdict(parts, self.by_ruler("q"), self.known)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary of plain values for each function."""
        return [_row(item) for item in self.functions]

    def to_frame(self) -> Any:
        """Return `rows` as a table of pandas.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        from modicum.repcomplexity.integrations.pandas import to_frame

        return to_frame(self.rows())

    def to_markdown(self) -> str:
        """Return the whole report as Markdown."""
        verdict = self.verdict()
        horizon = f"horizon {self.horizon}" if self.horizon else f"discount {self.gamma:g}"
        parts = [
            f"# {self.name}\n",
            f"{self.n_states:,} states in {self.n_state_bits} bits ({self.encoding}), "
            f"{self.n_actions} actions in {self.n_action_bits} bits, {horizon}, "
            f"{'without' if self.deterministic else 'with'} chance.\n",
            f"**{verdict.answer[0].upper()}{verdict.answer[1:]}.** {verdict.text}\n",
        ]
        if verdict.comparisons:
            lines = [
                [one.ruler, _spelled(one.model), _spelled(one.q), one.answer]
                for one in verdict.comparisons
            ]
            parts.append(_markdown(["ruler", "model", "Q*", "verdict"], lines))
        columns = list(self.rows()[0])
        lines = [[_cell(row[column]) for column in columns] for row in self.rows()]
        parts.append(_markdown(columns, lines))
        errors = [[name, *(f"{e:.3g}" for e in values)] for name, values in self.errors.items()]
        degrees = max(len(values) for values in self.errors.values())
        parts.append("Fraction of variance that no polynomial of degree k explains:\n")
        parts.append(
            _markdown(
                ["target", *(f"k = {k}" for k in range(degrees))],
                [row + [""] * (degrees + 1 - len(row)) for row in errors],
            )
        )
        if self.known:
            lines = [[one.target, one.measure, _bounds(one), one.source] for one in self.known]
            parts.append("Proved without a table:\n")
            parts.append(_markdown(["target", "measure", "size", "source"], lines))
        parts += [f"{note}\n" for note in self.notes]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, with the verdict."""
        verdict = dataclasses.asdict(self.verdict())
        return {"format": _FORMAT, **dataclasses.asdict(self), "verdict": verdict}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON; the file is whole at every moment."""
        return write_atomic(path, dumps(self.to_dict()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ComplexityReport:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is no report of this version.
        """
        data = _read(path, "a complexity report")
        data.pop("verdict", None)
        try:
            data["functions"] = tuple(
                FunctionComplexity(**_tuples(item)) for item in data["functions"]
            )
            data["known"] = tuple(KnownSize(**item) for item in data["known"])
            data["errors"] = {name: tuple(values) for name, values in data["errors"].items()}
            return cls(**{**data, "notes": tuple(data["notes"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a complexity report: {error}") from error

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw every target by every ruler into a file; its ending says the format.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from modicum.repcomplexity.report_plots import save_figure, targets_by_ruler

        return save_figure(targets_by_ruler(self), path)


def complexity_report(
    mdp: BitMDP,
    targets: Sequence[str] = ("transition", "reward", "q", "policy"),
    *,
    time_limit: float = 60.0,
    progress: Callable[[int, int, str], None] | None = None,
) -> ComplexityReport:
    """Measure how complex the functions of a process are.

    Parameters
    ----------
    mdp
        A process whose states and actions have at most
        `modicum.repcomplexity.functions.MAX_TABLE_INPUTS` bits together.
    targets
        Some of `modicum.repcomplexity.functions.TARGETS`.
    time_limit
        Seconds for all searches together; each has its share of what is left. What is not proved in
        time is an interval. Work that does not search, such as solving the process, is not counted.
    progress
        Told how many functions are done, of how many, and the next one's name.

    Returns
    -------
    ComplexityReport

    Raises
    ------
    ValueError
        If a target is unknown or the time limit is not positive.
    ComplexityLimitError
        If there are too many bits.
    """
    chosen = check_targets(targets)
    if not time_limit > 0:
        raise ValueError(f"time_limit must be positive, not {time_limit!r}")
    started = time.monotonic()
    check_inputs(mdp)
    solution = solve(mdp)
    made = [target_of(mdp, solution, name) for name in chosen]
    total = sum(len(target.functions) for target in made)
    functions: list[FunctionComplexity] = []
    left = time_limit
    for target in made:
        for function in target.functions:
            if progress is not None:
                progress(len(functions), total, f"{target.name}: {function.name}")
            share = left / (total - len(functions))
            before = time.monotonic()
            searched = _searched(function.table, share)
            left = max(left - (time.monotonic() - before), 0.0)
            functions.append(_measured(target.name, function.name, function.table, searched))
    if progress is not None:
        progress(total, total, "")
    return ComplexityReport(
        name=mdp.name,
        n_state_bits=mdp.n_state_bits,
        n_action_bits=mdp.n_action_bits,
        n_states=mdp.n_states,
        n_actions=mdp.n_actions,
        horizon=mdp.horizon,
        gamma=mdp.gamma,
        encoding=mdp.encoding,
        deterministic=mdp.deterministic,
        functions=tuple(functions),
        errors={target.name: _errors(target) for target in made},
        known=tuple(known_sizes(mdp)),
        time_limit=float(time_limit),
        seconds=time.monotonic() - started,
        notes=tuple(_notes(mdp, functions)),
    )


def measure_function(
    target: str, name: str, table: TruthTable, time_limit: float = 60.0
) -> FunctionComplexity:
    """Measure one Boolean function.

    Parameters
    ----------
    target, name
        What to call it.
    table
        The function, of at most 24 inputs.
    time_limit
        Seconds for its searches, positive.
    """
    if not time_limit > 0:
        raise ValueError(f"time_limit must be positive, not {time_limit!r}")
    return _measured(target, name, table, _searched(table, time_limit))


def _searched(table: TruthTable, seconds: float) -> dict[str, Interval | None]:
    """Find the sizes that take a search, each with its share of the time that is left."""
    deadline = time.monotonic() + seconds
    found: dict[str, Interval | None] = {}
    found["gates"] = _two_input_gates(table, (deadline - time.monotonic()) / 3)
    found["dnf"] = _normal_form(table, minimum_dnf, (deadline - time.monotonic()) / 2)
    found["cnf"] = _normal_form(table, minimum_cnf, deadline - time.monotonic())
    return found


def _measured(
    target: str, name: str, table: TruthTable, searched: Mapping[str, Interval | None]
) -> FunctionComplexity:
    m = table.n_inputs
    found = spectrum(table)
    order = "best" if m <= _BEST_ORDER else "sifting" if m <= _SIFTING else "natural or reversed"
    orders = (order,) if m <= _SIFTING else ("natural", "reversed")
    certificates = certificate_complexity(table) if m <= _EXACT_TERMS else None
    return FunctionComplexity(
        target=target,
        name=name,
        n_inputs=m,
        probability=table.probability(),
        dnf=searched["dnf"],
        cnf=searched["cnf"],
        certificate_ones=None if certificates is None else certificates.ones,
        certificate_zeros=None if certificates is None else certificates.zeros,
        influence=found.total_influence,
        degree=found.degree,
        weights=tuple(found.weights.tolist()),
        obdd=min(obdd(table, one).nodes for one in orders),
        obdd_order=order,
        tree_leaves=tree_complexity(table).leaves if m <= _EXACT_TREES else None,
        gates=searched["gates"],
    )


def _normal_form(
    table: TruthTable, minimum: Callable[..., NormalForm], seconds: float
) -> Interval | None:
    if table.n_inputs > MAX_ISOP_INPUTS:
        return None
    if table.n_inputs <= _EXACT_TERMS:
        # What reductions settle is settled whatever the limit; others become intervals.
        found = minimum(table, time_limit=max(seconds, _LEAST_SECONDS))
    else:
        found = dnf_bounds(table if minimum is minimum_dnf else ~table)
    return float(found.lower), float(found.upper)


def _two_input_gates(table: TruthTable, seconds: float) -> Interval | None:
    if len(table.support()) > _SYNTHESIS:
        return None
    from modicum.repcomplexity.circuits.synthesis import min_circuit

    try:
        found = min_circuit(table, time_limit=max(seconds, _LEAST_SECONDS))
    except ImportError:
        # PySAT is optional; the other rulers stand without it.
        return None
    return float(found.lower), float(found.upper)


def _errors(target: Target) -> tuple[float, ...]:
    """Return the fraction of variance beyond each degree, over all columns of a target."""
    variances = [float(column.var()) for column in target.columns]
    total = sum(variances)
    if not variances:
        return (0.0,)
    degrees = min(_MOST_TAIL, int(target.columns[0].size).bit_length() - 1)
    if total == 0:
        return (0.0,) * (degrees + 1)
    shares = [
        variance * fvu_by_degree(column)[: degrees + 1]
        for variance, column in zip(variances, target.columns, strict=True)
        if variance
    ]
    return tuple((np.sum(shares, axis=0) / total).tolist())


def _notes(mdp: BitMDP, functions: Sequence[FunctionComplexity]) -> list[str]:
    notes = []
    unused = 1 - mdp.n_states / 2**mdp.n_state_bits
    if unused:
        notes.append(
            f"{unused:.1%} of the state codes stand for no state; they lead to themselves and are "
            "worth 0, which counts towards every size."
        )
    if mdp.n_actions < 2**mdp.n_action_bits:
        notes.append("Action codes that stand for no action act as action 0.")
    if any(item.dnf is None or item.cnf is None for item in functions):
        notes.append("Normal forms of more than 22 inputs are not bounded.")
    if any(form is not None and form[0] < form[1] for f in functions for form in (f.dnf, f.cnf)):
        notes.append("A size such as 3 … 5 is an interval in which the least one is proved to lie.")
    if "policy" in {item.target for item in functions}:
        notes.append("The policy takes the first of equally good actions.")
    return notes


# Verdicts ---------------------------------------------------------------------------------------


def _compared(ruler: str, model: Interval, q: Interval, hardest: str) -> Comparison:
    """Say which is easier by one ruler, with care for what is not proved."""
    step = _ERROR_STEP if ruler == RULERS[-1] else 0.0

    def above(one: float, other: float) -> bool:
        return one > SAME_WITHIN * other and one - other > step

    if above(q[0], model[1]):
        answer = MODEL_EASIER
    elif above(model[0], q[1]):
        answer = Q_EASIER
    elif not above(q[1], model[0]) and not above(model[1], q[0]):
        answer = SAME
    else:
        answer = UNDECIDED
    return Comparison(ruler, model, q, answer, hardest)


def _comparisons(
    model: Mapping[str, Mapping[str, Interval]], q: Mapping[str, Interval]
) -> tuple[Comparison, ...]:
    """Compare by every ruler that was taken of all parts of the model and of Q*."""
    found = []
    for ruler in RULERS:
        parts = {name: values[ruler] for name, values in model.items() if ruler in values}
        if len(parts) < len(model) or ruler not in q:
            continue
        whole = (max(low for low, _ in parts.values()), max(high for _, high in parts.values()))
        hardest = max(parts, key=lambda name: parts[name][1])
        found.append(_compared(ruler, whole, q[ruler], hardest))
    return tuple(found)


def _verdict(
    model: Mapping[str, Mapping[str, Interval]],
    q: Mapping[str, Interval],
    known: Iterable[KnownSize],
) -> Verdict:
    comparisons = _comparisons(model, q)
    by_answer = {
        answer: [one for one in comparisons if one.answer == answer]
        for answer in (MODEL_EASIER, Q_EASIER, SAME, UNDECIDED)
    }
    for_model, for_q = by_answer[MODEL_EASIER], by_answer[Q_EASIER]
    if for_model and for_q:
        answer = DEPENDS
    elif max(len(for_model), len(for_q)) >= 2:
        answer = MODEL_EASIER if for_model else Q_EASIER
    elif len(by_answer[SAME]) >= 2 and not for_model and not for_q:
        answer = SAME
    else:
        answer = INCONCLUSIVE
    sentences = [f"Compared are {' and '.join(model)} with Q*, by {len(comparisons)} rulers."]
    said = {
        MODEL_EASIER: "The model is easier by",
        Q_EASIER: "Q* is easier by",
        SAME: f"Within {SAME_WITHIN - 1:.0%} of each other by",
        UNDECIDED: "Not decided by",
    }
    for one, compared in by_answer.items():
        if compared:
            # Who reads that the model is harder wants to know which part of it.
            part = one == Q_EASIER and len(model) > 1
            words = [c.ruler + f" (of the {c.hardest})" * part for c in compared]
            sentences.append(f"{said[one]} {_listed(words)}.")
    return Verdict(answer, comparisons, " ".join(sentences + _caveats(known)))


def _caveats(known: Iterable[KnownSize]) -> list[str]:
    """Say what the rulers do not: sizes for stronger circuits, and that n is one number."""
    sentences = [
        f"For {one.target.replace('q', 'Q*')} there is a circuit of {one.upper:,} gates "
        f"({one.source})."
        for one in known
        if one.measure != DEPTH_TWO_TERMS and one.upper is not None
    ]
    sentences.append(
        "What is large by one ruler can be small by another, and one size says nothing of growth."
    )
    return sentences


# Growth -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScalingPoint:
    """One size at one n: what is measured of which target, its interval, and where it comes from.

    An end that is not known is None.
    """

    n: int
    target: str
    measure: str
    lower: float | None
    upper: float | None
    source: str


@dataclass(frozen=True)
class Growth:
    """A polynomial and an exponential fitted to sizes.

    Attributes
    ----------
    target, measure
        What grows.
    end
        ``"lower"`` or ``"upper"``: the ends of intervals that were fitted; ``"both"`` where they
        are the same.
    ns
        Where the fit has points.
    degree
        Exponent d of the fit ``size ≈ a n**d``.
    rate
        Doublings for each unit of n of the fit ``size ≈ a 2**(r n)``.
    aic_difference
        Akaike's criterion of the polynomial minus that of the exponential; positive where the
        exponential fits better.
    answer
        ``"polynomial"``, ``"exponential"``, or ``"undecided"`` where the criteria differ by less
        than 2 or there are fewer than four points.
    """

    target: str
    measure: str
    end: str
    ns: tuple[int, ...]
    degree: float
    rate: float
    aic_difference: float
    answer: str


@dataclass(frozen=True)
class ScalingReport:
    """How sizes of a family grow with n.

    Attributes
    ----------
    family
        Its name.
    ns
        Values of n, increasing.
    points
        Sizes.
    notes
        What a reader must know.
    """

    family: str
    ns: tuple[int, ...]
    points: tuple[ScalingPoint, ...]
    notes: tuple[str, ...] = field(default=())

    def series(self, target: str, measure: str, end: str) -> dict[int, float]:
        """Return the known lower or upper ends of a size by n.

        Raises
        ------
        ValueError
            If `end` is neither ``"lower"`` nor ``"upper"``.
        """
        if end not in ("lower", "upper"):
            raise ValueError(f"end must be 'lower' or 'upper', not {end!r}")
        best = min if end == "upper" else max
        found: dict[int, float] = {}
        for point in self.points:
            value = getattr(point, end)
            if (point.target, point.measure) == (target, measure) and value is not None:
                found[point.n] = best(found.get(point.n, value), value)
        return found

    def growth(self) -> list[Growth]:
        """Fit a polynomial and an exponential to every series of at least three positive sizes."""
        kinds = dict.fromkeys((point.target, point.measure) for point in self.points)
        fitted = []
        for target, measure in kinds:
            lower, upper = (self.series(target, measure, end) for end in ("lower", "upper"))
            ends = {"both": lower} if lower == upper else {"lower": lower, "upper": upper}
            for end, series in ends.items():
                if len(series) >= 3 and min(series.values()) > 0:
                    fitted.append(_fit(target, measure, end, series))
        return fitted

    def verdict(self) -> str:
        """Say in plain words what sizes grow how; what is not known is not said."""
        sentences = [_grows(one) for one in self.growth() if one.measure in _SIZES]
        if not sentences:
            return "Nothing can be said: a fit needs a size at three values of n at least."
        sentences.append(
            "Fits describe these n; only proofs speak for all, and each measure for its own kind "
            "of representation."
        )
        return " ".join(sentences)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dictionary of plain values for each size."""
        return [dataclasses.asdict(point) for point in self.points]

    def to_frame(self) -> Any:
        """Return `rows` as a table of pandas; ImportError if that is not installed."""
        from modicum.repcomplexity.integrations.pandas import to_frame

        return to_frame(self.rows())

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        lines = [[_cell(value) for value in row.values()] for row in self.rows()]
        fits = []
        for one in self.growth():
            numbers = (one.degree, one.rate, one.aic_difference)
            words = (f"{number:.3g}" for number in numbers)
            fits.append([one.target, one.measure, one.end, *words, one.answer])
        parts = [f"# {self.family}\n", f"{self.verdict()}\n"]
        parts.append(_markdown(["n", "target", "measure", "lower", "upper", "source"], lines))
        if fits:
            columns = ["target", "measure", "ends", "degree", "doublings per n", "AIC difference"]
            parts.append(_markdown([*columns, "growth"], fits))
        return "\n".join([*parts, *(f"{note}\n" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, with fits and verdict."""
        fits = [dataclasses.asdict(one) for one in self.growth()]
        whole = {"format": _FORMAT, **dataclasses.asdict(self)}
        return {**whole, "growth": fits, "verdict": self.verdict()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON; the file is whole at every moment."""
        return write_atomic(path, dumps(self.to_dict()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScalingReport:
        """Read what `save` wrote; a ValueError if the file is no such report."""
        data = _read(path, "a scaling report")
        try:
            points = tuple(ScalingPoint(**point) for point in data["points"])
            return cls(data["family"], tuple(data["ns"]), points, tuple(data["notes"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a scaling report: {error}") from error

    def plot(self, path: str | os.PathLike[str], measure: str = DEPTH_TWO_TERMS) -> Path:
        """Draw the sizes by one measure over n into a file; its ending says the format."""
        from modicum.repcomplexity.report_plots import save_figure, size_over_n

        return save_figure(size_over_n(self, measure), path)


def scaling_report(
    family: Callable[[int], BitMDP],
    ns: Sequence[int],
    *,
    targets: Sequence[str] = ("transition", "reward", "q", "value"),
    max_inputs: int = 13,
    time_limit: float = 60.0,
    progress: Callable[[int, int, str], None] | None = None,
) -> ScalingReport:
    """Follow the sizes of a family of processes over n.

    Up to `max_inputs` bits of a state and an action every function is measured; beyond, what is
    proved about the family without a table is all there is.

    Parameters
    ----------
    family
        Makes the process of a size, such as `modicum.repcomplexity.families.MajorityMDP`.
    ns
        Sizes.
    targets
        As for `complexity_report`.
    max_inputs
        Most bits of a state and an action that are tabulated.
    time_limit
        Seconds for the searches of all n together.
    progress
        Told how many n are done, of how many, and the next process's name.

    Raises
    ------
    ValueError
        If there is no n or the time limit is not positive.
    ComplexityLimitError
        If the family has a process of none of the sizes. One of some of them is left out, with a
        note.
    """
    sizes = sorted({int(n) for n in ns})
    if not sizes:
        raise ValueError("ns must hold at least one size")
    chosen = check_targets(targets)
    points: list[ScalingPoint] = []
    name, skipped = getattr(family, "__name__", str(family)), []
    impossible: dict[int, ComplexityLimitError] = {}
    for done, n in enumerate(sizes):
        try:
            mdp = family(n)
        except ComplexityLimitError as error:
            # What the other sizes took is not thrown away for one that does not fit.
            impossible[n] = error
            continue
        if progress is not None:
            progress(done, len(sizes), mdp.name)
        for one in known_sizes(mdp):
            points.append(
                ScalingPoint(n, one.target, one.measure, one.lower, one.upper, one.source)
            )
        if mdp.n_state_bits + mdp.n_action_bits > max_inputs:
            skipped.append(n)
            continue
        report = complexity_report(mdp, chosen, time_limit=time_limit / len(sizes))
        points += _measured_points(n, report)
    if len(impossible) == len(sizes):
        raise impossible[sizes[0]]
    notes = [f"Left out: n = {n}, {error}." for n, error in impossible.items()]
    sizes = [n for n in sizes if n not in impossible]
    if skipped:
        many = ", ".join(map(str, skipped))
        notes.append(f"Not tabulated, for more than {max_inputs} inputs: n = {many}.")
    return ScalingReport(name, tuple(sizes), tuple(points), tuple(notes))


def _measured_points(n: int, report: ComplexityReport) -> list[ScalingPoint]:
    points = []
    for target in report.targets:
        for ruler, (low, high) in report.by_ruler(target).items():
            source = "exact" if low == high else "bounds"
            if ruler == "OBDD nodes":
                orders = {f.obdd_order for f in report.functions if f.target == target}
                source = "exact" if orders == {"best"} else "best order tried"
            points.append(ScalingPoint(n, target, ruler, low, high, source))
    return points


def _fit(target: str, measure: str, end: str, series: Mapping[int, float]) -> Growth:
    """Fit both laws to the logarithms of sizes by least squares."""
    ns = np.array(sorted(series), dtype=np.float64)
    logs = np.log2([max(series[int(n)], 1e-300) for n in ns])
    criteria, slopes = [], []
    for x in (np.log2(ns), ns):
        design = np.stack((np.ones_like(x), x), axis=1)
        coefficients, *_ = np.linalg.lstsq(design, logs, rcond=None)
        squares = float(((logs - design @ coefficients) ** 2).sum())
        # Both laws have two parameters; a floor keeps a perfect fit finite.
        criteria.append(len(ns) * math.log(max(squares, 1e-12) / len(ns)) + 4)
        slopes.append(float(coefficients[1]))
    difference = criteria[0] - criteria[1]
    answer = "undecided"
    if abs(difference) >= 2 and len(ns) >= _DECIDING:
        answer = "exponential" if difference > 0 else "polynomial"
    return Growth(
        target, measure, end, tuple(int(n) for n in ns), slopes[0], slopes[1], difference, answer
    )


def _grows(one: Growth) -> str:
    """Say how one size grows."""
    what = f"{one.measure} of {_SPOKEN.get(one.target, one.target)}"
    where = f"over n = {', '.join(map(str, one.ns))}"
    bound = {"lower": "at least ", "upper": "at most ", "both": ""}[one.end]
    power, exponential = f"n^{one.degree:.2g}", f"2^({one.rate:.2g} n)"
    if abs(one.degree) < _FLAT:
        return f"{what} {bound.strip() or 'always'} stay the same {where}.".capitalize()
    law = {
        "polynomial": f"like {power}",
        "exponential": f"like {exponential}",
        "undecided": f"like {power} or {exponential} alike",
    }[one.answer]
    return f"{what[0].upper()}{what[1:]} grow {bound}{law} {where}."


# Words ------------------------------------------------------------------------------------------


def _exactly(value: float | None) -> Interval | None:
    return None if value is None else (float(value), float(value))


def _row(item: FunctionComplexity) -> dict[str, Any]:
    row: dict[str, Any] = {
        "target": item.target,
        "function": item.name,
        "inputs": item.n_inputs,
        "P[1]": item.probability,
    }
    for name, form in (("DNF", item.dnf), ("CNF", item.cnf), ("gates", item.gates)):
        row[f"{name} low"] = None if form is None else int(form[0])
        row[f"{name} high"] = None if form is None else int(form[1])
    row |= {
        "C_1": item.certificate_ones,
        "C_0": item.certificate_zeros,
        "leaves": item.tree_leaves,
        "OBDD": item.obdd,
        "influence": item.influence,
        "degree": item.degree,
    }
    return row | {f"W>{k}": item.tail(k) for k in range(1, _MOST_TAIL + 1)}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) and value < 1e4 else f"{value}"


def _spelled(interval: Interval) -> str:
    low, high = interval
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"


def _bounds(one: KnownSize) -> str:
    if one.lower == one.upper:
        return f"{one.lower:,}"
    if one.upper is None:
        return f"at least {one.lower:,}"
    return f"at most {one.upper:,}" if one.lower is None else f"{one.lower:,} … {one.upper:,}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def _read(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    try:
        data = loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not {what}: {error}") from error
    if not isinstance(data, dict) or data.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} is not {what} of format {_FORMAT}")
    return data
