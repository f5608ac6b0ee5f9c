"""Processes on which the report must not say that the model is the easier part.

In the first control the model is the hard part: one bit of the next state is a parity of all bits
and matters to nobody, while Q* is the sum of two inputs. The report must say so, and so must small
networks on rows of it. In the second nothing is easy: next states and rewards are random tables,
and Q* of the only step is a random table too. The report should name no side, the targets should
need about as many terms, and nothing should change with n.

A target is as hard as the hardest of its functions, and the model has n + 1 of them where Q* has
one. Among few rows the largest of many random functions is larger than a single one by more than
the report's margin; how often that makes it name a side is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from modicum.core.device import one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import clopper_pearson, paired_difference
from modicum.repcomplexity.bits import bits_for
from modicum.repcomplexity.boolean.bounds import majority_mdp_dnf_terms
from modicum.repcomplexity.collection import sample_bit_mdp
from modicum.repcomplexity.experiments._training import resumed
from modicum.repcomplexity.families import IrrelevantParityMDP, RandomMDP
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.measure import measure
from modicum.repcomplexity.measurement import Measurement
from modicum.repcomplexity.report import (
    INCONCLUSIVE,
    MODEL_EASIER,
    Q_EASIER,
    SAME,
    SAME_WITHIN,
    complexity_report,
)

__all__ = ["FULL", "QUICK", "Plan", "run"]

TARGETS = ("transition", "reward", "q")
NO_SIDE = (INCONCLUSIVE, SAME)
"""Verdicts that name no side and see no difference that depends on the ruler either."""
FLAT = 0.1
"""Doublings for each bit up to which a ratio of sizes counts as constant in n."""
REFERENCE = (4, 8)
"""Values of n between which the same ratio of the Majority MDP is taken, beside it."""
WIDTH = 16
NETWORK_TARGETS = ("next_obs", "delta", "q")


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    easy_ns
        Bits of the processes with an easy Q*.
    random_ns, random_seeds
        Bits of the random processes, increasing, and how many there are of each.
    seconds
        Most time for all searches of one report.
    network_n, rows
        Bits of the process with an easy Q* that networks learn, and rows of it.
    network_seeds, steps
        Of the networks.
    """

    easy_ns: tuple[int, ...]
    random_ns: tuple[int, ...]
    random_seeds: int
    seconds: float
    network_n: int
    rows: int
    network_seeds: int
    steps: int


FULL = Plan((4, 6, 8, 10), (4, 5, 6, 7, 8), 30, 120.0, 16, 20_000, 5, 2000)
QUICK = Plan((4, 5, 6), (4, 5), 12, 20.0, 10, 2048, 3, 400)


@dataclass(frozen=True)
class Report:
    """What a report says of one process.

    Attributes
    ----------
    answer
        The verdict.
    comparisons
        Of each ruler its name, model and Q* as [low, high], and the answer.
    terms
        Fewest terms of a DNF of every function, as [low, high], by target.
    """

    answer: str
    comparisons: Sequence[tuple[str, list[float], list[float], str]]
    terms: Mapping[str, Sequence[list[float]]]

    @property
    def sizes(self) -> list[tuple[float, float]]:
        """Terms of each target: those of the function that needs most."""
        return [
            (max(low for low, _ in functions), max(high for _, high in functions))
            for functions in self.terms.values()
        ]

    def gap(self) -> float:
        """Return log2 of the terms of Q* over the mean of a bit of the next state."""
        (q,) = (sum(terms) / 2 for terms in self.terms["q"])
        bits = [sum(terms) / 2 for terms in self.terms["transition"]]
        return math.log2(q * len(bits) / sum(bits))


def run(ctx: RunContext) -> Result:
    """Report on every process of the plan, and train networks on the easy Q*."""
    plan = QUICK if ctx.quick else FULL
    cells: dict[str, Callable[[], Any]] = {
        f"easy-{n}": partial(report_on, IrrelevantParityMDP(n), plan.seconds) for n in plan.easy_ns
    }
    for n in plan.random_ns:
        for number in range(plan.random_seeds):
            mdp = RandomMDP(n, seed=ctx.seed + number)
            cells[f"random-{n}-{number}"] = partial(report_on, mdp, plan.seconds)
    measurement = None
    with one_thread():
        found = {name: Report(**cell) for name, cell in resumed(ctx, cells, "reports").items()}
        if find_spec("torch") is not None:
            measurement = networks(ctx, plan)
    easy = {n: found[f"easy-{n}"] for n in plan.easy_ns}
    random = {
        n: [found[f"random-{n}-{number}"] for number in range(plan.random_seeds)]
        for n in plan.random_ns
    }
    claims = [*(easy_claim(n, report) for n, report in easy.items()), easy_terms_claim(easy)]
    if measurement is not None:
        claims.append(network_claim(measurement, plan))
    for n, reports in random.items():
        claims += [verdict_claim(n, reports), terms_claim(n, reports)]
    claims += [model_claim(random), gap_claim(random)]
    tables = [easy_table(easy), random_table(random)]
    if measurement is not None:
        tables.append(network_table(measurement, plan))
    missing = "" if measurement is not None else " Networks were left out: torch is not installed."
    return ctx.result(
        claims=claims, tables=tables, figures=figures_of(random), text=ABOUT + missing
    )


ABOUT = (
    "A report that always found the model easier would be of no use. Here it is held to processes "
    "in which Q* is easier by construction, and to random ones, in which neither is. That it names "
    "Q* on some of the smallest random processes comes from comparing the hardest of many random "
    "functions with one; it fades as n grows."
)


# What is measured -------------------------------------------------------------------------------


def report_on(mdp: BitMDP, seconds: float) -> dict[str, Any]:
    """Return what `Report` takes, of the model and Q* of a process."""
    report = complexity_report(mdp, TARGETS, time_limit=seconds)
    verdict = report.verdict()
    return {
        "answer": verdict.answer,
        "comparisons": [
            (one.ruler, list(one.model), list(one.q), one.answer) for one in verdict.comparisons
        ],
        "terms": {
            target: [list(one.dnf or ()) for one in report.functions if one.target == target]
            for target in TARGETS
        },
    }


def networks(ctx: RunContext, plan: Plan) -> Measurement:
    """Train small networks on rows of the process with an easy Q*."""
    data = sample_bit_mdp(
        IrrelevantParityMDP(plan.network_n), plan.rows, seed=ctx.seed, distinct=True
    )
    return measure(
        data,
        NETWORK_TARGETS,
        (WIDTH,),
        seeds=plan.network_seeds,
        steps=plan.steps,
        device=ctx.device,
        seed=ctx.seed,
        out=ctx.out / "networks",
        progress=ctx.progress,
    )


def are_close(sizes: Sequence[Sequence[float]]) -> bool:
    """Say whether sizes, given as intervals, are proved to be within the report's margin."""
    return max(high for _, high in sizes) <= SAME_WITHIN * min(low for low, _ in sizes)


# What it says -----------------------------------------------------------------------------------


def easy_claim(n: int, report: Report) -> Claim:
    """Judge whether the report sees that Q* is the easy part."""
    answers = Counter(answer for *_, answer in report.comparisons)
    return Claim(
        f"easy_n{n}",
        f"n = {n}: with an irrelevant parity in the model the report says that Q* is easier",
        None,
        answers[Q_EASIER],
        None,
        report.answer == Q_EASIER,
        f"rulers of {len(report.comparisons)}",
        f'Verdict: "{report.answer}". Rulers: {counted(answers)}. Holds if the verdict is '
        f'"{Q_EASIER}".',
    )


def easy_terms_claim(easy: Mapping[int, Report]) -> Claim:
    """Judge whether the gap is the one that is built in."""
    exact = all(
        max(report.terms["transition"]) == [2 ** (n - 1)] * 2
        and max(high for _, high in report.terms["q"]) <= 2
        for n, report in easy.items()
    )
    n = max(easy)
    return Claim(
        "easy_terms",
        "Its hardest bit needs 2^(n − 1) terms, and no bit of Q* more than 2",
        None,
        max(low for low, _ in easy[n].terms["transition"]),
        None,
        exact,
        f"terms at n = {n}",
        f"Least DNF, proved; n = {', '.join(map(str, easy))}. Holds if all are exactly that.",
    )


def network_claim(measurement: Measurement, plan: Plan) -> Claim:
    """Judge whether networks on data see that Q* is the easy part."""
    verdicts = [measurement.verdict(model=model) for model in ("next_obs", "delta")]
    row = next(row for row in verdicts[0].comparisons if row.metric == "fvu")
    finite = bool(np.isfinite([row.low, row.high]).all())
    q = measurement.estimate("q", WIDTH, "fvu")
    return Claim(
        "networks",
        f"n = {plan.network_n}: small networks on rows of that process find Q* easier, too",
        None,
        row.ratio,
        (row.low, row.high) if finite else None,
        all(verdict.headline == Q_EASIER for verdict in verdicts),
        "FVU of Q* / FVU of the next state",
        f"{plan.rows:,} rows, {plan.network_seeds} networks 2 × {WIDTH}, {plan.steps} steps; "
        f"held-out rows, FVU of Q* {q.value:.2g}; 95 %, seeds and rows resampled. Holds if fvu, "
        "fvu_perdim and zhu2024 all say so, against the next state and against its change.",
    )


def verdict_claim(n: int, reports: Sequence[Report]) -> Claim:
    """Count how often the report names no side on random processes."""
    answers = Counter(report.answer for report in reports)
    quiet = sum(answers[answer] for answer in NO_SIDE)
    low, high = clopper_pearson(quiet, len(reports))
    return Claim(
        f"no_side_n{n}",
        f"n = {n}: on random MDPs the report names no side",
        None,
        quiet / len(reports),
        (float(low), float(high)),
        quiet == len(reports),
        "share of MDPs",
        f'{counted(answers)}. No side is "{INCONCLUSIVE}" or "{SAME}"; exact 95 % interval, '
        f"{len(reports)} seeds. Holds if it is so for every one.",
    )


def terms_claim(n: int, reports: Sequence[Report]) -> Claim:
    """Count how often the targets of random processes need about as many terms."""
    close = sum(are_close(report.sizes) for report in reports)
    low, high = clopper_pearson(close, len(reports))
    ratios = [max(h for _, h in one.sizes) / min(low for low, _ in one.sizes) for one in reports]
    open_ = sum(
        low < high for one in reports for terms in one.terms.values() for low, high in terms
    )
    proved = "all proved" if not open_ else f"{open_} of them bounds, which count as apart"
    return Claim(
        f"equal_terms_n{n}",
        f"n = {n}: the targets of random MDPs need as many terms, within {SAME_WITHIN - 1:.0%}",
        None,
        close / len(reports),
        (float(low), float(high)),
        close == len(reports),
        "share of MDPs",
        f"Least DNF of the hardest function of next state, reward and Q*, {proved}. Largest over "
        f"smallest: median {np.median(ratios):.3g}, at most {max(ratios):.3g}. Exact 95 % "
        f"interval, {len(reports)} seeds. Holds if it is so for every one.",
    )


def model_claim(random: Mapping[int, Sequence[Report]]) -> Claim:
    """Count false findings of the kind that the package is about."""
    reports = [report for one in random.values() for report in one]
    wrong = sum(report.answer == MODEL_EASIER for report in reports)
    low, high = clopper_pearson(wrong, len(reports))
    return Claim(
        "no_false_finding",
        "On no random MDP the report says that the model is easier",
        None,
        wrong / len(reports),
        (float(low), float(high)),
        wrong == 0,
        "share of MDPs",
        f"n = {', '.join(map(str, random))}, {len(reports)} MDPs; exact 95 % interval. Holds if "
        "there is none.",
    )


def gap_claim(random: Mapping[int, Sequence[Report]]) -> Claim:
    """Judge whether the gap between Q* and a bit of the model changes with n."""
    slopes = slopes_of(random)
    change = paired_difference(slopes, np.zeros_like(slopes))
    low, high = change.interval
    holds = True if -FLAT <= low and high <= FLAT else False if low > FLAT or high < -FLAT else None
    first, last = REFERENCE
    return Claim(
        "no_gap",
        "On random MDPs the terms of Q* over those of a bit of the next state do not grow with n",
        None,
        change.mean,
        (low, high),
        holds,
        "doublings for each bit",
        f"Slope of log2 of Q* over the mean bit, n = {', '.join(map(str, random))}; Student's 95 % "
        f"interval over {len(slopes)} seeds. Holds if it is within ±{FLAT:g}; undecided if it "
        f"reaches both sides of that. Of the Majority MDP, by what is proved of it, n = {first} to "
        f"{last}: {majority_slope():.2g} at least.",
    )


def slopes_of(random: Mapping[int, Sequence[Report]]) -> np.ndarray:
    """Return the slope of the gap over n by least squares, of each seed."""
    ns = np.array(list(random), dtype=np.float64)
    gaps = np.array([[report.gap() for report in reports] for reports in random.values()])
    centered = ns - ns.mean()
    return centered @ gaps / (centered @ centered)


def majority_slope() -> float:
    """Return the doublings for each bit of proved terms of Q* over those of a bit, Majority MDP."""
    logs = [math.log2(majority_mdp_dnf_terms(n) / (bits_for(n) + 2)) for n in REFERENCE]
    return (logs[1] - logs[0]) / (REFERENCE[1] - REFERENCE[0])


def counted(answers: Mapping[str, int]) -> str:
    """Write how often there is each answer."""
    return ", ".join(f"{answer}: {count}" for answer, count in sorted(answers.items()))


# Tables and figures -----------------------------------------------------------------------------


def easy_table(easy: Mapping[int, Report]) -> Table:
    """Return a row for each n and ruler of the process with an easy Q*."""
    rows: list[list[Any]] = [
        [n, ruler, spelled(model), spelled(q), answer]
        for n, report in easy.items()
        for ruler, model, q, answer in report.comparisons
    ]
    return Table(
        "Irrelevant parity: model and Q* by every ruler",
        ["n", "ruler", "model", "Q*", "answer"],
        rows,
        "Two numbers are bounds.",
    )


def random_table(random: Mapping[int, Sequence[Report]]) -> Table:
    """Return a row for each n: terms of random processes and verdicts on them."""
    rows: list[list[Any]] = []
    for n, reports in random.items():
        answers = Counter(report.answer for report in reports)
        sizes = np.array([report.sizes for report in reports]).mean((0, 2))
        bits = np.mean([report.terms["transition"] for report in reports])
        single = [[t for terms in one.terms.values() for t in terms] for one in reports]
        close = sum(map(are_close, single)) / len(reports)
        others = len(reports) - sum(answers[one] for one in (*NO_SIDE, Q_EASIER, MODEL_EASIER))
        quiet = sum(answers[answer] for answer in NO_SIDE)
        counts = [quiet, answers[Q_EASIER], answers[MODEL_EASIER], others]
        rows.append([n, len(reports), float(bits), *sizes.tolist(), close, *counts])
    return Table(
        "Random MDPs: terms and verdicts",
        [
            "n",
            "MDPs",
            "terms of a bit",
            "of the hardest bit",
            "of the reward",
            "of Q*",
            "share with all functions close",
            "no side",
            Q_EASIER,
            MODEL_EASIER,
            "depends on the ruler",
        ],
        rows,
        "Least DNF, means over MDPs. Horizon 1, so that Q* is the reward. Close: within "
        f"{SAME_WITHIN - 1:.0%} of each other, each bit of the next state on its own.",
    )


def network_table(measurement: Measurement, plan: Plan) -> Table:
    """Return a row for each target: what networks leave unexplained of the easy Q*'s process."""
    rows: list[list[Any]] = []
    for target in NETWORK_TARGETS:
        cells: list[Any] = []
        for metric in ("fvu", "fvu_perdim", "zhu2024"):
            one = measurement.estimate(target, WIDTH, metric)
            cells.append(f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]")
        rows.append([target, *cells])
    return Table(
        f"Irrelevant parity, n = {plan.network_n}: networks 2 × {WIDTH}",
        ["target", "fvu", "fvu_perdim", "zhu2024"],
        rows,
        "In brackets 95 %, seeds and rows resampled. One of the bits is the parity.",
    )


def spelled(interval: Sequence[float]) -> str:
    """Write a size, or between what it lies."""
    low, high = interval
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def figures_of(random: Mapping[int, Sequence[Report]]) -> list[Figure]:
    """Draw terms of random processes over n; nothing without matplotlib, which is optional."""
    from modicum.core.plots import look, new_axes

    try:
        figure, axes = new_axes("modicum-repcomplexity")
    except ImportError:
        return []
    ns, words = list(random), []
    for index, (name, target) in enumerate(
        (("a bit of the next state", "transition"), ("Q*", "q"))
    ):
        values = [np.mean([one.terms[target] for one in reports]) for reports in random.values()]
        axes.plot(ns, values, marker="o", markersize=3, label=name, **look(index))
        words.append(f"{name}: {', '.join(f'{value:.3g}' for value in values)}")
    axes.set_yscale("log", base=2)
    axes.set_xticks(ns, [str(n) for n in ns])
    axes.set_xlabel("n")
    axes.set_ylabel("terms")
    axes.legend(frameon=False)
    return [
        Figure.from_matplotlib(
            figure,
            "Terms of random MDPs",
            "Least DNF, means over MDPs.",
            f"For n = {', '.join(map(str, ns))}. {'; '.join(words)}.",
        )
    ]
