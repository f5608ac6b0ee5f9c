"""Event loops and threads: coroutines from code that is not, and the other way round.

Works inside a running event loop as outside. Knows nothing of what is run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def event_loop() -> Iterator[Callable[[Any], Any]]:
    """Give a function that runs coroutines in one loop, inside a running loop as outside."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with asyncio.Runner() as runner:
            yield runner.run
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="testtime-engine", daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def in_thread(batches: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Work through a generator in a thread of its own; a wave under way is waited for."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="waves") as thread:
        try:
            while (batch := await loop.run_in_executor(thread, next, batches, None)) is not None:
                yield batch
        finally:
            await loop.run_in_executor(thread, batches.close)


async def close_backends(backends: Iterable[Any]) -> None:
    for backend in backends:
        aclose = getattr(backend, "aclose", None)
        if aclose is not None:
            await aclose()
