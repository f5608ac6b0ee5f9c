"""What k samples would have achieved, estimated from N recorded ones without bias.

Takes recorded answers, votes or rewards of a prompt and a k up to N; gives the average over all
subsets of k recorded samples, which is an unbiased estimate of the success with k fresh ones:
majority vote, pass@k, best-of-k and the verified vote exactly, the weighted vote by drawing
subsets. Curves average over the prompts of a data set. Runs nothing, reads no text and says nothing
of k beyond N, except for the power law of `fit_coverage`.

Source: pass@k of "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374); the vote by
the generating function of `modicum.testtime.plurality` with binomial coefficients in place of
exponential series, our derivation, held to enumeration of subsets in the tests.

Legend: ``N`` recorded samples of a prompt, ``K`` answers, ``J`` values of k, ``P`` prompts, ``S``
subsets.
"""

import itertools
import math
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.device import numpy_generator
from modicum.testtime._votes import (
    Rivals,
    binomial_table,
    period_for,
    win_function,
    win_given_sum,
    windows,
)
from modicum.testtime.plurality import Tie, check_index, check_tie

__all__ = [
    "SELECTIONS",
    "CoverageFit",
    "Curve",
    "Estimate",
    "Recorded",
    "best_of_k",
    "curve",
    "fit_coverage",
    "maj_at_k",
    "maj_curve",
    "pass_at_k",
    "verified_majority_at_k",
    "vote_counts",
    "weighted_at_k",
]

Selection = Literal["majority", "coverage", "best_of_n", "weighted", "verified_majority"]
SELECTIONS: tuple[Selection, ...] = (
    "majority",
    "coverage",
    "best_of_n",
    "weighted",
    "verified_majority",
)
Fallback = Literal["majority", "max", "abstain"]
FALLBACKS: tuple[Fallback, ...] = ("majority", "max", "abstain")

TIED_WEIGHTS = 1e-12
"""Sums of weights this close, relative to the larger, are tied: they differ by rounding."""

BLOCK_ENTRIES = 1 << 22
"""Random numbers drawn at a time for subsets, 32 MiB."""


LARGEST_LOG = math.log(sys.float_info.max)
"""Logarithm of the largest float."""


class Estimate(NamedTuple):
    """A mean with its standard error (0 if nothing was drawn at random)."""

    mean: float
    se: float


def _check_counts(counts: ArrayLike) -> NDArray[np.int64]:
    count_K = np.asarray(counts)
    if count_K.ndim != 1 or count_K.size == 0:
        raise ValueError(f"counts must be a flat list of at least one count, got {counts!r}")
    if not np.issubdtype(count_K.dtype, np.integer):
        raise TypeError(f"counts must be integers, got {count_K[0].item()!r}")
    if count_K.min() < 0:
        raise ValueError(f"counts must be >= 0, got {int(count_K.min())}")
    return count_K.astype(np.int64)


def maj_at_k(
    counts: ArrayLike, k: int, target: int = 0, *, tie: Tie = "random", null: int = 0
) -> float:
    """Return the share of the subsets of k recorded samples that elect the target.

    Parameters
    ----------
    counts
        Recorded votes of each answer, integers ``[K]``; that of the target may be 0.
    k
        Size of the subsets, from 1 to the number of recorded samples.
    target
        Index in `counts` of the answer that is to win.
    tie
        As in `modicum.testtime.plurality.plurality_success`; "first" stands for subsets in random
        order.
    null
        Recorded samples without an answer: drawn like the others, they do not vote.

    Returns
    -------
    float
        In [0, 1], exact up to an absolute error of 1e-12 for N up to 1e4.

    Raises
    ------
    ValueError
        If a count is negative or an argument is out of its range.
    TypeError
        If an argument that counts something is no integer.

    Examples
    --------
    >>> round(maj_at_k([5, 4, 3], 4), 6)
    0.484848
    """
    return float(maj_curve(counts, [k], target, tie=tie, null=null)[0])


def maj_curve(
    counts: ArrayLike, ks: ArrayLike, target: int = 0, *, tie: Tie = "random", null: int = 0
) -> NDArray[np.float64]:
    """Return `maj_at_k` for many k at once, float64 of the shape of `ks`; k in any order."""
    count_K = _check_counts(counts)
    target = check_index(target, "target", 0, len(count_K) - 1)
    rule = check_tie(tie)
    null = check_index(null, "null", 0)
    size = int(count_K.sum()) + null
    ks_X = _check_ks(ks, size)
    sizes_J, back = np.unique(ks_X, return_inverse=True)
    repeats = Counter(int(c) for c in np.delete(count_K, target) if c)
    own = int(count_K[target])
    parts = [_window(own, repeats, null, size, run, rule) for run in windows(sizes_J, size)]
    return np.concatenate([np.zeros(0), *parts])[back].reshape(ks_X.shape)


def _check_ks(ks: ArrayLike, size: int) -> NDArray[np.int64]:
    ks_X = np.asarray(ks)
    if ks_X.size and not np.issubdtype(ks_X.dtype, np.integer):
        raise TypeError(f"k must be an integer, got {ks_X.ravel()[0].item()!r}")
    if size < 1:
        raise ValueError("there are no recorded samples")
    if ks_X.size and not 1 <= ks_X.min() <= ks_X.max() <= size:
        wrong = int(ks_X.min()) if ks_X.min() < 1 else int(ks_X.max())
        raise ValueError(f"k must be in 1 … {size}, the number of recorded samples, not {wrong}")
    return ks_X.astype(np.int64)


def _window(
    own: int,
    repeats: Counter[int],
    null: int,
    size: int,
    sizes_J: NDArray[np.int64],
    tie: str,
) -> NDArray[np.float64]:
    """Return the estimate for subset sizes that lie close together."""
    # A random subset of k is what is left of independent draws of every sample, given their number.
    mean = (int(sizes_J[0]) + int(sizes_J[-1])) / 2
    prob = mean / size
    period = min(period_for(sizes_J, mean), size + 1)
    win_H = win_function(
        binomial_table(own, prob),
        [Rivals(binomial_table(count, prob), times) for count, times in repeats.items()],
        [binomial_table(null, prob)],
        tie=tie,
        period=period,
        most_votes=int(sizes_J[-1]),
    )
    return win_given_sum(win_H, period, sizes_J, binomial_table(size, prob))


def _log_none_drawn(size: int, marked: int, k: int) -> float:
    """Return the log-probability that k of `size` samples include none of the marked ones."""
    if size - marked < k:
        return -math.inf
    # C(size - marked, k) / C(size, k) as a product over the smaller of the two numbers.
    few, many = sorted((marked, k))
    return float(np.log1p(-many / np.arange(size - few + 1, size + 1)).sum())


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the share of the subsets of k of n recorded samples with a correct one among them.

    ``1 - C(n - c, k) / C(n, k)``.

    Parameters
    ----------
    n
        Recorded samples.
    c
        Correct ones among them, from 0 to n.
    k
        Size of the subsets, from 1 to n.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    TypeError
        If an argument is no integer.
    """
    n = check_index(n, "n", 1)
    c = check_index(c, "c", 0, n)
    k = check_index(k, "k", 1, n)
    return 0.0 - math.expm1(_log_none_drawn(n, c, k))


def _check_rewards(rewards: ArrayLike) -> NDArray[np.float64]:
    reward_N = np.asarray(rewards, dtype=np.float64)
    if reward_N.ndim != 1 or reward_N.size == 0:
        raise ValueError(f"rewards must be a flat list of at least one number, got {rewards!r}")
    if not bool(np.isfinite(reward_N).all()):
        index = int(np.flatnonzero(~np.isfinite(reward_N))[0])
        raise ValueError(f"reward of sample {index} must be finite, not {float(reward_N[index])!r}")
    return reward_N


def best_of_k(rewards: ArrayLike, correct: ArrayLike, k: int) -> float:
    """Return the share of the subsets of k recorded samples whose best reward is a correct sample.

    Samples that tie for the best reward of a subset share it equally. With rewards of 0 and 1 this
    is at once what drawing until the first accepted sample achieves within k.

    Parameters
    ----------
    rewards
        Reward of each recorded sample, ``[N]``, finite.
    correct
        Whether each is correct, ``[N]``.
    k
        Size of the subsets, from 1 to N.

    Raises
    ------
    ValueError
        If a reward is not finite (the message names the sample), the lengths differ or `k` is out
        of its range.
    TypeError
        If `k` is no integer.
    """
    reward_N = _check_rewards(rewards)
    correct_N = np.asarray(correct)
    if correct_N.shape != reward_N.shape:
        raise ValueError(
            f"correct and rewards must have one length, got {correct_N.shape} and {reward_N.shape}"
        )
    if not bool(np.isin(correct_N, (0, 1)).all()):
        raise ValueError(f"correct must hold true and false (or 1 and 0), got {correct!r}")
    size = len(reward_N)
    k = check_index(k, "k", 1, size)
    # below_N[i] = C(i, k) / C(N, k): all k among the i lowest rewards.
    rank = np.arange(size, 0, -1)
    shrink_N = np.where(rank > k, (rank - k) / rank, 0.0)
    below_N = np.concatenate([[1.0], np.cumprod(shrink_N)])[::-1]
    _, group_N, times_G = np.unique(reward_N, return_inverse=True, return_counts=True)
    share_G = np.bincount(group_N, weights=correct_N) / times_G
    end_G = np.cumsum(times_G)
    return float((below_N[end_G] - below_N[end_G - times_G]) @ share_G)


def vote_counts(
    keys: Iterable[Hashable | None], correct_key: Hashable
) -> tuple[NDArray[np.int64], int]:
    """Count recorded answers with the correct one first, for `maj_at_k` with ``target=0``.

    Parameters
    ----------
    keys
        Canonical answer of each sample; None and NaN are samples without an answer.
    correct_key
        The correct answer.

    Returns
    -------
    counts : int64, shape [K]
        ``counts[0]`` is that of the correct answer, which may be 0.
    null : int
        Samples without an answer.

    Raises
    ------
    ValueError
        If `correct_key` is None or NaN.
    TypeError
        If a key is not hashable.
    """
    if _is_null(correct_key):
        raise ValueError(f"correct_key must be an answer, not {correct_key!r}")
    votes: Counter[Hashable] = Counter({correct_key: 0})
    null = 0
    for key in keys:
        if _is_null(key):
            null += 1
        else:
            votes[key] += 1
    return np.fromiter(votes.values(), dtype=np.int64, count=len(votes)), null


def _is_null(key: Hashable | None) -> bool:
    return key is None or (isinstance(key, float) and math.isnan(key))


def _check_threshold(threshold: float) -> float:
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, not {threshold!r}")
    return float(threshold)


def verified_majority_at_k(
    keys: Sequence[Hashable | None],
    rewards: ArrayLike,
    correct_key: Hashable,
    k: int,
    *,
    threshold: float = 0.5,
    fallback: Fallback = "majority",
    tie: Tie = "random",
) -> float:
    """Return the share of the subsets of k recorded samples whose accepted ones elect the answer.

    Parameters
    ----------
    keys
        Canonical answer of each sample, ``[N]``; None does not vote.
    rewards
        Reward of each, ``[N]``, finite.
    correct_key
        The answer that is to win.
    k
        Size of the subsets, from 1 to N.
    threshold
        A sample is accepted if its reward is at least this.
    fallback
        If no sample of a subset is accepted: "majority" votes among all, "max" takes the best
        reward, "abstain" gives no answer, which is an error. A sample that is accepted without an
        answer counts as accepted and does not vote.
    tie
        As in `maj_at_k`.

    Raises
    ------
    ValueError
        If a reward is not finite, the lengths differ or an argument is out of its range.
    TypeError
        If `k` is no integer.
    """
    reward_N = _check_rewards(rewards)
    keys = list(keys)
    if len(keys) != len(reward_N):
        raise ValueError(f"there are {len(keys)} keys and {len(reward_N)} rewards")
    if fallback not in FALLBACKS:
        raise ValueError(f"fallback must be one of {FALLBACKS}, not {fallback!r}")
    size = len(keys)
    k = check_index(k, "k", 1, size)
    accept_N = reward_N >= _check_threshold(threshold)
    accepted = [key for key, accept in zip(keys, accept_N, strict=True) if accept]
    counts, null = vote_counts(accepted, correct_key)
    success = maj_at_k(counts, k, tie=tie, null=null + size - len(accepted))
    none = math.exp(_log_none_drawn(size, len(accepted), k))
    if none == 0 or fallback == "abstain":
        return success
    # Given that none was accepted, the subset is a random one of the rejected samples.
    rejected = [key for key, accept in zip(keys, accept_N, strict=True) if not accept]
    if fallback == "max":
        right = [key == correct_key for key in rejected]
        return success + none * best_of_k(reward_N[~accept_N], right, k)
    counts, null = vote_counts(rejected, correct_key)
    return success + none * maj_at_k(counts, k, tie=tie, null=null)


def weighted_at_k(
    keys: Sequence[Hashable | None],
    weights: ArrayLike,
    correct_key: Hashable,
    k: int,
    *,
    tie: Tie = "random",
    n_subsets: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate the share of the subsets of k recorded samples whose weighted vote is correct.

    Parameters
    ----------
    keys
        Canonical answer of each sample, ``[N]``; None does not vote.
    weights
        Weight of each vote, ``[N]``, finite and at least 0.
    correct_key
        The answer that is to win.
    k
        Size of the subsets, from 1 to N.
    tie
        As in `maj_at_k`; sums within a relative 1e-12 are tied.
    n_subsets
        Random subsets to draw, at least 2. Where there are no more than so many, every one is
        visited and the result is exact.
    seed
        Of the draws.

    Returns
    -------
    Estimate
        Mean and standard error, which is 0 where the mean is exact.

    Raises
    ------
    ValueError
        If a weight is negative or not finite (the message names the sample), the lengths differ or
        an argument is out of its range.
    TypeError
        If `k` or `n_subsets` is no integer.
    """
    n_subsets = check_index(n_subsets, "n_subsets", 2)
    rng = numpy_generator(seed, "subsets")
    return _weighted(keys, weights, correct_key, k, check_tie(tie), n_subsets, rng)


def _check_weights(weights: ArrayLike, size: int) -> NDArray[np.float64]:
    weight_N = np.asarray(weights, dtype=np.float64)
    if weight_N.shape != (size,):
        raise ValueError(f"there are {size} keys and weights of shape {weight_N.shape}")
    right_N = (weight_N >= 0) & np.isfinite(weight_N)
    if not bool(right_N.all()):
        index = int(np.flatnonzero(~right_N)[0])
        raise ValueError(
            f"weight of sample {index} must be finite and >= 0, not {float(weight_N[index])!r}; "
            "map rewards of either sign to weights first, for instance with a softmax"
        )
    return weight_N


def _weighted(
    keys: Sequence[Hashable | None],
    weights: ArrayLike,
    correct_key: Hashable,
    k: int,
    tie: str,
    n_subsets: int,
    rng: np.random.Generator,
) -> Estimate:
    size = len(keys)
    weight_N = _check_weights(weights, size)
    if _is_null(correct_key):
        raise ValueError(f"correct_key must be an answer, not {correct_key!r}")
    k = check_index(k, "k", 1, size)
    answers: dict[Hashable, int] = {correct_key: 0}
    voting_N = np.array([not _is_null(key) for key in keys])
    answer_N = np.array(
        [0 if _is_null(key) else answers.setdefault(key, len(answers)) for key in keys]
    )
    exact = math.comb(size, k) <= n_subsets
    won_S = np.concatenate(
        [
            _weighted_wins(subset_Sk, answer_N, voting_N, weight_N, len(answers), tie)
            for subset_Sk in (_all_subsets(size, k) if exact else _subsets(size, k, n_subsets, rng))
        ]
    )
    error = 0.0 if exact else float(won_S.std(ddof=1)) / math.sqrt(n_subsets)
    return Estimate(float(won_S.mean()), error)


def _all_subsets(size: int, k: int) -> Iterator[NDArray[np.int64]]:
    yield np.array(list(itertools.combinations(range(size), k)), dtype=np.int64)


def _subsets(
    size: int, k: int, n_subsets: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    most = max(1, BLOCK_ENTRIES // size)
    for start in range(0, n_subsets, most):
        noise_SN = rng.random((min(most, n_subsets - start), size))
        yield np.argpartition(noise_SN, k - 1, axis=1)[:, :k]


def _weighted_wins(
    subset_Sk: NDArray[np.int64],
    answer_N: NDArray[np.int64],
    voting_N: NDArray[np.bool_],
    weight_N: NDArray[np.float64],
    num_answers: int,
    tie: str,
) -> NDArray[np.float64]:
    """Return what each subset gives answer 0: 1, 0 or its share of a tie."""
    shape = (len(subset_Sk), num_answers)
    cell_Sk = np.arange(len(subset_Sk))[:, None] * num_answers + answer_N[subset_Sk]
    votes_Sk = voting_N[subset_Sk]
    cells = cell_Sk[votes_Sk]
    size = shape[0] * shape[1]
    drawn_SK = np.bincount(cells, minlength=size).reshape(shape) > 0
    sums = np.bincount(cells, weights=weight_N[subset_Sk][votes_Sk], minlength=size)
    sum_SK = np.where(drawn_SK, sums.reshape(shape), -1.0)
    best_S1 = sum_SK.max(axis=1, keepdims=True)
    tied_SK = drawn_SK & (sum_SK >= best_S1 * (1 - TIED_WEIGHTS))
    number_S = tied_SK.sum(axis=1)
    if tie == "strict":
        return (tied_SK[:, 0] & (number_S == 1)).astype(np.float64)
    if tie == "favor":
        return tied_SK[:, 0].astype(np.float64)
    return tied_SK[:, 0] / np.maximum(number_S, 1)


@dataclass(frozen=True)
class Recorded:
    """Recorded samples of one prompt.

    Attributes
    ----------
    keys
        Canonical answer of each sample, ``[N]``; None is a sample without an answer.
    correct
        The correct answer.
    rewards
        Reward of each sample, ``[N]``; None where there is no verifier.
    """

    keys: Sequence[Hashable | None]
    correct: Hashable
    rewards: Sequence[float] | None = None


@dataclass(frozen=True)
class Curve:
    """Success on a data set against the number of samples.

    Attributes
    ----------
    ks
        Numbers of samples, int64 ``[J]``.
    mean
        Mean over prompts, float64 ``[J]``.
    se
        Its standard error with the prompts taken for a random sample, clustered by prompt: standard
        deviation of their estimates over ``sqrt(P)``. NaN for a single prompt.
    per_prompt
        Estimates of each prompt, float64 ``[P, J]``.
    """

    ks: NDArray[np.int64]
    mean: NDArray[np.float64]
    se: NDArray[np.float64]
    per_prompt: NDArray[np.float64]

    @classmethod
    def of(cls, ks: ArrayLike, per_prompt: ArrayLike) -> "Curve":
        """Average estimates of each prompt, shape ``[P, J]``, for the numbers `ks`, ``[J]``.

        Raises
        ------
        ValueError
            If the shapes do not match, there is no prompt or an estimate is not finite.
        """
        ks_J = np.asarray(ks, dtype=np.int64)
        value_PJ = np.asarray(per_prompt, dtype=np.float64)
        if ks_J.ndim != 1 or value_PJ.ndim != 2 or value_PJ.shape[1] != len(ks_J):
            raise ValueError(
                f"per_prompt must have shape [P, {ks_J.size}] for ks of shape {ks_J.shape}, got "
                f"{value_PJ.shape}"
            )
        if not len(value_PJ):
            raise ValueError("a curve needs at least one prompt")
        if not bool(np.isfinite(value_PJ).all()):
            row = int(np.flatnonzero(~np.isfinite(value_PJ).all(axis=1))[0])
            raise ValueError(f"estimates of prompt {row} are not finite: {value_PJ[row].tolist()}")
        prompts = len(value_PJ)
        error_J = (
            value_PJ.std(axis=0, ddof=1) / math.sqrt(prompts)
            if prompts > 1
            else np.full(len(ks_J), math.nan)
        )
        return cls(ks_J, value_PJ.mean(axis=0), error_J, value_PJ)


def curve(
    prompts: Iterable[Recorded],
    ks: ArrayLike,
    select: Selection = "majority",
    *,
    tie: Tie = "random",
    threshold: float = 0.5,
    fallback: Fallback = "majority",
    n_subsets: int = 2000,
    seed: int = 0,
) -> Curve:
    """Return success against the number of samples, averaged over the prompts of a data set.

    Parameters
    ----------
    prompts
        Recorded samples of each prompt; every one needs at least ``max(ks)``.
    ks
        Numbers of samples, integers of at least 1, ``[J]``.
    select
        "majority" (`maj_at_k`), "coverage" (`pass_at_k`), "best_of_n" (`best_of_k`), "weighted"
        (`weighted_at_k`, the rewards are the weights) or "verified_majority"
        (`verified_majority_at_k`).
    tie, threshold, fallback, n_subsets, seed
        As in those functions.

    Returns
    -------
    Curve

    Raises
    ------
    ValueError
        If an argument is out of its range, or a prompt has too few samples or no rewards where they
        are needed; the message names the prompt by its position.
    """
    if select not in SELECTIONS:
        raise ValueError(f"select must be one of {SELECTIONS}, not {select!r}")
    ks_J = np.atleast_1d(np.asarray(ks))
    n_subsets = check_index(n_subsets, "n_subsets", 2)

    def estimates(index: int, prompt: Recorded) -> list[float] | NDArray[np.float64]:
        keys, correct, rewards = prompt.keys, prompt.correct, prompt.rewards
        ks = [int(k) for k in _check_ks(ks_J, len(keys))]
        counts, null = vote_counts(keys, correct)
        if select == "majority":
            return maj_curve(counts, ks_J, tie=tie, null=null)
        if select == "coverage":
            return [pass_at_k(len(keys), int(counts[0]), k) for k in ks]
        if rewards is None:
            raise ValueError(f"select={select!r} needs rewards")
        if select == "best_of_n":
            right = [key == correct for key in keys]
            return [best_of_k(rewards, right, k) for k in ks]
        if select == "weighted":
            rngs = [numpy_generator(seed, "subsets", index, k) for k in ks]
            return [
                _weighted(keys, rewards, correct, k, check_tie(tie), n_subsets, rng).mean
                for k, rng in zip(ks, rngs, strict=True)
            ]
        return [
            verified_majority_at_k(
                keys, rewards, correct, k, threshold=threshold, fallback=fallback, tie=tie
            )
            for k in ks
        ]

    rows = []
    for index, prompt in enumerate(prompts):
        try:
            rows.append(estimates(index, prompt))
        except ValueError as error:
            raise ValueError(f"prompt {index}: {error}") from error
        except TypeError as error:
            raise TypeError(f"prompt {index}: {error}") from error
    return Curve.of(ks_J, np.array(rows).reshape(len(rows), len(ks_J)))


@dataclass(frozen=True)
class CoverageFit:
    """The power law ``coverage(k) = exp(-a k^(-b))``.

    Attributes
    ----------
    a, b
        Positive factor, and exponent of at least 0.
    rmse
        Root mean square error of the fit, in units of coverage.
    """

    a: float
    b: float
    rmse: float

    def predict(self, k: ArrayLike) -> NDArray[np.float64]:
        """Return the coverage that the law gives for k samples, float64 of the shape of `k`."""
        return np.exp(-self.a * np.asarray(k, dtype=np.float64) ** -self.b)

    def samples_for(self, coverage: float) -> float:
        """Return the k at which the law reaches a coverage in (0, 1); infinite if it is flat."""
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must lie in (0, 1), not {coverage!r}")
        ratio = math.log(self.a) - math.log(-math.log(coverage))
        if ratio <= 0:
            return 1.0
        exponent = ratio / self.b if self.b > 0 else math.inf
        return math.exp(exponent) if exponent < LARGEST_LOG else math.inf


def fit_coverage(ks: ArrayLike, coverage: ArrayLike, se: ArrayLike | None = None) -> CoverageFit:
    """Fit ``coverage(k) = exp(-a k^(-b))``, with a > 0 and b >= 0, by least squares in coverage.

    The exponentiated power law of "Large Language Monkeys" (arXiv 2407.21787), there written
    ``log(coverage) = a k^b`` with a and b negative. It describes averages over many prompts of
    mixed difficulty; a single prompt follows ``1 - (1 - p)^k`` instead.

    Parameters
    ----------
    ks
        Numbers of samples, at least 1, ``[J]``.
    coverage
        Coverage (pass@k) at each, in [0, 1], ``[J]``; at least two of them, at different k, must be
        neither 0 nor 1.
    se
        Standard errors, ``[J]``, positive: residuals are divided by them. None weighs all alike.

    Returns
    -------
    CoverageFit

    Raises
    ------
    ValueError
        If an argument is out of its range or the shapes differ.
    """
    from scipy.optimize import least_squares

    k_J = np.asarray(ks, dtype=np.float64)
    value_J = np.asarray(coverage, dtype=np.float64)
    if k_J.ndim != 1 or k_J.shape != value_J.shape:
        raise ValueError(
            f"ks and coverage must be flat and of one length, got {k_J.shape} and {value_J.shape}"
        )
    if not bool(np.all((k_J >= 1) & np.isfinite(k_J))):
        raise ValueError(f"ks must be at least 1, got {k_J.tolist()}")
    if not bool(np.all((value_J >= 0) & (value_J <= 1))):
        raise ValueError(f"coverage must lie in [0, 1], got {value_J.tolist()}")
    scale_J = np.ones_like(k_J) if se is None else np.asarray(se, dtype=np.float64)
    if scale_J.shape != k_J.shape or not bool(np.all((scale_J > 0) & np.isfinite(scale_J))):
        raise ValueError(f"se must hold {k_J.size} positive numbers, got {se!r}")
    inner_J = (value_J > 0) & (value_J < 1)
    if len(np.unique(k_J[inner_J])) < 2:
        raise ValueError(
            "a fit needs coverage strictly between 0 and 1 at two different k, got "
            f"{value_J.tolist()} at {k_J.tolist()}"
        )
    log_k_J = np.log(k_J)
    # log(-log(coverage)) = log a - b log k is a straight line, which gives the start.
    slope, intercept = np.polyfit(log_k_J[inner_J], np.log(-np.log(value_J[inner_J])), 1)

    def residual(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        log_a, b = parameters
        return (np.exp(-np.exp(log_a - b * log_k_J)) - value_J) / scale_J

    start = [intercept, max(-slope, 1e-3)]
    limits = ([-np.inf, 0.0], [np.inf, np.inf])
    fit = least_squares(residual, start, bounds=limits, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    error_J = residual(fit.x) * scale_J
    return CoverageFit(
        a=math.exp(fit.x[0]), b=float(fit.x[1]), rmse=float(np.sqrt(np.mean(error_J**2)))
    )
