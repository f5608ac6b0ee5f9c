"""The few array operations that NumPy and torch spell differently, on the last axis.

Legend: ``N`` elements of the output space.
"""

from typing import Any

import numpy as np

from modicum.core.watermark.warpers import is_torch

Array = Any
"""A NumPy array or a torch tensor."""


def namespace(x: Array) -> Any:
    """Return the module (``numpy`` or ``torch``) an array belongs to."""
    if is_torch(x):
        import torch

        return torch
    return np


def as_float64(x: Array) -> Array:
    """Return a torch tensor, or anything NumPy accepts as an array, in float64."""
    return x.double() if is_torch(x) else np.asarray(x, dtype=np.float64)


def index_range(stop: int, like: Array) -> Array:
    """Return ``0 … stop-1`` as int64 beside ``like``."""
    if is_torch(like):
        return namespace(like).arange(stop, device=like.device)
    return np.arange(stop)


def argsort_descending(x: Array) -> Array:
    """Return int64 ids by falling value; ties by rising id."""
    if is_torch(x):
        return namespace(x).sort(x, dim=-1, descending=True, stable=True).indices
    return np.argsort(-x, axis=-1, kind="stable")


def sort_descending(x: Array) -> Array:
    """Return the values in falling order."""
    if is_torch(x):
        return namespace(x).sort(x, dim=-1, descending=True).values
    return -np.sort(-x, axis=-1)


def largest_ids(x: Array, count: int) -> Array:
    """Return the ids of the ``count`` largest values by falling value.

    Which of the values tied at the cut are taken is left to the library.
    """
    if is_torch(x):
        return namespace(x).topk(x, count, dim=-1).indices
    ids = np.argpartition(-x, count - 1, axis=-1)[..., :count]
    return take(ids, argsort_descending(take(x, ids)))


def take(x: Array, ids: Array) -> Array:
    """Gather ``x`` at ids of the last axis."""
    if is_torch(x):
        return x.gather(-1, ids)
    return np.take_along_axis(x, ids, axis=-1)


def scatter(x: Array, ids: Array, size: int) -> Array:
    """Return zeros of last axis ``size`` with ``x`` written at ``ids``."""
    if is_torch(x):
        return x.new_zeros((*x.shape[:-1], size)).scatter(-1, ids, x)
    out = np.zeros((*x.shape[:-1], size), dtype=x.dtype)
    np.put_along_axis(out, ids, x, axis=-1)
    return out


def cumsum(x: Array) -> Array:
    """Return inclusive running sums."""
    return x.cumsum(-1)


def tail_sums(x: Array) -> Array:
    """Return ``x[i] + x[i+1] + …``, added from the end so that small tails keep their digits."""
    if is_torch(x):
        return x.flip(-1).cumsum(-1).flip(-1)
    return x[..., ::-1].cumsum(-1)[..., ::-1]


def products_before(x: Array) -> tuple[Array, Array]:
    """Return the product of the entries before each position, and of all entries ``[...]``."""
    products = x.cumprod(-1)
    before = namespace(x).ones_like(x)
    before[..., 1:] = products[..., :-1]
    return before, products[..., -1]


def maximum(x: Array) -> Array:
    """Return the largest entry of the last axis."""
    return x.amax(-1) if is_torch(x) else x.max(axis=-1)


def ratio(numerator: Array, denominator: Array, otherwise: float) -> Array:
    """Divide where the denominator is positive; elsewhere give ``otherwise``."""
    xp = namespace(denominator)
    positive = denominator > 0
    safe = xp.where(positive, denominator, xp.ones_like(denominator))
    return xp.where(positive, numerator / safe, xp.full_like(denominator, otherwise))


def draw_from(law: Array, uniforms: Array) -> Array:
    """Draw elements by inversion, one per uniform.

    Parameters
    ----------
    law
        Rows that sum to 1 up to round-off, float64 ``[n, N]``; or one such law for all, ``[N]``.
    uniforms
        Float64 ``[n]`` in ``[0, 1)``.

    Returns
    -------
    int64[n]
        Elements of positive probability.
    """
    xp = namespace(law)
    sums = law.cumsum(-1)
    # Round-off may lift a draw to the total itself, beyond the last element of positive mass.
    last = (sums < sums[..., -1:]).sum(-1)
    targets = uniforms * sums[..., -1]
    if law.ndim == 1:
        drawn = xp.searchsorted(sums, targets, side="right")
    else:
        drawn = (sums <= targets[:, None]).sum(-1)
    return xp.minimum(drawn, last)
