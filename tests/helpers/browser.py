"""A headless browser, driven by Selenium; tests that use it are skipped where it is missing.

The environment variable DME_BROWSER names it: chromium (where it is not set) or webkit.
"""

import io
import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)
WEBKIT = "*/webkit2gtk-4.*/MiniBrowser"  # within LIBRARIES: Debian has it in no folder of PATH
LIBRARIES = Path("/usr/lib")
PATIENCE_S = 60  # a busy machine starts scripts late
# middle of an element, after it was scrolled into view
MIDDLE = """
    const element = document.querySelector(arguments[0]);
    element.scrollIntoView({block: 'center'});
    const box = element.getBoundingClientRect();
    return [box.x + box.width * arguments[1], box.y + box.height * arguments[2]];
"""


def chromium_driver(webdriver: Any, width: int, height: int) -> Any:
    """Chromium, which needs no display."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip(f"no Chromium with its driver here (looked for {', '.join(CHROMIUM)})")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*CHROMIUM_OPTIONS, f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def webkit_driver(webdriver: Any, width: int, height: int) -> Any:
    """WebKitGTK, of the engine that Safari has; it needs a display, such as that of xvfb-run."""
    window = next(LIBRARIES.glob(WEBKIT), None)
    program = shutil.which("WebKitWebDriver")
    if window is None or program is None or "DISPLAY" not in os.environ:
        pytest.skip("no WebKitGTK with its driver and a display here (webkit2gtk-driver, xvfb)")
    options = webdriver.WebKitGTKOptions()
    options.binary_location = str(window)
    options.add_argument("--automation")
    driver = webdriver.WebKitGTK(options, webdriver.WebKitGTKService(program))
    driver.set_window_size(width, height)
    warnings.warn("WebKit keeps no log: faults() of its pages are not checked", stacklevel=2)
    return driver


DRIVERS = {"chromium": chromium_driver, "webkit": webkit_driver}


class Browser:
    """One window of so many pixels."""

    def __init__(self, width: int = 1280, height: int = 900):
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
        self.name = os.environ.get("DME_BROWSER", "chromium")
        if self.name not in DRIVERS:
            pytest.fail(f"DME_BROWSER is {self.name}, expected {' or '.join(DRIVERS)}")
        self.driver = DRIVERS[self.name](webdriver, width, height)
        self.actions = webdriver.ActionChains(self.driver, duration=0)

    def open(self, page: Path, mark: str = "") -> None:
        """Show a file anew, and wait until it is there. mark: what follows # in the address."""
        self.driver.get("about:blank")
        self.faults()  # of the page before
        self.driver.get(page.as_uri() + mark)

    def needs_chromium(self) -> None:
        """Skip a test that asks Chromium's own protocol."""
        if self.name != "chromium":
            pytest.skip(f"needs Chromium's own protocol, not {self.name}")

    def get(self, expression: str) -> Any:
        """The value of JavaScript."""
        return self.driver.execute_script(f"return {expression}")

    def wait(self, expression: str) -> None:
        """Until JavaScript is true."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.get(expression):
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {expression}")

    def move(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """The pointer to a place of an element, in shares of its width and height."""
        x, y = self.driver.execute_script(MIDDLE, selector, across, down)
        self.actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        self.actions.perform()

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        self.move(selector, across, down)
        self.actions.click().perform()

    def leave(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Say that the mouse left an element at a place, as WebKit does after each click."""
        x, y = self.driver.execute_script(MIDDLE, selector, across, down)
        pointer = {"pointerType": "mouse", "clientX": x, "clientY": y}
        event = "new PointerEvent('pointerleave', arguments[1])"
        script = f"document.querySelector(arguments[0]).dispatchEvent({event})"
        self.driver.execute_script(script, selector, pointer)

    def press(self, key: str, *held: str) -> None:
        """A key by its name in JavaScript, such as ArrowRight, or a letter; others held."""
        from selenium.webdriver.common.keys import Keys

        names = {"ArrowLeft": Keys.LEFT, "ArrowRight": Keys.RIGHT, "ArrowUp": Keys.UP}
        names |= {"ArrowDown": Keys.DOWN, "Escape": Keys.ESCAPE, "Shift": Keys.SHIFT}
        names |= {"Tab": Keys.TAB, "End": Keys.END}
        for other in held:
            self.actions.key_down(names[other])
        self.actions.send_keys(names.get(key, key))
        for other in held:
            self.actions.key_up(names[other])
        self.actions.perform()

    def colour(self, selector: str, across: float, down: float) -> tuple[int, int, int]:
        """What is seen at a place of an element, in shares of its width and height."""
        spot = self.driver.execute_script(MIDDLE, selector, across, down)
        self.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        with Image.open(io.BytesIO(self.driver.get_screenshot_as_png())) as picture:
            return picture.convert("RGB").getpixel(tuple(map(int, spot)))

    def faults(self) -> list[str]:
        """Errors of the page's scripts, files it asked for in vain, breaches of its policy.

        None of WebKit, which keeps no log.
        """
        if self.name == "webkit":
            return []
        log = self.driver.get_log("browser")
        return [json.dumps(entry) for entry in log if entry["level"] == "SEVERE"]

    def close(self) -> None:
        self.driver.quit()
