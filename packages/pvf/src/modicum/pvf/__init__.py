"""Plan, verify and fill: masked diffusion language models in fewer forward passes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modicum.pvf import theory
    from modicum.pvf.advice import advise
    from modicum.pvf.calibration import calibrate_plan_vocab
    from modicum.pvf.decoder import Decoder
    from modicum.pvf.events import Commit, Rejected
    from modicum.pvf.generation import GenerateOutput, StreamEvent, generate, infill, stream
    from modicum.pvf.integrations.transformers import hf_generate
    from modicum.pvf.loading import load_mask_predictor
    from modicum.pvf.policy import AutoPVF
    from modicum.pvf.predictor import CallablePredictor, MaskPredictor
    from modicum.pvf.stats import DecodeStats
    from modicum.pvf.strategies.draft import DraftVerify
    from modicum.pvf.strategies.one_row import (
        KLASS,
        EarlyCommit,
        EntropyBound,
        ExtraToken,
        Factor,
        Threshold,
        TopK,
    )
    from modicum.pvf.strategies.plan_verify_fill import PVF
    from modicum.pvf.vocabulary import PlanVocabulary

__all__ = [
    "KLASS",
    "PVF",
    "AutoPVF",
    "CallablePredictor",
    "Commit",
    "DecodeStats",
    "Decoder",
    "DraftVerify",
    "EarlyCommit",
    "EntropyBound",
    "ExtraToken",
    "Factor",
    "GenerateOutput",
    "MaskPredictor",
    "PlanVocabulary",
    "Rejected",
    "StreamEvent",
    "Threshold",
    "TopK",
    "advise",
    "calibrate_plan_vocab",
    "generate",
    "hf_generate",
    "infill",
    "load_mask_predictor",
    "stream",
    "theory",
]

_MODULES = {"theory"}
# Loaded when they are asked for: torch takes seconds.
_FROM = {
    "AutoPVF": "policy",
    "CallablePredictor": "predictor",
    "Commit": "events",
    "DecodeStats": "stats",
    "Decoder": "decoder",
    "DraftVerify": "strategies.draft",
    "EarlyCommit": "strategies.one_row",
    "EntropyBound": "strategies.one_row",
    "ExtraToken": "strategies.one_row",
    "Factor": "strategies.one_row",
    "GenerateOutput": "generation",
    "KLASS": "strategies.one_row",
    "MaskPredictor": "predictor",
    "PVF": "strategies.plan_verify_fill",
    "PlanVocabulary": "vocabulary",
    "Rejected": "events",
    "StreamEvent": "generation",
    "Threshold": "strategies.one_row",
    "TopK": "strategies.one_row",
    "advise": "advice",
    "calibrate_plan_vocab": "calibration",
    "generate": "generation",
    "hf_generate": "integrations.transformers",
    "infill": "generation",
    "load_mask_predictor": "loading",
    "stream": "generation",
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
