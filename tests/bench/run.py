"""A run: starts the servers, measures them in interleaved rounds, and gives the raw results."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asgiws.protocol.websocket.masking import UNMASK_IN_C
from tests.bench import extra, machine
from tests.bench.driver import Refused
from tests.bench.servers import Running, Server, ServerFailed
from tests.bench.workloads import Workload, answer_bytes, calibrate, measure

Results = dict[str, Any]
"""What is saved as JSON: `machine`, `versions`, `settings`, and for each kind of workload its figures by server."""

FAILURES: Final = (Refused, ServerFailed, OSError)
"""What a server may do to a round; it is noted, and the others go on."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    """About how long a round takes."""
    latency_s: float
    memory_counts: tuple[int, ...]


FULL: Final = Plan(rounds=5, seconds=0.2, latency_s=1.0, memory_counts=(1000, 10000))
QUICK: Final = Plan(rounds=3, seconds=0.12, latency_s=0.3, memory_counts=(1000,))


def say(text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def run(plan: Plan, workloads: Sequence[Workload], servers: Sequence[Server], extras: Iterable[str]) -> Results:
    """Measure all of it; `extras` has "memory" and "latency" or not."""
    begin_s = time.monotonic()
    results: Results = {
        "machine": machine.describe(),
        "versions": {server.package: server.version for server in servers if server.package != "asgiws"},
        "c module": UNMASK_IN_C,
        "settings": {"rounds": plan.rounds, "seconds": plan.seconds},
        "loops": {server.name: server.loop for server in servers},
        "cpu": {},
        "bytes": {},
        "failures": {},
    }
    machine.allow_files(4000)
    with machine.pin(machine.driver_core()):
        for app, compression in dict.fromkeys((workload.app, workload.compression) for workload in workloads):
            group = [item for item in workloads if (item.app, item.compression) == (app, compression)]
            _Group(plan, results, servers, app, compression=compression).run(group)
        # In the order of the table, not of the groups
        results["cpu"] = {item.name: results["cpu"][item.name] for item in workloads}
        if "latency" in extras:
            _latency(plan, results, servers)
        if "memory" in extras:
            _memory(plan, results, servers)
    results["settings"]["minutes"] = round((time.monotonic() - begin_s) / 60, 1)
    return results


class _Group:
    """The servers of the workloads that share an application, all of them up at once."""

    def __init__(self, plan: Plan, results: Results, servers: Sequence[Server], app: str, *, compression: bool) -> None:
        self._plan = plan
        self._results = results
        self._servers = servers
        self._app = app
        self._compression = compression
        self._running: dict[str, Running] = {}
        self._chance = random.Random(1)

    def run(self, workloads: Sequence[Workload]) -> None:
        try:
            for workload in workloads:
                self._measure(workload, [server for server in self._servers if workload.measures(server)])
        finally:
            for running in self._running.values():
                running.stop()

    def _measure(self, workload: Workload, servers: Sequence[Server]) -> None:
        steps: dict[str, int] = {}
        figures: dict[str, list[float]] = {server.name: [] for server in servers}

        def prepare(running: Running) -> None:
            steps[running.server.name] = calibrate(workload, running, self._plan.seconds)

        def play(running: Running) -> None:
            name = running.server.name
            figures[name].append(measure(workload, running, steps[name]).cpu_us)

        left = [server for server in servers if self._try(workload, server, prepare)]
        for _ in range(self._plan.rounds):
            self._chance.shuffle(left)  # so that none always follows the same
            left = [server for server in left if self._try(workload, server, play)]
        if workload.compression:
            sizes = {server.name: answer_bytes(workload, self._started(server)) for server in servers if server in left}
            self._results["bytes"][workload.name] = sizes
        ordered = {server.name: figures[server.name] for server in servers if server in left}
        self._results["cpu"][workload.name] = ordered
        say(f"{workload.described}: " + summary({name: statistics.median(all_) for name, all_ in ordered.items()}))

    def _try(self, workload: Workload, server: Server, do: Callable[[Running], None]) -> bool:
        try:
            do(self._started(server))
        except FAILURES as error:
            _note(self._results, workload.name, server, error)
            # What it holds from this round shall not reach the next workload.
            if server.name in self._running:
                self._running.pop(server.name).stop()
            return False
        return True

    def _started(self, server: Server) -> Running:
        if server.name not in self._running:
            self._running[server.name] = Running(server, self._app, compression=self._compression)
        return self._running[server.name]


def _latency(plan: Plan, results: Results, servers: Sequence[Server]) -> None:
    chosen = [server for server in servers if server.compared]
    figures: dict[str, list[dict[str, float]]] = {server.name: [] for server in chosen}
    chance = random.Random(1)
    for _ in range(plan.rounds):
        for server in chance.sample(chosen, len(chosen)):
            try:
                running = Running(server)
                try:
                    figures[server.name].append(extra.latency(running, plan.latency_s))
                finally:
                    running.stop()
            except FAILURES as error:
                _note(results, "latency", server, error)
    results["latency"] = {name: rounds for name, rounds in figures.items() if rounds}
    say("latency p99: " + summary({name: min(one["p99"] for one in all_) for name, all_ in figures.items() if all_}))


def _memory(plan: Plan, results: Results, servers: Sequence[Server]) -> None:
    results["memory"] = {}
    for count in plan.memory_counts:
        for offer in (False, True):
            row = results["memory"][f"{count} {'browser' if offer else 'plain'}"] = {}
            for server in servers:
                if not server.compared:
                    continue
                try:
                    row[server.name] = extra.memory(server, count, offer=offer)
                except (*FAILURES, extra.NotPossible) as error:
                    _note(results, f"memory {count}", server, error)
            say(f"KiB for each of {count} idle, {'with' if offer else 'without'} a browser's offer: "
                + summary({name: figure["after echo"] for name, figure in row.items()}))  # fmt: skip


def _note(results: Results, where: str, server: Server, error: Exception) -> None:
    """Say all of it, and keep the first line: the rest is what a server printed."""
    say(f"{server.name}, {where}: {type(error).__name__}: {error}")
    results["failures"].setdefault(where, {})[server.name] = described(error)


def described(error: Exception) -> str:
    """What was seen, in a line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def summary(figures: dict[str, float]) -> str:
    """One line: the first one's figure, and the ratios of the others to it."""
    names = list(figures)
    if not names:
        return "nothing"
    first = figures[names[0]]
    return f"{names[0]} {first:.3g}; " + ", ".join(f"{name} x{figures[name] / first:.2f}" for name in names[1:])
