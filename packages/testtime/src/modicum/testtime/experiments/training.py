"""Training of the small transformers that the experiments read: resumable, the same every time.

Takes the name of a `Recipe` and gives a safetensors file with the weights, the sizes and how they
came about. Row number i of the training stream depends on nothing but the seed and i, and there is
no other randomness after the initial weights; a run that was cut off therefore goes on from its
last state and ends with the same weights as one that was not. It knows nothing of the tasks: they
bring their rows (`hidden_rules`, `three_sat`).

``python -m modicum.testtime.experiments.training NAME --seed 0 --out FILE`` trains one.

Legend: ``B`` rows, ``T`` positions, ``V`` vocabulary.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modicum.core.device import numpy_generator, one_thread, resolve_device
from modicum.core.experiment import ProgressTask, write_atomic

if TYPE_CHECKING:
    import torch

    from modicum.testtime.tinygpt import TinyGPT

__all__ = ["DATA", "Recipe", "Rows", "recipe", "recipes", "train", "training_rows"]

DATA = Path(__file__).resolve().parents[1] / "data"
"""Folder of the trained weights that the package brings."""

ROWS_PER_BLOCK = 64
"""Rows that are drawn from one generator: few enough to waste little, enough to draw at once."""

_MODULES = ("hidden_rules", "three_sat")


class Rows(NamedTuple):
    """Rows of a training stream.

    ``ids_BT`` are token ids, int64 ``[B, T]``; ``learned_BT``, bool ``[B, T]``, marks the tokens
    that the model is taught to predict from what stands before them (never the first).
    """

    ids_BT: NDArray[np.int64]
    learned_BT: NDArray[np.bool_]


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Parameters
    ----------
    name
        What `train` calls it.
    summary
        What the model is for, in a sentence.
    sizes
        Keyword arguments of `modicum.testtime.tinygpt.TinyGPTConfig`.
    draw
        Draws a number of rows from a generator.
    steps, batch_size
        Optimiser steps and rows per step.
    learning_rate
        Peak of AdamW's learning rate; it rises linearly over `warmup` steps and falls as a cosine
        to a tenth of the peak at the last step.
    warmup
        In steps.
    weight_decay
        Of the matrices; biases and layer norms are not decayed.
    clip
        Largest norm of the gradient.
    """

    name: str
    summary: str
    sizes: dict[str, int]
    draw: Callable[[np.random.Generator, int], Rows]
    steps: int
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    warmup: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0


def recipes() -> dict[str, Recipe]:
    """Return all recipes by name."""
    found: dict[str, Recipe] = {}
    for module in _MODULES:
        for item in import_module(f"modicum.testtime.experiments.{module}").RECIPES:
            found[item.name] = item
    return found


def recipe(name: str) -> Recipe:
    """Return one recipe.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    found = recipes()
    if name not in found:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(found)}")
    return found[name]


def training_rows(item: Recipe, seed: int, start: int, stop: int) -> Rows:
    """Return the rows from number `start` up to, not including, `stop` of a training stream."""
    first = start // ROWS_PER_BLOCK
    blocks = [
        item.draw(numpy_generator(seed, "training rows", item.name, block), ROWS_PER_BLOCK)
        for block in range(first, math.ceil(stop / ROWS_PER_BLOCK))
    ]
    wanted = slice(start - first * ROWS_PER_BLOCK, stop - first * ROWS_PER_BLOCK)
    return Rows(
        np.concatenate([block.ids_BT for block in blocks])[wanted],
        np.concatenate([block.learned_BT for block in blocks])[wanted],
    )


def learning_rate(item: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of step number `step`, from 0, out of `steps`."""
    if step < item.warmup:
        return item.learning_rate * (step + 1) / item.warmup
    passed = (step - item.warmup) / max(1, steps - item.warmup)
    return item.learning_rate * (0.55 + 0.45 * math.cos(math.pi * passed))


def train(
    name: str | Recipe,
    out: str | os.PathLike[str],
    seed: int = 0,
    steps: int | None = None,
    device: str = "auto",
    progress: bool | ProgressTask = False,
    *,
    save_every: int = 200,
    half: bool = True,
) -> Path:
    """Train a model, or go on where an earlier call with the same settings was cut off.

    While it runs, ``OUT.state`` holds the last state; it is removed at the end.

    Parameters
    ----------
    name
        A recipe or its name.
    out
        The safetensors file to write; an existing one is replaced.
    seed
        Of weights and rows.
    steps
        Optimiser steps, None for the recipe's; the learning rate falls over as many.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` …; a GPU computes in bfloat16 where it can.
    progress
        True for a bar (shown on a terminal only), or a task that is advanced by each step.
    save_every
        Steps between two states on disk.
    half
        Store float16 weights.

    Returns
    -------
    Path
        Of the file; its header says recipe, seed, steps, rows per step and the mean loss, in nats
        per token, of the last tenth of the steps.

    Raises
    ------
    ValueError
        If there is no such recipe, a number is out of range, or the state beside `out` belongs to
        a run with other settings.
    """
    item = recipe(name) if isinstance(name, str) else name
    steps = item.steps if steps is None else steps
    for what, value in (("steps", steps), ("save_every", save_every)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1, not {value!r}")
    out = Path(out)
    run = _Run(item, seed, steps, resolve_device(device), out.with_name(out.name + ".state"))
    with one_thread(), _bar(progress, steps, f"{item.name}, seed {seed}") as task:
        task.advance(run.step)
        while run.step < steps:
            run.take_step()
            task.advance(1)
            if run.step % save_every == 0:
                run.save()
    write_atomic(out, run.finished(half))
    run.state_file.unlink(missing_ok=True)
    return out


class _Run:
    """A training run: weights, optimiser, losses, and their copy on disk."""

    def __init__(self, item: Recipe, seed: int, steps: int, device: str, state_file: Path) -> None:
        import torch

        from modicum.testtime.tinygpt import TinyGPT, TinyGPTConfig

        self.item, self.seed, self.steps, self.state_file = item, seed, steps, state_file
        self.device = torch.device(device)
        self.model: TinyGPT = TinyGPT(TinyGPTConfig(**item.sizes), seed=seed).to(self.device)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": item.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=item.learning_rate,
            betas=(0.9, 0.95),
        )
        self.step = 0
        self.losses: list[float] = []
        # What must agree for an earlier state to be one of this run.
        self.settings: dict[str, Any] = {
            "recipe": item.name,
            "seed": seed,
            "steps": steps,
            "sizes": item.sizes,
            **{
                key: getattr(item, key)
                for key in ("batch_size", "learning_rate", "warmup", "weight_decay", "clip")
            },
        }
        if state_file.exists():
            self._load()

    def _load(self) -> None:
        import torch

        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        for key, value in self.settings.items():
            if state["settings"].get(key) != value:
                raise ValueError(
                    f"{self.state_file} belongs to a run with {key} = "
                    f"{state['settings'].get(key)!r}, not {value!r}; remove it or choose another "
                    "file"
                )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.losses = state["step"], state["losses"]

    def save(self) -> None:
        """Put the state on disk, whole or not at all."""
        import torch

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
        """Learn from the next rows."""
        import torch

        start = self.step * self.item.batch_size
        rows = training_rows(self.item, self.seed, start, start + self.item.batch_size)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.item, self.step, self.steps)
        loss = self._loss(
            torch.from_numpy(rows.ids_BT).to(self.device),
            torch.from_numpy(rows.learned_BT).to(self.device),
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.item.clip)
        self.optimiser.step()
        self.losses.append(loss.item())
        self.step += 1

    def _loss(self, ids_BT: torch.Tensor, learned_BT: torch.Tensor) -> torch.Tensor:
        import torch

        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits_BTV = self.model(ids_BT[:, :-1])
        taught_BT = learned_BT[:, 1:]
        return torch.nn.functional.cross_entropy(
            logits_BTV[taught_BT].float(), ids_BT[:, 1:][taught_BT]
        )

    def finished(self, half: bool) -> bytes:
        """Return the file of the trained model."""
        import torch

        last = self.losses[-max(1, len(self.losses) // 10) :]
        header = {
            "recipe": self.item.name,
            "seed": str(self.seed),
            "steps": str(self.steps),
            "batch_size": str(self.item.batch_size),
            "loss": f"{sum(last) / len(last):.4f}",
            "command": f"python -m modicum.testtime.experiments.training {self.item.name} "
            f"--seed {self.seed} --steps {self.steps} --out FILE",
        }
        return self.model.checkpoint(header, torch.float16 if half else None)


class _Silent:
    def advance(self, n: float = 1) -> None:
        del n


class _Bar:
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
        yield _Silent()
    else:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as shown:
            number = shown.add_task(description, total=steps)
            yield _Bar(lambda n: shown.advance(number, n))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one model from the command line."""
    parser = argparse.ArgumentParser(description="Train a model of the experiments.")
    parser.add_argument("name", choices=sorted(recipes()))
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    print(train(given.name, given.out, given.seed, given.steps, given.device, True))


if __name__ == "__main__":
    main()
