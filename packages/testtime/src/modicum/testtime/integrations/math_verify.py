r"""Mathematical answers read and compared by Math-Verify, in a process of its own.

Math-Verify bounds its time with SIGALRM, which works on the main thread only; elsewhere it refuses
or finds nothing without a word (its issues 22, 50 and 55). Here it runs without its own limits in a
worker process, with a limit on the wall clock that holds in any thread and for any computation: a
request that takes too long costs the worker, and the next one starts another. The worker is started
afresh and not forked, so that threads of other libraries do not matter, and it imports nothing of
the calling program. What has no expression is counted, and is no answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modicum.testtime.extract import Extractor

__all__ = ["MathVerify"]

_WORKER = Path(__file__).with_name("_math_verify_worker.py")
_START_S = 120.0
"""Seconds that a worker may take to import SymPy, on a machine that is busy with other things."""

_ALARM_GRACE_S = 10.0
"""How much longer than a request's limit a worker lives if nobody is left to end it."""


class _WorkerDied(Exception):
    """The process ended in the middle of a request."""


class _Worker:
    """The process and the line to it."""

    def __init__(self, memory_mb: int) -> None:
        self.connection, theirs = Pipe()
        descriptor = theirs.fileno()
        # -P keeps the folder of the worker's file, where a module is called math_verify, off the
        # path; the rest of the path is that of this process.
        command = [sys.executable, "-P", "-W", "ignore", str(_WORKER)]
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(descriptor), str(memory_mb)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        # Runs when the worker is stopped or collected and, at the latest, when the program ends.
        self.stop = weakref.finalize(self, _stop, self.process, self.connection, os.getpid())

    def start(self) -> None:
        """Wait until it can be asked."""
        try:
            reply = self._receive(_START_S)
        except (TimeoutError, _WorkerDied) as error:
            raise RuntimeError(
                f"the worker process of Math-Verify did not start within {_START_S:g} s "
                f"(exit status {self.process.poll()})"
            ) from error
        if "error" in reply:
            self.stop()
            raise RuntimeError(f"Math-Verify cannot be imported:\n{reply['error']}")

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the reply; with any exception the process is gone."""
        request = request | {"alarm_s": timeout_s + _ALARM_GRACE_S}
        try:
            self.connection.send_bytes(json.dumps(request).encode())
        except OSError:
            self.stop()
            raise _WorkerDied from None
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            if not self.connection.poll(timeout_s):
                raise TimeoutError
            return json.loads(self.connection.recv_bytes())
        except (EOFError, ConnectionError):
            self.stop()
            raise _WorkerDied from None
        except BaseException:
            # Also for KeyboardInterrupt: its reply would be taken for that to the next request.
            self.stop()
            raise


def _stop(process: subprocess.Popen[bytes], connection: Connection, owner: int) -> None:
    connection.close()
    if os.getpid() == owner:
        process.kill()
        process.wait()


class MathVerify(Extractor):
    r"""Extractor and equality of mathematical answers.

    Called on a text it returns the answer that Math-Verify finds (after "the final answer is", in
    ``\boxed{…}``, in mathematics or as a plain number, in about this order) as LaTeX; `equal` says
    whether two answers are the same number, set, interval, expression, equation or matrix. Works in
    any thread and from coroutines, which it blocks; one request at a time.

    Parameters
    ----------
    timeout_s
        Seconds of wall clock for one text or one comparison. Starting the worker (a few seconds,
        at the first use) is not part of it.
    float_rounding
        Decimal places to which floats are compared.
    numeric_precision
        Digits to which expressions are evaluated when they are compared.
    strict
        Whether the names of variables matter, and sets differ from tuples.
    memory_mb
        Most address space of the worker, MiB (where the system has such limits): towers of powers
        run into it before they run out of time.

    Attributes
    ----------
    n_unparsed
        Texts without an answer, those that took too long included.
    n_timeouts, n_crashes
        Requests that took too long, and in which the worker ended by itself.

    Raises
    ------
    ImportError
        If Math-Verify is not installed.
    OSError
        On systems other than POSIX.
    ValueError
        If ``timeout_s`` or ``memory_mb`` is not positive.

    Notes
    -----
    Math-Verify's equality is neither symmetric nor transitive: "x=5" equals "5" equals "y=5", and
    "50\%" equals both "50" and "0.5". `modicum.testtime.equality` asks it both ways and warns where
    votes depend on it.

    Use it as a context manager or call `close`; without either the worker ends with the program or
    with the last reference. It may be used again afterwards. A copy in another process (pickled or
    forked) has a worker of its own.

    Examples
    --------
    >>> from modicum.testtime.integrations.math_verify import MathVerify
    >>> with MathVerify() as reader:
    ...     reader(r"so we get $x = \boxed{\frac{3}{4}}$."), reader.equal(r"\frac{3}{4}", "0.75")
    ('\\frac{3}{4}', True)
    """

    word = "math"

    def __init__(
        self,
        timeout_s: float = 5.0,
        *,
        float_rounding: int = 6,
        numeric_precision: int = 15,
        strict: bool = True,
        memory_mb: int = 4096,
    ) -> None:
        if find_spec("math_verify") is None:
            raise ImportError(
                'mathematical equality needs Math-Verify: pip install "modicum-testtime[math]"'
            )
        if os.name != "posix":
            raise OSError(f"the worker of Math-Verify needs a POSIX system, not {os.name!r}")
        for name, value in (("timeout_s", timeout_s), ("memory_mb", memory_mb)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")
        self.timeout_s = timeout_s
        self.float_rounding = float_rounding
        self.numeric_precision = numeric_precision
        self.strict = strict
        self.memory_mb = memory_mb
        self._begin()

    def _begin(self) -> None:
        self.n_unparsed = self.n_timeouts = self.n_crashes = 0
        self._worker: _Worker | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def _settings(self) -> dict[str, Any]:
        names = ("timeout_s", "float_rounding", "numeric_precision", "strict", "memory_mb")
        return {name: getattr(self, name) for name in names}

    def __getstate__(self) -> dict[str, Any]:
        return self._settings()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def name(self) -> str:
        """Spelling of the reader with its settings, for log files."""
        return f"math({', '.join(f'{key}={value!r}' for key, value in self._settings().items())})"

    def __call__(self, text: str) -> str | None:
        """Return the answer in a text as LaTeX, None if there is none."""
        answer = self._ask({"ask": "read", "text": text})
        if answer is None:
            with self._lock:
                self.n_unparsed += 1
        return answer

    def read_reference(self, reference: Any) -> Any:
        """Return a reference answer as it is: `equal` reads bare answers."""
        return reference

    @property
    def own_equality(self) -> Callable[[Any, Any], bool]:
        """`equal`."""
        return self.equal

    def equal(self, a: Any, b: Any) -> bool:
        r"""Return whether two answers mean the same.

        Parameters
        ----------
        a, b
            Bare answers, ``\frac{1}{2}`` and not a sentence; what is not a string is written as
            one. Math-Verify takes the first for the reference, which matters for equations.

        Returns
        -------
        bool
            False also where the comparison fails or takes too long.
        """
        a, b = str(a).strip(), str(b).strip()
        if a == b:
            return True
        options = {
            "float_rounding": self.float_rounding,
            "numeric_precision": self.numeric_precision,
            "strict": self.strict,
            # Otherwise 1 < x < 2 equals (1, 2) in one order and not in the other.
            "allow_set_relation_comp": True,
        }
        return bool(self._ask({"ask": "equal", "a": a, "b": b, "options": options}))

    def _ask(self, request: dict[str, Any]) -> Any:
        """Return the worker's value, None if it has none."""
        if self._owner != os.getpid():
            # After a fork the worker, and perhaps a held lock, are the parent's.
            self._begin()
        with self._lock:
            try:
                return self._running().ask(request, self.timeout_s).get("value")
            except TimeoutError:
                self.n_timeouts += 1
            except _WorkerDied:
                self.n_crashes += 1
            return None

    def _running(self) -> _Worker:
        if self._worker is None or self._worker.process.poll() is not None:
            self._worker = _Worker(self.memory_mb)
            self._worker.start()
        return self._worker

    def close(self) -> None:
        """End the worker process."""
        if self._owner == os.getpid():
            with self._lock:
                worker, self._worker = self._worker, None
                if worker is not None:
                    worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
