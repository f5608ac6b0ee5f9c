"""Pictures: what was heard and why, which path is right when, and which phones are confused.

Takes emissions, transcripts and plain numbers and gives matplotlib figures. matplotlib is loaded by
the first figure; it is an optional dependency. Decodes nothing.

Shape suffixes: T frames, C symbols, N utterances, K phones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modicum.core.plots import COLOURS, GREY, look, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modicum.huper.emissions import Emissions
    from modicum.huper.transcript import Edit, Transcript

__all__ = [
    "confusion_heatmap",
    "evidence_against_score",
    "feature_order",
    "per_against_snr",
    "posteriorgram",
    "reliability",
]

PACKAGE = "modicum-huper"

EDIT_COLOURS = {
    "keep": COLOURS[0],
    "sub": COLOURS[1],
    "ins": COLOURS[2],
    "del": "#B00020",
    "rep": COLOURS[3],
}
"""Colours of edits."""

_SHOWN = 0.15
"""Probability that a phone must reach in some frame to have a row."""

_SILENCE = "∅"


def posteriorgram(
    emissions: Emissions,
    transcript: Transcript | None = None,
    *,
    utterance: int = 0,
    title: str = "",
) -> Figure:
    """Draw the probability of every phone over time, with the path that was chosen.

    A frame around each phone of the path says by its colour what it is: kept, substituted (with the
    canonical phone beside it), inserted or said again. What was deleted is written where it is
    missing. Phones that are never likely and not on the path have no row.

    Parameters
    ----------
    emissions
        Of the recording.
    transcript
        The answer; None draws probabilities only.
    utterance
        Which one of a batch.
    title
        Heading.

    Raises
    ------
    ValueError
        If there is no frame.
    ImportError
        If matplotlib is not installed.
    """
    rows_TC = np.exp(emissions.utterance(utterance))
    if not len(rows_TC):
        raise ValueError("the utterance has no frame to draw")
    names = _rows_shown(rows_TC, emissions, transcript)
    columns = [emissions.phones.id(name) for name in names] + [emissions.blank]
    shift, length = emissions.frame_shift, len(rows_TC) * emissions.frame_shift
    figure, axes = new_axes(
        PACKAGE, width=float(np.clip(2 + 4.5 * length, 6.4, 24)), height=1.6 + 0.19 * len(columns)
    )
    axes.spines[["top", "right"]].set_visible(True)
    image = axes.imshow(
        rows_TC[:, columns].T,
        aspect="auto",
        interpolation="nearest",
        cmap="Greys",
        vmin=0,
        vmax=1,
        extent=(0, length, len(columns) - 0.5, -0.5),
    )
    figure.colorbar(image, ax=axes, label="probability", fraction=0.03, pad=0.01)
    axes.set_yticks(range(len(columns)), [*names, _SILENCE], fontsize="small")
    axes.set_xlabel("seconds")
    axes.set_title(title, loc="left", pad=34 if transcript is not None else 6)
    if transcript is not None:
        _draw_path(axes, transcript, {name: row for row, name in enumerate(names)}, shift)
    return figure


def _rows_shown(
    rows_TC: np.ndarray, emissions: Emissions, transcript: Transcript | None
) -> list[str]:
    """List the phones that have a row: from vowels to stops as the phone set has them."""
    phones = emissions.phones
    shown = {
        phones.symbols[column]
        for column in phones.ids.tolist()
        if rows_TC[:, column].max() >= _SHOWN
    }
    if transcript is not None:
        shown |= set(transcript.phones) | set(transcript.canonical or ())
    return [name for name in phones.phones if name in shown]


def _draw_path(axes: Any, transcript: Transcript, row_of: Mapping[str, int], shift: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    steps = _steps(transcript)
    used = {}
    gone = 0.0
    crowded = 0
    for op, label, phone, span in steps:
        colour = used[op] = EDIT_COLOURS[op]
        if span is None or phone is None:
            # Where it would have been: behind what was said last; several of them side by side.
            place = gone + shift * (0.5 + 2.0 * crowded)
            crowded += 1
            axes.plot([place, place], [-0.5, len(row_of) + 0.5], ":", color=colour, linewidth=1)
            # Above the others: it shares its place with what was said before it.
            _write(axes, place, label, colour, 1.07)
            continue
        crowded = 0
        start, end = span
        gone = end
        box = Rectangle(
            (start, row_of[phone] - 0.5),
            end - start,
            1,
            fill=False,
            edgecolor=colour,
            linewidth=1.8,
        )
        axes.add_patch(box)
        _write(axes, (start + end) / 2, label, colour, 1.01)
    if len(used) > 1 or "keep" not in used:
        handles = [Line2D([], [], color=colour, label=op) for op, colour in used.items()]
        axes.legend(
            handles=handles,
            frameon=False,
            ncols=len(handles),
            fontsize="small",
            loc="lower right",
            bbox_to_anchor=(1, 1.16),
            borderaxespad=0,
        )


def _write(axes: Any, place: float, label: str, colour: str, height: float) -> None:
    axes.annotate(
        label,
        (place, height),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize="small",
        rotation=90 if len(label) > 2 else 0,
        color=colour,
    )


def _steps(
    transcript: Transcript,
) -> list[tuple[str, str, str | None, tuple[float, float] | None]]:
    """List (op, label, phone that was said, seconds) from left to right."""
    if not transcript.edits:
        return [
            ("keep", phone, phone, (span.start, span.end))
            for phone, span in zip(transcript.phones, transcript.spans, strict=True)
        ]
    return [
        (edit.op, _label(edit), edit.phone, None if edit.span is None else _ends(edit))
        for edit in transcript.edits
    ]


def _label(edit: Edit) -> str:
    if edit.op == "sub":
        return f"{edit.canonical}>{edit.phone}"
    if edit.op == "del":
        return f"−{edit.canonical}"
    if edit.op == "ins":
        return f"+{edit.phone}"
    return str(edit.phone)


def _ends(edit: Edit) -> tuple[float, float]:
    assert edit.span is not None
    return edit.span.start, edit.span.end


# Routing ----------------------------------------------------------------------------------------


def per_against_snr(
    curves: Mapping[str, Sequence[npt.ArrayLike]],
    snr_db: Sequence[float],
    *,
    adaptive: str | None = None,
    title: str = "",
) -> Figure:
    """Draw the phone error rate of every path against the signal-to-noise ratio.

    Parameters
    ----------
    curves
        For each path its error rates (a ratio) at each SNR, or three rows: rates, lower and upper
        ends of intervals.
    snr_db
        Decibels; ``inf`` is clean speech and stands at the right with a gap.
    adaptive
        Name of the curve that is drawn above all others.
    title
        Heading.

    Raises
    ------
    ValueError
        If a curve has another length than `snr_db`, or `adaptive` is no curve.
    ImportError
        If matplotlib is not installed.
    """
    if adaptive is not None and adaptive not in curves:
        raise ValueError(f"adaptive names no curve: {adaptive!r} of {', '.join(curves)}")
    levels = np.asarray(snr_db, float)
    order = np.argsort(levels)
    finite = levels[np.isfinite(levels)]
    beyond = (finite.max() if finite.size else 0.0) + 8.0
    places = np.where(np.isfinite(levels), levels, beyond)[order]
    figure, axes = new_axes(PACKAGE)
    for index, (name, curve) in enumerate(curves.items()):
        rows = np.atleast_2d(np.asarray(curve, float))
        if rows.shape[1] != len(levels) or len(rows) not in (1, 3):
            raise ValueError(
                f"{name!r} must be {len(levels)} rates, or three rows of them, not {rows.shape}"
            )
        rows = 100 * rows[:, order]
        style: dict[str, Any] = dict(look(index))
        first = name == adaptive
        if first:
            style = {"color": "black", "linestyle": "-", "linewidth": 2.6, "zorder": 5}
        axes.plot(places, rows[0], marker="o", markersize=4, label=name, **style)
        if len(rows) == 3:
            axes.fill_between(
                places, rows[1], rows[2], color=style["color"], alpha=0.15, linewidth=0
            )
    labels = ["clean" if place == beyond and not np.isfinite(levels).all() else f"{place:g}"
              for place in places]  # fmt: skip
    axes.set_xticks(places, labels)
    axes.set_xlabel("signal-to-noise ratio in dB")
    axes.set_ylabel("PER in %")
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    return figure


def reliability(
    scores: npt.ArrayLike, errors: npt.ArrayLike, *, bins: int = 10, title: str = ""
) -> Figure:
    """Draw the error rate of utterances against the distortion score s(x).

    Points are utterances; the line joins the means of bins of as many utterances each, with two
    standard errors.

    Parameters
    ----------
    scores
        ``(N,)`` s(x).
    errors
        ``(N,)`` phone error rates of the utterances, ratios.
    bins
        At most; each has at least two utterances.
    title
        Heading.

    Raises
    ------
    ValueError
        If the two do not fit, or there are fewer than two utterances.
    ImportError
        If matplotlib is not installed.
    """
    score_N, error_N = np.asarray(scores, float), np.asarray(errors, float)
    if score_N.ndim != 1 or score_N.shape != error_N.shape or len(score_N) < 2:
        raise ValueError(
            f"scores and errors must be two numbers or more, as many of both, not of shapes "
            f"{score_N.shape} and {error_N.shape}"
        )
    if bins < 1:
        raise ValueError(f"bins must be positive, not {bins}")
    figure, axes = new_axes(PACKAGE)
    axes.plot(score_N, 100 * error_N, ".", color=GREY, alpha=0.35, markersize=4, label="utterances")
    order = np.argsort(score_N, kind="stable")
    parts = np.array_split(order, min(bins, len(order) // 2))
    place = [score_N[part].mean() for part in parts]
    value = [100 * error_N[part].mean() for part in parts]
    reach = [200 * error_N[part].std(ddof=1) / np.sqrt(len(part)) for part in parts]
    axes.errorbar(place, value, reach, marker="o", markersize=4, capsize=2, color=COLOURS[0],
                  label="mean of a bin, ± 2 standard errors")  # fmt: skip
    axes.set_xlabel("distortion score s")
    axes.set_ylabel("PER of the utterance in %")
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    return figure


def evidence_against_score(
    scores: npt.ArrayLike,
    ratios: npt.ArrayLike,
    better: npt.ArrayLike,
    *,
    a: float | None = None,
    b: float = 0.0,
    names: tuple[str, str] = ("reference is better", "ear is better"),
    title: str = "",
) -> Figure:
    """Draw what it costs to believe the reference against the distortion score.

    Parameters
    ----------
    scores
        ``(N,)`` s(x).
    ratios
        ``(N,)`` Λ, nats per phone of the reference.
    better
        ``(N,)`` bool: whether the path with the reference is the better one.
    a, b
        The rule: the reference is used below the line Λ = a + b · s. None for no line.
    names
        Of the utterances with and without `better`.
    title
        Heading.

    Raises
    ------
    ValueError
        If they are not as many.
    ImportError
        If matplotlib is not installed.
    """
    score_N, ratio_N = np.asarray(scores, float), np.asarray(ratios, float)
    better_N = np.asarray(better, bool)
    if score_N.ndim != 1 or not score_N.shape == ratio_N.shape == better_N.shape:
        raise ValueError(
            f"scores, ratios and better must be as many, not of shapes {score_N.shape}, "
            f"{ratio_N.shape} and {better_N.shape}"
        )
    figure, axes = new_axes(PACKAGE)
    groups = ((better_N, names[0], "o", COLOURS[0]), (~better_N, names[1], "x", COLOURS[1]))
    for chosen, name, marker, colour in groups:
        axes.plot(score_N[chosen], ratio_N[chosen], marker, color=colour, alpha=0.7, markersize=5,
                  label=f"{name} ({int(chosen.sum())})")  # fmt: skip
    if a is not None:
        low, high = axes.get_xlim()
        top = axes.get_ylim()[1]
        ends = np.array([low, high])
        axes.plot(ends, a + b * ends, "-", color="black", linewidth=1.4,
                  label=f"Λ = {a:g} + {b:g} s" if b else f"Λ = {a:g}")  # fmt: skip
        axes.fill_between(ends, -10 * abs(top) - 10, a + b * ends, color=COLOURS[0], alpha=0.06,
                          linewidth=0)  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(min(0.0, float(ratio_N.min(initial=0.0))), top)
    axes.set_xlabel("distortion score s")
    axes.set_ylabel("Λ in nats per phone")
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    return figure


# Confusions -------------------------------------------------------------------------------------


def feature_order(phones: Sequence[str]) -> tuple[str, ...]:
    """Order phones so that neighbours are alike: the leaves of a tree by features, best turned.

    Parameters
    ----------
    phones
        ARPAbet phones or IPA segments.

    Raises
    ------
    ValueError
        If a phone has no features.
    ImportError
        If panphon is not installed.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    from modicum.huper.features import edit_cost

    names = tuple(dict.fromkeys(phones))
    if len(names) < 3:
        return names
    distance_KK = np.array([[edit_cost(one, two) for two in names] for one in names])
    condensed = squareform((distance_KK + distance_KK.T) / 2, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    return tuple(names[leaf] for leaf in leaves_list(tree))


def confusion_heatmap(
    confusions: Sequence[tuple[str | None, str | None, int]],
    recall: Mapping[str, float] | None = None,
    *,
    order: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw which phones are taken for which, neighbours being alike by their features.

    Parameters
    ----------
    confusions
        (phone of the reference, phone said, count), None for an insertion or a deletion, as
        `modicum.huper.metrics.report` gives them; equal phones may be among them.
    recall
        Of phones, drawn on the diagonal: errors are then shares of the phone in the reference, and
        insertions shares of all insertions. Phones without errors need it to be shown.
    order
        Of the phones; None takes `feature_order`, and the alphabet without panphon.
    title
        Heading.

    Raises
    ------
    ValueError
        If there is no phone, or the order lacks one.
    ImportError
        If matplotlib is not installed.
    """
    found = {phone for one, two, _ in confusions for phone in (one, two) if phone is not None}
    found |= set(recall or ())
    if not found:
        raise ValueError("there is no phone to draw")
    names = _ordered(found) if order is None else tuple(order)
    if missing := found - set(names):
        raise ValueError(f"the order lacks {', '.join(sorted(missing))}")
    place = {name: at for at, name in enumerate(names)}
    last = len(names)
    counts_KK = np.zeros((last + 1, last + 1))
    for one, two, count in confusions:
        counts_KK[last if one is None else place[one], last if two is None else place[two]] += count
    shares_KK = _shares(counts_KK, [recall.get(name) for name in names] if recall else None)
    figure, axes = new_axes(PACKAGE, width=2.4 + 0.17 * last, height=1.6 + 0.17 * last)
    axes.spines[["top", "right"]].set_visible(True)
    labels = [*names, _SILENCE]
    shown = np.ma.masked_where(shares_KK == 0, shares_KK)
    image = axes.imshow(shown, cmap="viridis_r", vmin=0, aspect="equal")
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02,
                    label="share of the phone" if recall else "count")  # fmt: skip
    axes.set_xticks(range(last + 1), labels, fontsize=7, rotation=90)
    axes.set_yticks(range(last + 1), labels, fontsize=7)
    axes.set_xticks(np.arange(last + 2) - 0.5, minor=True)
    axes.set_yticks(np.arange(last + 2) - 0.5, minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel(f"heard ({_SILENCE}: deleted)")
    axes.set_ylabel(f"reference ({_SILENCE}: inserted)")
    axes.set_title(title, loc="left")
    return figure


def _ordered(found: set[str]) -> tuple[str, ...]:
    try:
        return feature_order(sorted(found))
    except (ImportError, ValueError):
        return tuple(sorted(found))


def _shares(counts_KK: np.ndarray, recall: Sequence[float | None] | None) -> np.ndarray:
    """Turn counts of errors into shares of each phone, whose right ones the recall tells."""
    if recall is None:
        return counts_KK
    shares_KK = counts_KK.copy()
    for row, right in enumerate(recall):
        wrong = counts_KK[row].sum() - counts_KK[row, row]
        if right is None:
            continue
        if wrong:
            shares_KK[row] *= (1 - right) / wrong
        shares_KK[row, row] = right
    # Insertions belong to no phone of the reference: they are in shares of all of them.
    inserted = counts_KK[-1].sum()
    shares_KK[-1] = counts_KK[-1] / inserted if inserted else 0
    return shares_KK
