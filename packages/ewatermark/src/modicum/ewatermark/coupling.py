"""The maximal coupling between seed symbol and token group, as a bias on log-probabilities.

Takes group masses of the target and of the anchor and a seed symbol; gives the law of the group to
sample from, and the per-group bias that turns the target law into it. NumPy arrays or torch
tensors in, the same out. Knows nothing of keys, tokens or models.

Source: "Towards Anytime-Valid Statistical Watermarking" (arXiv 2602.17608); the coupling is that
of speculative sampling, used for watermarks first by "Watermarking using Semantic-aware
Speculative Sampling" (OpenReview LdIlnsePNt).

Legend: ``B`` batch, ``m`` seed symbols, ``V`` vocabulary.
"""

from typing import Any

import numpy as np

Array = Any

TAU_FLOOR = 1e-12
"""Below this total variation target and anchor are taken as equal."""


def namespace(x: Array) -> Any:
    """Return the module (``numpy`` or ``torch``) an array belongs to."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    if isinstance(x, torch.Tensor):
        return torch
    raise TypeError(f"expected a NumPy array or a torch tensor, got {type(x).__name__}")


def group_masses(probs_BV: Array, groups_BV: Array | None, num_groups: int) -> Array:
    """Sum probabilities over the groups of a partition.

    Parameters
    ----------
    probs_BV
        Probabilities, ``[B, V]``.
    groups_BV
        Group of every token, int64 in ``[0, num_groups)``; ``None`` is the identity (m = V).
    num_groups
        Number of groups m.

    Returns
    -------
    float64[B, m]
        Masses, renormalised to sum to 1.
    """
    xp = namespace(probs_BV)
    if groups_BV is None:
        masses = probs_BV.astype(np.float64) if xp is np else probs_BV.double()
    elif xp is np:
        B = probs_BV.shape[0]
        flat = (groups_BV + np.arange(B)[:, None] * num_groups).ravel()
        masses = np.bincount(flat, weights=probs_BV.ravel(), minlength=B * num_groups)
        masses = masses.reshape(B, num_groups)
    else:
        zeros = probs_BV.new_zeros(probs_BV.shape[0], num_groups, dtype=xp.float64)
        masses = zeros.scatter_add_(1, groups_BV, probs_BV.double())
    return masses / masses.sum(-1)[:, None]


def coupled_group_law(q_Bm: Array, p_Bm: Array, seed_B: Array) -> Array:
    """Return the law of the token's group given the seed symbol.

    The seed's own group is kept with probability ``A = min(1, q[S]/p[S])``; otherwise the group
    is drawn from the normalised excess ``max(q - p, 0)``. Averaged over ``S ~ p`` this is exactly
    q, and the group equals the seed with the largest probability any coupling allows,
    ``1 - TV(q, p)``.

    Parameters
    ----------
    q_Bm, p_Bm
        Target and anchor masses, float64 ``[B, m]``.
    seed_B
        Seed symbols, int64 ``[B]``, with positive anchor mass.

    Returns
    -------
    float64[B, m]
        Rows sum to 1.
    """
    xp = namespace(q_Bm)
    rows = xp.arange(q_Bm.shape[0]) if xp is np else xp.arange(len(q_Bm), device=q_Bm.device)
    excess_Bm = (q_Bm - p_Bm).clip(0)
    tau_B = excess_Bm.sum(-1)
    ratio_B = q_Bm[rows, seed_B] / p_Bm[rows, seed_B]
    equal_B = tau_B < TAU_FLOOR
    keep_B = xp.where(equal_B, xp.ones_like(tau_B), ratio_B.clip(0, 1))
    safe_B = xp.where(equal_B, xp.ones_like(tau_B), tau_B)
    law_Bm = (1 - keep_B)[:, None] * excess_Bm / safe_B[:, None]
    law_Bm[rows, seed_B] += keep_B
    # With TV ~ 0 the seed may still fall where q underflowed to 0; its group cannot be emitted.
    impossible_B = q_Bm[rows, seed_B] <= 0
    return xp.where((equal_B & impossible_B)[:, None], q_Bm, law_Bm)


def group_bias(q_Bm: Array, p_Bm: Array, seed_B: Array, strength: float = 0.0) -> Array:
    """Return what to add to each group's log-probabilities so that sampling follows the coupling.

    Parameters
    ----------
    q_Bm, p_Bm, seed_B
        As in `coupled_group_law`.
    strength
        Additional logit for the seed's group after the coupling; not zero means that the text is
        no longer distributed like the model's.

    Returns
    -------
    float64[B, m]
        Natural logs; ``-inf`` for groups that must not be sampled, 0 where the target has no mass.
    """
    xp = namespace(q_Bm)
    law_Bm = coupled_group_law(q_Bm, p_Bm, seed_B)
    ones = xp.ones_like(q_Bm)
    has_mass = q_Bm > 0
    allowed = law_Bm > 0
    bias_Bm = xp.log(xp.where(allowed, law_Bm, ones)) - xp.log(xp.where(has_mass, q_Bm, ones))
    bias_Bm = xp.where(allowed, bias_Bm, xp.full_like(q_Bm, -float("inf")))
    bias_Bm = xp.where(has_mass, bias_Bm, xp.zeros_like(q_Bm))
    if strength:
        rows = xp.arange(q_Bm.shape[0]) if xp is np else xp.arange(len(q_Bm), device=q_Bm.device)
        bias_Bm[rows, seed_B] += strength
    return bias_Bm
