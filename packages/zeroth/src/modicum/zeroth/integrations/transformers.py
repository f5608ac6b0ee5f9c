"""Train models of transformers without gradients: a `Trainer` whose steps are zeroth-order.

`ZOTrainer` is `transformers.Trainer` with one method exchanged: a training step evaluates the loss
at perturbed weights and moves them, instead of going backward. Everything else (data, schedules,
logging, evaluation, checkpoints and going on from them, PEFT, several processes) is the Trainer's.
`ZOTrainerMixin` does the same for its descendants, such as those of TRL::

    class ZOSFTTrainer(ZOTrainerMixin, SFTTrainer): ...

Without a Trainer, `ZOOptimizer` is an optimizer like any other that takes a closure. With
Accelerate::

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        optimizer.step(lambda: model(**batch).loss)

and in a LightningModule with manual optimisation (``automatic_optimization = False``)::

    def training_step(self, batch, _):
        self.optimizers().step(lambda: self.loss(batch))

Leaves alone what a loss is and how a model computes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from modicum.zeroth.torch import TrajectoryWriter, ZOOptimizer

try:
    import torch
    from transformers import Trainer
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise
    raise ImportError(
        "the transformers integration needs transformers: "
        'pip install "modicum-zeroth[transformers]"'
    ) from missing

__all__ = ["ZOTrainer", "ZOTrainerMixin"]


class ZOTrainerMixin:
    """What makes a Trainer's steps zeroth-order; put it before the Trainer among the bases.

    The learning rate, its schedule and the weight decay are those of the training arguments. With
    gradient accumulation a step's loss is that of all its batches, each evaluated at the same
    points. Over several processes each evaluates its own directions on its own batches, and only
    (direction, slope, loss) are exchanged. ``max_grad_norm`` has no effect; the logged
    ``grad_norm`` is that of the estimate.

    Parameters
    ----------
    *args, **kwargs
        As for the Trainer.
    zo_options
        Further arguments of `ZOOptimizer`, such as ``{"epsilon": 1e-3, "pairs": 2}``. The seed is
        that of the training arguments unless it is given.
    trajectory
        File for the steps (``*.zo.jsonl``), from which `modicum.zeroth.torch.replay` makes the
        weights again; ``None`` for no file. It is gone on with when training is.

    Raises
    ------
    ValueError
        If the optimizer is given, or loss scaling or sharded parameters are asked for.
    """

    def __init__(
        self,
        *args: Any,
        zo_options: Mapping[str, Any] | None = None,
        trajectory: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.zo_options = dict(zo_options or {})
        self.trajectory = trajectory
        self._writer: TrajectoryWriter | None = None
        self._batches: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)
        _check_arguments(self)

    # The parts of Trainer that this class is always beside; mypy does not see the engine.
    args: Any
    model: Any
    optimizer: Any
    accelerator: Any

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer of this run."""
        if self.optimizer is None:
            module = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(module))  # type: ignore[attr-defined]
            trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
            groups = [
                {"params": [pair for pair in trained if (pair[0] in decayed) == chosen]}
                | {"weight_decay": self.args.weight_decay if chosen else 0.0}
                for chosen in (True, False)
            ]
            several = self.accelerator.num_processes > 1
            options = {
                "seed": self.args.seed,
                "process_group": "world" if several else None,
            } | self.zo_options
            self.optimizer = _StepsInTraining(
                [group for group in groups if group["params"]], self.args.learning_rate, **options
            )
        return self.optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Take in a batch, and make a step of all batches when the last one is there.

        Returns
        -------
        Tensor
            The step's loss, zero for a batch that waits for others.
        """
        model.train()
        self._batches.append(self._prepare_inputs(inputs))  # type: ignore[attr-defined]
        device = self.args.device
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=device)
        batches, self._batches = self._batches, []
        self._open_trajectory()
        loss = self.zo_optimizer.step(
            lambda: sum(self._batch_loss(model, batch, num_items_in_batch) for batch in batches)
        )
        return loss.to(device)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and close the trajectory file however that ends."""
        try:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._batches = []
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @property
    def zo_optimizer(self) -> ZOOptimizer:
        """The optimizer, without Accelerate's wrapper."""
        optimizer = self.optimizer
        while not isinstance(optimizer, ZOOptimizer):
            optimizer = optimizer.optimizer
        return optimizer

    def _batch_loss(self, model: Any, batch: Any, num_items_in_batch: Any) -> torch.Tensor:
        """Return a batch's part of the loss of its step, as the Trainer scales it."""
        with self.compute_loss_context_manager():  # type: ignore[attr-defined]
            loss = self.compute_loss(model, batch, num_items_in_batch=num_items_in_batch)  # type: ignore[attr-defined]
        if self.args.n_gpu > 1:
            loss = loss.mean()
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None  # type: ignore[attr-defined]
            scaled = counted or self.compute_loss_func is not None  # type: ignore[attr-defined]
        return loss if scaled else loss / self.current_gradient_accumulation_steps  # type: ignore[attr-defined]

    def _open_trajectory(self) -> None:
        if self.trajectory is None or self._writer is not None:
            return
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            module = self.accelerator.unwrap_model(self.model)
            self._writer = TrajectoryWriter(self.trajectory, self.zo_optimizer, module)

    def _clip_grad_norm(self, model: Any) -> None:
        """Clip nothing: there are no gradients."""

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        """Return the norm of the estimated gradient, for the log."""
        return self.zo_optimizer.estimate_norm


class ZOTrainer(ZOTrainerMixin, Trainer):
    """`transformers.Trainer` with zeroth-order steps; see `ZOTrainerMixin`."""


class _StepsInTraining(ZOOptimizer):
    """Makes its steps within `training_step`; the Trainer's own call afterwards does nothing."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return None if closure is None else super().step(closure)


def _check_arguments(trainer: Any) -> None:
    if trainer.optimizer is not None:
        raise ValueError(
            "this Trainer makes its own optimizer: give zo_options=… in place of optimizers=…"
        )
    if trainer.args.fp16:
        raise ValueError(
            "fp16=True scales losses for gradients, of which there are none; use bf16=True, or "
            "load the model in float16"
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ValueError(
            "DeepSpeed and FSDP shard parameters, which zeroth-order steps do not need; use plain "
            "data parallelism"
        )
