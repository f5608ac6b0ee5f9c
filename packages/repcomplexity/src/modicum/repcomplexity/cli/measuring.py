"""The commands ``measure`` (networks on rows), ``mujoco`` (from training on) and ``plot``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.repcomplexity.cli import options
from modicum.repcomplexity.cli.show import Sink, bars, print_json, print_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modicum.core.experiment import Result
    from modicum.repcomplexity.data import RolloutData
    from modicum.repcomplexity.measurement import Measurement
    from modicum.repcomplexity.protocols import ProtocolResult

__all__ = ["measure", "mujoco", "plot"]

NETWORKS = "Networks"
ACTING = "Experts"
PROTOCOLS = ("zhu2024", "feng2023")
MEASUREMENT = "measurement.json"
ESTIMATES = "estimates.csv"
PROTOCOL = "protocol-{}.json"
SETTINGS = "settings.json"
KINDS = {
    "report": ("rulers", "spectrum"),
    "scaling": ("sizes",),
    "measurement": ("curves", "metrics"),
}
"""What can be drawn of each kind of file; the first is the default."""


def measure(
    data: Annotated[Path, typer.Argument(metavar="ROWS", help="A file of collect (.npz).")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results: measurement.json, estimates.csv, and finished networks, from "
            "which a run that was cut off goes on.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    targets: Annotated[
        str,
        typer.Option(
            help="Some of delta, next_obs, reward, policy, q, value, with commas.",
            rich_help_panel=NETWORKS,
        ),
    ] = "delta,next_obs,reward,policy,q",
    widths: Annotated[
        str, typer.Option(help="Units of hidden layers, with commas.", rich_help_panel=NETWORKS)
    ] = "8,16,32,64,128",
    depth: Annotated[int, typer.Option(help="Hidden layers.", rich_help_panel=NETWORKS)] = 2,
    seeds: Annotated[
        int, typer.Option(help="Networks of each kind.", rich_help_panel=NETWORKS)
    ] = 5,
    metrics: Annotated[
        str, typer.Option(help="Of tables; verdicts look at several.", rich_help_panel=NETWORKS)
    ] = "fvu,fvu_perdim,zhu2024",
    steps: Annotated[int, typer.Option(help="Steps of Adam.", rich_help_panel=NETWORKS)] = 3000,
    batch_size: Annotated[
        int, typer.Option(help="Rows of a step.", rich_help_panel=NETWORKS)
    ] = 256,
    lr: Annotated[float, typer.Option(help="Step size.", rich_help_panel=NETWORKS)] = 1e-3,
    q: Annotated[
        str,
        typer.Option(
            help="Values of actions: auto, exact, critic or mc (returns).",
            rich_help_panel=options.MEASURING,
        ),
    ] = "auto",
    holdout: Annotated[
        str,
        typer.Option(
            help="What is held out: episodes, block (the last rows) or none.",
            rich_help_panel=options.MEASURING,
        ),
    ] = "episodes",
    match: Annotated[
        str,
        typer.Option(
            help="Networks of a width have equal hidden layers (trunk) or parameters (total).",
            rich_help_panel=NETWORKS,
        ),
    ] = "trunk",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="The protocol of a paper beside: zhu2024 or feng2023; takes minutes to hours.",
            rich_help_panel=options.MEASURING,
        ),
    ] = None,
    effort: Annotated[
        float,
        typer.Option(
            help="Share of a protocol's training; 1 is the paper's.",
            rich_help_panel=options.MEASURING,
        ),
    ] = 1.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    plot: options.Plot = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train small networks on every target of the same rows, and compare their errors.

    Errors are of held-out episodes, with bootstrap intervals over seeds and episodes. The verdict
    compares the transition with Q by several metrics, and says so where they disagree.
    """
    from modicum.repcomplexity.data import RolloutData
    from modicum.repcomplexity.measure import measure as train

    for name in protocol or ():
        if name not in PROTOCOLS:
            raise ValueError(f"--protocol must be one of {', '.join(PROTOCOLS)}, not {name!r}")
    if not 0 < effort <= 1:
        raise ValueError(f"--effort must be above 0 and at most 1, not {effort:g}")
    rows = RolloutData.from_npz(data)
    with bars(quiet) as progress:
        found = train(
            rows,
            options.words_of(targets, "--targets"),
            options.numbers_of(widths, "--widths"),
            depth,
            seeds,
            options.words_of(metrics, "--metrics"),
            q=q,
            holdout=holdout,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            match=match,
            device=device,
            seed=seed,
            out=None if out is None else out / "networks",
            progress=progress,
        )
        run = {
            name: _protocol(name, rows, effort, seeds, seed, device, progress)
            for name in protocol or ()
        }
    if out is not None:
        _write(out, found, run)
    if plot is not None:
        from modicum.repcomplexity.report_plots import save_figure

        save_figure(found.plot_curves(metric=found.metrics[0]), plot)
    if as_json:
        whole = json.loads(found.to_json())
        print_json(whole | {"protocols": {name: _plain(one) for name, one in run.items()}})
        return
    typer.echo(found.table())
    for one in run.values():
        typer.echo(f"\n{one.table()}")
    if "q" in found.targets and {"delta", "next_obs"} & set(found.targets):
        typer.echo(f"\n{found.verdict()}")


def _protocol(
    name: str,
    rows: "RolloutData",
    effort: float,
    seeds: int,
    seed: int,
    device: str,
    progress: Any,
) -> "ProtocolResult":
    from modicum.repcomplexity import protocols

    shared: dict[str, Any] = {"seeds": seeds, "seed": seed, "device": device, "progress": progress}
    if name == "zhu2024":
        return protocols.zhu2024(rows, epochs=max(1, round(100 * effort)), **shared)
    return protocols.feng2023(rows, rows_seen=max(1, round(protocols.FENG_ROWS * effort)), **shared)


def _plain(found: "ProtocolResult") -> list[dict[str, Any]]:
    return [
        {"target": target, "width": width, "errors": errors.tolist()}
        for (target, width), errors in found.errors.items()
    ]


def _write(out: Path, found: "Measurement", run: "Mapping[str, ProtocolResult]") -> None:
    from modicum.core.experiment import dumps, write_atomic

    found.to_json(out / MEASUREMENT)
    found.to_csv(out / ESTIMATES)
    for name, one in run.items():
        write_atomic(out / PROTOCOL.format(name), dumps({"protocol": name, "errors": _plain(one)}))


def mujoco(
    envs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV]…",
            help="Environments of MuJoCo; InvertedPendulum-v5, Hopper-v5 and HalfCheetah-v5 "
            "without any.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of checkpoints, rows, errors.csv, figures and the page; a run that was "
            "cut off goes on from it.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = Path("mujoco"),
    budget: Annotated[
        int,
        typer.Option(
            help="Steps of each expert's training, a multiple of 5000; 0 takes a linear-quadratic "
            "regulator, which needs none, where there is one (InvertedPendulum-v5).",
            rich_help_panel=ACTING,
        ),
    ] = 25_000,
    experts: Annotated[
        int, typer.Option(help="Experts of each environment.", rich_help_panel=ACTING)
    ] = 3,
    rows: Annotated[
        int, typer.Option(help="Transitions of each expert.", rich_help_panel=ACTING)
    ] = 20_000,
    widths: Annotated[
        str,
        typer.Option(help="Units of two hidden layers, 32 among them.", rich_help_panel=NETWORKS),
    ] = "16,32,64",
    seeds: Annotated[
        int, typer.Option(help="Networks of each kind.", rich_help_panel=NETWORKS)
    ] = 3,
    steps: Annotated[int, typer.Option(help="Steps of Adam.", rich_help_panel=NETWORKS)] = 3000,
    effort: Annotated[
        float,
        typer.Option(
            help="Share of the training of both papers' protocols; 1 is theirs.",
            rich_help_panel=NETWORKS,
        ),
    ] = 0.1,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train experts on MuJoCo's robots, let them act, and measure transition, reward, policy and Q.

    The metrics and protocols of two papers and scale-free metrics stand side by side on the same
    rows and networks, with intervals over experts, seeds and episodes. Minutes for each expert.
    """
    from modicum.core.device import resolve_device
    from modicum.core.experiment import RunContext
    from modicum.repcomplexity import protocols
    from modicum.repcomplexity.experiments import EXPERIMENTS
    from modicum.repcomplexity.experiments import mujoco as experiment
    from modicum.repcomplexity.integrations.gymnasium import named_environment

    if budget < 0 or budget % 5000:
        raise ValueError(f"--budget must be a multiple of 5000, not {budget}")
    if not 0 < effort <= 1:
        raise ValueError(f"--effort must be above 0 and at most 1, not {effort:g}")
    for option, value in (("--rows", rows), ("--seeds", seeds), ("--steps", steps)):
        if value < 1:
            raise ValueError(f"{option} must be at least 1, not {value}")
    names = list(dict.fromkeys(envs or experiment.FULL.train_steps))
    for name in names:
        # Before hours of training for those in front of it.
        named_environment(name).close()
    plan = experiment.Plan(
        train_steps=dict.fromkeys(names, budget),
        experts=experts,
        rows=rows,
        widths=tuple(options.numbers_of(widths, "--widths")),
        seeds=seeds,
        steps=steps,
        epochs=max(1, round(100 * effort)),
        rows_seen=max(1, round(protocols.FENG_ROWS * effort)),
    )
    device = resolve_device(device)
    # What was trained by other settings must not stand for these; environments may be added.
    _claim_folder(
        out,
        {
            "budget": budget,
            "experts": experts,
            "rows": rows,
            "widths": list(plan.widths),
            "seeds": seeds,
            "steps": steps,
            "effort": effort,
            "seed": seed,
            "device": device,
        },
    )
    (listed,) = (one for one in EXPERIMENTS if one.name == "mujoco")
    with bars(quiet) as progress:
        context = RunContext(
            listed,
            out,
            quick=False,
            seed=seed,
            device=device,
            sink=None if progress is None else Sink(progress),
        )
        result = experiment.run(context, plan)
    page = _publish(result, out)
    if as_json:
        print_json(json.loads(result.to_json()) | {"page": str(page)})
        return
    for table in result.tables:
        print_table(table.columns, table.rows, table.title)
    for claim in result.claims:
        holds = {True: "holds", False: "does not hold", None: "not decided"}[claim.holds]
        typer.echo(f"{holds}: {claim.statement}")
    typer.echo(f"\n{result.text}\n\nerrors  {out / 'errors.csv'}\nreport  {page}")


def _claim_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Say in a folder what it holds, or refuse one that holds something else."""
    from modicum.core.experiment import dumps, write_atomic

    path = out / SETTINGS
    if not path.exists():
        write_atomic(path, dumps(settings))
        return
    found = _read(path)
    different = [name for name, value in settings.items() if found.get(name) != value]
    if different:
        name = different[0]
        raise ValueError(
            f"{out} holds a run with --{name} {found.get(name)}, not {settings[name]}: give "
            "another --out"
        )


def _publish(result: "Result", out: Path) -> Path:
    """Write the result, its figures and the page."""
    from modicum.core.experiment import write_atomic
    from modicum.core.report import write_report

    result.save(out / "result.json")
    for number, figure in enumerate(result.figures, 1):
        if figure.svg is not None:
            write_atomic(out / f"figure-{number}.svg", figure.svg)
    return write_report([result], out / "index.html")


def plot(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="JSON of report or scale, or the folder or JSON of measure."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The picture (.png, .svg, .pdf).",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            help="Of a report rulers or spectrum; of a measurement curves or metrics (the ratio of "
            "Q to transition by each); by default the first.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="Metric of curves.")] = "fvu",
    measure: Annotated[str, typer.Option(help="Size that is drawn of scale.")] = "depth-2 terms",
) -> None:
    """Draw what report, scale or measure wrote."""
    from modicum.repcomplexity.report_plots import save_figure

    path = file / MEASUREMENT if file.is_dir() else file
    content = _read(path)
    known = {"functions": "report", "points": "scaling", "estimates": "measurement"}
    held = next((name for key, name in known.items() if key in content), None)
    if held is None:
        raise ValueError(f"{path} is nothing that report, scale or measure wrote")
    chosen = KINDS[held][0] if kind is None else kind
    if chosen not in KINDS[held]:
        raise ValueError(f"--kind of {path} must be one of {', '.join(KINDS[held])}, not {kind!r}")
    if held == "measurement":
        figure = _metrics(content) if chosen == "metrics" else _curves(content, metric)
    else:
        figure = _of_report(path, chosen, measure)
    save_figure(figure, out)
    typer.echo(str(out))


def _read(path: Path) -> dict[str, Any]:
    from modicum.core.experiment import loads

    try:
        content = loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is nothing that this program wrote")
    return content


def _of_report(path: Path, kind: str, measure: str) -> "Figure":
    from modicum.repcomplexity import report_plots
    from modicum.repcomplexity.report import ComplexityReport, ScalingReport

    if kind == "sizes":
        return report_plots.size_over_n(ScalingReport.load(path), measure)
    report = ComplexityReport.load(path)
    if kind == "rulers":
        return report_plots.targets_by_ruler(report)
    # One function of each target, the one that depends most on its inputs.
    most = {
        target: max(
            (one for one in report.functions if one.target == target),
            key=lambda one: one.influence,
        )
        for target in report.targets
    }
    return report_plots.fourier_weights(
        {f"{target}: {one.name}": one.weights for target, one in most.items()}
    )


def _curves(content: Mapping[str, Any], metric: str) -> "Figure":
    from modicum.repcomplexity.plots import error_against_parameters

    rows = [row for row in content["estimates"] if row["metric"] == metric]
    if not rows:
        there = ", ".join(dict.fromkeys(row["metric"] for row in content["estimates"]))
        raise ValueError(f"--metric must be one of {there}, not {metric!r}")
    curves: dict[str, list[list[float]]] = {}
    for row in rows:
        columns = curves.setdefault(row["target"], [[], [], [], []])
        for column, name in zip(columns, ("parameters", "value", "low", "high"), strict=True):
            column.append(float("nan") if row[name] is None else row[name])
    return error_against_parameters(curves, ylabel=metric)


def _metrics(content: Mapping[str, Any]) -> "Figure":
    from modicum.repcomplexity.plots import metric_disagreement

    verdict = content.get("verdict")
    if verdict is None:
        raise ValueError("a comparison of metrics needs q and delta or next_obs among the targets")
    widths = list(dict.fromkeys(row["width"] for row in verdict["comparisons"]))
    ratios: dict[str, list[float]] = {}
    for row in verdict["comparisons"]:
        ratio = float("nan") if row["ratio"] is None else row["ratio"]
        ratios.setdefault(row["metric"], []).append(ratio)
    title = f"Error of {verdict['q']} over error of {verdict['model']}"
    return metric_disagreement(ratios, widths, title=title)
