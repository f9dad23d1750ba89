"""The example application as compose.yaml runs it: two servers of two workers, nginx, and who watches them.

Its clients are those of the `websockets` library. They come back when a reload sends them away, and what the metrics of
both servers add up to afterwards is what the clients did.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect

from tests import PATIENCE_S
from tests.browser import start_chromium, take_console, wait_until
from tests.deploy.conftest import Site, StartSite
from tests.deploy.fronts import ADDRESSES, DEPLOY
from tests.server_process import ROOT, Start, clean_environ

VIEWERS = 12
GOODBYE = Close(1012, "service restart")
OPTIONS = ("--app-dir", str(DEPLOY / "example"), "--workers", "2", "--drain-spread", "0.5")


@pytest.fixture
def kind() -> str:
    """The proxy that compose.yaml has."""
    return "nginx"


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Closes what the viewers have opened."""
    with ExitStack() as stack:
        yield stack


class Viewer:
    """Somebody in the room, who comes back when sent away, and keeps count."""

    def __init__(self, url: str, counts: Counter[str], sockets: ExitStack) -> None:
        self._url = url
        self._counts = counts
        self._sockets = sockets
        self.socket = self._open()

    def _open(self) -> ClientConnection:
        self._counts["opened"] += 1
        return self._sockets.enter_context(connect(self._url, proxy=None))

    def say(self, text: str) -> None:
        """Say something, and wait until it comes back: through another connection, if this one is closed."""
        while True:
            try:
                self.socket.send(text)
                while json.loads(self.socket.recv(PATIENCE_S)).get("text") != text:
                    pass
            except ConnectionClosed as closed:
                self._counts["sent away" if closed.rcvd == GOODBYE else f"lost: {closed}"] += 1
                self.socket = self._open()
            else:
                self._counts["said"] += 1
                return


def metrics(site: Site) -> Counter[str]:
    """What both servers say in Prometheus' format, added up by name and labels."""
    sums: Counter[str] = Counter()
    for name in ADDRESSES:
        with urlopen(f"http://{site.admin(name)}/metrics", timeout=PATIENCE_S) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    sums[" ".join([sample.name, *sample.labels.values()])] += int(sample.value)
    return sums


def wait_until_said(site: Site, expected: dict[str, int | range]) -> Counter[str]:
    """Ask until the metrics say what is expected, a number or one of a range: workers report once a second."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        said = metrics(site)
        if all(said[name] in (value if isinstance(value, range) else [value]) for name, value in expected.items()):
            return said
        assert time.monotonic() < until_s, {name: (said[name], value) for name, value in expected.items()}


def asgiws(*arguments: str) -> str:
    command = [sys.executable, "-m", "asgiws", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_numbers_are_right_through_a_reload(site: StartSite, sockets: ExitStack) -> None:
    running = site(*OPTIONS, app="app:app")
    counts: Counter[str] = Counter()
    viewers = [Viewer(f"ws://127.0.0.1:{running.front.port}/room", counts, sockets) for _ in range(VIEWERS)]
    for round_number in range(3):
        for number, viewer in enumerate(viewers):
            viewer.say(f"{number} says {round_number}")
    assert counts["said"] == 3 * VIEWERS
    before = wait_until_said(
        running, {"asgiws_connections websocket": VIEWERS, "asgiws_websocket_messages_total in": counts["said"]}
    )

    server = running.servers["app-1"]
    server.signal(signal.SIGHUP)
    server.wait_stderr("rolling restart of 2 workers")
    round_number, until_s = 3, time.monotonic() + PATIENCE_S
    while not any("rolling restart done" in line for line in (*server.stderr, *server.rest_of_stderr())):
        for number, viewer in enumerate(viewers):
            viewer.say(f"{number} says {round_number}")
        round_number += 1
        assert time.monotonic() < until_s, "the reload does not end"
    # The old workers may still send theirs away.
    wait_until_said(running, {"asgiws_workers serving": 4, "asgiws_workers stopping": 0})
    for number, viewer in enumerate(viewers):
        viewer.say(f"{number} says goodbye")

    assert counts["sent away"] >= VIEWERS // 2
    assert set(counts) == {"opened", "said", "sent away"}
    after = wait_until_said(running, {
        "asgiws_connections websocket": VIEWERS,
        "asgiws_websocket_handshakes_total accepted": counts["opened"],
        "asgiws_websocket_closes_total server 1012": counts["sent away"],
        "asgiws_worker_restarts_total reload": 2,
        "asgiws_ready": 2,
        # What a viewer said while it was sent away, it said again elsewhere.
        "asgiws_websocket_messages_total in": range(counts["said"], counts["said"] + counts["sent away"] + 1),
    })  # fmt: skip
    # Less than before: no counter, through no restart.
    assert [
        name for name in before if re.search(r"_(total|bucket|count|sum)\b", name) and after[name] < before[name]
    ] == []

    views = [asgiws("top", running.admin(name), "--once") for name in ADDRESSES]
    opened = [int(number) for view in views for number in re.findall(r"^open +(\d+) WebSockets", view, re.MULTILINE)]
    assert sum(opened) == VIEWERS
    for name in ADDRESSES:
        asgiws("health", running.admin(name))
        with urlopen(f"http://{running.admin(name)}/", timeout=PATIENCE_S) as page:
            assert "<html" in page.read().decode()


@pytest.mark.slow
def test_both_workers_of_a_server_have_one_room(start: Start, sockets: ExitStack) -> None:
    server = start("app:app", *OPTIONS)
    viewers: dict[object, ClientConnection] = {}
    while len(viewers) < 2:
        viewer = sockets.enter_context(connect(f"ws://127.0.0.1:{server.port}/room", proxy=None))
        viewers.setdefault(hear(viewer, "welcome")["process"], viewer)
    for process, viewer in viewers.items():
        viewer.send(f"hello from {process}")
        for other in viewers.values():
            said = hear(other, "said")
            assert (said["text"], said["process"]) == (f"hello from {process}", process)
    boards: set[object] = set()
    while boards != set(viewers):
        boards.add(hear(viewer, "board")["process"])


def hear(viewer: ClientConnection, kind: str) -> dict[str, object]:
    """Return the next event of a kind."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        event: dict[str, object] = json.loads(viewer.recv(PATIENCE_S))
        if event["type"] == kind:
            return event
    raise AssertionError(f"no {kind}")


@pytest.mark.slow
def test_page_and_health_are_served_through_nginx(site: StartSite) -> None:
    running = site(*OPTIONS, app="app:app")
    address = f"http://127.0.0.1:{running.front.port}"
    with urlopen(f"{address}/", timeout=PATIENCE_S) as page:
        assert "<h1>A room</h1>" in page.read().decode()
    with urlopen(f"{address}/health", timeout=PATIENCE_S) as health:
        assert json.load(health)["ok"] is True


@pytest.mark.browser
@pytest.mark.slow
def test_page_comes_back_after_a_reload(site: StartSite, tmp_path: Path) -> None:
    """In a browser: what is said comes back, both workers are shown, and after a reload others are."""
    running = site(*OPTIONS, app="app:app")
    with start_chromium(tmp_path / "chromium") as driver:
        driver.get(f"http://127.0.0.1:{running.front.port}/")

        def shown(name: str) -> str:
            return driver.find_element(By.ID, name).text

        wait_until(driver, lambda: shown("state") == "open" and shown("process").isdecimal())
        before = shown("process")
        driver.find_element(By.TAG_NAME, "input").send_keys("hello" + Keys.ENTER)
        wait_until(driver, lambda: f"hello (process {before} of " in driver.find_element(By.TAG_NAME, "ol").text)
        wait_until(driver, lambda: len(shown("processes").split(", ")) == 2 and shown("viewers") == "1")
        assert before in shown("processes").split(", ")
        for server in running.servers.values():
            server.signal(signal.SIGHUP)
        wait_until(driver, lambda: shown("state") == "open" and shown("process") != before)
        assert take_console(driver) == []
