"""The controller's layers compute what they say, and its decisions are those of the algorithms."""

import math

import numpy as np
import pytest
import torch

from modicum.core.device import numpy_generator, one_thread, torch_generator
from modicum.testtime.construct.controller import (
    ArgmaxHead,
    ControllerHead,
    CountingHead,
    LookUp,
    Rounding,
    check_table_size,
    describe,
    order_gap,
    stand_in,
)
from modicum.testtime.construct.policies import (
    IndexPolicy,
    SoftmaxPolicy,
    as_policy,
    eliminate,
    exp3,
    hedge,
    round_robin,
    ucb1,
)
from modicum.testtime.construct.stream import TokenLayout, read_stream
from modicum.testtime.controllers.base import Controller
from modicum.testtime.controllers.eliminate import Eliminate
from modicum.testtime.controllers.exp3 import EXP3
from modicum.testtime.controllers.hedge import Hedge
from modicum.testtime.controllers.round_robin import RoundRobin
from modicum.testtime.controllers.thompson import Thompson
from modicum.testtime.controllers.ucb1 import UCB1

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _one_thread():
    # Networks this small lose more to waiting for threads than they gain from them.
    with one_thread():
        yield


def ucb1_choice(actions, rewards, num_experts):
    """UCB1 written down independently of the package."""
    t = len(actions)
    best, best_index = 0, -math.inf
    for arm in range(num_experts):
        seen = [r for a, r in zip(actions, rewards, strict=True) if a == arm]
        index = math.inf
        if seen:
            index = sum(seen) / len(seen) + math.sqrt(2 * math.log(t) / len(seen))
        if index > best_index:
            best, best_index = arm, index
    return best


def head(num_experts, turns, policy, dtype=torch.float32):
    built = ControllerHead(num_experts, turns, policy).to(dtype)
    built.set_policy(policy)
    return built


def streams(actions_GT, rewards_GT, num_experts, fill=()):
    """Streams of games without words (or with `fill` as prompt and every response)."""
    layout = TokenLayout((max([0, *fill]) + 1,) * num_experts)
    rows = []
    for actions, rewards in zip(actions_GT, rewards_GT, strict=True):
        ids = [layout.sink, *fill]
        for action, reward in zip(actions, rewards, strict=True):
            ids += [layout.action(int(action)), *fill, layout.feedback(int(reward))]
        rows.append(ids)
    return read_stream(layout, torch.tensor(rows)), 2 + len(fill)


def decisions(built, code, step):
    """Decisions after 0, 1, … turns, int ``[G, T + 1]``."""
    with torch.no_grad():
        logits_GTK = built.logits(built.counts(code)[:, step - 2 :: step])
    return logits_GTK.argmax(dim=-1).numpy()


def played(num_experts, turns, games, rng):
    """Games that UCB1 plays against experts of random quality."""
    actions_GT = np.zeros((games, turns), dtype=int)
    rewards_GT = np.zeros((games, turns), dtype=int)
    for game in range(games):
        quality_K = rng.random(num_experts)
        for turn in range(turns):
            choice = ucb1_choice(actions_GT[game, :turn], rewards_GT[game, :turn], num_experts)
            actions_GT[game, turn] = choice
            rewards_GT[game, turn] = rng.random() < quality_K[choice]
    return actions_GT, rewards_GT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_experts", "turns", "games"),
    [(4, 24, 100), (8, 32, 20), (2, 48, 15), (1, 6, 5), (3, 1, 4)],
)
def test_ucb1_decides_as_the_algorithm_in_every_game(num_experts, turns, games, dtype):
    rng = numpy_generator(0, "ucb1", num_experts, turns)
    actions_GT, rewards_GT = played(num_experts, turns, games, rng)
    code, step = streams(actions_GT, rewards_GT, num_experts)
    given = decisions(head(num_experts, turns, ucb1(), dtype), code, step)
    # The game's own actions are the algorithm's decisions before the last turn.
    assert np.array_equal(given[:, :turns], actions_GT)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ucb1_decides_as_the_algorithm_on_any_history(dtype):
    # Histories that UCB1 itself would not play reach all counts and many ties.
    num_experts, turns, games = 4, 24, 80
    rng = numpy_generator(1)
    weights = rng.dirichlet(np.full(num_experts, 0.5), size=games)
    actions_GT = np.stack([rng.choice(num_experts, size=turns, p=w) for w in weights])
    rewards_GT = rng.integers(0, 2, size=actions_GT.shape)
    code, step = streams(actions_GT, rewards_GT, num_experts)
    given = decisions(head(num_experts, turns, ucb1(), dtype), code, step)
    wanted = [
        [ucb1_choice(a[:t], r[:t], num_experts) for t in range(turns + 1)]
        for a, r in zip(actions_GT, rewards_GT, strict=True)
    ]
    assert np.array_equal(given, wanted)


@pytest.mark.parametrize("turns", [24, 48, 64])
def test_the_closest_pairs_of_indices_are_ordered_in_single_precision(turns):
    # Neighbours among all (n, S) that can occur at each turn: nothing is harder to tell apart.
    built = head(2, turns, ucb1())
    index_TT, bonus_TT = ucb1().tables(turns)
    pulls_Y, wins_Y = np.tril_indices(turns + 1)
    lost_by_a_plain_sum = 0
    for total in range(turns + 1):
        pulls, wins = (array[pulls_Y <= total] for array in (pulls_Y, wins_Y))
        values = index_TT[pulls, wins] + bonus_TT[total, pulls]
        order = np.argsort(values, kind="stable")
        low, high = order[:-1], order[1:]
        apart = values[low] < values[high]
        parts_YO = built.look_up_index.table_MO[pulls * (turns + 1) + wins]
        parts_YO = parts_YO + built.look_up_bonus.table_MO[total * (turns + 1) + pulls]
        for first, second, wanted in (
            (low, high, np.where(apart, 1, 0)),
            (high, low, np.zeros(len(low))),
        ):
            coarse, fine = (
                torch.stack([parts_YO[first, part], parts_YO[second, part]], dim=1)
                for part in (0, 1)
            )
            marked = built.argmax(coarse, fine)
            assert (marked.sum(dim=1) == 1).all()
            assert np.array_equal(marked.argmax(dim=1).numpy(), wanted)
        plain = index_TT.astype(np.float32)[pulls, wins] + bonus_TT.astype(np.float32)[total, pulls]
        lost_by_a_plain_sum += int((plain[low][apart] >= plain[high][apart]).sum())
    # What the two parts are for: one number in single precision confuses some of them.
    assert (lost_by_a_plain_sum > 0) == (turns > 24)


def test_ucb1_decides_as_the_package_s_own_controller():
    num_experts, turns, games = 5, 30, 30
    rng = numpy_generator(2)
    built = head(num_experts, turns, as_policy(UCB1(c=0.5)))
    actions_GT = np.zeros((games, turns), dtype=int)
    rewards_GT = np.zeros((games, turns), dtype=int)
    for game in range(games):
        outside = UCB1(c=0.5).start(num_experts, turns)
        for turn in range(turns):
            actions_GT[game, turn] = outside.choose()
            rewards_GT[game, turn] = rng.random() < 0.2 + 0.15 * actions_GT[game, turn]
            outside.observe(int(actions_GT[game, turn]), float(rewards_GT[game, turn]))
    code, step = streams(actions_GT, rewards_GT, num_experts)
    assert np.array_equal(decisions(built, code, step)[:, :turns], actions_GT)


def test_words_between_the_turns_change_nothing():
    rng = numpy_generator(3)
    actions_GT, rewards_GT = played(3, 9, 6, rng)
    built = head(3, 9, ucb1())
    without, step = streams(actions_GT, rewards_GT, 3)
    with_words, long_step = streams(actions_GT, rewards_GT, 3, fill=(0, 2, 1))
    assert long_step == 5
    with torch.no_grad():
        short = built(without)[:, ::step]
        # Tokens just before an action: the prompt's last word, then feedback.
        long = built(with_words)[:, 3::long_step]
    assert torch.equal(short, long)


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_index_policies_decide_by_their_tables(dtype):
    num_experts, turns, games = 3, 12, 30
    rng = numpy_generator(4)
    actions_GT = rng.integers(0, num_experts, size=(games, turns))
    rewards_GT = rng.integers(0, 2, size=actions_GT.shape)
    code, step = streams(actions_GT, rewards_GT, num_experts)
    noise = numpy_generator(5).normal(size=(turns + 1, turns + 1))

    def table(pulls, wins):
        return float(noise[pulls, wins])

    for policy in (
        as_policy(table),
        round_robin(),
        eliminate(),
        IndexPolicy("flat", lambda n, s: 0),
    ):
        given = decisions(head(num_experts, turns, policy, dtype), code, step)
        for game in range(games):
            for t in range(turns + 1):
                pulls = np.bincount(actions_GT[game, :t], minlength=num_experts)
                wins = np.bincount(
                    actions_GT[game, :t], weights=rewards_GT[game, :t], minlength=num_experts
                ).astype(int)
                index = [policy.table(n, s) for n, s in zip(pulls, wins, strict=True)]
                assert given[game, t] == int(np.argmax(index)), (policy.name, game, t)


def test_eliminate_is_the_package_s_own():
    # One right expert among four: the same order, and the right one is played on.
    for right in range(4):
        outside = Eliminate().start(4, 6)
        actions, rewards = [], []
        for _ in range(6):
            actions.append(outside.choose())
            rewards.append(int(actions[-1] == right))
            outside.observe(actions[-1], rewards[-1])
        code, step = streams([actions], [rewards], 4)
        built = head(4, 6, as_policy(Eliminate()))
        assert decisions(built, code, step)[0, :6].tolist() == actions


def test_random_ties_give_all_of_the_largest_the_same_logit():
    built = head(4, 5, as_policy(RoundRobin()))
    code, step = streams([[2, 0, 2]], [[0, 1, 0]], 4)
    with torch.no_grad():
        logits_TK = built(code)[0, ::step]
    wanted = [[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert torch.equal(logits_TK, 1000.0 * torch.tensor(wanted))


@pytest.mark.parametrize("estimator", ["plain", "reward", "loss"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_policies_give_exponential_weights(estimator, dtype):
    num_experts, turns, games = 4, 30, 10
    policy = SoftmaxPolicy("weights", 0.3, estimator)
    rng = numpy_generator(6)
    actions_GT = rng.integers(0, num_experts, size=(games, turns))
    reward_GT, probability_GT = rng.random((games, turns)), rng.uniform(0.05, 1, (games, turns))
    values_GT = np.vectorize(policy.value)(reward_GT, probability_GT)
    code, step = streams(actions_GT, np.zeros_like(actions_GT), num_experts)
    feedback_GN = torch.full((games, 1 + 2 * turns), math.nan, dtype=dtype)
    feedback_GN[:, 2::2] = torch.from_numpy(values_GT)
    with torch.no_grad():
        given = head(num_experts, turns, policy, dtype)(code, feedback_GN)[:, ::step].numpy()
    picked_GTK = actions_GT[..., None] == np.arange(num_experts)
    sums_GTK = np.cumsum(picked_GTK * values_GT[..., None], axis=1)
    scale = 0.3 * np.abs(values_GT).sum(axis=1).max()
    tolerance = (4e-6 if dtype == torch.float32 else 1e-10) * scale
    assert np.abs(given[:, 1:] - 0.3 * sums_GTK).max() <= tolerance
    assert np.abs(given[:, 0]).max() == 0


def test_hedge_and_exp3_have_the_rates_and_weights_of_the_package_s_controllers():
    num_experts, rounds = 3, 7
    rng = numpy_generator(7)
    reward_TK = rng.random((rounds, num_experts))
    outside = Hedge().start(num_experts, rounds)
    policy = as_policy(Hedge())
    built = head(num_experts, rounds * num_experts, policy, torch.float64)
    actions = np.tile(np.arange(num_experts), rounds)[None]
    code, _ = streams(actions, np.zeros_like(actions), num_experts)
    feedback = torch.zeros(1, 1 + 2 * actions.size, dtype=torch.float64)
    feedback[0, 2::2] = torch.from_numpy(reward_TK.ravel())
    with torch.no_grad():
        logits = built(code, feedback)[0, :: 2 * num_experts].log_softmax(dim=-1).numpy()
    for turn in range(rounds):
        np.testing.assert_allclose(logits[turn], outside.log_probs(), atol=1e-10)
        outside.observe_all(reward_TK[turn])

    for estimator in ("reward", "loss"):
        outside = EXP3(estimator=estimator).start(num_experts, rounds)
        policy = as_policy(EXP3(estimator=estimator))
        assert policy.rate(num_experts, rounds) == pytest.approx(outside.rate())
        built = head(num_experts, rounds, policy, torch.float64)
        actions, values = [], []
        for turn in range(rounds):
            action = int(rng.integers(num_experts))
            probability = float(np.exp(outside.log_probs()[action]))
            actions.append(action)
            values.append(policy.value(reward_TK[turn, action], probability))
            outside.observe(action, reward_TK[turn, action])
            code, _ = streams([actions], [[0] * len(actions)], num_experts)
            feedback = torch.zeros(1, 1 + 2 * len(actions), dtype=torch.float64)
            feedback[0, 2::2] = torch.tensor(values)
            with torch.no_grad():
                given = built(code, feedback)[0, -1].log_softmax(dim=-1).numpy()
            np.testing.assert_allclose(given, outside.log_probs(), atol=1e-9)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 3.3e-7)])
def test_counts_are_the_counts(dtype, error):
    rng = numpy_generator(8)
    num_experts, turns = 5, 200
    actions_GT = rng.integers(0, num_experts, size=(3, turns))
    rewards_GT = rng.integers(0, 2, size=actions_GT.shape)
    code, step = streams(actions_GT, rewards_GT, num_experts, fill=(0, 1))
    built = head(num_experts, turns, hedge(1.0), dtype)
    with torch.no_grad():
        given = built.counts(code)[:, 2::step].numpy()
    picked_GTK = actions_GT[..., None] == np.arange(num_experts)
    wanted = np.concatenate([picked_GTK, picked_GTK * rewards_GT[..., None]], axis=-1)
    assert np.abs(given[:, 1:] - wanted.cumsum(axis=1)).max() <= error
    assert np.abs(given[:, 0]).max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_exact_within_a_quarter(dtype):
    generator = torch_generator(0)
    whole = torch.arange(0, 60, dtype=dtype)[:, None]
    near = whole + 0.498 * (torch.rand(60, 200, generator=generator, dtype=dtype) - 0.5)
    assert torch.equal(Rounding(59).to(dtype)(near), whole.expand_as(near))


@pytest.mark.parametrize("dtype", DTYPES)
def test_look_up_returns_entries_to_the_last_bit(dtype):
    generator = torch_generator(1)
    size = 2500
    built = LookUp(size, 2).to(dtype)
    # Large entries beside small ones: a sum of steps would lose the small ones.
    table = torch.randn(size, 2, generator=generator, dtype=dtype) * 10.0 ** torch.randint(
        -12, 12, (size, 1), generator=generator
    )
    built.table_MO.copy_(table)
    order = torch.randperm(size, generator=generator).view(50, 50)
    assert torch.equal(built(order.to(dtype)), table[order])


def test_largest_is_marked_however_close_the_second():
    grid = 2.0**-17
    coarse = torch.tensor([[3.0, 3.0, 3.0 + grid, 0.0], [9.0, 9.0, 9.0, 9.0]])
    fine = torch.tensor([[1e-9, 2e-9, 0.0, 0.0], [0.0, 3e-10, 3e-10, -1e-9]])
    for ties, wanted in (
        ("lowest", [[0, 0, 1, 0], [0, 1, 0, 0]]),
        ("random", [[0, 0, 1, 0], [0, 1, 1, 0]]),
    ):
        built = ArgmaxHead(4, ties)
        built.delta.fill_(1e-10)
        assert built(coarse, fine).tolist() == wanted
    assert ArgmaxHead(1, "lowest")(torch.zeros(2, 1), torch.zeros(2, 1)).tolist() == [[1], [1]]


def test_counting_weights_are_those_of_softmax_attention():
    # Against the definition, token by token: sink above, feedback 0, others far below.
    counting = CountingHead(1).double()
    channels = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 9, 9], [0, 1, 1, 0.5], [0, 1, 1, 1]]]).double()
    given = counting(channels)
    scores = np.array([float(counting.key_I[0] + counting.key_bias), -60.0, 0.0, 0.0])
    for length in range(1, 5):
        weights = np.exp(scores[:length] - scores[0])
        values = weights @ channels[0, :length, 2:].numpy() / weights.sum() * np.exp(scores[0])
        np.testing.assert_allclose(given[0, length - 1], values, rtol=1e-6, atol=1e-6)


def test_order_gap_is_the_least_difference_at_one_turn():
    index, bonus = ucb1().tables(6)
    wanted = math.inf
    for total in range(7):
        values = [index[n, s] + bonus[total, n] for n in range(total + 1) for s in range(n + 1)]
        for a in values:
            wanted = min([wanted, *(a - b for b in values if a > b)])
    assert order_gap(index, bonus) == pytest.approx(wanted, rel=1e-9)
    assert order_gap(np.zeros((4, 4)), np.zeros((4, 4))) == math.inf


def test_tables_that_are_too_large_or_too_fine_are_refused():
    with pytest.raises(ValueError, match=r"turns=447 needs tables of 200,704 .*most 446"):
        check_table_size(447, torch.float32, 200_000)
    check_table_size(446, torch.float32, 200_000)
    with pytest.raises(ValueError, match=r"quarters torch.float32 does not have"):
        check_table_size(2047, torch.float32, 10**9)
    check_table_size(2047, torch.float64, 10**9)
    fine = IndexPolicy("fine", lambda n, s: 1 + 5e-13 * s)
    with pytest.raises(ValueError, match=r"differ by 5e-13.*float32.*dtype=torch.float64"):
        head(2, 4, fine)
    head(2, 4, fine, torch.float64)
    with pytest.raises(ValueError, match="round the table"):
        head(2, 4, IndexPolicy("noisy", lambda n, s: 0.1 * 3 if s else 0.3), torch.float64)
    with pytest.raises(ValueError, match=r"table\(0, 0\) is inf"):
        head(2, 4, IndexPolicy("infinite", lambda n, s: math.inf if n == 0 else 0.0))


def test_policies_by_name_object_and_table():
    assert as_policy("round_robin").name == as_policy("round-robin").name == "round-robin"
    assert as_policy(ucb1(3.0)).name == "ucb1"
    assert as_policy(Hedge(eta=0.2)).eta == 0.2
    assert as_policy("exp3") == as_policy(EXP3()) == exp3(None, "loss")
    assert as_policy(EXP3(estimator="reward")).estimator == "reward"
    for policy in (ucb1(), round_robin("random"), hedge(0.1), exp3(None, "loss")):
        again = stand_in(describe(policy))
        assert describe(again) == describe(policy)
    with pytest.raises(RuntimeError, match="in the weights"):
        stand_in(describe(ucb1())).table(1, 0)
    for wrong, error, message in (
        ("thompson", ValueError, "one of ucb1"),
        (3, TypeError, "table"),
        (UCB1(reset="session"), ValueError, "remembers earlier prompts"),
        (Thompson(reset="query"), ValueError, "neither an index policy"),
        (Hedge(play="argmax"), ValueError, "neither an index policy"),
        (Eliminate(order="random"), ValueError, "neither an index policy"),
    ):
        with pytest.raises(error, match=message):
            as_policy(wrong)
    assert isinstance(UCB1(), Controller)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ucb1(-1), "c must be"),
        (lambda: hedge(-1.0), "eta must be"),
        (lambda: exp3(None, "gain"), "estimator must be"),
        (lambda: IndexPolicy("x", lambda n, s: 0, ties="first"), "ties must be"),
    ],
)
def test_bad_policies_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
