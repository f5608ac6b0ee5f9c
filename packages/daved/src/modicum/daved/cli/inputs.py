"""What a market's files hold: checked, with features made, and every record's place remembered.

Reads the files that the options name (`modicum.daved.integrations.tables`), matches the features
of buyers to those of sellers by name, and fits the feature map to the sellers' records. Selects
nothing.

Shapes: n records, d features, m queries, o owned records, k records asked for.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.device import resolve_device
from modicum.daved.cli.options import Inputs, Making, Terms
from modicum.daved.features import FeatureMap, make_features
from modicum.daved.frames import align
from modicum.daved.integrations.tables import ImageFiles, Table, read_table, read_vector
from modicum.daved.validation import (
    check_finite,
    check_noise,
    check_prices,
    check_row_weight,
    check_sellers,
)

__all__ = ["Market", "Reader", "places"]

_HINT = (
    "; columns that are no features are named by --price-col, --id-col, --label-col and so on, or "
    "by --drop, or the features by --feature-cols"
)


@dataclass(frozen=True)
class Market:
    """Sellers' records and a buyer's queries as rows of features.

    Attributes
    ----------
    rows
        (n, d), or a list of shards.
    queries_md
        The buyer's queries.
    table
        The sellers' files: names, groups and places of records.
    prices_n
        None where no prices were given.
    noise_n, weights_n, owned_od
        None where they were not given.
    features
        The fitted map.
    files
        All files read, with what they are.
    """

    rows: Any
    queries_md: np.ndarray
    table: Table
    prices_n: np.ndarray | None
    noise_n: np.ndarray | None
    weights_n: np.ndarray | None
    owned_od: Any
    features: FeatureMap
    files: tuple[tuple[str, Path], ...]

    @property
    def n(self) -> int:
        """Number of records."""
        return int(self.table.offsets[-1])

    @property
    def d(self) -> int:
        """Number of features."""
        return self.queries_md.shape[1]


def places(table: Table, items_k: np.ndarray | None = None) -> dict[str, Sequence[Any]]:
    """Say where records of a table came from.

    Parameters
    ----------
    table
        As read.
    items_k
        Positions of the records; all by default.

    Returns
    -------
    dict
        Columns ``item``, ``id`` (if records have names), ``file`` and ``row`` in that file, from 0.
    """
    asked_k = np.arange(table.offsets[-1]) if items_k is None else np.asarray(items_k)
    number_k = np.searchsorted(table.offsets, asked_k, side="right") - 1
    found: dict[str, Sequence[Any]] = {"item": asked_k.tolist()}
    if table.labels is not None:
        found["id"] = table.labels[asked_k].tolist()
    found["file"] = [str(table.files[number]) for number in number_k]
    found["row"] = (asked_k - table.offsets[number_k]).tolist()
    return found


class Reader:
    """Reads files of one market, all through the same fitted features.

    Parameters
    ----------
    inputs, making, terms
        The options.
    """

    def __init__(self, inputs: Inputs, making: Making, terms: Terms) -> None:
        self.inputs, self.making, self.terms = inputs, making, terms
        self.kind = making.features.partition(":")[0]
        if inputs.price_col is not None and inputs.prices is not None:
            raise ValueError("prices are in --price-col or in --prices, not in both")
        self.takes_records = self.kind in ("hf", "clip")
        if self.takes_records and inputs.record_col is None:
            raise ValueError(f"--features {making.features} needs --record-col, what it is made of")
        if inputs.record_col is not None and not self.takes_records:
            raise ValueError("--record-col is for --features hf:… and clip:…")
        if self.takes_records and not sys.stderr.isatty():
            # Before the library that shows them is imported.
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        on_device = {"device": resolve_device(making.device)} if self.takes_records else {}
        self.map = make_features(
            making.features,
            normalize=making.normalize,
            max_norm=making.max_norm,
            fit_intercept=making.intercept,
            seed=making.seed,
            **on_device,
        )
        self.columns: tuple[str, ...] | None = None
        self.width: int | None = None
        self.seen: set[str] = set()

    def market(self) -> Market:
        """Read all of it."""
        inputs, terms = self.inputs, self.terms
        table = self._table(
            inputs.sellers,
            price=inputs.price_col,
            group=terms.group_col,
            noise=terms.noise_col,
            weight=terms.weight_col,
        )
        self.columns = table.columns
        self.width = None if self.takes_records else _width(table.values)
        self.map.fit(self._records(table))
        rows = self._rows(table)
        n, _ = check_sellers(rows, "the sellers' records")
        buyers = self._table(inputs.buyers, label=None)
        owned = None if terms.owned is None else self._table(terms.owned, label=None)
        self._check_seen()
        roles = {"sellers": table, "buyers": buyers, "owned": owned}
        files = [(role, path) for role, part in roles.items() if part for path in part.files]
        if inputs.prices is not None:
            files.append(("prices", inputs.prices))
        return Market(
            rows=rows,
            queries_md=_joined(self._rows(buyers)),
            table=table,
            prices_n=self._prices(table, n),
            noise_n=None
            if table.noise is None
            else check_noise(table.noise, n, f"column {terms.noise_col!r}"),
            weights_n=None
            if table.weights is None
            else check_row_weight(table.weights, n, f"column {terms.weight_col!r}"),
            owned_od=None if owned is None else self._rows(owned),
            features=self.map,
            files=tuple(files),
        )

    def further(self, files: Sequence[Path]) -> tuple[Table, Any]:
        """Read more records once the market is known; they may have prices and names or not.

        Returns
        -------
        Table, rows
            As read, and their features, (k, d) or shards.
        """
        bare = self._table(files, label=None)
        roles = {"label": self.inputs.id_col, "price": self.inputs.price_col}
        here = {role: name if name in bare.ignored else None for role, name in roles.items()}
        table = self._table(files, **here)
        return table, self._rows(table)

    def _table(self, files: Sequence[Path], **roles: str | None) -> Table:
        """Read files; columns with another meaning than these roles are no features either."""
        inputs, terms = self.inputs, self.terms
        asked = {"label": inputs.id_col, "record": inputs.record_col, **roles}
        of_terms = (terms.group_col, terms.noise_col, terms.weight_col)
        others = (inputs.price_col, inputs.id_col, *of_terms)
        features = () if self.takes_records else inputs.feature_cols or None
        found = read_table(
            files,
            **asked,  # type: ignore[arg-type]
            features=features,
            ignore=[*self._left_aside(), *(name for name in others if name)],
            key=inputs.key,
        )
        self.seen |= found.ignored
        return found

    def _left_aside(self) -> list[str]:
        return [*(self.inputs.label_col or ()), *(self.inputs.drop or ())]

    def _check_seen(self) -> None:
        unknown = [name for name in self._left_aside() if name not in self.seen]
        if unknown:
            raise ValueError(f"--label-col and --drop name columns that no file has: {unknown}")

    def _rows(self, table: Table) -> Any:
        """Make features of what was read, in the sellers' order of features."""
        return self.map.transform(self._records(table))

    def _records(self, table: Table) -> Any:
        if self.takes_records:
            values = [] if table.records is None else table.records.tolist()
            return values if self.kind == "hf" else ImageFiles(values)
        name = str(table.files[0]) if len(table.files) == 1 else "a file"
        try:
            values = align(table.frame, self.columns, name).values
        except ValueError as error:
            raise ValueError(f"{error}{_HINT}") from None
        if _width(values) != self.width:
            raise ValueError(
                f"{name} has {_width(values)} features, but the sellers have {self.width}{_HINT}"
            )
        for path, shard in zip(table.files, _shards(values), strict=True):
            check_finite(str(path), shard)
        return values

    def _prices(self, table: Table, n: int) -> np.ndarray | None:
        if self.inputs.prices is not None:
            return check_prices(read_vector(self.inputs.prices), n, str(self.inputs.prices))
        if table.prices is None:
            return None
        return check_prices(table.prices, n, f"column {self.inputs.price_col!r}")


def _shards(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _width(values: Any) -> int:
    return int(_shards(values)[0].shape[1])


def _joined(rows: Any) -> np.ndarray:
    return np.concatenate([np.asarray(shard, dtype=np.float64) for shard in _shards(rows)])
