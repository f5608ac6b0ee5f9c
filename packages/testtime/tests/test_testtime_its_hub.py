"""Our strategies inside its_hub, and its models under our strategies."""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from types import ModuleType

import pytest
from its_hub.api import (
    AbstractLanguageModel,
    AbstractScalingAlgorithm,
    AbstractScalingResult,
    ChatMessage,
    ChatMessages,
)
from its_hub.core.algorithms.self_consistency import SelfConsistency as TheirSelfConsistency

from modicum.testtime import adapters, backends
from modicum.testtime.best_of_n import BestOfN
from modicum.testtime.extract import last_number, tool_call
from modicum.testtime.integrations.its_hub import ITSHubAlgorithm, ITSHubBackend
from modicum.testtime.samples import AsyncGenerator, Request, Sampling
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping import Curtailed, FixedN, ModeCertificate

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


class Model(AbstractLanguageModel):
    """Answers from a list, one after another; remembers what it was asked."""

    def __init__(self, answers, delay=None):
        self.answers = list(answers)
        self.delay = delay
        self.asked = []

    async def agenerate(self, messages, stop=None, **kwargs):
        raise AssertionError("a model with agenerate_single is asked by it")

    async def agenerate_single(self, messages, stop=None, usage_accumulator=None, **kwargs):
        number = len(self.asked)
        self.asked.append({"messages": messages, "stop": stop} | kwargs)
        if self.delay:
            await asyncio.sleep(self.delay(number))
        if usage_accumulator is not None:
            usage_accumulator.add(7, 2)
        answer = self.answers[number % len(self.answers)]
        return answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}


class OldModel(AbstractLanguageModel):
    """One that has the abstract method only."""

    async def agenerate(self, messages, stop=None, **kwargs):
        assert isinstance(messages[0], ChatMessage)
        return {"role": "assistant", "content": f"{messages[-1].content} is 4"}


def call(name="add", **arguments):
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": str(random.random()), "type": "function",
             "function": {"name": name, "arguments": json.dumps(arguments)}}
        ],
    }  # fmt: skip


def unused(prompt):
    raise AssertionError("the strategy's own backend is replaced by the model of the call")


def numbers(**options):
    return SelfConsistency(backends.callable(unused), extract=last_number(), **options)


def test_it_is_an_algorithm_and_stops_early():
    algorithm = adapters.its_hub(numbers(max_samples=40, wave=1))
    assert isinstance(algorithm, AbstractScalingAlgorithm)
    model = Model(["It is 4.", "4", "so 5", "4"])
    result = algorithm.infer(model, "2 + 2?", 8, return_response_only=False)
    assert isinstance(result, AbstractScalingResult)
    # Of 8 votes the 4 has 5 after 6 draws; the rest cannot change that.
    assert len(model.asked) == 6 and result.result.reason == "decided"
    assert result.the_one == {"role": "assistant", "content": "It is 4."}
    assert result.response_counts == Counter({4: 5, 5: 1}) and result.selected_index == 0
    heard = [response["content"] for response in result.responses]
    assert heard == ["It is 4.", "4", "so 5", "4", "It is 4.", "4"]
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (42, 12)
    assert result.usage.num_calls == 6 and result.usage.total_tokens == 54
    assert algorithm.infer(Model(["4"]), "2 + 2?", 3) == {"role": "assistant", "content": "4"}


@pytest.mark.parametrize("seed", range(6))
def test_curtailed_agrees_with_their_vote_of_the_whole_budget(seed):
    """On streams without ties for the first place, which theirs breaks at random."""
    rng = random.Random(seed)
    while True:
        stream = rng.choices(["1", "2", "3"], weights=[5, 3, 2], k=15)
        first, second = Counter(stream).most_common(2)
        if first[1] > second[1]:
            break
    ours = adapters.its_hub(numbers(max_samples=50))
    theirs = TheirSelfConsistency()
    model = Model(stream)
    assert ours.infer(model, "?", 15)["content"] == theirs.infer(Model(stream), "?", 15)["content"]
    assert len(model.asked) <= 15


def test_completion_order_does_not_matter():
    """The wrong answer comes back first; the decision is that of the order of submission."""
    stream = ["right 1", "right 1", "wrong 2", "right 1", "wrong 2", "right 1", "right 1"]
    model = Model(stream, delay=lambda i: 0.0 if "wrong" in stream[i] else 0.02)
    result = adapters.its_hub(numbers(max_samples=7)).infer(model, "?", 7, False)
    assert result.result.answer == 1
    votes = [s.key for s in result.result.samples if s.used]
    assert votes == [1, 1, 2, 1, 2, 1][: len(votes)]


def test_the_budget_bounds_every_strategy():
    for strategy, least in (
        (numbers(stop=ModeCertificate(delta=0.05), max_samples=64), 5),
        (numbers(stop=FixedN(30)), 5),
        (lambda lm: BestOfN(lm, lambda prompt, texts: [len(t) for t in texts], n=9), 5),
    ):
        model = Model(["1", "22", "333"])
        result = adapters.its_hub(strategy).infer(model, "?", 5, return_response_only=False)
        assert len(model.asked) == len(result.responses) == least
        assert result.result.truncated
    assert result.the_one["content"] == "333"
    with pytest.raises(ValueError, match="budget must be at least 1 sample, not 0"):
        adapters.its_hub(numbers(max_samples=3)).infer(Model(["1"]), "?", 0)


def test_tool_calls_are_voted_on_and_come_back_whole():
    answers = [call(x=1, y=2, at="noon"), call("stop"), call(x=1, y=2, at="night")]
    model = Model(answers)
    strategy = SelfConsistency(
        backends.callable(unused), extract=tool_call(exclude_args=("at",)), stop=FixedN(3)
    )
    result = adapters.its_hub(strategy).infer(
        model, "?", 3, return_response_only=False, tools=TOOLS, tool_choice="auto"
    )
    assert result.the_one is answers[0]
    assert sorted(result.response_counts.values()) == [1, 2]
    assert all(a["tools"] == TOOLS and a["tool_choice"] == "auto" for a in model.asked)
    assert {s.finish_reason for s in result.result.samples} == {"tool_calls"}
    adapters.its_hub(strategy).infer(plain := Model(answers), "?", 3)
    assert "tools" not in plain.asked[0] and "tool_choice" not in plain.asked[0]


def test_conversations_arrive_as_they_are():
    conversation = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", [{"type": "text", "text": "2 + 2?"}]),
        ChatMessage("assistant", None, tool_calls=[{"id": "1"}]),
        ChatMessage("tool", "4", tool_call_id="1"),
    ]
    for prompt in (conversation, ChatMessages(conversation)):
        adapters.its_hub(numbers(max_samples=1)).infer(model := Model(["4"]), prompt, 1)
        assert model.asked[0]["messages"] == conversation
    adapters.its_hub(numbers(max_samples=1)).infer(model := Model(["4"]), "2 + 2?", 1)
    assert model.asked[0]["messages"] == [ChatMessage("user", "2 + 2?")]


def test_parameters_go_to_the_model_only_if_given():
    adapters.its_hub(numbers(max_samples=1)).infer(model := Model(["4"]), "?", 1)
    assert set(model.asked[0]) == {"messages", "stop"} and model.asked[0]["stop"] is None
    params = Sampling(0.3, max_tokens=9, stop=("\n",), extra={"response_format": {}})
    adapters.its_hub(numbers(max_samples=1), params=params).infer(model := Model(["4"]), "?", 1)
    asked = {k: v for k, v in model.asked[0].items() if k != "messages"}
    assert asked == {
        "stop": "\n", "temperature": 0.3, "max_completion_tokens": 9, "response_format": {}
    }  # fmt: skip


def test_without_an_answer_the_first_message_comes_back():
    result = adapters.its_hub(numbers(max_samples=4)).infer(
        Model(["dunno", "no idea"]), "?", 4, return_response_only=False
    )
    assert result.the_one["content"] == "dunno"
    assert result.result.answer is None and result.result.reason == "no_parseable_answer"


def test_the_strategy_itself_is_left_alone():
    strategy = numbers(stop=Curtailed(30), max_samples=30)
    backends, stop = strategy.backends, strategy.stop
    adapters.its_hub(strategy).infer(Model(["1"]), "?", 4)
    assert strategy.backends is backends and strategy.stop is stop and stop.n == 30
    assert strategy.max_samples == 30


def test_it_serves_behind_their_gateway(monkeypatch):
    # Their HTTP client, which the gateway loads and this test does not use, needs it.
    monkeypatch.setitem(sys.modules, "backoff", ModuleType("backoff"))
    from its_hub.api import ITSRequestConfig
    from its_hub.core.gateway import ITSGateway

    class Gateway(ITSGateway):
        async def _get_or_create_lm(self, **options):
            return model

    model = Model(["so 4", "5", "4"])
    gateway = Gateway(adapters.its_hub(numbers(max_samples=9)))
    config = ITSRequestConfig(budget=3, api_endpoint="http://127.0.0.1:1", model="m")
    answer = asyncio.run(
        gateway.arun_chat_completion(config, [{"role": "user", "content": "2 + 2?"}])
    )
    assert answer["message"]["content"] == "so 4"
    assert answer["usage"]["num_calls"] == 3 and answer["usage"]["total_tokens"] == 27
    whole = asyncio.run(
        gateway.arun_chat_completion(
            config, [{"role": "user", "content": "?"}], return_response_only=False
        )
    )
    assert whole["the_one"] == whole["responses"][whole["selected_index"]]


def test_their_models_are_our_backend():
    model = Model(["4", "so 4", "five 5"])
    backend = ITSHubBackend(model, tools=TOOLS)
    assert isinstance(backend, AsyncGenerator)
    prompts = [[{"role": "user", "content": "2 + 2?"}], "1 + 3?"]
    strategy = SelfConsistency(backend, extract=last_number(), stop=FixedN(3), inflight=1)
    results = strategy.run(prompts, Sampling(0.5, max_tokens=5, stop=("a", "b")))
    assert results.answers == [4, 4] and results.usage.completion_tokens == 12
    assert model.asked[0]["temperature"] == 0.5 and model.asked[0]["stop"] == ["a", "b"]
    assert model.asked[0]["tools"] == TOOLS
    assert {a["messages"][0].content for a in model.asked} == {"2 + 2?", "1 + 3?"}
    old = asyncio.run(ITSHubBackend(OldModel()).agenerate(Request("p", 0, "2 + 2", Sampling(), 0)))
    assert old.text == "2 + 2 is 4" and old.n_tokens == 0


def test_messages_of_other_forms():
    raw = {"content": "cut o", "_raw_choice": {"finish_reason": "length"}}
    parts = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    backend = ITSHubBackend(Model([raw, parts, {"role": "assistant"}]))

    async def three():
        return [await backend.agenerate(Request("p", i, "?", Sampling(), 0)) for i in range(3)]

    done = asyncio.run(three())
    assert [(c.text, c.finish_reason) for c in done] == [
        ("cut o", "length"), ("a b", "stop"), ("", "stop")
    ]  # fmt: skip


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="strategy must be"):
        ITSHubAlgorithm(17)
    with pytest.raises(TypeError, match="language model of its_hub, not str"):
        ITSHubBackend("gpt")


def test_without_its_hub_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['its_hub'] = None\n"
        "from modicum.testtime import adapters\nadapters.its_hub(None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "pip install its-hub" in result.stderr.splitlines()[-1]


def test_a_sample_that_failed_has_an_empty_message():
    class Failing(Model):
        async def agenerate_single(self, messages, stop=None, usage_accumulator=None, **kwargs):
            if not self.asked:
                self.asked.append({})
                raise OSError("gone")
            return await super().agenerate_single(
                messages, stop=stop, usage_accumulator=usage_accumulator, **kwargs
            )

    strategy = SelfConsistency(
        backends.callable(str), extract=last_number(), stop=FixedN(3), on_error="null"
    )
    found = asyncio.run(
        ITSHubAlgorithm(strategy).ainfer(
            Failing(["none"]), "q", budget=3, return_response_only=False
        )
    )
    assert [response["content"] for response in found.responses] == ["", "none", "none"]
    assert found.selected_index == 1
