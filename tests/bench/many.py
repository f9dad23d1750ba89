"""`python -m tests.bench.many`: 100,000 real sockets on one machine, and what they cost while they do nothing.

As many workers as the limit of open files asks for, at least two, and as many processes of clients
(`tests.bench.crowd`), on the same cores, so times say what a whole machine reaches, servers and clients together.
Then uvicorn and granian hold as many sockets as the same memory has room for. `--save` writes the results to many.json,
from which `python -m tests.docs` makes the tables in this folder's README.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from tests.bench import machine
from tests.bench.crowd import Crowd
from tests.bench.driver import Echo, Refused
from tests.bench.extra import NotPossible
from tests.bench.many_limits import processes_for
from tests.bench.many_table import SAVED, table
from tests.bench.run import FAILURES, described, say
from tests.bench.servers import APPS, BY_NAME, Running

PEERS: Final = ("uvicorn websockets-sansio", "granian")
_MESSAGE_BYTES: Final = 100
_BROADCASTS: Final = 5
_ECHO_S: Final = 5.0
_STEP: Final = 1000
_SPREAD_S: Final = 30
_WAIT_S: Final = 300.0
_STARTING_S: Final = 0.05
"""CPU time in a second of a server that has not started all of its workers yet."""

APPS["crowd"] = "tests.bench.apps_crowd:app"


def run(sockets: int, idle_s: float, peers: Sequence[str] = PEERS) -> dict[str, Any]:
    """Measure asgiws, the floor and the peers; return what is saved. Raises NotPossible when a limit is too low."""
    workers = processes_for(sockets)
    begin_s = time.monotonic()
    ours = measure_ours(sockets, workers, idle_s)
    floor = measure_floor(sockets, workers)
    servers = [BY_NAME[name] for name in peers]
    return {
        "machine": machine.describe(),
        "versions": {server.name: server.version for server in servers if server.installed()},
        "settings": {"sockets": sockets, "workers": workers, "spread_s": _SPREAD_S, "message_bytes": _MESSAGE_BYTES},
        "asgiws": ours,
        "floor": floor,
        "peers": {name: measure_peer(name, ours["taken_bytes"], sockets, workers, idle_s) for name in peers},
        "minutes": round((time.monotonic() - begin_s) / 60, 1),
    }


def measure_ours(sockets: int, workers: int, idle_s: float) -> dict[str, Any]:
    """Measure asgiws with all sockets."""
    options = ("--workers", str(workers), "--drain-spread", str(_SPREAD_S), "--graceful-timeout", str(2 * _SPREAD_S))
    with tempfile.NamedTemporaryFile() as encodings, contextlib.ExitStack() as stack:
        environ = {"BENCH_ENCODINGS": encodings.name}
        running = stack.enter_context(_running("asgiws", "crowd", options, environ))
        crowd = stack.enter_context(contextlib.closing(Crowd(workers)))
        figures: dict[str, Any] = {"empty_bytes": machine.pss_bytes(running.pids)}
        begin_s = time.monotonic()
        crowd.open(sockets, [running.port])
        seen = crowd.wait(lambda seen: seen.open >= sockets, _WAIT_S)
        figures |= {
            "sockets": seen.open,
            "opened_s": time.monotonic() - begin_s,
            "taken_bytes": machine.pss_bytes(running.pids),
        }
        say(f"asgiws: {figures}")
        figures |= _idle(running, crowd, idle_s)
        say(f"asgiws: {figures}")
        figures |= _broadcast(crowd, running.pids, sockets, 1)
        figures["encodings"] = os.stat(encodings.name).st_size / _BROADCASTS
        say(f"asgiws: {figures}")
        figures["restart"] = _restart(running, crowd, sockets)
        say(f"asgiws: {figures['restart']}")
    return figures


def measure_floor(sockets: int, workers: int) -> dict[str, Any]:
    """Measure the broadcast with bare loops of `transport.write`, as many processes as there were workers."""
    with contextlib.ExitStack() as stack:
        runnings = [stack.enter_context(_running("bare protocol", "plain")) for _ in range(workers)]
        crowd = stack.enter_context(contextlib.closing(Crowd(workers)))
        crowd.open(sockets, [running.port for running in runnings], f"/broadcast?size={_MESSAGE_BYTES}")
        crowd.wait(lambda seen: seen.open >= sockets, _WAIT_S)
        figures = _broadcast(crowd, [pid for running in runnings for pid in running.pids], sockets, workers)
    say(f"bare loops of transport.write: {figures}")
    return figures


def measure_peer(name: str, most_bytes: int, most: int, workers: int, idle_s: float) -> dict[str, Any]:
    """Open sockets to a peer until it takes `most_bytes`, and measure what they cost."""
    if not BY_NAME[name].installed():
        return {"failure": "not installed"}
    try:
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(_running(name, "plain", ("--workers", str(workers))))
            crowd = stack.enter_context(contextlib.closing(Crowd(workers)))
            empty_bytes = taken_bytes = machine.pss_bytes(running.pids)
            count = 0
            while taken_bytes < most_bytes and count < most:
                count += _STEP
                crowd.open(_STEP, [running.port], "/echo")
                seen = crowd.wait(lambda seen: seen.open >= count or seen.refused > 0, _WAIT_S)  # noqa: B023
                if seen.open < count:
                    raise Refused(f"{seen.open:,} sockets were opened, not {count:,}: {seen}")
                taken_bytes = machine.pss_bytes(running.pids)
            figures = _idle(running, crowd, idle_s)
            figures |= {"empty_bytes": empty_bytes, "sockets": count, "taken_bytes": taken_bytes}
    except FAILURES as error:
        figures = {"failure": described(error)}
    say(f"{name}: {figures}")
    return figures


@contextlib.contextmanager
def _running(
    name: str, app: str, options: Sequence[str] = (), environ: dict[str, str] | None = None
) -> Iterator[Running]:
    """Run a server, all of whose workers have started, while the context lasts."""
    server = BY_NAME[name]
    running = Running(replace(server, command=(*server.command, *options)), app, environ=environ, pinned=False)
    try:
        before_s = 0.0
        while (cpu_s := machine.cpu_s(running.pids)) > before_s + _STARTING_S:
            before_s = cpu_s
            time.sleep(1.0)
        yield running
    finally:
        running.stop()


# ---- what is measured with all sockets open


def _idle(running: Running, crowd: Crowd, idle_s: float) -> dict[str, Any]:
    """Measure the CPU of sockets that do nothing but answer pings, and then an echo beside them."""
    pids = running.pids
    crowd.report()
    before_s, all_before_s = machine.cpu_s(pids), machine.cpu_s([*pids, *crowd.pids])
    busy_s, begin_s = machine.busy_s(), time.monotonic()
    time.sleep(idle_s)
    took_s, busy_s = time.monotonic() - begin_s, machine.busy_s() - busy_s
    cpu_s, all_s = machine.cpu_s(pids) - before_s, machine.cpu_s([*pids, *crowd.pids]) - all_before_s
    seen = crowd.report()
    return {
        "idle_s": took_s, "idle_cpu_s": cpu_s, "others_cpu_s": max(0.0, busy_s - all_s), "pings": seen.pings,
        "lost": seen.lost, "echo": _echo(running.port, _ECHO_S),
    }  # fmt: skip


def _echo(port: int, seconds: float) -> dict[str, float]:
    """Return p50 and p99 in seconds of an echo of 32 B that is alone on its way, over 50 connections."""
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
                took.append(time.perf_counter() - begin_s)
        cuts = statistics.quantiles(took, n=100)
        return {"p50_s": cuts[49], "p99_s": cuts[98]}
    finally:
        load.close()


def _broadcast(crowd: Crowd, pids: Sequence[int], sockets: int, speakers: int) -> dict[str, Any]:
    """Send messages to all, one after the other; return the time until the last one has it, and the CPU of each."""
    times, got = [], []
    crowd.report()
    cpu_s = machine.cpu_s(pids)
    for _ in range(_BROADCASTS):
        begin_s = time.monotonic()
        crowd.say(_MESSAGE_BYTES, speakers)
        seen = crowd.wait(lambda seen: seen.messages >= sockets, _WAIT_S)
        times.append(seen.last_message_s - begin_s)
        got.append(seen.messages)
    cpu_s = machine.cpu_s(pids) - cpu_s
    return {"all_have_it_s": statistics.median(times), "delivery_s": cpu_s / sum(got), "got": min(got)}


def _restart(running: Running, crowd: Crowd, sockets: int) -> dict[str, Any]:
    """Replace all workers; return when all clients are back, and what was lost or refused."""
    begin_s = time.monotonic()
    os.kill(running.pid, signal.SIGHUP)
    seen = crowd.wait(lambda seen: seen.returned + seen.lost >= sockets == seen.open, _WAIT_S)
    took_s = time.monotonic() - begin_s
    return {
        "back_s": took_s, "returned": seen.returned, "open": seen.open, "lost": seen.lost, "refused": seen.refused,
        "echo": _echo(running.port, _ECHO_S),
    }  # fmt: skip


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.many", description=__doc__)
    parser.add_argument("--sockets", type=int, default=100_000)
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="how long they are left alone")
    parser.add_argument("--peers", nargs="*", default=PEERS, metavar="NAME", help="servers to compare with")
    parser.add_argument("--save", action="store_true", help="write the results to tests/bench/many.json")
    options = parser.parse_args()
    try:
        results = run(options.sockets, options.idle, options.peers)
    except NotPossible as error:
        say(str(error))
        return 2
    if options.save:
        SAVED.write_text(json.dumps(results, indent=1) + "\n")
    say(table(results))
    return 0


if __name__ == "__main__":
    # As an exception, so that the servers are ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
