"""Fine-tuning of torch modules from losses alone: optimizer, trajectory file, many copies at once.

The public names of the room; each module's text says what it does. Needs torch:
``pip install "modicum-zeroth[torch]"``.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as missing:
    if missing.name != "torch":
        raise
    raise ImportError(
        'zeroth-order steps of modules need torch: pip install "modicum-zeroth[torch]"'
    ) from missing

from modicum.zeroth.torch.batched import BatchedLoss, BoundLoss, batched_module_loss
from modicum.zeroth.torch.kernels import add_noise
from modicum.zeroth.torch.noise import RNG_ALGORITHM, Slot, normals
from modicum.zeroth.torch.optimizer import StepRecord, ZOOptimizer, decay_groups
from modicum.zeroth.torch.radius import AutoRadius
from modicum.zeroth.torch.trajectory import (
    TrajectoryFile,
    TrajectoryWriter,
    read_trajectory,
    replay,
)

__all__ = [
    "RNG_ALGORITHM",
    "AutoRadius",
    "BatchedLoss",
    "BoundLoss",
    "Slot",
    "StepRecord",
    "TrajectoryFile",
    "TrajectoryWriter",
    "ZOOptimizer",
    "add_noise",
    "batched_module_loss",
    "decay_groups",
    "normals",
    "read_trajectory",
    "replay",
]
