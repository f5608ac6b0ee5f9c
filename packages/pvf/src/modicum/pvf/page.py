"""A decoding as a page to look at: one HTML file with a slider over its calls.

Takes a `modicum.pvf.trace.Trace` and gives a file that needs no network and no second file. What
comes from tokens and settings is escaped, and the page forbids every script but its own. Reasons
are told apart by letters as well as colours; without scripts, and on paper, the page shows the end
state and a table of all calls.
"""

import html
import json
import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from modicum.core.experiment import write_atomic
from modicum.core.report import format_number
from modicum.pvf.events import Commit
from modicum.pvf.trace import LETTERS, Trace, visible

__all__ = ["page_html", "write_page"]

MOST_SEQUENCES = 16
"""Sequences that a page shows unless it is said which."""

_CELL = 15
"""Side of a cell of the map of calls and columns, in its own units."""

_COLUMNS = ("Call", "Route", "Rows", "Committed", "Tested, not kept")
_ROUTES = {
    "cold": "without a test",
    "plan": "planning tokens tested",
    "fill": "leftmost drafts tested",
}
_KEY = {
    "H": "confident, committed without a test",
    "P": "planning token, tested and kept",
    "F": "leftmost draft, tested and kept",
    "X": "forced: the most likely one, since nothing was confident",
    "E": "end token behind the end",
}


def write_page(
    trace: Trace,
    path: str | os.PathLike[str],
    *,
    sequences: Iterable[int] | None = None,
    title: str = "Decoding, call by call",
) -> Path:
    """Write a page, whole or not at all.

    Parameters
    ----------
    trace
        What was recorded.
    path
        Where the page goes; missing folders are made.
    sequences
        Numbers of the sequences to show; the first sixteen by default.
    title
        Heading of the page.

    Returns
    -------
    pathlib.Path
        The path of the page.

    Raises
    ------
    ValueError
        If there is no such sequence, or none is shown.
    """
    return write_atomic(path, page_html(trace, sequences=sequences, title=title))


def page_html(
    trace: Trace,
    *,
    sequences: Iterable[int] | None = None,
    title: str = "Decoding, call by call",
) -> str:
    """Give the page as text; see `write_page`."""
    if sequences is None:
        numbers = list(range(min(len(trace.canvases), MOST_SEQUENCES)))
    else:
        numbers = [trace.check_sequence(number) for number in sequences]
    if not numbers:
        raise ValueError("sequences is empty: a page shows at least one")
    script = _resource("modicum.pvf", "data/replay/page.js")
    style = _resource("modicum.core.report", "style.css")
    style += _resource("modicum.pvf", "data/replay/page.css")
    body = "".join(_section(trace, number) for number in numbers)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{_header(trace, numbers, title)}<main>\n{_pick(numbers)}{body}{_settings(trace)}</main>\n"
        f'<script type="application/json" id="data">{_json(_data(trace, numbers))}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _resource(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Forbid everything but this very script and the page's style."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " base-uri 'none'; form-action 'none'"
    )


def _text(value: object) -> str:
    # What was given may hold halves of surrogate pairs, which UTF-8 refuses.
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True)


def _json(value: Any) -> str:
    """Give JSON that ends no script element and opens no comment."""
    found = json.dumps(value, allow_nan=False)
    for letter in "<>&":
        found = found.replace(letter, f"\\u{ord(letter):04x}")
    return found


def _header(trace: Trace, numbers: Sequence[int], title: str) -> str:
    strategy = trace.config.get("strategy", {})
    name = strategy.get("strategy", "unknown") if isinstance(strategy, Mapping) else strategy
    facts = [f"strategy {name}"]
    for key in ("gen_length", "block_length", "cache"):
        if key in trace.config:
            facts.append(f"{key} {trace.config[key]}")
    if not trace.is_complete:
        facts.append("the recording was cut off")
    if len(numbers) < len(trace.canvases):
        facts.append(f"{len(numbers)} of {len(trace.canvases)} sequences")
    key = "".join(
        f'<li data-reason="{letter}"><b>{letter}</b>{_text(said)}</li>'
        for letter, said in _KEY.items()
    )
    return (
        f'<header>\n<p class="brand">modicum-pvf</p>\n<h1>{_text(title)}</h1>\n'
        f'<p class="lead">{_text(", ".join(facts))}</p>\n'
        f'<ul class="key" aria-label="Letters">{key}<li><b>×</b>tested, not kept</li></ul>\n'
        "</header>\n"
    )


def _pick(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return ""
    options = "".join(
        f'<option value="{index}">{number}</option>' for index, number in enumerate(numbers)
    )
    return f'<p class="pick" hidden><label>Sequence <select>{options}</select></label></p>\n'


def _section(trace: Trace, number: int) -> str:
    commits = trace.commits[number]
    heading = f"Sequence {number}" if len(trace.canvases) > 1 else "Canvas"
    return (
        f'<section class="experiment sequence" aria-label="{heading}">\n<h2>{heading}</h2>\n'
        f"{_controls(len(commits))}"
        '<p class="said" aria-live="polite"></p>\n'
        f'<div class="tokens" role="group" aria-label="Tokens">{_tokens(trace, number)}</div>\n'
        '<p class="detail"></p>\n'
        f"{_cost(trace, number)}{_map(trace, number)}{_calls(trace, commits)}</section>\n"
    )


def _controls(commits: int) -> str:
    speeds = "".join(
        f'<option value="{speed}"{" selected" if speed == 1 else ""}>{speed}×</option>'
        for speed in (0.5, 1, 2, 4)
    )
    return (
        '<div class="controls" role="group" aria-label="Replay" hidden>'
        '<button type="button" class="back" aria-label="One commit back (left arrow)">◀</button>'
        '<button type="button" class="play">▶ Play</button>'
        '<button type="button" class="next" aria-label="One commit on (right arrow)">▶</button>'
        f'<input type="range" min="0" max="{commits}" value="{commits}" aria-label="Commit">'
        f'<label><span>Speed</span><select class="speed" aria-label="Speed">{speeds}</select>'
        "</label></div>\n"
    )


def _tokens(trace: Trace, number: int) -> str:
    canvas = trace.canvas(number)
    committed = {
        position: (reason, commit.call)
        for commit in trace.commits[number]
        for position, reason in zip(commit.positions, commit.reasons, strict=True)
    }
    found = []
    for position, token in enumerate(canvas):
        word = _word(trace, token)
        if position in committed:
            reason, call = committed[position]
            found.append(
                f'<button type="button" class="token" data-position="{position}" '
                f'data-reason="{reason}"><bdi>{word}</bdi><span class="why">{reason}{call}</span>'
                "</button>"
            )
        elif token == trace.mask_id:
            found.append(
                f'<button type="button" class="token open" data-position="{position}">'
                '<span class="why">?</span></button>'
            )
        else:
            found.append(f'<bdi class="given">{word}</bdi>')
    return "".join(found)


def _word(trace: Trace, token: int) -> str:
    return _text(visible(trace.text(token)))


def _cost(trace: Trace, number: int) -> str:
    cost = trace.cost(number)
    facts: list[tuple[str, str]] = [
        (f"{cost.calls:,}", "forward calls (NFE)"),
        (f"{cost.rows:,}", "rows"),
        (f"{cost.tokens:,}", "tokens"),
        (format_number(cost.tokens_per_call), "tokens per forward"),
    ]
    if cost.token_evals is not None:
        facts.insert(2, (f"{cost.token_evals:,}", "token evaluations"))
    if cost.seconds is not None:
        facts.append((format_number(cost.seconds), "seconds"))
    for letter, count in cost.committed.items():
        if count:
            facts.append((f"{count:,}", f"{LETTERS[letter]} ({letter})"))
    if cost.rejected:
        facts.append((f"{cost.rejected:,}", "drafts not kept (×)"))
    items = "".join(
        f'<li class="open"><strong>{value}</strong> {_text(name)}</li>' for value, name in facts
    )
    return f'<ul class="tally" aria-label="Cost">{items}</ul>\n'


def _map(trace: Trace, number: int) -> str:
    """Draw which column was committed, and which was tested in vain, in which commit."""
    commits, span = trace.commits[number], trace.canvases[number]
    if not commits:
        return ""
    left = 3 * _CELL
    width, height = left + span.length * _CELL, len(commits) * _CELL
    drawn = [f'<rect class="current" x="0" y="0" width="{width}" height="{_CELL}"/>']
    for row, commit in enumerate(commits):
        y = row * _CELL
        drawn.append(f'<text x="{_CELL * 1.2:g}" y="{y + _CELL / 2:g}">{commit.call}</text>')
        drawn.append(f'<path class="ruler" d="M0 {y + _CELL}H{width}"/>')
        for position, reason in zip(commit.positions, commit.reasons, strict=True):
            x = left + (position - span.start) * _CELL
            drawn.append(
                f'<g data-reason="{reason}"><rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" '
                f'height="{_CELL - 2}" rx="2"/>'
                f'<text x="{x + _CELL / 2:g}" y="{y + _CELL / 2:g}">{reason}</text></g>'
            )
        for draft in commit.rejected:
            x = left + (draft.position - span.start) * _CELL
            drawn.append(f'<text class="miss" x="{x + _CELL / 2:g}" y="{y + _CELL / 2:g}">×</text>')
    said = f"{len(commits)} commits over {span.length} columns; the table below says the same"
    return (
        '<h3>Calls and columns</h3>\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="Map of calls and columns"><svg class="map" role="img" aria-label="{said}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>'
        '</div>\n<p class="note">A line for each commit, from the top, with the number of its call;'
        " a column for each position of the span.</p>\n"
    )


def _calls(trace: Trace, commits: Sequence[Commit]) -> str:
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{label}"><div>{cell}</div></td>'
            for label, cell in zip(_COLUMNS, _line(trace, commit), strict=True)
        )
        + "</tr>"
        for commit in commits
    )
    headings = "".join(f"<th>{label}</th>" for label in _COLUMNS)
    return (
        '<h3>All commits</h3>\n<table class="stack calls">'
        f"<thead><tr>{headings}</tr></thead><tbody>{lines}</tbody></table>\n"
    )


def _line(trace: Trace, commit: Commit) -> tuple[str, ...]:
    return (
        str(commit.call),
        commit.route,
        str(commit.rows),
        _committed(trace, commit),
        _rejected(trace, commit),
    )


def _committed(trace: Trace, commit: Commit) -> str:
    pieces = [
        _piece(trace, *each)
        for each in zip(
            commit.tokens, commit.positions, commit.confidences, commit.reasons, strict=True
        )
    ]
    return "; ".join(pieces) or "–"


def _rejected(trace: Trace, commit: Commit) -> str:
    pieces = [
        _piece(trace, draft.token, draft.position, draft.confidence) for draft in commit.rejected
    ]
    return "; ".join(pieces) or "–"


def _piece(trace: Trace, token: int, position: int, confidence: float, reason: str = "×") -> str:
    tone = f' data-reason="{reason}"' if reason in LETTERS else ""
    return (
        f'<span class="piece"{tone}><bdi>{_word(trace, token)}</bdi></span>&nbsp;'
        f"<small>{reason}&nbsp;at&nbsp;{position}, {_probability(confidence)}</small>"
    )


def _probability(confidence: float) -> str:
    # Below 0 stands for tokens that are committed last whatever their probability.
    return "last" if confidence < 0 else f"{confidence:.3f}"


def _settings(trace: Trace) -> str:
    rows = [*_flat(trace.config), *(("version", f"{n} {v}") for n, v in trace.versions.items())]
    items = "".join(f"<div><dt>{_text(n)}</dt><dd>{_text(v)}</dd></div>" for n, v in rows)
    return (
        '<details class="settings"><summary>Settings and versions</summary>'
        f"<dl>{items}</dl></details>\n"
    )


def _flat(config: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        elif isinstance(value, list) and len(value) > 8:
            found.append((f"{before}{name}", f"{len(value)} entries"))
        else:
            found.append((f"{before}{name}", str(value)))
    return found


def _data(trace: Trace, numbers: Sequence[int]) -> dict[str, Any]:
    """Give what the script needs."""
    return {
        "letters": LETTERS,
        "routes": _ROUTES,
        "cell": _CELL,
        "sequences": [
            {
                "calls": trace.cost(number).calls,
                "steps": [_step(trace, commit) for commit in trace.commits[number]],
            }
            for number in numbers
        ],
    }


def _step(trace: Trace, commit: Commit) -> dict[str, Any]:
    return {
        "call": commit.call,
        "route": commit.route,
        "rows": commit.rows,
        "tokens": [
            {
                "position": position,
                "text": visible(trace.text(token)),
                "confidence": round(confidence, 6),
                "reason": reason,
            }
            for position, token, confidence, reason in zip(
                commit.positions, commit.tokens, commit.confidences, commit.reasons, strict=True
            )
        ],
        "rejected": [
            {
                "position": draft.position,
                "text": visible(trace.text(draft.token)),
                "confidence": round(draft.confidence, 6),
            }
            for draft in commit.rejected
        ],
    }
