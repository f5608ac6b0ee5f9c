"""The command ``bench``: methods on problems at equal budget, one line of a CSV per run."""

import csv
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.zeroth.cli.show import (
    check_picture,
    integers,
    numbers,
    print_table,
    save_figure,
    words,
)

KEY = ("problem", "method", "dimension", "sigma", "budget", "seed")
"""What tells runs apart."""


def bench(
    problems: Annotated[
        str, typer.Option(help="Problems with commas.")
    ] = "skew,stretched,hard,logreg",
    methods: Annotated[
        str, typer.Option(help="Methods with commas; cma needs the library cma.")
    ] = "adaptive,two-stage,spsa,zosgd",
    budgets: Annotated[str, typer.Option("--T", "--budgets", help="Budgets.")] = "1e3,1e4",
    dimensions: Annotated[str, typer.Option("--d", "--dims", help="Dimensions.")] = "10",
    sigmas: Annotated[
        str,
        typer.Option("--sigmas", "--sigma", help="Noise levels; logreg has that of its batches."),
    ] = "1",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each setting.")] = 8,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    out: Annotated[Path, typer.Option(help="CSV file; runs that stand in it are kept.")] = Path(
        "zeroth-bench.csv"
    ),
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Picture of regret against budget.")
    ] = None,
) -> None:
    """Measure the regret of methods on problems with known optimum, at equal budget."""
    from modicum.zeroth.arguments import one_of
    from modicum.zeroth.comparison import PROBLEMS

    known = _methods()
    names = [one_of("--problems", name, PROBLEMS) for name in words(problems, "--problems")]
    chosen = [one_of("--methods", name, known) for name in words(methods, "--methods")]
    settings = list(
        itertools.product(
            names,
            chosen,
            integers(dimensions, "--d"),
            numbers(sigmas, "--sigmas"),
            integers(budgets, "--T"),
            range(seed, seed + seeds),
        )
    )
    if picture is not None:
        check_picture(picture)
    rows = _measure_all(settings, known, out)
    if not rows:
        raise ValueError("no method takes any of these settings; the lines above say why")
    typer.echo(f"table {out}")
    _print_summary(rows)
    if picture is not None:
        save_figure(_figure(rows), picture)


def _methods() -> dict[str, Any]:
    from modicum.zeroth.comparison import METHODS
    from modicum.zeroth.integrations.pycma import minimize_cma

    def cma(found: Any, budget: int, seed: int) -> tuple[Any, float]:
        x = minimize_cma(found.noisy(seed), found.problem.start, budget, seed=seed)
        return x, float("nan")

    return {**METHODS, "cma": cma}


def _measure_all(
    settings: Iterable[tuple[Any, ...]], methods: Mapping[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Run what does not stand in the file yet, and write each run as it ends."""
    from rich.console import Console
    from rich.progress import track

    from modicum.zeroth.comparison import Row, measure
    from modicum.zeroth.errors import ZerothWarning

    done = _read(out)
    columns = [field.name for field in fields(Row)]
    missing = [setting for setting in settings if setting not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = not out.exists() or not out.stat().st_size
    console = Console(stderr=True)
    with warnings.catch_warnings(), out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if fresh:
            writer.writeheader()
        bar = track(missing, "runs", console=console, disable=not console.is_terminal)
        # What a method says about its constants is the same in every run.
        warnings.simplefilter("ignore", ZerothWarning)
        for setting in bar:
            problem, method, dimension, sigma, budget, seed = setting
            try:
                row = measure(
                    problem,
                    method,
                    dimension=dimension,
                    sigma=sigma,
                    budget=budget,
                    seed=seed,
                    methods=methods,
                )
            except ValueError as error:
                typer.echo(f"{problem} {method} d={dimension} T={budget}: {error}", err=True)
                continue
            writer.writerow(asdict(row))
            file.flush()
            done[setting] = asdict(row)
    return [done[setting] for setting in settings if setting in done]


def _read(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Read the runs of a file by setting; a last line that was cut off is left out."""
    from modicum.core.experiment import write_atomic
    from modicum.zeroth.comparison import Row

    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_atomic(path, whole)
    types = {field.name: field.type for field in fields(Row)}
    reader = csv.DictReader(whole.splitlines())
    if reader.fieldnames is not None and list(reader.fieldnames) != list(types):
        raise ValueError(f"{path} is no table of this command: its columns are {reader.fieldnames}")
    rows = {}
    for line in reader:
        row = {name: types[name](value) for name, value in line.items()}  # type: ignore[operator]
        rows[tuple(row[name] for name in KEY)] = row
    return rows


def _groups(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[float]]:
    """Collect the regrets of all seeds of a setting."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY[:-1]), []).append(row["regret"])
    return groups


def _print_summary(rows: list[dict[str, Any]]) -> None:
    import numpy as np

    from modicum.core.stats import median_interval

    lines = []
    for (problem, method, dimension, sigma, budget), regrets in _groups(rows).items():
        # With few seeds the interval has no end.
        ends = median_interval(regrets) if len(regrets) > 1 else (math.nan, math.nan)
        low, high = (end if math.isfinite(end) else None for end in ends)
        lines.append(
            [problem, dimension, sigma, budget, method, float(np.median(regrets)), low, high]
        )
    lines.sort(key=lambda line: (*line[:4], line[5]))
    columns = ["problem", "d", "sigma", "T", "method", "median regret", "95 % low", "high"]
    print_table(columns, lines)


def _figure(rows: list[dict[str, Any]]) -> Any:
    """Draw the median regret of each method on each problem against the budget."""
    import numpy as np

    from modicum.zeroth import plots

    curves: dict[str, list[tuple[int, float]]] = {}
    groups = _groups(rows)
    varied = [index for index in range(len(KEY) - 2) if len({key[index] for key in groups}) > 1]
    for key, regrets in groups.items():
        name = ", ".join(str(key[index]) for index in varied) or key[1]
        curves.setdefault(name, []).append((key[4], float(np.median(regrets))))
    lines = {name: list(zip(*sorted(points), strict=True)) for name, points in curves.items()}
    return plots.regret_curves(lines, ylabel="median simple regret")
