"""A seller's side: rows, labels and prices stay here, frames come in and answers go out.

`Seller.handle` takes a frame and gives a frame and never raises over what a buyer sent: what it
won't do it refuses by message. Single rows leave only in answer to a Reveal, and only such that the
seller offered itself for the same directions, and with labels only in answer to a Settle or a
Deliver. Who pays is settled elsewhere; a seller that wants to see money first wraps `handle`.

What a buyer learns before it pays: the Gram matrix of the rows, which is all their second moments;
the score of every offered row; and the features, not the labels, of every row that won a round. A
buyer chooses the directions, so it chooses what wins: `max_reveals` bounds how many rows it sees.
What a seller learns: the directions V = P Qᵀ, and with the information P that other sellers give,
the span of the queries. Nothing here is differentially private.

Shapes: n rows, d features, m queries, q labels of a row, r candidates, k rows asked for.
"""

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np

from modicum.daved.federated.masking import MaskingKeys
from modicum.daved.federated.merkle import MerkleTree, leaf_hash, row_salt
from modicum.daved.federated.messages import (
    Aggregate,
    AskGram,
    AskHello,
    AskPeak,
    Best,
    Commit,
    Deliver,
    Done,
    Gram,
    Hello,
    Masked,
    Message,
    Peak,
    Peers,
    Refused,
    Replay,
    Reveal,
    Revealed,
    Score,
    Settle,
    Settled,
    Stale,
    decode,
    encode,
    split_frames,
)
from modicum.daved.federated.share import Share
from modicum.daved.pool import ArrayPool

__all__ = ["Seller"]


class Seller:
    """One seller of a federated purchase.

    Parameters
    ----------
    rows
        Features, (n, d), of any real type.
    labels
        (n,) or (n, q); without them rows are sold without labels.
    prices
        (n,), above 0; 1 each by default.
    secret
        What salts and keys are derived from, at least 16 bytes. A seller that may restart within a
        purchase must come back with the same one; by default it is drawn at random.
    features
        Fingerprint of the feature map; see `modicum.daved.features.FeatureMap.fingerprint`.
    max_reveals
        How many different rows may be revealed before they are paid for; no limit by default. The
        count starts anew with the process.
    masked_only
        Take part in purchases by masked sums only: no Gram matrix, no offers, no revealed rows.

    Attributes
    ----------
    have
        Requests heard that change what the seller knows.
    scale, added
        Its part of the weights: every row has ``scale`` / (rows of all sellers), and row j has
        ``added[j]`` on top.
    share
        Its part in a purchase by masked sums; see `aggregate`.
    revealed
        Rows whose features went out.
    sold
        Rows that went out with labels.
    """

    def __init__(
        self,
        rows: Any,
        labels: Any = None,
        prices: Any = None,
        *,
        secret: bytes | None = None,
        features: str = "",
        max_reveals: int | None = None,
        masked_only: bool = False,
    ) -> None:
        self.rows = np.asarray(rows)
        n = len(self.rows)
        given = np.empty((n, 0)) if labels is None else np.asarray(labels, dtype=np.float64)
        self.labels_nq = given.reshape(n, -1) if given.size else np.empty((n, 0))
        self.prices_n = np.ones(n) if prices is None else np.asarray(prices, dtype=np.float64)
        self.secret = secrets.token_bytes(32) if secret is None else secret
        self.features = features
        self.max_reveals = max_reveals
        self.pool = ArrayPool(self.rows, None if prices is None else self.prices_n**-0.5)
        self._tree: MerkleTree | None = None
        self._offer: tuple[bytes, np.ndarray, np.ndarray] | None = None
        self.revealed: set[int] = set()
        self.sold: set[int] = set()
        self._forget()
        self._answers: dict[type[Message], Callable[[Any], Message]] = {
            AskHello: self._hello,
            Peers: self._peers,
            Aggregate: self._aggregate,
            AskPeak: self._peak,
            Deliver: self._deliver,
        }
        if not masked_only:
            self._answers |= {
                AskGram: self._gram,
                Score: self._score,
                Reveal: self._reveal,
                Commit: self._commit,
                Settle: self._settle,
            }

    def _forget(self) -> None:
        self.have = 0
        self.scale = 1.0
        self.added: dict[int, float] = {}
        self.share: Share | None = None

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame with one frame; a mistake of the other side is answered by Refused."""
        try:
            return encode(self._answer(decode(frame)))
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            return encode(Refused(str(error)))

    def _answer(self, message: Message) -> Message:
        if isinstance(message, Replay):
            return self._replay(message)
        known = self._answers.get(type(message))
        if known is None:
            raise ValueError(f"a seller has no answer to {message.kind!r}")
        if getattr(message, "step", 0) > self.have:
            return Stale(self.have)
        return known(message)

    def _replay(self, message: Replay) -> Message:
        """Hear what was missed, and answer the last; what was heard meanwhile is passed over."""
        *missed, last = (decode(frame) for frame in split_frames(message.frames))
        for request in missed:
            if getattr(request, "step", 0) >= self.have:
                self._answer(request)
        return self._answer(last)

    def _hello(self, message: AskHello) -> Hello:
        self._forget()
        return Hello(
            n_rows=len(self.rows),
            d=self.pool.d,
            dtype=str(self.rows.dtype),
            fingerprint=self.features,
            lowest_price=float(self.prices_n.min()),
            highest_price=float(self.prices_n.max()),
            root=self.tree.root.hex(),
            public_key=MaskingKeys(self.secret, message.run).public,
        )

    @property
    def tree(self) -> MerkleTree:
        """Hashes of all records, computed when they are first asked for."""
        if self._tree is None:
            self._tree = MerkleTree([self._leaf(index) for index in range(len(self.rows))])
        return self._tree

    def _leaf(self, index: int) -> bytes:
        salt = row_salt(self.secret, index)
        row_d = self.rows[index].astype(np.float64)
        return leaf_hash(index, self.prices_n[index], row_d, self.labels_nq[index], salt)

    def _gram(self, message: AskGram) -> Gram:
        upper = np.triu_indices(self.pool.d)
        return Gram(self.pool.gram()[upper].astype(message.dtype))

    def _score(self, message: Score) -> Best:
        values_r, indices_r = self._offers(message.directions_dm, message.top)
        return Best(values_r, indices_r)

    def _offers(self, directions_dm: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the best rows, ties by smallest number; the last answer is kept for a Reveal."""
        if directions_dm.ndim != 2 or len(directions_dm) != self.pool.d:
            shape = directions_dm.shape
            raise ValueError(f"directions have shape {shape}, rows have {self.pool.d} features")
        key = directions_dm.tobytes() + top.to_bytes(8, "little")
        if self._offer is None or self._offer[0] != key:
            scores_n = self.pool.scores(directions_dm.astype(np.float64))
            best_r = (
                np.array([np.argmax(scores_n)])
                if top == 1
                else np.argsort(-scores_n, kind="stable")[:top]
            )
            self._offer = (key, scores_n[best_r], best_r.astype(np.int64))
        return self._offer[1:]

    def _reveal(self, message: Reveal) -> Revealed:
        _, offered_r = self._offers(message.directions_dm, message.top)
        asked = {int(index) for index in message.indices_k}
        strange = asked - set(offered_r.tolist())
        if strange:
            raise ValueError(f"rows {sorted(strange)} were not offered for these directions")
        seen = self.revealed | asked
        if self.max_reveals is not None and len(seen) > self.max_reveals:
            raise ValueError(f"more than {self.max_reveals} rows would be revealed unpaid")
        self.revealed = seen
        rows_kd = self.rows[message.indices_k].astype(message.dtype)
        return Revealed(rows_kd, self.prices_n[message.indices_k])

    def _commit(self, message: Commit) -> Done:
        """Shrink the weights and add to the winners'; what was heard before changes nothing."""
        if message.step == self.have:
            for size, index in zip(message.sizes_k, message.indices_k, strict=True):
                self.scale *= 1 - size
                self.added = {row: weight * (1 - size) for row, weight in self.added.items()}
                if index >= 0:
                    self.added[int(index)] = self.added.get(int(index), 0.0) + float(size)
            self.have += 1
        return Done(self.have)

    def _settle(self, message: Settle) -> Settled:
        return self._sell(message.indices_k)

    def _peers(self, message: Peers) -> Done:
        if message.step == self.have:
            self.share = Share(self.pool, self.prices_n, self.secret, message)
            self.have += 1
        return Done(self.have)

    def _aggregate(self, message: Aggregate) -> Masked:
        share = self._own_share()
        if message.step < self.have:
            return share.repeat(message)
        answer = share.answer(message)
        self.have += 1
        return answer

    def _own_share(self) -> Share:
        if self.share is None:
            raise ValueError("nobody said yet who takes part in the sums")
        return self.share

    def _peak(self, message: AskPeak) -> Peak:
        return Peak(float(self._offers(message.directions_dm, 1)[0][0]))

    def _deliver(self, message: Deliver) -> Settled:
        return self._sell(self._own_share().above(message.threshold))

    def _sell(self, indices_k: np.ndarray) -> Settled:
        wrong = [int(index) for index in indices_k if not 0 <= index < len(self.rows)]
        if wrong:
            raise ValueError(f"rows {wrong} are not among the {len(self.rows)} for sale")
        self.sold.update(int(index) for index in indices_k)
        salts = b"".join(row_salt(self.secret, int(index)) for index in indices_k)
        proofs = [b"".join(self.tree.proof(int(index))) for index in indices_k]
        shape = (len(indices_k), len(self.tree.levels) - 1, 32)
        return Settled(
            indices_k=np.asarray(indices_k, dtype=np.int64),
            rows_kd=self.rows[indices_k].astype(np.float64),
            labels_kq=self.labels_nq[indices_k],
            prices_k=self.prices_n[indices_k],
            salts_kb=np.frombuffer(salts, dtype=np.uint8).reshape(-1, 32),
            proofs_khb=np.frombuffer(b"".join(proofs), dtype=np.uint8).reshape(shape),
        )
