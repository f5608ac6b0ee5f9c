"""The commands ``select`` (buy for one budget), ``plan`` (look at many) and ``report``."""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from modicum.core.experiment import dumps, write_atomic
from modicum.daved.cli.inputs import Market, Reader, places
from modicum.daved.cli.options import Inputs, Making, Method, Output, Terms, command
from modicum.daved.cli.show import (
    cell,
    noted,
    print_columns,
    print_json,
    print_table,
    records_of,
    step_bar,
)
from modicum.daved.errors import InfeasibleBudgetError
from modicum.daved.integrations.tables import WRITABLE, check_writable, write_table
from modicum.daved.select import select as choose
from modicum.daved.selection import Selection
from modicum.daved.solvers.base import Step
from modicum.daved.theory import shadow_price
from modicum.daved.validation import (
    LEAST_COVERAGE,
    check_budget,
    check_groups,
    check_lot_prices,
    check_positive,
)

__all__ = ["plan", "report", "select"]

BUDGETS_OF_A_PLAN = 8
"""Budgets that are looked at where none are asked for."""

_OF_DESIGNS = ("design_error", "least_error", "efficiency", "shadow_price")
"""What a relaxed design says besides its purchase; greedy purchases have none."""


@command
def select(
    inputs: Inputs,
    making: Making,
    terms: Terms,
    method: Method,
    output: Output,
    budget: Annotated[float, typer.Option(help="What may be spent, in the prices' currency.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the purchase plan (.csv, .parquet).")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Write all about the run (.json); report reads it.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page about it (.html).")] = None,
) -> None:
    """Buy for one budget: print and write which records, in which order, at what predicted error.

    To see what other budgets would buy before one is chosen, use plan. Exit status 3 if the budget
    buys nothing.
    """
    _check_outputs(out, WRITABLE, manifest, report)
    check_budget(budget, name="--budget")
    check_positive("--sigma2", method.sigma2)
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    with noted(output.quiet) as warnings:
        market = Reader(inputs, making, terms).market()
        with step_bar(method.solver, None, output.quiet) as on_step:
            bought = _buy(market, making, terms, method, budget, on_step)
    columns = _purchases(bought, market, method.sigma2)
    if out is not None:
        write_table(out, columns)
    if manifest is not None:
        from modicum.daved.cli.runs import write_run

        write_run(
            manifest,
            bought,
            market,
            _parameters(inputs, making, terms, method, budget=budget),
            started=started.isoformat(timespec="seconds"),
            seconds=time.perf_counter() - clock,
            warnings=warnings,
        )
    if report is not None:
        _write_report(bought, report, method.sigma2, places(market.table)["file"], market)
    written = {"out": out, "manifest": manifest, "report": report}
    files = {name: str(path) for name, path in written.items() if path is not None}
    if output.as_json:
        line = _line(budget, bought, method.sigma2)
        about = {**_about(market, bought, method.sigma2), **line}
        about |= {"files": _by_file(bought, market), "purchase": records_of(columns)}
        print_json({**about, "written": files, "warnings": warnings})
    elif not output.quiet:
        _print_purchase(bought, market, method.sigma2, columns, files)


def report(
    run: Annotated[Path, typer.Argument(help="Manifest that select wrote.")],
    out: Annotated[Path, typer.Option(help="Where the page goes (.html).")] = Path("report.html"),
) -> None:
    """Make a page about a purchase from its manifest alone; the sellers' files are not needed."""
    from modicum.daved.cli.runs import read_run

    check_writable(out, (".html",))
    found = read_run(run)
    _write_report(found.selection, out, found.sigma2, found.files_n)
    typer.echo(f"report {out}")


@command
def plan(
    inputs: Inputs,
    making: Making,
    terms: Terms,
    method: Method,
    output: Output,
    budgets: Annotated[
        list[float] | None,
        typer.Option(help="Budgets; by default eight, up to twice as many records as features."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the table (.csv, .parquet) or all of it (.json).")
    ] = None,
) -> None:
    """Look at many budgets before one is chosen: error, certificate, and which file gets how much.

    Each line is what select would buy for that budget with the same options; nothing is settled,
    and no purchase plan or manifest is written.
    """
    _check_outputs(out, (*WRITABLE, ".json"))
    for budget in budgets or ():
        check_budget(budget, name="--budgets")
    check_positive("--sigma2", method.sigma2)
    with noted(output.quiet) as warnings:
        market = Reader(inputs, making, terms).market()
        asked = sorted(set(budgets or _grid(market, terms)))
        found = _buy_each(market, making, terms, method, asked, output.quiet)
    some = next(bought for _, bought in found if bought is not None)
    about = _about(market, some, method.sigma2)
    lines = [
        _nothing(budget, market, about["error_before"])
        if bought is None
        else {
            **_line(budget, bought, method.sigma2),
            "items": bought.bought_labels.tolist(),
            "files": _by_file(bought, market),
        }
        for budget, bought in found
    ]
    whole = {**about, "budgets": lines, "warnings": warnings}
    if out is not None:
        _write_plan(out, whole)
    if output.as_json:
        print_json(whole)
    elif not output.quiet:
        _print_plan(whole, out)


def _check_outputs(
    out: Path | None,
    endings: Sequence[str],
    manifest: Path | None = None,
    report: Path | None = None,
) -> None:
    for path, allowed in ((out, endings), (manifest, (".json",)), (report, (".html",))):
        if path is not None:
            check_writable(path, allowed)


def _parameters(*groups: Any, **others: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for group in groups:
        found |= asdict(group)
    return {**found, **others}


def _buy(
    market: Market,
    making: Making,
    terms: Terms,
    method: Method,
    budget: float,
    on_step: Callable[[Step], None] | None,
) -> Selection:
    settings = asdict(method)
    del settings["sigma2"]
    settings["step"] = _number_or_word(method.step, float)
    settings["max_iter"] = _number_or_word(method.max_iter, int)
    bought = choose(
        market.rows,
        market.queries_md,
        budget,
        costs=market.prices_n,
        groups=market.table.groups,
        max_per_group=terms.max_per_group,
        min_per_group=terms.min_per_group,
        X_owned=market.owned_od,
        noise_var=market.noise_n,
        row_weight=market.weights_n,
        random_state=making.seed,
        device=making.device,
        dtype=making.dtype,
        on_step=on_step,
        **settings,
    )
    return replace(bought, labels=market.table.labels)


def _number_or_word(text: str, kind: type[float] | type[int]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


def _purchases(bought: Selection, market: Market, sigma2: float) -> dict[str, Sequence[Any]]:
    """Give the columns of the purchase plan."""
    rows = bought.plan(sigma2)
    columns = dict(places(market.table, bought.indices))
    if market.table.groups is not None:
        columns["group"] = market.table.groups[bought.indices].tolist()
    for name in ("price", "marginal_benefit", "spent", "predicted_error"):
        columns[name] = [getattr(row, name) for row in rows]
    return columns


def _write_report(
    bought: Selection,
    out: Path,
    sigma2: float,
    files_n: Any,
    market: Market | None = None,
) -> None:
    from modicum.daved.report import write_report

    rows = {} if market is None else {"sellers": market.rows, "queries": market.queries_md}
    write_report(bought, out, files=files_n, sigma2=sigma2, **rows)


def _by_file(bought: Selection, market: Market) -> list[dict[str, Any]]:
    """Say how many records of each file are bought and what the file gets."""
    offsets = market.table.offsets
    number_k = np.searchsorted(offsets, bought.indices, side="right") - 1
    records = np.bincount(number_k, minlength=len(market.table.files))
    prices_k = bought.prices[bought.indices]
    spent = np.bincount(number_k, weights=prices_k, minlength=len(market.table.files))
    return [
        {"file": str(file), "records": int(count), "spent": float(paid)}
        for file, count, paid in zip(market.table.files, records, spent, strict=True)
    ]


def _about(market: Market, bought: Selection, sigma2: float) -> dict[str, Any]:
    """Say what is on offer."""
    coverage_m = bought.coverage
    return {
        "records": market.n,
        "features": market.d,
        "queries": len(coverage_m),
        "coverage": {
            "least": float(coverage_m.min()),
            "mean": float(coverage_m.mean()),
            "low": int((coverage_m < LEAST_COVERAGE).sum()),
        },
        "error_before": sigma2 * bought.prior_error,
    }


def _print_purchase(
    bought: Selection,
    market: Market,
    sigma2: float,
    columns: Mapping[str, Sequence[Any]],
    files: Mapping[str, str],
) -> None:
    line = _line(bought.budget, bought, sigma2)
    print_columns(columns)
    typer.echo(
        f"{len(bought):,} of {market.n:,} records for {cell(bought.spent)} of "
        f"{cell(bought.budget)}; predicted error {cell(line['predicted_error'])} after "
        f"{cell(sigma2 * bought.prior_error)} without them"
    )
    if bought.gap == bought.gap:
        typer.echo(
            f"design: error {cell(line['design_error'])}, the optimum is at least "
            f"{cell(line['least_error'])} ({bought.efficiency:.1%} of it)"
        )
    for name, path in files.items():
        typer.echo(f"{name} {path}")


def _grid(market: Market, terms: Terms) -> list[float]:
    """Give budgets from one record (or lot) to twice as many records as there are features."""
    prices_n = np.ones(market.n) if market.prices_n is None else market.prices_n
    groups = market.table.groups
    if groups is not None and terms.max_per_group is None and terms.min_per_group is None:
        labels, codes_n = check_groups(groups, market.n, f"column {terms.group_col!r}")
        prices_n = check_lot_prices(prices_n, codes_n, labels)
    least = float(np.median(prices_n))
    most = max(least, min(2 * market.d * least, float(prices_n.sum())))
    found = np.geomspace(least, most, BUDGETS_OF_A_PLAN)
    # Budgets that say how many records are bought.
    counts = bool((prices_n == 1).all())
    return np.unique(np.ceil(found - 1e-9) if counts else found).tolist()


def _buy_each(
    market: Market,
    making: Making,
    terms: Terms,
    method: Method,
    budgets: Sequence[float],
    quiet: bool,
) -> list[tuple[float, Selection | None]]:
    """Buy for every budget; None where it buys nothing.

    Raises
    ------
    InfeasibleBudgetError
        If none of them buys anything.
    """
    found: list[tuple[float, Selection | None]] = []
    refusal: InfeasibleBudgetError | None = None
    for budget in budgets:
        try:
            with step_bar(f"budget {cell(budget)}", None, quiet) as on_step:
                found.append((budget, _buy(market, making, terms, method, budget, on_step)))
        except InfeasibleBudgetError as error:
            refusal = error
            found.append((budget, None))
    if refusal is not None and all(bought is None for _, bought in found):
        raise refusal
    return found


def _line(budget: float, bought: Selection, sigma2: float) -> dict[str, Any]:
    """Say in numbers what a budget buys."""
    found: dict[str, Any] = {
        "budget": budget,
        "bought": len(bought),
        "spent": bought.spent,
        "predicted_error": float(sigma2 * (bought.prior_error - bought.marginal_benefit.sum())),
    }
    found |= dict.fromkeys(_OF_DESIGNS, float("nan"))
    if bought.gap == bought.gap:
        loss = sigma2 * bought.objective
        least = sigma2 * max(bought.objective - bought.gap, 0.0)
        # It is the objective, where nothing is there besides what the weights buy; theory has it at
        # weights of sum 1.
        worth = sigma2 * float(bought.weights @ bought.scores)
        price = shadow_price(worth * budget, budget)
        found |= dict(zip(_OF_DESIGNS, (loss, least, bought.efficiency, price), strict=True))
    return {**found, "iterations": len(bought.history), "converged": bought.converged}


def _nothing(budget: float, market: Market, before: float) -> dict[str, Any]:
    """Say what a budget below every price buys."""
    return {
        "budget": budget,
        "bought": 0,
        "spent": 0.0,
        "predicted_error": before,
        **dict.fromkeys(_OF_DESIGNS, float("nan")),
        "iterations": 0,
        "converged": False,
        "items": [],
        "files": [{"file": str(path), "records": 0, "spent": 0.0} for path in market.table.files],
    }


def _write_plan(out: Path, whole: dict[str, Any]) -> None:
    """Write one line per budget, or all of it."""
    lines = whole["budgets"]
    if out.suffix == ".json":
        write_atomic(out, dumps(whole))
        return
    plain = [name for name in lines[0] if name not in ("items", "files")]
    columns = {name: [line[name] for line in lines] for name in plain}
    columns["items"] = [" ".join(map(str, line["items"])) for line in lines]
    for number, part in enumerate(lines[0]["files"]):
        for what in ("records", "spent"):
            name = f"{what} {part['file']}"
            columns[name] = [line["files"][number][what] for line in lines]
    write_table(out, columns)


def _print_plan(whole: dict[str, Any], out: Path | None) -> None:
    coverage, lines = whole["coverage"], whole["budgets"]
    typer.echo(
        f"{whole['records']:,} records, {whole['features']} features, {whole['queries']} queries; "
        f"coverage {cell(coverage['mean'])} (least {cell(coverage['least'])}, "
        f"{coverage['low']} below {LEAST_COVERAGE}); error without a purchase "
        f"{cell(whole['error_before'])}"
    )
    names = ("budget", "bought", "spent", "predicted_error", *_OF_DESIGNS)
    print_table(
        [name.replace("_", " ") for name in names],
        [[line[name] for name in names] for line in lines],
    )
    files = [part["file"] for part in lines[0]["files"]]
    if len(files) > 1:
        rows = [
            [file, *(f"{cell(part['spent'])} ({part['records']})" for part in parts)]
            for file, *parts in zip(files, *(line["files"] for line in lines), strict=True)
        ]
        heads = [f"at {cell(line['budget'])}" for line in lines]
        print_table(["file", *heads], rows, "what each file gets (records)")
    if out is not None:
        typer.echo(f"out {out}")
