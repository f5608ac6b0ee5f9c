"""The learned statistic: the log-density of pivots measured on a deployment's own text.

Legend: ``S`` scored tokens, ``J`` bins.
"""

from os import PathLike
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.nulls import (
    MAX_LATTICE,
    FiniteLaw,
    LatticeLaw,
    Tail,
    check_method,
    lattice_tail,
    solve_tilt,
    tail,
)
from modicum.umpwatermark.statistics.base import Needs, Statistic, default_rng

PSEUDO_COUNTS = 20.0
SCORE_STEP = 1 / 128
"""Scores are multiples of this many nats, which makes their null law exact on a lattice."""

CALIBRATION_FORMAT = "modicum.umpwatermark.calibration"
CALIBRATION_VERSION = 1


def bin_edges() -> NDArray[np.float64]:
    """Return the 81 edges: 0, 40 log-spaced in [1e-4, 1/2], their mirror images, and 1."""
    low = np.geomspace(1e-4, 0.5, 40)
    low[-1] = 0.5
    return np.concatenate([[0.0], low, 1 - low[-2::-1], [1.0]])


class CalibrationTable:
    """Density of the pivot on watermarked text, in 80 bins.

    Parameters
    ----------
    counts_J
        Pivots counted in each bin, shape ``[80]``.

    Attributes
    ----------
    counts_J
        int64.
    log_density_J
        float64; natural log of the density, with 20 pseudo-counts spread like the uniform law. The
        mean of its exponential under the uniform law is one.
    score_J
        float64; the same rounded to multiples of 1/128 nat.

    Examples
    --------
    >>> table = CalibrationTable.fit(np.linspace(0.01, 0.99, 99) ** 0.5)
    >>> bool(table.log_density_J[0] < 0 < table.log_density_J[-1])
    True
    """

    def __init__(self, counts_J: ArrayLike) -> None:
        counts = np.asarray(counts_J)
        self.edges = bin_edges()
        self.width_J = np.diff(self.edges)
        if counts.shape != self.width_J.shape:
            raise ValueError(f"counts must have shape {self.width_J.shape}, got {counts.shape}")
        if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
            raise ValueError("counts must be non-negative integers")
        self.counts_J = counts.astype(np.int64)
        smoothed_J = self.counts_J + PSEUDO_COUNTS * self.width_J
        self.log_density_J = np.log(smoothed_J / smoothed_J.sum() / self.width_J)
        self.score_J = np.round(self.log_density_J / SCORE_STEP) * SCORE_STEP

    @classmethod
    def fit(cls, pivots: ArrayLike) -> "CalibrationTable":
        """Count pivots of watermarked text, which must not be the text that is tested later.

        Parameters
        ----------
        pivots
            Flat array of values in (0, 1), for instance ``per_token[i].pivot`` of a detector's
            output.

        Returns
        -------
        CalibrationTable

        Raises
        ------
        ValueError
            If there is no pivot or one lies outside (0, 1).
        """
        y = np.asarray(pivots, dtype=np.float64).ravel()
        if not len(y) or not np.all((y > 0) & (y < 1)):
            raise ValueError("calibration needs at least one pivot, all strictly between 0 and 1")
        return cls(np.bincount(cls._bins(bin_edges(), y), minlength=80))

    @staticmethod
    def _bins(edges: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.searchsorted(edges[1:-1], y, side="right").astype(np.int64)

    def bins(self, y_S: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the bin of each pivot."""
        return self._bins(self.edges, y_S)

    def save(self, path: str | PathLike[str]) -> None:
        """Write an ``.npz`` file."""
        with open(path, "wb") as file:
            np.savez(
                file,
                format=np.array(CALIBRATION_FORMAT),
                version=np.array(CALIBRATION_VERSION),
                counts=self.counts_J,
            )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "CalibrationTable":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is no calibration table of a known version.
        """
        with np.load(path, allow_pickle=False) as saved:
            try:
                kind, version = str(saved["format"]), int(saved["version"])
                counts = saved["counts"]
            except KeyError as missing:
                raise ValueError(f"not a calibration table: {missing}") from None
        if (kind, version) != (CALIBRATION_FORMAT, CALIBRATION_VERSION):
            raise ValueError(
                f"expected {CALIBRATION_FORMAT} version {CALIBRATION_VERSION}, got {kind} version "
                f"{version}"
            )
        return cls(counts)


class LearnedStatistic(Statistic):
    """``sum_t s(Y_t)``, s the log-density of pivots on a calibration set.

    The best test that looks at pivots alone, if the text is like the calibration set. Gains little
    over the sum test on Gumbel-max text and much on text of the hazard sampler.

    Parameters
    ----------
    calibration
        A `CalibrationTable`, the path of a saved one, or pivots to fit one to.
    method
        ``"auto"``: exact by convolution on the table's lattice where it fits into memory, Monte
        Carlo and bound beyond. Otherwise as in `modicum.umpwatermark.nulls.tail`.
    num_null_draws
        K of Monte Carlo.
    """

    name: ClassVar[str] = "learned"
    needs: ClassVar[Needs] = "pivot"

    def __init__(
        self,
        calibration: Any,
        *,
        method: str = "auto",
        num_null_draws: int = 9999,
    ) -> None:
        if calibration is None:
            raise ValueError(
                "statistic='learned' needs calibration=: a CalibrationTable, its path, or pivots "
                "of watermarked text"
            )
        if isinstance(calibration, str | PathLike):
            calibration = CalibrationTable.load(calibration)
        elif not isinstance(calibration, CalibrationTable):
            calibration = CalibrationTable.fit(calibration)
        self.table: CalibrationTable = calibration
        self.method = check_method(method)
        self.num_null_draws = int(num_null_draws)

    @classmethod
    def fit(cls, pivots: ArrayLike, **options: Any) -> "LearnedStatistic":
        """Fit a table to pivots of watermarked text and return the statistic."""
        return cls(CalibrationTable.fit(pivots), **options)

    def scores(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return the rounded log-density at each pivot, nats."""
        return self.table.score_J[self.table.bins(evidence.y_S)]

    def tail(self, evidence: Evidence, rng: np.random.Generator | None = None) -> Tail:
        """Return the p-value; exact where the convolution fits."""
        S, observed = len(evidence), self.total(evidence)
        if not S:
            return Tail(1.0, "exact")
        score_J, width_J = self.table.score_J, self.table.width_J
        law = FiniteLaw(score_J[None], width_J[None], is_log_e=False, copies=S)
        index_J = np.round(score_J / SCORE_STEP).astype(np.int64)
        if self.method == "auto" and S * int(np.ptp(index_J)) < MAX_LATTICE:
            first = int(index_J.min())
            mass_L = np.bincount(index_J - first, weights=width_J).astype(np.float64)
            one = LatticeLaw(first, mass_L, S)
            threshold = round(observed / SCORE_STEP)
            tilt = solve_tilt(law, observed)
            return Tail(lattice_tail([one], threshold, tilt, SCORE_STEP), "exact")
        return tail(
            law,
            observed,
            method=self.method,
            num_draws=self.num_null_draws,
            rng=default_rng(rng),
        )

    def description(self) -> dict[str, Any]:
        """Return name, settings and counts."""
        return super().description() | {"counts": self.table.counts_J.tolist()}

    def log_e_steps(self, evidence: Evidence) -> NDArray[np.float64]:
        """Return the log-density, whose exponential has null mean one; not rounded."""
        return self.table.log_density_J[self.table.bins(evidence.y_S)][:, None]

    @property
    def num_components(self) -> int:
        """One."""
        return 1
