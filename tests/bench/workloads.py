"""The workloads whose figure is server CPU per unit of work, as a table, and how one round is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.bench import wire
from tests.bench.driver import HTTP, Broadcast, CompressedEcho, Echo, Frames, Handshakes, Load, Resets, Targets
from tests.bench.machine import cpu_s
from tests.bench.servers import FLOOR, Running, Server

RECEIVERS: Final = 1000
BROADCAST_BYTES: Final = 200
_HTTP: Final = frozenset({"http"})
_WARM_PART: Final = 0.1
_CALIBRATION_PART: Final = 0.3


@dataclass(frozen=True)
class Workload:
    """One row of the table of figures."""

    name: str
    title: str
    unit: str
    """What is counted."""
    begin: Callable[[int], Load]
    """Opens the load at a port."""
    app: str = "plain"
    compression: bool = False
    needs: frozenset[str] = frozenset({"websocket"})
    """What a server must be able to do."""

    def measures(self, server: Server) -> bool:
        """Whether a server takes part."""
        if server.only and self.name not in server.only:
            return False
        if self.compression and server.compression is None:
            return False
        if self.app != "plain" and server.kind == FLOOR:
            return False
        return self.needs <= server.can

    @property
    def described(self) -> str:
        """The title, with what is not plain."""
        return f"{self.title}, compressed" if self.compression else self.title


def _echo(name: str, title: str, count: int, in_flight: int, size: int, opcode: int, app: str = "plain") -> Workload:
    return Workload(name, title, "message", partial(_begin_echo, count, in_flight, size, opcode), app)


def _begin_echo(count: int, in_flight: int, size: int, opcode: int, port: int) -> Load:
    return Echo(port, count, in_flight, size, opcode)


def _begin_chinese(port: int) -> Load:
    return Echo(port, 8, 1, 65536, make=wire.chinese_of)


def _begin_targets(port: int) -> Load:
    return Targets(port, 100, b"hello")


def _begin_resets(port: int) -> Load:
    return Resets(port, 16)


def _begin_browsers(port: int) -> Load:
    return Handshakes(port, 16, wire.BROWSER_FIELDS)


def _begin_broadcast(compression: bool, port: int) -> Load:
    return Broadcast(port, RECEIVERS, BROADCAST_BYTES, compression=compression)


def _begin_compressed_echo(port: int) -> Load:
    return CompressedEcho(port, 50, 1024)


def _begin_compressed_large(port: int) -> Load:
    return CompressedEcho(port, 8, 65536)


def _begin_handshakes(port: int) -> Load:
    return Handshakes(port, 16)


def _begin_get(port: int) -> Load:
    return HTTP(port, 50, b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n", b"hello")


def _begin_post(port: int) -> Load:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 65536\r\n\r\n"
    return HTTP(port, 8, head + wire.payload_of(65536), b"65536")


def _sized(opcode: int) -> list[Workload]:
    kind = "text" if opcode == wire.TEXT else "binary"
    return [
        _echo(f"echo-1k-{kind}", f"echo 1 KiB {kind}, 50 connections", 50, 1, 1024, opcode),
        _echo(f"echo-64k-{kind}", f"echo 64 KiB {kind}, 8 connections", 8, 1, 65536, opcode),
        _echo(f"echo-1m-{kind}", f"echo 1 MiB {kind}, 2 connections", 2, 1, 1048576, opcode),
    ]


WORKLOADS: Final = (
    _echo("echo-1", "echo 32 B, 1 connection", 1, 1, 32, wire.TEXT),
    _echo("echo-50", "echo 32 B, 50 connections", 50, 1, 32, wire.TEXT),
    _echo("burst", "echo 32 B, 8 connections with 64 in flight", 8, 64, 32, wire.TEXT),
    *_sized(wire.TEXT),
    Workload("echo-64k-chinese", "echo 64 KiB Chinese text, 8 connections", "message", _begin_chinese),
    *_sized(wire.BINARY),
    Workload("broadcast", "broadcast 200 B to 1,000", "delivery", partial(_begin_broadcast, False)),
    Workload("broadcast-compressed", "broadcast 200 B to 1,000", "delivery", partial(_begin_broadcast, True),
             compression=True),
    Workload("json-compressed", "echo 1 KiB JSON, 50 connections", "message", _begin_compressed_echo, compression=True),
    Workload("json-64k-compressed", "echo 64 KiB JSON, 8 connections", "message", _begin_compressed_large,
             compression=True),
    Workload("handshake", "connect, accept, close", "connection", _begin_handshakes),
    Workload("handshake-browser", "the same with Chrome's fields", "connection", _begin_browsers,
             needs=frozenset({"websocket", "asgi"})),
    Workload("handshake-reset", "connect, accept, reset by the client", "connection", _begin_resets),
    Workload("http-get", "GET hello, 50 kept connections", "request", _begin_get, needs=_HTTP),
    Workload("http-get-varied", "GET of 100 clients with cookies, a query each", "request", _begin_targets,
             needs=_HTTP | {"asgi"}),
    Workload("http-post", "POST 64 KiB, 8 kept connections", "request", _begin_post, needs=_HTTP),
    _echo("starlette-50", "Starlette echo 32 B, 50 connections", 50, 1, 32, wire.TEXT, "starlette"),
    _echo("starlette-burst", "Starlette echo 32 B, 8 with 64 in flight", 8, 64, 32, wire.TEXT, "starlette"),
    _echo("fastapi-50", "FastAPI echo 32 B, 50 connections", 50, 1, 32, wire.TEXT, "fastapi"),
    _echo("fastapi-burst", "FastAPI echo 32 B, 8 with 64 in flight", 8, 64, 32, wire.TEXT, "fastapi"),
)  # fmt: skip

BY_NAME: Final = {workload.name: workload for workload in WORKLOADS}


@dataclass
class Round:
    """What one round gave."""

    cpu_us: float
    """Server CPU for each unit of work."""
    units: int


def calibrate(workload: Workload, running: Running, seconds: float) -> int:
    """How many steps take about `seconds`; plays some, which warms the server up."""
    load = workload.begin(running.port)
    try:
        steps = 1
        while True:
            begin_s = time.perf_counter()
            load.play(steps)
            took_s = time.perf_counter() - begin_s
            if took_s >= seconds * _CALIBRATION_PART:
                return max(1, round(steps * seconds / took_s))
            steps *= 2 if took_s > 0.01 else 8
    finally:
        load.close()


def measure(workload: Workload, running: Running, steps: int) -> Round:
    """One round: open, warm up, and read the server's CPU time around `steps` steps."""
    load = workload.begin(running.port)
    try:
        load.play(max(1, int(steps * _WARM_PART)))
        before_s = cpu_s(running.pids)
        load.play(steps)
        used_s = cpu_s(running.pids) - before_s
        return Round(used_s / (steps * load.units) * 1e6, steps * load.units)
    finally:
        load.close()


def answer_bytes(workload: Workload, running: Running) -> float | None:
    """How long the answers are, where that is up to the server: of messages that it compresses."""
    load = workload.begin(running.port)
    try:
        return load.answer_bytes() if isinstance(load, Frames) and workload.compression else None
    finally:
        load.close()
