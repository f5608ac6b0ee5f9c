"""The simulator of texts: laws of what it draws, and agreement with the e-process.

Statistical tests: Hoeffding bounds at 1e-8.
"""

import math

import numpy as np
import pytest

from modicum.core.stats import EProcess
from modicum.core.watermark.bank import TokenBank
from modicum.ewatermark import simulation
from modicum.ewatermark.evalues import AnchoredMixtureScore, AnchoredScore, DefensiveScore
from modicum.ewatermark.simulation import (
    NULLS,
    draw_rows,
    log_wealth,
    simulate,
    stopping_times,
)
from modicum.ewatermark.theory import entropy, growth_rate, total_variation

P = np.array([[0.5, 0.3, 0.2]])
Q = np.array([[0.2, 0.5, 0.3]])


def _slack(n: int, width: float = 1.0) -> float:
    return width * math.sqrt(math.log(2 / 1e-8) / (2 * n))


def _texts(n: int = 40_000, **changes):
    arguments = {
        "num_groups": 3,
        "num_texts": 1,
        "num_tokens": n,
        "rng": np.random.default_rng(0),
    }
    return simulate(Q, P, **(arguments | changes))


def test_match_rate_is_one_minus_total_variation() -> None:
    texts = _texts()
    assert abs(texts.match_RT.mean() - (1 - total_variation(Q[0], P[0]))) < _slack(40_000)


def test_pairs_follow_the_maximal_coupling() -> None:
    texts = _texts()
    for p, q in zip(P[0], Q[0], strict=True):
        seed = np.isclose(texts.seed_probability_RT, p)
        group = np.isclose(texts.token_probability_RT, p)
        assert abs(seed.mean() - p) < _slack(40_000)
        assert abs(group.mean() - q) < _slack(40_000)
        assert abs((seed & group).mean() - min(p, q)) < _slack(40_000)
        assert (texts.match_RT[seed & group]).all()


def test_growth_agrees_with_theory() -> None:
    texts = _texts()
    for score, name in ((AnchoredScore(3, 0.3), "anchored"), (DefensiveScore((0.3,)), "defensive")):
        values = score.log_e(texts.flat())[:, 0]
        expected = float(growth_rate(P[0], Q[0], score=name, delta=0.3, fraction=0.3))
        assert abs(values.mean() - expected) < _slack(40_000, float(np.ptp(values)))


@pytest.mark.parametrize("null", NULLS)
def test_nulls_have_their_laws_and_do_not_depend_on_the_seed(null: str) -> None:
    texts = _texts(null=null)
    group_law = {
        "anchor-argmax": np.array([1.0, 0.0, 0.0]),
        "anchor-sample": P[0],
        "target-sample": Q[0],
        "uniform": np.full(3, 1 / 3),
    }[null]
    for k, p in enumerate(P[0]):
        seed = np.isclose(texts.seed_probability_RT, p)
        group = np.isclose(texts.token_probability_RT, p)
        assert abs(group.mean() - group_law[k]) < _slack(40_000)
        assert abs((seed & group).mean() - group_law[k] * p) < _slack(40_000)
    assert abs(texts.match_RT.mean() - group_law @ P[0]) < _slack(40_000)


def test_entropy_and_support_are_the_anchors() -> None:
    texts = _texts(10)
    np.testing.assert_allclose(texts.entropy_RT, float(entropy(P[0])))
    assert (texts.support_RT == 3).all()
    truncated = simulate(
        Q,
        np.array([[0.6, 0.4, 0.0]]),
        num_groups=3,
        num_texts=1,
        num_tokens=200,
        rng=np.random.default_rng(1),
    )
    assert (truncated.support_RT == 2).all()
    assert (truncated.seed_probability_RT > 0).all()


def test_hashed_groups_have_the_mass_of_their_tokens() -> None:
    # Three tokens hashed to two groups: a mass is p(v) plus any subset of the others.
    texts = _texts(2000, num_groups=2)
    sums = {0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0}
    assert {round(float(x), 9) for x in np.unique(texts.token_probability_RT)} <= sums
    assert (texts.entropy_RT <= math.log(2) + 1e-12).all()


def test_balanced_partition_raises_entropy() -> None:
    bank = TokenBank.build("base", num_contexts=200, vocab_size=64)
    mean = {}
    for partition in ("hash", "balanced"):
        texts = simulate(
            bank.target_BV,
            bank.anchor_BV,
            num_groups=2,
            num_texts=1,
            num_tokens=4000,
            rng=np.random.default_rng(2),
            partition=partition,
        )
        mean[partition] = texts.entropy_RT.mean()
    # Entropies lie in [0, log 2]; the difference is about 0.14.
    assert mean["balanced"] > mean["hash"] + 2 * _slack(4000, math.log(2))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "CHUNK_ELEMENTS", 3 * 17)
    texts = _texts(100, num_texts=5)
    assert texts.match_RT.shape == (5, 100)
    assert texts.text(3).match_T.tolist() == texts.match_RT[3].tolist()
    assert len(texts.flat()) == 500


def test_seeded() -> None:
    first, second = _texts(50), _texts(50)
    np.testing.assert_array_equal(first.match_RT, second.match_RT)
    other = _texts(50, rng=np.random.default_rng(1))
    assert (first.match_RT != other.match_RT).any()


@pytest.mark.parametrize("start", ["beginning", "mixture"])
@pytest.mark.parametrize(
    "score", [AnchoredScore(3, 0.3), AnchoredMixtureScore(3), DefensiveScore()]
)
def test_log_wealth_is_the_detectors_e_process(score, start: str) -> None:
    texts = _texts(60, num_texts=3)
    got = log_wealth(score, texts, start=start)
    for row in range(3):
        process = EProcess(len(score.weights), weights=score.weights, start=start, alpha=0.01)
        log_e = score.log_e(texts.text(row))
        expected = process.update_many(log_e)
        np.testing.assert_allclose(got[row], expected, atol=1e-10)


def test_draw_rows() -> None:
    law = np.broadcast_to([0.0, 0.25, 0.75, 0.0], (40_000, 4))
    drawn = draw_rows(law, np.random.default_rng(3))
    assert set(np.unique(drawn)) == {1, 2}
    assert abs((drawn == 2).mean() - 0.75) < _slack(40_000)


def test_stopping_times() -> None:
    crossed = np.array([[False, True, True], [False, False, False], [True, False, False]])
    np.testing.assert_array_equal(stopping_times(crossed), [2.0, math.inf, 1.0])


def test_doors() -> None:
    with pytest.raises(ValueError, match="alike"):
        simulate(Q, P[:, :2] / 0.8, **_arguments())
    with pytest.raises(ValueError, match="num_groups"):
        simulate(Q, P, **_arguments(num_groups=4))
    with pytest.raises(ValueError, match="positive"):
        simulate(Q, P, **_arguments(num_texts=0))
    with pytest.raises(ValueError, match="unknown partition"):
        simulate(Q, P, **_arguments(partition="none"))
    with pytest.raises(ValueError, match="unknown null"):
        simulate(Q, P, **_arguments(null="human"))
    with pytest.raises(ValueError, match="must sum to 1"):
        simulate(2 * Q, P, **_arguments())


def _arguments(**changes):
    base = {
        "num_groups": 3,
        "num_texts": 1,
        "num_tokens": 5,
        "rng": np.random.default_rng(0),
    }
    return base | changes
