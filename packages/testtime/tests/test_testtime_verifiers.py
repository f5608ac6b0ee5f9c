"""Verifiers: references, noise, steps, judges, and what rewards must look like."""

import asyncio
import math
import operator
import pickle
import re
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from modicum.testtime import equality, extract
from modicum.testtime.samples import Completion, Sampling, sample_seed
from modicum.testtime.verifiers import (
    PRM,
    CallableVerifier,
    ExactAnswer,
    LLMJudge,
    Noisy,
    Rescaled,
    Thresholded,
    Verifier,
    check_rewards,
    parse_verdict,
    reward_model,
    score_pairs,
)

CHAT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2 + 2"}]


def length(prompt, response):
    return len(response)


def test_callable_verifier():
    verifier = CallableVerifier(length)
    assert isinstance(verifier, Verifier)
    assert verifier("q", ["a", "abc"]) == [1.0, 3.0] and verifier("q", []) == []
    assert verifier.score_many([("q", "ab"), (CHAT, "")]) == [2.0, 0.0]
    assert not verifier.returns_text
    (accepted,) = CallableVerifier(lambda prompt, response: prompt == response)("a", ["a"])
    assert accepted == 1.0 and type(accepted) is float
    with pytest.raises(TypeError, match="function of prompt and response"):
        CallableVerifier(0.5)


def test_feedback_must_be_announced():
    def with_text(prompt, response):
        return response == "4", f"you said {response}"

    told = CallableVerifier(with_text, returns_text=True)
    assert told.returns_text and told("q", ["5", "4"]) == [(0.0, "you said 5"), (1.0, "you said 4")]
    with pytest.raises(TypeError, match="returns_text=True"):
        CallableVerifier(with_text)("q", ["5"])
    with pytest.raises(TypeError, match=r"\(reward, text\)"):
        CallableVerifier(length, returns_text=True)("q", ["5"])
    # What is built on it drops the text.
    for verifier in (Thresholded(told, 0.5), Rescaled(told, (0, 1)), Noisy(told, 1, 0)):
        assert not verifier.returns_text and verifier("q", ["4", "5"]) == [1.0, 0.0]


def test_score_pairs():
    calls = []

    def plain(prompt, responses):
        calls.append((prompt, list(responses)))
        return [len(response) for response in responses]

    pairs = [("a", "1"), ("a", "22"), (CHAT, "333"), (CHAT, "4"), ("a", "55")]
    assert score_pairs(plain, pairs) == [1, 2, 3, 1, 2]
    assert calls == [("a", ["1", "22"]), (CHAT, ["333", "4"]), ("a", ["55"])]
    assert score_pairs(CallableVerifier(length), pairs) == [1, 2, 3, 1, 2]
    assert score_pairs(plain, []) == []
    with pytest.raises(ValueError, match="gave 1 rewards for 2 responses"):
        score_pairs(lambda prompt, responses: [0.0], pairs)


def test_check_rewards():
    assert check_rewards([1, True, 0.5]) == [1.0, 1.0, 0.5]
    assert check_rewards([]) == []
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"sample p7/1 is {bad!r}"):
            check_rewards([0.5, bad], ["p7/0", "p7/1"])
        assert check_rewards([0.5, bad], nan="reject") == [0.5, None]
    with pytest.raises(ValueError, match="sample 1 is nan"):
        check_rewards([0.5, math.nan])
    with pytest.raises(TypeError, match="sample 0 must be a number, not 'x'"):
        check_rewards(["x"])
    with pytest.raises(TypeError, match="sample 0"):
        check_rewards([None], nan="reject")
    with pytest.raises(ValueError, match="2 ids for 1 rewards"):
        check_rewards([1], ["a", "b"])
    with pytest.raises(ValueError, match="nan must be"):
        check_rewards([1], nan="drop")


def test_exact_answer():
    verifier = ExactAnswer(extract.last_number(), {"2 + 2": "#### 4", "10 * 100": 1000})
    assert verifier("2 + 2", ["it is 4.", "5", "no idea", "$4.00"]) == [1.0, 0.0, 0.0, 1.0]
    assert verifier.score_many([("10 * 100", "1,000"), ("2 + 2", "1,000")]) == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"no reference answer for prompt '3 \+ 3' among 2"):
        verifier("3 + 3", ["6"])
    whole = ExactAnswer(None, {"q": "yes"}, equal=equality.casefold)
    assert whole("q", [" YES ", "no", ""]) == [1.0, 0.0, 0.0]


def test_references_of_chats_and_by_function():
    verifier = ExactAnswer(extract.last_number(), [(CHAT, 4), ("2 + 2", 5)])
    same = tuple(dict(reversed(message.items())) for message in CHAT)
    assert verifier(same, ["4", "5"]) == [1.0, 0.0] and verifier("2 + 2", ["4", "5"]) == [0.0, 1.0]
    computed = ExactAnswer(extract.last_number(), lambda prompt: len(prompt))
    assert computed("abc", ["3", "4"]) == [1.0, 0.0]
    assert pickle.loads(pickle.dumps(verifier))("2 + 2", ["5"]) == [1.0]


def test_exact_answer_asks_with_the_reference_first():
    asked = []

    def equal(a, b):
        asked.append((a, b))
        return abs(float(a) - float(b)) < 0.1

    verifier = ExactAnswer(extract.boxed(), {"q": "3.14"}, equal=equal)
    assert verifier("q", [r"\boxed{3.1}", r"\boxed{3.3}", "none"]) == [1.0, 0.0, 0.0]
    assert asked[0] == ("3.14", "3.1")
    # An equality that holds one way only is none.
    one_way = ExactAnswer(None, {"q": "b"}, equal=operator.ge)
    assert one_way("q", ["a", "b"]) == [0.0, 1.0]
    # What one response was grouped with does not matter to the next.
    near = ExactAnswer(extract.last_number(), {"q": 5}, equal=equality.numeric(0, 1, link="single"))
    assert near("q", ["4", "3", "6", "7"]) == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("reference", [None, " ", math.nan])
def test_a_reference_must_be_an_answer(reference):
    with pytest.raises(ValueError, match="is no answer"):
        ExactAnswer(None, {"q": reference})
    with pytest.raises(ValueError, match="is no answer"):
        ExactAnswer(None, lambda prompt: reference)("q", ["a"])
    with pytest.raises(ValueError, match="at least one reference"):
        ExactAnswer(None, {})


def test_thresholded_and_rescaled():
    base = CallableVerifier(length)
    assert Thresholded(base, 2)("q", ["a", "aa", "aaa"]) == [0.0, 1.0, 1.0]
    scaled = Rescaled(base, (1, 5))
    assert scaled("q", ["a", "aa", "aaaaa"]) == [0.0, 0.25, 1.0]
    for response in ("", "aaaaaa"):
        with pytest.raises(ValueError, match=rf"is {len(response)}.0, outside of reward_range"):
            scaled("q", ["a", response])
    for bad in ((1, 1), (2, 1), (0, math.inf)):
        with pytest.raises(ValueError, match="low < high"):
            Rescaled(base, bad)
    with pytest.raises(ValueError, match="threshold"):
        Thresholded(base, math.nan)
    with pytest.raises(ValueError, match="finite"):
        Thresholded(CallableVerifier(lambda p, r: math.nan), 0)("q", ["a"])


TRUTH = CallableVerifier(lambda prompt, response: response.startswith("right"))


def within(count, trials, rate, error=1e-8):
    """Whether a binomial count is between the quantiles beyond which lies `error` in all."""
    return binom.ppf(error / 2, trials, rate) <= count <= binom.isf(error / 2, trials, rate)


@pytest.mark.parametrize(("s", "f"), [(0.9, 0.1), (0.5, 0.5), (0.7, 0.02)])
@pytest.mark.parametrize("seed", [0, 12345678901])
def test_noise_has_its_rates(s, f, seed):
    trials = 4000
    noisy = Noisy(TRUTH, s, f, seed)
    right = noisy("q", [f"right {i}" for i in range(trials)])
    wrong = noisy("q", [f"wrong {i}" for i in range(trials)])
    assert set(right) | set(wrong) == {0.0, 1.0}
    # Each of these 24 checks fails with probability 1e-8 for a random seed, and never for this one.
    assert within(sum(right), trials, s) and within(sum(wrong), trials, f)
    # Errors on the same responses to another prompt, or with another seed, are others.
    responses = [f"right {i}" for i in range(trials)]
    for other in (noisy("r", responses), Noisy(TRUTH, s, f, seed + 1)("q", responses)):
        assert within(sum(map(operator.mul, right, other)), trials, s * s)


def test_noise_is_a_function_of_seed_prompt_and_response():
    responses = [f"right {i % 40}" for i in range(200)]
    noisy = Noisy(TRUTH, 0.5, 0.5, 7)
    verdicts = noisy("q", responses)
    assert verdicts[:40] * 5 == verdicts and 0 < sum(verdicts[:40]) < 40
    again = Noisy(TRUTH, 0.5, 0.5, 7)
    assert again("q", responses[::-1]) == verdicts[::-1]
    assert again.score_many([(CHAT, "right"), ("q", "right 3")])[1] == verdicts[3]
    assert Noisy(TRUTH, 0.5, 0.5, 8)("q", responses) != verdicts


def test_independent_noise():
    trials = 4000
    noisy = Noisy(TRUTH, 0.8, 0.3, 1, independent=True)
    verdicts = noisy("q", ["right"] * trials)
    assert within(sum(verdicts), trials, 0.8)
    # No memory: pairs of neighbours are as if drawn apart.
    both = sum(map(operator.mul, verdicts[::2], verdicts[1::2]))
    assert within(both, trials // 2, 0.64)
    # Other texts in between change nothing, and a new verifier starts over.
    mixed = Noisy(TRUTH, 0.8, 0.3, 1, independent=True)
    mixed("q", ["wrong", "other"])
    assert mixed("q", ["right"] * 50) == verdicts[:50]
    assert noisy("q", ["right"] * 50) != verdicts[:50]


def test_noise_without_noise():
    assert Noisy(TRUTH, 1, 0)("q", ["right", "wrong"]) == [1.0, 0.0]
    assert Noisy(TRUTH, 0, 1)("q", ["right", "wrong"]) == [0.0, 1.0]
    for rates in ((1.1, 0), (0.5, -0.1), (math.nan, 0)):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            Noisy(TRUTH, *rates)


def step_scores(prompt, steps):
    return [int(step[-1]) / 10 for step in steps]


@pytest.mark.parametrize(
    ("agg", "reward"), [("last", 0.8), ("min", 0.4), ("prod", 0.16), ("mean", 1.7 / 3)]
)
def test_prm(agg, reward):
    prm = PRM(step_scores, agg)
    assert prm("q", ["a 5\n\nb 4\n\n\n\n c 8 \n\n", "x 3"]) == pytest.approx([reward, 0.3])


def test_prm_steps():
    seen = []

    def score(prompt, steps):
        seen.append((prompt, steps))
        return [0.5] * len(steps)

    assert PRM(score)("q", ["a\nb\n\nc", " ", ""]) == [0.5] * 3
    assert seen == [("q", ["a\nb", "c"]), ("q", [""]), ("q", [""])]
    assert PRM(score, split="\n").steps("a\nb\n\nc") == ["a", "b", "c"]
    numbered = PRM(score, split=lambda text: re.split(r"(?=Step \d)", text))
    assert numbered.steps("Step 1: a\nStep 2: b") == ["Step 1: a", "Step 2: b"]
    assert PRM(step_scores).step_scores("q", "a 1\n\nb 2") == [0.1, 0.2]
    with pytest.raises(ValueError, match="gave 1 rewards for 2"):
        PRM(lambda prompt, steps: [1])("q", ["a\n\nb"])
    with pytest.raises(ValueError, match="finite"):
        PRM(lambda prompt, steps: [math.nan])("q", ["a"])
    with pytest.raises(ValueError, match="agg must be one of last, min, prod, mean"):
        PRM(score, "max")
    with pytest.raises(ValueError, match="split"):
        PRM(score, split="")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scores=st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_prm_aggregates_by_definition(scores):
    response = "\n\n".join("abcdef"[: len(scores)])
    expected = {
        "last": scores[-1],
        "min": sorted(scores)[0],
        "prod": math.exp(sum(map(math.log, scores))),
        "mean": fmean(scores),
    }
    for agg, value in expected.items():
        assert PRM(lambda prompt, steps: scores, agg)("q", [response]) == pytest.approx([value])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Looks fine.\nVerdict: correct", True),
        ("Verdict: incorrect", False),
        ("**Verdict:** Correct.", True),
        ("verdict is: WRONG", False),
        ("Verdict: not correct", False),
        ("Verdict: correct. No wait.\nVerdict: incorrect", False),
        ("<think>Verdict: correct</think>Verdict: no", False),
        ("The steps are right.\n\nYes.", True),
        ("False", False),
        ("The answer is correct because 2 + 2 = 4", None),
        ("Verdict: unclear", None),
        ("Verdict: correctness matters", None),
        ("<think>Verdict: correct", None),
        ("", None),
    ],
)
def test_parse_verdict(text, verdict):
    assert parse_verdict(text) is verdict


class Judge:
    """Backend that answers with a function of question and seed, last request first."""

    def __init__(self, reply):
        self.reply = reply
        self.requests = []

    def generate(self, requests):
        self.requests += requests
        for request in reversed(requests):
            yield request, self.completion(request)

    def completion(self, request):
        reply = self.reply(request.prompt, request.sample_index)
        return reply if isinstance(reply, Completion) else Completion(reply)


def says(question, vote):
    return "Verdict: correct" if "four" in question[-1]["content"] else "Verdict: incorrect"


def test_judge():
    gen = Judge(says)
    judge = LLMJudge(gen)
    assert judge("2 + 2", ["four", "five", "four"]) == [1.0, 0.0, 1.0]
    # Equal responses are judged once.
    assert [request.sample_index for request in gen.requests] == [0, 0]
    assert judge.n_votes == 2 and judge.n_unreadable == 0
    request = gen.requests[0]
    assert request.params.temperature == 0
    (message,) = request.prompt
    assert message["role"] == "user" and "Question:\n2 + 2\n" in message["content"]
    assert judge("2 + 2", []) == []


def test_judge_questions():
    gen = Judge(lambda question, vote: "yes")
    template = r"\boxed{x} {prompt}|{response} {other}"
    judge = LLMJudge(gen, template, chat=False)
    assert judge.score_many([("{response}", "{prompt} {0}"), (CHAT, "4")]) == [1.0, 1.0]
    assert [request.prompt for request in gen.requests] == [
        r"\boxed{x} {response}|{prompt} {0} {other}",
        "\\boxed{x} system: Add.\n\nuser: 2 + 2|4 {other}",
    ]


@pytest.mark.parametrize(
    ("replies", "reward", "unreadable"),
    [
        (["yes", "no", "yes"], 1.0, 0),
        (["no", "no", "yes"], 0.0, 0),
        (["yes", "?", "?"], 1.0, 2),
        (["yes", "no", "?"], 0.0, 1),
        (["?", "?", "?"], 0.0, 3),
        (["yes", Completion("yes", "length"), "no"], 0.0, 1),
    ],
)
def test_majority_of_votes(replies, reward, unreadable):
    gen = Judge(lambda question, vote: replies[vote])
    judge = LLMJudge(gen, votes=3, seed=5)
    assert judge("q", ["a"]) == [reward]
    assert (judge.n_votes, judge.n_unreadable) == (3, unreadable)
    name = gen.requests[0].prompt_id
    assert [request.seed for request in gen.requests] == [sample_seed(5, name, i) for i in range(3)]
    assert {request.params.temperature for request in gen.requests} == {0.7}
    other = LLMJudge(gen, votes=3, seed=5)
    other("q", ["b", "a"])
    assert gen.requests[6:] == gen.requests[:3]


def test_judge_with_other_verdicts():
    gen = Judge(lambda question, vote: "score 7")
    judge = LLMJudge(gen, parse=lambda text: int(text.split()[-1]) >= 7)
    assert judge("q", ["a"]) == [1.0]


def test_judge_refuses():
    gen = Judge(says)
    with pytest.raises(ValueError, match=r"\{response\}"):
        LLMJudge(gen, "Is it right? {prompt}")
    with pytest.raises(ValueError, match="votes must be at least 1, not 0"):
        LLMJudge(gen, votes=0)
    with pytest.raises(ValueError, match="at temperature 0 all 3 votes are one"):
        LLMJudge(gen, votes=3, params=Sampling(temperature=0))
    with pytest.raises(TypeError, match="backend"):
        LLMJudge(says)
    failing = Judge(lambda question, vote: Completion("", "error", error="no more tokens"))
    with pytest.raises(RuntimeError, match="no more tokens"):
        LLMJudge(failing)("q", ["a"])
    silent = Judge(says)
    silent.generate = lambda requests: iter(())
    with pytest.raises(RuntimeError, match="0 completions for 1 votes"):
        LLMJudge(silent)("q", ["a"])


class Delayed:
    """Backend with ``agenerate`` only."""

    def __init__(self, reply):
        self.judge = Judge(reply)
        self.under_way = self.most = self.closed = 0

    async def agenerate(self, request):
        self.judge.requests.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        return self.judge.completion(request)

    async def aclose(self):
        self.closed += 1


def test_judge_over_an_async_backend():
    gen = Delayed(says)
    judge = LLMJudge(gen, votes=3, inflight=4)
    responses = ["four", "five", "four!", "six"]
    assert judge("2 + 2", responses) == [1.0, 0.0, 1.0, 0.0]
    assert gen.most == 4 and gen.closed == 1

    async def inside():
        # Called from a running loop, and awaited in it.
        assert judge("2 + 2", responses) == [1.0, 0.0, 1.0, 0.0]
        return await judge.ascore("2 + 2", responses)

    assert asyncio.run(inside()) == [1.0, 0.0, 1.0, 0.0]
    assert gen.closed == 2 and judge.n_votes == 36
    assert not hasattr(LLMJudge(Judge(says)), "ascore")


def test_the_door_to_reward_models_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("modicum.testtime.integrations.reward_model.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "modicum-testtime\[transformers\]"'):
        reward_model("some-model")
