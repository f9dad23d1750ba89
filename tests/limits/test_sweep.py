"""The sweep in turns: how many connections one turn of the loop handles, and that each gets every tick."""

from __future__ import annotations

import asyncio

from asgiws.config.options import Config
from asgiws.runner.loops import loop_factory
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.sweep import Sweep
from asgiws.topics.hub import Hub
from tests.apps import echo

MOST_PER_TURN = 256
"""A ping costs 26 us, so this many take 7 ms: a third of the 20 ms that a stall may last."""
COUNT = 10_000


class Place:
    """What the connections of one test share: how many were ticked since the loop last turned."""

    def __init__(self) -> None:
        self.since_turn = 0
        self.most = 0
        self.left = COUNT
        self.done = asyncio.Event()


class FakeConnection:
    """Counts its ticks."""

    spreads_drain = False

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ticks = 0

    def on_tick(self, second_passed: bool) -> None:
        self.ticks += 1
        place = self.place
        place.since_turn += 1
        place.most = max(place.most, place.since_turn)
        place.left -= 1
        if not place.left:
            place.done.set()

    def begin_shutdown(self) -> None:
        """Nobody asks."""

    def abort(self) -> None:
        """Nobody asks."""


def run_sweep(loop_name: str, end_early: int = 0) -> tuple[Place, list[FakeConnection], WorkerState]:
    """Sweep over 10,000 connections, of which so many end in the first turn."""

    async def run() -> tuple[Place, list[FakeConnection], WorkerState]:
        loop = asyncio.get_running_loop()
        worker, place = WorkerState(echo, Config(), loop, Hub(loop)), Place()
        made = [FakeConnection(place) for _ in range(COUNT)]
        worker.registry.connections.update(dict.fromkeys(made))
        sweep = Sweep(worker, lambda: None)

        def on_turn() -> None:
            place.since_turn = 0
            handles[0] = loop.call_soon(on_turn)

        handles = [loop.call_soon(on_turn)]
        place.left -= end_early
        sweep.start()
        for connection in [connection for connection in made if not connection.ticks][:end_early]:
            worker.registry.remove(connection)
        await place.done.wait()
        await asyncio.sleep(0)
        sweep.stop()
        handles[0].cancel()
        return place, made, worker

    loop = loop_factory(loop_name)()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


def test_turn_of_the_loop_ticks_at_most_so_many_connections(loop_name: str) -> None:
    place, made, worker = run_sweep(loop_name)
    assert place.most <= MOST_PER_TURN
    assert {connection.ticks for connection in made} == {1}
    assert sum(worker.counters.sweeps.counts) == 1, "one sweep, however many turns it took"


def test_connection_that_ended_between_two_turns_is_not_ticked(loop_name: str) -> None:
    _, made, _ = run_sweep(loop_name, end_early=100)
    assert sorted(connection.ticks for connection in made) == [0] * 100 + [1] * (COUNT - 100)


def test_fault_in_what_is_done_each_second_does_not_end_the_sweep(loop_name: str) -> None:
    """Deadlines are kept, also those of later ticks; the loop's exception handler hears of the fault."""
    faults = []

    async def run() -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, details: faults.append(details["exception"]))
        worker, place = WorkerState(echo, Config.from_options({"answer_timeout": 0.02}), loop, Hub(loop)), Place()
        connection = FakeConnection(place)
        worker.registry.connections[connection] = None

        def fail() -> None:
            raise LookupError("each second")

        sweep = Sweep(worker, fail)
        place.left = 3
        loop.call_soon(sweep.start)
        await place.done.wait()
        sweep.stop()
        return connection.ticks

    loop = loop_factory(loop_name)()
    try:
        assert loop.run_until_complete(run()) == 3
    finally:
        loop.close()
    assert [str(fault) for fault in faults] == ["each second"]
