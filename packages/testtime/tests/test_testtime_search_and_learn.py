"""The columns of search-and-learn, against its own rules written out again."""

import json
import random
import subprocess
import sys
from collections import defaultdict

import pytest
from datasets import Dataset

from modicum.testtime import adapters
from modicum.testtime.backends import replay
from modicum.testtime.best_of_n import BestOfN
from modicum.testtime.extract import boxed, last_number
from modicum.testtime.integrations.search_and_learn import (
    add_predictions,
    aggregate,
    read_rows,
    rows_from_results,
)
from modicum.testtime.table import SampleTable


def row(answers, scores=None, **others):
    completions = [f"Step {i}. So \\boxed{{{a}}}." for i, a in enumerate(answers)]
    fields = {"problem": "?", "completions": completions, **others}
    return fields | ({"scores": scores} if scores is not None else {})


def their_columns(answers, scores, agg, n):
    """What search-and-learn's score() computes, by its description."""
    total = {"last": lambda s: s[-1], "min": min, "prod": lambda s: product(s)}[agg]
    answers, scores = answers[:n], [total(s) for s in scores[:n]]
    votes, sums = defaultdict(int), defaultdict(float)
    for answer, score in zip(answers, scores, strict=True):
        votes[answer] += 1
        sums[answer] += score
    naive = max(range(n), key=lambda i: scores[i])
    return {
        f"pred_naive@{n}": f"\\boxed{{{answers[naive]}}}",
        f"pred_weighted@{n}": f"\\boxed{{{max(sums, key=sums.get)}}}",
        f"pred_maj@{n}": f"\\boxed{{{max(votes, key=votes.get)}}}",
    }


def product(numbers):
    result = 1.0
    for number in numbers:
        result *= number
    return result


@pytest.mark.parametrize("agg", ["last", "min", "prod"])
@pytest.mark.parametrize("seed", range(8))
def test_predictions_are_those_of_search_and_learn(agg, seed):
    rng = random.Random(seed)
    answers = rng.choices(["1", "2", "x^2", "\\frac{1}{2}"], k=11)
    scores = [[rng.random() for _ in range(rng.randint(1, 4))] for _ in answers]
    given = row(answers, scores)
    (found,) = add_predictions([given], agg=agg)
    expected = {}
    for n in (1, 2, 4, 8):
        expected |= their_columns(answers, scores, agg, n)
    best = max(range(11), key=lambda i: aggregate(scores[i], agg))
    assert found == given | expected | {"pred": given["completions"][best]}
    assert "pred" not in given  # it is left alone


def test_ties_go_to_the_first_and_answers_are_spelled_as_they_came():
    (found,) = add_predictions([row(["b", "a", "a", "b"], [[0.5]] * 4)], ns=[4])
    assert found["pred_maj@4"] == found["pred_weighted@4"] == "\\boxed{b}"
    assert found["pred"].startswith("Step 0")
    answers = ["0.5", "1/2", "3", "3"]
    same = {"0.5": "h", "1/2": "h"}
    (found,) = add_predictions(
        [row([*answers, "1/2"], [[1], [1], [1], [1], [1]])],
        ns=[4, 5],
        equal=lambda answer: same.get(answer, answer),
    )
    assert found["pred_maj@4"] == "\\boxed{0.5}" and found["pred_maj@5"] == "\\boxed{0.5}"


def test_completions_without_an_answer_do_not_vote():
    given = row(["7"], [[0.1]] + [[0.9]] * 2)
    given["completions"] += ["no box", "none either"]
    (found,) = add_predictions([given], ns=[1, 3])
    assert found["pred_maj@3"] == found["pred_weighted@3"] == found["pred_naive@3"] == "\\boxed{7}"
    assert found["pred"] == "no box"  # the completion of the highest score, whatever it says
    (found,) = add_predictions([{"completions": ["none"]}])
    assert found == {"completions": ["none"], "pred_maj@1": "\\boxed{}"}


def test_a_dataset_stays_a_dataset_and_its_columns_are_replaced():
    rows = [row(["1", "2", "2"], [[0.1], [0.2], [0.3]], pred="old"), row(["3"] * 4, [[0.5]] * 4)]
    rows[1]["pred"] = "old"
    dataset = Dataset.from_list(rows)
    written = add_predictions(dataset)
    assert isinstance(written, Dataset) and dataset["pred"] == ["old", "old"]
    assert written.to_list() == add_predictions(rows)
    assert "pred_maj@2" in written.column_names and "pred_maj@4" not in written.column_names
    again = add_predictions(written, ns=[2])
    assert sorted(again.column_names) == sorted(written.column_names)
    assert add_predictions([]) == []


def test_rows_become_a_table(tmp_path):
    rows = [
        row(["4", "5", "4"], [[0.2, 0.9], [0.5, 0.1], [1.0, 0.3]], unique_id="a/1"),
        row(["7"], [[0.5]], unique_id=None, completion_tokens=[12]),
        {"completions": ["nothing"], "unique_id": "c"},
    ]
    table = adapters.search_and_learn(rows, agg="prod")
    assert isinstance(table, SampleTable)
    assert table.prompt_ids == ["a/1", "1", "c"]
    assert table.counts("a/1") == {"4": 2, "5": 1} and table.counts("c") == {}
    assert table.reward_S.tolist()[:4] == pytest.approx([0.18, 0.05, 0.3, 0.5])
    assert table.n_tokens_S.tolist() == [0, 0, 0, 12, 0]
    assert (
        table.correct({"a/1": "4", "1": "8", "c": "9"}).tolist()
        == [True, False, True] + [False] * 2
    )
    numbers = read_rows(rows, extract=last_number())
    assert numbers.keys == [4, 5, 7]
    same = read_rows(Dataset.from_list(rows[:1]), agg="prod")
    assert same.texts == table.texts[:3] and same.reward_S.tolist() == table.reward_S[:3].tolist()


def test_results_become_rows_that_can_be_read_again():
    rows = [row(["4", "5", "4", "4"], [[0.2], [0.9], [0.3], [0.1]], unique_id="a")]
    table = read_rows(rows)
    reward_of = dict(zip(table.texts, table.reward_S.tolist(), strict=True))
    strategy = BestOfN(
        replay(table), lambda prompt, texts: [reward_of[t] for t in texts], n=4, extract=boxed()
    )
    results = strategy.run([("a", "?")])
    (written,) = rows_from_results(results, {"a": "?"})
    assert written["completions"] == rows[0]["completions"]
    assert written["scores"] == rows[0]["scores"] and written["problem"] == "?"
    assert written["pred"] == rows[0]["completions"][1]
    assert written["pred"] == add_predictions(rows)[0]["pred"]
    assert read_rows([written]).counts("a") == table.counts("a")
    json.dumps(written)
    for sample in results[0].samples[:2]:
        sample.used, sample.reward = False, None
    (partial,) = rows_from_results(results)
    assert partial["scores"] == [[0.3], [0.1]] and "problem" not in partial
    results[0].samples[3].reward = None
    assert "scores" not in rows_from_results(results)[0]


def test_aggregation():
    assert aggregate([0.5, 0.2, 0.4]) == 0.4 and aggregate(0.7, "min") == 0.7
    assert aggregate([0.5, 0.2, 0.4], "min") == 0.2
    assert aggregate([0.5, 0.2, 0.4], "prod") == pytest.approx(0.04)
    with pytest.raises(ValueError, match="not 'mean'"):
        aggregate([1.0], "mean")
    with pytest.raises(ValueError, match="at least one step"):
        aggregate([])


@pytest.mark.parametrize(
    ("rows", "options", "match"),
    [
        ([{"problem": "?"}], {}, "row '0' has no completions"),
        ([row(["1", "2"], [[1.0]])], {}, "row '0' has 1 scores for 2 completions"),
        ([row(["1", "2"], [[1.0], []])], {}, "at least one step"),
    ],
)
def test_columns_that_do_not_fit_are_named(rows, options, match):
    with pytest.raises(ValueError, match=match):
        read_rows(rows, **options)


def test_more_completions_than_there_are_cannot_be_asked_for():
    with pytest.raises(ValueError, match="between 1 and 2, the completions of a row: 4"):
        add_predictions([row(["1"] * 4), row(["1"] * 2)], ns=[2, 4])
    with pytest.raises(ValueError, match="between 1 and 2"):
        add_predictions([row(["1"] * 2)], ns=[0])


def test_it_needs_no_other_library():
    code = (
        "import sys\nfor name in ('datasets', 'torch', 'pandas'): sys.modules[name] = None\n"
        "from modicum.testtime import adapters\n"
        "print(adapters.search_and_learn([{'completions': ['\\\\boxed{4}']}]).keys)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "['4']", result.stderr
