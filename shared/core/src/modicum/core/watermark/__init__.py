"""What watermark packages share: contexts, anchors, warpers, attacks, the record, adapters.

Knows how tokens become scored positions and how a next-token law reaches a detector; knows no
particular watermark. Everything here imports without torch; the parts that need it are loaded on
first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modicum.core.watermark.anchors import Anchor, NGramAnchor, UniformAnchor
    from modicum.core.watermark.bank import TokenBank
    from modicum.core.watermark.causal_lm import CausalLMAnchor, SelfAnchor
    from modicum.core.watermark.contexts import ContextTracker, distinct_contexts
    from modicum.core.watermark.record import WatermarkRecord
    from modicum.core.watermark.warpers import Warper

_HOME = {
    "Anchor": "anchors",
    "UniformAnchor": "anchors",
    "NGramAnchor": "anchors",
    "CausalLMAnchor": "causal_lm",
    "SelfAnchor": "causal_lm",
    "ContextTracker": "contexts",
    "distinct_contexts": "contexts",
    "WatermarkRecord": "record",
    "TokenBank": "bank",
    "Warper": "warpers",
}

__all__ = [
    "Anchor",
    "CausalLMAnchor",
    "ContextTracker",
    "NGramAnchor",
    "SelfAnchor",
    "TokenBank",
    "UniformAnchor",
    "Warper",
    "WatermarkRecord",
    "distinct_contexts",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
