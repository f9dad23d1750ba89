"""The demonstration's page in a real browser, headless Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from websockets.sync.client import connect

from asgiws.demo.app import Demo, Event, Receive, Scope, Send
from tests import PATIENCE_S
from tests.browser import closing_tabs, start_chromium, take_console, wait_until
from tests.workers.crew import restart

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.server_process import Start

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


class Tab:
    """One tab that shows the page."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        driver.switch_to.new_window("tab")
        self.handle = driver.current_window_handle
        driver.get(url)
        self.wait_until(lambda: self.text("state") == "connected" and "You joined" in self.text("chat-log"))

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds, asked with this tab in front."""
        self.driver.switch_to.window(self.handle)
        wait_until(self.driver, condition)

    def text(self, name: str) -> str:
        self.driver.switch_to.window(self.handle)
        return self.driver.find_element(By.ID, name).text

    def write(self, name: str, text: str) -> None:
        self.driver.switch_to.window(self.handle)
        field = self.driver.find_element(By.ID, name)
        field.clear()
        field.send_keys(text)

    def click(self, name: str) -> None:
        self.driver.switch_to.window(self.handle)
        self.driver.find_element(By.ID, name).click()

    def say(self, text: str) -> None:
        self.write("chat-text", text)
        self.click("chat-send")

    def said(self, selector: str = "#chat-log .said p") -> list[str]:
        """Return the texts of the messages in the chat."""
        self.driver.switch_to.window(self.handle)
        return [message.text for message in self.driver.find_elements(By.CSS_SELECTOR, selector)]


OpenTab = Callable[[str], Tab]


@pytest.fixture
def open_tab(chromium: Chrome) -> Iterator[OpenTab]:
    """Open tabs, and close them before the server stops."""
    with closing_tabs(chromium):
        yield lambda url: Tab(chromium, url)


def test_two_tabs_on_different_workers_chat_with_each_other(start: Start, open_tab: OpenTab) -> None:
    server = start("asgiws.demo:app", "--workers", "2")
    tabs: dict[str, Tab] = {}
    count = 0
    while len(tabs) < 2:
        tab = open_tab(f"http://127.0.0.1:{server.port}")
        tabs.setdefault(tab.text("chat-process"), tab)
        count += 1
    ada, bob = tabs.values()

    ada.say("hello from the first")
    bob.wait_until(lambda: bob.said() == ["hello from the first"])
    bob.say("hello from the second")
    ada.wait_until(lambda: ada.said() == ["hello from the first", "hello from the second"])

    assert ada.said("#chat-log .mine p") == ["hello from the first"]
    ada.wait_until(lambda: ada.text("chat-online") == f"{count} are here")
    bob.wait_until(lambda: bob.text("chat-online") == f"{count} are here")
    assert take_console(ada.driver) == []


@pytest.mark.promise
def test_two_tabs_chat_with_each_other(serve: Serve, open_tab: OpenTab) -> None:
    url = serve(Demo()).url
    ada, bob = open_tab(url), open_tab(url)

    ada.say("hello from the first")
    bob.wait_until(lambda: bob.said() == ["hello from the first"])
    bob.say("hello from the second")
    ada.wait_until(lambda: ada.said() == ["hello from the first", "hello from the second"])

    assert ada.said("#chat-log .mine p") == ["hello from the first"]
    ada.wait_until(lambda: ada.text("chat-online") == "2 are here")


def test_a_new_name_is_told_to_the_other_tab(serve: Serve, open_tab: OpenTab) -> None:
    url = serve(Demo()).url
    ada, bob = open_tab(url), open_tab(url)

    ada.write("chat-name", "Ada\n")

    bob.wait_until(lambda: "Ada joined" in bob.text("chat-log"))


def test_html_in_a_message_is_shown_as_text(serve: Serve, open_tab: OpenTab) -> None:
    tab = open_tab(serve(Demo()).url)
    markup = "<img src=x onerror=alert(1)><b>bold</b>"

    tab.say(markup)
    tab.wait_until(lambda: tab.said() == [markup])

    assert not tab.driver.find_elements(By.CSS_SELECTOR, ".said p > *")


@pytest.mark.parametrize(("binary", "shown"), [(False, "“round and back”"), (True, "14 bytes")])
def test_echo_shows_a_round_trip_time(serve: Serve, open_tab: OpenTab, binary: bool, shown: str) -> None:
    tab = open_tab(serve(Demo()).url)
    if binary:
        tab.click("echo-binary")

    tab.write("echo-text", "round and back")
    tab.click("echo-send")

    pattern = re.escape(shown) + r" came back after \d+\.\d ms"
    tab.wait_until(lambda: re.fullmatch(pattern, tab.text("echo-answer")))
    assert re.fullmatch(r"\d+(\.\d)? ms", tab.text("echo-time"))


def test_clock_ticks(serve: Serve, open_tab: OpenTab) -> None:
    tab = open_tab(serve(Demo()).url)

    tab.wait_until(lambda: re.fullmatch(r"\d\d:\d\d:\d\d", tab.text("clock-time")))
    first = tab.text("clock-time")
    tab.wait_until(lambda: tab.text("clock-time") != first)


def test_what_was_negotiated_is_shown(serve: Serve, open_tab: OpenTab) -> None:
    server = serve(Demo())
    tab = open_tab(server.url)

    tab.wait_until(lambda: tab.text("info"))

    shown = tab.text("info").split("\n")
    rows = dict(zip(shown[::2], shown[1::2], strict=True))
    assert rows["Subprotocol"] == "superchat"
    assert rows["Extensions"].startswith("permessage-deflate")
    assert rows["HTTP"] == "1.1"
    assert re.fullmatch(r"3\.0, spec_version 2\.\d", rows["ASGI"])
    assert rows["Host"] == f"127.0.0.1:{server.port}"
    assert rows["Origin"] == server.url


def test_page_writes_nothing_to_the_console(serve: Serve, open_tab: OpenTab) -> None:
    tab = open_tab(serve(Demo()).url)
    tab.say("hello")
    tab.click("echo-send")
    tab.wait_until(lambda: tab.said() == ["hello"])
    tab.wait_until(lambda: "came back" in tab.text("echo-answer"))
    tab.wait_until(lambda: tab.text("info"))
    tab.wait_until(lambda: tab.text("clock-time") != "--:--:--")

    assert take_console(tab.driver) == []


def test_page_connects_again_after_a_restart_of_the_server_and_says_so(serve: Serve, open_tab: OpenTab) -> None:
    server = serve(Demo())
    tab = open_tab(server.url)

    server.stop()
    pattern = r"The server is restarting \(1012\), trying again in \d\.\d s"
    tab.wait_until(lambda: re.search(pattern, tab.text("chat-log")))
    assert "trying again in" in tab.text("state")

    serve(Demo(), port=server.port)
    tab.wait_until(lambda: "Connected again" in tab.text("chat-log"))
    tab.say("back")
    tab.wait_until(lambda: tab.said() == ["back"])
    tab.wait_until(lambda: tab.text("state") == "connected")


def test_chat_misses_nothing_through_a_rolling_restart_and_shows_it_to_who_joins(
    start: Start, open_tab: OpenTab
) -> None:
    """A message is said before the tabs have come back; nothing is shown twice."""
    server = start("asgiws.demo:app", "--workers", "2", "--drain-spread", "0")
    url = f"http://127.0.0.1:{server.port}"
    ada, bob = open_tab(url), open_tab(url)
    ada.say("before")
    bob.wait_until(lambda: bob.said() == ["before"])

    restart(server, 2)
    with connect(f"ws://127.0.0.1:{server.port}/ws/chat", proxy=None) as client:
        client.send(json.dumps({"type": "join", "name": "Eve"}))
        client.send(json.dumps({"type": "message", "text": "meanwhile"}))
        while "meanwhile" not in str(client.recv(PATIENCE_S)):
            pass
    for tab in (ada, bob):
        tab.wait_until(lambda tab=tab: "Connected again" in tab.text("chat-log"))  # type: ignore[misc]
    ada.say("after")

    for tab in (ada, bob, open_tab(url)):
        tab.wait_until(lambda tab=tab: tab.said()[-1:] == ["after"])  # type: ignore[misc]
        assert tab.said() == ["before", "meanwhile", "after"]


def test_page_comes_back_when_the_server_asks_it_to(serve: Serve, open_tab: OpenTab) -> None:
    demo = Demo()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_close() -> Event:
            event = await receive()
            if "leave me" in (event.get("text") or ""):
                await send({"type": "websocket.close", "code": 1013, "reason": "full, retry-after=7"})
            return event

        await demo(scope, receive_or_close, send)

    tab = open_tab(serve(app).url)
    tab.say("leave me")
    tab.wait_until(lambda: re.search(r"\(1013\), trying again in [78]\.\d s", tab.text("chat-log")))
