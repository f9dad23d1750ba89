"""TLS with workers: what a rolling restart does to encrypted connections."""

from __future__ import annotations

import signal

import pytest

from tests.process.crew import next_worker
from tests.process.helpers import Start
from tests.process.load import Load
from tests.process.test_signals import assert_no_traceback
from tests.process.test_workers import WHOAMI
from tests.tls.certificates import Authority, Issued, TLSClient

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
            process.signal(signal.SIGHUP)
            for number in (1, 2):
                next_worker(process, number)
            process.wait_stderr("rolling restart done")
    finally:
        clients.end()
    assert clients.failures == []
    # All of it happened, or the test says nothing.
    assert clients.outcomes["echoed"] > RESTARTS
    assert clients.outcomes["answered"] > RESTARTS
    assert clients.outcomes["told to close"] >= 1
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback(process)
