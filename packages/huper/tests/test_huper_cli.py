"""The command line: what commands print and write, exit statuses, and what is refused."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from modicum.core.cli import method_main
from modicum.huper import EXAMPLE, audio, corpus, espeak, metrics, pronounce, selftrain
from modicum.huper.beam import PhoneNgram
from modicum.huper.channel import EditChannel
from modicum.huper.cli import app
from modicum.huper.cli.corpora import labelled
from modicum.huper.cli.listening import file_names
from modicum.huper.cli.routing import dev_items
from modicum.huper.cli.show import cell
from modicum.huper.formats import read_textgrid
from modicum.huper.g2p import Dict
from modicum.huper.graph import fused_decode
from modicum.huper.recognizer import Recognizer
from modicum.huper.simulate import EspeakWorld
from modicum.huper.system import HuPER
from modicum.huper.tiny import TinyConvCTC
from modicum.huper.transcript import Transcript

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


def rows_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(run, *arguments):
    """Give the message of a command that is refused: one line, no traceback."""
    status, shown, errors = run(*arguments)
    assert status == 2 and shown == "" and "Traceback" not in errors
    return errors


def test_every_command_has_a_help():
    names = [command.name for command in app.registered_commands]
    assert {"align", "channel", "eval", "score", "simulate", "train", "transcribe", "world"} <= set(
        names
    )
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


# Listening ----------------------------------------------------------------------------------------

FIRST = WORLD / "audio" / "test-00000.flac"


def test_transcribe_says_what_the_recognizer_says(run):
    expected = Recognizer.from_pretrained("tiny").transcribe(str(FIRST))[0]
    status, shown, errors = run("transcribe", FIRST)
    assert (status, errors) == (0, "") and shown == " ".join(expected.phones) + "\n"
    assert run("transcribe", FIRST, "--ipa")[1] == " ".join(expected.ipa) + "\n"
    row = json.loads(run("transcribe", FIRST, "--json")[1])
    assert row["id"] == "test-00000" and row["audio_path"] == str(FIRST)
    assert Transcript.from_dict(row) == expected


def test_transcribe_with_a_beam_and_n_grams(run, tmp_path):
    recognizer = Recognizer.from_pretrained("tiny")
    said = [item.phones() for item in corpus.load(TRAIN)]
    model = PhoneNgram.fit(said, recognizer.phones, order=2)
    path = model.save(tmp_path / "phones.arpa")
    given = {"decode": "beam", "beam": 4, "lm_weight": 1.0}
    (expected,) = recognizer.transcribe(
        str(FIRST), lm=PhoneNgram.load(path, recognizer.phones), **given
    )
    call = ["transcribe", FIRST, "--decode", "beam", "--beam", 4, "--lm", path, "--lm-weight", 1]
    status, shown, errors = run(*call, "--json")
    assert (status, errors) == (0, "") and Transcript.from_dict(json.loads(shown)) == expected
    assert run("transcribe", FIRST, "--decode", "lattice")[0] == 0
    assert "--lm is for" in refused(run, "transcribe", FIRST, "--lm", path)


def test_transcribe_a_corpus_into_files(run, tmp_path):
    out, grids, ctm = tmp_path / "hyp.jsonl", tmp_path / "grids", tmp_path / "all.ctm"
    given = ["transcribe", TEST, "--batch-size", "4", "--jobs", "2"]
    status, shown, errors = run(*given, "--out", out, "--textgrid", grids, "--ctm", ctm)
    assert (status, errors) == (0, "")
    rows = rows_in(out)
    assert [row["id"] for row in rows] == [row["id"] for row in rows_in(TEST)]
    assert shown == "".join(f"{row['id']}\t{' '.join(row['phones'])}\n" for row in rows)
    assert not out.with_name("hyp.jsonl.partial").exists()
    assert {path.name for path in grids.iterdir()} == {f"{row['id']}.TextGrid" for row in rows}
    (tier,) = [one for one in read_textgrid(grids / "test-00000.TextGrid").tiers
               if one.name == "realized"]  # fmt: skip
    assert [one.text for one in tier.intervals if one.text] == rows[0]["phones"]
    assert len(ctm.read_text().splitlines()) == sum(len(row["phones"]) for row in rows)


def test_transcribe_a_list(run, monkeypatch, tmp_path):
    second = tmp_path / "test-00000.flac"
    shutil.copy(FIRST, second)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{FIRST}\n\n{second}\tkayvakighz\n"))
    status, shown, _ = run("transcribe", "-")
    names = [line.split("\t")[0] for line in shown.splitlines()]
    # Two files of one name go by their paths.
    assert status == 0 and names == [str(FIRST), str(second)]


def test_a_bad_recording_does_not_stop_the_others(run, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    status, shown, errors = run(
        "transcribe", FIRST, bad, tmp_path / "none.wav", FIRST.parent / "test-00001.flac"
    )
    assert status == 1 and len(shown.splitlines()) == 2
    assert [line.split(":")[0] for line in errors.splitlines()] == [
        str(bad),
        str(tmp_path / "none.wav"),
    ]


def test_transcribe_goes_on_where_it_was_cut_off(run, monkeypatch, tmp_path):
    out = tmp_path / "hyp.jsonl"
    partial = tmp_path / "hyp.jsonl.partial"
    given = ["transcribe", TEST, "--batch-size", "2", "--out", out]
    heard = []
    listen = Recognizer.transcribe

    def counting(self, audio, *rest, **more):
        heard.append(len(audio))
        if len(heard) == 3:
            raise KeyboardInterrupt
        return listen(self, audio, *rest, **more)

    monkeypatch.setattr(Recognizer, "transcribe", counting)
    assert run(*given)[0] not in (0, 2) and not out.exists()
    assert len(partial.read_text().splitlines()) == 4
    with partial.open("a") as file:
        file.write('{"id": "half a li')
    assert "inventory = None, not ['AA', 'T']" in refused(run, *given, "--inventory", "AA,T")
    assert run(*given)[0] == 0 and heard == [2, 2, 2, 2] and not partial.exists()
    monkeypatch.setattr(Recognizer, "transcribe", listen)
    assert run(*given[:-1], tmp_path / "whole.jsonl")[0] == 0
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Missing argument"),
        ([FIRST, "--model", "no/such/model"], "no/such/model"),
        ([FIRST, "--decode", "magic"], "decode must be one of"),
        ([FIRST, "--inventory", ","], "--inventory names none"),
        ([FIRST, "--inventory", "XX"], "XX"),
        (["no/corpus.jsonl"], "no/corpus.jsonl"),
        ([TEST, TEST], "'test-00000' is there twice"),
        ([TEST, "--textgrid", "a.TextGrid"], "takes a folder for 6 recordings"),
    ],
)
def test_transcribe_refuses(run, given, message):
    assert message in refused(run, "transcribe", *given)


# References ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Give the folder of a channel of the speakers of the fixture."""
    pairs = [(item.phones("canonical"), item.phones()) for item in corpus.load(TRAIN)]
    return EditChannel.fit(pairs, context="lr").save(tmp_path_factory.mktemp("channel"))


def test_channel_counts_edits(run, counted, tmp_path):
    given = ["channel", TRAIN, "--out", tmp_path / "c", "--context", "--json"]
    status, shown, errors = run(*given)
    assert (status, errors) == (0, "")
    edits = {(one["canonical"], one["said"]): one["count"] for one in json.loads(shown)["edits"]}
    expected = EditChannel.load(counted)
    found = EditChannel.load(tmp_path / "c")
    np.testing.assert_array_equal(found.sub_counts, expected.sub_counts)
    assert found.context == "lr" and edits["V", "B"] > 0
    assert all(one != two for one, two in edits)
    # Without labels, from the audio: the most frequent edits are the same ones.
    status, shown, _ = run(
        "channel", TRAIN, "--out", tmp_path / "e", "--em", "--iterations", 2, "--json"
    )
    heard = {(one["canonical"], one["said"]) for one in json.loads(shown)["edits"]}
    most = sorted(edits, key=edits.get)[-3:]
    assert status == 0 and set(most) <= heard
    assert "no utterance to count on" in refused(run, "channel", empty(tmp_path), "--out", tmp_path)
    assert "has no real_phonemes" in refused(run, "channel", nothing(tmp_path), "--out", tmp_path)


def empty(folder):
    path = folder / "empty.jsonl"
    path.write_text("")
    return path


def nothing(folder):
    path = folder / "nothing.jsonl"
    row = {"id": "a", "audio_path": str(FIRST), "phonemes": ["T"]}
    path.write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "id": "b", "phonemes": None}) + "\n"
    )
    return path


def test_align_finds_edits_with_times(run, counted, tmp_path):
    out = tmp_path / "aligned.jsonl"
    given = ["align", TEST, "--channel", counted, "--lam", "0.5"]
    status, shown, errors = run(*given, "--out", out, "--textgrid", tmp_path / "g", "--jobs", 2)
    assert (status, errors) == (0, "")
    items = corpus.load(out)
    recognizer, channel = Recognizer.from_pretrained("tiny"), EditChannel.load(counted)
    for item, line in zip(items, shown.splitlines(), strict=True):
        emissions = recognizer.emissions(item.audio_path)
        (expected,) = fused_decode(emissions, [list(item.phonemes)], channel, 0.5)
        found = Transcript.from_dict(item.extra)
        assert found.phones == expected.phones and found.canonical == item.phonemes
        assert found.score == pytest.approx(expected.score)
        marks = line.split("\t")[1].split()
        assert len(marks) == len(expected.edits)
        assert sum(mark.startswith("-") for mark in marks) == len(expected.deleted)
    assert len(list((tmp_path / "g").iterdir())) == 6


def test_align_by_words_of_a_dictionary(run, tmp_path):
    item = corpus.load(TEST)[0]
    words = dict(
        zip(
            item.text.split(),
            (item.phonemes[:7], item.phonemes[7:10], item.phonemes[10:]),
            strict=True,
        )
    )
    dictionary = tmp_path / "words.txt"
    dictionary.write_text(
        "".join(f"{word}  {' '.join(phones)}\n" for word, phones in words.items())
    )
    given = ["--text", item.text, "--g2p", dictionary, "--json"]
    for method in ("edits", "forced", "dysfluent"):
        status, shown, errors = run("align", FIRST, *given, "--method", method)
        assert status == 0, errors
        found = Transcript.from_dict(json.loads(shown))
        assert [word.text for word in found.words] == list(words)
        assert [word.canonical for word in found.words] == list(words.values())
        said = tuple(phone for word in found.words for phone in word.phones)
        assert said == found.phones
        ends = [(word.span.start, word.span.end) for word in found.words]
        assert ends == sorted(ends)
        if method == "forced":
            assert found.phones == item.phonemes
    assert run("align", FIRST, *given, "--repeat", "-2")[0] == 0


def test_score_is_that_of_the_library(run, counted, tmp_path):
    out = tmp_path / "scores.jsonl"
    status, shown, errors = run("score", TEST, "--channel", counted, "--out", out, "--theta", "-1")
    assert (status, errors) == (0, "")
    recognizer, channel = Recognizer.from_pretrained("tiny"), EditChannel.load(counted)
    for item, line in zip(corpus.load(out), shown.splitlines(), strict=True):
        expected = pronounce.score(
            recognizer, item.audio_path, canonical=item.phonemes, channel=channel, theta=-1
        )
        found = pronounce.Pronunciation.from_dict(item.extra["pronunciation"])
        assert found.score == pytest.approx(expected.score, abs=1e-5)
        name, score, flags = line.split("\t")
        assert name == item.id and float(score) == pytest.approx(expected.score, abs=1e-3)
        assert len(flags.split()) == len(expected.flags)
    shown = (
        run("score", FIRST, "--g2p", "espeak", "--text", "stow")[1] if espeak.available() else ""
    )
    assert not shown or shown.startswith("word")


@pytest.mark.parametrize("command", ["align", "score"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([TEST, "--text", "one"], "--text is for one recording, not for 6"),
        ([FIRST, "--text", "a", "--g2p", "magic"], "--g2p must be"),
        ([FIRST, "--text", "a", "--g2p", "gruut:de"], "--g2p must be"),
        ([FIRST, "--channel", "no/channel"], "no/channel"),
        ([FIRST, "--model", "no/such/model"], "no/such/model"),
    ],
)
def test_references_are_refused(run, command, given, message):
    assert message in refused(run, command, *given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["align", TEST, "--method", "magic"], "--method must be one of"),
        (
            ["align", TEST, "--method", "forced", "--repeat", "-1"],
            "--repeat is for the method edits",
        ),
        (["score", TEST, "--theta", "nan"], "theta must be finite"),
        (["score", TEST, "--native-share", "2"], "native_share must be"),
    ],
)
def test_settings_of_references_are_refused(run, given, message):
    assert message in refused(run, *given)


def test_a_recording_without_text_is_reported(run):
    for command in ("align", "score"):
        status, shown, errors = run(command, FIRST)
        assert status == 1 and not shown and "there is no text of the recording" in errors


# Systems ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    """Give a file with the words of the fixture."""
    world = EspeakWorld("rules", seed=20, words=80, heldout=20, length=(2, 3))
    path = tmp_path_factory.mktemp("words") / "words.txt"
    entries = world.g2p.entries.items()
    path.write_text("".join(f"{word}  {' '.join(phones[0])}\n" for word, phones in entries))
    return path


def test_transcribe_near_a_text(run, counted, dictionary):
    item = corpus.load(TEST)[0]
    given = ["--channel", counted, "--g2p", dictionary]
    system = HuPER(
        Recognizer.from_pretrained("tiny"), EditChannel.load(counted), g2p=Dict(dictionary)
    )
    expected = system(item.audio_path, text=item.text, paths=True)
    status, shown, errors = run(
        "transcribe", FIRST, "--text", item.text, *given, "--paths", "--json"
    )
    assert (status, errors) == (0, "")
    found = Transcript.from_dict(json.loads(shown))
    assert found == expected and found.trace["path"] == "reference"
    assert [word.text for word in found.words] == item.text.split()
    shown = run("transcribe", FIRST, "--text", item.text, *given, "--paths")[1].splitlines()
    assert shown[0].split() == list(found.phones) and shown[1].split("\t")[1] == "bottom-up"
    # Texts of a corpus, or its canonical phones, are used when that is asked for.
    rows = [
        json.loads(line) for line in run("transcribe", TEST, "--use-text", "--json")[1].splitlines()
    ]
    assert {row["trace"]["path"] for row in rows} <= {"reference", "bottom-up"}
    assert all(row["trace"]["evidence_ratio"] is not None for row in rows)
    # A text of something else is not believed.
    given = ["--text", corpus.load(TEST)[3].text, "--g2p", dictionary, "--json"]
    assert json.loads(run("transcribe", FIRST, *given)[1])["trace"]["path"] == "bottom-up"


def test_calibrate_writes_a_system_that_transcribe_takes(run, counted, dictionary, tmp_path):
    noisy = tmp_path / "noisy.jsonl"
    given = ["--distort", "clean", "--distort", "white=0", "--out", noisy]
    assert run("simulate", TRAIN, *given)[0] == 0
    out = tmp_path / "system"
    given = ["calibrate", noisy, "--wrong", "0.3", "--channel", counted, "--out", out, "--json"]
    with pytest.warns(UserWarning, match="24 utterances calibrate"):
        status, shown, _ = run(*given, "--test", TEST)
    assert status == 0
    found = json.loads(shown)
    dev = found["dev"]["reference"]
    assert dev["items"] == 48 and dev["utterances"] == 24
    assert dev["risk"] <= min(dev["bottom_up"], dev["top_down"])
    assert found["test"]["items"] == 6 and found["scheduler"]["policy"] == "llr"
    status, shown, errors = run("transcribe", TEST, "--model", out, "--use-text", "--json")
    assert (status, errors) == (0, "")
    assert json.loads(shown.splitlines()[0])["trace"]["policy"] == "llr"
    assert "has its own channel" in refused(
        run, "transcribe", FIRST, "--model", out, "--text", "x", "--channel", counted
    )
    # The utterances that chose the rule must not judge it.
    with pytest.warns(UserWarning):
        status, _, errors = run(*given, "--test", noisy)
    assert status == 2 and "labelled-00000" in errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["calibrate", TEST, "--policy", "magic"], "--policy must be one of"),
        (["calibrate", TEST, "--scope", "word"], "--scope must be one of"),
        (["calibrate", TEST, "--lam", "0"], "--lam must be positive"),
        (["calibrate", "no/corpus.jsonl"], "no/corpus.jsonl"),
        (["transcribe", FIRST, "--text", "a", "--decode", "beam"], "for the ear alone"),
        (["transcribe", FIRST, "--g2p", "espeak"], "for texts: give --text or --use-text"),
        (["transcribe", TEST, "--text", "a"], "--text is for one recording"),
    ],
)
def test_systems_refuse(run, tmp_path, given, message):
    assert message in refused(run, *given, "--out", tmp_path / "out")


def test_plots_are_drawn(run, counted, tmp_path):
    pytest.importorskip("matplotlib")
    noisy = tmp_path / "noisy.jsonl"
    given = ["--distort", "clean", "--distort", "white=0", "--out", noisy]
    assert run("simulate", TEST, *given)[0] == 0
    row = corpus.load(TEST)[0]
    near = ["--channel", counted]
    words = tmp_path / "words.txt"
    words.write_text(f"{row.text.replace(' ', '-')}  {' '.join(row.phonemes)}\n")
    calls = [
        ["posteriorgram", FIRST],
        ["posteriorgram", FIRST, "--text", row.text.replace(" ", "-"), "--g2p", words, *near],
        ["confusions", TEST, TEST, "--hyp-label", "canonical"],
        ["reliability", noisy],
        ["evidence", noisy, "--wrong", "0.5", *near],
        ["noise", noisy, *near],
    ]
    for number, call in enumerate(calls):
        out = tmp_path / "pictures" / f"{number}.svg"
        status, shown, errors = run("plot", *call, "--out", out)
        assert status == 0 and shown.strip() == str(out), errors
        assert "<svg" in out.read_text(encoding="utf-8")
    assert "needs white, babble or clean" in refused(
        run, "plot", "noise", band_limited(tmp_path), "--out", tmp_path / "x.png"
    )
    assert "has 6" in refused(run, "plot", "posteriorgram", TEST, "--out", tmp_path / "x.png")


def band_limited(folder):
    items = [
        dataclasses.replace(one, extra={"distortion": "band=8000"}) for one in corpus.load(TEST)
    ]
    return corpus.write_jsonl(items, folder / "band.jsonl")


# Judging ------------------------------------------------------------------------------------------


def test_eval_is_the_report_of_the_library(run, tmp_path):
    out = tmp_path / "hyp.jsonl"
    assert run("transcribe", TEST, "--out", out)[0] == 0
    rows = rows_in(TEST)
    heard = [row["phones"] for row in rows_in(out)]
    said = [row["real_phonemes"] for row in rows]
    status, shown, errors = run("eval", out, TEST, "--json")
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    assert found["per"] == metrics.per(heard, said)
    low, high = found["per_interval"]
    assert low <= found["per"] <= high and found["pfer"] is None
    assert "PER" in run("eval", out, TEST, "--resamples", "0", "--fold", "arpabet39")[1]
    # The dictionary as the hypothesis, and speakers that are drawn as a whole.
    given = ["--hyp-label", "canonical", "--by", "speaker", "--json"]
    found = json.loads(run("eval", TEST, TEST, *given)[1])
    assert found["per"] == metrics.per([row["phonemes"] for row in rows], said)
    given = ["--hyp-label", "canonical", "--label", "canonical", "--json"]
    assert json.loads(run("eval", TEST, TEST, *given)[1])["per"] == 0


def test_eval_by_features(run):
    pytest.importorskip("panphon")
    given = ["--hyp-label", "canonical", "--metric", "per,pfer", "--json"]
    found = json.loads(run("eval", TEST, TEST, *given)[1])
    assert 0 < found["pfer"] < found["per"]


def test_eval_refuses(run, tmp_path):
    less = tmp_path / "less.jsonl"
    less.write_text("\n".join(TEST.read_text().splitlines()[:4]) + "\n")
    given = ["--hyp-label", "canonical"]
    assert "lacks 2 ids, the first is 'test-00004'" in refused(run, "eval", less, TEST, *given)
    assert run("eval", less, TEST, *given, "--allow-missing")[0] == 0
    assert "less.jsonl lacks" in refused(run, "eval", TEST, less, *given, "--allow-missing")
    for option, value, message in (
        ("--label", "spoken", "--label must be one of"),
        ("--hyp-label", "spoken", "--hyp-label must be one of"),
        ("--fold", "klingon", "--fold must be one of"),
        ("--metric", "wer", "measures are"),
        ("--by", "town", "no field 'town'"),
        ("--level", "95", "95"),
    ):
        assert message in refused(run, "eval", TEST, TEST, *given, option, value)
    assert "no phones in the field 'phones'" in refused(run, "eval", TEST, TEST)


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


def test_simulate_distorts_a_corpus(run, tmp_path):
    out = tmp_path / "noisy.jsonl"
    given = ["simulate", TEST, "--distort", "clean", "--distort", "white=5", "--out", out]
    status, shown, errors = run(*given, "--json", "--jobs", "2")
    assert (status, errors) == (0, "")
    assert json.loads(shown)["distortions"] == {"clean": 6, "white=5": 6}
    items = {item.id: item for item in corpus.load(out)}
    sources = corpus.load(TEST)
    for item in sources:
        clean, noisy = items[f"{item.id}-clean"], items[f"{item.id}-white5"]
        assert noisy.phones() == item.phones() and noisy.extra["voice"] == item.extra["voice"]
        assert noisy.extra["source"] == item.id
        (before, _), (same, _), (after, _) = (one.audio() for one in (item, clean, noisy))
        np.testing.assert_array_equal(same, before)
        # 16-bit files round what was mixed.
        assert audio.decibel(before, after - before) == pytest.approx(5, abs=0.05)
    first = (tmp_path / "audio" / "test-00000-white5.flac").read_bytes()
    out.unlink()
    assert run(*given)[0] == 0
    assert (tmp_path / "audio" / "test-00000-white5.flac").read_bytes() == first


def test_simulate_draws_one_for_each_utterance(run, tmp_path):
    out = tmp_path / "drawn.jsonl"
    kinds = [
        "babble=10",
        "reverberation=0.3",
        "band=8000",
        "clipping=0.1",
        "mu_law=8",
        "ulaw",
    ]
    given = [word for kind in kinds for word in ("--distort", kind)]
    status, shown, _ = run("simulate", TRAIN, *given, "--draw", "--seed", 3, "--out", out)
    assert status == 0 and "babble" in shown
    items = corpus.load(out)
    assert [item.id for item in items] == [item.id for item in corpus.load(TRAIN)]
    assert len({item.extra["distortion"] for item in items}) > 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Missing option"),
        (["--distort", "thunder=3"], "--distort must be clean or one of"),
        (["--distort", "white"], "white needs a level"),
        (["--distort", "white=loud"], "not 'white=loud'"),
        (["--distort", "clean=1"], "clean has no level"),
        (["--distort", "babble=3"], "babble needs more than 6 utterances"),
    ],
)
def test_simulate_refuses(run, tmp_path, given, message):
    assert message in refused(run, "simulate", TEST, "--out", tmp_path / "x.jsonl", *given)


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
    said = {phone for row in rows_in(TRAIN) for phone in row["real_phonemes"]}
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
    assert len(rows_in(TRAIN)) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "line 1: no JSON"),
        ('{"text": "x"}', "neither id nor audio_path"),
        ('{"id": "a"}\n{"id": "a"}', "line 2: id 'a' is that of line 1"),
        ('{"id": "a", "audio_path": "a.flac"}', "'a' has no real_phonemes"),
        ('{"id": "a", "real_phonemes": ["K"]}', "'a' has no audio_path"),
        ('{"id": "a", "real_phonemes": [], "audio_path": "b", "weight": "x"}', "must be a number"),
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


# Self-training ------------------------------------------------------------------------------------


def test_label_writes_what_train_learns_from(run, tmp_path):
    out = tmp_path / "labels.jsonl"
    given = ["label", TEST, "--labelled", TRAIN, "--out", out, "--keep", "0.7"]
    status, shown, errors = run(*given, "--folds", "3", "--json")
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    expected = selftrain.make_labels(
        Recognizer.from_pretrained("tiny").model, corpus.load(TRAIN), corpus.load(TEST), keep=0.7
    )
    assert found["utterances"] == 6 and found["kept"] == len(expected.kept) < 6
    assert found["label error"] == expected.error()
    assert set(found["report"]["intervals"]) == {"canonical", "greedy", "corrected"}
    kept = {item.id: item.label_phonemes for item in expected.kept}
    assert {one.id: one.phones for one in labelled(out, "label")} == kept
    assert len(rows_in(tmp_path / "labels.all.jsonl")) == 6
    # What is there is not made again.
    before = (tmp_path / "labels.all.jsonl").read_bytes()
    assert run(*given)[0] == 0 and (tmp_path / "labels.all.jsonl").read_bytes() == before


def test_self_train_writes_a_model(run, tmp_path):
    few = [
        corpus.write_jsonl(corpus.load(path)[:4], tmp_path / path.name) for path in (TRAIN, TEST)
    ]
    given = ["self-train", *few, "--out", tmp_path, "--first-epochs", 1, "--epochs", 1]
    status, shown, errors = run(*given, "--device", "cpu", "--json")
    assert (status, errors) == (0, "")
    found = json.loads(shown)
    assert [one["round"] for one in found["rounds"]] == [0, 1] and found["best"] == 1
    assert found["rounds"][1]["labels"] in (3, 4)
    TinyConvCTC.from_pretrained(tmp_path)
    EditChannel.load(tmp_path / "channel")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["label", TEST, "--labelled", TRAIN, "--corrector", "magic"],
            "--corrector must be one of",
        ),
        (["label", TEST, "--labelled", TRAIN, "--keep", "0"], "--keep must be in (0, 1]"),
        (["label", TEST, "--labelled", "no/corpus.jsonl"], "no/corpus.jsonl"),
        (["label", "no/corpus.jsonl", "--labelled", TRAIN], "no/corpus.jsonl"),
        (["self-train", TRAIN, TEST, "--corrector", "magic"], "--corrector must be one of"),
        (["self-train", TRAIN, "no/corpus.jsonl"], "no/corpus.jsonl"),
    ],
)
def test_self_training_refuses(run, tmp_path, given, message):
    assert message in refused(run, *given, "--out", tmp_path / "out.jsonl")


def test_recordings_of_one_name_get_files_of_their_own(tmp_path):
    assert file_names(["d1/x.wav", "d2/y.wav"]) == ["x.wav", "y.wav"]
    assert file_names(["d1/x.wav", "d2/x.wav"]) == ["d1_x.wav", "d2_x.wav"]
    with pytest.raises(ValueError, match="same name"):
        file_names(["a/b", "a_b", "c/a_b"])
    for folder in ("d 1", "d2"):
        (tmp_path / folder).mkdir()
        shutil.copy(EXAMPLE, tmp_path / folder / "a b.flac")
    names = [str(tmp_path / folder / "a b.flac") for folder in ("d 1", "d2")]
    done = CliRunner().invoke(
        app,
        ["transcribe", *names, "--textgrid", str(tmp_path / "grids"), "--ctm", str(tmp_path / "c")],
    )
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "grids").iterdir())) == 2
    assert len({line.split()[0] for line in (tmp_path / "c").read_text().splitlines()}) == 2


def test_a_wrong_text_is_never_the_same_one(tmp_path):
    rows = [
        {"id": f"u{n}", "text": f"prompt {n % 2}", "phonemes": ["AA" if n % 2 else "B"]}
        for n in range(12)
    ]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row | {"audio_path": "x.wav"}) + "\n" for row in rows))
    given = {item.id: item.text for item in dev_items([path], 0.5, 0)}
    assert sum(given[row["id"]] != row["text"] for row in rows) == 6
    path.write_text("".join(json.dumps(row | {"audio_path": "x.wav"}) + "\n" for row in rows[::2]))
    with pytest.raises(ValueError, match="only one"):
        dev_items([path], 0.5, 0)
