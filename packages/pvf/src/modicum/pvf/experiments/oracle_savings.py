"""Forward calls that decoders need where the model is exactly right about its own distribution.

The model is the exact posterior of a finite set of ledgers (`modicum.pvf.testing.ledger`): words
whose choice is free but tied together, sums that hold with probability 0.8 or 0.6 for each record.
An answer is correct if it is one of the set and has no error. What a decoder loses here it loses by
itself, not by a model that predicts poorly.

Source of plan-verify-fill and of the published figures: Li et al., arXiv 2601.12247, table 1 and
the ablation of its components (LLaDA-8B-Instruct on GSM8K).

Shapes: N tasks.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.core.stats import paired_difference
from modicum.pvf.experiments._shared import (
    BLOCK_LENGTH,
    Answers,
    answers,
    by_right,
    calls_figure,
    draw_ledgers,
    gain,
    model_of,
    ratio,
    reached,
    saved,
    share,
    table,
    verdict,
    verified,
)
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.draft import DraftVerify
from modicum.pvf.strategies.one_row import (
    KLASS,
    EarlyCommit,
    EntropyBound,
    ExtraToken,
    Factor,
    Threshold,
    TopK,
)
from modicum.pvf.testing import Ledger

RIGHT = (0.8, 0.6)
"""Probabilities that a record's sum has no new error."""
PARTS, QUICK_PARTS = 4, 2
TASKS, QUICK_TASKS = 40, 5
"""Of each part and probability."""

THRESHOLD, HALF = "threshold 0.9", "threshold 0.5"
PLAN, FILL, FULL, ONE_DRAFT = "plan only", "fill only", "pvf", "pvf k=1"
ORDER = (THRESHOLD, PLAN, FILL, FULL)

LEAST_SAVED = 35.0
"""Percent of threshold decoding's calls."""
TOLERANCE = 1.0
"""Percentage points of correct answers that fewer calls may cost."""

SMALLER = (
    "The paper's models have 7 to 8 billion parameters and answer in 512 tokens in blocks of 64; "
    f"here an exact posterior answers in 48 tokens in blocks of {BLOCK_LENGTH}."
)


def strategies(tasks: Sequence[Ledger]) -> dict[str, Strategy]:
    """Give the decoders, by their names in tables."""
    words = tasks[0].style_ids
    return {
        "static": TopK(),
        "random order": TopK(rank="random"),
        "margin": TopK(rank="margin"),
        "entropy": TopK(rank="entropy"),
        "static, 12 calls": TopK(12),
        THRESHOLD: Threshold(0.9),
        "threshold 0.6": Threshold(0.6),
        HALF: Threshold(0.5),
        "factor 1": Factor(1.0),
        "entropy bound 0.1": EntropyBound(0.1),
        "entropy bound 1": EntropyBound(1.0),
        "klass 0.9": KLASS(history=1),
        "early commit": EarlyCommit(),
        "threshold + random token": ExtraToken(),
        "threshold + planning token": ExtraToken(plan_vocab=words),
        "draft k=3": DraftVerify(3),
        PLAN: verified(tasks, routes=("plan",)),
        FILL: verified(tasks, routes=("fill",)),
        ONE_DRAFT: verified(tasks, num_drafts=1),
        "pvf k=2": verified(tasks, num_drafts=2),
        FULL: verified(tasks),
    }


def play(seed: int, right: float, part: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Let every decoder answer one part's tasks."""
    tasks = draw_ledgers(seed, right, part, count)
    model = model_of(tasks)
    return {
        name: answers(model, tasks, strategy, seed=seed).to_dict()
        for name, strategy in strategies(tasks).items()
    }


def measure(ctx: RunContext) -> dict[float, dict[str, Answers]]:
    """Answer all tasks by all decoders, by the probability that a sum is right."""
    parts, count = (QUICK_PARTS, QUICK_TASKS) if ctx.quick else (PARTS, TASKS)
    return by_right(ctx, play, RIGHT, parts, count)


def claims(right: float, found: Mapping[str, Answers], *, quick: bool) -> list[Claim]:
    """Judge quality, calls, routes and rows at one probability."""
    ours, theirs = found[FULL], found[THRESHOLD]
    count = len(ours.calls)
    subject = f"{count} tasks, sums right with probability {right:g}."
    points, point_ends = gain(ours.correct, theirs.correct)
    percent, percent_ends = saved(ours.calls, theirs.calls)
    one, one_ends = saved(found[ONE_DRAFT].calls, theirs.calls)
    more, more_ends = ratio(ours.rows, theirs.rows)
    return [
        Claim(
            f"quality_{right:g}",
            "Plan-verify-fill gives as many correct answers as threshold decoding.",
            0.0,
            points,
            point_ends,
            reached(points, point_ends, -TOLERANCE, quick=quick),
            "percentage points",
            f"{share(ours.correct)[0]:.1f} against {share(theirs.correct)[0]:.1f} %; {subject} "
            f"Paper: 79.62 % both on GSM8K. {SMALLER} Holds from {-TOLERANCE:g} points on by the "
            "difference measured; exact interval of at least 95 %.",
        ),
        Claim(
            f"calls_saved_{right:g}",
            f"It saves at least {LEAST_SAVED:.0f} % of threshold decoding's forward calls.",
            65.1,
            percent,
            percent_ends,
            verdict(percent_ends, LEAST_SAVED, quick=quick),
            "%",
            f"{ours.calls.mean():.2f} against {theirs.calls.mean():.2f} calls; {subject} Paper: "
            f"65.1 % on GSM8K, 43.4 on HumanEval. {SMALLER} Bootstrap of 95 % over tasks; holds if "
            "its low end does.",
        ),
        _order(right, found, subject),
        Claim(
            f"one_draft_{right:g}",
            "One draft beside the base row is enough to need fewer calls than threshold decoding.",
            "fewer calls with k = 1",
            one,
            one_ends,
            one_ends[0] > 0,
            "%",
            f"{found[ONE_DRAFT].calls.mean():.2f} against {theirs.calls.mean():.2f} calls; "
            f"{subject} Bootstrap of 95 % over tasks; holds if its low end is positive.",
        ),
        Claim(
            f"rows_price_{right:g}",
            "What is saved in calls is paid in rows: with three drafts more rows are evaluated "
            "than by threshold decoding.",
            None,
            more,
            more_ends,
            more_ends[0] > 1,
            "times the rows",
            f"{ours.rows.mean():.1f} against {theirs.rows.mean():.1f} rows; {subject} A device "
            "that is busy with one row takes longer for more: fewer calls are not as much less "
            "time. Bootstrap of 95 % over tasks.",
        ),
    ]


def _order(right: float, found: Mapping[str, Answers], subject: str) -> Claim:
    steps = {
        f"{more} less {less}": paired_difference(found[more].calls, found[less].calls)
        for more, less in pairwise(ORDER)
    }
    name, least = min(steps.items(), key=lambda item: item[1].mean)
    means = ", ".join(f"{one} {found[one].calls.mean():.2f}" for one in ORDER)
    return Claim(
        f"order_{right:g}",
        "Each route saves calls, the fill route more than the plan route, and both together most.",
        "89.77 > 61.47 > 43.28 > 31.34",
        least.mean,
        least.interval,
        least.interval[0] > 0,
        "calls",
        f"The smallest step: {name}. Means: {means}; {subject} Paper: calls on GSM8K of the same "
        f"four. {SMALLER} Student's 95 % interval over tasks; holds if its low end is positive.",
    )


def _parts_table(found: Mapping[float, Mapping[str, Answers]], count: int) -> Table:
    rows = []
    for right, mine in found.items():
        ours, theirs = mine[FULL], mine[THRESHOLD]
        for first in range(0, len(ours.calls), count):
            at = slice(first, first + count)
            rows.append(
                [
                    right,
                    first // count,
                    100 * float(theirs.correct[at].mean()),
                    100 * float(ours.correct[at].mean()),
                    float(theirs.calls[at].mean()),
                    float(ours.calls[at].mean()),
                    100 * float(1 - ours.calls[at].sum() / theirs.calls[at].sum()),
                ]
            )
    columns = ["sums right", "part", "threshold correct %", "pvf correct %"]
    columns += ["threshold calls", "pvf calls", "saved %"]
    return Table("Part by part", columns, rows, f"{count} tasks in each, from a seed of its own.")


def run(ctx: RunContext) -> Result:
    """Answer ledgers by all decoders and count."""
    found = measure(ctx)
    count = QUICK_TASKS if ctx.quick else TASKS
    note = "Planning tokens are the words of all styles and the end token."
    half = found[RIGHT[0]][HALF]
    rows = {right: float(np.mean(mine[FULL].rows)) for right, mine in found.items()}
    return ctx.result(
        claims=[
            one for right, mine in found.items() for one in claims(right, mine, quick=ctx.quick)
        ],
        tables=[
            *(
                table(f"Sums right with probability {right:g}", mine, THRESHOLD, note)
                for right, mine in found.items()
            ),
            _parts_table(found, count),
        ],
        figures=[
            one
            for right, mine in found.items()
            for one in calls_figure(
                mine,
                f"sums right with probability {right:g}",
                "Twenty-one decoders; plan-verify-fill answers correctly in few calls.",
            )
        ],
        text=(
            "Which words are used is uncertain and what they say is not. Threshold decoding waits "
            "for certainty and forces one token where there is none; committing at 0.5 leaves "
            f"{share(half.correct)[0]:.1f} % of answers correct. A draft that is tested in the "
            "call that predicts the rest saves the wait.\n\nCalls are not cost: plan-verify-fill "
            "evaluates "
            + " and ".join(f"{mean:.1f} rows at {right:g}" for right, mean in rows.items())
            + ", static decoding 48 in as many calls."
        ),
    )
