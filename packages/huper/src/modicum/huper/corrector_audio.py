"""What the neural corrector hears: frames of a recognizer or another network, as units.

A front end turns the frames of one recording into a sequence of units, discrete or vectors, and
units into the vectors that the corrector attends to. It runs no recognizer and sees no phone.

Shape suffixes: B recordings, T frames, U units, C columns of a frame, K centroids, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from modicum.core.device import torch_generator
from modicum.huper.emissions import Emissions, check_rows

__all__ = ["FRONTENDS", "AudioFrontend", "kmeans", "stride_of"]

FRONTENDS = ("posterior", "continuous", "argmax", "kmeans")
"""Log-probabilities, projected; any features, projected; the largest feature of a frame as a token;
the nearest centroid as a token."""

_FLOOR = 10.0
"""Log-probabilities are cut off at minus this, and scaled to 0 … 1: an affine map, so that the
projection of them is still linear above the cut."""

_RATE_TOLERANCE = 1e-6
_LLOYD_STEPS, _LLOYD_FRAMES = 25, 100_000
_AT_ONCE = 4096


class AudioFrontend(nn.Module):
    """Units of a recording.

    Parameters
    ----------
    kind
        One of `FRONTENDS`.
    columns
        C of the frames; for tokens None takes any, and then none are fitted.
    vocabulary
        How many tokens there are: K of ``"kmeans"``.
    width
        D.
    stride
        Frames per unit: every `stride`-th token, or the mean of as many frames.
    """

    def __init__(
        self, kind: str, columns: int | None, vocabulary: int, width: int, stride: int
    ) -> None:
        super().__init__()
        self.kind, self.columns, self.vocabulary = kind, columns, vocabulary
        self.stride = stride
        if self.is_discrete:
            self.audio_embedding = nn.Embedding(vocabulary, width)
        else:
            self.audio_projection = nn.Linear(columns or 1, width)
        self.centroids_KC: torch.Tensor | None
        centroids = None
        if kind == "kmeans" and columns is not None:
            centroids = torch.full((vocabulary, columns), torch.nan)
        self.register_buffer("centroids_KC", centroids)

    @property
    def is_discrete(self) -> bool:
        """Whether units are tokens."""
        return self.kind in ("argmax", "kmeans")

    @property
    def needs_fit(self) -> bool:
        """Whether there are centroids, and nobody has set them yet."""
        return self.centroids_KC is not None and bool(self.centroids_KC.isnan().any())

    def fit(self, recordings: Sequence[Any], seed: int) -> None:
        """Set the centroids, where there are any, from frames (T, C)."""
        if self.centroids_KC is None:
            return
        frames_NC = np.concatenate([self._frames(one) for one in recordings])
        self.centroids_KC.copy_(kmeans(frames_NC, self.vocabulary, seed))

    def units(self, audio: Any) -> torch.Tensor:
        """Turn a recording into units.

        Parameters
        ----------
        audio
            (T, C) frames, or an `Emissions` of one recording; tokens (T,) where units are tokens.

        Returns
        -------
        torch.Tensor
            int64 (U,) tokens or float32 (U, C), on the CPU.

        Raises
        ------
        ValueError
            If there is no frame, the shape is wrong, a value is not finite, a token is not in the
            vocabulary, or centroids were never fitted.
        """
        if self.is_discrete and _is_tokens(audio):
            tokens_T = torch.as_tensor(np.asarray(audio), dtype=torch.int64)
            if not len(tokens_T):
                raise ValueError("the recording has no frame")
        else:
            frames_TC = self._frames(audio)
            if not self.is_discrete:
                return self._thinned(frames_TC)
            if self.kind == "argmax":
                tokens_T = torch.from_numpy(frames_TC.argmax(1))
            else:
                if self.centroids_KC is None:
                    raise ValueError(
                        "this front end has no centroids: give tokens, or make the corrector with "
                        "the number of features"
                    )
                if self.needs_fit:
                    raise ValueError("the centroids were never fitted; call fit first")
                tokens_T = _nearest(torch.from_numpy(frames_TC), self.centroids_KC.cpu())
        if not 0 <= int(tokens_T.min()) <= int(tokens_T.max()) < self.vocabulary:
            raise ValueError(
                f"tokens must be in [0, {self.vocabulary}), got {int(tokens_T.min())} to "
                f"{int(tokens_T.max())}"
            )
        return tokens_T[:: self.stride]

    def _frames(self, audio: Any) -> np.ndarray:
        if isinstance(audio, Emissions):
            if len(audio) != 1:
                raise ValueError(f"one recording is wanted, the emissions have {len(audio)}")
            audio = audio.utterance(0)
        elif isinstance(audio, torch.Tensor):
            audio = audio.detach().cpu().float().numpy()
        frames_TC = np.asarray(audio, np.float32)
        if frames_TC.ndim != 2 or (self.columns and frames_TC.shape[1] != self.columns):
            raise ValueError(
                f"frames have the shape (T, {self.columns or 'C'}), got {frames_TC.shape}"
            )
        if not len(frames_TC):
            raise ValueError("the recording has no frame")
        if self.kind == "posterior":
            check_rows(frames_TC)
        elif not np.isfinite(frames_TC).all():
            raise ValueError("the features of a frame must be finite")
        return frames_TC

    def _thinned(self, frames_TC: np.ndarray) -> torch.Tensor:
        if self.kind == "posterior":
            frames_TC = np.maximum(frames_TC, -_FLOOR) / _FLOOR + 1
        if self.stride == 1:
            return torch.from_numpy(np.ascontiguousarray(frames_TC))
        starts = np.arange(0, len(frames_TC), self.stride)
        counts = np.minimum(starts + self.stride, len(frames_TC)) - starts
        sums_UC = np.add.reduceat(frames_TC, starts, axis=0)
        return torch.from_numpy((sums_UC / counts[:, None]).astype(np.float32))

    def forward(self, units: torch.Tensor) -> torch.Tensor:
        """Turn units (B, U) or (B, U, C) into vectors (B, U, D)."""
        found_BUD: torch.Tensor = (
            self.audio_embedding(units) if self.is_discrete else self.audio_projection(units)
        )
        return found_BUD


def stride_of(frame_shift: float, token_rate: float | None) -> int:
    """Return how many frames make a unit.

    Raises
    ------
    ValueError
        If that is no whole number of at least 1.
    """
    if token_rate is None:
        return 1
    if not token_rate > 0:
        raise ValueError(f"token_rate must be positive, not {token_rate!r}")
    found = 1 / (frame_shift * token_rate)
    if found < 1 - _RATE_TOLERANCE or abs(found - round(found)) > _RATE_TOLERANCE:
        raise ValueError(
            f"token_rate must divide the {1 / frame_shift:g} frames per second, not {token_rate!r}"
        )
    return round(found)


def kmeans(frames_NC: np.ndarray, centroids: int, seed: int = 0) -> torch.Tensor:
    """Return centroids by Lloyd's algorithm, from frames drawn at random.

    Parameters
    ----------
    frames_NC
        float32 (N, C); 100,000 of them at most are looked at.
    centroids
        K.
    seed
        Of the draw; the same seed gives the same centroids.

    Returns
    -------
    torch.Tensor
        float32 (K, C).

    Raises
    ------
    ValueError
        If there are fewer frames than centroids.
    """
    if len(frames_NC) < centroids:
        raise ValueError(f"{centroids} centroids need as many frames, got {len(frames_NC)}")
    generator = torch_generator(seed, "cpu", "centroids")
    order_N = torch.randperm(len(frames_NC), generator=generator)
    points_NC = torch.from_numpy(np.asarray(frames_NC, np.float32))
    points_NC = points_NC[order_N[: max(centroids, _LLOYD_FRAMES)]]
    found_KC = points_NC[:centroids].clone()
    before_N = None
    for _ in range(_LLOYD_STEPS):
        token_N = _nearest(points_NC, found_KC)
        if before_N is not None and torch.equal(token_N, before_N):
            break
        before_N = token_N
        count_K = torch.bincount(token_N, minlength=centroids)
        sum_KC = torch.zeros_like(found_KC).index_add_(0, token_N, points_NC)
        # A centroid that nobody is nearest to stays where it is.
        filled_K = count_K > 0
        found_KC[filled_K] = sum_KC[filled_K] / count_K[filled_K, None]
    return found_KC


def _nearest(points_NC: torch.Tensor, centroids_KC: torch.Tensor) -> torch.Tensor:
    return torch.cat(
        [torch.cdist(part_NC, centroids_KC).argmin(1) for part_NC in points_NC.split(_AT_ONCE)]
    )


def _is_tokens(audio: Any) -> bool:
    if isinstance(audio, Emissions):
        return False
    array = np.asarray(audio.detach().cpu() if isinstance(audio, torch.Tensor) else audio)
    return array.ndim == 1 and (not array.size or np.issubdtype(array.dtype, np.integer))
