"""Several oracles behind prompts, and noise that belongs to a canvas."""

import pytest
import torch

from modicum.pvf import PVF, MaskPredictor, Threshold, TopK, generate, infill
from modicum.pvf.testing import (
    EnumerationOracle,
    NoisyPredictor,
    PromptedOracle,
    TablePredictor,
    ledger,
)

LENGTH = 48


@pytest.fixture(scope="module")
def tasks():
    return [ledger(seed, 0.6) for seed in range(6)]


@pytest.fixture(scope="module")
def book(tasks):
    return PromptedOracle({task.prompt: task.oracle for task in tasks})


def generated(model, tasks, strategy, batch_size):
    return generate(
        model,
        [list(task.prompt) for task in tasks],
        strategy=strategy,
        gen_length=LENGTH,
        block_length=24,
        eos_early_stop=False,
        batch_size=batch_size,
    )


@pytest.mark.parametrize("strategy", [Threshold(), TopK(12), PVF(plan_vocab=range(13, 28))])
def test_prompted_tasks_are_answered_as_each_oracle_alone(tasks, book, strategy):
    assert isinstance(book, MaskPredictor)
    out = generated(book, tasks, strategy, 6)
    for number, task in enumerate(tasks):
        canvas = [task.oracle.mask_id] * LENGTH
        alone = infill(task.oracle, canvas, strategy=strategy, block_length=24)
        assert out.generated[number].tolist() == alone.sequences[0].tolist()
        assert out.stats[number].nfe == alone.stats[0].nfe


def test_prompts_and_oracles_must_fit(tasks, book):
    with pytest.raises(ValueError, match="at least one"):
        PromptedOracle({})
    other = EnumerationOracle(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1), 2, 4)
    with pytest.raises(ValueError, match="one vocabulary"):
        PromptedOracle({(1,): other, tasks[0].prompt: tasks[0].oracle})
    with pytest.raises(ValueError, match="no oracle has a prompt"):
        generated(book, [ledger(99)], Threshold(), 1)


def logits(model, canvas, mask=None):
    ids = torch.tensor([canvas])
    keep = None if mask is None else torch.tensor([mask], dtype=torch.bool)
    return model.forward(ids, keep, torch.tensor([[0, 1, 2]]))[0]


def test_noise_belongs_to_the_canvas_and_the_seed():
    flat = TablePredictor([(1, 0.5)] * 12, {}, 9, 10)
    model = NoisyPredictor(flat, 1.5, seed=3)
    canvas = [9, 1, 9, 4, 5]
    found = logits(model, canvas)
    assert torch.equal(found, logits(model, canvas))
    padding = [0] * 7
    seen = [1] * 5 + [0] * 7
    assert torch.equal(found, logits(model, canvas + padding, seen))
    together = torch.tensor([[9, 9, 9, 9, 9], canvas])
    columns = torch.tensor([[0, 1, 2]] * 2)
    assert torch.equal(found, model.forward(together, None, columns)[1])
    others = [[9, 1, 9, 4, 6], [1, 9, 9, 4, 5], canvas[:4], [*canvas, 0]]
    for other in others:
        assert not torch.isclose(found, logits(model, other))[:, :9].any()
    assert not torch.isclose(found, logits(NoisyPredictor(flat, 1.5, 4), canvas))[:, :9].any()


def test_noise_is_normal_and_sigma_scales_it():
    flat = TablePredictor([(1, 0.5)] * 3, {}, 9, 10)
    draws = []
    for first in range(9):
        for second in range(9):
            canvas = [first, second, 9]
            noise = logits(NoisyPredictor(flat, 1.0), canvas) - logits(flat, canvas)
            twice = logits(NoisyPredictor(flat, 2.0), canvas) - logits(flat, canvas)
            assert torch.allclose(2 * noise[:, :9], twice[:, :9], atol=1e-5)
            draws.append(noise[:, :9].flatten())
    draws = torch.cat(draws).double()
    # 2,187 draws: the mean has a standard error of .0214 and the variance one of .0302; six of them
    # are passed with probability below 1e-8.
    assert abs(draws.mean()) < 0.13 and abs(draws.var() - 1) < 0.19
    assert torch.equal(logits(NoisyPredictor(flat, 0.0), [9] * 3), logits(flat, [9] * 3))
    with pytest.raises(ValueError, match="sigma must not be negative"):
        NoisyPredictor(flat, -1.0)


def test_a_noisy_oracle_has_its_plans_rejected(tasks, book):
    noisy = NoisyPredictor(book, 2.0)
    strategy = PVF(plan_vocab=tasks[0].style_ids, unlock_threshold=0)
    clean = generated(book, tasks, strategy, 6)
    disturbed = generated(noisy, tasks, strategy, 6)
    assert sum(stats.rejected_unexpected for stats in clean.stats) == 0
    assert sum(stats.rejected_unexpected for stats in disturbed.stats) > 0
