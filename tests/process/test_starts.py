"""Workers whose start takes long, or for ever: they keep neither a stop nor a restart nor the other workers waiting."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.process.crew import lines_of, workers_of_log
from tests.process.helpers import ServerProcess, Start

SLOW = "tests.process.slow_import:app"


def begin_restart(start: Start, order: Path, told: str, *options: str) -> ServerProcess:
    """Start two workers, and a rolling restart whose first successor does not end its import; `told` is its order."""
    process = start(SLOW, "--workers", "2", *options, environ={"SLOW": str(order)})
    order.write_text(told)
    process.signal(signal.SIGHUP)
    process.wait_stdout("importing")
    return process


# ---- a stop meanwhile


def test_stop_does_not_wait_for_an_import(start: Start, tmp_path: Path) -> None:
    """A process that imports has nothing to end in order."""
    process = begin_restart(start, tmp_path / "order", "hang", "--graceful-timeout", "600")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert lines_of(process, "is killed") == []


def test_stop_of_the_first_start_does_not_wait_for_the_import(start: Start, tmp_path: Path) -> None:
    order = tmp_path / "order"
    order.write_text("hang")
    process = start(
        SLOW, "--workers", "2", "--graceful-timeout", "600", environ={"SLOW": str(order)}, wait_ready=False
    )  # fmt: skip
    process.wait_stdout("importing")
    process.signal(signal.SIGINT)
    assert process.wait() == 0


def test_second_signal_ends_an_import_whatever_it_does(start: Start, tmp_path: Path) -> None:
    """SIGKILL is not ignored."""
    process = begin_restart(start, tmp_path / "order", "deaf", "--graceful-timeout", "600")
    process.terminate()
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert lines_of(process, "is killed") == []


def test_sigterm_to_all_processes_ends_the_successor_that_a_worker_asked_for(start: Start, tmp_path: Path) -> None:
    """A service manager's SIGTERM may reach a worker before the supervisor: then it asks for a successor."""
    order = tmp_path / "order"
    process = start(SLOW, "--workers", "1", "--graceful-timeout", "600", environ={"SLOW": str(order)})
    order.write_text("hang")
    os.kill(workers_of_log(process.stderr)[0], signal.SIGTERM)
    process.wait_stdout("importing")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
