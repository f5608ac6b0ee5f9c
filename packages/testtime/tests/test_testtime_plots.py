import io

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from modicum.testtime import PPR, BetaStop, plots


def drawn(figure):
    """Return the lines and labels of a figure that can also be written."""
    figure.savefig(io.BytesIO(), format="svg")
    (axes,) = figure.axes
    return axes, [text.get_text() for text in axes.get_legend().get_texts()]


def test_accuracy_with_bands_and_exact_curves():
    figure = plots.accuracy_curves(
        {"vote": ([1, 2, 4], [0.5, 0.6, 0.7], [0.01, 0.02, 0.03]), "bare": ([1, 4], [0.2, 0.3])},
        exact={"law": ([1, 4], [0.5, 0.7])},
    )
    axes, labels = drawn(figure)
    assert labels == ["vote", "bare", "law"]
    assert axes.get_xscale() == "log" and len(axes.collections) == 1
    (band,) = axes.collections
    low, high = band.get_datalim(axes.transData).intervaly
    assert low == pytest.approx(0.5 - 1.96 * 0.01, abs=1e-4)
    assert high == pytest.approx(0.7 + 1.96 * 0.03, abs=1e-4)


def test_samples_against_the_inverse_gap():
    axes, labels = drawn(plots.samples_against_gap({"votes": ([0.4, 0.1], [9, 163])}))
    (line,) = axes.lines
    assert line.get_xdata() == pytest.approx([2.5, 10]) and labels == ["votes"]


def test_boundary_with_paths():
    tables = {"PPR": PPR(0.05, 2).table(6), "Beta": BetaStop().table(6)}
    axes, labels = drawn(plots.stopping_boundary(tables, [([1, 2, 2], [0, 0, 1])]))
    assert labels == ["PPR", "Beta"] and len(axes.lines) == 3
    assert list(axes.lines[1].get_ydata()) == [7, 10, 12, 14, 16, 18]


def test_regret_with_bounds():
    rounds = np.arange(1, 6)
    axes, labels = drawn(
        plots.regret(
            {"UCB1": (rounds, rounds / 10, np.full(5, 0.01))},
            bounds={"bound": (rounds, rounds / 2)},
            ylabel="cumulative regret",
        )
    )
    assert labels == ["UCB1", "bound"] and axes.get_ylabel() == "cumulative regret"


def test_pulls_side_by_side():
    axes, labels = drawn(plots.pulls({"UCB1": [5, 1], "Uniform": [3, 3]}, ["plain", "careful"]))
    assert [patch.get_height() for patch in axes.patches] == [5, 1, 3, 3]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["plain", "careful"]
    assert labels == ["UCB1", "Uniform"]


def test_success_by_round():
    axes, _ = drawn(plots.success_by_round({"itself": ([1, 2], [0.2, 0.5])}))
    assert axes.get_ylabel() == "solved" and axes.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.accuracy_curves({}), "no curve to draw"),
        (lambda: plots.samples_against_gap({"a": ([1, 2], [1])}), "all must be"),
        (lambda: plots.pulls({"a": [1, 2], "b": [1]}), "counts for the same experts"),
        (lambda: plots.stopping_boundary({}), "no table to draw"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
