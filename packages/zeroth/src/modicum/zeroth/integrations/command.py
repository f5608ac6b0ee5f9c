"""Any program as the objective: `run_spec` spends a budget on a command and keeps a resumable log.

Takes a spec file (`load_spec`), starts the command once per evaluation, several at a time, reads
the number it prints, and writes every evaluation to a JSONL log as it finishes (`read_log`) and the
result to a JSON file when the budget is spent. A run that was cut off anywhere goes on from its log
and ends at the same point, bit for bit, since what a method asks for depends on its seed and the
values alone. Draws nothing itself and prints nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.experiment import write_atomic
from modicum.zeroth.integrations._methods import make_optimizer
from modicum.zeroth.integrations._processes import Processes
from modicum.zeroth.integrations._run_log import (
    Evaluation,
    LoggedRun,
    RunLog,
    digest,
    read_log,
    strict,
)
from modicum.zeroth.integrations._spec import Spec, load_spec
from modicum.zeroth.optimizer import BUDGET_SPENT, Optimizer, Round
from modicum.zeroth.result import optimize_result

__all__ = ["Evaluation", "LoggedRun", "Progress", "Spec", "load_spec", "read_log", "run_spec"]

LOG_SUFFIX = ".jsonl"
RESULT_SUFFIX = ".result.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands; handed to `progress` after every evaluation.

    Parameters
    ----------
    evaluations
        Values that are in, those of earlier runs included.
    budget
        How many there will be at most.
    reused
        Those of them that came from the log.
    lost
        Those of them that failed for good.
    value
        The newest value; nan if it failed.
    round
        The last round that the method closed, or None.
    """

    evaluations: int
    budget: int
    reused: int
    lost: int
    value: float
    round: Round | None


def run_spec(
    path: str | os.PathLike[str],
    *,
    log: str | os.PathLike[str] | None = None,
    result: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Any:
    """Minimise (or maximise) what a command prints.

    Parameters
    ----------
    path
        The spec, see `load_spec`.
    log
        The log, gone on with if it exists; None is the spec's path with the ending ``.jsonl``.
    result
        Where the result goes; None is the log's path with the ending ``.result.json``.
    progress
        Called from the calling thread after every evaluation.

    Returns
    -------
    scipy.optimize.OptimizeResult
        As `modicum.zeroth.minimize` returns it, in the command's sign.

    Raises
    ------
    ValueError
        If the spec cannot be meant or the log belongs to another run.
    BlockingIOError
        If another run has the log open.
    FileNotFoundError, PermissionError
        If the spec or the program cannot be read or started.
    KeyboardInterrupt
        On Ctrl-C and on SIGTERM, when all processes are ended; the log can be gone on with.
    """
    spec = load_spec(path)
    log = spec.path.with_suffix(LOG_SUFFIX) if log is None else Path(log)
    result = log.with_suffix(RESULT_SUFFIX) if result is None else Path(result)
    optimizer = make_optimizer(
        spec.method,
        np.array(spec.start),
        spec.budget,
        scale=spec.scale if isinstance(spec.scale, float) else np.array(spec.scale),
        bounds=None if spec.bounds is None else list(spec.bounds),
        noise=spec.noise,
        strong_convexity=spec.strong_convexity,
        hessian_lipschitz=spec.hessian_lipschitz,
        paired=spec.paired,
        rng=spec.seed,
        **spec.options,
    )
    with RunLog(log, spec.settings()) as lines, _terminable():
        found = _Run(spec, optimizer, lines, progress).finish()
    summary = json.dumps(strict(_summary(spec, found, log)), indent=1, allow_nan=False)
    write_atomic(result, summary + "\n")
    return found


class _Run:
    """One run: what it has and how far it is."""

    def __init__(
        self,
        spec: Spec,
        optimizer: Optimizer,
        lines: RunLog,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.spec = spec
        self.optimizer = optimizer
        self.lines = lines
        self.progress = progress
        self.evaluations = self.reused = self.lost = 0
        self.error = ""  # of the last evaluation that failed for good

    def finish(self) -> Any:
        sign = -1.0 if self.spec.maximize else 1.0
        with Processes(self.spec) as processes:
            while not self.optimizer.done:
                asked = self.optimizer.ask()
                closed, shown = self.optimizer.nit, len(self.optimizer.trace)
                self.optimizer.tell(asked, sign * self._values(asked, processes))
                fresh = [self._shown(item) for item in self.optimizer.trace[shown:]]
                if self.optimizer.nit > closed:  # not if too much was lost
                    done = self.optimizer.done and self.optimizer.status == BUDGET_SPENT
                    self.lines.close_batch(self.optimizer.nit, fresh, done)
        found = optimize_result(self.optimizer, maximize=self.spec.maximize)
        if self.error:
            found.message += f"; the last failure: {self.error}"
        return found

    def _shown(self, closed: Round) -> Round:
        """Give a round in the command's sign."""
        return dataclasses.replace(closed, fun=-closed.fun) if self.spec.maximize else closed

    def _values(self, asked: Any, processes: Processes) -> np.ndarray:
        """Take the values of a round's points ``(n,)`` from the log or from the command."""
        values, end = np.full(len(asked), np.nan), int(asked.ids[-1])
        missing: list[tuple[int, int, list[float], int]] = []
        for place, candidate in enumerate(asked):
            x = candidate.x.tolist()
            found = self.lines.get(candidate.id, x, end)
            if found is None:
                missing.append((place, candidate.id, x, candidate.seed))
            else:
                values[place] = found.value
                self._count(found, reused=True)
        for place, evaluation in self._evaluate(missing, processes):
            values[place] = evaluation.value
            self._count(evaluation)
        return values

    def _evaluate(
        self, missing: Sequence[tuple[int, int, list[float], int]], processes: Processes
    ) -> Iterator[tuple[int, Evaluation]]:
        """Run the command for every missing value and yield its place with what came out."""
        if not missing:
            return

        def job(number: int, x: list[float], seed: int) -> Evaluation:
            evaluation = processes.evaluate(number, x, seed)
            self.lines.append(evaluation)
            return evaluation

        todo = iter(missing)
        places: dict[Future[Evaluation], int] = {}
        with ThreadPoolExecutor(self.spec.workers) as threads:
            try:
                while True:
                    while len(places) < self.spec.workers and (entry := next(todo, None)):
                        place, number, x, seed = entry
                        places[threads.submit(job, number, x, seed)] = place
                    if not places:
                        return
                    for future in wait(places, return_when=FIRST_COMPLETED).done:
                        yield places.pop(future), future.result()
            except BaseException:
                # Leaving the block waits for the threads, and those for their processes.
                processes.stop()
                raise

    def _count(self, evaluation: Evaluation, *, reused: bool = False) -> None:
        self.evaluations += 1
        self.reused += reused
        self.lost += math.isnan(evaluation.value)
        self.error = evaluation.error or self.error
        if self.progress is not None:
            trace = self.optimizer.trace
            self.progress(
                Progress(
                    self.evaluations,
                    self.spec.budget,
                    self.reused,
                    self.lost,
                    evaluation.value,
                    self._shown(trace[-1]) if trace else None,
                )
            )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end the run as Ctrl-C does; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _summary(spec: Spec, found: Any, log: Path) -> dict[str, Any]:
    """Return what goes into the file of the result."""
    names = (
        "fun",
        "fun_std",
        "nfev",
        "nit",
        "success",
        "status",
        "message",
        "jac",
        "hess",
        "noise_std",
        "radius",
        "predicted_regret",
        "lost",
    )
    settings = spec.settings()
    return {
        "x": spec.point(found.x),
        **{name: found[name] for name in names},
        "log": log.name,
        "settings": settings,
        "digest": digest(settings),
    }
