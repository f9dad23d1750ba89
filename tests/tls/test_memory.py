"""What encryption costs a connection in memory."""

from __future__ import annotations

import pytest

from asgiws.server.memory import CONNECTION_BYTES, TLS_BYTES
from tests.limits.memory import SLACK_BYTES, Memory
from tests.raw import frame, text
from tests.server_process import ServerProcess, Start
from tests.tls.certificates import Authority, Issued, TLSClient

pytestmark = pytest.mark.slow

COUNT = 300
# An idle connection with TLS: measured 13 to 19 KiB, against 5 to 6 without.
IDLE_BYTES = 3 * CONNECTION_BYTES


@pytest.fixture
def process(start: Start, authority: Authority, server: Issued) -> ServerProcess:
    process = start("tests.limits.apps:app", "--no-access-log", *server.flags)
    exchange(process, authority).socket.close()
    return process


def exchange(process: ServerProcess, authority: Authority, size: int = 262144) -> TLSClient:
    """Open a WebSocket, and send one large message and a small one."""
    client = TLSClient(process.port, authority.client_context())
    client.open_websocket()
    client.send(frame(2, b"x" * size))
    assert client.read_text() == str(size)
    client.send(text("x"))
    assert client.read_text() == "1"
    return client


@pytest.mark.parametrize(("size", "most_bytes"), [(1000, IDLE_BYTES), (262144, CONNECTION_BYTES + TLS_BYTES)])
def test_idle_connection_costs_what_its_largest_message_left(
    process: ServerProcess, authority: Authority, size: int, most_bytes: int
) -> None:
    memory = Memory(process)
    clients = [exchange(process, authority, size) for _ in range(COUNT)]
    assert memory.growth() <= COUNT * most_bytes + SLACK_BYTES
    for client in clients:
        client.socket.close()
