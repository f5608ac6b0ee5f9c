"""Stop when the next sample's expected gain in reward is below its cost."""

from __future__ import annotations

import math
from collections.abc import Hashable

from modicum.testtime.stopping.accept import check_reward
from modicum.testtime.stopping.base import GO_ON, Decision, StoppingRule

__all__ = ["RewardGain", "expected_gain"]

LEAST_REWARDS = 3
"""The predictive law of fewer rewards has no mean."""


def expected_gain(df: float, loc: float, scale: float, best: float) -> float:
    """Return E[max(0, r - best)] for a reward r with a Student-t law.

    Parameters
    ----------
    df
        Degrees of freedom ν, above 1.
    loc, scale
        Location and scale of the law; a scale of 0 is a constant.
    best
        Reward to be exceeded.

    Returns
    -------
    float
        Nonnegative, in the unit of the rewards.

    Raises
    ------
    ValueError
        If df is at most 1 or the scale is negative.

    Notes
    -----
    With z = (best - loc) / scale: ``scale · [(ν + z²)/(ν - 1) · pdf(z) - z · sf(z)]``.

    Examples
    --------
    >>> round(expected_gain(5, 0.0, 1.0, 0.7), 8)
    0.21328346
    """
    from scipy.special import gammaln, stdtr

    if not df > 1:
        raise ValueError(f"df must be above 1 for the gain to be finite, not {df!r}")
    if not scale >= 0:
        raise ValueError(f"scale must be >= 0, not {scale!r}")
    if scale == 0:
        return max(0.0, loc - best)
    z = (best - loc) / scale
    log_pdf = (
        gammaln((df + 1) / 2)
        - gammaln(df / 2)
        - 0.5 * math.log(df * math.pi)
        - (df + 1) / 2 * math.log1p(z * z / df)
    )
    gain = (df + z * z) / (df - 1) * math.exp(log_pdf) - z * stdtr(df, -z)
    # Far out in the tail the difference of the two terms is all rounding.
    return max(0.0, scale * float(gain))


class RewardGain(StoppingRule):
    """Stop when the expected gain of one more reward over the best one falls below a cost.

    For best-of-n with a real-valued reward model. The predictive law of the next reward is the
    Student-t law of a normal sample with unknown mean and variance under the reference prior
    (Normal-Inverse-Gamma posterior). A heuristic: rewards are not normal, and it looks one step
    ahead.

    Parameters
    ----------
    cost
        What a sample may cost, in the unit of the rewards; positive.

    Raises
    ------
    ValueError
        If the cost is not positive and finite.

    Notes
    -----
    Needs three rewards; stops if they are all equal. Samples without an answer cost and teach
    nothing. After "BEACON: Bayesian Optimal Stopping for
    Efficient LLM Sampling", arXiv 2510.15945, and "Optimal Stopping vs Best-of-N for Inference Time
    Optimization", arXiv 2510.01394.
    """

    def __init__(self, cost: float) -> None:
        if not 0 < cost < math.inf:
            raise ValueError(f"cost must be positive and finite, not {cost!r}")
        self.cost = float(cost)
        self.reset()

    def __repr__(self) -> str:
        return f"RewardGain(cost={self.cost:g})"

    def reset(self) -> None:
        """Forget every sample."""
        self.best = -math.inf
        self.answer: Hashable | None = None
        self.num_rewards = 0
        self._mean = 0.0
        self._squares = 0.0

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop.

        Raises
        ------
        ValueError
            If a sample with an answer has no reward, or the reward is not a finite number.
        """
        if key is not None:
            self._learn(key, check_reward(self, key, reward))
        if self.num_rewards < LEAST_REWARDS or self.gain() >= self.cost:
            return GO_ON
        return Decision(True, self.answer, "low_gain")

    def _learn(self, key: Hashable, reward: float) -> None:
        # Welford's update: sums of squares would lose the variance of large rewards.
        self.num_rewards += 1
        difference = reward - self._mean
        self._mean += difference / self.num_rewards
        self._squares += difference * (reward - self._mean)
        if reward > self.best:
            self.best, self.answer = reward, key

    def gain(self) -> float:
        """Return the expected gain of one more sample; infinite before the third reward."""
        n = self.num_rewards
        if n < LEAST_REWARDS:
            return math.inf
        scale = math.sqrt(max(0.0, self._squares) / (n - 1) * (1 + 1 / n))
        return expected_gain(n - 1, self._mean, scale, self.best)

    def min_to_stop(self) -> int:
        """Return how many rewards are missing before a gain can be told, at least 1.

        From then on this is a lower bound.
        """
        return max(1, LEAST_REWARDS - self.num_rewards)
