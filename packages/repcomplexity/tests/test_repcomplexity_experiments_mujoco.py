"""The MuJoCo experiment: pooling over experts, what claims say, and what is not done twice."""

import csv
import functools
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext, run_experiments
from modicum.repcomplexity import experts
from modicum.repcomplexity.data import RolloutData
from modicum.repcomplexity.experiments import mujoco
from modicum.repcomplexity.experiments._pooled import Figures, mean_of, ratio_of
from modicum.repcomplexity.metrics import ErrorSums, nrmse_uncentred, zhu2024

TINY = mujoco.Plan(
    train_steps={"InvertedPendulum-v5": 0},
    experts=1,
    rows=400,
    widths=(4, 32),
    seeds=2,
    steps=20,
    epochs=1,
    rows_seen=1000,
)
EXPERIMENT = Experiment("mujoco", "modicum-repcomplexity", "t", "s", mujoco.run)


def rollouts(n=400, length=20, **change):
    """A linear process with a critic of a large unit that is easily represented."""
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(n, 3)), rng.normal(size=(n, 1))
    arguments = {
        "observations": state,
        "actions": action,
        "rewards": state[:, 0],
        "next_observations": state + 0.3 * action + 0.5 * rng.normal(size=(n, 3)),
        "terminated": np.arange(n) % length == length - 1,
        "truncated": np.zeros(n, bool),
        "q": 500 * state.sum(1),
        "next_values": np.zeros(n),
        "info": {"expert": "SAC:1", "critic_parameters": 100},
    }
    return RolloutData.from_arrays(**(arguments | change))


def context(folder, **options):
    return RunContext(EXPERIMENT, folder, **options)


ERRORS = {
    "next_obs": [0.2, 0.21],
    "reward": [0.1, 0.11],
    "policy": [0.3, 0.31],
    "q": [2.0, 2.1],
    "q_mc": [4.0, 4.1],
}


@functools.cache
def measurement(kind, seed):
    """Return networks measured on rows of a kind."""
    with tempfile.TemporaryDirectory() as folder:
        return mujoco.measured(context(folder), KINDS[kind](), replace(TINY, steps=150), seed)


KINDS = {
    "plain": rollouts,
    "constant reward": lambda: rollouts(rewards=np.ones(400)),
    "constant column": lambda: rollouts(
        observations=np.pad(rollouts().observations[:, :2], ((0, 0), (0, 1)))
    ),
}


def environment(kind="plain", zhu=ERRORS, feng=ERRORS, env_id="Hopper-v5"):
    """Return measured networks of two experts beside made-up errors of the papers' protocols."""
    arrays = [{name: np.array(row) for name, row in one.items()} for one in (zhu, feng)]
    cases = [mujoco.Case(n, KINDS[kind](), measurement(kind, n), *arrays) for n in (0, 1)]
    return mujoco.Environment(env_id, cases, 0)


# Pooling ----------------------------------------------------------------------------------------


def figures(*points, spread=0.0, count=2000):
    noise = np.random.default_rng(1).normal(size=(len(points), count))
    points = np.array(points, dtype=float)
    return Figures(points, points[:, None] * np.exp(spread * noise))


def test_a_ratio_is_a_geometric_mean_over_experts():
    found = ratio_of(figures(4.0, 9.0), figures(1.0, 1.0), 0)
    assert found.value == pytest.approx(6) and found.each == pytest.approx((4, 9))
    assert mean_of(figures(4.0, 9.0), 0).value == pytest.approx(6.5)


def test_three_experts_give_an_interval_from_the_least_to_the_greatest():
    # All three draws are of one expert in 1/27 of the resamples, more than a tail of 1/40.
    found = ratio_of(figures(2.0, 4.0, 16.0), figures(1.0, 1.0, 1.0), 0)
    assert (found.low, found.high) == pytest.approx((2, 16))


def test_resamples_stay_paired():
    same = figures(2.0, 5.0, spread=1.0)
    found = ratio_of(same, Figures(same.points / 3, same.samples / 3), 0)
    assert (found.low, found.value, found.high) == pytest.approx((3, 3, 3))


def test_one_expert_keeps_the_interval_of_its_own_resamples():
    one = figures(3.0, spread=0.5)
    found = mean_of(one, 0)
    ends = np.quantile(one.samples[0], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(ends, rel=0.02)


def test_an_expert_without_a_figure_is_left_out_and_named():
    found = mean_of(figures(1.0, np.nan, 3.0), 0)
    assert found.value == 2 and np.isnan(found.each[1])
    assert "2 of 3 experts" in mujoco.spelled(found)
    nothing = mean_of(figures(np.nan, np.nan), 0)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert mujoco.spelled(nothing) == "–" and mujoco.spelled(nothing, True) == "degenerate"
    assert nothing.above_one is None and mujoco.outcome(nothing) == "undefined"


def test_means_over_seeds_are_drawn_together_for_all_targets():
    errors = [np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 5.0])]
    doubled = [2 * row for row in errors]
    found = ratio_of(Figures.of_seeds(doubled, 0), Figures.of_seeds(errors, 0), 0)
    assert (found.low, found.value, found.high) == pytest.approx((2, 2, 2))


# Claims -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "reward", "holds"),
    [
        ([2.0, 2.1], [0.1, 0.11], True),
        ([0.1, 0.11], [0.1, 0.11], False),
        ([2.0, 2.1], [0.4, 0.41], False),
        ([0.1, 0.5], [0.1, 0.11], None),
    ],
)
def test_the_papers_order_holds_if_both_steps_do(q, reward, holds):
    zhu = ERRORS | {"q": q, "reward": reward, "next_obs": [0.2, 0.2]}
    claim = mujoco.zhu_claim(environment(zhu=zhu))
    assert claim.holds is holds
    assert claim.measured == pytest.approx(np.mean(q) / 0.2)
    assert claim.paper == pytest.approx(0.1003 / 0.0054)


def test_the_other_papers_order_needs_the_policy_between():
    feng = {"policy": [0.1, 0.1], "next_obs": [0.03, 0.03], "q": [0.2, 0.2], "q_mc": [0.2, 0.2]}
    good = mujoco.feng_claim(environment(feng=feng, env_id="HalfCheetah-v5"))
    assert good.holds and good.paper == pytest.approx(0.155 / 0.035)
    assert mujoco.feng_claim(environment(feng=feng | {"policy": [0.3, 0.3]})).holds is False


def test_one_order_holds_by_the_papers_metric_and_fails_by_pure_numbers():
    found = environment()
    claims = {claim.name: claim for claim in mujoco.claims_of(found)}
    assert len(claims) == 9
    paper, pure = claims["Hopper-q-zhu2024"], claims["Hopper-q-fvu"]
    assert paper.holds is True and pure.holds is False
    assert paper.paper == pytest.approx(0.1003 / 0.0054) and pure.paper is None
    assert claims["Hopper-q-nrmse_uncentred"].paper == pytest.approx(0.0085 / 0.0318)
    assert claims["Hopper-q_mc-fvu"].paper is None
    assert "Single experts" in paper.note and "few" in paper.note
    text = mujoco.summary(found)
    assert (
        "depends on metric" in text and "zhu2024: model easier" in text and "fvu: Q easier" in text
    )


def test_every_caution_is_printed_once():
    text = mujoco.cautions([environment("constant column")])
    for words in (
        "no statements about Q*",
        "single returns",
        "The critic has 100 parameters",
        "1 of 3 observation dimensions never change",
        "held-out episodes or blocks",
        "Noise of the process itself",
    ):
        assert text.count(words) == 1, words


def test_constant_rewards_are_degenerate_and_have_an_error_in_their_unit():
    found = environment("constant reward")
    table = mujoco.error_table(found)
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        for metric in ("fvu", "fvu_perdim", "feng2023", "feng2023_fixed"):
            assert (cells[metric] == "degenerate") == (cells["target"] == "reward")
        assert cells["rmse"] != "–"
    assert "All rewards are 1" in mujoco.cautions([found])
    assert all(claim.measured > 0 for claim in mujoco.claims_of(found))


def test_errors_of_the_protocol_are_made_scale_free():
    rng = np.random.default_rng(0)
    data = rollouts(n=320)
    prediction = data.next_observations + 0.1 * rng.normal(size=(320, 3))
    sums = ErrorSums.of(data.next_observations, prediction)
    case = mujoco.Case(0, data, None, {"next_obs": np.array([zhu2024(sums)])}, {})
    assert mujoco.scale_free(case, "next_obs") == pytest.approx(nrmse_uncentred(sums)[None])


def test_vectors_of_the_other_protocol_are_given_their_dimensions_back():
    table = mujoco.protocol_table(environment(env_id="HalfCheetah-v5"), TINY)
    rows = {(row[0], row[1]): row for row in table.rows}
    plain, fixed = rows["feng2023", "next_obs"], rows["feng2023 × √d", "next_obs"]
    assert plain[3] == 0.035 and fixed[3] == pytest.approx(0.035 * np.sqrt(3))
    assert float(fixed[4]) == pytest.approx(float(plain[4]) * np.sqrt(3), rel=1e-2)
    assert rows["feng2023 × √d", "q"][2:] == rows["feng2023", "q"][2:]
    assert rows["zhu2024", "q_mc"][3] is None


# Plans and rows ---------------------------------------------------------------------------------


def test_a_plan_is_checked():
    with pytest.raises(ValueError, match="widths must have 32"):
        replace(TINY, widths=(16,))
    with pytest.raises(ValueError, match="an environment and an expert"):
        replace(TINY, experts=0)


def test_experts_of_different_runs_are_different(tmp_path):
    seeds = [
        set(mujoco.seeds_of(context(tmp_path, seed=seed), replace(TINY, experts=3)))
        for seed in (0, 1)
    ]
    assert seeds == [{0, 1, 2}, {3, 4, 5}]


# Running ----------------------------------------------------------------------------------------


@pytest.fixture
def engines():
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")


def test_a_regulator_is_measured_without_training(engines, tmp_path):
    tiny = Experiment(
        "mujoco", "modicum-repcomplexity", "t", "s", lambda ctx: mujoco.run(ctx, TINY)
    )
    (result,) = run_experiments([tiny], tmp_path)
    assert result.status == "ok", result.error
    assert [claim.name.split("-")[0] for claim in result.claims] == ["InvertedPendulum"] * 7
    assert "noisy regulator" in result.claims[0].note
    assert result.files == ["errors.csv", "InvertedPendulum-v5-0.json"]
    folder = tmp_path / "modicum-repcomplexity" / "mujoco"
    with (folder / "errors.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {(row["expert"], row["networks"]) for row in rows}
    assert kinds == {("0", "alike"), ("all", "alike"), ("0", "protocol"), ("all", "protocol")}
    assert {row["target"] for row in rows} == {"next_obs", "delta", "reward", "policy", "q_mc"}


def critic_expert(*_, **__):
    """An expert that holds the pole up for a while, with two heads of a critic."""
    regulator = experts.lqr("InvertedPendulum-v5", noise=1.5)

    def q(observations, actions):
        value = 50 - np.square(observations).sum(1) - 0.1 * actions[:, 0]
        return np.stack([value, value - 1], axis=1)

    return experts.FunctionExpert(regulator.act, q)


def test_a_run_that_was_cut_off_goes_on(engines, tmp_path, monkeypatch):
    plan = replace(TINY, train_steps={"InvertedPendulum-v5": 5000}, experts=2, q_bug=True)
    monkeypatch.setattr(mujoco, "sac_expert", critic_expert)
    first = mujoco.run(context(tmp_path), plan)
    assert len(first.claims) == 9
    table = next(table for table in first.tables if table.title == "What was measured")
    assert [row[1] for row in table.rows] == [0, 1]

    def unexpected(*_, **__):
        raise AssertionError("done twice")

    for owner, name in (
        (mujoco.collection, "collect"),
        (mujoco.protocols, "zhu2024"),
        (mujoco.protocols, "feng2023"),
    ):
        monkeypatch.setattr(owner, name, unexpected)
    monkeypatch.setattr("modicum.repcomplexity.ensemble.MLPEnsemble.fit", unexpected)
    again = mujoco.run(context(tmp_path), plan)
    assert again.claims == first.claims and again.tables == first.tables

    # Rows of another plan are not those that are there.
    with pytest.raises(AssertionError, match="done twice"):
        mujoco.run(context(tmp_path), replace(plan, rows=500))
