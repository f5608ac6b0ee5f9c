"""A tiny trained masked diffusion language model, its task and its training.

``generate(load_tiny(), "a 3 , k 7 , m 1 , t 5 ,", gen_length=32, block_length=16)`` works without a
download.
"""

from modicum.pvf.tiny.model import (
    CHECKPOINTS,
    TinyConfig,
    TinyMDLM,
    load_checkpoint,
    load_tiny,
)
from modicum.pvf.tiny.task import (
    ANSWER_LENGTH,
    PROMPT_LENGTH,
    STYLE_IDS,
    Items,
    TinyTokenizer,
    draw_items,
    is_exact,
)
from modicum.pvf.tiny.train import train

__all__ = [
    "ANSWER_LENGTH",
    "CHECKPOINTS",
    "PROMPT_LENGTH",
    "STYLE_IDS",
    "Items",
    "TinyConfig",
    "TinyMDLM",
    "TinyTokenizer",
    "draw_items",
    "is_exact",
    "load_checkpoint",
    "load_tiny",
    "train",
]
