"""The tiny model: its size, its files, and batches that are their utterances."""

import json

import numpy as np
import pytest
import torch

from modicum.huper.audio import frame_count
from modicum.huper.phones import PhoneSet
from modicum.huper.tiny import TinyConfig, TinyConvCTC, collate


def _recordings(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(size)).astype(np.float32) for size in sizes]


def _warmed(model, seed=1):
    """Give batch norm statistics of its own, as training does."""
    model.train()
    samples, lengths = collate(_recordings([6000, 9000, 4000], seed))
    features, frames = model.features(samples, lengths)
    model(features, frames)
    return model.eval()


def test_it_has_a_quarter_of_a_million_parameters():
    count = sum(one.numel() for one in TinyConvCTC().parameters())
    assert count == 40 * 96 * 5 + 5 * 96 * 96 * 5 + 6 * 2 * 96 + 96 * 44 + 44 == 255_020


@pytest.mark.parametrize("size", [400, 719, 720, 16_000, 31_999])
def test_frames_are_those_of_the_public_encoders(size):
    emissions = TinyConvCTC().emissions(_recordings([size])[0], 16_000)
    assert emissions.logprobs.shape == (1, frame_count(size), 44)
    assert emissions.frame_shift == 0.02


def test_a_batch_gives_what_each_utterance_gives_alone():
    model = _warmed(TinyConvCTC(seed=3))
    recordings = _recordings([400, 16_000, 5001, 12_345, 720, 30_000], 4)
    together = model.emissions(recordings, 16_000, batch_size=4)
    for number, recording in enumerate(recordings):
        alone = model.emissions(recording, 16_000).utterance(0)
        np.testing.assert_allclose(together.utterance(number), alone, atol=1e-5)


def test_padding_takes_no_part_in_the_statistics_of_training():
    """The same frames in one padded batch, whatever the padding, give the same running means."""
    recordings = _recordings([9000, 4000], 5)
    found = []
    for extra in (0, 8000):
        model = TinyConvCTC(config=TinyConfig(dropout=0.0)).train()
        samples, lengths = collate(recordings)
        features, frames = model.features(torch.nn.functional.pad(samples, (0, extra)), lengths)
        model(features, frames)
        found.append(model.entry.norm.running_mean.clone())
        inner = model.entry.conv(features.transpose(1, 2)).transpose(1, 2)
        kept = torch.cat([row[: (n + 1) // 2] for row, n in zip(inner, frames, strict=True)])
        torch.testing.assert_close(found[-1], 0.1 * kept.mean(0).detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[0], found[1])


def test_what_is_saved_is_read_back_with_its_phones(tmp_path):
    phones = PhoneSet.ipa(["a", "t͡ʃ", "ɾ̃"])
    model = _warmed(TinyConvCTC(phones, TinyConfig(width=24, dilations=(1, 3)), seed=7))
    folder = model.save_pretrained(tmp_path / "model")
    assert sorted(one.name for one in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = TinyConvCTC.from_pretrained(folder)
    assert again.phones == phones
    assert again.config == model.config
    assert not again.training
    recording = _recordings([8000])[0]
    np.testing.assert_array_equal(
        again.emissions(recording, 16_000).logprobs, model.emissions(recording, 16_000).logprobs
    )


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        TinyConvCTC.from_pretrained(tmp_path)
    folder = TinyConvCTC(config=TinyConfig(width=16)).save_pretrained(tmp_path)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "width": 32}))
    with pytest.raises(ValueError, match="does not fit its config"):
        TinyConvCTC.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**content, "model_type": "wav2vec2"}))
    with pytest.raises(ValueError, match="does not describe"):
        TinyConvCTC.from_pretrained(folder)


def test_weights_are_a_function_of_the_seed():
    one, same, other = (TinyConvCTC(seed=seed).state_dict() for seed in (2, 2, 3))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_silence_is_no_error():
    emissions = TinyConvCTC().emissions(np.zeros(8000, np.float32), 16_000)
    assert torch.isfinite(emissions.logprobs).all()


def test_files_lists_and_numbers_are_audio(tmp_path):
    from modicum.huper import audio

    model = TinyConvCTC(config=TinyConfig(width=16))
    recording = _recordings([9000])[0]
    path = audio.write(tmp_path / "a.flac", recording)
    from_files = model.emissions([path, str(path)])
    assert len(from_files) == 2
    of_numbers = model.emissions(audio.read(path)[0].tolist(), 16_000)
    np.testing.assert_allclose(from_files.utterance(0), of_numbers.utterance(0), atol=1e-5)
    with pytest.raises(TypeError, match="sampling_rate"):
        model.emissions(recording)
    with pytest.raises(ValueError, match="eval"):
        model.train().emissions(recording, 16_000)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": 0}, "width must be positive, not 0"),
        ({"kernel": 4}, "kernel must be odd, not 4"),
        ({"dilations": (1, 0)}, "dilations must be positive"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_sizes_that_make_no_network_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        TinyConfig(**setting)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives():
    model = _warmed(TinyConvCTC(seed=3))
    recordings = _recordings([16_000, 5001])
    cpu = model.emissions(recordings, 16_000)
    gpu = model.cuda().emissions(recordings, 16_000)
    torch.testing.assert_close(gpu.logprobs, cpu.logprobs, atol=2e-3, rtol=1e-3)
