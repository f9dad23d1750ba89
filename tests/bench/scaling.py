"""What grows with the number of connections, and what does not: the cost of a message, the sweep, slow clients."""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.bench import machine, wire
from tests.bench.driver import Echo, InTurn, close_all, open_websockets
from tests.bench.extra import NotPossible
from tests.bench.machine import cpu_s
from tests.bench.run import FAILURES, described, say
from tests.bench.servers import FLOOR, Running, Server
from tests.raw import frame

_SIZE: Final = 32
_SLOW_BYTES: Final = 8 * 1024 * 1024
_IN_FLIGHT: Final = ((1, 1), (64, 8))
"""Messages in flight, and how many times as many messages a round has then: they cost less."""
_STALL_S: Final = 0.5
_PING: Final = b"\x89"


@dataclass(frozen=True)
class ScalingPlan:
    """How much is measured."""

    counts: tuple[int, ...]
    messages: int
    """In a round, about."""
    rounds: int
    idle_s: float
    slow_count: int


FULL: Final = ScalingPlan((1, 10, 100, 1000, 10000), 10000, 7, 10.0, 50)
QUICK: Final = ScalingPlan((1, 10, 100, 1000), 4000, 3, 3.0, 50)


def run(plan: ScalingPlan, servers: Sequence[Server]) -> dict[str, Any]:
    """Measure the servers one after the other; gives what is saved under `scaling`."""
    most = plan.counts[-1]
    if not machine.allow_files(2 * most):
        raise NotPossible(f"{most} connections need a limit of {2 * most} open files (ulimit -Hn)")
    figures: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    with machine.pin(machine.driver_core()):
        for server in servers:
            try:
                figures[server.name] = {"cpu": _messages(plan, server)}
                if server.kind != FLOOR:
                    figures[server.name] |= {"idle": _idle(plan, server), "beside slow": _beside_slow(plan, server)}
            except FAILURES as error:
                failures[server.name] = described(error)
                say(f"{server.name}: {failures[server.name]}")
            else:
                say(f"{server.name}: {figures[server.name]}")
    return {"connections": most, "slow": plan.slow_count, "servers": figures, "failures": failures}


# ---- the cost of a message


def _messages(plan: ScalingPlan, server: Server) -> dict[str, dict[str, float]]:
    """Microseconds of CPU for a message, by messages in flight on the one connection whose turn it is, and by count.

    A server for each count, all up at once, so that their rounds can be interleaved.
    """
    with contextlib.ExitStack() as stack:
        loads: list[tuple[Running, InTurn]] = []
        for count in plan.counts:
            running = Running(server)
            stack.callback(running.stop)
            load = InTurn(running.port, count, 1, _SIZE)
            stack.callback(load.close)
            loads.append((running, load))
        return {str(in_flight): _costs(plan, loads, plan.messages * most, in_flight) for in_flight, most in _IN_FLIGHT}


def _costs(
    plan: ScalingPlan, loads: Sequence[tuple[Running, InTurn]], messages: int, in_flight: int
) -> dict[str, float]:
    found: dict[str, list[float]] = {str(len(load.clients)): [] for _, load in loads}
    for number in range(plan.rounds + 1):
        for running, load in loads:
            before_s = cpu_s(running.pids)
            played = load.play_messages(messages, in_flight)
            if number:  # the first is for warming up
                found[str(len(load.clients))].append((cpu_s(running.pids) - before_s) / played * 1e6)
    return {count: statistics.median(costs) for count, costs in found.items()}


# ---- idle connections


def _idle(plan: ScalingPlan, server: Server) -> dict[str, float]:
    """Percent of a core for all connections idle: the sweep alone, and with a ping and a pong of each."""
    running = Running(server)
    clients: list[socket.socket] = []
    try:
        clients = open_websockets(running.port, plan.counts[-1], f"/echo?size={_SIZE}")
        found = {"sweep": _percent(running, clients, plan.idle_s)}
        if plan.idle_s >= FULL.idle_s:
            # Pings come every 20 s by default, of every server that has them.
            found["pings"] = _percent(running, clients, 20.0)
        return found
    finally:
        close_all(clients)
        running.stop()


def _percent(running: Running, clients: Sequence[socket.socket], seconds: float) -> float:
    poll = select.epoll()
    by_number = {client.fileno(): client for client in clients}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    try:
        begin_s, before_s = time.monotonic(), cpu_s(running.pids)
        while (left_s := begin_s + seconds - time.monotonic()) > 0:
            for number, _ in poll.poll(left_s):
                data = by_number[number].recv(4096)
                if data.startswith(_PING):
                    by_number[number].sendall(frame(10, data[2:]))
                elif not data:
                    raise ConnectionResetError("the server closed an idle connection")
        return (cpu_s(running.pids) - before_s) / (time.monotonic() - begin_s) * 100
    finally:
        poll.close()


# ---- beside clients that do not read


def _beside_slow(plan: ScalingPlan, server: Server) -> float:
    """CPU of 50 connections that read, beside some that do not, as a multiple of the same without those."""
    alone, crowded = Running(server), Running(server)
    slow: list[socket.socket] = []
    loads: list[Echo] = []
    try:
        slow = stuck_clients(crowded.port, plan.slow_count)
        loads = [Echo(running.port, 50, 1, _SIZE) for running in (alone, crowded)]
        steps = max(1, plan.messages // 50)
        found: tuple[list[float], list[float]] = ([], [])
        for number in range(plan.rounds + 1):
            for running, load, costs in zip((alone, crowded), loads, found, strict=True):
                before_s = cpu_s(running.pids)
                load.play(steps)
                if number:  # the first is for warming up
                    costs.append(cpu_s(running.pids) - before_s)
        return statistics.median(found[1]) / statistics.median(found[0])
    finally:
        for load in loads:
            load.close()
        close_all(slow)
        alone.stop()
        crowded.stop()


def stuck_clients(port: int, count: int) -> list[socket.socket]:
    """Clients that have sent much, get all of it back, and read nothing: the server can write no more to them."""
    clients = open_websockets(port, count, f"/echo?size={_SIZE}")
    request = wire.client_frame(wire.BINARY, 65536)
    sent = dict.fromkeys(clients, 0)
    while True:
        # Nobody takes a byte for so long: all of them are stuck.
        _, writable, _ = select.select([], [client for client in clients if sent[client] < _SLOW_BYTES], [], _STALL_S)
        if not writable:
            return clients
        for client in writable:
            sent[client] += client.send(request[sent[client] % len(request) :], socket.MSG_DONTWAIT)
