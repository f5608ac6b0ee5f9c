"""The engine's mode for offline backends: what all open prompts want next, in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from modicum.testtime._loops import close_backends, event_loop
from modicum.testtime._run import Job, Lane, Run, asks_for_nothing, score
from modicum.testtime.samples import Completion, Event, Request


class WaveRun(Run):
    """What all open prompts want next goes to the backends in one call."""

    def batches(self) -> Generator[list[Event], None, None]:
        """Yield the events of each wave."""
        if self.engine.scheduler is not None:
            self.engine.scheduler.begin()
        try:
            while True:
                while self.admit() is not None:
                    pass
                if not self.lanes:
                    break
                self._wave()
                events, self.events = self.events, []
                yield events
        finally:
            self.abandon()
        self.end()

    def _wave(self) -> None:
        wave = self._collect()
        self._generate(wave)
        batches = [(lane, batch) for lane in self.lanes.values() if (batch := self.ready(lane))]
        for lane, batch in batches:
            lane.scoring = batch
        self._verify([job for lane, batch in batches if (job := self.job(lane, batch))])
        for lane, batch in batches:
            lane.scoring = []
            self.deliver(lane, batch)
        for lane in list(self.lanes.values()):
            if lane.task.finished:
                self.retire(lane)
            elif not wave or self.spent():
                self.close(lane)

    def _collect(self) -> list[tuple[Lane, Request]]:
        """Take the requests of the next wave, within the budget."""
        lanes = [lane for lane in self.lanes.values() if not lane.task.finished]
        scheduler = self.engine.scheduler
        if scheduler is None:
            grants: Sequence[int] = [lane.task.wave_size() for lane in lanes]
        else:
            limit = self.engine.budget.samples
            remaining = None if limit is None else limit - self.submitted
            grants = scheduler.grants([lane.task for lane in lanes], remaining)
        wave: list[tuple[Lane, Request]] = []
        for lane, size in zip(lanes, grants, strict=True):
            before = len(wave)
            while len(wave) - before < size and not self.spent():
                request = self.request(lane)
                if request is None:
                    break
                wave.append((lane, request))
            if len(wave) == before and size and not lane.task.finished and not self.spent():
                raise asks_for_nothing(lane)
        return wave

    def _generate(self, wave: Sequence[tuple[Lane, Request]]) -> None:
        by_expert: dict[str, dict[tuple[str, int], tuple[Lane, Request]]] = {}
        for lane, request in wave:
            completion = self.recorded(lane, request)
            if completion is not None:
                self.arrive(lane, request, completion)
            else:
                name = request.prompt_id, request.sample_index
                by_expert.setdefault(request.expert, {})[name] = (lane, request)
        for expert, asked in by_expert.items():
            self._ask(self.engine.backends[expert], asked)

    def _ask(self, backend: Any, asked: dict[tuple[str, int], tuple[Lane, Request]]) -> None:
        """Work through one backend's part of a wave."""
        completions = iter(self._completions(backend, [request for _, request in asked.values()]))
        while True:
            try:
                request, completion = next(completions)
            except StopIteration:
                break
            except Exception as error:
                if self.engine.on_error == "raise":
                    raise
                self._ask_singly(backend, asked, error)
                return
            name = request.prompt_id, request.sample_index
            if name not in asked:
                raise RuntimeError(
                    f"{type(backend).__name__} gave a completion of {name!r}, which was not asked"
                    " for or came before"
                )
            lane, request = asked.pop(name)
            self.arrive(lane, request, completion)
        if asked:
            raise RuntimeError(
                f"{type(backend).__name__} gave no completion for {len(asked)} requests, the first"
                f" is {next(iter(asked))!r}"
            )

    def _ask_singly(
        self,
        backend: Any,
        asked: dict[tuple[str, int], tuple[Lane, Request]],
        error: Exception,
    ) -> None:
        """Ask for each request by itself, for the error does not say which of them it is about.

        Otherwise the requests that fail with it would depend on the size of the wave.
        """
        if len(asked) > 1:
            for name, entry in asked.items():
                self._ask(backend, {name: entry})
            return
        for lane, request in asked.values():
            self.arrive(lane, request, Completion("", "error", error=repr(error)))

    def _completions(
        self, backend: Any, requests: Sequence[Request]
    ) -> Iterable[tuple[Request, Completion]]:
        if hasattr(backend, "generate"):
            return backend.generate(requests)
        with event_loop() as call:
            return call(gather(backend, requests, self.engine.inflight, self.engine.on_error))

    def _verify(self, jobs: Sequence[Job]) -> None:
        by_verifier: dict[int, list[Job]] = {}
        for job in jobs:
            by_verifier.setdefault(id(job.verifier), []).append(job)
        for group in by_verifier.values():
            scored = score(group[0].verifier, group)
            for job, rewards in zip(group, scored, strict=True):
                self.reward(job, rewards)


async def gather(
    backend: Any, requests: Sequence[Request], limit: int, on_error: str
) -> list[tuple[Request, Completion]]:
    """Ask a server for a whole wave, at most `limit` requests at once."""
    slots = asyncio.Semaphore(limit)

    async def one(request: Request) -> tuple[Request, Completion]:
        async with slots:
            try:
                return request, await backend.agenerate(request)
            except Exception as error:
                if on_error == "raise":
                    raise
                return request, Completion("", "error", error=repr(error))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
    except* Exception as errors:
        raise errors.exceptions[0] from None
    finally:
        await close_backends([backend])
    return [task.result() for task in tasks]
