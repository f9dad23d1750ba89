"""`--shed-lag` and `--shed-memory`: when there is no room, new clients are refused and open sockets are served."""

from __future__ import annotations

import asyncio
import logging
import sysconfig
import time

import pytest

from asgiws.config.options import Config
from asgiws.server.asgi import Scope
from asgiws.server.overload import Overload
from asgiws.server.recycling import resident_bytes
from tests.apps import Receive, Send, echo, messages, say
from tests.conftest import RunningServer, Serve
from tests.limits.admission import begin, retry_after, wait_until
from tests.limits.memory import MIB
from tests.raw import Answer, RawClient, text

BLOCK_S = 0.3


def lags(overload: Overload, *seconds: float) -> list[bool]:
    """Whether new clients are refused after each measurement."""
    return [overload.measured(each, 0) is not None for each in seconds]


def test_one_long_call_is_no_overload_and_three_in_a_row_are() -> None:
    assert not any(lags(Overload(Config(shed_lag=0.5)), 60.0, 0, 0, 0))
    assert lags(Overload(Config(shed_lag=0.5)), 5.0, 5.0, 5.0) == [False, False, True]


def test_refusing_ends_at_half_the_lag_and_within_two_seconds() -> None:
    """So that a lag about the limit does not switch it on and off."""
    overload = Overload(Config(shed_lag=0.5))
    lags(overload, *[60.0] * 100)
    assert all(lags(overload, *[0.45, 0.55] * 100))
    lags(overload, *[60.0] * 100)
    assert lags(overload, *[0.0] * 20)[-1] is False


def test_lag_below_the_limit_refuses_nothing() -> None:
    assert not any(lags(Overload(Config(shed_lag=0.5)), *[0.49] * 1000))
    assert not any(lags(Overload(Config()), *[60.0] * 1000))


def test_refusing_for_memory_ends_five_percent_below() -> None:
    overload = Overload(Config(shed_memory=1000))
    seen = [overload.measured(0, used) is not None for used in (1000, 1001, 1000, 951, 950, 1000, 1001)]
    assert seen == [False, True, True, True, False, False, True]


class Blocking:
    """An echo that holds the event loop, again and again, from "block" to "stop"."""

    def __init__(self) -> None:
        self._blocks = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return await echo(scope, receive, send)
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        async for message in messages(receive):
            if message == "block":
                self._blocks = True
                task = asyncio.create_task(self._block())
            elif message == "stop":
                self._blocks = False
                await task
            await say(send, message)
        return None

    async def _block(self) -> None:
        while self._blocks:
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - what a faulty application does
            await asyncio.sleep(0)


def answer_to_handshake(server: RunningServer) -> Answer:
    with begin(server, "/") as client:
        return client.read_answer()


def open_patiently(server: RunningServer) -> RawClient:
    """A client with an open WebSocket; a busy machine makes a loop lag, too."""
    clients: list[RawClient] = []

    def is_open() -> bool:
        if clients:
            clients.pop().socket.close()
        clients.append(begin(server, "/"))
        return clients[0].read_answer().status == 101

    wait_until(is_open)
    return clients[0]


def wait_status(server: RunningServer, status: int) -> Answer:
    """Open WebSockets until one is answered with that status."""
    answers: list[Answer] = []

    def has_come() -> bool:
        answers.append(answer_to_handshake(server))
        return answers[-1].status == status

    wait_until(has_come)
    return answers[-1]


def get(server: RunningServer, path: str) -> Answer:
    with RawClient(server.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return client.read_answer()


@pytest.mark.slow
def test_lag_refuses_new_websockets_and_touches_no_open_one(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(Blocking(), shed_lag=BLOCK_S / 2)
    with caplog.at_level(logging.INFO, "asgiws"), open_patiently(server) as client:
        client.send(text("block"))
        assert client.read_text() == "block"
        answer = wait_status(server, 503)
        assert retry_after(answer) in range(1, 11)
        assert answer.body.startswith(b"shed-lag: the event loop lags ")
        client.send(text("still served"))
        assert client.read_text() == "still served"
        assert get(server, "/").status == 200
        assert server.call(server.server.report)["levels"]["shedding"] == {"": 1}
        client.send(text("stop"))
        assert client.read_text() == "stop"
        wait_status(server, 101)
        wait_until(lambda: server.call(server.server.report)["levels"]["shedding"] == {"": 0})
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("refusing new WebSockets: the event loop lags") for line in lines)
    assert any(line.startswith("no longer refusing, after ") for line in lines)


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="a free-threaded Python keeps the memory that is freed"
)
def test_memory_refuses_new_websockets_until_it_is_freed(serve: Serve) -> None:
    server = serve(echo, shed_memory=resident_bytes() + 64 * MIB)
    with RawClient(server.port) as client:
        client.open_websocket()
        held = bytearray(b"x") * (192 * MIB)
        assert wait_status(server, 503).body.startswith(b"shed-memory: ")
        client.send(text("still served"))
        assert client.read_text() == "still served"
        del held
        wait_status(server, 101)


def test_requests_are_refused_when_asked_for_and_health_checks_never(serve: Serve) -> None:
    server = serve(echo, shed_memory=1, shed_requests=True, health_path="/health")
    wait_status(server, 503)
    answer = get(server, "/")
    assert (answer.status, answer.header(b"connection")) == (503, b"close")
    assert answer.body.startswith(b"shed-memory: ")
    assert get(server, "/health").body == b"ready\n"


def test_readiness_follows_when_asked_to(serve: Serve) -> None:
    server = serve(echo, shed_memory=1, shed_readiness=True, health_path="/health")
    wait_status(server, 503)
    assert get(server, "/health").status == 503
    assert get(server, "/").status == 200
    assert server.call(server.server.report)["overloaded"] is True
