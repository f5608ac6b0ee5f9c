"""The optimal coupling per token, with a surrogate that generator and detector share.

The region is a single token or empty, drawn by the key from ``min(surrogate, gamma)``; the token is
drawn from the maximal coupling of the model's law with that region. The detector draws the region
again and looks whether the token is in it. Takes laws and uniforms, NumPy or torch; knows no key
and no engine.

Source: the optimal coupling of "Towards Optimal Statistical Watermarking" (arXiv 2312.07930),
applied per token as DAWA does (arXiv 2410.02890).

Legend: ``B`` rows, ``V`` vocabulary, ``s`` words of a PRF state.
"""

from typing import Any

import numpy as np

from modicum.umpwatermark._arrays import namespace
from modicum.umpwatermark.coupling import aware_conditional, ump_coupling
from modicum.umpwatermark.samplers.base import log_of, probabilities
from modicum.umpwatermark.uniforms import KeyedUniforms

Array = Any


def keyed_region(
    surrogate_log_probs_BV: Array, gamma: float, state_Bs: Array, uniforms: KeyedUniforms
) -> tuple[Array, Array]:
    """Draw the region of each position by an exponential race over the tokens and the empty set.

    A race rarely changes its winner when generator and detector compute slightly different
    surrogates; a changed region costs power, never validity.

    Parameters
    ----------
    surrogate_log_probs_BV
        The shared law.
    gamma
        Largest probability of a single token's region, in (0, 1).
    state_Bs
        States of the contexts.
    uniforms
        The keyed uniforms; one of the extra ones winds the clock of the empty set.

    Returns
    -------
    region_law : float64[B, V + 1]
        Probability of each token's region, ``min(surrogate, gamma)``, and last of the empty one.
    region_B : int64[B]
        The token of the region; V for the empty one.
    """
    coupling = ump_coupling(probabilities(surrogate_log_probs_BV), gamma)
    V = surrogate_log_probs_BV.shape[-1]
    clocks = [uniforms.uniforms(state_Bs, V), uniforms.extra(state_Bs, 1)]
    xp = namespace(clocks[0])
    joined = np.concatenate(clocks, axis=-1) if xp is np else xp.cat(clocks, -1)
    return coupling.region_probs, coupling.draw_region(joined)


class UMPAwareSampler:
    """The coupling with a region drawn from a surrogate; see the module.

    Parameters
    ----------
    gamma
        Largest probability of a single token's region, in (0, 1).
    """

    name = "ump-aware"
    deterministic = False

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def conditional_log_probs(
        self,
        log_q_BV: Array,
        state_Bs: Array,
        uniforms: KeyedUniforms,
        surrogate_log_probs_BV: Array | None = None,
    ) -> Array:
        """Return the coupled law; see `TokenSampler.conditional_log_probs`.

        Raises
        ------
        ValueError
            Without surrogate log-probabilities, or if their shape is not that of the law.
        """
        if surrogate_log_probs_BV is None:
            raise ValueError("sampler='ump-aware' needs surrogate_log_probs_BV")
        if tuple(surrogate_log_probs_BV.shape) != tuple(log_q_BV.shape):
            raise ValueError(
                f"surrogate_log_probs_BV has shape {tuple(surrogate_log_probs_BV.shape)}, the "
                f"model's laws have {tuple(log_q_BV.shape)}"
            )
        region_law, region_B = keyed_region(surrogate_log_probs_BV, self.gamma, state_Bs, uniforms)
        law_BV = aware_conditional(probabilities(log_q_BV), region_law, region_B)
        return log_of(law_BV, like=log_q_BV)
