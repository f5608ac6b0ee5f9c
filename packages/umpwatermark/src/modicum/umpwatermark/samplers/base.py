"""What a sampler is: the law of the next token once the key has spoken.

A sampler turns the model's law into the law given the keyed uniforms of the position. Averaged
over keys the result is exactly the model's law. Takes log-probabilities, NumPy or torch; knows no
engine, no tracker and no key.

Legend: ``B`` rows, ``V`` vocabulary, ``s`` words of a PRF state.
"""

from typing import Any, Protocol

import numpy as np

from modicum.core.watermark.warpers import is_torch
from modicum.umpwatermark._arrays import as_float64, maximum, namespace
from modicum.umpwatermark.uniforms import KeyedUniforms

Array = Any
"""A NumPy array or a torch tensor."""


class TokenSampler(Protocol):
    """The token's law given the key.

    Attributes
    ----------
    name
        As in `UMPWatermarkConfig.sampler`.
    deterministic
        Whether the key leaves a single token.
    """

    name: str
    deterministic: bool

    def conditional_log_probs(
        self,
        log_q_BV: Array,
        state_Bs: Array,
        uniforms: KeyedUniforms,
        surrogate_log_probs_BV: Array | None = None,
    ) -> Array:
        """Return ``log P(token = v | key)``.

        Parameters
        ----------
        log_q_BV
            Normalised log-probabilities of the model; ``-inf`` excludes a token.
        state_Bs
            States of the contexts, from ``uniforms.context_state``.
        uniforms
            The keyed uniforms.
        surrogate_log_probs_BV
            The law that generator and detector share; of ``"ump-aware"`` only.

        Returns
        -------
        array[B, V]
            Natural logs, of the dtype of ``log_q_BV``; rows sum to one, and a token of probability
            zero under the model keeps ``-inf``.
        """
        ...


def one_hot(log_q_BV: Array, choice_B: Array) -> Array:
    """Return log-probabilities of a certain choice: 0 at the chosen token, ``-inf`` elsewhere."""
    if is_torch(log_q_BV):
        out_BV = log_q_BV.new_full(log_q_BV.shape, -float("inf"))
        return out_BV.scatter_(1, choice_B[:, None], 0.0)
    out_BV = np.full(log_q_BV.shape, -np.inf, dtype=log_q_BV.dtype)
    np.put_along_axis(out_BV, choice_B[:, None], 0.0, axis=1)
    return out_BV


def probabilities(log_q_BV: Array) -> Array:
    """Return probabilities in float64 that sum to one, whatever the constant of each row."""
    log_q_BV = as_float64(log_q_BV)
    shifted_BV = log_q_BV - maximum(log_q_BV)[:, None]
    q_BV = namespace(log_q_BV).exp(shifted_BV)
    return q_BV / q_BV.sum(-1)[:, None]


def log_of(law_BV: Array, like: Array) -> Array:
    """Return natural logs of probabilities in the dtype of ``like``, ``-inf`` for zero."""
    if is_torch(law_BV):
        return law_BV.log().to(like.dtype)
    with np.errstate(divide="ignore"):
        return np.log(law_BV).astype(like.dtype)
