"""A purchase in which no record leaves a seller before it is sold: sums under masks only.

The design is found by multiplicative updates, w_j ← w_j √g_j / Σ w_i √g_i, which need nothing of
the rows but Σ w_j √g_j and the information Σ w_j x_j x_jᵀ. Both are sums over sellers, so each
seller sends its part under masks that cancel (see `masking`, and what it says of its limits). What
is worth buying is found by bisection: what do all rows of weight τ or more cost together?

What leaks all the same. The buyer learns the information matrix of every round, the cost and the
number of rows above each threshold it asks for, and at the end every seller's highest score, in
clear, if it wants a certificate. Sellers learn the directions V = P Qᵀ of every round, up to their
length. With one seller there is nothing to hide behind, and with two each knows the other's part of
whatever sum it gets to see. Honest sellers are assumed: a false part of a sum isn't found out, a
false delivery is.

Shapes: n rows of a seller, d features, m queries.
"""

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np

from modicum.daved.federated.buyer import Purchase, RowId, from_triangle, greet, settle
from modicum.daved.federated.channel import Channel, Transport
from modicum.daved.federated.masking import from_ring
from modicum.daved.federated.messages import (
    Aggregate,
    AskPeak,
    Deliver,
    Done,
    Masked,
    Peak,
    Peers,
    Settled,
)
from modicum.daved.solvers.base import Step

__all__ = ["AggregateBuyer"]

# Weight shares below this never decide what is bought.
_LEAST_SHARE = 1e-15


class AggregateBuyer:
    """The buyer of a purchase by masked sums.

    Parameters
    ----------
    queries
        (m, d), unlabelled.
    features
        Fingerprint of the feature map that made them.
    max_iter
        Updates; 50 to 100 are usual.
    certificate
        Whether to ask every seller for its highest score at the end.
    fraction_bits
        Of the fixed-point numbers.
    bisections
        Thresholds that are tried at most.
    retries
        See `Channel`.
    """

    def __init__(
        self,
        queries: np.ndarray,
        *,
        features: str = "",
        max_iter: int = 60,
        certificate: bool = True,
        fraction_bits: int = 24,
        bisections: int = 50,
        retries: int = 3,
    ) -> None:
        self.queries_md = np.asarray(queries, dtype=np.float64)
        self.features = features
        self.max_iter = max_iter
        self.certificate = certificate
        self.fraction_bits = fraction_bits
        self.bisections = bisections
        self.retries = retries

    def buy(
        self,
        transport: Transport,
        budget: float,
        on_step: Callable[[Step], None] | None = None,
    ) -> Purchase:
        """Find what to buy, buy it and check what is delivered.

        Parameters
        ----------
        transport
            To two sellers or more.
        budget
            What may be spent, in the currency of the prices.
        on_step
            Sees every update.

        Raises
        ------
        ValueError
            If sellers don't fit the queries, there is only one, or one doesn't deliver what it
            committed to.
        ConnectionError, RuntimeError
            See `Channel.ask`.
        """
        return _Run(self, Channel(transport, self.retries)).buy(budget, on_step)


class _Run:
    """One purchase: what the buyer knows so far."""

    def __init__(self, buyer: AggregateBuyer, channel: Channel) -> None:
        if len(channel.seller_ids) == 1:
            raise ValueError("a masked sum needs two sellers or more, there is one")
        self.buyer = buyer
        self.channel = channel
        self.d = buyer.queries_md.shape[1]
        self.step = 0
        run = secrets.token_hex(16)
        self.hellos = greet(channel, self.d, buyer.features, run)
        self._introduce(run)

    def _introduce(self, run: str) -> None:
        keys = [self.hellos[seller].public_key for seller in self.channel.seller_ids]
        requests = {
            seller: Peers(self.step, run, place, keys, self.buyer.fraction_bits)
            for place, seller in enumerate(self.channel.seller_ids)
        }
        self.channel.ask(requests, Done, remember=True)
        self.step += 1

    def _sum(self, what: str, number: float, directions_dm: np.ndarray | None = None) -> np.ndarray:
        """Ask all sellers for their parts of a sum and add them up."""
        shown = np.empty((self.d, 0)) if directions_dm is None else directions_dm
        request = Aggregate(self.step, what, number, shown)
        everyone = {seller: request for seller in self.channel.seller_ids}
        parts = self.channel.ask(everyone, Masked, remember=True).values()
        self.step += 1
        total = np.stack([part.ring for part in parts]).sum(axis=0, dtype=np.uint64)
        return from_ring(total, self.buyer.fraction_bits)

    def buy(self, budget: float, on_step: Callable[[Step], None] | None) -> Purchase:
        total = self._sum("start", sum(hello.n_rows for hello in self.hellos.values()))
        history: list[Step] = []
        directions_dm, loss = self._directions(total)
        for iteration in range(self.buyer.max_iter):
            # Divided by √L the scores have a weighted mean of 1, so sums keep their size.
            total = self._sum("update", float(total[0]), directions_dm / np.sqrt(loss))
            history.append(Step(iteration, loss, float("nan")))
            if on_step is not None:
                on_step(history[-1])
            directions_dm, loss = self._directions(total)
        gap = self._gap(directions_dm, loss)
        threshold, spend = self._threshold(budget, float(total[0]))
        delivered = self._deliver(threshold, spend)
        return self._purchase(delivered, loss, gap, history)

    def _directions(self, total: np.ndarray) -> tuple[np.ndarray, float]:
        information_dd = from_triangle(total[1:], self.d) / total[0]
        # What rounding alone could have put there is no information.
        noise = self.d * len(self.hellos) * 2.0 ** -(self.buyer.fraction_bits + 1) / total[0]
        values_d, vectors_dd = np.linalg.eigh(information_dd)
        kept = values_d > noise
        basis_dr = vectors_dd[:, kept]
        inverse_dd = (basis_dr / values_d[kept]) @ basis_dr.T
        directions_dm = inverse_dd @ self.buyer.queries_md.T
        loss = float((self.buyer.queries_md.T * directions_dm).sum() / len(self.buyer.queries_md))
        return directions_dm, loss

    def _gap(self, directions_dm: np.ndarray, loss: float) -> float:
        if not self.buyer.certificate:
            return float("nan")
        request = AskPeak(directions_dm)
        peaks = self.channel.ask({seller: request for seller in self.channel.seller_ids}, Peak)
        return max(peak.value for peak in peaks.values()) - loss

    def _threshold(self, budget: float, norm: float) -> tuple[float, float]:
        """Find the lowest threshold that is affordable, and what it costs."""
        cheapest = min(hello.lowest_price for hello in self.hellos.values())
        dearest = max(hello.highest_price for hello in self.hellos.values())
        low, high = _LEAST_SHARE * norm / dearest, 2 * norm / cheapest
        spend, below = self._sum("spend", low).tolist()
        if spend <= budget:
            return low, spend
        spend, above = 0.0, 0.0
        for _ in range(self.buyer.bisections):
            if below - above <= 1 or budget - spend < cheapest:
                break
            middle = float(np.sqrt(low * high))
            cost, count = self._sum("spend", middle).tolist()
            if cost <= budget:
                high, spend, above = middle, cost, count
            else:
                low, below = middle, count
        return high, spend

    def _deliver(self, threshold: float, spend: float) -> dict[int, Settled]:
        request = Deliver(self.step, threshold)
        everyone = {seller: request for seller in self.channel.seller_ids}
        found = self.channel.ask(everyone, Settled)
        for seller, answer in found.items():
            settle(self.hellos[seller], seller, answer)
        asked = sum(float(answer.prices_k.sum()) for answer in found.values())
        rounding = len(found) * 2.0**-self.buyer.fraction_bits
        if abs(asked - spend) > rounding:
            raise ValueError(f"sellers deliver for {asked:g}, they said it would cost {spend:g}")
        return found

    def _purchase(
        self, found: dict[int, Settled], loss: float, gap: float, history: list[Step]
    ) -> Purchase:
        bought: list[RowId] = [
            (seller, int(index)) for seller, answer in found.items() for index in answer.indices_k
        ]

        def joined(name: str) -> Any:
            return np.concatenate([getattr(answer, name) for answer in found.values()])

        return Purchase(
            bought=tuple(bought),
            rows_kd=joined("rows_kd"),
            labels_kq=joined("labels_kq"),
            prices_k=joined("prices_k"),
            spent=float(joined("prices_k").sum()),
            weights={},
            picks=(),
            objective=loss,
            gap=gap,
            floor=0.0,
            converged=False,
            history=tuple(history),
            rounds=self.step,
        )
