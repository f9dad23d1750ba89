"""Workers on sockets that systemd has opened, with the real `systemd-socket-activate`."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.raw import RawClient
from tests.runner.test_systemd import Activate, activate
from tests.server_process import free_port
from tests.workers.crew import WORKERS, ask, get, wait_gone

__all__ = ["activate"]


def test_activated_sockets_are_served_by_every_worker(activate: Activate, tmp_path: Path) -> None:
    """All accept from the same sockets, also the connection that woke the service, and a restart keeps them."""
    port, path = free_port(), str(tmp_path / "app.sock")
    process = activate([f"127.0.0.1:{port}", path], f"{WORKERS}:whoami", "--workers", "2")
    with RawClient(port) as first:
        pids = {get(first)}
        process.wait_ready()
        assert process.address == f"http://127.0.0.1:{port}"
        while len(pids) < 2:
            pids.add(ask(port))
        with RawClient.unix(path) as unix:
            assert get(unix) in pids
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart done")
    for pid in pids:
        wait_gone(pid)
    assert ask(port) not in pids
    process.terminate()
    assert process.wait() == 0
