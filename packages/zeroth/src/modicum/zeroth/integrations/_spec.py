"""What a run of an external command is: a TOML file, checked at the door.

`load_spec` reads the file into a `Spec`; `Spec.arguments` and `Spec.message` say what one
evaluation hands to the command. Starts nothing and knows no method.
"""

from __future__ import annotations

import json
import math
import os
import string
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

__all__ = ["Spec", "load_spec"]

DEFAULT_RETRIES = 2
_RESERVED = frozenset({"x", "seed", "id"})
# What may change between a run and the run that goes on with its log: how, not what.
_FREE = frozenset({"path", "folder", "workers", "timeout", "retries"})
_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Spec:
    """A run of an external command, as its file says.

    Parameters
    ----------
    path
        The file.
    cmd
        Program and arguments with placeholders: ``{x0}``, ``{x1}``, … or the names of the
        parameters; ``{x}`` alone in an argument stands for all coordinates, one argument each, and
        inside an argument for all of them with commas between; ``{seed}``, ``{id}``. Braces that
        are meant are written twice. No shell comes in between.
    start
        Where the search begins, ``d`` numbers.
    budget
        Number of evaluations; retries of failed ones are not counted.
    names
        Names of the parameters, or empty.
    scale
        Length over which the best point may lie from the start; one number, or one per parameter.
    bounds
        Lower and upper end per parameter, or None.
    noise, strong_convexity, hessian_lipschitz
        What is known of the function, or None.
    method
        Name of the method.
    options
        Further arguments of the method by name.
    paired
        Give both points of a pair the same ``{seed}``.
    maximize
        Look for the largest value.
    seed
        Of the run: directions and the seeds of the evaluations come from it.
    workers
        Processes at a time.
    timeout
        Seconds after which a process is killed, or None.
    retries
        How often an evaluation that failed is tried again before its pair is given up.
    stdin
        ``"json"`` sends one line ``{"x": …, "seed": …, "id": …}`` (with the names, if there are
        any) to the process, None sends nothing.
    json_key
        Where the value stands in the last line that the command prints, which then is JSON: keys
        with dots between. None takes the last number printed.
    env
        Variables set for the process; placeholders as in `cmd`.
    folder
        Where the process runs.
    """

    path: Path
    cmd: tuple[str, ...]
    start: tuple[float, ...]
    budget: int
    names: tuple[str, ...] = ()
    scale: float | tuple[float, ...] = 1.0
    bounds: tuple[tuple[float, float], ...] | None = None
    noise: float | None = None
    strong_convexity: float | None = None
    hessian_lipschitz: float | None = None
    method: str = "adaptive"
    options: dict[str, Any] = field(default_factory=dict)
    paired: bool = False
    maximize: bool = False
    seed: int = 0
    workers: int = 1
    timeout: float | None = None
    retries: int = DEFAULT_RETRIES
    stdin: str | None = None
    json_key: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def dimension(self) -> int:
        """Number of parameters."""
        return len(self.start)

    def settings(self) -> dict[str, Any]:
        """Return, JSON-ready, whatever the course of the run depends on."""
        return {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if entry.name not in _FREE
        }

    def values(self, x: Sequence[float], seed: int, number: int) -> dict[str, Any]:
        """Return what the placeholders of one evaluation stand for, ``{x}`` with commas."""
        coordinates = {f"x{index}": value for index, value in enumerate(x)}
        named = dict(zip(self.names, x, strict=False))
        joined = ",".join(map(repr, x))
        return coordinates | named | {"x": joined, "seed": seed, "id": number}

    def arguments(self, x: Sequence[float], seed: int, number: int) -> list[str]:
        """Return the command line of one evaluation."""
        values = self.values(x, seed, number)
        found: list[str] = []
        for argument in self.cmd:
            if argument == "{x}":
                found.extend(map(repr, x))
            else:
                found.append(argument.format_map(values))
        return found

    def environment(self, x: Sequence[float], seed: int, number: int) -> dict[str, str]:
        """Return the environment of one evaluation: this process's and the variables of `env`."""
        values = self.values(x, seed, number)
        return dict(os.environ) | {key: text.format_map(values) for key, text in self.env.items()}

    def message(self, x: Sequence[float], seed: int, number: int) -> str:
        """Return what one evaluation gets on its standard input."""
        if self.stdin is None:
            return ""
        named = dict(zip(self.names, x, strict=False))
        return json.dumps(named | {"x": list(x), "seed": seed, "id": number}) + "\n"

    def point(self, x: Sequence[float]) -> list[float] | dict[str, float]:
        """Return a point as the file writes points: by name if the parameters have names."""
        numbers = [float(value) for value in x]
        return dict(zip(self.names, numbers, strict=True)) if self.names else numbers


def load_spec(path: str | os.PathLike[str]) -> Spec:
    """Read the file of a run.

    Parameters
    ----------
    path
        TOML with at least ``cmd``, ``start`` and ``budget``; the other keys are the parameters of
        `Spec`, and ``cwd`` for the folder the command runs in (default: the file's). ``start`` is a
        list, or a table of named parameters; ``scale`` and ``bounds`` follow it, with ``inf`` for
        an end that is open.

    Returns
    -------
    Spec

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML, or a key is unknown, missing or has a value that cannot be meant.
    """
    path = Path(path).resolve()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return _Reader(path, table).spec()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _Reader:
    """Takes the keys of a file one by one and complains of those that are left."""

    def __init__(self, path: Path, table: Mapping[str, Any]) -> None:
        self.path = path
        self.left = dict(table)

    def spec(self) -> Spec:
        cmd = self.take("cmd", _texts)
        start, names = _start(self.take("start", _anything))
        spec = Spec(
            path=self.path,
            cmd=cmd,
            start=start,
            names=names,
            budget=self.take("budget", _positive_integer),
            scale=self.take("scale", lambda value: _scale(value, names, len(start)), 1.0),
            bounds=self.take("bounds", lambda value: _bounds(value, names, start), None),
            noise=self.take("noise", _positive, None),
            strong_convexity=self.take("strong_convexity", _positive, None),
            hessian_lipschitz=self.take("hessian_lipschitz", _positive, None),
            method=self.take("method", _text, "adaptive"),
            options=self.take("options", _table, {}),
            paired=self.take("paired", _flag, False),
            maximize=self.take("maximize", _flag, False),
            seed=self.take("seed", _natural, 0),
            workers=self.take("workers", _positive_integer, 1),
            timeout=self.take("timeout", _positive, None),
            retries=self.take("retries", _natural, DEFAULT_RETRIES),
            stdin=self.take("stdin", _stdin, None),
            json_key=self.take("json_key", _text, None),
            env=self.take("env", _environment, {}),
            folder=self.path.parent / self.take("cwd", _text, ""),
        )
        if self.left:
            known = sorted({entry.name for entry in fields(Spec)} - {"path", "folder", "names"})
            raise ValueError(
                f"no such key: {', '.join(sorted(self.left))}; there are {', '.join(known)}, cwd"
            )
        _check_places(spec)
        _check_formats(spec)
        return spec

    def take(self, key: str, read: Callable[[Any], Any], *default: Any) -> Any:
        if key not in self.left:
            if default:
                return default[0]
            raise ValueError(f"{key} is missing")
        value = self.left.pop(key)
        try:
            return read(value)
        except ValueError as error:
            raise ValueError(f"{key} = {value!r}: {error}") from error


# Values -----------------------------------------------------------------------------------------


def _anything(value: Any) -> Any:
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise ValueError(f"it takes {what}")
    return tuple(map(float, values))


def _positive(value: Any) -> float:
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError("it takes a positive number")
    return float(value)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("it takes a whole number from 0")
    return value


def _positive_integer(value: Any) -> int:
    if _natural(value) == 0:
        raise ValueError("it takes a whole number from 1")
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it takes true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it takes a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        raise ValueError('it takes the program and its arguments, such as ["./sim", "{x}"]')
    return tuple(value)


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it takes a table")
    return value


def _environment(value: Any) -> dict[str, str]:
    if not all(isinstance(text, str) for text in _table(value).values()):
        raise ValueError("the values of environment variables are texts")
    return dict(value)


def _stdin(value: Any) -> str:
    if value != "json":
        raise ValueError('it takes "json"')
    return "json"


def _start(value: Any) -> tuple[tuple[float, ...], tuple[str, ...]]:
    names: tuple[str, ...] = ()
    if isinstance(value, dict):
        names, value = tuple(value), list(value.values())
        for name in names:
            if not name.isidentifier() or name in _RESERVED:
                raise ValueError(
                    f"start: a parameter cannot be called {name!r}; take letters, digits and _,"
                    f" and none of {', '.join(sorted(_RESERVED))}"
                )
    start = _numbers(value, "a list of numbers, or a table of named ones")
    if not start or not all(map(math.isfinite, start)):
        raise ValueError(f"start = {value!r}: it takes at least one number, all of them finite")
    return start, names


def _in_order(value: Any, names: Sequence[str]) -> Any:
    """Bring a table of named parameters into the order of `names`."""
    if not isinstance(value, dict):
        return value
    if set(value) != set(names):
        raise ValueError(f"it takes the same names as start: {', '.join(names) or 'none'}")
    return [value[name] for name in names]


def _scale(value: Any, names: Sequence[str], dimension: int) -> float | tuple[float, ...]:
    if _is_number(value):
        return _positive(value)
    scale = _numbers(_in_order(value, names), "a positive number, or one per parameter")
    if len(scale) != dimension or not all(0 < length < math.inf for length in scale):
        raise ValueError(f"it takes a positive number, or {dimension} of them")
    return scale


def _bounds(
    value: Any, names: Sequence[str], start: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    if isinstance(value, dict):
        unknown = set(value) - set(names)
        if unknown:
            raise ValueError(f"there is no parameter {', '.join(sorted(unknown))}")
        value = [value.get(name, list(_UNBOUNDED)) for name in names]
    if not isinstance(value, list) or len(value) != len(start):
        raise ValueError(f"it takes {len(start)} pairs [lower, upper]")
    bounds = []
    for index, (pair, first) in enumerate(zip(value, start, strict=True)):
        ends = _numbers(pair, "pairs [lower, upper]")
        if len(ends) != 2 or not ends[0] <= first <= ends[1]:
            raise ValueError(
                f"{pair} does not hold the start {first} of parameter {index}; it takes"
                " [lower, upper] with lower ≤ start ≤ upper"
            )
        bounds.append((ends[0], ends[1]))
    return tuple(bounds)


def _check_places(spec: Spec) -> None:
    """Check every placeholder, that the point goes somewhere, and that paired seeds do."""
    allowed = _RESERVED | {f"x{index}" for index in range(spec.dimension)} | set(spec.names)
    used: set[str] = set()
    for text in (*spec.cmd, *spec.env.values()):
        used |= _placeholders(text, allowed)
    if not used - {"seed", "id"} and spec.stdin is None:
        raise ValueError(
            'the command never sees the point: put "{x}" into cmd, or say stdin = "json"'
        )
    if spec.paired and "seed" not in used and spec.stdin is None:
        raise ValueError('paired = true needs "{seed}" in cmd or env, or stdin = "json"')


def _check_formats(spec: Spec) -> None:
    try:
        spec.arguments(spec.start, 0, 0)
        spec.environment(spec.start, 0, 0)
    except (ValueError, TypeError) as error:
        raise ValueError(f"a placeholder of cmd or env cannot be filled in: {error}") from error


def _placeholders(text: str, allowed: frozenset[str] | set[str]) -> set[str]:
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; braces that are meant are written twice") from error
    if unknown := found - allowed:
        raise ValueError(
            f"{text!r}: there is no {{{min(unknown)}}}; there are"
            f" {', '.join(sorted(allowed))}, and braces that are meant are written twice"
        )
    return found
