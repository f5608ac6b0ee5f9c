"""The commands of ``modicum pvf …`` (also installed as ``modicum-pvf``)."""

from typing import Any

import typer

from modicum.core.cli import method_main
from modicum.pvf.cli.decoding import compare, generate
from modicum.pvf.cli.traces import replay, trace
from modicum.pvf.cli.tuning import advise, calibrate, train_tiny

app = typer.Typer(
    help="Plan-verify-fill decoding: masked diffusion language models in fewer forward passes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (generate, compare, trace, replay, calibrate, advise, train_tiny):
    # As paragraphs: the help would keep the line breaks of the source.
    paragraphs = (command.__doc__ or "").split("\n\n")
    app.command(help="\n\n".join(" ".join(text.split()) for text in paragraphs))(command)


def __getattr__(name: str) -> Any:
    if name == "EXPERIMENTS":
        from modicum.pvf.experiments import EXPERIMENTS

        return EXPERIMENTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line."""
    method_main(app, "modicum-pvf")
