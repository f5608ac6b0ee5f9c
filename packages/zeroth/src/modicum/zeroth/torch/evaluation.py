"""Losses of a closure at points beside the parameters.

Takes a closure and a perturbation; gives numbers: the losses of pairs, and of pairs at several
distances. Knows how the points of a pair share their randomness and what a closure may return, not
what the numbers are for.

Legend: ``D`` directions, ``S`` states of the randomness, ``R`` distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from modicum.zeroth.torch.batched import BoundLoss
from modicum.zeroth.torch.perturbation import Perturbation, contiguous_noise
from modicum.zeroth.torch.radius import LADDER, STATES
from modicum.zeroth.torch.randomness import RandomState

Point = tuple[int, float]
"""A direction's number and what its normals are multiplied by."""


class Evaluator:
    """Calls a closure at perturbed parameters, one point after the other."""

    def __init__(
        self, closure: Callable[[], Any], perturbation: Perturbation, paired: bool
    ) -> None:
        self.closure = closure
        self.perturbation = perturbation
        self.paired = paired
        self.device = perturbation.parameters[0].device
        self.resolution = float(np.finfo(np.float64).eps)

    def pairs(self, points: Sequence[Point], centred: bool = False) -> list[list[float]]:
        """Return losses (plus, minus) or (plus, minus, middle) of each pair.

        The generators end where one evaluation of each pair leaves them.
        """
        signs = (1.0, -1.0, 0.0) if centred else (1.0, -1.0)
        losses = []
        for direction, scale in points:
            around = [(direction, sign * scale) for sign in signs]
            losses += self.losses(around, self._state())
        flat = torch.stack(losses).tolist()
        return [flat[at : at + len(signs)] for at in range(0, len(flat), len(signs))]

    def ladder(self, points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
        """Return losses at all distances of a ladder for two states: two float64 (D, S, R)."""
        rungs = [
            (direction, sign * factor * scale)
            for direction, scale in points
            for factor in LADDER
            for sign in (1.0, -1.0)
        ]
        before = self._state()
        losses = []
        for _ in range(STATES):
            # Each evaluation leaves the generators in the next state.
            losses += self.losses(rungs, self._state())
        if before is not None:
            before.restore()
        values = torch.stack(losses).cpu().numpy()
        values_SDR2 = values.reshape(STATES, len(points), len(LADDER), 2)
        return values_SDR2[..., 0].swapaxes(0, 1), values_SDR2[..., 1].swapaxes(0, 1)

    def losses(self, points: Sequence[Point], state: RandomState | None) -> list[torch.Tensor]:
        """Return the losses at points, each from the same state of the generators if given."""
        losses = []
        for direction, scale in points:
            if state is not None:
                state.restore()
            # Weights that autocast keeps in half precision would be those of the point before.
            torch.clear_autocast_cache()
            if scale:
                with self.perturbation.at(direction, scale):
                    losses.append(self._value(self.closure()))
            else:
                with self.perturbation.at_origin():
                    losses.append(self._value(self.closure()))
        return losses

    def _state(self) -> RandomState | None:
        return RandomState.now() if self.paired else None

    def _value(self, value: Any) -> torch.Tensor:
        """Return a loss as float64 without dimensions, without waiting for the device."""
        if not isinstance(value, torch.Tensor):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise TypeError(f"the closure must return a tensor or a number, got {value!r}")
            return torch.tensor(float(value), dtype=torch.float64, device=self.device)
        if value.numel() != 1:
            raise ValueError(
                f"the closure must return a loss with one element, got {tuple(value.shape)}"
            )
        if value.is_complex():
            raise TypeError(f"the closure must return a real loss, got {value.dtype}")
        if value.is_floating_point():
            self.resolution = torch.finfo(value.dtype).eps
        return value.detach().reshape(()).to(self.device, torch.float64)


class BatchedEvaluator(Evaluator):
    """Evaluates all points in one call, with a copy of the parameters for each."""

    closure: BoundLoss

    def pairs(self, points: Sequence[Point], centred: bool = False) -> list[list[float]]:
        """Return losses (plus, minus) or (plus, minus, middle) of each pair."""
        signs = (1.0, -1.0, 0.0) if centred else (1.0, -1.0)
        around = [(direction, sign * scale) for direction, scale in points for sign in signs]
        flat = torch.stack(self.losses(around, None)).tolist()
        return [flat[at : at + len(signs)] for at in range(0, len(flat), len(signs))]

    def losses(self, points: Sequence[Point], state: RandomState | None) -> list[torch.Tensor]:
        """Return the losses at points."""
        if state is not None:
            state.restore()
        parameters = self.perturbation.parameters
        copies = [p.new_empty((len(points), *p.shape)) for p in parameters]
        for row, (direction, scale) in enumerate(points):
            contiguous_noise(
                [copy[row] for copy in copies],
                parameters,
                self.perturbation.slots,
                seed=self.perturbation.seed,
                directions=[direction],
                scales=[scale],
                backend=self.perturbation.backend,
            )
        named = dict(zip(self.closure.names(parameters), copies, strict=True))
        return [self._value(loss) for loss in self.closure.stacked(named)]
