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

import numpy as np
import torch
from measuring import RESULTS, SEED, our_configs
from numpy.typing import NDArray

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import resolve_device
from modicum.core.watermark.adapters.peers import kgw_reader, synthid_reader
from modicum.ewatermark import EWatermarkDetector

VOCABULARIES = (2_048, 32_000)
# (documents, tokens each) of the fast and of the slow readers.
FAST = {"long": (1, 20_000), "short": (200, 100)}
SLOW = {"long": (1, 500), "short": (5, 100)}
DRY = {"long": (1, 200), "short": (2, 100)}


def measure(device: str, dry: bool, repeats: int) -> list[str]:
    rng = np.random.default_rng(SEED)
    rows = []
    for vocab_size in VOCABULARIES[:1] if dry else VOCABULARIES:
        readers: dict[str, Callable[[NDArray[np.int64]], object]] = {
            f"ours, {name}": EWatermarkDetector(config)
            for name, config in our_configs(vocab_size, device).items()
        }
        readers["KGW detector"] = kgw_reader(vocab_size, device)
        readers["SynthID mean score"] = synthid_reader(device)
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
    how = f"median of {options.repeats} readings, readers taking turns; seed {SEED}"
    lines = [*preamble(command, how), *measure(device, options.dry_run, options.repeats)]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, f"detection {device}", lines)


if __name__ == "__main__":
    main()
