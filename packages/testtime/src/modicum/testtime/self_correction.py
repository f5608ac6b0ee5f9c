"""Self-correction: experts answer in rounds, a verifier judges, a controller learns who is next.

Takes experts (backends with prompts and parameters of their own) and a verifier, gives for each
prompt the best answer found. A round is one answer of the expert that the controller names; what an
expert sees of earlier rounds is the view. Who is named is a controller's business
(`modicum.testtime.controllers`), the words of prompts are those of `modicum.testtime.templates`.

Legend: ``K`` experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

from modicum.testtime.bounds import regret_bound
from modicum.testtime.controllers import EXP3, UCB1, Controller, RoundRobin, Uniform
from modicum.testtime.engine import Backend
from modicum.testtime.samples import (
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
from modicum.testtime.strategy import (
    RunSettings,
    SamplingTask,
    Strategy,
    checked_rule,
    describe,
)
from modicum.testtime.tasks import PromptTask
from modicum.testtime.templates import (
    Attempt,
    PromptTemplate,
    ReviseTemplate,
    View,
    check_fields,
    expert_prompt,
    revise_prompt,
)

__all__ = ["CorrectionResult", "Expert", "Round", "SelfCorrection"]

VIEWS = ("none", "last", "all", "feedback_only")
_CONTROLLER_STREAM = -1
"""Stands in for a sample's index in the seed of a prompt's controller."""


@dataclass(frozen=True)
class Expert:
    """Anything that answers: a backend with a prompt and parameters of its own.

    Parameters
    ----------
    name
        Unique among the experts of a strategy; stands in samples and logs.
    generator
        The backend; experts may share one.
    template
        Text with ``{prompt}``, put around the prompt (of a chat: around its last user message), or
        a function of the prompt; None leaves it as it is. Braces that are meant are doubled.
    system
        System prompt; makes a chat of a text.
    params
        Sampling parameters in place of the run's.

    Raises
    ------
    ValueError
        If the name is empty or the template has no ``{prompt}`` or other fields.
    """

    name: str
    generator: Backend
    template: PromptTemplate | None = None
    system: str | None = None
    params: Sampling | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("an expert needs a name")
        if isinstance(self.template, str):
            what = f"template of expert {self.name!r}"
            if not check_fields(self.template, {"prompt"}, what):
                raise ValueError(f"{what}: {self.template!r} does not say where {{prompt}} goes")

    def prompt(self, prompt: Prompt) -> Prompt:
        """Return a prompt as this expert puts it."""
        return expert_prompt(prompt, self.template, self.system)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round gave.

    Attributes
    ----------
    round
        From 1.
    expert
        Whose answer counts.
    reward
        The verifier's reward of that answer, None if it has none.
    accepted
        Whether an answer of the round was accepted.
    sample_index
        Which sample that answer is.
    rewards
        Rewards of all experts that answered, by name: one, or K with full information.
    """

    round: int
    expert: str
    reward: float | None
    accepted: bool
    sample_index: int
    rewards: dict[str, float | None]


@dataclass(slots=True)
class CorrectionResult(Result):
    """What self-correction returns for one prompt.

    ``certified`` says that the verifier accepted the answer (reason "accepted"), or that a stopping
    rule with a guarantee ended the rounds. Other reasons: "rounds", "exhausted" (no expert is left
    that has not failed, see `modicum.testtime.controllers.Eliminate`), "budget",
    "no_parseable_answer".

    Attributes
    ----------
    reward
        Reward of the returned answer; None if there is no answer or it has none.
    gap
        Largest possible reward less that of the returned answer; NaN without one.
    history
        The rounds that were played to their end.
    """

    reward: float | None = None
    gap: float = math.nan
    history: list[Round] = field(default_factory=list)


class SelfCorrection(Strategy):
    """Online learning over experts from a verifier's feedback.

    Parameters
    ----------
    experts
        Who answers; with one and ``view="all"`` this is the ordinary loop of attempt, feedback and
        revision.
    verifier
        ``verifier(prompt, [text, …]) -> [reward, …]``; gets the prompt as the user gave it.
    controller
        Who is next. Default: `UCB1` for verifiers that say ``binary = False`` and, where they say
        nothing, for a `threshold` below the largest reward; `RoundRobin` for binary ones. One with
        ``reset="session"`` takes the prompts of a run one after another and keeps what it learned
        from each for the next; a run is a session.
    rounds
        Most rounds per prompt, T.
    view
        What an expert sees of the rounds before: "none", the "last" attempt with its feedback,
        "all" of them, or "feedback_only".
    stop_on_accept
        Whether an accepted answer ends the prompt.
    threshold
        Least reward of an accepted answer; default the largest possible one.
    return_
        "best": the answer of the highest reward, the earliest on ties; "last": that of the last
        round (with full information an accepted answer of that round, else the one of the expert
        named). An attempt without an answer (nothing to extract, or cut off at ``max_tokens``)
        comes after all that have one and is never accepted.
    reward_range
        Least and largest possible reward, which controllers see as 0 and 1; a reward outside is an
        error. An attempt without a reward counts as 0.
    feedback
        What attempts are shown with: None, a sentence with the reward and whether it was accepted;
        "text", what a verifier with ``returns_text = True`` says. Such a verifier is refused
        otherwise, because its words may hold the reference answer.
    revise
        Words in which attempts are shown.
    extract, equal
        How answers are read and when they are the same; None takes the whole text.
    stop
        Stopping rule that may end the rounds as well. One that needs independent samples of one law
        is refused where there are none: with a view, or with several experts unless they are drawn
        by `Uniform`.
    inflight, prompts_in_flight, order, on_error, nan, assume_exchangeable
        As for `modicum.testtime.engine.Engine`.

    Raises
    ------
    ValueError
        For settings that contradict each other, among them a verifier that returns text without
        ``feedback="text"``.

    Warns
    -----
    UserWarning
        If the controller tries every expert once and has fewer rounds than experts.

    Notes
    -----
    Source: "Sample Complexity and Representation Ability of Test-time Scaling Paradigms", Huang et
    al., arXiv 2506.05295, Algorithm 1, where ``return_="last"``, ``stop_on_accept=False``. With
    full information (`Hedge`) a round has an answer of every expert: all are verified, an accepted
    one ends the prompt and the best of them may be returned; the one that the controller named goes
    on the record and into the view.
    """

    def __init__(
        self,
        experts: Sequence[Expert] | Expert,
        verifier: Any,
        *,
        controller: Controller | None = None,
        rounds: int = 8,
        view: View = "none",
        stop_on_accept: bool = True,
        threshold: float | None = None,
        return_: Literal["best", "last"] = "best",
        reward_range: tuple[float, float] = (0.0, 1.0),
        feedback: Literal["text"] | None = None,
        revise: ReviseTemplate | None = None,
        extract: Callable[[str], Any] | None = None,
        equal: Callable[..., Any] | None = None,
        stop: StoppingRule | None = None,
        inflight: int = 64,
        prompts_in_flight: int | None = None,
        order: Literal["submission", "completion"] = "submission",
        on_error: Literal["raise", "null"] = "raise",
        nan: Literal["error", "reject"] = "error",
        assume_exchangeable: bool = False,
    ) -> None:
        self.experts = _checked_experts(experts)
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(map(repr, VIEWS))}, not {view!r}")
        if return_ not in ("best", "last"):
            raise ValueError(f'return_ must be "best" or "last", not {return_!r}')
        _check_feedback(verifier, feedback)
        self.reward_range = _checked_range(reward_range)
        self.threshold = _checked_threshold(threshold, self.reward_range)
        stop = checked_rule(stop)
        if controller is not None and not isinstance(controller, Controller):
            raise TypeError(
                f"controller must be a controller such as UCB1(), not {controller!r}; "
                "parse_controller makes one of a text"
            )
        self.controller = (
            controller if controller is not None else self._default_controller(verifier)
        )
        self.rounds = rounds
        self.view = view
        self.stop_on_accept = stop_on_accept
        self.return_ = return_
        self.feedback = feedback
        self.revise = revise if revise is not None else ReviseTemplate()
        self.extract = extract
        self.equal = equal
        self.stop = stop
        if stop is not None and not assume_exchangeable:
            self._refuse_dependent(stop)
        self._started = self.controller.start(
            len(self.experts), rounds, accept=self.unit_reward(self.threshold)
        )
        if self.in_session:
            if prompts_in_flight not in (None, 1):
                raise ValueError(
                    f"{self.controller!r} carries what it learned from prompt to prompt, so they"
                    f" come one after another: prompts_in_flight must be 1, not"
                    f" {prompts_in_flight!r}"
                )
            prompts_in_flight = 1
        super().__init__(
            {expert.name: expert.generator for expert in self.experts},
            verifier=verifier,
            inflight=inflight,
            prompts_in_flight=prompts_in_flight,
            order=order,
            on_error=on_error,
            nan=nan,
            assume_exchangeable=assume_exchangeable,
        )

    @property
    def in_session(self) -> bool:
        """Whether the controller keeps what it learned across prompts."""
        return self.controller.reset == "session"

    def unit_reward(self, reward: float) -> float:
        """Return a reward of `reward_range` on the scale from 0 to 1."""
        low, high = self.reward_range
        return (reward - low) / (high - low)

    def accepts(self, sample: Sample) -> bool:
        """Say whether a sample has an answer and its reward reaches the threshold."""
        return (
            sample.key is not None and sample.reward is not None and sample.reward >= self.threshold
        )

    def regret_bound(self, gaps: npt.ArrayLike | None = None) -> float:
        """Bound the expected reward that the controller loses to the best expert, in reward units.

        reg(T) of `modicum.testtime.bounds.regret_bound` for T rounds on one prompt; NaN for a
        controller that it does not know and for `EXP3` with ``estimator="reward"``.

        Parameters
        ----------
        gaps
            Mean reward of the best expert less that of each, on the scale from 0 to 1, ``[K]``.
        """
        controller = self.controller
        if isinstance(controller, EXP3) and controller.estimator == "reward":
            return math.nan
        low, high = self.reward_range
        try:
            bound = regret_bound(controller.name, len(self.experts), self.rounds, gaps=gaps)
        except ValueError:
            if gaps is not None:
                raise
            return math.nan
        return (high - low) * bound

    def _default_controller(self, verifier: Any) -> Controller:
        binary = getattr(verifier, "binary", None)
        if binary is None:
            binary = self.threshold == self.reward_range[1]
        return RoundRobin() if binary else UCB1()

    def _refuse_dependent(self, stop: StoppingRule) -> None:
        """Refuse a rule that needs independent samples of one law where there are none."""
        if not stop.needs_exchangeable:
            return
        why = ""
        if self.view != "none":
            why = f"with view={self.view!r} each attempt depends on those before"
        elif len(self.experts) > 1 and not isinstance(self.controller, Uniform):
            why = f"experts named by {self.controller!r} answer by different laws"
        if why:
            raise ValueError(
                f"{type(stop).__name__} presumes independent samples of one law, but {why}; say"
                " assume_exchangeable=True to use it as a heuristic"
            )

    def _task(self, prompt_id: str, prompt: Prompt, settings: RunSettings) -> PromptTask:
        seed = sample_seed(settings.seed, prompt_id, _CONTROLLER_STREAM)
        return _CorrectionTask(self, prompt_id, prompt, settings, self._started.restart(seed))

    def _tasks(
        self, prompts: Iterable[tuple[str, Prompt]], settings: RunSettings
    ) -> Iterator[PromptTask]:
        if not self.in_session:
            yield from super()._tasks(prompts, settings)
            return
        # The engine asks for a task only after the one before is finished.
        session = self._started.restart(settings.seed)
        for position, (prompt_id, prompt) in enumerate(prompts):
            if position:
                session.new_query()
            yield _CorrectionTask(self, prompt_id, prompt, settings, session)

    def _not_reached(self, prompt_id: str) -> CorrectionResult:
        return CorrectionResult(
            prompt_id, None, "", False, math.nan, "heuristic", "budget", {}, [], Usage(), True
        )

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {
            "experts": [
                {
                    "name": expert.name,
                    "template": describe(expert.template),
                    "system": expert.system,
                    "params": None if expert.params is None else expert.params.to_dict(),
                }
                for expert in self.experts
            ],
            "controller": repr(self.controller),
            "rounds": self.rounds,
            "view": self.view,
            "stop_on_accept": self.stop_on_accept,
            "threshold": self.threshold,
            "return": self.return_,
            "reward_range": list(self.reward_range),
            "feedback": self.feedback,
            "revise": repr(self.revise),
            "extract": describe(self.extract),
            "equal": describe(self.equal),
            "rule": None if self.stop is None else describe(self.stop.fresh()),
        }


def _checked_experts(experts: Sequence[Expert] | Expert) -> tuple[Expert, ...]:
    listed = (experts,) if isinstance(experts, Expert) else tuple(experts)
    if not listed:
        raise ValueError("self-correction needs at least one expert")
    for expert in listed:
        if not isinstance(expert, Expert):
            raise TypeError(f'experts are Expert("name", generator, …), not {expert!r:.80}')
    names = [expert.name for expert in listed]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two experts are called {name!r}; names must differ")
    return listed


def _check_feedback(verifier: Any, feedback: str | None) -> None:
    if verifier is None:
        raise ValueError("self-correction needs a verifier: nothing else says which answer is good")
    if feedback not in (None, "text"):
        raise ValueError(f'feedback must be None or "text", not {feedback!r}')
    with_text = bool(getattr(verifier, "returns_text", False))
    if with_text and feedback is None:
        raise ValueError(
            f"{type(verifier).__name__} returns text, which may hold the reference answer and would"
            ' be shown to the experts; say feedback="text" if it does not'
        )
    if feedback == "text" and not with_text:
        raise ValueError(
            f'feedback="text" needs a verifier that gives (reward, text) pairs and says so with'
            f" returns_text = True; {type(verifier).__name__} does not"
        )


def _checked_range(reward_range: tuple[float, float]) -> tuple[float, float]:
    low, high = reward_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"reward_range must be (low, high), finite, with low < high, not {reward_range!r}"
        )
    return float(low), float(high)


def _checked_threshold(threshold: float | None, reward_range: tuple[float, float]) -> float:
    low, high = reward_range
    if threshold is None:
        return high
    if not low <= threshold <= high:
        raise ValueError(
            f"threshold must lie in reward_range={reward_range!r}, not {threshold!r}: no other"
            " reward exists"
        )
    return float(threshold)


class _CorrectionTask(SamplingTask):
    """One prompt of self-correction."""

    def __init__(
        self,
        strategy: SelfCorrection,
        prompt_id: str,
        prompt: Prompt,
        settings: RunSettings,
        controller: Controller,
    ) -> None:
        self.experts = strategy.experts
        self.per_round = len(self.experts) if controller.full_information else 1
        super().__init__(
            prompt_id,
            prompt,
            settings,
            cap=strategy.rounds * self.per_round,
            rule=None if strategy.stop is None else strategy.stop.fresh(),
            extract=strategy.extract,
            equal=strategy.equal,
        )
        self.strategy = strategy
        self.controller = controller
        self.round = 0
        self.named = 0
        self.to_ask: list[int] = []
        self.answers: list[Sample] = []
        self.said: dict[int, str] = {}
        self.attempts: list[Attempt] = []
        self.history: list[Round] = []
        self.best: Sample | None = None
        self.last_counted: Sample | None = None
        self.chosen: Sample | None = None

    # Asking

    def next_request(self) -> Request | None:
        """Return a request of this round, or of the next one once all of this one are in."""
        if self.finished:
            return None
        if not self.to_ask and self.asked == self.drawn:
            self._begin_round()
        if not self.to_ask:
            return None
        expert = self.experts[self.to_ask.pop(0)]
        index = self.asked
        self.asked += 1
        return Request(
            self.prompt_id,
            index,
            self._shown(expert),
            expert.params if expert.params is not None else self.params,
            sample_seed(self.seed, self.prompt_id, index),
            expert.name,
            self.round,
        )

    def wave_size(self) -> int:
        """Return how many answers a round has."""
        return self.per_round

    def _begin_round(self) -> None:
        self.round += 1
        self.answers = []
        self.named = self.controller.choose()
        self.to_ask = (
            list(range(len(self.experts))) if self.controller.full_information else [self.named]
        )

    def _shown(self, expert: Expert) -> Prompt:
        strategy = self.strategy
        return revise_prompt(
            expert.prompt(self.prompt), self.attempts, strategy.view, strategy.revise
        )

    # What comes in

    def take_feedback(self, sample: Sample, text: str) -> None:
        """Take the verifier's words on a sample, just before the sample itself."""
        self.said[sample.sample_index] = text

    def deliver(self, sample: Sample) -> Decision:
        """Take the next answer; the round ends with its last one."""
        self.drawn += 1
        self._check_reward(sample)
        self.answers.append(sample)
        self.candidates.add(sample)
        if self.best is None or _rank(sample) > _rank(self.best):
            self.best = sample
        if self.rule is not None:
            # The reward of what is no answer says nothing of the answers.
            reward = None if sample.key is None else sample.reward
            self.last = self.rule.update(sample.key, reward)
        if len(self.answers) == self.per_round:
            self._end_round()
            if self.strategy.stop_on_accept and self.history[-1].accepted:
                return self._finish("accepted")
        if self.last.stop:
            self.by_rule = True
            return self._finish(self.last.reason)
        if self.drawn >= self.cap:
            return self._finish("rounds")
        if self.drawn == self.asked and not self.to_ask and self.controller.exhausted:
            return self._finish("exhausted")
        return GO_ON

    def _check_reward(self, sample: Sample) -> None:
        low, high = self.strategy.reward_range
        if sample.reward is not None and not low <= sample.reward <= high:
            raise ValueError(
                f"the verifier gave {sample.reward!r} for sample {sample.sample_index} of prompt"
                f" {self.prompt_id!r}, outside of reward_range=({low!r}, {high!r}); say the range"
                " of its rewards"
            )

    def _unit(self, sample: Sample) -> float:
        return 0.0 if sample.reward is None else self.strategy.unit_reward(sample.reward)

    def _end_round(self) -> None:
        """Teach the controller, and keep what later rounds are shown."""
        if self.controller.full_information:
            counted = self.answers[self.named]
            self.controller.observe_all([self._unit(answer) for answer in self.answers])
        else:
            (counted,) = self.answers
            self.controller.observe(self.named, self._unit(counted))
        accepted = [answer for answer in self.answers if self.strategy.accepts(answer)]
        self.last_counted = max(accepted, key=_rank, default=counted)
        self.history.append(
            Round(
                self.round,
                counted.expert,
                counted.reward,
                bool(accepted),
                counted.sample_index,
                {answer.expert: answer.reward for answer in self.answers},
            )
        )
        if counted.finish_reason != "error":  # a failed request is nothing to revise
            self.attempts.append(
                Attempt(
                    self.round,
                    counted.expert,
                    counted.text,
                    counted.reward,
                    self.strategy.accepts(counted),
                    self.said.get(counted.sample_index, ""),
                )
            )
        self.said.clear()

    # Deciding

    def decide(self) -> None:
        """Choose the answer to return."""
        strategy = self.strategy
        self.chosen = self.best
        declared = self.candidates.get(self.last.answer) if self.by_rule else None
        if declared is not None:
            self.chosen = declared.best
        elif strategy.return_ == "last" and self.last_counted is not None:
            self.chosen = self.last_counted
        # A budget may end a round of several answers after one of them was accepted.
        if (
            self.reason == "budget"
            and strategy.stop_on_accept
            and self.best is not None
            and strategy.accepts(self.best)
        ):
            self.reason, self.chosen = "accepted", self.best
        if self.reason != "accepted" and self.drawn and not self.candidates:
            self.reason = "no_parseable_answer"

    @property
    def answer(self) -> Hashable | None:
        """The answer decided on."""
        return None if self.chosen is None else self.chosen.key

    @property
    def guarantee(self) -> Guarantee:
        """Kind of promise: "exact" for an accepted answer, the rule's where it ended the rounds."""
        if self.reason == "accepted":
            return "exact"
        if self.by_rule and self.rule is not None:
            return self.rule.guarantee
        return "heuristic"

    def result(self) -> CorrectionResult:
        """Return the result."""
        chosen = self.chosen
        reward = None if chosen is None else chosen.reward
        return CorrectionResult(
            prompt_id=self.prompt_id,
            answer=self.answer,
            text="" if chosen is None else chosen.text,
            certified=self.answer is not None and (self.reason == "accepted" or self._settled()),
            confidence=self.last.confidence if self.by_rule else math.nan,
            guarantee=self.guarantee,
            reason=self.reason,
            votes=self.candidates.votes(),
            samples=[],
            usage=Usage(),
            reward=reward,
            gap=math.nan if reward is None else self.strategy.reward_range[1] - reward,
            history=self.history,
        )


def _rank(sample: Sample) -> tuple[bool, float, int]:
    """Order attempts: those with an answer, then the highest reward, then the earliest."""
    reward = -math.inf if sample.reward is None else sample.reward
    return sample.key is not None, reward, -sample.sample_index
