"""Gumbel-max: the token that wins a race whose clocks the key has wound.

Every token gets an exponential clock ``-ln U_v / q_v``; the first to ring is taken. That is
``argmax ln U_v / q_v``, has law q exactly, and is the rule of vLLM, SGLang and TensorRT-LLM. Takes
laws and uniforms, NumPy or torch; knows no key and no engine.

Source: the exponential form of Gumbel-max watermarking (S. Aaronson 2022); the pivot of the chosen
token has ``P(U <= u | x) = u^(1/q(x))``.

Legend: ``B`` rows, ``V`` vocabulary, ``T`` positions of a text, ``K`` candidates, ``s`` words of a
PRF state.
"""

from typing import Any

import numpy as np

from modicum.core.prf import PhiloxPRF
from modicum.core.watermark.warpers import is_torch
from modicum.umpwatermark._arrays import as_float64, index_range, largest_ids, namespace, take
from modicum.umpwatermark.samplers.base import one_hot
from modicum.umpwatermark.uniforms import KeyedUniforms

Array = Any

MATCH_CANDIDATES = 64
"""Likeliest tokens that are asked first whether they beat an observed one."""

_ENTRIES = 1 << 22  # uniforms held at once when whole vocabularies are evaluated
_SPARSE = 8  # one token alone costs a Philox block, which otherwise serves four, and a gather


def log_clocks(log_q_BV: Array, u_BV: Array) -> Array:
    """Return ``ln(-ln U / q)``, the times of the race on a log scale, float64.

    Uniforms of 32 bits are exact in float64, and so is their distance from 1: the logarithm of one
    close to 1 keeps all its digits.
    """
    xp = namespace(u_BV)
    return xp.log(-xp.log(u_BV)) - as_float64(log_q_BV)


def gumbel_argmax(log_q_BV: Array, u_BV: Array) -> Array:
    """Choose tokens by Gumbel-max.

    Parameters
    ----------
    log_q_BV
        Log-probabilities, up to a constant per row; ``-inf`` is never chosen.
    u_BV
        Uniforms in the open unit interval, float64.

    Returns
    -------
    int64[B]
        ``argmin ln(-ln U) - ln q``; the lowest id of a tie. Unspecified for a row of ``-inf``.
    """
    return log_clocks(log_q_BV, u_BV).argmin(-1)


def gumbel_match(
    log_q_TV: Array,
    tokens_T: Array,
    state_Ts: Array,
    uniforms: KeyedUniforms,
    *,
    candidates: int = MATCH_CANDIDATES,
) -> Array:
    """Say where an observed token is the one Gumbel-max takes under a law.

    The likeliest tokens are asked first; where one of them beats the observed token the rest of the
    vocabulary need not be hashed. The answer is that of `gumbel_argmax`.

    Parameters
    ----------
    log_q_TV
        Log-probabilities of the surrogate, up to a constant per row; ``-inf`` excludes a token.
    tokens_T
        Observed tokens, int64.
    state_Ts
        States of their contexts.
    uniforms
        The keyed uniforms.
    candidates
        How many tokens are asked first.

    Returns
    -------
    bool[T]
        False where the law excludes the observed token.
    """
    philox = _philox_on_device(log_q_TV, uniforms)
    if philox is not None:
        from modicum.umpwatermark.kernels.gumbel_race import gumbel_race_match

        return gumbel_race_match(log_q_TV, tokens_T, philox, state_Ts, bits=uniforms.bits)[0]
    V = log_q_TV.shape[-1]
    own_T1 = tokens_T[:, None]
    log_own_T1 = take(log_q_TV, own_T1)
    clock_T1 = log_clocks(log_own_T1, uniforms.uniforms_at(state_Ts, own_T1))
    open_T = log_own_T1[:, 0] > -float("inf")
    if candidates < V:
        ids_TK = largest_ids(log_q_TV, candidates)
        rival_TK = log_clocks(take(log_q_TV, ids_TK), uniforms.uniforms_at(state_Ts, ids_TK))
        ahead_TK = (rival_TK < clock_T1) | ((rival_TK == clock_T1) & (ids_TK < own_T1))
        open_T = open_T & ~ahead_TK.any(-1)
    xp = namespace(log_q_TV)
    match_T = open_T & False
    survivors = xp.where(open_T)[0]
    step = max(1, _ENTRIES // V)
    for at in range(0, len(survivors), step):
        rows = survivors[at : at + step]
        match_T[rows] = _winners(log_q_TV[rows], state_Ts[rows], uniforms) == tokens_T[rows]
    return match_T


def _philox_on_device(log_q_BV: Array, uniforms: KeyedUniforms) -> PhiloxPRF | None:
    # The kernel compares what it reads in float32 or less; float64 is left to the general way.
    fits = is_torch(log_q_BV) and log_q_BV.is_cuda and log_q_BV.element_size() <= 4
    return uniforms.philox if fits else None


def _winners(log_q_BV: Array, state_Bs: Array, uniforms: KeyedUniforms) -> Array:
    # gumbel_argmax; after top-k or top-p only the few tokens that are left are hashed.
    V = log_q_BV.shape[-1]
    possible_BV = log_q_BV > -float("inf")
    count_B = possible_BV.sum(-1)
    width = int(count_B.max())
    if width * _SPARSE > V or int(count_B.min()) == 0:
        return gumbel_argmax(log_q_BV, uniforms.uniforms(state_Bs, V))
    xp = namespace(log_q_BV)
    row_N, id_N = xp.where(possible_BV)
    place_N = index_range(len(row_N), row_N) - (count_B.cumsum(0) - count_B)[row_N]
    id_BK = 0 * (count_B[:, None] + index_range(width, row_N))
    id_BK[row_N, place_N] = id_N
    clock_BK = log_clocks(take(log_q_BV, id_BK), uniforms.uniforms_at(state_Bs, id_BK))
    # Rows with fewer tokens are filled with token 0, which must not win unless it is one of them.
    padding_BK = index_range(width, id_N) >= count_B[:, None]
    clock_BK[padding_BK] = float("inf")
    return take(id_BK, clock_BK.argmin(-1)[:, None])[:, 0]


class GumbelSampler:
    """Gumbel-max over the whole vocabulary; see the module."""

    name = "gumbel"
    deterministic = True

    def choose(self, log_q_BV: Array, state_Bs: Array, uniforms: KeyedUniforms) -> Array:
        """Return the chosen tokens, int64 ``[B]``.

        On CUDA a fused kernel hashes and compares in one pass over the law.
        """
        philox = _philox_on_device(log_q_BV, uniforms)
        if philox is not None:
            from modicum.umpwatermark.kernels.gumbel_race import gumbel_race

            return gumbel_race(log_q_BV, philox, state_Bs, bits=uniforms.bits)
        rows, V = log_q_BV.shape
        step = max(1, _ENTRIES // V)
        chosen = [
            _winners(log_q_BV[at : at + step], state_Bs[at : at + step], uniforms)
            for at in range(0, rows, step)
        ]
        xp = namespace(log_q_BV)
        return (np.concatenate if xp is np else xp.cat)(chosen) if rows else state_Bs[:, 0]

    def conditional_log_probs(
        self,
        log_q_BV: Array,
        state_Bs: Array,
        uniforms: KeyedUniforms,
        surrogate_log_probs_BV: Array | None = None,
    ) -> Array:
        """Return a one-hot law; see `TokenSampler.conditional_log_probs`."""
        return one_hot(log_q_BV, self.choose(log_q_BV, state_Bs, uniforms))
