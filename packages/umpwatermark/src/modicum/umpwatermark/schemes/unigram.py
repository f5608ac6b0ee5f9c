"""One fixed green list for all positions (Unigram), with a count over *distinct* tokens.

A token that occurs twice is green both times, so a count over positions has no level that holds for
every text; among D distinct tokens the number of green ones is hypergeometric whatever the text.

Legend: ``R`` texts, ``T`` tokens, ``V`` vocabulary.
"""

import math

import numpy as np
from numpy.typing import NDArray

from modicum.core.stats import clopper_pearson
from modicum.core.watermark.peer_laws import check_green_list
from modicum.umpwatermark.iid import least_tokens
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes._hits import check_gamma, known_laws
from modicum.umpwatermark.schemes.base import CannotPlanError, PlannedScheme, Tokens, Type2, chunks
from modicum.umpwatermark.schemes.kgw import independent_lists

NUM_TEXTS = 400
"""Texts simulated, each with its own list, per Type II error."""

MAX_SIMULATED_TOKENS = 5000
"""Longest text that is simulated. Texts that have used the whole vocabulary show nothing more."""

GROWTH = 1.5
"""Ratio of the lengths at which a first sufficient one is looked for."""


class UnigramScheme(PlannedScheme):
    """Adds delta to the logits of one fixed green list of ``gamma V`` tokens.

    Parameters
    ----------
    gamma, delta
        Share of the vocabulary that is green and bias in nats.
    num_texts, seed
        Texts per simulated Type II error and their seed.

    Notes
    -----
    "Provable Robust Watermarking for AI-Generated Text" (arXiv 2306.17439), with the count taken
    over distinct tokens.
    """

    name = "unigram"
    distortion_free = False
    needs_laws = True
    resolution = 0.02

    def __init__(
        self,
        gamma: float = 0.5,
        delta: float = 2.0,
        num_texts: int = NUM_TEXTS,
        seed: int = 0,
    ) -> None:
        self.gamma = check_gamma(gamma)
        if not (delta > 0 and math.isfinite(delta)):
            raise ValueError(f"delta must be positive and finite, got {delta}")
        self.delta, self.num_texts, self.seed = float(delta), num_texts, seed
        self.label = f"Unigram γ={gamma:g} δ={delta:g}, distinct tokens"

    def check(self, profile: EntropyProfile) -> None:
        """Refuse profiles without laws or with a vocabulary that has no such list."""
        super().check(profile)
        try:
            check_green_list(self.gamma, self.delta, known_laws(profile)[0].shape[1])
        except ValueError as error:
            raise CannotPlanError(str(error)) from error

    def _reachable(self, profile: EntropyProfile, alpha: float) -> bool:
        # Even a text of all green tokens and nothing else must be able to reject.
        from scipy.stats import hypergeom

        V = known_laws(profile)[0].shape[1]
        green = round(self.gamma * V)
        return bool(hypergeom.sf(green - 1, V, green, green) <= alpha)

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        if not self._reachable(profile, alpha):
            raise CannotPlanError(
                f"no text over {profile.vocab_size} tokens can reach level {alpha:g}: the count is "
                "over distinct tokens"
            )
        rng = np.random.default_rng(self.seed)
        found = self._simulate(profile, self.num_texts, num_tokens, alpha, rng, False)
        missed = int(self.num_texts - found.sum())
        low, high = clopper_pearson(missed, self.num_texts)
        return Type2(missed / self.num_texts, float(low), float(high), "mc")

    def _tokens_needed(
        self, profile: EntropyProfile, alpha: float, beta: float, max_tokens: int
    ) -> Tokens:
        # The error falls and rises again once all tokens have been seen: no doubling.
        low, high = 1, 8
        while self._type2(profile, high, alpha).value > beta:
            low, high = high, math.ceil(GROWTH * high)
            if high > min(max_tokens, MAX_SIMULATED_TOKENS):
                raise CannotPlanError(
                    f"not found up to {low} simulated tokens: the count is over distinct tokens"
                )

        def first(attribute: str) -> float:
            return least_tokens(
                lambda n: getattr(self._type2(profile, n, alpha), attribute) <= beta,
                start=high,
                max_tokens=2 * high,
                resolution=self.resolution,
            )

        value = first("value")
        return Tokens(value, min(first("low"), value), max(first("high"), value), "mc")

    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]:
        from scipy.stats import hypergeom

        laws_BV, _ = known_laws(profile)
        B, V = laws_BV.shape
        size = round(self.gamma * V)
        cumulative_BV = np.cumsum(laws_BV, axis=1)
        flat = (cumulative_BV / cumulative_BV[:, -1:] + np.arange(B)[:, None]).ravel()
        keep_red = 1.0 if null else math.exp(-self.delta)
        decisions = []
        for rows in chunks(num_texts, num_tokens + V):
            green_RV = rng.permuted(np.broadcast_to(np.arange(V) < size, (rows, V)), axis=1)
            contexts_RT = profile.draw_contexts(rng, (rows, num_tokens))
            tokens_RT = np.full((rows, num_tokens), -1)
            left = np.ones((rows, num_tokens), dtype=bool)
            # A red token is kept with probability e^-delta, which tilts q as the bias does.
            while left.any():
                row, at = np.nonzero(left)
                b = contexts_RT[row, at]
                drawn = np.searchsorted(flat, b + rng.random(len(b)), side="right") - b * V
                drawn = np.clip(drawn, 0, V - 1)
                keep = green_RV[row, drawn] | (rng.random(len(b)) < keep_red)
                tokens_RT[row[keep], at[keep]] = drawn[keep]
                left[row[keep], at[keep]] = False
            seen_RV = np.zeros((rows, V), dtype=bool)
            np.put_along_axis(seen_RV, tokens_RT, True, axis=1)
            distinct_R = seen_RV.sum(axis=1)
            hits_R = (seen_RV & green_RV).sum(axis=1)
            decisions.append(hypergeom.sf(hits_R - 1, V, size, distinct_R) <= alpha)
        return np.concatenate(decisions)

    def distortion(self, profile: EntropyProfile) -> float:
        """Return the mean total variation per token between q and the text's law over lists.

        Lists of independent tokens stand for those of fixed size; given one list, which is all that
        a reader ever sees, the text is further from q.
        """
        self.check(profile)

        def make() -> float:
            laws_BV, weights_B = known_laws(profile)
            return float(weights_B @ independent_lists(laws_BV, self.gamma, self.delta)[1])

        return profile.remember(("unigram distortion", self.gamma, self.delta), make)
