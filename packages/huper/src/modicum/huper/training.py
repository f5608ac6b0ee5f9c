"""The recipe of the tiny model: resumable, and the same every time.

Takes a model with `features` and a forward pass as `modicum.huper.tiny.TinyConvCTC` has them, and
utterances with phones. What step number i learns from, its masks, noise and dropout depend on
nothing but the seed and i: a run that was cut off goes on from its last state on disk and ends with
the same weights, bit for bit on a CPU with as many threads. It knows no corpus and no files of one.

AdamW with a one-cycle learning rate (Smith and Topin, "Super-Convergence", arXiv 1708.07120),
masks of SpecAugment (Park et al., arXiv 1904.08779), connectionist temporal classification.

Shape suffixes: B utterances, F frames of 10 ms, T of 20 ms, M mel bands, C symbols, L phones.
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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import nn
from torch.nn import functional

from modicum.core.device import numpy_generator, resolve_device, torch_generator
from modicum.core.experiment import ProgressTask, write_atomic
from modicum.huper.audio import SAMPLE_RATE, standardise
from modicum.huper.emissions import collapse
from modicum.huper.frontend import valid
from modicum.huper.tiny import TinyConvCTC, collate

__all__ = [
    "Engine",
    "Labelled",
    "PlainEngine",
    "TrainingConfig",
    "TrainingReport",
    "batches",
    "error_rate",
    "fingerprint",
    "one_cycle",
    "seeded",
    "spec_augment",
    "train",
]

STATE_NAME = "checkpoint.pt"
REPORT_NAME = "training.json"

_START_DIVISOR, _END_DIVISOR = 25.0, 1e4
_BETA_HIGH, _BETA_LOW, _BETA_SECOND = 0.95, 0.85, 0.999
"""Of the one-cycle policy, as torch's ``OneCycleLR`` has them."""

_POOL = 8
"""Batches whose utterances are sorted by length together."""

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Labelled:
    """An utterance to learn from.

    Attributes
    ----------
    audio
        A file, or samples (N,) of `sampling_rate`.
    phones
        What is said.
    weight
        Factor of its loss, which may be negative: corrections of a doubly robust risk are.
    id
        For messages.
    sampling_rate
        Of samples.
    """

    audio: Any
    phones: tuple[str, ...]
    weight: float = 1.0
    id: str = ""
    sampling_rate: int = SAMPLE_RATE


@dataclass(frozen=True)
class TrainingConfig:
    """What to do; the defaults are the recipe of the tiny model.

    Attributes
    ----------
    epochs, batch_size
        Passes over the utterances; utterances of a step.
    learning_rate, warmup, weight_decay, clip
        Peak of the one-cycle schedule; fraction of the steps in which it rises; of AdamW; largest
        norm of the gradient.
    frequency_mask, time_mask
        Most bands and most frames of 10 ms that a mask covers; each utterance has one of each.
    noise
        Standard deviation of what is added to the features, which have 1.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"`` (on CUDA only) of the network; the loss is float32.
    seed
        Of order, masks, noise and dropout.
    dev_every
        Epochs between two looks at the dev set; the last epoch has one.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    epochs: int = 60
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup: float = 0.15
    weight_decay: float = 1e-3
    clip: float = 5.0
    frequency_mask: int = 7
    time_mask: int = 12
    noise: float = 0.15
    precision: str = "fp32"
    seed: int = 0
    dev_every: int = 5

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "clip", "dev_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        for name in ("weight_decay", "frequency_mask", "time_mask", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)!r}")
        if not 0 < self.warmup < 1:
            raise ValueError(f"warmup must be between 0 and 1, not {self.warmup!r}")
        if self.precision not in _PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(_PRECISIONS)}, not {self.precision!r}"
            )


@dataclass
class TrainingReport:
    """What happened.

    Attributes
    ----------
    steps
        Steps of the optimiser.
    losses
        Mean loss of each epoch, in nats per phone.
    dev_per
        Phone error rate on the dev set by epoch, from 1.
    unalignable
        Utterances that have more phones than frames; they teach nothing.
    seconds
        Of training, over all calls.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    dev_per: dict[int, float] = field(default_factory=dict)
    unalignable: int = 0
    seconds: float = 0.0


class Engine(Protocol):
    """Where and in which precision steps are taken, and by how many processes.

    `modicum.huper.integrations.accelerate` has one for several GPUs.
    """

    device: torch.device
    rank: int
    world: int

    def prepare(
        self, model: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return what is called in their place."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass."""

    def step(
        self, loss: torch.Tensor, model: nn.Module, optimiser: torch.optim.Optimizer, clip: float
    ) -> None:
        """Go back through the graph, clip the gradient, and move the weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be kept for going on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what was kept."""


class PlainEngine:
    """Plain torch on one device, as an `Engine`."""

    rank, world = 0, 1

    def __init__(self, device: str, precision: str) -> None:
        self.device = torch.device(device)
        self.dtype = _PRECISIONS[precision]
        if precision == "fp16" and self.device.type != "cuda":
            raise ValueError(f'precision "fp16" needs CUDA; on {device} take "bf16" or "fp32"')
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

    def prepare(
        self, model: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return both as they are."""
        return model, optimiser

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def step(
        self, loss: torch.Tensor, model: nn.Module, optimiser: torch.optim.Optimizer, clip: float
    ) -> None:
        """Go back through the graph, clip the gradient, and move the weights."""
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        self.scaler.step(optimiser)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the gradient's scale."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of the gradient's scale."""
        if state:
            self.scaler.load_state_dict(state)


def train(
    model: TinyConvCTC,
    utterances: Sequence[Labelled],
    config: TrainingConfig | None = None,
    *,
    dev: Sequence[Labelled] = (),
    folder: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    engine: Engine | None = None,
    save_seconds: float = 60.0,
    progress: ProgressTask | None = None,
) -> TrainingReport:
    """Train a model, in place.

    Features are computed once and held in memory: 58 MB for an hour of speech.

    Parameters
    ----------
    model
        Of this package, or one with the same `features`, `phones` and forward pass. It ends in
        evaluation mode, on the device.
    utterances
        What to learn from; phones are written in the model's inventory first.
    config
        The recipe's if None.
    dev
        Utterances on which the phone error rate is taken along the way; it changes nothing.
    folder
        Where state, model and report are kept; a second call with the same settings goes on, or
        reads the finished model. None keeps nothing.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` …; the engine's if there is one.
    engine
        Plain torch if None.
    save_seconds
        Seconds between two states on disk.
    progress
        Is advanced by each step.

    Returns
    -------
    TrainingReport

    Raises
    ------
    ValueError
        If there is nothing to learn from, a phone is not in the inventory, audio is bad, or the
        folder belongs to a run with other settings or data.
    FloatingPointError
        If the loss is not finite.
    """
    config = TrainingConfig() if config is None else config
    if not utterances:
        raise ValueError("there is no utterance to learn from")
    if not save_seconds >= 0:
        raise ValueError(f"save_seconds must not be negative, not {save_seconds!r}")
    if engine is None:
        engine = PlainEngine(resolve_device(device), config.precision)
    kept = None if folder is None else Path(folder)
    model.to(engine.device)
    run = _Run(model, _Store(model, utterances), config, engine, kept)
    if run.finished():
        return run.report
    run.resume()
    dev_store = _Store(model, dev) if dev else None
    if progress is not None:
        progress.advance(run.report.steps)
    begun = saved = time.monotonic()
    while run.report.steps < run.total:
        run.take_step()
        if run.at_epoch_end():
            epoch = run.report.steps // run.per_epoch
            run.close_epoch()
            if dev_store and (epoch % config.dev_every == 0 or epoch == config.epochs):
                run.report.dev_per[epoch] = dev_store.error_rate(model)
        now = time.monotonic()
        if kept is not None and now - saved >= save_seconds and run.report.steps < run.total:
            run.report.seconds, begun = run.report.seconds + now - begun, now
            run.save()
            saved = now
        if progress is not None:
            progress.advance(1)
    run.report.seconds += time.monotonic() - begun
    model.eval()
    if kept is not None and engine.rank == 0:
        run.finish()
    return run.report


def error_rate(model: TinyConvCTC, utterances: Sequence[Labelled]) -> float:
    """Return the phone error rate of greedy decoding: edits over phones, all utterances together.

    Raises
    ------
    ValueError
        If there is no utterance, no phone, or a phone that is not in the inventory.
    """
    if not utterances:
        raise ValueError("there is no utterance to be right or wrong about")
    return _Store(model, utterances).error_rate(model)


# Parts of the recipe ----------------------------------------------------------------------------


def one_cycle(step: int, steps: int, peak: float, warmup: float) -> tuple[float, float]:
    """Return learning rate and first beta of one step, as torch's ``OneCycleLR`` with cosines.

    Parameters
    ----------
    step
        From 0.
    steps
        Of the whole run.
    peak
        Highest learning rate; the first is 1/25 of it, the last 1/250,000.
    warmup
        Fraction of the steps in which it rises.
    """
    top, last = warmup * steps - 1, steps - 1
    low = peak / _START_DIVISOR
    if step <= top and top > 0:
        share = step / top
        return _cosine(low, peak, share), _cosine(_BETA_HIGH, _BETA_LOW, share)
    share = (step - top) / (last - top) if last > top else 1.0
    return _cosine(peak, low / _END_DIVISOR, share), _cosine(_BETA_LOW, _BETA_HIGH, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the batches of an epoch: in random order, of like lengths.

    Utterances are shuffled, sorted by length within pools of eight batches, cut into batches, and
    the batches shuffled.

    Parameters
    ----------
    lengths
        Of the utterances.
    batch_size
        Utterances of a batch; one batch has the rest.
    seed, epoch
        The order depends on nothing else.

    Returns
    -------
    list of np.ndarray
        int64 numbers of utterances, each number once.
    """
    rng = numpy_generator(seed, "batches", epoch)
    order = rng.permutation(len(lengths))
    size_of = np.asarray(lengths)
    found = []
    pool = _POOL * batch_size
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(size_of[part], kind="stable")]
        found += [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
    return [found[at] for at in rng.permutation(len(found))]


def spec_augment(
    features_BFM: torch.Tensor,
    frames_B: torch.Tensor,
    frequency_mask: int,
    time_mask: int,
    noise: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return features with noise, one band of frequencies and one stretch of time masked.

    Parameters
    ----------
    features_BFM
        float32 (B, F, M) with mean 0, which is what masks put in their place.
    frames_B
        int64 (B,) valid frames; the others stay zero.
    frequency_mask, time_mask
        Most bands and frames of a mask; how many is uniform from 0.
    noise
        Standard deviation.
    generator
        On the CPU, so that the device does not matter.
    """
    batch, frames, bands = features_BFM.shape
    noisy_BFM = features_BFM
    if noise:
        drawn_BFM = torch.randn(features_BFM.shape, generator=generator)
        noisy_BFM = features_BFM + noise * drawn_BFM.to(features_BFM.device)
    inside_BF1 = valid(frames_B, frames)[:, :, None]
    drawn_4B = torch.rand(4, batch, generator=generator).to(features_BFM.device)
    band_BM = _mask(drawn_4B[0], drawn_4B[1], frequency_mask, torch.full_like(frames_B, bands))
    time_BF = _mask(drawn_4B[2], drawn_4B[3], time_mask, frames_B)
    hidden_BFM = _spread(band_BM, bands)[:, None, :] | _spread(time_BF, frames)[:, :, None]
    return noisy_BFM * (inside_BF1 & ~hidden_BFM)


def _mask(
    width_share_B: torch.Tensor, place_share_B: torch.Tensor, most: int, sizes_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give first and last + 1 of what is masked."""
    width_B = torch.minimum((width_share_B * (most + 1)).long(), sizes_B)
    start_B = (place_share_B * (sizes_B - width_B + 1)).long()
    return start_B, start_B + width_B


def _spread(bounds: tuple[torch.Tensor, torch.Tensor], width: int) -> torch.Tensor:
    place = torch.arange(width, device=bounds[0].device)
    return (place >= bounds[0][:, None]) & (place < bounds[1][:, None])


# A run ------------------------------------------------------------------------------------------


class _Store:
    """Features and targets of utterances, in memory."""

    def __init__(self, model: TinyConvCTC, utterances: Sequence[Labelled]) -> None:
        self.phones = model.phones
        self.features: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []
        self.weights = torch.tensor([float(one.weight) for one in utterances])
        if not torch.isfinite(self.weights).all():
            raise ValueError("weights of utterances must be finite")
        digest = hashlib.sha256()
        for number, one in enumerate(utterances):
            name = one.id or f"number {number}"
            try:
                rate = None if isinstance(one.audio, str | os.PathLike) else one.sampling_rate
                samples_BN, lengths_B = collate([standardise(one.audio, rate)])
                phones = model.phones.canonicalise(one.phones)
            except (TypeError, ValueError) as error:
                raise type(error)(f"utterance {name}: {error}") from None
            features_BFM, _ = model.features(
                samples_BN.to(model.device), lengths_B.to(model.device)
            )
            self.features.append(features_BFM[0].cpu())
            self.targets.append(torch.as_tensor(model.phones.encode(phones)))
            digest.update(samples_BN.numpy().tobytes())
            digest.update(f"{phones} {one.weight}".encode())
        self.lengths = [len(one) for one in self.features]
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, at: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Give features (B, F, M), padded, and frames (B,), on the CPU."""
        rows = [self.features[number] for number in at]
        frames_B = torch.tensor([len(row) for row in rows])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), frames_B

    def unalignable(self) -> int:
        """Count utterances for which no path of CTC exists."""
        count = 0
        for length, target_L in zip(self.lengths, self.targets, strict=True):
            needed = len(target_L) + int((target_L[1:] == target_L[:-1]).sum())
            count += int(TinyConvCTC.lengths(torch.tensor(length))) < needed
        return count

    @torch.no_grad()
    def error_rate(self, model: TinyConvCTC) -> float:
        """Give the phone error rate of greedy decoding."""
        if not (total := sum(map(len, self.targets))):
            raise ValueError("the utterances have no phone to be right or wrong about")
        was_training = model.training
        model.eval()
        specials = {self.phones.id(symbol) for symbol in self.phones.specials}
        order = np.argsort(self.lengths, kind="stable")
        wrong = 0
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            features_BFM, frames_B = self.batch(part)
            logprobs_BTC, lengths_B = model(
                features_BFM.to(model.device), frames_B.to(model.device)
            )
            rows = zip(logprobs_BTC.cpu().numpy(), lengths_B.tolist(), part, strict=True)
            for row_TC, length, number in rows:
                found, _, _ = collapse(row_TC[:length], self.phones.blank, specials)
                wrong += Levenshtein.distance(found, tuple(self.targets[number].tolist()))
        model.train(was_training)
        return wrong / total


class _Run:
    """A training run: weights, optimiser, what happened, and their copy on disk."""

    def __init__(
        self,
        model: TinyConvCTC,
        store: _Store,
        config: TrainingConfig,
        engine: Engine,
        folder: Path | None,
    ) -> None:
        self.model, self.store, self.config, self.engine = model, store, config, engine
        self.folder = folder
        optimiser = torch.optim.AdamW(
            model.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self.caller, self.optimiser = engine.prepare(model, optimiser)
        self.per_epoch = math.ceil(len(store) / config.batch_size)
        self.total = self.per_epoch * config.epochs
        self.report = TrainingReport(unalignable=store.unalignable())
        self.sums: list[float] = []
        if self.report.unalignable:
            warnings.warn(
                f"{self.report.unalignable} of {len(store)} utterances have more phones than "
                "frames and teach nothing; are their phones those of their audio?",
                stacklevel=3,
            )
        # What must agree for a state on disk to be one of this run.
        self.settings: dict[str, Any] = {
            **asdict(config),
            "utterances": len(store),
            "data": store.fingerprint,
            "start": fingerprint(model),
            "processes": engine.world,
        }

    def finished(self) -> bool:
        """Say whether the folder has the result of this run, and take it up."""
        if self.folder is None or not (self.folder / REPORT_NAME).exists():
            return False
        content = json.loads((self.folder / REPORT_NAME).read_text(encoding="utf-8"))
        self._check(content["settings"], self.folder / REPORT_NAME)
        dev_per = {int(epoch): per for epoch, per in content["report"].pop("dev_per").items()}
        self.report = TrainingReport(dev_per=dev_per, **content["report"])
        done = type(self.model).from_pretrained(self.folder)
        self.model.load_state_dict(done.state_dict())
        self.model.eval()
        return True

    def resume(self) -> None:
        """Take up the last state, if there is one."""
        if self.folder is None or not (self.folder / STATE_NAME).exists():
            return
        path = self.folder / STATE_NAME
        state = torch.load(path, map_location=self.engine.device, weights_only=True)
        self._check(state["settings"], path)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.engine.load_state_dict(state["engine"])
        self.report = TrainingReport(**state["report"])
        self.sums = state["sums"]

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
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "engine": self.engine.state_dict(),
                "report": asdict(self.report),
                "sums": self.sums,
            },
            held,
        )
        write_atomic(self.folder / STATE_NAME, held.getvalue())

    def finish(self) -> None:
        """Put the result on disk."""
        if self.folder is None:
            return
        self.model.save_pretrained(self.folder)
        content = {"settings": self.settings, "report": asdict(self.report)}
        write_atomic(self.folder / REPORT_NAME, json.dumps(content, indent=1) + "\n")
        (self.folder / STATE_NAME).unlink(missing_ok=True)

    def at_epoch_end(self) -> bool:
        """Say whether the last step ended an epoch."""
        return self.report.steps % self.per_epoch == 0

    def close_epoch(self) -> None:
        """Note the mean loss of the epoch."""
        self.report.losses.append(sum(self.sums) / len(self.sums))
        self.sums = []

    def take_step(self) -> None:
        """Learn from the next utterances."""
        step, config, engine = self.report.steps, self.config, self.engine
        epoch, place = divmod(step, self.per_epoch)
        whole = batches(self.store.lengths, config.batch_size, config.seed, epoch)[place]
        share = whole[engine.rank :: engine.world]
        weights_B = self.store.weights[share]
        if not len(share):
            # A process that has nothing left must still take part in the step.
            share, weights_B = whole[:1], torch.zeros(1)
        rate, beta = one_cycle(step, self.total, config.learning_rate, config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = rate, (beta, _BETA_SECOND)
        features_BFM, frames_B = self.store.batch(share)
        features_BFM, frames_B = features_BFM.to(engine.device), frames_B.to(engine.device)
        features_BFM = spec_augment(
            features_BFM,
            frames_B,
            config.frequency_mask,
            config.time_mask,
            config.noise,
            torch_generator(config.seed, "cpu", "augment", step, engine.rank),
        )
        self.caller.train()
        self.optimiser.zero_grad(set_to_none=True)
        with seeded(config.seed, step, engine), engine.autocast():
            logprobs_BTC, lengths_B = self.caller(features_BFM, frames_B)
        losses_B = self._losses(logprobs_BTC, lengths_B, share)
        # Every process has a part of the batch, and their gradients are averaged.
        loss = (losses_B * weights_B.to(engine.device)).sum() / len(whole) * engine.world
        if not math.isfinite(value := loss.item()):
            raise FloatingPointError(
                f"the loss of step {step} is {value}; lower learning_rate, or look at utterances "
                f"{share.tolist()}"
            )
        engine.step(loss, self.caller, self.optimiser, config.clip)
        self.sums.append(value)
        self.report.steps += 1

    def _losses(
        self, logprobs_BTC: torch.Tensor, lengths_B: torch.Tensor, share: np.ndarray
    ) -> torch.Tensor:
        """Give nats per phone of each utterance, 0 where there is no path."""
        targets = [self.store.targets[number] for number in share]
        sizes_B = torch.tensor([len(one) for one in targets], device=logprobs_BTC.device)
        nats_B = functional.ctc_loss(
            logprobs_BTC.float().transpose(0, 1),
            torch.cat(targets).to(logprobs_BTC.device),
            lengths_B,
            sizes_B,
            blank=self.model.phones.blank,
            reduction="none",
            zero_infinity=True,
        )
        return nats_B / sizes_B.clamp(min=1)


@contextmanager
def seeded(seed: int, step: int, engine: Engine) -> Iterator[None]:
    """Give dropout the random numbers of this step, and torch its own back afterwards."""
    devices = [engine.device] if engine.device.type == "cuda" else []
    drawn = torch_generator(seed, "cpu", "dropout", step, engine.rank).initial_seed()
    with torch.random.fork_rng(devices):
        torch.manual_seed(drawn)
        yield


def fingerprint(model: nn.Module) -> str:
    """Return a digest of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
