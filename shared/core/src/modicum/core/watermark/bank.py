"""A token bank: a simulated language model with known next-token laws.

Gives, for a few thousand contexts, the law a target model would sample from and the law an anchor
would assign, with the spread of entropies and the mismatch of real models but at a cost of
milliseconds. Contexts are meant to be drawn independently. Everything is NumPy and reproducible
from a seed. Knows nothing of watermarks.

Per context an exponent ``a ~ Gamma(4, 0.55) + 0.3`` gives logits ``z = -a log(rank)`` (a Zipf law
of random steepness); the target is ``softmax(z / T_q)`` and the anchor
``softmax((z + sigma * noise) / T_a)`` with standard normal noise.

Legend: ``B`` contexts, ``V`` vocabulary.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

GAMMA_SHAPE, GAMMA_SCALE, GAMMA_SHIFT = 4.0, 0.55, 0.3

Case = Literal["base", "hot", "poor", "uniform", "oracle", "low"]

# Target temperature, anchor temperature, noise of the anchor's logits.
CASES: dict[str, tuple[float, float, float]] = {
    "base": (0.7, 1.0, 1.0),
    "hot": (0.7, 2.0, 1.0),
    "poor": (0.7, 1.0, 2.0),
    "uniform": (0.7, float("inf"), 0.0),
    "oracle": (0.7, 0.7, 0.0),
    "low": (0.35, 1.0, 1.0),
}


def _softmax(z_BV: NDArray[np.float64]) -> NDArray[np.float64]:
    e_BV = np.exp(z_BV - z_BV.max(axis=-1, keepdims=True))
    return e_BV / e_BV.sum(axis=-1, keepdims=True)


def _entropy(p_BV: NDArray[np.float64]) -> NDArray[np.float64]:
    return -(p_BV * np.log(np.where(p_BV > 0, p_BV, 1.0))).sum(axis=-1)


@dataclass(frozen=True, eq=False)
class TokenBank:
    """Target and anchor laws of many simulated contexts.

    Attributes
    ----------
    case
        Name of the setting.
    target_BV, anchor_BV
        float64 laws, shape ``[B, V]``; each row sums to one.
    """

    case: str
    target_BV: NDArray[np.float64]
    anchor_BV: NDArray[np.float64]

    @classmethod
    def build(
        cls,
        case: Case = "base",
        *,
        vocab_size: int = 256,
        num_contexts: int = 4000,
        seed: int = 0,
        noise_seed: int | None = None,
        permute: bool = True,
        target_temperature: float | None = None,
        anchor_temperature: float | None = None,
        anchor_noise: float | None = None,
    ) -> "TokenBank":
        """Simulate a bank.

        Parameters
        ----------
        case
            ``"base"``: target at temperature 0.7, anchor at 1 with noise 1. ``"hot"``: anchor at
            temperature 2. ``"poor"``: anchor noise 2. ``"uniform"``: anchor knows nothing.
            ``"oracle"``: anchor equals target. ``"low"``: target at temperature 0.35, hence little
            entropy.
        vocab_size, num_contexts
            Size of the bank.
        seed
            Seed of everything, or of everything but the noise if ``noise_seed`` is given.
        noise_seed
            Separate seed of the anchor's noise, so that banks which differ in the target share it.
        permute
            Put each context's ranks in random order; otherwise token 0 is always the likeliest.
        target_temperature, anchor_temperature, anchor_noise
            Override the case.

        Returns
        -------
        TokenBank

        Raises
        ------
        ValueError
            If the case is unknown or a number is out of range.
        """
        if case not in CASES:
            raise ValueError(f"case must be one of {list(get_args(Case))}, got {case!r}")
        if vocab_size < 2 or num_contexts < 1:
            raise ValueError(
                f"a bank needs vocab_size >= 2 and num_contexts >= 1, got {vocab_size} and "
                f"{num_contexts}"
            )
        target_t, anchor_t, noise = CASES[case]
        target_t = target_t if target_temperature is None else target_temperature
        anchor_t = anchor_t if anchor_temperature is None else anchor_temperature
        noise = noise if anchor_noise is None else anchor_noise
        if not (0 < target_t and 0 < anchor_t and 0 <= noise < np.inf):
            raise ValueError(
                f"temperatures must be positive and noise not negative, got {target_t}, "
                f"{anchor_t} and {noise}"
            )
        B, V = num_contexts, vocab_size
        rng = np.random.default_rng(seed)
        steepness_B = rng.gamma(GAMMA_SHAPE, GAMMA_SCALE, size=B) + GAMMA_SHIFT
        order_BV = np.broadcast_to(np.arange(V), (B, V))
        if permute:
            order_BV = rng.permuted(order_BV, axis=1)
        z_BV = -steepness_B[:, None] * np.log(order_BV + 1.0)
        noise_rng = rng if noise_seed is None else np.random.default_rng(noise_seed)
        blurred_BV = z_BV + noise * noise_rng.standard_normal((B, V)) if noise else z_BV
        return cls(case, _softmax(z_BV / target_t), _softmax(blurred_BV / anchor_t))

    @property
    def vocab_size(self) -> int:
        """Number of tokens V."""
        return self.target_BV.shape[1]

    @property
    def num_contexts(self) -> int:
        """Number of contexts B."""
        return self.target_BV.shape[0]

    def target_entropy(self) -> NDArray[np.float64]:
        """Entropy of each target law in nats, shape ``[B]``."""
        return _entropy(self.target_BV)

    def anchor_entropy(self) -> NDArray[np.float64]:
        """Entropy of each anchor law in nats, shape ``[B]``."""
        return _entropy(self.anchor_BV)

    def total_variation(self) -> NDArray[np.float64]:
        """Total variation between target and anchor of each context, shape ``[B]``."""
        return 0.5 * np.abs(self.target_BV - self.anchor_BV).sum(axis=-1)

    def sample_contexts(
        self, rng: np.random.Generator, shape: int | tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Draw context numbers in ``[0, B)`` independently and uniformly.

        Parameters
        ----------
        rng
            Source of randomness.
        shape
            Shape of the result, for instance ``(texts, tokens)``.
        """
        return rng.integers(0, self.num_contexts, size=shape)
