"""What networks could represent, with intervals, and what that says of models against Q-functions.

Holds sums of errors of every target, width and seed, and resamples seeds and episodes, the same
draws for all targets, so that targets are compared in pairs. Trains nothing.

Legend: ``R`` resamples, ``S`` seeds, ``c`` clusters of rows, ``d`` dimensions of a target.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import dumps, write_atomic
from modicum.repcomplexity.metrics import ErrorSums, get_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Cell", "Comparison", "Estimate", "Measurement", "Verdict"]

REQUIRED_METRICS = ("fvu", "fvu_perdim", "zhu2024")
"""Metrics that every verdict looks at: no conclusion rests on one of them alone."""
MODEL_EASIER, Q_EASIER, INCONCLUSIVE = "model easier", "Q easier", "inconclusive"
DEPENDS_ON_METRIC, DEPENDS_ON_WIDTH = "depends on metric", "depends on width"
UNDEFINED = "undefined"
FEW_CLUSTERS = 10
"""Held-out episodes below which intervals are too narrow to be taken at their word."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One trained network: what it cost and how far off it is.

    Attributes
    ----------
    width, parameters
        Units of its hidden layers, and its weights and biases.
    sums
        Sums of errors by the name of the rows (`Metric.rows`), of clusters ``(c,)``.
    """

    width: int
    parameters: int
    sums: Mapping[str, ErrorSums]


@dataclass(frozen=True)
class Estimate:
    """A metric of one target at one width, over all seeds.

    Attributes
    ----------
    target, width, parameters, metric
        What of what.
    value, low, high
        The metric and its interval; NaN where it is not defined.
    per_dimension
        The metric of each dimension as a target of its own, ``(d,)``.
    degenerate
        Whether the target is constant, so that there is no variance to explain.
    constant_dimensions
        How many dimensions of the target are constant.
    """

    target: str
    width: int
    parameters: int
    metric: str
    value: float
    low: float
    high: float
    per_dimension: np.ndarray = field(repr=False, compare=False)
    degenerate: bool
    constant_dimensions: int


@dataclass(frozen=True)
class Comparison:
    """Q against the transition under one metric at one width.

    Attributes
    ----------
    width, metric
        Where.
    ratio, low, high
        Error of Q divided by that of the transition, and its interval from paired resamples.
    outcome
        ``"model easier"``, ``"Q easier"``, ``"inconclusive"``, or ``"undefined"``.
    """

    width: int
    metric: str
    ratio: float
    low: float
    high: float
    outcome: str


@dataclass(frozen=True)
class Verdict:
    """What a measurement says about a transition and a Q-function.

    Attributes
    ----------
    headline
        The outcome that all metrics have at all widths; else ``"depends on metric"``, or
        ``"depends on width"`` where metrics agree at each width.
    by_width
        Outcome at each width.
    comparisons
        Every metric at every width.
    model, q
        The targets that are compared.
    cautions
        What to keep in mind.
    """

    headline: str
    by_width: Mapping[int, str]
    comparisons: Sequence[Comparison]
    model: str
    q: str
    cautions: Sequence[str]

    def __str__(self) -> str:
        lines = [
            f"On the states these data visit: {self.headline} ({self.model} against {self.q})."
        ]
        for width, outcome in self.by_width.items():
            lines.append(f"width {width}: {outcome}")
            lines += [
                f"  {row.metric}: error of {self.q} / error of {self.model} ="
                f" {row.ratio:.3g} [{row.low:.3g}, {row.high:.3g}], {row.outcome}"
                for row in self.comparisons
                if row.width == width
            ]
        lines += [f"Caution: {sentence}" for sentence in self.cautions]
        return "\n".join(lines)


class Measurement:
    """Errors of networks by target, width and seed.

    Parameters
    ----------
    cells
        The networks by (target, width, seed), complete.
    metrics
        Names of the metrics of tables.
    settings
        How it was made; anything JSON holds.
    cautions
        Sentences about the data and the experts.
    resamples, level, seed
        Of the intervals.
    """

    def __init__(
        self,
        cells: Mapping[tuple[str, int, int], Cell],
        metrics: Sequence[str],
        settings: Mapping[str, Any],
        cautions: Iterable[str] = (),
        *,
        resamples: int = 10_000,
        level: float = 0.95,
        seed: int = 0,
    ):
        if resamples < 1 or not 0 < level < 1:
            raise ValueError(
                f"resamples must be at least 1 and level between 0 and 1, not {resamples}, {level}"
            )
        for name in metrics:
            get_metric(name)
        self.cells, self.metrics, self.settings = dict(cells), tuple(metrics), dict(settings)
        self.resamples, self.level, self.seed = resamples, level, seed
        self.targets = tuple(dict.fromkeys(target for target, _, _ in cells))
        self.widths = tuple(sorted({width for _, width, _ in cells}))
        self.seeds = tuple(sorted({number for _, _, number in cells}))
        self.cautions = list(dict.fromkeys([*cautions, *self._few_clusters()]))
        self._resampled_values: dict[tuple[str, int, str], np.ndarray] = {}

    # Numbers ------------------------------------------------------------------------------------

    def estimate(self, target: str, width: int, metric: str) -> Estimate:
        """Return a metric of a target at a width with its interval.

        Raises
        ------
        ValueError
            If the target or width was not measured, or the metric is unknown.
        """
        rows = get_metric(metric).rows
        cell = self._cell(target, width)
        if rows not in cell.sums:
            absent = np.full(0, np.nan)
            nan = float("nan")
            return Estimate(target, width, cell.parameters, metric, nan, nan, nan, absent, False, 0)
        value = get_metric(metric)(self._mean_over_seeds(target, width, rows))
        low, high = self._interval(self.resampled(target, width, metric))
        return Estimate(
            target,
            width,
            cell.parameters,
            metric,
            value.value,
            low,
            high,
            value.per_dimension,
            value.degenerate,
            value.constant_dimensions,
        )

    def estimates(self, metrics: Sequence[str] | None = None) -> list[Estimate]:
        """Return all estimates, target after target; of the measurement's metrics by default."""
        return [
            self.estimate(target, width, metric)
            for target in self.targets
            for width in self.widths
            for metric in (self.metrics if metrics is None else metrics)
        ]

    def resampled(self, target: str, width: int, metric: str) -> np.ndarray:
        """Return a metric in every resample, ``(R,)``; resample r is the same for all targets."""
        key = (target, width, metric)
        if key not in self._resampled_values:
            definition = get_metric(metric)
            sums = self._resampled_sums(target, width, definition.rows)
            self._resampled_values[key] = definition.compute(sums)
        return self._resampled_values[key]

    def _resampled_sums(self, target: str, width: int, rows: str) -> ErrorSums:
        per_seed = [self.cells[target, width, number].sums[rows] for number in self.seeds]
        clusters_Rc = self._cluster_weights(rows, len(per_seed[0].rows))
        parts = [
            _times(sums.weighted(clusters_Rc), self._seed_weights[:, index])
            for index, sums in enumerate(per_seed)
        ]
        return _added(parts)

    @cached_property
    def _seed_weights(self) -> np.ndarray:
        """Share of each seed in each resample, ``(R, S)``."""
        count = len(self.seeds)
        rng = numpy_generator(self.seed, "bootstrap", "seeds")
        return rng.multinomial(count, np.full(count, 1 / count), self.resamples) / count

    def _cluster_weights(self, rows: str, count: int) -> np.ndarray:
        rng = numpy_generator(self.seed, "bootstrap", rows)
        return rng.multinomial(count, np.full(count, 1 / count), self.resamples).astype(float)

    def _mean_over_seeds(self, target: str, width: int, rows: str) -> ErrorSums:
        per_seed = [self.cells[target, width, number].sums[rows].total() for number in self.seeds]
        share = np.asarray(1 / len(per_seed))
        return _added([_times(sums, share) for sums in per_seed])

    def _interval(self, values_R: np.ndarray) -> tuple[float, float]:
        known = values_R[~np.isnan(values_R)]
        if not len(known):
            return float("nan"), float("nan")
        tail = (1 - self.level) / 2
        # Order statistics rounded outwards, so that an infinite ratio harms nothing.
        low = np.quantile(known, tail, method="lower")
        return float(low), float(np.quantile(known, 1 - tail, method="higher"))

    def _cell(self, target: str, width: int) -> Cell:
        if (target, width, self.seeds[0]) not in self.cells:
            raise ValueError(
                f"no target {target!r} at width {width}; there are {', '.join(self.targets)} at"
                f" {', '.join(map(str, self.widths))}"
            )
        return self.cells[target, width, self.seeds[0]]

    def _few_clusters(self) -> list[str]:
        first = next(iter(self.cells.values()))
        count = len(first.sums["test"].rows)
        if count >= FEW_CLUSTERS:
            return []
        return [f"Intervals rest on {count} held-out episodes or blocks, which is few."]

    # Conclusions --------------------------------------------------------------------------------

    def verdict(
        self, *, model: str | None = None, q: str = "q", metrics: Sequence[str] = ()
    ) -> Verdict:
        """Say which of transition and Q-function is represented better, under several metrics.

        Parameters
        ----------
        model
            Target that stands for the model; ``"delta"`` where measured, else ``"next_obs"``.
        q
            Target that stands for the values.
        metrics
            Metrics to look at beside ``fvu``, ``fvu_perdim`` and ``zhu2024``, which are always
            looked at.

        Raises
        ------
        ValueError
            If a target was not measured.
        """
        if model is None:
            model = next((name for name in ("delta", "next_obs") if name in self.targets), "delta")
        names = dict.fromkeys([*REQUIRED_METRICS, *metrics])
        rows = [self._compare(width, name, model, q) for width in self.widths for name in names]
        by_width = {
            width: _agreement([row.outcome for row in rows if row.width == width])
            for width in self.widths
        }
        headline = _headline(list(by_width.values()))
        scope = "Noise of the process itself is not separated from the networks' errors."
        return Verdict(headline, by_width, rows, model, q, [*self.cautions, scope])

    def _compare(self, width: int, metric: str, model: str, q: str) -> Comparison:
        with np.errstate(divide="ignore", invalid="ignore"):
            point = np.divide(
                self.estimate(q, width, metric).value, self.estimate(model, width, metric).value
            )
            ratios_R = self.resampled(q, width, metric) / self.resampled(model, width, metric)
        low, high = self._interval(ratios_R)
        if np.isnan(point):
            outcome = UNDEFINED
        else:
            outcome = MODEL_EASIER if low > 1 else Q_EASIER if high < 1 else INCONCLUSIVE
        return Comparison(width, metric, float(point), low, high, outcome)

    # Ways out -----------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary for each estimate, without its dimensions."""
        names = ("target", "width", "parameters", "metric", "value", "low", "high")
        flags = ("degenerate", "constant_dimensions")
        return [
            {name: getattr(estimate, name) for name in (*names, *flags)}
            for estimate in self.estimates()
        ]

    def table(self) -> str:
        """Return a Markdown table: a row for each target and width, a column for each metric."""
        percent = f"{self.level:.0%}"
        lines = [
            f"| target | width | parameters | {' | '.join(self.metrics)} |",
            "|" + "---|" * (3 + len(self.metrics)),
        ]
        for target in self.targets:
            for width in self.widths:
                found = [self.estimate(target, width, metric) for metric in self.metrics]
                values = " | ".join(_spelled(estimate) for estimate in found)
                lines.append(f"| {target} | {width} | {found[0].parameters} | {values} |")
        return "\n".join([*lines, "", f"In brackets: {percent} bootstrap intervals."])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return everything but the sums as JSON; write it to a file if a path is given."""
        estimates = [vars(estimate) for estimate in self.estimates()]
        content: dict[str, Any] = {
            "settings": self.settings
            | {"resamples": self.resamples, "level": self.level, "bootstrap_seed": self.seed},
            "estimates": estimates,
            "cautions": self.cautions,
        }
        if "q" in self.targets and {"delta", "next_obs"} & set(self.targets):
            verdict = self.verdict()
            content["verdict"] = vars(verdict) | {
                "by_width": {str(width): text for width, text in verdict.by_width.items()},
                "comparisons": [vars(row) for row in verdict.comparisons],
            }
        text = dumps(content)
        if path is not None:
            write_atomic(path, text)
        return text

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the estimates as CSV; write it to a file if a path is given."""
        rows = self.rows()
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if path is not None:
            write_atomic(path, buffer.getvalue())
        return buffer.getvalue()

    def plot_curves(
        self, path: str | os.PathLike[str] | None = None, *, metric: str = "fvu"
    ) -> Figure:
        """Draw a metric against parameters, one line for each target, with its intervals.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from modicum.repcomplexity.plots import error_against_parameters

        curves = {}
        for target in self.targets:
            found = [self.estimate(target, width, metric) for width in self.widths]
            curves[target] = [
                [getattr(estimate, name) for estimate in found]
                for name in ("parameters", "value", "low", "high")
            ]
        figure = error_against_parameters(curves, ylabel=metric)
        if path is not None:
            figure.savefig(Path(path))
        return figure


def _times(sums: ErrorSums, factor: np.ndarray) -> ErrorSums:
    column = factor[..., None]
    reference = sums.reference_error
    return replace(
        sums,
        rows=sums.rows * factor,
        squared_error=sums.squared_error * column,
        shift=sums.shift * column,
        deviation=sums.deviation * column,
        reference_error=None if reference is None else reference * column,
    )


def _added(parts: Sequence[ErrorSums]) -> ErrorSums:
    stacked = ErrorSums(
        np.stack([part.rows for part in parts]),
        np.stack([part.squared_error for part in parts]),
        np.stack([part.shift for part in parts]),
        np.stack([part.deviation for part in parts]),
        parts[0].center,
        None
        if parts[0].reference_error is None
        else np.stack([np.asarray(part.reference_error) for part in parts]),
    )
    return stacked.over(0)


def _agreement(outcomes: Sequence[str]) -> str:
    """Return the outcome that all defined metrics share."""
    defined = set(outcomes) - {UNDEFINED}
    if not defined:
        return UNDEFINED
    return defined.pop() if len(defined) == 1 else DEPENDS_ON_METRIC


def _headline(by_width: Sequence[str]) -> str:
    different = set(by_width)
    if len(different) == 1:
        return different.pop()
    return DEPENDS_ON_METRIC if DEPENDS_ON_METRIC in different else DEPENDS_ON_WIDTH


def _spelled(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "degenerate" if estimate.degenerate else "–"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
