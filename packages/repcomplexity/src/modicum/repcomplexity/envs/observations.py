"""What an agent sees of a packed state: its bits, a picture of them, or the code itself.

Takes codes in NumPy or torch and answers in kind. Needs no Gymnasium.

Shapes: m bits of a state; ``…`` any shape of codes.
"""

from __future__ import annotations

import math

import numpy as np

from modicum.repcomplexity.bits import Array
from modicum.repcomplexity.mdp import BitMDP

__all__ = ["OBSERVATION_MODES", "Observer"]

OBSERVATION_MODES = ("bits", "pixels", "int")


class Observer:
    """Observations of the states of one process.

    Parameters
    ----------
    mdp
        The process; bits come in its `BitMDP.observation_order`.
    mode
        ``"bits"``: int8 ``(…, m)``. ``"pixels"``: uint8 ``(…, height, width, 1)``, in which each
        bit is a white or black square, row by row in a grid that is about as high as wide.
        ``"int"``: int64 ``(…)``, the codes.
    pixel_size
        Side of a bit's square in pixels.

    Attributes
    ----------
    shape : tuple of int
        Shape of the observation of one state.

    Raises
    ------
    ValueError
        If the mode is unknown, the size below 1, or there are no bits to see.
    """

    def __init__(self, mdp: BitMDP, mode: str = "bits", pixel_size: int = 8):
        if mode not in OBSERVATION_MODES:
            listed = ", ".join(map(repr, OBSERVATION_MODES))
            raise ValueError(f"obs must be one of {listed}, not {mode!r}")
        if mode == "bits" and mdp.n_state_bits == 0:
            raise ValueError(f"{mdp.name} has no state bits to observe: use obs='int' or 'pixels'")
        if pixel_size < 1:
            raise ValueError(f"pixel_size must be at least 1, not {pixel_size}")
        self.mdp, self.mode, self.pixel_size = mdp, mode, int(pixel_size)
        self._columns = max(1, math.isqrt(max(0, mdp.n_state_bits - 1)) + 1)
        self._rows = max(1, -(-mdp.n_state_bits // self._columns))
        grid = self._rows * self.pixel_size, self._columns * self.pixel_size, 1
        self.shape = {"bits": (mdp.n_state_bits,), "pixels": grid, "int": ()}[mode]

    def __call__(self, codes: Array) -> Array:
        """Return the observations of states ``(…)``."""
        if self.mode == "int":
            return codes
        if self.mode == "pixels":
            return self.picture(codes)
        bits = self.mdp.observe(codes)
        if hasattr(bits, "detach"):
            import torch

            return bits.to(torch.int8)
        return bits.astype(np.int8)

    def picture(self, codes: Array) -> Array:
        """Return the picture ``(…, height, width, 1)`` of states, whatever the mode is."""
        bits = self.mdp.observe(codes) * 255
        missing = self._rows * self._columns - self.mdp.n_state_bits
        grid = (*bits.shape[:-1], self._rows, self._columns)
        cells: Array
        if hasattr(bits, "detach"):
            import torch

            cells = torch.nn.functional.pad(bits, (0, missing)).reshape(grid)
            rows = cells.repeat_interleave(self.pixel_size, -2)
            return rows.repeat_interleave(self.pixel_size, -1)[..., None]
        cells = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, missing)]).reshape(grid)
        return cells.repeat(self.pixel_size, -2).repeat(self.pixel_size, -1)[..., None]
