"""Plots: what is drawn, and HTML that cannot be broken by a token."""

import math
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from modicum.ewatermark import plots


def _lines(figure) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()]


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


def test_ecdf_reaches_the_detected_share_and_not_one() -> None:
    figure = plots.tokens_ecdf({"ours": [10.0, 20.0, math.inf, 30.0]}, horizon=100)
    points = _lines(figure)[0]
    assert points[:, 1].max() == 0.75
    assert points[-1].tolist() == [100.0, 0.75]
    assert (points[points[:, 0] < 10, 1] == 0).all()


def test_ecdf_of_nothing_detected_stays_at_zero() -> None:
    figure = plots.tokens_ecdf({"none": [math.inf, math.inf]}, horizon=50)
    assert (_lines(figure)[0][:, 1] == 0).all()


def test_trajectory_has_its_threshold_in_decimal_logarithms() -> None:
    log_e = np.log(10) * np.arange(1, 5)
    figure = plots.trajectories(log_e, 0.01, others_BT=np.zeros((3, 4)) - 1, stopping_time=2)
    drawn = _lines(figure)
    assert any(np.allclose(line[:, 1], 2.0) for line in drawn)
    assert any(np.allclose(line, [[i, i] for i in range(5)]) for line in drawn if len(line) == 5)
    assert any(len(line) == 1 and line[0].tolist() == [2.0, 2.0] for line in drawn)


def test_staircase_counts_what_e_bh_lists() -> None:
    from modicum.core.stats import e_benjamini_hochberg

    log_e = np.array([9.0, 8.0, 3.1, 0.0, -4.0, 2.0])
    figure = plots.staircase(log_e, 0.2)
    listed = e_benjamini_hochberg(log_e, 0.2).num_rejected
    assert listed > 0
    assert any(f"{listed} listed" in text.get_text() for text in figure.axes[0].get_legend().texts)


def test_growth_pictures_draw() -> None:
    curve = np.array([0.3, 0.1, -0.2])
    figure = plots.growth_lines([0.1, 0.2, 0.3], {"p": curve}, {"p": ([0.1], [0.31])})
    assert len(_lines(figure)) == 3
    assert plots.growth_map([0, 1], [0, 1, 2], np.zeros((3, 2)), xlabel="x", ylabel="y").axes
    assert plots.ratio_lines([1e-2, 1e-5], {"a": ([1.1, 1.0], [0.1, 0.1])}).axes


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.classes: list[str | None] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.in_style = tag == "style"
        if tag == "span":
            self.classes.append(dict(attrs).get("class"))

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if not self.in_style:
            self.text += data


def test_match_html_keeps_the_text_and_escapes_it() -> None:
    tokens = ["<script>alert(1)</script>", ' "&', "\n", "plain"]
    page = plots.match_html(tokens, [True, False, None, True], [2.0, 1.0, 0.0, math.nan])
    parser = _Text()
    parser.feed(page)
    assert parser.text == "".join(tokens)
    assert set(parser.tags) == {"style", "div", "span"}
    assert parser.classes == ["hit", "miss", None, "hit"]
    assert "http" not in page


def test_match_html_of_nothing() -> None:
    assert plots.match_html([], []).endswith("</div>")


def test_doors() -> None:
    with pytest.raises(ValueError, match="lengths must agree"):
        plots.match_html(["a"], [])
    with pytest.raises(ValueError, match="times is empty"):
        plots.tokens_ecdf({}, 10)
    with pytest.raises(ValueError, match="others_BT"):
        plots.trajectories([1.0, 2.0], 0.1, others_BT=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="log_e_T"):
        plots.trajectories([], 0.1)
    with pytest.raises(ValueError, match="log_e_D"):
        plots.staircase([], 0.1)
    with pytest.raises(ValueError, match="growth_YX"):
        plots.growth_map([0, 1], [0, 1], np.zeros((3, 2)), xlabel="x", ylabel="y")


def test_importing_plots_and_experiments_loads_no_matplotlib_and_no_torch() -> None:
    code = (
        "import sys, modicum.ewatermark.plots, modicum.ewatermark.experiments;"
        "bad = {'matplotlib', 'torch', 'transformers', 'vllm', 'scipy.stats'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
