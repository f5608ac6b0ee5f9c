"""Many small networks trained at once: ReLU perceptrons stacked into batched matrix products.

A network of width 8 leaves a processor idle; a hundred of them in one `torch.baddbmm` do not. The
networks of an ensemble have one depth and differ in what they learn, width and seed. Narrower ones
and shorter targets are padded with zeros, which no gradient ever reaches, so that each network
learns exactly what it would learn alone. Gradients and Adam's update are written out over one flat
tensor of parameters. Knows nothing of decision processes.

Legend: ``N`` networks, ``S`` seeds, ``K`` problems, ``R`` rows, ``B`` rows of a batch, ``I``
inputs, ``W`` width, ``O`` outputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modicum.core.device import numpy_generator, resolve_device, torch_generator

try:
    import torch
except ModuleNotFoundError as missing:
    raise ImportError(
        'networks need torch: pip install "modicum-repcomplexity[torch]"'
    ) from missing

__all__ = ["MLPEnsemble", "NetworkSpec", "Problem", "batches", "parameter_count"]

BETAS = (0.9, 0.999)
"""Decay rates of Adam's two means (arXiv 1412.6980)."""
EPSILON = 1e-8
"""Adam's constant beside the root of the second mean."""
_PREDICT_NUMBERS = 1 << 24
"""Numbers of a layer's output that prediction holds at once."""
_WARM_UP = 3
"""Steps on a GPU before one is recorded."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Inputs ``(R, I)`` and targets ``(R, O)`` of a regression; all of an ensemble have R rows."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class NetworkSpec:
    """One network of an ensemble.

    Attributes
    ----------
    problem
        Index of what it learns.
    width
        Units of each hidden layer.
    seed
        Where its initial weights and the order of its batches come from: networks of one seed see
        the same batches, and those of one width and the same number of inputs start with the same
        hidden layers.
    """

    problem: int
    width: int
    seed: int


def parameter_count(n_inputs: int, n_outputs: int, width: int, depth: int) -> int:
    """Return how many weights and biases a network has, its output layer included."""
    sizes = [n_inputs, *[width] * depth, n_outputs]
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))


def batches(
    rows: int, batch_size: int, steps: int, seed: int, *, drop_last: bool = True
) -> Iterator[np.ndarray]:
    """Yield the rows of each step: a new random order of all rows in every pass over them.

    Parameters
    ----------
    rows
        R.
    batch_size
        B; at most all rows are taken.
    steps
        How many batches.
    seed
        Where the orders come from.
    drop_last
        Whether the rows that are left when B does not divide R are passed over.
    """
    rng = numpy_generator(seed, "batches")
    size = min(batch_size, rows)
    last = rows - rows % size if drop_last else rows
    done = 0
    while done < steps:
        order_R = rng.permutation(rows)
        for first in range(0, last, size)[: steps - done]:
            yield order_R[first : first + size]
            done += 1


class MLPEnsemble:
    """ReLU perceptrons of one depth, trained together on mean squared error by Adam.

    Parameters
    ----------
    problems
        What is learnt.
    specs
        The networks.
    depth
        Hidden layers of each, at least 1.
    lr
        Adam's step size.
    device
        As for `modicum.core.device.resolve_device`.

    Raises
    ------
    ValueError
        If there is nothing to learn, numbers of rows differ or an option is out of range.

    Notes
    -----
    Weights and biases start uniform in ±1/√fan_in, as in ``torch.nn.Linear``. They are drawn on the
    CPU, so that one seed gives one start on every device.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        specs: Sequence[NetworkSpec],
        *,
        depth: int = 2,
        lr: float = 1e-3,
        device: str | torch.device = "auto",
    ):
        _check(problems, specs, depth, lr)
        self.specs, self.depth, self.lr = tuple(specs), depth, lr
        self.device = torch.device(resolve_device(device))
        self.rows = len(problems[0].inputs)
        self._inputs_of = [problem.inputs.shape[1] for problem in problems]
        self._outputs_of = [problem.targets.shape[1] for problem in problems]
        self._load(problems)
        self._allocate()
        self._initialise()
        self._seeds = sorted({spec.seed for spec in specs})
        seed_N = [self._seeds.index(spec.seed) for spec in specs]
        self._seed_N = torch.tensor(seed_N, device=self.device)
        outputs_N = [self._outputs_of[spec.problem] for spec in specs]
        self._outputs_N11 = torch.tensor(outputs_N, device=self.device).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.specs)

    # Layout -------------------------------------------------------------------------------------

    def _load(self, problems: Sequence[Problem]) -> None:
        """Put inputs and targets on the device, one copy of each that problems share."""
        kinds: dict[int, int] = {}
        for problem in problems:
            kinds.setdefault(id(problem.inputs), len(kinds))
        distinct = {kinds[id(problem.inputs)]: problem.inputs for problem in problems}
        self._inputs_KRI = self._padded([distinct[kind] for kind in range(len(kinds))])
        self._targets_KRO = self._padded([problem.targets for problem in problems])
        input_N = [kinds[id(problems[spec.problem].inputs)] for spec in self.specs]
        self._input_N1 = torch.tensor(input_N, device=self.device)[:, None]
        problem_N = [spec.problem for spec in self.specs]
        self._problem_N1 = torch.tensor(problem_N, device=self.device)[:, None]

    def _padded(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        widest = max(array.shape[1] for array in arrays)
        shape = (len(arrays), self.rows, widest)
        stacked = torch.zeros(shape, dtype=torch.float32, device=self.device)
        for row, array in enumerate(arrays):
            values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
            stacked[row, :, : array.shape[1]] = values.to(self.device)
        return stacked

    def _allocate(self) -> None:
        """Lay parameters, gradients and Adam's means out in flat tensors with views by layer."""
        width = max(spec.width for spec in self.specs)
        sizes = [max(self._inputs_of), *[width] * self.depth, max(self._outputs_of)]
        shapes = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            shapes += [(len(self), fan_in, fan_out), (len(self), 1, fan_out)]
        count = sum(math.prod(shape) for shape in shapes)
        self._flat, self._gradient, self._mean, self._square = (
            torch.zeros(count, device=self.device) for _ in range(4)
        )
        self._parameters = _views(self._flat, shapes)
        self._gradients = _views(self._gradient, shapes)
        # Powers of the betas in float32 would be off by 6e-5 at the first steps.
        self._time = torch.zeros((), dtype=torch.float64, device=self.device)

    def _initialise(self) -> None:
        for index, spec in enumerate(self.specs):
            for layer, (weight_IO, bias_O) in enumerate(self._initial(spec)):
                fan_in, fan_out = weight_IO.shape
                self._parameters[2 * layer][index, :fan_in, :fan_out] = weight_IO.to(self.device)
                self._parameters[2 * layer + 1][index, 0, :fan_out] = bias_O.to(self.device)

    def _initial(self, spec: NetworkSpec) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        sizes = self._sizes(spec)
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            generator = torch_generator(spec.seed, "cpu", "weights", layer, fan_in, fan_out)
            bound = 1 / math.sqrt(fan_in)
            uniform = torch.rand((fan_in + 1, fan_out), generator=generator) * 2 * bound - bound
            yield uniform[:-1], uniform[-1]

    def _sizes(self, spec: NetworkSpec) -> list[int]:
        inputs, outputs = self._inputs_of[spec.problem], self._outputs_of[spec.problem]
        return [inputs, *[spec.width] * self.depth, outputs]

    # Training -----------------------------------------------------------------------------------

    def fit(
        self,
        steps: int,
        batch_size: int = 256,
        *,
        drop_last: bool = True,
        on_step: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Train all networks for a number of steps; a second call goes on, from fresh batches.

        Parameters
        ----------
        steps
            Updates of each network.
        batch_size, drop_last
            As in `batches`.
        on_step
            Told the number of steps made since it was last told, about a hundred times.

        Returns
        -------
        Tensor
            Mean squared error of each batch before its update, ``(steps, N)``, on the device.

        Raises
        ------
        ValueError
            If `steps` or `batch_size` is less than 1.
        """
        if steps < 1 or batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, not {steps}, {batch_size}")
        errors = torch.empty((steps, len(self)), device=self.device)
        streams = [
            batches(self.rows, batch_size, steps, seed, drop_last=drop_last) for seed in self._seeds
        ]
        take = _RecordedStep(self.step) if self.device.type == "cuda" else self.step
        report = max(1, steps // 100)
        for number, parts in enumerate(zip(*streams, strict=True), start=1):
            errors[number - 1] = take(torch.from_numpy(np.stack(parts)).to(self.device))
            if on_step is not None and (number % report == 0 or number == steps):
                on_step(number % report or report)
        return errors

    def retarget(self, problem: int, targets: np.ndarray) -> None:
        """Give a problem other targets ``(R, O)``; networks and Adam's means stay as they are.

        Raises
        ------
        ValueError
            If there is no such problem or the targets have another shape than before.
        """
        if not 0 <= problem < len(self._outputs_of):
            raise ValueError(f"problem must be in [0, {len(self._outputs_of)}), not {problem}")
        shape = (self.rows, self._outputs_of[problem])
        if targets.shape != shape:
            raise ValueError(f"targets must have the shape {shape}, not {targets.shape}")
        values = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32))
        self._targets_KRO[problem, :, : shape[1]] = values.to(self.device)

    def step(self, rows_SB: torch.Tensor) -> torch.Tensor:
        """Make one update.

        Parameters
        ----------
        rows_SB
            The batch of each seed, in increasing order of seeds, int64 ``(S, B)``.

        Returns
        -------
        Tensor
            Mean squared error of the batch before the update, ``(N,)``.
        """
        rows_NB = rows_SB[self._seed_N]
        layers = self._forward(self._inputs_KRI[self._input_N1, rows_NB])
        error_NBO = layers[-1] - self._targets_KRO[self._problem_N1, rows_NB]
        scale_N11 = 1 / (self._outputs_N11 * rows_NB.shape[1])
        losses_N = ((error_NBO**2) * scale_N11).sum((1, 2))
        self._backward(layers, error_NBO * (2 * scale_N11))
        self._adam()
        return losses_N

    def _forward(self, inputs_NBI: torch.Tensor) -> list[torch.Tensor]:
        layers = [inputs_NBI]
        for layer in range(self.depth + 1):
            weight, bias = self._parameters[2 * layer : 2 * layer + 2]
            layers.append(torch.baddbmm(bias, layers[-1], weight))
            if layer < self.depth:
                layers[-1].relu_()
        return layers

    def _backward(self, layers: list[torch.Tensor], delta: torch.Tensor) -> None:
        for layer in reversed(range(self.depth + 1)):
            torch.bmm(layers[layer].transpose(1, 2), delta, out=self._gradients[2 * layer])
            torch.sum(delta, 1, keepdim=True, out=self._gradients[2 * layer + 1])
            if layer:
                delta = torch.bmm(delta, self._parameters[2 * layer].transpose(1, 2))
                delta *= layers[layer] > 0

    def _adam(self) -> None:
        first, second = BETAS
        self._time += 1
        self._mean.lerp_(self._gradient, 1 - first)
        self._square.mul_(second).addcmul_(self._gradient, self._gradient, value=1 - second)
        root = self._square.sqrt().div_((1 - second**self._time).sqrt()).add_(EPSILON)
        self._flat.sub_(self._mean / root * (self.lr / (1 - first**self._time)))

    # Results ------------------------------------------------------------------------------------

    def predict(self, index: int, inputs: np.ndarray | None = None) -> np.ndarray:
        """Return what one network predicts, float32 ``(R, O)`` with O its own outputs.

        Parameters
        ----------
        index
            Which network.
        inputs
            Rows ``(R, I)`` with as many inputs as its problem has; those of its problem by default.
        """
        if inputs is None:
            kind, n_inputs = int(self._input_N1[index, 0]), self._sizes(self.specs[index])[0]
            rows_RI = self._inputs_KRI[kind, :, :n_inputs]
        else:
            rows_RI = torch.from_numpy(np.ascontiguousarray(inputs, np.float32)).to(self.device)
        chunk = max(1, _PREDICT_NUMBERS // max(self._sizes(self.specs[index])))
        network = self.network(index)
        with torch.no_grad():
            parts = [network(part).cpu().numpy() for part in rows_RI.split(chunk)]
        return np.concatenate(parts)

    def network(self, index: int) -> torch.nn.Sequential:
        """Return a copy of one network as modules of its own, on the ensemble's device."""
        modules: list[torch.nn.Module] = []
        sizes = self._sizes(self.specs[index])
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            linear = torch.nn.Linear(fan_in, fan_out, device=self.device)
            with torch.no_grad():
                linear.weight.copy_(self._parameters[2 * layer][index, :fan_in, :fan_out].T)
                linear.bias.copy_(self._parameters[2 * layer + 1][index, 0, :fan_out])
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])

    def parameter_count(self, index: int) -> int:
        """Return how many weights and biases a network has, padding left out."""
        sizes = self._sizes(self.specs[index])
        return parameter_count(sizes[0], sizes[-1], self.specs[index].width, self.depth)


class _RecordedStep:
    """An update on a GPU, recorded once and replayed: one launch in place of dozens.

    Batches of another size than the recorded one are run as they come.
    """

    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor]):
        self._step = step
        self._left = _WARM_UP
        self._rows_SB: torch.Tensor | None = None

    def __call__(self, rows_SB: torch.Tensor) -> torch.Tensor:
        self._left -= 1
        if self._left >= 0:
            return self._step(rows_SB)
        if self._rows_SB is None:
            self._record(rows_SB)
        assert self._rows_SB is not None
        if rows_SB.shape != self._rows_SB.shape:
            return self._step(rows_SB)
        self._rows_SB.copy_(rows_SB)
        self._graph.replay()
        return self._losses_N

    def _record(self, rows_SB: torch.Tensor) -> None:
        self._rows_SB = rows_SB.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses_N = self._step(self._rows_SB)


def _views(flat: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _check(
    problems: Sequence[Problem], specs: Sequence[NetworkSpec], depth: int, lr: float
) -> None:
    if not problems or not specs:
        raise ValueError("an ensemble needs a problem and a network")
    rows = {len(values) for problem in problems for values in (problem.inputs, problem.targets)}
    if len(rows) > 1 or 0 in rows:
        raise ValueError(f"all problems must have the same rows, at least one, not {sorted(rows)}")
    if any(not 0 <= spec.problem < len(problems) for spec in specs):
        raise ValueError(f"a network's problem must be in [0, {len(problems)})")
    if depth < 1 or any(spec.width < 1 for spec in specs):
        raise ValueError("depth and widths must be at least 1")
    if not lr > 0:
        raise ValueError(f"lr must be positive, not {lr}")
