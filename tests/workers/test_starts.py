"""Workers whose start takes long, or for ever: they keep neither a stop nor a restart nor the other workers waiting."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.server_process import APPS, RunCommand, ServerProcess, Start
from tests.workers.crew import ask, ask_until, lines_of, next_worker, wait_gone, workers_of_log

SLOW = "tests.workers.slow_import:app"
HANGS_AFTER_S = "8"
"""A start that does not hang takes less on a busy machine, too."""


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
    assert lines_of(process, "killing it") == []


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
    assert lines_of(process, "killing it") == []


def test_sigterm_to_all_processes_ends_the_successor_that_a_worker_asked_for(start: Start, tmp_path: Path) -> None:
    """A service manager's SIGTERM may reach a worker before the supervisor: then it asks for a successor."""
    order = tmp_path / "order"
    process = start(SLOW, "--workers", "1", "--graceful-timeout", "600", environ={"SLOW": str(order)})
    order.write_text("hang")
    os.kill(workers_of_log(process.stderr)[0], signal.SIGTERM)
    process.wait_stdout("importing")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


# ---- a start that hangs


def test_restart_is_begun_anew_by_a_hangup(start: Start, tmp_path: Path) -> None:
    """Code that hangs was repaired: the successor that has the old one is not waited for."""
    order = tmp_path / "order"
    process = begin_restart(start, order, "hang")
    successor = int(process.stdout[-1].split()[1])
    order.unlink()
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart starts over")
    wait_gone(successor)
    first, second = next_worker(process, 1), next_worker(process, 2)
    process.wait_stderr("rolling restart done")
    assert {ask_until(process.port, pid) for pid in (first, second)} == {first, second}
    assert lines_of(process, "given up|did not start") == []


def test_dead_worker_is_replaced_by_a_hangup_though_its_successor_hangs(start: Start, tmp_path: Path) -> None:
    """Its replacement is the one that hangs: the next one has the code of now."""
    order = tmp_path / "order"
    process = begin_restart(start, order, "hang")
    first, _ = workers_of_log(process.stderr)
    os.kill(first, signal.SIGKILL)
    wait_gone(first)
    order.unlink()
    process.signal(signal.SIGHUP)
    assert next_worker(process, 1) != first
    process.wait_stderr("rolling restart done")


def test_hangup_ends_a_start_that_replaces_a_dead_worker(start: Start, tmp_path: Path) -> None:
    order = tmp_path / "order"
    process = start(SLOW, "--workers", "2", environ={"SLOW": str(order)})
    order.write_text("hang")
    os.kill(workers_of_log(process.stderr)[1], signal.SIGKILL)
    process.wait_stdout("importing")
    order.unlink()
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart done")
    assert lines_of(process, "given up|did not start") == []


def test_hangup_during_the_first_start_waits_for_its_end(start: Start, tmp_path: Path) -> None:
    """It neither ends the start nor gets lost."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = start(f"{APPS}:gated", "--workers", "1", environ={"GATE": str(gate)}, wait_ready=False)
    process.wait_stdout("lifespan.startup")
    process.signal(signal.SIGHUP)
    gate.write_text("go")
    process.wait_ready()
    process.wait_stderr("rolling restart of 1 worker")
    gate.write_text("go")
    process.wait_stderr("rolling restart done")


@pytest.mark.slow
def test_restart_whose_successor_hangs_is_given_up_after_a_time(start: Start, tmp_path: Path) -> None:
    """What it says shows where it hung, and the workers before it go on."""
    process = begin_restart(start, tmp_path / "order", "hang", "--worker-start-timeout", HANGS_AFTER_S)
    before = set(workers_of_log(process.stderr))
    process.wait_stderr(rf"worker 1 \(.*\) did not start within {HANGS_AFTER_S} s \(--worker-start-timeout\)")
    process.wait_stderr("slow_import.py")
    process.wait_stderr("rolling restart given up")
    assert lines_of(process, "did not start: ") == []
    assert {ask(process.port) for _ in range(10)} <= before


@pytest.mark.slow
def test_dead_worker_whose_successor_hangs_is_replaced_after_a_time(start: Start, tmp_path: Path) -> None:
    """As one whose successor fails: the slot's connections go to the others, and a pause comes before the next."""
    order = tmp_path / "order"
    process = start(SLOW, "--workers", "2", "--worker-start-timeout", HANGS_AFTER_S, environ={"SLOW": str(order)})
    first, second = workers_of_log(process.stderr)
    order.write_text("hang")
    os.kill(first, signal.SIGKILL)
    process.wait_stderr(f"did not start within {HANGS_AFTER_S} s")
    process.wait_stderr("worker 1 is started again in")
    assert {ask(process.port) for _ in range(20)} == {second}
    order.unlink()
    assert next_worker(process) != first


@pytest.mark.slow
@pytest.mark.parametrize("app", [SLOW, f"{APPS}:startup_hangs", f"{APPS}:startup_immortal"])
def test_first_start_that_hangs_ends_the_server(run_command: RunCommand, tmp_path: Path, app: str) -> None:
    """In the import and in the lifespan: exit code 1, as for everything that cannot start without saying why."""
    order = tmp_path / "order"
    order.write_text("hang")
    options = ("--workers", "2", "--port", "0", "--worker-start-timeout", "2")
    ended = run_command(app, *options, environ={"SLOW": str(order)})
    assert ended.code == 1
    assert [line for line in ended.stderr if "worker 1" in line and "did not start within 2 s" in line] != []
    assert [line for line in ended.stderr if "listening on" in line] == []
