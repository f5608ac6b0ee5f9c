"""The decoder beside forced alignment, which is its lower bound, and beside composition of graphs.

Random utterances of 2.2 seconds, 44 classes and 21 phones. Forced alignment by torchaudio knows the
phones and only places them. Composition is the same search by a library for weighted transducers:
emissions ∘ CTC topology ∘ edit graph, then the shortest path, by kaldifst; its score must be the
decoder's. Ways take turns. On a CPU, where all runs in one thread, seconds are those of the
processor: what else the machine does counts little.

    python packages/huper/benchmarks/bench_decoder.py [--device cuda]

rewrites its part of ``RESULTS.md``; ``--quick`` takes a few seconds and only prints.

Shapes: T frames, C classes, L canonical phones.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from modicum.core.benchmark import preamble, seconds, table, write_section
from modicum.core.device import one_thread, resolve_device
from modicum.huper.channel import Weights
from modicum.huper.experiments.decoder import CLASSES, FRAMES, PHONES, utterances_of, ways
from modicum.huper.graph.export import ctc_text, edit_graph_text, emissions_text
from modicum.huper.graph.viterbi import best_path

RESULTS = Path(__file__).with_name("RESULTS.md")
OURS = "fused_decode, NumPy"
BATCHED = "fused_decode, torch"
BOUND = "forced_align, torchaudio"
COMPOSED = "composition, kaldifst"


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    batch_sizes: tuple[int, ...]
    repeats: int
    short: tuple[tuple[int, int, int], ...]


FULL = Plan((1, 4, 16), 3, ((20, 12, 5), (40, 20, 8), (60, 30, 12)))
QUICK = Plan((1, 2), 1, ((12, 8, 3),))


def medians(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Return each call's median seconds over turns, after one that is not counted.

    Of the processor, or of a clock for a GPU.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if device != "cpu":
                taken = seconds(call, device)
            else:
                start = time.process_time()
                call()
                taken = time.process_time() - start
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def composition(logprobs_TC: np.ndarray, weights: Weights) -> Callable[[], float]:
    """Return what finds the score of the best path with kaldifst, texts already read."""
    import kaldifst

    texts = (
        emissions_text(logprobs_TC),
        ctc_text(logprobs_TC.shape[1]),
        edit_graph_text(weights),
    )
    heard, topology, edits = (kaldifst.compile(text) for text in texts)
    kaldifst.arcsort(topology, "ilabel")
    kaldifst.arcsort(edits, "ilabel")

    def call() -> float:
        phones = kaldifst.compose(heard, topology)
        kaldifst.arcsort(phones, "olabel")
        best = kaldifst.shortest_path(kaldifst.compose(phones, edits))
        cost = kaldifst.get_linear_symbol_sequence(best)[3]
        return -float(cost.value if hasattr(cost, "value") else cost)

    return call


def composed_rows(plan: Plan) -> tuple[list[list[str]], list[float]]:
    """Compare with composition; gives rows, and how many times faster this package is."""
    rows, factors = [], []
    for frames, classes, length in plan.short:
        logprobs, weights = utterances_of(1, 0, frames, classes, length)
        compose = composition(logprobs[0], weights[0])
        # Composition does not limit deletions in a row.
        path = best_path(logprobs[0], weights[0], maxdel=length)
        apart = math.inf if path is None else abs(compose() - path.score)
        if apart > 1e-3 * frames:
            raise RuntimeError(f"composition and decoder differ by {apart} for {frames} frames")
        taken = medians(
            {
                OURS: lambda one=logprobs[0], edits=weights[0]: best_path(one, edits),
                COMPOSED: compose,
            },
            plan.repeats,
            "cpu",
        )
        factors.append(taken[COMPOSED] / taken[OURS])
        sizes = [str(size) for size in (frames, classes, length)]
        cells = [f"{1000 * taken[name]:.3g}" for name in (OURS, COMPOSED)]
        rows.append([*sizes, *cells, f"{factors[-1]:.2g}", f"{apart:.1e}"])
    return rows, factors


def sections(plan: Plan, device: str) -> list[str]:
    """Measure; gives the lines of the section after its preamble."""
    speeds: dict[str, list[float]] = {}
    for size in plan.batch_sizes:
        logprobs, weights = utterances_of(size, 0)
        taken = medians(ways(logprobs, weights, device), plan.repeats, device)
        for name, least in taken.items():
            speeds.setdefault(name, []).append(size / least)
    largest = {name: values[-1] for name, values in speeds.items()}
    lines = [
        f"**Utterances per second** by batch size, T up to {FRAMES}, C = {CLASSES}, L up to "
        f"{PHONES}, 2.2 seconds of speech each:",
        "",
        *table(
            ["way", *map(str, plan.batch_sizes), f"of {BOUND}"],
            [
                [name, *(f"{value:.3g}" for value in values), f"{values[-1] / largest[BOUND]:.2g}"]
                for name, values in speeds.items()
            ],
        ),
        "",
    ]
    fastest = max(largest[OURS], largest[BATCHED])
    losses = [
        f"forced alignment is {largest[BOUND] / fastest:.0f} times as fast in batches of "
        f"{plan.batch_sizes[-1]}: it knows the phones, and looks at L of the L · C states"
    ]
    slow = [
        str(size)
        for at, size in enumerate(plan.batch_sizes)
        if speeds[BATCHED][at] < speeds[OURS][at]
    ]
    if slow:
        losses.append(f"torch on {device} is slower than NumPy in batches of {', '.join(slow)}")
    if find_spec("kaldifst"):
        rows, factors = composed_rows(plan)
        lines += [
            "**Composition of graphs**, milliseconds for one utterance, with equal scores:",
            "",
            *table(
                ["T", "C", "L", OURS, COMPOSED, "times ours", "scores apart"],
                rows,
            ),
            "",
        ]
        if min(factors) < 1:
            losses.append(f"composition is up to {1 / min(factors):.1f} times as fast")
    lines.append(f"Losses: {'; '.join(losses)}.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where torch and torchaudio run")
    parser.add_argument("--quick", action="store_true", help="small sizes; only print")
    options = parser.parse_args()
    device = resolve_device(options.device)
    plan = QUICK if options.quick else FULL
    script = "packages/huper/benchmarks/bench_decoder.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    how = f"medians of {plan.repeats} turns, one CPU thread, torch on {device}"
    if device == "cpu":
        how += ", seconds of the processor"
    with one_thread():
        lines = [*preamble(command, how), *sections(plan, device)]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, f"decoder-{device.partition(':')[0]}", lines)


if __name__ == "__main__":
    main()
