"""The base of every method: ask for points, tell their values, stop, resume.

A method is a subclass with a few small hooks (`Optimizer._initial_state`, `_propose`, `_update`,
`_recommend`, `minimum_budget`); everything else, from partial answers to resume, stands here once.
The state of a method is a dataclass of arrays and plain values, and what it proposes is a function
of that state alone, so a run that was saved goes on bit for bit.

What a user may rely on, whatever the method:

* The same seed gives the same points, however they are evaluated: at once, one by one, in any
  order, in several processes, with answers that come twice.
* The budget is a hard limit on the evaluations that are issued, those that are repeated after a
  failure included: the last round does without as many pairs as the repetitions have cost.
* A point whose value is lost takes its pair with it; a round that loses more than a fifth of its
  pairs ends the run with the state before it.

Legend of the shapes: ``b`` points of the open batch, ``n`` points told or asked at a time, ``d``
dimension, ``u`` units (pairs and single points) of a batch.
"""

import dataclasses
import functools
import inspect
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from modicum.zeroth import checkpoint
from modicum.zeroth.arguments import integer, one_of, positive, start_point, vector
from modicum.zeroth.batch import Array, Batch
from modicum.zeroth.candidates import Candidate, Candidates
from modicum.zeroth.directions import KINDS, draw_directions
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.open_round import OpenRound
from modicum.zeroth.space import Space
from modicum.zeroth.values import beside, float64, is_finite, to_device, to_host, with_nan

__all__ = [
    "BUDGET_SPENT",
    "INTERRUPTED",
    "STOPPED",
    "TOO_MANY_LOST",
    "Optimizer",
    "Recommendation",
    "Round",
    "constructor_options",
]

BUDGET_SPENT, STOPPED, INTERRUPTED, TOO_MANY_LOST = range(4)
"""Why a run ended: the numbers are the ``status`` of its result."""

MOST_LOST = 0.2
"""A run stops when more than this share of a round's units is lost."""

JUDGED_UNITS = 20
"""Rounds with fewer units are judged together, so that one lost pair of a single-pair method is not
a lost round."""

_SCHEMA = 1
# Modules that stand between a warning and the code of the user.
_INSIDE = ("modicum.zeroth", "scipy.optimize")
_SEED_LIMIT = 2**63


@dataclass(frozen=True)
class Round:
    """What one round of a method did; fields that a method does not have are nan.

    Attributes
    ----------
    nfev
        Evaluations issued up to the end of the round.
    x
        Point after the round, user's coordinates ``(d,)``.
    fun
        Model value at the centre of the round.
    radius
        Sampling radius, internal coordinates.
    step_norm, trust
        Length of the step and its cap, internal coordinates.
    snr
        Norm of the gradient estimate over the root of its noise trace.
    lambda_min, lambda_max
        Extreme eigenvalues of the Hessian estimate.
    noise_band
        Spectral size of the Hessian's noise.
    predicted_decrease, predicted_decrease_std
        What the model promises of the step, and its standard deviation.
    dropped
        Units that were lost.
    nonconvex
        Whether the Hessian has an eigenvalue significantly below zero.
    """

    nfev: int
    x: np.ndarray
    fun: float = np.nan
    radius: float = np.nan
    step_norm: float = np.nan
    trust: float = np.nan
    snr: float = np.nan
    lambda_min: float = np.nan
    lambda_max: float = np.nan
    noise_band: float = np.nan
    predicted_decrease: float = np.nan
    predicted_decrease_std: float = np.nan
    dropped: int = 0
    nonconvex: bool = False


@dataclass(frozen=True)
class Recommendation:
    """The point to use and what is known about it; unknown values are nan or None.

    Unpacks as ``x, info``, where `info` is the recommendation itself.

    Attributes
    ----------
    x
        The point ``(d,)``.
    fun, fun_std
        Model estimate of the function there, and its standard deviation.
    jac, jac_cov_trace
        Gradient estimate ``(d,)`` and the trace of its covariance.
    hess
        Hessian estimate ``(d, d)``.
    noise_std
        Standard deviation of one evaluation.
    hessian_lipschitz, strong_convexity
        The constants, known or estimated, in internal coordinates.
    predicted_regret, predicted_regret_terms
        Expected regret of `x`, and its parts by name.
    radius
        Sampling radius of the last round, internal coordinates.
    """

    x: np.ndarray
    fun: float = np.nan
    fun_std: float = np.nan
    jac: np.ndarray | None = None
    jac_cov_trace: float = np.nan
    hess: np.ndarray | None = None
    noise_std: float = np.nan
    hessian_lipschitz: float = np.nan
    strong_convexity: float = np.nan
    predicted_regret: float = np.nan
    predicted_regret_terms: dict[str, float] = field(default_factory=dict)
    radius: float = np.nan

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self))


class Optimizer(ABC):
    """A method that asks for points and is told noisy values.

    Parameters
    ----------
    x0
        Start ``(d,)``; a torch tensor also says on which device the points are made.
    budget
        Evaluations that may be issued, at least `minimum_budget`.
    scale
        Length over which the user expects to move; a vector ``(d,)`` gives one per coordinate.
    noise
        Standard deviation of one evaluation, None if unknown. With `paired`, the standard deviation
        of a pair's difference divided by √2.
    strong_convexity, hessian_lipschitz
        Constants of the function in internal coordinates (the user's, when `scale` is a number),
        None if unknown.
    bounds
        As for `modicum.zeroth.space.Space`.
    paired
        Whether both sides of a pair are evaluated with the same random numbers.
    directions
        ``"sphere"``, ``"orthogonal"``, ``"gaussian"``, ``"rademacher"`` or ``"coordinate"``.
    rng
        None for a fresh seed, an integer seed in ``[0, 2**63)``, or a NumPy generator, of which one
        integer is drawn.
    device
        Torch device on which to make points and directions; None for NumPy.
    close_fraction
        A round whose points are all out closes once this share of its pairs is answered, without
        waiting for the stragglers. Below 1 the result depends on which answers are slow.

    Attributes
    ----------
    nfev
        Evaluations issued.
    nit
        Batches of points that were answered; some of them may leave no record in `trace`.
    lost, retried, repeated, duplicates, late
        Units lost; evaluations issued again after a failure; further measurements of a point that
        was told already; values told twice, and values told after their round, which change
        nothing.
    trace
        One `Round` per round.
    warnings
        What the user was warned of.
    """

    name: ClassVar[str]

    def __init__(
        self,
        x0: Any,
        budget: int,
        *,
        scale: Any = 1.0,
        noise: float | None = None,
        strong_convexity: float | None = None,
        hessian_lipschitz: float | None = None,
        bounds: Any = None,
        paired: bool = False,
        directions: str = "sphere",
        rng: Any = None,
        device: Any = None,
        close_fraction: float = 1.0,
    ) -> None:
        self.x0 = start_point(x0)
        self.scale = scale
        self.bounds = bounds
        self.space = Space(self.x0, vector("scale", scale), bounds)
        self.dimension = self.space.dimension
        self.noise = _positive_or_none("noise", noise)
        self.strong_convexity = _positive_or_none("strong_convexity", strong_convexity)
        self.hessian_lipschitz = _positive_or_none("hessian_lipschitz", hessian_lipschitz)
        self.paired = bool(paired)
        self.directions = one_of("directions", directions, KINDS)
        self.seed, self._seed_is_free = _seed_of(rng)
        self.device = _device_of(x0, device)
        self.close_fraction = close_fraction
        self.trace: list[Round] = []
        self.warnings: list[str] = []
        self.nfev = 0
        self.nit = 0
        self.lost = self.retried = self.repeated = self.duplicates = self.late = 0
        self.budget = integer("budget", budget)
        least = self.minimum_budget()
        if self.budget < least:
            raise ValueError(
                f"budget must be at least {least} for method {self.name!r} in {self.dimension}"
                f" dimension{'s' if self.dimension > 1 else ''}, not {self.budget}"
            )
        self._first_id = 0
        self._judged = [0, 0]  # units and lost units of rounds that are judged together
        self._ended: tuple[int, str] | None = None
        self._open: OpenRound | None = None
        self.state = self._initial_state()

    # What a method is ---------------------------------------------------------------------------

    def minimum_budget(self) -> int:
        """Give the smallest usable budget; everything but `budget` and the state is set."""
        return 1

    @abstractmethod
    def _initial_state(self) -> Any:
        """Give the state before the first evaluation: a dataclass of arrays and plain values."""

    @abstractmethod
    def _propose(self) -> Batch | None:
        """Give the next points, a pure function of the state; None when the budget is spent."""

    @abstractmethod
    def _update(self, batch: Batch, y: Array, sigma: np.ndarray | None) -> None:
        """Take the values of a batch into the state.

        Parameters
        ----------
        batch
            What `_propose` gave.
        y
            Values ``(b,)`` in the array library of the points, float64; nan for all points of a
            unit that was lost or did not fit into the budget any more. Only a batch of fewer than
            `JUDGED_UNITS` units can be nan throughout.
        sigma
            Standard deviations ``(b,)`` that the user told (inf where the value is nan), or None.
        """

    @abstractmethod
    def _recommend(self) -> Recommendation:
        """Give the point to use, in internal coordinates."""

    # What a method uses --------------------------------------------------------------------------

    def _directions(self, count: int, *stream: int) -> Array:
        """Draw ``(count, d)`` directions that depend on the seed and `stream` only."""
        return draw_directions(
            self.directions, count, self.dimension, self.seed, *stream, device=self.device
        )

    def _warn(self, message: str) -> None:
        """Say something the user must know, once per run."""
        if message not in self.warnings:
            self.warnings.append(message)
            warnings.warn(message, ZerothWarning, stacklevel=_outside())

    # Points out, values in -----------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the run has ended; nothing is asked any more."""
        return self._round() is None

    @property
    def close_fraction(self) -> float:
        """Share of a round's pairs after which it closes once all its points are out."""
        return self._close_fraction

    @close_fraction.setter
    def close_fraction(self, value: float) -> None:
        self._close_fraction = positive("close_fraction", value)
        if self._close_fraction > 1:
            raise ValueError(f"close_fraction must be at most 1, not {value!r}")

    @property
    def pending(self) -> int:
        """Number of points that are out and not answered."""
        return 0 if self._open is None else self._open.pending

    def ask(self, n: int | None = None) -> Candidates:
        """Give the next points to evaluate.

        Parameters
        ----------
        n
            At most so many; None for all that can be evaluated now.

        Returns
        -------
        Candidates
            Empty when the run is over, or when all points of the round are out and have to be
            answered before the next round is known.
        """
        if n is not None:
            n = integer("n", n)
        now = self._round()
        if now is None:
            return self._nothing()
        unissued = now.unissued
        places = now.hand_out(n)
        # Points that are handed out again after a resume were counted before it.
        self.nfev += unissued - now.unissued
        return self._candidates(now, places)

    def retry(self, ids: Any) -> Candidates:
        """Issue points again, because their evaluation failed.

        Parameters
        ----------
        ids
            Identities of points that are out and not answered; or `Candidates`.

        Returns
        -------
        Candidates
            Those, or the first so many that the budget still has room for. Each counts as an
            evaluation.
        """
        now = self._round()
        numbers = self._ids(ids)
        index = numbers[numbers >= self._first_id] - self._first_id
        if now is None or not len(index):
            return self._nothing()
        self._check_issued(now, index)
        index = index[~now.settled[index]]
        index = index[: max(0, self.budget - self.nfev - now.unissued)]
        self.nfev += len(index)
        self.retried += len(index)
        return self._candidates(now, index)

    def tell(self, which: Any, y: Any, sigma: Any = None) -> None:
        """Take values, in any order and number.

        A value told twice is ignored; a different second value of the same point is averaged with
        the first as a second measurement. Once all points of a round are answered, the method moves
        on. Values that come after that are ignored and counted (`late`).

        Parameters
        ----------
        which
            `Candidates` or `Candidate` as `ask` gave them; or identities, an integer or ``(n,)``;
            or the points themselves, ``(d,)`` or ``(n, d)``, exactly as given. Of equal points the
            first that has no value is meant, so identities are the safer choice.
        y
            Values ``(n,)``; a number for a single point. nan, infinite and complex values and None
            mean that the evaluation failed: a later value of the point still counts while its round
            is open, but without one its pair is lost.
        sigma
            Standard deviations of the values, ``(n,)`` or one number. For all values of a round or
            for none.

        Raises
        ------
        ValueError
            If the numbers of points and values differ, a point was never handed out, a standard
            deviation is not positive, or only some values of a round have one.
        """
        now = self._round()
        if now is not None and self._is_whole(now, which):
            values = float64(y)
            if values.shape == (len(now.batch),):
                self._close(now, values, _checked_sigma(sigma, len(values)))
                return
        index = self._index(now, which)
        values = to_host(float64(y)).reshape(-1)
        if len(values) != len(index):
            raise ValueError(f"{len(index)} points were told with {len(values)} values")
        spread = _checked_sigma(sigma, len(values))
        in_time = index >= 0
        self.late += int(np.count_nonzero(~in_time))
        if now is None or not in_time.any():
            return
        self._check_issued(now, index[in_time])
        spread = None if spread is None else spread[in_time]
        duplicates, repeated = now.take(index[in_time], values[in_time], spread)
        self.duplicates += duplicates
        self.repeated += repeated
        if self._is_answered(now):
            self.close()

    def close(self) -> None:
        """End the open round with the values that are in; pairs that are not complete are lost."""
        now = self._round()
        if now is not None:
            values, sigma = now.measured()
            self._close(now, values, sigma)

    def stop(self, status: int = STOPPED, message: str = "stopped by the user") -> None:
        """End the run; the open round is given up.

        Parameters
        ----------
        status
            `STOPPED`, `INTERRUPTED` or `TOO_MANY_LOST`.
        message
            Why, in words.
        """
        self._ended = (status, message)
        self._open = None

    def _round(self) -> OpenRound | None:
        """Give the open round, of which there is one unless the run is over."""
        if self._open is None and self._ended is None:
            batch = self._propose()
            if batch is not None:
                self._open = OpenRound(batch, self.budget - self.nfev)
                if not self._open.units:
                    self._open = None
            if self._open is None:
                self._ended = (BUDGET_SPENT, f"the budget of {self.budget} evaluations is spent")
        return self._open

    def _nothing(self) -> Candidates:
        points = np.empty((0, len(self.x0)))
        if self.device is not None:
            points = to_device(points, self.device)
        ids = np.empty(0, dtype=np.int64)
        return Candidates(points, ids, ids, self.seed)

    def _candidates(self, now: OpenRound, index: np.ndarray) -> Candidates:
        points = now.batch.points
        if len(index) < len(now.batch):
            points = points[index]
        units = np.asarray(now.batch.unit)[index]
        return Candidates(
            points, index + self._first_id, units + self._first_id, self.seed, self.paired
        )

    def _is_whole(self, now: OpenRound, which: Any) -> bool:
        """Tell whether these are all points of the open round in order, and its first answer."""
        if not isinstance(which, Candidates) or len(which) != len(now.batch):
            return False
        ids = which.ids
        ordered = ids[0] == self._first_id and bool((ids[1:] > ids[:-1]).all())
        return ordered and ids[-1] == self._first_id + len(ids) - 1 and now.untouched

    def _ids(self, which: Any) -> np.ndarray:
        """Give the identities in `which`; raises TypeError if these are no identities."""
        if isinstance(which, Candidates):
            return which.ids
        if isinstance(which, Candidate):
            return np.array([which.id], dtype=np.int64)
        if isinstance(which, Sequence) and any(isinstance(item, Candidate) for item in which):
            return np.array([item.id for item in which], dtype=np.int64)
        ids = np.atleast_1d(to_host(which))
        if ids.size == 0 and ids.ndim == 1:
            return np.empty(0, dtype=np.int64)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise TypeError(f"not identities of points: {which!r:.80}")
        return ids.astype(np.int64)

    def _index(self, now: OpenRound | None, which: Any) -> np.ndarray:
        """Give the places of points in the open batch, negative for points of closed rounds."""
        try:
            return self._ids(which) - self._first_id
        except TypeError:
            points = vector("which", which)
        width = len(self.x0)
        points = points[None] if points.shape == (width,) else points
        if points.ndim != 2 or points.shape[1] != width:
            raise ValueError(f"points must have shape (n, {width}), not {points.shape}")
        if now is None:
            raise ValueError("the run is over; no point is waited for")
        return now.places_of(points)

    def _check_issued(self, now: OpenRound, places: np.ndarray) -> None:
        unknown = now.unknown(places)
        if len(unknown):
            raise ValueError(f"point {unknown[0] + self._first_id} was never handed out")

    def _is_answered(self, now: OpenRound) -> bool:
        if now.settled_units == now.units:
            return True
        if now.unissued:
            return False
        return now.settled_units >= math.ceil(self.close_fraction * now.units)

    def _close(self, now: OpenRound, values: Array, sigma: np.ndarray | None) -> None:
        """Hand the values of the open round to the method, and count what is lost."""
        unit = now.batch.unit
        failed = ~to_host(is_finite(values))
        lost = 0
        if failed.any():
            incomplete = np.zeros(now.batch.units, dtype=bool)
            incomplete[unit[failed]] = True
            lost = int(np.count_nonzero(incomplete)) - (now.batch.units - now.units)
            values = with_nan(values, incomplete[unit])
            sigma = None if sigma is None else np.where(incomplete[unit], np.inf, sigma)
        self._open = None
        self._first_id += len(now.batch)
        self.lost += lost
        self._judged = [self._judged[0] + now.units, self._judged[1] + lost]
        if self._judged[0] >= JUDGED_UNITS:
            units, gone = self._judged
            self._judged = [0, 0]
            if gone > MOST_LOST * units:
                self.stop(
                    TOO_MANY_LOST,
                    f"{gone} of {units} pairs or single points of a round were lost, more than"
                    f" {MOST_LOST:.0%}",
                )
                return
        rounds = len(self.trace)
        self._update(now.batch, beside(values, now.batch.points), sigma)
        self.nit += 1
        if lost and len(self.trace) > rounds and not self.trace[-1].dropped:
            self.trace[-1] = dataclasses.replace(self.trace[-1], dropped=lost)

    # What a user gets ----------------------------------------------------------------------------

    def run(self, fun: Callable[[Array], Array]) -> Recommendation:
        """Spend the budget on a vectorised function ``(n, d) -> (n,)``."""
        while not self.done:
            asked = self.ask()
            self.tell(asked, fun(asked.points))
        return self.recommendation()

    def recommendation(self) -> Recommendation:
        """Give the point to use now, in the user's coordinates."""
        internal = self._recommend()
        jac, hess = internal.jac, internal.hess
        return dataclasses.replace(
            internal,
            x=self.space.to_user(internal.x),
            jac=None if jac is None else self.space.gradient_to_user(jac),
            hess=None if hess is None else self.space.hessian_to_user(hess),
            # Exact where the covariance is a multiple of the identity.
            jac_cov_trace=internal.jac_cov_trace * float(np.mean(1.0 / self.space.metric**2)),
        )

    @property
    def status(self) -> int:
        """Why the run ended; `INTERRUPTED` while it has not."""
        return self._ended[0] if self.done and self._ended is not None else INTERRUPTED

    @property
    def message(self) -> str:
        """Why the run ended, in words, and what the user should know of it."""
        if not self.done or self._ended is None:
            reason = f"{self.nfev} of {self.budget} evaluations are issued; the run goes on"
        else:
            reason = self._ended[1]
        notes = [reason]
        if self.lost:
            notes.append(f"{self.lost} pairs or single points were lost")
        if self.retried:
            notes.append(f"{self.retried} evaluations repeated others that failed")
        return "; ".join([*notes, *self.warnings])

    def result(self) -> Any:
        """Give everything that is known as a `scipy.optimize.OptimizeResult`."""
        from modicum.zeroth.result import optimize_result

        return optimize_result(self)

    # Stop and resume -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Give everything that a run needs to go on bit for bit.

        Returns
        -------
        dict
            Plain values, lists, dictionaries and NumPy arrays, none of them shared with the run.
        """
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {
            "schema": _SCHEMA,
            "method": self.name,
            "settings": self._settings(),
            "seed": self.seed,
            "counters": checkpoint.encode(counters),
            "state": checkpoint.encode(self.state),
            "trace": checkpoint.encode(self.trace),
            "warnings": list(self.warnings),
            "open": None if self._open is None else self._open.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where another run was.

        Points that were out and not answered are asked again, under the same identities; they count
        once. Answers to what the other run handed out are taken as well.

        Parameters
        ----------
        saved
            From `state_dict`.

        Raises
        ------
        ValueError
            If it was saved by another method, with other settings or by a newer version.
        """
        if saved.get("schema") != _SCHEMA:
            raise ValueError(
                f"the state has schema {saved.get('schema')!r}; this version reads {_SCHEMA}"
            )
        if saved["method"] != self.name:
            raise ValueError(f"the state is one of {saved['method']!r}, not of {self.name!r}")
        self._check_settings(saved)
        modules = {cls.__module__ for cls in type(self).__mro__}
        self.seed = saved["seed"]
        for name, value in checkpoint.decode(saved["counters"]).items():
            setattr(self, name, value)
        self.state = checkpoint.decode(saved["state"], modules)
        self.trace = checkpoint.decode(saved["trace"], modules)
        self.warnings = list(saved["warnings"])
        self._open = None
        if saved["open"] is not None:
            batch = self._propose()
            size = len(saved["open"]["values"])
            if batch is None or len(batch) != size:
                got = 0 if batch is None else len(batch)
                raise ValueError(
                    f"the state was saved in a round of {size} points, which now has {got}:"
                    " another version of the method wrote it"
                )
            self._open = OpenRound.restored(batch, saved["open"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to one file; at every moment it is the old one or the new one, whole."""
        checkpoint.write(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file that `save` wrote; raises as `load_state_dict` does."""
        self.load_state_dict(checkpoint.read(path))

    def _settings(self) -> dict[str, Any]:
        """Give the arguments of the constructor that decide what the method does.

        Each is an attribute of the same name, perhaps with a leading underscore.
        """
        names = [name for name in constructor_options(type(self)) if name not in _NOT_SETTINGS]
        return {
            name: _comparable(getattr(self, name if hasattr(self, name) else f"_{name}"))
            for name in names
        }

    def _check_settings(self, saved: dict[str, Any]) -> None:
        own, other = self._settings(), saved["settings"]
        for name in sorted(own.keys() | other.keys()):
            if own.get(name) != other.get(name):
                raise ValueError(
                    f"the state was saved with {name}={other.get(name)!r}, this run has"
                    f" {name}={own.get(name)!r}"
                )
        if not self._seed_is_free and saved["seed"] != self.seed:
            raise ValueError(
                f"the state was saved with the seed {saved['seed']}, this run has {self.seed}"
            )


_COUNTERS = (
    "nfev",
    "nit",
    "lost",
    "retried",
    "repeated",
    "duplicates",
    "late",
    "_first_id",
    "_judged",
    "_ended",
)
# The seed is stored by itself; the device changes where, not what, is computed.
_NOT_SETTINGS = ("rng", "device")


@functools.cache
def constructor_options(cls: type) -> tuple[str, ...]:
    """Name the arguments of a method's constructor, those that it passes on to its base included.

    Parameters
    ----------
    cls
        A subclass of `Optimizer`.

    Returns
    -------
    tuple of str
        In the order of the signatures, without ``self``.
    """
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= {item.name: None for item in parameters if item.kind not in variable}
        if base is Optimizer or not any(item.kind in variable for item in parameters):
            break
    return tuple(names)


# Arguments ---------------------------------------------------------------------------------------


def _positive_or_none(name: str, value: Any) -> float | None:
    return None if value is None else positive(name, value)


def _seed_of(rng: Any) -> tuple[int, bool]:
    """Give the seed, and whether a saved state may replace it."""
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        if not 0 <= rng < _SEED_LIMIT:
            raise ValueError(f"a seed must lie in [0, 2**63), not {rng}")
        return int(rng), False
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be None, an integer or a numpy.random.Generator, not {rng!r}")
    return int(np.random.default_rng(rng).integers(_SEED_LIMIT)), True


def _device_of(x0: Any, device: Any) -> Any:
    if device is None:
        return x0.device if hasattr(x0, "detach") else None
    from modicum.core.device import resolve_device

    return resolve_device(device)


def _comparable(value: Any) -> Any:
    """Reduce a setting to plain values that can be compared and written."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{getattr(value, '__module__', None)}.{name}"
    if hasattr(value, "lb") and hasattr(value, "ub"):
        return [_comparable(np.asarray(value.lb)), _comparable(np.asarray(value.ub))]
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return [type(value).__name__, [_comparable(getattr(value, f.name)) for f in fields]]
    return type(value).__qualname__


def _checked_sigma(sigma: Any, count: int) -> np.ndarray | None:
    if sigma is None:
        return None
    values = vector("sigma", sigma)
    if values.shape not in ((), (count,)):
        raise ValueError(f"sigma must be a number or have shape ({count},), not {values.shape}")
    wrong = values[~((values > 0) & np.isfinite(values))]
    if wrong.size:
        raise ValueError(f"sigma must be positive and finite, not {wrong.flat[0]}")
    return np.broadcast_to(values, (count,)).copy()


def _outside() -> int:
    """Give the `stacklevel` at which a warning of `_warn` points to the user's own code."""
    frame = inspect.currentframe()
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        frame = frame.f_back
        level += 1
    return level
