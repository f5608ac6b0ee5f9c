"""A purchase from sellers who keep their rows is the central one, and says no more than it must."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from modicum.daved.errors import DAVEDWarning, InfeasibleBudgetError
from modicum.daved.federated.aggregate import AggregateBuyer
from modicum.daved.federated.buyer import Buyer
from modicum.daved.federated.local import LocalTransport
from modicum.daved.federated.messages import (
    AskHello,
    Best,
    Commit,
    Done,
    Gram,
    Hello,
    Peers,
    Refused,
    Replay,
    Reveal,
    Revealed,
    Score,
    Settle,
    Settled,
    decode,
    encode,
    join_frames,
)
from modicum.daved.federated.seller import Seller
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe

N, D, M = 240, 7, 3


def _market(seed=0, priced=True, n=N):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, D)) * np.linspace(1, 0.2, D)
    labels = rows @ rng.normal(size=D)
    prices = rng.integers(1, 6, size=n).astype(float) if priced else None
    return rows, labels, prices, rng.normal(size=(M, D))


def _sellers(rows, labels, prices, parts, **options):
    """Sellers of unequal size; each has a secret of its own."""
    cuts = np.linspace(0, 1, parts + 1) ** 1.3 * len(rows)
    edges = np.unique(np.round(cuts).astype(int))
    return [
        Seller(
            rows[a:b],
            labels[a:b],
            None if prices is None else prices[a:b],
            secret=bytes([number]) * 16,
            **options,
        )
        for number, (a, b) in enumerate(pairwise(edges))
    ]


def _run(parts, priced=True, seed=0, budget=40, **options):
    rows, labels, prices, queries = _market(seed, priced)
    sellers = _sellers(rows, labels, prices, parts)
    transport = LocalTransport(sellers)
    purchase = Buyer(queries, **options).buy(transport, budget)
    firsts = np.cumsum([0, *(len(seller.rows) for seller in sellers[:-1])])
    return purchase, transport, sellers, firsts


def _weights(purchase, firsts, prices, n=N):
    found = np.full(n, purchase.floor / n) / prices
    for (seller, index), weight in purchase.weights.items():
        found[firsts[seller] + index] += weight
    return found


@pytest.mark.parametrize("parts", [1, 4, 16])
@pytest.mark.parametrize("priced", [False, True])
def test_any_number_of_sellers_finds_what_a_central_run_finds(parts, priced):
    rows, _, prices, queries = _market(0, priced)
    scale = None if prices is None else prices**-0.5
    central = FrankWolfe(max_iter=150, tol=1e-3, refresh=60).solve(
        Problem(ArrayPool(rows, scale), queries)
    )
    purchase, _, _, firsts = _run(parts, priced, max_iter=150, refresh=60)
    picks = [firsts[seller] + index for seller, index in purchase.picks]
    assert picks == central.picks.tolist() and len(set(picks)) > D
    shares = _weights(purchase, firsts, np.ones(N) if prices is None else prices)
    shares = shares if prices is None else shares * prices
    np.testing.assert_allclose(shares, central.weights, rtol=0, atol=1e-12)
    assert purchase.objective == pytest.approx(central.objective, rel=1e-12)
    assert purchase.gap == pytest.approx(central.gap, rel=1e-9)
    losses = [step.objective for step in purchase.history]
    np.testing.assert_allclose(
        losses, [step.objective for step in central.history][: len(losses)], rtol=1e-12
    )


@pytest.mark.parametrize("edges", [(0, 1, 240), (0, 100, 101, 102, 103, 240), (0, 239, 240)])
def test_sellers_with_a_single_row_are_no_exception(edges):
    rows, labels, prices, queries = _market(4)
    central = FrankWolfe(max_iter=60).solve(Problem(ArrayPool(rows, prices**-0.5), queries))
    shards = [slice(a, b) for a, b in pairwise(edges)]
    sellers = [Seller(rows[own], labels[own], prices[own]) for own in shards]
    purchase = Buyer(queries, max_iter=60).buy(LocalTransport(sellers), 30)
    picks = [edges[seller] + index for seller, index in purchase.picks]
    assert picks == central.picks.tolist()
    assert purchase.objective == pytest.approx(central.objective, rel=1e-12)


@pytest.mark.parametrize("parts", [1, 4, 16])
def test_features_of_very_unlike_scales_and_equal_rows_are_no_exception(parts):
    rows, labels, prices, queries = _market(5)
    # In raw coordinates the information has a condition number of 1e14; half of all rows are there
    # twice, at the same price, in different shards.
    rows = rows * np.logspace(0, -7, D)
    rows[N // 2 :], prices[N // 2 :] = rows[: N // 2], prices[: N // 2]
    queries = queries * np.logspace(0, -7, D)
    central = FrankWolfe(max_iter=100).solve(Problem(ArrayPool(rows, prices**-0.5), queries))
    sellers = _sellers(rows, labels, prices, parts)
    purchase = Buyer(queries, max_iter=100).buy(LocalTransport(sellers), 30)
    firsts = np.cumsum([0, *(len(seller.rows) for seller in sellers[:-1])])
    picks = [firsts[seller] + index for seller, index in purchase.picks]
    assert picks == central.picks.tolist() and max(picks) < N // 2
    assert purchase.objective == pytest.approx(central.objective, rel=1e-9)


@pytest.mark.parametrize("step", ["herding", "open_loop", 0.1])
def test_other_step_rules_are_the_central_ones(step):
    rows, _, _, queries = _market(1, priced=False)
    central = FrankWolfe(step=step, max_iter=30).solve(Problem(ArrayPool(rows), queries))
    purchase, _, _, firsts = _run(4, priced=False, seed=1, step=step, max_iter=30)
    assert [firsts[s] + index for s, index in purchase.picks] == central.picks.tolist()
    assert purchase.objective == pytest.approx(central.objective, rel=1e-12)


def test_the_objective_is_that_of_the_weights_from_scratch():
    rows, _, prices, queries = _market()
    purchase, _, _, firsts = _run(4, max_iter=80)
    weights = _weights(purchase, firsts, prices)
    assert weights @ prices == pytest.approx(1, rel=1e-12)
    inverse = np.linalg.pinv(rows.T @ (weights[:, None] * rows))
    assert np.mean(np.sum(queries @ inverse * queries, axis=1)) == pytest.approx(
        purchase.objective, rel=1e-10
    )
    scores = np.square(rows @ inverse @ queries.T).mean(axis=1) / prices
    assert purchase.gap == pytest.approx(scores.max() - purchase.objective, rel=1e-8)


def test_sellers_hold_the_weights_that_the_buyer_knows():
    purchase, _, sellers, _ = _run(4, max_iter=30)
    held = {
        (number, index): weight / seller.prices_n[index]
        for number, seller in enumerate(sellers)
        for index, weight in seller.added.items()
    }
    assert held == pytest.approx(purchase.weights, rel=1e-12)
    assert [seller.scale for seller in sellers] == pytest.approx([purchase.floor] * 4, rel=1e-12)


def test_the_purchase_is_affordable_ordered_and_delivered():
    rows, labels, prices, _ = _market()
    purchase, _, _, firsts = _run(4, budget=23)
    where = [firsts[seller] + index for seller, index in purchase.bought]
    assert len(set(where)) == len(where) > 3
    assert purchase.spent == prices[where].sum() <= 23
    np.testing.assert_array_equal(purchase.rows_kd, rows[where])
    np.testing.assert_array_equal(purchase.labels_kq[:, 0], labels[where])
    left = 23 - purchase.spent
    unbought = set(purchase.weights) - set(purchase.bought)
    assert all(prices[firsts[s] + i] > left for s, i in unbought)
    weights = [purchase.weights[row] for row in purchase.bought]
    assert weights == sorted(weights, reverse=True)
    by_pick, _, _, _ = _run(4, budget=23, order="pick")
    first_seen = list(dict.fromkeys(by_pick.picks))
    assert [row for row in first_seen if row in by_pick.bought] == list(by_pick.bought)


def _contains(frame, numbers):
    return any(np.asarray(numbers, t).tobytes() in frame for t in ("<f8", "<f4"))


def test_no_row_leaves_a_seller_but_a_winner_s_own_and_no_label_before_it_is_paid():
    rows, labels, _, queries = _market()
    purchase, transport, _, firsts = _run(4, budget=10, max_iter=25)
    won = {firsts[seller] + index for seller, index in purchase.picks}
    bought = {firsts[seller] + index for seller, index in purchase.bought}
    assert bought < won and len(won) < N
    ups = [entry for entry in transport.log if entry.up]
    assert {type(entry.message) for entry in ups} == {Hello, Gram, Best, Revealed, Done, Settled}
    for number in range(N):
        # Every single value counts, not only whole rows.
        kinds = {
            type(entry.message)
            for entry in ups
            if any(_contains(entry.frame, [value]) for value in rows[number])
        }
        expected = {Revealed} if number in won else set()
        assert kinds == expected | ({Settled} if number in bought else set())
        told = {type(e.message) for e in ups if _contains(e.frame, [labels[number]])}
        assert told == ({Settled} if number in bought else set())
    for entry in transport.log:
        if not entry.up:
            assert not any(_contains(entry.frame, query) for query in queries)


def test_a_row_is_revealed_once_and_by_its_owner_only():
    purchase, transport, _, _ = _run(4, max_iter=60)
    reveals = [
        (entry.seller, int(index))
        for entry in transport.log
        if isinstance(entry.message, Reveal)
        for index in entry.message.indices_k
    ]
    assert len(reveals) == len(set(reveals)) == len(set(purchase.picks)) < len(purchase.picks)
    assert set(reveals) == set(purchase.picks)


def test_a_loser_does_not_learn_who_won():
    _, transport, _, _ = _run(4, max_iter=20)
    commits = [e for e in transport.log if isinstance(e.message, Commit)]
    for exchange in {entry.exchange for entry in commits}:
        told = [e.message.indices_k.tolist() for e in commits if e.exchange == exchange]
        assert len(told) == 4 and sum(index >= 0 for [index] in told) == 1


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("float64", 8)])
def test_bytes_of_a_round_are_those_of_the_protocol(dtype, size):
    parts = 4
    purchase, transport, _, _ = _run(parts, max_iter=12, tol=0.0, dtype=dtype)
    payload = transport.bytes_by_kind(payload=True)
    assert purchase.rounds == 13  # one more for the certificate of the last weights
    assert payload["score"] == purchase.rounds * parts * size * D * M
    assert payload["score_reply"] == purchase.rounds * parts * 16
    assert payload["reveal_reply"] == len(set(purchase.picks)) * (size * D + 8)
    assert payload["gram_reply"] == parts * size * D * (D + 1) // 2
    assert payload["commit"] == 12 * parts * 16


def test_single_precision_on_the_wire_finds_nearly_the_same_design():
    exact, _, _, _ = _run(4, max_iter=40)
    single, _, _, _ = _run(4, max_iter=40, dtype="float32")
    assert single.objective == pytest.approx(exact.objective, rel=1e-3)
    assert single.rows_kd.dtype == np.float64


def test_batched_rounds_take_fewer_broadcasts_for_as_many_steps():
    one, _, _, _ = _run(4, max_iter=40)
    four, _, sellers, _ = _run(4, max_iter=40, batch_rounds=4)
    assert len(four.picks) > 20 and four.rounds < 0.6 * one.rounds
    assert four.objective < 1.2 * one.objective
    assert [seller.scale for seller in sellers] == pytest.approx([four.floor] * 4, rel=1e-12)
    losses = [step.objective for step in four.history]
    assert losses == sorted(losses, reverse=True)


def test_a_start_without_gram_matrices_asks_for_none():
    rows, _, _, queries = _market()
    purchase, transport, _, firsts = _run(4, max_iter=60, init="identity", prior=0.3)
    assert "gram" not in transport.bytes_by_kind()
    matrix = purchase.floor * 0.3 * np.eye(D)
    for (seller, index), weight in purchase.weights.items():
        row = rows[firsts[seller] + index]
        matrix += weight * np.outer(row, row)
    loss = np.mean(np.sum(queries @ np.linalg.inv(matrix) * queries, axis=1))
    assert purchase.objective == pytest.approx(loss, rel=1e-9)
    assert np.isnan(purchase.gap) and not purchase.converged


class _Restarting(LocalTransport):
    """Every seller loses its memory now and then, and some answers are lost."""

    def __init__(self, make, every):
        super().__init__(make())
        self.make, self.every, self.lost = make, every, 0

    def exchange(self, frames):
        number = self._exchanges
        # The greeting is what a purchase starts with; restarts come after it.
        if number and number % self.every == 0:
            self.sellers = self.make()
        found = super().exchange(frames)
        if found and number % self.every == 2:
            self.lost += 1
            found.pop(min(found))
        return found


@pytest.mark.parametrize("batch_rounds", [1, 3])
def test_sellers_that_restart_in_mid_run_change_nothing(batch_rounds):
    rows, labels, prices, queries = _market()
    calm = Buyer(queries, max_iter=40, batch_rounds=batch_rounds).buy(
        LocalTransport(_sellers(rows, labels, prices, 4)), 30
    )
    transport = _Restarting(lambda: _sellers(rows, labels, prices, 4), every=5)
    rough = Buyer(queries, max_iter=40, batch_rounds=batch_rounds).buy(transport, 30)
    assert transport.lost > 3 and "replay" in transport.bytes_by_kind()
    assert rough.picks == calm.picks and rough.bought == calm.bought
    assert rough.weights == calm.weights


def test_a_seller_that_came_back_with_another_secret_can_not_prove_its_rows():
    rows, labels, prices, queries = _market()
    transport = LocalTransport(_sellers(rows, labels, prices, 1))

    class Forgetful(LocalTransport):
        def exchange(self, frames):
            if any(isinstance(decode(frame), Settle) for frame in frames.values()):
                self.sellers = [Seller(rows, labels, prices)]
            return super().exchange(frames)

    Buyer(queries, max_iter=5).buy(transport, 10)
    with pytest.raises(ValueError, match="is not what it committed to"):
        Buyer(queries, max_iter=5).buy(Forgetful(transport.sellers), 10)


class _Tampering(LocalTransport):
    """Change what sellers answer with messages of one kind."""

    def __init__(self, sellers, kind, change):
        super().__init__(sellers)
        self.kind, self.change = kind, change

    def exchange(self, frames):
        found = super().exchange(frames)
        for seller, frame in found.items():
            message = decode(frame)
            if isinstance(message, self.kind):
                found[seller] = encode(self.change(message))
        return found


def _changed(**parts):
    def change(message):
        values = {name: change(getattr(message, name)) for name, change in parts.items()}
        return type(message)(**{**message.__dict__, **values})

    return change


@pytest.mark.parametrize(
    "kind, change, error",
    [
        (Settled, _changed(labels_kq=lambda y: y + 1), "is not what it committed to"),
        (Settled, _changed(rows_kd=lambda x: x * 2), "is not what it committed to"),
        (Settled, _changed(prices_k=lambda c: c + 1), "is not what it committed to"),
        (Settled, _changed(indices_k=lambda i: i[::-1] + 1), "is not what it committed to"),
        (Revealed, _changed(rows_kd=lambda x: x * 1.1), "announced .* which scores"),
        (Revealed, _changed(prices_k=lambda c: c * 0 + 9), "outside of its own range"),
        (Best, _changed(values_r=lambda v: v * 1.5), "announced .* which scores"),
        (Settled, _changed(salts_kb=lambda s: s[:-1]), "gave arrays of shapes"),
        (Settled, _changed(proofs_khb=lambda p: p[:, :-1]), "is not what it committed to"),
        (Settled, _changed(rows_kd=lambda x: x[:, :-1]), "gave arrays of shapes"),
        (Settled, _changed(indices_k=lambda i: i * 0 + i[0]), "gave arrays of shapes"),
        (Revealed, _changed(rows_kd=lambda x: x[:0]), "gave arrays of shapes"),
        (Revealed, _changed(prices_k=lambda c: c[:0]), "gave arrays of shapes"),
        (Best, _changed(values_r=lambda v: v * np.nan), "offers row .* with a score of nan"),
        (Best, _changed(indices_r=lambda i: i + N), "offers row"),
        (Best, _changed(values_r=lambda v: v[:0], indices_r=lambda i: i[:0]), "no seller offers"),
        (Gram, _changed(triangle=lambda t: t * np.inf), "the Gram matrix of seller 0 has"),
        (Gram, _changed(triangle=lambda t: t[:-1]), "a Gram matrix of another size"),
        (Hello, _changed(n_rows=lambda n: 0), "seller 0 has 0 rows .* which can't be"),
        (Hello, _changed(lowest_price=lambda c: 0.0), "rows for 0 to .* which can't be"),
        (Hello, _changed(d=lambda d: d + 1), "seller 0 has 8 features, the queries have 7"),
        (Hello, _changed(fingerprint=lambda f: "x"), "seller 0 has features 'x'"),
    ],
)
def test_a_seller_that_cheats_is_found_out(kind, change, error):
    rows, labels, prices, queries = _market()
    transport = _Tampering(_sellers(rows, labels, prices, 2), kind, change)
    with pytest.raises(ValueError, match=error):
        Buyer(queries, max_iter=10).buy(transport, 20)


def test_a_seller_reveals_only_what_it_offered_and_only_so_much():
    rows, labels, prices, queries = _market()
    [seller] = _sellers(rows, labels, prices, 1, max_reveals=1)
    directions = queries.T.copy()
    best = decode(seller.handle(encode(Score(0, 1, directions))))
    offered = int(best.indices_r[0])

    def ask(index, directions=directions):
        message = Reveal(0, 1, "float64", directions, np.array([index]))
        return decode(seller.handle(encode(message)))

    assert "were not offered" in ask((offered + 1) % N).reason
    np.testing.assert_array_equal(ask(offered).rows_kd, rows[[offered]])
    assert isinstance(ask(offered), Revealed)
    other = np.eye(D)[:, :1]
    second = int(decode(seller.handle(encode(Score(0, 1, other)))).indices_r[0])
    assert second != offered
    assert "more than 1 rows" in ask(second, other).reason
    assert seller.revealed == {offered} and not seller.sold


def test_ties_go_to_the_smallest_number_within_and_among_sellers():
    rows = np.eye(3)[[0, 1, 1, 0, 2, 2, 1, 0]]
    sellers = [Seller(rows[:4]), Seller(rows[4:])]
    purchase = Buyer(np.array([[0.0, 1.0, 0.0]]), max_iter=3).buy(LocalTransport(sellers), 2)
    assert set(purchase.picks) == {(0, 1)}


def _nested(message, depth):
    frame = encode(message)
    for _ in range(depth):
        frame = encode(Replay(join_frames([frame])))
    return frame


@pytest.mark.parametrize(
    "frame",
    [
        b"nothing",
        encode(Done(3)),
        encode(Score(0, 1, np.ones((D + 1, 1)))),
        encode(Score(0, 1, np.ones(D))),
        encode(Settle(np.array([N]))),
        encode(Settle(np.array([-1]))),
        encode(Settle(np.array([0.5]))),
        encode(Reveal(0, 1, "object", np.ones((D, 1)), np.array([0]))),
        encode(Score("0", 1, np.ones((D, 1)))),
        encode(AskHello(5)),
        encode(AskHello(None)),
        encode(Commit(0, np.array(0.5), np.array(0))),
        encode(Peers(0, "run", 0, "keys", 24)),
        encode(Peers(0, "run", 0, ["zz", "2"], 24)),
        encode(Peers(0, "run", 7, ["1", "2"], 24)),
        encode(Peers(0, "run", True, ["1", "2"], 24)),
        encode(Score(0, 10**400, np.ones((D, 1)))),
        encode(Score(-(10**400), 1, np.ones((D, 1)))),
        encode(Replay(np.frombuffer(b"abc", dtype=np.uint8))),
        encode(Replay(np.zeros(0, dtype=np.uint8))),
        _nested(AskHello("00"), 1500),
    ],
)
def test_a_seller_refuses_nonsense_and_stays_alive(frame):
    rows, labels, prices, _ = _market()
    [seller] = _sellers(rows, labels, prices, 1)
    assert isinstance(decode(seller.handle(frame)), Refused)
    assert isinstance(decode(seller.handle(encode(Score(0, 1, np.ones((D, 1)))))), Best)


def test_a_refusal_and_silence_have_names():
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices, 2, max_reveals=0)
    with pytest.raises(RuntimeError, match=r"seller \d refuses: more than 0 rows"):
        Buyer(queries).buy(LocalTransport(sellers), 10)

    class Silent(LocalTransport):
        def exchange(self, frames):
            return {seller: a for seller, a in super().exchange(frames).items() if seller != 1}

    with pytest.raises(ConnectionError, match=r"no answer from sellers \[1\] in 3 attempts"):
        Buyer(queries, retries=2).buy(Silent(sellers), 10)
    with pytest.raises(ValueError, match="there is no seller"):
        Buyer(queries).buy(LocalTransport([]), 10)
    with pytest.raises(ValueError, match=r"init must be one of .* not 'zero'"):
        Buyer(queries, init="zero")


def test_a_converged_purchase_takes_no_extra_broadcast():
    purchase, transport, _, _ = _run(4, max_iter=500, tol=0.05)
    assert purchase.converged and purchase.gap <= 0.05 * purchase.objective
    assert purchase.rounds == len(purchase.picks) + 1 < 500
    kinds = [entry.message.kind for entry in transport.log if entry.seller == 0 and not entry.up]
    assert kinds.count("score") == purchase.rounds


@pytest.mark.parametrize(
    "options, error",
    [
        ({"max_iter": -1}, "max_iter must be at least 0"),
        ({"batch_rounds": 0}, "batch_rounds must be at least 1"),
        ({"prior": 0.0}, "prior must be positive"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"order": "price"}, "order must be one of"),
        ({"max_norm": 0.0}, "max_norm must be positive"),
        ({"queries": np.zeros((2, D))}, "rows of zeros"),
        ({"queries": np.full((1, D), np.nan)}, r"queries has .* NaN"),
        ({"queries": np.empty((0, D))}, "queries has 0 sample"),
    ],
)
def test_what_a_buyer_cannot_mean_is_an_error_at_once(options, error):
    given = {"queries": _market()[3]} | options
    with pytest.raises(ValueError, match=error):
        Buyer(**given)


def test_a_budget_below_every_price_buys_nothing_and_shows_nothing():
    rows, labels, prices, queries = _market()
    transport = LocalTransport(_sellers(rows, labels, prices + 1, 2))
    with pytest.raises(InfeasibleBudgetError, match=r"budget 1\.5 buys nothing"):
        Buyer(queries).buy(transport, 1.5)
    assert set(transport.bytes_by_kind()) == {"hello", "hello_reply"}
    with pytest.raises(ValueError, match="budget must be positive"):
        Buyer(queries).buy(transport, 0)


def test_a_seller_taken_up_in_another_process_goes_on_where_it_was():
    rows, labels, prices, _ = _market()
    purchase, _, sellers, _ = _run(2, max_iter=20)
    old = sellers[0]
    fresh = _sellers(rows, labels, prices, 2)[0]
    fresh.restore(old.heard[:7], [3])
    fresh.restore(old.heard, old.revealed)
    assert fresh.added == old.added and fresh.scale == old.scale
    assert fresh.revealed == old.revealed and len(purchase.picks) == old.have == fresh.have
    other = [encode(Commit(0, np.array([0.5]), np.array([1])))]
    fresh.restore(other)
    assert fresh.added == {1: 0.5} and fresh.have == 1


def _bought_by(buyer, sellers, budget):
    return buyer.buy(LocalTransport(sellers), budget)


def test_a_budget_that_prices_come_to_exactly_is_spent():
    # In floats .3 - .1 - .1 is below .1.
    rows = np.random.default_rng(0).normal(size=(9, 3))
    sellers = [Seller(part, prices=np.full(len(part), 0.1)) for part in (rows[:4], rows[4:])]
    found = _bought_by(Buyer(rows[:1] + rows[1:2], max_iter=50, tol=0.0), sellers, 0.3)
    assert len(found.bought) == 3


def test_where_no_step_helps_the_best_row_is_bought_all_the_same():
    row = np.array([[1.0, 2.0]])
    found = _bought_by(Buyer(row), [Seller(row, [3.0])], 1)
    assert found.bought == ((0, 0),) and found.labels_kq.tolist() == [[3.0]]
    assert not found.picks and found.objective == pytest.approx(1)
    assert found.weights == {(0, 0): 0.0} and found.floor == 1
    two = _bought_by(Buyer(row), [Seller(row), Seller(row)], 2)
    assert two.bought == ((0, 0),)


def test_rows_that_were_revealed_and_did_not_win_are_bought_last():
    rows = np.random.default_rng(4).normal(size=(3, 3))
    sellers = [Seller(rows[:2]), Seller(rows[2:])]
    found = _bought_by(Buyer(rows[:1] + 0.1 * rows[1:2], batch_rounds=3, max_iter=1), sellers, 3)
    assert len(found.picks) == 1
    assert found.bought[0] == found.picks[0] and len(set(found.bought)) == 3
    assert [found.weights[row] > 0 for row in found.bought] == [True, False, False]


@pytest.mark.parametrize("kind", [Buyer, AggregateBuyer])
def test_sellers_whose_labels_do_not_go_together_are_refused_before_anything_is_asked(kind):
    rows = np.random.default_rng(0).normal(size=(6, 2))
    sellers = [Seller(rows[:4], np.zeros((4, 2))), Seller(rows[4:], np.zeros(2))]
    with pytest.raises(ValueError, match=r"equally many labels .* 0: 2, 1: 1"):
        _bought_by(kind(rows[:1]), sellers, 3)
    assert all(not seller.revealed and not seller.sold for seller in sellers)


@pytest.mark.parametrize("buyer", [Buyer, AggregateBuyer, partial(Buyer, init="masked")])
def test_queries_that_no_row_helps_are_refused_and_half_helped_ones_warned_of(buyer):
    axes = np.eye(3)
    sellers = [Seller(axes[:2]), Seller(axes[:1])]
    with pytest.raises(ValueError, match="no part of the 1 queries"):
        _bought_by(buyer(axes[2:]), sellers, 2)
    with pytest.warns(DAVEDWarning, match="coverage below"):
        assert _bought_by(buyer(axes[1:2] + axes[2:]), sellers, 1).bought == ((0, 1),)


@pytest.mark.parametrize("tol", [-1, float("nan"), "small", None, True])
def test_a_tolerance_is_a_number_of_at_least_0(tol):
    with pytest.raises(ValueError, match="tol must be a number"):
        Buyer(np.eye(2), tol=tol)


def test_a_limit_on_revealed_rows_is_a_count():
    with pytest.raises(ValueError, match="max_reveals must be at least 0, not -1"):
        Seller(np.eye(2), max_reveals=-1)
    with pytest.raises(TypeError, match="max_reveals must be an integer"):
        Seller(np.eye(2), max_reveals=1.5)
