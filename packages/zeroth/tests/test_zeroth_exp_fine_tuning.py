"""The fine-tuning experiment in miniature: what it reports against independent computation."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from modicum.core.device import torch_generator
from modicum.core.experiment import Result, run_experiments
from modicum.zeroth.experiments import EXPERIMENTS, fine_tuning
from modicum.zeroth.experiments.fine_tuning import (
    LENGTH,
    SYMBOLS,
    LiveBytes,
    Losses,
    Memory,
    Replayed,
    Slopes,
    make_model,
    sequences,
)
from modicum.zeroth.torch import normals

RADII = (1e-4, 1e-2, 0.1, 1.0)


@pytest.fixture(scope="module")
def slopes():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield fine_tuning.slope_errors(RADII, 8, seed=3)
    torch.set_num_threads(threads)


def test_the_task_is_to_copy():
    ids = sequences(50, torch_generator(0))
    assert ids.shape == (50, 2 * LENGTH + 1)
    assert torch.equal(ids[:, :LENGTH], ids[:, LENGTH + 1 :])
    assert (ids[:, LENGTH] == SYMBOLS).all() and ids[:, :LENGTH].max() == SYMBOLS - 1
    model = make_model(0, "full")
    # The loss is that of the second half, each symbol given what stands before it.
    logits = model(ids)
    picked = logits.log_softmax(-1)[:, LENGTH : 2 * LENGTH].gather(2, ids[:, LENGTH + 1 :, None])
    assert model.loss(ids).item() == pytest.approx(-picked.mean().item(), rel=1e-5)
    # What comes later has no say.
    changed = ids.clone()
    changed[:, LENGTH + 2 :] = 0
    torch.testing.assert_close(model(changed)[:, : LENGTH + 2], logits[:, : LENGTH + 2])


def test_adapters_begin_at_the_base_model():
    ids = sequences(8, torch_generator(0))
    base, adapted = make_model(5, "full"), make_model(5, "adapters")
    assert adapted.loss(ids).item() == pytest.approx(base.loss(ids).item(), rel=1e-6)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * (4 * fine_tuning.LAYERS + 1)
    assert all(name.endswith(("inner", "outer")) for name in trained)
    assert make_model(5, "full").loss(ids) == base.loss(ids) != make_model(6, "full").loss(ids)


def test_slope_errors_are_those_of_differences(slopes):
    """One entry once more: the first direction, shared batch, by hand in float64."""
    model = make_model(3, "full")
    generator = torch_generator(3, "cpu", "slopes")
    model.loss(sequences(fine_tuning.GRADIENT_BATCH, generator)).backward()
    parameters = list(model.parameters())
    gradient = torch.cat([p.grad.flatten() for p in parameters]).double()
    batch = sequences(fine_tuning.SLOPE_BATCH, generator)
    noise = [normals(3, 0, i, p.numel()).view(p.shape) for i, p in enumerate(parameters)]
    z = torch.cat([part.flatten() for part in noise]).double()
    radius = RADII[2]
    double = make_model(3, "full").double()
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            for p, start, part in zip(double.parameters(), parameters, noise, strict=True):
                p.copy_(start + sign * radius * part)
            losses.append(float(double.loss(batch)))
    slope = (losses[0] - losses[1]) / (2 * radius)
    expected = ((slope - float(gradient @ z)) / float(gradient.norm())) ** 2
    assert slopes.shared_MR[0, 2] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_shared_and_fresh_differ_where_noise_rules(slopes):
    shared, fresh = Slopes.typical(slopes.shared_MR), Slopes.typical(slopes.fresh_MR)
    assert fresh[0] > 100 * shared[0]
    assert fresh[3] == pytest.approx(shared[3], rel=1.0)
    # Noise over radius, and no bias yet: a hundred times closer is a hundred times worse.
    assert fresh[0] / fresh[1] == pytest.approx(100, rel=0.15)
    assert 0.01 < slopes.measured_radius < 1


def test_slope_claims_say_what_was_found(slopes):
    claims = {claim.name: claim for claim in fine_tuning._slope_claims(slopes)}
    fresh, shared = Slopes.typical(slopes.fresh_MR), Slopes.typical(slopes.shared_MR)
    assert claims["noise_falls_as_one_over_radius"].measured == pytest.approx(
        math.log(fresh[1] / fresh[0]) / math.log(100)
    )
    assert claims["fresh_batches_have_a_best_radius"].measured == pytest.approx(
        min(fresh[0], fresh[3]) / min(fresh)
    )
    assert claims["shared_batches_are_flat"].measured == pytest.approx(
        max(shared[:2]) / min(shared[:2])
    )
    assert claims["shared_batches_rise"].measured == pytest.approx(shared[3] / shared[0])
    measured = math.sqrt(slopes.measured_M.mean())
    assert claims["measured_radius"].measured == pytest.approx(measured / min(fresh))
    assert all(c.interval[0] <= c.measured <= c.interval[1] for c in claims.values())
    assert claims["shared_batches_are_flat"].holds
    assert claims["noise_falls_as_one_over_radius"].holds


def test_slope_claims_can_fail(slopes):
    swapped = dataclasses.replace(
        slopes,
        shared_MR=slopes.fresh_MR,
        fresh_MR=np.repeat(slopes.shared_MR[:, :1], 4, axis=1),
        measured_M=slopes.shared_MR[:, 0] * 9,
    )
    assert [claim.holds for claim in fine_tuning._slope_claims(swapped)] == [False] * 5


def test_training_ends_where_the_optimizer_does():
    before, after = fine_tuning.train("adapters", 1e-3, True, 6, seed=2)
    from modicum.zeroth.torch import ZOOptimizer

    model = make_model(2, "adapters")
    held_out = sequences(fine_tuning.HELD_OUT, torch_generator(2, "cpu", "held out"))
    assert before == pytest.approx(model.loss(held_out).item(), rel=1e-5)
    generator = torch_generator(2, "cpu", "batches")
    rate = fine_tuning.RATES["adapters"]
    optimizer = ZOOptimizer(model.parameters(), rate, epsilon=1e-3, seed=2)
    for _ in range(6):
        batch = sequences(fine_tuning.TRAIN_BATCH, generator)
        optimizer.step(lambda batch=batch: model.loss(batch))
    assert after == pytest.approx(model.loss(held_out).item(), rel=1e-5)
    assert after != before
    assert fine_tuning.train("adapters", 1e-4, False, 30, seed=2)[1] == math.inf


def test_loss_claims_say_what_was_found():
    radii = (1e-4, 1e-2, 0.1, 1.0)
    shared = np.array([[2.0, 2.003, 2.01, 3.0], [2.1, 2.1, 2.2, 2.5]])
    fresh = np.array([[math.inf, 2.6, 2.1, 3.0], [2.9, 2.5, 2.3, 2.6]])
    losses = Losses(radii, np.array([2.6, 2.6]), shared, fresh)
    ends, flat, rise = fine_tuning._loss_claims("full", losses)
    assert ends.measured == pytest.approx(0.3) and ends.holds
    assert flat.measured == pytest.approx(0.003) and flat.holds
    assert rise.measured == pytest.approx(0.4) and rise.holds
    turned = Losses(radii, losses.before_S, fresh.clip(max=4), shared)
    assert [c.holds for c in fine_tuning._loss_claims("full", turned)] == [False, False, False]


def test_replay_is_counted_in_bits(tmp_path, monkeypatch):
    found = fine_tuning.replay_bits(tmp_path, seed=1)
    assert found.different_bits == 0
    assert 20 < found.bytes_per_step < 40
    assert {path.name for path in tmp_path.iterdir()} == {"float32.zo.jsonl", "bfloat16.zo.jsonl"}
    monkeypatch.setattr(fine_tuning, "replay", lambda module, path: module)
    assert fine_tuning.replay_bits(tmp_path, seed=1).different_bits > 1000


def test_live_bytes_counts_what_lives():
    known = torch.zeros(1000)
    with LiveBytes([known]) as live:
        first = known + 1
        del first
        second = torch.ones(500, dtype=torch.float64)
        view = second[10:]
        third = second * 2
        del second
        assert live.now == 8000
        del view
        assert live.now == 4000
        known.add_(1)
        assert live.now == 4000
    assert live.peak == 8000
    assert third.sum() == 1000


def test_memory_is_weights_and_what_lives(monkeypatch):
    monkeypatch.setattr(fine_tuning, "MEMORY_BATCH", 8)
    found = fine_tuning.memory("full", ("streamed", "in-place"), 0)
    model = make_model(0, "full", fine_tuning.MEMORY_WIDTH, fine_tuning.MEMORY_LENGTH)
    weights = sum(4 * p.numel() for p in model.parameters())
    largest = max(4 * p.numel() for p in model.parameters())
    assert found.inference > weights
    # In place there is a copy of all weights; streamed, of one tensor, where activations peak.
    assert found.steps["in-place"] > found.inference + 0.9 * weights
    extra = found.steps["streamed"] - found.inference - found.scratch
    assert 0 <= extra <= 4 * largest
    assert 5e5 < found.scratch < 4e6


def test_other_claims_say_what_was_found():
    memories = {
        "full": Memory(100, {"streamed": 104, "in-place": 150}, 2_000_000),
        "adapters": Memory(100, {"streamed": 101, "in-place": 106}, 2_000_000),
    }
    replayed = Replayed(0, 31.0)
    claims = {c.name: c for c in fine_tuning._other_claims(replayed, memories)}
    assert claims["memory_full"].measured == 1.04 and claims["memory_full"].holds
    assert claims["memory_adapters"].measured == 1.06 and not claims["memory_adapters"].holds
    assert claims["replay_is_exact"].holds and claims["bytes_per_step"].holds
    claims = {c.name: c for c in fine_tuning._other_claims(Replayed(1, 50.0), memories)}
    assert not claims["replay_is_exact"].holds and not claims["bytes_per_step"].holds


@pytest.mark.slow
def test_the_experiment_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "QUICK_STEPS", 8)
    monkeypatch.setattr(fine_tuning, "QUICK_DIRECTIONS", 6)
    (experiment,) = [e for e in EXPERIMENTS if e.name == "fine_tuning"]
    (result,) = run_experiments([experiment], tmp_path, quick=True, seed=1)
    assert result.status == "ok", result.error
    written = tmp_path / "modicum-zeroth" / "fine_tuning" / "result.json"
    assert Result.load(written).to_json() == result.to_json()
    assert result.figures and len(result.claims) == 12 and len(result.tables) == 3
