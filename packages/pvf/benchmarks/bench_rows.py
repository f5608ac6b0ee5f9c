"""What rows of one call cost: seconds of a forward by rows, whole canvases and cached windows.

    python packages/pvf/benchmarks/bench_rows.py

builds a model of random weights in the shape of LLaDA-8B on a GPU (a small one on the CPU),
measures T(r) for r = 1 … 8 rows, and what that makes of decodings whose calls were counted: the
same schedule of calls and rows, at these seconds. It rewrites this device's part of ``RESULTS.md``;
``--dry-run`` only prints it, ``--out`` writes the seconds as JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import resolve_device
from modicum.core.kernels.logits_summary import logits_summary
from modicum.pvf.decoder import Rows
from modicum.pvf.integrations.transformers import BidirectionalPredictor

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
ROWS = (1, 2, 3, 4, 6, 8)
CANVAS = 768
WINDOWS = (64, 128)
LLADA_8B = {
    "vocab_size": 126_464,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
}
SMALL = {
    "vocab_size": 8_192,
    "hidden_size": 512,
    "intermediate_size": 1_536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
# Calls of one answer: threshold decoding, and plan-verify-fill with three drafts. Published for
# LLaDA-8B-Instruct, 512 tokens in blocks of 64.
PUBLISHED = {"GSM8K": (89.77, 31.34), "HumanEval": (124.26, 70.31), "MATH": (147.16, 73.56)}


def predictor(device: torch.device) -> tuple[BidirectionalPredictor, str]:
    """Give a model of random weights, made on the device, and its name."""
    from transformers import LlamaConfig, LlamaForCausalLM

    on_gpu = device.type == "cuda"
    shape: dict[str, Any] = LLADA_8B if on_gpu else SMALL
    config = LlamaConfig(**shape, max_position_embeddings=4096, attn_implementation="sdpa")
    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if on_gpu else torch.float32)
    try:
        with device:
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    name = "the shape of LLaDA-8B, bfloat16" if on_gpu else "8 layers of 512, float32"
    last = shape["vocab_size"] - 1
    return BidirectionalPredictor(model, mask_id=last, eos_id=last - 1), name


def rows_of(model: BidirectionalPredictor, count: int, width: int) -> Rows:
    """Give rows of one sequence: a prompt, and a window of masks in the middle of the canvas."""
    generator = torch.Generator().manual_seed(SEED)
    ids_L = torch.randint(0, model.vocab_size - 2, (CANVAS,), generator=generator)
    start = CANVAS // 2
    ids_L[start : start + width : 2] = model.mask_id
    ids_TL = ids_L.repeat(count, 1).to(model.device)
    zeros_T = torch.zeros(count, dtype=torch.int64, device=model.device)
    columns_H = torch.arange(start, start + width, device=model.device)
    return Rows(ids_TL, None, columns_H.repeat(count, 1), zeros_T, zeros_T, zeros_T)


@torch.inference_mode()
def seconds_by_rows(model: BidirectionalPredictor, repeats: int) -> dict[str, dict[int, float]]:
    """Measure a call of r rows with its statistics, whole canvases and cached windows."""
    found: dict[str, dict[int, float]] = {}
    device = str(model.device)

    def whole(rows: Rows) -> Any:
        return logits_summary(model.forward(rows.ids, None, rows.positions))

    given = {count: rows_of(model, count, WINDOWS[0]) for count in ROWS}
    calls = {str(count): lambda rows=rows: whole(rows) for count, rows in given.items()}
    found["whole"] = {int(k): v for k, v in medians(calls, repeats, device).items()}
    for width in WINDOWS:
        forward = model.cached("dual")
        given = {count: rows_of(model, count, width) for count in ROWS}
        forward(given[1])
        calls = {
            str(count): lambda rows=rows, forward=forward: logits_summary(forward(rows)[0])
            for count, rows in given.items()
        }
        found[f"dual {width}"] = {int(k): v for k, v in medians(calls, repeats, device).items()}
    return found


def lines_of(found: dict[str, dict[int, float]], name: str, command: str, how: str) -> list[str]:
    """Make the section of the page."""
    kinds = {"whole": f"all {CANVAS} columns"}
    kinds |= {f"dual {width}": f"dual cache, {width} columns" for width in WINDOWS}
    header = ["call", *(f"{count} rows, ms" for count in ROWS), "T(4) / T(1)"]
    rows = [
        [
            kinds[kind],
            *(f"{1e3 * times[count]:.3g}" for count in ROWS),
            f"{times[4] / times[1]:.2f}",
        ]
        for kind, times in found.items()
    ]
    lines = [*preamble(command, how), "", f"A model in {name}.", "", *table(header, rows)]
    replay = [
        [
            kinds[kind],
            task,
            f"{slow * times[1]:.3g}",
            f"{fast * times[4]:.3g}",
            f"{slow * times[1] / (fast * times[4]):.2f}",
            f"{slow / fast:.2f}",
        ]
        for kind, times in found.items()
        for task, (slow, fast) in PUBLISHED.items()
    ]
    head = [
        "call",
        "published calls of",
        "threshold, s",
        "plan-verify-fill, s",
        "ratio",
        "break-even T(4) / T(1)",
    ]
    note = (
        "Published numbers of calls for LLaDA-8B-Instruct (512 tokens, blocks of 64), each call of "
        "plan-verify-fill with four rows, at the seconds above; a ratio above 1 means that "
        "plan-verify-fill is faster."
    )
    return [*lines, "", note, "", *table(head, replay)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--dry-run", action="store_true", help="only print")
    parser.add_argument("--out", type=Path, help="write the seconds as JSON and no page")
    parser.add_argument("--page", type=Path, help="make the section of such a JSON file")
    options = parser.parse_args()
    if options.page is not None:
        kept = json.loads(options.page.read_text())
        found = {kind: {int(k): v for k, v in times.items()} for kind, times in kept["s"].items()}
        write_section(RESULTS, "rows cuda", kept["lines"] or lines_of(found, kept["model"], "", ""))
        return
    device = torch.device(resolve_device(options.device))
    model, name = predictor(device)
    found = seconds_by_rows(model, options.repeats)
    command = f"python {' '.join(shlex.quote(word) for word in sys.argv)}"
    how = f"medians of {options.repeats} calls, sizes taking turns"
    lines = lines_of(found, name, command, how)
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text(json.dumps({"model": name, "s": found, "lines": lines}))
    elif not options.dry_run:
        write_section(RESULTS, f"rows {device.type}", lines)


if __name__ == "__main__":
    main()
