"""`python -m tests.bench.topics`: one message to many sockets, with topics and with what people use instead.

Server CPU for each delivery, all processes of the server together, and Redis beside it where it is used. The rounds of
all contestants are interleaved. A real `redis-server` is started where one is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Final

from tests.bench import machine
from tests.bench.brokers import ASGIWS, UVICORN, UVICORN_FACTORY, Broker, missing, running_broker, with_options
from tests.bench.driver import Broadcast
from tests.bench.extra import NotPossible
from tests.bench.machine import cpu_s
from tests.bench.run import FAILURES, described, say
from tests.bench.servers import APPS, BY_NAME, Running, Server

_FLOOR: Final = BY_NAME["bare protocol"]

APPS["manager"] = "tests.bench.apps_topics:manager"


@dataclass(frozen=True)
class Contestant:
    """One way to send to many."""

    name: str
    server: Server
    app: str
    redis: bool = False
    compression: bool = False


CONTESTANTS: Final = (
    Contestant("bare loop of transport.write", _FLOOR, "plain"),
    Contestant("Topic", ASGIWS, "topic"),
    Contestant("Topic, 4 workers", with_options("asgiws", "--ping-interval", "0", "--workers", "4"), "topic"),
    Contestant("Topic and Redis", ASGIWS, "topic", redis=True),
    Contestant("loop of sends, asgiws", ASGIWS, "plain"),
    Contestant("loop of sends, uvicorn", UVICORN, "plain"),
    Contestant("ConnectionManager, uvicorn", UVICORN, "manager"),
    Contestant("Channels and channels_redis, uvicorn", UVICORN_FACTORY, "channels", redis=True),
    Contestant("broadcaster and Redis, uvicorn", UVICORN_FACTORY, "broadcaster", redis=True),
    Contestant("Topic, compressed", ASGIWS, "topic", compression=True),
    Contestant("loop of sends, asgiws, compressed", ASGIWS, "plain", compression=True),
    Contestant("ConnectionManager, uvicorn, compressed", UVICORN, "manager", compression=True),
)


@dataclass
class _Load:
    contestant: Contestant
    running: Running
    load: Broadcast
    costs_us: list[float] = field(default_factory=list)


def measure(sockets: int, rounds: int, seconds: float, size: int) -> dict[str, str]:
    """Measure all contestants; return a line for each."""
    files = len(CONTESTANTS) * sockets + 64  # of the clients; a server has those of one contestant
    if not machine.allow_files(files):
        raise NotPossible(f"{sockets} sockets for each contestant need a limit of {files} open files (ulimit -Hn)")
    lines: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        redis = None if missing("redis-server", ASGIWS) else stack.enter_context(running_broker("redis-server"))
        stack.enter_context(machine.pin(machine.driver_core()))
        loads: list[_Load] = []
        for contestant in CONTESTANTS:
            if contestant.redis and (reason := missing("redis-server", contestant.server)):
                lines[contestant.name] = reason
                continue
            try:
                loads.append(_start(stack, contestant, redis if contestant.redis else None, sockets, size))
            except FAILURES as error:
                lines[contestant.name] = described(error)
        for number in range(rounds + 1):
            for each in [each for each in loads if each.contestant.name not in lines]:
                pids = [*each.running.pids, *([redis.pid] if each.contestant.redis and redis else [])]
                try:
                    cost_us = _round(each, pids, seconds)
                except FAILURES as error:
                    lines[each.contestant.name] = described(error)
                else:
                    if number:  # the first is for warming up
                        each.costs_us.append(cost_us)
        floor = statistics.median(loads[0].costs_us)
        for each in loads:
            if each.contestant.name not in lines:
                cost = statistics.median(each.costs_us)
                spread = max(each.costs_us) / min(each.costs_us)
                lines[each.contestant.name] = (
                    f"{cost:8.2f} us a delivery to {sockets:,} sockets, {cost / floor:6.2f} x the bare loop "
                    f"(rounds within {spread:.2f})"
                )
    return lines


def _start(stack: contextlib.ExitStack, contestant: Contestant, redis: Broker | None, sockets: int, size: int) -> _Load:
    environ = {} if redis is None else redis.environ_of(contestant.server)
    running = Running(contestant.server, contestant.app, compression=contestant.compression, environ=environ)
    stack.callback(running.stop)
    load = Broadcast(running.port, sockets, size, compression=contestant.compression)
    stack.callback(load.close)
    return _Load(contestant, running, load)


def _round(each: _Load, pids: list[int], seconds: float) -> float:
    before_s, end_s, steps = cpu_s(pids), time.monotonic() + seconds, 0
    while time.monotonic() < end_s or not steps:
        each.load.play(1)
        steps += 1
    return (cpu_s(pids) - before_s) / (steps * each.load.units) * 1e6


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.topics", description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a round takes")
    parser.add_argument("--size", type=int, default=100, help="bytes of a message")
    options = parser.parse_args()
    try:
        lines = measure(options.sockets, options.rounds, options.seconds, options.size)
    except NotPossible as error:
        say(str(error))
        return 2
    for name, line in lines.items():
        say(f"{name:42} {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
