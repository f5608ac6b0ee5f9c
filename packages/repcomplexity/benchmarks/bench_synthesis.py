"""The fewest two-input gates of small functions by this package and by cirbo: sizes and seconds.

All functions of 3 inputs, and random ones of 4. Both use PySAT's CaDiCaL and look for 1, 2, … gates
from the number of inputs that the function depends on less one. cirbo is asked as its documentation
shows, with all two-input gates, and again for gates that are 0 where both inputs are: a function or
its negation has a circuit of those with as few gates, and there are half as many gates to try. What
needs no gate is not asked. Each function is put to all in turn; checks of the circuits count.

    python packages/repcomplexity/benchmarks/bench_synthesis.py

rewrites its part of ``RESULTS.md`` in less than five minutes; ``--quick`` takes a second and only
prints.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from modicum.core.benchmark import preamble, table, write_section
from modicum.core.device import numpy_generator
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.circuits.synthesis import min_circuit

RESULTS = Path(__file__).with_name("RESULTS.md")
OURS, THEIRS, NORMAL = "modicum, min_circuit", "cirbo", "cirbo, normal gates only"
FUNCTIONS_OF_3 = 256
RANDOM = 50
LIMIT = 40.0
"""Seconds that a program has for a function of 4 inputs."""
BUDGET = 90.0
"""Seconds after which a program is not asked about the remaining functions."""
PARITY_OF_4 = 0x6996
"""Code of a function of 4 inputs that is decided quickly."""


@dataclass
class Answers:
    """What one program said of the first functions: the fewest gates, None where time ran out."""

    sizes: list[int | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def ours(function: TruthTable) -> int | None:
    """Ask this package."""
    found = min_circuit(function, "B2", time_limit=LIMIT)
    if not np.array_equal(found.circuit.truth_values()[:, 0], function.values):
        raise SystemExit(f"the circuit of {function!r} is wrong")
    return found.upper if found.proved else None


def theirs(function: TruthTable, normal: bool) -> int:
    """Ask cirbo for one gate more until it finds a circuit."""
    from cirbo.core.truth_table import TruthTableModel
    from cirbo.synthesis.circuit_search import CircuitFinderSat
    from cirbo.synthesis.exception import NoSolutionError

    values = function.values
    if normal and values[0]:
        values = ~values
    # Their rows have the first input as the highest bit.
    rows = values.reshape((2,) * function.n_inputs).T.reshape(-1).tolist()
    gates = max(len(function.support()) - 1, 1)
    while True:
        model = TruthTableModel([rows])
        finder = CircuitFinderSat(model, gates, basis="FULL", need_normalized=normal)
        try:
            circuit = finder.find_circuit()
        except NoSolutionError:
            gates += 1
            continue
        if circuit.get_truth_table() != [rows]:
            raise SystemExit(f"cirbo's circuit of {function!r} is wrong")
        return gates


Program = Callable[[TruthTable], int | None]


def timed(program: Program, function: TruthTable) -> tuple[int | None, float]:
    start = time.perf_counter()
    size = program(function)
    return size, time.perf_counter() - start


def limited(program: Program, function: TruthTable) -> tuple[int | None, float]:
    """Run a program in a process of its own, ended after `LIMIT`; the start is not counted."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(timed(program, function)))
    process.start()
    # Closed here, so that the end of the process is seen.
    sender.close()
    try:
        return receiver.recv() if receiver.poll(LIMIT) else (None, LIMIT)
    finally:
        process.kill()
        process.join()


def compare(functions: Sequence[TruthTable], *, limit: bool) -> dict[str, Answers]:
    """Put every function to all in turn."""
    programs: dict[str, Program] = {
        OURS: ours,
        THEIRS: lambda function: theirs(function, False),
        NORMAL: lambda function: theirs(function, True),
    }
    found = {name: Answers() for name in programs}
    # What is loaded at the first call is not counted.
    for program in programs.values():
        program(TruthTable.from_int(PARITY_OF_4, 4))
    for function in functions:
        for name, program in programs.items():
            if sum(found[name].seconds) > BUDGET:
                continue
            size, seconds = (limited if limit else timed)(program, function)
            found[name].sizes.append(size)
            found[name].seconds.append(seconds)
    return found


def needs_gates(function: TruthTable) -> bool:
    """Tell whether the function is neither constant nor an input or its negation."""
    return len(function.support()) > 1


def row_of(name: str, answers: Answers, reference: Answers) -> list[str]:
    """Give what a program said beside what this package said of the same functions."""
    asked = len(answers.sizes)
    pairs = list(zip(answers.sizes, reference.sizes, strict=False))
    ratios = np.array(answers.seconds) / np.array(reference.seconds[:asked])
    total = sum(answers.seconds)
    return [
        name,
        str(asked),
        str(sum(size is not None for size in answers.sizes)),
        str(sum(a is not None and a == b for a, b in pairs)),
        f"{total:.2f}",
        f"{np.median(answers.seconds):.3g}",
        f"{max(answers.seconds):.3g}",
        f"{total / sum(reference.seconds[:asked]):.1f}",
        f"{np.exp(np.log(ratios).mean()):.1f}",
    ]


HEADER = ("program", "asked", "decided", "same size", "seconds", "median", "longest")
HEADER += ("times ours", "geometric mean of times")


def lines_of(title: str, found: dict[str, Answers]) -> list[str]:
    """Give the table of one set of functions, and what it says."""
    reference = found[OURS]
    counts = Counter("undecided" if size is None else str(size) for size in reference.sizes)
    spread = ", ".join(f"{count} of {size}" for size, count in sorted(counts.items()))
    peers = {name: answers for name, answers in found.items() if name != OURS}
    others = [
        f"{name}: {ours} gates here, {theirs} there"
        for name, answers in peers.items()
        for theirs, ours in zip(answers.sizes, reference.sizes, strict=False)
        if None not in (theirs, ours) and theirs != ours
    ]
    faster = [
        f"{sum(a < b for a, b in zip(answers.seconds, reference.seconds, strict=False))} of "
        f"{len(answers.seconds)} ({name})"
        for name, answers in peers.items()
    ]
    return [
        f"**{title}**; functions by their fewest gates: {spread}.",
        "",
        *table(HEADER, [row_of(name, answers, reference) for name, answers in found.items()]),
        "",
        f"Sizes that differ: {'; '.join(others) or 'none'}. Losses, functions that a program "
        f"decides in less time than this package: {'; '.join(faster)}.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few functions; only print")
    options = parser.parse_args()
    rng = numpy_generator(0, "benchmark of synthesis")
    if options.quick:
        three = [TruthTable.from_int(code, 3) for code in range(0, FUNCTIONS_OF_3, 64)]
        four = [TruthTable.from_int(PARITY_OF_4, 4)]
    else:
        three = [TruthTable.from_int(code, 3) for code in range(FUNCTIONS_OF_3)]
        four = [TruthTable(rng.integers(2, size=16).astype(bool)) for _ in range(RANDOM)]
    three, four = ([f for f in functions if needs_gates(f)] for functions in (three, four))
    script = "packages/repcomplexity/benchmarks/bench_synthesis.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    how = f"cirbo {version('cirbo')}, PySAT {version('python-sat')}, one run of each function"
    lines = [
        *preamble(command, how),
        *lines_of(
            f"Functions of 3 inputs that need a gate, {len(three)}", compare(three, limit=False)
        ),
        *lines_of(
            f"Random functions of 4 inputs, {len(four)}", compare(four, limit=not options.quick)
        ),
        f"With 4 inputs a program has {LIMIT:g} s for each function, and is not asked any more "
        f"once it has taken more than {BUDGET:g} s in all; ratios are for the functions that it "
        "was asked, and count a function that is not decided with the limit.",
    ]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, "synthesis", lines)


if __name__ == "__main__":
    main()
