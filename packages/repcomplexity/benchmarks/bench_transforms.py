"""Walsh–Hadamard transforms, minimal normal forms and decision diagrams beside other libraries.

Transforms: the loop over bits that one would write in NumPy, SymPy's, ``hadamard-transform`` (in
torch) and ``pyfwht`` (in C). Disjunctive normal forms: Espresso, the heuristic, in ``pyeda``, and
SymPy's Quine–McCluskey. Decision diagrams: ``dd``, in Python and with CUDD. ``pyeda``, ``pyfwht``
and ``hadamard-transform`` are installed by uv into a folder that is deleted afterwards, and
imported from there beside this package's NumPy and torch; where that fails, the section says why.
All results are compared before they are timed, and those that are compared take turns.

    python packages/repcomplexity/benchmarks/bench_transforms.py [--device cuda]

rewrites its part of ``RESULTS.md`` in about three minutes (with a device other than the CPU,
transforms on it alone); ``--quick`` takes a few seconds, leaves the libraries that would have to be
installed out, and only prints.

Shapes: m inputs, N = 2**m positions.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import numpy_generator, one_thread, resolve_device, torch_generator
from modicum.repcomplexity.bits import popcount
from modicum.repcomplexity.boolean.dnf import isop, minimum_dnf
from modicum.repcomplexity.boolean.fourier import walsh_hadamard
from modicum.repcomplexity.boolean.obdd import obdd
from modicum.repcomplexity.boolean.ternary import Terms
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.functions import target_of
from modicum.repcomplexity.solver import solve

RESULTS = Path(__file__).with_name("RESULTS.md")
OUTSIDE = {
    "hadamard_transform": "hadamard-transform==0.2.0",
    "pyfwht": "pyfwht==2.0.1",
    "pyeda.inter": "pyeda==0.29.0",
}
"""Libraries that are no dependencies, by what is imported of them."""
INSTALL_LIMIT = 300
"""Most seconds of an installation; two of them compile."""
SYMPY_BITS = 12
"""Bits up to which SymPy transforms: a second or two on an idle core."""
SYMPY_INPUTS = 6
"""Inputs up to which SymPy minimises."""
AIM_BITS, AIM_SECONDS = {"cpu": 24, "cuda": 30}, {"cpu": 2.0, "cuda": 0.05}
"""Size of the transform for which a time is aimed at, and that time."""
OURS = "walsh_hadamard, NumPy"
TENSORS = "walsh_hadamard, torch"


@contextmanager
def outside(wanted: bool) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Give the libraries that could be installed, and why the others could not."""
    with tempfile.TemporaryDirectory() as folder:
        modules: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        sys.path.append(folder)
        for name, requirement in OUTSIDE.items():
            reason = installed(requirement, folder) if wanted else "not asked for"
            if reason is None:
                importlib.invalidate_caches()
                try:
                    modules[name] = importlib.import_module(name)
                except ImportError as error:
                    reason = str(error)
            if reason is not None:
                reasons[requirement] = reason
        try:
            yield modules, reasons
        finally:
            sys.path.remove(folder)


def installed(requirement: str, folder: str) -> str | None:
    """Install a library alone into a folder; give the reason if that failed."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    command += ["--target", folder, requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_LIMIT, check=False
        )
    except FileNotFoundError:
        return "uv is not installed"
    except subprocess.TimeoutExpired:
        return f"it took more than {INSTALL_LIMIT} seconds"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit status {done.returncode}"
    return None


# Transforms --------------------------------------------------------------------------------------


def by_hand(values: np.ndarray) -> np.ndarray:
    """Transform in NumPy, one pass for each bit."""
    work, half = values.copy(), 1
    while half < work.size:
        pairs = work.reshape(-1, 2, half)
        low, high = pairs[:, 0].copy(), pairs[:, 1].copy()
        pairs[:, 0], pairs[:, 1] = low + high, low - high
        half *= 2
    return work


def cpu_transforms(bits: int, modules: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Give calls that transform the same random signs."""
    rng = numpy_generator(0, "benchmark of transforms", bits)
    signs = (2 * rng.integers(2, size=1 << bits) - 1).astype(np.int32)
    tensor, floats = torch.from_numpy(signs), torch.from_numpy(signs.astype(np.float32))
    calls: dict[str, Callable[[], Any]] = {
        OURS: lambda: walsh_hadamard(signs),
        TENSORS: lambda: walsh_hadamard(tensor),
        "by hand, NumPy": lambda: by_hand(signs),
    }
    if (library := modules.get("pyfwht")) is not None:
        calls["pyfwht, C"] = lambda: library.fwht(signs, backend="cpu")
    if (theirs := modules.get("hadamard_transform")) is not None:
        calls["hadamard-transform, torch"] = lambda: theirs.hadamard_transform(floats)
    if bits <= SYMPY_BITS:
        import sympy

        numbers = signs.tolist()
        calls["sympy.fwht"] = lambda: sympy.fwht(numbers)
    return calls


def device_transforms(bits: int, modules: dict[str, Any], device: str) -> dict[str, Callable]:
    """Give calls that transform the same random signs, made on a device."""
    generator = torch_generator(0, device, "benchmark of transforms", bits)
    signs = torch.randint(0, 2, (1 << bits,), generator=generator, device=device).int() * 2 - 1
    calls: dict[str, Callable] = {TENSORS: lambda: walsh_hadamard(signs)}
    if (theirs := modules.get("hadamard_transform")) is not None:
        floats = signs.float()
        calls["hadamard-transform, torch"] = lambda: theirs.hadamard_transform(floats)
    return calls


def check_transforms(calls: dict[str, Callable], bits: int) -> None:
    """Stop if results differ; that of hadamard-transform is normalised."""
    reference, *others = calls
    expected = as_array(calls[reference]())
    for name in others:
        found = as_array(calls[name]())
        if name.startswith("hadamard-transform"):
            found = found * math.sqrt(1 << bits)
        if not np.allclose(found, expected, rtol=1e-5, atol=1e-2):
            raise SystemExit(f"{name} gives another transform")


def as_array(values: Any) -> np.ndarray:
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values, dtype=np.float64)


def transforms(
    sizes: Sequence[int], repeats: int, modules: dict[str, Any], device: str
) -> list[str]:
    """Measure seconds of transforms; gives the lines of a table and what it says."""
    cpu = device == "cpu"
    ours = OURS if cpu else TENSORS
    taken: dict[int, dict[str, float]] = {}
    for bits in sizes:
        calls = cpu_transforms(bits, modules) if cpu else device_transforms(bits, modules, device)
        if cpu:
            check_transforms(calls, bits)
        taken[bits] = medians(calls, repeats, device)
    names = list(dict.fromkeys(name for seconds in taken.values() for name in seconds))
    rows = []
    for name in names:
        cells = []
        for bits in sizes:
            seconds = taken[bits].get(name)
            cells.append("" if seconds is None else f"{seconds:.3g}")
            cells.append("" if seconds is None else f"{seconds / taken[bits][ours]:.1f}")
        rows.append([name, *cells])
    header = ["transform"]
    for bits in sizes:
        header += [f"2^{bits}, s", "times ours"]
    lines = [
        "**Walsh–Hadamard transform** of random signs, int32 (hadamard-transform: float32), "
        f"times ours by {ours}:",
        "",
        *table(header, rows),
        "",
    ]
    slower = [
        f"{name} at 2^{bits} ({taken[bits][ours] / seconds:.1f} times as fast)"
        for bits in sizes
        for name, seconds in taken[bits].items()
        if seconds < taken[bits][ours] and name != TENSORS
    ]
    kind = device.partition(":")[0]
    aim_bits, aim = AIM_BITS[kind], AIM_SECONDS[kind]
    aimed = ""
    if aim_bits in taken:
        outcome = "met" if taken[aim_bits][ours] < aim else "missed under the load named above"
        aimed = f" Aimed at: 2^{aim_bits} in {aim:g} s, {outcome}."
    lines.append(f"Losses: {'; '.join(slower) or 'none'}.{aimed}")
    if cpu and taken[sizes[-1]][TENSORS] > taken[sizes[-1]][OURS]:
        lines.append(
            f"On a CPU this package's torch path takes "
            f"{taken[sizes[-1]][TENSORS] / taken[sizes[-1]][OURS]:.1f} times as long as its NumPy "
            f"path at 2^{sizes[-1]}: it writes a new tensor for each bit."
        )
    return [*lines, ""]


# Normal forms ------------------------------------------------------------------------------------


def random_functions(m: int, count: int) -> list[TruthTable]:
    rng = numpy_generator(0, "benchmark of normal forms", m)
    return [TruthTable(rng.integers(2, size=1 << m).astype(bool)) for _ in range(count)]


def q_functions(n: int) -> dict[str, TruthTable]:
    """Give the Boolean functions of Q* of the majority process."""
    mdp = MajorityMDP(n)
    return {found.name: found.table for found in target_of(mdp, solve(mdp), "q").functions}


def by_espresso(library: Any, function: TruthTable) -> Terms:
    """Minimise by pyeda, from values to terms."""
    variables = library.ttvars("x", function.n_inputs)
    values = "".join("01"[int(value)] for value in function.values)
    (form,) = library.espresso_tts(library.truthtable(variables, values))
    care, polarity = [], []
    for term in form.cover:
        # A literal is spelled "x[3]" or "~x[3]".
        inputs = {int(str(literal).rstrip("]").partition("[")[2]): literal for literal in term}
        care.append(sum(1 << index for index in inputs))
        positive = (index for index, literal in inputs.items() if str(literal)[0] != "~")
        polarity.append(sum(1 << index for index in positive))
    return Terms(function.n_inputs, np.array(care), np.array(polarity))


def by_sympy(function: TruthTable) -> int:
    """Count the terms of SymPy's form of a function that is not constant."""
    import sympy
    from sympy.logic import SOPform

    symbols = sympy.symbols(f"x:{function.n_inputs}")
    ones = np.flatnonzero(function.values).tolist()
    # Their first variable is the highest bit of a term.
    form = SOPform(symbols[::-1], ones)
    return len(form.args) if isinstance(form, sympy.Or) else 1


def normal_forms(quick: bool, modules: dict[str, Any]) -> list[str]:
    """Compare numbers of terms and seconds; gives the lines of a table and what it says."""
    if quick:
        sets = {"random, m = 4": random_functions(4, 3), "Q*, n = 4": list(q_functions(4).values())}
    else:
        sets = {
            "random, m = 6": random_functions(6, 20),
            "random, m = 8": random_functions(8, 20),
            "Q*, n = 4, m = 7": list(q_functions(4).values()),
            "Q*, n = 8, m = 12": list(q_functions(8).values()),
        }
    pyeda = modules.get("pyeda.inter")
    rows, losses = [], []
    for title, functions in sets.items():
        programs: dict[str, Callable[[TruthTable], Any]] = {
            "minimum_dnf": minimum_dnf,
            "isop": isop,
        }
        if pyeda is not None:
            programs["Espresso, pyeda"] = lambda function: by_espresso(pyeda, function)
        if functions[0].n_inputs <= SYMPY_INPUTS:
            programs["sympy.SOPform"] = by_sympy
        terms, seconds = answers(programs, functions)
        exact = terms["minimum_dnf"]
        for name in programs:
            if any(count < least for count, least in zip(terms[name], exact, strict=True)):
                raise SystemExit(f"{name} has fewer terms than the minimum on {title}")
            same = sum(a == b for a, b in zip(terms[name], exact, strict=True))
            ratio = sum(seconds["minimum_dnf"]) / sum(seconds[name])
            rows.append(
                [
                    title,
                    name,
                    f"{np.mean(terms[name]):.2f}",
                    f"{same} of {len(functions)}",
                    f"{sum(terms[name]) / sum(exact) - 1:.1%}",
                    f"{np.median(seconds[name]):.3g}",
                    f"{ratio:.2g}",
                ]
            )
            if ratio > 1:
                losses.append(f"{name} ({title}, {ratio:.1f} times)")
    header = ["functions", "program", "mean terms", "at the minimum", "above it"]
    header += ["median seconds", "times minimum_dnf's speed"]
    return [
        "**Minimal disjunctive normal forms**; minima are proved, all forms (but SymPy's) were "
        "evaluated on all inputs:",
        "",
        *table(header, rows),
        "",
        f"Losses in time, which are the price of a proof: {'; '.join(losses) or 'none'}.",
        "",
    ]


def answers(
    programs: dict[str, Callable[[TruthTable], Any]], functions: Sequence[TruthTable]
) -> tuple[dict[str, list[int]], dict[str, list[float]]]:
    """Put each function to all programs in turn; gives numbers of terms, and seconds."""
    terms: dict[str, list[int]] = {name: [] for name in programs}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program(functions[0])
    for function in functions:
        for name, program in programs.items():
            start = time.perf_counter()
            found = program(function)
            seconds[name].append(time.perf_counter() - start)
            if isinstance(found, int):
                terms[name].append(found)
                continue
            if name == "minimum_dnf":
                if not found.proved:
                    raise SystemExit(f"the minimum of {function!r} is not proved")
                found = found.terms
            if found.table() != function:
                raise SystemExit(f"{name} gives the form of another function")
            terms[name].append(len(found))
    return terms, seconds


# Diagrams ----------------------------------------------------------------------------------------


def hidden_weighted_bit(m: int) -> TruthTable:
    """Give the function whose value is the input of the number of ones: hard for diagrams."""

    def value(codes: np.ndarray) -> np.ndarray:
        weights = popcount(codes)
        return np.where(weights > 0, codes >> np.maximum(weights - 1, 0) & 1, 0)

    return TruthTable.from_callable(value, m)


def built(library: Any, function: TruthTable) -> tuple[Any, Any]:
    """Build a diagram in dd from a truth table, without reordering."""
    manager = library.BDD()
    manager.configure(reordering=False)
    m = function.n_inputs
    manager.declare(*(f"x{index}" for index in range(m)))
    # The input asked for last becomes the lowest bit of the position.
    values = function.permute(range(m)[::-1]).values
    nodes = [manager.true if value else manager.false for value in values]
    for index in reversed(range(m)):
        variable = manager.var(f"x{index}")
        pairs = zip(nodes[0::2], nodes[1::2], strict=True)
        nodes = [manager.ite(variable, high, low) for low, high in pairs]
    return manager, nodes[0]


def sifted(library: Any, function: TruthTable) -> int:
    """Build a diagram and let dd reorder it once; gives its decision nodes."""
    manager, root = built(library, function)
    library.reorder(manager)
    return len(root) - 1


def diagram_programs(libraries: dict[str, Any]) -> dict[str, Callable[[TruthTable], int]]:
    """Give what counts decision nodes; dd counts the leaf, too."""
    programs: dict[str, Callable[[TruthTable], int]] = {
        "obdd, natural order": lambda f: obdd(f, complement_edges=True).nodes
    }
    for name, library in libraries.items():
        programs[f"{name}, natural order"] = lambda f, library=library: (
            len(built(library, f)[1]) - 1
        )
    for order in ("sifting", "best"):
        programs[f"obdd, {order}"] = lambda f, order=order: (
            obdd(f, order, complement_edges=True).nodes
        )
    for name, library in libraries.items():
        programs[f"{name}, sifting"] = lambda f, library=library: sifted(library, f)
    return programs


def diagrams(quick: bool) -> list[str]:
    """Compare nodes and seconds; gives the lines of a table and what it says."""
    from dd import autoref

    libraries = {"dd.autoref": autoref}
    note = ""
    try:
        from dd import cudd
    except ImportError:
        note = " This dd has no CUDD."
    else:
        libraries["dd.cudd"] = cudd
    if quick:
        functions = {"hidden weighted bit, m = 6": hidden_weighted_bit(6)}
    else:
        functions = {
            "hidden weighted bit, m = 11": hidden_weighted_bit(11),
            "Q* >= 1, n = 8, m = 12": q_functions(8)["Q* >= 1"],
            "random, m = 10": random_functions(10, 1)[0],
        }
    programs = diagram_programs(libraries)
    rows, losses = [], []
    for title, function in functions.items():
        nodes = {name: program(function) for name, program in programs.items()}
        natural = {count for name, count in nodes.items() if name.endswith("natural order")}
        if len(natural) > 1:
            raise SystemExit(f"diagrams of {title} in one order have {natural} nodes")
        if min(nodes.values()) < nodes["obdd, best"]:
            raise SystemExit(f"there is a better order than the best one of {title}")
        calls = {name: partial(program, function) for name, program in programs.items()}
        taken = medians(calls, 1)
        rows += [[title, name, str(nodes[name]), f"{taken[name]:.3g}"] for name in programs]
        losses += [
            f"{name} ({title}, {taken[own] / taken[name]:.1f} times as fast, {nodes[name]} nodes "
            f"where here are {nodes[own]})"
            for kind in ("natural order", "sifting")
            for name in (f"{library}, {kind}" for library in libraries)
            if taken[name] < taken[own := f"obdd, {kind}"]
        ]
    return [
        "**Decision diagrams** with complement edges, from a truth table to the number of decision "
        f"nodes; orders of the inputs as given, by sifting, and the best of all.{note}",
        "",
        *table(["function", "program", "nodes", "seconds"], rows),
        "",
        f"Losses in time: {'; '.join(losses) or 'none'}. dd builds a diagram that can be worked "
        "with, of which this package counts the nodes only.",
    ]


def sections(options: argparse.Namespace, device: str) -> list[str]:
    """Measure everything; gives the lines after the preamble."""
    with outside(not options.quick) as (modules, reasons):
        missing = [f"{name} ({reason})" for name, reason in reasons.items()]
        lines = [f"Left out: {', '.join(missing)}.", ""] if missing else []
        if device != "cpu":
            sizes = [12, 16] if options.quick else [24, 28, 30]
            return lines + transforms(sizes, 3, modules, device)
        sizes = [4, 10] if options.quick else [12, 16, 20, 24]
        lines += transforms(sizes, 1 if options.quick else 2, modules, device)
        lines += normal_forms(options.quick, modules)
        return lines + diagrams(options.quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where transforms are computed")
    parser.add_argument("--quick", action="store_true", help="small sizes; only print")
    options = parser.parse_args()
    device = resolve_device(options.device)
    script = "packages/repcomplexity/benchmarks/bench_transforms.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    libraries = ", ".join(f"{name} {version(name)}" for name in ("sympy", "dd"))
    how = f"one CPU thread, {libraries}, {', '.join(OUTSIDE.values()).replace('==', ' ')}"
    with one_thread():
        lines = [*preamble(command, how), *sections(options, device)]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, f"transforms-{device.partition(':')[0]}", lines)


if __name__ == "__main__":
    # Libraries that use OpenMP read this when they are loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
