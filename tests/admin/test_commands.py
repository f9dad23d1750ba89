"""`asgiws top` and `asgiws health`, as an operator runs them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from asgiws.protocol.printable import escape
from tests import PATIENCE_S
from tests.admin.helpers import BEARER, TOKEN, Admin, open_one
from tests.raw import RawClient, text
from tests.server_process import APPS, ROOT, RunCommand, ServerProcess, Start, clean_environ

ECHO = "tests.apps:echo"
TCP = ("--admin", "127.0.0.1:0")


class Terminal:
    """A command in a terminal."""

    def __init__(self, *arguments: str, columns: int = 140, rows: int = 50, term: str = "xterm") -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._modes = termios.tcgetattr(theirs)
        self._ours, self._theirs = ours, theirs
        self.written = b""
        """All that the command has written, control sequences included."""
        environ = {name: value for name, value in clean_environ().items() if name not in ("LINES", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asgiws", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environ | {"TERM": term},
            # A test run under nohup would have it ignored, and `top` leaves that as it is.
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """What stands on the screen."""
        return [line.rstrip() for line in self._screen.display]

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str) -> None:
        """Read until something stands on the screen."""
        self._read_until(lambda: re.search(pattern, "\n".join(self.lines)))

    def wait_for_leave(self) -> None:
        """Read until the terminal's own screen is back, with its cursor."""
        self._read_until(lambda: b"\x1b[?1049l" in self.written)
        assert self.written.rfind(b"\x1b[?25l") < max(
            self.written.rfind(b"\x1b[?25h"), self.written.rfind(b"\x1b[?12;25h")
        )

    def _read_until(self, happened: Callable[[], object]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not happened():
            assert select.select([self._ours], [], [], max(0.0, end_s - time.monotonic()))[0], self.lines
            data = os.read(self._ours, 65536)
            assert data, self.lines
            self.written += data
            self._stream.feed(data)

    @property
    def modes_are_restored(self) -> bool:
        return termios.tcgetattr(self._theirs) == self._modes

    def hang_up(self) -> None:
        """Close it, as a terminal emulator does that ends."""
        os.close(self._ours)
        self._ours = -1

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in {self._ours, self._theirs} - {-1}:
            os.close(descriptor)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    running: list[Terminal] = []
    yield running
    for terminal in running:
        terminal.end()


def address(admin: Admin) -> str:
    return f"unix:{admin.path}" if admin.path else f"127.0.0.1:{admin.port}"


# ---- top


@pytest.mark.promise
@pytest.mark.parametrize("workers", ["0", "2"])
def test_top_once_prints_a_view_without_control_sequences(start: Start, run_command: RunCommand, workers: str) -> None:
    process = start(ECHO, *TCP, "--workers", workers)
    admin = Admin(process)
    client, identity = open_one(process, admin)
    with client:
        ended = run_command("top", address(admin), "--once")

    assert ended.code == 0
    output = "\n".join(ended.stdout)
    assert "\x1b" not in output
    assert re.search(r"^open +1 WebSockets, ", output, re.M)
    assert re.search(rf"^{identity} .* /room$", output, re.M)
    assert len(re.findall(r"^ +\d  +\d+  serving", output, re.M)) == max(1, int(workers))


@pytest.mark.slow
def test_top_in_a_terminal_refreshes_and_quits(start: Start, terminals: list[Terminal]) -> None:
    process = start(ECHO, *TCP)
    terminal = Terminal("top", address(Admin(process)))
    terminals.append(terminal)

    terminal.wait_for("open +0 WebSockets")
    assert b"\x1b[?1049h" in terminal.written
    with RawClient(process.port) as client:
        client.open_websocket()
        terminal.wait_for("open +1 WebSockets")
        terminal.type("q")
        terminal.wait_for_leave()
        assert terminal.process.wait(PATIENCE_S) == 0
    assert terminal.modes_are_restored


@pytest.mark.slow
def test_connection_is_closed_from_the_terminal(start: Start, terminals: list[Terminal], tmp_path: Path) -> None:
    process = start(ECHO, "--admin", f"unix:{tmp_path}/admin.sock")
    admin = Admin(process)
    client, identity = open_one(process, admin)
    terminal = Terminal("top", address(admin))
    terminals.append(terminal)
    with client:
        terminal.wait_for(identity)
        terminal.type("c")
        terminal.wait_for("close which connection")
        terminal.type(f"{identity} 4002\n")
        assert client.read_close() == (4002, "closed by the operator")
        terminal.wait_for(f"closed {identity} with 4002")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(PATIENCE_S) == 0
    assert terminal.modes_are_restored


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("asking", [False, True], ids=["watching", "asking"])
def test_top_that_is_ended_by_a_signal_gives_the_terminal_back(
    start: Start, terminals: list[Terminal], number: signal.Signals, asking: bool
) -> None:
    terminal = Terminal("top", address(Admin(start(ECHO, *TCP))))
    terminals.append(terminal)
    terminal.wait_for("open +0 WebSockets")
    if asking:
        terminal.type("c")
        terminal.wait_for("close which connection")
    terminal.process.send_signal(number)
    terminal.wait_for_leave()
    assert terminal.process.wait(PATIENCE_S) == 128 + number
    assert terminal.modes_are_restored


@pytest.mark.slow
@pytest.mark.parametrize("asking", [False, True], ids=["watching", "asking"])
def test_top_ends_with_its_terminal_without_a_signal(start: Start, terminals: list[Terminal], asking: bool) -> None:
    """The terminal does not control the process, so no SIGHUP comes, as under nohup."""
    terminal = Terminal("top", address(Admin(start(ECHO, *TCP))))
    terminals.append(terminal)
    terminal.wait_for("open +0 WebSockets")
    if asking:
        terminal.type("c")
        terminal.wait_for("close which connection")
    terminal.hang_up()
    assert terminal.process.wait(PATIENCE_S) == 128 + signal.SIGHUP


@pytest.mark.slow
@pytest.mark.parametrize("term", ["bogus", "dumb", ""])
def test_terminal_that_moves_no_cursor_is_one_line(start: Start, terminals: list[Terminal], term: str) -> None:
    terminal = Terminal("top", address(Admin(start(ECHO, *TCP))), term=term, columns=200)
    terminals.append(terminal)
    terminal.wait_for("prints one view")
    assert terminal.process.wait(PATIENCE_S) == 1
    assert [line for line in terminal.lines if line] == [
        f"asgiws: cannot draw on a terminal with TERM={term!r}, allowed: one that terminfo has and that moves its "
        "cursor, such as xterm or vt100; asgiws top --once prints one view"
    ]


@pytest.mark.slow
def test_top_works_on_a_terminal_without_a_second_screen(start: Start, terminals: list[Terminal]) -> None:
    """A vt100 has none, and cannot hide its cursor."""
    process = start(ECHO, *TCP)
    terminal = Terminal("top", address(Admin(process)), term="vt100")
    terminals.append(terminal)
    terminal.wait_for("open +0 WebSockets")
    with RawClient(process.port) as client:
        client.open_websocket()
        terminal.wait_for("open +1 WebSockets")
        terminal.type("q")
        assert terminal.process.wait(PATIENCE_S) == 0
    assert terminal.modes_are_restored


@pytest.mark.slow
def test_connections_are_filtered_in_the_terminal(start: Start, terminals: list[Terminal]) -> None:
    process = start(ECHO, *TCP)
    with RawClient(process.port) as room, RawClient(process.port) as chat:
        room.open_websocket("/room")
        chat.open_websocket("/chat/7")
        terminal = Terminal("top", address(Admin(process)))
        terminals.append(terminal)
        terminal.wait_for("/room")
        terminal.type("f")
        terminal.wait_for("path, such as")
        terminal.type("/chat/*\n")
        terminal.wait_for("client, such as")
        terminal.type("\n")
        terminal.wait_for(r"LARGEST CONNECTIONS, path /chat/\*")
        terminal.wait_for("/chat/7")
        assert "/room" not in "\n".join(terminal.lines)


@pytest.mark.slow
def test_top_fits_80_columns_and_uses_the_height(start: Start, terminals: list[Terminal]) -> None:
    process = start(ECHO, *TCP)
    with contextlib.ExitStack() as stack:
        for number in range(30):
            client = stack.enter_context(RawClient(process.port))
            client.open_websocket("/room")
            if number >= 15:  # those that carried most are not those that came first
                client.send(text("hello"))
                assert client.read_text() == "hello"
        terminal = Terminal("top", address(Admin(process)), columns=80, rows=45)
        terminals.append(terminal)
        terminal.wait_for("open +30 WebSockets")
        terminal.wait_for("rejections: none")
        terminal.wait_for(r"(\n.*/room.*){12}(\n.*)*\nq: quit.*$")


@pytest.mark.slow
def test_top_says_that_the_server_has_gone_and_goes_on(start: Start, terminals: list[Terminal]) -> None:
    process = start(ECHO, *TCP)
    terminal = Terminal("top", address(Admin(process)))
    terminals.append(terminal)
    terminal.wait_for("open +0 WebSockets")
    process.terminate()
    process.wait()
    terminal.wait_for("cannot reach 127.0.0.1:[0-9]+: Connection refused")
    terminal.type("q")
    assert terminal.process.wait(PATIENCE_S) == 0


def test_top_takes_address_and_token_from_the_environment(start: Start, run_command: RunCommand) -> None:
    process = start(ECHO, *TCP, "--admin-token", TOKEN)
    admin = Admin(process)
    client, identity = open_one(process, admin, BEARER)
    with client:
        environ = {"ASGIWS_ADMIN": address(admin), "ASGIWS_ADMIN_TOKEN": TOKEN}
        assert identity in "\n".join(run_command("top", "--once", environ=environ).stdout)
        refused = run_command("top", "--once", environ={"ASGIWS_ADMIN": address(admin)})
    assert refused.code == 1
    assert refused.stderr == [f"asgiws: {address(admin)} answers 401: seeing connections needs the token"]


def test_top_asks_loopback_where_the_server_is_bound_to_all_addresses(start: Start, run_command: RunCommand) -> None:
    """In a container, both have ASGIWS_ADMIN=0.0.0.0:9100."""
    admin = Admin(start(ECHO, "--admin", "0.0.0.0:0"))
    assert run_command("top", "--once", f"0.0.0.0:{admin.port}").code == 0


@pytest.mark.parametrize("command", ["top", "health"])
def test_server_that_is_not_there_is_one_line(run_command: RunCommand, tmp_path: Path, command: str) -> None:
    ended = run_command(command, f"unix:{tmp_path}/nothing.sock")
    assert ended.code == 1
    assert ended.stderr == [
        f"asgiws: cannot reach unix:{tmp_path}/nothing.sock: No such file or directory; "
        "is a server running with --admin there?"
    ]


@pytest.mark.parametrize("command", ["top", "health"])
def test_command_without_an_address_says_where_it_could_stand(run_command: RunCommand, command: str) -> None:
    ended = run_command(command)
    assert ended.code == 2
    assert ended.stderr == [f"asgiws: no admin address was given: asgiws {command} ADDRESS, --admin or ASGIWS_ADMIN"]


def test_address_that_is_none_is_one_line(run_command: RunCommand) -> None:
    ended = run_command("health", "nonsense")
    assert ended.code == 2
    assert ended.stderr[-1].startswith("asgiws health: argument ADDRESS: 'nonsense' was given, allowed: HOST:PORT")


def test_application_port_is_not_taken_for_an_admin_address(start: Start, run_command: RunCommand) -> None:
    process = start(ECHO)
    ended = run_command("top", "--once", f"127.0.0.1:{process.port}")
    assert ended.code == 1
    assert ended.stderr[-1].endswith("is this the --admin address?")


@pytest.mark.parametrize(
    "answer", ['{"ok": true}', "[]", "1", '{"version": "1", "counts": []}', "[" * 100_000, "no JSON"]
)
def test_answer_that_is_no_status_is_one_line(
    start: Start, run_command: RunCommand, tmp_path: Path, answer: str
) -> None:
    (tmp_path / "answers.py").write_text(
        "from tests.runner.apps import answer\n"
        "async def app(scope, receive, send):\n"
        f"    await answer(send, {answer.encode()!r})\n"
    )
    process = start("answers:app", "--app-dir", str(tmp_path), "--lifespan", "off")
    ended = run_command("top", "--once", f"127.0.0.1:{process.port}")
    assert ended.code == 1
    assert ended.stderr == [
        f"asgiws: 127.0.0.1:{process.port} answers 200: {escape(answer[:200])}; is this the --admin address?"
    ]


@pytest.mark.parametrize("command", ["top", "health"])
def test_reader_that_has_gone_is_no_fault(start: Start, command: str) -> None:
    """As in `asgiws top --once | true`."""
    admin = Admin(start(ECHO, *TCP))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "asgiws", command, address(admin)], stdout=writing, stderr=subprocess.PIPE,
            cwd=ROOT, env=clean_environ(), timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_application_that_is_named_top_is_served(start: Start, tmp_path: Path) -> None:
    (tmp_path / "top.py").write_text("from tests.apps import echo as app\n")
    process = start("top:app", "--app-dir", str(tmp_path))
    with RawClient(process.port) as client:
        client.open_websocket()
        client.send(text("served"))
        assert client.read_text() == "served"


# ---- close and drain


def open_many(process: ServerProcess, path: str, count: int) -> list[RawClient]:
    clients = [RawClient(process.port) for _ in range(count)]
    for client in clients:
        client.open_websocket(path)
    return clients


@pytest.mark.parametrize("workers", ["0", "2"])
def test_close_ends_the_websockets_of_a_path(
    start: Start, run_command: RunCommand, tmp_path: Path, workers: str
) -> None:
    process = start(ECHO, "--admin", f"unix:{tmp_path}/admin.sock", "--workers", workers)
    admin = Admin(process)
    chat, rooms = open_many(process, "/chat", 4), open_many(process, "/room", 2)
    ended = run_command("close", "--path", "/chat", "--over", "500ms", address(admin))
    assert (ended.code, ended.stdout) == (0, ["closing 4 connections with 1012 over 0.5 s"])
    for client in chat:
        assert client.read_close() == (1012, "closed by the operator")
        client.socket.close()
    for client in rooms:
        client.send(text("still here"))
        assert client.read_text() == "still here"
        client.socket.close()


def test_close_takes_a_share_with_a_code(start: Start, run_command: RunCommand) -> None:
    process = start(ECHO, *TCP, "--admin-token", TOKEN)
    clients = open_many(process, "/", 10)
    words = ("close", "--percent", "20", "--code", "4001", address(Admin(process)))
    ended = run_command(*words, environ={"ASGIWS_ADMIN_TOKEN": TOKEN})
    assert (ended.code, ended.stdout) == (0, ["closing 2 connections with 4001 over 0 s"])
    for client in clients:
        client.socket.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing was given, allowed: path, client, worker or percent; percent=100 closes all"),
        (("--percent", "0"), "--percent: '0' was given, allowed: 1 to 100"),
        (("--path", "chat"), "path 'chat' was given, allowed: a path such as /chat, or a start such as /chat/*"),
        (("--percent", "5", "--over", "soon"), "--over: 'soon' was given, allowed: a number such as 30, 30s, 500ms"),
        (("--percent", "5", "--code", "999"), "code '999' was given, allowed: 1000-1003, 1007-1014, 3000-4999"),
    ],
)
def test_order_that_is_not_allowed_is_one_line(
    start: Start, run_command: RunCommand, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    process = start(ECHO, "--admin", f"unix:{tmp_path}/admin.sock")
    ended = run_command("close", *words, address(Admin(process)))
    assert ended.code == 1
    (line,) = ended.stderr
    assert line.startswith(f"asgiws: {said}")


@pytest.mark.parametrize("words", [("close", "--percent", "100"), ("drain", "--worker", "1")])
def test_orders_need_the_token(start: Start, run_command: RunCommand, words: tuple[str, ...]) -> None:
    process = start(ECHO, *TCP, "--admin-token", TOKEN)
    ended = run_command(*words, address(Admin(process)))
    assert (ended.code, ended.stderr) == (1, ["asgiws: closing connections needs the token"])


def test_drain_replaces_one_worker(start: Start, run_command: RunCommand, tmp_path: Path) -> None:
    process = start(ECHO, "--admin", f"unix:{tmp_path}/admin.sock", "--workers", "2")
    admin = Admin(process)
    first, second = (worker["pid"] for worker in admin.status()["workers"])
    ended = run_command("drain", "--worker", str(first), address(admin))
    assert (ended.code, ended.stdout) == (0, [f"draining process {first}"])
    process.wait_stderr(rf"\(process {first}\) has exited")
    pids = {worker["pid"] for worker in admin.status()["workers"]}
    assert second in pids
    assert first not in pids
    assert len(pids) == 2
    ended = run_command("drain", "--worker", str(first), address(admin))
    assert (ended.code, ended.stderr) == (1, [f"asgiws: no worker with process {first} serves"])


# ---- health


@pytest.mark.promise
@pytest.mark.parametrize("workers", ["0", "1"])
def test_health_of_a_server_that_is_ready(start: Start, run_command: RunCommand, workers: str) -> None:
    admin = Admin(start(ECHO, *TCP, "--workers", workers))
    ended = run_command("health", address(admin))
    assert (ended.code, ended.stdout) == (0, ["ready"])


def test_health_of_a_server_that_starts(start: Start, run_command: RunCommand) -> None:
    process = start(f"{APPS}:startup_hangs", *TCP, "--lifespan", "on", wait_ready=False)
    process.wait_stdout("lifespan.startup")
    ended = run_command("health", environ={"ASGIWS_ADMIN": address(Admin(process))})
    assert (ended.code, ended.stdout) == (1, ["not ready"])
