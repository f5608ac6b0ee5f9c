"""E-processes against their definition, by enumeration of outcomes and dynamic programming."""

import copy
import itertools
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.stats import EProcess, beta_bernoulli_log_marginal, log_e_process

STARTS = ("beginning", "mixture")
starts = st.sampled_from(STARTS)
seeds = st.integers(0, 2**32 - 1)


def reference_e_process(e_TJ: np.ndarray, weights_J: np.ndarray, start: str) -> list[float]:
    """E_1..E_T straight from the definitions, in plain (not log) arithmetic."""
    num_steps, num_components = e_TJ.shape
    weights_J = weights_J / weights_J.sum()
    values = []
    for t in range(1, num_steps + 1):
        total = 0.0
        for j in range(num_components):
            if start == "beginning":
                component = math.prod(e_TJ[:t, j])
            else:
                component = 1 / (t + 1)
                for first in range(1, t + 1):
                    component += math.prod(e_TJ[first - 1 : t, j]) / (first * (first + 1))
            total += weights_J[j] * component
        values.append(total)
    return values


def binary_paths(num_steps: int) -> np.ndarray:
    """All 0/1 sequences, int [2^T, T]."""
    return np.array(list(itertools.product((0, 1), repeat=num_steps)))


def predictable_e_values(
    paths_PT: np.ndarray, num_components: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Log e-values [P, T, J] and null probabilities [P, T] that depend on the past arbitrarily.

    At every node of the tree of histories the null probability of a 1 is drawn afresh, and each
    component bets an arbitrary probability vector k: e(s) = k(s) / p(s).
    """
    num_paths, num_steps = paths_PT.shape
    log_e_PTJ = np.empty((num_paths, num_steps, num_components))
    prob_PT = np.empty((num_paths, num_steps))
    for t in range(num_steps):
        node_P = paths_PT[:, :t] @ (2 ** np.arange(t))
        one_H = rng.uniform(0.01, 0.99, size=2**t)
        bet_HJ = rng.uniform(size=(2**t, num_components))
        # Some bets stake everything on one side.
        bet_HJ[rng.random(bet_HJ.shape) < 0.1] = 1.0
        hit_P = paths_PT[:, t] == 1
        prob_PT[:, t] = np.where(hit_P, one_H[node_P], 1 - one_H[node_P])
        bet_PJ = np.where(hit_P[:, None], bet_HJ[node_P], 1 - bet_HJ[node_P])
        with np.errstate(divide="ignore"):
            log_e_PTJ[:, t] = np.log(bet_PJ) - np.log(prob_PT[:, t, None])
    return log_e_PTJ, prob_PT


@settings(deadline=None, max_examples=30)
@given(seed=seeds, num_steps=st.integers(1, 10), num_components=st.integers(1, 4), start=starts)
def test_null_mean_is_exactly_one_for_every_predictable_bet(seed, num_steps, num_components, start):
    rng = np.random.default_rng(seed)
    paths_PT = binary_paths(num_steps)
    log_e_PTJ, prob_PT = predictable_e_values(paths_PT, num_components, rng)
    steps = log_e_PTJ[..., 0] if num_components == 1 else log_e_PTJ
    weights_J = rng.uniform(0.1, 1, size=num_components)
    log_value_PT = log_e_process(steps, num_components, weights_J, start)
    # The first t factors: every continuation of a history is listed, so the path weights of all
    # T steps average E_t correctly for each t.
    path_probability_P = prob_PT.prod(axis=1)
    np.testing.assert_allclose(path_probability_P @ np.exp(log_value_PT), 1.0, rtol=1e-11)


@settings(deadline=None, max_examples=60)
@given(seed=seeds, num_steps=st.integers(1, 12), num_components=st.integers(1, 5), start=starts)
def test_matches_definition(seed, num_steps, num_components, start):
    rng = np.random.default_rng(seed)
    e_TJ = rng.exponential(size=(num_steps, num_components))
    e_TJ[rng.random(e_TJ.shape) < 0.05] = 0.0
    weights_J = rng.uniform(0.1, 1, size=num_components)
    expected_T = reference_e_process(e_TJ, weights_J, start)
    process = EProcess(num_components, weights_J, start)
    with np.errstate(divide="ignore"):
        trajectory_T = process.update_many(np.log(e_TJ))
    np.testing.assert_allclose(np.exp(trajectory_T), expected_T, rtol=1e-12, atol=1e-300)
    assert process.e_value == pytest.approx(expected_T[-1], rel=1e-12, abs=1e-300)
    assert process.p_value == pytest.approx(min(1, 1 / max(1, *expected_T)), rel=1e-12)
    assert process.num_steps == num_steps


log_steps = st.one_of(st.floats(-30, 30), st.just(-math.inf))


@settings(deadline=None, max_examples=80)
@given(data=st.data(), num_components=st.integers(1, 9), start=starts)
def test_one_by_one_many_at_once_and_batched_agree(data, num_components, start):
    num_steps = data.draw(st.integers(0, 25))
    cut = data.draw(st.integers(0, num_steps))
    row = st.lists(log_steps, min_size=num_components, max_size=num_components)
    rows = data.draw(st.lists(row, min_size=num_steps, max_size=num_steps))
    log_e_TJ = np.array(rows).reshape(num_steps, num_components)
    single, split = (EProcess(num_components, start=start, alpha=0.01) for _ in range(2))
    one_by_one_T = [single.update(log_e_J) for log_e_J in log_e_TJ]
    in_parts_T = np.concatenate(
        [split.update_many(log_e_TJ[:cut]), split.update_many(log_e_TJ[cut:])]
    )
    np.testing.assert_array_equal(single.log_wealth, split.log_wealth)
    np.testing.assert_allclose(one_by_one_T, in_parts_T, rtol=1e-12, atol=1e-12)
    assert single.num_steps == split.num_steps == num_steps
    assert single.log_e_value == pytest.approx(split.log_e_value, rel=1e-12, abs=1e-12)
    assert single.max_log_e_value == pytest.approx(split.max_log_e_value, rel=1e-12, abs=1e-12)
    steps = log_e_TJ[:, 0] if num_components == 1 else log_e_TJ
    batch = log_e_process(np.stack([steps, steps]), num_components, start=start)
    np.testing.assert_allclose(batch, np.stack([one_by_one_T] * 2), rtol=1e-12, atol=1e-12)


def test_probability_of_ever_crossing_is_at_most_alpha_exactly():
    # Fair coin, bets "next is a match" with a grid of fractions: E_t depends on (t, matches) only,
    # so the crossing probability follows by dynamic programming, without simulation.
    num_steps, alpha = 120, 0.05
    fraction_J = np.array([0.1, 0.3, 0.6, 0.9])
    path_MT = np.tri(num_steps + 1, num_steps, -1, dtype=bool)  # row M: M matches, then none
    log_e_MTJ = np.where(path_MT[..., None], np.log1p(fraction_J), np.log1p(-fraction_J))
    log_value_MT = log_e_process(log_e_MTJ, num_components=4)
    alive_M = np.zeros(num_steps + 1)
    alive_M[0] = 1.0
    crossed = 0.0
    for t in range(1, num_steps + 1):
        alive_M[1:] = (alive_M[1:] + alive_M[:-1]) / 2
        alive_M[0] /= 2
        # Row M at step t >= M has exactly M matches.
        over_M = np.zeros(num_steps + 1, dtype=bool)
        over_M[: t + 1] = log_value_MT[: t + 1, t - 1] >= math.log(1 / alpha)
        crossed += alive_M[over_M].sum()
        alive_M[over_M] = 0.0
    assert alpha / 5 < crossed <= alpha
    assert crossed + alive_M.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("start", STARTS)
def test_ville_by_enumeration_of_all_paths(start):
    num_steps, alpha = 14, 0.1
    paths_PT = binary_paths(num_steps)
    log_e_PTJ, prob_PT = predictable_e_values(paths_PT, 2, np.random.default_rng(3))
    peak_P = log_e_process(log_e_PTJ, 2, start=start).max(axis=1)
    ever = prob_PT.prod(axis=1)[peak_P >= math.log(1 / alpha)].sum()
    assert 0 < ever <= alpha


def test_ville_is_tight_when_the_bet_stakes_everything():
    # Doubling at a fair coin reaches 1/alpha = 2^5 with probability exactly alpha.
    paths_PT = binary_paths(8)
    with np.errstate(divide="ignore"):
        log_value_PT = log_e_process(np.log(2.0 * paths_PT))
    assert np.mean(log_value_PT.max(axis=1) >= 5 * math.log(2) - 1e-12) == 2**-5


@pytest.mark.parametrize("start", STARTS)
def test_before_the_first_step(start):
    process = EProcess(3, start=start, alpha=0.01)
    assert (process.num_steps, process.log_e_value, process.e_value, process.p_value) == (
        0,
        0,
        1,
        1,
    )
    assert process.max_log_e_value == 0.0
    assert not process.stopped
    assert process.stopping_time is None
    assert process.start_estimate is None
    assert process.update_many(np.empty((0, 3))).shape == (0,)
    assert process == EProcess(3, start=start, alpha=0.01)


@pytest.mark.parametrize("batched", [False, True])
def test_stopping_time_is_the_first_crossing_and_stays(batched):
    process = EProcess(alpha=0.05)
    log_e_T = np.log([2.0, 0.5, 5.0, 5.0, 0.01, 100.0])  # wealth 2, 1, 5, 25, .25, 25
    if batched:
        process.update_many(log_e_T)
    else:
        for log_e in log_e_T:
            process.update(log_e)
    assert process.stopped
    assert process.stopping_time == 4
    assert process.e_value == pytest.approx(25)
    process.update(-math.inf)
    assert process.stopped
    assert (process.e_value, process.log_e_value) == (0.0, -math.inf)
    assert process.p_value == pytest.approx(1 / 25)
    process.update(3.0)
    assert process.log_e_value == -math.inf


def test_no_alpha_means_never_stopped():
    process = EProcess()
    process.update(50.0)
    assert not process.stopped
    assert process.stopping_time is None


def test_huge_evidence_is_reported_in_logs():
    process = EProcess()
    process.update_many(np.full(1000, 10.0))
    assert process.log_e_value == 10_000.0
    assert process.e_value == math.inf
    assert process.p_value == 0.0
    assert process.log10_e_value == pytest.approx(10_000 / math.log(10))
    edge = EProcess()
    edge.update(709.0)
    assert edge.e_value == math.exp(709.0)


def test_start_mixture_survives_a_long_stretch_without_evidence():
    log_e_T = np.concatenate([np.full(300, math.log(0.6)), np.full(60, math.log(1.4))])
    plain, mixed = EProcess(alpha=0.02), EProcess(start="mixture", alpha=0.02)
    plain.update_many(log_e_T)
    mixed.update_many(log_e_T)
    assert not plain.stopped
    # The start at 301 alone pays log(301 * 302) and needs log(1/alpha), at log 1.4 per step.
    assert 300 < mixed.stopping_time <= 300 + math.ceil(math.log(301 * 302 / 0.02) / math.log(1.4))
    assert mixed.start_estimate == 301


def brute_force_start(e_TJ: np.ndarray, weights_J: np.ndarray) -> int | None:
    values = reference_e_process(e_TJ, weights_J, "mixture")
    peak = int(np.argmax(values)) + 1
    if values[peak - 1] <= 1:
        return None
    terms = {
        first: max(weights_J * np.prod(e_TJ[first - 1 : peak], axis=0)) / (first * (first + 1))
        for first in range(1, peak + 1)
    }
    return max(terms, key=lambda first: terms[first])


@settings(deadline=None, max_examples=80)
@given(seed=seeds, num_steps=st.integers(1, 25), num_components=st.integers(1, 4))
def test_start_estimate_is_the_largest_term_at_the_peak(seed, num_steps, num_components):
    rng = np.random.default_rng(seed)
    e_TJ = rng.exponential(size=(num_steps, num_components)) * rng.choice([0.5, 1.0, 2.0])
    weights_J = rng.dirichlet(np.ones(num_components))
    process = EProcess(num_components, weights_J, "mixture")
    process.update_many(np.log(e_TJ))
    assert process.start_estimate == brute_force_start(e_TJ, weights_J)


@settings(deadline=None, max_examples=80)
@given(
    data=st.data(),
    num_components=st.integers(1, 4),
    start=starts,
    alpha=st.none() | st.floats(1e-12, 0.999),
)
def test_saving_keeps_every_bit_and_the_future(data, num_components, start, alpha):
    row = st.lists(log_steps, min_size=num_components, max_size=num_components)
    past = np.array(data.draw(st.lists(row, max_size=12))).reshape(-1, num_components)
    future = np.array(data.draw(st.lists(row, min_size=1, max_size=12)))
    weights = np.array(
        data.draw(st.lists(st.floats(0.01, 10), min_size=num_components, max_size=num_components))
    )
    process = EProcess(num_components, weights, start, alpha)
    process.update_many(past)
    copies = [
        EProcess.from_json(process.to_json()),
        EProcess.from_dict(process.to_dict()),
        pickle.loads(pickle.dumps(process)),
        copy.deepcopy(process),
    ]
    expected_T = process.update_many(future)
    for restored in copies:
        assert restored != process
        np.testing.assert_array_equal(restored.update_many(future), expected_T)
        assert restored == process
        assert restored.to_json() == process.to_json()


def test_json_is_standard_and_names_its_format():
    process = EProcess(2, start="mixture")
    process.update([-math.inf, 1.0])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    state = json.loads(process.to_json(), parse_constant=refuse)
    assert state["format"] == "modicum.core.stats.EProcess"
    assert state["version"] == 1
    assert state["log_wealth"][0] == "-inf"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something else"},
        {"version": 2},
        {"num_components": 3},
        {"num_components": "2"},
        {"alpha": 2.0},
        {"start": "end"},
        {"log_wealth": [0.0]},
        {"log_wealth": [0.0, math.nan]},
        {"log_wealth": 7},
        {"log_weights": [math.inf, 0.0]},
        {"best_start": [0]},
        {"num_steps": -1},
        {"stopping_time": 99},
        {"log_e_value": 5.0, "max_log_e_value": 1.0},
        {"log_e_value": math.nan},
    ],
)
def test_damaged_state_is_refused(change):
    process = EProcess(2, alpha=0.1)
    process.update([0.1, 0.2])
    with pytest.raises(ValueError):
        EProcess.from_dict(process.to_dict() | change)


@pytest.mark.parametrize("field", sorted(EProcess().to_dict()))
def test_missing_field_is_refused(field):
    state = EProcess().to_dict()
    del state[field]
    with pytest.raises(ValueError, match=r"expected format|lacks the field"):
        EProcess.from_dict(state)


@pytest.mark.parametrize("text", ["[]", "3", "not json"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError):
        EProcess.from_json(text)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_steps_that_are_no_e_values_and_keeps_its_state(bad, start):
    process = EProcess(2, start=start)
    process.update([0.5, -0.5])
    before = copy.deepcopy(process)
    with pytest.raises(ValueError, match="log_e holds"):
        process.update_many([[0.1, 0.1], [0.1, bad]])
    with pytest.raises(ValueError, match="log_e holds"):
        log_e_process([[0.1, bad]], 2, start=start)
    with pytest.raises(ValueError, match="shape"):
        process.update(0.1)
    with pytest.raises(ValueError, match="shape"):
        process.update_many([0.1, 0.2])
    with pytest.raises(ValueError, match="float64 range"), np.errstate(over="ignore"):
        process.update_many(np.full((3, 2), 1e308))
    assert process == before


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_components": 0}, ValueError),
        ({"num_components": 1.5}, TypeError),
        ({"num_components": True}, TypeError),
        ({"num_components": 2, "weights": [1.0]}, ValueError),
        ({"num_components": 2, "weights": [1.0, -1.0]}, ValueError),
        ({"num_components": 2, "weights": [0.0, 0.0]}, ValueError),
        ({"num_components": 2, "weights": [1.0, math.nan]}, ValueError),
        ({"start": "late"}, ValueError),
        ({"alpha": 0.0}, ValueError),
        ({"alpha": 1.0}, ValueError),
        ({"alpha": math.nan}, ValueError),
    ],
)
def test_refuses_wrong_configuration(arguments, error):
    with pytest.raises(error):
        EProcess(**arguments)


def test_batch_shape_errors():
    with pytest.raises(ValueError, match=r"\[\.\.\., T, 3\]"):
        log_e_process(np.zeros((5, 2)), num_components=3)
    with pytest.raises(ValueError, match=r"\[\.\.\., T\]"):
        log_e_process(0.0)
    assert log_e_process(np.zeros((2, 0, 7, 3)), num_components=3).shape == (2, 0, 7)


def test_weights_are_normalised_and_zero_weight_takes_no_part():
    process = EProcess(3, [3.0, 1.0, 0.0])
    np.testing.assert_allclose(process.weights, [0.75, 0.25, 0.0])
    assert process.update(np.log([2.0, 4.0, 1e6])) == pytest.approx(math.log(2.5), rel=1e-14)


def test_equality_is_by_value_and_processes_are_unhashable():
    first, second = EProcess(alpha=0.1), EProcess(alpha=0.1)
    assert first == second
    assert first != EProcess(alpha=0.2)
    assert first != "E"
    second.update(0.1)
    assert first != second
    with pytest.raises(TypeError):
        hash(first)
    assert "num_steps=1" in repr(second)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1.0, 1.0), (2.5, 0.7)])
def test_beta_marginal_is_the_product_of_its_predictions(a, b):
    rng = np.random.default_rng(0)
    hits = (rng.random(60) < 0.7).astype(int)
    log_probability, ones = 0.0, 0
    for t, hit in enumerate(hits):
        predicted = (a + ones) / (a + b + t)
        log_probability += math.log(predicted if hit else 1 - predicted)
        ones += hit
        value = beta_bernoulli_log_marginal(ones, t + 1, a, b)
        assert value == pytest.approx(log_probability, rel=1e-11)
    count = np.arange(13)
    multiplicity = np.array([math.comb(12, k) for k in count])
    total = multiplicity @ np.exp(beta_bernoulli_log_marginal(count, 12, a, b))
    assert total == pytest.approx(1.0, rel=1e-12)


def test_beta_marginal_regret_bound_and_errors():
    n = np.arange(1, 400)
    for k in (np.zeros_like(n), n // 3, n // 2, n):
        rate = k / n
        with np.errstate(divide="ignore", invalid="ignore"):
            best = np.nan_to_num(k * np.log(rate)) + np.nan_to_num((n - k) * np.log1p(-rate))
        regret = best - beta_bernoulli_log_marginal(k, n)
        assert np.all(regret <= np.log(n) / 2 + math.log(2) + 1e-9)
        assert np.all(regret > 0)
    for bad in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="matches"):
            beta_bernoulli_log_marginal(*bad)
    with pytest.raises(ValueError, match="positive"):
        beta_bernoulli_log_marginal(1, 3, a=0.0)


def test_import_is_light():
    code = (
        "import sys, time, numpy, numpy.typing; start = time.process_time(); "
        "import modicum.core.stats; print(time.process_time() - start); "
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'scipy', 'torch', 'matplotlib', 'typer', 'rich', 'transformers'}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert output[1] == "[]"
    assert float(output[0]) < 0.15
