"""The loop: the network plays Algorithm 1 by itself, as the algorithms outside of it would."""

import math

import numpy as np
import pytest
import torch

from modicum.core.device import numpy_generator, one_thread, torch_generator
from modicum.testtime.construct import Trajectory, Turn, glue
from modicum.testtime.construct.run import choose
from modicum.testtime.controllers.exp3 import EXP3
from modicum.testtime.controllers.hedge import Hedge
from modicum.testtime.controllers.ucb1 import UCB1
from modicum.testtime.experiments.expert_training import (
    END_OF_INPUT,
    LENGTH,
    TASKS,
    all_strings,
    load_experts,
)
from modicum.testtime.tinygpt import TinyGPT, TinyGPTConfig, sample

NAMES = list(TASKS)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def experts():
    return list(load_experts().values())


def verifier_of(task):
    def verify(query, response):
        return float(np.array_equal(TASKS[task](query.numpy()[None])[0], response.numpy()))

    return verify


def strings(count, seed=0):
    chosen = numpy_generator(seed, "strings").permutation(2**LENGTH)[:count]
    return torch.from_numpy(all_strings()[chosen])


def outside_play(task, query, controller, rounds):
    """Algorithm 1 with UCB1 outside of the network, answers from the tasks' definitions."""
    started = controller.start(len(NAMES), rounds)
    actions, rewards = [], []
    for _ in range(rounds):
        actions.append(started.choose())
        right = TASKS[task](query[None])[0]
        answer = TASKS[NAMES[actions[-1]]](query[None])[0]
        rewards.append(float(np.array_equal(right, answer)))
        started.observe(actions[-1], rewards[-1])
    return actions, rewards


@pytest.mark.parametrize("mode", ["dense", "routed"])
@pytest.mark.parametrize("task", NAMES)
def test_every_task_is_solved_after_as_many_rounds_as_experts(experts, task, mode):
    model = glue(experts, 12, UCB1(), end_of_input=END_OF_INPUT, mode=mode)
    rounds, count = (12, 24) if mode == "routed" else (5, 6)
    queries = strings(count, seed=NAMES.index(task))
    found = model.generate(queries, verifier_of(task), rounds, max_new_tokens=LENGTH)
    solved = [max(trajectory.rewards[: len(NAMES)]) for trajectory in found]
    assert solved == [1.0] * count
    for query, trajectory in zip(queries.numpy(), found, strict=True):
        actions, rewards = outside_play(task, query, UCB1(), rounds)
        assert trajectory.actions == actions
        assert trajectory.rewards == rewards
        assert trajectory.query == tuple(query)
        assert trajectory.best == tuple(TASKS[task](query[None])[0])
        for turn in trajectory.turns:
            assert turn.response == tuple(TASKS[NAMES[turn.expert]](query[None])[0])


def test_modes_and_batches_play_the_same_games(experts):
    model = glue(experts, 6, "ucb1", end_of_input=END_OF_INPUT, codes="binary")
    queries = strings(5, seed=9)
    together = model.generate(queries, verifier_of("sort"), max_new_tokens=LENGTH)
    model.mode = "routed"
    for query, wanted in zip(queries, together, strict=True):
        alone = model.generate(query, verifier_of("sort"), max_new_tokens=LENGTH)
        assert isinstance(alone, Trajectory)
        assert (alone.turns, alone.query) == (wanted.turns, wanted.query)
        assert torch.equal(alone.token_ids, wanted.token_ids)


def test_the_stream_of_a_game_is_what_was_played(experts):
    model = glue(experts, 3, "round-robin", end_of_input=END_OF_INPUT, mode="routed")
    query = strings(1)[0]
    played = model.generate(query, verifier_of("reverse"), max_new_tokens=LENGTH)
    layout, wanted = model.layout, [model.layout.sink, *query.tolist()]
    for turn in played.turns:
        wanted += [layout.action(turn.expert), *turn.response, layout.feedback(turn.reward == 1)]
    assert played.token_ids.tolist() == wanted
    assert played.actions == [0, 1, 2]
    # Every token that the network chose is the arg-max of its own logits.
    with torch.no_grad():
        logits = model(played.token_ids[None])[0]
    code = model.read(played.token_ids[None])
    for at in range(len(query), len(wanted) - 1):
        if wanted[at + 1] < layout.feedback(0):
            assert int(logits[at].argmax()) == wanted[at + 1]
    assert int(code.turn_BN.max()) == 3


def test_a_response_is_as_long_as_positions_allow_unless_it_is_said(experts):
    model = glue(experts, 4, "ucb1", end_of_input=END_OF_INPUT, mode="routed")
    query = strings(1, seed=3)[0]
    played = model.generate(query, verifier_of("sort"), 4)
    assert [len(turn.response) for turn in played.turns] == [LENGTH] * 4
    assert played.rewards[NAMES.index("sort")] == 1
    shorter = model.generate(query[:5], lambda query, response: 0.0, 1)
    assert len(shorter.turns[0].response) == 2 * LENGTH + 1 - 5 - 1
    with pytest.raises(ValueError, match=r"prompt of 16 words leaves no room .*\(17, 17, 17, 17\)"):
        model.generate(torch.cat([query, query]), verifier_of("sort"))


def test_stopping_at_the_first_accepted_answer(experts):
    model = glue(experts, 4, "ucb1", end_of_input=END_OF_INPUT, mode="routed")
    queries = strings(40, seed=2)
    found = model.generate(
        queries, verifier_of("complement"), max_new_tokens=LENGTH, stop_on_accept=True
    )
    for query, trajectory in zip(queries.numpy(), found, strict=True):
        _, rewards = outside_play("complement", query, UCB1(), 4)
        assert trajectory.rewards == rewards[: rewards.index(1.0) + 1]
        assert trajectory.last == trajectory.best == tuple(1 - query)
    assert len({len(trajectory.turns) for trajectory in found}) >= 1
    mixed = model.generate(queries, verifier_of("sort"), max_new_tokens=LENGTH, stop_on_accept=True)
    # Strings that are sorted already end after one round, others later, side by side.
    assert len({len(trajectory.turns) for trajectory in mixed}) > 1


def test_a_response_ends_at_its_last_word():
    # The expert's next word depends on its last one only: 1 -> 2 -> 3 -> 0, whatever stands before.
    config = TinyGPTConfig(5, 20, n_embd=8, n_layer=1, n_head=1)
    expert = TinyGPT(config).eval()
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.zero_()
        expert.lm_head.weight = torch.nn.Parameter(torch.zeros(5, 8))
        expert.transformer.ln_f.weight.fill_(1)
        expert.transformer.wte.weight[:, :5] = torch.eye(5)
        for last, following in ((4, 1), (1, 2), (2, 3), (3, 0), (0, 0)):
            expert.lm_head.weight[following, last] += 5
    model = glue([expert], 2, "ucb1", end_of_input=4)

    def never(query, response):
        return 0.0

    for mode in ("dense", "routed"):
        model.mode = mode
        ended = model.generate([1, 2], never, max_new_tokens=9, end_of_response=3)
        assert [turn.response for turn in ended.turns] == [(1, 2, 3)] * 2
        both = model.generate([[1, 2], [2, 2]], never, max_new_tokens=4, end_of_response=2)
        assert [[turn.response for turn in one.turns] for one in both] == [[(1, 2)] * 2] * 2
        longest = model.generate([1], never, max_new_tokens=5)
        assert longest.turns[1].response == (1, 2, 3, 0, 0)
    # K = 1 is a plain revise loop.
    assert longest.actions == [0, 0]


def test_sampled_words_follow_the_expert(experts):
    config = TinyGPTConfig(3, 6, n_embd=8, n_layer=1, n_head=1)
    expert = TinyGPT(config, seed=3).eval()
    with torch.no_grad():
        expert.transformer.wte.weight.mul_(8)
    model = glue([expert, experts[0]], 1, "round-robin", end_of_input=2, mode="routed")
    count = 4000
    queries = torch.zeros(count, 2).long()
    found = model.generate(
        queries,
        lambda query, response: 0.0,
        max_new_tokens=1,
        temperature=0.7,
        generator=torch_generator(5),
    )
    words = np.bincount([turn.response[0] for one in found for turn in one.turns], minlength=3)
    with torch.no_grad():
        law = (expert(torch.tensor([[0, 0, 2]]))[0, -1] / 0.7).softmax(dim=0).numpy()
    # A right law exceeds 37 with probability 1e-8 (chi-square, two degrees of freedom).
    assert ((words - count * law) ** 2 / (count * law)).sum() < 37
    assert law.max() < 0.9
    greedy = sample(
        expert, torch.tensor([[0, 0, 2]]), 1, generator=torch_generator(0), temperature=0
    )
    again = model.generate([0, 0], lambda query, response: 0.0, max_new_tokens=1)
    assert again.turns[0].response == (int(greedy),)


@pytest.mark.parametrize("estimator", ["reward", "loss"])
def test_exp3_draws_and_learns_as_the_controller_outside(experts, estimator):
    rounds = 10
    model = glue(
        experts,
        rounds,
        EXP3(eta=0.4, estimator=estimator),
        end_of_input=END_OF_INPUT,
        mode="routed",
        dtype=torch.float64,
    )
    queries = strings(6, seed=4)

    def verify(query, response):
        # Real rewards: the share of bits that are as in the sorted string.
        return float((np.sort(query.numpy()) == response.numpy()).mean())

    found = model.generate(queries, verify, max_new_tokens=LENGTH, generator=torch_generator(1))
    assert len({turn.expert for one in found for turn in one.turns}) == 4
    for trajectory in found:
        outside = EXP3(eta=0.4, estimator=estimator).start(4, rounds)
        values = [0.0] * (1 + LENGTH)
        for turn in trajectory.turns:
            log_probs = outside.log_probs()
            values += [0.0] * (1 + LENGTH)
            worth = turn.reward if estimator == "reward" else turn.reward - 1
            values.append(worth / math.exp(log_probs[turn.expert]))
            outside.observe(turn.expert, turn.reward)
        feedback = torch.tensor([values], dtype=torch.float64)
        logits = model.action_logits(trajectory.token_ids[None], feedback)[0, -1]
        np.testing.assert_allclose(logits.log_softmax(0).numpy(), outside.log_probs(), atol=1e-9)
        # The same from pairs of actions and rewards alone.
        pairs = [(turn.expert, turn.reward) for turn in trajectory.turns]
        ids, again = model.stream_of(pairs)
        short = model.action_logits(ids[None], again[None])[0, -1]
        np.testing.assert_allclose(short.log_softmax(0).numpy(), outside.log_probs(), atol=1e-9)


def test_exp3_draws_with_its_probabilities(experts):
    model = glue(
        experts, 2, EXP3(eta=1.0, estimator="reward"), end_of_input=END_OF_INPUT, mode="routed"
    )
    ids, feedback = model.stream_of([(2, 0.5)])
    # After reward 0.5 at probability 1/4 the sum is 2.
    law = np.exp([0, 0, 2, 0]) / np.exp([0, 0, 2, 0]).sum()
    count, generator = 3000, torch_generator(6)
    drawn = model.act(ids.expand(count, -1), feedback.expand(count, -1), generator=generator)
    seen = np.bincount(drawn.numpy(), minlength=4)
    # A right law exceeds 40 with probability 1e-8 (chi-square, three degrees of freedom).
    assert ((seen - count * law) ** 2 / (count * law)).sum() < 40
    assert model.act([(2, 0.5)]) == 2


def test_under_full_information_every_expert_answers_and_one_counts(experts):
    rounds = 3
    model = glue(experts, 4 * rounds, Hedge(eta=2.0), end_of_input=END_OF_INPUT, mode="routed")
    queries = strings(20, seed=5)
    found = model.generate(
        queries, verifier_of("complement"), max_new_tokens=LENGTH, generator=torch_generator(2)
    )
    for query, trajectory in zip(queries.numpy(), found, strict=True):
        assert len(trajectory.turns) == rounds
        code = model.read(trajectory.token_ids[None])
        assert int(code.turn_BN.max()) == 4 * rounds
        right = tuple(1 - query)
        for turn in trajectory.turns:
            answers = [tuple(TASKS[name](query[None])[0]) for name in NAMES]
            assert turn.rewards_K == tuple(float(answer == right) for answer in answers)
            assert turn.reward == turn.rewards_K[turn.expert]
            assert turn.response == answers[turn.expert]
    # Named before the rewards are known: uniform at first, then mostly the right one.
    first = [trajectory.turns[0].expert for trajectory in found]
    last = [trajectory.turns[-1].reward for trajectory in found]
    assert len(set(first)) > 1
    assert np.mean(last) > 0.8


def test_act_takes_streams_and_pairs(experts):
    model = glue(experts, 8, "ucb1", end_of_input=END_OF_INPUT)
    assert model.act([]) == 0
    history = [(0, 0), (1, 1), (2, 0), (3, 0)]
    assert [model.act(history[:n]) for n in range(5)] == [0, 1, 2, 3, 1]
    layout = model.layout
    stream = torch.tensor([layout.sink, 0, 1, 1])
    assert model.act(stream) == 0
    answered = torch.tensor([*stream.tolist(), layout.action(0), 1, layout.feedback(1)])
    assert model.act(torch.stack([answered, answered])).tolist() == [1, 1]
    with pytest.raises(ValueError, match="no feedback yet"):
        model.act(answered[:-1])
    with pytest.raises(ValueError, match=r"rewards must be 0 or 1, not 0\.5"):
        model.act([(0, 0.5)])
    soft = glue(experts, 4, "exp3", end_of_input=END_OF_INPUT)
    with pytest.raises(ValueError, match=r"rewards must be in \[0, 1\], not 2"):
        soft.act([(0, 2)])


def test_ties_are_broken_at_random_if_the_policy_says_so(experts):
    from modicum.testtime.controllers.round_robin import RoundRobin

    model = glue(experts, 4, RoundRobin(), end_of_input=END_OF_INPUT)
    generator = torch_generator(3)
    orders = set()
    for _ in range(60):
        history = []
        for _ in range(4):
            history.append((model.act(history, generator=generator), 0))
        orders.add(tuple(action for action, _ in history))
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    # Sixty draws of 24 orders: fewer than ten different ones have probability below 1e-12.
    assert len(orders) >= 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, r"rounds must be in 1 … 3 \(3 turns, 1 a round\), not 0"),
        ({"rounds": 4}, "rounds must be in 1 … 3"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": 1.0}, "give a generator"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"max_new_tokens": 9}, "more than an expert has positions"),
        ({"verifier": lambda query, response: 0.5}, "rewards must be 0 or 1, not 0.5"),
        ({"verifier": lambda query, response: math.nan}, "rewards must be 0 or 1, not nan"),
    ],
)
def test_bad_runs_are_refused(experts, changes, message):
    model = glue(experts, 3, "ucb1", end_of_input=END_OF_INPUT, mode="routed")
    arguments = {"verifier": verifier_of("copy"), "max_new_tokens": LENGTH} | changes
    with pytest.raises(ValueError, match=message):
        model.generate(strings(1)[0], **arguments)


def test_choice_of_tokens():
    logits = torch.tensor([[0.0, 2.0, 2.0], [-math.inf, -math.inf, 0.0]])
    assert choose(logits, None).tolist() == [1, 2]
    generator = torch_generator(0)
    drawn = choose(logits[:1].expand(4000, 3), generator).bincount(minlength=3).numpy()
    law = logits[0].softmax(0).numpy()
    assert ((drawn - 4000 * law) ** 2 / (4000 * law)).sum() < 37
    assert (choose(logits[1:].expand(500, 3), generator) == 2).all()


def test_trajectories_name_last_and_best():
    turns = (Turn(0, (1,), 0.2), Turn(1, (2,), 0.9), Turn(0, (3,), 0.9), Turn(1, (4,), 0.1))
    trajectory = Trajectory((0,), turns, torch.zeros(1))
    assert (trajectory.last, trajectory.best) == ((4,), (2,))
    assert trajectory.actions == [0, 1, 0, 1]
    assert trajectory.rewards == [0.2, 0.9, 0.9, 0.1]


@pytest.mark.gpu
def test_on_a_gpu(experts):
    queries = strings(20, seed=7)
    found = {}
    for device in ("cpu", "cuda"):
        model = glue(experts, 6, "ucb1", end_of_input=END_OF_INPUT, device=device)
        found[device] = model.generate(queries, verifier_of("sort"), max_new_tokens=LENGTH)
    for left, right in zip(found["cpu"], found["cuda"], strict=True):
        assert left.turns == right.turns
