"""Sums of which the adder sees nothing but the sum: pairwise masks over fixed-point numbers.

Every two sellers agree on a key by Diffie-Hellman in the 2048-bit group 14 of RFC 3526. For each
sum the one adds and the other subtracts the same pseudo-random words, modulo 2⁶⁴, so that the masks
of all sellers cancel in the sum and every single contribution looks random. Values become integers
by a scale of 2 to the power of the fraction bits and rounding, so a sum is off by half a unit of
the last bit for each seller at most.

What this is good for, and no more: an adder that follows the protocol and looks at what it gets
learns the sums only. An adder that carries the public keys itself could replace them by its own;
sellers that fear it must compare keys by another way. An adder and all sellers but one together
know the contribution of that one. Sellers that leave stop the sum: there is no recovery of their
masks. A contribution that is false isn't found out. The arithmetic doesn't take constant time. The
sums themselves are told in clear; this is no differential privacy.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

__all__ = ["MaskingKeys", "from_ring", "to_ring"]

PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"
    "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"
    "4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05"
    "98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB"
    "9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
    "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
GENERATOR = 2
_KEY_BYTES = 256
_EXPONENT_BYTES = 32
_RING_BITS = 64


class MaskingKeys:
    """A seller's keys in one purchase.

    Parameters
    ----------
    secret
        The seller's own, at least 16 bytes.
    run
        Name of the purchase; another purchase has other keys.

    Attributes
    ----------
    public
        What the others need, hex.
    """

    def __init__(self, secret: bytes, run: str) -> None:
        material = len(secret).to_bytes(8, "little") + secret + run.encode()
        self._exponent = int.from_bytes(
            hashlib.shake_256(b"exponent" + material).digest(_EXPONENT_BYTES), "little"
        )
        self._pairs: dict[str, bytes] = {}
        self.public = f"{pow(GENERATOR, self._exponent, PRIME):0{2 * _KEY_BYTES}x}"

    def pair_key(self, other: str) -> bytes:
        """Give the key that only this seller and the owner of a public key can compute.

        Raises
        ------
        ValueError
            If the public key is none.
        """
        if other not in self._pairs:
            self._pairs[other] = self._agree(int(other, 16))
        return self._pairs[other]

    def _agree(self, number: int) -> bytes:
        if not 1 < number < PRIME - 1:
            raise ValueError("a public key is an integer above 1 and below the prime less 1")
        shared = pow(number, self._exponent, PRIME)
        return hashlib.sha256(b"pair" + shared.to_bytes(_KEY_BYTES, "big")).digest()

    def mask(self, keys: Sequence[str], place: int, tag: bytes, size: int) -> np.ndarray:
        """Give the mask of this seller for one sum, (size,) uint64.

        Parameters
        ----------
        keys
            Public keys of all sellers, in an order that they share.
        place
            Of this seller.
        tag
            Name of the sum: the same for all sellers, and never used for two sums.
        """
        total = np.zeros(size, dtype=np.uint64)
        for other, key in enumerate(keys):
            if other == place:
                continue
            stream = hashlib.shake_256(self.pair_key(key) + tag).digest(8 * size)
            words = np.frombuffer(stream, dtype="<u8")
            total = total + words if place < other else total - words
        return total


def to_ring(values: np.ndarray, fraction_bits: int, parties: int) -> np.ndarray:
    """Make ring elements of numbers, uint64.

    Raises
    ------
    ValueError
        If a sum over so many parties of values this large could overflow, or a value is nan.
    """
    limit = 2.0 ** (_RING_BITS - 1 - fraction_bits) / parties
    largest = float(np.max(np.abs(values), initial=0.0))
    if not largest < limit:
        raise ValueError(
            f"a value of size {largest:g} is too large for {fraction_bits} fraction bits and "
            f"{parties} sellers, which hold values below {limit:g}: take fewer fraction bits"
        )
    return np.rint(values * 2.0**fraction_bits).astype(np.int64).view(np.uint64)


def from_ring(ring: np.ndarray, fraction_bits: int) -> np.ndarray:
    """Read numbers from ring elements, float64."""
    return ring.view(np.int64).astype(np.float64) / 2.0**fraction_bits
