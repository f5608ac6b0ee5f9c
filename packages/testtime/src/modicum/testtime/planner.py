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
from typing import Any, Literal

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
from modicum.testtime.plurality import (
    Tie,
    check_answer_law,
    check_index,
    plurality_curve,
    plurality_success,
)
from modicum.testtime.verifier_models import (
    Verifier,
    VerifierModel,
    best_of_n_success,
    first_accept,
    first_n,
    plateau,
)

__all__ = ["STRATEGIES", "Comparison", "ComparisonRow", "Plan", "compare", "plan"]

Strategy = Literal["self_consistency", "best_of_n", "verified_majority", "self_correction"]
STRATEGIES = ("self_consistency", "best_of_n", "verified_majority", "self_correction")

_SCAN = 4
"""Success under random ties was non-decreasing in n in every case tried, which is not a proof; so
the neighbours of the number that bisection finds are looked at too."""

_LEAST_DELTA = 1e-10
"""Success probabilities are exact to 1e-11; an error far below cannot be told from none."""

_POISSONISED_ERROR = 1.0
"""The Poissonised success is off by less than this over n; measured at most 0.11 / n."""

_DRAWS = 200
"""Draws from the posterior of an answer law."""

_POSTERIOR_SHARE = 0.005
"""How far off, relatively, the number for a draw may be: far less than draws differ."""

_POISSONISED_FROM = 40
"""For these draws, whose spread is far larger, the Poissonised form does for more samples than
this: within 0.003 at 40 samples and 0.0006 at 160, and much faster."""

_HALF = 0.5
"""More than this no vote elects an answer that is not the most likely one: that one wins at least
as often."""

_PEAKS_UP_TO = 4096
"""How far a number is looked for where far more samples do worse."""

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
        Samples per prompt (rounds for self-correction); None if no number suffices. From counts by
        "dirichlet" the mean over the laws for which there is a number, also where these are too few
        for ``feasible``.
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
    success: Callable[[int], float], goal: float, max_n: int, start: int = 1
) -> int | None:
    """Return the least n with ``success(n) >= goal``, None if there is none up to ``max_n``.

    The search begins at `start`.
    """
    low, high = _bracket(success, goal, max_n, start)
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
    step = max(1, start // 16)
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


class _Vote:
    """Success of a vote on one law, and the least number of samples for it."""

    def __init__(
        self, p_K: npt.NDArray[np.float64], target: int, null: float, tail: float, tie: Tie
    ) -> None:
        self.p_K = p_K
        self.target = target
        self.masses: dict[str, Any] = {"null": null, "tail": tail, "tie": tie}
        self.known: dict[int, float] = {}
        self.known_roughly: dict[int, float] = {}
        self.limit = _vote_limit(p_K, target)

    def success(self, n: int) -> float:
        """Return the exact success of n samples."""
        if n not in self.known:
            self.known[n] = plurality_success(self.p_K, n, self.target, **self.masses)
        return self.known[n]

    def rough(self, n: int) -> float:
        """Return the success of a Poisson number of samples with mean n, which is quick."""
        if n not in self.known_roughly:
            self.known_roughly[n] = plurality_success(
                self.p_K, n, self.target, method="poissonised", **self.masses
            )
        return self.known_roughly[n]

    def roughly_least_n(self, goal: float, max_n: int, share: float = 0.0) -> int | None:
        """Return what `least_n` does for a Poisson number of samples, not to the last sample.

        It may be too large by half its square root or by a `share` of it.
        """
        start = min(max_n, max(1, math.ceil(_normal_n(self.p_K, self.target, goal))))
        low, high = _bracket(self.rough, goal, max_n, start)
        if high > max_n:
            return None
        while high - low > max(1, math.isqrt(high) // 2, share * high):
            middle = (low + high) // 2
            low, high = (low, middle) if self.rough(middle) >= goal else (middle, high)
        return high

    def least_n(self, goal: float, max_n: int) -> int | None:
        """Return the least n up to `max_n` with ``success(n) >= goal``, None if there is none."""
        guess = self.roughly_least_n(goal, max_n)
        if guess is None:
            if self.rough(max_n) < goal - _POISSONISED_ERROR / max_n:
                return None
            guess = max_n
        # One generating function serves all numbers within some sqrt(n) of each other.
        reach = _SCAN + math.isqrt(guess)
        window_N = np.arange(max(1, guess - reach), min(max_n, guess + reach) + 1)
        success_N = plurality_curve(self.p_K, window_N, self.target, **self.masses)
        self.known.update(zip(window_N.tolist(), success_N.tolist(), strict=True))
        enough_N = window_N[success_N >= goal]
        if enough_N.size and (enough_N[0] > window_N[0] or window_N[0] == 1):
            return int(enough_N[0])
        return _least_n(self.success, goal, max_n, guess)


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


def _normal_n(p_K: npt.NDArray[np.float64], target: int, goal: float) -> float:
    """Return about how many votes reach the goal by the normal law of the lead on one rival.

    ``z^2 (p1 + p2 - gap^2) / gap^2``: too few where there are more rivals, and 0 where it says
    nothing.
    """
    from scipy.special import ndtri

    lead, rival = float(p_K[target]), float(np.delete(p_K, target).max(initial=0.0))
    if lead <= rival or goal <= 0.5:
        return 0.0
    gap = lead - rival
    return float(ndtri(goal)) ** 2 * (lead + rival - gap**2) / gap**2


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
        "self_correction" (``experts``, or ``success``). Hyphens will do.
    delta
        Permitted error probability per prompt, in (0, 1). At least 1e-10, except for best-of-n with
        a perfect verifier and for deterministic experts.
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
        the mode, the verifier's precision is below ``1 - delta``, or ``max_n`` is met. Where more
        samples do worse in the end, up to 4096 are looked at.

    Raises
    ------
    ValueError
        For an unknown strategy, missing or impossible values, and settings that do not go with
        ``gap`` or ``counts``.
    TypeError
        If ``max_n`` or ``target`` is no integer.

    Examples
    --------
    >>> plan("self_consistency", p=[0.5, 0.3, 0.2], delta=0.05).n
    54
    >>> plan("best_of_n", p_correct=0.2, verifier=VerifierModel(0.9, 0.02), delta=0.05).feasible
    False
    """
    _check_delta(delta)
    check_index(max_n, "max_n", 1)
    strategy = str(strategy).replace("-", "_")  # type: ignore[assignment]
    closed_form = (strategy == "best_of_n" and verifier is None) or experts is not None
    if delta < _LEAST_DELTA and not closed_form:
        raise ValueError(
            f"delta must be at least {_LEAST_DELTA}, not {delta!r}: success probabilities are "
            "exact to 1e-11 only; bounds.chernoff_n has a number of votes for any delta"
        )
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
        _refuse_unused(given[0], {"target": target, "tail": tail, "tie": tie}, tie="random")
        if gap is not None:
            _refuse_unused("gap", {"null": null})
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


def _refuse_unused(source: str, values: dict[str, Any], **defaults: Any) -> None:
    """Refuse settings that a plan from `source` would not look at."""
    for name, value in values.items():
        if value != defaults.get(name, 0):
            raise ValueError(f"{name}={value!r} goes with p, not with {source}")


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
    *,
    least_n: Callable[[float, int], int | None] | None = None,
    highest: float = 1.0,
    bounds: dict[str, int] | None = None,
    note: str = "",
) -> Plan:
    """Search and put the plan together.

    `highest` bounds the success of any number where the limit is too low: some number may do even
    so, and is looked for.
    """
    goal = 1 - delta
    if limit >= goal:
        n = least_n(goal, max_n) if least_n else _least_n(success, goal, max_n)
        if n is None:
            note = f"no number up to max_n = {max_n} suffices" + (f"; {note}" if note else "")
    elif highest >= goal:
        n = first_n(lambda number: success(number) >= goal, min(max_n, _PEAKS_UP_TO))
        if n is not None:
            more = f"far more samples do worse, the limit is {limit:.4g}"
            note = f"{note}; {more}" if note else more
    else:
        n = None
    return Plan(
        strategy=strategy,
        n=n,
        achieved=success(n) if n else limit,
        feasible=n is not None,
        limit=limit,
        delta=delta,
        method="exact",
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
    p_K, null, tail = check_answer_law(p_K, null, tail)
    target = check_index(target, "target", 0, len(p_K) - 1)
    vote = _Vote(p_K, target, null, tail, tie)
    rivals_K = np.delete(p_K, target)
    gap = float(p_K[target] - rivals_K.max(initial=0.0))
    bounds = {}
    if vote.limit == 1.0:
        if not tail:
            law_K = np.concatenate([[p_K[target]], rivals_K])
            bounds = {
                "chernoff": chernoff_n(law_K, delta, null=null),
                "hoeffding": hoeffding_n(gap, max(2, p_K.size), delta),
            }
        note = ""
    elif vote.limit == 0.0:
        note = f"the target is {-gap:.3g} behind the most frequent answer: votes elect that one"
    else:
        note = f"{round(1 / vote.limit)} answers are equally frequent: votes elect either of them"
    return _finish(
        "self_consistency",
        vote.success,
        vote.limit,
        delta,
        max_n,
        least_n=vote.least_n,
        highest=_HALF,
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
    votes = [_Vote(law_K, 0, 0.0, 0.0, "random") for law_K in hard_instances(gap, answers)]
    # The hardest for a fixed n is not the hardest for all; the plan must suffice for each of them.
    # Most need the fewer samples by far, which one look at the number of another tells.
    roughly = [vote.roughly_least_n(1 - delta, max_n) or max_n for vote in votes]
    most: int | None = 0
    for index in sorted(range(len(votes)), key=lambda index: -roughly[index]):
        if most is not None and (most == 0 or votes[index].success(most) < 1 - delta):
            most, hardest = votes[index].least_n(1 - delta, max_n), votes[index]
    worst = _plan_vote(hardest.p_K, 0, 0.0, 0.0, "random", delta, max_n)
    rivals = hardest.p_K.size - 1
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
    error = delta / (answers * (answers - 1) / 2)
    shares = [
        share_interval(int(ranked_K[0]), int(rival), error)[0] for rival in [*ranked_K[1:], 0]
    ]
    note = (
        f"leader's share against its closest rival at least {min(shares):.4g}, which is wrong with "
        "a probability of at most delta on top of that of the vote"
    )
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
    votes = [_Vote(law_K, 0, null, 0.0, "random") for law_K in laws_DK]
    needed_D = np.full(_DRAWS, math.inf)
    for draw, vote in enumerate(votes):
        if vote.limit < 1:
            continue
        guess = vote.roughly_least_n(1 - delta, max_n, _POSTERIOR_SHARE)
        if guess is not None and guess <= _POISSONISED_FROM:
            guess = vote.least_n(1 - delta, max_n)
        needed_D[draw] = guess or math.inf
    finite_D = needed_D[np.isfinite(needed_D)]
    share = finite_D.size / _DRAWS
    low, high = np.quantile(needed_D, [0.05, 0.95], method="inverted_cdf")
    n = math.ceil(finite_D.mean()) if finite_D.size else None
    return Plan(
        "self_consistency",
        n,
        float(np.mean([vote.rough(n) for vote in votes])) if n else 0.0,
        n is not None and share >= 1 - delta,
        share,
        delta,
        "dirichlet",
        interval=(float(low), float(high)),
        note=(
            f"mean over the {share:.0%} of posterior draws in which the leader is the mode; "
            "success at n is the mean over all draws"
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
    return _finish("best_of_n", success, limit, delta, max_n, note=note)


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
    p_K, null, tail = check_answer_law(p_K, null, tail)
    target = check_index(target, "target", 0, len(p_K) - 1)
    accept_K = np.full(p_K.shape, verifier.f)
    accept_K[target] = verifier.s
    # A rejected sample is one without a vote.
    voting_K, repeating = p_K * accept_K, tail * verifier.f
    rejected = max(0.0, 1.0 - float(voting_K.sum()) - repeating)
    vote = _Vote(voting_K, target, rejected, repeating, tie)
    note = "" if vote.limit == 1 else "accepted wrong answers outnumber accepted correct ones"
    return _finish(
        "verified_majority",
        vote.success,
        vote.limit,
        delta,
        max_n,
        least_n=vote.least_n,
        highest=_HALF,
        note=note,
    )


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
            note="experts in turn, perfect verifier, every attempt independent",
        )
    assert experts is not None
    n = rounds_needed(experts, delta, mode="sequential")
    total = experts

    def solved(rounds: int) -> float:
        return min(1.0, rounds / total)

    return Plan(
        "self_correction",
        n,
        solved(n),
        n <= max_n,
        1.0,
        delta,
        "exact",
        table=_table(solved, n, max_n),
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
    p_K = _law(p)
    vote = plan(
        "self_consistency", p=p_K, target=target, null=null, tail=tail, delta=delta, max_n=max_n
    )
    best = plan("best_of_n", p=p_K, target=target, verifier=verifier, delta=delta, max_n=max_n)
    rival = float(np.delete(p_K, target).max(initial=0.0))
    lead = float(p_K[target])
    gap = lead - rival
    normal = _normal_n(p_K, target, 1 - delta) if gap > 0 and delta < 0.5 else math.nan
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
