"""The commands as a user types them, in a process of their own where it matters."""

import io
import json
import stat
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from typer.testing import CliRunner

from modicum.core.cli import method_main
from modicum.core.watermark.adapters.loading import load_tokenizer
from modicum.core.watermark.record import load_key
from modicum.ewatermark import EWatermarkConfig
from modicum.ewatermark.cli import app

runner = CliRunner()


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
            method_main(app, "modicum-ewatermark", [str(a) for a in arguments])
        self.returncode = end.value.code
        self.stderr = errors.getvalue()


script = Outcome


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A key, a record and a marked text of the small model, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("cli")
    assert run("keygen", folder / "key.txt").exit_code == 0
    result = run(
        "generate",
        "The harbour",
        "--key-file",
        folder / "key.txt",
        "--record",
        folder / "wm.json",
        "--max-new-tokens",
        150,
        "--out",
        folder / "text.txt",
    )
    assert result.exit_code == 0, result.output
    return folder


def options(folder, *more):
    return ("--record", folder / "wm.json", "--key-file", folder / "key.txt", *more)


def test_keygen_writes_a_private_file_once(tmp_path):
    path = tmp_path / "key.txt"
    result = run("keygen", path)
    assert result.exit_code == 0 and "key id" in result.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_key(path)
    assert len(key) == 32 and key.hex() not in result.output
    again = run("keygen", path)
    assert again.exit_code != 0 and load_key(path) == key


def test_generated_text_is_detected_and_the_record_holds_no_key(marked):
    result = run("detect", marked / "text.txt", *options(marked))
    assert result.exit_code == 0 and "DETECTED after" in result.output
    key = load_key(marked / "key.txt")
    assert key.hex() not in (marked / "wm.json").read_text()
    shown = run("record", "show", marked / "wm.json")
    assert shown.exit_code == 0 and json.loads(shown.output)["scheme"] == "ewatermark"


def test_exit_codes_of_the_script(marked, tmp_path):
    human = tmp_path / "human.txt"
    human.write_text("A text about something else, written without any key at all. " * 8)
    assert script("detect", marked / "text.txt", *options(marked)).returncode == 0
    assert script("detect", human, *options(marked)).returncode == 1
    missing = script("detect", tmp_path / "absent.txt", *options(marked))
    assert missing.returncode == 2 and "absent.txt" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_standard_input_gives_the_same_answer_as_the_file(marked):
    text = (marked / "text.txt").read_text()
    whole = run("detect", marked / "text.txt", *options(marked, "--jsonl"))
    piped = run("detect", "-", *options(marked, "--jsonl"), text=text)
    rows = [
        [json.loads(line) for line in r.output.splitlines() if line.startswith("{")]
        for r in (whole, piped)
    ]
    assert len(rows[0]) == len(rows[1]) > 100
    for one, other in zip(*rows, strict=True):
        # Another split into blocks is another batch for the anchor: equal up to its rounding.
        assert one.pop("log_e_value") == pytest.approx(other.pop("log_e_value"), rel=1e-5)
        assert one.pop("p_value") == pytest.approx(other.pop("p_value"), rel=1e-4)
        assert one == other
    early = run("detect", "-", *options(marked, "--jsonl", "--early"), text=text)
    short = [json.loads(line) for line in early.output.splitlines() if line.startswith("{")]
    assert short[-1]["stopped"] and not any(row["stopped"] for row in short[:-1])
    assert len(short) < len(rows[0])


def test_ids_need_no_tokenizer(marked, tmp_path):
    tokenizer = load_tokenizer("tiny")
    ids = tokenizer.encode((marked / "text.txt").read_text(), add_special_tokens=False)
    result = run("detect", "-", *options(marked, "--ids"), text=" ".join(map(str, ids)))
    assert result.exit_code == 0
    wrong = script("detect", "-", *options(marked, "--ids"), text="1 2 three")
    assert wrong.returncode == 2 and "three" in wrong.stderr


def test_watch_saves_its_state_and_resumes(marked, tmp_path):
    lines = (marked / "text.txt").read_text().split(". ")
    text = ".\n".join(lines) + "\n"
    half = len(text) // 2
    state = tmp_path / "state.json"
    more = ("--state-file", state)
    once = run("watch", *options(marked), text=text)
    first = run("watch", *options(marked, *more), text=text[: text.rfind("\n", 0, half) + 1])
    assert state.exists() and load_key(marked / "key.txt").hex() not in state.read_text()
    second = run("watch", *options(marked, *more), text=text[text.rfind("\n", 0, half) + 1 :])
    assert "resumed at" in second.output + first.output
    assert once.exit_code == second.exit_code == 0 and "DETECTED" in once.output


def test_scan_lists_marked_documents(marked, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text((marked / "text.txt").read_text())
    for name in "bcd":
        (folder / f"{name}.txt").write_text(f"Plain words number {name} " * 30)
    out = tmp_path / "scan.jsonl"
    result = run("scan", folder, *options(marked, "--out", out))
    assert result.exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["id"], r["prediction"]) for r in rows] == [
        ("a.txt", True),
        ("b.txt", False),
        ("c.txt", False),
        ("d.txt", False),
    ]
    lines = tmp_path / "docs.jsonl"
    lines.write_text("".join(json.dumps({"text": p.read_text()}) + "\n" for p in folder.iterdir()))
    assert run("scan", lines, *options(marked)).exit_code == 0
    bad = script("scan", lines, *options(marked, "--column", "body"))
    assert bad.returncode == 2 and "no field 'body'" in bad.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prf_version": 99}, "99"),
        ({"format_version": 7}, "7"),
        ({"scheme": "other"}, "other"),
        ({"key_id": 5}, "key_id"),
        ({"anchor_fingerprint": "x"}, "anchor_fingerprint"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(marked, tmp_path, change, words):
    record = json.loads((marked / "wm.json").read_text()) | change
    path = tmp_path / "wm.json"
    path.write_text(json.dumps(record))
    result = script(
        "detect", marked / "text.txt", "--record", path, "--key-file", marked / "key.txt"
    )
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr


def test_a_record_of_another_package_names_the_package_that_reads_it(marked, tmp_path):
    record = json.loads((marked / "wm.json").read_text())
    record |= {"scheme": "umpwatermark", "prf": "vllm-philox", "prf_version": 1}
    path = tmp_path / "wm.json"
    path.write_text(json.dumps(record))
    for command in (("detect", marked / "text.txt"), ("watch",), ("scan", marked)):
        result = script(*command, "--record", path, "--key-file", marked / "key.txt")
        assert result.returncode == 2
        assert "modicum-umpwatermark" in result.stderr and "wm.json" in result.stderr


def test_another_key_is_refused_by_its_id(marked, tmp_path):
    run("keygen", tmp_path / "other.txt")
    result = script(
        "detect",
        marked / "text.txt",
        "--record",
        marked / "wm.json",
        "--key-file",
        tmp_path / "other.txt",
    )
    assert result.returncode == 2 and "key_id" in result.stderr


def test_selftest_passes():
    result = run("selftest", "--n-keys", 200)
    assert result.exit_code == 0 and "vectors agree" in result.output


def test_help_does_not_load_torch():
    code = (
        "import sys\nfrom modicum.ewatermark.cli import app\n"
        "print([m for m in ('torch', 'transformers', 'scipy.stats') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_config_of_the_record_is_the_one_generated_with(marked):
    from modicum.core.watermark.record import WatermarkRecord

    record = WatermarkRecord.load(marked / "wm.json")
    config = EWatermarkConfig(key=load_key(marked / "key.txt"), **record.parameters)
    assert config.num_groups == 16 and record.key_id == config.key_id


def test_plan_from_entropy_and_from_a_text(marked, tmp_path):
    closed = run("plan", "--entropy", "0.6", "--total-variation", "0.1", "--num-groups", 2)
    assert closed.exit_code == 0 and "quantile_tokens" in closed.output
    laws = run("plan", "--text", marked / "text.txt", "--peers", "--num-texts", 6)
    assert laws.exit_code == 0, laws.output
    rows = [line for line in laws.output.splitlines() if "tokens (median)" in line]
    assert len(rows) >= 5 and any("Gumbel" in row for row in rows)
    assert script("plan").returncode == 2


def test_plot_writes_a_figure_and_a_page(marked, tmp_path):
    for name, start in (("e.svg", "<?xml"), ("e.html", "<!doctype html>")):
        path = tmp_path / name
        result = run("plot", marked / "text.txt", "--out", path, *options(marked, "--n-keys", 2))
        assert result.exit_code == 0, result.output
        assert path.read_text().startswith(start)


def test_simulate_refuses_an_unknown_name(tmp_path):
    outcome = script("simulate", "everything", "--out", tmp_path)
    assert outcome.returncode == 2 and "tokens_to_detect" in outcome.stderr
