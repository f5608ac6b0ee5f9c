"""Sample tables: columns in and out, counts per prompt, correct answers."""

import json
import random

import numpy as np
import pytest

from modicum.testtime import backends
from modicum.testtime.log import FORMAT
from modicum.testtime.recorded import maj_at_k
from modicum.testtime.samples import Sample
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.table import SampleTable


def some_samples():
    return [
        Sample("q", 1, 5, "b!", key="b", reward=0.5, n_tokens=3, used=False),
        Sample("p", 0, 6, "a!", key="a", n_prompt_tokens=4, logprob_sum=-1.5, latency_s=0.25),
        Sample("q", 0, 2**63 - 1, "?", finish_reason="length", expert="cot", round=2),
        Sample("q", 2, 0, "tuple", key=("b", 1), tool_calls=({"function": {"name": "f"}},)),
        Sample("p", 1, 0, "b", key="b", reward=-1.0),
    ]


def test_columns_are_grouped_by_prompt_and_in_order_of_submission():
    table = SampleTable.from_samples(some_samples())
    assert table.prompt_ids == ["q", "p"]
    assert table.keys == ["b", ("b", 1), "a"]
    assert table.prompt_S.tolist() == [0, 0, 0, 1, 1]
    assert table.sample_index_S.tolist() == [0, 1, 2, 0, 1]
    assert table.key_S.tolist() == [-1, 0, 1, 2, 0]
    np.testing.assert_array_equal(table.reward_S, [np.nan, 0.5, np.nan, np.nan, -1.0])
    np.testing.assert_array_equal(table.logprob_sum_S, [np.nan, np.nan, np.nan, -1.5, np.nan])
    assert table.used_S.tolist() == [True, False, True, True, True]
    assert table.seed_S.tolist() == [2**63 - 1, 5, 0, 6, 0]
    assert table.texts == ["?", "b!", "tuple", "a!", "b"]
    assert table.finish_reasons[0] == "length" and table.experts[0] == "cot"
    assert table.round_S.tolist() == [2, 0, 0, 0, 0]
    assert len(table) == 5
    for name in ("prompt_S", "sample_index_S", "seed_S", "key_S", "n_tokens_S", "round_S"):
        assert getattr(table, name).dtype == np.int64
    assert table.reward_S.dtype == np.float64 and table.used_S.dtype == np.bool_


def test_samples_come_back():
    back = list(SampleTable.from_samples(some_samples()).samples())
    expected = sorted(some_samples(), key=lambda s: (s.prompt_id != "q", s.sample_index))
    assert back == expected


def test_an_empty_table(tmp_path):
    table = SampleTable.from_samples([])
    assert len(table) == 0 and list(table.groups()) == []
    table.to_jsonl(tmp_path / "none.jsonl")
    assert len(SampleTable.from_jsonl(tmp_path / "none.jsonl")) == 0


def test_the_same_index_twice_is_refused():
    with pytest.raises(ValueError, match="prompt 'q' has two samples of index 1"):
        SampleTable.from_samples([*some_samples(), Sample("q", 1, 0, "again")])


def test_files_survive(tmp_path):
    table = SampleTable.from_samples(some_samples(), {"seed": 4})
    table.to_jsonl(tmp_path / "table.jsonl")
    back = SampleTable.from_jsonl(tmp_path / "table.jsonl")
    assert list(back.samples()) == list(table.samples())
    assert back.header == {"format": FORMAT, "seed": 4}
    back.to_jsonl(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "table.jsonl").read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_groups_and_counts():
    table = SampleTable.from_samples(some_samples())
    assert list(table.groups()) == [("q", slice(0, 3)), ("p", slice(3, 5))]
    assert table.rows("p") == slice(3, 5)
    assert table.counts("q") == {"b": 1, ("b", 1): 1}
    assert table.counts("q", used_only=True) == {("b", 1): 1}
    assert table.counts("p") == {"a": 1, "b": 1}
    with pytest.raises(KeyError, match="no prompt has the id 'r'"):
        table.rows("r")


def test_correct_answers():
    table = SampleTable.from_samples(some_samples())
    assert table.correct({"q": "b", "p": "b"}).tolist() == [False, True, False, False, True]
    assert table.correct({"q": ("b", 1), "p": "never seen"}).tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]
    with pytest.raises(KeyError, match="no answer is given for prompt 'p'"):
        table.correct({"q": "b"})


def test_a_run_a_log_and_a_table_hold_the_same(tmp_path):
    def draw(prompt, seed):
        return random.Random(seed).choice("aab")

    strategy = SelfConsistency(backends.callable(draw), stop=FixedN(12))
    results = strategy.run(["p", "q", "r"], log=tmp_path / "log.jsonl")
    table = results.table()
    logged = SampleTable.from_jsonl(tmp_path / "log.jsonl")
    by_name = lambda s: (s.prompt_id, s.sample_index)  # noqa: E731
    assert sorted(logged.samples(), key=by_name) == sorted(table.samples(), key=by_name)
    assert logged.header["rule"] == "FixedN(12)"
    for result in results:
        counts = table.counts(result.prompt_id)
        assert counts == result.votes
        recorded = [counts["a"], counts["b"]]
        assert maj_at_k(recorded, 12) == (
            1.0 if counts["a"] > counts["b"] else 0.5 if counts["a"] == counts["b"] else 0.0
        )
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["seed"] == 0
