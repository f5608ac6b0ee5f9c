"""All strategies and decoders of others, side by side: answers, calls, rows, seconds.

    python packages/pvf/benchmarks/bench_peers.py --fast-dllm PATH/llada/generate.py

decodes the same prompts with every strategy of `modicum.pvf`, with `diffusers.LLaDA2Pipeline`, and,
if a copy of its file is given, with the ``generate`` of Fast-dLLM (Apache-2.0,
github.com/NVlabs/Fast-dLLM), which without threshold and factor is LLaDA's. Others' code runs as it
is; what it imports of its own model's code and does not need here is left out. All take turns
prompt by prompt. It rewrites a part of ``RESULTS.md``; ``--dry-run`` only prints it.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import shlex
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modicum.core.benchmark import preamble, table, write_section
from modicum.core.device import one_thread, torch_generator
from modicum.pvf import TopK, generate
from modicum.pvf.integrations.llada import llama_config
from modicum.pvf.integrations.transformers import BidirectionalPredictor
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.registry import STRATEGIES, as_strategy
from modicum.pvf.testing import ledger
from modicum.pvf.tiny import STYLE_IDS, load_tiny
from modicum.pvf.tiny.task import ANSWER_LENGTH, draw_items, is_exact

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
THRESHOLD, FACTOR = 0.9, 1.0
NEEDS_VOCABULARY = ("pvf", "plan", "bin_plan")
# One is there under another name, one measures the machine before it decides.
LEFT_OUT = ("extra_token", "auto")
RANDOM_CONFIG = {
    "d_model": 128,
    "n_heads": 4,
    "n_layers": 4,
    "mlp_hidden_size": 384,
    "vocab_size": 512,
    "max_sequence_length": 256,
    "weight_tying": False,
    "rope_theta": 5e5,
}


@dataclass(frozen=True)
class Problem:
    """One prompt: its model, how long its answer is, and which answers are right."""

    model: Any
    prompt: list[int]
    length: int
    block_length: int
    is_exact: Callable[[torch.Tensor], bool]


@dataclass(frozen=True)
class Suite:
    """Problems of one kind, and the planning tokens that belong to them."""

    name: str
    note: str
    plan_ids: tuple[int, ...]
    problems: list[Problem]


@dataclass
class Cost:
    """What a decoder did on all problems of a suite so far."""

    exact: int = 0
    calls: int = 0
    rows: int = 0
    token_evals: int = 0
    tokens: int = 0
    seconds: float = 0.0


Decode = Callable[[Problem, Cost], torch.Tensor]
"""Decodes a problem, adds what that cost, and gives the answer, (G,)."""


def tiny_suite(name: str, count: int) -> Suite:
    """Draw held-out prompts of the tiny model's task."""
    model = load_tiny(name)
    items = draw_items(count, torch_generator(SEED, "cpu", "peers", name), held_out=True)
    problems = [
        Problem(
            model,
            prompt_P.tolist(),
            ANSWER_LENGTH,
            16,
            lambda answer_G, prompt_P=prompt_P: bool(is_exact(prompt_P[None], answer_G[None])[0]),
        )
        for prompt_P in items.prompt_BP
    ]
    note = f"the {name} tiny model, {count} held-out prompts, {ANSWER_LENGTH} tokens, blocks of 16"
    return Suite(name, note, STYLE_IDS, problems)


def oracle_suite(count: int, right: float) -> Suite:
    """Draw ledgers with their exact posterior as the model."""
    tasks = [ledger(number, right) for number in range(count)]
    problems = [Problem(task.oracle, [], task.length, 24, task.is_correct) for task in tasks]
    note = (
        f"the exact posterior of ledgers whose sums are right with probability {right:g}, {count} "
        f"ledgers, {tasks[0].length} tokens, blocks of 24"
    )
    return Suite(f"oracle {right:g}", note, tasks[0].style_ids, problems)


def random_suite(count: int) -> Suite:
    """Make a LLaDA of random weights; an answer is exact if one token per call gives it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(**llama_config(RANDOM_CONFIG), initializer_range=0.15)
    vocabulary = config.vocab_size
    network = LlamaForCausalLM(config).eval()
    model = BidirectionalPredictor(network, mask_id=vocabulary - 1, eos_id=vocabulary - 2)
    generator = torch_generator(SEED, "cpu", "peers", "random")
    length, block = 64, 32
    problems = []
    for _ in range(count):
        prompt = torch.randint(0, vocabulary - 2, (32,), generator=generator).tolist()
        slow = generate(
            model, [prompt], strategy=TopK(), gen_length=length, block_length=block,
            eos_early_stop=False,
        )  # fmt: skip
        answer_G = slow.generated[0]
        problems.append(
            Problem(
                model, prompt, length, block,
                lambda found_G, answer_G=answer_G: torch.equal(found_G, answer_G),
            )
        )  # fmt: skip
    note = (
        f"a LLaDA of random weights (4 layers of 128), {count} random prompts of 32 tokens, "
        f"{length} tokens, blocks of {block}; an answer is exact if it is that of one token per "
        "call"
    )
    return Suite("random", note, tuple(range(0, vocabulary - 2, 16)), problems)


def ours(name: str, plan_ids: tuple[int, ...]) -> Decode:
    """Give a strategy of `modicum.pvf` with its own settings."""
    settings = {"plan_vocab": plan_ids} if name in NEEDS_VOCABULARY else {}
    strategy = as_strategy(name, **settings)

    def decode(problem: Problem, cost: Cost) -> torch.Tensor:
        out = generate(
            problem.model, [problem.prompt], strategy=strategy, gen_length=problem.length,
            block_length=problem.block_length, eos_early_stop=False, seed=SEED,
        )  # fmt: skip
        (stats,) = out.stats
        cost.calls += stats.nfe
        cost.rows += stats.rows
        cost.token_evals += stats.token_evals
        return out.generated[0]

    return decode


class AsModel(torch.nn.Module):
    """A mask predictor as others call a model: ids in, an object with logits of all columns out.

    The model always sees its whole canvas: columns that a caller leaves away are masks, columns
    behind the end get flat logits. The mask token has no probability, as with our strategies.
    """

    def __init__(self, predictor: MaskPredictor, length: int, cost: Cost) -> None:
        super().__init__()
        self.predictor, self.length, self.cost = predictor, length, cost
        self.device = predictor.device

    def forward(self, ids: torch.Tensor, **unused: Any) -> Any:
        """Give an object with logits, (R, L, V)."""
        rows, given = ids.shape
        ids_RL = torch.full((rows, self.length), self.predictor.mask_id)
        width = min(given, self.length)
        ids_RL[:, :width] = ids[:, :width]
        columns_RH = torch.arange(width).expand(rows, -1)
        logits_RLV = torch.zeros(rows, given, self.predictor.vocab_size)
        logits_RLV[:, :width] = self.predictor.forward(ids_RL, None, columns_RH)
        logits_RLV[..., self.predictor.mask_id] = -torch.inf
        self.cost.calls += 1
        self.cost.rows += rows
        self.cost.token_evals += rows * self.length
        return types.SimpleNamespace(logits=logits_RLV)


def llada2(problem: Problem, cost: Cost) -> torch.Tensor:
    """Decode with diffusers' pipeline; its blocks begin in column 0."""
    from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

    total = len(problem.prompt) + problem.length
    pipeline = LLaDA2Pipeline(AsModel(problem.model, total, cost), BlockRefinementScheduler())
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline(
        input_ids=torch.tensor([problem.prompt], dtype=torch.int64),
        gen_length=problem.length,
        block_length=problem.block_length,
        num_inference_steps=problem.block_length,
        threshold=THRESHOLD,
        editing_threshold=None,
        sampling_method="greedy",
        eos_early_stop=False,
        mask_token_id=problem.model.mask_id,
        output_type="seq",
    )
    return out.sequences[0]


def fast_dllm(path: Path) -> dict[str, Decode]:
    """Give the ``generate`` of a file of Fast-dLLM with each of its rules, by name."""
    # Its model's code, which it imports by either name, is not needed for another model.
    for prefix in ("", "fast_dllm."):
        stand_in = types.ModuleType(f"{prefix}model.modeling_llada")
        stand_in.LLaDAModelLM = None  # type: ignore[attr-defined]
        sys.modules.setdefault(f"{prefix}model", types.ModuleType(f"{prefix}model"))
        sys.modules.setdefault(stand_in.__name__, stand_in)
    sys.modules.setdefault("fast_dllm", types.ModuleType("fast_dllm"))
    spec = importlib.util.spec_from_file_location("fast_dllm.generate", path)
    assert spec is not None and spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)

    def ruled(**rule: float) -> Decode:
        def decode(problem: Problem, cost: Cost) -> torch.Tensor:
            total = len(problem.prompt) + problem.length
            found, _ = theirs.generate(
                AsModel(problem.model, total, cost),
                torch.tensor([problem.prompt], dtype=torch.int64),
                steps=problem.length,
                gen_length=problem.length,
                block_length=problem.block_length,
                mask_id=problem.model.mask_id,
                **rule,
            )
            return found[0, len(problem.prompt) :]

        return decode

    found = {
        "Fast-dLLM, one token per call (LLaDA's rule)": ruled(),
        f"Fast-dLLM, threshold {THRESHOLD:g}": ruled(threshold=THRESHOLD),
    }
    # Its first versions have no rule by a factor.
    if "factor" in inspect.signature(theirs.generate).parameters:
        found[f"Fast-dLLM, factor {FACTOR:g}"] = ruled(factor=FACTOR)
    return found


def decoders(suite: Suite, fast: Path | None) -> dict[str, Decode]:
    """Give all decoders by what the table calls them."""
    names = [name for name in STRATEGIES if name not in LEFT_OUT]
    found = {f"`{name}`": ours(name, suite.plan_ids) for name in names}
    found[f"diffusers LLaDA2Pipeline, threshold {THRESHOLD:g}"] = llada2
    if fast is not None:
        found |= fast_dllm(fast)
    return found


def run(suite: Suite, fast: Path | None) -> dict[str, Cost]:
    """Decode every problem with every decoder, which take turns."""
    made = decoders(suite, fast)
    costs = {name: Cost() for name in made}
    for decode in made.values():
        decode(suite.problems[0], Cost())  # What is loaded and compiled once is not timed.
    for problem in suite.problems:
        for name, decode in made.items():
            cost = costs[name]
            # Of the processor: on a shared machine a clock on the wall measures the others.
            start = time.process_time()
            answer_G = decode(problem, cost)
            cost.seconds += time.process_time() - start
            cost.tokens += problem.length
            cost.exact += problem.is_exact(answer_G)
    return costs


def lines_of(suite: Suite, costs: dict[str, Cost]) -> list[str]:
    """Make the table of a suite."""
    count = len(suite.problems)
    header = ["decoder", "exact", "calls", "rows", "token evaluations", "CPU ms", "tokens/s"]
    rows = [
        [
            name,
            f"{cost.exact / count:.2f}",
            f"{cost.calls / count:.2f}",
            f"{cost.rows / count:.2f}",
            f"{cost.token_evals / count:.0f}",
            f"{1e3 * cost.seconds / count:.1f}",
            f"{cost.tokens / cost.seconds:.0f}",
        ]
        for name, cost in costs.items()
    ]
    return ["", f"{suite.note[0].upper()}{suite.note[1:]}.", "", *table(header, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--fast-dllm", type=Path, help="llada/generate.py of a copy of Fast-dLLM")
    parser.add_argument("--problems", type=int, default=20, help="prompts of each kind")
    parser.add_argument("--dry-run", action="store_true", help="only print")
    options = parser.parse_args()
    count = options.problems
    lines = preamble(
        f"python {' '.join(shlex.quote(word) for word in sys.argv)}",
        "means over prompts, decoded one at a time on one thread of the CPU, decoders taking turns",
    )
    lines += [
        "Names in code type are strategies of this package with their own settings and the "
        "problem's planning tokens; the others are the code of their projects, run as it is on the "
        "same predictors. These always see the whole canvas, also where LLaDA2Pipeline hands over "
        "its beginning only, so that its token evaluations are more than on a model by blocks. No "
        "decoder stops at an end token.",
        "",
        "Blocks of LLaDA2Pipeline begin in column 0, so that the first one may hold the end of the "
        "prompt, and it looks at most blocks once more when they are filled. Compare milliseconds "
        "of equal numbers of calls for what the batched driver costs beside a loop for one "
        "sequence: with models as small as these it is a large part. The oracle has columns of "
        "equal confidence, of which ours commit the first and Fast-dLLM any, so that numbers of "
        "calls under one rule differ.",
    ]
    with one_thread():
        for suite in (
            tiny_suite("trained", count),
            tiny_suite("undertrained", count),
            oracle_suite(count, 0.8),
            random_suite(max(1, count // 3)),
        ):
            part = lines_of(suite, run(suite, options.fast_dllm))
            print("\n".join(part), flush=True)
            lines += part
    if not options.dry_run:
        write_section(RESULTS, "peers", lines)


if __name__ == "__main__":
    main()
