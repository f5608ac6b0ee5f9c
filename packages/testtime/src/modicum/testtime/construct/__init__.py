"""Transformers that run online learning over the experts glued into them."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        'modicum.testtime.construct needs torch: pip install "modicum-testtime[torch]"'
    ) from error

from modicum.testtime.construct.experts import AttentionOnlyLM
from modicum.testtime.construct.glue import attention_leak, glue
from modicum.testtime.construct.policies import IndexPolicy, SoftmaxPolicy
from modicum.testtime.construct.run import Trajectory, Turn
from modicum.testtime.construct.transformer import GluedTransformer

__all__ = [
    "AttentionOnlyLM",
    "GluedTransformer",
    "IndexPolicy",
    "SoftmaxPolicy",
    "Trajectory",
    "Turn",
    "attention_leak",
    "glue",
]
