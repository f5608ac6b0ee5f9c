"""The page in a real browser: what it loads, how it fits, what it looks like."""

import html
import json
import shutil
import subprocess

import numpy as np
import pytest

from modicum.core.experiment import Claim, Figure, Result, Table
from modicum.core.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
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
# Wide content, so that a layout that does not fit shows: long words, long cells, many columns.
LONG = "anytimevalid" * 12


def svg():
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="460pt" height="300pt"'
        ' viewBox="0 0 460 300">'
        '<rect width="460" height="300" fill="#ffffff"/><circle cx="230" cy="150" r="90"/>'
        '<image href="http://figure.invalid/x.png" width="9" height="9"/></svg>'
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    claims = [
        Claim("a", f"A claim {LONG}", 0.05, 0.031, (0.021, 0.044), True, "nats/token", LONG),
        Claim("b", "Another", "in words", 2.0, None, False),
        Claim("c", "A third", None, 1.0, None, None),
    ]
    table = Table(LONG, [f"column {n}" for n in range(20)], [[float(n) for n in range(20)]] * 3)
    results = [
        Result(
            "power",
            "modicum-fake",
            "Power",
            claims=claims,
            tables=[table],
            figures=[Figure("Left", "A disc.", svg=svg()), Figure("Right", LONG, svg=svg())],
            text=f"Text `{LONG}` text.",
            versions={"modicum-fake": "1.0"},
            environment={"CPU": LONG},
            started="2026-01-01T00:00:00+00:00",
        ),
        Result("boom", "modicum-other", LONG, "failed", error=f"Traceback\nRuntimeError: {LONG}"),
    ]
    return write_report(results, tmp_path_factory.mktemp("page") / "index.html")


def chromium(folder, url, *flags):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, str(url)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def requested(folder, url):
    """Return every address that the page tried to load over a network, from the browser's log."""
    folder.mkdir()
    log = folder / "net.json"
    chromium(folder, url, f"--log-net-log={log}", "--screenshot=" + str(folder / "net.png"))
    found = set()
    for event in json.loads(log.read_text())["events"]:
        request = event.get("params", {})
        # What the browser wants for itself (updates, the time) has no page as its initiator.
        if request.get("initiator", "not an origin") != "not an origin":
            found.add(request["url"])
    return {url for url in found if not url.startswith(("data:", "file:"))}


def test_the_page_loads_nothing_from_a_network(page, tmp_path):
    control = tmp_path / "control.html"
    control.write_text('<body><img src="http://control.invalid/x.png"></body>')
    assert requested(tmp_path / "one", control.as_uri()) == {"http://control.invalid/x.png"}
    assert requested(tmp_path / "two", page.as_uri()) == set()


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_the_page_fits_the_width_of_the_screen(page, tmp_path, width):
    # A frame, because the window itself has a least width; what is wide scrolls in its own box.
    frame = tmp_path / "frame.html"
    source = html.escape(page.read_text().replace("<details", "<details open"), quote=True)
    frame.write_text(
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{source}"></iframe>'
        '<pre id="out"></pre><script>onload = () => {'
        "const root = document.querySelector('iframe').contentDocument.documentElement;"
        "document.getElementById('out').textContent ="
        "`width ${root.clientWidth} content ${root.scrollWidth} height ${root.scrollHeight}`"
        "}</script>"
    )
    dom = chromium(tmp_path, frame.as_uri(), "--window-size=1400,1000", "--dump-dom")
    words = dom.partition('<pre id="out">')[2].partition("<")[0].split()
    assert words[:5] == ["width", str(width), "content", str(width), "height"], words
    assert int(words[5]) > 1500


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_looks_like_a_page_in_light_and_dark(page, tmp_path, width):
    image = pytest.importorskip("PIL.Image")

    def shoot(name, *flags):
        path = tmp_path / f"{name}.png"
        chromium(
            tmp_path, page.as_uri(), f"--window-size={width},2400", f"--screenshot={path}", *flags
        )
        with image.open(path) as picture:
            assert picture.size == (width, 2400)
            return np.asarray(picture.convert("L"), dtype=float)

    light = shoot("light", "--blink-settings=preferredColorScheme=1")
    dark = shoot("dark", "--blink-settings=preferredColorScheme=0")
    # Paper and ink: most of the page is ground, and there is enough that stands out from it.
    assert np.median(light) > 230
    assert np.median(dark) < 60
    assert np.mean(light < 128) > 0.005
    assert np.mean(dark > 128) > 0.005
    # The figure's white card stays white in the dark, so that its black lines can be seen.
    assert np.mean(dark > 250) > 0.01
