import io

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from modicum.daved import plots


def drawn(figure):
    """Return the axes and the legend of a figure that can also be written."""
    figure.savefig(io.BytesIO(), format="svg")
    axes = figure.axes[0]
    legend = axes.get_legend()
    return axes, [text.get_text() for text in legend.get_texts()] if legend else []


def test_error_with_interval_and_purchase():
    budget = np.array([1.0, 2, 4])
    axes, labels = drawn(
        plots.error_against_budget(
            {"daved": (budget, 1 / budget), "random": (budget, 2 / budget, 1 / budget, 3 / budget)},
            bought=2.0,
        )
    )
    assert labels == ["daved", "random", "bought"]
    assert list(axes.lines[0].get_ydata()) == [1, 0.5, 0.25]
    assert list(axes.lines[2].get_xdata()) == [2.0, 2.0]
    assert len(axes.collections) == 1 and axes.get_xscale() == "log"


def test_curves_of_rows():
    figure = plots.acquisition_curve({"daved": ([1, 2], [1.0, 0.1])}, removal=True)
    axes, _ = drawn(figure)
    assert axes.get_xlabel() == "rows removed, best first"
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")


def test_iterations_without_a_certificate_are_left_out():
    axes, labels = drawn(plots.convergence([3.0, 2, 1], [np.nan, 0.5, 0.0]))
    assert labels == ["objective", "at most this above the optimum"]
    assert list(axes.lines[1].get_xdata()) == [1]


def test_concentration_ends_at_one_and_counts_effective_rows():
    axes, labels = drawn(plots.concentration([0.0, 0.5, 0.5, 0.0]))
    assert list(axes.lines[0].get_ydata()) == [0.5, 1, 1, 1]
    assert labels[1] == "effective 2 rows"
    with pytest.raises(ValueError, match=r"sum 0\.0; it must be positive"):
        plots.concentration([0.0, 0.0])


def test_bought_rows_stand_at_their_prices():
    axes, labels = drawn(plots.price_against_fair_price([1, 2, 3], [2, 2, 1], [2, 0]))
    assert labels == ["offered", "bought", "worth its price"]
    assert axes.collections[1].get_offsets().tolist() == [[1, 3], [2, 1]]


def test_many_rows_are_thinned_but_never_the_bought_ones():
    many = np.linspace(1, 2, 20_001)
    axes, _ = drawn(plots.price_against_fair_price(many, many[::-1], np.arange(7)))
    assert len(axes.collections[0].get_offsets()) == 5000
    assert len(axes.collections[1].get_offsets()) == 7


def test_names_of_sellers_are_drawn_as_they_are_but_not_longer():
    axes, _ = drawn(plots.spend_per_seller({r"$\bad": 1.0, "a\x00b": 2.0, "long" * 10: 3.0}))
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [r"$\bad", "a\N{REPLACEMENT CHARACTER}b", "long" * 6 + "lon…"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_weights_of_many_rows_are_thinned_but_end_where_they_end():
    axes, _ = drawn(plots.concentration(np.arange(20_001.0)))
    rows, share = axes.lines[0].get_data()
    assert len(rows) <= 5000 and rows[0] == 1 and rows[-1] == 20_001
    assert share[-1] == pytest.approx(1)
    # The heaviest r of 0 … N hold r (2 N - r + 1) of N (N + 1).
    np.testing.assert_allclose(share, rows * (40_001 - rows) / (20_000 * 20_001))


def test_iterations_that_have_no_certificate_at_all():
    _, labels = drawn(plots.convergence([3.0, 2], [np.nan, np.nan]))
    assert labels == ["objective"]


def test_projection_shows_the_two_widest_directions():
    rows = np.diag([5.0, 1.0, 3.0, 0.0])[:, :3].repeat(2, axis=0) * np.array([1, -1] * 4)[:, None]
    axes, labels = drawn(plots.projection(rows, rows[:1], [4]))
    assert labels == ["offered", "bought", "queries"]
    assert np.abs(axes.collections[2].get_offsets()).tolist() == [pytest.approx([5, 0])]
    assert np.abs(axes.collections[1].get_offsets()).tolist() == [pytest.approx([0, 3])]
    with pytest.raises(ValueError, match=r"queries \(1, 2\)"):
        plots.projection(rows, rows[:1, :2], [0])


def test_bars_and_histogram():
    axes, _ = drawn(plots.spend_per_seller({"a": 3.0, "b": 1.0}))
    assert [bar.get_width() for bar in axes.patches] == [3, 1]
    axes, _ = drawn(plots.coverage([1.0, 0.2, 0.99]))
    assert sum(bar.get_height() for bar in axes.patches) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.error_against_budget({}), "no curve"),
        (lambda: plots.error_against_budget({"a": ([1], [1], [1])}), "'a' has 3 parts"),
        (lambda: plots.error_against_budget({"a": ([1, 2], [1])}), "'a' has shapes"),
        (lambda: plots.spend_per_seller({}), "no seller"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
