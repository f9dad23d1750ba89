"""Clients that ask which worker answers, and wait until another one does."""

from __future__ import annotations

import os
import re
import select
from collections import Counter

from tests.conftest import PATIENCE_S
from tests.process.helpers import ServerProcess
from tests.raw import RawClient

WORKERS = "tests.process.worker_apps"


def get(client: RawClient, path: str = "/") -> int:
    """The number of the process that answers."""
    client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return int(client.read_answer().body)


def ask(port: int) -> int:
    """The number of the process that answers a new connection."""
    with RawClient(port) as client:
        return get(client)


def open_socket(port: int) -> tuple[RawClient, int]:
    """An open WebSocket, and the number of the process that serves it."""
    client = RawClient(port)
    client.open_websocket()
    return client, int(client.read_text())


def try_socket(port: int) -> int | None:
    """The process that serves a WebSocket; None when that was one that drains, and closed it at once."""
    with RawClient(port) as client:
        client.open_websocket()
        opcode, payload = client.read_frame()
        if opcode == 0x88:
            assert payload[:2] == (1012).to_bytes(2, "big")
            return None
        return int(payload)


def next_worker(process: ServerProcess, number: int = 1) -> int:
    """The process of the next worker that begins to serve in a slot."""
    line = process.wait_stderr(rf"worker {number} is process \d+")
    return int(line.rpartition(" ")[2])


def wait_gone(pid: int) -> None:
    """Wait until a process that is not a child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], PATIENCE_S)[0], f"process {pid} did not end"
    finally:
        os.close(descriptor)


def spread(pids: list[int]) -> Counter[int]:
    """How many each process has."""
    return Counter(pids)


def lines_of(process: ServerProcess, pattern: str) -> list[str]:
    """The lines of standard error so far that match."""
    process.rest_of_stderr()
    return [line for line in process.stderr if re.search(pattern, line)]
