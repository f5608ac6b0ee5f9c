"""Corpora: every kind of file comes back, and bad lines are named."""

import dataclasses
import io
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modicum.huper import corpus, metrics
from modicum.huper.corpus import Item, JsonlWriter
from modicum.huper.phones import PhoneSet
from modicum.huper.tiny import TinyConvCTC
from modicum.huper.training import TrainingConfig, train

WORLD = Path(__file__).parent / "data" / "huper_world"


def tone(seconds: float = 0.5, rate: int = 16_000) -> np.ndarray:
    return np.sin(np.arange(int(seconds * rate)) * 0.05).astype(np.float32) / 2


def wav(path: Path, seconds: float = 0.5, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate), rate)
    return path


# Items --------------------------------------------------------------------------------------------


def test_phones_of_each_kind() -> None:
    item = Item("a", phonemes=["K"], real_phonemes=("G",), label_phonemes=())
    assert item.phones("canonical") == item.phones("phonemes") == ("K",)
    assert item.phones() == item.phones("realized") == ("G",)
    assert item.phones("label") == ()
    with pytest.raises(ValueError, match="'a' has no real_phonemes"):
        dataclasses.replace(item, real_phonemes=None).phones()
    with pytest.raises(ValueError, match="'words'"):
        item.phones("words")
    assert pickle.loads(pickle.dumps(item)) == item


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"id": ""}, ValueError, "''"),
        ({"id": 5}, ValueError, "5"),
        ({"id": "a", "phonemes": "K AE"}, TypeError, "'K AE'"),
        ({"id": "a", "start": -1.0}, ValueError, "-1.0"),
        ({"id": "a", "start": 2.0, "end": 1.0}, ValueError, r"2\.0 and 1\.0"),
        ({"id": "a", "end": 0.0}, ValueError, r"0\.0"),
        ({"id": "a", "end": float("nan")}, ValueError, "nan"),
        ({"id": "a", "samples": np.zeros(9)}, ValueError, "sampling_rate"),
    ],
)
def test_items_that_are_none(fields, error, message: str) -> None:
    with pytest.raises(error, match=message):
        Item(**fields)


def test_audio_of_a_part_is_that_part(tmp_path) -> None:
    path = wav(tmp_path / "long.wav", 2.0, 8000)
    whole, rate = soundfile.read(path, dtype="float32")
    item = Item("a", str(path), start=0.25, end=1.5)
    samples, found = item.audio()
    assert found == rate == 8000
    assert np.array_equal(samples, whole[2000:12_000])
    assert np.array_equal(Item("a", str(path)).audio()[0], whole)
    held = Item("a", start=0.25, end=1.5, samples=whole, sampling_rate=rate)
    assert np.array_equal(held.audio()[0], samples)
    # Channels are the short axis.
    both = Item("a", start=0.25, end=1.5, samples=np.stack([whole, whole]), sampling_rate=rate)
    assert np.array_equal(both.audio()[0][1], samples)
    # Times that are rounded up in a file are forgiven, others not.
    assert len(Item("a", str(path), start=1.9, end=2.04).audio()[0]) == 800
    for start, end in ((0.0, 2.1), (2.0, None), (3.0, 4.0)):
        with pytest.raises(ValueError, match=r"2\.000 s long"):
            Item("a", str(path), start=start, end=end).audio()


def test_audio_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ValueError, match="'a' has no audio"):
        Item("a").audio()
    with pytest.raises(FileNotFoundError, match=r"'a'.*none\.wav"):
        Item("a", str(tmp_path / "none.wav")).audio()
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"text\.wav is no sound file"):
        Item("a", str(tmp_path / "text.wav")).audio()


def test_items_are_what_training_takes(tmp_path) -> None:
    path = wav(tmp_path / "a.wav", 1.0)
    whole = Item("a", str(path), phonemes=("K",), real_phonemes=("G", "K"))
    one = whole.labelled(weight=-0.5)
    assert (one.audio, one.phones, one.weight, one.id) == (str(path), ("G", "K"), -0.5, "a")
    assert whole.labelled("canonical").phones == ("K",)
    with pytest.raises(ValueError, match="label_phonemes"):
        whole.labelled("label")
    part = dataclasses.replace(whole, start=0.5).labelled()
    assert (len(part.audio), part.sampling_rate) == (8000, 16_000)
    held = Item("b", real_phonemes=("K",), samples=tone(0.5, 8000), sampling_rate=8000).labelled()
    assert (len(held.audio), held.sampling_rate) == (4000, 8000)
    with pytest.raises(ValueError, match="'b' has no audio"):
        Item("b", real_phonemes=("K",)).labelled()
    model = TinyConvCTC(PhoneSet.ipa(["G", "K"]))
    report = train(model, [one, part, held], TrainingConfig(epochs=1), device="cpu")
    assert report.steps == 1


# JSONL --------------------------------------------------------------------------------------------


def test_the_files_of_the_synthetic_world_load() -> None:
    items = corpus.read_jsonl(WORLD / "test.jsonl")
    assert [item.id for item in items] == sorted(item.id for item in items)
    for item in items:
        assert item.phonemes and item.real_phonemes and item.label_phonemes is None
        assert item.speaker and item.extra["voice"].startswith("en-us")
        assert Path(item.audio_path).is_file()
        assert len(item.audio()[0]) > 400
    assert metrics.per(
        corpus.phones_by_id(items, "canonical"), corpus.phones_by_id(items)
    ) == metrics.per([item.phonemes for item in items], [item.real_phonemes for item in items])
    assert corpus.load(WORLD / "test.jsonl") == items == corpus.load(items)


def test_fields_of_public_files(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [
        '{"id": "103-1240-0000", "audio_path": "/data/wav/103.wav", "text": "CHAPTER ONE", '
        '"phonemes": ["CH", "AE1", "P"], "real_phonemes": "CH AE  P", "audio_tokens": [34, 102]}',
        "",
        '{"audio_path": "wav/7.flac", "label_phonemes": ["ʃ ", "ɝ"], "speaker": 12}',
        '{"id": 9, "phonemes": [], "real_phonemes": ""}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    one, two, three = corpus.read_jsonl(path)
    assert one.phonemes == ("CH", "AE1", "P") and one.real_phonemes == ("CH", "AE", "P")
    assert one.extra == {"audio_tokens": [34, 102]}
    assert one.audio_path == "/data/wav/103.wav"
    assert (two.id, two.audio_path) == ("7", str(tmp_path / "wav" / "7.flac"))
    assert (two.label_phonemes, two.phonemes, two.speaker) == (("ʃ", "ɝ"), None, "12")
    assert (three.id, three.phonemes, three.real_phonemes) == ("9", (), ())
    assert corpus.read_jsonl(path, root="/r")[1].audio_path == "/r/wav/7.flac"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON"),
        ('["a"]', "an object, not list"),
        ("{}", "neither id nor audio_path"),
        ('{"id": ""}', "not empty"),
        ('{"id": ["a"]}', r"\['a'\]"),
        ('{"id": true}', "True"),
        ('{"id": "b", "phonemes": 3}', "phonemes must be a list of phones or a string, not 3"),
        ('{"id": "b", "real_phonemes": ["K", 3]}', "not 3"),
        ('{"id": "b", "real_phonemes": ["K", " "]}', "not ' '"),
        ('{"id": "b", "text": 3}', "text must be a string, not 3"),
        ('{"id": "b", "start": "0"}', "start must be seconds, not '0'"),
        ('{"id": "b", "start": 3, "end": 2}', "3 and 2"),
        ('{"id": "a"}', "'a' is that of line 1"),
    ],
)
def test_bad_lines_are_named(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"id": "a"}}\n\n{line}\n{{"id": "c"}}\n')
    with pytest.raises(ValueError, match=rf"bad\.jsonl, line 3: .*{message}"):
        corpus.read_jsonl(path)
    # What stands before it can be read.
    assert next(corpus.iter_jsonl(path)).id == "a"


_word = st.text(st.characters(exclude_categories=("Cs", "Z", "C")), min_size=1, max_size=4).filter(
    lambda text: text.split() == [text]
)
_phones = st.none() | st.lists(_word, max_size=4).map(tuple)
_times = st.none() | st.floats(0.0, 1e5)


@st.composite
def items(draw: st.DrawFn, kaldi: bool = False) -> list[Item]:
    found = []
    for name in draw(st.lists(_word, unique=True, max_size=5)):
        start = draw(_times)
        text = st.lists(_word, max_size=3).map(" ".join) if kaldi else st.text(max_size=12)
        found.append(
            Item(
                name,
                "/audio/" + draw(st.sampled_from("ab")) + ".wav",
                draw(st.none() | text.filter(lambda text: text.isprintable() or not kaldi)),
                *(draw(_phones) for _ in range(3)),
                draw(_word) if kaldi else draw(st.none() | _word),
                start,
                (start or 0.0) + 1.5 if kaldi and start is not None else None,
                extra={} if kaldi else draw(st.dictionaries(_word.map("x".__add__), st.integers())),
            )
        )
    return found


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(items())
def test_any_items_come_back(tmp_path, written: list[Item]) -> None:
    path = corpus.write_jsonl(written, tmp_path / "a.jsonl")
    assert corpus.read_jsonl(path) == written
    # The writer reads its own lines, whatever characters end lines elsewhere.
    assert len(JsonlWriter(path)) == len(written)


def test_audio_paths_are_relative_to_the_file_and_move_with_it(tmp_path) -> None:
    inside, outside = wav(tmp_path / "c" / "audio" / "a.wav"), wav(tmp_path / "d" / "b.wav")
    path = corpus.write_jsonl(
        [Item("a", str(inside)), Item("b", str(outside))], tmp_path / "c" / "all.jsonl"
    )
    named = [json.loads(line)["audio_path"] for line in path.read_text().splitlines()]
    assert named == ["audio/a.wav", str(outside)]
    shutil.move(tmp_path / "c", tmp_path / "moved")
    found = corpus.read_jsonl(tmp_path / "moved" / "all.jsonl")
    assert all(len(item.audio()[0]) == 8000 for item in found)
    # From another root.
    path = corpus.write_jsonl(found, tmp_path / "x" / "all.jsonl", root=tmp_path)
    assert json.loads(path.read_text().splitlines()[0])["audio_path"] == "moved/audio/a.wav"
    assert corpus.read_jsonl(path, root=tmp_path) == found


def test_audio_in_memory_becomes_files(tmp_path) -> None:
    stereo = np.stack([tone(0.5, 8000)] * 2)
    given = [
        Item("a", samples=tone(1.0), sampling_rate=16_000, start=0.25, end=0.75),
        Item("b", samples=(tone() * 32_767).astype(np.int16), sampling_rate=16_000),
        Item("c", samples=stereo, sampling_rate=8000),
    ]
    with pytest.warns(UserWarning, match="2 channels"):
        path = corpus.write_jsonl(given, tmp_path / "a.jsonl")
    one, two, three = corpus.read_jsonl(path)
    assert (one.start, one.end) == (None, None)
    assert Path(one.audio_path) == tmp_path / "audio" / "a.flac"
    # 16 bits: half a step of 2^-15 at most.
    assert np.abs(one.audio()[0] - tone(1.0)[4000:12_000]).max() <= 2.0**-16
    assert np.abs(two.audio()[0] - tone()).max() <= 2.0**-14
    assert three.audio()[0].shape == (8000,) and three.audio()[1] == 16_000
    for name in ("x/y", ".."):
        with pytest.raises(ValueError, match=f"'{name}' cannot be the name"):
            corpus.write_jsonl(
                [Item(name, samples=tone(), sampling_rate=16_000)], tmp_path / "b.jsonl"
            )


def test_what_json_cannot_hold_is_named_and_arrays_are_lists(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    corpus.write_jsonl([Item("a", extra={"n": np.int64(3), "x": np.ones(2)})], path)
    assert corpus.read_jsonl(path)[0].extra == {"n": 3, "x": [1.0, 1.0]}
    before = path.read_bytes()
    for bad in ([Item("b", extra={"f": {1, 2}})], [Item("b"), Item("b")]):
        with pytest.raises(ValueError, match="'b'"):
            corpus.write_jsonl(bad, path)
    # Nothing of it is left: the old file is whole.
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.jsonl"]


# Writing as it goes -------------------------------------------------------------------------------


def test_a_writer_that_was_cut_off_goes_on(tmp_path) -> None:
    path, whole = tmp_path / "out" / "a.jsonl", [Item(f"u{number}") for number in range(5)]
    with pytest.raises(KeyboardInterrupt), JsonlWriter(path) as out:
        for item in whole[:3]:
            out.write(item)
        # It is on disk at once, and not yet in the place of the result.
        assert len(corpus.read_jsonl(out.partial)) == 3 and not path.exists()
        raise KeyboardInterrupt
    # A line that was cut off in the middle counts as not written.
    with out.partial.open("ab") as file:
        file.write(b'{"id": "u3", "te')
    again = JsonlWriter(path)
    assert len(again) == 3 and "u2" in again and "u3" not in again
    with again:
        for item in whole[3:]:
            again.write(item)
        with pytest.raises(ValueError, match="'u4' comes twice"):
            again.write(whole[4])
    assert corpus.read_jsonl(path) == whole
    assert not again.partial.exists()
    with pytest.raises(RuntimeError, match="with"):
        again.write(Item("u9"))


def test_a_finished_file_is_extended_or_overwritten(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a"}')  # no line end
    with JsonlWriter(path) as out:
        assert "a" in out
        out.write(Item("b"))
    assert [item.id for item in corpus.read_jsonl(path)] == ["a", "b"]
    with JsonlWriter(path, overwrite=True) as out:
        assert len(out) == 0
        out.write(Item("c"))
    assert [item.id for item in corpus.read_jsonl(path)] == ["c"]
    path.with_name("a.jsonl.partial").write_text('{"id": "c"}\nnonsense\n')
    with pytest.raises(ValueError, match=r"a\.jsonl\.partial, line 2: no JSON"):
        JsonlWriter(path)


def test_other_settings_are_refused(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    with JsonlWriter(path, settings={"model": "tiny", "lam": [1.0, (2,)]}) as out:
        out.write(Item("a"))
    assert len(JsonlWriter(path, settings={"lam": [1.0, [2]], "model": "tiny"})) == 1
    with pytest.raises(ValueError, match="model = 'tiny', not 'large'"):
        JsonlWriter(path, settings={"model": "large", "lam": [1.0, (2,)]})
    with JsonlWriter(path, settings={"model": "large"}, overwrite=True):
        pass
    assert corpus.read_jsonl(path) == []


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_processing_is_the_same_with_and_without_a_break(tmp_path, fails_at: int) -> None:
    source = [Item(f"u{number}", phonemes=("K",) * number) for number in range(10)]
    calls: list[list[str]] = []

    class Bar:
        total = 0.0

        def advance(self, n: float = 1) -> None:
            self.total += n

    def change(batch: list[Item]) -> list[Item]:
        if len(calls) == fails_at and not tripped:
            tripped.append(True)
            raise OSError("cut off")
        calls.append([item.id for item in batch])
        return [dataclasses.replace(item, label_phonemes=item.phonemes) for item in batch]

    tripped: list[bool] = []
    path = tmp_path / "labels.jsonl"
    with pytest.raises(OSError, match="cut off"):
        corpus.process(source, change, path, batch_size=3)
    bar = Bar()
    found = corpus.process(source, change, path, batch_size=3, progress=bar)
    assert found == [dataclasses.replace(item, label_phonemes=item.phonemes) for item in source]
    assert bar.total == 10
    # Nothing was done twice.
    assert [name for call in calls for name in call] == [item.id for item in source]
    assert corpus.process(source, change, path) == found and len(calls) == 4


def test_processing_must_give_the_items_that_it_got(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\['a'\], not \[\]"):
        corpus.process([Item("a")], lambda batch: [], tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="batch_size must be positive, not 0"):
        corpus.process([], list, tmp_path / "a.jsonl", batch_size=0)


# Rows ---------------------------------------------------------------------------------------------


class Decoder:
    """What newer versions of ``datasets`` give: no mapping."""

    def __getitem__(self, name: str):
        return {"array": tone(), "sampling_rate": 16_000}[name]


def test_rows_with_audio_in_every_form(tmp_path) -> None:
    path = wav(tmp_path / "a.wav")
    rows = [
        {"id": "a", "audio": {"array": tone().tolist(), "sampling_rate": 16_000, "path": "x.wav"}},
        {"id": "b", "audio": {"bytes": path.read_bytes(), "path": "x.wav"}},
        {"id": "c", "audio": {"bytes": None, "path": str(path)}},
        {"id": "d", "audio": str(path)},
        {"id": "e", "audio": path},
        {"id": "f", "audio": Decoder()},
        {"id": "g", "audio_path": path},
    ]
    for item in corpus.from_rows(rows):
        samples, rate = item.audio()
        assert rate == 16_000
        assert np.abs(samples - tone()).max() <= 2.0**-15
    (bare,) = corpus.from_rows([{"audio": None}])
    assert (bare.id, bare.samples, bare.audio_path) == ("0", None, None)


def test_rows_with_other_columns() -> None:
    rows = [
        {"sentence": "Hi", "phonetic": ["HH", "AY"], "phonemes": "HH AY1", "accent": "us"},
        {"sentence": "Ho", "phonetic": np.array(["HH", "OW"]), "phonemes": None, "accent": "gb"},
    ]
    one, two = corpus.from_rows(
        iter(rows), {"text": "sentence", "real_phonemes": "phonetic", "speaker": "accent"}
    )
    assert one == Item("0", None, "Hi", ("HH", "AY1"), ("HH", "AY"), speaker="us")
    assert (two.id, two.real_phonemes, two.phonemes, two.extra) == ("1", ("HH", "OW"), None, {})
    assert corpus.load(rows)[0].extra == {
        "sentence": "Hi",
        "phonetic": ["HH", "AY"],
        "accent": "us",
    }


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ("a", TypeError, "row 1 is no mapping but str"),
        ({"id": "z"}, ValueError, "row 1: id 'z' comes twice"),
        (
            {"audio": {"rate": 1}},
            ValueError,
            "row 1: audio has neither .* but rate",
        ),
        (
            {"audio": 5},
            ValueError,
            "row 1: audio is a path or has .*, not int",
        ),
        ({"phonemes": 5}, ValueError, "row 1: phonemes must be"),
    ],
)
def test_bad_rows_are_named(row, error, message: str) -> None:
    with pytest.raises(error, match=message):
        list(corpus.from_rows([{"id": "z"}, row]))
    with pytest.raises(ValueError, match="no field 'words'"):
        list(corpus.from_rows([], {"words": "text"}))


def test_rows_of_items_come_back() -> None:
    items = corpus.read_jsonl(WORLD / "test.jsonl")
    assert list(corpus.from_rows(item.to_row() for item in items)) == items
    held = Item("a", samples=tone(), sampling_rate=16_000)
    (back,) = corpus.from_rows([held.to_row()])
    assert back == held and np.array_equal(back.samples, held.samples)


@pytest.mark.slow
def test_datasets_themselves(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    items = [
        dataclasses.replace(item, extra={}) for item in corpus.read_jsonl(WORLD / "test.jsonl")
    ]
    table = datasets.Dataset.from_list([item.to_row() for item in items])
    assert list(corpus.from_rows(table)) == items
    assert list(corpus.from_rows(table.to_iterable_dataset())) == items
    # What its feature Audio stores, not decoded: that would need another library.
    rows = [{"id": item.id, "audio": item.audio_path} for item in items]
    features = datasets.Features(
        {"id": datasets.Value("string"), "audio": datasets.Audio(decode=False)}
    )
    table = datasets.Dataset.from_list(rows, features=features)
    for item, found in zip(items, corpus.from_rows(table), strict=True):
        assert np.array_equal(found.audio()[0], item.audio()[0])


# Kaldi --------------------------------------------------------------------------------------------


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(items(kaldi=True))
def test_any_items_come_back_from_kaldi(tmp_path, written: list[Item]) -> None:
    if any(item.start is not None for item in written):
        # Kaldi has either times for all or for none.
        written = [
            item if item.start is not None else dataclasses.replace(item, start=0.0, end=1.0)
            for item in written
        ]
    folder = corpus.write_kaldi(written, tmp_path / "data")
    found = {item.id: item for item in corpus.read_kaldi(folder)}
    assert found == {item.id: item for item in written}
    names = [item.id for item in corpus.read_kaldi(folder)]
    assert names == sorted(names, key=str.encode)
    speakers = dict(
        line.split(" ", 1) for line in (folder / "spk2utt").read_text().split("\n")[:-1]
    )
    assert sorted(" ".join(speakers.values()).split(" ")) == sorted(names or [""])


def data(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("scp", ".scp")).write_text(content, encoding="utf-8")
    return folder


def test_a_folder_with_segments(tmp_path) -> None:
    wav(tmp_path / "rec.wav", 3.0)
    folder = data(
        tmp_path / "data",
        wavscp="r1 rec.wav\nr2\tother dir/b.wav\n",
        segments="s-u2 r1 1.0 2.5\ns-u1 r1 0 -1\n",
        text="s-u1 Hello  world\ns-u2\n",
        utt2spk="s-u1 s\ns-u2 s\n",
        real_phonemes="s-u1 HH AH L OW\n",
    )
    two, one = corpus.read_kaldi(folder, root=tmp_path)
    assert (one.id, one.text, one.speaker, one.start, one.end) == (
        "s-u1",
        "Hello  world",
        "s",
        0,
        None,
    )
    assert one.real_phonemes == ("HH", "AH", "L", "OW") and two.real_phonemes is None
    assert (two.text, len(two.audio()[0])) == ("", 24_000)
    assert corpus.load(folder, root=tmp_path) == [two, one]
    phones = corpus.read_kaldi(folder, text="phonemes")
    assert phones[1].phonemes == ("Hello", "world") and phones[1].text is None
    assert phones[1].audio_path == "rec.wav"
    # Written and read again: the end of the whole recording is now a number.
    again = corpus.read_kaldi(corpus.write_kaldi([two, one], tmp_path / "again"))
    assert [(item.id, item.start, item.end) for item in again] == [
        ("s-u1", 0.0, 3.0),
        ("s-u2", 1.0, 2.5),
    ]
    with pytest.raises(ValueError, match="'words'"):
        corpus.read_kaldi(folder, text="words")


def test_recordings_of_one_name_stay_apart(tmp_path) -> None:
    paths = [wav(tmp_path / folder / "x.wav", 1.0) for folder in ("a", "b")]
    given = [
        Item(f"u{number}", str(path), speaker="s", start=0.0, end=0.5 + number / 4)
        for number, path in enumerate(paths)
    ]
    folder = corpus.write_kaldi(given, tmp_path / "data")
    assert corpus.read_kaldi(folder) == given
    assert (folder / "wav.scp").read_text() == f"x {paths[0]}\nx-2 {paths[1]}\n"


def test_audio_in_memory_and_old_files(tmp_path) -> None:
    folder = tmp_path / "data"
    long = wav(tmp_path / "l.wav", 2.0)
    corpus.write_kaldi([Item("u", str(long), "hi", start=0.0, end=1.0)], folder)
    assert (folder / "segments").exists() and (folder / "text").exists()
    corpus.write_kaldi([Item("v", samples=tone(), sampling_rate=16_000)], folder)
    # What the new corpus has not is gone.
    assert sorted(path.name for path in folder.iterdir()) == [
        *["audio", "spk2utt", "utt2spk", "wav.scp"]
    ]
    (item,) = corpus.read_kaldi(folder)
    assert np.abs(item.audio()[0] - tone()).max() <= 2.0**-16
    assert item.speaker == "v"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wavscp": "a sph2pipe -f wav a.sph |\n"}, r"wav\.scp, line 1: .*command.*sph2pipe"),
        ({"wavscp": "a a.wav\nb | cat b.wav\n"}, r"wav\.scp, line 2: .*command"),
        ({"wavscp": "a raw.ark:123\n"}, r"line 1: 'raw\.ark:123' is no sound file"),
        ({"wavscp": "a\n"}, "line 1: 'a' has no file"),
        ({"wavscp": "a a.wav\n\n"}, "line 2 is empty"),
        ({"wavscp": "a a.wav\na b.wav\n"}, "line 2: 'a' is that of line 1"),
        ({"wavscp": "a a.wav\n", "text": "b hi\n"}, "text, line 1: there is no audio of 'b'"),
        ({"wavscp": "a a.wav\n", "segments": "u b 0 1\n"}, "segments, line 1: .*no recording 'b'"),
        ({"wavscp": "a a.wav\n", "segments": "u a 0\n"}, "segments, line 1: a segment is"),
        ({"wavscp": "a a.wav\n", "segments": "u a 0 1 A\n"}, "segments, line 1: a segment is"),
        ({"wavscp": "a a.wav\n", "segments": "u a x 1\n"}, "'x 1'"),
        ({"wavscp": "a a.wav\n", "segments": "u a 2 1\n"}, "2.0 and 1.0"),
    ],
)
def test_bad_folders_are_named(tmp_path, files, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corpus.read_kaldi(data(tmp_path / "data", **files))


def test_folders_that_cannot_be_read_or_written(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wav\.scp"):
        corpus.read_kaldi(tmp_path)
    for bad, message in (
        ([Item("a b", "x.wav")], "id 'a b'"),
        ([Item("a", "x.wav", speaker="s t")], "speaker 's t'"),
        ([Item("a")], "'a' has no audio"),
        ([Item("a", "x.wav"), Item("a", "x.wav")], "'a' comes twice"),
    ):
        with pytest.raises(ValueError, match=message):
            corpus.write_kaldi(bad, tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        corpus.write_kaldi([Item("a", "none.wav", start=0.5)], tmp_path / "data")
    assert not (tmp_path / "data").exists()
    with pytest.raises(FileNotFoundError):
        corpus.load(tmp_path / "none.jsonl")


def test_jsonl_and_kaldi_hold_the_same_corpus(tmp_path) -> None:
    items = [
        dataclasses.replace(item, extra={}) for item in corpus.read_jsonl(WORLD / "labelled.jsonl")
    ]
    random.Random(1).shuffle(items)
    folder = corpus.write_kaldi(items, tmp_path / "kaldi")
    found = corpus.read_kaldi(folder)
    expected = sorted(items, key=lambda item: item.id)
    assert [dataclasses.replace(item, audio_path="") for item in found] == [
        dataclasses.replace(item, audio_path="") for item in expected
    ]
    assert all(
        os.path.samefile(a.audio_path, b.audio_path) for a, b in zip(found, expected, strict=True)
    )
    again = corpus.read_jsonl(corpus.write_jsonl(found, tmp_path / "again.jsonl"))
    assert again == found


def test_bytes_of_sound_are_read() -> None:
    held = io.BytesIO()
    soundfile.write(held, tone(0.1, 8000), 8000, format="FLAC")
    (item,) = corpus.from_rows([{"audio": {"bytes": held.getvalue(), "path": None}}])
    assert item.sampling_rate == 8000 and len(item.samples) == 800
