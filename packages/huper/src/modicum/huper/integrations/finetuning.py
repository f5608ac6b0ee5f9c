"""Fine-tuning a CTC model of transformers with its own ``Trainer``.

The recipe of "HuPER: A Human-Inspired Framework for Phonetic Perception" (arXiv 2602.01634): while
the learning rate warms up only the CTC head learns, then the transformer with it; the convolutional
feature encoder and the feature projection never do. Every parameter that ever learns is in the
optimiser from the beginning, so that all of them follow the schedule.

`fine_tune` makes the ``Trainer``; its parts (`HeadOnlyWarmup`, `CTCCollator`, `examples`,
`training_arguments`) can be used on their own.

Shape suffixes: B utterances, N samples, L phones.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import nn

from modicum.huper.integrations.transformers import TransformersCTC, transformers
from modicum.huper.recognizer import Recognizer, recordings_of
from modicum.huper.training import Labelled

__all__ = [
    "CTCCollator",
    "HeadOnlyWarmup",
    "error_rate",
    "examples",
    "fine_tune",
    "training_arguments",
]

_FREEZE = ("feature_encoder", "base", "nothing")
_IGNORED = -100
"""Label that the loss leaves out."""


class HeadOnlyWarmup(transformers.TrainerCallback):  # type: ignore[misc]
    """Train the head alone at first, and the feature encoder never.

    Parameters
    ----------
    head_only_ratio
        Fraction of all steps, rounded up, in which nothing but the head learns.
    freeze
        What never learns: ``"feature_encoder"`` (the convolutions and the feature projection),
        ``"base"`` (all but the head) or ``"nothing"``.
    mask
        True lets the gradients of what waits be computed and throws them away; with several
        processes, which agree on the parameters before they start, it must be so. None decides by
        their number. Both give the same weights, up to rounding.

    Raises
    ------
    ValueError
        If the ratio is not in [0, 1] or `freeze` is unknown; at the beginning of training also if
        the optimiser lacks parameters that learn later.
    """

    def __init__(
        self,
        head_only_ratio: float = 0.1,
        freeze: str = "feature_encoder",
        *,
        mask: bool | None = None,
    ) -> None:
        if not 0 <= head_only_ratio <= 1:
            raise ValueError(f"head_only_ratio must be in [0, 1], not {head_only_ratio!r}")
        if freeze not in _FREEZE:
            raise ValueError(f"freeze must be one of {', '.join(_FREEZE)}, not {freeze!r}")
        self.head_only_ratio, self.freeze, self.mask = head_only_ratio, freeze, mask
        self._waiting: list[nn.Parameter] = []
        self._hooks: list[Any] = []

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Freeze what never learns, before there is an optimiser."""
        del args, state, control
        for parameter in self._frozen(kwargs["model"]):
            parameter.requires_grad_(False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let all but the head wait."""
        del control
        self._release()
        model = kwargs["model"]
        head = {id(one) for one in model.lm_head.parameters()}
        later = [one for one in model.parameters() if one.requires_grad and id(one) not in head]
        held = {id(one) for group in kwargs["optimizer"].param_groups for one in group["params"]}
        if missing := sum(id(one) not in held for one in later):
            raise ValueError(
                f"the optimiser lacks {missing} parameters that learn after the warm-up: make it "
                "of all parameters, and let this callback say when each of them learns"
            )
        if state.global_step >= self._steps(state):
            return
        self._waiting = later
        masked = args.world_size > 1 if self.mask is None else self.mask
        for parameter in later:
            if masked:
                self._hooks.append(parameter.register_hook(torch.zeros_like))
            else:
                parameter.requires_grad_(False)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let everything learn once the warm-up is over."""
        del args, control, kwargs
        if self._waiting and state.global_step >= self._steps(state):
            self._release()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep weight decay and moments away from what waits."""
        del args, state, control, kwargs
        for parameter in self._waiting:
            parameter.grad = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model as it is after a warm-up."""
        del args, state, control, kwargs
        self._release()

    def _steps(self, state: Any) -> int:
        return math.ceil(self.head_only_ratio * state.max_steps)

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for parameter in self._waiting:
            parameter.requires_grad_(True)
        self._waiting, self._hooks = [], []

    def _frozen(self, model: Any) -> Iterable[nn.Parameter]:
        base = model.base_model
        if self.freeze == "base":
            return base.parameters()
        if self.freeze == "nothing":
            return ()
        parts = (getattr(base, name, None) for name in ("feature_extractor", "feature_projection"))
        return (one for part in parts if part is not None for one in part.parameters())


def examples(model: TransformersCTC, utterances: Sequence[Labelled]) -> list[dict[str, Any]]:
    """Turn utterances into what `CTCCollator` takes.

    Parameters
    ----------
    model
        Names the phones.
    utterances
        Audio and phones; weights are not used.

    Returns
    -------
    list of dict
        ``samples`` float32 (N,), ``labels`` int64 (L,) ids, ``length`` in samples.

    Raises
    ------
    ValueError
        If a phone is not in the inventory, audio is bad, or an utterance has a weight.
    """
    found = []
    for number, one in enumerate(utterances):
        name = one.id or f"number {number}"
        if one.weight != 1:
            raise ValueError(
                f"utterance {name} has the weight {one.weight}; they are not used here"
            )
        try:
            rate = None if isinstance(one.audio, str | os.PathLike) else one.sampling_rate
            (samples_N,) = recordings_of([one.audio], rate)
            labels_L = model.phones.encode(model.phones.canonicalise(one.phones))
        except (TypeError, ValueError) as error:
            raise type(error)(f"utterance {name}: {error}") from None
        found.append({"samples": samples_N, "labels": labels_L, "length": len(samples_N)})
    return found


class CTCCollator:
    """Pad recordings and labels of a batch.

    Parameters
    ----------
    model
        Its feature extractor normalises; there is an attention mask if the model was made for one.
    """

    def __init__(self, model: TransformersCTC) -> None:
        self.model = model

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make the batch.

        Parameters
        ----------
        batch
            Of `examples`.

        Returns
        -------
        dict
            The model's input (B, …), ``attention_mask`` if it has a meaning, and ``labels`` int64
            (B, L) with −100 behind an utterance's own.
        """
        found = self.model.features([one["samples"] for one in batch])
        name = self.model.feature_extractor.model_input_names[0]
        made = {name: found[name]}
        if self.model.uses_mask:
            made["attention_mask"] = found["attention_mask"].long()
        labels = [torch.as_tensor(one["labels"], dtype=torch.int64) for one in batch]
        made["labels"] = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=_IGNORED)
        return made


def training_arguments(folder: str | os.PathLike[str], **changes: Any) -> Any:
    """Return ``transformers.TrainingArguments`` of the recipe.

    AdamW with a learning rate of 3e-5, which rises over the first tenth of the steps and stays,
    weight decay 0.005, gradients clipped at norm 1, batches of 12, 100 epochs, float16 on CUDA.

    Parameters
    ----------
    folder
        For checkpoints.
    changes
        Other arguments of ``TrainingArguments``.
    """
    recipe: dict[str, Any] = {
        "learning_rate": 3e-5,
        "weight_decay": 0.005,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 0.1,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": 12,
        "num_train_epochs": 100,
        "fp16": torch.cuda.is_available() and not changes.get("bf16", False),
        "remove_unused_columns": False,
        "report_to": "none",
    }
    return transformers.TrainingArguments(output_dir=os.fspath(folder), **(recipe | changes))


def fine_tune(
    model: TransformersCTC,
    utterances: Sequence[Labelled],
    arguments: Any,
    *,
    head_only_ratio: float = 0.1,
    freeze: str = "feature_encoder",
    callbacks: Sequence[Any] = (),
) -> Any:
    """Return a ``transformers.Trainer``, ready for ``train()``.

    The loss is the mean over phones and utterances of a batch, with utterances that have more
    phones than frames counted as nothing, whatever the model's configuration said before.

    Parameters
    ----------
    model
        Learns in place; call ``model.model.eval()`` afterwards.
    utterances
        What to learn from.
    arguments
        From `training_arguments`.
    head_only_ratio, freeze
        As for `HeadOnlyWarmup`.
    callbacks
        Others, for the ``Trainer``.

    Raises
    ------
    ValueError
        As `examples` and `HeadOnlyWarmup`, or if there is no utterance.
    """
    if not utterances:
        raise ValueError("there is no utterance to learn from")
    network = model.model
    network.config.ctc_zero_infinity = True
    network.config.ctc_loss_reduction = "mean"
    # Its loss knows nothing of the number of items in a step, by which a Trainer would have it
    # divided: with several batches a step the gradient would be that many times too large.
    network.accepts_loss_kwargs = False
    return transformers.Trainer(
        model=network,
        args=arguments,
        train_dataset=examples(model, utterances),
        data_collator=CTCCollator(model),
        callbacks=[HeadOnlyWarmup(head_only_ratio, freeze), *callbacks],
    )


def error_rate(model: TransformersCTC, utterances: Sequence[Labelled]) -> float:
    """Return the phone error rate of greedy decoding: edits over phones, all utterances together.

    Raises
    ------
    ValueError
        If the utterances have no phone, or one that is not in the inventory.
    """
    items = examples(model, utterances)
    wanted = [tuple(one["labels"].tolist()) for one in items]
    if not (total := sum(map(len, wanted))):
        raise ValueError("the utterances have no phone to be right or wrong about")
    emissions = Recognizer(model).emissions(
        [{"array": one["samples"], "sampling_rate": 16_000} for one in items]
    )
    found = [ids for ids, _, _ in emissions.greedy()]
    return float(np.sum([*map(Levenshtein.distance, found, wanted)])) / total
