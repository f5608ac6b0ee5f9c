"""Numbers for people: as many digits as the measurement supports, and no more.

Takes floats and gives plain text (Unicode, no HTML). It knows nothing of results or pages.
"""

from __future__ import annotations

import math

__all__ = ["format_duration", "format_measured", "format_number"]

# Outside of these, zeros would have to be counted, so powers of ten are written instead.
_SMALLEST_PLAIN, _LARGEST_PLAIN = 1e-4, 1e9
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MINUS = str.maketrans("-", "\N{MINUS SIGN}")


def format_number(value: float, decimals: int | None = None) -> str:
    """Write one number.

    Parameters
    ----------
    value
        Any float; whole numbers are written whole.
    decimals
        Digits after the point; None for four significant digits.

    Examples
    --------
    >>> format_number(0.123456), format_number(12345.0), format_number(0.5, 2)
    ('0.1235', '12,345', '0.50')
    """
    value = float(value)
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    if value != 0 and not _SMALLEST_PLAIN <= abs(value) < _LARGEST_PLAIN:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        power = str(int(exponent)).translate(_SUPERSCRIPTS)
        mantissa = mantissa.rstrip("0").rstrip(".").translate(_MINUS)
        return f"{mantissa} \N{MULTIPLICATION SIGN} 10{power}"
    if decimals is None:
        if value == int(value):
            return f"{int(value):,}".translate(_MINUS)
        decimals = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).translate(_MINUS)
    return f"{value:,.{decimals}f}".translate(_MINUS)


def format_measured(
    value: float, interval: tuple[float, float] | None = None
) -> tuple[str, str | None]:
    """Write a measured value and its interval with the digits that the interval's width supports.

    Returns
    -------
    tuple of (str, str or None)
        The value, and the interval as ``[low, high]``.

    Examples
    --------
    >>> format_measured(0.93333, (0.9012, 0.9587))
    ('0.933', '[0.901, 0.959]')
    """
    if interval is None:
        return format_number(value), None
    low, high = interval
    width = high - low
    decimals = None
    if math.isfinite(width) and width > 0:
        # Two significant digits of the width.
        decimals = max(0, 1 - math.floor(math.log10(width)))
    return (
        format_number(value, decimals),
        f"[{format_number(low, decimals)}, {format_number(high, decimals)}]",
    )


def format_duration(seconds: float) -> str:
    """Write a duration: ``0.42 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.001 else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
