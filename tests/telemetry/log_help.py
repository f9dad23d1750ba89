"""What the tests of logs share: a request, and all lines of a server."""

from __future__ import annotations

import signal

from tests.raw import RawClient
from tests.server_process import ServerProcess

APP = "tests.telemetry.log_app:app"


def get(port: int, target: str = "/") -> int:
    with RawClient(port) as client:
        client.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status = client.read_answer().status
        client.read_to_end()
        return status


def stopped_lines(process: ServerProcess) -> list[str]:
    """Stop a server, and give all that it wrote to standard error."""
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    process.rest_of_stderr()
    return process.stderr
