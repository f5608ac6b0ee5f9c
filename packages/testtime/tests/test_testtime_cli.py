import json
import random
from fractions import Fraction

import pytest
from typer.testing import CliRunner

import modicum.testtime as tt
from modicum.testtime.cli import app
from modicum.testtime.cli.inputs import (
    PromptFile,
    equality_of,
    extractor_of,
    json_lines,
    read_answers,
    read_prompts,
    reference_key,
)
from modicum.testtime.cli.running import _summary


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout


def value(*arguments, status=0):
    return json.loads(call(*arguments, "--json", status=status))


def answer(prompt, seed):
    """A model that knows the sum three times in four, for a prompt such as 3 + 4."""
    rng = random.Random(seed)
    a, b = prompt.split("+")
    total = int(a) + int(b)
    said = total if rng.random() < 0.75 else total + rng.choice([1, 2, 3])
    return f"Thought {seed % 997}: the answer is {said}."


@pytest.fixture
def files(tmp_path):
    """Prompts with references, and 40 recorded samples of each."""
    prompts = {f"q{i}": f"{i} + {i + 3}" for i in range(6)}
    lines = [
        {"id": name, "question": text, "answer": f"#### {2 * i + 3}"}
        for i, (name, text) in enumerate(prompts.items())
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = tt.SelfConsistency(
        tt.backends.callable(answer),
        extract=tt.extract.last_number(),
        stop=tt.FixedN(40),
        verifier=tt.CallableVerifier(lambda prompt, text: float(len(text))),
    ).run(list(prompts.items()))
    drawn.table().to_jsonl(tmp_path / "samples.jsonl")
    return tmp_path


def test_plan_says_how_many():
    plan = value("plan", "--p", "0.5,0.3,0.2", "--delta", "0.05")
    assert plan["n"] == tt.plan("self_consistency", p=[0.5, 0.3, 0.2], delta=0.05).n
    assert f"{plan['n']} samples" in call("plan", "--p", "0.5,0.3,0.2")
    assert value("plan", "best_of_n", "--p-correct", "0.1", "--delta", "0.1")["n"] == 22
    assert value("plan", "self_correction", "--experts", "8")["n"] == 8
    assert value("plan", "self_correction", "--success", "0.5,0.1")["feasible"]
    counted = value("plan", "--counts", "400,100", "--method", "lower")
    assert counted["feasible"] and counted["method"] == "lower"
    worst = value("plan", "--gap", "0.2", "--answers", "4")
    assert worst["bounds"]["hoeffding"] > worst["n"]


def test_plan_that_is_not_feasible_ends_with_one():
    refused = value(
        "plan", "best_of_n", "--p-correct", "0.2", "--s", "0.9", "--f", "0.02", status=1
    )
    assert refused["n"] is None and refused["limit"] == pytest.approx(0.9184, abs=1e-4)
    assert "no number of samples suffices" in call("plan", "--p", "0.3,0.7", status=1)


def test_compare_lists_the_strategies():
    table = value("compare", "--p", "0.3,0.2,0.5", "--target", "2", "--s", "0.9", "--f", "0.1")
    assert [row["strategy"] for row in table["rows"]][:2] == ["self_consistency", "best_of_n"]
    assert table["gap"] == pytest.approx(0.2)
    assert "minimax" in call("compare", "--p", "0.6,0.4") or "worst cases" in call(
        "compare", "--p", "0.6,0.4"
    )


def test_simulate_reports_every_rule():
    found = value(
        "simulate", "--p", "0.9,0.1", "--runs", "50", "--max-samples", "60",
        "--rule", "ppr:delta=0.05,num_answers=2", "--rule", "beta",
    )  # fmt: skip
    assert set(found) == {"ppr:delta=0.05,num_answers=2", "beta"}
    assert found["beta"]["mean_samples"] < found["ppr:delta=0.05,num_answers=2"]["mean_samples"]
    assert found["beta"]["guarantee"] == "heuristic"
    assert "anytime" in call("simulate", "--p", "0.9,0.1", "--runs", "20", "--max-samples", "30")


def test_boundary_prints_the_published_integers(tmp_path):
    pytest.importorskip("matplotlib")
    table = value("boundary", "--size", "5", "--plot", tmp_path / "boundary.svg")
    assert table["ppr:delta=0.05,num_answers=2"] == [7, 10, 12, 14, 16, 18]
    assert table["beta:conf=0.95"] == [4, 6, 8, 9, 11, 12]
    assert (tmp_path / "boundary.svg").read_text().startswith("<?xml")
    assert "runner-up" in call("boundary", "--size", "2")


def test_boundary_of_a_rule_without_one_was_a_traceback():
    with pytest.raises(ValueError, match=r"ModeCertificate has no boundary.*ppr and beta have one"):
        call("boundary", "--rule", "certificate:0.05")


def test_simulate_with_answers_that_never_repeat():
    found = value("simulate", "--p", "0.5,0.3", "--tail", 0.2, "--rule", "beta", "--runs", 50)
    assert 0 < found["beta"]["mean_samples"] < 1000


def test_plan_from_counts_says_that_its_number_is_not_sure():
    said = call("plan", "--counts", "5,4,3", status=1)
    assert "no number of samples is sure to suffice" in said and "success is 0.5" in said


def test_run_on_recorded_samples(files):
    arguments = [
        "run", files / "prompts.jsonl", "--backend", "replay", "--samples", files / "samples.jsonl",
        "--max-samples", "40",
    ]  # fmt: skip
    full = value(*arguments, "--stop", "fixed:n=40")
    saved = value(*arguments, "--out", files / "results.jsonl", "--log", files / "log.jsonl")
    assert saved["accuracy"] == full["accuracy"] == 1.0
    assert full["samples used"] == 240 and saved["samples used"] < 240
    assert saved["certified"] == 6
    rows = [json.loads(line) for line in (files / "results.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [2 * i + 3 for i in range(6)]
    again = value(*arguments, "--log", files / "log.jsonl")
    assert again["samples used"] == saved["samples used"]
    certified = value(*arguments, "--delta", "0.05")
    assert certified["samples used"] <= 240
    assert "accuracy" in call(*arguments)


def test_run_best_of_n_and_self_correction_with_references(files):
    arguments = [
        "run", files / "prompts.jsonl", "--backend", "replay", "--samples", files / "samples.jsonl",
        "--max-samples", "8", "--verifier", "answers",
    ]  # fmt: skip
    best = value(*arguments, "--strategy", "best-of-n", "--threshold", "1")
    assert best["accuracy"] == 1.0 and best["samples used"] < 48
    corrected = value(*arguments, "--strategy", "self-correction", "--view", "none")
    assert corrected["accuracy"] == 1.0
    two = value(
        *arguments, "--strategy", "self-correction", "--view", "none", "--controller", "ucb1:c=1",
        "--template", "{prompt}", "--template", "Carefully: {prompt}",
    )  # fmt: skip
    assert two["accuracy"] == 1.0


def test_run_says_when_the_budget_did_not_suffice(files):
    summary = value(
        "run", files / "prompts.jsonl", "--backend", "replay", "--samples", files / "samples.jsonl",
        "--stop", "fixed:n=40", "--budget-samples", "20", status=1,
    )  # fmt: skip
    assert summary["truncated by budget"] and summary["samples"] == 20


def test_curve_is_the_unbiased_estimate(files):
    arguments = ["curve", files / "samples.jsonl", "--answers", files / "prompts.jsonl"]
    curve = value(*arguments, "--ks", "1,5,40", "--fit")
    table = tt.SampleTable.from_jsonl(files / "samples.jsonl")
    right = table.correct({f"q{i}": 2 * i + 3 for i in range(6)})
    assert curve["majority"]["mean"][0] == pytest.approx(right.mean())
    assert curve["coverage"]["mean"][0] == pytest.approx(right.mean())
    assert curve["majority"]["mean"][-1] == 1.0
    assert set(curve["fit"]) == {"a", "b", "rmse"} and curve["prompts"] == 6
    reread = value(*arguments, "--ks", "1,5,40", "--extract", "last-number")
    assert reread["majority"] == curve["majority"]
    rewards = value(*arguments, "--ks", "4", "--select", "best_of_n", "--select", "weighted")
    assert set(rewards) == {"best_of_n", "weighted", "prompts"}
    pytest.importorskip("matplotlib")
    call(*arguments, "--plot", files / "curve.svg", "--fit")
    assert (files / "curve.svg").stat().st_size > 1000


@pytest.mark.parametrize("mode", ["dense", "routed"])
def test_construct_demo_agrees_with_the_algorithm(mode):
    pytest.importorskip("torch")
    shown = value("construct", "demo", "--task", "reverse", "--bits", "00000101", "--mode", mode)
    assert shown["agree"] and len(shown["turns"]) == 8
    accepted = [turn for turn in shown["turns"] if turn["reward"] == 1]
    assert accepted and {turn["answer"] for turn in accepted} == {"10100000"}
    assert accepted[0]["expert"] == "reverse"
    assert "agree" in call("construct", "demo", "--rounds", "4")


def test_train_lists_and_trains(tmp_path):
    pytest.importorskip("torch")
    assert "experts" in call("train") and "three-sat" in call("train")
    written = tmp_path / "tiny.safetensors"
    call("train", "self-correcting", "--steps", "1", "--device", "cpu", "--out", written)
    assert written.stat().st_size > 1000


def test_readers():
    assert extractor_of("choice:AB")("I say (B)") == "B"
    assert extractor_of("after:answer is")("the answer is 42") == "42"
    assert extractor_of("boxed", True)(r"<think>\boxed{1}</think> \boxed{2}") == "2"
    assert extractor_of("regex:x=(\\d)")("x=1 x=2") == "2"
    assert extractor_of("json:a.b")('{"a": {"b": "c"}}') == "c"
    assert extractor_of("text")("all of it") == "all of it"
    assert reference_key("#### 18", extractor_of("last-number"), equality_of("exact", None)) == 18
    assert reference_key("C", extractor_of("boxed"), equality_of("casefold", None)) == "c"


def bad(text, tmp_path, name="bad.jsonl"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "line 1: exactly one of prompt, question and messages"),
        ('{"prompt": "a"}\nnonsense\n', "line 2: not JSON"),
        ('{"prompt": "a"}\n[1]\n', "line 2: an object is needed"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n', "line 2: the id '1' was there"),
        ("\n", "has no prompts"),
    ],
)
def test_prompt_files_that_are_none(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_prompts(bad(text, tmp_path))


def test_answer_files(tmp_path):
    assert read_answers(bad('{"answer": 1}\n{"answer": 2}\n', tmp_path)) == {"0": 1, "1": 2}
    assert read_answers(bad('{"id": 7, "answer": 1}\n{"id": 8}\n', tmp_path)) == {"7": 1}
    with pytest.raises(ValueError, match="has no answers"):
        read_answers(bad('{"id": 7}\n', tmp_path))
    with pytest.raises(ValueError, match="line 3: without id, every line needs an answer"):
        read_answers(bad('{"answer": 1}\n{"prompt": ""}\n{"answer": 2}\n', tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--p", "a,b"], "--p takes numbers with commas, not 'a'"),
        (["plan", "--counts", "1.5,2"], "--counts takes integers"),
        (["plan", "best_of_n", "--p-correct", ".5", "--d-prime", "1", "--s", "1"], "not both"),
        (["plan"], "exactly one of p, gap and counts"),
        (["simulate", "--p", ".5,.5", "--rule", "never"], "no stopping rule 'never'"),
        (["boundary", "--rule", "esc"], "boundary"),
        (["run", "PROMPTS", "--backend", "replay"], "needs --samples"),
        (["run", "PROMPTS", "--backend", "smoke", "--model", "m"], "--backend is one of"),
        (["run", "PROMPTS", "--backend", "openai"], "needs --model"),
        (["run", "PROMPTS", "--backend", "openai", "--model", "m"], "needs --base-url"),
        (["run", "PROMPTS", "--strategy", "best-of-n"], "needs --verifier"),
        (["run", "PROMPTS", "--strategy", "luck", "--verifier", "answers"], "--strategy is one of"),
        (["run", "PROMPTS", "--extract", "luck"], "an extractor is one of"),
        (["run", "PROMPTS", "--extract", "regex"], "an extractor is one of"),
        (["run", "PROMPTS", "--equal", "luck"], "an equality is one of"),
        (["run", "PROMPTS", "--verifier", "nothing"], "module:name"),
        (["run", "PROMPTS", "--verifier", "json:nothing"], "json has no 'nothing'"),
        (["construct", "demo", "--bits", "12"], "--bits is a string of 8 0 and 1, not '12'"),
        (["construct", "demo", "--task", "luck"], "--task is one of copy"),
        (["construct", "demo", "--mode", "luck"], "--mode is dense or routed"),
        (["construct", "demo", "--rounds", "0"], "--rounds must be at least 1"),
        (["train", "experts"], "say where to write"),
        (["train", "luck", "--out", "x"], "no recipe is called 'luck'"),
        (["run", "PROMPTS", "--verifier", "no_such_module:x"], "--verifier: No module"),
    ],
)
def test_bad_options_are_named(arguments, message, files):
    prompts = str(files / "prompts.jsonl")
    arguments = [prompts if argument == "PROMPTS" else argument for argument in arguments]
    with pytest.raises((ValueError, TypeError), match=message):
        call(*arguments)


def test_line_separators_inside_json(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a\u2028b\x85c"}, {"prompt": "d"}]
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert [row for _, row in json_lines(path)] == rows


def test_accuracy_of_a_run_goes_by_the_equality_of_answers():
    equal = tt.equality.PairwiseKeys(lambda a, b: Fraction(a) == Fraction(b))
    gen = tt.backends.callable(lambda prompt: "1/2")
    results = tt.SelfConsistency(gen, stop=tt.FixedN(4), equal=equal).run(
        [("x", "half"), ("y", "none")]
    )
    file = PromptFile({"x": "half", "y": "none"}, {"x": "0.5", "y": "0"})
    assert _summary(results, file, tt.extract.identity(), equal)["accuracy"] == 0.5
