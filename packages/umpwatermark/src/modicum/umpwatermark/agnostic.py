"""Model-agnostic couplings: the region's law is fixed first, only the output follows the model.

The region R is a random set whose law knows nothing of the model: every element enters with
probability alpha, independently (``"bernoulli"``), or R is a uniform k-subset with ``k = alpha N``
(``"uniform-k"``). Given R and the model's law, a coupling chooses the law of the output X such that
X falls into R as often as possible while its law, averaged over R, stays exactly the model's.

`greedy_law` is the fast coupling for vocabularies (NumPy arrays or torch tensors in, the same out):
one pass over the tokens by falling probability, nearly optimal for laws of language models.
`AgnosticCoupling` is the optimal one (NumPy, at most 4096 elements). Knows nothing of keys.

Source: the model-agnostic setting of "Towards Optimal Statistical Watermarking" (arXiv 2312.07930);
both couplings are our derivation, held to a max-flow program in the tests.

Legend: ``B`` batch, ``V`` vocabulary, ``K`` tokens in the pass; ``N`` elements of the output space,
``M`` swaps, ``n`` draws.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.umpwatermark._arrays import (
    Array,
    argsort_descending,
    as_float64,
    draw_from,
    index_range,
    largest_ids,
    namespace,
    products_before,
    ratio,
    scatter,
    tail_sums,
    take,
)
from modicum.umpwatermark.theory import (
    Region,
    agnostic_type2,
    check_alpha,
    check_law,
    check_region,
    region_hit_probability,
)

MAX_EXACT = 4096
"""Largest number of elements of `AgnosticCoupling`: a draw costs one step per element."""

DRAW_CELLS = 1 << 21
"""Laws times elements that `AgnosticCoupling.sample` holds at a time."""

ROUND_OFF = 1e-16
"""Difference of probabilities that is not worth a swap."""

FIRST_BLOCK = 64
"""Tokens of the first block of the greedy pass; most changes of its rule happen there."""

SLACK = 1e-12
"""Relative difference below which the two rules of the pass count as equal."""

NO_RESIDUAL = 1e-15
"""Leftover mass below which only round-off is left to draw from."""


def _greedy_free(ordered_BK: Array, gamma: float) -> Array:
    """Return F, the probability that no earlier token was accepted, ``[B, K]``.

    ``F[0] = 1`` and ``F[i+1] = F[i] - min(q[i], gamma F[i])``. As long as q is the larger, F falls
    by ``1 - gamma``; as long as it is the smaller, F loses q: both are closed forms from the last
    change on, so a row costs one step per change, not one per token. Blocks of growing size keep
    the many changes that steep laws have near the top cheap.
    """
    xp = namespace(ordered_BK)
    free_BK = xp.ones_like(ordered_BK)
    tails_BK = tail_sums(ordered_BK)
    start_B1 = xp.ones_like(ordered_BK[:, :1])
    low, stop = 0, ordered_BK.shape[-1]
    while low < stop:
        high = min(stop, max(FIRST_BLOCK, 4 * low))
        free_BK[:, low:high] = _greedy_free_block(
            ordered_BK[:, low:high], tails_BK[:, low:high], start_B1, gamma
        )
        last_B1 = free_BK[:, high - 1 : high]
        start_B1 = last_B1 - xp.minimum(ordered_BK[:, high - 1 : high], gamma * last_B1)
        low = high
    return free_BK


def _greedy_free_block(q_BK: Array, tails_BK: Array, start_B1: Array, gamma: float) -> Array:
    xp = namespace(q_BK)
    width = q_BK.shape[-1]
    place_K = index_range(width, q_BK)
    free_BK = start_B1 + xp.zeros_like(q_BK)
    at_B1 = 0 * place_K[:1] + xp.zeros_like(start_B1, dtype=place_K.dtype)
    while bool((at_B1 < width).any()):
        here_B1 = at_B1.clip(None, width - 1)
        start_B1 = take(free_BK, here_B1)
        steep_B1 = take(q_BK, here_B1) >= gamma * start_B1
        steps_BK = as_float64((place_K - at_B1).clip(0))
        by_factor_BK = start_B1 * (1 - gamma) ** steps_BK
        # F less the mass since the last change is what F had beyond the tail, plus the tail left:
        # a form without cancellation where little is left.
        spare_B1 = start_B1 - take(tails_BK, here_B1)
        spare_B1 = xp.where(spare_B1 > NO_RESIDUAL, spare_B1, 0 * spare_B1)
        by_mass_BK = spare_B1 + tails_BK
        guess_BK = xp.where(steep_B1, by_factor_BK, by_mass_BK)
        later_BK = place_K >= at_B1
        free_BK = xp.where(later_BK, guess_BK, free_BK)
        # Where both rules agree up to round-off either will do, and none is a change.
        surely_steep_BK = q_BK > (1 + SLACK) * gamma * guess_BK
        surely_flat_BK = q_BK < (1 - SLACK) * gamma * guess_BK
        changed_BK = (place_K > at_B1) & xp.where(steep_B1, surely_flat_BK, surely_steep_BK)
        changes_BK = xp.where(changed_BK, place_K, 0 * place_K + width)
        at_B1 = (changes_BK.amin(-1) if xp is not np else changes_BK.min(-1))[:, None]
    return free_BK


def greedy_pass(q_BV: Array, gamma: float, top_k: int | None = None) -> tuple[Array, Array, Array]:
    """Return what the greedy coupling does with the tokens it visits; see `greedy_law`.

    Parameters
    ----------
    q_BV
        Laws, float64 ``[B, V]``, not checked.
    gamma
        Probability with which a token enters the region, in ``(0, 1)``.
    top_k
        Visit only the k likeliest tokens.

    Returns
    -------
    ids_BK : int64[B, K]
        Tokens in the order of the pass, K the smaller of ``top_k`` and V.
    accept_BK : float64[B, K]
        Probability of each to be accepted if it is in the region and none was before.
    taken_BK : float64[B, K]
        Probability of each to be the accepted one, over regions; their sum is `greedy_hit_rate`.
    """
    xp = namespace(q_BV)
    V = q_BV.shape[-1]
    count = V if top_k is None else min(top_k, V)
    ids_BK = argsort_descending(q_BV) if count == V else largest_ids(q_BV, count)
    ordered_BK = take(q_BV, ids_BK)
    free_BK = _greedy_free(ordered_BK, gamma)
    allowed_BK = gamma * free_BK
    taken_BK = xp.minimum(ordered_BK, allowed_BK)
    # Where round-off leaves nothing free, a token that the law excludes still must not be accepted.
    accept_BK = xp.where(ordered_BK > 0, ratio(taken_BK, allowed_BK, 1.0), 0 * taken_BK)
    return ids_BK, accept_BK, taken_BK


def _residual(q_BV: Array, taken_BV: Array) -> Array:
    xp = namespace(q_BV)
    left_BV = (q_BV - taken_BV).clip(0)
    total_B1 = left_BV.sum(-1)[..., None]
    law_BV = ratio(left_BV, total_B1 + xp.zeros_like(left_BV), 0.0)
    return xp.where(total_B1 > NO_RESIDUAL, law_BV, q_BV)


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for all tokens, got {top_k}")


def greedy_law(q_BV: Array, in_region_BV: Array, gamma: float, top_k: int | None = None) -> Array:
    """Return the law of the token given the region, under the greedy coupling.

    Tokens are visited by falling probability. With F the probability, over regions, that no earlier
    one was accepted, token i takes ``w = min(q_i, gamma F)``: it is accepted with probability
    ``w / (gamma F)`` if it is in the region and nothing was accepted yet. If nothing is, the token
    is drawn from what q has left, ``(q - w) / sum(q - w)``. Averaged over regions into which every
    token enters independently with probability gamma, the law is exactly q.

    Parameters
    ----------
    q_BV
        Laws, ``[..., V]``.
    in_region_BV
        Membership of the region, bool ``[..., V]``.
    gamma
        Probability with which a token enters the region, in ``(0, 1)``.
    top_k
        Visit only the k likeliest tokens; the others are reached by the residual alone, so the law
        stays exact and hits fall by what the tail could have added. Among tokens tied at the cut,
        NumPy and torch may visit different ones.

    Returns
    -------
    float64[..., V]
        Rows sum to 1.

    Raises
    ------
    ValueError
        For an invalid law, gamma or top_k, or shapes that differ.
    """
    q_BV, gamma = check_law(q_BV, "q_BV"), check_alpha(gamma, "gamma")
    _check_top_k(top_k)
    shape, V = q_BV.shape, q_BV.shape[-1]
    if tuple(in_region_BV.shape) != tuple(shape):
        raise ValueError(
            f"in_region_BV has shape {tuple(in_region_BV.shape)}, the laws have {tuple(shape)}"
        )
    q_BV, in_region_BV = q_BV.reshape(-1, V), in_region_BV.reshape(-1, V)
    ids_BK, accept_BK, taken_BK = greedy_pass(q_BV, gamma, top_k)
    accept_BK = accept_BK * as_float64(take(in_region_BV, ids_BK))
    before_BK, left_B = products_before(1 - accept_BK)
    residual_BV = _residual(q_BV, scatter(taken_BK, ids_BK, V))
    law_BV = scatter(before_BK * accept_BK, ids_BK, V) + left_B[:, None] * residual_BV
    return law_BV.reshape(shape)


def greedy_hit_rate(q_BV: Array, gamma: float, top_k: int | None = None) -> Any:
    """Return the probability that `greedy_law` gives a token in the region by acceptance.

    Arguments and errors as in `greedy_law`. Residual draws are not counted: where the pass visits
    all tokens of positive probability, a region without accepted token holds next to none that the
    residual can reach.

    Returns
    -------
    float, or float64[...]
        NumPy or torch, as given.
    """
    q_BV, gamma = check_law(q_BV, "q_BV"), check_alpha(gamma, "gamma")
    _check_top_k(top_k)
    _, _, taken_BK = greedy_pass(q_BV.reshape(-1, q_BV.shape[-1]), gamma, top_k)
    hits = taken_BK.sum(-1).reshape(q_BV.shape[:-1])
    return float(hits) if hits.ndim == 0 else hits


def optimal_hit_rate(q_BV: Array, gamma: float) -> Any:
    """Return the largest probability of a hit with independent inclusion: ``1 - agnostic_type2``.

    Parameters
    ----------
    q_BV
        Laws, ``[..., V]``.
    gamma
        Probability with which a token enters the region, in ``(0, 1)``.

    Returns
    -------
    float, or float64[...]
        NumPy.
    """
    return 1 - agnostic_type2(q_BV, check_alpha(gamma, "gamma"))


def draw_regions(
    num_elements: int,
    alpha: float,
    num_draws: int,
    rng: np.random.Generator,
    region: Region = "bernoulli",
) -> NDArray[np.bool_]:
    """Draw model-agnostic regions.

    Parameters
    ----------
    num_elements
        N.
    alpha
        Probability of each element to be in the region, in ``(0, 1)``.
    num_draws
        n.
    rng
        Source of randomness.
    region
        ``"bernoulli"`` or ``"uniform-k"``.

    Returns
    -------
    bool[n, N]
        Membership.

    Raises
    ------
    ValueError
        If ``alpha N`` is not whole for ``"uniform-k"``.
    """
    size = check_region(region, check_alpha(alpha), num_elements)
    draws_nN = rng.random((num_draws, num_elements))
    if size is None:
        return draws_nN < alpha
    inside_nN = np.zeros(draws_nN.shape, dtype=bool)
    chosen = np.argpartition(draws_nN, size - 1, axis=-1)[:, :size]
    np.put_along_axis(inside_nN, chosen, True, axis=-1)
    return inside_nN


class AgnosticCoupling:
    """The coupling with the most hits that any model-agnostic region law of its kind allows.

    Elements have priorities, by falling probability at first. Private coins swap some of them such
    that every element ends with exactly the share it can take; then the first element of the region
    in order of priority that passes the acceptance coin of its place is the output, and if there is
    none, the output is drawn from what the law has left. Priorities do not depend on the region, so
    with either region law the place of the first candidate has the same law as without swaps.

    Parameters
    ----------
    rho
        Law, ``[N]`` with ``N <= 4096``.
    alpha
        Probability of each element to be in the region, in ``(0, 1)``.
    region
        ``"bernoulli"`` or ``"uniform-k"``.

    Attributes
    ----------
    rho : float64[N]
        The law, normalised.
    alpha, region
        As given.
    beta : float
        Type II error ``P(X not in R)``, equal to `agnostic_type2`.
    accepted : float64[N]
        Probability that X is this element and was accepted; sums to ``1 - beta``.
    num_swaps : int
        M, at most ``N - 1``.
    stay_probs : float64[M]
        Probability of each swap's coin to leave the priorities as they are, at least one half.

    Raises
    ------
    ValueError
        For an invalid law or level, more than 4096 elements (`greedy_law` takes any number), or
        ``alpha N`` not whole for ``"uniform-k"``.
    """

    rho: NDArray[np.float64]
    alpha: float
    region: Region
    beta: float
    accepted: NDArray[np.float64]
    num_swaps: int
    stay_probs: NDArray[np.float64]

    def __init__(self, rho: ArrayLike, alpha: float, region: Region = "bernoulli") -> None:
        self.rho = check_law(rho)
        if self.rho.ndim != 1 or len(self.rho) > MAX_EXACT:
            raise ValueError(
                f"AgnosticCoupling takes one law of at most {MAX_EXACT} elements, got shape "
                f"{self.rho.shape}; greedy_law takes batches of any size"
            )
        self.alpha, self.region = check_alpha(alpha), region
        N = len(self.rho)
        hits = region_hit_probability(np.arange(N + 1), N, self.alpha, region)
        self._order = argsort_descending(self.rho)
        ordered = self.rho[self._order]
        # The most that the j likeliest can take together is what they have, less what no prefix of
        # them can place.
        cut = np.minimum(np.minimum.accumulate(hits[1:] - np.cumsum(ordered)), 0.0)
        share = np.maximum(ordered + np.diff(cut, prepend=0.0), 0.0)
        total = float(share.sum())
        self.beta = float(max(-cut[-1], 0.0))
        self.accepted = np.zeros(N)
        self.accepted[self._order] = share
        first_place = np.diff(hits)
        wanted = np.diff(np.minimum(hits, total))
        self._accept = ratio(wanted, first_place, 0.0).clip(0.0, 1.0)
        self._swaps, stay = _robin_hood(wanted, share)
        self.stay_probs = np.array(stay)
        self.num_swaps = len(stay)
        self._residual = _residual(ordered[None], share[None])[0]

    def law(self, in_region_N: NDArray[np.bool_], swap_coins_M: ArrayLike) -> NDArray[np.float64]:
        """Return the law of the output given the region and the private coins.

        Parameters
        ----------
        in_region_N
            Membership, bool ``[..., N]``.
        swap_coins_M
            Private uniforms in ``[0, 1)``, independent of the region, ``[..., M]`` or longer; only
            the first `num_swaps` are used.

        Returns
        -------
        float64[..., N]
            Rows sum to 1.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        inside = np.asarray(in_region_N, dtype=bool)
        coins = np.asarray(swap_coins_M, dtype=np.float64)
        N = len(self.rho)
        if (
            inside.shape[-1:] != (N,)
            or coins.ndim != inside.ndim
            or coins.shape[:-1] != inside.shape[:-1]
            or coins.shape[-1] < self.num_swaps
        ):
            raise ValueError(
                f"in_region_N must be [..., {N}] and swap_coins_M [..., {self.num_swaps}], got "
                f"{inside.shape} and {coins.shape}"
            )
        place = np.broadcast_to(np.arange(N), inside.shape).copy()
        for step, (high, low) in enumerate(self._swaps):
            swap = coins[..., step] >= self.stay_probs[step]
            place_high, place_low = place[..., high].copy(), place[..., low].copy()
            place[..., high] = np.where(swap, place_low, place_high)
            place[..., low] = np.where(swap, place_high, place_low)
        inside_by_place = scatter(inside[..., self._order], place, N)
        passes = self._accept * inside_by_place
        before, left = products_before(1 - passes)
        ordered = take(before * passes, place) + left[..., None] * self._residual
        law = np.empty_like(ordered)
        law[..., self._order] = ordered
        return law

    def sample(
        self, rng: np.random.Generator, num_draws: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Draw outputs with their regions.

        Parameters
        ----------
        rng
            Source of randomness.
        num_draws
            n.

        Returns
        -------
        x : int64[n]
            Outputs, with law rho.
        in_region : bool[n, N]
            Regions; ``in_region[i, x[i]]`` holds with probability ``1 - beta``.
        """
        N = len(self.rho)
        inside = draw_regions(N, self.alpha, num_draws, rng, self.region)
        x = np.empty(num_draws, dtype=np.int64)
        rows = max(1, DRAW_CELLS // N)
        for start in range(0, num_draws, rows):
            part = inside[start : start + rows]
            law = self.law(part, rng.random((len(part), self.num_swaps)))
            x[start : start + rows] = draw_from(law, rng.random(len(part)))
        return x, inside


def _robin_hood(
    start: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[list[tuple[int, int]], list[float]]:
    """Turn one falling vector into another that it majorises, by mixing two entries at a time.

    Returns the pairs and, for each, the weight of not swapping them.
    """
    y = start.copy()
    pairs: list[tuple[int, int]] = []
    keeps: list[float] = []
    while True:
        over = np.flatnonzero(y > target + ROUND_OFF)
        if not over.size:
            return pairs, keeps
        high = int(over[-1])
        under = np.flatnonzero(y[high + 1 :] < target[high + 1 :])
        if not under.size:
            # Majorisation leaves room below for all but round-off.
            y[high] = target[high]
            continue
        low = high + 1 + int(under[0])
        give, need = y[high] - target[high], target[low] - y[low]
        move = min(give, need)
        pairs.append((high, low))
        keeps.append(1 - move / (y[high] - y[low]))
        # Set, not added: one of the two is done, and stays done.
        y[high], y[low] = (
            (target[high], y[low] + move) if give <= need else (y[high] - move, target[low])
        )


def exact_agnostic_sampler(
    rho: ArrayLike,
    alpha: float,
    num_draws: int,
    rng: np.random.Generator,
    region: Region = "bernoulli",
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw outputs and model-agnostic regions from the optimal coupling.

    The function form of `AgnosticCoupling.sample`: ``x`` int64 ``[n]`` and ``in_region`` bool
    ``[n, N]``. Parameters and errors as there.
    """
    return AgnosticCoupling(rho, alpha, region).sample(rng, num_draws)
