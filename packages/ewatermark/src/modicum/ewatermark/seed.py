"""The pseudo-random seed symbol of a position, drawn from the anchor's group masses.

Takes PRF states of contexts and masses; NumPy or torch. Two symbols use one 53-bit-class uniform
and the inverse distribution function; more symbols use an exponential race, because a race rarely
changes its winner when generator and detector compute slightly different masses (other hardware,
other batch shape, an edit inside the anchor's window), while an inverse distribution function
shifts at every boundary. A changed seed costs power, never validity.

Legend: ``B`` batch, ``m`` seed symbols.
"""

from typing import Any

import numpy as np

from modicum.core.prf import PhiloxPRF, uniform32, uniform53

Array = Any


def inverse_cdf_seed(prf: PhiloxPRF, state_B4: Array, masses_Bm: Array) -> Array:
    """Draw one of two symbols: 0 if ``u < p[0]`` else 1.

    Parameters
    ----------
    prf
        PRF of the domain ``"seed"``.
    state_B4
        States of the contexts, int64 ``[B, 4]``.
    masses_Bm
        Anchor masses, float64 ``[B, 2]``.

    Returns
    -------
    int64[B]
    """
    words_B2 = prf.words_range(state_B4, 2)
    u_B = uniform53(words_B2[..., 0], words_B2[..., 1])
    return (u_B >= masses_Bm[..., 0]) * 1


def race_seed(prf: PhiloxPRF, state_B4: Array, masses_Bm: Array) -> Array:
    """Draw a symbol by an exponential race: ``argmin_k -log(u_k) / p[k]``, lowest index on ties.

    Parameters
    ----------
    prf
        PRF of the domain ``"race"``.
    state_B4
        States of the contexts, int64 ``[B, 4]``.
    masses_Bm
        Anchor masses, float64 ``[B, m]``; symbols without mass are never drawn.

    Returns
    -------
    int64[B]
    """
    u_Bm = uniform32(prf.words_range(state_B4, masses_Bm.shape[-1]))
    if isinstance(masses_Bm, np.ndarray):
        # log1p keeps the clocks of u close to 1 exact.
        clocks = -np.log1p(u_Bm - 1.0)
        with np.errstate(divide="ignore"):
            return np.argmin(clocks / masses_Bm, axis=-1)
    import torch

    # A uniform just below 1 gives a clock of 0 in no representable case, so 0/0 cannot occur.
    return torch.argmin(-torch.log1p(u_Bm - 1.0) / masses_Bm, dim=-1)
