"""The measurements of two papers, as their code makes them.

`zhu2024` is that of "On Representation Complexity of Model-based and Model-free Reinforcement
Learning" (arXiv 2310.01706): nothing is standardised or held out, and the error is the sum of the
last pass's batch errors divided by the norm of the targets. `feng2023` is that of "Rethinking
Model-based, Policy-based, and Value-based Reinforcement Learning via the Lens of Representation
Complexity" (arXiv 2312.17248). What `modicum.repcomplexity.measure` does otherwise is written
there; `modicum.repcomplexity.metrics` says what these errors depend on.

Both learn the next observation itself, not its change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modicum.core.experiment import ProgressTask
from modicum.repcomplexity.data import TARGETS, RolloutData
from modicum.repcomplexity.ensemble import MLPEnsemble, NetworkSpec, Problem
from modicum.repcomplexity.metrics import ZHU_BATCH_SIZE, ErrorSums
from modicum.repcomplexity.metrics import feng2023 as feng2023_metric

__all__ = ["ProtocolResult", "feng2023", "zhu2024"]

FENG_BATCH_SIZE = 128
FENG_ROWS = 9_000_000
"""Rows seen in training, whatever their number is: 9e6 / rows passes."""
FENG_GAMMA = 0.99

Progress = Callable[[float | None, str], ProgressTask]


@dataclass(frozen=True, eq=False)
class ProtocolResult:
    """Errors of a protocol.

    Attributes
    ----------
    name
        Of the protocol.
    errors
        For each target and width the error of each seed, float64 ``(seeds,)``.
    """

    name: str
    errors: Mapping[tuple[str, int], np.ndarray]

    def mean(self, target: str, width: int) -> float:
        """Return the mean over seeds."""
        return float(self.errors[target, width].mean())

    def table(self) -> str:
        """Return a Markdown table of means and standard deviations over seeds."""
        lines = [f"| target | width | {self.name} |", "|---|---|---|"]
        for (target, width), errors in self.errors.items():
            spread = f" ± {errors.std(ddof=1):.2g}" if len(errors) > 1 else ""
            lines.append(f"| {target} | {width} | {errors.mean():.3g}{spread} |")
        return "\n".join(lines)


def zhu2024(
    data: RolloutData,
    *,
    targets: Sequence[str] = ("next_obs", "reward", "q"),
    widths: Sequence[int] = (32,),
    seeds: int = 5,
    epochs: int = 100,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> ProtocolResult:
    """Run the protocol of arXiv 2310.01706.

    Two hidden layers, Adam with step size 1e-3, batches of 32 and the last smaller one too; the
    error sums what the batches of the last pass had before each update. Q is the first head of the
    critic, as in its code; exact values or returns where the data have no critic.

    Parameters
    ----------
    data
        The rollouts; all rows are trained on.
    targets, widths, seeds
        What is trained.
    epochs
        Passes over the rows.
    device, seed, progress
        As in `modicum.repcomplexity.measure.measure`.

    Raises
    ------
    ValueError
        If a target is unknown or not in the data, or a number is less than 1.
    """
    _check(targets, widths, seeds, epochs)
    problems = _problems(data, targets, _first_head(data) if "q" in targets else "auto")
    per_pass = -(-len(data) // ZHU_BATCH_SIZE)
    steps = epochs * per_pass
    errors = {}
    bar = _bar(progress, steps * len(widths), "zhu2024")
    for width in widths:
        specs = _specs(len(targets), width, range(seed, seed + seeds))
        ensemble = MLPEnsemble(problems, specs, depth=2, device=device)
        losses = ensemble.fit(steps, ZHU_BATCH_SIZE, drop_last=False, on_step=bar)
        last = losses[-per_pass:].double().sum(0).cpu().numpy().reshape(len(targets), seeds)
        for row, target in enumerate(targets):
            errors[target, width] = last[row] / np.linalg.norm(problems[row].targets)
    return ProtocolResult("zhu2024", errors)


def feng2023(
    data: RolloutData,
    *,
    fix_dims: bool = False,
    q_bug: bool = False,
    targets: Sequence[str] = ("next_obs", "reward", "policy", "q"),
    widths: Sequence[int] = (16, 32, 48, 64),
    depth: int = 2,
    seeds: int = 4,
    rows_seen: int = FENG_ROWS,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> ProtocolResult:
    """Run the protocol of arXiv 2312.17248.

    Adam with step size 1e-3 on batches of 128, the last of a pass smaller, for as many passes as
    take 9 million rows; the error is that of the trained network on its training rows,
    `modicum.repcomplexity.metrics.feng2023`.

    Parameters
    ----------
    data
        The rollouts; all rows are trained on.
    fix_dims
        Sums squared errors over dimensions as the variance is; the published errors of vectors are
        √d times smaller.
    q_bug
        Takes r + 0.99 Q(s', a) with the action taken in s, after terminations too, as the
        published code does, where Q(s, a) was probably meant.
    targets, widths, seeds
        What is trained.
    depth
        Hidden layers: 1 or 2 in the paper.
    rows_seen
        Rows a network sees in training, repetitions counted.
    device, seed, progress
        As in `modicum.repcomplexity.measure.measure`.

    Raises
    ------
    ValueError
        If a target is unknown or not in the data, or a number is less than 1.
    """
    _check(targets, widths, seeds, rows_seen)
    q: str | np.ndarray = _first_head(data) if "q" in targets else "auto"
    if q_bug:
        if data.next_q_same_action is None:
            raise ValueError(
                "q_bug=True needs a critic's values of the next state and the same action"
                " (next_q_same_action): collect with an expert that has q"
            )
        q = data.rewards + FENG_GAMMA * data.next_q_same_action
    problems = _problems(data, targets, q)
    per_pass = -(-len(data) // FENG_BATCH_SIZE)
    steps = max(1, round(rows_seen * per_pass / len(data)))
    errors = {}
    bar = _bar(progress, steps * len(widths), "feng2023")
    for width in widths:
        specs = _specs(len(targets), width, range(seed, seed + seeds))
        ensemble = MLPEnsemble(problems, specs, depth=depth, device=device)
        ensemble.fit(steps, FENG_BATCH_SIZE, drop_last=False, on_step=bar)
        found = [
            feng2023_metric(
                ErrorSums.of(problems[spec.problem].targets, ensemble.predict(index)), fix_dims
            )
            for index, spec in enumerate(specs)
        ]
        for row, target in enumerate(targets):
            errors[target, width] = np.array(found[row * seeds : (row + 1) * seeds])
    return ProtocolResult("feng2023", errors)


def _first_head(data: RolloutData) -> str | np.ndarray:
    if data.critic_q is None:
        return "auto"
    return data.q("critic", head=0)


def _problems(data: RolloutData, targets: Sequence[str], q: str | np.ndarray) -> list[Problem]:
    # One array for all targets with the same inputs, which an ensemble then holds once.
    inputs = {uses: data.inputs(uses) for uses in (False, True)}
    return [
        Problem(inputs[TARGETS[name].uses_action], TARGETS[name].values(data, q))
        for name in targets
    ]


def _specs(n_targets: int, width: int, seeds: range) -> list[NetworkSpec]:
    return [NetworkSpec(row, width, number) for row in range(n_targets) for number in seeds]


def _bar(progress: Progress | None, total: int, name: str) -> Callable[[int], None] | None:
    return None if progress is None else progress(total, name).advance


def _check(targets: Sequence[str], widths: Sequence[int], seeds: int, length: int) -> None:
    if not targets or any(name not in TARGETS for name in targets):
        raise ValueError(f"targets must be some of {', '.join(TARGETS)}, not {list(targets)}")
    if not widths or min(widths) < 1 or seeds < 1 or length < 1:
        raise ValueError("widths, seeds and the length of training must be at least 1")
