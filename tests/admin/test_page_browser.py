"""The live view in a real browser, headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.admin.helpers import BEARER, TOKEN, Admin, outer_address, wait_until
from tests.browser import closing_tabs, start_chromium, take_console
from tests.browser import wait_until as wait_in_browser
from tests.raw import RawClient, text
from tests.server_process import ServerProcess, Start

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ECHO = "tests.apps:echo"
TCP = ("--admin", "127.0.0.1:0")
EVERYWHERE = ("--admin", "0.0.0.0:0")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


class Page:
    """A tab that shows the live view."""

    def __init__(self, driver: Chrome, port: int, host: str) -> None:
        self.driver = driver
        driver.switch_to.new_window("tab")
        driver.get(f"http://{host}:{port}/")

    def wait_for(self, name: str, pattern: str) -> None:
        """Wait until the whole text of an element matches."""
        wait_in_browser(self.driver, lambda: re.fullmatch(pattern, self.text(name), re.S))

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).text

    def click(self, name: str) -> None:
        self.driver.find_element(By.ID, name).click()

    def write(self, name: str, words: str) -> None:
        field = self.driver.find_element(By.ID, name)
        field.clear()
        field.send_keys(words)

    def close_buttons(self) -> list[str]:
        return [button.text for button in self.driver.find_elements(By.CSS_SELECTOR, "#connections button")]


class OpenPage(Protocol):
    """The fixture `open_page`: opens a tab on an admin address."""

    def __call__(self, port: int, host: str = "127.0.0.1") -> Page: ...


@pytest.fixture
def open_page(chromium: Chrome) -> Iterator[OpenPage]:
    """Open tabs, and close them before the server stops."""
    with closing_tabs(chromium):
        yield lambda port, host="127.0.0.1": Page(chromium, port, host)


def open_one(process: ServerProcess, path: str = "/room") -> RawClient:
    client = RawClient(process.port)
    client.open_websocket(path)
    return client


def echo(client: RawClient, message: str) -> None:
    client.send(text(message))
    assert client.read_text() == message


@pytest.mark.parametrize("workers", ["0", "2"])
def test_numbers_change_under_traffic(start: Start, open_page: OpenPage, workers: str) -> None:
    process = start(ECHO, *TCP, "--workers", workers)
    page = open_page(Admin(process).port)
    page.wait_for("state", "ready")
    page.wait_for("websockets", "0")

    with open_one(process) as client:
        page.wait_for("websockets", "1")
        while page.text("messages") in ("–", "0 / 0"):
            echo(client, "hello")
        page.wait_for("messages", "0 / 0")
        assert page.text("connections").split()[1] == "/room"
    page.wait_for("websockets", "0")
    page.wait_for("closes", "client 1006 1")


def test_connection_is_closed_from_the_page_with_a_code(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP, "--admin-token", TOKEN)
    admin = Admin(process)
    with open_one(process) as client:
        page = open_page(admin.port)
        page.wait_for("state", "waiting for the token")
        page.write("token", TOKEN + "\n")
        page.wait_for("websockets", "1")
        (row,) = admin.status(BEARER)["connections"]

        page.driver.find_element(By.CSS_SELECTOR, "#connections button").click()
        assert page.text("close-id") == row["id"]
        page.write("close-code", "4010")
        page.click("close-send")

        assert client.read_close() == (4010, "closed by the operator")
        page.wait_for("close-answer", f"closed {row['id']} with 4010")
    page.wait_for("closes", "admin 4xxx 1")
    page.wait_for("connections", "")


def test_connections_are_filtered_by_path(start: Start, open_page: OpenPage) -> None:
    """The server looks for them: the status itself has only the largest."""
    process = start(ECHO, *TCP, "--workers", "2")
    page = open_page(Admin(process).port)
    with open_one(process, "/room"), open_one(process, "/chat/7"):
        page.wait_for("websockets", "2")
        page.write("filter-path", "/chat/*")
        wait_in_browser(page.driver, lambda: "/room" not in page.text("connections"))
        wait_in_browser(page.driver, lambda: "/chat/7" in page.text("connections"))
        page.write("filter-path", "chat")
        page.wait_for("filter-note", "path 'chat' was given, allowed: .*")


def test_many_are_closed_from_the_page(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP, "--admin-token", TOKEN)
    page = open_page(Admin(process).port)
    page.wait_for("state", "waiting for the token")
    page.write("token", TOKEN + "\n")
    with open_one(process, "/room") as room, open_one(process, "/chat") as chat:
        page.wait_for("websockets", "2")
        page.write("filter-path", "/chat")
        page.driver.find_element(By.CSS_SELECTOR, "#many summary").click()
        assert page.text("many-which") == "of WebSockets with path /chat"
        page.write("many-percent", "100")
        page.write("many-over", "0")
        page.click("many-send")
        page.wait_for("close-answer", "closing 1 connection with 1012 over 0 s")
        assert chat.read_close() == (1012, "closed by the operator")
        echo(room, "still here")


def test_worker_is_drained_from_the_page(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP, "--admin-token", TOKEN, "--workers", "1")
    admin = Admin(process)
    page = open_page(admin.port)
    page.wait_for("state", "waiting for the token")
    page.write("token", TOKEN + "\n")
    page.wait_for("state", "ready")
    (worker,) = admin.status(BEARER)["workers"]
    page.driver.find_element(By.CSS_SELECTOR, "#workers button").click()
    page.driver.switch_to.alert.accept()
    page.wait_for("close-answer", f"draining process {worker['pid']}")
    page.wait_for("restarts", "restarts: recycled 1")


def test_plots_show_what_was_before_the_page(start: Start, open_page: OpenPage) -> None:
    """A page that is opened after an incident draws it."""
    process = start(ECHO, *TCP)
    admin = Admin(process)
    with open_one(process):
        pass
    page = open_page(admin.port)
    plot = page.driver.find_element(By.CSS_SELECTOR, "#plot-closes svg")
    wait_in_browser(page.driver, lambda: "latest" in (plot.get_attribute("aria-label") or ""))
    label = plot.get_attribute("aria-label") or ""
    assert re.match(r"WebSockets closed per second in the last 15 minutes: highest 0\.\d, latest client", label)
    assert plot.find_elements(By.CSS_SELECTOR, "path.bars")[0].get_attribute("d")


def test_wrong_token_shows_nothing_and_may_be_corrected(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP, "--admin-token", TOKEN)
    admin = Admin(process)
    page = open_page(admin.port)
    page.wait_for("state", "waiting for the token")

    page.write("token", "a guess of somebody\n")
    page.wait_for("token-note", "wrong token")
    assert page.text("websockets") == "–"
    assert admin.samples()["asgiws_admin_denials_total", ()] == 1

    page.write("token", TOKEN + "\n")
    page.wait_for("state", "ready")


def test_without_token_and_socket_nothing_can_be_closed(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP)
    page = open_page(Admin(process).port)
    with open_one(process):
        page.wait_for("websockets", "1")
        assert page.close_buttons() == []


def test_page_from_elsewhere_says_why_it_shows_nothing_without_a_token(start: Start, open_page: OpenPage) -> None:
    """Also where a container's port is published: to the server, the browser is elsewhere."""
    page = open_page(Admin(start(ECHO, *EVERYWHERE)).port, outer_address())
    page.wait_for(
        "reason", "seeing connections is not allowed from there: set --admin-token, or use --admin unix:/path"
    )
    page.wait_for("state", "not connected, trying again in .*")
    assert page.text("websockets") == "–"
    assert not page.driver.find_element(By.ID, "token-card").is_displayed()


def test_page_from_elsewhere_shows_connections_to_who_has_the_token(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *EVERYWHERE, environ={"ASGIWS_ADMIN_TOKEN": TOKEN})
    with open_one(process):
        page = open_page(Admin(process).port, outer_address())
        page.wait_for("state", "waiting for the token")
        assert page.driver.find_element(By.ID, "token-card").is_displayed()

        page.write("token", TOKEN + "\n")
        page.wait_for("websockets", "1")
        wait_in_browser(page.driver, lambda: "/room" in page.text("connections"))
        assert not page.driver.find_element(By.ID, "reason-card").is_displayed()


def test_reason_goes_when_the_server_takes_the_page(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *EVERYWHERE)
    port = Admin(process).port
    page = open_page(port, outer_address())
    page.wait_for("reason", "seeing connections .*")
    process.terminate()
    process.wait()

    start(ECHO, "--admin", f"0.0.0.0:{port}", environ={"ASGIWS_ADMIN_TOKEN": TOKEN})
    page.wait_for("state", "waiting for the token")
    page.wait_for("reason", "")


def test_path_of_a_client_is_shown_as_text(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP)
    page = open_page(Admin(process).port)
    with open_one(process, "/<img/src=x/onerror=alert(1)>"):
        page.wait_for("websockets", "1")
        wait_in_browser(page.driver, lambda: "/<img/src=x/onerror=alert(1)>" in page.text("connections"))
        assert not page.driver.find_elements(By.CSS_SELECTOR, "#connections img")


def test_page_writes_nothing_to_the_console(start: Start, open_page: OpenPage) -> None:
    """Nor does its policy keep anything of it from working."""
    process = start(ECHO, *TCP)
    page = open_page(Admin(process).port)
    with open_one(process):
        page.wait_for("websockets", "1")
    assert take_console(page.driver) == []


def test_topics_are_shown_where_they_are_used(start: Start, open_page: OpenPage) -> None:
    process = start("tests.topics.chat:app", *TCP)
    page = open_page(Admin(process).port)
    page.wait_for("state", "ready")
    assert not page.driver.find_element(By.ID, "topics-card").is_displayed()
    with RawClient(process.port) as client:
        client.open_websocket("/rooms/1")
        page.wait_for("topics-more", "1 topics, 1 subscriptions, skipped 0, gaps 0, relay lag –")
        assert page.driver.find_element(By.ID, "topics-card").is_displayed()


def test_page_comes_back_after_a_restart(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP)
    port = Admin(process).port
    page = open_page(port)
    page.wait_for("state", "ready")
    process.terminate()
    process.wait()
    page.wait_for("state", "not connected, trying again in .*")

    again = start(ECHO, "--admin", f"127.0.0.1:{port}")
    page.wait_for("state", "ready")
    with open_one(again):
        page.wait_for("websockets", "1")


def test_draining_is_shown(start: Start, open_page: OpenPage) -> None:
    process = start(ECHO, *TCP, "--drain-delay", "60")
    admin = Admin(process)
    page = open_page(admin.port)
    page.wait_for("state", "ready")
    process.terminate()
    wait_until(lambda: not admin.is_ready())
    page.wait_for("state", "draining")
