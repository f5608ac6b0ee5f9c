"""How well networks of each size represent the functions behind a set of rollouts.

`measure` trains small networks on every target, width and seed at once, on the same rows and
batches, and gives their errors to a `Measurement`. What is finished is kept on disk, so that a run
that was cut off goes on from there. Errors are on states that the data visit, not on all states.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modicum.core.device import resolve_device
from modicum.core.experiment import ProgressTask, dumps, write_atomic
from modicum.repcomplexity.data import TARGETS, RolloutData
from modicum.repcomplexity.measurement import REQUIRED_METRICS, Cell, Measurement
from modicum.repcomplexity.metrics import ErrorSums, action_regret, get_metric, rollout_error

if TYPE_CHECKING:
    from modicum.repcomplexity.ensemble import MLPEnsemble

__all__ = ["MATCHES", "measure"]

MATCHES = ("trunk", "total")
"""What networks of one width have in common: their hidden layers, or their number of parameters."""
MOST_CLUSTERS = 64
"""Clusters of rows; more episodes than that share them."""
FEW_TIMES = 4
"""How many times the parameters of a network a critic should have not to be easy to copy."""

Progress = Callable[[float | None, str], ProgressTask]
Key = tuple[str, int, int]
"""Target, width, seed."""


@dataclass(frozen=True)
class _Training:
    """Everything but data, targets, widths and seeds that a network's errors depend on."""

    depth: int
    steps: int
    batch_size: int
    lr: float
    match: str
    holdout: str
    holdout_fraction: float
    rollout_steps: int
    seed: int


def measure(
    data: RolloutData,
    targets: Sequence[str] = ("delta", "next_obs", "reward", "policy", "q"),
    widths: Sequence[int] = (8, 16, 32, 64, 128),
    depth: int = 2,
    seeds: int = 5,
    metrics: Sequence[str] = REQUIRED_METRICS,
    *,
    q: str | npt.ArrayLike = "auto",
    tail: str = "auto",
    holdout: str = "episodes",
    holdout_fraction: float = 0.2,
    steps: int = 3000,
    batch_size: int = 256,
    lr: float = 1e-3,
    match: str = "trunk",
    rollout_steps: int = 5,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Measurement:
    """Train networks on every target, width and seed, and measure their errors.

    Inputs and targets are standardised by the training rows; errors are in the targets' own units.
    All networks take the same number of steps of Adam, those of one seed on the same batches.

    Parameters
    ----------
    data
        The rollouts.
    targets
        Names in `modicum.repcomplexity.data.TARGETS`.
    widths
        Units of each hidden layer.
    depth
        Hidden layers.
    seeds
        How many networks of each kind.
    metrics
        Names in `modicum.repcomplexity.metrics.METRICS`, for tables.
    q
        Values of actions: ``"auto"``, ``"exact"``, ``"critic"``, ``"mc"``, or an array ``(n,)``.
    tail
        Of ``"mc"``: what truncated episodes would still have earned, as in `RolloutData.returns`.
    holdout, holdout_fraction
        As in `RolloutData.split`.
    steps, batch_size, lr
        Of the training.
    match
        ``"trunk"``: networks of one width have the same hidden layers. ``"total"``: each target has
        the width at which it has about as many parameters as a network of that width with one
        output and actions among its inputs.
    rollout_steps
        Steps of the metric ``"rollout_error"``; some episode held out must have as many.
    device
        As for `modicum.core.device.resolve_device`.
    seed
        Where all randomness comes from.
    out
        Folder where finished networks' errors are kept and looked for.
    progress
        Opens a progress bar, as `modicum.core.experiment.RunContext.progress` does.
    resamples, level
        Of the bootstrap over seeds and held-out episodes.

    Raises
    ------
    ValueError
        If an option is unknown or out of range, a target is not in the data, or episodes are too
        few to hold one out.
    """
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    _check(targets, widths, seeds, metrics, match)
    training = _Training(
        depth, steps, batch_size, lr, match, holdout, holdout_fraction, rollout_steps, seed
    )
    source = None
    if "q" in targets:
        source = data.q_source(q) if isinstance(q, str) else "array"
        q = data.q(source, tail=tail) if isinstance(q, str) else q
    values = {name: TARGETS[name].values(data, q) for name in dict.fromkeys(targets)}
    task = _Task(data, values, training, resolve_device(device), set(metrics))
    task.check_rollouts()
    keys = [
        (target, width, number)
        for target in values
        for width in sorted(set(widths))
        for number in range(seed, seed + seeds)
    ]
    cells = task.run(keys, None if out is None else Path(out), progress)
    settings = {
        "data": dict(data.info),
        "fingerprint": data.fingerprint(),
        "rows": len(data),
        "episodes": data.n_episodes,
        "q": source,
        "seeds": seeds,
        "device": task.device,
        **asdict(training),
    }
    cautions = [*data.cautions(), *_q_cautions(data, source, cells, keys)]
    return Measurement(
        {key: cells[key] for key in keys},
        metrics,
        settings,
        cautions,
        resamples=resamples,
        level=level,
        seed=seed,
    )


class _Task:
    """The networks of one set of data and one way of training."""

    def __init__(
        self,
        data: RolloutData,
        values: Mapping[str, np.ndarray],
        training: _Training,
        device: str,
        metrics: set[str],
    ):
        self.data, self.training, self.device = data, training, device
        self.values = {name: np.asarray(rows, np.float64) for name, rows in values.items()}
        self.metrics = metrics
        self.split = data.split(training.holdout, training.holdout_fraction, training.seed)
        self._inputs = {
            uses: _standardised(data.inputs(uses), self.split.train)
            for uses in {TARGETS[name].uses_action for name in values}
        }
        self._training_inputs = {
            uses: scaled.rows[self.split.train] for uses, scaled in self._inputs.items()
        }
        self._targets = {
            name: _standardised(rows, self.split.train) for name, rows in self.values.items()
        }

    def run(self, keys: Sequence[Key], out: Path | None, progress: Progress | None) -> dict:
        """Return the cells of all keys, those on disk and those that are trained now."""
        folder = None if out is None else out / self._digest()
        cells = {} if folder is None else _load(folder)
        missing = [key for key in keys if key not in cells or self._lacks(cells[key], key[0])]
        if not missing:
            return cells
        total = self.training.steps * len(missing)
        bar = progress(total, "training networks") if progress is not None else None
        for group in self._groups(missing):
            found = dict(self._train(group, _advance_by(bar, len(group))))
            cells |= found
            if folder is not None:
                _save(folder, found)
        return cells

    def check_rollouts(self) -> None:
        """Refuse rollouts that no held-out episode is long enough for, before anything is trained.

        Raises
        ------
        ValueError
            If there is no such episode, or less than one step is asked for.
        """
        steps = self.training.rollout_steps
        if not any("rollout" in self._extra_rows(name) for name in self.values):
            return
        longest = int(np.bincount(self.data.episodes[self.split.test]).max())
        if not 1 <= steps <= longest:
            raise ValueError(
                f"rollout_steps must be in [1, {longest}], the steps of the longest episode held"
                f" out, not {steps}"
            )

    def _digest(self) -> str:
        """Return what tells these data and this training from others."""
        digest = hashlib.blake2b(dumps(asdict(self.training)).encode(), digest_size=8)
        digest.update(self.data.fingerprint().encode())
        for name in sorted(self.values):
            # Another source of values is another target of the same name.
            if name == "q":
                digest.update(np.ascontiguousarray(self.values[name]).data)
        return digest.hexdigest()

    def _groups(self, keys: Sequence[Key]) -> list[list[Key]]:
        """Return what is trained at once: one width on a CPU, where padding costs time."""
        if self.device != "cpu":
            return [list(keys)]
        widths = dict.fromkeys(width for _, width, _ in keys)
        return [[key for key in keys if key[1] == width] for width in widths]

    def _train(
        self, keys: Sequence[Key], on_step: Callable[[int], None] | None
    ) -> Iterator[tuple[Key, Cell]]:
        # The package's front imports this module, and torch takes seconds.
        from modicum.repcomplexity.ensemble import MLPEnsemble, NetworkSpec, Problem

        names = list(dict.fromkeys(target for target, _, _ in keys))
        problems = [
            Problem(
                self._training_inputs[TARGETS[name].uses_action],
                self._targets[name].rows[self.split.train],
            )
            for name in names
        ]
        specs = [
            NetworkSpec(names.index(target), self._width(target, width), number)
            for target, width, number in keys
        ]
        ensemble = MLPEnsemble(
            problems, specs, depth=self.training.depth, lr=self.training.lr, device=self.device
        )
        ensemble.fit(self.training.steps, self.training.batch_size, on_step=on_step)
        for index, key in enumerate(keys):
            predict = self._predictor(ensemble, index, key[0])
            sums = self._sums(key[0], predict)
            yield key, Cell(specs[index].width, ensemble.parameter_count(index), sums)

    def _width(self, target: str, width: int) -> int:
        """Return the width at which a target has the parameters that `match` gives it."""
        if self.training.match == "trunk":
            return width
        from modicum.repcomplexity.ensemble import parameter_count

        depth, with_action = self.training.depth, self.data.inputs(True).shape[1]
        budget = parameter_count(with_action, 1, width, depth)
        n_inputs = self.data.inputs(TARGETS[target].uses_action).shape[1]
        n_outputs = self.values[target].shape[1]
        candidates = range(1, 4 * width + 2)
        return min(
            candidates,
            key=lambda w: abs(parameter_count(n_inputs, n_outputs, w, depth) - budget),
        )

    def _predictor(
        self, ensemble: MLPEnsemble, index: int, target: str
    ) -> Callable[[np.ndarray], np.ndarray]:
        inputs, outputs = self._inputs[TARGETS[target].uses_action], self._targets[target]

        def predict(rows: np.ndarray) -> np.ndarray:
            scaled = ((rows - inputs.mean) / inputs.scale).astype(np.float32)
            return ensemble.predict(index, scaled) * outputs.scale + outputs.mean

        return predict

    # Errors -------------------------------------------------------------------------------------

    def _sums(
        self, target: str, predict: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, ErrorSums]:
        predictions = predict(self.data.inputs(TARGETS[target].uses_action))
        reference = TARGETS[target].reference
        rows = {
            "train": (self.split.train, self.split.train_clusters),
            "test": (self.split.test, self.split.test_clusters),
        }
        sums = {
            name: ErrorSums.of(
                self.values[target][index],
                predictions[index],
                center=self._targets[target].mean,
                reference=None if reference is None else reference(self.data)[index],
                **_clusters(labels),
            )
            for name, (index, labels) in rows.items()
        }
        for name in self._extra_rows(target):
            sums[name] = _EXTRA[name](self, target, predict)
        return sums

    def _extra_rows(self, target: str) -> list[str]:
        """Return which rows beside the usual ones the metrics need of a target."""
        found = []
        exact = self.data.exact_q_actions is not None
        if "action_regret" in self.metrics and target == "q" and exact:
            found.append("regret")
        if "rollout_error" in self.metrics and target in ("delta", "next_obs"):
            found.append("rollout")
        return found

    def _lacks(self, cell: Cell, target: str) -> bool:
        return any(name not in cell.sums for name in self._extra_rows(target))

    def _regret(self, target: str, predict: Callable[[np.ndarray], np.ndarray]) -> ErrorSums:
        rows = self.split.test
        assert self.data.exact_q_actions is not None
        exact = self.data.exact_q_actions[rows]
        columns = []
        for action in range(exact.shape[1]):
            one_hot = np.zeros((len(rows), exact.shape[1]))
            one_hot[:, action] = 1
            columns.append(predict(np.hstack([self.data.observations[rows], one_hot])))
        regrets = action_regret(np.hstack(columns), exact)
        return _plain_sums(regrets, np.zeros_like(regrets), self.split.test_clusters)

    def _rollout(self, target: str, predict: Callable[[np.ndarray], np.ndarray]) -> ErrorSums:
        data, rows = self.data, self.split.test

        def model(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
            predicted = predict(np.hstack([observations, actions]))
            return observations + predicted if target == "delta" else predicted

        starts, errors, deviations = rollout_error(
            model,
            data.observations[rows],
            data.actions[rows],
            data.next_observations[rows],
            data.episodes[rows],
            self.training.rollout_steps,
            data.next_observations[self.split.train].mean(0),
        )
        return _plain_sums(errors, deviations, self.split.test_clusters, starts)


_EXTRA: dict[str, Callable[..., ErrorSums]] = {"regret": _Task._regret, "rollout": _Task._rollout}


@dataclass(frozen=True, eq=False)
class _Standardised:
    """Rows with mean 0 and variance 1 over the training rows, and how to come back."""

    rows: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


def _standardised(values_nd: np.ndarray, train: np.ndarray) -> _Standardised:
    values_nd = np.asarray(values_nd, dtype=np.float64)
    mean_d, scale_d = values_nd[train].mean(0), values_nd[train].std(0)
    # A constant column stays the zero it becomes; dividing by its rounding errors would not.
    scale_d = np.where(scale_d > 1e-12 * np.maximum(1.0, np.abs(mean_d)), scale_d, 1.0)
    return _Standardised(((values_nd - mean_d) / scale_d).astype(np.float32), mean_d, scale_d)


def _advance_by(bar: ProgressTask | None, count: int) -> Callable[[int], None] | None:
    """Return what moves a bar on when `count` networks have made some steps."""
    if bar is None:
        return None

    def advance(steps: int) -> None:
        bar.advance(steps * count)

    return advance


def _clusters(labels: np.ndarray) -> dict[str, Any]:
    count = min(int(labels.max()) + 1, MOST_CLUSTERS)
    return {"clusters": labels % count, "n_clusters": count}


def _plain_sums(
    errors: np.ndarray,
    deviations: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray | None = None,
) -> ErrorSums:
    """Return sums of errors and deviations that were squared before."""
    chosen = _clusters(labels)
    index = chosen["clusters"] if rows is None else chosen["clusters"][rows]
    added = [
        np.bincount(index, weights=part, minlength=chosen["n_clusters"])
        for part in (np.ones_like(errors), errors, deviations)
    ]
    column = added[1][:, None]
    return ErrorSums(added[0], column, np.zeros_like(column), added[2][:, None], np.zeros(1))


def _q_cautions(
    data: RolloutData, source: str | None, cells: Mapping[Key, Cell], keys: Sequence[Key]
) -> list[str]:
    if source == "mc":
        return [
            "Values of actions are single returns: what chance adds to them counts as an error of"
            " Q that no network could avoid."
        ]
    if source != "critic":
        return []
    found = []
    size = data.info.get("critic_parameters")
    largest = max(cells[key].parameters for key in keys)
    if size is not None and size <= FEW_TIMES * largest:
        found.append(
            f"The critic has {size} parameters and the largest network {largest}: it is a small"
            " network itself, which another one copies easily."
        )
    if data.next_values is not None:
        pair = np.stack([data.q("critic"), data.returns()])
        if (pair.std(1) > 0).all():
            correlation = np.corrcoef(pair)[0, 1]
            found.append(f"Correlation of the critic with returns: {correlation:.2f}.")
    return found


def _check(
    targets: Sequence[str], widths: Sequence[int], seeds: int, metrics: Sequence[str], match: str
) -> None:
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets:
        raise ValueError(f"targets must be some of {', '.join(TARGETS)}, not {list(targets)}")
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be numbers from 1, not {list(widths)}")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    if match not in MATCHES:
        raise ValueError(f"match must be one of {', '.join(MATCHES)}, not {match!r}")
    for name in metrics:
        get_metric(name)


# On disk ----------------------------------------------------------------------------------------

_PARTS = tuple(part.name for part in fields(ErrorSums))


def _save(folder: Path, cells: Mapping[Key, Cell]) -> None:
    """Write cells to a new file of a folder."""
    arrays: dict[str, np.ndarray] = {}
    for (target, width, number), cell in cells.items():
        prefix = f"{target}/{width}/{number}"
        arrays[f"{prefix}/size"] = np.array([cell.width, cell.parameters])
        for rows, sums in cell.sums.items():
            for part in _PARTS:
                if (values := getattr(sums, part)) is not None:
                    arrays[f"{prefix}/{rows}/{part}"] = values
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    name = hashlib.blake2b("\n".join(arrays).encode(), digest_size=8).hexdigest()
    write_atomic(folder / f"{name}.npz", buffer.getvalue())


def _load(folder: Path) -> dict[Key, Cell]:
    """Return the cells of all files of a folder; of two of one network the richer."""
    cells: dict[Key, Cell] = {}
    for path in sorted(folder.glob("*.npz")):
        for key, cell in _read(path).items():
            if key not in cells or len(cell.sums) > len(cells[key].sums):
                cells[key] = cell
    return cells


def _read(path: Path) -> dict[Key, Cell]:
    sizes: dict[Key, np.ndarray] = {}
    parts: dict[Key, dict[str, dict[str, np.ndarray]]] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            target, width, number, *rest = name.split("/")
            key = (target, int(width), int(number))
            if rest == ["size"]:
                sizes[key] = file[name]
            else:
                parts.setdefault(key, {}).setdefault(rest[0], {})[rest[1]] = file[name]
    return {
        key: Cell(
            int(size[0]),
            int(size[1]),
            {rows: ErrorSums(**sums) for rows, sums in parts[key].items()},
        )
        for key, size in sizes.items()
    }
