"""Many documents, many keys: lists with a bounded share of errors, and one test for a whole corpus.

Takes responses as token ids and a detector. With one key, documents that share contexts share keyed
uniforms, so their p-values depend on each other: e-values may be averaged and thresholded jointly
all the same. Work over documents is spread by anything with an executor's ``map``, such as those of
concurrent.futures.

Legend: ``D`` documents, ``N`` keys.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.stats import e_benjamini_hochberg, e_to_p, mean_e_value
from modicum.core.watermark.corpus import Executor, first_occurrences
from modicum.core.watermark.warnings import ValidityWarning
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.detector import Reading, UMPWatermarkDetector
from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.theory import check_alpha
from modicum.umpwatermark.uniforms import make_uniforms

LIST_METHODS = ("e-bh", "bh", "bonferroni")
OVERALL_METHODS = ("product", "mean")


def benjamini_hochberg(p: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Reject hypotheses by independent p-values with false discovery rate at most alpha.

    Parameters
    ----------
    p
        p-values, shape ``[N]``.
    alpha
        Bound on the false discovery rate, in (0, 1).

    Returns
    -------
    ndarray of bool, shape [N]

    Notes
    -----
    Benjamini and Hochberg (1995). For p-values that depend on each other in any way use
    `modicum.core.stats.e_benjamini_hochberg`.
    """
    alpha, p_N = check_alpha(alpha), np.asarray(p, dtype=np.float64)
    if p_N.ndim != 1 or not np.all((p_N >= 0) & (p_N <= 1)):
        raise ValueError("p must be a flat array of values in [0, 1]")
    below = np.flatnonzero(np.sort(p_N) <= alpha * np.arange(1, len(p_N) + 1) / len(p_N))
    if not len(below):
        return np.zeros(len(p_N), dtype=bool)
    return p_N <= np.sort(p_N)[below[-1]]


@dataclass(frozen=True, eq=False)
class CorpusResult:
    """Evidence of a corpus.

    Attributes
    ----------
    method
        What was asked for.
    alpha
        The level: false discovery rate for ``"e-bh"`` and ``"bh"``, family-wise error for
        ``"bonferroni"``, error probability of the single test for ``"product"`` and ``"mean"``.
    p_values
        float64[D]; p-value of every document by itself.
    log_e_values
        float64[D]; natural log e-value of every document.
    num_tokens_scored
        int64[D]; for ``"product"`` only positions whose context no earlier document had.
    prediction
        bool[D]; documents listed as marked. All equal for the single tests.
    log_e_value
        Natural log e-value of the whole corpus; the mean for the list methods.
    """

    method: str
    alpha: float
    p_values: NDArray[np.float64]
    log_e_values: NDArray[np.float64]
    num_tokens_scored: NDArray[np.int64]
    prediction: NDArray[np.bool_]
    log_e_value: float

    @property
    def p_value(self) -> float:
        """``min(1, 1/E)`` of the corpus e-value."""
        return float(e_to_p(self.log_e_value))


class _Row(NamedTuple):
    evidence: Evidence
    contexts_Sc: NDArray[np.int64]
    log_e: float
    p_value: float


@dataclass(frozen=True)
class _Read:
    # A callable object rather than a closure, so that process pools can pickle it.
    detector: UMPWatermarkDetector

    def __call__(self, ids: Any) -> _Row:
        reading = self.detector.read(ids)
        log_e = self.detector.statistic.log_e(reading.evidence)
        p_value = self.detector.p_value(reading)
        return _Row(reading.evidence, reading.contexts_Sc, log_e, p_value)


def detect_corpus(
    docs: Iterable[Any],
    detector: UMPWatermarkDetector,
    *,
    method: str = "e-bh",
    alpha: float = 0.05,
    executor: Executor | None = None,
) -> CorpusResult:
    """Test many documents for one key.

    Parameters
    ----------
    docs
        Responses as token ids ``[T]`` each.
    detector
        The detector; its own ``alpha`` is not used.
    method
        ``"e-bh"`` lists marked documents with false discovery rate at most ``alpha`` under any
        dependence. ``"bh"`` does so by p-values, which is sharper and needs documents that share no
        context (a `ValidityWarning` says if some do). ``"bonferroni"`` lists them with family-wise
        error ``alpha`` under any dependence. ``"product"`` tests "is any of this marked" by one
        e-process over the union of distinct contexts, which is the strongest when many documents
        are marked weakly; ``"mean"`` the same by averaging, which needs no de-duplication across
        documents.
    alpha
        Level.
    executor
        Spreads the reading; ``None`` reads in this process.

    Returns
    -------
    CorpusResult

    Raises
    ------
    ValueError
        If the method is unknown or there is no document.
    """
    check_alpha(alpha)
    if method not in LIST_METHODS + OVERALL_METHODS:
        raise ValueError(
            f"unknown method {method!r}; choose one of {LIST_METHODS + OVERALL_METHODS}"
        )
    spread = map if executor is None else executor.map
    rows: list[_Row] = list(spread(_Read(detector), docs))
    if not rows:
        raise ValueError("the corpus has no documents")
    log_e_D = np.array([row.log_e for row in rows])
    p_D = np.array([row.p_value for row in rows])
    scored_D = np.array([len(row.evidence) for row in rows], dtype=np.int64)
    overall = float(mean_e_value(log_e_D))
    if method == "e-bh":
        prediction = e_benjamini_hochberg(log_e_D, alpha).rejected
    elif method == "bh":
        shared = int((scored_D - _first_counts(rows)).sum())
        if shared:
            warnings.warn(
                f"{shared} contexts occur in more than one document: under one key their p-values "
                "depend on each other and the false discovery rate of method='bh' is not bounded; "
                "use method='e-bh'",
                ValidityWarning,
                stacklevel=2,
            )
        prediction = benjamini_hochberg(p_D, alpha)
    elif method == "bonferroni":
        prediction = p_D <= alpha / len(p_D)
    else:
        if method == "product":
            union = _first_occurrences(rows)
            overall = detector.statistic.log_e(Evidence.concatenate(union))
            scored_D = np.array([len(evidence) for evidence in union], dtype=np.int64)
        prediction = np.full(len(log_e_D), overall >= -math.log(alpha))
    return CorpusResult(method, alpha, p_D, log_e_D, scored_D, prediction, overall)


def _first_occurrences(rows: Sequence[_Row]) -> list[Evidence]:
    masks = first_occurrences(row.contexts_Sc for row in rows)
    return [row.evidence.take(mask) for row, mask in zip(rows, masks, strict=True)]


def _first_counts(rows: Sequence[_Row]) -> NDArray[np.int64]:
    return np.array([len(evidence) for evidence in _first_occurrences(rows)], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class KeysResult:
    """Evidence of one response under several keys.

    Attributes
    ----------
    p_values
        float64[N]; p-value of every key by itself.
    log_e_values
        float64[N]; natural log e-value of every key.
    prediction
        bool[N]; keys reported.
    any_p_value
        p-value of "no key of the list was used": the least p-value times N, at most 1.
    any_log_e_value
        Natural log of the mean e-value, evidence of the same.
    any_prediction
        ``any_p_value <= alpha``.
    """

    p_values: NDArray[np.float64]
    log_e_values: NDArray[np.float64]
    prediction: NDArray[np.bool_]
    any_p_value: float
    any_log_e_value: float
    any_prediction: bool


def detect_keys(
    ids: Any,
    config: UMPWatermarkConfig,
    keys: Sequence[bytes | str | int],
    *,
    alpha: float = 1e-3,
    method: str = "bonferroni",
    **options: Any,
) -> KeysResult:
    """Ask which of several keys (users, models, versions, payloads) marked a response.

    The surrogate is asked once for all keys.

    Parameters
    ----------
    ids
        Response token ids, shape ``[T]``.
    config
        The watermark's parameters; its own key is not used.
    keys
        The candidate keys.
    alpha
        Level.
    method
        ``"bonferroni"`` reports keys with ``p <= alpha/N`` (any false report has probability at
        most ``alpha``); ``"bh"`` bounds the false discovery rate, for keys drawn independently;
        ``"e-bh"`` does so for keys that are related.
    **options
        Of `UMPWatermarkDetector`, for instance ``surrogate``.

    Returns
    -------
    KeysResult

    Raises
    ------
    TypeError, ValueError
        If there are no keys, two are equal, or the method is unknown.
    """
    check_alpha(alpha)
    if isinstance(keys, str | bytes | int):
        raise TypeError("keys must be a sequence of keys, got one key")
    if not len(keys):
        raise ValueError("keys is empty")
    if method not in LIST_METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {LIST_METHODS}")
    configs = [config.replace(key=key) for key in keys]
    if len({c.key_id for c in configs}) != len(keys):
        raise ValueError("keys holds the same key twice")
    detector = UMPWatermarkDetector(config, alpha, **options)
    if detector.statistic.needs == "probability" and detector.surrogate is None:
        raise ValueError(f"statistic={detector.statistic.name!r} needs surrogate=")
    readings: list[Reading] = detector.read_with([make_uniforms(c) for c in configs], ids)
    p_N = np.array([detector.p_value(reading) for reading in readings])
    log_e_N = np.array([detector.statistic.log_e(reading.evidence) for reading in readings])
    if method == "bonferroni":
        prediction = p_N <= alpha / len(p_N)
    elif method == "bh":
        prediction = benjamini_hochberg(p_N, alpha)
    else:
        prediction = e_benjamini_hochberg(log_e_N, alpha).rejected
    any_p = min(1.0, float(p_N.min()) * len(p_N))
    return KeysResult(p_N, log_e_N, prediction, any_p, float(mean_e_value(log_e_N)), any_p <= alpha)
