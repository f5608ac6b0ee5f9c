"""The commands ``run`` (a command of the system is the objective) and ``plot`` (its log)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.zeroth.cli.show import save_figure

PLOTS = ("values", "rounds")

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count."""


def run(
    spec: Annotated[
        Path, typer.Argument(help="TOML file with cmd, start, budget and what else is known.")
    ],
    log: Annotated[
        Path | None, typer.Option(help="JSON lines of all evaluations; gone on with if there.")
    ] = None,
    result: Annotated[Path | None, typer.Option(help="Where the result goes, as JSON.")] = None,
) -> None:
    """Minimise what a command prints; an interrupted run goes on from its log."""
    from modicum.zeroth.integrations.command import LOG_SUFFIX, load_spec, run_spec

    settings = load_spec(spec)
    try:
        with _progress(settings.budget) as show:
            found = run_spec(spec, log=log, result=result, progress=show)
    except KeyboardInterrupt:
        kept = settings.path.with_suffix(LOG_SUFFIX) if log is None else log
        typer.echo(f"interrupted; the same command goes on from {kept}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    names = settings.names or [f"x{index}" for index in range(settings.dimension)]
    for name, value in zip(names, found.x, strict=True):
        typer.echo(f"{name} = {value:.10g}")
    typer.echo(f"value {found.fun:.6g} (standard error {found.fun_std:.2g})")
    typer.echo(f"predicted regret {found.predicted_regret:.3g}, noise {found.noise_std:.3g}")
    typer.echo(f"{found.nfev} evaluations, {found.lost} pairs lost: {found.message}")
    if not found.success:
        raise typer.Exit(1)


class _Show:
    """A bar by evaluations, with the last round beside it; quiet where there is no terminal."""

    def __init__(self, budget: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("first round", total=budget)

    def __enter__(self) -> "_Show":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def __call__(self, at: Any) -> None:
        words = f"value {at.value:.4g}"
        if at.round is not None:
            words = f"f {at.round.fun:.4g}, radius {at.round.radius:.3g}, SNR {at.round.snr:.3g}"
        self.bar.update(self.task, completed=at.evaluations, description=words)


def _progress(budget: int) -> _Show:
    return _Show(budget)


def plot(
    log: Annotated[Path, typer.Argument(help="JSON lines that run wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Picture (.svg, .png, .pdf); None is beside the log.")
    ] = None,
    what: Annotated[str, typer.Option(help=f"What is drawn: {', '.join(PLOTS)}.")] = PLOTS[0],
) -> None:
    """Draw a run: its values and the model's, or radius and signal-to-noise of its rounds."""
    from modicum.zeroth import plots
    from modicum.zeroth.integrations.command import read_log

    if what not in PLOTS:
        raise ValueError(f"--what is one of {', '.join(PLOTS)}, not {what!r}")
    logged = read_log(log)
    if not logged.rounds:
        raise ValueError(f"{log} has no finished round to draw yet")
    if what == "values":
        nfev = [entry.nfev for entry in logged.rounds]
        figure = plots.values(
            nfev, [entry.fun for entry in logged.rounds], observed=logged.values_N
        )
    else:
        figure = plots.rounds(logged.rounds)
    save_figure(figure, log.with_suffix(".svg") if out is None else out)
