"""How much of real time listening takes: the tiny model, a WavLM of the base size, and all steps.

Ten-second recordings made of the synthetic fixture. The real-time factor is seconds of work over
seconds of audio: below 1 keeps up with speech. WavLM has random weights, which cost what trained
ones do; its configuration is that of the public base model (12 layers of 768, 94 million
parameters) with 44 outputs. The steps after listening are timed on the tiny model's emissions. On a
CPU, where all runs in one thread, seconds are those of the processor.

    python packages/huper/benchmarks/bench_recognizer.py [--device cuda]

rewrites its part of ``RESULTS.md``; ``--quick`` takes a few seconds and only prints.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.benchmark import preamble, seconds, table, write_section
from modicum.core.device import one_thread, resolve_device
from modicum.huper import audio
from modicum.huper.beam import prefix_beam_search
from modicum.huper.channel import EditChannel
from modicum.huper.graph import edit_posteriors, fused_decode
from modicum.huper.recognizer import Recognizer
from modicum.huper.scheduler import distortion_score, evidence_ratio

RESULTS = Path(__file__).with_name("RESULTS.md")
WORLD = Path(__file__).parents[1] / "tests" / "data" / "huper_world"
LENGTH = 10.0
"""Seconds of a recording."""
REAL_TIME = 1.0


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    batches: tuple[int, ...]
    repeats: int
    wavlm: tuple[int, int]


FULL = Plan((1, 2), 2, (12, 768))
QUICK = Plan((1,), 1, (1, 64))


def recordings(count: int) -> tuple[list[np.ndarray], list[list[str]]]:
    """Join utterances of the fixture into recordings of ten seconds, with canonical phones."""
    lines = (WORLD / "labelled.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    sounds = [audio.standardise(str(WORLD / row["audio_path"])) for row in rows]
    found, phones = [], []
    at = 0
    for _ in range(count):
        parts: list[np.ndarray] = []
        said: list[str] = []
        while sum(map(len, parts)) < LENGTH * audio.SAMPLE_RATE:
            parts.append(sounds[at % len(rows)])
            said += rows[at % len(rows)]["phonemes"]
            at += 1
        found.append(np.concatenate(parts)[: int(LENGTH * audio.SAMPLE_RATE)])
        phones.append(said)
    return found, phones


def wavlm(layers: int, width: int, device: str) -> Recognizer:
    """Return a recognizer of random weights and the base model's shape."""
    import torch
    import transformers

    from modicum.huper.integrations.transformers import TransformersCTC
    from modicum.huper.phones import PhoneSet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.WavLMConfig(
            vocab_size=44,
            pad_token_id=0,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=12 if width % 12 == 0 else 4,
            intermediate_size=4 * width,
        )
        model = transformers.WavLMForCTC(config).eval().to(device)
    return Recognizer(TransformersCTC(model, phones=PhoneSet.arpabet39()))


def medians(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Return each call's median seconds over turns, after one that is not counted."""
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


def listening(plan: Plan, device: str) -> tuple[list[list[str]], dict[str, float]]:
    """Time models; gives rows and the factor of each model in its largest batch."""
    models = {"tiny": Recognizer.from_pretrained("tiny", device=device)}
    if find_spec("transformers"):
        models["WavLM, base size"] = wavlm(*plan.wavlm, device)
    rows, factors = [], {}
    for size in plan.batches:
        given, _ = recordings(size)
        calls: dict[str, Callable[[], Any]] = {
            name: partial(model.emissions, given, audio.SAMPLE_RATE)
            for name, model in models.items()
        }
        for name, taken in medians(calls, plan.repeats, device).items():
            factor = factors[name] = taken / (size * LENGTH)
            count = sum(one.numel() for one in _module(models[name]).parameters())
            rows.append(
                [name, f"{count / 1e6:.2f}", str(size), f"{factor:.3g}", f"{1 / factor:.3g}"]
            )
    return rows, factors


def _module(recognizer: Recognizer) -> Any:
    model: Any = recognizer.model
    return model if hasattr(model, "parameters") else model.model


def steps(plan: Plan) -> list[list[str]]:
    """Time what follows listening, on the CPU."""
    given, canonical = recordings(1)
    recognizer = Recognizer.from_pretrained("tiny", device="cpu")
    emissions = recognizer.emissions(given, audio.SAMPLE_RATE)
    phones = recognizer.phones
    channel = EditChannel.fit([], phones=phones)
    wanted = [list(phones.canonicalise(canonical[0]))]
    aligned = fused_decode(emissions, wanted, channel)[0]
    row_TC = emissions.utterance(0)
    calls: dict[str, Callable[[], Any]] = {
        "distortion score": lambda: distortion_score(row_TC),
        "evidence ratio": lambda: evidence_ratio(row_TC, aligned),
        "greedy": emissions.greedy,
        "beam of 16": lambda: prefix_beam_search(row_TC, phones),
        "fused_decode": lambda: fused_decode(emissions, wanted, channel),
        "fused_decode, band of 20": lambda: fused_decode(emissions, wanted, channel, band=20),
        "edit_posteriors": lambda: edit_posteriors(emissions, wanted, channel),
    }
    taken = medians(calls, plan.repeats, "cpu")
    return [[name, f"{least:.3g}", f"{least / LENGTH:.2g}"] for name, least in taken.items()]


def sections(plan: Plan, device: str) -> list[str]:
    """Measure; gives the lines of the section after its preamble."""
    rows, factors = listening(plan, device)
    slow = [name for name, factor in factors.items() if factor > REAL_TIME]
    lines = [
        f"**Listening** to recordings of {LENGTH:g} seconds, on {device}:",
        "",
        *table(
            ["model", "million parameters", "batch", "real-time factor", "times real time"], rows
        ),
        "",
    ]
    if device == "cpu":
        lines += [
            f"**After listening**, one recording of {LENGTH:g} seconds, T = 500, C = 44:",
            "",
            *table(["step", "seconds", "real-time factor"], steps(plan)),
            "",
        ]
    lost = f"slower than real time: {', '.join(slow)}" if slow else "none"
    return [*lines, f"Losses: {lost}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where models run")
    parser.add_argument("--quick", action="store_true", help="small sizes; only print")
    options = parser.parse_args()
    device = resolve_device(options.device)
    plan = QUICK if options.quick else FULL
    script = "packages/huper/benchmarks/bench_recognizer.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    how = f"medians of {plan.repeats} turns, one CPU thread"
    if device == "cpu":
        how += ", seconds of the processor"
    with one_thread():
        lines = [*preamble(command, how), *sections(plan, device)]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, f"recognizer-{device.partition(':')[0]}", lines)


if __name__ == "__main__":
    main()
