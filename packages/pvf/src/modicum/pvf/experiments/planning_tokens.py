"""Whether an untested extra token in every call does less harm if it is a planning token.

Threshold decoding commits one less certain token in every call, drawn from a band of probabilities:
any token of it, or a planning token where there is one. The published comparison takes any token
where there is no planning token; how much of the harm that does is measured by leaving such calls
without an extra token, and by drawing any token in exactly the calls that have a planning token.

Source: Li et al., arXiv 2601.12247, section 3 (LLaDA-8B-Instruct), and its published code.

Shapes: N tasks, H columns of the horizon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from modicum.core.experiment import Claim, Result, RunContext
from modicum.pvf.experiments._shared import (
    Answers,
    answers,
    by_right,
    calls_figure,
    draw_ledgers,
    gain,
    model_of,
    ratio,
    reached,
    share,
    table,
    verdict,
    verified,
)
from modicum.pvf.strategies.base import Strategy, View
from modicum.pvf.strategies.one_row import ExtraToken, Threshold
from modicum.pvf.testing import LEDGER_VOCABULARY, Ledger
from modicum.pvf.vocabulary import PlanVocabulary

RIGHT = (0.55, 0.6, 0.8)
"""Probabilities that a sum is right: inside the band, at its upper end, above it."""
IN_BAND = 0.55
LOW, HIGH = 0.1, 0.6
"""Of the extra token, as published."""
PARTS, QUICK_PARTS = 5, 2
TASKS, QUICK_TASKS = 40, 8

THRESHOLD, RANDOM, PLANNING = "threshold 0.9", "random token", "planning token, else random"
ONLY, SAME_CALLS = "planning token only", "random token, in calls with a planning token"
FULL, ALL_WORDS, DIGITS = "pvf", "pvf, every token planning", "pvf, digits planning"

LEAST_GAIN = 20.0
"""Percentage points of correct answers that planning tokens should gain over random ones."""
SIMILAR = 0.05
"""Largest relative difference of calls at which two strategies count as equally fast."""


@dataclass(frozen=True)
class WherePlanned:
    """Any token of the band, where the window has a planning token in it.

    Parameters
    ----------
    planning
        Which tokens are planning tokens.
    """

    planning: PlanVocabulary

    def __call__(self, view: View) -> torch.Tensor:
        """Mark all columns of sequences with a planning token in the band, (N, H) bool."""
        seen = view.seen
        in_band_NH = view.open & (seen.confidence >= LOW) & (seen.confidence < HIGH)
        planned_N = (in_band_NH & self.planning(view)).any(-1)
        return planned_N[:, None].expand_as(in_band_NH)


def strategies(tasks: Sequence[Ledger]) -> dict[str, Strategy]:
    """Give what is compared, by name."""
    words = tasks[0].style_ids
    everywhere = WherePlanned(PlanVocabulary(words))
    return {
        THRESHOLD: Threshold(0.9),
        RANDOM: ExtraToken(low=LOW, high=HIGH),
        PLANNING: ExtraToken(low=LOW, high=HIGH, plan_vocab=words),
        ONLY: ExtraToken(low=LOW, high=HIGH, plan_vocab=words, planning_only=True),
        SAME_CALLS: ExtraToken(low=LOW, high=HIGH, plan_vocab=everywhere, planning_only=True),
        FULL: verified(tasks),
        ALL_WORDS: verified(tasks, plan_vocab=range(LEDGER_VOCABULARY)),
        DIGITS: verified(tasks, plan_vocab=tasks[0].digit_ids),
    }


def play(seed: int, right: float, part: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Answer one part's tasks by all strategies."""
    tasks = draw_ledgers(seed, right, part, count)
    model = model_of(tasks)
    return {
        name: answers(model, tasks, strategy, seed=seed + part).to_dict()
        for name, strategy in strategies(tasks).items()
    }


def measure(ctx: RunContext) -> dict[float, dict[str, Answers]]:
    """Answer all tasks, by the probability that a sum is right."""
    parts, count = (QUICK_PARTS, QUICK_TASKS) if ctx.quick else (PARTS, TASKS)
    return by_right(ctx, play, RIGHT, parts, count)


def _compared(
    name: str,
    statement: str,
    paper: str | None,
    ours: Answers,
    theirs: Answers,
    least: float,
    what: str,
    *,
    quick: bool,
) -> Claim:
    points, ends = gain(ours.correct, theirs.correct)
    calls, calls_ends = ratio(ours.calls, theirs.calls)
    holds = reached(points, ends, least, quick=quick)
    if holds and abs(calls - 1) > SIMILAR:
        holds = None if quick else False
    return Claim(
        name,
        statement,
        paper,
        points,
        ends,
        holds,
        "percentage points",
        f"{what}: {share(ours.correct)[0]:.1f} against {share(theirs.correct)[0]:.1f} % of "
        f"{len(ours.calls)} tasks, in {ours.calls.mean():.2f} against {theirs.calls.mean():.2f} "
        f"calls (ratio {calls:.3f}, {calls_ends[0]:.3f} to {calls_ends[1]:.3f}). Holds from "
        f"{least:g} points on if calls differ by at most {SIMILAR:.0%}. Exact interval of at least "
        f"95 %; sums right with probability {IN_BAND:g}.",
    )


def claims(found: Mapping[float, Mapping[str, Answers]], *, quick: bool) -> list[Claim]:
    """Judge planning tokens against random ones, and Π against everything and digits."""
    mine = found[IN_BAND]
    published = (
        "GSM8K 73 against 70 %, HumanEval 24 against 18 %, in 6 to 16 % fewer calls "
        "(LLaDA-8B-Instruct, band from .10)"
    )
    return [
        _compared(
            "planning_beats_random",
            "A planning token, else a random one, leaves more answers correct than a random one.",
            published,
            mine[PLANNING],
            mine[RANDOM],
            LEAST_GAIN,
            "As published, with the fallback to any token",
            quick=quick,
        ),
        _compared(
            "planning_beats_random_in_the_same_calls",
            "Where there is a planning token, taking it leaves more answers correct than taking "
            "any.",
            None,
            mine[ONLY],
            mine[SAME_CALLS],
            LEAST_GAIN,
            "Without an extra token in the other calls",
            quick=quick,
        ),
        _harm(mine, quick=quick),
        *_quality_of_pvf(mine, quick=quick),
    ]


def _harm(mine: Mapping[str, Answers], *, quick: bool) -> Claim:
    points, ends = gain(mine[ONLY].correct, mine[PLANNING].correct)
    return Claim(
        "fallback_harms",
        "The harm comes from the calls without a planning token, in which any token is taken.",
        None,
        points,
        ends,
        verdict(ends, 0, quick=quick),
        "percentage points",
        f"{ONLY}: {share(mine[ONLY].correct)[0]:.1f} % in {mine[ONLY].calls.mean():.2f} calls, "
        f"against {share(mine[PLANNING].correct)[0]:.1f} % in {mine[PLANNING].calls.mean():.2f}. "
        "Exact interval of at least 95 %; holds if its low end is positive.",
    )


def _quality_of_pvf(mine: Mapping[str, Answers], *, quick: bool) -> list[Claim]:
    listed = (
        ("everything_planning", "every token is a planning token", ALL_WORDS),
        ("digits_planning", "the digits are planning tokens", DIGITS),
    )
    made = []
    for name, what, key in listed:
        points, ends = gain(mine[key].correct, mine[FULL].correct)
        made.append(
            Claim(
                name,
                f"Plan-verify-fill loses correct answers if {what}: a plan that passes is coherent "
                "with the model, not right.",
                None,
                points,
                ends,
                verdict((-ends[1], -ends[0]), 0, quick=quick),
                "percentage points",
                f"{share(mine[key].correct)[0]:.1f} against {share(mine[FULL].correct)[0]:.1f} %, "
                f"in {mine[key].calls.mean():.2f} against {mine[FULL].calls.mean():.2f} calls. "
                "Exact interval of at least 95 %; holds if its high end is negative.",
            )
        )
    return made


def run(ctx: RunContext) -> Result:
    """Answer ledgers with an untested extra token of several kinds."""
    found = measure(ctx)
    note = f"Extra tokens have a probability from {LOW:g} to below {HIGH:g}."
    return ctx.result(
        claims=claims(found, quick=ctx.quick),
        tables=[
            table(f"Sums right with probability {right:g}", mine, THRESHOLD, note)
            for right, mine in found.items()
        ],
        figures=calls_figure(
            found[IN_BAND],
            f"sums right with probability {IN_BAND:g}",
            "Strategies with an untested extra token need few calls and lose correct answers.",
        ),
        text=(
            "Planning tokens run out: once the words of a style are known, what is left in the "
            "band are sums, most of whose likeliest values are wrong until the sums before them "
            "are there. With the fallback both strategies draw from these. Where a sum is right "
            f"with a probability of {HIGH:g}, the likeliest first sum is just above the band and "
            "only wrong ones are in it."
        ),
    )
