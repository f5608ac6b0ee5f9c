"""Null laws of a sum of scores given the text, and its upper tail: exact, bounded or approximate.

Takes surrogate probabilities of the observed tokens (or finite laws) and an observed total; knows
no key and no text. A text that does not depend on the key makes its tokens' scores independent with
known laws, so that

- `monte_carlo` draws the total anew and is exactly valid at any number of draws;
- `fft_upper_bound` rounds every score up to a lattice, by the exact distribution function, and
  convolves: a deterministic upper bound at any depth, close to the tail for up to about a thousand
  tokens;
- `chernoff_bound` and, for scores that are logs of e-values, ``exp(-total)`` cost less and give
  away more;
- `saddlepoint` (Lugannani and Rice) is an approximation, not a bound: for ranking.

Legend: ``S`` tokens, ``K`` draws, ``J`` components or points of a law, ``R`` texts, ``L`` lattice
points.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.umpwatermark.evidence import PROB_FLOOR

Method = Literal["auto", "mc", "bound", "fft", "saddlepoint"]
"""How a tail is computed; see `tail`."""

COARSEST_STEP = 1 / 64
MAX_LATTICE = 1 << 21
"""Lattice points of the whole total; longer texts get a coarser lattice."""

MOST_CONVOLVED = 4000
"""Tokens up to which `upper_bound` convolves."""

CHERNOFF_POINTS = 40_000_000
"""Values, over all tokens, at which `chernoff_bound` evaluates."""

MAX_EVALUATIONS = 400_000_000
"""Scores drawn for one text; longer texts get fewer draws, but never below ``LEAST_DRAWS``."""

LEAST_DRAWS = 999
BLOCK_TOKENS = 16
"""Tokens drawn at once. Their e-values are multiplied before the logarithm, within float64."""

# Far above the rounding of a sum of scores, far below what a p-value can show: null totals this
# close to the observed one count as reaching it.
TIE = 1e-9
SMALLEST_P = float(np.finfo(np.float64).tiny)
"""Reported in place of tails that float64 cannot hold; an upper bound of them."""

# Products of a block's e-values stay within float64.
LEAST_WEIGHT = 1e-9
MAX_TILT = 64.0
TILT_TOKENS = 256
"""Tokens from which a tilt is found."""


class Tail(NamedTuple):
    """A p-value and how it was obtained.

    Attributes
    ----------
    p_value
        In (0, 1].
    method
        ``"exact"`` (closed form or enumeration), ``"mc"`` (Monte Carlo, exactly valid),
        ``"bound"`` (deterministic upper bound) or ``"saddlepoint"`` (approximation).
    """

    p_value: float
    method: str


class LatticeLaw(NamedTuple):
    """Law of one score on multiples of a step; ``copies`` independent tokens have it.

    Attributes
    ----------
    first
        Index of the first lattice point.
    mass_L
        float64; probabilities.
    copies
        Number of tokens.
    """

    first: int
    mass_L: NDArray[np.float64]
    copies: int = 1


class NullLaw(Protocol):
    """Null law of the total score of S independent tokens."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens S."""
        ...

    @property
    def is_log_e(self) -> bool:
        """Whether ``E0[exp(total)] <= 1``, so that ``exp(-total)`` bounds the tail."""
        ...

    def draw_totals(self, num_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw independent totals, float64 ``[K]``."""
        ...

    @property
    def num_rows(self) -> int:
        """Number of laws held; several tokens may share one."""
        ...

    def spread(self) -> NDArray[np.float64]:
        """Largest minus smallest score of each row, nats."""
        ...

    def lattice(self, step: float) -> list[LatticeLaw]:
        """Return the laws of the scores rounded up to multiples of ``step``."""
        ...

    def take(self, which: Any) -> "NullLaw":
        """Return the law of some of the tokens."""
        ...

    def cells(self, points: int, *, middle: bool = False) -> "FiniteLaw":
        """Return finite laws: scores rounded up to one of ``points`` values of their own."""
        ...


def clamp_p(p: float) -> float:
    """Return ``p`` within ``[SMALLEST_P, 1]``."""
    return min(1.0, max(float(p), SMALLEST_P))


def check_weights(weights: Sequence[float]) -> tuple[float, float]:
    """Check the weights ``(a, b)`` of the pivot and the match.

    Returns
    -------
    (float, float)

    Raises
    ------
    ValueError
        Unless ``a, b >= 0`` and ``0 < a + b < 1``, all of them 0 or at least 1e-9.
    """
    values = tuple(float(w) for w in weights)
    if len(values) != 2:
        raise ValueError(f"weights must be (a, b), got {weights!r}")
    a, b = values
    if not (a >= 0 and b >= 0 and 0 < a + b < 1):
        raise ValueError(
            f"weights (a, b) must be non-negative with 0 < a + b < 1, got {(a, b)}; the remainder "
            "1 - a - b is what bounds the loss at a token that speaks against the watermark"
        )
    for share in (a, b, 1 - a - b):
        if 0 < share < LEAST_WEIGHT:
            raise ValueError(
                f"weights {(a, b)} leave a share of {share}; shares must be 0 or at least "
                f"{LEAST_WEIGHT}"
            )
    return a, b


@dataclass(frozen=True, eq=False)
class PivotMatchLaw:
    """Null law of ``sum_t ln(1 - a - b + (a/h) G + (b/h) M)``, exact given the text.

    ``Y`` is uniform, ``M | Y`` is Bernoulli(G), and G is a function of Y with mean h, so that
    ``P(M = 1) = h`` and each e-value has mean one:

    - Gumbel-max: ``G = Y^(1/h - 1)``. The observed token wins the race under a law q that gives it
      probability h exactly if every other token's ``U^(1/q)`` stays below ``Y^(1/h)``, which has
      probability ``Y^((1 - h)/h)``.
    - hazard: ``G = r 1[Y > 1 - h/r]``. The sampler asks tokens from the likeliest down and takes
      token i if ``U_i > 1 - z_i``, ``z_i = q_i/(1 - Q_{i-1})``. It gets to the observed token with
      probability ``prod_{i before}(1 - z_i) = 1 - Q_before = r`` whatever Y is, and takes it if
      ``Y > 1 - h/r``.

    If the text was generated from q, the density of Y given the token is ``G/h`` in both cases, and
    M is 1: the score is a likelihood ratio that puts weight a on the pivot and b on the match.
    Derived here; "Towards Optimal Statistical Watermarking" (arXiv 2312.07930) has the test that
    ``a = 0, b -> 1`` becomes when the surrogate is the generator.

    Parameters
    ----------
    prob_S
        h, in ``[PROB_FLOOR, 1]``.
    weights_J2
        One pair (a, b), or several: the total is then the log of the mean over pairs of the whole
        text's product.
    clip
        ``(low, high)`` bounds of a score in nats, or ``None``.
    reach_S
        r of the hazard sampler, in ``[h, 1]``; ``None`` for Gumbel-max.
    """

    prob_S: NDArray[np.float64]
    weights_J2: tuple[tuple[float, float], ...]
    clip: tuple[float, float] | None = None
    reach_S: NDArray[np.float64] | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens S."""
        return len(self.prob_S)

    @property
    def num_rows(self) -> int:
        """Number of laws, one per token."""
        return len(self.prob_S)

    @property
    def is_log_e(self) -> bool:
        """False if winsorising can raise a score above the log of its e-value."""
        if self.clip is None:
            return True
        return all(math.log1p(-a - b) >= self.clip[0] - TIE for a, b in self.weights_J2)

    def e_values(
        self, chance_S: NDArray[np.float64], match_S: NDArray[np.bool_] | None, pair: int = 0
    ) -> NDArray[np.float64]:
        """Return e-values of observed or drawn tokens.

        Parameters
        ----------
        chance_S
            G, the probability of a match given the pivot; shape ``[S]`` or ``[S, K]``.
        match_S
            M of the same shape; not read where b is zero.
        pair
            Which of the weights.
        """
        a, b = self.weights_J2[pair]
        h_S = self.prob_S if chance_S.ndim == 1 else self.prob_S[:, None]
        e = (1 - a - b) + (a / h_S) * chance_S
        if b:
            assert match_S is not None
            e = e + (b / h_S) * match_S
        if self.clip is not None:
            np.clip(e, math.exp(self.clip[0]), math.exp(self.clip[1]), out=e)
        return e

    def draw_totals(self, num_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw independent totals, float64 ``[K]``; memory is ``BLOCK_TOKENS`` times K."""
        pairs = len(self.weights_J2)
        use_match = any(b for _, b in self.weights_J2)
        use_pivot = any(a for a, _ in self.weights_J2)
        total_JK = np.zeros((pairs, num_draws))
        for at in range(0, self.num_tokens, BLOCK_TOKENS):
            block = self.take(slice(at, at + BLOCK_TOKENS))
            shape = (block.num_tokens, num_draws)
            match_BK = None
            if use_pivot:
                chance_BK = block._draw_chances(shape, rng)
                if use_match:
                    match_BK = rng.random(shape) < chance_BK
            else:
                match_BK = rng.random(shape) < block.prob_S[:, None]
                chance_BK = np.zeros((block.num_tokens, 1))
            for j in range(pairs):
                e_BK = block.e_values(chance_BK, match_BK, j)
                total_JK[j] += np.log(np.multiply.reduce(e_BK, axis=0))
        return log_mean_exp(total_JK)

    def _draw_chances(
        self, shape: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        h_B1 = self.prob_S[:, None]
        if self.reach_S is not None:
            reach_B1 = self.reach_S[:, None]
            return reach_B1 * (rng.random(shape) < h_B1 / reach_B1)
        # -ln Y is standard exponential.
        chance_BK = rng.standard_exponential(shape)
        chance_BK *= 1 - 1 / h_B1
        return np.exp(chance_BK, out=chance_BK)

    def _ends(self, pair: int = 0) -> tuple[float, NDArray[np.float64]]:
        a, b = self.weights_J2[pair]
        low = math.log1p(-a - b)
        reach_S = 1.0 if self.reach_S is None else self.reach_S
        high_S = np.log((1 - a - b) + (a * reach_S + b) / self.prob_S)
        if self.clip is not None:
            low, high_S = max(low, self.clip[0]), np.clip(high_S, *self.clip)
        return low, high_S

    def spread(self) -> NDArray[np.float64]:
        """Largest minus smallest score of each token, nats."""
        low, high_S = self._ends()
        return high_S - low

    def cdf(self, score_SL: NDArray[np.float64]) -> NDArray[np.float64]:
        """``P(s <= score)`` of each token under the null, by inverting the score in Y.

        Parameters
        ----------
        score_SL
            Scores in nats, L for each token; or ``[L]``, the same for all.
        """
        a, b = self.weights_J2[0]
        h_S1 = self.prob_S[:, None]
        x_SL = np.exp(score_SL) - (1 - a - b)
        if a == 0:
            cdf_SL = (1 - h_S1) * (x_SL >= 0) + h_S1 * (x_SL >= b / h_S1)
        elif self.reach_S is not None:
            hazard_S1 = h_S1 / self.reach_S[:, None]
            jump_S1 = a / hazard_S1
            cdf_SL = (1 - hazard_S1) * (x_SL >= 0) + (hazard_S1 - h_S1) * (x_SL >= jump_S1)
            cdf_SL += h_S1 * (x_SL >= jump_S1 + b / h_S1)
        else:
            power_S1 = h_S1 / np.maximum(1 - h_S1, 1e-300)

            def below(x_SL: NDArray[np.float64]) -> tuple[Any, Any]:
                chance_SL = np.clip(x_SL * (h_S1 / a), 0.0, 1.0)
                with np.errstate(under="ignore"):
                    y_SL = chance_SL**power_S1
                # P(Y <= y) and P(Y <= y, M = 1) = h y^(1/h).
                return y_SL, h_S1 * y_SL * chance_SL

            cdf_SL, with_match_SL = below(x_SL)
            if b:
                cdf_SL = (cdf_SL - with_match_SL) + below(x_SL - b / h_S1)[1]
        if self.clip is not None:
            low, high = self.clip
            cdf_SL = np.where(score_SL < low, 0.0, np.where(score_SL >= high, 1.0, cdf_SL))
        return np.clip(cdf_SL, 0.0, 1.0)

    def take(self, which: Any) -> "PivotMatchLaw":
        """Return the law of some of the tokens."""
        reach_S = None if self.reach_S is None else self.reach_S[which]
        return PivotMatchLaw(self.prob_S[which], self.weights_J2, self.clip, reach_S)

    def component(self, pair: int) -> "PivotMatchLaw":
        """Return the law under one pair of the weights."""
        return replace(self, weights_J2=(self.weights_J2[pair],))

    def lattice(self, step: float) -> list[LatticeLaw]:
        """Return the laws of the scores rounded up to multiples of ``step``."""
        low, high_S = self._ends()
        first = math.ceil((low - TIE) / step)
        last_S = np.maximum(first, np.ceil((high_S + TIE) / step)).astype(np.int64)
        laws: list[LatticeLaw] = []
        # Neighbours in this order have about as many lattice points.
        order_S = np.argsort(last_S)
        for at in range(0, self.num_tokens, BLOCK_TOKENS):
            block = order_S[at : at + BLOCK_TOKENS]
            # A hair below the lattice point: rounding may push mass up, never down.
            grid_L = np.arange(first, last_S[block[-1]] + 1) * step - TIE
            cdf_BL = np.maximum.accumulate(self.take(block).cdf(grid_L), axis=1)
            for cdf_L, last in zip(cdf_BL, last_S[block].tolist(), strict=True):
                cdf_L = cdf_L[: last - first + 1]
                cdf_L[-1] = 1.0
                laws.append(LatticeLaw(first, np.diff(cdf_L, prepend=0.0)))
        return laws

    def cells(self, points: int, *, middle: bool = False) -> "FiniteLaw":
        """Return finite laws: each score rounded up to one of ``points`` values of its own.

        ``middle`` puts the mass of each cell at its middle instead, for approximations.
        """
        low, high_S = self._ends()
        share_L = np.arange(points + 1) / points
        edge_SL = low + (high_S[:, None] - low) * share_L
        cdf_SL = np.maximum.accumulate(self.cdf(edge_SL - TIE), axis=1)
        cdf_SL[:, -1] = 1.0
        value_SL = edge_SL
        if middle:
            value_SL = edge_SL.copy()
            value_SL[:, 1:] -= np.diff(edge_SL) / 2
        return FiniteLaw(value_SL, np.diff(cdf_SL, prepend=0.0), is_log_e=False)


@dataclass(frozen=True, eq=False)
class FiniteLaw:
    """Null law of a sum of scores that take finitely many values each.

    Parameters
    ----------
    values_SJ
        Scores, nats; shape ``[S, J]``.
    probs_SJ
        Their probabilities; rows sum to one.
    is_log_e
        Whether each token has ``E0[exp(score)] <= 1``.
    copies
        Each row stands for this many independent tokens.
    clip
        ``(low, high)`` bounds of a score, or ``None``.
    """

    values_SJ: NDArray[np.float64]
    probs_SJ: NDArray[np.float64]
    is_log_e: bool = True
    copies: int = 1
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.clip is not None:
            clipped_SJ = np.clip(self.values_SJ, *self.clip)
            raised = (clipped_SJ > self.values_SJ + TIE).any()
            object.__setattr__(self, "is_log_e", self.is_log_e and not raised)
            object.__setattr__(self, "values_SJ", clipped_SJ)

    @property
    def num_tokens(self) -> int:
        """Number of tokens S, copies counted."""
        return len(self.values_SJ) * self.copies

    @property
    def num_rows(self) -> int:
        """Number of laws; each stands for ``copies`` tokens."""
        return len(self.values_SJ)

    def draw_totals(self, num_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw independent totals, float64 ``[K]``."""
        total_K = np.zeros(num_draws)
        if self.copies > 1:
            for values_J, probs_J in zip(self.values_SJ, self.probs_SJ, strict=True):
                counts_KJ = rng.multinomial(self.copies, probs_J / probs_J.sum(), size=num_draws)
                total_K += counts_KJ @ values_J
            return total_K
        cdf_SJ = np.cumsum(self.probs_SJ, axis=1)[:, :-1]
        for at in range(0, len(self.values_SJ), BLOCK_TOKENS):
            cdf_BJ = cdf_SJ[at : at + BLOCK_TOKENS]
            values_BJ = self.values_SJ[at : at + BLOCK_TOKENS]
            uniform_BK = rng.random((len(cdf_BJ), num_draws))
            # Jumps between neighbouring values, added where the uniform lies above.
            total_K += values_BJ[:, 0].sum()
            for j in range(cdf_BJ.shape[1]):
                jump_B = values_BJ[:, j + 1] - values_BJ[:, j]
                total_K += jump_B @ (uniform_BK >= cdf_BJ[:, j, None])
        return total_K

    def spread(self) -> NDArray[np.float64]:
        """Largest minus smallest score of each row, nats."""
        return np.ptp(self.values_SJ, axis=1)

    def lattice(self, step: float) -> list[LatticeLaw]:
        """Return the laws of the scores rounded up to multiples of ``step``."""
        index_SJ = np.ceil(self.values_SJ / step - TIE).astype(np.int64)
        laws = []
        for index_J, probs_J in zip(index_SJ, self.probs_SJ, strict=True):
            first = int(index_J.min())
            mass_L = np.bincount(index_J - first, weights=probs_J).astype(np.float64)
            laws.append(LatticeLaw(first, mass_L, self.copies))
        return laws

    def take(self, which: Any) -> "FiniteLaw":
        """Return the law of some of the tokens."""
        return FiniteLaw(self.values_SJ[which], self.probs_SJ[which], self.is_log_e, self.copies)

    def cells(self, points: int, *, middle: bool = False) -> "FiniteLaw":
        """Return the law itself, which is finite already."""
        return self

    def cumulants(self, tilt: float) -> tuple[float, float, float]:
        """``ln E0[exp(tilt * total)]`` and its first two derivatives."""
        with np.errstate(divide="ignore"):
            log_SJ = np.log(self.probs_SJ) + tilt * self.values_SJ
        peak_S1 = log_SJ.max(axis=1, keepdims=True)
        weight_SJ = np.exp(log_SJ - peak_S1)
        total_S1 = weight_SJ.sum(axis=1, keepdims=True)
        mean_S1 = (weight_SJ * self.values_SJ).sum(axis=1, keepdims=True) / total_S1
        spread_S = (weight_SJ * (self.values_SJ - mean_S1) ** 2).sum(axis=1) / total_S1[:, 0]
        value = float((peak_S1 + np.log(total_S1)).sum())
        return (
            value * self.copies,
            float(mean_S1.sum()) * self.copies,
            float(spread_S.sum()) * self.copies,
        )


def log_mean_exp(total_JK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the mean of ``exp`` over the first axis."""
    if len(total_JK) == 1:
        return total_JK[0]
    peak_K = total_JK.max(axis=0)
    return np.log(np.exp(total_JK - peak_K).mean(axis=0)) + peak_K


def draws_for(num_tokens: int, num_draws: int) -> int:
    """Return how many draws a text of this length gets; nothing else may decide it."""
    affordable = MAX_EVALUATIONS // max(num_tokens, 1)
    return min(num_draws, max(affordable, min(num_draws, LEAST_DRAWS)))


def monte_carlo(
    law: NullLaw, observed: float, num_draws: int, rng: np.random.Generator
) -> tuple[float, int]:
    """P-value ``(1 + #{null total >= observed}) / (K + 1)``: exactly valid at every K.

    Parameters
    ----------
    law
        Null law.
    observed
        Observed total, nats.
    num_draws
        K.
    rng
        Source of randomness; must not depend on the key or the pivots.

    Returns
    -------
    p_value : float
    exceedances : int
        How many draws reached the observed total.
    """
    totals_K = law.draw_totals(num_draws, rng)
    reached = int((totals_K >= observed - TIE * (1 + abs(observed))).sum())
    return (1 + reached) / (num_draws + 1), reached


def solve_tilt(law: FiniteLaw, observed: float) -> float:
    """Tilt at which the mean of the total is the observed one, within ``[0, MAX_TILT]``."""
    low, high = 0.0, 1.0
    if law.cumulants(low)[1] >= observed:
        return 0.0
    while high < MAX_TILT and law.cumulants(high)[1] < observed:
        low, high = high, 2 * high
    for _ in range(24):
        middle = (low + high) / 2
        if law.cumulants(middle)[1] < observed:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _near_tilt(law: NullLaw, observed: float, points: int) -> float:
    # From some tokens that stand for all; every tilt gives a bound, a near one a good bound.
    every = max(1, law.num_rows // TILT_TOKENS)
    if every > 1:
        some = law.take(np.argsort(law.spread())[every // 2 :: every])
        observed *= some.num_tokens / law.num_tokens
    else:
        some = law
    return solve_tilt(some.cells(points), observed)


def _convolve(left_L: NDArray[np.float64], right_L: NDArray[np.float64]) -> NDArray[np.float64]:
    if min(len(left_L), len(right_L)) <= 32:
        return np.convolve(left_L, right_L).astype(np.float64)
    from scipy.fft import irfft, next_fast_len, rfft

    size = len(left_L) + len(right_L) - 1
    fast = next_fast_len(size, real=True)
    product_L: NDArray[np.float64] = irfft(rfft(left_L, fast) * rfft(right_L, fast), fast)[:size]
    return np.maximum(product_L, 0.0)


def _power(mass_L: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    result_L, square_L = np.ones(1), mass_L
    while count:
        if count & 1:
            result_L = _convolve(result_L, square_L)
        count >>= 1
        if count:
            square_L = _convolve(square_L, square_L)
    return result_L


def lattice_tail(laws: Sequence[LatticeLaw], threshold: int, tilt: float, step: float) -> float:
    """``P(sum of lattice indices >= threshold)``, with small relative error at any depth.

    Each law is tilted by ``exp(tilt * score)`` and normalised, the laws are convolved pairwise from
    the narrowest up, and the tail is tilted back. What the FFT loses to rounding is then relative
    to the tail; its bound is added.

    Parameters
    ----------
    laws
        One law per token (or group of tokens).
    threshold
        Lattice index that the total must reach.
    tilt
        Non-negative; best where the tilted mean is near the threshold.
    step
        Nats per lattice index.

    Returns
    -------
    float
        In ``[SMALLEST_P, 1]``.
    """
    heap: list[tuple[int, int, NDArray[np.float64]]] = []
    log_scale, first_total = 0.0, 0
    for number, (first, mass_L, copies) in enumerate(laws):
        first_total += copies * first
        # Tilt by index within the law: the offset returns in log_scale.
        log_L = np.log(np.maximum(mass_L, 1e-300)) + tilt * step * np.arange(len(mass_L))
        peak = log_L.max()
        tilted_L = np.where(mass_L > 0, np.exp(log_L - peak), 0.0)
        total = tilted_L.sum()
        log_scale += copies * (peak + math.log(total))
        power_L = _power(tilted_L / total, copies) if copies > 1 else tilted_L / total
        heapq.heappush(heap, (len(power_L), number, power_L))
    while len(heap) > 1:
        _, number, left_L = heapq.heappop(heap)
        joined_L = _convolve(left_L, heapq.heappop(heap)[2])
        heapq.heappush(heap, (len(joined_L), number, joined_L))
    mass_L = heap[0][2]
    at = threshold - first_total
    if at >= len(mass_L):
        # Above every possible total: only rounding could have brought the observed one here.
        at = len(mass_L) - 1
    if at <= 0:
        return 1.0
    tail_L = mass_L[at:] * np.exp(-tilt * step * np.arange(len(mass_L) - at))
    slack = len(mass_L) * 1e-16
    log_p = log_scale - tilt * step * at + math.log(float(tail_L.sum()) + slack)
    return clamp_p(math.exp(min(0.0, log_p)))


def lattice_step(law: NullLaw) -> float:
    """Step of `fft_upper_bound`: fine enough for the text's length, coarse enough for memory."""
    wanted = min(COARSEST_STEP, 1 / (2 * max(law.num_tokens, 1)))
    total_range = float(law.spread().sum()) * law.num_tokens / law.num_rows
    return max(wanted, total_range / MAX_LATTICE)


def fft_upper_bound(law: NullLaw, observed: float, step: float | None = None) -> float:
    """Deterministic upper bound on ``P0(total >= observed)``.

    Scores are rounded up to a lattice by their exact distribution function, so the lattice total is
    never below the true one; its law is computed by convolution. On average a score moves by
    half a step, which makes the bound larger than the tail by a factor of about
    ``exp(tilt * S * step / 2)``, tilt being of order one.

    Parameters
    ----------
    law
        Null law.
    observed
        Observed total, nats.
    step
        Lattice step in nats; by default ``min(1/64, 1/(2 S))``, coarser beyond 2**21 points.

    Returns
    -------
    float
        In ``[SMALLEST_P, 1]``.
    """
    if law.num_tokens == 0:
        return 1.0
    step = lattice_step(law) if step is None else step
    tilt = _near_tilt(law, observed, 256)
    threshold = math.ceil(observed / step - TIE * (1 + abs(observed)))
    return lattice_tail(law.lattice(step), threshold, tilt, step)


def chernoff_bound(law: NullLaw, observed: float) -> float:
    """Upper bound ``E0[exp(tilt * total)] exp(-tilt * observed)`` at a good tilt.

    Every score is rounded up to one of up to 2000 values of its own. Larger than the tail by a
    factor of about ``tilt`` times the standard deviation of the total under the tilted law.

    Parameters
    ----------
    law
        Null law.
    observed
        Observed total, nats.

    Returns
    -------
    float
        In ``[SMALLEST_P, 1]``.
    """
    if law.num_tokens == 0:
        return 1.0
    rows = law.num_rows
    points = int(np.clip(CHERNOFF_POINTS // rows, 64, 2000))
    tilt = _near_tilt(law, observed, points)
    size = max(1, (1 << 20) // points)
    value = sum(
        law.take(slice(at, at + size)).cells(points).cumulants(tilt)[0]
        for at in range(0, rows, size)
    )
    return clamp_p(math.exp(min(0.0, value - tilt * observed)))


def upper_bound(law: NullLaw, observed: float) -> float:
    """Smallest of the deterministic upper bounds that apply.

    The convolution for up to ``MOST_CONVOLVED`` tokens, Chernoff's bound beyond, and
    ``exp(-observed)`` for logs of e-values. A mean over pairs of weights reaches the observed total
    only if one of the pairs does: their bounds are added.

    Parameters
    ----------
    law
        Null law.
    observed
        Observed total, nats.

    Returns
    -------
    float
        In ``[SMALLEST_P, 1]``.
    """
    if law.num_tokens == 0:
        return 1.0
    markov = math.exp(min(0.0, -observed)) if law.is_log_e else 1.0
    bound = fft_upper_bound if law.num_tokens <= MOST_CONVOLVED else chernoff_bound
    pairs: list[NullLaw] = [law]
    if isinstance(law, PivotMatchLaw):
        pairs = [law.component(j) for j in range(len(law.weights_J2))]
    return clamp_p(min(markov, sum(bound(one, observed) for one in pairs)))


def saddlepoint(law: NullLaw, observed: float) -> float:
    """Approximate tail by Lugannani and Rice (1980); neither exact nor a bound.

    Good to a few per cent for totals of many continuous scores; do not use it to decide.

    Parameters
    ----------
    law
        Null law.
    observed
        Observed total, nats.

    Returns
    -------
    float
        In ``[SMALLEST_P, 1]``.
    """
    if law.num_tokens == 0:
        return 1.0
    cells = law.cells(int(np.clip((1 << 20) // law.num_tokens, 64, 1024)), middle=True)
    if observed < cells.cumulants(0.0)[1]:
        mirrored = FiniteLaw(-cells.values_SJ, cells.probs_SJ, False, cells.copies)
        return clamp_p(1.0 - _lugannani_rice(mirrored, -observed))
    return clamp_p(_lugannani_rice(cells, observed))


def _lugannani_rice(law: FiniteLaw, x: float) -> float:
    from scipy.special import ndtr

    tilt = solve_tilt(law, x)
    value, _, curvature = law.cumulants(tilt)
    _, mean, variance = law.cumulants(0.0)
    root = math.sqrt(max(0.0, 2 * (tilt * x - value)))
    speed = tilt * math.sqrt(curvature)
    if variance <= 0 or root < 1e-3 or speed < 1e-3:
        # At the mean both terms of the correction diverge and cancel.
        return float(ndtr((mean - x) / math.sqrt(variance))) if variance > 0 else float(x <= mean)
    density = math.exp(-root * root / 2) / math.sqrt(2 * math.pi)
    return float(ndtr(-root)) + density * (1 / speed - 1 / root)


def check_method(method: str) -> Method:
    """Return the method, or raise a ValueError that lists the known ones."""
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {list(get_args(Method))}, got {method!r}")
    return cast(Method, method)


def tail(
    law: NullLaw,
    observed: float,
    *,
    method: str = "auto",
    num_draws: int = 9999,
    rng: np.random.Generator | None = None,
) -> Tail:
    """P-value of an observed total.

    Parameters
    ----------
    law
        Null law.
    observed
        Observed total, nats.
    method
        ``"mc"``: Monte Carlo. ``"bound"``: `upper_bound`. ``"fft"``: `fft_upper_bound` alone.
        ``"saddlepoint"``: an approximation. ``"auto"``: Monte Carlo; if no draw reaches the
        observed total, the smaller of ``1/(K+1)`` and the bound. That is valid at every level: at
        or above ``1/(K+1)`` it rejects where Monte Carlo does, below only where the bound does.
    num_draws
        K of Monte Carlo; fewer where S times K would exceed ``MAX_EVALUATIONS``.
    rng
        Randomness of Monte Carlo; needed by ``"auto"`` and ``"mc"``.

    Returns
    -------
    Tail
    """
    check_method(method)
    if law.num_tokens == 0:
        return Tail(1.0, "exact")
    if method == "bound":
        return Tail(upper_bound(law, observed), "bound")
    if method == "fft":
        return Tail(fft_upper_bound(law, observed), "bound")
    if method == "saddlepoint":
        return Tail(saddlepoint(law, observed), "saddlepoint")
    if rng is None:
        raise ValueError(f"method={method!r} draws the null law and needs an rng")
    p, reached = monte_carlo(law, observed, draws_for(law.num_tokens, num_draws), rng)
    if method == "auto" and not reached:
        return deeper(p, upper_bound(law, observed))
    return Tail(p, "mc")


def deeper(least: float, bound: float) -> Tail:
    """Return the p-value of a total that no draw reached: ``1/(K+1)``, or a bound below it."""
    return Tail(bound, "bound") if bound < least else Tail(least, "mc")


def match_chance(
    y_S: NDArray[np.float64],
    prob_S: NDArray[np.float64],
    reach_S: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Probability of a match given the pivot, under the null: G of `PivotMatchLaw`.

    Parameters
    ----------
    y_S
        Pivots in (0, 1).
    prob_S
        h, in (0, 1].
    reach_S
        r of the hazard sampler; ``None`` for Gumbel-max.

    Returns
    -------
    ndarray of float64, shape [S]
        In [0, 1].
    """
    if reach_S is not None:
        return np.where(y_S > 1 - prob_S / reach_S, reach_S, 0.0)
    with np.errstate(under="ignore"):
        return np.exp((1 / prob_S - 1) * np.log(y_S))


def combined_null_scores(
    prob_RS: ArrayLike,
    weights: Sequence[float] = (0.3, 0.3),
    num_draws: int = 999,
    rng: np.random.Generator | None = None,
    *,
    clip: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """Null totals of many texts at once, for simulations.

    Parameters
    ----------
    prob_RS
        Surrogate probabilities of the observed tokens, R texts of S tokens each.
    weights
        ``(a, b)``.
    num_draws
        K.
    rng
        Source of randomness; a fixed seed by default.
    clip
        Bounds of a score in nats, or ``None``.

    Returns
    -------
    ndarray of float64, shape [R, K]
        Totals to compare the observed ones with: ``(1 + (null >= seen).sum(1)) / (K + 1)``.
    """
    prob_RS = np.clip(np.atleast_2d(np.asarray(prob_RS, dtype=np.float64)), PROB_FLOOR, 1.0)
    rng = np.random.default_rng(0) if rng is None else rng
    pair = check_weights(weights)
    rows: Iterator[NDArray[np.float64]] = (
        PivotMatchLaw(prob_S, (pair,), clip).draw_totals(num_draws, rng) for prob_S in prob_RS
    )
    return np.stack(list(rows)) if len(prob_RS) else np.zeros((0, num_draws))
