"""Federated purchases over Flower: a ServerApp that buys, a ClientApp that sells.

Carries the frames of `modicum.daved.federated` as queries between a Flower server and its nodes,
one node for each seller, and adds nothing to what they say: a message of kind ``score`` travels as
``query.score`` and holds one array of bytes. A node that restarts, or whose messages are answered
by several processes, is brought up to date by what the buyer sends again; its secret is kept in the
state that Flower keeps for it. Encryption on the wire is Flower's.

Needs ``pip install "modicum-daved[federated]"``; the simulation asks for ``flwr[simulation]`` too.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
except ImportError as error:
    raise ImportError(
        'purchases over Flower need it: pip install "modicum-daved[federated]"'
    ) from error

from modicum.daved.federated.aggregate import AggregateBuyer
from modicum.daved.federated.buyer import Buyer, Purchase
from modicum.daved.federated.messages import REQUESTS, decode
from modicum.daved.federated.seller import Seller

__all__ = ["FlowerTransport", "buyer_app", "seller_app"]

_FRAME = "frame"
_STATE = "modicum_daved"
_SECRET_BYTES = 32
_POLL_S = 0.5
# Sellers that a process remembers; one that is forgotten is only brought up to date again.
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

    Parameters
    ----------
    grid
        Of the running ServerApp.
    sellers
        How many nodes to wait for; by default those that are there.
    timeout
        Seconds to wait for nodes, and for the answers of one exchange; no limit by default.

    Attributes
    ----------
    seller_ids
        Numbers of the nodes, in rising order.

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
        """Send a frame to each node and wait; answers that are errors are left out."""
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


def _secret(context: Context) -> bytes:
    """Give the node's secret of this run; it is drawn once and kept in the node's state."""
    if _STATE not in context.state:
        context.state[_STATE] = ConfigRecord({"secret": secrets.token_bytes(_SECRET_BYTES)})
    secret = context.state[_STATE]["secret"]
    if not isinstance(secret, bytes):
        raise TypeError(f"the state of node {context.node_id} holds no secret")
    return secret


def seller_app(make_seller: Callable[[Context, bytes], Seller]) -> ClientApp:
    """Make the app of a node that sells.

    Parameters
    ----------
    make_seller
        Gives the seller of a node, from the node's context, such as its
        ``node_config["partition-id"]``, and a secret for it. It is called again after restarts, and
        must then give the same rows in the same order.
    """
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        key = (context.run_id, context.node_id)
        if key not in _sellers:
            _sellers[key] = make_seller(context, _secret(context))
        _sellers.move_to_end(key)
        while len(_sellers) > _KEPT:
            _sellers.popitem(last=False)
        frame = _sellers[key].handle(_unpacked(message))
        return Message(_packed(frame), reply_to=message)

    for kind in REQUESTS:
        app.query(kind)(answer)
    return app


def buyer_app(
    buyer: Buyer | AggregateBuyer,
    budget: float,
    on_purchase: Callable[[Purchase], None],
    *,
    sellers: int | None = None,
    timeout: float | None = None,
) -> ServerApp:
    """Make the app of a server that buys once.

    Parameters
    ----------
    buyer
        What is needed, and how it is looked for.
    budget
        What may be spent, in the currency of the prices.
    on_purchase
        Gets what was bought; sellers are numbered by their nodes.
    sellers, timeout
        See `FlowerTransport`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        on_purchase(buyer.buy(FlowerTransport(grid, sellers, timeout), budget))

    return app
