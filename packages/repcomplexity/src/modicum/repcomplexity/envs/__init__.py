"""Simulators of bit-level decision processes: Gymnasium environments and batches of tensors.

`TorchVecMDP` needs torch only. What is made for Gymnasium needs the extra ``envs`` and is loaded
when it is asked for. The names ``modicum/MajorityMDP-v0``, ``modicum/ParityMDP-v0``,
``modicum/SatMDP-v0`` and ``modicum/BitMDP-v0`` are known to Gymnasium once it and
`modicum.repcomplexity` are imported, in either order, or by a name with the module in front:
``gymnasium.make("modicum.repcomplexity:modicum/MajorityMDP-v0")``.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from modicum.repcomplexity.envs.observations import OBSERVATION_MODES, Observer
from modicum.repcomplexity.envs.simulator import BatchState

__all__ = [
    "OBSERVATION_MODES",
    "BatchState",
    "BitMDPEnv",
    "BitMDPVectorEnv",
    "EnvState",
    "Observer",
    "TorchVecMDP",
    "register",
]

_MODULE_OF = {
    "BitMDPEnv": "environment",
    "EnvState": "environment",
    "BitMDPVectorEnv": "vector",
    "TorchVecMDP": "torch_vector",
}


def register() -> None:
    """Make the environments known to Gymnasium; again is no harm.

    Raises
    ------
    ImportError
        If Gymnasium is not installed.
    """
    _load("registration").register_all()


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(_load(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load(module: str) -> ModuleType:
    try:
        return import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "gymnasium":
            raise
        raise ImportError(
            'environments need Gymnasium: pip install "modicum-repcomplexity[envs]"'
        ) from error


if sys.modules.get("gymnasium") is not None:
    register()
