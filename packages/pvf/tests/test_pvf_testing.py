"""The oracle against Bayes' rule by hand, and what the decoder does on its tasks."""

import pytest
import torch

from modicum.pvf import PVF, Threshold, TopK, infill
from modicum.pvf.testing import EnumerationOracle, TablePredictor, ledger

MASK = 9


def oracle(eps=1e-3):
    sequences = torch.tensor([[1, 2, 3], [1, 4, 5], [6, 2, 5]])
    return EnumerationOracle(sequences, torch.tensor([1.0, 2.0, 1.0]), MASK, 10, eps=eps)


def posterior(model, canvas):
    ids = torch.tensor([canvas])
    return model.forward(ids, None, torch.arange(len(canvas))[None]).exp()[0].double()


def test_posterior_is_that_of_bayes():
    nothing = posterior(oracle(), [MASK] * 3)
    assert nothing[0, 1] == pytest.approx(0.75) and nothing[1, 4] == pytest.approx(0.5)
    given = posterior(oracle(), [MASK, 2, MASK])
    # The second sequence differs in one filled column: its weight is multiplied with eps.
    assert given[2, 3] == pytest.approx(1 / (2 + 2e-3), rel=1e-6)
    assert torch.allclose(given.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-6)
    nowhere = posterior(oracle(0.1), [1, 2, 5])
    # All three differ in one column, so that their weights are what they were.
    assert nowhere[0, 6] == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(6))
def test_ledger_is_what_it_says(seed):
    task = ledger(seed, 0.7)
    sequences = task.oracle.sequences_SL
    assert len(sequences) in (3 * 4**2, 3 * 4**3, 3 * 4**4)
    assert task.oracle.weights_S.sum() == pytest.approx(1)
    share = task.oracle.weights_S[task.error_free].sum()
    records = {48: 2, 192: 3, 768: 4}[len(sequences)]
    assert share == pytest.approx(0.7**records)
    assert task.is_valid(sequences[-1]) and not task.is_correct(sequences[-1])
    right = sequences[task.error_free][0]
    assert task.is_correct(right)
    assert not task.is_valid(torch.where(right == right[0], task.digit_ids[0], right))


@pytest.mark.parametrize("right", [0.8, 0.6])
def test_verified_plans_and_fills_are_right_where_guesses_are_not(right):
    calls = {"threshold": 0, "pvf": 0}
    guessed = 0
    for seed in range(8):
        task = ledger(seed, right)
        canvas = [[task.oracle.mask_id] * task.length]
        for strategy in (
            Threshold(),
            PVF(plan_vocab=task.style_ids, unlock_threshold=0),
        ):
            out = infill(task.oracle, canvas, strategy=strategy, block_length=24)
            assert task.is_correct(out.sequences[0])
            calls[strategy.name] += out.stats[0].nfe
            assert out.stats[0].rejected_unexpected == 0
        out = infill(task.oracle, canvas, strategy=Threshold(0.5), block_length=24)
        guessed += task.is_correct(out.sequences[0])
        out = infill(task.oracle, canvas, strategy=TopK(), block_length=24)
        assert task.is_correct(out.sequences[0]) and out.stats[0].nfe == task.length
    assert guessed == 0
    assert calls["pvf"] < 0.65 * calls["threshold"]


def test_comparing_with_the_base_row_only_loses_the_sums():
    right = []
    for seed in range(6):
        task = ledger(seed, 0.6)
        canvas = [[task.oracle.mask_id] * task.length]
        strategy = PVF(plan_vocab=task.style_ids, unlock_threshold=0, fill_verify="base")
        out = infill(task.oracle, canvas, strategy=strategy, block_length=24)
        right.append(task.is_correct(out.sequences[0]))
    assert not any(right)


def test_an_incoherent_table_has_its_plan_rejected():
    # Column 1 is certain without the plan of column 0, and another token with it.
    default = [(1, 0.6), (2, 0.95), (3, 0.3)]
    table = {
        (MASK, 2, MASK): {0: (1, 0.6), 2: (3, 0.92)},
        (1, 2, MASK): {2: (4, 0.97)},
    }
    model = TablePredictor(default, table, MASK, 10)
    strategy = PVF(plan_vocab=[1], unlock_threshold=0)
    out = infill(model, [MASK] * 3, strategy=strategy, return_trace=True)
    assert out.stats[0].nfe_plan_failed == 1 and out.stats[0].rejected_unexpected == 1
    kept = infill(model, [MASK] * 3, strategy=PVF(plan_vocab=[1], plan_verify=False))
    assert out.sequences[0, 2] == 3 and kept.sequences[0, 2] == 4
    assert kept.stats[0].nfe_plan_failed == 0


def test_a_table_must_lead_and_an_oracle_must_fit():
    with pytest.raises(ValueError, match=r"cannot lead with probability 0\.05"):
        TablePredictor([(1, 0.05)], {}, MASK, 10)
    with pytest.raises(ValueError, match="weights must be positive"):
        EnumerationOracle(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([1.0, 0.0]), MASK, 10)
    with pytest.raises(ValueError, match=r"\(S, L\)"):
        EnumerationOracle(torch.zeros(3, dtype=torch.int64), torch.ones(3), MASK, 10)
    with pytest.raises(ValueError, match="4 columns, the sequences 3"):
        infill(oracle(), [MASK] * 4, strategy="threshold")
