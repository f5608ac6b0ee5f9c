"""The commands of ``modicum zeroth …`` (also installed as ``modicum-zeroth``)."""

from typing import Any

import typer

from modicum.core.cli import method_main
from modicum.zeroth.cli.benching import bench
from modicum.zeroth.cli.planning import plan
from modicum.zeroth.cli.running import plot, run

app = typer.Typer(
    help="Noisy function values in, one provably good point out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (plan, run, bench, plot):
    app.command()(command)


def __getattr__(name: str) -> Any:
    if name == "EXPERIMENTS":
        from modicum.zeroth.experiments import EXPERIMENTS

        return EXPERIMENTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line."""
    method_main(app, "modicum-zeroth")
