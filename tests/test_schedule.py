"""`asgiws.schedule`: order, turns of the loop, and faults, on a loop whose clock the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asgiws.schedule import Schedule, spread


class Clock:
    """As much of a loop as a schedule uses: a clock that is set, and one timer at a time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.due_s: float | None = None
        self._call: Callable[[], object] = lambda: None

    def time(self) -> float:
        return self.now_s

    def call_at(self, due_s: float, call: Callable[[], object]) -> Clock:
        assert self.due_s is None, "one timer serves all calls"
        self.due_s, self._call = due_s, call
        return self

    def cancel(self) -> None:
        self.due_s = None

    def turn(self) -> None:
        """Let the timer expire."""
        assert self.due_s is not None
        self.now_s, self.due_s = max(self.now_s, self.due_s), None
        self._call()


@pytest.fixture
def clock() -> Any:
    return Clock()


def test_calls_are_spread_evenly_and_in_order(clock: Any) -> None:
    made: list[tuple[float, str]] = []
    spread(clock, "abcd", 2.0, lambda name: made.append((clock.now_s, name)), after_s=0.25)
    while clock.due_s is not None:
        clock.turn()
    assert made == [(0.25, "a"), (0.75, "b"), (1.25, "c"), (1.75, "d")]


def test_calls_that_are_due_together_take_several_turns_of_the_loop(clock: Any) -> None:
    """10,000 connections that are closed at once must not hold the loop."""
    made: list[int] = []
    spread(clock, range(250), 0.0, made.append)
    seen = [len(made)]
    while clock.due_s is not None:
        clock.turn()
        seen.append(len(made))
    assert seen == [100, 200, 250]
    assert made == list(range(250))


def test_finish_makes_all_calls_that_are_left_at_once(clock: Any) -> None:
    made: list[int] = []
    schedule = spread(clock, range(300), 600.0, made.append)
    assert made == [0]
    schedule.finish()
    assert made == list(range(300))
    assert clock.due_s is None
    schedule.add(clock.now_s, lambda: made.append(300))
    clock.turn()
    assert made[-1] == 300


def test_a_fault_in_one_call_leaves_the_others_their_turn(clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    made: list[int] = []

    def call(number: int) -> None:
        if number == 1:
            raise RuntimeError("of one connection")
        made.append(number)

    spread(clock, range(3), 0.0, call)
    assert made == [0, 2]
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_call_may_add_another(clock: Any) -> None:
    made: list[str] = []
    schedule = Schedule(clock)
    schedule.add(1.0, lambda: schedule.add(3.0, lambda: made.append("later")))
    clock.turn()
    assert (made, clock.due_s) == ([], 3.0)
    clock.turn()
    assert made == ["later"]


def test_nothing_is_early_on_a_real_loop() -> None:
    async def run() -> list[float]:
        loop = asyncio.get_running_loop()
        began_s, seen, done = loop.time(), [], asyncio.Event()

        def call(number: int) -> None:
            seen.append(loop.time() - began_s - number * 0.02)
            if number == 4:
                done.set()

        spread(loop, range(5), 0.1, call)
        await done.wait()
        return seen

    assert min(asyncio.run(run())) > -0.002
