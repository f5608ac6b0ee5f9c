"""The engine's mode for servers: many requests under way, samples shown as prefixes get complete.

Everything runs in one event loop, but for the verifier, which has a thread.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from modicum.testtime._loops import close_backends
from modicum.testtime._run import Job, Lane, Run, asks_for_nothing, score
from modicum.testtime.samples import Completion, Event, Request
from modicum.testtime.tasks import PromptTask

if TYPE_CHECKING:
    from modicum.testtime.engine import Engine

ARRIVALS_AT_ONCE = 64
"""Prompts whose news is taken in before their events go out.

With thousands of requests under way a longer list of events would live long enough for the garbage
collector to walk everything again and again.
"""


class ConcurrentRun(Run):
    """Up to ``inflight`` requests under way, samples delivered as prefixes become complete."""

    def __init__(self, engine: Engine, tasks: Iterable[PromptTask]) -> None:
        super().__init__(engine, tasks)
        self.inflight = 0
        self.hungry: list[tuple[int, Lane]] = []
        self.arrived: deque[tuple[Lane, Request, asyncio.Task[Completion] | Completion]] = deque()
        self.to_score: list[Job] = []
        self.scored: deque[Lane] = deque()
        self.scoring = False
        self.scorers: set[asyncio.Task[None]] = set()
        self.failure: BaseException | None = None
        self.closing = False
        self.news = asyncio.Event()
        self.thread: ThreadPoolExecutor | None = None

    async def step(self) -> list[Event] | None:
        """Work until something happened and return it; None at the end of the run."""
        while not self.closing:
            self._fill()
            if self.events:
                events, self.events = self.events, []
                return events
            if not self.lanes and not self.arrived:
                self.end()
                return None
            # What comes from the log is there at once; the loop's other tasks get a turn anyway.
            await (asyncio.sleep(0) if self.arrived or self.scored else self.news.wait())
            self.news.clear()
            if not self.closing:
                self._take_in()
        return None

    async def aclose(self) -> None:
        """Cancel what is under way, and write what came in."""
        # A KeyboardInterrupt in a request ends the loop's run and leaves `step` where it waits.
        self.closing = True
        self.news.set()
        tasks: list[asyncio.Task[Any]] = [*self.scorers]
        for lane in self.lanes.values():
            tasks.extend(lane.pending.values())
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:  # an impatient second Ctrl-C loses nothing either
            if self.thread is not None:
                self.thread.shutdown(wait=False, cancel_futures=True)
            self._salvage()
        await close_backends([*self.engine.backends.values(), self.engine.verifier])

    def _salvage(self) -> None:
        """Write the samples that came in and were not taken in yet, with all others."""
        while self.arrived:
            lane, request, outcome = self.arrived.popleft()
            if isinstance(outcome, asyncio.Task):
                if outcome.cancelled() or outcome.exception() is not None:
                    continue
                outcome = outcome.result()
            if outcome.finish_reason != "error":
                self.arrive(lane, request, outcome)
        self.abandon()

    # Asking

    def _fill(self) -> None:
        """Use the free slots: prompts admitted first come first, then new ones."""
        while self.inflight < self.engine.inflight:
            if self.spent():
                break
            lane = self._hungriest() or self._admit_hungry()
            if lane is None:
                break
            self._feed(lane)
        if self.lanes and self.spent():
            for lane in [lane for lane in self.lanes.values() if lane.idle]:
                if not lane.task.finished:
                    self.close(lane)

    def _hungriest(self) -> Lane | None:
        return self.hungry[0][1] if self.hungry else None

    def _admit_hungry(self) -> Lane | None:
        lane = self.admit()
        if lane is not None:
            self._queue(lane)
        return lane

    def _queue(self, lane: Lane) -> None:
        if not lane.queued:
            lane.queued = True
            heapq.heappush(self.hungry, (lane.number, lane))

    def _feed(self, lane: Lane) -> None:
        """Submit what a prompt may have under way, as long as slots and budget last."""
        task = lane.task
        window = 0 if task.finished else task.wave_size()
        while lane.outstanding < window:
            if self.inflight >= self.engine.inflight or self.spent():
                return
            request = self.request(lane)
            if request is None:
                break
            self._submit(lane, request)
        heapq.heappop(self.hungry)
        lane.queued = False
        if lane.idle and lane.number in self.lanes:
            if not task.finished:
                raise asks_for_nothing(lane)
            self.retire(lane)

    def _submit(self, lane: Lane, request: Request) -> None:
        completion = self.recorded(lane, request)
        if completion is not None:
            lane.due += 1
            self.arrived.append((lane, request, completion))
            return
        backend: Any = self.engine.backends[request.expert]
        task = asyncio.get_running_loop().create_task(backend.agenerate(request))
        lane.pending[request.sample_index] = task
        self.inflight += 1

        task.add_done_callback(partial(self._done, lane, request))

    def _done(self, lane: Lane, request: Request, task: asyncio.Task[Completion]) -> None:
        self.arrived.append((lane, request, task))
        self.news.set()

    # What comes in

    def _take_in(self) -> None:
        if self.failure is not None:
            raise self.failure
        touched: dict[int, Lane] = {}
        while self.arrived and len(touched) < ARRIVALS_AT_ONCE:
            lane, request, outcome = self.arrived.popleft()
            touched[lane.number] = lane
            if isinstance(outcome, asyncio.Task):
                self.inflight -= 1
                del lane.pending[request.sample_index]
                completion = self._outcome(lane, request, outcome)
            else:
                lane.due -= 1
                completion = outcome
            if completion is not None:
                self.arrive(lane, request, completion)
        while self.scored:
            lane = self.scored.popleft()
            touched[lane.number] = lane
            batch, lane.scoring = lane.scoring, []
            self.deliver(lane, batch)
        for lane in touched.values():
            self._advance(lane)

    def _outcome(
        self, lane: Lane, request: Request, task: asyncio.Task[Completion]
    ) -> Completion | None:
        """Return the completion of a request that ended; None if it was cancelled."""
        if task.cancelled():
            if not lane.task.finished:
                raise RuntimeError(
                    f"the backend cancelled sample {request.sample_index} of prompt"
                    f" {request.prompt_id!r}"
                )
            lane.usage.cancelled += 1
            return None
        error = task.exception()
        if error is None:
            return task.result()
        if lane.task.finished:  # no longer wanted, whatever became of it
            lane.usage.cancelled += 1
            return None
        if self.engine.on_error == "raise" or not isinstance(error, Exception):
            error.add_note(f"asked for sample {request.sample_index} of {request.prompt_id!r}")
            raise error
        return Completion("", "error", error=repr(error))

    def _advance(self, lane: Lane) -> None:
        """Deliver what is complete, or send it to the verifier; then see what the prompt wants."""
        if not lane.task.finished and not lane.scoring:
            batch = self.ready(lane)
            job = self.job(lane, batch) if batch else None
            if job is not None:
                lane.scoring = batch
                self._score_later(job)
            else:
                self.deliver(lane, batch)
        if not lane.task.finished:
            self._queue(lane)
            return
        if not lane.cancelling:
            lane.cancelling = True
            for task in lane.pending.values():
                task.cancel()
        if lane.waiting:
            self.discard(lane)
        if lane.idle:
            self.retire(lane)

    def _score_later(self, job: Job) -> None:
        if hasattr(job.verifier, "ascore"):
            self._spawn(self._score_async(job))
            return
        self.to_score.append(job)
        if self.thread is None:
            self.thread = ThreadPoolExecutor(1, thread_name_prefix="verifier")
        if not self.scoring:
            self.scoring = True
            self._spawn(self._score_all())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.scorers.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self.scorers.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self.failure = task.exception()
            self.news.set()

        task.add_done_callback(done)

    async def _score_async(self, job: Job) -> None:
        rewards = await job.verifier.ascore(job.prompt, [sample.text for sample in job.samples])
        self.reward(job, list(rewards))
        self.scored.append(job.lane)

    async def _score_all(self) -> None:
        """Verify everything that waits, in one thread, all prompts at hand at a time."""
        loop = asyncio.get_running_loop()
        while self.to_score:
            verifier = self.to_score[0].verifier
            jobs = [job for job in self.to_score if job.verifier is verifier]
            self.to_score = [job for job in self.to_score if job.verifier is not verifier]
            scored = await loop.run_in_executor(self.thread, score, verifier, jobs)
            for job, rewards in zip(jobs, scored, strict=True):
                self.reward(job, rewards)
                self.scored.append(job.lane)
            self.news.set()
        # Here, not when the task's end is noticed: what is queued in between starts it again.
        self.scoring = False
