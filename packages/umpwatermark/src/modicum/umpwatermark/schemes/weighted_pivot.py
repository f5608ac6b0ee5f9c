"""Gumbel-max tokens with the pivot weighted by the surrogate probability of the observed token."""

from modicum.umpwatermark.schemes.combined import NUM_TEXTS, CombinedScheme


class WeightedPivotScheme(CombinedScheme):
    """`CombinedScheme` without the match: needs only log-probabilities of the text's own tokens.

    Parameters
    ----------
    weight
        a, in ``(0, 1)``; small values suit bad surrogates.
    num_texts, seed
        As in `CombinedScheme`.
    """

    name = "weighted_pivot"

    def __init__(self, weight: float = 0.7, num_texts: int = NUM_TEXTS, seed: int = 0) -> None:
        super().__init__((weight, 0.0), num_texts, seed)
        self.label = f"Gumbel-max, weighted pivot a={weight:g}"
