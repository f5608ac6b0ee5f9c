"""Real architectures through the whole pipeline, with random weights.

Builds small models of five architectures of transformers and holds batches of unequal recordings to
single ones, files to what was saved, and vocabularies in both public layouts to their ids; then
lets a WavLM of two layers of width 64 learn four utterances by heart, by the Trainer of
transformers. Nothing here says how well such a model recognises: that takes pretrained weights.

Shape suffixes: N samples, T frames, C symbols.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.huper.phones import CORRECTOR_INSERTIONS, PhoneSet
from modicum.huper.recognizer import Recognizer
from modicum.huper.simulate import EspeakWorld
from modicum.huper.training import Labelled

__all__ = ["ARCHITECTURES", "FULL", "QUICK", "Plan", "build", "memorise", "run"]

ARCHITECTURES = ("WavLM", "Wav2Vec2", "Hubert", "Wav2Vec2Conformer", "Wav2Vec2Bert")
"""Whose ``…ForCTC`` is built."""

TOLERANCE = 1e-4
"""Largest difference of log-probabilities that counts as none, in float32."""

SECONDS = 60.0
"""In which four utterances are to be learnt, on one thread of a CPU."""

LENGTHS = (16_000, 720, 12_345, 9_000, 16_000, 8_999)
"""Samples of the recordings of a batch: two are equal, one is nearly the shortest there is."""

_LOOK = 10
"""Steps between two looks at the error."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    seeds
        Random models that learn by heart.
    utterances
        That each of them learns.
    words
        Least and most words of an utterance.
    width
        Of the convolutions.
    steps
        Most steps of the optimiser.
    """

    seeds: int
    utterances: int
    words: tuple[int, int]
    width: int
    steps: int


FULL = Plan(3, 4, (2, 3), 24, 400)
QUICK = Plan(1, 1, (1, 1), 16, 150)


def run(ctx: RunContext) -> Result:
    """Compare, save and read, and learn by heart."""
    plan = QUICK if ctx.quick else FULL
    cells: dict[str, Callable[[], Any]] = {}
    for kind in ARCHITECTURES:
        cells[f"batch-{kind}"] = partial(batch_errors, kind, ctx.seed)
        cells[f"files-{kind}"] = partial(file_errors, kind, ctx.seed)
    cells["layouts"] = partial(layout_errors, ctx.seed)
    for number in range(plan.seeds):
        cells[f"heart-{number}"] = partial(memorise, plan, ctx.seed + number)
    task = ctx.progress(len(cells), "architecture")
    found: dict[str, Any] = {}
    with one_thread(), _quiet():
        for name, cell in cells.items():
            found[name] = ctx.load_partial(name)
            if found[name] is None:
                found[name] = cell()
                ctx.save_partial(name, found[name])
            task.advance(1)
    batches = {kind: found[f"batch-{kind}"] for kind in ARCHITECTURES}
    files = {kind: found[f"files-{kind}"] for kind in ARCHITECTURES}
    learnt = [found[f"heart-{number}"] for number in range(plan.seeds)]
    return ctx.result(
        claims=[
            batch_claim(batches),
            file_claim(files),
            layout_claim(found["layouts"]),
            heart_claim(learnt, plan),
        ],
        tables=[batch_table(batches, files), heart_table(learnt)],
        text=ABOUT,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars of transformers for single files away from that of the run."""
    from modicum.huper.integrations.transformers import transformers

    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


ABOUT = (
    "All weights are random, so that nothing here is about recognition. The published recognizer is"
    " WavLM-Large, of 315 million weights, fine-tuned on people's speech; here its class is built"
    " small, and learns a few utterances of a synthetic voice by heart."
)


def build(kind: str, seed: int, phones: PhoneSet, width: int = 16, **sizes: Any) -> Any:
    """Build a small model with random weights, as a `TransformersCTC`.

    Parameters
    ----------
    kind
        One of `ARCHITECTURES`.
    seed
        Of the weights.
    phones
        Its symbols.
    width
        Of the convolutions.
    sizes
        For its configuration.
    """
    from modicum.huper.integrations.transformers import TransformersCTC, transformers

    settings: dict[str, Any] = {
        "vocab_size": len(phones),
        "pad_token_id": phones.blank,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    if kind != "Wav2Vec2Bert":
        settings |= {
            "conv_dim": (width,) * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
        }
    config = getattr(transformers, f"{kind}Config")(**(settings | sizes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = getattr(transformers, f"{kind}ForCTC")(config).eval()
    return TransformersCTC(network, phones=phones)


def _recordings(seed: int) -> list[np.ndarray]:
    rng = numpy_generator(seed, "recordings")
    return [(0.1 * rng.standard_normal(size)).astype(np.float32) for size in LENGTHS]


def batch_errors(kind: str, seed: int) -> dict[str, Any]:
    """Compare a batch of unequal recordings with each of them alone.

    Returns
    -------
    dict
        ``difference``, the largest of the log-probabilities; ``unmasked``, the same if padding goes
        through the network without a mask; ``pads``, whether unequal recordings went together.
    """
    model = build(kind, seed, PhoneSet.arpabet39())
    recordings = _recordings(seed)
    together = model.emissions(recordings, 16_000, batch_size=len(recordings))
    alone = [model.emissions(one, 16_000).utterance(0) for one in recordings]
    rows = [together.utterance(number) for number in range(len(recordings))]
    features = model.features(recordings)[model.feature_extractor.model_input_names[0]]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unmasked_BTC = model.model(features).logits.log_softmax(-1).numpy()
    return {
        "difference": _largest(rows, alone),
        "unmasked": _largest(
            [row[: len(one)] for row, one in zip(unmasked_BTC, alone, strict=True)], alone
        ),
        "pads": bool(model.pads),
    }


def _largest(rows: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(rows, others, strict=True))


def file_errors(kind: str, seed: int) -> float:
    """Save and read a recognizer; return the largest difference of its log-probabilities."""
    model = build(kind, seed, PhoneSet.arpabet39())
    (recording, *_) = _recordings(seed)
    with tempfile.TemporaryDirectory() as folder:
        Recognizer(model).save_pretrained(folder)
        again = Recognizer.from_pretrained(folder, device="cpu")
        if again.phones != model.phones:
            return float("inf")
        found = again.emissions(recording, 16_000).utterance(0)
    return _largest([found], [model.emissions(recording, 16_000).utterance(0)])


def layout_errors(seed: int) -> dict[str, int]:
    """Read models that have only a ``vocab.json`` in one of the public layouts.

    Returns
    -------
    dict
        Symbols whose id is another, for each layout; blanks that are wrong count as well.
    """
    layouts = {
        "recognizer": (PhoneSet.arpabet39().symbols, 0),
        "corrector": (CORRECTOR_INSERTIONS, 1),
    }
    wrong = {}
    for name, (symbols, blank) in layouts.items():
        phones = PhoneSet(symbols, blank)
        with tempfile.TemporaryDirectory() as folder:
            build("WavLM", seed, phones).model.save_pretrained(folder)
            ids = {symbol: number for number, symbol in enumerate(symbols)}
            (Path(folder) / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
            found = Recognizer.from_pretrained(folder, device="cpu").phones
        wrong[name] = sum(found.id(symbol) != number for symbol, number in ids.items())
        wrong[name] += found.blank != blank
    return wrong


def memorise(plan: Plan, seed: int) -> dict[str, Any]:
    """Let a random WavLM learn utterances by heart.

    Returns
    -------
    dict
        ``before`` and ``after``, phone error rates; ``phones`` that there are; ``steps`` and
        ``seconds`` until no phone was wrong, or until the last step.
    """
    from modicum.huper.integrations.finetuning import error_rate, fine_tune, training_arguments
    from modicum.huper.integrations.transformers import transformers

    # Masks and dropout are there to keep a model from learning by heart.
    plain = dict.fromkeys(
        (
            "hidden_dropout",
            "attention_dropout",
            "activation_dropout",
            "feat_proj_dropout",
            "final_dropout",
            "layerdrop",
        ),
        0.0,
    )
    model = build(
        "WavLM", seed, PhoneSet.arpabet39(), plan.width, apply_spec_augment=False, **plain
    )
    drawn = EspeakWorld("rules", seed=seed, words=80, heldout=20, length=plan.words)
    utterances = [
        Labelled(drawn.audio(one), one.real_phonemes, id=one.id)
        for one in drawn.utterances("labelled", plan.utterances)
    ]

    class Stop(transformers.TrainerCallback):  # type: ignore[misc]
        """Stops when nothing is wrong any more."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, kwargs
            if state.global_step % _LOOK == 0:
                model.model.eval()
                control.should_training_stop = error_rate(model, utterances) == 0
                model.model.train()

    before = error_rate(model, utterances)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*mismatched key_padding_mask")
        trainer = fine_tune(
            model,
            utterances,
            training_arguments(
                folder,
                per_device_train_batch_size=plan.utterances,
                max_steps=plan.steps,
                learning_rate=3e-3,
                seed=seed,
                use_cpu=True,
                fp16=False,
                disable_tqdm=True,
                save_strategy="no",
                logging_strategy="no",
                dataloader_pin_memory=False,
            ),
            head_only_ratio=0.0,
            freeze="nothing",
            callbacks=[Stop()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    seconds = time.monotonic() - begun
    model.model.eval()
    return {
        "before": before,
        "after": error_rate(model, utterances),
        "phones": sum(len(one.phones) for one in utterances),
        "steps": int(trainer.state.global_step),
        "seconds": seconds,
    }


# What is said about it --------------------------------------------------------------------------


def batch_claim(batches: dict[str, dict[str, Any]]) -> Claim:
    """Say whether a batch changes anything."""
    worst = max(one["difference"] for one in batches.values())
    return Claim(
        "batch",
        "A recording in a batch of unequal ones gives what it gives alone.",
        None,
        worst,
        holds=worst <= TOLERANCE,
        unit="nats",
        note=f"largest difference over {len(batches)} architectures; it holds up to {TOLERANCE:g}",
    )


def file_claim(files: dict[str, float]) -> Claim:
    """Say whether files keep everything."""
    worst = max(files.values())
    return Claim(
        "files",
        "A recognizer that was saved and read gives the same log-probabilities.",
        None,
        worst,
        holds=worst == 0,
        unit="nats",
        note=f"largest difference over {len(files)} architectures; it holds at 0",
    )


def layout_claim(wrong: dict[str, int]) -> Claim:
    """Say whether the public vocabularies keep their ids."""
    return Claim(
        "layouts",
        "Models with only a vocab.json in a public layout are read with its ids and its blank.",
        None,
        sum(wrong.values()),
        holds=not any(wrong.values()),
        unit="wrong ids",
        note=", ".join(f"{name}: {count}" for name, count in wrong.items()),
    )


def heart_claim(learnt: Sequence[dict[str, Any]], plan: Plan) -> Claim:
    """Say whether the utterances are known by heart in time."""
    worst = max(one["after"] for one in learnt)
    slowest = max(one["seconds"] for one in learnt)
    number = "one utterance" if plan.utterances == 1 else f"{plan.utterances} utterances"
    return Claim(
        "heart",
        f"A random WavLM of two layers learns {number} by heart within {SECONDS:g} s.",
        None,
        worst,
        holds=worst == 0 and slowest <= SECONDS,
        unit="PER",
        note=f"largest of {len(learnt)} seeds; the slowest took {slowest:.1f} s on one thread",
    )


def batch_table(batches: dict[str, dict[str, Any]], files: dict[str, float]) -> Table:
    """Show each architecture."""
    return Table(
        "Largest differences of log-probabilities, in nats",
        ["architecture", "unequal ones go together", "batch", "batch without a mask", "files"],
        [
            [f"{kind}ForCTC", one["pads"], one["difference"], one["unmasked"], files[kind]]
            for kind, one in batches.items()
        ],
        note="Where padding gets through in spite of a mask, only equal lengths go together.",
    )


def heart_table(learnt: Sequence[dict[str, Any]]) -> Table:
    """Show each seed."""
    return Table(
        "Utterances learnt by heart",
        ["model", "phones", "PER before", "PER after", "steps", "seconds"],
        [
            [number, one["phones"], one["before"], one["after"], one["steps"], one["seconds"]]
            for number, one in enumerate(learnt)
        ],
        note=f"The error is looked at every {_LOOK} steps.",
    )
