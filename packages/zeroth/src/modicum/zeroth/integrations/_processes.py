"""Evaluations of a spec as processes: start, wait, read the value, try again, give up, stop all.

Takes one evaluation at a time from any number of threads. Starts programs directly, never through a
shell, each in a session of its own: Ctrl-C reaches the run, which then ends its processes, and a
process that is ended takes its children along. Knows neither log nor method.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from modicum.zeroth.integrations._run_log import Evaluation
from modicum.zeroth.integrations._spec import Spec

__all__ = ["Processes", "Stopped", "parse_json", "parse_number"]

# A number that is no part of a word or of a version such as 1.2.3; "0.3s" is none.
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)(?![\w.])", re.I
)
_LAST_WORDS = 300  # characters of an error message of a command that are kept
_GRACE_S = 5.0  # for pipes that outlive a process which was ended


class Stopped(Exception):
    """The run was stopped while an evaluation was under way; there is no value."""


class _Failed(Exception):
    """An attempt gave no value; the text says why."""


class Processes:
    """Runs the evaluations of a spec; a context that leaves no process behind.

    Parameters
    ----------
    spec
        What to run.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes; evaluations that are under way raise `Stopped`."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def evaluate(self, number: int, x: Sequence[float], seed: int) -> Evaluation:
        """Run one evaluation, as often as the spec allows if it fails.

        Parameters
        ----------
        number
            Its id.
        x
            Where, ``d`` numbers.
        seed
            For ``{seed}``.

        Returns
        -------
        Evaluation
            Its value is nan if every attempt failed.

        Raises
        ------
        FileNotFoundError, PermissionError
            If the program cannot be started at all.
        Stopped
            If `stop` was called.
        """
        attempts = 0
        while True:
            attempts += 1
            started = time.perf_counter()
            value, error = math.nan, ""
            try:
                value = self._attempt(x, seed, number)
            except _Failed as failure:
                error = str(failure)
            if not error or attempts > self.spec.retries:
                seconds = time.perf_counter() - started
                return Evaluation(number, tuple(x), value, seed, seconds, attempts, error)

    def _attempt(self, x: Sequence[float], seed: int, number: int) -> float:
        spec = self.spec
        process = self._start(spec.arguments(x, seed, number), spec.environment(x, seed, number))
        try:
            message = spec.message(x, seed, number).encode()
            output, complaint = process.communicate(message, timeout=spec.timeout)
        except BaseException as error:
            _kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_GRACE_S)
            if isinstance(error, subprocess.TimeoutExpired):
                raise _Failed(f"no end after {spec.timeout:g} s") from None
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        if self._stopped:
            raise Stopped
        if process.returncode:
            last = complaint.decode(errors="replace").strip()[-_LAST_WORDS:]
            raise _Failed(f"exit status {process.returncode}: {last}")
        text = output.decode(errors="replace")
        return parse_number(text) if spec.json_key is None else parse_json(text, spec.json_key)

    def _start(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise Stopped
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.spec.folder,
                env=environment,
                start_new_session=True,
            )
            self._running.add(process)
        return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that holds its pipes open, and whatever it started, which may outlive it."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def parse_number(text: str) -> float:
    """Return the last number in a text.

    Raises
    ------
    _Failed
        If there is none, or it is not finite.
    """
    found = _NUMBER.findall(text)
    if not found:
        raise _Failed(f"it printed no number: {text.strip()[-_LAST_WORDS:]!r}")
    return _finite(found[-1])


def parse_json(text: str, key: str) -> float:
    """Return the number under a key, dots between levels, of the JSON in the last line of a text.

    Raises
    ------
    _Failed
        If the line is not JSON, or there is no number under the key, or it is not finite.
    """
    lines = text.strip().splitlines()
    try:
        value: Any = json.loads(lines[-1] if lines else "")
    except ValueError:
        raise _Failed(f"its last line is not JSON: {text.strip()[-_LAST_WORDS:]!r}") from None
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise _Failed(f"its JSON has no {key!r}")
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _Failed(f"{key!r} is {value!r}, not a number")
    return _finite(value)


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _Failed(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise _Failed(f"its value is {value}")
    return number
