"""How the tests of frameworks call a server, and what they count in its process."""

from __future__ import annotations

import asyncio
import gc

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests import PATIENCE_S
from tests.conftest import RunningServer


def ask(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S)


def talk(server: RunningServer, path: str) -> ClientConnection:
    return connect(server.ws_url + path, proxy=None)


def ended(client: ClientConnection) -> tuple[int, str] | None:
    """Read to the end of a connection; gives code and reason of the server's Close, None without one."""
    try:
        while True:
            client.recv(PATIENCE_S)
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else None


def cancelled_futures() -> int:
    """Count the futures of this process that were cancelled and are still kept."""
    gc.collect()
    return sum(isinstance(each, asyncio.Future) and each.cancelled() for each in gc.get_objects())
