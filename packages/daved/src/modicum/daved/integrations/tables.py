"""Files of records, in and out.

Reads rows of numbers from .npy, .npz, .csv, .parquet and .safetensors, from a list of such files
and from a folder of them, with the columns that hold prices, names, lots, noise and texts set
apart. Arrays on the disk stay there as memory maps where the format allows it (.npy,
.safetensors), so that a pool may be larger than the memory; several files stay several shards.
Writes tables as CSV or Parquet, whole or not at all. No file is ever unpickled. Parquet needs
pyarrow: ``modicum-daved[parquet]``.

Shapes: n records, d features.
"""

import csv
import datetime
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.experiment import write_atomic
from modicum.daved.frames import Frame, align, count, to_frame, to_vector
from modicum.daved.selection import PlanRow, Selection

__all__ = [
    "FORMATS",
    "ImageFiles",
    "Table",
    "check_writable",
    "read_table",
    "read_vector",
    "write_plan",
    "write_table",
]

FORMATS = (".npy", ".npz", ".csv", ".parquet", ".safetensors")
"""Endings of the files that can be read."""

WRITABLE = (".csv", ".parquet")
"""Endings of the files that can be written."""

# Lines of a CSV file that are turned into numbers together.
_LINES_OF_A_BLOCK = 4096

# Types of safetensors as NumPy reads them; bfloat16 is the upper half of a float32.
_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_LENGTH_OF_A_LENGTH = 8


@dataclass(frozen=True)
class Table:
    """What was read.

    Attributes
    ----------
    values
        Features, (n, d), or a list of shards where there are several files.
    columns
        Names of the features, (d,); None where the format has none.
    prices
        (n,) float64; None unless a column of prices was named.
    labels
        (n,) names of the records; None unless a column of them was named.
    groups
        (n,) lots; None unless a column of them was named.
    noise
        (n,) float64 variances of the label noise; None unless a column of them was named.
    weights
        (n,) float64 weights of the records; None unless a column of them was named.
    records
        (n,) texts or other values that a feature map takes instead of numbers; None unless a column
        of them was named.
    ignored
        Those of the columns to be ignored that some file has.
    files
        Files read, in order.
    offsets
        Row of the table at which each file begins, and their end, (files + 1,).
    """

    values: Any
    columns: tuple[str, ...] | None = None
    prices: np.ndarray | None = None
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    noise: np.ndarray | None = None
    weights: np.ndarray | None = None
    records: np.ndarray | None = None
    ignored: frozenset[str] = frozenset()
    files: tuple[Path, ...] = ()
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    @property
    def frame(self) -> Frame:
        """The features with their names and the labels of the records."""
        return Frame(self.values, self.columns, self.labels)


def read_table(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    price: str | None = None,
    label: str | None = None,
    group: str | None = None,
    noise: str | None = None,
    weight: str | None = None,
    record: str | None = None,
    features: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    ignore: Sequence[str] = (),
    key: str | None = None,
) -> Table:
    """Read records from one file, several files or a folder.

    Parameters
    ----------
    source
        A file whose ending is one of `FORMATS`, a folder (its files with such endings, by name), or
        a sequence of files.
    price, label, group, noise, weight, record
        Columns that hold what is asked for each record, its name, its lot, the variance of its
        label noise, its weight, and the text (or path) that features are made of. In .npz and
        .safetensors files these are names of arrays with one value per record; .npy files have
        none.
    features
        Columns that are features, in this order, whatever others there are; by default all that are
        not named as something else. Without any, the table has no column of values.
    drop
        Columns that are no features: targets, for example.
    ignore
        Likewise, but they need not be there.
    key
        Name of the array with the features in .npz and .safetensors files; not needed where only
        one array has two dimensions.

    Returns
    -------
    Table
        A .csv file without a line of names, that is one whose first line is all numbers, gives a
        table without names. An empty cell is nan.

    Raises
    ------
    FileNotFoundError
        If a file does not exist or a folder has none that can be read.
    ValueError
        If an ending is unknown, a column is missing, a feature is not a number, or files do not fit
        together.
    ImportError
        If a Parquet file is to be read without pyarrow.
    """
    files = _files(source)
    special = {
        "price": price,
        "label": label,
        "group": group,
        "noise": noise,
        "weight": weight,
        "record": record,
    }
    chosen = None if features is None else tuple(features)
    request = _Request(special, chosen, tuple(drop), tuple(ignore), key)
    parts = [_read(path, request) for path in files]
    frame = parts[0].frame if len(parts) == 1 else _frame_of_shards(parts)
    return Table(
        values=frame.values,
        columns=frame.columns,
        prices=_joined(parts, "prices"),
        labels=_joined(parts, "labels"),
        groups=_joined(parts, "groups"),
        noise=_joined(parts, "noise"),
        weights=_joined(parts, "weights"),
        records=_joined(parts, "records"),
        ignored=frozenset[str]().union(*(part.ignored for part in parts)),
        files=tuple(files),
        offsets=np.cumsum([0, *(count(part.values) for part in parts)]),
    )


def read_vector(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one number per record, (n,) float64, from a file of one column.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it has more columns than one, or cannot be read.
    """
    path = _files(path)[0]
    values = _load_numpy(path) if path.suffix == ".npy" else read_table(path).values
    return to_vector(values, str(path))


class ImageFiles(Sequence[Any]):
    """Image files as a sequence of images, each read when it is asked for.

    Parameters
    ----------
    paths
        (n,) files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        """Read one image; ImportError without pillow."""
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError(
                'images need pillow: pip install "modicum-daved[transformers]"'
            ) from error
        with Image.open(self.paths[index]) as image:
            image.load()
            return image


def check_writable(path: str | os.PathLike[str], endings: Sequence[str] = WRITABLE) -> Path:
    """Refuse a file that could not be written, before what goes into it is computed.

    Raises
    ------
    ValueError
        If it ends in none of the endings.
    """
    path = Path(path)
    if path.suffix not in endings:
        raise ValueError(f"cannot write {path.name}: the ending has to be {' or '.join(endings)}")
    return path


def write_table(path: str | os.PathLike[str], columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write columns as a CSV or a Parquet file, whole or not at all.

    Parameters
    ----------
    path
        Ends in .csv or .parquet. Missing folders are made; a file that is there is replaced in one
        step.
    columns
        Name to values, each (n,). Floating values are written so that they read back exactly.

    Returns
    -------
    pathlib.Path
        The path.

    Raises
    ------
    ValueError
        If the ending is another one or the columns have different lengths.
    ImportError
        If a Parquet file is asked for without pyarrow.
    """
    path = check_writable(path)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of one table have different lengths: {lengths}")
    is_csv = path.suffix == ".csv"
    return write_atomic(path, _csv_text(columns) if is_csv else _parquet_bytes(columns))


def write_plan(path: str | os.PathLike[str], selection: Selection, sigma2: float = 1.0) -> Path:
    """Write the purchase plan of a selection as a CSV or a Parquet file, as `write_table` does.

    Parameters
    ----------
    path
        Ends in .csv or .parquet.
    selection
        What to write: one line per purchase, with the columns of `PlanRow`.
    sigma2
        Variance of the label noise, the unit of errors.
    """
    rows = selection.plan(sigma2)
    names = [item.name for item in fields(PlanRow)]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    return write_table(path, {**columns, "label": _storable(columns["label"])})


def _storable(labels: list[Any]) -> list[Any]:
    """Give labels as text unless they are of one type that a column can hold."""
    kinds = (str, bool, int, float, datetime.date, datetime.timedelta)
    is_one = len(set(map(type, labels))) <= 1
    is_storable = is_one and all(isinstance(label, kinds) for label in labels)
    return labels if is_storable else list(map(str, labels))


@dataclass(frozen=True)
class _Request:
    """Which columns are features, which are something else, and which array holds the features."""

    special: dict[str, str | None]
    features: tuple[str, ...] | None
    drop: tuple[str, ...]
    ignore: tuple[str, ...]
    key: str | None

    @property
    def named(self) -> dict[str, str]:
        return {role: name for role, name in self.special.items() if name is not None}

    @property
    def asks(self) -> bool:
        """Whether something is asked for by its name."""
        return bool(self.named or self.drop or self.features)

    def check(self, known: Sequence[str], path: Path) -> None:
        wanted = [*self.named.values(), *self.drop, *(self.features or ())]
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ValueError(f"{path} has no column {missing}; it has {list(known)}")

    def features_among(self, known: Sequence[str]) -> list[str]:
        """Give the names of the features of a file with these columns."""
        if self.features is not None:
            return list(self.features)
        apart = {*self.named.values(), *self.drop, *self.ignore}
        return [name for name in known if name not in apart]

    def split(self, columns: Mapping[str, Any], frame: Frame, known: Sequence[str]) -> Table:
        """Make a table of features and of the columns that are none."""

        def vector(role: str, dtype: Any = None) -> np.ndarray | None:
            name = self.special[role]
            return None if name is None else to_vector(columns[name], f"column {name!r}", dtype)

        return Table(
            frame.values,
            frame.columns,
            vector("price", np.float64),
            vector("label"),
            vector("group"),
            vector("noise", np.float64),
            vector("weight", np.float64),
            vector("record"),
            frozenset(self.ignore) & set(known),
        )


def _files(source: Any) -> list[Path]:
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not sources:
        raise ValueError("no files were given")
    found: list[Path] = []
    for path in map(Path, sources):
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.suffix in FORMATS)
            if not inside:
                raise FileNotFoundError(f"{path} has no file that ends in {', '.join(FORMATS)}")
            found += inside
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        else:
            found.append(path)
    return found


def _read(path: Path, request: _Request) -> Table:
    readers = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".safetensors": _read_safetensors,
    }
    if path.suffix not in readers:
        raise ValueError(f"cannot read {path.name}: the ending has to be one of {list(FORMATS)}")
    return readers[path.suffix](path, request)


def _frame_of_shards(parts: Sequence[Table]) -> Frame:
    """Join what several files hold, each a shard; the first one's order of features counts."""
    first = parts[0]
    shards = []
    for part in parts:
        here, there = part.values.shape[1], first.values.shape[1]
        if here != there:
            raise ValueError(f"files do not fit together: {here} features after {there}")
        shards.append(align(part.frame, first.columns, "a later file").values)
    return Frame(shards, first.columns)


def _joined(parts: Sequence[Table], what: str) -> np.ndarray | None:
    found = [getattr(part, what) for part in parts]
    return None if found[0] is None else np.concatenate(found)


def _read_npy(path: Path, request: _Request) -> Table:
    if request.asks:
        request.check((), path)
    return request.split({}, to_frame(_load_numpy(path, mmap_mode="r"), str(path)), ())


def _load_numpy(path: Path, **settings: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False, **settings)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as an array of numbers: {error}") from None


def _read_npz(path: Path, request: _Request) -> Table:
    with _load_numpy(path) as archive:
        return _of_arrays({name: archive[name] for name in archive.files}, path, request)


def _of_arrays(arrays: Mapping[str, np.ndarray], path: Path, request: _Request) -> Table:
    request.check(list(arrays), path)
    if request.key is not None and request.key not in arrays:
        raise ValueError(f"{path} has no array {request.key!r}; it has {list(arrays)}")
    if request.features is not None:
        return _without_features(arrays, path, request)
    known = request.features_among(list(arrays))
    matrices = [name for name in known if arrays[name].ndim == 2]
    if request.key is None and len(matrices) != 1:
        raise ValueError(
            f"{path} has {len(matrices)} arrays of two dimensions, {matrices}; say with key which "
            "one holds the features"
        )
    key = request.key or matrices[0]
    table = request.split(arrays, to_frame(arrays[key], f"{key!r} of {path}"), list(arrays))
    _check_lengths(table, path)
    return table


def _without_features(arrays: Mapping[str, np.ndarray], path: Path, request: _Request) -> Table:
    if request.features or not request.named:
        raise ValueError(f"the features of {path} have no names: say with key which array they are")
    n = len(arrays[next(iter(request.named.values()))])
    table = request.split(arrays, _nothing(n), list(arrays))
    _check_lengths(table, path)
    return table


def _check_lengths(table: Table, path: Path) -> None:
    n = count(table.values)
    for what in ("prices", "labels", "groups", "noise", "weights", "records"):
        found = getattr(table, what)
        if found is not None and len(found) != n:
            raise ValueError(f"{path} has {len(found)} {what} and {n} records")


def _read_safetensors(path: Path, request: _Request) -> Table:
    return _of_arrays(dict(_map_safetensors(path)), path, request)


def _map_safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Give name and memory map of every tensor; those in bfloat16 are read, as float32."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_OF_A_LENGTH), "little")
        start = _LENGTH_OF_A_LENGTH + length
        if start > path.stat().st_size:
            raise ValueError(f"{path} is not a whole safetensors file")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from None
    header.pop("__metadata__", None)
    for name, about in header.items():
        if about["dtype"] not in _SAFETENSORS_TYPES:
            raise ValueError(f"tensor {name!r} of {path} has type {about['dtype']}, not a number's")
        where, shape = start + about["data_offsets"][0], tuple(about["shape"])
        kind = np.dtype(_SAFETENSORS_TYPES[about["dtype"]])
        if start + about["data_offsets"][1] > path.stat().st_size:
            raise ValueError(f"{path} is not a whole safetensors file: {name!r} is cut off")
        # A map of no bytes is refused by the system.
        is_empty = 0 in shape
        values: np.ndarray = (
            np.empty(shape, kind) if is_empty else np.memmap(path, kind, "r", where, shape)
        )
        if about["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        yield name, values


def _read_csv(path: Path, request: _Request) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        first = next(lines, None)
        if first is None:
            raise ValueError(f"{path} is empty")
        has_names = not all(map(_is_number, first))
        names = first if has_names else [str(number) for number in range(len(first))]
        if len(set(names)) < len(names):
            raise ValueError(f"{path} has two columns of the same name: {names}")
        if has_names or request.asks:
            request.check(names if has_names else (), path)
        return _of_lines(path, lines, None if has_names else first, names, request)


def _of_lines(
    path: Path, lines: Any, first: list[str] | None, names: list[str], request: _Request
) -> Table:
    chosen = request.features_among(names)
    features = [names.index(name) for name in chosen]
    texts: dict[str, list[str]] = {name: [] for name in request.named.values()}
    blocks: list[np.ndarray] = []
    waiting: list[list[str]] = []
    for line in _with_first(first, lines):
        if not line:
            continue
        if len(line) != len(names):
            raise ValueError(
                f"{path}, line {lines.line_num}: {len(line)} values for {len(names)} columns"
            )
        for name, found in texts.items():
            found.append(line[names.index(name)])
        waiting.append([line[number] for number in features])
        if len(waiting) == _LINES_OF_A_BLOCK:
            blocks.append(_numbers(waiting, path, chosen))
            waiting = []
    blocks.append(_numbers(waiting, path, chosen))
    frame = Frame(np.concatenate(blocks), tuple(chosen) if first is None else None)
    return request.split({name: np.array(found) for name, found in texts.items()}, frame, names)


def _with_first(first: list[str] | None, lines: Any) -> Iterator[list[str]]:
    if first is not None:
        yield first
    yield from lines


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(lines: list[list[str]], path: Path, names: list[str]) -> np.ndarray:
    try:
        found = [[float(cell) if cell.strip() else np.nan for cell in line] for line in lines]
    except ValueError:
        for line in lines:
            for name, cell in zip(names, line, strict=True):
                if cell.strip() and not _is_number(cell):
                    raise ValueError(
                        f"{path}: column {name!r} holds {cell!r}, not a number; drop the column, "
                        "or name it as price, label or group"
                    ) from None
        raise
    return np.array(found, dtype=np.float64).reshape(len(lines), len(names))


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet needs pyarrow: pip install "modicum-daved[parquet]"') from error
    return pyarrow.parquet


def _read_parquet(path: Path, request: _Request) -> Table:
    parquet = _parquet()
    known = parquet.read_schema(path).names
    request.check(known, path)
    chosen = request.features_among(known)
    special = set(request.named.values())
    table = parquet.read_table(path, columns=list({*chosen, *special}))
    columns = {name: table.column(name) for name in special}
    frame = to_frame(table.select(chosen), str(path)) if chosen else _nothing(table.num_rows)
    return request.split(columns, frame, known)


def _nothing(n: int) -> Frame:
    return Frame(np.empty((n, 0)), ())


def _csv_text(columns: Mapping[str, Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    lists = [np.asarray(values).tolist() for values in columns.values()]
    writer.writerows(zip(*lists, strict=True))
    return text.getvalue()


def _parquet_bytes(columns: Mapping[str, Sequence[Any]]) -> bytes:
    parquet = _parquet()
    import pyarrow

    buffer = io.BytesIO()
    arrays = {name: pyarrow.array(np.asarray(values)) for name, values in columns.items()}
    parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue()
