"""A page in headless Chromium, with real mouse and key events, over the browser's own pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # Whatever is asked for is not found, so that a test touches no network.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35}


class Browser:
    """One tab; a context manager."""

    def __init__(self, folder, seconds=60):
        self.seconds = seconds
        read_end, self._out = os.pipe()
        self._in, write_end = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to 4.
        script = f'exec "$@" 3<&{read_end} 4>&{write_end}'
        command = ["bash", "-c", script, "bash", CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"],
            pass_fds=(read_end, write_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self._rest, self._number, self._session = b"", 0, None
        self.events = []
        (page,) = [
            item for item in self.ask("Target.getTargets")["targetInfos"] if item["type"] == "page"
        ]
        attached = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def ask(self, method, **params):
        """Send a command and give its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._until(lambda found: found.get("id") == self._number)["result"]

    def _until(self, is_it):
        end = time.monotonic() + self.seconds
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                found = json.loads(line)
                if "error" in found:
                    raise RuntimeError(found["error"])
                self.events.append(found)
                if is_it(found):
                    return found
            if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {self.seconds} s")
            self._rest += os.read(self._in, 1 << 16)

    def open(self, path, width=1000, height=900, scheme="light", media=""):
        """Load a page in a window of a size."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        self._until(lambda found: found.get("method") == "Page.loadEventFired")

    def run(self, script):
        """Give the value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def wait(self, script, seconds=10):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def _middle(self, selector):
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.run(
            f"(() => {{ const box = {place}.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        return {"x": box[0], "y": box[1]}

    def point(self, selector):
        """Move the mouse over an element."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", **self._middle(selector))

    def click(self, selector):
        """Click on the middle of an element."""
        place = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key):
        """Press a key."""
        known = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0]))}
        if key == " ":
            known |= {"code": "Space", "text": " "}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **known)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **known)

    def shot(self, path, whole=True):
        """Write a picture of the page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    @property
    def problems(self):
        """Give what the page's console complains of, policy violations among it."""
        return [
            found["params"]
            for found in self.events
            if found.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
        ]

    @property
    def requested(self):
        """Give every address that was asked for over a network since the page was opened."""
        urls = [
            found["params"]["request"]["url"]
            for found in self.events
            if found.get("method") == "Network.requestWillBeSent"
        ]
        return {url for url in urls if not url.startswith(("data:", "file:"))}
