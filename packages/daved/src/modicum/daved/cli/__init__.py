"""The commands of ``modicum daved …`` (also installed as ``modicum-daved``)."""

from typing import Any

import typer
from typer.core import TyperGroup

from modicum.core.cli import method_main
from modicum.daved.cli import serving
from modicum.daved.cli.buying import plan, report, select
from modicum.daved.cli.options import Command
from modicum.daved.cli.valuing import quote, score
from modicum.daved.errors import InfeasibleBudgetError

INFEASIBLE = 3
"""Exit status where the budget buys nothing; 2 is a bad input."""


class _Group(TyperGroup):
    """Commands that say with a status of their own that a budget buys nothing."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except InfeasibleBudgetError as error:
            typer.echo(f"{ctx.command_path}: {error}", err=True)
            raise typer.Exit(INFEASIBLE) from None


app = typer.Typer(
    cls=_Group,
    help="Which records to buy so that a model of them predicts these queries well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (select, plan, score, quote, report):
    # As paragraphs: the help would keep the line breaks of the source.
    paragraphs = (command.__doc__ or "").split("\n\n")
    app.command(cls=Command, help="\n\n".join(" ".join(text.split()) for text in paragraphs))(
        command
    )
# Without a name its commands stand beside the others.
app.add_typer(serving.app)


def __getattr__(name: str) -> Any:
    if name == "EXPERIMENTS":
        from modicum.daved.experiments import EXPERIMENTS

        return EXPERIMENTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line."""
    method_main(app, "modicum-daved")
