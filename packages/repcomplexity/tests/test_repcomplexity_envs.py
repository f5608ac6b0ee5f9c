"""Simulators: Gymnasium's own checker, the exact values, and each simulator against the others."""

import pickle
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

from modicum.repcomplexity.envs import BatchState, Observer, TorchVecMDP
from modicum.repcomplexity.families import MajorityMDP, ParityMDP, SatMDP
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import solve

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from modicum import repcomplexity  # noqa: E402
from modicum.repcomplexity import envs  # noqa: E402

BitMDPEnv, BitMDPVectorEnv = envs.BitMDPEnv, envs.BitMDPVectorEnv

NAMES = ["modicum/MajorityMDP-v0", "modicum/ParityMDP-v0", "modicum/SatMDP-v0"]


@pytest.fixture(autouse=True)
def known_names():
    envs.register()


def endless(gamma=0.9):
    """Eight states in a ring; action 1 steps on, state 7 ends the episode."""
    following = [[s, (s + 1) % 8] for s in range(8)]
    end = np.arange(8) == 7
    return BitMDP.from_tables(following, np.ones(8), gamma=gamma, terminal=end)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("obs", ["bits", "pixels", "int"])
def test_gymnasium_finds_nothing_to_complain_about(name, obs):
    """Warnings are errors here, so that the checker's advice fails the test as well."""
    env = gymnasium.make(name, obs=obs)
    check_env(env.unwrapped)
    env.close()


def test_gymnasium_accepts_chance_and_processes_of_ones_own():
    check_env(gymnasium.make("modicum/MajorityMDP-v0", n=4, slip=0.3).unwrapped)
    check_env(gymnasium.make("modicum/BitMDP-v0", mdp=endless(), max_episode_steps=5).unwrapped)
    lake = BitMDP.from_gymnasium(gymnasium.make("FrozenLake-v1"))
    check_env(gymnasium.make("modicum/BitMDP-v0", mdp=lake).unwrapped)


def test_names_with_a_module_need_no_import_before():
    script = (
        "import gymnasium\n"
        "name = 'modicum.repcomplexity.envs.registration:modicum/MajorityMDP-v0'\n"
        "assert gymnasium.make(name, n=4).unwrapped.mdp.n == 4\n"
        "gymnasium.make('modicum/ParityMDP-v0', n=4, allow_noop=False)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_batches_on_a_device_need_no_gymnasium_and_the_rest_says_so(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(envs.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(repcomplexity, "envs", envs)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    anew = import_module("modicum.repcomplexity.envs")
    assert anew is not envs
    observation, _ = anew.TorchVecMDP(MajorityMDP(4), 2, device="cpu").reset()
    assert observation.shape == (2, 6)
    for call in (anew.register, lambda: anew.BitMDPEnv, lambda: anew.BitMDPVectorEnv):
        with pytest.raises(ImportError, match=r'pip install "modicum-repcomplexity\[envs\]"'):
            call()


def greedy_return(mdp, code):
    """The return of the optimal policy of every step, in the Gymnasium environment."""
    env = BitMDPEnv(mdp, obs="int")
    env.reset(seed=0, options={"state": code})
    solution, total = solve(mdp), 0.0
    for step in range(1, mdp.horizon + 1):
        action = int(solution.at(step).policy[env.get_state().code])
        _, reward, terminated, truncated, info = env.step(action)
        assert not truncated and info["steps"] == step
        total += reward
        if terminated:
            break
    assert terminated
    return total


@pytest.mark.parametrize(
    "mdp", [MajorityMDP(4), ParityMDP(4), SatMDP(2), MajorityMDP(3, reward_mode="once")], ids=repr
)
def test_the_optimal_policy_earns_the_optimal_value(mdp):
    values = solve(mdp).V
    for code in np.random.default_rng(0).integers(mdp.n_states, size=12):
        if not mdp.is_terminal(code):
            assert greedy_return(mdp, int(code)) == values[code]


def test_observations_are_bits_pictures_or_codes():
    mdp = MajorityMDP(4)
    codes = np.arange(64)
    bits = mdp.observe(codes)
    for library in (np.asarray, torch.from_numpy):
        seen = Observer(mdp)(library(codes))
        assert str(seen.dtype).endswith("int8")
        np.testing.assert_array_equal(seen, bits)
        picture = np.asarray(Observer(mdp, "pixels", 2)(library(codes)))
        assert picture.shape == (64, 4, 6, 1) and picture.dtype == np.uint8
        cells = picture.reshape(64, 2, 2, 3, 2)
        assert (cells == cells[:, :, :1, :, :1]).all()
        np.testing.assert_array_equal(cells[:, :, 0, :, 0].reshape(64, 6), 255 * bits)
        np.testing.assert_array_equal(Observer(mdp, "int")(library(codes)), codes)
    # Five bits in a grid of six: the last stays black.
    five = BitMDP(5, 1, lambda c, a: c, lambda c, a: c & 0, horizon=1)
    assert Observer(five, "pixels", 1)(np.array([31]))[0, :, :, 0].tolist() == [
        [255, 255, 255],
        [255, 255, 0],
    ]


@pytest.mark.parametrize("obs", ["bits", "pixels", "int"])
def test_every_simulator_sees_and_earns_the_same(obs):
    """Without chance, from given states, for longer than an episode."""
    mdp, rng, count = MajorityMDP(3), np.random.default_rng(0), 6
    first = rng.integers(mdp.n_states, size=count)
    vector = BitMDPVectorEnv(mdp, count, obs=obs, pixel_size=3)
    device = TorchVecMDP(mdp, count, device="cpu", obs=obs, pixel_size=3)
    singles = [BitMDPEnv(mdp, obs=obs, pixel_size=3) for _ in range(count)]
    vector.reset(seed=0, options={"state": first})
    device.reset(seed=0)
    device.set_state(first)
    for env, code in zip(singles, first, strict=True):
        env.reset(options={"state": int(code)})
    for step in range(1, 2 * mdp.horizon + 2):
        actions = rng.integers(2, size=count)
        seen = vector.step(actions)
        there = device.step(torch.from_numpy(actions))
        fresh = step == mdp.horizon + 1
        if fresh:
            assert not seen[1].any() and not there[1].any()
            again = seen[4]["code"]
            device.set_state(again)
            for env, code in zip(singles, again, strict=True):
                env.reset(options={"state": int(code)})
            continue
        assert seen[0] in vector.observation_space
        np.testing.assert_array_equal(seen[0], there[0].numpy())
        for k, env in enumerate(singles):
            alone = env.step(int(actions[k]))
            np.testing.assert_array_equal(alone[0], seen[0][k])
            assert alone[1:4] == (seen[1][k], seen[2][k], seen[3][k])
            assert alone[4]["code"] == seen[4]["code"][k]
            assert alone[1:4] == tuple(float(part[k]) for part in there[1:4])
        assert seen[2].all() == (step % (mdp.horizon + 1) == mdp.horizon)


def test_the_vector_environment_is_what_gymnasium_makes_of_single_ones():
    """Against SyncVectorEnv, with episodes of different lengths: an ended one begins anew."""
    mdp = endless()
    mine = gymnasium.make_vec("modicum/BitMDP-v0", num_envs=4, mdp=mdp, max_episode_steps=5)
    theirs = gymnasium.vector.SyncVectorEnv([lambda: BitMDPEnv(mdp, max_episode_steps=5)] * 4)
    assert isinstance(mine.unwrapped, BitMDPVectorEnv)
    assert mine.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert mine.single_observation_space == theirs.single_observation_space
    assert mine.observation_space == theirs.observation_space
    assert mine.action_space == theirs.action_space
    first = np.array([0, 3, 5, 6])
    mine.reset(options={"state": first})
    theirs.reset()
    for env, code in zip(theirs.envs, first, strict=True):
        env.set_state(int(code))
    rng, ended = np.random.default_rng(0), 0
    for _ in range(60):
        actions = rng.integers(2, size=4)
        one, other = mine.step(actions), theirs.step(actions)
        for k, env in enumerate(theirs.envs):
            if env.get_state().steps == 0:
                # Both begin anew, from states of their own choice; go on from the same.
                assert mine.unwrapped.get_state().steps[k] == 0
                env.set_state(int(one[4]["code"][k]))
            else:
                np.testing.assert_array_equal(one[0][k], other[0][k])
        for part in (1, 2, 3):
            np.testing.assert_array_equal(one[part], other[part])
            assert one[part].dtype == other[part].dtype
        ended += int(one[2].sum() + one[3].sum())
    assert one[2].dtype == bool and ended > 20


def test_gymnasium_makes_vector_environments_of_the_families():
    for name in NAMES:
        vector = gymnasium.make_vec(name, num_envs=3)
        observation, info = vector.reset(seed=1)
        assert observation in vector.observation_space and info["code"].shape == (3,)
        vector.step(vector.action_space.sample())
        vector.close()


def check_tensors(device):
    mdp = MajorityMDP(4, slip=0.3)
    env = TorchVecMDP(mdp, 500, device=device, seed=1)
    observation, info = env.reset(seed=3)
    assert observation.device.type == device and observation.shape == (500, 6)
    first = info["code"].clone()
    actions = [env.sample_actions() for _ in range(8)]
    saved, copy = env.get_state(), env.clone()
    path = [env.step(action) for action in actions]
    again = [copy.step(action) for action in actions]
    for one, other in zip(path, again, strict=True):
        for a, b in zip(one[:4], other[:4], strict=True):
            assert a.device.type == device and torch.equal(a, b)
    assert path[0][1].dtype == torch.float32 and path[0][2].dtype == torch.bool
    assert path[5][2].all() and not path[6][2].any() and not path[6][1].any()
    assert (env.steps == 1).all() and not any(part[3].any() for part in path)
    env.set_state(saved)
    assert torch.equal(env.codes, first)
    assert torch.equal(env.reset(seed=3)[1]["code"], first)
    assert not torch.equal(env.reset()[1]["code"], first)
    env.set_state(5, steps=mdp.horizon - 1)
    assert env.step(actions[0])[2].all()


def test_tensors_in_and_out():
    check_tensors("cpu")


@pytest.mark.gpu
def test_tensors_in_and_out_on_the_device():
    check_tensors("cuda")


@pytest.mark.gpu
def test_the_device_walks_as_the_host_does():
    mdp = MajorityMDP(8)
    actions = torch.randint(2, (20, 1000), generator=torch.Generator().manual_seed(0))
    codes = torch.arange(1000)
    paths = {}
    for device in ("cpu", "cuda"):
        env = TorchVecMDP(mdp, 1000, device=device)
        env.set_state(codes)
        steps = [env.step(action.to(device)) for action in actions[: mdp.horizon]]
        paths[device] = [tuple(part.cpu() for part in step[:4]) for step in steps]
    for one, other in zip(paths["cpu"], paths["cuda"], strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b)


def test_mean_returns_of_a_batch_are_the_exact_values():
    """40,000 returns in [0, 3]: by Hoeffding the mean is off by 0.05 with probability 5e-10."""
    mdp = MajorityMDP(4, slip=0.2)
    solution, count = solve(mdp), 40_000
    env = TorchVecMDP(mdp, count, device="cpu", seed=0)
    start = int(mdp.encode(0, 0b1100))
    assert solution.T[start] == 3 and solution.V[start] > 1
    env.set_state(start)
    total = torch.zeros(count)
    for step in range(1, mdp.horizon + 1):
        policy = torch.from_numpy(np.array(solution.at(step).policy))
        _, reward, terminated, _, _ = env.step(policy[env.codes])
        total += reward
    assert terminated.all()
    assert float(total.mean()) == pytest.approx(float(solution.V[start]), abs=0.05)


def test_a_clone_and_the_original_go_their_own_ways():
    env = BitMDPEnv(MajorityMDP(4, slip=0.5))
    env.reset(seed=2)
    copy = env.clone()
    state = env.get_state()
    path = [env.step(1)[4]["code"] for _ in range(5)]
    assert copy.get_state() == state
    assert [copy.step(1)[4]["code"] for _ in range(5)] == path
    env.set_state(state)
    assert env.get_state() == state and copy.get_state().steps == 5


def test_actions_can_be_tried_from_any_state():
    mdp = MajorityMDP(4)
    env = gymnasium.make("modicum/MajorityMDP-v0", n=4).unwrapped
    for code in range(mdp.n_states):
        for action in range(2):
            env.set_state(code)
            _, reward, _, _, info = env.step(action)
            assert info["code"] == mdp.next_codes(code, action)
            assert reward == mdp.rewards(code, action)


def test_limits_truncate_and_horizons_and_ends_terminate():
    env = BitMDPEnv(endless(), max_episode_steps=3)
    env.reset(options={"state": 0})
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded, match="over"):
        env.step(0)
    env.reset(options={"state": 6})
    assert env.step(1)[2:4] == (True, False)
    # Where both apply, the end counts: nothing is left to bootstrap.
    env.set_state(envs.EnvState(6, 2))
    assert env.step(1)[2:4] == (True, False)
    batch = TorchVecMDP(endless(), 3, device="cpu", max_episode_steps=3)
    batch.set_state([0, 6, 6], [2, 0, 2])
    _, _, terminated, truncated, _ = batch.step(torch.ones(3, dtype=torch.int64))
    assert terminated.tolist() == [False, True, True]
    assert truncated.tolist() == [True, False, False]


def test_first_states_end_no_episode():
    env = BitMDPVectorEnv(endless(), 2000)
    assert set(env.reset(seed=0)[1]["code"].tolist()) == set(range(7))


def test_states_are_drawn_as_text_and_pictures():
    text = gymnasium.make("modicum/MajorityMDP-v0", n=4, render_mode="ansi")
    text.reset(options={"state": 0b100011})
    assert text.render() == "011100"
    colour = gymnasium.make("modicum/MajorityMDP-v0", n=4, render_mode="rgb_array", pixel_size=4)
    colour.reset(options={"state": 63})
    picture = colour.render()
    assert picture.shape == (8, 12, 3) and (picture == 255).all()
    assert BitMDPEnv(MajorityMDP(4)).metadata["render_modes"] == ["ansi", "rgb_array"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: BitMDPEnv(endless(), obs="image"), "obs must be one of .* not 'image'"),
        (lambda: BitMDPEnv(endless(), pixel_size=0), "pixel_size must be at least 1, not 0"),
        (
            lambda: BitMDPEnv(endless(), max_episode_steps=0),
            "max_episode_steps must be at least 1, not 0",
        ),
        (lambda: BitMDPEnv(endless(), render_mode="human"), "not human"),
        (lambda: BitMDPEnv(endless()).set_state(8), "code 8 is no state"),
        (lambda: BitMDPEnv(endless()).set_state(envs.EnvState(1, -1)), "negative, not -1"),
        (lambda: BitMDPVectorEnv(endless(), 0), "num_envs must be at least 1, not 0"),
        (lambda: BitMDPVectorEnv(endless(), 2).step([0]), r"shape \(2,\), not \(1,\)"),
        (lambda: BitMDPVectorEnv(endless(), 2).step([0, 2]), r"in \[0, 2\)"),
        (lambda: BitMDPVectorEnv(endless(), 2).step([0.5, 0.9]), "integers, not float64"),
        (lambda: BitMDPVectorEnv(endless(), 2, render_mode="human"), "not human"),
        (
            lambda: TorchVecMDP(endless(), 2, device="cpu").step(torch.tensor([0, -1])),
            r"in \[0, 2\), not -1",
        ),
        (
            lambda: TorchVecMDP(endless(), 2, device="cpu").step(torch.tensor([0.5, 1.0])),
            "integers, not torch.float32",
        ),
        (lambda: BitMDPEnv(BitMDP.from_tables([[0]], [1], horizon=1)), "no state bits"),
        (
            lambda: TorchVecMDP(endless(), 2, max_episode_steps=0),
            "max_episode_steps must be at least 1",
        ),
        (lambda: TorchVecMDP(endless(), 2, device="cpu").set_state([1, 9]), "code 9 is no state"),
        (lambda: TorchVecMDP(endless(), 2, device="cpu").set_state([1, 2, 3]), "2 of them"),
        (lambda: TorchVecMDP(endless(), 2, device="cpu").set_state(1, -1), "negative, not -1"),
        (lambda: TorchVecMDP(endless(), 2).step(torch.zeros(3)), r"shape \(2,\), not \(3,\)"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_actions_and_orders_are_refused():
    env = BitMDPEnv(endless())
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    for action in (2, -1, 0.5, "up"):
        with pytest.raises(ValueError, match="action must be in"):
            env.step(action)


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_passes_limits_and_render_modes_to_vectors(name):
    vector = gymnasium.make_vec(name, num_envs=3, max_episode_steps=2, render_mode="ansi")
    assert isinstance(vector.unwrapped, BitMDPVectorEnv) and vector.render_mode == "ansi"
    singles = gymnasium.make_vec(
        name, num_envs=3, max_episode_steps=2, render_mode="ansi", vectorization_mode="sync"
    )
    first = vector.reset(seed=0)[1]["code"]
    singles.reset(seed=0)
    for env, code in zip(singles.envs, first, strict=True):
        env.unwrapped.set_state(int(code))
    for _ in range(2):
        assert vector.render() == tuple(singles.render())
        one, other = (env.step(np.zeros(3, dtype=int)) for env in (vector, singles))
        for a, b in zip(one[:4], other[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    assert one[3].all() and not one[2].any()
    pictures = BitMDPVectorEnv(MajorityMDP(4), 2, render_mode="rgb_array").render()
    assert len(pictures) == 2 and pictures[0].shape[-1] == 3
    assert BitMDPVectorEnv(MajorityMDP(4), 2).render() is None


@pytest.mark.parametrize("obs", ["bits", "int"])
def test_what_a_vector_environment_gives_may_be_changed_in_place(obs):
    env = BitMDPVectorEnv(MajorityMDP(4), 5, obs=obs)
    seen, info = env.reset(seed=0)
    codes = env.get_state().codes.copy()
    for given in (seen, info["code"], info["steps"]):
        given += 1
    np.testing.assert_array_equal(env.get_state().codes, codes)
    assert not env.get_state().steps.any()
    torch_env = TorchVecMDP(MajorityMDP(4), 5, device="cpu", obs=obs)
    seen, info = torch_env.reset(seed=0)
    codes = info["code"].clone()
    seen += 1
    assert torch.equal(torch_env.codes, codes)


@pytest.mark.parametrize("make", [BitMDPEnv, BitMDPVectorEnv, TorchVecMDP])
def test_simulators_can_be_pickled_in_the_middle_of_an_episode(make):
    """The copy goes on with the same chance."""
    size = () if make is BitMDPEnv else (3,)
    settings = {"device": "cpu"} if make is TorchVecMDP else {}
    env = make(MajorityMDP(4, slip=0.5), *size, **settings)
    env.reset(seed=4)
    numbers = np.ones(size, dtype=int)
    action = torch.from_numpy(numbers) if make is TorchVecMDP else numbers
    env.step(action)
    copy = pickle.loads(pickle.dumps(env))
    for _ in range(4):
        one, other = env.step(action), copy.step(action)
        np.testing.assert_array_equal(one[4]["code"], other[4]["code"])
        np.testing.assert_array_equal(one[0], other[0])


def test_saved_states_are_not_changed_by_steps():
    env = BitMDPVectorEnv(MajorityMDP(4), 5)
    env.reset(seed=0)
    saved = env.get_state()
    codes = saved.codes.copy()
    path = [env.step(np.ones(5, int))[1] for _ in range(3)]
    np.testing.assert_array_equal(saved.codes, codes)
    assert isinstance(saved, BatchState)
    env.set_state(saved)
    for rewards in path:
        np.testing.assert_array_equal(env.step(np.ones(5, int))[1], rewards)
