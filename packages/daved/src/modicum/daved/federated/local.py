"""Sellers in this process, and a log of every byte between them and the buyer.

For tests, for trials before a network is there, and to see what a purchase would cost on a wire.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from modicum.daved.federated.messages import Message, array_bytes, decode

__all__ = ["Handler", "LocalTransport", "LogEntry"]


class Handler(Protocol):
    """Whatever answers frames."""

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame with one frame."""


@dataclass(frozen=True)
class LogEntry:
    """One frame on its way.

    Attributes
    ----------
    exchange
        Number of the exchange, from 0.
    seller
        Who got or sent it.
    up
        Whether it went from seller to buyer.
    frame
        The bytes.
    """

    exchange: int
    seller: int
    up: bool
    frame: bytes

    @property
    def message(self) -> Message:
        """What the frame says."""
        return decode(self.frame)

    @property
    def payload(self) -> int:
        """Bytes of its arrays alone, without frame and header."""
        return array_bytes(self.message)


class LocalTransport:
    """Carry frames to objects in this process.

    Parameters
    ----------
    sellers
        Numbered from 0 in this order.

    Attributes
    ----------
    log
        All frames in order.
    """

    def __init__(self, sellers: Sequence[Handler]) -> None:
        self.sellers = list(sellers)
        self.seller_ids = list(range(len(self.sellers)))
        self.log: list[LogEntry] = []
        self._exchanges = 0

    def exchange(self, frames: Mapping[int, bytes]) -> dict[int, bytes]:
        """Let every seller answer its frame, in the order of their numbers."""
        found = {}
        for seller in sorted(frames):
            self._note(seller, False, frames[seller])
            found[seller] = self.sellers[seller].handle(frames[seller])
            self._note(seller, True, found[seller])
        self._exchanges += 1
        return found

    def _note(self, seller: int, up: bool, frame: bytes) -> None:
        self.log.append(LogEntry(self._exchanges, seller, up, frame))

    def bytes_by_kind(self, payload: bool = False) -> dict[str, int]:
        """Sum the bytes of all frames, or of their arrays alone, by kind of message."""
        found: dict[str, int] = {}
        for entry in self.log:
            size = entry.payload if payload else len(entry.frame)
            found[entry.message.kind] = found.get(entry.message.kind, 0) + size
        return found
