"""Training that can be resumed: what a checkpoint holds, and that cutting changes nothing."""

import json
import random

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("stable_baselines3")

from modicum.repcomplexity.integrations.training import (  # noqa: E402
    SACSettings,
    load_sac,
    train_sac,
)

SMALL = SACSettings(
    "Pendulum-v1",
    seed=3,
    hidden=(16,),
    batch_size=32,
    buffer_size=150,
    learning_starts=50,
    checkpoint_every=100,
)


def weights(training):
    model = load_sac(training)
    named = {**model.policy.state_dict(), "temperature": model.log_ent_coef}
    return {name: value.detach().clone() for name, value in named.items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train_sac(SMALL, folder, 400)


def test_resuming_gives_the_networks_of_an_uncut_training(whole, tmp_path):
    # The buffer of 150 transitions is full and overwritten before the cut.
    first = train_sac(SMALL, tmp_path, 200)
    cut = weights(first)
    resumed = train_sac(SMALL, tmp_path, 400)
    assert same(weights(resumed), weights(whole[1]))
    assert not same(weights(resumed), cut)
    assert resumed.returns == whole[1].returns
    assert resumed.steps == 400


def test_fewer_steps_than_were_made_give_the_checkpoint_of_that_moment(whole, tmp_path):
    folder, training = whole
    counts = []
    earlier = train_sac(SMALL, folder, 200, on_progress=counts.append)
    assert counts == [200]
    assert same(weights(earlier), weights(train_sac(SMALL, tmp_path, 200)))
    assert len(earlier.returns) == 2
    assert len(training.returns) == 4


def test_the_seed_decides(whole, tmp_path):
    other = train_sac(SACSettings(**{**vars(SMALL), "seed": 4}), tmp_path, 100)
    mine = train_sac(SMALL, whole[0], 100)
    assert not same(weights(other), weights(mine))


def test_progress_counts_every_step_once(tmp_path):
    counts = []
    train_sac(SMALL, tmp_path, 200, on_progress=counts.append)
    train_sac(SMALL, tmp_path, 300, on_progress=counts.append)
    assert sum(counts) == 200 + 300
    assert counts[-2:] == [200, 100]


def test_global_generators_are_as_before(tmp_path):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    load_sac(train_sac(SMALL, tmp_path, 100))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == before


def test_a_checkpoint_holds_the_transitions_and_no_pickles(whole):
    folder, _ = whole
    with np.load(folder / "replay-400.npz", allow_pickle=False) as file:
        assert file["observations"].shape == (150, 1, 3)
        assert file["place"].tolist() == [400 % 150, 1]
        # A row's next observation follows from its observation and action by one step.
        env = gymnasium.make("Pendulum-v1").unwrapped
        env.reset()
        cosine, sine, speed = file["observations"][0, 0]
        env.state = np.array([np.arctan2(sine, cosine), speed])
        after, reward, *_ = env.step(file["actions"][0, 0] * env.max_torque)
        assert after == pytest.approx(file["next_observations"][0, 0], abs=1e-4)
        assert reward == pytest.approx(file["rewards"][0, 0], abs=1e-4)
    assert [path.name for path in folder.glob("replay-*")] == ["replay-400.npz"]


def test_stable_baselines3_reads_the_file_itself(whole):
    from stable_baselines3 import SAC

    folder, training = whole
    theirs, ours = SAC.load(training.path, device="cpu"), load_sac(training)
    observation = np.array([[0.5, 0.1, -1.0]], dtype=np.float32)
    mine, _ = ours.predict(observation, deterministic=True)
    assert theirs.predict(observation, deterministic=True)[0] == pytest.approx(mine)
    assert folder == training.path.parent


def test_a_cut_while_writing_leaves_the_checkpoint_before(whole, tmp_path):
    train_sac(SMALL, tmp_path, 200)
    # What is there when the process ends after the networks and before the state.
    (tmp_path / "sac-300.zip").write_bytes(b"unfinished")
    resumed = train_sac(SMALL, tmp_path, 400)
    assert same(weights(resumed), weights(whole[1]))


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="multiple of 100, not 150"):
        train_sac(SMALL, tmp_path, 150)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1"):
        SACSettings("Pendulum-v1", checkpoint_every=0)
    with pytest.raises(ValueError, match="hidden must be"):
        SACSettings("Pendulum-v1", hidden=())
    with pytest.raises(ValueError, match="initial_temperature"):
        SACSettings("Pendulum-v1", initial_temperature=0.0)


def test_a_folder_belongs_to_one_training(whole):
    folder, _ = whole
    with pytest.raises(ValueError, match="seed=3, not 5"):
        train_sac(SACSettings(**{**vars(SMALL), "seed": 5}), folder, 400)
    assert json.loads((folder / "training.json").read_text())["settings"]["seed"] == 3
