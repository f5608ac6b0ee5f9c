"""Checks of arguments, each with a message that names the argument and the value."""

import difflib
from collections.abc import Sequence

__all__ = ["check_choice", "check_count", "check_probability"]


def check_probability(name: str, value: float) -> float:
    """Refuse what is not a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], not {value!r}")
    return float(value)


def check_count(name: str, value: int, least: int = 1) -> int:
    """Refuse what is not an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return value


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Refuse what is none of the choices, and suggest the nearest."""
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}{hint}")
