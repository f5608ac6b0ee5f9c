"""Influence, sensitivity and noise sensitivity, exact from tables and estimated from calls.

The influence of input i is the probability over uniform x that flipping bit i changes f(x); total
influence is their sum, the mean number of inputs to which f is sensitive.

Shapes: m inputs, N = 2**m positions, B inputs of a block.
"""

from __future__ import annotations

import math

import numpy as np

from modicum.core.device import numpy_generator
from modicum.repcomplexity.boolean.sampling import (
    BlackBox,
    Estimate,
    evaluate,
    proportion,
    uniform_bits,
)
from modicum.repcomplexity.boolean.truth_table import TruthTable

__all__ = [
    "influences",
    "noise_tail_bound",
    "sampled_influences",
    "sampled_noise_sensitivity",
    "sampled_total_influence",
    "sensitivities",
    "total_influence",
]


def influences(table: TruthTable) -> np.ndarray:
    """Return the influence of each input, float64 ``(m,)``, exact."""
    values, half = table.values, max(1, 1 << (table.n_inputs - 1)) if table.n_inputs else 1
    counts = []
    for index in range(table.n_inputs):
        pairs = values.reshape(-1, 2, 1 << index)
        counts.append(int(np.count_nonzero(pairs[:, 0] != pairs[:, 1])))
    return np.array(counts, dtype=np.float64) / half


def total_influence(table: TruthTable) -> float:
    """Return the total influence; exact, 0 for a constant, m for parity."""
    return float(influences(table).sum())


def sensitivities(table: TruthTable) -> np.ndarray:
    """Return at each input how many bits change the value when flipped, int8 ``(N,)``.

    The greatest is the sensitivity of the function, the mean its total influence.
    """
    values = table.values
    counts = np.zeros(values.size, dtype=np.int8)
    for index in range(table.n_inputs):
        pairs = values.reshape(-1, 2, 1 << index)
        counts.reshape(pairs.shape)[...] += (pairs[:, :1] != pairs[:, 1:]).astype(np.int8)
    return counts


def noise_tail_bound(noise_sensitivity: float, delta: float) -> float:
    """Bound the spectral weight at degrees of at least ``1 / delta`` from noise sensitivity.

    ``W^{≥1/δ} ≤ 2 / (1 − e^{−2}) · NS_δ``, which follows from
    ``NS_δ = ½ Σ_S (1 − (1 − 2δ)^{|S|}) ĝ(S)²``; capped at 1.

    Raises
    ------
    ValueError
        If `delta` is not in ``(0, 1/2]`` or the noise sensitivity not in ``[0, 1]``.

    Notes
    -----
    O'Donnell, "Analysis of Boolean Functions" (2014), proposition 3.3.
    """
    _check_delta(delta)
    if not 0 <= noise_sensitivity <= 1:
        raise ValueError(f"noise_sensitivity must be in [0, 1], not {noise_sensitivity!r}")
    return min(1.0, 2 / (1 - math.exp(-2)) * noise_sensitivity)


def sampled_total_influence(
    function: BlackBox,
    n_inputs: int,
    *,
    n_samples: int = 100_000,
    level: float = 0.95,
    interval: str = "hoeffding",
    seed: int = 0,
) -> Estimate:
    """Estimate the total influence of a black box from random edges of the cube.

    Parameters
    ----------
    function
        Maps boolean bits ``(B, m)`` to values ``(B,)``.
    n_inputs
        Number m of inputs; there is no limit.
    n_samples
        Number of edges; the function is called on two inputs for each.
    level, interval
        As for `proportion`; the interval of the proportion of sensitive edges times m.
    seed
        Seed of the edges.

    Raises
    ------
    ValueError
        If an argument is out of range, or the function returns anything but 0 and 1.
    """
    rng = numpy_generator(seed, "total_influence")
    changed = 0
    for bits in uniform_bits(n_inputs, n_samples, rng):
        flipped = bits.copy()
        flipped[np.arange(len(bits)), rng.integers(0, n_inputs, size=len(bits))] ^= True
        changed += _count_changes(function, bits, flipped)
    estimate = proportion(changed, n_samples, level=level, interval=interval)
    return estimate.rescaled(float(n_inputs))


def sampled_influences(
    function: BlackBox,
    n_inputs: int,
    *,
    n_samples: int = 10_000,
    level: float = 0.95,
    interval: str = "hoeffding",
    seed: int = 0,
) -> list[Estimate]:
    """Estimate the influence of every input of a black box.

    Parameters
    ----------
    function, n_inputs, level, interval, seed
        As for `sampled_total_influence`. Each interval has the level by itself.
    n_samples
        Number of uniform inputs; the function is called on each and on its m neighbours.
    """
    changed = np.zeros(n_inputs, dtype=np.int64)
    for bits in uniform_bits(n_inputs, n_samples, numpy_generator(seed, "influences")):
        values = evaluate(function, bits)
        for index in range(n_inputs):
            flipped = bits.copy()
            flipped[:, index] ^= True
            changed[index] += np.count_nonzero(values != evaluate(function, flipped))
    return [proportion(int(k), n_samples, level=level, interval=interval) for k in changed]


def sampled_noise_sensitivity(
    function: BlackBox,
    n_inputs: int,
    delta: float,
    *,
    n_samples: int = 100_000,
    level: float = 0.95,
    interval: str = "hoeffding",
    seed: int = 0,
) -> Estimate:
    """Estimate how often a black box changes when every bit is flipped with probability `delta`.

    The upper end through `noise_tail_bound` bounds the spectral weight at degrees of at least
    ``1 / delta`` for functions of any number of inputs, with the error probability of the interval.

    Parameters
    ----------
    function, n_inputs, level, interval, seed
        As for `sampled_total_influence`.
    delta
        Probability of a flip, in ``(0, 1/2]``.
    n_samples
        Number of pairs.
    """
    _check_delta(delta)
    rng = numpy_generator(seed, "noise_sensitivity")
    changed = 0
    for bits in uniform_bits(n_inputs, n_samples, rng):
        changed += _count_changes(function, bits, bits ^ (rng.random(bits.shape) < delta))
    return proportion(changed, n_samples, level=level, interval=interval)


def _count_changes(function: BlackBox, bits: np.ndarray, others: np.ndarray) -> int:
    return int(np.count_nonzero(evaluate(function, bits) != evaluate(function, others)))


def _check_delta(delta: float) -> None:
    if not 0 < delta <= 0.5:
        raise ValueError(f"delta must be in (0, 1/2], not {delta!r}")
