"""Tests and confidence sequences for a mean that hold at every sample size at once.

Takes bounded observations one by one (or counts) and may be asked after each of them, with one
error probability for all looks together. Sampling may stop for any reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.core.stats.eprocess import EProcess, beta_bernoulli_log_marginal

__all__ = ["BettingTest", "bernoulli_confidence_sequence"]

_FORMAT = "modicum.core.stats.BettingTest"
_FORMAT_VERSION = 1
_FRACTIONS: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)


class BettingTest:
    """Anytime-valid test of H0 "the mean is at most m" for observations in [0, 1], by betting.

    Every fraction c of a grid bets lambda = c / m on each observation, one-step e-value
    1 + lambda (x - m), and the wealths are averaged. Under H0 (each conditional mean given the
    past at most m) the probability that the wealth ever reaches 1/alpha is at most alpha; no
    independence and no distribution is assumed. For "the mean is at least m" pass 1 - x and 1 - m.

    Parameters
    ----------
    mean : float in (0, 1)
        m, the largest mean under the null hypothesis.
    alpha : float in (0, 1)
        Level of :attr:`rejected`.
    fractions : sequence of float in (0, 1)
        Grid of bets c, as fractions of the largest possible one, 1/m. The mixture loses at most
        log(len(fractions)) nats against the best of them.

    Attributes
    ----------
    process : EProcess
        The evidence: log e-value, p-value, stopping time.

    Notes
    -----
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
    arXiv 2010.09686.
    """

    __hash__ = None  # type: ignore[assignment]  # mutable and compared by value

    def __init__(
        self, mean: float, alpha: float = 0.05, fractions: Sequence[float] = _FRACTIONS
    ) -> None:
        if not 0 < mean < 1:
            raise ValueError(f"mean must lie strictly between 0 and 1, got {mean!r}")
        fractions_J = np.asarray(fractions, dtype=np.float64)
        if fractions_J.ndim != 1 or fractions_J.size == 0:
            raise ValueError("fractions must be a non-empty flat sequence")
        if not np.all((fractions_J > 0) & (fractions_J < 1)):
            raise ValueError(f"fractions must lie strictly between 0 and 1, got {fractions!r}")
        self.mean = float(mean)
        self.fractions = tuple(fractions_J.tolist())
        self.process = EProcess(fractions_J.size, alpha=alpha)
        self._bet_J = fractions_J / self.mean

    @property
    def rejected(self) -> bool:
        """Whether H0 has been rejected at level alpha, now or earlier."""
        return self.process.stopped

    @property
    def p_value(self) -> float:
        """Anytime-valid p-value."""
        return self.process.p_value

    def update(self, x: npt.ArrayLike) -> float:
        """Take one observation, or several in order, and return the log e-value after the last.

        Parameters
        ----------
        x : float or array_like, shape ``[T]``
            Observations in [0, 1].

        Returns
        -------
        float
            Natural logarithm of the e-value.

        Raises
        ------
        ValueError
            For observations outside [0, 1]; the test is left as it was.
        """
        x_T = np.atleast_1d(np.asarray(x, dtype=np.float64))
        if x_T.ndim != 1 or not np.all((x_T >= 0) & (x_T <= 1)):
            raise ValueError("observations must be a number or flat array in [0, 1]")
        self.process.update_many(np.log1p(self._bet_J * (x_T[:, None] - self.mean)))
        return self.process.log_e_value

    def to_json(self) -> str:
        """State as one line of JSON; every float survives exactly."""
        return json.dumps(
            {
                "format": _FORMAT,
                "version": _FORMAT_VERSION,
                "mean": self.mean,
                "fractions": self.fractions,
                "process": self.process.to_dict(),
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> BettingTest:
        """Restore a test from :meth:`to_json`.

        Raises
        ------
        ValueError
            If the text is not a betting test of a known format version.
        """
        state: Any = json.loads(text)
        if not isinstance(state, Mapping) or (state.get("format"), state.get("version")) != (
            _FORMAT,
            _FORMAT_VERSION,
        ):
            raise ValueError(f"expected format {_FORMAT!r} version {_FORMAT_VERSION}")
        try:
            test = cls(state["mean"], fractions=state["fractions"])
            process = EProcess.from_dict(state["process"])
        except KeyError as missing:
            raise ValueError(f"the saved test lacks the field {missing}") from None
        if process.num_components != len(test.fractions):
            raise ValueError(
                f"{len(test.fractions)} fractions do not fit {process.num_components} components"
            )
        test.process = process
        return test

    def __eq__(self, other: object) -> bool:
        """Equal when configuration and state agree exactly."""
        if not isinstance(other, BettingTest):
            return NotImplemented
        return self.to_json() == other.to_json()


def bernoulli_confidence_sequence(
    successes: npt.ArrayLike,
    trials: npt.ArrayLike,
    alpha: float = 0.05,
    a: float = 0.5,
    b: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Interval for a success probability that covers at all sample sizes simultaneously.

    The probabilities p against which the Beta(a, b) mixture likelihood ratio is below 1/alpha.
    With probability at least 1 - alpha the true p lies in the intervals of every n at once, so
    sampling may go on until the interval is good enough.

    Parameters
    ----------
    successes, trials : array_like, int
        Counts after n trials, ``0 <= successes <= trials``; they broadcast, so the running counts
        of a stream give its whole confidence sequence. n = 0 gives (0, 1).
    alpha : float in (0, 1)
        Probability that the true value is ever left out.
    a, b : float > 0
        Beta prior of the mixture; coverage holds for any fixed choice.

    Returns
    -------
    low, high : ndarray or float, float64
        Bounds in [0, 1]. The running intersection over n is valid as well.

    Raises
    ------
    ValueError
        For inconsistent counts, ``alpha`` outside (0, 1) or a non-positive prior.

    Notes
    -----
    Robbins, "Statistical methods related to the law of the iterated logarithm" (1970); Howard,
    Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
    arXiv 1810.08240.
    """
    from scipy.special import xlog1py, xlogy

    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha!r}")
    ones, total = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    # The bound on log p(data | p) below which p is left out.
    floor = beta_bernoulli_log_marginal(ones, total, a, b) + math.log(alpha)
    zeros = total - ones
    best = np.where(total > 0, ones / np.maximum(total, 1), 0.5)

    def bound(outside: float) -> np.ndarray:
        """Bisect between a value left out (or the end of [0, 1]) and the best p; keep the outer."""
        outer, inner = np.full(best.shape, outside), best.copy()
        # The log-likelihood is concave in p; 60 halvings pass the resolution of float64.
        for _ in range(60):
            middle = (outer + inner) / 2
            left_out = xlogy(ones, middle) + xlog1py(zeros, -middle) <= floor
            outer = np.where(left_out, middle, outer)
            inner = np.where(left_out, inner, middle)
        return outer

    low = np.where(ones == 0, 0.0, bound(0.0))
    high = np.where(zeros == 0, 1.0, bound(1.0))
    return low[()], high[()]
