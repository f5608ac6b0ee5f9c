"""The page about a purchase: what it says, what it escapes, and how it looks in a browser."""

import html
import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from modicum.daved.report import write_report
from modicum.daved.select import select
from modicum.daved.solvers.greedy import default_prior

HOSTILE = (
    """<script>document.title='taken'</script>"><img src=x onerror="document.title='taken'">"""
)
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements, tables as rows of cells by caption, and whether every tag is closed."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.stack, self.tables, self.words = [], [], {}, []
        self.rows, self.caption = [], ""
        self.feed(self.source)
        self.close()
        assert self.stack == [], f"not closed: {self.stack}"
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.stack)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        if "style" in self.stack:
            return
        self.words.append(data)
        if self.stack and self.stack[-1] == "caption":
            self.caption += data
        elif "td" in self.stack or "th" in self.stack:
            self.rows[-1][-1] += data

    def named(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def column(self, table, name):
        head, *body = self.tables[table]
        return [row[head.index(name)] for row in body]


def numbers(cells):
    return [float(cell.replace(",", "").replace("−", "-")) for cell in cells]


@pytest.fixture(scope="module")
def market():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 4))
    queries = rng.normal(size=(3, 4))
    prices = rng.choice([1.0, 2.0, 3.5], size=200)
    theta = rng.normal(size=4)
    return rows, queries, prices, rows @ theta + rng.normal(size=200), queries @ theta


def bought(market, solver="multiplicative", budget=12.0, **how):
    rows, queries, prices, *_ = market
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return select(rows, queries, budget, costs=prices, solver=solver, **how)


# What it says -------------------------------------------------------------------------------------


def test_the_plan_is_that_of_the_selection(market, tmp_path):
    found = bought(market)
    files = np.repeat(["a.csv", "b.csv"], 100)
    path = write_report(found, tmp_path / "deep" / "page.html", files=files, sigma2=0.5)
    assert path == tmp_path / "deep" / "page.html"
    page, plan = Page(path), found.plan(sigma2=0.5)
    assert 5 < len(plan) <= 16
    assert page.column("Plan", "Record") == [str(row.item) for row in plan]
    assert page.column("Plan", "Seller") == [files[row.item] for row in plan]
    for name, field in (
        ("Price", "price"),
        ("Marginal benefit", "marginal_benefit"),
        ("Spent so far", "spent"),
        ("Predicted error", "predicted_error"),
    ):
        wanted = [getattr(row, field) for row in plan]
        assert numbers(page.column("Plan", name)) == pytest.approx(wanted, abs=6e-5)
    fair = found.fair_price[found.indices]
    assert numbers(page.column("Plan", "Fair price")) == pytest.approx(fair, abs=6e-5)
    assert f"Buy {len(plan)} records of 200 on offer" in page.text
    assert "to answer 3 queries." in page.text


def test_what_sellers_get_is_what_is_spent(market, tmp_path):
    found = bought(market)
    files = np.array(["a", "b", "c", "d"])[np.arange(200) % 4]
    page = Page(write_report(found, tmp_path / "page.html", files=files))
    spent = dict(
        zip(page.column("Sellers", "Seller"), numbers(page.column("Sellers", "Spent")), strict=True)
    )
    assert sum(spent.values()) == pytest.approx(found.spent)
    for name in "abcd":
        mine = found.indices[files[found.indices] == name]
        assert spent[name] == pytest.approx(found.prices[mine].sum())
    assert sum(numbers(page.column("Sellers", "Bought"))) == len(found)
    assert numbers(page.column("Sellers", "Offered")) == [50] * 4
    assert list(spent.values()) == sorted(spent.values(), reverse=True)


def test_how_good_it_can_be(market, tmp_path):
    found = bought(market)
    page = Page(write_report(found, tmp_path / "page.html", sigma2=2.0))
    low, high = 2 * (found.objective - found.gap), 2 * found.objective
    assert f"has a predicted error of {high:.4g}. " in page.text
    assert f"no design for this budget is below {low:.4g}." in page.text
    assert f"≥ {100 * found.efficiency:.1f} % efficient" in page.text
    assert numbers(page.column("Other budgets", "Budget")) == [3, 6, 12, 24, 48]
    promised = high * 12 / np.array([3, 6, 12, 24, 48])
    assert numbers(page.column("Other budgets", "This design")) == pytest.approx(promised, abs=6e-5)


def test_a_purchase_without_a_certificate_claims_none(market, tmp_path):
    page = Page(write_report(bought(market, "greedy"), tmp_path / "page.html"))
    assert "No certificate" in page.text and "Its certificate is" not in page.text
    assert "Other budgets" not in page.tables


def test_a_certificate_that_bounds_nothing_says_so(market, tmp_path):
    found = bought(market)
    page = Page(write_report(replace(found, gap=2 * found.objective), tmp_path / "page.html"))
    assert "That is no bound at all" in page.text
    assert "no design for this budget is below 0." in page.text


def test_beside_owned_records_the_error_is_not_inverse_to_the_budget(market, tmp_path):
    found = bought(market, X_owned=market[0][:20])
    page = Page(write_report(found, tmp_path / "page.html"))
    assert "Its certificate is" in page.text
    assert "Other budgets" not in page.tables and "exactly inverse" not in page.text


def test_queries_out_of_reach_are_warned_of(market, tmp_path):
    assert Page(write_report(bought(market), tmp_path / "a.html")).named("ul")[1:] == []
    flat = market[0].copy()
    flat[:, 3] = 0.0
    queries = np.array([[1.0, 0, 0, 0], [1, 0, 0, 3], [1, 0, 0, 1]])
    found = bought((flat, queries, market[2]))
    page = Page(write_report(found, tmp_path / "b.html"))
    assert "2 of 3 queries are covered below 99 %" in page.text
    assert "the worst, query 1, at 10 %" in page.text
    assert numbers(page.column("Coverage", "Queries")) == [1, 1, 0, 1]


def test_money_that_is_left_is_told(market, tmp_path):
    rows, queries, _, *_ = market
    found = bought((rows, queries, np.full(200, 10.0)), "greedy", budget=19.0)
    page = Page(write_report(found, tmp_path / "page.html"))
    assert "9 of the budget, 47.4 %, is not spent." in page.text


def test_lots_are_named(market, tmp_path):
    lots = np.arange(200) // 4
    rows, queries, *_ = market
    found = bought((rows, queries, np.full(200, 2.0)), groups=lots)
    page = Page(write_report(found, tmp_path / "page.html"))
    assert f"Buy 24 records in {len(found.lots)} lots" in page.text
    assert "Lots, in order: " + ", ".join(map(str, found.lots)) + ". " in page.text


def test_a_long_plan_is_folded_and_a_very_long_one_is_cut(market, tmp_path):
    page = Page(write_report(bought(market, "greedy", 100.0), tmp_path / "a.html"))
    count = len(page.column("Plan", "Record"))
    rest = next(name for name in page.tables if name.startswith("Plan, "))
    assert count == 12 and rest.startswith("Plan, 13 to ")
    assert page.column(rest, "Record")
    inside = [stack for name, _, stack in page.elements if name == "table"]
    assert "details" not in inside[0] and "details" in inside[1]

    rng = np.random.default_rng(1)
    many = (rng.normal(size=(2100, 2)), market[1][:, :2], np.ones(2100))
    found = bought(many, "one_step", 2050.0)
    page = Page(write_report(found, tmp_path / "b.html"))
    assert sum(len(rows) - 1 for name, rows in page.tables.items() if "Plan" in name) == 2000
    assert "50 more are not on this page" in page.text


# What it measures ---------------------------------------------------------------------------------


def test_measured_errors_are_those_of_ridge_regression(market, tmp_path):
    from sklearn.linear_model import Ridge

    rows, queries, prices, labels, answers = market
    found = bought(market)
    path = tmp_path / "page.html"
    write_report(found, path, sellers=rows, queries=queries, labels=(labels, answers))
    page, table = Page(path), "Mean squared error over the queries"
    model = Ridge(default_prior(rows.T @ rows, 200), fit_intercept=False)
    sizes = [int(size) for size in numbers(page.column(table, "Records"))]
    assert sizes[0] == 1 and sizes[-1] == len(found)
    wanted = []
    for size in sizes:
        first = found.indices[:size]
        model.fit(rows[first], labels[first])
        wanted.append(np.square(model.predict(queries) - answers).mean())
    assert numbers(page.column(table, "This purchase")) == pytest.approx(wanted, abs=6e-5)
    low, middle, high = (
        numbers(page.column(table, f"Random, {name}")) for name in ("low", "median", "high")
    )
    assert all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
    spent = np.cumsum(prices[found.indices])[np.array(sizes) - 1]
    assert numbers(page.column(table, "Spent")) == pytest.approx(spent)


def test_random_purchases_of_everything_are_the_purchase_of_everything(market, tmp_path):
    rows, queries, prices, labels, answers = (part[:10] for part in market)
    found = bought((rows, queries, prices), budget=float(prices.sum()))
    path = tmp_path / "page.html"
    write_report(found, path, sellers=rows, queries=queries, labels=(labels, answers))
    last = Page(path).tables["Mean squared error over the queries"][-1]
    assert last[0] == "10" and last[2] == last[3] == last[4] == last[5]


# How it is written --------------------------------------------------------------------------------


def test_nothing_that_comes_from_records_is_markup(market, tmp_path):
    found = bought(market)
    labels = np.array([f"{HOSTILE}{number}" for number in range(200)])
    settings = dict(found.settings, **{HOSTILE: HOSTILE})
    found = replace(found, labels=labels, settings=settings, lots=(HOSTILE,))
    path = write_report(found, tmp_path / "page.html", files=[HOSTILE] * 200, title=HOSTILE)
    page = Page(path)
    assert page.named("script") == []
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.named("img"))
    assert page.column("Plan", "Record") == [labels[index] for index in found.indices]
    assert set(page.column("Plan", "Seller")) == {HOSTILE}
    assert not any(key.startswith("on") for _, attributes, _ in page.elements for key in attributes)


def test_the_page_needs_nothing_else(market, tmp_path):
    rows, queries, *_, labels, answers = market
    found = bought(market)
    path, again = tmp_path / "a.html", tmp_path / "b.html"
    for where in (path, again):
        write_report(found, where, sellers=rows, queries=queries, labels=(labels, answers))
    assert path.read_bytes() == again.read_bytes()
    page = Page(path)
    assert {tag for tag, *_ in page.elements} & {"script", "link", "iframe", "object"} == set()
    assert "url(" not in page.source and "@import" not in page.source
    assert page.named("html") == [{"lang": "en"}]
    assert "default-src 'none'" in page.named("meta")[1]["content"]


def test_pictures_have_words_and_can_be_reached_by_key(market, tmp_path):
    pytest.importorskip("matplotlib")
    rows, queries, *_, labels, answers = market
    path = tmp_path / "page.html"
    files = ["only one"] * 200
    found = bought(market)
    write_report(found, path, sellers=rows, queries=queries, files=files, labels=(labels, answers))
    page = Page(path)
    images = page.named("img")
    assert len(images) == 8
    assert all(len(image["alt"]) > 40 for image in images)
    # Every box that scrolls takes the focus and has a name.
    boxes = [one for one in page.named("div") if one.get("class", "").startswith("scroll")]
    assert len(boxes) > 8 and all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert page.named("a")[0] == {"class": "skip", "href": "#main"}
    headings = [name for name, *_ in page.elements if re.fullmatch(r"h\d", name)]
    assert headings == ["h1"] + ["h2"] * 6


@pytest.mark.parametrize("name", ["李四", "$\\frac{", "a\x00\x1bb", "\udcff" * 50, ""])
def test_names_that_a_font_or_a_formula_would_stumble_over(market, tmp_path, name):
    page = Page(write_report(bought(market), tmp_path / "page.html", files=[name] * 200))
    assert len(page.named("img")) >= 4


def test_without_matplotlib_the_tables_are_there_and_what_to_install(market, tmp_path, monkeypatch):
    for name in [*sys.modules]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    rows, queries, *_, labels, answers = market
    path = tmp_path / "page.html"
    found = bought(market)
    write_report(
        found, path, sellers=rows, queries=queries, files=["a"] * 200, labels=(labels, answers)
    )
    page = Page(path)
    assert page.named("img") == []
    assert 'pip install "modicum-daved[plot]"' in page.text
    assert {"Plan", "Other budgets", "Prices, medians", "Sellers", "Coverage"} <= set(page.tables)
    assert "The numbers" not in page.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"files": ["a"] * 3}, "files has 3 values; the selection is about 200 records"),
        ({"sigma2": 0.0}, "sigma2"),
        ({"sellers": np.ones((200, 4))}, "sellers and queries go together"),
        ({"labels": (np.ones(200), np.ones(3))}, "labels need sellers and queries"),
        (
            {"sellers": np.ones((9, 4)), "queries": np.ones((3, 4))},
            "sellers has 9 values; the selection is about 200 records",
        ),
        (
            {"sellers": np.ones((200, 4)), "queries": np.ones((2, 4))},
            "queries has 2 values; the selection is about 3 queries",
        ),
        (
            {"sellers": np.ones((200, 4)), "queries": np.ones((3, 5))},
            "queries have 5 features, sellers have 4",
        ),
        (
            {"sellers": np.ones((200, 4)), "queries": np.ones((3, 4)), "labels": np.ones(200)},
            "labels must be a pair",
        ),
        (
            {
                "sellers": np.ones((200, 4)),
                "queries": np.ones((3, 4)),
                "labels": (np.ones(200), np.ones(4)),
            },
            r"labels\[1\] has 4 values",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_the_old_page(market, tmp_path, arguments, message):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(ValueError, match=message):
        write_report(bought(market), path, **arguments)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["page.html"]


def test_rows_come_in_any_form(market, tmp_path):
    pandas = pytest.importorskip("pandas")
    from modicum.daved.pool import ArrayPool

    rows, queries, *_ = market
    found = bought(market)
    frame = pandas.DataFrame(rows, columns=list("abcd"))
    other = pandas.DataFrame(queries, columns=list("abcd"))[list("dcba")]
    forms = [
        (rows, queries),
        (frame, other),
        ([rows[:50], rows[50:]], queries.tolist()),
        (ArrayPool(rows), queries),
    ]
    pages = [
        write_report(found, tmp_path / f"{number}.html", sellers=sellers, queries=asked)
        for number, (sellers, asked) in enumerate(forms)
    ]
    assert len({page.read_bytes() for page in pages}) == 1


# In a browser -------------------------------------------------------------------------------------

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # Whatever is asked for is not found, so that the test itself touches no network.
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
LONG = "anytimevalid" * 12


@pytest.fixture(scope="module")
def page(market, tmp_path_factory):
    """Write a page with long and hostile names, warnings and all pictures."""
    pytest.importorskip("matplotlib")
    rows, queries, prices, labels, answers = market
    flat = rows.copy()
    flat[:, 3] = 0.0
    found = bought((flat, queries, prices), budget=50.0)
    names = np.array([f"{HOSTILE}{number}{LONG}" for number in range(200)])
    found = replace(found, labels=names, settings=dict(found.settings, **{LONG: LONG}))
    return write_report(
        found,
        tmp_path_factory.mktemp("page") / "page.html",
        sellers=flat,
        queries=queries,
        files=[f"{LONG} {number % 30}" for number in range(200)],
        labels=(labels, answers),
        title=f"{LONG} {HOSTILE}",
    )


def chromium(folder, url, *flags):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, str(url)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@in_a_browser
def test_nothing_is_loaded_and_nothing_runs(page, tmp_path):
    log = tmp_path / "net.json"
    dom = chromium(tmp_path, page.as_uri(), f"--log-net-log={log}", "--dump-dom")
    assert "<title>taken" not in dom and f"<title>{LONG}" in dom
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # What the browser wants for itself has no page as its initiator.
    wanted = {
        event["url"]
        for event in events
        if event.get("initiator", "not an origin") != "not an origin"
    }
    assert {url for url in wanted if not url.startswith(("data:", "file:"))} == set()


@in_a_browser
@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_the_page_fits_the_width_of_the_screen(page, tmp_path, width):
    # A frame, because the window itself has a least width; what is wide scrolls in its own box.
    frame = tmp_path / "frame.html"
    source = html.escape(page.read_text().replace("<details", "<details open"), quote=True)
    frame.write_text(
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{source}"></iframe>'
        '<pre id="out"></pre><script>onload = () => {'
        "const page = document.querySelector('iframe').contentDocument;"
        "const root = page.documentElement;"
        "const broken = [...page.images].filter(image => image.naturalWidth === 0).length;"
        "document.getElementById('out').textContent ="
        "`${root.clientWidth} ${root.scrollWidth} ${page.images.length} ${broken}`"
        "}</script>"
    )
    dom = chromium(tmp_path, frame.as_uri(), "--window-size=1400,1000", "--dump-dom")
    words = dom.rpartition('<pre id="out">')[2].partition("<")[0].split()
    assert words == [str(width), str(width), "8", "0"]


@in_a_browser
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_looks_like_a_page_in_light_and_dark(page, tmp_path, width):
    image = pytest.importorskip("PIL.Image")

    def shoot(name, scheme):
        path = tmp_path / f"{name}.png"
        size, scheme = f"--window-size={width},3000", f"preferredColorScheme={scheme}"
        chromium(
            tmp_path, page.as_uri(), size, f"--screenshot={path}", f"--blink-settings={scheme}"
        )
        with image.open(path) as picture:
            assert picture.size == (width, 3000)
            return np.asarray(picture.convert("L"), dtype=float)

    light, dark = shoot("light", 1), shoot("dark", 0)
    # Paper and ink: most of the page is ground, and there is enough that stands out from it.
    assert np.median(light) > 230
    assert np.median(dark) < 60
    assert np.mean(light < 128) > 0.005
    assert np.mean(dark > 128) > 0.005
    # The figure's white card stays white in the dark, so that its black lines can be seen.
    assert np.mean(dark > 250) > 0.01
