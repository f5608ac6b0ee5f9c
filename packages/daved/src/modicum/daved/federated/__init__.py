"""Purchases from sellers who keep their rows: messages, both sides, and a run in one process."""

from modicum.daved.federated.aggregate import AggregateBuyer
from modicum.daved.federated.buyer import Buyer, Purchase
from modicum.daved.federated.channel import Transport
from modicum.daved.federated.local import LocalTransport
from modicum.daved.federated.seller import Seller

__all__ = [
    "AggregateBuyer",
    "Buyer",
    "LocalTransport",
    "Purchase",
    "Seller",
    "Transport",
]
