"""Feature errors: how far apart phones are, not only whether they differ.

Takes IPA, as strings or lists of phones, or lists of ARPAbet phones, and gives the edit distance of
panphon, in which a wrong feature of 24 costs a 24th. All its costs are multiples of 1/48, so sums
are done in whole numbers and are exact.

Sources: Mortensen et al., "PanPhon: A Resource for Mapping IPA Segments to Articulatory Feature
Vectors" (COLING 2016), whose `feature_edit_distance` it is. Papers differ in what they divide a
corpus by; PRiSM's choice, the sum over the corpus divided by the number of segments of its
references, is the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from modicum.huper.features import segment_features
from modicum.huper.metrics.distance import edit_distances
from modicum.huper.metrics.ipa import Normaliser, merged, settle
from modicum.huper.metrics.phones import Interval, is_arpabet, ratio, ratio_interval, rows_of
from modicum.huper.phones import TIMIT61, arpabet_to_ipa

__all__ = ["FeatureErrors", "IPASequences", "feature_errors", "fed", "pfer"]

IPASequences = Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]]
"""Utterances: IPA strings, or lists of phones; or a mapping from ids to them."""

_UNITS = 48
"""Costs are whole numbers of this part."""

_ALPHABETS = ("auto", "arpabet", "ipa")
_NORMALIZE = ("corpus", "maxlen", "utt-mean")


def fed(
    hyps: IPASequences,
    refs: IPASequences,
    *,
    normaliser: Normaliser | None = None,
    alphabet: str = "auto",
) -> np.ndarray:
    """Return the feature edit distance of each utterance.

    Substituting a segment costs half the sum of the differences of its 24 features (1, −1, or 0
    where one does not apply) over 24; adding or leaving out one costs 1/24 for each feature that
    applies and half of that for each other.

    Parameters
    ----------
    hyps, refs
        Both IPA strings, or both lists of phones; in the same order, or mappings from ids.
    normaliser
        How IPA becomes segments; `Normaliser`'s defaults if None.
    alphabet
        Of lists: ``"arpabet"`` (or TIMIT), ``"ipa"``, or ``"auto"`` for what the phones of a side
        look like: ARPAbet is capitals, TIMIT has phones of several small letters. Diphthongs of
        ARPAbet are two segments.

    Returns
    -------
    np.ndarray
        float64 (N,).

    Raises
    ------
    TypeError
        If one side has strings and the other lists.
    ValueError
        If there are not as many hypotheses as references, ids differ, a phone is unknown and
        `normaliser` says that this is an error, or an option is unknown.
    ImportError
        If panphon is not installed.
    """
    found = feature_errors(hyps, refs, normaliser=normaliser, alphabet=alphabet, stacklevel=4)
    return found.distances


def pfer(
    hyps: IPASequences,
    refs: IPASequences,
    *,
    normalize: str = "corpus",
    normaliser: Normaliser | None = None,
    alphabet: str = "auto",
) -> float:
    """Return the phonetic feature error rate, a ratio: papers often give it times 100.

    Parameters
    ----------
    hyps, refs, normaliser, alphabet
        As for `fed`.
    normalize
        ``"corpus"``: sum of distances over the number of all reference segments. ``"utt-mean"``:
        mean over utterances of distance over reference segments; utterances without any are left
        out. ``"maxlen"``: mean of distance over segments of the longer side.

    Returns
    -------
    float
        NaN if no reference has a segment.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `fed`, and if `normalize` is unknown.
    """
    found = feature_errors(hyps, refs, normaliser=normaliser, alphabet=alphabet, stacklevel=4)
    return found.pfer(normalize)


@dataclass(frozen=True, eq=False)
class FeatureErrors:
    """Feature errors of a corpus.

    Attributes
    ----------
    distances
        float64 (N,) feature edit distance of each utterance.
    lengths, hyp_lengths
        int64 (N,) segments of each reference and hypothesis.
    unknown, hyp_unknown
        Symbols of references and hypotheses that have no features, and how often; they count as
        nothing, as with panphon.
    emptied
        Utterances whose reference had phones, none of which has features.
    """

    distances: np.ndarray
    lengths: np.ndarray
    hyp_lengths: np.ndarray
    unknown: Mapping[str, int]
    hyp_unknown: Mapping[str, int]
    emptied: int

    def pfer(self, normalize: str = "corpus") -> float:
        """Return the phonetic feature error rate; see `modicum.huper.metrics.pfer`."""
        if normalize not in _NORMALIZE:
            raise ValueError(f"normalize must be one of {', '.join(_NORMALIZE)}, not {normalize!r}")
        if normalize == "corpus":
            return ratio(self.distances.sum(), self.lengths.sum())
        below_N = self.lengths
        if normalize == "maxlen":
            below_N = np.maximum(self.lengths, self.hyp_lengths)
        has_N = below_N > 0
        rates = self.distances[has_N] / below_N[has_N]
        if normalize == "maxlen" and self.lengths.any():
            # Two empty sides are alike.
            return float(rates.sum() / len(below_N))
        return float(rates.mean()) if self.lengths.any() else float("nan")

    def interval(
        self,
        level: float = 0.95,
        *,
        seed: int = 0,
        resamples: int = 2000,
        groups: Sequence[object] | None = None,
    ) -> Interval | None:
        """Return a bootstrap interval of the rate over the corpus; see `ratio_interval`."""
        return ratio_interval(
            self.distances, self.lengths, level, seed=seed, resamples=resamples, groups=groups
        )


def feature_errors(
    hyps: IPASequences,
    refs: IPASequences,
    *,
    normaliser: Normaliser | None = None,
    alphabet: str = "auto",
    stacklevel: int = 3,
) -> FeatureErrors:
    """Compute feature edit distances and note what has no features.

    Parameters
    ----------
    hyps, refs, normaliser, alphabet
        As for `fed`.
    stacklevel
        Whose line a warning about unknown symbols names.

    Raises
    ------
    ValueError, TypeError, ImportError
        As `fed`.
    """
    normaliser = Normaliser() if normaliser is None else normaliser
    if alphabet not in _ALPHABETS:
        raise ValueError(f"alphabet must be one of {', '.join(_ALPHABETS)}, not {alphabet!r}")
    hyp_rows, ref_rows = rows_of(hyps, refs)  # type: ignore[arg-type]
    if len({isinstance(row, str) for row in (*hyp_rows, *ref_rows)}) > 1:
        raise TypeError(
            "utterances are IPA strings or lists of phones, but some are one and some the other"
        )
    hyp_segments, hyp_unknown = _segments(hyp_rows, normaliser, alphabet)
    ref_segments, unknown = _segments(ref_rows, normaliser, alphabet)
    settle(merged([unknown, hyp_unknown]), normaliser.on_unknown, stacklevel)
    names = sorted({one for rows in (hyp_segments, ref_segments) for row in rows for one in row})
    number = {name: at for at, name in enumerate(names)}
    hyp_ids, ref_ids = (
        [np.array([number[one] for one in row], dtype=np.int64) for row in rows]
        for rows in (hyp_segments, ref_segments)
    )
    substitute_KK, sides_K = _costs(tuple(names))
    units_N = edit_distances(hyp_ids, ref_ids, substitute_KK, sides_K, sides_K)
    return FeatureErrors(
        units_N / _UNITS,
        np.array(list(map(len, ref_ids)), dtype=np.int64),
        np.array(list(map(len, hyp_ids)), dtype=np.int64),
        unknown,
        hyp_unknown,
        sum(bool(row) and not ids for row, ids in zip(ref_rows, ref_segments, strict=True)),
    )


@lru_cache(maxsize=64)
def _costs(segments: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Give costs of substitutions (K, K) and of insertions and deletions (K,), in 48ths."""
    rows = [segment_features(segment) for segment in segments]
    if not rows:
        return np.zeros((0, 0), np.int64), np.zeros(0, np.int64)
    features_KF = np.array(rows, dtype=np.int64)
    # By rows: all at once would need K² · 24 numbers.
    substitute_KK = np.array([np.abs(row_F - features_KF).sum(1) for row_F in features_KF])
    return substitute_KK, np.where(features_KF == 0, 1, 2).sum(1)


def _segments(
    rows: Sequence[str | Sequence[str]], normaliser: Normaliser, alphabet: str
) -> tuple[list[tuple[str, ...]], dict[str, int]]:
    if rows and not isinstance(rows[0], str):
        symbols = {phone for row in rows for phone in row}
        if bad := [one for one in symbols if not isinstance(one, str)]:
            raise TypeError(f"phones are strings, not {bad[0]!r}")
        if alphabet == "arpabet" or (alphabet == "auto" and _is_spelled_out(symbols)):
            rows = [arpabet_to_ipa(row) for row in rows]
    elif alphabet == "arpabet" and rows:
        raise TypeError(f"ARPAbet comes as lists of phones, not as the string {rows[0]!r}")
    found = [normaliser.split(row) for row in rows]
    return [one.segments for one in found], merged(one.unknown for one in found)


def _is_spelled_out(symbols: set[str]) -> bool:
    """Say whether phones are ARPAbet or TIMIT, not IPA."""
    return is_arpabet(symbols) or (
        symbols <= set(TIMIT61) and any(len(symbol) > 1 for symbol in symbols)
    )
