"""What strategies share: prompts, results, logs, budgets, progress, and runs of every kind."""

import asyncio
import functools
import io
import json
import math
import random
import sys
import types

import numpy as np
import pytest

from modicum.testtime import backends
from modicum.testtime.best_of_n import BestOfN, ConstantRewards
from modicum.testtime.extract import last_number
from modicum.testtime.log import SampleLog, read_samples
from modicum.testtime.progress import ProgressBar
from modicum.testtime.prompts import distinct_prompts, named_prompts
from modicum.testtime.results import Results, result_to_dict
from modicum.testtime.samples import (
    Budget,
    Completion,
    Event,
    Result,
    Sample,
    Sampling,
    Usage,
    sample_seed,
)
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.self_correction import Expert, SelfCorrection
from modicum.testtime.stopping.certificate import ModeCertificate
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.strategy import RunSettings, SamplingTask, Strategy, describe
from modicum.testtime.verifiers import (
    PRM,
    CallableVerifier,
    ExactAnswer,
    LLMJudge,
    Noisy,
    Thresholded,
)


def draw(prompt, seed):
    return random.Random(seed).choice("aaabbc")


async def adraw(prompt, seed):
    await asyncio.sleep(0)
    return draw(prompt, seed)


def strategy(**options):
    options.setdefault("max_samples", 8)
    return SelfConsistency(backends.callable(draw), **options)


CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


# Prompts -----------------------------------------------------------------------------------------


def test_prompts_come_in_many_forms():
    given = [
        "text",
        CHAT,
        ("id", "pair"),
        (7, CHAT),
        {"id": 3, "prompt": "mapping"},
        {"prompt": CHAT},
        ["name", "a pair as a list"],
        tuple(CHAT),
    ]
    assert list(named_prompts(given)) == [
        ("0", "text"),
        ("1", CHAT),
        ("id", "pair"),
        ("7", CHAT),
        ("3", "mapping"),
        ("5", CHAT),
        ("name", "a pair as a list"),
        ("7", tuple(CHAT)),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("What is 2 + 2?", "must be a list of prompts, not one"),
        ({"prompt": "x"}, "must be a list of prompts, not one"),
        (b"bytes", "must be a list of prompts, not one"),
        (CHAT, "messages of one chat"),
        ([{"text": "x"}], 'needs the field "prompt"'),
        ([3], "a prompt is a text or a non-empty list"),
        ([[]], "a prompt is a text or a non-empty list"),
        ([None], "a prompt is a text"),
        ([("id", 3)], "a prompt is a text"),
        ([["three", "plain", "strings"]], "a prompt is a text"),
        ([{"prompt": {"role": "user"}}], "a prompt is a text"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        list(named_prompts(given))
    with pytest.raises(TypeError, match=message):
        strategy().run(given)


def test_ids_must_differ():
    with pytest.raises(ValueError, match="two prompts have the id '1'"):
        distinct_prompts(named_prompts(["zero", "one", (1, "again")]))
    with pytest.raises(ValueError, match="two prompts have the id 'x'"):
        strategy().run([("x", "p"), ("x", "q")])
    with pytest.raises(ValueError, match="two tasks have the prompt_id 'x'"):
        list(strategy().iter_events([("x", "p"), ("x", "q")]))


def test_no_prompts_give_no_results():
    results = strategy().run([])
    assert list(results) == [] and not results.truncated
    assert len(results.table()) == 0


# Results -----------------------------------------------------------------------------------------


def test_results_are_in_the_order_of_the_prompts():
    prompts = [(f"p{i}", "text") for i in reversed(range(20))]
    server = SelfConsistency(backends.async_callable(adraw), max_samples=8, inflight=3)
    results = server.run(prompts)
    assert [result.prompt_id for result in results] == [name for name, _ in prompts]
    assert results.answers == [result.answer for result in results]
    total = Usage()
    for result in results:
        total.add(result.usage)
    assert results.usage.submitted == total.submitted
    assert results.usage.cap == 160


def test_results_as_json_lines(tmp_path):
    results = strategy().run(["p", "q"])
    results.to_jsonl(tmp_path / "out" / "results.jsonl")
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps(results.to_dicts()))
    plain = json.loads(lines[0])
    assert plain["answer"] == results[0].answer
    assert plain["votes"] == [[key, votes] for key, votes in results[0].votes.items()]
    assert plain["confidence"] is None and math.isnan(results[0].confidence)
    assert len(plain["samples"]) == len(results[0].samples)
    assert plain["usage"]["cap"] == 8
    assert "samples" not in result_to_dict(results[0], samples=False)


def test_results_with_keys_that_are_no_strings():
    result = Result(
        "q", ("f", 1), "", True, 0.97, "anytime", "certified", {("f", 1): 2.0, 3: 1.0}, [], Usage()
    )
    plain = json.loads(json.dumps(result_to_dict(result)))
    assert plain["answer"] == {"$tuple": ["f", 1]}
    assert plain["votes"] == [[{"$tuple": ["f", 1]}, 2.0], [3, 1.0]]


def test_results_as_a_dataset(monkeypatch):
    made = types.ModuleType("datasets")
    made.Dataset = types.SimpleNamespace(from_list=lambda rows: rows)
    monkeypatch.setitem(sys.modules, "datasets", made)
    results = strategy().run(["p", "q"])
    rows = results.to_dataset()
    assert [row["prompt_id"] for row in rows] == ["0", "1"]
    assert json.loads(rows[0]["answer"]) == results[0].answer
    assert rows[1]["sample_texts"] == [sample.text for sample in results[1].samples]
    assert rows[0]["usage_submitted"] == results[0].usage.submitted
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "modicum-testtime\[datasets\]"'):
        results.to_dataset()


@pytest.mark.slow  # importing datasets takes seconds
def test_a_real_dataset():
    datasets = pytest.importorskip("datasets")
    results = strategy().run(["p", "q", "r"])
    dataset = results.to_dataset()
    assert isinstance(dataset, datasets.Dataset)
    assert dataset["reason"] == [result.reason for result in results]


def test_results_are_a_list():
    assert Results().usage == Usage()
    results = Results(strategy().run(["p"]), truncated=True)
    assert results.truncated and len(results) == 1


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["run", "arun", "iter_events", "aiter_events"])
@pytest.mark.parametrize("kind", ["callable", "async_callable"])
def test_every_door_gives_the_same(function, kind, tmp_path):
    backend = getattr(backends, kind)(draw if kind == "callable" else adraw)
    own = SelfConsistency(backend, max_samples=8)
    prompts = ["p", "q", "r"]
    expected = strategy().run(prompts, seed=4)
    options = {"seed": 4, "log": tmp_path / "log.jsonl"}

    async def gather():
        return [event async for event in own.aiter_events(prompts, **options)]

    if function == "run":
        found = list(own.run(prompts, **options))
    elif function == "arun":
        found = list(asyncio.run(own.arun(prompts, **options)))
    else:
        events = (
            list(own.iter_events(prompts, **options))
            if function == "iter_events"
            else asyncio.run(gather())
        )
        found = sorted((e.result for e in events if e.result), key=lambda r: int(r.prompt_id))
    assert [(r.answer, r.votes, r.usage.used) for r in found] == [
        (r.answer, r.votes, r.usage.used) for r in expected
    ]
    # The file is closed and whole, and another run takes everything from it.
    asked = []
    replayed = SelfConsistency(backends.callable(lambda p: asked.append(p) or "x"), max_samples=8)
    assert replayed.run(prompts, **options).answers == [r.answer for r in expected]
    assert asked == []


def test_prompts_of_a_stream_are_taken_one_by_one():
    taken = 0

    def stream():
        nonlocal taken
        while True:
            taken += 1
            yield f"prompt {taken}"

    own = SelfConsistency(backends.callable(draw), max_samples=4, prompts_in_flight=2)
    events = own.iter_events(stream())
    done = 0
    for event in events:
        done += event.kind == "done"
        if done == 10:
            break
    events.close()
    assert taken <= 12


def test_seeds_decide_everything():
    prompts = [str(i) for i in range(30)]
    first, again, other = (strategy().run(prompts, seed=s) for s in (0, 0, 1))
    texts = lambda results: [[s.text for s in r.samples] for r in results]  # noqa: E731
    assert texts(first) == texts(again) != texts(other)
    # A prompt's samples depend on its id, not on its place.
    moved = strategy().run([("5", "x"), ("0", "y")])
    assert texts(moved) == [texts(first)[5], texts(first)[0]]


# Logs --------------------------------------------------------------------------------------------


def test_a_log_says_whose_it_is(tmp_path):
    path = tmp_path / "log.jsonl"
    strategy().run(["p"], Sampling(temperature=0.7), seed=2, log=path)
    header = json.loads(path.read_text().splitlines()[0])
    assert header["strategy"] == "SelfConsistency"
    assert header["rule"] == "Curtailed(8)"
    assert header["seed"] == 2
    assert header["params"]["temperature"] == 0.7
    assert len(header["params_hash"]) == 16
    assert header == {"format": 1, **strategy().log_header(Sampling(temperature=0.7), 2)}


def test_a_log_of_other_settings_is_refused_by_name(tmp_path):
    path = tmp_path / "log.jsonl"
    strategy().run(["p"], log=path)
    for changed, options, field in [
        (strategy(), {"seed": 1}, "seed"),
        (strategy(), {"params": Sampling(temperature=0.5)}, "params"),
        (strategy(max_samples=9), {}, "max_samples"),
        (strategy(stop=FixedN(8)), {}, "rule"),
        (strategy(tie="random"), {}, "tie"),
        (strategy(extract=str.upper), {}, "extract"),
        (strategy(verifier=judge), {}, "verifier"),
        (BestOfN(backends.callable(draw), judge, n=8), {}, "accept"),
    ]:
        with pytest.raises(ValueError, match=f"belongs to another run: its {field}"):
            changed.run(["p"], log=path, **options)
    with pytest.raises(ValueError, match="was drawn with prompt"):
        strategy().run(["another prompt"], log=path)


def judge(prompt, responses):
    return [float(response == "a") for response in responses]


def test_a_run_may_go_on_by_another_rule_if_that_is_meant(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = strategy(stop=FixedN(8)).run(["p", "q"], log=path)
    asked = []

    def noting(prompt, request):
        asked.append(request.sample_index)
        return draw(prompt, request.seed)

    longer = SelfConsistency(backends.callable(noting), stop=FixedN(12))
    log = SampleLog(path, longer.log_header(), may_differ=["rule", "max_samples"])
    with log:
        more = longer.run(["p", "q"], log=log)
        assert not log.closed
    assert sorted(asked) == [8, 8, 9, 9, 10, 10, 11, 11]
    for before, after in zip(whole, more, strict=True):
        assert [s.text for s in after.samples[:8]] == [s.text for s in before.samples]


def test_settings_have_stable_words():
    class Plain:
        def __init__(self):
            self.size, self.name_, self._hidden, self.other = 3, "x", 1, object()

    class Named:
        name = "boxed"

    assert describe(Plain()).endswith("Plain(name_='x', size=3)")
    assert describe(Named()) == "boxed"
    assert describe(judge).endswith("judge")
    assert describe(FixedN(3)) == "FixedN(3)"
    assert describe({"a": (1, judge)})["a"][0] == 1
    assert describe(None) is None
    for rule in (ModeCertificate(0.05), Curtailed(4)):
        assert describe(rule) == describe(rule.fresh())
        assert " at 0x" not in describe(rule)


# Budgets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["callable", "async_callable"])
def test_prompts_that_the_budget_did_not_reach_have_a_result(kind):
    backend = getattr(backends, kind)(draw if kind == "callable" else adraw)
    own = SelfConsistency(backend, stop=FixedN(8), prompts_in_flight=2, wave=4)
    results = own.run([str(i) for i in range(6)], budget=Budget(samples=20))
    assert results.truncated
    assert results.usage.submitted == 20
    assert len(results) == 6
    assert [result.truncated for result in results] == [False, False, True, True, True, True][:6]
    for result in results[3:]:
        assert (result.answer, result.reason, result.samples) == (None, "budget", [])
    # A partial result votes on what there is.
    assert results[2].usage.used == 4 and results[2].answer is not None
    assert not results[2].certified
    # strict is about answers that cannot be read, not about budgets
    assert own.run(["p", "q"], budget=Budget(samples=1), strict=True).truncated


# Progress ----------------------------------------------------------------------------------------


def test_a_progress_bar_is_silent_where_nobody_watches(capfd):
    strategy().run(["p", "q"], progress=True)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_a_progress_bar_counts():
    from rich.console import Console

    stream = io.StringIO()
    bar = ProgressBar(2, Console(file=stream, force_terminal=True, width=120))
    bar.start()
    for event in strategy(max_samples=9).iter_events(["p", "q"]):
        bar.take(event)
    bar.take(Event("sample", "q", Sample("q", 9, 0, "late", n_tokens=40, used=False)))
    bar.stop()
    results = strategy(max_samples=9).run(["p", "q"])
    assert bar.done == 2
    assert bar.used == results.usage.used
    assert bar.saved == sum(result.usage.saved for result in results)
    assert bar.certified == 2
    assert bar.tokens == 40
    shown = stream.getvalue()
    assert "2/2" in shown and f"{bar.used} samples used" in shown and "100% certified" in shown


def test_a_bar_of_an_interrupted_run_is_taken_down():
    def failing(prompt, request):
        if request.prompt_id == "1":
            raise OSError("gone")
        return "a"

    own = SelfConsistency(backends.callable(failing), max_samples=2, prompts_in_flight=1)
    with pytest.raises(OSError, match="gone"):
        own.run(["p", "q"], progress=True)


# Strategies of one's own -------------------------------------------------------------------------


class Longest(Strategy):
    """Takes the longest of three; carries the record of a run from prompt to prompt."""

    def _task(self, prompt_id, prompt, settings):
        return _LongestTask(prompt_id, prompt, settings, cap=3)

    def _tasks(self, prompts, settings):
        settings.state["order"] = []
        for task in super()._tasks(prompts, settings):
            settings.state["order"].append(task.prompt_id)
            yield task

    def _settings(self):
        return super()._settings() | {"longest": 3}

    def _ended(self, settings):
        self.seen = settings.state["order"]


class _LongestTask(SamplingTask):
    def choose(self):
        return max(self.candidates.values(), key=lambda candidate: len(candidate.best.text))


def test_a_strategy_of_ones_own(tmp_path):
    texts = ["xx", "xxx", "x"]
    backend = backends.callable(lambda prompt, request: texts[request.sample_index])
    own = Longest(backend, prompts_in_flight=1)
    results = own.run(["p", "q"], log=tmp_path / "log.jsonl")
    assert results.answers == ["xxx", "xxx"]
    assert own.seen == ["0", "1"]
    assert own.log_header()["longest"] == 3
    assert results[0].guarantee == "exact" and not results[0].certified
    settings = RunSettings(Sampling())
    assert settings.state == {} and settings.state is not RunSettings(Sampling()).state


def test_engine_settings_are_checked_at_the_door():
    with pytest.raises(ValueError, match="inflight"):
        strategy(inflight=0)
    with pytest.raises(TypeError, match="neither generate"):
        SelfConsistency("gpt-5", max_samples=3)


def test_truncation_reasons_reach_the_result():
    backend = backends.callable(lambda prompt: Completion("7", "length", n_tokens=512))
    result = SelfConsistency(backend, max_samples=3).run(["q"])[0]
    assert result.reason == "no_parseable_answer"
    assert [sample.finish_reason for sample in result.samples] == ["length"] * 3


def seven(prompt):
    return "7"


def vote(function=seven, **options):
    return SelfConsistency(backends.callable(function), **({"stop": FixedN(4)} | options))


@pytest.mark.parametrize("wave", [1, 2, 3, "geometric"])
def test_one_failed_call_does_not_take_the_rest_of_its_wave_along(wave):
    def function(prompt, request):
        if (request.prompt_id, request.sample_index) == ("1", 0):
            raise OSError("lost")
        return "7"

    results = vote(function, on_error="null", wave=wave).run(["a", "b", "c"])
    failed = [
        (sample.prompt_id, sample.sample_index)
        for result in results
        for sample in result.samples
        if sample.finish_reason == "error"
    ]
    assert failed == [("1", 0)]
    assert results.answers == ["7", "7", "7"]


@pytest.mark.parametrize("logprob", [-math.inf, math.nan])
def test_logprob_that_is_not_finite_does_not_break_the_log(tmp_path, logprob):
    def function(prompt):
        return Completion("7", logprob_sum=logprob, n_tokens=1)

    path = tmp_path / "log.jsonl"
    assert vote(function).run(["a"], log=path).answers == ["7"]
    _, samples = read_samples(path)
    assert len(samples) == 4
    np.testing.assert_equal([sample.logprob_sum for sample in samples], [logprob] * 4)
    (again,) = vote(lambda prompt: pytest.fail("is in the log")).run(["a"], log=path)
    np.testing.assert_equal(again.samples[0].logprob_sum, logprob)


def test_header_of_a_log_takes_numpy_seeds_and_objects(tmp_path):
    class Grammar:
        pass

    params = Sampling(extra={"grammar": Grammar()})
    for _ in range(2):
        assert vote().run(["a"], params, seed=np.int64(3), log=tmp_path / "l").answers == ["7"]


def test_ids_of_numpy_and_without_a_value():
    assert [r.prompt_id for r in vote().run([(np.int64(4), "x")])] == ["4"]
    unnamed = [{"id": None, "prompt": "x"}, {"id": None, "prompt": "y"}]
    assert [r.prompt_id for r in vote().run(unnamed)] == ["0", "1"]


def test_seed_of_a_prompt_id_with_half_a_surrogate_pair():
    assert sample_seed(0, "\ud800", 0) != sample_seed(0, "\ud801", 0)


def test_description_does_not_hold_addresses():
    def function(a, b):
        return a

    described = describe(functools.partial(function, 1, b=seven))
    assert "0x" not in described
    assert described.endswith(f"function(1, b={__name__}.seven)")

    class Holder:
        def __repr__(self):
            return f"Holder({object()!r})"

    assert describe(Holder()) == "Holder(<object object>)"


def first_letter(prompt, texts):
    return [float(text.startswith("7")) for text in texts]


def other_function(prompt, text):
    return 0.0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ExactAnswer(None, {"q": "7"}), ExactAnswer(None, {"q": "8"})),
        (ExactAnswer(None, {"q": "7"}), ExactAnswer(str.strip, {"q": "7"})),
        (
            Thresholded(ExactAnswer(None, {"q": "7"}), 0.5),
            Thresholded(ExactAnswer(None, {"q": "8"}), 0.5),
        ),
        (CallableVerifier(lambda prompt, text: 1.0), CallableVerifier(other_function)),
        (PRM(first_letter), PRM(other_function)),
        (
            Noisy(ExactAnswer(None, {"q": "7"}), 1, 0),
            Noisy(ExactAnswer(None, {"q": "8"}), 1, 0),
        ),
    ],
)
def test_rewards_of_a_log_are_not_taken_for_those_of_another_verifier(tmp_path, before, after):
    path = tmp_path / "log.jsonl"

    def strategy(verifier):
        return BestOfN(backends.callable(seven), verifier, n=2)

    with pytest.warns(ConstantRewards):
        strategy(before).run(["q"], log=path)
    with pytest.warns(ConstantRewards):
        strategy(before).run(["q"], log=path)
    with pytest.raises(ValueError, match="verifier"):
        strategy(after).run(["q"], log=path)


def test_a_judge_that_has_judged_is_still_the_same_verifier(tmp_path):
    judge = LLMJudge(backends.callable(lambda prompt: "Verdict: correct"))
    for _ in range(2):
        with pytest.warns(ConstantRewards):
            BestOfN(backends.callable(seven), judge, n=2).run(["q"], log=tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vote().run(["q"], {"temperature": 1}), "params must be a Sampling"),
        (lambda: vote(stop="beta"), "stop must be a rule, not 'beta'; parse_rule"),
        (lambda: vote(stop=FixedN), r"stop must be a rule, not the class: FixedN\(…\)"),
        (lambda: vote(stop=None, max_samples=4.5), "max_samples must be an integer, not 4.5"),
        (lambda: vote(extract=last_number).run(["q"]), r"call it: last_number\(\)"),
        (lambda: vote(verifier=1.0), "1.0 cannot be called"),
        (
            lambda: BestOfN(backends.callable(seven), seven),
            r"verifier\(prompt, \[text, …\]\), .*seven: too many positional",
        ),
        (
            lambda: BestOfN(backends.callable(seven), lambda p, t: 1.0, n=1).run(["q"]),
            "must return a list with a reward for each response, not 1.0",
        ),
        (lambda: BestOfN(backends.callable(seven), first_letter, n=2.5), "n must be an integer"),
        (
            lambda: SelfCorrection(
                Expert("a", backends.callable(seven)), first_letter, controller="ucb1"
            ),
            "controller must be a controller such as UCB1",
        ),
    ],
)
def test_first_mistakes_say_what_would_be_right(call, message):
    with pytest.raises(TypeError, match=message):
        call()
