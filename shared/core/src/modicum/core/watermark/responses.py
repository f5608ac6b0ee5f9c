"""What a detector may be handed: one response, many, or text; as token ids of single responses.

Takes lists, NumPy arrays, torch tensors or text with a tokenizer; knows nothing of keys, and leaves
the checking of the ids themselves to `modicum.core.watermark.contexts.token_ids`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["encode_text", "responses"]


def responses(ids: Any) -> list[Any]:
    """Split what a detector was given into single responses.

    One response is a flat sequence of ints; a batch is anything nested or two-dimensional.

    Parameters
    ----------
    ids
        One response ``[T]``, a batch ``[B, T]`` or a list of responses of any lengths; NumPy, torch
        or lists.

    Returns
    -------
    list
        One sequence or array per response. The ids themselves are not looked at.

    Raises
    ------
    TypeError
        If text, a mapping or a single number was given.
    ValueError
        If an array has more than two dimensions or none.
    """
    if isinstance(ids, Mapping):
        raise TypeError("token ids are needed, got a mapping; pass its 'input_ids'")
    if ids is None or isinstance(ids, str | bytes | int | float):
        raise TypeError(
            f"token ids are needed, got {type(ids).__name__}; for text use "
            "detect_text(text, tokenizer)"
        )
    if isinstance(ids, np.ndarray) and ids.dtype == object:
        ids = list(ids)
    if hasattr(ids, "ndim"):
        if ids.ndim == 1:
            return [ids]
        if ids.ndim == 2:
            return list(ids)
        raise ValueError(f"token ids must have shape [T] or [B, T], got {tuple(ids.shape)}")
    ids = list(ids)
    if any(isinstance(row, str | bytes) for row in ids):
        raise TypeError("token ids are needed, got text; use detect_text(text, tokenizer)")
    if ids and hasattr(ids[0], "ndim") and ids[0].ndim == 0:
        return [[int(value) for value in ids]]
    if ids and (hasattr(ids[0], "__len__") or getattr(ids[0], "ndim", 0) == 1):
        return ids
    return [ids]


def encode_text(text: str, tokenizer: Any) -> list[int]:
    """Tokenise without special tokens.

    Parameters
    ----------
    text
        The text.
    tokenizer
        A transformers tokenizer, or a callable ``text -> ids``.

    Returns
    -------
    list of int

    Raises
    ------
    TypeError
        If the tokenizer is a name.
    """
    if isinstance(tokenizer, str):
        raise TypeError(
            f"tokenizer must be a tokenizer or a callable, got the string {tokenizer!r}"
        )
    if hasattr(tokenizer, "encode"):
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer(text))
