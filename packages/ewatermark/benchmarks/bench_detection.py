"""Times detection beside the detectors of transformers, in one run, in tokens per second.

One long document and many short ones of random tokens. Reading with the uniform anchor, and
SynthID's scores, do work only for the tokens at hand; an anchor's law and the green lists take work
in proportion to the vocabulary, so these get shorter documents.

    python packages/ewatermark/benchmarks/bench_detection.py

rewrites this device's part of ``RESULTS.md``; ``--dry-run`` uses small sizes and only prints.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from measuring import (
    SEED,
    medians,
    our_configs,
    preamble,
    synthid_processor,
    table,
    write_section,
)
from numpy.typing import NDArray
from transformers.generation.watermarking import WatermarkDetector

from modicum.core.device import resolve_device
from modicum.core.watermark.adapters.peers import kgw_config
from modicum.ewatermark import EWatermarkDetector

VOCABULARIES = (2_048, 32_000)
# (documents, tokens each) of the fast and of the slow readers.
FAST = {"long": (1, 20_000), "short": (200, 100)}
SLOW = {"long": (1, 500), "short": (5, 100)}
DRY = {"long": (1, 200), "short": (2, 100)}


def peers(vocab_size: int, device: str) -> dict[str, Callable[[NDArray[np.int64]], object]]:
    """Return transformers' readers of ``int64[documents, tokens]``."""
    synthid = synthid_processor(device)
    model_config = SimpleNamespace(bos_token_id=-1, is_encoder_decoder=False, vocab_size=vocab_size)

    def green_lists(ids: NDArray[np.int64]) -> object:
        # A new detector each time: it remembers bigrams that it has seen.
        detector = WatermarkDetector(
            model_config, device, kgw_config(), ignore_repeated_ngrams=True
        )
        return detector(torch.from_numpy(ids).to(device))

    def tournament(ids: NDArray[np.int64]) -> object:
        ids_BT = torch.from_numpy(ids).to(device)
        g_values = synthid.compute_g_values(ids_BT)
        mask = synthid.compute_context_repetition_mask(ids_BT)
        return (g_values.float().mean(-1) * mask).sum(-1) / mask.sum(-1)

    return {"KGW detector": green_lists, "SynthID mean score": tournament}


def measure(device: str, dry: bool, repeats: int) -> list[str]:
    rng = np.random.default_rng(SEED)
    rows = []
    for vocab_size in VOCABULARIES[:1] if dry else VOCABULARIES:
        readers: dict[str, Callable[[NDArray[np.int64]], object]] = {
            f"ours, {name}": EWatermarkDetector(config)
            for name, config in our_configs(vocab_size, device).items()
        }
        readers |= peers(vocab_size, device)
        fast = {"ours, uniform", "SynthID mean score"}
        for kind in ("long", "short"):
            calls: dict[str, Callable[[], object]] = {}
            tokens = {}
            for name, reader in readers.items():
                shape = (DRY if dry else FAST if name in fast else SLOW)[kind]
                ids = rng.integers(0, vocab_size, shape)
                calls[name] = partial(reader, ids)
                tokens[name] = ids.size
            rates = {n: tokens[n] / s for n, s in medians(calls, repeats, device).items()}
            for name, rate in rates.items():
                documents, length = (DRY if dry else FAST if name in fast else SLOW)[kind]
                ratio = f"{rate / rates['ours, uniform']:.3g}"
                sizes = f"{documents:,} × {length:,}"
                rows.append([f"{vocab_size:,}", name, sizes, f"{rate:,.0f}", ratio])
                print(rows[-1], flush=True)
    return table(["V", "reader", "documents × tokens", "tokens/s", "of ours, uniform"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="timed readings per cell")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    command = "python packages/ewatermark/benchmarks/bench_detection.py " + shlex.join(
        ["--device", device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
    )
    how = f"median of {options.repeats} readings, readers taking turns"
    lines = [*preamble(command, how), *measure(device, options.dry_run, options.repeats)]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(f"detection {device}", lines)


if __name__ == "__main__":
    main()
