"""The page of a trace: what it says, that nothing in it runs or loads, and how it is used."""

import json
import re
import time
from html.parser import HTMLParser

import pytest
from pvf_browser import CHROMIUM, Browser

from modicum.pvf.events import Commit, Rejected
from modicum.pvf.page import page_html, write_page
from modicum.pvf.stats import DecodeStats
from modicum.pvf.trace import LETTERS, Trace, TracedCanvas

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
MASK, EOS = 0, 1
HOSTILE = "</script><img src=http://taken.invalid/x onerror=document.title='taken'><!--"
STRINGS = {
    0: "<mask>",
    1: "<eos>",
    2: HOSTILE,
    3: "&amp;",
    4: " the",
    5: "\n",
    6: "\u202eevil\u2028",
    7: "\ud800",
    8: "w" * 120,
    9: "'\"><b>",
}


def trace(sequences=2, length=12):
    """Give a trace with every reason, rejected drafts and texts that try to break out."""
    canvas = TracedCanvas((4, 2, *[MASK] * length), 2, length)
    commits = [
        Commit(0, 1, "cold", 1, (3, 9), (2, 3), (0.95, 0.99), ("H", "H")),
        Commit(0, 2, "plan", 3, (2,), (9,), (0.41,), ("P",), (Rejected(5, 2, 0.3),)),
        Commit(0, 3, "plan", 2, (), (), (), (), (Rejected(5, 7, 0.31),)),
        Commit(0, 4, "fill", 3, (4, 5, 6), (5, 6, 7), (0.97, 0.5, 0.3), ("H", "F", "F")),
        Commit(0, 5, "cold", 1, (7,), (8,), (0.05,), ("X",)),
        Commit(0, 6, "cold", 1, (8,), (EOS,), (-1.0,), ("H",)),
        Commit(0, 6, "cold", 1, (10, 11, 12, 13), (EOS,) * 4, (1.0,) * 4, ("E",) * 4),
    ]
    stats = DecodeStats(nfe=6, rows=11, token_evals=154, tokens=8, seconds=0.25)
    return Trace(
        config={"strategy": {"strategy": HOSTILE, "ids": list(range(300))}, "gen_length": length},
        versions={"python": HOSTILE},
        mask_id=MASK,
        eos_id=EOS,
        canvases=[canvas] * sequences,
        strings=STRINGS,
        commits=[commits] * sequences,
        stats=[stats] * sequences,
    )


class Parsed(HTMLParser):
    """Elements, and texts of scripts."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.scripts, self._inside = [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag == "script"

    def handle_data(self, text):
        if self._inside:
            self.scripts.append(text)

    def handle_endtag(self, tag):
        self._inside = False


def test_texts_of_tokens_stay_texts():
    parsed = Parsed(page_html(trace(), title=HOSTILE))
    kinds = {tag for tag, _ in parsed.tags}
    assert not kinds & {"img", "b0"}
    assert sum(tag == "script" for tag, _ in parsed.tags) == 2
    data = json.loads(parsed.scripts[0])
    assert data["sequences"][0]["steps"][0]["tokens"][0]["text"] == HOSTILE.replace(" ", "·")
    assert not re.search("[<>&]", parsed.scripts[0])
    for _, attributes in parsed.tags:
        assert not set(attributes) & {"onerror", "src", "href"}


def test_the_page_is_utf8_whatever_tokens_hold(tmp_path):
    path = write_page(trace(), tmp_path / "folder" / "page.html")
    source = path.read_text(encoding="utf-8")
    assert "�evil�" in source and "⏎" in source
    assert page_html(trace()) == source


def test_every_commit_stands_in_the_table_and_costs_above_it():
    source = page_html(trace(1))
    table = source[source.index('<table class="stack calls">') : source.index("</table>")]
    assert table.count("<tr>") == 1 + 7
    assert "P&nbsp;at&nbsp;2, 0.410" in table
    assert "×&nbsp;at&nbsp;5, 0.300" in table and "×&nbsp;at&nbsp;5, 0.310" in table
    assert "H&nbsp;at&nbsp;8, last" in table
    tally = source[source.index('<ul class="tally"') :].partition("</ul>")[0]
    for said in (
        "<strong>6</strong> forward calls",
        "<strong>11</strong> rows",
        "<strong>154</strong> token evaluations",
        "<strong>1.333</strong> tokens per forward",
        "<strong>2</strong> filled (F)",
        "<strong>2</strong> drafts not kept",
    ):
        assert said in tally
    for letter in LETTERS:
        assert f'data-reason="{letter}"><b>{letter}</b>' in source


def test_a_recording_that_was_cut_off_says_so():
    cut = trace(1)
    cut = Trace(**{**vars(cut), "stats": None, "commits": [cut.commits[0][:2]]})
    source = page_html(cut)
    assert "the recording was cut off" in source
    assert "token evaluations" not in source
    assert source.count('class="token open"') == 9
    nothing = page_html(Trace(**{**vars(cut), "commits": [[]]}))
    assert nothing.count('class="token open"') == 12


def test_sequences_are_chosen_and_refused():
    many = trace(20)
    assert page_html(many).count('<section class="experiment sequence"') == 16
    assert "16 of 20 sequences" in page_html(many)
    assert page_html(many, sequences=[19]).count('<section class="experiment sequence"') == 1
    with pytest.raises(ValueError, match="sequence must be in"):
        page_html(many, sequences=[20])
    with pytest.raises(ValueError, match="sequences is empty"):
        page_html(many, sequences=[])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(trace(), tmp_path_factory.mktemp("page") / "page.html", title=HOSTILE)


def open_columns(browser, section=0):
    """Give the columns that are open on the page."""
    return browser.run(
        f"[...document.querySelectorAll('.sequence')[{section}].querySelectorAll('.token.open')]"
        ".map(node => Number(node.dataset.position))"
    )


def said(browser):
    return browser.run("document.querySelector('.said').textContent")


@in_a_browser
def test_nothing_is_loaded_nothing_foreign_runs_and_nothing_breaks(browser, page, tmp_path):
    control = tmp_path / "control.html"
    control.write_text('<body><img src="http://control.invalid/x.png"><script>nothere()</script>')
    browser.open(control)
    assert browser.requested == {"http://control.invalid/x.png"} and browser.problems
    browser.open(page)
    assert browser.run("document.title") == HOSTILE
    assert browser.requested == set() and browser.problems == []
    # The policy holds: another script does not run.
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'),"
        " {textContent: 'document.title = 1'}))"
    )
    assert browser.run("document.title") == HOSTILE


@in_a_browser
def test_keys_go_through_the_calls(browser, page):
    browser.open(page)
    assert open_columns(browser) == []
    browser.press("Home")
    assert open_columns(browser) == list(range(2, 14))
    assert said(browser) == "Before the first call: 12 columns are open."
    browser.press("ArrowRight")
    assert open_columns(browser) == [2, 4, 5, 6, 7, 8, 10, 11, 12, 13]
    browser.press("ArrowRight")
    assert said(browser) == (
        "Call 2 of 6, planning tokens tested, 3 rows: 1 planned (P) committed; 1 tested and not "
        "kept (×). 3 tokens stand, 1.50 for each call."
    )
    assert browser.run("document.querySelector('.token.now').dataset.position") == "2"
    assert browser.run("document.querySelector('.token.tested').dataset.position") == "5"
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('.token.tested')") is None
    browser.press("End")
    assert open_columns(browser) == []


@in_a_browser
def test_buttons_and_slider_go_through_the_calls(browser, page):
    browser.open(page)
    browser.click(".back")
    assert open_columns(browser) == [10, 11, 12, 13]
    browser.click(".next")
    assert open_columns(browser) == []
    assert browser.run("document.querySelector('.next').disabled")
    # The middle of the slider is in the middle of the decoding.
    browser.click("input[type=range]")
    assert 0 < browser.run("Number(document.querySelector('input').value)") < 7
    middle = open_columns(browser)
    assert 0 < len(middle) < 12
    # A key on the slider goes one step only.
    at = browser.run("Number(document.querySelector('input').value)")
    browser.press("ArrowRight")
    assert browser.run("Number(document.querySelector('input').value)") == at + 1


@in_a_browser
def test_play_goes_to_the_end_and_pause_stops(browser, page):
    browser.open(page)
    browser.run("document.querySelector('.speed').value = '4'")
    browser.click(".play")
    assert browser.run("document.querySelector('.play').textContent") == "❚❚ Pause"
    browser.wait("Number(document.querySelector('input').value) >= 2")
    browser.click(".play")
    stood = browser.run("document.querySelector('input').value")
    # Twice the time of a step: a replay that went on would show.
    time.sleep(0.45)
    assert browser.run("document.querySelector('input').value") == stood
    browser.run("document.activeElement.blur()")
    browser.press(" ")
    browser.wait("Number(document.querySelector('input').value) === 7")
    browser.wait("document.querySelector('.play').textContent === '▶ Play'")


@in_a_browser
def test_pointing_and_walking_say_what_happened_to_a_column(browser, page):
    browser.open(page)
    detail = "document.querySelector('.detail').textContent"
    browser.point(".token[data-position='5']")
    browser.wait(f"{detail}.startsWith('column 5,')")
    told = browser.run(detail)
    assert told == (
        "column 5, “�evil�”: filled (F) in call 4, probability 0.500; "
        f"“{HOSTILE.replace(' ', '·')}” was tested in call 2 and not kept, probability 0.300; "
        "“�” was tested in call 3 and not kept, probability 0.310."
    )
    browser.click(".token[data-position='2']")
    browser.press("ArrowDown")
    assert browser.run("document.activeElement.dataset.position") == "3"
    assert browser.run(detail).startswith("column 3, “</script>")
    assert browser.run("document.activeElement.getAttribute('aria-label')") == browser.run(detail)
    # One token only is a stop of the tab key.
    stops = "[...document.querySelectorAll('.sequence')[0].querySelectorAll('.token')]"
    assert browser.run(f"{stops}.filter(node => node.tabIndex === 0).length") == 1
    browser.press("Home")
    assert browser.run(detail) == "column 3: still open."


@in_a_browser
def test_another_sequence_is_shown_alone(browser, page):
    browser.open(page)
    visible = "[...document.querySelectorAll('.sequence')].map(node => !node.hidden)"
    assert browser.run(visible) == [True, False]
    browser.run("document.querySelector('.pick select').focus()")
    browser.run(
        "(() => { const select = document.querySelector('.pick select'); select.value = '1';"
        " select.dispatchEvent(new Event('change')); })()"
    )
    assert browser.run(visible) == [False, True]
    browser.run("document.activeElement.blur()")
    browser.press("Home")
    assert open_columns(browser, 1) == list(range(2, 14)) and open_columns(browser, 0) == []


@in_a_browser
@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_the_page_fits_the_width_of_the_screen(browser, page, width):
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('details').forEach(node => (node.open = true))")
    root = "document.documentElement"
    assert browser.run(f"[{root}.clientWidth, {root}.scrollWidth]") == [width, width]
    # What fingers hit is large enough.
    boxes = "[...document.querySelectorAll('.controls button')].filter(node => node.offsetWidth)"
    assert browser.run(f"Math.min(...{boxes}.map(node => node.offsetHeight))") >= 44


CONTRAST = """
(() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const under = (node) => {
    for (; node; node = node.parentElement) {
      const found = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(found)) return found;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const ratio = (node) => {
    const pair = [light(getComputedStyle(node).color), light(under(node))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const nodes = document.querySelectorAll(
    ".token bdi, .why, .given, .said, .detail, .key li, .key b, .piece, .tally li, .controls button"
  );
  return Math.min(...[...nodes].filter((node) => !node.disabled).map(ratio));
})()
"""


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_from_their_ground(browser, page, scheme):
    browser.open(page, scheme=scheme)
    # 4.5 is what WCAG 2 asks for text.
    assert browser.run(CONTRAST) >= 4.5
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")


@in_a_browser
def test_on_paper_all_sequences_are_there_and_no_controls(browser, page):
    browser.open(page, media="print")
    seen = "[...document.querySelectorAll('{}')].map(node => node.offsetHeight > 0)"
    assert browser.run(seen.format(".sequence")) == [True, True]
    assert browser.run(seen.format(".calls")) == [True, True]
    assert not any(browser.run(seen.format(".controls")))
    browser.press("Home")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert open_columns(browser) == []
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert len(open_columns(browser)) == 12
