"""Simulated texts: what a detector would read if next-token laws were drawn from a list.

Takes rows of target and anchor laws and a NumPy generator; gives match indicators and seed
probabilities of many texts at once, with ideal uniforms in the place of the keyed ones. No model,
no key. It is what experiments, planners and power studies run on.

Legend: ``N`` rows of laws, ``V`` vocabulary, ``R`` texts, ``T`` tokens, ``m`` seed symbols.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.stats import log_e_process
from modicum.core.stats.eprocess import Start
from modicum.ewatermark.coupling import coupled_group_law, group_masses
from modicum.ewatermark.evalues import AnchoredMixtureScore, Evidence, Score
from modicum.ewatermark.partition import balanced_groups
from modicum.ewatermark.theory import probability_vector

CHUNK_ELEMENTS = 1 << 23
"""Simulated steps times vocabulary that are held in memory at once."""

NULLS = ("anchor-argmax", "anchor-sample", "target-sample", "uniform")
"""Kinds of text written without the key."""


@dataclass(frozen=True)
class SimulatedTexts:
    """Evidence of R texts of T scored tokens each.

    Attributes
    ----------
    match_RT
        bool; the token's group equals the seed symbol.
    seed_probability_RT, token_probability_RT
        float64; anchor masses of the seed symbol and of the token's group.
    entropy_RT
        float64; entropy of the anchor's group masses, nats.
    support_RT
        int64; symbols with positive anchor mass.
    """

    match_RT: NDArray[np.bool_]
    seed_probability_RT: NDArray[np.float64]
    token_probability_RT: NDArray[np.float64]
    entropy_RT: NDArray[np.float64]
    support_RT: NDArray[np.int64]

    def flat(self) -> Evidence:
        """Return all positions of all texts in one row."""
        return Evidence(
            self.match_RT.ravel(),
            self.seed_probability_RT.ravel(),
            self.token_probability_RT.ravel(),
            self.entropy_RT.ravel(),
            self.support_RT.ravel(),
        )

    def text(self, row: int) -> Evidence:
        """Return the evidence of one text."""
        return Evidence(
            self.match_RT[row],
            self.seed_probability_RT[row],
            self.token_probability_RT[row],
            self.entropy_RT[row],
            self.support_RT[row],
        )


def draw_rows(probs_NV: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one symbol from every row's law by inverse distribution function, int64 ``[N]``."""
    cumulative = np.cumsum(probs_NV, axis=1)
    u = rng.random(len(probs_NV)) * cumulative[:, -1]
    return (cumulative <= u[:, None]).sum(axis=1)


def simulate(
    target_NV: ArrayLike,
    anchor_NV: ArrayLike,
    *,
    num_groups: int,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    partition: str = "hash",
    null: str | None = None,
) -> SimulatedTexts:
    """Simulate texts whose contexts are drawn independently from the rows of laws.

    Parameters
    ----------
    target_NV, anchor_NV
        Next-token laws of the generator and of the anchor, row by row.
    num_groups
        Seed symbols m; ``V`` is the token level.
    num_texts, num_tokens
        R and T.
    rng
        Source of all randomness.
    partition
        ``"hash"`` or ``"balanced"``; ignored at the token level.
    null
        ``None`` for marked text, or one of `NULLS`: text written without the key.

    Returns
    -------
    SimulatedTexts

    Raises
    ------
    ValueError
        If laws, sizes, partition or null are not of the kinds above.
    """
    target_NV = probability_vector(target_NV, "target_NV")
    anchor_NV = probability_vector(anchor_NV, "anchor_NV")
    if target_NV.ndim != 2 or target_NV.shape != anchor_NV.shape:
        raise ValueError(
            f"target and anchor must be [N, V] alike, got {target_NV.shape}, {anchor_NV.shape}"
        )
    N, V = target_NV.shape
    if not 2 <= num_groups <= V:
        raise ValueError(f"num_groups must lie in [2, {V}], got {num_groups}")
    if num_texts < 1 or num_tokens < 1:
        raise ValueError(f"num_texts={num_texts} and num_tokens={num_tokens} must be positive")
    if partition not in ("hash", "balanced"):
        raise ValueError(f"unknown partition {partition!r}; choose 'hash' or 'balanced'")
    if null is not None and null not in NULLS:
        raise ValueError(f"unknown null {null!r}; choose one of {NULLS}")
    steps = num_texts * num_tokens
    parts = []
    size = max(1, CHUNK_ELEMENTS // V)
    for at in range(0, steps, size):
        rows = rng.integers(N, size=min(size, steps - at))
        parts.append(
            _simulate_steps(target_NV[rows], anchor_NV[rows], num_groups, partition, null, rng)
        )
    joined = Evidence.concatenate(parts)
    shape = (num_texts, num_tokens)
    return SimulatedTexts(
        joined.match_T.reshape(shape),
        joined.seed_probability_T.reshape(shape),
        joined.token_probability_T.reshape(shape),
        joined.entropy_T.reshape(shape),
        joined.support_T.reshape(shape),
    )


class _RandomWords:
    """Ideal words in the place of a PRF's, for `balanced_groups`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def words_range(self, state: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        return self.rng.integers(0, 1 << 32, size=(len(state), n))


def _simulate_steps(
    q_BV: NDArray[np.float64],
    p_BV: NDArray[np.float64],
    m: int,
    partition: str,
    null: str | None,
    rng: np.random.Generator,
) -> Evidence:
    B, V = q_BV.shape
    groups_BV = None
    if m < V:
        if partition == "balanced":
            words: Any = _RandomWords(rng)
            log_p_BV = np.log(np.maximum(p_BV, 1e-300))
            groups_BV = balanced_groups(words, np.zeros((B, 4), np.int64), log_p_BV, m)
        else:
            groups_BV = rng.integers(m, size=(B, V))
    p_Bm = group_masses(p_BV, groups_BV, m)
    seed_B = draw_rows(p_Bm, rng)
    if null is None:
        q_Bm = group_masses(q_BV, groups_BV, m)
        group_B = draw_rows(coupled_group_law(q_Bm, p_Bm, seed_B), rng)
    else:
        token_B = _null_tokens(q_BV, p_BV, null, rng)
        group_B = token_B if groups_BV is None else groups_BV[np.arange(B), token_B]
    rows = np.arange(B)
    positive = p_Bm > 0
    return Evidence(
        match_T=group_B == seed_B,
        seed_probability_T=p_Bm[rows, seed_B],
        token_probability_T=p_Bm[rows, group_B],
        entropy_T=-(p_Bm * np.log(np.where(positive, p_Bm, 1.0))).sum(axis=1),
        support_T=positive.sum(axis=1),
    )


def _null_tokens(
    q_BV: NDArray[np.float64], p_BV: NDArray[np.float64], null: str, rng: np.random.Generator
) -> NDArray[np.int64]:
    if null == "anchor-argmax":
        return p_BV.argmax(axis=1)
    if null == "uniform":
        return rng.integers(p_BV.shape[1], size=len(p_BV))
    return draw_rows(p_BV if null == "anchor-sample" else q_BV, rng)


def log_wealth(
    score: Score, texts: SimulatedTexts, *, start: Start = "beginning"
) -> NDArray[np.float64]:
    """Return every text's log e-value after each token.

    Parameters
    ----------
    score
        The score to bet with.
    texts
        Simulated evidence.
    start
        As in `modicum.ewatermark.EWatermarkDetector`.

    Returns
    -------
    float64[R, T]
    """
    R, T = texts.match_RT.shape
    J = len(score.weights)
    if isinstance(score, AnchoredMixtureScore):
        # This score learns along a text, so texts cannot be joined.
        log_e_RTJ = np.stack([score.log_e(texts.text(r)) for r in range(R)])
    else:
        log_e_RTJ = score.log_e(texts.flat()).reshape(R, T, J)
    log_e = log_e_RTJ[..., 0] if J == 1 else log_e_RTJ
    return log_e_process(log_e, J, weights=score.weights, start=start)


def stopping_times(crossed_RT: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the number of tokens read at the first crossing of each text, ``inf`` if none."""
    first = crossed_RT.argmax(axis=1) + 1.0
    return np.where(crossed_RT.any(axis=1), first, np.inf)
