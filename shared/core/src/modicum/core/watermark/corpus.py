"""What reading many documents with one key takes: somebody to spread the work, contexts once only.

Takes contexts as arrays of token ids; knows nothing of keys, evidence or tests.

Legend: ``D`` documents, ``S`` scored positions, ``c`` context width.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Executor", "first_occurrences"]


class Executor(Protocol):
    """What spreads documents: ``concurrent.futures.Executor`` and everything like it."""

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Apply ``fn`` to every item, results in order."""
        ...


def first_occurrences(contexts: Iterable[NDArray[np.int64]]) -> list[NDArray[np.bool_]]:
    """Say which positions have a context that no earlier document had.

    Each context seeds one draw of the key: counting it in two documents would count that draw
    twice.

    Parameters
    ----------
    contexts
        Contexts of each document's scored positions, int64 ``[S, c]``. Within a document they are
        not compared with each other.

    Returns
    -------
    list of bool[S]
        One mask per document, in order.

    Examples
    --------
    >>> first_occurrences([np.array([[1, 2], [2, 3]]), np.array([[2, 3], [3, 4]])])[1].tolist()
    [False, True]
    """
    seen: set[bytes] = set()
    masks = []
    for contexts_Sc in contexts:
        names = [row.tobytes() for row in contexts_Sc]
        masks.append(np.array([name not in seen for name in names], dtype=bool))
        seen.update(names)
    return masks
