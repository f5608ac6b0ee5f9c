"""Log-mel features: torchaudio's, normalised, blind to padding."""

import math

import numpy as np
import pytest
import torch
import torchaudio

from modicum.huper.audio import frame_count
from modicum.huper.frontend import LogMel, frames_of, mel_filters, valid


def _batch(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    rows = [0.1 * torch.randn(size, generator=generator) for size in sizes]
    return rows, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(sizes)


def test_the_filters_are_torchaudios():
    theirs = torchaudio.functional.melscale_fbanks(257, 20.0, 7600.0, 40, 16_000)
    torch.testing.assert_close(mel_filters(), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bands", [40, 23])
def test_features_are_torchaudios_spectrogram_normalised(bands):
    rows, samples, lengths = _batch(3, [5000])
    spectrogram = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=512, hop_length=160, f_min=20.0, f_max=7600.0, n_mels=bands,
        center=False, window_fn=lambda n: torch.nn.functional.pad(torch.hann_window(400), (0, 112)),
    )  # fmt: skip
    # Its frames of 512 need 112 samples more than ours of 400.
    theirs = spectrogram(torch.nn.functional.pad(rows[0], (0, 112))).T
    theirs = torch.log(theirs / 400 + 1e-6)
    theirs = (theirs - theirs.mean(0)) / theirs.std(0, correction=0)
    ours, frames = LogMel(bands)(samples, lengths)
    assert frames.tolist() == [len(theirs)] == [29]
    torch.testing.assert_close(ours[0], theirs, atol=2e-4, rtol=1e-3)


def test_each_band_has_mean_zero_and_variance_one_over_its_own_frames():
    _, samples, lengths = _batch(4, [3000, 9000, 401])
    features, frames = LogMel()(samples, lengths)
    for row, count in zip(features, frames.tolist(), strict=True):
        assert not row[count:].any()
        if count > 1:
            torch.testing.assert_close(row[:count].mean(0), torch.zeros(40), atol=1e-5, rtol=0)
            torch.testing.assert_close(
                row[:count].square().mean(0), torch.ones(40), atol=1e-4, rtol=0
            )


def test_a_batch_is_its_utterances_whatever_stands_in_the_padding():
    rows, samples, lengths = _batch(5, [1234, 16_000, 400, 7777])
    noisy = samples.clone()
    noisy[~valid(lengths, samples.shape[1])] = 0.9
    features, frames = LogMel()(noisy, lengths)
    for number, row in enumerate(rows):
        alone, count = LogMel()(row[None], torch.tensor([len(row)]))
        assert count == frames[number]
        torch.testing.assert_close(features[number, : int(count)], alone[0], atol=1e-5, rtol=1e-5)


def test_loudness_does_not_matter_and_silence_is_zero():
    _, samples, lengths = _batch(6, [8000])
    loud, _ = LogMel()(samples, lengths)
    soft, _ = LogMel()(samples / 4, lengths)
    torch.testing.assert_close(loud, soft, atol=0.1, rtol=0)
    silent, frames = LogMel()(torch.zeros(1, 4000), torch.tensor([4000]))
    assert not silent.any()
    assert math.isfinite(float(silent.sum()))
    assert int(frames) == 23


def test_frames_are_those_of_the_public_encoders():
    sizes = torch.tensor([400, 559, 560, 719, 720, 16_000, 160_000, 399, 0])
    frames = frames_of(sizes)
    assert frames.tolist() == [1, 1, 2, 2, 3, 98, 998, 0, 0]
    doubled = ((frames[:-2] - 1) // 2 + 1).tolist()
    assert doubled == [frame_count(int(size)) for size in sizes[:-2]]


def test_too_short_an_utterance_is_refused():
    with pytest.raises(ValueError, match="399 samples; a frame needs 400"):
        LogMel()(torch.zeros(2, 800), torch.tensor([800, 399]))


def test_a_tone_lights_the_band_of_its_frequency():
    seconds = np.arange(16_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 1000 * seconds) * (seconds > 0.5)
    features, _ = LogMel()(torch.tensor(tone, dtype=torch.float32)[None], torch.tensor([16_000]))
    band = int(mel_filters()[round(1000 / 16_000 * 512)].argmax())
    assert features[0, -1, band] > 0.8
    assert features[0, 0, band] < -0.8
    loudest = (features[0, -10:] - features[0, :10]).sum(0)
    assert int(loudest.argmax()) == band


@pytest.mark.gpu
def test_a_gpu_gives_the_features_of_the_cpu():
    _, samples, lengths = _batch(7, [5000, 12_000])
    cpu, _ = LogMel()(samples, lengths)
    gpu, _ = LogMel().cuda()(samples.cuda(), lengths.cuda())
    torch.testing.assert_close(gpu.cpu(), cpu, atol=1e-3, rtol=1e-3)
