"""Time and memory of purchases against the numbers of rows, features and buyers.

    python packages/daved/benchmarks/bench_scale.py

rewrites the sections "scale", "scale buyers" and "scale pools" of ``RESULTS.md`` in about eight
minutes of an idle machine, ``--part`` one of them; ``--dry-run`` measures little and only prints.
Each cell is a process of its own with one thread, of which CPU time and peak
memory are counted; a cell that would take more than a minute, by the smaller one before it, is
not run.

    python packages/daved/benchmarks/bench_scale.py --gpu --out scale.jsonl

measures on a GPU in at most four minutes, with nothing but torch, Triton and NumPy, and writes JSON
lines as it goes; ``--page scale.jsonl`` makes the section "scale gpu" of them, on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scale_gpu

from modicum.core.benchmark import preamble, table, write_section

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
STEPS = 20
QUERIES = 4
SIZES = (1_000, 10_000, 100_000, 1_000_000)
FEATURES = (32, 128, 768)
METHODS = ("fw", "one_step", "greedy", "multiplicative")
MOST_SECONDS = 60
MOST_CPU_SECONDS = 180
"""Of a cell with the making of its rows."""
FROM_A_FILE = 2_000_000_000
"""Bytes of float32 rows from which on they are a memory map."""
BATCHES = ((10_000, 32, 100), (100_000, 32, 100), (10_000, 128, 100), (10_000, 768, 20))
"""Rows, features and buyers."""
TORCH = ((100_000, 32), (100_000, 128), (100_000, 768))
ROWS_AT_ONCE = 1 << 16


# One cell, in a process of its own ---------------------------------------------------------------


def rows_of(n: int, d: int, folder: str) -> np.ndarray:
    """Give Gaussian rows in float32, in memory or, if they are many, on a disk."""
    rng = np.random.default_rng(SEED)
    if 4 * n * d <= FROM_A_FILE:
        return rng.standard_normal((n, d), dtype=np.float32)
    path = Path(folder) / f"rows-{n}-{d}.npy"
    if not path.exists():
        rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
        for start in range(0, n, ROWS_AT_ONCE):
            block = rows[start : start + ROWS_AT_ONCE]
            block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        rows.flush()
    return np.load(path, mmap_mode="r")


def one_run(n: int, d: int, method: str, folder: str) -> dict[str, Any]:
    """Run a solver on rows that are there."""
    from modicum.daved.acquisition import solver_by_name
    from modicum.daved.pool import ArrayPool
    from modicum.daved.solvers.base import Problem

    rows = rows_of(n, d, folder)
    queries = np.random.default_rng(SEED + 1).normal(size=(QUERIES, d))
    solver = solver_by_name(method, max_iter=STEPS, tol=0)
    # Libraries load parts of themselves when they are first asked.
    solver.solve(Problem(ArrayPool(rows[:50, :8]), queries[:, :8], budget=STEPS))
    begin = time.process_time()
    design = solver.solve(Problem(ArrayPool(rows), queries, budget=STEPS))
    return {"seconds": time.process_time() - begin, "steps": len(design.history)}


def batch(n: int, d: int, method: str, folder: str) -> dict[str, Any]:
    """Sell to many buyers, such as "100 together", or one after the other."""
    from modicum.daved.batch import batch_select
    from modicum.daved.select import select

    rows = rows_of(n, d, folder)
    buyers, _, how = method.partition(" ")
    queries = np.random.default_rng(SEED + 1).normal(size=(int(buyers), 1, d))
    begin = time.process_time()
    if how == "together":
        found = batch_select(rows, queries, STEPS, max_iter=STEPS, tol=0)
    else:
        found = [select(rows, own, STEPS, max_iter=STEPS, tol=0) for own in queries]
    seconds = time.process_time() - begin
    bought = [sale.indices.tolist() for sale in found]
    return {"seconds": seconds, "bought": bought}


def pool_run(n: int, d: int, method: str, folder: str) -> dict[str, Any]:
    """Run Frank-Wolfe on an array or on a tensor on the CPU."""
    from modicum.daved.pool import ArrayPool
    from modicum.daved.solvers.base import Problem
    from modicum.daved.solvers.frank_wolfe import FrankWolfe

    rows = rows_of(n, d, folder)
    if method == "NumPy, float64":
        pool: Any = ArrayPool(rows)
    else:
        import torch

        from modicum.daved.torch_pool import TorchPool

        torch.set_num_threads(1)
        pool = TorchPool(torch.from_numpy(rows), dtype=method.partition(", ")[2])
    queries = np.random.default_rng(SEED + 1).normal(size=(QUERIES, d))
    solver = FrankWolfe(max_iter=STEPS, tol=0)
    solver.solve(Problem(ArrayPool(rows[:50, :8]), queries[:, :8]))
    begin = time.process_time()
    design = solver.solve(Problem(pool, queries))
    return {"seconds": time.process_time() - begin, "picks": design.picks.tolist()}


CELLS: dict[str, Callable[[int, int, str, str], dict[str, Any]]] = {
    "run": one_run,
    "batch": batch,
    "pool": pool_run,
}


def cell(kind: str, n: int, d: int, method: str, folder: str) -> dict[str, Any] | None:
    """Run a cell in a process of its own; None if it takes too long or has too little memory."""
    task = json.dumps([kind, n, d, method, folder])
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--cell", task],
            env=os.environ | threads,
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        print(f"{task}: {error.stderr[-500:]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{task}: {found['seconds']:.3g} s, {found['peak_mb']:.0f} MB", file=sys.stderr)
    return found


def peak_mb() -> float:
    """Give the largest memory that this program had; that of its parent before it is not in it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def run_cell(task: str) -> None:
    warnings.simplefilter("ignore")
    # The system ends what takes more; on a busy machine the time on a clock says little.
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
    kind, n, d, method, folder = json.loads(task)
    found = CELLS[kind](n, d, method, folder)
    found["peak_mb"] = peak_mb()
    print(json.dumps(found))


# The page ----------------------------------------------------------------------------------------


def single_buyers(sizes: tuple[int, ...], features: tuple[int, ...], folder: str) -> list[str]:
    rows = []
    for d in features:
        last: dict[str, float] = {}
        for n in sizes:
            shown = [f"{n:,}", str(d), f"{4 * n * d / 1e6:,.0f}"]
            for method in METHODS:
                # Ten times the rows take ten times as long.
                expected = last.get(method, 0.0) * 10
                found = cell("run", n, d, method, folder) if expected <= MOST_SECONDS else None
                last[method] = found["seconds"] if found else float("inf")
                fits = found is not None and found["seconds"] <= MOST_SECONDS
                shown.append(
                    f"{found['seconds']:.3g} s, {found['peak_mb']:,.0f} MB"
                    if fits and found
                    else f"over {MOST_SECONDS} s"
                )
            rows.append(shown)
    header = ["n", "d", "rows, MB", "fw", "one_step", "greedy", "multiplicative"]
    title = (
        f"One buyer with {QUERIES} queries: {STEPS} steps of `fw` and `multiplicative`, {STEPS} "
        "purchases of `greedy`; time of the solver and peak memory of the process, in which an "
        "import takes about 40 MB. Rows above 2 GB are a memory map, whose pages count as memory "
        "once they are read."
    )
    return [title, "", *table(header, rows)]


def many_buyers(sizes: tuple[tuple[int, int, int], ...], folder: str) -> list[str]:
    rows = []
    for n, d, buyers in sizes:
        together = cell("batch", n, d, f"{buyers} together", folder)
        alone = cell("batch", n, d, f"{buyers} alone", folder)
        shown = [f"{n:,}", str(d), str(buyers)]
        shown += [f"{found['seconds']:.3g}" if found else "failed" for found in (together, alone)]
        if together and alone:
            same = sum(a == b for a, b in zip(together["bought"], alone["bought"], strict=True))
            shown += [f"{alone['seconds'] / together['seconds']:.2g}", f"{same} of {buyers}"]
        rows.append(shown)
    header = ["n", "d", "buyers", "`batch_select`, s", "a loop of `select`, s"]
    header += ["ratio", "equal purchases"]
    title = f"Buyers with one query each, {STEPS} steps, checks and purchases included:"
    return [title, "", *table(header, rows)]


def pools(sizes: tuple[tuple[int, int], ...], folder: str) -> list[str]:
    names = ("NumPy, float64", "torch, float64", "torch, float32", "torch, bfloat16")
    rows = []
    for n, d in sizes:
        found = {name: cell("pool", n, d, name, folder) for name in names}
        truth = found[names[0]]
        shown = [f"{n:,}", str(d)]
        for name in names:
            here = found[name]
            if here is None or truth is None:
                shown.append("failed")
                continue
            same = sum(a == b for a, b in zip(here["picks"], truth["picks"], strict=True))
            shown.append(f"{here['seconds']:.3g} s, {same} of {STEPS}")
        rows.append(shown)
    title = (
        f"{STEPS} steps of `fw` for one buyer with {QUERIES} queries, rows of float32 in an array "
        "and in a tensor on the CPU, and picks equal to the first column's:"
    )
    return [title, "", *table(["n", "d", *names], rows)]


PARTS: dict[str, Callable[[str, bool], list[str]]] = {
    "scale": lambda folder, small: single_buyers(
        SIZES[:2] if small else SIZES, FEATURES[:2] if small else FEATURES, folder
    ),
    "scale buyers": lambda folder, small: many_buyers(
        ((1000, 16, 10),) if small else BATCHES, folder
    ),
    "scale pools": lambda folder, small: pools(((1000, 16),) if small else TORCH, folder),
}


def measure_part(name: str, small: bool) -> None:
    """Measure one part on the CPU, and write its section."""
    command = shlex.join(["python", "packages/daved/benchmarks/bench_scale.py", *sys.argv[1:]])
    lines = preamble(command, f"CPU time of one thread; seed {SEED}")
    with tempfile.TemporaryDirectory() as folder:
        lines += PARTS[name](folder, small)
    print("\n".join(lines))
    if not small:
        write_section(RESULTS, name, lines)


def gpu_page(path: Path) -> list[str]:
    """Make a section of lines that were measured elsewhere."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    hardware = next(r["found"] for r in records if r["what"] == "hardware")
    gpus = "; ".join(f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in hardware["gpus"])
    versions = ", ".join(f"{name} {value}" for name, value in hardware["versions"].items())
    return [
        f"Hardware: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        f"GPU: {gpus or 'none'}.",
        f"Versions: Python {hardware['python']}, {versions}, CUDA {hardware['cuda']}.",
        "Command: `python packages/daved/benchmarks/bench_scale.py --gpu --out scale.jsonl`; "
        f"median of {scale_gpu.READINGS} readings of {scale_gpu.STEPS} steps; seed {SEED}.",
        "",
        *scale_gpu.page(path),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="measure little and only print")
    parser.add_argument("--part", choices=PARTS, help="measure this section only")
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU, into a file")
    parser.add_argument("--out", type=Path, default=Path("scale.jsonl"), help="file of --gpu")
    parser.add_argument("--device", default="cuda", help="device of --gpu")
    parser.add_argument("--no-kernel", action="store_true", help="--gpu without the fused kernel")
    parser.add_argument("--page", type=Path, help="make the section of what --gpu has written")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run_cell(options.cell)
        return
    if options.gpu:
        warnings.simplefilter("ignore")
        kernel = not options.no_kernel
        scale_gpu.measure(options.out, options.device, small=options.dry_run, kernel=kernel)
        print("\n".join(gpu_page(options.out)))
        return
    if options.page:
        lines = gpu_page(options.page)
        print("\n".join(lines))
        write_section(RESULTS, "scale gpu", lines)
        return
    for name in [options.part] if options.part else PARTS:
        measure_part(name, options.dry_run)


if __name__ == "__main__":
    main()
