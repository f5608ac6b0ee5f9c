"""The feature table of panphon, read once and without importing panphon, which takes seconds.

Source: Mortensen et al., "PanPhon: A Resource for Mapping IPA Segments to Articulatory Feature
Vectors" (COLING 2016).
"""

from __future__ import annotations

import csv
import unicodedata
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

__all__ = ["FEATURES", "feature_table"]

FEATURES = 24
"""Features of a segment; each is present, absent or does not apply."""
_VALUE = {"+": 1, "-": -1, "0": 0}


@lru_cache(maxsize=1)
def feature_table() -> dict[str, np.ndarray]:
    """Return the features of every segment, NFD: int8 ``(24,)`` of 1, −1 and 0.

    Raises
    ------
    ImportError
        If panphon is not installed.
    """
    found = find_spec("panphon")
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            'articulatory features need panphon: pip install "modicum-huper[panphon]"'
        )
    path = Path(found.submodule_search_locations[0]) / "data" / "ipa_all.csv"
    table = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for segment, *values in rows:
            vector = np.array([_VALUE[value] for value in values], dtype=np.int8)
            if vector.shape != (FEATURES,):
                raise ImportError(
                    f"{path} has {len(vector)} features for {segment!r}, not {FEATURES}; "
                    'pip install "modicum-huper[panphon]" brings a version that fits'
                )
            vector.setflags(write=False)
            table[unicodedata.normalize("NFD", segment)] = vector
    return table
