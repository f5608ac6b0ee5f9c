"""Anytime-valid tests, e-values, exact tails and intervals, in NumPy.

All logarithms are natural, all results float64. SciPy supplies the special functions and is loaded
by the functions that need it, not by the import.
"""

from modicum.core.stats.eprocess import EProcess, beta_bernoulli_log_marginal, log_e_process

__all__ = ["EProcess", "beta_bernoulli_log_marginal", "log_e_process"]
