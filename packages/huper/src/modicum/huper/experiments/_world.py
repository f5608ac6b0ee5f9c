"""The synthetic world of the experiments, and the recognizers that are trained in it.

A world is spoken once and every recognizer trained once, in a folder beside those of the
experiments: an experiment that needs what another has made reads it, and a run that was cut off
goes on. It judges nothing.

The arms, with the sizes of `FULL`: ``"seed"`` learns from 80 utterances with realized phones;
``"canonical"`` from 500 with what the dictionary says; ``"ceiling"`` from the same 500 with
realized phones, which no one has; the other arms from the 80 and the 500 with labels that the seed
net helped to make. In the small world of `SMALL` the seed net is the one that comes with the
package, which knows clean speech; speech is noisy, and all arms go on from its weights.

Shape suffixes: N utterances.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from modicum.core.device import numpy_generator
from modicum.core.experiment import ProgressTask, RunContext
from modicum.huper import corpus
from modicum.huper.audio import SAMPLE_RATE, standardise, white_noise
from modicum.huper.channel import EditChannel
from modicum.huper.corpus import Item
from modicum.huper.corrector import CorrectorConfig
from modicum.huper.corrector_training import CorrectorTraining
from modicum.huper.recognizer import Recognizer
from modicum.huper.selftrain import Neural, SelfTraining, self_train
from modicum.huper.simulate import SPLITS, EspeakWorld
from modicum.huper.tiny import TinyConvCTC
from modicum.huper.training import TrainingConfig, train

__all__ = ["CORRECTORS", "FULL", "SMALL", "Sizes", "World", "errors", "heard", "rate", "world"]

CORRECTORS: Mapping[str, Any] = {
    "pseudo": "none",
    "corrected": "channel",
    "neural": Neural(
        CorrectorConfig(layers=2, width=128, heads=4, feed_forward=256, dropout=0.1),
        CorrectorTraining(epochs=60, batch_size=32, learning_rate=1e-3, select="best"),
        device="cpu",
    ),
}
"""Arms of self-training, and what makes their labels. The network is much smaller than the
published one, which has more weights than there are phones to learn from."""


@dataclass(frozen=True)
class Sizes:
    """How large a world is, and how long its recognizers learn.

    Attributes
    ----------
    labelled, unlabelled, dev, test
        Utterances.
    first, plain, later
        Epochs on the labelled ones alone, on the others with one kind of label, and on both.
    length
        Least and most words of an utterance.
    snr
        White noise in dB below the speech; None for none.
    shipped
        Whether all arms go on from the recognizer of the package, which is the seed net then.
    learning_rate
        Peak.
    """

    labelled: int = SPLITS["labelled"]
    unlabelled: int = SPLITS["unlabelled"]
    dev: int = SPLITS["dev"]
    test: int = SPLITS["test"]
    first: int = 60
    plain: int = 15
    later: int = 13
    length: tuple[int, int] = (3, 5)
    snr: float | None = None
    shipped: bool = False
    learning_rate: float = 2e-3

    @property
    def splits(self) -> dict[str, int]:
        """Utterances by split."""
        return {name: getattr(self, name) for name in SPLITS}


FULL = Sizes()
SMALL = Sizes(
    labelled=20,
    unlabelled=48,
    dev=0,
    test=24,
    plain=4,
    later=3,
    length=(2, 3),
    snr=10.0,
    shipped=True,
    learning_rate=1e-3,
)


class World:
    """One world and its recognizers.

    Parameters
    ----------
    folder
        Where everything is kept.
    seed
        Of the world and of all training.
    sizes
        How much there is.
    device
        On which recognizers are trained.
    """

    def __init__(self, folder: Path, seed: int, sizes: Sizes = FULL, device: str = "cpu") -> None:
        self.folder, self.seed, self.sizes, self.device = folder, seed, sizes, device

    @cached_property
    def items(self) -> dict[str, list[Item]]:
        """Utterances by split, spoken at the first call."""
        made = EspeakWorld("auto", seed=self.seed, length=self.sizes.length)
        made.write(self.folder, self.sizes.splits, jobs=os.cpu_count() or 1)
        found = {}
        for name, count in self.sizes.splits.items():
            items = corpus.read_jsonl(self.folder / f"{name}.jsonl") if count else []
            found[name] = [self._noisy(item) for item in items]
        return found

    def _noisy(self, item: Item) -> Item:
        if self.sizes.snr is None:
            return item
        rng = numpy_generator(self.seed, "noise", item.id)
        samples = white_noise(standardise(*item.audio()), self.sizes.snr, rng)
        return replace(item, samples=samples, sampling_rate=SAMPLE_RATE)

    def fresh(self) -> TinyConvCTC:
        """Return what every arm starts from."""
        if not self.sizes.shipped:
            return TinyConvCTC(seed=self.seed)
        model = Recognizer.from_pretrained("tiny", device=self.device).model
        assert isinstance(model, TinyConvCTC)
        return model

    @cached_property
    def channel(self) -> EditChannel:
        """Edits counted on the labelled utterances."""
        return EditChannel.fit(
            (item.phones("canonical"), item.phones("realized")) for item in self.items["labelled"]
        )

    def net(self, arm: str, progress: ProgressTask | None = None) -> TinyConvCTC:
        """Return the recognizer of an arm, trained at the first call.

        Parameters
        ----------
        arm
            ``"seed"``, ``"canonical"``, ``"ceiling"``, or one of `CORRECTORS`.
        progress
            Is advanced by each step.
        """
        if arm in CORRECTORS:
            model = self.trained(arm, progress=progress).model
            assert isinstance(model, TinyConvCTC)
            # Beside those of the other arms.
            model.save_pretrained(self.folder / "nets" / arm)
            return model
        if arm == "seed" and self.sizes.shipped:
            return self.fresh()
        split, which, epochs = {
            "seed": ("labelled", "realized", self.sizes.first),
            "canonical": ("unlabelled", "canonical", self.sizes.plain),
            "ceiling": ("unlabelled", "realized", self.sizes.plain),
        }[arm]
        model = self.fresh()
        train(
            model,
            [item.labelled(which) for item in self.items[split]],
            self._recipe(epochs),
            folder=self.folder / "nets" / arm,
            device=self.device,
            progress=progress,
        )
        return model

    def trained(
        self, arm: str, rounds: int = 1, progress: ProgressTask | None = None
    ) -> SelfTraining:
        """Return what self-training with the corrector of an arm gave, from the seed net on."""
        return self_train(
            self.fresh,
            self.items["labelled"],
            [replace(item, real_phonemes=None) for item in self.items["unlabelled"]],
            corrector=CORRECTORS[arm],
            rounds=rounds,
            dev=self.items["dev"] if rounds > 1 else (),
            first=self.net("seed", progress),
            config=self._recipe(self.sizes.later),
            folder=self.folder / "selftraining" / arm,
            device=self.device,
            seed=self.seed,
            progress=progress,
        )

    def _recipe(self, epochs: int) -> TrainingConfig:
        return TrainingConfig(epochs=epochs, learning_rate=self.sizes.learning_rate, seed=self.seed)

    def steps(self, arm: str) -> int:
        """Return how many steps and labels make an arm's net, once there is a seed net."""
        batch = TrainingConfig().batch_size
        count, epochs = {
            "seed": (self.sizes.labelled, self.sizes.first),
            "canonical": (self.sizes.unlabelled, self.sizes.plain),
            "ceiling": (self.sizes.unlabelled, self.sizes.plain),
        }.get(arm, (self.sizes.labelled + self.sizes.unlabelled, self.sizes.later))
        return -(-count // batch) * epochs + (self.sizes.unlabelled if arm in CORRECTORS else 0)


def world(ctx: RunContext, seed: int, sizes: Sizes = FULL) -> World:
    """Return a world whose folder all experiments of a run share."""
    name = f"seed{seed}" if sizes == FULL else f"small-seed{seed}"
    return World(ctx.out.parent / "worlds" / name, seed, sizes, ctx.device)


def errors(made: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Return the edits between phones that were made and said, and the phones said, by utterance.

    Returns
    -------
    dict
        ``wrong`` and ``total``, N numbers each: their sums' ratio is the phone error rate.
    """
    pairs = list(zip(made, said, strict=True))
    return {
        "wrong": [Levenshtein.distance(tuple(one), tuple(two)) for one, two in pairs],
        "total": [len(two) for _, two in pairs],
    }


def heard(model: Any, items: Sequence[Item]) -> list[tuple[str, ...]]:
    """Return the bottom-up phones of utterances."""
    recognizer = Recognizer(model)
    return [one.phones for item in items for one in recognizer.transcribe(*item.audio())]


def rate(found: Mapping[str, Sequence[int]]) -> float:
    """Return the phone error rate of `errors`."""
    return float(np.sum(found["wrong"]) / np.sum(found["total"]))
