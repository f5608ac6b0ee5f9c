"""Error rates of phones and of features beside jiwer and panphon: equal values, and the time taken.

Random corpora: references of English phones, hypotheses with a fifth of them wrong. jiwer counts
word errors, where a phone is a word; panphon takes its feature edit distance, segment by segment in
Python. What is imported is timed in processes of their own. Seconds are those of the processor.

    python packages/huper/benchmarks/bench_metrics.py

rewrites its part of ``RESULTS.md`` in about two minutes; ``--quick`` takes some seconds and only
prints.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modicum.core.benchmark import preamble, table, write_section
from modicum.core.device import one_thread
from modicum.huper import metrics
from modicum.huper.phones import ARPABET39, arpabet_to_ipa

RESULTS = Path(__file__).with_name("RESULTS.md")
WRONG = 0.2
"""Share of the phones that are substituted, deleted or have one inserted behind them."""
APART = 1e-9
"""Largest difference of values that counts as none."""


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    sizes: tuple[int, ...]
    length: int
    repeats: int
    imports: int


FULL = Plan((100, 1000), 40, 3, 3)
QUICK = Plan((20,), 10, 1, 1)

Rows = list[list[str]]


def corpus(count: int, length: int) -> tuple[Rows, Rows]:
    """Draw hypotheses and references."""
    rng = np.random.default_rng([count, length])
    hyps, refs = [], []
    for _ in range(count):
        ref = rng.choice(ARPABET39, int(rng.integers(length // 2, length * 3 // 2))).tolist()
        hyp: list[str] = []
        for phone in ref:
            kind = rng.integers(3) if rng.random() < WRONG else -1
            if kind != 1:
                hyp.append(str(rng.choice(ARPABET39)) if kind == 0 else phone)
            if kind == 2:
                hyp.append(str(rng.choice(ARPABET39)))
        hyps.append(hyp)
        refs.append(ref)
    return hyps, refs


def ways_to_count(hyps: Rows, refs: Rows) -> dict[str, Callable[[], float]]:
    """Return ways to take the phone error rate."""
    import jiwer

    spelled = [" ".join(row) for row in refs], [" ".join(row) for row in hyps]
    return {
        "metrics.per": lambda: metrics.per(hyps, refs),
        "jiwer.wer": lambda: float(jiwer.wer(*spelled)),
    }


def ways_by_features(hyps: Rows, refs: Rows) -> dict[str, Callable[[], float]]:
    """Return ways to take the feature error rate."""
    from panphon.distance import Distance

    distance = Distance()
    said = [arpabet_to_ipa(row) for row in refs]
    heard = [arpabet_to_ipa(row) for row in hyps]
    # panphon splits strings into segments itself.
    pairs = [("".join(one), "".join(two)) for one, two in zip(heard, said, strict=True)]
    segments = sum(map(len, said))

    def by_panphon() -> float:
        return float(sum(distance.feature_edit_distance(*pair) for pair in pairs) / segments)

    return {"metrics.pfer": lambda: metrics.pfer(hyps, refs), "panphon": by_panphon}


def processor_medians(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Return each call's median seconds of the processor over turns, after one not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def import_seconds(statement: str, repeats: int) -> float:
    """Return the median seconds of the processor that a statement takes in a fresh process."""
    code = (
        f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    )
    return statistics.median(
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(repeats)
    )


def sections(plan: Plan) -> list[str]:
    """Measure; gives the lines of the section after its preamble."""
    rows: list[list[str]] = []
    losses: list[str] = []
    for size in plan.sizes:
        hyps, refs = corpus(size, plan.length)
        for ways in (ways_to_count(hyps, refs), ways_by_features(hyps, refs)):
            values = {name: call() for name, call in ways.items()}
            ours, peer = ways
            apart = abs(values[ours] - values[peer])
            if not apart <= APART or math.isnan(apart):
                raise RuntimeError(f"{ours} gives {values[ours]} and {peer} {values[peer]}")
            taken = processor_medians(ways, plan.repeats)
            factor = taken[peer] / taken[ours]
            rows.append(
                [
                    f"{size:,}",
                    ours,
                    f"{100 * values[ours]:.2f} %",
                    f"{taken[ours]:.3g}",
                    peer,
                    f"{taken[peer]:.3g}",
                    f"{factor:.3g}",
                    f"{apart:.0e}",
                ]
            )
            if factor < 1:
                losses.append(f"{ours} takes {1 / factor:.1f} times as long as {peer} on {size:,}")
    statements = {
        "modicum.huper.metrics": "import modicum.huper.metrics",
        "the same, and its table of features": (
            "from modicum.huper.features import feature_table; import modicum.huper.metrics; "
            "feature_table()"
        ),
        "jiwer": "import jiwer",
        "panphon, and its table": "import panphon; panphon.FeatureTable()",
    }
    imports = {name: import_seconds(code, plan.imports) for name, code in statements.items()}
    if imports["modicum.huper.metrics"] > imports["jiwer"]:
        losses.append(
            f"importing takes {imports['modicum.huper.metrics']:.1f} s and jiwer's "
            f"{imports['jiwer']:.1f} s"
        )
    return [
        f"**Error rates** of random corpora, {plan.length} phones on average, {WRONG:.0%} of them "
        "wrong:",
        "",
        *table(
            ["utterances", "here", "value", "seconds", "peer", "its seconds", "times", "apart"],
            rows,
        ),
        "",
        "**Imports**, seconds in a fresh process:",
        "",
        *table(["what", "seconds"], [[name, f"{value:.2f}"] for name, value in imports.items()]),
        "",
        f"Losses: {'; '.join(losses) or 'none'}. jiwer's time holds the splitting of its strings; "
        "`metrics.per` also finds which phones are confused.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; only print")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    script = "packages/huper/benchmarks/bench_metrics.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    how = f"medians of {plan.repeats} turns, seconds of the processor"
    with one_thread():
        lines = [*preamble(command, how), *sections(plan)]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, "metrics", lines)


if __name__ == "__main__":
    main()
