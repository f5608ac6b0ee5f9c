"""Training is the same every time, whether or not it was cut off, and says what it did."""

import io
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from modicum.core.device import numpy_generator
from modicum.testtime.experiments import training
from modicum.testtime.experiments.training import (
    DATA,
    Recipe,
    Rows,
    learning_rate,
    main,
    recipe,
    recipes,
    train,
    training_rows,
)
from modicum.testtime.tinygpt import TinyGPTConfig, load_checkpoint


def _draw(rng, num):
    """Draw the cyclic words 0 1 2 3 0 1 … from a random start; the last letters are learned."""
    ids = (rng.integers(4, size=(num, 1)) + np.arange(8)) % 4
    learned = np.zeros(ids.shape, dtype=bool)
    learned[:, 2:] = True
    return Rows(ids, learned)


SMALL = Recipe(
    "count",
    "Counts modulo four.",
    {"vocab_size": 4, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2},
    _draw,
    steps=60,
    batch_size=24,
    learning_rate=1e-2,
    warmup=5,
)


def _weights(path):
    model, metadata = load_checkpoint(path)
    return model.state_dict(), metadata


def test_it_learns_and_writes_what_it_did(tmp_path):
    out = train(SMALL, tmp_path / "count.safetensors", seed=3, device="cpu", half=False)
    model, metadata = load_checkpoint(out)
    assert {"recipe": "count", "seed": "3", "steps": "60"}.items() <= metadata.items()
    assert float(metadata["loss"]) < 0.1
    assert metadata["command"].endswith("training count --seed 3 --steps 60 --out FILE")
    words = torch.tensor([[0, 1, 2], [3, 0, 1]])
    assert model(words)[:, -1].argmax(1).tolist() == [3, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["count.safetensors"]


@pytest.mark.parametrize("stop", [1, 20, 37])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path, monkeypatch, stop):
    steps = 44
    whole, _ = _weights(train(SMALL, tmp_path / "a", 1, steps, "cpu", half=False))
    take_step = training._Run.take_step

    def cut_off(self):
        if self.step == stop:
            raise KeyboardInterrupt
        take_step(self)

    monkeypatch.setattr(training._Run, "take_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path / "b", 1, steps, "cpu", save_every=4, half=False)
    assert (tmp_path / "b.state").exists() == (stop >= 4)
    assert not (tmp_path / "b").exists()
    steps_taken = []

    def counted(self):
        steps_taken.append(self.step)
        take_step(self)

    monkeypatch.setattr(training._Run, "take_step", counted)
    resumed, metadata = _weights(train(SMALL, tmp_path / "b", 1, steps, "cpu", half=False))
    assert steps_taken == list(range(stop - stop % 4, steps))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    # The loss that the file states covers steps before the interruption, too.
    assert metadata == _weights(tmp_path / "a")[1]


def test_half_precision_weights_are_the_rounded_ones(tmp_path):
    whole, _ = _weights(train(SMALL, tmp_path / "a", 1, 20, "cpu", half=False))
    half, _ = _weights(train(SMALL, tmp_path / "b", 1, 20, "cpu"))
    assert all(torch.equal(half[name], whole[name].half().float()) for name in whole)


def test_seed_and_steps_matter(tmp_path):
    runs = [
        _weights(train(SMALL, tmp_path / "x", seed, steps, "cpu"))[0]["lm_head.weight"]
        for seed, steps in ((0, 10), (1, 10), (0, 11), (0, 10))
    ]
    assert torch.equal(runs[0], runs[3])
    assert not torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(("start", "stop"), [(0, 64), (0, 1), (63, 65), (100, 260), (128, 192)])
def test_a_row_depends_on_seed_and_number_alone(start, stop):
    whole = training_rows(SMALL, 7, 0, 320)
    part = training_rows(SMALL, 7, start, stop)
    assert np.array_equal(part.ids_BT, whole.ids_BT[start:stop])
    assert np.array_equal(part.learned_BT, whole.learned_BT[start:stop])
    assert not np.array_equal(training_rows(SMALL, 8, 0, 320).ids_BT, whole.ids_BT)


def test_a_state_of_another_run_is_refused(tmp_path, monkeypatch):
    take_step = training._Run.take_step

    def cut_off(self):
        if self.step == 8:
            raise KeyboardInterrupt
        take_step(self)

    monkeypatch.setattr(training._Run, "take_step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path / "x", 0, 20, "cpu", save_every=4)
    with pytest.raises(ValueError, match="belongs to a run with seed = 0, not 1"):
        train(SMALL, tmp_path / "x", 1, 20, "cpu")
    with pytest.raises(ValueError, match="steps = 20, not 21"):
        train(SMALL, tmp_path / "x", 0, 21, "cpu")
    with pytest.raises(ValueError, match=r"learning_rate = 0.01, not 0.02"):
        train(replace(SMALL, learning_rate=0.02), tmp_path / "x", 0, 20, "cpu")


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no recipe is called 'none'; there are self-correcting"):
        train("none", tmp_path / "x")
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        train(SMALL, tmp_path / "x", steps=0)
    with pytest.raises(ValueError, match="save_every must be at least 1, not 0"):
        train(SMALL, tmp_path / "x", save_every=0)


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(SMALL, step, 60) for step in range(60)]
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert rates[-1] == pytest.approx(0.001, rel=0.01)
    assert rates[5 + 27] == pytest.approx(0.01 * (0.55 + 0.45 * math.cos(math.pi * 27 / 55)))
    # A run that is shorter than its warm-up only rises.
    assert learning_rate(SMALL, 2, 3) == pytest.approx(0.006)


def test_only_learned_tokens_are_learned(tmp_path):
    def draw(rng, num):
        ids, learned = _draw(rng, num)
        ids[:, 4] = rng.integers(4, size=num)
        learned[:] = False
        learned[:, 2] = True
        return Rows(ids, learned)

    out = train(replace(SMALL, draw=draw), tmp_path / "x", 0, 60, "cpu")
    model, _ = load_checkpoint(out)
    rows = draw(numpy_generator(5), 200)
    loss_BT = torch.nn.functional.cross_entropy(
        model(torch.from_numpy(rows.ids_BT[:, :-1])).transpose(1, 2),
        torch.from_numpy(rows.ids_BT[:, 1:]),
        reduction="none",
    ).mean(0)
    # The learned token is known; those that nobody taught are worse than the uniform guess ln 4.
    assert loss_BT[1] < 0.1 and loss_BT[4] > 1.0


class _Counting:
    def __init__(self):
        self.done = 0.0

    def advance(self, n=1):
        self.done += n


def test_progress_is_told_of_every_step(tmp_path):
    task = _Counting()
    train(SMALL, tmp_path / "x", 0, 7, "cpu", task)
    assert task.done == 7


def test_progress_is_quiet_without_a_terminal(tmp_path, capsys, monkeypatch):
    train(SMALL, tmp_path / "x", 0, 3, "cpu", True)
    assert capsys.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    train(SMALL, tmp_path / "x", 0, 3, "cpu", True)
    assert "count, seed 0" in terminal.getvalue()


def test_command_line_trains_a_named_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "recipes", lambda: {"count": SMALL})
    main(["count", "--out", str(tmp_path / "x"), "--seed", "2", "--steps", "4", "--device", "cpu"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "x")
    assert load_checkpoint(tmp_path / "x")[1]["steps"] == "4"
    with pytest.raises(SystemExit):
        main(["other", "--out", str(tmp_path / "x")])
    assert "invalid choice: 'other'" in capsys.readouterr().err


def test_every_recipe_gives_rows_that_its_network_reads():
    found = recipes()
    assert len(found) == 7 and all(recipe(name).summary.endswith(".") for name in found)
    for item in found.values():
        config = TinyGPTConfig(**item.sizes)
        rows = training_rows(item, 0, 0, 64)
        assert rows.ids_BT.dtype == np.int64 and rows.learned_BT.dtype == np.bool_
        assert rows.ids_BT.shape == rows.learned_BT.shape == (64, config.n_positions)
        # Every token of the vocabulary occurs or is one that the stream does without.
        assert 0 <= rows.ids_BT.min() and rows.ids_BT.max() < config.vocab_size
        assert not rows.learned_BT[:, 0].any() and rows.learned_BT.any(axis=1).all()


def test_weights_of_the_package_say_how_they_came_about():
    files = sorted([*DATA.glob("self_correcting_*"), *DATA.glob("three_sat_*")])
    assert len(files) == 10
    for file in files:
        assert file.stat().st_size < 5e6
        model, metadata = load_checkpoint(file)
        item = recipe(metadata["recipe"])
        assert model.config == TinyGPTConfig(**item.sizes)
        steps, seed = metadata["steps"], metadata["seed"]
        assert file.name == f"{item.name.replace('-', '_')}_{steps}_seed{seed}.safetensors"
        assert metadata["command"] == (
            f"python -m modicum.testtime.experiments.training {item.name} --seed {seed} "
            f"--steps {steps} --out FILE"
        )
        assert json.loads(metadata["config"])["n_embd"] == item.sizes["n_embd"]


@pytest.mark.gpu
def test_gpu_trains_too(tmp_path):
    out = train(SMALL, tmp_path / "x", device="cuda")
    assert float(load_checkpoint(out)[1]["loss"]) < 0.2
