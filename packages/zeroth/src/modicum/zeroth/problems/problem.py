"""What every test problem knows of itself: values, derivatives, optimum, and the constants.

`Problem` is the base; `Separable` is a sum of functions of one variable each, seen through a shift
and a rotation, which is all that most of the problems are. Values are exact; `Problem.noisy` puts
noise on them. Knows no method and no budget.

Points are NumPy arrays or torch tensors ``(…, d)``; the same numbers come out of both, in the
library, dtype and device of the points.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array

Array = Any
"""A NumPy array or a torch tensor."""


def like(values: np.ndarray, points: Array) -> Array:
    """Give constants in the array library, dtype and device of points."""
    if isinstance(points, np.ndarray):
        return np.asarray(values, dtype=points.dtype)
    xp = array_namespace(points)
    return xp.asarray(values, dtype=points.dtype, device=device(points))


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem(ABC):
    """A function of ``d`` variables with everything known about it.

    Parameters
    ----------
    name
        What a table calls it.
    optimum
        The minimiser, float64 ``(d,)``.
    minimum
        Value there.
    strong_convexity
        A lower bound of all eigenvalues of all Hessians; what it is where a problem has none, the
        problem says.
    hessian_lipschitz
        Lipschitz constant of the Hessian, in the Frobenius norm.
    start
        Where a method should start, float64 ``(d,)``.
    """

    name: str
    optimum: np.ndarray
    minimum: float
    strong_convexity: float
    hessian_lipschitz: float
    start: np.ndarray

    @property
    def dimension(self) -> int:
        """Number of variables."""
        return len(self.optimum)

    def fun(self, x: Array) -> Array:
        """Give exact values ``(…)`` of points ``(…, d)``."""
        return self._fun(self._points(x))

    def gradient(self, x: Array) -> Array:
        """Give exact gradients ``(…, d)`` at points ``(…, d)``."""
        return self._gradient(self._points(x))

    def hessian(self, x: Array) -> Array:
        """Give exact Hessians ``(…, d, d)`` at points ``(…, d)``."""
        return self._hessian(self._points(x))

    def regret(self, x: Array) -> Array:
        """Give how far the values ``(…)`` of points ``(…, d)`` lie above the minimum."""
        return self.fun(x) - self.minimum

    def noisy(self, sigma: float, rng: Any = None) -> "NoisyValues":
        """Give a vectorised function of points ``(…, d)`` with independent Gaussian noise.

        Parameters
        ----------
        sigma
            Standard deviation of one value.
        rng
            None, an integer or a `numpy.random.Generator`; the noise is drawn by NumPy, so that
            points of every library see the same.
        """
        return NoisyValues(self, sigma, rng)

    @abstractmethod
    def _fun(self, x: Array) -> Array: ...

    @abstractmethod
    def _gradient(self, x: Array) -> Array: ...

    @abstractmethod
    def _hessian(self, x: Array) -> Array: ...

    def _points(self, x: Any) -> Array:
        if not is_torch_array(x):
            x = np.asarray(x)
            if not np.issubdtype(x.dtype, np.floating):
                x = x.astype(np.float64)
        if x.ndim == 0 or x.shape[-1] != self.dimension:
            raise ValueError(
                f"{self.name} takes points of shape (…, {self.dimension}), not {tuple(x.shape)}"
            )
        return x


class NoisyValues:
    """Values of a problem with independent Gaussian noise: ``fun(x) -> y``, vectorised.

    A copy draws the same numbers, also one that was sent to another process.

    Parameters
    ----------
    problem
        Whose values.
    sigma
        Standard deviation of one value.
    rng
        None, an integer or a `numpy.random.Generator`.
    """

    def __init__(self, problem: Problem, sigma: float, rng: Any = None) -> None:
        if not sigma >= 0:
            raise ValueError(f"sigma must be at least 0, not {sigma!r}")
        self.problem = problem
        self.sigma = float(sigma)
        self.rng = np.random.default_rng(rng)

    def __call__(self, x: Array) -> Array:
        """Give one noisy value for each of the points ``(…, d)``."""
        value = self.problem.fun(x)
        noise = self.sigma * self.rng.standard_normal(tuple(value.shape))
        return value + (like(noise, value) if is_torch_array(value) else noise)


@dataclass(frozen=True, kw_only=True, eq=False)
class Separable(Problem):
    """A sum of functions ``phi_j`` of the coordinates of ``z = rotation @ (x - optimum)``.

    Parameters
    ----------
    rotation
        Orthogonal ``(d, d)``, or None for the identity.
    """

    rotation: np.ndarray | None = None

    @abstractmethod
    def _profile(self, z: Array, order: int) -> Array:
        """Give ``phi_j(z_j)`` or its derivative of order 1 or 2, for ``(…, d)``.

        Counted from the minimum: ``phi_j(0) = phi_j'(0) = 0``.
        """

    def _inner(self, x: Array) -> Array:
        z = x - like(self.optimum, x)
        return z if self.rotation is None else z @ like(self.rotation.T, x)

    def _fun(self, x: Array) -> Array:
        return self._profile(self._inner(x), 0).sum(-1) + self.minimum

    def _gradient(self, x: Array) -> Array:
        slope = self._profile(self._inner(x), 1)
        return slope if self.rotation is None else slope @ like(self.rotation, x)

    def _hessian(self, x: Array) -> Array:
        curvature = self._profile(self._inner(x), 2)
        rotation = like(np.eye(self.dimension) if self.rotation is None else self.rotation, x)
        return (rotation.T * curvature[..., None, :]) @ rotation


def positive(**values: float) -> None:
    """Refuse what is not a positive finite number, by name."""
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, not {value!r}")


def check_dimension(dimension: int) -> int:
    """Give the dimension back if it is one."""
    if int(dimension) != dimension or dimension < 1:
        raise ValueError(f"dimension must be a positive integer, not {dimension!r}")
    return int(dimension)


def place(
    dimension: int, shift: Any, rotation: Any, rng: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """Give optimum and rotation of a problem.

    Parameters
    ----------
    dimension
        Number of variables.
    shift
        The optimum ``(d,)``, or its distance from the origin in a random direction.
    rotation
        An orthogonal ``(d, d)`` matrix, True for a random one, None or False for none.
    rng
        None, an integer or a `numpy.random.Generator` for what is random.
    """
    generator = np.random.default_rng(rng)
    direction = generator.standard_normal(dimension)
    optimum = np.array(shift, dtype=np.float64)
    if optimum.ndim == 0:
        optimum = optimum * direction / np.linalg.norm(direction)
    if optimum.shape != (dimension,) or not np.isfinite(optimum).all():
        raise ValueError(f"shift must be a finite number or ({dimension},), not {shift!r}")
    if rotation is None or rotation is False:
        return optimum, None
    if rotation is True:
        q, r = np.linalg.qr(generator.standard_normal((dimension, dimension)))
        return optimum, q * np.sign(np.diag(r))
    matrix = np.array(rotation, dtype=np.float64)
    if matrix.shape != (dimension, dimension) or not np.allclose(
        matrix @ matrix.T, np.eye(dimension), rtol=0, atol=1e-10
    ):
        raise ValueError(f"rotation must be an orthogonal ({dimension}, {dimension}) matrix")
    return optimum, matrix
