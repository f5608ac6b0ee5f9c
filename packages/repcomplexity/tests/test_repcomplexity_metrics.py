"""Metrics against their definitions, and the identities that say what each depends on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.metrics import (
    METRICS,
    ErrorSums,
    action_regret,
    feng2023,
    fvu,
    fvu_perdim,
    get_metric,
    nrmse,
    nrmse_uncentred,
    rmse,
    rollout_error,
    skill,
    zhu2024,
)
from modicum.repcomplexity.solver import solve

OF_ERRORS = {name: m for name, m in METRICS.items() if m.rows in ("train", "test")}

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(2, 80), st.integers(1, 6))


def rows(seed, n, d, offset=3.0):
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d) + offset
    return targets, targets + rng.normal(size=(n, d))


@given(seed=seeds, size=sizes)
@settings(max_examples=40, deadline=None)
def test_metrics_are_their_definitions(seed, size):
    y, p = rows(seed, *size)
    n, d = size
    sums = ErrorSums.of(y, p, reference=y + 0.5)
    error = ((p - y) ** 2).sum()
    per_dimension = ((p - y) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    assert fvu(sums) == pytest.approx(error / ((y - y.mean(0)) ** 2).sum())
    assert fvu_perdim(sums) == pytest.approx(per_dimension.mean())
    np.testing.assert_allclose(METRICS["fvu"](sums).per_dimension, per_dimension)
    assert rmse(sums) == pytest.approx(np.sqrt(((p - y) ** 2).mean()))
    assert nrmse(sums) == pytest.approx(np.sqrt(fvu(sums)))
    assert nrmse_uncentred(sums) == pytest.approx(np.linalg.norm(p - y) / np.linalg.norm(y))
    assert skill(sums) == pytest.approx(1 - error / (0.25 * n * d))
    assert sums.norm == pytest.approx(np.linalg.norm(y))
    np.testing.assert_allclose(sums.variance, y.var(0), rtol=1e-9)


@given(seed=seeds, batches=st.integers(1, 4), d=st.integers(1, 5), size=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_the_paper_metric_is_a_sum_over_batches(seed, batches, d, size):
    y, p = rows(seed, batches * size, d)
    parts = zip(np.split(y, batches), np.split(p, batches), strict=True)
    summed = sum(((part_p - part_y) ** 2).mean() for part_y, part_p in parts)
    sums = ErrorSums.of(y, p)
    assert zhu2024(sums, size) == pytest.approx(summed / np.linalg.norm(y))


@given(seed=seeds, size=sizes, batch=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_what_the_paper_metric_is_made_of(seed, size, batch):
    y, p = rows(seed, *size)
    n, d = size
    sums = ErrorSums.of(y, p)
    rms = np.sqrt((y**2).mean())
    expected = -(-n // batch) / np.sqrt(n * d) * rms * nrmse_uncentred(sums) ** 2
    assert zhu2024(sums, batch) == pytest.approx(expected, rel=1e-12)


@given(seed=seeds, size=sizes, unit=st.sampled_from([0.1, 0.5, 3.0, 10.0, 1e3]))
@settings(max_examples=60, deadline=None)
def test_units(seed, size, unit):
    y, p = rows(seed, *size)
    before = ErrorSums.of(y, p, reference=y + 1)
    after = ErrorSums.of(unit * y, unit * p, reference=unit * (y + 1))
    assert zhu2024(after) == pytest.approx(unit * zhu2024(before), rel=1e-10)
    for name, metric in OF_ERRORS.items():
        expected = metric.compute(before) * (1.0 if metric.scale_free else unit)
        assert metric.compute(after) == pytest.approx(expected, rel=1e-10), name


@given(seed=seeds, size=sizes, unit=st.sampled_from([2.0**-4, 2.0, 2.0**10]))
@settings(max_examples=30, deadline=None)
def test_units_that_are_powers_of_two_change_no_bit(seed, size, unit):
    y, p = rows(seed, *size)
    before, after = ErrorSums.of(y, p), ErrorSums.of(unit * y, unit * p)
    assert zhu2024(after) == unit * zhu2024(before)
    assert fvu(after) == fvu(before)


@given(seed=seeds, size=sizes)
@settings(max_examples=60, deadline=None)
def test_dimensions_in_the_metric_of_feng_and_zhong(seed, size):
    y, p = rows(seed, *size)
    sums = ErrorSums.of(y, p)
    root = np.sqrt(fvu(sums))
    assert feng2023(sums, fix_dims=False) == pytest.approx(root / np.sqrt(size[1]), rel=1e-12)
    assert feng2023(sums, fix_dims=True) == pytest.approx(root, rel=1e-12)
    assert METRICS["feng2023_fixed"].compute(sums) == feng2023(sums, fix_dims=True)


@given(seed=seeds, n=st.integers(2, 80), constant=st.floats(10, 1e4))
@settings(max_examples=60, deadline=None)
def test_a_constant_added_to_q(seed, n, constant):
    q, p = rows(seed, n, 1, offset=20.0)
    q = np.abs(q)
    before, after = ErrorSums.of(q, p), ErrorSums.of(q + constant, p + constant)
    assert fvu(after) == pytest.approx(fvu(before), rel=1e-6)
    for metric in (nrmse_uncentred, zhu2024):
        assert metric(after) < metric(before)


@given(seed=seeds, n=st.integers(3, 60), d=st.integers(1, 4), clusters=st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_clusters_add_up(seed, n, d, clusters):
    y, p = rows(seed, n, d)
    label = np.random.default_rng(seed).integers(0, clusters, n)
    parts = ErrorSums.of(
        y, p, center=y.mean(0), reference=0 * y, clusters=label, n_clusters=clusters
    )
    assert parts.rows.shape == (clusters,)
    whole = ErrorSums.of(y, p, reference=0 * y)
    for metric in OF_ERRORS.values():
        expected = metric.compute(whole)
        assert metric.compute(parts.total()) == pytest.approx(expected, rel=1e-9)
        twice = metric.compute(parts.weighted(np.full((3, clusters), 1.0)))
        np.testing.assert_allclose(twice, expected, rtol=1e-9)
    with_one = parts.weighted(np.eye(clusters))
    kept = [metric for metric in OF_ERRORS.values() if metric.name != "zhu2024"]
    for label_c in np.unique(label):
        mask = label == label_c
        alone = ErrorSums.of(y[mask], p[mask], center=y.mean(0), reference=0 * y[mask])
        for metric in kept:
            got = metric.compute(with_one)[label_c]
            np.testing.assert_allclose(got, metric.compute(alone), rtol=1e-6)


@pytest.mark.parametrize("level", [0.0, 1.0, 1e6])
def test_a_constant_target_is_degenerate(level):
    y = np.full((50, 1), level)
    sums = ErrorSums.of(y, y + 1)
    for name in ("fvu", "fvu_perdim", "nrmse", "feng2023", "feng2023_fixed"):
        value = METRICS[name](sums)
        assert value.degenerate and np.isnan(value.value), name
    assert METRICS["rmse"](sums).value == pytest.approx(1.0)
    assert METRICS["rmse"](sums).degenerate


def test_constant_dimensions_are_dropped_and_counted():
    y, p = rows(0, 40, 3)
    y[:, 1] = 4.0
    value = METRICS["fvu_perdim"](ErrorSums.of(y, p))
    kept = [0, 2]
    expected = ((p - y) ** 2).sum(0)[kept] / ((y - y.mean(0)) ** 2).sum(0)[kept]
    assert value.value == pytest.approx(expected.mean())
    assert value.constant_dimensions == 1 and not value.degenerate
    assert np.isnan(value.per_dimension[1])


def test_skill_without_a_reference_is_not_defined():
    y, p = rows(0, 10, 2)
    assert np.isnan(skill(ErrorSums.of(y, p)))


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), "predictions must have the shape"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "targets must be rows"),
        ([1.0, np.nan], [1.0, 2.0], "targets must be finite"),
        ([1.0, 1.0], [1.0, np.inf], "predictions must be finite"),
    ],
)
def test_refused_rows(targets, predictions, message):
    with pytest.raises(ValueError, match=message):
        ErrorSums.of(targets, predictions)


def test_refused_center_clusters_and_name():
    with pytest.raises(ValueError, match="center must have 1 numbers, not 2"):
        ErrorSums.of([1.0, 2.0], [1.0, 2.0], center=[0.0, 0.0])
    with pytest.raises(ValueError, match="clusters must have 2 rows"):
        ErrorSums.of([1.0, 2.0], [1.0, 2.0], clusters=[0])
    with pytest.raises(ValueError, match="no metric 'mse'; there are fvu"):
        get_metric("mse")


def test_regret_of_exact_values_is_zero_and_of_reversed_ones_is_the_gap():
    solution = solve(MajorityMDP(4))
    q = np.asarray(solution.Q, dtype=float)
    assert action_regret(q, q).max() == 0
    assert action_regret(2 * q + 1, q).max() == 0
    gap = np.abs(q[:, 0] - q[:, 1])
    np.testing.assert_array_equal(action_regret(-q, q), gap)
    assert gap.max() > 0


def test_rollouts_of_the_exact_model_have_no_error_and_of_a_standstill_the_distance():
    step = np.array([1.0, 2.0])
    states = np.arange(12)[:, None] * step
    episodes = np.repeat([0, 1], [7, 5])
    actions = np.ones((12, 1))

    def exact(observations, acts):
        return observations + acts * step

    for k in (1, 3, 5):
        starts, errors, _ = rollout_error(exact, states, actions, states + step, episodes, k)
        assert errors.max() == 0
        assert len(starts) == (7 - k + 1) + (5 - k + 1)
        _, errors, deviations = rollout_error(
            lambda s, a: s, states, actions, states + step, episodes, k, center=np.zeros(2)
        )
        np.testing.assert_allclose(errors, 5 * k**2)
        np.testing.assert_allclose(deviations, ((states[starts + k - 1] + step) ** 2).sum(1))
    with pytest.raises(ValueError, match="no episode has k = 8 steps"):
        rollout_error(exact, states, actions, states, episodes, 8)
    with pytest.raises(ValueError, match="k must be at least 1"):
        rollout_error(exact, states, actions, states, episodes, 0)
