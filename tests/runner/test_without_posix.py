"""Without POSIX, as on Windows: what works there, and one line for what does not.

A simulation, see `without_posix/sitecustomize.py`: nothing here ran on Windows.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Protocol

import pytest

from tests.raw import RawClient, text
from tests.runner.conftest import processes
from tests.server_process import (
    ROOT,
    Ended,
    RunCommand,
    ServerProcess,
    assert_no_traceback,
    assert_one_line,
    free_port,
    module_command,
)
from tests.tls.certificates import Authority, TLSClient

__all__ = ["processes"]

MASKED = {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent / "without_posix"), str(ROOT)))}
EDITED = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}})
        await send({{"type": "http.response.body", "body": b"{}"}})
    elif scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        while (event := await receive())["type"] == "websocket.receive":
            await send({{"type": "websocket.send", "text": event["text"]}})
"""
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Serve(Protocol):
    def __call__(self, *arguments: str) -> ServerProcess: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "edited.py").write_text(EDITED.format("one"))
    return tmp_path


@pytest.fixture
def serve(processes: list[ServerProcess], folder: Path) -> Serve:
    """Start servers that lack POSIX, in the folder of the application."""

    def serve(*arguments: str) -> ServerProcess:
        process = ServerProcess(module_command(["--port", "0", *arguments]), environ=MASKED, folder=folder)
        processes.append(process)
        return process

    return serve


@pytest.fixture
def run_command(serve: Serve) -> RunCommand:
    return lambda *arguments, **_: Ended.of(serve(*arguments))


def check_echoes(client: RawClient) -> None:
    assert client.open_websocket().status == 101
    for size in (5, 100_000):
        client.send(text("x" * size))
        assert client.read_text() == "x" * size


def check_end(process: ServerProcess) -> None:
    """Press Ctrl-C, and check that nothing failed until then."""
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert_no_traceback(process)


def test_serves_and_stops_on_ctrl_c(serve: Serve) -> None:
    process = serve("edited:app")
    process.wait_ready()
    with RawClient(process.port) as client, RawClient(process.port) as other:
        check_echoes(client)
        other.send(2 * GET)
        assert [other.read_answer().body, other.read_answer().body] == [b"one", b"one"]
        process.signal(signal.SIGINT)
        client.be_closed(1012, "service restart")
    assert process.wait() == 0
    assert_no_traceback(process)


def test_serves_tls(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    process = serve("edited:app", *authority.issue("localhost").flags)
    process.wait_ready()
    with TLSClient(process.port, authority.client_context()) as client:
        check_echoes(client)
    check_end(process)


def test_reloads(serve: Serve, folder: Path) -> None:
    process = serve("edited:app", "--reload", "--reload-delay", "0.05")
    process.wait_ready()
    first = process.port
    with RawClient(first) as client, RawClient(first) as websocket:
        client.send(GET)
        assert client.read_answer().body == b"one"
        check_echoes(websocket)
        (folder / "edited.py").write_text(EDITED.format("2nd"))
        process.wait_stderr("changed: edited.py")
        process.wait_ready()
        websocket.be_closed(1012, "service restart")
    assert process.port == first
    with RawClient(first) as client:
        client.send(GET)
        assert client.read_answer().body == b"2nd"
    check_end(process)


def test_serves_the_demo(serve: Serve) -> None:
    process = serve("asgiws.demo:app")
    process.wait_ready()
    with RawClient(process.port) as client:
        client.send(GET)
        assert b"<html" in client.read_answer().body
    check_end(process)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workers", "2"),
        ("--uds", "s"),
        ("--fd", "3"),
        ("--bind", "fd:3"),
        ("--bind", "unix:s"),
        ("--admin", "unix:s"),
    ],
)
def test_what_needs_posix_is_one_line(run_command: RunCommand, arguments: tuple[str, str]) -> None:
    ended = run_command("edited:app", *arguments)
    assert_one_line(ended, 2, f"{arguments[0]}: ", arguments[1].strip("'"), "need POSIX (Linux, macOS)")


def test_other_commands_work(run_command: RunCommand, serve: Serve) -> None:
    ended = run_command("edited:app", "--check-config")
    assert ended.code == 0, ended.stderr
    process = serve("edited:app", "--admin", f"127.0.0.1:{(port := free_port())}")
    process.wait_ready()
    health = ServerProcess(module_command(["health", f"127.0.0.1:{port}"]), environ=MASKED)
    assert Ended.of(health).stdout == ["ready"]
    check_end(process)
