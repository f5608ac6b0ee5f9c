"""A phone recognizer of a quarter of a million parameters, in plain torch.

`TinyConvCTC` takes 16 kHz samples and gives log-probabilities over the symbols of a phone set every
20 ms. Utterances of a batch do not see each other, nor their padding: a batch gives what each
utterance alone gives.

Shape suffixes: B utterances, N samples, F frames of 10 ms, T frames of 20 ms, M mel bands, D width,
C symbols.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from modicum.core.device import resolve_device, torch_generator
from modicum.core.experiment import write_atomic
from modicum.huper.audio import HOP, SAMPLE_RATE, standardise
from modicum.huper.emissions import Emissions
from modicum.huper.frontend import LogMel, valid
from modicum.huper.phones import PhoneSet

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "TinyConfig", "TinyConvCTC", "collate"]

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
_KIND = "modicum.huper.TinyConvCTC"
_STRIDE = 2


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of a `TinyConvCTC`.

    Attributes
    ----------
    bands
        M.
    width
        D.
    kernel
        Frames that a convolution sees, odd.
    dilations
        One residual block for each.
    dropout
        Probability in the blocks.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    bands: int = 40
    width: int = 96
    kernel: int = 5
    dilations: tuple[int, ...] = (1, 2, 1, 3, 1)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(map(int, self.dilations)))
        for name in ("bands", "width", "kernel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")
        if any(dilation < 1 for dilation in self.dilations):
            raise ValueError(f"dilations must be positive, not {self.dilations}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")


class _Block(nn.Module):
    """Convolution, batch norm over the valid frames, ReLU, dropout."""

    def __init__(
        self, inner: int, outer: int, kernel: int, *, stride: int, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            inner,
            outer,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            bias=False,
        )
        self.norm = nn.BatchNorm1d(outer)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BDF: torch.Tensor, inside_BT: torch.Tensor) -> torch.Tensor:
        found_BTD = self.conv(hidden_BDF).transpose(1, 2)
        # Padding takes no part in the statistics, and stays zero for the next convolution.
        kept = self.dropout(torch.relu(self.norm(found_BTD[inside_BT].float())))
        blank_BTD = torch.zeros(found_BTD.shape, dtype=kept.dtype, device=kept.device)
        blank_BTD[inside_BT] = kept
        return blank_BTD.transpose(1, 2)


class TinyConvCTC(nn.Module):
    """A convolutional CTC model over log-mel features.

    Parameters
    ----------
    phones
        Its symbols; the public recognizer's 44 if None.
    config
        Sizes; those of the published model if None.
    seed
        Of the weights.
    """

    frame_shift = HOP / SAMPLE_RATE
    """Seconds from one frame to the next."""

    def __init__(
        self, phones: PhoneSet | None = None, config: TinyConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.phones = PhoneSet.arpabet39() if phones is None else phones
        self.config = TinyConfig() if config is None else config
        size = self.config
        # Layers draw weights of their own first; nobody else's random numbers change by that.
        with torch.random.fork_rng(devices=[]):
            self.features = LogMel(size.bands)
            self.entry = _Block(
                size.bands, size.width, size.kernel, stride=_STRIDE, dilation=1, dropout=0.0
            )
            self.blocks = nn.ModuleList(
                _Block(
                    size.width,
                    size.width,
                    size.kernel,
                    stride=1,
                    dilation=dilation,
                    dropout=size.dropout,
                )
                for dilation in size.dilations
            )
            self.head = nn.Conv1d(size.width, len(self.phones), 1)
        generator = torch_generator(seed, "cpu", "tiny weights")
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv1d):
                    # Torch's own scale for convolutions, from our generator.
                    nn.init.kaiming_uniform_(module.weight, math.sqrt(5), generator=generator)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @staticmethod
    def lengths(frames_B: torch.Tensor) -> torch.Tensor:
        """Return how many frames of 20 ms numbers of frames of 10 ms give."""
        return (frames_B - 1) // _STRIDE + 1

    def forward(
        self, features_BFM: torch.Tensor, frames_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute log-probabilities from features.

        Parameters
        ----------
        features_BFM
            float32 (B, F, M) from `features`, zero behind the valid frames.
        frames_B
            int64 (B,) valid frames of 10 ms.

        Returns
        -------
        logprobs_BTC, lengths_B
            float32 (B, T, C) log-probabilities; int64 (B,) valid frames of 20 ms.
        """
        lengths_B = self.lengths(frames_B)
        inside_BT = valid(lengths_B, (features_BFM.shape[1] - 1) // _STRIDE + 1)
        hidden_BDT = self.entry(features_BFM.transpose(1, 2), inside_BT)
        for block in self.blocks:
            hidden_BDT = hidden_BDT + block(hidden_BDT, inside_BT)
        logits_BTC = self.head(hidden_BDT).transpose(1, 2)
        return torch.log_softmax(logits_BTC.float(), -1), lengths_B

    @torch.no_grad()
    def emissions(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        *,
        batch_size: int = 16,
    ) -> Emissions:
        """Listen.

        Parameters
        ----------
        audio
            One recording or a list of them: files, or samples of any rate and channels, as for
            `modicum.huper.audio.standardise`. A list of numbers is one recording.
        sampling_rate
            Samples per second; needed for samples.
        batch_size
            Recordings that are computed together; it changes no result.

        Returns
        -------
        Emissions
            Of all recordings, on the CPU.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `standardise`.
        """
        if self.training:
            raise ValueError("the model is in training mode; call eval() first")
        many = isinstance(audio, list | tuple) and not all(
            isinstance(one, int | float | np.number) for one in audio
        )
        recordings = [standardise(one, sampling_rate) for one in (audio if many else [audio])]
        # Like lengths together: less padding.
        order = sorted(range(len(recordings)), key=lambda at: len(recordings[at]))
        rows: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            samples_BN, lengths_B = collate([recordings[at] for at in part])
            features_BFM, frames_B = self.features(
                samples_BN.to(self.device), lengths_B.to(self.device)
            )
            logprobs_BTC, valid_B = self(features_BFM, frames_B)
            for at, row_TC, length in zip(part, logprobs_BTC.cpu(), valid_B.tolist(), strict=True):
                rows[at] = row_TC[:length]
        parts = [rows[at] for at in range(len(recordings))]
        lengths = torch.tensor([len(one) for one in parts])
        padded_BTC = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return Emissions(padded_BTC, lengths, self.frame_shift, self.phones, self.phones.blank)

    # Files --------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``config.json`` and ``model.safetensors``, each whole or not at all.

        Parameters
        ----------
        folder
            Made if it is not there.

        Returns
        -------
        Path
            The folder.
        """
        folder = Path(folder)
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()
        }
        content = {"model_type": _KIND, **asdict(self.config), "phones": self.phones.to_dict()}
        write_atomic(folder / WEIGHTS_NAME, safetensors.torch.save(weights, {"format": "pt"}))
        write_atomic(folder / CONFIG_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return folder

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> TinyConvCTC:
        """Read what `save_pretrained` wrote.

        Parameters
        ----------
        folder
            Where it is.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"`` ….

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If the folder holds another kind of model, or weights that do not fit.
        """
        folder = Path(folder)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder} has no {name}: it is no saved TinyConvCTC")
        content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        if content.pop("model_type", None) != _KIND:
            raise ValueError(f"{folder / CONFIG_NAME} does not describe a {_KIND}")
        phones = PhoneSet.from_dict(content.pop("phones"))
        model = cls(phones, TinyConfig(**content))
        try:
            model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS_NAME))
        except RuntimeError as error:
            raise ValueError(f"{folder / WEIGHTS_NAME} does not fit its config: {error}") from None
        return model.to(resolve_device(device)).eval()


def collate(recordings: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Put recordings into one array.

    Parameters
    ----------
    recordings
        float32 (N,) each.

    Returns
    -------
    samples_BN, lengths_B
        float32 (B, N) with zeros behind; int64 (B,).
    """
    lengths_B = torch.tensor([len(one) for one in recordings], dtype=torch.int64)
    rows = [torch.as_tensor(one, dtype=torch.float32) for one in recordings]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths_B
