"""The command ``transcribe``: phones from audio."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options
from modicum.huper.cli.inputs import items_of, sound_of, work_through
from modicum.huper.cli.show import bars

if TYPE_CHECKING:
    from modicum.huper.corpus import Item
    from modicum.huper.transcript import Transcript

__all__ = ["check_targets", "tell", "transcribe", "with_transcript", "write_files"]


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
    textgrid: options.TextGrid = None,
    ctm: options.Ctm = None,
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
    check_targets(items, textgrid)
    recognizer = Recognizer.from_pretrained(model, device=device)
    allowed = None if inventory is None else options.words_of(inventory, "--inventory")
    # Wrong options are refused before any recording is read.
    read_off(_nothing(recognizer), decode, inventory=allowed)

    def listen(batch: "Sequence[Item]") -> "list[Item]":
        sounds = [sound_of(one) for one in batch]
        found = recognizer.transcribe(
            sounds[0] if len(sounds) == 1 else sounds,
            decode=decode,
            inventory=allowed,
            batch_size=batch_size,
        )
        return [with_transcript(*pair) for pair in zip(batch, found, strict=True)]

    settings = {
        "command": "transcribe",
        "model": model,
        "decode": decode,
        "inventory": allowed,
    }
    with bars(quiet) as bar:
        done, failures = work_through(
            items,
            listen,
            out=out,
            settings=settings,
            open_bar=bar,
            what="listening",
            batch_size=batch_size,
            jobs=jobs,
        )
    write_files(done, textgrid, ctm, single=len(items) == 1)
    tell(done, as_json, "ipa" if ipa else "phones", single=len(items) == 1)
    if failures:
        raise typer.Exit(1)


def _nothing(recognizer: Any) -> Any:
    """Give emissions of a frame without a phone."""
    import torch

    from modicum.huper.emissions import Emissions

    phones = recognizer.phones
    logits_1C = torch.zeros(1, len(phones))
    return Emissions.log_softmax(logits_1C, None, recognizer.frame_shift, phones)


def check_targets(items: "Sequence[Item]", textgrid: Path | None) -> None:
    """Refuse one file for several recordings.

    Raises
    ------
    ValueError
        If that is asked for.
    """
    if textgrid is None or len(items) == 1:
        return
    if textgrid.suffix or textgrid.is_file():
        raise ValueError(
            f"--textgrid takes a folder for {len(items)} recordings, and {textgrid} is a file"
        )


def with_transcript(item: "Item", transcript: "Transcript") -> "Item":
    """Put what was heard beside what is known of an utterance."""
    return replace(item, extra={**item.extra, **transcript.to_dict()})


def transcript_of(item: "Item") -> "Transcript":
    """Take it from there."""
    from modicum.huper.transcript import Transcript

    return Transcript.from_dict(item.extra)


def write_files(
    items: "Sequence[Item]", textgrid: Path | None, ctm: Path | None, *, single: bool
) -> None:
    """Write what was found for other programs."""
    from modicum.core.experiment import write_atomic
    from modicum.huper import formats

    lines = []
    for item in items:
        transcript, name = transcript_of(item), Path(item.id).name
        if textgrid is not None:
            path = textgrid
            if not single or textgrid.is_dir() or not textgrid.suffix:
                path = textgrid / f"{name}.TextGrid"
            write_atomic(path, formats.textgrid(transcript, _seconds(item)))
        if ctm is not None:
            lines.append(formats.ctm(transcript, name))
    if ctm is not None:
        write_atomic(ctm, "".join(lines))


def _seconds(item: "Item") -> float:
    samples, rate = item.audio()
    return float(len(samples) / rate)


def tell(items: "Sequence[Item]", as_json: bool, what: str, *, single: bool) -> None:
    """Print a line for each recording."""
    for item in items:
        if as_json:
            typer.echo(json.dumps(item.to_row(), ensure_ascii=False, allow_nan=False))
        elif single:
            typer.echo(" ".join(item.extra[what]))
        else:
            typer.echo(f"{item.id}\t{' '.join(item.extra[what])}")
