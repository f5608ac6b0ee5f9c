"""Pictures of reports: sizes over n, Fourier weight by degree, and where rulers disagree.

Takes reports or plain numbers and gives matplotlib figures. matplotlib is loaded by the first
figure; it is an optional dependency. Computes nothing that it draws.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.core.experiment import write_atomic
from modicum.core.plots import GREY, look, new_axes
from modicum.repcomplexity.explicit import DEPTH_TWO_TERMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modicum.repcomplexity.report import ComplexityReport, ScalingReport

__all__ = [
    "curves_over_n",
    "fourier_weights",
    "ruler_matrix",
    "save_figure",
    "size_over_n",
    "targets_by_ruler",
]

PACKAGE = "modicum-repcomplexity"
SPOKEN = {"q": "Q*", "value": "V*"}
"""How targets are called in pictures, where not by their name."""


def size_over_n(report: ScalingReport, measure: str = DEPTH_TWO_TERMS) -> Figure:
    """Draw the sizes of all targets over n: bars from lower to upper ends, lines along one end.

    A line goes along the upper ends where there are any, which nothing exceeds, and along the lower
    ends, marked by triangles that point up, where only those are known.

    Raises
    ------
    ValueError
        If no size was taken by this measure.
    """
    targets = dict.fromkeys(p.target for p in report.points if p.measure == measure)
    if not targets:
        taken = sorted({point.measure for point in report.points})
        raise ValueError(f"measure must be one of {taken}, not {measure!r}")
    figure, axes = new_axes(PACKAGE)
    for index, target in enumerate(targets):
        low, high = (report.series(target, measure, end) for end in ("lower", "upper"))
        _draw_ends(axes, SPOKEN.get(target, target), low, high, look(index))
    _scale(axes, report.ns)
    axes.set_ylabel(measure)
    return figure


def _draw_ends(
    axes: Any,
    name: str,
    low: Mapping[int, float],
    high: Mapping[int, float],
    style: Mapping[str, str],
) -> None:
    both = sorted(low.keys() & high.keys())
    only_low = sorted(low.keys() - high.keys())
    if high:
        ns = sorted(high)
        label = name if both == ns else f"{name}, at most"
        axes.plot(ns, [high[n] for n in ns], marker="o", markersize=4, label=label, **style)
        axes.vlines(both, [low[n] for n in both], [high[n] for n in both], style["color"])
    if only_low:
        marked = both[-1:] + only_low
        axes.plot(
            marked,
            [low[n] for n in marked],
            marker="^",
            markersize=6,
            label=f"{name}, at least",
            color=style["color"],
            linestyle=":",
        )


def curves_over_n(curves: Mapping[str, Mapping[int, float]], ylabel: str) -> Figure:
    """Draw one line for each name, by n.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    figure, axes = new_axes(PACKAGE)
    for index, (name, values) in enumerate(curves.items()):
        axes.plot(list(values), list(values.values()), marker="o", label=name, **look(index))
    _scale(axes, sorted({n for values in curves.values() for n in values}))
    axes.set_ylabel(ylabel)
    return figure


def _scale(axes: Any, ns: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(ns), [str(n) for n in ns])
    axes.minorticks_off()
    axes.set_xlabel("n")
    axes.legend(frameon=False, fontsize="small")


def fourier_weights(weights: Mapping[str, Sequence[float]]) -> Figure:
    """Draw spectral weight by degree as bars, one colour for each function.

    Parameters
    ----------
    weights
        By name the weights of degrees 0, 1, 2, …

    Raises
    ------
    ValueError
        If there is no function.
    """
    if not weights:
        raise ValueError("there is no spectrum to draw")
    figure, axes = new_axes(PACKAGE, width=7.2)
    wide = 0.8 / len(weights)
    for index, (name, values) in enumerate(weights.items()):
        shift = (index - (len(weights) - 1) / 2) * wide
        places = np.arange(len(values)) + shift
        axes.bar(places, values, width=wide, label=name, color=look(index)["color"])
    axes.set(xlabel="degree", ylabel="spectral weight")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize="small")
    return figure


def targets_by_ruler(report: ComplexityReport) -> Figure:
    """Draw what every ruler says of every target; `ruler_matrix` of a report's upper ends."""
    taken = {target: report.by_ruler(target) for target in report.targets}
    rulers = dict.fromkeys(ruler for values in taken.values() for ruler in values)
    rows = {
        ruler: {
            SPOKEN.get(target, target): values[ruler][1]
            for target, values in taken.items()
            if ruler in values
        }
        for ruler in rulers
    }
    return ruler_matrix(rows)


def ruler_matrix(values: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw a row for each ruler and a column for each target, coloured by rank.

    Where all rows have the same colours the rulers agree on the order of targets. Equal numbers
    share a rank; what is missing is grey.

    Parameters
    ----------
    values
        By ruler the number of each target; lower is easier.

    Raises
    ------
    ValueError
        If there is no ruler or no target.
    """
    targets = list(dict.fromkeys(name for row in values.values() for name in row))
    if not targets:
        raise ValueError("there is nothing to draw")
    figure, axes = new_axes(
        PACKAGE, width=2.2 + 1.1 * len(targets), height=1.2 + 0.42 * len(values)
    )
    ranks = np.full((len(values), len(targets)), np.nan)
    for row, numbers in enumerate(values.values()):
        order = sorted(set(numbers.values()))
        for column, target in enumerate(targets):
            if target in numbers:
                ranks[row, column] = order.index(numbers[target]) / max(1, len(order) - 1)
    axes.set_facecolor("#dddddd")
    image = axes.imshow(ranks, cmap="cividis_r", vmin=0, vmax=1, aspect="auto", alpha=0.85)
    for row, numbers in enumerate(values.values()):
        for column, target in enumerate(targets):
            number = numbers.get(target)
            dark = number is not None and ranks[row, column] > 0.6
            axes.text(
                column,
                row,
                _spelled(number),
                ha="center",
                va="center",
                fontsize="small",
                color="white" if dark else "black",
            )
    axes.set_xticks(range(len(targets)), targets)
    axes.set_yticks(range(len(values)), list(values))
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, ticks=[0, 1], shrink=0.8)
    bar.ax.set_yticklabels(["easiest", "hardest"], fontsize="small", color=GREY)
    bar.outline.set_visible(False)
    return figure


def _spelled(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if number == round(number) else f"{number:.3g}"


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, whole at every moment; the ending says the format.

    Raises
    ------
    ValueError
        If matplotlib knows no such format.
    """
    kind = Path(path).suffix.lstrip(".").lower() or "png"
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return write_atomic(path, buffer.getvalue())
