"""Evidence that one of two answers is the likelier one, as an e-process, and the Beta posterior.

Takes counts of two answers, in any shape; gives natural logarithms. Counts of up to 1e7 are meant.
Knows no rule, no thresholds and no other answers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["beta_confidence", "log_e_pair"]


def log_e_pair(a: npt.ArrayLike, b: npt.ArrayLike, two_sided: bool = False) -> np.ndarray:
    """Return the log e-value of a votes for one answer against b votes for another.

    A large value speaks for the first answer. As votes come in, E is a nonnegative supermartingale
    that starts at 1 whenever a vote for either goes to the first with probability at most 1/2; by
    Ville's inequality it then ever reaches 1/delta with probability at most delta.

    Parameters
    ----------
    a, b : array_like
        Votes for the first and for the second answer, nonnegative; they broadcast.
    two_sided : bool
        Spread the alternative over (0, 1), as the prior-posterior ratio does, instead of over
        (1/2, 1). Large values then speak against equality, whichever answer leads, and ``E`` is a
        martingale at probability 1/2 only.

    Returns
    -------
    ndarray or float, float64
        ``log E``, increasing in `a` and decreasing in `b` (two-sided: where ``a >= b``). ``-inf``
        where b is so much larger than a that E underflows.

    Raises
    ------
    ValueError
        For counts that are negative or not finite.

    Notes
    -----
    One-sided ``E = 2 · 2^n · B(a+1, b+1) · I_{1/2}(b+1, a+1)`` with n = a + b, the likelihood of a
    probability that is uniform on (1/2, 1) over that of 1/2; two-sided ``E = 2^n B(a+1, b+1)``.
    Two-sided form: "PAC Mode Estimation using PPR Martingale Confidence Sequences", Anand Jain
    et al., arXiv 2109.05047. The error of the logarithm is below 1e-7 for counts up to 1e7.

    Examples
    --------
    >>> round(float(np.exp(log_e_pair(7, 0))), 3)
    31.875
    """
    from scipy.special import betainc, betaln

    first, second = _counts(a, b)
    log_mixture = betaln(first + 1, second + 1) + (first + second) * math.log(2)
    if two_sided:
        return log_mixture
    with np.errstate(divide="ignore"):
        log_upper = np.log(betainc(second + 1, first + 1, 0.5))
    return log_mixture + math.log(2) + log_upper


def beta_confidence(a: npt.ArrayLike, b: npt.ArrayLike) -> np.ndarray:
    """Return P(Beta(a+1, b+1) > 1/2), the posterior that the first of two answers is the likelier.

    Parameters
    ----------
    a, b : array_like
        Votes for the first and for the second answer, nonnegative; they broadcast.

    Returns
    -------
    ndarray or float, float64
        In [0, 1].

    Raises
    ------
    ValueError
        For counts that are negative or not finite.

    Notes
    -----
    "Let's Sample Step by Step: Adaptive-Consistency for Efficient Reasoning and Coding with LLMs",
    arXiv 2305.11860. It is not corrected for looking after every sample.
    """
    from scipy.special import betainc

    first, second = _counts(a, b)
    return betainc(second + 1, first + 1, 0.5)


def _counts(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    for name, counts in (("a", first), ("b", second)):
        if not np.all((counts >= 0) & (counts < np.inf)):
            raise ValueError(f"counts {name} must be finite and >= 0, got {counts}")
    return first, second
