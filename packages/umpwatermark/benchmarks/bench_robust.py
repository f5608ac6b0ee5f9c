"""Times the robust linear program over growing graphs, and holds its values to other programs.

Every program is solved in a process of its own with a limit on its seconds: HiGHS does not look at
the clock in its crossover. HiGHS goes on to the next size while that size, by the growth seen so
far, can be expected to take less than half of the limit.

    python packages/umpwatermark/benchmarks/bench_robust.py

rewrites its part of ``RESULTS.md`` in about three minutes; ``--dry-run`` uses small sizes and only
prints.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import shlex
import time
from multiprocessing.connection import Connection

import numpy as np
from measuring import RESULTS, SEED

from modicum.core.benchmark import preamble, table, write_section
from modicum.umpwatermark.graphs import PerturbationGraph, edit_graph, hamming_graph
from modicum.umpwatermark.robust import (
    RobustLP,
    RobustOrbitLP,
    hamming_ball_type2,
    robust_type2,
    robust_type2_orbit,
)

ROUGHNESS = 5.0
"""Dirichlet parameter of the laws."""

SHARE = 0.25
"""Alpha as a share of the largest mass that one text can stem from."""

TOLERANCE = 1e-6
"""Gap at which the first-order method stops."""

GRACE = 5.0
"""Seconds beyond the limit, for starting the process and for building the program."""

# Family -> number of edits, lengths given to HiGHS as far as they go, lengths for first-order.
FAMILIES = {
    "substitution, d = 1": ("hamming", 1, range(9, 16), (10, 11, 12, 13, 15)),
    "substitution, d = 2": ("hamming", 2, range(8, 16), (8, 10, 11, 15)),
    "edit, d = 1": ("edit", 1, range(8, 14), (8, 10, 13)),
}
DRY = {
    "substitution, d = 1": ("hamming", 1, range(6, 8), (7,)),
    "edit, d = 1": ("edit", 1, range(5, 7), (6,)),
}


def program(kind: str, n: int, d: int) -> RobustLP:
    """Return the program of a rough random law over binary strings."""
    graph = (hamming_graph if kind == "hamming" else edit_graph)(n, 2, d)
    rho = np.random.default_rng(SEED).dirichlet(np.full(2**n, ROUGHNESS))
    law_N = RobustLP(graph, rho, 0.5).law_N
    load = float((graph.adjacency_NN.T.astype(float) @ law_N).max())
    return RobustLP(graph, rho, SHARE * load)


def child(pipe: Connection, kind: str, n: int, d: int, method: str, limit: float) -> None:
    """Solve one program and send what the table shows."""
    # Imports of SciPy are not part of the measurement.
    RobustLP(PerturbationGraph(np.eye(2)), (0.5, 0.5), 0.1).solve("ipm")
    lp = program(kind, n, d)
    try:
        # The limit of HiGHS is kept by the parent.
        own_limit = limit if method == "first-order" else None
        found = lp.solve(method, TOLERANCE, own_limit)  # type: ignore[arg-type]
    except TimeoutError:
        return
    pipe.send((lp.graph.num_edges, lp.alpha, found.type2, found.gap, found.seconds, found.status))


def solved(kind: str, n: int, d: int, method: str, limit: float) -> tuple | None:
    """Return the child's answer, or None if it has none in time."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender, kind, n, d, method, limit))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit + GRACE) else None
    except EOFError:
        return None
    finally:
        process.terminate()
        process.join()


def row(family: str, kind: str, n: int, d: int, method: str, limit: float) -> list[str]:
    answer = solved(kind, n, d, method, limit)
    strings = 2**n if kind == "hamming" else sum(2**k for k in range(n - d, n + d + 1))
    name = {"ipm": "HiGHS, interior point", "first-order": "first-order, gap 1e-6"}[method]
    head = [family, str(n), f"{strings:,}"]
    if answer is None:
        cells = [*head, "", name, f"over {limit:g}", "", ""]
    else:
        edges, _, type2, gap, seconds, status = answer
        taken = f"{seconds:.2f}" + (f" ({status})" if status != "optimal" else "")
        cells = [*head, f"{edges:,}", name, taken, f"{gap:.1e}", f"{type2:.6f}"]
    print(cells, flush=True)
    return cells


def seconds_of(cells: list[str]) -> float:
    return float(cells[5].split()[0]) if cells[6] else float("inf")


def sizes(limit: float, dry: bool) -> list[str]:
    rows, reached = [], []
    for family, (kind, d, highs, first_order) in (DRY if dry else FAMILIES).items():
        before, expected = 0.0, 0.0
        largest = ""
        for n in highs:
            if expected > limit / 2:
                break
            rows.append(row(family, kind, n, d, "ipm", limit))
            taken = seconds_of(rows[-1])
            if taken > limit:
                break
            largest = rows[-1][2]
            expected = taken * max(4.0, taken / before if before else 4.0)
            before = taken
        rows += [row(family, kind, n, d, "first-order", limit) for n in first_order]
        best = rows[-1]
        reached.append(
            f"- {family}: HiGHS to a vertex {largest} strings; first-order {best[2]} strings "
            f"in {best[5]} s with a certified gap of {best[6]}."
        )
    header = ["edits", "n", "strings", "edges", "method", "seconds", "gap", "robust Type II"]
    return [
        *table(header, rows),
        "",
        f"Largest program solved within {limit:g} s (the package's limit is 32,768 strings; HiGHS "
        f"is not tried where more than {limit / 2:g} s are to be expected):",
        "",
        *reached,
    ]


def over_all_joint_laws(graph: PerturbationGraph, rho: np.ndarray, alpha: float) -> float:
    """Return the optimum over every joint law of output and region."""
    from scipy.optimize import linprog

    N = len(rho)
    regions = list(itertools.product([0.0, 1.0], repeat=N))
    cells = [(x, region) for x in range(N) for region in regions]
    safe = [all(region[y] for y in graph.out(x)) for x, region in cells]
    hits = [[region[y] for _, region in cells] for y in range(N)]
    marginal = [[float(x == z) for x, _ in cells] for z in range(N)]
    result = linprog(
        -np.array(safe, float), A_ub=hits, b_ub=np.full(N, alpha), A_eq=marginal, b_eq=rho
    )
    return 1 + result.fun


def agreement(dry: bool) -> list[str]:
    """Return the largest differences between ways to the same number."""
    rng = np.random.default_rng(SEED)
    worst = dict.fromkeys(["joint", "orbit", "ball"], 0.0)
    count = 5 if dry else 60
    for i in range(count):
        N = 4 + i % 3
        graph = PerturbationGraph((rng.random((N, N)) < 0.35) | np.eye(N, dtype=bool))
        rho, alpha = rng.dirichlet(np.ones(N)), float(rng.uniform(0.05, 0.5))
        difference = robust_type2(rho, alpha, graph) - over_all_joint_laws(graph, rho, alpha)
        worst["joint"] = max(worst["joint"], abs(difference))
    cases = [(n, (1 - p, p), d) for n in (6, 8, 10) for p in (0.1, 0.4) for d in (1, 2)]
    cases += [(5, (0.6, 0.3, 0.1), 1), (6, (0.8, 0.15, 0.05), 2)]
    for n, law, d in cases[: 4 if dry else None]:
        rho = np.array(law)
        for _ in range(n - 1):
            rho = np.multiply.outer(rho, law)
        whole = robust_type2(rho, 0.02, num_edits=d, num_symbols=len(law), method="ipm")
        worst["orbit"] = max(worst["orbit"], abs(whole - robust_type2_orbit(n, law, 0.02, d)))
        uniform = np.full(rho.size, 1 / rho.size)
        flat = robust_type2(uniform, 0.02, num_edits=d, num_symbols=len(law), method="ipm")
        exact = hamming_ball_type2(n, d, 0.02, len(law))
        worst["ball"] = max(worst["ball"], abs(flat - exact))
    lines = [
        "",
        "Largest absolute difference of the value:",
        "",
        f"- from the program over all joint laws of output and region, {count} random digraphs of "
        f"4 to 6 elements: {worst['joint']:.1e};",
        f"- whole Hamming graph against counts of symbols, {len(cases[: 4 if dry else None])} "
        f"cases of two and three symbols: {worst['orbit']:.1e};",
        f"- uniform laws against the closed form, as many cases: {worst['ball']:.1e}.",
        "",
        "By counts of symbols (exchangeable tokens, substitutions), program built and solved:",
        "",
    ]
    rows = []
    for n, law, alpha, d in [
        (200, 0.1, 1e-4, 8), (200, 0.1, 1e-4, 16), (2000, 0.02, 1e-6, 40),
        (60, (0.9, 0.07, 0.03), 1e-3, 4), (200, (0.96, 0.03, 0.01), 1e-3, 4),
    ]:  # fmt: skip
        start = time.perf_counter()
        lp = RobustOrbitLP(n, law, alpha, d)
        found = lp.solve()
        taken = time.perf_counter() - start
        rows.append(
            [str(n), str(law), f"{alpha:g}", str(d), str(len(lp.types_Tm)), f"{taken:.3f}",
             f"{found.gap:.1e}", f"{found.type2:.6f}"]
        )  # fmt: skip
    header = ["n", "token law", "alpha", "d", "types", "seconds", "gap", "robust Type II"]
    return lines + table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one program")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    command = "python packages/umpwatermark/benchmarks/bench_robust.py " + shlex.join(
        ["--limit", f"{options.limit:g}"]
    )
    # Read by the processes that solve.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    lines = [*preamble(command, f"one thread; one solve per row; seed {SEED}")]
    lines += [*sizes(options.limit, options.dry_run), *agreement(options.dry_run)]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, "robust", lines)


if __name__ == "__main__":
    main()
