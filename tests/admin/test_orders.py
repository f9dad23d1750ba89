"""Orders of an operator over HTTP, and who may give them; `asgiws close` and `drain` are in test_commands.py."""

from __future__ import annotations

import pytest

from tests.admin.helpers import BEARER, TOKEN, Admin
from tests.raw import RawClient
from tests.server_process import Start

ECHO = "tests.apps:echo"
TCP = ("--admin", "127.0.0.1:0")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_connections_are_found_by_path_and_client(start: Start, workers: str) -> None:
    """Also those that are not among the largest."""
    process = start(ECHO, *TCP, "--workers", workers)
    admin = Admin(process)
    clients = [RawClient(process.port) for _ in range(40)]
    for number, client in enumerate(clients):
        client.open_websocket(f"/room/{number}")
    for query, count in (("path=/room/17", 1), ("path=/room/1*", 11), ("client=127.0.0.1", 40), ("client=10.0.0.1", 0)):
        rows = admin.ask(f"/connections?{query}").json()
        assert isinstance(rows, list)
        assert len(rows) == count, query
    assert b'"path": "/room/17"' in admin.ask("/connections?path=/room/17").body
    for client in clients:
        client.socket.close()


@pytest.mark.parametrize("target", ["/connections/close?percent=100", "/workers/1/drain"])
def test_orders_are_refused_without_the_token(start: Start, target: str) -> None:
    admin = Admin(start(ECHO, *TCP, "--admin-token", TOKEN))
    assert admin.ask(target, method="POST").status == 401
    assert admin.ask(target, "Authorization: Bearer wrong", method="POST").status == 401
    assert admin.ask("/connections").status == 401
    assert admin.ask("/connections", BEARER).status == 200


@pytest.mark.parametrize("target", ["/connections/close?percent=100", "/workers/1/drain"])
def test_orders_need_a_token_or_the_socket(start: Start, target: str) -> None:
    """Any process of the machine can reach the loopback address."""
    admin = Admin(start(ECHO, *TCP))
    assert admin.ask(target, method="POST").status == 403
    assert admin.ask(target).status == 405


@pytest.mark.parametrize("query", ["percent=0", "percent=5&percent=6", "room=1", "path=chat", "worker=x&code=1", ""])
def test_order_that_is_not_allowed_gets_400(start: Start, query: str) -> None:
    admin = Admin(start(ECHO, *TCP, "--admin-token", TOKEN))
    answer = admin.ask(f"/connections/close?{query}", BEARER, method="POST")
    assert (answer.status, b"allowed: " in answer.body) == (400, True)
