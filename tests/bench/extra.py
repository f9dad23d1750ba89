"""The workloads whose figure is another: memory of idle connections, and latency with the longest pause of the loop."""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections import deque
from typing import Final

from tests.bench import wire
from tests.bench.driver import Echo, InTurn, Refused, close_all, open_websockets, read_exactly
from tests.bench.machine import allow_files, cpu_s, pss_bytes
from tests.bench.servers import Running, Server
from tests.raw import frame

_WARM: Final = 50
_MESSAGE: Final = wire.records(100, 1)[0]
LATENCY_CONNECTIONS: Final = 50
_SIZE: Final = 32
_ALONE: Final = 4000


class NotPossible(Exception):  # noqa: N818 - what happened
    """The machine does not allow it; says what it needs."""


# ---- memory


def memory(server: Server, count: int, *, offer: bool) -> dict[str, float]:
    """KiB for each idle connection, before and after one echo of 100 B. `offer`: compression, as a browser offers it.

    A server that can compress has compression on then, as its users have; the others decline the offer.
    """
    if not allow_files(count + 1000):
        raise NotPossible(f"{count} connections need a limit of {count + 1000} open files (ulimit -Hn)")
    running = Running(server, compression=offer and server.compression is not None)
    clients: list[socket.socket] = []
    try:
        clients = _idle(running, _WARM, offer=offer)
        _echo_once(clients, compressed=running.compression)
        before = pss_bytes(running.pids)
        more = _idle(running, count, offer=offer)
        clients += more
        idle = pss_bytes(running.pids)
        _echo_once(more, compressed=running.compression)
        after = pss_bytes(running.pids)
    finally:
        close_all(clients)
        running.stop()
    return {"idle": (idle - before) / count / 1024, "after echo": (after - before) / count / 1024}


def _idle(running: Running, count: int, *, offer: bool) -> list[socket.socket]:
    return open_websockets(running.port, count, f"/echo?size={len(_MESSAGE)}", compression=offer)


def _echo_once(clients: list[socket.socket], *, compressed: bool) -> None:
    request = wire.compressed_frame(_MESSAGE) if compressed else frame(wire.TEXT, _MESSAGE)
    for client in clients:
        client.sendall(request)
    for client in clients:
        head = read_exactly(client, 2)
        read_exactly(client, head[1])


# ---- latency


def latency(running: Running, seconds: float) -> dict[str, float]:
    """Microseconds from a message to its echo, at half of the rate at which messages that come alone take a whole core.

    An open loop: messages leave by the clock whether or not answers have come. `pause` is the longest time for which
    the application's event loop did not turn, as the application itself saw it.
    """
    load = InTurn(running.port, LATENCY_CONNECTIONS, 1, _SIZE)
    watcher = open_websockets(running.port, 1, "/pause")[0]
    try:
        saturation = _saturation(running, load)
        _read_pause(watcher)
        took_s = sorted(_open_loop(load, saturation / 2, max(200, int(saturation / 2 * seconds))))
        pause_us = _read_pause(watcher)
    finally:
        close_all([watcher])
        load.close()
    cut = statistics.quantiles(took_s, n=1000, method="inclusive")
    return {
        "rate": saturation / 2,
        "p50": cut[499] * 1e6,
        "p99": cut[989] * 1e6,
        "p99.9": cut[998] * 1e6,
        "pause": pause_us,
    }


def _saturation(running: Running, load: InTurn) -> float:
    """Messages a second that would take a whole core if each came alone: one over the CPU time of such a one.

    Those that come together cost less, so at half of this rate the core is never more than half busy.
    """
    load.play_messages(_ALONE // 4, 1)
    before_s = cpu_s(running.pids)
    return load.play_messages(_ALONE, 1) / (cpu_s(running.pids) - before_s)


def _read_pause(watcher: socket.socket) -> float:
    watcher.sendall(frame(wire.TEXT, b"?"))
    head = read_exactly(watcher, 2)
    return float(read_exactly(watcher, head[1]))


def _open_loop(load: Echo, rate: float, count: int) -> list[float]:
    request = wire.client_frame(wire.TEXT, _SIZE)
    answer_bytes = wire.server_frame_bytes(_SIZE)
    clients = load.clients
    sent: dict[int, deque[float]] = {client.fileno(): deque() for client in clients}
    partial = dict.fromkeys(sent, 0)
    reads = {client.fileno(): client.recv for client in clients}
    took: list[float] = []
    clock = time.perf_counter
    poll = select.epoll()
    try:
        for client in clients:
            poll.register(client, select.EPOLLIN)
        begin_s = clock()
        number = 0
        while len(took) < count:
            due = min(count, int((clock() - begin_s) * rate))
            # One at a time, so that answers are looked at in between.
            if number < due:
                client = clients[number % len(clients)]
                sent[client.fileno()].append(clock())
                client.sendall(request)
                number += 1
            for descriptor, _ in poll.poll(0):
                data = reads[descriptor](65536)
                if not data:
                    raise Refused("the server closed")
                now = clock()
                whole, partial[descriptor] = divmod(partial[descriptor] + len(data), answer_bytes)
                took.extend(now - sent[descriptor].popleft() for _ in range(whole))
    finally:
        poll.close()
    return took
