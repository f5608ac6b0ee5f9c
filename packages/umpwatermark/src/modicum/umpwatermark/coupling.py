"""The uniformly most powerful watermark of a finite law, as a coupling of output and region.

The region is one element or empty: ``R = {x}`` with probability ``min(rho'(x), alpha)``, where rho'
is the law of the output (rho itself without distortion), and empty with what remains. Given
``R = {x}`` the output is x; given the empty region it is drawn from what rho' has above alpha. The
region is drawn first, from keyed uniforms, so whoever knows the key and the law can rebuild it.
NumPy arrays or torch tensors in, the same out, on the same device. Knows nothing of keys or tokens.

Source: "Towards Optimal Statistical Watermarking" (arXiv 2312.07930), uniformly most powerful
watermark; padding of the region is our addition. `aware_conditional` is the form for a detector
that knows a surrogate of the law only: the maximal coupling, as in speculative sampling.

Legend: ``B`` batch, ``N`` elements of the output space (``V`` for a vocabulary), ``n`` draws.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.umpwatermark._arrays import (
    Array,
    as_float64,
    draw_from,
    index_range,
    namespace,
    ratio,
    take,
)
from modicum.umpwatermark.theory import Fill, check_law, ump_law

NO_RESIDUAL = 1e-12
"""Mass of a residual below which only round-off is left to draw from."""


@dataclass(frozen=True, eq=False)
class UMPCoupling:
    """Joint law of output and region under the optimal watermark; built by `ump_coupling`.

    Attributes
    ----------
    alpha
        Type I error.
    rho
        The model's law, float64 ``[..., N]``.
    law
        Law of the output rho', float64 ``[..., N]``; rho itself without distortion.
    region_probs
        Probability of the region ``{x}`` for each x and, last, of the empty region;
        float64 ``[..., N+1]``.
    residual
        Law of the output given the empty region, float64 ``[..., N]``; zeros where the region is
        never empty.
    beta
        Type II error, float64 ``[...]``: equal to `ump_type2` (for ``fill="proportional"``, if the
        elements of positive probability had room for the budget).
    padding
        Probability with which each element enters the region independently on top, float64
        ``[..., N]``, so that every element is in it with probability alpha; ``None`` without.
    """

    alpha: float
    rho: Array
    law: Array
    region_probs: Array
    residual: Array
    beta: Array
    padding: Array | None = None

    def draw_region(self, clock_uniforms: Array) -> Array:
        """Draw regions by an exponential race of clocks ``-ln(U_x) / P(R = {x})``.

        Parameters
        ----------
        clock_uniforms
            Uniforms in ``(0, 1)``, usually keyed, float64 ``[..., N+1]``; the last is the clock of
            the empty region.

        Returns
        -------
        int64[...]
            The element of the region; N for the empty region. Ties go to the lowest id.

        Raises
        ------
        ValueError
            If the shape differs from that of ``region_probs``.
        """
        if tuple(clock_uniforms.shape) != tuple(self.region_probs.shape):
            raise ValueError(
                f"clock_uniforms must have shape {tuple(self.region_probs.shape)}, got "
                f"{tuple(clock_uniforms.shape)}"
            )
        clocks = -namespace(clock_uniforms).log(clock_uniforms)
        # A tiny probability may lift its clock to infinity: it loses, as it would anyway.
        with np.errstate(over="ignore"):
            return ratio(clocks, self.region_probs, float("inf")).argmin(-1)

    def conditional_law(self, region: Array) -> Array:
        """Return the law of the output given the region.

        Parameters
        ----------
        region
            Element of the region, or N for the empty one; int64 ``[...]``.

        Returns
        -------
        float64[..., N]
            One-hot, or the residual; the law of the output where the empty region has probability 0
            and so does not occur.

        Raises
        ------
        ValueError
            If the shape does not fit or an index lies outside ``[0, N]``.
        """
        region = self._check_region(region)
        xp = namespace(self.law)
        empty = self._empty_law()
        element = index_range(self.law.shape[-1], self.law) == region[..., None]
        is_empty = (region == self.law.shape[-1])[..., None]
        return xp.where(is_empty, empty, xp.where(element, xp.ones_like(empty), 0 * empty))

    def in_region(self, region: Array, padding_uniforms: Array | None = None) -> Array:
        """Return the members of the region, with its padding if the coupling has one.

        Parameters
        ----------
        region
            Element of the region, or N for the empty one; int64 ``[...]``.
        padding_uniforms
            Uniforms in ``[0, 1)`` independent of the region's clocks, usually keyed, float64
            ``[..., N]``; needed exactly if the coupling was built with ``pad_to_alpha=True``.

        Returns
        -------
        bool[..., N]
            Membership.

        Raises
        ------
        ValueError
            If shapes do not fit, or uniforms are missing or given without use.
        """
        region = self._check_region(region)
        if (padding_uniforms is None) != (self.padding is None):
            raise ValueError(
                "padding_uniforms must be given exactly for a coupling with pad_to_alpha=True"
            )
        inside = index_range(self.law.shape[-1], self.law) == region[..., None]
        if padding_uniforms is None:
            return inside
        if tuple(padding_uniforms.shape) != tuple(self.law.shape):
            raise ValueError(
                f"padding_uniforms must have shape {tuple(self.law.shape)}, got "
                f"{tuple(padding_uniforms.shape)}"
            )
        return inside | (padding_uniforms < self.padding)

    def sample(self, rng: Any, num_draws: int) -> tuple[Array, Array]:
        """Draw outputs with their regions, for a coupling of a single law.

        Parameters
        ----------
        rng
            ``numpy.random.Generator``; for a torch coupling a ``torch.Generator`` on its device.
        num_draws
            n.

        Returns
        -------
        x : int64[n]
            Outputs.
        region : int64[n]
            Element of each region, N where it is empty; ``x == region`` is a hit.

        Raises
        ------
        ValueError
            For a batch of laws.
        """
        if self.law.ndim != 1:
            raise ValueError(
                f"sample draws from one law, this coupling holds laws of shape "
                f"{tuple(self.law.shape)}; use draw_region and conditional_law"
            )
        xp = namespace(self.law)
        if xp is np:
            uniforms = rng.random((2, num_draws))
        else:
            uniforms = xp.rand(
                (2, num_draws), generator=rng, dtype=xp.float64, device=self.law.device
            )
        region = draw_from(self.region_probs, uniforms[0])
        x = xp.where(
            region == self.law.shape[-1], draw_from(self._empty_law(), uniforms[1]), region
        )
        return x, region

    def _empty_law(self) -> Array:
        return namespace(self.law).where(self.beta[..., None] > 0, self.residual, self.law)

    def _check_region(self, region: Array) -> Array:
        region = region if namespace(self.law) is not np else np.asarray(region)
        shape, N = tuple(self.law.shape[:-1]), self.law.shape[-1]
        if tuple(region.shape) != shape:
            raise ValueError(f"region must have shape {shape}, got {tuple(region.shape)}")
        if bool(((region < 0) | (region > N)).any()):
            raise ValueError(f"region must lie in [0, {N}], where {N} is the empty region")
        return region


def ump_coupling(
    rho: Array,
    alpha: float,
    epsilon: float = 0.0,
    *,
    fill: Fill = "room",
    pad_to_alpha: bool = False,
) -> UMPCoupling:
    """Build the optimal watermark of level alpha and distortion at most epsilon.

    Parameters
    ----------
    rho
        The model's laws, ``[..., N]``: array-like, or a torch tensor.
    alpha
        Type I error, in ``(0, 1)``.
    epsilon
        Distortion budget in total variation, in ``[0, 1)``.
    fill
        Where moved mass goes, see `ump_law`.
    pad_to_alpha
        Let further elements enter the region independently until each is in it with probability
        exactly alpha. It costs no power and no level, and the size of the region then says less
        about the law.

    Returns
    -------
    UMPCoupling
        NumPy or torch, as given.

    Raises
    ------
    ValueError
        For an invalid law, level, budget or fill.
    """
    law = ump_law(rho, alpha, epsilon, fill)
    xp = namespace(law)
    singles = law.clip(None, alpha)
    # max(law - alpha, 0) with the same round-off as the part kept below.
    excess = law - singles
    beta = excess.sum(-1)
    pieces = [singles, beta[..., None]]
    return UMPCoupling(
        alpha=float(alpha),
        rho=law if epsilon == 0 else check_law(rho),
        law=law,
        region_probs=np.concatenate(pieces, axis=-1) if xp is np else xp.cat(pieces, -1),
        residual=ratio(excess, beta[..., None] + xp.zeros_like(excess), 0.0),
        beta=beta,
        padding=(alpha - singles) / (1 - singles) if pad_to_alpha else None,
    )


def aware_conditional(q_BV: Array, region_law_BN: Array, region_B: Array) -> Array:
    """Return the law of the output given a region that was drawn for a surrogate law.

    The detector rebuilds regions from a surrogate: ``R = {x}`` with probability
    ``r(x) = min(surrogate(x), alpha)``. Given ``R = {x}`` the output is x with probability
    ``min(1, q(x) / r(x))``; otherwise, and for the empty region, it is drawn from the normalised
    ``max(q - r, 0)``. Averaged over regions the output has law exactly q, and it hits with the
    largest possible probability ``sum_x min(q(x), r(x))``.

    Parameters
    ----------
    q_BV
        True laws, ``[B, V]``.
    region_law_BN
        r, ``[B, V]``, or ``[B, V+1]`` with the empty region last as in
        ``UMPCoupling.region_probs``.
    region_B
        Element of the region, V for the empty one; int64 ``[B]``. Regions of probability 0 do not
        occur; for them the law is the residual.

    Returns
    -------
    float64[B, V]
        Rows sum to 1.

    Raises
    ------
    ValueError
        For an invalid law, or shapes that differ.
    """
    q_BV = check_law(q_BV, "q_BV")
    xp = namespace(q_BV)
    V = q_BV.shape[-1]
    single_BV = as_float64(region_law_BN)[..., :V]
    if (
        region_law_BN.shape[-1] not in (V, V + 1)
        or tuple(single_BV.shape) != tuple(q_BV.shape)
        or tuple(region_B.shape) != tuple(q_BV.shape[:-1])
    ):
        raise ValueError(
            f"for laws of shape {tuple(q_BV.shape)}, region_law_BN must have {V} or {V + 1} "
            f"entries per law and region_B one, got {tuple(region_law_BN.shape)} and "
            f"{tuple(region_B.shape)}"
        )
    excess_BV = (q_BV - single_BV).clip(0)
    total_B1 = excess_BV.sum(-1)[..., None]
    residual_BV = ratio(excess_BV, total_B1 + xp.zeros_like(excess_BV), 0.0)
    residual_BV = xp.where(total_B1 > NO_RESIDUAL, residual_BV, q_BV)
    is_element_B1 = (region_B < V)[..., None]
    element_B1 = region_B.clip(None, V - 1)[..., None]
    single_B1 = take(single_BV, element_B1)
    keep_B1 = ratio(xp.minimum(take(q_BV, element_B1), single_B1), single_B1, 0.0)
    keep_B1 = xp.where(is_element_B1, keep_B1, 0 * keep_B1)
    one_hot_BV = index_range(V, q_BV) == element_B1
    return (1 - keep_B1) * residual_BV + xp.where(one_hot_BV, keep_B1, 0 * keep_B1)
