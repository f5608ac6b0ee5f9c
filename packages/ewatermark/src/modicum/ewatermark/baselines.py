"""What one would run instead: earlier watermarks and tests, read after every token.

Takes rows of next-token laws and a NumPy generator and gives, for many simulated texts at once,
what each scheme's own detector observes, with ideal uniforms in the place of keyed ones; and turns
observations into running p-values and e-processes. No model, no key. The texts are written by each
scheme's own sampler from the same laws, so figures of different schemes can be put side by side.

Sequential forms: a running p-value may be *peeked* at (no correction: not valid), read at a length
*fixed* in advance, or held to the level ``alpha / (k (k + 1))`` at look k (a *union bound*: valid).
An e-process is valid as it is.

Legend: ``N`` rows of laws, ``V`` vocabulary, ``B`` simulated steps, ``R`` texts, ``T`` tokens,
``J`` parallel bets, ``L`` tournament layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.stats import log_e_process, poisson_binomial_prefix_sf, spending_levels
from modicum.core.watermark.peer_laws import (
    SYNTHID_DEPTH,
    binomial_p_values,
    check_green_list,
    gumbel_log_wealth,
    gumbel_p_values,
    tournament_law,
)
from modicum.ewatermark.evalues import DEFENSIVE_GRID
from modicum.ewatermark.simulation import (
    CHUNK_ELEMENTS,
    SimulatedTexts,
    draw_rows,
    stopping_times,
)
from modicum.ewatermark.theory import check_alpha, probability_vector

Array = NDArray[Any]

SYNTHID_FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
"""Bets on a single g-value over which the SynthID e-process averages; the bias per layer is small
because the last layers of a tournament find little left to choose."""

POISSON_BINOMIAL_TEXTS = 500
"""Texts whose tails are computed at once: the work space is texts times number of matches."""


# Running p-values -------------------------------------------------------------------------------


def _in_blocks(match_RT: Array, probs_RT: Array) -> NDArray[np.float64]:
    blocks = range(0, len(match_RT), POISSON_BINOMIAL_TEXTS)
    return np.concatenate(
        [
            poisson_binomial_prefix_sf(
                match_RT[at : at + POISSON_BINOMIAL_TEXTS],
                probs_RT[at : at + POISSON_BINOMIAL_TEXTS],
            )
            for at in blocks
        ]
    )


def seal_p_values(texts: SimulatedTexts) -> NDArray[np.float64]:
    """Return SEAL's p-value of the match count after every token.

    The Poisson-binomial tail takes the anchor's mass of the *seed symbol* as match probability.
    That is right on average over texts that follow the anchor and wrong for a given text: greedy
    text matches more often. It is kept here exactly so, as the method to compare with.

    Parameters
    ----------
    texts
        Evidence of marked or unmarked texts.

    Returns
    -------
    float64[R, T]

    Notes
    -----
    "Watermarking using Semantic-aware Speculative Sampling: from Theory to Practice" (OpenReview
    LdIlnsePNt) and its reference code.
    """
    return _in_blocks(texts.match_RT, texts.seed_probability_RT)


def corrected_p_values(texts: SimulatedTexts) -> NDArray[np.float64]:
    """Return the Poisson-binomial p-value with the match probability that holds for a given text.

    For a text written without the key the seed is drawn independently of it, so a token of group G
    matches with probability ``p(G)``. Each entry is valid at a length fixed in advance.

    Returns
    -------
    float64[R, T]
    """
    return _in_blocks(texts.match_RT, texts.token_probability_RT)


def union_bound_times(p_values_RT: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return the first look k with ``p_k < alpha / (k (k + 1))``, ``inf`` if there is none.

    Valid at level alpha over all looks together: the levels add up to alpha.
    """
    p = np.asarray(p_values_RT, dtype=np.float64)
    return stopping_times(p < spending_levels(alpha, np.arange(1, p.shape[-1] + 1)))


def peeked_times(p_values_RT: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return the first look with ``p_k <= alpha``, ``inf`` if none: *not* valid over all looks."""
    return stopping_times(np.asarray(p_values_RT) <= check_alpha(alpha))


def e_process_times(log_e_RT: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return the first token at which the e-process reaches ``1/alpha``, ``inf`` if none."""
    return stopping_times(np.asarray(log_e_RT) >= -np.log(check_alpha(alpha)))


# E-processes ------------------------------------------------------------------------------------


def count_log_wealth(
    hits_RT: ArrayLike,
    probability: float,
    trials: int = 1,
    fractions: tuple[float, ...] = DEFENSIVE_GRID,
) -> NDArray[np.float64]:
    """Return the e-process that bets on hits being more frequent than under the null.

    A share a of the wealth is staked on every trial, ``e = 1 - a + a/probability`` on a hit and
    ``1 - a`` otherwise, and the wealth is averaged over shares, as our own default score does.

    Parameters
    ----------
    hits_RT, probability, trials
        As in `binomial_p_values`.
    fractions
        Shares a in ``(0, 1)``.

    Returns
    -------
    float64[R, T]
        Natural logs.
    """
    shares = np.asarray(fractions)
    hits_RT1 = np.asarray(hits_RT)[..., None]
    win = np.log1p(shares * (1 / probability - 1))
    log_e_RTJ = hits_RT1 * win + (trials - hits_RT1) * np.log1p(-shares)
    return log_e_process(log_e_RTJ, len(shares))


# Simulators -------------------------------------------------------------------------------------


def _simulate(
    target_NV: ArrayLike,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    step: Callable[[NDArray[np.float64]], Array],
) -> Array:
    target = probability_vector(target_NV, "target_NV")
    if target.ndim != 2:
        raise ValueError(f"target_NV must have shape [N, V], got {target.shape}")
    if num_texts < 1 or num_tokens < 1:
        raise ValueError(f"num_texts={num_texts} and num_tokens={num_tokens} must be positive")
    steps = num_texts * num_tokens
    size = max(1, CHUNK_ELEMENTS // target.shape[1] // 4)
    parts = []
    for at in range(0, steps, size):
        rows = rng.integers(len(target), size=min(size, steps - at))
        parts.append(step(target[rows]))
    return np.concatenate(parts).reshape(num_texts, num_tokens)


def simulate_gumbel(
    target_NV: ArrayLike,
    *,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    null: bool = False,
) -> NDArray[np.float64]:
    """Simulate the Gumbel-max watermark and return the keyed uniform of every emitted token.

    Parameters
    ----------
    target_NV
        Next-token laws; contexts are drawn from the rows.
    num_texts, num_tokens
        R and T.
    rng
        Source of all randomness.
    null
        Text written without the key (whichever): the uniform of its token is just uniform.

    Returns
    -------
    float64[R, T]
        Pivots Y in ``(0, 1)``.

    Notes
    -----
    S. Aaronson's scheme as analysed in "A Statistical Framework of Watermarks for Large Language
    Models" (arXiv 2404.01245). The scheme emits the token with the smallest ``-log(U_v)/q_v``.
    These are independent exponentials of rates q, so the token has law q, the smallest value E
    is a standard exponential independent of which token attains it, and ``Y = exp(-q_v E)``.
    """

    def step(q_BV: NDArray[np.float64]) -> Array:
        B = len(q_BV)
        if null:
            return 1 - rng.random(B)
        token_B = draw_rows(q_BV, rng)
        # Never exactly 1, where the p-value 1 - Y would be 0.
        y_B = np.exp(-q_BV[np.arange(B), token_B] * rng.standard_exponential(B))
        return np.minimum(y_B, 1 - 2.0**-53)

    return _simulate(target_NV, num_texts, num_tokens, rng, step)


def simulate_kgw(
    target_NV: ArrayLike,
    *,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    gamma: float = 0.5,
    delta: float = 2.0,
    null: bool = False,
) -> NDArray[np.int64]:
    """Simulate the green-list watermark and return whether every emitted token is green.

    Parameters
    ----------
    target_NV, num_texts, num_tokens, rng, null
        As in `simulate_gumbel`.
    gamma
        Share of the vocabulary that is green; ``gamma * V`` must be whole.
    delta
        Added to green logits. Not zero means that the text is distorted.

    Returns
    -------
    int64[R, T]
        0 or 1.

    Notes
    -----
    "A Watermark for Large Language Models" (arXiv 2301.10226). Under the null a token is green
    with probability gamma. Only the colour is drawn: a token of the tilted law is green with
    probability ``g e^delta / (g e^delta + 1 - g)``, g the green mass of the law.
    """
    V = np.shape(target_NV)[-1]
    size = check_green_list(gamma, delta, V)
    row_V = np.arange(V) < size

    def step(q_BV: NDArray[np.float64]) -> Array:
        B = len(q_BV)
        if null:
            return (rng.random(B) < gamma).astype(np.int64)
        green_BV = rng.permuted(np.broadcast_to(row_V, (B, V)), axis=1)
        mass_B = np.einsum("bv,bv->b", q_BV, green_BV)
        tilted_B = mass_B * np.exp(delta)
        return (rng.random(B) * (tilted_B + 1 - mass_B) < tilted_B).astype(np.int64)

    return _simulate(target_NV, num_texts, num_tokens, rng, step)


def simulate_synthid(
    target_NV: ArrayLike,
    *,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    depth: int = SYNTHID_DEPTH,
    null: bool = False,
) -> NDArray[np.int64]:
    """Simulate SynthID-Text and return how many g-values of every emitted token are one.

    Parameters
    ----------
    target_NV, num_texts, num_tokens, rng, null
        As in `simulate_gumbel`.
    depth
        Number of tournament layers L; g-values are Bernoulli(1/2), two candidates per match.

    Returns
    -------
    int64[R, T]
        Counts in ``[0, depth]``, Binomial(depth, 1/2) under the null; divided by depth they are
        the scheme's mean score.

    Notes
    -----
    Dathathri et al., "Scalable watermarking for identifying large language model outputs",
    Nature 634 (2024), non-distortionary version.
    """
    if not 1 <= depth <= 62:
        raise ValueError(f"depth must lie in [1, 62], got {depth}")

    def step(q_BV: NDArray[np.float64]) -> Array:
        B, V = q_BV.shape
        if null:
            return np.asarray(rng.binomial(depth, 0.5, size=B))
        words_BV = rng.integers(1 << depth, size=(B, V))
        token_B = draw_rows(tournament_law(q_BV, words_BV, depth), rng)
        words_B1 = words_BV[np.arange(B), token_B][:, None]
        return ((words_B1 >> np.arange(depth)) & 1).sum(axis=1)

    return _simulate(target_NV, num_texts, num_tokens, rng, step)


# All peers at once ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PeerTimes:
    """Tokens to detection of one peer in one sequential form.

    Attributes
    ----------
    scheme
        The watermark.
    test
        The sequential form.
    distorts
        Whether the text's law differs from the model's.
    times_R
        float64[R]; ``inf`` where not detected.
    """

    scheme: str
    test: str
    distorts: bool
    times_R: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Scheme and test in a line."""
        return f"{self.scheme}, {self.test}"


UNION_BOUND = "p-value with union bound"
E_PROCESS = "e-process"


def peer_times(
    target_NV: ArrayLike,
    *,
    alpha: float,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    kgw_deltas: tuple[float, ...] = (1.0, 2.0),
    synthid: bool = True,
) -> list[PeerTimes]:
    """Return tokens to detection of the schemes that need no anchor, in both sequential forms.

    Parameters
    ----------
    target_NV
        Next-token laws; contexts are drawn from the rows.
    alpha
        Level of every test.
    num_texts, num_tokens
        R and T.
    rng
        Source of all randomness.
    kgw_deltas
        Biases of the green-list scheme with half the vocabulary green.
    synthid
        Include SynthID-Text, which costs as much as everything else together.

    Returns
    -------
    list of PeerTimes
    """
    check_alpha(alpha)
    size: Any = {"num_texts": num_texts, "num_tokens": num_tokens}
    pivots_RT = simulate_gumbel(target_NV, rng=rng, **size)
    peers = [
        PeerTimes(
            "Gumbel-max",
            UNION_BOUND,
            False,
            union_bound_times(gumbel_p_values(pivots_RT), alpha),
        ),
        PeerTimes(
            "Gumbel-max", E_PROCESS, False, e_process_times(gumbel_log_wealth(pivots_RT), alpha)
        ),
    ]
    for delta in kgw_deltas:
        green_RT = simulate_kgw(target_NV, rng=rng, gamma=0.5, delta=delta, **size)
        scheme = f"KGW δ={delta:g}"
        p_RT = binomial_p_values(green_RT, 0.5)
        peers.append(PeerTimes(scheme, UNION_BOUND, True, union_bound_times(p_RT, alpha)))
        log_e_RT = count_log_wealth(green_RT, 0.5)
        peers.append(PeerTimes(scheme, E_PROCESS, True, e_process_times(log_e_RT, alpha)))
    if synthid:
        ones_RT = simulate_synthid(target_NV, rng=rng, **size)
        p_RT = binomial_p_values(ones_RT, 0.5, SYNTHID_DEPTH)
        log_e_RT = count_log_wealth(ones_RT, 0.5, SYNTHID_DEPTH, SYNTHID_FRACTIONS)
        peers += [
            PeerTimes("SynthID", UNION_BOUND, False, union_bound_times(p_RT, alpha)),
            PeerTimes("SynthID", E_PROCESS, False, e_process_times(log_e_RT, alpha)),
        ]
    return peers
