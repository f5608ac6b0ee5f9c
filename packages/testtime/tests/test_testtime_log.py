"""The log: what is written comes back, whatever cut the file, and nothing stands there twice."""

import json
import math
import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.testtime.log import (
    FORMAT,
    SampleLog,
    completion_from_record,
    decode_key,
    encode_key,
    prompt_digest,
    read_samples,
    sample_from_record,
    sample_to_record,
)
from modicum.testtime.samples import Sample

HEADER = {"seed": 1, "params": {"stop": ("\n",)}, "rule": "FixedN(3)", "verifier": None}


def sample(prompt_id="q", index=0, **fields):
    return Sample(prompt_id, index, 11 + index, fields.pop("text", f"text {index}"), **fields)


def lines(path):
    return path.read_bytes().splitlines()


def write(path, count=3, header=HEADER):
    with SampleLog(path, header) as log:
        for index in range(count):
            log.append(sample(index=index, key="a", reward=0.5))


# Keys and samples --------------------------------------------------------------------------------

keys = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(derandomize=True, max_examples=150)
@given(keys)
def test_keys_survive_json(key):
    back = decode_key(json.loads(json.dumps(encode_key(key), allow_nan=False)))
    assert back == key
    assert type(back) is type(key)


def test_keys_that_json_cannot_hold_are_kept_as_text():
    assert decode_key(encode_key(Fraction(1, 3))) == "Fraction(1, 3)"
    assert encode_key(np.int64(3)) == 3 and type(encode_key(np.int64(3))) is int
    assert encode_key(np.float64(0.5)) == 0.5
    assert math.isnan(decode_key(encode_key(math.nan)))
    for bad in ({"$other": 1}, [1, 2], {"$tuple": [], "$set": []}):
        with pytest.raises(ValueError, match="not a key"):
            decode_key(bad)


def test_samples_survive_records():
    full = sample(
        key=("f", 1),
        reward=-0.25,
        finish_reason="length",
        n_prompt_tokens=5,
        n_tokens=7,
        latency_s=0.5,
        logprob_sum=-3.5,
        used=False,
        expert="cot",
        round=2,
        tool_calls=({"function": {"name": "f", "arguments": "{}"}},),
    )
    for one in (full, sample()):
        record = json.loads(json.dumps(sample_to_record(one)))
        assert sample_from_record(record) == one
    completion = completion_from_record(sample_to_record(full))
    assert (completion.text, completion.finish_reason) == (full.text, "length")
    assert (completion.logprob_sum, completion.n_tokens) == (-3.5, 7)
    assert completion.tool_calls == full.tool_calls
    assert "expert" not in sample_to_record(sample())
    with pytest.raises(ValueError, match="needs the field 'text'"):
        sample_from_record({"prompt_id": "q", "sample_index": 0})


def test_digests_tell_prompts_apart():
    prompts = ["a", "b", [{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}], ""]
    digests = {prompt_digest(prompt) for prompt in prompts}
    assert len(digests) == len(prompts)
    assert all(len(digest) == 16 for digest in digests)
    assert prompt_digest("\ud800") != prompt_digest("\ud801")


# The file ----------------------------------------------------------------------------------------


def test_a_new_file_has_a_header_and_a_line_per_sample(tmp_path):
    path = tmp_path / "deep" / "run.jsonl"
    write(path)
    first, *rest = map(json.loads, lines(path))
    assert first == {"format": FORMAT, **HEADER, "params": {"stop": ["\n"]}}
    assert [record["sample_index"] for record in rest] == [0, 1, 2]
    assert rest[0]["key"] == "a" and rest[0]["used"] is True


def test_lines_are_in_the_file_at_once(tmp_path):
    with SampleLog(tmp_path / "run.jsonl") as log:
        log.append(sample())
        assert len(lines(tmp_path / "run.jsonl")) == 2
    assert log.closed
    log.close()


@pytest.mark.parametrize(
    "text", ["", "ünï✓", "two\nlines\r\n", "\u2028\u2029\x85", "\x00", "\ud83d", "x" * 50_000]
)
def test_any_text_comes_back(text, tmp_path):
    with SampleLog(tmp_path / "run.jsonl") as log:
        log.append(sample(text=text))
        log.append(sample(index=1))
    with SampleLog(tmp_path / "run.jsonl") as log:
        assert log.get("q", 0)["text"] == text
        assert log.get("q", 1)["text"] == "text 1"
        assert log.get("q", 2) is None
        assert log.get("r", 0) is None
        assert len(log) == 2
        assert ("q", 1) in log and ("q", 2) not in log and ("r", 0) not in log
    assert [s.text for s in read_samples(tmp_path / "run.jsonl")[1]] == [text, "text 1"]


def test_a_sample_is_written_once(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    with SampleLog(path, HEADER) as log:
        with pytest.raises(ValueError, match="already has sample 2 of prompt 'q'"):
            log.append(sample(index=2))
        log.append(sample(index=3))
        with pytest.raises(ValueError, match="already has sample 3"):
            log.append(sample(index=3))
    doubled = b"\n".join([*lines(path), lines(path)[2]]) + b"\n"
    path.write_bytes(doubled)
    with pytest.raises(ValueError, match=r"line 6: .* already has sample 1"):
        SampleLog(path, HEADER)
    with pytest.raises(ValueError, match="line 6: sample 1 of prompt 'q' again"):
        read_samples(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "its seed is 1, this run's is 2"),
        ({"rule": "FixedN(4)"}, r"its rule is 'FixedN\(3\)', this run's is 'FixedN\(4\)'"),
        ({"extra": 1}, "its extra is None, this run's is 1"),
        ({"params": {}}, "its params is"),
        ({"verifier": "judge"}, "its verifier is None"),
    ],
)
def test_a_file_of_another_run_is_refused(change, message, tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        SampleLog(path, {**HEADER, **change})
    assert path.read_bytes() == before
    (field,) = change
    with SampleLog(path, {**HEADER, **change}, may_differ=[field]) as log:
        assert len(log) == 3
        assert log.header["seed"] == 1
        assert log.get("q", 0)["reward"] == (None if field == "verifier" else 0.5)


def test_the_version_of_the_package_may_differ(tmp_path):
    write(tmp_path / "run.jsonl", header={**HEADER, "version": "0.1"})
    with SampleLog(tmp_path / "run.jsonl", {**HEADER, "version": "0.2"}) as log:
        assert log.header["version"] == "0.1"


def test_a_format_of_the_future_is_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 2', 1))
    with pytest.raises(ValueError, match="its format is 2"):
        SampleLog(path, HEADER)


def test_a_file_without_a_header_is_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(sample_to_record(sample())) + "\n")
    with pytest.raises(ValueError, match="first line is no header"):
        SampleLog(path)
    path.write_text('{"some": "json"}\n')
    with pytest.raises(ValueError, match="first line is no header"):
        SampleLog(path)
    path.write_text('{"format": 1}\n{"text": "x"}\n')
    with pytest.raises(ValueError, match="line 2: no sample of a prompt"):
        SampleLog(path)


def test_every_cut_is_survived(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        # A line without its newline is whole; it gets the newline.
        kept = sum(end <= cut + 1 for end in ends)
        if cut == 0 or cut in ends or cut + 1 in ends:
            log = SampleLog(path, HEADER)
        else:
            with pytest.warns(UserWarning, match="was cut and is dropped"):
                log = SampleLog(path, HEADER)
        with log:
            assert len(log) == max(0, kept - 1)
            log.append(sample(index=9))
        assert len(lines(path)) == max(1, kept) + 1
        assert [s.sample_index for s in read_samples(path)[1]] == [*range(max(0, kept - 1)), 9]


@pytest.mark.parametrize("rubbish", [b'{"prompt_id": "q", "sam\n', b"[1, 2]\n", b"\xff\xfe\n"])
def test_rubbish_at_the_end_is_dropped_and_elsewhere_an_error(rubbish, tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole + rubbish)
    with (
        pytest.warns(UserWarning, match=r"last line \(5\) was cut"),
        SampleLog(path, HEADER) as log,
    ):
        assert len(log) == 3
    assert path.read_bytes() == whole
    first, rest = whole.split(b"\n", 1)
    path.write_bytes(first + b"\n" + rubbish + rest)
    with pytest.raises(ValueError, match=r"run.jsonl, line 2 is not readable"):
        SampleLog(path, HEADER)
    assert path.read_bytes() == first + b"\n" + rubbish + rest


def test_amendments_win(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path) as log:
        log.append(sample(key=None, used=False))
        log.append(sample(index=1, key="b", used=False))
        log.amend(sample(key=("t", 1), reward=0.75, used=True), feedback="well done")
        with pytest.raises(ValueError, match="has no sample 5 of prompt 'q' to amend"):
            log.amend(sample(index=5))
    with SampleLog(path) as log:
        record = log.get("q", 0)
        assert (record["used"], record["reward"], record["text"]) == (True, 0.75, "text 0")
        assert record["feedback"] == "well done"
        assert log.get("q", 1)["used"] is False
        assert len(log) == 2
    amended, other = read_samples(path)[1]
    assert (amended.key, amended.reward, amended.used) == (("t", 1), 0.75, True)
    assert (other.key, other.used) == ("b", False)


def test_digests_and_feedback_are_kept(tmp_path):
    with SampleLog(tmp_path / "run.jsonl") as log:
        log.append(sample(), prompt_digest("hello"), "too short")
    with SampleLog(tmp_path / "run.jsonl") as log:
        assert log.get("q", 0)["prompt"] == prompt_digest("hello")
        assert log.get("q", 0)["feedback"] == "too short"


def test_a_file_changed_under_our_hands_is_noticed(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    with SampleLog(path, HEADER) as log:
        path.write_bytes(path.read_bytes().replace(b'"sample_index": 1', b'"sample_index": 7'))
        with pytest.raises(ValueError, match="changed while it was open"):
            log.get("q", 1)


def test_a_sample_with_a_reward_that_json_cannot_hold_is_refused(tmp_path):
    with SampleLog(tmp_path / "run.jsonl") as log, pytest.raises(ValueError):
        log.append(sample(reward=math.nan))


# Reading without a run ---------------------------------------------------------------------------


def test_plain_files_of_samples_are_read(tmp_path):
    path = tmp_path / "plain.jsonl"
    records = [{"prompt_id": "q", "sample_index": i, "text": str(i)} for i in range(3)]
    path.write_text("\n\n".join(map(json.dumps, records)))
    header, samples = read_samples(path)
    assert header == {}
    assert samples == [Sample("q", i, 0, str(i)) for i in range(3)]


def test_reading_names_the_line_and_tolerates_a_cut_end(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    header, samples = read_samples(path)
    assert header["seed"] == 1 and len(samples) == 2
    path.write_bytes(whole.replace(b'"sample_index": 1, ', b""))
    with pytest.raises(ValueError, match="line 3 is not readable: KeyError"):
        read_samples(path)
    with pytest.raises(FileNotFoundError):
        read_samples(tmp_path / "none.jsonl")


def test_a_log_that_cannot_be_opened_leaves_no_open_file(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    count = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(ValueError):
        SampleLog(path, {"seed": 5})
    assert not count or len(os.listdir("/proc/self/fd")) == count


def test_two_runs_cannot_write_one_log(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "log.jsonl"
    with (
        SampleLog(path),
        pytest.raises(BlockingIOError, match="open in another run"),
    ):
        SampleLog(path)
    SampleLog(path).close()
