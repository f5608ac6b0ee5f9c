"""One page about a purchase: what is bought, at which price, and how good it can be.

Takes a `modicum.daved.selection.Selection` and, where they are at hand, the rows, the queries and
labels for an evaluation; gives one HTML file that needs no network, no script and no second file.
The same input gives the same bytes. Everything that comes from records is escaped. Chooses nothing
and computes no design. Figures need matplotlib; without it the page has the tables behind them.

Shapes: n records, d features, m queries, k bought, b budgets, r random purchases.
"""

from __future__ import annotations

import html
import os
import platform
import warnings
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.core.experiment import Figure, write_atomic
from modicum.core.report import format_number
from modicum.daved.selection import Selection
from modicum.daved.theory import budget_curve, effective_sample_size
from modicum.daved.validation import LEAST_COVERAGE, check_positive

if TYPE_CHECKING:
    from modicum.daved.pool import Pool

__all__ = ["write_report"]

# The page forbids what it does not need: scripts, frames and every load but embedded images.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    " base-uri 'none'; form-action 'none'"
)
# What the style of the reports on experiments has not.
_STYLE = """
.warnings { margin: 0 0 1.5rem; padding: 0.9rem 1.25rem 0.9rem 2.25rem; border-radius: 0.5rem;
  border-left: 5px solid var(--bad); background: var(--bad-fill); }
.warnings li { max-width: 44rem; }
.experiment > h2 { margin-top: 0; }
.data td { white-space: nowrap; }
.settings { columns: 22rem 2; column-gap: 3rem; }
.settings div { grid-template-columns: 9rem 1fr; break-inside: avoid; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 0.5rem; }
/* Pictures here are narrow enough to be read at the width of a phone. */
@media screen { .picture img { min-width: 0; } }
@media print { .skip { display: none; } .warnings { border: 1px solid var(--bad); } }
"""
_ROWS_SHOWN, _ROWS_WRITTEN = 12, 2000
"""Rows of a table before the rest is folded, and rows that a page has at most."""
_ROWS_UNFOLDED = 16
"""A table of at most so many rows is not folded: a fold that hides three rows is a nuisance."""
_MOST_DECIMALS = 4
_SELLERS_DRAWN = 15
_POINTS_DRAWN = 400
_ROWS_DRAWN = 5000
_WIDTH = 4.8
"""Inches of a picture, whose letters then have the size of the text beside it."""
_RANDOM_PURCHASES, _SIZES_MEASURED = 40, 30
_BAND = (0.05, 0.95)
# Far above the rounding of w'g = L, far below what owned records or a ridge make of it.
_SAME = 1e-6


def write_report(
    selection: Selection,
    out: str | os.PathLike[str],
    *,
    sellers: Any = None,
    queries: Any = None,
    files: Any = None,
    sigma2: float = 1.0,
    labels: Any = None,
    title: str | None = None,
) -> Path:
    """Write a page about a purchase, whole or not at all.

    Parameters
    ----------
    selection
        The purchase.
    out
        Where the page goes; missing folders are made.
    sellers
        The sellers' rows of features as the selection saw them, (n, d): an array, a frame, a list
        of shards or a `Pool`. With `queries` the page shows where the purchase lies.
    queries
        The buyer's rows, (m, d).
    files
        Seller, or file, of each record, (n,).
    sigma2
        Variance of the label noise, the unit of errors.
    labels
        Only for an evaluation afterwards: the pair of the records' labels, (n,), and the queries'
        true answers, (m,). With `sellers` and `queries` the page shows the error that is measured
        after each purchase, beside that of random purchases.
    title
        Heading of the page.

    Returns
    -------
    pathlib.Path
        The path of the page.

    Raises
    ------
    ValueError
        If an argument has another number of records, queries or features than the selection, or
        labels come without rows.
    """
    audit = _audit(selection, sellers, queries, files, sigma2, labels)
    return write_atomic(out, _page(audit, title or "What to buy, and how good it can be"))


@dataclass(frozen=True)
class _Measured:
    """Squared errors of models of a purchase and of random purchases for the same money."""

    sizes_b: np.ndarray
    spent_b: np.ndarray
    errors_b: np.ndarray
    random_rb: np.ndarray

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Median, low and high end of the random purchases, (b,) each."""
        low_b, median_b, high_b = np.quantile(self.random_rb, [_BAND[0], 0.5, _BAND[1]], axis=0)
        return median_b, low_b, high_b


@dataclass(frozen=True)
class _Audit:
    """What a page is made of, checked."""

    selection: Selection
    sigma2: float
    sellers_n: np.ndarray | None
    pool: Pool | None
    queries_md: np.ndarray | None
    measured: _Measured | None

    @property
    def has_certificate(self) -> bool:
        """Whether there is a relaxed design beside the purchase."""
        return not np.isnan(self.selection.gap)

    @property
    def is_alone(self) -> bool:
        """Whether the design is all that counts, so that its error goes with 1 / budget."""
        found = self.selection
        own = float(found.weights @ found.scores)
        return self.has_certificate and abs(own - found.objective) <= _SAME * found.objective

    @property
    def errors(self) -> tuple[float, float]:
        """Predicted error before and after the purchase."""
        after = self.selection.predicted_error
        before = self.sigma2 * self.selection.prior_error
        return before, self.sigma2 * float(after[-1]) if len(after) else before

    @property
    def optimum(self) -> tuple[float, float]:
        """Where the best design's error lies."""
        found = self.selection
        least = max(found.objective - max(found.gap, 0.0), 0.0)
        return self.sigma2 * least, self.sigma2 * found.objective

    @property
    def spend(self) -> dict[str, tuple[int, int, float]]:
        """By seller the records offered and bought and the money, most money first."""
        assert self.sellers_n is not None
        names, codes_n = np.unique(self.sellers_n, return_inverse=True)
        bought_k = codes_n[self.selection.indices]
        offered_g = np.bincount(codes_n)
        count_g = np.bincount(bought_k, minlength=len(names))
        prices_k = self.selection.prices[self.selection.indices]
        money_g = np.bincount(bought_k, weights=prices_k, minlength=len(names))
        order_g = np.argsort(-money_g, kind="stable")
        return {
            str(names[g]): (int(offered_g[g]), int(count_g[g]), float(money_g[g])) for g in order_g
        }


# What is checked and measured -------------------------------------------------------------------


def _audit(
    selection: Selection, sellers: Any, queries: Any, files: Any, sigma2: float, labels: Any
) -> _Audit:
    from modicum.daved.frames import to_vector

    n, m = len(selection.prices), len(selection.coverage)
    check_positive("sigma2", sigma2)
    sellers_n = None
    if files is not None:
        sellers_n = to_vector(files, "files", dtype=None).astype(str)
        _check_count("files", len(sellers_n), n, "records")
    if (sellers is None) != (queries is None):
        raise ValueError("sellers and queries go together: give both or neither")
    pool, queries_md = (None, None) if sellers is None else _rows(sellers, queries, n, m)
    measured = None
    if labels is not None:
        if pool is None or queries_md is None:
            raise ValueError("labels need sellers and queries, whose model they judge")
        labels_n, answers_m = (to_vector(part, "labels") for part in _pair(labels))
        _check_count("labels[0]", len(labels_n), n, "records")
        _check_count("labels[1]", len(answers_m), m, "queries")
        measured = _measure(selection, pool, queries_md, labels_n, answers_m)
    return _Audit(selection, sigma2, sellers_n, pool, queries_md, measured)


def _check_count(name: str, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise ValueError(f"{name} has {found} values; the selection is about {wanted} {what}")


def _pair(labels: Any) -> Any:
    if not isinstance(labels, list | tuple) or len(labels) != 2:
        raise ValueError(
            "labels must be a pair: the labels of the records, (n,), and the answers, (m,)"
        )
    return labels


def _rows(sellers: Any, queries: Any, n: int, m: int) -> tuple[Pool, np.ndarray]:
    from modicum.daved.frames import align, to_frame
    from modicum.daved.pool import Pool, as_pool

    is_pool = isinstance(sellers, Pool)
    frame = None if is_pool else to_frame(sellers, "sellers")
    pool = as_pool(sellers if frame is None else frame.values)
    asked = align(to_frame(queries, "queries"), frame.columns if frame else None, "queries")
    queries_md = np.asarray(asked.values, dtype=np.float64)
    _check_count("sellers", pool.n, n, "records")
    _check_count("queries", len(queries_md), m, "queries")
    if queries_md.shape[1] != pool.d:
        raise ValueError(f"queries have {queries_md.shape[1]} features, sellers have {pool.d}")
    return pool, queries_md


def _measure(
    selection: Selection,
    pool: Pool,
    queries_md: np.ndarray,
    labels_n: np.ndarray,
    answers_m: np.ndarray,
) -> _Measured:
    """Train on the first purchases, and on random ones for the same money, and ask the queries."""
    from modicum.daved.evaluation import predict
    from modicum.daved.rounding import Rules, purchase
    from modicum.daved.solvers.greedy import default_prior

    ridge = selection.settings.get("prior")
    ridge = default_prior(pool.gram(), pool.n) if ridge is None else ridge

    def error(bought_k: np.ndarray) -> float:
        answers = predict(pool.rows(bought_k), labels_n[bought_k], queries_md, ridge=ridge)
        return float(np.square(answers - answers_m).mean())

    k = len(selection)
    sizes_b = np.unique(np.round(np.geomspace(1, k, min(k, _SIZES_MEASURED))).astype(np.int64))
    spent_b = np.cumsum(selection.prices[selection.indices])[sizes_b - 1]
    rng = np.random.default_rng(0)
    random_rb = np.empty((_RANDOM_PURCHASES, len(sizes_b)))
    for row in random_rb:
        order_n = rng.permutation(pool.n)
        for place, spent in enumerate(spent_b):
            row[place] = error(purchase(order_n, selection.prices, spent, Rules(fill=True)))
    errors_b = np.array([error(selection.indices[:size]) for size in sizes_b])
    return _Measured(sizes_b, spent_b, errors_b, random_rb)


# The page ---------------------------------------------------------------------------------------


def _page(audit: _Audit, title: str) -> str:
    style = package_files("modicum.core.report").joinpath("style.css").read_text(encoding="utf-8")
    figures, missing = _figures(audit)
    sections = [
        _bought(audit),
        _goodness(audit, figures),
        _prices(audit, figures),
        _queries(audit, figures),
        _evaluation(audit, figures),
        _settings(audit),
    ]
    note = f'<p class="note">Without pictures: {_text(missing)}</p>\n' if missing else ""
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the purchase</a>\n'
        f'{_header(audit, title)}<main id="main">\n{note}{_warnings(audit)}{"".join(sections)}'
        "</main>\n"
        "<footer><p>Errors are predictions for a linear model on these features, except where"
        " labels were given; no label had a part in the choice.</p></footer>\n"
        "</body>\n</html>\n"
    )


def _text(value: object) -> str:
    # Names of files may hold bytes that are no text, which UTF-8 refuses.
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True)


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def _share(value: float) -> str:
    """Write a share in percent; what is not all of it never rounds to all of it."""
    percent = 100 * value
    text = f"{percent:.1f}" if percent < 99.9 or value >= 1 else f"{percent:.3f}"
    return (text if float(text) < 100 or value >= 1 else "99.999").removesuffix(
        ".0"
    ) + "\N{NO-BREAK SPACE}%"


def _header(audit: _Audit, title: str) -> str:
    found = audit.selection
    before, after = audit.errors
    what = _count(len(found), "record")
    if found.lots is not None:
        what += f" in {_count(len(found.lots), 'lot')}"
    lead = (
        f"Buy {what} of {len(found.prices):,} on offer, for {format_number(found.spent)} of a"
        f" budget of {format_number(found.budget)}, to answer"
        f" {_count(len(found.coverage), 'query', 'queries')}."
    )
    tiles = [
        ("good", f"{len(found):,}", "bought"),
        ("open", format_number(found.spent), f"spent of {format_number(found.budget)}"),
        ("good", format_number(after), f"predicted error, {format_number(before)} before"),
    ]
    if audit.has_certificate:
        kind = "good" if found.efficiency >= 0.9 else "open"
        tiles.append((kind, f"≥ {_share(found.efficiency)}", "efficient"))
    else:
        tiles.append(("open", "No certificate", "from this solver"))
    items = "\n".join(
        f'<li class="{kind}"><strong>{number}</strong> {words}</li>'
        for kind, number, words in tiles
    )
    return (
        f'<header class="page">\n<p class="brand">modicum daved</p>\n<h1>{_text(title)}</h1>\n'
        f'<p class="lead">{lead}</p>\n<ul class="tally">{items}</ul>\n</header>\n'
    )


def _warnings(audit: _Audit) -> str:
    found = audit.selection
    told = []
    low = np.flatnonzero(found.coverage < LEAST_COVERAGE)
    if len(low):
        worst = low[np.argmin(found.coverage[low])]
        told.append(
            f"{len(low):,} of {len(found.coverage):,} queries are covered below"
            f" {_share(LEAST_COVERAGE)} by what the sellers have, the worst, query {worst}, at"
            f" {_share(float(found.coverage[worst]))}. No purchase here predicts the rest of them:"
            " the design's error leaves it out, the purchase's keeps it as uncertain as it was."
        )
    useless = int((found.scores[found.indices] <= 0).sum())
    if useless:
        told.append(f"{_count(useless, 'purchase')} cannot help with any of these queries.")
    left = found.budget - found.spent
    if left > 0.1 * found.budget:
        told.append(
            f"{format_number(left)} of the budget, {_share(left / found.budget)}, is not spent."
        )
    if not told:
        return ""
    items = "".join(f"<li>{_text(line)}</li>" for line in told)
    return f'<ul class="warnings bad" aria-label="Warnings">{items}</ul>\n'


def _section(name: str, heading: str, *parts: str) -> str:
    return (
        f'<section class="experiment" aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n'
        f"{''.join(parts)}</section>\n"
    )


def _bought(audit: _Audit) -> str:
    found = audit.selection
    plan = found.plan(audit.sigma2)
    columns: dict[str, Sequence[Any]] = {
        "": range(1, len(plan) + 1),
        "Record": [str(row.label) for row in plan],
    }
    columns |= {
        "Price": [row.price for row in plan],
        "Marginal benefit": [row.marginal_benefit for row in plan],
        "Predicted error": [row.predicted_error for row in plan],
        "Spent so far": [row.spent for row in plan],
        "Fair price": found.fair_price[found.indices].tolist(),
    }
    if audit.sellers_n is not None:
        columns["Seller"] = audit.sellers_n[found.indices].tolist()
    words = (
        "In the order of purchase. The marginal benefit is by how much a record lowers the"
        " predicted error after all above it; the fair price is what it is worth to these queries"
        " in the design."
    )
    if found.lots is not None:
        names = ", ".join(_text(lot) for lot in found.lots[:_ROWS_WRITTEN])
        words += f" Lots, in order: {names}. A record's price is its share of its lot's."
    return _section("bought", "What to buy", f"<p>{words}</p>\n", _table("Plan", columns))


def _goodness(audit: _Audit, figures: Mapping[str, str]) -> str:
    found = audit.selection
    before, after = audit.errors
    unit = "variances of the label noise" if audit.sigma2 == 1 else "squared units of the labels"
    words = [
        f"Before the first purchase the predicted error is {format_number(before)}, with all of"
        f" them {format_number(after)}, in {unit}: the expected squared error of the model beyond"
        " the noise of the label itself, under a prior that keeps it finite for few records."
    ]
    if not audit.has_certificate:
        words.append(
            "This solver buys record by record and does not say how far its purchase is from the"
            " best one. A design of solver “multiplicative” for the same budget does."
        )
        return _section("good", "How good it can be", _paragraphs(words), _grid(figures, "error"))
    low, high = audit.optimum
    words.append(
        "The design behind the purchase, which may buy fractions of records, has a predicted error"
        f" of {format_number(high)}. Its certificate is {format_number(high - low)}: no design for"
        f" this budget is below {format_number(low)}. {_verdict(found)}"
    )
    words.append(
        "Whole records are not fractions: with fewer records than features a purchase cannot keep"
        " what the design promises, and the two errors differ."
    )
    drawn = _grid(figures, "error", "convergence", "concentration")
    tables = [_budgets(audit), _iterations(found), _weights(found)]
    return _section(
        "good", "How good it can be", _paragraphs(words), drawn, _numbers(tables, bool(drawn))
    )


def _verdict(found: Selection) -> str:
    efficiency = found.efficiency
    if efficiency <= 0:
        return (
            "That is no bound at all: the solver stopped early, which ranks the first purchases"
            " well and says nothing of the optimum. More iterations say more."
        )
    words = f"So the best is at least {_share(efficiency)} of this error: the design's efficiency."
    return words if found.converged else f"{words} More iterations may bring it closer."


def _prices(audit: _Audit, figures: Mapping[str, str]) -> str:
    found = audit.selection
    words = [
        "A fair price is what a record is worth to these queries: up to it the record is worth"
        " buying, above it the money does more elsewhere. It is exact where the design is the best"
        " one, and an estimate elsewhere."
    ]
    tables = [_price_table(found)]
    if audit.sellers_n is not None:
        tables.append(_seller_table(audit))
    drawn = _grid(figures, "prices", "sellers")
    return _section("prices", "Prices", _paragraphs(words), drawn, _numbers(tables, bool(drawn)))


def _queries(audit: _Audit, figures: Mapping[str, str]) -> str:
    words = [
        "Coverage is how much of a query, of its squared length, lies in the span of what all"
        " sellers have together. What lies outside nobody here can teach."
    ]
    drawn = _grid(figures, "coverage", "projection")
    tables = [_coverage_table(audit.selection.coverage)]
    return _section("queries", "Queries", _paragraphs(words), drawn, _numbers(tables, bool(drawn)))


def _evaluation(audit: _Audit, figures: Mapping[str, str]) -> str:
    if audit.measured is None:
        return ""
    found = audit.measured
    median_b, low_b, high_b = found.band
    words = [
        "A linear model, with the prior of the predicted errors, is trained on the first purchases"
        f" and asked the queries, whose answers are known here. Beside it {_RANDOM_PURCHASES}"
        " random purchases for the same money: their median, and what 90 % of them lie between."
    ]
    table = _table(
        "Mean squared error over the queries",
        {
            "Records": found.sizes_b.tolist(),
            "Spent": found.spent_b.tolist(),
            "This purchase": found.errors_b.tolist(),
            "Random, median": median_b.tolist(),
            "Random, low": low_b.tolist(),
            "Random, high": high_b.tolist(),
        },
    )
    drawn = _grid(figures, "acquisition")
    return _section(
        "measured", "What was measured", _paragraphs(words), drawn, _numbers([table], bool(drawn))
    )


def _settings(audit: _Audit) -> str:
    found = audit.selection
    facts = {name.replace("_", " "): _shown(value) for name, value in found.settings.items()}
    facts["iterations"] = f"{len(found.history):,}"
    if audit.has_certificate:
        facts["converged"] = _shown(found.converged)
    facts["label noise"] = f"variance {format_number(audit.sigma2)}"
    for name in ("modicum-daved", "modicum-core", "numpy"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    facts["Python"] = platform.python_version()
    rows = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items()
    )
    return _section("settings", "Settings", f'<dl class="settings">{rows}</dl>\n')


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_number(value) if isinstance(value, int | float) else str(value)


def _paragraphs(words: Sequence[str]) -> str:
    return "".join(f"<p>{_text(line)}</p>\n" for line in words)


# Tables -----------------------------------------------------------------------------------------


def _numbers(tables: Sequence[str], is_drawn: bool) -> str:
    """Fold the numbers behind pictures; show them where there are no pictures."""
    written = "".join(tables)
    if not written or not is_drawn:
        return written
    return f"<details><summary>The numbers</summary>\n{written}</details>\n"


def _table(title: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """Write a table, of a long one the first rows, the next ones folded, and how many are left."""
    count = len(next(iter(columns.values())))
    shown = count if count <= _ROWS_UNFOLDED else _ROWS_SHOWN
    cells = {name: _cells(list(values[:_ROWS_WRITTEN])) for name, values in columns.items()}
    written = _block(title, cells, slice(0, shown))
    if count > shown:
        end = min(count, _ROWS_WRITTEN)
        rest = _block(f"{title}, {shown + 1:,} to {end:,}", cells, slice(shown, end))
        written += f"<details><summary>{end - shown:,} more</summary>\n{rest}</details>\n"
    if count > _ROWS_WRITTEN:
        written += (
            f'<p class="note">{count - _ROWS_WRITTEN:,} more are not on this page; all are in the'
            " selection's CSV and JSON files.</p>\n"
        )
    return written


def _cells(values: list[Any]) -> tuple[bool, list[str]]:
    """Give whether a column holds numbers, and its cells, with as many digits in each."""
    if not all(isinstance(value, int | float) for value in values):
        return False, [_text(value) for value in values]
    # Powers of ten have no place after the point, and would give all others too many.
    shown = [text for text in map(format_number, values) if " " not in text]
    decimals = max((len(text.partition(".")[2]) for text in shown), default=0)
    return True, [format_number(value, min(decimals, _MOST_DECIMALS)) for value in values]


def _block(title: str, cells: Mapping[str, tuple[bool, list[str]]], rows: slice) -> str:
    head = "".join(
        f'<th scope="col"{" class=num" if right else ""}>'
        f"{_text(name) if name else '<span class=skip>Place</span>'}</th>"
        for name, (right, _) in cells.items()
    )
    marks = [" class=num" if right else "" for right, _ in cells.values()]
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks, line, strict=True))
        + "</tr>\n"
        for line in zip(*(values[rows] for _, values in cells.values()), strict=True)
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{_text(title)}">'
        f'<table class="data"><caption>{_text(title)}</caption><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _budgets(audit: _Audit) -> str:
    if not audit.is_alone:
        return ""
    budgets_b = audit.selection.budget * np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    low_b, high_b = _curves(audit, budgets_b)
    return _table(
        "Other budgets",
        {
            "Budget": budgets_b.tolist(),
            "This design": high_b.tolist(),
            "No design below": low_b.tolist(),
        },
    )


def _curves(audit: _Audit, budgets_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give where the optimum's error at least lies and the design's, at budgets, (b,) each."""
    low, high = (error * audit.selection.budget for error in audit.optimum)
    return budget_curve(low, budgets_b), budget_curve(high, budgets_b)


def _iterations(found: Selection) -> str:
    if not found.history:
        return ""
    places = np.unique(
        np.round(np.geomspace(1, len(found.history), _ROWS_SHOWN) - 1).astype(np.int64)
    )
    steps = [found.history[place] for place in places]
    return _table(
        "Iterations, weights of sum 1",
        {
            "Iteration": [step.iteration for step in steps],
            "Objective": [step.objective for step in steps],
            "Certificate": [step.gap for step in steps],
        },
    )


def _weights(found: Selection) -> str:
    share_n = np.cumsum(np.sort(found.weights)[::-1]) / found.weights.sum()
    shares = (0.5, 0.9, 0.99)
    return _table(
        f"Where the weight is: on {effective_sample_size(found.weights):.3g} records, effectively",
        {
            "Share of the weight": [_share(share) for share in shares],
            "Heaviest records": [int(np.searchsorted(share_n, share)) + 1 for share in shares],
        },
    )


def _price_table(found: Selection) -> str:
    bought_n = np.zeros(len(found.prices), dtype=bool)
    bought_n[found.indices] = True
    groups = {"Bought": bought_n, "Not bought": ~bought_n}
    groups = {name: members for name, members in groups.items() if members.any()}
    return _table(
        "Prices, medians",
        {
            "": list(groups),
            "Records": [int(members.sum()) for members in groups.values()],
            "Price": [float(np.median(found.prices[members])) for members in groups.values()],
            "Fair price": [
                float(np.median(found.fair_price[members])) for members in groups.values()
            ],
        },
    )


def _seller_table(audit: _Audit) -> str:
    spend = audit.spend
    return _table(
        "Sellers",
        {
            "Seller": list(spend),
            "Offered": [offered for offered, _, _ in spend.values()],
            "Bought": [bought for _, bought, _ in spend.values()],
            "Spent": [money for _, _, money in spend.values()],
        },
    )


def _coverage_table(coverage_m: np.ndarray) -> str:
    edges = (0.0, 0.5, 0.9, LEAST_COVERAGE)
    names = [f"below {_share(edge)}" for edge in edges[1:]] + [f"{_share(LEAST_COVERAGE)} or more"]
    places = np.searchsorted(edges[1:], coverage_m, side="right")
    counts = np.bincount(places, minlength=len(names))
    return _table("Coverage", {"Coverage": names, "Queries": counts.tolist()})


# Pictures ---------------------------------------------------------------------------------------


def _figures(audit: _Audit) -> tuple[dict[str, str], str]:
    """Draw what there is to draw; the second is what is missing to draw it, mostly nothing."""
    makers: dict[str, Callable[[_Audit], str]] = {
        "error": _draw_error,
        "convergence": _draw_convergence,
        "concentration": _draw_concentration,
        "prices": _draw_prices,
        "sellers": _draw_sellers,
        "coverage": _draw_coverage,
        "projection": _draw_projection,
        "acquisition": _draw_acquisition,
    }
    try:
        with warnings.catch_warnings():
            # The browser has the fonts for names that matplotlib's own has no letters for.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            return {name: make(audit) for name, make in makers.items()}, ""
    except ImportError as error:
        return {}, str(error)


def _grid(figures: Mapping[str, str], *names: str) -> str:
    drawn = "".join(figures.get(name, "") for name in names)
    return f'<div class="figures">\n{drawn}</div>\n' if drawn else ""


def _picture(figure: Any, title: str, caption: str, alt: str) -> str:
    figure.set_figwidth(_WIDTH)
    svg = Figure.from_matplotlib(figure, title).svg or ""
    data = b64encode(svg.encode("utf-8")).decode("ascii")
    return (
        '<figure>\n<div class="scroll picture" tabindex="0" role="group"'
        f' aria-label="{_text(title)}"><img alt="{_text(alt)}"'
        f' src="data:image/svg+xml;base64,{data}"></div>\n'
        f"<figcaption><strong>{_text(title)}</strong> {_text(caption)}</figcaption>\n</figure>\n"
    )


def _draw_error(audit: _Audit) -> str:
    from modicum.daved import plots

    found = audit.selection
    if not len(found):
        return ""
    spent_k = np.cumsum(found.prices[found.indices])
    places = np.unique(np.linspace(0, len(found) - 1, min(len(found), _POINTS_DRAWN)).astype(int))
    errors_k = audit.sigma2 * found.predicted_error
    curves: dict[str, Sequence[Any]] = {"this purchase": (spent_k[places], errors_k[places])}
    caption = "After every purchase, over the money spent."
    if audit.is_alone:
        budgets_b = np.geomspace(spent_k[0], 2 * found.budget, 20)
        low_b, high_b = _curves(audit, budgets_b)
        curves["design with fractions"] = (budgets_b, high_b)
        caption += " The design's error is exactly inverse to its budget."
        if low_b.min() > 0:
            curves["design with fractions"] = (budgets_b, high_b, low_b, high_b)
            caption += " The best design lies in the band below it, however thin."
    before, after = audit.errors
    alt = (
        f"Predicted error against the budget, both on logarithmic axes: {format_number(before)}"
        f" before the first purchase, {format_number(after)} after the last, at a spending of"
        f" {format_number(found.spent)}."
    )
    figure = plots.error_against_budget(curves, bought=found.budget)
    return _picture(figure, "Predicted error", caption, alt)


def _draw_convergence(audit: _Audit) -> str:
    from modicum.daved import plots

    steps = audit.selection.history
    if not audit.has_certificate or len(steps) < 2:
        return ""
    figure = plots.convergence([step.objective for step in steps], [step.gap for step in steps])
    first, last = steps[0], steps[-1]
    alt = (
        f"Objective and certificate over {len(steps):,} iterations on a logarithmic axis: the"
        f" objective goes from {format_number(first.objective)} to {format_number(last.objective)},"
        f" the certificate from {format_number(first.gap)} to {format_number(last.gap)}."
    )
    caption = "The best objective is at most the certificate below this one. Weights have sum 1."
    return _picture(figure, "Iterations", caption, alt)


def _draw_concentration(audit: _Audit) -> str:
    from modicum.daved import plots

    if not audit.has_certificate:
        return ""
    weights_n = audit.selection.weights
    effective = effective_sample_size(weights_n)
    alt = (
        f"Share of the design's weight on its heaviest records, of {len(weights_n):,}: it is spread"
        f" as over {effective:.3g} records of equal weight."
    )
    caption = "How many records carry how much of the design."
    return _picture(plots.concentration(weights_n), "Weight", caption, alt)


def _draw_prices(audit: _Audit) -> str:
    from modicum.daved import plots

    found = audit.selection
    figure = plots.price_against_fair_price(found.prices, found.fair_price, found.indices)
    alt = (
        f"Price against fair price of {len(found.prices):,} records, the {len(found):,} bought ones"
        f" highlighted. Prices go from {format_number(found.prices.min())} to"
        f" {format_number(found.prices.max())}, fair prices up to"
        f" {format_number(found.fair_price.max())}."
    )
    caption = "To the left of the line a record costs more than it is worth to these queries."
    return _picture(figure, "Price and worth", caption, alt)


def _draw_sellers(audit: _Audit) -> str:
    from modicum.daved import plots

    if audit.sellers_n is None:
        return ""
    spend = [(name, money) for name, (_, _, money) in audit.spend.items()]
    drawn = dict(spend[:_SELLERS_DRAWN])
    caption = "Most money first."
    if len(spend) > _SELLERS_DRAWN:
        rest = sum(money for _, money in spend[_SELLERS_DRAWN:])
        caption += (
            f" {_count(len(spend) - _SELLERS_DRAWN, 'more seller')} get {format_number(rest)}"
            " together."
        )
    most, money = spend[0]
    alt = f"Bars of what each seller is paid; the most, {format_number(money)}, goes to {most}."
    return _picture(plots.spend_per_seller(drawn), "Spending by seller", caption, alt)


def _draw_coverage(audit: _Audit) -> str:
    from modicum.daved import plots

    coverage_m = audit.selection.coverage
    low = int((coverage_m < LEAST_COVERAGE).sum())
    alt = (
        f"Histogram of the coverage of {len(coverage_m):,} queries, from"
        f" {_share(float(coverage_m.min()))} to {_share(float(coverage_m.max()))};"
        f" {low:,} below {_share(LEAST_COVERAGE)}."
    )
    figure = plots.coverage(coverage_m, warn_below=LEAST_COVERAGE)
    return _picture(figure, "Coverage", "Queries left of the line are not to be trusted.", alt)


def _draw_projection(audit: _Audit) -> str:
    from modicum.daved import plots

    if audit.pool is None or audit.queries_md is None or audit.pool.d < 2:
        return ""
    bought_k = audit.selection.indices
    n = audit.pool.n
    spread = np.linspace(0, n - 1, min(n, _ROWS_DRAWN)).astype(np.int64)
    shown = np.union1d(spread, bought_k)
    figure = plots.projection(
        audit.pool.rows(shown), audit.queries_md, np.searchsorted(shown, bought_k)
    )
    alt = (
        f"Records on offer, {len(bought_k):,} bought ones and {len(audit.queries_md):,} queries in"
        " the plane of the two widest directions of the records."
    )
    caption = "The plane of the two widest directions; what lies across it is not seen here."
    return _picture(figure, "Where it lies", caption, alt)


def _draw_acquisition(audit: _Audit) -> str:
    from modicum.daved import plots

    if audit.measured is None:
        return ""
    found = audit.measured
    median_b, low_b, high_b = found.band
    figure = plots.acquisition_curve(
        {
            "this purchase": (found.sizes_b, found.errors_b),
            "random, for the same money": (found.sizes_b, median_b, low_b, high_b),
        }
    )
    alt = (
        f"Measured error against the number of purchases: {format_number(found.errors_b[-1])} after"
        f" all {found.sizes_b[-1]:,}, against {format_number(median_b[-1])} for the median random"
        " purchase of the same money."
    )
    return _picture(figure, "Measured error", "The band holds 90 % of random purchases.", alt)
