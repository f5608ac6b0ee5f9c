"""Feature maps: what turns records into the rows that a design works on.

A map takes records (arrays for the maps of this module, texts, images or tensors for those of
`features_torch` and of the integrations) and gives rows of features, (n, d). What depends on data,
such as a mean, is fitted once and then part of the map: sellers and the buyer must use the same
map, and `FeatureMap.fingerprint` is how they find out without exchanging records. The map leaves
prices, labels and the order of records alone.

Shapes: n records, d features given, D features made, q classes.

Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al., NeurIPS 2024,
arXiv 2403.13893; random Fourier features: Rahimi and Recht, NeurIPS 2007.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from modicum.daved.frames import is_shards
from modicum.daved.pool import ArrayPool

__all__ = [
    "CallableFeatures",
    "FeatureMap",
    "Identity",
    "MinMax",
    "RandomFourier",
    "Shaped",
    "Standardize",
    "append_intercept",
    "check_fingerprints",
    "clip_norms",
    "features_from_dict",
    "logistic_row_weight",
    "make_features",
    "normalize_rows",
    "one_hot",
]

_NORMALIZATIONS = ("none", "l2")
_NAMES = (
    "identity",
    "standardize",
    "minmax",
    "rff:D",
    "hf:<model>",
    "clip:<model>",
    "entk[:D]",
    "hook:<layer>",
)


class FeatureMap(ABC):
    """What turns records into rows of features.

    A descendant gives `transform` and `describe`, and `fit` where it learns something.
    """

    def fit(self, records: Any) -> Self:
        """Learn what the map needs of the records (nothing unless a descendant says so)."""
        return self

    @abstractmethod
    def transform(self, records: Any) -> Any:
        """Give the features of records, (n, D) floating; a list of shards gives such a list."""

    def fit_transform(self, records: Any) -> Any:
        """Fit to records and give their features."""
        return self.fit(records).transform(records)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Give everything that the features depend on, as values of JSON.

        Raises
        ------
        ValueError
            If the map has to be fitted first.
        """

    def fingerprint(self) -> str:
        """Give the SHA-256 of the description, 64 hexadecimal digits.

        Two parties with the same fingerprint make the same features of the same record. It covers
        what was fitted, so that two sellers who each standardise by their own mean differ.
        """
        return digest_of(self.describe())


def digest_of(description: Mapping[str, Any]) -> str:
    """Give the SHA-256 of values of JSON, whatever the order of their keys."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_array(values: np.ndarray) -> str:
    """Give the SHA-256 of an array's shape and of its values in float64, little-endian."""
    found = hashlib.sha256(repr(values.shape).encode())
    found.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return found.hexdigest()


class ArrayMap(FeatureMap):
    """A map of numeric rows, which may come as a list of shards and then leave as one."""

    def transform(self, records: Any) -> Any:
        """Give the features of rows.

        Parameters
        ----------
        records
            (n, d) of real or boolean values, or a list of such shards.

        Returns
        -------
        numpy.ndarray or list of numpy.ndarray
            (n, D), float32 for float32 and float16, else float64; a list for a list of shards.
        """
        if is_shards(records):
            return [self._map(_as_rows(shard)) for shard in records]
        return self._map(_as_rows(records))

    @abstractmethod
    def _map(self, rows_nd: np.ndarray) -> np.ndarray: ...


class Identity(ArrayMap):
    """The rows as they are. Floating arrays and memory maps are not copied."""

    def _map(self, rows_nd: np.ndarray) -> np.ndarray:
        return rows_nd

    def describe(self) -> dict[str, Any]:
        """Give the map's name."""
        return {"map": "identity"}


class _Affine(ArrayMap):
    """(x - offset) / scale, column by column, with both fitted."""

    name: str
    offset_: np.ndarray | None = None
    scale_: np.ndarray | None = None

    def _map(self, rows_nd: np.ndarray) -> np.ndarray:
        offset_d, scale_d = self._fitted()
        _check_features(rows_nd, len(offset_d), self.name)
        return (rows_nd - offset_d.astype(rows_nd.dtype)) / scale_d.astype(rows_nd.dtype)

    def _fitted(self) -> tuple[np.ndarray, np.ndarray]:
        if self.offset_ is None or self.scale_ is None:
            raise _not_fitted(self.name)
        return self.offset_, self.scale_

    def describe(self) -> dict[str, Any]:
        """Give the map's name and what was fitted."""
        offset_d, scale_d = self._fitted()
        return {"map": self.name, "offset": offset_d.tolist(), "scale": scale_d.tolist()}


class Standardize(_Affine):
    """Mean 0 and variance 1 in every column of the rows fitted to; constant columns become 0.

    Attributes
    ----------
    offset_, scale_
        Mean and population standard deviation (1 where it is 0), (d,) float64.
    """

    name = "standardize"

    def fit(self, records: Any) -> Self:
        """Find the mean and the standard deviation of rows, (n, d) or shards of them."""
        _, mean_d, squares_d, count = _moments(records)
        low_d, high_d = _limits(records)
        deviation_d = np.sqrt(squares_d / count)
        # The rounded mean of equal values need not be one of them, and their deviation not 0.
        varies_d = (high_d > low_d) & (deviation_d > 0)
        self.offset_ = np.where(varies_d, mean_d, low_d)
        self.scale_ = np.where(varies_d, deviation_d, 1.0)
        return self


class MinMax(_Affine):
    """0 to 1 in every column of the rows fitted to; constant columns become 0.

    Attributes
    ----------
    offset_, scale_
        Smallest value and range (1 where it is 0), (d,) float64.
    """

    name = "minmax"

    def fit(self, records: Any) -> Self:
        """Find the smallest and the largest value of rows, (n, d) or shards of them."""
        low_d, high_d = _limits(records)
        self.offset_, self.scale_ = low_d, np.where(high_d > low_d, high_d - low_d, 1.0)
        return self


class RandomFourier(ArrayMap):
    """Random Fourier features, whose inner products approximate exp(-gamma ‖x - z‖²).

    Parameters
    ----------
    dim
        Number of features D. The error of an inner product is of the order 1/√D.
    gamma
        Of the kernel; ``"scale"`` for 1 / (d · variance of all values), found when fitted.
    seed
        Of the random frequencies: parties with the same seed draw the same ones.

    Raises
    ------
    ValueError
        If dim or gamma is not positive.
    """

    def __init__(self, dim: int, gamma: float | str = "scale", seed: int = 0) -> None:
        if dim < 1:
            raise ValueError(f"rff makes at least 1 feature, asked for {dim}")
        if isinstance(gamma, str) and gamma != "scale":
            raise ValueError(f'gamma is a positive number or "scale", not {gamma!r}')
        if not isinstance(gamma, str) and not 0 < gamma < np.inf:
            raise ValueError(f'gamma is a positive number or "scale", not {gamma!r}')
        self.dim, self.gamma, self.seed = dim, gamma, seed
        self.gamma_: float | None = None

    def fit(self, records: Any) -> Self:
        """Draw frequencies for the rows' d and, with ``gamma="scale"``, find their variance."""
        d, mean_d, squares_d, count = _moments(records)
        variance = float((squares_d / count + np.square(mean_d - mean_d.mean())).mean())
        scale = 1.0 / (d * variance) if variance > 0 else 1.0
        self._draw(d, scale if isinstance(self.gamma, str) else float(self.gamma))
        return self

    def _draw(self, d: int, gamma: float) -> None:
        from sklearn.kernel_approximation import RBFSampler

        self.gamma_ = gamma
        self.sampler_ = RBFSampler(gamma=gamma, n_components=self.dim, random_state=self.seed)
        self.sampler_.fit(np.zeros((1, d)))

    def _map(self, rows_nd: np.ndarray) -> np.ndarray:
        if self.gamma_ is None:
            raise _not_fitted("rff")
        frequencies_dD = self.sampler_.random_weights_
        _check_features(rows_nd, len(frequencies_dD), "rff")
        found_nD: np.ndarray = self.sampler_.transform(rows_nd)
        return found_nD

    def describe(self) -> dict[str, Any]:
        """Give the map's name, its sizes, seed and gamma, and a digest of the frequencies."""
        if self.gamma_ is None:
            raise _not_fitted("rff")
        return {
            "map": "rff",
            "dim": self.dim,
            "d": len(self.sampler_.random_weights_),
            "gamma": self.gamma_,
            "seed": self.seed,
            "frequencies_sha256": digest_of_array(self.sampler_.random_weights_),
        }


class CallableFeatures(FeatureMap):
    """The features that a function of all records gives.

    Parameters
    ----------
    function
        Takes the records and gives (n, D) real values; one record must not change another's.
    name
        What the function is called in the fingerprint. Parties who use the same name promise to use
        the same function. By default its module and name; a function without a public name, such
        as a lambda, has no fingerprint unless it is given one here.
    """

    def __init__(self, function: Callable[[Any], Any], name: str | None = None) -> None:
        self.function = function
        self.name = name

    def transform(self, records: Any) -> np.ndarray:
        """Give the function's features of records, (n, D) float32 or float64."""
        return _as_rows(self.function(records))

    def describe(self) -> dict[str, Any]:
        """Give the function's name."""
        name = self.name
        if name is None:
            module = getattr(self.function, "__module__", None)
            qualified = getattr(self.function, "__qualname__", "<without a name>")
            if module in (None, "__main__") or "<" in qualified:
                raise ValueError(
                    f"the function {qualified} has no name that parties can compare; "
                    'use CallableFeatures(function, name="…")'
                )
            name = f"{module}.{qualified}"
        return {"map": "callable", "name": name}


class Shaped(FeatureMap):
    """Another map's rows, then normalised, clipped in norm and given a constant column.

    Parameters
    ----------
    base
        The map whose rows are shaped.
    normalize
        ``"l2"`` for rows of norm 1, ``"none"`` to leave them.
    max_norm
        Largest norm of a row; longer ones are shrunk to it. ``None`` for no limit.
    fit_intercept
        Whether a column of ones is appended, after the other two, so that its value is beyond a
        seller's reach.

    Raises
    ------
    ValueError
        If normalize is unknown or max_norm is not positive and finite.
    """

    def __init__(
        self,
        base: FeatureMap,
        normalize: str = "none",
        max_norm: float | None = None,
        fit_intercept: bool = False,
    ) -> None:
        if normalize not in _NORMALIZATIONS:
            raise ValueError(f"normalize is one of {', '.join(_NORMALIZATIONS)}, not {normalize!r}")
        if max_norm is not None and not 0 < max_norm < np.inf:
            raise ValueError(f"max_norm is a positive finite number or None, not {max_norm!r}")
        self.base, self.normalize = base, normalize
        self.max_norm, self.fit_intercept = max_norm, fit_intercept

    def fit(self, records: Any) -> Self:
        """Fit the base map."""
        self.base.fit(records)
        return self

    def transform(self, records: Any) -> Any:
        """Give the base map's rows, shaped: (n, D), or (n, D + 1) with the constant column."""
        rows = self.base.transform(records)
        if isinstance(rows, list):
            return [self._shape(shard) for shard in rows]
        return self._shape(rows)

    def _shape(self, rows_nD: np.ndarray) -> np.ndarray:
        if self.normalize == "l2":
            rows_nD = normalize_rows(rows_nD)
        if self.max_norm is not None:
            rows_nD = clip_norms(rows_nD, self.max_norm)
        return append_intercept(rows_nD) if self.fit_intercept else rows_nD

    def describe(self) -> dict[str, Any]:
        """Give the base map's description and how its rows are shaped."""
        return {
            "map": "shaped",
            "base": self.base.describe(),
            "normalize": self.normalize,
            "max_norm": None if self.max_norm is None else float(self.max_norm),
            "fit_intercept": self.fit_intercept,
        }


def make_features(
    features: str | FeatureMap | Callable[[Any], Any] = "identity",
    *,
    normalize: str = "none",
    max_norm: float | None = None,
    fit_intercept: bool = False,
    module: Any = None,
    seed: int = 0,
    **options: Any,
) -> FeatureMap:
    """Make a feature map of its name.

    Parameters
    ----------
    features
        ``"identity"``, ``"standardize"``, ``"minmax"``, ``"rff:D"`` (D random Fourier features),
        ``"hf:<model>"`` (texts; a name on the hub, with ``@revision`` if wanted, or a folder),
        ``"clip:<model>"`` (images, likewise), ``"entk"`` or ``"entk:D"`` (gradients of `module`,
        projected to D), ``"hook:<layer>"`` (what a layer of `module` gives); or a map; or a
        function of all records.
    normalize, max_norm, fit_intercept
        As for `Shaped`. If none of them asks for anything, the map comes as it is.
    module
        The torch module of ``"entk"`` and ``"hook:…"``.
    seed
        Of what is random in ``"rff"`` and ``"entk"``.
    **options
        Further arguments of the map's class.

    Returns
    -------
    FeatureMap
        Not fitted yet.

    Raises
    ------
    ValueError
        If the name or an argument is not valid; ImportError if the extra that it needs is missing.
    TypeError
        If features is none of the three, or options are given with a map that is made already.
    """
    base = _base_map(features, module, seed, options)
    shaped = Shaped(base, normalize, max_norm, fit_intercept)
    plain = normalize == "none" and max_norm is None and not fit_intercept
    return base if plain else shaped


def _base_map(features: Any, module: Any, seed: int, options: dict[str, Any]) -> FeatureMap:
    if isinstance(features, str):
        return _named_map(features, module, seed, options)
    if options:
        raise TypeError(f"options {sorted(options)} go with a name of a map, not with {features!r}")
    if isinstance(features, FeatureMap):
        return features
    if callable(features):
        return CallableFeatures(features)
    raise TypeError(f"features is a name, a FeatureMap or a function, not {features!r}")


def _named_map(name: str, module: Any, seed: int, options: dict[str, Any]) -> FeatureMap:
    kind, _, rest = name.partition(":")
    plain: dict[str, type[FeatureMap]] = {
        "identity": Identity,
        "standardize": Standardize,
        "minmax": MinMax,
    }
    if kind in plain and not rest:
        return plain[kind](**options)
    if kind == "rff" and rest:
        return RandomFourier(_size(rest, name), seed=seed, **options)
    if kind in ("hf", "clip") and rest:
        from modicum.daved.integrations.transformers import ImageFeatures, TextFeatures

        return TextFeatures(rest, **options) if kind == "hf" else ImageFeatures(rest, **options)
    if kind == "entk" or (kind == "hook" and rest):
        return _map_of_module(kind, rest, name, module, seed, options)
    raise ValueError(f"features is one of {', '.join(_NAMES)}, not {name!r}")


def _map_of_module(
    kind: str, rest: str, name: str, module: Any, seed: int, options: dict[str, Any]
) -> FeatureMap:
    if module is None:
        raise ValueError(f"features={name!r} are those of a torch module: give module=…")
    from modicum.daved.features_torch import ENTKFeatures, HookFeatures

    if kind == "hook":
        return HookFeatures(module, rest, **options)
    if rest:
        options = {**options, "dim": _size(rest, name)}
    return ENTKFeatures(module, seed=seed, **options)


def _size(text: str, name: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"the size in features={name!r} is a whole number above 0")
    return int(text)


def features_from_dict(description: Mapping[str, Any]) -> FeatureMap:
    """Make a fitted map of what `FeatureMap.describe` gave, for another party to use.

    Parameters
    ----------
    description
        Of a map of this module, other than that of a function.

    Returns
    -------
    FeatureMap
        With the same fingerprint.

    Raises
    ------
    ValueError
        If the description is of another map, or the frequencies drawn here differ from its.
    """
    kind = description.get("map")
    if kind == "identity":
        return Identity()
    if kind in ("standardize", "minmax"):
        affine = Standardize() if kind == "standardize" else MinMax()
        affine.offset_ = np.asarray(description["offset"], dtype=np.float64)
        affine.scale_ = np.asarray(description["scale"], dtype=np.float64)
        return affine
    if kind == "rff":
        fourier = RandomFourier(description["dim"], description["gamma"], description["seed"])
        fourier._draw(description["d"], description["gamma"])
        if fourier.describe() != dict(description):
            raise ValueError("the frequencies drawn here differ from those described")
        return fourier
    if kind == "shaped":
        shape = {key: description[key] for key in ("normalize", "max_norm", "fit_intercept")}
        return Shaped(features_from_dict(description["base"]), **shape)
    raise ValueError(
        "a map is made of the description of identity, standardize, minmax, rff or shaped, "
        f"not of {kind!r}"
    )


def check_fingerprints(fingerprints: Mapping[str, str]) -> str:
    """Give the fingerprint that all parties share.

    Parameters
    ----------
    fingerprints
        Name of a party to its map's fingerprint; the first party's is what the others must have.

    Raises
    ------
    ValueError
        If there is no party, or parties differ: it names those who differ from the first.
    """
    if not fingerprints:
        raise ValueError("no fingerprints to compare: give that of every party")
    first, expected = next(iter(fingerprints.items()))
    others = [name for name, found in fingerprints.items() if found != expected]
    if others:
        raise ValueError(
            f"feature fingerprints differ: {', '.join(others)} do not have that of {first} "
            f"({expected[:12]}…); all parties must use the same fitted feature map"
        )
    return expected


def normalize_rows(rows_nd: np.ndarray) -> np.ndarray:
    """Give rows of Euclidean norm 1, (n, d); rows of zeros stay zero."""
    return rows_nd / _norms(rows_nd)


def clip_norms(rows_nd: np.ndarray, max_norm: float) -> np.ndarray:
    """Shrink rows longer than max_norm to that norm, (n, d); the others keep their values."""
    return rows_nd * np.minimum(1.0, max_norm / _norms(rows_nd)).astype(rows_nd.dtype)


def _norms(rows_nd: np.ndarray) -> np.ndarray:
    """Give norms, (n, 1), with 1 for zeros; largest values first, so that no square overflows."""
    largest = np.abs(rows_nd).max(axis=1, keepdims=True, initial=0.0)
    largest[largest == 0] = 1
    found: np.ndarray = largest * np.linalg.norm(rows_nd / largest, axis=1, keepdims=True)
    found[found == 0] = 1
    return found


def append_intercept(rows_nd: np.ndarray) -> np.ndarray:
    """Append a column of ones, (n, d + 1)."""
    return np.concatenate([rows_nd, np.ones((len(rows_nd), 1), dtype=rows_nd.dtype)], axis=1)


def logistic_row_weight(probabilities_n: Any) -> np.ndarray:
    """Give p (1 - p), (n,) float64: the weight of a record in logistic regression.

    The information matrix of a logistic model is that of a linear one on rows times the roots of
    these weights, with probabilities of a pilot model. They go to ``row_weight`` of a selection.

    Raises
    ------
    ValueError
        If a probability is not within 0 and 1.
    """
    found_n = np.asarray(probabilities_n, dtype=np.float64)
    outside = ~((found_n >= 0) & (found_n <= 1))
    if outside.any():
        where = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"probabilities lie within 0 and 1, number {where} is {found_n.flat[where]}"
        )
    return np.asarray(found_n * (1 - found_n))


def one_hot(labels_n: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give (targets (n, q) of 0 and 1 in float64, classes (q,) sorted) for a linear classifier."""
    classes_q, codes_n = np.unique(np.asarray(labels_n), return_inverse=True)
    return np.eye(len(classes_q))[codes_n.reshape(-1)], classes_q


def _as_rows(records: Any) -> np.ndarray:
    """Give (n, d) in float32 or float64, without a copy where it is so already."""
    rows = np.asarray(records)
    if rows.ndim != 2:
        raise ValueError(f"rows of features have 2 dimensions (n, d), got shape {rows.shape}")
    if rows.dtype in (np.float32, np.float64):
        return rows
    return rows.astype(np.float32 if rows.dtype == np.float16 else np.float64)


def _check_features(rows_nd: np.ndarray, fitted: int, name: str) -> None:
    if rows_nd.shape[1] != fitted:
        raise ValueError(
            f"{name} was fitted to {fitted} features, the rows have {rows_nd.shape[1]}"
        )


def _not_fitted(name: str) -> ValueError:
    return ValueError(f"{name} has nothing fitted yet: call fit with the sellers' rows first")


def _chunks(records: Any) -> Iterator[np.ndarray]:
    """Give rows in float64, some at a time."""
    pool = ArrayPool(records if is_shards(records) else _as_rows(records))
    return (rows_kd for _, rows_kd in pool.chunks())


def _limits(records: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give the smallest and the largest value of every column, (d,) both, in one pass."""
    low_d = high_d = None
    for chunk in _chunks(records):
        low, high = chunk.min(axis=0), chunk.max(axis=0)
        low_d = low if low_d is None else np.minimum(low_d, low)
        high_d = high if high_d is None else np.maximum(high_d, high)
    if low_d is None or high_d is None:
        raise ValueError("a map cannot be fitted to 0 rows; give at least one")
    return low_d, high_d


def _moments(records: Any) -> tuple[int, np.ndarray, np.ndarray, int]:
    """Give (d, mean (d,), summed squares about it (d,), n) in one pass (Chan et al., 1979)."""
    count, mean_d, squares_d = 0, np.zeros(0), np.zeros(0)
    for chunk in _chunks(records):
        here, total = len(chunk), count + len(chunk)
        mean_of_chunk = chunk.mean(axis=0)
        squares_of_chunk = np.square(chunk - mean_of_chunk).sum(axis=0)
        if count == 0:
            mean_d, squares_d = mean_of_chunk, squares_of_chunk
        else:
            apart = mean_of_chunk - mean_d
            squares_d = squares_d + squares_of_chunk + apart**2 * (count * here / total)
            mean_d = mean_d + apart * (here / total)
        count = total
    if count == 0:
        raise ValueError("a map cannot be fitted to 0 rows; give at least one")
    return len(mean_d), mean_d, squares_d, count
