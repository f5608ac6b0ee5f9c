"""The command ``transcribe``: phones from audio."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.huper.cli import options
from modicum.huper.cli.inputs import Item, items_of, work_through
from modicum.huper.cli.show import bars

__all__ = ["transcribe"]


def transcribe(
    audio: options.Audio,
    model: options.Model = "tiny",
    decode: Annotated[
        str, typer.Option(help="How phones are read off.", rich_help_panel=options.MODEL)
    ] = "greedy",
    inventory: Annotated[
        str | None,
        typer.Option(
            help="The only phones that may be heard, with commas.",
            rich_help_panel=options.MODEL,
            show_default=False,
        ),
    ] = None,
    out: options.Out = None,
    textgrid: Annotated[
        Path | None,
        typer.Option(
            help="Write a TextGrid: a file for one recording, else a folder.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    ctm: Annotated[
        Path | None,
        typer.Option(
            help="Write the phones of all recordings as CTM.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    ipa: Annotated[
        bool, typer.Option("--ipa", help="Print IPA.", rich_help_panel=options.OUTPUT)
    ] = False,
    batch_size: options.BatchSize = 16,
    jobs: options.Jobs = 1,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Say which phones are spoken in recordings.

    Prints a line for each recording: its name and the phones with spaces between them, or with
    --json an object with times, confidences and all else. A recording that cannot be read is
    reported, the others go on, and the status is 1.
    """
    from modicum.huper.recognizer import Recognizer
    from modicum.huper.recognizer import decode as read_off

    items = items_of(audio)
    _check_targets(items, textgrid)
    recognizer = Recognizer.from_pretrained(model, device=device)
    allowed = None if inventory is None else options.words_of(inventory, "--inventory")
    # Wrong options are refused before any recording is read.
    read_off(_nothing(recognizer), decode, inventory=allowed)

    def listen(batch: Sequence[Item]) -> list[dict[str, Any]]:
        found = recognizer.transcribe(
            batch[0].audio if len(batch) == 1 else [one.audio for one in batch],
            decode=decode,
            inventory=allowed,
            batch_size=batch_size,
        )
        return [
            {"audio_path": one.audio, "text": one.text, **transcript.to_dict()}
            for one, transcript in zip(batch, found, strict=True)
        ]

    settings = {
        "command": "transcribe",
        "model": model,
        "decode": decode,
        "inventory": allowed,
    }
    with bars(quiet) as bar:
        rows, failures = work_through(
            items,
            listen,
            out=out,
            settings=settings,
            open_bar=bar,
            what="listening",
            batch_size=batch_size,
            jobs=jobs,
        )
    write_files(rows, textgrid, ctm, single=len(items) == 1)
    tell(rows, as_json, "ipa" if ipa else "phones", single=len(items) == 1)
    if failures:
        raise typer.Exit(1)


def _nothing(recognizer: Any) -> Any:
    """Give emissions of a frame without a phone."""
    import torch

    from modicum.huper.emissions import Emissions

    phones = recognizer.phones
    logits_1C = torch.zeros(1, len(phones))
    return Emissions.log_softmax(logits_1C, None, recognizer.frame_shift, phones)


def _check_targets(items: Sequence[Item], textgrid: Path | None) -> None:
    if textgrid is None or len(items) == 1:
        return
    if textgrid.suffix or textgrid.is_file():
        raise ValueError(
            f"--textgrid takes a folder for {len(items)} recordings, and {textgrid} is a file"
        )


def write_files(
    rows: Sequence[dict[str, Any]], textgrid: Path | None, ctm: Path | None, *, single: bool
) -> None:
    """Write what was found for other programs."""
    from modicum.core.experiment import write_atomic
    from modicum.huper import formats
    from modicum.huper.transcript import Transcript

    lines = []
    for row in rows:
        transcript = Transcript.from_dict(row)
        if textgrid is not None:
            path = textgrid
            if not single or textgrid.is_dir() or not textgrid.suffix:
                path = textgrid / f"{Path(row['id']).name}.TextGrid"
            write_atomic(path, formats.textgrid(transcript, _seconds(row["audio_path"])))
        if ctm is not None:
            lines.append(formats.ctm(transcript, Path(row["id"]).name))
    if ctm is not None:
        write_atomic(ctm, "".join(lines))


def _seconds(path: str) -> float:
    import soundfile  # type: ignore[import-untyped]

    about = soundfile.info(path)
    return float(about.frames / about.samplerate)


def tell(rows: Sequence[dict[str, Any]], as_json: bool, what: str, *, single: bool) -> None:
    """Print a line for each recording."""
    import json

    for row in rows:
        if as_json:
            typer.echo(json.dumps(row, ensure_ascii=False, allow_nan=False))
        elif single:
            typer.echo(" ".join(row[what]))
        else:
            typer.echo(f"{row['id']}\t{' '.join(row[what])}")
