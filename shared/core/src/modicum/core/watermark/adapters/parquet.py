"""Texts out of Parquet files, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def read_texts(path: Path, column: str, package: str) -> Iterator[tuple[str, str]]:
    """Yield (row number, text) of one column.

    Parameters
    ----------
    path
        Parquet file.
    column
        Column of strings.
    package
        Distribution whose extra ``parquet`` brings pyarrow, for the message when it is missing.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If the file has no such column, or a row is not text.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            f'reading Parquet needs pyarrow: pip install "{package}[parquet]"'
        ) from error
    file = parquet.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise ValueError(f"{path} has no column {column!r}; it has {file.schema_arrow.names}")
    number = 0
    for batch in file.iter_batches(columns=[column]):
        for text in batch.column(0).to_pylist():
            if not isinstance(text, str):
                raise ValueError(f"{path}, row {number}: column {column!r} is not text")
            yield str(number), text
            number += 1
