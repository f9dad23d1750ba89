"""Workers whose operator does things at the wrong moment, and applications that make it hard for their supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.raw import RawClient
from tests.server_process import APPS, RunCommand, ServerProcess, Start
from tests.workers.crew import (
    FRAGILE,
    WHOAMI,
    WORKERS,
    ask,
    get,
    lines_of,
    next_worker,
    open_socket,
    start_with_dead_worker,
    start_without_successor,
    workers_of_log,
)

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


# ---- orders that cross


def test_worker_that_was_taken_away_ends_before_the_server(start: Start) -> None:
    """SIGTERM while it still drains: the server waits for it, and a second signal ends it too."""
    process = start(WHOAMI, "--workers", "2", "--graceful-timeout", "600", "--close-timeout", "600")
    second = workers_of_log(process.stderr)[1]
    client, pid = open_socket(process.port)
    while pid != second:
        client.socket.close()
        client, pid = open_socket(process.port)
    with client:
        process.signal(signal.SIGTTOU)
        assert client.read_close() == (1012, "service restart")
        process.terminate()
        process.signal(signal.SIGTERM)
        process.wait()  # until all processes have closed their output


def test_worker_that_is_taken_away_during_a_restart_does_not_fail_it(start: Start) -> None:
    process = start(WHOAMI, "--workers", "2")
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart of 2 workers")
    process.signal(signal.SIGTTOU)
    process.wait_stderr("rolling restart (done|given up)")
    assert lines_of(process, "given up") == []


def test_worker_that_is_added_during_a_restart_has_the_new_options(start: Start, tmp_path: Path) -> None:
    options = tmp_path / "shop.toml"
    options.write_text('header = ["X-From: before"]\n')
    process = start(WHOAMI, "--workers", "1", "--config", str(options))
    options.write_text('header = ["X-From: after"]\n')
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart of 1 worker")
    process.signal(signal.SIGTTIN)
    process.wait_stderr("one worker more, 2 now")
    process.wait_stderr("rolling restart done")
    found = [re.search(r"worker (\d+) is process (\d+)", line) for line in process.stderr]
    now = {match[1]: int(match[2]) for match in found if match is not None}
    answers: dict[int, bytes | None] = {}
    # A worker that is about to leave may answer once more.
    while not set(now.values()) <= answers.keys():
        with RawClient(process.port) as client:
            client.send(GET)
            answer = client.read_answer()
            answers[int(answer.body)] = answer.header(b"x-from")
    assert {answers[pid] for pid in now.values()} == {b"after"}


def test_sigterm_to_all_processes_during_the_import_is_a_stop_like_another(start: Start, tmp_path: Path) -> None:
    """As `systemctl stop` of a service that is still starting."""
    (tmp_path / "slow.py").write_text("import threading\nprint('importing', flush=True)\nthreading.Event().wait()\n")
    process = start("slow:app", "--app-dir", str(tmp_path), "--workers", "1", wait_ready=False)
    process.wait_stdout("importing")
    process.signal(signal.SIGTERM)
    process.wait_stderr("stopping 1 worker")
    # The supervisor has ended the worker too.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for worker in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(worker), signal.SIGTERM)
    assert process.wait() == 0


# ---- a start that fails


def test_first_worker_that_is_killed_in_its_startup_ends_the_server(run_command: RunCommand, tmp_path: Path) -> None:
    """As by a crash in C: a server without a worker does not say that it listens."""
    order = tmp_path / "order"
    order.write_text("die")
    ended = run_command(FRAGILE, "--workers", "2", "--port", "0", environ={"FRAGILE": str(order)})
    assert ended.code == 1
    assert [line for line in ended.stderr if "did not start: SIGKILL" in line] != []
    assert [line for line in ended.stderr if "listening on" in line] == []


def test_worker_that_has_served_enough_asks_again_for_a_successor(start: Start, tmp_path: Path) -> None:
    """A worker that leaks is not kept for ever because one attempt failed."""
    order = tmp_path / "order"
    process, pid = start_without_successor(start, order, "has no successor that starts, so it goes on")
    order.unlink()
    assert next_worker(process) != pid


def test_worker_that_waits_for_a_successor_is_replaced_when_it_dies(start: Start, tmp_path: Path) -> None:
    """At once, and not when the pause before the next attempt is over."""
    order = tmp_path / "order"
    process, pid = start_without_successor(start, order, "is started again in 1 s")
    order.unlink()
    os.kill(pid, signal.SIGKILL)
    assert next_worker(process) != pid
    assert ask(process.port) != pid


def test_start_that_fails_is_not_told_as_the_end_of_the_supervisor(run_command: RunCommand) -> None:
    """A worker that ends by itself closes its channel; nobody else has gone."""
    ended = run_command(f"{APPS}:startup_fails", "--workers", "1", "--port", "0")
    assert ended.code == 3
    assert [line for line in ended.stderr if "the supervisor has exited" in line] == []


# ---- what workers are given


def test_options_may_be_large(start: Start, tmp_path: Path) -> None:
    """The networks of a cloud, 450 KB of them: more than a socket between two processes takes at once."""
    networks = [f"10.{high}.{low}.0/24" for high in range(100) for low in range(250)]
    options = tmp_path / "cloud.toml"
    options.write_text(f"forwarded_allow_ips = {json.dumps(networks)}\n")
    process = start(WHOAMI, "--workers", "1", "--config", str(options))
    assert ask(process.port) == workers_of_log(process.stderr)[0]


def test_programs_that_the_application_starts_have_no_part_in_the_sockets(start: Start) -> None:
    """Neither in the listening ones, on which nobody would answer, nor in the channel; also while it is imported."""
    process = start(f"{WORKERS}:make_sockets_of_a_program", "--factory", "--workers", "1")
    with RawClient(process.port) as client:
        client.send(GET)
        assert client.read_answer().json() == []


def test_programs_that_the_application_starts_take_signals(start: Start) -> None:
    """A worker leaves SIGINT, SIGHUP and SIGUSR1 to its supervisor; what it starts is not to inherit that."""
    process = start(f"{WORKERS}:make_signals_of_a_program", "--factory", "--workers", "1")
    with RawClient(process.port) as client:
        client.send(GET)
        assert client.read_answer().json() == []


@pytest.mark.slow
def test_worker_that_lives_is_spared_by_a_short_timeout(start: Start) -> None:
    """Heartbeats come more often than the timeout; the keep-alive timeout is the clock."""
    process = start(WHOAMI, "--workers", "4", "--worker-timeout", "0.6", "--keep-alive-timeout", "3")
    with RawClient(process.port) as client:
        get(client)
        assert client.read_to_end() == b""
    assert lines_of(process, "heartbeat") == []


# ---- what they write


def test_workers_write_whole_lines_of_json(start: Start) -> None:
    """Several processes share standard error: no line stands in another one, up to PIPE_BUF (pipe(7))."""
    process = start(WHOAMI, "--workers", "2", "--log-format", "json", wait_ready=False)
    port = int(process.wait_stderr("listening on").partition("127.0.0.1:")[2].split()[0])
    targets = {f"/{number}{'x' * 1000}" for number in range(200)}

    def work(mine: list[str]) -> None:
        for target in mine:
            with RawClient(port) as client:
                get(client, target)

    threads = [threading.Thread(target=work, args=(sorted(targets)[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    process.rest_of_stderr()
    lines = [json.loads(line) for line in process.stderr]
    assert len([line for line in lines if line.get("path", "").strip("/x").isdecimal()]) == len(targets)


# ---- what a process is started with


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_signal_does_not_end_a_process_that_still_imports(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """As of a program that rotates logs or renews certificates; the default action is the end."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "slow.py").write_text(
        "print('importing', flush=True)\n"
        f"open({str(gate)!r}).read()\n"
        "from tests.runner.apps import facts as app\n"
    )  # fmt: skip
    process = start("slow:app", "--app-dir", str(tmp_path), wait_ready=False)
    process.wait_stdout("importing")
    process.signal(number)
    gate.write_text("go on")
    process.wait_ready()


@pytest.mark.parametrize("options", [[], ["--reload"]], ids=["single", "reload"])
def test_signals_for_more_and_less_workers_do_not_freeze_a_process_without(start: Start, options: list[str]) -> None:
    """Their default action is that the process is stopped."""
    process = start(WHOAMI, *options)
    process.signal(signal.SIGTTIN)
    process.signal(signal.SIGTTOU)
    assert ask(process.port)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_signals_for_more_and_less_workers_do_not_freeze_a_worker(start: Start) -> None:
    """As of `kill` to a whole process group."""
    process = start(WHOAMI, "--workers", "1")
    (pid,) = workers_of_log(process.stderr)
    os.kill(pid, signal.SIGTTIN)
    os.kill(pid, signal.SIGTTOU)
    assert ask(process.port) == pid


def test_closed_standard_error_does_not_become_a_socket(processes: list[ServerProcess], tmp_path: Path) -> None:
    """What the application, and programs that it starts, write to it would reach a client."""
    (tmp_path / "tells.py").write_text(
        "import os\n"
        "from tests.runner.apps import answer, lifespan\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        return await lifespan(receive, send)\n"
        "    await answer(send, os.readlink('/proc/self/fd/2').encode())\n"
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as listener, RawClient(listener.getsockname()[1]) as client:
        descriptor = listener.fileno()
        command = f"exec {sys.executable} -m asgiws tells:app --fd {descriptor} --app-dir {tmp_path} 2>&-"
        processes.append(ServerProcess(["sh", "-c", command], pass_fds=[descriptor]))
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().body == b"/dev/null"


def test_rolling_restart_does_not_wait_for_a_pause_between_two_attempts(start: Start, tmp_path: Path) -> None:
    """An operator who has fixed what kept a worker from starting sends SIGHUP."""
    order = tmp_path / "order"
    process, first, _ = start_with_dead_worker(start, order, "worker 1 is started again in 4 s")
    order.unlink()
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart of 2 workers")
    next_worker(process, 1)
    process.wait_stderr("rolling restart done")
    assert len(lines_of(process, "worker 1 is process")) == 2
    assert {ask(process.port) for _ in range(20)}.isdisjoint({first})


def test_signals_during_a_stop_start_nothing(start: Start) -> None:
    """Neither one worker more, which would outlive the supervisor, nor a restart."""
    process = start(f"{APPS}:deaf", "--workers", "2", "--graceful-timeout", "600")
    with RawClient(process.port) as client:
        client.open_websocket()
        process.wait_stdout("deaf to websocket")
        process.terminate()
        for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP):
            process.signal(number)
        process.signal(signal.SIGTERM)
        process.wait_stderr("stopping at once")
        assert process.wait() == 0  # when all processes have closed their output
    assert lines_of(process, "one worker|rolling restart") == []
    assert len(lines_of(process, r"worker \d+ is process")) == 2
