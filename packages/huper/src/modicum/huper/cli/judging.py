"""The command ``eval``: transcripts beside references."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options
from modicum.huper.cli.corpora import FIELDS, phones_in, rows_of
from modicum.huper.cli.show import print_json

if TYPE_CHECKING:
    from modicum.huper.phones import PhoneSet

__all__ = ["evaluate"]

HEARD = "phones"
"""Field of a transcript."""

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

    heard = _phones(hyp, HEARD if hyp_label == HEARD else _field(hyp_label, "--hyp-label"))
    rows = {row["id"]: row for row in rows_of(ref)}
    field = _field(label, "--label")
    if missing:
        rows = {name: row for name, row in rows.items() if name in heard}
    said = {name: phones_in(row, field, ref) for name, row in rows.items()}
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
        groups=None if by is None else [_value(row, by, ref) for row in rows.values()],
        measures=options.words_of(metric, "--metric"),
        inventory=_inventory(fold),
    )
    if as_json:
        print_json({"hyp": str(hyp), "ref": str(ref), **found.to_dict()})
    else:
        typer.echo(str(found))


def _field(label: str, option: str) -> str:
    if label not in FIELDS:
        raise ValueError(f"{option} must be one of {', '.join(FIELDS)}, not {label!r}")
    return FIELDS[label]


def _phones(path: Path, field: str) -> dict[str, tuple[str, ...]]:
    return {row["id"]: phones_in(row, field, path) for row in rows_of(path)}


def _value(row: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in row:
        raise ValueError(f"{path}: {row['id']} has no field {name!r}")
    return row[name]


def _inventory(name: str | None) -> "PhoneSet | None":
    from modicum.huper.phones import PhoneSet

    if name is None:
        return None
    if name not in INVENTORIES:
        raise ValueError(f"--fold must be one of {', '.join(INVENTORIES)}, not {name!r}")
    found: PhoneSet = getattr(PhoneSet, name)()
    return found
