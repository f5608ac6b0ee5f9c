"""Times ``logits_summary`` beside the torch calls that it replaces, in one run, and records it.

Three peers compute maximum, arg-max, margin, log-normaliser and entropy for finite logits: separate
float32 calls (``max``, ``topk(2)``, ``logsumexp``, ``softmax``), the same through
``torch.compile``, and a float64 softmax (without log-normaliser). On CUDA the kernel's share of the
copy bandwidth measured in the same run is given too.

    python shared/core/benchmarks/bench_logits_summary.py

rewrites this device's part of ``RESULTS.md``; ``--dry-run`` only prints it.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from modicum.core.device import describe_hardware, resolve_device, torch_generator
from modicum.core.kernels.logits_summary import logits_summary

# Shape suffixes: N rows, V vocabulary.

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
# (rows, vocabulary): one decoding step, a small batch, blocks of a diffusion language model.
CPU_SHAPES = [(1, 32_000), (1, 152_064), (64, 32_000), (64, 126_464)]
CUDA_SHAPES = [(1, 128_256), (64, 126_464), (512, 126_464), (512, 152_064), (4096, 32_000)]
DTYPES = [torch.bfloat16, torch.float32]
COPY_BYTES = 1 << 30


def separate_calls(logits_NV: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logits_NV = logits_NV.float()
    max_N, argmax_N = logits_NV.max(-1)
    top_two = logits_NV.topk(2, dim=-1).values
    log_sum_exp_N = logits_NV.logsumexp(-1)
    probabilities_NV = logits_NV.softmax(-1)
    entropy_N = log_sum_exp_N - (probabilities_NV * logits_NV).sum(-1)
    return max_N, argmax_N, top_two[:, 0] - top_two[:, 1], log_sum_exp_N, entropy_N


def double_softmax(logits_NV: torch.Tensor) -> tuple[torch.Tensor, ...]:
    probabilities_NV = logits_NV.double().softmax(-1)
    top_two = probabilities_NV.topk(2, dim=-1)
    entropy_N = torch.special.entr(probabilities_NV).sum(-1)
    return top_two.values[:, 0], top_two.indices[:, 0], entropy_N


def seconds_on_cpu(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return each call's fastest time; they take turns, so that other load hits all alike."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def seconds_on_cuda(call: Callable[[], object], repeats: int) -> float:
    """Return a call's median time between events, with the L2 cache overwritten before each."""
    flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def in_a_graph(call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that replays what ``call`` launches, without the host's share of the time."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def copy_bandwidth() -> float:
    """Return bytes read plus bytes written per second by a large device-to-device copy."""
    source = torch.empty(COPY_BYTES, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / seconds_on_cuda(lambda: target.copy_(source), 20)


def measure(device: str, repeats: int) -> list[str]:
    cuda = device == "cuda"
    bandwidth = copy_bandwidth() if cuda else None
    names = ["logits_summary", "separate float32", "torch.compile", "float64 softmax"]
    header = ["rows", "vocabulary", "dtype", *(f"{name} (ms)" for name in names)]
    header += ["separate / ours", "compiled / ours"]
    if bandwidth is not None:
        header += ["GB/s", "share of copy"]
    lines = [f"| {' | '.join(header)} |", "|" + " ---: |" * len(header)]
    for rows, vocabulary in CUDA_SHAPES if cuda else CPU_SHAPES:
        for dtype in DTYPES:
            noise = torch.randn(rows, vocabulary, generator=torch_generator(SEED))
            logits_NV = (3 * noise).to(device, dtype)
            # Compiled afresh for every shape: recompilations of one function are limited.
            torch.compiler.reset()
            compiled = torch.compile(separate_calls, dynamic=False)
            functions = (logits_summary, separate_calls, compiled, double_softmax)
            calls: list[Callable[[], object]] = [partial(f, logits_NV) for f in functions]
            if cuda:
                seconds = [seconds_on_cuda(in_a_graph(call), repeats) for call in calls]
            else:
                seconds = seconds_on_cpu(calls, repeats)
            ours, separate, fused_by_compiler, _ = seconds
            cells = [str(rows), f"{vocabulary:,}", str(dtype).removeprefix("torch.")]
            cells += [f"{1e3 * value:.3g}" for value in seconds]
            cells += [f"{separate / ours:.2f}", f"{fused_by_compiler / ours:.2f}"]
            if bandwidth is not None:
                rate = logits_NV.numel() * logits_NV.element_size() / ours
                cells += [f"{rate / 1e9:.0f}", f"{rate / bandwidth:.0%}"]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if bandwidth is not None:
        lines += ["", f"Copy (read plus write) in the same run: {bandwidth / 1e9:.0f} GB/s."]
    return lines


def section(device: str, repeats: int, command: str) -> str:
    hardware = describe_hardware()
    versions = ", ".join(f"{name} {value}" for name, value in hardware["versions"].items())
    gpus = "; ".join(f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in hardware["gpus"])
    how = (
        f"median of {repeats} CUDA-graph replays, L2 overwritten before each"
        if device == "cuda"
        else f"fastest of {repeats} calls, functions taking turns"
    )
    lines = [
        f"Hardware: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"GPU: {gpus or 'none'}; {torch.get_num_threads()} torch threads.",
        f"Versions: Python {hardware['python']}, {versions}.",
        f"Command: `{command}`; {how}; logits 3·N(0, 1), seed {SEED}.",
        "",
        *measure(device, repeats),
    ]
    return "\n".join(lines)


def write_section(name: str, text: str) -> None:
    """Replace what stands between the section's two markers in the results file."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = RESULTS.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{RESULTS} has no section between {begin} and {end}")
    RESULTS.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls per cell")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="print, and leave RESULTS.md alone")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    command = "python shared/core/benchmarks/bench_logits_summary.py " + shlex.join(
        ["--device", device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
    )
    text = section(device, options.repeats, command)
    print(text)
    if not options.dry_run:
        write_section(f"logits_summary {device}", text)


if __name__ == "__main__":
    main()
