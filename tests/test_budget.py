"""The budget of the hot paths: what a message, a request and a handshake may cost, counted and not timed.

The server runs on a loop in the test's own thread, with a profile function that counts; the client is a blocking socket
in another thread, which the profile does not see. The sweep, once a tick for all connections, is not counted.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import asgiws
from asgiws import Config, Server
from asgiws.protocol import masking, receiver
from asgiws.server.serving import loop_factory
from tests.apps import echo
from tests.conftest import PATIENCE_S
from tests.raw import RawClient, close, text

PACKAGE = str(Path(asgiws.__file__).parent)
MESSAGE = "0123456789abcdefghijklmnopqrstuv"
FRAME = text(MESSAGE)
ECHO = bytes([0x81, len(MESSAGE)]) + MESSAGE.encode()

MOST_CALLS = 6
"""Python-level calls in files of ours for each echoed message: calls of functions, and coroutines that go on."""
MOST_CALLS_OF_A_REQUEST = 30
"""The same for each answered request on a kept connection."""
MOST_CALLS_OF_A_HANDSHAKE = 99
"""The same from the accept of a connection over a handshake and a Close to its end."""
SPREAD_CALLS = 0.1
"""What comes once in many messages, such as a turn of the loop, spread over all of them."""

FORBIDDEN = {"pause_reading", "resume_reading", "call_later", "call_at", "add_reader", "remove_reader"}
"""Calls that cost a system call or a timer; none may be made for a message."""


class Shape:
    """How a client sends: so many messages at once, and so often."""

    def __init__(self, at_once: int, times: int) -> None:
        self.at_once = at_once
        self.times = times
        self.messages = at_once * times

    def play(self, client: RawClient, times: int) -> None:
        for _ in range(times):
            client.send(FRAME * self.at_once)
            assert client.read_exactly(len(ECHO) * self.at_once) == ECHO * self.at_once


class Requests(Shape):
    """A client that sends the same request again and again."""

    def play(self, client: RawClient, times: int) -> None:
        for _ in range(times):
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n")
            assert client.read_answer().status == 200


class Handshakes(Shape):
    """Clients that come, shake hands, close and go."""

    def play(self, client: RawClient, times: int) -> None:
        for _ in range(times):
            with RawClient(client.socket.getpeername()[1]) as other:
                other.open_websocket()
                other.send(close(1000))
                assert other.read_close() == (1000, "")
                assert other.read_to_end() == b""


SHAPES = {"one-in-flight": Shape(1, 200), "burst-of-64": Shape(64, 20)}


class Count:
    """A profile and trace function that counts what happens in the thread it is set in, outside the sweep."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """Calls of Python functions of ours, and each turn in which a coroutine of ours goes on."""
        self.other_calls: Counter[str] = Counter()
        """The same of the event loop and the standard library, and of the application."""
        self.forbidden: Counter[str] = Counter()
        self.exceptions: Counter[str] = Counter()
        self._sweep: CodeType = Server._sweep.__code__
        self._in_sweep = False

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code is self._sweep and event in ("call", "return"):
            self._in_sweep = event == "call"
        elif self._in_sweep:
            return
        elif event == "call":
            counts = self.calls if code.co_filename.startswith(PACKAGE) else self.other_calls
            counts[code.co_qualname] += 1
            if code.co_name in FORBIDDEN or Path(code.co_filename).parent.name == "logging":
                self.forbidden[code.co_qualname] += 1
        elif (
            event == "c_call"
            and code.co_filename.startswith(PACKAGE)
            and (argument.__name__ in FORBIDDEN or argument.__module__ == "time")
        ):
            self.forbidden[argument.__qualname__] += 1

    def trace(self, frame: FrameType, event: str, argument: Any) -> Callable[[FrameType, str, Any], Any] | None:
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code is self._sweep:
            return None
        frame.f_trace_lines = False
        # StopIteration is how a future tells an `await` that it is done; nobody raised it.
        if event == "exception" and not issubclass(argument[0], StopIteration):
            self.exceptions[f"{argument[0].__name__} in {frame.f_code.co_qualname}"] += 1
        return self.trace


def run_counted(loop_name: str, shape: Shape, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Serve an echo, let a client play, and call `begin` and `end` in the server's thread around what is to count."""

    def play(port: int, in_server: Callable[[Callable[[], None]], None]) -> None:
        with RawClient(port) as client:
            if type(shape) is Shape:
                client.open_websocket()
            shape.play(client, 5)
            in_server(begin)
            shape.play(client, shape.times)
            in_server(end)

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def in_server(function: Callable[[], None]) -> None:
            done = threading.Event()
            loop.call_soon_threadsafe(function)
            loop.call_soon_threadsafe(done.set)
            assert done.wait(PATIENCE_S)

        async with Server(echo, Config(port=0, access_log=False)) as server:
            await loop.run_in_executor(None, play, server.port, in_server)

    loop = loop_factory(loop_name)()
    try:
        loop.run_until_complete(serve())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def count_calls(loop_name: str, shape: Shape) -> Count:
    count = Count()
    before = sys.getprofile()
    try:
        run_counted(loop_name, shape, lambda: sys.setprofile(count.profile), lambda: sys.setprofile(None))
    finally:
        sys.setprofile(before)
    return count


@pytest.fixture(params=["c", "python"])
def unmasking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of unmasking, whichever was chosen at import."""
    if request.param == "python":
        monkeypatch.setattr(receiver, "unmask", masking.unmask_python)
        monkeypatch.setattr(receiver, "UNMASK_IN_C", False)
    elif not masking.UNMASK_IN_C:
        pytest.skip("asgiws.protocol._masking is not built: it needs a C compiler at installation")
    return str(request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_echo_of_a_short_message_costs_at_most_six_calls(
    loop_name: str, shape: str, unmasking: str, record_property: Callable[[str, object], None]
) -> None:
    """At most 6 Python-level calls of ours for each message."""
    count = count_calls(loop_name, SHAPES[shape])
    messages = SHAPES[shape].messages
    ours, others = sum(count.calls.values()) / messages, sum(count.other_calls.values()) / messages
    print(f"{loop_name}, {shape}, unmasking in {unmasking}: {ours:.2f} calls, and {others:.2f} of others")  # noqa: T201
    record_property("calls", ours)
    # The application receives and sends each one, so less than two calls would mean that nothing was counted.
    assert 2 <= ours <= MOST_CALLS + SPREAD_CALLS, count.calls


@pytest.mark.parametrize(
    ("shape", "most"),
    [(Requests(1, 100), MOST_CALLS_OF_A_REQUEST), (Handshakes(1, 50), MOST_CALLS_OF_A_HANDSHAKE)],
    ids=["request", "handshake"],
)
def test_request_and_handshake_cost_at_most_so_many_calls(
    loop_name: str, shape: Shape, most: int, record_property: Callable[[str, object], None]
) -> None:
    """A call more of ours for each has to be worth it, and is then written down here."""
    count = count_calls(loop_name, shape)
    ours = sum(count.calls.values()) / shape.messages
    print(f"{loop_name}: {ours:.2f} calls")  # noqa: T201
    record_property("calls", ours)
    assert 20 <= ours <= most + SPREAD_CALLS, count.calls


@pytest.mark.parametrize("shape", SHAPES)
def test_message_reads_no_clock_and_touches_no_timer_log_or_flow(loop_name: str, shape: str, unmasking: str) -> None:
    """No clock read, no log call, no timer, no pause or resumption of reading for a message.

    A profile does not see the functions of uvloop itself; those of asyncio it sees, and our code is the same on both.
    """
    assert count_calls(loop_name, SHAPES[shape]).forbidden == {}


@pytest.mark.parametrize("shape", SHAPES)
def test_message_raises_no_exception(loop_name: str, shape: str, unmasking: str) -> None:
    """Not even one that is caught at once."""
    count = Count()
    before = sys.gettrace()
    try:
        run_counted(loop_name, SHAPES[shape], lambda: sys.settrace(count.trace), lambda: sys.settrace(None))
    finally:
        sys.settrace(before)
    assert count.exceptions == {}
