"""Pictures: accuracy and samples, samples and gap, stopping boundaries, regret, pulls, success.

Takes plain arrays and gives matplotlib figures. matplotlib is loaded by the first figure; it is an
optional dependency. Computes nothing that it draws.

Legend: ``P`` points of a curve, ``T`` rounds or samples, ``K`` experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modicum.core.plots import COLOURS, GREY, look, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "accuracy_curves",
    "pulls",
    "regret",
    "samples_against_gap",
    "stopping_boundary",
    "success_by_round",
]

PACKAGE = "modicum-testtime"
Z_95 = 1.959963984540054

Curve = tuple[npt.ArrayLike, npt.ArrayLike]


def _points(
    curves: Mapping[str, Sequence[npt.ArrayLike]], what: str
) -> dict[str, list[np.ndarray]]:
    if not curves:
        raise ValueError(f"there is no {what} to draw")
    found = {}
    for name, parts in curves.items():
        arrays = [np.asarray(part, dtype=float) for part in parts]
        if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
            raise ValueError(
                f"{name!r} has shapes {[array.shape for array in arrays]}; all must be [P]"
            )
        found[name] = arrays
    return found


def accuracy_curves(
    curves: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    exact: Mapping[str, Curve] | None = None,
    xlabel: str = "samples per prompt",
    logarithmic: bool = True,
) -> Figure:
    """Draw accuracy against samples (or tokens) with 95 % bands, exact curves dashed in grey.

    Parameters
    ----------
    curves
        By name the numbers ``[P]``, accuracies ``[P]`` and, if there are any, standard errors
        ``[P]``.
    exact
        By name numbers and probabilities without error.
    xlabel
        What the numbers are.
    logarithmic
        Whether the axis of the numbers is.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, (x_P, y_P, *error_P)) in enumerate(_points(curves, "curve").items()):
        axes.plot(x_P, y_P, label=name, marker="o", markersize=3, **look(index))
        if error_P:
            low_P, high_P = y_P - Z_95 * error_P[0], y_P + Z_95 * error_P[0]
            axes.fill_between(x_P, low_P, high_P, color=look(index)["color"], alpha=0.15, lw=0)
    for name, (x_P, y_P) in _points(exact, "exact curve").items() if exact else ():
        axes.plot(x_P, y_P, color=GREY, linestyle="--", linewidth=1, label=name)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False)
    return figure


def samples_against_gap(curves: Mapping[str, Curve]) -> Figure:
    """Draw samples needed against the inverse of the gap, both logarithmic.

    Parameters
    ----------
    curves
        By name the gaps ``[P]`` in (0, 1] and the samples ``[P]``.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, (gap_P, samples_P)) in enumerate(_points(curves, "curve").items()):
        axes.loglog(1 / gap_P, samples_P, label=name, marker="o", markersize=3, **look(index))
    axes.set_xlabel("1 / gap")
    axes.set_ylabel("samples")
    axes.legend(frameon=False)
    return figure


def stopping_boundary(
    tables: Mapping[str, npt.ArrayLike], trajectories: Sequence[Curve] = ()
) -> Figure:
    """Draw the votes at which rules stop, and the paths of some prompts.

    Parameters
    ----------
    tables
        By rule the boundary ``n1_min[n2]``, int, shape ``[P]``.
    trajectories
        Votes of leader ``[T]`` and runner-up ``[T]`` after each sample.
    """
    figure, axes = new_axes(PACKAGE)
    for lead_T, second_T in trajectories:
        axes.plot(second_T, lead_T, color=GREY, linewidth=0.8, alpha=0.6)
    for index, (name, (lead_P,)) in enumerate(
        _points({name: [table] for name, table in tables.items()}, "table").items()
    ):
        axes.step(np.arange(lead_P.size), lead_P, where="mid", label=name, **look(index))
    axes.set_xlabel("votes of the runner-up")
    axes.set_ylabel("votes of the leader")
    axes.legend(frameon=False)
    return figure


def regret(
    curves: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    bounds: Mapping[str, Curve] | None = None,
    ylabel: str = "simple regret",
) -> Figure:
    """Draw regret against rounds, with published bounds dashed.

    Parameters
    ----------
    curves
        By controller rounds ``[T]``, mean regret ``[T]`` and, if there are any, standard errors.
    bounds
        By name rounds and bounds.
    ylabel
        Kind of regret.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, (rounds_T, mean_T, *error_T)) in enumerate(_points(curves, "curve").items()):
        axes.plot(rounds_T, mean_T, label=name, **look(index))
        if error_T:
            low_T, high_T = mean_T - Z_95 * error_T[0], mean_T + Z_95 * error_T[0]
            axes.fill_between(rounds_T, low_T, high_T, color=look(index)["color"], alpha=0.15, lw=0)
    for name, (rounds_T, bound_T) in _points(bounds, "bound").items() if bounds else ():
        axes.plot(rounds_T, bound_T, color=GREY, linestyle="--", linewidth=1, label=name)
    axes.set_xlabel("rounds")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    return figure


def pulls(counts: Mapping[str, npt.ArrayLike], experts: Sequence[str] = ()) -> Figure:
    """Draw how often each controller asked each expert.

    Parameters
    ----------
    counts
        By controller rounds per expert, shape ``[K]``.
    experts
        Names of the experts; numbers if left out.
    """
    figure, axes = new_axes(PACKAGE)
    drawn = _points({name: [count] for name, count in counts.items()}, "count")
    size = {parts[0].size for parts in drawn.values()}
    if len(size) != 1:
        raise ValueError(f"controllers must have counts for the same experts, not {sorted(size)}")
    (num_experts,) = size
    width = 0.8 / len(drawn)
    for index, (name, (count_K,)) in enumerate(drawn.items()):
        place_K = np.arange(num_experts) + (index - (len(drawn) - 1) / 2) * width
        axes.bar(place_K, count_K, width, label=name, color=COLOURS[index % len(COLOURS)])
    axes.set_xticks(range(num_experts), list(experts) or [str(k) for k in range(num_experts)])
    axes.set_xlabel("expert")
    axes.set_ylabel("rounds")
    axes.legend(frameon=False)
    return figure


def success_by_round(curves: Mapping[str, Sequence[npt.ArrayLike]]) -> Figure:
    """Draw cumulative success against attempts.

    Parameters
    ----------
    curves
        By name attempts ``[P]``, success ``[P]`` and, if there are any, standard errors ``[P]``.
    """
    figure = accuracy_curves(curves, xlabel="attempts", logarithmic=False)
    figure.axes[0].set_ylabel("solved")
    return figure
