"""The buyer's side of sums under masks; see `masking` for what they hide and `share` for sellers.

Shapes: d features.
"""

from collections.abc import Mapping

import numpy as np

from modicum.daved.federated.channel import Channel
from modicum.daved.federated.masking import from_ring
from modicum.daved.federated.messages import Aggregate, Done, Hello, Masked, Peers
from modicum.daved.federated.purchase import from_triangle

__all__ = ["MaskedSums"]

_LEAST_SELLERS = 2


class MaskedSums:
    """Sums over all sellers of which nothing but the sum is seen.

    Parameters
    ----------
    channel
        To the sellers.
    run
        Name of the purchase.
    hellos
        What the sellers answered to it.
    fraction_bits
        Of the fixed-point numbers.

    Attributes
    ----------
    step
        Requests so far that change what a seller knows.

    Raises
    ------
    ValueError
        If there is one seller only.
    """

    def __init__(
        self, channel: Channel, run: str, hellos: Mapping[int, Hello], fraction_bits: int
    ) -> None:
        if len(hellos) < _LEAST_SELLERS:
            raise ValueError("a masked sum needs two sellers or more, there is one")
        self.channel = channel
        self.fraction_bits = fraction_bits
        self.d = next(iter(hellos.values())).d
        keys = [hello.public_key for hello in hellos.values()]
        requests = {
            seller: Peers(0, run, place, keys, fraction_bits) for place, seller in enumerate(hellos)
        }
        channel.ask(requests, Done, remember=True)
        self.step = 1

    def ask(self, what: str, number: float, directions_dm: np.ndarray | None = None) -> np.ndarray:
        """Ask all sellers for their parts of a sum, see `Aggregate`, and add them up."""
        shown = np.empty((self.d, 0)) if directions_dm is None else directions_dm
        request = Aggregate(self.step, what, number, shown)
        parts = self.channel.ask(
            dict.fromkeys(self.channel.seller_ids, request), Masked, remember=True
        ).values()
        self.step += 1
        total = np.stack([part.ring for part in parts]).sum(axis=0, dtype=np.uint64)
        return from_ring(total, self.fraction_bits)

    def spectrum(self, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the information from a sum of weights and of weighted z zᵀ.

        Returns
        -------
        tuple of numpy.ndarray
            Eigenvalues (r,) and eigenvectors (d, r) of the information, those aside that the
            rounding of the parts alone could have made.

        Raises
        ------
        ValueError
            If that leaves none.
        """
        information_dd = from_triangle(total[1:], self.d) / total[0]
        parties = len(self.channel.seller_ids)
        noise = self.d * parties * 2.0 ** -(self.fraction_bits + 1) / total[0]
        values_d, vectors_dd = np.linalg.eigh(information_dd)
        kept = values_d > noise
        if not kept.any():
            raise ValueError(
                f"with {self.fraction_bits} fraction bits nothing is left of rows this small: take "
                "more bits, or scale the features of all parties"
            )
        return values_d[kept], vectors_dd[:, kept]
