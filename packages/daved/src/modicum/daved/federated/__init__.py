"""Purchases from sellers who keep their rows: messages, both sides, and who carries them.

`Buyer` and `Seller` find the design of a central run; `AggregateBuyer` finds one by sums under
masks and sees no row before it is sold. Frames travel in this process (`LocalTransport`), over HTTP
(`HTTPTransport`, `serve_seller`) or over Flower (`modicum.daved.integrations.flower`).

What leaks
----------
To the buyer, before it pays:

- the Gram matrix of each seller, which is all second moments of its rows; with ``init="masked"``
  only the sum of all, and with ``init="identity"`` none;
- the best score of each seller in every round, or as many as ``batch_rounds``, which says how
  useful a row would be and, as the buyer chooses the directions, something of its features each
  time: answers to many directions pin down the rows that keep winning. ``Seller(max_top=…)`` bounds
  how many scores one answer has;
- the features, not the labels, of every row that won a round, whether it is bought or not;
  ``Seller(max_reveals=…)`` bounds how many rows it sees;
- with `AggregateBuyer`, in place of all this, the information matrix of each round, cost and number
  of the rows above each threshold it asks for, and for a certificate every seller's highest score.

To the sellers: the directions V = P Qᵀ of every round, which with the information of the others
give the span of the queries; the sizes of all steps, and which of them went to their own rows; and
what of theirs was bought. Not who else won.

To whoever reads the wire: all of it. Frames are not encrypted; that is up to the transport.

What holds it back, each with its limits:

- Sums under masks (`masking`) hide the parts from an honest but curious buyer, not from one that
  makes up the other sellers or replaces their keys.
- A rotation of the features that all parties share (`projections`) hides their meaning from those
  who don't know its seed, and changes neither picks nor objective. It hides nothing from the
  parties. A sketch to fewer features also keeps part of each row back from the buyer, and changes
  the design.
- ``Seller(max_norm=…)`` keeps one row from weighing more than others may, and a buyer can insist.
- ``Seller(epsilon=…)`` adds noise to the scores (`noise`). This is no differential privacy of the
  purchase: Gram matrices, winners and sales are still exact.
- Commitments (`merkle`) bind sellers to what they sell. They hide nothing that is above.
"""

from modicum.daved.federated.aggregate import AggregateBuyer
from modicum.daved.federated.buyer import Buyer
from modicum.daved.federated.channel import Traffic, Transport
from modicum.daved.federated.http import HTTPTransport, SellerServer, serve_seller
from modicum.daved.federated.local import LocalTransport
from modicum.daved.federated.purchase import FederatedBuyer, Purchase
from modicum.daved.federated.seller import Seller

__all__ = [
    "AggregateBuyer",
    "Buyer",
    "FederatedBuyer",
    "HTTPTransport",
    "LocalTransport",
    "Purchase",
    "Seller",
    "SellerServer",
    "Traffic",
    "Transport",
    "serve_seller",
]
