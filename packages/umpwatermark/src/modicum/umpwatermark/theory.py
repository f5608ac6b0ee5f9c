"""Closed forms of optimal watermarking: error trade-offs, the price of model-agnosticism, rates.

A watermark couples an output X with a rejection region R that the secret key determines; a text is
called marked when X lies in R. Type I error is ``sup_y P(y in R)``, Type II error is
``P(X not in R)``, distortion the total variation between the law of X and the model's law. Every
function here takes laws on a finite set and gives the best error that any watermark of a class can
reach. Float64, batched over leading axes, a float for a single law; natural logarithms and nats.
Errors come as NumPy, checked and moved laws also as torch tensors when given so. Knows nothing of
keys, tokens or models.

Source: "Towards Optimal Statistical Watermarking" (arXiv 2312.07930) for the set-up and the
uniformly most powerful watermark; forms marked "our derivation" are not taken from it. All of them
are held to linear programs in the tests.

Legend: ``N`` elements of the output space, ``S`` atoms of a surprisal law.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.watermark.warpers import is_torch
from modicum.umpwatermark._arrays import (
    Array,
    as_float64,
    cumsum,
    maximum,
    namespace,
    ratio,
    sort_descending,
    tail_sums,
)

Fill = Literal["room", "proportional"]
FILLS: tuple[Fill, ...] = ("room", "proportional")
Region = Literal["uniform-k", "bernoulli"]
REGIONS: tuple[Region, ...] = ("uniform-k", "bernoulli")
CurveScheme = Literal["ump", "agnostic", "sequence-gumbel"]
CURVE_SCHEMES: tuple[CurveScheme, ...] = ("ump", "agnostic", "sequence-gumbel")

SUM_TOLERANCE = 1e-6
"""How far a law may be from summing to 1."""

NEGLIGIBLE = 1e-250
"""Probabilities below are not raised to a share of moved mass: the factor would overflow."""

SMALLEST_PRICED = 1e-15
"""Level from which on `minimax_price` of an unbounded output space no longer changes."""

INTEGER_TOLERANCE = 1e-6
"""How far ``alpha * N`` may be from a whole number, for rounded levels such as 1/3."""


def check_law(rho: ArrayLike | Array, name: str = "rho") -> Array:
    """Check that the last axis holds laws and return them in float64, normalised.

    Parameters
    ----------
    rho
        Probabilities, shape ``[..., N]`` with ``N >= 1``; array-like or a torch tensor.
    name
        What to call the argument in an error.

    Returns
    -------
    float64, shape [..., N]
        NumPy, or torch on the same device.

    Raises
    ------
    ValueError
        If an entry is negative or not finite, or a sum differs from 1 by more than 1e-6.
    """
    rho = as_float64(rho)
    if rho.ndim == 0 or rho.shape[-1] < 1 or 0 in rho.shape:
        raise ValueError(
            f"{name} needs at least one probability on its last axis, got shape {tuple(rho.shape)}"
        )
    smallest = float(rho.min())
    total = rho.sum(-1)
    # NaN fails both comparisons, so they are written to hold for what is right.
    if not smallest >= 0:
        raise ValueError(f"{name} has negative or non-finite entries: min {smallest}")
    if not bool((abs(total - 1) <= SUM_TOLERANCE).all()):
        worst = total.reshape(-1)[abs(total - 1).reshape(-1).argmax()]
        raise ValueError(f"{name} must sum to 1 within {SUM_TOLERANCE}, got {float(worst)!r}")
    return rho / total[..., None]


def check_alpha(alpha: float, name: str = "alpha") -> float:
    """Validate a level (or another probability) in ``(0, 1)`` and return it as a float."""
    if not 0 < alpha < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {alpha!r}")
    return float(alpha)


def check_epsilon(epsilon: float) -> float:
    """Validate a distortion budget in ``[0, 1)`` (total variation) and return it as a float."""
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must lie in [0, 1), got {epsilon!r}")
    return float(epsilon)


def check_region(region: str, alpha: float, num_elements: int | None) -> int | None:
    """Validate a region law and return its size k (``None`` for independent inclusion).

    Raises
    ------
    ValueError
        For an unknown name, or if ``alpha * num_elements`` is not a whole number for ``uniform-k``.
    """
    if region not in REGIONS:
        raise ValueError(f"region must be one of {REGIONS}, got {region!r}")
    if num_elements is not None and num_elements < 1:
        raise ValueError(f"num_elements must be at least 1, got {num_elements}")
    if region == "bernoulli":
        return None
    if num_elements is None:
        raise ValueError("region='uniform-k' needs num_elements; 'bernoulli' works without")
    exact = alpha * num_elements
    size = round(exact)
    if size < 1 or abs(exact - size) > INTEGER_TOLERANCE:
        raise ValueError(
            f"region='uniform-k' needs alpha * num_elements to be a positive whole number, got "
            f"{alpha} * {num_elements} = {exact:g}; take region='bernoulli' instead"
        )
    return size


def _plain(value: NDArray[np.float64]) -> Any:
    # A float for one law, the array for a batch.
    return float(value) if value.ndim == 0 else value


def _host_law(rho: ArrayLike | Array) -> NDArray[np.float64]:
    return check_law(rho.detach().cpu().numpy() if is_torch(rho) else rho)


def ump_type2(rho: ArrayLike, alpha: float, epsilon: float = 0.0) -> Any:
    """Return the smallest Type II error at level alpha and distortion at most epsilon.

    ``max{0, sum_x (rho(x) - alpha)+ - epsilon, 1 - alpha N}``. The third term, the level that even
    the uniform law cannot undercut, binds only for ``N < 1/alpha`` and is our derivation.
    `ump_coupling` attains the value.

    Parameters
    ----------
    rho
        The model's law, shape ``[..., N]``. Elements with probability 0 belong to the output space.
    alpha
        Type I error, in ``(0, 1)``.
    epsilon
        Distortion budget in total variation, in ``[0, 1)``.

    Returns
    -------
    float, or float64[...]
        Type II error.

    Raises
    ------
    ValueError
        For an invalid law, level or budget.
    """
    law, alpha, epsilon = _host_law(rho), check_alpha(alpha), check_epsilon(epsilon)
    excess = np.maximum(law - alpha, 0).sum(axis=-1)
    floor = max(0.0, 1 - alpha * law.shape[-1])
    return _plain(np.maximum(excess - epsilon, floor))


def fill_up_to(weights: Array, total: Array, cap: Array, ordered: Array | None = None) -> Array:
    """Scale weights up to a total while none passes a cap: ``min(s * weights, cap)``.

    Parameters
    ----------
    weights
        Zero or at least `NEGLIGIBLE`, float64 ``[..., N]``.
    total
        Wanted sum of every row, ``[...]``: at least what ``s = 1`` gives and at most the cap times
        the number of positive weights, where all of these end at the cap.
    cap
        Largest entry of every row, ``[...]``.
    ordered
        The weights in falling order where the caller has them, ``[..., N]``.

    Returns
    -------
    float64[..., N]
        NumPy or torch, as given; zeros stay zero.
    """
    xp = namespace(weights)
    ordered = sort_descending(weights) if ordered is None else ordered
    capped = cumsum(xp.ones_like(ordered)) - 1
    # With the k largest at the cap, the others share the rest at this scale. It rises with k until
    # the next largest fits under the cap, and falls from there: the right k has the largest.
    left = (total[..., None] - capped * cap[..., None]).clip(0)
    scale = maximum(ratio(left, tail_sums(ordered), 0.0))
    scaled = weights * scale[..., None]
    return xp.minimum(scaled, xp.zeros_like(weights) + cap[..., None])


def ump_law(
    rho: ArrayLike | Array, alpha: float, epsilon: float = 0.0, fill: Fill = "room"
) -> Array:
    """Return the law of the output under the optimal watermark of distortion at most epsilon.

    Mass ``m = min(epsilon, excess above alpha, room below alpha)`` moves from elements above alpha,
    in proportion to their excess, to elements below.

    Parameters
    ----------
    rho
        The model's law, shape ``[..., N]``; array-like or a torch tensor.
    alpha
        Type I error, in ``(0, 1)``.
    epsilon
        Distortion budget, in ``[0, 1)``.
    fill
        ``"room"``: elements below alpha receive in proportion to ``alpha - rho(x)``, elements of
        probability 0 included; the optimum. ``"proportional"``: they receive in proportion to
        rho(x), never beyond alpha, and elements of probability 0 (below 1e-250) receive nothing;
        optimal as well
        unless the elements of positive probability lack the room for the whole budget.

    Returns
    -------
    float64, shape [..., N]
        NumPy or torch, as given. ``TV(law, rho) = m``.

    Raises
    ------
    ValueError
        For an invalid law, level, budget or fill.
    """
    rho, alpha, epsilon = check_law(rho), check_alpha(alpha), check_epsilon(epsilon)
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {FILLS}, got {fill!r}")
    if epsilon == 0:
        return rho
    xp = namespace(rho)
    excess = (rho - alpha).clip(0)
    # Elements from alpha upwards keep alpha and a share of their excess.
    is_below = rho < alpha
    room = (alpha - rho).clip(0)
    if fill == "proportional":
        is_below = is_below & (rho >= NEGLIGIBLE)
        room = xp.where(is_below, room, xp.zeros_like(rho))
    below = xp.where(is_below, rho, xp.zeros_like(rho))
    total_excess, total_room = excess.sum(-1), room.sum(-1)
    move = xp.minimum(total_excess, total_room).clip(None, epsilon)
    kept = 1 - ratio(move, total_excess, 0.0)
    if fill == "room":
        filled = (below + room * ratio(move, total_room, 0.0)[..., None]).clip(None, alpha)
    else:
        filled = fill_up_to(below, below.sum(-1) + move, xp.full_like(move, alpha))
    law = xp.where(rho < alpha, filled, alpha + kept[..., None] * excess)
    # Rows that move nothing come back untouched, not rebuilt with other round-off.
    return xp.where((move > 0)[..., None], law, rho)


def region_hit_probability(
    num_fixed: ArrayLike,
    num_elements: int | None,
    alpha: float,
    region: Region = "uniform-k",
) -> Any:
    """Return f_j, the probability that a model-agnostic region meets a fixed set of j elements.

    ``1 - C(N-j, k) / C(N, k)`` for a uniformly drawn k-subset with ``k = alpha N``, and
    ``1 - (1-alpha)^j`` when each element enters independently.

    Parameters
    ----------
    num_fixed
        Set sizes j, integers of any shape, at most N.
    num_elements
        N; ``None`` (unbounded) is allowed for ``"bernoulli"``.
    alpha
        Probability of each element to be in the region, in ``(0, 1)``.
    region
        ``"uniform-k"`` or ``"bernoulli"``.

    Returns
    -------
    float, or float64 of the shape of ``num_fixed``
        Probabilities.

    Raises
    ------
    ValueError
        If a size is negative or above N, or ``alpha N`` is not whole for ``"uniform-k"``.
    """
    alpha = check_alpha(alpha)
    size = check_region(region, alpha, num_elements)
    sizes = np.asarray(num_fixed)
    if not np.issubdtype(sizes.dtype, np.integer):
        raise ValueError(f"num_fixed must be whole numbers, got {num_fixed!r}")
    if np.any(sizes < 0) or (num_elements is not None and np.any(sizes > num_elements)):
        raise ValueError(
            f"num_fixed must lie between 0 and num_elements={num_elements}, got "
            f"{sizes.min()} to {sizes.max()}"
        )
    if size is None or num_elements is None:
        return _plain(-np.expm1(sizes * math.log1p(-alpha)))
    # The probability of a miss is the product of 1 - k/(N-i) over i < j.
    left = num_elements - np.arange(int(sizes.max(initial=0)), dtype=np.float64)
    with np.errstate(divide="ignore"):
        steps = np.log1p(-np.minimum(size / left, 1.0))
    log_miss = np.concatenate([[0.0], np.cumsum(steps)])
    return _plain(-np.expm1(log_miss[sizes]))


def agnostic_type2(rho: ArrayLike, alpha: float, region: Region = "bernoulli") -> Any:
    """Return the smallest Type II error when the law of the region is fixed before rho is known.

    ``max_{0<=j<=N} (Q_j - f_j)`` with Q_j the mass of the j most likely elements and f_j from
    `region_hit_probability`: the max-flow value of the best coupling (our derivation, by Strassen's
    theorem). `AgnosticCoupling` attains it, `greedy_law` nearly.

    Parameters
    ----------
    rho
        The model's law, shape ``[..., N]``.
    alpha
        Type I error, in ``(0, 1)``.
    region
        ``"bernoulli"`` or ``"uniform-k"``.

    Returns
    -------
    float, or float64[...]
        Type II error.

    Raises
    ------
    ValueError
        For an invalid law or level, or ``alpha N`` not whole for ``"uniform-k"``.
    """
    law, alpha = _host_law(rho), check_alpha(alpha)
    hits = region_hit_probability(np.arange(1, law.shape[-1] + 1), law.shape[-1], alpha, region)
    gaps = np.cumsum(sort_descending(law), axis=-1) - hits
    return _plain(np.maximum(gaps.max(axis=-1), 0.0))


def minimax_price(
    alpha: float, num_elements: int | None = None, region: Region = "uniform-k"
) -> float:
    """Return the largest Type II error, over all laws, that model-agnosticism adds to the optimum.

    ``sup_rho (agnostic_type2 - ump_type2) = max_j min(alpha j, 1) - f_j``, reached next to
    ``j = 1/alpha`` by the law that is uniform there. For ``"uniform-k"`` and whole ``1/alpha`` this
    is ``C(N - 1/alpha, k) / C(N, k) < (1-alpha)^(1/alpha) < 1/e``, and no model-agnostic watermark
    of level alpha can guarantee less: for any region law the mean size is at most ``alpha N`` and
    ``C(N-j, r) / C(N, r)`` is convex in r. The extension to other alpha is our derivation.

    Parameters
    ----------
    alpha
        Type I error, in ``(0, 1)``.
    num_elements
        N; ``None`` gives the limit of an unbounded output space, for either region.
    region
        ``"uniform-k"`` (minimax) or ``"bernoulli"``.

    Returns
    -------
    float
        The price, below ``1/e``.

    Raises
    ------
    ValueError
        For an invalid level, or ``alpha N`` not whole for ``"uniform-k"``.
    """
    alpha = check_alpha(alpha)
    if num_elements is None:
        region = "bernoulli"
    check_region(region, alpha, num_elements)
    if num_elements is None:
        # Below, the price is its limit 1/e to all digits, and sizes would overflow.
        alpha = max(alpha, SMALLEST_PRICED)
    whole = 1 / alpha if num_elements is None else min(1 / alpha, num_elements)
    sizes = np.array([math.floor(whole), math.ceil(whole)])
    hits = region_hit_probability(sizes, num_elements, alpha, region)
    return float((np.minimum(alpha * sizes, 1.0) - hits).max())


def seq_gumbel_type2(rho: ArrayLike, alpha: float) -> Any:
    """Return the Type II error of Gumbel-max over whole outputs, region ``{y: U_y > 1-alpha}``.

    ``sum_x rho(x) (1-alpha)^(1/rho(x))``: a model-agnostic watermark that pays at most
    ``(1-alpha)^(1/alpha)`` over `ump_type2` (our derivation).

    Parameters
    ----------
    rho
        The model's law, shape ``[..., N]``.
    alpha
        Type I error, in ``(0, 1)``.

    Returns
    -------
    float, or float64[...]
        Type II error.
    """
    law, alpha = _host_law(rho), check_alpha(alpha)
    # Below 1e-300 the exponent overflows, and the term is 0 long before.
    exponents = math.log1p(-alpha) / np.maximum(law, 1e-300)
    return _plain(np.sum(law * np.exp(exponents), axis=-1))


def _surprisal_law(
    surprisals: ArrayLike, probabilities: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = np.asarray(surprisals, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"surprisals need shape [S] with S >= 1, got {values.shape}")
    if not np.all(values >= 0):
        raise ValueError(f"surprisals are -ln rho(x) and not negative, got {values.min()}")
    if probabilities is None:
        return values, np.full(values.shape, 1 / len(values))
    weights = check_law(probabilities, "probabilities")
    if weights.shape != values.shape:
        raise ValueError(f"{len(values)} surprisals but probabilities of shape {weights.shape}")
    return values, weights


def surprisal_type2(
    surprisals: ArrayLike, alpha: float, probabilities: ArrayLike | None = None
) -> float:
    """Return the optimal Type II error from the law of the surprisal alone: ``E(1 - alpha e^S)+``.

    The distortion-free optimum of `ump_type2` on an output space too large to list, given the law
    of ``S = -ln rho(X)``. Arguments and errors as in `type2_lower_bound`.
    """
    values, weights = _surprisal_law(surprisals, probabilities)
    # Capped where the term is 0 anyway, against overflow.
    exponents = np.minimum(values + math.log(check_alpha(alpha)), 0.0)
    return float(np.dot(weights, -np.expm1(exponents)))


def type2_lower_bound(
    surprisals: ArrayLike, alpha: float, probabilities: ArrayLike | None = None
) -> float:
    """Bound the Type II error of any distortion-free watermark from below by surprisal tails.

    ``beta >= (1 - 1/c) P(S <= ln(1/alpha) - ln c)`` for every ``c > 1``, with ``S = -ln rho(X)``;
    the best c is taken. Hence at fixed ``beta < 1/2`` the number of tokens times the entropy is at
    least about ``ln(1/alpha)`` (our derivation).

    Parameters
    ----------
    surprisals
        Values of S in nats, shape ``[S]``; infinite values are allowed.
    alpha
        Type I error, in ``(0, 1)``.
    probabilities
        Their probabilities, shape ``[S]``; equal by default, as for a sample of outputs.

    Returns
    -------
    float
        Lower bound, at most `surprisal_type2`.

    Raises
    ------
    ValueError
        For negative surprisals, shapes that differ or an invalid law or level.
    """
    values, weights = _surprisal_law(surprisals, probabilities)
    order = np.argsort(values, kind="stable")
    # 1/c = alpha e^s at an atom s is the best choice for the tail up to s.
    exponents = np.minimum(values[order] + math.log(check_alpha(alpha)), 0.0)
    return float(np.max(-np.expm1(exponents) * np.cumsum(weights[order])))


def rate_reference(entropy: float, alpha: float, beta: float) -> float:
    """Return ``max{ln(1/h) (ln 1/alpha ∧ ln 1/beta), ln 1/alpha} / h``, the order of tokens needed.

    The order, up to a factor, of the smallest n with which the optimal watermark reaches errors
    alpha and beta on two-point token laws of entropy h, as inferred from exact computation on that
    family: no theorem, and no statement that the family is the least favourable one.

    Parameters
    ----------
    entropy
        h in nats per token, positive.
    alpha, beta
        Type I and Type II error, in ``(0, 1)``.

    Returns
    -------
    float
        Tokens. For ``h >= 1`` the first term vanishes.

    Raises
    ------
    ValueError
        If the entropy is not positive or an error leaves ``(0, 1)``.
    """
    if not (entropy > 0 and math.isfinite(entropy)):
        raise ValueError(f"entropy must be positive and finite (nats per token), got {entropy!r}")
    evidence, power = -math.log(check_alpha(alpha)), -math.log(check_alpha(beta, "beta"))
    return max(max(-math.log(entropy), 0.0) * min(evidence, power), evidence) / entropy


def normal_tokens_needed(entropy: float, variance: float, alpha: float, beta: float) -> float:
    """Return n with ``n h - z_beta sigma sqrt(n) = ln(1/alpha)``: the normal approximation.

    Long texts of independent tokens have a nearly normal surprisal, and the optimal test misses
    about where it stays below ``ln(1/alpha)``. Rough for rare surprising tokens (small h).

    Parameters
    ----------
    entropy
        Mean surprisal per token in nats, positive.
    variance
        Variance of the surprisal per token in nats², not negative.
    alpha, beta
        Type I and Type II error, in ``(0, 1)``.

    Returns
    -------
    float
        Tokens, not rounded.

    Raises
    ------
    ValueError
        For an entropy that is not positive, a negative variance or errors outside ``(0, 1)``.
    """
    if not (entropy > 0 and math.isfinite(entropy)):
        raise ValueError(f"entropy must be positive and finite (nats per token), got {entropy!r}")
    if not (variance >= 0 and math.isfinite(variance)):
        raise ValueError(f"variance must be finite and not negative, got {variance!r}")
    from statistics import NormalDist

    evidence = -math.log(check_alpha(alpha))
    spread = -NormalDist().inv_cdf(check_alpha(beta, "beta")) * math.sqrt(variance)
    return ((spread + math.sqrt(spread**2 + 4 * entropy * evidence)) / (2 * entropy)) ** 2


def tradeoff_curve(
    rho: ArrayLike,
    alphas: ArrayLike,
    epsilon: float = 0.0,
    scheme: CurveScheme = "ump",
    region: Region = "bernoulli",
) -> NDArray[np.float64]:
    """Return the Type II error at each level: the trade-off curve of a scheme.

    Parameters
    ----------
    rho
        The model's law, shape ``[..., N]``.
    alphas
        Levels in ``(0, 1)``, shape ``[A]``.
    epsilon
        Distortion budget; only ``"ump"`` has one.
    scheme
        ``"ump"`` (`ump_type2`), ``"agnostic"`` (`agnostic_type2`) or ``"sequence-gumbel"``
        (`seq_gumbel_type2`).
    region
        Region law of ``"agnostic"``.

    Returns
    -------
    float64[..., A]
        Type II errors.

    Raises
    ------
    ValueError
        For an unknown scheme, a distortion budget where there is none, or what the functions above
        refuse.
    """
    if scheme not in CURVE_SCHEMES:
        raise ValueError(f"scheme must be one of {CURVE_SCHEMES}, got {scheme!r}")
    if check_epsilon(epsilon) and scheme != "ump":
        raise ValueError(
            f"scheme={scheme!r} is distortion-free: epsilon must be 0, got {epsilon!r}"
        )
    levels = np.asarray(alphas, dtype=np.float64)
    if levels.ndim != 1:
        raise ValueError(f"alphas need shape [A], got {levels.shape}")
    law = _host_law(rho)
    curves = {
        "ump": lambda level: ump_type2(law, level, epsilon),
        "agnostic": lambda level: agnostic_type2(law, level, region),
        "sequence-gumbel": lambda level: seq_gumbel_type2(law, level),
    }
    points = [np.asarray(curves[scheme](float(level))) for level in levels]
    return np.stack(points, axis=-1) if points else np.zeros((*law.shape[:-1], 0))
