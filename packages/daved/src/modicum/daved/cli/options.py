"""Options that commands share: each group is a dataclass, which `command` spreads over a command.

A group's fields are options as typer declares them; a command that takes a group gets it filled in.
Options that may be repeated also take several values in a row, so that a shell's ``*.parquet`` can
follow one ``--sellers``. Knows nothing of what the options do.
"""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

__all__ = ["Command", "Inputs", "Making", "Method", "Output", "Terms", "command"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files, and which of their columns are what."""

    sellers: Annotated[
        list[Path],
        typer.Option(
            help="Sellers' records: files (.csv, .parquet, .npy, .npz, .safetensors) or folders of "
            "them; several are one market.",
            show_default=False,
        ),
    ]
    buyers: Annotated[
        list[Path],
        typer.Option(help="The buyer's unlabelled queries, likewise.", show_default=False),
    ]
    price_col: Annotated[
        str | None, typer.Option(help="Column of prices; without prices each record costs 1.")
    ] = None
    prices: Annotated[
        Path | None,
        typer.Option(help="File with one price per record instead, such as a .npy vector."),
    ] = None
    id_col: Annotated[str | None, typer.Option(help="Column with the names of records.")] = None
    label_col: Annotated[
        list[str] | None,
        typer.Option(help="Columns of labels, which are never looked at."),
    ] = None
    drop: Annotated[list[str] | None, typer.Option(help="Other columns that are no features.")] = (
        None
    )
    feature_cols: Annotated[
        list[str] | None,
        typer.Option(help="Columns that are the features; by default all that are nothing else."),
    ] = None
    record_col: Annotated[
        str | None,
        typer.Option(help="Column of texts for hf:…, of paths of images for clip:…."),
    ] = None
    key: Annotated[
        str | None,
        typer.Option(help="Array with the features in .npz and .safetensors files with several."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Making:
    """How features are made, and where they are scored."""

    features: Annotated[
        str,
        typer.Option(
            help="identity, standardize, minmax, rff:D, hf:MODEL (texts) or clip:MODEL (images); "
            "fitted to the sellers' records."
        ),
    ] = "identity"
    normalize: Annotated[
        str, typer.Option(help="none, or l2 for rows of norm 1, which no seller can inflate.")
    ] = "none"
    max_norm: Annotated[
        float | None, typer.Option(help="Largest norm of a row; longer ones are shrunk to it.")
    ] = None
    intercept: Annotated[bool, typer.Option("--intercept", help="Append a column of ones.")] = False
    seed: Annotated[int, typer.Option(min=0, help="Seed of rff:D and of --rounding sample.")] = 0
    device: Annotated[
        str,
        typer.Option(
            help="Where rows are scored: cpu (in float64), cuda, cuda:N, or auto, a GPU for many "
            "rows where there is one."
        ),
    ] = "auto"
    dtype: Annotated[
        str,
        typer.Option(help="Type of rows on a GPU: float32, float64, float16 or bfloat16."),
    ] = "float32"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a purchase must keep to, and what else is known of records."""

    group_col: Annotated[
        str | None,
        typer.Option(
            help="Column of groups. Without quotas a group is a lot, sold as a whole at the price "
            "that each of its records carries."
        ),
    ] = None
    max_per_group: Annotated[
        int | None, typer.Option(help="Most records of a group, sold one by one.")
    ] = None
    min_per_group: Annotated[
        int | None, typer.Option(help="Fewest records of every group, sold one by one.")
    ] = None
    noise_col: Annotated[
        str | None, typer.Option(help="Column of the variances of records' label noise.")
    ] = None
    weight_col: Annotated[
        str | None,
        typer.Option(help="Column of records' weights, as in a generalised linear model."),
    ] = None
    owned: Annotated[
        list[Path] | None,
        typer.Option(
            help="Records that the buyer has already; for --solver fw, greedy or multiplicative."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to select."""

    solver: Annotated[str, typer.Option(help="fw, one_step, greedy, multiplicative or exact.")] = (
        "fw"
    )
    step: Annotated[
        str, typer.Option(help="Step of fw: line_search, open_loop, herding or a number below 1.")
    ] = "line_search"
    max_iter: Annotated[
        str,
        typer.Option(help="Most iterations; auto is twice the records that the budget buys."),
    ] = "auto"
    tol: Annotated[
        float, typer.Option(help="Stop when the certificate is below this share of the objective.")
    ] = 1e-3
    cost_mode: Annotated[
        str, typer.Option(help="exact, or paper: divide the scores of fw by prices.")
    ] = "exact"
    rounding: Annotated[
        str, typer.Option(help="From weights to a purchase: topk, sample or greedy.")
    ] = "topk"
    fill: Annotated[
        bool,
        typer.Option("--fill/--no-fill", help="Skip what does not fit any more, or stop there."),
    ] = True
    unique: Annotated[bool, typer.Option("--unique", help="Of equal rows buy only one.")] = False
    prior: Annotated[
        float | None,
        typer.Option(help="Prior precision of greedy purchases and predicted errors."),
    ] = None
    reg_lambda: Annotated[
        float,
        typer.Option(help="Share of a diagonal matrix in the information of designs, in [0, 1)."),
    ] = 0.0
    ridge: Annotated[
        str | None,
        typer.Option(help="Whether that share decays with every step (decay) or stays (fixed)."),
    ] = None
    compat: Annotated[
        str | None, typer.Option(help="reference: follow the published code of fw.")
    ] = None
    sigma2: Annotated[
        float, typer.Option(help="Variance of the label noise, the unit of errors.")
    ] = 1.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is printed and written."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print no tables, warnings or bars.")
    ] = False


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function, some of whose parameters are groups of options.

    Parameters
    ----------
    function
        Its parameters are options as typer declares them, or dataclasses of such.

    Returns
    -------
    Callable
        With all options side by side in its signature.
    """
    groups: dict[str, type[Any]] = {}
    spread: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            kind: Any = parameter.annotation
            groups[parameter.name] = kind
            options = inspect.signature(kind, eval_str=True).parameters.values()
            for option in options:
                option.annotation.__metadata__[0].rich_help_panel = _title(kind)
            spread += options
        else:
            spread.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(function)
    def called(**values: Any) -> None:
        filled = {
            name: kind(**{item.name: values.pop(item.name) for item in fields(kind)})
            for name, kind in groups.items()
        }
        function(**filled, **values)

    called.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    called.__annotations__ = {item.name: item.annotation for item in spread}
    return called


def _title(kind: type[Any]) -> str:
    return (kind.__doc__ or "").splitlines()[0].rstrip(".")


class Command(TyperCommand):
    """A command whose repeated options take several values in a row."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such an option before each of its values, and go on as always."""
        several = {
            name for item in self.params if getattr(item, "multiple", False) for name in item.opts
        }
        return super().parse_args(ctx, _repeated(args, several))


def _repeated(args: list[str], several: Collection[str]) -> list[str]:
    """Write ``--a x y`` as ``--a x --a y`` for the options that take several values."""
    found: list[str] = []
    current, values = None, 0
    for word in args:
        if word.startswith("-"):
            current, values = (word if word in several else None), 0
        elif current is not None:
            values += 1
            if values > 1:
                found.append(current)
        found.append(word)
    return found
