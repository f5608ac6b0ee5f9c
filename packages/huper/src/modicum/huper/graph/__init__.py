"""Decoding between what was heard and what the dictionary says: CTC composed with edit graphs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modicum.huper.graph import batched, dysfluent, export
    from modicum.huper.graph.posteriors import Posteriors, edit_posteriors, forward_backward
    from modicum.huper.graph.reference import ReferenceGraph
    from modicum.huper.graph.viterbi import Alignment, Edit, Pause, SpokenWord, fused_decode

__all__ = [
    "Alignment",
    "Edit",
    "Pause",
    "Posteriors",
    "ReferenceGraph",
    "SpokenWord",
    "batched",
    "dysfluent",
    "edit_posteriors",
    "export",
    "forward_backward",
    "fused_decode",
]

_MODULES = {"batched", "dysfluent", "export"}
_FROM = {
    "Alignment": "viterbi",
    "Edit": "viterbi",
    "Pause": "viterbi",
    "Posteriors": "posteriors",
    "ReferenceGraph": "reference",
    "SpokenWord": "viterbi",
    "edit_posteriors": "posteriors",
    "forward_backward": "posteriors",
    "fused_decode": "viterbi",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _FROM:
        found = globals()[name] = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
