"""Minimise a noisy function in one call, here or from SciPy.

`minimize` makes a method, an oracle and a progress bar, and lets the method ask until its budget is
spent; everything it does can be done by hand with `modicum.zeroth.optimizer.Optimizer` and
`modicum.zeroth.oracle.Oracle`. `METHODS` names the methods; each is imported when it is asked for.
"""

import inspect
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.zeroth.arguments import one_of, suggestion
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.executors import ExecutorGone
from modicum.zeroth.optimizer import (
    INTERRUPTED,
    STOPPED,
    TOO_MANY_LOST,
    Optimizer,
    constructor_options,
)
from modicum.zeroth.oracle import Oracle
from modicum.zeroth.progress import ProgressBar, summary
from modicum.zeroth.result import optimize_result

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

__all__ = ["METHODS", "method_class", "minimize", "scipy_method"]

METHODS = {
    "adaptive": "modicum.zeroth.methods.adaptive:Adaptive",
    "two-stage": "modicum.zeroth.methods.two_stage:TwoStage",
    "zosgd": "modicum.zeroth.methods.zosgd:ZOSGD",
    "spsa": "modicum.zeroth.methods.spsa:SPSA",
    "kernel": "modicum.zeroth.methods.kernel_zo:KernelZO",
    "mezo": "modicum.zeroth.methods.mezo:MeZO",
}
"""Where each method is."""

BUDGET = 20_000

CHECKPOINT_S = 1.0
"""Least time between two writes of a checkpoint from a run whose rounds are short, in seconds."""

_ORACLE_OPTIONS = ("retries", "chunk_size")
_LOOP_OPTIONS = ("close_fraction",)
_DEFAULTS = {"hessian": "full", "order": 3}


def method_class(method: str | type[Optimizer]) -> type[Optimizer]:
    """Give the class of a method.

    Parameters
    ----------
    method
        A key of `METHODS`, or a class, which is returned.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if isinstance(method, type) and issubclass(method, Optimizer):
        return method
    module, _, name = METHODS[one_of("method", method, METHODS)].partition(":")
    found: type[Optimizer] = getattr(import_module(module), name)
    return found


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    budget: int = BUDGET,
    *,
    scale: Any = 1.0,
    noise: float | None = None,
    strong_convexity: float | None = None,
    hessian_lipschitz: float | None = None,
    method: str | type[Optimizer] = "adaptive",
    bounds: Any = None,
    args: Any = (),
    vectorized: bool = False,
    workers: Any = 1,
    paired: bool = False,
    directions: str | None = None,
    hessian: str = "full",
    order: int = 3,
    rng: Any = None,
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
    disp: bool = False,
    options: Mapping[str, Any] | None = None,
    return_trace: bool = True,
    maximize: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> "OptimizeResult":
    """Minimise a function whose values are noisy.

    The result is one point that a local model recommends, with the model's estimate of the function
    there. It is not the best value seen: the smallest of many noisy values is lower than the
    function is at that point, by up to ``σ√(2 ln T)`` for T values with normal noise of standard
    deviation σ, so ``min(y) < result.fun`` is normal and means nothing. To compare points, evaluate
    them afresh, several times each.

    Parameters
    ----------
    fun
        ``fun(x, *args) -> float``; with ``vectorized=True`` ``fun(X, *args) -> (n,)`` for points
        ``X`` of shape ``(n, d)``. NumPy arrays, or torch tensors if `x0` is one: then points are on
        its device and have its dtype, and values may stay there. Noise of different evaluations
        must be independent, except with `paired`.
    x0
        Start, ``(d,)``.
    budget
        Evaluations that may be issued, those that repeat others after a failure included.
    scale
        Length over which the optimum may be away from `x0`; a vector gives one per coordinate.
    noise
        Standard deviation of one evaluation, None to estimate it. With `paired`, that of a pair's
        difference divided by √2.
    strong_convexity, hessian_lipschitz
        Smallest curvature of the function and Lipschitz constant of its Hessian (Frobenius norm),
        None if unknown; `scale` must be a number for them to be in the function's own units.
    method
        ``"adaptive"``, ``"two-stage"``, ``"zosgd"``, ``"spsa"``, ``"kernel"``, ``"mezo"``, or a
        subclass of `Optimizer`.
    bounds
        `scipy.optimize.Bounds`, a list of ``(low, high)``, or `modicum.zeroth.space.Ball`. No point
        outside is ever evaluated.
    args
        Further arguments of `fun`.
    vectorized
        Whether `fun` takes all points of a round at once.
    workers
        Integer (processes; -1: one per CPU), map-like callable, `concurrent.futures.Executor`, or
        what `modicum.zeroth.executors` makes for joblib, Ray and Dask. The points and so the result
        are the same for all.
    paired
        Whether `fun` takes ``seed=``, the same for both sides of a pair (common random numbers).
    directions
        ``"sphere"``, ``"orthogonal"``, ``"gaussian"``, ``"rademacher"`` or ``"coordinate"``; None
        for the method's own.
    hessian, order
        Options of the adaptive method.
    rng
        None, an integer seed or a `numpy.random.Generator`.
    callback
        Called after every round, as in SciPy: ``callback(xk)`` or
        ``callback(intermediate_result)``, where the latter must have exactly this name; it gets
        what this function returns so far. Stops the run by raising StopIteration.
    progress
        Whether to show a bar, if the standard error stream is a terminal.
    disp
        Whether to print a summary at the end.
    options
        Further options of the method; ``retries`` (2): how often a failed evaluation is repeated;
        ``chunk_size``: points per call or task; ``close_fraction`` (1): with workers, the share of
        a round's pairs to wait for.
    return_trace
        Whether the result has one record per round.
    maximize
        Whether to maximise instead. `fun`, `jac` and `hess` of the result are the function's own.
    checkpoint
        A file. The state is written to it after every round, within long rounds and when the run
        is interrupted, but at most once a second; a run that finds the file goes on from it. What
        was under way when a process died is evaluated again and counts once.

    Returns
    -------
    scipy.optimize.OptimizeResult
        See `modicum.zeroth.result.optimize_result`. Status 0: budget spent; 1: stopped by the
        callback; 2: the executor gave up; 3: more than a fifth of a round was lost, the point is
        the last one before.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, with the value and what would be right.
    Exception
        What `fun` raises, if it raises in every evaluation of the first round. Other failures
        (exceptions, nan, infinite or complex values, a wrong number of values) are repeated, and
        then the pair is dropped and counted.

    Notes
    -----
    "Stochastic Zeroth-Order Optimization under Strong Convexity and Lipschitz Hessian: Minimax
    Sample Complexity", Yu et al., arXiv 2406.19617.

    Examples
    --------
    >>> import numpy as np
    >>> from modicum.zeroth import minimize
    >>> noise = np.random.default_rng(0)
    >>> def fun(x):
    ...     return np.sum((x - 0.5) ** 2) + 0.1 * noise.standard_normal()
    >>> result = minimize(fun, np.zeros(2), 4000, rng=1)
    >>> bool(np.all(abs(result.x - 0.5) < 0.1))
    True
    """
    cls = method_class(method)
    notify = _notifier(callback)
    of_oracle, of_method, close_fraction = _split_options(cls, options, hessian, order)
    optimizer = cls(
        x0,
        budget,
        **_accepted(
            cls,
            scale=scale,
            noise=noise,
            strong_convexity=strong_convexity,
            hessian_lipschitz=hessian_lipschitz,
            bounds=bounds,
            paired=paired,
            directions=directions,
            rng=rng,
        ),
        **of_method,
    )
    optimizer.close_fraction = close_fraction
    oracle = Oracle(
        fun,
        args,
        vectorized=vectorized,
        workers=workers,
        paired=paired,
        maximize=maximize,
        dtype=_tensor_dtype(x0),
        **of_oracle,
    )
    saver = _Saver(checkpoint, optimizer)
    saver.resume()
    with ExitStack() as stack:
        stack.enter_context(oracle)
        bar = None
        if progress:
            bar = stack.enter_context(ProgressBar(optimizer.budget, -1.0 if maximize else 1.0))

        def gather() -> "OptimizeResult":
            return _result(optimizer, oracle, x0, maximize=maximize, return_trace=return_trace)

        _loop(optimizer, oracle, saver, bar, notify, gather)
    result = gather()
    if disp:
        print(summary(result))
    return result


def _loop(
    optimizer: Optimizer,
    oracle: Oracle,
    saver: "_Saver",
    bar: ProgressBar | None,
    notify: Callable[[Callable[[], Any]], None] | None,
    gather: Callable[[], Any],
) -> None:
    """Answer the optimizer until it is done or somebody stops it."""

    def heartbeat() -> None:
        saver.save()
        if bar is not None:
            bar.show(optimizer)

    try:
        while not optimizer.done:
            rounds = optimizer.nit
            oracle.answer(optimizer, heartbeat)
            heartbeat()
            if notify is not None and optimizer.nit > rounds:
                notify(gather)
    except StopIteration:
        saver.save(now=True)
        optimizer.stop(STOPPED, "the callback stopped the run")
    except ExecutorGone as gone:
        saver.save(now=True)
        if optimizer.nit == 0 and optimizer.nfev == optimizer.pending:
            raise
        optimizer.stop(INTERRUPTED, str(gone))
    except BaseException:
        saver.save(now=True)
        raise
    else:
        saver.save(now=True)


class _Saver:
    """Writes the state of a run to a file, not too often."""

    def __init__(self, path: str | os.PathLike[str] | None, optimizer: Optimizer) -> None:
        self._path = None if path is None else Path(path)
        self._optimizer = optimizer
        self._last = -float("inf")

    def resume(self) -> None:
        """Go on from the file if there is one."""
        if self._path is not None and self._path.exists():
            self._optimizer.load(self._path)

    def save(self, now: bool = False) -> None:
        """Write the state if the last time was long enough ago, or `now`.

        The state of a run that lost too much is not written, so that the file still holds the
        round before and the run can go on once the function works again.
        """
        if self._path is None or self._optimizer.status == TOO_MANY_LOST:
            return
        if now or time.monotonic() - self._last >= CHECKPOINT_S:
            self._optimizer.save(self._path)
            self._last = time.monotonic()


def _result(
    optimizer: Optimizer, oracle: Oracle, x0: Any, *, maximize: bool, return_trace: bool
) -> "OptimizeResult":
    result = optimize_result(optimizer, maximize=maximize, return_trace=return_trace)
    if failures := oracle.describe_failures():
        result.message += f"; {failures}"
    if hasattr(x0, "detach"):
        import torch

        dtype = x0.dtype if x0.is_floating_point() else torch.float64
        for name in ("x", "jac", "hess"):
            if result[name] is not None:
                result[name] = torch.as_tensor(result[name], dtype=dtype, device=x0.device)
    return result


def _notifier(callback: Any) -> Callable[[Callable[[], Any]], None] | None:
    """Give the callback in one form, whichever of SciPy's two conventions it follows."""
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"callback must be a function, not {callback!r}")
    try:
        signature = inspect.signature(callback)
    except ValueError:  # some built-in functions have no signature
        return lambda gather: callback(gather().x)
    if set(signature.parameters) == {"intermediate_result"}:
        return lambda gather: callback(intermediate_result=gather())
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(
            "callback must take one argument, callback(xk) or callback(intermediate_result), not"
            f" {signature}"
        ) from None
    return lambda gather: callback(gather().x)


def _tensor_dtype(x0: Any) -> Any:
    if not hasattr(x0, "detach"):
        return None
    return x0.dtype if x0.is_floating_point() else None


def _accepted(cls: type[Optimizer], **given: Any) -> dict[str, Any]:
    """Leave out arguments that a method does not have, if they have their default."""
    known = constructor_options(cls)
    defaults = inspect.signature(minimize).parameters
    for name, value in given.items():
        default = defaults[name].default
        # Only plain values are compared: an array equal to a number is still not the default.
        same = value is default or (np.isscalar(value) and value == default)
        if name not in known and not same:
            raise ValueError(f"method {cls.name!r} has no option {name!r}")
    # None stands for the method's own default.
    return {name: value for name, value in given.items() if name in known and value is not None}


def _split_options(
    cls: type[Optimizer], options: Mapping[str, Any] | None, hessian: str, order: int
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Sort options by whom they are for: the oracle, the method, the loop."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dictionary, not {options!r}")
    given = dict(options or {})
    known = constructor_options(cls)
    for name, value in (("hessian", hessian), ("order", order)):
        if value != _DEFAULTS[name] and name not in known:
            raise ValueError(f"method {cls.name!r} has no option {name!r}")
        if name in known and name in given and value != _DEFAULTS[name]:
            raise ValueError(f"{name!r} is given both as an argument and in options")
        if name in known:
            given.setdefault(name, value)
    own = set(inspect.signature(minimize).parameters) - set(_DEFAULTS)
    for name in given:
        if name in own:
            raise ValueError(f"{name!r} is an argument of minimize, not one of its options")
        if name not in known and name not in _ORACLE_OPTIONS + _LOOP_OPTIONS:
            words = [*known, *_ORACLE_OPTIONS, *_LOOP_OPTIONS]
            raise ValueError(f"method {cls.name!r} has no option {name!r}{suggestion(name, words)}")
    of_oracle = {name: given.pop(name) for name in _ORACLE_OPTIONS if name in given}
    close_fraction = given.pop("close_fraction", 1.0)
    return of_oracle, given, close_fraction


def scipy_method(
    method: str | type[Optimizer] = "adaptive", **options: Any
) -> Callable[..., "OptimizeResult"]:
    """Make a method for `scipy.optimize.minimize`.

    Parameters
    ----------
    method
        As for `minimize`.
    options
        Arguments of `minimize`, such as ``budget``, ``scale``, ``vectorized``, ``rng``. Those in
        SciPy's own ``options`` win.

    Returns
    -------
    callable
        For the argument ``method``; ``fun``, ``x0``, ``args``, ``bounds`` and ``callback`` are
        SciPy's. Derivatives and ``tol`` are not used, constraints are refused.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize
    >>> from modicum.zeroth import scipy_method
    >>> noise = np.random.default_rng(0)
    >>> def fun(x):
    ...     return np.sum((x - 0.5) ** 2) + 0.1 * noise.standard_normal()
    >>> result = minimize(fun, [0.0, 0.0], method=scipy_method("adaptive", budget=4000, rng=1))
    >>> bool(np.all(abs(result.x - 0.5) < 0.1))
    True
    """
    cls = method_class(method)

    def solve(
        fun: Callable[..., Any],
        x0: Any,
        args: Any = (),
        *,
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Any = None,
        **of_scipy: Any,
    ) -> "OptimizeResult":
        if not (isinstance(constraints, tuple | list) and not len(constraints)):
            raise ValueError(
                f"method {cls.name!r} takes bounds and no other constraints, not {constraints!r}"
            )
        given = {**options, **of_scipy}
        ignored = {"jac": jac, "hess": hess, "hessp": hessp, "tol": given.pop("tol", None)}
        for name, value in ignored.items():
            if value is not None:
                warnings.warn(
                    f"{name} is not used: the method sees values only and spends its budget",
                    ZerothWarning,
                    stacklevel=3,
                )
        own = set(inspect.signature(minimize).parameters)
        further = {name: given.pop(name) for name in list(given) if name not in own}
        if further:
            given["options"] = {**(given.get("options") or {}), **further}
        return minimize(fun, x0, method=cls, args=args, bounds=bounds, callback=callback, **given)

    solve.__name__ = cls.name
    return solve
