"""Who evaluates: this process, a pool, a cluster.

`resolve` takes what SciPy's ``workers`` takes (an integer, a map-like callable), an executor of
`concurrent.futures`, or what `Joblib`, `Ray` and `Dask` return, and gives an object with one method
that maps a function over items in any order. The doors load their library when they are called.
Knows nothing of points and values.
"""

import multiprocessing
import os
import pickle
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from itertools import islice
from typing import Any

from modicum.zeroth.arguments import integer

__all__ = ["Dask", "ExecutorGone", "Joblib", "MapLike", "Ray", "Workers", "resolve"]

_AHEAD = 4
"""Items that are submitted for each worker: enough that none is idle, and few are lost at once."""

Function = Callable[[Any], Any]
Results = Generator[tuple[int, Any], None, None]


class ExecutorGone(RuntimeError):
    """The executor takes no more work; its own error is the cause."""


class Workers(ABC):
    """Evaluates items somewhere, in any order.

    Attributes
    ----------
    parallel
        How many items it works on at once; None if that is not known.
    remote
        Whether functions and results are pickled on the way.
    """

    parallel: int | None = None
    remote: bool = True

    @abstractmethod
    def map_unordered(self, function: Function, items: Sequence[Any]) -> Results:
        """Apply a function to all items.

        Parameters
        ----------
        function
            Takes one item and raises no `Exception`.
        items
            What to work on.

        Yields
        ------
        index, result
            As soon as it is there; the result is an `Exception` where the work was lost, for
            instance because a worker died.

        Raises
        ------
        ExecutorGone
            If no more work can be given out.
        """

    def close(self) -> None:  # noqa: B027
        """Give back what was started here; what the user has started stays."""


class MapLike(Workers):
    """A callable that is used like the built-in `map`, such as ``multiprocessing.Pool.map``."""

    def __init__(self, map_like: Callable[[Function, Iterable[Any]], Iterable[Any]]) -> None:
        self._map = map_like
        self.remote = map_like is not map

    def map_unordered(self, function: Function, items: Sequence[Any]) -> Results:
        """Yield the results in the order in which the callable gives them."""
        yield from enumerate(self._map(function, items))


class Futures(Workers):
    """An executor of `concurrent.futures` that the user has made."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.parallel = getattr(executor, "_max_workers", None)
        self.remote = not isinstance(executor, ThreadPoolExecutor)

    def map_unordered(self, function: Function, items: Sequence[Any]) -> Results:
        """Keep some work ahead of the workers and yield what is done."""
        upcoming = enumerate(items)
        ahead = len(items) if self.parallel is None else _AHEAD * self.parallel
        places: dict[Future[Any], int] = {}
        try:
            while True:
                for index, item in islice(upcoming, ahead - len(places)):
                    places[self._submit(function, item)] = index
                if not places:
                    return
                done = wait(places, return_when=FIRST_COMPLETED).done
                lost = next((error for error in map(_error, done) if _is_loss(error)), None)
                if lost is not None:
                    # Whatever has been submitted is lost, or will be done soon.
                    done = wait(places).done
                for future in sorted(done, key=lambda item: _is_loss(_error(item))):
                    if _is_loss(_error(future)) and lost is not None:
                        self._lost(lost)
                    yield places.pop(future), _outcome(future)
        finally:
            for future in places:
                future.cancel()

    def _submit(self, function: Function, item: Any) -> "Future[Any]":
        try:
            return self._executor.submit(function, item)
        except RuntimeError as error:  # shut down, or broken
            raise ExecutorGone(f"the executor takes no more work: {error}") from error

    def _lost(self, error: BaseException) -> None:
        """Do what must be done when an executor has lost its work."""
        raise ExecutorGone(f"the executor is broken: {error!r}") from error


def _error(future: "Future[Any]") -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


def _is_loss(error: BaseException | None) -> bool:
    return isinstance(error, BrokenExecutor | CancelledError)


def _outcome(future: "Future[Any]") -> Any:
    error = _error(future)
    if error is None:
        return future.result()
    if not isinstance(error, Exception):
        raise error  # somebody has interrupted the program
    return error


class ProcessPool(Futures):
    """Processes of our own, started at the first use and again if one of them dies."""

    remote = True

    def __init__(self, processes: int) -> None:
        self.parallel = processes
        self._pool: ProcessPoolExecutor | None = None
        self._abandoned = False

    def map_unordered(self, function: Function, items: Sequence[Any]) -> Results:
        """Keep some work ahead of the processes; lost work comes back as its error."""
        finished = 0
        try:
            for found in super().map_unordered(function, items):
                finished += 1
                yield found
        finally:
            self._abandoned = self._abandoned or finished < len(items)

    def _submit(self, function: Function, item: Any) -> "Future[Any]":
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.parallel, mp_context=_context())
        try:
            return self._pool.submit(function, item)
        except BrokenExecutor as error:
            # A process died while work was still being given out; the rest is lost likewise.
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _lost(self, error: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, also those that are still at work on what nobody waits for."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        processes = list((getattr(pool, "_processes", None) or {}).values())
        manager = getattr(pool, "_executor_manager_thread", None)
        pool.shutdown(wait=False, cancel_futures=True)
        if self._abandoned:
            for process in processes:
                process.terminate()
        self._abandoned = False
        for process in processes:
            process.join()
        # The pool's own thread waits for the processes too. Whichever of the two comes second
        # learns nothing of how a process ended: that is only settled when both have finished.
        if manager is not None:
            manager.join()


def _context() -> Any:
    """Give the start method of processes as SciPy does: the user's, but not a silent fork."""
    method = multiprocessing.get_start_method(allow_none=True)
    if method is None and os.name == "posix" and sys.version_info < (3, 14):
        method = "forkserver"
    return multiprocessing.get_context(method)


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve(workers: Any, function: Function) -> Workers | None:
    """Find who evaluates.

    Parameters
    ----------
    workers
        1: this process. Another positive integer: so many processes; -1: one per CPU. A map-like
        callable, used as ``workers(function, items)``. A `concurrent.futures.Executor`. Or what
        `Joblib`, `Ray` or `Dask` return.
    function
        What will be mapped; processes need it to be picklable.

    Returns
    -------
    Workers or None
        None for this process.

    Raises
    ------
    TypeError
        If `workers` is none of these.
    ValueError
        If the integer is 0 or below -1, or the function cannot be sent to processes.
    """
    if isinstance(workers, Workers):
        return workers
    if isinstance(workers, Executor):
        return Futures(workers)
    if callable(workers):
        return MapLike(workers)
    try:
        count = integer("workers", workers, least=-1)
    except TypeError:
        raise TypeError(
            "workers must be an integer, a map-like callable such as pool.map, a"
            " concurrent.futures.Executor, or Joblib(), Ray() or Dask() of"
            f" modicum.zeroth.executors, not {workers!r}"
        ) from None
    if count == 0:
        raise ValueError("workers must be a positive integer or -1, not 0")
    count = _cpus() if count == -1 else count
    if count == 1:
        return None
    try:
        pickle.dumps(function)
    except Exception as error:
        raise ValueError(
            f"workers={workers} needs a function that can be pickled, defined at the top of a"
            f" module ({error}); a ThreadPoolExecutor, Joblib() or Ray() takes any"
        ) from error
    return ProcessPool(count)


# Doors -------------------------------------------------------------------------------------------


def Joblib(n_jobs: int = -1, **options: Any) -> Workers:
    """Evaluate with joblib, on its processes, its threads or any backend registered with it.

    Parameters
    ----------
    n_jobs, options
        As for `joblib.Parallel`; without a ``backend`` that of ``joblib.parallel_config`` counts.

    Raises
    ------
    ImportError
        If joblib is not installed.
    """
    from modicum.zeroth.integrations.joblib import JoblibWorkers

    return JoblibWorkers(n_jobs, **options)


def Ray(**options: Any) -> Workers:
    """Evaluate on Ray: the cluster this program is connected to, or else a local one.

    Parameters
    ----------
    options
        As for ``ray.remote``: ``num_cpus=2``, ``num_gpus=0.5``, ``resources={…}`` …

    Raises
    ------
    ImportError
        If Ray is not installed.
    """
    from modicum.zeroth.integrations.ray import RayWorkers

    return RayWorkers(**options)


def Dask(client: Any = None, **options: Any) -> Workers:
    """Evaluate on Dask.

    Parameters
    ----------
    client
        A ``distributed.Client``; None for the current one.
    options
        As for ``Client.submit``: ``workers=…``, ``resources={…}``, ``priority=…``

    Raises
    ------
    ImportError
        If distributed is not installed.
    ValueError
        If there is no current client.
    """
    from modicum.zeroth.integrations.dask import DaskWorkers

    return DaskWorkers(client, **options)
