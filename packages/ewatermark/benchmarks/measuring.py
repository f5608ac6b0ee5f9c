"""The watermarks that the benchmarks of this package measure, and where results are written.

Nothing here is part of the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, LlamaForCausalLM

from modicum.core.watermark import CausalLMAnchor, NGramAnchor
from modicum.core.watermark.adapters.tiny_lm import load_tiny, tiny_path
from modicum.ewatermark import EWatermarkConfig

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
KEY = b"a key for benchmarks only"


def tiny_model(vocab_size: int, device: str) -> Any:
    """Return the shipped anchor model, or one of its shape with random weights and another V."""
    config = AutoConfig.from_pretrained(tiny_path("anchor"), local_files_only=True)
    if vocab_size == config.vocab_size:
        return load_tiny("anchor", device=device)[0]
    config.vocab_size = vocab_size
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return LlamaForCausalLM(config).to(device).eval()


def our_configs(vocab_size: int, device: str) -> dict[str, EWatermarkConfig]:
    """Return the default watermark with three anchors."""
    rng = np.random.default_rng(SEED)
    n_gram = NGramAnchor(vocab_size).fit([rng.zipf(1.3, 200_000) % vocab_size])
    anchors = {
        "uniform": None,
        "n-gram": n_gram,
        "tiny LM": CausalLMAnchor(tiny_model(vocab_size, device)),
    }
    return {
        name: EWatermarkConfig(key=KEY, vocab_size=vocab_size, anchor=anchor)
        for name, anchor in anchors.items()
    }
