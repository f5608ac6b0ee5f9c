"""The commands of ``modicum testtime …`` (also installed as ``modicum-testtime``)."""

from typing import Any

import typer

from modicum.core.cli import method_main
from modicum.testtime.cli.construction import construct_app, train
from modicum.testtime.cli.numbers import boundary, compare, plan, simulate
from modicum.testtime.cli.running import curve, run

app = typer.Typer(
    help="How many samples, when to stop, how to pick: with guarantees.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (plan, compare, boundary, simulate, run, curve, train):
    app.command()(command)
app.add_typer(construct_app, name="construct")


def __getattr__(name: str) -> Any:
    if name == "EXPERIMENTS":
        from modicum.testtime.experiments import EXPERIMENTS

        return EXPERIMENTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line."""
    method_main(app, "modicum-testtime")
