"""What both kinds of purchase share: the result, the greeting, and the check of what is delivered.

Shapes: d features, m queries, k rows, q labels of a row.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from modicum.daved.design import coverage
from modicum.daved.federated.channel import Channel, Traffic, Transport
from modicum.daved.federated.merkle import leaf_hash, verify
from modicum.daved.federated.messages import AskHello, Hello, Settled
from modicum.daved.solvers.base import Step
from modicum.daved.validation import (
    check_budget,
    check_count,
    check_covered,
    check_positive,
    check_queries,
    warn_coverage,
)

__all__ = [
    "FederatedBuyer",
    "Purchase",
    "RowId",
    "check_coverage",
    "check_norms",
    "check_shapes",
    "from_triangle",
    "settle",
]

RowId = tuple[int, int]  # seller, number of the row there

# How far above the bound a row may be that was clipped in single precision.
_NORM_TOLERANCE = 1e-6


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
    commitments
        Merkle root that each seller bound itself to, hex; to compare with what it published.
    traffic
        Bytes of every exchange, in order.
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
    commitments: Mapping[int, str] = field(repr=False)
    traffic: tuple[Traffic, ...] = field(repr=False)

    def bytes_by_kind(self) -> dict[str, tuple[int, int]]:
        """Give the bytes (to sellers, from sellers) of all frames, by kind of the request."""
        found: dict[str, tuple[int, int]] = {}
        for entry in self.traffic:
            down, up = found.get(entry.kind, (0, 0))
            found[entry.kind] = (down + entry.down, up + entry.up)
        return found

    def bytes_by_round(self) -> list[tuple[int, int]]:
        """Give the bytes (to sellers, from sellers) of each round; greeting and settlement first.

        Returns
        -------
        list of tuple of int
            One entry more than there were rounds.
        """
        found = [(0, 0)] * (self.rounds + 1)
        for entry in self.traffic:
            down, up = found[entry.round]
            found[entry.round] = (down + entry.down, up + entry.up)
        return found


class FederatedBuyer(ABC):
    """A buyer of either protocol.

    Parameters
    ----------
    queries
        (m, d), unlabelled; they never leave the buyer as such.
    features
        Fingerprint of the feature map that made them.
    max_iter
        Steps at most.
    max_norm
        Bound on the length of a row that every seller must have announced; none by default. Against
        sellers that inflate their rows.
    accept_noise
        Whether sellers may add noise to their scores; see `noise`.
    retries
        See `Channel`.

    Raises
    ------
    ValueError
        If there is no query, one is not finite or all zeros, or a bound is not positive.
    """

    def __init__(
        self,
        queries: np.ndarray,
        *,
        features: str = "",
        max_iter: int = 100,
        max_norm: float | None = None,
        accept_noise: bool = False,
        retries: int = 3,
    ) -> None:
        queries_md = np.atleast_2d(np.asarray(queries, dtype=np.float64))
        self.queries_md = check_queries(queries_md, queries_md.shape[1], "queries")
        self.features = features
        self.max_iter = check_count("max_iter", max_iter, least=0)
        self.max_norm = None if max_norm is None else check_positive("max_norm", max_norm)
        self.accept_noise = accept_noise
        self.retries = check_count("retries", retries, least=0)

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
            To the sellers; two or more of them for masked sums.
        budget
            What may be spent, in the currency of the prices.
        on_step
            Sees every step.

        Raises
        ------
        ValueError
            If sellers don't fit the queries or each other or are too few, if their rows span no
            part of the queries, or one doesn't deliver what it committed to.
        InfeasibleBudgetError
            If every price is above the budget.
        ConnectionError, RuntimeError
            See `Channel.ask`.
        """
        check_budget(budget)
        channel = Channel(transport, self.retries)
        run = secrets.token_hex(16)
        hellos = self._greet(channel, run)
        lowest = np.array([hello.lowest_price for hello in hellos.values()])
        return self._buy(channel, run, hellos, check_budget(budget, lowest), on_step)

    @abstractmethod
    def _buy(
        self,
        channel: Channel,
        run: str,
        hellos: dict[int, Hello],
        budget: float,
        on_step: Callable[[Step], None] | None,
    ) -> Purchase: ...

    def _greet(self, channel: Channel, run: str) -> dict[int, Hello]:
        """Ask all sellers who they are, and refuse those who don't fit."""
        if not channel.seller_ids:
            raise ValueError("there is no seller")
        hellos = channel.ask({seller: AskHello(run) for seller in channel.seller_ids}, Hello)
        for seller, hello in hellos.items():
            self._check(seller, hello)
        numbers = {seller: hello.n_labels for seller, hello in hellos.items()}
        if len(set(numbers.values())) > 1:
            raise ValueError(
                "sellers must have equally many labels to a row, not (by seller) "
                f"{', '.join(f'{seller}: {number}' for seller, number in numbers.items())}"
            )
        return hellos

    def _check(self, seller: int, hello: Hello) -> None:
        d = self.queries_md.shape[1]
        if hello.d != d:
            raise ValueError(f"seller {seller} has {hello.d} features, the queries have {d}")
        if hello.n_rows < 1 or not 0 < hello.lowest_price <= hello.highest_price < np.inf:
            raise ValueError(
                f"seller {seller} has {hello.n_rows} rows for {hello.lowest_price:g} to "
                f"{hello.highest_price:g}, which can't be"
            )
        if hello.fingerprint != self.features:
            raise ValueError(
                f"seller {seller} has features {hello.fingerprint!r}, the queries "
                f"{self.features!r}; all parties must use the same fitted feature map"
            )
        if self.max_norm is not None and not (hello.max_norm or np.inf) <= self.max_norm:
            raise ValueError(
                f"seller {seller} announces max_norm {hello.max_norm}, at most {self.max_norm:g} "
                "is asked for"
            )
        if hello.epsilon is not None and not self.accept_noise:
            raise ValueError(
                f"seller {seller} adds noise to its scores (epsilon {hello.epsilon:g}); a buyer "
                "that takes them says accept_noise=True"
            )


def from_triangle(triangle: np.ndarray, d: int) -> np.ndarray:
    """Make a symmetric (d, d) matrix of its upper triangle."""
    matrix_dd = np.zeros((d, d))
    upper = np.triu_indices(d)
    matrix_dd[upper] = triangle
    matrix_dd[upper[::-1]] = triangle
    return matrix_dd


def check_shapes(seller: int, k: int, d: int, rows_kd: np.ndarray, *others: np.ndarray) -> None:
    """Refuse rows that aren't (k, d), or what goes with them if it isn't k long.

    Raises
    ------
    ValueError
        If the shapes don't fit.
    """
    shapes = [part.shape for part in (rows_kd, *others)]
    if shapes[0] != (k, d) or any(shape[:1] != (k,) for shape in shapes):
        raise ValueError(f"seller {seller} gave arrays of shapes {shapes} for {k} rows")


def check_coverage(basis_dr: np.ndarray, queries_md: np.ndarray) -> None:
    """Hold queries against what all sellers' rows span, and warn of those that lie outside.

    Parameters
    ----------
    basis_dr
        Orthonormal columns that span the rows, (d, r).
    queries_md
        The buyer's queries.

    Raises
    ------
    ValueError
        If no part of any query is spanned: then no row helps.
    """
    coverage_m = coverage(basis_dr, queries_md)
    check_covered(coverage_m)
    warn_coverage(coverage_m)


def check_norms(hello: Hello, seller: int, rows_kd: np.ndarray) -> None:
    """Hold rows against the bound that their seller announced.

    Raises
    ------
    ValueError
        If one is longer.
    """
    if hello.max_norm is None or not len(rows_kd):
        return
    longest = float(np.linalg.norm(rows_kd.astype(np.float64), axis=1).max())
    if longest > hello.max_norm * (1 + _NORM_TOLERANCE):
        raise ValueError(
            f"seller {seller} gave a row of norm {longest:g}, its max_norm is {hello.max_norm:g}"
        )


def settle(hello: Hello, seller: int, answer: Settled) -> None:
    """Hold delivered rows against the first message of their seller.

    Raises
    ------
    ValueError
        If a row, its labels, its price or its number is another than was committed to, a row comes
        twice, or one is longer than the seller announced.
    """
    k = len(set(answer.indices_k.tolist()))
    others = (answer.indices_k, answer.labels_kq, answer.prices_k)
    check_shapes(seller, k, hello.d, answer.rows_kd, *others, answer.salts_kb, answer.proofs_khb)
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
    check_norms(hello, seller, answer.rows_kd)
