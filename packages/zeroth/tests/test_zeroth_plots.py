import io
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from modicum.core.stats import log_log_slope
from modicum.zeroth import plots


def drawn(figure):
    """Return the first axes and the legend of a figure that can also be written."""
    figure.savefig(io.BytesIO(), format="svg")
    axes = figure.axes[0]
    return axes, [text.get_text() for text in axes.get_legend().get_texts()]


def test_regret_with_slope_interval_and_bounds():
    budget = np.array([1e3, 1e4, 1e5])
    regret = 3 * budget ** (-2 / 3)
    figure = plots.regret_curves(
        {"two-stage": (budget, regret, regret / 2, regret * 2), "bare": (budget, regret)},
        slopes={"two-stage": log_log_slope(budget, regret)},
        theory={"upper bound": (budget, 28 * regret), "lower bound": (budget, regret / 100)},
    )
    axes, labels = drawn(figure)
    assert labels == [
        "two-stage: slope -0.67 (-0.67 to -0.67)",
        "bare",
        "upper bound",
        "lower bound",
    ]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert len(axes.collections) == 1 and len(axes.lines) == 4
    styles = [line.get_linestyle() for line in axes.lines[2:]]
    assert styles == ["--", ":"]


def test_radius_curve_marks_the_best_radius():
    axes, labels = drawn(plots.radius_curve({"cubic": ([0.5, 1, 2], [3, 1, 4])}, best=0.9))
    assert labels == ["cubic"]
    assert list(axes.lines[-1].get_xdata()) == [0.9, 0.9]


def test_rounds_have_two_scales():
    trace = [
        SimpleNamespace(nfev=10, radius=1.0, snr=2.0),
        SimpleNamespace(nfev=30, radius=0.5, snr=8.0),
    ]
    figure = plots.rounds(trace)
    axes, labels = drawn(figure)
    assert labels == ["radius", "signal to noise"]
    assert list(axes.lines[0].get_ydata()) == [1.0, 0.5]
    assert list(figure.axes[1].lines[0].get_ydata()) == [2.0, 8.0]


def test_spectrum_is_sorted_and_has_its_noise():
    axes, labels = drawn(plots.hessian_spectrum([1.0, 5.0, 2.0], noise_band=1.5))
    assert list(axes.lines[0].get_ydata()) == [5.0, 2.0, 1.0]
    assert labels == ["eigenvalues", "noise"]
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (-1.5, 3.0)
    assert drawn(plots.hessian_spectrum([1.0]))[1] == ["eigenvalues"]


def test_values_with_observations():
    figure = plots.values([10, 20], [1.0, 0.5], [0.2, 0.1], observed=np.ones(20))
    axes, labels = drawn(figure)
    assert labels == ["observed", "recommended point"] and len(axes.lines[0].get_xdata()) == 20
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).intervaly == pytest.approx([0.4, 1.2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.regret_curves({}), "no curve"),
        (lambda: plots.regret_curves({"a": ([1, 2], [1])}), r"'a' has shapes"),
        (lambda: plots.regret_curves({"a": ([1], [1], [1])}), "'a' has 3 parts"),
        (lambda: plots.rounds([]), "no rounds"),
        (lambda: plots.hessian_spectrum([]), "eigenvalues"),
    ],
)
def test_what_cannot_be_drawn(call, message):
    with pytest.raises(ValueError, match=message):
        call()
