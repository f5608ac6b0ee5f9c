"""Distances between phones by articulatory features.

Takes IPA segments or ARPAbet phones, gives costs of edits: a substitution costs half the difference
of 24 ternary features, an insertion or a deletion what it takes to build the segment up, all over
24. Knows no alignment but the one that a distance needs. The table is panphon's (the extra
``panphon``).

Source of the costs: `feature_edit_distance` of panphon; Mortensen et al., "PanPhon: A Resource for
Mapping IPA Segments to Articulatory Feature Vectors" (COLING 2016).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from modicum.huper.integrations.panphon import FEATURES, feature_table
from modicum.huper.phones import ARPABET_TO_IPA, arpabet_to_ipa

__all__ = ["edit_cost", "feature_edit_distance", "feature_table", "segment_features"]


def segment_features(segment: str) -> np.ndarray:
    """Return the features of an IPA segment, int8 ``(24,)``: 1, −1, or 0 where one does not apply.

    Raises
    ------
    ValueError
        If the table has no such segment.
    ImportError
        If panphon is not installed.
    """
    found = feature_table().get(unicodedata.normalize("NFD", segment))
    if found is None:
        raise ValueError(f"{segment!r} is no IPA segment with known features")
    return found


def feature_edit_distance(source: Sequence[str], target: Sequence[str]) -> float:
    """Return the least cost of edits that turn one sequence of IPA segments into the other.

    Parameters
    ----------
    source, target
        IPA segments, one string each.

    Raises
    ------
    ValueError
        If a segment is unknown.
    TypeError
        If a sequence is one string: its characters are no segments.
    ImportError
        If panphon is not installed.
    """
    for sequence in (source, target):
        if isinstance(sequence, str):
            raise TypeError(f"segments are a sequence of strings, not the string {sequence!r}")
    left_LF, right_MF = (_matrix(sequence) for sequence in (source, target))
    substitute_LM = np.abs(left_LF[:, None] - right_MF[None]).sum(-1) / 2 / FEATURES
    delete_L, insert_M = (
        np.where(matrix == 0, 0.5, 1.0).sum(-1) / FEATURES for matrix in (left_LF, right_MF)
    )
    costs_M = np.concatenate([[0.0], np.cumsum(insert_M)])
    for position, delete in enumerate(delete_L):
        before_M, costs_M = costs_M, np.empty_like(costs_M)
        costs_M[0] = before_M[0] + delete
        for column, insert in enumerate(insert_M):
            costs_M[column + 1] = min(
                before_M[column] + substitute_LM[position, column],
                before_M[column + 1] + delete,
                costs_M[column] + insert,
            )
    return float(costs_M[-1])


@lru_cache(maxsize=1 << 14)
def edit_cost(phone: str | None, other: str | None) -> float:
    """Return what it costs to turn one phone into another; None stands for no phone.

    Parameters
    ----------
    phone, other
        ARPAbet phones, or IPA segments. A diphthong is two segments.

    Raises
    ------
    ValueError
        If a phone is unknown.
    ImportError
        If panphon is not installed.
    """
    return feature_edit_distance(*(_segments(one) for one in (phone, other)))


def _segments(phone: str | None) -> tuple[str, ...]:
    if phone is None:
        return ()
    return arpabet_to_ipa([phone]) if phone.upper() in ARPABET_TO_IPA else (phone,)


def _matrix(segments: Sequence[str]) -> np.ndarray:
    rows = [segment_features(segment) for segment in segments]
    return np.array(rows, dtype=np.int64).reshape(len(rows), FEATURES)
