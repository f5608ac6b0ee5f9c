"""When two answers are the same: keys that votes are counted on.

A *canonicaliser* maps an answer to a key: a hashable value, equal for equal answers, or None for
what is no answer. `exact`, `casefold` and `numeric` decide by a key alone and so are equivalence
relations by construction. Where only a pairwise ``eq(a, b)`` is known, `PairwiseKeys` names groups
as answers come in and `group_equivalent` groups answers that are all there; both look at distinct
answers only, and say so when ``eq`` is not transitive. Keys of strings and numbers are strings and
numbers; lists, mappings and the like, which cannot be keys, become their canonical JSON text.
Nothing here reads answers out of texts (see `modicum.testtime.extract`) or counts votes.
"""

from __future__ import annotations

import inspect
import json
import math
import unicodedata
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np

from modicum.testtime._numbers import whole_number

__all__ = [
    "Canonicaliser",
    "NonTransitive",
    "Numeric",
    "PairwiseKeys",
    "as_canonicaliser",
    "casefold",
    "exact",
    "group_equivalent",
    "math_verify",
    "numeric",
    "single_link",
]

Key = Hashable
Canonicaliser = Callable[[Any], Key | None]
"""From an answer to its key, None for what is no answer."""

Equality = Callable[[Any, Any], bool]

# Doubles hold every integer up to here.
_WHOLE_LIMIT = 2**53


class NonTransitive(UserWarning):
    """An equality holds for a and b, and for b and c, and not for a and c."""


def exact(answer: Any) -> Key | None:
    """Return an answer as its own key.

    Parameters
    ----------
    answer
        Anything. Blank strings, None and NaN are no answers (NaN differs from itself and would
        split the vote). Members of tuples and frozen sets are treated alike. Lists, sets, mappings
        and arrays become canonical JSON text: keys sorted, whole floats as integers.

    Raises
    ------
    TypeError
        For an answer that is neither hashable nor made of JSON's types.
    """
    if isinstance(answer, np.generic):
        answer = answer.item()
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return None
    if isinstance(answer, tuple | frozenset):
        return type(answer)(exact(member) for member in answer)
    if isinstance(answer, Mapping | AbstractSet | list | np.ndarray):
        return _json_text(answer)
    try:
        hash(answer)
    except TypeError:
        raise _no_key(answer) from None
    return None if answer != answer else answer


def _no_key(answer: Any) -> TypeError:
    return TypeError(
        f"an answer must be hashable or made of lists, mappings, strings and numbers, not "
        f"{type(answer).__name__}: {answer!r}"
    )


def _json_text(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a value in JSON's types, equal values alike."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((_plain(item) for item in value), key=_json_text)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise _no_key(value)


def casefold(answer: Any) -> Key | None:
    """Return a key that ignores case, white space and compatibility forms of characters.

    Answers that are not strings are treated as by `exact`.
    """
    if not isinstance(answer, str):
        return exact(answer)
    return " ".join(unicodedata.normalize("NFKC", answer).casefold().split()) or None


@dataclass(frozen=True)
class Numeric:
    """Key of a number: the number rounded to a grid (see `numeric`)."""

    rtol: float = 1e-6
    atol: float = 1e-9
    keep_integers: bool = True

    def __post_init__(self) -> None:
        """Refuse tolerances that mean nothing."""
        _check_tolerances(self.rtol, self.atol)

    def __call__(self, answer: Any) -> int | float | None:
        """Return the key of an answer; None if it is not a finite number."""
        number = _number(answer)
        if number is None:
            return None
        step = self._step(number)
        if step:
            rounded = round(Fraction(number) / step) * step
            return int(rounded) if rounded.denominator == 1 else float(rounded)
        return int(number) if isinstance(number, float) and number.is_integer() else number

    def _step(self, number: int | float) -> Fraction:
        """Width of the grid around a number."""
        step = Fraction(str(self.atol))
        if number:
            step = max(step, Fraction(str(self.rtol)) * Fraction(10) ** _decade(number))
        if self.keep_integers and abs(number) < _WHOLE_LIMIT:
            step = min(step, Fraction(1))
        return step


def _decade(number: int | float) -> int:
    """Return the exponent of a number in scientific notation."""
    if isinstance(number, int):
        return len(str(abs(number))) - 1
    return int(f"{number:.16e}".partition("e")[2])


def _check_tolerances(rtol: float, atol: float) -> None:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (0 <= value < math.inf):
            raise ValueError(f"{name} must be finite and >= 0, not {value!r}")


def _number(answer: Any) -> int | float | None:
    """Return an answer as a finite number, None if it is none."""
    if isinstance(answer, np.generic):
        answer = answer.item()
    if isinstance(answer, str):
        return whole_number(answer)
    if isinstance(answer, bool) or not isinstance(answer, int | float | Fraction):
        return None
    if isinstance(answer, int):
        return answer
    try:
        return float(answer) if math.isfinite(answer) else None
    except OverflowError:  # a fraction beyond the doubles
        return None


def numeric(
    rtol: float = 1e-6,
    atol: float = 1e-9,
    *,
    link: Literal["grid", "single"] = "grid",
    keep_integers: bool = True,
) -> Numeric | PairwiseKeys:
    """Return the equality of numbers up to a tolerance; what is not a number is no answer.

    Strings are read as by `extract.last_number`, if the number is all there is in them.

    Parameters
    ----------
    rtol, atol
        Relative and absolute tolerance, 0 for none.
    link
        "grid": the number is rounded to a multiple of the larger of ``atol`` and ``rtol`` times its
        power of ten. Numbers with one key differ by at most the tolerance, being equal is
        transitive, and the key of a number does not depend on the others; the price is that two
        numbers on either side of a boundary between cells get different keys however close they
        are. "single": `PairwiseKeys` with ``|a - b| <= max(atol, rtol * max(|a|, |b|))``. That has
        no boundaries but chains: with enough numbers in between, 1 and 2 are in one group, and what
        a group is depends on what else was answered.
    keep_integers
        Whether the grid is never coarser than 1 below 2**53, so that different integers always have
        different keys: 1,234,567 and 1,234,568 agree to six digits and are different answers. (For
        "grid" only.)

    Raises
    ------
    ValueError
        For tolerances that are negative or not finite, or another link.
    """
    _check_tolerances(rtol, atol)
    if link == "grid":
        return Numeric(rtol, atol, keep_integers)
    if link != "single":
        raise ValueError(f'link must be "grid" or "single", not {link!r}')
    return PairwiseKeys(_Close(rtol, atol), read=_number)


@dataclass(frozen=True)
class _Close:
    rtol: float
    atol: float

    def __call__(self, a: float, b: float) -> bool:
        try:
            return math.isclose(a, b, rel_tol=self.rtol, abs_tol=self.atol)
        except OverflowError:  # integers beyond the doubles
            return a == b


def single_link(
    answers: Sequence[Any], *, rtol: float = 1e-6, atol: float = 1e-9
) -> list[int | float | None]:
    """Return one key per answer: numbers are sorted and joined wherever a gap is within tolerance.

    Chains: the ends of a group may be any distance apart (see `numeric`). The key of a group is its
    member that comes first in ``answers``; what is not a number gets None.
    """
    _check_tolerances(rtol, atol)
    numbers = [_number(answer) for answer in answers]
    first = {number: index for index, number in reversed(list(enumerate(numbers)))}
    ordered = sorted(number for number in first if number is not None)
    close = _Close(rtol, atol)
    groups: list[list[int | float]] = []
    for number in ordered:
        if groups and close(groups[-1][-1], number):
            groups[-1].append(number)
        else:
            groups.append([number])
    keys: dict[int | float | None, int | float | None] = {None: None}
    for group in groups:
        keys |= dict.fromkeys(group, min(group, key=lambda member: first[member]))
    return [keys[number] for number in numbers]


def _both_ways(equal: Equality, a: Any, b: Any) -> bool:
    return bool(equal(a, b)) and bool(equal(b, a))


def group_equivalent(answers: Iterable[Any], equal: Equality) -> list[Key | None]:
    """Return one key per answer from a pairwise equality.

    Parameters
    ----------
    answers
        Answers in order; those that `exact` calls no answer get None.
    equal
        ``equal(a, b) -> bool``. It is asked for every pair of distinct answers, and counts as true
        only if it is true both ways.

    Returns
    -------
    list
        For each answer the earliest answer of its group. Groups are the connected components, found
        by union-find, so that they do not depend on the order of the answers.

    Warns
    -----
    NonTransitive
        If two members of a group are not equal themselves.
    """
    raw = [exact(answer) for answer in answers]
    distinct = [key for key in dict.fromkeys(raw) if key is not None]
    parent = list(range(len(distinct)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    different = []
    for j, b in enumerate(distinct):
        for i, a in enumerate(distinct[:j]):
            if _both_ways(equal, a, b):
                low, high = sorted((root(i), root(j)))
                parent[high] = low
            else:
                different.append((i, j))
    for i, j in different:
        if root(i) == root(j):
            _warn_not_transitive(distinct[i], distinct[j], "they are in one group all the same")
            break
    keys: dict[Key | None, Key | None] = {None: None}
    keys |= {key: distinct[root(index)] for index, key in enumerate(distinct)}
    return [keys[key] for key in raw]


def _warn_not_transitive(a: Any, b: Any, consequence: str) -> None:
    warnings.warn(
        f"the equality is not transitive: {a!r} and {b!r} are both equal to another answer and not "
        f"to each other; {consequence}",
        NonTransitive,
        stacklevel=4,
    )


class PairwiseKeys:
    """Keys from a pairwise equality, for answers that come in one at a time.

    A new answer joins the first group that has a member equal to it, and is otherwise the key of a
    group of its own: the key of a group is the answer that opened it. Equality is asked both ways
    and for every distinct answer seen so far, which is what it takes to notice that it is not
    transitive. Answers are grouped within one prompt: give each its own with `fresh`. Not for use
    in several threads at once.

    Parameters
    ----------
    equal
        ``equal(a, b) -> bool``.
    read
        Canonicaliser before it; what it maps to None is no answer. Default `exact`.

    Warns
    -----
    NonTransitive
        Once, if a new answer equals members of several groups, or some members of a group and not
        others. Votes then depend on the order of the answers; `group_equivalent` does not.
    """

    def __init__(self, equal: Equality, read: Canonicaliser = exact) -> None:
        self.equal = equal
        self.read = read
        self._key_of: dict[Key, Key] = {}
        self._warned = False

    def fresh(self) -> PairwiseKeys:
        """Return the same equality without any answers."""
        return PairwiseKeys(self.equal, self.read)

    def __call__(self, answer: Any) -> Key | None:
        """Return the key of an answer."""
        raw = self.read(answer)
        if raw is None:
            return None
        if raw not in self._key_of:
            self._key_of[raw] = self._group(raw)
        return self._key_of[raw]

    def _group(self, raw: Key) -> Key:
        alike = {seen for seen in self._key_of if _both_ways(self.equal, seen, raw)}
        groups = list(dict.fromkeys(self._key_of[seen] for seen in self._key_of if seen in alike))
        if not groups:
            return raw
        if not self._warned:
            for seen, key in self._key_of.items():
                if (seen in alike) != (key == groups[0]):
                    self._warned = True
                    pair = (seen, raw) if seen not in alike else (seen, groups[0])
                    _warn_not_transitive(*pair, "the votes depend on the order of the answers")
                    break
        return groups[0]


def math_verify(**options: Any) -> PairwiseKeys:
    """Return mathematical equality of LaTeX and plain expressions, as Math-Verify sees it.

    Parameters
    ----------
    options
        As for `modicum.testtime.integrations.math_verify.MathVerify`.

    Raises
    ------
    ImportError
        If Math-Verify is not installed.
    """
    from modicum.testtime.extract import math

    return PairwiseKeys(math(**options).equal)


def as_canonicaliser(equal: Canonicaliser | Equality | None) -> Canonicaliser:
    """Return what a user gave for ``equal=`` as a canonicaliser for one prompt.

    Parameters
    ----------
    equal
        None (`exact`), a canonicaliser, a pairwise equality (any callable with two required
        arguments), or anything with a method ``fresh``, which is called.

    Raises
    ------
    TypeError
        For what cannot be called.
    """
    if equal is None:
        return exact
    if not callable(equal):
        raise TypeError(
            f"equal must be a canonicaliser or a function of two answers, not {equal!r}"
        )
    fresh = getattr(equal, "fresh", None)
    if fresh is not None:
        return fresh()
    return (
        PairwiseKeys(cast(Equality, equal))
        if _required_arguments(equal) == 2
        else cast(Canonicaliser, equal)
    )


def _required_arguments(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions have no signature; those that are keys take one
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
