import numpy as np
import pytest
import torch

from modicum.core.experiment import Experiment, RunContext
from modicum.daved.experiments import EXPERIMENTS
from modicum.daved.experiments import learned_features as experiment
from modicum.daved.experiments.learned_features import (
    BEFORE,
    BUDGETS,
    ENTK,
    FRANK_WOLFE,
    LAST,
    LEARNED,
    NEAREST,
    RANDOM,
    RAW,
    TUNED,
    TUNED_ON,
    WHOLE,
    probed,
)
from modicum.daved.markets import bundled_market


@pytest.fixture
def context(tmp_path):
    made = Experiment("learned_features", "modicum-daved", "title", "summary", experiment.run)
    return RunContext(made, tmp_path)


@pytest.fixture(scope="module")
def market():
    return bundled_market("friedman1", 5, validation=300, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def network(market):
    return experiment.train(market.validation_vd, market.validation_labels_v, 0)


def test_networks_learn_and_depend_on_the_seed_only(market, network):
    before = torch.random.get_rng_state()
    again = experiment.train(market.validation_vd, market.validation_labels_v, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    other = experiment.train(market.validation_vd, market.validation_labels_v, 1)
    answers = [
        net(experiment.as_inputs(market.rows_nd))[:, 0].detach().numpy()
        for net in (network, again, other)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.allclose(answers[0], answers[2])
    # The labels have a variance of 1; guessing the mean is off by that.
    assert np.square(answers[0] - market.labels_n).mean() < 0.4


def test_maps_give_one_market_in_other_features(market, network):
    maps = experiment.mapped(market, network, 0, quick=True)
    assert list(maps) == list(experiment.MAPS)
    assert maps[RAW] is market
    for name, one in maps.items():
        assert one.labels_n is market.labels_n and one.answers_m is market.answers_m
        np.testing.assert_allclose(np.linalg.norm(one.rows_nd, axis=1).mean(), 1, rtol=1e-9)
        assert one.rows_nd.shape[1] == one.queries_md.shape[1], name
        np.testing.assert_allclose(np.ptp(one.rows_nd[:, -1]), 0, atol=1e-12)
    assert maps[LEARNED].rows_nd.shape[1] == experiment.HIDDEN[-1] + 1
    assert maps[ENTK].rows_nd.shape[1] == experiment.QUICK_GRADIENTS + 1
    # What the last layer sees says, with a constant, all that the network says.
    answers = network(experiment.as_inputs(market.rows_nd))[:, 0].detach().numpy()
    rows = maps[LEARNED].rows_nd
    fitted = rows @ np.linalg.lstsq(rows, answers, rcond=None)[0]
    np.testing.assert_allclose(fitted, answers, atol=1e-4)


@pytest.mark.parametrize("kind", [LAST, WHOLE])
def test_copies_are_fine_tuned_as_if_alone(market, network, kind):
    start = {name: values.clone() for name, values in network.state_dict().items()}
    rows = experiment.as_inputs(market.rows_nd[:40]).reshape(2, 20, -1)
    labels = torch.tensor(market.labels_n[:40], dtype=torch.float32).reshape(2, 20)
    asked = experiment.as_inputs(market.queries_md[:2])
    found = experiment.fine_tuned(network, rows, labels, asked, TUNED[kind], 15)
    assert all(torch.equal(start[name], v) for name, v in network.state_dict().items())
    for copy in range(2):
        alone = experiment.train(market.validation_vd, market.validation_labels_v, 0)
        trained = [p for name, p in alone.named_parameters() if TUNED[kind](name)]
        assert len(trained) == (2 if kind == LAST else 6)
        optimizer = torch.optim.Adam(trained, experiment.TUNING_RATE)
        for _ in range(15):
            optimizer.zero_grad()
            (alone(rows[copy])[:, 0] - labels[copy]).square().mean().backward()
            optimizer.step()
        answer = alone(asked[copy : copy + 1])[0, 0].detach()
        torch.testing.assert_close(found[copy], answer, rtol=1e-3, atol=1e-3)
        assert abs(float(answer - network(asked[copy : copy + 1])[0, 0].detach())) > 0.005


def test_orders_have_what_is_bought_and_differ(market):
    orders = experiment.orders_of(market, np.random.default_rng(0))
    for mine in orders.values():
        assert len(mine) == 5
        assert all(len(set(order.tolist())) == len(order) == TUNED_ON for order in mine)
    distances = np.linalg.norm(market.rows_nd - market.queries_md[0], axis=1)
    assert orders[NEAREST][0][0] == distances.argmin()
    assert orders[FRANK_WOLFE][0].tolist() != orders[FRANK_WOLFE][1].tolist()


def _outcome(learned, raw, nearest, tuned, noise=0.0):
    columns, buyers = len(BUDGETS) + 1, 40
    by_name = {
        probed(LEARNED, FRANK_WOLFE): learned,
        probed(RAW, FRANK_WOLFE): raw,
        probed(LEARNED, NEAREST): nearest,
        probed(RAW, NEAREST): 2 * nearest,
        probed(LEARNED, RANDOM): 1.0,
        probed(RAW, RANDOM): 2.0,
    }
    probe = {name: np.full((buyers, columns), value) for name, value in by_name.items()}
    spread = noise * np.resize([-1.0, 1.0], (buyers, 1))
    after = {f"{kind}, {RANDOM}": np.full((buyers, 1), 0.5) for kind in TUNED}
    after |= {f"{kind}, {FRANK_WOLFE}": tuned + spread for kind in TUNED}
    return probe, {BEFORE: np.full((buyers, 1), 0.7), **after}


def test_claims_fail_where_they_should():
    good = experiment.claims("digits", *_outcome(0.2, 0.4, 0.3, 0.1), quick=False)
    assert all(claim.holds for claim in good)
    assert [claim.measured for claim in good] == pytest.approx(
        [0.5, 0.2, 0.2, 2 / 3, 2 / 3, 0.4, 0.4]
    )
    assert [claim.paper is not None for claim in good] == [False] * 5 + [True] * 2
    bad = experiment.claims("digits", *_outcome(0.6, 0.4, 0.3, 0.9), quick=False)
    assert [claim.holds for claim in bad] == [False, False, True, False, True, False, False]
    raw_loses = experiment.claims("digits", *_outcome(0.2, 1.2, 0.3, 0.1), quick=False)
    assert [claim.holds for claim in raw_loses] == [True, True, False, True, False, True, True]
    unsure = experiment.claims("digits", *_outcome(0.2, 0.4, 0.3, 0.49, noise=1.0), quick=False)
    assert [claim.holds for claim in unsure[5:]] == [None, None]
    # Three networks that differ: the interval is wider than that of buyers who don't.
    probe, tuned = _outcome(0.2, 0.4, 0.3, 0.1)
    probe, tuned = ({name: e[:39].copy() for name, e in part.items()} for part in (probe, tuned))
    probe[probed(LEARNED, FRANK_WOLFE)][:13] = 0.8
    one, three = (
        experiment.claims("digits", probe, tuned, networks, quick=False)[0] for networks in (1, 3)
    )
    assert one.measured == three.measured == pytest.approx(1.0)
    assert three.interval == pytest.approx((0.5, 2.0))
    assert one.interval[0] > 0.6 and one.interval[1] < 1.5
    assert "39 buyers in 3 networks" in three.note and "39 buyers in 1 network." in one.note
    # Nor does the sign say anything where the linear model's gain has none.
    probe, tuned = _outcome(0.2, 0.4, 0.3, 0.1)
    spread = np.resize([-1.0, 1.0], len(probe[probed(LEARNED, FRANK_WOLFE)]))[:, None]
    probe[probed(LEARNED, FRANK_WOLFE)][:] = 0.99 + spread
    unsure = experiment.claims("digits", probe, tuned, quick=False)
    assert [claim.holds for claim in unsure[-2:]] == [None, None]
    # A loss of the fine-tuned network agrees with a loss of the linear model.
    losing = experiment.claims("digits", *_outcome(1.5, 0.4, 0.3, 0.9), quick=False)
    assert [claim.holds for claim in losing[5:]] == [True, True]


def test_scaled_down_run_resumes_and_reports_what_it_kept(context, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_TABLES", ("friedman1",))
    monkeypatch.setattr(experiment, "QUICK_BUYERS", 8)
    monkeypatch.setattr(experiment, "QUICK_TUNING_EPOCHS", 5)
    monkeypatch.setattr(experiment, "STEPS", 30)
    monkeypatch.setattr(experiment, "EPOCHS", 60)
    result = experiment.run(context)
    probe, tuned = result.tables
    assert len(probe.rows) == len(experiment.MAPS) * len(experiment.METHODS)
    assert len(tuned.rows) == 1 + len(TUNED) * (len(experiment.METHODS) + 1)
    means = {(row[0], row[1]): np.mean(row[2 : 2 + len(BUDGETS)]) for row in probe.rows}
    ratio = means[LEARNED, FRANK_WOLFE] / means[RAW, FRANK_WOLFE]
    assert result.claims[0].measured == pytest.approx(ratio)
    errors = {row[0]: row[1] for row in tuned.rows}
    gain = errors[f"{WHOLE}, {RANDOM}"] - errors[f"{WHOLE}, {FRANK_WOLFE}"]
    assert result.claims[-1].measured == pytest.approx(gain)

    def never(*_, **__):
        raise AssertionError("a kept market was played again")

    monkeypatch.setattr(experiment, "play", never)
    again = experiment.run(context)
    assert [claim.measured for claim in again.claims] == [c.measured for c in result.claims]
    assert [table.rows for table in again.tables] == [table.rows for table in result.tables]


def test_a_missing_torch_is_named(context, monkeypatch):
    listed = {one.name: one for one in EXPERIMENTS}
    monkeypatch.setattr("modicum.daved.experiments.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "modicum-daved\[torch\]"'):
        listed["learned_features"].run(context)
