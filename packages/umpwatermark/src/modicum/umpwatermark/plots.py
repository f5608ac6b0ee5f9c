"""Pictures: trade-offs, tokens against entropy, misses against length, edits, evidence per token.

Takes plain arrays and gives matplotlib figures, or for `evidence_html` a piece of HTML. matplotlib
is loaded by the first figure; it is an optional dependency. Computes no error probabilities; only
`roc_curve` counts.

Legend: ``K`` points of a curve, ``T`` tokens of a text, ``R`` texts.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.plots import COLOURS, GREY, look, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGE = "modicum-umpwatermark"
FLOOR = 1e-12
"""Probabilities below this are drawn at it on logarithmic axes."""


def _curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], what: str
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    if not curves:
        raise ValueError(f"there is no {what} to draw")
    found = {}
    for name, (x, y) in curves.items():
        x_K, y_K = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        if x_K.ndim != 1 or x_K.shape != y_K.shape:
            raise ValueError(f"{name!r} has shapes {x_K.shape} and {y_K.shape}, needs [K] and [K]")
        found[name] = x_K, y_K
    return found


def tradeoff(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, logarithmic: bool = True
) -> "Figure":
    """Draw the Type II error against the Type I error, one line per scheme.

    Parameters
    ----------
    curves
        By name the levels alpha ``[K]`` and the Type II errors ``[K]``.
    logarithmic
        Logarithmic levels.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, (alpha_K, beta_K)) in enumerate(_curves(curves, "trade-off").items()):
        axes.plot(alpha_K, beta_K, label=name, **look(index))
    axes.set(xlabel="Type I error α (false alarms)", ylabel="Type II error β (misses)")
    axes.set(ylim=(0, 1.02), xscale="log" if logarithmic else "linear")
    axes.legend(frameon=False, fontsize="small")
    return figure


def tokens_against_entropy(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> "Figure":
    """Draw the tokens needed against the entropy per token, both logarithmic.

    Parameters
    ----------
    curves
        By scheme the entropies ``[K]`` (nats per token) and the tokens needed ``[K]``; ``inf`` and
        NaN are left out.
    """
    figure, axes = new_axes(PACKAGE, height=4.2)
    for index, (name, (h_K, n_K)) in enumerate(_curves(curves, "scheme").items()):
        known = np.isfinite(n_K)
        axes.plot(h_K[known], n_K[known], marker=".", label=name, **look(index))
    axes.set(xlabel="entropy h (nats per token)", ylabel="tokens needed n")
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize="small")
    return figure


def scaled_tokens(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> "Figure":
    """Draw n·h against ln(1/h): a straight line where n grows as ln(1/h)/h.

    Parameters
    ----------
    curves
        By scheme the entropies ``[K]`` (nats per token) and the tokens needed ``[K]``.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, (h_K, n_K)) in enumerate(_curves(curves, "scheme").items()):
        known = np.isfinite(n_K) & (h_K > 0)
        order = np.argsort(h_K[known])[::-1]
        h, n = h_K[known][order], n_K[known][order]
        axes.plot(np.log(1 / h), n * h, marker="o", markersize=3, label=name, **look(index))
    axes.set(xlabel="ln(1/h)", ylabel="n · h (nats)", yscale="log")
    axes.legend(frameon=False, fontsize="small")
    return figure


def type2_against_length(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    bound: tuple[ArrayLike, ArrayLike] | None = None,
) -> "Figure":
    """Draw the Type II error against the number of tokens, over the optimum of any scheme.

    Parameters
    ----------
    curves
        By scheme the lengths ``[K]`` and the Type II errors ``[K]``.
    bound
        Lengths and Type II errors of the uniformly most powerful test; the area below it, which
        no scheme can reach, is shaded.
    """
    figure, axes = new_axes(PACKAGE)
    for index, (name, (n_K, beta_K)) in enumerate(_curves(curves, "scheme").items()):
        axes.plot(n_K, np.maximum(beta_K, FLOOR), label=name, **look(index))
    if bound is not None:
        n_K, beta_K = _curves({"bound": bound}, "bound")["bound"]
        beta_K = np.maximum(beta_K, FLOOR)
        axes.fill_between(n_K, FLOOR, beta_K, color=GREY, alpha=0.25, linewidth=0)
        axes.plot(n_K, beta_K, color="black", linewidth=1, label="optimum of any scheme")
    shown = [line.get_ydata() for line in axes.get_lines()]
    least = min(float(np.min(y)) for y in shown)
    axes.set(xlabel="tokens n", ylabel="Type II error β", yscale="log")
    axes.set(ylim=(max(least, 1e-6) / 2, 1.2))
    axes.legend(frameon=False, fontsize="small")
    return figure


def robust(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    simulated: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]] | None = None,
) -> "Figure":
    """Draw the robust Type II error against the number of edits.

    Parameters
    ----------
    curves
        By name the numbers of edits ``[K]`` and the optimal robust Type II errors ``[K]``.
    simulated
        By name of an actual scheme the numbers of edits, its miss rates and the half widths of
        their intervals, each ``[K]``.
    """
    figure, axes = new_axes(PACKAGE)
    index = 0
    for name, (d_K, beta_K) in _curves(curves, "robust curve").items():
        axes.plot(d_K, beta_K, marker=".", label=name, **look(index))
        index += 1
    for name, (d, beta, half) in (simulated or {}).items():
        axes.errorbar(
            np.asarray(d), np.asarray(beta), yerr=np.asarray(half), marker="o", markersize=3,
            label=name, **look(index),
        )  # fmt: skip
        index += 1
    axes.set(xlabel="edits d", ylabel="Type II error β", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, fontsize="small")
    return figure


def evidence_budget(budgets: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Draw how much evidence per token each test can collect.

    Parameters
    ----------
    budgets
        By kind of text the nats per token by name of the test, as `planner.evidence_budget` gives
        them.
    """
    if not budgets or not all(budgets.values()):
        raise ValueError("there is no budget to draw")
    figure, axes = new_axes(PACKAGE)
    names = list(dict.fromkeys(name for budget in budgets.values() for name in budget))
    width = 0.8 / len(budgets)
    for index, (kind, budget) in enumerate(budgets.items()):
        place = np.arange(len(names)) + (index - (len(budgets) - 1) / 2) * width
        values = [budget.get(name, math.nan) for name in names]
        bars = axes.barh(place, values, width, label=kind, color=COLOURS[index % len(COLOURS)])
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize="x-small")
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="nats per token")
    axes.margins(x=0.12)
    axes.legend(frameon=False, fontsize="small")
    return figure


def roc_curve(
    null_R: ArrayLike, marked_R: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false-alarm and detection rates over all thresholds of a score.

    Parameters
    ----------
    null_R, marked_R
        Scores of unmarked and of marked texts; larger means marked. ``-log(p)`` of a p-value is
        one.

    Returns
    -------
    false_alarms_K, detected_K : float64
        Non-decreasing, from (0, 0) to (1, 1).
    """
    null = np.sort(np.asarray(null_R, dtype=float))
    marked = np.sort(np.asarray(marked_R, dtype=float))
    if not len(null) or not len(marked):
        raise ValueError(f"need scores of both kinds, got {len(null)} and {len(marked)}")
    at = np.unique(np.concatenate([null, marked]))[::-1]
    false_alarms = 1 - np.searchsorted(null, at, side="left") / len(null)
    detected = 1 - np.searchsorted(marked, at, side="left") / len(marked)
    return np.concatenate([[0.0], false_alarms]), np.concatenate([[0.0], detected])


def roc(scores: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> "Figure":
    """Draw receiver operating characteristics.

    Parameters
    ----------
    scores
        By detector the scores of unmarked and of marked texts, as for `roc_curve`.
    """
    if not scores:
        raise ValueError("there is no detector to draw")
    figure, axes = new_axes(PACKAGE, width=4.6, height=4.2)
    for index, (name, (null_R, marked_R)) in enumerate(scores.items()):
        axes.step(*roc_curve(null_R, marked_R), where="post", label=name, **look(index))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7)
    axes.set(xlabel="false-alarm rate", ylabel="share detected", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


_STYLE = (
    "<style>.umpw{font-family:ui-monospace,monospace;line-height:1.7;white-space:pre-wrap;"
    "overflow-wrap:anywhere;color-scheme:light dark}"
    ".umpw span{border-radius:.2em;border-bottom:2px solid transparent}"
    ".umpw .for{background:rgb(0 114 178/calc(var(--w)*.6));border-bottom-color:#0072b2}"
    ".umpw .against{background:rgb(213 94 0/calc(var(--w)*.4));border-bottom:2px dotted #d55e00}"
    "</style>"
)


def evidence_html(tokens: Sequence[str], nats: Sequence[float | None]) -> str:
    """Write a text as HTML, shaded by the evidence that each token carries.

    Evidence for the mark is blue and underlined, evidence against it orange and dotted, tokens
    that are not scored plain; so the difference does not hang on colour. Needs no matplotlib and
    loads nothing.

    Parameters
    ----------
    tokens
        The tokens as text; joined as they are.
    nats
        Per token its score in nats, ``None`` or NaN where it was not scored.

    Returns
    -------
    str
        A ``<style>`` and a ``<div>``.

    Raises
    ------
    ValueError
        If the lengths differ.
    """
    if len(tokens) != len(nats):
        raise ValueError(f"{len(tokens)} tokens but {len(nats)} scores")
    scores = [math.nan if s is None else float(s) for s in nats]
    largest = max((abs(s) for s in scores if math.isfinite(s)), default=0.0) or 1.0
    parts = []
    for token, score in zip(tokens, scores, strict=True):
        text = html.escape(token)
        if math.isnan(score):
            parts.append(f"<span>{text}</span>")
            continue
        share = min(1.0, 0.15 + 0.85 * abs(score) / largest)
        side = "for" if score >= 0 else "against"
        title = f"{score:+.2f} nats"
        parts.append(f'<span class="{side}" style="--w:{share:.2f}" title="{title}">{text}</span>')
    return f'{_STYLE}<div class="umpw">{"".join(parts)}</div>'
