"""Control a headless Chromium over two pipes by its DevTools protocol."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-pipe",
)
# Chromium reads commands from descriptor 3, and answers on 4.
LAUNCH = "import os, sys; a, b = map(int, sys.argv[1:3]); os.dup2(a, 3); os.dup2(b, 4); "
LAUNCH += "os.execv(sys.argv[3], sys.argv[3:])"
PATIENCE = 120  # seconds: ends a test that hangs


def find_browser():
    """Return the path of the browser; skip the test where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if not found:
        pytest.skip("chromium is not installed")
    return found


class Chromium:
    """Hold one tab of a new browser, which is killed on leaving the context.

    Attributes:
        events: the events that the tab has sent since the last page was opened, each as a pair
            of its name and its parameters
    """

    def __init__(self, profile, *, width=1000, height=800):
        browser = find_browser()
        self.events = []
        self._count, self._rest, self._session = 0, b"", None
        (reads, self._to), (self._from, writes) = _high_pipe(), _high_pipe()
        size = f"--window-size={width},{height}"
        command = [browser, *FLAGS, size, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(reads), str(writes), *command],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reads)
        os.close(writes)

    def __enter__(self):
        try:
            tabs = self.send_command("Target.getTargets")["targetInfos"]
            page = next(tab["targetId"] for tab in tabs if tab["type"] == "page")
            attached = self.send_command("Target.attachToTarget", targetId=page, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send_command(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def send_command(self, method, **parameters):
        """Send a command, and wait for its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open_page(self, address):
        """Open an address, and wait until it is loaded."""
        self.events.clear()
        self.send_command("Page.navigate", url=address)
        self.wait_until("document.readyState === 'complete'")

    def evaluate(self, expression):
        """Return the value of a JavaScript expression."""
        result = self.send_command("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait_until(self, expression):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + PATIENCE
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < end, f"waited in vain for {expression}"
            time.sleep(0.02)
        return found

    def send_mouse_event(self, kind, x, y):
        """Send ``mouseMoved``, ``mousePressed`` or ``mouseReleased`` at a position."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.send_command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, x, y):
        """Press and release the mouse."""
        self.send_mouse_event("mousePressed", x, y)
        self.send_mouse_event("mouseReleased", x, y)

    def press_key(self, name):
        """Press and release a key, by the name that JavaScript gives it."""
        for kind in ("keyDown", "keyUp"):
            self.send_command("Input.dispatchKeyEvent", type=kind, key=name)

    def _next(self):
        """Return the next message; if it is an event, also store it in ``events``."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(end - time.monotonic(), 0))
            assert ready, "chromium does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "chromium has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message


def _high_pipe():
    """Open a pipe whose descriptors are above 4, because the browser uses 3 and 4 itself."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high
