"""A real browser without a window, for tests of pages; everything in it but the page keeps
quiet.
"""

import base64
import json
import os
import shutil
import subprocess
from contextlib import contextmanager

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
TIMEOUT_S = 30
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever the browser itself wants of its maker stays on this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]


class Page:
    """A page that is looked at, driven over the DevTools protocol.

    Attributes:
        complaints: what it wrote to the console, and errors that nothing caught.
        asked: addresses that it asked for.
    """

    def __init__(self, write, read):
        self._write, self._read = write, read
        self._number = 0
        self._session = None
        self._loaded = False
        self.complaints, self.asked = [], []

    def call(self, method, **parameters):
        """Gives a command, and waits for what came of it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, address, width, dark):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        assert "errorText" not in self.call("Page.navigate", url=address)
        while not self._loaded:
            self._next()

    def evaluate(self, expression):
        """Gives the value of a JavaScript expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition):
        """Waits until a JavaScript condition is true."""
        look = f"const look = () => {condition} ? done() : setTimeout(look, 20); look();"
        self.evaluate(
            "new Promise((done, fail) => { setTimeout(() => fail('not in time'),"
            f" {TIMEOUT_S * 1000}); {look} }})"
        )

    def choose(self, selector, path):
        """Chooses a file, as its input's dialog would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path):
        path.write_bytes(
            base64.b64decode(
                self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            )
        )

    def _next(self):
        text = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        event = json.loads(text)
        kind, said = event.get("method"), event.get("params")
        if kind in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(said)
        self._loaded = self._loaded or kind == "Page.loadEventFired"
        if kind == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"])
        return event


@contextmanager
def visit(address, profile, width=900, dark=False):
    """A page in a fresh browser, which ends with the block."""
    their_read, our_write = os.pipe()
    our_read, their_write = os.pipe()
    # The browser takes commands from 3 and answers to 4.
    command = f'exec "$@" 3<&{their_read} 4>&{their_write} 2>/dev/null'
    browser = [
        CHROMIUM,
        *QUIET,
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
        "about:blank",
    ]
    with (
        os.fdopen(our_write, "wb") as write,
        os.fdopen(our_read, "rb") as read,
        subprocess.Popen(
            ["bash", "-c", command, "bash", *browser], pass_fds=[their_read, their_write]
        ) as process,
    ):
        os.close(their_read)
        os.close(their_write)
        try:
            page = Page(write, read)
            page.open(address, width, dark)
            yield page
        finally:
            process.kill()
