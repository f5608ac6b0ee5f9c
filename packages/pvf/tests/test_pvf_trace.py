"""Traces: written while a decoding goes, read back with checks, shown in a terminal."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pvf_models import MASK, random_predictor
from rich.console import Console

from modicum.pvf import PVF, Threshold, generate, infill
from modicum.pvf.tiny import STYLE_IDS, TinyConfig, TinyMDLM
from modicum.pvf.trace import LETTERS, Trace, record, replay, visible

PLAN = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(20))
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11]]
SHAPE = {"gen_length": 20, "block_length": 8}


class Padded:
    """A model whose columns do not see padding, for ragged prompts."""

    def __init__(self, seed):
        self.model = random_predictor(seed)
        for name in ("mask_id", "eos_id", "vocab_size", "device", "canvas"):
            setattr(self, name, getattr(self.model, name))

    def forward(self, ids, mask, positions):
        rows = [
            self.model.forward(ids[row : row + 1, : ids.shape[1]], None, positions[row : row + 1])
            for row in range(len(ids))
        ]
        return torch.cat(rows)


def tiny():
    return TinyMDLM(TinyConfig(layers=1, width=16, heads=2, inner=16), seed=3)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([PLAN, Threshold(0.5)]), st.integers(1, 3))
def test_a_trace_gives_back_what_was_decoded(tmp_path_factory, seed, strategy, batch_size):
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    model = Padded(seed)
    options = {**SHAPE, "batch_size": batch_size}
    out = record(path, model, PROMPTS, strategy=strategy, **options)
    plain = generate(model, PROMPTS, strategy=strategy, return_trace=True, **options)
    assert torch.equal(out.sequences, plain.sequences)
    trace = Trace.read(path)
    assert trace.is_complete
    assert trace.commits == plain.trace
    for number, prompt in enumerate(PROMPTS):
        assert trace.canvas(number, 0) == prompt + [MASK] * SHAPE["gen_length"]
        width = len(prompt) + SHAPE["gen_length"]
        assert trace.canvas(number) == out.sequences[number, :width].tolist()
        cost, stats = trace.cost(number), out.stats[number]
        assert (cost.calls, cost.rows, cost.tokens) == (stats.nfe, stats.rows, stats.tokens)
        assert cost.committed == stats.committed


def test_infilled_canvases_are_recorded_as_they_were(tmp_path):
    canvas = torch.randint(1, MASK, (2, 30), generator=torch.Generator().manual_seed(0))
    canvas[:, 4:9] = MASK
    canvas[1, 20:28] = MASK
    options = {"strategy": PLAN, "block_length": 6}
    out = record(tmp_path / "t.jsonl", random_predictor(2), canvas, infilling=True, **options)
    trace = Trace.read(tmp_path / "t.jsonl")
    assert [trace.canvas(number, 0) for number in range(2)] == canvas.tolist()
    assert [trace.canvas(number) for number in range(2)] == out.sequences.tolist()
    assert torch.equal(out.sequences, infill(random_predictor(2), canvas, **options).sequences)


def test_texts_of_all_tokens_are_there_and_settings_too(tmp_path):
    out = record(
        tmp_path / "t.jsonl",
        tiny(),
        "a 3 , k 7 , m 1 , t 5 ,",
        strategy=PVF(plan_vocab=STYLE_IDS),
        gen_length=32,
        block_length=16,
    )
    trace = Trace.read(tmp_path / "t.jsonl")
    words = [trace.text(token) for token in trace.canvas(0)]
    assert words[:5] == ["a", "3", ",", "k", "7"]
    assert " ".join(words[12:]).startswith(out.texts[0])
    assert trace.config["strategy"]["strategy"] == "pvf"
    assert trace.config["strategy"]["plan_vocab"]["ids"] == list(STYLE_IDS)
    assert (trace.config["gen_length"], trace.config["block_length"]) == (32, 16)
    assert set(trace.versions) == {"python", "modicum-pvf", "torch"}


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pvf_models import random_predictor
from modicum.pvf import PVF
from modicum.pvf.trace import record
calls = []
def on_step(commits):
    calls.append(commits)
    if len(calls) == 6:
        print(sum(map(len, calls)), flush=True)
        os._exit(9)
plan = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(20))
record(sys.argv[1], random_predictor(1), [[1, 2, 3]], strategy=plan, gen_length=20,
       block_length=8, on_step=on_step)
"""


def test_a_killed_run_loses_nothing_that_was_written_and_no_older_trace(tmp_path):
    path = tmp_path / "t.jsonl"
    record(path, random_predictor(1), [[1, 2, 3]], strategy=PLAN, **SHAPE)
    older = path.read_bytes()
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 9, done.stderr
    assert path.read_bytes() == older
    part = path.with_name("t.jsonl.part")
    cut = Trace.read(part)
    assert not cut.is_complete
    assert len(cut.commits[0]) == int(done.stdout) > 0
    assert cut.commits[0] == Trace.read(path).commits[0][: len(cut.commits[0])]
    assert (cut.cost(0).token_evals, cut.cost(0).seconds) == (None, None)
    # A line that was cut while it was written is left out.
    part.write_bytes(part.read_bytes()[:-5])
    assert Trace.read(part).commits[0] == cut.commits[0][:-1]


@pytest.mark.parametrize(
    "options",
    [{"gen_length": -1}, {"gen_length": 8, "block_length": 0}, {"gen_length": 8, "batch_size": 0}],
)
def test_bad_arguments_leave_the_part_of_a_killed_run_alone(tmp_path, options):
    path, part = tmp_path / "t.jsonl", tmp_path / "t.jsonl.part"
    with pytest.raises(ValueError, match=r"(_length|batch_size) must"):
        record(tmp_path / "new" / "t.jsonl", random_predictor(1), [[1]], strategy=PLAN, **options)
    assert not (tmp_path / "new").exists()
    part.write_text("what is left of a run")
    with pytest.raises(ValueError, match=r"(_length|batch_size) must"):
        record(path, random_predictor(1), [[1]], strategy=PLAN, **options)
    assert part.read_text() == "what is left of a run"


def test_a_share_of_a_longer_list_has_numbers_of_its_own(tmp_path):
    heard = []
    model = random_predictor(1)
    options = {"strategy": PLAN, "temperature": 1.0, **SHAPE}
    record(tmp_path / "t.jsonl", model, [[1, 2], [3, 4]], first_prompt=5, on_step=heard.extend,
           **options)  # fmt: skip
    trace = Trace.read(tmp_path / "t.jsonl")
    shared = generate(model, [[1, 2], [3, 4]], first_prompt=5, **options)
    assert [trace.canvas(number) for number in (0, 1)] == shared.sequences.tolist()
    assert {commit.sequence for commit in heard} == {5, 6}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "t.jsonl"
    record(path, random_predictor(1), [[1, 2, 3]], strategy=PLAN, **SHAPE)
    return [json.loads(line) for line in path.read_text().splitlines()]


def with_change(line, *keys, value):
    inner = line
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value


@pytest.mark.parametrize(
    ("number", "keys", "value", "message"),
    [
        (0, ("header", "format"), 2, "line 1 has format 2; this version reads format 1"),
        (0, ("header", "mask_id"), "0", "line 1 has mask_id '0'"),
        (0, ("header", "canvases", 0, "length"), 21, "line 1 has a span of 21 columns"),
        (0, ("header", "canvases", 0, "ids", 1), -4, "line 1 has ids -4"),
        (0, ("header", "strings"), {"x": "y"}, "line 1 has the string 'x'"),
        (1, ("commit", "sequence"), 1, "line 2 has sequence 1; the header has 1"),
        (1, ("commit", "route"), "hot", "line 2 has route 'hot'"),
        (1, ("commit", "reasons", 0), "Q", "line 2 has the reason 'Q'"),
        (1, ("commit", "confidences", 0), 1.5, "line 2 has the confidence 1.5"),
        (1, ("commit", "positions", 0), 0, "line 2 commits position 0, which is not open"),
        (1, ("commit", "tokens"), [], "positions and 0 tokens"),
        (1, ("commit", "rejected"), [3], "line 2 has the rejected draft 3"),
        (1, ("commit", "rejected"), None, "line 2 must have a list 'rejected'"),
        (2, ("commit", "call"), 0, "line 3 has call 0 after call"),
        (2, ("commit", "rows"), 0, "line 3 has rows 0"),
        (-1, ("stats",), [], "must have the statistics of 1 sequences"),
        (-1, ("stats", 0), {"speed": 1}, "statistics that are not known"),
        (-1, ("stats", 0), {"nfe": 1}, "statistics that are not known"),
        (-1, ("stats", 0, "nfe"), "6", "statistics with nfe '6'"),
        (-1, ("stats", 0, "seconds"), None, "statistics with seconds None"),
        (-1, ("stats", 0, "rows"), -1, "statistics with rows -1"),
        (-1, ("stats", 0, "committed"), 3, "has committed 3, which is no object"),
        (-1, ("stats", 0, "committed"), {"H": 1}, "statistics of the reasons ['H']"),
        (-1, ("stats", 0, "committed", "H"), "1", "statistics with H '1'"),
        (0, ("header", "config"), [1], "has config [1], which is no object"),
        (0, ("header", "versions"), "abc", "has versions 'abc', which is no object"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(lines, tmp_path, number, keys, value, message):
    changed = json.loads(json.dumps(lines))
    with_change(changed[number], *keys, value=value)
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(ValueError, match=r"t\.jsonl, line") as caught:
        Trace.read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty or cut off"),
        (b'{"header": {"form', "is empty or cut off"),
        (b"{}\n", "line 1 must be the header"),
        (b"[1]\n", "line 1 must be an object"),
        (b"not json\n", "line 1 is not JSON"),
        (b"\xff\xfe\n", "line 1 is not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Trace.read(path)


def test_a_position_is_committed_once(lines, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:2], *lines[1:]]))
    with pytest.raises(ValueError, match="line 3 commits position"):
        Trace.read(path)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_replay_shows_every_commit_with_its_letter(lines, tmp_path, is_terminal):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = Trace.read(path)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=200, color_system=None)
    replay(trace, seconds=0, console=console)
    shown = stream.getvalue()
    for commit in trace.commits[0]:
        for token, reason in zip(commit.tokens, commit.reasons, strict=True):
            assert f"{token}:{reason}" in shown
        assert shown.count(":not kept") >= len(commit.rejected)
    for letter, name in LETTERS.items():
        assert f"{letter} {name}" in shown
    for sequence, seconds in ((1, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"sequence must be|seconds must not"):
            replay(trace, sequence, seconds=seconds, console=console)


def test_what_cannot_be_seen_gets_a_mark():
    assert visible(" a\tb\n") == "·a⇥b⏎"
    assert visible("") == "∅"
    assert visible("\x1b[31m") == "�[31m"
