"""Small worlds shared by the tests of ewatermark: laws that depend on the last token only."""

from collections.abc import Callable

import numpy as np
import pytest

from modicum.core.watermark.anchors import NGramAnchor
from modicum.ewatermark import EWatermarkConfig, EWatermarkScheme

KEY = b"a key for tests of ewatermark"


class World:
    """A Markov source over V tokens with low entropy, as the target model."""

    def __init__(self, vocab_size: int = 120, rows: int = 40, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        laws = rng.dirichlet(np.full(vocab_size, 0.08), rows) + 1e-9
        self.vocab_size = vocab_size
        self.laws_NV = laws / laws.sum(axis=1, keepdims=True)

    def law(self, tokens: list[int]) -> np.ndarray:
        return self.laws_NV[(7 * tokens[-1] if tokens else 0) % len(self.laws_NV)]

    def plain(self, length: int, rng: np.random.Generator) -> list[int]:
        tokens: list[int] = []
        for _ in range(length):
            tokens.append(int(rng.choice(self.vocab_size, p=self.law(tokens))))
        return tokens

    def marked(self, config: EWatermarkConfig, length: int, rng: np.random.Generator) -> list[int]:
        scheme = EWatermarkScheme(config)
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
def ngram(world: World) -> NGramAnchor:
    rng = np.random.default_rng(1)
    return NGramAnchor(world.vocab_size, order=2).fit(world.plain(300, rng) for _ in range(30))


@pytest.fixture(scope="session")
def make_config(world: World) -> Callable[..., EWatermarkConfig]:
    def make(**changes: object) -> EWatermarkConfig:
        fields: dict = {"key": KEY, "vocab_size": world.vocab_size} | changes
        return EWatermarkConfig(**fields)

    return make
