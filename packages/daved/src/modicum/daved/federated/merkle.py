"""Commitments to rows: one hash that binds a seller to all of them, and a proof for each.

A seller hashes every record with a salt of its own, the hashes in pairs up to one root, and tells
the root before anything is asked. A record that is delivered later comes with its salt and the
hashes beside its path; whoever knows the root can tell that record, number and price are those of
the beginning. It binds and, thanks to the salt, hides; it does not make a seller deliver.
"""

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np

__all__ = ["MerkleTree", "leaf_hash", "row_salt", "verify"]

HASH_BYTES = 32
# Leaves and inner nodes are hashed apart, so that none can be shown as the other.
_LEAF, _NODE = b"\x00", b"\x01"


def row_salt(secret: bytes, index: int) -> bytes:
    """Derive the salt of one row from a seller's secret, 32 bytes."""
    return hmac.digest(secret, b"row" + index.to_bytes(8, "little"), "sha256")


def leaf_hash(
    index: int, price: float, row_d: np.ndarray, labels_q: np.ndarray, salt: bytes
) -> bytes:
    """Hash a record: its number, price, row and labels as little-endian float64, and its salt."""
    head = np.array([len(row_d), len(labels_q), index], dtype="<i8").tobytes()
    numbers = np.concatenate([[price], row_d, labels_q]).astype("<f8").tobytes()
    return hashlib.sha256(_LEAF + salt + head + numbers).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class MerkleTree:
    """The tree over leaves in order; a node without a sibling is paired with itself.

    Parameters
    ----------
    leaves
        At least one hash of 32 bytes.

    Attributes
    ----------
    root
        32 bytes.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.levels = [list(leaves)]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            if len(below) % 2:
                below.append(below[-1])
            pairs = zip(below[::2], below[1::2], strict=True)
            self.levels.append([_node(left, right) for left, right in pairs])
        self.root = self.levels[-1][0]

    def proof(self, index: int) -> list[bytes]:
        """Give the siblings of a leaf's path, from the leaf up."""
        found = []
        for level in self.levels[:-1]:
            found.append(level[index ^ 1])
            index >>= 1
        return found


def verify(root: bytes, n: int, index: int, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether a leaf stands at this place of the tree of n leaves with this root."""
    if not 0 <= index < n or len(proof) != (n - 1).bit_length():
        return False
    for sibling in proof:
        leaf = _node(sibling, leaf) if index & 1 else _node(leaf, sibling)
        index >>= 1
    return hmac.compare_digest(leaf, root)
