"""Random directions."""

from typing import Any

import numpy as np

from modicum.core.device import numpy_generator

Array = Any


def draw_directions(
    kind: str, count: int, dimension: int, seed: int, *stream: int, device: Any = None
) -> Array:
    """Draw directions ``(count, dimension)``."""
    u = numpy_generator(seed, "directions", *stream).standard_normal((count, dimension))
    return u / np.linalg.norm(u, axis=1, keepdims=True)
