"""Whom to believe: the ear, or what should have been said.

Takes emissions and numbers about them, and gives a decision with its reason. A distortion score
says how unsure the recognizer is; an evidence ratio says what believing the reference costs; a
`Scheduler` compares them with thresholds that `Scheduler.calibrate` finds on utterances of one's
own, never on those that it is judged by. It runs no model and decodes nothing.

The score and the rule of thresholds are read from "HuPER: A Human-Inspired Framework for Phonetic
Perception" (arXiv 2602.01634), whose exact mix is not known: `beta` sets it. The evidence ratio is
this package's own.

Shape suffixes: B utterances, T frames, C classes.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, overload

import numpy as np

from modicum.core.device import numpy_generator
from modicum.huper.audio import HOP, frame_count
from modicum.huper.emissions import Emissions

__all__ = [
    "BOTTOM_UP",
    "HYPOTHESIS",
    "PATHS",
    "REFERENCE",
    "Calibration",
    "Decision",
    "Observation",
    "Scheduler",
    "distortion_score",
    "evidence_ratio",
    "local_uncertainty",
    "segment_scores",
    "voiced_frames",
]

BOTTOM_UP, HYPOTHESIS, REFERENCE = "bottom-up", "hypothesis", "reference"
PATHS = (BOTTOM_UP, HYPOTHESIS, REFERENCE)

_POLICIES = ("threshold", "llr", "soft")
_SCOPES = ("utterance", "segment")
_FRAMES = ("all", "speech", "vad")
_POOLS = ("mean", "quantile")

_A_GRID = np.arange(0.0, 6.25, 0.25)
_B_GRID = np.arange(0.0, 85.0, 5.0)
_FOLDS = 5
_FEW = 30
"""Utterances below which a threshold is mostly chance."""

_SHORTEST_SEGMENT = 0.3
_VOICED_DB = 30.0
"""Frames that are this much weaker than the loudest one are taken for silence."""


# Numbers about an utterance -----------------------------------------------------------------------


def local_uncertainty(logprobs_TC: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """Compute how unsure each frame is.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities, C at least 2.
    beta
        β in [0, 1], the share of the entropy: β · entropy / log C + (1 − β) · (1 − margin), where
        the margin is the distance of the two largest probabilities.

    Returns
    -------
    np.ndarray
        (T,) float64 in [0, 1]: 0 for a frame that is sure of one class, 1 for a uniform one (with
        β < 1 as well).
    """
    _check_beta(beta)
    logprobs_TC = np.asarray(logprobs_TC, np.float64)
    if logprobs_TC.ndim != 2 or logprobs_TC.shape[1] < 2:
        raise ValueError(
            f"log-probabilities have the shape (T, C) with C > 1, got {logprobs_TC.shape}"
        )
    if not len(logprobs_TC):
        return np.zeros(0)
    prob_TC = np.exp(logprobs_TC)
    # What is impossible adds nothing: 0 · log 0 = 0.
    terms_TC = np.where(prob_TC > 0, prob_TC * np.where(prob_TC > 0, logprobs_TC, 0.0), 0.0)
    entropy_T = -terms_TC.sum(1) / math.log(prob_TC.shape[1])
    top_T2 = np.partition(prob_TC, -2, axis=1)[:, -2:]
    margin_T = top_T2[:, 1] - top_T2[:, 0]
    return np.clip(beta * entropy_T + (1 - beta) * (1 - margin_T), 0.0, 1.0)


@overload
def distortion_score(
    emissions: Emissions,
    beta: float = ...,
    *,
    frames: str = ...,
    pool: str = ...,
    quantile: float = ...,
    blank: int = ...,
    voiced: Any = ...,
) -> np.ndarray: ...


@overload
def distortion_score(
    emissions: np.ndarray,
    beta: float = ...,
    *,
    frames: str = ...,
    pool: str = ...,
    quantile: float = ...,
    blank: int = ...,
    voiced: Any = ...,
) -> float: ...


def distortion_score(
    emissions: Emissions | np.ndarray,
    beta: float = 1.0,
    *,
    frames: str = "all",
    pool: str = "mean",
    quantile: float = 0.9,
    blank: int = 0,
    voiced: Any = None,
) -> float | np.ndarray:
    """Compute the distortion score s of utterances from their local uncertainty.

    Parameters
    ----------
    emissions
        `Emissions` of B utterances, or (T, C) log-probabilities of one.
    beta
        As for `local_uncertainty`. The entropy alone follows the error rate best.
    frames
        Which count: ``"all"``; ``"speech"``, those whose best class is not the blank; ``"vad"``,
        those of `voiced`.
    pool
        ``"mean"``, or ``"quantile"`` for the `quantile` over frames.
    quantile
        Between 0 and 1.
    blank
        Column of the blank, for log-probabilities that are no `Emissions`.
    voiced
        For ``"vad"``: (T,) booleans, such as `voiced_frames` gives; a list of them for a batch.

    Returns
    -------
    float or (B,) float64
        In [0, 1]; 0 where no frame counts.

    Raises
    ------
    ValueError
        If an option is out of range, or ``"vad"`` has no fitting `voiced`.
    """
    _check_choice("frames", frames, _FRAMES)
    _check_choice("pool", pool, _POOLS)
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], got {quantile}")
    if frames == "vad" and voiced is None:
        raise ValueError('frames="vad" needs voiced=: which frames have a voice')
    if isinstance(emissions, Emissions):
        masks = [None] * len(emissions) if voiced is None else list(voiced)
        if len(masks) != len(emissions):
            raise ValueError(f"{len(emissions)} utterances need as many voiced, got {len(masks)}")
        rows = [emissions.utterance(b) for b in range(len(emissions))]
        return np.array(
            [
                _pooled(row_TC, beta, frames, pool, quantile, emissions.blank, mask)
                for row_TC, mask in zip(rows, masks, strict=True)
            ]
        )
    return _pooled(np.asarray(emissions), beta, frames, pool, quantile, blank, voiced)


def _pooled(
    logprobs_TC: np.ndarray,
    beta: float,
    frames: str,
    pool: str,
    quantile: float,
    blank: int,
    voiced: Any,
) -> float:
    uncertain_T = local_uncertainty(logprobs_TC, beta)
    if frames == "speech":
        uncertain_T = (
            uncertain_T[logprobs_TC.argmax(1) != blank] if len(uncertain_T) else uncertain_T
        )
    elif frames == "vad":
        mask_T = np.asarray(voiced, bool)
        if mask_T.shape != uncertain_T.shape:
            raise ValueError(f"{len(uncertain_T)} frames need as many voiced, got {mask_T.shape}")
        uncertain_T = uncertain_T[mask_T]
    if not len(uncertain_T):
        return 0.0
    return float(uncertain_T.mean() if pool == "mean" else np.quantile(uncertain_T, quantile))


def voiced_frames(samples_N: np.ndarray) -> np.ndarray:
    """Say which frames of 20 ms are not silence, by their energy.

    Parameters
    ----------
    samples_N
        float (N,) at 16 kHz, N at least 400.

    Returns
    -------
    np.ndarray
        bool (T,), T as `modicum.huper.audio.frame_count` gives: at most 30 dB below the loudest
        frame. Nothing is voiced in digital silence.
    """
    count = frame_count(len(samples_N))
    starts = np.arange(count) * HOP
    power = np.concatenate([[0.0], np.cumsum(np.square(samples_N, dtype=np.float64))])
    energy_T = power[np.minimum(starts + 400, len(samples_N))] - power[starts]
    return np.asarray((energy_T > 0) & (energy_T >= energy_T.max() * 10 ** (-_VOICED_DB / 10)))


def evidence_ratio(logprobs_TC: np.ndarray, score: float, length: int) -> float:
    """Compute Λ, what believing the reference costs.

    Λ = (Σ_t max_c logprobs[t, c] − score) / L, in nats for each phone of the reference: about the
    logarithm of how much likelier the frames are without it. Small where speaker and reference
    agree.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities.
    score
        Of `graph.fused_decode` with the reference; −inf where it found no path.
    length
        L, the phones of the reference; an empty one counts as one phone.

    Returns
    -------
    float
        At least 0 if weights of edits are not positive; inf without a path.
    """
    if length < 0:
        raise ValueError(f"a reference has at least 0 phones, got {length}")
    best = float(np.asarray(logprobs_TC, np.float64).max(1).sum()) if len(logprobs_TC) else 0.0
    return (best - float(score)) / max(length, 1)


def segment_scores(
    logprobs_TC: np.ndarray,
    frame_shift: float,
    *,
    seconds: float = 0.5,
    beta: float = 1.0,
) -> np.ndarray:
    """Compute s by windows, for bursts of noise.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities.
    frame_shift
        Seconds from one frame to the next.
    seconds
        Length of a window, at least 0.3; the utterance is cut into windows of equal length that
        are at least as long.
    beta
        As for `local_uncertainty`.

    Returns
    -------
    np.ndarray
        (T,) for each frame the score of its window.
    """
    if not seconds >= _SHORTEST_SEGMENT:
        raise ValueError(f"windows must last at least {_SHORTEST_SEGMENT} s, got {seconds}")
    uncertain_T = local_uncertainty(logprobs_TC, beta)
    count = max(1, int(len(uncertain_T) * frame_shift / seconds))
    parts = np.array_split(uncertain_T, count)
    return np.concatenate([np.full(len(part), part.mean() if len(part) else 0.0) for part in parts])


# Decisions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """Which path to take.

    Attributes
    ----------
    path
        One of `PATHS`.
    reason
        In words.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Observation:
    """What calibration needs to know of an utterance.

    Attributes
    ----------
    id
        Of the utterance; several observations of one, such as noisy versions, share it.
    s
        Distortion score.
    bottom_up_errors, top_down_errors
        Edit distance of either path's phones to the realized ones.
    phones
        Number of realized phones.
    evidence_ratio
        Λ of the reference; None if the top-down path follows a hypothesis of its own.
    errors_by_lam
        For the soft policy: edit distance after decoding with each λ.
    """

    id: str
    s: float
    bottom_up_errors: float
    top_down_errors: float
    phones: int
    evidence_ratio: float | None = None
    errors_by_lam: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """How well a rule does; risks are phone error rates, edits over realized phones.

    Attributes
    ----------
    path
        Which decision: ``"reference"`` or ``"hypothesis"``.
    count
        Observations.
    risk
        On the observations that chose the numbers.
    cross_validated
        Of numbers that were chosen without the utterance, in five folds of utterances; None with
        fewer than two utterances.
    bottom_up, top_down
        Of either path taken always.
    oracle
        Of the better path for each utterance.
    switched
        Share of the observations that go top-down.
    notes
        What to be careful about.
    """

    path: str
    count: int
    risk: float
    cross_validated: float | None
    bottom_up: float
    top_down: float
    oracle: float
    switched: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scheduler:
    """The rule that chooses between paths.

    ``"threshold"`` takes the reference where the distortion score s exceeds `tau_ref`: the paper's
    rule. ``"llr"`` takes it where the evidence ratio Λ is below a + b · s: a clean signal that does
    not fit the reference means that something else was said, a noisy one may deviate more.
    ``"soft"`` always decodes with the reference, with the weight λ = λ_max · σ((s − tau_ref) /
    width). Without a reference, or where it is not believed, the perceiver's hypothesis is taken
    where s exceeds `tau`.

    Parameters
    ----------
    policy
        ``"llr"``, ``"threshold"`` or ``"soft"``.
    scope
        ``"utterance"``, or ``"segment"``: λ changes from window to window of one decoding, with
        their scores; for ``"threshold"`` (λ_max or 0) and ``"soft"``.
    tau, tau_ref
        τ in s for the hypothesis and for the reference, inf for never, −inf for always; `tau_ref`
        is `tau` if None.
    a, b
        In nats per phone, and nats per phone and unit of s.
    width
        Of the soft rule, in units of s.
    lam_max
        Largest λ of the soft rule.
    beta, frames, pool, quantile
        Of the distortion score, as for `distortion_score`.
    seconds
        Of a segment.
    dev_ids
        The utterances that the numbers were chosen on.
    calibrations
        What they did there.

    Raises
    ------
    ValueError
        If a number or a name is out of range.

    Notes
    -----
    The default numbers were chosen on utterances of espeak-ng in white noise and belong to the
    model that comes with the package. Calibrate with your own.
    """

    policy: Literal["threshold", "llr", "soft"] = "llr"
    scope: Literal["utterance", "segment"] = "utterance"
    tau: float = 0.05
    tau_ref: float | None = None
    a: float = 0.25
    b: float = 35.0
    width: float = 0.01
    lam_max: float = 1.0
    beta: float = 1.0
    frames: str = "all"
    pool: str = "mean"
    quantile: float = 0.9
    seconds: float = 0.5
    dev_ids: frozenset[str] = frozenset()
    calibrations: tuple[Calibration, ...] = ()

    def __post_init__(self) -> None:
        _check_choice("policy", self.policy, _POLICIES)
        _check_choice("scope", self.scope, _SCOPES)
        _check_choice("frames", self.frames, _FRAMES)
        _check_choice("pool", self.pool, _POOLS)
        _check_beta(self.beta)
        if self.scope == "segment" and self.policy == "llr":
            raise ValueError(
                'scope="segment" goes with policy="threshold" or "soft": the evidence ratio is one '
                "number for an utterance"
            )
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be in [0, 1], got {self.quantile}")
        for name in ("tau", "tau_ref", "a", "b"):
            value = getattr(self, name)
            if value is not None and math.isnan(value):
                raise ValueError(f"{name} must be a number, got nan")
        if not 0 <= self.b < math.inf:
            raise ValueError(f"b must be finite and at least 0, got {self.b}")
        if not 0 < self.width < math.inf:
            raise ValueError(f"width must be positive and finite, got {self.width}")
        if not 0 <= self.lam_max < math.inf:
            raise ValueError(f"lam_max must be finite and at least 0, got {self.lam_max}")
        if not self.seconds >= _SHORTEST_SEGMENT:
            raise ValueError(f"seconds must be at least {_SHORTEST_SEGMENT}, got {self.seconds}")
        object.__setattr__(self, "dev_ids", frozenset(self.dev_ids))
        object.__setattr__(self, "calibrations", tuple(self.calibrations))

    # Rules --------------------------------------------------------------------------------------

    def score(
        self, emissions: Emissions | np.ndarray, *, voiced: Any = None, blank: int = 0
    ) -> Any:
        """Compute s as the scheduler wants it; see `distortion_score`."""
        return distortion_score(
            emissions,
            self.beta,
            frames=self.frames,
            pool=self.pool,
            quantile=self.quantile,
            blank=blank,
            voiced=voiced,
        )

    def believes(self, s: float, ratio: float | None) -> bool:
        """Say whether a reference is to be followed.

        Parameters
        ----------
        s
            Distortion score.
        ratio
            Λ; needed for ``"llr"`` only.

        Raises
        ------
        ValueError
            If Λ is needed and missing.
        """
        if self.policy == "llr":
            if ratio is None:
                raise ValueError('policy="llr" needs the evidence ratio of the reference')
            return bool(ratio < self.a + self.b * s)
        return self.policy == "soft" or bool(s > self._tau_ref)

    def decide(
        self,
        s: float,
        ratio: float | None = None,
        *,
        reference: bool = True,
        hypothesis: bool = False,
    ) -> Decision:
        """Choose a path.

        Parameters
        ----------
        s
            Distortion score.
        ratio
            Λ of the reference.
        reference, hypothesis
            Whether there is a reference; whether there is a perceiver that can make a hypothesis.
        """
        if reference:
            if self.policy == "soft":
                return Decision(REFERENCE, f"soft: λ = {self.soft_lam(s):.3g} at s = {s:.3g}")
            believed = self.believes(s, ratio)
            if self.policy == "llr":
                sign, limit = "<" if believed else "≥", self.a + self.b * s
                why = f"evidence ratio {ratio:.3g} {sign} {limit:.3g}"
            else:
                why = f"s = {s:.3g} {'>' if believed else '≤'} {self._tau_ref:.3g}"
            if believed:
                return Decision(REFERENCE, why)
        else:
            why = "no reference"
        if hypothesis and s > self.tau:
            return Decision(HYPOTHESIS, f"{why}; s = {s:.3g} > {self.tau:.3g}")
        if hypothesis:
            return Decision(BOTTOM_UP, f"{why}; s = {s:.3g} ≤ {self.tau:.3g}")
        return Decision(BOTTOM_UP, why)

    def soft_lam(self, s: Any) -> Any:
        """Compute λ of the soft rule for a score or an array of scores."""
        x = np.clip((np.asarray(s, np.float64) - self._tau_ref) / self.width, -700.0, 700.0)
        found = self.lam_max / (1 + np.exp(-x))
        return float(found) if found.ndim == 0 else found

    def lam_by_frame(self, logprobs_TC: np.ndarray, frame_shift: float) -> np.ndarray:
        """Compute (T,) λ for the scope ``"segment"``."""
        s_T = segment_scores(logprobs_TC, frame_shift, seconds=self.seconds, beta=self.beta)
        if self.policy == "soft":
            return np.asarray(self.soft_lam(s_T))
        return np.where(s_T > self._tau_ref, self.lam_max, 0.0)

    @property
    def _tau_ref(self) -> float:
        return self.tau if self.tau_ref is None else self.tau_ref

    # Calibration --------------------------------------------------------------------------------

    def calibrate(
        self, observations: Iterable[Observation], *, joint: bool = True, seed: int = 0
    ) -> Scheduler:
        """Choose the numbers of the rule that make the fewest errors on dev utterances.

        Observations with an evidence ratio are about references, the others about hypotheses;
        either kind sets its own number. A pure path is always among the candidates, so that the
        risk on the observations is at most that of either; ties go to the ear.

        Parameters
        ----------
        observations
            Of the dev utterances.
        joint
            For ``"llr"``: search a in [0, 6] by .25 and b in [0, 80] by 5, ties to the smaller b;
            otherwise b = 0 and a among the observed ratios.
        seed
            Of the five folds.

        Returns
        -------
        Scheduler
            With the numbers, `dev_ids` and `calibrations`.

        Raises
        ------
        ValueError
            If there is no observation or no realized phone, or the scope is ``"segment"``.

        Warns
        -----
        UserWarning
            If there are fewer than 30 utterances, or the rule always or never switches.
        """
        found = list(observations)
        if not found:
            raise ValueError("there is no observation to calibrate on")
        if self.scope == "segment":
            raise ValueError('calibrate with scope="utterance", then set scope="segment"')
        groups = {
            REFERENCE: [one for one in found if one.evidence_ratio is not None],
            HYPOTHESIS: [one for one in found if one.evidence_ratio is None],
        }
        changes: dict[str, Any] = {}
        if groups[HYPOTHESIS] and not groups[REFERENCE]:
            # The number for references stays what it was.
            changes["tau_ref"] = self._tau_ref
        if groups[REFERENCE] and self.tau_ref is None:
            changes["tau_ref"] = self.tau
        reports = []
        for path, group in groups.items():
            if not group:
                continue
            if sum(one.phones for one in group) <= 0:
                raise ValueError("the observations have no realized phone to be right about")
            fit = _fitter(self if path == REFERENCE else replace(self, policy="threshold"), joint)
            chosen = fit(group)
            if path == REFERENCE:
                changes |= chosen
            else:
                changes["tau"] = chosen["tau_ref"]
            reports.append(_calibration(path, self, group, chosen, fit, seed))
        for report in reports:
            for note in report.notes:
                warnings.warn(f"{report.path}: {note}", UserWarning, stacklevel=2)
        return replace(
            self,
            **changes,
            dev_ids=frozenset(one.id for one in found),
            calibrations=tuple(reports),
        )

    def evaluate(self, observations: Iterable[Observation]) -> tuple[Calibration, ...]:
        """Report the risk of the rule on utterances that it has not seen.

        Raises
        ------
        ValueError
            If an utterance was calibrated on, or there is none.
        """
        found = list(observations)
        if not found:
            raise ValueError("there is no observation to evaluate on")
        seen = sorted({one.id for one in found} & self.dev_ids)
        if seen:
            raise ValueError(
                f"{len(seen)} utterances were calibrated on, such as {seen[0]!r}: the risk on them "
                "says nothing about others"
            )
        reports = []
        for path in (REFERENCE, HYPOTHESIS):
            group = [one for one in found if (one.evidence_ratio is None) == (path == HYPOTHESIS)]
            if group:
                rule = self if path == REFERENCE else _hypothesis_rule(self)
                reports.append(_summary(path, group, rule.errors(group), rule.switches(group)))
        return tuple(reports)

    def errors(self, observations: Sequence[Observation]) -> np.ndarray:
        """Return the edits that the rule for references makes on each observation."""
        if self.policy == "soft":
            return np.array([_at_lam(one, self.soft_lam(one.s)) for one in observations])
        return np.where(
            self.switches(observations),
            [one.top_down_errors for one in observations],
            [one.bottom_up_errors for one in observations],
        )

    def switches(self, observations: Sequence[Observation]) -> np.ndarray:
        """Say for which observations the rule for references goes top-down."""
        if self.policy == "soft":
            return np.array([self.soft_lam(one.s) > self.lam_max / 2 for one in observations])
        return np.array([self.believes(one.s, one.evidence_ratio) for one in observations])

    # Files --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for JSON."""
        content = asdict(self)
        content["dev_ids"] = sorted(self.dev_ids)
        content["calibrations"] = [asdict(one) for one in self.calibrations]
        for one in content["calibrations"]:
            one["notes"] = list(one["notes"])
        return {
            name: str(value) if isinstance(value, float) and math.isinf(value) else value
            for name, value in content.items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Scheduler:
        """Read what `to_dict` gave.

        Raises
        ------
        ValueError
            If a field is not known.
        """
        values = dict(content)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"a scheduler has no field {unknown[0]!r}")
        for name in ("tau", "tau_ref", "a"):
            if isinstance(values.get(name), str):
                values[name] = float(values[name])
        values["dev_ids"] = frozenset(values.get("dev_ids", ()))
        values["calibrations"] = tuple(
            Calibration(**{**one, "notes": tuple(one["notes"])})
            for one in values.get("calibrations", ())
        )
        return cls(**values)

    def to_json(self) -> str:
        """Return JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Scheduler:
        """Read what `to_json` gave."""
        return cls.from_dict(json.loads(text))


# Choosing the numbers -----------------------------------------------------------------------------


def _hypothesis_rule(scheduler: Scheduler) -> Scheduler:
    return replace(scheduler, policy="threshold", tau_ref=scheduler.tau)


def _fitter(scheduler: Scheduler, joint: bool) -> Any:
    """Give the function that chooses the numbers of the rule from observations."""
    if scheduler.policy == "threshold":
        return _fit_threshold
    if scheduler.policy == "soft":
        return lambda group: _fit_soft(scheduler, group)
    return _fit_joint if joint else _fit_ratio


def _fit_threshold(group: Sequence[Observation]) -> dict[str, Any]:
    """Choose τ among −inf, inf and the observed scores; s > τ goes top-down."""
    gain, score = _gains(group), np.array([one.s for one in group])
    return {"tau_ref": -_best_cut(-score, gain)}


def _fit_ratio(group: Sequence[Observation]) -> dict[str, Any]:
    """Choose a alone; Λ < a goes top-down."""
    ratio = np.array([one.evidence_ratio for one in group], np.float64)
    return {"a": _best_cut(ratio, _gains(group)), "b": 0.0}


def _best_cut(values: np.ndarray, gain: np.ndarray) -> float:
    """Choose c, from −inf up, so that the gain of all values < c is largest; the least such c."""
    cuts = np.unique(np.concatenate([[-np.inf, np.inf], values]))
    totals = np.array([gain[values < cut].sum() for cut in cuts])
    return float(cuts[int(np.argmax(totals))])


def _fit_joint(group: Sequence[Observation]) -> dict[str, Any]:
    gain = _gains(group)
    s = np.array([one.s for one in group])
    ratio = np.array([one.evidence_ratio for one in group], np.float64)
    best = (0.0, -math.inf, 0.0)
    # From never to always: what comes first wins a tie, so the order is by b, then by a.
    for b in _B_GRID:
        for a in _A_GRID:
            total = float(gain[ratio < a + b * s].sum())
            if total > best[0]:
                best = (total, float(a), float(b))
    if float(gain.sum()) > best[0]:
        best = (float(gain.sum()), math.inf, 0.0)
    return {"a": best[1], "b": best[2]}


def _fit_soft(scheduler: Scheduler, group: Sequence[Observation]) -> dict[str, Any]:
    """Choose τ and the width among the observed scores' quantiles and their spread."""
    scores = np.array([one.s for one in group])
    spread = max(float(np.ptp(scores)), 1e-6)
    best: tuple[float, float, float] | None = None
    # Ties go to the ear: large τ first.
    for tau in (math.inf, *np.unique(np.quantile(scores, np.linspace(0, 1, 21)))[::-1], -math.inf):
        for width in (spread / 50, spread / 10, spread / 3):
            rule = replace(scheduler, tau_ref=float(tau), width=width)
            total = float(rule.errors(group).sum())
            if best is None or total < best[0]:
                best = (total, float(tau), width)
    assert best is not None
    return {"tau_ref": best[1], "width": best[2]}


def _at_lam(one: Observation, lam: float) -> float:
    if not one.errors_by_lam:
        raise ValueError(f'policy="soft" needs errors_by_lam, and {one.id!r} has none')
    return float(one.errors_by_lam[min(one.errors_by_lam, key=lambda known: abs(known - lam))])


def _gains(group: Sequence[Observation]) -> np.ndarray:
    """Give how many edits the top-down path saves."""
    return np.array([one.bottom_up_errors - one.top_down_errors for one in group], np.float64)


def _calibration(
    path: str,
    scheduler: Scheduler,
    group: Sequence[Observation],
    chosen: dict[str, Any],
    fit: Any,
    seed: int,
) -> Calibration:
    base = scheduler if path == REFERENCE else replace(scheduler, policy="threshold")
    rule = replace(base, **chosen)
    report = _summary(path, group, rule.errors(group), rule.switches(group))
    notes = []
    ids = sorted({one.id for one in group})
    if len(ids) < _FEW:
        notes.append(f"calibrated on {len(ids)} utterances; fewer than {_FEW} are mostly chance")
    if report.switched in (0.0, 1.0):
        notes.append(f"the router {'always' if report.switched else 'never'} switches")
    return replace(
        report, cross_validated=_cross_validated(base, group, ids, fit, seed), notes=tuple(notes)
    )


def _cross_validated(
    base: Scheduler, group: Sequence[Observation], ids: Sequence[str], fit: Any, seed: int
) -> float | None:
    """Choose without each fold of utterances, judge on it."""
    if len(ids) < 2:
        return None
    order = numpy_generator(seed, "calibration folds").permutation(len(ids))
    fold_of = {ids[at]: place % _FOLDS for place, at in enumerate(order)}
    edits = phones = 0.0
    for fold in range(min(_FOLDS, len(ids))):
        inside = [one for one in group if fold_of[one.id] == fold]
        rule = replace(base, **fit([one for one in group if fold_of[one.id] != fold]))
        edits += float(rule.errors(inside).sum())
        phones += sum(one.phones for one in inside)
    return edits / phones if phones else None


def _summary(
    path: str, group: Sequence[Observation], errors: np.ndarray, switched: np.ndarray
) -> Calibration:
    phones = sum(one.phones for one in group)
    if phones <= 0:
        raise ValueError("the observations have no realized phone to be right about")
    ear = np.array([one.bottom_up_errors for one in group], np.float64)
    book = np.array([one.top_down_errors for one in group], np.float64)
    return Calibration(
        path=path,
        count=len(group),
        risk=float(errors.sum()) / phones,
        cross_validated=None,
        bottom_up=float(ear.sum()) / phones,
        top_down=float(book.sum()) / phones,
        oracle=float(np.minimum(ear, book).sum()) / phones,
        switched=float(np.mean(switched)),
    )


def _check_beta(beta: float) -> None:
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
