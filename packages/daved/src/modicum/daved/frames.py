"""Arrays, data frames, tensors and data sets as rows of numbers, with their labels kept.

What comes in is told by what it can do, so that no library of frames or tensors is imported:
NumPy arrays and memory maps, lists of rows, lists of shards, pandas, Polars (eager and lazy),
PyArrow tables, ``datasets.Dataset``, PyTorch and other tensors. A column may hold one number per
record or a vector of fixed length. What goes out are the rows, the names of the features and the
labels of the records; `take` picks records from the user's object and gives the same kind of
object. Whether numbers are finite and shapes agree is asked elsewhere.

Shapes: n records, d features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "Frame",
    "align",
    "count",
    "in_microseconds",
    "is_shards",
    "labels_of",
    "names_of",
    "take",
    "to_frame",
    "to_vector",
]

_LIKE = "an array, a data frame, a tensor or a list of shards"


@dataclass(frozen=True)
class Frame:
    """Records as rows of numbers.

    Attributes
    ----------
    values
        (n, d) of a real type, or a list of such shards. Arrays and memory maps are not copied.
    columns
        Names of the features, (d,); None where there are none.
    labels
        Labels of the records, (n,); None where the position is the only label.
    """

    values: Any
    columns: tuple[str, ...] | None = None
    labels: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of records."""
        return count(self.values)


def to_frame(data: Any, name: str = "X") -> Frame:
    """Read records as rows of numbers.

    Parameters
    ----------
    data
        (n, d) of numbers in any form that the module names. Of a one-dimensional array or a frame
        of one column nothing is guessed: it needs two dimensions.
    name
        What error messages call it.

    Returns
    -------
    Frame
        Floating values keep their precision, except that bfloat16 becomes float32; integers and
        booleans stay what they are; decimal numbers and missing values of a frame become float64
        and nan.

    Raises
    ------
    TypeError
        If the data are sparse, or no rows of numbers at all.
    ValueError
        If there are not two dimensions, a column is not numeric, values are complex, or shards
        differ in their features.
    """
    if is_shards(data):
        return _join(
            [to_frame(shard, f"{name}[{number}]") for number, shard in enumerate(data)], name
        )
    if hasattr(data, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix; rows have to be dense: give {name}.toarray()")
    data = _collected(data)
    names = names_of(data)
    if names is not None:
        return _from_columns(data, names, name)
    return Frame(_as_matrix(_to_numpy(data, name), name))


def to_vector(data: Any, name: str, dtype: Any = np.float64) -> np.ndarray:
    """Read one value per record: prices, groups, noise.

    Parameters
    ----------
    data
        (n,) values in an array, a list, a tensor, a column of a frame, or (n, 1) of them.
    name
        What error messages call it.
    dtype
        Type of the result; None keeps the type.

    Returns
    -------
    numpy.ndarray
        (n,).

    Raises
    ------
    ValueError
        If there is more than one value per record or a value cannot be read as `dtype`.
    """
    names = names_of(data)
    if names is not None and len(names) == 1:
        data = _column(data, names[0])
    found = _to_numpy(data, name)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise ValueError(f"{name} has shape {found.shape}; it needs one value per record, (n,)")
    try:
        return in_microseconds(found) if dtype is None else found.astype(dtype, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} holds something else than numbers: {error}") from None


def align(frame: Frame, columns: tuple[str, ...] | None, name: str) -> Frame:
    """Put the features of a frame into the order of other names.

    Parameters
    ----------
    frame
        Records, with names of features or without.
    columns
        Names in the order wanted, (d,). Where either has none, positions count and the frame
        stays as it is.
    name
        What error messages call the frame.

    Returns
    -------
    Frame
        The same records with features in that order.

    Raises
    ------
    ValueError
        If the two have different features.
    """
    if columns is None or frame.columns is None or frame.columns == columns:
        return frame
    missing = [column for column in columns if column not in frame.columns]
    unknown = [column for column in frame.columns if column not in columns]
    if missing or unknown:
        raise ValueError(
            f"{name} has other features than the sellers: missing {missing}, unknown {unknown}"
        )
    order = [frame.columns.index(column) for column in columns]
    shards = frame.values
    values = [s[:, order] for s in shards] if isinstance(shards, list) else shards[:, order]
    return Frame(values, columns, frame.labels)


def names_of(data: Any) -> list[str] | None:
    """Give the names of the columns of a frame; None for anything that is not one."""
    if isinstance(data, np.ndarray | list | tuple):
        return None
    found = data.column_names if hasattr(data, "column_names") else getattr(data, "columns", None)
    if isinstance(found, dict):
        raise TypeError("these are several data sets (splits); give one of them")
    return None if found is None or callable(found) else list(found)


def labels_of(data: Any) -> np.ndarray | None:
    """Give the labels of a frame's records, (n,); None where the position is the only label."""
    index = getattr(data, "index", None)
    if index is None or callable(index):
        return None
    # The index of a frame that nobody labelled says nothing that the position does not.
    is_default = hasattr(index, "step") and index.start == 0 and index.step == 1
    return None if is_default else in_microseconds(np.asarray(index))


def in_microseconds(values: np.ndarray) -> np.ndarray:
    """Give dates and durations finer than Python has them in microseconds; all else as it is.

    Finer ones are whole numbers, not dates, in a list.
    """
    kind = values.dtype.kind
    is_fine = kind in "mM" and np.datetime_data(values.dtype)[0] in ("ns", "ps", "fs", "as")
    return values.astype(f"{kind}8[us]") if is_fine else values


def is_shards(data: Any) -> bool:
    """Say whether data are a list of two-dimensional pieces rather than a list of rows."""
    return isinstance(data, list | tuple) and len(data) > 0 and all(map(_is_table, data))


def count(data: Any) -> int:
    """Count the records of anything that `to_frame` reads."""
    if is_shards(data):
        return sum(count(shard) for shard in data)
    data = _collected(data)
    if hasattr(data, "num_rows"):
        return int(data.num_rows)
    shape = getattr(data, "shape", None)
    return int(shape[0]) if shape else len(data)


def take(data: Any, indices: Sequence[int] | np.ndarray) -> Any:
    """Pick records by position, in the order asked for, from the user's own object.

    Parameters
    ----------
    data
        Anything that `to_frame` reads, or labels: one value or one row per record.
    indices
        Positions, (k,).

    Returns
    -------
    object
        The same kind of object with k records, a frame with its index; of a list of arrays that
        are shards one array, of another list a list.
    """
    asked_k = np.asarray(indices, dtype=np.int64)
    if is_shards(data):
        return _take_of_shards(data, asked_k)
    data = _collected(data)
    if hasattr(data, "iloc"):
        return data.iloc[asked_k]
    if _is_dataset(data):
        return data.select(asked_k.tolist())
    if hasattr(data, "column_names"):
        return data.take(asked_k)
    if isinstance(data, list | tuple):
        return type(data)(data[index] for index in asked_k)
    # Lists are an index that every kind of tensor understands, on every device.
    return data[asked_k.tolist()]


def _take_of_shards(shards: Any, asked_k: np.ndarray) -> Any:
    offsets = np.cumsum([0, *map(count, shards)])
    of_shard = np.searchsorted(offsets, asked_k, side="right") - 1
    found = [
        np.asarray(to_frame(shards[number]).values[index - offsets[number]])
        for number, index in zip(of_shard, asked_k, strict=True)
    ]
    return np.stack(found) if found else np.asarray(to_frame(shards[0]).values[:0])


def _collected(data: Any) -> Any:
    is_lazy = hasattr(data, "collect") and hasattr(data, "collect_schema")
    return data.collect() if is_lazy and not hasattr(data, "shape") else data


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "column_names") and hasattr(data, "with_format")


def _is_tensor(data: Any) -> bool:
    return hasattr(data, "detach") and hasattr(data, "cpu")


def _is_table(data: Any) -> bool:
    if isinstance(data, list | tuple | str):
        return False
    return names_of(data) is not None or getattr(data, "ndim", None) == 2


def _join(shards: list[Frame], name: str) -> Frame:
    first = shards[0]
    for number, shard in enumerate(shards):
        here, there = shard.values.shape[1], first.values.shape[1]
        if here != there:
            raise ValueError(f"{name}[{number}] has {here} features, {name}[0] has {there}")
    aligned = [align(shard, first.columns, name) for shard in shards]
    labels = None
    if all(shard.labels is not None for shard in shards):
        labels = np.concatenate([shard.labels for shard in shards if shard.labels is not None])
    return Frame([shard.values for shard in aligned], first.columns, labels)


def _column(data: Any, column: Any) -> Any:
    return data.column(column) if hasattr(data, "num_columns") else data[column]


def _from_columns(data: Any, names: list[str], name: str) -> Frame:
    if not names:
        raise ValueError(f"{name} has no columns")
    twice = sorted({str(column) for column in names if names.count(column) > 1})
    if twice:
        raise ValueError(f"{name} has more than one column of the name {twice}; rename or drop one")
    source = data.with_format("numpy")[:] if _is_dataset(data) else data
    blocks, columns = [], []
    for column in names:
        block = _to_numpy(_column(source, column), f"column {column!r} of {name}")
        block = _as_numbers(block, f"column {column!r} of {name}")
        if block.ndim > 2:
            raise ValueError(f"column {column!r} of {name} has shape {block.shape}; flatten it")
        blocks.append(block[:, None] if block.ndim == 1 else block)
        # A vector in a column is as many features.
        width = blocks[-1].shape[1]
        columns += [column] if block.ndim == 1 else [f"{column}_{i}" for i in range(width)]
    named = all(isinstance(column, str) for column in columns)
    return Frame(np.hstack(blocks), tuple(columns) if named else None, labels_of(data))


def _to_numpy(data: Any, name: str) -> np.ndarray:
    if isinstance(data, np.ndarray):
        return data
    if _is_tensor(data):
        data = data.detach().cpu()
        if "bfloat16" in str(data.dtype):
            data = data.float()
        return data.numpy()
    try:
        return np.asarray(data.to_numpy() if hasattr(data, "to_numpy") else data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not {_LIKE}: {error}") from None


def _as_matrix(values: np.ndarray, name: str) -> np.ndarray:
    if values.ndim != 2:
        advice = "Reshape your data: (-1, 1) for one feature, (1, -1) for one record."
        raise ValueError(
            f"{name} has shape {values.shape}; it needs two dimensions, (records, features). "
            + advice
        )
    return _as_numbers(values, name)


def _as_numbers(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has type {values.dtype}")
    if values.dtype.kind in "fiub":
        return values
    if values.dtype.kind == "O" and values.size and isinstance(values.flat[0], np.ndarray):
        lengths = sorted({len(value) for value in values.flat})
        if len(lengths) > 1:
            raise ValueError(f"{name} holds vectors of lengths {lengths}; they have to be equal")
        return _as_numbers(np.stack(list(values.flat)), name)
    if values.dtype.kind != "O":
        raise ValueError(f"{name} has type {values.dtype}; features have to be numbers")
    try:
        return np.array([_number(value) for value in values.flat]).reshape(values.shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} holds something else than numbers: {error}") from None


def _number(value: Any) -> float:
    """Give a value of a mixed column as a float; what libraries write for missing is nan."""
    if isinstance(value, complex):
        raise ValueError(f"Complex data not supported: {value}")
    is_missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return float("nan") if is_missing else float(value)
