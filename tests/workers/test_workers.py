"""Workers under a supervisor: they share the load, and none is missed when it dies, hangs or has served enough."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.raw import RawClient, text
from tests.server_process import APPS, RunCommand, ServerProcess, Start, assert_no_traceback, assert_one_line
from tests.workers.crew import (
    FRAGILE,
    WHOAMI,
    WORKERS,
    ask,
    ask_until,
    get,
    lines_of,
    next_worker,
    open_socket,
    spread,
    start_with_dead_worker,
    start_without_successor,
    try_socket,
    wait_gone,
    workers_of_log,
)

HANGING = f"{WORKERS}:hanging"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for a thousand sockets in this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- what they serve


@pytest.mark.promise
@pytest.mark.slow
def test_connections_spread_evenly_over_the_workers(start: Start, many_files: None) -> None:
    """1,000 connections that stay open, on 4 workers: each has within 30 % of the mean."""
    process = start(WHOAMI, "--workers", "4")
    opened = [open_socket(process.port) for _ in range(1000)]
    counts = spread([pid for _, pid in opened])
    for client, _ in opened:
        client.socket.close()
    assert len(counts) == 4
    assert all(175 <= count <= 325 for count in counts.values()), counts


def test_worker_is_a_process_of_its_own_with_its_own_lifespan(start: Start) -> None:
    """Fresh interpreters: nothing of the supervisor's is in them, and the application starts in each (ASGI L1)."""
    process = start(WHOAMI, "--workers", "2")
    started = {int(process.wait_stdout("startup").split()[1]) for _ in range(2)}
    assert process.pid not in started
    assert started == set(workers_of_log(process.stderr))
    assert ask(process.port) in started
    assert lines_of(process, "Warning") == []


def test_one_worker_is_served_by_a_supervisor_too(start: Start) -> None:
    process = start(WHOAMI, "--workers", "1")
    assert ask(process.port) != process.pid


def test_workers_share_a_unix_socket_and_its_file_goes_with_the_server(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    process = start(WHOAMI, "--workers", "2", "--uds", str(path), "--uds-mode", "600")
    assert path.stat().st_mode & 0o777 == 0o600
    with RawClient.unix(str(path)) as client:
        assert get(client) in workers_of_log(process.stderr)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not path.exists()


def test_workers_have_the_options_of_the_command_line(start: Start) -> None:
    process = start(f"{APPS}:facts", "--workers", "2", "--root-path", "/api", "--header", "X-From: test")
    with RawClient(process.port) as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = client.read_answer()
    assert answer.header(b"x-from") == b"test"
    facts = answer.json()
    assert isinstance(facts, list)
    assert facts[:2] == ["/api", "/api/a"]


def test_several_addresses_are_served_by_every_worker(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    process = start(WHOAMI, "--workers", "2", "--bind", "127.0.0.1:0", "--bind", f"unix:{path}")
    line = lines_of(process, "listening on")[-1]
    port = int(line.split("http://127.0.0.1:")[1].partition(",")[0])
    assert f"unix:{path}" in line
    with RawClient(port) as tcp, RawClient.unix(str(path)) as unix:
        assert {get(tcp), get(unix)} <= set(workers_of_log(process.stderr))


def test_address_of_another_server_with_workers_is_not_shared(start: Start, run_command: RunCommand) -> None:
    """With SO_REUSEPORT the kernel would give both servers half of the connections."""
    process = start(WHOAMI, "--workers", "1")
    ended = run_command(WHOAMI, "--workers", "1", "--port", str(process.port))
    assert_one_line(ended, 1, f"cannot listen on 127.0.0.1 port {process.port}: Address already in use")


def test_inherited_socket_is_served_by_workers(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start(WHOAMI, "--workers", "2", "--fd", str(listener.fileno()), pass_fds=[listener.fileno()])
        assert ask(listener.getsockname()[1]) in workers_of_log(process.stderr)


def test_module_of_the_application_does_not_stand_in_for_one_of_the_standard_library(
    processes: list[ServerProcess], tmp_path: Path
) -> None:
    """A folder with a file `queue.py` is not unusual; a worker that looks there first would not start."""
    (tmp_path / "queue.py").write_text("raise RuntimeError('not that queue')\n")
    (tmp_path / "mine.py").write_text("from tests.workers.worker_apps import whoami as app\n")
    # As the command does, whose own folder is first on the path
    command = [sys.executable, "-P", "-m", "asgiws", "mine:app", "--workers", "1", "--port", "0"]
    process = ServerProcess(command, folder=tmp_path)
    processes.append(process)
    process.wait_ready()
    assert ask(process.port) != process.pid


# ---- those that end


@pytest.mark.promise
def test_dead_worker_is_replaced_and_the_others_go_on(start: Start) -> None:
    process = start(WHOAMI, "--workers", "2")
    first, second = workers_of_log(process.stderr)
    witness, pid = open_socket(process.port)
    victim = first if pid == second else second
    with witness:
        os.kill(victim, signal.SIGKILL)
        process.wait_stderr(rf"\(process {victim}\) has died: SIGKILL")
        successor = next_worker(process, 1 if victim == first else 2)
        assert successor not in (first, second)
        witness.send(text("still here"))
        assert witness.read_text() == "still here"
        assert {ask(process.port) for _ in range(40)} == {pid, successor}


@pytest.mark.promise
def test_worker_that_crashes_says_where(start: Start) -> None:
    """A fault in a C module ends a process without a traceback; faulthandler writes one."""
    process = start(HANGING, "--workers", "1")
    with RawClient(process.port) as client:
        client.send(b"GET /crash HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stderr("Fatal Python error: Segmentation fault")
        process.wait_stderr("string_at")
        process.wait_stderr("has died: SIGSEGV")
        next_worker(process)
        assert client.read_to_end() == b""
    assert ask(process.port)


@pytest.mark.promise
@pytest.mark.slow
def test_worker_that_hangs_is_ended_with_a_traceback_of_where_and_replaced(start: Start) -> None:
    process = start(HANGING, "--workers", "1", "--worker-timeout", "1.5")
    with RawClient(process.port) as client:
        client.send(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stderr("sent no heartbeat for 1.5 s")
        process.wait_stderr("in hang_here")
        process.wait_stderr("has died: SIGABRT")
        next_worker(process)
    assert ask(process.port)


@pytest.mark.slow
def test_supervisor_that_was_stopped_itself_does_not_take_its_workers_for_hung(start: Start) -> None:
    """As by Ctrl-Z: heartbeats that nobody read are not missing."""
    process = start(WHOAMI, "--workers", "1", "--worker-timeout", "1", "--keep-alive-timeout", "3")
    (pid,) = workers_of_log(process.stderr)
    process.signal(signal.SIGSTOP)
    # For longer than the timeout; the worker's own keep-alive timeout is the clock.
    with RawClient(process.port) as client:
        assert get(client) == pid
        assert client.read_to_end() == b""
    process.signal(signal.SIGCONT)
    process.signal(signal.SIGHUP)  # its end is a later tick than the one that would have ended the worker
    next_worker(process)
    assert lines_of(process, "heartbeat") == []


@pytest.mark.promise
@pytest.mark.parametrize(("app", "code", "line"), [
    (f"{APPS}:startup_fails", 3, "application startup failed: no database"),
    (f"{WORKERS}:missing", 2, "has no attribute 'missing'"),
    ("tests.runner.missing:app", 2, "module 'tests.runner.missing' was not found"),
])  # fmt: skip
def test_application_that_cannot_start_ends_the_server_and_says_it_once(
    run_command: RunCommand, app: str, code: int, line: str
) -> None:
    """The exit code is the one that a single process has."""
    ended = run_command(app, "--workers", "4", "--port", "0")
    assert ended.code == code
    assert len([seen for seen in ended.stderr if line in seen]) == 1, ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_the_first_startup_ends_the_server(start: Start, number: signal.Signals) -> None:
    """As a startup that waits for its database."""
    process = start(f"{APPS}:startup_hangs", "--workers", "2", wait_ready=False)
    process.wait_stdout("lifespan.startup")
    process.signal(number)
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout == ["lifespan.startup", "startup ended"]
    assert_no_traceback(process)


@pytest.mark.slow
def test_worker_that_cannot_start_later_is_tried_again_with_a_growing_pause(start: Start, tmp_path: Path) -> None:
    """A database that is away for a minute does not end the server, and is not asked without a pause."""
    order = tmp_path / "order"
    process, _, second = start_with_dead_worker(start, order, "worker 1 is started again in 0.5 s")
    process.wait_stderr("application startup failed: no database")
    process.wait_stderr("worker 1 is started again in 1 s")
    order.write_text("die")
    process.wait_stderr("did not start: SIGKILL")
    process.wait_stderr("worker 1 is started again in 2 s")
    # The slot without a worker gets no connections
    assert {ask(process.port) for _ in range(20)} == {second}
    order.unlink()
    successor = next_worker(process)
    assert ask_until(process.port, successor) == successor


@pytest.mark.slow
def test_worker_that_dies_soon_after_its_start_is_tried_again_with_a_growing_pause(
    start: Start, tmp_path: Path
) -> None:
    """That it was ready for a moment does not begin the pauses anew."""
    order = tmp_path / "order"
    process = start(FRAGILE, "--workers", "1", environ={"FRAGILE": str(order)})
    order.write_text("die soon")
    os.kill(workers_of_log(process.stderr)[0], signal.SIGKILL)
    for pause in ("0.5", "1", "2"):
        process.wait_stderr("has died")
        process.wait_stderr(f"worker 1 is started again in {pause} s")
    assert len(lines_of(process, "worker 1 is process")) == 3


# ---- those that have served enough


@pytest.mark.promise
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_worker_is_replaced_after_its_requests_and_none_is_lost(start: Start, kind: str) -> None:
    """WebSockets count like requests. The successor is ready before the worker drains."""
    process = start(WHOAMI, "--workers", "1", "--max-requests", "5")
    first = workers_of_log(process.stderr)[0]
    seen = {first}
    while len(seen) < 3:
        if kind == "http":
            seen.add(ask(process.port))
        elif pid := try_socket(process.port):
            seen.add(pid)
    process.wait_stderr(r"served \d+ requests and WebSockets, limit 5 \(--max-requests\)")
    process.wait_stderr(rf"process {first}\) has exited: exit code 0")


@pytest.mark.slow
def test_worker_is_replaced_after_its_time(start: Start) -> None:
    process = start(WHOAMI, "--workers", "1", "--worker-lifetime", "1")
    client, _ = open_socket(process.port)
    with client:
        process.wait_stderr("served for its time")
        assert client.read_close() == (1012, "service restart")
    next_worker(process)


def test_worker_is_replaced_when_it_has_grown(start: Start) -> None:
    process = start(WHOAMI, "--workers", "1", "--worker-memory", "100MiB")
    before = workers_of_log(process.stderr)[0]
    with RawClient(process.port) as client:
        for _ in range(4):
            get(client, "/leak")
        process.wait_stderr(r"takes \d+ bytes, limit 104857600 \(--worker-memory\)")
        assert next_worker(process) != before


def test_worker_that_takes_too_much_when_it_is_fresh_is_replaced_when_it_has_grown(start: Start) -> None:
    """Not as soon as it serves, and its successor too, for ever."""
    process = start(WHOAMI, "--workers", "1", "--worker-memory", "1MiB")
    before = workers_of_log(process.stderr)[0]
    assert len(lines_of(process, r"takes \d+ bytes, limit 1048576 \(--worker-memory\): that is too low")) == 1
    with RawClient(process.port) as client:
        for _ in range(4):
            get(client, "/leak")
        assert next_worker(process) != before


@pytest.mark.slow
def test_worker_whose_start_takes_longer_than_its_time_is_replaced(start: Start, tmp_path: Path) -> None:
    """The time is counted from when it serves."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    environ = {"GATE": str(gate)}
    process = start(f"{APPS}:gated", "--workers", "1", "--worker-lifetime", "0.01ms", environ=environ, wait_ready=False)
    process.wait_stdout("lifespan.startup")
    gate.write_text("go")
    process.wait_stderr("served for its time")
    gate.write_text("go")
    next_worker(process)


def test_worker_without_a_successor_that_starts_goes_on(start: Start, tmp_path: Path) -> None:
    process, pid = start_without_successor(start, tmp_path / "order", "has no successor that starts, so it goes on")
    assert ask(process.port) == pid


def test_sigterm_to_a_worker_alone_asks_for_a_successor(start: Start) -> None:
    """As `kill` by an operator who looks at one process."""
    process = start(WHOAMI, "--workers", "1")
    before = workers_of_log(process.stderr)[0]
    client, pid = open_socket(process.port)
    with client:
        os.kill(pid, signal.SIGTERM)
        assert next_worker(process) != before
        client.be_closed(1012, "service restart")
    process.wait_stderr(rf"process {before}\) has exited: exit code 0")


# ---- the end of all


@pytest.mark.promise
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_every_worker_in_order(start: Start, number: signal.Signals) -> None:
    process = start(WHOAMI, "--workers", "2", "--graceful-timeout", "600")
    clients = [open_socket(process.port)[0] for _ in range(8)]
    process.signal(number)
    for client in clients:
        with client:
            client.be_closed(1012, "service restart")
    assert process.wait() == 0
    process.rest_of_stdout()
    assert len([line for line in process.stdout if line.startswith("shutdown")]) == 2
    assert_no_traceback(process)


def test_second_signal_ends_workers_at_once(start: Start) -> None:
    process = start(f"{APPS}:deaf", "--workers", "2", "--graceful-timeout", "600")
    with RawClient(process.port) as client:
        client.open_websocket()
        process.wait_stdout("deaf to websocket")
        process.signal(signal.SIGTERM)
        assert client.read_close() == (1012, "service restart")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert_no_traceback(process)


def test_interrupt_of_a_terminal_reaches_all_processes_and_ends_them_in_order(start: Start) -> None:
    """Ctrl-C is SIGINT to the whole process group: for a worker that is no second signal."""
    process = start(WHOAMI, "--workers", "2", "--graceful-timeout", "600")
    client, _ = open_socket(process.port)
    with client:
        for pid in (*workers_of_log(process.stderr), process.pid):
            os.kill(pid, signal.SIGINT)
        client.be_closed(1012, "service restart")
    assert process.wait() == 0
    process.rest_of_stdout()
    assert len([line for line in process.stdout if line.startswith("shutdown")]) == 2
    assert_no_traceback(process)


def test_sigterm_to_all_processes_ends_them_in_order(start: Start) -> None:
    """systemd's KillMode=control-group."""
    process = start(WHOAMI, "--workers", "2", "--graceful-timeout", "600")
    client, _ = open_socket(process.port)
    with client:
        for pid in (process.pid, *workers_of_log(process.stderr)):
            os.kill(pid, signal.SIGTERM)
        client.be_closed(1012, "service restart")
    assert process.wait() == 0
    assert_no_traceback(process)


def test_workers_end_when_their_supervisor_is_killed(start: Start) -> None:
    """Gracefully: it is no fault of their clients."""
    process = start(WHOAMI, "--workers", "2")
    pids = workers_of_log(process.stderr)
    client, _ = open_socket(process.port)
    with client:
        process.signal(signal.SIGKILL)
        client.be_closed(1012, "service restart")
    for pid in pids:
        wait_gone(pid)


@pytest.mark.slow
def test_worker_whose_application_keeps_the_loop_does_not_keep_the_server(start: Start) -> None:
    process = start(HANGING, "--workers", "1", "--graceful-timeout", "0.1", "--worker-timeout", "0")
    with RawClient(process.port) as client:
        client.send(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stdout("hanging")
        process.signal(signal.SIGTERM)
        assert process.wait() == 1
    assert lines_of(process, "stopped") != []


# ---- one more, one less


def test_ttin_adds_a_worker_and_ttou_takes_one_away(start: Start) -> None:
    process = start(WHOAMI, "--workers", "1")
    first = workers_of_log(process.stderr)[0]
    process.signal(signal.SIGTTIN)
    process.wait_stderr("one worker more, 2 now")
    second = next_worker(process, 2)
    assert {ask(process.port) for _ in range(60)} == {first, second}
    process.signal(signal.SIGTTOU)
    process.wait_stderr("one worker less, 1 now")
    wait_gone(second)
    assert {ask(process.port) for _ in range(20)} == {first}
    process.signal(signal.SIGTTOU)
    process.wait_stderr("the last worker is not removed")
    assert ask(process.port) == first


def test_ttou_takes_away_a_worker_that_does_not_serve_before_one_that_does(start: Start, tmp_path: Path) -> None:
    order = tmp_path / "order"
    process, first, second = start_with_dead_worker(start, order, "worker 1 is started again in 1 s")
    process.signal(signal.SIGTTOU)
    process.wait_stderr("one worker less, 1 now")
    assert {ask(process.port) for _ in range(20)} == {second}
    process.signal(signal.SIGTTIN)
    order.unlink()
    assert next_worker(process, 3) not in (first, second)
