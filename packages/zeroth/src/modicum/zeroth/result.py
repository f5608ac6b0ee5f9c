"""What a run gives back: SciPy's `OptimizeResult` with the fields of a noisy problem.

Reads a method through its public attributes and changes nothing in it.

The result is the point that the local model recommends, and `fun` is the model's estimate there.
Neither is the best value that was seen: the smallest of many noisy values is smaller than the
function is at that point, by up to ``σ√(2 ln T)`` when T values have normal noise of standard
deviation σ. So ``min(y) < result.fun`` is what a good run looks like and says nothing about the
point where it occurred; whoever compares points evaluates them afresh, several times each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

    from modicum.zeroth.optimizer import Optimizer, Recommendation, Round

__all__ = ["Trace", "optimize_result"]

_REGRET_TERMS = ("bias", "variance", "newton")


class Trace(Sequence["Round"]):
    """The rounds of a run: a sequence of records, and each field of them as an array.

    ``trace[3].radius`` and ``trace.radius[3]`` are the same.

    Parameters
    ----------
    rounds
        One `modicum.zeroth.optimizer.Round` per round.
    """

    def __init__(self, rounds: Iterable["Round"]) -> None:
        self._rounds = tuple(rounds)

    def __len__(self) -> int:
        return len(self._rounds)

    @overload
    def __getitem__(self, index: int) -> "Round": ...
    @overload
    def __getitem__(self, index: slice) -> "Trace": ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Trace(self._rounds[index])
        return self._rounds[index]

    def __getattr__(self, name: str) -> np.ndarray:
        from modicum.zeroth.optimizer import Round

        if name not in {item.name for item in fields(Round)}:
            raise AttributeError(f"a trace has no field {name!r}")
        return np.array([getattr(item, name) for item in self._rounds])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and repr(self.to_dicts()) == repr(other.to_dicts())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Trace({len(self)} rounds)"

    def to_dicts(self) -> list[dict[str, Any]]:
        """Give one dictionary per round, ready for a data frame."""
        return [asdict(item) for item in self._rounds]


def optimize_result(
    optimizer: "Optimizer", *, maximize: bool = False, return_trace: bool = True
) -> "OptimizeResult":
    """Gather what a method knows.

    Parameters
    ----------
    optimizer
        Before, during or after its run.
    maximize
        Whether the method minimised the negative of the user's function; `fun`, `jac` and `hess`,
        also those of the trace, are then the user's.
    return_trace
        Whether to give one record per round.

    Returns
    -------
    scipy.optimize.OptimizeResult
        ``x``; ``fun``, ``fun_std`` (model estimate there and its standard deviation); ``nfev``
        (evaluations issued); ``nit`` (batches of points answered, some of which, such as repeated
        values at the start, may have no record in the trace); ``success``, ``status``, ``message``
        (0: budget spent, 1: stopped by the callback, 2: interrupted or not finished, 3: too many
        lost values); ``jac``, ``jac_cov_trace``, ``hess``; ``noise_std``, ``hessian_lipschitz``,
        ``strong_convexity`` (known or estimated); ``predicted_regret``,
        ``predicted_regret_terms``; ``radius``; ``trace``; ``plan`` (of methods that have one);
        ``method``, ``seed``, ``lost``, ``retried``, ``warnings``.
    """
    from scipy.optimize import OptimizeResult

    found = optimizer.recommendation()
    sign = -1.0 if maximize else 1.0
    rounds = optimizer.trace if return_trace else []
    if maximize:
        rounds = [replace(item, fun=-item.fun) for item in rounds]
    return OptimizeResult(
        x=found.x,
        fun=sign * found.fun,
        fun_std=found.fun_std,
        nfev=optimizer.nfev,
        nit=optimizer.nit,
        success=optimizer.status == 0,
        status=optimizer.status,
        message=optimizer.message,
        jac=None if found.jac is None else sign * found.jac,
        jac_cov_trace=found.jac_cov_trace,
        hess=None if found.hess is None else sign * found.hess,
        **_constants(found),
        trace=Trace(rounds) if return_trace else None,
        plan=getattr(optimizer, "plan", None),
        method=optimizer.name,
        seed=optimizer.seed,
        lost=optimizer.lost,
        retried=optimizer.retried,
        warnings=list(optimizer.warnings),
    )


def _constants(found: "Recommendation") -> dict[str, Any]:
    names = (
        "noise_std",
        "hessian_lipschitz",
        "strong_convexity",
        "predicted_regret",
        "radius",
    )
    # OptimizeResult cannot print an empty dictionary.
    terms = found.predicted_regret_terms or dict.fromkeys(_REGRET_TERMS, np.nan)
    return {"predicted_regret_terms": terms} | {name: getattr(found, name) for name in names}
