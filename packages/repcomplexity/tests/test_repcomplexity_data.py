"""Rows of rollouts: checks, targets, returns by their recursion, held-out episodes, files."""

import numpy as np
import pytest

from modicum.repcomplexity.data import TARGETS, RolloutData


def rollouts(lengths=(5, 7, 4), seed=0, *, over=(True, False, True), **extra):
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    ends = np.cumsum(lengths) - 1
    states = rng.normal(size=(n + len(lengths), 3))
    start = np.arange(n) + np.repeat(np.arange(len(lengths)), lengths)
    flags = np.zeros((2, n), dtype=bool)
    for end, ended in zip(ends, over, strict=True):
        flags[0 if ended else 1, end] = True
    arguments = {
        "observations": states[start],
        "next_observations": states[start + 1],
        "actions": rng.normal(size=(n, 2)),
        "rewards": rng.normal(size=n),
        "terminated": flags[0],
        "truncated": flags[1],
    }
    return RolloutData.from_arrays(**(arguments | extra))


def test_rows_and_episodes():
    data = rollouts(gamma=0.5)
    assert len(data) == 16 and data.n_episodes == 3
    np.testing.assert_array_equal(data.episodes, np.repeat([0, 1, 2], [5, 7, 4]))
    assert data.cautions() == []


def test_last_row_that_ends_nothing_is_truncated():
    data = rollouts(truncated=np.zeros(16, bool), terminated=np.zeros(16, bool))
    assert data.n_episodes == 1 and data.truncated[-1] and data.truncated.sum() == 1
    over = rollouts(lengths=(3,), over=(True,))
    assert not over.truncated.any()


def test_returns_are_discounted_sums_that_go_on_after_truncation_only():
    rng = np.random.default_rng(1)
    beyond = rng.normal(size=16) * 10
    data = rollouts(next_values=beyond, gamma=0.9)
    expected = np.zeros(16)
    for row in range(16):
        end = [4, 11, 15][data.episodes[row]]
        powers = 0.9 ** np.arange(end - row + 1)
        expected[row] = powers @ data.rewards[row : end + 1]
        if data.episodes[row] == 1:
            expected[row] += 0.9 ** (end - row + 1) * beyond[end]
    np.testing.assert_allclose(data.returns(), expected)
    np.testing.assert_allclose(data.q("mc"), expected)
    np.testing.assert_allclose(
        rollouts(gamma=0.9).returns(tail="zero")[data.episodes != 1], expected[data.episodes != 1]
    )


def test_an_episode_that_the_number_of_rows_cuts_off_can_be_left_out():
    data = rollouts(over=(True, True, False), next_values=np.arange(16.0), gamma=0.9)
    whole = data.whole_episodes()
    assert len(whole) == 12 and whole.n_episodes == 2 and whole.gamma == 0.9
    np.testing.assert_array_equal(whole.next_values, np.arange(12.0))
    np.testing.assert_array_equal(whole.actions, data.actions[:12])
    np.testing.assert_array_equal(whole.returns(), data.returns()[:12])
    ended = rollouts()
    assert ended.whole_episodes() is ended
    with pytest.raises(ValueError, match="the only episode is cut off"):
        rollouts(lengths=(3,), over=(False,)).whole_episodes()


def test_termination_wins_over_truncation_of_the_same_step():
    flags = np.array([False, True])
    data = RolloutData.from_arrays(
        np.zeros((2, 1)),
        np.zeros(2),
        [1.0, 1.0],
        np.zeros((2, 1)),
        flags,
        flags,
        next_values=[50.0, 50.0],
        gamma=0.5,
    )
    np.testing.assert_array_equal(data.returns(), [1.5, 1.0])


def test_truncated_episodes_without_values_are_an_error_with_advice():
    with pytest.raises(ValueError, match=r"1 of 3 episodes are truncated.*tail='zero'"):
        rollouts().returns()
    rollouts(over=(True, True, True)).returns()
    with pytest.raises(ValueError, match="tail must be"):
        rollouts().returns(tail="none")


def test_sources_of_q():
    critic = np.random.default_rng(2).normal(size=(16, 2))
    data = rollouts(q=critic)
    assert data.q_source() == "critic"
    np.testing.assert_array_equal(data.q(), critic.min(1))
    np.testing.assert_array_equal(data.q("critic", head=1), critic[:, 1])
    with pytest.raises(ValueError, match=r"head must be 'min' or a number in \[0, 2\), not 2"):
        data.q(head=2)
    exact = rollouts(q=critic, exact_q=np.arange(16.0))
    assert exact.q_source() == "exact"
    np.testing.assert_array_equal(exact.q(), np.arange(16.0))
    assert rollouts().q_source() == "mc"
    with pytest.raises(ValueError, match="these data have no critic values"):
        rollouts().q("critic")
    with pytest.raises(ValueError, match="q must be 'auto' or one of exact, critic, mc"):
        rollouts().q("td")


def test_targets():
    data = rollouts(q=np.ones(16), values=np.arange(16.0), policy=np.ones((16, 2)))
    for name, target in TARGETS.items():
        values = target.values(data, "critic")
        assert values.ndim == 2 and len(values) == 16, name
    change = TARGETS["delta"].values(data, "critic")
    np.testing.assert_allclose(data.observations + change, data.next_observations)
    np.testing.assert_array_equal(TARGETS["policy"].values(data, ""), data.policy)
    np.testing.assert_array_equal(TARGETS["policy"].values(rollouts(), ""), rollouts().actions)
    with pytest.raises(ValueError, match="no values of the expert"):
        TARGETS["value"].values(rollouts(), "mc")
    assert data.inputs(True).shape == (16, 5) and data.inputs(False).shape == (16, 3)


def test_discrete_actions_become_one_hot():
    actions = np.arange(16) % 3
    data = rollouts(actions=actions, n_actions=4, policy=np.zeros(16, int))
    np.testing.assert_array_equal(data.actions.argmax(1), actions)
    assert data.actions.shape == (16, 4) and (data.actions.sum(1) == 1).all()
    np.testing.assert_array_equal(data.policy.argmax(1), 0)
    with pytest.raises(ValueError, match=r"actions must be in \[0, 2\), not 2"):
        rollouts(actions=actions, n_actions=2)
    with pytest.raises(ValueError, match="must be 16 integers"):
        rollouts(actions=actions + 0.5, n_actions=4)


def test_held_out_episodes_are_whole():
    data = rollouts(lengths=(3,) * 20, over=(True,) * 20)
    split = data.split(fraction=0.2, seed=3)
    assert len(split.test) == 12 and len(split.train) == 48
    assert sorted([*split.train, *split.test]) == list(range(60))
    assert not set(data.episodes[split.train]) & set(data.episodes[split.test])
    np.testing.assert_array_equal(split.test_clusters, np.repeat(range(4), 3))
    np.testing.assert_array_equal(split.train_clusters, np.repeat(range(16), 3))
    again, other = data.split(fraction=0.2, seed=3), data.split(fraction=0.2, seed=4)
    np.testing.assert_array_equal(split.test, again.test)
    assert list(split.test) != list(other.test)
    assert len(set(data.episodes[data.split(fraction=0.001).test])) == 1
    assert len(set(data.episodes[data.split(fraction=0.999).train])) == 1


def test_one_episode_is_held_out_in_part_only():
    data = rollouts(lengths=(50,), over=(True,))
    with pytest.raises(ValueError, match=r"there is one episode.*holdout='block'"):
        data.split()
    split = data.split("block", 0.3)
    np.testing.assert_array_equal(split.test, np.arange(35, 50))
    np.testing.assert_array_equal(split.train, np.arange(35))
    assert len(set(split.test_clusters)) == 10
    assert (np.diff(split.test_clusters) >= 0).all()
    whole = data.split("none")
    np.testing.assert_array_equal(whole.train, whole.test)
    with pytest.raises(ValueError, match="holdout must be one of"):
        data.split("rows")
    with pytest.raises(ValueError, match="fraction must be between"):
        data.split(fraction=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.full(16, np.nan)}, "rewards has 16 numbers that are not finite"),
        ({"observations": np.full((16, 3), np.inf)}, "observations has 48 numbers that are not"),
        ({"next_observations": np.zeros((16, 2))}, r"must have the shape \(16, 3\), not \(16, 2\)"),
        ({"next_observations": np.zeros((15, 3))}, "next_observations must have 16 rows"),
        ({"terminated": np.full(16, 2)}, "terminated must be 16 booleans"),
        ({"truncated": np.zeros(15)}, "truncated must be 16 booleans"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], not 1.5"),
        ({"rewards": np.zeros((16, 2))}, "rewards must be one-dimensional"),
        ({"rewards": []}, "there are no rows"),
        ({"q": np.zeros(15)}, "critic_q must have 16 rows, not 15"),
        ({"policy": np.zeros((16, 3))}, "policy must have 2 numbers a row, not 3"),
        ({"returns": np.zeros(16)}, "no array of the name returns"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        rollouts(**change)


def test_file_and_back(tmp_path):
    data = rollouts(
        q=np.random.default_rng(0).normal(size=(16, 2)),
        policy=np.ones((16, 2)),
        gamma=0.95,
        info={"env_id": "Hopper-v5", "seed": 3},
    )
    path = data.save(tmp_path / "deep" / "rollouts.npz")
    again = RolloutData.from_npz(path)
    assert again.fingerprint() == data.fingerprint()
    assert again.info == data.info and again.gamma == 0.95
    for name, values in data._arrays().items():
        np.testing.assert_array_equal(getattr(again, name), values)
    assert rollouts(gamma=0.95).fingerprint() != data.fingerprint()
    assert rollouts(seed=1).fingerprint() != rollouts(seed=2).fingerprint()


def test_files_that_hold_something_else(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="holds no rollouts"):
        RolloutData.from_npz(tmp_path / "other.npz")
    np.savez(tmp_path / "later.npz", schema=99, settings="{}")
    with pytest.raises(ValueError, match="has layout 99"):
        RolloutData.from_npz(tmp_path / "later.npz")
    np.savez(tmp_path / "code.npz", schema=np.array([object()]), settings="{}")
    with pytest.raises(ValueError, match="pickle"):
        RolloutData.from_npz(tmp_path / "code.npz")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rewards": np.ones(16)}, "All rewards are 1"),
        ({"truncated": np.zeros(16), "terminated": np.zeros(16)}, "After 2 of 15 steps"),
        (
            {"terminated": np.zeros(16), "truncated": np.arange(16) % 4 == 3},
            "Episodes have 4 steps",
        ),
        ({"actions": np.ones((16, 2))}, "The action never changes"),
    ],
)
def test_cautions(change, sentence):
    found = rollouts(**change).cautions()
    assert any(caution.startswith(sentence) for caution in found), found


def test_cautions_about_columns_and_actions():
    data = rollouts(lengths=(100,), over=(True,))
    observations = data.observations.copy()
    observations[:, 1] = 2.0
    assert (
        "1 of 3 observation dimensions"
        in rollouts((100,), over=(True,), observations=observations)._constant_columns()
    )
    linear = data.observations @ np.ones((3, 2)) + 1
    assert "leaves" in rollouts((100,), over=(True,), actions=linear)._predictable_actions()
    noisy = linear + 0.1 * np.random.default_rng(0).normal(size=linear.shape)
    assert not rollouts((100,), over=(True,), actions=noisy)._predictable_actions()


def test_a_critic_under_the_name_of_the_attribute_is_not_lost_silently():
    with pytest.raises(ValueError, match="q takes a critic's values"):
        rollouts(critic_q=np.zeros(16))


def test_values_of_all_actions_have_a_column_for_each():
    with pytest.raises(ValueError, match="a column for each of the 2 numbers"):
        rollouts(exact_q_actions=np.zeros((16, 5)))


@pytest.mark.parametrize("kind", [complex, str])
def test_observations_are_real_numbers(kind):
    with pytest.raises(ValueError, match="observations must be real numbers"):
        rollouts(observations=np.zeros((16, 3)).astype(kind))
