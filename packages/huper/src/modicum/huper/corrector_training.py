"""The recipe of the neural corrector: targets, loss, schedule, and runs that go on where they were.

Takes a `Corrector` and utterances with canonical phones, realized phones and frames. Realized
phones may be those of an annotator, or what a first recognizer heard: that is how labels for
self-training are made. What step number i learns from, and its dropout, depend on nothing but the
seed and i, so that a run that was cut off ends with the same weights, bit for bit on a CPU with as
many threads.

The recipe is that of the public code of "HuPER: A Human-Inspired Framework for Phonetic Perception"
(arXiv 2602.01634): AdamW, a cosine schedule with warm-up, and the sum of the cross entropies of
both heads.

Shape suffixes: B utterances, S positions, O operations, V insertions, K insertions per slot.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch.nn import functional

from modicum.core.device import numpy_generator, resolve_device
from modicum.core.experiment import ProgressTask, write_atomic
from modicum.huper.corrector import Corrector, collate
from modicum.huper.edits import EditProgram, encode
from modicum.huper.emissions import Emissions
from modicum.huper.training import Engine, PlainEngine, batches, fingerprint, seeded

__all__ = [
    "CorrectorReport",
    "CorrectorTraining",
    "Example",
    "examples",
    "fit",
    "programs",
    "warmup_cosine",
]

STATE_NAME = "corrector_checkpoint.pt"
REPORT_NAME = "corrector_training.json"

_IGNORED = -100
"""Label of padding."""


@dataclass(frozen=True)
class CorrectorTraining:
    """What to do; the defaults are the published recipe.

    Attributes
    ----------
    epochs, batch_size
        Passes over the utterances; utterances of a step.
    learning_rate, warmup, weight_decay, betas, clip
        Peak of the schedule; fraction of the steps in which it rises; of AdamW; largest norm of the
        gradient.
    validation
        Fraction of the utterances that are kept out and measured on.
    select
        ``"last"``: the weights of the last epoch. ``"best"``: those of the epoch with the lowest
        loss on the utterances that were kept out.
    precision
        ``"bf16"`` (as published), ``"fp32"``, ``"fp16"``, or ``"auto"``: bf16 on CUDA, else fp32.
    cost
        How canonical and realized phones are aligned, ``"unit"`` or ``"feature"``; see
        `edits.encode`.
    seed
        Of order, dropout, and what is kept out.

    Raises
    ------
    ValueError
        If a number is out of range or a choice unknown.
    """

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 2e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.5
    validation: float = 0.1
    select: str = "last"
    precision: str = "auto"
    cost: str = "unit"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        for name in ("epochs", "batch_size", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, not {self.weight_decay!r}")
        for name in ("warmup", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are two numbers in [0, 1), not {self.betas!r}")
        for name, choices in (
            ("select", ("last", "best")),
            ("precision", ("auto", "fp32", "bf16", "fp16")),
            ("cost", ("unit", "feature")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        if self.select == "best" and not self.validation:
            raise ValueError('select="best" needs utterances that are kept out: validation > 0')


@dataclass(frozen=True)
class Example:
    """An utterance to learn from.

    Attributes
    ----------
    audio
        What `Corrector.correct` takes.
    canonical
        Phones of the dictionary.
    realized
        Phones that were said, or that a first recognizer heard.
    id
        For messages.
    """

    audio: Any
    canonical: tuple[str, ...]
    realized: tuple[str, ...]
    id: str = ""


@dataclass
class CorrectorReport:
    """What happened.

    Attributes
    ----------
    steps
        Steps of the optimiser.
    losses
        Mean loss of each epoch, in nats: of an operation plus of the insertions of a slot.
    validation_loss, validation_per
        The same on what was kept out, and the phone error rate of the corrected phones there;
        after each epoch. Empty where nothing was kept out.
    utterances, kept_out
        How many were learnt from, and how many not.
    lost
        Inserted phones that the targets cannot hold; see `edits.EditProgram`.
    chosen
        Epoch of the weights, from 1.
    seconds
        Of training, over all calls.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_per: list[float] = field(default_factory=list)
    utterances: int = 0
    kept_out: int = 0
    lost: int = 0
    chosen: int = 0
    seconds: float = 0.0


# Targets ----------------------------------------------------------------------------------------


def examples(
    emissions: Emissions | Sequence[Any],
    canonicals: Sequence[Sequence[str]],
    realized: Sequence[Sequence[str]] | None = None,
) -> list[Example]:
    """Make what the corrector learns from.

    Parameters
    ----------
    emissions
        Of all utterances; or what `Corrector.correct` takes, one for each.
    canonicals
        Phones of the dictionary of each.
    realized
        Phones that were said. None takes what the emissions themselves say: the phones of the first
        pass, by greedy decoding.

    Raises
    ------
    ValueError
        If numbers differ, or there are neither realized phones nor `Emissions`.
    """
    if isinstance(emissions, Emissions):
        if realized is None:
            symbols = emissions.phones
            realized = [symbols.decode(ids) for ids, _, _ in emissions.greedy()]
        recordings: Sequence[Any] = [emissions.utterance(b) for b in range(len(emissions))]
    else:
        recordings = emissions
    if realized is None:
        raise ValueError("phones of the first pass are read off an Emissions; give realized phones")
    if not len(recordings) == len(canonicals) == len(realized):
        raise ValueError(
            f"{len(recordings)} recordings need as many canonical and realized sequences, got "
            f"{len(canonicals)} and {len(realized)}"
        )
    return [
        Example(audio, tuple(canonical), tuple(said))
        for audio, canonical, said in zip(recordings, canonicals, realized, strict=True)
    ]


def programs(
    corrector: Corrector, items: Sequence[Any], cost: str = "unit"
) -> tuple[list[EditProgram], int]:
    """Say what the corrector should answer for each utterance.

    Parameters
    ----------
    corrector
        Whose inventory and scheme count.
    items
        As for `fit`.
    cost
        As for `edits.encode`.

    Returns
    -------
    programs, lost
        One for each utterance; how many inserted phones they cannot hold, together.

    Raises
    ------
    ValueError
        If a phone is not in the inventory.
    """
    found = []
    for number, item in enumerate(items):
        one = _example(item)
        try:
            canonical = corrector.phones.canonicalise(one.canonical)
            realized = corrector.phones.canonicalise(one.realized)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{one.id or f'utterance {number}'}: {error}") from None
        with warnings.catch_warnings():
            # One number for all of them instead of a warning for each.
            warnings.simplefilter("ignore", UserWarning)
            found.append(
                encode(
                    canonical,
                    realized,
                    corrector.config.scheme,  # type: ignore[arg-type]
                    corrector.config.max_ins,
                    cost,  # type: ignore[arg-type]
                )
            )
    return found, sum(program.lost for program in found)


def labels(corrector: Corrector, program: EditProgram) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids of operations, int64 (S,), and of insertions, int64 (S, K).

    The end mark has no operation; its label there says so.
    """
    slots = corrector.config.scheme == "slots"
    op_S = [corrector.op_id(op) for op in program.ops] + ([_IGNORED] if slots else [])
    width = corrector.config.insertions
    insertion_SK = torch.zeros(len(op_S), width, dtype=torch.int64)
    for slot, put_in in enumerate(program.insertions):
        for k, phone in enumerate(put_in):
            insertion_SK[slot - (not slots), k] = corrector.insertion_id(phone)
    return torch.tensor(op_S, dtype=torch.int64), insertion_SK


def _example(item: Any) -> Example:
    if isinstance(item, Example):
        return item
    audio, canonical, realized = item
    return Example(audio, tuple(_checked(canonical)), tuple(_checked(realized)))


def _checked(phones: Sequence[str]) -> Sequence[str]:
    if isinstance(phones, str):
        raise TypeError(f"phones must be a sequence of strings, not the string {phones!r}")
    return phones


# Training ---------------------------------------------------------------------------------------


def warmup_cosine(step: int, steps: int, peak: float, warmup: float) -> float:
    """Return the learning rate of one step: a line up from 0, then half a cosine down to 0.

    Parameters
    ----------
    step
        From 0.
    steps
        Of the whole run.
    peak
        Highest learning rate.
    warmup
        Fraction of the steps in which it rises; one step at least.

    Notes
    -----
    That of transformers' ``get_cosine_schedule_with_warmup``, as in the public code.
    """
    rising = max(1, int(steps * warmup))
    if step < rising:
        return peak * step / rising
    share = (step - rising) / max(1, steps - rising)
    return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * share)))


def fit(
    corrector: Corrector,
    items: Sequence[Any],
    training: CorrectorTraining | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    engine: Engine | None = None,
    save_seconds: float = 60.0,
    progress: ProgressTask | None = None,
) -> CorrectorReport:
    """Train a corrector, in place.

    Units of audio are computed once and held in memory.

    Parameters
    ----------
    corrector
        It ends in evaluation mode, on the device.
    items
        `Example`, or triples of audio, canonical and realized phones.
    training
        The recipe; the published one if None.
    folder
        Where state, corrector and report are kept; a second call with the same settings goes on, or
        reads the finished corrector. None keeps nothing.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` …; the engine's if there is one.
    engine
        Plain torch if None; see `modicum.huper.training.Engine`.
    save_seconds
        Seconds between two states on disk.
    progress
        Is advanced by each step.

    Returns
    -------
    CorrectorReport

    Raises
    ------
    ValueError
        If there is nothing to learn from, a phone is not in the inventory, frames are bad, or the
        folder belongs to a run with other settings or data.
    FloatingPointError
        If the loss is not finite.
    """
    training = CorrectorTraining() if training is None else training
    if not items:
        raise ValueError("there is no utterance to learn from")
    if not save_seconds >= 0:
        raise ValueError(f"save_seconds must not be negative, not {save_seconds!r}")
    if engine is None:
        where = resolve_device(device)
        precision = training.precision
        if precision == "auto":
            precision = "bf16" if torch.device(where).type == "cuda" else "fp32"
        engine = PlainEngine(where, precision)
    run = _Run(corrector, items, training, engine, None if folder is None else Path(folder))
    if run.finished():
        return run.report
    run.resume()
    if progress is not None:
        progress.advance(run.report.steps)
    begun = saved = time.monotonic()
    while run.report.steps < run.total:
        run.take_step()
        if run.report.steps % run.per_epoch == 0:
            run.close_epoch()
        now = time.monotonic()
        if now - saved >= save_seconds and run.report.steps < run.total:
            run.report.seconds, begun = run.report.seconds + now - begun, now
            run.save()
            saved = now
        if progress is not None:
            progress.advance(1)
    run.report.seconds += time.monotonic() - begun
    run.finish()
    return run.report


class _Rows:
    """Utterances as the network takes them, and their labels."""

    def __init__(self, corrector: Corrector, items: Sequence[Any], cost: str) -> None:
        self.found, self.lost = programs(corrector, items, cost)
        self.realized: list[tuple[str, ...]] = []
        self.inputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.labels: list[tuple[torch.Tensor, torch.Tensor]] = []
        digest = hashlib.sha256()
        for number, item in enumerate(items):
            one = _example(item)
            name = one.id or f"utterance {number}"
            known, text_S, units = corrector.prepared(one.audio, one.canonical, name)
            if not known:
                raise ValueError(f"{name}: there is no canonical phone to learn about")
            self.inputs.append((text_S, units))
            self.labels.append(labels(corrector, self.found[number]))
            self.realized.append(corrector.phones.canonicalise(one.realized))
            digest.update(units.numpy().tobytes())
            digest.update(f"{known} {self.realized[-1]}".encode())
        self.lengths = [len(units) for _, units in self.inputs]
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(
        self, at: Sequence[int] | np.ndarray, device: torch.device
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
        """Give what the network takes, and labels (B, S) and (B, S, K)."""
        given = collate([self.inputs[number] for number in at])
        op_BS = torch.nn.utils.rnn.pad_sequence(
            [self.labels[number][0] for number in at], True, _IGNORED
        )
        insertion_BSK = torch.nn.utils.rnn.pad_sequence(
            [self.labels[number][1] for number in at], True, _IGNORED
        )
        return (
            tuple(tensor.to(device) for tensor in given),
            op_BS.to(device),
            insertion_BSK.to(device),
        )

    def sizes(self, at: Sequence[int] | np.ndarray) -> tuple[int, int]:
        """Count the operations and the slots of some utterances."""
        ops = sum(int((self.labels[number][0] != _IGNORED).sum()) for number in at)
        return ops, sum(len(self.labels[number][1]) for number in at)


def _losses(
    scores: tuple[torch.Tensor, torch.Tensor], op_BS: torch.Tensor, insertion_BSK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the cross entropies of operations, and of insertions."""
    op_BSO, insertion_BSKV = scores
    op = functional.cross_entropy(
        op_BSO.flatten(0, 1), op_BS.flatten(), ignore_index=_IGNORED, reduction="sum"
    )
    insertion = functional.cross_entropy(
        insertion_BSKV.flatten(0, 2), insertion_BSK.flatten(), ignore_index=_IGNORED,
        reduction="sum",
    )  # fmt: skip
    return op, insertion


class _Run:
    """A training run: weights, optimiser, what happened, and their copy on disk."""

    def __init__(
        self,
        corrector: Corrector,
        items: Sequence[Any],
        training: CorrectorTraining,
        engine: Engine,
        folder: Path | None,
    ) -> None:
        self.corrector, self.training, self.engine = corrector, training, engine
        self.folder = folder
        start = fingerprint(corrector)
        if corrector.audio.needs_fit:
            corrector.audio.fit([_example(item).audio for item in items], training.seed)
        corrector.to(engine.device)
        self.rows = _Rows(corrector, items, training.cost)
        order = numpy_generator(training.seed, "kept out").permutation(len(items))
        kept_out = int(len(items) * training.validation)
        self.kept_out, self.used = np.sort(order[:kept_out]), np.sort(order[kept_out:])
        optimiser = torch.optim.AdamW(
            corrector.parameters(),
            training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
        )
        self.caller, self.optimiser = engine.prepare(corrector, optimiser)
        self.per_epoch = math.ceil(len(self.used) / training.batch_size)
        self.total = self.per_epoch * training.epochs
        self.report = CorrectorReport(
            utterances=len(self.used), kept_out=kept_out, lost=self.rows.lost
        )
        if self.rows.lost:
            warnings.warn(
                f"the targets cannot hold {self.rows.lost} inserted phone(s); see max_ins and "
                "scheme of CorrectorConfig",
                stacklevel=4,
            )
        self.sums: list[float] = []
        self.best: dict[str, torch.Tensor] | None = None
        # What must agree for a state on disk to be one of this run.
        self.settings: dict[str, Any] = {
            **asdict(training),
            "betas": list(training.betas),
            "utterances": len(items),
            "data": self.rows.fingerprint,
            "start": start,
            "processes": engine.world,
        }

    # One step -----------------------------------------------------------------------------------

    def take_step(self) -> None:
        """Learn from the next utterances."""
        step, training, engine = self.report.steps, self.training, self.engine
        epoch, place = divmod(step, self.per_epoch)
        lengths = [self.rows.lengths[number] for number in self.used]
        whole = self.used[batches(lengths, training.batch_size, training.seed, epoch)[place]]
        share = whole[engine.rank :: engine.world]
        # A process that has nothing left must still take part in the step.
        factor = 1.0 if len(share) else 0.0
        share = share if len(share) else whole[:1]
        for group in self.optimiser.param_groups:
            group["lr"] = warmup_cosine(step, self.total, training.learning_rate, training.warmup)
        given, op_BS, insertion_BSK = self.rows.batch(share, engine.device)
        self.caller.train()
        self.optimiser.zero_grad(set_to_none=True)
        with seeded(training.seed, step, engine), engine.autocast():
            scores = self.caller(*given)
        op, insertion = _losses(scores, op_BS, insertion_BSK)
        ops, slots = self.rows.sizes(whole)
        # Every process has a part of the batch, and their gradients are averaged.
        loss = (op / ops + insertion / slots) * factor * engine.world
        if not math.isfinite(value := loss.item()):
            raise FloatingPointError(
                f"the loss of step {step} is {value}; lower learning_rate, or look at utterances "
                f"{share.tolist()}"
            )
        engine.step(loss, self.caller, self.optimiser, training.clip)
        self.sums.append(value)
        self.report.steps += 1

    def close_epoch(self) -> None:
        """Note the mean loss of the epoch, and look at what was kept out."""
        report, training = self.report, self.training
        report.losses.append(sum(self.sums) / len(self.sums))
        self.sums = []
        report.chosen = len(report.losses) if training.select == "last" else report.chosen
        if not len(self.kept_out):
            return
        loss, per = self._measure()
        report.validation_loss.append(loss)
        report.validation_per.append(per)
        if training.select == "best" and loss <= min(report.validation_loss):
            report.chosen = len(report.losses)
            self.best = {
                name: tensor.detach().clone()
                for name, tensor in self.corrector.state_dict().items()
            }

    @torch.no_grad()
    def _measure(self) -> tuple[float, float]:
        """Give loss and phone error rate on what was kept out."""
        self.corrector.eval()
        op_sum = insertion_sum = 0.0
        wrong = phones = 0
        for at in _chunks(self.kept_out, self.training.batch_size):
            given, op_BS, insertion_BSK = self.rows.batch(at, self.engine.device)
            scores = self.corrector(*given)
            op, insertion = _losses(scores, op_BS, insertion_BSK)
            op_sum += op.item()
            insertion_sum += insertion.item()
            for row, number in enumerate(at):
                size = len(self.rows.inputs[number][0])
                answer = self.corrector.read(
                    self.rows.found[number].canonical,
                    scores[0][row, :size].cpu(),
                    scores[1][row, :size].cpu(),
                )
                wrong += Levenshtein.distance(answer.phones, self.rows.realized[number])
                phones += len(self.rows.realized[number])
        ops, slots = self.rows.sizes(self.kept_out)
        return op_sum / ops + insertion_sum / slots, wrong / max(1, phones)

    # Disk ---------------------------------------------------------------------------------------

    def finished(self) -> bool:
        """Say whether the folder has the result of this run, and take it up."""
        if self.folder is None or not (self.folder / REPORT_NAME).exists():
            return False
        content = json.loads((self.folder / REPORT_NAME).read_text(encoding="utf-8"))
        self._check(content["settings"], self.folder / REPORT_NAME)
        self.report = CorrectorReport(**content["report"])
        done = Corrector.from_pretrained(self.folder)
        self.corrector.load_state_dict(done.state_dict())
        self.corrector.eval()
        return True

    def resume(self) -> None:
        """Take up the last state, if there is one."""
        if self.folder is None or not (self.folder / STATE_NAME).exists():
            return
        path = self.folder / STATE_NAME
        state = torch.load(path, map_location=self.engine.device, weights_only=True)
        self._check(state["settings"], path)
        self.corrector.load_state_dict(state["corrector"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.engine.load_state_dict(state["engine"])
        self.report = CorrectorReport(**state["report"])
        self.sums, self.best = state["sums"], state["best"]

    def _check(self, found: Mapping[str, Any], path: Path) -> None:
        for key, value in self.settings.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{path} belongs to a run with {key} = {found.get(key)!r}, not {value!r}; "
                    "remove it or choose another folder"
                )

    def save(self) -> None:
        """Put the state on disk, whole or not at all."""
        if self.folder is None or self.engine.rank:
            return
        held = io.BytesIO()
        torch.save(
            {
                "settings": self.settings,
                "corrector": self.corrector.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "engine": self.engine.state_dict(),
                "report": asdict(self.report),
                "sums": self.sums,
                "best": self.best,
            },
            held,
        )
        write_atomic(self.folder / STATE_NAME, held.getvalue())

    def finish(self) -> None:
        """Choose the weights and put the result on disk."""
        if self.best is not None:
            self.corrector.load_state_dict(self.best)
        self.corrector.eval()
        if self.folder is None or self.engine.rank:
            return
        self.corrector.save_pretrained(self.folder)
        content = {"settings": self.settings, "report": asdict(self.report)}
        write_atomic(self.folder / REPORT_NAME, json.dumps(content, indent=1) + "\n")
        (self.folder / STATE_NAME).unlink(missing_ok=True)


def _chunks(numbers: np.ndarray, size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size].tolist()
