"""Four small experts on bit strings, trained to be right on every string.

They are what the experiment `glue` glues together. Each is a `TinyGPT` that reads eight bits and a
token that ends its input and writes eight bits: the same (copy), backwards (reverse), flipped
(complement) or in order (sort). The weights lie in ``data/experts.safetensors`` in half precision;
`load_experts` reads them, `mistakes` counts wrong strings over all 256. It knows nothing of the
construction.

``python -m modicum.testtime.experiments.expert_training --out FILE`` trains them again.

Legend: ``S`` strings, ``T`` positions, ``L`` bits of a string.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import write_atomic
from modicum.testtime.experiments.training import DATA, Recipe, Rows, train

if TYPE_CHECKING:
    import torch

    from modicum.testtime.tinygpt import TinyGPT

__all__ = [
    "CHECKPOINT",
    "END_OF_INPUT",
    "LENGTH",
    "RECIPES",
    "TASKS",
    "all_strings",
    "load_experts",
    "mistakes",
    "train_experts",
]

CHECKPOINT = DATA / "experts.safetensors"
LENGTH = 8
"""Bits of a string."""
END_OF_INPUT = 2
"""Token after the prompt; 0 and 1 are the bits."""
SEED = 0
MODULE = "modicum.testtime.experiments.expert_training"

Bits = NDArray[np.int64]

TASKS: dict[str, Callable[[Bits], Bits]] = {
    "copy": lambda bits_SL: bits_SL,
    "reverse": lambda bits_SL: bits_SL[:, ::-1],
    "complement": lambda bits_SL: 1 - bits_SL,
    "sort": lambda bits_SL: np.sort(bits_SL, axis=1),
}
"""What each expert does to strings ``[S, L]``."""


def all_strings() -> Bits:
    """Return all strings, int64 ``[2^L, L]``."""
    return (np.arange(2**LENGTH)[:, None] >> np.arange(LENGTH)[::-1]) & 1


def rows(task: str, bits_SL: Bits) -> Rows:
    """Return strings with their answers, the answers to be learned."""
    answer_SL = TASKS[task](bits_SL)
    end_S1 = np.full((len(bits_SL), 1), END_OF_INPUT)
    ids_ST = np.concatenate([bits_SL, end_S1, answer_SL], axis=1)
    learned_ST = np.zeros(ids_ST.shape, dtype=bool)
    learned_ST[:, LENGTH + 1 :] = True
    return Rows(ids_ST, learned_ST)


def _recipe(task: str, steps: int) -> Recipe:
    return Recipe(
        name=f"expert-{task}",
        summary=f"A bit string in, its {task} out.",
        sizes={
            "vocab_size": 3,
            "n_positions": 2 * LENGTH + 1,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
        },
        draw=lambda rng, count: rows(task, rng.integers(0, 2, size=(count, LENGTH))),
        steps=steps,
        learning_rate=3e-3,
    )


RECIPES = [_recipe(task, 800) for task in TASKS]


def train_experts(
    out: Path, seed: int = SEED, steps: int | None = None, device: str = "cpu"
) -> dict[str, int]:
    """Train all experts and write them into one file.

    Parameters
    ----------
    out
        The safetensors file.
    seed
        Of weights and strings.
    steps
        Optimiser steps each, None for the recipes'.
    device
        Where to train.

    Returns
    -------
    dict of int
        By task the strings, out of all, that the expert as it is stored gets wrong.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    weights: dict[str, torch.Tensor] = {}
    metadata = {"format": "pt", "command": f"python -m {MODULE} --seed {seed} --out FILE"}
    with tempfile.TemporaryDirectory() as folder:
        for task, recipe in zip(TASKS, RECIPES, strict=True):
            path = train(recipe, Path(folder) / task, seed, steps, device)
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    weights[f"{task}.{name}"] = file.get_tensor(name)
                metadata[task] = json.dumps(file.metadata())
    write_atomic(out, save(weights, metadata))
    return {task: mistakes(expert, task) for task, expert in load_experts(out).items()}


def load_experts(
    path: Path = CHECKPOINT, *, dtype: torch.dtype | None = None
) -> dict[str, TinyGPT]:
    """Return the experts by task, in evaluation mode.

    Parameters
    ----------
    path
        What `train_experts` wrote.
    dtype
        Of the models, None for float32.
    """
    import torch
    from safetensors import safe_open

    from modicum.testtime.tinygpt import TinyGPT, TinyGPTConfig

    experts = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        for task in TASKS:
            config = TinyGPTConfig(**json.loads(json.loads(metadata[task])["config"]))
            state = {
                name.removeprefix(f"{task}."): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if name.startswith(f"{task}.")
            }
            state["lm_head.weight"] = state["transformer.wte.weight"]
            expert = TinyGPT(config)
            expert.load_state_dict(state)
            experts[task] = expert.to(dtype or torch.float32).eval()
    return experts


def mistakes(expert: TinyGPT, task: str) -> int:
    """Return how many of all strings an expert, decoded greedily, gets wrong."""
    import torch

    from modicum.core.device import torch_generator
    from modicum.testtime.tinygpt import sample

    wanted = rows(task, all_strings()).ids_BT
    prompt = torch.from_numpy(wanted[:, : LENGTH + 1])
    given = sample(expert, prompt, LENGTH, generator=torch_generator(0), temperature=0)
    return int((given.cpu().numpy() != wanted[:, LENGTH + 1 :]).any(axis=1).sum())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the experts from the command line and say how many strings each gets wrong."""
    parser = argparse.ArgumentParser(description="Train the experts on bit strings.")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipes'")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    for task, wrong in train_experts(given.out, given.seed, given.steps, given.device).items():
        print(f"{task}: {wrong} of {2**LENGTH} strings wrong")


if __name__ == "__main__":
    main()
