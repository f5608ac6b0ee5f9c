"""Masked sums are sums, hide their parts, and buy what multiplicative updates would buy."""

from itertools import pairwise

import numpy as np
import pytest

from modicum.daved.errors import InfeasibleBudgetError
from modicum.daved.federated.aggregate import AggregateBuyer
from modicum.daved.federated.local import LocalTransport
from modicum.daved.federated.masking import PRIME, MaskingKeys, from_ring, to_ring
from modicum.daved.federated.messages import (
    Aggregate,
    AskGram,
    Done,
    Hello,
    Masked,
    Peak,
    Peers,
    Refused,
    Score,
    Settled,
    decode,
    encode,
)
from modicum.daved.federated.seller import Seller

N, D, M, PARTS = 200, 5, 2, 4


def _market(priced=True):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(N, D))
    prices = rng.uniform(1, 5, size=N) if priced else None
    return rows, rows @ np.arange(1.0, D + 1), prices, rng.normal(size=(M, D))


def _sellers(rows, labels, prices, parts=PARTS, **options):
    edges = np.linspace(0, len(rows), parts + 1).astype(int)
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


def _multiplicative(rows, prices, queries, steps):
    """Run the updates from scratch, in the open: weights, objective, gap."""
    scaled = rows if prices is None else rows / np.sqrt(prices)[:, None]
    weights = np.full(len(rows), 1 / len(rows))
    for _ in range(steps):
        inverse = np.linalg.inv(scaled.T @ (weights[:, None] * scaled))
        weights = weights * np.sqrt(np.square(scaled @ inverse @ queries.T).mean(axis=1))
        weights /= weights.sum()
    inverse = np.linalg.inv(scaled.T @ (weights[:, None] * scaled))
    loss = np.mean(np.sum(queries @ inverse * queries, axis=1))
    return weights, loss, np.square(scaled @ inverse @ queries.T).mean(axis=1).max() - loss


@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("parts", [2, 7])
def test_masked_sums_buy_what_open_updates_weigh_most(priced, parts):
    rows, labels, prices, queries = _market(priced)
    weights, loss, gap = _multiplicative(rows, prices, queries, 30)
    sellers = _sellers(rows, labels, prices, parts, masked_only=True)
    steps = []
    purchase = AggregateBuyer(queries, max_iter=30).buy(
        LocalTransport(sellers), 17, on_step=steps.append
    )
    assert purchase.objective == pytest.approx(loss, rel=1e-4)
    assert purchase.gap == pytest.approx(gap, rel=1e-2)
    losses = [step.objective for step in steps]
    assert len(losses) == 30 and losses == sorted(losses, reverse=True)
    paid = np.ones(N) if prices is None else prices
    order = np.argsort(-weights / paid, kind="stable")
    affordable = order[np.cumsum(paid[order]) <= 17]
    edges = np.linspace(0, N, parts + 1).astype(int)
    bought = [edges[seller] + index for seller, index in purchase.bought]
    assert sorted(bought) == sorted(affordable)
    assert purchase.spent == pytest.approx(paid[affordable].sum())
    np.testing.assert_array_equal(purchase.rows_kd, rows[bought])
    np.testing.assert_array_equal(purchase.labels_kq[:, 0], labels[bought])


def test_a_budget_for_all_buys_all_that_weighs_anything_and_a_tiny_one_is_refused():
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices)
    assert len(AggregateBuyer(queries, max_iter=1).buy(LocalTransport(sellers), 1e4).bought) == N
    transport = LocalTransport(sellers)
    with pytest.raises(InfeasibleBudgetError, match=r"0\.5 buys nothing"):
        AggregateBuyer(queries, max_iter=1).buy(transport, 0.5)
    assert set(transport.bytes_by_kind()) == {"hello", "hello_reply"}


def test_sellers_send_masked_sums_one_score_and_what_was_sold():
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices)
    transport = LocalTransport(sellers)
    purchase = AggregateBuyer(queries, max_iter=20).buy(transport, 12)
    ups = [entry for entry in transport.log if entry.up]
    kinds = {type(entry.message) for entry in ups}
    assert kinds == {Hello, Done, Masked, Peak, Settled}
    edges = np.linspace(0, N, PARTS + 1).astype(int)
    bought = {edges[seller] + index for seller, index in purchase.bought}
    for number in range(N):
        told = {type(e.message) for e in ups for v in rows[number] if v.tobytes() in e.frame}
        assert told == ({Settled} if number in bought else set())
    quiet = LocalTransport(sellers)
    blind = AggregateBuyer(queries, max_iter=2, certificate=False).buy(quiet, 12)
    assert np.isnan(blind.gap) and "peak" not in quiet.bytes_by_kind()


def test_a_part_looks_like_noise_and_never_twice_the_same():
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices, 2)
    transport = LocalTransport(sellers)
    AggregateBuyer(queries, max_iter=40).buy(transport, 12)
    words = np.concatenate(
        [e.message.ring for e in transport.log if isinstance(e.message, Masked) and e.seller == 0]
    )
    assert len(np.unique(words)) == len(words) > 500
    bits = np.unpackbits(words.view(np.uint8))
    # Six standard errors of a fair coin: by chance once in 5e8 keys, and the keys are fixed but
    # for the name of the run.
    assert abs(bits.mean() - 0.5) < 6 * 0.5 / np.sqrt(len(bits))


def test_masks_cancel_over_all_sellers_and_over_no_fewer():
    owners = [MaskingKeys(bytes([number]) * 16, "run") for number in range(5)]
    keys = [owner.public for owner in owners]
    masks = [owner.mask(keys, place, b"sum", 9) for place, owner in enumerate(owners)]
    assert np.sum(masks, axis=0, dtype=np.uint64).tolist() == [0] * 9
    assert all((np.sum(masks[:-1], axis=0, dtype=np.uint64) != 0).tolist())
    other = owners[0].mask(keys, 0, b"another", 9)
    assert (other != masks[0]).all()


def test_keys_agree_in_pairs_and_differ_by_purchase():
    one, two = MaskingKeys(b"a" * 16, "run"), MaskingKeys(b"b" * 16, "run")
    assert one.pair_key(two.public) == two.pair_key(one.public)
    assert one.public != MaskingKeys(b"a" * 16, "later").public
    for number in (0, 1, PRIME - 1, PRIME):
        with pytest.raises(ValueError, match="a public key is an integer"):
            one.pair_key(f"{number:x}")


def test_the_group_is_that_of_rfc_3526():
    # 2^2048 - 2^1984 - 1 + 2^64 (floor(2^1918 pi) + 124476); pi by Machin's formula.
    digits = 2100

    def arctan_inverse(x):
        term = total = (1 << digits) // x
        k, sign = 3, -1
        while term:
            term //= x * x
            total += sign * (term // k)
            k, sign = k + 2, -sign
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    expected = 2**2048 - 2**1984 - 1 + 2**64 * ((pi >> (digits - 1918)) + 124476)
    assert expected == PRIME


def test_ring_elements_hold_negative_numbers_and_refuse_what_overflows():
    values = np.array([-1.5, 0.0, 2.0**-24, 3e6])
    np.testing.assert_array_equal(from_ring(to_ring(values, 24, 4), 24), values)
    total = to_ring(values, 24, 4) + to_ring(-2 * values, 24, 4)
    np.testing.assert_array_equal(from_ring(total, 24), -values)
    largest = 2.0**37
    to_ring(np.array([largest * 0.99]), 24, 4)
    for wrong in (largest, np.inf, np.nan):
        with pytest.raises(ValueError, match="too large for 24 fraction bits and 4 sellers"):
            to_ring(np.array([wrong]), 24, 4)


def test_more_fraction_bits_come_closer():
    rows, labels, prices, queries = _market()
    _, loss, _ = _multiplicative(rows, prices, queries, 10)
    errors = []
    for bits in (12, 24, 36):
        buyer = AggregateBuyer(queries, max_iter=10, fraction_bits=bits)
        found = buyer.buy(LocalTransport(_sellers(rows, labels, prices)), 5)
        errors.append(abs(found.objective / loss - 1))
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[2] < 1e-9


class _Restarting(LocalTransport):
    """Seller after seller loses its memory, and some answers are lost."""

    def __init__(self, make):
        super().__init__(make())
        self.make, self.restarts = make, 0

    def exchange(self, frames):
        number = self._exchanges
        if number > 1 and number % 4 == 0:
            who = number // 4 % len(self.sellers)
            self.sellers[who] = self.make()[who]
            self.restarts += 1
        found = super().exchange(frames)
        if number % 7 == 5:
            found.pop(max(found))
        return found


def test_sellers_that_restart_in_mid_run_change_nothing():
    rows, labels, prices, queries = _market()

    def make():
        return _sellers(rows, labels, prices)

    calm = AggregateBuyer(queries, max_iter=15).buy(LocalTransport(make()), 20)
    transport = _Restarting(make)
    rough = AggregateBuyer(queries, max_iter=15).buy(transport, 20)
    assert transport.restarts > 4 and "replay" in transport.bytes_by_kind()
    assert rough.bought == calm.bought and rough.objective == calm.objective


def test_a_seller_hides_behind_others_and_answers_each_request_in_one_way():
    rows, labels, prices, queries = _market()
    sellers = _sellers(rows, labels, prices, 2, masked_only=True)
    own, other = (MaskingKeys(seller.secret, "run").public for seller in sellers)

    def ask(message):
        return decode(sellers[0].handle(encode(message)))

    none = np.empty((D, 0))
    assert "two or more" in ask(Peers(0, "run", 0, [own], 24)).reason
    assert "two or more" in ask(Peers(0, "run", 0, [own, own], 24)).reason
    assert "not this seller's" in ask(Peers(0, "run", 1, [own, other], 24)).reason
    assert "nobody said" in ask(Aggregate(0, "start", 9.0, none)).reason
    assert isinstance(ask(Peers(0, "run", 0, [own, other], 24)), Done)
    first = ask(Aggregate(1, "start", 200.0, none))
    np.testing.assert_array_equal(ask(Aggregate(1, "start", 200.0, none)).ring, first.ring)
    assert "was another" in ask(Aggregate(1, "start", 201.0, none)).reason
    assert "no sum 'rows'" in ask(Aggregate(2, "rows", 0.0, none)).reason
    for message in (AskGram("float64"), Score(2, 1, queries.T.copy())):
        assert isinstance(ask(message), Refused)


def test_one_seller_alone_is_refused_and_a_false_delivery_is_seen():
    rows, labels, prices, queries = _market()
    with pytest.raises(ValueError, match="two sellers or more, there is one"):
        AggregateBuyer(queries).buy(LocalTransport(_sellers(rows, labels, prices, 1)), 5)

    class Greedy(LocalTransport):
        def exchange(self, frames):
            found = super().exchange(frames)
            if isinstance(decode(found[0]), Settled):
                found[0] = encode(self.sellers[0]._sell(np.arange(40)))
            return found

    with pytest.raises(ValueError, match=r"sellers deliver for .* they said it would cost"):
        AggregateBuyer(queries, max_iter=5).buy(Greedy(_sellers(rows, labels, prices)), 20)


def test_a_budget_that_prices_come_to_exactly_is_spent():
    # No fixed-point number of base 2 is .1.
    rows = np.random.default_rng(0).normal(size=(9, 3))
    sellers = [Seller(part, prices=np.full(len(part), 0.1)) for part in (rows[:4], rows[4:])]
    found = AggregateBuyer(rows[:1] + rows[1:2]).buy(LocalTransport(sellers), 0.3)
    assert len(found.bought) == 3 and found.spent == pytest.approx(0.3)


@pytest.mark.parametrize("budget", [1, 2, 3, 4])
def test_of_equal_rows_the_first_sellers_are_bought(budget):
    row = np.array([[1.0, 2.0]])
    sellers = [Seller(np.repeat(row, 2, axis=0)), Seller(np.repeat(row, 2, axis=0))]
    found = AggregateBuyer(row).buy(LocalTransport(sellers), budget)
    assert found.bought == ((0, 0), (0, 1), (1, 0), (1, 1))[:budget]


def test_rows_too_small_for_the_fraction_bits_are_an_error_that_says_so():
    rows = 1e-5 * np.random.default_rng(0).normal(size=(6, 2))
    sellers = [Seller(rows[:3]), Seller(rows[3:])]
    with pytest.raises(ValueError, match="with 24 fraction bits nothing is left"):
        AggregateBuyer(rows[:1]).buy(LocalTransport(sellers), 2)
    found = AggregateBuyer(rows[:1], fraction_bits=50).buy(LocalTransport(sellers), 2)
    assert len(found.bought) == 2
