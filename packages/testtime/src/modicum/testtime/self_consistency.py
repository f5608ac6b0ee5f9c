"""Self-consistency: draw answers, take the most frequent one, and stop when it is settled.

Takes a backend and prompts, gives for each the answer with the most votes. Votes may be weighted by
rewards or probabilities. When to stop is a rule's business (`modicum.testtime.stopping`), how to
read an answer an extractor's (`modicum.testtime.extract`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from modicum.core.device import numpy_generator
from modicum.testtime._candidates import Candidate, reward_of
from modicum.testtime.engine import Backend
from modicum.testtime.samples import Prompt, Sample
from modicum.testtime.stopping.base import Decision, StoppingRule, check_count
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

__all__ = [
    "SelfConsistency",
    "SoftmaxWeight",
    "logprob_weight",
    "reward_weight",
    "softmax_weight",
]

Tie = Literal["first", "random", "reward", "abstain"]
TIES = ("first", "random", "reward", "abstain")
NOT_BY_VOTES = ("accepted", "low_gain")
"""Reasons of rules that go by rewards."""
DEFAULT_CAP = 64
"""Most samples per prompt where nobody said a number."""


# Weights -----------------------------------------------------------------------------------------


def reward_weight(sample: Sample) -> float:
    """Return a sample's reward as the weight of its vote.

    Raises
    ------
    ValueError
        If the sample has no reward.
    """
    if sample.reward is None:
        raise ValueError(
            f"sample {sample.sample_index} of prompt {sample.prompt_id!r} has no reward to weigh"
            " its vote with: give a verifier"
        )
    return sample.reward


@dataclass(frozen=True)
class SoftmaxWeight:
    """Weight ``exp((reward - reference) / tau)``; see `softmax_weight`."""

    tau: float
    reference: float = 0.0

    @property
    def name(self) -> str:
        """Words for the header of a log."""
        return f"softmax(tau={self.tau!r}, reference={self.reference!r})"

    def __call__(self, sample: Sample) -> float:
        """Return the weight of a sample's vote."""
        exponent = (reward_weight(sample) - self.reference) / self.tau
        try:
            return math.exp(exponent)
        except OverflowError:
            raise ValueError(
                f"exp(({sample.reward!r} - {self.reference!r}) / {self.tau!r}) is too large for a"
                f" weight (sample {sample.sample_index} of prompt {sample.prompt_id!r}): give a"
                " reference near the largest reward, or a larger tau"
            ) from None


def softmax_weight(tau: float, reference: float = 0.0) -> SoftmaxWeight:
    """Return weights proportional to the softmax of rewards at temperature tau.

    Parameters
    ----------
    tau
        Temperature, positive.
    reference
        Reward whose weight is 1. It does not change who wins; with the largest possible reward all
        weights are at most 1, as `modicum.testtime.stopping.Curtailed` wants them.

    Raises
    ------
    ValueError
        If tau is not positive or a number is not finite.
    """
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be positive and finite, not {tau!r}")
    if not math.isfinite(reference):
        raise ValueError(f"reference must be finite, not {reference!r}")
    return SoftmaxWeight(tau, reference)


def logprob_weight(sample: Sample) -> float:
    """Return the geometric mean of a completion's token probabilities, a weight in (0, 1].

    Raises
    ------
    ValueError
        If the backend gave no log-probability.
    """
    if sample.logprob_sum is None or not sample.n_tokens:
        raise ValueError(
            f"sample {sample.sample_index} of prompt {sample.prompt_id!r} has no log-probability to"
            " weigh its vote with: ask for it with Sampling(logprobs=True), and of a backend that"
            " counts tokens"
        )
    return math.exp(sample.logprob_sum / sample.n_tokens)


def as_weight(weight: Any) -> Callable[[Sample], float] | None:
    """Return what a user gave for ``weight=`` as a function of a sample; None for unit votes.

    Raises
    ------
    ValueError
        For anything that is no weight.
    """
    if weight is None or callable(weight):
        return weight
    if weight == "reward":
        return reward_weight
    if weight == "logprob":
        return logprob_weight
    if isinstance(weight, tuple) and len(weight) in (2, 3) and weight[0] == "softmax":
        return softmax_weight(*weight[1:])
    raise ValueError(
        'weight must be None, "reward", "logprob", ("softmax", tau) or a function of a sample, not'
        f" {weight!r}"
    )


def _checked_weight(sample: Sample, weight: float) -> float:
    if not 0 <= weight < math.inf:
        raise ValueError(
            f"the vote of sample {sample.sample_index} of prompt {sample.prompt_id!r} weighs"
            f" {weight!r}; weights must be finite and not negative (map rewards first, for instance"
            " with softmax_weight)"
        )
    return float(weight)


# The strategy ------------------------------------------------------------------------------------


class SelfConsistency(Strategy):
    """Majority vote over sampled answers, with early stopping.

    Parameters
    ----------
    gen
        Backend that completes prompts.
    extract
        Reads the answer from a completion; None takes the whole text.
    equal
        When two answers are the same: a canonicaliser or a function of two answers; None takes the
        extractor's own equality if it brings one (`extract.math`), else plain equality.
    stop
        Stopping rule. Default: `Curtailed` at ``max_samples`` (the answer of the full vote, for
        fewer samples), or `ModeCertificate` at ``delta`` if that is given.
    max_samples
        Most samples per prompt; default that of the rule if it has one, else 64.
    delta
        Permitted probability that a certified answer is not the model's most likely one.
    weight
        Weight of a vote: None (1), "reward", ("softmax", tau), "logprob", or a function of a
        sample. Rules that count votes refuse weights.
    tie
        Who wins among answers with equally many votes: "first" (the earliest sample), "random"
        (seeded), "reward" (highest reward), "abstain" (no answer).
    verifier
        For weights and ties by reward, and for rules that look at rewards.
    wave
        How many samples of a prompt are drawn ahead of its decision.
    inflight, prompts_in_flight, order, on_error, nan, assume_exchangeable
        As for `modicum.testtime.engine.Engine`.

    Raises
    ------
    ValueError
        For settings that contradict each other.

    Notes
    -----
    Source: "Self-Consistency Improves Chain of Thought Reasoning in Language Models", Wang et al.,
    arXiv 2203.11171; sample complexity: "Sample Complexity and Representation Ability of Test-time
    Scaling Paradigms", Huang et al., arXiv 2506.05295. What is certified is the model's most
    frequent answer, never that it is right.
    """

    def __init__(
        self,
        gen: Backend,
        *,
        extract: Callable[[str], Any] | None = None,
        equal: Callable[..., Any] | None = None,
        stop: StoppingRule | None = None,
        max_samples: int | None = None,
        delta: float | None = None,
        weight: Any = None,
        tie: Tie = "first",
        verifier: Any = None,
        wave: Wave = "geometric",
        inflight: int = 64,
        prompts_in_flight: int | None = None,
        order: Literal["submission", "completion"] = "submission",
        on_error: Literal["raise", "null"] = "raise",
        nan: Literal["error", "reject"] = "error",
        assume_exchangeable: bool = False,
    ) -> None:
        if tie not in TIES:
            raise ValueError(f"tie must be one of {', '.join(map(repr, TIES))}, not {tie!r}")
        if max_samples is not None:
            check_count("max_samples", max_samples)
        stop = checked_rule(stop)
        self.extract = extract
        self.equal = equal
        self.weight = as_weight(weight)
        self.tie = tie
        self.wave = checked_wave(wave)
        self.stop = _rule(stop, max_samples, delta, weight)
        self.max_samples = max_samples or getattr(self.stop, "n", None) or DEFAULT_CAP
        if self.weight is not None:
            _refuse_weights(self.stop)
        if verifier is None and (tie == "reward" or weight == "reward" or _is_softmax(self.weight)):
            raise ValueError(f"tie={tie!r} with weight={weight!r} needs a verifier for the rewards")
        super().__init__(
            gen,
            verifier=verifier,
            inflight=inflight,
            prompts_in_flight=prompts_in_flight,
            order=order,
            on_error=on_error,
            nan=nan,
            assume_exchangeable=assume_exchangeable,
        )
        refuse_order(self.stop, order, assume_exchangeable)

    def _task(self, prompt_id: str, prompt: Prompt, settings: RunSettings) -> SamplingTask:
        return _VoteTask(self, prompt_id, prompt, settings)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {
            "rule": describe(self.stop.fresh()),
            "max_samples": self.max_samples,
            "extract": describe(self.extract),
            "equal": describe(self.equal),
            "weight": describe(self.weight),
            "tie": self.tie,
        }


def _rule(
    stop: StoppingRule | None, max_samples: int | None, delta: float | None, weight: Any
) -> StoppingRule:
    """Return the rule asked for, or the default one."""
    if stop is not None:
        if delta is not None:
            raise ValueError(f"delta={delta!r} is for the default rule; give it to {stop!r}")
        return stop
    if delta is not None:
        from modicum.testtime.stopping.certificate import ModeCertificate

        return ModeCertificate(delta=delta)
    if max_samples is None:
        raise ValueError("say max_samples, delta or stop: nothing would end the sampling")
    if weight is None or weight == "logprob":
        from modicum.testtime.stopping.curtailed import Curtailed

        return Curtailed(max_samples)
    # Nobody knows how heavy the votes to come are, so none can be left out.
    from modicum.testtime.stopping.fixed import FixedN

    return FixedN(max_samples)


def _is_softmax(weight: Any) -> bool:
    return isinstance(weight, SoftmaxWeight)


def _refuse_weights(rule: StoppingRule) -> None:
    if rule.guarantee == "anytime" or not getattr(rule, "takes_weights", True):
        raise ValueError(
            f"the guarantee of {type(rule).__name__} is about counts of votes and does not hold for"
            " weighted ones: vote unweighted, or use FixedN, Curtailed (with weight_bound) or a"
            " heuristic rule"
        )


class _VoteTask(SamplingTask):
    """One prompt of self-consistency."""

    def __init__(
        self,
        strategy: SelfConsistency,
        prompt_id: str,
        prompt: Prompt,
        settings: RunSettings,
    ) -> None:
        super().__init__(
            prompt_id,
            prompt,
            settings,
            cap=strategy.max_samples,
            rule=strategy.stop.fresh(),
            extract=strategy.extract,
            equal=strategy.equal,
            wave=strategy.wave,
        )
        self.weight = strategy.weight
        self.tie = strategy.tie

    def gather(self, sample: Sample) -> float:
        """Count the vote of a sample and return its weight."""
        weight = 1.0
        if self.weight is not None and sample.key is not None:
            weight = _checked_weight(sample, self.weight(sample))
        self.candidates.add(sample, weight)
        return weight

    def choose(self) -> Candidate | None:
        """Return the answer with the most votes."""
        top = self.candidates.top()
        declared = self.last.answer if self.by_rule else None
        if declared in self.candidates and (declared != top[0].key or self._is_final(self.last)):
            return self.candidates[declared]
        return top[0] if len(top) == 1 else self._break_tie(top)

    @staticmethod
    def _is_final(decision: Decision) -> bool:
        """Say whether a rule means its answer and not just the first among equals.

        Rules that count votes stop at a tie when the samples are used up; what to do then is the
        strategy's business.
        """
        return decision.guarantee == "anytime" or decision.reason in NOT_BY_VOTES

    def _break_tie(self, top: list[Candidate]) -> Candidate | None:
        if self.tie == "abstain":
            self.reason = "tie"
            return None
        if self.tie == "reward":
            return max(top, key=lambda candidate: (reward_of(candidate), -candidate.first))
        if self.tie == "random":
            rng = numpy_generator(self.seed, "tie", self.prompt_id)
            return top[rng.integers(len(top))]
        return top[0]
