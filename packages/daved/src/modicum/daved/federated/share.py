"""A seller's share in sums under masks: its weights, and its part of each sum.

Every sum has a name of its own that covers all requests before it, so masks are never used for two
different sums, whatever a buyer asks, and they cancel only if all sellers were asked the same.

Shapes: n rows, d features.
"""

import hashlib

import numpy as np

from modicum.daved.federated.masking import MaskingKeys, to_ring
from modicum.daved.federated.messages import Aggregate, Masked, Peers, encode
from modicum.daved.pool import ArrayPool

__all__ = ["Share"]

_LEAST_SELLERS = 2
_TIE = 1e-9
"""Share by which weights of equal rows are told apart, far above rounding."""


class Share:
    """One seller's weights in one purchase.

    Parameters
    ----------
    pool
        Its rows, divided by the roots of their prices.
    prices_n
        The prices, (n,).
    secret
        The seller's own.
    peers
        Who takes part.

    Attributes
    ----------
    weights_n
        What each row gets of the budget, (n,), up to a factor that all sellers share.

    Raises
    ------
    ValueError
        If there are fewer than two sellers, or the key at this seller's place isn't its own.
    """

    def __init__(self, pool: ArrayPool, prices_n: np.ndarray, secret: bytes, peers: Peers) -> None:
        self.pool = pool
        self.prices_n = prices_n
        self.peers = peers
        self.keys = MaskingKeys(secret, peers.run)
        if len(set(peers.keys)) < max(_LEAST_SELLERS, len(peers.keys)):
            raise ValueError(
                f"a masked sum needs two or more different keys, not {len(set(peers.keys))}"
            )
        if peers.keys[peers.place] != self.keys.public:
            raise ValueError(f"the key at place {peers.place} is not this seller's")
        self.weights_n = np.zeros(pool.n)
        names = "\x00".join([peers.run, str(peers.fraction_bits), *peers.keys])
        self._chain = hashlib.sha256(names.encode()).digest()
        self._last: tuple[bytes, Masked] | None = None

    def answer(self, message: Aggregate) -> Masked:
        """Give this seller's part of the next sum, under masks."""
        frame = encode(message)
        values = self._part(message)
        self._chain = hashlib.sha256(self._chain + frame).digest()
        ring = to_ring(values, self.peers.fraction_bits, len(self.peers.keys))
        mask = self.keys.mask(self.peers.keys, self.peers.place, self._chain, len(ring))
        self._last = (frame, Masked(ring + mask))
        return self._last[1]

    def repeat(self, message: Aggregate) -> Masked:
        """Give the last answer again.

        Raises
        ------
        ValueError
            If the request isn't the last one.
        """
        if self._last is None or encode(message) != self._last[0]:
            raise ValueError(f"request {message.step} was another or is long past")
        return self._last[1]

    def _part(self, message: Aggregate) -> np.ndarray:
        if message.what == "spend":
            paid_n = self.prices_n[self.above(message.number)]
            return np.array([paid_n.sum(), len(paid_n)])
        if message.what == "start":
            self.weights_n = np.full(self.pool.n, 1 / message.number)
        elif message.what == "update":
            scores_n = self.pool.scores(message.directions_dm)
            self.weights_n = self.weights_n / message.number * np.sqrt(scores_n)
        else:
            raise ValueError(f"there is no sum {message.what!r}")
        upper = np.triu_indices(self.pool.d)
        return np.concatenate([[self.weights_n.sum()], self.pool.gram(self.weights_n)[upper]])

    def above(self, threshold: float) -> np.ndarray:
        """Give the numbers of the rows that weigh this much or more per unit of price.

        Among equal rows those of the first seller, and there the first, count as a trifle heavier:
        otherwise no threshold could buy some of them and leave the others.
        """
        places_n = (self.peers.place + np.arange(self.pool.n) / self.pool.n) / len(self.peers.keys)
        weights_n = self.weights_n * (1 - _TIE * places_n)
        return np.flatnonzero(weights_n / self.prices_n >= threshold)
