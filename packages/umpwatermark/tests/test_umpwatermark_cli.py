"""The commands as a user types them, with the first mistakes that users make."""

import csv
import io
import json
import math
import stat
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from typer.testing import CliRunner

from modicum.core.cli import method_main
from modicum.core.watermark.adapters.loading import load_tokenizer
from modicum.core.watermark.record import WatermarkRecord, load_key, save_key
from modicum.umpwatermark import KNOWN_PRFS, UMPWatermarkConfig, UMPWatermarkScheme, ump_type2
from modicum.umpwatermark.cli import app

runner = CliRunner()
# One key for all: what is found in which text never changes.
KEY = bytes(range(32))
PLAIN = "A text about something else, written without any key at all, number {0}. " * 4


def run(*arguments, text=None):
    return runner.invoke(app, [str(a) for a in arguments], input=text)


class Outcome:
    """Exit code and standard error of the script, run in this process."""

    def __init__(self, *arguments, text=""):
        errors = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(io.StringIO()),
            redirect_stderr(errors),
            pytest.raises(SystemExit) as end,
        ):
            patch.setattr("sys.stdin", io.StringIO(text))
            method_main(app, "modicum-umpwatermark", [str(a) for a in arguments])
        self.returncode = end.value.code
        self.stderr = errors.getvalue()


script = Outcome


def refused(*arguments, words, text=""):
    outcome = script(*arguments, text=text)
    assert outcome.returncode == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr and outcome.stderr.count("\n") == 1
    for word in (words,) if isinstance(words, str) else words:
        assert word in outcome.stderr


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A key, a record and a marked text of the small model, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("cli")
    save_key(folder / "key.txt", KEY)
    result = run(
        "generate",
        "The harbour",
        *("--key-file", folder / "key.txt", "--record", folder / "wm.json"),
        *("--max-new-tokens", 100, "--out", folder / "text.txt"),
    )
    assert result.exit_code == 0, result.output
    result = run(
        "score",
        folder / "text.txt",
        *("--prompt", "The harbour", "--out", folder / "lp.jsonl"),
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The same from the uniform law over 256 tokens: no model, no tokenizer, ids only."""
    folder = tmp_path_factory.mktemp("bare")
    save_key(folder / "key.txt", KEY)
    config = UMPWatermarkConfig(load_key(folder / "key.txt"), 256)
    config.record().save(folder / "wm.json")
    scheme = UMPWatermarkScheme(config)
    tracker, rng = scheme.new_tracker(), np.random.default_rng(0)
    for _ in range(60):
        law = np.exp(scheme.transform(np.full((1, 256), -math.log(256)), [tracker])[0])
        tracker.push(int(rng.choice(256, p=law / law.sum())))
    (folder / "ids.txt").write_text(" ".join(map(str, tracker.tokens)))
    rows = [{"id": f"r{i}", "ids": list(tracker.tokens), "logprobs": [-2.0] * 60} for i in (1, 2)]
    rows.append({"id": "r3", "ids": list(range(60)), "logprobs": [-2.0] * 60})
    (folder / "lp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def options(folder, *more):
    return ("--record", folder / "wm.json", "--key-file", folder / "key.txt", *more)


def number(text, before):
    """Return the number that stands behind some words."""
    return float(text.split(before)[1].split()[0].rstrip(",;)"))


# Keys, records, generation -----------------------------------------------------------------------


def test_keygen_writes_a_private_file_once(tmp_path):
    path = tmp_path / "key.txt"
    result = run("keygen", path)
    assert result.exit_code == 0 and "key id" in result.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_key(path)
    assert len(key) == 32 and key.hex() not in result.output
    refused("keygen", path, words="never overwritten")
    assert load_key(path) == key
    refused("keygen", tmp_path / "b.txt", "--prf", "md5", words="md5")


def test_the_integer_key_of_an_engine(tmp_path):
    path = tmp_path / "engine.txt"
    assert run("keygen", path, "--prf", "vllm-philox").exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = int(path.read_text())
    assert 0 <= key < 2**64
    refused("keygen", path, "--prf", "vllm-philox", words="never overwritten")
    config = UMPWatermarkConfig(key, 256, prf="vllm-philox")
    config.record().save(tmp_path / "wm.json")
    more = ("--record", tmp_path / "wm.json", "--ids", "--alpha", 1e-9)
    result = run("detect", "--key-file", path, *more, text="1 2 3 4 5 6 7")
    assert result.exit_code == 1 and "7 tokens read, 7 scored" in result.output
    run("keygen", tmp_path / "long.txt")
    refused("detect", "--key-file", tmp_path / "long.txt", *more, words="keygen --prf vllm-philox")
    assert str(key) not in (tmp_path / "wm.json").read_text()


def test_generated_text_is_detected_and_the_record_holds_no_key(marked):
    result = run("detect", marked / "text.txt", *options(marked))
    assert result.exit_code == 0 and "MARKED: p-value" in result.output
    assert "exact, statistic 'sum'" in result.output
    key = load_key(marked / "key.txt")
    assert key.hex() not in (marked / "wm.json").read_text()
    shown = run("record", "show", marked / "wm.json")
    assert shown.exit_code == 0 and json.loads(shown.output)["scheme"] == "umpwatermark"
    record = WatermarkRecord.load(marked / "wm.json", known_prfs=KNOWN_PRFS)
    assert UMPWatermarkConfig.from_record(record, key).sampler == "gumbel"


@pytest.mark.parametrize("sampler", ["hazard", "greenlist", "ump-aware"])
def test_every_sampler_is_generated_and_detected(tmp_path, sampler):
    save_key(tmp_path / "key.txt", KEY)
    result = run(
        "generate",
        "The harbour",
        *options(tmp_path, "--sampler", sampler, "--out", tmp_path / "text.txt"),
        *("--max-new-tokens", 120),
    )
    assert result.exit_code == 0, result.output
    result = run("detect", tmp_path / "text.txt", *options(tmp_path, "--alpha", 0.01))
    assert result.exit_code == 0, result.output


def test_mistakes_of_generation(marked, tmp_path):
    key = ("--key-file", marked / "key.txt", "--record", tmp_path / "wm.json")
    refused("generate", "a", *key, "--sampler", "kgw", words="unknown sampler 'kgw'")
    refused("generate", "a", *key, "--surrogate", "tiny", words="uses no surrogate")
    refused("generate", "a", *key, "--epsilon", 1.5, words="epsilon must lie in [0, 1), got 1.5")
    refused("generate", "a", *key, "--gamma", 0.5, words="no region level")
    refused("generate", "a", *key, "--model", tmp_path / "none", words="does not exist")
    refused("generate", "a", "--key-file", tmp_path / "none", words=("keygen", "no key file"))
    assert not (tmp_path / "wm.json").exists()


# Detection ---------------------------------------------------------------------------------------


def test_exit_codes_of_the_script(marked, tmp_path):
    human = tmp_path / "human.txt"
    human.write_text(PLAIN)
    assert script("detect", marked / "text.txt", *options(marked)).returncode == 0
    assert script("detect", human, *options(marked)).returncode == 1
    refused("detect", tmp_path / "absent.txt", *options(marked), words="absent.txt")


def test_a_better_surrogate_gives_a_smaller_p_value(marked):
    """Key only, a small model, the model itself, the model with its prompt."""
    found = []
    for more in (
        (),
        ("--surrogate", "tiny"),
        ("--surrogate", "self"),
        ("--surrogate", "self", "--prompt", "The harbour"),
    ):
        result = run("detect", marked / "text.txt", *options(marked, *more))
        assert result.exit_code == 0, result.output
        found.append(number(result.output, "p-value "))
    assert found[0] > found[1] > found[2] > 0 and found[3] < 10 * found[2]
    assert "of what the surrogate allows" in result.output


def test_log_probabilities_stand_for_a_model(marked, tmp_path):
    alone = run("detect", *options(marked, "--logprobs", marked / "lp.jsonl"))
    beside = run("detect", marked / "text.txt", *options(marked, "--logprobs", marked / "lp.jsonl"))
    assert alone.exit_code == 0 and alone.output == beside.output
    assert "statistic 'weighted-pivot'" in alone.output
    plain = run("detect", marked / "text.txt", *options(marked))
    assert number(alone.output, "p-value ") < number(plain.output, "p-value ")
    row = json.loads((marked / "lp.jsonl").read_text())
    path = tmp_path / "lp.jsonl"
    path.write_text("".join(f"{value}\n" for value in row["logprobs"]))
    values = run("detect", marked / "text.txt", *options(marked, "--logprobs", path))
    assert values.output == alone.output
    path.write_text("".join(f"{value}\n" for value in row["logprobs"][1:]))
    refused(
        "detect", marked / "text.txt", *options(marked, "--logprobs", path),
        words=f"{len(row['logprobs']) - 1} log-probabilities for {len(row['logprobs'])} tokens",
    )  # fmt: skip
    refused(
        "detect", marked / "text.txt",
        *options(marked, "--logprobs", marked / "lp.jsonl", "--skip", 2), words="not those of",
    )  # fmt: skip
    refused("detect", *options(marked, "--logprobs", path, "--surrogate", "tiny"), words="not both")
    path.write_text("[0.5, -1]\n")
    refused("detect", "--ids", *options(marked, "--logprobs", path), text="1 2", words="0.5")


def test_prompt_included_costs_little(marked, tmp_path):
    path = tmp_path / "all.txt"
    path.write_text("The harbour" + (marked / "text.txt").read_text())
    assert run("detect", path, *options(marked)).exit_code == 0


def test_tokens_one_by_one(marked):
    text = (marked / "text.txt").read_text()
    results = [
        run("detect", *options(marked, "--jsonl", "--surrogate", "tiny"), text=text),
        run("detect", marked / "text.txt", *options(marked, "--jsonl", "--surrogate", "tiny")),
    ]
    piped, whole = (
        [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
        for result in results
    )
    assert len(piped) == len(whole) > 80 and results[0].exit_code == 0
    p_values = [row["p_value"] for row in piped]
    assert p_values == sorted(p_values, reverse=True)
    for one, other in zip(piped, whole, strict=True):
        # Another split into blocks is another batch for the model: equal up to its rounding.
        assert one.pop("log_e_value") == pytest.approx(other.pop("log_e_value"), abs=1e-3)
        assert one.pop("p_value") == pytest.approx(other.pop("p_value"), rel=1e-2)
        assert one == other
    early = run("detect", *options(marked, "--jsonl", "--early"), text=text)
    short = [json.loads(line) for line in early.output.splitlines() if line.startswith("{")]
    assert short[-1]["stopped"] and not any(row["stopped"] for row in short[:-1])
    scored = run("detect", *options(marked, "--jsonl", "--logprobs", marked / "lp.jsonl"))
    assert scored.exit_code == 0 and scored.output.count("num_tokens_scored") == len(piped)


def test_evidence_of_every_token(marked, bare, tmp_path):
    table = tmp_path / "tokens.csv"
    more = ("--surrogate", "tiny", "--per-token", table)
    result = run("detect", marked / "text.txt", *options(marked, *more))
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == number(result.output, "tokens read, ")
    total = sum(float(row["score"]) for row in rows)
    assert total == pytest.approx(number(result.output, "score "), abs=0.01)
    assert {row["match"] for row in rows} == {"True", "False"} and rows[0]["hit"] == ""
    page = tmp_path / "tokens.html"
    result = run("detect", bare / "ids.txt", *options(bare, "--ids", "--per-token", page))
    assert result.exit_code == 0 and page.read_text().startswith("<!doctype html>")
    assert page.read_text().count("<span") == 60
    bad = options(bare, "--ids", "--per-token", tmp_path / "tokens.txt")
    refused("detect", bare / "ids.txt", *bad, words=".csv or .html")
    streamed = options(bare, "--ids", "--per-token", page, "--jsonl")
    refused("detect", bare / "ids.txt", *streamed, words="--per-token")


def test_ids_and_text_are_told_apart(marked, bare):
    tokenizer = load_tokenizer("tiny")
    ids = tokenizer.encode((marked / "text.txt").read_text(), add_special_tokens=False)
    text = run("detect", marked / "text.txt", *options(marked))
    numbers = run("detect", *options(marked, "--ids"), text=str(ids))
    assert numbers.exit_code == 0 and numbers.output == text.output
    refused("detect", *options(marked, "--ids"), text="1 2 three", words="got 'three'")
    refused("detect", *options(bare, "--ids"), text="1 2 256", words="256")
    wrong = script("detect", *options(marked), text=" ".join(map(str, ids)))
    assert wrong.returncode == 1 and "add --ids" in wrong.stderr


@pytest.mark.parametrize("text", ["", "1 2 3"])
def test_too_short_a_text_is_no_error(bare, text):
    outcome = script("detect", *options(bare, "--ids"), text=text)
    assert outcome.returncode == 1 and "no token could be scored" in outcome.stderr


def test_mistakes_of_detection(bare, marked, tmp_path):
    def check(*more, words):
        refused("detect", bare / "ids.txt", "--ids", *more, words=words)

    check(*options(bare, "--alpha", 5), words="alpha must lie in (0, 1), got 5.0")
    check("--record", bare / "wm.json", "--key-file", tmp_path / "no", words=("no key", "keygen"))
    check("--record", tmp_path / "no.json", words=("no record", "no.json"))
    check(*options(bare, "--statistic", "z"), words="unknown statistic 'z'")
    check(*options(bare, "--statistic", "combined"), words="surrogate")
    check(*options(bare, "--statistic", "learned"), words="calibration")
    check(*options(bare, "--calibration", bare / "ids.txt"), words="not a calibration table")
    check(*options(bare, "--surrogate", "none", "--prompt", "a"), words="--surrogate self")
    check(*options(bare, "--surrogate", "uniform", "--prompt", "a"), words="sees the whole text")
    check(*options(bare, "--surrogate", "uniform", "--weights", "a,b"), words="--weights")
    check(*options(bare, "--surrogate", "uniform", "--weights", ".9,.9"), words="a + b")
    check(*options(bare, "--surrogate", tmp_path / "no"), words="does not exist")
    check(*options(bare, "--surrogate", "uniform", "--top-p", 2), words="top_p")
    check(*options(bare, "--logprobs", bare / "lp.jsonl"), words="3 responses")
    run("keygen", tmp_path / "other.txt")
    check(
        *("--record", bare / "wm.json", "--key-file", tmp_path / "other.txt"),
        words=("key_id", "right key file"),
    )
    (tmp_path / "short.txt").write_text("abc")
    check("--record", bare / "wm.json", "--key-file", tmp_path / "short.txt", words="16")
    record = json.loads((marked / "wm.json").read_text()) | {"tokenizer_hash": "0" * 32}
    (tmp_path / "wm.json").write_text(json.dumps(record))
    refused(
        *("detect", marked / "text.txt", "--record", tmp_path / "wm.json"),
        *("--key-file", marked / "key.txt"),
        words=("tokenizer", "--tokenizer"),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prf_version": 99}, "99"),
        ({"format_version": 7}, "7"),
        ({"scheme": "ewatermark"}, "modicum-ewatermark"),
        ({"scheme": "ewatermark", "prf": "another"}, "modicum-ewatermark"),
        ({"key_id": 5}, "key_id"),
        ({"parameters": {"vocab_size": 256, "num_groups": 16}}, "num_groups"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(bare, tmp_path, change, words):
    record = json.loads((bare / "wm.json").read_text()) | change
    path = tmp_path / "wm.json"
    path.write_text(json.dumps(record))
    more = ("--record", path, "--key-file", bare / "key.txt")
    refused("detect", bare / "ids.txt", "--ids", *more, words=(words, "wm.json"))
    refused("watch", "--ids", *more, words=words)
    refused("scan", bare / "lp.jsonl", "--logprobs", *more, words=words)


def test_a_missing_extra_gives_the_line_that_installs_it(bare, marked, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused("detect", marked / "text.txt", *options(marked), words="pip install")
    refused("generate", "a", *options(marked), words="pip install")
    assert script("detect", bare / "ids.txt", *options(bare, "--ids")).returncode == 0
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(
        *("plot", "tradeoff", "--out", tmp_path / "a.svg"),
        words='pip install "modicum-umpwatermark[plot]"',
    )
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(
        *("scan", tmp_path / "a.parquet", *options(marked)),
        words='pip install "modicum-umpwatermark[parquet]"',
    )


def test_watch_saves_its_state_and_resumes(bare, tmp_path):
    ids = (bare / "ids.txt").read_text().split()
    parts = [" ".join(ids[:25]) + "\n", " ".join(ids[25:]) + "\n"]
    state = tmp_path / "state.json"
    more = options(bare, "--ids", "--state-file", state)
    once = run("watch", *options(bare, "--ids"), text="".join(parts))
    first = run("watch", *more, text=parts[0])
    assert state.exists() and load_key(bare / "key.txt").hex() not in state.read_text()
    second = run("watch", *more, text=parts[1])
    assert "resumed at 25 tokens" in second.output + second.stderr
    assert once.exit_code == second.exit_code == 0 and "MARKED after" in once.output
    assert once.output.splitlines()[-1] == second.output.splitlines()[-1]
    assert first.output.splitlines()[0] in once.output
    refused("watch", *more, "--alpha", 0.5, words=("state.json", "alpha"))
    state.write_text("{}")
    refused("watch", *more, words="state.json")


def test_scan_lists_marked_documents_and_resumes(marked, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text((marked / "text.txt").read_text())
    for name in "bcd":
        (folder / f"{name}.txt").write_text(PLAIN.format(name))
    out = tmp_path / "scan.jsonl"
    result = run("scan", folder, *options(marked, "--out", out))
    assert result.exit_code == 0, result.output
    _, *rows, summary = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert summary["marked"] == ["a.txt"] and summary["method"] == "e-bh"
    assert load_key(marked / "key.txt").hex() not in out.read_text()
    before = out.read_text()
    (folder / "e.txt").write_text(PLAIN.format("e"))
    again = script("scan", folder, *options(marked, "--out", out, "--method", "bonferroni"))
    assert again.returncode == 0 and "4 of them read before" in again.stderr
    assert out.read_text().startswith(before)
    new = [json.loads(line) for line in out.read_text()[len(before) :].splitlines()]
    assert [row.get("id") for row in new] == ["e.txt", None]
    # Plain texts that repeat each other share contexts, which BH does not allow.
    shared = script("scan", folder, *options(marked, "--method", "bh"))
    assert shared.returncode == 0 and "more than one document" in shared.stderr
    refused(
        *("scan", folder, *options(marked, "--out", out, "--statistic", "binomial")),
        words="other settings (statistic)",
    )


def test_scan_of_lines(marked, tmp_path):
    texts = [(marked / "text.txt").read_text(), PLAIN.format(1), PLAIN.format(2)]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = run("scan", path, *options(marked))
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["marked", "-", "-"]
    refused("scan", path, *options(marked, "--column", "body"), words="no field 'body'")
    refused("scan", path, *options(marked, "--method", "fdr"), words="unknown method 'fdr'")
    refused("scan", path, *options(marked, "--alpha", 0), words="alpha must lie in (0, 1)")
    (tmp_path / "empty").mkdir()
    refused("scan", tmp_path / "empty", *options(marked), words="no documents")
    refused("scan", tmp_path / "none", *options(marked), words="does not exist")


def test_scan_of_log_probabilities(bare, tmp_path):
    out = tmp_path / "scan.jsonl"
    result = run("scan", bare / "lp.jsonl", "--logprobs", *options(bare, "--out", out))
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text().splitlines()[-1])["marked"] == ["r1", "r2"]
    path = tmp_path / "lp.jsonl"
    path.write_text("[-1.0, -2.0]\n")
    refused("scan", path, "--logprobs", *options(bare), words="'ids'")


def test_calibrate_then_detect(marked, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text((marked / "text.txt").read_text())
    table = tmp_path / "table.npz"
    result = script("calibrate", folder, *options(marked, "--out", table))
    assert result.returncode == 0 and "hardly" not in result.stderr
    more = options(marked, "--statistic", "learned", "--calibration", table)
    found = run("detect", marked / "text.txt", *more)
    assert found.exit_code == 0 and "statistic 'learned'" in found.output
    (folder / "a.txt").write_text(PLAIN)
    plain = script("calibrate", folder, *options(marked, "--out", table))
    assert plain.returncode == 0 and "hardly look marked" in plain.stderr
    (folder / "a.txt").write_text("Hi")
    refused("calibrate", folder, *options(marked, "--out", table), words="no token")


# Planning and theory -----------------------------------------------------------------------------


def test_plan_in_every_format():
    base = ("plan", "--h", 0.2, "--alpha", 1e-6, "--beta", 0.05, "--schemes", "ump,kgw")
    table = run(*base, "--tokens", "50,200")
    assert table.exit_code == 0 and "UMP optimum" in table.output
    assert "| Type II error at | 50 | 200 |" in table.output
    rows = list(csv.DictReader(io.StringIO(run(*base, "--format", "csv").output.strip())))
    found = json.loads(run(*base, "--format", "json").output)
    tokens = {row["name"]: row["tokens"] for row in found["rows"]}
    assert {row["name"]: float(row["tokens"]) for row in rows} == tokens
    assert 0 < tokens["ump"] < tokens["kgw"] and f"| {tokens['ump']:.0f} |" in table.output


def test_plan_from_log_probabilities_and_from_a_text(marked):
    more = ("--alpha", 0.01, "--beta", 0.1, "--schemes", "ump,gumbel-sum", "--format", "json")
    scored = json.loads(run("plan", "--logprobs", marked / "lp.jsonl", *more).output)
    laws = json.loads(run("plan", "--text", marked / "text.txt", *more).output)
    values = [json.loads(line) for line in (marked / "lp.jsonl").read_text().splitlines()]
    assert scored["entropy"] == pytest.approx(-np.mean(values[0]["logprobs"]), rel=0.02)
    assert 0.5 * laws["entropy"] < scored["entropy"] < 2 * laws["entropy"]
    for found in (scored, laws):
        ump, gumbel = (row["tokens"] for row in found["rows"])
        assert 1 <= ump < gumbel


def test_mistakes_of_planning(marked):
    refused("plan", words="exactly one of --h, --logprobs and --text")
    refused("plan", "--h", 0.2, "--text", marked / "text.txt", words="exactly one")
    refused("plan", "--h", 0.2, "--surrogate", "tiny", words="--surrogate goes with --text")
    refused("plan", "--h", 0.2, "--alpha", 5, words="alpha must lie in (0, 1), got 5")
    refused("plan", "--h", 0.2, "--beta", 0, words="beta must lie in (0, 1), got 0")
    refused("plan", "--h", -1, words="positive")
    refused("plan", "--h", 0.2, "--schemes", "ump,md5", words="['md5']")
    refused("plan", "--h", 0.2, "--format", "xml", words="'xml'")
    refused("plan", "--h", 0.2, "--tokens", "1,a", words="--tokens")
    refused("plan", "--logprobs", marked / "text.txt", words="not JSON")
    few = run("plan", "--tokens", 100, "--alpha", 1e-6)
    assert few.exit_code == 0 and 0.1 < number(few.output, "the optimum needs ") < 0.4


def test_budget():
    result = run("budget", "--h", 0.2)
    lines = [line.split() for line in result.output.splitlines()[1:]]
    values = {" ".join(line[:-2]): float(line[-2]) for line in lines}
    assert values["entropy"] == pytest.approx(0.2) and lines[0][-1] == "100.0%"
    assert values["entropy"] > values["weighted pivot"] > values["pivot"] > values["sum"] > 0
    refused("budget", words="exactly one")


def test_couple(tmp_path):
    rho = [0.5, 0.3, 0.15, 0.05]
    result = run("couple", *rho, "--alpha", 0.2, "--epsilon", 0.1)
    assert result.exit_code == 0 and "0.300000  optimum" in result.output
    assert "0.462000" in result.output and "0.497052" in result.output
    path = tmp_path / "law.json"
    path.write_text(json.dumps(rho))
    found = json.loads(run("couple", "--file", path, "--alpha", 0.25, "--json").output)
    assert found["type2"]["optimum, law known to the detector"] == ump_type2(rho, 0.25)
    assert "the same, 1 of 4 elements" in found["type2"]
    assert sum(found["coupling"]["region_probs"]) == pytest.approx(1)
    large = run("couple", "--file", "-", text=" ".join(["0.01"] * 100))
    assert large.exit_code == 0 and "--json" in large.output
    refused("couple", 0.5, 0.3, words="sum to 1")
    refused("couple", 0.5, 0.5, "--alpha", 5, words="alpha must lie in (0, 1), got 5")
    refused("couple", 0.5, 0.5, "--epsilon", 1, words="epsilon must lie in [0, 1), got 1")
    refused("couple", words="as arguments")
    refused("couple", 1, "--file", path, words="as arguments")
    path.write_text("a b")
    refused("couple", "--file", path, words="law.json")


@pytest.mark.parametrize(
    ("graph", "p", "alpha", "value"),
    [
        ("hamming:8:2:1", 0.5, 0.02, 0.4311111),
        ("hamming:8:2:1", 0.1, 0.05, 0.76310473),
        ("orbit:8:1", 0.1, 0.05, 0.76310473),
        ("hamming:100:2:4", 0.1, 1e-4, 0.08348895),
        ("orbit:100:8", 0.1, 1e-2, 0.33906794),
    ],
)
def test_robust_prints_a_certified_interval(graph, p, alpha, value):
    result = run("robust", "--graph", graph, "--p", p, "--alpha", alpha, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    low, high = found["interval"]
    assert low <= found["type2"] <= high < low + 1e-6
    assert found["type2"] == pytest.approx(value, abs=1e-7)
    words = run("robust", "--graph", graph, "--p", p, "--alpha", alpha)
    assert "certified interval" in words.output and f"{found['type2']:.8f}" in words.output


def test_robust_with_distortion_and_more_symbols():
    def value(*arguments):
        return json.loads(run("robust", *arguments, "--alpha", 0.05, "--json").output)["type2"]

    law = ("--p", "0.7,0.2,0.1")
    assert value("--graph", "orbit:5:1", *law) == pytest.approx(
        value("--graph", "hamming:5:3:1", *law), abs=1e-7
    )
    spent = value("--graph", "hamming:5:3:1", *law, "--epsilon", 0.1)
    assert spent == pytest.approx(value("--graph", "hamming:5:3:1", *law) - 0.1, abs=0.1)
    assert value("--graph", "edit:5:2:1") >= value("--graph", "hamming:5:2:1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hamming:8:2",), "hamming:n:m:d"),
        (("orbit:8",), "orbit:n:d"),
        (("path:8",), "unknown graph 'path:8'"),
        (("hamming:8:two:1",), "whole numbers"),
        (("edit:40:2:1",), "32768"),
        (("hamming:8:3:1", "--p", "0.1"), "1 probabilities for 3 symbols"),
        (("hamming:8:2:1", "--p", "1.5"), "got 1.5"),
        (("hamming:8:2:1", "--p", "a"), "--p"),
        (("hamming:8:1:1",), "m >= 2"),
        (("hamming:8:2:1", "--alpha", "5"), "alpha must lie in (0, 1)"),
    ],
)
def test_mistakes_of_robust(arguments, words):
    refused("robust", "--graph", *arguments, words=words)


def test_bench_prints_the_bank():
    small = ("--num-contexts", 50, "--schemes", "ump,dawa,gumbel_sum")
    result = run("bench", *small)
    assert result.exit_code == 0, result.output
    assert result.output.count("DAWA") == 2 and result.output.count("Gumbel") == 1
    refused("bench", "--case", "tepid", words="tepid")


@pytest.mark.parametrize(
    "arguments",
    [
        ("tradeoff",),
        ("type2", "--h", "0.7", "--schemes", "ump,kgw", "--max-tokens", "40"),
        ("nh", "--h", "0.6,0.3", "--schemes", "ump,kgw"),
        ("robust", "--n", "20", "--edits", "3"),
        ("budget", "--h", "0.5"),
    ],
)
def test_plot_writes_a_figure(tmp_path, arguments):
    pytest.importorskip("matplotlib")
    path = tmp_path / "figure.svg"
    result = run("plot", *arguments, "--out", path)
    assert result.exit_code == 0, result.output
    assert path.read_text().startswith("<?xml")


def test_mistakes_of_plot(tmp_path):
    refused("plot", "pie", "--out", tmp_path / "a.svg", words="unknown plot 'pie'")
    refused("plot", "budget", "--out", tmp_path / "a.txt", words=".svg")
    refused("plot", "tradeoff", "--law", "1,2", "--out", tmp_path / "a.svg", words="sum to 1")


# The rest ----------------------------------------------------------------------------------------


def test_selftest_passes():
    result = run("selftest", "--n-keys", 200)
    assert result.exit_code == 0, result.output
    assert "vectors agree" in result.output and "published word agrees" in result.output


def test_simulate_lists_names_and_refuses_others(tmp_path):
    listed = run("simulate")
    assert listed.exit_code == 0 and "tokens_against_entropy" in listed.output
    refused("simulate", "all", "--out", tmp_path, words="tokens_against_entropy")


def test_help_of_every_command():
    names = run("--help").output
    for command in (
        *("keygen", "generate", "score", "detect", "watch", "scan", "calibrate", "plan", "budget"),
        *("couple", "robust", "bench", "plot", "simulate", "record", "selftest", "demo"),
    ):
        assert command in names
        assert run(command, "--help").exit_code == 0
