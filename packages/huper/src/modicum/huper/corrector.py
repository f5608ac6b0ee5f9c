"""The neural corrector: canonical phones and audio in, what was done to each phone out.

A transformer in which every canonical phone looks at all others and at the audio, and says by two
heads what became of it and what was put in. It makes labels: trained on realized phones, or on what
a first recognizer heard, it turns dictionary phones into better ones for training the next
recognizer. It is no detector of mispronunciations. It learns what the speakers of its training data
do, so that one trained on native speech flaps and reduces, and never says that V became B; for
learners take `modicum.huper.pronounce`.

Architecture, sizes and ids are those of "HuPER: A Human-Inspired Framework for Phonetic Perception"
(arXiv 2602.01634) and its public training code, but for what `CorrectorConfig` says. Where the two
differ, the default is ours and `CorrectorConfig.published` theirs.

Shape suffixes: B utterances, L canonical phones, S positions (L, or L + 1 with the end), U units of
audio, D width, O operations, V insertions, K insertions per slot.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import nn

from modicum.core.device import resolve_device, torch_generator
from modicum.core.experiment import ProgressTask, write_atomic
from modicum.huper.corrector_audio import FRONTENDS, AudioFrontend, stride_of
from modicum.huper.edits import DEL, KEEP, EditProgram, apply
from modicum.huper.emissions import Emissions
from modicum.huper.phones import PhoneSet

if TYPE_CHECKING:
    from modicum.huper.corrector_training import CorrectorReport, CorrectorTraining

__all__ = ["Correction", "Corrector", "CorrectorConfig"]

CONFIG_NAME = "corrector.json"
WEIGHTS_NAME = "corrector.safetensors"
_KIND = "modicum.huper.Corrector"

NONE_ID, PAD_ID, FIRST_PHONE = 0, 1, 2
"""Ids of insertions, and of phones as input: nothing, padding, then the phones."""

KEEP_ID, DEL_ID, SUB_PAD, FIRST_SUB = 0, 1, 2, 3
"""Ids of operations: kept, left out, padding that is never said, then the phones. The head is one
wider than these ids, as the public one is."""


@dataclass(frozen=True)
class CorrectorConfig:
    """Sizes and choices.

    Attributes
    ----------
    layers, width, heads, feed_forward
        Of the transformer.
    dropout
        Of embeddings with their positions.
    layer_dropout
        Within the layers; the public code leaves it at torch's 0.1 whatever `dropout` is.
    audio_frontend
        ``"posterior"``: the recognizer's log-probabilities, linearly projected, so that no second
        network is needed. ``"continuous"``: any features, projected. ``"kmeans"``: the nearest
        centroid of a frame as a token. ``"argmax"``: the largest feature of a frame as a token,
        which the public code does with HuBERT.
    features
        Columns of a frame; for ``"posterior"`` the symbols of the phone set if None. Tokens are
        made of frames of any width by ``"argmax"``; ``"kmeans"`` without it takes tokens only.
    audio_vocabulary
        Number of tokens.
    frame_shift, token_rate
        Seconds from frame to frame; units per second, which must divide the frames (25 for the
        public checkpoint). None takes every frame.
    scheme
        ``"slots"``: insertions in each of the L + 1 slots, read off the phone behind the slot, with
        an end mark behind the last phone. ``"reference"``: the public labels, one insertion behind
        each phone; see `edits.encode` for what they lose.
    max_ins
        Insertions of a slot; the reference scheme has one.
    max_positions
        Longest sequence.

    Raises
    ------
    ValueError
        If a number is out of range or a choice unknown.
    """

    layers: int = 8
    width: int = 512
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.2
    layer_dropout: float = 0.1
    audio_frontend: str = "posterior"
    features: int | None = None
    audio_vocabulary: int = 2048
    frame_shift: float = 0.02
    token_rate: float | None = None
    scheme: str = "slots"
    max_ins: int = 2
    max_positions: int = 5000

    def __post_init__(self) -> None:
        names = ("layers", "width", "heads", "feed_forward", "audio_vocabulary", "max_ins")
        for name in (*names, "max_positions", "frame_shift"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width must be even and a multiple of heads, not {self.width}")
        for name in ("dropout", "layer_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)!r}")
        if self.audio_frontend not in FRONTENDS:
            raise ValueError(
                f"audio_frontend must be one of {', '.join(FRONTENDS)}, not {self.audio_frontend!r}"
            )
        if self.features is not None and self.features < 1:
            raise ValueError(f"features must be positive, not {self.features}")
        if self.audio_frontend == "continuous" and self.features is None:
            raise ValueError('audio_frontend "continuous" needs features, the columns of a frame')
        if self.scheme not in ("slots", "reference"):
            raise ValueError(f'scheme must be "slots" or "reference", not {self.scheme!r}')
        stride_of(self.frame_shift, self.token_rate)

    @classmethod
    def published(cls) -> CorrectorConfig:
        """Return the public configuration: tokens at 25 per second and the public labels."""
        return cls(audio_frontend="argmax", token_rate=25.0, scheme="reference", max_ins=1)

    @property
    def insertions(self) -> int:
        """K: insertions that a position can say."""
        return self.max_ins if self.scheme == "slots" else 1


@dataclass(frozen=True)
class Correction:
    """What the corrector says of one utterance.

    Attributes
    ----------
    program
        What became of each canonical phone, and what was put in.
    op_probabilities
        Probability of the operation of each phone, as the network has it.
    keep_probabilities
        Probability of keeping each phone.
    insertion_probabilities
        Probability of each insertion of `program`.
    overruled
        Operations and insertions that were likeliest and less likely than `min_confidence`: the
        phone is kept there, and nothing put in.
    """

    program: EditProgram
    op_probabilities: tuple[float, ...]
    keep_probabilities: tuple[float, ...]
    insertion_probabilities: tuple[tuple[float, ...], ...]
    overruled: int = 0

    @property
    def phones(self) -> tuple[str, ...]:
        """The corrected phones."""
        return apply(self.program)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        return {
            "program": self.program.to_dict(),
            "op_probabilities": list(self.op_probabilities),
            "keep_probabilities": list(self.keep_probabilities),
            "insertion_probabilities": [list(slot) for slot in self.insertion_probabilities],
            "overruled": self.overruled,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Correction:
        """Read what `to_dict` gave."""
        return cls(
            EditProgram.from_dict(data["program"]),
            tuple(data["op_probabilities"]),
            tuple(data["keep_probabilities"]),
            tuple(map(tuple, data["insertion_probabilities"])),
            int(data["overruled"]),
        )

    def to_json(self, indent: int | None = None) -> str:
        """Return JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)


class _Positions(nn.Module):
    """Sinusoids, added, and dropout.

    Vaswani et al., "Attention is all you need" (arXiv 1706.03762), section 3.5.
    """

    def __init__(self, width: int, longest: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        place_P1 = torch.arange(longest, dtype=torch.float32)[:, None]
        rate_H = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10_000.0) / width))
        pe_1PD = torch.zeros(1, longest, width)
        pe_1PD[0, :, 0::2] = torch.sin(place_P1 * rate_H)
        pe_1PD[0, :, 1::2] = torch.cos(place_P1 * rate_H)
        self.pe: torch.Tensor
        # Computed, and so not written to files.
        self.register_buffer("pe", pe_1PD, persistent=False)

    def forward(self, values_BSD: torch.Tensor) -> torch.Tensor:
        placed_BSD: torch.Tensor = self.dropout(values_BSD + self.pe[:, : values_BSD.shape[1]])
        return placed_BSD


class Corrector(nn.Module):
    """Says for each canonical phone what was said, all at once.

    Parameters
    ----------
    phones
        Phones that are read and written; canonical phones are written in them first. The public
        recognizer's 39 if None; the public corrector has `PhoneSet.arpabet40`.
    config
        Sizes; the published ones over a recognizer's log-probabilities if None: 33.7 million
        parameters. A thousand utterances want a smaller one.
    seed
        Of the weights.

    Raises
    ------
    ValueError
        If the numbers do not fit each other.

    Notes
    -----
    Known limits. It needs many utterances: the alignment of phones to audio is learnt from nothing,
    where `modicum.huper.graph.fused_decode` with a counted `EditChannel` knows it. Its operations
    are decided independently of each other. It is no detector of mispronunciations; see the module.

    Examples
    --------
    >>> import numpy as np
    >>> from modicum.huper.corrector import Corrector, CorrectorConfig
    >>> small = CorrectorConfig(layers=1, width=16, heads=2, feed_forward=32)
    >>> corrector = Corrector(config=small)
    >>> frames = np.full((30, 44), -np.log(44))
    >>> correction = corrector.correct(frames, ["K", "AE", "T"])
    >>> len(correction.program.ops)
    3
    """

    def __init__(
        self,
        phones: PhoneSet | None = None,
        config: CorrectorConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.phones = PhoneSet.arpabet39() if phones is None else phones
        config = CorrectorConfig() if config is None else config
        if config.audio_frontend == "posterior" and config.features is None:
            config = replace(config, features=len(self.phones))
        self.config = config
        count = len(self.phones.phones)
        self.op_width, self.insertion_width = count + FIRST_SUB + 1, count + FIRST_PHONE
        self._number = {phone: at for at, phone in enumerate(self.phones.phones)}
        # Layers draw weights of their own first; nobody else's random numbers change by that.
        with torch.random.fork_rng(devices=[]):
            # Modules are named as in the public code, so that its checkpoints fit.
            self.text_embedding = nn.Embedding(self.insertion_width, config.width)
            self.audio = AudioFrontend(
                config.audio_frontend,
                config.features,
                config.audio_vocabulary,
                config.width,
                stride_of(config.frame_shift, config.token_rate),
            )
            self.pos_encoder = _Positions(config.width, config.max_positions, config.dropout)
            layer = nn.TransformerDecoderLayer(
                config.width,
                config.heads,
                config.feed_forward,
                config.layer_dropout,
                batch_first=True,
            )
            self.transformer = nn.TransformerDecoder(layer, config.layers)
            self.head_op = nn.Linear(config.width, self.op_width)
            self.head_ins = nn.Linear(config.width, self.insertion_width * config.insertions)
        generator = torch_generator(seed, "cpu", "corrector weights")
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if "embedding" in name or name == "audio.audio_projection.weight":
                    # A frame that is sure of its symbol then enters as an embedding of it would.
                    weight.normal_(generator=generator)
                elif weight.ndim > 1:
                    nn.init.xavier_uniform_(weight, generator=generator)
                elif name.endswith("bias"):
                    weight.zero_()
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_op.weight.device

    @property
    def ops(self) -> tuple[str, ...]:
        """Operations by id; the head is one wider."""
        return (KEEP, DEL, "SUB:<PAD>", *(f"SUB:{phone}" for phone in self.phones.phones))

    @property
    def insertions(self) -> tuple[str, ...]:
        """Insertions by id, which are also the ids of canonical phones."""
        return ("<NONE>", "<PAD>", *self.phones.phones)

    def op_id(self, op: str) -> int:
        """Return the id of ``"KEEP"``, ``"DEL"`` or ``"SUB:p"``."""
        if op in (KEEP, DEL):
            return KEEP_ID if op == KEEP else DEL_ID
        return self._number[op.removeprefix("SUB:")] + FIRST_SUB

    def insertion_id(self, phone: str) -> int:
        """Return the id of a phone as an insertion and as input."""
        return self._number[phone] + FIRST_PHONE

    # The network --------------------------------------------------------------------------------

    def text_ids(self, canonical: Sequence[str]) -> torch.Tensor:
        """Return what the network reads of canonical phones of its inventory, int64 (S,).

        With slots an end mark is behind the last phone, which has the id of no insertion.
        """
        ids = [self.insertion_id(phone) for phone in canonical]
        return torch.tensor([*ids, NONE_ID] if self.config.scheme == "slots" else ids)

    def forward(
        self,
        text_BS: torch.Tensor,
        units: torch.Tensor,
        text_lengths_B: torch.Tensor,
        unit_lengths_B: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the scores of both heads.

        Parameters
        ----------
        text_BS
            int64 (B, S) from `text_ids`, padded with 1.
        units
            int64 (B, U) or float32 (B, U, C) from ``audio.units``, padded with anything.
        text_lengths_B, unit_lengths_B
            int64 (B,) valid positions and units, at least 1 each.

        Returns
        -------
        op_BSO, insertion_BSKV
            float32 (B, S, O) and (B, S, K, V) scores.
        """
        text_BSD = self.pos_encoder(self.text_embedding(text_BS))
        audio_BUD = self.pos_encoder(self.audio(units))
        place_S = torch.arange(text_BS.shape[1], device=text_BS.device)
        place_U = torch.arange(audio_BUD.shape[1], device=text_BS.device)
        found_BSD = self.transformer(
            text_BSD,
            audio_BUD,
            tgt_key_padding_mask=place_S >= text_lengths_B[:, None],
            memory_key_padding_mask=place_U >= unit_lengths_B[:, None],
        )
        op_BSO = self.head_op(found_BSD).float()
        insertion_BSX = self.head_ins(found_BSD).float()
        return op_BSO, insertion_BSX.unflatten(-1, (self.config.insertions, -1))

    # Use ----------------------------------------------------------------------------------------

    def fit(
        self,
        items: Sequence[Any],
        training: CorrectorTraining | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        device: str | torch.device = "auto",
        progress: ProgressTask | None = None,
        **options: Any,
    ) -> CorrectorReport:
        """Learn, in place; see `modicum.huper.corrector_training.fit`.

        Parameters
        ----------
        items
            ``(audio, canonical, realized)`` or `corrector_training.Example`: what `correct` takes,
            and the phones that were said, or that a first recognizer heard.
        training
            The recipe; the published one if None.
        folder
            Where state and result are kept; a second call goes on. None keeps nothing.
        device, progress, options
            As there.

        Raises
        ------
        ValueError, FloatingPointError
            As there.
        """
        from modicum.huper.corrector_training import fit

        return fit(
            self, items, training, folder=folder, device=device, progress=progress, **options
        )

    def correct(
        self, audio: Any, canonical: Sequence[str], *, min_confidence: float = 0.0
    ) -> Correction:
        """Say what was said.

        Parameters
        ----------
        audio
            (T, C) frames: log-probabilities for the front end ``"posterior"``, features otherwise;
            an `Emissions` of one recording; or tokens (T,).
        canonical
            Phones of the dictionary; they are written in the corrector's inventory first.
        min_confidence
            Less likely operations and insertions are not carried out: the phone is kept.

        Returns
        -------
        Correction
            The likeliest operation of each phone and the likeliest insertions of each slot, each
            decided for itself.

        Raises
        ------
        ValueError
            If a phone is not in the inventory, the frames are bad, too long or none, the confidence
            is out of range, or the corrector is in training mode.
        """
        return self.correct_many([audio], [canonical], min_confidence=min_confidence)[0]

    @torch.no_grad()
    def correct_many(
        self,
        audio: Emissions | Sequence[Any],
        canonicals: Sequence[Sequence[str]],
        *,
        min_confidence: float = 0.0,
        batch_size: int = 32,
        progress: ProgressTask | None = None,
    ) -> list[Correction]:
        """Correct many utterances.

        Parameters
        ----------
        audio
            What `correct` takes, for each; or an `Emissions` of all.
        canonicals
            Phones of the dictionary of each.
        min_confidence
            As for `correct`.
        batch_size
            Utterances that are computed together; it changes no result beyond rounding.
        progress
            Is advanced by each batch, by its number of utterances.

        Raises
        ------
        ValueError
            As `correct`, or if numbers differ.
        """
        if self.training:
            raise ValueError("the corrector is in training mode; call eval() first")
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence must be in [0, 1], not {min_confidence!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {batch_size!r}")
        if isinstance(audio, Emissions):
            self.check_emissions(audio)
            recordings: Sequence[Any] = [audio.utterance(b) for b in range(len(audio))]
        else:
            recordings = audio
        if len(recordings) != len(canonicals):
            raise ValueError(
                f"{len(recordings)} recordings need as many canonical sequences, "
                f"got {len(canonicals)}"
            )
        given = [
            self.prepared(one, canonical, f"utterance {number}")
            for number, (one, canonical) in enumerate(zip(recordings, canonicals, strict=True))
        ]
        found: dict[int, Correction] = {}
        # Like lengths together: less padding.
        order = sorted(range(len(given)), key=lambda at: len(given[at][2]))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            asked = [at for at in part if len(given[at][1])]
            if asked:
                batch = collate([given[at][1:] for at in asked])
                op_BSO, insertion_BSKV = self(*(tensor.to(self.device) for tensor in batch))
                for row, at in enumerate(asked):
                    size = len(given[at][1])
                    found[at] = self.read(
                        given[at][0],
                        op_BSO[row, :size].cpu(),
                        insertion_BSKV[row, :size].cpu(),
                        min_confidence,
                    )
            for at in set(part) - set(asked):
                found[at] = Correction(EditProgram((), (), ((),)), (), (), ((),))
            if progress is not None:
                progress.advance(len(part))
        return [found[at] for at in range(len(given))]

    def check_emissions(self, emissions: Emissions) -> None:
        """Refuse emissions whose frames are not those that the corrector was made for."""
        if abs(emissions.frame_shift - self.config.frame_shift) > 1e-9:
            raise ValueError(
                f"the corrector was made for frames {1000 * self.config.frame_shift:g} ms apart, "
                f"the emissions' are {1000 * emissions.frame_shift:g} ms apart"
            )

    def prepared(
        self, audio: Any, canonical: Sequence[str], name: str
    ) -> tuple[tuple[str, ...], torch.Tensor, torch.Tensor]:
        """Give canonical phones of the inventory, text ids (S,) and units (U, …) of an utterance.

        Raises
        ------
        ValueError
            As `correct`, with the name of the utterance.
        """
        try:
            if isinstance(audio, Emissions):
                self.check_emissions(audio)
            known = self.phones.canonicalise(canonical)
            text_S, units = self.text_ids(known), self.audio.units(audio)
            longest = self.config.max_positions
            for what, length in (("phones", len(text_S)), ("units of audio", len(units))):
                if length > longest:
                    raise ValueError(f"{length} {what} are more than max_positions = {longest}")
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        return known, text_S, units

    def read(
        self,
        canonical: tuple[str, ...],
        op_SO: torch.Tensor,
        insertion_SKV: torch.Tensor,
        min_confidence: float = 0.0,
    ) -> Correction:
        """Take the likeliest of each head.

        Parameters
        ----------
        canonical
            Phones of the inventory.
        op_SO, insertion_SKV
            Scores of both heads, on the CPU.
        min_confidence
            As for `correct`.
        """
        probability_SO, insertion_SKV = op_SO.softmax(-1), insertion_SKV.softmax(-1)
        # Padding is nothing that can be said, and the last operation has no name.
        allowed_SO = probability_SO.clone()
        allowed_SO[:, [SUB_PAD, self.op_width - 1]] = -1
        allowed_SKV = insertion_SKV.clone()
        allowed_SKV[:, :, PAD_ID] = -1
        names, ops, chances, overruled = self.ops, [], [], 0
        for i, phone in enumerate(canonical):
            best = int(allowed_SO[i].argmax())
            chance = float(probability_SO[i, best])
            # A phone in its own place is kept, however that is written.
            op = KEEP if names[best] == f"SUB:{phone}" else names[best]
            if op != KEEP and chance < min_confidence:
                overruled += 1
                op, chance = KEEP, float(probability_SO[i, KEEP_ID])
            ops.append(op)
            chances.append(chance)
        slots: list[tuple[str, ...]] = [()] * (len(canonical) + 1)
        slot_chances: list[tuple[float, ...]] = [()] * (len(canonical) + 1)
        behind = 0 if self.config.scheme == "slots" else 1
        for at in range(len(allowed_SKV)):
            put_in: list[tuple[str, float]] = []
            for k in range(self.config.insertions):
                best = int(allowed_SKV[at, k].argmax())
                chance = float(insertion_SKV[at, k, best])
                if best == NONE_ID:
                    break
                if chance < min_confidence:
                    overruled += 1
                    break
                put_in.append((self.insertions[best], chance))
            slots[at + behind] = tuple(phone for phone, _ in put_in)
            slot_chances[at + behind] = tuple(chance for _, chance in put_in)
        return Correction(
            EditProgram(canonical, tuple(ops), tuple(slots)),
            tuple(chances),
            tuple(probability_SO[: len(canonical), KEEP_ID].tolist()),
            tuple(slot_chances),
            overruled,
        )

    # Files --------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``corrector.json`` and ``corrector.safetensors``, each whole or not at all.

        Parameters
        ----------
        folder
            Made if it is not there; that of a recognizer will do.
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
    ) -> Corrector:
        """Read what `save_pretrained` wrote.

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
                raise FileNotFoundError(f"{folder} has no {name}: it is no saved Corrector")
        content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        if content.pop("model_type", None) != _KIND:
            raise ValueError(f"{folder / CONFIG_NAME} does not describe a {_KIND}")
        phones = PhoneSet.from_dict(content.pop("phones"))
        model = cls(phones, CorrectorConfig(**content))
        try:
            model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS_NAME))
        except RuntimeError as error:
            raise ValueError(f"{folder / WEIGHTS_NAME} does not fit its config: {error}") from None
        return model.to(resolve_device(device)).eval()

    @classmethod
    def from_public(
        cls,
        path: str | os.PathLike[str],
        *,
        phones: PhoneSet | None = None,
        heads: int | None = None,
        audio_frontend: str = "argmax",
        token_rate: float | None = 25.0,
    ) -> Corrector:
        """Read a checkpoint of the public training code.

        The names of the tensors and the ids are those of its source; sizes are read off the
        tensors. No published checkpoint was at hand to verify this with.

        Parameters
        ----------
        path
            A checkpoint of Lightning, a file of ``torch.save`` with the weights, or safetensors.
            Read without running code of the file.
        phones
            Of its ids, in their order behind ``<NONE>`` and ``<PAD>``; 40 of ARPAbet if None.
        heads
            Of attention; those of the file's settings, or 8, if None.
        audio_frontend, token_rate
            How audio became tokens; see `CorrectorConfig`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it holds other things, or sizes that do not fit the phones.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}")
        weights, settings = _public_weights(path)
        phones = PhoneSet.arpabet40() if phones is None else phones
        try:
            vocabulary, width = weights["text_embedding.weight"].shape
            config = CorrectorConfig(
                layers=1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name),
                width=width,
                heads=int(settings.get("nhead", 8)) if heads is None else heads,
                feed_forward=len(weights["transformer.layers.0.linear1.weight"]),
                dropout=float(settings.get("dropout", 0.2)),
                audio_frontend=audio_frontend,
                audio_vocabulary=len(weights["audio_embedding.weight"]),
                token_rate=token_rate,
                scheme="reference",
                max_ins=1,
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no checkpoint of the corrector: {error}") from None
        if vocabulary != len(phones.phones) + FIRST_PHONE:
            raise ValueError(
                f"{path} has {vocabulary} ids, and {len(phones.phones)} phones have "
                f"{len(phones.phones) + FIRST_PHONE}: give its phones"
            )
        model = cls(phones, config)
        named = {
            name.replace("audio_embedding.", "audio.audio_embedding."): tensor.float()
            for name, tensor in weights.items()
            if name != "pos_encoder.pe"
        }
        try:
            model.load_state_dict(named)
        except RuntimeError as error:
            raise ValueError(f"{path} is no checkpoint of the corrector: {error}") from None
        return model.eval()


def _public_weights(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path), {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read without running its code ({error}); save its state_dict alone"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} and no weights")
    settings = content.get("hyper_parameters", {})
    return dict(content.get("state_dict", content)), settings


def collate(rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    """Pad text ids (S,) and units (U, …) of some utterances.

    Returns
    -------
    text_BS, units, text_lengths_B, unit_lengths_B
        What the network takes.
    """
    text_BS = nn.utils.rnn.pad_sequence([row[0] for row in rows], True, PAD_ID)
    units = nn.utils.rnn.pad_sequence([row[1] for row in rows], True)
    return (
        text_BS,
        units,
        torch.tensor([len(row[0]) for row in rows]),
        torch.tensor([len(row[1]) for row in rows]),
    )
