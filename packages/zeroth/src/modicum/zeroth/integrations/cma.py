"""The methods of this package behind the interface of ``cma.CMAEvolutionStrategy``.

Code that drives pycma by ``ask``, ``tell``, ``stop`` and ``result`` keeps its loop and gets a
method for noisy functions. Does not need pycma. What is different: a run has a budget
(``maxfevals``), ``ask()`` gives the points of a whole round, and the point to use is
``result.xfavorite``; ``result.xbest`` is the luckiest of many noisy values and good for nothing but
comparison.

Legend: ``d`` dimension, ``n`` points.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from modicum.zeroth.arguments import integer, positive, start_point, suggestion, vector
from modicum.zeroth.integrations._methods import make_optimizer
from modicum.zeroth.optimizer import TOO_MANY_LOST, Optimizer

__all__ = ["Result", "ZerothES"]

_OPTIONS = frozenset(
    {"maxfevals", "maxiter", "bounds", "seed", "CMA_stds", "popsize", "verb_disp", "verbose"}
)
_SILENT = frozenset({"verb_log", "verb_filenameprefix", "verb_plot", "verb_time", "verb_append"})
_VERB_DISP = 100
_HEADER = "Iterat #Fevals   function value  +- std   radius  min&max std"
_LINES_PER_HEADER = 10
_FIRST_LINES = 3


class Result(NamedTuple):
    """What a run has found; the first eight in pycma's order.

    Parameters
    ----------
    xbest, fbest, evals_best
        Point, value and number of the smallest noisy value; not the point to use.
    evaluations
        Values that were told.
    iterations
        Calls of `ZerothES.tell`.
    xfavorite
        The point to use.
    stds
        Standard deviation of the sampling per coordinate.
    stop
        Why the run ended; empty while it goes on.
    best_feasible
        ``xbest``, ``fbest``, ``evals_best`` as a dictionary with the keys ``x``, ``f``, ``evals``.
    runs
        Always 1.
    """

    xbest: np.ndarray | None
    fbest: float
    evals_best: int
    evaluations: int
    iterations: int
    xfavorite: np.ndarray
    stds: np.ndarray
    stop: dict[str, Any]
    best_feasible: dict[str, Any]
    runs: int = 1

    @property
    def asdict(self) -> dict[str, Any]:
        """The fields by name."""
        return self._asdict()


class ZerothES:
    """A method of this package, driven as pycma is.

    Parameters
    ----------
    x0
        Start ``(d,)``.
    sigma0
        How far the best point may be from the start in each coordinate; as a length this is
        ``sigma0·√d``, the ``scale`` of this package.
    inopts
        pycma's options as far as they mean something here: ``maxfevals`` (the budget, required),
        ``bounds`` (``[lower, upper]``, each None, a number or ``d`` numbers), ``seed``,
        ``CMA_stds`` (a factor on `sigma0` per coordinate), ``popsize`` (the most points that `ask`
        gives; default: all of the round), ``maxiter`` (the most calls of `tell`), ``verb_disp``
        (lines every so many iterations), ``verbose`` (negative: no lines at all). Options of
        pycma's logger are ignored.
    method
        Name or class of the method.
    options
        What else is known: ``noise``, ``strong_convexity``, ``hessian_lipschitz``, ….

    Attributes
    ----------
    N
        Dimension.
    countiter, countevals
        Calls of `tell`, values told.
    optimizer
        The method itself.

    Raises
    ------
    ValueError
        If there is no budget, it is too small, or an option is unknown.
    """

    def __init__(
        self,
        x0: Any,
        sigma0: float,
        inopts: Mapping[str, Any] | None = None,
        *,
        method: str | type[Optimizer] = "adaptive",
        **options: Any,
    ) -> None:
        self.opts = _checked(inopts or {})
        x0 = start_point(x0)
        self.N = len(x0)
        self.sigma0 = positive("sigma0", sigma0)
        self._stds = self.sigma0 * _vector(self.opts.get("CMA_stds", 1.0), self.N, "CMA_stds")
        self.optimizer = make_optimizer(
            method,
            x0,
            integer("maxfevals", self.opts["maxfevals"]),
            scale=self._stds * math.sqrt(self.N),
            bounds=_pairs(self.opts.get("bounds"), self.N),
            rng=_seed(self.opts.get("seed")),
            **options,
        )
        self.countiter = 0
        self.countevals = 0
        self._ids: dict[bytes, list[int]] = {}
        self._best: tuple[float, np.ndarray | None, int] = (math.inf, None, 0)
        self._lines = 0

    @property
    def mean(self) -> np.ndarray:
        """The point to use, ``(d,)``."""
        return np.asarray(self.optimizer.recommendation().x)

    @property
    def sigma(self) -> float:
        """Standard deviation of the sampling, as a multiple of ``CMA_stds``."""
        return float(np.mean(self.stds / self._stds)) * self.sigma0

    @property
    def stds(self) -> np.ndarray:
        """Standard deviation of the sampling per coordinate, ``(d,)``."""
        radius = self.optimizer.recommendation().radius
        if not math.isfinite(radius):
            return self._stds.copy()
        # A direction of length one has a standard deviation of 1/√d in every coordinate.
        return self._stds * (radius / (self.optimizer.space.length))

    def ask(self, number: int | None = None) -> list[np.ndarray]:
        """Give points to evaluate.

        Parameters
        ----------
        number
            At most so many; None for ``popsize``, or all of the round.

        Returns
        -------
        list of numpy.ndarray
            If all points of the round are out, those that have no value yet, once more.

        Raises
        ------
        RuntimeError
            If the run is over.
        """
        number = self.opts.get("popsize") if number is None else number
        asked = self.optimizer.ask(number)
        if not len(asked):
            waiting = [identity for ids in self._ids.values() for identity in ids]
            asked = self.optimizer.retry(np.array(waiting[:number], dtype=np.int64))
        if not len(asked):
            raise RuntimeError(f"there is nothing to ask any more: {self.optimizer.message}")
        points = [np.array(x) for x in asked.points]
        for x, identity in zip(points, asked.ids.tolist(), strict=True):
            self._ids.setdefault(x.tobytes(), []).append(identity)
        return points

    def tell(self, solutions: Sequence[Any], function_values: Sequence[float]) -> None:
        """Take values of points that `ask` gave, in any order and number.

        Parameters
        ----------
        solutions
            Points exactly as they were given.
        function_values
            Their values; nan or None where an evaluation failed.

        Raises
        ------
        ValueError
            If there are not as many values as points, or a point was not given or has its value.
        """
        if len(solutions) != len(function_values):
            raise ValueError(
                f"{len(solutions)} points were told with {len(function_values)} values"
            )
        identities = self._identities(solutions)
        values = [math.nan if value is None else float(value) for value in function_values]
        for place, value in enumerate(values, 1):
            if value < self._best[0]:
                x = np.array(solutions[place - 1], dtype=np.float64)
                self._best = (value, x, self.countevals + place)
        self.countevals += len(values)
        self.countiter += 1
        self.optimizer.tell(np.array(identities, dtype=np.int64), values)
        if not self.optimizer.pending:
            self._ids = {}

    def stop(self, check: bool = True, ignore_list: Iterable[str] = ()) -> dict[str, Any]:
        """Say why the run is over.

        Parameters
        ----------
        check
            Taken for the sake of pycma's callers.
        ignore_list
            Names that are left out.

        Returns
        -------
        dict
            Empty while the run goes on; else ``maxfevals`` (the budget is spent), ``maxiter``, or
            ``lost`` (too many values were nan) with what they stand at.
        """
        reasons: dict[str, Any] = {}
        if self.optimizer.done:
            lost = self.optimizer.status == TOO_MANY_LOST
            reasons |= {"lost": self.optimizer.lost} if lost else {"maxfevals": self.countevals}
        if self.countiter >= self.opts.get("maxiter", math.inf):
            reasons["maxiter"] = self.opts["maxiter"]
        ignored = set(ignore_list)
        return {name: value for name, value in reasons.items() if name not in ignored}

    @property
    def result(self) -> Result:
        """What the run has found so far."""
        fbest, xbest, evals_best = self._best
        return Result(
            xbest=xbest,
            fbest=fbest,
            evals_best=evals_best,
            evaluations=self.countevals,
            iterations=self.countiter,
            xfavorite=self.mean,
            stds=self.stds,
            stop=self.stop(),
            best_feasible={"x": xbest, "f": fbest, "evals": evals_best},
        )

    def disp(self, modulo: int | None = None) -> ZerothES:
        """Print a line about the iteration if its number is a multiple of `modulo`.

        The first lines and the last are printed in any case; 0 prints none.
        """
        if self.opts.get("verbose", 0) < 0:
            return self
        modulo = int(self.opts.get("verb_disp", _VERB_DISP) if modulo is None else modulo)
        if modulo and (
            self.countiter <= _FIRST_LINES or self.countiter % modulo == 0 or self.stop()
        ):
            if self._lines % _LINES_PER_HEADER == 0:
                print(_HEADER)
            self._lines += 1
            found, stds = self.optimizer.recommendation(), self.stds
            print(
                f"{self.countiter:5d} {self.countevals:6d} {found.fun:.15e}  {found.fun_std:.1e}"
                f" {found.radius:.2e} {stds.min():.0e} {stds.max():.0e}"
            )
        return self

    def optimize(
        self,
        objective_fct: Callable[..., float],
        maxfun: int | None = None,
        iterations: int | None = None,
        min_iterations: int = 1,
        args: Sequence[Any] = (),
        verb_disp: int | None = None,
        callback: Callable[[ZerothES], Any] | Iterable[Callable[[ZerothES], Any]] | None = None,
        n_jobs: int | None = 0,
    ) -> ZerothES:
        """Spend the budget on a function.

        Parameters
        ----------
        objective_fct
            ``f(x, *args) -> float``.
        maxfun, iterations
            Leave off after so many values or iterations of this call.
        min_iterations
            Taken for the sake of pycma's callers.
        args
            Further arguments of the function.
        verb_disp
            As for `disp`.
        callback
            Called with this object after every iteration.
        n_jobs
            Processes; 0 and 1 evaluate in this one, None and -1 take all cores.

        Returns
        -------
        ZerothES
            This object.
        """
        callbacks = [callback] if callable(callback) else list(callback or ())
        processes = os.cpu_count() if n_jobs in (None, -1) else n_jobs
        pool = ProcessPoolExecutor(processes) if processes and processes > 1 else None
        first_iteration, first_evaluation = self.countiter, self.countevals
        try:
            while not self.stop():
                room = None if maxfun is None else maxfun - (self.countevals - first_evaluation)
                if room is not None and room <= 0:
                    break
                if iterations is not None and self.countiter - first_iteration >= iterations:
                    break
                points = self.ask(_smaller(room, self.opts.get("popsize")))
                columns = [[value] * len(points) for value in args]
                values = (pool.map if pool else map)(objective_fct, points, *columns)
                self.tell(points, list(values))
                self.disp(verb_disp)
                for call in callbacks:
                    call(self)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        return self

    def _identities(self, solutions: Sequence[Any]) -> list[int]:
        """Find points by their coordinates, equal ones in the order in which they were given."""
        keys = [np.asarray(x, dtype=np.float64).tobytes() for x in solutions]
        wanted = Counter(keys)
        for key, x in zip(keys, solutions, strict=True):
            if wanted[key] > len(self._ids.get(key, ())):
                raise ValueError(
                    f"the point {x!r} was not given by ask() in this round, or has its value"
                    " already"
                )
        return [self._ids[key].pop(0) for key in keys]


def _smaller(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return min(known) if known else None


def _checked(inopts: Mapping[str, Any]) -> dict[str, Any]:
    for name in inopts:
        if name not in _OPTIONS | _SILENT:
            raise ValueError(
                f"the option {name!r} has no meaning here{suggestion(name, _OPTIONS)}; there are"
                f" {', '.join(sorted(_OPTIONS))}"
            )
    if inopts.get("maxfevals") is None or inopts["maxfevals"] == math.inf:
        raise ValueError(
            "a run needs a budget: give {'maxfevals': number of evaluations} as options"
        )
    found = {name: value for name, value in inopts.items() if value is not None}
    for name in {"popsize", "maxiter"} & found.keys():
        if found[name] == math.inf:
            del found[name]
        else:
            found[name] = integer(name, found[name])
    return found


def _vector(value: Any, dimension: int, name: str) -> np.ndarray:
    array = vector(name, value)
    if array.shape not in ((), (dimension,)):
        raise ValueError(f"{name} takes a number or {dimension} of them, not {value!r}")
    return np.broadcast_to(array, (dimension,)).astype(np.float64)


def _pairs(bounds: Any, dimension: int) -> list[tuple[float, float]] | None:
    """Turn pycma's ``[lower, upper]`` into pairs per coordinate."""
    if bounds is None:
        return None
    if len(bounds) != 2:
        raise ValueError(f"bounds takes [lower, upper], not {bounds!r}")
    sides = []
    for side, open_end in zip(bounds, (-math.inf, math.inf), strict=True):
        values = [side] if side is None or np.ndim(side) == 0 else list(side)
        # As in pycma, the last of too few ends holds for the coordinates that follow.
        values = (values + [values[-1]] * dimension)[:dimension]
        sides.append([open_end if value is None else float(value) for value in values])
    return list(zip(*sides, strict=True))


def _seed(seed: Any) -> int | None:
    """Take pycma's seed, where 0, None, ``"time"`` and nan leave it to chance."""
    if seed is None or seed == "time" or seed == 0 or seed != seed:
        return None
    return integer("seed", seed)
