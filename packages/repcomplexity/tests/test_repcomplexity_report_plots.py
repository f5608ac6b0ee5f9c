"""Pictures of reports: what is drawn is what was given."""

import pytest

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg

from modicum.repcomplexity import report_plots
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.report import ScalingPoint, ScalingReport, complexity_report

POINTS = (
    ScalingPoint(4, "q", "terms", 22, 22, "exact"),
    ScalingPoint(8, "q", "terms", 450, 460, "bounds"),
    ScalingPoint(16, "q", "terms", 5005, None, "proved"),
    ScalingPoint(4, "transition", "terms", None, 4, "proved"),
    ScalingPoint(16, "transition", "terms", None, 6, "proved"),
)


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure.axes[0]


def test_sizes_show_which_end_is_known():
    axes = drawn(report_plots.size_over_n(ScalingReport("made", (4, 8, 16), POINTS), "terms"))
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"Q*", "Q*, at least", "transition, at most"}
    assert list(lines["Q*"].get_ydata()) == [22, 460]
    assert list(lines["Q*, at least"].get_xdata()) == [8, 16]
    assert list(lines["Q*, at least"].get_ydata()) == [450, 5005]
    with pytest.raises(ValueError, match="measure must be one of"):
        report_plots.size_over_n(ScalingReport("made", (4,), POINTS), "leaves")


def test_fourier_weights_are_bars_of_their_height():
    axes = drawn(report_plots.fourier_weights({"parity": (0, 0, 1), "x": (0, 1.0)}))
    assert [bar.get_height() for bar in axes.patches] == [0, 0, 1, 0, 1]
    assert axes.patches[2].get_x() < 2 < axes.patches[2].get_x() + 0.8
    with pytest.raises(ValueError, match="no spectrum"):
        report_plots.fourier_weights({})


def test_the_matrix_has_a_number_in_every_cell():
    values = {"terms": {"transition": 4, "Q*": 22}, "error": {"transition": 0.25}}
    axes = drawn(report_plots.ruler_matrix(values))
    assert [text.get_text() for text in axes.texts] == ["4", "22", "0.25", "-"]
    ranks = axes.images[0].get_array()
    assert ranks[0].tolist() == [0, 1] and ranks.mask[1].tolist() == [False, True]
    with pytest.raises(ValueError, match="nothing to draw"):
        report_plots.ruler_matrix({})


def test_curves_are_drawn_by_n():
    axes = drawn(report_plots.curves_over_n({"a": {4: 1.0, 8: 3.0}}, "error"))
    assert list(axes.get_lines()[0].get_ydata()) == [1.0, 3.0]
    with pytest.raises(ValueError, match="no curve"):
        report_plots.curves_over_n({}, "error")


def test_reports_draw_themselves(tmp_path):
    report = complexity_report(MajorityMDP(2))
    path = report.plot(tmp_path / "rulers.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    path = ScalingReport("made", (4, 8, 16), POINTS).plot(tmp_path / "sizes.svg", "terms")
    assert "<svg" in path.read_text()
