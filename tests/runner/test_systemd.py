"""systemd's side of a service: sockets that it opens, and what it is told. With the real `systemd-socket-activate`."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgiws import serve
from asgiws.runner.systemd import Notifier, inherited_addresses
from tests import PATIENCE_S
from tests.apps import echo
from tests.programs import find_program
from tests.raw import RawClient, close, text
from tests.server_process import (
    APPS,
    Ended,
    ServerProcess,
    Start,
    assert_one_line,
    clean_environ,
    free_port,
    module_command,
    post,
)

ECHO = f"{APPS}:echo"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# As systemd hands a socket over: descriptor 3, and the variables.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

# ---- sockets

Activate = Callable[..., ServerProcess]


@pytest.fixture
def activate(processes: list[ServerProcess], loop_name: str) -> Activate:
    """Start a server as `systemd-socket-activate` does: when the first connection comes."""
    program = find_program("systemd-socket-activate", "systemd")

    def start(listen: list[str], *arguments: str) -> ServerProcess:
        # It passes few variables on by itself.
        kept = [f"--setenv={name}={value}" for name, value in clean_environ().items() if name.startswith("PYTHON")]
        command = [program, *kept, "--fdname=web", *(f"--listen={address}" for address in listen)]
        process = ServerProcess([*command, *module_command(["--loop", loop_name, *arguments])])
        processes.append(process)
        process.wait_stderr(rf"Listening on .* as {2 + len(listen)}\b")
        return process

    return start


@pytest.fixture
def hand_over(processes: list[ServerProcess], loop_name: str) -> Callable[..., ServerProcess]:
    """Start a server with a socket as its descriptor 3, and the variables that say so."""

    def start(fd: int, *arguments: str, environ: dict[str, str] | None = None) -> ServerProcess:
        command = module_command(["--port", "0", "--loop", loop_name, *arguments])
        command = [sys.executable, "-c", HAND_OVER, str(fd), *command[1:]]
        process = ServerProcess(command, environ=environ, pass_fds=[fd])
        processes.append(process)
        return process

    return start


@pytest.mark.promise
def test_activated_service_serves_tcp_and_unix(activate: Activate, tmp_path: Path) -> None:
    """The connection that woke it is served too; the default host and port are not listened on."""
    port, path = free_port(), str(tmp_path / "app.sock")
    process = activate([f"127.0.0.1:{port}", path], ECHO)
    with RawClient(port) as first:
        first.send(GET)
        assert first.read_answer().status == 200
        process.wait_ready()
        assert process.addresses == [f"http://127.0.0.1:{port}", f"unix:{path}"]
        with RawClient.unix(path) as unix, RawClient(port) as websocket:
            assert post(unix, b"hello") == b"hello"
            websocket.open_websocket()
            websocket.send(text("hello"))
            assert websocket.read_text() == "hello"
    process.terminate()
    assert process.wait() == 0


def test_activated_sockets_add_to_those_that_were_named(activate: Activate, tmp_path: Path) -> None:
    port, path = free_port(), str(tmp_path / "own.sock")
    process = activate([f"127.0.0.1:{port}"], ECHO, "--bind", f"unix:{path}")
    with RawClient(port) as first:
        assert post(first, b"hello") == b"hello"
        process.wait_ready()
        assert process.addresses == [f"unix:{path}", f"http://127.0.0.1:{port}"]
        with RawClient.unix(path) as unix:
            assert post(unix, b"hello") == b"hello"


@pytest.mark.parametrize("options", [["--bind", "fd:3"], ["--fd", "3"]], ids=["bind", "fd"])
def test_activated_socket_may_be_named_as_well(activate: Activate, options: list[str]) -> None:
    """As units for other servers do it."""
    port = free_port()
    process = activate([f"127.0.0.1:{port}"], ECHO, *options)
    with RawClient(port) as first:
        assert post(first, b"hello") == b"hello"
        process.wait_ready()
        assert process.addresses == [f"http://127.0.0.1:{port}"]


@pytest.mark.parametrize("options", [[f"{APPS}:child"], [f"{APPS}:make_child", "--factory"]], ids=["later", "import"])
def test_programs_that_the_application_starts_see_nothing_of_it(
    hand_over: Activate, notices: Notices, options: list[str]
) -> None:
    """Neither variables nor descriptor: one that is a service too would take them for its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environ = {"NOTIFY_SOCKET": notices.path, "WATCHDOG_USEC": "600000000", "WATCHDOG_PID": ""}
        process = hand_over(listener.fileno(), *options, environ=environ)
        process.wait_ready()
        with RawClient(listener.getsockname()[1]) as client:
            client.send(GET)
            answer = client.read_answer().json()
    assert isinstance(answer, list)
    names, is_open = answer
    assert "PATH" in names
    assert [name for name in names if re.match("LISTEN|NOTIFY|WATCHDOG", name)] == []
    assert not is_open


def test_sockets_for_another_process_are_not_taken(start: Start) -> None:
    """sd_listen_fds(3): LISTEN_PID says whose they are."""
    process = start(f"{APPS}:child", environ={"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "web"})
    assert process.address.startswith("http://127.0.0.1:")
    with RawClient(process.port) as client:
        client.send(GET)
        answer = client.read_answer().json()
    assert isinstance(answer, list)
    assert [name for name in answer[0] if name.startswith("LISTEN")] == []


def assert_refused(process: ServerProcess, fault: str) -> None:
    assert_one_line(Ended.of(process), 1, f"--bind: 3 {fault}")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["stream", "datagram"])
def test_socket_that_does_not_listen_is_one_line(hand_over: Activate, kind: socket.SocketKind) -> None:
    """As of a unit with ListenDatagram=."""
    with socket.socket(type=kind) as bound:
        bound.bind(("127.0.0.1", 0))
        process = hand_over(bound.fileno(), ECHO, "--lifespan", "off")
        assert_refused(process, "is a socket that does not listen, allowed: a listening TCP or Unix stream socket")


def test_connection_is_one_line(hand_over: Activate) -> None:
    """As of a unit with Accept=yes, which starts a process for each connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = hand_over(theirs.fileno(), ECHO, "--lifespan", "off")
        assert_refused(process, "is a socket that does not listen")


def test_listening_socket_of_packets_is_one_line(hand_over: Activate, tmp_path: Path) -> None:
    """As of a unit with ListenSequentialPacket=."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets:
        packets.bind(str(tmp_path / "packets"))
        packets.listen()
        process = hand_over(packets.fileno(), ECHO, "--lifespan", "off")
        assert_refused(process, "is a socket of another kind, allowed: a listening TCP or Unix stream socket")


def test_descriptor_that_is_no_socket_is_one_line(hand_over: Activate) -> None:
    """As of a unit with ListenFIFO=."""
    reader, writer = os.pipe()
    try:
        process = hand_over(reader, ECHO, "--lifespan", "off")
        assert_refused(process, "is no socket (Socket operation on non-socket)")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("count", ["0", "", "-1", "x", "1.5", " 1"])
def test_what_is_no_count_of_sockets_is_none(count: str) -> None:
    environ = {"LISTEN_FDS": count, "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "", "PATH": "/bin"}
    assert inherited_addresses(environ) == ()
    assert environ == {"PATH": "/bin"}


# ---- notifications


class Notices:
    """The service manager's end: a datagram socket that the test reads."""

    def __init__(self, path: str) -> None:
        self.path = path
        """What NOTIFY_SOCKET says; with @ for the abstract namespace."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)

    def next(self, patience_s: float = PATIENCE_S) -> dict[str, str]:
        """One notice, as its variables. Raises TimeoutError when none comes."""
        self._socket.settimeout(patience_s)
        lines = self._socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def discard(self) -> None:
        """Read what is there."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(65536)
        except BlockingIOError:
            pass

    @property
    def empty(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def notices(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Notices]:
    """A service manager that listens, at a path and in the abstract namespace (unix(7))."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract Unix sockets are Linux's")
    address = str(tmp_path / "notify") if request.param == "path" else f"@asgiws-notify-{os.getpid()}"
    notices = Notices(address)
    yield notices
    notices.close()


@pytest.mark.promise
def test_ready_is_said_when_the_application_has_started_and_the_port_listens(
    start: Start, notices: Notices, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    environ = {"NOTIFY_SOCKET": notices.path, "GATE": str(gate)}
    process = start(f"{APPS}:gated", environ=environ, wait_ready=False)
    process.wait_stdout("lifespan.startup")
    assert notices.empty
    gate.write_text("go")
    ready = notices.next()
    assert ready["READY"] == "1"
    found = re.fullmatch(r"listening on http://127\.0\.0\.1:([0-9]+)", ready["STATUS"])
    assert found is not None
    RawClient(int(found[1])).socket.close()
    process.wait_ready()
    assert notices.empty


def test_service_that_cannot_start_is_never_ready(start: Start, notices: Notices) -> None:
    process = start(f"{APPS}:startup_fails", environ={"NOTIFY_SOCKET": notices.path}, wait_ready=False)
    assert process.wait() == 3
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start(ECHO, "--port", port, environ={"NOTIFY_SOCKET": notices.path}, wait_ready=False)
        assert process.wait() == 1
    assert notices.empty


def test_stopping_is_said_before_anything_ends(start: Start, notices: Notices) -> None:
    """Once, at the beginning of the drain: the port still accepts then."""
    process = start(ECHO, "--drain-delay", "600", environ={"NOTIFY_SOCKET": notices.path})
    with RawClient(process.port) as websocket:
        websocket.open_websocket()
        assert notices.next()["READY"] == "1"
        assert notices.empty
        process.terminate()
        assert notices.next()["STOPPING"] == "1"
        with RawClient(process.port) as late:
            late.send(GET)
            assert late.read_answer().status == 200
        websocket.send(text("still here") + close())
        assert websocket.read_text() == "still here"
    process.signal(15)
    assert process.wait() == 0
    assert notices.empty


def test_reload_is_said_and_its_end(start: Start, notices: Notices) -> None:
    """Type=notify-reload (systemd.service(5)) waits for both, also when there is nothing to read anew."""
    process = start(ECHO, environ={"NOTIFY_SOCKET": notices.path})
    ready = notices.next()
    began_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    process.signal(signal.SIGHUP)
    reloading = notices.next()
    assert reloading["RELOADING"] == "1"
    assert began_us <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notices.next() == ready
    assert notices.empty


def test_reload_during_the_startup_or_a_stop_is_not_said(start: Start, notices: Notices, tmp_path: Path) -> None:
    """READY would end the wait for the startup, and take STOPPING back."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    environ = {"NOTIFY_SOCKET": notices.path, "GATE": str(gate)}
    process = start(f"{APPS}:gated", "--drain-delay", "600", environ=environ, wait_ready=False)
    process.wait_stdout("lifespan.startup")
    process.signal(signal.SIGHUP)
    gate.write_text("go")
    process.wait_stderr("nothing to reload")
    process.wait_stderr("listening on")
    assert notices.next()["READY"] == "1"
    process.terminate()
    process.wait_stderr("draining")
    process.signal(signal.SIGHUP)
    process.wait_stderr("nothing to reload")
    assert notices.next()["STOPPING"] == "1"
    assert notices.empty


def test_signs_of_life_come_within_the_time_that_is_allowed(start: Start, notices: Notices) -> None:
    """sd_watchdog_enabled(3) recommends every half of it."""
    allowed_s = 1.0
    process = start(ECHO, environ={"NOTIFY_SOCKET": notices.path, "WATCHDOG_USEC": f"{allowed_s * 1e6:.0f}"})
    assert notices.next()["READY"] == "1"
    seen_s = [time.monotonic()]
    for _ in range(4):
        assert notices.next() == {"WATCHDOG": "1"}
        seen_s.append(time.monotonic())
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(seen_s)]
    assert max(gaps_s) < allowed_s
    assert sum(gaps_s) > allowed_s, "four in less than the time for one are too many"
    process.terminate()
    assert process.wait() == 0


def test_signs_of_life_go_on_while_the_server_drains(start: Start, notices: Notices) -> None:
    """systemd waits for them until the service has stopped."""
    process = start(ECHO, "--drain-delay", "600", environ={"NOTIFY_SOCKET": notices.path, "WATCHDOG_USEC": "100000"})
    process.terminate()
    while "STOPPING" not in notices.next():
        pass
    for _ in range(3):
        assert notices.next() == {"WATCHDOG": "1"}
    process.signal(15)
    assert process.wait() == 0


def test_application_that_blocks_the_loop_gives_no_sign_of_life(start: Start, notices: Notices) -> None:
    """That is what a watchdog is for."""
    allowed_s = 0.4
    process = start(
        f"{APPS}:blocking", environ={"NOTIFY_SOCKET": notices.path, "WATCHDOG_USEC": f"{allowed_s * 1e6:.0f}"}
    )
    assert notices.next()["READY"] == "1"
    with RawClient(process.port) as client:
        client.send(GET)
        process.wait_stdout("blocking")
        notices.discard()
        with pytest.raises(TimeoutError):
            notices.next(patience_s=2 * allowed_s)


def fill(path: str) -> list[socket.socket]:
    """Send datagrams to a socket that nobody reads, until it takes no more."""
    reader, writer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    reader.bind(path)
    writer.setblocking(False)
    try:
        while True:
            writer.sendto(b"x", path)
    except BlockingIOError:
        return [reader, writer]


@pytest.mark.parametrize("kind", ["absent", "dead", "full", "too-long", "stream", "file", "relative", "empty-name"])
def test_service_manager_that_does_not_listen_disturbs_nothing(start: Start, tmp_path: Path, kind: str) -> None:
    """Not even signs of life that nobody takes."""
    path = str(tmp_path / "notify")
    held: list[socket.socket] = []
    if kind == "dead":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(path)
    elif kind == "full":
        held = fill(path)
    elif kind == "stream":
        held = [socket.socket(socket.AF_UNIX)]
        held[0].bind(path)
        held[0].listen()
    elif kind == "file":
        Path(path).write_text("precious")
    address = {"too-long": f"/{'x' * 200}", "relative": "notify", "empty-name": "@"}.get(kind, path)
    try:
        process = start(ECHO, environ={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"})
        with RawClient(process.port) as client:
            for _ in range(20):
                assert post(client, b"hello") == b"hello"
        process.terminate()
        assert process.wait() == 0
        process.rest_of_stderr()
        assert not any("Traceback" in line or "ERROR" in line for line in process.stderr)
    finally:
        for made in held:
            made.close()


def test_status_is_one_line_whatever_the_path(start: Start, tmp_path: Path) -> None:
    """A path is bytes; a line end in it begins no variable of its own."""
    notices = Notices(str(tmp_path / "notify"))
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\nSTOPPING=1")
    start(ECHO, "--bind", f"unix:{path}", environ={"NOTIFY_SOCKET": notices.path})
    ready = notices.next()
    notices.close()
    assert set(ready) == {"READY", "STATUS"}


def test_watchdog_is_only_kept_for_this_process() -> None:
    """sd_watchdog_enabled(3): WATCHDOG_PID says whose it is, absent means everybody's."""

    def interval_s(**variables: str) -> float:
        environ = dict(variables)
        notifier = Notifier(environ)
        assert environ == {}
        return notifier.watchdog_s

    mine, other = str(os.getpid()), "1"
    assert interval_s(NOTIFY_SOCKET="/x", WATCHDOG_USEC="3000000") == 1.5
    assert interval_s(NOTIFY_SOCKET="/x", WATCHDOG_USEC="3000000", WATCHDOG_PID=mine) == 1.5
    assert interval_s(NOTIFY_SOCKET="/x", WATCHDOG_USEC="3000000", WATCHDOG_PID=other) == 0
    assert interval_s(WATCHDOG_USEC="3000000") == 0
    for usec in ("", "0", "-1", "x", "1.5"):
        assert interval_s(NOTIFY_SOCKET="/x", WATCHDOG_USEC=usec) == 0


def test_reload_is_dated_for_systemd(notices: Notices) -> None:
    """sd_notify(3): RELOADING comes with the monotonic time, and READY ends it."""
    notifier = Notifier({"NOTIFY_SOCKET": notices.path})
    before_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    notifier.ready("reloaded")
    reloading = notices.next()
    assert reloading["RELOADING"] == "1"
    assert before_usec <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notices.next() == {"READY": "1", "STATUS": "reloaded"}


def test_signs_of_life_end_with_the_server_and_not_with_the_loop(
    notices: Notices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that serves in a thread, and goes on behind the server, is not alive as a service."""
    monkeypatch.setenv("NOTIFY_SOCKET", notices.path)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    later: list[bool] = []

    def wait_for_life() -> None:
        while "WATCHDOG" not in notices.next():
            pass

    async def program() -> None:
        serving = asyncio.create_task(serve(echo, port=0))
        await asyncio.to_thread(wait_for_life)
        serving.cancel()
        await asyncio.wait((serving,))
        notices.discard()
        try:
            await asyncio.to_thread(notices.next, 0.2)
            later.append(True)
        except TimeoutError:
            later.append(False)

    thread = threading.Thread(target=asyncio.run, args=(program(),))
    thread.start()
    thread.join(PATIENCE_S)
    assert later == [False]
