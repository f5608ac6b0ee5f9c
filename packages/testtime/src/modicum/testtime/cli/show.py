"""How commands read lists and print tables: for people, or as JSON with ``--json``."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]


def numbers(text: str, name: str) -> list[float]:
    """Read numbers with commas: ``0.5,0.3,0.2``.

    Raises
    ------
    ValueError
        Naming the option and what is no number.
    """
    found = []
    for part in text.split(","):
        try:
            found.append(float(part))
        except ValueError:
            raise ValueError(f"{name} takes numbers with commas, not {part.strip()!r}") from None
    return found


def integers(text: str, name: str) -> list[int]:
    """Read integers with commas: ``1,2,4``."""
    found = numbers(text, name)
    for number in found:
        if number != int(number):
            raise ValueError(f"{name} takes integers with commas, not {number!r}")
    return [int(number) for number in found]


def plain(value: Any) -> Any:
    """Return a value as strict JSON holds it: NaN and infinities as None and words."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def print_json(value: Any) -> None:
    """Print a value as one JSON document."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))


def cell(value: Any) -> str:
    """Return a table cell: numbers to four significant digits, None as a dash."""
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
