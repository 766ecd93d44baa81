"""A real browser, driven as a user would."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support.processes import wait_until

MISSING = "{name} is missing: install the packages chromium and chromium-driver (Debian)."
WIDE, PHONE = (1280, 900), (390, 844)
TALLEST = 2400
COLOURS = 128


def _find(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise RuntimeError(MISSING.format(name=names[0]))


class Browser:
    """One headless Chromium that looks at one server."""

    def __init__(self, server: str, profile: Path) -> None:
        self.server = server
        options = webdriver.ChromeOptions()
        options.binary_location = _find("chromium", "chromium-browser", "google-chrome")
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en"):
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(_find("chromedriver")))
        self.size(WIDE)

    def close(self) -> None:
        self.driver.quit()

    # Looking

    def open(self, page: str) -> None:
        self.driver.get(f"{self.server}{page}")

    @property
    def text(self) -> str:
        """What a user reads."""
        # In one step: elements may be gone before they are asked for their text.
        text = self.driver.execute_script("return document.getElementById('content-start')?.innerText ?? ''")
        return " ".join(text.split())

    def sees(self, text: str) -> bool:
        return text in self.text

    def wait_for(self, text: str) -> None:
        wait_until(lambda: self.sees(text), what=f"{text!r} on {self.driver.current_url}")

    def all(self, selector: str) -> list[WebElement]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> WebElement:
        return self._wait_for_element(By.CSS_SELECTOR, selector)

    def _wait_for_element(self, by: str, value: str) -> WebElement:
        # The page that a click leads to may still be on its way.
        return wait_until(lambda: self.driver.find_elements(by, value), what=f"{value} on the page")[0]

    def log(self) -> list[str]:
        """What the browser itself complained of."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    # Doing

    def follow(self, text: str) -> None:
        """Click the link or button with this text."""
        quoted = f'"{text}"'
        self._wait_for_element(By.XPATH, f"//*[self::a or self::button][normalize-space()={quoted}]").click()

    def fill(self, name: str, text: str) -> None:
        field = self._wait_for_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    def login(self, name: str, password: str) -> None:
        self.open("/admin/")
        self.fill("username", name)
        self.fill("password", password)
        self.one("[type=submit]").click()
        self.one("#user-tools")  # before another page cuts the login off

    def press(self, *keys: str) -> None:
        """Type, wherever the focus is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab_to(self, text: str, most: int = 100) -> None:
        """Move the focus forwards until it is on the link, button or field with this text or name."""
        for _ in range(most):
            self.press(Keys.TAB)
            active = self.driver.switch_to.active_element
            if text in (" ".join(active.text.split()), active.get_attribute("name")):
                return
        raise AssertionError(f"{text!r} is not reached with the Tab key on {self.driver.current_url}")

    def open_all_details(self) -> None:
        """Unfold whatever is folded up."""
        self.driver.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")

    def bypass_content_security_policy(self) -> None:
        """Let the next pages do what their policy forbids."""
        self._command("Page.setBypassCSP", {"enabled": True})

    # Pictures

    def size(self, size: tuple[int, int]) -> None:
        width, height = size
        self._command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE},
        )

    def theme(self, name: str) -> None:
        self._command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})

    def picture(self, path: Path) -> None:
        """Write the whole page as a small PNG."""
        self.wait_for_colours()
        layout = self._command("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": layout["width"], "height": min(layout["height"], TALLEST)}
        shot = self._command("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip})
        image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)

    def wait_for_colours(self) -> None:
        """They fade from one theme to the other."""
        self.driver.execute_async_script(
            "const done = arguments[0]; Promise.allSettled(document.getAnimations().map(each => each.finished)).then(() => done())"
        )

    def _command(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)
