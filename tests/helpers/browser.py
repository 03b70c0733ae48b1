"""Headless Chromium, spoken to over its debugging pipe."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
# middle of an element, after it was scrolled into view
MIDDLE = """(() => {
    const element = document.querySelector(SELECTOR);
    element.scrollIntoView({block: 'center'});
    const box = element.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


class Browser:
    """One window. Messages of Chromium's protocol are JSON that ends with a zero byte."""

    def __init__(self, program: str, profile: Path):
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()
        pipes = f"3<&{read_there} 4>&{write_there}"
        arguments = f'{" ".join(OPTIONS)} --user-data-dir="{profile}"'
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "{program}" {arguments} {pipes}'],
            pass_fds=(read_there, write_there),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self.answers = os.fdopen(read_here, "rb")
        self.requests = os.fdopen(write_here, "wb")
        self.count = 0
        self.session = None
        self.events = []

    def call(self, method: str, **params: Any) -> dict:
        """The result of a method; what else arrives meanwhile is kept as events."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.requests.write(json.dumps(message).encode() + b"\0")
        self.requests.flush()
        while True:
            answer = self._answer()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _answer(self) -> dict:
        text = b""
        while not text.endswith(b"\0"):
            byte = self.answers.read(1)
            assert byte, "Chromium ended"
            text += byte
        return json.loads(text[:-1])

    def open(self, page: Path) -> None:
        """Show a file, and wait until it is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        self.call("Runtime.enable")
        self.call("Page.enable")
        self.call("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def get(self, expression: str) -> Any:
        """The value of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until JavaScript is true, ten seconds at most."""
        for _ in range(200):
            if self.get(expression):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def click(self, selector: str) -> None:
        x, y = self.get(MIDDLE.replace("SELECTOR", json.dumps(selector)))
        mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **mouse)

    def press(self, key: str, code: int) -> None:
        keyboard = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **keyboard)

    def faults(self) -> list[dict]:
        """Exceptions of the page's own script."""
        return [event for event in self.events if event["method"] == "Runtime.exceptionThrown"]

    def close(self) -> None:
        self.requests.close()
        self.process.terminate()
        self.process.wait(20)
        self.answers.close()
