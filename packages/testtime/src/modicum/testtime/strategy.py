"""What every strategy has in common: prompts in, tasks through the engine, results out.

A strategy is a configuration. `Strategy` names and checks the prompts, opens the log, builds the
engine and gathers results; a subclass says what one prompt's task is. `SamplingTask` is the task of
strategies that draw independent samples of one request (self-consistency, best-of-n). No backend,
no voting and no statistics here.

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
import functools
import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from modicum.testtime._sampling import (
    RunSettings,
    SamplingTask,
    Wave,
    checked_rule,
    checked_wave,
    refuse_order,
)
from modicum.testtime.engine import Backend, Engine, WaveScheduler
from modicum.testtime.log import SampleLog
from modicum.testtime.prompts import distinct_prompts, named_prompts
from modicum.testtime.results import Results
from modicum.testtime.samples import Budget, Event, Prompt, Result, Sampling, Usage
from modicum.testtime.tasks import PromptTask
from modicum.testtime.verifiers import PairVerifier

__all__ = [
    "Results",
    "RunSettings",
    "SamplingTask",
    "Strategy",
    "Wave",
    "checked_rule",
    "checked_wave",
    "describe",
    "refuse_order",
]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Where an object lies in memory, which its repr may tell, is another place in every run."""


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
        _check_verifier(verifier)
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
        named = distinct_prompts(named_prompts(prompts))
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
        named = distinct_prompts(named_prompts(prompts))
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
        if not isinstance(params, Sampling):
            raise TypeError(
                f"params must be a Sampling, as Sampling(temperature=1), not {params!r}"
            )
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
        # `extra` may hold whatever a backend takes.
        plain = json.loads(json.dumps(plain, default=describe))
        return {
            "version": _package_version(),
            "seed": int(seed),
            "params": plain,
            "params_hash": _hash_of(plain),
            **self._settings(),
        }


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


def _check_verifier(verifier: Any) -> None:
    """Refuse a verifier that cannot be called with a prompt and its responses."""
    if verifier is None or isinstance(verifier, PairVerifier):
        return
    how = "as verifier(prompt, [text, …]), which returns a reward for each text"
    if not callable(verifier):
        raise TypeError(f"a verifier is called {how}; {verifier!r} cannot be called")
    try:
        signature = inspect.signature(verifier)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind("prompt", ["text"])
    except TypeError as error:
        raise TypeError(f"a verifier is called {how}; {describe(verifier)}: {error}") from None


# What a log says of a run -------------------------------------------------------------------------


def describe(value: Any) -> Any:
    """Return words for a setting that are the same in every run, for the header of a log.

    Functions are named by module and qualified name, objects by their ``name``, their own ``repr``,
    or class and ``settings()``, in place of which plain attributes do.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, functools.partial):
        bound = [
            *map(describe, value.args),
            *(f"{k}={describe(v)}" for k, v in value.keywords.items()),
        ]
        return f"{describe(value.func)}({', '.join(map(str, bound))})"
    name = getattr(value, "name", None)
    if isinstance(name, str):
        return name
    if hasattr(value, "__qualname__"):
        module = getattr(value, "__module__", None)  # methods of built-in types have none
        return f"{module}.{value.__qualname__}" if module else value.__qualname__
    if type(value).__repr__ is not object.__repr__:
        return _ADDRESS.sub("", repr(value))
    if callable(getattr(value, "settings", None)):
        settings = {field: describe(item) for field, item in value.settings().items()}
    else:
        settings = {
            field: item
            for field, item in sorted(getattr(value, "__dict__", {}).items())
            if not field.startswith("_") and isinstance(item, str | int | float | bool)
        }
    return f"{type(value).__qualname__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


def _hash_of(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _package_version() -> str:
    try:
        return version("modicum-testtime")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
