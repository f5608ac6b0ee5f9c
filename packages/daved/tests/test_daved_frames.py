"""Frames, tensors and shards as rows of numbers: nothing lost, nothing guessed."""

import subprocess
import sys
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from modicum.daved.frames import align, count, is_shards, take, to_frame, to_vector

ROWS = np.array([[1.5, -2.0], [0.25, 4.0], [3.0, 0.5]])
COLUMNS = {"a": ROWS[:, 0].tolist(), "b": ROWS[:, 1].tolist()}
MAKERS: dict[str, Any] = {
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars lazy": lambda: pl.DataFrame(COLUMNS).lazy(),
    "arrow": lambda: pa.table(COLUMNS),
    "datasets": lambda: datasets.Dataset.from_dict(COLUMNS).with_format("numpy", dtype=np.float64),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_frames_of_every_library_give_values_and_names(kind: str) -> None:
    frame = to_frame(MAKERS[kind]())
    np.testing.assert_array_equal(np.asarray(frame.values, dtype=np.float64), ROWS)
    assert frame.columns == ("a", "b")
    assert frame.labels is None
    assert frame.n == 3


@pytest.mark.parametrize("kind", MAKERS)
def test_take_gives_the_same_kind_in_the_order_asked_for(kind: str) -> None:
    data = MAKERS[kind]()
    taken = take(data, [2, 0])
    assert isinstance(taken, type(data)) or kind == "polars lazy"
    np.testing.assert_array_equal(
        np.asarray(to_frame(taken).values, dtype=np.float64), ROWS[[2, 0]]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_tensors(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=dtype)
    values = to_frame(tensor).values
    np.testing.assert_array_equal(values, [[1, 2], [3, 4], [5, 6]])
    expected = {torch.bfloat16: "float32"}.get(dtype, str(dtype).removeprefix("torch."))
    assert values.dtype == expected
    taken = take(tensor, [1])
    assert isinstance(taken, torch.Tensor)
    assert taken.tolist() == [[3, 4]]


def test_tensor_with_gradient() -> None:
    np.testing.assert_array_equal(to_frame(torch.tensor(ROWS, requires_grad=True)).values, ROWS)


def test_arrays_and_memory_maps_are_not_copied(tmp_path: Any) -> None:
    assert to_frame(ROWS).values is ROWS
    np.save(tmp_path / "rows.npy", ROWS)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    frame = to_frame([mapped, mapped])
    assert isinstance(frame.values, list)
    assert frame.values[0] is mapped
    assert frame.n == 6


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint16", "bool"])
def test_types_stay(dtype: str) -> None:
    assert to_frame(np.ones((2, 2), dtype=dtype)).values.dtype == dtype


def test_a_list_of_rows_is_not_a_list_of_shards() -> None:
    assert not is_shards([[1.0, 2.0], [3.0, 4.0]])
    assert not is_shards([np.ones(2), np.ones(2)])
    assert is_shards((np.ones((1, 2)), torch.ones(3, 2)))
    np.testing.assert_array_equal(to_frame([np.ones(2), np.zeros(2)]).values, [[1, 1], [0, 0]])
    assert not is_shards([])


def test_index_is_kept_and_a_default_index_is_not_a_label() -> None:
    named = pd.DataFrame(COLUMNS, index=["x", "y", "z"])
    assert to_frame(named).labels.tolist() == ["x", "y", "z"]  # type: ignore[union-attr]
    assert take(named, [2, 0]).index.tolist() == ["z", "x"]
    later = pd.DataFrame(COLUMNS, index=pd.RangeIndex(5, 8))
    assert to_frame(later).labels.tolist() == [5, 6, 7]  # type: ignore[union-attr]
    assert to_frame(named.reset_index(drop=True)).labels is None


def test_shards_of_frames_keep_their_labels_and_find_their_columns() -> None:
    one = pd.DataFrame(COLUMNS, index=["x", "y", "z"])
    two = pd.DataFrame({"b": [9.0], "a": [8.0]}, index=["w"])
    frame = to_frame([one, two])
    assert frame.labels.tolist() == ["x", "y", "z", "w"]  # type: ignore[union-attr]
    np.testing.assert_array_equal(frame.values[1], [[8.0, 9.0]])
    np.testing.assert_array_equal(take([one, torch.ones(2, 2)], [4, 1]), [[1, 1], ROWS[1]])


def test_take_of_shards_matches_the_whole() -> None:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(20, 3))
    shards = [whole[:5], whole[5:5], whole[5:6], whole[6:]]
    asked = rng.integers(20, size=30)
    assert count(shards) == 20
    np.testing.assert_array_equal(take(shards, asked), whole[asked])
    assert take(shards, []).shape == (0, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda vectors: pd.DataFrame({"e": list(vectors), "x": [7.0, 8.0]}),
        lambda vectors: pl.DataFrame({"e": vectors.tolist(), "x": [7.0, 8.0]}),
        lambda vectors: pl.DataFrame(
            {"e": pl.Series(vectors.tolist(), dtype=pl.Array(pl.Float64, 3)), "x": [7.0, 8.0]}
        ),
        lambda vectors: pa.table({"e": vectors.tolist(), "x": [7.0, 8.0]}),
        lambda vectors: datasets.Dataset.from_dict({"e": vectors.tolist(), "x": [7.0, 8.0]}),
    ],
)
def test_a_column_of_vectors_is_as_many_features(make: Any) -> None:
    vectors = np.arange(6.0).reshape(2, 3)
    frame = to_frame(make(vectors))
    np.testing.assert_array_equal(frame.values, [[0, 1, 2, 7], [3, 4, 5, 8]])
    assert frame.columns == ("e_0", "e_1", "e_2", "x")


def test_missing_values_become_nan() -> None:
    for data in (
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.0, 2.0]}),
        pl.DataFrame({"a": [1, None], "b": [1.0, 2.0]}),
        pa.table({"a": [1, None], "b": [1.0, 2.0]}),
        pd.DataFrame({"a": [1, None], "b": [1.0, 2.0]}, dtype=object),
    ):
        values = to_frame(data).values
        np.testing.assert_array_equal(values, [[1.0, 1.0], [np.nan, 2.0]])


def test_columns_without_names_of_text_are_positions() -> None:
    assert to_frame(pd.DataFrame(ROWS)).columns is None


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (pd.DataFrame({"a": [1.0], "city": ["Oslo"]}), ValueError, "'city'"),
        (pl.DataFrame({"a": [1.0], "city": ["Oslo"]}), ValueError, "'city'"),
        (np.array([["u", "v"]]), ValueError, "have to be numbers"),
        (np.array([[1 + 2j]]), ValueError, "Complex"),
        (np.array([[1 + 2j, "u"]], dtype=object), ValueError, "Complex"),
        (np.ones(3), ValueError, "two dimensions"),
        (np.ones((2, 2, 2)), ValueError, "two dimensions"),
        (3.0, ValueError, "two dimensions"),
        ([[1.0, 2.0], [3.0]], ValueError, "not an array"),
        ([np.ones((2, 2)), np.ones((2, 3))], ValueError, r"X\[1\] has 3 features"),
        (scipy.sparse.eye(3, format="csr"), TypeError, "sparse"),
        (pd.DataFrame(index=[0, 1]), ValueError, "no columns"),
        (pl.DataFrame({"e": [[1.0, 2.0], [1.0]]}), ValueError, r"lengths \[1, 2\]"),
    ],
)
def test_what_is_no_rows_of_numbers_is_named(data: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        to_frame(data)


def test_splits_are_refused() -> None:
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict(COLUMNS)})
    with pytest.raises(TypeError, match="splits"):
        to_frame(splits)


def test_align_orders_by_name_and_names_what_differs() -> None:
    frame = to_frame(pd.DataFrame({"b": [1.0], "a": [2.0]}))
    assert align(frame, ("a", "b"), "Q").values.tolist() == [[2.0, 1.0]]
    assert align(frame, None, "Q") is frame
    plain = to_frame(ROWS)
    assert align(plain, ("a", "b"), "Q") is plain
    with pytest.raises(ValueError, match=r"missing \['c'\], unknown \['b'\]"):
        align(frame, ("a", "c"), "Q")


@pytest.mark.parametrize(
    "prices",
    [
        [1, 2, 3],
        np.array([[1.0], [2.0], [3.0]]),
        pd.Series([1, 2, 3], dtype="Int64"),
        pd.DataFrame({"price": [1, 2, 3]}),
        pl.Series([1, 2, 3]),
        pl.DataFrame({"price": [1, 2, 3]}),
        pa.table({"price": [1, 2, 3]}),
        pa.chunked_array([[1, 2], [3]]),
        torch.tensor([1, 2, 3]),
    ],
)
def test_one_value_per_record(prices: Any) -> None:
    found = to_vector(prices, "costs")
    assert found.dtype == np.float64
    assert found.tolist() == [1.0, 2.0, 3.0]


def test_groups_keep_their_type() -> None:
    assert to_vector(["a", "b"], "groups", dtype=None).tolist() == ["a", "b"]


def test_vectors_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"costs has shape \(2, 2\)"):
        to_vector(np.ones((2, 2)), "costs")
    with pytest.raises(ValueError, match="costs holds something else"):
        to_vector(["cheap", "dear"], "costs")


def test_take_of_labels() -> None:
    assert take(["u", "v", "w"], [2, 0]) == ["w", "u"]
    assert take(np.arange(3), [2, 0]).tolist() == [2, 0]
    assert take(pl.Series([4, 5, 6]), [2, 0]).to_list() == [6, 4]
    assert take(pd.Series([4, 5, 6], index=list("abc")), [2, 0]).index.tolist() == ["c", "a"]


def test_no_library_of_frames_is_imported() -> None:
    code = (
        "import sys, modicum.daved.frames as f; f.to_frame([[1.0, 2.0]]);"
        "print([m for m in ('pandas','polars','pyarrow','torch','datasets','sklearn','scipy')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", MAKERS)
def test_records_of_every_kind_are_counted(kind: str) -> None:
    assert count(MAKERS[kind]()) == 3


def test_two_columns_of_one_name_are_not_four_features() -> None:
    with pytest.raises(ValueError, match=r"X has more than one column of the name \['a'\]"):
        to_frame(pd.DataFrame(ROWS, columns=["a", "a"]))


@pytest.mark.parametrize(("unit", "kept"), [("ns", "us"), ("us", "us"), ("s", "s"), ("D", "D")])
def test_dates_are_kept_as_fine_as_python_has_them(unit: str, kept: str) -> None:
    days = np.array(["2024-01-01", "2024-01-02"], dtype=f"M8[{unit}]")
    found = to_vector(days, "dates", None)
    assert found.dtype == np.dtype(f"M8[{kept}]")
    assert [str(value)[:10] for value in found.tolist()] == ["2024-01-01", "2024-01-02"]
