"""Keyed partitions of the vocabulary into groups, one per context.

Takes PRF states and, for the balanced form, the anchor's law; gives group ids. Any partition that
depends only on the key, the context and the anchor keeps the detector valid; the choice decides how
much entropy the group masses have.

Legend: ``B`` batch, ``V`` vocabulary, ``m`` groups.
"""

from typing import Any

import numpy as np

from modicum.core.prf import PhiloxPRF

Array = Any

PARTITIONS = ("hash", "balanced", "none")

BALANCED_HEAD = 1024
"""Tokens that the balanced partition places greedily; the rest, of little mass, is hashed."""


def hash_groups(prf: PhiloxPRF, state_B4: Array, vocab_size: int, num_groups: int) -> Array:
    """Return ``word(context, token) mod m`` for the whole vocabulary, int64 ``[B, V]``."""
    return prf.words_range(state_B4, vocab_size) % num_groups


def hash_group_of(prf: PhiloxPRF, state_B4: Array, token_B: Array, num_groups: int) -> Array:
    """Return the hashed group of one token per context, int64 ``[B]``."""
    return prf.words(state_B4, token_B) % num_groups


def balanced_groups(prf: PhiloxPRF, state_B4: Array, log_probs_BV: Array, num_groups: int) -> Array:
    """Place the likeliest tokens one by one into the lightest group; hash the rest.

    Raises the entropy of the group masses (most for few groups) and is more sensitive to rounding
    of the anchor's probabilities than the hashed partition.

    Parameters
    ----------
    prf
        PRF of the domain ``"part"``.
    state_B4
        States of the contexts.
    log_probs_BV
        The anchor's log-probabilities; NumPy or torch (computed on the CPU).
    num_groups
        Number of groups m.

    Returns
    -------
    int64[B, V]
        On the device of ``log_probs_BV``.
    """
    host = log_probs_BV if isinstance(log_probs_BV, np.ndarray) else log_probs_BV.cpu().numpy()
    state = state_B4 if isinstance(state_B4, np.ndarray) else state_B4.cpu().numpy()
    B, V = host.shape
    words_BV = prf.words_range(state, V + num_groups)
    groups_BV = words_BV[:, :V] % num_groups
    head = min(V, BALANCED_HEAD)
    order_BH = np.argsort(-host, axis=1, kind="stable")[:, :head]
    probs_BH = np.exp(np.take_along_axis(host, order_BH, axis=1).astype(np.float64))
    # Keyed offsets far below any mass decide ties between equally light groups.
    load_Bm = words_BV[:, V:] * (2.0**-32 * 1e-12)
    rows = np.arange(B)
    for h in range(head):
        lightest_B = load_Bm.argmin(axis=1)
        groups_BV[rows, order_BH[:, h]] = lightest_B
        load_Bm[rows, lightest_B] += probs_BH[:, h]
    if isinstance(log_probs_BV, np.ndarray):
        return groups_BV
    import torch

    return torch.from_numpy(groups_BV).to(log_probs_BV.device)
