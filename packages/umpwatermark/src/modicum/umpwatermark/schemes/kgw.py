"""Green lists with a bias on the logits: counts many hits and distorts the text.

The list of each context is drawn anew. With every token green independently, expectations over
lists are integrals over one variable, ``E 1/(1 + c Q) = int e^-t prod_v (1 - g + g e^(-t c q_v))
dt`` (our derivation), and need no simulation; lists of fixed size are enumerated for small
vocabularies and simulated for others.

Legend: ``B`` laws, ``V`` vocabulary, ``L`` lists, ``K`` nodes of the integral.
"""

import math
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from modicum.core.watermark.peer_laws import check_green_list, kgw_law
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import HitScheme, Rate, check_gamma, known_laws
from modicum.umpwatermark.schemes.base import chunks

Floats = NDArray[np.float64]
Lists = Literal["independent", "fixed-size"]

# Trapezoid rule in y with t = exp(y - exp(-y)): doubly exponential decay at both ends.
_Y = np.linspace(-4.2, 5.0, 93)
_T = np.exp(_Y - np.exp(-_Y))
_W = _T * (1 + np.exp(-_Y)) * (_Y[1] - _Y[0])
INTEGRAL_NODES, INTEGRAL_WEIGHTS = _T, _W * np.exp(-_T)

ENUMERATED_LISTS = 5000
"""Most lists of fixed size that are enumerated."""

SIMULATED_LISTS = 200_000
"""Lists of fixed size that are simulated over all laws otherwise."""


def _check(gamma: float, delta: float) -> None:
    check_gamma(gamma)
    if not (delta > 0 and math.isfinite(delta)):
        raise ValueError(f"delta must be positive and finite, got {delta}")


def independent_lists(laws_BV: Floats, gamma: float, delta: float) -> tuple[Floats, Floats]:
    """Return the hit rate and the distortion of each law when tokens are green independently.

    Parameters
    ----------
    laws_BV
        Next-token laws.
    gamma, delta
        Share of green tokens and bias of their logits, nats.

    Returns
    -------
    hit_B, distortion_B
        float64; the total variation is that between q and the text's law over lists.
    """
    boost = math.expm1(delta)
    hit_B, distortion_B = np.empty(len(laws_BV)), np.empty(len(laws_BV))
    start = 0
    for rows in chunks(len(laws_BV), laws_BV.shape[1]):
        q_BV = laws_BV[start : start + rows]
        miss_B, mean_BV = np.zeros(rows), np.zeros_like(q_BV)
        for t, weight in zip(INTEGRAL_NODES, INTEGRAL_WEIGHTS, strict=True):
            decay_BV = gamma * np.expm1(-t * boost * q_BV)
            log_all_B = np.log1p(decay_BV).sum(axis=1)
            all_B = np.exp(log_all_B)
            miss_B += weight * all_B
            # The token itself is green with its bias, or not; the others average as before.
            own_BV = 1 - gamma + math.exp(delta) * (gamma + decay_BV)
            mean_BV += weight * all_B[:, None] * own_BV / (1 + decay_BV)
        hit_B[start : start + rows] = (math.exp(delta) / boost) * (1 - miss_B)
        distortion_B[start : start + rows] = 0.5 * np.abs(q_BV * (mean_BV - 1)).sum(axis=1)
        start += rows
    return hit_B, distortion_B


def green_hit(mass: Floats, delta: float) -> Floats:
    """Return ``q(R) e^d / (q(R) e^d + 1 - q(R))``, the hit rate given the green mass q(R)."""
    boosted = mass * math.exp(delta)
    return boosted / (boosted + 1 - mass)


class KGWScheme(HitScheme):
    """Adds delta to the logits of a green list; counts green tokens.

    Parameters
    ----------
    gamma
        Share of the vocabulary that is green.
    delta
        Bias in nats.
    lists
        ``"independent"``: each token is green with probability gamma. ``"fixed-size"``: gamma V of
        them are, as implementations do; the difference is of the order of 1/V.

    Notes
    -----
    "A Watermark for Large Language Models" (arXiv 2301.10226).
    """

    name = "kgw"
    distortion_free = False
    needs_laws = True

    def __init__(
        self, gamma: float = 0.5, delta: float = 2.0, lists: Lists = "independent", seed: int = 0
    ) -> None:
        _check(gamma, delta)
        if lists not in get_args(Lists):
            raise ValueError(f"lists must be one of {get_args(Lists)}, got {lists!r}")
        self.gamma, self.delta, self.lists, self.seed = float(gamma), float(delta), lists, seed
        self.label = f"KGW γ={gamma:g} δ={delta:g}"

    def __repr__(self) -> str:
        return f"KGWScheme({self.gamma}, {self.delta}, {self.lists!r}, {self.seed})"

    def _independent(self, profile: EntropyProfile) -> tuple[float, float]:
        def make() -> tuple[float, float]:
            laws_BV, weights_B = known_laws(profile)
            hit_B, distortion_B = independent_lists(laws_BV, self.gamma, self.delta)
            return float(weights_B @ hit_B), float(weights_B @ distortion_B)

        return profile.remember(("kgw", self.gamma, self.delta), make)

    def _hit_rate(self, profile: EntropyProfile) -> Rate:
        if self.lists == "independent":
            return Rate(self._independent(profile)[0])
        laws_BV, weights_B = known_laws(profile)
        V = laws_BV.shape[1]
        size = check_green_list(self.gamma, self.delta, V)
        if math.comb(V, size) <= ENUMERATED_LISTS:
            members = np.array(list(combinations(range(V), size)))
            hits_B = np.zeros(len(laws_BV))
            for list_S in members:
                hits_B += green_hit(laws_BV[:, list_S].sum(axis=1), self.delta)
            return Rate(float(weights_B @ hits_B) / len(members))
        return self._simulated_rate(profile, size)

    def _simulated_rate(self, profile: EntropyProfile, size: int) -> Rate:
        laws_BV, _ = known_laws(profile)
        V = laws_BV.shape[1]
        rng = np.random.default_rng(self.seed)
        hits, masses = [], []
        for rows in chunks(SIMULATED_LISTS, V):
            q_LV = laws_BV[profile.draw_contexts(rng, rows)]
            mass_L = (q_LV * self._draw_lists(rows, V, size, rng)).sum(axis=1)
            hits.append(green_hit(mass_L, self.delta))
            masses.append(mass_L)
        hit_L, mass_L = np.concatenate(hits), np.concatenate(masses)
        # The green mass has mean gamma: what it explains of the hit rate is no error.
        slope = np.cov(hit_L, mass_L)[0, 1] / max(mass_L.var(ddof=1), 1e-300)
        adjusted_L = hit_L - slope * (mass_L - self.gamma)
        return Rate(float(adjusted_L.mean()), float(adjusted_L.std() / math.sqrt(len(hit_L))))

    def _draw_lists(
        self, rows: int, V: int, size: int | None, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        if size is None:
            return rng.random((rows, V)) < self.gamma
        return rng.permuted(np.broadcast_to(np.arange(V) < size, (rows, V)), axis=1)

    def distortion(self, profile: EntropyProfile) -> float:
        """Return the mean total variation between q and the text's law over independent lists."""
        self.check(profile)
        return self._independent(profile)[1]

    def _draw_hits(
        self, profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        laws_BV, _ = known_laws(profile)
        V = laws_BV.shape[1]
        size = None
        if self.lists == "fixed-size":
            size = check_green_list(self.gamma, self.delta, V)
        hits = []
        for rows in chunks(num_texts * num_tokens, V):
            q_LV = laws_BV[profile.draw_contexts(rng, rows)]
            green_LV = self._draw_lists(rows, V, size, rng)
            tilted_LV = kgw_law(q_LV, green_LV, self.delta)
            hits.append(rng.random(rows) < (tilted_LV * green_LV).sum(axis=1))
        return np.concatenate(hits).reshape(num_texts, num_tokens).sum(axis=1)
