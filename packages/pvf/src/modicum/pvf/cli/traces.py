"""The commands ``trace`` (what a trace holds) and ``replay`` (see it happen)."""

from pathlib import Path
from typing import Annotated

import typer

from modicum.pvf.cli.options import AsJson
from modicum.pvf.cli.show import print_json, print_table

__all__ = ["replay", "trace"]

CUT_OFF = 1
"""Exit status where a recording did not come to its end; 2 is a bad input."""

File = Annotated[Path, typer.Argument(help="Trace of generate --trace.", show_default=False)]


def trace(file: File, as_json: AsJson = False) -> None:
    """Check a trace and say what each sequence cost.

    Exit status 1 if the recording was cut off.
    """
    from modicum.pvf.trace import Trace, visible

    found = Trace.read(file)
    costs = [found.cost(number) for number in range(len(found.canvases))]
    if as_json:
        print_json(
            {
                "complete": found.is_complete,
                "config": found.config,
                "versions": found.versions,
                "sequences": [
                    {**cost.to_dict(), "ids": found.canvas(number)}
                    for number, cost in enumerate(costs)
                ],
            }
        )
    else:
        columns = ["sequence", "calls (NFE)", "rows", "token evals", "tokens", "tokens/call"]
        columns += ["H", "P", "F", "X", "not kept", "seconds"]
        lines = [
            [
                number,
                cost.calls,
                cost.rows,
                cost.token_evals,
                cost.tokens,
                cost.tokens_per_call,
                *cost.committed.values(),
                cost.rejected,
                cost.seconds,
            ]
            for number, cost in enumerate(costs)
        ]
        print_table(columns, lines, "" if found.is_complete else "cut off before its end")
        for number in range(len(costs)):
            words = (visible(found.text(token)) for token in found.canvas(number))
            typer.echo(f"{number}: {' '.join(words)}")
    if not found.is_complete:
        raise typer.Exit(CUT_OFF)


def replay(
    file: File,
    html: Annotated[Path | None, typer.Option(help="Write a page with a slider (.html).")] = None,
    gif: Annotated[Path | None, typer.Option(help="Write an animation (.gif).")] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Show it here, beside files; else without them.")
    ] = False,
    sequence: Annotated[
        int | None, typer.Option(help="Number of one sequence; by default a page shows more.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Between two commits.")] = 0.4,
) -> None:
    """Show a decoding commit by commit: in the terminal, as a page, or as an animation."""
    from modicum.pvf.page import write_page
    from modicum.pvf.trace import Trace
    from modicum.pvf.trace import replay as show

    for path, ending in ((html, ".html"), (gif, ".gif")):
        if path is not None and path.suffix != ending:
            raise ValueError(f"--{ending[1:]} takes a file that ends in {ending}, not {path}")
    found = Trace.read(file)
    one = 0 if sequence is None else found.check_sequence(sequence)
    if html is not None:
        write_page(found, html, sequences=None if sequence is None else [sequence])
        typer.echo(f"html {html}")
    if gif is not None:
        from modicum.pvf.integrations.gif import write_gif

        write_gif(found, gif, one, seconds=seconds)
        typer.echo(f"gif {gif}")
    if terminal or (html is None and gif is None):
        show(found, one, seconds=seconds)
