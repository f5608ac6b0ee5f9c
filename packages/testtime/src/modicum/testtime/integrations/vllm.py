"""Samples from vLLM inside this process: the offline engine as a backend.

Takes a `vllm.LLM` and gives one completion per request. Every sample is a vLLM request of its own
with its own seed and ``n=1``, so a sample depends on its seed and prompt only, up to the rounding
by which the engine's kernels differ between batches; with prefix caching (vLLM's default) the
samples of a prompt still compute it once. Leaves the engine's settings alone.

Two ways to work. `VLLMBackend` takes a list of requests and yields each as soon as it is finished:
wave mode. `VLLMStream` (`VLLMBackend.stream`) takes single requests while others run, and a request
that is cancelled leaves the engine at once: no token is spent on samples that a decision made
superfluous. Both move the engine step by step with ``LLMEngine.step`` and so may share one engine,
even with different LoRA adapters; ``LLM.generate`` must not be called meanwhile.

On the CPU vLLM honours the seeds of requests only while every request of a batch has one; here all
do.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from modicum.testtime.integrations._prompts import PromptEncoder
from modicum.testtime.samples import Completion, Request, Sampling

try:
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind
except ImportError as error:
    raise ImportError(
        'sampling with vLLM needs vLLM 0.25: pip install "modicum-testtime[vllm]"'
    ) from error

__all__ = ["VLLMBackend", "VLLMStream"]

_RESERVED = ("n", "seed", "output_kind", "detokenize")
_FINISHED = {"stop": "stop", "length": "length", "repetition": "length"}


class VLLMBackend:
    """The offline engine as a `Generator`: a list of requests in, completions out as they finish.

    Use `stream` for early stopping inside a wave; use this where whole waves are wanted. The
    equivalent in vLLM is ``LLM.generate`` with one ``SamplingParams`` per prompt.

    Parameters
    ----------
    llm
        A `vllm.LLM`. Prefix caching, on by default, makes many samples of one prompt cheap.
    tokenizer
        A transformers tokenizer; None is the engine's own.
    chat
        Whether a text prompt is the user's message of a chat (True), or continued as it is. Chat
        messages always go through the chat template.
    chat_template, chat_template_kwargs
        A template in place of the tokenizer's own, and further variables for it such as ``tools``.
    lora_request
        A `vllm.lora.request.LoRARequest` for every request of this backend.

    Notes
    -----
    ``Sampling.extra`` holds further fields of `vllm.SamplingParams`. ``logprob_sum`` is the
    engine's ``cumulative_logprob``: of the model's own law, before temperature and truncation,
    unless the engine was started with another ``logprobs_mode``. A request that the engine refuses,
    for instance since its prompt is too long, gives a completion with ``finish_reason="error"``.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any = None,
        *,
        chat: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        lora_request: Any = None,
    ) -> None:
        self.llm = llm
        self.encode = PromptEncoder(
            llm.get_tokenizer() if tokenizer is None else tokenizer,
            chat=chat,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
        )
        self.lora_request = lora_request
        self._stepper = _stepper(llm)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield every request with its completion, in the order in which they finish.

        All requests enter the engine at the first step. Closing the iterator early aborts those
        that still run.

        Parameters
        ----------
        requests
            Requests; equal ones are sampled as often as they occur.

        Raises
        ------
        ValueError
            If a sampling parameter is not one of vLLM's, or a chat has no template.
        RuntimeError
            If somebody else steps the engine meanwhile.
        """
        prepared = [(r, self.encode(r.prompt), sampling_params(r)) for r in requests]
        ready: list[tuple[Request, Completion]] = []
        running: set[str] = set()

        def deliver(request: Request, name: str, completion: Completion) -> None:
            running.discard(name)
            ready.append((request, completion))

        try:
            for request, prompt_ids, params in prepared:
                finished = functools.partial(deliver, request)
                try:
                    running.add(self._stepper.add(prompt_ids, params, self.lora_request, finished))
                except ValueError as error:
                    ready.append((request, Completion("", "error", error=str(error))))
            while running or ready:
                while ready:
                    yield ready.pop(0)
                if running:
                    self._stepper.step()
        finally:
            self._stepper.abort(running)

    def stream(self) -> VLLMStream:
        """Return the same engine as a backend for one request at a time, with cancellation."""
        return VLLMStream(self)

    def __repr__(self) -> str:
        return f"VLLMBackend({self.llm!r})"


class VLLMStream:
    """The offline engine as an `AsyncGenerator`: requests come and go while the engine runs.

    Cancelling `agenerate` aborts the request in the engine. The engine steps inside the event loop,
    one step between two turns of the loop: other work of the loop waits for a step, which takes
    milliseconds to tens of milliseconds.

    Parameters
    ----------
    backend
        Where engine, tokenizer and chat template come from.
    """

    def __init__(self, backend: VLLMBackend) -> None:
        self.backend = backend
        self._driver: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[Completion]] = {}

    async def agenerate(self, request: Request) -> Completion:
        """Return the completion of one request; cancelling the call aborts it in the engine.

        Raises
        ------
        ValueError
            If a sampling parameter is not one of vLLM's, or a chat has no template.
        RuntimeError
            If the engine fails, or somebody else steps it meanwhile.
        """
        prompt_ids, params = self.backend.encode(request.prompt), sampling_params(request)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()

        def finished(name: str, completion: Completion) -> None:
            if not future.done():
                future.set_result(completion)

        stepper = self.backend._stepper
        try:
            name = stepper.add(prompt_ids, params, self.backend.lora_request, finished)
        except ValueError as error:
            return Completion("", "error", error=str(error))
        self._waiting[name] = future
        try:
            self._drive()
            return await future
        finally:
            del self._waiting[name]
            stepper.abort({name})

    def _drive(self) -> None:
        """Let a task of the running loop step the engine as long as anybody waits."""
        loop = asyncio.get_running_loop()
        if self._driver is None or self._driver.done() or self._driver.get_loop() is not loop:
            self._driver = loop.create_task(self._step_while_waiting())

    async def _step_while_waiting(self) -> None:
        while any(not future.done() for future in self._waiting.values()):
            try:
                self.backend._stepper.step()
            except Exception as error:
                for future in self._waiting.values():
                    if not future.done():
                        future.set_exception(error)
                return
            await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"VLLMStream({self.backend!r})"


def sampling_params(request: Request) -> SamplingParams:
    """Return vLLM's sampling parameters of one request: its own seed, one completion.

    Raises
    ------
    ValueError
        If `Sampling.extra` holds what vLLM does not know or the request decides itself.
    """
    params: Sampling = request.params
    for name in _RESERVED:
        if name in params.extra:
            raise ValueError(f"extra[{name!r}] is set by the backend itself; leave it out")
    try:
        return SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            max_tokens=params.max_tokens,
            stop=list(params.stop) or None,
            logprobs=0 if params.logprobs else None,
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **params.extra,
        )
    except TypeError as error:
        raise ValueError(f"vLLM refuses the parameters in extra: {error}") from error


class _Stepper:
    """One engine's steps, shared by all backends that use it: who waits for which request."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.waiting: dict[str, tuple[float, Callable[[str, Completion], None]]] = {}
        self.names = (f"modicum-testtime-{number}" for number in itertools.count())

    def add(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        lora_request: Any,
        finished: Callable[[str, Completion], None],
    ) -> str:
        """Queue a request and return its name; `finished` is called with its completion."""
        name = next(self.names)
        self.engine.add_request(name, tokens_input(prompt_ids), params, lora_request=lora_request)
        self.waiting[name] = (time.perf_counter(), finished)
        return name

    def step(self) -> None:
        """Compute one token of every running request and hand out what is finished."""
        if not self.engine.has_unfinished_requests():
            raise RuntimeError(
                f"{len(self.waiting)} requests left the engine unseen: something else stepped it; "
                "do not call LLM.generate while a backend runs"
            )
        for output in self.engine.step():
            if output.finished and output.request_id in self.waiting:
                submitted, finished = self.waiting.pop(output.request_id)
                finished(output.request_id, _completion(output, time.perf_counter() - submitted))

    def abort(self, names: set[str]) -> None:
        """Take requests out of the engine; those that are finished are let be."""
        running = [name for name in names if self.waiting.pop(name, None) is not None]
        if running:
            self.engine.abort_request(running)


_STEPPERS: weakref.WeakKeyDictionary[Any, _Stepper] = weakref.WeakKeyDictionary()


def _stepper(llm: Any) -> _Stepper:
    if llm not in _STEPPERS:
        _STEPPERS[llm] = _Stepper(llm.llm_engine)
    return _STEPPERS[llm]


def _completion(output: Any, latency_s: float) -> Completion:
    sample = output.outputs[0]
    reason = _FINISHED.get(sample.finish_reason, "error")
    logprob = sample.cumulative_logprob
    return Completion(
        text="" if reason == "error" else sample.text,
        finish_reason=reason,
        token_ids=tuple(sample.token_ids),
        logprob_sum=float(logprob) if logprob is not None and math.isfinite(logprob) else None,
        n_prompt_tokens=len(output.prompt_token_ids or ()),
        n_tokens=len(sample.token_ids),
        latency_s=latency_s,
        error=f"vLLM ended the request: {sample.finish_reason}" if reason == "error" else "",
    )
