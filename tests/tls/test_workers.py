"""TLS with workers: what a rolling restart does to encrypted connections."""

from __future__ import annotations

import signal

import pytest

from tests.server_process import Start, assert_no_traceback
from tests.tls.certificates import Authority, Issued, TLSClient
from tests.workers.crew import WHOAMI, restart
from tests.workers.load import Load

RESTARTS = 3


@pytest.mark.slow
def test_no_encrypted_client_sees_a_failure_across_rolling_restarts(
    start: Start, authority: Authority, server: Issued
) -> None:
    """Handshakes that are under way are finished, and each connection ends with a close_notify."""
    process = start(WHOAMI, "--workers", "2", *server.flags)
    context = authority.client_context()
    clients = Load(process.port, lambda port: TLSClient(port, context))
    clients.begin(clients.websocket, clients.websocket, clients.request, clients.kept_alive)
    try:
        for _ in range(RESTARTS):
            restart(process, 2)
    finally:
        clients.end()
    clients.assert_restarts_unnoticed(RESTARTS)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback(process)
