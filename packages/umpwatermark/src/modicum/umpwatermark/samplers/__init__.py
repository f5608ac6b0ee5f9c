"""Samplers of the token-level watermark, one file each, and how to get one by name."""

from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.samplers.base import TokenSampler
from modicum.umpwatermark.samplers.greenlist import GreenlistSampler
from modicum.umpwatermark.samplers.gumbel import GumbelSampler
from modicum.umpwatermark.samplers.hazard import HazardSampler
from modicum.umpwatermark.samplers.ump_aware import UMPAwareSampler

__all__ = [
    "GreenlistSampler",
    "GumbelSampler",
    "HazardSampler",
    "TokenSampler",
    "UMPAwareSampler",
    "make_sampler",
]


def make_sampler(config: UMPWatermarkConfig) -> TokenSampler:
    """Build the sampler that a configuration names."""
    if config.sampler == "gumbel":
        return GumbelSampler()
    if config.sampler == "hazard":
        return HazardSampler()
    # The configuration has filled in the level of the two samplers that have one.
    assert config.gamma is not None
    if config.sampler == "greenlist":
        return GreenlistSampler(config.gamma, config.coupling)
    return UMPAwareSampler(config.gamma)
