"""How commands read lists, print tables and write pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]


def words(text: str, name: str) -> list[str]:
    """Read words with commas: ``adaptive,spsa``.

    Raises
    ------
    ValueError
        Naming the option if there is none.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise ValueError(f"{name} takes names with commas, not {text!r}")
    return found


def numbers(text: str, name: str) -> list[float]:
    """Read numbers with commas: ``0.1,1``.

    Raises
    ------
    ValueError
        Naming the option and what is no number.
    """
    found = []
    for part in words(text, name):
        try:
            found.append(float(part))
        except ValueError:
            raise ValueError(f"{name} takes numbers with commas, not {part!r}") from None
    return found


def integers(text: str, name: str) -> list[int]:
    """Read whole numbers with commas: ``1e3,1e4`` as well as ``1000,10000``.

    Raises
    ------
    ValueError
        Naming the option and what is no whole number.
    """
    found = numbers(text, name)
    for number in found:
        if not (math.isfinite(number) and number == int(number)):
            raise ValueError(f"{name} takes whole numbers with commas, not {number!r}")
    return [int(number) for number in found]


def cell(value: Any) -> str:
    """Return a table cell: numbers to four significant digits, what is unknown as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(cell, row))
    Console().print(table)


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be written, before what it shows is computed.

    Raises
    ------
    ValueError
        If matplotlib knows no format of that ending.
    """
    from modicum.core.plots import new_axes

    figure, _ = new_axes("modicum-zeroth")
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(
            f"{path}: a picture ends in one of {', '.join(f'.{name}' for name in formats)}"
        )


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format that its ending names, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    typer.echo(f"plot {path}")
