"""Anytime-valid tests, e-values, exact tails and intervals, in NumPy.

All logarithms are natural, all results float64. SciPy supplies the special functions and is loaded
by the functions that need it, not by the import.
"""

from modicum.core.stats.eprocess import EProcess, beta_bernoulli_log_marginal, log_e_process
from modicum.core.stats.intervals import (
    DifferenceResult,
    SlopeResult,
    bootstrap_interval,
    clopper_pearson,
    log_log_slope,
    median_interval,
    paired_difference,
    ratio_of_medians_interval,
)
from modicum.core.stats.merge import (
    POWER_GRID,
    EBHResult,
    calibrator_grid,
    e_benjamini_hochberg,
    e_to_p,
    mean_e_value,
    mixture_calibrator,
    power_calibrator,
    product_e_value,
    spending_levels,
)
from modicum.core.stats.sequential import BettingTest, bernoulli_confidence_sequence
from modicum.core.stats.tails import poisson_binomial_prefix_sf, poisson_binomial_sf

__all__ = [
    "POWER_GRID",
    "BettingTest",
    "DifferenceResult",
    "EBHResult",
    "EProcess",
    "SlopeResult",
    "bernoulli_confidence_sequence",
    "beta_bernoulli_log_marginal",
    "bootstrap_interval",
    "calibrator_grid",
    "clopper_pearson",
    "e_benjamini_hochberg",
    "e_to_p",
    "log_e_process",
    "log_log_slope",
    "mean_e_value",
    "median_interval",
    "mixture_calibrator",
    "paired_difference",
    "poisson_binomial_prefix_sf",
    "poisson_binomial_sf",
    "power_calibrator",
    "product_e_value",
    "ratio_of_medians_interval",
    "spending_levels",
]
