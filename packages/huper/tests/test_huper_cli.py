"""The command line: what commands print and write, exit statuses, and what is refused."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modicum.core.cli import method_main
from modicum.huper import espeak
from modicum.huper.cli import app
from modicum.huper.cli.corpora import labelled, rows_of
from modicum.huper.cli.show import cell
from modicum.huper.tiny import TinyConvCTC

WORLD = Path(__file__).parent / "data" / "huper_world"
TRAIN, TEST = WORLD / "labelled.jsonl", WORLD / "test.jsonl"

needs_espeak = pytest.mark.skipif(
    not espeak.available(), reason="the program espeak-ng is not installed"
)


@pytest.fixture
def run(capsys):
    """Give a function that runs a command and gives status, output and errors."""

    def called(*arguments):
        with pytest.raises(SystemExit) as ended:
            method_main(app, "modicum-huper", [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return called


def refused(run, *arguments):
    """Give the message of a command that is refused: one line, no traceback."""
    status, shown, errors = run(*arguments)
    assert status == 2 and shown == "" and "Traceback" not in errors
    return errors


def test_every_command_has_a_help():
    names = [command.callback.__name__ for command in app.registered_commands]
    assert {"world", "train"} <= set(names)
    for name in names:
        done = CliRunner().invoke(app, [name, "--help"])
        assert done.exit_code == 0 and "Usage" in done.output, done.output
    listed = CliRunner().invoke(app, ["--help"]).output
    assert all(name in listed for name in names)


def test_cells_of_tables():
    assert [cell(value) for value in (None, float("nan"), 0.123456, 7, "x")] == [
        "-",
        "-",
        "0.1235",
        "7",
        "x",
    ]


# Worlds -------------------------------------------------------------------------------------------


@needs_espeak
def test_world_writes_the_world_of_its_seed(run, tmp_path):
    settings = ["--seed", "20", "--words", "80", "--heldout", "20", "--length", "2-3"]
    given = ["world", tmp_path, *settings, "--split", "labelled=2", "--split", "test=1"]
    status, shown, errors = run(*given, "--json")
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    assert [one["utterances"] for one in found["splits"]] == [2, 1]
    expected = TRAIN.read_text(encoding="utf-8").splitlines()[:2]
    assert (tmp_path / "labelled.jsonl").read_text(encoding="utf-8").splitlines() == expected
    assert (tmp_path / "audio" / "test-00000.flac").exists()
    kept = (tmp_path / "audio" / "labelled-00000.flac").stat().st_mtime_ns
    assert run(*given, "--split", "dev=1")[0] == 0
    assert (tmp_path / "audio" / "labelled-00000.flac").stat().st_mtime_ns == kept
    assert "seed = 20" in refused(run, *given[:2], "--seed", 3, *settings[2:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--split", "train"], "--split takes NAME=COUNT"),
        (["--split", "a=1", "--split", "a=2"], "names 'a' twice"),
        (["--length", "5-3"], "--length takes a range"),
        (["--length", "few"], "not 'few'"),
        (["--dictionary", "no/such/file"], "no/such/file"),
        (["--heldout", "2000"], "heldout must be in"),
    ],
)
def test_world_refuses(run, tmp_path, given, message):
    assert message in refused(run, "world", tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()


# Training -----------------------------------------------------------------------------------------

SMALL = ["--width", "8", "--epochs", "2", "--device", "cpu", "--dev-every", "1"]


def test_train_makes_a_model_of_the_corpus(run, tmp_path):
    given = ["train", TRAIN, "--out", tmp_path / "m", *SMALL, "--dev", TEST, "--json"]
    status, shown, errors = run(*given)
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    assert found["utterances"] == 24 and found["steps"] == 4 and len(found["losses"]) == 2
    assert set(found["dev_per_by_epoch"]) == {"1", "2"}
    model = TinyConvCTC.from_pretrained(tmp_path / "m")
    assert model.config.width == 8 and len(model.phones) == 44
    # A finished run is read and not trained again.
    again = json.loads(run(*given)[1])
    assert again["seconds"] == found["seconds"] and again["losses"] == found["losses"]
    assert "epochs = 2, not 3" in refused(run, *given, "--epochs", "3")
    status, shown, _ = run(
        "train", TRAIN, "--out", tmp_path / "n", *SMALL, "--from", tmp_path / "m"
    )
    assert status == 0 and "parameters" in shown


@pytest.mark.parametrize("inventory", ["arpabet40", "corpus"])
def test_train_takes_other_inventories(run, tmp_path, inventory):
    given = ["--inventory", inventory, "--epochs", "1", "--precision", "bf16"]
    status, _, errors = run("train", TRAIN, "--out", tmp_path, *SMALL, *given)
    assert status == 0, errors
    phones = TinyConvCTC.from_pretrained(tmp_path).phones.phones
    said = {phone for row in rows_of(TRAIN) for phone in row["real_phonemes"]}
    assert said <= set(phones) if inventory != "corpus" else said == set(phones)


def test_train_with_accelerate(run, tmp_path):
    pytest.importorskip("accelerate")
    given = ["train", TRAIN, *SMALL, "--json"]
    plain = json.loads(run(*given, "--out", tmp_path / "plain")[1])
    found = json.loads(run(*given, "--out", tmp_path / "acc", "--accelerate")[1])
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-4)


def test_labels_of_a_corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    row = {"id": "a", "audio_path": "a.flac", "phonemes": ["K", "AE", "T"], "real_phonemes": "K AE"}
    path.write_text(json.dumps({**row, "label_phonemes": [], "weight": -0.5}) + "\n\n")
    for label, phones in (
        ("canonical", ("K", "AE", "T")),
        ("realized", ("K", "AE")),
        ("label", ()),
    ):
        (found,) = labelled(path, label)
        assert (found.phones, found.weight, found.id) == (phones, -0.5, "a")
        assert found.audio == str(tmp_path / "a.flac")
    assert len(rows_of(TRAIN)) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "line 1 is no JSON"),
        ('{"text": "x"}', 'no JSON object with an "id"'),
        ('{"id": "a"}\n{"id": "a"}', "has 'a' twice"),
        ('{"id": "a", "audio_path": "a.flac"}', "no phones in the field 'real_phonemes'"),
        ('{"id": "a", "real_phonemes": ["K"]}', "a has no audio_path"),
        ('{"id": "a", "real_phonemes": ["K"], "audio_path": "a.flac"}', "a.flac"),
        ("", "no utterance to learn from"),
    ],
)
def test_train_refuses_a_bad_corpus(run, tmp_path, text, message):
    path = tmp_path / "corpus.jsonl"
    path.write_text(text)
    assert message in refused(run, "train", path, "--out", tmp_path / "m", *SMALL)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--label", "spoken"], "--label must be one of realized, canonical, label"),
        (["--inventory", "klingon"], "--inventory must be one of"),
        (["--precision", "fp8"], "precision must be one of"),
        (["--from", "no/such/model"], "no/such/model has no config.json"),
    ],
)
def test_train_refuses(run, tmp_path, given, message):
    assert message in refused(run, "train", TRAIN, "--out", tmp_path / "m", *SMALL, *given)
