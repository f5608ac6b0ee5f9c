"""What a call takes on this device by how much it processes, and how many drafts that is worth.

`CallCosts` learns seconds of a call from calls; `measure_row_costs` makes such calls; `advise`
decodes prompts with several numbers of drafts and says which takes the least time. Calls of the
model are made by the decoder, so that cache, head and statistics are in every figure.

Shapes: N sequences, R rows of a proposal, H columns of the horizon.
"""

import math
import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from modicum.core.benchmark import table
from modicum.pvf import theory
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import Decision, Predictions, Proposal, View, first_columns
from modicum.pvf.strategies.plan_verify_fill import COMMIT, PVF
from modicum.pvf.validation import check_count

__all__ = [
    "Advice",
    "CallCosts",
    "Outlay",
    "Roofline",
    "advise",
    "fit_roofline",
    "measure_row_costs",
]

FREE = 1.1
"""A call with several rows counts as free while it takes at most so many times one row's time."""

WORTH = 0.98
"""More drafts are advised only if they take at most this share of the time of fewer ones."""

_CALLS_FOR_SPREAD = 3

_MEDIAN_DEVIATION = statistics.NormalDist().inv_cdf(0.75)
"""Median of the absolute value of a standard normal variable."""


@dataclass
class _Latest:
    """The latest calls of one size, and their median once it has been asked for."""

    calls: deque[tuple[int, float]]
    median: float | None = None
    weight: float = 0.0

    def add(self, number: int, seconds: float) -> None:
        """Take in a call."""
        self.calls.append((number, seconds))
        self.median = None

    def measure(self, half_life: float) -> tuple[float, float]:
        """Give median and weight as they were at the latest of these calls."""
        if self.median is None:
            last = self.calls[-1][0]
            weights = [2 ** ((number - last) / half_life) for number, _ in self.calls]
            self.median = _weighted_median([seconds for _, seconds in self.calls], weights)
            self.weight = sum(weights)
        return self.median, self.weight


class CallCosts:
    """Seconds of a call as a function of what it processes, learnt from calls.

    The median of the latest calls of each size, made rising, is joined by straight lines. In both,
    a call counts half as much as one `HALF_LIFE` calls later. Beyond the largest size seconds grow
    in proportion; below the least they stay.

    Parameters
    ----------
    calls
        Latest calls that are kept of each size.
    sizes
        Sizes that are kept, those that were seen last.
    """

    HALF_LIFE = 100

    def __init__(self, calls: int = 15, sizes: int = 64) -> None:
        self.calls, self.sizes = calls, sizes
        self._seen: dict[int, _Latest] = {}
        self._number = 0
        self._curve: tuple[list[int], list[float]] | None = None

    def __bool__(self) -> bool:
        return bool(self._seen)

    def add(self, size: int, seconds: float) -> None:
        """Take in what a call of a size, in columns processed, took."""
        kept = self._seen.pop(size, None)
        # Seen last goes to the end.
        self._seen[size] = _Latest(deque(maxlen=self.calls)) if kept is None else kept
        self._seen[size].add(self._number, seconds)
        self._number += 1
        if len(self._seen) > self.sizes:
            del self._seen[next(iter(self._seen))]
        self._curve = None

    def __call__(self, size: float) -> float:
        """Give the seconds of a call of a size.

        Raises
        ------
        ValueError
            If no call is known.
        """
        sizes, seconds = self.curve
        if size >= sizes[-1]:
            return seconds[-1] * size / sizes[-1]
        right = bisect_left(sizes, size)
        if right == 0:
            return seconds[0]
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return seconds[right - 1] + share * (seconds[right] - seconds[right - 1])

    @property
    def curve(self) -> tuple[list[int], list[float]]:
        """Sizes in rising order, and the seconds of each.

        Raises
        ------
        ValueError
            If no call is known.
        """
        if not self._seen:
            raise ValueError("no call has been measured yet")
        if self._curve is None:
            self._curve = self._fit()
        return self._curve

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithm of calls of a size, by the median deviation.

        0.0 while no size has three calls.
        """
        deviations = [
            abs(math.log(seconds / latest.measure(self.HALF_LIFE)[0]))
            for latest in self._seen.values()
            if len(latest.calls) >= _CALLS_FOR_SPREAD
            for _, seconds in latest.calls
            if seconds > 0
        ]
        return statistics.median(deviations) / _MEDIAN_DEVIATION if deviations else 0.0

    def _fit(self) -> tuple[list[int], list[float]]:
        sizes = sorted(self._seen)
        medians, weights = [], []
        for size in sizes:
            latest = self._seen[size]
            median, weight = latest.measure(self.HALF_LIFE)
            age = self._number - latest.calls[-1][0]
            medians.append(median)
            # What has not been seen for very long still counts for something.
            weights.append(max(weight * 2 ** (-age / self.HALF_LIFE), 1e-9))
        return sizes, _rising(medians, weights)


def _rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Give the rising sequence that is nearest by weighted squares, pooling what falls."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, heavy, count = pools.pop()
            total = heavy + pool[1]
            pool = ((mean * heavy + pool[0] * pool[1]) / total, total, count + pool[2])
        pools.append(pool)
    return [mean for mean, _, count in pools for _ in range(count)]


def _weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Give the least value up to which there is half of the weight."""
    order = sorted(range(len(values)), key=values.__getitem__)
    half, before = sum(weights) / 2 * (1 - 1e-9), 0.0
    for index in order:
        before += weights[index]
        if before >= half:
            break
    return values[index]


@dataclass(frozen=True)
class Roofline:
    """Seconds of a call as a floor and a slope: ``floor * max(1, columns / ridge)``.

    Attributes
    ----------
    floor
        Seconds of a call that is bound by reading the weights or by being launched at all.
    ridge
        Columns, rows times columns of a row, beyond which seconds grow in proportion. Where all
        sizes that were measured lie on one side of it, it is the least or the largest of them.
    least, largest
        Sizes between which it was measured, in columns.
    error
        Root mean square of the relative error, in natural logarithms.
    """

    floor: float
    ridge: float
    least: float
    largest: float
    error: float

    def __call__(self, columns: float) -> float:
        """Give the seconds of a call that processes so many columns."""
        return self.floor * max(1.0, columns / self.ridge)

    @property
    def regime(self) -> str:
        """Say what binds calls of the sizes measured: ``"floor"``, ``"compute"`` or ``"both"``."""
        if self.ridge >= self.largest:
            return "floor"
        return "compute" if self.ridge <= self.least else "both"


def fit_roofline(columns: Sequence[float], seconds: Sequence[float]) -> Roofline:
    """Fit a floor and a ridge to measured calls, by least squares of logarithms.

    Parameters
    ----------
    columns
        What each call processed.
    seconds
        What it took.

    Raises
    ------
    ValueError
        If there is nothing to fit, or a value is not positive.
    """
    import numpy

    size_C, taken_C = numpy.asarray(columns, float), numpy.asarray(seconds, float)
    if size_C.shape != taken_C.shape or not size_C.size or min(size_C.min(), taken_C.min()) <= 0:
        raise ValueError(
            "columns and seconds must be positive and as many of one as of the other, "
            f"not {list(columns)} and {list(seconds)}"
        )
    least, largest = float(size_C.min()), float(size_C.max())
    ridge_G = numpy.geomspace(least, largest, 2001)
    left_GC = numpy.log(taken_C) - numpy.log(numpy.maximum(1, size_C / ridge_G[:, None]))
    error_G = left_GC.std(axis=1)
    found = int(error_G.argmin())
    floor, ridge = float(numpy.exp(left_GC[found].mean())), float(ridge_G[found])
    return Roofline(floor, ridge, least, largest, float(error_G[found]))


@dataclass(frozen=True)
class _Probe:
    """Asks for one row, two, and so on in turn, and commits the leftmost tokens untested."""

    rows: tuple[int, ...]
    tokens: int
    seconds: dict[int, list[float]] = field(default_factory=dict)
    columns: dict[int, list[int]] = field(default_factory=dict)
    costs: CallCosts = field(default_factory=CallCosts)
    name: str = "probe"
    unlock_threshold: int = 0
    whole_span: bool = False
    needs_divergence: bool = False

    @property
    def most_rows(self) -> int:
        return max(self.rows)

    def start(self, sequences: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        return {"asked": torch.zeros(sequences, dtype=torch.int64, device=device)}

    def propose(self, view: View) -> Proposal:
        number = sum(map(len, self.seconds.values()))
        rows_N = torch.full_like(view.block, self.rows[number % len(self.rows)])
        view.memory["asked"] = rows_N
        column_H = torch.arange(view.open.shape[1], device=rows_N.device)
        columns_NC = first_columns(view.open, self.tokens)
        fill_NH = (columns_NC[..., None] == column_H).any(1) & view.open
        fill_NRH = fill_NH[:, None].expand(-1, self.most_rows, -1)
        return Proposal(
            fill=fill_NRH,
            rows=rows_N,
            forced=torch.zeros_like(view.known),
            route=torch.full_like(rows_N, COMMIT),
            drafts=columns_NC[:, :1].expand(-1, self.most_rows - 1),
        )

    def accept(self, view: View, proposal: Proposal, rows: Predictions) -> Decision:
        none_NK = torch.zeros_like(proposal.drafts, dtype=torch.bool)
        return Decision(
            row=torch.zeros_like(proposal.rows),
            keep=torch.ones_like(proposal.forced),
            passed=none_NK,
            unexpected=none_NK,
        )

    def observe(
        self,
        memory: Mapping[str, torch.Tensor],
        evaluations: Sequence[int],
        tokens: Sequence[int],
        seconds: float,
    ) -> None:
        asked = int(memory["asked"][0])
        if asked:
            self.seconds.setdefault(asked, []).append(seconds)
            self.columns.setdefault(asked, []).append(sum(evaluations))
            if len(self.seconds[asked]) > 1:
                self.costs.add(sum(evaluations), seconds)

    def medians(self) -> dict[int, float]:
        """Give the median seconds by rows, the first step of each left out."""
        return {rows: statistics.median(self.seconds[rows][1:]) for rows in self.rows}

    def sizes(self) -> dict[int, float]:
        """Give the median columns processed by rows, of the same steps."""
        return {rows: statistics.median(self.columns[rows][1:]) for rows in self.rows}

    def to_dict(self) -> dict[str, object]:
        return {"strategy": self.name, "rows": list(self.rows)}


@dataclass(frozen=True)
class _Watched(PVF):
    """Plan-verify-fill that keeps what every call processed and what it took."""

    calls: list[tuple[int, float]] = field(default_factory=list, compare=False)

    def observe(
        self,
        memory: Mapping[str, torch.Tensor],
        evaluations: Sequence[int],
        tokens: Sequence[int],
        seconds: float,
    ) -> None:
        if any(evaluations):
            self.calls.append((sum(evaluations), seconds))


@dataclass(frozen=True)
class Outlay:
    """What decoding the prompts with one number of drafts takes.

    Attributes
    ----------
    num_drafts
        k; 0 is threshold decoding.
    calls, evaluations
        Calls of the model, and columns processed in them.
    tokens
        Tokens committed.
    seconds
        All calls, each with what it processed, at the measured cost of its size.
    row_cost
        T(k + 1) / T(1): how many times as long as one row a call with all drafts takes.
    break_even
        Calls of threshold decoding for each call of this: what `row_cost` has to stay below.
    speedup
        `break_even` / `row_cost`, that is calls_0 T(1) / (calls_k T(k + 1)): how many times as fast
        as threshold decoding if every call had all drafts.
    speedup_as_used
        The same by `seconds`, with as many drafts in every call as there were.
    """

    num_drafts: int
    calls: int
    evaluations: int
    tokens: int
    seconds: float
    row_cost: float
    break_even: float
    speedup: float
    speedup_as_used: float


@dataclass(frozen=True)
class Advice:
    """What rows cost, what drafts save, and how many drafts to use.

    Attributes
    ----------
    num_drafts
        How many to use: 0 is threshold decoding.
    seconds_by_rows
        T(r): median seconds of a step by the rows of each sequence.
    roofline
        Fitted to the steps by what they processed.
    columns_per_row
        Columns that one row of all sequences of a batch processes, so that the roofline's ridge is
        at ``roofline.ridge / columns_per_row`` rows.
    outlays
        What each number of drafts takes.
    prompts, batch_size
        Prompts decoded, and how many of them share calls.
    device
        Where the model is.
    """

    num_drafts: int
    seconds_by_rows: dict[int, float]
    roofline: Roofline
    columns_per_row: float
    outlays: tuple[Outlay, ...]
    prompts: int
    batch_size: int
    device: str

    @property
    def free_rows(self) -> int:
        """The most rows whose call takes at most 1.1 times as long as with one row."""
        within = FREE * self.seconds_by_rows[1]
        return max(rows for rows, taken in self.seconds_by_rows.items() if taken <= within)

    @property
    def strategy(self) -> str:
        """What to give to `modicum.pvf.generate`, in words."""
        return f"PVF(num_drafts={self.num_drafts})" if self.num_drafts else "threshold"

    def outlay(self, num_drafts: int) -> Outlay:
        """Give what one number of drafts takes."""
        found = {outlay.num_drafts: outlay for outlay in self.outlays}
        if num_drafts not in found:
            raise ValueError(f"num_drafts must be one of {sorted(found)}, not {num_drafts!r}")
        return found[num_drafts]

    def table(self) -> str:
        """Give the advice and the arithmetic that leads to it as text with tables in Markdown."""
        one_row = self.seconds_by_rows[1]
        shared = min(self.batch_size, self.prompts)
        roofline = self.roofline
        rows = [
            [str(rows), f"{1000 * taken:.3g}", f"{taken / one_row:.2f}"]
            for rows, taken in self.seconds_by_rows.items()
        ]
        decodings = [
            [
                str(outlay.num_drafts),
                str(outlay.calls),
                f"{outlay.row_cost:.2f}",
                f"{outlay.break_even:.2f}",
                f"{outlay.speedup:.2f}",
                f"{outlay.speedup_as_used:.2f}",
                f"{1000 * outlay.seconds / self.prompts:.3g}",
            ]
            for outlay in self.outlays
        ]
        head = ["drafts k", "calls", "T(k+1) / T(1)", "break-even", "speed-up"]
        lines = [
            f"{self.device}, {shared} sequences in a call:",
            "",
            *table(["rows r", "T(r), ms", "T(r) / T(1)"], rows),
            "",
            f"T = {1000 * roofline.floor:.3g} ms x max(1, columns / {roofline.ridge:.0f}), by "
            f"calls of {roofline.least:.0f} to {roofline.largest:.0f} columns, off by "
            f"{100 * roofline.error:.0f} % (root mean square); the ridge is at "
            f"{roofline.ridge / self.columns_per_row:.1f} rows; free up to r = {self.free_rows}.",
            "",
            *table([*head, "speed-up as used", "ms / prompt"], decodings),
            "",
            "break-even = calls_0 / calls_k; speed-up = calls_0 T(1) / (calls_k T(k+1)).",
            f"Use {self.strategy}.",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Give all figures as plain values."""
        values = asdict(self)
        values["seconds_by_rows"] = {str(rows): t for rows, t in self.seconds_by_rows.items()}
        values["outlays"] = list(values["outlays"])
        return {**values, "free_rows": self.free_rows, "strategy": self.strategy}


def measure_row_costs(
    model: MaskPredictor,
    prompts: Any,
    *,
    most_rows: int = 4,
    repeats: int = 5,
    gen_length: int = 128,
    block_length: int = 32,
    cache: str = "none",
    batch_size: int = 8,
) -> dict[int, float]:
    """Measure what a step of the decoder takes by the rows of each sequence.

    Parameters
    ----------
    model, gen_length, block_length, cache
        As in `modicum.pvf.generate`.
    prompts
        As in `modicum.pvf.generate`; the first `batch_size` of them are used.
    most_rows
        Rows from 1 to this are measured, in turns.
    repeats
        Steps of each, after one that does not count, or somewhat more; fewer where `gen_length` has
        not so many tokens.
    batch_size
        Sequences that share a call.

    Returns
    -------
    dict
        Median seconds by rows.

    Raises
    ------
    ValueError
        If `gen_length` is not enough for two steps of each number of rows.
    """
    probe = _probe(model, prompts, most_rows, repeats, gen_length, block_length, cache, batch_size)
    return probe.medians()


def _probe(
    model: MaskPredictor,
    prompts: Any,
    most_rows: int,
    repeats: int,
    gen_length: int,
    block_length: int,
    cache: str,
    batch_size: int,
) -> _Probe:
    from modicum.pvf.generation import generate

    check_count("most_rows", most_rows)
    check_count("repeats", repeats)
    check_count("gen_length", gen_length)
    steps = most_rows * (repeats + 1)
    if gen_length < 2 * most_rows:
        raise ValueError(
            f"gen_length must be at least {2 * most_rows} for {most_rows} rows, not {gen_length}"
        )
    probe = _Probe(tuple(range(1, most_rows + 1)), max(1, gen_length // steps))
    generate(
        model,
        _first(prompts, batch_size),
        strategy=probe,
        gen_length=gen_length,
        block_length=block_length,
        cache=cache,
        batch_size=batch_size,
        eos_early_stop=False,
    )
    return probe


def _first(prompts: Any, count: int) -> Any:
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return prompts if is_one else prompts[:count]


def advise(
    model: MaskPredictor,
    prompts: Any,
    *,
    strategy: PVF | None = None,
    num_drafts: Sequence[int] = (1, 3),
    gen_length: int = 128,
    block_length: int = 32,
    cache: str = "none",
    batch_size: int = 8,
    repeats: int = 5,
) -> Advice:
    """Say how many drafts pay on this device for this model, these prompts and this batch.

    Parameters
    ----------
    model, gen_length, block_length, cache, batch_size
        As in `modicum.pvf.generate`.
    prompts
        Texts or ids as in `modicum.pvf.generate`, like those that are to be decoded.
    strategy
        Settings of plan-verify-fill but for the number of drafts.
    num_drafts
        Numbers of drafts to try beside 0.
    repeats
        Steps that are measured of each number of rows.

    Returns
    -------
    Advice
        More drafts are advised only where they save more than 2 % of the time.

    Raises
    ------
    ValueError
        If an argument is not valid.
    """
    from modicum.pvf.generation import generate

    tried = sorted({0, *(check_count("num_drafts", count, 0) for count in num_drafts)})
    probe = _probe(
        model, prompts, tried[-1] + 1, repeats, gen_length, block_length, cache, batch_size
    )
    costs, seconds, sizes = probe.costs, probe.medians(), probe.sizes()
    decoded: dict[int, tuple[list[int], int]] = {}
    settings = settings_of(PVF() if strategy is None else strategy)
    for count in tried:
        watched = _Watched(**{**settings, "num_drafts": count})
        bound = watched.bind(model)
        out = generate(
            model,
            prompts,
            strategy=bound,
            gen_length=gen_length,
            block_length=block_length,
            cache=cache,
            batch_size=batch_size,
        )
        for size, taken in bound.calls:
            costs.add(size, taken)
        tokens = sum(stats.tokens for stats in out.stats)
        decoded[count] = ([size for size, _ in bound.calls], tokens)
    outlays = _outlays(decoded, costs, seconds)
    best = outlays[0]
    for outlay in outlays[1:]:
        if outlay.seconds < WORTH * best.seconds:
            best = outlay
    return Advice(
        num_drafts=best.num_drafts,
        seconds_by_rows=seconds,
        roofline=fit_roofline(list(sizes.values()), list(seconds.values())),
        columns_per_row=sizes[1],
        outlays=outlays,
        prompts=len(out.stats),
        batch_size=batch_size,
        device=_name(model.device),
    )


def _outlays(
    decoded: Mapping[int, tuple[list[int], int]], costs: CallCosts, seconds: Mapping[int, float]
) -> tuple[Outlay, ...]:
    """Work out what each number of drafts takes, by the sizes of its calls and its tokens."""
    calls_alone = len(decoded[0][0])
    taken = {k: math.fsum(costs(size) for size in sizes) for k, (sizes, _) in decoded.items()}
    return tuple(
        Outlay(
            num_drafts=k,
            calls=len(sizes),
            evaluations=sum(sizes),
            tokens=tokens,
            seconds=taken[k],
            row_cost=seconds[k + 1] / seconds[1],
            break_even=theory.break_even(calls_alone, len(sizes)),
            speedup=theory.speedup(calls_alone, len(sizes), seconds[1], seconds[k + 1]),
            speedup_as_used=taken[0] / taken[k],
        )
        for k, (sizes, tokens) in decoded.items()
    )


def _name(device: torch.device) -> str:
    """Give the device's name, a GPU's with what it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def settings_of(strategy: PVF) -> dict[str, Any]:
    """Give the settings of plan-verify-fill, those of a subclass's own left out."""
    return {item.name: getattr(strategy, item.name) for item in fields(PVF) if item.init}
