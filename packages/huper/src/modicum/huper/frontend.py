"""Log-mel features on the frame grid of the public encoders.

Takes a batch of 16 kHz samples and gives 40 log energies every 10 ms, each with mean 0 and variance
1 over its utterance. Nothing is padded: two such frames make one of 20 ms, and N samples give as
many of those as wav2vec 2.0 or WavLM give.

Shape suffixes: B utterances, N samples, F frames of 10 ms, M mel bands, K frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from modicum.huper.audio import FRAME, SAMPLE_RATE

__all__ = ["SHIFT", "LogMel", "frames_of", "mel_filters", "valid"]

SHIFT = 160
"""Samples from one frame to the next: 10 ms."""

POINTS = 512
"""Of the Fourier transform; a frame of 400 samples is filled up with zeros."""

FLOOR = 1e-6
"""Energy below which a band counts as silent; full scale is 1."""

LEAST_DEVIATION = 1e-3
"""Of a log energy over an utterance: below it a band is constant and becomes 0."""

_LOWEST, _HIGHEST = 20.0, 7_600.0
"""Hertz at the ends of the filterbank, as in Kaldi's recipes for 16 kHz."""


def frames_of(samples_B: torch.Tensor) -> torch.Tensor:
    """Return how many frames of 10 ms numbers of samples give; 0 below 400 samples."""
    return torch.clamp((samples_B - FRAME) // SHIFT + 1, min=0)


def valid(lengths_B: torch.Tensor, width: int) -> torch.Tensor:
    """Return which of `width` columns lie within the lengths, bool (B, width)."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]


def mel_filters(bands: int = 40, rate: int = SAMPLE_RATE) -> torch.Tensor:
    """Return triangular filters, evenly spaced on the mel scale 2595 · log10(1 + f / 700).

    Parameters
    ----------
    bands
        M.
    rate
        Samples per second.

    Returns
    -------
    torch.Tensor
        float32 (K, M), K = 257 frequencies from 0 to half the rate.
    """
    hertz_K = torch.linspace(0, rate / 2, POINTS // 2 + 1, dtype=torch.float64)
    ends = [2595 * math.log10(1 + hertz / 700) for hertz in (_LOWEST, min(_HIGHEST, rate / 2))]
    mels = torch.linspace(ends[0], ends[1], bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    rise_KM = (hertz_K[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall_KM = (edges[2:] - hertz_K[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rise_KM, fall_KM).clamp(min=0).float()


class LogMel(nn.Module):
    """Turn samples into normalised log-mel features; it has nothing to learn.

    Parameters
    ----------
    bands
        M, mel bands between 20 and 7,600 Hz.
    """

    window_N: torch.Tensor
    filters_KM: torch.Tensor

    def __init__(self, bands: int = 40) -> None:
        super().__init__()
        self.bands = bands
        # The same for every model: not worth a place in its file.
        self.register_buffer("window_N", torch.hann_window(FRAME), persistent=False)
        self.register_buffer("filters_KM", mel_filters(bands), persistent=False)

    @torch.no_grad()
    def forward(
        self, samples_BN: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute features.

        Parameters
        ----------
        samples_BN
            float32 (B, N), 16,000 per second.
        lengths_B
            int64 (B,), valid samples of each; what follows is not looked at.

        Returns
        -------
        features_BFM, frames_B
            float32 (B, F, M), zero behind the valid frames; int64 (B,), how many those are.

        Raises
        ------
        ValueError
            If an utterance is shorter than 400 samples.
        """
        if len(lengths_B) and int(lengths_B.min()) < FRAME:
            raise ValueError(
                f"an utterance has {int(lengths_B.min())} samples; a frame needs {FRAME} (25 ms)"
            )
        frames_B = frames_of(lengths_B)
        pieces_BFN = samples_BN.float().unfold(1, FRAME, SHIFT) * self.window_N
        power_BFK = torch.fft.rfft(pieces_BFN, n=POINTS).abs().square()
        energy_BFM = power_BFK @ self.filters_KM / FRAME
        log_BFM = torch.log(energy_BFM + FLOOR)
        inside_BF1 = valid(frames_B, log_BFM.shape[1])[:, :, None]
        count_B11 = frames_B[:, None, None]
        mean_B1M = (log_BFM * inside_BF1).sum(1, keepdim=True) / count_B11
        centred_BFM = (log_BFM - mean_B1M) * inside_BF1
        deviation_B1M = (centred_BFM.square().sum(1, keepdim=True) / count_B11).sqrt()
        return centred_BFM / deviation_B1M.clamp(min=LEAST_DEVIATION), frames_B
