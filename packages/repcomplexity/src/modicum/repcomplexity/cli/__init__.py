"""The commands of ``modicum repcomplexity …`` (also installed as ``modicum-repcomplexity``)."""

from collections.abc import Callable
from typing import Any

import typer

from modicum.core.cli import method_main
from modicum.repcomplexity.cli.circuits import bounds, build, convert, evaluate, minimise, show
from modicum.repcomplexity.cli.collecting import collect
from modicum.repcomplexity.cli.environments import envs
from modicum.repcomplexity.cli.measuring import measure, mujoco, plot
from modicum.repcomplexity.cli.reports import report, scale

app = typer.Typer(
    help="Representation complexity: is the model or the value function simpler to represent?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
circuits = typer.Typer(
    help="Circuits in files, smallest forms of a function, and bounds.",
    no_args_is_help=True,
)


def _add(to: typer.Typer, *commands: Callable[..., None]) -> None:
    for command in commands:
        # As paragraphs: the help would keep the line breaks of the source.
        paragraphs = (command.__doc__ or "").split("\n\n")
        to.command(help="\n\n".join(" ".join(text.split()) for text in paragraphs))(command)


_add(app, report, scale, envs, collect, measure, plot, mujoco)
_add(circuits, show, evaluate, convert, build, minimise, bounds)
app.add_typer(circuits, name="circuits")


def __getattr__(name: str) -> Any:
    if name == "EXPERIMENTS":
        from modicum.repcomplexity.experiments import EXPERIMENTS

        return EXPERIMENTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line."""
    method_main(app, "modicum-repcomplexity")
