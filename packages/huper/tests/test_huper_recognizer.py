"""Recognizing: windows, batches, streams, decoding, and what bad input says."""

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rapidfuzz.distance import Levenshtein

from modicum.huper import recognizer as module
from modicum.huper.audio import HOP, frame_count, read, windows
from modicum.huper.emissions import Emissions
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import Recognizer, decode
from modicum.huper.scheduler import distortion_score
from modicum.huper.tiny import TinyConfig, TinyConvCTC, collate

FOLDER = Path(__file__).parent / "data" / "huper_world"
PHONES = PhoneSet.ipa(["p", "t", "k", "a"])


class Local:
    """A model whose frame depends on the frame's samples alone: windows must change nothing."""

    phones, frame_shift = PHONES, 0.02

    def __init__(self, extra=0):
        self.calls, self.extra = [], extra
        self.weights = np.random.default_rng(0).standard_normal((400, len(PHONES)))

    def emissions(self, audio, sampling_rate=None, *, batch_size=16):
        assert sampling_rate == 16_000
        self.calls.append([len(one) for one in audio])
        rows = [
            np.lib.stride_tricks.sliding_window_view(one, 400)[::HOP] @ self.weights
            for one in audio
        ]
        rows = [np.concatenate([row, row[: self.extra]]) for row in rows]
        logits = torch.nn.utils.rnn.pad_sequence(list(map(torch.from_numpy, rows)), True)
        return Emissions.log_softmax(logits, list(map(len, rows)), 0.02, PHONES)


def _noise(size, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny():
    """A small model whose batch norm has seen speech; its answers are wrong but not constant."""
    model = TinyConvCTC(config=TinyConfig(width=24, dilations=(1, 2)), seed=3).train()
    files = sorted((FOLDER / "audio").glob("labelled-*.flac"))[:4]
    samples, lengths = collate([read(file)[0] for file in files])
    model(*model.features(samples, lengths))
    return Recognizer(model.eval())


def _files(count, split="test"):
    return sorted((FOLDER / "audio").glob(f"{split}-*.flac"))[:count]


def test_a_transcript_is_the_greedy_path_with_times_and_confidences(tiny):
    (found,) = tiny.transcribe(_files(1)[0])
    emissions = tiny.emissions(_files(1)[0])
    ids, spans, confidences = emissions.greedy()[0]
    assert found.phones == tiny.phones.decode(ids) and len(found.phones) > 3
    assert [(one.start, one.end) for one in found.spans] == [
        pytest.approx((0.02 * start, 0.02 * end)) for start, end in spans
    ]
    assert found.confidences == confidences and 0 < found.confidence <= 1
    rows = emissions.utterance(0)
    assert found.score == pytest.approx(rows.max(1).sum(), rel=1e-6)
    start, end = spans[1]
    assert found.confidences[1] == pytest.approx(np.exp(rows[start:end, ids[1]]).mean())
    assert found.trace["path"] == "bottom-up"
    assert found.trace["s"] == distortion_score(rows)


def test_ragged_batches_are_their_recordings(tiny):
    recordings = [_noise(size, size) for size in (400, 16_000, 5001, 720)] + _files(2)
    together = tiny.emissions(recordings, 16_000, batch_size=4)
    transcripts = tiny.transcribe(recordings, 16_000, batch_size=3)
    for number, recording in enumerate(recordings):
        alone = tiny.emissions(recording, 16_000).utterance(0)
        np.testing.assert_allclose(together.utterance(number), alone, atol=1e-5)
        assert transcripts[number].phones == tiny.transcribe(recording, 16_000)[0].phones


@pytest.mark.parametrize("sound", [0.0, 0.25], ids=["zeros", "offset"])
def test_silence_has_no_phones_and_no_confidence(tiny, sound):
    audio = np.full(16_000, sound, np.float32)
    (found,) = tiny.transcribe([audio], 16_000)
    assert found.phones == found.spans == found.confidences == found.ipa == ()
    assert found.confidence is None and np.isfinite(found.score)
    assert found.trace["reason"] == "no phone was heard"
    assert 0 < found.trace["s"] < 1e-3
    together = tiny.emissions([audio, _files(1)[0], audio], 16_000)
    assert together.lengths[0] == frame_count(16_000)
    assert (together.utterance(2).argmax(1) == tiny.phones.blank).all()
    assert np.isfinite(together.utterance(2)).all()


# Long recordings --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16_000, 40_000, 48_080, 100_123])
@pytest.mark.parametrize("extra", [0, 1])
def test_windows_change_nothing_for_a_model_that_sees_one_frame(size, extra):
    audio = _noise(size)
    model = Local(extra)
    whole = Recognizer(model).emissions(audio, 16_000)
    cut = Recognizer(model, seconds=1.0, overlap=0.2).emissions([audio, audio[:7000]], 16_000)
    assert cut.lengths.tolist()[0] == frame_count(size) + extra
    frames = frame_count(size)
    np.testing.assert_allclose(cut.utterance(0)[:frames], whole.utterance(0)[:frames], atol=1e-5)
    assert max(map(max, model.calls[1:])) <= 16_000


def test_a_long_recording_is_its_whole_away_from_the_seams():
    """A tiny model sees 16 frames to each side; what is further from an edge is only renormalised.

    Windows hold whole periods of the recording, so that means and variances of a window are those
    of the whole but for its edges.
    """
    piece = read(_files(1)[0])[0]
    piece = piece[: len(piece) // 3200 * 3200]
    audio = np.tile(piece, 12)
    seconds = (4 * len(piece) + 80) / 16_000
    model = TinyConvCTC(config=TinyConfig(width=24, dilations=(1, 2)), seed=3)
    whole = Recognizer(model, seconds=1e3).emissions(audio, 16_000).utterance(0)
    cutter = Recognizer(model, seconds=seconds, overlap=len(piece) / 16_000)
    cut = cutter.emissions(audio, 16_000).utterance(0)
    assert cut.shape == whole.shape
    assert len(list(windows(audio, seconds, len(piece) / 16_000))) > 2
    np.testing.assert_allclose(cut, whole, atol=0.02)
    spread = np.ptp(whole, axis=0).max()
    assert spread > 1  # The tolerance is small beside what the frames differ by.


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_streams_give_the_transcript_in_parts(tiny, chunk, rate):
    audio = np.concatenate([read(file)[0] for file in _files(5)])
    chunks = np.array_split(audio, 40)[:: 1 if chunk == 1 else 2]
    recorded = np.concatenate(chunks)
    parts = list(tiny.stream(iter(chunks), rate, seconds=1.5, overlap=0.5))
    cutter = Recognizer(tiny.model, seconds=1.5, overlap=0.5)
    (whole,) = cutter.transcribe(recorded, rate)
    assert len(parts) > 2
    assert sum((part.phones for part in parts), ()) == whole.phones
    assert sum((part.spans for part in parts), ()) == whole.spans
    np.testing.assert_allclose(
        sum((part.confidences for part in parts), ()), whole.confidences, atol=1e-4
    )
    assert sum(part.score for part in parts) == pytest.approx(whole.score, rel=1e-4)
    for part, following in itertools.pairwise(parts):
        assert part.trace["end"] == following.trace["start"]


def test_streams_come_before_the_chunks_end(tiny):
    taken = []

    def microphone():
        for number in range(100):
            taken.append(number)
            yield _noise(1600, number)

    next(tiny.stream(microphone(), 16_000, seconds=1.0, overlap=0.2))
    assert len(taken) < 40


def test_windows_need_frames_of_20_ms():
    class Other(Local):
        frame_shift = 0.04

        def emissions(self, audio, sampling_rate=None, *, batch_size=16):
            found = super().emissions(audio, sampling_rate)
            rows = found.logprobs[:, ::2]
            lengths = torch.full((len(rows),), rows.shape[1])
            return Emissions(rows, lengths, 0.04, PHONES)

    recognizer = Recognizer(Other(), seconds=1.0, overlap=0.5)
    assert recognizer.emissions(_noise(8000), 16_000).frame_shift == 0.04
    with pytest.raises(ValueError, match="40 ms apart"):
        recognizer.emissions(_noise(80_000), 16_000)
    with pytest.raises(ValueError, match="40 ms apart"):
        recognizer.stream([], 16_000)


# Decoding ---------------------------------------------------------------------------------------


def test_an_inventory_leaves_no_other_phone(tiny):
    emissions = tiny.emissions(_files(3))
    kept = ("AA", "S", "T", "M")
    for found, number in zip(decode(emissions, inventory=kept), range(3), strict=True):
        rows = np.exp(emissions.utterance(number).astype(np.float64))
        ids = [tiny.phones.id(one) for one in (*kept, *tiny.phones.specials)]
        rows = rows[:, ids] / rows[:, ids].sum(1, keepdims=True)
        assert set(found.phones) <= set(kept)
        assert found.score == pytest.approx(np.log(rows.max(1)).sum(), rel=1e-4)
    everything = decode(emissions, inventory=tiny.phones.phones)
    assert [one.phones for one in everything] == [one.phones for one in decode(emissions)]


def test_decoding_says_what_it_takes(tiny):
    emissions = tiny.emissions(_files(1))
    with pytest.raises(ValueError, match="'gready'"):
        decode(emissions, "gready")
    with pytest.raises(ValueError, match="at least one phone"):
        decode(emissions, inventory=[])
    with pytest.raises(ValueError, match="'ʘ'"):
        decode(emissions, inventory=["ʘ"])


# Input ------------------------------------------------------------------------------------------


def test_every_form_of_the_same_recording_is_the_same(tiny, tmp_path):
    samples, rate = read(_files(1)[0])
    wanted = tiny.transcribe(samples, rate)[0]
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    forms = [
        (str(tmp_path / "a.wav"), None),
        (tmp_path / "a.wav", 16_000),
        (torch.from_numpy(samples), rate),
        (samples.astype(np.float64).tolist(), rate),
        ({"array": samples, "sampling_rate": rate, "path": None}, None),
        ({"raw": samples}, rate),
        ({"path": str(tmp_path / "a.wav"), "array": None}, None),
        ([samples], rate),
    ]
    for audio, given in forms:
        assert tiny.transcribe(audio, given)[0].phones == wanted.phones


def test_channels_are_averaged_and_rates_converted(tiny):
    samples, _ = read(_files(1)[0])
    with pytest.warns(UserWarning, match="2 channels are averaged"):
        both = tiny.transcribe(np.stack([samples, samples]), 16_000)[0]
    assert both.phones == tiny.transcribe(samples, 16_000)[0].phones
    assert tiny.emissions(np.repeat(samples, 2), 32_000).lengths[0] == frame_count(len(samples))


@pytest.mark.parametrize(
    ("audio", "rate", "kind", "message"),
    [
        (np.zeros(399), 16_000, ValueError, "399 samples"),
        (np.zeros(0), 16_000, ValueError, "empty"),
        ([], 16_000, ValueError, "empty"),
        (np.full(500, np.nan), 16_000, ValueError, "500 of 500 samples are NaN"),
        (np.full(500, 2000.0), 16_000, ValueError, "the loudest sample is 2000"),
        (np.zeros(500), None, TypeError, "sampling_rate"),
        (np.zeros(500), -1, ValueError, "-1"),
        ([np.zeros(500), np.zeros(3)], 16_000, ValueError, "recording 1: audio has 3 samples"),
        ("absent.wav", None, FileNotFoundError, "absent.wav"),
        ({"sampling_rate": 16_000}, None, ValueError, "array or path"),
        ({"array": np.zeros(500)}, None, TypeError, "sampling_rate"),
    ],
)
def test_bad_audio_is_refused(tiny, audio, rate, kind, message):
    with pytest.raises(kind, match=message):
        tiny.transcribe(audio, rate)


def test_bad_settings_are_refused(tiny):
    with pytest.raises(TypeError, match="int has no phones"):
        Recognizer(3)
    with pytest.raises(ValueError, match="44 symbols"):
        Recognizer(tiny.model, PHONES)
    with pytest.raises(ValueError, match="overlap"):
        Recognizer(tiny.model, seconds=1.0, overlap=2.0)
    with pytest.raises(ValueError, match="batch_size"):
        tiny.emissions(_files(1), batch_size=0)


def test_symbols_can_have_other_names(tiny):
    symbols = tuple(symbol.lower() for symbol in tiny.phones.symbols)
    other = PhoneSet(symbols, 0, frozenset(one.lower() for one in tiny.phones.specials))
    renamed = Recognizer(tiny.model, other)
    found, wanted = (one.transcribe(_files(1))[0] for one in (renamed, tiny))
    assert found.phones == tuple(one.lower() for one in wanted.phones)
    with pytest.raises(ValueError, match="would be lost"):
        renamed.save_pretrained("anywhere")


def test_progress_counts_windows():
    class Task:
        total = 0

        def advance(self, n=1):
            self.total += n

    task = Task()
    recognizer = Recognizer(Local(), seconds=1.0, overlap=0.5)
    recordings = [_noise(40_000), _noise(800)]
    recognizer.emissions(recordings, 16_000, batch_size=2, progress=task)
    assert task.total == sum(len(list(windows(one, 1.0, 0.5))) for one in recordings) > 4


# Files ------------------------------------------------------------------------------------------


def test_a_saved_recognizer_is_the_same(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "one")
    read_back = Recognizer.from_pretrained(tmp_path / "one", device="cpu")
    with pytest.raises(ValueError, match="float32, not in bfloat16"):
        Recognizer.from_pretrained(tmp_path / "one", dtype="bfloat16")
    a, b = (one.emissions(_files(1)).logprobs for one in (tiny, read_back))
    assert torch.equal(a, b) and read_back.phones == tiny.phones
    with pytest.raises(TypeError, match="no save_pretrained"):
        Recognizer(Local()).save_pretrained(tmp_path)


def test_loading_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(module.SHIPPED, "tiny", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="this installation lacks"):
        Recognizer.from_pretrained()
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
        Recognizer.from_pretrained(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        Recognizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        Recognizer.from_pretrained(tmp_path)


def test_no_warning_is_raised(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.transcribe(_files(2))


def test_the_shipped_model_hears_synthetic_english():
    shipped = Recognizer.from_pretrained(device="cpu")
    assert shipped.phones == PhoneSet.arpabet39()
    lines = [json.loads(line) for line in (FOLDER / "test.jsonl").read_text().splitlines()]
    found = shipped.transcribe([FOLDER / line["audio_path"] for line in lines])
    wrong = sum(
        Levenshtein.distance(one.phones, tuple(line["real_phonemes"]))
        for one, line in zip(found, lines, strict=True)
    )
    assert wrong <= 0.1 * sum(len(line["real_phonemes"]) for line in lines)
    assert shipped.transcribe(np.zeros(32_000, np.float32), 16_000)[0].phones == ()
