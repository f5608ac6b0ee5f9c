"""What a statistic is: a p-value at the text's end and e-values at every token.

Takes `Evidence`; knows no key, no text and no model.

Legend: ``S`` scored tokens, ``J`` components of an e-process.
"""

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from modicum.core.stats import POWER_GRID, EProcess, calibrator_grid
from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import Tail

Needs = Literal["pivot", "probability", "law", "hits"]

BETS = np.array((0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9))
"""Shares of the wealth put on hits, as components of an e-process."""


class Statistic(ABC):
    """A test statistic whose null law given the text is known.

    Attributes
    ----------
    name
        As in `make_statistic`.
    needs
        What must be known of each token: ``"pivot"`` (key only), ``"probability"`` (also the
        surrogate's probability of the observed token), ``"law"`` (also the surrogate's whole law)
        or ``"hits"`` (regions).
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    @abstractmethod
    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return what each token adds to the statistic, float64 ``[S]``."""

    @abstractmethod
    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the p-value and how it was obtained.

        Parameters
        ----------
        evidence
            Of S tokens; none gives p = 1.
        rng
            Randomness of Monte Carlo methods, which must not depend on key or pivots; a fixed seed
            by default.
        """

    def total(self, evidence: Evidence) -> float:
        """Return the statistic itself."""
        return float(self.scores(evidence).sum())

    def p_value(self, evidence: Evidence, rng: np.random.Generator | None = None) -> float:
        """Return the p-value alone; see `tail`."""
        return self.tail(evidence, rng).p_value

    def log_e_steps(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return natural logs of one-step e-values, float64 ``[S, J]``.

        Each has null mean one given the tokens before it; the components are mixed equally. Here:
        the power calibrators of ``1 - Y``, which need nothing but the pivot.
        """
        return calibrator_grid(1 - evidence.y_S)

    def description(self) -> dict[str, Any]:
        """Return name and settings as JSON-able values; equal for statistics that agree."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str | tuple)}
        described: dict[str, Any] = json.loads(json.dumps({"name": self.name} | plain))
        return described

    @property
    def num_components(self) -> int:
        """Number of components J of `log_e_steps`."""
        return len(POWER_GRID)

    def new_eprocess(self, alpha: float | None = None) -> EProcess:
        """Return an e-process without evidence."""
        return EProcess(self.num_components, alpha=alpha)

    def log_e(self, evidence: Evidence) -> float:
        """Return the natural log of the e-value of the whole evidence; 0 for none."""
        process = self.new_eprocess()
        process.update_many(self._one_axis(self.log_e_steps(evidence)))
        return process.log_e_value

    def _one_axis(self, steps_SJ: NDArray[np.float64]) -> NDArray[np.float64]:
        return steps_SJ[:, 0] if self.num_components == 1 else steps_SJ


def log_bets(hit_S: NDArray[np.bool_], prob_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log e-values of betting shares `BETS` of the wealth on hits.

    With probability p of a hit a share c is worth ``1 - c + c/p`` on a hit and ``1 - c`` otherwise;
    the mean is one.

    Parameters
    ----------
    hit_S
        Hits.
    prob_S
        Their null probabilities; 0 makes a hit impossible and worthless.

    Returns
    -------
    ndarray of float64, shape [S, J]
    """
    won_S1 = np.where(hit_S, 1 / np.maximum(prob_S, np.finfo(np.float64).tiny), 0.0)[:, None]
    return np.log((1 - BETS) + BETS * won_S1)


def default_rng(rng: np.random.Generator | None) -> np.random.Generator:
    """Return ``rng``, or one with a fixed seed."""
    return np.random.default_rng(0) if rng is None else rng
