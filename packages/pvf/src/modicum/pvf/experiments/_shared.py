"""What several experiments do: ledgers answered in batches, cells that a later run goes on from.

Answers are judged exactly, their calls and rows counted by the decoder. Paired intervals resample
tasks, on which all strategies are compared.

Shapes: N tasks, B resamples.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modicum.core.device import numpy_generator
from modicum.core.experiment import Figure, RunContext, Table
from modicum.core.stats import bootstrap_interval, clopper_pearson
from modicum.pvf import plots
from modicum.pvf.generation import generate
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.testing import Ledger, PromptedOracle, ledger
from modicum.pvf.tiny import TinyConfig, TinyMDLM

__all__ = [
    "Answers",
    "answers",
    "by_right",
    "calls_figure",
    "draw_ledgers",
    "drawn",
    "gain",
    "joined",
    "model_of",
    "paired",
    "random_network",
    "ratio",
    "reached",
    "resumed",
    "saved",
    "share",
    "table",
    "verdict",
    "verified",
]

LENGTH = 48
"""Columns of an answer."""
BLOCK_LENGTH = 24
BATCH_SIZE = 40
LARGER, LARGER_HEAD = 10.0, 20.0
"""Factors of a random network's weights, whose initial standard deviation is 0.02."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Answers:
    """What a strategy made of some tasks, (N,) each.

    Attributes
    ----------
    correct
        Whether the answer is one of the task's sequences and has no error in a sum.
    valid
        Whether it is one of the task's sequences.
    calls, rows
        Forward calls of the model, and rows in them.
    drafts, passed, unexpected
        Planning drafts that were tested, that passed, and that were rejected although the
        conditionals of one joint distribution would have let them pass.
    seconds
        Wall-clock time of a batch, shared out evenly among its tasks.
    """

    correct: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    calls: NDArray[np.int64]
    rows: NDArray[np.int64]
    drafts: NDArray[np.int64]
    passed: NDArray[np.int64]
    unexpected: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def to_dict(self) -> dict[str, list[Any]]:
        """Give all fields as lists."""
        return {item.name: getattr(self, item.name).tolist() for item in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Answers":
        """Make what `to_dict` described."""
        return cls(**{item.name: np.array(values[item.name]) for item in fields(cls)})


def joined(parts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Answers]:
    """Put the tasks of several parts, each `Answers.to_dict` by strategy, together."""
    found = {}
    for name in parts[0]:
        mine = [Answers.from_dict(part[name]) for part in parts]
        found[name] = Answers(
            *(np.concatenate([getattr(one, item.name) for one in mine]) for item in fields(Answers))
        )
    return found


def draw_ledgers(seed: int, right: float, part: int, count: int) -> list[Ledger]:
    """Draw tasks; those of one part have nothing to do with those of another."""
    rng = numpy_generator(seed, "ledgers", part)
    return [ledger(int(number), right) for number in rng.integers(0, 2**62, count)]


def model_of(tasks: Sequence[Ledger]) -> PromptedOracle:
    """Give one predictor that knows all tasks by their prompts."""
    return PromptedOracle({task.prompt: task.oracle for task in tasks})


@torch.no_grad()
def random_network(seed: int) -> TinyMDLM:
    """Give a network whose random weights make it sure of some tokens and not of others.

    Returns
    -------
    TinyMDLM
        Two layers of width 64, float32.
    """
    model = TinyMDLM(TinyConfig(layers=2, width=64, heads=4, inner=128), seed).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.mul_(LARGER_HEAD if name.startswith("lm_head") else LARGER)
    return model


def verified(tasks: Sequence[Ledger], **changes: Any) -> PVF:
    """Give plan-verify-fill with the tasks' words as planning tokens and blocks kept apart."""
    return PVF(**{"plan_vocab": tasks[0].style_ids, "unlock_threshold": 0, **changes})


def answers(
    model: MaskPredictor,
    tasks: Sequence[Ledger],
    strategy: Strategy | str,
    *,
    block_length: int = BLOCK_LENGTH,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Answers:
    """Answer all tasks and judge the answers."""
    began = time.perf_counter()
    out = generate(
        model,
        [list(task.prompt) for task in tasks],
        strategy=strategy,
        gen_length=LENGTH,
        block_length=block_length,
        eos_early_stop=False,
        batch_size=batch_size,
        seed=seed,
    )
    seconds = (time.perf_counter() - began) / len(tasks)
    pairs = list(zip(tasks, out.generated, strict=True))
    return Answers(
        correct=np.array([task.is_correct(answer_L) for task, answer_L in pairs]),
        valid=np.array([task.is_valid(answer_L) for task, answer_L in pairs]),
        calls=np.array([stats.nfe for stats in out.stats]),
        rows=np.array([stats.rows for stats in out.stats]),
        drafts=np.array([stats.drafts_plan for stats in out.stats]),
        passed=np.array([stats.passed_plan for stats in out.stats]),
        unexpected=np.array([stats.rejected_unexpected for stats in out.stats]),
        seconds=np.full(len(tasks), seconds),
    )


def resumed(ctx: RunContext, cells: Mapping[str, Callable[[], Any]], what: str) -> dict[str, Any]:
    """Run cells by name; those that an interrupted run has finished are not run again."""
    task = ctx.progress(len(cells), what)
    found = {}
    for name, cell in cells.items():
        found[name] = ctx.load_partial(name)
        if found[name] is None:
            found[name] = cell()
            ctx.save_partial(name, found[name])
        task.advance(1)
    return found


# Intervals --------------------------------------------------------------------------------------


def by_right(
    ctx: RunContext,
    play: Callable[[int, float, int, int], dict[str, dict[str, list[float]]]],
    rights: Sequence[float],
    parts: int,
    count: int,
) -> dict[float, dict[str, Answers]]:
    """Answer all tasks, by the probability that a sum is right.

    ``play(seed, right, part, count)`` answers the tasks of one part, a cell of its own.
    """
    cells = {
        f"right-{right}-part-{part}": partial(play, ctx.seed, right, part, count)
        for right in rights
        for part in range(parts)
    }
    found = resumed(ctx, cells, "parts")
    return {
        right: joined([found[f"right-{right}-part-{part}"] for part in range(parts)])
        for right in rights
    }


def share(right_N: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Give a share and its exact 95 % interval, in percent."""
    low, high = clopper_pearson(int(right_N.sum()), len(right_N))
    return 100 * float(right_N.mean()), 100 * float(low), 100 * float(high)


def gain(ours_N: NDArray[np.bool_], theirs_N: NDArray[np.bool_]) -> tuple[float, Interval]:
    """Give by how much the share of right answers is higher, in points, with an interval.

    At least 95 % by the exact intervals, of 97.5 % each, of the tasks that only one got right.
    """
    (won_low, won_high), (lost_low, lost_high) = (
        clopper_pearson(int((one & ~other).sum()), len(one), 0.975)
        for one, other in ((ours_N, theirs_N), (theirs_N, ours_N))
    )
    difference = float(ours_N.mean() - theirs_N.mean())
    return 100 * difference, (100 * float(won_low - lost_high), 100 * float(won_high - lost_low))


def paired(
    count: int, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]]
) -> tuple[float, Interval]:
    """Give a statistic of tasks, chosen by their numbers (B, N), with a bootstrap of 95 %."""
    number_N = np.arange(count, dtype=float)
    interval = bootstrap_interval(number_N, lambda index_BN: statistic(index_BN.astype(np.int64)))
    return float(statistic(np.arange(count))), interval


def ratio(ours_N: NDArray[Any], theirs_N: NDArray[Any]) -> tuple[float, Interval]:
    """Give what one spends in all over what the other spends, tasks resampled together."""
    return paired(len(ours_N), lambda at: ours_N[at].sum(-1) / theirs_N[at].sum(-1))


def saved(ours_N: NDArray[Any], theirs_N: NDArray[Any]) -> tuple[float, Interval]:
    """Give how much less one spends in all, in percent of the other, tasks resampled together."""
    value, (low, high) = ratio(ours_N, theirs_N)
    return 100 * (1 - value), (100 * (1 - high), 100 * (1 - low))


def reached(value: float, ends: Interval, least: float, *, quick: bool) -> bool | None:
    """Say whether a value reaches a number; a quick run leaves open what its interval reaches."""
    if quick and value < least <= ends[1]:
        return None
    return value >= least


def verdict(ends: Interval, least: float, *, quick: bool) -> bool | None:
    """Say whether an interval is all above a number; a quick run leaves open what it straddles."""
    if quick and ends[0] <= least < ends[1]:
        return None
    return ends[0] > least


# Tables and figures -----------------------------------------------------------------------------


def drawn(draw: Callable[[], Any], title: str, caption: str, alt: str) -> list[Figure]:
    """Give the figure that `draw` makes; none without matplotlib, which is optional."""
    try:
        figure = draw()
    except ImportError:
        return []
    return [Figure.from_matplotlib(figure, title, caption, alt)]


def calls_figure(found: Mapping[str, Answers], title: str, alt: str) -> list[Figure]:
    """Draw correct answers against calls, a marker for each strategy."""
    points = {name: (float(one.calls.mean()), *share(one.correct)) for name, one in found.items()}
    return drawn(
        lambda: plots.quality_against_calls(points, ylabel="correct answers, %"),
        f"Correct answers against forward calls, {title}",
        "Each marker is a strategy; exact 95 % intervals over tasks.",
        alt,
    )


def table(title: str, found: Mapping[str, Answers], base: str, note: str) -> Table:
    """Give a row per strategy: quality, calls, what is saved of those of a base, rows, time."""
    columns = ["strategy", "correct %", "low", "high", "valid %", "calls"]
    columns += ["calls saved %", "low %", "high %", "rows", "ms per task"]
    rows = []
    for name, mine in found.items():
        percent, ends = saved(mine.calls, found[base].calls)
        rows.append(
            [
                name,
                *share(mine.correct),
                100 * float(mine.valid.mean()),
                float(mine.calls.mean()),
                percent,
                *ends,
                float(mine.rows.mean()),
                1000 * float(mine.seconds.mean()),
            ]
        )
    size = len(found[base].calls)
    return Table(
        title,
        columns,
        rows,
        f"{size} tasks, answers of {LENGTH} tokens; calls saved are against {base!r}. Intervals of "
        "95 %: exact for shares, bootstrap over tasks for what is saved. Milliseconds are those of "
        f"a batch of up to {BATCH_SIZE} tasks, shared out, most of them spent in the oracle. "
        f"{note}",
    )
