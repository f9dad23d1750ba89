"""What an idle connection costs, counted in a real process with 10,000 of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asgiws.server.memory import CONNECTION_BYTES
from tests.raw import RawClient, text
from tests.server_process import ServerProcess, Start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("many_files")]

COUNT = 10_000
# The same objects are larger in Python 3.13: 7.7 to 8.1 KiB on asyncio, where 3.11 takes 6.9 to 7.3.
MOST_BYTES = CONNECTION_BYTES if sys.version_info < (3, 13) else CONNECTION_BYTES * 17 // 16
BROWSER_OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def proportional_set_bytes(process: ServerProcess) -> int:
    """Resident memory, with what is shared divided among those who share it."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024


def cost_of_one(start: Start, *headers: str) -> tuple[float, float]:
    """Bytes for each idle connection, before and after it has echoed one message."""
    process = start("tests.apps:echo", "--no-access-log", "--ping-interval", "0")
    clients: list[RawClient] = []
    try:
        for _ in range(50):
            clients.append(RawClient(process.port))
            clients[-1].open_websocket("/", *headers)
        before = proportional_set_bytes(process)
        measured = []
        for _ in range(COUNT):
            client = RawClient(process.port)
            client.open_websocket("/", *headers)
            clients.append(client)
            measured.append(client)
        idle = proportional_set_bytes(process)
        for client in measured:
            client.send(text("hello"))
            assert client.read_text() == "hello"
        after = proportional_set_bytes(process)
        return (idle - before) / COUNT, (after - before) / COUNT
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.promise
def test_idle_connections_cost_less_than_8_kib_and_compression_nothing(start: Start) -> None:
    """10,000 connections that negotiated compression and 10,000 that did not: within 5 %, also after an echo."""
    plain, plain_after = cost_of_one(start)
    compressed, compressed_after = cost_of_one(start, BROWSER_OFFER)
    assert max(plain, plain_after, compressed, compressed_after) < MOST_BYTES
    assert compressed < plain * 1.05
    assert compressed_after < plain_after * 1.05
