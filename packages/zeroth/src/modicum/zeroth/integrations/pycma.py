"""CMA-ES of the library cma as a method of comparisons: what most people use on noisy functions.

Takes a vectorised noisy function and gives the mean of the final distribution, which is what the
library recommends for noisy functions (``xfavorite``), never the best noisy sample. Stops at the
budget, with the library's own stopping rules off because noise triggers them too early; the
population doubles at every restart that noise makes necessary where the noise handler is on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["minimize_cma"]

FIRST_SPREAD = 0.5
"""Standard deviation of the first samples, in units of the scale."""


def minimize_cma(
    fun: Callable[[np.ndarray], np.ndarray],
    x0: Any,
    budget: int,
    *,
    scale: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Run CMA-ES until the budget is spent.

    Parameters
    ----------
    fun
        Vectorised, ``(n, d) -> (n,)``.
    x0
        Start ``(d,)``, at least two variables.
    budget
        Evaluations.
    scale
        Length over which the optimum may be away.
    seed
        Of the library.

    Returns
    -------
    (d,)
        Mean of the distribution at the end.

    Raises
    ------
    ImportError
        Without cma.
    """
    try:
        import cma
    except ImportError as error:
        raise ImportError("the method 'cma' is the library cma: pip install cma") from error
    options = {
        "verbose": -9,
        "seed": seed % (2**31 - 1) + 1,  # 0 would mean the time
        "maxfevals": budget,
        "tolx": 0,
        "tolfun": 0,
        "tolfunhist": 0,
        "tolflatfitness": np.inf,
        "tolstagnation": np.inf,
    }
    strategy = cma.CMAEvolutionStrategy(np.asarray(x0, float), FIRST_SPREAD * scale, options)
    spent = 0
    while spent + strategy.popsize <= budget and not strategy.stop():
        points = strategy.ask()
        strategy.tell(points, fun(np.asarray(points)).tolist())
        spent += len(points)
    return np.array(strategy.result.xfavorite)
