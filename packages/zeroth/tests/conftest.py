"""A small method that tests of asking, telling and evaluating drive."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from array_api_compat import array_namespace

from modicum.zeroth.batch import Batch
from modicum.zeroth.optimizer import Optimizer, Recommendation, Round


@dataclass
class FixedRadiusState:
    z: np.ndarray
    spent: int = 0
    batches: int = 0
    mean: float = np.nan
    seen: list[int] = field(default_factory=list)


class FixedRadiusMethod(Optimizer):
    """Rounds of two centre evaluations and pairs at one radius; a gradient step of fixed size.

    Everything it is told goes into its state, and `updates` keeps what `_update` was given.
    """

    name = "fixed-radius"

    def __init__(self, x0, budget, *, radius=0.5, pairs=24, step=0.2, **settings):
        self.radius, self.pairs, self.step = radius, pairs, step
        self.updates = []
        super().__init__(x0, budget, **settings)

    def minimum_budget(self):
        return 4

    def _initial_state(self):
        return FixedRadiusState(self.space.to_internal(self.space.start))

    def _propose(self):
        state = self.state
        pairs = min(self.pairs, (self.budget - state.spent - 2) // 2)
        if pairs < 1:
            return None
        u_ND = self._directions(pairs, state.batches)
        xp = array_namespace(u_ND)
        center = state.z if isinstance(u_ND, np.ndarray) else u_ND.new_tensor(state.z)
        steps = self.radius * u_ND
        parts = [xp.stack([center, center]), center + steps, center - steps]
        points = self.space.to_user(xp.concat(parts, axis=0))
        unit = np.concatenate([[0, 1], np.tile(np.arange(2, pairs + 2), 2)])
        return Batch(points, unit, u_ND)

    def _update(self, batch, y, sigma):
        assert type(y) is type(batch.points)
        y = np.asarray(y)
        self.updates.append((y.copy(), None if sigma is None else sigma.copy()))
        pairs = (len(batch) - 2) // 2
        difference = y[2 : pairs + 2] - y[pairs + 2 :]
        ok = np.isfinite(difference)
        odd = difference[ok] @ np.asarray(batch.data)[ok]
        gradient = self.dimension / (2 * self.radius) * odd / max(1, ok.sum())
        state = self.state
        self.state = FixedRadiusState(
            state.z - self.step * gradient,
            state.spent + len(batch),
            state.batches + 1,
            float(np.nanmean(y)) if np.isfinite(y).any() else state.mean,
            [*state.seen, int(ok.sum())],
        )
        x = self.space.to_user(self.state.z)
        self.trace.append(Round(self.nfev, x, self.state.mean, self.radius))

    def _recommend(self):
        identity = np.eye(self.dimension)
        return Recommendation(
            self.state.z, self.state.mean, 0.5, np.ones(self.dimension), 2.0, identity
        )


@pytest.fixture(scope="session")
def FixedRadius():
    return FixedRadiusMethod
