"""The batched decoder against loops written from the equations, and its own accounting."""

import itertools

import pytest
import torch
from pvf_models import EOS, MASK, canvases, random_logits, random_predictor
from pvf_reference import reference_decode

from modicum.pvf.decoder import Decoder
from modicum.pvf.strategies.one_row import Threshold
from modicum.pvf.strategies.plan_verify_fill import PVF

SETTINGS = [
    {"threshold": 0.6, "plan_low": 0.15, "plan_high": 0.5, "fill_threshold": 0.1},
    {"threshold": 0.8, "plan_low": 0.3, "plan_high": 0.8, "fill_threshold": 0.4},
    {"threshold": 0.5, "plan_low": 0.0, "plan_high": 0.3, "fill_threshold": 0.6},
]


def decode(predictor, strategy, canvas, start, length, block_length, **options):
    decoder = Decoder(predictor, strategy, canvas, start, length, block_length, **options)
    decoder.run()
    return decoder


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("block_length", "unlock"), [(8, 0), (8, 3), (7, 0), (7, 8), (64, 2)])
@pytest.mark.parametrize(("drafts", "scale"), [(3, 3.0), (1, 2.0), (5, 5.0)])
def test_equals_loops_written_from_the_equations(settings, block_length, unlock, drafts, scale):
    routes = set()
    for seed in range(3):
        predictor = random_predictor(seed, scale)
        canvas, start, length = canvases(seed, 4, 5, 24)
        before = canvas.tolist()
        strategy = PVF(
            **settings, num_drafts=drafts, unlock_threshold=unlock, plan_vocab=range(0, MASK, 2)
        )
        decoder = decode(
            predictor, strategy, canvas, start, length, block_length, eos_early_stop=False
        )
        for number in range(4):
            tokens, calls, rows, reasons = reference_decode(
                random_logits(seed, scale),
                before[number],
                5,
                24,
                MASK,
                block_length=block_length,
                num_drafts=drafts,
                unlock_threshold=unlock,
                plan_ids=set(range(0, MASK, 2)),
                **settings,
            )
            stats = decoder.stats[number]
            assert decoder.canvas[number].tolist() == tokens
            assert (stats.nfe, stats.rows) == (calls, rows)
            letters = list(reasons.values())
            assert stats.committed == {letter: letters.count(letter) for letter in "HPFX"}
            routes |= {letter for letter in "HPFX" if letter in letters}
    assert {"H", "F"} <= routes or {"X"} <= routes


@pytest.mark.parametrize("seed", range(4))
def test_without_drafts_it_is_threshold_decoding(seed):
    outcomes = []
    for strategy in (
        Threshold(0.6),
        PVF(threshold=0.6, plan_high=0.6, num_drafts=0, unlock_threshold=0),
        PVF(
            threshold=0.6,
            plan_high=0.6,
            fill_threshold=1.5,
            unlock_threshold=0,
            plan_vocab=None,
        ),
    ):
        canvas, start, length = canvases(seed, 3, 4, 20)
        decoder = decode(random_predictor(seed), strategy, canvas, start, length, 8)
        outcomes.append((decoder.canvas.tolist(), [stats.nfe for stats in decoder.stats]))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_there_may_be_more_drafts_than_columns():
    outcomes = []
    for drafts in (5, 20):
        canvas, start, length = canvases(1, 3, 4, 5)
        strategy = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(20), num_drafts=drafts)
        decoder = decode(random_predictor(1), strategy, canvas, start, length, 5)
        outcomes.append((decoder.canvas.tolist(), [stats.rows for stats in decoder.stats]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("deterministic", [False, True])
def test_batch_equals_one_by_one(deterministic):
    strategy = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(20))
    canvas, start, length = canvases(3, 6, 4, 24)
    # Spans of different lengths and starts in one batch.
    length = torch.tensor([24, 20, 11, 24, 3, 17])
    start = torch.tensor([4, 5, 9, 4, 12, 6])
    alone = []
    for number in range(6):
        one = canvas[number : number + 1].clone()
        one[:, : start[number]] = one[:, : start[number]].clamp(max=MASK - 1)
        decoder = decode(
            random_predictor(3),
            strategy,
            one,
            start[number : number + 1],
            length[number : number + 1],
            8,
        )
        alone.append((decoder.canvas[0].tolist(), decoder.stats[0].nfe, decoder.stats[0].rows))
    for number in range(6):
        canvas[number, : start[number]] = canvas[number, : start[number]].clamp(max=MASK - 1)
    decoder = decode(
        random_predictor(3), strategy, canvas, start, length, 8, deterministic=deterministic
    )
    together = [
        (row, stats.nfe, stats.rows)
        for row, stats in zip(decoder.canvas.tolist(), decoder.stats, strict=True)
    ]
    assert together == alone


def test_accounts_of_calls_and_tokens_add_up():
    for seed, unlock in itertools.product(range(5), (0, 4)):
        canvas, start, length = canvases(seed, 4, 4, 30)
        strategy = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(25), unlock_threshold=unlock)
        decoder = decode(
            random_predictor(seed), strategy, canvas, start, length, 8, eos_early_stop=False
        )
        for stats in decoder.stats:
            assert stats.nfe == stats.nfe_cold + stats.nfe_plan + stats.nfe_fill
            assert stats.tokens == 30 == sum(stats.committed.values())
            assert stats.committed["P"] == stats.nfe_plan - stats.nfe_plan_failed
            assert stats.committed["F"] == stats.accepted_fill
            assert stats.rows <= 4 * stats.nfe
            assert stats.token_evals == 34 * stats.rows
            assert 4 * (unlock == 0) <= stats.nfe <= 90


def test_an_end_token_with_nothing_open_before_it_ends_a_sequence():
    ended = 0
    for seed, stop in itertools.product(range(8), (True, False)):
        canvas, start, length = canvases(seed, 4, 4, 30)
        decoder = decode(
            random_predictor(seed), Threshold(0.4), canvas, start, length, 8, eos_early_stop=stop
        )
        for row, stats in zip(decoder.canvas[:, 4:].tolist(), decoder.stats, strict=True):
            assert MASK not in row
            assert (stats.nfe_to_eos is None) == (EOS not in row)
            assert stats.tokens == 30 or (stop and EOS in row[: stats.tokens])
            if stop and stats.nfe_to_eos is not None:
                ended += stats.tokens < 30
                assert stats.nfe == stats.nfe_to_eos
    assert ended > 4


def test_trace_gives_the_canvas_back():
    canvas, start, length = canvases(5, 3, 4, 24)
    before = canvas.clone()
    strategy = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(20))
    decoder = Decoder(random_predictor(5), strategy, canvas, start, length, 8, traced=True)
    commits = [commit for step in decoder.steps() for commit in step]
    for commit in commits:
        assert (before[commit.sequence, list(commit.positions)] == MASK).all()
        before[commit.sequence, list(commit.positions)] = torch.tensor(
            commit.tokens, dtype=torch.int64
        )
        assert len(commit.reasons) == len(commit.tokens) == len(commit.confidences)
    assert torch.equal(before, decoder.canvas)
    assert any(commit.rejected for commit in commits)


def test_logits_that_are_no_numbers_are_refused():
    predictor = random_predictor(0)
    finite = predictor.function
    predictor.function = lambda ids: finite(ids) * float("nan")
    canvas, start, length = canvases(0, 1, 2, 4)
    with pytest.raises(ValueError, match="NaN"):
        decode(predictor, Threshold(), canvas, start, length, 4)
    predictor.function = lambda ids: finite(ids)[:, :-1]
    canvas, start, length = canvases(0, 1, 2, 4)
    with pytest.raises(ValueError, match="shape"):
        decode(predictor, Threshold(), canvas, start, length, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": 0}, "block_length must be an integer of at least 1, not 0"),
        ({"canvas": torch.tensor([1, MASK])}, r"canvas must have shape \(N, L\), N >= 1, not"),
        ({"start": torch.tensor([1])}, r"start must have shape \(2,\), not \(1,\)"),
        ({"length": torch.tensor([3, 4])}, r"spans of 4 columns, .* not \[1, 1\] and \[3, 4\]"),
        ({"length": torch.tensor([3, 0])}, "at least one each"),
    ],
)
def test_spans_that_are_none_are_refused(changes, message):
    given = {
        "canvas": torch.full((2, 4), MASK),
        "start": torch.tensor([1, 1]),
        "length": torch.tensor([3, 3]),
        "block_length": 2,
    }
    with pytest.raises(ValueError, match=message):
        decode(random_predictor(0), Threshold(), **{**given, **changes})
