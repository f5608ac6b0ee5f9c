"""The command ``eval``: transcripts beside references."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options
from modicum.huper.cli.corpora import HEARD, check_label, phones_of, read
from modicum.huper.cli.show import print_json

if TYPE_CHECKING:
    from modicum.huper.corpus import Item
    from modicum.huper.phones import PhoneSet

__all__ = ["evaluate"]

INVENTORIES = ("arpabet39", "arpabet40", "timit61")


def evaluate(
    hyp: Annotated[
        Path, typer.Argument(metavar="HYP", help="What transcribe --out wrote, or a corpus.")
    ],
    ref: Annotated[Path, typer.Argument(metavar="REF", help="Corpus with the same ids.")],
    metric: Annotated[
        str, typer.Option(help="per, pfer (needs panphon), or both with a comma.")
    ] = "per",
    label: Annotated[
        str, typer.Option(help="Phones of REF: realized, canonical or label.")
    ] = "realized",
    hyp_label: Annotated[
        str,
        typer.Option(help="Phones of HYP: phones (of a transcript), or as for --label."),
    ] = HEARD,
    fold: Annotated[
        str | None,
        typer.Option(help=f"Fold both into {', '.join(INVENTORIES)}.", show_default=False),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Field of REF, such as speaker: utterances of one value are drawn together in the "
            "bootstrap, as they are not independent.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap; 0 for none.")] = 2000,
    missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Leave out references that HYP has not."),
    ] = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Judge transcripts: phone error rate, feature error rate, intervals, confusions.

    Corpus-level rates with a bootstrap over utterances. Ids of HYP and REF must be the same ones.
    """
    from modicum.huper import metrics

    check_label(hyp_label, "--hyp-label", HEARD)
    check_label(label, "--label")
    heard = {item.id: phones_of(item, hyp_label) for item in read(hyp)}
    items = [item for item in read(ref) if item.id in heard or not missing]
    said = {item.id: item.phones(label) for item in items}
    if lost := sorted(set(said) ^ set(heard)):
        where = hyp if lost[0] in said else ref
        raise ValueError(f"{where} lacks {len(lost)} ids, the first is {lost[0]!r}")
    found = metrics.report(
        heard,
        said,
        ci="bootstrap" if resamples else None,
        level=level,
        seed=seed,
        resamples=resamples or 1,
        groups=None if by is None else [_value(item, by, ref) for item in items],
        measures=options.words_of(metric, "--metric"),
        inventory=_inventory(fold),
    )
    if as_json:
        print_json({"hyp": str(hyp), "ref": str(ref), **found.to_dict()})
    else:
        typer.echo(str(found))


def _value(item: "Item", name: str, path: Path) -> Any:
    value = item.to_row().get(name)
    if value is None:
        raise ValueError(f"{path}: {item.id!r} has no field {name!r}")
    return value


def _inventory(name: str | None) -> "PhoneSet | None":
    from modicum.huper.phones import PhoneSet

    if name is None:
        return None
    if name not in INVENTORIES:
        raise ValueError(f"--fold must be one of {', '.join(INVENTORIES)}, not {name!r}")
    found: PhoneSet = getattr(PhoneSet, name)()
    return found
