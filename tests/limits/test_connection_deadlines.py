"""The deadlines of a WebSocket connection without a clock: hours of silence, tick by tick."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from asgiws.config.options import Config
from asgiws.protocol.websocket.closing import State
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.state.deadlines import Deadlines
from asgiws.server.websocket.deadlines import (
    ANSWER_LATE,
    CLOSE_LATE,
    DEAD,
    IDLE_TOO_LONG,
    LIFETIME_OVER,
    NOTHING,
    OPENING_LATE,
    PING_NOW,
    SLOW_CLIENT,
    ConnectionDeadlines,
)  # fmt: skip


class FakeTransport(asyncio.Transport):
    """A transport that holds as many bytes as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take any."""

    def get_write_buffer_size(self) -> int:
        return self.waiting


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Playground:
    """The deadlines of a connection, and the transport that they look at."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **options: object) -> None:
        self.transport = FakeTransport()
        self.flow = FlowControl(self.transport, 100, 10)
        self.deadlines = ConnectionDeadlines(Deadlines(Config.from_options(options)), self.flow)

    def open_ticks(self, count: int, *, blocked: bool = False, messages: int = 0) -> list[tuple[int, int]]:
        """Which ticks, from 1 on, found something due, and what."""
        found = []
        for tick in range(1, count + 1):
            due = self.deadlines.tick_open(reading_blocked=blocked, message_count=messages)
            if due:
                found.append((tick, due))
        return found


def test_ping_within_the_interval_and_death_after_the_timeout(loop: asyncio.AbstractEventLoop) -> None:
    (ping, what), (death, end) = Playground(loop).open_ticks(40)[:2]
    assert 10 < ping <= 20
    assert death == ping + 20
    assert (what, end) == (PING_NOW, DEAD)


def test_connections_opened_together_are_pinged_at_different_ticks(loop: asyncio.AbstractEventLoop) -> None:
    """So are those that all received a byte in the same tick: a broadcast that each client answers."""
    plays = [Playground(loop) for _ in range(500)]
    for _ in range(2):
        pings = Counter(play.open_ticks(21)[0][0] for play in plays)
        assert sorted(pings) == list(range(11, 21))
        assert max(pings.values()) < 120, "500 in ten ticks are about 50 each"
        for play in plays:
            play.deadlines.quiet_ticks = 0  # what data_received does


def test_any_byte_is_a_sign_of_life(loop: asyncio.AbstractEventLoop) -> None:
    play = Playground(loop)
    [(first, _)] = play.open_ticks(29)
    play.deadlines.quiet_ticks = 0  # what data_received does
    assert play.open_ticks(29) == [(first, PING_NOW)]


def test_no_ping_interval_is_no_keepalive(loop: asyncio.AbstractEventLoop) -> None:
    assert Playground(loop, ping_interval=0).open_ticks(24 * 3600) == []


def test_no_ping_timeout_is_pings_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    found = Playground(loop, ping_timeout=0).open_ticks(200)
    first = found[0][0]
    assert found == [(tick, PING_NOW) for tick in range(first, 201, 20)]


def test_peer_is_not_dead_while_we_do_not_read_and_has_a_full_timeout_afterwards(
    loop: asyncio.AbstractEventLoop,
) -> None:
    play = Playground(loop)
    [(first, _)] = play.open_ticks(30)
    assert play.open_ticks(30, blocked=True) == [(first, PING_NOW)]
    assert play.open_ticks(first + 20) == [(first, PING_NOW), (first + 20, DEAD)]


def test_stuck_after_the_write_timeout_without_progress(loop: asyncio.AbstractEventLoop) -> None:
    play = Playground(loop, ping_interval=0, write_timeout=5)
    play.transport.waiting = 1000
    play.flow.pause_writing()
    assert play.open_ticks(4) == []
    play.transport.waiting = 999  # one byte left
    assert play.open_ticks(6) == [(6, SLOW_CLIENT)]


def test_no_write_timeout_is_patience(loop: asyncio.AbstractEventLoop) -> None:
    play = Playground(loop, ping_interval=0, write_timeout=0)
    play.transport.waiting = 1000
    play.flow.pause_writing()
    assert play.open_ticks(3600) == []


def test_answer_is_late_once(loop: asyncio.AbstractEventLoop) -> None:
    play = Playground(loop, ping_interval=0, answer_timeout=3)
    play.deadlines.expect_answer()
    play.deadlines.expect_answer()
    ticks = [tick for tick, due in play.open_ticks(20) if due == ANSWER_LATE]
    assert len(ticks) == 1


def test_idle_counts_from_the_last_message(loop: asyncio.AbstractEventLoop) -> None:
    play = Playground(loop, ping_interval=0, idle_timeout=10)
    assert play.open_ticks(9, messages=0) == []
    assert play.open_ticks(11, messages=1)[0] == (11, IDLE_TOO_LONG)


def test_lifetime_ends_within_a_tenth_before_its_maximum(loop: asyncio.AbstractEventLoop) -> None:
    ends = set()
    for _ in range(50):
        [(tick, due)] = Playground(loop, ping_interval=0, max_lifetime=1000).open_ticks(1000)
        assert due == LIFETIME_OVER
        ends.add(tick)
    assert min(ends) >= 900
    assert max(ends) <= 1000
    assert len(ends) > 5, "all at once is a storm"


def test_opening_is_late_after_the_handshake_timeout(loop: asyncio.AbstractEventLoop) -> None:
    deadlines = Playground(loop, handshake_timeout=5).deadlines
    assert [deadlines.tick_not_open(State.CONNECTING) for _ in range(5)] == [NOTHING] * 4 + [OPENING_LATE]


def test_denial_that_is_not_read_is_stuck(loop: asyncio.AbstractEventLoop) -> None:
    play = Playground(loop, write_timeout=5)
    play.transport.waiting = 10
    assert [play.deadlines.tick_not_open(State.DENYING) for _ in range(6)][-1] == SLOW_CLIENT


def test_close_that_is_not_answered_ends_after_the_close_timeout(loop: asyncio.AbstractEventLoop) -> None:
    deadlines = Playground(loop, close_timeout=5).deadlines
    deadlines.enter_state()
    assert [deadlines.tick_not_open(State.CLOSING) for _ in range(5)] == [NOTHING] * 4 + [CLOSE_LATE]


def test_close_behind_data_that_still_leaves_is_given_time(loop: asyncio.AbstractEventLoop) -> None:
    play = Playground(loop, close_timeout=5)
    for waiting in range(1000, 0, -1):
        play.transport.waiting = waiting
        assert play.deadlines.tick_not_open(State.CLOSING) == NOTHING
