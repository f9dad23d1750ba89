"""The figures of asgiws/workers/README.md: `python -m tests.workers.figures` measures and prints them."""

from __future__ import annotations

import resource
import select
import signal
import time
from collections import Counter

from tests.server_process import ServerProcess, module_command
from tests.workers.crew import WORKERS, next_worker, open_socket
from tests.workers.load import Load

_RESTARTS = 5
_WEBSOCKETS = 1000
_SPREAD_S = 10


def serve(*arguments: str) -> ServerProcess:
    """Start a server and wait until it listens."""
    process = ServerProcess(module_command([f"{WORKERS}:whoami", "--port", "0", "--no-access-log", *arguments]))
    process.wait_ready()
    return process


def measure_restarts() -> None:
    """Restart two workers under load."""
    process = serve("--workers", "2")
    load = Load(process.port)
    load.begin(*[load.websocket] * 4, load.request, load.kept_alive)
    seconds = []
    for _ in range(_RESTARTS):
        began_s = time.monotonic()
        process.signal(signal.SIGHUP)
        for number in (1, 2):
            next_worker(process, number)
        process.wait_stderr("old draining")
        seconds.append(time.monotonic() - began_s)
    load.end()
    process.signal(signal.SIGTERM)
    process.wait()
    print(f"{_RESTARTS} rolling restarts of 2 workers, {min(seconds):.1f} to {max(seconds):.1f} s each")  # noqa: T201 - what it is for
    print(dict(load.outcomes), "failures:", len(load.failures), load.failures[:3])  # noqa: T201 - what it is for


def measure_drain() -> None:
    """Stop a server with many WebSockets, and count how many are closed in each second."""
    process = serve("--drain-spread", str(_SPREAD_S), "--graceful-timeout", "30")
    clients = {client.socket: client for client, _ in (open_socket(process.port) for _ in range(_WEBSOCKETS))}
    process.signal(signal.SIGTERM)
    process.wait_stderr("stopping")
    began_s = time.monotonic()
    closed: Counter[int] = Counter()
    while clients:
        for ready in select.select(list(clients), [], [])[0]:
            clients.pop(ready).socket.close()
            closed[int(time.monotonic() - began_s)] += 1
    process.wait()
    print(f"{_WEBSOCKETS} WebSockets closed over {_SPREAD_S} s, in each second: {sorted(closed.items())}")  # noqa: T201 - what it is for


def main() -> None:
    """Measure both."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    measure_restarts()
    measure_drain()


if __name__ == "__main__":
    main()
