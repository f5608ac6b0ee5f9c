"""What the benchmarks of all packages share: clocks, tables and the page of results.

Takes functions and sizes, gives medians and Markdown. Functions that are compared take turns, so
that other load on the machine hits all of them alike; results are ratios within one run. torch is
loaded only for a device other than the CPU. Knows no method.
"""

import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modicum.core.device import describe_hardware

BUSY = 2.0
"""Load average above which a section says that the machine was not idle."""


def clock(device: str) -> float:
    """Return the time in seconds once the device has nothing left to do."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    """Return how long one call takes; ``inf`` if the device's memory does not suffice."""
    start = clock(device)
    try:
        call()
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return float("inf")
    return clock(device) - start


def medians(
    calls: dict[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, float]:
    """Return each call's median seconds over ``repeats`` turns, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            taken = seconds(call, device)
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def step_times(
    processors: dict[str, Any],
    *,
    rows: int,
    vocab_size: int,
    repeats: int,
    device: str,
    warm_up: int = 6,
    prompt: int = 8,
    seed: int = 0,
) -> dict[str, float]:
    """Return the median seconds per decoding step of logits processors, which take turns.

    Parameters
    ----------
    processors
        By name, called as ``generate`` calls them: ids ``[rows, L]`` that grow by one token per
        step, and log-probabilities ``[rows, vocab_size]`` float32.
    rows, vocab_size
        Size of a step.
    repeats
        Timed steps.
    device
        Where ids and scores live.
    warm_up
        Steps before the clock starts: unmarked tokens, kernels compiled, caches filled.
    prompt
        Tokens of the prompt.
    seed
        Of ids and scores.

    Returns
    -------
    dict of float
        ``inf`` for a processor whose step did not fit into memory; it is not asked again.
    """
    import torch

    from modicum.core.device import torch_generator

    generator = torch_generator(seed)
    length = prompt + warm_up + repeats
    ids_BL = torch.randint(0, vocab_size, (rows, length), generator=generator).to(device)
    noise_BV = 3 * torch.randn(rows, vocab_size, generator=generator)
    scores_BV = noise_BV.to(device).log_softmax(-1)
    times: dict[str, list[float]] = {name: [] for name in processors}
    for step in range(warm_up + repeats):
        seen_BL = ids_BL[:, : prompt + step]
        for name, processor in processors.items():
            if times[name] and times[name][-1] == float("inf"):
                continue
            times[name].append(seconds(partial(processor, seen_BL, scores_BV), device))
    return {
        name: taken[-1] if taken[-1] == float("inf") else statistics.median(taken[warm_up:])
        for name, taken in times.items()
    }


def decoding_step(model: Any, *, rows: int, cached: int, repeats: int, seed: int = 0) -> float:
    """Return the median seconds of one decoding step of a language model with a cache.

    Parameters
    ----------
    model
        A causal language model of transformers.
    rows, cached
        Sequences of the batch, and tokens in the cache of each.
    repeats
        Timed steps, after one that is not counted.
    seed
        Of the tokens.
    """
    import torch

    from modicum.core.device import torch_generator

    ids_BL = torch.randint(
        0, model.config.vocab_size, (rows, cached + 1), generator=torch_generator(seed)
    ).to(model.device)
    times = []
    with torch.no_grad():
        cache = model(ids_BL[:, :-1], use_cache=True).past_key_values
        for _ in range(repeats + 1):
            start = clock(model.device.type)
            model(ids_BL[:, -1:], past_key_values=cache, use_cache=True)
            times.append(clock(model.device.type) - start)
            cache.crop(-1)
    return statistics.median(times[1:])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|" + " ---: |" * len(header)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def preamble(command: str, how: str) -> list[str]:
    """Return lines with hardware, versions, command and how busy the machine is."""
    hardware = describe_hardware()
    versions = ", ".join(f"{name} {value}" for name, value in hardware["versions"].items())
    gpus = "; ".join(f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in hardware["gpus"])
    load = os.getloadavg()[0]
    busy = f" Load average at the start {load:.1f}: not an idle machine." if load > BUSY else ""
    return [
        f"Hardware: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"GPU: {gpus or 'none'}.{busy}",
        f"Versions: Python {hardware['python']}, {versions}.",
        f"Command: `{command}`; {how}.",
        "",
    ]


def write_section(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between a section's two markers in a page of results.

    Raises
    ------
    ValueError
        If the page has no ``<!-- name:begin -->`` and ``<!-- name:end -->``.
    """
    from modicum.core.experiment import write_atomic

    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(old):
        raise ValueError(f"{page} has no section between {begin} and {end}")
    text = "\n".join([begin, *lines, end])
    write_atomic(page, pattern.sub(lambda _: text, old))
