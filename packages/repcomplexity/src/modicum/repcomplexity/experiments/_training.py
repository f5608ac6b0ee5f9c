"""What experiments train: experts, and cells of work that a later run goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modicum.core.experiment import RunContext
from modicum.repcomplexity import experts

__all__ = ["resumed", "sac_expert"]

HIDDEN = (128, 128)
"""Hidden layers of actor and critics: far more parameters than the networks that are measured."""


def sac_expert(
    env_id: str,
    folder: Path,
    steps: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> experts.Expert:
    """Train a soft actor-critic, or go on from its checkpoints in a folder.

    Raises
    ------
    ImportError
        If stable-baselines3 or MuJoCo is not installed.
    """
    from modicum.repcomplexity.integrations.training import SACSettings, train_sac

    settings = SACSettings(env_id, seed=seed, hidden=HIDDEN)
    training = train_sac(settings, folder, steps, device=device, on_progress=on_progress)
    return experts.sb3(training.path, "SAC", device=device)


def resumed(ctx: RunContext, cells: Mapping[str, Callable[[], Any]], what: str) -> dict[str, Any]:
    """Run cells by name; those that an interrupted run has finished are not run again."""
    task = ctx.progress(len(cells), what)
    found = {}
    for name, cell in cells.items():
        found[name] = ctx.load_partial(name)
        if found[name] is None:
            found[name] = cell()
            ctx.save_partial(name, found[name])
        task.advance(1)
    return found
