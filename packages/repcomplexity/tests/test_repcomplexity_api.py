"""The public interface as its documentation shows it, run for real."""

import json

import numpy as np
import pytest
import torch

import modicum.repcomplexity as rc
from modicum.repcomplexity import functions

CPU = {"device": "cpu"}


def test_environments_are_made_by_name():
    gym = pytest.importorskip("gymnasium")
    env = gym.make(
        "modicum/MajorityMDP-v0",
        n=16,
        control="increment",
        reward_state=None,
        condition=None,
        slip=0.0,
        horizon=None,
    )
    observation, _ = env.reset(seed=0)
    assert observation.shape == (20,) and observation.dtype == np.int8
    steps = 0
    while True:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if terminated or truncated:
            break
    assert terminated and steps == 24
    control = [*range(1, 16), 0]
    assert gym.make("modicum/MajorityMDP-v0", n=16, control=control).unwrapped.mdp.n == 16
    assert gym.make_vec("modicum/MajorityMDP-v0", num_envs=3, n=4).reset(seed=0)[0].shape == (3, 6)
    env.close()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batches_of_environments_on_a_device(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    venv = rc.TorchVecMDP(rc.MajorityMDP(n=16), num_envs=4096, device=device)
    observation, _ = venv.reset(seed=0)
    assert observation.shape == (4096, 20) and observation.device.type == device
    for _ in range(25):
        observation, reward, terminated, truncated, _ = venv.step(venv.sample_actions())
    assert reward.shape == terminated.shape == truncated.shape == (4096,)
    # The episode of 24 steps is over, and the step after it began the next one.
    assert (venv.steps == 0).all()


def test_exact_solution():
    sol = rc.solve(rc.MajorityMDP(n=8))
    assert sol.Q.shape == (2048, 2) and sol.V.shape == sol.policy.shape == sol.T.shape == (2048,)
    assert int(np.asarray(sol.V, dtype=np.int64).sum()) == 4392
    assert round(float((sol.V > 0).mean()), 4) == 0.7227
    # Q is that of a step: another one is asked for.
    assert (sol.at(12).V == sol.at(12).Q.max(1)).all() and sol.at(12).step == 12


def test_report_of_a_process(tmp_path):
    rep = rc.complexity_report(
        rc.MajorityMDP(n=4), targets=("transition", "reward", "q", "policy"), time_limit=60
    )
    rulers = rep.by_ruler("transition"), rep.by_ruler("q")
    assert [one["depth-2 terms"] for one in rulers] == [(4, 4), (22, 22)]
    assert rep.to_markdown().startswith("# MajorityMDP(n=4)")
    path = rep.save(tmp_path / "r.json")
    assert rc.ComplexityReport.load(path).rows() == rep.rows()
    assert rep.targets == ("transition", "reward", "q", "policy")
    assert set(rep.targets) <= set(functions.TARGETS)


def test_report_has_a_table_and_a_picture(tmp_path):
    rep = rc.complexity_report(rc.ParityMDP(n=2))
    pytest.importorskip("pandas")
    assert len(rep.to_frame()) == len(rep.rows())
    pytest.importorskip("matplotlib")
    assert rep.plot(tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_report_of_a_family():
    found = rc.scaling_report(rc.MajorityMDP, ns=[4, 8, 16, 32], max_inputs=7)
    assert found.series("value", "depth-2 terms", "lower")[32] >= 300_540_195
    grown = {(one.target, one.measure, one.end): one.answer for one in found.growth()}
    assert grown["value", "depth-2 terms", "lower"] == "exponential"


def test_truth_tables():
    def fn(codes):
        return (codes & 1) + (codes >> 1 & 1) + (codes >> 2 & 1) >= 2

    tt = rc.TruthTable.from_callable(fn, 3)
    assert tt == rc.TruthTable.from_bits([0, 0, 0, 1, 0, 1, 1, 1])
    assert tt == rc.TruthTable.from_hex("e8", m=3)
    assert tt.words.dtype == np.uint64
    spectrum = tt.fourier()
    assert spectrum.degree == 3 and sum(spectrum.weights) == 1 and tt.tail(1) == 0.25
    assert tt.influences().tolist() == [0.5, 0.5, 0.5]
    found = tt.certificate_complexity()
    assert (found.zeros, found.ones) == (2, 2)
    dnf, cnf = tt.min_dnf(time_limit=10), tt.min_cnf()
    assert dnf.proved and dnf.upper == cnf.upper == 3
    assert tt.obdd_size() == 4
    assert rc.bounds.dnf_width(tt) == 1.5 <= found.ones


def test_smallest_circuit_of_a_truth_table():
    pytest.importorskip("pysat")
    tt = rc.TruthTable.from_hex("e8", m=3)
    found = tt.min_circuit(basis="B2")
    assert found.proved and found.upper == 4
    assert rc.min_circuit(tt).upper == 4 and rc.min_depth_circuit(tt, 2).upper == 4


def test_circuits(tmp_path):
    c = rc.Circuit(n_inputs=3)
    g = c.and_(c.in_(0), ~c.in_(1))
    c.output(g)
    assert (c.depth, c.size) == (1, 1)
    bits_tensor = torch.tensor([[1, 0, 0], [1, 1, 0]])
    assert c(bits_tensor).tolist() == [[True], [False]]
    assert c.simplify().size == 1
    assert c.to_aiger().startswith(b"aag 4 3 0 1 1\n")
    assert c.to_cnf().clauses
    assert c.to_torch()(bits_tensor.float()).tolist() == [[1.0], [0.0]]
    path = rc.write_circuit(c, tmp_path / "c.aig")
    assert (rc.read_circuit(path).truth_values() == c.truth_values()).all()
    assert rc.builders.q_circuit(4).circuit_class == "TC0"


def test_bounds():
    tail, k, n, depth = 0.5, 2**21, 10_000, 2
    assert rc.bounds.lmn_size(tail, k, depth) > 1
    assert rc.bounds.smolensky_size(n, depth, q=3) > 3.3
    with pytest.raises(ValueError, match="q must be an odd prime"):
        rc.bounds.smolensky_size(n, depth, q=4)


def test_limits_are_an_error_of_their_own():
    with pytest.raises(rc.ComplexityLimitError):
        rc.complexity_report(rc.MajorityMDP(n=32))
    assert issubclass(rc.ComplexityLimitError, ValueError)


def test_rows_from_arrays_and_files(tmp_path):
    rng = np.random.default_rng(0)
    obs, act = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    truncated = np.arange(40) % 10 == 9
    data = rc.RolloutData.from_arrays(
        obs, act, obs[:, 0], obs + 0.1 * act, np.zeros(40, bool), truncated, q=obs[:, 1]
    )
    path = data.save(tmp_path / "rows.npz")
    assert rc.RolloutData.from_npz(path).fingerprint() == data.fingerprint()
    assert data.n_episodes == 4


def test_measuring_rows(tmp_path):
    data = rc.sample_bit_mdp(rc.MajorityMDP(n=4), 400)
    m = rc.measure(
        data,
        targets=("delta", "next_obs", "reward", "policy", "q"),
        widths=(8, 16),
        depth=2,
        seeds=2,
        metrics=("fvu", "fvu_perdim", "zhu2024"),
        steps=50,
        **CPU,
    )
    assert isinstance(m, rc.Measurement)
    assert m.table().count("\n| q |") == 2
    names = {row.metric for row in m.verdict().comparisons}
    assert names == {"fvu", "fvu_perdim", "zhu2024"}
    assert json.loads(m.to_json())["settings"]["rows"] == 400
    pytest.importorskip("matplotlib")
    m.plot_curves(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_protocols_of_the_papers():
    data = rc.sample_bit_mdp(rc.MajorityMDP(n=4), 200)
    zhu = rc.protocols.zhu2024(data, epochs=1, seeds=2, **CPU)
    feng = rc.protocols.feng2023(data, fix_dims=False, rows_seen=2000, seeds=2, widths=(16,), **CPU)
    assert zhu.errors["q", 32].shape == feng.errors["q", 16].shape == (2,)
    assert "zhu2024" in rc.metrics.METRICS


def test_rows_of_a_trained_expert(tmp_path):
    """A model saved by stable-baselines3 acts in one of MuJoCo's environments."""
    sb3 = pytest.importorskip("stable_baselines3")
    pytest.importorskip("mujoco")
    sac = sb3.SAC("MlpPolicy", "Hopper-v5", policy_kwargs={"net_arch": [8]}, seed=0, **CPU)
    sac.save(tmp_path / "sac.zip")
    expert = rc.experts.sb3(tmp_path / "sac.zip", algo="SAC")
    data = rc.collect("Hopper-v5", expert=expert, n_steps=100, deterministic=False, seed=0)
    assert len(data) == 100 and data.critic_q.shape == (100, 2)
    assert data.q_source() == "critic" and data.n_episodes > 1
