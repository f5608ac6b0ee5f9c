"""A keyed bit coupled to a keyed half of the vocabulary (CC, and SEAL with one model)."""

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import HitScheme, Rate, known_laws
from modicum.umpwatermark.schemes.base import chunks

ENUMERATED_TOKENS = 12
"""Vocabularies up to this size are split in every possible way; larger ones at random."""

SIMULATED_SPLITS = 200_000
"""Random splits over all laws otherwise."""


class BinaryCouplingScheme(HitScheme):
    """A fair bit is coupled maximally to the side of a random split on which the token falls.

    Parameters
    ----------
    seed
        Seed of simulated splits.

    Notes
    -----
    The hit rate given a split of masses (m, 1-m) is ``1 - |m - 1/2|``; under the null 1/2.
    """

    name = "binary_coupling"
    needs_laws = True
    gamma = 0.5

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.label = "binary correlated channel (CC)"

    def __repr__(self) -> str:
        return f"BinaryCouplingScheme({self.seed})"

    def _hit_rate(self, profile: EntropyProfile) -> Rate:
        laws_BV, weights_B = known_laws(profile)
        V = laws_BV.shape[1]
        if V <= ENUMERATED_TOKENS:
            # A split and its mirror hit alike: token 0 stays on one side.
            sides = np.array(list(product((0.0, 1.0), repeat=V - 1))).reshape(-1, V - 1)
            mass_BL = laws_BV[:, 1:] @ sides.T
            return Rate(1 - float(weights_B @ np.abs(mass_BL - 0.5).mean(axis=1)))
        hit_L = self._hits_given_split(profile, SIMULATED_SPLITS, np.random.default_rng(self.seed))
        return Rate(float(hit_L.mean()), float(hit_L.std() / math.sqrt(len(hit_L))))

    def _hits_given_split(
        self, profile: EntropyProfile, num_splits: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        laws_BV, _ = known_laws(profile)
        parts = []
        for rows in chunks(num_splits, laws_BV.shape[1]):
            q_LV = laws_BV[profile.draw_contexts(rng, rows)]
            mass_L = (q_LV * (rng.random(q_LV.shape) < 0.5)).sum(axis=1)
            parts.append(1 - np.abs(mass_L - 0.5))
        return np.concatenate(parts)

    def _draw_hits(
        self, profile: EntropyProfile, num_texts: int, num_tokens: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        hit_L = self._hits_given_split(profile, num_texts * num_tokens, rng)
        return (rng.random(len(hit_L)) < hit_L).reshape(num_texts, num_tokens).sum(axis=1)
