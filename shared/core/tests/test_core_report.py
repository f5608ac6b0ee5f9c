import base64
import math
import os
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.experiment import Claim, Experiment, Figure, Result, Table, run_experiments
from modicum.core.report import (
    format_duration,
    format_measured,
    format_number,
    render,
    write_report,
)

HOSTILE = (
    """<script>alert(1)</script>"><img src=x onerror='alert(2)'>&amp;{}`<b>`url(http://evil)"""
)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="9" height="9"/></svg>'
)


# Numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-3.0, "−3"),
        (0.123456, "0.1235"),
        (12345.0, "12,345"),
        (12345.6, "12,346"),
        (99.999, "100"),
        (0.0001, "0.0001"),
        (2.5e-7, "2.5 × 10⁻⁷"),
        (-1e12, "−1 × 10¹²"),
        (9.9999e-5, "1 × 10⁻⁴"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "undefined"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text


def parse(text):
    text = text.replace("−", "-").replace(",", "")
    mantissa, _, power = text.partition(" × 10")
    exponent = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or "0"
    return float(f"{mantissa}e{exponent}")


@settings(deadline=None)
@given(st.floats(-1e300, 1e300))
def test_format_number_reads_back_to_three_digits(value):
    assert parse(format_number(value)) == pytest.approx(value, rel=5.01e-3, abs=0)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e5), st.floats(1e-3, 1e5))
def test_format_measured_keeps_value_and_interval_apart(value, below, above):
    interval = (value - below, value + above)
    shown, ends = format_measured(value, interval)
    low, high = (parse(end) for end in re.fullmatch(r"\[(.+), (.+)\]", ends).groups())
    # Half a unit of the last digit shown is less than a twentieth of the width.
    slack = 0.051 * (below + above) + 1e-4
    assert parse(shown) == pytest.approx(value, abs=slack)
    assert low == pytest.approx(interval[0], abs=slack)
    assert high == pytest.approx(interval[1], abs=slack)


@pytest.mark.parametrize(
    ("value", "interval", "texts"),
    [
        (0.93333, (0.9012, 0.9587), ("0.933", "[0.901, 0.959]")),
        (131.25, (102.2, 163.9), ("131", "[102, 164]")),
        (0.0, (0.0, 3.7e-6), ("0.0000000", "[0.0000000, 3.7 × 10⁻⁶]")),
        (2.0, (1.0, math.inf), ("2", "[1, ∞]")),
        (2.5, (2.5, 2.5), ("2.5", "[2.5, 2.5]")),
        (2.5, None, ("2.5", None)),
        (math.nan, (math.nan, math.nan), ("undefined", "[undefined, undefined]")),
    ],
)
def test_format_measured(value, interval, texts):
    assert format_measured(value, interval) == texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.4217, "0.42 s"),
        (9.99, "10 s"),
        (12.3, "12 s"),
        (59.7, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (7805.0, "2 h 10 min"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


# Reading the page ---------------------------------------------------------------------------------

VOID = {"meta", "img", "br", "hr", "input", "link", "source", "area", "base", "col", "wbr"}
LOADING_ATTRIBUTES = {
    "src", "href", "srcset", "data", "poster", "action", "formaction", "background", "cite",
    "longdesc", "manifest", "ping", "xlink:href", "codebase", "archive",
}  # fmt: skip


class Page(HTMLParser):
    """Elements, visible text, what could load something, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.outside, self.stack = [], [], [], []
        self.feed(text)
        self.close()
        assert self.stack == [], f"not closed: {self.stack}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag in {
            "script",
            "link",
            "iframe",
            "object",
            "embed",
            "base",
            "frame",
            "video",
            "audio",
        }:
            self.outside.append(f"<{tag}>")
        for name, value in attributes:
            value = value or ""
            if name in LOADING_ATTRIBUTES and not re.match(r"(data:|#)", value):
                self.outside.append(f"{tag} {name}={value}")
            if name == "style":
                self._style(value)
            if name.startswith("on") or (name == "http-equiv" and value.lower() == "refresh"):
                self.outside.append(f"{tag} {name}")

    def handle_startendtag(self, tag, attributes):
        raise AssertionError(f"self-closing {tag}")

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-1:]}"
        self.stack.pop()

    def handle_data(self, data):
        if "style" in self.stack:
            self._style(data)
        else:
            self.text.append(data)

    def _style(self, css):
        self.outside += re.findall(r"@import[^;]*", css)
        for target in re.findall(r"url\(\s*['\"]?([^)'\"]*)", css):
            if not re.match(r"(data:|#)", target):
                self.outside.append(f"url({target})")

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


@pytest.mark.parametrize(
    "bad",
    [
        '<img src="http://a.invalid/x.png">',
        "<img src=x.png>",
        '<link rel="stylesheet" href="data:,">',
        "<script></script>",
        "<style>p { background: url(//a.invalid/x) }</style>",
        '<style>@import "a.css";</style>',
        '<p style="background:url(x.png)"></p>',
        '<a href="https://a.invalid">x</a>',
        '<p onclick="x()"></p>',
        '<meta http-equiv="refresh" content="0;url=x">',
        '<img srcset="a.png 2x" src="data:,">',
    ],
)
def test_the_check_itself_sees_what_would_load(bad):
    assert Page(bad).outside


def test_the_check_itself_sees_unclosed_tags():
    with pytest.raises(AssertionError):
        Page("<p><b></p>")


def everything():
    claims = [
        Claim("a", "Type I error stays below the level", 0.05, 0.0312, (0.0212, 0.0441), True),
        Claim("b", "Faster", "13 to 15 %", 7.5, (6.0, 9.0), False, "%", "95 % interval"),
        Claim("c", "Overhead", 5, math.nan, None, None, "ms"),
    ]
    table = Table(
        "Lengths", ["Method", "Mean", "Valid"], [["ours", 131.25, True], ["x", None, False]]
    )
    return [
        Result(
            "power",
            "modicum-fake",
            "Power",
            claims=claims,
            tables=[table],
            figures=[Figure("F", "cap", svg=SVG, alt="a square"), Figure("G", "dot", png=PNG)],
            text="First `code`.\n\nSecond.",
            versions={"modicum-fake": "1.2.3"},
            environment={"CPU": "abacus, 2 cores"},
            started="2026-01-01T10:00:00+00:00",
            seconds=75.0,
        ),
        Result(
            "boom",
            "modicum-other",
            "Serving",
            "failed",
            error='Traceback:\n  File "x"\nRuntimeError: engine <died>\n',
            started="2026-01-01T10:01:00+00:00",
        ),
    ]


def rows_of(html_text, css_class):
    table = re.search(rf'<table class="{css_class}".*?</table>', html_text, re.S)[0]
    rows = re.findall(r"<tr.*?</tr>", table, re.S)
    return [
        [Page(cell).words for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)] for row in rows
    ]


def test_page_loads_nothing_and_is_well_formed():
    page = Page(render(everything()))
    assert page.outside == []
    assert page.all("html") == [{"lang": "en"}]
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_claims_stand_beside_the_published_figure():
    rows = rows_of(render(everything()), "stack claims")
    assert rows == [
        ["Claim", "Published", "Measured here", "Holds"],
        ["Type I error stays below the level", "0.05", "0.031 [0.021, 0.044]", "✓ holds"],
        ["Faster95 % interval", "13 to 15 %", "7.5 % [6.0, 9.0]", "✗ does not hold"],
        ["Overhead", "5 ms", "undefined ms", "– not decided"],
    ]


def test_overview_counts_and_links():
    text = render(everything())
    assert rows_of(text, "stack overview")[1:] == [
        ["fake 1.2.3", "1 of 3 hold, 1 not decided", "1 ran", "1 min 15 s"],
        ["other", "none measured", "1 of 1 failed", "0 s"],
    ]
    page = Page(text)
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [link["href"] for link in page.all("a") if link["href"].startswith("#")]
    assert links == ["#modicum-fake", "#modicum-other"]
    assert {link[1:] for link in links} <= targets
    assert "1 claim holds 1 does not hold 1 not decided here 1 experiment failed" in page.words
    assert "quick settings · abacus, 2 cores" in page.words


def test_a_failed_experiment_is_a_red_row_with_its_error():
    text = render(everything())
    page = Page(text)
    assert {"role": "row", "class": "failed"} in page.all("tr")
    assert any("experiment failed" in a.get("class", "") for a in page.all("article"))
    assert "This experiment failed: RuntimeError: engine <died>" in page.words
    details = re.search(r"<details><summary>Full error.*?</details>", text, re.S)[0]
    assert 'File "x" RuntimeError: engine <died>' in Page(details).words


def test_how_it_was_run_is_there():
    words = Page(render(everything())).words
    assert "modicum demo fake/power --quick --seed 0 --device cpu" in words
    assert "Started2026-01-01 10:00:00 UTC" in words
    assert "Versionsmodicum-fake 1.2.3" in words


def test_tables_line_numbers_up_and_say_nothing_for_none():
    assert rows_of(render(everything()), "data") == [
        ["Method", "Mean", "Valid"],
        ["ours", "131.2", "yes"],
        ["x", "–", "no"],
    ]
    table = Table("t", ["a", "b"], [[131.25, 1.0], [152.0, 1e-9], [118.5, math.inf]])
    rows = rows_of(render([Result("a", "p", "t", tables=[table])]), "data")
    assert rows[1:] == [["131.2", "1"], ["152.0", "1 × 10⁻⁹"], ["118.5", "∞"]]


def test_figures_are_embedded_with_words_for_who_cannot_see_them():
    pictures = Page(render(everything())).all("img")
    assert [picture["alt"] for picture in pictures] == ["a square", "G. dot"]
    kinds = [picture["src"].partition(";base64,") for picture in pictures]
    assert [kind[0] for kind in kinds] == ["data:image/svg+xml", "data:image/png"]
    assert base64.b64decode(kinds[0][2]).decode() == SVG
    assert base64.b64decode(kinds[1][2]) == PNG


def test_everything_from_results_is_escaped(tmp_path):
    result = Result(
        "a",
        "p",
        HOSTILE,
        "failed",
        claims=[Claim(HOSTILE, HOSTILE, HOSTILE, 1.0, (0.0, 2.0), True, HOSTILE, HOSTILE)],
        tables=[Table(HOSTILE, [HOSTILE], [[HOSTILE]], HOSTILE)],
        figures=[Figure(HOSTILE, HOSTILE, svg=f"<svg>{HOSTILE}</svg>", alt=HOSTILE)],
        files=["a<b>&'.txt"],
        text=HOSTILE,
        device=HOSTILE,
        versions={HOSTILE: HOSTILE, "p": HOSTILE},
        error=HOSTILE,
        environment={HOSTILE: HOSTILE, "CPU": HOSTILE},
        started=HOSTILE,
    )
    folder = tmp_path / "p" / "a"
    folder.mkdir(parents=True)
    (folder / "a<b>&'.txt").write_text(HOSTILE)
    text = render([result], root=tmp_path)
    page = Page(text)
    assert page.outside == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "b"}
    assert len(page.all("img")) == 1
    assert "<script>alert(1)</script>" in page.words
    # One place for each field that people read.
    assert page.words.count("<script>alert(1)</script>") >= 20


def test_the_same_results_give_the_same_bytes(tmp_path):
    first = write_report(everything(), tmp_path / "a.html").read_bytes()
    assert write_report(everything(), tmp_path / "b.html").read_bytes() == first


def test_results_of_a_package_are_brought_together():
    a, b = everything()
    text = render([a, b, Result("later", "modicum-fake", "Later")])
    sections = re.findall(r'<section class="method" aria-labelledby="([^"]+)"', text)
    assert sections == ["modicum-fake", "modicum-other"]


def test_an_empty_page_says_what_to_do():
    page = Page(render([]))
    assert "No results yet" in page.words
    assert "Run modicum demo" in page.words


@pytest.mark.parametrize(
    ("paper", "measured", "interval", "pictured"),
    [
        (1.0, 2.0, (1.5, 2.5), True),
        (1.0, 2.0, None, True),
        (1.0, 2.0, (-math.inf, math.inf), True),
        (1.0, 2.0, (math.nan, math.nan), True),
        (-1.7e308, 1.7e308, (-1.7e308, 1.7e308), True),
        (5e-324, 0.0, None, True),
        (1.0, 1.0, (1.0, 1.0), False),
        (None, 1.0, (0.0, 2.0), False),
        ("words", 1.0, (0.0, 2.0), False),
        (math.inf, 1.0, (0.0, 2.0), False),
        (1.0, math.nan, (0.0, 2.0), False),
    ],
)
def test_interval_pictures_stay_inside_their_frame(paper, measured, interval, pictured):
    claim = Claim("a", "s", paper, measured, interval, None)
    text = render([Result("a", "p", "t", claims=[claim])])
    pictures = re.findall(r'<svg class="interval wide" viewBox="0 0 150 12".*?</svg>', text)
    assert bool(pictures) == pictured
    for picture in pictures:
        for x in re.findall(r'(?:x1|x2|cx)="([^"]*)"', picture):
            assert 0 <= float(x) <= 150


def test_interval_picture_is_in_order():
    claim = Claim("a", "s", 4.0, 2.0, (1.0, 3.0), None)
    text = render([Result("a", "p", "t", claims=[claim])])
    picture = re.search(r'<svg class="interval wide".*?</svg>', text)[0]
    low, high = re.search(r'class="span" x1="([^"]*)" x2="([^"]*)"', picture).groups()
    paper = re.search(r'class="paper" x1="([^"]*)"', picture)[1]
    dot = re.search(r'cx="([^"]*)"', picture)[1]
    low, dot, high, paper = map(float, (low, dot, high, paper))
    assert dot - low == pytest.approx(high - dot, abs=0.11)
    assert high - dot == pytest.approx(paper - high, abs=0.11)
    assert low < dot < high < paper


# Kept files ---------------------------------------------------------------------------------------


def with_files(tmp_path, files):
    def run(context):
        for name, content in files.items():
            (context.out / name).write_bytes(content)
        return context.result(files=list(files))

    experiment = Experiment("a", "modicum-fake", "T", "s", run)
    return run_experiments([experiment], tmp_path)


def test_kept_files_are_shown_and_can_be_downloaded(tmp_path):
    long = "\n".join(f"line {n} <b>" for n in range(100)).encode()
    results = with_files(
        tmp_path, {"t.txt": long, "b.bin": b"\xff\x00\xfe", "big.txt": b"x" * 600_000}
    )
    page = Page(render(results, root=tmp_path))
    assert page.outside == []
    downloads = {a["download"]: a["href"] for a in page.all("a") if "download" in a}
    assert set(downloads) == {"t.txt", "b.bin"}
    assert base64.b64decode(downloads["t.txt"].partition("base64,")[2]) == long
    assert base64.b64decode(downloads["b.bin"].partition("base64,")[2]) == b"\xff\x00\xfe"
    assert "line 39 <b>" in page.words
    assert "line 40 <b>" not in page.words
    assert "big.txt, 600 kB, is in the results folder." in page.words
    # Without the folder the page still stands.
    assert not any("download" in a for a in Page(render(results)).all("a"))


def test_files_that_are_gone_or_lead_outside_are_not_embedded(tmp_path):
    out = tmp_path / "out"
    results = with_files(out, {"gone.txt": b"a", "link.txt": b"b"})
    folder = out / "modicum-fake" / "a"
    (tmp_path / "secret").write_text("sesame-7391")
    (folder / "gone.txt").unlink()
    (folder / "link.txt").unlink()
    os.symlink(tmp_path / "secret", folder / "link.txt")
    text = render(results, root=out)
    assert "sesame-7391" not in text
    assert base64.b64encode(b"sesame-7391").decode() not in text
    assert Page(text).words.count("is no longer in the results folder") == 2


# Colours ------------------------------------------------------------------------------------------


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_formula():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_themes(theme):
    # WCAG 2.2, success criterion 1.4.3: 4.5 for text.
    style = re.search(r"<style>(.*?)</style>", render([]), re.S)[1]
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    palette = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[0]))
    if theme == "dark":
        assert "prefers-color-scheme: dark" in style
        palette |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[1]))
    pairs = [
        (text, ground)
        for text in ("ink", "quiet", "accent", "good", "bad", "open")
        for ground in ("paper", "card")
    ]
    pairs += [(kind, f"{kind}-fill") for kind in ("good", "bad", "open")]
    pairs += [("ink", "code"), ("accent", "code"), ("card", "bad"), ("ink", "bad-fill")]
    pairs += [("quiet", "bad-fill"), ("accent", "bad-fill")]
    weak = {pair: contrast(*map(palette.get, pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}
