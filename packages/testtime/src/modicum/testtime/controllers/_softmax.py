"""What the controllers with exponential weights share."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np


def check_rate(eta: float | str) -> float | Literal["auto"]:
    """Return a learning rate, refusing what is neither positive and finite nor "auto"."""
    if eta == "auto":
        return "auto"
    if isinstance(eta, str) or not (math.isfinite(eta) and eta > 0):
        raise ValueError(f'eta must be positive and finite or "auto", not {eta!r}')
    return eta


def log_softmax(logits_XK: np.ndarray) -> np.ndarray:
    """Return logarithms of the weights exp(logits), normalised over the last axis."""
    shifted_XK = logits_XK - logits_XK.max(axis=-1, keepdims=True)
    return shifted_XK - np.log(np.exp(shifted_XK).sum(axis=-1, keepdims=True))


def draw(log_probs_XK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw from each law over the last axis, int64 ``[X]`` (Gumbel-max: no sums that round)."""
    return (log_probs_XK + rng.gumbel(size=log_probs_XK.shape)).argmax(axis=-1)
