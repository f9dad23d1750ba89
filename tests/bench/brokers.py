"""`python -m tests.bench.brokers`: one message to the sockets of two servers, over Redis and over NATS.

Two servers stand for two machines. One client publishes at the first, and it and 100 others at the second receive.
A round has two parts. Latency: one message after the other, each sent when all have received the one before; the time
from sending to receiving, for each socket of the second server. Throughput: 32 messages at a time; deliveries for each
second, and CPU for each delivery, of both servers and the broker together. Servers and broker share one core, the
clients have another. The rounds of all contestants are interleaved.

`--save` writes the results to brokers.json, from which `python -m tests.docs` makes the table in this folder's README.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.bench import driver, machine, wire
from tests.bench.driver import Refused, read_exactly
from tests.bench.machine import cpu_s
from tests.bench.run import FAILURES, described, say
from tests.bench.servers import APPS, BY_NAME, Running, Server
from tests.raw import frame

RESULTS: Final = Path(__file__).with_name("brokers.json")
APPS.update({name: f"tests.bench.apps_topics:{name}"
             for name in ("topic", "broadcaster", "channels", "channels_pubsub", "socketio")})  # fmt: skip
_ROUND_S: Final = 1.0
_AT_ONCE: Final = 32
_QUIET_S: Final = 0.2
_TRIES: Final = 50


def with_options(name: str, *options: str) -> Server:
    """Return one of the servers of the bench with more options."""
    server = BY_NAME[name]
    return replace(server, command=(*server.command, *options))


# No pings: while others have their round, sockets are idle.
ASGIWS: Final = with_options("asgiws", "--ping-interval", "0")
UVICORN: Final = with_options("uvicorn websockets-sansio", "--ws-ping-interval", "86400")
UVICORN_FACTORY: Final = replace(UVICORN, command=(*UVICORN.command, "--factory"))


@dataclass(frozen=True)
class Contestant:
    """One way to reach the sockets of another machine."""

    name: str
    server: Server
    app: str
    broker: str
    """The program; "" for one server that needs none."""
    event: str = ""
    """The name of Socket.IO's event; "" for plain WebSockets."""


CONTESTANTS: Final = (
    Contestant("`asgiws.Topic`, one server, no broker", ASGIWS, "topic", ""),
    Contestant("`asgiws.Topic` and Redis", ASGIWS, "topic", "redis-server"),
    Contestant("`asgiws.Topic` and NATS", ASGIWS, "topic", "nats-server"),
    Contestant("python-socketio and Redis, uvicorn", UVICORN_FACTORY, "socketio", "redis-server", event="said"),
    Contestant("broadcaster and Redis, uvicorn", UVICORN_FACTORY, "broadcaster", "redis-server"),
    Contestant("Channels and channels_redis.pubsub, uvicorn", UVICORN_FACTORY, "channels_pubsub", "redis-server"),
    Contestant("Channels and channels_redis, uvicorn", UVICORN_FACTORY, "channels", "redis-server"),
)


# ---- brokers


@dataclass(frozen=True)
class Broker:
    """A broker that runs."""

    url: str
    pid: int

    def environ_of(self, server: Server) -> dict[str, str]:
        """Return the variables that tell a server and its application where it is."""
        return {"ASGIWS_BROKER" if server is ASGIWS else "BENCH_REDIS": self.url}


@contextlib.contextmanager
def running_broker(program: str) -> Iterator[Broker]:
    """Run a broker on a free port and the core of the servers while the context lasts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    if program == "redis-server":
        arguments = ["--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    else:
        arguments = ["--addr", "127.0.0.1", "--port", str(port)]
    with machine.pin(machine.server_core()):
        process = subprocess.Popen(
            [_path_of(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    try:
        yield Broker(f"{program.partition('-')[0]}://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()


def missing(program: str, server: Server) -> str:
    """Return what is missing for a broker that a server uses; "" when nothing is."""
    if program and not _path_of(program):
        return f"{program} is not installed"
    if program == "redis-server":
        version = _version_of("redis")
        if not version:
            return "redis is not installed: pip install asgiws[bench]"
        if server is not ASGIWS and int(version.partition(".")[0]) >= 8:
            return f"redis {version} is installed, allowed: below 8 (see the extra bench in pyproject.toml)"
    return ""


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _path_of(program: str) -> str:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin") or ""


# ---- clients


class Across:
    """A client that publishes at one server, and clients that receive at another. It receives its own, too."""

    def __init__(self, contestant: Contestant, publish_port: int, receive_port: int, count: int, size: int) -> None:
        event = contestant.event
        join = _join_socketio if event else _join
        (self._publisher,) = join(publish_port, 1)
        self._receivers: list[socket.socket] = []
        with driver.closed_on_error([self._publisher]):
            self._receivers = join(receive_port, count)
        self.clients = [self._publisher, *self._receivers]
        message = wire.payload_of(size).decode()
        said = f'42["say","{message}"]' if event else message
        heard = f'42["{event}","{message}"]' if event else message
        self._request = frame(wire.TEXT, said.encode())
        self._answer = wire.server_frame(wire.TEXT, heard.encode())
        with driver.closed_on_error(self.clients):
            self._wait_for_subscriptions()

    def close(self) -> None:
        """Close all connections."""
        driver.close_all(self.clients)

    def _wait_for_subscriptions(self) -> None:
        """Publish until everybody has received one: some subscribe after the handshake was answered."""
        for _ in range(_TRIES):
            self._publisher.sendall(self._request)
            received = dict.fromkeys(self.clients, b"")
            while ready := select.select(self.clients, [], [], _QUIET_S)[0]:
                for client in ready:
                    data = client.recv(65536)
                    if not data:
                        raise Refused("the server closed")
                    received[client] += data
            if set(received.values()) == {self._answer}:
                return
        least = min(received.values(), key=len)
        raise Refused(f"after {_TRIES} messages a client has received {least[:120]!r}, expected: {self._answer!r}")

    def latencies_s(self, seconds: float) -> list[float]:
        """Publish one message after the other for some time; return how long each took to each receiver."""
        size, by_fd = len(self._answer), {client.fileno(): client for client in self._receivers}
        samples: list[float] = []
        clock = time.perf_counter
        with contextlib.closing(select.epoll()) as poll:
            for fd in by_fd:
                poll.register(fd, select.EPOLLIN)
            end_s = clock() + seconds
            while clock() < end_s:
                owed = dict.fromkeys(by_fd, size)
                begin_s = clock()
                self._publisher.sendall(self._request)
                while owed:
                    ready = poll.poll(driver.PATIENCE_S)
                    if not ready:
                        raise Refused(f"{len(owed)} of {len(by_fd)} clients did not receive a message")
                    for fd, _ in ready:
                        data = by_fd[fd].recv(65536)
                        if not data:
                            raise Refused("the server closed")
                        owed[fd] -= len(data)
                        if not owed[fd]:
                            samples.append(clock() - begin_s)
                            del owed[fd]
                read_exactly(self._publisher, size)
        return samples

    def play(self, seconds: float) -> int:
        """Publish many messages at a time for some time; return the number of deliveries."""
        delivered, end_s = 0, time.perf_counter() + seconds
        while not delivered or time.perf_counter() < end_s:
            self._publisher.sendall(self._request * _AT_ONCE)
            for client in self.clients:
                read_exactly(client, len(self._answer) * _AT_ONCE)
            delivered += _AT_ONCE * len(self.clients)
        return delivered


def _join(port: int, count: int) -> list[socket.socket]:
    return driver.open_websockets(port, count, "/room")


def _join_socketio(port: int, count: int) -> list[socket.socket]:
    """Open WebSockets, each with the packets that begin a connection of Engine.IO and of Socket.IO."""
    clients: list[socket.socket] = []
    with driver.closed_on_error(clients):
        for _ in range(count):
            clients.append(driver.connect(port))
            _join_as_socketio(clients[-1])
    return clients


def _join_as_socketio(client: socket.socket) -> None:
    client.sendall(wire.opening("/socket.io/?EIO=4&transport=websocket"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # the first packet follows at once
        head += read_exactly(client, 1)
    if not head.startswith(b"HTTP/1.1 101"):
        raise Refused(f"a handshake was answered with {head[:200]!r}")
    for expected in (b"0{", b"40{"):
        packet = _read_message(client)
        if not packet.startswith(expected):
            raise Refused(f"{expected!r} was expected and not {packet!r}")
        if expected == b"0{":
            client.sendall(frame(wire.TEXT, b"40"))


def _read_message(client: socket.socket) -> bytes:
    head = read_exactly(client, 2)
    width = {126: 2, 127: 8}.get(head[1], 0)
    return read_exactly(client, int.from_bytes(read_exactly(client, width), "big") if width else head[1])


# ---- measuring


@dataclass
class _Entry:
    contestant: Contestant
    servers: list[Running]
    broker: Broker | None
    load: Across
    samples_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    costs_us: list[float] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        return [pid for server in self.servers for pid in server.pids] + ([self.broker.pid] if self.broker else [])

    def play_round(self, seconds: float, *, keep: bool) -> None:
        samples_s = self.load.latencies_s(seconds)
        before_s, begin_s = cpu_s(self.pids), time.perf_counter()
        delivered = self.load.play(seconds)
        rate = delivered / (time.perf_counter() - begin_s)
        cost_us = (cpu_s(self.pids) - before_s) / delivered * 1e6
        if keep:
            self.samples_s += samples_s
            self.rates.append(rate)
            self.costs_us.append(cost_us)

    def figures(self) -> dict[str, float]:
        parts = statistics.quantiles(self.samples_s, n=100)
        return {
            "p50": parts[49] * 1e3, "p99": parts[98] * 1e3,
            "rate": statistics.median(self.rates), "cpu": statistics.median(self.costs_us),
        }  # fmt: skip


def measure(rounds: int, seconds: float, sockets: int, size: int) -> dict[str, Any]:
    """Measure all contestants; return what brokers.json has."""
    entries: list[_Entry] = []
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        used = {contestant.broker for contestant in CONTESTANTS if contestant.broker}
        brokers = {name: stack.enter_context(running_broker(name)) for name in sorted(used) if _path_of(name)}
        stack.enter_context(machine.pin(machine.driver_core()))
        for contestant in CONTESTANTS:
            if reason := missing(contestant.broker, contestant.server):
                failures[contestant.name] = reason
                continue
            try:
                entries.append(_start(stack, contestant, brokers.get(contestant.broker), sockets, size))
            except FAILURES as error:
                failures[contestant.name] = described(error)
            say(f"{contestant.name}: {failures.get(contestant.name, 'ready')}")
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}")
            for entry in [entry for entry in entries if entry.contestant.name not in failures]:
                try:
                    entry.play_round(seconds, keep=number > 0)  # the first is for warming up
                except FAILURES as error:
                    failures[entry.contestant.name] = described(error)
    names = ("broadcaster", "channels", "channels_redis", "nats-py", "python-socketio", "redis", "uvicorn")
    return {
        "machine": machine.describe() | {"load": os.getloadavg()[0]},
        "versions": {name: _version_of(name) or "not installed" for name in names},
        "settings": {"rounds": rounds, "seconds": seconds, "sockets": sockets, "size": size},
        "figures": {
            entry.contestant.name: entry.figures() for entry in entries if entry.contestant.name not in failures
        },
        "failures": failures,
    }


def _start(
    stack: contextlib.ExitStack, contestant: Contestant, broker: Broker | None, sockets: int, size: int
) -> _Entry:
    environ = {} if broker is None else broker.environ_of(contestant.server)
    servers = []
    for _ in range(1 if broker is None else 2):
        servers.append(Running(contestant.server, contestant.app, environ=environ))
        stack.callback(servers[-1].stop)
    load = Across(contestant, servers[0].port, servers[-1].port, sockets, size)
    stack.callback(load.close)
    return _Entry(contestant, servers, broker, load)


# ---- the table


def brokers_table() -> str:
    """Return what the README of the bench shows: the saved results as Markdown."""
    return table_of(json.loads(RESULTS.read_text()))


def table_of(results: dict[str, Any]) -> str:
    """Return results as Markdown."""
    machine_, settings, figures = results["machine"], results["settings"], results["figures"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    first: dict[str, float] = figures.get("`asgiws.Topic` and Redis", {})
    columns: dict[str, Callable[[dict[str, float]], str]] = {
        "way": lambda _: "",
        "deliveries a second": lambda one: f"{one['rate']:,.0f}",
        "latency p50, ms": lambda one: f"{one['p50']:.2f}",
        "p99, ms": lambda one: f"{one['p99']:.2f}",
        "CPU us a delivery": lambda one: f"{one['cpu']:.1f}",
        "CPU to Topic and Redis": lambda one: f"{one['cpu'] / first['cpu']:.2f}" if first else "",
    }
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, one in figures.items():
        lines.append(f"| {name} | {' | '.join(make(one) for make in list(columns.values())[1:])} |")
    lines += [f"\n* {name}: {reason}" for name, reason in results["failures"].items()]
    basis = (
        f"Python {machine_['python']}, {machine_['system']}, {machine_['processor']} with {machine_['cores']} cores "
        f"(load {machine_['load']:.1f} at the end); {versions}. {settings['sockets']} sockets at the second server, "
        f"{settings['size']} B, {settings['rounds']} interleaved rounds of 2 x {settings['seconds']:g} s."
    )
    return f"{basis}\n\n" + "\n".join(lines)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.brokers", description=__doc__)
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=_ROUND_S, help="about how long each part of a round takes")
    parser.add_argument("--size", type=int, default=100, help="bytes of a message")
    parser.add_argument("--save", action="store_true", help="write the results to tests/bench/brokers.json")
    options = parser.parse_args()
    results = measure(options.rounds, options.seconds, options.sockets, options.size)
    for name, one in results["figures"].items():
        say(f"{name:46} {one['rate']:9,.0f} a second, p50 {one['p50']:7.2f} ms, p99 {one['p99']:7.2f} ms, "
            f"{one['cpu']:7.2f} us a delivery")  # fmt: skip
    for name, reason in results["failures"].items():
        say(f"{name:46} {reason}")
    if options.save:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
