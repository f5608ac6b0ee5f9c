"""Texts out of Parquet files, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def read_texts(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """Yield (row number, text) of one column.

    Parameters
    ----------
    path
        Parquet file.
    column
        Column of strings.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If the file has no such column.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            'reading Parquet needs pyarrow: pip install "modicum-ewatermark[parquet]"'
        ) from error
    file = parquet.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise ValueError(f"{path} has no column {column!r}; it has {file.schema_arrow.names}")
    number = 0
    for batch in file.iter_batches(columns=[column]):
        for text in batch.column(0).to_pylist():
            yield str(number), text
            number += 1
