"""The log of a run of commands: one JSON line per evaluation, appended as it finishes.

`RunLog` takes what evaluations gave and gives back, by the id of an evaluation, what an earlier run
of the same settings already paid for. It starts no process and knows no method. Every line is one
write, so a run that is killed loses at most the line being written; a cut last line is dropped when
the file is opened again. `read_log` reads such a file for its own sake.

Layout: the first line is the header (``format``, ``settings``, their ``digest``); then a line with
an ``id`` per evaluation, and where a method has taken all values of a batch, a line that says how
many batches are ``closed``, what the method's ``rounds`` of it were and whether it is ``done``. Of
several lines with the same number the last counts. A number that is not finite stands as null.

Legend: ``N`` evaluations, ``d`` dimension.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from modicum.zeroth.optimizer import Round

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FORMAT", "Evaluation", "LoggedRun", "RunLog", "digest", "read_log", "strict"]

FORMAT = 1
"""Number of the layout of a log; raised when an older reader could misread it."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation gave.

    Parameters
    ----------
    id
        Number of the evaluation in its run, from 0.
    x
        Where it was made, ``d`` numbers in the user's coordinates.
    value
        What the command gave; nan if it failed as often as it may.
    seed
        Seed that the command was given.
    seconds
        Time that the last attempt took.
    attempts
        How often the command was started.
    error
        Why the last attempt failed; empty if it did not.
    """

    id: int
    x: tuple[float, ...]
    value: float
    seed: int
    seconds: float = 0.0
    attempts: int = 1
    error: str = ""


@dataclass(frozen=True)
class LoggedRun:
    """What stands in a log.

    Parameters
    ----------
    header
        The first line.
    ids
        ``(N,)`` numbers of the evaluations, in increasing order.
    points_Nd
        Where they were made.
    values_N
        What they gave; nan where the command failed.
    seconds_N
        How long they took.
    rounds
        Rounds that the method closed, in order.
    errors
        Why evaluations failed, by their ids.
    """

    header: dict[str, Any]
    ids: np.ndarray
    points_Nd: np.ndarray
    values_N: np.ndarray
    seconds_N: np.ndarray
    rounds: tuple[Round, ...]
    errors: dict[int, str]


def digest(settings: Mapping[str, Any]) -> str:
    """Return 32 hex digits that tell settings apart."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, allow_nan=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class RunLog:
    """Append-only JSONL file of a run's evaluations; safe to append to from many threads.

    Parameters
    ----------
    path
        The file; made if missing (with its folder), gone on with if it exists.
    settings
        Whatever the course of the run depends on, JSON-ready.

    Raises
    ------
    ValueError
        If the file belongs to a run of other settings (naming one with both values), a line other
        than the last is not readable (naming its number) or a value stands there twice.
    BlockingIOError
        If another run has the file open, where the system knows locks.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._evaluations: dict[int, Evaluation] = {}
        self._batches: dict[int, dict[str, Any]] = {}
        self._last_value = -1
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(self.path, "a+b", buffering=0)  # noqa: SIM115 see `close`
        try:
            _take(self._file, self.path)
            self._open({"format": FORMAT, "digest": digest(settings), "settings": dict(settings)})
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        with self._lock:
            if not self._file.closed:
                os.fsync(self._file.fileno())
                self._file.close()

    def get(self, number: int, x: Sequence[float], batch_end: int) -> Evaluation | None:
        """Return the evaluation that stands in the log under this id, or None.

        Parameters
        ----------
        number
            Its id.
        x
            Where it has to have been made.
        batch_end
            The last id of its batch. A failure counts if the run was done or has values of later
            batches, whose points depend on it; what made other failures may be gone.

        Raises
        ------
        ValueError
            If it was made elsewhere: another version of the method wrote the log.
        """
        found = self._evaluations.get(number)
        if found is None:
            return None
        if math.isnan(found.value) and not self._done and self._last_value <= batch_end:
            return None
        if found.x != tuple(x):
            raise ValueError(
                f"{self.path}: evaluation {number} was made at {list(found.x)}, this run asks for"
                f" {list(x)}; the log comes from another version of the method: take another file"
            )
        return found

    def append(self, evaluation: Evaluation) -> None:
        """Write the line of an evaluation."""
        record: dict[str, Any] = {
            "id": evaluation.id,
            "x": list(evaluation.x),
            "y": evaluation.value,
            "seed": evaluation.seed,
            "seconds": round(evaluation.seconds, 6),
        }
        if evaluation.attempts != 1:
            record["attempts"] = evaluation.attempts
        if evaluation.error:
            record["error"] = evaluation.error
        with self._lock:
            self._evaluations[evaluation.id] = evaluation
            self._file.write(_line(record))

    def close_batch(self, closed: int, rounds: Sequence[Round], done: bool) -> None:
        """Write that a method has taken the values of a batch, unless it stands there.

        Parameters
        ----------
        closed
            Number of batches, this one included.
        rounds
            What the method says of it.
        done
            Whether it was the last.
        """
        records = [_round_to_record(item) for item in rounds]
        line = _line({"closed": closed, "rounds": records, "done": done})
        record = json.loads(line)
        with self._lock:
            if record != self._batches.get(closed):
                self._batches[closed] = record
                self._file.write(line)

    @property
    def _done(self) -> bool:
        return any(record["done"] for record in self._batches.values())

    def _open(self, header: Mapping[str, Any]) -> None:
        """Read the file, cut off a broken end, write `header` into an empty file."""
        end = 0
        found: dict[str, Any] | None = None
        for number, line_end, record in _records(self.path):
            end = line_end
            if found is None:
                found = record
                _check_header(found, header, self.path)
            elif "id" in record:
                self._note(number, record)
            else:
                self._batches[record["closed"]] = record
        self._file.truncate(end)
        if found is None:
            self._file.write(_line(header))
        else:
            self._mend(end)

    def _mend(self, end: int) -> None:
        """Give a last line that is whole the newline that it lacks."""
        self._file.seek(end - 1)
        if self._file.read(1) != b"\n":
            self._file.write(b"\n")

    def _note(self, number: int, record: Mapping[str, Any]) -> None:
        evaluation = _evaluation(record)
        before = self._evaluations.get(evaluation.id)
        if before is not None and not math.isnan(before.value):
            raise ValueError(f"{self.path}, line {number}: evaluation {evaluation.id} again")
        self._evaluations[evaluation.id] = evaluation
        if not math.isnan(evaluation.value):
            self._last_value = max(self._last_value, evaluation.id)


def read_log(path: str | os.PathLike[str]) -> LoggedRun:
    """Read a log without going on with its run; a run that is under way is not disturbed.

    Parameters
    ----------
    path
        A log that `run_spec` wrote.

    Returns
    -------
    LoggedRun

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no such log, naming file and line.
    """
    header: dict[str, Any] = {}
    evaluations: dict[int, Evaluation] = {}
    batches: dict[int, dict[str, Any]] = {}
    for number, _, record in _records(Path(path)):
        if number == 1:
            header = record
        elif "id" in record:
            evaluation = _evaluation(record)
            evaluations[evaluation.id] = evaluation
        else:
            batches[record["closed"]] = record
    if "format" not in header:
        raise ValueError(f"{path} is no log of a run: its first line is no header")
    ordered = [evaluations[key] for key in sorted(evaluations)]
    dimension = len(header["settings"]["start"])
    rounds = [item for closed in sorted(batches) for item in batches[closed]["rounds"]]
    return LoggedRun(
        header=header,
        ids=np.array([evaluation.id for evaluation in ordered], dtype=np.int64),
        points_Nd=np.array([e.x for e in ordered], dtype=np.float64).reshape(-1, dimension),
        values_N=np.array([evaluation.value for evaluation in ordered], dtype=np.float64),
        seconds_N=np.array([evaluation.seconds for evaluation in ordered], dtype=np.float64),
        rounds=tuple(map(_round_from_record, rounds)),
        errors={evaluation.id: evaluation.error for evaluation in ordered if evaluation.error},
    )


# Lines ------------------------------------------------------------------------------------------


def strict(value: Any) -> Any:
    """Make plain, JSON-ready values of arrays, with null for numbers that are not finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(strict(record), ensure_ascii=True, allow_nan=False).encode() + b"\n"


def _records(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield number, end in bytes and object of every line; a last line that was cut is left out."""
    end = 0
    size = path.stat().st_size
    with open(path, "rb") as reader:
        for number, line in enumerate(reader, 1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict) or not record.keys() & {"format", "id", "closed"}:
                    raise ValueError("neither an evaluation nor a closed batch")
            except ValueError as error:
                if end + len(line) == size and not line.endswith(b"\n"):
                    return
                raise ValueError(f"{path}, line {number} is not readable: {error}") from error
            end += len(line)
            yield number, end, record


def _evaluation(record: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        id=record["id"],
        x=tuple(record["x"]),
        value=math.nan if record["y"] is None else float(record["y"]),
        seed=record["seed"],
        seconds=record["seconds"],
        attempts=record.get("attempts", 1),
        error=record.get("error", ""),
    )


def _round_to_record(closed: Round) -> dict[str, Any]:
    return {entry.name: getattr(closed, entry.name) for entry in dataclasses.fields(closed)}


def _round_from_record(record: Mapping[str, Any]) -> Round:
    known = {entry.name for entry in dataclasses.fields(Round)}
    values = {key: value for key, value in record.items() if key in known}
    values = {key: math.nan if value is None else value for key, value in values.items()}
    return Round(**values | {"x": np.array(values["x"], dtype=np.float64)})


def _check_header(found: Mapping[str, Any], header: Mapping[str, Any], path: Path) -> None:
    if found.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no log of a run in layout {FORMAT}: its first line is no such header"
        )
    if found["digest"] == header["digest"]:
        return
    theirs, ours = found["settings"], json.loads(_line(header))["settings"]
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"{path} belongs to another run: its {name} is {theirs.get(name)!r}, this run's is"
                f" {ours.get(name)!r}; take another file or the old settings"
            )
    raise ValueError(f"{path} was changed: its digest does not fit its settings")


def _take(file: BinaryIO, path: Path) -> None:
    """Keep other runs off the file until it is closed: their lines would stand between ours."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"{path} is open in another run; wait for its end or take another file"
        ) from None
    except OSError:
        pass  # some network file systems have no locks
