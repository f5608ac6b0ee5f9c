"""Edit channels: how likely each phone is to be said as another, dropped or added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Weights"]


@dataclass(frozen=True)
class Weights:
    """Log-weights of every edit of one canonical sequence.

    Shape suffixes: L canonical phones, C classes of the emissions.

    Parameters
    ----------
    canonical
        (L,) int64 ids of the canonical phones; saying phone i as ``canonical[i]`` is keeping it.
    sub
        (L, C) float64: phone i is said as q. −inf where that is impossible.
    dele
        (L,) float64: phone i is not said.
    ins
        (L + 1, C) float64: q is added in slot i, which stands before phone i; the last slot is the
        end.

    Raises
    ------
    ValueError
        If the shapes do not fit, an id is no column, or a weight is NaN or +inf.
    """

    canonical: np.ndarray
    sub: np.ndarray
    dele: np.ndarray
    ins: np.ndarray

    def __post_init__(self) -> None:
        canonical_L = np.asarray(self.canonical, np.int64).reshape(-1)
        length = len(canonical_L)
        sub_LC = np.asarray(self.sub, np.float64)
        dele_L = np.asarray(self.dele, np.float64)
        ins_SC = np.asarray(self.ins, np.float64)
        if ins_SC.ndim != 2 or len(ins_SC) != length + 1:
            raise ValueError(
                f"ins has the shape (L + 1, C) = ({length + 1}, C), got {ins_SC.shape}"
            )
        classes = ins_SC.shape[1]
        if sub_LC.shape != (length, classes):
            raise ValueError(
                f"sub has the shape (L, C) = ({length}, {classes}), got {sub_LC.shape}"
            )
        if dele_L.shape != (length,):
            raise ValueError(f"dele has the shape (L,) = ({length},), got {dele_L.shape}")
        if length and not (0 <= canonical_L.min() and canonical_L.max() < classes):
            raise ValueError(
                f"canonical ids must be columns in [0, {classes}), got {canonical_L.tolist()}"
            )
        for name, value in (("sub", sub_LC), ("dele", dele_L), ("ins", ins_SC)):
            if not (value < np.inf).all():
                raise ValueError(f"{name} holds NaN or +inf; log-weights are finite or −inf")
        object.__setattr__(self, "canonical", canonical_L)
        object.__setattr__(self, "sub", sub_LC)
        object.__setattr__(self, "dele", dele_L)
        object.__setattr__(self, "ins", ins_SC)

    def __len__(self) -> int:
        return len(self.canonical)

    @property
    def classes(self) -> int:
        """Number of columns C."""
        return self.ins.shape[1]
