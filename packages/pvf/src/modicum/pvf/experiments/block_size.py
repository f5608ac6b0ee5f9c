"""Calls over block lengths, with blocks kept apart and with the next one opened early.

Threshold decoding and plan-verify-fill answer the same ledgers in blocks of 8 to 48 columns; the
next block opens when no mask is left, or when at most five are.

Source: Li et al., arXiv 2601.12247, equation 11 and the sweep of sizes (LLaDA-8B-Instruct, GSM8K).

Shapes: N tasks.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.pvf import plots
from modicum.pvf.experiments._shared import (
    Answers,
    answers,
    draw_ledgers,
    drawn,
    joined,
    model_of,
    paired,
    resumed,
    saved,
    share,
    verified,
)
from modicum.pvf.strategies.one_row import Threshold

RIGHT = 0.8
BLOCKS = (8, 16, 24, 48)
UNLOCK = (0, 5)
PARTS, QUICK_PARTS = 4, 2
TASKS, QUICK_TASKS = 40, 8
THRESHOLD, FULL = "threshold 0.9", "pvf"

Found = dict[str, Answers]
"""Answers by `cell`."""


def cell(strategy: str, block_length: int, unlock: int) -> str:
    """Give what a strategy in blocks of a length is called."""
    return f"{strategy}, blocks of {block_length}, next one at {unlock}"


def play(seed: int, part: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Answer one part's tasks in blocks of every length."""
    tasks = draw_ledgers(seed, RIGHT, part, count)
    model = model_of(tasks)
    found = {}
    for strategy in (Threshold(0.9), verified(tasks)):
        name = THRESHOLD if isinstance(strategy, Threshold) else FULL
        for length in BLOCKS:
            for unlock in UNLOCK:
                opened = replace(strategy, unlock_threshold=unlock)
                made = answers(model, tasks, opened, block_length=length, seed=seed)
                found[cell(name, length, unlock)] = made.to_dict()
    return found


def measure(ctx: RunContext) -> Found:
    """Answer all tasks."""
    parts, count = (QUICK_PARTS, QUICK_TASKS) if ctx.quick else (PARTS, TASKS)
    cells = {f"part-{part}": partial(play, ctx.seed, part, count) for part in range(parts)}
    return joined(list(resumed(ctx, cells, "parts").values()))


def claims(found: Mapping[str, Answers]) -> list[Claim]:
    """Judge what larger blocks and early opening save, and whether answers stay correct."""
    calls = {name: one.calls for name, one in found.items()}
    small, large = BLOCKS[0], BLOCKS[-1]
    names = [cell(name, length, 0) for length in (small, large) for name in (FULL, THRESHOLD)]
    ours_s, theirs_s, ours_l, theirs_l = (calls[name] for name in names)
    more, more_ends = paired(
        len(ours_s),
        lambda at: (
            100 * ours_s[at].sum(-1) / theirs_s[at].sum(-1)
            - 100 * ours_l[at].sum(-1) / theirs_l[at].sum(-1)
        ),
    )
    early, early_ends = saved(calls[cell(FULL, small, 5)], ours_s)
    worst = min(found, key=lambda name: found[name].correct.mean())
    value, low, high = share(found[worst].correct)
    count = len(ours_s)
    return [
        Claim(
            "saving_grows",
            f"Plan-verify-fill saves more of threshold decoding's calls in blocks of {large} than "
            f"in blocks of {small}.",
            "GSM8K, 512 tokens: 47.1 % in blocks of 16, 65.1 % in blocks of 64",
            more,
            more_ends,
            more_ends[0] > 0,
            "percentage points",
            f"{saved(ours_s, theirs_s)[0]:.1f} % and {saved(ours_l, theirs_l)[0]:.1f} %, {count} "
            f"tasks, sums right with probability {RIGHT:g}, answers of 48 tokens. Bootstrap of 95 "
            "% over tasks; holds if its low end is positive.",
        ),
        Claim(
            "early_opening",
            f"Opening the next block at five masks saves calls in blocks of {small}.",
            None,
            early,
            early_ends,
            early_ends[0] > 0,
            "%",
            f"Plan-verify-fill: {calls[cell(FULL, small, 5)].mean():.2f} against "
            f"{ours_s.mean():.2f} calls. Bootstrap of 95 % over tasks.",
        ),
        Claim(
            "answers_stay_correct",
            "No length of blocks and no early opening loses a correct answer.",
            None,
            value,
            (low, high),
            value == 100,
            "%",
            f"The worst of {len(found)}: {worst}. {count} tasks; exact 95 % interval.",
        ),
    ]


def _table(found: Mapping[str, Answers]) -> Table:
    rows = []
    for length in BLOCKS:
        for unlock in UNLOCK:
            theirs = found[cell(THRESHOLD, length, unlock)]
            ours = found[cell(FULL, length, unlock)]
            percent, ends = saved(ours.calls, theirs.calls)
            rows.append(
                [
                    length,
                    unlock,
                    float(theirs.calls.mean()),
                    float(ours.calls.mean()),
                    percent,
                    *ends,
                    float(theirs.rows.mean()),
                    float(ours.rows.mean()),
                    100 * float(theirs.correct.mean()),
                    100 * float(ours.correct.mean()),
                ]
            )
    columns = ["block", "next opens at", "threshold calls", "pvf calls", "saved %", "low", "high"]
    columns += ["threshold rows", "pvf rows", "threshold correct %", "pvf correct %"]
    note = "Bootstrap of 95 % over tasks."
    return Table(f"Calls by block length, {len(theirs.calls)} tasks", columns, rows, note)


def _figures(found: Mapping[str, Answers]) -> list[Figure]:
    curves = {
        f"{name}, next block at {unlock}": (
            BLOCKS,
            [float(found[cell(name, length, unlock)].calls.mean()) for length in BLOCKS],
        )
        for name in (THRESHOLD, FULL)
        for unlock in UNLOCK
    }
    return drawn(
        lambda: plots.calls_by_setting(curves, xlabel="block length"),
        "Forward calls over block lengths",
        f"Sums right with probability {RIGHT:g}, answers of 48 tokens.",
        "Mean calls over block lengths, threshold decoding above plan-verify-fill.",
    )


def run(ctx: RunContext) -> Result:
    """Answer ledgers in blocks of several lengths."""
    found = measure(ctx)
    return ctx.result(claims=claims(found), tables=[_table(found)], figures=_figures(found))
