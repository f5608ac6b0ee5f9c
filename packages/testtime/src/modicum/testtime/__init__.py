"""How many samples, when to stop, how to pick, whether to feed back: with known guarantees.

Submodules with names of their own: `extract` and `equality` read answers, `backends` draw samples,
`adapters` meet other libraries, `stopping` and `controllers` hold rules and learners, `plots`
draws, `construct` (needs torch) glues experts into one transformer that runs the controller itself.
"""

from importlib import import_module

from modicum.testtime import adapters, backends, controllers, equality, extract, plots, stopping
from modicum.testtime.allocator import Allocator
from modicum.testtime.best_of_n import BestOfN, ConstantRewards
from modicum.testtime.bounds import (
    best_of_n_n,
    chernoff_error,
    chernoff_n,
    cumulative_regret_bound,
    hoeffding_error,
    hoeffding_n,
    mixture_success,
    necessary_n,
    regret_bound,
    round_robin_success,
    rounds_needed,
    self_correction_gap,
    separation_constant,
)
from modicum.testtime.calibration import VerifierCalibration, calibrate_verifier
from modicum.testtime.controllers import (
    EXP3,
    UCB1,
    Controller,
    Eliminate,
    Hedge,
    RoundRobin,
    Thompson,
    Uniform,
    parse_controller,
    simulate_controller,
)
from modicum.testtime.engine import Engine
from modicum.testtime.equality import NonTransitive
from modicum.testtime.estimate import GapEstimate, estimate_gap
from modicum.testtime.log import SampleLog
from modicum.testtime.planner import Comparison, Plan, compare, plan
from modicum.testtime.plurality import plurality_curve, plurality_success
from modicum.testtime.recorded import (
    CoverageFit,
    Curve,
    Recorded,
    best_of_k,
    curve,
    fit_coverage,
    maj_at_k,
    maj_curve,
    pass_at_k,
    verified_majority_at_k,
    vote_counts,
    weighted_at_k,
)
from modicum.testtime.results import Results
from modicum.testtime.samples import (
    Budget,
    Completion,
    DegenerateSampling,
    OrderBiasWarning,
    Request,
    Result,
    Sample,
    Sampling,
    Usage,
    sample_seed,
)
from modicum.testtime.self_consistency import SelfConsistency, softmax_weight
from modicum.testtime.self_correction import CorrectionResult, Expert, SelfCorrection
from modicum.testtime.stopping import (
    ESC,
    PPR,
    AcceptCount,
    All,
    Any,
    BetaStop,
    Curtailed,
    Decision,
    FirstAccept,
    FixedN,
    ModeCertificate,
    RewardGain,
    StoppingRule,
    StopTable,
    Supermajority,
    parse_rule,
    simulate_stopping,
)
from modicum.testtime.table import SampleTable
from modicum.testtime.templates import ReviseTemplate
from modicum.testtime.verifier_models import (
    DiscreteVerifier,
    GaussianVerifier,
    VerifierModel,
    best_of_n_success,
    crossover,
    first_accept,
    plateau,
    verified_majority_success,
)
from modicum.testtime.verifiers import (
    PRM,
    CallableVerifier,
    ExactAnswer,
    LLMJudge,
    Noisy,
    Rescaled,
    Thresholded,
    reward_model,
)

__all__ = [
    "ESC",
    "EXP3",
    "PPR",
    "PRM",
    "UCB1",
    "AcceptCount",
    "All",
    "Allocator",
    "Any",
    "BestOfN",
    "BetaStop",
    "Budget",
    "CallableVerifier",
    "Comparison",
    "Completion",
    "ConstantRewards",
    "Controller",
    "CorrectionResult",
    "CoverageFit",
    "Curtailed",
    "Curve",
    "Decision",
    "DegenerateSampling",
    "DiscreteVerifier",
    "Eliminate",
    "Engine",
    "ExactAnswer",
    "Expert",
    "FirstAccept",
    "FixedN",
    "GapEstimate",
    "GaussianVerifier",
    "Hedge",
    "LLMJudge",
    "ModeCertificate",
    "Noisy",
    "NonTransitive",
    "OrderBiasWarning",
    "Plan",
    "Recorded",
    "Request",
    "Rescaled",
    "Result",
    "Results",
    "ReviseTemplate",
    "RewardGain",
    "RoundRobin",
    "Sample",
    "SampleLog",
    "SampleTable",
    "Sampling",
    "SelfConsistency",
    "SelfCorrection",
    "StopTable",
    "StoppingRule",
    "Supermajority",
    "Thompson",
    "Thresholded",
    "Uniform",
    "Usage",
    "VerifierCalibration",
    "VerifierModel",
    "adapters",
    "backends",
    "best_of_k",
    "best_of_n_n",
    "best_of_n_success",
    "calibrate_verifier",
    "chernoff_error",
    "chernoff_n",
    "compare",
    "construct",
    "controllers",
    "crossover",
    "cumulative_regret_bound",
    "curve",
    "equality",
    "estimate_gap",
    "extract",
    "first_accept",
    "fit_coverage",
    "hoeffding_error",
    "hoeffding_n",
    "maj_at_k",
    "maj_curve",
    "mixture_success",
    "necessary_n",
    "parse_controller",
    "parse_rule",
    "pass_at_k",
    "plan",
    "plateau",
    "plots",
    "plurality_curve",
    "plurality_success",
    "regret_bound",
    "reward_model",
    "round_robin_success",
    "rounds_needed",
    "sample_seed",
    "self_correction_gap",
    "separation_constant",
    "simulate_controller",
    "simulate_stopping",
    "softmax_weight",
    "stopping",
    "verified_majority_at_k",
    "verified_majority_success",
    "vote_counts",
    "weighted_at_k",
]


def __getattr__(name: str) -> object:
    # The construction consists of torch modules; everything else works without torch.
    if name == "construct":
        return import_module("modicum.testtime.construct")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
