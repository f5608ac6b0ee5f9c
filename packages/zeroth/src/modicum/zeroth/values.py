"""Values that a user tells, in either array library: NumPy on the host, torch where they are.

Makes float64 of them and marks what is no real number; knows nothing of what they are values of.
"""

import math
from typing import Any

import numpy as np

from modicum.zeroth.batch import Array

__all__ = ["beside", "float64", "is_finite", "to_device", "to_host", "with_nan"]


def to_host(array: Any) -> np.ndarray:
    """Give a NumPy array."""
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)


def to_device(values: Array, device: Any) -> Array:
    """Give a float64 tensor on a device."""
    import torch

    return torch.as_tensor(values, dtype=torch.float64, device=device)


def beside(values: Array, points: Array) -> Array:
    """Give values in the library and on the device of the points."""
    return to_host(values) if isinstance(points, np.ndarray) else to_device(values, points.device)


def is_finite(values: Array) -> Array:
    """Tell which values are finite."""
    return np.isfinite(values) if isinstance(values, np.ndarray) else values.isfinite()


def with_nan(values: Array, places: np.ndarray) -> Array:
    """Put nan where `places` is true."""
    if isinstance(values, np.ndarray):
        return np.where(places, np.nan, values)
    import torch

    return values.masked_fill(torch.from_numpy(places).to(values.device), math.nan)


def float64(y: Any) -> Array:
    """Take told values as float64; nan where one is complex or None.

    Raises
    ------
    TypeError
        If these are no numbers.
    """
    if hasattr(y, "detach"):
        y = y.detach()
        return y.real.double() * math.nan if y.is_complex() else y.double()
    values = np.asarray(y)
    if values.dtype.kind in "biuf":
        return values.astype(np.float64, copy=False)
    if values.dtype.kind == "c":
        if isinstance(y, np.ndarray):
            return np.full(values.shape, np.nan)
        values = np.array(y, dtype=object)  # a list in which one value is complex
    if values.dtype.kind != "O":
        raise TypeError(f"values must be numbers, not {y!r:.80}")
    flat = [_one_float64(value) for value in values.ravel()]
    return np.array(flat, dtype=np.float64).reshape(values.shape)


def _one_float64(value: Any) -> float:
    if value is None or isinstance(value, complex | np.complexfloating):
        return math.nan
    return float(value)
