"""The commands ``score`` (what records are worth) and ``quote`` (up to which price to buy them)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from modicum.daved.estimator import DAVED

from modicum.daved.acquisition import STEPS_WITHOUT_A_BUDGET
from modicum.daved.cli.inputs import Reader, places
from modicum.daved.cli.options import Inputs, Making, Output, Terms, command
from modicum.daved.cli.show import noted, print_columns, print_json, records_of
from modicum.daved.integrations.tables import check_writable, write_table
from modicum.daved.select import score as value
from modicum.daved.theory import efficiency
from modicum.daved.validation import check_one_of, check_prices

__all__ = ["quote", "score"]

RELAXED = ("fw", "multiplicative", "exact")
"""Solvers of which the weights are a design, so that prices follow from it."""

Out = Annotated[Path | None, typer.Option(help="Write the table (.csv, .parquet).")]
MaxIter = Annotated[int, typer.Option(min=1, help="Most iterations.")]
Tol = Annotated[
    float, typer.Option(help="Stop when the certificate is below this share of the objective.")
]


@command
def score(
    inputs: Inputs,
    making: Making,
    output: Output,
    solver: Annotated[
        str, typer.Option(help="Whose design it is: one_step, fw, multiplicative or exact.")
    ] = "one_step",
    max_iter: MaxIter = STEPS_WITHOUT_A_BUDGET,
    tol: Tol = 1e-3,
    out: Out = None,
) -> None:
    """Say what each record is worth to the queries, per unit of its price where it has one.

    Scores rank records. Prices up to which records are worth buying are what quote gives.
    """
    if out is not None:
        check_writable(out)
    with noted(output.quiet) as warnings:
        market = Reader(inputs, making, Terms()).market()
        scores_n = value(
            market.rows,
            market.queries_md,
            costs=market.prices_n,
            solver=solver,
            max_iter=max_iter,
            tol=tol,
            device=making.device,
            dtype=making.dtype,
        )
    columns = dict(places(market.table))
    if market.prices_n is not None:
        columns["price"] = market.prices_n.tolist()
    columns["score"] = scores_n.tolist()
    _tell(columns, "score", {"solver": solver}, warnings, out, output)


@command
def quote(
    inputs: Inputs,
    making: Making,
    output: Output,
    new: Annotated[
        list[Path] | None,
        typer.Option(help="Quote these records, which need not be on offer, not the sellers'."),
    ] = None,
    solver: Annotated[
        str, typer.Option(help=f"Whose design sets prices: {', '.join(RELAXED)}.")
    ] = "multiplicative",
    max_iter: MaxIter = 1000,
    tol: Tol = 1e-3,
    out: Out = None,
) -> None:
    """Give the fair price of records: the price up to which each is worth buying.

    The design is that of the sellers' records at their prices. A record that costs less than its
    fair price lowers the error that any budget can reach; at the optimum no record on offer does,
    and those that are worth buying cost just that. It does not depend on the budget.
    """
    if out is not None:
        check_writable(out)
    check_one_of("--solver", solver, RELAXED)
    from modicum.daved.estimator import DAVED

    reader = Reader(inputs, making, Terms())
    with noted(output.quiet) as warnings:
        market = reader.market()
        design = DAVED(
            solver,
            max_iter=max_iter,
            tol=tol,
            device=making.device,
            dtype=making.dtype,
            progress=not output.quiet,
        ).fit(market.rows, market.queries_md, market.prices_n)
        if new is None:
            columns = dict(places(market.table))
            prices_k, fair_k = market.prices_n, design.fair_price_
        else:
            table, rows = reader.further(new)
            columns = dict(places(table))
            prices_k, fair_k = table.prices, _quotes(design, rows)
            if prices_k is not None:
                check_prices(prices_k, len(fair_k), f"column {inputs.price_col!r}")
    if prices_k is not None:
        columns["price"] = prices_k.tolist()
    columns["fair_price"] = fair_k.tolist()
    if prices_k is not None:
        columns["fair_over_price"] = (fair_k / prices_k).tolist()
    about = {
        "solver": solver,
        "efficiency": efficiency(design.dual_gap_, design.objective_),
        "iterations": design.n_iter_,
    }
    _tell(columns, "fair_price", about, warnings, out, output)


def _quotes(design: "DAVED", rows: Any) -> np.ndarray:
    """Give the fair prices of any rows, (k, d) or shards of them."""
    shards = rows if isinstance(rows, list) else [rows]
    return np.concatenate([design.quote(shard) for shard in shards])


def _tell(
    columns: Mapping[str, Sequence[Any]],
    by: str,
    about: Mapping[str, Any],
    warnings: Sequence[str],
    out: Path | None,
    output: Output,
) -> None:
    """Write and print records with their values, the most valuable first where people read."""
    if out is not None:
        write_table(out, columns)
    if output.as_json:
        print_json({**about, "values": records_of(columns), "warnings": warnings})
        return
    if output.quiet:
        return
    order = np.argsort(-np.asarray(columns[by]), kind="stable")
    print_columns({name: [found[number] for number in order] for name, found in columns.items()})
    if out is not None:
        typer.echo(f"out {out}")
