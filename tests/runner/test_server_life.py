"""The life of a `Server`: it starts once, a stop is harmless at any time, and it takes what the process may have."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asgiws.config.options import Config
from asgiws.runner.loops import loop_factory
from asgiws.server.asgi import Scope
from asgiws.server.lifespan import StartupFailed
from asgiws.server.server import Server
from tests import PATIENCE_S
from tests.apps import Receive, Send, echo
from tests.conftest import Serve
from tests.raw import RawClient
from tests.server_process import APPS, ROOT, Start, clean_environ

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def run(loop_name: str, work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work()

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(bounded())


def test_stop_before_the_start_does_nothing(loop_name: str) -> None:
    async def work() -> None:
        server = Server(echo, Config(port=0))
        await server.stop()
        async with server:
            assert server.ready

    run(loop_name, work)


def test_server_starts_once(loop_name: str) -> None:
    async def work() -> None:
        async with Server(echo, Config(port=0)) as server:
            with pytest.raises(RuntimeError, match="was started before"):
                await server.start()
            assert server.ready
        with pytest.raises(RuntimeError, match="was started before"):
            await server.start()

    run(loop_name, work)


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_stop_during_the_start_ends_it(loop_name: str, lifespan: str) -> None:
    """The application still starts: nothing listens afterwards, and `start` says so."""
    asked = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        asked.set()
        await asyncio.Event().wait()

    async def work() -> None:
        server = Server(app, Config(port=0, graceful_timeout=1, lifespan=lifespan))
        start = asyncio.create_task(server.start())
        await asked.wait()
        await server.stop()
        with pytest.raises(StartupFailed, match="stopped while the application started"):
            await start
        assert not server.ready
        assert server.port == 0

    run(loop_name, work)


def test_report_has_the_open_files_and_their_limit(serve: Serve) -> None:
    server = serve(echo)

    def levels() -> tuple[int, int]:
        values = server.call(server.server.report)["levels"]
        return values["open_files"][""], values["open_files_limit"][""]

    before, limit = levels()
    assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(RawClient(server.port))
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_answer().status == 200
        # Both ends are in this process.
        assert before + 20 <= levels()[0] <= before + 30


def start_with_limit(start: Start, *arguments: str) -> Any:
    """Start a server whose soft limit of open files is 256."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        return start(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(HARD < 1024, reason="the hard limit of open files is low here")
@pytest.mark.parametrize("options", [(), ("--workers", "1"), ("--reload",)], ids=["alone", "workers", "reload"])
def test_limit_of_open_files_is_raised_and_said_with_the_loop(
    start: Start, loop_name: str, options: tuple[str, ...]
) -> None:
    process = start_with_limit(start, f"{APPS}:limits", *options)
    limit = min(HARD, 1024 * 1024)
    assert f"({loop_name}, up to {limit} open files)" in process.stderr[-1]
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().json() == limit


def test_program_that_calls_run_keeps_its_limits() -> None:
    program = f"""
import asyncio, resource, asgiws
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {HARD}))
async def app(scope, receive, send):
    await receive()
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    await send({{"type": "lifespan.startup.failed"}})
try:
    asgiws.run(app, port=0)
except Exception as error:
    print(type(error).__name__)
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, env=clean_environ(), cwd=ROOT, check=True)
    assert ended.stdout.split() == ["256", "StartupFailed"]


@pytest.mark.slow
def test_application_that_blocks_the_event_loop_gets_a_line(start: Start) -> None:
    process = start(f"{APPS}:blocks_for_a_while")
    with RawClient(process.port) as client:
        began_s = time.monotonic()
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 200
        assert time.monotonic() - began_s > 2
        process.wait_stderr(r"WARNING +the event loop was blocked for [2-9]\.[0-9] s")
