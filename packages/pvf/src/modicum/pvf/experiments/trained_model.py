"""Decoders on a real network: the tiny model that the package brings, on prompts it never saw.

Answers of eight decoders to the same prompts are judged exactly, and their calls, rows and seconds
counted. A second, undertrained model shows what becomes of them where predictions are poor.

Source of the decoders and of the published figures: Li et al., arXiv 2601.12247, table 1, section 3
and the ablation of its components. Its models have 7 to 8 billion parameters and answer in 512
tokens, this one has a third of a million and answers in 32.

Shapes: N prompts, T prompts that are timed.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modicum.core.device import one_thread, torch_generator
from modicum.core.experiment import (
    Claim,
    Figure,
    Result,
    RunContext,
    Table,
    write_atomic,
)
from modicum.core.stats import bootstrap_interval
from modicum.pvf import plots
from modicum.pvf.experiments._shared import drawn, gain, reached, resumed, saved, share, verdict
from modicum.pvf.generation import generate
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.one_row import ExtraToken, Threshold, TopK
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.tiny import ANSWER_LENGTH, STYLE_IDS, TinyMDLM, draw_items, is_exact, load_tiny

SEEDS, QUICK_SEEDS = 5, 2
PROMPTS, QUICK_PROMPTS = 100, 10
"""For each seed."""
TIMED, QUICK_TIMED = 20, 4
"""Prompts that are decoded alone, for their seconds."""
BLOCK_LENGTH = 16
BATCH_SIZE = 50

MODELS = {"trained": "", "undertrained": "_undertrained"}
"""The package's models, and what their claims' names end with."""

TOLERANCE = 2.0
"""Percentage points of exact answers that fewer calls may cost."""
LEAST_SAVED = 35.0
"""Percent of threshold decoding's calls."""

SMALLER = (
    "The paper's models have 7 to 8 billion parameters and answer in 512 tokens, this one has 0.34 "
    "million and answers in 32 (blocks of 16)."
)


def strategies() -> dict[str, Strategy]:
    """Give the decoders, by their names in tables."""
    pvf = PVF(plan_vocab=STYLE_IDS, unlock_threshold=0)
    return {
        "static": TopK(),
        "threshold 0.9": Threshold(0.9),
        "threshold 0.4": Threshold(0.4),
        "plan": replace(pvf, routes=("plan",)),
        "fill": replace(pvf, routes=("fill",)),
        "pvf": pvf,
        "threshold + random token": ExtraToken(),
        "threshold + planning token": ExtraToken(plan_vocab=STYLE_IDS),
    }


@dataclass(frozen=True)
class Outcome:
    """What a decoder did, prompt by prompt.

    Attributes
    ----------
    exact_N
        Whether the answer is exactly right, bool.
    calls_N, rows_N
        Forward calls of the model and rows in them, int64.
    seconds_T
        Wall-clock time of the first prompts, decoded alone.
    """

    exact_N: NDArray[np.bool_]
    calls_N: NDArray[np.int64]
    rows_N: NDArray[np.int64]
    seconds_T: NDArray[np.float64]


def held_out_prompts(seed: int, sets: int, count: int) -> torch.Tensor:
    """Draw sets of prompts that no training has seen, one after the other, int64."""
    drawn = [
        draw_items(count, torch_generator(seed, "cpu", "held-out prompts", number), held_out=True)
        for number in range(sets)
    ]
    return torch.cat([items.prompt_BP for items in drawn])


def measure(ctx: RunContext, prompt_NP: torch.Tensor) -> dict[str, dict[str, Outcome]]:
    """Decode all prompts by all decoders, by model and decoder."""
    timed_TP = prompt_NP[: QUICK_TIMED if ctx.quick else TIMED]
    cells: dict[str, Callable[[], Any]] = {}
    for name in MODELS:
        model = load_tiny(name, ctx.device)
        cells[f"{name}-seconds"] = partial(seconds_alone, model, timed_TP, ctx.seed)
        for number, strategy in enumerate(strategies().values()):
            cells[f"{name}-{number}"] = partial(decoded, model, prompt_NP, strategy, ctx.seed)
    with one_thread():
        played = resumed(ctx, cells, "decoders")
    found: dict[str, dict[str, Outcome]] = {name: {} for name in MODELS}
    for name, outcomes in found.items():
        for number, decoder in enumerate(strategies()):
            mine = played[f"{name}-{number}"]
            exact_N, calls_N, rows_N = (np.array(mine[what]) for what in ("exact", "calls", "rows"))
            seconds_T = np.array(played[f"{name}-seconds"][decoder])
            outcomes[decoder] = Outcome(exact_N, calls_N, rows_N, seconds_T)
    return found


def seconds_alone(model: TinyMDLM, prompt_TP: torch.Tensor, seed: int) -> dict[str, list[float]]:
    """Give the wall-clock time of each prompt, decoded alone, by decoder."""
    seconds: dict[str, list[float]] = {name: [] for name in strategies()}
    # Decoders take turns on each prompt: what else the machine does falls on all of them alike.
    for prompt_P in prompt_TP:
        for name, strategy in strategies().items():
            began = time.perf_counter()
            decoded(model, prompt_P[None], strategy, seed)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def decoded(
    model: TinyMDLM, prompt_NP: torch.Tensor, strategy: Strategy, seed: int
) -> dict[str, list[Any]]:
    """Give whether answers are exact, and their calls and rows, prompt by prompt."""
    out = generate(
        model,
        prompt_NP,
        strategy=strategy,
        gen_length=ANSWER_LENGTH,
        block_length=BLOCK_LENGTH,
        batch_size=BATCH_SIZE,
        seed=seed,
    )
    return {
        "exact": is_exact(prompt_NP, out.generated).tolist(),
        "calls": [item.nfe for item in out.stats],
        "rows": [item.rows for item in out.stats],
    }


def run(ctx: RunContext) -> Result:
    """Measure both models."""
    sets, count = (QUICK_SEEDS, QUICK_PROMPTS) if ctx.quick else (SEEDS, PROMPTS)
    found = measure(ctx, held_out_prompts(ctx.seed, sets, count))
    tables = [_table(name, outcomes) for name, outcomes in found.items()]
    write_atomic(ctx.out / "prompts.csv", _lines(found, count))
    trained = found["trained"]
    return ctx.result(
        claims=[
            *_claims(trained, MODELS["trained"], quick=ctx.quick),
            _planning_claim(trained, quick=ctx.quick),
            _seconds_claim(trained, ctx.device),
            *_claims(found["undertrained"], MODELS["undertrained"], quick=ctx.quick),
        ],
        tables=[*tables, _sets_table(found, count)],
        figures=_figures(found),
        files=["prompts.csv"],
        text=_text(trained),
    )


# What is said of it -------------------------------------------------------------------------------


def _mean(values_N: NDArray[np.generic]) -> tuple[float, float, float]:
    """Give a mean and its bootstrap interval."""
    return float(values_N.mean()), *bootstrap_interval(values_N.astype(float))


def _claims(outcomes: Mapping[str, Outcome], ending: str, *, quick: bool) -> list[Claim]:
    """Judge quality, calls and the worth of both routes, for one of the models."""
    pvf, threshold = outcomes["pvf"], outcomes["threshold 0.9"]
    who = "The undertrained model: " if ending else ""
    points, ends = gain(pvf.exact_N, threshold.exact_N)
    percent, percent_ends = saved(pvf.calls_N, threshold.calls_N)
    fewer = {name: outcomes[name].calls_N for name in ("plan", "fill")}
    alone = min(fewer, key=lambda name: float(fewer[name].mean()))
    calls, *calls_ends = _mean(pvf.calls_N - fewer[alone])
    return [
        Claim(
            f"quality{ending}",
            f"{who}Plan-verify-fill answers as many prompts exactly as threshold decoding, but for "
            f"{TOLERANCE:.0f} points.",
            0.0,
            points,
            ends,
            reached(points, ends, -TOLERANCE, quick=quick),
            "percentage points",
            f"Paper: LLaDA-8B-Instruct on GSM8K, 79.62 % both. {SMALLER} Here "
            f"{100 * pvf.exact_N.mean():.1f} against {100 * threshold.exact_N.mean():.1f} % of "
            f"{len(pvf.exact_N)} prompts; exact interval of at least 95 %. Holds by the difference "
            "measured.",
        ),
        Claim(
            f"calls_saved{ending}",
            f"{who}It saves at least {LEAST_SAVED:.0f} % of threshold decoding's forward calls.",
            65.1,
            percent,
            percent_ends,
            verdict(percent_ends, LEAST_SAVED, quick=quick),
            "%",
            f"Paper: LLaDA-8B-Instruct on GSM8K; from 43.4 on HumanEval to 65.1. {SMALLER} Here "
            f"{pvf.calls_N.mean():.2f} against {threshold.calls_N.mean():.2f} calls, with "
            f"{pvf.rows_N.mean():.1f} against {threshold.rows_N.mean():.1f} rows in them. "
            "Bootstrap of 95 % over prompts; holds if its low end does.",
        ),
        Claim(
            f"both_routes{ending}",
            f"{who}Both routes together need no more calls than either alone.",
            round(31.34 - 43.28, 2),
            calls,
            (calls_ends[0], calls_ends[1]),
            calls <= 0,
            "calls",
            f"Calls less those of {alone} only, the better one here. Paper: 31.34 less 43.28 (fill "
            f"only), LLaDA-8B-Instruct on GSM8K. {SMALLER} Bootstrap of 95 % over prompts; holds "
            "by the mean.",
        ),
    ]


def _planning_claim(outcomes: Mapping[str, Outcome], *, quick: bool) -> Claim:
    planning = outcomes["threshold + planning token"]
    random = outcomes["threshold + random token"]
    points, ends = gain(planning.exact_N, random.exact_N)
    return Claim(
        "planning_token",
        "An untested extra token in every call costs no more exact answers if it is a planning "
        "token than if it is any.",
        3.0,
        points,
        ends,
        reached(points, ends, 0, quick=quick),
        "percentage points",
        "Paper: LLaDA-8B-Instruct on GSM8K, tokens of probability .10 to .60, 73 against 70 %. "
        f"{SMALLER} Whatever is uncertain to this model is a planning token, so that the two "
        "hardly differ. Exact interval of at least 95 %.",
    )


def _seconds_claim(outcomes: Mapping[str, Outcome], device: str) -> Claim:
    pvf, threshold = outcomes["pvf"], outcomes["threshold 0.9"]
    percent, ends = saved(pvf.seconds_T, threshold.seconds_T)
    return Claim(
        "seconds_saved",
        "Fewer calls are fewer seconds: a prompt alone takes plan-verify-fill less time than "
        "threshold decoding.",
        None,
        percent,
        ends,
        True if ends[0] > 0 else False if ends[1] < 0 else None,
        "%",
        f"{len(pvf.seconds_T)} prompts on {device}, one thread: {1000 * pvf.seconds_T.mean():.1f} "
        f"against {1000 * threshold.seconds_T.mean():.1f} ms. Its calls have more rows; on such a "
        "small model a row costs little beside a call. Bootstrap of 95 % over prompts.",
    )


def _table(model: str, outcomes: Mapping[str, Outcome]) -> Table:
    threshold = outcomes["threshold 0.9"]
    rows = []
    for name, item in outcomes.items():
        rows.append(
            [
                name,
                *share(item.exact_N),
                *_mean(item.calls_N),
                saved(item.calls_N, threshold.calls_N)[0],
                float(item.rows_N.mean()),
                *(1000 * value for value in _mean(item.seconds_T)),
            ]
        )
    return Table(
        f"The {model} model",
        ["decoder", "exact %", "low", "high", "calls", "calls low", "calls high",
         "calls saved %", "rows", "ms alone", "ms low", "ms high"],
        rows,
        f"{len(threshold.exact_N)} prompts that were held out, answers of {ANSWER_LENGTH} tokens "
        f"in blocks of {BLOCK_LENGTH}; calls saved are against threshold 0.9. Intervals of 95 %, "
        f"exact for shares, bootstrap else; milliseconds of {len(threshold.seconds_T)} prompts, "
        "one at a time.",
    )  # fmt: skip


def _sets_table(found: Mapping[str, Mapping[str, Outcome]], count: int) -> Table:
    rows = []
    for model, outcomes in found.items():
        pvf, threshold = outcomes["pvf"], outcomes["threshold 0.9"]
        for first in range(0, len(pvf.exact_N), count):
            part = slice(first, first + count)
            rows.append(
                [
                    model,
                    first // count,
                    100 * float(threshold.exact_N[part].mean()),
                    100 * float(pvf.exact_N[part].mean()),
                    float(threshold.calls_N[part].mean()),
                    float(pvf.calls_N[part].mean()),
                ]
            )
    return Table(
        "Set by set",
        ["model", "set", "threshold exact %", "pvf exact %", "threshold calls", "pvf calls"],
        rows,
        f"{count} prompts in each set, from a seed of its own.",
    )


def _lines(found: Mapping[str, Mapping[str, Outcome]], count: int) -> str:
    lines = ["model,decoder,set,prompt,exact,calls,rows"]
    for model, outcomes in found.items():
        for name, item in outcomes.items():
            values = zip(item.exact_N, item.calls_N, item.rows_N, strict=True)
            for number, (exact, calls, rows) in enumerate(values):
                at = f"{number // count},{number % count}"
                lines.append(f"{model},{name},{at},{int(exact)},{calls},{rows}")
    return "\n".join(lines) + "\n"


def _text(trained: Mapping[str, Outcome]) -> str:
    pvf, threshold = trained["pvf"], trained["threshold 0.9"]
    more = float(pvf.rows_N.mean() / threshold.rows_N.mean())
    return (
        "Letters and digits of an answer are certain from the start; the words of each line come "
        "from one of three styles, equally likely until one of them is there. Threshold decoding "
        "spends a call on forcing the first word of a line and another on the rest. A planning or "
        "a filled word that is tested in the call that predicts the rest saves one of the "
        f"two.\n\nWhat is saved in calls is paid in rows: plan-verify-fill evaluates {more:.2f} "
        "times as many as threshold decoding."
    )


def _figures(found: Mapping[str, Mapping[str, Outcome]]) -> list[Figure]:
    made: list[Figure] = []
    for model, outcomes in found.items():
        points = {
            name: (float(item.calls_N.mean()), *share(item.exact_N))
            for name, item in outcomes.items()
        }
        made += drawn(
            partial(plots.quality_against_calls, points, ylabel="exact answers, %"),
            f"Exact answers against forward calls, the {model} model",
            "Each marker is a decoder; exact 95 % intervals over prompts.",
            "Eight decoders: mean forward calls to the right, share of exact answers upwards.",
        )
    return made
