"""Where completions come from: functions, recorded samples, and doors to the engines.

A backend answers requests (`modicum.testtime.samples.Generator`, `AsyncGenerator`). Here are those
that need no other library; `vllm`, `transformers` and `openai` load theirs when they are called.
Knows no strategy and draws nothing by itself.
"""

from __future__ import annotations

import builtins
import inspect
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from modicum.core.device import numpy_generator
from modicum.testtime.samples import Completion, Request, Sample
from modicum.testtime.table import SampleTable

__all__ = [
    "AsyncCallableBackend",
    "CallableBackend",
    "ReplayBackend",
    "async_callable",
    "callable",
    "openai",
    "replay",
    "transformers",
    "vllm",
]

OPTIONAL_ARGUMENTS = ("params", "seed", "request")


# Functions ---------------------------------------------------------------------------------------


def _optional_arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return which of ``params``, ``seed`` and ``request`` a function takes by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions have no signature
        return ()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return OPTIONAL_ARGUMENTS
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters if parameter.kind in by_name}
    return tuple(name for name in OPTIONAL_ARGUMENTS if name in names)


def _arguments(request: Request, names: Sequence[str]) -> dict[str, Any]:
    values = {"params": request.params, "seed": request.seed, "request": request}
    return {name: values[name] for name in names}


def _completion(value: Any) -> Completion:
    if isinstance(value, Completion):
        return value
    if isinstance(value, str):
        return Completion(value)
    raise TypeError(f"the function must return a text or a Completion, not {value!r:.80}")


class CallableBackend:
    """Completions from a function; see `callable`."""

    def __init__(self, function: Callable[..., Any], threads: int = 1) -> None:
        if not builtins.callable(function):
            raise TypeError(f"not a function: {function!r}")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is a coroutine function: use async_callable")
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads!r}")
        self.function = function
        self.threads = threads
        self._names = _optional_arguments(function)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield every request with its completion, in order."""
        if self.threads == 1:
            for request in requests:
                yield request, self._complete(request)
            return
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="backend")
        try:
            yield from zip(requests, pool.map(self._complete, requests), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def _complete(self, request: Request) -> Completion:
        return _completion(self.function(request.prompt, **_arguments(request, self._names)))


class AsyncCallableBackend:
    """Completions from a coroutine function; see `async_callable`."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        if not builtins.callable(function):
            raise TypeError(f"not a function: {function!r}")
        self.function = function
        self._names = _optional_arguments(function)

    async def agenerate(self, request: Request) -> Completion:
        """Return the completion of one request."""
        return _completion(await self.function(request.prompt, **_arguments(request, self._names)))


def callable(function: Callable[..., Any], *, threads: int = 1) -> CallableBackend:
    """Return a backend that calls a function for each request.

    Parameters
    ----------
    function
        ``function(prompt) -> str | Completion``. What it takes of ``seed``, ``params`` and
        ``request`` by name it is given; one that draws at random should draw from ``seed``.
    threads
        Calls at once.

    Raises
    ------
    TypeError
        If it is no function, or a coroutine function.

    Examples
    --------
    >>> import random
    >>> backend = callable(lambda prompt, seed: random.Random(seed).choice(["yes", "no"]))
    """
    return CallableBackend(function, threads)


def async_callable(function: Callable[..., Awaitable[Any]]) -> AsyncCallableBackend:
    """Return a backend that awaits a coroutine function for each request, many at once.

    Parameters
    ----------
    function
        As for `callable`, but awaited. It is cancelled when its completion is no longer wanted.

    Raises
    ------
    TypeError
        If it is no function.
    """
    return AsyncCallableBackend(function)


# Recorded samples --------------------------------------------------------------------------------


class ReplayBackend:
    """Completions from recorded samples; see `replay`."""

    def __init__(
        self,
        samples: Iterable[Sample],
        *,
        shuffle: int | None = None,
        missing: Literal["error", "null"] = "error",
    ) -> None:
        if missing not in ("error", "null"):
            raise ValueError(f"missing must be 'error' or 'null', not {missing!r}")
        self.missing = missing
        self._recorded: dict[str, list[Sample]] = {}
        for sample in sorted(samples, key=lambda sample: sample.sample_index):
            self._recorded.setdefault(sample.prompt_id, []).append(sample)
        if shuffle is not None:
            for prompt_id, recorded in self._recorded.items():
                order = numpy_generator(shuffle, "replay", prompt_id).permutation(len(recorded))
                self._recorded[prompt_id] = [recorded[i] for i in order]

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield every request with its recorded completion, in order."""
        for request in requests:
            yield request, self._completion(request)

    def _completion(self, request: Request) -> Completion:
        recorded = self._recorded.get(request.prompt_id, [])
        if request.sample_index < len(recorded):
            return _replayed(recorded[request.sample_index])
        error = (
            f"sample {request.sample_index} of prompt {request.prompt_id!r} is asked for, and"
            f" {len(recorded)} are recorded"
        )
        if self.missing == "error":
            raise LookupError(f'{error}: lower max_samples, or take missing="null"')
        return Completion("", "length", error=error)


def _replayed(sample: Sample) -> Completion:
    return Completion(
        sample.text,
        sample.finish_reason,
        logprob_sum=sample.logprob_sum,
        n_prompt_tokens=sample.n_prompt_tokens,
        n_tokens=sample.n_tokens,
        latency_s=sample.latency_s,
        tool_calls=sample.tool_calls,
    )


def replay(
    source: str | os.PathLike[str] | SampleTable | Iterable[Sample],
    *,
    shuffle: int | None = None,
    missing: Literal["error", "null"] = "error",
) -> ReplayBackend:
    """Return a backend that gives recorded samples again, to compare strategies on the same draws.

    Parameters
    ----------
    source
        A file of samples (a log, or JSON lines with ``prompt_id``, ``sample_index`` and ``text``),
        a table, or samples. The i-th request of a prompt gets its i-th recorded sample, whatever
        the seeds; samples that were not used count.
    shuffle
        Seed of a random order within each prompt, for averages over orders. The recorded order
        otherwise.
    missing
        What a request beyond the recorded samples gets: an error, or "null" for a sample without an
        answer.

    Raises
    ------
    ValueError
        If the file is not readable or has a sample twice.
    """
    if isinstance(source, str | os.PathLike):
        source = SampleTable.from_jsonl(source)
    samples = source.samples() if isinstance(source, SampleTable) else source
    return ReplayBackend(samples, shuffle=shuffle, missing=missing)


# Doors to engines --------------------------------------------------------------------------------


def vllm(*args: Any, **options: Any) -> Any:
    """Return a backend on a vLLM engine in this process.

    Arguments are those of `modicum.testtime.integrations.vllm.VLLMBackend`.

    Raises
    ------
    ImportError
        If vLLM is not installed.
    """
    from modicum.testtime.integrations.vllm import VLLMBackend

    return VLLMBackend(*args, **options)


def transformers(*args: Any, **options: Any) -> Any:
    """Return a backend on a model of transformers in this process.

    Arguments are those of `modicum.testtime.integrations.transformers.TransformersBackend`.

    Raises
    ------
    ImportError
        If transformers is not installed.
    """
    from modicum.testtime.integrations.transformers import TransformersBackend

    return TransformersBackend(*args, **options)


def openai(*args: Any, **options: Any) -> Any:
    """Return a backend on servers that speak the OpenAI API.

    Arguments are those of `modicum.testtime.integrations.openai.OpenAIBackend`.

    Raises
    ------
    ImportError
        If httpx is not installed.
    """
    from modicum.testtime.integrations.openai import OpenAIBackend

    return OpenAIBackend(*args, **options)
