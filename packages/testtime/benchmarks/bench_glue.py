"""Times a glued transformer in its two modes, beside the expert alone.

For several numbers of experts: one forward pass over streams of four turns, dense, routed and, for
scale, the experts alone on the same turns; the next token of a turn under way, which is what
generation pays; the build. Experts are TinyGPTs with random weights. Whoever is compared takes
turns.

    python packages/testtime/benchmarks/bench_glue.py

rewrites this device's part of ``RESULTS.md``; ``--dry-run`` uses small sizes and only prints.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modicum.core.benchmark import clock, medians, preamble, table, write_section
from modicum.core.device import numpy_generator, resolve_device
from modicum.testtime.construct import GluedTransformer, glue
from modicum.testtime.tinygpt import TinyGPT, TinyGPTConfig

# Shape suffixes: B streams, N tokens, M tokens that one expert sees.

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
TURNS, PROMPT, RESPONSE = 4, 16, 15
WORDS = 64
SIZES = {
    # experts, width, streams
    "cpu": [(2, 64, 8), (4, 64, 8), (8, 64, 8), (16, 64, 8), (4, 128, 8), (4, 256, 8)],
    "cuda": [(2, 64, 64), (4, 64, 64), (8, 64, 64), (16, 64, 64), (4, 256, 64), (4, 768, 64)],
    "dry": [(2, 16, 2), (3, 16, 2)],
}


def streams(model: GluedTransformer, count: int) -> torch.Tensor:
    """Return streams of one form: expert t answers in turn t."""
    rng, layout = numpy_generator(SEED, "streams"), model.layout
    parts = [np.full((count, 1), layout.sink), rng.integers(0, WORDS, (count, PROMPT))]
    for turn in range(TURNS):
        parts += [
            np.full((count, 1), layout.action(turn % layout.num_experts)),
            rng.integers(0, WORDS, (count, RESPONSE)),
            np.full((count, 1), layout.feedback(0)),
        ]
    return torch.from_numpy(np.concatenate(parts, axis=1))


def cell(num_experts: int, width: int, count: int, repeats: int, device: str) -> list[str]:
    config = TinyGPTConfig(WORDS, PROMPT + RESPONSE + 1, n_embd=width, n_layer=2, n_head=4)
    experts = [TinyGPT(config, seed=seed).eval().to(device) for seed in range(num_experts)]
    start = clock(device)
    model = glue(experts, TURNS, "ucb1", end_of_input=WORDS - 1, device=device)
    build = clock(device) - start
    ids_BN = streams(model, count).to(device)
    # Up to the last word of the last turn: the next token is the turn's.
    going_BN = ids_BN[:, :-2]
    end_B1 = ids_BN.new_full((count, 1), WORDS - 1)
    turns_BM = [
        torch.cat([ids_BN[:, 1 : 1 + PROMPT], end_B1, ids_BN[:, start : start + RESPONSE]], dim=1)
        for start in range(2 + PROMPT, ids_BN.shape[1], RESPONSE + 2)
    ]

    def alone() -> None:
        for turn, turn_BM in enumerate(turns_BM):
            experts[turn % num_experts](turn_BM)

    def in_mode(mode: Any, call: Callable[[], object]) -> Callable[[], object]:
        def timed() -> object:
            model.mode = mode
            return call()

        return timed

    with torch.no_grad():
        worst = float((in_mode("dense", lambda: model(ids_BN))()  # type: ignore[operator]
                       - in_mode("routed", lambda: model(ids_BN))()).abs().max())  # fmt: skip
        times = medians(
            {
                "dense": in_mode("dense", lambda: model(ids_BN)),
                "routed": in_mode("routed", lambda: model(ids_BN)),
                "alone": alone,
                "dense next": in_mode("dense", lambda: model.next_logits(going_BN)),
                "routed next": in_mode("routed", lambda: model.next_logits(going_BN)),
            },
            repeats,
            device,
        )
    weights = sum(parameter.numel() for parameter in model.parameters())
    own = sum(parameter.numel() for expert in experts for parameter in expert.parameters())
    return [
        str(num_experts),
        str(width),
        f"{model.width:,}",
        f"{weights / own:.1f}",
        f"{build:.2f}",
        *(f"{1e3 * times[name]:.3g}" for name in ("dense", "routed", "alone")),
        f"{times['dense'] / times['routed']:.1f}",
        *(f"{1e3 * times[name]:.3g}" for name in ("dense next", "routed next")),
        f"{times['dense next'] / times['routed next']:.1f}",
        f"{worst:.1g}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls per cell")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    command = "python packages/testtime/benchmarks/bench_glue.py " + shlex.join(
        ["--device", device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
    )
    sizes = SIZES["dry" if options.dry_run else device]
    how = (
        f"median of {options.repeats} calls after one, taking turns; experts of 2 layers and 4 "
        f"heads, {sizes[0][2]} streams of {TURNS} turns with {PROMPT} words of prompt and "
        f"{RESPONSE} of response each; float32; seed {SEED}"
    )
    rows = []
    for num_experts, width, count in sizes:
        rows.append(cell(num_experts, width, count, options.repeats, device))
        print(rows[-1], flush=True)
    header = ["experts", "width of one", "width glued", "weights, of the experts'", "build (s)"]
    header += ["dense (ms)", "routed (ms)", "experts alone (ms)", "dense / routed"]
    header += ["dense next (ms)", "routed next (ms)", "dense / routed, next", "largest difference"]
    lines = [*preamble(command, how), *table(header, rows)]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, "glue" if device == "cpu" else f"glue {device}", lines)


if __name__ == "__main__":
    main()
