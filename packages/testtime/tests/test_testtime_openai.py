"""The client against a small HTTP server in the same process that does what each test wants.

One real server, vLLM's own, stands at the end.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from modicum.testtime.backends import replay
from modicum.testtime.integrations.openai import (
    OpenAIBackend,
    PermanentError,
    RetriesExhausted,
    ServerError,
)
from modicum.testtime.samples import AsyncGenerator, Request, Sampling, sample_seed
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping import Curtailed, FixedN

KEY = "sk-a-very-secret-key-0123456789"


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@dataclass
class Call:
    """One request as the server saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    when: float
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self, content, status=200, **headers):
        """Send a whole answer: JSON for a dictionary, bytes as they are."""
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(raw)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + raw)
        await self.writer.drain()

    async def begin_stream(self):
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        )
        await self.writer.drain()

    async def event(self, content):
        data = content if isinstance(content, str) else json.dumps(content)
        self.writer.write(f"data: {data}\n\n".encode())
        await self.writer.drain()

    async def until_the_client_leaves(self):
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(100):
                pass


@dataclass
class Server:
    """Calls `handler(call, number)` for every request; counts who is inside."""

    handler: Any
    calls: list[Call] = field(default_factory=list)
    inside: int = 0
    most_inside: int = 0
    connections: int = 0
    url: str = ""

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if line)
                raw = await reader.readexactly(int(headers["content-length"]))
                when = time.monotonic()
                call = Call(first.split()[1], headers, json.loads(raw), when, reader, writer)
                self.calls.append(call)
                self.inside += 1
                self.most_inside = max(self.inside, self.most_inside)
                try:
                    await self.handler(call, len(self.calls) - 1)
                finally:
                    self.inside -= 1
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(handler):
    server = Server(handler)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()


def answer(text="42", reason="stop", **message):
    return {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text} | message,
             "finish_reason": reason}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }  # fmt: skip


async def right(call, number):
    await call.answer(answer())


def request(index=0, prompt="6 x 7?", params=Sampling(), prompt_id="p"):  # noqa: B008
    return Request(prompt_id, index, prompt, params, sample_seed(0, prompt_id, index))


def backend(url, **options):
    defaults = {"backoff": 1e-3, "client_options": {"trust_env": False}, "retry_seed": 0}
    return OpenAIBackend(url, "model-x", **defaults | options)


def ask(handler, wanted=None, **options):
    """Send one request to one server; return the completion, or the error, and the calls."""

    async def scenario():
        async with serving(handler) as server:
            client = backend(server.url, **options)
            try:
                outcome = await client.agenerate(wanted or request())
            except (ServerError, ValueError) as error:
                outcome = error
            await client.aclose()
            return outcome, server.calls

    return asyncio.run(scenario())


# --- what is sent and what is read ----------------------------------------------------------------


def test_a_chat_completion():
    params = Sampling(0.7, 0.9, max_tokens=64, stop=("\n\n", "Q:"), logprobs=True)

    async def handler(call, number):
        content = answer(" 42 ")
        content["choices"][0]["logprobs"] = {
            "content": [{"token": " 42", "logprob": -0.5}, {"token": " ", "logprob": -1.25}]
        }
        content["choices"][0]["token_ids"] = [5, 6, 7]
        await call.answer(content)

    completion, (call,) = ask(handler, request(3, params=params), api_key=KEY)
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == f"bearer {KEY}"
    assert call.body == {
        "model": "model-x",
        "messages": [{"role": "user", "content": "6 x 7?"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 64,
        "stop": ["\n\n", "Q:"],
        "seed": sample_seed(0, "p", 3),
        "logprobs": True,
    }
    assert (completion.text, completion.finish_reason) == (" 42 ", "stop")
    assert completion.logprob_sum == -1.75 and completion.token_ids == (5, 6, 7)
    assert (completion.n_prompt_tokens, completion.n_tokens) == (11, 3)
    assert completion.tool_calls == () and completion.latency_s > 0


def test_a_plain_completion():
    async def handler(call, number):
        logprobs = {"token_logprobs": [None, -0.25, -0.5], "tokens": ["a", "b", "c"]}
        choice = {"text": "abc", "finish_reason": "length", "logprobs": logprobs}
        await call.answer({"choices": [choice], "usage": None})

    wanted = request(params=Sampling(logprobs=True, top_k=7, min_p=0.1, max_tokens=3))
    completion, (call,) = ask(handler, wanted, chat=False, max_tokens_field="max_completion_tokens")
    assert call.path == "/v1/completions"
    assert "authorization" not in call.headers and "messages" not in call.body
    assert call.body["prompt"] == "6 x 7?" and call.body["logprobs"] == 0
    assert (call.body["top_k"], call.body["min_p"], call.body["max_tokens"]) == (7, 0.1, 3)
    assert (completion.text, completion.finish_reason) == ("abc", "length")
    assert completion.logprob_sum == -0.75 and completion.token_ids is None
    assert (completion.n_prompt_tokens, completion.n_tokens) == (0, 0)


def test_messages_tools_and_tool_calls():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    calls = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]

    async def handler(call, number):
        await call.answer(answer(None, "tool_calls", tool_calls=calls))

    params = Sampling(extra={"tools": tools, "tool_choice": "auto"})
    completion, (call,) = ask(
        handler, request(prompt=chat, params=params), max_tokens_field="max_completion_tokens"
    )
    assert call.body["messages"] == chat
    assert call.body["tools"] == tools and call.body["tool_choice"] == "auto"
    assert "max_tokens" not in call.body and call.body["max_completion_tokens"] == 512
    assert completion.text == "" and completion.finish_reason == "tool_calls"
    assert completion.tool_calls == tuple(calls)


@pytest.mark.parametrize(
    ("message", "reason", "text", "finish"),
    [
        ({"content": None, "refusal": "no"}, "stop", "", "stop"),
        ({"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]}, "stop", "42",
         "stop"),
        ({"content": "42"}, None, "42", "stop"),
        ({"content": "4", "tool_calls": [{"id": "1"}]}, "stop", "4", "tool_calls"),
        ({"content": "half an answ"}, "content_filter", "", "content_filter"),
        ({"content": "half an answ"}, "abort", "", "error"),
    ],
)  # fmt: skip
def test_answers_of_other_forms(message, reason, text, finish):
    async def handler(call, number):
        await call.answer({"choices": [{"message": message, "finish_reason": reason}]})

    completion, _ = ask(handler)
    assert (completion.text, completion.finish_reason) == (text, finish)
    assert ("abort" in completion.error) == (finish == "error")


def test_seeds_are_the_requests_own_cut_to_what_the_server_reads():
    for bits in (63, 53, 32, 1):
        _, (call,) = ask(right, request(7), seed_bits=bits)
        assert call.body["seed"] == sample_seed(0, "p", 7) >> (63 - bits) < 2**bits


def test_what_the_request_decides_may_not_be_overridden():
    for name in ("n", "seed", "stream"):
        error, calls = ask(right, request(params=Sampling(extra={name: 2})))
        assert isinstance(error, ValueError) and f"extra['{name}']" in str(error) and not calls
    error, calls = ask(right, request(prompt=[{"role": "user", "content": "?"}]), chat=False)
    assert isinstance(error, ValueError) and "'p' is a chat" in str(error) and not calls


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_with_the_same_seed(status):
    async def handler(call, number):
        if number < 2:
            await call.answer({"error": {"message": "busy"}}, status)
        else:
            await call.answer(answer())

    completion, calls = ask(handler)
    assert completion.text == "42" and len(calls) == 3
    assert calls[0].body == calls[1].body == calls[2].body


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (400, {"error": {"message": "max_tokens is too large", "code": 400}}, "is too large"),
        (401, {"error": {"message": f"Incorrect API key: {KEY}"}}, r"Incorrect API key: \*\*\*"),
        (403, {"error": "not for you"}, "not for you"),
        (404, {"object": "error", "message": "The model `model-x` does not exist."}, "not exist"),
        (422, {"detail": "field required"}, "field required"),
        (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}},
         "your quota"),
        (413, b"<html>too much</html>", "<html>too much</html>"),
        (405, b"", "Status"),
        (302, b"elsewhere", "elsewhere"),
        (418, ["teapot"], "teapot"),
    ],
)  # fmt: skip
def test_what_is_permanent_raises_at_once_with_the_servers_message(status, content, said):
    async def handler(call, number):
        await call.answer(content, status)

    error, calls = ask(handler, api_key=KEY)
    assert isinstance(error, PermanentError) and error.status == status and len(calls) == 1
    assert re.search(said, str(error)) and f"status {status}" in str(error)
    assert KEY not in str(error)


def test_after_the_last_attempt_the_error_tells_the_last_failure():
    async def handler(call, number):
        await call.answer({"error": {"message": f"busy {number}"}}, 503)

    for retries in (0, 3):
        error, calls = ask(handler, max_retries=retries)
        assert isinstance(error, RetriesExhausted) and error.status == 503
        assert len(calls) == retries + 1
        assert f"after {retries + 1} attempt(s)" in str(error) and f"busy {retries}" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>a gateway speaks</html>",
        b"",
        b'{"choices": [{"mess',
        b"\xff\xfe\x00",
        {"choices": []},
        {"choices": None},
        {"error": {"message": "inside a success"}},
        {"choices": ["text"]},
        {"choices": [{"message": {"content": 17}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{}]}}]},
        [1, 2],
    ],
)
def test_an_unreadable_answer_is_tried_again(content):
    async def handler(call, number):
        await (call.answer(content) if number == 0 else call.answer(answer()))

    completion, calls = ask(handler)
    assert completion.text == "42" and len(calls) == 2
    error, calls = ask(lambda call, number: call.answer(content), max_retries=1)
    assert isinstance(error, RetriesExhausted) and "unreadable answer" in str(error)
    assert len(calls) == 2


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", b"junk"])
def test_a_dropped_connection_is_tried_again(sent):
    async def handler(call, number):
        if number == 0:
            call.writer.write(sent)
            call.writer.close()
        else:
            await call.answer(answer())

    completion, calls = ask(handler)
    assert completion.text == "42" and len(calls) == 2


def test_a_server_that_is_not_there_leaves_the_work_to_the_others():
    async def scenario():
        async with serving(right) as gone:
            pass
        async with serving(right) as there:
            client = backend([gone.url, there.url])
            completions = await asyncio.gather(*(client.agenerate(request(i)) for i in range(20)))
            assert {c.text for c in completions} == {"42"} and len(there.calls) == 20
            alone = backend(gone.url, max_retries=2)
            with pytest.raises(RetriesExhausted, match="ConnectError") as caught:
                await alone.agenerate(request())
            assert caught.value.status is None

    asyncio.run(scenario())


@pytest.mark.parametrize("trickle", [False, True])
def test_a_time_out_is_tried_again(trickle):
    """Also where the server sends a byte now and then."""

    async def handler(call, number):
        if number:
            await call.answer(answer())
            return
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
        for _ in range(1000 if trickle else 0):
            call.writer.write(b" ")
            await call.writer.drain()
            await asyncio.sleep(0.01)
        await call.until_the_client_leaves()

    completion, calls = ask(handler, timeout=0.2)
    assert completion.text == "42" and len(calls) == 2
    error, _ = ask(lambda call, number: call.until_the_client_leaves(), timeout=0.1, max_retries=0)
    assert isinstance(error, RetriesExhausted) and "within 0.1 s" in str(error)


def test_pauses_are_uniform_below_a_limit_that_doubles():
    client = backend("http://127.0.0.1:1/v1", backoff=0.5, max_backoff=4.0)
    for attempt, limit in enumerate([0.5, 1.0, 2.0, 4.0, 4.0, 4.0]):
        pauses = [client.pause(attempt) for _ in range(2000)]
        assert 0 <= min(pauses) < 0.01 * limit and 0.99 * limit < max(pauses) <= limit
        # Six standard errors of the mean of 2,000 uniforms.
        assert abs(sum(pauses) / 2000 - limit / 2) < 6 * limit / math.sqrt(12 * 2000)
    again = backend("http://127.0.0.1:1/v1")
    assert again.pause(0) == backend("http://127.0.0.1:1/v1").pause(0) != again.pause(0)
    unseeded = [backend("http://127.0.0.1:1/v1", retry_seed=None).pause(0) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", [{"Retry_After": "0.2"}, {"retry_after_ms": "200"}])
def test_retry_after_is_waited_for(status, header):
    async def handler(call, number):
        await (call.answer({}, status, **header) if number == 0 else call.answer(answer()))

    completion, (first, second) = ask(handler)
    assert completion.text == "42"
    assert second.when - first.when >= 0.199  # a lower bound: nothing slow can break it


def test_retry_after_may_be_a_date_and_nonsense_is_ignored():
    async def scenario(value, **options):
        async def handler(call, number):
            await (call.answer({}, 429, Retry_After=value) if number == 0 else right(call, 1))

        async with serving(handler) as server:
            return await backend(server.url, **options).agenerate(request())

    past = formatdate(time.time() - 3600, usegmt=True)
    for value in (past, "soon", "-5", "nan", "inf", ""):
        assert asyncio.run(scenario(value, max_retry_after=0.01)).text == "42"
    ahead = formatdate(time.time() + 3600, usegmt=True)
    with pytest.raises(RetriesExhausted, match=r"left alone for 3[56]\d\d s.*max_retry_after=120"):
        asyncio.run(scenario(ahead))


def test_a_server_that_wants_to_be_left_alone_is_while_another_works():
    async def scenario():
        async def limited(call, number):
            await call.answer({"error": "later"}, 429, Retry_After="3600")

        async with serving(limited) as one, serving(right) as other:
            client = backend([one.url, other.url])
            for index in range(5):
                assert (await client.agenerate(request(index))).text == "42"
            assert len(one.calls) == 1 and len(other.calls) == 5

    asyncio.run(scenario())


# --- many at once ---------------------------------------------------------------------------------


def test_each_server_gets_at_most_its_share_and_all_of_them_work():
    async def scenario():
        async def handler(call, number):
            await asyncio.sleep(0.002 * (number % 3))
            await call.answer(answer(call.body["messages"][0]["content"]))

        async with serving(handler) as a, serving(handler) as b, serving(handler) as c:
            client = backend([a.url, b.url, c.url], concurrency=4)
            wanted = [request(i, str(i)) for i in range(60)]
            completions = await asyncio.gather(*map(client.agenerate, wanted))
            assert [x.text for x in completions] == [str(i) for i in range(60)]
            assert [s.most_inside for s in (a, b, c)] == [4, 4, 4]
            assert sum(len(s.calls) for s in (a, b, c)) == 60

    asyncio.run(scenario())


def test_a_request_goes_where_the_fewest_are_in_flight():
    async def scenario():
        release = asyncio.Event()

        async def slow(call, number):
            await release.wait()
            await call.answer(answer("slow"))

        async with serving(slow) as one, serving(right) as other:
            client = backend([one.url, other.url])
            stuck = [asyncio.create_task(client.agenerate(request(0)))]
            while not one.calls:
                await asyncio.sleep(0)
            for index in range(1, 30):
                assert (await client.agenerate(request(index))).text == "42"
            assert len(one.calls) == 1 and len(other.calls) == 29
            release.set()
            assert (await stuck[0]).text == "slow"

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_cancelling_closes_the_connection_and_frees_the_place(stream):
    async def scenario():
        left = []

        async def handler(call, number):
            if number == 2:
                await (stream_answer(call) if stream else call.answer(answer()))
                return
            if stream:
                await call.begin_stream()
                await call.event({"choices": [{"delta": {"content": "4"}}]})
            await call.until_the_client_leaves()
            left.append(number)
            call.writer.close()

        async def stream_answer(call):
            await call.begin_stream()
            await call.event({"choices": [{"delta": {"content": "42"}, "finish_reason": "stop"}]})
            call.writer.close()

        async with serving(handler) as server:
            client = backend(server.url, concurrency=2, stream=stream)
            tasks = [asyncio.create_task(client.agenerate(request(i))) for i in range(4)]
            while len(server.calls) < 2:
                await asyncio.sleep(0.001)
            assert len(server.calls) == 2  # the other two wait for a place
            for task in (tasks[0], tasks[1], tasks[3]):
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(x, asyncio.CancelledError) for x in done] == [
                True,
                True,
                False,
                True,
            ]
            assert done[2].text == "42" and done[2].latency_s > 0
            while server.inside:
                await asyncio.sleep(0.001)
            assert sorted(left) == [0, 1] and len(server.calls) == 3

    asyncio.run(scenario())


def test_one_backend_serves_one_event_loop_after_another_and_leaves_no_connection():
    async def scenario(client):
        async with serving(right) as server:
            client.base_urls = (server.url,)
            completions = await asyncio.gather(*(client.agenerate(request(i)) for i in range(3)))
            await client.agenerate(request(9))
            assert 1 <= server.connections <= 3  # kept alive between requests
            return [c.text for c in completions]

    client = backend("http://127.0.0.1:1/v1")
    for _ in range(3):
        assert asyncio.run(scenario(client)) == ["42"] * 3
        assert len(client._sessions) == 0

    async def closed_by_hand():
        async with serving(right) as server:
            client = backend(server.url)
            await client.agenerate(request())
            await client.aclose()
            await client.aclose()
            while server.connections:
                await asyncio.sleep(0.001)
            assert (await client.agenerate(request())).text == "42"

    asyncio.run(closed_by_hand())


# --- streaming ------------------------------------------------------------------------------------


def test_a_streamed_chat_is_put_together():
    async def handler(call, number):
        await call.begin_stream()
        await call.event({"choices": [{"delta": {"role": "assistant"}}]})
        for piece, logprob in (("4", -0.5), ("", None), ("2", -0.25)):
            logprobs = {"content": [{"logprob": logprob}]} if logprob else None
            choice = {"delta": {"content": piece}, "logprobs": logprobs, "token_ids": [1]}
            await call.event({"choices": [choice]})
        call.writer.write(b": a comment\n\nevent: x\n\n")
        await call.event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        await call.event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
        await call.event("[DONE]")
        call.writer.close()

    completion, (call,) = ask(handler, request(params=Sampling(logprobs=True)), stream=True)
    assert call.body["stream"] is True and call.body["stream_options"] == {"include_usage": True}
    assert (completion.text, completion.finish_reason) == ("42", "length")
    assert completion.logprob_sum == -0.75 and completion.token_ids == (1, 1, 1)
    assert (completion.n_prompt_tokens, completion.n_tokens) == (5, 2)


def test_streamed_tool_calls_and_plain_completions():
    pieces = [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "add", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x": '}},
        {"index": 1, "id": "b", "function": {"name": "stop", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]

    async def handler(call, number):
        await call.begin_stream()
        if call.path.endswith("/chat/completions"):
            for piece in pieces:
                await call.event({"choices": [{"delta": {"tool_calls": [piece]}}]})
            await call.event({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
        else:
            await call.event({"choices": [{"text": "a "}]})
            await call.event({"choices": [{"text": "b", "finish_reason": "stop"}]})
        call.writer.close()

    completion, _ = ask(handler, stream=True)
    assert [c["function"] for c in completion.tool_calls] == [
        {"name": "add", "arguments": '{"x": 1}'},
        {"name": "stop", "arguments": "{}"},
    ]
    assert [c["id"] for c in completion.tool_calls] == ["a", "b"]
    assert completion.finish_reason == "tool_calls"
    completion, _ = ask(handler, stream=True, chat=False)
    assert (completion.text, completion.finish_reason) == ("a b", "stop")


@pytest.mark.parametrize(
    "broken",
    ['{"error": {"message": "out of memory"}}', "{not json", '{"choices": [17]}', "[DONE]", "7"],
)
def test_a_broken_stream_is_tried_again(broken):
    async def handler(call, number):
        await call.begin_stream()
        await call.event({"choices": [{"delta": {"content": "4"}}]})
        if number == 0:
            await call.event(broken)
        else:
            await call.event({"choices": [{"delta": {"content": "2"}, "finish_reason": "stop"}]})
        call.writer.close()

    completion, calls = ask(handler, stream=True)
    assert completion.text == "42" and len(calls) == 2


def test_a_refused_stream_is_permanent():
    error, calls = ask(lambda c, n: c.answer({"error": {"message": "no"}}, 400), stream=True)
    assert isinstance(error, PermanentError) and "no" in str(error) and len(calls) == 1


# --- the key, and the door ------------------------------------------------------------------------


def test_the_key_shows_itself_nowhere(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)

    async def handler(call, number):
        assert call.headers["authorization"] == f"bearer {KEY}"
        await call.answer(f"who is {KEY}?".encode(), 500 if number % 2 else 200)

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    error, calls = ask(handler, max_retries=3)
    assert len(calls) == 4 and isinstance(error, RetriesExhausted)
    client = backend("http://127.0.0.1:1/v1")
    shown = [repr(client), str(vars(client)), caplog.text, str(error), repr(error)]
    assert "who is ***?" in shown[3] and caplog.text
    assert not [text for text in shown if KEY in text]
    monkeypatch.setenv("OTHER_KEY", "another")
    _, (call,) = ask(right, api_key_env="OTHER_KEY")
    assert call.headers["authorization"] == "bearer another"
    _, (call,) = ask(right, api_key="")
    assert "authorization" not in call.headers
    for bad in (KEY + "\n", "with blank", "schlüssel"):
        with pytest.raises(ValueError, match="API key holds") as caught:
            backend("http://127.0.0.1:1/v1", api_key=bad)
        assert bad not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ([], "at least one server"),
        ("127.0.0.1:8000/v1", "must look like"),
        ("ftp://127.0.0.1/v1", "must look like"),
        ("http:///v1", "must look like"),
        (["http://a/v1", "https://user:secret@b/v1"], "user name or password"),
    ],
)
def test_wrong_addresses_are_refused_without_their_passwords(url, match):
    with pytest.raises(ValueError, match=match) as caught:
        backend(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", 0),
        ("max_retries", -1),
        ("seed_bits", 0),
        ("seed_bits", 64),
        ("backoff", 0),
        ("timeout", -1.0),
        ("timeout", math.nan),
        ("connect_timeout", 0.0),
        ("max_retry_after", 0),
        ("max_backoff", 0),
    ],
)
def test_wrong_options_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option} must be .*{value}"):
        backend("http://127.0.0.1:1/v1", **{option: value})


def test_it_is_a_backend():
    client = backend(["http://127.0.0.1:1/v1/", "http://127.0.0.1:2/v1"], headers={"X-Team": "a"})
    assert isinstance(client, AsyncGenerator) and not hasattr(client, "generate")
    assert client.base_urls == ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")
    assert repr(client) == f"OpenAIBackend({client.base_urls!r}, 'model-x')"


def test_further_headers_and_client_options_reach_the_server():
    _, (call,) = ask(right, headers={"X-Team": "a"}, api_key=KEY)
    assert call.headers["x-team"] == "a" and "authorization" in call.headers
    _, (call,) = ask(right, client_options={"trust_env": False, "params": {"v": "2"}})
    assert call.path == "/v1/chat/completions?v=2"


def test_without_httpx_the_error_says_what_to_install():
    code = "import sys; sys.modules['httpx'] = None; import modicum.testtime.integrations.openai"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "modicum-testtime[openai]"' in result.stderr.splitlines()[-1]


# --- a strategy on the small server ---------------------------------------------------------------


def test_cancelled_requests_do_not_vote_and_leave_the_server():
    """Samples 0 … 2 agree and decide the vote of five; the server never answers the other two."""
    handled = []

    async def handler(call, number):
        index = seeds.index(call.body["seed"])
        if index < 3:
            await call.answer(answer("right"))
        else:
            await call.until_the_client_leaves()
            call.writer.close()
            handled.append(index)

    async def scenario():
        async with serving(handler) as server:
            strategy = SelfConsistency(backend(server.url), stop=Curtailed(5), wave=5)
            (result,) = await strategy.arun([("p", "?")], seed=0)
            while server.inside or server.connections:
                await asyncio.sleep(0.001)
            return result

    seeds = [sample_seed(0, "p", index) for index in range(5)]
    result = asyncio.run(scenario())
    assert (result.answer, result.votes, result.reason) == ("right", {"right": 3}, "decided")
    assert [s.sample_index for s in result.samples] == [0, 1, 2]
    assert (result.usage.submitted, result.usage.used, result.usage.cancelled) == (5, 3, 2)
    assert sorted(handled) == [3, 4]


def test_a_refused_request_ends_the_run_with_the_servers_words():
    async def scenario(**options):
        async with serving(
            lambda c, n: c.answer({"error": {"message": "no such model"}}, 404)
        ) as s:
            strategy = SelfConsistency(backend(s.url), max_samples=3, **options)
            return await strategy.arun(["?"])

    with pytest.raises(PermanentError, match="no such model"):
        asyncio.run(scenario())
    (result,) = asyncio.run(scenario(on_error="null"))
    assert result.answer is None and result.reason == "no_parseable_answer"


# --- vLLM's own server ----------------------------------------------------------------------------

PROMPT = "The committee met in the morning and"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '\n' }}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt else '' }}"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of vLLM's server with the shipped tiny model, in a process group of its own."""
    from modicum.core.watermark.adapters.tiny_lm import tiny_path

    folder = tmp_path_factory.mktemp("server")
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model",
        str(tiny_path("target")), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port",
        str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024",
        "--max-num-seqs", "32", "--generation-config", "vllm", "--chat-template", str(template),
        "--api-key", KEY,
    ]  # fmt: skip
    with (
        open(folder / "log", "w+") as log,
        subprocess.Popen(
            command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            yield wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(address, process, log):
    """Wait until a server answers; three processes load vLLM one after another."""
    with httpx.Client(trust_env=False) as client:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"{address}/health").status_code == 200:
                    return address
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def gauge(address, name):
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    return sum(float(v) for v in re.findall(rf"^vllm:{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


@pytest.mark.vllm
@pytest.mark.slow
class TestOnVLLM:
    """Round trips; starting the server takes one to five minutes."""

    def client(self, served, **options):
        return OpenAIBackend(
            f"{served}/v1", "tiny", api_key=KEY, client_options={"trust_env": False}, **options
        )

    def complete(self, client, wanted):
        async def scenario():
            try:
                return await asyncio.gather(*map(client.agenerate, wanted))
            finally:
                await client.aclose()

        return asyncio.run(scenario())

    def test_seeds_are_honoured_and_streams_say_the_same(self, served):
        params = Sampling(max_tokens=12, logprobs=True, extra={"return_token_ids": True})
        wanted = [request(i, PROMPT, params) for i in range(24)]
        plain = self.complete(self.client(served, chat=False), wanted)
        again = self.complete(self.client(served, chat=False, concurrency=3), wanted[::-1])[::-1]
        streamed = self.complete(self.client(served, chat=False, stream=True), wanted)
        for other in (again, streamed):
            assert [c.token_ids for c in other] == [c.token_ids for c in plain]
            assert [c.text for c in other] == [c.text for c in plain]
            assert [c.logprob_sum for c in other] == pytest.approx([c.logprob_sum for c in plain])
            assert {(c.n_prompt_tokens, c.n_tokens) for c in other} == {(13, 12)}
        assert len({c.token_ids for c in plain}) > 12
        assert all(-60 < c.logprob_sum < 0 for c in plain)
        assert {c.finish_reason for c in plain} <= {"length", "stop"}

    def test_chats_stop_strings_and_refusals(self, served):
        params = Sampling(max_tokens=60, stop=(".",), top_k=20, min_p=0.01)
        chat = [{"role": "user", "content": PROMPT}]
        as_chat, as_text = self.complete(
            self.client(served), [request(0, chat, params), request(0, PROMPT, params)]
        )
        assert as_chat.text == as_text.text and "." not in as_chat.text
        (same,) = self.complete(
            self.client(served, chat=False),
            [request(0, f"<user>{PROMPT}\n<assistant>", params)],
        )
        assert same.text == as_chat.text and same.n_prompt_tokens == as_chat.n_prompt_tokens
        with pytest.raises(PermanentError, match="maximum context length") as caught:
            self.complete(self.client(served), [request(0, "word " * 1200)])
        assert caught.value.status == 400 and KEY not in str(caught.value)
        stranger = OpenAIBackend(
            f"{served}/v1", "tiny", api_key="wrong", client_options={"trust_env": False}
        )
        with pytest.raises(PermanentError, match="Unauthorized"):
            self.complete(stranger, [request()])
        with pytest.raises(PermanentError, match="absent"):
            absent = self.client(served)
            absent.model = "absent"
            self.complete(absent, [request()])

    @pytest.mark.parametrize("stream", [False, True])
    def test_no_vote_from_cancelled_requests_and_the_server_is_rid_of_them(self, served, stream):
        """Five samples of three short answers that agree and two that would run on and on."""
        client = self.client(served, chat=False, stream=stream)
        long = Sampling(max_tokens=900, extra={"ignore_eos": True})

        class ShortAndLong:
            aclose = client.aclose

            async def agenerate(self, wanted):
                params = short if wanted.sample_index < 3 else long
                return await client.agenerate(replace(wanted, params=params))

        short = Sampling(max_tokens=12, extra={"stop_token_ids": list(range(2048))})
        before = gauge(served, "generation_tokens_total")
        strategy = SelfConsistency(
            ShortAndLong(), extract=lambda text: "same", stop=Curtailed(5), wave=5
        )
        (result,) = strategy.run([("p", PROMPT)])
        assert (result.votes, result.usage.cancelled) == ({"same": 3}, 2)
        assert [s.sample_index for s in result.samples] == [0, 1, 2]
        for _ in range(600):
            if not gauge(served, "num_requests_running"):
                break
            time.sleep(0.05)
        assert gauge(served, "num_requests_running") == gauge(served, "num_requests_waiting") == 0
        # The server had begun with the long ones, and never got anywhere near their ends.
        drawn = gauge(served, "generation_tokens_total") - before
        assert sum(s.n_tokens for s in result.samples) < drawn < 900

    def test_decisions_are_those_of_a_replay_of_the_log(self, served, tmp_path):
        params = Sampling(temperature=0.7, max_tokens=30, stop=(".", ",", "\n"))
        prompts = [PROMPT, "She was tired because", "They wanted to", "The old"]
        log = tmp_path / "log.jsonl"
        options = {"extract": lambda text: text.split()[0], "stop": Curtailed(16)}
        client = self.client(served, chat=False)
        results = SelfConsistency(client, wave=16, **options).run(prompts, params, log=log)
        again = SelfConsistency(client, inflight=3, **options).run(prompts, params)
        replayed = SelfConsistency(replay(log), wave="boundary", **options).run(prompts, params)
        for other in (again, replayed):
            assert [(r.answer, r.votes, r.reason) for r in other] == [
                (r.answer, r.votes, r.reason) for r in results
            ]
        assert any(r.reason == "decided" for r in results)


def test_runs_that_share_a_server_do_not_close_its_connections_on_each_other():
    async def handler(request):
        slow = "slow" in json.loads(request.content)["messages"][0]["content"]
        for _ in range(50 if slow else 1):
            await asyncio.sleep(0)
        choices = [{"message": {"content": "7"}, "finish_reason": "stop"}]
        return httpx.Response(200, json={"choices": choices})

    backend = OpenAIBackend(
        "http://server/v1", "m", client_options={"transport": httpx.MockTransport(handler)}
    )

    async def main():
        strategy = SelfConsistency(backend, stop=FixedN(4), wave=2)
        both = await asyncio.gather(strategy.arun(["fast"]), strategy.arun(["slow"]))
        assert not backend._sessions  # the last one closes them
        return both

    assert [results.answers for results in asyncio.run(main())] == [["7"], ["7"]]
