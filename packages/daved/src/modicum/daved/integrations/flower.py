"""Federated purchases over Flower: a ServerApp that buys, a ClientApp that sells.

Carries the frames of `modicum.daved.federated` as queries between a Flower server and its nodes,
one node for each seller, and adds nothing to what they say: a message of kind ``score`` travels as
``query.score`` and holds one array of bytes. Encryption on the wire is Flower's.

Flower answers every message in a process of its own, so what a seller has heard is kept in the
state that Flower keeps for its node. A node that restarts loses that state, and without Flower's
authentication of nodes it also comes back under another number. The buyer then finds it by its
commitment and tells it again what it missed; for this the seller's secret must come from where the
rows come from, such as a file that the node's configuration names. A secret drawn by Flower's node
would be another one after a restart, and the purchase could not be settled.

Needs ``pip install "modicum-daved[federated]"``; the simulation asks for ``flwr[simulation]`` too.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
except ImportError as error:
    raise ImportError(
        'purchases over Flower need it: pip install "modicum-daved[federated]"'
    ) from error

from modicum.daved.federated.messages import REQUESTS, AskHello, Hello, decode
from modicum.daved.federated.purchase import FederatedBuyer, Purchase
from modicum.daved.federated.seller import Seller
from modicum.daved.solvers.base import Step

__all__ = ["FlowerTransport", "buyer_app", "seller_app"]

_FRAME = "frame"
_STATE = "modicum_daved"
_SECRET_BYTES = 32
_HEARD, _REVEALED = "heard", "revealed"
_POLL_S = 0.5
# Sellers that a process remembers; one that is forgotten is made again.
_KEPT = 64
_sellers: OrderedDict[tuple[int, int], Seller] = OrderedDict()


def _packed(frame: bytes) -> RecordDict:
    array = Array(np.frombuffer(frame, dtype=np.uint8))
    return RecordDict({_FRAME: ArrayRecord({_FRAME: array})})


def _unpacked(message: Message) -> bytes:
    record = message.content[_FRAME]
    if not isinstance(record, ArrayRecord):
        raise TypeError(f"{_FRAME!r} holds a {type(record).__name__}, not an ArrayRecord")
    return record[_FRAME].numpy().tobytes()


class FlowerTransport:
    """Carry frames from a ServerApp to nodes.

    A seller whose node is silent is looked for among nodes that came since: it is the one that
    greets with the same commitment.

    Parameters
    ----------
    grid
        Of the running ServerApp.
    sellers
        How many nodes to wait for; by default those that are there.
    timeout
        Seconds to wait for nodes, and for the answers of one exchange; no limit by default, which
        is until Flower takes a silent node for lost.

    Attributes
    ----------
    seller_ids
        Numbers of the nodes at the beginning, in rising order.

    Raises
    ------
    ConnectionError
        If there are too few nodes in time.
    """

    def __init__(
        self, grid: Grid, sellers: int | None = None, timeout: float | None = None
    ) -> None:
        self.grid = grid
        self.timeout = timeout
        self.seller_ids: Sequence[int] = self._wait(sellers or 1)
        self._node_of = {seller: seller for seller in self.seller_ids}
        self._seller_of_root: dict[str, int] = {}
        self._greeting: bytes | None = None

    def _wait(self, sellers: int) -> list[int]:
        start = time.monotonic()
        while True:
            nodes = sorted(self.grid.get_node_ids())
            if len(nodes) >= sellers:
                return nodes
            if self.timeout is not None and time.monotonic() - start > self.timeout:
                raise ConnectionError(f"{len(nodes)} nodes are there, {sellers} are needed")
            time.sleep(_POLL_S)

    def exchange(self, frames: Mapping[int, bytes]) -> dict[int, bytes]:
        """Send a frame to each seller and wait; answers that are errors are left out."""
        replies = self._send({self._node_of[seller]: frame for seller, frame in frames.items()})
        sellers = {self._node_of[seller]: seller for seller in frames}
        found = {sellers[node]: reply for node, reply in replies.items() if node in sellers}
        for seller, reply in found.items():
            if isinstance(decode(frames[seller]), AskHello):
                self._greeting = frames[seller]
                self._note(seller, reply)
        if len(found) < len(frames):
            self._look_for(set(frames) - set(found))
        return found

    def _send(self, frames: Mapping[int, bytes]) -> dict[int, bytes]:
        messages = [
            Message(_packed(frame), dst_node_id=node, message_type=f"query.{decode(frame).kind}")
            for node, frame in frames.items()
        ]
        replies = self.grid.send_and_receive(messages, timeout=self.timeout)
        return {
            reply.metadata.src_node_id: _unpacked(reply)
            for reply in replies
            if not reply.has_error()
        }

    def _note(self, seller: int, reply: bytes) -> None:
        answer = decode(reply)
        if isinstance(answer, Hello):
            self._seller_of_root[answer.root] = seller

    def _look_for(self, silent: set[int]) -> None:
        """Greet nodes that are new, and take those for silent sellers that have their roots."""
        strangers = sorted(set(self.grid.get_node_ids()) - set(self._node_of.values()))
        if self._greeting is None or not strangers:
            return
        for node, reply in self._send(dict.fromkeys(strangers, self._greeting)).items():
            answer = decode(reply)
            seller = self._seller_of_root.get(answer.root) if isinstance(answer, Hello) else None
            if seller in silent:
                self._node_of[seller] = node


def _secret(context: Context) -> bytes:
    """Give the node's secret of this run; it is drawn once and kept in the node's state."""
    if _STATE not in context.state:
        context.state[_STATE] = ConfigRecord({"secret": secrets.token_bytes(_SECRET_BYTES)})
    secret = context.state[_STATE]["secret"]
    if not isinstance(secret, bytes):
        raise TypeError(f"the state of node {context.node_id} holds no secret")
    return secret


def _seller(make_seller: Callable[[Context, bytes], Seller], context: Context) -> Seller:
    """Give the seller of a node as it was when its last message was answered, wherever that was."""
    secret = _secret(context)
    key = (context.run_id, context.node_id)
    if key not in _sellers:
        _sellers[key] = make_seller(context, secret)
    _sellers.move_to_end(key)
    while len(_sellers) > _KEPT:
        _sellers.popitem(last=False)
    state: Any = context.state[_STATE]
    _sellers[key].restore(state.get(_HEARD, []), state.get(_REVEALED, []))
    return _sellers[key]


def _keep(seller: Seller, context: Context) -> None:
    state: Any = context.state[_STATE]
    state[_HEARD] = list(seller.heard)
    state[_REVEALED] = sorted(seller.revealed)


def seller_app(make_seller: Callable[[Context, bytes], Seller]) -> ClientApp:
    """Make the app of a node that sells.

    Parameters
    ----------
    make_seller
        Gives the seller of a node, from the node's context, such as its
        ``node_config["partition-id"]``, and a secret for it that lasts as long as the node runs. It
        is called again and again, and must always give the same rows in the same order; for a
        seller that outlives a restart of its node, also with the same secret, not the one given.
    """
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        seller = _seller(make_seller, context)
        frame = seller.handle(_unpacked(message))
        _keep(seller, context)
        return Message(_packed(frame), reply_to=message)

    for kind in REQUESTS:
        app.query(kind)(answer)
    return app


def buyer_app(
    buyer: FederatedBuyer,
    budget: float,
    on_purchase: Callable[[Purchase], None],
    *,
    sellers: int | None = None,
    timeout: float | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> ServerApp:
    """Make the app of a server that buys once.

    Parameters
    ----------
    buyer
        What is needed, and how it is looked for.
    budget
        What may be spent, in the currency of the prices.
    on_purchase
        Gets what was bought; sellers are numbered by their nodes at the beginning.
    sellers, timeout
        See `FlowerTransport`.
    on_step
        Sees every step.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        on_purchase(buyer.buy(FlowerTransport(grid, sellers, timeout), budget, on_step))

    return app
