"""CTC models of transformers as acoustic models, and a callable in the manner of its pipelines.

`TransformersCTC` holds any model of ``AutoModelForCTC`` whose length function is known to
transformers (WavLM, wav2vec 2.0, HuBERT, wav2vec 2.0 conformer and BERT, and their relatives) with
what prepares its input, and gives `Emissions`. A batch gives what each recording gives alone: where
an architecture lets padding through, only recordings of one length go together. It decodes nothing.

Shape suffixes: B utterances, N samples, T frames, C symbols.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from modicum.core.device import resolve_device, resolve_dtype
from modicum.core.experiment import write_atomic
from modicum.huper.audio import SAMPLE_RATE
from modicum.huper.emissions import Emissions
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import Recognizer, is_many, recordings_of
from modicum.huper.transcript import Transcript

try:
    import transformers
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise
    raise ImportError(
        'models of transformers need transformers: pip install "modicum-huper[transformers]"'
    ) from missing

__all__ = ["PHONES_NAME", "PhonePipeline", "TransformersCTC", "pipeline"]

PHONES_NAME = "phones.json"
"""Symbols, blank and specials of a model that has no tokenizer."""

TASK = "phone-recognition"

_PADDED = ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert")
"""Model types in which an attention mask keeps padding out; the conformer's convolutions and the
adapters' let it in."""


class TransformersCTC:
    """A CTC model of transformers that hears phones.

    Parameters
    ----------
    model
        A ``transformers`` model with a CTC head, in evaluation mode.
    processor
        Its processor (feature extractor and tokenizer), or the feature extractor alone. None makes
        the feature extractor that models of this type usually have.
    phones
        A `PhoneSet`, or the path of a ``vocab.json``; None takes the processor's tokenizer.

    Attributes
    ----------
    phones
        One symbol for each output; the blank is the model's ``pad_token_id``.
    frame_shift
        Seconds from one frame to the next.

    Raises
    ------
    TypeError
        If it is no such model.
    ValueError
        If there are no phones, more or fewer than the model has outputs, the blank is another, or
        the feature extractor works at another sampling rate.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        phones: PhoneSet | str | os.PathLike[str] | None = None,
    ) -> None:
        for name in ("config", "lm_head", "_get_feat_extract_output_lengths"):
            if not hasattr(model, name):
                raise TypeError(
                    f"{type(model).__name__} has no {name}: it is no CTC model for speech like "
                    "WavLMForCTC"
                )
        self.model = model
        self.processor = processor if hasattr(processor, "tokenizer") else None
        extractor = getattr(processor, "feature_extractor", processor)
        self.feature_extractor = _usual_extractor(model.config) if extractor is None else extractor
        if (rate := self.feature_extractor.sampling_rate) != SAMPLE_RATE:
            raise ValueError(f"the feature extractor takes {rate} samples per second, not 16000")
        self._own_phones = phones is not None or self.processor is None
        self.phones = self._checked_phones(phones)

    def _checked_phones(self, phones: PhoneSet | str | os.PathLike[str] | None) -> PhoneSet:
        config = self.model.config
        if phones is None and self.processor is None:
            raise ValueError(
                "which phones are the model's outputs? give a processor with a tokenizer, or "
                "phones: a PhoneSet or the path of a vocab.json"
            )
        if phones is None:
            tokenizer: Any = getattr(self.processor, "tokenizer", None)
            phones = _of_tokenizer(tokenizer, config.vocab_size)
        elif not isinstance(phones, PhoneSet):
            phones = _of_vocabulary(phones, config.pad_token_id)
        if len(phones) != config.vocab_size:
            raise ValueError(
                f"the model has {config.vocab_size} outputs and the vocabulary {len(phones)} "
                "symbols"
            )
        if phones.blank != config.pad_token_id:
            raise ValueError(
                f"the blank is {phones.symbols[phones.blank]!r} with the id {phones.blank}, and "
                f"the model's pad_token_id, its blank, is {config.pad_token_id}"
            )
        return phones

    # What the model is like ---------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def takes_features(self) -> bool:
        """Whether the model takes filterbank features and not samples."""
        return self.feature_extractor.model_input_names[0] != "input_values"

    @property
    def uses_mask(self) -> bool:
        """Whether the model was made for an attention mask: not where it norms over groups."""
        return self.takes_features or self.model.config.feat_extract_norm != "group"

    @property
    def pads(self) -> bool:
        """Whether recordings of different lengths give together what they give alone."""
        config = self.model.config
        adapted = getattr(config, "add_adapter", False)
        return config.model_type in _PADDED and self.uses_mask and not adapted

    @property
    def frame_shift(self) -> float:
        """Seconds from one frame to the next."""
        config = self.model.config
        if self.takes_features:
            hop = 160 * int(self.feature_extractor.stride)
        else:
            hop = math.prod(config.conv_stride) * getattr(config, "squeeze_factor", 1)
        if getattr(config, "add_adapter", False):
            hop *= config.adapter_stride**config.num_adapter_layers
        return hop / SAMPLE_RATE

    def frames_of(self, samples: int) -> int:
        """Return how many frames the model gives for a number of samples."""
        inputs = samples
        if self.takes_features:
            # Only whole groups of feature frames are attended to.
            frames = (samples - 400) // 160 + 1
            inputs = frames // int(self.feature_extractor.stride)
        lengths = self.model._get_feat_extract_output_lengths(torch.tensor([inputs]))
        return int(lengths[0])

    # Listening ----------------------------------------------------------------------------------

    def emissions(
        self, audio: Any, sampling_rate: int | None = None, *, batch_size: int = 16
    ) -> Emissions:
        """Listen.

        Parameters
        ----------
        audio, sampling_rate
            As for `modicum.huper.recognizer.Recognizer.emissions`.
        batch_size
            Most recordings that are computed together; it changes no result.

        Returns
        -------
        Emissions
            Of all recordings, float32 and on the CPU whatever the model computes in.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `modicum.huper.audio.standardise`; ValueError also if a recording is too short for a
            frame of this model, or the model is in training mode.
        """
        if self.model.training:
            raise ValueError("the model is in training mode; call model.eval() first")
        recordings = recordings_of(audio, sampling_rate)
        for number, one in enumerate(recordings):
            if self.frames_of(len(one)) < 1:
                raise ValueError(
                    f"recording {number} has {len(one)} samples, too few for a frame of "
                    f"{type(self.model).__name__}"
                )
        rows: dict[int, torch.Tensor] = {}
        for part in self._batches([len(one) for one in recordings], batch_size):
            logits_BTC = self.logits([recordings[at] for at in part])
            for at, row_TC in zip(part, logits_BTC, strict=True):
                rows[at] = row_TC[: self.frames_of(len(recordings[at]))]
        parts = [rows[at] for at in range(len(recordings))]
        return Emissions.log_softmax(
            nn.utils.rnn.pad_sequence(parts, batch_first=True),
            [len(one) for one in parts],
            self.frame_shift,
            self.phones,
        )

    def _batches(self, lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
        """Give recordings that go together: like lengths, or equal ones."""
        part: list[int] = []
        for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
            same = not part or lengths[at] == lengths[part[0]]
            if len(part) == batch_size or not (self.pads or same):
                yield part
                part = []
            part.append(at)
        if part:
            yield part

    @torch.no_grad()
    def logits(self, recordings: Sequence[np.ndarray]) -> torch.Tensor:
        """Run the model on one batch.

        Parameters
        ----------
        recordings
            float32 (N,) each, 16,000 per second.

        Returns
        -------
        torch.Tensor
            float32 (B, T, C) scores on the CPU, behind an utterance's frames without meaning.
        """
        batch = self.inputs(recordings)
        with warnings.catch_warnings():
            # Of torch, about how WavLM calls its attention; the result is right.
            warnings.filterwarnings("ignore", message=".*mismatched key_padding_mask")
            logits_BTC = self.model(**batch).logits
        return logits_BTC.float().cpu()

    def inputs(self, recordings: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return what the model is called with: features, and a mask where it has a meaning."""
        found = self.features(recordings)
        name = self.feature_extractor.model_input_names[0]
        batch = {name: found[name].to(self.device, self.model.dtype)}
        mask = found["attention_mask"]
        if self.takes_features or (self.uses_mask and not bool(mask.all())):
            batch["attention_mask"] = mask.to(self.device)
        return batch

    def features(self, recordings: Sequence[np.ndarray]) -> Mapping[str, torch.Tensor]:
        """Return the feature extractor's tensors: the input, padded, and the attention mask."""
        # Without the mask the feature extractor would take padding into mean and variance.
        found: Mapping[str, torch.Tensor] = self.feature_extractor(
            list(recordings),
            sampling_rate=SAMPLE_RATE,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return found

    # Files --------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write model, feature extractor and vocabulary as transformers has them.

        Parameters
        ----------
        folder
            Made if it is not there. Each file is replaced whole.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as held:
            self.model.save_pretrained(held)
            (self.feature_extractor if self.processor is None else self.processor).save_pretrained(
                held
            )
            for path in sorted(Path(held).iterdir()):
                os.replace(path, folder / path.name)
        if self.processor is None:
            ids = {symbol: number for number, symbol in enumerate(self.phones.symbols)}
            write_atomic(folder / "vocab.json", json.dumps(ids, ensure_ascii=False) + "\n")
        if self._own_phones:
            content = json.dumps(self.phones.to_dict(), ensure_ascii=False) + "\n"
            write_atomic(folder / PHONES_NAME, content)
        else:
            (folder / PHONES_NAME).unlink(missing_ok=True)
        return folder

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        phones: PhoneSet | str | os.PathLike[str] | None = None,
    ) -> TransformersCTC:
        """Read a model, from a folder or by its name on the hub.

        Parameters
        ----------
        name_or_folder
            With ``config.json``, weights, and a tokenizer or only a ``vocab.json`` (that of the
            public recognizer, for one).
        device
            ``"auto"``, ``"cpu"``, ``"cuda"`` ….
        dtype
            ``"auto"``, ``"float32"``, ``"bfloat16"`` …; float32 if None. Emissions are float32.
        phones
            As for the class, in place of what is found there.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        ValueError
            As the class, and if it is no CTC model.
        """
        name = os.fspath(name_or_folder)
        place = resolve_device(device)
        if Path(name).is_dir() and not (Path(name) / "config.json").exists():
            raise FileNotFoundError(f"{name} has no config.json: there is no saved model")
        try:
            model = transformers.AutoModelForCTC.from_pretrained(
                name, dtype=torch.float32 if dtype is None else resolve_dtype(place, dtype)
            )
        except OSError as error:
            raise FileNotFoundError(f"{name} cannot be read: {error}") from error
        if phones is None and (kept := _file_of(name, PHONES_NAME)):
            phones = PhoneSet.from_dict(json.loads(Path(kept).read_text(encoding="utf-8")))
        processor = _processor_of(name)
        if phones is None and not hasattr(processor, "tokenizer"):
            phones = _file_of(name, "vocab.json")
        return cls(model.to(place).eval(), processor, phones)


def _file_of(name: str, file: str) -> str | None:
    """Give the path of one file of a model, None if it has no such file."""
    found: str | None = transformers.utils.cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _processor_of(name: str) -> Any:
    """Give the processor, the feature extractor alone, or None, whichever a model has."""
    # A bare vocabulary would be read with special tokens that are not its own.
    if _file_of(name, "tokenizer_config.json"):
        try:
            found = transformers.AutoProcessor.from_pretrained(name)
            if hasattr(found, "tokenizer") and hasattr(found, "feature_extractor"):
                return found
        except ImportError:
            # A tokenizer that wants a phonemizer; to read its ids none is needed.
            pass
    if _file_of(name, "preprocessor_config.json"):
        return transformers.AutoFeatureExtractor.from_pretrained(name)
    return None


def _usual_extractor(config: Any) -> Any:
    if config.model_type == "wav2vec2-bert":
        bands = config.feature_projection_input_dim // 2
        return transformers.SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands)
    return transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=config.feat_extract_norm == "layer"
    )


def _of_tokenizer(tokenizer: Any, outputs: int) -> PhoneSet:
    """Read a tokenizer, less the special tokens that it added beyond the model's outputs."""
    ids = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    kept = {one: at for one, at in ids.items() if at < outputs or one not in special}
    return PhoneSet.from_hf(
        SimpleNamespace(
            pad_token=tokenizer.pad_token,
            all_special_tokens=tokenizer.all_special_tokens,
            word_delimiter_token=getattr(tokenizer, "word_delimiter_token", None),
            get_vocab=lambda: kept,
        )
    )


def _of_vocabulary(path: str | os.PathLike[str], blank: int | None) -> PhoneSet:
    """Read ``vocab.json``; where it names no padding, the model says which symbol is the blank."""
    try:
        return PhoneSet.from_vocab_json(path)
    except ValueError:
        ids = json.loads(Path(path).read_text(encoding="utf-8"))
        name = next((symbol for symbol, number in ids.items() if number == blank), None)
        if name is None:
            raise
        return PhoneSet.from_vocab_json(path, blank=name)


# In the manner of transformers' pipelines ---------------------------------------------------------


class PhonePipeline:
    """What ``pipeline("automatic-speech-recognition")`` is for words, for phones.

    Parameters
    ----------
    recognizer
        A `Recognizer`, whatever its model.

    Attributes
    ----------
    task
        ``"phone-recognition"``.
    """

    task = TASK

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer

    def __call__(
        self,
        inputs: Any,
        *,
        sampling_rate: int | None = None,
        return_timestamps: bool | str = True,
        batch_size: int = 16,
        **options: Any,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Transcribe.

        Parameters
        ----------
        inputs
            A file; samples of `sampling_rate`, 16,000 per second if that is None, as pipelines have
            it; a mapping with ``array`` or ``raw`` and ``sampling_rate``; or a list of these.
        return_timestamps
            True or ``"phone"``: with ``chunks``.
        batch_size, options
            For `Recognizer.transcribe`: ``decode``, ``inventory`` ….

        Returns
        -------
        dict or list of dict
            A list for a list. ``text`` (phones, a space between), ``ipa``, ``confidence`` (None
            without phones), and ``chunks``: a dict with ``text``, ``timestamp`` (start and end in
            seconds) and ``score`` for each phone.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `Recognizer.transcribe`.
        """
        if return_timestamps not in (True, False, "phone"):
            raise ValueError(
                f'return_timestamps must be True, False or "phone", not {return_timestamps!r}'
            )
        many = is_many(inputs)
        found = self.recognizer.transcribe(
            [_with_rate(one, sampling_rate) for one in (inputs if many else [inputs])],
            batch_size=batch_size,
            **options,
        )
        answers = [_answer(one, bool(return_timestamps)) for one in found]
        return answers if many else answers[0]


def pipeline(
    task: str = TASK,
    model: Recognizer | str | os.PathLike[str] = "tiny",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
) -> PhonePipeline:
    """Make a callable from a model's name.

    Parameters
    ----------
    task
        ``"phone-recognition"``.
    model
        A `Recognizer`, or what `Recognizer.from_pretrained` takes.
    device, dtype
        For a model that is read.

    Raises
    ------
    ValueError
        If it is another task.
    FileNotFoundError
        If there is no such model.
    """
    if task != TASK:
        raise ValueError(f"the task here is {TASK!r}, not {task!r}")
    if not isinstance(model, Recognizer):
        model = Recognizer.from_pretrained(model, device=device, dtype=dtype)
    return PhonePipeline(model)


def _with_rate(one: Any, sampling_rate: int | None) -> Any:
    """Give samples the rate that pipelines take for granted."""
    if isinstance(one, str | os.PathLike | Mapping):
        return one
    return {"array": one, "sampling_rate": sampling_rate or SAMPLE_RATE}


def _answer(found: Transcript, timed: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "text": " ".join(found.phones),
        "ipa": " ".join(found.ipa),
        "confidence": found.confidence,
    }
    if timed:
        answer["chunks"] = [
            {"text": phone, "timestamp": (span.start, span.end), "score": score}
            for phone, span, score in zip(found.phones, found.spans, found.confidences, strict=True)
        ]
    return answer
