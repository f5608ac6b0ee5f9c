"""From points to values: the function of the user, its failures, and who evaluates it.

An `Oracle` answers what an optimiser asks: it evaluates the points in this process, in one
vectorised call, or through workers, repeats what fails, and tells the values. It knows no method;
of an optimiser it uses `ask`, `retry`, `tell` and `close`.

An evaluation fails if the function raises, or returns nan, an infinity, a complex number, or
anything else that is not one real number (vectorised: one per point). Failed evaluations are issued
again, up to `retries` times and as far as the budget goes; after that the pair is lost. Only if
every evaluation of the first round raises is the exception raised again, because then the function
is wrong and not unlucky.

Legend of the shapes: ``n`` points, ``d`` dimension.
"""

import functools
import math
import pickle
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from modicum.zeroth.arguments import integer
from modicum.zeroth.batch import Array
from modicum.zeroth.candidates import Candidates
from modicum.zeroth.executors import Workers, resolve
from modicum.zeroth.optimizer import JUDGED_UNITS, Optimizer

__all__ = ["Evaluator", "Oracle"]

RETRIES = 2

CHUNKS_PER_WORKER = 32
"""Chunks that a worker gets of one round: few enough to cost nothing, many enough that all workers
end a round at about the same time."""

SERIAL_CHUNK_S = 0.01
"""About how much work of this process is lost when it is interrupted, in seconds."""

HEARTBEAT_S = 1.0
"""Least time between two reports from inside a round, in seconds."""

_Chunk = tuple[Array, np.ndarray | None]


@dataclass
class Values:
    """What an evaluator returns for a chunk of points.

    Attributes
    ----------
    values
        Float64 ``(n,)`` in NumPy, or the tensor that a vectorised function returned, as float64.
    failed
        Why evaluations failed, by their place in the chunk.
    raised
        Places of those that raised.
    error
        The first exception.
    """

    values: Array
    failed: dict[int, str] = field(default_factory=dict)
    raised: list[int] = field(default_factory=list)
    error: Exception | None = None


class Evaluator:
    """The user's function as a function of a chunk of points and their seeds; can be pickled.

    Parameters
    ----------
    fun
        ``fun(x, *args) -> float``; vectorised ``fun(X, *args) -> (n,)`` with ``X`` of shape
        ``(n, d)``. With `paired` it also gets ``seed=``, an integer, vectorised an ``(n,)`` array.
    args
        Further arguments.
    vectorized, paired
        See `fun`.
    portable
        Whether exceptions must survive pickling.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...] = (),
        vectorized: bool = False,
        paired: bool = False,
        portable: bool = False,
    ) -> None:
        self.fun = fun
        self.args = args
        self.vectorized = vectorized
        self.paired = paired
        self.portable = portable

    def __call__(self, chunk: _Chunk) -> Values:
        """Evaluate points ``(n, d)`` with seeds ``(n,)`` or None."""
        points, seeds = chunk
        return self._at_once(points, seeds) if self.vectorized else self._each(points, seeds)

    def _each(self, points: Array, seeds: np.ndarray | None) -> Values:
        found = Values(np.full(len(points), np.nan))
        fun, args, values = self.fun, self.args, found.values
        for index, x in enumerate(points):
            try:
                extra = {} if seeds is None else {"seed": int(seeds[index])}
                value = fun(x, *args, **extra)
                values[index] = value if type(value) is float else _real(value)
            except _NotReal as wrong:
                found.failed[index] = str(wrong)
            except Exception as error:
                self._note(found, error, [index])
        _name_not_finite(found, values)
        return found

    def _at_once(self, points: Array, seeds: np.ndarray | None) -> Values:
        size = len(points)
        try:
            extra = {} if seeds is None else {"seed": seeds}
            values = _real_vector(self.fun(points, *self.args, **extra), size)
        except _NotReal as wrong:
            return Values(np.full(size, np.nan), dict.fromkeys(range(size), str(wrong)))
        except Exception as error:
            found = Values(np.full(size, np.nan))
            self._note(found, error, range(size))
            return found
        found = Values(values)
        finite = np.isfinite(values) if isinstance(values, np.ndarray) else values.isfinite()
        if not bool(finite.all()):
            _name_not_finite(found, values if isinstance(values, np.ndarray) else values.cpu())
        return found

    def _note(self, found: Values, error: Exception, places: Sequence[int]) -> None:
        found.failed.update(dict.fromkeys(places, f"raised {type(error).__name__}"))
        found.raised.extend(places)
        if found.error is None:
            found.error = _portable(error) if self.portable else error


def _name_not_finite(found: Values, values: Any) -> None:
    for index in np.flatnonzero(~np.isfinite(np.asarray(values))).tolist():
        found.failed.setdefault(index, "nan" if math.isnan(values[index]) else "infinite")


class _NotReal(Exception):
    """A value that is not one real number, or not one per point."""


def _real(value: Any) -> float:
    if isinstance(value, complex | np.complexfloating) or _is_complex(value):
        raise _NotReal("complex")
    if value is None or isinstance(value, str | bytes):
        raise _NotReal(f"a {type(value).__name__}")
    shape = getattr(value, "shape", ())
    if math.prod(shape) != 1:
        raise _NotReal(f"of shape {tuple(shape)}")
    if shape:
        value = value.reshape(())
    try:
        return float(value)
    except TypeError:
        raise _NotReal(f"a {type(value).__name__}") from None


def _real_vector(values: Any, size: int) -> Array:
    if hasattr(values, "detach"):
        values = values.detach()
    else:
        try:
            values = np.asarray(values)
        except ValueError:
            raise _NotReal("ragged") from None
        if values.dtype.kind not in "biufc":
            raise _NotReal(f"of dtype {values.dtype}")
    if _is_complex(values):
        raise _NotReal("complex")
    if tuple(values.shape) not in ((size,), (size, 1)):
        raise _NotReal(f"of shape {tuple(values.shape)} for {size} points")
    values = values.reshape(size)
    if isinstance(values, np.ndarray):
        return values.astype(np.float64, copy=False)
    return values.double()


def _is_complex(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return bool(getattr(dtype, "is_complex", False)) or getattr(dtype, "kind", "") == "c"


def _portable(error: Exception) -> Exception:
    """Give an exception that arrives in another process, with its traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"Where it was raised:\n{text}")
    return error


class _Answers:
    """What has come back of the points of one round."""

    def __init__(self, asked: Candidates, sign: float) -> None:
        size = len(asked)
        self.asked = asked
        self.sign = sign
        self.values: Array = np.full(size, np.nan)
        self.arrived = np.zeros(size, dtype=bool)
        self.good = np.zeros(size, dtype=bool)
        self.told = np.zeros(size, dtype=bool)
        self.raised = np.zeros(size, dtype=bool)
        self.lost = np.zeros(size, dtype=bool)
        self.error: Exception | None = None
        self.why: dict[int, str] = {}

    def put(self, places: np.ndarray, found: Any) -> None:
        """Take what an evaluator returned, or an exception in its place, for some points."""
        self.arrived[places] = True
        self.raised[places] = self.lost[places] = False
        if isinstance(found, Exception):
            reason = f"lost with its worker ({type(found).__name__})"
            self.why.update(dict.fromkeys(places.tolist(), reason))
            self.lost[places] = True
            self.error = self.error or found
            return
        self.raised[places[found.raised]] = True
        self.error = self.error or found.error
        self._put_values(places, self.sign * found.values)
        good = np.ones(len(places), dtype=bool)
        good[list(found.failed)] = False
        self.good[places] = good
        for place, reason in found.failed.items():
            self.why[int(places[place])] = reason

    def _put_values(self, places: np.ndarray, values: Array) -> None:
        if len(places) == len(self.values):
            self.values = values
            return
        if not isinstance(values, np.ndarray) and isinstance(self.values, np.ndarray):
            self.values = values.new_tensor(self.values)
        if isinstance(values, np.ndarray) and not isinstance(self.values, np.ndarray):
            values = self.values.new_tensor(values)
        self.values[places] = values

    @property
    def failed(self) -> np.ndarray:
        """Places of the points that came back without a value."""
        return np.flatnonzero(self.arrived & ~self.good)

    def enough(self, fraction: float) -> bool:
        """Tell whether a share of the units has come back whole, with values or without."""
        unit = self._unit
        whole = np.ones(int(unit.max()) + 1, dtype=bool)
        whole[unit[~self.arrived]] = False
        return int(np.count_nonzero(whole)) >= math.ceil(fraction * len(whole))

    @functools.cached_property
    def _unit(self) -> np.ndarray:
        return np.unique(self.asked.units, return_inverse=True)[1]

    def tell_good(self, optimizer: Optimizer) -> None:
        """Tell the values that are there and not told."""
        places = np.flatnonzero(self.good & ~self.told)
        if len(places):
            self.told[places] = True
            optimizer.tell(self.asked.ids[places], self.values[places])

    def tell_all(self, optimizer: Optimizer) -> None:
        """Tell everything that came back, failures as nan; what did not is lost."""
        if not self.told.any() and self.arrived.all():
            optimizer.tell(self.asked, self.values)
            return
        places = np.flatnonzero(self.arrived & ~self.told)
        optimizer.tell(self.asked.ids[places], self.values[places])
        if optimizer.pending:
            optimizer.close()


class Oracle:
    """The function of the user, ready to answer an optimiser.

    Parameters
    ----------
    fun
        ``fun(x, *args) -> float``. With `vectorized`, ``fun(X, *args) -> (n,)`` of points
        ``(n, d)``; with `paired` it also gets ``seed=``, the same for both sides of a pair.
        It may change the array it gets.
    args
        Further arguments of `fun`; what is not a tuple counts as one argument.
    vectorized
        Whether `fun` takes all points at once.
    workers
        As for `modicum.zeroth.executors.resolve`.
    paired
        Whether `fun` takes seeds.
    maximize
        Whether values are told with the opposite sign.
    retries
        How often an evaluation that failed is issued again.
    chunk_size
        Points that a vectorised function or a worker gets at once; None to choose. Does not change
        any result.
    dtype
        Torch dtype in which tensors are given to `fun`; None for float64.

    Attributes
    ----------
    failures
        How many evaluations failed, by reason.
    last_error
        The first exception of the last round that had one.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Any = (),
        *,
        vectorized: bool = False,
        workers: Any = 1,
        paired: bool = False,
        maximize: bool = False,
        retries: int = RETRIES,
        chunk_size: int | None = None,
        dtype: Any = None,
    ) -> None:
        if not callable(fun):
            raise TypeError(f"fun must be a function, not {fun!r}")
        self.retries = integer("retries", retries, least=0)
        self.chunk_size = None if chunk_size is None else integer("chunk_size", chunk_size)
        self.paired = paired
        self.maximize = maximize
        self.dtype = dtype
        arguments = args if isinstance(args, tuple) else (args,)
        self._evaluator = Evaluator(fun, arguments, vectorized, paired)
        self._workers = resolve(workers, self._evaluator)
        self._owns_workers = self._workers is not workers
        self._evaluator.portable = self._workers is not None and self._workers.remote
        self.failures: Counter[str] = Counter()
        self.last_error: Exception | None = None

    def answer(self, optimizer: Optimizer, heartbeat: Callable[[], None] | None = None) -> None:
        """Evaluate what an optimiser asks and tell it; afterwards a round is closed.

        Parameters
        ----------
        optimizer
            Who asks.
        heartbeat
            Called from inside a long round about once a second, after the values that are
            there were told.

        Raises
        ------
        ExecutorGone
            If the workers take no more work. As with every exception, also `KeyboardInterrupt`,
            the values that are there have been told before.
        Exception
            Whatever `fun` raised, if it did so in every evaluation of the first round.
        """
        first_round = optimizer.nit == 0 and not optimizer.pending
        asked = optimizer.ask()
        if not len(asked):
            return
        answers = _Answers(asked, -1.0 if self.maximize else 1.0)
        try:
            self._evaluate(optimizer, answers, np.arange(len(asked)), heartbeat)
            if first_round and len(asked) >= JUDGED_UNITS:
                _raise_if_all(answers, answers.raised)
            for _ in range(self.retries):
                if not self._again(optimizer, answers, heartbeat):
                    break
            if first_round:
                _raise_if_all(answers, answers.raised | answers.lost)
        except BaseException:
            answers.tell_good(optimizer)
            raise
        self._count(answers, answers.failed)
        answers.tell_all(optimizer)

    def _again(
        self,
        optimizer: Optimizer,
        answers: _Answers,
        heartbeat: Callable[[], None] | None,
    ) -> bool:
        """Repeat what failed as far as the budget goes; tell whether anything was repeated."""
        failed = answers.failed
        if not len(failed):
            return False
        again = optimizer.retry(answers.asked.ids[failed])
        places = failed[np.isin(answers.asked.ids[failed], again.ids)]
        if not len(places):
            return False
        self._count(answers, places)
        answers.arrived[places] = False
        self._evaluate(optimizer, answers, places, heartbeat, wait_for_all=True)
        return True

    def _count(self, answers: _Answers, places: np.ndarray) -> None:
        self.failures.update(answers.why[place] for place in places.tolist())
        self.last_error = answers.error or self.last_error

    def _evaluate(
        self,
        optimizer: Optimizer,
        answers: _Answers,
        places: np.ndarray,
        heartbeat: Callable[[], None] | None,
        wait_for_all: bool = False,
    ) -> None:
        alone = wait_for_all or self._workers is None
        fraction = 1.0 if alone else optimizer.close_fraction
        last = time.monotonic()
        with closing(self._results(answers.asked, places)) as results:
            for part, found in results:
                answers.put(places[part], found)
                if heartbeat is not None and time.monotonic() - last >= HEARTBEAT_S:
                    answers.tell_good(optimizer)
                    heartbeat()
                    last = time.monotonic()
                if fraction < 1 and answers.enough(fraction):
                    break

    def _results(
        self, asked: Candidates, places: np.ndarray
    ) -> Generator[tuple[slice, Any], None, None]:
        """Yield values, or an exception, for parts of the points at `places`."""
        whole = len(places) == len(asked)
        points = self._own_copy(asked.points if whole else asked.points[places])
        seeds = asked.seeds[places] if self.paired else None

        def chunk(part: slice) -> _Chunk:
            return points[part], None if seeds is None else seeds[part]

        if self._workers is None:
            for part in self._serial_parts(len(places)):
                yield part, self._evaluator(chunk(part))
            return
        size = self._chunk_of_workers(len(places), self._workers)
        parts = [slice(start, start + size) for start in range(0, len(places), size)]
        found = self._workers.map_unordered(self._evaluator, [chunk(part) for part in parts])
        with closing(found):
            for index, values in found:
                yield parts[index], values

    def _own_copy(self, points: Array) -> Array:
        """Copy points, so that the user's function may do with them what it likes."""
        if isinstance(points, np.ndarray):
            return points.copy()
        if self.dtype is None or self.dtype == points.dtype:
            return points.clone()
        return points.to(self.dtype)

    def _serial_parts(self, count: int) -> Iterator[slice]:
        """Cut points into parts that are evaluated in this process one after another."""
        if self._evaluator.vectorized or self.chunk_size is not None:
            size = self.chunk_size or count
            yield from (slice(start, start + size) for start in range(0, count, size))
            return
        start, size = 0, 1
        while start < count:
            began = time.perf_counter()
            yield slice(start, min(start + size, count))
            start += size
            took = time.perf_counter() - began
            size = 2 * size if took < SERIAL_CHUNK_S / 2 else max(1, size // 2)

    def _chunk_of_workers(self, count: int, workers: Workers) -> int:
        if self.chunk_size is not None:
            return self.chunk_size
        if workers.parallel is None and not self._evaluator.vectorized:
            return 1
        parallel = workers.parallel or _DEFAULT_PARALLEL
        chunks = parallel if self._evaluator.vectorized else parallel * CHUNKS_PER_WORKER
        return math.ceil(count / chunks)

    def describe_failures(self) -> str:
        """Say how many evaluations failed and why; empty if none did."""
        if not self.failures:
            return ""
        reasons = ", ".join(f"{count} {why}" for why, count in self.failures.most_common())
        last = f"; last exception: {self.last_error!r:.200}" if self.last_error else ""
        return f"{self.failures.total()} evaluations failed ({reasons}){last}"

    def close(self) -> None:
        """Give back the workers that were started here."""
        if self._workers is not None and self._owns_workers:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_DEFAULT_PARALLEL = 8
"""Parts of a vectorised round for a map-like callable that does not say how wide it is."""


def _raise_if_all(answers: _Answers, raised: np.ndarray) -> None:
    """Raise the first exception again if there was one in every evaluation."""
    if answers.error is not None and raised.all():
        raise answers.error
