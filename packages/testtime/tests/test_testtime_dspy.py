"""DSPy's reward functions as verifiers, and our strategies around its modules, on local models."""

import subprocess
import sys
import threading

import dspy
import pytest
from dspy.utils.dummies import DummyLM

from modicum.testtime import adapters
from modicum.testtime.backends import callable as from_function
from modicum.testtime.best_of_n import BestOfN as OurBestOfN
from modicum.testtime.extract import json_path
from modicum.testtime.integrations.dspy import BestOfN, DSPyVerifier, MajorityVote, Sampled
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping import FirstAccept, ModeCertificate
from modicum.testtime.verifiers import Verifier


class Script:
    """Answers one after another, from any thread."""

    def __init__(self, answers):
        self.answers = [a if isinstance(a, dict) else {"answer": a} for a in answers]
        self.given = 0
        self.threads = set()
        self.lock = threading.Lock()

    def __next__(self):
        with self.lock:
            self.threads.add(threading.get_ident())
            self.given += 1
            return self.answers[self.given - 1]


class Model(DummyLM):
    """A scripted model that remembers the rollouts it was copied for."""

    def __init__(self, answers):
        super().__init__([])
        self.answers = Script(answers)
        self.rollouts = []

    def copy(self, **kwargs):
        self.rollouts.append((kwargs.get("rollout_id"), kwargs.get("temperature")))
        return super().copy(**kwargs)


@pytest.fixture
def qa():
    return dspy.Predict("question -> answer")


def length(args, pred):
    assert args == {"question": "capital?"}
    return len(pred.answer)


def ask(module, model, **inputs):
    with dspy.context(lm=model):
        return module(**inputs or {"question": "capital?"})


# --- reward functions as verifiers ----------------------------------------------------------------


def test_a_reward_function_becomes_a_verifier():
    seen = []

    def reward(args, pred):
        seen.append((args, dict(pred)))
        return len(pred.answer) == 5

    verifier = adapters.dspy(reward)
    assert isinstance(verifier, Verifier) and isinstance(verifier, DSPyVerifier)
    assert verifier("colour?", ["green", "red"]) == [1.0, 0.0]
    chat = [{"role": "user", "content": "colour?"}, {"role": "assistant", "content": "…"}]
    assert verifier(chat, ["white"]) == [1.0]
    assert verifier([{"role": "system", "content": "s"}], []) == []
    assert seen[0] == ({"question": "colour?"}, {"answer": "green"})
    assert seen[2] == ({"question": "colour?"}, {"answer": "white"})
    named = adapters.dspy(lambda a, p: p.text + a["x"] == "bc", field="text", input_field="x")
    assert named("c", ["b", "c"]) == [1.0, 0.0]


def test_texts_are_parsed_into_the_fields_of_a_signature():
    def reward(args, pred):
        return pred.number * args["scale"]

    verifier = adapters.dspy(
        reward,
        signature="question -> why, number: int",
        inputs=lambda prompt: {"scale": 10},
        failed=-1.0,
    )
    good = "[[ ## why ## ]]\nbecause\n\n[[ ## number ## ]]\n3\n\n[[ ## completed ## ]]"
    assert verifier("?", [good, "3", good.replace("3", "three")]) == [30.0, -1.0, -1.0]
    as_json = adapters.dspy(
        reward,
        signature="q -> number: int",
        adapter=dspy.JSONAdapter(),
        inputs=lambda p: {"scale": 2},
    )
    assert as_json("?", ['{"number": 4}']) == [8.0]


def test_a_verifier_of_dspy_drives_our_best_of_n():
    texts = {0: "Rome", 1: "Brussels", 2: "Bern"}
    strategy = OurBestOfN(
        from_function(lambda prompt, request: texts[request.sample_index]),
        adapters.dspy(length, input_field="question"),
        n=3,
    )
    (result,) = strategy.run(["capital?"])
    assert result.text == "Brussels" and [s.reward for s in result.samples] == [4, 8, 4]


def test_rewards_may_be_predictions_with_a_score():
    verifier = adapters.dspy(lambda args, pred: dspy.Prediction(score=0.25, feedback="meh"))
    assert verifier("?", ["a"]) == [0.25]
    with pytest.raises(TypeError, match="reward_fn must be a function"):
        adapters.dspy(0.5)


# --- modules --------------------------------------------------------------------------------------

STREAMS = [
    ["Rome", "Brussels", "Bern"],
    ["Bern", "Rome", "Oslo", "Paris", "Brussels"],
    ["Paris", "Rome", "Oslo", "Vienna"],
]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("threshold", [5, 8, 99])
def test_best_of_n_is_that_of_dspy(qa, stream, threshold):
    """The same prediction from the same rollouts; no two answers of a stream tie for the best."""
    theirs, ours = Model(stream), Model(stream)
    expected = ask(dspy.BestOfN(qa, len(stream), length, threshold), theirs)
    module = BestOfN(qa, len(stream), length, threshold)
    found = ask(module, ours)
    best = max(map(len, stream))
    if sum(len(s) == best for s in stream) == 1 or threshold <= best:
        assert found.answer == expected.answer
    assert ours.rollouts == theirs.rollouts
    assert isinstance(found, dspy.Prediction)
    assert module.result.usage.used == len(ours.rollouts)


def test_any_stopping_rule_and_no_threshold(qa):
    model = Model(["Rome", "Brussels", "Bern", "Paris"])
    assert ask(BestOfN(qa, 4, length), model).answer == "Brussels"
    assert [r for r, _ in model.rollouts] == [0, 1, 2, 3]
    assert {t for _, t in model.rollouts} == {1.0}
    model = Model(["Rome", "Brussels", "Bern", "Paris"])
    ask(BestOfN(qa, 4, length, stop=FirstAccept(5), temperature=0.5), model)
    assert model.rollouts == [(0, 0.5), (1, 0.5)]
    model = Model(["Rome", "Brussels"]).copy(rollout_id=7)
    ask(BestOfN(qa, 2, length), model)
    assert [r for r, _ in model.rollouts] == [7, 7, 8]


def test_a_majority_vote_stops_when_it_is_settled(qa):
    model = Model(["Bern", "Rome", "Bern", "Bern", "Rome", "Oslo", "Rome"])
    module = MajorityVote(qa, 5, "answer")
    assert ask(module, model).answer == "Bern"
    assert len(model.rollouts) == 4 and module.result.guarantee == "lossless"
    assert module.result.votes == {"Bern": 3, "Rome": 1}
    module = MajorityVote(qa, 30, "answer", delta=0.2)
    assert ask(module, Model(["Bern"] * 30)).answer == "Bern"
    assert module.result.certified and module.result.usage.used < 30
    module = MajorityVote(
        qa, 3, "answer", equal=lambda a, b: a.casefold() == b.casefold(), stop=ModeCertificate(0.5)
    )
    assert ask(module, Model(["bern", "Rome", "BERN"])).answer == "bern"


def test_modules_of_several_steps_and_types():
    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.think = dspy.Predict("question -> thought")
            self.solve = dspy.Predict("question, thought -> answer: int")

        def forward(self, question):
            return self.solve(question=question, thought=self.think(question=question).thought)

    script = [{"thought": "a"}, {"answer": "4"}, {"thought": "b"}, {"answer": "4"}]
    module = MajorityVote(Program(), 3, "answer")
    with dspy.context(lm=Model(script), trace=[]):
        assert module(question="2 + 2?").answer == 4
        # The chosen run leaves its trace, the other one none.
        assert [dict(outputs) for _, _, outputs in dspy.settings.trace] == [
            {"thought": "a"},
            {"answer": 4},
        ]
    assert module.result.answer == 4 and module.result.usage.used == 2


def test_failing_runs_do_not_vote_and_too_many_are_an_error():
    class Flaky(dspy.Module):
        def __init__(self, failing):
            super().__init__()
            self.failing = failing
            self.inner = dspy.Predict("question -> answer")

        def forward(self, question):
            answer = self.inner(question=question)
            if self.inner.lm.kwargs["rollout_id"] in self.failing:
                raise RuntimeError("no luck")
            return answer

    names = ["Bern", "Rome", "Oslo", "Bonn"]
    module = BestOfN(Flaky({0, 1}), 4, length)
    assert ask(module, Model(names)).answer == "Oslo"
    assert [s.finish_reason for s in module.result.samples] == ["error", "error", "stop", "stop"]
    assert ask(MajorityVote(Flaky({1}), 4, "answer"), Model(names)).answer == "Bern"
    with pytest.raises(RuntimeError, match="no luck"):
        ask(BestOfN(Flaky({0, 1}), 4, length, fail_count=1), model := Model(names))
    assert len(model.rollouts) == 2
    assert ask(BestOfN(Flaky({0, 1, 2, 3}), 4, length), Model(names)) is None
    with pytest.raises(RuntimeError, match="no luck"):
        strategy = Sampled(Flaky({0}), lambda gen: SelfConsistency(gen, max_samples=2))
        ask(strategy, Model(names))


def test_any_strategy_can_choose(qa):
    module = Sampled(
        qa,
        lambda gen: SelfConsistency(gen, extract=json_path("answer"), max_samples=3, wave=1),
        seed=5,
    )
    assert ask(module, Model(["Oslo", "Rome", "Rome"])).answer == "Rome"
    assert [s.text for s in module.result.samples][:2] == [
        '{"answer": "Oslo"}',
        '{"answer": "Rome"}',
    ]


def test_threads_see_the_configured_model(qa):
    names = ["Bern", "Rome", "Oslo", "Bonn", "Kiew", "Riga"] * 2
    model = Model(names)
    module = BestOfN(qa, 12, length, threads=4)
    assert len(ask(module, model).answer) == 4
    assert sorted(r for r, _ in model.rollouts) == list(range(12))
    assert threading.get_ident() not in model.answers.threads
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        BestOfN(qa, 2, length, threads=0)


def test_the_module_keeps_its_own_model(qa):
    own = Model(["Bern", "Rome"])
    qa.set_lm(own)
    module = BestOfN(qa, 2, length)
    assert ask(module, Model(["never"])).answer == "Bern"
    assert len(own.rollouts) == 2 and qa.lm is own
    assert [name for name, _ in module.named_predictors()] == ["module"]
    with dspy.context(lm=None), pytest.raises(ValueError, match="no language model"):
        BestOfN(dspy.Predict("question -> answer"), 2, length)(question="capital?")


def test_without_dspy_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['dspy'] = None\n"
        "from modicum.testtime import adapters\nadapters.dspy(print)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "pip install dspy" in result.stderr.splitlines()[-1]
