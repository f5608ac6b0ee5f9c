"""Trees on the Majority MDP: rows, errors by closed form, and claims that can fail."""

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.repcomplexity.experiments import trees as experiment
from modicum.repcomplexity.experiments.trees import FEW_LEAVES, LEAVES, Errors, Plan, Rows

pytest.importorskip("sklearn")


def context(path, **settings):
    made = Experiment("trees", "modicum-repcomplexity", "title", "summary", experiment.run)
    return RunContext(made, path, **settings)


def errors(n, worst=0.0, few=0.1, q=0.8, q_few=0.9, pointer=0.0, spread=0.001):
    """Errors of three seeds that differ a little."""
    noise = spread * np.array([-1.0, 0.0, 1.0])
    caps = sorted({FEW_LEAVES, experiment.room_for_bit(n), *LEAVES})
    bits = {cap: np.full(3, worst) + (few + noise) * (cap == FEW_LEAVES) for cap in caps}
    values = {cap: q + noise + (q_few - q) * (cap == FEW_LEAVES) for cap in caps}
    return Errors(n, bits, bits, values, np.full(3, pointer), np.zeros(3))


def all_rows(n):
    """Every row twice: trees are grown on all and held to all, so that errors have closed forms."""
    b = n.bit_length() - 1
    codes = np.arange(1 << (n + b + 1))
    bits = (codes[:, None] >> np.arange(n + b + 1)) & 1
    pointer, x, action = bits[:, :b] @ (1 << np.arange(b)), bits[:, b : b + n], bits[:, -1]
    following = x ^ ((pointer[:, None] == np.arange(n)) & (action[:, None] == 1))
    twice = np.tile(bits, (2, 1)).astype(np.float32)
    return Rows(twice, twice[:, :b], np.tile(following, (2, 1)), np.zeros(len(twice)), len(codes))


def test_a_small_run_has_every_claim_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK", Plan((8, 16), 2_500, 2_500, 2))
    first = experiment.run(context(tmp_path))
    holds = {claim.name: claim.holds for claim in first.claims}
    assert list(holds) == [
        "model_n8", "q_n8", "model_n16", "q_n16", "q_grows", "ratio", "pointer",
    ]  # fmt: skip
    assert holds["model_n8"] and holds["model_n16"] and holds["pointer"] is None
    assert [row[:2] for row in first.tables[0].rows] == [
        [8, "drawn uniformly"],
        [8, "an earlier run"],
        [16, "drawn uniformly"],
        [16, "an earlier run"],
        [8, "each row once"],
    ]

    def no_more(*_):
        raise AssertionError("grown again")

    monkeypatch.setattr(experiment, "learn", no_more)
    monkeypatch.setattr(experiment, "learn_once", no_more)
    again = experiment.run(context(tmp_path))
    assert again.claims == first.claims and again.tables == first.tables


@pytest.mark.parametrize(("n", "error"), [(4, 0.0), (8, 3 / 32)])
def test_a_bit_takes_the_known_leaves_and_errors(n, error):
    rows = all_rows(n)
    needed = experiment.room_for_bit(n) - 4
    caps = [FEW_LEAVES, needed, needed + 4]
    for j in (0, n - 1):
        found = experiment.errors_by_leaves(rows, rows.representation[:, j], caps, seed=j)
        # One half of the tree is complete; of the other, leaves with 1 of 4 flipped are left.
        assert found == pytest.approx([error, 0.0, 0.0], abs=1e-12)
    assert experiment.errors_by_leaves(rows, rows.representation[:, 0], [needed - 1], 0)[0] > 1e-3


def test_a_complete_tree_is_not_grown_again(monkeypatch):
    import sklearn.tree

    rows, grown = all_rows(4), []
    original = sklearn.tree.DecisionTreeRegressor

    def counting(**settings):
        grown.append(settings["max_leaf_nodes"])
        return original(**settings)

    monkeypatch.setattr(sklearn.tree, "DecisionTreeRegressor", counting)
    found = experiment.errors_by_leaves(rows, rows.representation[:, 1], [4, 16, 64, 256], 0)
    assert grown == [4, 16] and found[0] > 0 and found[1:] == [0.0] * 3


def test_errors_are_those_of_rows_that_were_held_out():
    rng = np.random.default_rng(3)
    inputs = rng.integers(0, 2, (600, 12)).astype(np.float32)
    noise = rng.normal(size=600)
    rows = Rows(inputs, inputs, inputs, noise, 300)
    (error,) = experiment.errors_by_leaves(rows, noise, [256], 0)
    assert error > 1.2
    noise[300:] = 7.0
    noise[300] = 7.5
    # Centred by the mean of the other rows, far away: hardly a tree could be worse than that.
    (error,) = experiment.errors_by_leaves(rows, noise, [2], 0)
    assert error == pytest.approx(1.0, abs=0.05)


def test_rows_are_those_of_the_process_also_without_a_table_of_states():
    n = 32
    rows = experiment.draw(n, 30, 10, seed=5)
    assert rows.inputs.shape == (40, n + 5 + 1) and rows.grown_on == 30
    for row, pointer, x, q in zip(
        rows.inputs, rows.pointer, rows.representation, rows.q, strict=True
    ):
        c, action = int(row[:5] @ (1 << np.arange(5))), int(row[-1])
        expected = row[5:-1].copy()
        if action:
            expected[c] = 1 - expected[c]
        following = c if action else (c + 1) % n
        assert np.array_equal(x, expected)
        assert int(pointer @ (1 << np.arange(5))) == following
        wrong = [k for k in range(n) if not expected[(following + k) % n]]
        steps = len(wrong) + max(wrong, default=0)
        assert q == max(0, n + n // 2 - 1 - steps)


def test_rows_once_are_new_ones():
    rows = experiment.draw(4, 100, 28, seed=1, distinct=True)
    assert len(np.unique(rows.inputs, axis=0)) == 128 and experiment.share_seen(rows) == 0
    again = experiment.draw(4, 100, 400, seed=1)
    seen = {tuple(row) for row in again.inputs[:100]}
    share = np.mean([tuple(row) in seen for row in again.inputs[100:]])
    assert experiment.share_seen(again) == pytest.approx(share) and 0.3 < share < 0.8


def test_leaves_that_are_allowed():
    assert [experiment.room_for_bit(n) for n in (8, 16, 32)] == [14, 16, 18]


def test_one_bit_that_is_not_learnt_fails():
    assert experiment.model_claim(errors(8, worst=0.001)).holds is True
    assert experiment.model_claim(errors(8, worst=0.0011)).holds is False


def test_q_must_be_missed_with_its_whole_interval():
    assert experiment.q_claim(errors(8, q=0.61)).holds is True
    assert experiment.q_claim(errors(8, q=0.6)).holds is False
    claim = experiment.q_claim(errors(8, q=0.61, spread=0.01))
    assert claim.measured == pytest.approx(0.61) and claim.holds is False
    # Student's quantile for two degrees of freedom.
    assert claim.interval == pytest.approx(
        (0.61 - 4.302653 * 0.01 / 3**0.5, 0.61 + 4.302653 * 0.01 / 3**0.5)
    )


def test_growth_must_be_seen_at_every_number_of_leaves():
    rising = {8: errors(8, q=0.6), 16: errors(16, q=0.7), 32: errors(32, q=0.8)}
    assert experiment.growth_claim(rising).holds is True
    rising[32].q[256][:] = 0.7
    claim = experiment.growth_claim(rising)
    assert claim.holds is False and "256 leaves, n = 16 to 32" in claim.note


def test_the_ratio_must_grow_at_every_step():
    found = {8: errors(8, few=0.1), 16: errors(16, few=0.05), 32: errors(32, few=0.025)}
    claim = experiment.ratio_claim(found)
    assert claim.holds is True and claim.measured == pytest.approx(2, rel=0.01)
    assert "infinite" in claim.note
    found[32] = errors(32, few=0.05)
    assert experiment.ratio_claim(found).holds is False
    found[16] = errors(16, few=0.05, worst=0.01)
    assert "infinite" not in experiment.ratio_claim(found).note


def test_a_parity_is_counted_as_missed():
    claim = experiment.pointer_claim({8: errors(8, pointer=0.9), 16: errors(16)})
    assert claim.measured == 0.5 and claim.holds is None
    assert "3 of 3 for n = 8, 0 of 3 for n = 16" in claim.note
    # Exact interval of 3 in 6.
    assert claim.interval == pytest.approx((0.118117, 0.881883), abs=1e-6)
