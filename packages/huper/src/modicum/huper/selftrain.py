"""Self-training: a few utterances with realized phones, many with nothing but their text.

A first recognizer learns from the labelled utterances. It listens to the others, and what it hears
and what the dictionary says are put together into labels, from which a fresh recognizer learns;
and so on, as long as it gets better. `label_report` says before all that what such labels would be
worth. Takes items of `modicum.huper.corpus`; how a network learns is the business of what is handed
in, by default of `modicum.huper.training`.

Algorithm 1 of "HuPER: A Human-Inspired Framework for Phonetic Perception" (arXiv 2602.01634), with
the weights of its Section on missing labels, which the released loop leaves out.

Shape suffixes: T frames, C symbols, N utterances.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from rapidfuzz.distance import Levenshtein

from modicum.core.experiment import ProgressTask, write_atomic
from modicum.huper import corpus, drrc
from modicum.huper.audio import SAMPLE_RATE, standardise
from modicum.huper.channel import EditChannel
from modicum.huper.corpus import Item
from modicum.huper.g2p import G2P, phones_of
from modicum.huper.graph import fused_decode
from modicum.huper.metrics.phones import ratio_interval
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import AcousticModel, Recognizer
from modicum.huper.tiny import TinyConvCTC
from modicum.huper.training import Labelled, TrainingConfig, train

if TYPE_CHECKING:
    from modicum.huper.corrector import CorrectorConfig
    from modicum.huper.corrector_training import CorrectorTraining

__all__ = [
    "Evidence",
    "FitLabels",
    "Fitted",
    "LabelReport",
    "Labels",
    "Neural",
    "Round",
    "SelfTraining",
    "evidence_of",
    "label_report",
    "make_labels",
    "self_train",
]

FIRST = TrainingConfig()
"""Recipe of the first recognizer, on a few utterances."""

LATER = TrainingConfig(epochs=13)
"""Recipe of the later ones, on many."""

_PATHS = str | os.PathLike[str]
_CORRECTORS = ("channel", "neural", "none")
_BATCH = 32
"""Utterances that are listened to, labelled and written together."""


# What is known of an utterance ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Evidence:
    """What there is to make a label of.

    Attributes
    ----------
    id
        Of the utterance.
    canonical
        What the dictionary says.
    logprobs
        float32 (T, C): what a recognizer believes of each frame.
    heard
        Its bottom-up answer.
    realized
        What was said, where that is known.
    """

    id: str
    canonical: tuple[str, ...]
    logprobs: np.ndarray
    heard: tuple[str, ...]
    realized: tuple[str, ...] | None = None


class Fitted(Protocol):
    """What makes labels, after it was fitted."""

    def __call__(self, evidence: Evidence) -> Sequence[str]:
        """Return the phones to learn from."""


FitLabels = Callable[[Sequence[Evidence], Sequence[Evidence], PhoneSet], Fitted]
"""Takes evidence of labelled and of other utterances and the phones; gives what makes labels."""


@dataclass(frozen=True)
class Neural:
    """Labels of a `modicum.huper.corrector.Corrector` that is trained for the purpose.

    It learns what the recognizer hears in the transcribed utterances and what is said in the
    labelled ones, in memory. It takes many utterances to learn what a phone sounds like: a few
    hundred are better served by ``corrector="channel"``.

    Attributes
    ----------
    config, training
        Sizes and recipe; the published ones if None.
    use_labelled
        Whether it learns from realized phones too.
    min_confidence
        Less likely edits are not carried out.
    device, seed
        Of its training.
    """

    config: CorrectorConfig | None = None
    training: CorrectorTraining | None = None
    use_labelled: bool = True
    min_confidence: float = 0.0
    device: str = "auto"
    seed: int = 0

    def __call__(
        self, labelled: Sequence[Evidence], unlabelled: Sequence[Evidence], phones: PhoneSet
    ) -> Fitted:
        """Train it."""
        from modicum.huper.corrector import Corrector
        from modicum.huper.corrector_training import CorrectorTraining, Example

        examples = [Example(one.logprobs, one.canonical, one.heard, one.id) for one in unlabelled]
        if self.use_labelled:
            examples += [
                Example(one.logprobs, one.canonical, one.realized or (), one.id) for one in labelled
            ]
        corrector = Corrector(phones, self.config, seed=self.seed)
        training = CorrectorTraining(seed=self.seed) if self.training is None else self.training
        corrector.fit(examples, training, device=self.device)

        def make(evidence: Evidence) -> tuple[str, ...]:
            found = corrector.correct(
                evidence.logprobs, evidence.canonical, min_confidence=self.min_confidence
            )
            return found.phones

        return make


@dataclass(frozen=True)
class Labels:
    """Labels of one round.

    Attributes
    ----------
    items
        All transcribed utterances with ``label_phonemes``, and in ``extra`` ``heard`` (the
        bottom-up phones), ``evidence_cost`` (see `make_labels`) and ``kept``.
    threshold
        Largest cost that was kept, in nats per canonical phone.
    """

    items: tuple[Item, ...]
    threshold: float

    @property
    def kept(self) -> tuple[Item, ...]:
        """Those to learn from."""
        return tuple(item for item in self.items if item.extra["kept"])

    def error(self) -> float:
        """Return the phone error rate of all labels, where the realized phones are known.

        Raises
        ------
        ValueError
            If they are not.
        """
        pairs = [(item.phones("label"), item.phones("realized")) for item in self.items]
        return _rate(pairs)


@dataclass(frozen=True)
class Round:
    """One recognizer.

    Attributes
    ----------
    number
        0 for the one that learnt from the labelled utterances alone.
    dev_per
        Its phone error rate on the dev set; None without one.
    labels
        What it learnt from besides the labelled utterances; None for number 0.
    effective_sample_size
        Of the weights of the doubly robust risk, None without it.
    """

    number: int
    dev_per: float | None
    labels: Labels | None = None
    effective_sample_size: float | None = None


@dataclass
class SelfTraining:
    """What came of it.

    Attributes
    ----------
    model
        The recognizer of round `best`.
    first, last
        That of round 0, and that of the last round, which may have been turned down.
    channel
        What the labelled pairs say of edits.
    rounds
        All that were trained, the one that was turned down too.
    best
        Number of the round whose recognizer is the result.
    stopped
        Why there were fewer rounds than asked for, or None.
    """

    model: AcousticModel
    first: AcousticModel
    last: AcousticModel
    channel: EditChannel
    rounds: list[Round] = field(default_factory=list)
    best: int = 0
    stopped: str | None = None

    @property
    def recognizer(self) -> Recognizer:
        """The result, to transcribe with."""
        return Recognizer(self.model)


@dataclass(frozen=True)
class LabelReport:
    """How wrong labels would be, from utterances whose realized phones are known.

    Attributes
    ----------
    canonical, greedy, corrected
        Phone error rates of what the dictionary says, of what the recognizer hears, and of both
        together.
    intervals
        Of the three, by name: percentile bootstrap over utterances, 95 %; None for too few.
    utterances, folds
        How many; labels of a fold are made without its realized phones.
    """

    canonical: float
    greedy: float
    corrected: float
    intervals: dict[str, tuple[float, float] | None]
    utterances: int
    folds: int

    @property
    def helps(self) -> bool:
        """Whether corrected labels are better than both others: go or no go."""
        return self.corrected < min(self.canonical, self.greedy)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {**asdict(self), "helps": self.helps}

    def __str__(self) -> str:
        rows = []
        for name in ("canonical", "greedy", "corrected"):
            span = self.intervals[name]
            ends = "" if span is None else f" ({100 * span[0]:.1f} … {100 * span[1]:.1f})"
            rows.append(f"{name:<10} {100 * getattr(self, name):5.1f} %{ends}")
        rows.append(f"of {self.utterances} utterances in {self.folds} folds")
        return "\n".join(rows)


# The two doors ----------------------------------------------------------------------------------


def self_train(
    recognizer: AcousticModel | Recognizer | Callable[[], Any] | None,
    labelled: Any,
    unlabelled: Any,
    g2p: G2P | None = None,
    corrector: Literal["channel", "neural", "none"] | FitLabels = "channel",
    rounds: int = 1,
    drrc: Literal["aipw"] | None = None,
    *,
    dev: Any = (),
    first: AcousticModel | Recognizer | None = None,
    first_config: TrainingConfig = FIRST,
    config: TrainingConfig = LATER,
    lam: float = 1.0,
    context: Literal["lr"] | None = None,
    keep: float = 0.95,
    folds: int = 5,
    covariates: Callable[[Item], Sequence[float]] | None = None,
    learn: Callable[..., Any] = train,
    folder: _PATHS | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressTask | None = None,
) -> SelfTraining:
    """Train a recognizer from a few labelled utterances and many transcripts.

    Every round starts from fresh weights::

        R_0 = learn({(x, r)} of the labelled)
        for k in 1 … rounds:
            corrector = fit on {(c, r)} of the labelled
            label = corrector(c, R_{k-1}(x)) of each transcribed utterance
            drop the labels whose transcript fits the sound worst
            R_k = learn({(x, r)} of the labelled ∪ {(x, label)})

    Parameters
    ----------
    recognizer
        What every round starts from: an untrained `TinyConvCTC` (or a `Recognizer` with one), of
        which copies learn, or a function that gives a fresh one. None for the tiny model with its
        published sizes.
    labelled
        Utterances with ``phonemes`` (or ``text``, and `g2p`) and ``real_phonemes``: whatever
        `modicum.huper.corpus.load` takes, or triples of audio, canonical and realized phones.
    unlabelled
        The same without ``real_phonemes``; or pairs of audio and canonical phones, or of audio and
        text. Realized phones that it has are never learnt.
    g2p
        From text to canonical phones, for items without ``phonemes``.
    corrector
        What makes labels: ``"channel"``, edits counted on the labelled pairs and decoded exactly;
        ``"neural"``, a network with its published sizes, see `Neural` for others; ``"none"``, the
        bottom-up phones as they are, without dropping any; or a function, see `FitLabels`.
    rounds
        At most how many. With a dev set a round whose phone error rate rises is turned down and
        ends the loop.
    drrc
        None learns from realized phones of the labelled and labels of the others, as the released
        loop does. ``"aipw"`` weights them to the doubly robust risk: labels of all utterances, and
        on the labelled ones the difference that the realized phones make, over the propensity.
        Unbiased, and noisy where few were labelled of those who are many: look at the effective
        sample size of the round, and judge by a dev set. Good labels need no weights.
    dev
        Utterances with ``real_phonemes``, for the guard against drift.
    first
        A recognizer that learnt from the labelled utterances already; round 0 is then not trained.
    first_config, config
        Recipes of round 0 and of the others. Their seed is replaced.
    lam
        λ of `fused_decode`.
    context
        Of the `EditChannel`.
    keep
        Share of the labels that are kept, those with the least cost: 0.95 drops a twentieth.
    folds
        Labels of the labelled utterances, which ``"aipw"`` needs, are made by recognizers and
        channels that did not see them, one for each fold.
    covariates
        For ``"aipw"`` what the choice of the labelled utterances may have depended on: numbers of
        an item, the same for all, for a logistic regression. None if it was made at random.
    learn
        Called as `modicum.huper.training.train`: model, utterances, config; dev, folder, device,
        progress by name.
    folder
        Where networks (as `TinyConvCTC.save_pretrained`), labels (JSONL) and reports of each round
        go. A second call with the same settings goes on. None keeps nothing.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` ….
    seed
        Of weights, order, masks and folds.
    progress
        Is advanced by each step of training and each utterance that is labelled.

    Returns
    -------
    SelfTraining

    Raises
    ------
    ValueError
        If there is nothing to learn from, an item lacks what it needs, a setting is out of range,
        or the folder belongs to a call with other settings or data.
    """
    _check(corrector, rounds, drrc, keep, lam)
    fresh = _factory(recognizer, seed)
    known = items_of(labelled, g2p, realized=True, name="labelled")
    others = items_of(unlabelled, g2p, name="unlabelled")
    heldout = items_of(dev, None, realized=True, canonical=False, name="dev", empty=True)
    if rounds > 1 and not heldout:
        warnings.warn(
            "more than one round without a dev set: nobody notices when labels drift",
            stacklevel=2,
        )
    root = None if folder is None else Path(folder)
    trainer = _Trainer(learn, fresh, heldout, device, seed, progress)
    model = first.model if isinstance(first, Recognizer) else first
    phones = (fresh() if model is None else model).phones
    known = [_folded(item, phones) for item in known]
    others = [_folded(item, phones) for item in others]
    if model is None:
        model = trainer(
            [item.labelled() for item in known], first_config, _under(root, "round-0", "net")
        )
    channel = EditChannel.fit(_pairs(known), context=context, phones=phones)
    found = SelfTraining(model, model, model, channel, [Round(0, trainer.dev_per(model))])
    proxies: list[Item] = []
    if drrc == "aipw" and rounds:
        proxies = _crossed_labels(
            known, trainer, first_config, corrector, lam, context, folds, seed, root
        )
    for number in range(1, rounds + 1):
        labels = make_labels(
            found.model,
            known,
            others,
            corrector=corrector,
            channel=channel,
            lam=lam,
            keep=keep if corrector != "none" else 1.0,
            path=_under(root, f"round-{number}", "labels.jsonl"),
            progress=progress,
        )
        size: float | None = None
        if drrc == "aipw":
            learnt, size = _doubly_robust(known, proxies, labels.kept, covariates, folds, seed)
        else:
            learnt = [item.labelled() for item in known]
            learnt += [item.labelled("label") for item in labels.kept]
        candidate = trainer(learnt, config, _under(root, f"round-{number}", "net"))
        done = Round(number, trainer.dev_per(candidate), labels, size)
        before = found.rounds[-1].dev_per
        found.rounds.append(done)
        found.last = candidate
        if before is not None and done.dev_per is not None and done.dev_per > before:
            found.stopped = (
                f"the phone error rate on the dev set rose from {before:.4f} to "
                f"{done.dev_per:.4f} in round {number}"
            )
            break
        found.model, found.best = candidate, number
    if root is not None:
        write_atomic(root / "selftraining.json", json.dumps(_summary(found), indent=1) + "\n")
    return found


def label_report(
    labelled: Any,
    folds: int = 5,
    recognizer: AcousticModel | Recognizer | Callable[[], Any] | None = None,
    g2p: G2P | None = None,
    corrector: Literal["channel", "neural", "none"] | FitLabels = "channel",
    *,
    trained: bool = False,
    config: TrainingConfig = FIRST,
    lam: float = 1.0,
    context: Literal["lr"] | None = None,
    learn: Callable[..., Any] = train,
    folder: _PATHS | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressTask | None = None,
) -> LabelReport:
    """Say how wrong labels would be, before anything expensive is trained.

    Every fold is labelled by a recognizer and a corrector that learnt from the others.

    Parameters
    ----------
    labelled, g2p, corrector, lam, context, learn, device, seed, progress
        As for `self_train`.
    folds
        How many.
    recognizer
        As for `self_train`; or with `trained` a recognizer that never heard these utterances, of
        which one is enough for all folds.
    trained
        Take the recognizer as it is: only the corrector is fitted, in seconds.
    config
        Recipe of the recognizers.
    folder
        Where they are kept; that of `self_train` will do, which then finds them.

    Returns
    -------
    LabelReport

    Raises
    ------
    ValueError
        As `self_train`, or if there are fewer utterances than folds.
    """
    _check(corrector, 1, None, 0.95, lam)
    known = items_of(labelled, g2p, realized=True, name="labelled")
    root = None if folder is None else Path(folder)
    if trained:
        if recognizer is None or not hasattr(recognizer, "emissions"):
            raise ValueError("trained=True needs a recognizer that was trained")
        model = recognizer.model if isinstance(recognizer, Recognizer) else recognizer
        trainer = _Trainer(lambda *_, **__: None, lambda: model, [], device, seed, progress)
        root = None
    else:
        trainer = _Trainer(learn, _factory(recognizer, seed), [], device, seed, progress)
    phones = trainer.fresh().phones
    known = [_folded(item, phones) for item in known]
    proxies = _crossed_labels(known, trainer, config, corrector, lam, context, folds, seed, root)
    said = [item.phones("realized") for item in proxies]
    ways = {
        "canonical": [item.phones("canonical") for item in proxies],
        "greedy": [tuple(item.extra["heard"]) for item in proxies],
        "corrected": [item.phones("label") for item in proxies],
    }
    sizes_N = np.array([len(one) for one in said])
    rates, spans = {}, {}
    for name, made in ways.items():
        wrong_N = np.array([Levenshtein.distance(a, b) for a, b in zip(made, said, strict=True)])
        rates[name] = float(wrong_N.sum() / sizes_N.sum())
        spans[name] = ratio_interval(wrong_N, sizes_N, seed=seed)
    return LabelReport(**rates, intervals=spans, utterances=len(proxies), folds=folds)


# Labels -----------------------------------------------------------------------------------------


def make_labels(
    model: AcousticModel,
    labelled: Sequence[Item],
    unlabelled: Sequence[Item],
    *,
    corrector: str | FitLabels = "channel",
    channel: EditChannel | None = None,
    lam: float = 1.0,
    keep: float = 0.95,
    path: _PATHS | None = None,
    progress: ProgressTask | None = None,
) -> Labels:
    """Label transcribed utterances.

    Parameters
    ----------
    model
        What listens.
    labelled
        Items with ``phonemes`` and ``real_phonemes``, for the corrector.
    unlabelled
        Items with ``phonemes``.
    corrector, lam, keep
        As for `self_train`.
    channel
        Fitted on the labelled pairs if None. Its decoder also says what it costs to believe the
        transcript, whatever makes the labels: the log-probability of the best path of all minus
        that of the best path near the transcript, over the canonical phones.
    path
        JSONL with what is done; a second call goes on.
    progress
        Is advanced by each utterance.

    Returns
    -------
    Labels
    """
    phones = model.phones
    if channel is None:
        channel = EditChannel.fit(_pairs(labelled), phones=phones)
    # One network gives one set of labels: a file of another is not gone on with.
    settings = {
        "network": _network(model),
        "corrector": _named(corrector),
        "lam": lam,
        "channel": _channel_digest(channel),
        "pairs": hashlib.sha256(repr(_pairs(labelled)).encode()).hexdigest(),
        "transcripts": hashlib.sha256(
            repr([(item.id, item.phones("canonical")) for item in unlabelled]).encode()
        ).hexdigest(),
    }
    make: list[Fitted] = []

    def change(batch: list[Item]) -> list[Item]:
        if not make:
            make.append(_fitted(corrector, model, labelled, unlabelled, channel, lam))
        heard = evidence_of(model, batch)
        return [
            _with_label(item, one, make[0], channel, lam)
            for item, one in zip(batch, heard, strict=True)
        ]

    if path is None:
        found: list[Item] = []
        for start in range(0, len(unlabelled), _BATCH):
            found += change(list(unlabelled[start : start + _BATCH]))
            if progress is not None:
                progress.advance(len(found) - start)
    else:
        found = corpus.process(
            unlabelled, change, path, batch_size=_BATCH, settings=settings, progress=progress
        )
    by_id = {item.id: item for item in found}
    costs = [by_id[item.id].extra["evidence_cost"] for item in unlabelled]
    threshold = _threshold(costs, keep)
    return Labels(
        tuple(
            replace(
                item,
                label_phonemes=by_id[item.id].label_phonemes,
                extra={
                    **item.extra,
                    **by_id[item.id].extra,
                    # The ear's own phones have no transcript that may not fit.
                    "kept": corrector == "none" or (cost is not None and cost <= threshold),
                },
            )
            for item, cost in zip(unlabelled, costs, strict=True)
        ),
        threshold,
    )


def evidence_of(model: AcousticModel, items: Sequence[Item]) -> list[Evidence]:
    """Listen to items.

    Parameters
    ----------
    model
        What listens.
    items
        With audio and ``phonemes``; ``real_phonemes`` come along where they are.

    Returns
    -------
    list of Evidence
        In their order.
    """
    phones = model.phones
    emissions = Recognizer(model).emissions([_audio(item) for item in items], SAMPLE_RATE)
    return [
        Evidence(
            item.id,
            phones.canonicalise(item.phones("canonical")),
            emissions.utterance(number),
            phones.decode(ids),
            None if item.real_phonemes is None else phones.canonicalise(item.real_phonemes),
        )
        for number, (item, (ids, _, _)) in enumerate(zip(items, emissions.greedy(), strict=True))
    ]


def _with_label(
    item: Item, evidence: Evidence, make: Fitted, channel: EditChannel, lam: float
) -> Item:
    """Give what a line of the file holds: the label, what was heard, and the cost."""
    fused = fused_decode(evidence.logprobs, evidence.canonical, channel, lam)
    best = float(evidence.logprobs.max(1).sum(dtype=np.float64)) if len(evidence.logprobs) else 0.0
    cost = (best - fused.score) / max(1, len(evidence.canonical))
    label = fused.phones if isinstance(make, _ByChannel) else tuple(make(evidence))
    kept = replace(item, samples=None, sampling_rate=None) if item.samples is not None else item
    return replace(
        kept,
        label_phonemes=label,
        extra={
            **item.extra,
            "heard": list(evidence.heard),
            # Nothing that the graph accepts fits into the frames.
            "evidence_cost": cost if math.isfinite(cost) else None,
        },
    )


def _threshold(costs: Sequence[float | None], keep: float) -> float:
    """Give the cost of the last that is kept, by rank."""
    finite = sorted(cost for cost in costs if cost is not None)
    if keep >= 1 or not finite:
        return math.inf
    return finite[min(math.ceil(keep * len(costs)), len(finite)) - 1]


# Correctors -------------------------------------------------------------------------------------


class _ByChannel:
    """The best path of sound and dictionary; `_with_label` has decoded it already."""

    def __init__(self, channel: EditChannel, lam: float) -> None:
        self.channel, self.lam = channel, lam

    def __call__(self, evidence: Evidence) -> tuple[str, ...]:
        found = fused_decode(evidence.logprobs, evidence.canonical, self.channel, self.lam)
        phones: tuple[str, ...] = found.phones
        return phones


def _heard(evidence: Evidence) -> tuple[str, ...]:
    return evidence.heard


def _fitted(
    corrector: str | FitLabels,
    model: AcousticModel,
    labelled: Sequence[Item],
    unlabelled: Sequence[Item],
    channel: EditChannel,
    lam: float,
) -> Fitted:
    if corrector == "channel":
        return _ByChannel(channel, lam)
    if corrector == "none":
        return _heard
    if isinstance(corrector, str):
        corrector = Neural()
    # What is not known of the others stays unknown, also where a simulation knows it.
    unseen = [replace(item, real_phonemes=None) for item in unlabelled]
    return corrector(evidence_of(model, labelled), evidence_of(model, unseen), model.phones)


def _crossed_labels(
    known: Sequence[Item],
    trainer: _Trainer,
    config: TrainingConfig,
    corrector: str | FitLabels,
    lam: float,
    context: Literal["lr"] | None,
    folds: int,
    seed: int,
    root: Path | None,
) -> list[Item]:
    """Label labelled utterances by what learnt from the other folds, in their order."""
    fold_N = drrc.folds_of(len(known), folds, seed)
    made: dict[int, Item] = {}
    for fold in range(folds):
        rest = [item for item, one in zip(known, fold_N, strict=True) if one != fold]
        out = np.flatnonzero(fold_N == fold)
        model = trainer(
            [item.labelled() for item in rest], config, _under(root, "folds", str(fold))
        )
        channel = EditChannel.fit(_pairs(rest), context=context, phones=model.phones)
        labels = make_labels(
            model,
            rest,
            [known[at] for at in out],
            corrector=corrector,
            channel=channel,
            lam=lam,
            keep=1.0,
        )
        made.update(zip(out.tolist(), labels.items, strict=True))
    return [made[at] for at in range(len(known))]


def _doubly_robust(
    known: Sequence[Item],
    proxies: Sequence[Item],
    kept: Sequence[Item],
    covariates: Callable[[Item], Sequence[float]] | None,
    folds: int,
    seed: int,
) -> tuple[list[Labelled], float]:
    """Give utterances whose weighted losses sum to the doubly robust risk of all."""
    everyone = [*known, *kept]
    labelled_N = np.arange(len(everyone)) < len(known)
    rows_ND = None
    if covariates is not None:
        rows_ND = np.array([list(covariates(item)) for item in everyone], float)
    propensity_N = drrc.propensities(labelled_N, rows_ND, folds=folds, seed=seed)
    true_N, proxy_N = drrc.weights(labelled_N, propensity_N)
    learnt = []
    for number, (item, proxy) in enumerate(zip(known, proxies, strict=True)):
        if proxy.phones("label") == item.phones("realized") or not proxy.extra["kept"]:
            # The two losses are one, and their weights sum to 1; or there is no other label.
            learnt.append(item.labelled())
        else:
            learnt.append(item.labelled("realized", float(true_N[number])))
            learnt.append(
                replace(item, label_phonemes=proxy.phones("label")).labelled(
                    "label", float(proxy_N[number])
                )
            )
    learnt += [item.labelled("label") for item in kept]
    return learnt, drrc.effective_sample_size(true_N)


# Networks ---------------------------------------------------------------------------------------


class _Trainer:
    """Fresh networks, trained one after the other, and what the dev set says of them."""

    def __init__(
        self,
        learn: Callable[..., Any],
        fresh: Callable[[], Any],
        dev: Sequence[Item],
        device: str,
        seed: int,
        progress: ProgressTask | None,
    ) -> None:
        self.learn, self.fresh, self.dev = learn, fresh, dev
        self.device, self.seed, self.progress = device, seed, progress

    def __call__(
        self, utterances: Sequence[Labelled], config: TrainingConfig, folder: Path | None
    ) -> Any:
        model = self.fresh()
        self.learn(
            model,
            utterances,
            replace(config, seed=self.seed),
            dev=(),
            folder=folder,
            device=self.device,
            progress=self.progress,
        )
        return model

    def dev_per(self, model: AcousticModel) -> float | None:
        if not self.dev:
            return None
        found = Recognizer(model).emissions([_audio(item) for item in self.dev], SAMPLE_RATE)
        pairs = [
            (model.phones.decode(ids), model.phones.canonicalise(item.phones("realized")))
            for item, (ids, _, _) in zip(self.dev, found.greedy(), strict=True)
        ]
        return _rate(pairs)


def _factory(recognizer: Any, seed: int) -> Callable[[], Any]:
    if recognizer is None:
        return lambda: TinyConvCTC(seed=seed)
    model = recognizer.model if isinstance(recognizer, Recognizer) else recognizer
    if hasattr(model, "emissions"):
        return lambda: copy.deepcopy(model)
    if not callable(model):
        raise TypeError(
            f"recognizer must be a model, a function that gives one, or None, not "
            f"{type(model).__name__}"
        )
    return model


def _named(corrector: str | FitLabels) -> str:
    """Name what makes labels, the same in every process."""
    if isinstance(corrector, str):
        return corrector
    name = getattr(corrector, "__qualname__", None)
    return repr(corrector) if name is None else str(name)


def _channel_digest(channel: EditChannel) -> str:
    """Name a channel by all that its weights depend on."""
    counts = [channel.sub_counts, channel.del_counts, channel.ins_counts]
    if channel.context_counts is not None:
        counts.append(channel.context_counts)
    settings = [channel.alpha, channel.keep_prior, channel.canonical_count]
    return f"{channel.context} {_digest([*counts, np.array(settings, float)])}"


def _network(model: Any) -> str:
    """Name a network by its weights."""
    state = getattr(model, "state_dict", None) or getattr(
        getattr(model, "model", None), "state_dict", None
    )
    if state is None:
        return type(model).__name__
    return _digest([tensor.detach().cpu().numpy() for _, tensor in sorted(state().items())])


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# Input ------------------------------------------------------------------------------------------


def items_of(
    source: Any,
    g2p: G2P | None,
    *,
    realized: bool = False,
    canonical: bool = True,
    name: str = "utterances",
    empty: bool = False,
) -> list[Item]:
    """Read utterances and see that they have what is needed.

    Parameters
    ----------
    source
        What `modicum.huper.corpus.load` takes; or tuples of audio (a file, or samples of 16,000 per
        second), text or canonical phones, and realized phones.
    g2p
        For items without ``phonemes``.
    realized, canonical
        Whether they must have these phones.
    name
        For messages, and for ids of tuples.
    empty
        Whether there may be none.

    Raises
    ------
    ValueError
        If there is none, an id comes twice, or an item lacks something.
    """
    if not isinstance(source, str | os.PathLike):
        source = [
            _from_tuple(one, f"{name}-{number}") if isinstance(one, tuple) else one
            for number, one in enumerate(source)
        ]
    items = corpus.load(source)
    if not items and not empty:
        raise ValueError(f"{name}: there is no utterance")
    seen: set[str] = set()
    found = []
    for item in items:
        if item.id in seen:
            raise ValueError(f"{name}: id {item.id!r} comes twice")
        seen.add(item.id)
        if canonical and item.phonemes is None:
            if item.text is None or g2p is None:
                raise ValueError(
                    f"{name}: utterance {item.id!r} has no phonemes; give them, or a text and a g2p"
                )
            item = replace(item, phonemes=phones_of(g2p(item.text)))
        if realized and item.real_phonemes is None:
            raise ValueError(f"{name}: utterance {item.id!r} has no real_phonemes")
        if item.samples is None and item.audio_path is None:
            raise ValueError(f"{name}: utterance {item.id!r} has no audio")
        found.append(item)
    return found


def _from_tuple(given: tuple[Any, ...], identity: str) -> Item:
    if not 2 <= len(given) <= 3:
        raise ValueError(
            f"an utterance as a tuple is audio, canonical phones or text, and realized phones if "
            f"they are known; {identity} has {len(given)} parts"
        )
    audio, said = given[:2]
    known: dict[str, Any] = {"text": said} if isinstance(said, str) else {"phonemes": tuple(said)}
    if len(given) == 3:
        known["real_phonemes"] = tuple(given[2])
    if isinstance(audio, str | os.PathLike):
        return Item(identity, os.fspath(audio), **known)
    return Item(identity, samples=audio, sampling_rate=SAMPLE_RATE, **known)


def _folded(item: Item, phones: PhoneSet) -> Item:
    """Write its phones as the inventory has them, so that a spelling is never an error."""
    try:
        return replace(
            item,
            phonemes=phones.canonicalise(item.phones("canonical")),
            real_phonemes=None
            if item.real_phonemes is None
            else phones.canonicalise(item.real_phonemes),
        )
    except ValueError as error:
        raise ValueError(f"utterance {item.id!r}: {error}") from None


def _audio(item: Item) -> np.ndarray:
    return standardise(*item.audio())


def _pairs(items: Sequence[Item]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(item.phones("canonical"), item.phones("realized")) for item in items]


def _rate(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> float:
    wrong = total = 0
    for made, said in pairs:
        wrong += Levenshtein.distance(tuple(made), tuple(said))
        total += len(said)
    if not total:
        raise ValueError("the utterances have no phone to be right or wrong about")
    return wrong / total


def _under(root: Path | None, *names: str) -> Path | None:
    return None if root is None else root.joinpath(*names)


def _summary(found: SelfTraining) -> dict[str, Any]:
    return {
        "best": found.best,
        "stopped": found.stopped,
        "rounds": [
            {
                "round": one.number,
                "dev_per": one.dev_per,
                "labels": None if one.labels is None else len(one.labels.items),
                "kept": None if one.labels is None else len(one.labels.kept),
                "effective_sample_size": one.effective_sample_size,
            }
            for one in found.rounds
        ],
    }


def _check(
    corrector: str | FitLabels, rounds: int, drrc: str | None, keep: float, lam: float
) -> None:
    if isinstance(corrector, str) and corrector not in _CORRECTORS:
        raise ValueError(f"corrector must be one of {', '.join(_CORRECTORS)}, not {corrector!r}")
    if rounds < 0:
        raise ValueError(f"rounds must not be negative, not {rounds}")
    if drrc not in (None, "aipw"):
        raise ValueError(f'drrc must be None or "aipw", not {drrc!r}')
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], not {keep!r}")
    if not 0 <= lam < math.inf:
        raise ValueError(f"lam must be finite and not negative, not {lam!r}")
