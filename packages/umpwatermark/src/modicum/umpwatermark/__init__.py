"""Optimal watermarking: the best trade-off of false alarms, misses, distortion and text length."""

from modicum.core.watermark.anchors import Anchor, NGramAnchor, UniformAnchor
from modicum.core.watermark.record import WatermarkRecord
from modicum.core.watermark.warnings import PowerWarning, ValidityWarning
from modicum.core.watermark.warpers import Warper
from modicum.umpwatermark.agnostic import (
    AgnosticCoupling,
    exact_agnostic_sampler,
    greedy_hit_rate,
    greedy_law,
    optimal_hit_rate,
)
from modicum.umpwatermark.best_of_n import BestOfN, BlockDetector
from modicum.umpwatermark.config import KNOWN_PRFS, UMPWatermarkConfig
from modicum.umpwatermark.corpus import CorpusResult, KeysResult, detect_corpus, detect_keys
from modicum.umpwatermark.coupling import UMPCoupling, ump_coupling
from modicum.umpwatermark.detector import (
    UMPWatermarkDetector,
    UMPWatermarkDetectorOutput,
)
from modicum.umpwatermark.graphs import PerturbationGraph, edit_graph, hamming_graph
from modicum.umpwatermark.planner import (
    Plan,
    PlanTable,
    evidence_budget,
    plan,
    power,
    required_entropy,
    tokens_needed,
)
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.robust import (
    RobustLP,
    RobustOrbitLP,
    robust_curve,
    robust_type2,
    robust_type2_orbit,
)
from modicum.umpwatermark.scheme import UMPWatermarkScheme
from modicum.umpwatermark.statistics import STATISTICS, CalibrationTable
from modicum.umpwatermark.stream import DetectorStream, StreamState
from modicum.umpwatermark.theory import (
    agnostic_type2,
    minimax_price,
    seq_gumbel_type2,
    tradeoff_curve,
    ump_law,
    ump_type2,
)

__all__ = [
    "KNOWN_PRFS",
    "STATISTICS",
    "AgnosticCoupling",
    "Anchor",
    "BestOfN",
    "BlockDetector",
    "CalibrationTable",
    "CausalLMAnchor",
    "CorpusResult",
    "DetectorStream",
    "EntropyProfile",
    "KeysResult",
    "NGramAnchor",
    "PerturbationGraph",
    "Plan",
    "PlanTable",
    "PowerWarning",
    "RobustLP",
    "RobustOrbitLP",
    "SelfAnchor",
    "StreamState",
    "UMPCoupling",
    "UMPWatermarkConfig",
    "UMPWatermarkDetector",
    "UMPWatermarkDetectorOutput",
    "UMPWatermarkScheme",
    "UniformAnchor",
    "ValidityWarning",
    "Warper",
    "WatermarkRecord",
    "agnostic_type2",
    "detect_corpus",
    "detect_keys",
    "edit_graph",
    "evidence_budget",
    "exact_agnostic_sampler",
    "greedy_hit_rate",
    "greedy_law",
    "hamming_graph",
    "minimax_price",
    "optimal_hit_rate",
    "plan",
    "power",
    "required_entropy",
    "robust_curve",
    "robust_type2",
    "robust_type2_orbit",
    "seq_gumbel_type2",
    "tokens_needed",
    "tradeoff_curve",
    "ump_coupling",
    "ump_law",
    "ump_type2",
]


def __getattr__(name: str) -> object:
    # Surrogates that are language models need torch; everything else works without it.
    if name in ("CausalLMAnchor", "SelfAnchor"):
        from modicum.core.watermark import causal_lm

        return getattr(causal_lm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
