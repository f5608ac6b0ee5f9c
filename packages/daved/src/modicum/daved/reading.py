"""Records of sellers and of the buyer as rows that a solver can ask: read, mapped, placed.

`Reader` makes rows of features of both sides' records, in whatever form they come, and matches
names; `pool_of` puts the sellers' rows where they are scored, in an array or in a tensor on a
device. Both leave prices, labels' values and the order of records alone.

Where rows are scored:

* ``"auto"``: a tensor on a device other than the CPU stays there. Other rows go to a GPU if there
  is one, it has twice the memory that they need, and they have at least `FEWEST_VALUES` values;
  fewer are scored sooner than they are copied, and torch is not even imported for them. All others
  are scored by NumPy in float64.
* ``"cpu"``: by NumPy in float64; rows that are a tensor stay one, and torch scores them in `dtype`.
* any other device of torch: there, in `dtype`.

A tensor that stays one never becomes an array: feature maps, which work on arrays, are refused for
it where it is not on the CPU.

Shapes: n rows of sellers, d features, m queries.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np

from modicum.core.device import resolve_device
from modicum.daved.features import ArrayMap, FeatureMap, Identity, Shaped
from modicum.daved.frames import Frame, align, count, is_shards, labels_of, names_of, to_frame
from modicum.daved.pool import ArrayPool, Pool
from modicum.daved.validation import check_one_of, check_sellers

__all__ = ["FEWEST_VALUES", "Place", "Reader", "norms", "pool_of", "takes_rows"]

FEWEST_VALUES = 1 << 22
"""Values of rows from which on ``device="auto"`` takes a GPU: 16 MB in float32.

Once torch is loaded a GPU is faster from about 2²⁰ values on (H200; 20 Frank-Wolfe steps, 64
features: 22 ms against 40 ms on 8 cores; at 2²² 38 ms against 262 ms). Loading it takes longer
than NumPy needs for so few.
"""

_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Place:
    """Where the sellers' rows are scored, and in which type.

    Parameters
    ----------
    device
        As the module says; a name or a ``torch.device``.
    dtype
        ``"float64"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``, or such a ``torch.dtype``:
        that of rows in a tensor. NumPy scores in float64 whatever it is.

    Raises
    ------
    ValueError
        If there is no such type or device, or the device is not here.
    ImportError
        If the device is one of torch and torch is missing.
    """

    def __init__(self, device: Any = "auto", dtype: Any = "float32") -> None:
        self.dtype = check_one_of("dtype", str(dtype).removeprefix("torch."), _BYTES)
        self.device = "auto" if device == "auto" else _resolved(str(device))

    def keeps(self, records: Any) -> bool:
        """Say whether records are a tensor, or a list of them, that must not become an array."""
        shards = records if is_shards(records) else [records]
        if not all(map(_is_tensor, shards)):
            return False
        return self.device != "auto" or any(map(_is_away, shards))

    def target(self, rows: Any) -> Any:
        """Give the device to which rows go; None where NumPy scores them."""
        shards = rows if isinstance(rows, list) else [rows]
        if self.device == "auto":
            away = [shard.device for shard in shards if _is_tensor(shard) and _is_away(shard)]
            return away[0] if away else self._automatic(rows)
        return None if self.device == "cpu" and not _is_tensor(shards[0]) else self.device

    def _automatic(self, rows: Any) -> str | None:
        values = count(rows) * width_of(rows)
        if values < FEWEST_VALUES or resolve_device("auto") == "cpu":
            return None
        import torch

        free, _ = torch.cuda.mem_get_info()
        return "cuda" if 2 * values * _BYTES[self.dtype] <= free else None


def _resolved(device: str) -> str:
    if device != "cpu" and find_spec("torch") is None:
        raise ImportError(f'device={device!r} needs torch: pip install "modicum-daved[torch]"')
    return resolve_device(device)


def _is_tensor(records: Any) -> bool:
    return hasattr(records, "detach") and hasattr(records, "device")


def _is_away(tensor: Any) -> bool:
    return bool(tensor.device.type != "cpu")


def pool_of(rows: Any, place: Place, chunk_size: int | None = None, name: str = "X") -> Pool:
    """Put rows where they are scored.

    Parameters
    ----------
    rows
        (n, d) array, memory map or tensor, a list of such shards, or a pool, which stays what it
        is. A tensor of the right type on the right device is not copied.
    place
        Where that is.
    chunk_size
        Rows that are scored at once; by default by the device.
    name
        What error messages call the rows.

    Raises
    ------
    ValueError
        If a device is named for a pool, or values are beyond the range of the place's type.
    """
    if isinstance(rows, Pool):
        if place.device != "auto":
            raise ValueError(
                f"{name} is a pool, whose rows are where they are: device={place.device!r} goes to "
                "where it is made"
            )
        return rows
    target = place.target(rows)
    if target is None:
        return ArrayPool(rows, None, chunk_size)
    from modicum.daved.torch_pool import TorchPool

    pool = TorchPool(rows, device=target, dtype=place.dtype, chunk_size=chunk_size)
    if not np.isfinite(norms(pool)).all():
        raise ValueError(
            f"{name} has values beyond the range of dtype={place.dtype!r}; take a wider type, or "
            "scale the features"
        )
    return pool


def norms(pool: Any) -> np.ndarray:
    """Give the norms of the rows of an `ArrayPool` or a `TorchPool`, (n,) float64."""
    if isinstance(pool, ArrayPool):
        squares = [np.einsum("kd,kd->k", rows_kd, rows_kd) for _, rows_kd in pool.chunks()]
        return np.sqrt(np.concatenate(squares))
    import torch

    norms_n = torch.linalg.vector_norm(pool.rows_nd, dim=1, dtype=torch.float64)
    found_n: np.ndarray = norms_n.cpu().numpy()
    return found_n


def takes_rows(features: Any) -> bool:
    """Tell whether features are made of rows of numbers, rather than of any records.

    Such features see rows that `to_frame` has read, with the columns of both sides matched by
    name. All others, functions among them, get the records as they are given.

    Parameters
    ----------
    features
        A name or a map as for `modicum.daved.features.make_features`, or a function.
    """
    if isinstance(features, str):
        return features.partition(":")[0] in ("identity", "standardize", "minmax", "rff")
    if isinstance(features, Shaped):
        return takes_rows(features.base)
    return isinstance(features, ArrayMap)


class Reader:
    """Records of sellers and of the buyer through the same features, with names matched.

    Parameters
    ----------
    feature_map
        What makes features; it is fitted to the sellers' records.
    place
        Where the sellers' rows will be scored.
    """

    def __init__(self, feature_map: FeatureMap, place: Place) -> None:
        self.map = feature_map
        self.place = place
        self.takes_rows = takes_rows(feature_map)
        self.names: tuple[str, ...] | None = None
        self.width: int | None = None
        self.sellers = "X"

    def fit(self, sellers: Any, name: str = "X") -> Frame:
        """Fit the features to the sellers' records and give their rows with the labels.

        Parameters
        ----------
        sellers
            Records, or a pool, whose rows are taken as they are.
        name
            What error messages call them.

        Raises
        ------
        ValueError
            If records are not valid rows, or features are asked for of rows that stay as they are.
        """
        self.sellers = name
        if isinstance(sellers, Pool):
            self._check_plain("a pool, whose rows are taken as they are: make features before it")
            self.width = sellers.d
            return Frame(sellers)
        frame = self._read(sellers, name)
        self.names = frame.columns
        self.map.fit(frame.values)
        if self._is_plain:
            return frame
        made = to_frame(self.map.transform(frame.values), name).values
        check_sellers(made, name)
        return Frame(made, None, frame.labels)

    def _read(self, sellers: Any, name: str) -> Frame:
        if not self.takes_rows:
            names, shape = names_of(sellers), tuple(getattr(sellers, "shape", ()))
            _, self.width = shape if len(shape) == 2 else (None, None)
            named = names and all(isinstance(column, str) for column in names)
            return Frame(sellers, tuple(names) if names and named else None, labels_of(sellers))
        frame = self._kept(sellers, name) or to_frame(sellers, name)
        _, self.width = check_sellers(frame.values, name)
        return frame

    def _kept(self, sellers: Any, name: str) -> Frame | None:
        """Give tensors that must not become arrays; None where records may."""
        if not self.place.keeps(sellers):
            return None
        shards = list(sellers) if is_shards(sellers) else [sellers]
        if not self._is_plain:
            if any(map(_is_away, shards)):
                self._check_plain(
                    f"a tensor on {shards[0].device}, and features are made on the CPU: make them "
                    f"before, or give {name}.cpu()"
                )
            return None
        # Of no rows at all: whether these are rows of numbers is seen without their values.
        to_frame([shard[:0] for shard in shards] if is_shards(sellers) else sellers[:0], name)
        return Frame(shards if len(shards) > 1 else shards[0])

    @property
    def _is_plain(self) -> bool:
        return isinstance(self.map, Identity)

    def _check_plain(self, reason: str) -> None:
        if not self._is_plain:
            raise ValueError(f"{self.sellers} is {reason}")

    def rows(self, records: Any, name: str) -> np.ndarray:
        """Give features of the buyer's records, (m, d) float64.

        Parameters
        ----------
        records
            Queries, or records that are owned already.
        name
            What error messages call them.

        Raises
        ------
        ValueError
            If they have other features than the sellers' records.
        """
        given = records
        if self.takes_rows:
            given = align(to_frame(records, name), self.names, name).values
            if width_of(given) != self.width:
                raise ValueError(
                    f"{name} has {width_of(given)} features, but {self.sellers} has {self.width}; "
                    "both need the same features in the same order"
                )
        values = to_frame(self.map.transform(given), name).values
        parts = values if isinstance(values, list) else [values]
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def width_of(values: Any) -> int:
    """Give the number of features of rows, or of a list of shards of them."""
    return int((values[0] if isinstance(values, list) else values).shape[1])
