"""How commands speak: tables and JSON on standard output, bars on standard error."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from modicum.core.experiment import ProgressTask

__all__ = ["bars", "cell", "print_json", "print_table"]

_WIDTH_WITHOUT_A_TERMINAL = 160


def cell(value: Any) -> str:
    """Return a table cell: numbers to four significant digits, what is unknown as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """Print a table for people."""
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
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    console.print(table)


def print_json(value: Any) -> None:
    """Print a value as one JSON document; numbers that JSON has not, such as nan, are null."""
    from modicum.core.experiment import dumps

    typer.echo(dumps(_plain(value)), nl=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Open = Callable[[float | None, str], ProgressTask]


@contextmanager
def bars(quiet: bool) -> Iterator[Open]:
    """Give a function that opens a bar; it draws nothing where nobody watches standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda total, name: _Nothing()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:

        class Bar:
            def __init__(self, total: float | None, name: str):
                self._task = progress.add_task(name, total=total)

            def advance(self, n: float = 1) -> None:
                progress.advance(self._task, n)

        yield Bar


class _Nothing:
    def advance(self, n: float = 1) -> None:
        """Draw nothing."""
