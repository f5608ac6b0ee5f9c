"""Files of log-probabilities: every form, the same values; a sentence for each that is none."""

import json

import pytest

from modicum.umpwatermark.integrations.logprob_files import read_logprobs

IDS, LOGPROBS = [5, 7, 4], [-0.5, -2.0, -0.25]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


VLLM = {
    "prompt_token_ids": IDS,
    "prompt_logprobs": [None, {"7": {"logprob": -2.0}}, {"4": {"logprob": -0.25}, "1": -3.0}],
}
OPENAI = {"ids": IDS, "logprobs": {"token_logprobs": LOGPROBS, "tokens": ["a", "b", "c"]}}


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        (LOGPROBS, None),
        ([{"id": i, "logprob": p} for i, p in zip(IDS, LOGPROBS, strict=True)], IDS),
        ([{"token_id": i, "logprob": p} for i, p in zip(IDS, LOGPROBS, strict=True)], IDS),
        ([LOGPROBS], None),
        ([{"ids": IDS, "logprobs": LOGPROBS}], IDS),
        ([{"token_ids": IDS, "token_logprobs": LOGPROBS}], IDS),
        ([OPENAI], IDS),
    ],
)
def test_every_form_gives_the_same(tmp_path, rows, ids):
    (found,) = read_logprobs(write(tmp_path / "lp.jsonl", *rows))
    assert found.ids == ids and found.logprobs == LOGPROBS
    (rest,) = read_logprobs(tmp_path / "lp.jsonl", start=1)
    assert rest.ids == (None if ids is None else ids[1:]) and rest.logprobs == LOGPROBS[1:]


def test_prompt_logprobs_leave_the_first_token_unknown(tmp_path):
    path = write(tmp_path / "lp.jsonl", VLLM)
    (found,) = read_logprobs(path)
    assert found.ids == IDS and found.logprobs == [None, -2.0, -0.25]
    (rest,) = read_logprobs(path, start=1)
    assert rest.ids == IDS[1:] and rest.logprobs == [-2.0, -0.25]


def test_several_responses_keep_their_names(tmp_path):
    rows = [{"id": "one", "ids": IDS, "logprobs": LOGPROBS}, LOGPROBS[:2]]
    found = read_logprobs(write(tmp_path / "lp.jsonl", *rows))
    assert [row.name for row in found] == ["one", "2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no log-probabilities"),
        ("hello\n", "lp.jsonl:1 is not JSON"),
        ("-1.0\n[-2.0]\n", "lp.jsonl:2: some lines hold one token"),
        ('{"text": "a"}\n', "lp.jsonl:1: no field called"),
        ('"a"\n', "lp.jsonl:1: expected log-probabilities"),
        ("[true]\n", "must be a number, got True"),
        ('{"ids": [1.5], "logprobs": [-1]}\n', "lp.jsonl:1: token ids must be"),
        ('{"ids": [1, 2], "logprobs": [-1]}\n', "1 log-probabilities for 2 ids"),
        ('{"prompt_logprobs": [null]}\n', "need prompt_token_ids"),
        ('{"id": 1, "logprob": -1}\n{"logprob": -1}\n', "some tokens have an id"),
    ],
)
def test_what_is_no_log_probability_is_refused_by_line(tmp_path, text, words):
    path = tmp_path / "lp.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"lp\.jsonl") as caught:
        read_logprobs(path)
    assert words in str(caught.value)


def test_another_temperature_needs_alternatives(tmp_path):
    for rows in (LOGPROBS, [LOGPROBS]):
        with pytest.raises(ValueError, match="alternatives"):
            read_logprobs(write(tmp_path / "lp.jsonl", *rows), temperature=0.5)
    (found,) = read_logprobs(write(tmp_path / "lp.jsonl", VLLM), temperature=0.5)
    assert found.logprobs[1] == 0.0 and -0.25 < found.logprobs[2] < 0
    with pytest.raises(ValueError, match="at least 0"):
        read_logprobs(tmp_path / "lp.jsonl", start=-1)
