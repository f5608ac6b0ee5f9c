"""Checks of what a user passes, with messages that name the value and say what would be right.

Each function takes the name of an argument and its value, and returns the value in its plain form.
Knows nothing of any method.
"""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["integer", "one_of", "positive", "start_point", "suggestion", "vector"]


def integer(name: str, value: Any, least: int = 1) -> int:
    """Take an integer that is at least `least`; ``1e4`` counts as one.

    Raises
    ------
    TypeError
        If the value is no number.
    ValueError
        If it is no integer or too small.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not math.isfinite(value) or value != int(value):
        raise ValueError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return int(value)


def positive(name: str, value: Any) -> float:
    """Take a finite number above zero.

    Raises
    ------
    TypeError
        If the value is no real number.
    ValueError
        If it is zero, negative, infinite or nan.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, not {value!r}")
    return float(value)


def vector(name: str, value: Any) -> np.ndarray:
    """Take real numbers, also as a torch tensor, as a float64 array on the host.

    Raises
    ------
    TypeError
        If these are no real numbers.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold real numbers, not {value!r}") from None


def start_point(value: Any) -> np.ndarray:
    """Take a start ``(d,)``; a number is a start in one dimension.

    Raises
    ------
    TypeError
        If it holds no real numbers.
    ValueError
        If it is empty, has more than one axis, or holds nan or infinity.
    """
    x0 = np.atleast_1d(vector("x0", value))
    if x0.ndim != 1 or x0.size == 0:
        raise ValueError(f"x0 must have shape (d,) with d ≥ 1, not {x0.shape}")
    wrong = np.flatnonzero(~np.isfinite(x0))
    if wrong.size:
        raise ValueError(f"x0 must be finite; x0[{wrong[0]}] is {x0[wrong[0]]}")
    return x0


def suggestion(value: Any, allowed: Iterable[str]) -> str:
    """Give ``" (did you mean 'x'?)"`` if one of the allowed words is close, else nothing."""
    close = difflib.get_close_matches(str(value), list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Take one of some words.

    Raises
    ------
    ValueError
        If it is another; the message lists the words and suggests the nearest.
    """
    words = list(allowed)
    if not isinstance(value, str) or value not in words:
        listed = ", ".join(repr(word) for word in words)
        raise ValueError(f"{name} must be one of {listed}, not {value!r}{suggestion(value, words)}")
    return value
