"""The recipe: its parts against torch and brute force, and runs that end the same every time."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from modicum.huper import espeak, training
from modicum.huper.audio import read
from modicum.huper.phones import PhoneSet
from modicum.huper.tiny import TinyConfig, TinyConvCTC
from modicum.huper.training import Labelled, TrainingConfig, train

FOLDER = Path(__file__).parent / "data" / "huper_world"
SMALL = TinyConfig(width=24, dilations=(1, 2), dropout=0.3)


def _fixture(split, count=None):
    lines = (FOLDER / f"{split}.jsonl").read_text().splitlines()[:count]
    return [
        Labelled(FOLDER / line["audio_path"], tuple(line["real_phonemes"]), id=line["id"])
        for line in map(json.loads, lines)
    ]


def _noise(count, seed=0, phones=("AA", "S", "K")):
    rng = np.random.default_rng(seed)
    return [
        Labelled(
            (0.1 * rng.standard_normal(int(rng.integers(4000, 9000)))).astype(np.float32),
            tuple(rng.choice(phones, 4)),
            id=str(number),
        )
        for number in range(count)
    ]


# Parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(40, 0.15), (311, 0.3), (1000, 0.15)])
def test_the_schedule_is_torchs_one_cycle(steps, warmup):
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=3e-3, total_steps=steps, pct_start=warmup
    )
    for step in range(steps):
        rate, beta = training.one_cycle(step, steps, 3e-3, warmup)
        group = optimiser.param_groups[0]
        assert rate == pytest.approx(group["lr"], rel=1e-9)
        assert beta == pytest.approx(group["betas"][0], rel=1e-9)
        optimiser.step()
        if step < steps - 1:
            theirs.step()


def test_short_runs_have_a_schedule_too():
    for steps in range(1, 8):
        rates = [training.one_cycle(step, steps, 1.0, 0.15)[0] for step in range(steps)]
        assert all(0 < rate <= 1 for rate in rates)


def test_batches_have_each_utterance_once_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(10, 1000, 300).tolist()
    found = training.batches(lengths, 16, 4, 2)
    assert sorted(np.concatenate(found).tolist()) == list(range(300))
    assert sorted(map(len, found))[-1] == 16
    assert len(found) == 19
    inner = np.mean([np.std([lengths[at] for at in batch]) for batch in found])
    assert inner < 0.3 * np.std(lengths)
    again, other = training.batches(lengths, 16, 4, 2), training.batches(lengths, 16, 4, 3)
    assert all(np.array_equal(one, two) for one, two in zip(found, again, strict=True))
    assert any(not np.array_equal(one, two) for one, two in zip(found, other, strict=True))


def test_masks_are_one_band_and_one_stretch_of_bounded_width():
    frames = torch.tensor([60, 25, 3, 90] * 50)
    features = training.valid(frames, 90)[:, :, None] * torch.ones(200, 90, 40)
    found = training.spec_augment(features, frames, 7, 12, 0.0, torch.Generator().manual_seed(1))
    assert set(found.unique().tolist()) == {0.0, 1.0}
    bands, times = set(), set()
    for row, count in zip(found, frames.tolist(), strict=True):
        kept = row[:count].bool()
        lost_bands = (~kept.any(0)).nonzero().flatten().tolist()
        lost_times = (~kept.any(1)).nonzero().flatten().tolist()
        if kept.any():
            expected = torch.ones_like(kept)
            expected[:, lost_bands] = False
            expected[lost_times] = False
            assert torch.equal(kept, expected)
            bands.add(len(lost_bands))
            times.add(len(lost_times))
            for lost in (lost_bands, lost_times):
                assert lost == list(range(lost[0], lost[0] + len(lost))) if lost else True
        assert not row[count:].any()
    # Each width has a chance of 1/8 or 1/13 in over 100 draws: one is missing with 1e-2 at most
    # for times, so only the ends of the range and that nothing exceeds them are asked for.
    assert max(bands) == 7
    assert min(bands) == 0
    assert max(times) <= 12
    assert len(times) >= 8


def test_noise_has_its_deviation_and_stays_within_the_utterance():
    """32,000 normal numbers: their deviation within six standard errors."""
    frames = torch.tensor([800, 400])
    features = torch.zeros(2, 800, 40)
    found = training.spec_augment(features, frames, 0, 0, 0.15, torch.Generator().manual_seed(2))
    assert not found[1, 400:].any()
    assert abs(float(found[0].std()) - 0.15) < 6 * 0.15 / math.sqrt(2 * 32_000)
    same = training.spec_augment(features, frames, 0, 0, 0.0, torch.Generator())
    assert torch.equal(same, features)


# Runs -------------------------------------------------------------------------------------------


class _CutOff(Exception):
    pass


class _Cutter:
    """A progress task that ends the run after a number of steps."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, n=1):
        self.left -= n
        if self.left < 0:
            raise _CutOff


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path, cut):
    data, config = _noise(10), TrainingConfig(epochs=4, batch_size=4, seed=3)
    whole = TinyConvCTC(config=SMALL, seed=1)
    report = train(whole, data, config, device="cpu")
    assert report.steps == 12
    assert len(report.losses) == 4
    cut_off = TinyConvCTC(config=SMALL, seed=1)
    with pytest.raises(_CutOff):
        train(cut_off, data, config, device="cpu", folder=tmp_path, save_seconds=0,
              progress=_Cutter(cut))  # fmt: skip
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint.pt"]
    # Torch's own random numbers are left alone, whatever they are.
    torch.manual_seed(cut)
    resumed = TinyConvCTC(config=SMALL, seed=1)
    again = train(resumed, data, config, device="cpu", folder=tmp_path, save_seconds=0)
    assert again.losses == report.losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.json",
    ]


def test_a_finished_run_is_read_and_other_runs_are_refused(tmp_path):
    data, config = _noise(4), TrainingConfig(epochs=2, batch_size=4)
    first = TinyConvCTC(config=SMALL)
    report = train(first, data, config, dev=data, device="cpu", folder=tmp_path)
    second = TinyConvCTC(config=SMALL)
    assert train(second, data, config, dev=data, device="cpu", folder=tmp_path) == report
    assert list(report.dev_per) == [2]
    assert all(
        torch.equal(one, two)
        for one, two in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    for other, change in [
        ((TinyConvCTC(config=SMALL), data, TrainingConfig(epochs=3, batch_size=4)), "epochs = 2"),
        ((TinyConvCTC(config=SMALL), _noise(4, 1), config), "data = "),
        ((TinyConvCTC(config=SMALL, seed=1), data, config), "start = "),
    ]:
        with pytest.raises(ValueError, match=change):
            train(*other, device="cpu", folder=tmp_path)


def test_the_global_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(TinyConvCTC(config=SMALL), _noise(2), TrainingConfig(epochs=1), device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_the_first_loss_is_ctc_by_torch_of_the_single_utterances():
    """No masks, noise or dropout: the loss of step one is the mean of those taken alone."""
    data = _noise(3)
    config = TrainingConfig(epochs=1, frequency_mask=0, time_mask=0, noise=0.0)
    size = TinyConfig(width=24, dilations=(1,), dropout=0.0)
    report = train(TinyConvCTC(config=size), data, config, device="cpu")
    model = TinyConvCTC(config=size).train()
    samples, lengths = training.collate([one.audio for one in data])
    logprobs, frames = model(*model.features(samples, lengths))
    alone = [
        torch.nn.functional.ctc_loss(
            row[:length, None], torch.tensor(model.phones.encode(one.phones))[None], (int(length),),
            (4,), reduction="sum",
        ).item() / 4
        for row, length, one in zip(logprobs, frames, data, strict=True)
    ]  # fmt: skip
    assert report.losses[0] == pytest.approx(np.mean(alone), rel=1e-5)


def test_weights_scale_an_utterances_part_and_may_cancel_it():
    """An utterance and itself with weight −1 teach nothing, so the run is that of the others."""
    one, two = _noise(2)
    size = TinyConfig(width=24, dilations=(1,), dropout=0.0)
    config = TrainingConfig(epochs=1, batch_size=4, frequency_mask=0, time_mask=0, noise=0.0)
    report = train(TinyConvCTC(config=size), [one, two], config, device="cpu")
    halves = [
        Labelled(each.audio, each.phones, weight) for each in (one, two) for weight in (0.5, 1.5)
    ]
    doubled = train(TinyConvCTC(config=size), halves, config, device="cpu")
    # Sums are over utterances: 0.5 + 1.5 of each, divided by four instead of two.
    assert doubled.losses[0] == pytest.approx(report.losses[0], rel=1e-4)
    nothing = [
        Labelled(each.audio, each.phones, weight) for each in (one, two) for weight in (1.0, -1.0)
    ]
    cancelled = train(TinyConvCTC(config=size), nothing, config, device="cpu")
    assert abs(cancelled.losses[0]) < 1e-5


def test_real_speech_is_learnt():
    """Twenty-four utterances of the fixture: from an error rate of 1 to less than a half."""
    data = _fixture("labelled")
    model = TinyConvCTC(config=TinyConfig(width=64, dilations=(1, 2, 1)))
    before = training.error_rate(model, data)
    config = TrainingConfig(epochs=40, batch_size=8, learning_rate=4e-3)
    report = train(model, data, config, dev=_fixture("test"), device="cpu")
    after = training.error_rate(model, data)
    assert before > 0.9
    assert after < 0.5
    assert report.losses[-1] < 0.4 * report.losses[0]
    assert list(report.dev_per) == [5, 10, 15, 20, 25, 30, 35, 40]
    assert report.dev_per[40] < 0.8
    assert not model.training


@pytest.mark.slow
@pytest.mark.skipif(not espeak.available(), reason="the program espeak-ng is not installed")
def test_eighty_utterances_teach_unseen_words():
    from modicum.huper.simulate import EspeakWorld

    made = EspeakWorld("rules", seed=0)
    labelled, test = (
        [Labelled(made.audio(one), one.real_phonemes) for one in made.utterances(split, count)]
        for split, count in (("labelled", 80), ("test", 40))
    )
    model = TinyConvCTC()
    train(model, labelled, device="cpu")
    assert training.error_rate(model, test) < 0.25


def test_the_error_rate_is_edits_over_phones():
    model = TinyConvCTC(PhoneSet.arpabet39(), SMALL)
    recording, _ = read(FOLDER / "audio" / "test-00000.flac")
    ids, _, _ = model.emissions(recording, 16_000).greedy()[0]
    said = model.phones.decode(ids)
    assert said
    right = Labelled(recording, said)
    assert training.error_rate(model, [right]) == 0.0
    shorter = Labelled(recording, said[:-1]) if len(said) > 1 else Labelled(recording, ("S", "S"))
    assert training.error_rate(model, [right, shorter]) > 0.0
    with pytest.raises(ValueError, match="no utterance"):
        training.error_rate(model, [])
    with pytest.raises(ValueError, match="no phone"):
        training.error_rate(model, [Labelled(recording, ())])


# Bad inputs -------------------------------------------------------------------------------------


def test_what_teaches_nothing_is_counted_and_named():
    data = [*_noise(2), Labelled(np.full(800, 0.1, np.float32), ("AA", "AA", "S"), id="short")]
    with pytest.warns(UserWarning, match="1 of 3 utterances have more phones than frames"):
        report = train(TinyConvCTC(config=SMALL), data, TrainingConfig(epochs=1), device="cpu")
    assert report.unalignable == 1
    assert math.isfinite(report.losses[0])


def test_bad_utterances_are_refused_by_name():
    model = TinyConvCTC(config=SMALL)
    with pytest.raises(ValueError, match="no utterance to learn from"):
        train(model, [])
    with pytest.raises(ValueError, match=r"utterance a7: phone 'QQ'"):
        train(model, [Labelled(np.zeros(900, np.float32), ("QQ",), id="a7")], device="cpu")
    with pytest.raises(ValueError, match=r"utterance number 0: .*300 samples"):
        train(model, [Labelled(np.zeros(300, np.float32), ("AA",))], device="cpu")
    with pytest.raises(ValueError, match="weights"):
        train(model, [Labelled(np.zeros(900, np.float32), ("AA",), math.nan)], device="cpu")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"warmup": 1.0}, "warmup must be between 0 and 1"),
        ({"precision": "int8"}, "precision must be one of fp32, bf16, fp16"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**setting)


def test_half_precision_trains_where_it_can():
    data = _noise(4)
    report = train(
        TinyConvCTC(config=SMALL), data, TrainingConfig(epochs=2, precision="bf16"), device="cpu"
    )
    exact = train(TinyConvCTC(config=SMALL), data, TrainingConfig(epochs=2), device="cpu")
    assert report.losses != exact.losses
    assert report.losses == pytest.approx(exact.losses, rel=0.05)
    with pytest.raises(ValueError, match="needs CUDA"):
        train(TinyConvCTC(), data, TrainingConfig(precision="fp16"), device="cpu")


class _Split(training.PlainEngine):
    """One of two processes; what it would add to the gradients of the other is kept."""

    def __init__(self, rank):
        super().__init__("cpu", "fp32")
        self.rank, self.world, self.gradient = rank, 2, None

    def step(self, loss, model, optimiser, clip):
        loss.backward()
        self.gradient = model.head.weight.grad.clone()


def test_the_parts_of_two_processes_average_to_the_whole_batch():
    """The batch norms see parts only, so they are taken out of the comparison by a linear model."""

    class Linear(TinyConvCTC):
        def forward(self, features, frames):
            logits = self.head(features[:, ::2, :24].transpose(1, 2)).transpose(1, 2)
            return torch.log_softmax(logits, -1), self.lengths(frames)

    data = _noise(5)
    config = TrainingConfig(epochs=1, batch_size=5, frequency_mask=0, time_mask=0, noise=0.0)
    gradients = []
    for engine in (_Split(0), _Split(1)):
        train(Linear(config=SMALL), data, config, engine=engine)
        gradients.append(engine.gradient)
    whole = _Split(0)
    whole.world = 1
    train(Linear(config=SMALL), data, config, engine=whole)
    expected = whole.gradient
    torch.testing.assert_close(sum(gradients) / 2, expected, atol=1e-6, rtol=1e-4)


def test_accelerate_gives_the_weights_of_plain_torch():
    pytest.importorskip("accelerate", reason="the package accelerate is not installed")
    from modicum.huper.integrations.accelerate import AccelerateEngine

    data, config = _noise(6), TrainingConfig(epochs=2, batch_size=4)
    plain, other = TinyConvCTC(config=SMALL), TinyConvCTC(config=SMALL)
    train(plain, data, config, device="cpu")
    train(other, data, config, engine=AccelerateEngine(cpu=True))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], atol=1e-6, rtol=1e-5)


def test_without_accelerate_the_message_says_how_to_get_it(monkeypatch):
    import sys

    from modicum.huper.integrations.accelerate import AccelerateEngine

    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r'pip install "modicum-huper\[train\]"'):
        AccelerateEngine()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_as_the_cpu_does(precision):
    data = _fixture("labelled")
    config = TrainingConfig(epochs=30, batch_size=8, precision=precision)
    model = TinyConvCTC()
    train(model, data, config, device="cuda")
    assert training.error_rate(model, data) < 0.6
