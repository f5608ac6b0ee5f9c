"""A batch of prompts of different lengths decodes as each prompt alone.

Sixteen prompts are decoded together and one by one, by every strategy: on the exact posterior of
ledgers, on the same with noise that depends on the canvas, and on a small network with random
weights, whose sums in floating point depend a little on the shape of a batch.

Shapes: N prompts, G columns of an answer.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator, one_thread, torch_generator
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.core.stats import clopper_pearson
from modicum.pvf.experiments._shared import (
    BLOCK_LENGTH,
    LENGTH,
    draw_ledgers,
    model_of,
    random_network,
    resumed,
    verified,
)
from modicum.pvf.generation import generate
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.draft import DraftVerify
from modicum.pvf.strategies.one_row import (
    KLASS,
    EntropyBound,
    ExtraToken,
    Factor,
    Threshold,
    TopK,
)
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.testing import NoisyPredictor
from modicum.pvf.tiny import ANSWER_LENGTH, STYLE_IDS, draw_items

PROMPTS = 16
ROUNDS, QUICK_ROUNDS = 3, 1
QUICK_STRATEGIES = ("threshold", "pvf")
NOISE = 1.0
LEAST_EQUAL = 99.0
"""Percent of the network's tokens."""

ORACLE, NOISY, NETWORK = "oracle", "noisy oracle", "random network"


def strategies(words: Sequence[int]) -> dict[str, Strategy]:
    """Give one strategy of each kind, by name."""
    full = PVF(plan_vocab=words, unlock_threshold=0)
    return {
        "static": TopK(24),
        "random order": TopK(24, "random"),
        "threshold": Threshold(0.9),
        "factor": Factor(1.0),
        "entropy bound": EntropyBound(0.1),
        "klass": KLASS(history=1),
        "random token": ExtraToken(),
        "draft": DraftVerify(3),
        "pvf": full,
        "pvf, next block at 5": PVF(plan_vocab=words, unlock_threshold=5),
    }


def ragged(seed: int, number: int) -> list[list[int]]:
    """Draw prompts of the tiny model's task, cut off anywhere."""
    items = draw_items(PROMPTS, torch_generator(seed, "cpu", "ragged prompts", number))
    rng = numpy_generator(seed, "ragged prompts", number)
    return [prompt[: int(rng.integers(1, len(prompt) + 1))] for prompt in items.prompt_BP.tolist()]


def compare(
    model: MaskPredictor, prompts: Sequence[Sequence[int]], strategy: Strategy, length: int
) -> list[list[int]]:
    """Decode together and one by one; give tokens, equal tokens and whether calls agree, each."""

    def decode(batch_size: int) -> Any:
        return generate(
            model,
            [list(prompt) for prompt in prompts],
            strategy=strategy,
            gen_length=length,
            block_length=length // 2,
            eos_early_stop=False,
            batch_size=batch_size,
        )

    together, alone = decode(len(prompts)), decode(1)
    equal_N = (together.generated == alone.generated).sum(-1).tolist()
    pairs = zip(together.stats, alone.stats, strict=True)
    return [
        [length, equal, int(one.nfe == other.nfe and one.rows == other.rows)]
        for equal, (one, other) in zip(equal_N, pairs, strict=True)
    ]


def play(seed: int, quick: bool, model_name: str, number: int) -> dict[str, list[list[int]]]:
    """Decode one round's prompts by all strategies on one model."""
    if model_name == NETWORK:
        prompts, words = ragged(seed, number), STYLE_IDS
        model: MaskPredictor = random_network(seed + number)
        length = ANSWER_LENGTH
    else:
        tasks = draw_ledgers(seed, 0.8, number, PROMPTS)
        prompts, words = [list(task.prompt) for task in tasks], verified(tasks).plan_vocab.ids
        model, length = model_of(tasks), LENGTH
        if model_name == NOISY:
            model = NoisyPredictor(model, NOISE, seed + number)
    return {
        name: compare(model, prompts, strategy, length)
        for name, strategy in strategies(words).items()
        if not quick or name in QUICK_STRATEGIES
    }


def measure(ctx: RunContext) -> dict[str, dict[str, np.ndarray]]:
    """Give, by model and strategy, tokens, equal tokens and equal counts of all prompts, (N, 3)."""
    rounds = QUICK_ROUNDS if ctx.quick else ROUNDS
    cells = {
        f"{name.replace(' ', '-')}-{number}": partial(play, ctx.seed, ctx.quick, name, number)
        for name in (ORACLE, NOISY, NETWORK)
        for number in range(rounds)
    }
    found = resumed(ctx, cells, "rounds")
    made = {}
    for name in (ORACLE, NOISY, NETWORK):
        played = [found[f"{name.replace(' ', '-')}-{number}"] for number in range(rounds)]
        made[name] = {
            key: np.array([row for one in played for row in one[key]]) for key in played[0]
        }
    return made


def claims(found: Mapping[str, Mapping[str, np.ndarray]]) -> list[Claim]:
    """Judge tokens and counts, by model."""
    made = []
    for name, mine in found.items():
        all_N3 = np.concatenate(list(mine.values()))
        tokens, equal, counts = (int(value) for value in all_N3.sum(0))
        exact = name != NETWORK
        runs = len(all_N3)
        whole = int((all_N3[:, 0] == all_N3[:, 1]).sum())
        low, high = clopper_pearson(whole, runs)
        made.append(
            Claim(
                f"{name.replace(' ', '_')}_batch",
                f"On the {name} a batch gives the tokens of one prompt at a time"
                + (", in as many calls and rows." if exact else "."),
                None,
                100 * equal / tokens,
                None,
                equal == tokens and counts == runs
                if exact
                else 100 * equal / tokens >= LEAST_EQUAL,
                "% of tokens",
                f"{whole} of {runs} answers are equal throughout (exact 95 % interval "
                f"{100 * float(low):.2f} to {100 * float(high):.2f} %), {counts} in as many calls "
                f"and rows. {PROMPTS} prompts of different lengths in a batch, {len(mine)} "
                "strategies."
                + (
                    " Holds if all are."
                    if exact
                    else f" Holds from {LEAST_EQUAL:g} % of tokens on."
                ),
            )
        )
    return made


def run(ctx: RunContext) -> Result:
    """Decode batches and single prompts, and compare."""
    with one_thread():
        found = measure(ctx)
    rows = [
        [
            model,
            name,
            len(one_N3),
            100 * float(one_N3[:, 1].sum() / one_N3[:, 0].sum()),
            int((one_N3[:, 0] == one_N3[:, 1]).sum()),
            int(one_N3[:, 2].sum()),
        ]
        for model, mine in found.items()
        for name, one_N3 in mine.items()
    ]
    columns = ["model", "strategy", "prompts", "equal tokens %", "equal answers", "equal counts"]
    note = f"Ledgers in blocks of {BLOCK_LENGTH}, the network's answers in blocks of"
    note += f" {ANSWER_LENGTH // 2}; counts are calls and rows."
    return ctx.result(claims=claims(found), tables=[Table("Batch and single", columns, rows, note)])
