"""`--loop module:factory`: other event loops, and one line for what is none."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from pathlib import Path

import pytest

from tests.raw import RawClient, text
from tests.runner.conftest import execute_here, processes
from tests.server_process import ROOT, RunCommand, ServerProcess, assert_no_traceback, assert_one_line, module_command
from tests.tls.certificates import Authority, TLSClient

__all__ = ["execute_here", "processes"]

APP = "tests.bench.apps:plain"
KNOWN = ("asyncio:SelectorEventLoop", "zuvloop:new_event_loop")


class Bare(asyncio.SelectorEventLoop):
    """A loop that cannot serve, as rloop 0.5."""

    connect_accepted_socket = asyncio.AbstractEventLoop.connect_accepted_socket  # raises NotImplementedError


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("loop", KNOWN)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_other_loops_serve(loop: str, scheme: str, processes: list[ServerProcess], tmp_path: Path) -> None:
    module = loop.partition(":")[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed, or not for this Python")
    authority = Authority(tmp_path)
    flags = authority.issue("localhost").flags if scheme == "https" else []
    process = ServerProcess(module_command([APP, "--port", "0", "--loop", loop, *flags]), folder=ROOT)
    processes.append(process)
    process.wait_ready()
    assert f"({module}, " in process.stderr[-1]

    def connect() -> RawClient:
        return TLSClient(process.port, authority.client_context()) if flags else RawClient(process.port)

    with connect() as client, connect() as websocket, connect() as lost:
        client.send(2 * GET)
        assert [client.read_answer().body, client.read_answer().body] == [b"hello", b"hello"]
        assert websocket.open_websocket("/echo").status == 101
        for size in (5, 1000, 300_000):
            websocket.send(text("x" * size))
            assert websocket.read_text() == "x" * size
        lost.open_websocket("/echo")
        lost.reset()
        process.signal(signal.SIGTERM)
        websocket.be_closed(1012, "service restart")
    assert process.wait() == 0
    assert_no_traceback(process)


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        ("no_such_module:new_event_loop", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("asyncio:no_such_factory", "AttributeError: module 'asyncio' has no attribute 'no_such_factory'"),
        ("asyncio:Queue", "which returns Queue"),
        ("os:getenv", "TypeError: getenv() missing 1 required positional argument: 'key'"),
        ("tests.runner.test_loops:Bare", "which lacks connect_accepted_socket"),
    ],
)
def test_what_gives_no_loop_is_one_line(execute_here: RunCommand, loop: str, said: str) -> None:
    ended = execute_here(APP, "--loop", loop)
    assert_one_line(ended, 2, f"--loop: '{loop}' was given, {said}", "allowed: module:factory")
