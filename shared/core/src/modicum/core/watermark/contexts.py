"""Which positions of a response carry evidence, and the context that seeds each of them.

Works on plain token ids of one response (never the prompt). The same rule drives a generator and a
detector: a position is scored when it lies past the warm-up and its context (the last
``context_width`` tokens) has not occurred earlier in the same response. Knows nothing of keys.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PAD = -1
"""Stands for a position before the first response token."""


def check_context_rule(context_width: int, warmup: int | None) -> int:
    """Validate a context rule and return the effective warm-up.

    Parameters
    ----------
    context_width
        Number of preceding response tokens that seed a position, at least 1.
    warmup
        Number of leading positions that are never scored; ``None`` means ``context_width``.

    Returns
    -------
    int
        The warm-up length.

    Raises
    ------
    TypeError, ValueError
        If either value is not an integer in its range.
    """
    if isinstance(context_width, bool) or not isinstance(context_width, int | np.integer):
        raise TypeError(f"context_width must be an int, got {context_width!r}")
    if context_width < 1:
        raise ValueError(f"context_width must be at least 1, got {context_width}")
    if warmup is None:
        return int(context_width)
    if isinstance(warmup, bool) or not isinstance(warmup, int | np.integer):
        raise TypeError(f"warmup must be an int or None, got {warmup!r}")
    if warmup < 0:
        raise ValueError(f"warmup must not be negative, got {warmup}")
    return int(warmup)


class ContextTracker:
    """Follow one response token by token and say whether the next position is scored.

    Parameters
    ----------
    context_width
        Number of preceding response tokens that form a context.
    warmup
        Number of leading positions that are never scored; ``None`` means ``context_width``.
        Contexts that reach before the first token are padded on the left with ``-1``.
    deduplicate
        Score each distinct context once. Switching it off makes repeated contexts reuse the same
        key material, which voids every error guarantee of a detector.
    keep
        How many of the latest tokens ``tokens`` retains; ``None`` keeps all of them. At least
        ``context_width`` are always kept. The set of seen contexts grows with the text.

    Examples
    --------
    >>> tracker = ContextTracker(context_width=2)
    >>> tracker.push(5); tracker.context() is None
    True
    >>> tracker.push(7); tracker.context()
    (5, 7)
    """

    __slots__ = ("_seen", "context_width", "deduplicate", "keep", "length", "tokens", "warmup")

    def __init__(
        self,
        context_width: int,
        warmup: int | None = None,
        *,
        deduplicate: bool = True,
        keep: int | None = None,
    ) -> None:
        self.warmup = check_context_rule(context_width, warmup)
        self.context_width = int(context_width)
        self.deduplicate = deduplicate
        self.keep = None if keep is None else max(int(keep), self.context_width)
        self.tokens: list[int] = []
        self.length = 0
        self._seen: set[tuple[int, ...]] = set()

    def _last(self) -> tuple[int, ...]:
        width = self.context_width
        last = self.tokens[-width:]
        return (PAD,) * (width - len(last)) + tuple(last)

    def context(self) -> tuple[int, ...] | None:
        """Return the context that seeds the next position, or ``None`` if it is not scored.

        Returns
        -------
        tuple of int or None
            ``context_width`` token ids, left-padded with ``-1``; ``None`` during the warm-up and
            when the context occurred before.
        """
        if self.length < self.warmup:
            return None
        context = self._last()
        return None if self.deduplicate and context in self._seen else context

    def push(self, token: int) -> None:
        """Append the token that was emitted at the next position.

        Raises
        ------
        ValueError
            If ``token`` is negative (for instance an engine's placeholder).
        """
        token = int(token)
        if token < 0:
            raise ValueError(f"token ids must not be negative, got {token}")
        if self.deduplicate and self.length >= self.warmup:
            self._seen.add(self._last())
        self.tokens.append(token)
        self.length += 1
        if self.keep is not None and len(self.tokens) > 2 * self.keep:
            del self.tokens[: -self.keep]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole state as JSON-able values."""
        return {
            "context_width": self.context_width,
            "warmup": self.warmup,
            "deduplicate": self.deduplicate,
            "keep": self.keep,
            "tokens": list(self.tokens),
            "length": self.length,
            "seen": [list(c) for c in sorted(self._seen)],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "ContextTracker":
        """Rebuild a tracker from `to_dict`."""
        tracker = cls(
            state["context_width"],
            state["warmup"],
            deduplicate=state["deduplicate"],
            keep=state["keep"],
        )
        tracker.tokens = [int(t) for t in state["tokens"]]
        tracker.length = int(state["length"])
        tracker._seen = {tuple(c) for c in state["seen"]}
        return tracker

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ContextTracker) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def token_ids(ids: ArrayLike | Sequence[int], vocab_size: int | None = None) -> NDArray[np.int64]:
    """Check one response at the door and return it as ``int64[T]``.

    Parameters
    ----------
    ids
        One-dimensional integer ids: a list, a NumPy array or a torch tensor on any device.
    vocab_size
        Exclusive upper bound of the ids, if known.

    Returns
    -------
    ndarray of int64, shape [T]

    Raises
    ------
    TypeError
        If the values are not integers.
    ValueError
        If there is more than one dimension, or an id is negative or not below ``vocab_size``.
    """
    if hasattr(ids, "detach"):
        ids = ids.detach().cpu().numpy()
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"expected one response of token ids, shape [T], got shape {array.shape}")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype == np.bool_ or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"token ids must be integers, got dtype {array.dtype}")
    array = array.astype(np.int64)
    if array.min() < 0:
        raise ValueError(
            f"token id {int(array.min())} at position {int(array.argmin())} is negative; "
            "pass the response without padding"
        )
    if vocab_size is not None and array.max() >= vocab_size:
        raise ValueError(
            f"token id {int(array.max())} at position {int(array.argmax())} is outside the "
            f"vocabulary of {vocab_size}"
        )
    return array


def distinct_contexts(
    ids_T: ArrayLike, context_width: int, warmup: int | None = None, *, deduplicate: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return every position's context and which positions are scored, in one vectorised pass.

    Parameters
    ----------
    ids_T
        Token ids of one response, shape ``[T]``.
    context_width, warmup, deduplicate
        As in `ContextTracker`; both apply exactly the same rule.

    Returns
    -------
    contexts_Tc : ndarray of int64, shape [T, context_width]
        Context of each position, left-padded with ``-1``.
    scored_T : ndarray of bool, shape [T]
        True where the position is past the warm-up and its context is the first of its kind.
    """
    warmup = check_context_rule(context_width, warmup)
    ids_T = token_ids(ids_T)
    T = len(ids_T)
    padded = np.concatenate([np.full(context_width, PAD, dtype=np.int64), ids_T])
    windows = np.lib.stride_tricks.sliding_window_view(padded, context_width)[:T]
    contexts_Tc = np.ascontiguousarray(windows)
    scored_T = np.arange(T) >= warmup
    if deduplicate and T > warmup:
        late = contexts_Tc[warmup:]
        rows = late.view([("", late.dtype)] * context_width).ravel()
        _, first = np.unique(rows, return_index=True)
        scored_T[warmup:] = False
        scored_T[warmup + first] = True
    return contexts_Tc, scored_T
