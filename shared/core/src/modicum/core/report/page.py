"""The page itself: HTML from results.

Takes results and, for kept files, the folder they were written to. Everything that comes from a
result is escaped; figures are embedded as images, inside which browsers run no script and load
nothing.
"""

from __future__ import annotations

import base64
import html
import math
import mimetypes
import os
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files as package_files
from pathlib import Path

from modicum.core.experiment import Claim, Figure, Result, Table, write_atomic
from modicum.core.report.numbers import format_duration, format_measured, format_number

__all__ = ["render", "write_report"]

# The page itself forbids what it does not need: scripts, frames and every load but embedded images.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    " base-uri 'none'; form-action 'none'"
)
_LARGEST_EMBEDDED_FILE = 512 * 1024  # bytes; a larger file is named, not embedded
_DASH = "\N{EN DASH}"
_NOTHING = f'<span class="quiet">{_DASH}</span>'
_SNIPPET_LINES, _SNIPPET_CHARACTERS = 40, 4000


def write_report(
    results: Iterable[Result],
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the page of `results` to `path` and return it; arguments as in `render`."""
    return write_atomic(path, render(results, root=root))


def render(results: Iterable[Result], *, root: str | os.PathLike[str] | None = None) -> str:
    """Return the page of `results` as HTML text.

    Parameters
    ----------
    results
        In the order in which they should stand; those of one package are brought together.
    root
        The folder that `modicum.core.experiment.run_experiments` wrote to. Files that results keep
        are embedded from there; None leaves them out.
    """
    methods: dict[str, list[Result]] = {}
    for result in results:
        methods.setdefault(result.package, []).append(result)
    everything = [result for group in methods.values() for result in group]
    style = package_files("modicum.core.report").joinpath("style.css").read_text(encoding="utf-8")
    sections = "".join(_method(package, group, root) for package, group in methods.items())
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        "<title>modicum: claims and measurements</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        f"{_header(everything)}"
        f'<main id="main">\n{_overview(methods)}{sections}</main>\n'
        "<footer><p>Figures measured on another machine, with another seed or at another size will"
        " differ; every experiment above says how to repeat it.</p></footer>\n"
        "</body>\n</html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _prose(text: str) -> str:
    """Escape, and set what stands between backticks as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", _text(text))


def _paragraphs(text: str) -> str:
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]
    return "".join(f"<p>{_prose(block)}</p>\n" for block in blocks)


def _anchor(*parts: str) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9-]+", "-", part) for part in parts)


# Head of the page -------------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _tally(results: Sequence[Result]) -> tuple[int, int, int, int]:
    """Count claims that hold, that do not, that are undecided, and failed experiments."""
    holds = [claim.holds for result in results for claim in result.claims]
    failed = sum(result.status == "failed" for result in results)
    return holds.count(True), holds.count(False), holds.count(None), failed


def _header(results: Sequence[Result]) -> str:
    holds, fails, open_, failed = _tally(results)
    tiles = [("good", holds, "claim holds" if holds == 1 else "claims hold")]
    if fails:
        tiles.append(("bad", fails, "does not hold" if fails == 1 else "do not hold"))
    if open_:
        tiles.append(("open", open_, "not decided here"))
    if failed:
        tiles.append(("bad", failed, "experiment failed" if failed == 1 else "experiments failed"))
    summary = "\n".join(
        f'<li class="{kind}"><strong>{number}</strong> {label}</li>'
        for kind, number, label in tiles
    )
    if not results:
        summary = '<li class="open">No results yet</li>'
    facts = []
    days = sorted({result.started[:10] for result in results if result.started})
    if days:
        facts.append(days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
    sizes = {result.quick for result in results}
    if len(sizes) == 1:
        facts.append("quick settings" if sizes == {True} else "full settings")
    for key in ("GPU", "CPU", "Memory"):
        found = {result.environment[key] for result in results if key in result.environment}
        if len(found) == 1:
            facts.append(found.pop())
    line = " · ".join(_text(fact) for fact in facts)
    return (
        '<header class="page">\n<p class="brand">modicum</p>\n<h1>Claims and measurements</h1>\n'
        '<p class="lead">What the methods claim, as published, beside what was measured here.</p>\n'
        f'<ul class="tally">{summary}</ul>\n'
        + (f'<p class="facts">{line}</p>\n' if line else "")
        + "</header>\n"
    )


def _share_bar(holds: int, fails: int, open_: int) -> str:
    """Draw how many claims hold as a bar; the words beside it say the same."""
    total = holds + fails + open_
    if total == 0:
        return ""
    parts, left = "", 0.0
    for kind, number in (("good", holds), ("bad", fails), ("open", open_)):
        if number:
            width = 100 * number / total
            parts += (
                f'<rect class="{kind}" x="{left:.2f}" y="0" width="{width:.2f}" height="6"></rect>'
            )
            left += width
    return (
        '<svg class="share" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f"{parts}</svg>"
    )


def _overview(methods: dict[str, list[Result]]) -> str:
    if not methods:
        return "<section><p>Run <code>modicum demo</code> to fill this page.</p></section>\n"
    rows = ""
    for package, results in methods.items():
        holds, fails, open_, failed = _tally(results)
        total = holds + fails + open_
        claims = f"{holds} of {total} hold" if total else "none measured"
        if open_:
            claims += f", {open_} not decided"
        state = (
            f'<span class="badge bad">{failed} of {len(results)} failed</span>'
            if failed
            else f'<span class="badge good">{len(results)} ran</span>'
        )
        version = next((r.versions[package] for r in results if package in r.versions), "")
        rows += (
            f'<tr role="row"{" class=failed" if failed else ""}>'
            f'<th role="rowheader" scope="row"><a href="#{_anchor(package)}">'
            f"{_text(package.removeprefix('modicum-'))}</a>"
            f' <span class="quiet">{_text(version)}</span></th>'
            f'<td role="cell" data-label="Claims"><span>{claims}'
            f"{_share_bar(holds, fails, open_)}</span></td>"
            f'<td role="cell" data-label="Experiments"><span>{state}</span></td>'
            f'<td role="cell" data-label="Time" class="num">'
            f"<span>{format_duration(sum(r.seconds for r in results))}</span></td></tr>\n"
        )
    return (
        '<section aria-labelledby="overview">\n<h2 id="overview">Overview</h2>\n'
        '<table class="stack overview" role="table"><thead role="rowgroup"><tr role="row">'
        '<th role="columnheader" scope="col">Method</th>'
        '<th role="columnheader" scope="col">Claims</th>'
        '<th role="columnheader" scope="col">Experiments</th>'
        '<th role="columnheader" scope="col" class="num">Time</th></tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}</tbody></table>\n</section>\n'
    )


# One method, one experiment ---------------------------------------------------------------------


def _method(package: str, results: Sequence[Result], root: str | os.PathLike[str] | None) -> str:
    anchor = _anchor(package)
    version = next((r.versions[package] for r in results if package in r.versions), "")
    return (
        f'<section class="method" aria-labelledby="{anchor}">\n'
        f'<h2 id="{anchor}">{_text(package.removeprefix("modicum-"))}'
        f' <span class="quiet">{_text(package)} {_text(version)}</span></h2>\n'
        + "".join(_experiment(result, root) for result in results)
        + "</section>\n"
    )


def _experiment(result: Result, root: str | os.PathLike[str] | None) -> str:
    failed = result.status == "failed"
    anchor = _anchor(result.package, result.experiment)
    badge = '<span class="badge bad">failed</span>' if failed else ""
    parts = [
        f'<article class="experiment{" failed" if failed else ""}" aria-labelledby="{anchor}">\n'
        f'<h3 id="{anchor}">{_text(result.title)} {badge}</h3>\n'
    ]
    if failed:
        parts.append(_error(result))
    parts.append(_paragraphs(result.text))
    if result.claims:
        parts.append(_claims(result.claims))
    if result.figures:
        pictures = "".join(_figure(figure) for figure in result.figures)
        parts.append(f'<div class="figures">\n{pictures}</div>\n')
    parts.extend(_table(table) for table in result.tables)
    if root is not None:
        folder = Path(root) / result.package / result.experiment
        parts.extend(_file(folder, name) for name in result.files)
    parts.append(_how(result))
    parts.append("</article>\n")
    return "".join(parts)


def _error(result: Result) -> str:
    lines = [line for line in (result.error or "").splitlines() if line.strip()]
    # A traceback says what happened in its last line.
    last = lines[-1] if lines else "no error was recorded"
    return (
        f'<p class="error"><strong>This experiment failed:</strong>'
        f" <code>{_text(last)}</code></p>\n"
        "<details><summary>Full error</summary>"
        f'<pre tabindex="0"><code>{_text(result.error or "")}</code></pre></details>\n'
    )


_VERDICTS = {
    True: ("good", "✓", "holds"),
    False: ("bad", "✗", "does not hold"),
    None: ("open", _DASH, "not decided"),
}


def _claims(claims: Sequence[Claim]) -> str:
    rows = "".join(_claim(claim) for claim in claims)
    pictured = any(_has_picture(claim) for claim in claims)
    legend = (
        '<p class="legend"><svg viewBox="0 0 34 12" aria-hidden="true" class="interval">'
        '<line class="span" x1="2" x2="32" y1="6" y2="6"></line><circle cx="17" cy="6" r="3.2">'
        "</circle></svg> measured, with interval"
        ' <svg viewBox="0 0 12 12" aria-hidden="true" class="interval tick">'
        '<line class="paper" x1="6" x2="6" y1="1" y2="11"></line></svg> published</p>\n'
    )
    return (
        '<table class="stack claims" role="table"><thead role="rowgroup"><tr role="row">'
        '<th role="columnheader" scope="col">Claim</th>'
        '<th role="columnheader" scope="col">Published</th>'
        '<th role="columnheader" scope="col">Measured here</th>'
        '<th role="columnheader" scope="col">Holds</th></tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}</tbody></table>\n' + (legend if pictured else "")
    )


def _claim(claim: Claim) -> str:
    kind, sign, words = _VERDICTS[claim.holds]
    unit = f" {_text(claim.unit)}" if claim.unit else ""
    if claim.paper is None:
        paper = _NOTHING
    elif isinstance(claim.paper, str):
        paper = _prose(claim.paper)
    else:
        paper = f'<span class="figure-number">{format_number(claim.paper)}{unit}</span>'
    value, interval = format_measured(claim.measured, claim.interval)
    measured = f'<strong class="figure-number">{value}{unit}</strong>'
    if interval is not None:
        measured += f' <span class="range">{interval}</span>'
    measured += _interval_picture(claim)
    note = f'<span class="note">{_prose(claim.note)}</span>' if claim.note else ""
    return (
        f'<tr role="row"><th role="rowheader" scope="row">{_prose(claim.statement)}{note}</th>'
        f'<td role="cell" data-label="Published"><span>{paper}</span></td>'
        f'<td role="cell" data-label="Measured here"><span>{measured}</span></td>'
        f'<td role="cell" data-label="Holds"><span class="verdict {kind}">'
        f'<span aria-hidden="true">{sign}</span> {words}</span></td></tr>\n'
    )


def _landmarks(claim: Claim) -> list[float]:
    values = [claim.measured, *(claim.interval or ())]
    if isinstance(claim.paper, float):
        values.append(claim.paper)
    return [value for value in values if math.isfinite(value)]


def _has_picture(claim: Claim) -> bool:
    """Tell whether there are two figures to compare and a scale to compare them on."""
    return (
        isinstance(claim.paper, float)
        and math.isfinite(claim.paper)
        and math.isfinite(claim.measured)
        and len(set(_landmarks(claim))) > 1
    )


def _interval_picture(claim: Claim) -> str:
    """Draw measured value, interval and published figure on one line; the text says the same."""
    if not _has_picture(claim) or not isinstance(claim.paper, float):
        return ""
    values = _landmarks(claim)
    low, high = min(values), max(values)
    width, margin = 150.0, 7.0

    def place(value: float) -> float:
        clipped = min(max(value, low), high)
        # In units of the largest, so that neither huge nor tiny floats leave the range of floats.
        unit = max(abs(low), abs(high))
        fraction = (clipped / unit - low / unit) / (high / unit - low / unit)
        return margin + (width - 2 * margin) * fraction

    marks = f'<line class="axis" x1="0" x2="{width:g}" y1="6" y2="6"></line>'
    if claim.interval is not None and not any(math.isnan(end) for end in claim.interval):
        # An infinite end runs out of the picture.
        left, right = claim.interval
        x1 = 0.0 if math.isinf(left) else place(left)
        x2 = width if math.isinf(right) else place(right)
        marks += f'<line class="span" x1="{x1:.1f}" x2="{x2:.1f}" y1="6" y2="6"></line>'
    x = place(claim.paper)
    marks += f'<line class="paper" x1="{x:.1f}" x2="{x:.1f}" y1="1" y2="11"></line>'
    marks += f'<circle cx="{place(claim.measured):.1f}" cy="6" r="3.2"></circle>'
    return f'<svg class="interval wide" viewBox="0 0 {width:g} 12" aria-hidden="true">{marks}</svg>'


def _figure(figure: Figure) -> str:
    if figure.svg is not None:
        kind, data = "image/svg+xml", figure.svg.encode("utf-8")
    else:
        kind, data = "image/png", figure.png or b""
    encoded = base64.b64encode(data).decode("ascii")
    alt = figure.alt or ". ".join(part for part in (figure.title, figure.caption) if part)
    title = f"<strong>{_prose(figure.title)}</strong> " if figure.title else ""
    return (
        f'<figure>\n<div class="scroll picture" tabindex="0" role="group"'
        f' aria-label="{_text(figure.title or "Figure")}">'
        f'<img alt="{_text(alt)}" src="data:{kind};base64,{encoded}"></div>\n'
        f"<figcaption>{title}{_prose(figure.caption)}</figcaption>\n</figure>\n"
    )


def _common_decimals(values: Sequence[object]) -> int | None:
    """Return the decimals that line a column up, None where each number is better on its own."""
    floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    shown = [text for text in map(format_number, floats) if " " not in text]
    decimals = max((len(text.partition(".")[2]) for text in shown), default=0)
    largest = max(map(abs, floats), default=0.0)
    # More than six digits would pretend to a precision that nobody reads.
    return decimals if decimals > 0 and largest * 10**decimals < 1e6 else None


def _cell(value: object, decimals: int | None) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_number(value, decimals)
    return _prose(str(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(table: Table) -> str:
    numeric = [
        any(_is_number(row[index]) for row in table.rows)
        and all(row[index] is None or _is_number(row[index]) for row in table.rows)
        for index in range(len(table.columns))
    ]
    decimals = [
        _common_decimals([row[index] for row in table.rows]) for index in range(len(table.columns))
    ]
    head = "".join(
        f'<th scope="col"{" class=num" if right else ""}>{_prose(column)}</th>'
        for column, right in zip(table.columns, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=num' if right else ''}>{_cell(cell, places)}</td>"
            for cell, right, places in zip(row, numeric, decimals, strict=True)
        )
        + "</tr>\n"
        for row in table.rows
    )
    note = f'<p class="note">{_prose(table.note)}</p>\n' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{_text(table.title)}">'
        f'<table class="data"><caption>{_prose(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n{note}"
    )


def _size(count: int) -> str:
    if count < 1000:
        return _count(count, "byte")
    return f"{count / 1000:.3g} kB" if count < 1_000_000 else f"{count / 1e6:.3g} MB"


def _file(folder: Path, name: str) -> str:
    """Show the beginning of a kept text file and offer the whole of it for download."""
    path = (folder / name).resolve()
    label = f"<code>{_text(name)}</code>"
    # A link inside the folder may point out of it.
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return f'<p class="file">{label} is no longer in the results folder.</p>\n'
    size = path.stat().st_size
    if size > _LARGEST_EMBEDDED_FILE:
        return f'<p class="file">{label}, {_size(size)}, is in the results folder.</p>\n'
    data = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    link = (
        f'<a download="{_text(path.name)}" href="data:{_text(kind)};base64,'
        f'{base64.b64encode(data).decode("ascii")}">Download</a>'
    )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return f'<p class="file">{label}, {_size(size)} {link}</p>\n'
    snippet = "\n".join(text[:_SNIPPET_CHARACTERS].splitlines()[:_SNIPPET_LINES])
    rest = "\n…" if len(snippet) < len(text.rstrip()) else ""
    return (
        f'<details class="kept"><summary>{label}, {_size(size)}</summary>\n'
        f'<pre tabindex="0"><code>{_text(snippet + rest)}</code></pre>'
        f'<p class="file">{link}</p></details>\n'
    )


def _how(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    facts = [
        ("Size", "quick" if result.quick else "full"),
        ("Seed", str(result.seed)),
        ("Device", result.device),
        ("Time", format_duration(result.seconds)),
        ("Started", result.started.replace("T", " ").replace("+00:00", " UTC")),
        *result.environment.items(),
        ("Versions", versions),
    ]
    rows = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in facts
        if value
    )
    # What failed to load has no command that repeats it.
    command = (
        f'<pre tabindex="0"><code>{_text(result.command)}</code></pre>' if result.started else ""
    )
    return (
        f'<details class="how"><summary>How this was run</summary>\n{command}'
        f"<dl>{rows}</dl></details>\n"
    )
