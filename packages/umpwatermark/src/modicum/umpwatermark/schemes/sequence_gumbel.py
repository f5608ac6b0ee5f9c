"""Gumbel-max over whole texts: a model-agnostic watermark that one can write down in a line."""

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark.iid import sequence_gumbel_error
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes.base import PlannedScheme, Type2
from modicum.umpwatermark.schemes.ump import text_surprisals


class SequenceGumbelScheme(PlannedScheme):
    """Text ``argmax ln U_y / rho(y)``, region ``{y: U_y > 1 - alpha}``, a uniform for each text.

    Pays at most ``(1 - alpha)^(1/alpha) < 1/e`` over the optimum (our derivation). A yardstick.
    """

    name = "sequence_gumbel"
    label = "Gumbel-max over whole texts"

    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        return Type2.of(sequence_gumbel_error(profile, num_tokens, alpha))

    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]:
        u_R = rng.random(num_texts)
        if not null:
            # The winner's uniform is U^rho.
            u_R **= np.exp(-text_surprisals(profile, num_texts, num_tokens, rng))
        return u_R > 1 - alpha
