"""Drafts of the decoder of one token for each call: the same tokens, in fewer calls."""

import itertools
from functools import cache

import pytest
import torch
from pvf_models import EOS, canvases, random_predictor

from modicum.pvf import TopK, generate, infill
from modicum.pvf.decoder import Decoder
from modicum.pvf.strategies.draft import DraftVerify
from modicum.pvf.testing import ledger


@cache
def decode(strategy, seed, scale, block_length, eos_early_stop=False, count=6):
    canvas, start, length = canvases(seed, count, 5, 20)
    decoder = Decoder(
        random_predictor(seed, scale),
        strategy,
        canvas,
        start,
        length,
        block_length,
        eos_early_stop=eos_early_stop,
        traced=True,
    )
    commits = [commit for step in decoder.steps() for commit in step]
    return decoder, commits


@pytest.mark.parametrize(
    ("rank", "drafts"),
    [*(("confidence", drafts) for drafts in (0, 1, 3, 9)), ("margin", 3), ("entropy", 3)],
)
def test_tokens_are_those_of_one_token_for_each_call(rank, drafts):
    saved = 0
    for seed, block, scale in itertools.product(range(2), (1, 7, 64), (2.0, 6.0)):
        fast, _ = decode(DraftVerify(drafts, rank), seed, scale, block)
        slow, _ = decode(TopK(rank=rank), seed, scale, block)
        assert torch.equal(fast.canvas, slow.canvas)
        for one, other in zip(fast.stats, slow.stats, strict=True):
            assert one.nfe <= other.nfe == 20 == one.tokens
            assert one.tokens == one.committed["H"] + one.committed["F"]
            assert one.committed["F"] == one.accepted_fill
            saved += other.nfe - one.nfe
    assert saved > 0 or not drafts


def test_the_order_of_commits_is_the_same_too():
    _, fast = decode(DraftVerify(3), 1, 6.0, 8, count=1)
    _, slow = decode(TopK(), 1, 6.0, 8, count=1)
    canvas, order = {}, []
    for commit in slow:
        canvas.update(zip(commit.positions, commit.tokens, strict=True))
        order.append(dict(canvas))
    canvas = {}
    for commit in fast:
        canvas.update(zip(commit.positions, commit.tokens, strict=True))
        assert canvas in order
    assert len(fast) < len(slow)


def test_answers_are_equal_up_to_the_end_token():
    ended = 0
    for seed in range(4):
        fast, _ = decode(DraftVerify(3), seed, 4.0, 8, eos_early_stop=True)
        slow, _ = decode(TopK(), seed, 4.0, 8, eos_early_stop=True)
        for one, other in zip(
            fast.canvas[:, 5:].tolist(), slow.canvas[:, 5:].tolist(), strict=True
        ):
            end = other.index(EOS) + 1 if EOS in other else len(other)
            ended += EOS in other
            assert one[:end] == other[:end]
    assert ended > 2


def test_more_drafts_need_no_more_calls_and_a_sure_model_needs_few():
    calls = {drafts: 0 for drafts in (0, 1, 3, 7)}
    for seed, drafts in itertools.product(range(2), calls):
        task = ledger(seed, 0.8)
        canvas = [[task.oracle.mask_id] * task.length]
        out = infill(task.oracle, canvas, strategy=DraftVerify(drafts), block_length=24)
        assert task.is_correct(out.sequences[0])
        calls[drafts] += out.stats[0].nfe
    assert calls[0] == 2 * 48
    assert calls[7] < calls[3] < calls[1] < calls[0]


def test_it_goes_by_its_name_and_refuses_bad_settings():
    out = generate(random_predictor(0), [[1, 2]], strategy="draft", gen_length=6, block_length=3)
    static = generate(random_predictor(0), [[1, 2]], strategy="topk", gen_length=6, block_length=3)
    assert torch.equal(out.generated, static.generated)
    assert DraftVerify(2, "margin").to_dict() == {
        "strategy": "draft",
        "num_drafts": 2,
        "rank": "margin",
    }
    with pytest.raises(ValueError, match="num_drafts must be an integer of at least 0, not -1"):
        DraftVerify(-1)
    with pytest.raises(ValueError, match="rank must be one of confidence, margin, entropy"):
        DraftVerify(rank="random")
