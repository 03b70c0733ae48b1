"""Headless Chromium, driven by Selenium; tests that use it are skipped where one is missing."""

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
PATIENCE_S = 60  # a busy machine starts scripts late
# middle of an element, after it was scrolled into view
MIDDLE = """
    const element = document.querySelector(arguments[0]);
    element.scrollIntoView({block: 'center'});
    const box = element.getBoundingClientRect();
    return [box.x + box.width * arguments[1], box.y + box.height * arguments[2]];
"""


class Browser:
    """One window of so many pixels."""

    def __init__(self, width: int = 1280, height: int = 900):
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        driver = shutil.which("chromedriver")
        if program is None or driver is None:
            pytest.skip(f"no Chromium with its driver here (looked for {', '.join(PROGRAMS)})")
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for argument in (*OPTIONS, f"--window-size={width},{height}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(driver)
        self.driver = webdriver.Chrome(options, service)
        self.actions = webdriver.ActionChains(self.driver, duration=0)

    def open(self, page: Path, mark: str = "") -> None:
        """Show a file anew, and wait until it is there. mark: what follows # in the address."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(page.as_uri() + mark)

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
        """Errors of the page's scripts, files it asked for in vain, breaches of its policy."""
        log = self.driver.get_log("browser")
        return [json.dumps(entry) for entry in log if entry["level"] == "SEVERE"]

    def close(self) -> None:
        self.driver.quit()
