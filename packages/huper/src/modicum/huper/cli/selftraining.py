"""The commands ``label`` and ``self-train``: labels from transcripts, and recognizers from them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options, references
from modicum.huper.cli.corpora import read
from modicum.huper.cli.references import g2p_of
from modicum.huper.cli.show import bars, print_json, print_table

if TYPE_CHECKING:
    from modicum.huper.corpus import Item
    from modicum.huper.selftrain import Labels

__all__ = ["label", "self_train"]

CORRECTORS = ("channel", "neural", "none")

Labelled = Annotated[
    Path,
    typer.Option(
        help="Corpus with canonical and realized phones, to learn from what speakers do.",
        rich_help_panel=options.TRAINING,
        show_default=False,
    ),
]
Corrector = Annotated[
    str,
    typer.Option(
        help="channel: edits counted on the labelled utterances and decoded exactly. neural: a "
        "network. none: what is heard, as it is.",
        rich_help_panel=options.TRAINING,
    ),
]
Context = Annotated[
    bool,
    typer.Option(
        "--context",
        help="Let what happens to a phone depend on its neighbours.",
        rich_help_panel=options.TRAINING,
    ),
]
Keep = Annotated[
    float,
    typer.Option(
        help="Share of the labels that are kept: those whose transcript fits the sound best.",
        rich_help_panel=options.TRAINING,
    ),
]
Pronouncing = Annotated[
    str | None,
    typer.Option(
        "--g2p",
        help="Makes phones of texts in corpora without phonemes: espeak, cmudict, gruut, "
        "phonemizer, or a dictionary's file.",
        rich_help_panel=options.REFERENCE,
        show_default=False,
    ),
]


def label(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="Transcribed utterances to label.")
    ],
    labelled: Labelled,
    out: Annotated[
        Path,
        typer.Option(
            help="JSONL of those that are kept, with label_phonemes; OUT.all.jsonl beside it has "
            "all of them.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ],
    corrector: Corrector = "channel",
    context: Context = False,
    lam: references.Lam = 1.0,
    keep: Keep = 0.95,
    folds: Annotated[
        int,
        typer.Option(
            min=0,
            help="First say how wrong such labels are, by as many folds of the labelled "
            "utterances; the model must not have heard them. 0 does not.",
            rich_help_panel=options.TRAINING,
        ),
    ] = 0,
    g2p: Pronouncing = None,
    model: options.Model = "tiny",
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Label a corpus by its transcripts and what a recognizer hears, to train another one.

    The same command goes on where it was cut off. What it writes is for train --label label, beside
    the labelled utterances with their realized phones.
    """
    from modicum.huper.channel import EditChannel
    from modicum.huper.corpus import write_jsonl
    from modicum.huper.recognizer import Recognizer
    from modicum.huper.selftrain import items_of, label_report, make_labels

    _check(corrector, keep)
    engine = None if g2p is None else g2p_of(g2p)
    known = items_of(read(labelled), engine, realized=True, name="labelled")
    items = items_of(read(corpus), engine, name="transcribed")
    recognizer = Recognizer.from_pretrained(model, device=device)
    how: dict[str, Any] = {"corrector": corrector, "lam": lam}
    phones = recognizer.phones
    known = [_folded(one, phones) for one in known]
    pairs = [(one.phones("canonical"), one.phones("realized")) for one in known]
    channel = EditChannel.fit(pairs, context="lr" if context else None, phones=phones)
    report = None
    if folds:
        report = label_report(
            known,
            folds,
            recognizer,
            context="lr" if context else None,
            trained=True,
            **how,
        )
        if not as_json:
            typer.echo(str(report))
    everything = out.with_name(out.name.removesuffix(".jsonl") + ".all.jsonl")
    with bars(quiet) as bar:
        found = make_labels(
            recognizer.model,
            known,
            items,
            channel=channel,
            keep=keep,
            path=everything,
            progress=bar(len(items), "labelling"),
            **how,
        )
    write_jsonl(found.kept, out)
    _tell(found, out, report, as_json)


def _check(corrector: str, keep: float) -> None:
    if corrector not in CORRECTORS:
        raise ValueError(f"--corrector must be one of {', '.join(CORRECTORS)}, not {corrector!r}")
    if not 0 < keep <= 1:
        raise ValueError(f"--keep must be in (0, 1], not {keep!r}")


def _folded(item: "Item", phones: Any) -> "Item":
    return replace(
        item,
        phonemes=phones.canonicalise(item.phones("canonical")),
        real_phonemes=phones.canonicalise(item.phones("realized")),
    )


def _tell(found: "Labels", out: Path, report: Any, as_json: bool) -> None:
    numbers: dict[str, Any] = {
        "labels": str(out),
        "utterances": len(found.items),
        "kept": len(found.kept),
        "dropped above": found.threshold,
    }
    if all(item.real_phonemes is not None for item in found.items):
        numbers["label error"] = found.error()
    if as_json:
        if report is not None:
            numbers["report"] = report.to_dict()
        print_json(numbers)
    else:
        print_table(["", "labels"], [list(pair) for pair in numbers.items()])


def self_train(
    labelled: Annotated[
        Path, typer.Argument(metavar="LABELLED", help="Corpus with realized phones.")
    ],
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="Transcribed utterances, many of them.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the model; rounds, labels and states are below it.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ],
    dev: Annotated[
        Path | None,
        typer.Option(
            help="Corpus with realized phones: a round that is worse on it is turned down.",
            rich_help_panel=options.TRAINING,
            show_default=False,
        ),
    ] = None,
    corrector: Corrector = "channel",
    context: Context = False,
    rounds: Annotated[
        int,
        typer.Option(min=1, help="At most how many.", rich_help_panel=options.TRAINING),
    ] = 1,
    drrc: Annotated[
        bool,
        typer.Option(
            "--drrc",
            help="Weight utterances to the doubly robust risk.",
            rich_help_panel=options.TRAINING,
        ),
    ] = False,
    first_epochs: Annotated[
        int,
        typer.Option(min=1, help="On the labelled utterances.", rich_help_panel=options.TRAINING),
    ] = 60,
    epochs: Annotated[
        int, typer.Option(min=1, help="Of each round.", rich_help_panel=options.TRAINING)
    ] = 13,
    lam: references.Lam = 1.0,
    keep: Keep = 0.95,
    g2p: Pronouncing = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a recognizer from a few labelled utterances and many transcripts.

    A first recognizer learns from the labelled ones; its ear, the transcripts and what the labelled
    speakers do with the dictionary's phones make labels for all others; a fresh one learns from
    both. The same command goes on where it was cut off.
    """
    from modicum.huper.selftrain import FIRST, LATER
    from modicum.huper.selftrain import self_train as run

    _check(corrector, keep)
    known, items = read(labelled), read(corpus)
    with bars(quiet) as bar:
        found = run(
            None,
            known,
            items,
            None if g2p is None else g2p_of(g2p),
            corrector,  # type: ignore[arg-type]
            rounds,
            "aipw" if drrc else None,
            dev=() if dev is None else read(dev),
            first_config=replace(FIRST, epochs=first_epochs),
            config=replace(LATER, epochs=epochs),
            lam=lam,
            context="lr" if context else None,
            keep=keep,
            folder=out,
            device=device,
            seed=seed,
            progress=bar(None, "training"),
        )
    found.recognizer.save_pretrained(out)
    found.channel.save(out / "channel")
    rows: list[list[Any]] = [
        [
            one.number,
            None if one.labels is None else len(one.labels.kept),
            one.dev_per,
            one.effective_sample_size,
        ]
        for one in found.rounds
    ]
    columns = ["round", "labels", "dev PER", "effective sample size"]
    if as_json:
        listed = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json(
            {"model": str(out), "best": found.best, "stopped": found.stopped} | {"rounds": listed}
        )
    else:
        print_table(columns, rows, f"{out}: round {found.best}")
        if found.stopped:
            typer.echo(found.stopped)
