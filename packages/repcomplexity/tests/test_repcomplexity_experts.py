"""Experts and what is collected with them: exact values, regulators, models of other libraries."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from modicum.repcomplexity import experts
from modicum.repcomplexity.collection import collect, sample_bit_mdp
from modicum.repcomplexity.data import RolloutData
from modicum.repcomplexity.experts import (
    FunctionExpert,
    LinearExpert,
    SolutionExpert,
    expected_values,
)
from modicum.repcomplexity.families import MajorityMDP, RandomMDP
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import solve

PENDULUM = "InvertedPendulum-v5"


# Experts without engines ------------------------------------------------------------------------


def test_linear_expert():
    expert = LinearExpert([[2.0, 0.0]], [1.0, 5.0], [-1.0], [1.0], noise=0.5)
    states = np.array([[1.0, 0.0], [1.25, 9.0], [9.0, 0.0]])
    np.testing.assert_array_equal(expert.act(states, True), [[0.0], [-0.5], [-1.0]])
    first = expert.act(states, False)
    expert.seed(0)
    np.testing.assert_array_equal(expert.act(states, False), first)
    assert (first != expert.act(states, False)).any() and (np.abs(first) <= 1).all()
    with pytest.raises(ValueError, match=r"gain must be of shape \(1, 2\)"):
        LinearExpert([[1.0]], [0.0, 0.0], [-1.0], [1.0])
    with pytest.raises(ValueError, match="noise must not be negative"):
        LinearExpert([[1.0]], [0.0], [-1.0], [1.0], noise=-1)


@pytest.mark.parametrize("mdp", [MajorityMDP(4), RandomMDP(5, horizon=3)])
def test_solution_expert_has_the_exact_values(mdp):
    solution = solve(mdp)
    expert = SolutionExpert(solution)
    codes = mdp.codes_of(np.arange(mdp.n_states))
    states = mdp.observe(codes)
    actions = expert.act(states, True)
    np.testing.assert_array_equal(actions, np.asarray(solution.Q).argmax(1))
    np.testing.assert_array_equal(expert.value(states), solution.V)
    np.testing.assert_array_equal(expert.q(states, actions)[:, 0], solution.V)
    explorer = SolutionExpert(solution, epsilon=1.0)
    assert (explorer.act(states, False) != actions).any()
    with pytest.raises(ValueError, match="epsilon must be"):
        SolutionExpert(solution, epsilon=2)


def test_values_of_a_critic_are_its_least_head_at_its_action():
    expert = FunctionExpert(
        lambda s, _: -s, q=lambda s, a: np.stack([s[:, 0] - a[:, 0], s[:, 0] + a[:, 0]], axis=1)
    )
    states = np.array([[1.0], [-2.0]])
    np.testing.assert_array_equal(expected_values(expert, states, True), [0.0, -4.0])
    known = FunctionExpert(lambda s, _: -s, value=lambda s: s[:, 0])
    np.testing.assert_array_equal(expected_values(known, states, True), [1.0, -2.0])
    assert expected_values(FunctionExpert(lambda s, _: -s), states, True) is None


# Rows of bit-level processes --------------------------------------------------------------------


@pytest.mark.parametrize("mdp", [MajorityMDP(4), RandomMDP(4, n_actions=3, horizon=4)])
def test_sampled_rows_are_steps_with_exact_values(mdp):
    data = sample_bit_mdp(mdp, 40, distinct=True, seed=1)
    solution = solve(mdp, method="dynamic_programming")
    actions = data.actions.argmax(1)
    everything = mdp.observe(mdp.codes_of(np.arange(mdp.n_states)))
    index = (data.observations[:, None] == everything[None]).all(2).argmax(1)
    codes = mdp.codes_of(index)
    np.testing.assert_array_equal(
        data.next_observations, mdp.observe(mdp.next_codes(codes, actions))
    )
    np.testing.assert_array_equal(data.rewards, mdp.rewards(codes, actions))
    np.testing.assert_allclose(data.q("exact"), np.asarray(solution.Q)[index, actions])
    np.testing.assert_allclose(data.exact_q_actions, np.asarray(solution.Q)[index])
    assert len({(row, action) for row, action in zip(index, actions, strict=True)}) == 40
    assert data.n_episodes == 40 and not data.cautions()
    assert sample_bit_mdp(mdp, 40, seed=1).fingerprint() != data.fingerprint()


def test_sampled_rows_of_another_step_and_refusals():
    mdp = MajorityMDP(4)
    later = solve(mdp).at(mdp.horizon)
    data = sample_bit_mdp(mdp, 30, solution=later)
    np.testing.assert_array_equal(data.exact_q, data.rewards)
    with pytest.raises(ValueError, match="there are 128 distinct rows, not 129"):
        sample_bit_mdp(mdp, 129, distinct=True)
    with pytest.raises(ValueError, match="above the limit"):
        sample_bit_mdp(MajorityMDP(32), 10, distinct=True)
    sample_bit_mdp(MajorityMDP(32), 10)


def test_terminal_states_end_a_row():
    end = np.arange(8) == 7
    mdp = BitMDP.from_tables(
        [[min(s + 1, 7)] for s in range(8)], np.ones(8), gamma=0.5, terminal=end
    )
    data = sample_bit_mdp(mdp, 8, distinct=True)
    assert data.terminated.sum() == 2 and (data.terminated != data.truncated).all()


# Collecting -------------------------------------------------------------------------------------


def test_collected_rows_follow_each_other_and_have_the_critics_values():
    envs = pytest.importorskip("modicum.repcomplexity.envs.environment")
    mdp = MajorityMDP(4)
    expert = SolutionExpert(solve(mdp), epsilon=0.3)
    data = collect(envs.BitMDPEnv(mdp), expert, 50, seed=3, gamma=1.0)
    assert len(data) == 50 and data.n_episodes == -(-50 // mdp.horizon)
    assert data.terminated[mdp.horizon - 1]
    going_on = ~(data.terminated | data.truncated)[:-1]
    follows = (data.next_observations[:-1] == data.observations[1:]).all(1)
    assert follows[going_on].all()
    bits = data.observations.astype(int)
    actions = data.actions.argmax(1)
    np.testing.assert_array_equal(data.q("critic"), expert.q(bits, actions)[:, 0])
    np.testing.assert_array_equal(data.values, expert.value(bits))
    np.testing.assert_array_equal(data.next_values, expert.value(data.next_observations))
    np.testing.assert_array_equal(
        data.next_q_same_action, expert.q(data.next_observations, actions)[:, 0]
    )
    np.testing.assert_array_equal(data.policy.argmax(1), expert.act(bits, True))
    assert (data.policy.argmax(1) != actions).any()
    again = collect(envs.BitMDPEnv(mdp), expert, 50, seed=3, gamma=1.0)
    assert again.fingerprint() == data.fingerprint()
    assert collect(envs.BitMDPEnv(mdp), expert, 50, seed=4).fingerprint() != data.fingerprint()


def test_collecting_by_id_and_progress():
    pytest.importorskip("gymnasium")
    told = []

    class Bar:
        def __init__(self, total, description):
            assert total == 12

        def advance(self, n=1):
            told.append(n)

    expert = FunctionExpert(lambda states, _: np.zeros(len(states), dtype=np.int64))
    data = collect("modicum/ParityMDP-v0", expert, 12, progress=Bar)
    assert data.info["env_id"] == "modicum/ParityMDP-v0" and sum(told) == 12
    assert data.critic_q is None and data.next_values is None
    with pytest.raises(ValueError, match="n_steps must be at least 1"):
        collect("modicum/ParityMDP-v0", expert, 0)
    # Episodes have nine steps.
    whole = collect("modicum/ParityMDP-v0", expert, 20, whole_episodes=True)
    assert len(whole) == 18 and whole.terminated[-1]


def test_dictionaries_are_flattened_and_actions_counted_from_their_start():
    gymnasium = pytest.importorskip("gymnasium")
    spaces = gymnasium.spaces

    class Mixed(gymnasium.Env):
        observation_space = spaces.Dict(
            {"where": spaces.Box(-9, 9, (2,)), "which": spaces.Discrete(3)}
        )
        action_space = spaces.Discrete(2, start=5)

        def _state(self):
            where = np.full(2, self.time, dtype=np.float32)
            return {"where": where, "which": np.int64(self.time % 3)}

        def reset(self, *, seed=None, options=None):
            self.time = 0
            return self._state(), {}

        def step(self, action):
            self.time += int(action) - 5
            return self._state(), 1.0, self.time == 4, False, {}

    expert = FunctionExpert(lambda states, _: np.full(len(states["where"]), 6))
    data = collect(Mixed(), expert, 8)
    assert data.observations.shape == (8, 5) and data.n_episodes == 2
    np.testing.assert_array_equal(data.observations[:, 0], [0, 1, 2, 3] * 2)
    np.testing.assert_array_equal(data.observations[:, 2:].argmax(1), [0, 1, 2, 0] * 2)
    np.testing.assert_array_equal(data.actions, [[0.0, 1.0]] * 8)


def test_minari_data_set(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    box = gymnasium.spaces.Box(-9, 9, (2,), dtype=np.float64)
    episodes = []
    for length, over in ((4, True), (6, False)):
        states = rng.uniform(-1, 1, (length + 1, 2))
        ends = np.arange(length) == length - 1
        episodes.append(
            minari.data_collector.EpisodeBuffer(
                observations=list(states),
                actions=list(rng.integers(0, 3, length)),
                rewards=list(rng.normal(size=length)),
                terminations=list(ends & over),
                truncations=list(ends & (not over)),
            )
        )
    with warnings.catch_warnings():
        # Minari warns of everything that describes a data set and is not given.
        warnings.simplefilter("ignore")
        made = minari.create_dataset_from_buffers(
            "modicum/test-v0",
            buffer=episodes,
            observation_space=box,
            action_space=gymnasium.spaces.Discrete(3),
            code_permalink="none",
            author="none",
            author_email="none",
            algorithm_name="none",
            description="none",
            data_format="arrow",
        )
    data = RolloutData.from_minari(made)
    assert len(data) == 10 and data.n_episodes == 2 and data.actions.shape == (10, 3)
    assert data.terminated[3] and data.truncated[9]
    np.testing.assert_allclose(data.observations[1:4], data.next_observations[:3])
    np.testing.assert_allclose(data.rewards[:4], episodes[0].rewards)
    assert RolloutData.from_minari("modicum/test-v0").fingerprint() == data.fingerprint()


# MuJoCo -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pendulum():
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    environment = gymnasium.make(PENDULUM)
    yield environment
    environment.close()


def test_regulator_keeps_the_pendulum_up_for_a_whole_episode(pendulum):
    data = collect(pendulum, experts.lqr(pendulum), 1000, deterministic=True)
    assert data.rewards.sum() == 1000 and data.truncated[-1] and not data.terminated.any()
    assert any("the actions' variance" in sentence for sentence in data.cautions())


def test_linearisation_is_that_of_the_environments_own_steps(pendulum):
    from modicum.repcomplexity.integrations.mujoco import get_state, linearise, set_state

    A, B = linearise(pendulum)
    pendulum.reset(seed=0)
    rest = get_state(pendulum)
    environment = pendulum.unwrapped

    def after(position, velocity, control):
        set_state(pendulum, rest)
        environment.set_state(np.asarray(position), np.asarray(velocity))
        environment.do_simulation([control], environment.frame_skip)
        return np.concatenate([environment.data.qpos, environment.data.qvel])

    h = 1e-5
    for column in range(4):
        step = h * np.eye(4)[column]
        ahead, back = (after(sign * step[:2], sign * step[2:], 0.0) for sign in (1, -1))
        # Euler's rule for two steps of 0.02 s against a fourth-order one.
        np.testing.assert_allclose((ahead - back) / (2 * h), A[:, column], atol=0.05)
    slope = (after([0, 0], [0, 0], h) - after([0, 0], [0, 0], -h)) / (2 * h)
    np.testing.assert_allclose(slope, B[:, 0], rtol=0.1, atol=0.02)


def test_a_simulation_goes_on_from_a_state_as_it_did(pendulum):
    from modicum.repcomplexity.integrations.mujoco import get_state, set_state

    pendulum.reset(seed=1)
    state = get_state(pendulum)
    first = [pendulum.unwrapped.step(np.array([0.3], np.float32))[0] for _ in range(5)]
    set_state(pendulum, state)
    again = [pendulum.unwrapped.step(np.array([0.3], np.float32))[0] for _ in range(5)]
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="state must have"):
        set_state(pendulum, [0.0])


def test_refused_regulators(pendulum):
    with pytest.raises(ValueError, match="state_cost must be 4 numbers"):
        experts.lqr(pendulum, state_cost=[1.0])
    with pytest.raises(ValueError, match="observations must be the"):
        experts.lqr("Reacher-v5")


# stable-baselines3 ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sb3():
    return pytest.importorskip("stable_baselines3")


def untrained(sb3, algo, environment, **settings):
    return getattr(sb3, algo)(
        "MlpPolicy", environment, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **settings
    )


@pytest.mark.parametrize("algo", ["SAC", "TD3", "DDPG"])
def test_critics_of_actors(sb3, pendulum, algo, tmp_path):
    model = untrained(sb3, algo, pendulum, buffer_size=10)
    path = tmp_path / "model.zip"
    model.save(path)
    expert = experts.sb3(tmp_path / "model", algo)
    assert expert.fingerprint.startswith(f"{algo}:")
    data = collect(pendulum, expert, 40, seed=1)
    heads = 1 if algo == "DDPG" else 2
    assert data.critic_q.shape == (40, heads)
    # The critic's own layers, on actions scaled from [-3, 3] to [-1, 1].
    inputs = torch.tensor(np.hstack([data.observations, data.actions / 3]), dtype=torch.float32)
    with torch.no_grad():
        expected = [network(inputs).numpy()[:, 0] for network in model.critic.q_networks]
    np.testing.assert_allclose(data.critic_q, np.stack(expected, axis=1), atol=1e-5)
    np.testing.assert_allclose(
        data.policy,
        model.predict(data.observations.astype(np.float32), deterministic=True)[0],
        atol=1e-6,
    )
    sizes = sum(values.numel() for values in model.critic.parameters())
    assert data.info["critic_parameters"] == expert.n_parameters == sizes


def test_stochastic_actors_have_their_own_randomness(sb3, pendulum):
    expert = experts.sb3(untrained(sb3, "SAC", pendulum, buffer_size=10), "SAC")
    states = np.zeros((5, 4))
    torch.manual_seed(3)
    outside = torch.get_rng_state()
    expert.seed(1)
    first = expert.act(states, False)
    assert torch.equal(torch.get_rng_state(), outside)
    assert (expert.act(states, False) != first).all()
    expert.seed(1)
    np.testing.assert_array_equal(expert.act(states, False), first)


def test_ppo_knows_values_of_states_only(sb3, pendulum):
    model = untrained(sb3, "PPO", pendulum, n_steps=64)
    data = collect(pendulum, experts.sb3(model, "PPO"), 20)
    assert data.critic_q is None and data.q_source() == "mc"
    with torch.no_grad():
        expected = model.policy.predict_values(torch.tensor(data.next_observations).float())
    np.testing.assert_allclose(data.next_values, expected.numpy()[:, 0], atol=1e-6)
    assert np.isfinite(data.returns()).all()


def test_dqn_has_a_value_for_every_action(sb3):
    envs = pytest.importorskip("modicum.repcomplexity.envs.environment")
    environment = envs.BitMDPEnv(MajorityMDP(4))
    expert = experts.sb3(untrained(sb3, "DQN", environment, buffer_size=10), "DQN")
    expert.model.exploration_rate = 0.5
    data = collect(environment, expert, 60, gamma=1.0)
    table = expert.q_all(data.observations.astype(np.int8))
    actions = data.actions.argmax(1)
    np.testing.assert_allclose(data.q("critic"), table[np.arange(60), actions])
    np.testing.assert_allclose(data.values, table.max(1))
    assert (actions != table.argmax(1)).any() and (data.policy.argmax(1) == table.argmax(1)).all()


def test_statistics_of_a_normalised_environment_are_used(sb3, pendulum):
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    normalised = VecNormalize(DummyVecEnv([lambda: pendulum]))
    model = untrained(sb3, "SAC", normalised, buffer_size=10)
    normalised.obs_rms.mean[:] = 3.0
    plain, aware = experts.sb3(model, "SAC"), experts.sb3(model, "SAC", vec_normalize=normalised)
    states = np.ones((2, 4))
    expected = model.predict(normalised.normalize_obs(states), deterministic=True)[0]
    for expert in (plain, aware):
        np.testing.assert_array_equal(expert.act(states, True), expected)
    assert not np.allclose(expected, model.predict(states, deterministic=True)[0])


def test_unknown_algorithms_are_refused(sb3):
    with pytest.raises(ValueError, match="algo must be one of SAC, TD3"):
        experts.sb3("model.zip", "TRPO")


def test_no_engine_is_loaded_before_it_is_needed():
    code = (
        "import sys, modicum.repcomplexity.measure, modicum.repcomplexity.protocols,"
        " modicum.repcomplexity.collection, modicum.repcomplexity.plots\n"
        "loaded = {'gymnasium', 'mujoco', 'minari', 'stable_baselines3', 'matplotlib'}"
        " & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(loaded)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
