"""SIGHUP under load: every worker is replaced, and no client sees anything but a Close 1012 on a drained connection."""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import PATIENCE_S
from tests.raw import RawClient, text
from tests.server_process import Start, assert_no_traceback
from tests.workers.crew import (
    FRAGILE,
    WHOAMI,
    WORKERS,
    ask,
    get,
    lines_of,
    next_worker,
    open_socket,
    restart,
    wait_gone,
    workers_of_log,
)
from tests.workers.load import Load

RESTARTS = 3


@pytest.fixture
def load() -> Iterator[Callable[[int], Load]]:
    """Loads that end with the test."""
    loads: list[Load] = []

    def make(port: int) -> Load:
        loads.append(Load(port))
        return loads[-1]

    yield make
    for each in loads:
        each.end()


@pytest.mark.promise
@pytest.mark.slow
def test_no_client_sees_a_failure_across_three_rolling_restarts(start: Start, load: Callable[[int], Load]) -> None:
    """WebSockets, new connections and kept-alive ones; 1012 on what was drained is the only thing to notice."""
    process = start(WHOAMI, "--workers", "2")
    clients = load(process.port)
    clients.begin(clients.websocket, clients.websocket, clients.websocket, clients.request, clients.kept_alive)
    pids = set(workers_of_log(process.stderr))
    for _ in range(RESTARTS):
        pids |= set(restart(process, 2))
    clients.end()
    clients.assert_restarts_unnoticed(RESTARTS)
    assert len(pids) == 2 * (RESTARTS + 1)
    assert clients.pids <= pids
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback(process)


@pytest.mark.promise
def test_open_websockets_are_closed_with_1012_and_come_back_to_a_new_worker(start: Start) -> None:
    process = start(WHOAMI, "--workers", "2")
    before = set(workers_of_log(process.stderr))
    clients = [open_socket(process.port)[0] for _ in range(10)]
    after = set(restart(process, 2))
    for client in clients:
        with client:
            client.be_closed(1012, "service restart")
    for pid in before:
        wait_gone(pid)
    assert after.isdisjoint(before)
    assert {ask(process.port) for _ in range(20)} <= after


def test_successor_has_started_before_the_worker_stops(start: Start) -> None:
    """The order of the application's own lines: startup of the new one, then shutdown of the old one."""
    process = start(WHOAMI, "--workers", "1")
    (old,) = workers_of_log(process.stderr)
    (new,) = restart(process, 1)
    process.wait_stdout(f"shutdown {old}")
    assert process.stdout.index(f"startup {new}") < process.stdout.index(f"shutdown {old}")


def test_connection_that_has_sent_nothing_yet_is_served_by_the_old_worker(start: Start) -> None:
    """It was accepted before the restart, and its request comes after it."""
    process = start(WHOAMI, "--workers", "1")
    (old,) = workers_of_log(process.stderr)
    with RawClient(process.port) as served, RawClient(process.port) as silent:
        assert get(served) == old  # so the connection behind it in the same backlog was accepted too, or will be
        process.signal(signal.SIGHUP)
        next_worker(process)
        silent.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert silent.read_answer().status == 200


@pytest.mark.promise
def test_restart_whose_new_worker_fails_leaves_the_others_as_they_are(start: Start, tmp_path: Path) -> None:
    order = tmp_path / "order"
    process = start(FRAGILE, "--workers", "2", environ={"FRAGILE": str(order)})
    before = set(workers_of_log(process.stderr))
    witness, _ = open_socket(process.port)
    with witness:
        order.write_text("fail")
        process.signal(signal.SIGHUP)
        process.wait_stderr("application startup failed: no database")
        process.wait_stderr("rolling restart given up; the old workers go on")
        witness.send(text("still here"))
        assert witness.read_text() == "still here"
    assert {ask(process.port) for _ in range(20)} <= before
    order.unlink()
    assert set(restart(process, 2)).isdisjoint(before)


def test_restart_changes_all_workers_or_none(start: Start, tmp_path: Path) -> None:
    """A successor that has started drains again when another one does not start; two versions do not stay."""
    order = tmp_path / "order"
    process = start(FRAGILE, "--workers", "2", environ={"FRAGILE": str(order)})
    before = set(workers_of_log(process.stderr))
    order.write_text("fail but for one")
    process.signal(signal.SIGHUP)
    first = next_worker(process, 1)
    process.wait_stderr("rolling restart given up; the old workers go on")
    wait_gone(first)
    assert {ask(process.port) for _ in range(20)} == before


@pytest.mark.slow
def test_worker_that_hangs_does_not_hold_up_a_restart(start: Start) -> None:
    """It cannot confirm that it accepts no more; the others do not wait for it."""
    process = start(f"{WORKERS}:hanging", "--workers", "2", "--worker-timeout", "0", "--graceful-timeout", "0.1")
    with RawClient(process.port) as client:
        client.send(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stdout("hanging")
        after = set(restart(process, 2))
        assert {ask(process.port) for _ in range(20)} <= after
        process.wait_stderr("rolling restart done")


def test_hangup_during_a_restart_begins_it_anew(start: Start) -> None:
    """An impatient operator gets the newest code, and not a restart for each signal."""
    process = start(WHOAMI, "--workers", "2")
    before = workers_of_log(process.stderr)
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart of 2 workers")
    for _ in range(3):
        process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart starts over")
    process.wait_stderr("rolling restart done")
    for pid in before:
        wait_gone(pid)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert len(lines_of(process, "rolling restart done")) == 1
    assert lines_of(process, "given up|did not start") == []


def test_stop_during_a_restart_ends_all_processes(start: Start) -> None:
    process = start(WHOAMI, "--workers", "2")
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart of 2 workers")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback(process)


@pytest.mark.slow
def test_drained_websockets_are_closed_one_after_the_other(start: Start) -> None:
    """--drain-spread: so that not all clients come back in the same moment."""
    process = start(WHOAMI, "--workers", "1", "--drain-spread", "1.5")
    clients = [open_socket(process.port)[0] for _ in range(10)]
    process.signal(signal.SIGHUP)
    next_worker(process)
    # Those that were not closed yet still serve: one echo between two Closes is only possible with a pause.
    echoed = 0
    order = list(clients)
    while order:
        for client in list(order):
            client.send(text("there?"))
            opcode, _ = client.read_frame()
            if opcode == 0x88:
                order.remove(client)
                client.socket.close()
            else:
                echoed += 1
    assert echoed > 20
    wait_gone(workers_of_log(process.stderr)[0])


def test_workers_notify_the_service_manager_of_a_restart(start: Start, tmp_path: Path) -> None:
    """sd_notify(3): READY when all serve, RELOADING and READY around a restart, STOPPING, and WATCHDOG meanwhile."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        process = start(
            WHOAMI, "--workers", "2",
            environ={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"},
        )  # fmt: skip
        messages: queue.Queue[str] = queue.Queue()
        # Read all the time: the socket holds ten messages, and what the manager does not take is lost.
        threading.Thread(target=_listen, args=(manager, messages), daemon=True).start()
        heard = [messages.get(timeout=PATIENCE_S)]
        assert heard[0].startswith("READY=1\nSTATUS=listening on http://127.0.0.1:")
        restart(process, 2)
        while not heard[-1].startswith("READY=1") or len(heard) == 1:
            heard.append(messages.get(timeout=PATIENCE_S))
            assert len(heard) < 200
        reloading = next(message for message in heard if message.startswith("RELOADING=1\nMONOTONIC_USEC="))
        assert int(reloading.rpartition("=")[2]) > 0
        heard = []
        while heard.count("WATCHDOG=1") < 3:
            heard.append(messages.get(timeout=PATIENCE_S))
        process.signal(signal.SIGTERM)
        while not heard[-1].startswith("STOPPING=1"):
            heard.append(messages.get(timeout=PATIENCE_S))
            assert len(heard) < 200
        assert process.wait() == 0


def _listen(manager: socket.socket, messages: queue.Queue[str]) -> None:
    with contextlib.suppress(OSError):  # the test has closed it
        while True:
            messages.put(manager.recv(1000).decode())


def test_workers_give_no_signs_of_life_that_nobody_asked_for(start: Start, tmp_path: Path) -> None:
    """sd_watchdog_enabled(3): without WATCHDOG_USEC there is no WATCHDOG, with it there is one every half of that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        process = start(WHOAMI, "--workers", "1", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        restart(process, 1)
        process.signal(signal.SIGTERM)
        heard: list[str] = []
        while not (heard and heard[-1].startswith("STOPPING=1")):
            heard.append(manager.recv(1000).decode())
    assert process.wait() == 0
    assert [message.partition("\n")[0] for message in heard] == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
