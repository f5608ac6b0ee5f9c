"""Experts to measure: soft actor-critic by stable-baselines3, trained in parts that can be resumed.

`train_sac` trains until a number of steps is reached and leaves checkpoints in a folder; a second
call goes on from the last of them. A checkpoint holds the networks, the optimisers' moments, the
temperature and the replay buffer, and every part between two checkpoints starts a new episode from
a seed of its own: training that was cut off and resumed gives the networks of training that was
not. Nothing in a checkpoint is executed when it is read.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modicum.core.device import numpy_generator, one_thread, resolve_device
from modicum.core.experiment import write_atomic

try:
    import gymnasium
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.save_util import load_from_zip_file
except ImportError as error:  # pragma: no cover
    raise ImportError(
        'stable-baselines3 is missing: pip install "modicum-repcomplexity[sb3,mujoco]"'
    ) from error

__all__ = ["SACSettings", "Training", "load_sac", "train_sac"]

STATE_FILE = "training.json"
"""What a folder holds beside checkpoints: settings and what was reached."""
_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass(frozen=True)
class SACSettings:
    """What a training depends on, its length left out.

    Attributes
    ----------
    env_id
        A registered Gymnasium environment with numbers as observations and actions.
    seed
        Where weights, exploration, batches and first states come from.
    hidden
        Widths of the hidden layers of actor and critics.
    learning_rate, gamma, tau, batch_size
        As in stable-baselines3; one update is made after each step.
    initial_temperature
        Weight of the entropy at the start; it is adapted to the target entropy −dim(action).
    buffer_size
        Transitions kept for replay.
    learning_starts
        Steps of uniformly random actions before the first update.
    checkpoint_every
        Steps between checkpoints. An episode that goes on there is cut.
    """

    env_id: str
    seed: int = 0
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    batch_size: int = 256
    initial_temperature: float = 0.1
    buffer_size: int = 100_000
    learning_starts: int = 1_000
    checkpoint_every: int = 5_000

    def __post_init__(self) -> None:
        """Check what stable-baselines3 does not."""
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("batch_size", "buffer_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, not {self.hidden}")
        if not self.initial_temperature > 0:
            raise ValueError(
                f"initial_temperature must be positive, not {self.initial_temperature}"
            )


@dataclass(frozen=True)
class Training:
    """A checkpoint.

    Attributes
    ----------
    path
        The networks, a file that ``SAC.load`` of stable-baselines3 reads too.
    steps
        Steps of the environment until then.
    returns
        Mean undiscounted return of the episodes that ended before each checkpoint and after the one
        before it, under the exploring policy; None where none ended.
    settings
        What it was trained with.
    """

    path: Path
    steps: int
    returns: tuple[float | None, ...]
    settings: SACSettings


def train_sac(
    settings: SACSettings,
    folder: str | os.PathLike[str],
    steps: int,
    *,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Training:
    """Train until a number of steps is reached, from the last checkpoint in a folder.

    Parameters
    ----------
    settings
        What to train. A folder belongs to one of these.
    folder
        Where checkpoints are and go; made if it is missing.
    steps
        Steps of the environment in all, a multiple of `settings.checkpoint_every`. Where more were
        made already, the checkpoint of that moment is handed back.
    device
        Where networks are, as for `modicum.core.device.resolve_device`. On a CPU one thread is
        used. The networks are the same in every run on one kind of device only.
    on_progress
        Told the number of steps that are there: first those found, then those made.

    Returns
    -------
    Training
        The checkpoint after `steps` steps.

    Raises
    ------
    ValueError
        If `steps` is no positive multiple, or the folder holds a training with other settings.
    """
    every = settings.checkpoint_every
    if steps < 1 or steps % every:
        raise ValueError(f"steps must be a positive multiple of {every}, not {steps}")
    folder = Path(folder)
    returns = _returns_so_far(settings, folder)
    report = on_progress or (lambda count: None)
    report(min(len(returns) * every, steps))
    if len(returns) * every < steps:
        device = resolve_device(device)
        with one_thread() if device == "cpu" else nullcontext():
            _go_on(settings, folder, returns, steps, device, report)
    done = steps // every
    return Training(_weights(folder, steps), steps, tuple(returns[:done]), settings)


def load_sac(training: Training, *, device: str = "cpu") -> SAC:
    """Return a checkpoint's model, without its replay buffer, on a device.

    Only tensors are read from the file.
    """
    return _restored(training.settings, training.path, training.steps, resolve_device(device))


def _go_on(
    settings: SACSettings,
    folder: Path,
    returns: list[float | None],
    steps: int,
    device: str,
    report: Callable[[int], None],
) -> None:
    every = settings.checkpoint_every
    done = len(returns) * every
    if done:
        model = _restored(settings, _weights(folder, done), done, device)
        _fill(model.replay_buffer, _replay(folder, done))
    else:
        with _seeded(_part_seed(settings, -1)):
            model = _new_model(settings, device)
    for start in range(done, steps, every):
        returns.append(_one_part(model, _part_seed(settings, start // every), every, report))
        _save(settings, folder, model, returns)


def _one_part(model: SAC, seed: int, steps: int, report: Callable[[int], None]) -> float | None:
    """Train for some steps from a new episode; return the mean return of those that ended."""
    with _seeded(seed):
        model.set_random_seed(seed)
        model._last_obs = None
        model.ep_info_buffer = None
        model.learn(steps, callback=_Report(report), reset_num_timesteps=False)
    infos = list(model.ep_info_buffer or ())
    return float(np.mean([info["r"] for info in infos])) if infos else None


def _new_model(settings: SACSettings, device: str) -> SAC:
    return SAC(
        "MlpPolicy",
        gymnasium.make(settings.env_id),
        learning_rate=settings.learning_rate,
        buffer_size=settings.buffer_size,
        learning_starts=settings.learning_starts,
        batch_size=settings.batch_size,
        tau=settings.tau,
        gamma=settings.gamma,
        ent_coef=f"auto_{settings.initial_temperature}",
        policy_kwargs={"net_arch": list(settings.hidden)},
        device=device,
    )


def _restored(settings: SACSettings, path: Path, steps: int, device: str) -> SAC:
    with _seeded(0):
        model = _new_model(settings, device)
    _, tensors, variables = load_from_zip_file(path, device=device, load_data=False)
    model.set_parameters(tensors, exact_match=True, device=device)
    # The temperature is a tensor of its own beside the networks.
    assert model.log_ent_coef is not None and variables is not None
    model.log_ent_coef.data = variables["log_ent_coef"].data
    model.num_timesteps = steps
    return model


class _Report(BaseCallback):
    """Tells how many steps were made, a hundred at a time."""

    def __init__(self, report: Callable[[int], None]):
        super().__init__()
        self._report, self._made = report, 0

    def _on_step(self) -> bool:
        self._made += 1
        if self._made == 100:
            self._on_training_end()
        return True

    def _on_training_end(self) -> None:
        if self._made:
            self._report(self._made)
        self._made = 0


# Files ------------------------------------------------------------------------------------------


def _weights(folder: Path, steps: int) -> Path:
    return folder / f"sac-{steps}.zip"


def _replay(folder: Path, steps: int) -> Path:
    return folder / f"replay-{steps}.npz"


def _returns_so_far(settings: SACSettings, folder: Path) -> list[float | None]:
    path = folder / STATE_FILE
    if not path.exists():
        return []
    state = json.loads(path.read_text(encoding="utf-8"))
    wanted, found = json.loads(json.dumps(asdict(settings))), state["settings"]
    different = [name for name in wanted if wanted[name] != found.get(name)]
    if different:
        name = different[0]
        raise ValueError(
            f"{folder} holds a training with {name}={found.get(name)!r}, not {wanted[name]!r}:"
            " give another folder"
        )
    return list(state["returns"])


def _save(settings: SACSettings, folder: Path, model: SAC, returns: list[float | None]) -> None:
    """Write a checkpoint; the file of settings, written last, says that it is whole."""
    steps = len(returns) * settings.checkpoint_every
    buffer = io.BytesIO()
    model.save(buffer)
    write_atomic(_weights(folder, steps), buffer.getvalue())
    write_atomic(_replay(folder, steps), _packed(model.replay_buffer))
    state = {"settings": asdict(settings), "returns": returns}
    write_atomic(folder / STATE_FILE, json.dumps(state, indent=1) + "\n")
    for old in folder.glob("replay-*.npz"):
        if old != _replay(folder, steps):
            old.unlink()


def _packed(replay: Any) -> bytes:
    """Return the transitions of a replay buffer, from its first place on, as an ``.npz`` file."""
    count = replay.size()
    arrays = {name: getattr(replay, name)[:count] for name in _BUFFER}
    place = np.array([replay.pos, replay.full], dtype=np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, place=place, **arrays)
    return buffer.getvalue()


def _fill(replay: Any, path: Path) -> None:
    with np.load(path, allow_pickle=False) as file:
        for name in _BUFFER:
            getattr(replay, name)[: len(file[name])] = file[name]
        replay.pos, replay.full = int(file["place"][0]), bool(file["place"][1])


# Randomness -------------------------------------------------------------------------------------


def _part_seed(settings: SACSettings, part: int) -> int:
    """Return the seed of a part; part -1 is the first weights."""
    return int(numpy_generator(settings.seed, "training", part + 1).integers(2**31))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that stable-baselines3 draws from, and put them back after."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
