"""Which path to trust: the ear, or what the text says.

Scores how distorted a recording is (s), and what it costs to believe a reference (Λ), and turns the
two into a choice, or into the weight λ of the reference, for an utterance or for each stretch of
it. Thresholds are chosen on utterances whose phones are known. It decodes nothing itself and reads
no audio; `modicum.huper.system` gives it what it needs.

The score follows the description of the Scheduler in "HuPER: A Human-Inspired Framework for
Phonetic Perception" (arXiv 2602.01634), a mean over frames of a mix of entropy and margin; the test
of Λ is this package's own.

Shape suffixes: T frames, C classes, W windows, N items, K candidates.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modicum.core.device import numpy_generator
from modicum.huper.audio import FRAME, HOP
from modicum.huper.emissions import Emissions, check_rows

if TYPE_CHECKING:
    import torch

    from modicum.core.experiment import ProgressTask
    from modicum.huper.channel import Weights
    from modicum.huper.graph.viterbi import Alignment

__all__ = [
    "Calibration",
    "Item",
    "Scheduler",
    "Verdict",
    "distortion_score",
    "evidence_ratio",
    "frame_distortion",
    "local_evidence",
    "segments",
    "voiced",
]

_POLICIES = ("threshold", "llr", "soft")
_SCOPES = ("utterance", "segment")
_FRAMES = ("all", "speech", "vad")
_POOLS = ("mean", "quantile")

GRID_A = tuple(np.arange(0, 6.01, 0.25).tolist())
"""Nats per phone at s = 0 that are tried."""

GRID_B = tuple(np.arange(0, 80.1, 5.0).tolist())
"""Slopes over s that are tried."""

_MOST_CANDIDATES = 200
"""Of thresholds; as many values or fewer are all tried."""

_DECODED_CANDIDATES = 9
"""Of thresholds where each of them needs decoding anew."""

_SOFT_WIDTHS = (0.25, 1.0)
"""Widths of the soft switch that are tried, in standard deviations of s."""

_FEW = 30
"""Fewer utterances than this choose a threshold by chance."""

_FOLDS = 5

_VOICED_DB = 30.0
"""Frames this far below the loudest ones are taken to be without a voice."""


# Scores -----------------------------------------------------------------------------------------


def frame_distortion(logprobs_TC: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """Return how uncertain each frame is.

    d_t = β · h_t + (1 − β) · (1 − m_t), with the entropy h_t in units of log C and the margin m_t
    between the two largest probabilities; 0 · log 0 = 0.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities, C ≥ 2; −inf is allowed.
    beta
        β in [0, 1]: 1 is entropy alone, 0 margin alone.

    Returns
    -------
    np.ndarray
        (T,) float64 in [0, 1]: 0 where one class has everything, 1 where all have the same.
    """
    rows_TC = np.asarray(logprobs_TC, np.float64)
    probability_TC = np.exp(rows_TC)
    # Where nothing is likely the logarithm does not matter: 0 · log 0 = 0.
    finite_TC = np.where(probability_TC > 0, rows_TC, 0.0)
    entropy_T = -(probability_TC * finite_TC).sum(1) / math.log(rows_TC.shape[1])
    top_T2 = np.partition(probability_TC, -2, axis=1)[:, -2:]
    margin_T = top_T2[:, 1] - top_T2[:, 0]
    return np.clip(beta * entropy_T + (1 - beta) * (1 - margin_T), 0.0, 1.0)


def distortion_score(
    emissions: Emissions | np.ndarray | torch.Tensor,
    beta: float = 1.0,
    frames: Literal["all", "speech", "vad"] = "all",
    pool: Literal["mean", "quantile"] = "mean",
    *,
    quantile: float = 0.9,
    voiced: np.ndarray | None = None,
    blank: int | None = None,
) -> float:
    """Say how distorted one utterance is: s(x), from what the recognizer is unsure of.

    Parameters
    ----------
    emissions
        `Emissions` of one utterance, or its (T, C) log-probabilities.
    beta
        Share of the entropy, see `frame_distortion`.
    frames
        ``"all"``; ``"speech"``: those whose best class is not the blank; ``"vad"``: those that
        `voiced` names. Where there is none of these, all.
    pool
        ``"mean"`` of the frames or a ``"quantile"`` of them.
    quantile
        Which, in [0, 1].
    voiced
        (T,) bool for ``"vad"``, as the function `voiced` gives it.
    blank
        Column of the blank for log-probabilities that are no `Emissions`; 0 if None.

    Returns
    -------
    float
        In [0, 1]: 0 for certainty in every frame, 1 for uniform emissions with β = 1. The same for
        every order of the classes (of the phones, with ``frames="speech"``).

    Raises
    ------
    ValueError
        If there is no frame, more than one utterance, rows that are no log-probabilities, or an
        option out of range.
    """
    _check_score(beta, frames, pool, quantile)
    rows_TC, blank = _rows(emissions, blank)
    distortion_T = frame_distortion(rows_TC, beta)
    chosen_T = _chosen(rows_TC, frames, voiced, blank)
    return _pooled(distortion_T[chosen_T], pool, quantile)


def voiced(samples_N: np.ndarray, frames: int, below_db: float = _VOICED_DB) -> np.ndarray:
    """Say which frames hold sound: those not far below the loudest ones.

    Parameters
    ----------
    samples_N
        float32 (N,), 16,000 per second.
    frames
        T, how many frames there are; 25 ms every 20 ms.
    below_db
        Decibels below the 95th percentile of the frames' energies down to which a frame counts.

    Returns
    -------
    np.ndarray
        bool (T,).
    """
    starts = np.minimum(np.arange(frames) * HOP, max(0, len(samples_N) - FRAME))
    window_TF = np.asarray(samples_N, np.float64)[starts[:, None] + np.arange(FRAME)]
    power_T = np.square(window_TF).mean(1)
    loud = float(np.quantile(power_T, 0.95)) if frames else 0.0
    return np.asarray((power_T > 0) & (power_T >= loud * 10 ** (-below_db / 10)))


def evidence_ratio(emissions: Emissions | np.ndarray | torch.Tensor, alignment: Alignment) -> float:
    """Say what it costs to believe the reference: Λ, in nats per phone of the reference.

    Λ = (Σ_t max_c logprobs[t, c] − score of the reference-constrained path) / L

    Parameters
    ----------
    emissions
        Of the one utterance.
    alignment
        What `graph.fused_decode` found near the reference.

    Returns
    -------
    float
        0 where the ear says what the reference says and that costs nothing; inf where the reference
        has no path. A reference without phones counts as one of one phone.

    Raises
    ------
    ValueError
        As `distortion_score`.
    """
    rows_TC, _ = _rows(emissions, None)
    if alignment.reason is not None or alignment.score == -math.inf:
        return math.inf
    free = float(rows_TC.max(1).sum(dtype=np.float64))
    return (free - alignment.score) / max(1, len(alignment.canonical))


def segments(frames: int, frame_shift: float, seconds: float = 0.3) -> list[tuple[int, int]]:
    """Cut frames into as many windows of like length as there is room for.

    Parameters
    ----------
    frames
        T.
    frame_shift
        Seconds from one to the next.
    seconds
        Least length of a window; a shorter utterance is one window.

    Returns
    -------
    list of (int, int)
        First frame and the one after the last, one behind the other.
    """
    least = max(1, math.ceil(seconds / frame_shift - 1e-9))
    count = max(1, frames // least)
    edges = [round(number * frames / count) for number in range(count + 1)]
    return list(pairwise(edges))


def local_evidence(
    emissions: Emissions | np.ndarray | torch.Tensor,
    alignment: Alignment,
    weights: Weights,
    windows: Sequence[tuple[int, int]],
    lam: float = 1.0,
    blank: int | None = None,
) -> np.ndarray:
    """Say where it costs to believe the reference: Λ of each window.

    The cost of a frame is what the path there falls short of the best class; that of an edit counts
    at the first frame of the phone that it makes, or of the next one for what was deleted.

    Parameters
    ----------
    emissions
        Of the one utterance.
    alignment
        What `graph.fused_decode` found near the reference, with this λ and without jumps.
    weights
        The edits of the reference.
    windows
        As `segments` gives them.
    lam
        λ.
    blank
        As for `distortion_score`.

    Returns
    -------
    np.ndarray
        (W,) nats per canonical phone that the window holds (at least one is counted). Over all
        windows, costs sum to Λ · L of `evidence_ratio`.
    """
    rows_TC, blank = _rows(emissions, blank)
    frames = len(rows_TC)
    if alignment.reason is not None:
        return np.full(len(windows), math.inf)
    path_T = np.full(frames, blank)
    for phone, (start, end) in zip(alignment.ids, alignment.spans, strict=True):
        path_T[start:end] = phone
    cost_T = rows_TC.max(1) - rows_TC[np.arange(frames), path_T]
    phones_T = np.zeros(frames)
    said = iter(alignment.ids)
    pending_cost, pending_phones = 0.0, 0
    for edit in alignment.edits:
        if edit.span is None:
            pending_cost -= lam * float(weights.dele[edit.index])
            pending_phones += 1
            continue
        table = weights.ins if edit.op == "ins" else weights.sub
        start = edit.span[0]
        cost_T[start] += pending_cost - lam * float(table[edit.index, next(said)])
        phones_T[start] += pending_phones + (edit.op in ("keep", "sub"))
        pending_cost, pending_phones = 0.0, 0
    cost_T[-1] += pending_cost
    phones_T[-1] += pending_phones
    return np.array(
        [cost_T[start:end].sum() / max(1.0, phones_T[start:end].sum()) for start, end in windows]
    )


def _rows(emissions: Any, blank: int | None) -> tuple[np.ndarray, int]:
    if isinstance(emissions, Emissions):
        if len(emissions) != 1:
            raise ValueError(
                f"these are the emissions of {len(emissions)} utterances and one is scored at a "
                "time: give emissions.utterance(b)"
            )
        rows_TC, blank = emissions.utterance(0), emissions.blank
    else:
        array = emissions if isinstance(emissions, np.ndarray) else emissions.detach().cpu().numpy()
        if array.ndim != 2:
            raise ValueError(
                f"log-probabilities of one utterance have the shape (T, C), got {array.shape}"
            )
        check_rows(array)
        rows_TC = array
    if not len(rows_TC):
        raise ValueError("there is no frame to score")
    if rows_TC.shape[1] < 2:
        raise ValueError(f"a score needs at least two classes, got {rows_TC.shape[1]}")
    return np.asarray(rows_TC, np.float64), 0 if blank is None else int(blank)


def _chosen(rows_TC: np.ndarray, frames: str, voiced: np.ndarray | None, blank: int) -> np.ndarray:
    everything_T = np.ones(len(rows_TC), bool)
    if frames == "all":
        return everything_T
    if frames == "speech":
        chosen_T = rows_TC.argmax(1) != blank
    else:
        if voiced is None:
            raise ValueError('frames="vad" needs voiced: which frames hold sound')
        chosen_T = np.asarray(voiced, bool)
        if chosen_T.shape != (len(rows_TC),):
            raise ValueError(f"voiced has the shape ({len(rows_TC)},), got {chosen_T.shape}")
    return chosen_T if chosen_T.any() else everything_T


def _pooled(distortion_T: np.ndarray, pool: str, quantile: float) -> float:
    return float(distortion_T.mean() if pool == "mean" else np.quantile(distortion_T, quantile))


def _check_score(beta: float, frames: str, pool: str, quantile: float) -> None:
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    if frames not in _FRAMES:
        raise ValueError(f"frames must be one of {', '.join(_FRAMES)}, got {frames!r}")
    if pool not in _POOLS:
        raise ValueError(f"pool must be one of {', '.join(_POOLS)}, got {pool!r}")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], got {quantile}")


# Calibration ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """What is known of an utterance whose phones are known, to choose thresholds by.

    Attributes
    ----------
    id
        Of the utterance. The same utterance under other noise is another item with the same id:
        they are never parted between a choice and its test.
    s
        Distortion score.
    bottom_up, top_down
        Errors of the two paths.
    length
        Phones of the truth.
    ratio
        Λ; None where there is no reference.
    path
        What the other path is: ``"reference"`` (a text was given) or ``"hypothesis"``.
    decode
        Errors of the answer under other settings; needed for the soft policy and for segments,
        which are more than a choice between two answers.

    Raises
    ------
    ValueError
        If the numbers make no sense.
    """

    id: str
    s: float
    bottom_up: float
    top_down: float
    length: int
    ratio: float | None = None
    path: Literal["reference", "hypothesis"] = "reference"
    decode: Callable[[Scheduler], float] | None = None

    def __post_init__(self) -> None:
        if self.path not in ("reference", "hypothesis"):
            raise ValueError(f'path must be "reference" or "hypothesis", got {self.path!r}')
        if not 0 <= self.s <= 1:
            raise ValueError(f"s of {self.id!r} must be in [0, 1], got {self.s}")
        if self.length < 0 or self.bottom_up < 0 or self.top_down < 0:
            raise ValueError(
                f"errors and length of {self.id!r} must be at least 0, got {self.bottom_up}, "
                f"{self.top_down} and {self.length}"
            )
        if self.ratio is not None and math.isnan(self.ratio):
            raise ValueError(f"the evidence ratio of {self.id!r} is NaN")


@dataclass(frozen=True)
class Verdict:
    """Error rates on a set of utterances. All are errors per phone of the truth.

    Attributes
    ----------
    risk
        Of the adaptive answer.
    bottom_up, top_down
        Of each path alone.
    oracle
        Of the better path of each item, which nobody can know.
    switch_rate
        Share of the items for which the other path was taken (its λ, over the largest, where the
        choice is soft or by segments; None if λ differs within utterances).
    items, utterances
        How many.
    """

    risk: float
    bottom_up: float
    top_down: float
    oracle: float
    switch_rate: float | None
    items: int
    utterances: int


@dataclass(frozen=True)
class Calibration:
    """How a threshold was chosen.

    Attributes
    ----------
    path
        Which one it lets in: ``"reference"`` or ``"hypothesis"``.
    verdict
        Error rates on the utterances that chose it; the risk is at most that of either path alone.
    cross_validated
        Risk of the same choice made on four fifths of the utterances and tested on the last, over
        all five; None with fewer than two utterances.
    candidates
        How many settings were tried.
    end
        ``"never"`` or ``"always"`` where the choice stands at the end of the grid, so that nothing
        switches; else None.
    ids
        The utterances that chose it, which must not judge it.
    """

    path: Literal["reference", "hypothesis"]
    verdict: Verdict
    cross_validated: float | None
    candidates: int
    end: str | None
    ids: tuple[str, ...]


@dataclass
class Scheduler:
    """Choose between the ear and the text.

    Path 1, bottom-up, is what the ear says. Path 2, the hypothesis, is what the ear says near the
    words that the Perceiver found; path 3, the reference, near the words of a text.

    Parameters
    ----------
    policy
        ``"llr"``: the reference is used if Λ < a + b · s. ``"threshold"``: if s > `tau_ref`.
        ``"soft"``: always, with λ = `lam_max` · σ((s − τ) / `width`). Without a text: the
        hypothesis is used if s > `tau`, or in the same soft way.
    scope
        ``"utterance"``, or ``"segment"``: each window of at least `window` seconds has its own s,
        and Λ, and with them its own λ; the whole is decoded at once.
    tau
        Threshold of the hypothesis. inf never uses it, which is what stands until `calibrate`.
    tau_ref
        Threshold of the reference for ``"threshold"`` and ``"soft"``. −inf always uses it.
    a, b
        Of the test of Λ: nats per phone, and more of them for a distorted signal.
    lam, lam_internal
        λ of the reference and of the hypothesis where they are used.
    lam_max, width
        Of the soft policy.
    joint
        Whether `calibrate` looks for `b` too; else it is 0.
    window
        Seconds, at least 0.3.
    beta, frames, pool, quantile
        Of `distortion_score`.

    Attributes
    ----------
    calibrations
        What `calibrate` found, by path.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    The paper leaves τ to the user, and read its best value off the utterances that it was judged
    on; `calibrate` and `evaluate` refuse to do both on the same.
    """

    policy: Literal["threshold", "llr", "soft"] = "llr"
    scope: Literal["utterance", "segment"] = "utterance"
    tau: float = math.inf
    tau_ref: float = -math.inf
    a: float = 3.0
    b: float = 0.0
    lam: float = 1.0
    lam_internal: float = 1.0
    lam_max: float = 1.0
    width: float = 0.01
    joint: bool = True
    window: float = 0.3
    beta: float = 1.0
    frames: Literal["all", "speech", "vad"] = "all"
    pool: Literal["mean", "quantile"] = "mean"
    quantile: float = 0.9
    calibrations: dict[str, Calibration] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.policy not in _POLICIES:
            raise ValueError(f"policy must be one of {', '.join(_POLICIES)}, got {self.policy!r}")
        if self.scope not in _SCOPES:
            raise ValueError(f"scope must be one of {', '.join(_SCOPES)}, got {self.scope!r}")
        _check_score(self.beta, self.frames, self.pool, self.quantile)
        for name in ("tau", "tau_ref", "a", "b"):
            if math.isnan(getattr(self, name)):
                raise ValueError(f"{name} is NaN")
        if not 0 <= self.b < math.inf:
            raise ValueError(f"b must be finite and at least 0, got {self.b}")
        for name in ("lam", "lam_internal", "lam_max", "width"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.3 <= self.window < math.inf:
            raise ValueError(
                f"window must be at least 0.3 seconds, got {self.window}: shorter ones hold too "
                "few frames to tell"
            )

    # Deciding -----------------------------------------------------------------------------------

    def score(
        self,
        emissions: Emissions | np.ndarray | torch.Tensor,
        *,
        voiced: np.ndarray | None = None,
        blank: int | None = None,
    ) -> float:
        """Return s(x) with the settings of this scheduler; see `distortion_score`."""
        return distortion_score(
            emissions,
            self.beta,
            self.frames,
            self.pool,
            quantile=self.quantile,
            voiced=voiced,
            blank=blank,
        )

    def window_scores(
        self,
        emissions: Emissions | np.ndarray | torch.Tensor,
        windows: Sequence[tuple[int, int]],
        *,
        voiced: np.ndarray | None = None,
        blank: int | None = None,
    ) -> np.ndarray:
        """Return s of each window, float64 (W,)."""
        rows_TC, blank = _rows(emissions, blank)
        return np.array(
            [
                self.score(
                    rows_TC[start:end],
                    voiced=None if voiced is None else voiced[start:end],
                    blank=blank,
                )
                for start, end in windows
            ]
        )

    def weight(
        self,
        s: float,
        ratio: float | None = None,
        path: Literal["reference", "hypothesis"] = "reference",
    ) -> float:
        """Return λ of a path for an utterance or a window; 0 is the ear alone.

        Parameters
        ----------
        s
            Distortion score.
        ratio
            Λ; needed for the reference with the policy ``"llr"``.
        path
            Which path.

        Raises
        ------
        ValueError
            If Λ is needed and missing.
        """
        threshold = self.tau_ref if path == "reference" else self.tau
        if self.policy == "soft":
            if math.isinf(threshold):
                return self.lam_max if threshold < 0 else 0.0
            # tanh is a logistic function that does not overflow.
            return self.lam_max * (1 + math.tanh((s - threshold) / self.width / 2)) / 2
        lam = self.lam if path == "reference" else self.lam_internal
        if path == "reference" and self.policy == "llr":
            if ratio is None:
                raise ValueError('policy="llr" needs the evidence ratio of the reference')
            return lam if self.a == math.inf or ratio < self.a + self.b * s else 0.0
        return lam if s > threshold else 0.0

    def full_weight(self, path: Literal["reference", "hypothesis"] = "reference") -> float:
        """Return the λ of a path that is trusted altogether."""
        if self.policy == "soft":
            return self.lam_max
        return self.lam if path == "reference" else self.lam_internal

    # Calibrating --------------------------------------------------------------------------------

    def calibrate(
        self,
        items: Sequence[Item],
        *,
        folds: int = _FOLDS,
        seed: int = 0,
        progress: ProgressTask | None = None,
    ) -> dict[str, Calibration]:
        """Choose the thresholds that make fewest errors, and say what the choice is worth.

        Tried are, for a threshold, −∞, +∞ and the scores seen; for the test of Λ, never, always,
        and a grid of a and b. Where each setting needs decoding anew (the soft policy, segments),
        they are fewer, and b is 0. Of equals the one that listens most to the ear is taken, and the
        smaller b. As both ends are among them, no path alone makes fewer errors on these items.

        Parameters
        ----------
        items
            With `path` ``"reference"``, ``"hypothesis"`` or some of both; each kind sets its own
            threshold.
        folds
            For the cross-validated risk, which parts utterances by their id.
        seed
            Of the folds.
        progress
            Is advanced by each decoding, for the soft policy and for segments.

        Returns
        -------
        dict
            `Calibration` by path; also kept in `calibrations`.

        Raises
        ------
        ValueError
            If there is no item, no phone, or an item lacks what the policy needs.

        Warns
        -----
        UserWarning
            With fewer than 30 utterances, and where the choice never or always switches.
        """
        if not items:
            raise ValueError("calibration needs at least one item")
        if folds < 2:
            raise ValueError(f"folds must be at least 2, got {folds}")
        found: dict[str, Calibration] = {}
        paths: tuple[Literal["reference", "hypothesis"], ...] = ("reference", "hypothesis")
        for path in paths:
            part = [item for item in items if item.path == path]
            if part:
                settings, found[path] = self._calibrated(part, path, folds, seed, progress)
                for name, value in settings.items():
                    setattr(self, name, value)
        self.calibrations = {**self.calibrations, **found}
        return found

    def _calibrated(
        self,
        items: list[Item],
        path: Literal["reference", "hypothesis"],
        folds: int,
        seed: int,
        progress: ProgressTask | None,
    ) -> tuple[dict[str, float], Calibration]:
        _check_lengths(items)
        ids = sorted({item.id for item in items})
        if len(ids) < _FEW:
            warnings.warn(
                f"{len(ids)} utterances calibrate the {path} path: with fewer than {_FEW} the "
                "threshold is a matter of chance",
                stacklevel=3,
            )
        candidates = self._candidates(items, path)
        errors_NK = self._errors(items, candidates, path, progress)
        length_N = np.array([item.length for item in items], np.float64)
        best = _first_least(errors_NK)
        chosen = candidates[best]
        held_out = None
        if len(ids) > 1:
            fold_of = dict(
                zip(
                    (ids[at] for at in numpy_generator(seed, "folds").permutation(len(ids))),
                    (number % folds for number in range(len(ids))),
                    strict=True,
                )
            )
            fold_N = np.array([fold_of[item.id] for item in items])
            errors = 0.0
            for number in np.unique(fold_N):
                inside_N = fold_N == number
                at = _first_least(errors_NK[~inside_N])
                errors += float(errors_NK[inside_N, at].sum())
            held_out = errors / float(length_N.sum())
        end = _end_of(chosen, path)
        if end is not None:
            warnings.warn(
                f"the router {end} switches to the {path} path: the best threshold stands at the "
                "end of the grid",
                stacklevel=3,
            )
        verdict = replace(self, **chosen)._verdict(items, errors_NK[:, best])
        return chosen, Calibration(path, verdict, held_out, len(candidates), end, tuple(ids))

    def _candidates(self, items: Sequence[Item], path: str) -> list[dict[str, Any]]:
        """List settings, those that listen most to the ear first."""
        score_N = np.array([item.s for item in items])
        name = "tau_ref" if path == "reference" else "tau"
        decoded = self.policy == "soft" or self.scope == "segment"
        if path == "reference" and self.policy == "llr":
            settings = [{"a": -math.inf, "b": 0.0}]
            for b in GRID_B if self.joint else (0.0,):
                values: Sequence[float] = GRID_A
                if not self.joint and not decoded:
                    values = _observed(np.array([_ratio(item) for item in items]))
                if decoded:
                    values = GRID_A[:: 1 + len(GRID_A) // _DECODED_CANDIDATES]
                settings += [{"a": float(a), "b": b} for a in values]
                if decoded:
                    break
            return [*settings, {"a": math.inf, "b": 0.0}]
        if decoded:
            values = np.quantile(score_N, np.linspace(0.05, 0.95, _DECODED_CANDIDATES)).tolist()
        else:
            values = _observed(score_N)
        settings = [{name: math.inf}]
        for value in reversed(values):
            if self.policy == "soft":
                spread = float(score_N.std()) or 1e-3
                settings += [{name: value, "width": scale * spread} for scale in _SOFT_WIDTHS]
            else:
                settings.append({name: value})
        return [*settings, {name: -math.inf}]

    def _errors(
        self,
        items: Sequence[Item],
        candidates: Sequence[Mapping[str, Any]],
        path: Literal["reference", "hypothesis"],
        progress: ProgressTask | None,
    ) -> np.ndarray:
        """Return the errors of every item under every setting, float64 (N, K)."""
        errors_NK = np.empty((len(items), len(candidates)))
        for at, candidate in enumerate(candidates):
            setting = replace(self, **candidate)
            errors_NK[:, at] = [setting._errors_of(item, progress) for item in items]
        return errors_NK

    def _errors_of(self, item: Item, progress: ProgressTask | None = None) -> float:
        if self.policy != "soft" and self.scope == "utterance":
            ratio = _ratio(item) if self._needs_ratio(item) else None
            return item.top_down if self.weight(item.s, ratio, item.path) else item.bottom_up
        end = _end_of(asdict(replace(self, calibrations={})), item.path, self.policy)
        if end is not None:
            # Nothing differs within the utterance: these are the two paths themselves.
            return item.bottom_up if end == "never" else item.top_down
        if item.decode is None:
            raise ValueError(
                f'{item.id!r} has no decode, which policy="soft" and scope="segment" need; '
                "HuPER.measure makes such items"
            )
        errors = item.decode(self)
        if progress is not None:
            progress.advance(1)
        return errors

    def _needs_ratio(self, item: Item) -> bool:
        return self.policy == "llr" and item.path == "reference"

    def _verdict(self, items: Sequence[Item], errors_N: np.ndarray) -> Verdict:
        length = float(sum(item.length for item in items))
        low = math.fsum(item.bottom_up for item in items)
        high = math.fsum(item.top_down for item in items)
        least = math.fsum(min(item.bottom_up, item.top_down) for item in items)
        rate = None
        if self.scope == "utterance":
            shares = [
                self.weight(item.s, item.ratio, item.path) / self.full_weight(item.path)
                for item in items
            ]
            rate = sum(shares) / len(shares)
        return Verdict(
            math.fsum(errors_N.tolist()) / length,
            low / length,
            high / length,
            least / length,
            rate,
            len(items),
            len({item.id for item in items}),
        )

    def evaluate(self, items: Sequence[Item]) -> Verdict:
        """Judge the thresholds on other utterances.

        Raises
        ------
        ValueError
            If an utterance took part in the calibration, or there is none.
        """
        if not items:
            raise ValueError("an evaluation needs at least one item")
        self.check_unseen([item.id for item in items])
        _check_lengths(items)
        return self._verdict(items, np.array([self._errors_of(item) for item in items]))

    def check_unseen(self, ids: Sequence[str]) -> None:
        """Refuse utterances that the thresholds were chosen on.

        Raises
        ------
        ValueError
            Naming some of them.
        """
        used = {one for found in self.calibrations.values() for one in found.ids}
        if both := sorted(used & set(ids)):
            names = ", ".join(both[:3]) + (", …" if len(both) > 3 else "")
            raise ValueError(
                f"{len(both)} utterances chose the threshold and cannot judge it: {names}"
            )

    # Files --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON; infinite numbers are strings."""
        return {name: _written(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Scheduler:
        """Read what `to_dict` gave.

        Raises
        ------
        ValueError
            If a setting is unknown or out of range.
        """
        given = {name: _read(value) for name, value in content.items()}
        known = set(cls.__dataclass_fields__)
        if unknown := sorted(set(given) - known):
            raise ValueError(f"a scheduler has no {', '.join(unknown)}")
        given["calibrations"] = {
            path: Calibration(
                **{
                    **found,
                    "verdict": Verdict(**found["verdict"]),
                    "ids": tuple(found["ids"]),
                }
            )
            for path, found in given.get("calibrations", {}).items()
        }
        return cls(**given)

    def to_json(self, indent: int | None = None) -> str:
        """Return JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Scheduler:
        """Read what `to_json` gave."""
        return cls.from_dict(json.loads(text))


def _check_lengths(items: Sequence[Item]) -> None:
    if not sum(item.length for item in items):
        raise ValueError("the items have no phone in their truth: there is no error rate")


def _ratio(item: Item) -> float:
    if item.ratio is None:
        raise ValueError(f'{item.id!r} has no evidence ratio, which policy="llr" needs')
    return item.ratio


def _observed(values_N: np.ndarray) -> list[float]:
    """Return the finite values that were seen, or as many quantiles of them as are tried."""
    values = np.unique(values_N[np.isfinite(values_N)])
    if len(values) > _MOST_CANDIDATES:
        values = np.unique(
            np.quantile(values, np.linspace(0, 1, _MOST_CANDIDATES), method="inverted_cdf")
        )
    found: list[float] = values.tolist()
    return found


def _first_least(errors_NK: np.ndarray) -> int:
    """Return the first column with the smallest sum; sums are exact, so that equals are equal."""
    sums = [math.fsum(column) for column in errors_NK.T.tolist()]
    return sums.index(min(sums))


def _end_of(setting: Mapping[str, Any], path: str, policy: str | None = None) -> str | None:
    """Say whether a setting never or always lets a path in, by its infinite threshold."""
    if path == "reference" and ("a" in setting if policy is None else policy == "llr"):
        value = -setting["a"]
    else:
        value = setting["tau_ref" if path == "reference" else "tau"]
    if not math.isinf(value):
        return None
    return "never" if value > 0 else "always"


_INFINITE = {"inf": math.inf, "-inf": -math.inf}


def _written(value: Any) -> Any:
    """Write infinite settings as strings, which JSON has no numbers for, and tuples as lists."""
    if isinstance(value, dict):
        return {name: _written(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _read(value: Any) -> Any:
    return _INFINITE.get(value, value) if isinstance(value, str) else value
