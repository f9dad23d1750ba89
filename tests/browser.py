"""A real browser for tests: headless Chromium with a fresh profile, driven over WebDriver."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from tests import PATIENCE_S
from tests.programs import find_program

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,800",
)


@contextlib.contextmanager
def start_chromium(profile: Path) -> Iterator[Chrome]:
    """Start one browser. Both programs are named, so that selenium looks for none to download."""
    options = ChromeOptions()
    options.binary_location = find_program("chromium")
    service = Service(find_program("chromedriver", "chromium-driver"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def closing_tabs(driver: Chrome) -> Iterator[None]:
    """Close what was opened inside, so that nothing of it is left when the server stops."""
    first = driver.current_window_handle
    take_console(driver)
    try:
        yield
    finally:
        for handle in driver.window_handles:
            if handle != first:
                driver.switch_to.window(handle)
                driver.close()
        driver.switch_to.window(first)


def take_console(driver: Chrome) -> list[str]:
    """Give what was written to the browser's console since the last call."""
    entries = driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium has no types here
    return [entry["message"] for entry in entries]


def wait_until(driver: Chrome, condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    WebDriverWait(driver, PATIENCE_S, poll_frequency=0.05).until(lambda _: condition())
