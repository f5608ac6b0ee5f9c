"""Pictures: evidence along a text, tokens to detection, growth, the staircase of a corpus.

Takes plain arrays and gives matplotlib figures (made directly, without pyplot and its global
state), or for `match_html` a piece of HTML. matplotlib is loaded by the first figure; it is an
optional dependency. Computes no statistics.

Legend: ``R`` texts, ``T`` tokens, ``B`` other keys, ``D`` documents.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from modicum.core.plots import COLOURS, GREY, look, new_axes
from modicum.ewatermark.theory import check_alpha

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG10 = math.log(10)
PACKAGE = "modicum-ewatermark"


def tokens_ecdf(times: Mapping[str, ArrayLike], horizon: int) -> "Figure":
    """Draw the share of texts detected within a number of tokens, one line per method.

    Parameters
    ----------
    times
        Tokens to detection by name of the method, each ``[R]`` with ``inf`` where not detected.
    horizon
        Longest text.
    """
    if not times:
        raise ValueError("times is empty: there is no method to draw")
    figure, axes = new_axes(PACKAGE)
    for index, (name, values) in enumerate(times.items()):
        times_R = np.sort(np.asarray(values, dtype=float))
        reached = times_R[np.isfinite(times_R)]
        share = np.arange(1, len(reached) + 1) / len(times_R)
        x = np.concatenate([[0.0], reached, [float(horizon)]])
        y = np.concatenate([[0.0], share, [share[-1] if len(share) else 0.0]])
        axes.step(x, y, where="post", label=name, **look(index))
    axes.axhline(0.5, color=GREY, linewidth=0.7)
    axes.set(xlabel="tokens read", ylabel="share of texts detected")
    axes.set(xlim=(0, horizon), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def trajectories(
    log_e_T: ArrayLike,
    alpha: float,
    *,
    others_BT: ArrayLike | None = None,
    stopping_time: int | None = None,
) -> "Figure":
    """Draw the e-process of a text with the line it must reach.

    Parameters
    ----------
    log_e_T
        Natural log e-value after each token.
    alpha
        Level; the line stands at ``1/alpha``.
    others_BT
        The same text read with other keys: drawn as a grey band of their central 90 % and their
        largest value.
    stopping_time
        Tokens read at the first crossing, marked if given; -1 counts as none.
    """
    check_alpha(alpha)
    line_T = np.asarray(log_e_T, dtype=float) / LOG10
    if line_T.ndim != 1 or not len(line_T):
        raise ValueError(f"log_e_T must have shape [T] with T >= 1, got {line_T.shape}")
    figure, axes = new_axes(PACKAGE)
    tokens = np.arange(len(line_T) + 1)
    if others_BT is not None:
        others = np.asarray(others_BT, dtype=float) / LOG10
        if others.ndim != 2 or others.shape[1] != len(line_T):
            raise ValueError(f"others_BT must have shape [B, {len(line_T)}], got {others.shape}")
        others = np.hstack([np.zeros((len(others), 1)), others])
        low, high = np.quantile(others, [0.05, 0.95], axis=0)
        label = f"{len(others)} other keys, central 90 %"
        axes.fill_between(tokens, low, high, color="#C8C8C8", linewidth=0, label=label)
        axes.plot(tokens, others.max(axis=0), color=GREY, linewidth=0.8, label="their largest")
    axes.plot(tokens, np.concatenate([[0.0], line_T]), color=COLOURS[0], label="this key")
    threshold = -math.log10(alpha)
    axes.axhline(threshold, color=COLOURS[1], linestyle="--", label=f"1/α, α = {alpha:g}")
    if stopping_time is not None and stopping_time > 0:
        axes.plot(stopping_time, line_T[stopping_time - 1], "o", color=COLOURS[1])
        axes.annotate(
            f"token {stopping_time}",
            (stopping_time, line_T[stopping_time - 1]),
            textcoords="offset points",
            xytext=(6, -12),
        )
    axes.set(xlabel="tokens read", ylabel="log₁₀ e-value", xlim=(0, len(line_T)))
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    return figure


def growth_lines(
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    measured: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    *,
    xlabel: str = "tolerance δ",
) -> "Figure":
    """Draw growth per token against a parameter: lines for theory, points for measurements.

    Parameters
    ----------
    x
        The parameter, ``[n]``.
    curves
        Nats per token by name, each ``[n]``; NaN where undefined.
    measured
        For any of these names the positions and values of measured points.
    xlabel
        Name of the parameter.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, values) in enumerate(curves.items()):
        axes.plot(np.asarray(x), np.asarray(values), label=name, **look(index))
        if measured and name in measured:
            at, value = measured[name]
            axes.plot(np.asarray(at), np.asarray(value), "o", color=COLOURS[index % len(COLOURS)])
    axes.axhline(0, color=GREY, linewidth=0.7)
    axes.set(xlabel=xlabel, ylabel="growth (nats per token)")
    axes.legend(frameon=False, fontsize="small")
    return figure


def growth_map(
    x: ArrayLike, y: ArrayLike, growth_YX: ArrayLike, *, xlabel: str, ylabel: str
) -> "Figure":
    """Draw growth per token over two parameters as a heat map, white where it is 0."""
    values = np.asarray(growth_YX, dtype=float)
    if values.shape != (len(np.asarray(y)), len(np.asarray(x))):
        raise ValueError(
            f"growth_YX must have shape [{len(np.asarray(y))}, {len(np.asarray(x))}], got "
            f"{values.shape}"
        )
    figure, axes = new_axes(PACKAGE)
    limit = float(np.nanmax(np.abs(values))) or 1.0
    mesh = axes.pcolormesh(
        np.asarray(x),
        np.asarray(y),
        values,
        cmap="RdBu",
        vmin=-limit,
        vmax=limit,
        shading="nearest",
    )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.colorbar(mesh, ax=axes, label="growth (nats per token)")
    return figure


def ratio_lines(levels: ArrayLike, ratios: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> "Figure":
    """Draw mean stopping times over their limit against the level, with error bars.

    Parameters
    ----------
    levels
        Levels alpha, ``[n]``.
    ratios
        By name the ratios and their standard errors, each ``[n]``.
    """
    figure, axes = new_axes(PACKAGE)
    exponent = -np.log10(np.asarray(levels, dtype=float))
    for index, (name, (values, errors)) in enumerate(ratios.items()):
        axes.errorbar(
            exponent,
            np.asarray(values),
            yerr=1.96 * np.asarray(errors),
            marker="o",
            label=name,
            **look(index),
        )
    axes.axhline(1, color=GREY, linewidth=0.7)
    axes.set(xlabel="−log₁₀ α", ylabel="E[τ] · J* / log(1/α)", xscale="log")
    axes.legend(frameon=False, fontsize="small")
    return figure


def staircase(log_e_D: ArrayLike, alpha: float) -> "Figure":
    """Draw a corpus by e-Benjamini-Hochberg: sorted e-values and the line they must reach.

    Documents left of the last point on or above the line ``D / (alpha k)`` are listed.

    Parameters
    ----------
    log_e_D
        Natural log e-value of every document.
    alpha
        False discovery rate.
    """
    check_alpha(alpha)
    sorted_D = np.sort(np.asarray(log_e_D, dtype=float))[::-1] / LOG10
    if sorted_D.ndim != 1 or not len(sorted_D):
        raise ValueError(f"log_e_D must have shape [D] with D >= 1, got {sorted_D.shape}")
    figure, axes = new_axes(PACKAGE)
    rank_D = np.arange(1, len(sorted_D) + 1)
    line_D = np.log10(len(sorted_D) / (alpha * rank_D))
    above = np.flatnonzero(sorted_D >= line_D)
    listed = int(above[-1]) + 1 if len(above) else 0
    axes.step(rank_D, sorted_D, where="mid", color=COLOURS[0], label="documents, sorted")
    label = f"D/(αk), α = {alpha:g}: {listed} listed"
    axes.plot(rank_D, line_D, color=COLOURS[1], linestyle="--", label=label)
    axes.axvspan(0.5, listed + 0.5, color=COLOURS[0], alpha=0.12, linewidth=0)
    axes.set(xlabel="document, by e-value", ylabel="log₁₀ e-value")
    axes.legend(frameon=False, fontsize="small")
    return figure


_MATCH_STYLE = (
    "<style>.ewm{font-family:ui-monospace,monospace;line-height:1.7;white-space:pre-wrap;"
    "overflow-wrap:anywhere;color-scheme:light dark}"
    ".ewm span{border-radius:.2em;border-bottom:2px solid transparent}"
    ".ewm .hit{background:rgb(0 114 178/calc(var(--w)*.6));border-bottom-color:#0072b2}"
    ".ewm .miss{border-bottom:2px dotted #d55e00}</style>"
)


def match_html(
    tokens: Sequence[str],
    match: Sequence[bool | None],
    weights: Sequence[float] | None = None,
) -> str:
    """Write a text as HTML in which tokens that match the key stand out.

    Matches are shaded and underlined, mismatches dotted, tokens that are not scored plain; so the
    difference does not hang on colour. Needs no matplotlib and loads nothing.

    Parameters
    ----------
    tokens
        The tokens as text; joined as they are.
    match
        Per token whether it matched, ``None`` where it was not scored.
    weights
        Per token the evidence of a match in nats, which sets the depth of the shade; all equal if
        not given. Negative and non-finite values count as 0.

    Returns
    -------
    str
        A ``<style>`` and a ``<div>``.
    """
    if len(match) != len(tokens) or (weights is not None and len(weights) != len(tokens)):
        raise ValueError(
            f"{len(tokens)} tokens, {len(match)} matches and "
            f"{'no' if weights is None else len(weights)} weights: lengths must agree"
        )
    raw = np.ones(len(tokens)) if weights is None else np.asarray(weights, dtype=float)
    depth = np.where(np.isfinite(raw), np.maximum(raw, 0.0), 0.0)
    scored = [i for i, m in enumerate(match) if m]
    largest = max((depth[i] for i in scored), default=0.0) or 1.0
    parts = []
    for token, matched, value in zip(tokens, match, depth, strict=True):
        text = html.escape(token)
        if matched is None:
            parts.append(f"<span>{text}</span>")
        elif matched:
            title = "match" if weights is None else f"match, {value:.2f} nats"
            share = 0.25 + 0.75 * value / largest
            parts.append(f'<span class="hit" style="--w:{share:.2f}" title="{title}">{text}</span>')
        else:
            parts.append(f'<span class="miss" title="mismatch">{text}</span>')
    return f'{_MATCH_STYLE}<div class="ewm">{"".join(parts)}</div>'
