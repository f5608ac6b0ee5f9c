"""Squared Euclidean distances between two sets of points, and labels as columns.

Shapes: a and b points, d features, q outputs.
"""

import numpy as np

__all__ = ["columns", "squared_distances"]


def squared_distances(left_ad: np.ndarray, right_bd: np.ndarray) -> np.ndarray:
    """Give ‖x − z‖² for every pair, (a, b) float64, never negative."""
    left_a = np.square(left_ad).sum(axis=1)
    right_b = np.square(right_bd).sum(axis=1)
    return np.maximum(left_a[:, None] + right_b - 2 * left_ad @ right_bd.T, 0)


def columns(labels: np.ndarray | None) -> np.ndarray:
    """Give labels as float64 columns, (n, q), of (n,) or (n, q)."""
    found = np.asarray(labels, dtype=np.float64)
    return found[:, None] if found.ndim == 1 else found
