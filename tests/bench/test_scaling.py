"""What does not grow with the number of connections, counted and not timed."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from types import FrameType
from typing import Any

import pytest

from asgiws.server.sweep import Sweep
from tests import PATIENCE_S
from tests.bench.scaling import stuck_clients
from tests.counted import ECHO, FRAME, Count, InServer, serve_while
from tests.raw import RawClient, text

ROUNDS = 10


def opened(stack: contextlib.ExitStack, port: int, count: int) -> list[RawClient]:
    clients = [stack.enter_context(RawClient(port)) for _ in range(count)]
    for client in clients:
        client.open_websocket()
    return clients


def echo_on_each(clients: list[RawClient]) -> None:
    """One message on each, and then the answer of each: they are all in flight together."""
    for client in clients:
        client.send(FRAME)
    for client in clients:
        assert client.read_exactly(len(ECHO)) == ECHO


def calls_for_a_message(loop_name: str, *, idle: int = 0, stuck: int = 0) -> Counter[str]:
    """How often each function of ours is called for ten messages of one client beside others."""
    count = Count()

    def play(port: int, in_server: InServer) -> None:
        with contextlib.ExitStack() as stack:
            opened(stack, port, idle)
            for slow in stuck_clients(port, stuck):
                stack.callback(slow.close)
            [client] = opened(stack, port, 1)
            echo_on_each([client] * 3)
            in_server(lambda: sys.setprofile(count.profile))
            for _ in range(ROUNDS):
                echo_on_each([client])
            in_server(lambda: sys.setprofile(None))

    serve_while(loop_name, play)
    return count.calls


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_message_costs_the_same_calls_beside_a_thousand_connections(loop_name: str) -> None:
    """Nothing that a message does looks at the other connections."""
    alone = calls_for_a_message(loop_name)
    assert sum(alone.values()) >= 2 * ROUNDS, "nothing was counted"
    assert calls_for_a_message(loop_name, idle=1000) == alone


@pytest.mark.slow
def test_message_costs_the_same_calls_beside_clients_that_do_not_read(loop_name: str) -> None:
    """Who is stuck with a full buffer in both directions is not looked at either."""
    assert calls_for_a_message(loop_name, stuck=5) == calls_for_a_message(loop_name)


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_calls_of_a_thousand_messages_in_flight_are_a_thousand_times_those_of_one(loop_name: str) -> None:
    counts: dict[int, int] = {}

    def play(port: int, in_server: InServer) -> None:
        with contextlib.ExitStack() as stack:
            clients = opened(stack, port, 1000)
            echo_on_each(clients)
            for some in (clients[:1], clients):
                count = Count()
                in_server(lambda count=count: sys.setprofile(count.profile))  # type: ignore[misc]
                echo_on_each(some)
                in_server(lambda: sys.setprofile(None))
                counts[len(some)] = sum(count.calls.values())

    serve_while(loop_name, play)
    assert counts[1000] <= 1000 * counts[1]


class SweepCount:
    """A profile function that counts the calls that sweeps make, ours and those into C."""

    def __init__(self, turns: int) -> None:
        self.done = threading.Event()
        self.calls: Counter[str] = Counter()
        self._turns = 0
        self._wanted = turns
        self._inside = False

    def for_a_connection(self) -> float:
        """Return the calls for each connection and tick."""
        return sum(self.calls.values()) / sum(count for name, count in self.calls.items() if name.endswith(".on_tick"))

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code is Sweep.turn.__code__ and event in ("call", "return"):
            self._inside = event == "call"
            self._turns += event == "return"
            if self._turns == self._wanted:
                sys.setprofile(None)
                self.done.set()
        elif self._inside and event == "call":
            self.calls[frame.f_code.co_qualname] += 1
        elif self._inside and event == "c_call":
            self.calls[argument.__qualname__] += 1


MOST_SWEEP_CALLS = 4
"""For each idle connection and tick: the connection, its watch and the keepalive are asked; one is to spare."""


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_sweep_costs_an_idle_connection_a_few_calls_whatever_their_number(loop_name: str) -> None:
    found: dict[int, float] = {}

    def play(port: int, in_server: InServer) -> None:
        with contextlib.ExitStack() as stack:
            clients: list[RawClient] = []
            for number in (100, 1000):
                clients += opened(stack, port, number - len(clients))
                count = SweepCount(12)
                in_server(lambda count=count: sys.setprofile(count.profile))  # type: ignore[misc]
                assert count.done.wait(PATIENCE_S)
                found[number] = count.for_a_connection()

    # A quarter of the shortest deadline is the tick: many sweeps a second.
    serve_while(loop_name, play, answer_timeout=0.02)
    assert 1 <= found[1000] <= MOST_SWEEP_CALLS
    assert found[1000] <= found[100]


def test_client_that_does_not_read_delays_nobody(loop_name: str) -> None:
    """A hundred echoes of another come back while it is stuck, and it is still there afterwards."""

    def play(port: int, in_server: InServer) -> None:
        with contextlib.ExitStack() as stack:
            [slow] = stuck_clients(port, 1)
            stack.callback(slow.close)
            [client] = opened(stack, port, 1)
            for number in range(100):
                client.send(text(str(number)))
                assert client.read_text() == str(number)
            assert slow.recv(2)[:1] == b"\x82", "what it did not read is still there for it"

    serve_while(loop_name, play)
