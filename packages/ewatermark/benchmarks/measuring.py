"""What the benchmarks share: peers, anchors, clocks and the page of results.

Takes sizes and functions, gives medians and Markdown. Nothing here is part of the package.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    LlamaForCausalLM,
    SynthIDTextWatermarkLogitsProcessor,
    WatermarkLogitsProcessor,
)

from modicum.core.device import describe_hardware
from modicum.core.watermark import CausalLMAnchor, NGramAnchor
from modicum.core.watermark.adapters.peers import kgw_config, synthid_config
from modicum.core.watermark.adapters.tiny_lm import load_tiny, tiny_path
from modicum.ewatermark import EWatermarkConfig

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
KEY = b"a key for benchmarks only"
BUSY = 2.0
"""Load average above which a section says that the machine was not idle."""


def kgw_processor(vocab_size: int, device: str) -> WatermarkLogitsProcessor:
    """Return transformers' green-list processor (lefthash)."""
    config = kgw_config()
    return WatermarkLogitsProcessor(
        vocab_size=vocab_size,
        device=device,
        greenlist_ratio=config.greenlist_ratio,
        bias=config.bias,
        hashing_key=config.hashing_key,
        seeding_scheme=config.seeding_scheme,
        context_width=config.context_width,
    )


def synthid_processor(device: str) -> SynthIDTextWatermarkLogitsProcessor:
    """Return transformers' SynthID processor with thirty layers."""
    config = synthid_config()
    return SynthIDTextWatermarkLogitsProcessor(
        ngram_len=config.ngram_len,
        keys=config.keys,
        sampling_table_size=config.sampling_table_size,
        sampling_table_seed=config.sampling_table_seed,
        context_history_size=config.context_history_size,
        device=torch.device(device),
    )


def tiny_model(vocab_size: int, device: str) -> Any:
    """Return the shipped anchor model, or one of its shape with random weights and another V."""
    config = AutoConfig.from_pretrained(tiny_path("anchor"), local_files_only=True)
    if vocab_size == config.vocab_size:
        return load_tiny("anchor", device=device)[0]
    config.vocab_size = vocab_size
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return LlamaForCausalLM(config).to(device).eval()


def our_configs(vocab_size: int, device: str) -> dict[str, EWatermarkConfig]:
    """Return the default watermark with three anchors."""
    rng = np.random.default_rng(SEED)
    n_gram = NGramAnchor(vocab_size).fit([rng.zipf(1.3, 200_000) % vocab_size])
    anchors = {
        "uniform": None,
        "n-gram": n_gram,
        "tiny LM": CausalLMAnchor(tiny_model(vocab_size, device)),
    }
    return {
        name: EWatermarkConfig(key=KEY, vocab_size=vocab_size, anchor=anchor)
        for name, anchor in anchors.items()
    }


def clock(device: str) -> float:
    """Return the time once the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(call: Callable[[], object], device: str) -> float:
    """Return how long one call takes; ``inf`` if the device's memory does not suffice."""
    start = clock(device)
    try:
        call()
    except torch.cuda.OutOfMemoryError:
        return float("inf")
    return clock(device) - start


def medians(calls: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Return each call's median time; they take turns, so that other load hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            taken = seconds(call, device)
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|" + " ---: |" * len(header)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def preamble(command: str, how: str) -> list[str]:
    """Return hardware, versions, command and how busy the machine is."""
    hardware = describe_hardware()
    versions = ", ".join(f"{name} {value}" for name, value in hardware["versions"].items())
    gpus = "; ".join(f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in hardware["gpus"])
    load = os.getloadavg()[0]
    busy = f" Load average at the start {load:.1f}: not an idle machine." if load > BUSY else ""
    return [
        f"Hardware: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"GPU: {gpus or 'none'}; {torch.get_num_threads()} torch threads.{busy}",
        f"Versions: Python {hardware['python']}, {versions}.",
        f"Command: `{command}`; {how}; seed {SEED}.",
        "",
    ]


def write_section(name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the section's two markers in the results file."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = RESULTS.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{RESULTS} has no section between {begin} and {end}")
    text = "\n".join([begin, *lines, end])
    RESULTS.write_text(pattern.sub(lambda _: text, page))
