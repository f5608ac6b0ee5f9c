"""What every strategy has in common: prompts in, tasks through the engine, results out.

A strategy is a configuration. `Strategy` names and checks the prompts, opens the log, builds the
engine and gathers results; a subclass says what one prompt's task is. `SamplingTask` is the task of
strategies that draw independent samples of the same request until a rule or a cap ends it
(self-consistency, best-of-n). No backend, no voting and no statistics here.

How to write a strategy: derive from `Strategy`, call ``super().__init__`` with the backend (or
backends by name) and whatever engine settings it takes, and implement `Strategy._task`. Override

* `Strategy._tasks` to carry something from prompt to prompt: it is a generator that is asked for
  the next task when there is room, with ``prompts_in_flight=1`` only after the one before is
  finished;
* `Strategy._engine` to change how the work is run;
* `Strategy._settings` to add what the header of the log must name.
"""

from __future__ import annotations

import abc
import hashlib
import json
import math
import os
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from modicum.testtime.engine import Backend, Engine, WaveScheduler
from modicum.testtime.equality import as_canonicaliser
from modicum.testtime.extract import as_extractor
from modicum.testtime.log import SampleLog, encode_key, sample_to_record
from modicum.testtime.samples import (
    Budget,
    Event,
    Prompt,
    Request,
    Result,
    Sample,
    Sampling,
    Usage,
    sample_seed,
)
from modicum.testtime.stopping.base import GO_ON, Decision, StoppingRule
from modicum.testtime.tasks import PromptTask

if TYPE_CHECKING:
    from modicum.testtime.table import SampleTable

__all__ = [
    "Results",
    "RunSettings",
    "SamplingTask",
    "Strategy",
    "Wave",
    "describe",
    "named_prompts",
]

Wave = Literal["geometric", "boundary"] | int
"""How many samples of a prompt are drawn ahead of its decision.

"geometric" 4, then as many as are there already (4, 4, 8, 16, …); "boundary" the least number after
which the rule could stop, which wastes none; an integer: that many.
"""

FIRST_WAVE = 4


# Prompts -----------------------------------------------------------------------------------------


def named_prompts(prompts: Iterable[Any]) -> Iterator[tuple[str, Prompt]]:
    """Yield (id, prompt) of prompts in any of the forms that users have them in.

    Parameters
    ----------
    prompts
        Each a text, chat messages, an (id, prompt) pair or a mapping with "prompt" and perhaps
        "id". The default id is the position, counted from 0.

    Raises
    ------
    TypeError
        For a single text or a single chat instead of a list of them, and for anything else.
    """
    if isinstance(prompts, str | bytes | Mapping):
        raise TypeError(f"prompts must be a list of prompts, not one: [{prompts!r:.60}]")
    for position, item in enumerate(prompts):
        yield _named(position, item)


def _named(position: int, item: Any) -> tuple[str, Prompt]:
    if isinstance(item, str):
        return str(position), item
    if isinstance(item, Mapping):
        if "prompt" in item:
            return str(item.get("id", position)), _checked_prompt(item["prompt"])
        if "role" in item:
            raise TypeError(
                "prompts must be a list of prompts; this looks like the messages of one chat,"
                " which goes into a list of its own: [messages]"
            )
        raise TypeError(f'a prompt as a mapping needs the field "prompt": {item!r:.80}')
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[0], str | int):
        return str(item[0]), _checked_prompt(item[1])
    return str(position), _checked_prompt(item)


def _checked_prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if (
        isinstance(prompt, Sequence)
        and prompt
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    ):
        return prompt
    raise TypeError(
        "a prompt is a text or a non-empty list of chat messages"
        f' {{"role": …, "content": …}}, not {prompt!r:.80}'
    )


# Results -----------------------------------------------------------------------------------------


def result_to_dict(result: Result, *, samples: bool = True) -> dict[str, Any]:
    """Return a result as plain lists and dictionaries that JSON can hold.

    Votes become a list of [key, weight] pairs, keys as in a log, a NaN confidence None.
    """
    plain: dict[str, Any] = {
        "prompt_id": result.prompt_id,
        "answer": encode_key(result.answer),
        "text": result.text,
        "certified": result.certified,
        "confidence": None if math.isnan(result.confidence) else result.confidence,
        "guarantee": result.guarantee,
        "reason": result.reason,
        "votes": [[encode_key(key), weight] for key, weight in result.votes.items()],
        "usage": asdict(result.usage),
        "truncated": result.truncated,
    }
    if samples:
        plain["samples"] = [sample_to_record(sample) for sample in result.samples]
    return plain


class Results(list[Result]):
    """Results in the order of the prompts.

    Attributes
    ----------
    usage
        What the whole run cost.
    truncated
        Whether the budget ended the run; prompts that it did not reach have a result without
        samples.
    """

    def __init__(
        self,
        results: Iterable[Result] = (),
        *,
        usage: Usage | None = None,
        truncated: bool = False,
    ) -> None:
        super().__init__(results)
        self.usage = usage if usage is not None else Usage()
        self.truncated = truncated

    @property
    def answers(self) -> list[Hashable | None]:
        """The answer of each prompt."""
        return [result.answer for result in self]

    def to_dicts(self, *, samples: bool = True) -> list[dict[str, Any]]:
        """Return the results as plain lists and dictionaries that JSON can hold."""
        return [result_to_dict(result, samples=samples) for result in self]

    def to_jsonl(self, path: str | os.PathLike[str], *, samples: bool = True) -> None:
        """Write a JSON line per result; at every moment the file is whole, old or new."""
        from modicum.core.experiment import write_atomic

        lines = [json.dumps(plain, allow_nan=False) for plain in self.to_dicts(samples=samples)]
        write_atomic(path, "".join(f"{line}\n" for line in lines))

    def table(self) -> SampleTable:
        """Return all samples as columns of NumPy arrays."""
        from modicum.testtime.table import SampleTable

        return SampleTable.from_samples(sample for result in self for sample in result.samples)

    def to_dataset(self) -> Any:
        """Return a ``datasets.Dataset`` with a row per prompt.

        Raises
        ------
        ImportError
            If datasets is not installed.
        """
        from modicum.testtime.integrations.datasets import results_to_dataset

        return results_to_dataset(self.to_dicts())


# Settings ----------------------------------------------------------------------------------------


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
    """

    params: Sampling
    seed: int = 0
    budget: Budget | None = None
    log: SampleLog | None = None
    scheduler: WaveScheduler | None = None


def describe(value: Any) -> Any:
    """Return words for a setting that are the same in every run, for the header of a log.

    Functions are named by module and qualified name, objects by their ``name``, their own ``repr``,
    or class and plain attributes.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    name = getattr(value, "name", None)
    if isinstance(name, str):
        return name
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if type(value).__repr__ is not object.__repr__:
        return repr(value)
    plain = {
        field: item
        for field, item in sorted(getattr(value, "__dict__", {}).items())
        if not field.startswith("_") and isinstance(item, str | int | float | bool)
    }
    return f"{type(value).__qualname__}({', '.join(f'{k}={v!r}' for k, v in plain.items())})"


def _hash_of(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _package_version() -> str:
    try:
        return version("modicum-testtime")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


# The strategy ------------------------------------------------------------------------------------


class Strategy(abc.ABC):
    """Draws samples for prompts and makes an answer of each prompt's.

    Parameters
    ----------
    backends
        The backend that completes prompts, or several by name.
    verifier, inflight, prompts_in_flight, order, on_error, nan, assume_exchangeable
        As for `modicum.testtime.engine.Engine`.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend] | Backend,
        *,
        verifier: Any = None,
        inflight: int = 64,
        prompts_in_flight: int | None = None,
        order: Literal["submission", "completion"] = "submission",
        on_error: Literal["raise", "null"] = "raise",
        nan: Literal["error", "reject"] = "error",
        assume_exchangeable: bool = False,
    ) -> None:
        self.backends = backends
        self.verifier = verifier
        self.engine_options: dict[str, Any] = {
            "inflight": inflight,
            "prompts_in_flight": prompts_in_flight,
            "order": order,
            "on_error": on_error,
            "nan": nan,
            "assume_exchangeable": assume_exchangeable,
        }
        self._engine(RunSettings(Sampling()))  # refuses what no run could use

    # For subclasses

    @abc.abstractmethod
    def _task(self, prompt_id: str, prompt: Prompt, settings: RunSettings) -> PromptTask:
        """Return the task of one prompt."""

    def _tasks(
        self, prompts: Iterable[tuple[str, Prompt]], settings: RunSettings
    ) -> Iterator[PromptTask]:
        """Yield the tasks of a run; each is asked for when there is room for it."""
        for prompt_id, prompt in prompts:
            yield self._task(prompt_id, prompt, settings)

    def _engine(self, settings: RunSettings) -> Engine:
        """Return the engine of a run."""
        return Engine(
            self.backends,
            verifier=self.verifier,
            log=settings.log,
            budget=settings.budget,
            scheduler=settings.scheduler,
            **self.engine_options,
        )

    def _settings(self) -> dict[str, Any]:
        """Return, JSON-ready, what decisions depend on; it becomes part of the log's header."""
        return {"strategy": type(self).__name__, "verifier": describe(self.verifier)}

    def _not_reached(self, prompt_id: str) -> Result:
        """Return the result of a prompt that the budget did not reach."""
        return Result(
            prompt_id, None, "", False, math.nan, "heuristic", "budget", {}, [], Usage(), True
        )

    def _ended(self, settings: RunSettings) -> None:  # noqa: B027 there need not be any
        """Take note that a run ended well; for warnings about the whole of it."""

    # For users

    def run(
        self,
        prompts: Iterable[Any],
        params: Sampling | None = None,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        log: str | os.PathLike[str] | SampleLog | None = None,
        progress: bool = False,
        strict: bool = False,
        scheduler: WaveScheduler | None = None,
    ) -> Results:
        """Answer prompts.

        Parameters
        ----------
        prompts
            Texts, chat messages, (id, prompt) pairs or mappings with "id" and "prompt".
        params
            Sampling parameters.
        seed
            The same seed gives the same requests with the same seeds, whatever the concurrency.
        budget
            Limits of the whole run; results are partial when it is met.
        log
            File of the samples. An existing one of the same settings is gone on with: what it holds
            is not drawn again.
        progress
            Whether to show a bar; it stays silent where the output is no terminal.
        strict
            Whether a prompt without any parseable answer is an error.
        scheduler
            Who shares out the samples among the prompts, such as
            `modicum.testtime.allocator.Allocator`.

        Returns
        -------
        Results
            One result per prompt, in the order of the prompts.

        Raises
        ------
        ValueError
            For two prompts of one id, a log of other settings, a reward that is not finite, and
            with ``strict`` for a prompt without any parseable answer.
        """
        named = _distinct(named_prompts(prompts))
        with (
            self._opened(params, seed, budget, log, scheduler) as settings,
            _Gatherer(self, named, progress=progress, strict=strict) as gathered,
        ):
            engine = self._engine(settings)
            with closing(engine.run(self._tasks(named.items(), settings))) as events:
                for event in events:
                    gathered.take(event)
            self._ended(settings)
            return gathered.results(engine)

    async def arun(
        self,
        prompts: Iterable[Any],
        params: Sampling | None = None,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        log: str | os.PathLike[str] | SampleLog | None = None,
        progress: bool = False,
        strict: bool = False,
        scheduler: WaveScheduler | None = None,
    ) -> Results:
        """Answer prompts in the running event loop; as `run`."""
        named = _distinct(named_prompts(prompts))
        with (
            self._opened(params, seed, budget, log, scheduler) as settings,
            _Gatherer(self, named, progress=progress, strict=strict) as gathered,
        ):
            engine = self._engine(settings)
            async with aclosing(engine.arun(self._tasks(named.items(), settings))) as events:
                async for event in events:
                    gathered.take(event)
            self._ended(settings)
            return gathered.results(engine)

    def iter_events(
        self,
        prompts: Iterable[Any],
        params: Sampling | None = None,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        log: str | os.PathLike[str] | SampleLog | None = None,
        scheduler: WaveScheduler | None = None,
    ) -> Generator[Event, None, None]:
        """Answer prompts and yield what happens, as it happens.

        The prompts may be any iterable: they are taken one by one, and nothing is kept of a prompt
        after its "done". Arguments as for `run`.
        """
        with self._opened(params, seed, budget, log, scheduler) as settings:
            tasks = self._tasks(named_prompts(prompts), settings)
            with closing(self._engine(settings).run(tasks)) as events:
                yield from events
            self._ended(settings)

    async def aiter_events(
        self,
        prompts: Iterable[Any],
        params: Sampling | None = None,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        log: str | os.PathLike[str] | SampleLog | None = None,
        scheduler: WaveScheduler | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answer prompts in the running event loop; as `iter_events`."""
        with self._opened(params, seed, budget, log, scheduler) as settings:
            tasks = self._tasks(named_prompts(prompts), settings)
            async with aclosing(self._engine(settings).arun(tasks)) as events:
                async for event in events:
                    yield event
            self._ended(settings)

    @contextmanager
    def _opened(
        self,
        params: Sampling | None,
        seed: int,
        budget: Budget | None,
        log: str | os.PathLike[str] | SampleLog | None,
        scheduler: WaveScheduler | None,
    ) -> Iterator[RunSettings]:
        """Give the settings of a run with its log open; a log given as a path is closed again."""
        params = params if params is not None else Sampling()
        if log is None or isinstance(log, SampleLog):
            yield RunSettings(params, seed, budget, log, scheduler)
            return
        with SampleLog(log, self.log_header(params, seed)) as opened:
            yield RunSettings(params, seed, budget, opened, scheduler)

    def log_header(self, params: Sampling | None = None, seed: int = 0) -> dict[str, Any]:
        """Return the header of a log of this strategy, for a `SampleLog` with settings of its own.

        Parameters
        ----------
        params, seed
            As for `run`.
        """
        plain = (params if params is not None else Sampling()).to_dict()
        return {
            "version": _package_version(),
            "seed": seed,
            "params": plain,
            "params_hash": _hash_of(plain),
            **self._settings(),
        }


def _distinct(prompts: Iterable[tuple[str, Prompt]]) -> dict[str, Prompt]:
    named: dict[str, Prompt] = {}
    for prompt_id, prompt in prompts:
        if prompt_id in named:
            raise ValueError(f"two prompts have the id {prompt_id!r}; ids must differ")
        named[prompt_id] = prompt
    return named


class _Gatherer:
    """Takes the events of a run and makes `Results` of them."""

    def __init__(
        self, strategy: Strategy, named: Mapping[str, Prompt], *, progress: bool, strict: bool
    ) -> None:
        self.strategy = strategy
        self.named = named
        self.strict = strict
        self.done: dict[str, Result] = {}
        self.bar: Any = None
        if progress:
            from modicum.testtime.progress import ProgressBar

            self.bar = ProgressBar(len(named))

    def __enter__(self) -> _Gatherer:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def take(self, event: Event) -> None:
        if self.bar is not None:
            self.bar.take(event)
        result = event.result
        if result is None:
            return
        if self.strict and result.reason == "no_parseable_answer":
            example = result.samples[0].text if result.samples else ""
            raise ValueError(
                f"none of the {len(result.samples)} samples of prompt {result.prompt_id!r} has a"
                f" parseable answer; the first is {example!r:.200}"
            )
        self.done[result.prompt_id] = result

    def results(self, engine: Engine) -> Results:
        return Results(
            (
                self.done.get(prompt_id) or self.strategy._not_reached(prompt_id)
                for prompt_id in self.named
            ),
            usage=engine.usage,
            truncated=engine.truncated,
        )


# Tasks that draw independent samples -------------------------------------------------------------


class SamplingTask:
    """A prompt of which independent samples are drawn until a rule or a cap ends it.

    Reads answers, numbers requests and asks the rule; subclasses gather (`gather`) and decide
    (`decide`).

    Parameters
    ----------
    prompt_id, prompt
        The prompt.
    settings
        Parameters and seed of the run.
    cap
        Most samples.
    rule
        Stopping rule with an empty state of its own, or None.
    extract, equal
        How answers are read and when they are the same.
    wave
        How far ahead of the decision samples are drawn.

    Attributes
    ----------
    drawn
        Samples delivered so far.
    reason
        Why sampling ended, "" before.
    by_rule
        Whether the rule ended it.
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
        self.reason = ""
        self.by_rule = False
        self.last = GO_ON
        self._extractor = as_extractor(extract)
        self._canonical = as_canonicaliser(equal)

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
            self.last = self.rule.update(sample.key, sample.reward, weight)
            if self.last.stop:
                self.by_rule = True
                return self._finish(self.last.reason)
        if self.drawn >= self.cap:
            return self._finish("max_samples")
        return GO_ON

    def close(self, reason: str) -> Decision:
        """Decide on what was delivered."""
        return self._finish(reason)

    def gather(self, sample: Sample) -> float:
        """Take note of a sample and return the weight of its vote."""
        raise NotImplementedError

    def decide(self) -> None:
        """Decide; called once, when `reason` is set."""
        raise NotImplementedError

    def result(self) -> Result:
        """Return the result."""
        raise NotImplementedError

    @property
    def guarantee(self) -> Any:
        """Kind of the rule's guarantee: "exact" without a rule, a fixed number was drawn."""
        return "exact" if self.rule is None else self.rule.guarantee

    @property
    def answer(self) -> Hashable | None:
        """The answer decided on."""
        raise NotImplementedError

    def _finish(self, reason: str) -> Decision:
        self.finished = True
        self.reason = reason
        self.decide()
        return Decision(True, self.answer, self.reason, self.last.confidence, self.guarantee)
