"""An optimizer of torch modules that needs losses only, never a gradient.

Takes parameters and a closure that returns a loss; moves the parameters. A step evaluates the
closure at ``θ + ε z`` and ``θ - ε z`` for normal directions z and steps along
``(L₊ - L₋)/(2 ε) z``, the estimate of the gradient that MeZO uses (Malladi et al., "Fine-Tuning
Language Models with Just Forward Passes", arXiv 2305.17333). Directions are functions of a seed
(`modicum.zeroth.torch.noise`) and are never stored: beyond the memory of inference a step needs
room for one tensor (`Streamed`) or for a copy of the trained parameters (`InPlace`), and a step of
a run over many machines is a few numbers long. Knows nothing of modules, data and engines.
"""

from __future__ import annotations

import ctypes
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch

from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.torch.batched import BoundLoss
from modicum.zeroth.torch.curvature import CURVATURE_RATE, RunningCurvature
from modicum.zeroth.torch.distributed import Group, gather, resolve_group
from modicum.zeroth.torch.evaluation import BatchedEvaluator, Evaluator
from modicum.zeroth.torch.kernels import Backend
from modicum.zeroth.torch.noise import CPU_CHUNK, DEVICE_CHUNK, WORD, Slot, squared_norm
from modicum.zeroth.torch.perturbation import InPlace, Perturbation, Streamed, contiguous_noise
from modicum.zeroth.torch.radius import (
    GROWTH,
    LADDER,
    AutoRadius,
    LadderSums,
    balanced_epsilon,
    ladder_sums,
)

Directions = Literal["gaussian", "sphere"]
Preconditioner = Literal["none", "diag"]
Perturb = Literal["in-place", "streamed"]

STATE_KEY = "zeroth"
"""Where a state dict keeps what belongs to the run and not to a parameter."""

RESERVED_DIRECTIONS = 1 << 16
"""The last numbers of directions, kept for measurements of the radius."""

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


NOTHING_TRAINED = "no parameter requires gradients: there is nothing to optimise"


@dataclass(frozen=True)
class StepRecord:
    """One step in numbers: with the parameters before it, all that the parameters after it need.

    Attributes
    ----------
    step
        Number of the step, from 0.
    first
        Number of the first direction; the others follow.
    scalars
        Slope of the loss along each direction, rounded to float32; ``None`` where a loss was not
        finite.
    lr
        Learning rate of each parameter group, rounded to float32.
    epsilon
        Standard deviation of a coordinate's perturbation.
    curvatures
        For ``precond="diag"``: each direction's excess of curvature over the running mean, in
        float32, with which the diagonal is updated; empty otherwise and in the first step.
    diagonal
        For ``precond="diag"``: mean curvature and weight of the measured diagonal in this step.
    loss
        Mean of the losses at the perturbed points; not needed for the parameters.
    """

    step: int
    first: int
    scalars: tuple[float | None, ...]
    lr: tuple[float, ...]
    epsilon: float
    curvatures: tuple[float, ...] = ()
    diagonal: tuple[float, float] | None = None
    loss: float = math.nan


class ZOOptimizer(torch.optim.Optimizer):
    """Stochastic gradient descent on estimates of the gradient from pairs of losses.

    ``optimizer.step(closure)`` calls the closure, which returns a loss and needs no graph, twice
    for each pair. Only parameters that require gradients are moved. A step with a learning rate of
    zero changes no bit of them.

    Parameters
    ----------
    params
        Parameters, named parameters or groups, as for every torch optimizer. A group may have its
        own ``lr``, ``weight_decay`` and ``momentum``; see `decay_groups`.
    lr
        Learning rate, as for SGD.
    radius
        Distance of the perturbed points, ``ε √d`` for d trained numbers; or ``"auto"`` or an
        `AutoRadius`, to measure it before the first step, with 160 evaluations or, where bias hides
        in noise at first, up to six times as many.
    epsilon
        Standard deviation of a coordinate's perturbation, as MeZO counts; give it in place of
        `radius`.
    pairs
        Pairs per step (on each machine).
    directions
        ``"gaussian"``, or ``"sphere"``: the same directions, of length ``√d``.
    seed
        Of the directions, in ``[0, 2**64)``.
    weight_decay
        Added to the gradient times the parameter, as in `torch.optim.SGD`.
    momentum
        As in `torch.optim.SGD`; takes a float32 buffer of the parameters' size.
    precond
        ``"diag"`` learns the diagonal of the Hessian from the same evaluations and one more at the
        middle of each pair, and shortens steps along coordinates of high curvature. Takes a float32
        buffer. Where noise hides the diagonal, its weight goes to zero by itself.
    paired
        Evaluate both sides of a pair with the same state of all global random number generators.
        Choose ``False`` if each call of the closure is to draw a new batch.
    perturb
        ``"in-place"`` serves every module and copies the trained parameters during a step;
        ``"streamed"`` perturbs what operations read and copies one tensor at a time. See
        `modicum.zeroth.torch.perturbation`.
    process_group
        ``"world"`` or a group of `torch.distributed`: its processes, with the same parameters,
        share a step's directions, each evaluating `pairs` of its own, and exchange only
        (direction, slope, loss) of each pair.
    backend
        As in `modicum.zeroth.torch.kernels.add_noise`.

    Attributes
    ----------
    epsilon
        The one in use; ``None`` until it is measured.
    steps
        Steps so far.
    dropped
        Pairs so far that were left out because a loss was not finite.
    last
        Record of the last step.

    Raises
    ------
    ValueError
        If a number is out of its range or a word unknown.
    TypeError
        If a parameter is not of a floating dtype, or is sharded.

    Notes
    -----
    A step that is less than half a unit in the last place of a weight is lost, which in half
    precision most small steps are: train float32 weights, or float32 adapters of half-precision
    ones.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        radius: float | Literal["auto"] | AutoRadius | None = None,
        epsilon: float | None = None,
        pairs: int = 1,
        directions: Directions = "gaussian",
        seed: int = 0,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        precond: Preconditioner = "none",
        paired: bool = True,
        perturb: Perturb = "in-place",
        process_group: Group = None,
        backend: Backend = "auto",
    ) -> None:
        _choice("directions", directions, ("gaussian", "sphere"))
        _choice("precond", precond, ("none", "diag"))
        _choice("perturb", perturb, ("in-place", "streamed"))
        if not isinstance(pairs, int) or pairs < 1:
            raise ValueError(f"pairs must be an integer of at least 1, got {pairs!r}")
        if not isinstance(seed, int) or not 0 <= seed < WORD**2:
            raise ValueError(f"seed must be an integer in [0, 2**64), got {seed!r}")
        if radius is not None and epsilon is not None:
            raise ValueError(f"give radius or epsilon, not both (got {radius!r} and {epsilon!r})")
        if epsilon is not None:
            _positive("epsilon", epsilon)
        self.auto = _auto(radius) if epsilon is None else None
        self.pairs = pairs
        self.directions = directions
        self.seed = seed
        self.precond = precond
        self.paired = paired
        self.perturb = perturb
        self.process_group = process_group
        self.backend = backend
        self.epsilon = epsilon
        self.steps = 0
        self.dropped = 0
        self.last: StepRecord | None = None
        self._next_direction = 0
        self._measured_at: int | None = None
        self._curvature = RunningCurvature()
        self._agreed = False
        self._warned = False
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults)
        if radius is not None and self.auto is None:
            assert isinstance(radius, Real)
            if not self.dimension:
                raise ValueError(NOTHING_TRAINED)
            self.epsilon = float(radius) / math.sqrt(self.dimension)

    # Parameters ---------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see `torch.optim.Optimizer.add_param_group`."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name in ("lr", "weight_decay"):
            value = float(group[name])
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"momentum must be in [0, 1), got {group['momentum']}")
        for parameter in group["params"]:
            if hasattr(parameter, "to_local"):
                raise TypeError(
                    f"a parameter of shape {tuple(parameter.shape)} is sharded over processes; "
                    "zeroth-order steps keep whole parameters and share directions instead: see "
                    "process_group"
                )
            if parameter.dtype not in _DTYPES:
                raise TypeError(
                    f"a parameter of shape {tuple(parameter.shape)} is {parameter.dtype}; float16, "
                    "bfloat16, float32 and float64 can be perturbed"
                )

    @property
    def dimension(self) -> int:
        """How many numbers are trained."""
        return sum(slot.count for _, slot in self._trained())

    @property
    def radius(self) -> float | None:
        """Distance of the perturbed points, ``epsilon √d``."""
        return None if self.epsilon is None else self.epsilon * math.sqrt(self.dimension)

    @property
    def estimate_norm(self) -> float:
        """Length of the last step's estimate of the gradient; NaN before the first.

        Directions are taken as orthogonal and of length ``√d``, which they nearly are.
        """
        if self.last is None:
            return math.nan
        slopes = [slope for slope in self.last.scalars if slope is not None]
        total = sum(slope**2 for slope in slopes)
        return math.sqrt(self.dimension * total) / len(slopes) if slopes else math.nan

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give all parameters in the order of their noise, by name or else by number."""
        number = 0
        for group in self.param_groups:
            names = group.get("param_names")
            for place, parameter in enumerate(group["params"]):
                yield (names[place] if names else str(number)), parameter
                number += 1

    def _trained(self) -> list[tuple[torch.Tensor, Slot]]:
        """Return what requires gradients. A parameter's number does not depend on the others."""
        return [
            (parameter, Slot(number, 0, parameter.numel()))
            for number, (_, parameter) in enumerate(self.named())
            if parameter.requires_grad
        ]

    def _perturbation(self, perturb: Perturb) -> Perturbation:
        trained = self._trained()
        if not trained:
            raise ValueError(NOTHING_TRAINED)
        kind = InPlace if perturb == "in-place" else Streamed
        return kind(
            [parameter.detach() for parameter, _ in trained],
            [slot for _, slot in trained],
            self.seed,
            self.backend,
        )

    # A step -------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> torch.Tensor:  # type: ignore[override]
        """Evaluate pairs and move the parameters.

        Parameters
        ----------
        closure
            Returns the loss at the parameters as they then are: a tensor with one element or a
            number. It is called without gradients and must not change parameters. A loss of
            `batched_module_loss` bound to its batch is evaluated at all points in one call.

        Returns
        -------
        Tensor
            Mean of the losses at the perturbed points of all machines, float32, no dimensions.

        Raises
        ------
        TypeError
            If there is no closure or it returns no number.
        ValueError
            If a loss has more than one element, or machines disagree about the parameters.
        """
        if closure is None:
            raise TypeError(
                "a zeroth-order step evaluates the loss: call step(closure) with a function that "
                "returns it"
            )
        if self._next_direction >= WORD - RESERVED_DIRECTIONS:
            raise OverflowError("2**32 directions are used up: go on with another seed")
        self._agree()
        batched = isinstance(closure, BoundLoss)
        with self._perturbation("streamed" if batched else self.perturb) as perturbation:
            evaluator = BatchedEvaluator if batched else Evaluator
            evaluate = evaluator(closure, perturbation, self.paired)
            if self._radius_is_due():
                self._measure_radius(evaluate)
            record = self._measure(evaluate)
            if isinstance(perturbation, Streamed) and not batched and not self.steps:
                self._check_read(perturbation.read)
        self.apply(record)
        return torch.tensor(record.loss, dtype=torch.float32, device=evaluate.device)

    def _measure(self, evaluate: Evaluator) -> StepRecord:
        """Evaluate this machine's pairs and learn the others' slopes."""
        assert self.epsilon is not None
        group = resolve_group(self.process_group)
        first = self._next_direction
        mine = first + group.rank * self.pairs
        points = [
            (direction, self._length(direction)) for direction in range(mine, mine + self.pairs)
        ]
        centred = self.precond == "diag"
        losses_K3 = evaluate.pairs([(d, self.epsilon * length) for d, length in points], centred)
        rows = [
            [float(direction), *_slope(losses, self.epsilon, length)]
            for (direction, length), losses in zip(points, losses_K3, strict=True)
        ]
        rows = gather(rows, group, self._trained()[0][0].device)
        found = [int(row[0]) for row in rows]
        if found != list(range(first, first + len(rows))):
            raise RuntimeError(f"processes are out of step: step {self.steps} has pairs {found}")
        scalars = tuple(_finite(row[1]) for row in rows)
        losses = [row[2] for row, scalar in zip(rows, scalars, strict=True) if scalar is not None]
        record = StepRecord(
            step=self.steps,
            first=first,
            scalars=scalars,
            lr=tuple(_float32(float(group["lr"])) for group in self.param_groups),
            epsilon=self.epsilon,
            loss=sum(losses) / len(losses) if losses else math.nan,
        )
        if not centred:
            return record
        excesses, diagonal = self._curvature.excess(
            [row[3] for row in rows], self.dimension, self._diagonal_spread()
        )
        return replace(record, curvatures=excesses, diagonal=diagonal)

    def _length(self, direction: int) -> float:
        """Return what a direction's normals are multiplied by."""
        if self.directions == "gaussian":
            return 1.0
        trained = self._trained()
        device = trained[0][0].device
        norm = squared_norm(self.seed, direction, [slot for _, slot in trained], device)
        return math.sqrt(self.dimension / norm)

    @torch.no_grad()
    def apply(self, record: StepRecord) -> None:
        """Make the step that a record describes, as `step` does after its evaluations.

        Parameters
        ----------
        record
            Of step number `steps`.

        Raises
        ------
        ValueError
            If it is the record of another step.
        """
        if record.step != self.steps or record.first != self._next_direction:
            raise ValueError(
                f"this is step {self.steps}, from direction {self._next_direction} on, but the "
                f"record is of step {record.step}, from direction {record.first} on"
            )
        kept = [k for k, scalar in enumerate(record.scalars) if scalar is not None]
        self.dropped += len(record.scalars) - len(kept)
        numbers = [record.first + k for k in kept]
        slopes = [record.scalars[k] / len(kept) for k in kept]  # type: ignore[operator]
        if kept:
            self._move(record, numbers, slopes)
        elif not self._warned:
            self._warned = True
            warnings.warn(
                f"no pair of step {self.steps} had finite losses: the parameters stay as they are "
                "in such a step, which is not said again",
                ZerothWarning,
                stacklevel=3,
            )
        if record.curvatures and kept:
            self._learn_curvature(numbers, [record.curvatures[k] for k in kept])
        self.epsilon = record.epsilon
        self.last = record
        self.steps += 1
        self._next_direction += len(record.scalars)

    def _move(self, record: StepRecord, numbers: list[int], slopes: list[float]) -> None:
        slots = {id(parameter): slot for parameter, slot in self._trained()}
        plain: dict[tuple[float, float], list[torch.Tensor]] = {}
        for group, lr in zip(self.param_groups, record.lr, strict=True):
            members = [p for p in group["params"] if id(p) in slots]
            decay, momentum = group["weight_decay"], group["momentum"]
            if not momentum:
                plain.setdefault((lr, decay), []).extend(members)
                continue
            buffers = [self._buffer(p, "momentum_buffer") for p in members]
            self._add(buffers, members, slots, record, numbers, slopes, momentum)
            for parameter, buffer in zip(members, buffers, strict=True):
                if decay:
                    _add_scaled(buffer, parameter, decay)
                if lr:
                    _add_scaled(parameter, buffer, -lr)
        for (lr, decay), members in plain.items():
            if lr:
                scales = [-lr * slope for slope in slopes]
                self._add(members, members, slots, record, numbers, scales, 1.0 - lr * decay)

    def _add(
        self,
        targets: Sequence[torch.Tensor],
        members: Sequence[torch.Tensor],
        slots: dict[int, Slot],
        record: StepRecord,
        numbers: list[int],
        scales: list[float],
        decay: float,
    ) -> None:
        """Write ``decay * target + scales * directions`` to targets, with the members' noise."""
        contiguous_noise(
            targets,
            targets,
            [slots[id(p)] for p in members],
            seed=self.seed,
            directions=numbers,
            scales=scales,
            decay=decay,
            shapes=self._shapes(members, record.diagonal),
            backend=self.backend,
        )

    def _buffer(self, parameter: torch.Tensor, name: str) -> torch.Tensor:
        """Return a buffer of a parameter, float32 or wider, zero at first."""
        state = self.state[parameter]
        if name not in state:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            state[name] = torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
        return state[name]

    # The diagonal of the Hessian ----------------------------------------------------------------

    def _shapes(
        self, members: Sequence[torch.Tensor], diagonal: tuple[float, float] | None
    ) -> list[torch.Tensor] | None:
        """Return what steps are multiplied by: the mean curvature over each larger one."""
        mean, weight = diagonal or (0.0, 0.0)
        if mean <= 0 or not weight:
            return None
        shapes = []
        for parameter in members:
            measured = self._buffer(parameter, "curvature") / self._curvature.share
            shrunk = measured.float().mul_(weight).add_(mean * (1 - weight))
            shapes.append(mean / shrunk.clamp_(min=mean))
        return shapes

    def _learn_curvature(self, numbers: list[int], excesses: list[float]) -> None:
        trained = self._trained()
        buffers = [self._buffer(parameter, "curvature") for parameter, _ in trained]
        contiguous_noise(
            buffers,
            buffers,
            [slot for _, slot in trained],
            seed=self.seed,
            directions=numbers,
            scales=[CURVATURE_RATE * excess / len(numbers) for excess in excesses],
            decay=1.0 - CURVATURE_RATE,
            squares=True,
            backend=self.backend,
        )
        self._curvature.learned(excesses)

    def _diagonal_spread(self) -> float:
        """Return the variance of the diagonal's buffers over all coordinates."""
        total = square = 0.0
        for parameter, _ in self._trained():
            measured = self._buffer(parameter, "curvature")
            total += float(measured.sum(dtype=torch.float64))
            norm = float(torch.linalg.vector_norm(measured, dtype=torch.float64))
            square += norm * norm
        mean = total / self.dimension
        return max(0.0, square / self.dimension - mean * mean)

    # The radius ---------------------------------------------------------------------------------

    def _radius_is_due(self) -> bool:
        if self.auto is None:
            return False
        if self._measured_at is None:
            return True
        return self.auto.every is not None and self.steps - self._measured_at >= self.auto.every

    def _measure_radius(self, evaluate: Evaluator) -> None:
        """Measure at growing distances until a third derivative is seen above the noise."""
        assert self.auto is not None
        settings = self.auto
        epsilon = self.epsilon or settings.start
        noise_squared = math.inf
        chosen: float | None = None
        for _ in range(settings.rounds):
            sums = self._ladder(evaluate, epsilon)
            if not sums.finite:
                if chosen is not None:
                    break
                epsilon /= GROWTH
                continue
            noise_squared = min(noise_squared, sums.noise_squared)
            sums = replace(sums, noise_squared=noise_squared)
            chosen = balanced_epsilon(sums, settings, self.dimension, evaluate.resolution)
            chosen = min(chosen, epsilon * LADDER[-1])
            if sums.seen:
                break
            epsilon *= GROWTH
        if chosen is None and self.epsilon is None:
            raise ValueError(
                f"losses are not finite even at epsilon={epsilon * GROWTH:g}, so no radius can be "
                "measured"
            )
        self.epsilon = chosen or self.epsilon
        self._measured_at = self.steps

    def _ladder(self, evaluate: Evaluator, epsilon: float) -> LadderSums:
        assert self.auto is not None
        group = resolve_group(self.process_group)
        # Directions of measurements are counted from the other end, so that steps keep theirs.
        first = WORD - 1 - group.rank * self.auto.directions
        directions = [first - k for k in range(self.auto.directions)]
        plus_DSR, minus_DSR = evaluate.ladder([(d, epsilon * self._length(d)) for d in directions])
        sums = ladder_sums(plus_DSR, minus_DSR, epsilon)
        fields = list(vars(sums))
        rows = gather([[getattr(sums, name) for name in fields]], group, evaluate.device)
        means = np.mean(rows, axis=0).tolist()
        return LadderSums(**dict(zip(fields, means, strict=True)))

    # Machines and modules that do not fit -------------------------------------------------------

    def _agree(self) -> None:
        """Check once that all processes begin with the same parameters."""
        group = resolve_group(self.process_group)
        if self._agreed or group.size == 1:
            return
        trained = self._trained()
        sums = [[float(parameter.sum(dtype=torch.float64)) for parameter, _ in trained]]
        rows = gather(sums, group, trained[0][0].device)
        names = [name for name, parameter in self.named() if parameter.requires_grad]
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            if any(value != values[0] for value in values):
                raise ValueError(
                    f"processes begin with different parameters: {name!r} has the sums "
                    f"{', '.join(map(repr, values))}; load or broadcast them first"
                )
        self._agreed = True

    def _check_read(self, read: set[int]) -> None:
        """Say what the first step's operations did not read."""
        names = [name for name, parameter in self.named() if parameter.requires_grad]
        unread = [name for index, name in enumerate(names) if index not in read]
        if len(unread) == len(names):
            raise RuntimeError(
                "no operation read a trained parameter, so none was perturbed: the loss does not "
                'depend on them, or is computed by a compiled graph; use perturb="in-place"'
            )
        if unread:
            warnings.warn(
                f"no operation read {', '.join(map(repr, unread))}: unused here, or read by a "
                'kernel that torch does not dispatch; use perturb="in-place" if so',
                ZerothWarning,
                stacklevel=3,
            )

    # State --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run; `load_state_dict` goes on from it bit for bit."""
        state = super().state_dict()
        state[STATE_KEY] = {
            "seed": self.seed,
            "precond": self.precond,
            "steps": self.steps,
            "dropped": self.dropped,
            "next_direction": self._next_direction,
            "epsilon": self.epsilon,
            "measured_at": self._measured_at,
            "curvature": vars(self._curvature).copy(),
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; seed and radius become those of the state.

        Parameters
        ----------
        state_dict
            From `state_dict` of an optimizer with groups of the same sizes.

        Raises
        ------
        ValueError
            If the state is of another optimizer, other groups or another preconditioner.
        """
        run = state_dict.get(STATE_KEY)
        if run is None:
            raise ValueError(
                f"this state has no entry {STATE_KEY!r}: it was not made by a ZOOptimizer"
            )
        if run["precond"] != self.precond:
            raise ValueError(
                f"this state has precond={run['precond']!r}, the optimizer {self.precond!r}"
            )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != STATE_KEY})
        # The base class gives buffers the parameter's dtype, which half precision loses bits by.
        numbered = dict(enumerate(parameter for _, parameter in self.named()))
        for number, saved in state_dict["state"].items():
            parameter = numbered[number]
            for name, buffer in saved.items():
                self.state[parameter][name] = buffer.detach().clone().to(parameter.device)
        self.seed = run["seed"]
        self.steps = run["steps"]
        self.dropped = run["dropped"]
        self.epsilon = run["epsilon"]
        self._next_direction = run["next_direction"]
        self._measured_at = run["measured_at"]
        self._curvature = RunningCurvature(**run["curvature"])
        self.last = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle keeps: no hooks, and no group of this process."""
        kept = {name: getattr(self, name) for name in _KEPT}
        group = self.process_group if self.process_group == "world" else None
        return super().__getstate__() | kept | {"process_group": group}


_KEPT = (
    "auto", "pairs", "directions", "seed", "precond", "paired", "perturb", "backend", "epsilon",
    "steps", "dropped", "last", "_next_direction", "_measured_at", "_curvature", "_agreed",
    "_warned",
)  # fmt: skip


def decay_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Sort a module's parameters into groups with and without weight decay.

    Biases and the parameters of normalisation layers are not decayed, whatever their names.

    Parameters
    ----------
    module
        Only its parameters that require gradients are in the groups.
    weight_decay
        Of the first group.

    Returns
    -------
    list of dict
        One or two groups of named parameters, for `ZOOptimizer` and every other optimizer.
    """
    exempt = set()
    for prefix, part in module.named_modules():
        normalises = "norm" in type(part).__name__.lower()
        for name, _ in part.named_parameters(recurse=False):
            if normalises or name.split(".")[-1] == "bias":
                exempt.add(f"{prefix}.{name}" if prefix else name)
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [pair for pair in trained if pair[0] not in exempt],
            "weight_decay": weight_decay,
        },
        {"params": [pair for pair in trained if pair[0] in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _slope(losses: Sequence[float], epsilon: float, length: float) -> list[float]:
    """Return (slope, mean loss) of a pair's losses, and its curvature if there is a middle."""
    plus, minus, *middle = losses
    slope = _float32((plus - minus) / (2 * epsilon) * length)
    mean = (plus + minus) / 2
    return [slope, mean, *((mean - value) / (epsilon * length) ** 2 for value in middle)]


def _add_scaled(target: torch.Tensor, source: torch.Tensor, scale: float) -> None:
    """Add ``scale * source`` in the wider of both dtypes, rounding once, a part at a time."""
    if not (target.is_contiguous() and source.is_contiguous()):
        target.copy_(source * scale + target)
        return
    precise = torch.promote_types(target.dtype, source.dtype)
    flat_target, flat_source = target.view(-1), source.view(-1)
    size = CPU_CHUNK if target.device.type == "cpu" else DEVICE_CHUNK
    for at in range(0, len(flat_target), size):
        here = slice(at, at + size)
        # Two operations: adding with a factor might round once on one device and twice on another.
        part = flat_source[here].to(precise) * scale
        flat_target[here].copy_(part.add_(flat_target[here]))


def _float32(value: float) -> float:
    return ctypes.c_float(value).value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def _auto(radius: Any) -> AutoRadius | None:
    if radius is None or radius == "auto":
        return AutoRadius()
    if isinstance(radius, AutoRadius):
        return radius
    if isinstance(radius, str):
        raise ValueError(f'radius must be a number, "auto" or an AutoRadius, got {radius!r}')
    _positive("radius", radius)
    return None
