"""Statistics of a keyed text, one per file, and their registry.

Every one gives a p-value that is exact or a stated upper bound for any text and any surrogate that
does not depend on the key, and e-values of mean one at every token.
"""

from typing import Any

import numpy as np

from modicum.umpwatermark.statistics.base import Needs, Statistic
from modicum.umpwatermark.statistics.binomial import BinomialStatistic
from modicum.umpwatermark.statistics.combined import (
    CombinedStatistic,
    MatchStatistic,
    WeightedPivotStatistic,
    Weights,
)
from modicum.umpwatermark.statistics.hits import HitsStatistic
from modicum.umpwatermark.statistics.learned import CalibrationTable, LearnedStatistic
from modicum.umpwatermark.statistics.oracle import OracleStatistic
from modicum.umpwatermark.statistics.sum import SumStatistic
from modicum.umpwatermark.statistics.trgof import TrGoFStatistic
from modicum.umpwatermark.statistics.weighted_hits import WeightedHitsStatistic

__all__ = [
    "STATISTICS",
    "BinomialStatistic",
    "CalibrationTable",
    "CombinedStatistic",
    "HitsStatistic",
    "LearnedStatistic",
    "MatchStatistic",
    "Needs",
    "OracleStatistic",
    "Statistic",
    "SumStatistic",
    "TrGoFStatistic",
    "WeightedHitsStatistic",
    "WeightedPivotStatistic",
    "make_statistic",
]

_PAIRED: dict[str, type[CombinedStatistic]] = {
    cls.name: cls for cls in (CombinedStatistic, WeightedPivotStatistic, MatchStatistic)
}

STATISTICS = (
    "sum",
    "binomial",
    "learned",
    "trgof",
    *_PAIRED,
    "oracle",
    "hits",
    "weighted-hits",
)


def make_statistic(
    name: str,
    *,
    weights: Weights | None = None,
    gamma: float | None = None,
    calibration: Any = None,
    truncate: bool = False,
    mixture: bool = False,
    method: str = "auto",
    num_null_draws: int = 9999,
) -> Statistic:
    """Build a statistic by name.

    Parameters
    ----------
    name
        One of `STATISTICS`.
    weights
        ``(a, b)`` of ``"combined"`` (default (.3, .3)); a of ``"weighted-pivot"`` (.7), b of
        ``"match"`` (.7), the share of ``"weighted-hits"`` (.9).
    gamma
        Level of ``"binomial"``, 1/2 by default.
    calibration
        Of ``"learned"``: table, path or pivots.
    truncate, mixture
        Of ``"combined"`` and its ends.
    method, num_null_draws
        See `modicum.umpwatermark.nulls.tail`; statistics with a closed form need neither.

    Returns
    -------
    Statistic

    Raises
    ------
    ValueError
        If the name is unknown, a value is out of range, or an option does not belong to it.
    """
    if name not in STATISTICS:
        raise ValueError(f"unknown statistic {name!r}; choose one of {STATISTICS}")
    if isinstance(num_null_draws, bool) or not isinstance(num_null_draws, int | np.integer):
        raise TypeError(f"num_null_draws must be an int, got {num_null_draws!r}")
    if num_null_draws < 1:
        raise ValueError(f"num_null_draws must be at least 1, got {num_null_draws}")
    paired = name in _PAIRED
    for option, given in (("truncate", truncate), ("mixture", mixture)):
        if given and not paired:
            raise ValueError(f"{option}=True belongs to {sorted(_PAIRED)}, not to {name!r}")
    for option, value, owner in (
        ("gamma", gamma, "binomial"),
        ("calibration", calibration, "learned"),
    ):
        if value is not None and name != owner:
            raise ValueError(f"{option}= belongs to statistic={owner!r}, not to {name!r}")
    if weights is not None and not paired and name != "weighted-hits":
        raise ValueError(f"statistic={name!r} has no weights, got {weights!r}")
    draws: dict[str, Any] = {"method": method, "num_null_draws": num_null_draws}
    if paired:
        return _PAIRED[name](weights, truncate=truncate, mixture=mixture, **draws)
    if name == "weighted-hits":
        if weights is None:
            return WeightedHitsStatistic(**draws)
        if not isinstance(weights, int | float):
            raise ValueError(f"the weight of 'weighted-hits' is one number, got {weights!r}")
        return WeightedHitsStatistic(float(weights), **draws)
    if name == "learned":
        return LearnedStatistic(calibration, **draws)
    if name == "trgof":
        return TrGoFStatistic(**draws)
    if name == "binomial":
        return BinomialStatistic(0.5 if gamma is None else gamma)
    plain: dict[str, type[Statistic]] = {
        cls.name: cls for cls in (SumStatistic, HitsStatistic, OracleStatistic)
    }
    return plain[name]()
