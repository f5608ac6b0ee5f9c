"""Pictures show what they are given: marks, labels, orders; and refuse what does not fit."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modicum.huper import plots
from modicum.huper.emissions import Emissions
from modicum.huper.phones import PhoneSet
from modicum.huper.transcript import Edit, Span, Transcript

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

PHONES = PhoneSet.ipa(["B", "EH", "R", "T", "V"])


@pytest.fixture
def heard():
    """Give emissions that hear B EH T, one frame each, and the answer for V EH R T."""
    likely_TC = np.full((7, len(PHONES)), 0.02)
    for frame, phone in ((1, "B"), (3, "EH"), (5, "T")):
        likely_TC[frame, PHONES.id(phone)] = 0.9
    likely_TC[:, PHONES.blank] += 1 - likely_TC.sum(1)
    emissions = Emissions(
        torch.from_numpy(np.log(likely_TC)), torch.tensor([7]), 0.02, PHONES, PHONES.blank
    )
    spans = [Span(0.02, 0.04), Span(0.06, 0.08), Span(0.1, 0.12)]
    edits = (
        Edit("sub", 0, "V", "B", spans[0]),
        Edit("keep", 1, "EH", "EH", spans[1]),
        Edit("del", 2, "R", None, None),
        Edit("keep", 3, "T", "T", spans[2]),
    )
    answer = Transcript(
        ("B", "EH", "T"), spans, (0.9,) * 3, edits=edits, canonical=("V", "EH", "R", "T")
    )
    return SimpleNamespace(emissions=emissions, answer=answer)


def drawn(figure, tmp_path):
    """Render a figure, so that what matplotlib refuses is found, and give its first axes."""
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 1000
    return figure.axes[0]


def test_posteriorgram_marks_the_path_and_its_edits(heard, tmp_path):
    axes = drawn(plots.posteriorgram(heard.emissions, heard.answer, title="very"), tmp_path)
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["B", "EH", "R", "T", "V", "∅"]
    image = axes.images[0].get_array()
    np.testing.assert_allclose(image[0], np.exp(heard.emissions.utterance(0))[:, PHONES.id("B")])
    boxes = [
        (round(one.get_x(), 3), one.get_y(), round(one.get_width(), 3)) for one in axes.patches
    ]
    assert boxes == [(0.02, -0.5, 0.02), (0.06, 0.5, 0.02), (0.1, 2.5, 0.02)]
    texts = {one.get_text(): one.xy[0] for one in axes.texts}
    assert set(texts) == {"V>B", "EH", "−R", "T"}
    # What was deleted stands between its neighbours.
    assert texts["EH"] < texts["−R"] < texts["T"]
    assert [one.get_text() for one in axes.get_legend().get_texts()] == ["sub", "keep", "del"]


def test_posteriorgram_of_a_bottom_up_answer_and_of_none(heard, tmp_path):
    answer = Transcript(heard.answer.phones, heard.answer.spans, heard.answer.confidences)
    axes = drawn(plots.posteriorgram(heard.emissions, answer), tmp_path)
    assert [one.get_text() for one in axes.texts] == ["B", "EH", "T"] and axes.get_legend() is None
    axes = drawn(plots.posteriorgram(heard.emissions), tmp_path)
    assert not axes.patches and len(axes.get_yticklabels()) == 4
    nothing = Emissions(
        torch.zeros(1, 1, len(PHONES)), torch.tensor([0]), 0.02, PHONES, PHONES.blank
    )
    with pytest.raises(ValueError, match="no frame"):
        plots.posteriorgram(nothing)


def test_per_against_snr(tmp_path):
    curves = {"ear": [0.6, 0.1, 0.3], "adaptive": [[0.2, 0.1, 0.2], [0.1] * 3, [0.3] * 3]}
    figure = plots.per_against_snr(curves, [0, math.inf, 10], adaptive="adaptive")
    axes = drawn(figure, tmp_path)
    assert [one.get_text() for one in axes.get_xticklabels()] == ["0", "10", "clean"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [60, 30, 10])
    widths = {line.get_label(): line.get_linewidth() for line in axes.lines}
    assert widths["adaptive"] > widths["ear"] and len(axes.collections) == 1
    with pytest.raises(ValueError, match="'ear' must be 2 rates"):
        plots.per_against_snr(curves, [0, 10])
    with pytest.raises(ValueError, match="adaptive names no curve: 'x'"):
        plots.per_against_snr(curves, [0, math.inf, 10], adaptive="x")


def test_reliability_has_bins_of_as_many_utterances(tmp_path):
    scores = np.linspace(0, 1, 20)
    axes = drawn(plots.reliability(scores[::-1], scores[::-1] / 2, bins=4), tmp_path)
    x, y = (np.asarray(one, float) for one in axes.containers[0][0].get_data())
    np.testing.assert_allclose(x, scores.reshape(4, 5).mean(1))
    np.testing.assert_allclose(y, 50 * x)
    (bins,) = plots.reliability([0, 1, 2], [0, 1, 2]).axes[0].containers
    assert len(bins[0].get_xdata()) == 1
    for scores, errors in (([0.1], [0.1]), ([0.1, 0.2], [0.1]), ([[1, 2]], [[1, 2]])):
        with pytest.raises(ValueError, match="as many of both"):
            plots.reliability(scores, errors)
    with pytest.raises(ValueError, match="bins must be positive, not 0"):
        plots.reliability([0, 1], [0, 1], bins=0)


def test_evidence_has_both_groups_and_the_line(tmp_path):
    figure = plots.evidence_against_score([0.1, 0.2, 0.3], [1, 2, 9], [True, True, False], a=1, b=5)
    axes = drawn(figure, tmp_path)
    first, second, line = axes.lines
    assert list(first.get_xdata()) == [0.1, 0.2] and list(second.get_ydata()) == [9]
    np.testing.assert_allclose(line.get_ydata(), 1 + 5 * np.asarray(line.get_xdata()))
    assert len(plots.evidence_against_score([0.1], [1], [True]).axes[0].lines) == 2
    with pytest.raises(ValueError, match="must be as many"):
        plots.evidence_against_score([0.1], [1, 2], [True])


def test_confusions_are_where_they_belong(tmp_path):
    confusions = [("V", "B", 3), (None, "T", 2), ("T", None, 1)]
    axes = drawn(plots.confusion_heatmap(confusions, order=("B", "T", "V")), tmp_path)
    counts = axes.images[0].get_array().filled(0)
    assert counts[2, 0] == 3 and counts[3, 1] == 2 and counts[1, 3] == 1 and counts.sum() == 6
    recall = {"V": 0.4, "T": 0.5, "B": 1.0}
    axes = plots.confusion_heatmap(confusions, recall, order=("B", "T", "V")).axes[0]
    shares = axes.images[0].get_array().filled(0)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert shares[2, 0] == pytest.approx(0.6) and shares[0, 0] == 1 and shares[3, 1] == 1
    with pytest.raises(ValueError, match="no phone to draw"):
        plots.confusion_heatmap([])
    with pytest.raises(ValueError, match="the order lacks T"):
        plots.confusion_heatmap(confusions, order=("B", "V"))


def test_neighbours_are_alike():
    pytest.importorskip("panphon")
    order = plots.feature_order(["T", "IY", "D", "AA", "S", "IH", "Z", "S"])
    assert sorted(order) == ["AA", "D", "IH", "IY", "S", "T", "Z"]
    place = {phone: at for at, phone in enumerate(order)}
    for one, two in (("T", "D"), ("S", "Z"), ("IY", "IH")):
        assert abs(place[one] - place[two]) == 1
    assert plots.feature_order(["T", "D"]) == ("T", "D")
    figure = plots.confusion_heatmap([("T", "IY", 1), ("D", "AA", 1), ("S", "Z", 1)])
    labels = [one.get_text() for one in figure.axes[0].get_yticklabels()]
    assert abs(labels.index("S") - labels.index("Z")) == 1 and labels[-1] == "∅"
    # Symbols without features go by the alphabet.
    labels = plots.confusion_heatmap([("%2", "%1", 1), ("T", "D", 1)]).axes[0].get_yticklabels()
    assert [one.get_text() for one in labels] == ["%1", "%2", "D", "T", "∅"]
