"""A purchase in which no record leaves a seller before it is sold: sums under masks only.

The design is found by multiplicative updates, w_j ← w_j √g_j / Σ w_i √g_i, which need nothing of
the rows but Σ w_j √g_j and the information Σ w_j x_j x_jᵀ. Both are sums over sellers, so each
seller sends its part under masks that cancel (see `masking`, and what it says of its limits). What
is worth buying is found by bisection: what do all rows of weight τ or more cost together?

Rows that weigh the same are bought in the order of sellers and numbers.

What leaks all the same. The buyer learns the information matrix of every round, the cost and the
number of rows above each threshold it asks for, and at the end every seller's highest score, in
clear, if it wants a certificate. Sellers learn the directions V = P Qᵀ of every round, up to their
length. With one seller there is nothing to hide behind, and with two each knows the other's part of
whatever sum it gets to see. Honest sellers are assumed: a false part of a sum isn't found out, a
false delivery is.

Shapes: n rows of a seller, d features, m queries.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from modicum.daved.federated.channel import Channel
from modicum.daved.federated.messages import AskPeak, Deliver, Hello, Peak, Settled
from modicum.daved.federated.purchase import (
    FederatedBuyer,
    Purchase,
    RowId,
    check_coverage,
    settle,
)
from modicum.daved.federated.sums import MaskedSums
from modicum.daved.rounding import BUDGET_TOLERANCE
from modicum.daved.solvers.base import Step
from modicum.daved.validation import check_count

__all__ = ["AggregateBuyer"]

# Weight shares below this never decide what is bought.
_LEAST_SHARE = 1e-15


class AggregateBuyer(FederatedBuyer):
    """The buyer of a purchase by masked sums.

    Parameters
    ----------
    queries
        (m, d), unlabelled.
    max_iter
        Updates; 50 to 100 are usual.
    certificate
        Whether to ask every seller for its highest score at the end.
    fraction_bits
        Of the fixed-point numbers.
    bisections
        Thresholds that are tried at most.
    **common
        See `FederatedBuyer`.
    """

    def __init__(
        self,
        queries: np.ndarray,
        *,
        max_iter: int = 60,
        certificate: bool = True,
        fraction_bits: int = 24,
        bisections: int = 50,
        **common: Any,
    ) -> None:
        super().__init__(queries, max_iter=max_iter, **common)
        self.certificate = certificate
        self.fraction_bits = check_count("fraction_bits", fraction_bits)
        self.bisections = check_count("bisections", bisections)

    def _buy(
        self,
        channel: Channel,
        run: str,
        hellos: dict[int, Hello],
        budget: float,
        on_step: Callable[[Step], None] | None,
    ) -> Purchase:
        return _Run(self, channel, run, hellos).buy(budget, on_step)


class _Run:
    """One purchase: what the buyer knows so far."""

    def __init__(
        self, buyer: AggregateBuyer, channel: Channel, run: str, hellos: dict[int, Hello]
    ) -> None:
        self.buyer = buyer
        self.channel = channel
        self.hellos = hellos
        self.sums = MaskedSums(channel, run, hellos, buyer.fraction_bits)

    def buy(self, budget: float, on_step: Callable[[Step], None] | None) -> Purchase:
        total = self.sums.ask("start", sum(hello.n_rows for hello in self.hellos.values()))
        history: list[Step] = []
        check_coverage(self.sums.spectrum(total)[1], self.buyer.queries_md)
        directions_dm, loss = self._directions(total)
        for iteration in range(self.buyer.max_iter):
            # Divided by √L the scores have a weighted mean of 1, so sums keep their size.
            self.channel.round += 1
            total = self.sums.ask("update", float(total[0]), directions_dm / np.sqrt(loss))
            history.append(Step(iteration, loss, float("nan")))
            if on_step is not None:
                on_step(history[-1])
            directions_dm, loss = self._directions(total)
        rounds, self.channel.round = self.channel.round, 0
        gap = self._gap(directions_dm, loss)
        threshold, spend = self._threshold(budget, float(total[0]))
        delivered = self._deliver(threshold, spend)
        return self._purchase(delivered, loss, gap, history, rounds)

    def _directions(self, total: np.ndarray) -> tuple[np.ndarray, float]:
        values_r, basis_dr = self.sums.spectrum(total)
        inverse_dd = (basis_dr / values_r) @ basis_dr.T
        directions_dm = inverse_dd @ self.buyer.queries_md.T
        loss = float((self.buyer.queries_md.T * directions_dm).sum() / len(self.buyer.queries_md))
        return directions_dm, loss

    def _gap(self, directions_dm: np.ndarray, loss: float) -> float:
        is_noisy = any(hello.epsilon is not None for hello in self.hellos.values())
        if is_noisy or not self.buyer.certificate:
            return float("nan")
        peaks = self.channel.ask(dict.fromkeys(self.hellos, AskPeak(directions_dm)), Peak)
        return max(peak.value for peak in peaks.values()) - loss

    def _threshold(self, budget: float, norm: float) -> tuple[float, float]:
        """Find the lowest threshold that is affordable, and what it costs."""
        # Sums are those of rounded parts; a budget that the prices come to exactly is enough.
        budget = budget * (1 + BUDGET_TOLERANCE) + self._rounding()
        cheapest = min(hello.lowest_price for hello in self.hellos.values())
        dearest = max(hello.highest_price for hello in self.hellos.values())
        low, high = _LEAST_SHARE * norm / dearest, 2 * norm / cheapest
        spend, below = self.sums.ask("spend", low).tolist()
        if spend <= budget:
            return low, spend
        spend, above = 0.0, 0.0
        for _ in range(self.buyer.bisections):
            if below - above <= 1 or budget - spend < cheapest:
                break
            middle = float(np.sqrt(low * high))
            cost, count = self.sums.ask("spend", middle).tolist()
            if cost <= budget:
                high, spend, above = middle, cost, count
            else:
                low, below = middle, count
        return high, spend

    def _deliver(self, threshold: float, spend: float) -> dict[int, Settled]:
        request = Deliver(self.sums.step, threshold)
        found = self.channel.ask(dict.fromkeys(self.hellos, request), Settled)
        for seller, answer in found.items():
            settle(self.hellos[seller], seller, answer)
        asked = sum(float(answer.prices_k.sum()) for answer in found.values())
        if abs(asked - spend) > 2 * self._rounding() + BUDGET_TOLERANCE * spend:
            raise ValueError(f"sellers deliver for {asked:g}, they said it would cost {spend:g}")
        return found

    def _rounding(self) -> float:
        """Give by how much the fixed-point sum of all sellers' parts may be off."""
        return float(len(self.hellos) * 2.0 ** -(self.buyer.fraction_bits + 1))

    def _purchase(
        self,
        found: dict[int, Settled],
        loss: float,
        gap: float,
        history: list[Step],
        rounds: int,
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
            rounds=rounds,
            commitments={seller: hello.root for seller, hello in self.hellos.items()},
            traffic=tuple(self.channel.traffic),
        )
