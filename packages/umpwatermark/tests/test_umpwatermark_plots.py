"""Plots: what is drawn, and HTML that cannot be broken by a token."""

import math
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from modicum.umpwatermark import plots


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


def _lines(figure) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()]


def test_tradeoff_draws_every_scheme_as_given():
    alpha, beta = [0.01, 0.1, 0.5], [0.9, 0.4, 0.1]
    figure = plots.tradeoff({"ump": (alpha, beta), "agnostic": (alpha, [0.95, 0.5, 0.2])})
    assert np.allclose(_lines(figure)[0], np.column_stack([alpha, beta]))
    assert [t.get_text() for t in figure.axes[0].get_legend().texts] == ["ump", "agnostic"]
    assert figure.axes[0].get_xscale() == "log"


def test_scaled_tokens_are_n_h_against_log_inverse_entropy_in_order():
    h, n = np.array([0.01, 0.3, 0.1]), np.array([2986.0, 43.0, 189.0])
    (line,) = _lines(plots.scaled_tokens({"ump": (h, n)}))
    assert np.allclose(line[:, 0], np.log(1 / np.array([0.3, 0.1, 0.01])))
    assert np.allclose(line[:, 1], [12.9, 18.9, 29.86])


def test_unreachable_lengths_are_left_out():
    (line,) = _lines(plots.tokens_against_entropy({"kgw": ([0.1, 0.01], [5023, math.inf])}))
    assert line.tolist() == [[0.1, 5023]]


def test_the_area_below_the_optimum_is_shaded():
    n = [1, 10, 20]
    figure = plots.type2_against_length({"sum": (n, [1, 0.9, 0.5])}, bound=(n, [0.9, 0.3, 0.0]))
    assert len(figure.axes[0].collections) == 1
    assert min(line[:, 1].min() for line in _lines(figure)) == plots.FLOOR


def test_robust_draws_bounds_and_simulations():
    figure = plots.robust(
        {"LP": ([0, 1], [0.0, 0.2])}, simulated={"gumbel": ([0, 1], [0.1, 0.4], [0.02, 0.03])}
    )
    assert len(figure.axes[0].get_legend().texts) == 2


def test_budget_has_one_bar_per_test_and_text():
    figure = plots.evidence_budget({"base": {"entropy": 0.8, "sum": 0.1}, "low": {"entropy": 0.2}})
    bars = [p.get_width() for p in figure.axes[0].patches]
    assert bars[:3] == [0.8, 0.1, 0.2]


def test_roc_counts_by_hand():
    false_alarms, detected = plots.roc_curve([1.0, 2.0, 2.0, 5.0], [2.0, 6.0])
    assert false_alarms.tolist() == [0.0, 0.0, 0.25, 0.75, 1.0]
    assert detected.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert plots.roc({"a": ([1.0, 2.0], [2.0, 3.0])}).axes


def test_roc_area_is_the_probability_of_ranking_a_marked_text_higher():
    rng = np.random.default_rng(3)
    null, marked = rng.integers(0, 30, 40), rng.integers(10, 45, 25)
    x, y = plots.roc_curve(null, marked)
    wins = (marked[:, None] > null).mean() + 0.5 * (marked[:, None] == null).mean()
    assert np.trapezoid(y, x) == pytest.approx(wins)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.tradeoff({}), "no trade-off"),
        (lambda: plots.scaled_tokens({"x": ([1, 2], [1])}), r"\(2,\) and \(1,\)"),
        (lambda: plots.evidence_budget({}), "no budget"),
        (lambda: plots.roc({}), "no detector"),
        (lambda: plots.roc_curve([], [1.0]), "got 0 and 1"),
        (lambda: plots.evidence_html(["a"], []), "1 tokens but 0 scores"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class _Spans(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.classes: list[str | None] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "span":
            self.classes.append(dict(attrs).get("class"))

    def handle_data(self, data):
        self.text.append(data)


def test_html_escapes_tokens_and_tells_for_from_against():
    tokens = ["<script>", "&amp;", " b", "c"]
    spans = _Spans()
    spans.feed(plots.evidence_html(tokens, [2.0, -0.5, None, math.nan]))
    assert spans.classes == ["for", "against", None, None]
    assert "".join(spans.text).endswith("<script>&amp; bc")


def test_module_loads_without_matplotlib():
    code = "import sys, modicum.umpwatermark.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
