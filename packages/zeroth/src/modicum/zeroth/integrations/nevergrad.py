"""The methods of this package as optimizers of nevergrad.

`Zeroth` takes what every optimizer of nevergrad takes (a parametrization or a dimension, a budget,
a number of workers) and is in ``ng.optimizers.registry`` under that name once this module is
imported, so nevergrad's own ``minimize``, callbacks and benchmarks accept it; `ParametrizedZeroth`
makes variants. What it recommends is the point of its model, never the best noisy value.

It works in nevergrad's standardized space, where a parameter's sigma is one and its initial value
is zero. Bounds become a box there, so that both points of a pair are feasible and no bouncing makes
a pair lopsided. A `Choice` is a random draw from weights: its randomness is noise, its weights are
coordinates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from modicum.zeroth.integrations._methods import make_optimizer
from modicum.zeroth.integrations._turns import Turns
from modicum.zeroth.optimizer import Optimizer

try:
    import nevergrad as ng
    from nevergrad.common import errors
    from nevergrad.optimization import base
    from nevergrad.parametrization.utils import BoundChecker
except ImportError as error:
    raise ImportError(
        'optimizers for nevergrad need it: pip install "modicum-zeroth[nevergrad]"'
    ) from error

__all__ = ["ParametrizedZeroth", "Zeroth", "ZerothOptimizer"]

NAME = "Zeroth"
_KEY = "modicum-zeroth"
_SEEDS = 2**32
_FAILED = 5.0e20  # what nevergrad makes of nan, inf and huge values before a method sees them
_SLACK = 1e-9  # share of its width that a box leaves free, so that rounding crosses no bound
_FAR = 1e9  # sigmas; bounds by arctan lie at 1e16 of them, which is nowhere


class ZerothOptimizer(base.Optimizer):  # type: ignore[misc]
    """A method of this package as an optimizer of nevergrad.

    Parameters
    ----------
    parametrization
        An ``ng.p`` parameter, or a dimension.
    budget
        Number of evaluations. Required: what a method does depends on it.
    num_workers
        Evaluations at a time. While a round is finished off, workers measure points a second time.
    scale
        How far the best value of each parameter may be from its initial one, in its sigmas.
    noise, strong_convexity, hessian_lipschitz
        What is known of the function, in standardized space; None if unknown.
    method
        Name or class of the method.
    options
        Further arguments of the method by name.

    Raises
    ------
    ValueError
        If there is no budget, it is too small for the dimension, or an option cannot be meant.
    nevergrad.common.errors.UnsupportedExperiment
        If the parametrization has constraints other than bounds.
    """

    def __init__(
        self,
        parametrization: Any,
        budget: int | None = None,
        num_workers: int = 1,
        *,
        scale: float = 1.0,
        noise: float | None = None,
        strong_convexity: float | None = None,
        hessian_lipschitz: float | None = None,
        method: str | type[Optimizer] = "adaptive",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(parametrization, budget=budget, num_workers=num_workers)
        if budget is None:
            raise ValueError("a budget is needed: Zeroth(parametrization, budget=…)")
        if any(_constraints(self.parametrization)):
            raise errors.UnsupportedExperiment(
                "the parametrization has constraints other than bounds; put them into the loss"
            )
        self._method = method
        self._options = {
            "scale": scale * math.sqrt(self.dimension),
            "noise": noise,
            "strong_convexity": strong_convexity,
            "hessian_lipschitz": hessian_lipschitz,
            "bounds": _box(self.parametrization),
            **(options or {}),
        }
        self._turns: Turns | None = None
        self._make(seed=0)  # what is wrong with the settings is said now

    def _make(self, seed: int) -> Turns:
        start = np.zeros(self.dimension)
        return Turns(make_optimizer(self._method, start, self.budget, rng=seed, **self._options))

    def tell(
        self,
        candidate: Any,
        loss: Any,
        constraint_violation: Any = None,
        penalty_style: Any = None,
        *,
        sigma: float | None = None,
    ) -> None:
        """Take the loss of a candidate; of the same candidate again, a second measurement.

        Parameters
        ----------
        candidate
            From `ask`.
        loss
            Its loss; nan, inf and whatever nevergrad clips (with a warning) is a failed evaluation.
        constraint_violation, penalty_style
            As nevergrad has them.
        sigma
            Standard deviation of the loss: for all losses of a run or for none.

        Raises
        ------
        nevergrad.common.errors.TellNotAskedNotSupportedError
            If the candidate does not come from `ask`.
        """
        self._sigma = sigma
        super().tell(candidate, loss, constraint_violation, penalty_style)

    def result(self) -> Any:
        """Give everything that is known, in standardized space, as `modicum.zeroth` gives it.

        Returns
        -------
        scipy.optimize.OptimizeResult
        """
        return self._started().current().result()

    def _started(self) -> Turns:
        # nevergrad's users seed the parametrization between the constructor and the first ask.
        if self._turns is None:
            self._turns = self._make(int(self._rng.randint(_SEEDS, dtype=np.uint32)))
        return self._turns

    def _internal_ask_candidate(self) -> Any:
        turns = self._started()
        asked = turns.next()
        data = turns.current().recommendation().x if asked is None else asked.x
        candidate = self.parametrization.spawn_child().set_standardized_data(data)
        candidate._meta[_KEY] = None if asked is None else asked.id
        return candidate

    def _internal_tell_candidate(self, candidate: Any, loss: float) -> None:
        number = candidate._meta[_KEY]
        if number is not None:  # None is the recommendation, asked for when the budget was spent
            value = loss if abs(loss) < _FAILED else math.nan
            self._started().tell(number, value, self._sigma)

    def _internal_tell_not_asked(self, candidate: Any, loss: float) -> None:
        if _KEY not in candidate._meta:
            raise errors.TellNotAskedNotSupportedError(
                "a loss counts only at a point that this optimizer asked for"
            )
        self._internal_tell_candidate(candidate, loss)

    def _internal_provide_recommendation(self) -> np.ndarray:
        if self._turns is None:
            return np.zeros(self.dimension)
        return np.asarray(self._turns.current().recommendation().x)

    def _info(self) -> dict[str, Any]:
        if self._turns is None:
            return {}
        optimizer = self._turns.optimizer
        return {"rounds": optimizer.nit, "lost": optimizer.lost, "repeated": optimizer.retried}


class ParametrizedZeroth(base.ConfiguredOptimizer):  # type: ignore[misc]
    """Makes variants of `Zeroth`, as nevergrad's ``ParametrizedCMA`` does of its CMA.

    Parameters
    ----------
    scale, noise, strong_convexity, hessian_lipschitz, method, options
        As for `ZerothOptimizer`.

    Examples
    --------
    >>> ParametrizedZeroth(noise=0.5)(parametrization=3, budget=2000).ask()  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        noise: float | None = None,
        strong_convexity: float | None = None,
        hessian_lipschitz: float | None = None,
        method: str | type[Optimizer] = "adaptive",
        options: dict[str, Any] | None = None,
    ) -> None:
        # nevergrad would try other settings out with 100 evaluations, too few for some methods.
        super().__init__(_Configured, locals(), as_config=True)


class _Configured(ZerothOptimizer):
    """A `ZerothOptimizer` whose settings come from a `ParametrizedZeroth`."""

    def __init__(
        self,
        parametrization: Any,
        budget: int | None = None,
        num_workers: int = 1,
        *,
        config: ParametrizedZeroth,
    ) -> None:
        super().__init__(parametrization, budget, num_workers, **config.config())


# Bounds and constraints -------------------------------------------------------------------------


def _leaves(parameter: Any) -> Iterator[Any]:
    """Yield the data parameters in the order in which nevergrad concatenates their data."""
    if isinstance(parameter, ng.p.Array | ng.p.Scalar):
        yield parameter
    elif hasattr(parameter, "_content"):
        for key in sorted(parameter._content):
            yield from _leaves(parameter._content[key])


def _constraints(parameter: Any) -> Iterator[Any]:
    """Yield the constraints of a parameter and its parts that are not plain bounds."""
    for checker in parameter._constraint_checkers:
        if not isinstance(checker, BoundChecker):
            yield checker
    for part in getattr(parameter, "_content", {}).values():
        yield from _constraints(part)


def _box(parametrization: Any) -> list[tuple[float, float]] | None:
    """Give the bounds of a parametrization in its standardized space, None if there are none."""
    ends = [_leaf_box(leaf) for leaf in _leaves(parametrization)]
    lower, upper = (np.concatenate(side) for side in zip(*ends, strict=True))
    if lower.size != parametrization.dimension or not np.isfinite([lower, upper]).any():
        return None
    return list(zip(lower.tolist(), upper.tolist(), strict=True))


def _leaf_box(leaf: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give the bounds of a data parameter in standardized space, infinite where it has none."""
    found = [_standardized(leaf, bound) for bound in leaf.bounds]
    low = np.full(leaf.dimension, -math.inf) if found[0] is None else found[0]
    high = np.full(leaf.dimension, math.inf) if found[1] is None else found[1]
    lower, upper = np.minimum(low, high), np.maximum(low, high)
    with np.errstate(invalid="ignore"):
        margin = np.where(np.isfinite(upper - lower), _SLACK * (upper - lower), 0.0)
        # Where the start is not inside, as with angles, the ends are no bounds in this space.
        inside = (lower <= 0.0) & (0.0 <= upper) & (upper - lower > _SLACK)
    lower, upper = np.minimum(lower + margin, 0.0), np.maximum(upper - margin, 0.0)
    return np.where(inside, lower, -math.inf), np.where(inside, upper, math.inf)


def _standardized(leaf: Any, bound: Any) -> np.ndarray | None:
    """Give a bound on a parameter's value as data in standardized space; None if it has no place.

    Bounds by a transform such as arctan lie at infinity.
    """
    if bound is None:
        return None
    value = leaf.value
    end = np.broadcast_to(np.asarray(bound, dtype=np.float64), np.shape(value) or (1,))
    child = leaf.copy()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            child.value = float(end[0]) if np.ndim(value) == 0 else end.copy()
        except ValueError:
            return None
        data = child.get_standardized_data(reference=leaf)
    return None if np.isnan(data).any() else np.where(np.abs(data) < _FAR, data, np.inf * data)


# A module that is loaded again must not run into its own name.
if NAME in base.registry:
    Zeroth = base.registry[NAME]
else:
    Zeroth = ParametrizedZeroth().set_name(NAME, register=True)
