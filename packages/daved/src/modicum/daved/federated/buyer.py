"""A buyer's side: Frank-Wolfe over sellers whose rows stay where they are.

Every round the buyer tells all sellers the directions V = P Qᵀ, each answers with its best score
and that row's number, the winner alone reveals the row, and all hear the size of the step. The
buyer keeps the inverse P, the queries, the budget and the rows that won; the Gram matrices of the
sellers, or under masks their sum, are all it knows of the others. At the end the winners deliver
what is paid for, and every row and price is held against the commitment of the seller's first
message.

The picks and the objective are those of a central run on the sellers' rows in one table; ties go to
the first seller, and there to the smallest number. What leaks to whom is said in the package.
Scores that a seller announces are checked for rows that it reveals; a seller that announces too
little only loses sales, and a false Gram matrix is not found out.

Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu, Huang, Karimireddy,
Vepakomma, Jordan, Raskar, NeurIPS 2024, arXiv 2403.13893.

Shapes: d features, m queries, k rows, q labels of a row, r candidates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modicum.daved.design import WhitenedInverse, first_best, pseudo_inverse
from modicum.daved.federated.channel import Channel
from modicum.daved.federated.messages import (
    AskGram,
    Best,
    Commit,
    Done,
    Gram,
    Hello,
    Reveal,
    Revealed,
    Score,
    Settle,
    Settled,
)
from modicum.daved.federated.purchase import (
    FederatedBuyer,
    Purchase,
    RowId,
    check_coverage,
    check_norms,
    check_shapes,
    from_triangle,
    settle,
)
from modicum.daved.federated.sums import MaskedSums
from modicum.daved.rounding import purchase, topk_ranking
from modicum.daved.solvers.base import Step
from modicum.daved.solvers.frank_wolfe import SparseWeights
from modicum.daved.steps import step_rule
from modicum.daved.validation import check_count, check_finite, check_one_of, check_positive

__all__ = ["Buyer"]

# How far a revealed row's score may be from the announced one, in units of |z|² |V|².
_SCORE_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
# Share of the start in the weights at which steps end, and relative change by a last inversion from
# scratch below which the last scores are kept: those of the central run.
_LEAST_START = 1e-10
_DRIFT = 1e-9
_STARTS = ("gram", "masked", "identity")
_ORDERS = ("weight", "pick")


class Buyer(FederatedBuyer):
    """The buyer of a purchase in which the winner of a round reveals its row.

    Parameters
    ----------
    queries
        (m, d), unlabelled.
    step
        Step rule: ``"line_search"``, ``"open_loop"``, ``"herding"``, or a fixed size.
    tol
        Stop when the gap is at most this share of the objective.
    refresh
        Steps between inversions from scratch; 0 for none but the last.
    batch_rounds
        Steps between two broadcasts: as many candidates are revealed at once, and the later steps
        choose among rows that are known already. More than 1 saves rounds and reveals more rows.
    init
        ``"gram"``: start with equal weights, and ask for the Gram matrices. ``"masked"``: ask for
        their sum under masks, which is rounded to the fraction bits, so that the design is a
        central one to that accuracy only; it needs two sellers or more. ``"identity"``: start with
        ``prior`` times the identity in place of them; then there is no certificate.
    prior
        Of ``init="identity"``: mean squared value of a feature, roughly.
    fraction_bits
        Of the fixed-point numbers of ``init="masked"``.
    dtype
        Of directions, Gram matrices and revealed rows on the wire: ``"float64"`` or ``"float32"``.
    order
        Buy by ``"weight"`` or in the order of the first ``"pick"``.
    **common
        See `FederatedBuyer`; two to five times the number of rows to buy are a good ``max_iter``.

    Notes
    -----
    Bought are rows that were revealed: where fewer than the budget pays for won a round, as after
    few steps or where the certificate ends them early, money is left. A smaller ``tol`` and a
    larger ``max_iter`` spend more of it.

    Where a seller adds noise to its scores, a round's candidates are judged by the rows that they
    reveal, there is no certificate, and ``max_iter`` alone ends the steps.
    """

    def __init__(
        self,
        queries: np.ndarray,
        *,
        step: str | float = "line_search",
        tol: float = 1e-3,
        refresh: int = 100,
        batch_rounds: int = 1,
        init: str = "gram",
        prior: float = 1.0,
        fraction_bits: int = 24,
        dtype: str = "float64",
        order: str = "weight",
        **common: Any,
    ) -> None:
        super().__init__(queries, **common)
        self.rule = step_rule(step)
        self.tol = _check_tol(tol)
        self.refresh = check_count("refresh", refresh, least=0)
        self.batch_rounds = check_count("batch_rounds", batch_rounds)
        self.init = check_one_of("init", init, _STARTS)
        self.prior = check_positive("prior", prior)
        self.fraction_bits = check_count("fraction_bits", fraction_bits)
        self.dtype = check_one_of("dtype", dtype, _SCORE_TOLERANCE)
        self.order = check_one_of("order", order, _ORDERS)

    def _buy(
        self,
        channel: Channel,
        run: str,
        hellos: dict[int, Hello],
        budget: float,
        on_step: Callable[[Step], None] | None,
    ) -> Purchase:
        return _Run(self, channel, run, hellos, on_step).buy(budget)


def _check_tol(tol: float) -> float:
    if isinstance(tol, bool) or not isinstance(tol, int | float | np.number) or not tol >= 0:
        raise ValueError(f"tol must be a number of at least 0, not {tol!r}")
    return float(tol)


class _Run:
    """One purchase: what the buyer knows so far."""

    def __init__(
        self,
        buyer: Buyer,
        channel: Channel,
        run: str,
        hellos: dict[int, Hello],
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self.buyer = buyer
        self.channel = channel
        self.hellos = hellos
        self.on_step = on_step
        self.d = buyer.queries_md.shape[1]
        self.is_noisy = any(hello.epsilon is not None for hello in hellos.values())
        self.has_certificate = buyer.init != "identity" and not self.is_noisy
        counts = [hello.n_rows for hello in hellos.values()]
        firsts = np.cumsum([0, *counts[:-1]]).tolist()
        self.first_of = dict(zip(hellos, firsts, strict=True))
        self.requests = 0  # those so far that change what a seller knows
        self.inverse = WhitenedInverse(self._start(run, sum(counts)), buyer.queries_md)
        self.weights = SparseWeights(sum(counts))
        self.row_of: dict[int, RowId] = {}
        self.raw: dict[RowId, np.ndarray] = {}
        self.scaled: dict[RowId, np.ndarray] = {}
        self.prices: dict[RowId, float] = {}
        self.picks: list[RowId] = []
        self.history: list[Step] = []
        self.since_refresh = 0
        self.peak: float | None = None  # highest score under the present weights

    def _start(self, run: str, n: int) -> np.ndarray:
        """Give the information before the first step."""
        if self.buyer.init == "identity":
            return self.buyer.prior * np.eye(self.d)
        if self.buyer.init == "masked":
            sums = MaskedSums(self.channel, run, self.hellos, self.buyer.fraction_bits)
            values_r, basis_dr = sums.spectrum(sums.ask("start", n))
            self.requests = sums.step
            check_coverage(basis_dr, self.buyer.queries_md)
            start_dd: np.ndarray = (basis_dr * values_r) @ basis_dr.T
            return start_dd
        grams = self.channel.ask(dict.fromkeys(self.hellos, AskGram(self.buyer.dtype)), Gram)
        for seller, gram in grams.items():
            if gram.triangle.shape != (self.d * (self.d + 1) // 2,):
                raise ValueError(f"seller {seller} gave a Gram matrix of another size")
            check_finite(f"the Gram matrix of seller {seller}", gram.triangle)
        triangle = sum(gram.triangle.astype(np.float64) for gram in grams.values())
        information_dd = from_triangle(np.asarray(triangle), self.d) / n
        check_coverage(pseudo_inverse(information_dd).basis, self.buyer.queries_md)
        return information_dd

    def buy(self, budget: float) -> Purchase:
        while len(self.history) < self.buyer.max_iter and self._round():
            pass
        objective, gap = self._end()
        rounds, self.channel.round = self.channel.round, 0
        bought, shares = self._choose(budget), self._shares()
        delivered = self._settle(bought)
        prices_k = np.array([delivered[row][2] for row in bought])
        return Purchase(
            bought=tuple(bought),
            rows_kd=np.array([delivered[row][0] for row in bought]).reshape(-1, self.d),
            labels_kq=np.array([delivered[row][1] for row in bought]),
            prices_k=prices_k,
            spent=float(prices_k.sum()),
            weights={row: shares.get(row, 0.0) / self.prices[row] for row in self.raw},
            picks=tuple(self.picks),
            objective=objective,
            gap=gap,
            floor=self._start_share(),
            converged=gap <= self.buyer.tol * objective,
            history=tuple(self.history),
            rounds=rounds,
            commitments={seller: hello.root for seller, hello in self.hellos.items()},
            traffic=tuple(self.channel.traffic),
        )

    def _broadcast(self) -> tuple[np.ndarray, list[tuple[float, RowId]]]:
        """Tell V, as it goes over the wire, and give the best rows of all sellers, best first."""
        self.channel.round += 1
        directions_dm = self.inverse.directions().astype(self.buyer.dtype)
        request = Score(self.requests, self.buyer.batch_rounds, directions_dm)
        best = self.channel.ask(dict.fromkeys(self.hellos, request), Best)
        found = [
            (float(value), (seller, int(index)))
            for seller, answer in best.items()
            for value, index in zip(answer.values_r, answer.indices_r, strict=True)
        ]
        if not found:
            raise ValueError("no seller offers a row")
        for value, row in found:
            if not np.isfinite(value) or not 0 <= row[1] < self.hellos[row[0]].n_rows:
                raise ValueError(f"seller {row[0]} offers row {row[1]} with a score of {value:g}")
        first = found.pop(first_best(np.array([value for value, _ in found])))
        found.sort(key=lambda one: -one[0])
        return directions_dm, [first, *found][: self.buyer.batch_rounds]

    def _round(self) -> bool:
        """Broadcast, learn the winners and take the steps; tell whether to go on."""
        loss = self.inverse.loss()
        directions_dm, candidates = self._broadcast()
        (score, pick), *_ = candidates
        gap = score - loss if self.has_certificate else float("nan")
        self.peak = score
        if not self.is_noisy and (gap <= self.buyer.tol * loss or score <= loss):
            if not self.raw:
                # Nothing is better than the start: the best row is still one to buy.
                self._reveal(directions_dm, candidates)
            return False
        self._reveal(directions_dm, candidates)
        if self.is_noisy:
            pick, score = self._best_known()
        taken: list[tuple[RowId, float]] = []
        while True:
            size = self._step_size(pick, score, loss)
            if size <= 0 and not self.is_noisy:
                break
            taken.append((pick, size))
            self._move(pick, size, Step(len(self.history), loss, gap, self._number(pick), size))
            if len(taken) == self.buyer.batch_rounds or len(self.history) == self.buyer.max_iter:
                break
            loss, gap = self.inverse.loss(), float("nan")
            pick, score = self._best_known()
            if score <= loss:
                break
        if taken:
            self._commit(taken)
        return bool(taken)

    def _number(self, row: RowId) -> int:
        return int(self.first_of[row[0]]) + row[1]

    def _best_known(self) -> tuple[RowId, float]:
        """Find the best among the rows that were revealed."""
        names = sorted(self.scaled, key=self._number)
        rows_kd = np.array([self.scaled[row] for row in names])
        scores_k = np.square(rows_kd @ self.inverse.directions()).mean(axis=1)
        place = first_best(scores_k)
        return names[place], float(scores_k[place])

    def _reveal(self, directions_dm: np.ndarray, candidates: list[tuple[float, RowId]]) -> None:
        """Get the candidates that aren't known yet from their sellers."""
        asked: dict[int, list[int]] = {}
        for _, (seller, index) in candidates:
            if (seller, index) not in self.raw:
                asked.setdefault(seller, []).append(index)
        top, dtype = self.buyer.batch_rounds, self.buyer.dtype
        requests = {
            seller: Reveal(self.requests, top, dtype, directions_dm, np.array(indices))
            for seller, indices in asked.items()
        }
        announced = {row: value for value, row in candidates}
        for seller, answer in self.channel.ask(requests, Revealed).items():
            check_shapes(seller, len(asked[seller]), self.d, answer.rows_kd, answer.prices_k)
            check_norms(self.hellos[seller], seller, answer.rows_kd)
            for place, index in enumerate(asked[seller]):
                row = (seller, index)
                self.raw[row] = answer.rows_kd[place]
                self.prices[row] = self._price(row, float(answer.prices_k[place]))
                scaled_d = self.raw[row].astype(np.float64) / np.sqrt(self.prices[row])
                self.scaled[row] = scaled_d
                self._check(row, announced[row], directions_dm)

    def _price(self, row: RowId, price: float) -> float:
        hello = self.hellos[row[0]]
        if not hello.lowest_price <= price <= hello.highest_price or price <= 0:
            raise ValueError(
                f"seller {row[0]} asks {price:g} for row {row[1]}, outside of its own range of "
                f"{hello.lowest_price:g} to {hello.highest_price:g}"
            )
        return price

    def _check(self, row: RowId, announced: float, directions_dm: np.ndarray) -> None:
        if self.hellos[row[0]].epsilon is not None:
            return
        z_d = self.scaled[row]
        score = float(np.square(z_d @ directions_dm).mean())
        size = float(z_d @ z_d * np.square(directions_dm).sum(axis=0).mean())
        if abs(score - announced) > _SCORE_TOLERANCE[self.buyer.dtype] * size:
            raise ValueError(
                f"seller {row[0]} announced {announced:g} for row {row[1]}, which scores {score:g}"
            )

    def _step_size(self, pick: RowId, score: float, loss: float) -> float:
        leverage = self.inverse.leverage(self.scaled[pick])
        wanted = self.buyer.rule(loss, score, leverage, len(self.history))
        return max(0.0, min(wanted, 1 - _LEAST_START / self._start_share()))

    def _start_share(self) -> float:
        return self.weights.floor * self.weights.count

    def _shares(self) -> dict[RowId, float]:
        numbers_k, shares_k = self.weights.picked()
        return {
            self.row_of[number]: share
            for number, share in zip(numbers_k.tolist(), shares_k.tolist(), strict=True)
        }

    def _move(self, pick: RowId, size: float, step: Step) -> None:
        """Move weight to a row: shares, inverse and, now and then, the inverse from scratch."""
        if size > 0:
            self.peak = None
            self.picks.append(pick)
            self.row_of[step.pick] = pick
            self.weights.move(step.pick, size)
            self.since_refresh += 1
            followed = self.inverse.follow(self.scaled[pick], size)
            if not followed or self.since_refresh == self.buyer.refresh:
                self._rebuild()
        self.history.append(step)
        if self.on_step is not None:
            self.on_step(step)

    def _rebuild(self) -> None:
        shares = self._shares()
        rows_kd = np.array([self.scaled[row] for row in shares])
        self.inverse.rebuild(self._start_share(), rows_kd, np.array(list(shares.values())))
        self.since_refresh = 0

    def _commit(self, taken: Sequence[tuple[RowId, float]]) -> None:
        """Tell every seller the sizes, and which steps went to rows of its own."""
        sizes_k = np.array([size for _, size in taken])
        requests = {}
        for seller in self.channel.seller_ids:
            own = [row[1] if row[0] == seller else -1 for row, _ in taken]
            requests[seller] = Commit(self.requests, sizes_k, np.array(own, dtype=np.int64))
        self.channel.ask(requests, Done, remember=True)
        self.requests += 1

    def _end(self) -> tuple[float, float]:
        """Give objective and gap of the last weights; one more broadcast where steps ran out."""
        if self.since_refresh:
            before_dm = self.inverse.directions()
            self._rebuild()
            after_dm = self.inverse.directions()
            if np.abs(after_dm - before_dm).max() > _DRIFT * np.abs(after_dm).max():
                self.peak = None
        loss = self.inverse.loss()
        if not self.has_certificate:
            return loss, float("nan")
        peak = self._broadcast()[1][0][0] if self.peak is None else self.peak
        return loss, peak - loss

    def _choose(self, budget: float) -> list[RowId]:
        """Walk down the rows that won, then those that were only revealed, by their scores."""
        shares = self._shares()
        won = list(shares)
        if self.buyer.order == "weight":
            won.sort(key=lambda row: (-shares[row] / self.prices[row], self._number(row)))
        others = sorted(set(self.raw) - set(won), key=self._number)
        if others:
            rows_kd = np.array([self.scaled[row] for row in others])
            scores_k = np.square(rows_kd @ self.inverse.directions()).mean(axis=1)
            others = [others[place] for place in topk_ranking(np.zeros(len(others)), scores_k)]
        rows = [*won, *others]
        prices_k = np.array([self.prices[row] for row in rows])
        return [rows[place] for place in purchase(np.arange(len(rows)), prices_k, budget)]

    def _settle(self, bought: list[RowId]) -> dict[RowId, tuple[np.ndarray, np.ndarray, float]]:
        """Get what is paid for, and hold it against commitments and revealed rows."""
        asked: dict[int, list[int]] = {}
        for seller, index in bought:
            asked.setdefault(seller, []).append(index)
        requests = {seller: Settle(np.array(indices)) for seller, indices in asked.items()}
        found = {}
        for seller, answer in self.channel.ask(requests, Settled).items():
            settle(self.hellos[seller], seller, answer)
            for place, index in enumerate(answer.indices_k.tolist()):
                row = (seller, index)
                delivered_d, price = answer.rows_kd[place], float(answer.prices_k[place])
                same = np.array_equal(delivered_d.astype(self.buyer.dtype), self.raw[row])
                if not same or price != self.prices[row]:
                    raise ValueError(f"row {index} of seller {seller} is not what it revealed")
                found[row] = (delivered_d, answer.labels_kq[place], price)
        missing = set(bought) - set(found)
        if missing:
            raise ValueError(f"rows {sorted(missing)} (seller, number) were not delivered")
        return found
