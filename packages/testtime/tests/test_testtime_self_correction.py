"""Self-correction with scripted experts: closed forms, prompts word for word, resume, sessions."""

import asyncio
import itertools
import math
import warnings
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from modicum.testtime import backends
from modicum.testtime.bounds import regret_bound, round_robin_success
from modicum.testtime.controllers import (
    EXP3,
    UCB1,
    Controller,
    Eliminate,
    Hedge,
    RoundRobin,
    Thompson,
    Uniform,
)
from modicum.testtime.log import SampleLog
from modicum.testtime.samples import Budget, Completion, Sampling
from modicum.testtime.self_correction import CorrectionResult, Expert, SelfCorrection
from modicum.testtime.stopping import AcceptCount, FixedN, ModeCertificate, RewardGain
from modicum.testtime.templates import Attempt, ReviseTemplate, expert_prompt, revise_prompt
from modicum.testtime.verifiers import PRM, CallableVerifier, Rescaled, Thresholded

# A test that compares frequencies fails by chance with at most this probability.
CHANCE = 1e-7


class Scripted:
    def __init__(self, answer):
        self.answer = answer
        self.requests = []

    def complete(self, request):
        self.requests.append(request)
        given = self.answer(request)
        return given if isinstance(given, Completion) else Completion(given, n_tokens=2)


class Offline(Scripted):
    """Gives a wave back in reverse order."""

    def generate(self, requests):
        for request in reversed(requests):
            yield request, self.complete(request)


class Server(Scripted):
    """Gives completions back in an order that has nothing to do with that of the requests."""

    async def agenerate(self, request):
        for _ in range(request.seed % 7):
            await asyncio.sleep(0)
        return self.complete(request)


def coin(**rates):
    """An expert is right with a probability of its own; no two texts of a prompt are the same."""

    def answer(request):
        right = request.seed / 2**63 < rates[request.expert]
        return f"{'yes' if right else 'no'} {request.sample_index}"

    return answer


def constant(request):
    """Expert "k" answers k: deterministic."""
    return request.expert


def says_yes(prompt, texts):
    return [float(text.startswith("yes")) for text in texts]


def says_prompt(prompt, texts):
    return [float(text == prompt) for text in texts]


def first_word(text):
    return text.split()[0] if text else None


def experts(backend, names, **settings):
    return [Expert(name, backend, **settings) for name in names]


def path_of(result):
    return [(one.round, one.expert, one.reward) for one in result.history]


# Closed forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [4, 8])
@pytest.mark.parametrize("backend", [Offline, Server])
def test_round_robin_succeeds_as_often_as_the_closed_form(rounds, backend):
    rates = {"a": 0.1, "b": 0.35, "c": 0.05, "d": 0.2}
    correction = SelfCorrection(experts(backend(coin(**rates)), rates), says_yes, rounds=rounds)
    results = correction.run([f"question {i}" for i in range(900)], seed=4)
    expected = 1 - math.prod(1 - rate for rate in rates.values()) ** (rounds // 4)
    assert expected == pytest.approx(round_robin_success(list(rates.values()), rounds))
    low, high = stats.binom.ppf([CHANCE / 2, 1 - CHANCE / 2], 900, expected)
    assert low <= sum(result.certified for result in results) <= high
    for result in results:
        # An accepted answer is the last, every expert had its turn before any had a second.
        assert [one.accepted for one in result.history[:-1]] == [False] * (len(result.history) - 1)
        turns = Counter(one.expert for one in result.history[: 4 * (len(result.history) // 4)])
        assert len(set(turns.values())) <= 1
        assert result.reason == ("accepted" if result.certified else "rounds")


@pytest.mark.parametrize("num_experts", [1, 3, 8])
def test_deterministic_experts_take_k_plus_one_half_rounds_in_the_mean(num_experts):
    names = [f"expert {k}" for k in range(num_experts)]
    backend = Offline(constant)
    correction = SelfCorrection(
        experts(backend, names), says_prompt, controller=Eliminate(), rounds=num_experts
    )
    results = correction.run(names)
    assert [len(result.history) for result in results] == list(range(1, num_experts + 1))
    assert results.usage.submitted / num_experts == (num_experts + 1) / 2
    assert [result.answer for result in results] == names
    asked = [(request.prompt_id, request.expert) for request in backend.requests]
    assert len(asked) == len(set(asked))


def test_nothing_is_asked_twice_when_no_deterministic_expert_is_right():
    correction = SelfCorrection(
        experts(Offline(constant), "abc"), says_prompt, controller=Eliminate(), rounds=9
    )
    (result,) = correction.run(["z"])
    assert (result.reason, result.usage.submitted, result.certified) == ("exhausted", 3, False)
    assert result.answer == "a" and result.gap == 1.0
    (result,) = SelfCorrection(
        experts(Offline(constant), "abc"), says_prompt, controller=RoundRobin(), rounds=5
    ).run(["z"])
    assert (result.reason, result.usage.submitted) == ("rounds", 5)


# Prompts ----------------------------------------------------------------------------------------

CHAT = [{"role": "user", "content": "2+2?"}]


def shown(view, prompt, *, rounds=3, feedback=None, verifier=None, **settings):
    """Return the prompts of all rounds of one expert that is never right."""
    backend = Offline(lambda request: f"answer {request.sample_index}")
    correction = SelfCorrection(
        [Expert("solo", backend, **settings)],
        verifier or (lambda prompt, texts: [0.25 for _ in texts]),
        view=view,
        rounds=rounds,
        feedback=feedback,
    )
    correction.run([("id", prompt)])
    return [request.prompt for request in backend.requests]


INSTRUCTION = "Take the feedback into account and give a complete new answer to the task."


def test_view_none_shows_the_prompt_alone():
    assert shown("none", "2+2?") == ["2+2?"] * 3
    assert shown("none", CHAT) == [CHAT] * 3


def test_view_last_shows_the_attempt_before():
    assert shown("last", "2+2?") == [
        "2+2?",
        "2+2?\n\nAttempt 1:\nanswer 0\n\n"
        "Feedback on attempt 1: The verifier rejected it (reward 0.25).\n\n" + INSTRUCTION,
        "2+2?\n\nAttempt 2:\nanswer 1\n\n"
        "Feedback on attempt 2: The verifier rejected it (reward 0.25).\n\n" + INSTRUCTION,
    ]
    rejected = "Feedback on attempt {}: The verifier rejected it (reward 0.25).\n\n" + INSTRUCTION
    assert shown("last", CHAT)[2] == [
        *CHAT,
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": rejected.format(2)},
    ]


def test_view_all_shows_every_attempt_and_begins_as_the_round_before():
    texts = shown("all", "2+2?")
    assert texts[2] == (
        "2+2?\n\nAttempt 1:\nanswer 0\n\n"
        "Feedback on attempt 1: The verifier rejected it (reward 0.25).\n\n"
        "Attempt 2:\nanswer 1\n\n"
        "Feedback on attempt 2: The verifier rejected it (reward 0.25).\n\n" + INSTRUCTION
    )
    rejected = "Feedback on attempt {}: The verifier rejected it (reward 0.25).\n\n" + INSTRUCTION
    chats = shown("all", CHAT, rounds=4)
    assert chats[2] == [
        *CHAT,
        {"role": "assistant", "content": "answer 0"},
        {"role": "user", "content": rejected.format(1)},
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": rejected.format(2)},
    ]
    for before, after in itertools.pairwise(chats):
        assert after[: len(before)] == before


def test_view_feedback_only_keeps_the_answers_back():
    said = (
        "2+2?\n\nFeedback on attempt 1: The verifier rejected it (reward 0.25).\n\n"
        "Feedback on attempt 2: The verifier rejected it (reward 0.25).\n\n" + INSTRUCTION
    )
    assert shown("feedback_only", "2+2?")[2] == said
    assert shown("feedback_only", CHAT)[2] == [{"role": "user", "content": said}]
    parts = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    (message,) = shown("feedback_only", parts, rounds=2)[1]
    assert message["content"][0] == parts[0]["content"][0]
    assert message["content"][1]["text"].startswith("Feedback on attempt 1")


def test_experts_put_the_prompt_their_own_way_in_every_round():
    settings = {"template": "Think of {{braces}}: {prompt}", "system": "Be brief."}
    first, second = shown("all", "2+{2}?", rounds=2, **settings)
    start = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Think of {braces}: 2+{2}?"},
    ]
    assert first == start and second[:2] == start and len(second) == 4
    with_system = [{"role": "system", "content": "You add."}, *CHAT]
    assert shown("none", with_system, rounds=1, **settings) == [
        [
            {"role": "system", "content": "Be brief.\n\nYou add."},
            {"role": "user", "content": "Think of {braces}: 2+2?"},
        ]
    ]
    assert with_system[1]["content"] == "2+2?"  # the user's messages are not written to
    assert shown("none", "ab", rounds=1, template=lambda prompt: prompt[::-1]) == ["ba"]
    assert shown("none", CHAT, rounds=1, template=lambda prompt: prompt[0]["content"]) == ["2+2?"]


class Teacher:
    """A verifier with words."""

    returns_text = True

    def __call__(self, prompt, texts):
        return [(0.5, f"{text} is not {{4}}") for text in texts]


def test_feedback_of_the_verifier_is_shown_where_it_is_asked_for():
    prompts = shown("last", "2+2?", rounds=2, feedback="text", verifier=Teacher())
    assert "Feedback on attempt 1: answer 0 is not {4}\n\n" in prompts[1]


def test_text_of_a_verifier_is_refused_unless_asked_for():
    solo = Expert("solo", Offline(constant))
    with pytest.raises(ValueError, match=r"Teacher returns text, which may hold the reference"):
        SelfCorrection(solo, Teacher())
    with pytest.raises(ValueError, match=r'feedback="text" needs a verifier'):
        SelfCorrection(solo, says_yes, feedback="text")
    with pytest.raises(ValueError, match="'words'"):
        SelfCorrection(solo, says_yes, feedback="words")


def test_other_experts_attempts_are_shown_and_the_verifier_sees_the_question():
    seen = []

    def verifier(prompt, texts):
        seen.append(prompt)
        return [0.0 for _ in texts]

    backend = Offline(lambda request: f"{request.expert}{request.round}")
    names = experts(backend, "ab", template="<{prompt}>")
    SelfCorrection(names, verifier, view="all", rounds=4).run(["Q"])
    assert seen == ["Q"] * 4
    last = backend.requests[-1].prompt
    for request in backend.requests[:-1]:
        assert f"Attempt {request.round}:\n{request.expert}{request.round}\n\n" in last
    assert last.startswith("<Q>\n\n")


def test_revise_templates_say_it_in_other_words():
    words = ReviseTemplate(
        attempt="{expert} said {attempt!r}",
        feedback="[{round:02d}] {feedback}",
        rejected="{reward} is too little",
        accepted="good",
        unjudged="?",
        instruction="Again {{now}}.",
    )
    attempts = [
        Attempt(1, "x", "one", 0.1234567, False),
        Attempt(2, "y", "two", 1.0, True),
        Attempt(3, "z", "three", None, False),
    ]
    assert revise_prompt("Q", attempts, "all", words) == (
        "Q\n\nx said 'one'\n\n[01] 0.123 is too little\n\ny said 'two'\n\n[02] good\n\n"
        "z said 'three'\n\n[03] ?\n\nAgain {now}."
    )
    assert revise_prompt("Q", [], "all", words) == "Q"
    assert revise_prompt("Q", attempts, "none", words) == "Q"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReviseTemplate(attempt="{answer}"), r"\{answer\}.*\{attempt\}"),
        (lambda: ReviseTemplate(instruction="{prompt}"), "instruction"),
        (lambda: ReviseTemplate(feedback="{"), "cannot be filled in"),
        (lambda: ReviseTemplate(rejected="{reward:.2f}"), "cannot be filled in"),
        (lambda: ReviseTemplate(rejected="{}"), "cannot be filled in"),
        (lambda: Expert("a", None, template="Put it in \\boxed{}: {prompt}"), "written {{ or }}"),
        (lambda: Expert("a", None, template="Think."), r"does not say where \{prompt\} goes"),
        (lambda: Expert("", None), "needs a name"),
        (lambda: revise_prompt("Q", [], "first"), "'first'"),
        (lambda: expert_prompt([{"role": "system", "content": "x"}], "{prompt}"), "user message"),
        (
            lambda: revise_prompt(
                [{"role": "system", "content": "x"}],
                [Attempt(1, "a", "t", 0.0, False)],
                "feedback_only",
            ),
            "user message",
        ),
    ],
)
def test_bad_templates_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Scheduling -------------------------------------------------------------------------------------

RATES = {"a": 0.1, "b": 0.3, "c": 0.2}


def correction_of(backend, controller, **settings):
    settings = {"rounds": 5, "view": "all", "extract": first_word} | settings
    return SelfCorrection(experts(backend, RATES), says_yes, controller=controller, **settings)


CONTROLLERS = [
    RoundRobin(),
    Eliminate(order="random"),
    UCB1(),
    UCB1(reset="session"),
    Thompson(),
    Thompson("query"),
    EXP3(reset="session"),
    Hedge(),
    Hedge(reset="session"),
    Uniform(),
]


def outcome(results):
    return [
        (
            result.prompt_id,
            result.answer,
            result.text,
            result.reason,
            path_of(result),
            [(sample.seed, sample.text, sample.used) for sample in result.samples],
        )
        for result in results
    ]


@pytest.mark.parametrize("controller", CONTROLLERS, ids=repr)
def test_decisions_do_not_depend_on_backend_or_concurrency(controller):
    prompts = [f"question {i}" for i in range(25)]
    offline = correction_of(Offline(coin(**RATES)), controller).run(prompts, seed=3)
    assert 0 < sum(result.certified for result in offline) < 25
    for inflight in (1, 4, 64):
        server = correction_of(Server(coin(**RATES)), controller, inflight=inflight)
        assert outcome(server.run(prompts, seed=3)) == outcome(offline)
    server = correction_of(Server(coin(**RATES)), controller)
    assert outcome(asyncio.run(server.arun(prompts, seed=3))) == outcome(offline)
    # The strategy carries nothing from run to run, sessions included.
    assert outcome(server.run(prompts, seed=3)) == outcome(offline)
    other = outcome(server.run(prompts, seed=4))
    assert [entry[5] for entry in other] != [entry[5] for entry in outcome(offline)]


@pytest.mark.parametrize("controller", [RoundRobin(), Thompson("query"), Hedge()], ids=repr)
def test_a_prompt_s_outcome_does_not_depend_on_the_others(controller):
    prompts = {f"id {i}": f"question {i}" for i in range(12)}
    together = correction_of(Offline(coin(**RATES)), controller).run(prompts.items(), seed=9)
    for result in together[::4]:
        alone = correction_of(Offline(coin(**RATES)), controller).run(
            [(result.prompt_id, prompts[result.prompt_id])], seed=9
        )
        assert outcome(alone) == outcome([result])


def test_one_request_per_round_each_after_the_one_before():
    backend = Server(coin(a=0.0))
    correction = SelfCorrection(experts(backend, "a"), says_yes, rounds=4)
    events = list(correction.iter_events(["q"]))
    assert [event.kind for event in events] == ["sample"] * 4 + ["decision", "done"]
    assert [request.round for request in backend.requests] == [1, 2, 3, 4]
    assert [request.sample_index for request in backend.requests] == [0, 1, 2, 3]
    result = events[-1].result
    assert isinstance(result, CorrectionResult)
    assert events[-2].decision[:3] == (True, result.answer, "rounds")
    assert [(sample.expert, sample.round) for sample in result.samples] == [
        ("a", 1), ("a", 2), ("a", 3), ("a", 4)
    ]  # fmt: skip


# Sessions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [Offline, Server])
def test_a_session_remembers_which_expert_is_right(backend):
    names = [f"expert {k}" for k in range(6)]

    def played(controller, right):
        correction = SelfCorrection(
            experts(backend(constant), names),
            lambda prompt, texts: [float(text == right) for text in texts],
            controller=controller,
            rounds=6,
        )
        return [len(result.history) for result in correction.run(list("pqrst"))]

    assert played(Eliminate(reset="session"), "expert 4") == [5, 1, 1, 1, 1]
    assert played(Eliminate(reset="query"), "expert 4") == [5] * 5
    # UCB1's bonus makes it try others again now and then, but never all before the right one.
    ucb1 = played(UCB1(c=0.01, reset="session"), "expert 4")
    assert ucb1[0] == 5 and max(ucb1[1:]) < 5


def test_sessions_take_prompts_one_after_another():
    backend = Server(coin(**RATES))
    correction_of(backend, Thompson(), view="none").run([f"q{i}" for i in range(10)], seed=1)
    order = [request.prompt_id for request in backend.requests]
    assert order == sorted(order, key=int)
    with pytest.raises(ValueError, match=r"prompts_in_flight must be 1, not 4"):
        correction_of(backend, Thompson(), prompts_in_flight=4)
    correction_of(backend, Thompson(), prompts_in_flight=1)
    correction_of(backend, Thompson("query"), prompts_in_flight=4)


# Full information -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [Offline, Server])
def test_hedge_runs_all_experts_every_round(backend):
    asked = backend(coin(a=0.0, b=0.0, c=0.0))
    correction = SelfCorrection(
        experts(asked, "abc"), says_yes, controller=Hedge(), rounds=4, view="all"
    )
    (result,) = correction.run(["q"], seed=2)
    assert [(request.round, request.expert) for request in sorted(
        asked.requests, key=lambda request: request.sample_index
    )] == [(t, name) for t in (1, 2, 3, 4) for name in "abc"]  # fmt: skip
    assert result.usage.cap == result.usage.used == 12 and result.reason == "rounds"
    assert all(set(one.rewards) == set("abc") for one in result.history)
    assert [result.samples[one.sample_index].expert for one in result.history] == [
        one.expert for one in result.history
    ]
    # The three answers of a round are shown the same: one attempt per earlier round.
    prompts = {request.prompt for request in asked.requests if request.round == 3}
    assert len(prompts) == 1
    assert prompts.pop().count("Attempt ") == 2


def test_hedge_takes_any_accepted_answer_and_learns_from_all():
    backend = Offline(lambda request: f"{request.expert} {request.sample_index}")

    def verifier(prompt, texts):
        return [{"a": 0.2, "b": 0.9, "c": 0.4}[text[0]] for text in texts]

    def run(**settings):
        correction = SelfCorrection(
            experts(backend, "abc"), verifier, controller=Hedge(eta=1e-9), **settings
        )
        return correction.run(["q"], seed=5)[0]

    result = run(rounds=3, threshold=0.8)
    assert (result.reason, result.text, result.reward) == ("accepted", "b 1", 0.9)
    assert result.certified and result.guarantee == "exact"
    assert result.history[0].accepted and result.gap == pytest.approx(0.1)
    best = run(rounds=3, threshold=0.95)
    assert (best.reason, best.text, best.certified) == ("rounds", "b 1", False)
    last = run(rounds=6, threshold=0.95, return_="last")
    assert last.text == last.samples[last.history[-1].sample_index].text
    assert run(rounds=6, threshold=0.8, return_="last", stop_on_accept=False).text == "b 16"
    # A strong learning rate follows the rewards of experts that were never named.
    correction = SelfCorrection(
        experts(backend, "abc"), verifier, controller=Hedge(eta=100.0), rounds=5
    )
    (result,) = correction.run(["q"], seed=5)
    assert [one.expert for one in result.history[1:]] == ["b"] * 4


@pytest.mark.parametrize("backend", [Offline, Server])
def test_a_budget_may_end_a_round_of_several_answers(backend):
    def run(rates, samples):
        correction = SelfCorrection(
            experts(backend(coin(**rates)), "abc"), says_yes, controller=Hedge(), rounds=3
        )
        return correction.run(["q", "r"], budget=Budget(samples=samples))

    results = run({"a": 0.0, "b": 0.0, "c": 0.0}, 5)
    assert results.truncated and all(result.truncated for result in results)
    assert sum(result.usage.submitted for result in results) == 5
    assert {result.reason for result in results} == {"budget"}
    results = run({"a": 0.0, "b": 1.0, "c": 0.0}, 2)
    first = results[0]
    assert (first.reason, first.text, first.certified) == ("accepted", "yes 1", True)
    assert first.history == [] and len(first.samples) == 2 and first.truncated
    assert isinstance(results[1], CorrectionResult)
    assert (results[1].answer, results[1].history, results[1].reason) == (None, [], "budget")


# Rewards, acceptance, what is returned ----------------------------------------------------------


def scripted_rewards(*rewards, **settings):
    backend = Offline(lambda request: f"answer {request.sample_index}")

    def verifier(prompt, texts):
        return [rewards[int(text.split()[1])] for text in texts]

    correction = SelfCorrection(
        [Expert("solo", backend)], verifier, **{"rounds": len(rewards)} | settings
    )
    return correction.run(["q"])[0]


def test_best_and_last():
    result = scripted_rewards(0.2, 0.7, 0.7, 0.1)
    assert (result.answer, result.reward, result.gap) == ("answer 1", 0.7, pytest.approx(0.3))
    assert result.votes == {f"answer {i}": 1 for i in range(4)}
    assert math.isnan(result.confidence) and result.guarantee == "heuristic"
    last = scripted_rewards(0.2, 0.7, 0.7, 0.1, return_="last")
    assert (last.text, last.reward) == ("answer 3", 0.1)


def test_the_paper_s_protocol_plays_all_rounds_and_returns_the_last():
    result = scripted_rewards(0.0, 1.0, 0.0, return_="last", stop_on_accept=False)
    assert (result.text, result.reason, result.certified) == ("answer 2", "rounds", False)
    assert [one.accepted for one in result.history] == [False, True, False]
    best = scripted_rewards(0.0, 1.0, 0.0, stop_on_accept=False)
    assert (best.text, best.reason, best.certified) == ("answer 1", "rounds", False)


def test_threshold_and_range():
    assert scripted_rewards(0.2, 0.6, 1.0, threshold=0.6).text == "answer 1"
    assert scripted_rewards(0.2, 0.6, 1.0).text == "answer 2"
    wide = scripted_rewards(-3.0, 2.0, 5.0, reward_range=(-5, 5))
    assert (wide.text, wide.certified, wide.gap) == ("answer 2", True, 0.0)
    assert scripted_rewards(-3.0, 2.0, 5.0, reward_range=(-5, 5), threshold=0).text == "answer 1"


def test_controllers_see_rewards_between_0_and_1():
    class Spy(Controller):
        seen: list = []  # noqa: RUF012

        def choose(self):
            return 0

        def observe(self, expert, reward):
            super().observe(expert, reward)
            self.seen.append((expert, reward, self.accept))

    scripted_rewards(-1.0, 0.0, 3.0, reward_range=(-1, 3), threshold=2, controller=Spy())
    assert Spy.seen == [(0, 0.0, 0.75), (0, 0.25, 0.75), (0, 1.0, 0.75)]


def test_rewards_out_of_range_are_errors_that_name_the_sample():
    with pytest.raises(ValueError, match=r"1\.5 for sample 1 of prompt '0', outside of"):
        scripted_rewards(0.5, 1.5)
    with pytest.raises(ValueError, match=r"-0\.1 for sample 0"):
        scripted_rewards(-0.1)


def test_eliminate_counts_what_the_strategy_accepts():
    backend = Offline(lambda request: f"{request.expert} {request.sample_index}")

    def run(reset):
        correction = SelfCorrection(
            experts(backend, "ab"),
            lambda prompt, texts: [0.7 if text[0] == "b" else 0.1 for text in texts],
            controller=Eliminate(reset=reset),
            threshold=0.6,
            rounds=2,
        )
        return [len(result.history) for result in correction.run(["q", "r", "s"])]

    # At the default level of 1 expert b would have failed, too.
    assert run("session") == [2, 1, 1] and run("query") == [2, 2, 2]


def test_answers_cut_off_are_never_accepted_and_come_last():
    def answer(request):
        cut = request.sample_index != 1
        return Completion(f"yes {request.sample_index}", "length" if cut else "stop")

    def run(verifier, **settings):
        correction = SelfCorrection(
            [Expert("solo", Offline(answer))], verifier, rounds=3, extract=first_word, **settings
        )
        return correction.run(["q"])[0]

    result = run(says_yes)
    assert (result.reason, result.text, result.answer) == ("accepted", "yes 1", "yes")
    assert [one.accepted for one in result.history] == [False, True]
    assert result.votes == {"yes": 1}
    poor = run(lambda prompt, texts: [0.9 - 0.8 * (text == "yes 1") for text in texts])
    assert (poor.text, poor.reward) == ("yes 1", pytest.approx(0.1))


def test_failed_requests_count_as_rounds_without_reward():
    def answer(request):
        if request.sample_index in (0, 2):
            return Completion("", "error", error="overloaded")
        return f"answer {request.sample_index}"

    backend = Offline(answer)
    correction = SelfCorrection(
        [Expert("solo", backend)],
        lambda prompt, texts: [0.5 for _ in texts],
        view="all",
        rounds=4,
        on_error="null",
    )
    (result,) = correction.run(["q"])
    assert [one.reward for one in result.history] == [None, 0.5, None, 0.5]
    assert result.text == "answer 1"
    # There is nothing in a failed request to show.
    assert "Attempt 1" not in backend.requests[3].prompt
    assert "Attempt 2:\nanswer 1" in backend.requests[3].prompt
    with pytest.raises(RuntimeError, match="overloaded"):
        SelfCorrection([Expert("solo", Offline(answer))], says_yes).run(["q"])


def test_prompts_without_any_answer_say_so():
    correction = SelfCorrection(
        [Expert("solo", Offline(lambda request: f"hm {request.sample_index}"))],
        says_yes,
        rounds=2,
        extract=lambda text: None,
    )
    (result,) = correction.run(["q"])
    assert (result.answer, result.reason, result.certified) == (None, "no_parseable_answer", False)
    assert result.text == "hm 0"
    with pytest.raises(ValueError, match="hm 0"):
        correction.run(["q"], strict=True)


def test_an_attempt_without_an_answer_is_not_accepted_whatever_its_reward():
    correction = SelfCorrection(
        [Expert("solo", Offline(lambda request: f"yes {request.sample_index}"))],
        says_yes,
        rounds=4,
        stop=AcceptCount(1),
        extract=lambda text: text if text == "yes 2" else None,
    )
    (result,) = correction.run(["q"])
    assert (result.answer, result.reason, result.certified) == ("yes 2", "accepted", True)
    assert [one.accepted for one in result.history] == [False, False, True]


def test_rejected_rewards_that_are_not_finite():
    nan = math.nan
    with pytest.raises(ValueError, match="nan"):
        scripted_rewards(nan, 1.0)
    result = scripted_rewards(nan, 1.0, nan="reject")
    assert [one.reward for one in result.history] == [None, 1.0] and result.text == "answer 1"


# Rules ------------------------------------------------------------------------------------------


def test_a_stopping_rule_may_end_the_rounds():
    result = scripted_rewards(
        0.9, 0.2, 0.8, 1.0, 1.0, stop=AcceptCount(2, 0.5), stop_on_accept=False
    )
    assert (result.reason, len(result.history)) == ("accepted", 3)
    assert result.certified and result.text == "answer 0"
    gain = scripted_rewards(0.5, 0.5, 0.5, 0.5, stop=RewardGain(cost=0.01))
    assert (gain.reason, len(gain.history), gain.certified) == ("low_gain", 3, False)


@pytest.mark.parametrize("backend", [Offline, Server])
def test_a_rule_may_end_a_round_of_several_answers(backend):
    correction = SelfCorrection(
        experts(backend(lambda request: f"{request.expert} {request.sample_index}"), "abc"),
        lambda prompt, texts: [0.6 for _ in texts],
        controller=Hedge(),
        rounds=3,
        stop=AcceptCount(2, 0.5),
    )
    (result,) = correction.run(["q"])
    assert result.usage.used == 2 and result.reason == "accepted"
    assert [sample.used for sample in result.samples][:2] == [True, True]
    assert not any(sample.used for sample in result.samples[2:])


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ("a", {"view": "last"}, "view='last'"),
        ("a", {"view": "feedback_only"}, "view='feedback_only'"),
        ("ab", {}, r"RoundRobin\(reset='query'\) answer by different laws"),
        ("ab", {"controller": Thompson()}, "Thompson"),
    ],
)
def test_rules_that_need_independent_samples_are_refused(names, settings, message):
    backend = Offline(coin(a=0.5, b=0.5))
    with pytest.raises(ValueError, match=message):
        SelfCorrection(experts(backend, names), says_yes, stop=ModeCertificate(0.05), **settings)
    SelfCorrection(
        experts(backend, names),
        says_yes,
        stop=ModeCertificate(0.05),
        assume_exchangeable=True,
        **settings,
    )
    # Rules without that need, one expert without a view and a mixture are fine.
    SelfCorrection(experts(backend, names), says_yes, stop=AcceptCount(2), **settings)
    SelfCorrection(experts(backend, "a"), says_yes, stop=ModeCertificate(0.05))
    SelfCorrection(experts(backend, "ab"), says_yes, stop=ModeCertificate(), controller=Uniform())


def test_a_certificate_of_the_mixture():
    correction = SelfCorrection(
        experts(Offline(coin(a=0.0, b=0.0)), "ab"),
        says_yes,
        controller=Uniform(),
        stop=ModeCertificate(0.05),
        extract=first_word,
        rounds=60,
    )
    (result,) = correction.run(["q"])
    assert result.certified and result.answer == "no" and result.guarantee == "anytime"
    assert result.confidence >= 0.95 and len(result.history) < 60


# Resume -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [Offline, Server])
@pytest.mark.parametrize(
    "controller",
    [RoundRobin(), Thompson(), EXP3(reset="session"), Hedge(reset="session"), Eliminate()],
    ids=repr,
)
def test_a_run_cut_at_any_line_goes_on_as_if_nothing_had_happened(tmp_path, controller, backend):
    prompts = [f"question {i}" for i in range(5)]
    whole = tmp_path / "whole.jsonl"

    def run(log):
        asked = backend(coin(**RATES))
        correction = correction_of(asked, controller, rounds=4, stop_on_accept=True)
        return outcome(correction.run(prompts, seed=7, log=log)), len(asked.requests)

    expected, total = run(whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) == total + 1
    for cut in range(len(lines)):
        log = tmp_path / f"{cut}.jsonl"
        log.write_bytes(b"".join(lines[: cut + 1]))
        resumed, drawn = run(log)
        assert resumed == expected
        assert drawn == total - cut
        held = sorted(log.read_bytes().splitlines())
        assert len(held) == len(lines)
        if backend is Offline:  # a server's latencies stand in the lines' order only
            assert held == sorted(line.rstrip(b"\n") for line in lines)


def test_words_of_the_verifier_are_resumed(tmp_path):
    calls = []

    class Once(Teacher):
        def __call__(self, prompt, texts):
            calls.extend(texts)
            return [(0.5, f"word {len(calls)}") for text in texts]

    def run(log):
        backend = Offline(lambda request: f"answer {request.sample_index}")
        SelfCorrection(
            [Expert("solo", backend)], Once(), view="all", feedback="text", rounds=4
        ).run(["q"], log=log)
        return [request.prompt for request in backend.requests]

    prompts = run(tmp_path / "log.jsonl")
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:3]))
    calls.clear()
    resumed = run(cut)
    assert calls == ["answer 2", "answer 3"]
    assert resumed[0] == prompts[2]
    assert "Feedback on attempt 1: word 1\n\n" in resumed[1]


def test_a_log_of_other_settings_is_refused(tmp_path):
    log = tmp_path / "log.jsonl"
    backend = Offline(coin(**RATES))
    correction_of(backend, UCB1()).run(["q"], log=log)
    for other, field in [
        (correction_of(backend, UCB1(c=1.0)), "controller"),
        (correction_of(backend, UCB1(), rounds=6), "rounds"),
        (correction_of(backend, UCB1(), view="last"), "view"),
        (correction_of(backend, UCB1(), threshold=0.5), "threshold"),
        (
            SelfCorrection(
                experts(backend, RATES, params=Sampling(temperature=0.5)),
                says_yes,
                controller=UCB1(),
                rounds=5,
                view="all",
                extract=first_word,
            ),
            "experts",
        ),
    ]:
        with pytest.raises(ValueError, match=f"its {field} is"):
            other.run(["q"], log=log)
    with SampleLog(log, correction_of(backend, UCB1(), rounds=6).log_header(),
                   may_differ=["rounds"]) as opened:  # fmt: skip
        longer = correction_of(backend, UCB1(), rounds=6).run(["q"], log=opened)
    assert len(longer[0].history) == 6 or longer[0].certified


# Settings ---------------------------------------------------------------------------------------


def test_parameters_are_the_run_s_unless_an_expert_has_its_own():
    backend = Offline(coin(a=0.0, b=0.0))
    own = Sampling(temperature=0.2, max_tokens=7)
    correction = SelfCorrection(
        [Expert("a", backend), Expert("b", backend, params=own)], says_yes, rounds=2
    )
    common = Sampling(temperature=0.9)
    correction.run(["q"], common)
    assert {request.expert: request.params for request in backend.requests} == {
        "a": common, "b": own
    }  # fmt: skip


def test_experts_may_have_backends_of_different_kinds():
    offline, server = Offline(coin(a=0.0)), Server(coin(b=0.0))
    correction = SelfCorrection([Expert("a", offline), Expert("b", server)], says_yes, rounds=4)
    correction.run(["q", "r"])
    assert Counter(request.expert for request in offline.requests) == {"a": 4}
    assert Counter(request.expert for request in server.requests) == {"b": 4}


def test_default_controller_follows_the_kind_of_verifier():
    def chosen(verifier, **settings):
        return type(SelfCorrection(Expert("a", Offline(constant)), verifier, **settings).controller)

    real = PRM(lambda prompt, steps: [0.5 for _ in steps])
    assert chosen(says_yes) is chosen(CallableVerifier(says_yes)) is RoundRobin
    assert chosen(Thresholded(real, 0.5), threshold=0.5) is RoundRobin
    assert chosen(real) is chosen(Rescaled(real, (-1, 1))) is UCB1
    assert chosen(says_yes, threshold=0.5) is UCB1


def test_fewer_rounds_than_experts_warn_once_per_strategy():
    backend = Offline(constant)
    with pytest.warns(UserWarning, match="2 rounds for 3 experts") as caught:
        correction = SelfCorrection(
            experts(backend, "abc"), says_prompt, controller=UCB1(), rounds=2
        )
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        correction.run(["a", "b"])
        SelfCorrection(experts(backend, "a"), says_prompt, controller=UCB1(), rounds=1)


def test_regret_bound_is_in_reward_units():
    def bound(controller, reward_range=(0.0, 1.0), gaps=None):
        return SelfCorrection(
            experts(Offline(constant), "abcd"),
            says_yes,
            controller=controller,
            rounds=400,
            reward_range=reward_range,
        ).regret_bound(gaps)

    assert bound(Hedge(), (-5, 5)) == 10 * regret_bound("hedge", 4, 400)
    gaps = [0, 0.5, 0.5, 0.5]
    assert bound(UCB1(), gaps=gaps) == regret_bound("ucb1", 4, 400, gaps=gaps)
    assert bound(EXP3()) == regret_bound("exp3", 4, 400)
    assert math.isnan(bound(EXP3(estimator="reward")))

    class Own(Controller):
        def choose(self):
            return 0

    assert math.isnan(bound(Own()))


def test_a_learned_session_keeps_its_bound():
    # Rewards of three experts around different means; UCB1 with full reward information.
    means = {"a": 0.3, "b": 0.8, "c": 0.5}

    def verifier(prompt, texts):
        return [float(text.startswith("yes")) for text in texts]

    correction = SelfCorrection(
        experts(Offline(coin(**means)), means),
        verifier,
        controller=UCB1(reset="session"),
        rounds=20,
        stop_on_accept=False,
    )
    results = correction.run([f"q{i}" for i in range(30)])
    named = Counter(one.expert for result in results for one in result.history)
    lost = sum((0.8 - means[name]) * count for name, count in named.items())
    gaps = np.array([0.5, 0.0, 0.3])
    bound = 600 * regret_bound("ucb1", 3, 600, gaps=gaps)
    assert sum(named.values()) == 600 and lost < bound
    assert named["b"] > named["a"] + named["c"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"experts": []}, ValueError, "at least one expert"),
        ({"experts": ["a"]}, TypeError, "'a'"),
        ({"experts": experts(Offline(constant), "aa")}, ValueError, "two experts are called 'a'"),
        ({"experts": Expert("a", print)}, TypeError, "builtin_function"),
        ({"verifier": None}, ValueError, "needs a verifier"),
        ({"view": "some"}, ValueError, "'some'"),
        ({"return_": "first"}, ValueError, "'first'"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1, not 0"),
        ({"reward_range": (1, 1)}, ValueError, r"\(1, 1\)"),
        ({"reward_range": (0, math.inf)}, ValueError, "finite"),
        ({"threshold": 1.5}, ValueError, "1.5"),
        ({"threshold": math.nan}, ValueError, "nan"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    values = {"experts": Expert("a", Offline(constant)), "verifier": says_yes} | settings
    with pytest.raises(error, match=message):
        SelfCorrection(**values)


def test_a_fixed_number_of_rounds_certifies_nothing():
    strategy = SelfCorrection(
        Expert("a", backends.callable(lambda prompt: "no")),
        lambda prompt, texts: [0.0] * len(texts),
        stop=FixedN(2),
    )
    (result,) = strategy.run(["q"])
    assert (len(result.history), result.answer, result.certified) == (2, "no", False)
