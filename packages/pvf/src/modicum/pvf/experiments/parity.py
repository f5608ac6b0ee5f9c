"""The usual decoders against their published rules, token for token and call for call.

The rules are written here a second time, one sequence and one call after the other, from what the
published code of Fast-dLLM, LLaDA and Dream does; all decode with the same small network, whose
random weights give confidences on either side of every threshold.

Sources: Fast-dLLM (arXiv 2505.22618), LLaDA (arXiv 2502.09992), Dream (arXiv 2508.15487).

Shapes: L columns of a canvas, V vocabulary, M open columns of the block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.core.stats import clopper_pearson
from modicum.pvf.experiments._shared import random_network, resumed
from modicum.pvf.generation import generate
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.one_row import Factor, Threshold, TopK
from modicum.pvf.tiny import ANSWER_LENGTH, PROMPT_LENGTH

PROMPTS, QUICK_PROMPTS = 60, 2
PARTS, QUICK_PARTS = 5, 2
BLOCKS = (8, 16, 32)
THRESHOLDS = (0.9, 0.5)
FACTORS = (1.0, 0.5)
STEPS = (4, 12, 32)
"""Calls for all blocks together; those that do not divide by the number of blocks are left out."""

Rule = Callable[[torch.Tensor, int], torch.Tensor]
"""From log-probabilities of the open columns, (M, V) float64, and the number of the call in the
block, to the open columns that are committed, numbers in [0, M)."""


def at_least(threshold: float) -> Rule:
    """Commit all confidences of at least a threshold, and the largest in any case (Fast-dLLM)."""

    def rule(log_probs_MV: torch.Tensor, call: int) -> torch.Tensor:
        confidence_M = log_probs_MV.amax(-1).exp()
        sure_M = confidence_M >= threshold
        sure_M[confidence_M.argmax()] = True
        return sure_M.nonzero()[:, 0]

    return rule


def by_factor(factor: float, *, last_too: bool = False) -> Rule:
    """Commit confidences in falling order up to the first c of number n below 1 - f / (n + 1).

    The first is committed in any case (Fast-dLLM). With `last_too` the last open one is committed
    too where it alone is below, as the published code does.
    """

    def rule(log_probs_MV: torch.Tensor, call: int) -> torch.Tensor:
        confidence_M, order_M = log_probs_MV.amax(-1).exp().sort(descending=True, stable=True)
        count = 1
        while count < len(order_M) and confidence_M[count] >= 1 - factor / (count + 2):
            count += 1
        if last_too and count == len(order_M) - 1:
            count += 1
        return order_M[:count]

    return rule


def by_schedule(steps: int, masks: int) -> Rule:
    """Commit the most confident, as many as the call's share of a block's masks (LLaDA)."""
    shares = [masks // steps + (call < masks % steps) for call in range(steps)]

    def rule(log_probs_MV: torch.Tensor, call: int) -> torch.Tensor:
        return log_probs_MV.amax(-1).sort(descending=True, stable=True).indices[: shares[call]]

    return rule


def by_rank(rank: str) -> Rule:
    """Commit the column of largest margin or negative entropy, one in each call (Dream)."""

    def rule(log_probs_MV: torch.Tensor, call: int) -> torch.Tensor:
        probs_MV = log_probs_MV.exp()
        if rank == "margin":
            first_second_M2 = probs_MV.topk(2).values
            values_M = first_second_M2[:, 0] - first_second_M2[:, 1]
        else:
            values_M = (probs_MV * (probs_MV + 1e-10).log()).sum(-1)
        return values_M.argmax()[None]

    return rule


@torch.inference_mode()
def decoded(
    model: MaskPredictor, prompt: list[int], length: int, block_length: int, rule: Rule
) -> tuple[list[int], int]:
    """Decode one prompt block after block by a rule; give what was generated, and the calls."""
    canvas_L = torch.tensor([*prompt, *[model.mask_id] * length])
    columns_1L = torch.arange(len(canvas_L))[None]
    calls = 0
    for first in range(len(prompt), len(canvas_L), block_length):
        block = slice(first, first + block_length)
        call = 0
        while bool((canvas_L[block] == model.mask_id).any()):
            logits_LV = model.forward(canvas_L[None], None, columns_1L)[0].double()
            logits_LV[:, model.mask_id] = -torch.inf
            open_M = first + (canvas_L[block] == model.mask_id).nonzero()[:, 0]
            chosen_M = open_M[rule(logits_LV[open_M].log_softmax(-1), call)]
            canvas_L[chosen_M] = logits_LV[chosen_M].argmax(-1)
            call += 1
        calls += call
    return canvas_L[len(prompt) :].tolist(), calls


@dataclass(frozen=True)
class Pair:
    """A strategy and the rule that it is held to."""

    peer: str
    strategy: Strategy
    rule: Rule
    block_length: int


def pairs(length: int) -> dict[str, Pair]:
    """Give what is compared, by name, for answers of a length."""
    found = {}
    for block in BLOCKS:
        where = f"blocks of {block}"
        for value in THRESHOLDS:
            found[f"threshold {value:g}, {where}"] = Pair(
                "Fast-dLLM threshold", Threshold(value), at_least(value), block
            )
        for value in FACTORS:
            found[f"factor {value:g}, {where}"] = Pair(
                "Fast-dLLM factor", Factor(value), by_factor(value), block
            )
        for steps in STEPS:
            if steps % (length // block) == 0:
                rule = by_schedule(steps // (length // block), block)
                found[f"{steps} calls, {where}"] = Pair("LLaDA schedule", TopK(steps), rule, block)
        for rank in ("margin", "entropy"):
            strategy = TopK(rank=rank)  # type: ignore[arg-type]
            found[f"{rank}, {where}"] = Pair("Dream rank", strategy, by_rank(rank), block)
    found[FACTOR_CODE] = Pair(
        "Fast-dLLM factor, code", Factor(1.0), by_factor(1.0, last_too=True), 16
    )
    return found


FACTOR_CODE = "factor 1, blocks of 16, the code's last token"


def compare(
    model: MaskPredictor, prompts: list[list[int]], length: int, pair: Pair
) -> list[list[int]]:
    """Give tokens, equal tokens and whether calls are equal, of each prompt."""
    out = generate(
        model,
        prompts,
        strategy=pair.strategy,
        gen_length=length,
        block_length=pair.block_length,
        eos_early_stop=False,
        batch_size=1,
    )
    made = []
    for prompt, ours_L, stats in zip(prompts, out.generated.tolist(), out.stats, strict=True):
        theirs_L, calls = decoded(model, prompt, length, pair.block_length, pair.rule)
        equal = sum(one == other for one, other in zip(ours_L, theirs_L, strict=True))
        made.append([length, equal, int(stats.nfe == calls)])
    return made


def play(seed: int, part: int, count: int) -> dict[str, list[list[int]]]:
    """Compare all pairs on some prompts and a network of this part's own."""
    rng = numpy_generator(seed, "parity", part)
    model = random_network(seed + part)
    prompts = [
        rng.integers(2, model.vocab_size, int(rng.integers(1, PROMPT_LENGTH + 1))).tolist()
        for _ in range(count)
    ]
    prompts = [[token for token in prompt if token != model.mask_id] or [3] for prompt in prompts]
    return {
        name: compare(model, prompts, ANSWER_LENGTH, pair)
        for name, pair in pairs(ANSWER_LENGTH).items()
    }


def measure(ctx: RunContext) -> dict[str, np.ndarray]:
    """Give tokens, equal tokens and equal calls of all prompts, (N, 3), by pair."""
    parts, total = (QUICK_PARTS, QUICK_PROMPTS) if ctx.quick else (PARTS, PROMPTS)
    cells: dict[str, Any] = {
        f"part-{part}": partial(play, ctx.seed, part, total // parts) for part in range(parts)
    }
    played = list(resumed(ctx, cells, "parts").values())
    return {name: np.array([row for one in played for row in one[name]]) for name in played[0]}


def claims(found: Mapping[str, np.ndarray]) -> list[Claim]:
    """Judge each peer's rule over all its settings."""
    compared = pairs(ANSWER_LENGTH)
    peers = dict.fromkeys(pair.peer for name, pair in compared.items() if name != FACTOR_CODE)
    made = []
    for peer in peers:
        names = [name for name, pair in compared.items() if pair.peer == peer]
        all_N3 = np.concatenate([found[name] for name in names])
        whole = int((all_N3[:, 0] == all_N3[:, 1]).sum())
        calls, runs = int(all_N3[:, 2].sum()), len(all_N3)
        low, high = clopper_pearson(whole, runs)
        made.append(
            Claim(
                peer.lower().replace(" ", "_").replace("-", "_"),
                f"Every answer is that of {peer}'s rule, token for token, in as many calls.",
                None,
                100 * whole / runs,
                (100 * float(low), 100 * float(high)),
                whole == calls == runs,
                "% of answers",
                f"{whole} of {runs} answers and {calls} counts of calls, in {len(names)} settings; "
                f"{ANSWER_LENGTH} tokens each. Exact 95 % interval; holds if all are equal.",
            )
        )
    return made


def run(ctx: RunContext) -> Result:
    """Decode by the strategies and by the published rules, and compare."""
    with one_thread():
        found = measure(ctx)
    compared = pairs(ANSWER_LENGTH)
    rows = [
        [
            name,
            compared[name].peer,
            len(one_N3),
            int((one_N3[:, 0] == one_N3[:, 1]).sum()),
            int(one_N3[:, 2].sum()),
        ]
        for name, one_N3 in found.items()
    ]
    columns = ["setting", "peer", "answers", "equal answers", "equal calls"]
    note = "The last row: where the last open token alone fails the factor rule, the published code"
    note += " commits it, which the published rule does not."
    return ctx.result(claims=claims(found), tables=[Table("Answers by rule", columns, rows, note)])
