"""Recognizers as ONNX files: samples in, log-probabilities out, and no torch to run them.

`export` writes the tiny model or a CTC model of transformers as one file with everything inside:
features, normalisation and network, and the phones in its metadata. `OnnxModel` runs it with
onnxruntime and reads phones off in NumPy; it is an acoustic model for
`modicum.huper.recognizer.Recognizer`, too. A file takes one recording at a time.

Shape suffixes: N samples, F frames of 10 ms, T frames, K frequencies, M mel bands, C symbols.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.core.experiment import write_atomic
from modicum.huper.audio import HOP, SAMPLE_RATE, Window, frame_count, standardise, windows
from modicum.huper.phones import PhoneSet
from modicum.huper.transcript import Span, Transcript, to_ipa

if TYPE_CHECKING:
    import torch

    from modicum.huper.emissions import Emissions

__all__ = ["OnnxModel", "export"]

_KEY = "modicum.huper"
"""Of the metadata."""

_FORMAT = 1
_OPSET = 17


def _engine(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name != name:
            raise
        raise ImportError(f'ONNX files need {name}: pip install "modicum-huper[onnx]"') from missing


# Writing ----------------------------------------------------------------------------------------


def export(model: Any, path: str | os.PathLike[str], *, opset: int = _OPSET) -> Path:
    """Write a recognizer as an ONNX file.

    Parameters
    ----------
    model
        A `Recognizer`, `TinyConvCTC` or `TransformersCTC`, in float32 and evaluation mode. It is
        not changed.
    path
        The file; replaced whole. Models of more than 2 GB do not fit into one.
    opset
        Version of ONNX's operators, at least 17.

    Returns
    -------
    Path
        The file. Its input is ``samples``, float32 (1, N) of 16,000 per second, its output
        ``logprobs``, float32 (1, T, C).

    Raises
    ------
    ImportError
        Without onnx.
    TypeError
        If it is another kind of model.
    ValueError
        If it is in training mode or in half precision.
    """
    onnx = _engine("onnx")
    import torch

    from modicum.huper.recognizer import Recognizer

    named = model
    if isinstance(model, Recognizer):
        model = model.model
    network = _network(model)
    # Only lengths vary: 2 seconds are as good an example as any.
    example = torch.zeros(1, 2 * SAMPLE_RATE)
    example[0, ::7] = 0.1
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Of the exporter about itself, and of tracing about checks of shapes.
        warnings.simplefilter("ignore")
        held = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            (example,),
            str(held),
            input_names=["samples"],
            output_names=["logprobs"],
            dynamic_axes={"samples": {1: "N"}, "logprobs": {1: "T"}},
            opset_version=opset,
            dynamo=False,
        )
        made = onnx.load(str(held))
    content = {
        "format": _FORMAT,
        "frame_shift": float(model.frame_shift),
        "shortest": _shortest(model),
        "phones": named.phones.to_dict(),
    }
    onnx.helper.set_model_props(made, {_KEY: json.dumps(content, ensure_ascii=False)})
    onnx.checker.check_model(made)
    return write_atomic(path, made.SerializeToString())


def _network(model: Any) -> torch.nn.Module:
    """Give a module from samples to log-probabilities, on the CPU."""
    import torch

    from modicum.huper.tiny import TinyConvCTC

    held: Any = model if isinstance(model, TinyConvCTC) else getattr(model, "model", None)
    is_transformers = hasattr(held, "lm_head") and hasattr(model, "feature_extractor")
    if not isinstance(held, TinyConvCTC) and not is_transformers:
        raise TypeError(f"a {type(model).__name__} cannot be written as ONNX")
    if held.training:
        raise ValueError("the model is in training mode; call eval() first")
    kinds = {one.dtype for one in held.parameters()}
    if kinds != {torch.float32}:
        names = ", ".join(sorted(map(str, kinds)))
        raise ValueError(f"the model must be in float32, not in {names}")
    if held.device.type != "cpu":
        held = copy.deepcopy(held).cpu()
    if isinstance(held, TinyConvCTC):
        return _tiny(held)
    return _of_transformers(held, model)


def _shortest(model: Any) -> int:
    """Give the fewest samples for which there is a frame."""
    counted = getattr(model, "frames_of", None)
    samples = 400
    while counted is not None and counted(samples) < 1:
        samples += 80
    return samples


def _spectrum_weights(
    window_N: np.ndarray, points: int, *, preemphasis: float = 0.0, centre: bool = False
) -> np.ndarray:
    """Give what turns a frame into its Fourier transform, as a matrix.

    Taking away the mean, pre-emphasis and window are linear as well, so that a convolution does all
    of it, in every runtime.

    Returns
    -------
    np.ndarray
        float32 (2 K, 400): real parts, then imaginary ones.
    """
    size = len(window_N)
    chain = np.eye(size)
    if centre:
        chain -= 1 / size
    if preemphasis:
        shifted = np.vstack([chain[:1], chain[:-1]])
        chain = chain - preemphasis * shifted
    chain = window_N[:, None] * chain
    angle_KN = 2 * np.pi * np.outer(np.arange(points // 2 + 1), np.arange(size)) / points
    return np.concatenate([np.cos(angle_KN) @ chain, -np.sin(angle_KN) @ chain]).astype(np.float32)


def _tiny(model: Any) -> torch.nn.Module:
    import torch
    from torch.nn import functional

    from modicum.huper import frontend

    class Tiny(torch.nn.Module):
        """The tiny model for one recording: without padding there is nothing to mask."""

        spectrum: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            weights = _spectrum_weights(model.features.window_N.double().numpy(), frontend.POINTS)
            self.register_buffer("spectrum", torch.from_numpy(weights)[:, None])
            self.model = model

        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            found = functional.conv1d(samples[:, None], self.spectrum, stride=frontend.SHIFT)
            real, imaginary = found.chunk(2, 1)
            power = (real.square() + imaginary.square()).transpose(1, 2)
            energy = power @ self.model.features.filters_KM / frontend.FRAME
            log = torch.log(energy + frontend.FLOOR)
            centred = log - log.mean(1, keepdim=True)
            deviation = centred.square().mean(1, keepdim=True).sqrt()
            hidden = centred / deviation.clamp(min=frontend.LEAST_DEVIATION)
            hidden = _block(self.model.entry, hidden.transpose(1, 2))
            for block in self.model.blocks:
                hidden = hidden + _block(block, hidden)
            return torch.log_softmax(self.model.head(hidden).transpose(1, 2), -1)

    def _block(block: Any, hidden: torch.Tensor) -> torch.Tensor:
        return torch.relu(block.norm(block.conv(hidden)))

    return Tiny().eval()


def _of_transformers(network: Any, model: Any) -> torch.nn.Module:
    import torch
    from torch.nn import functional

    extractor = model.feature_extractor

    class Wave(torch.nn.Module):
        """Normalisation, then the network."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            if extractor.do_normalize:
                centred = samples - samples.mean(1, keepdim=True)
                power = centred.square().mean(1, keepdim=True)
                samples = centred / torch.sqrt(power + 1e-7)
            return torch.log_softmax(self.network(samples).logits, -1)

    class Bands(torch.nn.Module):
        """Kaldi's filterbank as the feature extractor has it, then the network."""

        spectrum: torch.Tensor
        filters: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            weights = _spectrum_weights(
                np.asarray(extractor.window, np.float64), 512, preemphasis=0.97, centre=True
            )
            self.register_buffer("spectrum", torch.from_numpy(weights)[:, None])
            filters = np.asarray(extractor.mel_filters, np.float32)
            self.register_buffer("filters", torch.from_numpy(filters))
            self.network = network

        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            # Integers of 16 bits, as Kaldi takes them.
            found = functional.conv1d(samples[:, None] * 2**15, self.spectrum, stride=160)
            real, imaginary = found.chunk(2, 1)
            power = (real.square() + imaginary.square()).transpose(1, 2)
            log = torch.log((power @ self.filters).clamp(min=1.192092955078125e-07))
            centred = log - log.mean(1, keepdim=True)
            frames = log.shape[1]
            variance = centred.square().sum(1, keepdim=True) / (frames - 1)
            bands = centred / torch.sqrt(variance + 1e-7)
            # Whole groups only: what is filled up is not attended to.
            groups = frames // extractor.stride
            bands = bands[:, : groups * extractor.stride]
            return torch.log_softmax(self.network(bands.reshape(1, groups, -1)).logits, -1)

    return (Bands() if model.takes_features else Wave()).eval()


# Running ----------------------------------------------------------------------------------------


class OnnxModel:
    """A recognizer that runs without torch.

    Parameters
    ----------
    path
        A file of `export`.
    providers
        Of onnxruntime, best first; the CPU if None.
    threads
        That one recording may use; as many as onnxruntime likes if None.

    Attributes
    ----------
    phones
        Its symbols.
    frame_shift
        Seconds from one frame to the next.

    Raises
    ------
    ImportError
        Without onnxruntime.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no file of `export`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        runtime = _engine("onnxruntime")
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no file {path}")
        options = runtime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = int(threads)
        try:
            self.session = runtime.InferenceSession(
                os.fspath(path),
                options,
                providers=list(providers) if providers else ["CPUExecutionProvider"],
            )
        except Exception as error:
            raise ValueError(f"{path} cannot be run: {error}") from error
        content = self.session.get_modelmeta().custom_metadata_map.get(_KEY)
        if content is None:
            raise ValueError(f"{path} was not written by modicum.huper: its phones are not known")
        read = json.loads(content)
        if read["format"] != _FORMAT:
            raise ValueError(
                f"{path} has the format {read['format']}, this version reads {_FORMAT}"
            )
        self.phones = PhoneSet.from_dict(read["phones"])
        self.frame_shift = float(read["frame_shift"])
        self.shortest = int(read["shortest"])

    def logprobs(self, samples_N: np.ndarray) -> np.ndarray:
        """Return log-probabilities of one recording.

        Parameters
        ----------
        samples_N
            float32 (N,), 16,000 per second.

        Returns
        -------
        np.ndarray
            float32 (T, C).

        Raises
        ------
        ValueError
            If it is too short for a frame.
        """
        if len(samples_N) < self.shortest:
            raise ValueError(
                f"audio has {len(samples_N)} samples; this model needs {self.shortest}"
            )
        feed = {"samples": np.asarray(samples_N, np.float32)[None]}
        (found_1TC,) = self.session.run(["logprobs"], feed)
        row_TC: np.ndarray = found_1TC[0]
        return row_TC

    def transcribe(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        *,
        seconds: float = 30.0,
        overlap: float = 1.0,
    ) -> Transcript:
        """Say which phones were spoken, without torch.

        Parameters
        ----------
        audio, sampling_rate
            One recording, as for `modicum.huper.audio.standardise`.
        seconds, overlap
            Longer recordings are cut into such windows.

        Returns
        -------
        Transcript
            As the greedy one of `modicum.huper.recognizer.Recognizer`.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `standardise` and `logprobs`; ValueError also for a long recording if the model's
            frames are not 20 ms apart.
        """
        cuts = list(windows(standardise(audio, sampling_rate), seconds, overlap))
        if len(cuts) > 1 and round(self.frame_shift * SAMPLE_RATE) != HOP:
            raise ValueError(
                f"windows are joined on frames of 20 ms, the model's are "
                f"{1000 * self.frame_shift:g} ms apart"
            )
        return _greedy(
            np.concatenate([self._kept(cut, cut is cuts[-1]) for cut in cuts]),
            self.phones,
            self.frame_shift,
        )

    def _kept(self, cut: Window, last: bool) -> np.ndarray:
        if np.ptp(cut.samples) <= 2.0**-16:
            # No sound at all: nothing was said, whatever the model makes of it.
            row_TC = np.full((frame_count(len(cut.samples)), len(self.phones)), np.log(1e-6))
            row_TC[:, self.phones.blank] = np.log1p(-1e-6 * (len(self.phones) - 1))
        else:
            row_TC = self.logprobs(cut.samples)
        return row_TC[cut.keep.start : None if last else cut.keep.stop]

    def emissions(
        self, audio: Any, sampling_rate: int | None = None, *, batch_size: int = 16
    ) -> Emissions:
        """Listen, for `modicum.huper.recognizer.Recognizer`; needs torch.

        Parameters
        ----------
        audio, sampling_rate
            As for `Recognizer.emissions`.
        batch_size
            Not used: recordings are computed one by one.
        """
        import torch

        from modicum.huper.emissions import Emissions
        from modicum.huper.recognizer import recordings_of

        del batch_size
        rows = [self.logprobs(one) for one in recordings_of(audio, sampling_rate)]
        padded_BTC = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(one) for one in rows], batch_first=True
        )
        lengths_B = torch.tensor([len(one) for one in rows])
        return Emissions(padded_BTC, lengths_B, self.frame_shift, self.phones, self.phones.blank)


def _greedy(rows_TC: np.ndarray, phones: PhoneSet, shift: float) -> Transcript:
    """Read the best symbol of each frame; `modicum.huper.emissions.collapse` needs torch."""
    best_T = rows_TC.argmax(1)
    starts = np.flatnonzero(np.diff(best_T, prepend=-1)).tolist()
    runs = [
        (start, end, phones.symbols[best_T[start]])
        for start, end in zip(starts, [*starts[1:], len(best_T)], strict=True)
        if phones.symbols[best_T[start]] not in phones.specials
    ]
    names = tuple(symbol for _, _, symbol in runs)
    return Transcript(
        phones=names,
        spans=tuple(Span(start * shift, end * shift) for start, end, _ in runs),
        confidences=tuple(
            float(np.exp(rows_TC[start:end, best_T[start]]).mean()) for start, end, _ in runs
        ),
        ipa=to_ipa(names, phones),
        score=float(rows_TC.max(1).sum(dtype=np.float64)),
        trace={"path": "bottom-up", "decode": "greedy"},
    )
