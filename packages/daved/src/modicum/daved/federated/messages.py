"""What buyer and sellers say to each other, and how it looks on a wire.

One frozen dataclass per message. A frame is the magic word, the length of a JSON header, the header
and then the arrays' bytes, little-endian and in C order; nothing in it is ever executed. Who sends
what and when is in `buyer` and `seller`; who carries it is no matter of this module.

Shapes: d features, m queries, k rows, r candidates.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

__all__ = [
    "REQUESTS",
    "Aggregate",
    "AskGram",
    "AskHello",
    "AskPeak",
    "Best",
    "Commit",
    "Deliver",
    "Done",
    "Gram",
    "Hello",
    "Masked",
    "Message",
    "Peak",
    "Peers",
    "Refused",
    "Replay",
    "Reveal",
    "Revealed",
    "Score",
    "Settle",
    "Settled",
    "Stale",
    "array_bytes",
    "decode",
    "encode",
    "join_frames",
    "split_frames",
]

MAGIC = b"MDV1"
_LENGTH_BYTES = 4
# What an array may be made of; everything else, objects above all, is refused.
_DTYPES = ("<f4", "<f8", "<i8", "<u8", "|u1")


@dataclass(frozen=True)
class Message:
    """What all messages have: a name on the wire, fields that JSON holds, and arrays."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True)
class AskHello(Message):
    """Buyer, first of all: who are you? ``run`` names this purchase among others, hex."""

    kind: ClassVar[str] = "hello"
    run: str


@dataclass(frozen=True)
class Hello(Message):
    """Seller: what is for sale, and what it is bound to.

    Attributes
    ----------
    n_rows, d
        Number of rows and of features.
    dtype
        What the rows are stored as.
    fingerprint
        SHA-256 of the feature map, hex; buyer and sellers must agree.
    lowest_price, highest_price
        Range of the prices.
    root
        Root of the Merkle tree over the rows with labels and prices, hex.
    public_key
        For pairwise masks, hex.
    max_norm
        Length that its rows are shortened to where they are longer; None for no bound.
    epsilon
        Of the noise on its scores, see `noise`; None where there is none.
    n_labels
        Labels that go with a row.
    """

    kind: ClassVar[str] = "hello_reply"
    n_rows: int
    d: int
    dtype: str
    fingerprint: str
    lowest_price: float
    highest_price: float
    root: str
    public_key: str
    max_norm: float | None
    epsilon: float | None
    n_labels: int


@dataclass(frozen=True)
class AskGram(Message):
    """Buyer, once: the information of all your rows, please, in this type."""

    kind: ClassVar[str] = "gram"
    dtype: str


@dataclass(frozen=True)
class Gram(Message):
    """Seller: upper triangle of the sum of z zᵀ, (d (d + 1) / 2,), row by row."""

    kind: ClassVar[str] = "gram_reply"
    triangle: np.ndarray


@dataclass(frozen=True)
class Score(Message):
    """Buyer, every round: your ``top`` best rows for these directions, (d, m)."""

    kind: ClassVar[str] = "score"
    step: int
    top: int
    directions_dm: np.ndarray


@dataclass(frozen=True)
class Best(Message):
    """Seller: scores, (r,) falling, and local numbers, (r,), of its best rows; 16 bytes each."""

    kind: ClassVar[str] = "score_reply"
    values_r: np.ndarray
    indices_r: np.ndarray


@dataclass(frozen=True)
class Reveal(Message):
    """Buyer, to a winner: the rows (k,) that you offered for these directions, please."""

    kind: ClassVar[str] = "reveal"
    step: int
    top: int
    dtype: str
    directions_dm: np.ndarray
    indices_k: np.ndarray


@dataclass(frozen=True)
class Revealed(Message):
    """Seller: rows, (k, d), as they are stored, and their prices, (k,). No labels."""

    kind: ClassVar[str] = "reveal_reply"
    rows_kd: np.ndarray
    prices_k: np.ndarray


@dataclass(frozen=True)
class Commit(Message):
    """Buyer, to all: step sizes, (k,), and which of your rows won, (k,), -1 where none did."""

    kind: ClassVar[str] = "commit"
    step: int
    sizes_k: np.ndarray
    indices_k: np.ndarray


@dataclass(frozen=True)
class Settle(Message):
    """Buyer, at the end, to winners: these rows (k,) are paid for, deliver them."""

    kind: ClassVar[str] = "settle"
    indices_k: np.ndarray


@dataclass(frozen=True)
class Settled(Message):
    """Seller: paid rows with labels, and what proves that they are those of the Hello.

    Attributes
    ----------
    indices_k, rows_kd, labels_kq, prices_k
        Local numbers, rows and labels in float64, prices.
    salts_kb
        Salt of each leaf, (k, 32) bytes.
    proofs_khb
        Siblings from leaf to root, (k, height, 32) bytes.
    """

    kind: ClassVar[str] = "settle_reply"
    indices_k: np.ndarray
    rows_kd: np.ndarray
    labels_kq: np.ndarray
    prices_k: np.ndarray
    salts_kb: np.ndarray
    proofs_khb: np.ndarray


@dataclass(frozen=True)
class Peers(Message):
    """Buyer, in the aggregate protocol: public keys of all sellers in order, and your place."""

    kind: ClassVar[str] = "peers"
    step: int
    run: str
    place: int
    keys: Sequence[str]
    fraction_bits: int


@dataclass(frozen=True)
class Aggregate(Message):
    """Buyer, in the aggregate protocol, the same bytes to all: a masked sum, please.

    Attributes
    ----------
    step
        Number of requests before this one that change what a seller knows.
    what
        ``"start"``: weights of 1 / ``number``, then their sum and information. ``"update"``: divide
        the weights by ``number``, multiply them with the roots of the scores for
        ``directions_dm``, then their sum and information. ``"spend"``: what the rows of weight
        ``number`` or more per price cost, and how many they are.
    """

    kind: ClassVar[str] = "aggregate"
    step: int
    what: str
    number: float
    directions_dm: np.ndarray


@dataclass(frozen=True)
class Masked(Message):
    """Seller: fixed-point values in the ring of integers modulo 2⁶⁴, under its peers' masks."""

    kind: ClassVar[str] = "aggregate_reply"
    ring: np.ndarray


@dataclass(frozen=True)
class AskPeak(Message):
    """Buyer, once at the end of the aggregate protocol: your highest score for these directions."""

    kind: ClassVar[str] = "peak"
    directions_dm: np.ndarray


@dataclass(frozen=True)
class Peak(Message):
    """Seller: its highest score, unmasked."""

    kind: ClassVar[str] = "peak_reply"
    value: float


@dataclass(frozen=True)
class Deliver(Message):
    """Buyer, at the end of the aggregate protocol: what weighs this much or more is paid for."""

    kind: ClassVar[str] = "deliver"
    step: int
    threshold: float


@dataclass(frozen=True)
class Done(Message):
    """Seller: understood; ``have`` requests that change what it knows were heard."""

    kind: ClassVar[str] = "done"
    have: int


@dataclass(frozen=True)
class Stale(Message):
    """Seller after a restart: only ``have`` such requests were heard, repeat the others."""

    kind: ClassVar[str] = "stale"
    have: int


@dataclass(frozen=True)
class Refused(Message):
    """Seller: no, and why."""

    kind: ClassVar[str] = "refused"
    reason: str


@dataclass(frozen=True)
class Replay(Message):
    """Buyer: joined frames to hear one after the other; the last is what must be answered."""

    kind: ClassVar[str] = "replay"
    frames: np.ndarray


# What a header that is none can raise; brackets within brackets, if many, end in a RecursionError.
_UNREADABLE = (
    *(KeyError, TypeError, AttributeError, RecursionError),
    *(UnicodeDecodeError, json.JSONDecodeError),
)

_OF_KIND: dict[str, type[Message]] = {cls.kind: cls for cls in Message.__subclasses__()}

REQUESTS = (
    *(AskHello.kind, AskGram.kind, Score.kind, Reveal.kind, Commit.kind, Settle.kind),
    *(Peers.kind, Aggregate.kind, AskPeak.kind, Deliver.kind, Replay.kind),
)
"""Kinds of the messages that a buyer sends."""


def encode(message: Message) -> bytes:
    """Make a frame.

    Raises
    ------
    TypeError
        If an array has a type that the wire doesn't know.
    """
    plain: dict[str, Any] = {}
    arrays: list[tuple[str, str, tuple[int, ...]]] = []
    body = []
    for part in dataclasses.fields(message):
        value = getattr(message, part.name)
        if part.type is not np.ndarray:
            plain[part.name] = value
            continue
        array = np.asarray(value)
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        if little.dtype.str not in _DTYPES:
            raise TypeError(f"{part.name} has type {array.dtype}; the wire knows {_DTYPES}")
        arrays.append((part.name, little.dtype.str, little.shape))
        body.append(little.tobytes())
    header = json.dumps({"kind": message.kind, "fields": plain, "arrays": arrays}).encode()
    return b"".join([MAGIC, len(header).to_bytes(_LENGTH_BYTES, "little"), header, *body])


def decode(frame: bytes) -> Message:
    """Read a frame.

    Raises
    ------
    ValueError
        If it isn't a whole frame of a known message, with the fields and arrays of that message.
    """
    start = len(MAGIC) + _LENGTH_BYTES
    if frame[: len(MAGIC)] != MAGIC:
        raise ValueError(f"a frame starts with {MAGIC!r}, not {frame[: len(MAGIC)]!r}")
    stop = start + int.from_bytes(frame[len(MAGIC) : start], "little")
    try:
        header = json.loads(frame[start:stop])
        cls = _OF_KIND[header["kind"]]
        values = dict(header["fields"])
        values.update(_arrays(header["arrays"], memoryview(frame)[stop:]))
        message = cls(**values)
    except _UNREADABLE as error:
        raise ValueError(f"no message of this protocol: {error}") from error
    for part in dataclasses.fields(message):
        if not _fits(getattr(message, part.name), part.type):
            raise ValueError(f"{part.name} of a message {message.kind!r} has another type")
    return message


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value that came over the wire is of a field's type."""
    if kind == Sequence[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(value, bool):
        return False
    # A number without a fraction may be written as an integer.
    return isinstance(value, kind) or (isinstance(value, int) and kind in (float, float | None))


def _arrays(described: Any, body: memoryview) -> dict[str, np.ndarray]:
    found = {}
    for name, dtype, shape in described:
        if dtype not in _DTYPES or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"array {name!r} of type {dtype!r} and shape {shape!r}")
        count = int(np.prod(shape, dtype=object)) if shape else 1
        size = count * np.dtype(dtype).itemsize
        if len(body) < size:
            raise ValueError(f"array {name!r} needs {size} bytes, the frame has {len(body)}")
        found[name] = np.frombuffer(body[:size], dtype=dtype).reshape(shape)
        body = body[size:]
    if len(body):
        raise ValueError(f"{len(body)} bytes behind the last array")
    return found


def array_bytes(message: Message) -> int:
    """Count the bytes of a message's arrays, without frame and header."""
    return sum(
        np.asarray(getattr(message, part.name)).nbytes
        for part in dataclasses.fields(message)
        if part.type is np.ndarray
    )


def join_frames(frames: Sequence[bytes]) -> np.ndarray:
    """Put frames behind each other, each after its length of 4 bytes, (bytes,) uint8."""
    joined = b"".join(len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in frames)
    return np.frombuffer(joined, dtype=np.uint8)


def split_frames(joined: np.ndarray) -> list[bytes]:
    """Undo `join_frames`.

    Raises
    ------
    ValueError
        If the last frame is cut off.
    """
    rest, found = joined.tobytes(), []
    while rest:
        stop = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "little")
        if len(rest) < stop:
            raise ValueError(f"a frame of {stop} bytes is cut off after {len(rest)}")
        found.append(rest[_LENGTH_BYTES:stop])
        rest = rest[stop:]
    return found
