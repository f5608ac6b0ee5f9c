"""What a run of the engine is in both of its modes.

Which prompts are open, what was asked for, what came in, what the log and the tasks get of it. A
`Run` knows neither event loops nor threads; `modicum.testtime._waves` and
`modicum.testtime._concurrent` bring the work in.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modicum.testtime.log import completion_from_record, encode_key, prompt_digest
from modicum.testtime.samples import (
    Completion,
    DegenerateSampling,
    Event,
    Prompt,
    Request,
    Sample,
    Usage,
)
from modicum.testtime.tasks import PromptTask
from modicum.testtime.verifiers import check_rewards, score_pairs

if TYPE_CHECKING:
    import asyncio

    from modicum.testtime.engine import Engine

DEGENERATE_AFTER = 8
"""Identical completions under different seeds after which a prompt's sampling is suspect."""


class Lane:
    """A prompt that is being worked on."""

    __slots__ = (
        "cancelling",
        "due",
        "feedback",
        "identical",
        "number",
        "pending",
        "queued",
        "recorded",
        "samples",
        "scoring",
        "started",
        "submitted",
        "task",
        "usage",
        "waiting",
    )

    def __init__(self, task: PromptTask, number: int, started: float) -> None:
        self.task = task
        self.number = number
        self.started = started
        self.submitted = 0
        self.pending: dict[int, asyncio.Task[Completion]] = {}
        self.cancelling = False
        # Served from the log and not taken in yet.
        self.due = 0
        # Arrived and not delivered yet, with the request, in order of arrival.
        self.waiting: dict[int, tuple[Request, Sample]] = {}
        self.scoring: list[tuple[Request, Sample]] = []
        self.recorded: dict[int, dict[str, Any]] = {}
        self.feedback: dict[int, str] = {}
        self.samples: list[Sample] = []
        self.identical: str | None = None
        self.queued = False
        self.usage = Usage(cap=int(getattr(task, "cap", 0) or 0))

    @property
    def outstanding(self) -> int:
        """Requests made whose samples were not delivered yet."""
        return self.submitted - len(self.samples)

    @property
    def idle(self) -> bool:
        """Whether nothing of this prompt is under way."""
        return not (self.pending or self.due or self.waiting or self.scoring)


class Job(NamedTuple):
    """Samples of a prompt that want rewards."""

    lane: Lane
    verifier: Any
    prompt: Prompt
    samples: list[Sample]


class Run:
    """One run: which prompts are open, what came in, what goes to the log and to the tasks."""

    def __init__(self, engine: Engine, tasks: Iterable[PromptTask]) -> None:
        self.engine = engine
        self.source = iter(tasks)
        self.exhausted = False
        self.lanes: dict[int, Lane] = {}
        self.admitted = 0
        self.names: set[str] = set()
        self.events: list[Event] = []
        self.started = engine.clock()
        self.submitted = 0
        self.warned_degenerate = False
        engine.usage = Usage()
        engine.truncated = False

    # Asking

    def admit(self) -> Lane | None:
        """Take the next task, if there is one and room for it."""
        if self.exhausted or len(self.lanes) >= self.engine.prompts_in_flight or self.spent():
            return None
        task = next(self.source, None)
        if task is None:
            self.exhausted = True
            return None
        if task.prompt_id in self.names:
            raise ValueError(f"two tasks have the prompt_id {task.prompt_id!r}")
        self.names.add(task.prompt_id)
        self._check_order(task)
        lane = Lane(task, self.admitted, self.engine.clock())
        self.admitted += 1
        self.lanes[lane.number] = lane
        return lane

    def _check_order(self, task: PromptTask) -> None:
        if (
            self.engine.order == "completion"
            and getattr(task, "needs_exchangeable", False)
            and not self.engine.assume_exchangeable
        ):
            raise ValueError(
                f"the guarantee for prompt {task.prompt_id!r} presumes exchangeable samples, which"
                ' order="completion" does not give: use order="submission", or say'
                " assume_exchangeable=True if all completions take equally long"
            )

    def spent(self) -> bool:
        """Say whether the budget allows no further request."""
        budget = self.engine.budget
        usage = self.engine.usage
        if budget.samples is not None and self.submitted >= budget.samples:
            return True
        if (
            budget.tokens is not None
            and usage.prompt_tokens + usage.completion_tokens >= budget.tokens
        ):
            return True
        return budget.seconds is not None and self.engine.clock() - self.started >= budget.seconds

    def request(self, lane: Lane) -> Request | None:
        """Take the next request of a prompt, checked and counted."""
        request = lane.task.next_request()
        if request is None:
            return None
        if request.sample_index != lane.submitted or request.prompt_id != lane.task.prompt_id:
            raise ValueError(
                f"task {lane.task.prompt_id!r} asked for sample {request.sample_index} of"
                f" {request.prompt_id!r} where sample {lane.submitted} of its own is due: requests"
                " are numbered 0, 1, 2, …"
            )
        if request.expert not in self.engine.backends:
            raise ValueError(
                f"task {lane.task.prompt_id!r} asked for expert {request.expert!r}; backends are"
                f" {sorted(self.engine.backends)}"
            )
        lane.submitted += 1
        lane.usage.submitted += 1
        self.submitted += 1
        return request

    def recorded(self, lane: Lane, request: Request) -> Completion | None:
        """Return what the log holds for a request, None if nothing."""
        log = self.engine.log
        record = None if log is None else log.get(request.prompt_id, request.sample_index)
        if record is None:
            return None
        asked = {"seed": request.seed, "expert": request.expert}
        for field, value in asked.items():
            if record.get(field, "") != value:
                self._disagree(request, field, record.get(field, ""), value)
        if record.get("prompt") and record["prompt"] != prompt_digest(request.prompt):
            self._disagree(request, "prompt (its digest)", record["prompt"], "another one")
        lane.recorded[request.sample_index] = record
        return completion_from_record(record)

    def _disagree(self, request: Request, field: str, found: Any, asked: Any) -> None:
        path = self.engine.log.path if self.engine.log is not None else ""
        raise ValueError(
            f"{path}: sample {request.sample_index} of prompt {request.prompt_id!r} was drawn with"
            f" {field} {found!r}, this run has {asked!r}"
        )

    # What comes in

    def arrive(self, lane: Lane, request: Request, completion: Completion) -> None:
        """Make a sample of a completion; it waits for its turn."""
        failed = completion.finish_reason == "error"
        if failed and self.engine.on_error == "raise" and not lane.task.finished:
            raise RuntimeError(
                f"sample {request.sample_index} of prompt {request.prompt_id!r} failed:"
                f' {completion.error or "no reason given"}; on_error="null" would count it as a'
                " sample without an answer"
            )
        sample = Sample(
            request.prompt_id,
            request.sample_index,
            request.seed,
            completion.text,
            None,
            None,
            completion.finish_reason,
            completion.n_prompt_tokens,
            completion.n_tokens,
            completion.latency_s,
            completion.logprob_sum,
            False,
            request.expert,
            request.round,
            completion.tool_calls,
        )
        for usage in (lane.usage, self.engine.usage):
            usage.prompt_tokens += completion.n_prompt_tokens
            usage.completion_tokens += completion.n_tokens
        lane.waiting[request.sample_index] = (request, sample)

    def ready(self, lane: Lane) -> list[tuple[Request, Sample]]:
        """Take what a prompt's task may see now off the waiting samples, keys read."""
        if self.engine.order == "completion":
            indices = list(lane.waiting)
        else:
            indices = []
            index = len(lane.samples)
            while index in lane.waiting:
                indices.append(index)
                index += 1
        for index in indices:
            self._read(lane, lane.waiting[index][1])
        return [lane.waiting.pop(index) for index in indices]

    def _read(self, lane: Lane, sample: Sample) -> None:
        if sample.finish_reason == "error":
            return
        lane.task.read(sample)
        if sample.finish_reason == "length":
            sample.key = None  # cut off: whatever was read from it is no final answer

    def job(self, lane: Lane, batch: Sequence[tuple[Request, Sample]]) -> Job | None:
        """Return what must be verified of a batch before it is delivered; None if nothing."""
        verifier = getattr(lane.task, "verifier", None) or self.engine.verifier
        if verifier is None:
            return None
        samples = []
        for _, sample in batch:
            if sample.finish_reason == "error":
                continue
            record = lane.recorded.get(sample.sample_index, {})
            if record.get("reward") is not None:
                sample.reward = record["reward"]
                lane.feedback[sample.sample_index] = record.get("feedback", "")
            else:
                samples.append(sample)
        prompt = getattr(lane.task, "prompt", batch[0][0].prompt)
        return Job(lane, verifier, prompt, samples) if samples else None

    def reward(self, job: Job, rewards: Sequence[Any]) -> None:
        """Write a verifier's rewards into the samples of a job."""
        if getattr(job.verifier, "returns_text", False):
            for sample, (_, text) in zip(job.samples, rewards, strict=True):
                job.lane.feedback[sample.sample_index] = text
            rewards = [reward for reward, _ in rewards]
        names = [f"{s.sample_index} of prompt {s.prompt_id!r}" for s in job.samples]
        checked = check_rewards(rewards, names, nan=self.engine.nan)
        for sample, reward in zip(job.samples, checked, strict=True):
            sample.reward = reward
            if reward is None:
                sample.key = None

    # What goes out

    def deliver(self, lane: Lane, batch: Iterable[tuple[Request, Sample]]) -> None:
        """Show samples to a prompt's task one by one; after its decision none is used."""
        rest = iter(batch)
        try:
            for request, sample in rest:
                self._show(lane, request, sample)
        except BaseException:
            lane.waiting.update((sample.sample_index, (ask, sample)) for ask, sample in rest)
            raise

    def _show(self, lane: Lane, request: Request, sample: Sample) -> None:
        task = lane.task
        sample.used = not task.finished
        self._write(lane, request, sample)
        lane.samples.append(sample)
        if not sample.used:
            self.events.append(Event("sample", sample.prompt_id, sample))
            return
        lane.usage.used += 1
        self._watch(lane, sample)
        take_feedback = getattr(task, "take_feedback", None)
        if take_feedback is not None:
            take_feedback(sample, lane.feedback.get(sample.sample_index, ""))
        decision = task.deliver(sample)
        self.events.append(Event("sample", sample.prompt_id, sample))
        if task.finished:
            self.events.append(Event("decision", sample.prompt_id, sample, decision))

    def discard(self, lane: Lane) -> None:
        """Deliver what came in after a prompt's decision: read and logged, never used."""
        batch = list(lane.waiting.values())
        lane.waiting.clear()
        for _, sample in batch:
            self._read(lane, sample)
        self.deliver(lane, batch)

    def _write(self, lane: Lane, request: Request, sample: Sample) -> None:
        log = self.engine.log
        if log is None:
            return
        feedback = lane.feedback.get(sample.sample_index, "")
        record = lane.recorded.pop(sample.sample_index, None)
        if record is None:
            log.append(sample, prompt_digest(request.prompt), feedback)
        elif (record.get("used"), record.get("reward"), record.get("key")) != (
            sample.used,
            sample.reward,
            encode_key(sample.key),
        ):
            log.amend(sample, feedback)

    def _watch(self, lane: Lane, sample: Sample) -> None:
        """Warn of a prompt whose samples are all the same, once per run."""
        drawn = lane.usage.used
        if self.warned_degenerate or drawn > DEGENERATE_AFTER:
            return
        if sample.finish_reason == "error":
            lane.identical = None  # no text at all says nothing of the draws
        elif drawn == 1:
            lane.identical = sample.text
        elif sample.text != lane.identical:
            lane.identical = None
        elif drawn == DEGENERATE_AFTER and lane.samples[0].seed != sample.seed:
            self.warned_degenerate = True
            warnings.warn(
                f"the first {DEGENERATE_AFTER} samples of prompt {sample.prompt_id!r} are identical"
                f" ({sample.text!r:.60}) although their seeds differ: the backend decodes greedily,"
                " caches or ignores seeds and repeats one draw, which is no evidence (or, with"
                " answers of a word or two, the model is simply sure)",
                DegenerateSampling,
                stacklevel=2,
            )

    def retire(self, lane: Lane, *, truncated: bool = False) -> None:
        """Emit the result of a finished prompt and forget it."""
        del self.lanes[lane.number]
        result = lane.task.result()
        lane.usage.seconds = self.engine.clock() - lane.started
        result.samples = sorted(lane.samples, key=lambda sample: sample.sample_index)
        result.usage = lane.usage
        result.truncated = truncated
        total = self.engine.usage
        # Tokens were counted as they came in, for the budget.
        total.submitted += lane.usage.submitted
        total.used += lane.usage.used
        total.cancelled += lane.usage.cancelled
        total.cap += lane.usage.cap
        total.seconds = self.engine.clock() - self.started
        self.events.append(Event("done", result.prompt_id, result=result))

    def close(self, lane: Lane) -> None:
        """End a prompt on what was delivered: the budget is spent."""
        self.engine.truncated = True
        decision = lane.task.close("budget")
        self.events.append(Event("decision", lane.task.prompt_id, decision=decision))
        self.retire(lane, truncated=True)

    def end(self) -> None:
        """Note whether tasks are left that the budget did not allow to begin."""
        if not self.exhausted and next(self.source, None) is not None:
            self.engine.truncated = True

    def abandon(self) -> None:
        """Write what came in and was not delivered: the run ends early."""
        for lane in self.lanes.values():
            for request, sample in [*lane.scoring, *lane.waiting.values()]:
                if lane.recorded.get(sample.sample_index) is None:
                    sample.used = False
                    self._write(lane, request, sample)
            lane.scoring, lane.waiting = [], {}


def score(verifier: Any, jobs: Sequence[Job]) -> list[list[Any]]:
    """Call a verifier for several prompts at once; returns what it gave for each."""
    pairs = [(job.prompt, sample.text) for job in jobs for sample in job.samples]
    of_all = iter(score_pairs(verifier, pairs))
    return [list(itertools.islice(of_all, len(job.samples))) for job in jobs]


def asks_for_nothing(lane: Lane) -> RuntimeError:
    return RuntimeError(
        f"task {lane.task.prompt_id!r} is not finished, has nothing under way and asks for nothing"
    )
