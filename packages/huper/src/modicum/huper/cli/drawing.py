"""The commands ``plot …``: pictures of recordings, confusions and routing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options, references
from modicum.huper.cli.corpora import HEARD, check_label, phones_of, read
from modicum.huper.cli.inputs import items_of, sound_of
from modicum.huper.cli.references import Wanted
from modicum.huper.cli.routing import System, Wrong, dev_items, evidence_figure, system_of
from modicum.huper.cli.show import bars

if TYPE_CHECKING:
    from modicum.huper.scheduler import Item as Measured
    from modicum.huper.system import HuPER

__all__ = ["confusions", "evidence", "noise", "posteriorgram", "reliability"]

Picture = Annotated[
    Path,
    typer.Option(
        "--out",
        help="File to draw into (.png, .svg, .pdf).",
        rich_help_panel=options.OUTPUT,
        show_default=False,
    ),
]
Corpora = Annotated[
    list[Path],
    typer.Argument(metavar="CORPUS…", help="Corpora with realized phones, such as of simulate."),
]
Title = Annotated[str, typer.Option(help="Heading.", rich_help_panel=options.OUTPUT)]


def posteriorgram(
    audio: Annotated[str, typer.Argument(metavar="AUDIO", help="A recording.")],
    out: Picture,
    text: references.Text = None,
    g2p: references.Pronouncing = None,
    channel: references.Channel = None,
    model: System = "tiny",
    title: Title = "",
    device: options.Device = "auto",
) -> None:
    """Draw the probability of every phone over time, with the path that was taken and its edits."""
    from modicum.huper import plots

    items = items_of([audio])
    if len(items) != 1:
        raise ValueError(f"a picture is of one recording, and {audio} has {len(items)}")
    wanted = None if text is None else Wanted(items, text, g2p)
    system = system_of(model, channel=channel, device=device)
    words = None if wanted is None else wanted.words(items[0])
    sound = sound_of(items[0])
    found = system(sound, text=words)
    emissions = system.recognizer.emissions(sound)
    figure = plots.posteriorgram(emissions, found, title=title or items[0].id)
    _save(figure, out)


def confusions(
    hyp: Annotated[
        Path, typer.Argument(metavar="HYP", help="What transcribe --out wrote, or a corpus.")
    ],
    ref: Annotated[Path, typer.Argument(metavar="REF", help="Corpus with the same ids.")],
    out: Picture,
    label: Annotated[
        str, typer.Option(help="Phones of REF: realized, canonical or label.")
    ] = "realized",
    hyp_label: Annotated[
        str, typer.Option(help="Phones of HYP: phones (of a transcript), or as for --label.")
    ] = HEARD,
    title: Title = "",
) -> None:
    """Draw which phones are taken for which, neighbours being alike by their features."""
    from modicum.huper import metrics, plots

    check_label(label, "--label")
    check_label(hyp_label, "--hyp-label", HEARD)
    heard = {item.id: phones_of(item, hyp_label) for item in read(hyp)}
    said = {item.id: item.phones(label) for item in read(ref)}
    found = metrics.report(heard, said, ci=None, measures=["per"])
    _save(plots.confusion_heatmap(found.confusions, found.recall, title=title), out)


def reliability(
    corpus: Corpora,
    out: Picture,
    bins: Annotated[int, typer.Option(min=1, help="Of as many utterances each.")] = 10,
    model: System = "tiny",
    title: Title = "",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Draw the error rate of the ear against the distortion score."""
    from modicum.huper import plots

    system = system_of(model, device=device)
    measured = _measured(system, corpus, 0.0, 0, quiet)
    kept = [one for one in measured if one.length]
    figure = plots.reliability(
        [one.s for one in kept],
        [one.bottom_up / one.length for one in kept],
        bins=bins,
        title=title,
    )
    _save(figure, out)


def evidence(
    corpus: Corpora,
    out: Picture,
    wrong: Wrong = 0.0,
    channel: references.Channel = None,
    g2p: references.Pronouncing = None,
    model: System = "tiny",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Draw what it costs to believe the text against the distortion score, and the rule."""
    system = system_of(model, channel=channel, g2p=g2p, device=device)
    measured = _measured(system, corpus, wrong, seed, quiet)
    _save(evidence_figure(measured, system), out)


def noise(
    corpus: Corpora,
    out: Picture,
    wrong: Wrong = 0.0,
    channel: references.Channel = None,
    g2p: references.Pronouncing = None,
    model: System = "tiny",
    title: Title = "",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Draw the error rate of every path against the signal-to-noise ratio.

    Takes what simulate made with --distort clean and several of white=SNR or babble=SNR.
    """
    import numpy as np

    from modicum.huper import plots
    from modicum.huper.metrics import ratio_interval

    system = system_of(model, channel=channel, g2p=g2p, device=device)
    items = dev_items(corpus, wrong, seed)
    levels = [_level(item.extra.get("distortion")) for item in items]
    with bars(quiet) as bar:
        measured = system.measure(items, progress=bar(len(items), "measuring"))
    ways: Mapping[str, Callable[[Measured], float]] = {
        "ear": lambda one: one.bottom_up,
        "text": lambda one: one.top_down,
        "adaptive": lambda one: _adaptive(one, system),
    }
    found = sorted(set(levels))
    curves: dict[str, list[list[float]]] = {}
    for name, errors in ways.items():
        rows: list[list[float]] = [[], [], []]
        for level in found:
            part = [one for one, at in zip(measured, levels, strict=True) if at == level]
            wrong_N = np.array([errors(one) for one in part], float)
            size_N = np.array([one.length for one in part], float)
            rate = float(wrong_N.sum() / max(size_N.sum(), 1))
            span = ratio_interval(wrong_N, size_N, seed=seed) or (rate, rate)
            for row, value in zip(rows, (rate, *span), strict=True):
                row.append(value)
        curves[name] = rows
    _save(plots.per_against_snr(curves, found, adaptive="adaptive", title=title), out)


def _adaptive(one: "Measured", system: "HuPER") -> float:
    """Return the errors of the path that is taken."""
    if one.decode is not None:
        return one.decode(system.scheduler)
    return one.top_down if system.scheduler.weight(one.s, one.ratio, one.path) else one.bottom_up


def _level(distortion: Any) -> float:
    kind, _, level = str(distortion or "clean").partition("=")
    if kind == "clean":
        return float("inf")
    if kind not in ("white", "babble"):
        raise ValueError(f"a picture over noise needs white, babble or clean, not {distortion!r}")
    return float(level)


def _measured(
    system: "HuPER", corpus: list[Path], wrong: float, seed: int, quiet: bool
) -> "list[Measured]":
    items = dev_items(corpus, wrong, seed)
    with bars(quiet) as bar:
        return system.measure(items, progress=bar(len(items), "measuring"))


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    typer.echo(str(out))
