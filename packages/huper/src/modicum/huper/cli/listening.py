"""The command ``transcribe``: phones from audio."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options, references
from modicum.huper.cli.inputs import items_of, sound_of, work_through
from modicum.huper.cli.routing import Lexicon, System, is_system, system_of
from modicum.huper.cli.show import bars

if TYPE_CHECKING:
    from modicum.huper.corpus import Item
    from modicum.huper.transcript import Transcript

__all__ = ["check_targets", "tell", "transcribe", "with_transcript", "write_files"]


def transcribe(
    audio: options.Audio,
    text: references.Text = None,
    use_text: Annotated[
        bool,
        typer.Option(
            "--use-text",
            help="Take the texts, or else the canonical phones, of lists and corpora into account.",
            rich_help_panel=options.REFERENCE,
        ),
    ] = False,
    g2p: references.Pronouncing = None,
    channel: references.Channel = None,
    lexicon: Lexicon = None,
    model: System = "tiny",
    decode: Annotated[
        str,
        typer.Option(
            help="How the ear reads phones off: greedy, beam or lattice.",
            rich_help_panel=options.MODEL,
        ),
    ] = "greedy",
    lm: Annotated[
        Path | None,
        typer.Option(
            help="Phone n-grams (ARPA) for beam and lattice.",
            rich_help_panel=options.MODEL,
            show_default=False,
        ),
    ] = None,
    lm_weight: Annotated[
        float,
        typer.Option(help="Factor of their log-probabilities.", rich_help_panel=options.MODEL),
    ] = 0.5,
    beam: Annotated[
        int,
        typer.Option(
            min=1, help="Prefixes that beam and lattice keep.", rich_help_panel=options.MODEL
        ),
    ] = 16,
    inventory: Annotated[
        str | None,
        typer.Option(
            help="The only phones that the ear may hear, with commas.",
            rich_help_panel=options.MODEL,
            show_default=False,
        ),
    ] = None,
    paths: Annotated[
        bool,
        typer.Option(
            "--paths",
            help="Also say what the other paths would have answered.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
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

    Without a text it is what the ear says. With --text, --use-text, --lexicon or the folder of a
    system as the model, the path is chosen for each recording: the ear, or what it says near the
    text; field trace says which and why.

    Prints a line for each recording: its name and the phones with spaces between them, or with
    --json an object with times, confidences and all else. A recording that cannot be read is
    reported, the others go on, and the status is 1.
    """
    items = items_of(audio)
    check_targets(items, textgrid)
    allowed = None if inventory is None else options.words_of(inventory, "--inventory")
    near = text is not None or use_text
    whole = near or lexicon is not None or paths or is_system(model)
    if whole and (decode != "greedy" or allowed is not None):
        raise ValueError("--decode and --inventory are for the ear alone, without a text or system")
    if not near and (g2p is not None or (channel is not None and lexicon is None)):
        raise ValueError("--g2p and --channel are for texts: give --text or --use-text")
    if lm is not None and (whole or decode == "greedy"):
        raise ValueError("--lm is for --decode beam and lattice")
    work = (
        _by_system(items, model, text, near, g2p, channel, lexicon, paths, batch_size, device)
        if whole
        else _by_ear(model, decode, allowed, lm, lm_weight, beam, batch_size, device)
    )
    settings = {
        "command": "transcribe",
        "model": model,
        "decode": decode,
        "inventory": allowed,
        "lm": None if lm is None else [str(lm), lm_weight],
        "beam": beam,
        "text": text,
        "use_text": use_text,
        "g2p": g2p,
        "channel": None if channel is None else str(channel),
        "lexicon": None if lexicon is None else str(lexicon),
        "paths": paths,
    }
    with bars(quiet) as bar:
        done, failures = work_through(
            items,
            work,
            out=out,
            settings=settings,
            open_bar=bar,
            what="listening",
            batch_size=batch_size,
            jobs=jobs,
        )
    write_files(done, textgrid, ctm, single=len(items) == 1)
    tell(done, as_json, "ipa" if ipa else "phones", single=len(items) == 1)
    if paths and not as_json:
        for item in done:
            for one in item.extra["hypotheses"]:
                typer.echo(f"{item.id}\t{one['path']}\t{' '.join(one['phones'])}")
    if failures:
        raise typer.Exit(1)


Work = Callable[["Sequence[Item]"], "Sequence[Item]"]


def _by_ear(
    model: str,
    decode: str,
    inventory: list[str] | None,
    lm: Path | None,
    lm_weight: float,
    beam: int,
    batch_size: int,
    device: str,
) -> Work:
    from modicum.huper.beam import PhoneNgram
    from modicum.huper.recognizer import Recognizer
    from modicum.huper.recognizer import decode as read_off

    recognizer = Recognizer.from_pretrained(model, device=device)
    how: dict[str, Any] = {"inventory": inventory}
    if decode != "greedy":
        how |= {"beam": beam, "lm_weight": lm_weight}
        how["lm"] = None if lm is None else PhoneNgram.load(lm, recognizer.phones)
    # Wrong options are refused before any recording is read.
    read_off(_nothing(recognizer), decode, **how)

    def listen(batch: "Sequence[Item]") -> "list[Item]":
        sounds = [sound_of(one) for one in batch]
        found = recognizer.transcribe(
            sounds[0] if len(sounds) == 1 else sounds,
            decode=decode,
            batch_size=batch_size,
            **how,
        )
        return [with_transcript(*pair) for pair in zip(batch, found, strict=True)]

    return listen


def _by_system(
    items: "Sequence[Item]",
    model: str,
    text: str | None,
    near: bool,
    g2p: str | None,
    channel: Path | None,
    lexicon: Path | None,
    paths: bool,
    batch_size: int,
    device: str,
) -> Work:
    system = system_of(model, channel=channel, lexicon=lexicon, device=device)
    wanted = references.Wanted(items, text, g2p) if near else None

    def listen(batch: "Sequence[Item]") -> "list[Item]":
        sounds = [sound_of(one) for one in batch]
        texts = None if wanted is None else [wanted.words(one) for one in batch]
        found = system(sounds, text=texts, paths=paths, batch_size=batch_size)
        return [with_transcript(*pair) for pair in zip(batch, found, strict=True)]

    return listen


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
    """Write what was found for other programs.

    Raises
    ------
    ValueError
        If two recordings would have one name.
    """
    from modicum.core.experiment import write_atomic
    from modicum.huper import formats

    lines = []
    for item, name in zip(items, file_names([item.id for item in items]), strict=True):
        transcript = transcript_of(item)
        if textgrid is not None:
            path = textgrid
            if not single or textgrid.is_dir() or not textgrid.suffix:
                path = textgrid / f"{name}.TextGrid"
            write_atomic(path, formats.textgrid(transcript, _seconds(item)))
        if ctm is not None:
            lines.append(formats.ctm(transcript, "_".join(name.split())))
    if ctm is not None:
        write_atomic(ctm, "".join(lines))


def file_names(ids: "Sequence[str]") -> list[str]:
    """Name recordings without their folders, and with them where names would be the same.

    Raises
    ------
    ValueError
        If two would still be called alike.
    """
    names = [Path(one).name for one in ids]
    if len({"_".join(name.split()) for name in names}) < len(names):
        names = [one.strip("/").replace("/", "_") for one in ids]
    if len({"_".join(name.split()) for name in names}) < len(names):
        raise ValueError("two recordings would have the same name; give them ids that differ")
    return names


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
