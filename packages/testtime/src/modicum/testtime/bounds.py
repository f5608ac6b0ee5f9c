"""How many samples or rounds suffice, how many are needed, and what a controller may regret.

Inequalities with their constants, as numbers: of majority votes, of best-of-n with a perfect
verifier and of self-correction as online learning over experts. Takes probabilities, gaps and
counts; draws nothing. Exact probabilities are in `modicum.testtime.plurality`; a bound is worth
asking for where the answer law is known by its gap only, or where a proof is wanted.

Source: "Sample Complexity and Representation Ability of Test-time Scaling Paradigms" (arXiv
2506.05295) for the rates; constants are of the inequalities named, our derivation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.testtime.plurality import check_answer_law, check_index

__all__ = [
    "CONTROLLERS",
    "best_of_n_n",
    "chernoff_error",
    "chernoff_n",
    "cumulative_regret_bound",
    "hoeffding_error",
    "hoeffding_n",
    "mixture_success",
    "necessary_n",
    "regret_bound",
    "round_robin_success",
    "rounds_needed",
    "self_correction_gap",
    "separation_constant",
]

CONTROLLERS = ("round-robin", "uniform", "eliminate", "ucb1", "thompson", "exp3", "hedge")
"""Names for which there is a regret bound."""

ROUNDING = 1e-12
"""Relative slack for quotients that would be whole numbers but for rounding."""

LARGEST_EXACT = 1e9
"""Above so many votes a binomial tail is a normal one: they differ by 2e-10 of it here, and SciPy's
incomplete beta function by 1e-4 at 1e12."""


def _check_open(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie in (0, 1), not {value!r}")
    return float(value)


def _check_gap(gap: float) -> float:
    if not 0 < gap <= 1:
        raise ValueError(
            f"gap must lie in (0, 1], not {gap!r}: a vote does not elect an answer that is not the "
            "most frequent one, however many samples there are"
        )
    return float(gap)


def _ceil(value: float) -> int:
    return max(1, math.ceil(value * (1 - ROUNDING)))


def _least(enough: Callable[[int], bool]) -> int:
    """Return the least n >= 1 for which `enough`, a monotone condition, holds."""
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def hoeffding_n(gap: float, answers: int, delta: float) -> int:
    """Return a number of votes that suffices on every law with this gap (Hoeffding).

    ``ceil(2 ln((K - 1) / delta) / gap^2)``: the vote differences of the target with each of its
    ``K - 1`` rivals are sums of n terms in [-1, 1] with mean at least `gap`. Samples without an
    answer are covered.

    Parameters
    ----------
    gap
        Probability of the target less that of the most likely rival, in (0, 1].
    answers
        K, number of answers that can occur, the target included; at least 2.
    delta
        Permitted error probability, in (0, 1). A tie counts as an error.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    gap, delta = _check_gap(gap), _check_open(delta, "delta")
    answers = check_index(answers, "answers", 2)
    return _ceil(2 * math.log((answers - 1) / delta) / gap**2)


def _rival_law(
    p: ArrayLike, target: int, null: float, tail: float
) -> tuple[float, NDArray[np.float64], float]:
    p_K, _, tail = check_answer_law(p, null, tail)
    target = check_index(target, "target", 0, len(p_K) - 1)
    rivals_J = np.delete(p_K, target)
    # A rival that never occurs stands for the case that nobody votes at all.
    return float(p_K[target]), rivals_J if rivals_J.size else np.zeros(1), tail


def _lone_error(prob: float, n: int, tail: float) -> float:
    """Return the probability of at most one vote, with which answers that never repeat can tie."""
    if tail == 0 or prob == 1:
        return 0.0
    rest = (n - 1) * math.log1p(-prob)
    return math.exp(rest) * (1 - prob + n * prob)


def _union_error(
    prob: float, log_rate_J: NDArray[np.float64], behind: bool, n: int, tail: float
) -> float:
    if behind:
        return 1.0
    return min(1.0, float(np.exp(float(n) * log_rate_J).sum()) + _lone_error(prob, n, tail))


def _chernoff_rates(prob: float, rivals_J: NDArray[np.float64]) -> NDArray[np.float64]:
    distance_J = (math.sqrt(prob) - np.sqrt(rivals_J)) ** 2
    with np.errstate(divide="ignore"):
        return np.log1p(-distance_J)


def chernoff_error(
    p: ArrayLike, n: int, target: int = 0, *, null: float = 0.0, tail: float = 0.0
) -> float:
    """Bound the probability that n votes do not elect the target alone (Chernoff).

    The sum over rivals of ``(1 - (sqrt(p_target) - sqrt(p_j))^2)^n``, whose exponent is exact for
    each; with `tail`, plus the probability that the target gets at most one vote. 1 if some rival
    is at least as likely as the target.

    Parameters
    ----------
    p, target, null, tail
        The answer law, as in `modicum.testtime.plurality.plurality_success`.
    n
        Number of samples, at least 1.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    prob, rivals_J, tail = _rival_law(p, target, null, tail)
    n = check_index(n, "n", 1)
    behind = prob <= rivals_J.max()
    return _union_error(prob, _chernoff_rates(prob, rivals_J), behind, n, tail)


def chernoff_n(
    p: ArrayLike, delta: float, target: int = 0, *, null: float = 0.0, tail: float = 0.0
) -> int:
    """Return the least n with ``chernoff_error(p, n, …) <= delta``.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the target is not the most likely answer alone: then
        no number of votes suffices.
    """
    prob, rivals_J, tail = _rival_law(p, target, null, tail)
    delta = _check_open(delta, "delta")
    _check_gap(prob - float(rivals_J.max()))
    log_rate_J = _chernoff_rates(prob, rivals_J)
    return _least(lambda n: _union_error(prob, log_rate_J, False, n, tail) <= delta)


def hoeffding_error(
    p: ArrayLike, n: int, target: int = 0, *, null: float = 0.0, tail: float = 0.0
) -> float:
    """Bound the probability that n votes do not elect the target alone (Hoeffding).

    The sum over rivals of ``exp(-n (p_target - p_j)^2 / 2)``, never below `chernoff_error`. Takes
    and raises what that does.
    """
    prob, rivals_J, tail = _rival_law(p, target, null, tail)
    n = check_index(n, "n", 1)
    behind = prob <= rivals_J.max()
    return _union_error(prob, -((prob - rivals_J) ** 2) / 2, behind, n, tail)


def separation_constant(delta: float) -> float:
    """Return z², the squared normal quantile of ``1 - delta``, in which votes scale as z² / gap².

    The limit of ``necessary_n(gap, delta) * gap^2`` for gap to 0, for delta in (0, 1/2).
    """
    from scipy.special import ndtri

    if not 0 < delta < 0.5:
        raise ValueError(f"delta must lie in (0, 1/2), not {delta!r}")
    return float(ndtri(delta)) ** 2


def necessary_n(gap: float, delta: float) -> int:
    """Return how many votes the law ``((1 + gap) / 2, (1 - gap) / 2)`` needs.

    Fewer than this fail on that law with a probability above `delta`, ties broken at random; so no
    smaller number suffices on all laws with this gap. Close to ``separation_constant(delta) /
    gap^2``, and odd (an even number of votes is worth as much as one vote less). Exact up to 2e9,
    within one part in 1e9 above.

    Parameters
    ----------
    gap
        In (0, 1].
    delta
        Permitted error probability, in (0, 1).

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    from scipy.special import betainc, ndtr

    gap, delta = _check_gap(gap), _check_open(delta, "delta")

    def error(half: float) -> float:
        # P(half or more of 2 half - 1 votes are wrong).
        if half <= LARGEST_EXACT:
            return float(betainc(half, half, (1 - gap) / 2))
        return float(ndtr(-gap * math.sqrt((2 * half - 1) / (1 - gap**2))))

    return 2 * _least(lambda half: error(float(half)) <= delta) - 1


def best_of_n_n(p_correct: float, delta: float) -> int:
    """Return how many samples contain a correct one with probability ``1 - delta``, exactly.

    ``ceil(ln delta / ln(1 - p_correct))``: what best-of-n needs with a perfect verifier. At most
    ``ln(1 / delta) / gap`` rounded up, since the gap is at most `p_correct`.

    Parameters
    ----------
    p_correct
        Probability that one sample is correct, in (0, 1].
    delta
        Permitted error probability, in (0, 1).

    Raises
    ------
    ValueError
        If an argument is out of its range; with ``p_correct = 0`` no number suffices.
    """
    delta = _check_open(delta, "delta")
    if not 0 < p_correct <= 1:
        raise ValueError(
            f"p_correct must lie in (0, 1], not {p_correct!r}: without correct answers no number "
            "of samples contains one"
        )
    if p_correct == 1:
        return 1
    return _ceil(math.log(delta) / math.log1p(-p_correct))


def _check_success(success: ArrayLike) -> NDArray[np.float64]:
    rate_K = np.asarray(success, dtype=np.float64)
    if rate_K.ndim != 1 or rate_K.size == 0:
        raise ValueError(
            f"success must be a flat list of at least one probability, got {success!r}"
        )
    if not bool(np.all((rate_K >= 0) & (rate_K <= 1))):
        worst = rate_K[~((rate_K >= 0) & (rate_K <= 1))][0]
        raise ValueError(f"success must hold probabilities, got {float(worst)!r}")
    return rate_K


def mixture_success(success: ArrayLike, rounds: int) -> float:
    """Return the success of picking an expert at random in every round, under a perfect verifier.

    ``1 - (1 - mean(success))^rounds``.

    Parameters
    ----------
    success
        Probability of each expert to answer correctly, independently in every round, ``[K]``.
    rounds
        T, at least 1.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    rate_K = _check_success(success)
    rounds = check_index(rounds, "rounds", 1)
    return float(1 - (1 - rate_K.mean()) ** rounds)


def round_robin_success(success: ArrayLike, rounds: int) -> float:
    """Return the success of asking the least-tried expert in every round, under a perfect verifier.

    ``1 - prod(1 - success)^(T / K)`` where K divides T; the rounds left over go to a random subset
    of the experts. Never below `mixture_success` (Maclaurin's inequality).

    Parameters
    ----------
    success
        Probability of each expert to answer correctly, independently in every round, ``[K]``.
    rounds
        T, at least 1.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    fail_K = 1 - _check_success(success)
    turns, left = divmod(check_index(rounds, "rounds", 1), len(fail_K))
    # Mean product over the subsets of each size, expert by expert: of K experts the new one is in a
    # random subset of size r with probability r / K.
    mean_R = np.zeros(left + 1)
    mean_R[0] = 1.0
    size_R = np.arange(left + 1)
    for seen, fail in enumerate(fail_K, start=1):
        share_R = np.minimum(size_R / seen, 1.0)
        with_R = np.concatenate([[0.0], mean_R[:-1]]) * fail
        mean_R = np.where(size_R <= seen, (1 - share_R) * mean_R + share_R * with_R, 0.0)
    return float(1 - np.prod(fail_K) ** turns * mean_R[left])


def rounds_needed(
    num_experts: int, delta: float, mode: Literal["sequential", "iid"] = "sequential"
) -> int:
    """Return the rounds until the right one of K deterministic experts was asked.

    Parameters
    ----------
    num_experts
        K, exactly one of them right.
    delta
        Permitted error probability, in (0, 1).
    mode
        "sequential": no expert is asked twice, ``ceil((1 - delta) K)``; "iid": a random one every
        round, ``ceil(ln delta / ln(1 - 1 / K))``.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    num_experts = check_index(num_experts, "num_experts", 1)
    delta = _check_open(delta, "delta")
    if mode == "sequential":
        return _ceil((1 - delta) * num_experts)
    if mode == "iid":
        return best_of_n_n(1 / num_experts, delta)
    raise ValueError(f'mode must be "sequential" or "iid", not {mode!r}')


def _check_gaps(gaps: Sequence[float] | ArrayLike | None, num_experts: int) -> NDArray | None:
    if gaps is None:
        return None
    gap_K = np.asarray(gaps, dtype=np.float64)
    if gap_K.shape != (num_experts,):
        raise ValueError(f"gaps must hold {num_experts} numbers, got shape {gap_K.shape}")
    if not bool(np.all((gap_K >= 0) & (gap_K <= 1))) or gap_K.min() > 0:
        raise ValueError(
            f"gaps must lie in [0, 1] and be 0 for the best expert, got {gap_K.tolist()}"
        )
    return gap_K


def cumulative_regret_bound(
    controller: str, num_experts: int, rounds: int, *, gaps: ArrayLike | None = None
) -> float:
    """Bound the expected sum over T rounds of what the best expert would have earned more.

    Parameters
    ----------
    controller
        - "ucb1": ``sum_k 8 ln T / gap_k + (1 + pi^2/3) sum_k gap_k`` with `gaps` (Auer,
          Cesa-Bianchi and Fischer 2002, Theorem 1); without, the largest value over all gaps,
          ``sqrt((K - 1) T (8 ln T + 1 + pi^2/3))``.
        - "thompson": ``sqrt(T K ln(K) / 2)`` on average over the prior (Russo and Van Roy 2016).
        - "exp3": ``sqrt(2 T K ln K)``, against any rewards (with estimates of the losses).
        - "hedge": ``sqrt(T ln(K) / 2)``, against any rewards, which it sees for all experts.
        - "eliminate": ``min(T, K - 1)``, for deterministic experts one of which is right.
        - "round-robin", "uniform": they do not stop exploring; T times the mean gap, or
          ``T (1 - 1/K)`` without `gaps`.
    num_experts
        K, at least 1.
    rounds
        T, at least 1.
    gaps
        Mean reward of the best expert less that of each, ``[K]``, in [0, 1], 0 for the best.

    Returns
    -------
    float
        For rewards in [0, 1]; at most T, which is trivial.

    Raises
    ------
    ValueError
        If the controller has no bound or an argument is out of its range.
    """
    name = _check_controller(controller)
    num_experts = check_index(num_experts, "num_experts", 1)
    rounds = check_index(rounds, "rounds", 1)
    gap_K = _check_gaps(gaps, num_experts)
    log_experts = math.log(num_experts)
    if name == "ucb1":
        bound = _ucb1_bound(num_experts, rounds, gap_K)
    elif name == "thompson":
        bound = math.sqrt(rounds * num_experts * log_experts / 2)
    elif name == "exp3":
        bound = math.sqrt(2 * rounds * num_experts * log_experts)
    elif name == "hedge":
        bound = math.sqrt(rounds * log_experts / 2)
    elif name == "eliminate":
        bound = num_experts - 1.0
    else:
        bound = rounds * (1 - 1 / num_experts if gap_K is None else float(gap_K.mean()))
    return min(float(rounds), bound)


def _check_controller(controller: str) -> str:
    name = str(controller).replace("_", "-").lower()
    if name not in CONTROLLERS:
        raise ValueError(f"controller must be one of {CONTROLLERS}, not {controller!r}")
    return name


def _ucb1_bound(num_experts: int, rounds: int, gap_K: NDArray | None) -> float:
    constant = 1 + math.pi**2 / 3
    if gap_K is not None:
        worse = gap_K[gap_K > 0]
        return float((8 * math.log(rounds) / worse).sum() + constant * worse.sum())
    # gap_k^2 E[n_k] <= 8 ln T + constant for each of the K - 1, and sum_k sqrt(E[n_k]) is at most
    # sqrt((K - 1) T).
    return math.sqrt((num_experts - 1) * rounds * (8 * math.log(rounds) + constant))


def regret_bound(
    controller: str, num_experts: int, rounds: int, *, gaps: ArrayLike | None = None
) -> float:
    """Bound the expected simple regret after T rounds: the reward gap to the best expert.

    For "ucb1", "thompson", "exp3" and "hedge" the cumulative bound divided by T, for an answer of a
    uniformly random one of the rounds. For "round-robin" with the best average at the end,
    ``sqrt(2 ln(2 K) / floor(T / K))``; for "uniform" the same with half as many rounds per expert,
    plus ``K exp(-T / (8 K))`` for the case that one gets fewer. For "eliminate" ``1 - T / K``, that
    of deterministic experts exactly one of which is right, asked in random order.

    Parameters
    ----------
    controller, num_experts, rounds, gaps
        As in `cumulative_regret_bound`; `gaps` matter to "ucb1" only.

    Returns
    -------
    float
        For rewards in [0, 1]; at most 1, which is trivial.

    Raises
    ------
    ValueError
        If the controller has no bound or an argument is out of its range.
    """
    name = _check_controller(controller)
    cumulative = cumulative_regret_bound(name, num_experts, rounds, gaps=gaps)
    if num_experts == 1:
        return 0.0
    if name == "eliminate":
        return max(0.0, 1 - rounds / num_experts)
    if name == "round-robin":
        turns = rounds // num_experts
        return min(1.0, math.sqrt(2 * math.log(2 * num_experts) / turns)) if turns else 1.0
    if name == "uniform":
        half = rounds / (2 * num_experts)
        rare = num_experts * math.exp(-half / 4)
        return min(1.0, math.sqrt(2 * math.log(2 * num_experts) / half) + rare)
    return cumulative / rounds


def self_correction_gap(
    best_gap: float,
    controller: str,
    num_experts: int,
    rounds: int,
    *,
    gaps: ArrayLike | None = None,
) -> float:
    """Bound the reward gap of self-correction to the best possible response.

    λ + reg(T): the gap of the best expert and the simple regret of the controller (arXiv
    2506.05295, Theorem 4.7).

    Parameters
    ----------
    best_gap
        λ, expected reward of the best possible response less that of the best expert, in [0, 1].
    controller, num_experts, rounds, gaps
        As in `regret_bound`.

    Returns
    -------
    float
        At most 1, which is trivial for rewards in [0, 1].

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    if not 0 <= best_gap <= 1:
        raise ValueError(f"best_gap must lie in [0, 1], not {best_gap!r}")
    return min(1.0, best_gap + regret_bound(controller, num_experts, rounds, gaps=gaps))
