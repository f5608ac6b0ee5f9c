"""Pictures of a measurement: errors against parameters, and how metrics disagree.

Takes plain numbers and gives matplotlib figures. matplotlib is loaded by the first figure; it is an
optional dependency. Computes nothing that it draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modicum.core.plots import look, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["error_against_parameters", "metric_disagreement"]

PACKAGE = "modicum-repcomplexity"


def error_against_parameters(
    curves: Mapping[str, Sequence[npt.ArrayLike]], *, ylabel: str = "fvu"
) -> Figure:
    """Draw errors against numbers of parameters on logarithmic axes.

    Parameters
    ----------
    curves
        For each target its parameters, values, lower and upper ends of intervals, each ``(w,)``.
        Values that are not positive and finite are left out.
    ylabel
        Name of the metric.

    Raises
    ------
    ValueError
        If a curve is not four rows of one length.
    ImportError
        If matplotlib is not installed.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, curve) in enumerate(curves.items()):
        rows = [np.asarray(row, dtype=float) for row in curve]
        if len(rows) != 4 or len({row.shape for row in rows}) != 1 or rows[0].ndim != 1:
            raise ValueError(f"{name!r} must be four rows of one length")
        kept = np.isfinite(rows[1]) & (rows[1] > 0)
        if not kept.any():
            continue
        parameters, value, low, high = (row[kept] for row in rows)
        style = look(index)
        axes.plot(parameters, value, marker="o", markersize=3, label=name, **style)
        axes.fill_between(parameters, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel(ylabel)
    if axes.lines:
        axes.legend(frameon=False)
    return figure


def metric_disagreement(
    ratios: Mapping[str, Sequence[float]], widths: Sequence[int], *, title: str = ""
) -> Figure:
    """Draw the error of Q divided by that of the transition, a row for each metric.

    Blue is a ratio above 1 (the model is easier), red one below 1 (Q is easier).

    Parameters
    ----------
    ratios
        For each metric the ratio at each width.
    widths
        Widths of the columns.
    title
        Heading.

    Raises
    ------
    ValueError
        If a metric has another number of ratios than there are widths.
    ImportError
        If matplotlib is not installed.
    """
    table = [list(map(float, row)) for row in ratios.values()]
    if any(len(row) != len(widths) for row in table):
        raise ValueError(f"every metric needs {len(widths)} ratios, one for each width")
    figure, axes = new_axes(PACKAGE, height=1.2 + 0.5 * len(table))
    values = np.array(table)
    logs = np.full(values.shape, np.nan)
    positive = np.isfinite(values) & (values > 0)
    logs[positive] = np.log10(values[positive])
    limit = max(1.0, float(np.nanmax(np.abs(logs), initial=0.0)))
    axes.imshow(logs, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.ndindex(values.shape):
        text = f"{values[row, column]:.2g}"
        dark = abs(np.nan_to_num(logs[row, column])) > 0.6 * limit
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(widths)), [str(width) for width in widths])
    axes.set_yticks(range(len(table)), list(ratios))
    axes.set_xlabel("width")
    axes.set_title(title)
    return figure
