"""Times detection beside the detectors of transformers, in one run, in tokens per second.

One long document and many short ones of random tokens. Reading pivots, and SynthID's scores, do
work only for the tokens at hand; a match needs the surrogate's whole law and green lists a
permutation of the vocabulary, so these get shorter documents. Surrogates are an n-gram table (a law
that costs little) and log-probabilities that an engine already gave.

    python packages/umpwatermark/benchmarks/bench_detection.py

rewrites this device's part of ``RESULTS.md``; ``--dry-run`` uses small sizes and only prints.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measuring import KEY, RESULTS, SEED
from numpy.typing import NDArray

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import resolve_device
from modicum.core.watermark import NGramAnchor
from modicum.core.watermark.adapters.peers import kgw_reader, synthid_reader
from modicum.umpwatermark import UMPWatermarkConfig, UMPWatermarkDetector

VOCABULARIES = (2_048, 32_000)
# (documents, tokens each) of the fast and of the slow readers.
FAST = {"long": (1, 20_000), "short": (200, 100)}
MIDDLE = {"long": (1, 4_000), "short": (40, 100)}
SLOW = {"long": (1, 500), "short": (5, 100)}
DRY = {"long": (1, 200), "short": (2, 100)}
SIZES = {
    "ours, sum": FAST,
    "ours, log-probabilities": MIDDLE,
    "ours, combined": SLOW,
    "KGW detector": SLOW,
    "SynthID mean score": FAST,
}


def readers(vocab_size: int, device: str) -> dict[str, Callable[[NDArray[np.int64]], object]]:
    """Return every reader as a function of ids ``[documents, tokens]``."""
    rng = np.random.default_rng(SEED)
    config = UMPWatermarkConfig(key=KEY, vocab_size=vocab_size)
    n_gram = NGramAnchor(vocab_size).fit([rng.zipf(1.3, 200_000) % vocab_size])
    plain = UMPWatermarkDetector(config)
    combined = UMPWatermarkDetector(config, surrogate=n_gram)

    def log_probs(ids: NDArray[np.int64]) -> object:
        return plain.detect_logprobs(ids, -np.random.default_rng(SEED).exponential(1.0, ids.shape))

    return {
        "ours, sum": plain,
        "ours, log-probabilities": log_probs,
        "ours, combined": combined,
        "KGW detector": kgw_reader(vocab_size, device),
        "SynthID mean score": synthid_reader(device),
    }


def measure(device: str, dry: bool, repeats: int) -> list[str]:
    rng = np.random.default_rng(SEED)
    rows = []
    for vocab_size in VOCABULARIES[:1] if dry else VOCABULARIES:
        reading = readers(vocab_size, device)
        for kind in ("long", "short"):
            calls: dict[str, Callable[[], object]] = {}
            shapes = {name: (DRY if dry else SIZES[name])[kind] for name in reading}
            for name, reader in reading.items():
                calls[name] = partial(reader, rng.integers(0, vocab_size, shapes[name]))
            times = medians(calls, repeats, device)
            rates = {n: shapes[n][0] * shapes[n][1] / taken for n, taken in times.items()}
            for name, rate in rates.items():
                ratio = f"{rate / rates['ours, sum']:.3g}"
                sizes = f"{shapes[name][0]:,} × {shapes[name][1]:,}"
                rows.append([f"{vocab_size:,}", name, sizes, f"{rate:,.0f}", ratio])
                print(rows[-1], flush=True)
    return table(["V", "reader", "documents × tokens", "tokens/s", "of ours, sum"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="timed readings per cell")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    command = "python packages/umpwatermark/benchmarks/bench_detection.py " + shlex.join(
        ["--device", device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
    )
    how = f"median of {options.repeats} readings, readers taking turns; seed {SEED}"
    lines = [*preamble(command, how), *measure(device, options.dry_run, options.repeats)]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, f"detection {device}", lines)


if __name__ == "__main__":
    main()
