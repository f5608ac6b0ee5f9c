"""The commands of ``modicum huper …`` (also installed as ``modicum-huper``)."""

from collections.abc import Callable
from typing import Any

import typer

from modicum.core.cli import method_main
from modicum.huper.cli.aligning import align, score
from modicum.huper.cli.drawing import confusions, evidence, noise, posteriorgram, reliability
from modicum.huper.cli.judging import evaluate
from modicum.huper.cli.listening import transcribe
from modicum.huper.cli.references import channel
from modicum.huper.cli.routing import calibrate
from modicum.huper.cli.selftraining import label, self_train
from modicum.huper.cli.training import train
from modicum.huper.cli.worlds import simulate, world

app = typer.Typer(
    help="Phones that were really spoken: from audio, and from text where it helps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
plots = typer.Typer(
    help="Pictures of recordings, of confusions, and of when to believe what.",
    no_args_is_help=True,
)


def _add(to: typer.Typer, **commands: Callable[..., None]) -> None:
    for name, command in commands.items():
        # As paragraphs: the help would keep the line breaks of the source.
        paragraphs = (command.__doc__ or "").split("\n\n")
        to.command(
            name.replace("_", "-"), help="\n\n".join(" ".join(text.split()) for text in paragraphs)
        )(command)


_add(
    app,
    transcribe=transcribe,
    align=align,
    score=score,
    eval=evaluate,
    channel=channel,
    world=world,
    simulate=simulate,
    train=train,
    label=label,
    self_train=self_train,
    calibrate=calibrate,
)
_add(
    plots,
    posteriorgram=posteriorgram,
    confusions=confusions,
    reliability=reliability,
    evidence=evidence,
    noise=noise,
)
app.add_typer(plots, name="plot")


def __getattr__(name: str) -> Any:
    if name == "EXPERIMENTS":
        from modicum.huper.experiments import EXPERIMENTS

        return EXPERIMENTS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line."""
    method_main(app, "modicum-huper")
