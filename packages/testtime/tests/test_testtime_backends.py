"""Backends: functions, coroutine functions, recorded samples, and doors that load nothing early."""

import asyncio
import json
import random
import subprocess
import sys
import threading

import pytest

from modicum.testtime import backends
from modicum.testtime.samples import (
    AsyncGenerator,
    Completion,
    Generator,
    Request,
    Sample,
    Sampling,
)
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.table import SampleTable


def request(index=0, prompt_id="q", prompt="hello"):
    return Request(prompt_id, index, prompt, Sampling(max_tokens=7), 100 + index)


def texts(backend, *requests):
    return [completion.text for _, completion in backend.generate(requests)]


# Functions ---------------------------------------------------------------------------------------


def test_functions_get_what_they_take_by_name():
    def plain(prompt):
        return prompt

    def seeded(text, seed):
        return f"{text} {seed}"

    def keyword(text, *, params):
        return f"{text} {params.max_tokens}"

    def everything(prompt, **given):
        return " ".join(sorted(given))

    def own_default(prompt, temperature=0.5):
        return f"{prompt} {temperature}"

    for function, expected in [
        (plain, "hello"),
        (seeded, "hello 100"),
        (keyword, "hello 7"),
        (everything, "params request seed"),
        (own_default, "hello 0.5"),
        (lambda prompt, request: str(request.sample_index), "0"),
        (str.upper, "HELLO"),
    ]:
        backend = backends.callable(function)
        assert isinstance(backend, Generator)
        assert texts(backend, request()) == [expected]


def test_functions_may_return_completions():
    completion = Completion("x", "length", n_tokens=3)
    ((_, got),) = backends.callable(lambda prompt: completion).generate([request()])
    assert got is completion
    with pytest.raises(TypeError, match=r"must return a text or a Completion, not \['x'\]"):
        texts(backends.callable(lambda prompt: ["x"]), request())


def test_functions_are_checked():
    async def coroutine(prompt):
        return prompt

    with pytest.raises(TypeError, match="use async_callable"):
        backends.callable(coroutine)
    with pytest.raises(TypeError, match="not a function: 'gpt'"):
        backends.callable("gpt")
    with pytest.raises(TypeError, match="not a function"):
        backends.async_callable(None)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        backends.callable(str, threads=0)


def test_threads_work_at_once_and_change_nothing():
    barrier = threading.Barrier(4, timeout=20)

    def meet(prompt, seed):
        barrier.wait()  # passes only if four calls are under way
        return str(seed)

    requests = [request(i) for i in range(8)]
    assert texts(backends.callable(meet, threads=4), *requests) == [str(100 + i) for i in range(8)]
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        texts(backends.callable(lambda prompt: 1 / 0, threads=2), *requests)
    assert threading.active_count() == before


def test_coroutine_functions_are_awaited_and_cancelled():
    cancelled = []

    async def complete(prompt, seed):
        try:
            await asyncio.sleep(60 if seed % 2 else 0)
        except asyncio.CancelledError:
            cancelled.append(seed)
            raise
        return prompt

    backend = backends.async_callable(complete)
    assert isinstance(backend, AsyncGenerator)

    async def main():
        got = await backend.agenerate(request(0))
        slow = asyncio.create_task(backend.agenerate(request(1)))
        await asyncio.sleep(0)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return got

    assert asyncio.run(main()).text == "hello"
    assert cancelled == [101]


def test_a_strategy_does_not_wait_for_what_it_does_not_need():
    """Two of three votes decide; the third request would take an hour."""

    async def complete(prompt, request):
        if request.sample_index == 2:
            await asyncio.sleep(3600)
        return "a"

    strategy = SelfConsistency(backends.async_callable(complete), stop=Curtailed(3))
    result = strategy.run(["q"])[0]
    assert (result.answer, result.usage.used, result.usage.cancelled) == ("a", 2, 1)


# Recorded samples --------------------------------------------------------------------------------


def recorded(count=6):
    return [
        Sample(p, i, i, f"{p}{i}", key="k", n_tokens=2 + i, logprob_sum=-1.0 * i, used=i < 3)
        for p in "qr"
        for i in reversed(range(count))
    ]


def test_recorded_samples_come_in_their_order(tmp_path):
    SampleTable.from_samples(recorded()).to_jsonl(tmp_path / "samples.jsonl")
    for source in (
        recorded(),
        SampleTable.from_samples(recorded()),
        tmp_path / "samples.jsonl",
        str(tmp_path / "samples.jsonl"),
    ):
        backend = backends.replay(source)
        assert texts(backend, request(0), request(5), request(1, "r")) == ["q0", "q5", "r1"]
    ((_, completion),) = backends.replay(recorded()).generate([request(3)])
    assert (completion.n_tokens, completion.logprob_sum) == (5, -3.0)


def test_beyond_the_recorded_samples():
    backend = backends.replay(recorded(2))
    with pytest.raises(
        LookupError, match="sample 2 of prompt 'q' is asked for, and 2 are recorded"
    ):
        texts(backend, request(2))
    with pytest.raises(LookupError, match="and 0 are recorded"):
        texts(backend, request(0, "other"))
    lenient = backends.replay(recorded(2), missing="null")
    result = SelfConsistency(lenient, stop=FixedN(4)).run([("q", "?")])[0]
    assert [sample.key for sample in result.samples] == ["q0", "q1", None, None]
    with pytest.raises(ValueError, match="missing must be"):
        backends.replay([], missing="skip")


def test_a_shuffled_replay_is_a_permutation_of_each_prompt():
    requests = [request(i, p) for p in "qr" for i in range(6)]
    plain = texts(backends.replay(recorded()), *requests)
    shuffled = texts(backends.replay(recorded(), shuffle=3), *requests)
    assert shuffled != plain
    assert sorted(shuffled[:6]) == plain[:6] and sorted(shuffled[6:]) == plain[6:]
    assert shuffled == texts(backends.replay(recorded(), shuffle=3), *requests)
    assert shuffled != texts(backends.replay(recorded(), shuffle=4), *requests)
    assert [t[1] for t in shuffled[:6]] != [t[1] for t in shuffled[6:]]


def test_a_replayed_run_gives_the_same_decisions(tmp_path):
    def draw(prompt, seed):
        return random.Random(seed).choice("aaabbc")

    prompts = ["p", "q", "r"]
    live = SelfConsistency(backends.callable(draw), stop=FixedN(20))
    first = live.run(prompts, log=tmp_path / "log.jsonl")
    again = SelfConsistency(backends.replay(tmp_path / "log.jsonl"), stop=Curtailed(20))
    assert again.run(prompts, seed=99).answers == first.answers
    assert again.run(prompts).usage.used < 60


# Doors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("door", "module", "name"),
    [
        ("vllm", "vllm", "VLLMBackend"),
        ("transformers", "transformers", "TransformersBackend"),
        ("openai", "openai", "OpenAIBackend"),
    ],
)
def test_doors_hand_everything_on(door, module, name, monkeypatch):
    import types

    made = types.ModuleType(f"modicum.testtime.integrations.{module}")
    setattr(made, name, lambda *args, **options: (args, options))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    assert getattr(backends, door)("model", 3, batch=2) == (("model", 3), {"batch": 2})


def test_engines_are_loaded_when_asked_for():
    code = (
        "import sys\n"
        "from modicum.testtime import backends, best_of_n, self_consistency, allocator, table\n"
        "heavy = {'torch', 'vllm', 'transformers', 'httpx', 'openai', 'matplotlib', 'datasets',"
        " 'rich', 'scipy.stats', 'sympy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_recorded_samples_of_numbered_prompts_are_replayed(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"prompt_id": 0, "sample_index": 0, "text": "7"}) + "\n")
    assert SelfConsistency(backends.replay(path), stop=FixedN(1)).run(["q"]).answers == ["7"]
