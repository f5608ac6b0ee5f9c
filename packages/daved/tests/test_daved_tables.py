"""Files in, the same numbers out; what does not fit is named."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from modicum.daved.integrations import tables
from modicum.daved.integrations.tables import read_table, write_plan, write_table
from modicum.daved.pool import ArrayPool
from modicum.daved.select import select

ROWS = np.random.default_rng(0).normal(size=(7, 3))
PRICES = np.arange(1.0, 8.0)
NAMES = [f"r{i}" for i in range(7)]


def write(path: Path) -> Path:
    """Write ROWS with prices and names in the format of the path's ending."""
    if path.suffix in (".csv", ".parquet"):
        columns = {f"f{i}": ROWS[:, i] for i in range(3)}
        return write_table(path, {"id": NAMES, **columns, "price": PRICES})
    arrays = {"X": ROWS, "price": PRICES}
    if path.suffix == ".npz":
        np.savez(path, **arrays, id=np.array(NAMES))
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_round_trip_is_exact(tmp_path: Path, ending: str) -> None:
    table = read_table(write(tmp_path / f"a{ending}"), price="price", label="id")
    np.testing.assert_array_equal(table.values, ROWS)
    assert table.columns == (("f0", "f1", "f2") if ending != ".npz" else None)
    np.testing.assert_array_equal(table.prices, PRICES)  # type: ignore[arg-type]
    assert table.labels.tolist() == NAMES  # type: ignore[union-attr]
    assert table.groups is None
    assert table.offsets.tolist() == [0, 7]


def test_arrays_on_the_disk_stay_there(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    assert isinstance(read_table(tmp_path / "a.npy").values, np.memmap)
    table = read_table(write(tmp_path / "a.safetensors"), price="price")
    assert isinstance(table.values, np.memmap)
    np.testing.assert_array_equal(table.values, ROWS)
    np.testing.assert_array_equal(table.prices, PRICES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8],
)
def test_safetensors_of_every_type(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1.0, 2.5, 3.0], [100.0, 0.0, 7.0]]).to(dtype)
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"pad": torch.ones(3, dtype=torch.uint8), "X": tensor}, path)
    np.testing.assert_array_equal(read_table(path).values, tensor.double().numpy())


def test_several_files_are_shards_of_one_pool(tmp_path: Path) -> None:
    for number, part in enumerate((ROWS[:2], ROWS[2:3], ROWS[3:])):
        np.save(tmp_path / f"{number}.npy", part)
    (tmp_path / "notes.txt").write_text("not data")
    for source in (tmp_path, [tmp_path / f"{i}.npy" for i in range(3)]):
        table = read_table(source)
        assert isinstance(table.values, list)
        assert table.offsets.tolist() == [0, 2, 3, 7]
        assert [file.name for file in table.files] == ["0.npy", "1.npy", "2.npy"]
        np.testing.assert_allclose(ArrayPool(table.values).gram(), ROWS.T @ ROWS, rtol=1e-13)


def test_columns_of_later_files_are_found_by_name(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", {"u": [1.0], "v": [2.0], "p": [3.0], "lot": ["x"]})
    write_table(tmp_path / "b.parquet", {"lot": ["y"], "v": [20.0], "p": [30.0], "u": [10.0]})
    table = read_table([tmp_path / "a.csv", tmp_path / "b.parquet"], price="p", group="lot")
    np.testing.assert_array_equal(np.concatenate(table.values), [[1, 2], [10, 20]])
    assert table.prices.tolist() == [3.0, 30.0]  # type: ignore[union-attr]
    assert table.groups.tolist() == ["x", "y"]  # type: ignore[union-attr]
    write_table(tmp_path / "c.csv", {"u": [1.0], "w": [2.0], "p": [3.0], "lot": ["x"]})
    with pytest.raises(ValueError, match=r"missing \['v'\]"):
        read_table([tmp_path / "a.csv", tmp_path / "c.csv"], price="p", group="lot")
    write_table(tmp_path / "d.csv", {"u": [1.0], "p": [3.0], "lot": ["x"]})
    with pytest.raises(ValueError, match="1 features after 2"):
        read_table([tmp_path / "a.csv", tmp_path / "d.csv"], price="p", group="lot")


def test_csv_without_names_with_gaps_and_with_many_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = np.random.default_rng(1).normal(size=(2 * tables._LINES_OF_A_BLOCK + 3, 2))
    np.savetxt(path, rows, delimiter=",", fmt="%.17g")
    table = read_table(path)
    assert table.columns is None
    np.testing.assert_array_equal(table.values, rows)
    path.write_text("\ufeffa,b\r\n1,\r\n\r\n2, 4\r\n", encoding="utf-8")
    table = read_table(path)
    assert table.columns == ("a", "b")
    np.testing.assert_array_equal(table.values, [[1, np.nan], [2, 4]])
    path.write_text("a,b\n")
    assert read_table(path).values.shape == (0, 2)


def test_a_column_of_vectors_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"e": ROWS.tolist(), "y": np.ones(7), "price": PRICES}), path)
    table = read_table(path, price="price", drop=["y"])
    np.testing.assert_array_equal(table.values, ROWS)


def test_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=ROWS, Z=2 * ROWS, price=PRICES[:3])
    np.testing.assert_array_equal(read_table(tmp_path / "a.npz", key="Z").values, 2 * ROWS)
    np.testing.assert_array_equal(read_table(tmp_path / "a.npz", drop=["Z"]).values, ROWS)
    with pytest.raises(ValueError, match="2 arrays of two dimensions"):
        read_table(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no array 'Y'"):
        read_table(tmp_path / "a.npz", key="Y")
    with pytest.raises(ValueError, match="3 prices and 7 records"):
        read_table(tmp_path / "a.npz", key="X", price="price")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read_table(tmp_path / "absent.npy")
    with pytest.raises(FileNotFoundError, match="no file that ends in"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match="no files"):
        read_table([])
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.xlsx.*one of"):
        read_table(tmp_path / "a.xlsx")
    path = tmp_path / "a.csv"
    for text, words in {
        "": "is empty",
        "a,b\n1,Oslo\n": "column 'b' holds 'Oslo'",
        "a,b\n1,2\n1\n": "line 3: 1 values for 2 columns",
        "a,a\n1,2\n": "same name",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_table(path)
    for settings in ({"price": "p"}, {"label": "p"}, {"group": "p"}, {"drop": ["p"]}):
        np.save(tmp_path / "a.npy", ROWS)
        path.write_text("1,2\n")
        write(tmp_path / "a.parquet")
        for ending in ("npy", "csv", "parquet"):
            with pytest.raises(ValueError, match=r"no column \['p'\]"):
                read_table(tmp_path / f"a.{ending}", **settings)  # type: ignore[arg-type]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an array of numbers"):
        read_table(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()


def test_cut_off_safetensors(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.safetensors").read_bytes()
    for size in (4, 20, len(whole) - 1):
        (tmp_path / "b.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a whole"):
            read_table(tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").write_bytes((2).to_bytes(8, "little") + b"no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_table(tmp_path / "b.safetensors")


def test_writing_replaces_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "deep" / "a.csv", {"a": [0.1], "b": ["x,y"]})
    assert path.read_text() == 'a,b\n0.1,"x,y"\n'

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(path, {"a": [0.2]})
    assert path.read_text() == 'a,b\n0.1,"x,y"\n'
    assert [item.name for item in path.parent.iterdir()] == ["a.csv"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.txt.*\.csv or \.parquet"):
        write_table(tmp_path / "a.txt", {"a": [1]})
    with pytest.raises(ValueError, match="different lengths"):
        write_table(tmp_path / "a.csv", {"a": [1], "b": [1, 2]})


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **named)

    path = write(tmp_path / "a.parquet")
    monkeypatch.setattr(builtins, "__import__", without)
    for attempt in (lambda: read_table(path), lambda: write_table(path, {"a": [1]})):
        with pytest.raises(ImportError, match=r"modicum-daved\[parquet\]"):
            attempt()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_plan_reads_back(tmp_path: Path, ending: str) -> None:
    bought = select(ROWS, ROWS[:1], 9.0, costs=PRICES, solver="greedy")
    path = write_plan(tmp_path / f"plan{ending}", bought, sigma2=0.5)
    table = read_table(path, price="price", label="label")
    assert table.columns == ("item", "marginal_benefit", "spent", "predicted_error")
    np.testing.assert_array_equal(table.values[:, 0], bought.indices)
    np.testing.assert_array_equal(table.prices, PRICES[bought.indices])  # type: ignore[arg-type]
    np.testing.assert_array_equal(table.values[:, 3], 0.5 * bought.predicted_error)
