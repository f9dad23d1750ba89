"""The budget of the hot paths: what a message, a request and a handshake may cost, counted and not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from asgiws.protocol.websocket import masking, receiver
from tests.counted import ECHO, FRAME, Count, InServer, serve_while
from tests.raw import RawClient, close

MOST_CALLS = 6
"""Python-level calls in files of ours for each echoed message: calls of functions, and coroutines that go on."""
MOST_CALLS_OF_A_REQUEST = 27
"""The same for each answered request on a kept connection."""
MOST_CALLS_OF_A_HANDSHAKE = 88 + (not masking.UNMASK_IN_C)
"""The same from the accept of a connection over a handshake and a Close to its end."""
SPREAD_CALLS = 0.1
"""What comes once in many messages, such as a turn of the loop, spread over all of them."""


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


def play_in(shape: Shape, begin: Callable[[], None], end: Callable[[], None]) -> Callable[[int, InServer], None]:
    """Give a client that calls `begin` and `end` in the server's thread around what is to count."""

    def play(port: int, in_server: InServer) -> None:
        with RawClient(port) as client:
            if type(shape) is Shape:
                client.open_websocket()
            shape.play(client, 5)
            in_server(begin)
            shape.play(client, shape.times)
            in_server(end)

    return play


def count_calls(loop_name: str, shape: Shape) -> Count:
    count = Count()
    serve_while(loop_name, play_in(shape, lambda: sys.setprofile(count.profile), lambda: sys.setprofile(None)))
    return count


@pytest.fixture(params=["c", "python"])
def unmasking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of unmasking, whichever was chosen at import."""
    if request.param == "python":
        monkeypatch.setattr(receiver, "unmask", masking.unmask_python)
        monkeypatch.setattr(receiver, "UNMASK_IN_C", False)
    elif not masking.UNMASK_IN_C:
        pytest.skip("asgiws.protocol.websocket._masking is not built: it needs a C compiler at installation")
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
    """A call more of ours for each has to be worth it, and is then written down here.

    The least of three counts is judged: a tick of the sweep may forget the known heads in the middle of one.
    """
    count = min((count_calls(loop_name, shape) for _ in range(3)), key=lambda count: count.calls.total())
    ours = count.calls.total() / shape.messages
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
    client = play_in(SHAPES[shape], lambda: sys.settrace(count.trace), lambda: sys.settrace(None))
    serve_while(loop_name, client)
    assert count.exceptions == {}
