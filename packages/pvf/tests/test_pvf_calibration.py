"""Calibrated planning vocabularies: what is counted, what is kept, files and resumption."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pvf_models import MASK, random_predictor
from scipy.stats import binomtest

from modicum.pvf import PVF, PlanVocabulary, Threshold, generate
from modicum.pvf.calibration import (
    PlanCalibration,
    TokenTrials,
    calibrate_plan_vocab,
    wilson_lower,
)
from modicum.pvf.testing import LEDGER_VOCABULARY, PromptedOracle, ledger
from modicum.pvf.tiny import TinyConfig, TinyMDLM

SHAPE = {"gen_length": 14, "block_length": 6}
BAND = PVF(threshold=0.35, plan_low=0.1, plan_high=0.3, unlock_threshold=0)


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0.5, 0.999))
def test_the_lower_end_is_that_of_scipy(count, share, level):
    passed = round(share * count)
    expected = binomtest(passed, count).proportion_ci(level, "wilson").low
    assert wilson_lower(passed, count, level) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(1, 1000), st.floats(0, 1))
def test_the_lower_end_lies_below_the_share_and_rises(count, share):
    passed = round(share * count)
    low = wilson_lower(passed, count)
    assert 0 <= low <= passed / count
    assert wilson_lower(2 * passed, 2 * count) >= low - 1e-15
    if passed < count:
        assert wilson_lower(passed + 1, count) > low


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 0), "count must be"), ((3, 2), r"passed must be in \[0, 2\], not 3"), ((-1, 2), "-1")],
)
def test_counts_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wilson_lower(*arguments)
    with pytest.raises(ValueError, match="level must be"):
        wilson_lower(1, 2, 1.0)


def by_hand(model, prompt, gen_length, block_length, strategy):
    """Decode one prompt by threshold and try every candidate, straight from the equations."""
    y = torch.tensor([*prompt, *[MASK] * gen_length])
    trials, start = {}, len(prompt)

    def look(canvas):
        logits = model.forward(canvas[None], None, torch.arange(len(canvas))[None])[0].float()
        logits[:, MASK] = -torch.inf
        confidence, token = logits.softmax(-1).max(-1)
        return token, confidence

    while (y == MASK).any():
        first = int((y == MASK).nonzero()[0]) - start
        begin = start + first // block_length * block_length
        window = range(begin, min(begin + block_length, len(y)))
        open_ = [i for i in window if y[i] == MASK]
        x, c = look(y)
        base = [i for i in open_ if c[i] >= strategy.threshold]
        z = y.clone()
        z[base] = x[base]
        rest = [i for i in open_ if i not in base]
        x0, c0 = look(z)
        impact = [i for i in rest if c0[i] >= strategy.threshold]
        for j in rest:
            if not strategy.plan_low <= c[j] < strategy.plan_high:
                continue
            row = z.clone()
            row[j] = x[j]
            xj, cj = look(row)
            said = {i: x[j] if i == j else xj[i] for i in impact}
            found = trials.setdefault(int(x[j]), [0, 0, 0.0])
            found[0] += 1
            found[1] += all(said[i] == x0[i] for i in impact)
            found[2] += sum(float(cj[i]) - float(c0[i]) for i in rest if i != j)
        y = z
        if not base:
            best = max(open_, key=lambda i: (float(c[i]), -i))
            y[best] = x[best]
    return trials


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
@example(11)
@example(13)
def test_what_is_counted_is_what_the_equations_say(seed):
    model = random_predictor(seed, eos=None)
    prompts = [[3, 1, 4], [1, 5, 9]]
    found = calibrate_plan_vocab(model, prompts, strategy=BAND, **SHAPE)
    expected = {}
    for prompt in prompts:
        for token, trials in by_hand(model, prompt, **SHAPE, strategy=BAND).items():
            before = expected.get(token, [0, 0, 0.0])
            expected[token] = [a + b for a, b in zip(before, trials, strict=True)]
    assert set(found.trials) == set(expected)
    for token, (count, passed, gain) in expected.items():
        trials = found.trials[token]
        assert (trials.count, trials.passed) == (count, passed)
        assert trials.gain == pytest.approx(gain, abs=1e-5)


@pytest.mark.parametrize("unlock_threshold", [0, 3])
def test_prompts_of_a_batch_do_not_change_what_is_counted(unlock_threshold):
    prompts = [[number, 1, 4] for number in range(1, 8)]
    strategy = replace(BAND, unlock_threshold=unlock_threshold)
    count = passed = 0
    for seed in (11, 13):
        alone, together = (
            calibrate_plan_vocab(
                random_predictor(seed), prompts, strategy=strategy, batch_size=size, **SHAPE
            )
            for size in (1, 7)
        )
        counts = {token: (item.count, item.passed) for token, item in alone.trials.items()}
        assert counts == {t: (item.count, item.passed) for t, item in together.trials.items()}
        count += sum(item.count for item in alone.trials.values())
        passed += sum(item.passed for item in alone.trials.values())
    assert 100 < passed < count


LEDGER = {"gen_length": 48, "block_length": 24}


def asked(seeds, right):
    tasks = list({task.prompt: task for task in (ledger(seed, right) for seed in seeds)}.values())
    model = PromptedOracle({task.prompt: task.oracle for task in tasks})
    return tasks, model, [list(task.prompt) for task in tasks]


def test_the_words_that_shape_a_ledger_come_first_and_make_plans_cheap():
    _, model, prompts = asked(range(12), 0.8)
    kept_apart = PVF(unlock_threshold=0)
    found = calibrate_plan_vocab(model, prompts, strategy=kept_apart, batch_size=12, **LEDGER)
    # Styles are equally likely and ties go to the lowest id: words of the first one are predicted.
    words = PlanVocabulary(range(13, 18)).ids
    vocabulary = found.vocabulary(max_size=len(words))
    assert vocabulary.ids == words
    assert set(words) <= set(found.vocabulary().ids)
    tasks, model, prompts = asked(range(100, 108), 0.8)

    def play(plan_vocab):
        strategy = PVF(unlock_threshold=0, plan_vocab=plan_vocab, routes=("plan",))
        out = generate(model, prompts, strategy=strategy, batch_size=12, **LEDGER)
        right = [
            task.is_correct(row[len(task.prompt) : len(task.prompt) + 48])
            for task, row in zip(tasks, out.sequences, strict=True)
        ]
        return sum(stats.nfe for stats in out.stats), sum(right)

    calls, right = play(vocabulary)
    backbone = generate(model, prompts, strategy=Threshold(), batch_size=12, **LEDGER)
    assert right == len(tasks)
    assert calls < 0.8 * sum(stats.nfe for stats in backbone.stats)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        order = torch.randperm(LEDGER_VOCABULARY - 1, generator=generator) + 1
        random = tuple(order[: len(words)].tolist())
        assert calls <= play(random)[0]


def test_content_is_no_planning_token_by_default():
    _, model, prompts = asked(range(12), 0.6)
    strategy = PVF(unlock_threshold=0)
    found = calibrate_plan_vocab(model, prompts, strategy=strategy, batch_size=12, **LEDGER)
    tasks, model, prompts = asked(range(100, 120), 0.6)
    assert not set(tasks[0].digit_ids) & set(found.vocabulary().ids)
    assert set(tasks[0].digit_ids) & set(found.vocabulary(min_share=0.0).ids)

    def right(vocabulary):
        given = replace(strategy, plan_vocab=vocabulary)
        out = generate(model, prompts, strategy=given, batch_size=20, **LEDGER)
        return sum(
            task.is_correct(row[len(task.prompt) : len(task.prompt) + 48])
            for task, row in zip(tasks, out.sequences, strict=True)
        )

    assert right(found.vocabulary()) == len(tasks)
    assert right(found.vocabulary(min_share=0.0)) < len(tasks) / 2


def test_a_measurement_that_was_cut_off_goes_on(tmp_path):
    model = random_predictor(3)
    prompts = [[number, 1, 4] for number in range(1, 8)]
    options = {"strategy": BAND, "batch_size": 3, **SHAPE}
    whole = calibrate_plan_vocab(model, prompts, **options)
    assert whole.is_complete and whole.done == 7
    out = tmp_path / "folder" / "plan.json"

    def stop(found):
        if found.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_plan_vocab(model, prompts, out=out, on_batch=stop, **options)
    cut = PlanCalibration.load(out)
    assert (cut.done, cut.prompts, cut.is_complete) == (6, 7, False)
    batches = []
    gone_on = calibrate_plan_vocab(
        model, prompts, out=out, on_batch=lambda found: batches.append(found.done), **options
    )
    assert batches == [7]
    assert gone_on == whole == PlanCalibration.load(out)
    # A whole measurement is not made again.
    assert calibrate_plan_vocab(model, prompts, out=out, on_batch=stop, **options) == whole
    # Other rules are kept and ask for no measurement.
    shorter = calibrate_plan_vocab(
        model, prompts, out=out, on_batch=stop, min_count=1, max_size=2, **options
    )
    assert shorter.trials == whole.trials
    assert PlanCalibration.load(out).vocabulary() == whole.vocabulary(min_count=1, max_size=2)
    for changed, message in (
        ({"gen_length": 13}, "config.gen_length is 14, not 13"),
        ({"strategy": PVF(unlock_threshold=0)}, "config.plan_high is 0.3, not 0.65"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate_plan_vocab(model, prompts, out=out, **{**options, **changed})
    with pytest.raises(ValueError, match=r"provenance\.prompts is"):
        calibrate_plan_vocab(model, prompts[1:], out=out, **options)


def calibration(**trials):
    found = {int(name[1:]): TokenTrials(*value) for name, value in trials.items()}
    return PlanCalibration(found, {}, {}, 1, 1)


def test_tokens_are_kept_by_count_and_utility():
    found = calibration(
        t5=(100, 100, 300.0), t6=(100, 50, 300.0), t7=(7, 7, 70.0), t8=(100, 100, -1.0),
        t9=(8, 8, 8.0), t4=(100, 100, 300.0),
    )  # fmt: skip
    utility = found.trials[5].utility
    assert utility == pytest.approx(3 * wilson_lower(100, 100))
    assert found.vocabulary().ids == (4, 5)
    least = (found.trials[6].utility - 1e-9) / utility
    assert found.vocabulary(min_share=least).ids == (4, 5, 6)
    assert found.vocabulary(min_share=1.0).ids == (4, 5)
    # A token with few trials sets no measure for the others.
    assert found.vocabulary(min_count=7).ids == (7,)
    found.rules["min_share"] = 0.0
    assert found.vocabulary().ids == (4, 5, 6, 9)
    assert found.vocabulary(min_count=7).ids == (4, 5, 6, 7, 9)
    assert found.vocabulary(min_utility=utility).ids == (4, 5)
    assert found.vocabulary(max_size=1).ids == (4,)
    assert found.vocabulary(exclude=[4, 9]).ids == (5, 6)
    assert found.vocabulary().name == "calibrated"
    assert PVF(plan_vocab=found.vocabulary()).plan_vocab.ids == (4, 5, 6, 9)
    for options, message in (
        ({"min_count": 0}, "min_count must be"),
        ({"max_size": 0}, "max_size must be"),
        ({"min_utility": -1.0}, "min_utility must not be negative, not -1.0"),
        ({"min_share": 1.5}, r"min_share must be a number in \[0, 1\], not 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            found.vocabulary(**options)


def test_another_models_vocabulary_is_refused():
    tiny = TinyMDLM(TinyConfig(layers=1, width=16, heads=2, inner=16))
    prompt = "a 3 , k 7 , m 1 , t 5 ,"
    found = calibrate_plan_vocab(tiny, prompt, gen_length=32, block_length=16)
    assert found.provenance["model"]["tokenizer"] is not None
    found.vocabulary(model=tiny)
    other = SimpleNamespace(vocab_size=tiny.vocab_size, mask_id=tiny.mask_id)
    with pytest.raises(ValueError, match=r"provenance\.model\.tokenizer is '.*', not None"):
        found.vocabulary(model=other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is not a calibration"),
        ("[]", "is not a calibration of format 1: None"),
        (json.dumps({"format": 2}), "of format 1: 2"),
        (json.dumps({"format": 1}), "trials"),
        (
            json.dumps(
                {
                    "format": 1,
                    "trials": {"3": {"count": 1, "passed": 2, "gain": 0.0}},
                    "config": {},
                    "provenance": {},
                    "prompts": 1,
                    "done": 1,
                    "rules": {},
                }
            ),
            "passed must be at most 1, not 2",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        PlanCalibration.load(path)
    assert str(path) in str(caught.value)
