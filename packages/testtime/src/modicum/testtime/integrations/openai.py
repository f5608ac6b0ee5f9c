"""Samples from servers that speak the OpenAI protocol, over plain HTTP.

Takes the address of one server or of several that serve the same model, and gives one completion
per request. Needs httpx only (the package named ``httpx``). Knows nothing of votes and stopping;
leaves the servers' settings alone.

* Routing: each request goes to the server with the fewest of our requests in flight, at most
  ``concurrency`` on each.
* Failures: lost connections, time-outs, unreadable answers and the statuses 408, 409, 425, 429 and
  5xx are tried again after a random pause, uniform between 0 and a limit that doubles each time
  ("full jitter"), on another server where there is one. A server's ``Retry-After`` is honoured. Any
  other 4xx status is permanent and raises at once with the server's own message.
* Cancelling closes the connection. vLLM, SGLang and others take that as the end of the request;
  with ``stream=True`` so do servers that notice a lost reader only while they write.
* A repeated request has the same seed, so on a server that honours seeds trying again draws nothing
  new.

The API key goes into one header and nowhere else: not into logs, representations or error messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import logging
import math
import os
import random
import time
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modicum.testtime.samples import Completion, Request

try:
    import httpx
except ImportError as error:
    raise ImportError(
        'sampling from a server needs httpx: pip install "modicum-testtime[openai]"'
    ) from error

__all__ = ["OpenAIBackend", "PermanentError", "RetriesExhausted", "ServerError"]

logger = logging.getLogger(__name__)

_RESERVED = ("n", "seed", "stream", "stream_options")
_RETRIED = frozenset({408, 409, 425, 429})
_EXCERPT = 500
"""Characters of an unreadable answer that an error message quotes."""


class ServerError(RuntimeError):
    """A server gave no completion; ``status`` is its HTTP status, None where there was none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PermanentError(ServerError):
    """A server refused a request for good: sending it again would change nothing."""


class RetriesExhausted(ServerError):
    """A request failed on every attempt; the message is that of the last failure."""


class _Temporary(Exception):
    """One attempt failed; `wait` is how long the server asks to be left alone, in seconds."""

    def __init__(self, message: str, status: int | None = None, wait: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait


class _Secret:
    """A key that shows itself to nobody who does not ask for its `value`."""

    def __init__(self, value: str | None) -> None:
        if value and not (value.isascii() and value.isprintable() and " " not in value):
            raise ValueError("the API key holds blanks or characters that no HTTP header may hold")
        self.value = value or ""

    def __repr__(self) -> str:
        return "***"

    def hide(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self.value, "***") if self.value else text


@dataclass(slots=True)
class _Endpoint:
    """One server as one event loop sees it."""

    url: str
    in_flight: int = 0
    not_before: float = 0.0  # time.monotonic() until which the server asked to be left alone


@dataclass(slots=True)
class _Session:
    """What belongs to one event loop: connections, and how many requests are where."""

    client: httpx.AsyncClient
    endpoints: list[_Endpoint]
    freed: asyncio.Event = field(default_factory=asyncio.Event)  # set when a request ends
    keeper: AsyncGenerator[None, None] | None = None
    users: int = 0  # calls under way, pauses between attempts included

    def release(self, endpoint: _Endpoint) -> None:
        """Give a place at a server back and wake everybody who waits for one."""
        endpoint.in_flight -= 1
        self.freed.set()
        self.freed = asyncio.Event()


class OpenAIBackend:
    """Servers that speak the OpenAI protocol as an `AsyncGenerator`.

    Parameters
    ----------
    base_url
        Address of the API, ``"http://127.0.0.1:8000/v1"``, or several that serve the same model.
    model
        Name of the model there.
    api_key
        Key for the header ``Authorization``; None takes it from the environment variable
        `api_key_env`, and sends no such header where that is not set.
    api_key_env
        Name of that variable.
    chat
        True: texts and messages go to ``/chat/completions``, a text as the user's message. False:
        texts go to ``/completions`` and are continued; messages are refused.
    concurrency
        Most requests in flight at one server.
    max_retries
        Further attempts after the first.
    backoff, max_backoff
        Limit of the first pause between attempts and most that it doubles up to, in seconds.
    max_retry_after
        Longest ``Retry-After`` that is waited for, in seconds; a longer one is an error.
    timeout
        Seconds that one attempt may take, from sending to the last byte.
    connect_timeout
        Seconds to open a connection.
    stream
        Whether to receive the completion token by token (server-sent events).
    seed_bits
        Leading bits of the 63-bit seeds that are sent; 32 for servers that read no more.
    max_tokens_field
        What the server calls the limit of new tokens: ``"max_tokens"``, or
        ``"max_completion_tokens"`` for recent models of OpenAI.
    headers
        Further headers.
    client_options
        Further arguments of `httpx.AsyncClient`, such as ``verify``, ``proxy`` or ``trust_env``.
    retry_seed
        Seed of the pauses between attempts; None is unpredictable, so that many clients that fail
        together do not come back together.

    Raises
    ------
    ValueError
        If an argument is out of its range, or an address holds credentials.

    Notes
    -----
    ``Sampling.extra`` is merged into the request's body: ``tools``, ``tool_choice``,
    ``response_format``, ``return_token_ids`` (vLLM) and so on. ``top_k`` and ``min_p``, which are
    not OpenAI's, are sent only where they are on. ``logprob_sum`` is what the server reports;
    vLLM's is of the model's own law, before temperature and truncation. A time-out ends long
    completions more often than short ones: where it strikes at all, lower ``max_tokens`` instead,
    whose cut is counted as a sample without a vote.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        chat: bool = True,
        concurrency: int = 64,
        max_retries: int = 5,
        backoff: float = 0.5,
        max_backoff: float = 30.0,
        max_retry_after: float = 120.0,
        timeout: float = 600.0,
        connect_timeout: float = 10.0,
        stream: bool = False,
        seed_bits: int = 63,
        max_tokens_field: str = "max_tokens",
        headers: Mapping[str, str] | None = None,
        client_options: Mapping[str, Any] | None = None,
        retry_seed: int | None = None,
    ) -> None:
        self.base_urls = _checked_urls([base_url] if isinstance(base_url, str) else list(base_url))
        for name, number, least in (
            ("concurrency", concurrency, 1),
            ("max_retries", max_retries, 0),
            ("seed_bits", seed_bits, 1),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, not {number!r}")
        if seed_bits > 63:
            raise ValueError(f"seed_bits must be at most 63, not {seed_bits!r}")
        for name, seconds in (
            ("backoff", backoff),
            ("max_backoff", max_backoff),
            ("max_retry_after", max_retry_after),
            ("timeout", timeout),
            ("connect_timeout", connect_timeout),
        ):
            if not seconds > 0:
                raise ValueError(f"{name} must be positive seconds, not {seconds!r}")
        self.model = model
        self.chat = chat
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.max_retry_after = max_retry_after
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.stream = stream
        self.seed_bits = seed_bits
        self.max_tokens_field = max_tokens_field
        self.headers = dict(headers or {})
        self.client_options = dict(client_options or {})
        self._secret = _Secret(os.environ.get(api_key_env) if api_key is None else api_key)
        self._random = random.Random(retry_seed)
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Session] = (
            weakref.WeakKeyDictionary()
        )

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.base_urls!r}, {self.model!r})"

    async def agenerate(self, request: Request) -> Completion:
        """Return the completion of one request; cancelling the call closes its connection.

        Raises
        ------
        PermanentError
            If a server refuses the request for good; the message is the server's.
        RetriesExhausted
            If every attempt failed.
        ValueError
            If the prompt is a chat and the backend has ``chat=False``, or `Sampling.extra` sets
            what the request decides.
        """
        path, body = self.body(request)
        session = await self._session()
        session.users += 1
        try:
            return await self._complete(session, path, body)
        finally:
            session.users -= 1

    async def _complete(self, session: _Session, path: str, body: Mapping[str, Any]) -> Completion:
        submitted = time.perf_counter()
        failure: _Temporary | None = None
        failed: _Endpoint | None = None
        for attempt in range(self.max_retries + 1):
            endpoint = await self._choose(session, failed, failure)
            try:
                completion = await self._attempt(session.client, endpoint.url + path, body)
            except _Temporary as error:
                failure, failed = error, endpoint
                endpoint.not_before = max(endpoint.not_before, time.monotonic() + error.wait)
            else:
                completion.latency_s = time.perf_counter() - submitted
                return completion
            finally:
                session.release(endpoint)
            if attempt < self.max_retries:
                pause = self.pause(attempt)
                logger.debug("attempt %d failed, %.2f s pause: %s", attempt + 1, pause, failure)
                await asyncio.sleep(pause)
        raise RetriesExhausted(
            f"no completion after {self.max_retries + 1} attempt(s); the last: {failure}",
            failure.status if failure else None,
        )

    def pause(self, attempt: int) -> float:
        """Draw the seconds to wait after a failed attempt, counted from 0: full jitter."""
        return self._random.uniform(0.0, min(self.max_backoff, self.backoff * 2.0**attempt))

    async def aclose(self) -> None:
        """Close the connections of the running event loop, unless another run is using them."""
        session = self._sessions.get(asyncio.get_running_loop())
        if session is not None and session.keeper is not None and not session.users:
            await session.keeper.aclose()

    def body(self, request: Request) -> tuple[str, dict[str, Any]]:
        """Return path and JSON body of a request.

        Raises
        ------
        ValueError
            If the prompt is a chat and the backend has ``chat=False``, or `Sampling.extra` sets
            what the request decides.
        """
        params, prompt = request.params, request.prompt
        for name in _RESERVED:
            if name in params.extra:
                raise ValueError(f"extra[{name!r}] is set by the backend itself; leave it out")
        content: dict[str, Any]
        if self.chat:
            path = "/chat/completions"
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            content = {"messages": [dict(message) for message in messages]}
            if params.logprobs:
                content["logprobs"] = True
        elif isinstance(prompt, str):
            path = "/completions"
            content = {"prompt": prompt}
            if params.logprobs:
                content["logprobs"] = 0
        else:
            raise ValueError(
                f"prompt {request.prompt_id!r} is a chat, and chat=False takes texts only"
            )
        content |= {
            "model": self.model,
            "temperature": params.temperature,
            "top_p": params.top_p,
            self.max_tokens_field if self.chat else "max_tokens": params.max_tokens,
            "seed": request.seed >> (63 - self.seed_bits),
        }
        if params.stop:
            content["stop"] = list(params.stop)
        if params.top_k:
            content["top_k"] = params.top_k
        if params.min_p:
            content["min_p"] = params.min_p
        if self.stream:
            content |= {"stream": True, "stream_options": {"include_usage": True}}
        return path, content | dict(params.extra)

    async def _session(self) -> _Session:
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            headers = dict(self.headers)
            if self._secret.value:
                headers["Authorization"] = f"Bearer {self._secret.value}"
            options: dict[str, Any] = {
                "headers": headers,
                "timeout": httpx.Timeout(self.timeout, connect=self.connect_timeout, pool=None),
                "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
            }
            session = _Session(
                httpx.AsyncClient(**options | self.client_options),
                [_Endpoint(url) for url in self.base_urls],
            )
            self._sessions[loop] = session
            # A loop that ends closes its asynchronous generators, and so these connections.
            session.keeper = self._keep(loop, session.client)
            await anext(session.keeper)
        return self._sessions[loop]

    async def _keep(
        self, loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._sessions.pop(loop, None)
            await client.aclose()

    async def _choose(
        self, session: _Session, failed: _Endpoint | None, failure: _Temporary | None
    ) -> _Endpoint:
        """Take a place at the server with the fewest requests, rather not at the failed one."""
        while True:
            now = time.monotonic()
            free = [e for e in session.endpoints if e.in_flight < self.concurrency]
            ready = [e for e in free if e.not_before <= now]
            if ready:
                others = [e for e in ready if e is not failed] or ready
                chosen = min(others, key=lambda endpoint: endpoint.in_flight)
                chosen.in_flight += 1
                return chosen
            opening = min(e.not_before for e in session.endpoints) - now
            if opening > self.max_retry_after:
                raise RetriesExhausted(
                    f"every server asks to be left alone for {opening:.0f} s or more, which is "
                    f"more than max_retry_after={self.max_retry_after:g} s: {failure}",
                    failure.status if failure else None,
                )
            closed = min((e.not_before - now for e in free), default=None)
            if closed is not None:
                closed += self._random.uniform(0.0, self.backoff)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(closed):
                    await session.freed.wait()

    async def _attempt(
        self, client: httpx.AsyncClient, url: str, body: Mapping[str, Any]
    ) -> Completion:
        """Send a request once.

        Raises
        ------
        _Temporary
            If another attempt may succeed.
        PermanentError
            If not.
        """
        try:
            async with (
                asyncio.timeout(self.timeout),
                client.stream("POST", url, json=body) as response,
            ):
                if response.status_code != 200:
                    await response.aread()
                    raise self._failure(url, response)
                if self.stream:
                    choice, usage = await _read_events(response)
                else:
                    choice, usage = _read_answer(await response.aread())
                return _completion(choice, usage)
        except TimeoutError:
            raise _Temporary(f"{url}: no answer within {self.timeout:g} s") from None
        except httpx.RequestError as error:
            reason = self._secret.hide(str(error))
            raise _Temporary(f"{url}: {type(error).__name__}: {reason}".rstrip(": ")) from None
        except _Unreadable as error:
            reason = self._secret.hide(str(error))
            raise _Temporary(f"{url}: unreadable answer: {reason}", 200) from None

    def _failure(self, url: str, response: httpx.Response) -> _Temporary | PermanentError:
        status = response.status_code
        code, reason = _server_message(response)
        text = f"{url}: status {status}: {self._secret.hide(reason)}"
        # Asking again does not fill an empty account, although its status is that of a full queue.
        retried = (status in _RETRIED or status >= 500) and code != "insufficient_quota"
        if retried:
            return _Temporary(text, status, _retry_after(response.headers))
        return PermanentError(text, status)


class _Unreadable(Exception):
    """What the server sent is no completion."""


def _checked_urls(urls: Sequence[str]) -> tuple[str, ...]:
    if not urls:
        raise ValueError("base_url must name at least one server")
    for url in urls:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(
                f"base_url must look like 'http://127.0.0.1:8000/v1', not {_host_of(url)!r}"
            )
        if parsed.userinfo:
            raise ValueError(
                "base_url must not hold a user name or password: give api_key=... or headers=..."
            )
    return tuple(url.rstrip("/") for url in urls)


def _host_of(url: str) -> str:
    """Return an address without what stands before the host, which may be a password."""
    return url.rpartition("@")[2]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to be left alone; 0 where it does not say."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        with contextlib.suppress(ValueError):
            seconds = float(value) * unit
            return seconds if 0 <= seconds < float("inf") else 0.0
        with contextlib.suppress(ValueError):
            moment = email.utils.parsedate_to_datetime(value)
            return max(0.0, moment.timestamp() - time.time())
    return 0.0


def _server_message(response: httpx.Response) -> tuple[str, str]:
    """Return the error code and message that a refused request came back with."""
    try:
        content = response.json()
    except ValueError:
        return "", response.text[:_EXCERPT].strip() or response.reason_phrase
    if not isinstance(content, dict):
        return "", str(content)[:_EXCERPT]
    error = content.get("error", content)
    if not isinstance(error, dict):
        return "", str(error)
    message = error.get("message") or error.get("detail") or json.dumps(error)[:_EXCERPT]
    return str(error.get("code") or ""), str(message)


def _read_answer(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return choice and usage of a whole answer."""
    try:
        payload = json.loads(content)
        return payload["choices"][0], payload.get("usage") or {}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Unreadable(content[:_EXCERPT].decode("utf-8", "replace")) from None


async def _read_events(response: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put the pieces of a streamed answer together; return choice and usage as of a whole one."""
    choice: dict[str, Any] = {"text": "", "message": {"content": ""}, "finish_reason": None}
    calls: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            event = json.loads(data)
            usage = event.get("usage") or usage
            if "error" in event:
                raise _Unreadable(data[:_EXCERPT])
            for piece in event["choices"]:
                _add_piece(choice, calls, piece)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Unreadable(data[:_EXCERPT]) from None
    if choice["finish_reason"] is None:
        raise _Unreadable("the stream ended before the completion did")
    if calls:
        choice["message"]["tool_calls"] = [calls[index] for index in sorted(calls)]
    return choice, usage


def _add_piece(
    choice: dict[str, Any], calls: dict[int, dict[str, Any]], piece: Mapping[str, Any]
) -> None:
    """Add one event's piece to the choice and the tool calls collected so far."""
    delta = piece.get("delta") or {}
    choice["text"] += piece.get("text") or ""
    choice["message"]["content"] += delta.get("content") or ""
    choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
    if ids := piece.get("token_ids"):
        choice.setdefault("token_ids", []).extend(ids)
    for name, values in (piece.get("logprobs") or {}).items():
        if name in ("content", "token_logprobs") and values:
            logprobs = choice.setdefault("logprobs", {})
            logprobs.setdefault(name, []).extend(values)
    for part in delta.get("tool_calls") or ():
        call = calls.setdefault(
            part.get("index", 0),
            {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
        )
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""


def _completion(choice: Mapping[str, Any], usage: Mapping[str, Any]) -> Completion:
    """Read a choice of either endpoint.

    Raises
    ------
    _Unreadable
        If it is not what the protocol says.
    """
    try:
        message = choice.get("message") or {}
        content = message.get("content") or choice.get("text") or ""
        if not isinstance(content, str):
            content = "".join(part.get("text") or "" for part in content)
        logprobs = choice.get("logprobs") or {}
        values = [entry["logprob"] for entry in logprobs.get("content") or ()]
        values += [value for value in logprobs.get("token_logprobs") or () if value is not None]
        token_ids = choice.get("token_ids")
        calls = tuple(message.get("tool_calls") or ())
        reason = choice.get("finish_reason") or "stop"
        completion = Completion(
            text=content,
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
            token_ids=None if token_ids is None else tuple(int(token) for token in token_ids),
            logprob_sum=math.fsum(values) if values else None,
            n_prompt_tokens=int(usage.get("prompt_tokens") or 0),
            n_tokens=int(usage.get("completion_tokens") or 0),
            tool_calls=calls,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from None
    if reason == "content_filter":
        completion.text = ""  # a part of an answer, of which nothing can be read
    elif reason in ("error", "abort"):
        completion.finish_reason, completion.text = "error", ""
        completion.error = f"the server ended the completion: {reason}"
    return completion
