"""Training of the tiny model: resumable, the same every time.

Takes steps and a seed and gives a safetensors file with the weights, the sizes and how they came
about. The items and masks of step number i depend on nothing but the seed and i, and there is no
other randomness after the initial weights: a run that was cut off goes on from its last state on
disk and ends with the same weights, bit for bit, as one that was not.

The loss is the bound of masked diffusion models, mean of cross-entropy · mask / t: with t uniform,
every token of an answer is masked with probability t (LLaDA, arXiv 2502.09992, equation 3).

Shapes: B items, P columns of a prompt, G columns of an answer, L = P + G, V vocabulary.
"""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from modicum.core.device import one_thread, resolve_device, torch_generator
from modicum.core.experiment import ProgressTask, write_atomic
from modicum.pvf.tiny.model import TinyConfig, TinyMDLM
from modicum.pvf.tiny.task import ANSWER_LENGTH, MASK_ID, PROMPT_LENGTH, draw_items
from modicum.pvf.validation import check_count

__all__ = ["BATCH_SIZE", "STEPS", "train"]

STEPS = 1200
"""After which every answer is right."""

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
WARMUP = 100
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
CLIP = 1.0
LEAST_T = 1e-3


def train(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    device: str = "auto",
    progress: bool | ProgressTask = False,
    save_seconds: float = 60.0,
    half: bool = True,
    config: TinyConfig | None = None,
) -> Path:
    """Train a model, or go on where an earlier call with the same settings was cut off.

    While it runs, ``OUT.state`` holds the last state; it is removed at the end. The default takes
    about two minutes of one CPU core.

    Parameters
    ----------
    out
        The safetensors file to write; an existing one is replaced.
    seed
        Of weights, items and masks.
    steps
        Optimiser steps. The learning rate rises over the first hundred, and falls linearly to
        nothing over the second half.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` …
    progress
        True for a bar (shown on a terminal only), or a task that is advanced by each step.
    save_seconds
        Seconds between two states on disk.
    half
        Store float16 weights.
    config
        Sizes, None for those of the model that the package brings.

    Returns
    -------
    Path
        Of the file; its header says seed, steps, items per step, the version of torch and the mean
        loss, in nats per token, of the last tenth of the steps.

    Raises
    ------
    ValueError
        If a number is out of range, or the state beside `out` belongs to a run with other settings.
    """
    check_count("steps", steps)
    if not save_seconds >= 0:
        raise ValueError(f"save_seconds must not be negative, not {save_seconds!r}")
    out = Path(out)
    state_file = out.with_name(out.name + ".state")
    run = _Run(config or TinyConfig(), seed, steps, resolve_device(device), state_file)
    with one_thread(), _bar(progress, steps, f"training, seed {seed}") as task:
        task.advance(run.step)
        saved = time.monotonic()
        while run.step < steps:
            run.take_step()
            if time.monotonic() - saved >= save_seconds:
                run.save()
                saved = time.monotonic()
            task.advance(1)
    write_atomic(out, run.finished(half))
    state_file.unlink(missing_ok=True)
    return out


def learning_rate(step: int, steps: int) -> float:
    """Give the learning rate of step number `step`, from 0, out of `steps`."""
    rising = min(1.0, (step + 1) / WARMUP)
    falling = min(1.0, (steps - step) / max(1, steps / 2))
    return LEARNING_RATE * min(rising, falling)


def masked_batch(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give what one step learns from.

    Returns
    -------
    ids_BL, mask_BG, t_B1
        Prompts and answers, int64; which tokens of the answers are masked; with what probability
        they were, float32.
    """
    generator = torch_generator(seed, "cpu", "tiny batch", step)
    items = draw_items(BATCH_SIZE, generator)
    t_B1 = LEAST_T + (1 - LEAST_T) * torch.rand(BATCH_SIZE, 1, generator=generator)
    mask_BG = torch.rand(items.answer_BG.shape, generator=generator) < t_B1
    return torch.cat([items.prompt_BP, items.answer_BG], 1), mask_BG, t_B1


class _Run:
    """A training run: weights, optimiser, losses, and their copy on disk."""

    def __init__(
        self, config: TinyConfig, seed: int, steps: int, device: str, state_file: Path
    ) -> None:
        self.seed, self.steps, self.state_file = seed, steps, state_file
        self.device = torch.device(device)
        self.model = TinyMDLM(config, seed).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        self.step = 0
        self.losses: list[float] = []
        # What must agree for an earlier state to be one of this run.
        self.settings: dict[str, Any] = {"seed": seed, "steps": steps, **asdict(config)}
        if state_file.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        for key, value in self.settings.items():
            found = state["settings"].get(key)
            if found != value:
                raise ValueError(
                    f"{self.state_file} belongs to a run with {key} = {found!r}, not {value!r}; "
                    "remove it or choose another file"
                )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.losses = state["step"], state["losses"]

    def save(self) -> None:
        """Put the state on disk, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(
            {
                "settings": self.settings,
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "losses": self.losses,
            },
            buffer,
        )
        write_atomic(self.state_file, buffer.getvalue())

    def take_step(self) -> None:
        """Learn from the next items."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps)
        batch = (tensor.to(self.device) for tensor in masked_batch(self.seed, self.step))
        loss = self._loss(*batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.losses.append(loss.item())
        self.step += 1

    def _loss(
        self, ids_BL: torch.Tensor, mask_BG: torch.Tensor, t_B1: torch.Tensor
    ) -> torch.Tensor:
        prompt_BP, answer_BG = ids_BL.split([PROMPT_LENGTH, ANSWER_LENGTH], 1)
        seen_BL = torch.cat([prompt_BP, answer_BG.masked_fill(mask_BG, MASK_ID)], 1)
        column_G = torch.arange(PROMPT_LENGTH, ids_BL.shape[1], device=ids_BL.device)
        logits_BGV = self.model(seen_BL, None, column_G.expand(len(ids_BL), -1))
        entropy_BG = functional.cross_entropy(
            logits_BGV.transpose(1, 2).float(), answer_BG, reduction="none"
        )
        return (entropy_BG * mask_BG / t_B1).mean()

    def finished(self, half: bool) -> bytes:
        """Give the file of the trained model."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        header = {
            "seed": str(self.seed),
            "steps": str(self.steps),
            "batch_size": str(BATCH_SIZE),
            "torch": torch.__version__,
            "loss": f"{sum(last) / len(last):.4f}",
        }
        return self.model.checkpoint(header, torch.float16 if half else None)


class _Task:
    """A bar, or none."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self._advance = advance

    def advance(self, n: float = 1) -> None:
        self._advance(n)


@contextmanager
def _bar(progress: bool | ProgressTask, steps: int, description: str) -> Iterator[ProgressTask]:
    """Open a bar on the terminal, or pass on the caller's."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress or not sys.stderr.isatty():
        yield _Task(lambda n: None)
    else:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as shown:
            number = shown.add_task(description, total=steps)
            yield _Task(lambda n: shown.advance(number, n))
