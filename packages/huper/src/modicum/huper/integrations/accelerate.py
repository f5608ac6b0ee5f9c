"""Training with several GPUs or in mixed precision, by accelerate.

Start the program with ``accelerate launch``, make an `AccelerateEngine` and give it to
`modicum.huper.training.train`. Every process takes its part of each batch; the gradients are those
of the whole batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import torch
from torch import nn

__all__ = ["AccelerateEngine"]


class AccelerateEngine:
    """What `modicum.huper.training.train` takes as its engine.

    Parameters
    ----------
    accelerator
        An ``accelerate.Accelerator``; one is made if None.
    options
        For the one that is made: ``mixed_precision="bf16"`` ….

    Raises
    ------
    ImportError
        Without accelerate.
    """

    def __init__(self, accelerator: Any = None, **options: Any) -> None:
        if accelerator is None:
            try:
                accelerator = import_module("accelerate").Accelerator(**options)
            except ImportError as error:
                raise ImportError(
                    'accelerate is not here: pip install "modicum-huper[train]"'
                ) from error
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.rank = int(accelerator.process_index)
        self.world = int(accelerator.num_processes)

    def prepare(
        self, model: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Wrap model and optimiser."""
        prepared_model, prepared_optimiser = self.accelerator.prepare(model, optimiser)
        return prepared_model, prepared_optimiser

    def autocast(self) -> AbstractContextManager[Any]:
        """Return accelerate's context of mixed precision."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def step(
        self, loss: torch.Tensor, model: nn.Module, optimiser: torch.optim.Optimizer, clip: float
    ) -> None:
        """Go back through the graph, clip the gradient, and move the weights."""
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the gradient's scale, if there is one."""
        scaler = self.accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of the gradient's scale."""
        if state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state)
