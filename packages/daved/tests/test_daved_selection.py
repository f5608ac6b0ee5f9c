"""A selection into JSON and back, and its plan."""

import csv
import json
import sys
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from modicum.daved.select import select
from modicum.daved.selection import PlanRow, Selection
from modicum.daved.solvers.base import Step


def selection(**changes):
    values = {
        "indices": np.array([2, 0]),
        "weights": np.array([0.5, 0.0, 1.5]),
        "spent": 4.0,
        "budget": 5.0,
        "objective": 2.0,
        "gap": 0.5,
        "scores": np.array([1.0, 0.0, 1 / 3]),
        "fair_price": np.array([2.5, 0.0, 5 / 6]),
        "prices": np.array([1.0, 2.0, 3.0]),
        "coverage": np.array([1.0]),
        "prior_error": 10.0,
        "marginal_benefit": np.array([6.0, 1.0]),
        "history": (Step(0, 3.0, 1.0, 2, 0.25), Step(1, 2.5, float("nan"))),
        "picks": np.array([2]),
        "settings": {"solver": "fw", "max_iter": 20},
    }
    return Selection(**(values | changes))


def test_the_plan_adds_up():
    rows = selection(labels=np.array(["a", "b", "c"])).plan(sigma2=2.0)
    assert rows == [
        PlanRow(2, "c", 3.0, 12.0, 3.0, 8.0),
        PlanRow(0, "a", 1.0, 2.0, 4.0, 6.0),
    ]
    assert [row.label for row in selection().plan()] == [2, 0]


def test_errors_labels_and_efficiency():
    found = selection(labels=np.array([10, 20, 30]))
    np.testing.assert_array_equal(found.predicted_error, [4.0, 3.0])
    np.testing.assert_array_equal(found.bought_labels, [30, 10])
    assert found.efficiency == 0.75
    assert len(found) == 2
    assert np.isnan(selection(gap=float("nan")).efficiency)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gap": float("nan")},
        {"labels": np.array(["a", "b", "c"]), "lots": ("x", "y")},
        {"labels": np.array([1.5, 2.5, 3.5]), "lots": (np.int64(1), 2)},
        {"history": (), "indices": np.empty(0, dtype=np.int64), "marginal_benefit": np.empty(0)},
    ],
)
def test_json_comes_back_equal_in_values_and_types(changes, tmp_path):
    found = selection(**changes)
    path = tmp_path / "deep" / "run.json"
    text = found.to_json(path)
    json.loads(text)
    for back in (
        Selection.from_json(text),
        Selection.from_json(path),
        Selection.from_json(f"{path}"),
    ):
        assert back == found
        assert back.indices.dtype == back.picks.dtype == np.int64
        np.testing.assert_array_equal(back.scores, found.scores)
        assert [repr(step) for step in back.history] == [repr(step) for step in found.history]


def test_labels_that_json_does_not_have_become_text():
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-03"], dtype="datetime64[D]")
    back = Selection.from_json(selection(labels=days).to_json())
    assert back.labels.tolist() == ["2024-01-01", "2024-01-02", "2024-01-03"]


def test_selections_differ_by_any_field():
    assert selection() == selection()
    assert selection() != selection(spent=4.5)
    assert selection() != selection(weights=np.array([0.5, 0.0, 1.25]))
    assert selection() != "a selection"
    with pytest.raises(TypeError, match="unhashable"):
        hash(selection())


def test_a_selection_does_not_change():
    found = selection()
    with pytest.raises(FrozenInstanceError):
        found.spent = 0.0
    assert replace(found, spent=0.0).spent == 0.0


def test_a_dictionary_of_other_fields_is_refused():
    values = selection().to_dict()
    del values["gap"]
    values["gaps"] = 1
    with pytest.raises(ValueError, match=r"missing \['gap'\], unknown \['gaps'\]"):
        Selection.from_dict(values)


def test_parquet_has_the_plan_of_the_csv(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = selection(labels=np.array(["a", "b,2", "c"]))
    found.to_parquet(tmp_path / "picks.parquet", sigma2=2.0)
    read = parquet.read_table(tmp_path / "picks.parquet").to_pylist()
    assert read == [asdict(row) for row in found.plan(sigma2=2.0)]
    with pytest.raises(ValueError, match=r"path has to end in \.parquet, not 'picks\.csv'"):
        found.to_parquet("picks.csv")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'pip install "modicum-daved\[parquet\]"'):
        found.to_parquet(tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_csv_has_the_plan_with_all_digits(tmp_path):
    path = tmp_path / "picks.csv"
    found = selection(labels=np.array(["a", "b,2", "c"]), marginal_benefit=np.array([6.0, 1 / 3]))
    text = found.to_csv(path)
    assert path.read_bytes().decode() == text
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["label"] for row in rows] == ["c", "a"]
    assert float(rows[1]["marginal_benefit"]) == 1 / 3
    assert list(rows[0])[:3] == ["item", "label", "price"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "labels",
    [
        [1, "a", 2.5, True],
        [True, 2, 3, 4],
        [float("nan"), "a", "b", "c"],
        ["a", "b", "c", "d"],
        [(1, "x"), (2, "x"), (3, "x"), (4, "x")],
    ],
)
def test_labels_of_any_types_come_back_equal(labels, tmp_path):
    labels_n = np.empty(4, dtype=object)
    labels_n[:] = labels
    rows = np.random.default_rng(0).normal(size=(4, 2))
    found = replace(select(rows, rows[:1], 2), labels=labels_n)
    assert Selection.from_json(found.to_json()) == found
    found.to_parquet(tmp_path / "plan.parquet")
    kept = pq.read_table(tmp_path / "plan.parquet").column("label").to_pylist()
    assert list(map(str, kept)) == [str(labels_n[row]) for row in found.indices]


def test_dates_finer_than_microseconds_stay_dates():
    rows = np.random.default_rng(0).normal(size=(4, 2))
    days = pd.date_range("2024-01-01", periods=4).as_unit("ns")
    found = select(pd.DataFrame(rows, index=days), rows[:1], 2)
    expected = [str(days[row]) for row in found.indices]
    assert [str(row.label) for row in found.plan()] == expected
    assert [found.to_dict()["labels"][row] for row in found.indices] == expected


def test_errors_need_a_variance_above_zero():
    rows = np.random.default_rng(0).normal(size=(4, 2))
    with pytest.raises(ValueError, match="sigma2 must be positive"):
        select(rows, rows[:1], 2).plan(sigma2=-1.0)
