"""Servers with workers, and clients that ask which worker answers and wait until another one does."""

from __future__ import annotations

import os
import re
import select
import signal
from collections import Counter
from pathlib import Path

from tests import PATIENCE_S
from tests.raw import RawClient
from tests.server_process import ServerProcess, Start

WORKERS = "tests.workers.worker_apps"
FRAGILE = f"{WORKERS}:fragile"
"""Starts as the file that the environment's FRAGILE names tells it."""
WHOAMI = f"{WORKERS}:whoami"
"""Answers with the number of its process."""


def get(client: RawClient, path: str = "/") -> int:
    """The number of the process that answers."""
    client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return int(client.read_answer().body)


def ask(port: int) -> int:
    """The number of the process that answers a new connection."""
    with RawClient(port) as client:
        return get(client)


def ask_until(port: int, pid: int) -> int:
    """Ask until a worker answers that is expected to; connections of a slot without a worker wait for one."""
    while (answered := ask(port)) != pid:
        pass
    return answered


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


def workers_of_log(lines: list[str]) -> list[int]:
    """The process of each worker that lines of a log tell of."""
    return [int(line.rpartition(" ")[2]) for line in lines if " is process " in line]


def restart(process: ServerProcess, count: int) -> list[int]:
    """Send SIGHUP, and wait until every worker has a successor; gives them."""
    process.signal(signal.SIGHUP)
    pids = [next_worker(process, number) for number in range(1, count + 1)]
    process.wait_stderr("old draining")
    return pids


def start_without_successor(start: Start, order: Path, told: str) -> tuple[ServerProcess, int]:
    """Start a worker that has served its only request, and whose successors fail while `order` exists.

    Gives it with the worker's process, once the server has told what `told` matches.
    """
    process = start(FRAGILE, "--workers", "1", "--max-requests", "1", environ={"FRAGILE": str(order)})
    pid = workers_of_log(process.stderr)[0]
    order.write_text("fail")
    assert ask(process.port) == pid
    process.wait_stderr(told)
    return process, pid


def start_with_dead_worker(start: Start, order: Path, told: str) -> tuple[ServerProcess, int, int]:
    """Start two workers and kill the first, whose successors fail while `order` exists.

    Gives the server and the workers' processes, once it has told what `told` matches.
    """
    process = start(FRAGILE, "--workers", "2", environ={"FRAGILE": str(order)})
    first, second = workers_of_log(process.stderr)
    order.write_text("fail")
    os.kill(first, signal.SIGKILL)
    process.wait_stderr(told)
    return process, first, second
