"""Times the keyed words of one position's vocabulary beside what other schemes do for it.

Peers: seeding a ``torch.Generator`` and drawing V uniforms (as inverse-transform and Gumbel
schemes do), seeding it and drawing a permutation (green lists), and the hash of V candidate tokens
under thirty keys in transformers' SynthID processor. A generator is seeded once per position; the
PRF and SynthID take a batch of positions at once.

    python shared/core/benchmarks/bench_prf.py

rewrites this device's part of ``RESULTS.md``; ``--dry-run`` uses small sizes and only prints.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from bench_logits_summary import write_section
from transformers import SynthIDTextWatermarkLogitsProcessor

from modicum.core.device import describe_hardware, resolve_device, torch_generator
from modicum.core.prf import PhiloxPRF, make_prf

# Shape suffixes: P positions, c context width, V vocabulary.

SEED = 0
KEY = b"a key for benchmarks only"
CONTEXT = 4
SHAPES = [(1, 32_000), (1, 128_256), (8, 32_000)]
DRY_SHAPES = [(1, 2_000), (2, 2_000)]
SYNTHID_KEYS = list(range(101, 131))
BUSY = 2.0


def prf_call(prf: PhiloxPRF, contexts_Pc: object, vocabulary: int) -> Callable[[], object]:
    return lambda: prf.words_range(prf.context_state(contexts_Pc), vocabulary)


def make_calls(positions: int, vocabulary: int, device: str) -> dict[str, Callable[[], object]]:
    contexts_Pc = torch.randint(
        0, vocabulary, (positions, CONTEXT), generator=torch_generator(SEED)
    ).to(device)
    generator = torch.Generator(device)

    def uniforms() -> None:
        for context in contexts_Pc:
            generator.manual_seed(int(context.sum()))
            torch.rand(vocabulary, generator=generator, device=device)

    def permutations() -> None:
        for context in contexts_Pc:
            generator.manual_seed(int(context.sum()))
            torch.randperm(vocabulary, generator=generator, device=device)

    synthid = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=CONTEXT + 1,
        keys=SYNTHID_KEYS,
        sampling_table_size=2**16,
        sampling_table_seed=SEED,
        context_history_size=1024,
        device=torch.device(device),
    )
    tokens_PV = torch.arange(vocabulary, device=device).expand(positions, vocabulary)

    def tournament_keys() -> object:
        return synthid.sample_g_values(synthid._compute_keys(contexts_Pc, tokens_PV)[0])

    calls: dict[str, Callable[[], object]] = {}
    for name in ("philox", "blake2b"):
        prf = make_prf(name, KEY, "part")
        if device == "cpu":
            calls[f"{name}, NumPy"] = prf_call(prf, contexts_Pc.numpy(), vocabulary)
        calls[f"{name}, torch"] = prf_call(prf, contexts_Pc, vocabulary)
    calls["manual_seed + rand"] = uniforms
    calls["manual_seed + randperm"] = permutations
    calls["SynthID, 30 keys"] = tournament_keys
    return calls


def medians(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Return each call's median time; they take turns, so that other load hits all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, taken in zip(calls.values(), times, strict=True):
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def measure(device: str, shapes: list[tuple[int, int]], repeats: int) -> list[str]:
    header = [
        "positions",
        "V",
        "what",
        "ms per position",
        "million tokens/s",
        "time / philox, torch",
    ]
    lines = [f"| {' | '.join(header)} |", "| ---: | ---: | :--- | ---: | ---: | ---: |"]
    for positions, vocabulary in shapes:
        calls = make_calls(positions, vocabulary, device)
        taken = dict(zip(calls, medians(calls, repeats, device), strict=True))
        for name, value in taken.items():
            cells = [str(positions), f"{vocabulary:,}", name, f"{1e3 * value / positions:.3g}"]
            cells += [f"{positions * vocabulary / value / 1e6:.3g}"]
            cells += [f"{value / taken['philox, torch']:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def section(device: str, shapes: list[tuple[int, int]], repeats: int, command: str) -> str:
    hardware = describe_hardware()
    versions = ", ".join(f"{name} {value}" for name, value in hardware["versions"].items())
    gpus = "; ".join(f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in hardware["gpus"])
    load = os.getloadavg()[0]
    busy = f" Load average at the start {load:.1f}: not an idle machine." if load > BUSY else ""
    lines = [
        f"Hardware: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"GPU: {gpus or 'none'}; {torch.get_num_threads()} torch threads; "
        f"NumPy {np.__version__} uses one thread.{busy}",
        f"Versions: Python {hardware['python']}, {versions}.",
        f"Command: `{command}`; median of {repeats} calls, taking turns; seed {SEED}.",
        "",
        *measure(device, shapes, repeats),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=15, help="timed calls per cell")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    command = "python shared/core/benchmarks/bench_prf.py " + shlex.join(
        ["--device", device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
    )
    text = section(device, DRY_SHAPES if options.dry_run else SHAPES, options.repeats, command)
    print(text)
    if not options.dry_run:
        write_section(f"prf {device}", text)


if __name__ == "__main__":
    main()
