"""Many documents, many keys: lists with a bounded share of errors, and one test for a whole corpus.

Takes responses as token ids and a detector. E-values may be averaged, multiplied over disjoint
contexts and thresholded jointly under any dependence, which is what makes one key on many documents
safe. Work over documents is spread by anything with an executor's ``map``, such as those of
concurrent.futures.

Legend: ``D`` documents, ``N`` keys.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.stats import e_benjamini_hochberg, mean_e_value
from modicum.core.stats.eprocess import Start
from modicum.core.watermark.corpus import Executor, first_occurrences
from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.detector import EWatermarkDetector, exp_or_inf
from modicum.ewatermark.evalues import Evidence
from modicum.ewatermark.scheme import EWatermarkScheme
from modicum.ewatermark.theory import check_alpha

LIST_METHODS = ("e-bh", "bonferroni")
OVERALL_METHODS = ("product", "mean")


@dataclass(frozen=True)
class CorpusResult:
    """Evidence of a corpus.

    Attributes
    ----------
    method
        What was asked for.
    alpha
        The level: false discovery rate for ``"e-bh"``, family-wise error for ``"bonferroni"``,
        error probability of the single test for ``"product"`` and ``"mean"``.
    log_e_values
        float64[D]; natural log e-value of every document at its end.
    num_tokens_scored
        int64[D]; for ``"product"`` only positions whose context no earlier document had.
    prediction
        bool[D]; documents listed as marked. All equal for the single tests.
    log_e_value
        Natural log e-value of the whole corpus; the mean for the list methods.
    p_value
        ``min(1, 1/E)`` of that e-value.
    """

    method: str
    alpha: float
    log_e_values: NDArray[np.float64]
    num_tokens_scored: NDArray[np.int64]
    prediction: NDArray[np.bool_]
    log_e_value: float

    @property
    def p_value(self) -> float:
        """``min(1, 1/E)`` of the corpus e-value."""
        return min(1.0, exp_or_inf(-self.log_e_value))


@dataclass(frozen=True)
class _Read:
    # A callable object rather than a closure, so that process pools can pickle it.
    detector: EWatermarkDetector

    def __call__(self, ids: Any) -> tuple[Evidence, NDArray[np.int64]]:
        evidence, _, contexts_Sc = self.detector.read(ids)
        return evidence, contexts_Sc


def _log_e(detector: EWatermarkDetector, evidence: Evidence) -> float:
    process = detector.new_eprocess()
    process.update_many(detector.score.log_e(evidence))
    return process.log_e_value


def detect_corpus(
    docs: Iterable[Any],
    detector: EWatermarkDetector,
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
        dependence; ``"bonferroni"`` lists them with family-wise error ``alpha``. ``"product"``
        tests "is any of this marked" by one e-process over the union of distinct contexts, which
        is the strongest when many documents are marked weakly; ``"mean"`` the same by averaging,
        which needs no de-duplication across documents.
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
    read = _Read(detector)
    spread = map if executor is None else executor.map
    results = list(spread(read, docs))
    if not results:
        raise ValueError("the corpus has no documents")
    log_e_D = np.array([_log_e(detector, evidence) for evidence, _ in results])
    scored_D = np.array([len(evidence) for evidence, _ in results], dtype=np.int64)
    overall = float(mean_e_value(log_e_D))
    threshold = -math.log(alpha)
    if method == "e-bh":
        prediction = e_benjamini_hochberg(log_e_D, alpha).rejected
    elif method == "bonferroni":
        prediction = log_e_D >= threshold + math.log(len(log_e_D))
    else:
        if method == "product":
            union = _first_occurrences(results)
            overall = _log_e(detector, Evidence.concatenate(union))
            scored_D = np.array([len(evidence) for evidence in union], dtype=np.int64)
        prediction = np.full(len(log_e_D), overall >= threshold)
    return CorpusResult(method, alpha, log_e_D, scored_D, prediction, overall)


def _first_occurrences(
    results: Sequence[tuple[Evidence, NDArray[np.int64]]],
) -> list[Evidence]:
    masks = first_occurrences(contexts_Sc for _, contexts_Sc in results)
    return [evidence.take(mask) for (evidence, _), mask in zip(results, masks, strict=True)]


@dataclass(frozen=True)
class KeysResult:
    """Evidence of one response under several keys.

    Attributes
    ----------
    log_e_values
        float64[N]; natural log e-value of every key.
    prediction
        bool[N]; keys reported.
    any_log_e_value
        Natural log of the mean e-value: the evidence that *some* key of the list was used.
    any_prediction
        Whether that mean reaches ``1/alpha``.
    """

    log_e_values: NDArray[np.float64]
    prediction: NDArray[np.bool_]
    any_log_e_value: float
    any_prediction: bool


def detect_keys(
    ids: Any,
    config: EWatermarkConfig,
    keys: Sequence[bytes | str | int],
    *,
    alpha: float = 0.01,
    method: str = "fwer",
    start: Start = "beginning",
) -> KeysResult:
    """Ask which of several keys (users, models, versions, payloads) marked a response.

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
        ``"fwer"`` reports keys with ``E >= N/alpha`` (any false report has probability at most
        ``alpha``); ``"e-bh"`` bounds the false discovery rate.
    start
        As in `EWatermarkDetector`.

    Returns
    -------
    KeysResult

    Raises
    ------
    ValueError
        If there are no keys, two are equal, or the method is unknown.
    """
    check_alpha(alpha)
    if isinstance(keys, str | bytes):
        raise TypeError("keys must be a sequence of keys, got one key")
    if not keys:
        raise ValueError("keys is empty")
    if method not in ("fwer", "e-bh"):
        raise ValueError(f"unknown method {method!r}; choose 'fwer' or 'e-bh'")
    configs = [config.replace(key=key) for key in keys]
    if len({c.key_id for c in configs}) != len(keys):
        raise ValueError("keys holds the same key twice")
    detector = EWatermarkDetector(config, alpha, start=start)
    read = detector.read_with([EWatermarkScheme(c) for c in configs], ids)
    log_e_N = np.array([_log_e(detector, evidence) for evidence in read])
    if method == "fwer":
        prediction = log_e_N >= math.log(len(keys)) - math.log(alpha)
    else:
        prediction = e_benjamini_hochberg(log_e_N, alpha).rejected
    overall = float(mean_e_value(log_e_N))
    return KeysResult(log_e_N, prediction, overall, overall >= -math.log(alpha))
