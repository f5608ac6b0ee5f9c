"""Errors and samples of every stopping rule on the same streams of answers.

Draws independent answers from known laws, runs each rule on the same ones, and counts what is
*declared* wrongly: a run that reaches its cap undecided declares nothing. For two answers and rules
with a boundary table the same probabilities are computed without sampling. Rules whose guarantee is
about the error must stay below their level on every law; rules without one are the contrast that
shows that the experiment can find an error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.core.stats import clopper_pearson
from modicum.testtime.stopping import (
    ESC,
    PPR,
    BetaStop,
    Curtailed,
    FixedN,
    ModeCertificate,
    StoppingRule,
    StoppingStudy,
    Supermajority,
    exact_two_answers,
    simulate_stopping,
)

QUICK_RUNS = 1000
FULL_RUNS = 10_000

ERROR = 1e-6
"""Probability that any claim about an error fails although every rule keeps its level."""

CERTIFICATE, ONE_SIDED, TWO_SIDED = "ModeCertificate", "PPR", "PPR, two-sided"
BETA, WINDOW, WINDOW_VOTES, SUPERMAJORITY = "BetaStop", "ESC", "ESC, by votes", "Supermajority"

CURTAILED_CAP = 40
CURTAILED_LAWS: dict[tuple[float, ...], float] = {
    (0.9, 0.1): 23.3,
    (0.7, 0.2, 0.1): 27.7,
    (0.5, 0.3, 0.2): 34.5,
}
"""Laws, and the mean samples of N = 40 computed by another route."""

EXACT_CAP = 1000
EXACT_GAPS = (0.001, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
"""Differences of two probabilities; the first is as good as none."""


@dataclass(frozen=True)
class Case:
    """A law of answers, the level of the rules on it, and the cap of a run."""

    name: str
    p: tuple[float, ...]
    level: float = 0.05
    cap: int = 1000
    null: float = 0.0
    tail: float = 0.0

    def rules(self) -> dict[str, StoppingRule]:
        """Return the rules that can be used on the law."""
        found: dict[str, StoppingRule] = {CERTIFICATE: ModeCertificate(self.level)}
        if not self.tail and len(self.p) > 1:
            found[ONE_SIDED] = PPR(self.level, len(self.p))
            found[TWO_SIDED] = PPR(self.level, len(self.p), two_sided=True)
        return found | {
            BETA: BetaStop(1 - self.level),
            WINDOW: ESC(5),
            WINDOW_VOTES: ESC(5, answer="votes"),
            SUPERMAJORITY: Supermajority(),
        }


CASES = (
    Case(".6/.4", (0.6, 0.4)),
    Case(".52/.48", (0.52, 0.48)),
    Case(".5/.3/.2", (0.5, 0.3, 0.2)),
    Case(".9/.06/.04", (0.9, 0.06, 0.04)),
    Case(".34/.33/.33", (0.34, 0.33, 0.33), 0.1, 400),
    Case(".3 + 70 × .01", (0.3, *[0.01] * 70), 0.1, 150),
    Case(".1/.05 + answers that never repeat", (0.1, 0.05), 0.1, 400, tail=0.85),
    Case(".4/.3, .3 without an answer", (0.4, 0.3), 0.05, 400, null=0.3),
)
ANYTIME = (CERTIFICATE, ONE_SIDED, TWO_SIDED)
HEURISTIC = (BETA, WINDOW, WINDOW_VOTES, SUPERMAJORITY)
CLOSE = (".52/.48", ".34/.33/.33")

Cell = dict[str, float]
"""Of one rule on one law: counts of runs, and the sum and the sum of squares of the samples."""


def _cell(study: StoppingStudy) -> Cell:
    return {
        "runs": study.runs,
        "wrong": int(study.wrong_R.sum()),
        "decided": int(study.declared_R.sum()),
        "correct": int(study.correct_R.sum()),
        "mean": study.mean_samples,
        "standard_error": float(study.samples_R.std(ddof=1)) / math.sqrt(study.runs),
    }


Cells = dict[str, dict[str, Cell]]


def simulated(ctx: RunContext, runs: int, advance: Callable[[int], Any]) -> Cells:
    """Return a cell for every law and rule."""
    found: Cells = {}
    for number, case in enumerate(CASES):
        kept = ctx.load_partial(f"law_{number}")
        if kept is None:
            kept = {
                name: _cell(
                    simulate_stopping(
                        rule,
                        case.p,
                        null=case.null,
                        tail=case.tail,
                        max_samples=case.cap,
                        runs=runs,
                        seed=ctx.seed,
                    )
                )
                for name, rule in case.rules().items()
            }
            ctx.save_partial(f"law_{number}", kept)
        found[case.name] = kept
        advance(1)
    return found


def _interval(count: float, runs: float, level: float = 0.95) -> tuple[float, float]:
    low, high = clopper_pearson(int(count), int(runs), level)
    return float(low), float(high)


def tail_probability(count: float, runs: float, level: float) -> float:
    """Return the probability of at least so many errors at an error probability of `level`."""
    from scipy.special import bdtrc

    return 1.0 if count == 0 else float(bdtrc(count - 1, runs, level))


def _anytime_claim(rule: str, cells: Cells, num_tests: int) -> Claim:
    """State that an anytime rule keeps its level on every law."""
    rows = [(case, cells[case.name][rule]) for case in CASES if rule in cells[case.name]]
    case, cell = max(rows, key=lambda row: row[1]["wrong"] / row[1]["runs"] / row[0].level)
    least = min(tail_probability(c["wrong"], c["runs"], k.level) for k, c in rows)
    # Each of the intervals that must lie below the level has its share of one half per mille.
    strict = 1 - 0.0005 / num_tests
    below = all(_interval(c["wrong"], c["runs"], strict)[1] < k.level for k, c in rows)
    beyond = least < ERROR / num_tests
    return Claim(
        f"error_{rule.lower().replace(', ', '_').replace('-', '_')}",
        f"{rule} declares an answer that is not a most likely one with probability at most its "
        f"level δ, looking after every sample, on each of {len(rows)} laws.",
        None,
        cell["wrong"] / cell["runs"],
        _interval(cell["wrong"], cell["runs"]),
        True if below else (False if beyond else None),
        "share of runs",
        f"Shown is the law with the largest share of δ, {case.name} at δ = {case.level:g}: "
        f"{cell['wrong']:.0f} of {cell['runs']:.0f} runs, 95 % Clopper-Pearson. Holds if all upper "
        f"ends (joint level .9995) are below δ; fails if so many errors had probability below "
        f"{ERROR / num_tests:.1g} at δ.",
    )


def _heuristic_claim(rule: str, cells: Cells) -> Claim:
    """State that a rule without a guarantee exceeds the same level on close races."""
    rows = [(case, cells[case.name][rule]) for case in CASES if case.name in CLOSE]
    case, cell = min(rows, key=lambda row: row[1]["wrong"] / row[1]["runs"] / row[0].level)
    low, high = _interval(cell["wrong"], cell["runs"], 1 - ERROR)
    return Claim(
        f"loss_{rule.lower().replace(', ', '_').replace(' ', '_')}",
        f"A loss that is avoided: on close races ({' and '.join(CLOSE)}) {rule} declares a wrong "
        "answer more often than the level that the anytime rules keep.",
        None,
        cell["wrong"] / cell["runs"],
        _interval(cell["wrong"], cell["runs"]),
        True if low > case.level else (False if high < case.level else None),
        "share of runs",
        f"Shown is the race where it is the smaller multiple of the level: {case.name}, level "
        f"{case.level:g}; 95 % Clopper-Pearson. It is also what shows that the experiment finds "
        "an error.",
    )


def _price_claim(cells: Cells) -> Claim:
    """State what the guarantee costs in samples."""
    names = [case.name for case in CASES if case.name not in CLOSE]
    ratios = {name: cells[name][CERTIFICATE]["mean"] / cells[name][BETA]["mean"] for name in names}
    worst = max(ratios, key=lambda name: ratios[name])
    cell, beta = cells[worst][CERTIFICATE], cells[worst][BETA]
    relative = math.hypot(
        cell["standard_error"] / cell["mean"], beta["standard_error"] / beta["mean"]
    )
    half = 1.96 * relative * ratios[worst]
    return Claim(
        "price_of_the_guarantee",
        "The certificate costs two to six times the samples of BetaStop where it decides.",
        None,
        ratios[worst],
        (ratios[worst] - half, ratios[worst] + half),
        ratios[worst] - half <= 6.0 and min(ratios.values()) > 1.5,
        "ratio of mean samples",
        f"Largest on {worst}, smallest {min(ratios.values()):.2f}; 95 % normal interval, which "
        "takes the two means for independent and so is too wide. Close races are left out: there "
        "the cap ends most runs.",
    )


def _unknown_answers_claim(cells: Cells) -> Claim:
    """State that not knowing the answers is cheaper than allowing for many of them."""
    name = CASES[5].name
    certificate, known = cells[name][CERTIFICATE], cells[name][ONE_SIDED]
    difference = known["mean"] - certificate["mean"]
    half = 1.96 * math.hypot(known["standard_error"], certificate["standard_error"])
    return Claim(
        "many_answers",
        "With 71 possible answers the certificate, which need not know them, takes fewer samples "
        "than PPR, which allows for all of them.",
        None,
        difference,
        (difference - half, difference + half),
        True if difference - 2.5 * half > 0 else (False if difference + half < 0 else None),
        "samples saved on average",
        f"{certificate['mean']:.1f} against {known['mean']:.1f} samples, δ = .1; 95 % normal "
        "interval.",
    )


def exact_errors(cap: int = EXACT_CAP) -> tuple[Table, Claim, dict[str, list[float]]]:
    """Compute errors and samples on two answers without sampling."""
    rules = {ONE_SIDED: PPR(0.05, 2), TWO_SIDED: PPR(0.05, 2, True), BETA: BetaStop(0.95)}
    rows: list[list[Any]] = []
    errors: dict[str, list[float]] = {name: [] for name in rules}
    for gap in EXACT_GAPS:
        row: list[Any] = [gap]
        for name, rule in rules.items():
            exact = exact_two_answers(rule, (1 + gap) / 2, cap)
            errors[name].append(exact.declares_second)
            row += [exact.declares_second, exact.mean_samples]
        rows.append(row)
    columns = ["gap", *(f"{name}: {what}" for name in rules for what in ("error", "samples"))]
    worst = max(errors[ONE_SIDED])
    claim = Claim(
        "exact_error_ppr",
        f"On two answers, up to {cap} samples, the exact probability that PPR declares the less "
        "likely one is at most δ at every gap.",
        None,
        worst,
        None,
        worst <= 0.05,
        "probability",
        f"δ = .05; largest over {len(EXACT_GAPS)} gaps from {EXACT_GAPS[0]:g} on, dynamic program "
        f"over the counts. BetaStop at .95: {max(errors[BETA]):.3f}.",
    )
    table = Table(
        "Two answers, exact",
        columns,
        rows,
        f"Probability of declaring the less likely answer, and mean samples; cap {cap}, level .05.",
    )
    return table, claim, errors


def curtailed(runs: int, seed: int) -> tuple[Table, list[Claim]]:
    """Compare the curtailed majority of 40 with the whole one."""
    rows: list[list[Any]] = []
    same, total, off = 0, 0, 0.0
    for p, expected in CURTAILED_LAWS.items():
        options: dict[str, Any] = {"max_samples": CURTAILED_CAP, "runs": runs, "seed": seed}
        part = simulate_stopping(Curtailed(CURTAILED_CAP), p, **options)
        whole = simulate_stopping(FixedN(CURTAILED_CAP), p, **options)
        equal = part.answers_R == whole.answers_R
        same, total = same + int(equal.sum()), total + runs
        low, high = part.mean_interval()
        off = max(off, max(low - expected, expected - high, 0.0))
        rows.append(
            ["/".join(f"{x:g}" for x in p), expected, part.mean_samples, low, high, equal.mean()]
        )
    table = Table(
        f"Curtailed majority of {CURTAILED_CAP}",
        ["law", "samples, expected", "samples", "low", "high", "same answer"],
        rows,
        f"{runs} runs, 95 % normal intervals.",
    )
    saved = 1 - float(np.mean([row[2] for row in rows])) / CURTAILED_CAP
    lossless = Claim(
        "curtailed_is_lossless",
        f"The curtailed majority of {CURTAILED_CAP} gives the answer of the whole one in every "
        "run.",
        1.0,
        same / total,
        None,
        same == total,
        "share of runs",
        f"{total} runs on {len(rows)} laws, on average {saved:.0%} of the samples saved.",
    )
    means = Claim(
        "curtailed_samples",
        "Mean samples of the curtailed majority are 23.3, 27.7 and 34.5, as computed elsewhere.",
        None,
        off,
        None,
        off <= 0.15,
        "samples beyond the interval",
        "Largest distance of an expected figure from the 95 % interval; holds up to .15.",
    )
    return table, [lossless, means]


def _figures(errors: dict[str, list[float]], cells: Cells) -> list[Figure]:
    from modicum.core.plots import GREY, look, new_axes

    try:
        figure, axes = new_axes("modicum-testtime")
    except ImportError:
        return []
    for index, (name, error) in enumerate(errors.items()):
        axes.plot(EXACT_GAPS, np.maximum(error, 1e-7), marker="o", ms=3, label=name, **look(index))
    two = [case for case in CASES if len(case.p) == 2 and not case.null and not case.tail]
    for index, name in enumerate((CERTIFICATE, WINDOW), len(errors)):
        found = [cells[case.name][name] for case in two]
        share = np.array([cell["wrong"] / cell["runs"] for cell in found])
        ends = np.array([_interval(cell["wrong"], cell["runs"]) for cell in found]).T
        gaps = [case.p[0] - case.p[1] for case in two]
        axes.errorbar(
            gaps,
            np.maximum(share, 1e-7),
            np.abs(np.maximum(ends, 1e-7) - np.maximum(share, 1e-7)),
            fmt="s",
            ms=4,
            capsize=2,
            color=look(index)["color"],
            label=f"{name}, simulated",
        )
    axes.axhline(0.05, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("level δ = .05", (EXACT_GAPS[0], 0.055), color=GREY, fontsize="small")
    axes.set(xscale="log", yscale="log", ylim=(1e-6, 1))
    axes.set(xlabel="gap of the two answers", ylabel="probability of a wrong declaration")
    axes.legend(frameon=False, fontsize="small")
    return [
        Figure.from_matplotlib(
            figure,
            "Wrong declarations on two answers",
            f"Up to {EXACT_CAP} samples. Lines are exact; squares are simulated with 95 % "
            "intervals.",
            "PPR stays below the level at every gap; BetaStop and ESC are far above it where the "
            "gap is small",
        )
    ]


def _tables(cells: Cells) -> tuple[Table, str]:
    rows: list[list[Any]] = []
    lines = [
        "law,level,cap,rule,runs,wrong,wrong_low,wrong_high,decided,correct,samples,standard_error"
    ]
    for case in CASES:
        for name, cell in cells[case.name].items():
            runs = cell["runs"]
            low, high = _interval(cell["wrong"], runs)
            shares = [cell[what] / runs for what in ("wrong", "decided", "correct")]
            rows.append([case.name, case.level, case.cap, name, *shares, cell["mean"]])
            lines.append(
                f'"{case.name}",{case.level},{case.cap},"{name}",{runs:.0f},{shares[0]},{low},'
                f"{high},{shares[1]},{shares[2]},{cell['mean']},{cell['standard_error']}"
            )
    columns = ["law", "level", "cap", "rule", "declared wrong", "decided", "mode given", "samples"]
    note = (
        "The same streams for every rule. Level: δ, for BetaStop 1 - conf. What is undecided at "
        "the cap is answered by votes. Exact intervals are in the CSV file."
    )
    return Table("Stopping rules on the same streams", columns, rows, note), "\n".join(lines) + "\n"


def run(ctx: RunContext) -> Result:
    """Count wrong declarations and samples of every rule."""
    runs = QUICK_RUNS if ctx.quick else FULL_RUNS
    task = ctx.progress(len(CASES) + 2, "stopping rules")
    cells = simulated(ctx, runs, task.advance)
    exact_table, exact_claim, errors = exact_errors()
    task.advance(1)
    curtailed_table, curtailed_claims = curtailed(runs, ctx.seed)
    task.advance(1)
    num_tests = sum(name in ANYTIME for found in cells.values() for name in found)
    table, lines = _tables(cells)
    write_atomic(ctx.out / "stopping.csv", lines)
    return ctx.result(
        claims=[
            *(_anytime_claim(rule, cells, num_tests) for rule in ANYTIME),
            exact_claim,
            *(_heuristic_claim(rule, cells) for rule in HEURISTIC),
            _price_claim(cells),
            _unknown_answers_claim(cells),
            *curtailed_claims,
        ],
        tables=[table, exact_table, curtailed_table],
        figures=_figures(errors, cells),
        files=["stopping.csv"],
        text=(
            "A rule that looks after every sample has many chances to be wrong. BetaStop meets its "
            "level at one look and exceeds it over a run wherever two answers are close; the same "
            "holds for windows and supermajorities. The anytime rules pay for every look in "
            "samples, and leave close races undecided rather than declaring them.\n\n"
            "What is certified is the answer that the model gives most often, never that it is "
            "correct."
        ),
    )
