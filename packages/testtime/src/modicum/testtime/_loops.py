"""Event loops and threads: coroutines from code that is not, and the other way round.

Works inside a running event loop (a notebook) as outside. Knows nothing of what is run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Call = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def event_loop() -> Iterator[Call]:
    """Give a function that runs coroutines to their end, all of them in one event loop.

    In a thread whose loop runs already they run in another thread, which this one waits for.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with asyncio.Runner() as runner:
            yield runner.run
    else:
        with _loop_in_thread() as call:
            yield call


@contextmanager
def _loop_in_thread() -> Iterator[Call]:
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        ended = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()

    # asyncio.run ends whatever a backend may have left behind in the loop.
    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="testtime-engine")
    thread.start()
    loop, ended = ready.result()

    def call(coroutine: Coroutine[Any, Any, Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C reaches the thread that waits, not the one that works
            raise

    try:
        yield call
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


async def in_thread(batches: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Work through a generator in a thread of its own; a step under way is waited for."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="testtime-waves") as thread:
        try:
            while (batch := await loop.run_in_executor(thread, next, batches, None)) is not None:
                yield batch
        finally:
            await loop.run_in_executor(thread, batches.close)


async def close_backends(backends: Iterable[Any]) -> None:
    """Await ``aclose()`` of those that have it."""
    for backend in backends:
        aclose = getattr(backend, "aclose", None)
        if aclose is not None:
            await aclose()
