"""Runs tasks on backends so that decisions do not depend on how the work was scheduled.

Takes tasks (`modicum.testtime.tasks.PromptTask`) and backends, gives events. It numbers requests
when they are submitted, and shows a task only the contiguous prefix of its samples: sample i after
samples 0 … i-1, whatever finished first. A rule that stopped on the order of completion would
favour short answers. Knows neither voting nor stopping rules, and no backend in particular.

Two modes. Backends with ``agenerate`` (servers) are asked for up to ``inflight`` completions at
once; what is still under way when a prompt is decided is cancelled. Backends with ``generate``
(offline engines) get waves: what all prompts want next, in one call. Both give the same decisions.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, Literal, Protocol

from modicum.testtime import samples
from modicum.testtime._concurrent import ConcurrentRun
from modicum.testtime._loops import event_loop, in_thread
from modicum.testtime._waves import WaveRun
from modicum.testtime.log import SampleLog
from modicum.testtime.samples import Budget, Event, OrderBiasWarning, Usage
from modicum.testtime.tasks import PromptTask

__all__ = ["Backend", "Engine", "WaveScheduler"]

Backend = samples.Generator | samples.AsyncGenerator

WAVE_PROMPTS = 1024
"""Prompts worked on at once in wave mode; with four samples each it fills an engine's batch."""


class WaveScheduler(Protocol):
    """Who shares out the requests of a round among the prompts (`modicum.testtime.allocator`)."""

    def begin(self) -> None:
        """Take note that a run begins."""
        ...

    def grants(self, tasks: Sequence[PromptTask], remaining: int | None) -> Sequence[int]:
        """Return how many requests each unfinished task may make now; all 0 ends the run.

        ``remaining`` is what the run's budget leaves, None without one.
        """
        ...


class Engine:
    """Runs tasks on one backend, or on several that requests name by ``expert``.

    Parameters
    ----------
    backends
        A backend, or backends by name: a request goes to ``backends[request.expert]``.
    verifier
        ``verifier(prompt, [text, …]) -> [reward, …]``; a task's own ``verifier`` wins. With
        ``score_many([(prompt, text), …])`` it gets all prompts at hand in one call, with
        ``async ascore(prompt, texts)`` it is awaited instead of called. It is called from one
        thread at a time. One that has ``returns_text = True`` gives (reward, text) pairs; the text
        goes to the task's ``take_feedback(sample, text)``.
    inflight
        Requests under way at once (concurrent mode).
    prompts_in_flight
        Prompts worked on at once: ``inflight`` by default, 1,024 in wave mode, all with a
        scheduler. With 1 the next task
        is taken from the iterable after the one before is finished, so that tasks may carry
        statistics on.
    order
        "submission" shows samples in the order of their requests. "completion" shows them as they
        finish, which is biased towards short answers: it warns, and refuses tasks with
        ``needs_exchangeable``.
    on_error
        What a failing request does: "raise", or "null" for a sample without an answer.
    nan
        What a reward that is not finite does: "error", or "reject" for a sample without an answer.
    log
        Where samples are written, and taken from if they are there already.
    budget
        Limits of a run. Samples taken from the log count, so that a resumed run ends where an
        uninterrupted one would.
    scheduler
        Who shares out the requests of each round; works in waves on every backend.
    assume_exchangeable
        Lets "completion" pass for tasks that need exchangeable samples.
    clock
        Seconds, for the budget and for ``usage.seconds``.

    Attributes
    ----------
    usage : Usage
        What the latest run cost.
    truncated : bool
        Whether the budget ended the latest run.

    Notes
    -----
    Beside what `PromptTask` says a task may have: ``prompt``, what its verifier is shown (default:
    the prompt of the request); ``verifier``; ``cap``, its share of ``usage.cap``;
    ``needs_exchangeable``, see `order`; ``take_feedback(sample, text)``, called before `deliver`.

    A backend may have ``async aclose()``: it is awaited in the run's event loop at the end of each
    run and must leave the backend usable, as the next run has another loop.

    A prompt never has more requests under way than its task's ``wave_size()``; free slots go to the
    prompts admitted first, then to new ones. Tasks are taken from the iterable one by one and
    dropped when finished, so memory does not grow with their number (but for their ids, which must
    be unique).
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
        log: SampleLog | None = None,
        budget: Budget | None = None,
        scheduler: WaveScheduler | None = None,
        assume_exchangeable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backends = _named_backends(backends)
        _check_choice("order", order, ("submission", "completion"))
        _check_choice("on_error", on_error, ("raise", "null"))
        _check_choice("nan", nan, ("error", "reject"))
        if inflight < 1:
            raise ValueError(f"inflight must be at least 1, not {inflight!r}")
        if prompts_in_flight is not None and prompts_in_flight < 1:
            raise ValueError(f"prompts_in_flight must be at least 1, not {prompts_in_flight!r}")
        self.verifier = verifier
        self.inflight = inflight
        self.order = order
        self.on_error = on_error
        self.nan = nan
        self.log = log
        self.budget = budget or Budget()
        self.scheduler = scheduler
        self.assume_exchangeable = assume_exchangeable
        self.clock = clock
        self.concurrent = scheduler is None and all(
            hasattr(backend, "agenerate") for backend in self.backends.values()
        )
        self.prompts_in_flight = prompts_in_flight or self._default_prompts()
        self.usage = Usage()
        self.truncated = False

    def _default_prompts(self) -> int:
        if self.scheduler is not None:
            return sys.maxsize  # it shares out among all prompts
        return self.inflight if self.concurrent else WAVE_PROMPTS

    def run(self, tasks: Iterable[PromptTask]) -> Generator[Event, None, None]:
        """Run tasks and yield what happens.

        Works inside a running event loop (a notebook) too: the requests then run in a thread with
        a loop of their own.

        Parameters
        ----------
        tasks
            Taken from one by one as there is room.

        Yields
        ------
        Event
            "sample" for every sample that came in, "decision" and "done" once per prompt.

        Raises
        ------
        ValueError
            For two tasks of one id, a request out of turn, a log that disagrees, a reward that is
            not finite, a task that ``order="completion"`` would mislead.
        RuntimeError
            For a failed request with ``on_error="raise"``, a task that asks for nothing.
        """
        self._warn_of_order()
        if not self.concurrent:
            with closing(WaveRun(self, tasks).batches()) as batches:
                for batch in batches:
                    yield from batch
            return
        with event_loop() as call:
            run = ConcurrentRun(self, tasks)
            try:
                while (events := call(run.step())) is not None:
                    yield from events
            finally:
                call(run.aclose())

    async def arun(self, tasks: Iterable[PromptTask]) -> AsyncGenerator[Event, None]:
        """Run tasks in the running event loop; as `run`.

        Backends with ``generate`` only work in a thread. Who leaves the iteration early closes it
        (``contextlib.aclosing``): that cancels what is under way.
        """
        self._warn_of_order()
        if not self.concurrent:
            async with aclosing(in_thread(WaveRun(self, tasks).batches())) as batches:
                async for batch in batches:
                    for event in batch:
                        yield event
            return
        run = ConcurrentRun(self, tasks)
        try:
            while (events := await run.step()) is not None:
                for event in events:
                    yield event
        finally:
            await run.aclose()

    def _warn_of_order(self) -> None:
        if self.order == "completion":
            warnings.warn(
                'order="completion" shows samples as they finish: what finishes early (a short'
                " answer) is overrepresented when a rule stops, and the decision depends on the"
                ' machine; order="submission" has neither fault',
                OrderBiasWarning,
                stacklevel=3,
            )


def _named_backends(backends: Mapping[str, Backend] | Backend) -> dict[str, Backend]:
    named = dict(backends) if isinstance(backends, Mapping) else {"": backends}
    if not named:
        raise ValueError("an engine needs at least one backend")
    for name, backend in named.items():
        if not (hasattr(backend, "agenerate") or hasattr(backend, "generate")):
            raise TypeError(
                f"backend {name!r} is a {type(backend).__name__} with neither generate(requests)"
                " nor agenerate(request); wrap a function in modicum.testtime.backends.callable"
            )
    return named


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")
