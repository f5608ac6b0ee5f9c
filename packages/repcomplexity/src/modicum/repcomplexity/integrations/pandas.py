"""Tables of pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

try:
    import pandas  # type: ignore[import-untyped]
except ImportError as error:  # pragma: no cover
    raise ImportError("tables need pandas: pip install pandas, or use rows()") from error

__all__ = ["to_frame"]


def to_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows of plain values as a `pandas.DataFrame`, a column for each key."""
    return pandas.DataFrame(list(rows))
