"""A distortion budget per step: cut the tops of a law at a water level and raise the rest.

Takes laws and a budget in total variation and gives the flattened law to sample from. Every unit of
total variation spent this way takes one unit from the Type II error of the optimal test, until the
law is flat. NumPy arrays or torch tensors in, the same out. Knows nothing of keys or models.

Source: the optimal law of "Towards Optimal Statistical Watermarking" (arXiv 2312.07930) with the
level chosen by the budget (our choice) and the mass spread in proportion to the law.

Legend: ``B`` rows of a batch, ``V`` vocabulary.
"""

from modicum.umpwatermark._arrays import Array, cumsum, maximum, namespace, sort_descending
from modicum.umpwatermark.theory import NEGLIGIBLE, check_epsilon, check_law, fill_up_to


def distort(q_BV: Array, epsilon: float) -> tuple[Array, Array]:
    """Move exactly epsilon of probability from the likeliest tokens to the others.

    Tokens above a water level c are cut to c; the others rise by a common factor, none beyond c, so
    the result is ``min(s q, c)``. A token of probability 0 (below 1e-250) stays at 0. Where the
    budget exceeds the distance to the uniform law on the tokens of positive probability, the result
    is that law.

    Parameters
    ----------
    q_BV
        Laws, ``[..., V]``.
    epsilon
        Budget in total variation, in ``[0, 1)``.

    Returns
    -------
    law_BV : float64[..., V]
        The flattened laws; ``q_BV`` itself, normalised, for ``epsilon=0``.
    tv_B : float64[...]
        Total variation that was realised: epsilon, or less where the law became flat.

    Raises
    ------
    ValueError
        For an invalid law or budget.
    """
    q_BV, epsilon = check_law(q_BV), check_epsilon(epsilon)
    xp = namespace(q_BV)
    if epsilon == 0:
        return q_BV, xp.zeros_like(q_BV[..., 0])
    likely_BV = xp.where(q_BV >= NEGLIGIBLE, q_BV, xp.zeros_like(q_BV))
    ordered_BV = sort_descending(likely_BV)
    ranks_BV = cumsum(xp.ones_like(ordered_BV))
    # What the j likeliest have above c is at most what all have above c, with equality for one j.
    level_B = maximum((cumsum(ordered_BV) - epsilon) / ranks_BV)
    # The level at which all tokens of positive probability are equal is the end.
    positive_BV = xp.where(ordered_BV > 0, xp.ones_like(ordered_BV), xp.zeros_like(ordered_BV))
    level_B = xp.maximum(level_B, 1 / positive_BV.sum(-1))
    cap_BV = level_B[..., None] + xp.zeros_like(q_BV)
    law_BV = fill_up_to(
        xp.minimum(likely_BV, cap_BV),
        xp.ones_like(level_B),
        level_B,
        ordered=xp.minimum(ordered_BV, cap_BV),
    )
    return law_BV, (q_BV - law_BV).clip(0).sum(-1)
