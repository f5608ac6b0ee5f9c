"""Pictures: regret against budget or dimension, rounds, the spectrum of the Hessian, the radius.

Takes plain arrays, rounds of a trace or a result and gives matplotlib figures. matplotlib is loaded
by the first figure; it is an optional dependency. Computes nothing that it draws.

Legend: ``P`` points of a curve, ``R`` rounds, ``d`` dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modicum.core.plots import GREY, look, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modicum.core.stats import SlopeResult

__all__ = ["hessian_spectrum", "radius_curve", "regret_curves", "rounds", "values"]

PACKAGE = "modicum-zeroth"

Curve = Sequence[npt.ArrayLike]


def _points(curves: Mapping[str, Curve], parts: tuple[int, ...]) -> dict[str, list[np.ndarray]]:
    if not curves:
        raise ValueError("there is no curve to draw")
    found = {}
    for name, curve in curves.items():
        arrays = [np.asarray(part, dtype=float) for part in curve]
        if len(arrays) not in parts:
            raise ValueError(
                f"{name!r} has {len(arrays)} parts; it takes {parts[0]} or {parts[-1]}"
            )
        if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
            raise ValueError(
                f"{name!r} has shapes {[array.shape for array in arrays]}; all must be [P]"
            )
        found[name] = arrays
    return found


def _draw_bands(axes: Any, curves: Mapping[str, Curve], labels: Mapping[str, str]) -> None:
    """Draw lines and, where they have low and high ends, their intervals."""
    for index, (name, (x_P, y_P, *ends)) in enumerate(_points(curves, (2, 4)).items()):
        label = labels.get(name, name)
        axes.plot(x_P, y_P, marker="o", markersize=3, label=label, **look(index))
        if ends:
            axes.fill_between(x_P, *ends, color=look(index)["color"], alpha=0.15, linewidth=0)


def regret_curves(
    curves: Mapping[str, Curve],
    *,
    slopes: Mapping[str, SlopeResult] | None = None,
    theory: Mapping[str, Curve] | None = None,
    xlabel: str = "evaluations",
    ylabel: str = "simple regret",
) -> Figure:
    """Draw regret against evaluations (or dimension), both logarithmic.

    Parameters
    ----------
    curves
        By name the abscissae ``[P]``, the regrets ``[P]`` and, if there are any, the low and the
        high ends ``[P]`` of their intervals.
    slopes
        By name the fitted exponent of a curve (`modicum.core.stats.log_log_slope`), for the legend.
    theory
        By name lines without error, such as bounds: abscissae ``[P]`` and regrets ``[P]``.
    xlabel, ylabel
        What is drawn.
    """
    figure, axes = new_axes(PACKAGE)
    labels = {
        name: f"{name}: slope {fit.slope:.2f} ({fit.interval[0]:.2f} to {fit.interval[1]:.2f})"
        for name, fit in (slopes or {}).items()
    }
    _draw_bands(axes, curves, labels)
    dashes = ("--", ":", "-.")
    for index, (name, (x_P, y_P)) in enumerate(_points(theory, (2,)).items() if theory else ()):
        axes.plot(x_P, y_P, color=GREY, linestyle=dashes[index % 3], linewidth=1, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize="small")
    return figure


def radius_curve(
    curves: Mapping[str, Curve],
    *,
    best: float = 1.0,
    xlabel: str = "radius / noise-matched radius",
) -> Figure:
    """Draw regret against the sampling radius, both logarithmic, with the best radius marked.

    Parameters
    ----------
    curves
        By name the radii ``[P]``, the regrets ``[P]`` and, if there are any, the low and the high
        ends ``[P]`` of their intervals.
    best
        The radius of the theory, in the units of the abscissae.
    xlabel
        What the radii are.
    """
    figure = regret_curves(curves, xlabel=xlabel)
    (axes,) = figure.axes
    axes.axvline(best, color=GREY, linestyle=":", linewidth=1)
    return figure


def rounds(trace: Sequence[Any]) -> Figure:
    """Draw the radius and the signal-to-noise ratio of the gradient, round by round.

    Parameters
    ----------
    trace
        Rounds ``[R]`` of a result, with ``nfev``, ``radius`` and ``snr``.
    """
    if not len(trace):
        raise ValueError("the trace has no rounds to draw")
    nfev_R = np.array([entry.nfev for entry in trace], dtype=float)
    figure, axes = new_axes(PACKAGE)
    lines = axes.plot(
        nfev_R,
        [entry.radius for entry in trace],
        marker="o",
        markersize=3,
        label="radius",
        **look(0),
    )
    right = axes.twinx()
    right.spines["top"].set_visible(False)
    lines += right.plot(
        nfev_R,
        [entry.snr for entry in trace],
        marker="s",
        markersize=3,
        label="signal to noise",
        **look(1),
    )
    for each, label in ((axes, "radius"), (right, "signal to noise of the gradient")):
        each.set_yscale("log")
        each.set_ylabel(label)
    axes.set_xscale("log")
    axes.set_xlabel("evaluations")
    axes.legend(handles=lines, frameon=False)
    return figure


def hessian_spectrum(eigenvalues: npt.ArrayLike, noise_band: float | None = None) -> Figure:
    """Draw the eigenvalues of a Hessian and the size that noise alone would give them.

    Parameters
    ----------
    eigenvalues
        ``[d]``, in any order.
    noise_band
        Spectral size of the noise of the estimate; nothing below it is known. None for none.
    """
    sorted_d = np.sort(np.asarray(eigenvalues, dtype=float))[::-1]
    if sorted_d.ndim != 1 or not sorted_d.size:
        raise ValueError(f"eigenvalues must be [d] with d > 0, not of shape {sorted_d.shape}")
    figure, axes = new_axes(PACKAGE)
    axes.plot(np.arange(1, len(sorted_d) + 1), sorted_d, marker="o", label="eigenvalues", **look(0))
    if noise_band is not None:
        axes.axhspan(-noise_band, noise_band, color=GREY, alpha=0.2, linewidth=0, label="noise")
    axes.axhline(0.0, color=GREY, linewidth=0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("number of the eigenvalue")
    axes.set_ylabel("curvature")
    axes.legend(frameon=False)
    return figure


def values(
    nfev: npt.ArrayLike,
    fun: npt.ArrayLike,
    fun_std: npt.ArrayLike | None = None,
    *,
    observed: npt.ArrayLike | None = None,
) -> Figure:
    """Draw the model's value of the recommended point, and what was observed.

    Parameters
    ----------
    nfev, fun, fun_std
        Evaluations ``[R]``, the model's value ``[R]`` and its standard error ``[R]``.
    observed
        Noisy values ``[T]`` in order, drawn as points.
    """
    figure, axes = new_axes(PACKAGE)
    if observed is not None:
        observed_T = np.asarray(observed, dtype=float)
        axes.plot(
            np.arange(1, len(observed_T) + 1),
            observed_T,
            ".",
            color=GREY,
            markersize=2,
            alpha=0.5,
            label="observed",
        )
    curve = [nfev, fun]
    if fun_std is not None:
        fun_R, std_R = np.asarray(fun, dtype=float), np.asarray(fun_std, dtype=float)
        curve += [fun_R - std_R, fun_R + std_R]
    _draw_bands(axes, {"recommended point": curve}, {})
    axes.set_xscale("log")
    axes.set_xlabel("evaluations")
    axes.set_ylabel("value")
    axes.legend(frameon=False)
    return figure
