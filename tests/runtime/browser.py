# SPDX-License-Identifier: Apache-2.0
"""A real Chromium without a window, which says what it asked for and what it complained of."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Keys, as WebDriver's specification numbers them.
TAB, ENTER, ESCAPE, END = "\ue004", "\ue007", "\ue00c", "\ue010"
RIGHT, DOWN = "\ue014", "\ue015"


@contextlib.contextmanager
def open_browser(downloads: Path) -> Iterator[Any]:
    """Yield a Selenium driver; skip where there is no Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver: not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{switch}")
    options.add_argument("--window-size=1200,900")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.set_page_load_timeout(30)
        browser.set_script_timeout(30)
        yield browser
    finally:
        browser.quit()


def complaints(browser: Any) -> list[str]:
    """What the console said since it was asked last."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Any) -> list[str]:
    """Addresses that pages asked for since it was asked last."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def keys(browser: Any, *pressed: str) -> None:
    """Press keys, wherever the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*pressed).perform()


def move(browser: Any, element: Any, right: float = 0, down: float = 0) -> None:
    """Move the pointer to an element's middle, or so far from it."""
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(browser)
    actions.move_to_element_with_offset(element, round(right), round(down)).perform()


def text(browser: Any, selector: str) -> str:
    """Text of an element, shown or not."""
    script = "return document.querySelector(arguments[0]).textContent"
    return str(browser.execute_script(script, selector))
