"""A buyer's line to its sellers: asks all, asks again, and brings restarted sellers up to date.

It keeps the requests that change what a seller knows. A seller that lost its memory answers Stale,
and gets them again together with what it was asked. Every request may be heard twice without harm,
so one whose answer got lost is simply repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from modicum.daved.federated.messages import (
    Message,
    Refused,
    Replay,
    Stale,
    decode,
    encode,
    join_frames,
)

__all__ = ["Channel", "Traffic", "Transport"]

Reply = TypeVar("Reply", bound=Message)


class Transport(Protocol):
    """Who carries frames.

    Attributes
    ----------
    seller_ids
        Who can be reached.
    """

    seller_ids: Sequence[int]

    def exchange(self, frames: Mapping[int, bytes]) -> Mapping[int, bytes]:
        """Carry a frame to each seller and bring back the answers; lost ones are left out."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of the frames of one exchange, without what a transport adds to them.

    Attributes
    ----------
    kind
        Of the requests. What a restarted seller hears again counts to the request that found out.
    round
        Number of the broadcast it belongs to, from 1; 0 for greeting and settlement.
    sellers
        How many were asked.
    down, up
        Bytes to sellers and from them.
    """

    kind: str
    round: int
    sellers: int
    down: int
    up: int


class Channel:
    """Questions and answers over a transport.

    Parameters
    ----------
    transport
        Who carries frames.
    retries
        How many more times a seller is asked that did not answer or had to be reminded.

    Attributes
    ----------
    round
        What exchanges are counted to; set by the buyer.
    traffic
        Bytes of every exchange so far.
    """

    def __init__(self, transport: Transport, retries: int = 3) -> None:
        self.transport = transport
        self.retries = retries
        self.seller_ids = list(transport.seller_ids)
        self.round = 0
        self.traffic: list[Traffic] = []
        self._heard: dict[int, list[bytes]] = {seller: [] for seller in self.seller_ids}

    def ask(
        self, requests: Mapping[int, Message], reply: type[Reply], remember: bool = False
    ) -> dict[int, Reply]:
        """Ask sellers and wait for all their answers.

        Parameters
        ----------
        requests
            One message for each seller that is asked.
        reply
            What they must answer with.
        remember
            Whether a seller must hear this again after a restart.

        Raises
        ------
        ConnectionError
            If a seller doesn't answer, or can't be brought up to date, in all attempts.
        RuntimeError
            If a seller refuses, or answers with something else.
        """
        frames = {seller: encode(message) for seller, message in requests.items()}
        kind = next(iter(requests.values())).kind if requests else ""
        waiting: dict[int, bytes] = dict(frames)
        found: dict[int, Reply] = {}
        for _ in range(self.retries + 1):
            if not waiting:
                break
            for seller, frame in self._exchange(kind, waiting).items():
                answer = decode(frame)
                if isinstance(answer, Stale):
                    again = [*self._heard[seller][answer.have :], frames[seller]]
                    waiting[seller] = encode(Replay(join_frames(again)))
                    continue
                if isinstance(answer, Refused):
                    raise RuntimeError(f"seller {seller} refuses: {answer.reason}")
                if not isinstance(answer, reply):
                    raise RuntimeError(
                        f"seller {seller} answers {answer.kind!r}, not {reply.kind!r}"
                    )
                found[seller] = answer
                del waiting[seller]
        if waiting:
            raise ConnectionError(
                f"no answer from sellers {sorted(waiting)} in {self.retries + 1} attempts"
            )
        if remember:
            for seller, frame in frames.items():
                self._heard[seller].append(frame)
        return {seller: found[seller] for seller in requests}

    def _exchange(self, kind: str, waiting: Mapping[int, bytes]) -> Mapping[int, bytes]:
        asked = dict(waiting)
        found = self.transport.exchange(asked)
        found = {seller: frame for seller, frame in found.items() if seller in asked}
        down, up = (sum(map(len, frames.values())) for frames in (asked, found))
        self.traffic.append(Traffic(kind, self.round, len(asked), down, up))
        return found
