"""Numbers as people and models write them, read from text.

Takes text, gives an int or a float. Knows thousands separators, currency signs, percent signs,
fractions, scientific notation and the many minus signs; leaves dates, times, ratios and version
numbers alone. It does no arithmetic: of "3 + 4" it sees a 3 and a 4.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["last_number", "whole_number"]

Number = int | float

_MAX_DIGITS = 1000
"""Longer runs of digits are a sampler that got stuck, no answer."""

_MAX_EXPONENT = 400
"""Powers of ten beyond this are not written out; doubles end at 308."""

_SPELLINGS = str.maketrans(
    {
        # Minus signs: U+2212, en dash, small and full-width hyphen, non-breaking hyphen.
        **dict.fromkeys("\u2212\u2013\ufe63\uff0d\u2011", "-"),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "\uff0c": ",",
        "\uff0e": ".",
        "\uff1a": ":",
        "\uff05": "%",
        "\uff04": "$",
        # Thin and narrow non-breaking spaces inside numbers separate thousands.
        "\u2009": "\u202f",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_THIN_SPACE = re.compile(r"(?<=[0-9])(?:\u202f|\\[,!]|\{,\})(?=[0-9]{3})")
_FRAC = re.compile(r"(?P<digit>(?<=[0-9]))?\\[dt]?frac\{([0-9]{1,300})\}\{([0-9]{1,300})\}")

# A number does not start inside a word (H2O, GPT-4, x_1) or an exponent (x^2, x^{-2}); only ASCII
# letters count, for in some languages words are not set apart by spaces.
_START = (
    r"(?<![A-Za-z0-9])(?<![A-Za-z0-9]_)(?<!_\{)(?<!\^)(?<!\^[{-])(?<!\^\{-)(?<![0-9]\.)"
    r"(?<![A-Za-z]-)"
)
# A minus after a number, a word or a closing bracket is a dash or a subtraction.
_SIGN = r"(?:(?<![A-Za-z0-9)\]}%_^{])|(?<![_^])(?<=\{))-"
_CURRENCY = r"[$€£¥₹]"


def _power(name: str) -> str:
    """Pattern of an exponent, ``^3``, ``**3`` or ``^{3}``, in groups of this name."""
    digits = "[+-]?[0-9]{1,4}"
    return rf"(?:\^|\*\*)(?:\{{(?P<{name}_braced>{digits})\}}|(?P<{name}_bare>{digits}))"


_TOKEN = re.compile(
    rf"""
    (?P<other>{_START}(?>
        [0-9]{{1,4}}([-/])[0-9]{{1,2}}\2[0-9]{{1,4}}(?![0-9])  # date
      | [0-9]++(?:\.[0-9]++){{2,}}                             # version, dotted date
      | [0-9]++(?::[0-9]++)+                                   # time, ratio
    ))
    | (?P<sign>{_SIGN})?(?:{_CURRENCY}[ ]?(?P<inner>-)?)?{_START}(?>
        10{_power("ten")}                                     # power of ten
      | (?:(?P<whole>[0-9]++)[ ]{{1,3}})?(?P<top>[0-9]++)[ ]?/[ ]?(?P<bottom>[0-9]++)(?!/)
      | (?P<mantissa>(?>
            [0-9]{{1,3}}(?:,[0-9]{{2,3}})*,[0-9]{{3}}(?![0-9])(?!,[0-9])(?:\.[0-9]++)?
          | [0-9]++(?:\.[0-9]++)?
          | \.[0-9]++
        ))
        (?:
            [eE](?P<exponent>[+-]?[0-9]{{1,4}})(?![0-9A-Za-z])
          | [ ]{{0,3}}(?:[×x*·]|\\times|\\cdot)[ ]{{0,3}}10{_power("times")}
        )?
    )(?![ ]?\^)
    """,
    re.VERBOSE,
)


def _respelled(text: str) -> str:
    """Return the text with one spelling for each sign; positions change."""
    text = text.translate(_SPELLINGS)
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    text = text.replace("\\$", "$").replace("\\%", "%")
    text = _FRAC.sub(lambda m: f"{'' if m['digit'] is None else ' '}{m[2]}/{m[3]}", text)
    return _THIN_SPACE.sub("", text)


def _value(match: re.Match[str]) -> Number | None:
    """Return the number of a token, None for a token that is none."""
    if match["other"] is not None or len(match[0]) > _MAX_DIGITS:
        return None
    if match["top"] is not None:
        if int(match["bottom"]) == 0:
            return None
        value = int(match["whole"] or 0) + Fraction(int(match["top"]), int(match["bottom"]))
    else:
        exponents = ("exponent", "ten_braced", "ten_bare", "times_braced", "times_bare")
        exponent = int(next((match[name] for name in exponents if match[name]), 0))
        if abs(exponent) > _MAX_EXPONENT:
            return None
        mantissa = (match["mantissa"] or "1").replace(",", "")
        value = Fraction(mantissa) * Fraction(10) ** exponent
    if match["sign"] or match["inner"]:
        value = -value
    return _plain(value)


def _plain(value: Fraction) -> Number | None:
    if value.denominator == 1:
        return int(value)
    try:
        return float(value)
    except OverflowError:  # more than 308 digits before the point
        return None


def last_number(text: str) -> Number | None:
    """Return the last number in a text, None if there is none; an int where it is whole."""
    last = None
    for match in _TOKEN.finditer(_respelled(text)):
        value = _value(match)
        last = last if value is None else value
    return last


def whole_number(text: str) -> Number | None:
    """Return the number that a text consists of, None if there is anything but the number.

    Around it may stand white space, dollar signs of mathematics, asterisks of bold type, a percent
    sign and a full stop.
    """
    bare = _respelled(text).strip(" \t\r\n*").rstrip("%. ").strip("$ ")
    match = _TOKEN.fullmatch(bare)
    return None if match is None else _value(match)
