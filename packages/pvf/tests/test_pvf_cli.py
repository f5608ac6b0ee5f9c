"""The command line: what commands print and write, exit statuses, and what is refused."""

import json
import subprocess
import sys

import pytest
from pvf_models import random_predictor

from modicum.core.cli import method_main
from modicum.pvf import PVF, Threshold, generate
from modicum.pvf.calibration import PlanCalibration
from modicum.pvf.cli import app
from modicum.pvf.cli.options import strategy_of
from modicum.pvf.tiny import TinyConfig, TinyMDLM
from modicum.pvf.trace import Trace, record

PROMPT = "a 3 , k 7 , m 1 , t 5 ,"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Give a file with an untrained tiny model, small so that commands are fast."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    path.write_bytes(TinyMDLM(TinyConfig(layers=1, width=16, heads=2, inner=16), 3).checkpoint())
    return str(path)


@pytest.fixture
def run(capsys):
    """Give a function that runs a command and gives status, output and errors."""

    def called(*arguments):
        with pytest.raises(SystemExit) as ended:
            method_main(app, "modicum-pvf", [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return called


def test_generate_answers_and_writes_what_it_did(run, weights, tmp_path):
    trace, out = tmp_path / "new" / "t.jsonl", tmp_path / "out.jsonl"
    given = ["--model", weights, "--prompt", PROMPT, "--prompt", "k 1 , k 2 , k 3 , k 4 ,"]
    status, shown, errors = run("generate", *given, "--json", "--trace", trace, "--out", out)
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    model = TinyMDLM(TinyConfig(layers=1, width=16, heads=2, inner=16), 3)
    # Weights are stored as they are, so that the same is decoded.
    expected = generate(model, [PROMPT, given[-1]], gen_length=32, block_length=16)
    assert [answer["text"] for answer in found["answers"]] == expected.texts
    assert [answer["ids"] for answer in found["answers"]] == expected.generated.tolist()
    assert [answer["stats"]["nfe"] for answer in found["answers"]] == [
        stats.nfe for stats in expected.stats
    ]
    assert (found["gen_length"], found["block_length"]) == (32, 16)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == found["answers"]
    read = Trace.read(trace)
    assert [read.cost(number).calls for number in range(2)] == [s.nfe for s in expected.stats]
    status, plain, _ = run("generate", *given)
    assert status == 0 and plain.startswith(expected.texts[0] + "\n" + expected.texts[1] + "\n")
    assert "calls (NFE)" in plain


def test_without_a_model_the_package_answers_its_own_task(run):
    status, shown, _ = run("generate", "--items", "2", "--seed", "1", "--json")
    assert status == 0
    answers = json.loads(shown)["answers"]
    for answer in answers:
        digits = [int(word) for word in answer["prompt"].split() if word.isdecimal()]
        assert sum(digits) % 10 == 0
        letters = answer["prompt"].split()[::3]
        assert answer["text"].split()[1::7][:4] == letters
    assert answers[0]["prompt"] != answers[1]["prompt"]


def test_prompts_come_from_files(run, weights, tmp_path):
    plain = tmp_path / "prompts.txt"
    plain.write_text(f"{PROMPT}\n\nk 1 ,\n")
    lines = tmp_path / "prompts.jsonl"
    lines.write_text(f'{{"prompt": "{PROMPT}"}}\n{{"ids": [14, 4, 2]}}\n')
    found = [
        json.loads(run("generate", "--model", weights, "--prompts", path, "--json")[1])["answers"]
        for path in (plain, lines)
    ]
    assert [answer["ids"] for answer in found[0]] == [answer["ids"] for answer in found[1]]
    assert [answer["prompt"] for answer in found[1]] == [PROMPT, "[14, 4, 2]"]


def test_compare_has_a_line_for_each_strategy(run, weights, tmp_path):
    out = tmp_path / "compare.json"
    names = "threshold,pvf:num_drafts=1,topk"
    given = ["--model", weights, "--items", "3", "--strategies", names, "--gen-length", "32"]
    status, shown, errors = run("compare", *given, "--json", "--out", out)
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    assert json.loads(out.read_text()) == found
    assert [row["strategy"] for row in found["rows"]] == names.split(",")
    assert found["prompts"] == 3
    for row in found["rows"]:
        assert row["right"] == 0.0 and row["tokens"] <= 32
        assert row["rows"] <= 2 * row["calls"] and row["seconds"] > 0
        assert row["calls_saved"] == pytest.approx(1 - row["calls"] / found["rows"][0]["calls"])
    assert found["rows"][2]["rows"] == found["rows"][2]["calls"]
    status, plain, _ = run("compare", *given)
    assert status == 0
    for heading in ("strategy", "right", "calls (NFE)", "rows", "token evals", "seconds"):
        assert heading in plain


def test_compare_tells_the_trained_models_right_answers(run):
    status, shown, _ = run("compare", "--items", "4", "--strategies", "threshold,pvf", "--json")
    assert status == 0
    threshold, pvf = json.loads(shown)["rows"]
    assert threshold["right"] == pvf["right"] == 1.0
    assert pvf["calls"] < threshold["calls"]


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    path = tmp_path_factory.mktemp("traced") / "t.jsonl"
    plan = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(20))
    record(path, random_predictor(1), [[1, 2, 3], [4, 5, 6]], strategy=plan,
           gen_length=20, block_length=8)  # fmt: skip
    return path


def test_trace_says_what_a_file_holds(run, traced, tmp_path):
    status, shown, _ = run("trace", traced, "--json")
    found, read = json.loads(shown), Trace.read(traced)
    assert status == 0 and found["complete"]
    assert [item["calls"] for item in found["sequences"]] == [s.nfe for s in read.stats]
    assert [item["ids"] for item in found["sequences"]] == [read.canvas(0), read.canvas(1)]
    status, plain, _ = run("trace", traced)
    assert status == 0 and "not kept" in plain and "1: 4 5 6" in plain
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(traced.read_bytes().splitlines(keepends=True)[:4]))
    status, plain, _ = run("trace", cut)
    assert status == 1 and "cut off" in plain


def test_replay_shows_here_and_in_files(run, traced, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    status, shown, _ = run("replay", traced, "--seconds", "0")
    assert status == 0 and "call 1" in shown and ":not kept" in shown
    page, animation = tmp_path / "p.html", tmp_path / "new" / "p.gif"
    status, shown, _ = run("replay", traced, "--html", page, "--gif", animation)
    assert (status, shown) == (0, f"html {page}\ngif {animation}\n")
    assert page.read_text().count('<section class="experiment sequence"') == 2
    with image.open(animation) as picture:
        assert picture.format == "GIF" and picture.size[0] == 760
        # Frames that show the same would be one.
        assert picture.n_frames == len(Trace.read(traced).commits[0]) + 1
    status, _, _ = run("replay", traced, "--html", page, "--sequence", "1")
    assert page.read_text().count('<section class="experiment sequence"') == 1


def test_calibrate_writes_a_vocabulary_that_generate_takes(run, tmp_path):
    out = tmp_path / "plan.json"
    given = ["--items", "6", "--min-count", "3", "--max-size", "4", "--out", out]
    status, shown, _ = run("calibrate", *given, "--json")
    assert status == 0
    found = json.loads(shown)
    calibration = PlanCalibration.load(out)
    assert calibration.is_complete and found["prompts"] == calibration.prompts == 6
    ids = calibration.vocabulary().ids
    assert sorted(token["id"] for token in found["vocabulary"]) == list(ids) and len(ids) == 4
    utilities = [token["utility"] for token in found["vocabulary"]]
    assert utilities == sorted(utilities, reverse=True) and utilities[-1] > 0
    # All of them are words of a style, never letters or digits.
    assert min(ids) >= 17
    status, shown, _ = run("generate", "--plan-vocab", out, "--json")
    assert status == 0
    assert json.loads(shown)["strategy"]["plan_vocab"] == {"name": "calibrated", "ids": list(ids)}
    assert run("calibrate", *given)[0] == 0
    assert "config.gen_length is 32, not 30" in run("calibrate", *given, "--gen-length", "30")[2]


def test_advise_says_how_many_drafts_pay(run, weights):
    given = ["--model", weights, "--items", "2", "--drafts", "1"]
    status, shown, _ = run("advise", *given, "--json")
    assert status == 0
    found = json.loads(shown)
    assert found["num_drafts"] in (0, 1)
    assert set(found["seconds_by_rows"]) == {"1", "2"}
    status, plain, _ = run("advise", *given)
    assert status == 0 and "Use " in plain


def test_train_tiny_writes_a_model_that_generate_takes(run, tmp_path):
    out = tmp_path / "new" / "tiny.safetensors"
    status, shown, errors = run("train-tiny", "--out", out, "--steps", "1", "--device", "cpu")
    assert (status, errors) == (0, "") and "steps 1" in shown
    status, shown, _ = run("generate", "--model", out, "--prompt", PROMPT, "--json")
    assert status == 0 and len(json.loads(shown)["answers"][0]["ids"]) == 32


def test_strategies_are_made_of_their_names_and_settings():
    assert strategy_of("threshold:threshold=0.6") == Threshold(0.6)
    assert strategy_of("pvf", "code", "none") == PVF.preset("code", plan_vocab=None)
    assert strategy_of("pvf:num_drafts=1", "math") == PVF.preset("math", num_drafts=1)
    assert strategy_of("pvf:fill_verify=sequential").fill_verify == "sequential"
    # A preset concerns the strategies that have one.
    assert strategy_of("threshold", "code") == Threshold()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--strategy", "pfv"], "did you mean 'pvf'?"),
        (["generate", "--strategy", "pvf:speed=3"], "unexpected keyword argument 'speed'"),
        (["generate", "--strategy", "pvf:3"], "settings are NAME=VALUE, not '3'"),
        (["generate", "--strategy", "pvf:threshold=3"], "threshold must be a number in [0, 1]"),
        (["generate", "--preset", "prose"], "--preset must be one of general, code, math"),
        (["generate", "--plan-vocab", "words"], "plan_vocab must be one of"),
        (["generate", "--prompt", "hello"], "the prompt has the words hello"),
        (["generate", "--gen-length", "0"], "gen_length must be an integer of at least 1"),
        (["generate", "--gen-length", "0", "--trace", "new/t.jsonl"], "gen_length must be"),
        (["generate", "--dtype", "int3"], "dtype must be"),
        (["generate", "--cache", "dual"], "keeps no keys and values"),
        (["generate", "--prompts", "nowhere.txt"], "nowhere.txt"),
        (["generate", "--model", "/nowhere"], "/nowhere"),
        (["compare", "--strategies", ","], "--strategies names none"),
        (["trace", "nowhere.jsonl"], "nowhere.jsonl"),
        (["replay", "t.jsonl", "--gif", "t.png"], "--gif takes a file that ends in .gif"),
        (["advise", "--drafts", "one"], "--drafts takes integers with commas, not 'one'"),
        (["train-tiny", "--out", "t.pt"], "--out takes a file that ends in .safetensors"),
        (["calibrate", "--out", "t.json", "--min-count", "0"], "min_count must be"),
    ],
)
def test_bad_inputs_are_one_line_and_status_2(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, shown, errors = run(*arguments)
    assert status == 2 and shown == ""
    assert message in errors and errors.startswith("modicum-pvf: ")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n", "has no prompts"),
        ("p.jsonl", "{\n", "p.jsonl, line 1: not JSON"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "p.jsonl, line 2: one of prompt"),
        ("p.jsonl", "[1, 2]\n", "p.jsonl, line 1: one of prompt"),
        ("p.jsonl", '{"prompt": 5}\n', "line 1: prompt must be a text, not 5"),
        ("p.jsonl", '{"prompt": null}\n', "line 1: prompt must be a text, not null"),
        ("p.jsonl", '{"ids": "abc"}\n', 'line 1: ids must be a list of token ids, not "abc"'),
        ("p.jsonl", '{"messages": []}\n', "line 1: messages must be a list of messages, not []"),
    ],
)
def test_files_without_prompts_are_refused(run, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    status, _, errors = run("generate", "--prompts", path)
    assert status == 2 and message in errors


def test_help_loads_no_engine():
    code = (
        "import sys\n"
        "from modicum.core.cli import method_main\n"
        "from modicum.pvf.cli import app\n"
        "try:\n    method_main(app, 'modicum-pvf', sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'transformers', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code, "compare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "modicum-pvf" in done.stdout and "--strategies" in done.stdout
