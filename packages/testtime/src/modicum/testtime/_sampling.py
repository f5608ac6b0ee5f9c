"""The task of strategies that draw independent samples until a rule or a cap ends it.

A `SamplingTask` numbers requests, reads answers, asks the rule and gathers candidates; a strategy
(self-consistency, best-of-n) derives from it to say what a sample counts and who wins. No engine,
no files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

from modicum.testtime._candidates import Candidate, Candidates
from modicum.testtime.engine import WaveScheduler
from modicum.testtime.equality import as_canonicaliser
from modicum.testtime.extract import as_extractor
from modicum.testtime.log import SampleLog
from modicum.testtime.samples import (
    Budget,
    Guarantee,
    Prompt,
    Request,
    Result,
    Sample,
    Sampling,
    Usage,
    sample_seed,
)
from modicum.testtime.stopping.base import GO_ON, Decision, StoppingRule

Wave = Literal["geometric", "boundary"] | int
"""How many samples of a prompt are drawn ahead of its decision.

"geometric" 4, then as many as are there already (4, 4, 8, 16, …); "boundary" the least number after
which the rule could stop, which wastes none; an integer: that many.
"""

FIRST_WAVE = 4


def checked_wave(wave: Any) -> Wave:
    """Return a wave size that is one.

    Raises
    ------
    ValueError
        If it is neither "geometric" nor "boundary" nor a positive integer.
    """
    if wave in ("geometric", "boundary"):
        return wave
    if isinstance(wave, int) and not isinstance(wave, bool) and wave >= 1:
        return wave
    raise ValueError(f'wave must be "geometric", "boundary" or a positive integer, not {wave!r}')


def checked_rule(stop: Any) -> StoppingRule | None:
    """Return what a user gave for ``stop=``, a rule or None.

    Raises
    ------
    TypeError
        If it is a text or a class.
    """
    if isinstance(stop, str):
        raise TypeError(f"stop must be a rule, not {stop!r}; parse_rule({stop!r}) makes one of it")
    if isinstance(stop, type):
        raise TypeError(f"stop must be a rule, not the class: {stop.__name__}(…)")
    return stop


def refuse_order(rule: StoppingRule | None, order: str, assume_exchangeable: bool) -> None:
    """Refuse a rule whose promise the order of completion would break.

    Raises
    ------
    ValueError
        If the rule needs exchangeable samples and nobody says that they are.
    """
    if (
        order == "completion"
        and rule is not None
        and rule.needs_exchangeable
        and not assume_exchangeable
    ):
        raise ValueError(
            f"{type(rule).__name__} presumes exchangeable samples, which"
            ' order="completion" does not give: use order="submission", or say'
            " assume_exchangeable=True if all completions take equally long"
        )


@dataclass(frozen=True)
class RunSettings:
    """What one run of a strategy is asked for.

    Attributes
    ----------
    params
        Sampling parameters.
    seed
        Seed of the run; samples have seeds of their own that follow from it.
    budget
        Limits of the run.
    log
        Open log, or None.
    scheduler
        Who shares out the samples among the prompts, or None.
    state
        Whatever a strategy keeps over the run.
    """

    params: Sampling
    seed: int = 0
    budget: Budget | None = None
    log: SampleLog | None = None
    scheduler: WaveScheduler | None = None
    state: dict[str, Any] = field(default_factory=dict)


class SamplingTask:
    """A prompt of which independent samples are drawn until a rule or a cap ends it.

    A subclass says what a sample counts (`gather`) and who wins (`choose`).

    Parameters
    ----------
    prompt_id, prompt
        The prompt.
    settings
        Parameters and seed of the run.
    cap
        Most samples.
    rule
        Stopping rule with an empty state of its own, or None for a fixed number.
    extract, equal
        How answers are read and when they are the same.
    wave
        How far ahead of the decision samples are drawn.

    Attributes
    ----------
    asked, drawn
        Requests made, and samples delivered so far.
    candidates
        The answers so far.
    last
        The rule's latest decision.
    by_rule
        Whether the rule ended the sampling.
    reason
        Why sampling ended, "" before.
    winner
        The answer decided on, None before and where there is none.
    """

    def __init__(
        self,
        prompt_id: str,
        prompt: Prompt,
        settings: RunSettings,
        *,
        cap: int,
        rule: StoppingRule | None = None,
        extract: Callable[[str], Any] | None = None,
        equal: Callable[..., Any] | None = None,
        wave: Wave = "geometric",
    ) -> None:
        self.prompt_id = prompt_id
        self.prompt = prompt
        self.params = settings.params
        self.seed = settings.seed
        self.cap = cap
        self.rule = rule
        self.wave = wave
        self.finished = False
        self.asked = 0
        self.drawn = 0
        self.candidates = Candidates()
        self.last = GO_ON
        self.by_rule = False
        self.reason = ""
        self.winner: Candidate | None = None
        self._extractor = as_extractor(extract)
        own = self._extractor.own_equality if equal is None else None
        self._canonical = as_canonicaliser(equal if own is None else own)

    # For subclasses

    def gather(self, sample: Sample) -> float:
        """Put a sample among the candidates and return the weight of its vote for the rule."""
        self.candidates.add(sample)
        return 1.0

    def choose(self) -> Candidate | None:
        """Return the winner among the candidates, of which there is at least one.

        May change `reason` where there is no winner.
        """
        raise NotImplementedError

    def votes(self) -> dict[Hashable, float]:
        """Return the weight of each answer for the result."""
        return self.candidates.votes()

    # For the engine

    @property
    def needs_exchangeable(self) -> bool:
        """Whether the rule's promise presumes exchangeable samples."""
        return self.rule is not None and self.rule.needs_exchangeable

    def next_request(self) -> Request | None:
        """Return the next request up to the cap."""
        if self.finished or self.asked >= self.cap:
            return None
        index = self.asked
        self.asked += 1
        return Request(
            self.prompt_id,
            index,
            self.prompt,
            self.params,
            sample_seed(self.seed, self.prompt_id, index),
        )

    def wave_size(self) -> int:
        """Return how many samples may be under way before the next decision."""
        if self.wave == "geometric":
            size = max(FIRST_WAVE, self.drawn)
        elif self.wave == "boundary":
            size = self.rule.min_to_stop() if self.rule is not None else self.cap
        else:
            size = self.wave
        return max(1, min(size, self.cap - self.drawn))

    def read(self, sample: Sample) -> None:
        """Set the canonical answer of a sample; NaN is none."""
        answer = self._extractor.from_sample(sample)
        key = None if answer is None else self._canonical(answer)
        sample.key = None if key is None or key != key else key

    def deliver(self, sample: Sample) -> Decision:
        """Take the next sample."""
        self.drawn += 1
        weight = self.gather(sample)
        if self.rule is not None:
            # The reward of what is no answer says nothing of the answers.
            reward = None if sample.key is None else sample.reward
            self.last = self.rule.update(sample.key, reward, weight)
            if self.last.stop:
                self.by_rule = True
                return self._finish(self.last.reason)
        if self.drawn >= self.cap:
            return self._finish("max_samples")
        return GO_ON

    def close(self, reason: str) -> Decision:
        """Decide on what was delivered."""
        return self._finish(reason)

    def _finish(self, reason: str) -> Decision:
        self.finished = True
        self.reason = reason
        self.decide()
        return Decision(True, self.answer, self.reason, self.last.confidence, self.guarantee)

    def decide(self) -> None:
        """Find the winner; called once, when `reason` is set."""
        if self.candidates:
            self.winner = self.choose()
        elif self.drawn:
            self.reason = "no_parseable_answer"

    @property
    def answer(self) -> Hashable | None:
        """The answer decided on."""
        return self.winner.key if self.winner is not None else None

    @property
    def guarantee(self) -> Guarantee:
        """Kind of the decision's guarantee; "exact" without a rule, for a fixed number is drawn."""
        if self.by_rule:
            return self.last.guarantee
        return "exact" if self.rule is None else self.rule.guarantee

    def _settled(self) -> bool:
        """Say whether the rule vouches for the answer; a fixed number of samples does not."""
        fixed = self.guarantee == "exact" and self.reason == "max_samples"
        return self.by_rule and self.guarantee != "heuristic" and not fixed

    def leading(self) -> tuple[int, int]:
        """Return how many samples the two most frequent answers have."""
        counts = sorted((candidate.count for candidate in self.candidates.values()), reverse=True)
        first, second = [*counts, 0, 0][:2]
        return first, second

    def result(self) -> Result:
        """Return the result; samples and usage are the engine's to fill in."""
        winner = self.winner
        return Result(
            prompt_id=self.prompt_id,
            answer=self.answer,
            text=winner.best.text if winner is not None else "",
            certified=winner is not None and self._settled(),
            confidence=self.last.confidence,
            guarantee=self.guarantee,
            reason=self.reason,
            votes=self.votes(),
            samples=[],
            usage=Usage(),
        )
