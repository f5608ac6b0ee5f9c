"""Feature distances: known values, panphon's own code, and edits that they choose."""

import numpy as np
import pytest

from modicum.huper.edits import apply, encode
from modicum.huper.features import edit_cost, feature_edit_distance, segment_features
from modicum.huper.integrations.panphon import feature_table

pytest.importorskip("panphon")


@pytest.mark.parametrize(
    ("phone", "other", "cost"),
    [
        ("s", "z", 1 / 24),
        ("t", "d", 1 / 24),
        ("v", "b", 2 / 24),
        ("θ", "s", 2 / 24),
        ("θ", "t", 2 / 24),
        ("i", "ɪ", 1 / 24),
        ("t", "ɾ", 0.1875),
        ("ð", "i", None),
        ("p", "a", 0.375),
        ("t", None, 0.9375),
        ("ɾ", None, 0.875),
        (None, "æ", 0.916667),
    ],
)
def test_known_costs(phone, other, cost):
    assert edit_cost(phone, other) == edit_cost(other, phone) > 0
    if cost is not None:
        assert edit_cost(phone, other) == pytest.approx(cost, abs=1e-6)


def test_arpabet_has_the_costs_of_its_segments():
    assert edit_cost("TH", "S") == edit_cost("θ", "s")
    assert edit_cost("AY", None) == pytest.approx(edit_cost("a", None) + edit_cost("ɪ", None))
    assert edit_cost("AA", "AA") == 0 == edit_cost(None, None)
    # A segment of the IPA is not a phone of ARPAbet in small letters.
    assert edit_cost("b", None) == edit_cost("B", None)


def test_the_order_of_edits_is_the_cheapest_by_features():
    program = encode(["HH", "AE", "N", "D"], ["HH", "AE", "M"], cost="feature")
    assert program.ops == ("KEEP", "KEEP", "SUB:M", "DEL")
    assert apply(program) == ("HH", "AE", "M")
    # Unit costs cannot tell which of two phones is meant; features can.
    program = encode(["S", "T"], ["D"], cost="feature")
    assert program.ops == ("DEL", "SUB:D")


def test_distances_are_panphons():
    distance = pytest.importorskip("panphon.distance").Distance()
    rng = np.random.default_rng(5)
    alphabet = [*"pbtdkɡmnŋfvszʃʒθðhlɹjwaeiouæɑɔəɛɪʊʌɾʔqxɣ", "t͡ʃ", "d͡ʒ", "ɜ˞", "l̩"]
    for _ in range(300):
        left, right = (
            [alphabet[i] for i in rng.integers(len(alphabet), size=rng.integers(8))]
            for _ in range(2)
        )
        expected = distance.feature_edit_distance("".join(left), "".join(right))
        assert feature_edit_distance(left, right) == pytest.approx(expected, abs=1e-9)


def test_unknown_segments_are_named():
    with pytest.raises(ValueError, match="'ɚ' is no IPA segment"):
        segment_features("ɚ")
    with pytest.raises(TypeError, match="not the string"):
        feature_edit_distance("ab", ["a"])


def test_the_table_is_read_only_and_complete():
    table = feature_table()
    assert len(table) > 6000
    with pytest.raises(ValueError, match="read-only"):
        table["t"][0] = 0


def test_without_panphon_the_extra_is_named(monkeypatch):
    feature_table.cache_clear()
    monkeypatch.setattr("modicum.huper.integrations.panphon.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "modicum-huper\[panphon\]"'):
        segment_features("t")
    monkeypatch.undo()
    feature_table.cache_clear()
