"""`--drain-notice` in real processes: a rolling restart, a stop of all workers, and a process that is recycled.

The notice is ten minutes, so what ends a WebSocket here is its application, and what it sends to say goodbye arrives.
"""

from __future__ import annotations

import signal

from tests.server_process import Start
from tests.workers.crew import WORKERS, open_socket

NOTICE = ("--drain-notice", "600", "--graceful-timeout", "1200")
APP = f"{WORKERS}:says_goodbye"


def test_rolling_restart_and_stop_give_notice(start: Start) -> None:
    process = start(APP, "--workers", "1", *NOTICE)
    old, old_pid = open_socket(process.port)
    process.signal(signal.SIGHUP)
    old.be_closed(4000, "moved")
    new, new_pid = open_socket(process.port)
    assert new_pid != old_pid
    process.signal(signal.SIGTERM)
    new.be_closed(4000, "moved")
    assert process.wait() == 0
    old.socket.close()
    new.socket.close()


def test_process_that_is_recycled_gives_notice(start: Start) -> None:
    process = start(APP, "--max-requests", "1", *NOTICE)
    client, _ = open_socket(process.port)
    client.be_closed(4000, "moved")
    assert process.wait() == 0
    process.wait_stderr("the application learns of the end of 1 WebSocket, 600 s before")
    client.socket.close()
