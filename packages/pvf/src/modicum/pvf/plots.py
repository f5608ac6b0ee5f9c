"""Pictures of decodings: order of commits, tokens by call, quality against calls, time of rows.

Takes traces or plain numbers and gives matplotlib figures. matplotlib is loaded by the first
figure; it is an optional dependency. Computes nothing that it draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modicum.core.plots import COLOURS, GREY, look, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modicum.pvf.advice import Roofline
    from modicum.pvf.events import Commit

__all__ = [
    "calls_by_setting",
    "commits_per_call",
    "order_map",
    "quality_against_calls",
    "roofline",
    "seconds_of_rows",
    "tokens_per_call",
]

PACKAGE = "modicum-pvf"
REASONS = {
    "H": ("confident", COLOURS[0], "s"),
    "P": ("planned", COLOURS[1], "D"),
    "F": ("filled", COLOURS[2], "^"),
    "X": ("forced", COLOURS[3], "X"),
    "E": ("behind the end", GREY, "."),
}
"""How tokens of each reason are drawn: name, colour and marker."""


def order_map(trace: Sequence[Commit], *, start: int = 0) -> Figure:
    """Draw which column was committed in which call, and why.

    Parameters
    ----------
    trace
        Commits of one sequence.
    start
        Column of the canvas that is drawn as 0.

    Raises
    ------
    ValueError
        If there is no commit.
    """
    if not trace:
        raise ValueError("there is no commit to draw")
    figure, axes = new_axes(PACKAGE)
    for letter, (name, colour, marker) in REASONS.items():
        points = [
            (position - start, commit.call)
            for commit in trace
            for position, reason in zip(commit.positions, commit.reasons, strict=True)
            if reason == letter
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), s=18, color=colour, marker=marker, label=name)
    tried = [(draft.position - start, commit.call) for commit in trace for draft in commit.rejected]
    if tried:
        axes.scatter(
            *zip(*tried, strict=True), s=24, facecolors="none", edgecolors=GREY, label="rejected"
        )
    axes.set(xlabel="position in the answer, tokens", ylabel="forward call")
    axes.margins(y=0.08)
    axes.invert_yaxis()
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def commits_per_call(trace: Sequence[Commit]) -> Figure:
    """Draw how many tokens each call commits, by reason.

    Parameters
    ----------
    trace
        Commits of one sequence. Tokens behind the end are left out.

    Raises
    ------
    ValueError
        If there is no commit.
    """
    if not trace:
        raise ValueError("there is no commit to draw")
    figure, axes = new_axes(PACKAGE)
    calls = range(1, max(commit.call for commit in trace) + 1)
    below = [0] * len(calls)
    for letter, (name, colour, _) in REASONS.items():
        counts = [0] * len(calls)
        for commit in trace:
            counts[commit.call - 1] += commit.reasons.count(letter)
        if letter != "E" and any(counts):
            axes.bar(calls, counts, bottom=below, color=colour, label=name, width=0.8)
            below = [under + count for under, count in zip(below, counts, strict=True)]
    axes.set(xlabel="forward call", ylabel="tokens committed in the call")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def tokens_per_call(traces: Mapping[str, Sequence[Commit]]) -> Figure:
    """Draw the tokens that stand after each call, one line for each name.

    Parameters
    ----------
    traces
        By name the commits of one sequence. Tokens behind the end are left out.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not traces:
        raise ValueError("there is no trace to draw")
    figure, axes = new_axes(PACKAGE)
    for index, (name, trace) in enumerate(traces.items()):
        calls, tokens = [0], [0]
        for commit in trace:
            calls.append(commit.call)
            tokens.append(tokens[-1] + sum(reason != "E" for reason in commit.reasons))
        axes.step(calls, tokens, where="post", label=name, **look(index))
    axes.set(xlabel="forward calls", ylabel="tokens committed")
    axes.legend(frameon=False, fontsize="small")
    return figure


def quality_against_calls(
    points: Mapping[str, tuple[float, float, float, float]], *, ylabel: str = "quality"
) -> Figure:
    """Draw decoders by their calls and their quality, and join those that none dominates.

    A decoder is dominated by one that has at most as many calls and at least the same quality.

    Parameters
    ----------
    points
        By name the mean calls, the quality, and the low and the high end of its interval.
    ylabel
        What quality is.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not points:
        raise ValueError("there is no decoder to draw")
    figure, axes = new_axes(PACKAGE, width=8.0, height=4.6)
    markers = "osD^vPX*"
    for index, (name, (calls, quality, low, high)) in enumerate(points.items()):
        axes.errorbar(
            calls,
            quality,
            [[quality - low], [high - quality]],
            color=look(index)["color"],
            marker=markers[(index // len(COLOURS)) % len(markers)],
            linestyle="none",
            elinewidth=0.8,
            label=name,
        )
    front: list[tuple[float, float]] = []
    for calls, quality, *_ in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((calls, quality))
    if len(front) > 1:
        axes.plot(
            *zip(*front, strict=True), color=GREY, linewidth=0.8, zorder=0, label="not dominated"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.xaxis.set_minor_formatter("{x:.3g}")
    axes.set(xlabel="forward calls per answer", ylabel=ylabel)
    axes.legend(frameon=False, fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def calls_by_setting(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, xlabel: str
) -> Figure:
    """Draw mean calls over a setting, such as the block length.

    Parameters
    ----------
    curves
        By name the values of the setting and the mean calls.
    xlabel
        Name of the setting.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    figure, axes = new_axes(PACKAGE)
    for index, (name, (values, calls)) in enumerate(curves.items()):
        axes.plot(values, calls, marker="o", markersize=4, label=name, **look(index))
    axes.set(xlabel=xlabel, ylabel="forward calls per answer")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")
    return figure


def seconds_of_rows(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], *, break_even: float | None = None
) -> Figure:
    """Draw what a call takes over its number of rows, as a multiple of one row's.

    Parameters
    ----------
    curves
        By name the numbers of rows, rising from 1, and seconds of a call with so many.
    break_even
        Multiple at which fewer calls take as long as more of one row; marked by a line.

    Raises
    ------
    ValueError
        If there is none, or one does not begin with one row.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    figure, axes = new_axes(PACKAGE)
    for index, (name, (rows, seconds)) in enumerate(curves.items()):
        if not rows or rows[0] != 1:
            raise ValueError(f"{name!r} must begin with 1 row, not {list(rows[:1])}")
        multiple = [value / seconds[0] for value in seconds]
        axes.plot(rows, multiple, marker="o", markersize=4, label=name, **look(index))
    if break_even is not None:
        axes.axhline(break_even, color=GREY, linestyle="--", linewidth=1, label="break-even")
    axes.set(xlabel="rows of a call", ylabel="time of a call / time of one row")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")
    return figure


def roofline(
    columns: Sequence[float],
    seconds: Sequence[float],
    fitted: Roofline,
    *,
    columns_per_row: float | None = None,
) -> Figure:
    """Draw what calls take by what they process, and the floor and slope fitted to them.

    Parameters
    ----------
    columns
        What each call processed.
    seconds
        What it took.
    fitted
        Such as `modicum.pvf.advice.fit_roofline` gives.
    columns_per_row
        Columns of one row of all sequences of a call: marks where calls have 1, 2, 4 … rows.
    """
    figure, axes = new_axes(PACKAGE)
    milliseconds = [1000 * value for value in seconds]
    axes.plot(columns, milliseconds, "o", color=COLOURS[0], markersize=5, label="measured")
    corner = min(max(fitted.ridge, fitted.least), fitted.largest)
    ends = [fitted.least, corner, fitted.largest]
    axes.plot(
        ends,
        [1000 * fitted(end) for end in ends],
        color=COLOURS[1],
        label=f"{1000 * fitted.floor:.3g} ms x max(1, columns / {fitted.ridge:.0f})",
    )
    if fitted.regime == "both":
        axes.axvline(fitted.ridge, color=GREY, linestyle="--", linewidth=1, label="ridge")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.set(xlabel="columns of a call, rows times tokens of a row", ylabel="time of a call, ms")
    if columns_per_row is not None:
        rows = axes.secondary_xaxis(
            "top", functions=(lambda x: x / columns_per_row, lambda x: x * columns_per_row)
        )
        rows.set_xlabel("rows of each sequence")
        most = int(fitted.largest / columns_per_row)
        rows.set_xticks([2**power for power in range(max(1, most).bit_length())])
        rows.xaxis.set_major_formatter("{x:.0f}")
        rows.minorticks_off()
    axes.legend(frameon=False, fontsize="small")
    return figure
