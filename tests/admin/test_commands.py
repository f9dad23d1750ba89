"""`asgiws top` and `asgiws health`, as an operator runs them."""

from __future__ import annotations

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
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgiws.protocol.printable import escape
from tests.admin.helpers import BEARER, TOKEN, Admin, open_one
from tests.conftest import PATIENCE_S
from tests.process.helpers import APPS, ROOT, RunCommand, Start, clean_environ
from tests.raw import RawClient, text

ECHO = "tests.apps:echo"
TCP = ("--admin", "127.0.0.1:0")


class Terminal:
    """A command in a terminal of 140 by 50."""

    def __init__(self, *arguments: str) -> None:
        self.screen = ""
        """What the command has written, control sequences and all."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
        self._modes = termios.tcgetattr(theirs)
        self._ours, self._theirs = ours, theirs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asgiws", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=clean_environ() | {"TERM": "xterm"},
            # A test run under nohup would have it ignored, and `top` leaves that as it is.
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )  # fmt: skip

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until something stands on the screen; gives it, and forgets all up to there."""
        while (found := re.search(pattern, self.screen)) is None:
            assert select.select([self._ours], [], [], PATIENCE_S)[0], self.screen
            data = os.read(self._ours, 65536)
            assert data, self.screen
            self.screen += data.decode()
        self.screen = self.screen[found.end() :]
        return found

    @property
    def modes_are_restored(self) -> bool:
        return termios.tcgetattr(self._theirs) == self._modes

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


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

    terminal.wait_for(r"\x1b\[\?1049h")
    terminal.wait_for("open +0 WebSockets")
    with RawClient(process.port) as client:
        client.open_websocket()
        terminal.wait_for("open +1 WebSockets")
        terminal.type("q")
        terminal.wait_for(r"\x1b\[\?1049l")
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
    terminal.wait_for(r"\x1b\[\?25h\x1b\[\?1049l")
    assert terminal.process.wait(PATIENCE_S) == 128 + number
    assert terminal.modes_are_restored


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
    assert "is no admin address" in ended.stderr[-1]


@pytest.mark.parametrize(
    "answer", ['{"ok": true}', "[]", "1", '{"version": "1", "counts": []}', "[" * 100_000, "no JSON"]
)
def test_answer_that_is_no_status_is_one_line(
    start: Start, run_command: RunCommand, tmp_path: Path, answer: str
) -> None:
    (tmp_path / "answers.py").write_text(
        "from tests.process.apps import answer\n"
        "async def app(scope, receive, send):\n"
        f"    await answer(send, {answer.encode()!r})\n"
    )
    process = start("answers:app", "--app-dir", str(tmp_path), "--lifespan", "off")
    ended = run_command("top", "--once", f"127.0.0.1:{process.port}")
    assert ended.code == 1
    assert ended.stderr == [f"asgiws: 127.0.0.1:{process.port} is no admin address: {escape(answer[:200])}"]


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
