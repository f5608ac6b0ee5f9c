"""A small world shared by tests of umpwatermark: a law that depends on the last token only."""

from collections.abc import Callable

import numpy as np
import pytest

from modicum.core.watermark.contexts import PAD
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.scheme import UMPWatermarkScheme

WORLD_KEY = b"a key for tests of umpwatermark"


class World:
    """A Markov source over V tokens with low entropy: the generator, and an anchor of itself."""

    window: int | None = 1

    def __init__(self, vocab_size: int = 60, rows: int = 30, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        laws = rng.dirichlet(np.full(vocab_size, 0.1), rows) + 1e-9
        self.vocab_size = vocab_size
        self.laws_NV = laws / laws.sum(axis=1, keepdims=True)
        self.calls = 0

    @property
    def fingerprint(self) -> str:
        return f"world:{self.vocab_size}"

    def rows(self, last_B: np.ndarray) -> np.ndarray:
        return np.where(last_B == PAD, 0, 7 * last_B) % len(self.laws_NV)

    def law(self, tokens: list[int]) -> np.ndarray:
        return self.laws_NV[self.rows(np.array(tokens[-1] if tokens else PAD))]

    def log_probs(self, context_ids_BL: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        self.calls += 1
        last_B = context_ids_BL[:, -1]
        return np.log(self.laws_NV[self.rows(last_B)])

    def token_logprobs(self, ids: list[int]) -> list[float]:
        return [float(np.log(self.law(ids[:i])[token])) for i, token in enumerate(ids)]

    def plain(self, length: int, rng: np.random.Generator) -> list[int]:
        tokens: list[int] = []
        for _ in range(length):
            tokens.append(int(rng.choice(self.vocab_size, p=self.law(tokens))))
        return tokens

    def marked(
        self, config: UMPWatermarkConfig, length: int, rng: np.random.Generator
    ) -> list[int]:
        scheme = UMPWatermarkScheme(config)
        tracker = scheme.new_tracker()
        for _ in range(length):
            logits_BV = np.log(self.law(tracker.tokens))[None]
            law = np.exp(scheme.transform(logits_BV, [tracker])[0])
            tracker.push(int(rng.choice(self.vocab_size, p=law / law.sum())))
        return tracker.tokens


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def world_config(world: World) -> Callable[..., UMPWatermarkConfig]:
    """Return configurations over the world's vocabulary; ump-aware gets the world as surrogate."""

    def make(**changes: object) -> UMPWatermarkConfig:
        fields: dict = {"key": WORLD_KEY, "vocab_size": world.vocab_size} | changes
        if fields.get("sampler") == "ump-aware":
            fields.setdefault("surrogate", world)
        return UMPWatermarkConfig(**fields)

    return make
