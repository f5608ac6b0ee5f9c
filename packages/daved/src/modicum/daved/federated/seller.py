"""A seller's side: rows, labels and prices stay here, frames come in and answers go out.

`Seller.handle` takes a frame and gives a frame and never raises over what a buyer sent: what it
won't do it refuses by message. Single rows leave only in answer to a Reveal, and only such that the
seller offered itself for the same directions, and with labels only in answer to a Settle or a
Deliver. Who pays is settled elsewhere; a seller that wants to see money first wraps `handle`.

A seller serves one purchase at a time: a greeting ends the one before. What it tells, and what its
settings keep back, is said in the package.

Shapes: n rows, d features, m queries, q labels of a row, r candidates, k rows asked for.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from modicum.daved.design import first_best
from modicum.daved.features import clip_norms
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
from modicum.daved.federated.noise import laplace, sensitivity
from modicum.daved.federated.share import Share
from modicum.daved.pool import ArrayPool
from modicum.daved.validation import (
    check_count,
    check_finite,
    check_positive,
    check_prices,
    check_sellers,
)

__all__ = ["LEAST_SECRET", "Seller"]

LEAST_SECRET = 16
"""Bytes of a secret, at least."""


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
    max_norm
        Rows that are longer are shortened to this, before anything else, and the greeting says so;
        no bound by default. Shortened rows are a copy of their own.
    epsilon
        Of noise on the scores, see `noise`; none by default. Needs a ``max_norm``.
    max_top
        How many rows may be offered in answer to one request, which is how many scores it gives.
    max_reveals
        How many different rows may be revealed before they are paid for; no limit by default. The
        count starts anew with the process.
    clear_gram
        Whether the Gram matrix is told in clear; if not, it is still summed under masks.
    masked_only
        Take part in purchases by masked sums only: no Gram matrix, no offers, no revealed rows.

    Attributes
    ----------
    heard
        Frames of the requests that change what the seller knows, in order.
    scale, added
        Its part of the weights: every row has ``scale`` / (rows of all sellers), and row j has
        ``added[j]`` on top.
    share
        Its part in a purchase by masked sums; see `aggregate`.
    revealed
        Rows whose features went out.
    sold
        Rows that went out with labels.

    Raises
    ------
    ValueError
        If there is no row, a number is not finite, there are too few or too many prices or labels,
        a price is not positive, the secret is too short, or there is to be noise without a bound.
    """

    def __init__(
        self,
        rows: Any,
        labels: Any = None,
        prices: Any = None,
        *,
        secret: bytes | None = None,
        features: str = "",
        max_norm: float | None = None,
        epsilon: float | None = None,
        max_top: int = 16,
        max_reveals: int | None = None,
        clear_gram: bool = True,
        masked_only: bool = False,
    ) -> None:
        given = np.asarray(rows)
        n, _ = check_sellers(given, "rows")
        self.max_norm = None if max_norm is None else check_positive("max_norm", max_norm)
        self.rows = given if max_norm is None else clip_norms(given, max_norm)
        self.labels_nq = _labels(labels, n)
        self.prices_n = check_prices(prices, n, "prices")
        self.secret = secrets.token_bytes(32) if secret is None else secret
        if len(self.secret) < LEAST_SECRET:
            raise ValueError(f"secret has {len(self.secret)} bytes, at least {LEAST_SECRET} needed")
        if epsilon is not None and max_norm is None:
            raise ValueError(f"epsilon {epsilon!r} needs a max_norm: without it no noise is enough")
        self.epsilon = None if epsilon is None else check_positive("epsilon", epsilon)
        self.max_top = check_count("max_top", max_top)
        self.features = features
        self.max_reveals = (
            None if max_reveals is None else check_count("max_reveals", max_reveals, least=0)
        )
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
                Score: self._score,
                Reveal: self._reveal,
                Commit: self._commit,
                Settle: self._settle,
            }
        if clear_gram and not masked_only:
            self._answers[AskGram] = self._gram

    @property
    def have(self) -> int:
        """How many requests were heard that change what the seller knows."""
        return len(self.heard)

    def _forget(self) -> None:
        self.heard: list[bytes] = []
        self.scale = 1.0
        self.added: dict[int, float] = {}
        self.share: Share | None = None

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame with one frame; a mistake of the other side is answered by Refused."""
        try:
            return encode(self._answer(decode(frame)))
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            return encode(Refused(str(error)))

    def restore(self, heard: Sequence[bytes], revealed: Iterable[int] = ()) -> None:
        """Take up a purchase where another process left it, without its buyer's help.

        Parameters
        ----------
        heard, revealed
            The attributes of that process's seller, which had the same rows and secret.
        """
        if list(heard[: self.have]) != self.heard:
            self._forget()
        for frame in heard[self.have :]:
            self._answer(decode(frame))
        self.revealed = set(revealed)

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
        if any(isinstance(request, Replay) for request in (*missed, last)):
            raise ValueError("a replay holds no replays")
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
            max_norm=self.max_norm,
            epsilon=self.epsilon,
            n_labels=self.labels_nq.shape[1],
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
        values_r, indices_r = self._offers(message.directions_dm, message.top, message.step)
        return Best(values_r, indices_r)

    def _offers(
        self, directions_dm: np.ndarray, top: int, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best rows, ties by smallest number; the last answer is kept for a Reveal."""
        if directions_dm.ndim != 2 or len(directions_dm) != self.pool.d:
            shape = directions_dm.shape
            raise ValueError(f"directions have shape {shape}, rows have {self.pool.d} features")
        check_finite("directions", directions_dm)
        if not 1 <= top <= self.max_top:
            raise ValueError(f"{top} rows are asked for at once, this seller offers {self.max_top}")
        key = directions_dm.tobytes() + np.array([top, step], dtype="<i8").tobytes()
        if self._offer is None or self._offer[0] != key:
            scores_n = self._scores(directions_dm.astype(np.float64), key)
            best_r = (
                np.array([first_best(scores_n)])
                if top == 1
                else np.argsort(-scores_n, kind="stable")[:top]
            )
            self._offer = (key, scores_n[best_r], best_r.astype(np.int64))
        return self._offer[1:]

    def _scores(self, directions_dm: np.ndarray, question: bytes) -> np.ndarray:
        scores_n = self.pool.scores(directions_dm)
        if self.epsilon is None or self.max_norm is None:
            return scores_n
        moved = sensitivity(directions_dm, self.max_norm, float(self.prices_n.min()))
        return scores_n + laplace(self.secret, question, len(scores_n), moved / self.epsilon)

    def _reveal(self, message: Reveal) -> Revealed:
        _, offered_r = self._offers(message.directions_dm, message.top, message.step)
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
            self.heard.append(encode(message))
        return Done(self.have)

    def _settle(self, message: Settle) -> Settled:
        return self._sell(message.indices_k)

    def _peers(self, message: Peers) -> Done:
        if message.step == self.have:
            self.share = Share(self.pool, self.prices_n, self.secret, message)
            self.heard.append(encode(message))
        return Done(self.have)

    def _aggregate(self, message: Aggregate) -> Masked:
        share = self._own_share()
        if message.step < self.have:
            return share.repeat(message)
        answer = share.answer(message)
        self.heard.append(encode(message))
        return answer

    def _own_share(self) -> Share:
        if self.share is None:
            raise ValueError("nobody said yet who takes part in the sums")
        return self.share

    def _peak(self, message: AskPeak) -> Peak:
        return Peak(float(self._offers(message.directions_dm, 1, self.have)[0][0]))

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


def _labels(labels: Any, n: int) -> np.ndarray:
    """Read labels as (n, q) float64; q is 0 without labels."""
    if labels is None:
        return np.empty((n, 0))
    given = np.asarray(labels, dtype=np.float64)
    if given.ndim not in (1, 2) or len(given) != n:
        raise ValueError(f"labels have shape {given.shape}, there are {n} rows")
    check_finite("labels", given)
    return given.reshape(n, -1)
