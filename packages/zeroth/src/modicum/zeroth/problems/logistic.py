"""Regularised logistic regression, evaluated on few samples or with labels that err.

The noise of an evaluation is that of the data: a mini-batch drawn for every value, or labels asked
anew. Both are unbiased for the exact function. With ``seed=`` an evaluation draws what that seed
says, so that both points of a pair see the same data.

Legend: ``N`` samples, ``B`` of a mini-batch, ``n`` points.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array

from modicum.core.prf import MASK32, philox4x32
from modicum.zeroth.problems.problem import Array, Problem, check_dimension, like, positive

ELEMENTS = 1 << 22
"""Numbers that one piece of work may hold at a time: 32 MiB of float64."""

ROWS, ERRORS = 0, 1
"""Streams of random numbers: which sample, and whether its label errs."""

NEWTON_STEPS = 100
DECREMENT_FAR, DECREMENT_DONE = 1e-10, 1e-26
"""Newton decrements (twice the regret) from which a step is held back, and below which it is the
last."""

THIRD_DERIVATIVE = 1 / (6 * 3**0.5)
"""Largest third derivative of ``log(1 + exp(t))``."""


def _softplus(t: Array) -> Array:
    xp = array_namespace(t)
    return (xp.abs(t) + t) / 2 + xp.log1p(xp.exp(-xp.abs(t)))


def _sigmoid(t: Array) -> Array:
    xp = array_namespace(t)
    return (1 + xp.tanh(t / 2)) / 2


def _in_pieces(work: Callable[..., Array], numbers: int, x: Array, *more: np.ndarray) -> Array:
    """Do work on rows of points ``(…, d)`` and arrays beside them, `numbers` values per row."""
    xp = array_namespace(x)
    shape, rows = x.shape[:-1], x.reshape(-1, x.shape[-1])
    step = max(1, ELEMENTS // numbers)
    pieces = [
        work(rows[begin : begin + step], *(values[begin : begin + step] for values in more))
        for begin in range(0, max(1, len(rows)), step)
    ]
    done = pieces[0] if len(pieces) == 1 else xp.concat(pieces)
    return done.reshape((*shape, *done.shape[1:]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Logistic(Problem):
    """The problem that `logistic`, `synthetic_logistic` and `breast_cancer` make.

    Parameters
    ----------
    signed_ND
        Features times labels, ``(N, d)``: a sample is on the right side where their product with
        the weights is positive.
    regularization
        Factor of half the squared norm of the weights; it is the strong convexity.
    flip
        Probability with which a label errs.
    """

    signed_ND: np.ndarray
    regularization: float
    flip: float

    def minibatch(self, size: int, rng: Any = None) -> "MiniBatch":
        """Give a noisy function that draws `size` samples with replacement for every value.

        A sample comes with its own label, or with the other one with probability `flip`.
        """
        return MiniBatch(self, size, rng)

    def asked_labels(self, rng: Any = None) -> "AskedLabels":
        """Give a noisy function of all samples whose labels err anew in every value."""
        return AskedLabels(self, rng)

    def lipschitz_at(self, x: Any) -> float:
        """Give the rate at which the Hessian changes at one point ``(d,)``, in Frobenius norm.

        `hessian_lipschitz` bounds it for all points.
        """
        chance_N = _sigmoid(self.signed_ND @ np.asarray(x, dtype=np.float64))
        bend_N = chance_N * (1 - chance_N) * (1 - 2 * chance_N) / len(self.signed_ND)
        pairs_NDD = self.signed_ND[:, :, None] * self.signed_ND[:, None, :]
        third = (bend_N[:, None] * self.signed_ND).T @ pairs_NDD.reshape(len(bend_N), -1)
        return float(np.linalg.norm(third, 2))

    def losses(self, margins: Array) -> Array:
        """Give the expected loss of a sample from its margin."""
        return _softplus(-margins) + self.flip * margins

    def penalty(self, x: Array) -> Array:
        """Give what the regularisation adds, for points ``(…, d)``."""
        return self.regularization / 2 * (x * x).sum(-1)

    def _fun(self, x: Array) -> Array:
        signed = like(self.signed_ND, x)
        mean = _in_pieces(lambda rows: self.losses(rows @ signed.T).mean(-1), len(signed), x)
        return mean + self.penalty(x)

    def _gradient(self, x: Array) -> Array:
        signed = like(self.signed_ND, x)

        def slope(rows: Array) -> Array:
            return (self.flip - _sigmoid(-(rows @ signed.T))) @ signed / len(signed)

        return _in_pieces(slope, len(signed), x) + self.regularization * x

    def _hessian(self, x: Array) -> Array:
        signed = like(self.signed_ND, x)
        eye = like(np.eye(self.dimension), x)

        def curvature(rows: Array) -> Array:
            chance = _sigmoid(rows @ signed.T)
            weighted = (chance * (1 - chance))[..., None] * signed
            return array_namespace(x).matrix_transpose(weighted) @ signed / len(signed)

        return _in_pieces(curvature, self.signed_ND.size, x) + self.regularization * eye


class MiniBatch:
    """Loss on samples drawn for every value: ``fun(x, seed=None) -> y``, vectorised.

    Parameters
    ----------
    problem
        Whose loss.
    size
        Samples per value.
    rng
        None, an integer or a `numpy.random.Generator`, for values without a seed.
    """

    def __init__(self, problem: Logistic, size: int, rng: Any = None) -> None:
        if int(size) != size or size < 1:
            raise ValueError(f"size must be a positive integer, not {size!r}")
        self.problem = problem
        self.size = int(size)
        self.rng = np.random.default_rng(rng)

    def __call__(self, x: Array, seed: Any = None) -> Array:
        """Give one value for each of the points ``(…, d)``.

        Parameters
        ----------
        x
            Points.
        seed
            Integers ``(…)`` in ``[0, 2**63)``, or one for all points: equal seeds see equal
            samples. None draws anew.
        """
        problem = self.problem
        x = problem._points(x)
        seeds = _seeds(seed, x.shape[:-1])
        place_nB = _uniform(self.rng, ROWS, seeds, self.size)
        rows_nB = (place_nB * len(problem.signed_ND)).astype(np.int64)
        right_nB = _right(problem.flip, self.rng, seeds, self.size)
        signed = like(problem.signed_ND, x)

        def mean(rows: Array, index_nB: np.ndarray, right_nB: np.ndarray) -> Array:
            index = index_nB
            if is_torch_array(x):
                index = array_namespace(x).asarray(index_nB, device=device(x))
            margins = (signed[index] @ rows[..., None])[..., 0]
            return _softplus(-like(right_nB, x) * margins).mean(-1)

        numbers = self.size * problem.dimension
        return _in_pieces(mean, numbers, x, rows_nB, right_nB) + problem.penalty(x)

    def noise(self, x: Any) -> float:
        """Give the exact standard deviation of one value at one point ``(d,)``."""
        margins = self.problem.signed_ND @ np.asarray(x, dtype=np.float64)
        right, wrong = _softplus(-margins), _softplus(margins)
        flip = self.problem.flip
        square = ((1 - flip) * right**2 + flip * wrong**2).mean()
        mean = ((1 - flip) * right + flip * wrong).mean()
        return float(np.sqrt((square - mean**2) / self.size))


class AskedLabels:
    """Loss on all samples with labels asked anew for every value: ``fun(x, seed=None) -> y``.

    Parameters
    ----------
    problem
        Whose loss; its `flip` is the probability that a label errs.
    rng
        None, an integer or a `numpy.random.Generator`, for values without a seed.
    """

    def __init__(self, problem: Logistic, rng: Any = None) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(rng)

    def __call__(self, x: Array, seed: Any = None) -> Array:
        """Give one value for each of the points ``(…, d)``; `seed` as in `MiniBatch`."""
        problem = self.problem
        x = problem._points(x)
        signed = like(problem.signed_ND, x)
        seeds = _seeds(seed, x.shape[:-1])
        right_nN = _right(problem.flip, self.rng, seeds, len(signed))

        def mean(rows: Array, right_nN: np.ndarray) -> Array:
            return _softplus(-like(right_nN, x) * (rows @ signed.T)).mean(-1)

        return _in_pieces(mean, len(signed), x, right_nN) + problem.penalty(x)

    def noise(self, x: Any) -> float:
        """Give the exact standard deviation of one value at one point ``(d,)``."""
        margins = self.problem.signed_ND @ np.asarray(x, dtype=np.float64)
        flip = self.problem.flip
        return float(np.sqrt(flip * (1 - flip)) * np.linalg.norm(margins) / len(margins))


def _seeds(seed: Any, shape: tuple[int, ...]) -> np.ndarray | int:
    """Give a seed for each point ``(n,)``, or the number of points where there are none."""
    if seed is None:
        return int(np.prod(shape))
    seeds = np.asarray(seed)
    if not np.issubdtype(seeds.dtype, np.integer) or (seeds < 0).any():
        raise ValueError(f"seed must hold integers of at least 0, not {seed!r}")
    return np.broadcast_to(seeds, shape).reshape(-1).astype(np.int64)


def _uniform(
    rng: np.random.Generator, stream: int, seeds: np.ndarray | int, size: int
) -> np.ndarray:
    """Give numbers in [0, 1) for `size` samples of each point, ``(n, size)``."""
    if isinstance(seeds, int):
        return rng.random((seeds, size))
    zero, column = np.zeros(1, dtype=np.int64), seeds[:, None]
    counter = (np.arange(size), zero + stream, zero, zero)
    return philox4x32(counter, (column & MASK32, column >> 32))[0] / 2.0**32


def _right(flip: float, rng: np.random.Generator, seeds: np.ndarray | int, size: int) -> np.ndarray:
    """Give -1 where a label errs and 1 elsewhere, ``(n, size)`` or, where none does, ``(n, 1)``."""
    if flip == 0:
        return np.ones((seeds if isinstance(seeds, int) else len(seeds), 1))
    return np.where(_uniform(rng, ERRORS, seeds, size) < flip, -1.0, 1.0)


def logistic(
    features: Any, labels: Any, *, regularization: float = 0.01, flip: float = 0.0
) -> Logistic:
    """Make the mean logistic loss of linear weights on data, plus ``regularization/2 |x|²``.

    The optimum is found by Newton's method to rounding error. Start at the origin.

    Parameters
    ----------
    features
        ``(N, d)``; a column of ones gives an intercept, which is regularised as well.
    labels
        ``(N,)`` of -1 and +1.
    regularization
        Strong convexity, positive.
    flip
        Probability in [0, 1/2) that a label errs when it is asked; the exact function is the
        expected loss.

    Returns
    -------
    Logistic
        Its `hessian_lipschitz` is a bound, ``mean_i |features_i|³ / (6 sqrt(3))``, attained where
        all samples are one; on the breast-cancer data it is 51 times the rate at the optimum, which
        `Logistic.lipschitz_at` gives.

    Raises
    ------
    ValueError
        For data of the wrong shape or with other labels, and settings out of range.
    """
    features_ND = np.array(features, dtype=np.float64)
    labels_N = np.array(labels, dtype=np.float64)
    if features_ND.ndim != 2 or features_ND.size == 0 or not np.isfinite(features_ND).all():
        raise ValueError(f"features must be finite and (N, d), not {features_ND.shape}")
    if labels_N.shape != features_ND.shape[:1] or not (np.abs(labels_N) == 1).all():
        raise ValueError(f"labels must be ({len(features_ND)},) of -1 and +1")
    positive(regularization=regularization)
    if not 0 <= flip < 0.5:
        raise ValueError(f"flip must be in [0, 0.5), not {flip!r}")
    dimension = features_ND.shape[1]
    cubes = np.linalg.norm(features_ND, axis=1) ** 3
    settings: dict[str, Any] = {
        "name": "logistic regression",
        "strong_convexity": float(regularization),
        "hessian_lipschitz": float(THIRD_DERIVATIVE * cubes.mean()),
        "start": np.zeros(dimension),
        "signed_ND": labels_N[:, None] * features_ND,
        "regularization": float(regularization),
        "flip": float(flip),
    }
    optimum = _newton(Logistic(optimum=np.zeros(dimension), minimum=0.0, **settings))
    minimum = float(Logistic(optimum=optimum, minimum=0.0, **settings).fun(optimum))
    return Logistic(optimum=optimum, minimum=minimum, **settings)


def _newton(problem: Logistic) -> np.ndarray:
    x = problem.start
    for _ in range(NEWTON_STEPS):
        gradient = problem.gradient(x)
        step = np.linalg.solve(problem.hessian(x), gradient)
        decrement = float(gradient @ step)
        while decrement > DECREMENT_FAR and problem.fun(x - step) > problem.fun(x):
            step = step / 2
        x = x - step
        if decrement < DECREMENT_DONE:
            break
    return x


def synthetic_logistic(
    dimension: int,
    *,
    samples: int = 500,
    regularization: float = 0.01,
    flip: float = 0.0,
    rng: Any = 0,
) -> Logistic:
    """Make logistic regression on data from a logistic model with Gaussian features.

    Parameters
    ----------
    dimension
        Number of features, each of unit variance.
    samples
        Number of samples.
    regularization, flip
        As in `logistic`.
    rng
        Seed or generator for the data.

    Raises
    ------
    ValueError
        As `logistic`.
    """
    dimension = check_dimension(dimension)
    generator = np.random.default_rng(rng)
    features_ND = generator.standard_normal((samples, dimension))
    weights = generator.standard_normal(dimension) * 2 / dimension**0.5
    chance_N = _sigmoid(features_ND @ weights)
    labels_N = np.where(generator.random(samples) < chance_N, 1.0, -1.0)
    return logistic(features_ND, labels_N, regularization=regularization, flip=flip)


def breast_cancer(*, regularization: float = 0.01, flip: float = 0.0) -> Logistic:
    """Make logistic regression on the breast-cancer data of scikit-learn.

    569 samples, 30 features scaled to mean 0 and variance 1, and an intercept: 31 variables.

    Parameters
    ----------
    regularization, flip
        As in `logistic`.

    Raises
    ------
    ImportError
        Without scikit-learn.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise ImportError(
            'the breast-cancer data comes with scikit-learn: pip install "modicum-zeroth[sklearn]"'
        ) from error
    features_ND, labels_N = load_breast_cancer(return_X_y=True)
    scaled_ND = (features_ND - features_ND.mean(0)) / features_ND.std(0)
    with_intercept = np.column_stack([scaled_ND, np.ones(len(scaled_ND))])
    return logistic(
        with_intercept, np.where(labels_N == 1, 1.0, -1.0), regularization=regularization, flip=flip
    )
