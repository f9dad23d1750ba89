"""Where a server process logs to: a file that may be moved away, its operator's `dictConfig`, a pipe nobody reads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests import PATIENCE_S
from tests.raw import RawClient, close
from tests.server_process import ROOT, RunCommand, Start, clean_environ, module_command
from tests.telemetry.log_help import APP, get, stopped_lines

# ---- files


class Silent:
    """A server that logs elsewhere than to standard error; it inherits its socket, so no line need tell the port."""

    def __init__(self, start: Start, *arguments: str, app: str = APP) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            descriptor = str(listener.fileno())
            self.process = start(app, "--fd", descriptor, *arguments, pass_fds=[listener.fileno()], wait_ready=False)
            get(self.port)


def wait_for_line(path: Path, pattern: str) -> None:
    """Turn until a file has a line; the server writes it without telling anybody else."""
    deadline = monotonic() + PATIENCE_S
    while not (path.exists() and re.search(pattern, path.read_text(), re.M)):
        assert monotonic() < deadline, (pattern, path.exists() and path.read_text())


def test_log_file_takes_all_lines_and_is_appended_to(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "asgiws.log"
    path.write_text("before\n")
    server = Silent(start, "--log-file", str(path))
    get(server.port, "/there")
    assert stopped_lines(server.process) == []
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert [line for line in lines if "listening on " in line]
    assert [line for line in lines if "GET /there" in line]
    assert lines[-1].endswith("stopped")
    assert "\x1b" not in "".join(lines)


@pytest.mark.promise
def test_usr1_opens_a_log_file_again_that_was_moved_away(start: Start, tmp_path: Path) -> None:
    """As logrotate does it: move, signal, and no line is lost."""
    path, moved = tmp_path / "asgiws.log", tmp_path / "asgiws.log.1"
    server = Silent(start, "--log-file", str(path))
    path.rename(moved)
    get(server.port, "/between")
    server.process.signal(signal.SIGUSR1)
    wait_for_line(path, "asgiws.log was reopened$")
    get(server.port, "/after")
    assert stopped_lines(server.process) == []
    assert "GET /between" in moved.read_text()
    assert "GET /after" in path.read_text()
    assert "GET /after" not in moved.read_text()


def test_usr1_opens_the_log_file_again_beside_an_application_that_configures_logging(
    start: Start, tmp_path: Path
) -> None:
    """`dictConfig` forgets all handlers that there are, and closes them."""
    (tmp_path / "configures.py").write_text(
        "import logging.config\nfrom tests.telemetry.log_app import app\n"
        'logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})\n'
    )
    path = tmp_path / "asgiws.log"
    server = Silent(start, "--log-file", str(path), "--app-dir", str(tmp_path), app="configures:app")
    path.rename(tmp_path / "moved")
    server.process.signal(signal.SIGUSR1)
    wait_for_line(path, "asgiws.log was reopened$")
    assert stopped_lines(server.process) == []


def test_usr1_keeps_a_log_file_that_cannot_be_opened_again(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    server = Silent(start, "--log-file", str(folder / "asgiws.log"))
    folder.rename(tmp_path / "moved")
    server.process.signal(signal.SIGUSR1)
    wait_for_line(tmp_path / "moved" / "asgiws.log", r"cannot be reopened: No such file or directory$")
    get(server.port, "/after")
    assert stopped_lines(server.process) == []
    assert "GET /after" in (tmp_path / "moved" / "asgiws.log").read_text()


def test_usr1_without_a_log_file_changes_nothing(start: Start) -> None:
    process = start(APP)
    process.signal(signal.SIGUSR1)
    assert get(process.port) == 200
    assert len(stopped_lines(process)) == 4


def test_full_disk_costs_the_lines_and_one_word(start: Start) -> None:
    """ENOSPC for every line: requests are answered, and standard error is told once."""
    server = Silent(start, "--log-file", "/dev/full")
    for _ in range(3):
        assert get(server.port) == 200
    assert stopped_lines(server.process) == [
        "asgiws: log file /dev/full cannot be written, lines are lost: [Errno 28] No space left on device"
    ]


def test_full_disk_is_told_in_the_form_of_the_log(start: Start) -> None:
    """Standard error has objects only, whatever goes wrong."""
    server = Silent(start, "--log-file", "/dev/full", "--log-format", "json")
    (line,) = stopped_lines(server.process)
    assert json.loads(line)["message"].startswith("log file /dev/full cannot be written, lines are lost: ")


# ---- dictConfig


def example_config() -> str:
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "asgiws" / "telemetry" / "README.md").read_text(), re.S)
    return str(example)


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_log_config_says_where_lines_go_and_what_they_look_like(start: Start, tmp_path: Path, kind: str) -> None:
    """The README's example, as TOML and as JSON; its file is opened again too."""
    text = example_config()
    (tmp_path / f"log.{kind}").write_text(text if kind == "toml" else json.dumps(tomllib.loads(text)))
    process = start(APP, "--log-config", f"log.{kind}", folder=tmp_path)
    access, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    with RawClient(process.port) as client:
        client.open_websocket("/before")
        client.send(close(4000))
        client.read_to_end()
    wait_for_line(access, r"^127\.0\.0\.1:\d+ /before 4000 -$")
    access.rename(moved)
    process.signal(signal.SIGUSR1)
    process.wait_stderr("access.log was reopened")
    with RawClient(process.port) as client:
        client.open_websocket("/after")
        client.send(b"\x83\x80\0\0\0\0")
        client.read_to_end()
    for line in stopped_lines(process):
        assert json.loads(line)["logger"] == "asgiws"
    assert re.search(r"^127\.0\.0\.1:\d+ /after 1002 reserved-opcode$", access.read_text(), re.M)
    assert "/after" not in moved.read_text()


def test_usr1_loses_nothing_of_a_file_that_was_not_moved(start: Start, tmp_path: Path) -> None:
    """Also when its handler begins with an empty one: `mode` is w."""
    path = tmp_path / "asgiws.log"
    handler = {"class": "logging.FileHandler", "filename": str(path), "mode": "w"}
    config = tmp_path / "log.json"
    config.write_text(json.dumps({"handlers": {"file": handler}, "root": {"handlers": ["file"]}}))
    server = Silent(start, "--log-config", str(config))
    server.process.signal(signal.SIGUSR1)
    wait_for_line(path, "asgiws.log was reopened$")
    assert "listening on " in path.read_text()


def test_log_config_that_does_not_name_our_loggers_gets_their_lines_at_the_root(start: Start, tmp_path: Path) -> None:
    """`disable_existing_loggers` would silence us; `--log-level` holds."""
    config = {
        "formatters": {"short": {"format": "root %(levelname)s %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "short"}},
        "root": {"handlers": ["console"], "level": "DEBUG"},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    process = start(APP, "--log-config", "log.json", "--log-level", "info", folder=tmp_path)
    get(process.port)
    lines = stopped_lines(process)
    assert [line for line in lines if line.startswith("root INFO listening on ")]
    assert [line for line in lines if '"GET / HTTP/1.1" 200' in line]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.toml", None, "No such file or directory; allowed: a file that this user may read"),
        ("log.ini", b"[loggers]", "unknown kind of file; allowed: a .toml or .json file with a dictConfig"),
        ("log.toml", b"[formatters\n", "at line 1, column 12"),
        ("log.json", b"{", "line 1 column 2"),
        ("log.json", b"[1]", "list at its top; allowed: an object with a dictConfig"),
        ("log.json", b"\xff", "'utf-8' codec can't decode byte 0xff"),
        ("log.json", b"[" * 100_000, "recursion"),
        ("log.json", b'{"version": 2}', "Unsupported version: 2; allowed: a dictConfig as in"),
        ("log.json", b'{"loggers": 3}', "; allowed: a dictConfig as in Python's logging.config"),
        (
            "log.toml",
            b"[root]\nhandlers = ['absent']",
            "Unable to configure root logger (Unable to add handler 'absent'",
        ),
        ("log.toml", b"[handlers.x]\nclass = 'no.Such'", "Unable to configure handler 'x' (Cannot resolve 'no.Such'"),
    ],
)
def test_log_config_that_cannot_be_used_is_one_line_and_exit_code_2(
    run_command: RunCommand, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    ended = run_command(APP, "--log-config", str(path))
    assert (ended.code, ended.stdout) == (2, [])
    (line,) = ended.stderr
    assert line.startswith(f"asgiws: --log-config: '{path}' was given, ")
    assert said in line


def test_log_file_that_cannot_be_opened_is_one_line_and_exit_code_2(run_command: RunCommand, tmp_path: Path) -> None:
    ended = run_command(APP, "--log-file", str(tmp_path))
    assert (ended.code, ended.stderr) == (
        2,
        [f"asgiws: --log-file: '{tmp_path}' was given, Is a directory; allowed: a file that this user may append to"],
    )


@pytest.mark.parametrize(("flag", "value"), [("--log-file", "x.log"), ("--log-format", "json")])
def test_option_that_log_config_replaces_is_refused_beside_it(run_command: RunCommand, flag: str, value: str) -> None:
    """It would have no effect, and nobody would know."""
    ended = run_command(APP, "--log-config", "log.toml", flag, value)
    assert ended.code == 2
    assert ended.stderr == [
        f"asgiws: {flag}: '{value}' was given with --log-config, allowed: one of the two; "
        "the file says where lines go and what they look like"
    ]


# ---- standard error that nobody reads


class Piped:
    """A server whose standard error is a pipe that only the test reads from, and writes to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                # uvloop writes an answer when the loop turns, asyncio before its line is logged.
                module_command([APP, "--fd", str(listener.fileno()), "--loop", "asyncio"]), cwd=ROOT,
                env=clean_environ(), stderr=self.writing, pass_fds=[listener.fileno()],
            )  # fmt: skip
        assert get(self.port) == 200

    def fill(self) -> None:
        """Leave no room for another byte."""
        os.set_blocking(self.writing, False)
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(self.writing, b"x" * size)
        os.set_blocking(self.writing, True)

    def drain(self) -> None:
        """Take all that the pipe holds."""
        os.set_blocking(self.reading, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(self.reading, 65536)

    def close_reading(self) -> None:
        os.close(self.reading)
        self.reading = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.writing)
        if self.reading >= 0:
            os.close(self.reading)


@pytest.fixture
def piped() -> Iterator[Piped]:
    server = Piped()
    yield server
    server.close()


def test_server_outlives_the_reader_of_its_log(piped: Piped) -> None:
    """EPIPE for every line: it goes on, and ends as it should."""
    piped.close_reading()
    for _ in range(100):
        assert get(piped.port) == 200
    piped.process.terminate()
    assert piped.process.wait(PATIENCE_S) == 0


def test_server_goes_on_when_its_log_is_read_again(piped: Piped) -> None:
    """A full pipe stops it at the next line, as documented, and costs nothing once there is room."""
    piped.fill()
    with RawClient(piped.port) as client, RawClient(piped.port) as second:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 200
        second.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        piped.drain()
        assert second.read_answer().status == 200
    piped.process.terminate()
    assert piped.process.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_second_signal_ends_a_server_whose_log_nobody_reads(piped: Piped) -> None:
    piped.fill()
    with RawClient(piped.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 200
        piped.process.terminate()
        piped.process.send_signal(signal.SIGINT)
        assert piped.process.wait(PATIENCE_S) == 1


def test_usr1_to_a_supervisor_lets_every_process_open_the_log_file_again(start: Start, tmp_path: Path) -> None:
    """Supervisor and workers append to one file; a line is one write."""
    path = tmp_path / "asgiws.log"
    server = Silent(start, "--log-file", str(path), "--log-format", "json", "--workers", "2")
    wait_for_line(path, "with 2 workers")
    path.rename(tmp_path / "moved")
    server.process.signal(signal.SIGUSR1)
    wait_for_line(path, r"(.*was reopened.*\n){3}")
    get(server.port, "/after")
    assert stopped_lines(server.process) == []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    opened = {line["pid"] for line in lines if "was reopened" in line["message"]}
    assert server.process.pid in opened
    assert len(opened) == 3
    assert {line["pid"] for line in lines if line.get("path") == "/after"} < opened
