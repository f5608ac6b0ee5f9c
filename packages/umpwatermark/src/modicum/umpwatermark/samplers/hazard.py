"""Hazard sampling: walk down the law and stop at the first token whose uniform allows it.

With tokens sorted by falling probability, token i is taken if no earlier one was and
``U_i > 1 - hz_i``, where ``hz_i = q_i / (q_i + q_{i+1} + …)``: the marginal law is q, and the
uniform of the chosen token is uniform on ``(1 - hz_i, 1)``, empty below. On text of low entropy
throughout that hole is worth far more than the tilt that Gumbel-max leaves; where entropy varies
the hole washes out. Takes laws and uniforms, NumPy or torch; knows no key and no engine.

Source: our construction.

Legend: ``B`` rows, ``V`` vocabulary, ``K`` likeliest tokens, ``s`` words of a PRF state.
"""

from typing import Any

import numpy as np

from modicum.core.watermark.warpers import is_torch
from modicum.umpwatermark._arrays import (
    argsort_descending,
    as_float64,
    largest_ids,
    namespace,
    ratio,
    scatter,
    tail_sums,
    take,
)
from modicum.umpwatermark.samplers.base import one_hot, probabilities
from modicum.umpwatermark.uniforms import KeyedUniforms

Array = Any

TOP = 1024
"""Likeliest tokens that are walked through before a whole vocabulary is sorted."""


def _sorted_hazards(sorted_BK: Array, rest_B1: Array | float) -> Array:
    # The last possible token has nothing behind it: its hazard is 1 exactly.
    return ratio(sorted_BK, tail_sums(sorted_BK) + rest_B1, 0.0)


def hazards(q_BV: Array) -> Array:
    """Return the hazard of every token: its share of what is left when its turn comes.

    Parameters
    ----------
    q_BV
        Probabilities, up to a factor per row.

    Returns
    -------
    float64[B, V]
        In [0, 1]; 1 for the last possible token, 0 for impossible ones. Equal probabilities take
        their turns by rising id.
    """
    q_BV = as_float64(q_BV)
    order_BV = argsort_descending(q_BV)
    return scatter(_sorted_hazards(take(q_BV, order_BV), 0.0), order_BV, q_BV.shape[-1])


def _first_allowed(order_BK: Array, hazard_BK: Array, u_BV: Array) -> tuple[Array, Array]:
    # U > 1 - hz, with the exact distance of U from 1.
    fires_BK = (1 - take(u_BV, order_BK)) < hazard_BK
    place_B = (fires_BK.int() if is_torch(fires_BK) else fires_BK).argmax(-1)
    return place_B, fires_BK.any(-1)


def _choose_by_full_sort(q_BV: Array, u_BV: Array) -> Array:
    order_BV = argsort_descending(q_BV)
    hazard_BV = _sorted_hazards(take(q_BV, order_BV), 0.0)
    place_B, _ = _first_allowed(order_BV, hazard_BV, u_BV)
    return take(order_BV, place_B[:, None])[:, 0]


def hazard_choice(q_BV: Array, u_BV: Array, *, top: int = TOP) -> Array:
    """Choose tokens by hazards.

    Parameters
    ----------
    q_BV
        Probabilities, up to a factor per row; zero is never chosen.
    u_BV
        Uniforms in the open unit interval, float64.
    top
        How many of the likeliest tokens are tried before the whole vocabulary is sorted.

    Returns
    -------
    int64[B]
        First token, by falling probability and rising id, with ``U > 1 - hazard``. Unspecified for
        a row without mass.
    """
    q_BV = as_float64(q_BV)
    if top >= q_BV.shape[-1]:
        return _choose_by_full_sort(q_BV, u_BV)
    ids_BK = largest_ids(q_BV, top)
    # By rising id among equals; the library leaves their order open.
    ids_BK = ids_BK.sort(-1).values if is_torch(ids_BK) else np.sort(ids_BK, axis=-1)
    order_BK = take(ids_BK, argsort_descending(take(q_BV, ids_BK)))
    sorted_BK = take(q_BV, order_BK)
    rest_B1 = (q_BV.sum(-1) - sorted_BK.sum(-1))[:, None].clip(0)
    place_B, found_B = _first_allowed(order_BK, _sorted_hazards(sorted_BK, rest_B1), u_BV)
    choice_B = take(order_BK, place_B[:, None])[:, 0]
    # Which of the tokens tied with the last one were taken is open too: there a full sort decides.
    clear_B = found_B & (take(sorted_BK, place_B[:, None])[:, 0] > sorted_BK[:, -1])
    if not bool(clear_B.all()):
        rows = namespace(q_BV).where(~clear_B)[0]
        choice_B[rows] = _choose_by_full_sort(q_BV[rows], u_BV[rows])
    return choice_B


class HazardSampler:
    """Hazard sampling over the whole vocabulary; see the module."""

    name = "hazard"
    deterministic = True

    def choose(self, log_q_BV: Array, state_Bs: Array, uniforms: KeyedUniforms) -> Array:
        """Return the chosen tokens, int64 ``[B]``."""
        q_BV = probabilities(log_q_BV)
        return hazard_choice(q_BV, uniforms.uniforms(state_Bs, q_BV.shape[-1]))

    def conditional_log_probs(
        self,
        log_q_BV: Array,
        state_Bs: Array,
        uniforms: KeyedUniforms,
        surrogate_log_probs_BV: Array | None = None,
    ) -> Array:
        """Return a one-hot law; see `TokenSampler.conditional_log_probs`."""
        return one_hot(log_q_BV, self.choose(log_q_BV, state_Bs, uniforms))
