"""What hides something, what it costs, and what it does not change."""

import json

import numpy as np
import pytest
from scipy import stats

from modicum.daved.features import Identity, Standardize
from modicum.daved.federated import AggregateBuyer, Buyer, LocalTransport, Seller
from modicum.daved.federated.messages import (
    AskGram,
    Gram,
    Hello,
    Masked,
    Refused,
    Reveal,
    Score,
    decode,
    encode,
)
from modicum.daved.federated.noise import laplace, sensitivity
from modicum.daved.federated.projections import RandomRotation, RandomSketch, map_from_dict
from modicum.daved.pool import ArrayPool

N, D, M, PARTS = 160, 6, 2, 4


def _market(seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(N, D)) * rng.uniform(0.3, 3, size=D)
    return rows, rows.sum(axis=1), rng.uniform(1, 4, size=N), rng.normal(size=(M, D))


def _sellers(rows, labels, prices, **options):
    shards = np.array_split(np.arange(N), PARTS)
    return [
        Seller(rows[own], labels[own], prices[own], secret=bytes([place]) * 16, **options)
        for place, own in enumerate(shards)
    ]


def _rows_of(sellers, purchase):
    firsts = np.cumsum([0, *(len(seller.rows) for seller in sellers)])
    return [int(firsts[seller]) + index for seller, index in purchase.bought]


@pytest.mark.parametrize("seed", range(12))
def test_a_rotation_changes_neither_picks_nor_objective_nor_purchase(seed):
    rows, labels, prices, queries = _market(seed)
    turn = RandomRotation(Identity(), seed=99 + seed).fit(queries)
    mark = turn.fingerprint()
    plain = Buyer(queries, max_iter=40).buy(LocalTransport(_sellers(rows, labels, prices)), 25)
    sellers = _sellers(turn.transform(rows), labels, prices, features=mark)
    turned = Buyer(turn.transform(queries), features=mark, max_iter=40)
    found = turned.buy(LocalTransport(sellers), 25)
    assert found.picks == plain.picks and found.bought == plain.bought
    assert found.objective == pytest.approx(plain.objective, rel=1e-11)
    np.testing.assert_array_equal(found.labels_kq, plain.labels_kq)
    np.testing.assert_allclose(found.rows_kd @ turn.matrix_.T, plain.rows_kd, atol=1e-12)
    # It does hide: no value of a row is left as it was.
    assert not np.isclose(found.rows_kd, plain.rows_kd, rtol=1e-6).any()


def test_masked_sums_are_turned_as_well():
    rows, labels, prices, queries = _market()
    turn = RandomRotation(Identity(), seed=5).fit(rows)
    plain, turned = (
        AggregateBuyer(q, max_iter=20).buy(LocalTransport(_sellers(x, labels, prices)), 20)
        for x, q in ((rows, queries), (turn.transform(rows), turn.transform(queries)))
    )
    assert turned.bought == plain.bought
    assert turned.objective == pytest.approx(plain.objective, rel=1e-4)


def test_the_rotation_is_orthogonal_and_uniform():
    turns = np.array(
        [RandomRotation(Identity(), seed).fit(np.zeros((1, 3))).matrix_ for seed in range(2000)]
    )
    one = np.broadcast_to(np.eye(3), turns.shape)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), one, atol=1e-12)
    # A coordinate of a uniform direction in three dimensions is uniform in [-1, 1]. The least of
    # nine p-values of random seeds is below 1e-7 once in 1e6.
    tests = [
        stats.kstest(turns[:, i, j], stats.uniform(-1, 2).cdf).pvalue
        for i in range(3)
        for j in range(3)
    ]
    assert min(tests) > 1e-7
    # Both orientations: of 2000 fair coins 880 to 1120 come up, but once in 1e7.
    assert 880 < (np.linalg.det(turns) > 0).sum() < 1120


def test_a_sketch_keeps_inner_products_on_average():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(2, 50))
    wanted = rows[0] @ rows[1]
    found = []
    for seed in range(1000):
        left, right = RandomSketch(Identity(), 20, seed).fit(rows).transform(rows)
        found.append(left @ right)
    # The mean of 1000 within 5.5 standard errors: wrong by chance once in 2e7 choices of seeds.
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - wanted) < 5.5 * error
    spread = np.sqrt((rows[0] @ rows[0] * (rows[1] @ rows[1]) + wanted**2) / 20)
    assert np.std(found) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("make", [RandomRotation, lambda base, seed: RandomSketch(base, 3, seed)])
def test_a_projection_is_part_of_the_fingerprint_and_can_be_handed_on(make):
    rows, _, _, _ = _market()
    mine = make(Standardize(), 7).fit(rows)
    theirs = map_from_dict(json.loads(json.dumps(mine.describe())))
    assert theirs.fingerprint() == mine.fingerprint()
    np.testing.assert_array_equal(theirs.transform(rows), mine.transform(rows))
    np.testing.assert_array_equal(
        np.concatenate(mine.transform([rows[:9], rows[9:]])), mine.transform(rows)
    )
    others = [make(Standardize(), 8).fit(rows), make(Identity(), 7).fit(rows), Standardize()]
    others[-1].fit(rows)
    assert len({other.fingerprint() for other in (mine, *others)}) == 4
    assert mine.transform(rows.astype(np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="differs from the one described"):
        map_from_dict({**mine.describe(), "draws_sha256": "0"})
    with pytest.raises(ValueError, match="is one of 6 features, the rows have 5"):
        make(Identity(), 7).fit(rows).transform(rows[:, :5])
    with pytest.raises(ValueError, match="nothing fitted yet"):
        make(Identity(), 1).describe()


def test_a_seller_with_another_seed_is_found_out():
    rows, labels, prices, queries = _market()
    marks = [RandomRotation(Identity(), seed).fit(rows).fingerprint() for seed in (1, 2)]
    sellers = _sellers(rows, labels, prices, features=marks[1])
    with pytest.raises(ValueError, match="must use the same fitted feature map"):
        Buyer(queries, features=marks[0]).buy(LocalTransport(sellers), 10)


def test_inflated_rows_are_shortened_announced_and_held_to_it():
    rows, labels, prices, queries = _market()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    inflated = rows.copy()
    inflated[::10] *= 5
    sellers = _sellers(inflated, labels, prices, max_norm=1.0)
    buyer = Buyer(queries, max_norm=1.0, max_iter=30)
    honest = Buyer(queries, max_iter=30).buy(LocalTransport(_sellers(rows, labels, prices)), 20)
    found = buyer.buy(LocalTransport(sellers), 20)
    assert found.picks == honest.picks
    assert found.objective == pytest.approx(honest.objective, rel=1e-12)
    assert np.linalg.norm(found.rows_kd, axis=1).max() < 1 + 1e-12
    cheat = Buyer(queries, max_iter=30).buy(LocalTransport(_sellers(inflated, labels, prices)), 20)
    assert cheat.objective < 0.5 * honest.objective
    for announced in (None, 2.0):
        others = _sellers(inflated, labels, prices, max_norm=announced)
        with pytest.raises(ValueError, match=r"seller 0 announces max_norm .* at most 1 is asked"):
            buyer.buy(LocalTransport(others), 20)


@pytest.mark.parametrize("kind", [Buyer, AggregateBuyer])
def test_a_row_longer_than_announced_is_not_paid_for(kind):
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices)
    for seller in sellers:
        seller.max_norm = 1.0  # says so, and does not do it
    with pytest.raises(ValueError, match=r"gave a row of norm .*, its max_norm is 1"):
        kind(queries, max_norm=1.0, max_iter=10).buy(LocalTransport(sellers), 20)


def test_noise_has_the_laplace_distribution():
    draws = laplace(b"secret", b"question", 100_000, 2.5)
    # Kolmogorov-Smirnov: another secret and question give a p-value below 1e-7 once in 1e7.
    assert stats.kstest(draws, stats.laplace(scale=2.5).cdf).pvalue > 1e-7
    # The mean within 5.5 standard errors, √2 · scale / √n: once in 2e7.
    assert abs(draws.mean()) < 5.5 * np.sqrt(2) * 2.5 / np.sqrt(len(draws))
    others = [laplace(b"secret", b"another", 1000, 1.0), laplace(b"s", b"question", 1000, 1.0)]
    # A correlation of 1000 independent pairs above .18 comes once in 1e8.
    assert all(abs(np.corrcoef(draws[:1000], other)[0, 1]) < 0.18 for other in others)
    np.testing.assert_array_equal(laplace(b"secret", b"question", 10, 2.5), draws[:10])


def test_no_record_moves_a_score_further_than_the_sensitivity():
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(5000, D))
    rows *= 1.5 / np.linalg.norm(rows, axis=1, keepdims=True)
    prices = rng.uniform(0.5, 3, size=len(rows))
    directions = rng.normal(size=(D, 3))
    scores = ArrayPool(rows, prices**-0.5).scores(directions)
    bound = sensitivity(directions, 1.5, prices.min())
    assert scores.max() <= bound
    # It is the least such bound: the first singular direction at the lowest price attains it.
    left, _, _ = np.linalg.svd(directions)
    worst = ArrayPool(1.5 * left[:, :1].T, np.array([prices.min() ** -0.5])).scores(directions)
    assert worst[0] == pytest.approx(bound, rel=1e-12)


def test_one_answer_keeps_the_odds_within_e_to_the_epsilon():
    # Neighbours: the first record's score goes from 0 to the sensitivity. Its odds to be the one
    # that is reported are known: P(a + x > y) for Laplace x, y of scale b is
    # 1 - (1 + a / 2b) exp(-a / b) / 2.
    epsilon, draws = 0.7, 40_000
    wins = []
    for first in (0.0, 1.0):
        noise = np.array(
            [laplace(b"secret", b"%d %g" % (n, first), 2, 1 / epsilon) for n in range(draws)]
        )
        wins.append(int((first + noise[:, 0] > noise[:, 1]).sum()))
    for first, won in zip((0.0, 1.0), wins, strict=True):
        share = 1 - (1 + first * epsilon / 2) * np.exp(-first * epsilon) / 2
        # Exact binomial test: wrong by chance once in 1e7.
        assert stats.binomtest(won, draws, share).pvalue > 1e-7
    assert 1 < wins[1] / wins[0] < np.exp(epsilon)


def test_a_noisy_seller_says_so_repeats_itself_and_is_bought_from():
    rows, labels, prices, queries = _market()
    options = {"max_norm": 9.0, "epsilon": 50.0}
    with pytest.raises(ValueError, match=r"seller 0 adds noise .*accept_noise=True"):
        Buyer(queries).buy(LocalTransport(_sellers(rows, labels, prices, **options)), 20)
    buyer = Buyer(queries, max_iter=25, accept_noise=True)
    runs = [
        buyer.buy(LocalTransport(_sellers(rows, labels, prices, **options)), 20) for _ in range(2)
    ]
    assert runs[0].picks == runs[1].picks and len(runs[0].history) == 25
    assert np.isnan(runs[0].gap) and not runs[0].converged
    losses = np.array([step.objective for step in runs[0].history])
    # A row that only noise made look good gets no weight, and nothing gets worse.
    assert np.diff(losses).max() < 1e-12 * losses[0] and losses[-1] < 0.9 * losses[0]
    assert 0 < len(runs[0].picks) < 25
    exact = Buyer(queries, max_iter=25).buy(LocalTransport(_sellers(rows, labels, prices)), 20)
    assert runs[0].picks != exact.picks and runs[0].objective > exact.objective
    bought = _rows_of(_sellers(rows, labels, prices), runs[0])
    np.testing.assert_array_equal(runs[0].rows_kd, rows[bought])


def test_with_less_noise_the_picks_come_back():
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices, max_norm=50.0, epsilon=1e14)
    quiet = Buyer(queries, max_iter=20, tol=0.0, accept_noise=True)
    exact = Buyer(queries, max_iter=20, tol=0.0)
    found = quiet.buy(LocalTransport(sellers), 20)
    wanted = exact.buy(LocalTransport(_sellers(rows, labels, prices)), 20)
    assert found.picks[:8] == wanted.picks[:8]
    masked = AggregateBuyer(queries, max_iter=5, accept_noise=True)
    assert np.isnan(masked.buy(LocalTransport(sellers), 20).gap)


def test_a_noisy_answer_to_the_same_question_is_the_same_after_a_restart():
    rows, labels, prices, queries = _market()

    def best(step):
        [seller, *_] = _sellers(rows, labels, prices, max_norm=9.0, epsilon=1.0)
        return decode(seller.handle(encode(Score(step, 3, queries.T.copy()))))

    # Steps are only looked at once greeted; the first is known to everyone.
    again = [best(0) for _ in range(2)]
    np.testing.assert_array_equal(again[0].values_r, again[1].values_r)
    exact = ArrayPool(rows[:40], prices[:40] ** -0.5).scores(queries.T)
    assert not np.isclose(again[0].values_r, exact[again[0].indices_r]).any()


def test_a_gram_matrix_under_masks_starts_the_same_design():
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices, clear_gram=False)
    transport = LocalTransport(sellers)
    found = Buyer(queries, max_iter=30, init="masked", fraction_bits=36).buy(transport, 25)
    wanted = Buyer(queries, max_iter=30).buy(LocalTransport(_sellers(rows, labels, prices)), 25)
    assert found.picks == wanted.picks and found.bought == wanted.bought
    assert found.objective == pytest.approx(wanted.objective, rel=1e-7)
    assert found.gap == pytest.approx(wanted.gap, rel=1e-4, abs=1e-6)
    kinds = {type(entry.message) for entry in transport.log if entry.up}
    assert Masked in kinds and Gram not in kinds
    # What one seller sends says nothing of its own matrix.
    [ring] = [
        e.message.ring for e in transport.log if isinstance(e.message, Masked) and not e.seller
    ]
    own = sellers[0].pool.gram()[np.triu_indices(D)] / N
    assert np.abs(ring[1:].view(np.int64) / 2.0**36 - own).min() > 1
    with pytest.raises(RuntimeError, match="has no answer to 'gram'"):
        Buyer(queries).buy(LocalTransport(sellers), 25)
    with pytest.raises(ValueError, match="two sellers or more"):
        Buyer(queries, init="masked").buy(LocalTransport(sellers[:1]), 25)


def test_masks_survive_restarts_in_the_reveal_protocol():
    rows, labels, prices, queries = _market()

    class Restarting(LocalTransport):
        def exchange(self, frames):
            if self._exchanges and self._exchanges % 6 == 0:
                self.sellers = _sellers(rows, labels, prices, clear_gram=False)
            return super().exchange(frames)

    def sellers():
        return _sellers(rows, labels, prices, clear_gram=False)

    buyer = Buyer(queries, max_iter=20, init="masked")
    calm, rough = buyer.buy(LocalTransport(sellers()), 20), Restarting(sellers())
    found = buyer.buy(rough, 20)
    assert "replay" in rough.bytes_by_kind()
    assert found.picks == calm.picks and found.objective == calm.objective


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rounding_under_masks_does_not_become_information(rank):
    rng = np.random.default_rng(rank)
    rows = rng.normal(size=(N, rank)) @ rng.normal(size=(rank, D))
    _, labels, prices, _ = _market()
    queries = rng.normal(size=(M, rank)) @ rows[:rank]
    clear, masked = (
        Buyer(queries, max_iter=15, init=init).buy(
            LocalTransport(_sellers(rows, labels, prices)), 15
        )
        for init in ("gram", "masked")
    )
    assert masked.objective == pytest.approx(clear.objective, rel=1e-3)


def test_a_seller_gives_a_few_scores_at_a_time_only():
    rows, labels, prices, queries = _market()
    [seller, *_] = _sellers(rows, labels, prices, max_top=2)
    directions = queries.T.copy()
    assert len(decode(seller.handle(encode(Score(0, 2, directions)))).values_r) == 2
    for top in (3, 0, -1):
        for request in (
            Score(0, top, directions),
            Reveal(0, top, "float64", directions, np.array([0])),
        ):
            assert "this seller offers 2" in decode(seller.handle(encode(request))).reason
    bad = np.full((D, 1), np.nan)
    assert isinstance(decode(seller.handle(encode(Score(0, 1, bad)))), Refused)
    assert isinstance(decode(seller.handle(encode(AskGram("float64")))), Gram)


def test_what_a_seller_cannot_sell_is_an_error_where_it_is_made():
    rows, labels, prices, _ = _market()
    for change, error in (
        ({"rows": rows[:0]}, "rows has 0 sample"),
        ({"rows": np.where(rows > 5, np.nan, rows)}, "rows has .* NaN"),
        ({"labels": labels[:3]}, "labels have shape \\(3,\\), there are 160 rows"),
        ({"labels": labels * np.inf}, "labels has"),
        ({"prices": prices - 2}, "prices has .* not positive"),
        ({"prices": prices[:3]}, "prices has shape"),
        ({"secret": b"short"}, "secret has 5 bytes, at least 16"),
        ({"epsilon": 1.0}, "epsilon 1.0 needs a max_norm"),
        ({"epsilon": 0.0, "max_norm": 1.0}, "epsilon must be positive"),
        ({"max_norm": -1.0}, "max_norm must be positive"),
        ({"max_top": 0}, "max_top must be at least 1"),
    ):
        given = {"rows": rows, "labels": labels, "prices": prices} | change
        if "rows" in change:
            given["labels"], given["prices"] = None, None
        with pytest.raises(ValueError, match=error):
            Seller(**given)


def test_the_greeting_says_what_a_seller_does_to_its_rows():
    rows, labels, prices, queries = _market()
    transport = LocalTransport(_sellers(rows, labels, prices, max_norm=9.0, epsilon=3.0))
    purchase = Buyer(queries, accept_noise=True, max_iter=2).buy(transport, 9)
    hellos = [entry.message for entry in transport.log if isinstance(entry.message, Hello)]
    assert [(hello.max_norm, hello.epsilon) for hello in hellos] == [(9.0, 3.0)] * PARTS
    assert purchase.commitments == {place: hello.root for place, hello in enumerate(hellos)}
