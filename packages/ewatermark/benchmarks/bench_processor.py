"""Times one decoding step of our logits processor beside those of transformers, in one run.

Every processor is driven as `generate` drives it: called once per step with ids that grow by one
token per row. On CUDA our time is also set against the forward pass of a one-billion-parameter
Llama with random weights.

    python packages/ewatermark/benchmarks/bench_processor.py

rewrites this device's part of ``RESULTS.md``; ``--dry-run`` uses small sizes and only prints.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import torch
from measuring import RESULTS, SEED, our_configs
from transformers import LlamaConfig, LlamaForCausalLM

from modicum.core.benchmark import decoding_step, preamble, step_times, table, write_section
from modicum.core.device import resolve_device
from modicum.core.watermark.adapters.peers import kgw_processor, synthid_processor
from modicum.ewatermark.integrations.transformers import EWatermarkLogitsProcessor

# Shape suffixes: B rows, L tokens so far, V vocabulary.

WARM_UP = 6
"""Steps before the clock starts: our four tokens of warm-up, kernels compiled, caches filled."""

SIZES = {
    "cpu": ((1, 8), (32_000, 128_256)),
    "cuda": ((1, 64, 256), (32_000, 128_256)),
    "dry": ((1, 2), (2_048,)),
}
TARGET_SHARE = 0.05
CACHED_TOKENS = 256
# The shape of a one-billion-parameter Llama: 1.24e9 parameters with tied embeddings.
BILLION = dict(
    vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
    num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
)  # fmt: skip
SMALL = dict(
    vocab_size=2_048, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip


def cell(value: float) -> str:
    return "out of memory" if value == float("inf") else f"{1e3 * value:.3g}"


def measure(device: str, sizes: str, repeats: int) -> list[str]:
    all_rows, vocabularies = SIZES[sizes]
    header: list[str] = []
    rows = []
    for vocab_size in vocabularies:
        configs = our_configs(vocab_size, device)
        for count in all_rows:
            processors: dict[str, Any] = {
                f"ours, {name}": EWatermarkLogitsProcessor(config)
                for name, config in configs.items()
            }
            processors["KGW"] = kgw_processor(vocab_size, device)
            processors["SynthID"] = synthid_processor(device)
            times = step_times(
                processors,
                rows=count,
                vocab_size=vocab_size,
                repeats=repeats,
                device=device,
                warm_up=WARM_UP,
            )
            ours = times["ours, uniform"]
            header = ["B", "V", *(f"{name} (ms)" for name in times)]
            header += ["KGW / ours, uniform", "SynthID / ours, uniform"]
            ratios = [f"{times[name] / ours:.2f}" for name in ("KGW", "SynthID")]
            rows.append([str(count), f"{vocab_size:,}", *map(cell, times.values()), *ratios])
            print(rows[-1], flush=True)
    return table(header, rows)


def share_of_a_step(device: str, shape: dict[str, Any], repeats: int, all_rows: Any) -> list[str]:
    """Return our processor's time as a share of a model's decoding step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = LlamaForCausalLM(LlamaConfig(**shape)).to(device, dtype).eval()
    vocab_size = shape["vocab_size"]
    config = our_configs(vocab_size, device)["uniform"]
    rows = []
    for count in all_rows:
        step = decoding_step(model, rows=count, cached=CACHED_TOKENS, repeats=repeats, seed=SEED)
        processors = {"ours": EWatermarkLogitsProcessor(config)}
        ours = step_times(
            processors,
            rows=count,
            vocab_size=vocab_size,
            repeats=repeats,
            device=device,
            warm_up=WARM_UP,
        )["ours"]
        verdict = "yes" if ours / step < TARGET_SHARE else "no"
        rows.append([str(count), cell(step), cell(ours), f"{ours / step:.1%}", verdict])
        print(rows[-1], flush=True)
    header = ["B", "model step (ms)", "ours, uniform (ms)", "share", f"below {TARGET_SHARE:.0%}"]
    parameters = sum(p.numel() for p in model.parameters())
    title = (
        f"One decoding step of a Llama with {parameters:,} random parameters, "
        f"{CACHED_TOKENS} tokens in the cache:"
    )
    return [title, "", *table(header, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps per cell")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    command = "python packages/ewatermark/benchmarks/bench_processor.py " + shlex.join(
        ["--device", device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
    )
    how = f"median of {options.repeats} steps after {WARM_UP}, processors taking turns; seed {SEED}"
    sizes = "dry" if options.dry_run else device
    lines = [*preamble(command, how), *measure(device, sizes, options.repeats), ""]
    if device == "cuda" or options.dry_run:
        shape = SMALL if options.dry_run else BILLION
        lines += share_of_a_step(device, shape, options.repeats, SIZES[sizes][0])
    else:
        lines += ["Share of a decoding step of a 1B model: not measured: no GPU at hand."]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, f"processor {device}", lines)


if __name__ == "__main__":
    main()
