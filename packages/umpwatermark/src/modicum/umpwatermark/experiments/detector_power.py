"""Power of the detector against the optimum, on the very same Gumbel-max texts.

Simulates texts over token banks with models of different quality at detection, and reads each with
every weighting of pivot and match, with the sum test, and with the optimal test. Reports the
lengths at which each reaches power 0.9, and what the default weights lose to the best ones.

Legend: ``R`` texts, ``L`` lengths.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.core.stats import clopper_pearson, paired_difference
from modicum.umpwatermark.experiments.bank_texts import (
    SURROGATES,
    Weights,
    bank_profile,
    draw_marked,
    prefix_p_values,
    sum_p_values,
)
from modicum.umpwatermark.prefixes import length_reaching

ALPHA = 0.01
POWER = 0.9
NUM_DRAWS = 999
TEXTS_AT_ONCE = 100

DEFAULT: Weights = (0.3, 0.3)
WEIGHTS: tuple[Weights, ...] = (
    DEFAULT, (0.7, 0.0), (0.0, 0.7), (0.45, 0.45), (0.6, 0.3), (0.5, 0.0), (0.3, 0.0),
)  # fmt: skip
NAMES: dict[Weights, str] = {
    pair: f"weighted-pivot {a:g}" if not b else f"match {b:g}" if not a else f"combined {a:g}/{b:g}"
    for pair in WEIGHTS
    for a, b in [pair]
}
SUM, UMP = "sum (no model)", "optimum of any scheme"
SUM_LENGTHS = {"base": (20, 80), "low": (300, 1200)}
"""Range of lengths in which the sum test's power is read."""


@dataclass(frozen=True)
class Case:
    """A bank, a model at detection, the lengths shown, and how many texts are read (0: none)."""

    bank: str
    surrogate: str
    lengths: tuple[int, ...]
    quick_texts: int
    full_texts: int
    only_full: tuple[int, ...] = ()
    every_length: bool = False

    @property
    def name(self) -> str:
        """Name of the case, usable as the name of a file."""
        return f"{self.bank}-{self.surrogate.replace(' ', '-')}"


CASES = (
    Case("base", "exact", (12, 13, 15), 800, 3000, every_length=True),
    Case("base", "noise 1", (26,), 400, 2000, every_length=True),
    Case("base", "noise 2", (40, 60), 200, 2000),
    Case("low", "exact", (64, 80), 300, 2000, every_length=True),
    Case("low", "noise 1", (160,), 200, 1200, only_full=(320, 480)),
    Case("low", "noise 2", (480,), 0, 600),
)


def lengths_of(case: Case, quick: bool) -> tuple[int, ...]:
    """Return the lengths at which p-values are computed."""
    shown = case.lengths if quick else case.lengths + case.only_full
    if not case.every_length:
        return shown
    return tuple(range(math.ceil(0.5 * shown[0]), math.ceil(1.35 * shown[-1]) + 1))


@dataclass(frozen=True)
class Outcome:
    """Shares detected in one case.

    Attributes
    ----------
    lengths
        L lengths.
    detected
        By test the number of texts with a p-value of at most alpha, ``[L]``; for the optimum the
        expected number on the same texts.
    texts
        R.
    gap, gap_error
        By test the share that the default detects minus that of the test on the same texts, and
        the standard error of this difference, ``[L]``.
    """

    lengths: tuple[int, ...]
    detected: dict[str, NDArray[np.float64]]
    texts: int
    gap: dict[str, NDArray[np.float64]]
    gap_error: dict[str, NDArray[np.float64]]

    def power(self, test: str, length: int) -> tuple[float, float, float]:
        """Return the share detected with its 95 % interval (no interval for the optimum)."""
        count = float(self.detected[test][self.lengths.index(length)])
        if test == UMP:
            return count / self.texts, math.nan, math.nan
        low, high = clopper_pearson(round(count), self.texts)
        return count / self.texts, float(low), float(high)

    def gap_at(self, test: str, length: int) -> tuple[float, float]:
        """Return the default's share minus a test's, and the standard error."""
        at = self.lengths.index(length)
        return float(self.gap[test][at]), float(self.gap_error[test][at])


def measure(case: Case, *, quick: bool, seed: int, num_texts: int, task: Any = None) -> Outcome:
    """Simulate and test one case."""
    profile = bank_profile(case.bank, case.surrogate)
    lengths = lengths_of(case, quick)
    at = np.array(lengths) - 1
    number = [c.name for c in CASES].index(case.name)
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, num_texts, TEXTS_AT_ONCE):
        # One generator per block, so that more texts extend a smaller run.
        rng = np.random.default_rng([seed, 1, number, start])
        size = min(TEXTS_AT_ONCE, num_texts - start)
        texts = draw_marked(profile, size, lengths[-1], rng)
        p = prefix_p_values(texts, WEIGHTS, NUM_DRAWS, rng, at=lengths)
        found: dict[str, NDArray[Any]] = {NAMES[pair]: p_RL <= ALPHA for pair, p_RL in p.items()}
        found[SUM] = sum_p_values(texts, lengths) <= ALPHA
        found[UMP] = texts.optimum_RT(ALPHA)[:, at]
        for name, found_RL in found.items():
            parts.setdefault(name, []).append(found_RL.astype(np.float64))
        if task is not None:
            task.advance(size * lengths[-1])
    share = {name: np.concatenate(blocks) for name, blocks in parts.items()}
    own_RL = share[NAMES[DEFAULT]]
    gaps = {
        name: [paired_difference(x, y) for x, y in zip(own_RL.T, share_RL.T, strict=True)]
        for name, share_RL in share.items()
    }
    return Outcome(
        lengths,
        {name: share_RL.sum(axis=0) for name, share_RL in share.items()},
        num_texts,
        {name: np.array([d.mean for d in gap]) for name, gap in gaps.items()},
        {name: np.array([d.stderr for d in gap]) for name, gap in gaps.items()},
    )


def measure_sum(bank: str, *, num_texts: int, seed: int) -> tuple[NDArray[np.int64], Any]:
    """Return lengths and the number of texts that the sum test detects at each."""
    low, high = SUM_LENGTHS[bank]
    lengths = np.unique(np.geomspace(low, high, 120).astype(np.int64))
    rng = np.random.default_rng([seed, 2, len(bank)])
    profile = bank_profile(bank, "exact")
    count = np.zeros(len(lengths))
    for start in range(0, num_texts, TEXTS_AT_ONCE):
        size = min(TEXTS_AT_ONCE, num_texts - start)
        texts = draw_marked(profile, size, high, rng)
        count += (sum_p_values(texts, lengths.tolist()) <= ALPHA).sum(axis=0)
    return lengths, count


def gap_claim(case: Case, outcome: Outcome, quick: bool) -> Claim:
    """State that the default test stays within 0.03 of the optimum and never above it."""
    shown = _shown(case, quick)
    gap, error, length = min((*outcome.gap_at(UMP, n), n) for n in shown)
    above_L = outcome.gap[UMP] - 3 * outcome.gap_error[UMP]
    deepest = int(outcome.gap[UMP].argmin())
    return Claim(
        f"near_optimum_{case.bank}",
        f"With the exact model, the combined test's power is within 0.03 of the optimum's on the "
        f"same texts around power {POWER} ({case.bank}, {', '.join(map(str, shown))} tokens), and "
        "above it at no length; the largest gap is shown.",
        None,
        gap,
        (gap - 1.96 * error, gap + 1.96 * error),
        bool(gap >= -0.03 - 3 * error and np.all(above_L <= 0)),
        "difference of power",
        f"At {length} tokens, α = {ALPHA}, {outcome.texts} texts, paired; normal 95 % interval. "
        "Holds within three standard errors: a power truly above the optimum would be a broken "
        f"p-value. Over all lengths from {outcome.lengths[0]} to {outcome.lengths[-1]} the largest "
        f"gap is {outcome.gap[UMP][deepest]:.3f}, at {outcome.lengths[deepest]} tokens.",
    )


def _shown(case: Case, quick: bool) -> tuple[int, ...]:
    return case.lengths if quick else case.lengths + case.only_full


def _weights_claims(outcomes: dict[str, Outcome], quick: bool) -> list[Claim]:
    found: dict[bool, list[tuple[float, float, str, int, str]]] = {False: [], True: []}
    for case in CASES:
        if case.name not in outcomes:
            continue
        for length in _shown(case, quick):
            for test in NAMES.values():
                gap, error = outcomes[case.name].gap_at(test, length)
                poor = case.bank == "low" and case.surrogate != "exact"
                found[poor].append((-gap, error, case.name, length, test))
    claims = []
    for poor, name, statement in (
        (
            False,
            "default_weights",
            "The weights 0.3/0.3 lose at most 0.035 of power to the best of seven settings, except "
            "where a noisy model meets low entropy.",
        ),
        (
            True,
            "loss_low_entropy_noisy_model",
            "A loss: with a noisy model on text of low entropy a smaller weight without the match "
            "detects more than the default.",
        ),
    ):
        loss, error, where, length, test = max(found[poor])
        low, high = loss - 1.96 * error, loss + 1.96 * error
        holds: bool | None = None
        if poor and loss > 3 * error:
            holds = True
        if not poor:
            holds = True if loss <= 0.035 else False if loss > 0.035 + 3 * error else None
        criterion = (
            "Holds if the loss exceeds three standard errors, undecided otherwise."
            if poor
            else "Fails if the loss exceeds 0.035 by three standard errors, undecided below."
        )
        claims.append(
            Claim(
                name,
                statement,
                None,
                loss,
                (low, high),
                holds,
                "power lost",
                f"Worst at {where}, {length} tokens, against {test}, which is chosen in hindsight; "
                f"{outcomes[where].texts} texts, paired, normal 95 % interval. {criterion}",
            )
        )
    return claims


def _ratio_claims(
    outcomes: dict[str, Outcome], sums: dict[str, Any], num_texts: int
) -> tuple[list[Claim], list[list[Any]]]:
    claims, rows = [], []
    for bank, least in (("base", 3.0), ("low", 8.0)):
        outcome = outcomes[f"{bank}-exact"]
        lengths, count = sums[bank]
        by_sum = length_reaching(lengths, count, num_texts, POWER)
        found: dict[str, tuple[float, Any]] = {SUM: by_sum}
        for test in (UMP, *NAMES.values()):
            found[test] = length_reaching(outcome.lengths, outcome.detected[test], outcome.texts)
        if bank == "base":
            noisy = outcomes["base-noise-1"]
            test = NAMES[DEFAULT]
            found[f"{test}, {SURROGATES['noise 1']}"] = length_reaching(
                noisy.lengths, noisy.detected[test], noisy.texts
            )
        for test, (n, (low, high)) in found.items():
            ends = (None, None) if test == UMP else (low, high)
            rows.append([bank, test, n, *ends])
        ours, (ours_low, ours_high) = found[NAMES[DEFAULT]]
        ratio = by_sum[0] / ours
        # Both intervals are exact at 95 %; dividing their ends is conservative.
        interval = (by_sum[1][0] / ours_high, by_sum[1][1] / ours_low)
        claims.append(
            Claim(
                f"fewer_tokens_than_sum_{bank}",
                f"On the same text, the sum test needs at least {least:g} times the tokens of the "
                f"combined test with the exact model ({bank}, α = {ALPHA}, power {POWER}).",
                None,
                ratio,
                interval,
                bool(ratio >= least),
                "ratio of tokens",
                f"{by_sum[0]:.1f} against {ours:.1f} tokens; the optimum of any scheme is "
                f"{found[UMP][0]:.1f}. The combined test consults the model that wrote the text, "
                "the sum test none. Interval from two exact ones.",
            )
        )
    return claims, rows


def _power_rows(outcomes: dict[str, Outcome], quick: bool) -> list[list[Any]]:
    rows = []
    for case in CASES:
        if case.name not in outcomes:
            continue
        outcome = outcomes[case.name]
        for length in _shown(case, quick):
            for test in (SUM, *NAMES.values(), UMP):
                power, low, high = outcome.power(test, length)
                ends = (None, None) if math.isnan(low) else (low, high)
                rows.append([case.bank, case.surrogate, length, test, power, *ends, outcome.texts])
    return rows


def run(ctx: RunContext) -> Result:
    """Measure all cases."""
    sizes = {case: case.quick_texts if ctx.quick else case.full_texts for case in CASES}
    sizes = {case: size for case, size in sizes.items() if size}
    total = sum(size * lengths_of(case, ctx.quick)[-1] for case, size in sizes.items())
    task = ctx.progress(total, "power of the detector")
    outcomes: dict[str, Outcome] = {}
    for case, size in sizes.items():
        kept = ctx.load_partial(case.name)
        if kept is None:
            outcome = measure(case, quick=ctx.quick, seed=ctx.seed, num_texts=size, task=task)
            ctx.save_partial(case.name, vars(outcome))
        else:
            outcome = Outcome(
                tuple(kept["lengths"]),
                _arrays(kept["detected"]),
                kept["texts"],
                _arrays(kept["gap"]),
                _arrays(kept["gap_error"]),
            )
            task.advance(size * outcome.lengths[-1])
        outcomes[case.name] = outcome
    sum_texts = 1000 if ctx.quick else 4000
    sums = {bank: measure_sum(bank, num_texts=sum_texts, seed=ctx.seed) for bank in SUM_LENGTHS}
    exact = [case for case in CASES if case.surrogate == "exact"]
    claims = [gap_claim(case, outcomes[case.name], ctx.quick) for case in exact]
    ratios, reaching_rows = _ratio_claims(outcomes, sums, sum_texts)
    claims += ratios + _weights_claims(outcomes, ctx.quick)
    columns = ["bank", "model at detection", "tokens", "test", "power", "95 % low", "95 % high"]
    columns.append("texts")
    rows = _power_rows(outcomes, ctx.quick)
    lines = [",".join(columns), *(",".join(_cell(x) for x in row) for row in rows)]
    write_atomic(ctx.out / "detector_power.csv", "\n".join(lines) + "\n")
    return ctx.result(
        claims=claims,
        tables=[
            Table(
                f"Power at α = {ALPHA}",
                columns,
                rows,
                "All rows of one bank, model and length read the same texts. p-values by "
                f"{NUM_DRAWS} draws of the null given the text, exactly valid; exact intervals. "
                "The optimum is its expected share on the same texts.",
            ),
            Table(
                f"Tokens to power {POWER} at α = {ALPHA}",
                ["bank", "test", "tokens", "95 % low", "95 % high"],
                reaching_rows,
                "Interpolated between lengths. Tests with weights consult the model that wrote the "
                "text, unless another is named; the sum test consults none.",
            ),
        ],
        figures=_figures(outcomes),
        files=["detector_power.csv"],
        text=(
            "The text is ordinary Gumbel-max text, as several engines write it; only the detector "
            "changes. The optimum is what the uniformly most powerful watermark would reach with "
            "the same laws, so no valid test can pass it. How much of it is lost depends on how "
            "close the model at detection comes to the one that wrote the text."
        ),
    )


def _arrays(kept: dict[str, list[float]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array(values) for name, values in kept.items()}


def _cell(value: Any) -> str:
    return "" if value is None else f'"{value}"' if isinstance(value, str) else repr(value)


def _figures(outcomes: dict[str, Outcome]) -> list[Figure]:
    from modicum.umpwatermark import plots

    figures = []
    for bank in SUM_LENGTHS:
        outcome = outcomes[f"{bank}-exact"]
        lengths = np.array(outcome.lengths)
        tests = (NAMES[DEFAULT], NAMES[0.7, 0.0], NAMES[0.0, 0.7], SUM)
        curves = {t: (lengths, 1 - outcome.detected[t] / outcome.texts) for t in tests}
        bound = (lengths, 1 - outcome.detected[UMP] / outcome.texts)
        try:
            figure = plots.type2_against_length(curves, bound=bound)
        except ImportError:
            # matplotlib is optional; tables and claims stand without it.
            return []
        figures.append(
            Figure.from_matplotlib(
                figure,
                f"Misses against length, {bank} bank, exact model",
                f"α = {ALPHA}; shaded: no scheme can get there.",
            )
        )
    return figures
