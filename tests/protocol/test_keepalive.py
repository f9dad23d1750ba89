"""Keepalive in ticks: when a ping is due, when the peer is given up, and what turns either off."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol.websocket.keepalive import DEAD, NOTHING, PING_NOW, KeepalivePolicy, ticks
from tests.protocol.frame_help import relaxed


def story(policy: KeepalivePolicy, until: int) -> dict[int, int]:
    """Give what is due at each tick of a silence, where anything is."""
    due = {tick: policy.due(tick) for tick in range(until + 1)}
    return {tick: what for tick, what in due.items() if what != NOTHING}


def test_one_ping_at_the_interval_and_dead_after_the_timeout() -> None:
    assert story(KeepalivePolicy(interval_ticks=20, timeout_ticks=10), 31) == {20: PING_NOW, 30: DEAD, 31: DEAD}


def test_with_misses_each_ping_has_the_timeout_and_the_last_one_is_the_end() -> None:
    policy = KeepalivePolicy(interval_ticks=20, timeout_ticks=10, misses=3)
    assert story(policy, 51) == {20: PING_NOW, 30: PING_NOW, 40: PING_NOW, 50: DEAD, 51: DEAD}


def test_without_a_timeout_misses_do_not_count() -> None:
    assert story(KeepalivePolicy(5, 0, misses=2), 16) == {5: PING_NOW, 10: PING_NOW, 15: PING_NOW}


def test_shortest_interval_and_timeout() -> None:
    assert story(KeepalivePolicy(interval_ticks=1, timeout_ticks=1), 3) == {1: PING_NOW, 2: DEAD, 3: DEAD}


def test_without_a_timeout_pings_go_on_and_nobody_dies() -> None:
    assert story(KeepalivePolicy(interval_ticks=5, timeout_ticks=0), 16) == {5: PING_NOW, 10: PING_NOW, 15: PING_NOW}


@pytest.mark.parametrize("timeout", [0, 1, 10])
def test_without_an_interval_nothing_is_ever_due(timeout: int) -> None:
    assert story(KeepalivePolicy(interval_ticks=0, timeout_ticks=timeout), 100) == {}


@relaxed
@given(interval=st.integers(1, 500), timeout=st.integers(1, 500))
def test_a_silent_peer_gets_one_ping_and_the_whole_timeout_to_answer(interval: int, timeout: int) -> None:
    assert story(KeepalivePolicy(interval, timeout), interval + timeout) == {
        interval: PING_NOW,
        interval + timeout: DEAD,
    }


@pytest.mark.parametrize(
    ("seconds", "tick_s", "count"),
    [
        (0, 1.0, 0),  # never
        (-1, 1.0, 0),
        (20, 1.0, 20),
        (20.1, 1.0, 21),
        (0.001, 1.0, 1),  # never sooner than asked, and never "never"
        (1, 0.25, 4),
        (0.3, 0.1, 3),  # whose quotient in binary is below 3
        (2, 0.5, 4),
    ],
)
def test_ticks_make_at_least_the_seconds(seconds: float, tick_s: float, count: int) -> None:
    assert ticks(seconds, tick_s) == count


@relaxed
@given(seconds=st.integers(1, 10**6), parts=st.integers(1, 64))
def test_ticks_are_the_fewest_that_are_enough(seconds: int, parts: int) -> None:
    tick_s = Fraction(1, 64) * parts
    count = ticks(seconds, float(tick_s))
    assert (count - 1) * tick_s < seconds <= count * tick_s
