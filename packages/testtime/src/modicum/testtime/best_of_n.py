"""Best-of-n: draw answers, let a verifier judge them, and take the best.

Takes a backend, a verifier and prompts, gives for each the answer that a selection rule picks: the
highest reward, the largest sum of rewards, the majority among accepted answers, or the best among
frequent ones. With a threshold it draws one after the other until an answer is accepted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Literal

from modicum.testtime._candidates import (
    Candidate,
    best_candidate,
    best_rewarded,
    most_accepted,
    reward_of,
)
from modicum.testtime.engine import Backend
from modicum.testtime.samples import Prompt, Sample
from modicum.testtime.stopping.base import StoppingRule, check_count
from modicum.testtime.strategy import (
    RunSettings,
    SamplingTask,
    Strategy,
    Wave,
    checked_rule,
    checked_wave,
    describe,
    refuse_order,
)
from modicum.testtime.tasks import PromptTask

__all__ = ["BestOfN", "ConstantRewards"]

Select = Literal["max", "weighted", "verified_majority", "bom"]
Fallback = Literal["majority", "max", "abstain"]
SELECTS = ("max", "weighted", "verified_majority", "bom")
FALLBACKS = ("majority", "max", "abstain")
DEFAULT_N = 16


class ConstantRewards(UserWarning):
    """Every sample of a run got the same reward: best-of-n has nothing to choose by."""


class BestOfN(Strategy):
    """The best of n sampled answers in a verifier's eyes.

    Parameters
    ----------
    gen
        Backend that completes prompts.
    reward_fn
        Verifier: ``reward_fn(prompt, [text, …]) -> [reward, …]``.
    n
        Samples per prompt, at most.
    threshold
        Draw until the first reward that reaches it, n samples at most: the accepted answer is the
        answer, and without one ``select`` decides. None draws n samples.
    select
        "max": highest reward. "weighted": largest sum of rewards over equal answers.
        "verified_majority": most frequent among the samples whose reward reaches ``accept``.
        "bom": highest reward among answers with at least ``min_votes`` samples. Equal rewards go to
        the answer that has them in more samples (of a verifier that only accepts and rejects this
        makes a vote among the accepted), then to the one that had them first; equal votes to the
        one accepted first; equal sums to the more frequent answer, then to the earlier one.
    accept
        Least reward of an accepted sample for "verified_majority".
    min_votes
        Least number of samples of an answer for "bom".
    fallback
        What "verified_majority" and "bom" do if no answer qualifies: "majority" (most frequent),
        "max" (highest reward), "abstain".
    stop
        Any other stopping rule, such as `RewardGain`, instead of a threshold.
    extract, equal
        Reads the answer from a completion (None: the whole text), and when two answers are the
        same.
    wave
        How many samples of a prompt are drawn ahead of its decision.
    inflight, prompts_in_flight, order, on_error, nan, assume_exchangeable
        As for `modicum.testtime.engine.Engine`.

    Raises
    ------
    ValueError
        For settings that contradict each other.

    Warns
    -----
    ConstantRewards
        At the end of a run of fixed n in which every reward was the same.

    Notes
    -----
    Samples without an answer (cut off, or not parseable) cannot be chosen, whatever their reward.
    A verifier with false accepts bounds what any n can reach; see
    `modicum.testtime.verifier_models`: `best_of_n_success` for scores without ties or a threshold,
    `verified_majority_success` for a verifier that accepts or rejects. Sample complexity: "Sample
    Complexity and Representation Ability of Test-time Scaling Paradigms", Huang et al., arXiv
    2506.05295.
    """

    def __init__(
        self,
        gen: Backend,
        reward_fn: Any,
        *,
        n: int = DEFAULT_N,
        threshold: float | None = None,
        select: Select = "max",
        accept: float = 0.5,
        min_votes: int | None = None,
        fallback: Fallback = "majority",
        stop: StoppingRule | None = None,
        extract: Callable[[str], Any] | None = None,
        equal: Callable[..., Any] | None = None,
        wave: Wave = "geometric",
        inflight: int = 64,
        prompts_in_flight: int | None = None,
        order: Literal["submission", "completion"] = "submission",
        on_error: Literal["raise", "null"] = "raise",
        nan: Literal["error", "reject"] = "error",
        assume_exchangeable: bool = False,
    ) -> None:
        if reward_fn is None:
            raise ValueError("best-of-n needs a verifier: reward_fn(prompt, texts) -> rewards")
        check_count("n", n)
        stop = checked_rule(stop)
        if select not in SELECTS:
            raise ValueError(f"select must be one of {', '.join(SELECTS)}, not {select!r}")
        if fallback not in FALLBACKS:
            raise ValueError(f"fallback must be one of {', '.join(FALLBACKS)}, not {fallback!r}")
        if not math.isfinite(accept):
            raise ValueError(f"accept must be finite, not {accept!r}")
        if (min_votes is None) == (select == "bom") or (min_votes is not None and min_votes < 1):
            raise ValueError(
                'select="bom" needs min_votes of at least 1, and nothing else takes it: got'
                f" select={select!r}, min_votes={min_votes!r}"
            )
        self.n = n
        self.threshold = threshold
        self.select = select
        self.accept = accept
        self.min_votes = min_votes
        self.fallback = fallback
        self.extract = extract
        self.equal = equal
        self.wave = checked_wave(wave)
        self.stop = _rule(threshold, stop)
        super().__init__(
            gen,
            verifier=reward_fn,
            inflight=inflight,
            prompts_in_flight=prompts_in_flight,
            order=order,
            on_error=on_error,
            nan=nan,
            assume_exchangeable=assume_exchangeable,
        )
        refuse_order(self.stop, order, assume_exchangeable)

    def _tasks(
        self, prompts: Iterable[tuple[str, Prompt]], settings: RunSettings
    ) -> Iterator[PromptTask]:
        settings.state["rewards"] = _RewardRange()
        yield from super()._tasks(prompts, settings)

    def _task(self, prompt_id: str, prompt: Prompt, settings: RunSettings) -> SamplingTask:
        return _BestTask(self, prompt_id, prompt, settings)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {
            "rule": describe(self.stop.fresh()) if self.stop is not None else None,
            "n": self.n,
            "select": self.select,
            "accept": self.accept,
            "min_votes": self.min_votes,
            "fallback": self.fallback,
            "extract": describe(self.extract),
            "equal": describe(self.equal),
        }

    def _ended(self, settings: RunSettings) -> None:
        rewards: _RewardRange = settings.state["rewards"]
        if self.stop is None and rewards.constant:
            warnings.warn(
                f"all {rewards.count} rewards of this run are {rewards.low!r}: best-of-n falls back"
                " to the more frequent, then the earlier answer",
                ConstantRewards,
                stacklevel=3,
            )


def _rule(threshold: float | None, stop: StoppingRule | None) -> StoppingRule | None:
    if threshold is None:
        return stop
    if stop is not None:
        raise ValueError(f"threshold={threshold!r} is a stopping rule of its own; leave out {stop}")
    from modicum.testtime.stopping.accept import FirstAccept

    return FirstAccept(threshold)


class _RewardRange:
    """Smallest and largest reward of a run."""

    def __init__(self) -> None:
        self.count = 0
        self.low = math.inf
        self.high = -math.inf

    def add(self, reward: float) -> None:
        self.count += 1
        self.low = min(self.low, reward)
        self.high = max(self.high, reward)

    @property
    def constant(self) -> bool:
        return self.count > 1 and self.low == self.high


class _BestTask(SamplingTask):
    """One prompt of best-of-n."""

    def __init__(
        self, strategy: BestOfN, prompt_id: str, prompt: Prompt, settings: RunSettings
    ) -> None:
        super().__init__(
            prompt_id,
            prompt,
            settings,
            cap=strategy.n,
            rule=strategy.stop.fresh() if strategy.stop is not None else None,
            extract=strategy.extract,
            equal=strategy.equal,
            wave=strategy.wave,
        )
        self.strategy = strategy
        self.rewards: _RewardRange = settings.state["rewards"]

    def gather(self, sample: Sample) -> float:
        """Count a sample by what the selection adds up."""
        if sample.reward is not None:
            self.rewards.add(sample.reward)
        self.candidates.add(sample, self._score(sample))
        return 1.0

    def _score(self, sample: Sample) -> float:
        """Return what a sample adds to the score of its answer."""
        reward = -math.inf if sample.reward is None else sample.reward
        if self.strategy.select == "weighted":
            return reward
        if self.strategy.select == "verified_majority":
            return float(reward >= self.strategy.accept)
        return 1.0

    def choose(self) -> Candidate | None:
        """Return the answer that the selection rule picks."""
        accepted = self.last.answer if self.by_rule and self.last.reason == "accepted" else None
        if accepted is not None:
            return self.candidates[accepted]
        everything = self.candidates.values()
        select = self.strategy.select
        if select == "max":
            return best_rewarded(everything)
        if select == "weighted":
            return best_candidate(everything, _votes)
        if select == "verified_majority":
            chosen = most_accepted(everything)
        else:
            least = self.strategy.min_votes or 1
            chosen = best_rewarded(c for c in everything if c.count >= least)
        return chosen if chosen is not None else self._fall_back()

    def _fall_back(self) -> Candidate | None:
        if self.strategy.fallback == "abstain":
            self.reason = "abstained"
            return None
        if self.strategy.fallback == "max":
            return best_rewarded(self.candidates.values())
        return best_candidate(self.candidates.values(), _count)

    def votes(self) -> dict[Hashable, float]:
        """Return the score of each answer: what the selection compares."""
        by_reward = self.strategy.select in ("max", "bom")
        score = reward_of if by_reward else _votes
        return {key: score(candidate) for key, candidate in self.candidates.items()}


def _votes(candidate: Candidate) -> float:
    return candidate.votes


def _count(candidate: Candidate) -> float:
    return candidate.count
