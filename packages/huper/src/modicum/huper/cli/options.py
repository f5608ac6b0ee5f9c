"""Options that commands share, and what is made of their texts."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["counts_of", "range_of", "words_of"]

MODEL = "Model"
TRAINING = "Training"
WORLD = "World"
REFERENCE = "Reference"
OUTPUT = "Output"

Audio = Annotated[
    list[str],
    typer.Argument(
        metavar="AUDIO…",
        help="Audio files, .jsonl corpora, folders of Kaldi, or - for a list on standard input: a "
        "file in each line, or a file, a tab and its text.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="The model that comes with the package (tiny), or a folder of one.",
        rich_help_panel=MODEL,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, help="Recordings that are worked on together.", rich_help_panel=MODEL),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Write all that was found as JSON lines; the same command goes on where it was cut "
        "off.",
        rich_help_panel=OUTPUT,
    ),
]
TextGrid = Annotated[
    Path | None,
    typer.Option(
        help="Write a TextGrid: a file for one recording, else a folder.", rich_help_panel=OUTPUT
    ),
]
Ctm = Annotated[
    Path | None,
    typer.Option(help="Write the phones of all recordings as CTM.", rich_help_panel=OUTPUT),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON and nothing else.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no bar.", rich_help_panel=OUTPUT)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …", rich_help_panel=MODEL)]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn.")]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", min=1, help="Parts of the work that run at a time.")
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Draw into this file (.png, .svg, .pdf).", rich_help_panel=OUTPUT),
]


def words_of(text: str, option: str) -> list[str]:
    """Split words at commas.

    Raises
    ------
    ValueError
        If there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(f"{option} names none")
    return words


def range_of(text: str, option: str) -> tuple[int, int]:
    """Read ``3-5``, or ``4`` for both ends.

    Raises
    ------
    ValueError
        If it is no range.
    """
    least, _, most = text.partition("-")
    try:
        low, high = int(least), int(most or least)
    except ValueError:
        raise ValueError(f"{option} takes a range such as 3-5, not {text!r}") from None
    if not 1 <= low <= high:
        raise ValueError(f"{option} takes a range such as 3-5, not {text!r}")
    return low, high


def counts_of(given: list[str] | None, option: str) -> dict[str, int]:
    """Read ``NAME=COUNT``, each name once.

    Raises
    ------
    ValueError
        If one is something else.
    """
    counts: dict[str, int] = {}
    for text in given or ():
        name, equals, number = text.partition("=")
        if not equals or not name or not number.isdecimal() or not int(number):
            raise ValueError(f"{option} takes NAME=COUNT, such as train=500, not {text!r}")
        if name in counts:
            raise ValueError(f"{option} names {name!r} twice")
        counts[name] = int(number)
    return counts
