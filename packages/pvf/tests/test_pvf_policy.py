"""Numbers of drafts that are chosen while decoding: what is decoded, and what it takes."""

import math
import random
from dataclasses import dataclass, field

import pytest
import torch
from pvf_clock import LedgerTasks, in_rows
from pvf_models import canvases, random_predictor

from modicum.pvf.decoder import Decoder
from modicum.pvf.generation import generate
from modicum.pvf.policy import AutoPVF, Policy
from modicum.pvf.strategies.one_row import Threshold
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.strategies.registry import as_strategy

SETTINGS = {"threshold": 0.6, "plan_low": 0.15, "plan_high": 0.5, "plan_vocab": range(0, 30)}


def decode(strategy, seed=0, block_length=8):
    canvas, start, length = canvases(seed, 4, 5, 32)
    decoder = Decoder(random_predictor(seed), strategy, canvas, start, length, block_length)
    decoder.run()
    return canvas.tolist(), [(stats.nfe, stats.rows) for stats in decoder.stats]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("drafts", [0, 1, 2, 4])
def test_with_one_option_it_is_plan_verify_fill_or_threshold_decoding(seed, drafts):
    auto = AutoPVF(num_drafts=max(drafts, 1), options=(drafts,), unlock_threshold=3, **SETTINGS)
    alone = PVF(num_drafts=drafts, unlock_threshold=3, **SETTINGS)
    if not drafts:
        alone = Threshold(0.6, unlock_threshold=3)
    assert decode(auto, seed) == decode(alone, seed)


def test_it_has_a_name_and_says_what_is_wrong():
    assert isinstance(as_strategy("auto", num_drafts=2), AutoPVF)
    assert as_strategy("auto", num_drafts=2).options == (0, 1, 2)
    with pytest.raises(ValueError, match="options must be numbers of drafts up to num_drafts=3"):
        AutoPVF(options=(0, 4))
    with pytest.raises(ValueError, match="exploration must be"):
        AutoPVF(exploration=1.5)


def test_what_is_learnt_stays_with_the_strategy():
    auto = AutoPVF(**SETTINGS)
    decode(auto)
    calls = auto.policy.calls
    decode(auto.bind(random_predictor(0)), seed=1)
    assert auto.policy.calls > calls > 0
    assert AutoPVF(**SETTINGS).policy.calls == 0
    assert torch.isfinite(torch.tensor(auto.policy.seconds))


class InTurn(Policy):
    """A policy that gives sequences their numbers of drafts in turn, whatever they take."""

    def probe(self, live, length):
        return None

    def choose(self, live, length):
        self.calls_of_choose = getattr(self, "calls_of_choose", 0) + 1
        return self.options[(self.calls_of_choose - 1) % len(self.options)]


@pytest.mark.parametrize("options", [(0, 1, 3), (1, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_sequences_of_a_batch_may_have_different_numbers_of_drafts(options, seed):
    auto = AutoPVF(options=options, **SETTINGS)
    object.__setattr__(auto, "policy", InTurn(options))
    # In a single block every sequence keeps what it was given.
    tokens, counts = decode(auto, seed, block_length=32)
    alone = [
        decode(PVF(num_drafts=drafts, **SETTINGS), seed, block_length=32) for drafts in options
    ]
    for number in range(4):
        expected_tokens, expected_counts = alone[number % len(options)]
        assert tokens[number] == expected_tokens[number]
        assert counts[number] == expected_counts[number]


def calls_with(policy, rows_and_seconds, length=10):
    """Tell a policy of calls of one sequence, each with a number of rows."""
    for rows, seconds in rows_and_seconds:
        policy.observe([rows - 1], [rows * length], [1], seconds, length, [False])


def test_what_cannot_pay_by_what_fewer_rows_take_is_not_measured():
    policy = Policy((0, 1, 3))
    calls_with(policy, [(1, 1.0)])
    assert policy.probe(1, 10) == 1
    # Four rows take four seconds at least, and would have to bring four times as much.
    calls_with(policy, [(2, 2.0)])
    assert policy.probe(1, 10) is None
    policy = Policy((0, 1, 3))
    calls_with(policy, [(1, 1.0), (2, 1.2)])
    assert policy.probe(1, 10) == 3


def test_a_first_call_that_takes_oddly_long_is_measured_again():
    policy = Policy((0, 1))
    calls_with(policy, [(1, 1.0), (2, 50.0)])
    assert policy.probe(1, 10) == 1
    calls_with(policy, [(2, 1.0)])
    assert policy.best(1, 10) == 1


TASKS = LedgerTasks(16)
OPTIONS = (0, 1, 3)
LAWS = in_rows(TASKS.columns)


@dataclass(frozen=True)
class Recorded(PVF):
    """Plan-verify-fill that keeps columns and tokens of every step."""

    steps: list = field(default_factory=list, compare=False)

    def observe(self, memory, evaluations, tokens, seconds):
        self.steps.append((evaluations[0], tokens[0]))


def recorded_steps(drafts):
    """Give by task the steps of its decoding: columns processed, tokens committed."""
    found = []
    for prompt in TASKS.prompts:
        strategy = Recorded(num_drafts=drafts, **TASKS.settings)
        generate(
            TASKS.predictor(LAWS["flat"]), prompt, strategy=strategy, gen_length=48, block_length=48
        )
        found.append(strategy.steps)
    return found


@pytest.fixture(scope="module")
def steps():
    return {drafts: recorded_steps(drafts) for drafts in OPTIONS}


def changing(before, after, at=500):
    return lambda size, call: (before if call < at else after)(size, call)


def unmoved(draw):
    return 1.0


def noisy(draw):
    return math.exp(0.3 * draw.gauss(0, 1))


def sometimes_ten_times(draw):
    return 10.0 if draw.random() < 0.02 else 1.0


def slow(size, call):
    return 3.0


GRID = {
    **{name: (law, unmoved) for name, law in LAWS.items()},
    "flat, noisy": (LAWS["flat"], noisy),
    "linear, noisy": (LAWS["linear"], noisy),
    "ridge at 2 rows, noisy": (LAWS["ridge at 2 rows"], noisy),
    "ridge at 2 rows, with outliers": (LAWS["ridge at 2 rows"], sometimes_ten_times),
    "flat, then linear": (changing(LAWS["flat"], LAWS["linear"]), unmoved),
    "linear, then flat": (changing(LAWS["linear"], LAWS["flat"]), unmoved),
    "flat, then three times as slow": (changing(LAWS["flat"], slow), unmoved),
    "slow, then three times as fast": (changing(slow, LAWS["flat"]), unmoved),
    "linear, then flat, noisy": (changing(LAWS["linear"], LAWS["flat"]), noisy),
}


class Replay:
    """A policy on recorded decodings; where it changes, the other one goes on from as many tokens.

    Tasks are drawn one after the other. ``seconds`` is what the policy's calls take by the law,
    ``fixed`` what the same tasks take with each number of drafts throughout. The policy is told
    seconds with noise, which has nothing to do with what it chooses and is not counted.
    """

    def __init__(self, steps, law, noise, seed):
        self.steps, self.law, self.noise = steps, law, noise
        self.tasks, self.draw = random.Random(seed), random.Random(1000 + seed)
        self.policy = Policy(OPTIONS, seed=seed)
        self.calls, self.seconds, self.fixed = 0, 0.0, dict.fromkeys(OPTIONS, 0.0)

    def until(self, calls):
        """Decode tasks until so many calls are made; give the time lost against the best."""
        while self.calls < calls:
            self.decode(self.tasks.randrange(len(TASKS.prompts)))
        return self.seconds / min(self.fixed.values()) - 1

    def decode(self, task):
        for drafts, traces in self.steps.items():
            sizes = [size for size, _ in traces[task] if size]
            self.fixed[drafts] += sum(self.law(size, self.calls) for size in sizes)
        self.step(None, *self.steps[0][task][0], False)
        chosen, done = self.policy.choose(1, TASKS.columns), 0
        while done < TASKS.length:
            probed = self.policy.probe(1, TASKS.columns)
            best = self.policy.best(1, TASKS.columns) if chosen is None else chosen
            option = best if probed is None else probed
            size, stands = self.next_step(option, task, done)
            counts = chosen is not None and probed is None
            self.step(option, size, stands - done, counts)
            done = stands

    def next_step(self, option, task, done):
        """Give columns of the first step after so many tokens, and the tokens that then stand."""
        stands = 0
        for size, tokens in self.steps[option][task][1:]:
            stands += tokens
            if stands > done:
                return size, stands
        raise AssertionError("the recorded decoding has fewer tokens")

    def step(self, option, size, tokens, counts):
        seconds = self.law(size, self.calls) if size else 0.0
        self.calls += size > 0
        self.seconds += seconds
        told = seconds * self.noise(self.draw)
        self.policy.observe([option], [size], [tokens], told, TASKS.columns, [counts])


@pytest.mark.parametrize("name", GRID)
def test_it_is_never_much_slower_than_the_best_number_of_drafts(name, steps):
    law, noise = GRID[name]
    # Calls that vary by 30 % say less of what they take on average.
    most = 0.08 if noise is noisy else 0.05
    for seed in range(2):
        replay = Replay(steps, law, noise, seed)
        # Everything counts, the first calls and all that was tried.
        if noise is not noisy:
            assert replay.until(100) <= 0.08
        replay.until(500)
        before = dict(replay.fixed)
        assert replay.until(1000) <= most
        assert replay.until(2000) <= most
        # Where costs change, nothing fixed is as fast as the best before with the best after.
        after = {drafts: replay.fixed[drafts] - before[drafts] for drafts in OPTIONS}
        assert replay.seconds <= 1.13 * (min(before.values()) + min(after.values()))


def seconds_of(strategy, prompts, law, batch_size):
    """Give the time of a decoding by the model's clock, by what its calls process."""
    model = TASKS.predictor(LAWS[law])
    shape = {"gen_length": TASKS.length, "block_length": TASKS.length, "batch_size": batch_size}
    generate(model, prompts, strategy=strategy, **shape)
    return model.now


@pytest.mark.parametrize("law", ["linear", "flat"])
def test_decoding_takes_hardly_longer_than_with_the_best_strategy(law, steps):
    drawn = random.Random(0).choices(range(len(TASKS.prompts)), k=10)
    taken = {
        drafts: sum(LAWS[law](size, 0) for task in drawn for size, _ in traces[task] if size)
        for drafts, traces in steps.items()
    }
    auto = AutoPVF(**TASKS.settings)
    assert seconds_of(auto, [TASKS.prompts[task] for task in drawn], law, 1) <= (
        1.05 * min(taken.values())
    )
    # The wrong one would have taken a good deal longer.
    assert max(taken.values()) > 1.5 * min(taken.values())


def test_decoding_in_batches_takes_hardly_longer_either():
    prompts = random.Random(0).choices(TASKS.prompts, k=16)
    taken = [
        seconds_of(strategy, prompts, "affine", 4)
        for strategy in (AutoPVF(**TASKS.settings), Threshold(), PVF(**TASKS.settings))
    ]
    assert taken[0] <= 1.05 * min(taken[1:])
