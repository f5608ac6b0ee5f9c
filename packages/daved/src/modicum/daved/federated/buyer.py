"""A buyer's side: Frank-Wolfe over sellers whose rows stay where they are.

Every round the buyer tells all sellers the directions V = P Qᵀ, each answers with its best score
and that row's number, the winner alone reveals the row, and all hear the size of the step. The
buyer keeps the inverse P, the queries, the budget and the rows that won; each seller's Gram
matrix is all it knows of the others. At the end the winners deliver what is paid for, and every row
and price is held against the commitment of the seller's first message.

The picks and the objective are those of a central run on the sellers' rows in one table. What leaks
to whom is said in `seller`. Scores that a seller announces are checked for rows that it reveals; a
seller that announces too little only loses sales, and a false Gram matrix is not found out.

Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu, Huang, Karimireddy,
Vepakomma, Jordan, Raskar, NeurIPS 2024, arXiv 2403.13893.

Shapes: d features, m queries, k rows, q labels of a row.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from modicum.daved.design import pseudo_inverse
from modicum.daved.federated.channel import Channel, Transport
from modicum.daved.federated.merkle import leaf_hash, verify
from modicum.daved.federated.messages import (
    AskGram,
    AskHello,
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
from modicum.daved.solvers.base import Step
from modicum.daved.steps import step_rule

__all__ = ["Buyer", "Purchase", "RowId", "from_triangle", "greet", "settle"]

RowId = tuple[int, int]  # seller, number of the row there

# How far a revealed row's score may be from the announced one, in units of |z|² |V|².
_SCORE_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}


@dataclass(frozen=True)
class Purchase:
    """What was bought, and how it was found.

    Attributes
    ----------
    bought
        (seller, local number) of every bought row, in the order of purchase.
    rows_kd, labels_kq, prices_k
        What was delivered, in the same order.
    spent
        Sum of the prices.
    weights
        Design weight of every row that the buyer knows a weight of; of a budget of 1, so that
        price times weight, summed over all rows, is 1 together with the floor.
    picks
        Winner of every step, in order, with repeats; empty in the aggregate protocol.
    objective, gap
        L and its certificate at the end; the gap is nan where there is none.
    floor
        What is left of the uniform start, as a share of the budget.
    converged
        Whether the gap came below the tolerance.
    history
        The steps; picks are numbered as in the sellers' rows put together in the order of sellers.
    rounds
        Broadcasts of directions.
    """

    bought: tuple[RowId, ...]
    rows_kd: np.ndarray
    labels_kq: np.ndarray
    prices_k: np.ndarray
    spent: float
    weights: dict[RowId, float]
    picks: tuple[RowId, ...]
    objective: float
    gap: float
    floor: float
    converged: bool
    history: tuple[Step, ...] = field(repr=False)
    rounds: int


def greet(channel: Channel, d: int, features: str, run: str) -> dict[int, Hello]:
    """Ask all sellers who they are.

    Raises
    ------
    ValueError
        If there is none, or one has another number of features or another feature map.
    """
    if not channel.seller_ids:
        raise ValueError("there is no seller")
    hellos = channel.ask({seller: AskHello(run) for seller in channel.seller_ids}, Hello)
    for seller, hello in hellos.items():
        if hello.d != d:
            raise ValueError(f"seller {seller} has {hello.d} features, the queries have {d}")
        if hello.fingerprint != features:
            raise ValueError(
                f"seller {seller} has features {hello.fingerprint!r}, the queries {features!r}"
            )
    return hellos


def from_triangle(triangle: np.ndarray, d: int) -> np.ndarray:
    """Make a symmetric (d, d) matrix of its upper triangle."""
    matrix_dd = np.zeros((d, d))
    upper = np.triu_indices(d)
    matrix_dd[upper] = triangle
    matrix_dd[upper[::-1]] = triangle
    return matrix_dd


def settle(hello: Hello, seller: int, answer: Settled) -> None:
    """Hold delivered rows against the commitment of a seller's first message.

    Raises
    ------
    ValueError
        If a row, its labels, its price or its number is another than was committed to.
    """
    root = bytes.fromhex(hello.root)
    for place, index in enumerate(answer.indices_k.tolist()):
        leaf = leaf_hash(
            index,
            float(answer.prices_k[place]),
            answer.rows_kd[place],
            answer.labels_kq[place],
            answer.salts_kb[place].tobytes(),
        )
        proof = [sibling.tobytes() for sibling in answer.proofs_khb[place]]
        if not verify(root, hello.n_rows, index, leaf, proof):
            raise ValueError(f"row {index} of seller {seller} is not what it committed to")


class Buyer:
    """The buyer of a federated purchase.

    Parameters
    ----------
    queries
        (m, d), unlabelled; they never leave the buyer as such.
    features
        Fingerprint of the feature map that made them.
    step
        Step rule: ``"line_search"``, ``"open_loop"``, ``"herding"``, or a fixed size.
    max_iter
        Steps at most; two to five times the number of rows to buy is a good choice.
    tol
        Stop when the gap is at most this share of the objective.
    refresh
        Steps between inversions from scratch.
    batch_rounds
        Steps between two broadcasts: as many candidates are revealed at once, and the later steps
        choose among rows that are known already. More than 1 saves rounds and reveals more rows.
    init
        ``"gram"``: start with equal weights, and ask for the Gram matrices. ``"identity"``: start
        with ``prior`` times the identity in place of them; then there is no certificate.
    prior
        Of ``init="identity"``: mean squared value of a feature, roughly.
    dtype
        Of directions, Gram matrices and revealed rows on the wire: ``"float64"`` or ``"float32"``.
    order
        Buy by ``"weight"`` or in the order of the first ``"pick"``.
    retries
        See `Channel`.
    """

    def __init__(
        self,
        queries: np.ndarray,
        *,
        features: str = "",
        step: str | float = "line_search",
        max_iter: int = 100,
        tol: float = 1e-3,
        refresh: int = 100,
        batch_rounds: int = 1,
        init: str = "gram",
        prior: float = 1.0,
        dtype: str = "float64",
        order: str = "weight",
        retries: int = 3,
    ) -> None:
        for name, value, known in (
            ("init", init, ("gram", "identity")),
            ("dtype", dtype, tuple(_SCORE_TOLERANCE)),
            ("order", order, ("weight", "pick")),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it can be one of {known}")
        self.queries_md = np.asarray(queries, dtype=np.float64)
        self.features = features
        self.rule = step_rule(step)
        self.max_iter = max_iter
        self.tol = tol
        self.refresh = refresh
        self.batch_rounds = batch_rounds
        self.init = init
        self.prior = prior
        self.dtype = dtype
        self.order = order
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
            To the sellers.
        budget
            What may be spent, in the currency of the prices.
        on_step
            Sees every step.

        Raises
        ------
        ValueError
            If sellers don't fit the queries, or one doesn't deliver what it committed to.
        ConnectionError, RuntimeError
            See `Channel.ask`.
        """
        return _Run(self, Channel(transport, self.retries)).buy(budget, on_step)


class _Run:
    """One purchase: what the buyer knows so far."""

    def __init__(self, buyer: Buyer, channel: Channel) -> None:
        self.buyer = buyer
        self.channel = channel
        self.d = buyer.queries_md.shape[1]
        self.hellos = greet(channel, self.d, buyer.features, secrets.token_hex(16))
        counts = [self.hellos[seller].n_rows for seller in channel.seller_ids]
        firsts = np.cumsum([0, *counts[:-1]]).tolist()
        self.first_of = dict(zip(channel.seller_ids, firsts, strict=True))
        self.start_dd = self._start(sum(counts))
        self.inverse_dd = pseudo_inverse(self.start_dd)[0]
        self.scale = 1.0
        self.shares: dict[RowId, float] = {}
        self.raw: dict[RowId, np.ndarray] = {}
        self.scaled: dict[RowId, np.ndarray] = {}
        self.prices: dict[RowId, float] = {}
        self.picks: list[RowId] = []
        self.history: list[Step] = []
        self.rounds = 0
        self.commits = 0

    def _start(self, n: int) -> np.ndarray:
        """Give the information before the first step."""
        if self.buyer.init == "identity":
            return self.buyer.prior * np.eye(self.d)
        request = AskGram(self.buyer.dtype)
        grams = self.channel.ask({seller: request for seller in self.channel.seller_ids}, Gram)
        triangle = sum(gram.triangle.astype(np.float64) for gram in grams.values())
        return from_triangle(np.asarray(triangle), self.d) / n

    def buy(self, budget: float, on_step: Callable[[Step], None] | None) -> Purchase:
        while len(self.history) < self.buyer.max_iter and self._round(on_step):
            pass
        bought = self._choose(budget)
        delivered = self._settle(bought)
        prices_k = np.array([delivered[row][2] for row in bought])
        shares = {row: share / self.prices[row] for row, share in self.shares.items()}
        objective, gap = self._end()
        return Purchase(
            bought=tuple(bought),
            rows_kd=np.array([delivered[row][0] for row in bought]).reshape(-1, self.d),
            labels_kq=np.array([delivered[row][1] for row in bought]),
            prices_k=prices_k,
            spent=float(prices_k.sum()),
            weights=shares,
            picks=tuple(self.picks),
            objective=objective,
            gap=gap,
            floor=self.scale,
            converged=gap <= self.buyer.tol * objective,
            history=tuple(self.history),
            rounds=self.rounds,
        )

    def _directions(self) -> tuple[np.ndarray, float]:
        """Give V as it goes over the wire, and the objective."""
        directions_dm = self.inverse_dd @ self.buyer.queries_md.T
        loss = float((self.buyer.queries_md.T * directions_dm).sum() / len(self.buyer.queries_md))
        return directions_dm.astype(self.buyer.dtype), loss

    def _score(self, directions_dm: np.ndarray) -> dict[int, Best]:
        self.rounds += 1
        request = Score(self.commits, self.buyer.batch_rounds, directions_dm)
        return self.channel.ask({seller: request for seller in self.channel.seller_ids}, Best)

    def _round(self, on_step: Callable[[Step], None] | None) -> bool:
        """Broadcast, learn the winners and take the steps; tell whether to go on."""
        directions_dm, loss = self._directions()
        best = self._score(directions_dm)
        candidates = self._candidates(best)
        gap = self._gap(candidates[0][0], loss)
        if gap <= self.buyer.tol * loss or candidates[0][0] <= loss:
            return False
        self._reveal(directions_dm, candidates)
        taken: list[tuple[RowId, float]] = []
        pick, score = candidates[0][1], candidates[0][0]
        while True:
            size = self._step(pick, score, loss)
            taken.append((pick, size))
            self._note(Step(len(self.history), loss, gap, self._number(pick), size), on_step)
            if len(taken) == self.buyer.batch_rounds or len(self.history) == self.buyer.max_iter:
                break
            loss = self._directions()[1]
            pick, score = self._best_known()
            gap = float("nan")
            if score <= loss:
                break
        self._commit(taken)
        return True

    def _gap(self, score: float, loss: float) -> float:
        return score - loss if self.buyer.init == "gram" else float("nan")

    def _note(self, step: Step, on_step: Callable[[Step], None] | None) -> None:
        self.history.append(step)
        if on_step is not None:
            on_step(step)

    def _number(self, row: RowId) -> int:
        return int(self.first_of[row[0]]) + row[1]

    def _candidates(self, best: dict[int, Best]) -> list[tuple[float, RowId]]:
        """Give the best rows of all sellers; ties by seller, then by number."""
        found = [
            (float(value), (seller, int(index)))
            for seller in self.channel.seller_ids
            for value, index in zip(best[seller].values_r, best[seller].indices_r, strict=True)
        ]
        return sorted(found, key=lambda one: -one[0])[: self.buyer.batch_rounds]

    def _best_known(self) -> tuple[RowId, float]:
        """Find the best among the rows that were revealed."""
        names = sorted(self.scaled, key=self._number)
        rows_kd = np.array([self.scaled[row] for row in names])
        directions_dm = self.inverse_dd @ self.buyer.queries_md.T
        scores_k = np.square(rows_kd @ directions_dm).mean(axis=1)
        place = int(np.argmax(scores_k))
        return names[place], float(scores_k[place])

    def _reveal(self, directions_dm: np.ndarray, candidates: list[tuple[float, RowId]]) -> None:
        """Get the candidates that aren't known yet from their sellers."""
        asked: dict[int, list[int]] = {}
        for _, (seller, index) in candidates:
            if (seller, index) not in self.raw:
                asked.setdefault(seller, []).append(index)
        top, dtype = self.buyer.batch_rounds, self.buyer.dtype
        requests = {
            seller: Reveal(self.commits, top, dtype, directions_dm, np.array(indices))
            for seller, indices in asked.items()
        }
        announced = {row: value for value, row in candidates}
        for seller, answer in self.channel.ask(requests, Revealed).items():
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
        z_d = self.scaled[row]
        score = float(np.square(z_d @ directions_dm).mean())
        size = float(z_d @ z_d * np.square(directions_dm).sum(axis=0).mean())
        if abs(score - announced) > _SCORE_TOLERANCE[self.buyer.dtype] * size:
            raise ValueError(
                f"seller {row[0]} announced {announced:g} for row {row[1]}, which scores {score:g}"
            )

    def _step(self, pick: RowId, score: float, loss: float) -> float:
        """Move weight to a row: shares, inverse and, now and then, the inverse from scratch."""
        z_d = self.scaled[pick]
        u_d = self.inverse_dd @ z_d
        leverage = float(z_d @ u_d)
        size = self.buyer.rule(loss, score, leverage, len(self.picks))
        self.picks.append(pick)
        self.scale *= 1 - size
        self.shares = {row: share * (1 - size) for row, share in self.shares.items()}
        self.shares[pick] = self.shares.get(pick, 0.0) + size
        if len(self.picks) % self.buyer.refresh == 0:
            self.inverse_dd = pseudo_inverse(self._information())[0]
        else:
            keep = 1 - size + size * leverage
            inverse_dd = (self.inverse_dd - size / keep * np.outer(u_d, u_d)) / (1 - size)
            self.inverse_dd = (inverse_dd + inverse_dd.T) / 2
        return size

    def _information(self) -> np.ndarray:
        matrix_dd = self.scale * self.start_dd
        for row, share in self.shares.items():
            matrix_dd = matrix_dd + share * np.outer(self.scaled[row], self.scaled[row])
        return matrix_dd

    def _commit(self, taken: Sequence[tuple[RowId, float]]) -> None:
        """Tell every seller the sizes, and which steps went to rows of its own."""
        sizes_k = np.array([size for _, size in taken])
        requests = {}
        for seller in self.channel.seller_ids:
            own = [row[1] if row[0] == seller else -1 for row, _ in taken]
            requests[seller] = Commit(self.commits, sizes_k, np.array(own, dtype=np.int64))
        self.channel.ask(requests, Done, remember=True)
        self.commits += 1

    def _end(self) -> tuple[float, float]:
        """Give objective and gap of the last weights; one more broadcast where steps ran out."""
        directions_dm, loss = self._directions()
        if self.buyer.init == "identity":
            return loss, float("nan")
        return loss, self._candidates(self._score(directions_dm))[0][0] - loss

    def _choose(self, budget: float) -> list[RowId]:
        """Walk down the rows that won and take what is affordable."""
        rows = list(self.shares)
        if self.buyer.order == "weight":
            rows.sort(key=lambda row: (-self.shares[row] / self.prices[row], self._number(row)))
        chosen, left = [], budget
        for row in rows:
            if self.prices[row] <= left:
                chosen.append(row)
                left -= self.prices[row]
        return chosen

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
