"""The command ``train``: a tiny recognizer from a corpus."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options
from modicum.huper.cli.corpora import labelled
from modicum.huper.cli.show import bars, print_json, print_table

if TYPE_CHECKING:
    from modicum.huper.phones import PhoneSet
    from modicum.huper.tiny import TinyConvCTC
    from modicum.huper.training import Engine

__all__ = ["train"]

INVENTORIES = ("arpabet39", "arpabet40", "timit61", "corpus")


def train(
    corpus: Annotated[
        list[Path],
        typer.Argument(metavar="CORPUS…", help="JSONL files or Kaldi folders to learn from."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the model, and of the state while it is trained.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ],
    label: Annotated[
        str,
        typer.Option(
            help="Phones to learn: realized (field real_phonemes), canonical (phonemes) or label "
            "(label_phonemes).",
            rich_help_panel=options.TRAINING,
        ),
    ] = "realized",
    dev: Annotated[
        list[Path] | None,
        typer.Option(
            help="Corpus on which the phone error rate is taken along the way.",
            rich_help_panel=options.TRAINING,
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of a tiny model to go on from, in place of fresh weights.",
            rich_help_panel=options.MODEL,
            show_default=False,
        ),
    ] = None,
    inventory: Annotated[
        str,
        typer.Option(
            help=f"Phones of fresh weights: {', '.join(INVENTORIES)} (all that occur in it).",
            rich_help_panel=options.MODEL,
        ),
    ] = "arpabet39",
    width: Annotated[
        int, typer.Option(min=1, help="Channels of fresh weights.", rich_help_panel=options.MODEL)
    ] = 96,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over it.", rich_help_panel=options.TRAINING)
    ] = 60,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Utterances of a step.", rich_help_panel=options.TRAINING)
    ] = 16,
    learning_rate: Annotated[
        float,
        typer.Option(help="Peak of the one-cycle schedule.", rich_help_panel=options.TRAINING),
    ] = 2e-3,
    noise: Annotated[
        float,
        typer.Option(
            min=0,
            help="Standard deviation of what is added to the features, which have 1.",
            rich_help_panel=options.TRAINING,
        ),
    ] = 0.15,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, bf16, or fp16 (on CUDA only) of the network.",
            rich_help_panel=options.TRAINING,
        ),
    ] = "fp32",
    accelerate: Annotated[
        bool,
        typer.Option(
            "--accelerate",
            help="Take steps with accelerate; for several GPUs start it with accelerate launch.",
            rich_help_panel=options.TRAINING,
        ),
    ] = False,
    dev_every: Annotated[
        int,
        typer.Option(
            min=1, help="Epochs between two looks at --dev.", rich_help_panel=options.TRAINING
        ),
    ] = 5,
    save_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds between two states on disk.", rich_help_panel=options.TRAINING
        ),
    ] = 60.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a convolutional CTC model of a quarter of a million parameters.

    The same command goes on where it was cut off, and ends with the same weights as if it had not
    been. Weights of utterances (field weight) may be negative, as those of a doubly robust risk
    are.
    """
    from modicum.huper.training import TrainingConfig
    from modicum.huper.training import train as run

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        noise=noise,
        precision=precision,
        seed=seed,
        dev_every=dev_every,
    )
    utterances = [one for path in corpus for one in labelled(path, label)]
    held_out = [one for path in dev or () for one in labelled(path, label)]
    model = _model(start, inventory, [one.phones for one in utterances], width, seed)
    engine = _engine(precision) if accelerate else None
    steps = math.ceil(len(utterances) / batch_size) * epochs
    with bars(quiet or (engine is not None and engine.rank > 0)) as bar:
        report = run(
            model,
            utterances,
            config,
            dev=held_out,
            folder=out,
            device=device,
            engine=engine,
            save_seconds=save_seconds,
            progress=bar(steps, "training"),
        )
    if engine is not None and engine.rank:
        return
    found: dict[str, Any] = {
        "model": str(out),
        "parameters": sum(one.numel() for one in model.parameters()),
        "utterances": len(utterances),
        "steps": report.steps,
        "loss": report.losses[-1],
        "dev_per": report.dev_per.get(epochs),
        "unalignable": report.unalignable,
        "seconds": report.seconds,
    }
    if as_json:
        curve = {str(epoch): per for epoch, per in report.dev_per.items()}
        print_json({**found, "losses": report.losses, "dev_per_by_epoch": curve})
    else:
        print_table(["", "training"], [list(pair) for pair in found.items()])


def _model(
    start: Path | None, inventory: str, said: list[tuple[str, ...]], width: int, seed: int
) -> "TinyConvCTC":
    from modicum.huper.tiny import TinyConfig, TinyConvCTC

    if start is not None:
        return TinyConvCTC.from_pretrained(start)
    return TinyConvCTC(_inventory(inventory, said), TinyConfig(width=width), seed)


def _inventory(name: str, said: list[tuple[str, ...]]) -> "PhoneSet":
    from modicum.huper.phones import PhoneSet

    if name not in INVENTORIES:
        raise ValueError(f"--inventory must be one of {', '.join(INVENTORIES)}, not {name!r}")
    if name == "corpus":
        return PhoneSet.ipa(sorted({phone for one in said for phone in one}))
    found: PhoneSet = getattr(PhoneSet, name)()
    return found


def _engine(precision: str) -> "Engine":
    from modicum.huper.integrations.accelerate import AccelerateEngine

    return AccelerateEngine(mixed_precision="no" if precision == "fp32" else precision)
