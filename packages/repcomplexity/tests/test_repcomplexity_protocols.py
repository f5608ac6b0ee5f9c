"""The papers' protocols against plain torch loops, and the identities of their metrics."""

import numpy as np
import pytest
import torch

from modicum.repcomplexity.data import RolloutData
from modicum.repcomplexity.ensemble import MLPEnsemble, NetworkSpec, Problem, batches
from modicum.repcomplexity.protocols import feng2023, zhu2024


def rollouts(n=150, seed=0, **change):
    rng = np.random.default_rng(seed)
    state, action = rng.normal(size=(n, 3)), rng.normal(size=(n, 1))
    heads = np.stack([state.sum(1), state.sum(1) - 1], axis=1) + 30
    arguments = {
        "observations": state,
        "actions": action,
        "rewards": state[:, 0],
        "next_observations": state + 0.3 * action,
        "terminated": np.arange(n) % 50 == 49,
        "truncated": np.zeros(n, bool),
        "q": heads,
    }
    return RolloutData.from_arrays(**(arguments | change))


def trained_alone(inputs, targets, width, depth, steps, size, seed):
    """Train one network by torch's own Adam; return it and the error of each batch."""
    start = MLPEnsemble(
        [Problem(inputs, targets)], [NetworkSpec(0, width, seed)], depth=depth, device="cpu"
    )
    network = start.network(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, y = torch.from_numpy(np.float32(inputs)), torch.from_numpy(np.float32(targets))
    errors = []
    for rows in batches(len(x), size, steps, seed, drop_last=False):
        loss = torch.nn.functional.mse_loss(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    return network(x).detach().numpy(), errors


def test_zhu_is_the_last_pass_of_a_plain_loop():
    data = rollouts()
    found = zhu2024(data, widths=(6,), seeds=2, epochs=4, device="cpu")
    wanted = {
        "next_obs": data.next_observations,
        "reward": data.rewards[:, None],
        "q": data.critic_q[:, :1],
    }
    for target, values in wanted.items():
        for seed in range(2):
            _, errors = trained_alone(data.inputs(True), values, 6, 2, 20, 32, seed)
            # 150 rows are five batches of a pass, the last of 22 rows.
            expected = sum(errors[-5:]) / np.linalg.norm(values)
            assert found.errors[target, 6][seed] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("fix_dims", [False, True])
def test_feng_is_the_error_after_a_plain_loop(fix_dims):
    data = rollouts()
    # 150 rows are two batches of a pass, the second of 22 rows: 12 passes are 24 batches.
    found = feng2023(
        data, widths=(5,), depth=1, seeds=2, rows_seen=150 * 12, device="cpu", fix_dims=fix_dims
    )
    wanted = {
        "next_obs": (data.inputs(True), data.next_observations),
        "reward": (data.inputs(True), data.rewards[:, None]),
        "policy": (data.inputs(False), data.actions),
        "q": (data.inputs(True), data.critic_q[:, :1]),
    }
    for target, (inputs, values) in wanted.items():
        for seed in range(2):
            predicted, _ = trained_alone(inputs, values, 5, 1, 24, 128, seed)
            errors = ((predicted - values) ** 2).mean(0)
            mean = errors.sum() if fix_dims else errors.mean()
            expected = np.sqrt(mean / values.var(0).sum())
            assert found.errors[target, 5][seed] == pytest.approx(expected, rel=1e-3)


def test_vectors_are_made_smaller_by_the_root_of_their_dimensions():
    options = {"widths": (5,), "seeds": 1, "rows_seen": 256, "device": "cpu"}
    published, fixed = (feng2023(rollouts(), fix_dims=fix, **options) for fix in (False, True))
    ratio = fixed.errors["next_obs", 5] / published.errors["next_obs", 5]
    assert ratio == pytest.approx(np.sqrt(3))
    for target in ("reward", "q"):
        assert fixed.errors[target, 5] == pytest.approx(published.errors[target, 5])


def test_the_target_of_the_published_code_on_demand_only():
    options = {"targets": ("q",), "widths": (5,), "seeds": 1, "rows_seen": 256, "device": "cpu"}
    beyond = np.random.default_rng(1).normal(size=150) * 5
    data = rollouts(next_q_same_action=beyond)
    meant, published = (feng2023(data, q_bug=bug, **options) for bug in (False, True))
    as_critic = feng2023(rollouts(q=data.rewards + 0.99 * beyond), **options)
    assert published.errors["q", 5] == as_critic.errors["q", 5]
    assert published.errors["q", 5] != meant.errors["q", 5]
    with pytest.raises(ValueError, match="next_q_same_action"):
        feng2023(rollouts(), q_bug=True, **options)


def test_without_a_critic_the_returns_are_learnt():
    data = rollouts(q=None)
    found = zhu2024(data, targets=("q",), widths=(4,), seeds=1, epochs=1, device="cpu")
    critic = rollouts(q=data.returns())
    again = zhu2024(critic, targets=("q",), widths=(4,), seeds=1, epochs=1, device="cpu")
    assert found.errors["q", 4] == again.errors["q", 4]


def test_table_and_mean():
    found = zhu2024(rollouts(), widths=(4, 6), seeds=2, epochs=1, device="cpu")
    assert set(found.errors) == {(t, w) for t in ("next_obs", "reward", "q") for w in (4, 6)}
    assert found.mean("q", 4) == pytest.approx(found.errors["q", 4].mean())
    assert found.table().splitlines()[0] == "| target | width | zhu2024 |"
    assert "±" in found.table()


def test_progress_is_told_of_every_step():
    told = []

    class Bar:
        def __init__(self, total, description):
            self.total = total

        def advance(self, n=1):
            told.append(n)

    bars = []
    zhu2024(
        rollouts(),
        widths=(4, 6),
        seeds=1,
        epochs=3,
        device="cpu",
        progress=lambda total, text: bars.append(total) or Bar(total, text),
    )
    assert bars == [30] and sum(told) == 30


@pytest.mark.parametrize("change", [{"seeds": 0}, {"widths": ()}, {"epochs": 0}, {"widths": (0,)}])
def test_refused_numbers(change):
    with pytest.raises(ValueError, match="must be at least 1"):
        zhu2024(rollouts(), **change)


def test_refused_targets():
    with pytest.raises(ValueError, match="targets must be some of"):
        feng2023(rollouts(), targets=("state",))
