"""Random rotations and sketches of features, drawn from a seed that all parties share.

Every party applies the same map to its own rows, and as it is part of the feature map's
fingerprint, a party with another seed is found out before anything is asked. A rotation changes
neither the scores of rows nor the objective, and with them neither picks nor purchases. A sketch to
fewer features keeps inner products on average only (Johnson and Lindenstrauss), and changes them
all. Who doesn't know the seed can't tell what a feature means; who does can undo a rotation, and
undo a sketch up to what it left out.

Rows are delivered as they were projected: what a buyer pays for here are projected features.

Shapes: n records, d features, D features made.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from modicum.daved.features import (
    ArrayMap,
    FeatureMap,
    digest_of_array,
    features_from_dict,
)
from modicum.daved.frames import is_shards
from modicum.daved.validation import check_count

__all__ = ["RandomRotation", "RandomSketch", "map_from_dict"]


class _Projection(ArrayMap):
    """Another map's rows times a random matrix.

    Parameters
    ----------
    base
        The map whose rows are projected.
    seed
        What the matrix is drawn from; the parties' secret, if it is to hide anything.
    """

    name: str

    def __init__(self, base: FeatureMap, seed: int) -> None:
        self.base = base
        self.seed = check_count("seed", seed, least=0)
        self.matrix_: np.ndarray | None = None

    def fit(self, records: Any) -> Self:
        """Fit the base map, and draw the matrix for as many features as it gives."""
        first = self.base.fit_transform(records)
        self._draw(int((first[0] if is_shards(first) else first).shape[1]))
        return self

    def _draw(self, d: int) -> None:
        self.draws_ = np.random.default_rng(self.seed).standard_normal((d, self._size(d)))
        self.matrix_ = self._matrix(self.draws_)

    def transform(self, records: Any) -> Any:
        """Give the base map's rows, projected: (n, D), or a list of such shards."""
        return super().transform(self.base.transform(records))

    def _map(self, rows_nd: np.ndarray) -> np.ndarray:
        matrix_dD = self._fitted()
        if rows_nd.shape[1] != len(matrix_dD):
            raise ValueError(
                f"the {self.name} is one of {len(matrix_dD)} features, the rows have "
                f"{rows_nd.shape[1]}"
            )
        found_nD: np.ndarray = rows_nd @ matrix_dD.astype(rows_nd.dtype)
        return found_nD

    def _fitted(self) -> np.ndarray:
        if self.matrix_ is None:
            raise ValueError(f"the {self.name} has nothing fitted yet: call fit with rows first")
        return self.matrix_

    def describe(self) -> dict[str, Any]:
        """Give the base map's description, the seed and the size, and a digest of the draws."""
        matrix_dD = self._fitted()
        return {
            "map": self.name,
            "base": self.base.describe(),
            "seed": self.seed,
            "d": matrix_dD.shape[0],
            "dim": matrix_dD.shape[1],
            # Of the draws: what is computed of them may differ in the last bit between machines.
            "draws_sha256": digest_of_array(self.draws_),
        }

    @abstractmethod
    def _size(self, d: int) -> int: ...

    @abstractmethod
    def _matrix(self, draws: np.ndarray) -> np.ndarray: ...


class RandomRotation(_Projection):
    """Another map's rows turned by a random orthogonal matrix, uniform among all.

    Parameters
    ----------
    base
        The map whose rows are turned.
    seed
        The parties' secret.
    """

    name = "rotation"

    def _size(self, d: int) -> int:
        return d

    def _matrix(self, draws: np.ndarray) -> np.ndarray:
        basis_dd, upper_dd = np.linalg.qr(draws)
        # With signs as those of the diagonal the distribution is uniform, and the result unique.
        turned: np.ndarray = basis_dd * np.sign(np.diag(upper_dd))
        return turned


class RandomSketch(_Projection):
    """Another map's rows, (n, d), in D random directions: Gaussian, of variance 1 / D.

    Inner products have the right mean and a standard deviation of about √(2 / D) in units of the
    rows' lengths.

    Parameters
    ----------
    base
        The map whose rows are sketched.
    dim
        Features made, D.
    seed
        The parties' secret.
    """

    name = "sketch"

    def __init__(self, base: FeatureMap, dim: int, seed: int) -> None:
        super().__init__(base, seed)
        self.dim = check_count("dim", dim)

    def _size(self, d: int) -> int:
        return self.dim

    def _matrix(self, draws: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = draws / np.sqrt(self.dim)
        return scaled


def map_from_dict(description: Mapping[str, Any]) -> FeatureMap:
    """Make a fitted map of its description, a projection or any of `features_from_dict`.

    Raises
    ------
    ValueError
        If the description is of another map, or what is drawn here differs from it.
    """
    kind = description.get("map")
    if kind not in (RandomRotation.name, RandomSketch.name):
        return features_from_dict(description)
    base = map_from_dict(description["base"])
    projection: _Projection = (
        RandomRotation(base, description["seed"])
        if kind == RandomRotation.name
        else RandomSketch(base, description["dim"], description["seed"])
    )
    projection._draw(description["d"])
    if projection.describe() != dict(description):
        raise ValueError(f"the {kind} drawn here differs from the one described")
    return projection
