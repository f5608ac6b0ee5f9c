"""One region per position, as many tokens inside it as any distortion-free rule can have.

A token is green if its keyed uniform lies above ``1 - gamma``. The next token is drawn from the
coupling of the model's law with that region, so it is green far more often than gamma while its law
over keys stays the model's; a detector counts greens, exactly binomial for other text. What the
region leaves open (a private acceptance, the residual) is left to whoever samples from the law that
is returned. Takes laws and uniforms, NumPy or torch; knows no key and no engine.

Source: the model-agnostic coupling of "Towards Optimal Statistical Watermarking" (arXiv 2312.07930)
in our form, see `modicum.umpwatermark.agnostic`.

Legend: ``B`` rows, ``V`` vocabulary, ``s`` words of a PRF state.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.watermark.warpers import is_torch
from modicum.umpwatermark.agnostic import AgnosticCoupling, greedy_law
from modicum.umpwatermark.samplers.base import log_of, probabilities
from modicum.umpwatermark.uniforms import KeyedUniforms

Array = Any

TOP = 1024
"""Likeliest tokens that the greedy coupling visits; the others are reached by its residual."""


def in_region(u: Array, gamma: float) -> Array:
    """Return whether uniforms lie above ``1 - gamma``, with their exact distance from 1."""
    return (1 - u) < gamma


class GreenlistSampler:
    """The coupling with the region of level gamma; see the module.

    Parameters
    ----------
    gamma
        Region level in (0, 1).
    coupling
        ``"greedy"``, or ``"exact"`` for the optimum (on the host, one row after the other).
    """

    name = "greenlist"
    deterministic = False

    def __init__(self, gamma: float, coupling: str = "greedy") -> None:
        self.gamma = gamma
        self.coupling = coupling

    def conditional_log_probs(
        self,
        log_q_BV: Array,
        state_Bs: Array,
        uniforms: KeyedUniforms,
        surrogate_log_probs_BV: Array | None = None,
    ) -> Array:
        """Return the coupled law; see `TokenSampler.conditional_log_probs`."""
        q_BV = probabilities(log_q_BV)
        V = q_BV.shape[-1]
        inside_BV = in_region(uniforms.uniforms(state_Bs, V), self.gamma)
        if self.coupling == "greedy":
            law_BV = greedy_law(q_BV, inside_BV, self.gamma, top_k=TOP)
            return log_of(law_BV, like=log_q_BV)
        # The swaps of the optimal coupling are coins of the key, so that one key gives one law.
        coins_BV = uniforms.extra(state_Bs, V)
        rows = zip(_host(q_BV), _host(inside_BV), _host(coins_BV), strict=True)
        laws = [AgnosticCoupling(q, self.gamma).law(inside, coins) for q, inside, coins in rows]
        law_BV = np.array(laws).reshape(q_BV.shape)
        if is_torch(q_BV):
            import torch

            law_BV = torch.from_numpy(law_BV).to(q_BV.device)
        return log_of(law_BV, like=log_q_BV)


def _host(x: Array) -> NDArray[Any]:
    return x.cpu().numpy() if is_torch(x) else x
