"""How hard model, reward, policy and Q-function of a decision process are to represent."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modicum.repcomplexity.late_registration import register_with_gymnasium

# Not only a convenience: the function has to take the place of the module of its name.
from modicum.repcomplexity.measure import measure

if TYPE_CHECKING:
    from modicum.repcomplexity import envs, experts, metrics, protocols
    from modicum.repcomplexity.bits import ComplexityLimitError
    from modicum.repcomplexity.boolean import bounds
    from modicum.repcomplexity.boolean.truth_table import TruthTable
    from modicum.repcomplexity.circuits import builders
    from modicum.repcomplexity.circuits.circuit import Circuit
    from modicum.repcomplexity.circuits.formats import read_circuit, write_circuit
    from modicum.repcomplexity.circuits.synthesis import min_circuit, min_depth_circuit
    from modicum.repcomplexity.collection import collect, sample_bit_mdp
    from modicum.repcomplexity.data import RolloutData
    from modicum.repcomplexity.envs.environment import BitMDPEnv
    from modicum.repcomplexity.envs.torch_vector import TorchVecMDP
    from modicum.repcomplexity.envs.vector import BitMDPVectorEnv
    from modicum.repcomplexity.families import (
        IrrelevantParityMDP,
        MajorityMDP,
        ParityMDP,
        RandomMDP,
        SatMDP,
    )
    from modicum.repcomplexity.mdp import BitMDP
    from modicum.repcomplexity.measurement import Measurement
    from modicum.repcomplexity.report import (
        ComplexityReport,
        ScalingReport,
        complexity_report,
        scaling_report,
    )
    from modicum.repcomplexity.solver import Solution, solve

__all__ = [
    "BitMDP",
    "BitMDPEnv",
    "BitMDPVectorEnv",
    "Circuit",
    "ComplexityLimitError",
    "ComplexityReport",
    "IrrelevantParityMDP",
    "MajorityMDP",
    "Measurement",
    "ParityMDP",
    "RandomMDP",
    "RolloutData",
    "SatMDP",
    "ScalingReport",
    "Solution",
    "TorchVecMDP",
    "TruthTable",
    "bounds",
    "builders",
    "collect",
    "complexity_report",
    "envs",
    "experts",
    "measure",
    "metrics",
    "min_circuit",
    "min_depth_circuit",
    "protocols",
    "read_circuit",
    "sample_bit_mdp",
    "scaling_report",
    "solve",
    "write_circuit",
]

_MODULES = {
    "bounds": "boolean.bounds",
    "builders": "circuits.builders",
    "envs": "envs",
    "experts": "experts",
    "metrics": "metrics",
    "protocols": "protocols",
}
# Loaded when they are asked for: SciPy takes a moment, torch and Gymnasium take seconds.
_FROM = {
    "BitMDP": "mdp",
    "BitMDPEnv": "envs",
    "BitMDPVectorEnv": "envs",
    "Circuit": "circuits.circuit",
    "ComplexityLimitError": "bits",
    "ComplexityReport": "report",
    "IrrelevantParityMDP": "families",
    "MajorityMDP": "families",
    "Measurement": "measurement",
    "ParityMDP": "families",
    "RandomMDP": "families",
    "RolloutData": "data",
    "SatMDP": "families",
    "ScalingReport": "report",
    "Solution": "solver",
    "TorchVecMDP": "envs",
    "TruthTable": "boolean.truth_table",
    "collect": "collection",
    "complexity_report": "report",
    "min_circuit": "circuits.synthesis",
    "min_depth_circuit": "circuits.synthesis",
    "read_circuit": "circuits.formats",
    "sample_bit_mdp": "collection",
    "scaling_report": "report",
    "solve": "solver",
    "write_circuit": "circuits.formats",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found = import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _FROM:
        found = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_gymnasium()
