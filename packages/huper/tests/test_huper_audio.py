"""Audio: every input ends as 16 kHz mono float32; distortions are what they say; windows join."""

import math
import warnings

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from modicum.huper import audio
from modicum.huper.audio import FRAME, HOP, SAMPLE_RATE


def _tone(hertz, rate, seconds=0.5, loudness=0.4):
    return loudness * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def _speech_like(seconds=2.0, seed=3):
    """Noise between 100 and 3000 Hz that swells and fades."""
    rng = np.random.default_rng(seed)
    count = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    spectrum[(hertz < 100) | (hertz > 3000)] = 0
    found = np.fft.irfft(spectrum, count) * (1.2 + np.sin(np.arange(count) / 2500))
    return (0.5 * found / np.abs(found).max()).astype(np.float32)


# Input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 16_000])
def test_a_tone_keeps_its_frequency_level_and_phase_at_every_rate(rate):
    found = audio.standardise(_tone(700, rate), sampling_rate=rate)
    expected = _tone(700, SAMPLE_RATE)
    assert found.dtype == np.float32
    assert abs(len(found) - len(expected)) <= 1
    inner = slice(400, len(expected) - 400)
    np.testing.assert_allclose(found[inner], expected[inner], atol=2e-3)


def test_resampling_agrees_with_torchaudio_on_speech_like_sound():
    samples = _speech_like(0.7)
    ours = audio.resample(samples, 16_000, 24_000)
    theirs = torchaudio.functional.resample(
        torch.from_numpy(samples), 16_000, 24_000, lowpass_filter_width=64
    ).numpy()
    assert abs(len(ours) - len(theirs)) <= 1
    inner = slice(500, len(samples))
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=2e-3)


def test_resampling_takes_away_what_the_lower_rate_cannot_carry():
    high = audio.resample(_tone(15_000, 48_000, 1.0), 48_000, 16_000)
    assert np.sqrt(np.mean(high[500:-500] ** 2)) < 1e-3


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.int16, [-1.0, 0.0, 0.5]),
        (np.int32, [-1.0, 0.0, 0.5]),
        (np.int8, [-1.0, 0.0, 0.5]),
        (np.uint8, [-1.0, 0.0, 0.5]),
    ],
)
def test_integers_are_scaled_by_their_full_scale(dtype, expected):
    least = np.iinfo(dtype).min
    most = np.iinfo(dtype).max
    middle = (int(most) + int(least) + 1) // 2
    pattern = [least, middle, middle + (int(most) - middle + 1) // 2]
    samples = np.tile(np.array(pattern, dtype=dtype), 200)
    np.testing.assert_array_equal(audio.standardise(samples, 16_000)[:3], expected)


def test_integers_without_scaling_and_other_types_are_refused():
    pcm = np.arange(600, dtype=np.int16) * 40
    with pytest.raises(ValueError, match=r"loudest sample is 23960.*divide by 32768"):
        audio.standardise(pcm.astype(np.float32), 16_000)
    with pytest.raises(ValueError, match="int64"):
        audio.standardise(pcm.astype(np.int64), 16_000)
    with pytest.raises(ValueError, match="bool"):
        audio.standardise(pcm > 3, 16_000)


@pytest.mark.parametrize("shape", ["channels last", "channels first", "torch"])
def test_channels_are_averaged_with_a_warning(shape):
    left, right = _tone(300, 16_000), _tone(500, 16_000)
    both = np.stack([left, right], 1)
    given = {"channels last": both, "channels first": both.T, "torch": torch.from_numpy(both.T)}
    with pytest.warns(UserWarning, match="2 channels are averaged"):
        found = audio.standardise(given[shape], 16_000)
    np.testing.assert_allclose(found, (left + right) / 2, atol=1e-6)


def test_one_channel_on_an_axis_is_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = audio.standardise(torch.zeros(1, 500), 16_000)
    assert found.shape == (500,)


def test_a_square_array_needs_its_channel_axis():
    square = np.eye(450) * 0.1
    with pytest.raises(ValueError, match=r"which axis of \(450, 450\)"):
        audio.standardise(square, 16_000)
    with pytest.warns(UserWarning):
        assert audio.standardise(square, 16_000, channel_axis=1).shape == (450,)


def test_what_is_no_audio_is_refused_by_its_reason():
    good = _tone(300, 16_000)
    with pytest.raises(TypeError, match="sampling_rate"):
        audio.standardise(good)
    with pytest.raises(ValueError, match="empty"):
        audio.standardise(np.zeros(0, np.float32), 16_000)
    bad = good.copy()
    bad[[17, 90]] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 of 8000 samples.*number 17"):
        audio.standardise(bad, 16_000)
    with pytest.raises(ValueError, match="399 samples"):
        audio.standardise(good[:399], 16_000)
    with pytest.raises(ValueError, match="one axis"):
        audio.standardise(np.zeros((2, 3, 500)), 16_000)
    for rate in (0, -16_000, 16_000.5):
        with pytest.raises(ValueError, match="sampling rates"):
            audio.standardise(good, rate)


def test_the_frame_count_is_that_of_the_public_encoders():
    cases = {400: 1, 719: 1, 720: 2, 16_000: 49, 160_000: 499}
    assert {samples: audio.frame_count(samples) for samples in cases} == cases


@pytest.mark.parametrize(("ending", "subtype"), [("wav", "FLOAT"), ("flac", "PCM_16")])
def test_files_of_any_rate_are_read(tmp_path, ending, subtype):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, _tone(440, 44_100), 44_100, subtype=subtype)
    found = audio.standardise(path)
    np.testing.assert_allclose(found[500:7000], _tone(440, 16_000)[500:7000], atol=2e-3)
    with pytest.raises(ValueError, match="44100 samples per second, not 16000"):
        audio.standardise(path, 16_000)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        audio.standardise(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match="no sound file"):
        audio.standardise(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(ValueError, match="empty"):
        audio.standardise(tmp_path / "empty.wav")


def test_written_files_read_back_within_half_a_step_and_then_exactly(tmp_path):
    samples = _speech_like(0.4)
    path = audio.write(tmp_path / "deep" / "a.flac", samples)
    back, rate = audio.read(path)
    assert rate == 16_000
    assert np.abs(back - samples).max() <= 0.5 / 32768
    again, _ = audio.read(audio.write(tmp_path / "again.wav", back))
    np.testing.assert_array_equal(again, back)
    assert [one.name for one in path.parent.iterdir()] == ["a.flac"]
    with pytest.raises(ValueError, match="no sound format"):
        audio.write(tmp_path / "a.docx", samples)


# Windows and streams ----------------------------------------------------------------------------


def _frames(samples):
    """A model whose frame depends on exactly its 400 samples."""
    starts = np.arange(audio.frame_count(len(samples))) * HOP
    return np.stack([[samples[s : s + FRAME].sum(), samples[s + FRAME - 1]] for s in starts])


@pytest.mark.parametrize("samples", [400, 719, 15_999, 16_000, 16_080, 16_400, 47_123, 100_000])
@pytest.mark.parametrize(("seconds", "overlap"), [(1.0, 0.2), (0.5, 0.0), (0.3, 0.26)])
def test_frames_of_windows_join_to_those_of_the_recording(samples, seconds, overlap):
    signal = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    cuts = list(audio.windows(signal, seconds, overlap))
    joined = audio.stitch([_frames(cut.samples) for cut in cuts], cuts)
    np.testing.assert_array_equal(joined, _frames(signal))
    assert all(len(cut.samples) <= seconds * SAMPLE_RATE + HOP for cut in cuts)
    if len(cuts) > 1:
        assert all(cut.keep.stop - cut.keep.start <= seconds / 0.02 for cut in cuts)


def test_neighbours_keep_half_of_their_overlap_each():
    first, second, *_ = audio.windows(np.zeros(80_000, np.float32), 2.0, 0.4)
    frames = audio.frame_count(len(first.samples))
    assert frames - first.keep.stop == second.keep.start == 10


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_a_stream_gives_what_the_whole_recording_gives(rate):
    rng = np.random.default_rng(rate)
    whole = rng.uniform(-0.5, 0.5, round(3.3 * rate)).astype(np.float32)
    chunks, at = [], 0
    while at < len(whole):
        size = int(rng.integers(0, 3000))
        chunks.append(whole[at : at + size])
        at += size
    expected = list(audio.windows(audio.resample(whole, rate), 1.0, 0.2))
    found = list(audio.stream(iter(chunks), rate, 1.0, 0.2))
    assert [(w.start, w.first, w.last) for w in found] == [
        (w.start, w.first, w.last) for w in expected
    ]
    for ours, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.samples, reference.samples, atol=2e-6)


def test_a_stream_answers_while_it_runs():
    taken = []

    def microphone():
        for number in range(50):
            taken.append(number)
            yield np.full(1600, number, np.int16)

    first = next(iter(audio.stream(microphone(), 16_000, 1.0, 0.2)))
    assert len(taken) == 11
    np.testing.assert_allclose(first.samples[[0, -1]], [0, 9 / 32768], atol=1e-9)


def test_long_files_are_read_piece_by_piece(tmp_path):
    path = audio.write(tmp_path / "long.wav", _speech_like(3.0), 22_050, subtype="FLOAT")
    chunks, rate = audio.read_blocks(path, 0.21)
    found = list(audio.stream(chunks, rate, 1.0, 0.1))
    expected = list(audio.windows(audio.standardise(path), 1.0, 0.1))
    assert len(found) == len(expected) > 2
    for ours, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.samples, reference.samples, atol=2e-6)


def test_windows_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="more than its overlap"):
        audio.windows(np.zeros(16_000, np.float32), 0.5, 0.5)
    with pytest.raises(ValueError, match="overlap must not be negative"):
        audio.windows(np.zeros(16_000, np.float32), 0.5, -1)
    with pytest.raises(ValueError, match="a frame needs 400"):
        list(audio.stream([np.zeros(399, np.float32)], 16_000))
    cuts = list(audio.windows(np.zeros(16_000, np.float32)))
    with pytest.raises(ValueError, match="49 frames, not 3"):
        audio.stitch([np.zeros((3, 2))], cuts)


# Distortions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr", [20.0, 3.5, -7.0])
def test_noise_has_exactly_the_ratio_asked_for(snr):
    samples = _speech_like(1.0)
    rng = np.random.default_rng(1)
    talkers = [_speech_like(0.3 + 0.1 * n, n) * (n + 1) / 7 for n in range(6)]
    for noisy in (
        audio.white_noise(samples, snr, rng),
        audio.babble(samples, talkers, snr, rng),
    ):
        noise = noisy.astype(np.float64) - samples
        assert audio.decibel(samples, noise) == pytest.approx(snr, abs=1e-4)


def test_white_noise_is_white():
    """Sums of 4000 squared normal numbers: six standard errors, a chance below 1e-8 in all."""
    samples = _tone(440, 16_000, 2.0)
    noise = audio.white_noise(samples, 0.0, np.random.default_rng(5)) - samples
    bands = np.array_split(np.abs(np.fft.rfft(noise)[1:-1]) ** 2, 4)
    powers = np.array([band.mean() for band in bands])
    assert np.abs(powers / powers.mean() - 1).max() < 6 / math.sqrt(len(bands[0]))


def test_every_talker_is_as_loud_as_another_in_babble():
    """Two tones as talkers: equal lines in the spectrum whatever their own levels."""
    talkers = [_tone(1000, 16_000, 1.0, 0.9), _tone(2000, 16_000, 1.0, 0.01)]
    samples = _tone(300, 16_000, 1.0)
    noise = audio.babble(samples, talkers, 0.0, np.random.default_rng(0)) - samples
    lines = np.abs(np.fft.rfft(noise))
    assert lines[1000] == pytest.approx(lines[2000], rel=1e-3)


def test_noise_needs_a_signal():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="signal is silent"):
        audio.white_noise(np.zeros(500, np.float32), 3.0, rng)
    with pytest.raises(ValueError, match="talker 1 is silent"):
        audio.babble(_speech_like(0.1), [_speech_like(0.1), np.zeros(9)], 3.0, rng)
    with pytest.raises(ValueError, match="at least one talker"):
        audio.babble(_speech_like(0.1), [], 3.0, rng)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        audio.mix(_speech_like(0.1), np.ones(3), 3.0)


@pytest.mark.parametrize("rt60", [0.3, 0.6, 0.9])
def test_a_room_decays_by_sixty_decibels_in_its_time(rt60):
    """The logarithm of a squared normal number has the standard deviation π/√2: 6 standard errors.

    That is a chance of 2e-9 for each room.
    """
    response = audio.room_response(rt60, np.random.default_rng(8))
    tail = response[1:]
    seconds = np.arange(len(tail)) / SAMPLE_RATE
    level = np.log(tail**2)
    centred = seconds - seconds.mean()
    slope = (centred @ level) / (centred @ centred)
    error = math.pi / math.sqrt(2) / math.sqrt(centred @ centred)
    assert abs(slope - -6 * math.log(10) / rt60) < 6 * error
    assert np.sum(response**2) == pytest.approx(1.0)


@pytest.mark.parametrize("direct_db", [0.0, 6.0, -4.0])
def test_the_direct_sound_has_its_share_of_the_energy(direct_db):
    response = audio.room_response(0.4, np.random.default_rng(2), direct_db=direct_db)
    share = 10 * math.log10(response[0] ** 2 / np.sum(response[1:] ** 2))
    assert share == pytest.approx(direct_db, abs=1e-9)


def test_reverberation_is_convolution_kept_as_loud():
    samples = _speech_like(0.3)
    response = audio.room_response(0.2, np.random.default_rng(4), direct_db=3.0)
    expected = np.convolve(samples.astype(np.float64), response)[: len(samples)]
    expected *= math.sqrt(np.mean(samples.astype(np.float64) ** 2) / np.mean(expected**2))
    found = audio.reverberate(samples, 0.2, np.random.default_rng(4), direct_db=3.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="rt60"):
        audio.reverberate(samples, 0.0, np.random.default_rng(4))
    silent = audio.reverberate(np.zeros(800, np.float32), 0.2, np.random.default_rng(4))
    assert not silent.any()


def test_a_narrow_band_keeps_low_tones_and_loses_high_ones():
    low, high = _tone(1000, 16_000), _tone(5000, 16_000)
    found = audio.band_limit((low + high).astype(np.float32))
    assert len(found) == len(low)
    np.testing.assert_allclose(found[400:-400], low[400:-400], atol=3e-3)
    with pytest.raises(ValueError, match="below 16000"):
        audio.band_limit(low, 16_000)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.45])
def test_clipping_cuts_the_fraction_asked_for(fraction):
    samples = _speech_like(0.5)
    found = audio.clip(samples, fraction)
    changed = found != samples
    assert changed.sum() == int(fraction * len(samples))
    if fraction:
        assert np.abs(found).max() == np.abs(samples[~changed]).max()
        assert (np.abs(samples[changed]) > np.abs(found).max()).all()
    with pytest.raises(ValueError, match="fraction"):
        audio.clip(samples, 1.0)


def test_mu_law_is_torchaudios_and_idempotent():
    samples = _speech_like(0.5)
    found = audio.mu_law(samples)
    coded = torchaudio.functional.mu_law_encoding(torch.from_numpy(samples), 256)
    theirs = torchaudio.functional.mu_law_decoding(coded, 256).numpy()
    # A value just between two levels may go to either.
    assert np.mean(np.abs(found - theirs) > 1e-6) < 1e-3
    np.testing.assert_allclose(audio.mu_law(found), found, atol=1e-6)
    assert len(np.unique(audio.mu_law(samples, bits=3))) <= 8
    with pytest.raises(ValueError, match="bits"):
        audio.mu_law(samples, 0)


@pytest.mark.parametrize("name", audio.CODECS)
def test_codecs_change_the_sound_but_not_its_time_and_length(name):
    samples = _speech_like(1.7)
    found = audio.codec(samples, name)
    assert found.shape == samples.shape
    assert found.dtype == np.float32
    assert not np.array_equal(found, samples)
    spectrum = np.fft.rfft(found) * np.conj(np.fft.rfft(samples))
    lag = int(np.argmax(np.fft.irfft(spectrum, len(samples))))
    assert lag == 0
    # GSM is a vocoder for speech: the noise it makes of noise is the least like it.
    assert np.corrcoef(found, samples)[0, 1] > (0.6 if name == "gsm" else 0.95)


def test_codecs_have_names_and_qualities():
    samples = _speech_like(1.0)
    with pytest.raises(ValueError, match="codec must be one of mp3"):
        audio.codec(samples, "mp7")
    best, worst = (audio.codec(samples, "vorbis", quality=level) for level in (0.0, 1.0))
    assert audio.decibel(samples, best - samples) > audio.decibel(samples, worst - samples) + 3


@pytest.mark.parametrize("kind", audio.DISTORTIONS)
def test_distortions_by_name_are_those_of_the_functions(kind):
    samples = _speech_like(0.6)
    talkers = [_speech_like(0.2, 9)]
    level = {"white": 5.0, "babble": 5.0, "reverberation": 0.3, "band": 8000, "clipping": 0.2}
    found = audio.distort(
        samples,
        kind,
        level.get(kind, 8 if kind == "mu_law" else None),
        np.random.default_rng(6),
        talkers=talkers,
    )
    rng = np.random.default_rng(6)
    expected = {
        "white": lambda: audio.white_noise(samples, 5.0, rng),
        "babble": lambda: audio.babble(samples, talkers, 5.0, rng),
        "reverberation": lambda: audio.reverberate(samples, 0.3, rng),
        "band": lambda: audio.band_limit(samples),
        "clipping": lambda: audio.clip(samples, 0.2),
        "mu_law": lambda: audio.mu_law(samples),
    }.get(kind, lambda: audio.codec(samples, kind))()
    np.testing.assert_array_equal(found, expected)


def test_distortions_that_are_none_are_refused():
    with pytest.raises(ValueError, match="kind must be one of white"):
        audio.distort(_speech_like(0.1), "pink", 3.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="white needs a level"):
        audio.distort(_speech_like(0.1), "white", None, np.random.default_rng(0))


def test_sixteen_bits_in_thirty_two_are_not_taken_for_silence():
    samples = (np.sin(np.arange(4000) / 9) * 20_000).astype(np.int32)
    with pytest.raises(ValueError, match="look like 16-bit PCM"):
        audio.standardise(samples, 16_000)
    loud = audio.standardise(samples << 16, 16_000)
    assert np.allclose(loud, audio.standardise(samples.astype(np.int16), 16_000))
    assert not audio.standardise(np.zeros(4000, np.int32), 16_000).any()
