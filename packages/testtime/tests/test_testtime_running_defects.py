import asyncio
import functools
import json
import math
from fractions import Fraction

import httpx
import numpy as np
import pytest

from modicum.testtime import backends
from modicum.testtime.cli.inputs import PromptFile, json_lines
from modicum.testtime.cli.running import _summary
from modicum.testtime.equality import PairwiseKeys, numeric
from modicum.testtime.extract import choice, identity, last_number
from modicum.testtime.log import SampleLog, read_samples
from modicum.testtime.samples import Completion, Sampling, sample_seed
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.strategy import describe


def seven(prompt):
    return "7"


def vote(function=seven, n=4, **options):
    return SelfConsistency(backends.callable(function), stop=FixedN(n), **options)


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


def test_two_runs_cannot_write_one_log(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "log.jsonl"
    with (
        SampleLog(path),
        pytest.raises(BlockingIOError, match="open in another run"),
    ):
        SampleLog(path)
    SampleLog(path).close()


def test_recorded_samples_of_numbered_prompts_are_replayed(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"prompt_id": 0, "sample_index": 0, "text": "7"}) + "\n")
    assert SelfConsistency(backends.replay(path), stop=FixedN(1)).run(["q"]).answers == ["7"]


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


@pytest.mark.parametrize("text", ["9" * 500 + ".5", "9" * 400 + " 1/2", "-" + "9" * 310 + ".25"])
def test_numbers_beyond_the_doubles_are_no_answer(text):
    assert last_number()(text) is None
    assert last_number()(f"so 3 or {text}") == 3
    assert numeric()(text) is None


@pytest.mark.parametrize("filler", [" ", "\n", "*", "("])
def test_choice_takes_a_text_that_ran_away(filler):
    # With n * n steps this would not end in the time that a test run has.
    assert choice()("the answer" + filler * 200_000) is None


def test_line_separators_inside_json(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a\u2028b\x85c"}, {"prompt": "d"}]
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert [row for _, row in json_lines(path)] == rows


def test_accuracy_of_a_run_goes_by_the_equality_of_answers():
    equal = PairwiseKeys(lambda a, b: Fraction(a) == Fraction(b))
    results = vote(lambda prompt: "1/2", equal=equal).run([("x", "half"), ("y", "none")])
    file = PromptFile({"x": "half", "y": "none"}, {"x": "0.5", "y": "0"})
    assert _summary(results, file, identity(), equal)["accuracy"] == 0.5


def test_runs_that_share_a_server_do_not_close_its_connections_on_each_other():
    openai = pytest.importorskip("modicum.testtime.integrations.openai")

    async def handler(request):
        slow = "slow" in json.loads(request.content)["messages"][0]["content"]
        for _ in range(50 if slow else 1):
            await asyncio.sleep(0)
        choices = [{"message": {"content": "7"}, "finish_reason": "stop"}]
        return httpx.Response(200, json={"choices": choices})

    backend = openai.OpenAIBackend(
        "http://server/v1", "m", client_options={"transport": httpx.MockTransport(handler)}
    )

    async def main():
        strategy = SelfConsistency(backend, stop=FixedN(4), wave=2)
        both = await asyncio.gather(strategy.arun(["fast"]), strategy.arun(["slow"]))
        assert not backend._sessions  # the last one closes them
        return both

    assert [results.answers for results in asyncio.run(main())] == [["7"], ["7"]]
