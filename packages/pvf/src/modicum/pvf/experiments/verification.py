"""What the tests of plans and fills are for: coherent, disturbed and contradicting models.

On the exact posterior of ledgers the test of fills is varied: none, against the base row only, step
by step. There plans pass always, as they must for conditionals that belong to one joint
distribution; so the test of plans is tried where they do not: on the same posterior with noise in
its logits that depends on the canvas, and on tables in which a plan overturns what was certain.

Source: Li et al., arXiv 2601.12247, equations 2 and 7 to 10.

Shapes: N tasks.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.core.stats import clopper_pearson
from modicum.pvf.experiments._shared import (
    Answers,
    answers,
    draw_ledgers,
    gain,
    joined,
    model_of,
    resumed,
    share,
    table,
    verified,
)
from modicum.pvf.generation import infill
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.one_row import Threshold
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.testing import Ledger, NoisyPredictor, TablePredictor

RIGHT = 0.6
NOISY_RIGHT = 0.8
SIGMAS = (1.0, 2.0)
PARTS, QUICK_PARTS = 5, 2
TASKS, QUICK_TASKS = 40, 8
TABLES, QUICK_TABLES = 200, 40

THRESHOLD, SEQUENTIAL, BASE, NONE = "threshold 0.9", "sequential", "base", "none"
FILL_ONLY = "fill only, {}"
TESTED, UNTESTED = "pvf, plans tested", "pvf, plans not tested"
PLAN_TESTED, PLAN_UNTESTED = "plan only, tested", "plan only, not tested"

MASK, VOCABULARY = 11, 12


def coherent_strategies(tasks: Sequence[Ledger]) -> dict[str, Strategy]:
    """Give the tests of fills that are compared, by name."""
    found: dict[str, Strategy] = {THRESHOLD: Threshold(0.9)}
    for test in (SEQUENTIAL, BASE, NONE):
        found[f"pvf, {test}"] = verified(tasks, fill_verify=test)
        found[FILL_ONLY.format(test)] = verified(tasks, fill_verify=test, routes=("fill",))
    return found


def noisy_strategies(tasks: Sequence[Ledger]) -> dict[str, Strategy]:
    """Give plan-verify-fill with and without the test of plans, by name."""
    return {
        THRESHOLD: Threshold(0.9),
        TESTED: verified(tasks),
        UNTESTED: verified(tasks, plan_verify=False),
        PLAN_TESTED: verified(tasks, routes=("plan",)),
        PLAN_UNTESTED: verified(tasks, routes=("plan",), plan_verify=False),
    }


def play(seed: int, sigma: float, part: int, count: int) -> dict[str, dict[str, list[float]]]:
    """Answer one part's tasks: without noise to compare tests of fills, else those of plans."""
    tasks = draw_ledgers(seed, NOISY_RIGHT if sigma else RIGHT, part, count)
    model = model_of(tasks)
    if not sigma:
        return {
            name: answers(model, tasks, strategy, seed=seed).to_dict()
            for name, strategy in coherent_strategies(tasks).items()
        }
    noisy = NoisyPredictor(model, sigma, seed + part)
    return {
        name: answers(noisy, tasks, strategy, seed=seed).to_dict()
        for name, strategy in noisy_strategies(tasks).items()
    }


def contradicting(rng: np.random.Generator) -> tuple[TablePredictor, int, int]:
    """Draw a table in which a plan overturns a certain token.

    Returns
    -------
    tuple
        The predictor of three columns, the planning token of column 0, and the token that column 2
        is certain of as long as the plan is not there.
    """
    plan, second, certain, other = (int(token) for token in rng.permutation(MASK)[:4])
    band, sure = float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.91, 0.98))
    default = [(plan, band), (second, sure), (certain, 0.5)]
    table_of: dict[tuple[int, ...], dict[int, tuple[int, float]]] = {
        (MASK, second, MASK): {0: (plan, band), 2: (certain, sure)},
        (plan, second, MASK): {2: (other, sure)},
    }
    return TablePredictor(default, table_of, MASK, VOCABULARY), plan, certain


def play_tables(seed: int, count: int) -> dict[str, list[int]]:
    """Count tables whose plan is rejected, and whose certain token stands at the end."""
    rng = numpy_generator(seed, "contradicting tables")
    found: dict[str, list[int]] = {"rejected": [], "kept": [], "kept untested": []}
    for _ in range(count):
        model, plan, certain = contradicting(rng)
        settings: dict[str, Any] = {"plan_vocab": [plan], "routes": ("plan",)}
        tested = infill(model, [MASK] * 3, strategy=PVF(**settings))
        untested = infill(model, [MASK] * 3, strategy=PVF(**settings, plan_verify=False))
        found["rejected"].append(int(tested.stats[0].nfe_plan_failed > 0))
        found["kept"].append(int(tested.sequences[0, 2] == certain))
        found["kept untested"].append(int(untested.sequences[0, 2] == certain))
    return found


def measure(ctx: RunContext) -> tuple[dict[float, dict[str, Answers]], dict[str, list[int]]]:
    """Answer all tasks, by the noise, and all tables."""
    parts, count = (QUICK_PARTS, QUICK_TASKS) if ctx.quick else (PARTS, TASKS)
    sigmas = (0.0, *SIGMAS)
    cells: dict[str, Any] = {
        f"sigma-{sigma}-part-{part}": partial(play, ctx.seed, sigma, part, count)
        for sigma in sigmas
        for part in range(parts)
    }
    cells["tables"] = partial(play_tables, ctx.seed, QUICK_TABLES if ctx.quick else TABLES)
    found = resumed(ctx, cells, "parts")
    by_sigma = {
        sigma: joined([found[f"sigma-{sigma}-part-{part}"] for part in range(parts)])
        for sigma in sigmas
    }
    return by_sigma, found["tables"]


def rejected(mine: Answers) -> tuple[float, tuple[float, float]]:
    """Give the share of planning drafts that were rejected, in percent, with its exact interval."""
    drafts = int(mine.drafts.sum())
    fails = drafts - int(mine.passed.sum())
    low, high = clopper_pearson(fails, drafts)
    return 100 * fails / drafts, (100 * float(low), 100 * float(high))


def claims(
    found: Mapping[float, Mapping[str, Answers]], tables: Mapping[str, list[int]]
) -> list[Claim]:
    """Judge the tests of fills and of plans."""
    coherent = found[0.0]
    return [
        *_of_fills(coherent),
        _coherent_passes(coherent["pvf, sequential"]),
        *(one for sigma in SIGMAS for one in _of_noise(sigma, found[sigma])),
        _of_tables(tables),
    ]


def _share_claim(name: str, statement: str, right_N: Any, most: float, what: str) -> Claim:
    value, low, high = share(right_N)
    return Claim(
        name,
        statement,
        None,
        value,
        (low, high),
        value <= most if most < 50 else value >= most,
        "%",
        f"{what}, {len(right_N)} tasks, sums right with probability {RIGHT:g}. Exact 95 % "
        f"interval; holds {'up to' if most < 50 else 'from'} {most:g} "
        f"%{' on' if most >= 50 else ''}.",
    )


def _of_fills(mine: Mapping[str, Answers]) -> list[Claim]:
    return [
        _share_claim(
            "sequential_is_correct",
            "With fills tested step by step no correct answer is lost.",
            mine["pvf, sequential"].correct,
            100.0,
            "Both routes",
        ),
        _share_claim(
            "base_row_is_not",
            "Comparing all drafts with the base row, as equation 10 reads, loses the correct "
            "answers.",
            mine["pvf, base"].correct,
            1.0,
            "Both routes",
        ),
        _share_claim(
            "untested_fills_are_not_valid",
            "Fills without a test are not even among the possible answers.",
            mine[FILL_ONLY.format(NONE)].valid,
            1.0,
            "Fill route only, possible answers",
        ),
    ]


def _coherent_passes(mine: Answers) -> Claim:
    value, ends = rejected(mine)
    return Claim(
        "coherent_plans_pass",
        "A model whose conditionals belong to one joint distribution has no plan rejected.",
        None,
        value,
        ends,
        value == 0,
        "% rejected",
        f"{int(mine.drafts.sum())} drafts, of probability 0.2 or more at a threshold of 0.9. Exact "
        "95 % interval.",
    )


def _of_noise(sigma: float, mine: Mapping[str, Answers]) -> list[Claim]:
    value, ends = rejected(mine[TESTED])
    made = [
        Claim(
            f"rejections_{sigma:g}",
            f"Noise of {sigma:g} nats makes plans fail their test.",
            None,
            value,
            ends,
            value > 0,
            "% rejected",
            f"{int(mine[TESTED].drafts.sum())} drafts of {len(mine[TESTED].calls)} tasks, sums "
            f"right with probability {NOISY_RIGHT:g}; {int(mine[TESTED].unexpected.sum())} "
            "rejections prove that the conditionals do not belong to one joint distribution. Exact "
            "95 % interval over drafts.",
        )
    ]
    for name, tested, untested in (
        (f"testing_plans_{sigma:g}", TESTED, UNTESTED),
        (f"testing_plans_alone_{sigma:g}", PLAN_TESTED, PLAN_UNTESTED),
    ):
        points, point_ends = gain(mine[tested].correct, mine[untested].correct)
        made.append(
            Claim(
                name,
                "Leaving out the test of plans does not give more correct answers.",
                None,
                points,
                point_ends,
                True if points >= 0 else False if point_ends[1] < 0 else None,
                "percentage points",
                f"{tested}: {share(mine[tested].correct)[0]:.1f} %, in "
                f"{mine[tested].calls.mean():.2f} calls; {untested}: "
                f"{share(mine[untested].correct)[0]:.1f} %, in {mine[untested].calls.mean():.2f}. "
                f"Noise of {sigma:g} nats, {len(mine[tested].calls)} tasks. Exact interval of at "
                "least 95 %; undecided where the untested ones are ahead and it has 0 in it.",
            )
        )
    return made


def _of_tables(found: Mapping[str, list[int]]) -> Claim:
    kept, count = sum(found["kept"]), len(found["kept"])
    low, high = clopper_pearson(kept, count)
    return Claim(
        "contradiction_is_seen",
        "Where a plan overturns what was certain, the test rejects it and the certain token stays.",
        None,
        100 * kept / count,
        (100 * float(low), 100 * float(high)),
        kept == sum(found["rejected"]) == count and not any(found["kept untested"]),
        "% kept",
        f"{count} random tables; rejected {sum(found['rejected'])}, kept without the test "
        f"{sum(found['kept untested'])}. Exact 95 % interval; holds if all are kept with the test "
        "and none without.",
    )


def _plans_table(found: Mapping[float, Mapping[str, Answers]]) -> Table:
    rows = []
    for sigma, mine in found.items():
        for name, one in mine.items():
            if one.drafts.any():
                drafts, passed = int(one.drafts.sum()), int(one.passed.sum())
                share_failed = 100 * (1 - passed / drafts)
                rows.append(
                    [sigma, name, drafts, drafts - passed, share_failed, int(one.unexpected.sum())]
                )
    columns = ["noise", "strategy", "plan drafts", "rejected", "rejected %", "proving incoherence"]
    return Table("Planning drafts", columns, rows, "Without the test every draft passes.")


def run(ctx: RunContext) -> Result:
    """Vary the tests of fills and plans on models that are coherent and that are not."""
    found, tables = measure(ctx)
    titles = {0.0: f"Exact posterior, sums right with probability {RIGHT:g}"}
    for sigma in SIGMAS:
        titles[sigma] = f"Noise of {sigma:g} nats, sums right with probability {NOISY_RIGHT:g}"
    return ctx.result(
        claims=claims(found, tables),
        tables=[
            *(table(titles[sigma], mine, THRESHOLD, "") for sigma, mine in found.items()),
            _plans_table(found),
        ],
    )
