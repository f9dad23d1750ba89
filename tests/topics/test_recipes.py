"""The applications of asgiws/topics/README.md, with two workers; and topics under uvicorn."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import PATIENCE_S
from tests.docs import ROOT
from tests.raw import RawClient, handshake, text
from tests.server_process import ServerProcess, Start

PAGE = (ROOT / "asgiws/topics/README.md").read_text()
CHAT, NOTIFY, PRICES, HISTORY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CLIENTS = 8
"""Enough that each of two workers has some; what is asserted holds for any share."""


@pytest.fixture
def opened() -> Iterator[list[RawClient]]:
    """Clients that are closed with the test."""
    clients: list[RawClient] = []
    yield clients
    for client in clients:
        client.socket.close()


def serve_recipe(start: Start, folder: Path, recipe: str) -> ServerProcess:
    (folder / "recipe.py").write_text(recipe)
    return start("recipe:app", "--app-dir", str(folder), "--workers", "2", "--ping-interval", "0")


def open_clients(server: ServerProcess, path: str, opened: list[RawClient]) -> list[RawClient]:
    clients = [RawClient(server.port) for _ in range(CLIENTS)]
    opened += clients
    for client in clients:
        client.open_websocket(path)
    return clients


def read_up_to(client: RawClient, last: str) -> None:
    while client.read_text() != last:
        pass


def test_chat_of_the_page(start: Start, tmp_path: Path, opened: list[RawClient]) -> None:
    clients = open_clients(serve_recipe(start, tmp_path, CHAT), "/rooms/1", opened)
    for number, client in enumerate(clients):
        client.send(text(f"from {number}"))
        read_up_to(client, f"from {number}")  # it has subscribed, whoever has not yet
    clients[0].send(text("to all"))
    for client in clients:
        read_up_to(client, "to all")


def test_users_are_notified_from_a_route(start: Start, tmp_path: Path, opened: list[RawClient]) -> None:
    server = serve_recipe(start, tmp_path, NOTIFY)
    ada = open_clients(server, "/me?session=secret%20of%20ada", opened)
    (bob, *_) = open_clients(server, "/me?session=secret%20of%20bob", opened)

    def ship(number: int, user: str) -> None:
        with RawClient(server.port) as client:
            client.send(b"POST /orders/%d/ship?user=%s HTTP/1.1\r\nHost: a\r\n\r\n" % (number, user.encode()))
            assert client.read_answer().json() == {"shipped": number}

    heard = threading.Event()

    def ship_on() -> None:
        """Ship until all have heard: a subscription may be confirmed after the handshake was answered."""
        while not heard.is_set():
            ship(1, "ada")
            ship(2, "bob")

    shipping = threading.Thread(target=ship_on)
    shipping.start()
    try:
        assert {client.read_text() for client in ada} == {"order 1 is on its way"}
        assert bob.read_text() == "order 2 is on its way"
    finally:
        heard.set()
        shipping.join(PATIENCE_S)
    with RawClient(server.port) as stranger:
        stranger.send(handshake("/me?session=guessed"))
        assert stranger.read_answer().status == 403


def test_one_worker_publishes_prices_to_the_clients_of_all(
    start: Start, tmp_path: Path, opened: list[RawClient]
) -> None:
    for client in open_clients(serve_recipe(start, tmp_path, PRICES), "/prices", opened):
        first = int(client.read_text())
        assert [int(client.read_text()) for _ in range(3)] == [first + 1, first + 2, first + 3]


def test_clients_that_come_back_get_what_they_missed(start: Start, tmp_path: Path, opened: list[RawClient]) -> None:
    """From whichever worker they meet."""
    server = serve_recipe(start, tmp_path, HISTORY)
    first, *others = open_clients(server, "/rooms/1?since=", opened)
    for number in range(4):
        first.send(text(str(number)))
    got = [json.loads(first.read_text()) for _ in range(4)]
    assert [each["data"] for each in got] == ["0", "1", "2", "3"]
    for client in (*others, *open_clients(server, "/rooms/1?since=", opened)):
        assert [json.loads(client.read_text()) for _ in range(4)] == got
    for client in open_clients(server, f"/rooms/1?since={got[1]['at']}", opened):
        assert [json.loads(client.read_text()) for _ in range(2)] == got[2:]
    for client in open_clients(server, "/rooms/1?since=lost:1", opened):
        assert [json.loads(client.read_text()) for _ in range(4)] == got
        assert client.read_text() == "some messages are not kept any more"


def test_uvicorn_serves_topics_within_its_process(processes: list[ServerProcess], opened: list[RawClient]) -> None:
    server = ServerProcess([sys.executable, "-m", "uvicorn", "tests.topics.chat:app", "--port", "0"])
    processes.append(server)
    line = server.wait_stderr(r"Uvicorn running on http://127\.0\.0\.1:\d+")
    for _ in range(2):
        client = RawClient(int(re.findall(r":(\d+)", line)[-1]))
        opened.append(client)
        client.open_websocket("/rooms/1")
        assert client.read_text() == "subscribed"
    for number, client in enumerate(opened):
        client.send(text(f"from {number}"))
        assert [one.read_text() for one in opened] == [f"from {number}"] * 2
    server.rest_of_stderr()
    warnings = [line for line in server.stderr if "topics reach only the connections of this process" in line]
    assert len(warnings) == 1, server.stderr
