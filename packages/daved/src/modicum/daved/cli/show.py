"""How commands speak: tables and JSON on standard output, warnings and bars on standard error."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from modicum.daved.errors import DAVEDWarning
from modicum.daved.solvers.base import Step

__all__ = ["cell", "noted", "print_columns", "print_json", "print_table", "records_of", "step_bar"]

MOST_LINES = 20
"""Lines of a table that are printed; files have all of them."""

_WIDTH_WITHOUT_A_TERMINAL = 160


def cell(value: Any) -> str:
    """Return a table cell: numbers to four significant digits, what is unknown as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table for people, its first lines if there are many."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_WITHOUT_A_TERMINAL)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:MOST_LINES]:
        table.add_row(*(Text(cell(value)) for value in row))
    console.print(table)
    if len(rows) > MOST_LINES:
        typer.echo(f"… and {len(rows) - MOST_LINES:,} more")


def print_columns(columns: Mapping[str, Sequence[Any]], title: str = "") -> None:
    """Print columns of equal length as a table."""
    print_table(list(columns), list(zip(*columns.values(), strict=True)), title)


def records_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Give columns of equal length as one mapping per line."""
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def print_json(value: Any) -> None:
    """Print a value as one JSON document.

    Numbers that JSON has not, such as nan, are null, and names that it has not, such as dates, are
    their text.
    """
    from modicum.core.experiment import dumps

    typer.echo(dumps(_plain(value)), nl=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


@contextmanager
def noted(quiet: bool) -> Iterator[list[str]]:
    """Collect what the package warns of, each once, and say it on standard error unless quiet."""
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", DAVEDWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, DAVEDWarning):
                others(message, category, filename, lineno, file, line)
            elif str(message) not in found:
                found.append(str(message))
                if not quiet:
                    typer.echo(f"warning: {message}", err=True)

        warnings.showwarning = show
        yield found


@contextmanager
def step_bar(name: str, total: int | None, quiet: bool) -> Iterator[Callable[[Step], None] | None]:
    """Show a bar of a solver's iterations where someone watches the standard error stream."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda step: progress.update(task, completed=step.iteration + 1)
