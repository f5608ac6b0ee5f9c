"""What the automatic number of drafts takes, beside threshold decoding and plan-verify-fill.

    python packages/pvf/benchmarks/bench_policy.py

decodes held-out prompts of the tiny task, one at a time and eight at a time. Seconds are those of
this process on the CPU (`time.process_time`), which other processes hardly change; the automatic
strategy sees the same clock. It is measured anew in every repetition, so that all that it tries to
find out is counted, and once more as one that has decoded such prompts before. The trained tiny
model is taken as it is, and with further blocks and hidden units that add nothing to its answers: a
larger network that says the same, whose rows cost more. Strategies take turns, a batch each. It
rewrites this device's part of ``RESULTS.md``; ``--dry-run`` only prints it.
"""

from __future__ import annotations

import argparse
import random
import shlex
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from modicum.core.benchmark import preamble, table, write_section
from modicum.pvf.generation import generate
from modicum.pvf.policy import AutoPVF
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.one_row import Threshold
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.tiny import ANSWER_LENGTH, STYLE_IDS, TinyMDLM, draw_items, load_tiny

RESULTS = Path(__file__).with_name("RESULTS.md")
SETTINGS = {"plan_vocab": STYLE_IDS, "unlock_threshold": 0}
SHAPE = {"gen_length": ANSWER_LENGTH, "block_length": ANSWER_LENGTH // 2}
SIZES = {"3 layers, 256 hidden": (3, 256), "6 layers, 1024 hidden": (6, 1024)}
FIXED = ("threshold", "k = 1", "k = 3")


@torch.no_grad()
def enlarged(model: TinyMDLM, layers: int, inner: int) -> TinyMDLM:
    """Give a network with more blocks and hidden units that gives the same logits.

    New hidden units and new blocks have no weight on the way back into the residual stream.
    """
    large = TinyMDLM(replace(model.config, layers=layers, inner=inner)).to(model.device).eval()
    given = model.state_dict()
    for name, weight in large.state_dict().items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
        if name in given:
            old = given[name]
            weight[tuple(slice(size) for size in old.shape)] = old
    return large.requires_grad_(False)


class Clocked:
    """The network with the time of this process on the CPU as its clock."""

    clock = staticmethod(time.process_time)

    def __init__(self, model: TinyMDLM) -> None:
        self._model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


def timed(
    model: Clocked, prompts: torch.Tensor, strategy: Strategy, batch_size: int
) -> tuple[float, int]:
    """Decode, and give seconds of this process on the CPU and calls of the model."""
    begun = model.clock()
    out = generate(model, prompts, strategy=strategy, batch_size=batch_size, **SHAPE)
    seconds = model.clock() - begun
    # The longest sequence of a batch takes part in all of its calls.
    return seconds, max(stats.nfe for stats in out.stats)


def repetition(
    model: Clocked, prompts: torch.Tensor, batch_size: int, learnt: AutoPVF, seed: int
) -> dict[str, tuple[float, int]]:
    """Decode all prompts with every strategy, in turns, and give what `timed` does in sum."""
    strategies: dict[str, Strategy] = {
        "threshold": Threshold(),
        "k = 1": PVF(num_drafts=1, **SETTINGS),
        "k = 3": PVF(num_drafts=3, **SETTINGS),
        "new": AutoPVF(**SETTINGS),
        "learnt": learnt,
    }
    totals = dict.fromkeys(strategies, (0.0, 0))
    order = random.Random(seed)
    for some in prompts.split(batch_size):
        for name in order.sample(list(strategies), len(strategies)):
            seconds, calls = timed(model, some, strategies[name], batch_size)
            totals[name] = (totals[name][0] + seconds, totals[name][1] + calls)
    return totals


def interval(values: list[float]) -> str:
    """Give the mean with a 95 % interval for it, by Student's t."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return f"{mean:.3f} ({mean - half:.3f} … {mean + half:.3f})"


def measured(model: Clocked, batch_size: int, batches: int, repeats: int) -> list[list[str]]:
    """Give the cells of a network and batch size: what was taken, and the ratios to the better."""
    count = batch_size * batches
    items = draw_items(count * (repeats + 1), torch.Generator().manual_seed(0), held_out=True)
    parts = items.prompt_BP.split(count)
    learnt = AutoPVF(**SETTINGS)
    repetition(model, parts[0], batch_size, learnt, 0)
    found = [
        repetition(model, part, batch_size, learnt, seed) for seed, part in enumerate(parts[1:], 1)
    ]
    names = list(found[0])
    seconds = {name: statistics.mean(each[name][0] for each in found) for name in names}
    calls = {name: statistics.mean(each[name][1] for each in found) for name in names}
    taken = [f"{seconds[name]:.3g} ({calls[name]:.0f})" for name in names]
    ratios = []
    for rivals in (("threshold", "k = 3"), FIXED):
        # The one that is better over all repetitions, not in each of them by its noise.
        better = min(rivals, key=seconds.__getitem__)
        ratios += [better]
        ratios += [
            interval([each[name][0] / each[better][0] for each in found])
            for name in ("new", "learnt")
        ]
    return [taken, ratios]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--prompts", type=int, default=12, help="decoded one at a time")
    parser.add_argument("--batches", type=int, default=6, help="of eight prompts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry-run", action="store_true", help="only print")
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python {' '.join(shlex.quote(word) for word in sys.argv)}"
    how = (
        f"{options.repeats} repetitions of {options.prompts} prompts one at a time, and of "
        f"{options.batches} batches of eight, on one thread; seconds of this process on the CPU"
    )
    lines = preamble(command, how)
    trained = load_tiny(device="cpu")
    taken, ratios = [], []
    for name, (layers, inner) in SIZES.items():
        model = Clocked(enlarged(trained, layers, inner))
        for batch_size, batches in ((1, options.prompts), (8, options.batches)):
            cells = measured(model, batch_size, batches, options.repeats)
            taken.append([name, str(batch_size), *cells[0]])
            ratios.append([name, str(batch_size), *cells[1]])
            print(taken[-1], ratios[-1], flush=True)
    about = (
        "CPU seconds of a repetition, mean, and in brackets the calls of the model. *New* is an "
        "`AutoPVF` that begins anew in each repetition, so that its first calls count; *learnt* "
        "is one that has decoded a repetition before."
    )
    ratio = (
        "CPU seconds of the automatic one divided by those of the better one of threshold decoding "
        "and plan-verify-fill with three drafts, and by those of the best of all three fixed ones, "
        "each the better one over all repetitions: mean of the repetitions with a 95 % interval. "
        "Above 1 the automatic one is slower; the aim is at most 1.05 beside the first."
    )
    head = ["network", "batch", *FIXED, "auto, new", "auto, learnt"]
    heads = ["network", "batch", "better of two", "new", "learnt", "best of three", "new", "learnt"]
    lines += ["", about, "", *table(head, taken), "", ratio, "", *table(heads, ratios)]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, "policy cpu", lines)


if __name__ == "__main__":
    main()
