"""Anytime-valid watermark for language-model text: push tokens, read one e-value, stop any time."""

from modicum.core.stats import EProcess
from modicum.core.watermark.anchors import Anchor, NGramAnchor, UniformAnchor
from modicum.core.watermark.record import WatermarkRecord
from modicum.core.watermark.warnings import PowerWarning, ValidityWarning
from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.corpus import CorpusResult, KeysResult, detect_corpus, detect_keys
from modicum.ewatermark.detector import (
    DetectorStream,
    EWatermarkDetector,
    EWatermarkDetectorOutput,
    RekeyCheck,
    StreamState,
)
from modicum.ewatermark.scheme import EWatermarkScheme

__all__ = [
    "Anchor",
    "CausalLMAnchor",
    "CorpusResult",
    "DetectorStream",
    "EProcess",
    "EWatermarkConfig",
    "EWatermarkDetector",
    "EWatermarkDetectorOutput",
    "EWatermarkScheme",
    "KeysResult",
    "NGramAnchor",
    "PowerWarning",
    "RekeyCheck",
    "SelfAnchor",
    "StreamState",
    "UniformAnchor",
    "ValidityWarning",
    "WatermarkRecord",
    "detect_corpus",
    "detect_keys",
]


def __getattr__(name: str) -> object:
    # Anchors that are language models need torch; everything else works without it.
    if name in ("CausalLMAnchor", "SelfAnchor"):
        from modicum.core.watermark import causal_lm

        return getattr(causal_lm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
