"""How many samples: the least n that reaches a success probability, or the reason why none does.

`plan` answers for one strategy, `compare` puts the strategies side by side on one instance. Both
work on exact success probabilities (`modicum.testtime.plurality`,
`modicum.testtime.verifier_models`); they run nothing and look at no text.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from modicum.core.device import numpy_generator
from modicum.testtime.bounds import (
    best_of_n_n,
    chernoff_n,
    hoeffding_n,
    necessary_n,
    round_robin_success,
    rounds_needed,
)
from modicum.testtime.estimate import checked_counts, share_interval
from modicum.testtime.plurality import Tie, plurality_success
from modicum.testtime.verifier_models import (
    Verifier,
    VerifierModel,
    best_of_n_success,
    first_accept,
    plateau,
    verified_majority_success,
)

__all__ = ["STRATEGIES", "Comparison", "ComparisonRow", "Plan", "compare", "plan"]

Strategy = Literal["self_consistency", "best_of_n", "verified_majority", "self_correction"]
STRATEGIES = ("self_consistency", "best_of_n", "verified_majority", "self_correction")

_SCAN = 4
"""Success under random ties was non-decreasing in n in every case tried, which is not a proof; so
the neighbours of the number that bisection finds are looked at too."""

_DRAWS = 200
"""Draws from the posterior of an answer law."""

_POISSONISED_FROM = 40
"""For these draws, whose spread is far larger, the Poissonised form does for more samples than
this: within 0.003 at 40 samples and 0.0006 at 160, and much faster."""

_SAME = 1e-12
"""Probabilities closer than this are a tie."""


@dataclass(frozen=True)
class Plan:
    """How many samples a strategy needs.

    Attributes
    ----------
    strategy
        Which strategy.
    n
        Samples per prompt (rounds for self-correction); None if no number suffices.
    achieved
        Success probability at ``n``; at the limit if ``n`` is None.
    feasible
        Whether some number suffices.
    limit
        Success probability for ever more samples.
    delta
        Error probability that was asked for.
    method
        How the number was found.
    table
        ``(n, success)`` on the way to ``n``.
    bounds
        Numbers that published bounds would ask for, by name.
    interval
        5-95 % of ``n`` where the answer law itself is estimated (``inf``: no number suffices).
    note
        What a reader must know.
    """

    strategy: str
    n: int | None
    achieved: float
    feasible: bool
    limit: float
    delta: float
    method: str
    table: list[tuple[int, float]] = field(default_factory=list)
    bounds: dict[str, int] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    note: str = ""


def _check_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), not {delta!r}")
    return float(delta)


def _least_n(
    success: Callable[[int], float],
    goal: float,
    max_n: int,
    rough: Callable[[int], float] | None = None,
) -> int | None:
    """Return the least n with ``success(n) >= goal``, None if there is none up to ``max_n``.

    `rough` is a cheap stand-in for `success`: the search then starts where that one ends.
    """
    guess = None if rough is None else _least_n(rough, goal, max_n)
    low, high = _bracket(success, goal, max_n, guess or 1)
    if high > max_n:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if success(middle) >= goal else (middle, high)
    for n in range(max(1, high - _SCAN), high):
        if success(n) >= goal:
            return n
    return high


def _bracket(
    success: Callable[[int], float], goal: float, max_n: int, start: int
) -> tuple[int, int]:
    """Return ``(low, high)``: success is below the goal at low (or low is 0) and not at high.

    From `start` in steps that double; high is ``max_n + 1`` if the goal is not reached up to there.
    """
    step = 1
    if success(start) >= goal:
        low, high = start, start
        while low > 0 and success(low) >= goal:
            low, high, step = max(0, low - step), low, 2 * step
        return low, high
    low = high = start
    while success(high) < goal:
        if high == max_n:
            return high, max_n + 1
        low, high, step = high, min(high + step, max_n), 2 * step
    return low, high


def _table(success: Callable[[int], float], n: int | None, max_n: int) -> list[tuple[int, float]]:
    """Return success at powers of two up to n, and at n."""
    last = n if n else min(max_n, 1024)
    points = {2**i for i in range(max(1, last).bit_length())} | ({n} if n else set())
    return [(point, success(point)) for point in sorted(points) if point <= max_n]


def _vote_success(
    p_K: npt.NDArray[np.float64],
    target: int,
    null: float,
    tail: float,
    tie: Tie,
    exact_up_to: float = math.inf,
) -> Callable[[int], float]:
    remembered: dict[int, float] = {}

    def success(n: int) -> float:
        if n not in remembered:
            remembered[n] = plurality_success(
                p_K,
                n,
                target,
                tie=tie,
                null=null,
                tail=tail,
                method="exact" if n <= exact_up_to else "poissonised",
            )
        return remembered[n]

    return success


def _vote_limit(p_K: npt.NDArray[np.float64], target: int) -> float:
    """Return what the vote tends to: 1 for the mode, 0 for any other answer, a share for a tie."""
    rivals = np.delete(p_K, target)
    best = float(rivals.max(initial=0.0))
    if p_K[target] <= best - _SAME or p_K[target] <= 0:
        return 0.0
    if p_K[target] > best + _SAME:
        return 1.0
    # Exact ties of counts vanish with n, so every rule for them leaves one mode in m the winner.
    return 1.0 / (1 + int(np.sum(np.abs(rivals - best) <= _SAME)))


def plan(
    strategy: Strategy,
    *,
    delta: float,
    p: npt.ArrayLike | None = None,
    target: int = 0,
    null: float = 0.0,
    tail: float = 0.0,
    tie: Tie = "random",
    gap: float | None = None,
    answers: int | None = None,
    counts: npt.ArrayLike | None = None,
    method: Literal["dirichlet", "lower", "plugin"] = "dirichlet",
    p_correct: float | None = None,
    verifier: Verifier | None = None,
    experts: int | None = None,
    success: Sequence[float] | None = None,
    max_n: int = 10**7,
    seed: int = 0,
) -> Plan:
    """Return the least number of samples with which a strategy errs at most with ``delta``.

    Parameters
    ----------
    strategy
        "self_consistency" (needs ``p``, ``counts`` or ``gap``), "best_of_n" (``p_correct``, or
        ``p`` and ``target``), "verified_majority" (``p`` and a `VerifierModel`) or
        "self_correction" (``experts``, or ``success``).
    delta
        Permitted error probability per prompt, in (0, 1).
    p, target, null, tail, tie
        Answer law, index of the correct answer, mass without an answer, mass of answers that never
        repeat, resolution of ties: as in `plurality_success`.
    gap, answers
        Worst case over the answer laws with ``answers`` answers in which the correct one is ``gap``
        ahead of every other.
    counts
        Recorded votes per answer, shape ``[K]``; the plan is for electing the most frequent one.
    method
        With ``counts``: "dirichlet" draws laws from the posterior under Dirichlet(1/2), one unseen
        answer added, and reports the mean number and its 5-95 %; "lower" plans for the worst law
        inside the anytime intervals of the leader's share against every rival; "plugin" takes the
        frequencies for the law, which is optimistic, and warns.
    p_correct
        Probability that one sample is correct.
    verifier
        None is a perfect one.
    experts
        Number of deterministic experts of which exactly one is right; tried one after another.
    success
        Success probabilities of stochastic experts, shape ``[K]``; tried in turn.
    max_n
        Numbers above this are reported as out of reach.
    seed
        Of the posterior draws.

    Returns
    -------
    Plan
        With ``feasible=False`` and the limit where no number suffices: the correct answer is not
        the mode, the verifier's precision is below ``1 - delta``, or ``max_n`` is met.

    Raises
    ------
    ValueError
        For an unknown strategy, missing or impossible values.

    Examples
    --------
    >>> plan("self_consistency", p=[0.5, 0.3, 0.2], delta=0.05).n
    54
    >>> plan("best_of_n", p_correct=0.2, verifier=VerifierModel(0.9, 0.02), delta=0.05).feasible
    False
    """
    _check_delta(delta)
    if max_n < 1:
        raise ValueError(f"max_n must be at least 1, not {max_n!r}")
    if strategy == "self_consistency":
        given = [
            name
            for name, value in [("p", p), ("gap", gap), ("counts", counts)]
            if value is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"self_consistency needs exactly one of p, gap and counts; given: {given or 'none'}"
            )
        if p is not None:
            return _plan_vote(_law(p), target, null, tail, tie, delta, max_n)
        if gap is not None:
            return _plan_gap(gap, answers, delta, max_n)
        assert counts is not None
        return _plan_counts(checked_counts(counts), null, method, delta, max_n, seed)
    if strategy == "best_of_n":
        if p_correct is None:
            p_correct = _correct_mass(p, target)
        return _plan_best_of_n(p_correct, verifier, delta, max_n)
    if strategy == "verified_majority":
        if p is None or not isinstance(verifier, VerifierModel):
            raise ValueError("verified_majority needs p and verifier=VerifierModel(s, f)")
        return _plan_verified(_law(p), target, null, tail, tie, verifier, delta, max_n)
    if strategy == "self_correction":
        return _plan_correction(experts, success, delta, max_n)
    raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")


def _law(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    p_K = np.asarray(p, dtype=np.float64)
    if p_K.ndim != 1 or not p_K.size:
        raise ValueError(f"p must be a list of probabilities, not {p!r}")
    return p_K


def _correct_mass(p: npt.ArrayLike | None, target: int) -> float:
    if p is None:
        raise ValueError("best_of_n needs p_correct, or p and target")
    p_K = _law(p)
    if not 0 <= target < p_K.size:
        raise ValueError(f"target must be an index of p, 0 to {p_K.size - 1}, not {target!r}")
    return float(p_K[target])


def _finish(
    strategy: str,
    success: Callable[[int], float],
    limit: float,
    delta: float,
    max_n: int,
    method: str,
    *,
    rough: Callable[[int], float] | None = None,
    bounds: dict[str, int] | None = None,
    note: str = "",
) -> Plan:
    """Search, given that the limit allows it, and put the plan together."""
    n = _least_n(success, 1 - delta, max_n, rough) if limit >= 1 - delta else None
    if n is None and limit >= 1 - delta:
        note = f"no number up to max_n = {max_n} suffices" + (f"; {note}" if note else "")
    return Plan(
        strategy=strategy,
        n=n,
        achieved=success(n) if n else limit,
        feasible=n is not None,
        limit=limit,
        delta=delta,
        method=method,
        table=_table(success, n, max_n),
        bounds=bounds or {},
        note=note,
    )


def _plan_vote(
    p_K: npt.NDArray[np.float64],
    target: int,
    null: float,
    tail: float,
    tie: Tie,
    delta: float,
    max_n: int,
) -> Plan:
    success = _vote_success(p_K, target, null, tail, tie)
    success(1)  # Refuses what is no answer law before anything is concluded from it.
    limit = _vote_limit(p_K, target)
    rivals_K = np.delete(p_K, target)
    gap = float(p_K[target] - rivals_K.max(initial=0.0))
    bounds = {}
    if limit == 1.0:
        if not tail:
            law_K = np.concatenate([[p_K[target]], rivals_K])
            bounds = {
                "chernoff": chernoff_n(law_K, delta, null=null),
                "hoeffding": hoeffding_n(gap, max(2, p_K.size), delta),
            }
        note = ""
    elif limit == 0.0:
        note = f"the target is {-gap:.3g} behind the most frequent answer: votes elect that one"
    else:
        note = f"{round(1 / limit)} answers are equally frequent: votes elect either of them"
    return _finish(
        "self_consistency",
        success,
        limit,
        delta,
        max_n,
        "exact",
        rough=_vote_success(p_K, target, null, tail, tie, exact_up_to=0),
        bounds=bounds,
        note=note,
    )


def hard_instances(gap: float, answers: int) -> list[npt.NDArray[np.float64]]:
    """Return the answer laws that `plan` takes for the hardest with a given gap.

    The correct answer first; ``m = 1 … answers - 1`` rivals, all ``gap`` behind, share the rest.
    """
    if not 0 < gap <= 1:
        raise ValueError(f"gap must be in (0, 1], not {gap!r}")
    if isinstance(answers, bool) or not isinstance(answers, int) or answers < 2:
        raise ValueError(f"answers must be an integer of at least 2, not {answers!r}")
    laws = []
    for rivals in range(1, answers):
        rival = (1 - gap) / (rivals + 1)
        laws.append(np.array([1 - rivals * rival] + [rival] * rivals))
    return laws


def _plan_gap(gap: float, answers: int | None, delta: float, max_n: int) -> Plan:
    if answers is None:
        raise ValueError("the worst case at a gap needs answers, the number of possible answers")
    laws = hard_instances(gap, answers)
    # The hardest for a fixed n is not the hardest for all; the plan must suffice for each of them.
    worst: Plan | None = None
    for law_K in laws:
        candidate = _plan_vote(law_K, 0, 0.0, 0.0, "random", delta, max_n)
        if worst is None or (candidate.n or math.inf) > (worst.n or math.inf):
            worst, hardest = candidate, law_K
    assert worst is not None
    rivals = hardest.size - 1
    bounds = {"hoeffding": hoeffding_n(gap, answers, delta), "necessary": necessary_n(gap, delta)}
    note = (
        f"hardest of the laws with equal rivals: {rivals} of them; that no other law with this gap "
        "is harder was searched for, not proved; the Hoeffding number is proved for all"
    )
    return Plan(**(vars(worst) | {"bounds": bounds, "note": note}))


def _plan_counts(
    counts_K: npt.NDArray[np.int64],
    null: float,
    method: str,
    delta: float,
    max_n: int,
    seed: int,
) -> Plan:
    if not 0 <= null < 1:
        raise ValueError(f"null must be in [0, 1), not {null!r}")
    order = np.argsort(-counts_K, kind="stable")
    ranked_K = counts_K[order]
    if method == "plugin":
        warnings.warn(
            "plugin takes recorded frequencies for the answer law, which is optimistic: the share "
            "of the leader is overestimated; use method='dirichlet' or 'lower'",
            UserWarning,
            stacklevel=3,
        )
        law_K = (1 - null) * ranked_K / ranked_K.sum()
        result = _plan_vote(law_K, 0, null, 0.0, "random", delta, max_n)
        return Plan(**(vars(result) | {"method": "plugin"}))
    if method == "lower":
        return _plan_lower(ranked_K, null, delta, max_n)
    if method == "dirichlet":
        return _plan_dirichlet(ranked_K, null, delta, max_n, seed)
    raise ValueError(f'method must be "dirichlet", "lower" or "plugin", not {method!r}')


def _plan_lower(ranked_K: npt.NDArray[np.int64], null: float, delta: float, max_n: int) -> Plan:
    """Plan for the worst law inside the intervals of all pairs, an unseen answer among them."""
    answers = ranked_K.size + 1
    level = 1 - delta / (answers * (answers - 1) / 2)
    shares = [
        share_interval(int(ranked_K[0]), int(rival), level)[0] for rival in [*ranked_K[1:], 0]
    ]
    note = f"leader's share against its closest rival at least {min(shares):.4g}"
    if min(shares) <= 0.5:
        return Plan(
            "self_consistency",
            None,
            0.0,
            False,
            0.0,
            delta,
            "lower",
            note=f"{note}: too few samples to plan on",
        )
    law = np.array([1.0, *((1 - share) / share for share in shares)])
    law *= (1 - null) / law.sum()
    result = _plan_vote(law, 0, null, 0.0, "random", delta, max_n)
    return Plan(**(vars(result) | {"method": "lower", "note": note}))


def _plan_dirichlet(
    ranked_K: npt.NDArray[np.int64], null: float, delta: float, max_n: int, seed: int
) -> Plan:
    rng = numpy_generator(seed, "plan", "dirichlet")
    laws_DK = (1 - null) * rng.dirichlet(np.append(ranked_K, 0) + 0.5, size=_DRAWS)
    needed_D = np.full(_DRAWS, math.inf)
    for draw, law_K in enumerate(laws_DK):
        if _vote_limit(law_K, 0) < 1:
            continue
        success = _vote_success(law_K, 0, null, 0.0, "random", _POISSONISED_FROM)
        needed_D[draw] = _least_n(success, 1 - delta, max_n) or math.inf
    finite_D = needed_D[np.isfinite(needed_D)]
    share = finite_D.size / _DRAWS
    low, high = np.quantile(needed_D, [0.05, 0.95], method="inverted_cdf")
    n = math.ceil(finite_D.mean()) if finite_D.size else None
    mean_law = _vote_success(laws_DK.mean(axis=0), 0, null, 0.0, "random")
    return Plan(
        "self_consistency",
        n,
        mean_law(n) if n else 0.0,
        n is not None and share >= 1 - delta,
        share,
        delta,
        "dirichlet",
        interval=(float(low), float(high)),
        note=(
            f"mean over the {share:.0%} of posterior draws in which the leader is the mode; "
            "success at n is that of the posterior mean law"
        ),
    )


def _plan_best_of_n(p_correct: float, verifier: Verifier | None, delta: float, max_n: int) -> Plan:
    limit = plateau(p_correct, verifier) if p_correct > 0 else 0.0

    def success(n: int) -> float:
        return best_of_n_success(p_correct, n, verifier)

    if verifier is None and 0 < p_correct:
        n = best_of_n_n(p_correct, delta)
        if n <= max_n:
            return Plan(
                "best_of_n",
                n,
                success(n),
                True,
                1.0,
                delta,
                "exact",
                table=_table(success, n, max_n),
            )
    # A verifier that prefers wrong answers makes one sample the best that there is.
    if success(1) >= 1 - delta:
        return Plan(
            "best_of_n", 1, success(1), True, limit, delta, "exact", table=_table(success, 1, max_n)
        )
    note = ""
    if limit < 1 - delta:
        note = (
            f"more samples approach {limit:.4g}, the verifier's precision on its highest score, "
            f"which is below {1 - delta:.4g}"
        )
    return _finish("best_of_n", success, limit, delta, max_n, "exact", note=note)


def _plan_verified(
    p_K: npt.NDArray[np.float64],
    target: int,
    null: float,
    tail: float,
    tie: Tie,
    verifier: VerifierModel,
    delta: float,
    max_n: int,
) -> Plan:
    remembered: dict[int, float] = {}

    def success(n: int) -> float:
        if n not in remembered:
            remembered[n] = verified_majority_success(
                p_K, n, verifier, target, tie=tie, null=null, tail=tail
            )
        return remembered[n]

    success(1)
    accept_K = np.full(p_K.shape, verifier.f)
    accept_K[target] = verifier.s
    limit = _vote_limit(p_K * accept_K, target)
    note = "" if limit == 1 else "accepted wrong answers outnumber accepted correct ones"
    return _finish("verified_majority", success, limit, delta, max_n, "exact", note=note)


def _plan_correction(
    experts: int | None, success: Sequence[float] | None, delta: float, max_n: int
) -> Plan:
    if (experts is None) == (success is None):
        raise ValueError("self_correction needs either experts or success")
    if success is not None:
        rates = [float(rate) for rate in success]
        limit = 1.0 if max(rates, default=0.0) > 0 else 0.0
        return _finish(
            "self_correction",
            lambda rounds: round_robin_success(rates, rounds),
            limit,
            delta,
            max_n,
            "exact",
            note="experts in turn, perfect verifier, every attempt independent",
        )
    assert experts is not None
    n = rounds_needed(experts, delta, mode="sequential")
    return Plan(
        "self_correction",
        n,
        min(1.0, n / experts),
        n <= max_n,
        1.0,
        delta,
        "exact",
        table=[(rounds, rounds / experts) for rounds in range(1, experts + 1)],
        bounds={"independent attempts": rounds_needed(experts, delta, mode="iid")},
        note="deterministic experts, exactly one of them right, none asked twice",
    )


@dataclass(frozen=True)
class ComparisonRow:
    """One strategy on one instance: samples needed and what a rule of thumb says.

    ``n`` is None where no number suffices; ``limit`` is the success for ever more samples;
    ``approximation`` is the normal or logarithmic rule of thumb, NaN where there is none.
    """

    strategy: str
    n: int | None
    achieved: float
    limit: float
    approximation: float
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """The strategies side by side on one instance.

    Attributes
    ----------
    rows
        One per strategy.
    ratio
        Samples of self-consistency per sample of best-of-n on this instance; NaN if one of the two
        never gets there.
    gap
        Lead of the target.
    note
        How to read the ratio.
    """

    rows: list[ComparisonRow]
    ratio: float
    gap: float
    note: str


def compare(
    p: npt.ArrayLike,
    *,
    delta: float,
    target: int = 0,
    verifier: Verifier | None = None,
    null: float = 0.0,
    tail: float = 0.0,
    max_n: int = 10**7,
) -> Comparison:
    """Compare the strategies on one instance, in samples.

    Parameters
    ----------
    p, target, null, tail
        The answer law, as in `plurality_success`.
    delta
        Permitted error probability.
    verifier
        For best-of-n and the verified vote; None is a perfect one.
    max_n
        Numbers above this are reported as None.

    Notes
    -----
    The published separation, 1/gap^2 against 1/gap, is between two worst cases, and these are
    different instances. On one instance about ``z^2 (p1+p2) / gap^2`` votes stand against
    ``ln(1/delta) / p1`` verified samples; which of the two is how much larger depends on all of p.
    """
    from scipy.special import ndtri

    p_K = _law(p)
    vote = plan(
        "self_consistency", p=p_K, target=target, null=null, tail=tail, delta=delta, max_n=max_n
    )
    best = plan("best_of_n", p=p_K, target=target, verifier=verifier, delta=delta, max_n=max_n)
    rival = float(np.delete(p_K, target).max(initial=0.0))
    lead = float(p_K[target])
    gap = lead - rival
    z = float(ndtri(1 - delta))
    normal = z**2 * (lead + rival - gap**2) / gap**2 if gap > 0 else math.nan
    logarithm = math.log(1 / delta) / lead if lead > 0 and verifier is None else math.nan
    rows = [
        ComparisonRow("self_consistency", vote.n, vote.achieved, vote.limit, normal, vote.note),
        ComparisonRow("best_of_n", best.n, best.achieved, best.limit, logarithm, best.note),
    ]
    if isinstance(verifier, VerifierModel):
        verified = plan(
            "verified_majority",
            p=p_K,
            target=target,
            verifier=verifier,
            null=null,
            tail=tail,
            delta=delta,
            max_n=max_n,
        )
        rows.append(
            ComparisonRow(
                "verified_majority",
                verified.n,
                verified.achieved,
                verified.limit,
                math.nan,
                verified.note,
            )
        )
    if best.n is not None and (verifier is None or isinstance(verifier, VerifierModel)):
        drawn = first_accept(lead, best.n, verifier)
        rows.append(
            ComparisonRow(
                "first_accept",
                best.n,
                drawn.success,
                best.limit,
                drawn.expected_n,
                f"at most {best.n}, {drawn.expected_n:.3g} on average",
            )
        )
    ratio = vote.n / best.n if vote.n and best.n else math.nan
    note = (
        "the ratio is that of this instance; 1/gap^2 against 1/gap separates the two worst cases, "
        "which are different instances"
    )
    return Comparison(rows, ratio, gap, note)
