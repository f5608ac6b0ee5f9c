"""Who gets the most votes, when the votes of different answers are independent given their sum.

The arithmetic behind `modicum.testtime.plurality` and `modicum.testtime.recorded`. Votes of n
independent samples are independent Poisson counts conditioned on their sum; votes of a random
subset of recorded samples are independent binomial counts conditioned on theirs. Either way the
probability that the target wins is one coefficient of a generating function, divided by the
probability of the sum. The function is evaluated on the unit circle and the coefficient read off by
an inverse Fourier transform whose length covers the likely sums only, about ``9 * sqrt(n)``
points, so that nothing can overflow and errors are absolute, near 1e-16 times ``sqrt(2 pi n)``.
Takes tables of probabilities and gives probabilities; checks nothing.

Legend: ``I`` entries of a table, ``M`` points of the circle, ``H`` those of them that a real
function needs (``M // 2 + 1``), ``B`` vote counts of the target worked on together, ``U`` nodes of
the integral that shares ties, ``N`` sums asked for, ``J`` rivals.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NEGLIGIBLE_NATS = 40.0
"""Events with a probability below exp(-40) = 4e-18 are left out."""

BLOCK_ENTRIES = 1 << 15
"""Complex numbers per working array: half a megabyte, which stays in the cache."""

WINDOW_DEVIATIONS = 2.0
"""How many standard deviations a sum may be from the mean of the law that serves it.

The division by the probability of the sum inflates rounding by exp(2**2 / 2) = 7.4 there.
"""


@dataclass(frozen=True)
class CountTable:
    """Law of a count where it is not negligible: ``pmf_I[i]`` is the probability of ``low + i``."""

    low: int
    pmf_I: NDArray[np.float64]

    @property
    def high(self) -> int:
        """Largest count in the table."""
        return self.low + len(self.pmf_I) - 1

    def between(self, first: int, stop: int) -> NDArray[np.float64]:
        """Return the probabilities of ``first … stop - 1``, zero outside the table."""
        values = np.zeros(stop - first)
        start, end = max(first, self.low), min(stop, self.high + 1)
        if start < end:
            values[start - first : end - first] = self.pmf_I[start - self.low : end - self.low]
        return values

    def on_circle(self, period: int, stop: int | None = None) -> NDArray[np.complex128]:
        """Return the generating function of the counts below `stop`, complex128 ``[H]``."""
        pmf_I = self.pmf_I if stop is None else self.pmf_I[: max(stop - self.low, 0)]
        position_I = (self.low + np.arange(len(pmf_I))) % period
        return np.fft.rfft(np.bincount(position_I, weights=pmf_I, minlength=period))


@dataclass(frozen=True)
class Rivals:
    """``multiplicity`` answers whose votes have the same law."""

    table: CountTable
    multiplicity: int


def likely_range(mean: float) -> tuple[int, int]:
    """Return where a Poisson or binomial count lies, by Bernstein's inequality."""
    nats = NEGLIGIBLE_NATS
    below = math.sqrt(2 * mean * nats)
    above = nats / 3 + math.sqrt((nats / 3) ** 2 + 2 * mean * nats)
    return max(0, math.floor(mean - below)), math.ceil(mean + above)


def _from_ratios(low: int, mode: int, ratio_I: NDArray[np.float64]) -> CountTable:
    # Products outwards from the mode, scaled to sum to one: no logarithm of a factorial, whose
    # rounding alone would be 1e-9 at counts of a million.
    up = np.cumprod(ratio_I[mode - low :])
    down = np.cumprod(1 / ratio_I[: mode - low][::-1])[::-1]
    weight_I = np.concatenate([down, [1.0], up])
    return CountTable(low, weight_I / weight_I.sum())


def poisson_table(mean: float) -> CountTable:
    """Return the Poisson law with this mean."""
    if mean == 0:
        return CountTable(0, np.ones(1))
    low, high = likely_range(mean)
    return _from_ratios(low, math.floor(mean), mean / np.arange(low + 1, high + 1))


def binomial_table(trials: int, prob: float) -> CountTable:
    """Return the binomial law of `trials` draws that succeed with probability `prob`."""
    if trials == 0 or prob == 0:
        return CountTable(0, np.ones(1))
    if prob == 1:
        return CountTable(trials, np.ones(1))
    low, high = likely_range(trials * prob)
    high = min(high, trials)
    count_I = np.arange(low, high)
    ratio_I = (trials - count_I) / (count_I + 1) * (prob / (1 - prob))
    return _from_ratios(low, min(math.floor((trials + 1) * prob), trials), ratio_I)


def windows(sums: NDArray[np.int64], size: float = math.inf) -> Iterator[NDArray[np.int64]]:
    """Split sorted sums into runs that one law serves; `size` is that of the population."""
    start = 0
    for end in range(1, len(sums) + 1):
        first, last = float(sums[start]), float(sums[min(end, len(sums) - 1)])
        variance = min(first * (1 - first / size), last * (1 - last / size))
        within = last - first <= 2 * WINDOW_DEVIATIONS * math.sqrt(variance)
        if end == len(sums) or not within:
            yield sums[start:end]
            start = end


def period_for(sums: NDArray[np.int64], mean: float) -> int:
    """Return a length M for which sums that are not negligible do not fall onto those asked for."""
    low, high = likely_range(mean)
    return max(high - int(sums[0]), int(sums[-1]) - low) + 1


@lru_cache(maxsize=64)
def _legendre(num_nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy.special import roots_legendre

    node_U, weight_U = roots_legendre(num_nodes)
    return (node_U + 1) / 2, weight_U / 2


def _likely_ties(expected: float, most: int) -> int:
    """Return the largest t up to `most` for which ``expected**t / t! >= P(t ties)`` matters."""
    if expected == 0:
        return 0
    low, high = min(math.floor(expected), most), most
    while low < high:
        middle = (low + high + 1) // 2
        if middle * math.log(expected) - math.lgamma(middle + 1) < -NEGLIGIBLE_NATS:
            high = middle - 1
        else:
            low = middle
    return low


def _nodes(
    tie: str, most_ties: int, expected_ties: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights on [0, 1] that turn u**ties into the target's share of a tie."""
    if tie == "strict":
        return np.zeros(1), np.ones(1)
    if tie == "favor":
        return np.ones(1), np.ones(1)
    most_ties = min(most_ties, _likely_ties(expected_ties, most_ties))
    # m nodes integrate degree 2m - 1 exactly. On [0, 1], u**t is within 2 exp(-d*d/t) of a
    # polynomial of degree d (write it as cos(a/2)**(2t), a binomial sum of cos(k a)), which is why
    # a large t needs only of the order of sqrt(t) nodes.
    degree = min(most_ties, math.ceil(math.sqrt(most_ties * NEGLIGIBLE_NATS)))
    return _legendre(degree // 2 + 1)


def _power(base: NDArray[np.complex128], exponent: int) -> NDArray[np.complex128]:
    result: NDArray[np.complex128] | None = None
    while True:
        if exponent & 1:
            result = base if result is None else result * base
        exponent >>= 1
        if not exponent:
            assert result is not None
            return result
        base = base * base


def _ties(alive: Sequence[Rivals], first: int, stop: int, most_votes: int) -> tuple[int, float]:
    """Return the most and the expected ties of a target with ``first … stop - 1`` votes."""
    equal_B = np.zeros(stop - first)
    for group in alive:
        equal_B += group.multiplicity * group.table.between(first, stop)
    most = sum(group.multiplicity for group in alive)
    return min(most, most_votes // first - 1), float(equal_B.max())


def _one_vote(rivals: Sequence[Rivals], lone_mean: float, tie: str) -> CountTable:
    """Return the law of the others' votes when one vote is enough, weighed by the target's share.

    Then nobody has more than one vote and every vote of the others is a tie. There can be thousands
    of them, far more than the nodes of the integral would be quick for.
    """
    law = poisson_table(lone_mean)
    pmf_I = law.pmf_I
    for group in rivals:
        for _ in range(group.multiplicity):
            pmf_I = np.asarray(np.convolve(pmf_I, group.table.between(0, 2)), dtype=np.float64)
    tied_I = law.low + np.arange(len(pmf_I))
    share = {"strict": tied_I == 0, "favor": np.ones(len(pmf_I)), "random": 1 / (1 + tied_I)}
    return CountTable(law.low, pmf_I * share[tie])


def _unbeaten(
    alive: Sequence[Rivals],
    below_J: list[NDArray[np.complex128]],
    first: int,
    power_BH: NDArray[np.complex128],
    node_U: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Return the generating function of rivals with at most the target's votes, u per tie.

    Complex128 ``[B, U, H]``. `below_J` holds every rival's function below `first` votes, and is
    carried on to the end of the block.
    """
    win_BUH = np.ones((len(power_BH), len(node_U), power_BH.shape[1]), dtype=np.complex128)
    for index, group in enumerate(alive):
        votes_B = group.table.between(first, first + len(power_BH))
        equal_BH = votes_B[:, None] * power_BH
        up_to_BH = below_J[index] + np.cumsum(equal_BH, axis=0)
        fewer_BH = np.concatenate([below_J[index][None], up_to_BH[:-1]])
        below_J[index] = up_to_BH[-1]
        factor_BUH = fewer_BH[:, None] + node_U[:, None] * equal_BH[:, None]
        win_BUH *= _power(factor_BUH, group.multiplicity)
    return win_BUH


def win_function(
    target: CountTable,
    rivals: Sequence[Rivals],
    bystanders: Sequence[CountTable],
    *,
    tie: str,
    period: int,
    most_votes: int,
    lone_mean: float = 0.0,
) -> NDArray[np.complex128]:
    """Return the generating function of the sum on the event that the target wins.

    Parameters
    ----------
    target
        Law of the target's votes.
    rivals
        Laws of the votes of the other answers.
    bystanders
        Laws of what enters the sum and never wins.
    tie
        "random": a tie with t others counts 1 / (t + 1); "strict": 0; "favor": 1.
    period
        M, number of points ``exp(-2j pi k / M)``; with 1 the value is the probability to win when
        the sum is left free.
    most_votes
        Largest sum of interest.
    lone_mean
        Poisson mean of the number of answers that come up once each.

    Returns
    -------
    complex128, shape [M // 2 + 1]
    """
    point_H = np.arange(period // 2 + 1)
    root_M = np.exp(-2j * np.pi / period * np.arange(period))
    rest_H = np.ones(len(point_H), dtype=np.complex128)
    for bystander in bystanders:
        rest_H = rest_H * bystander.on_circle(period)
    total_H = np.zeros_like(rest_H)
    first = max([1, target.low, *(group.table.low for group in rivals)])
    if lone_mean:
        if first == 1:
            others_H = _one_vote(rivals, lone_mean, tie).on_circle(period)
            total_H = target.between(1, 2) * root_M[point_H % period] * others_H * rest_H
            first = 2
        rest_H = rest_H * poisson_table(lone_mean).on_circle(period)
    alive = sorted(rivals, key=lambda group: group.table.high)
    below_J = [group.table.on_circle(period, first) for group in alive]
    longest = max(1, BLOCK_ENTRIES // len(point_H))
    while first <= min(target.high, most_votes):
        while alive and alive[0].table.high < first:
            # All of their votes are below the target's from here on.
            rest_H = rest_H * _power(below_J.pop(0), alive.pop(0).multiplicity)
        stop = min(first + longest, target.high + 1)
        node_U, weight_U = _nodes(tie, *_ties(alive, first, stop, most_votes))
        stop = min(stop, first + max(1, longest // len(node_U)))
        power_BH = root_M[np.arange(first, stop)[:, None] * point_H % period]
        win_BUH = _unbeaten(alive, below_J, first, power_BH, node_U)
        target_BH = target.between(first, stop)[:, None] * power_BH
        total_H += rest_H * np.einsum("bh,u,buh->h", target_BH, weight_U, win_BUH)
        first = stop
    return total_H


def win_given_sum(
    win_H: NDArray[np.complex128], period: int, sums: NDArray[np.int64], law: CountTable
) -> NDArray[np.float64]:
    """Return the probability to win given each sum, float64 ``[N]``; `law` is that of the sum."""
    joint_N = np.fft.irfft(win_H, period)[sums % period]
    return np.clip(joint_N / law.pmf_I[sums - law.low], 0.0, 1.0)
