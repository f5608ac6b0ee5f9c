"""The commands ``report`` (one process) and ``scale`` (a family over n)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modicum.repcomplexity.cli import options
from modicum.repcomplexity.cli.show import counter, print_json

if TYPE_CHECKING:
    from modicum.repcomplexity.report import ComplexityReport, ScalingReport

__all__ = ["report", "scale"]

Mdp = Annotated[
    str | None,
    typer.Option(
        help=f"Family: {', '.join(options.FAMILIES)}.",
        rich_help_panel=options.PROCESS,
        show_default=False,
    ),
]
Targets = Annotated[
    str,
    typer.Option(
        help="Some of transition, reward, q, value, policy, with commas.",
        rich_help_panel=options.MEASURING,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Write the report: as Markdown (.md) or JSON (.json).", rich_help_panel=options.OUTPUT
    ),
]


def report(
    mdp: Mdp = None,
    n: Annotated[
        int | None,
        typer.Option(help="Size of the family's process.", rich_help_panel=options.PROCESS),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            help="Gymnasium environment with a table, such as FrozenLake-v1, or one of this "
            "package.",
            rich_help_panel=options.PROCESS,
        ),
    ] = None,
    settings: options.Setting = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            help="Steps of an episode; by default those of the family, or the environment's time "
            "limit.",
            rich_help_panel=options.PROCESS,
            show_default=False,
        ),
    ] = None,
    gamma: Annotated[
        float,
        typer.Option(
            help="Discount of an environment; below 1 episodes have no end.",
            rich_help_panel=options.PROCESS,
        ),
    ] = 1.0,
    encoding: Annotated[
        str,
        typer.Option(
            help="Bits of an environment's states: binary, gray or onehot.",
            rich_help_panel=options.PROCESS,
        ),
    ] = "binary",
    targets: Targets = "transition,reward,q,policy",
    time_limit: options.TimeLimit = 60.0,
    out: Out = None,
    plot: options.Plot = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure transition, reward, Q* and policy of a finite process with the same rulers.

    Every Boolean function of each target gets its smallest normal forms, certificates, decision
    tree, diagram, gates, influence and spectrum, exactly where that can be proved in time and as an
    interval elsewhere. The verdict says which rulers agree.
    """
    from modicum.repcomplexity.functions import check_targets
    from modicum.repcomplexity.report import complexity_report

    _check_out(out)
    chosen = check_targets(options.words_of(targets, "--targets"))
    process = options.process_of(mdp, n, env, settings, horizon, gamma, encoding)
    with counter(quiet) as progress:
        found = complexity_report(process, chosen, time_limit=time_limit, progress=progress)
    _write(found, out, plot)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(found.to_markdown())


def scale(
    ns: Annotated[
        str,
        typer.Option(
            help="Sizes with commas.", rich_help_panel=options.PROCESS, show_default=False
        ),
    ],
    mdp: Mdp = "majority",
    settings: options.Setting = None,
    targets: Targets = "transition,reward,q,value",
    max_inputs: Annotated[
        int,
        typer.Option(
            help="Most bits of a state and an action that are tabulated.",
            rich_help_panel=options.MEASURING,
        ),
    ] = 13,
    time_limit: options.TimeLimit = 60.0,
    out: Out = None,
    plot: options.Plot = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Follow the sizes of a family over n, and say which of them grow how.

    Small sizes are measured, larger ones have what is proved without a table. A fit says
    "polynomial" or "exponential" for these n only.
    """
    from modicum.repcomplexity.report import scaling_report

    _check_out(out)
    family = options.family_of(str(mdp), settings)
    with counter(quiet) as progress:
        found = scaling_report(
            family,
            options.numbers_of(ns, "--ns"),
            targets=options.words_of(targets, "--targets"),
            max_inputs=max_inputs,
            time_limit=time_limit,
            progress=progress,
        )
    _write(found, out, plot)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(found.to_markdown())


def _check_out(out: Path | None) -> None:
    if out is not None and out.suffix not in (".md", ".json"):
        raise ValueError(f"--out takes a file that ends in .md or .json, not {out}")


def _write(found: "ComplexityReport | ScalingReport", out: Path | None, plot: Path | None) -> None:
    from modicum.core.experiment import write_atomic

    if out is not None and out.suffix == ".md":
        write_atomic(out, found.to_markdown())
    elif out is not None:
        found.save(out)
    if plot is not None:
        found.plot(plot)
