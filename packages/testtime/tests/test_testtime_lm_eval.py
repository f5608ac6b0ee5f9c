"""lm-eval itself, on a task of five sums with twelve recorded answers each."""

import json
import logging
import random
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from modicum.testtime import adapters
from modicum.testtime.backends import callable as from_function
from modicum.testtime.equality import numeric
from modicum.testtime.extract import last_number
from modicum.testtime.integrations.lm_eval import logged_targets, read_logged_samples
from modicum.testtime.recorded import maj_at_k
from modicum.testtime.samples import Sampling
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping import Curtailed, FixedN
from modicum.testtime.table import SampleTable

REPEATS = 12
SUMS = [(1, 1), (2, 3), (10, 5), (7, 0), (4, 4)]


def answers(a, b):
    """Twelve answers to a + b: right and wrong ones, and some without a number."""
    rng = random.Random(100 * a + b)
    weights = [5, 4, 2, 1] if a != 7 else [2, 6, 1, 3]
    kinds = [f"So it is {a + b}.", f"That makes {a + b + 1}", f"{a}{b}", "no idea"]
    return rng.choices(kinds, weights, k=REPEATS)


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """lm-eval and the outcome of its run on the recorded answers, with several filters."""
    folder = tmp_path_factory.mktemp("lm_eval")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        import lm_eval
        from lm_eval.api.model import LM
        from lm_eval.tasks import TaskManager

        from modicum.testtime.integrations import lm_eval_harness

        class Recorded(LM):
            """Gives the recorded answers of each document in turn."""

            def generate_until(self, requests, disable_tqdm=False):
                turns = Counter()
                texts = []
                for request in requests:
                    a, b = map(int, request.args[0].removesuffix("?").split("+"))
                    texts.append(answers(a, b)[turns[a, b]])
                    turns[a, b] += 1
                return texts

            def loglikelihood(self, requests, disable_tqdm=False):
                raise AssertionError("the task generates")

            loglikelihood_rolling = loglikelihood

        data = folder / "sums.jsonl"
        lines = [{"question": f"{a}+{b}?", "answer": str(a + b)} for a, b in SUMS]
        data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        regex = {"function": "regex", "regex_pattern": r"(\d+)"}
        first = {"function": "take_first"}

        def task(name="sums", repeats=REPEATS, votes=(), **others):
            filters = [
                {"name": label, "filter": [regex, *steps]} for label, steps in dict(votes).items()
            ]
            return {
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": {
                    "data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")
                },
                "output_type": "generate_until",
                "test_split": "test",
                "doc_to_text": "{{question}}",
                "doc_to_target": "{{answer}}",
                "repeats": repeats,
                "generation_kwargs": {"until": ["\n\n", "Q:"], "max_gen_toks": 33,
                                      "do_sample": True, "temperature": 0.6},
                "filter_list": filters or [{"name": "none", "filter": [regex, first]}],
                "metric_list": [{"metric": "exact_match", "aggregation": "mean",
                                 "higher_is_better": True}],
            } | others  # fmt: skip

        # It looks for lm-eval's thousands of tasks and describes the machine, which takes seconds.
        manager = TaskManager(include_defaults=False)
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)

        def evaluate(model, *tasks, **options):
            return lm_eval.simple_evaluate(
                model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options
            )

        ours = {"function": "modicum_maj"}
        votes = {
            "theirs@5": [
                {"function": "take_first_k", "k": 5},
                {"function": "majority_vote"},
                first,
            ],
            "ours@5": [ours | {"k": 5}, first],
            "ours": [ours, first],
            "curtailed": [ours | {"stop": f"curtailed:{REPEATS}"}, first],
            "beta": [ours | {"stop": "beta:0.8"}, first],
            "every": [],
        }
        results = evaluate(Recorded(), task(votes=votes), log_samples=True)
        yield SimpleNamespace(
            results=results, task=task, evaluate=evaluate, folder=folder, model=Recorded,
            module=lm_eval_harness, lm_eval=lm_eval,
        )  # fmt: skip


def outputs(harness, label):
    """What a filter leaves of each document, by document."""
    records = [r for r in harness.results["samples"]["sums"] if r["filter"] == label]
    return [r["filtered_resps"][0] for r in sorted(records, key=lambda r: r["doc_id"])]


def numbers_of(a, b, k=REPEATS):
    found = [last_number()(text) for text in answers(a, b)[:k]]
    return [str(n) for n in found if n is not None]


# --- the filter -----------------------------------------------------------------------------------


def test_the_filter_votes_as_lm_evals_own_but_for_invalid_answers(harness):
    for label, k in (("ours@5", 5), ("ours", REPEATS)):
        expected = [Counter(numbers_of(a, b, k)).most_common(1)[0][0] for a, b in SUMS]
        assert outputs(harness, label) == expected
    theirs = outputs(harness, "theirs@5")
    assert "[invalid]" not in outputs(harness, "ours@5")
    for (a, b), one, other in zip(SUMS, theirs, outputs(harness, "ours@5"), strict=True):
        if "no idea" not in answers(a, b)[:5]:
            assert one == other
    accuracy = harness.results["results"]["sums"]
    right = [str(a + b) == out for (a, b), out in zip(SUMS, outputs(harness, "ours"), strict=True)]
    assert accuracy["exact_match,ours"] == np.mean(right)
    assert 0 < np.mean(right) < 1


def test_a_stopping_rule_ends_the_vote_early(harness, caplog):
    assert outputs(harness, "curtailed") == outputs(harness, "ours")
    caplog.set_level(logging.INFO)
    stopping = harness.module.MajorityFilter(stop="curtailed:6", null="?")
    resps = [["a", "b", "a", "a", "b", "b"], ["a"] * 6, ["?"] * 6, ["?", "b", "?", "a", "?", "b"]]
    assert stopping.apply(resps, [{}] * 4) == [["a"], ["a"], ["?"], ["b"]]
    assert "Curtailed(6) used 22 of 24 responses" in caplog.text
    early = harness.module.MajorityFilter(stop="beta:0.8")
    assert early.apply([["a", "a", "b", "b", "b", "b", "b"]], [{}]) == [["a"]]


def test_what_the_filter_cannot_do_it_says(harness):
    majority = harness.module.MajorityFilter
    with pytest.raises(ValueError, match="k=4 responses are asked for and a document has 3"):
        majority(k=4).apply([["a"] * 4, ["a"] * 3], [{}, {}])
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        majority(k=0)
    with pytest.raises(ValueError, match="no stopping rule 'often'"):
        majority(stop="often")
    assert majority(k=2).apply([["b", "a", "a"]], [{}]) == [["b"]]


# --- logged samples -------------------------------------------------------------------------------


def test_results_become_a_table(harness):
    table = adapters.lm_eval(harness.results, extract=last_number())
    assert isinstance(table, SampleTable)
    assert table.prompt_ids == [f"sums/{i}" for i in range(len(SUMS))]
    assert len(table) == REPEATS * len(SUMS)
    for i, (a, b) in enumerate(SUMS):
        rows = table.rows(f"sums/{i}")
        assert table.texts[rows] == answers(a, b)
        counts = {str(key): count for key, count in table.counts(f"sums/{i}").items()}
        assert counts == Counter(numbers_of(a, b))
    targets = logged_targets(harness.results, extract=last_number())
    assert targets == {f"sums/{i}": a + b for i, (a, b) in enumerate(SUMS)}
    right = table.correct(targets)
    assert [right[table.rows(f"sums/{i}")].sum() for i in range(len(SUMS))] == [
        numbers_of(a, b).count(str(a + b)) for a, b in SUMS
    ]
    # What the table is for: an estimate over all subsets of five instead of the first five.
    counts = table.counts("sums/0")
    order = [targets["sums/0"], *(key for key in counts if key != targets["sums/0"])]
    null = REPEATS - sum(counts.values())
    assert 0 < maj_at_k([counts[key] for key in order], 5, null=null) < 1


def test_the_output_of_a_filter_can_be_the_answer(harness):
    table = read_logged_samples(harness.results, filter="every")
    for i, (a, b) in enumerate(SUMS):
        assert Counter(table.counts(f"sums/{i}")) == Counter(numbers_of(a, b))
    same = read_logged_samples(harness.results, filter="every", equal=numeric())
    assert [table.counts(p) for p in table.prompt_ids] != [same.counts(p) for p in same.prompt_ids]
    with pytest.raises(ValueError, match=r"filter 'ours' leaves 1 outputs of the 12 responses"):
        read_logged_samples(harness.results, filter="ours")
    with pytest.raises(ValueError, match=r"of the filter 'absent'; there are \['beta'"):
        read_logged_samples(harness.results, filter="absent")
    with pytest.raises(ValueError, match="not both"):
        read_logged_samples(harness.results, filter="every", extract=last_number())


def test_the_file_that_lm_eval_writes_is_read_alike(harness):
    from lm_eval.loggers import EvaluationTracker

    copied = json.loads(json.dumps(harness.results["samples"]["sums"], default=str))
    tracker = EvaluationTracker(output_path=str(harness.folder / "out"))
    tracker.general_config_tracker.model_name_sanitized = "recorded"
    tracker.date_id = "2025-01-31T12-00-00.000000"
    tracker.save_results_samples("sums", copied)
    (path,) = (harness.folder / "out").rglob("samples_*.jsonl")
    table, same = (adapters.lm_eval(s, extract=last_number()) for s in (path, harness.results))
    assert table.texts == same.texts and table.prompt_ids == same.prompt_ids
    assert table.keys == same.keys and table.key_S.tolist() == same.key_S.tolist()
    assert logged_targets(str(path), extract=last_number()) == logged_targets(
        harness.results, extract=last_number()
    )
    plain = path.with_name("mine.jsonl")
    plain.write_text(path.read_text())
    assert adapters.lm_eval(plain).prompt_ids == [str(i) for i in range(len(SUMS))]


def test_lists_of_records_and_what_is_no_sample():
    one = {"doc_id": 3, "resps": [["4", "5"]], "target": "4", "filter": "none"}
    table = adapters.lm_eval([one, one | {"filter": "other"}])
    assert table.prompt_ids == ["3"] and table.counts("3") == {"4": 1, "5": 1}
    assert logged_targets([one]) == {"3": "4"}
    for records, match in (
        ([], "there are no logged samples"),
        ([{"doc_id": 3}], "has doc_id and resps"),
        ([one, one | {"resps": [["6"]]}], "document 3 is logged twice with different responses"),
        ([one | {"resps": [[(-1.5, True)], [(-2.0, False)]]}], "are no texts"),
        ({"results": {}}, "log_samples=True"),
    ):
        with pytest.raises(ValueError, match=match):
            adapters.lm_eval(records)


# --- a strategy as the model ----------------------------------------------------------------------


def test_a_strategy_answers_a_task(harness):
    seen = []

    def answer(prompt, request, params):
        a, b = map(int, prompt.removesuffix("?").split("+"))
        seen.append((prompt, params, request.seed))
        return answers(a, b)[request.sample_index]

    strategy = SelfConsistency(
        from_function(answer), extract=last_number(), stop=Curtailed(REPEATS), wave="boundary"
    )
    model = harness.module.StrategyLM(strategy, Sampling(0.9, stop=("##",)), seed=4)
    results = harness.evaluate(model, harness.task("voted", repeats=1))
    accuracy = results["results"]["voted"]["exact_match,none"]
    assert accuracy == harness.results["results"]["sums"]["exact_match,ours"]
    assert model.usage.submitted == len(seen) < REPEATS * len(SUMS)
    asked = Sampling(0.9, max_tokens=33, stop=("##", "\n\n", "Q:"))
    assert all(params == asked for _, params, _ in seen)
    assert sorted(model.results) == [f"voted/{i}/0" for i in range(len(SUMS))]
    assert model.results["voted/0/0"].guarantee == "lossless"


def test_repeats_are_drawn_independently_and_chats_arrive_as_messages(harness):
    seen = []

    def answer(prompt, seed):
        seen.append((prompt, seed))
        return random.Random(seed).choice(["2", "3"])

    strategy = SelfConsistency(from_function(answer), stop=FixedN(2))
    model = harness.module.StrategyLM(strategy)
    harness.evaluate(
        model, harness.task("chat", repeats=3), limit=2, apply_chat_template=True,
        system_instruction="Be brief.",
    )  # fmt: skip
    assert len(model.results) == 6 and model.usage.submitted == 12
    assert len({seed for _, seed in seen}) == 12
    assert {json.dumps(prompt) for prompt, _ in seen} == {
        json.dumps(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
        )
        for question in ("1+1?", "2+3?")
    }


def test_tasks_that_compare_likelihoods_are_refused(harness):
    strategy = SelfConsistency(from_function(lambda prompt: "a"), stop=FixedN(1))
    choices = harness.task(
        "choice", repeats=1, output_type="multiple_choice", doc_to_choice=["a", "b"],
        doc_to_target=0, generation_kwargs=None, filter_list=None,
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    with pytest.raises(NotImplementedError, match="answers tasks that generate"):
        harness.evaluate(harness.module.StrategyLM(strategy), choices)
    with pytest.raises(NotImplementedError, match="answers tasks that generate"):
        harness.module.StrategyLM(strategy).loglikelihood_rolling([])


def test_without_lm_eval_samples_are_read_and_the_rest_says_what_to_install():
    code = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from modicum.testtime import adapters\n"
        "print(adapters.lm_eval([{'doc_id': 0, 'resps': [['a']]}]).texts)\n"
        "import modicum.testtime.integrations.lm_eval_harness"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout.strip() == "['a']"
    assert "pip install lm-eval" in result.stderr.splitlines()[-1]
