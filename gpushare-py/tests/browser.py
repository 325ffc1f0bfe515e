"""A headless Chromium, steered over two pipes: nothing to install beside it, and no port."""

import itertools
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

PATIENCE = 60
"""Seconds that it may take to answer."""

OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    # Root cannot have the sandbox, nor can a container.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--disable-lcd-text",
)


class Browser:
    """One process of it. What it says without being asked is kept in `events`."""

    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        home = self.folder.name
        options = (*OPTIONS, f"--user-data-dir={home}/profile", "about:blank")
        # It reads from descriptor 3 and writes to 4.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", program, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home},
        )
        self.numbers = itertools.count(1)
        self.unread = b""
        self.events = []
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.folder.cleanup()

    def _say(self, method, **parameters):
        number = next(self.numbers)
        said = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            said["sessionId"] = self.session
        self.process.stdin.write(json.dumps(said).encode() + b"\0")
        self.process.stdin.flush()
        return number

    def _message(self, until):
        """The next that it says. What happened is noted."""
        while b"\0" not in self.unread:
            if not select.select([self.process.stdout], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser says nothing")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise EOFError(f"the browser ended: {self.process.wait()}")
            self.unread += more
        said, _, self.unread = self.unread.partition(b"\0")
        message = json.loads(said)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
            if message["method"] == "Page.javascriptDialogOpening":
                # Until it is answered nothing goes on.
                self._say("Page.handleJavaScriptDialog", accept=True)
        return message

    def ask(self, method, **parameters):
        number = self._say(method, **parameters)
        until = time.monotonic() + PATIENCE
        while (message := self._message(until)).get("id") != number:
            pass
        if "error" in message:
            raise ValueError(f"{method}: {message['error']}")
        return message["result"]

    def value(self, expression):
        """What a piece of JavaScript says of the page; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise ValueError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def _room(self, width, height):
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def show(self, page, width):
        """Shows a page at a width, as high as it is. Returns what happened meanwhile and should not."""
        self._room(width, 600)
        file = Path(self.folder.name) / "page.html"
        file.write_text(page, encoding="utf-8")
        self.events.clear()
        self.ask("Page.navigate", url=file.as_uri())
        until = time.monotonic() + PATIENCE
        while not any(name == "Page.loadEventFired" for name, _ in self.events):
            self._message(until)
        self._room(width, int(self.value("document.documentElement.scrollHeight")))
        # Two frames later what the page does of itself is done.
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
        return [(name, told) for name, told in self.events if _is_wrong(name, told, file.as_uri())]

    def screenshot(self):
        """What is shown, as PNG in base64."""
        return self.ask("Page.captureScreenshot", format="png")["data"]


def _is_wrong(name, told, page):
    if name == "Network.requestWillBeSent":
        return told["request"]["url"] != page
    return name in {
        "Log.entryAdded",
        "Runtime.consoleAPICalled",
        "Runtime.exceptionThrown",
        "Page.javascriptDialogOpening",
    }
