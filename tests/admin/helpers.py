"""A client of the admin address of a server process."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import PATIENCE_S
from tests.raw import Answer, RawClient
from tests.server_process import ServerProcess

TOKEN = "0123456789abcdef-the-token"
BEARER = f"Authorization: Bearer {TOKEN}"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and sorted labels."""


class Admin:
    """The admin address of a process, as its log says it."""

    def __init__(self, process: ServerProcess) -> None:
        line = next((line for line in process.stderr if "admin address is" in line), None)
        line = line or process.wait_stderr("admin address is")
        found = re.search(r"admin address is (?:unix:(\S+)|http://\S+:(\d+))", line)
        assert found is not None
        self.path = found[1]
        self.port = int(found[2] or 0)

    def connect(self) -> RawClient:
        return RawClient.unix(self.path) if self.path else RawClient(self.port)

    def ask(self, target: str, *fields: str, method: str = "GET", host: str = "localhost") -> Answer:
        """Send one request."""
        with self.connect() as client:
            lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]
            client.send("\r\n".join(lines).encode("latin-1"))
            return client.read_answer(head_only=method == "HEAD")

    def status(self, *fields: str) -> dict[str, Any]:
        answer = self.ask("/status", *fields)
        assert answer.status == 200, answer.body
        found = answer.json()
        assert isinstance(found, dict)
        return found

    def samples(self) -> Samples:
        answer = self.ask("/metrics")
        assert answer.status == 200, answer.body
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }

    def close(self, identity: str, query: str = "", *fields: str) -> Answer:
        return self.ask(f"/connections/{identity}/close{query}", *fields, method="POST")

    def is_ready(self) -> bool:
        return self.ask("/readyz").status == 200


def wait_until(condition: Callable[[], object]) -> None:
    """Ask again and again: each answer takes a connection and a turn of the server's loop."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, "what was waited for did not happen"


def outer_address() -> str:
    """Give an address of this machine that others reach it by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, only chooses the way
        except OSError:
            pytest.skip("this machine has no IPv4 address but the loopback's")
        return str(probe.getsockname()[0])


def open_one(process: ServerProcess, admin: Admin, *fields: str) -> tuple[RawClient, str]:
    """Open a WebSocket; gives it with its id, once the server has told of it."""
    client = RawClient(process.port)
    client.open_websocket("/room")
    wait_until(lambda: admin.status(*fields)["connections"])
    return client, str(admin.status(*fields)["connections"][0]["id"])
