"""From audio to phones, bottom-up: one class over every kind of acoustic model.

Takes files, samples and what comes from a microphone, and gives `Emissions` or `Transcript`. The
model may be the package's own `TinyConvCTC` or anything with the same few methods. Long recordings
are cut into overlapping windows, their frames joined and decoded once. It uses no text.

The greedy reading is that of "HuPER: A Human-Inspired Framework for Phonetic Perception" (arXiv
2602.01634): the best symbol of each frame, repeats collapsed, blank and specials dropped.

Shape suffixes: B utterances, N samples, T frames, C symbols.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from modicum.core.experiment import ProgressTask
from modicum.huper.audio import HOP, SAMPLE_RATE, Window, frame_count, standardise, windows
from modicum.huper.audio import stream as windows_of
from modicum.huper.beam import (
    ConfusionNetwork,
    LanguageModel,
    align,
    as_language_model,
    prefix_beam_search,
)
from modicum.huper.emissions import Emissions, collapse
from modicum.huper.phones import PhoneSet
from modicum.huper.scheduler import distortion_score
from modicum.huper.tiny import CONFIG_NAME, TinyConvCTC
from modicum.huper.transcript import Hypothesis, Span, Transcript, to_ipa

__all__ = ["SHIPPED", "AcousticModel", "Recognizer", "decode", "is_many", "recordings_of"]

SHIPPED = {"tiny": Path(__file__).parent / "data" / "tiny-en"}
"""Models that come with the package, by name."""

_TINY = "modicum.huper.TinyConvCTC"

_SILENT = 2.0**-16
"""Samples that differ by no more than half a step of 16-bit PCM hold no sound."""

_UNSAID = 1e-6
"""Probability of each other symbol in a frame without sound."""

_DECODERS = ("greedy", "beam", "lattice")


class AcousticModel(Protocol):
    """What a `Recognizer` needs of a model.

    Attributes
    ----------
    phones
        Its symbols.
    frame_shift
        Seconds from one frame to the next.

    A model whose frames are not those of `modicum.huper.audio.frame_count` also has a method
    ``frames_of(samples)``.
    """

    @property
    def phones(self) -> PhoneSet:
        """One symbol for each output."""

    @property
    def frame_shift(self) -> float:
        """Seconds from one frame to the next."""

    def emissions(
        self, audio: Any, sampling_rate: int | None = None, *, batch_size: int = 16
    ) -> Emissions:
        """Return what it hears in a list of recordings; a batch changes no result."""


class Recognizer:
    """Phones from audio.

    Parameters
    ----------
    model
        A `TinyConvCTC`, a model of transformers as
        `modicum.huper.integrations.transformers.TransformersCTC`, or another `AcousticModel`.
    phones
        Other names for its symbols, as many and with the same blank; the model's if None.
    seconds, overlap
        Recordings longer than `seconds` are cut into windows of that length, neighbours of which
        share `overlap` seconds.

    Raises
    ------
    TypeError
        If the model lacks something.
    ValueError
        If the phones do not fit the model.

    Examples
    --------
    >>> from modicum.huper.recognizer import Recognizer
    >>> from modicum.huper.tiny import TinyConvCTC
    >>> import numpy as np
    >>> recognizer = Recognizer(TinyConvCTC())
    >>> recognizer.transcribe(np.zeros(16_000, np.float32), 16_000)[0].phones
    ()
    """

    def __init__(
        self,
        model: AcousticModel,
        phones: PhoneSet | None = None,
        *,
        seconds: float = 30.0,
        overlap: float = 1.0,
    ) -> None:
        for name in ("phones", "frame_shift", "emissions"):
            if not hasattr(model, name):
                raise TypeError(
                    f"a recognizer needs a model with phones, frame_shift and emissions(); "
                    f"{type(model).__name__} has no {name}"
                )
        self.model = model
        self.phones = model.phones if phones is None else phones
        if len(self.phones) != len(model.phones) or self.phones.blank != model.phones.blank:
            raise ValueError(
                f"the model has {len(model.phones)} symbols with the blank {model.phones.blank}, "
                f"the phones {len(self.phones)} with the blank {self.phones.blank}"
            )
        # Let what cuts the recordings check both at once.
        windows_of((), SAMPLE_RATE, seconds, overlap)
        self.seconds, self.overlap = float(seconds), float(overlap)

    @property
    def frame_shift(self) -> float:
        """Seconds from one frame to the next."""
        return float(self.model.frame_shift)

    # Listening ----------------------------------------------------------------------------------

    def emissions(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        *,
        batch_size: int = 16,
        progress: ProgressTask | None = None,
    ) -> Emissions:
        """Listen.

        Parameters
        ----------
        audio
            One recording or a list of them: files; samples as for
            `modicum.huper.audio.standardise`; or mappings with ``array`` (or ``raw``, or ``path``)
            and ``sampling_rate``, as `datasets` has them. A list of numbers is one recording.
        sampling_rate
            Samples per second; needed for samples that do not bring it along.
        batch_size
            Windows that are computed together; it changes no result.
        progress
            Is advanced by each batch, by its number of windows.

        Returns
        -------
        Emissions
            Of all recordings, on the CPU. Where a window holds no sound at all, every frame is
            blank with a probability of nearly 1, whatever the model makes of it.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `standardise`; ValueError also if a recording is longer than a window and the model's
            frames are not 20 ms apart.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {batch_size!r}")
        found = recordings_of(audio, sampling_rate)
        cuts = [list(windows(one, self.seconds, self.overlap)) for one in found]
        if max(map(len, cuts)) > 1:
            self._check_grid()
        pieces = [cut.samples for one in cuts for cut in one]
        rows = self._listen(pieces, batch_size, progress)
        parts = [_joined([next(rows) for _ in one], one) for one in cuts]
        return self._packed(parts)

    def transcribe(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        *,
        decode: str = "greedy",
        batch_size: int = 16,
        progress: ProgressTask | None = None,
        **options: Any,
    ) -> list[Transcript]:
        """Say which phones were spoken.

        Parameters
        ----------
        audio, sampling_rate, batch_size, progress
            As for `emissions`.
        decode
            ``"greedy"``, ``"beam"`` or ``"lattice"``; see `decode`.
        options
            Of `decode`: ``inventory``, ``lm``, ``lm_weight``, ``bonus``, ``beam``, ``nbest``.

        Returns
        -------
        list of Transcript
            One for each recording.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `emissions` and `decode`.
        """
        # Let wrong settings be said before the model works.
        decoder = _Decoder(self.phones, decode, **options)
        found = self.emissions(audio, sampling_rate, batch_size=batch_size, progress=progress)
        return decoder(found)

    def stream(
        self,
        chunks: Iterable[Any],
        sampling_rate: int,
        *,
        seconds: float = 5.0,
        overlap: float = 1.0,
    ) -> Iterator[Transcript]:
        """Transcribe what arrives in chunks, as from a microphone.

        Parameters
        ----------
        chunks
            Samples in pieces of any length.
        sampling_rate
            Samples per second of the chunks.
        seconds, overlap
            Windows: longer ones know more, and come later. The delay is `seconds` and until the
            next frame without a phone.

        Yields
        ------
        Transcript
            What was said since the last one, with times from the beginning; never cut within a
            phone. All of them joined are the transcript of `transcribe` with these windows.

        Raises
        ------
        TypeError, ValueError
            As `modicum.huper.audio.stream`.
        """
        self._check_grid()
        cuts = windows_of(chunks, sampling_rate, seconds, overlap)
        return self._stream(cuts)

    def _stream(self, cuts: Iterator[Window]) -> Iterator[Transcript]:
        specials = _specials(self.phones)
        held_TC = np.zeros((0, len(self.phones)), np.float32)
        begun = 0  # Frame of the first row that is held.
        # One window is held back: the last of all keeps its frames to the end.
        pending: Window | None = None
        for cut in cuts:
            if pending is not None:
                held_TC = np.concatenate([held_TC, self._window(pending, last=False)])
                silent = np.flatnonzero(np.isin(held_TC.argmax(1), list(specials)))
                if len(silent):
                    end = int(silent[-1]) + 1
                    yield _greedy(held_TC[:end], self.phones, self.frame_shift, begun)
                    held_TC, begun = held_TC[end:], begun + end
            pending = cut
        if pending is not None:
            held_TC = np.concatenate([held_TC, self._window(pending, last=True)])
            if len(held_TC):
                yield _greedy(held_TC, self.phones, self.frame_shift, begun)

    def _window(self, cut: Window, *, last: bool) -> np.ndarray:
        return _kept(next(self._listen([cut.samples], 1, None)), cut, last=last)

    def _listen(
        self, pieces: Sequence[np.ndarray], batch_size: int, progress: ProgressTask | None
    ) -> Iterator[np.ndarray]:
        """Give (T, C) for each piece, in order."""
        heard = [at for at, piece in enumerate(pieces) if np.ptp(piece) > _SILENT]
        # Like lengths together: less padding.
        heard.sort(key=lambda at: len(pieces[at]))
        rows: dict[int, np.ndarray] = {}
        for start in range(0, len(heard), batch_size):
            part = heard[start : start + batch_size]
            found = self.model.emissions(
                [pieces[at] for at in part], SAMPLE_RATE, batch_size=batch_size
            )
            rows.update({at: found.utterance(number) for number, at in enumerate(part)})
            if progress is not None:
                progress.advance(len(part))
        for at, piece in enumerate(pieces):
            yield rows[at] if at in rows else self._unsaid(self._frames_of(len(piece)))

    def _frames_of(self, samples: int) -> int:
        """Give how many frames the model gives: its own word if it has one."""
        counted: int = getattr(self.model, "frames_of", frame_count)(samples)
        return counted

    def _unsaid(self, frames: int) -> np.ndarray:
        probability_C = np.full(len(self.phones), _UNSAID)
        probability_C[self.phones.blank] = 1 - _UNSAID * (len(self.phones) - 1)
        return np.tile(np.log(probability_C).astype(np.float32), (frames, 1))

    def _packed(self, parts: Sequence[np.ndarray]) -> Emissions:
        lengths_B = torch.tensor([len(one) for one in parts])
        rows = [torch.from_numpy(one) for one in parts]
        padded_BTC = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Emissions(padded_BTC, lengths_B, self.frame_shift, self.phones, self.phones.blank)

    def _check_grid(self) -> None:
        if round(self.frame_shift * SAMPLE_RATE) != HOP:
            raise ValueError(
                f"windows are joined on frames of 20 ms and the model's are "
                f"{1000 * self.frame_shift:g} ms apart; cut the recording, or give Recognizer "
                "seconds= that are longer than it"
            )

    # Files --------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model, for `from_pretrained`.

        Parameters
        ----------
        folder
            Made if it is not there.

        Raises
        ------
        TypeError
            If the model cannot be written.
        ValueError
            If the recognizer's phones are not the model's: they would be lost.
        """
        save = getattr(self.model, "save_pretrained", None)
        if save is None:
            raise TypeError(f"{type(self.model).__name__} has no save_pretrained")
        if self.phones != self.model.phones:
            raise ValueError("the recognizer's phones are not the model's and would be lost")
        save(folder)
        return Path(folder)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] = "tiny",
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        seconds: float = 30.0,
        overlap: float = 1.0,
    ) -> Recognizer:
        """Read a recognizer.

        Parameters
        ----------
        name_or_folder
            ``"tiny"``, the model that comes with the package (synthetic English; for trying things
            out, not for people); a folder of `TinyConvCTC.save_pretrained`; or a folder or name on
            the hub of a model for ``AutoModelForCTC`` of transformers.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"`` ….
        dtype
            In which a model of transformers computes: ``"auto"``, ``"float32"``, ``"bfloat16"`` …;
            float32 if None, as the tiny model always does.
        seconds, overlap
            As for the class.

        Raises
        ------
        FileNotFoundError
            If there is no such model, or a file is missing.
        ValueError
            If it holds another kind of model, or the tiny model is asked for another dtype.
        ImportError
            If it is a model of transformers, and that is not installed.
        """
        name = os.fspath(name_or_folder)
        folder = SHIPPED.get(name, Path(name))
        if name in SHIPPED and not folder.is_dir():
            raise FileNotFoundError(
                f"this installation lacks {folder}, the model {name!r}: install modicum-huper "
                "again, or train one with modicum-huper train"
            )
        # A name on the hub is one word, or two with a slash between.
        if not folder.is_dir() and (folder.is_absolute() or not 1 <= len(folder.parts) <= 2):
            raise FileNotFoundError(f"there is no folder {name}")
        if folder.is_dir() and _kind_of(folder) == _TINY:
            if dtype not in (None, "auto", "float32", "fp32", torch.float32):
                raise ValueError(f"TinyConvCTC computes in float32, not in {dtype}")
            model: AcousticModel = TinyConvCTC.from_pretrained(folder, device)
        else:
            from modicum.huper.integrations.transformers import TransformersCTC

            model = TransformersCTC.from_pretrained(name, device=device, dtype=dtype)
        return cls(model, seconds=seconds, overlap=overlap)


# Decoding ---------------------------------------------------------------------------------------


def decode(
    emissions: Emissions,
    method: str = "greedy",
    *,
    inventory: Iterable[str] | None = None,
    lm: LanguageModel | np.ndarray | None = None,
    lm_weight: float = 0.5,
    bonus: float = 0.0,
    beam: int = 16,
    nbest: int = 5,
) -> list[Transcript]:
    """Read phones off emissions, without any text.

    Parameters
    ----------
    emissions
        Of B recordings.
    method
        ``"greedy"``: the best symbol of each frame. ``"beam"``: the most probable phone sequence,
        as `modicum.huper.beam.prefix_beam_search` finds it. ``"lattice"``: the consensus of its
        n-best list, the most probable phone of each slot of a confusion network.
    inventory
        The only phones that may be heard, for a language that has no others; all if None. The
        probabilities of the others are shared out, so that a frame's still sum to 1.
    lm, lm_weight, bonus, beam, nbest
        For the last two methods, as for `modicum.huper.beam.prefix_beam_search`.

    Returns
    -------
    list of Transcript
        One for each recording: ``phones``, ``ipa``, ``spans`` in seconds, ``confidences`` and
        ``score``. Without a phone all but the score are empty, and ``confidence`` is None.

        ``trace["s"]`` is the distortion score of the emissions, see
        `modicum.huper.scheduler.distortion_score`.

        A confidence is the mean probability of the phone over its frames; of a lattice, the
        probability of the phone in its slot. The score is the log-probability of the best CTC path;
        of a beam that of the phones, over all paths, with the language model's part; of a lattice
        the log-probability that all slots are right. ``hypotheses`` are the other sequences of the
        n-best list, ``trace["posteriors"]`` the probabilities of all of it, the first one's first.
        ``trace["lattice"]`` has a mapping for each slot: ``start`` and ``end`` in seconds, and
        ``phones``, probabilities by phone, ``""`` for none.

    Raises
    ------
    ValueError
        If the method is unknown, the inventory is empty or has a phone that the model has not, or
        a setting is out of range.
    TypeError
        If `lm` is no language model.
    """
    options = {"lm": lm, "lm_weight": lm_weight, "bonus": bonus, "beam": beam, "nbest": nbest}
    return _Decoder(emissions.phones, method, inventory=inventory, **options)(emissions)


class _Decoder:
    """The settings of `decode`, checked."""

    def __init__(
        self,
        phones: PhoneSet,
        method: str,
        *,
        inventory: Iterable[str] | None = None,
        **search: Any,
    ) -> None:
        if method not in _DECODERS:
            raise ValueError(f"decode must be one of {', '.join(_DECODERS)}, not {method!r}")
        if unknown := set(search) - {"lm", "lm_weight", "bonus", "beam", "nbest"}:
            raise TypeError(f"decoding has no option {', '.join(sorted(unknown))}")
        if search.get("lm") is not None:
            if method == "greedy":
                raise ValueError('a language model needs decode="beam" or "lattice"')
            search["lm"] = as_language_model(search["lm"], phones)
        self.phones, self.method, self.search = phones, method, search
        self.unheard = _unheard(phones, inventory)
        # On nothing, so that bad settings are said at once.
        prefix_beam_search(np.zeros((0, len(phones))), phones, **search)

    def __call__(self, emissions: Emissions) -> list[Transcript]:
        found = []
        for number in range(len(emissions)):
            rows_TC = emissions.utterance(number)
            distortion = distortion_score(rows_TC) if len(rows_TC) else None
            if len(self.unheard):
                rows_TC = _without(rows_TC, self.unheard)
            if self.method == "greedy":
                one = _greedy(rows_TC, self.phones, emissions.frame_shift, 0)
            else:
                one = self._searched(rows_TC, emissions.frame_shift)
            found.append(replace(one, trace={**one.trace, "s": distortion}))
        return found

    def _searched(self, rows_TC: np.ndarray, shift: float) -> Transcript:
        candidates = prefix_beam_search(rows_TC, self.phones, **self.search)
        best = candidates[0]
        trace: dict[str, Any] = {
            "path": "bottom-up",
            "decode": self.method,
            "start": 0.0,
            "end": len(rows_TC) * shift,
            "posteriors": [one.posterior for one in candidates],
        }
        hypotheses = []
        for one in candidates[1:]:
            frames = align(rows_TC, one.ids, self.phones)
            means = _means(rows_TC, one.ids, frames)
            confidence = sum(means) / len(means) if means else None
            names = self.phones.decode(one.ids)
            hypotheses.append(Hypothesis("bottom-up", names, one.score, confidence))
        if self.method == "beam":
            ids, score = best.ids, best.score
            frames = align(rows_TC, ids, self.phones)
            confidences = _means(rows_TC, ids, frames)
        else:
            network = ConfusionNetwork.of(candidates, rows_TC, self.phones)
            kept = [slot for slot in network.slots if slot.best[0] is not None]
            ids = network.ids
            frames = [(slot.first, slot.last) for slot in kept]
            confidences = [slot.best[1] for slot in kept]
            score = float(sum(np.log(slot.best[1]) for slot in network.slots))
            trace["lattice"] = [
                {
                    "start": slot.first * shift,
                    "end": slot.last * shift,
                    "phones": {
                        **{self.phones.symbols[one]: p for one, p in slot.posteriors.items()},
                        **({"": slot.none} if slot.none else {}),
                    },
                }
                for slot in network.slots
            ]
        names = self.phones.decode(ids)
        return Transcript(
            phones=names,
            spans=tuple(Span(start * shift, end * shift) for start, end in frames),
            confidences=tuple(confidences),
            ipa=to_ipa(names, self.phones),
            score=score,
            hypotheses=tuple(hypotheses),
            trace=trace | ({} if names else {"reason": "no phone was heard"}),
        )


def _means(
    rows_TC: np.ndarray, ids: Sequence[int], frames: Sequence[tuple[int, int]]
) -> list[float]:
    """Give the mean probability of each phone over its frames."""
    return [
        float(np.exp(rows_TC[start:end, phone]).mean())
        for phone, (start, end) in zip(ids, frames, strict=True)
    ]


def _greedy(rows_TC: np.ndarray, phones: PhoneSet, shift: float, begun: int) -> Transcript:
    """Read frames that begin at frame number `begun` of the recording."""
    ids, spans, confidences = collapse(rows_TC, phones.blank, _specials(phones))
    names = phones.decode(ids)
    return Transcript(
        phones=names,
        spans=tuple(Span((begun + start) * shift, (begun + end) * shift) for start, end in spans),
        confidences=confidences,
        ipa=to_ipa(names, phones),
        score=float(rows_TC.max(1).sum(dtype=np.float64)) if len(rows_TC) else 0.0,
        trace={
            "path": "bottom-up",
            "decode": "greedy",
            "start": begun * shift,
            "end": (begun + len(rows_TC)) * shift,
            **({} if names else {"reason": "no phone was heard"}),
        },
    )


def _specials(phones: PhoneSet) -> frozenset[int]:
    return frozenset(phones.id(symbol) for symbol in phones.specials)


def _unheard(phones: PhoneSet, inventory: Iterable[str] | None) -> np.ndarray:
    """Give the ids of the phones outside of an inventory."""
    if inventory is None:
        return np.zeros(0, np.int64)
    kept = {phones.id(phone) for phone in phones.canonicalise(inventory)}
    if not kept:
        raise ValueError("an inventory needs at least one phone")
    return np.array([one for one in phones.ids.tolist() if one not in kept], dtype=np.int64)


def _without(rows_TC: np.ndarray, unheard: np.ndarray) -> np.ndarray:
    """Take symbols away and share their probability out."""
    masked_TC = rows_TC.copy()
    masked_TC[:, unheard] = -np.inf
    total_T1 = np.logaddexp.reduce(masked_TC, axis=1, keepdims=True)
    return np.asarray(masked_TC - total_T1, dtype=np.float32)


# Input ------------------------------------------------------------------------------------------


def recordings_of(audio: Any, sampling_rate: int | None = None) -> list[np.ndarray]:
    """Turn one recording or a list of them into samples.

    Parameters
    ----------
    audio, sampling_rate
        As for `Recognizer.emissions`.

    Returns
    -------
    list of np.ndarray
        float32 (N,) each, 16,000 samples per second.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `modicum.huper.audio.standardise`; with the number of the recording if there are many.
    """
    if not is_many(audio):
        return [_recording(audio, sampling_rate)]
    found = []
    for number, one in enumerate(audio):
        try:
            found.append(_recording(one, sampling_rate))
        except (TypeError, ValueError, FileNotFoundError) as error:
            raise type(error)(f"recording {number}: {error}") from None
    return found


def is_many(audio: Any) -> bool:
    """Say whether this is a list of recordings; a list of numbers is one recording."""
    return isinstance(audio, list | tuple) and not all(
        isinstance(one, int | float | np.number) for one in audio
    )


def _recording(audio: Any, sampling_rate: int | None) -> np.ndarray:
    if isinstance(audio, Mapping):
        for name in ("array", "raw", "path"):
            if audio.get(name) is not None:
                rate = None if name == "path" else audio.get("sampling_rate", sampling_rate)
                return standardise(audio[name], rate)
        raise ValueError(
            f"a recording as a mapping has array or path, this one has {', '.join(map(str, audio))}"
        )
    return standardise(audio, sampling_rate)


def _joined(parts: Sequence[np.ndarray], cuts: Sequence[Window]) -> np.ndarray:
    """Join the frames of windows; the last keeps all that the model gives at its end."""
    last = len(cuts) - 1
    return np.concatenate(
        [
            _kept(part, cut, last=number == last)
            for number, (part, cut) in enumerate(zip(parts, cuts, strict=True))
        ]
    )


def _kept(part_TC: np.ndarray, cut: Window, *, last: bool) -> np.ndarray:
    if last:
        return part_TC[cut.keep.start :]
    if len(part_TC) < cut.keep.stop:
        raise ValueError(
            f"the model gives {len(part_TC)} frames for {len(cut.samples)} samples, and "
            f"{cut.keep.stop} are needed: let windows overlap by more"
        )
    return part_TC[cut.keep]


def _kind_of(folder: Path) -> str:
    """Give the model type that a folder's configuration names."""
    path = folder / CONFIG_NAME
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {CONFIG_NAME}: there is no saved model")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    return str(content.get("model_type")) if isinstance(content, dict) else "unknown"
