"""`python -m tests.bench.many`: 100,000 real sockets on one machine, and what they cost while they do nothing.

As many workers as the limit of open files asks for, at least two. The clients are processes of their own
(`tests.bench.crowd`), on the same cores, so times say what a whole machine reaches, servers and clients together.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from tests.bench import machine
from tests.bench.crowd import Order, Report, live
from tests.bench.driver import Echo
from tests.bench.extra import NotPossible
from tests.bench.run import FAILURES, described, say
from tests.bench.servers import APPS, BY_NAME, Running, Server

_SPARE_FILES: Final = 1000
_MESSAGE_BYTES: Final = 100
_BROADCASTS: Final = 5
_ECHO_S: Final = 5.0
_STEP: Final = 1000
_SPREAD_S: Final = 30
_END_S: Final = 60.0
_WAIT_S: Final = 120.0
_MIB: Final = 1024 * 1024

APPS["crowd"] = "tests.bench.apps_crowd:app"


class Crowds:
    """All clients, in several processes."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=live, args=(f"127.0.1.{number + 1}", theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def open(self, total: int, port_of: Callable[[int], int], path: str = "/") -> None:
        """Open so many sockets in all, each process its part, to the port that `port_of` gives for its number."""
        share = total // len(self._pipes)
        counts = [share + (number < total % len(self._pipes)) for number in range(len(self._pipes))]
        self.order([Order("open", port_of(number), count, path) for number, count in enumerate(counts)])

    def order(self, orders: list[Order]) -> list[Report]:
        """Give each process an order, and return their answers."""
        for pipe, order in zip(self._pipes, orders, strict=True):
            pipe.send(order)
        return [pipe.recv() for pipe in self._pipes]

    def say(self, speakers: int) -> None:
        """Let the first ones say something, each on one of its sockets."""
        for pipe in self._pipes[:speakers]:
            pipe.send(Order("say", amount=_MESSAGE_BYTES))
        for pipe in self._pipes[:speakers]:
            pipe.recv()

    def report(self) -> Report:
        """Return what they have seen since the last report, together."""
        total = Report()
        for each in self.order([Order("report")] * len(self._pipes)):
            total.open += each.open
            total.pings += each.pings
            total.messages += each.messages
            total.returned += each.returned
            total.lost += each.lost
            total.refused += each.refused
            total.last_message_s = max(total.last_message_s, each.last_message_s)
        return total

    def wait(self, done: Callable[[Report], bool], what: str) -> Report:
        """Report until what was seen, added up, is enough; after two minutes say that it is not, and go on."""
        total, end_s = Report(), time.monotonic() + _WAIT_S
        while time.monotonic() < end_s:
            seen = self.report()
            total = Report(
                seen.open, total.pings + seen.pings, total.messages + seen.messages,
                max(total.last_message_s, seen.last_message_s), total.returned + seen.returned,
                total.lost + seen.lost, total.refused + seen.refused,
            )  # fmt: skip
            if done(total):
                return total
            time.sleep(0.05)
        say(f"{what} within {_WAIT_S:.0f} s: {total}")
        return total

    def close(self) -> None:
        """End all processes; their sockets close with a reset."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(Order("end"))
            pipe.close()
        for process in self._processes:
            process.join(_END_S)
            if process.is_alive():
                process.kill()


def processes_for(sockets: int) -> int:
    """Return how many processes so many sockets need. Raises NotPossible when a limit is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # root may raise it, unless it lacks CAP_SYS_RESOURCE
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, sockets + _SPARE_FILES)))
        hard = max(hard, sockets + _SPARE_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard <= 2 * _SPARE_FILES:
        raise NotPossible(f"the limit of open files is {hard} (ulimit -Hn), needed: at least {4 * _SPARE_FILES}")
    first, last = (int(part) for part in read("/proc/sys/net/ipv4/ip_local_port_range").split())
    # Connections spread by chance over the workers, so each is to have room for some more than its part.
    each = min(hard - 2 * _SPARE_FILES, last - first - _SPARE_FILES)
    every = int(read("/proc/sys/fs/file-max")) - int(read("/proc/sys/fs/file-nr").split()[0])
    if every < 2 * sockets + _SPARE_FILES:
        raise NotPossible(f"the system has {every} open files left (fs.file-max), needed: {2 * sockets}")
    free_kib = next(line for line in read("/proc/meminfo").splitlines() if "MemAvailable" in line).split()[1]
    free_mib = int(free_kib) // 1024
    if free_mib * _MIB < sockets * 40 * 1024:
        raise NotPossible(f"{free_mib} MiB of memory are free, needed: 40 KiB for each socket with its client")
    return max(2, -(-sockets // each))


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


@contextlib.contextmanager
def served(server: Server, app: str, *options: str) -> Iterator[Running]:
    """Run a server while the context lasts."""
    running = Running(replace(server, command=(*server.command, *options)), app, pinned=False)
    try:
        yield running
    finally:
        running.stop()


def percentiles(port: int, seconds: float) -> str:
    """Return p50 and p99 of an echo that is alone on its way, over 50 connections."""
    load = Echo(port, 50, 1, 32)
    try:
        took: list[float] = []
        end_s = time.monotonic() + seconds
        buffer = bytearray(load.answer_bytes)
        while time.monotonic() < end_s:
            for client in load.clients:
                begin_s = time.perf_counter()
                client.sendall(load.request)
                owed = load.answer_bytes
                while owed:
                    owed -= client.recv_into(buffer, owed)
                took.append((time.perf_counter() - begin_s) * 1e3)
        cuts = statistics.quantiles(took, n=100)
        return f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms"
    finally:
        load.close()


def measure_ours(sockets: int, processes: int, idle_s: float) -> int:
    """Measure asgiws; return the bytes that all of its processes take with all sockets open."""
    server = BY_NAME["asgiws"]
    options = ("--workers", str(processes), "--drain-spread", str(_SPREAD_S), "--graceful-timeout", str(2 * _SPREAD_S))
    with tempfile.NamedTemporaryFile() as encodings, contextlib.ExitStack() as stack:
        os.environ["BENCH_ENCODINGS"] = encodings.name
        running = stack.enter_context(served(server, "crowd", *options))
        crowds = Crowds(processes)
        stack.callback(crowds.close)
        before, begin_s = machine.pss_bytes(running.pids), time.monotonic()
        crowds.open(sockets, lambda number: running.port)
        took_s, taken = time.monotonic() - begin_s, machine.pss_bytes(running.pids)
        say(f"asgiws, {processes} workers: {sockets:,} sockets open after {took_s:.0f} s; {taken / _MIB:.0f} MiB, "
            f"{(taken - before) / sockets / 1024:.2f} KiB for each, subscribed to a topic")  # fmt: skip

        crowds.report()
        cpu_s, begin_s = machine.cpu_s(running.pids), time.monotonic()
        time.sleep(idle_s)
        cpu_s, took_s = machine.cpu_s(running.pids) - cpu_s, time.monotonic() - begin_s
        pings = crowds.report().pings
        say(f"idle for {took_s:.0f} s: {cpu_s / took_s:.1%} of a core, {pings / took_s:.0f} pings and pongs a second")
        say(f"echo of 32 B beside them: {percentiles(running.port, _ECHO_S)}")

        times, cpu_s = [], machine.cpu_s(running.pids)
        for _ in range(_BROADCASTS):
            begin_s = time.monotonic()
            crowds.say(1)
            seen = crowds.wait(lambda seen: seen.messages >= sockets, "not everybody got a message")
            times.append(seen.last_message_s - begin_s)
        cpu_s = (machine.cpu_s(running.pids) - cpu_s) / _BROADCASTS / sockets
        counted = os.stat(encodings.name).st_size / _BROADCASTS
        say(f"a message of {_MESSAGE_BYTES} B to all: the last has it after {statistics.median(times):.2f} s, "
            f"{cpu_s * 1e6:.1f} us of CPU for each, {counted:g} encodings")  # fmt: skip

        begin_s = time.monotonic()
        os.kill(running.pid, signal.SIGHUP)
        seen = crowds.wait(lambda seen: seen.returned + seen.lost >= sockets == seen.open, "not everybody came back")
        say(f"rolling restart, drained over {_SPREAD_S} s: {seen.returned:,} closed with 1012 and back after "
            f"{time.monotonic() - begin_s:.0f} s, {seen.lost} lost, {seen.refused} refused")  # fmt: skip
        say(f"echo of 32 B after it: {percentiles(running.port, _ECHO_S / 2)}")
    return taken


def measure_floor(sockets: int, processes: int) -> None:
    """Measure the same broadcast with bare loops of `transport.write`, as many processes as there were workers."""
    with contextlib.ExitStack() as stack:
        runnings = [stack.enter_context(served(BY_NAME["bare protocol"], "plain")) for _ in range(processes)]
        crowds = Crowds(processes)
        stack.callback(crowds.close)
        crowds.open(sockets, lambda number: runnings[number].port, f"/broadcast?size={_MESSAGE_BYTES}")
        times, pids = [], [pid for running in runnings for pid in running.pids]
        crowds.report()
        cpu_s = machine.cpu_s(pids)
        for _ in range(_BROADCASTS):
            begin_s = time.monotonic()
            crowds.say(processes)
            seen = crowds.wait(lambda seen: seen.messages >= sockets, "not everybody got a message")
            times.append(seen.last_message_s - begin_s)
        cpu_s = (machine.cpu_s(pids) - cpu_s) / _BROADCASTS / sockets
    say(f"the same with bare loops of transport.write: {statistics.median(times):.2f} s, {cpu_s * 1e6:.1f} us")


def measure_peer(name: str, most_bytes: int, most: int, processes: int) -> None:
    """Open sockets to a peer until it takes as much memory as asgiws took, and measure an echo beside them."""
    try:
        options = ("--workers", str(processes))
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(served(BY_NAME[name], "plain", *options))
            crowds = Crowds(processes)
            stack.callback(crowds.close)
            count, before, taken = 0, machine.pss_bytes(running.pids), 0
            while taken < most_bytes and count < most:
                count += _STEP
                crowds.open(_STEP, lambda number: running.port, "/echo")
                taken = machine.pss_bytes(running.pids)
            say(f"{name}, {processes} workers: {count:,} sockets take {taken / _MIB:.0f} MiB, "
                f"{(taken - before) / count / 1024:.1f} KiB for each; "
                f"echo of 32 B beside them: {percentiles(running.port, _ECHO_S)}")  # fmt: skip
    except FAILURES as error:
        say(f"{name}: {described(error)}")


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.many", description=__doc__)
    parser.add_argument("--sockets", type=int, default=100_000)
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="how long they are left alone")
    parser.add_argument("--peers", nargs="*", default=["uvicorn websockets-sansio", "granian"])
    options = parser.parse_args()
    begin_s = time.monotonic()
    try:
        processes = processes_for(options.sockets)
        taken = measure_ours(options.sockets, processes, options.idle)
        measure_floor(options.sockets, processes)
        for name in options.peers:
            if BY_NAME[name].installed():
                measure_peer(name, taken, options.sockets, processes)
            else:
                say(f"{name} is not installed, left out")
    except NotPossible as error:
        say(str(error))
        return 2
    say(f"{(time.monotonic() - begin_s) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    # As an exception, so that the servers are ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
